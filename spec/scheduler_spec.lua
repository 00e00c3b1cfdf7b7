local core = require "integrations.core"
local process = require "spec.support.process"
local scheduler = require "integrations.scheduler"
local task = require "integrations.task"

-- A scheduler in a time that passes only by its sleeps, and the time that it was told to sleep.
local function new()
  local clock = { moment = 100, sleeps = {} }
  local turns = scheduler.new {
    now = function() return clock.moment end,
    sleep = function(seconds)
      clock.sleeps[#clock.sleeps + 1] = seconds
      clock.moment = clock.moment + seconds
    end,
  }
  return turns, clock
end

-- A source whose answers come at their moments, and the time that it was given for each.
local function new_source(clock)
  local source = { runs = {}, delivered = 0, waiting = {} }
  function source.run(_, timeout_ms)
    source.runs[#source.runs + 1] = timeout_ms
    clock.moment = clock.moment + timeout_ms / 1000
  end
  function source.deliver()
    source.delivered = source.delivered + 1
    for one, moment in pairs(source.waiting) do
      if clock.moment >= moment then
        source.waiting[one] = nil
        one:wake()
      end
    end
  end
  function source.answer_after(_, seconds)
    local current = task.current()
    source.waiting[current] = clock.moment + seconds
    repeat
      current:wait(source)
    until not source.waiting[current]
  end
  return source
end

local function start(turns, bodies)
  local ended = {}
  for i, body in ipairs(bodies) do
    turns:start(body, function(_, ok, value, extra)
      ended[#ended + 1] = { i, ok, value, extra }
    end)
  end
  return ended
end

local function run(turns, bodies)
  local ended = start(turns, bodies)
  while #ended < #bodies do
    turns:pause()
    turns:resume()
  end
  return ended
end

describe("integrations.scheduler", function()
  it("gives what a task returned, or what it raised as it was raised", function()
    local raised = {}
    local ended = run(new(), {
      function() return 1, 2, 3 end,
      function() error(raised) end,
      function() error("words", 0) end,
      function() end,
    })
    assert.same({ { 1, true, 1, 2 }, { 2, false, raised }, { 3, false, "words" }, { 4, true } }, ended)
    assert.equal(raised, ended[2][3])
  end)

  it("gives each task its turn, in the order in which they can go on", function()
    local order = {}
    local bodies = {}
    for i = 1, 3 do
      bodies[i] = function()
        for turn = 1, 2 do
          order[#order + 1] = i * 10 + turn
          coroutine.yield()
        end
      end
    end
    run(new(), bodies)
    assert.same({ 11, 21, 31, 12, 22, 32 }, order)
  end)

  it("resumes a task after a yield of the caller's own, with nothing", function()
    local got
    run(new(), { function() got = { n = select("#", coroutine.yield("mine", 1)) } end })
    assert.same({ n = 0 }, got)
  end)

  it("wakes by time, those of one moment in the order in which they came", function()
    local order = {}
    local bodies = {}
    for i, seconds in ipairs { 3, 1, 2, 1, 3, 1 } do
      bodies[i] = function()
        task.current():wait(nil, seconds)
        order[#order + 1] = i
      end
    end
    local turns, clock = new()
    run(turns, bodies)
    assert.same({ 2, 4, 6, 3, 1, 5 }, order)
    assert.equal(103, clock.moment)
  end)

  it("keeps its timers in order, whichever of them are woken before", function()
    local turns, clock = new()
    local started, woken, late = {}, {}, 0
    local state = 42
    local function random(most)
      state = (state * 16807) % 2147483647
      return state % most + 1
    end
    for i = 1, 500 do
      local due = 100 + random(100)
      started[i] = turns:start(function()
        task.current():wait(nil, due - 100)
        late = late + ((clock.moment ~= due and not woken[i]) and 1 or 0)
      end, function() started[i] = nil end)
    end
    turns:resume()
    while next(started) do
      local i = random(500)
      if started[i] then
        woken[i] = true
        started[i]:wake()
      end
      turns:pause()
      turns:resume()
    end
    assert.equal(0, late)
    assert.same({}, turns.timers)
  end)

  it("sleeps in turns of a second at most, so that a debug hook has its own", function()
    local turns, clock = new()
    run(turns, { function() task.current():wait(nil, 2.5) end })
    assert.same({ 1, 1, 0.5 }, clock.sleeps)
  end)

  it("does not sleep longer than it is asked to", function()
    local turns, clock = new()
    start(turns, { function() task.current():wait(nil, 10) end })
    turns:resume()
    turns:pause(0.25)
    assert.same({ 0.25 }, clock.sleeps)
  end)

  it("says so where all wait and nothing is left that could wake one", function()
    local turns = new()
    start(turns, { function() task.current():wait() end })
    turns:resume()
    assert.error_matches(function() turns:pause() end, "every task waits", 1, true)
  end)

  describe("runs a source that is waited for", function()
    it("until the next timer, or for a second", function()
      local turns, clock = new()
      local source = new_source(clock)
      run(turns, {
        function() source:answer_after(2.25) end,
        function() task.current():wait(nil, 0.5) end,
      })
      assert.same({ 500, 1000, 1000 }, source.runs)
      assert.same({}, clock.sleeps)
    end)

    it("without waiting while a task can go on", function()
      local turns, clock = new()
      local source = new_source(clock)
      run(turns, {
        function() source:answer_after(0.5) end,
        function() coroutine.yield() coroutine.yield() end,
      })
      assert.same({ 0, 0, 1000 }, source.runs)
    end)

    it("rounds up, so that it does not run in circles before a timer", function()
      local turns, clock = new()
      local source = new_source(clock)
      run(turns, {
        function() source:answer_after(0.001) end,
        function() task.current():wait(nil, 0.0001) end,
      })
      assert.same({ 1 }, source.runs)
    end)

    it("one of them, and delivers what each has", function()
      local turns, clock = new()
      local sources = { new_source(clock), new_source(clock) }
      run(turns, {
        function() sources[1]:answer_after(1) end,
        function() sources[2]:answer_after(1) end,
        function() sources[2]:answer_after(1) end,
      })
      assert.equal(1, #sources[1].runs + #sources[2].runs)
      -- Before and after: a call that blocked may have moved the bytes of others.
      assert.same({ 2, 2 }, { sources[1].delivered, sources[2].delivered })
    end)

    it("no longer than that", function()
      local turns, clock = new()
      local source = new_source(clock)
      run(turns, { function()
        source:answer_after(1)
        task.current():wait(nil, 1)
      end })
      assert.equal(1, #source.runs)
      assert.same({ 1 }, clock.sleeps)
      assert.is_nil(next(turns.sources))
    end)
  end)

  it("closes the variables of a task that raised, where Lua has <close>", function()
    local ok, body = pcall(load, [[
      local on_close = ...
      local guard <close> = setmetatable({}, { __close = on_close })
      error "raised"
    ]])
    if not (ok and body) then
      return
    end
    local closed = 0
    run(new(), { function() body(function() closed = closed + 1 end) end })
    assert.equal(1, closed)
  end)

  it("costs no more for each event where there are many tasks", function()
    local function cost(count)
      local turns, clock = new()
      local source = new_source(clock)
      source.deliver = function() end
      local live = count
      local function body()
        task.current():wait(nil, 1 + live % 7)
        coroutine.yield()
        task.current():wait(source, 1)
      end
      local started = os.clock()
      for _ = 1, count do
        turns:start(body, function() live = live - 1 end)
      end
      while live > 0 do
        turns:pause()
        turns:resume()
      end
      return (os.clock() - started) / count
    end
    local few = math.max(cost(1000), cost(1000))
    assert.is_true(cost(20000) < 15 * math.max(few, 2e-6))
  end)

  it("keeps real time", function()
    process.patiently(function(scale)
      local started = core.now()
      run(scheduler.new(), {
        function() task.current():wait(nil, 0.05 * scale) end,
        function() task.current():wait(nil, 0.1 * scale) end,
      })
      local took = (core.now() - started) / scale
      assert.is_true(took >= 0.1, took)
      return took >= 0.14 and ("took %.3f s"):format(took) or nil -- one after the other: 0.15
    end)
  end)
end)
