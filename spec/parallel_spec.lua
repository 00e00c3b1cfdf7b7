package.path = "./spec/?.lua;" .. package.path

local core = require "integrations.core"
local nginx = require "support.nginx"
local pages = require "support.nginx_pages"
local parallel = require "integrations.parallel"
local process = require "spec.support.process"
local sendgrid = require "integrations.sendgrid"
local task = require "integrations.task"
local upstream_server = require "support.nginx_upstream"

local eventually = nginx.eventually
local is_lua51 = _VERSION == "Lua 5.1" and not rawget(_G, "jit")

-- A time that passes only while every task waits.
local moment

local function sleep(seconds)
  moment = moment + seconds
end

-- What takes time in these specs: a task waits, and anybody else blocks.
local function work(seconds)
  local current = task.current()
  if current then
    current:sleep(seconds)
  else
    sleep(seconds)
  end
end

local function numbers(count)
  local list = {}
  for i = 1, count do
    list[i] = i
  end
  return list
end

-- A transport whose answers take a second, and that can be interrupted as libcurl's can.
local function new_transport(answer_of)
  local transport = { requests = {} }
  function transport.send(_, request)
    table.insert(transport.requests, request)
    local answer = answer_of and answer_of(#transport.requests)
    work(answer and answer.seconds or 1)
    local running = task.running()
    if running and running.cancelled then
      return nil, { code = "CANCELLED", message = running.cancelled, sent = true }
    end
    return answer or { status = 200, body = '{"result":[]}' }
  end
  function transport.sleep(_, seconds)
    work(seconds)
  end
  return transport
end

local function new_client(transport, options)
  local given = { api_key = "SG.test.canary", transport = transport, timeout = 1000 }
  for name, value in pairs(options or {}) do
    given[name] = value
  end
  return assert(sendgrid.new(given))
end

describe("integrations.parallel", function()
  local now, core_sleep = core.now, core.sleep

  before_each(function()
    moment = 1000
    core.now, core.sleep = function() return moment end, sleep
  end)

  after_each(function()
    core.now, core.sleep = now, core_sleep
  end)

  describe("refuses", function()
    local cases = {
      { { nil, print }, "items must be an array, not a nil" },
      { { "ids", print }, "items must be an array, not a string" },
      { { parallel, {}, print }, "call it with a dot: parallel.map" },
      { { {} }, "a function must come after the items, not a nil" },
      { { {}, {} }, "a function must come after the items, not a table" },
      { { { 1, nil, 3 }, print }, "items must be an array without holes: items[2] is nil" },
      { { { [2] = 1 }, print }, "items must be an array without holes: items[1] is nil" },
      { { { 1, [1.5] = 1 }, print }, "items must be an array without holes: items[2] is nil" },
      { { {}, print, 8 }, "options must be a table, not a number" },
      { { {}, print, { limits = 8 } }, 'unknown option "limits"' },
      { { {}, print, { 8 } }, 'unknown option "1"' },
      { { {}, print, { limit = 0 } }, "limit must be a whole number of at least 1" },
      { { {}, print, { limit = 1.5 } }, "limit must be a whole number of at least 1" },
      { { {}, print, { limit = 0 / 0 } }, "limit must be a whole number of at least 1" },
      { { {}, print, { limit = "8" } }, "limit must be a whole number of at least 1" },
      { { {}, print, { timeout = 0 } }, "timeout must be a number of seconds above 0" },
      { { {}, print, { timeout = 0 / 0 } }, "timeout must be a number of seconds above 0" },
      { { {}, print, { timeout = "1" } }, "timeout must be a number of seconds above 0" },
      { { {}, print, { on_progress = true } }, "on_progress must be a function" },
    }
    for _, case in ipairs(cases) do
      it(case[2] .. ", where it was called", function()
        local arguments = case[1]
        local ok, message = pcall(function()
          parallel.map(arguments[1], arguments[2], arguments[3])
        end)
        assert.is_false(ok)
        assert.truthy(message:find("^spec/parallel_spec.lua:%d+: "), message)
        assert.equal(case[2], (message:gsub("^[^ ]+ ", "")))
      end)
    end
  end)

  describe("gives", function()
    it("results in the order of the items, whichever ended first", function()
      local results = parallel.map({ 3, 1, 2 }, function(seconds, index)
        work(seconds)
        return seconds * 10, index
      end)
      assert.same({
        { item = 3, ok = true, value = 30, extra = 1 },
        { item = 1, ok = true, value = 10, extra = 2 },
        { item = 2, ok = true, value = 20, extra = 3 },
        ok = true,
      }, results)
      assert.equal(1003, moment)
    end)

    it("nothing for nothing, without a word", function()
      local told = 0
      local results = parallel.map({}, error, { on_progress = function() told = told + 1 end, timeout = 1 })
      assert.same({ ok = true }, results)
      assert.equal(0, told)
    end)

    it("what came after nil or false, and what was raised, each beside its item", function()
      local no_reason = select(2, pcall(error)) -- nil, but for Lua 5.5, which has words for it
      local raised = setmetatable({}, { __tostring = function() return "a table" end })
      local bodies = {
        function() return nil, "a reason" end,
        function() return false, raised end,
        function() end,
        function() error(raised) end,
        function() error("words", 0) end,
        function() error() end,
        function() return true end,
      }
      local results = parallel.map(bodies, function(body)
        work(1)
        return body()
      end)
      assert.is_false(results.ok)
      assert.is_nil(results.cancelled)
      local expected = {
        { false, "a reason" }, { false, raised }, { true }, { false, raised, true }, { false, "words", true },
        { false, no_reason, true }, { true, value = true },
      }
      for i, result in ipairs(results) do
        assert.same({ bodies[i], expected[i].value }, { result.item, result.value })
        assert.same(expected[i][1], result.ok)
        assert.equal(expected[i][2], result.failure)
        assert.equal(expected[i][3], result.raised)
      end
    end)

    it("the items that it was given, whatever becomes of the array", function()
      local items = { 1, 2, 3 }
      local results = parallel.map(items, function(item)
        items[3] = nil
        items[4] = "late"
        return item
      end, { limit = 1 })
      assert.same({ 3, 3 }, { #results, results[3].value })
    end)

    it("a function's error no more than its own words, with its place", function()
      local results = parallel.map({ 1 }, function() error "words" end)
      assert.truthy(results[1].failure:find("^spec/parallel_spec.lua:%d+: words$"))
    end)

    it("what a callable table returns", function()
      local callable = setmetatable({}, { __call = function(_, item) return item end })
      assert.equal(7, parallel.map({ 7 }, callable)[1].value)
    end)
  end)

  it("catches an error by pcall, on Lua 5.1 by waiting in it for itself alone", function()
    local results = parallel.map({ 1, 2 }, function()
      local ok = pcall(function()
        work(1)
        error "inside"
      end)
      return not ok
    end)
    assert.is_true(results.ok)
    assert.equal(is_lua51 and 1002 or 1001, moment)
  end)

  describe("at once", function()
    local function most_in_flight(count, options)
      local flying, most = 0, 0
      parallel.map(numbers(count), function(i)
        flying = flying + 1
        most = math.max(most, flying)
        work(i % 3)
        coroutine.yield()
        flying = flying - 1
      end, options)
      return most
    end

    it("has no more items under way than the limit", function()
      assert.equal(16, most_in_flight(100))
      assert.equal(1, most_in_flight(20, { limit = 1 }))
      assert.equal(7, most_in_flight(100, { limit = 7 }))
      assert.equal(5, most_in_flight(5, { limit = 1000 }))
    end)

    it("takes as long as one where all fit", function()
      local sg = new_client(new_transport())
      local results = parallel.map(numbers(50), function() return sg.integrations:list() end, { limit = 50 })
      assert.is_true(results.ok)
      assert.equal(1001, moment)
    end)
  end)

  it("lets others go on where the function yields for reasons of its own", function()
    local order = {}
    parallel.map({ "a", "b" }, function(name)
      for i = 1, 2 do
        order[#order + 1] = name .. i
        coroutine.yield "for the caller's own loop"
      end
    end)
    assert.same({ "a1", "b1", "a2", "b2" }, order)
  end)

  describe("on_progress", function()
    it("is called once for each item, with all of them", function()
      local told = {}
      parallel.map(numbers(5), function(i) work(i % 2) end, { limit = 2, on_progress = function(...)
        told[#told + 1] = table.concat({ ... }, "/")
      end })
      assert.same({ "1/5", "2/5", "3/5", "4/5", "5/5" }, told)
    end)

    it("cancels by false, and by nothing else", function()
      for _, answer in ipairs { { false, 1 }, { nil, 4 }, { 0, 4 }, { "no", 4 } } do
        local function count(results)
          assert.equal(answer[1] == false and "on_progress" or nil, results.cancelled)
          local begun = 0
          for _, result in ipairs(results) do
            begun = begun + (result.ok and 1 or 0)
          end
          assert.equal(answer[2], begun)
        end
        local told = 0
        local function map()
          return parallel.map(numbers(4), function() return true end, { limit = 1, on_progress = function()
            told = told + 1
            return answer[1]
          end })
        end
        count(map())
        assert.equal(answer[2], told)
        count(parallel.map({ 1 }, map)[1].value)
      end
    end)

    it("ends the run by an error, which is told beside the results, once what has begun has ended", function()
      local raised, ended = {}, 0
      local results = parallel.map(numbers(10), function(i)
        work(i)
        ended = ended + 1
        return i
      end, { limit = 3, on_progress = function() error(raised) end })
      assert.equal(3, ended)
      assert.same({ false, "error", 1, "cancelled" },
        { results.ok, results.cancelled, results[1].value, results[10].failure.kind })
      assert.equal(raised, results.error)
      assert.equal(1001, moment)
    end)
  end)

  describe("ends the run by an error of whoever drives it", function()
    it("such as a debug hook's", function()
      local ended = 0
      core.sleep = function(seconds)
        sleep(seconds)
        if moment >= 1002 then
          core.sleep = sleep
          error("interrupted!", 0)
        end
      end
      local slept = core.sleep
      core.sleep = function(...) return slept(...) end
      local ok, got = pcall(parallel.map, numbers(10), function()
        work(5)
        ended = ended + 1
      end, { limit = 3 })
      assert.same({ false, "interrupted!", 3 }, { ok, got, ended })
    end)

    it("at once where it comes again", function()
      core.sleep = function() error("interrupted!", 0) end
      local stubborn = 0
      local ok, got = pcall(parallel.map, { 1 }, function()
        work(5)
        stubborn = stubborn + 1
        local current = task.current()
        current.driver:suspend(current, nil, 5)
        stubborn = stubborn + 1
      end)
      assert.same({ false, "interrupted!", 1 }, { ok, got, stubborn })
    end)

    it("wherever it comes: what has begun comes to its end", function()
      if rawget(_G, "jit") then
        return -- compiled code asks no hook
      end
      local lost = {}
      for instructions = 10, process.instrumented and 500 or 2500 do
        local begun, ended = 0, 0
        local function map()
          debug.sethook(function()
            debug.sethook()
            error("interrupted!", 0)
          end, "", instructions)
          parallel.map({ 1, 2, 3 }, function()
            begun = begun + 1
            local current = task.current()
            while not current.cancelled do
              current:wait(nil, 1)
              coroutine.yield()
            end
            ended = ended + 1
          end)
        end
        local ok, got = pcall(map)
        debug.sethook()
        if ok or got ~= "interrupted!" or begun ~= ended then
          lost[#lost + 1] = ("%d: %s, %d of %d"):format(instructions, tostring(got), ended, begun)
        end
      end
      assert.same({}, lost)
    end)
  end)

  describe("cancelled", function()
    local function kinds(results)
      local list = {}
      for i, result in ipairs(results) do
        local failed = result.failure
        list[i] = result.ok and "ok"
          or ("%s %s %d %s"):format(failed.kind, failed.outcome, failed.attempts, failed.operation)
      end
      return list
    end

    local input = {
      destination = "Segment", filters = { email_events = { "open" } },
      properties = { write_key = "a-write-key", destination_region = "EU" },
    }

    it("fails what has not started, and ends the calls that wait for an answer by what was sent", function()
      local sg = new_client(new_transport(function(number)
        return { status = 200, body = '{"result":[]}', seconds = number == 1 and 1 or 100 }
      end))
      local results = parallel.map(numbers(5), function(i)
        if i == 2 then
          return sg.integrations:create(input)
        end
        return sg.integrations:list()
      end, { limit = 3, timeout = 5 })
      assert.equal("timeout", results.cancelled)
      assert.is_false(results.ok)
      assert.same({
        "ok", "cancelled unknown 1 integrations.create", "cancelled not_applied 1 integrations.list",
        "cancelled not_applied 1 integrations.list", "cancelled not_applied 0 parallel.map",
      }, kinds(results))
      assert.equal("parallel.map: cancelled (not_applied): the parallel run that this belongs to was cancelled "
        .. "(timeout)", tostring(results[5].failure))
      assert.equal("integrations.create: cancelled (CANCELLED, unknown): the parallel run that this belongs to was "
        .. "cancelled (timeout); it may have been applied: look before you repeat it",
        tostring(results[2].failure))
      assert.equal(1005, moment)
    end)

    it("ends the wait for the next attempt at once", function()
      local transport = new_transport(function()
        return { status = 429, headers = { ["retry-after"] = "60" }, seconds = 1 }
      end)
      local sg = new_client(transport)
      local results = parallel.map({ 1 }, function() return sg.integrations:create(input) end, { timeout = 10 })
      assert.same({ "cancelled not_applied 1 integrations.create" }, kinds(results))
      assert.same({ 1010, 1 }, { moment, #transport.requests })
    end)

    it("ends the wait for the rate limit at once", function()
      local transport = new_transport(function()
        return { status = 200, body = '{"result":[]}', seconds = 1, headers = {
          ["x-ratelimit-limit"] = "1", ["x-ratelimit-remaining"] = "0", ["x-ratelimit-reset"] = "60",
        } }
      end)
      local sg = new_client(transport)
      local results = parallel.map({ 1, 2 }, function() return sg.integrations:list() end, { limit = 1, timeout = 10 })
      assert.same({ "ok", "cancelled not_applied 0 integrations.list" }, kinds(results))
      assert.same({ 1010, 1 }, { moment, #transport.requests })
    end)

    it("sends nothing more in what goes on all the same, wherever it asks", function()
      local transport = new_transport()
      local events = {}
      local sg = new_client(transport, { on_event = function(event) events[#events + 1] = event.name end })
      local list, of_sort
      local results = parallel.map({ 1 }, function()
        work(10)
        list = select(2, sg.integrations:list())
        table.sort({ 1, 2 }, function(a, b)
          of_sort = select(2, sg.integrations:list())
          return a < b
        end)
        return parallel.map({ 1 }, function() return sg.integrations:list() end)[1].failure
      end, { timeout = 1 })
      assert.same({ "cancelled", 0 }, { list.kind, list.attempts })
      assert.equal("cancelled", of_sort.kind)
      assert.equal("cancelled", results[1].value.kind)
      assert.same({}, transport.requests)
      assert.same({ "failure", "failure" }, events)
    end)

    it("keeps the results of what has ended", function()
      local results = parallel.map(numbers(4), function(i) work(i) return i end, { limit = 4, timeout = 2.5 })
      assert.same({ true, true, true, true }, { results[1].ok, results[2].ok, results[3].ok, results[4].ok })
      assert.equal("timeout", results.cancelled)
      assert.equal(1002.5, moment)
    end)

    it("tells on_progress no more", function()
      local told = 0
      parallel.map(numbers(9), function(i) work(i) return true end, { limit = 3, on_progress = function()
        told = told + 1
        return told < 2
      end })
      assert.equal(2, told)
    end)

    it("is not what a run is that ended in time", function()
      local results = parallel.map(numbers(3), function() work(1) return true end, { timeout = 2 })
      assert.is_nil(results.cancelled)
      assert.is_true(results.ok)
    end)
  end)

  describe("inside of another", function()
    it("has its turns among all others", function()
      local results = parallel.map({ 1, 2, 3 }, function(i)
        return parallel.map(numbers(4), function(j)
          work(1)
          return i * j
        end)
      end)
      assert.equal(1001, moment)
      assert.equal(12, results[3].value[4].value)
    end)

    it("has a limit, an on_progress and a timeout of its own", function()
      local told = {}
      local results = parallel.map({ 1, 2 }, function(i)
        return parallel.map(numbers(4), function() work(1) return true end, {
          limit = i, timeout = 2.5, on_progress = function(done) told[#told + 1] = i .. "." .. done end,
        })
      end)
      assert.same({ "timeout" }, { results[1].value.cancelled })
      assert.same({ true, true, true, false },
        { results[1].value[1].ok, results[1].value[2].ok, results[1].value[3].ok, results[1].value[4].ok })
      assert.is_nil(results[2].value.cancelled)
      assert.is_true(results[2].value.ok)
      table.sort(told)
      assert.same({ "1.1", "1.2", "2.1", "2.2", "2.3", "2.4" }, told)
      assert.equal(1002.5, moment)
    end)

    it("is cancelled with it, and waits for the end of what has begun", function()
      local inner, ended = nil, 0
      local results = parallel.map({ 1, 2 }, function()
        inner = parallel.map(numbers(4), function()
          work(100)
          ended = ended + 1
          return not task.current().cancelled
        end, { limit = 2 })
        return inner.ok
      end, { limit = 1, timeout = 3 })
      assert.same({ "timeout", "timeout", 2, 4 }, { results.cancelled, inner.cancelled, ended, #inner })
      assert.equal("cancelled", inner[4].failure.kind)
      assert.equal(1003, moment)
    end)

    it("leaves the outer one alone with an error in its on_progress", function()
      local raised = {}
      local results = parallel.map({ 1, 2 }, function(i)
        return parallel.map(numbers(3), function() work(1) end, {
          on_progress = i == 1 and function() error(raised) end or nil,
        })
      end)
      assert.equal(raised, results[1].value.error)
      assert.is_true(results[2].value.ok)
    end)

    it("works by itself where the task cannot yield", function()
      local results = parallel.map({ 1, 2 }, function()
        local inner
        table.sort({ 1, 2 }, function(a, b)
          inner = parallel.map({ 1, 2 }, function() work(1) return true end)
          return a < b
        end)
        return inner.ok
      end)
      assert.is_true(results.ok)
      assert.equal(1002, moment)
    end)
  end)

  it("may be called in a coroutine of the caller's own, which it does not suspend", function()
    local results = coroutine.wrap(function()
      return parallel.map({ 1, 2 }, function(i) work(1) return i end)
    end)()
    assert.is_true(results.ok)
  end)

  it("takes no longer for an item where there are many", function()
    core.now, core.sleep = now, core_sleep
    local function cost(count)
      local items = numbers(count)
      local started = os.clock()
      local results = parallel.map(items, function(i)
        coroutine.yield()
        return i
      end)
      assert.is_true(results.ok and results[count].value == count)
      return (os.clock() - started) / count
    end
    local few = math.max(cost(1000), cost(1000))
    assert.is_true(cost(process.instrumented and 10000 or 100000) < 10 * math.max(few, 2e-6))
  end)

  it("holds no more than its results", function()
    core.now, core.sleep = now, core_sleep
    local alive = setmetatable({}, { __mode = "k" })
    local most = 0
    parallel.map(numbers(5000), function(i)
      alive[coroutine.running()] = true
      coroutine.yield()
      if i % 1000 == 0 then
        collectgarbage()
        collectgarbage()
        local count = 0
        for _ in pairs(alive) do
          count = count + 1
        end
        most = math.max(most, count)
      end
    end, { limit = 10 })
    assert.is_true(most <= 12)
  end)
end)

if pages.is_watched then
  return pages.report "nobody watches its processes; what they do is left to make test"
end

-- In all pages: the modules, an array of numbers, and what takes time.
local PRELUDE = [[
  local parallel, task = require "integrations.parallel", require "integrations.task"
  local function numbers(count)
    local list = {}
    for i = 1, count do list[i] = i end
    return list
  end
  local function kinds(results)
    local list = {}
    for i, result in ipairs(results) do
      list[i] = result.ok and "ok" or result.raised and "raised" or result.failure.kind .. " " .. result.failure.outcome
    end
    return table.concat(list, ", ")
  end
]]

-- What is done inside, and what must come of it.
local inside_cases = {
  { "gives results in the order of the items, in the time that the limit allows", [[
    local client = inside.client { base_url = argument.base_url .. "/after/100" }
    local most, flying = 0, 0
    local begun = ngx.now()
    local results = parallel.map(numbers(12), function(i)
      flying = flying + 1
      most = math.max(most, flying)
      assert(client.integrations:list())
      flying = flying - 1
      return i * 10
    end, { limit = 4 })
    ngx.update_time()
    local took = ngx.now() - begun
    took = took > 0.28 and took < 0.8 and "fast" or took
    return table.concat({ results[1].value, results[12].value, most, took }, " ")
  ]], "10 120 4 fast" },
  { "keeps an error with its item", [[
    local results = parallel.map(numbers(4), function(i)
      ngx.sleep(0.01)
      if i == 2 then error({ "raised" }) elseif i == 3 then return nil, { kind = "no", outcome = "x" } end
      return pcall(function() task.current():sleep(0.01) end)
    end)
    return kinds(results) .. " " .. results[2].failure[1]
  ]], "ok, raised, no x, ok raised" },
  { "tells of progress, which cancels before another item begins", [[
    local told = {}
    local results = parallel.map(numbers(5), function() ngx.sleep(0.01) return true end, { limit = 1,
      on_progress = function(done, total)
        told[#told + 1] = done .. "/" .. total
        return done < 2
      end })
    return table.concat(told, " ") .. " " .. results.cancelled .. ": " .. kinds(results)
  ]], "1/5 2/5 on_progress: ok, ok, cancelled not_applied, cancelled not_applied, cancelled not_applied" },
  { "tells what on_progress raises beside the results, once what has begun has ended", [[
    local ended = 0
    local results = parallel.map(numbers(9), function() ngx.sleep(0.01) ended = ended + 1 end, { limit = 3,
      on_progress = function() error({ "raised" }) end })
    return ("%s %s %d"):format(results.cancelled, results.error[1], ended)
  ]], "error raised 3" },
  { "fails calls, and not the worker, where nothing can wait", [[
    local results
    table.sort({ 2, 1 }, function(a, b)
      results = parallel.map(numbers(2), function() return inside.client().integrations:list() end)
      return a < b
    end)
    return results[1].failure.kind .. " " .. results[2].failure.kind
  ]], "invalid invalid" },
  { "may have all the time there is", [[
    local results = parallel.map(numbers(2), function() ngx.sleep(0.01) return true end, { timeout = math.huge })
    return tostring(results.ok)
  ]], "true" },
  { "ends calls that wait for an answer by what was sent, and fails the others", [[
    local client = inside.client { base_url = argument.base_url .. "/after/5000" }
    local begun = ngx.now()
    local results = parallel.map(numbers(4), function(i)
      if i == 1 then return client.integrations:delete "x" end
      return client.integrations:list()
    end, { limit = 2, timeout = 0.3 })
    ngx.update_time()
    assert(ngx.now() - begun < 2)
    return kinds(results)
  ]], "cancelled unknown, cancelled not_applied, cancelled not_applied, cancelled not_applied" },
  { "ends a wait for the next attempt", [[
    local client = inside.client { transport = { send = function()
      ngx.sleep(0.01)
      return { status = 429, headers = { ["retry-after"] = "20" } }
    end } }
    return kinds(parallel.map(numbers(3), function() return client.integrations:list() end, { timeout = 0.1 }))
  ]], "cancelled not_applied, cancelled not_applied, cancelled not_applied" },
  { "nests", [[
    local begun = ngx.now()
    local results = parallel.map(numbers(3), function(i)
      local inner = parallel.map(numbers(4), function(j) ngx.sleep(0.1) return i * j end)
      return inner[4].value
    end)
    ngx.update_time()
    return results[3].value .. (ngx.now() - begun < 0.3 and " fast" or " slow")
  ]], "12 fast" },
  { "takes those along that its tasks have made", [[
    local inner
    local results = parallel.map({ 1 }, function()
      inner = parallel.map(numbers(4), function()
        task.current():sleep(10)
        return not task.current().cancelled, { kind = "stopped", outcome = task.current().cancelled }
      end, { limit = 2 })
      return inner.ok, inner[1].failure
    end, { timeout = 0.1 })
    return kinds(results) .. "; " .. inner.cancelled .. ": " .. kinds(inner)
  ]], "stopped timeout; timeout: stopped timeout, stopped timeout, cancelled not_applied, cancelled not_applied" },
  { "knows a task by its coroutine alone, and where it can wait", [[
    local results = parallel.map({ 1 }, function()
      local of_coroutine, of_sort, known
      coroutine.wrap(function() of_coroutine = task.running() end)()
      table.sort({ 1, 2 }, function(a, b)
        of_sort, known = task.current(), task.running()
        return a < b
      end)
      return of_coroutine == nil and of_sort == nil and known == task.current() and known ~= nil
    end)
    return tostring(results.ok) .. tostring(task.running())
  ]], "truenil" },
  { "has a source run that nginx does not drive", [[
    local client = inside.client { base_url = argument.base_url .. "/after/100", transport = "curl" }
    local begun = ngx.now()
    local results = parallel.map(numbers(6), function() return client.integrations:list() end)
    ngx.update_time()
    return kinds(results) .. (ngx.now() - begun < 0.4 and " fast" or " slow")
  ]], "ok, ok, ok, ok, ok, ok fast" },
  { "shares a rate limit by a dictionary", [[
    local began, taken, refused = ngx.now(), 0, 0
    local function send()
      ngx.sleep(0.01)
      ngx.update_time()
      if ngx.now() >= began + 0.3 then began, taken = ngx.now(), 0 end
      taken = taken + 1
      refused = refused + (taken > 20 and 1 or 0)
      return { status = taken > 20 and 429 or 200, body = '{"result":[]}', headers = {
        ["x-ratelimit-limit"] = "20", ["x-ratelimit-remaining"] = tostring(math.max(0, 20 - taken)),
        ["x-ratelimit-reset"] = ("%.3f"):format(began + 0.3 - ngx.now()) } }
    end
    local clients = {}
    for i = 1, 4 do
      clients[i] = inside.client { rate_limit_dict = "limits", transport = { send = send, sleep = function(_, seconds)
        ngx.sleep(seconds)
      end } }
    end
    local results = parallel.map(numbers(100), function(i) return clients[i % 4 + 1].integrations:list() end,
      { limit = 40 })
    return tostring(results.ok) .. (refused <= 24 and " few" or " " .. refused)
  ]], "true few" },
}

-- Where a page's code can be besides content_by_lua, and whether something else goes on meanwhile.
local phases = { "rewrite_by_lua_block", "access_by_lua_block", "log_by_lua_block", "header_filter_by_lua_block" }

describe("integrations.parallel over libcurl", function()
  local server = require "integrations.emulator.server"
  local running

  setup(function()
    running = assert(server.start { locations = [[
      location /v3/marketing/integrations {
        lua_check_client_abort on;
        content_by_lua_block {
          local arrived = package.loaded.arrived or {}
          package.loaded.arrived = arrived
          table.insert(arrived, ngx.req.get_method())
          ngx.on_abort(function()
            package.loaded.aborted = (package.loaded.aborted or 0) + 1
            ngx.exit(499)
          end)
          ngx.sleep(30)
        }
      }
      location = /aborted { content_by_lua_block { ngx.print(package.loaded.aborted or 0) } }
      # Since the last look.
      location = /arrived {
        content_by_lua_block {
          local arrived = package.loaded.arrived or {}
          table.sort(arrived)
          ngx.print(table.concat(arrived, " "))
          package.loaded.arrived = nil
        }
      }
    ]] })
  end)

  teardown(function()
    running:stop()
  end)

  local function ask(path)
    return process.shell("curl -s " .. running.url .. path)
  end

  local function aborted()
    return tonumber(ask "/aborted")
  end

  local function check_in_flight(timeout)
    local sg = assert(sendgrid.new { api_key = "SG.test.canary", base_url = running.url })
    local calls = {
      function()
        return sg.integrations:create { destination = "Segment", filters = { email_events = { "open" } },
          properties = { write_key = "canary0write0key", destination_region = "EU" } }
      end,
      function() return sg.integrations:list() end,
    }
    local before = aborted()
    ask "/arrived"
    local results = parallel.map(calls, function(call) return call() end, { timeout = timeout })
    assert.equal("timeout", results.cancelled)
    assert.same({ "cancelled", "cancelled", "not_applied" },
      { results[1].failure.kind, results[2].failure.kind, results[2].failure.outcome })
    assert.is_nil(next(sg.session.transport.waiting))
    assert.equal(0, sg.session.transport.engine:run(0))
    local arrived = ask "/arrived"
    if results[1].failure.outcome == "not_applied" then assert.falsy(arrived:find "POST") end
    if arrived ~= "GET POST" then
      sg:close()
      return "not both had been sent"
    end
    assert.same({ "unknown", 1 }, { results[1].failure.outcome, results[1].failure.attempts })
    eventually(function() return aborted() >= before + 2 end)
    assert.equal(before + 2, aborted())
    sg:close()
  end

  it("ends calls in flight by what was sent, and their connections", function()
    process.patiently(function(scale) return check_in_flight(0.2 * scale) end)
  end)

  it("ends them where their client is closed", function()
    local sg = assert(sendgrid.new { api_key = "SG.test.canary", base_url = running.url })
    local results = parallel.map({ "list", "close" }, function(name)
      if name == "list" then return sg.integrations:list() end
      task.current():sleep(0.05)
      return sg:close()
    end)
    assert.same({ "closed", true }, { results[1].failure.kind, results[2].ok })
  end)
end)

describe("integrations.parallel in nginx", function()
  local running, upstream

  setup(function()
    upstream = upstream_server.start()
    local locations = {}
    for i, case in ipairs(inside_cases) do
      locations[i] = pages.page("/case" .. i, PRELUDE .. case[2])
    end
    local in_phase = [[
      location = /%s {
        %s {
          local inside, parallel = require "support.nginx_inside", require "integrations.parallel"
          inside.note("%s", function()
            return parallel.map({ 1, 2, 3 }, function(i)
              require("integrations.task").current():sleep(0.05)
              return i
            end, { on_progress = function() end })[3].value
          end)
        }
        %s
      }
    ]]
    local content = 'content_by_lua_block { ngx.say "" }'
    for _, phase in ipairs(phases) do
      table.insert(locations, in_phase:format(phase, phase, phase, content))
    end
    table.insert(locations, ("location = /noted { content_by_lua_block { %s } }"):format(
      [[require("support.nginx_inside").noted()]]))
    table.insert(locations, pages.page("/timer", PRELUDE .. [[
      ngx.timer.at(0, function()
        inside.note("timer", function()
          return parallel.map({ 1 }, function() ngx.sleep(0.01) return 3 end)[1].value
        end)
      end)
      return true
    ]]))
    table.insert(locations, pages.page("/long", PRELUDE .. [[
      return parallel.map(numbers(50), function() task.current():sleep(10) end)
    ]], "lua_check_client_abort on;"))
    table.insert(locations, pages.page("/after", PRELUDE .. [[
      return task.running() == nil and parallel.map(numbers(50), function()
        return task.current() and not task.current().cancelled
      end).ok
    ]]))
    running = pages.start(upstream.url, {
      workers = 1, locations = locations, http = [[
        lua_shared_dict limits 1m;
        init_worker_by_lua_block {
          local inside, parallel = require "support.nginx_inside", require "integrations.parallel"
          inside.note("init_worker", function()
            return parallel.map({ 1, 2, 3 }, function(i)
              require("integrations.task").current():sleep(0.01)
              return i
            end)[3].value
          end)
        }
      ]],
    })
  end)

  teardown(function()
    pages.stop(running)
    upstream:stop()
  end)

  for i, case in ipairs(inside_cases) do
    it(case[1], function()
      assert.equal(case[3], pages.result(running, ("/case%d?base_url=%s"):format(i, upstream.url)))
    end)
  end

  local function noted(name)
    local status, body = running:get("/noted?name=" .. name)
    return status == 200 and body ~= "" and body
  end

  for _, phase in ipairs(phases) do
    it("works in " .. phase, function()
      running:get("/" .. phase)
      local body = eventually(function() return noted(phase) end)
      assert.truthy(body:find('"result":3', 1, true), body)
    end)
  end

  it("works in a timer and when a worker begins", function()
    running:get "/timer"
    for _, name in ipairs { "timer", "init_worker" } do
      local body = eventually(function() return noted(name) end)
      assert.truthy(body:find('"result":3', 1, true), body)
    end
  end)

  it("ends with a request that is aborted, and leaves nothing to the next", function()
    for _ = 1, 5 do
      local request = nginx.ask(running.port, "/long")
      running:get "/ping"
      request:abort()
      running:get "/ping"
      assert.is_true(pages.result(running, "/after"))
    end
  end)
end)
