local scheduler = require "integrations.scheduler"
local task = require "integrations.task"

local is_lua51 = _VERSION == "Lua 5.1" and not rawget(_G, "jit")

-- Runs functions as tasks until all have ended, in a time that passes only while nobody can go on.
local function run(...)
  local moment = 0
  local turns = scheduler.new {
    now = function() return moment end,
    sleep = function(seconds) moment = moment + seconds end,
  }
  local live, started = 0, {}
  for i, body in ipairs { ... } do
    live = live + 1
    started[i] = turns:start(function() return body(started) end, function(_, ok, raised)
      live = live - 1
      assert(ok, raised)
    end)
  end
  while live > 0 do
    turns:pause()
    turns:resume()
  end
  return moment
end

describe("integrations.task", function()
  describe("current", function()
    it("is nil outside of tasks", function()
      assert.is_nil(task.current())
      assert.is_nil(task.running())
      assert.is_true(coroutine.wrap(function() return task.current() == nil and task.running() == nil end)())
    end)

    it("is the same throughout a task, and each task's own", function()
      local first, second, again
      run(function()
        first = task.current()
        first:wait(nil, 1)
        again = task.current()
      end, function()
        second = task.current()
      end)
      assert.is_table(first)
      assert.equal(first, again)
      assert.not_equal(first, second)
      assert.is_nil(task.current())
    end)

    local function iterate(body)
      for _ in function(_, done) if not done then body() return true end end do end -- luacheck: ignore 542
    end
    local function called_by_name(body)
      local callable = setmetatable({}, { __call = function() body() end })
      callable()
    end

    -- where a task asks, whether it is one there, and whether Lua 5.1 lets it be one, too
    local places = {
      { "a function", function(body) body() end, true, true },
      { "a tail call", function(body) return body() end, true, true },
      { "a method", function(body) local it = { go = body } it:go() end, true, true },
      { "a value that is called", called_by_name, true, true },
      { "pcall", function(body) assert(pcall(body)) end, true, false },
      { "xpcall", function(body) assert(xpcall(body, print)) end, true, false },
      { "an iterator", iterate, true, false },
      { "a metamethod", function(body)
        return setmetatable({}, { __index = function() body() return 1 end }).field
      end, true, false },
      { "an operator", function(body)
        return setmetatable({}, { __add = function() body() return 1 end }) + 1
      end, true, false },
      { "a comparison of table.sort", function(body)
        table.sort({ 1, 2 }, function(a, b) body() return a < b end)
      end, false, false },
      { "a replacement of string.gsub", function(body)
        return (("x"):gsub("x", function() body() end))
      end, false, false },
      { "a coroutine of its own", function(body) coroutine.wrap(body)() end, false, false },
    }
    for _, place in ipairs(places) do
      local expected = place[is_lua51 and 4 or 3]
      it(("is %s inside of %s, and can wait where it is there"):format(expected and "there" or "nil", place[1]),
        function()
          local found = {}
          run(function()
            place[2](function()
              local current = task.current()
              found[#found + 1] = current ~= nil
              if current then
                current:wait(nil, 1)
              end
            end)
          end)
          assert.equal(expected, found[1])
        end)
    end

    it("is nil where a task cannot yield, yet it is known that one runs", function()
      local of_sort, of_coroutine
      run(function()
        table.sort({ 1, 2 }, function(a, b)
          of_sort = task.running()
          return a < b
        end)
        coroutine.wrap(function() of_coroutine = task.running() end)()
      end)
      assert.is_table(of_sort)
      assert.is_nil(of_coroutine)
    end)
  end)

  describe("wait", function()
    it("ends when the time has passed", function()
      assert.equal(3, run(function() task.current():wait(nil, 3) end))
    end)

    it("ends when it is woken, once, however often", function()
      local waits = 0
      local moment = run(function()
        for _ = 1, 2 do
          task.current():wait(nil, 10)
          waits = waits + 1
        end
      end, function(started)
        task.current():wait(nil, 1)
        started[1]:wake()
        started[1]:wake()
        assert.equal(0, waits)
        task.current():wait(nil, 1)
        assert.equal(1, waits)
      end)
      assert.equal(11, moment)
    end)

    it("does not begin in a task that is cancelled", function()
      assert.equal(0, run(function()
        task.current():cancel "enough"
        task.current():wait(nil, 10)
        task.current():sleep(10)
      end))
    end)

    it("is not hurt by who wakes a task that does not wait, or has ended", function()
      assert.equal(2, run(function() end, function(started)
        task.current():wake()
        task.current():wait(nil, 2)
        started[1]:wake()
        started[1]:cancel "late"
      end))
    end)
  end)

  it("sleeps to the end, whoever wakes it", function()
    local slept
    run(function(started)
      started[1]:sleep(5)
      slept = started[2].ended
    end, function(started)
      for _ = 1, 3 do
        task.current():wait(nil, 1)
        started[1]:wake()
      end
      started[2].ended = true
    end)
    assert.is_true(slept)
  end)

  describe("cancel", function()
    it("ends a wait, by the interrupt where there is one", function()
      local interrupted = 0
      local moment = run(function(started)
        started[1].interrupt = function() interrupted = interrupted + 1 end
        started[1]:wait(nil, 100)
        assert.equal("enough", started[1].cancelled)
      end, function(started)
        task.current():wait(nil, 1)
        started[1]:cancel "enough"
        started[1]:cancel "once more"
      end)
      assert.same({ 1, 1 }, { moment, interrupted })
    end)
  end)

  it("is forgotten with its coroutine, whether it has ended or not", function()
    local kept = setmetatable({}, { __mode = "k" })
    local turns = scheduler.new()
    for _ = 1, 10 do
      kept[turns:start(function() task.current():wait(nil, 100) end, function() end)] = true
      kept[turns:start(function() end, function() end)] = true
    end
    turns:resume()
    turns = nil -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(kept))
  end)

  it("of an aborted request is not taken for that of the next one on the same coroutine", function()
    local function work() end
    local thread = coroutine.create(function() return task.running() end)
    local stale = task.new(thread, {}, work)
    assert.same({ true }, { coroutine.resume(thread) })
    assert.is_table(stale)
  end)
end)
