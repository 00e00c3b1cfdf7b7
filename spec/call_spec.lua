local call = require "integrations.call"
local core = require "integrations.core"
local fake_transport = require "spec.support.fake_transport"
local failure = require "integrations.failure"
local retry = require "integrations.retry"
local task = require "integrations.task"

-- An operation whose body is the result; a status from 400 on is a failure.
local function read(_, operation, response)
  if response.status < 300 and response.body ~= "unreadable" then
    return response.body
  end
  local kind = response.status == 429 and "rate_limited" or response.status >= 500 and "server" or "rejected"
  if response.status < 300 then
    kind = "protocol"
  end
  return nil, failure.new {
    kind = kind, operation = operation.name, status = response.status, message = "no",
    retry_after = tonumber(response.headers and response.headers["retry-after"]),
  }
end

local safe = { name = "things.list", safe = true, read = read }
local write = { name = "things.create", safe = false, read = read }
local idempotent = { name = "things.update", safe = false, idempotent = true, read = read }

local function new_session(transport)
  return { transport = transport, timeout = 5, max_attempts = 3, now = core.now, budget = retry.new_budget() }
end

local function perform(operation, answers, options)
  local transport = fake_transport.new(answers)
  local session = new_session(transport)
  for name, value in pairs(options or {}) do
    session[name] = value
  end
  local result, failed = call.perform(session, operation, { method = "GET", url = "http://127.0.0.1/x" })
  return result, failed, transport.requests, transport.sleeps
end

local ok = { status = 200, body = "fine" }
local refused = { problem = { code = "CURLE_COULDNT_CONNECT", message = "m", sent = false } }
local broken = { problem = { code = "CURLE_RECV_ERROR", message = "m", sent = true } }
local cut = { problem = { code = "CURLE_PARTIAL_FILE", message = "m", sent = true, status = 201 } }
local only_1xx = { problem = { code = "CURLE_RECV_ERROR", message = "m", sent = true, status = 100 } }

describe("integrations.call", function()
  -- what is answered, then outcome and number of requests of a read, and of a write
  local cases = {
    { "a refused connection", refused, "not_applied", 3, "not_applied", 3 },
    { "a connection that breaks after sending", broken, "not_applied", 3, "unknown", 1 },
    { "an answer of 201 that is cut", cut, "not_applied", 3, "applied", 1 },
    { "a connection that breaks after 100 Continue", only_1xx, "not_applied", 3, "unknown", 1 },
    { "a 404 that is cut", { problem = { code = "CURLE_PARTIAL_FILE", message = "m", sent = true, status = 404 } },
      "not_applied", 1, "not_applied", 1 },
    { "a 429 that is cut", { problem = { code = "CURLE_PARTIAL_FILE", message = "m", sent = true, status = 429 } },
      "not_applied", 3, "not_applied", 3 },
    { "a 500 that is cut", { problem = { code = "CURLE_RECV_ERROR", message = "m", sent = true, status = 500 } },
      "not_applied", 3, "unknown", 1 },
    { "2xx that cannot be read", { status = 200, body = "unreadable" }, "not_applied", 3, "applied", 1 },
    { "400", { status = 400 }, "not_applied", 1, "not_applied", 1 },
    { "a redirect", { status = 302 }, "not_applied", 1, "not_applied", 1 },
    { "a redirect to what was done", { status = 303 }, "not_applied", 1, "unknown", 1 },
    { "429", { status = 429 }, "not_applied", 3, "not_applied", 3 },
    { "500", { status = 500 }, "not_applied", 3, "unknown", 1 },
    { "502", { status = 502 }, "not_applied", 3, "unknown", 1 },
    { "503", { status = 503 }, "not_applied", 3, "unknown", 1 },
    { "504", { status = 504 }, "not_applied", 3, "unknown", 1 },
    { "501", { status = 501 }, "not_applied", 1, "unknown", 1 },
  }
  for _, case in ipairs(cases) do
    it("ends a read and a write right after " .. case[1], function()
      for i, operation in ipairs { safe, write } do
        local result, failed, requests = perform(operation, { case[2] })
        assert.is_nil(result)
        assert.equal(case[1 + 2 * i], failed.outcome)
        assert.equal(case[2 + 2 * i], #requests)
        assert.equal(#requests, failed.attempts)
      end
    end)
  end

  it("repeats nothing that was cancelled, whatever status had come", function()
    for _, row in ipairs { { nil, "unknown" }, { 200, "applied" }, { 429, "not_applied" }, { 503, "unknown" } } do
      local cancelled = { problem = { code = "CANCELLED", message = "m", sent = true, status = row[1] } }
      local _, failed, requests, sleeps = perform(idempotent, { cancelled }, { retry_writes = true })
      assert.same({ "cancelled", row[2], 1, 0 }, { failed.kind, failed.outcome, #requests, #sleeps })
      assert.equal("not_applied", select(2, perform(safe, { cancelled })).outcome)
    end
  end)

  it("gives the result of an attempt that works after one that did not", function()
    local result, failed, requests = perform(write, { refused, ok })
    assert.equal("fine", result)
    assert.is_nil(failed)
    assert.equal(2, #requests)
  end)

  describe("repeats by choice", function()
    local choice = { retry_writes = true }

    it("an idempotent write whose outcome is unknown, and no other", function()
      for _, answer in ipairs { broken, { status = 500 }, { status = 503 } } do
        local _, failed, requests = perform(idempotent, { answer }, choice)
        assert.same({ "unknown", 3, 3 }, { failed.outcome, failed.attempts, #requests })
        _, failed, requests = perform(write, { answer }, choice)
        assert.same({ "unknown", 1, 1 }, { failed.outcome, failed.attempts, #requests })
        _, failed, requests = perform(idempotent, { answer })
        assert.same({ "unknown", 1, 1 }, { failed.outcome, failed.attempts, #requests })
      end
    end)

    it("and gives the result", function()
      local result, _, requests = perform(idempotent, { broken, { status = 500 }, ok }, choice)
      assert.same({ "fine", 3 }, { result, #requests })
    end)

    local later = {
      { "that finds fault", { status = 400 } }, { "that comes too often", { status = 429 } },
      { "that never left", refused }, { "that points elsewhere", { status = 302 } },
    }
    for _, case in ipairs(later) do
      it("and knows that the first may have been applied, whatever becomes of one " .. case[1], function()
        local _, failed = perform(idempotent, { broken, case[2] }, choice)
        assert.equal("unknown", failed.outcome)
        assert.truthy(failed.message:find("; it may have been applied: look before you repeat it", 1, true))
      end)
    end

    it("and knows where a later one was applied", function()
      local _, failed = perform(idempotent, { broken, { status = 200, body = "unreadable" } }, choice)
      assert.same({ "applied", 2 }, { failed.outcome, failed.attempts })
    end)
  end)

  describe("a client's budget", function()
    it("ends retries where most calls fail, and says so", function()
      local session = new_session(fake_transport.new { refused })
      local function requests_of_call()
        local before = #session.transport.requests
        local _, failed = call.perform(session, safe, { method = "GET", url = "u" })
        return #session.transport.requests - before, failed
      end
      for _ = 1, 50 do
        assert.equal(3, (requests_of_call()))
      end
      local requests, failed = requests_of_call()
      assert.equal(1, requests)
      assert.truthy(failed.message:find("too many calls of this client failed before", 1, true))
    end)

    it("is filled by success", function()
      local session = new_session(fake_transport.new { ok })
      session.budget.tokens = 0
      for _ = 1, 7 do
        call.perform(session, write, { method = "GET", url = "u" })
      end
      assert.equal(7, session.budget.tokens)
    end)
  end)

  it("spreads its waits, also where the clock has nothing but microseconds", function()
    local now, sleeps = 1000, {}
    for i = 1, 100 do
      now = now + 0.001
      local _, _, _, slept = perform(safe, { refused }, { now = function() return now end, timeout = 60 })
      sleeps[i] = slept[1] / 0.25
    end
    table.sort(sleeps)
    assert.is_true(sleeps[1] >= 0 and sleeps[100] < 1)
    assert.is_true(sleeps[10] < 0.3 and sleeps[50] > 0.2 and sleeps[50] < 0.8 and sleeps[90] > 0.7)
  end)

  it("waits as long as the random number says, which can be handed in", function()
    local _, _, _, sleeps = perform(safe, { refused }, { random = function() return 0.5 end })
    assert.same({ 0.125, 0.25 }, sleeps)
  end)

  it("waits between attempts, by the transport's own way where it has one", function()
    local _, _, _, sleeps = perform(safe, { refused })
    assert.equal(2, #sleeps)
    assert.is_true(sleeps[1] <= 0.25 and sleeps[2] <= 0.5)
  end)

  it("tries no more often than it may", function()
    local _, failed, requests = perform(safe, { refused }, { max_attempts = 1 })
    assert.equal(1, #requests)
    assert.equal(1, failed.attempts)
  end)

  it("takes a transport that does not say what was sent for one that sent", function()
    local _, failed = perform(write, { { problem = { message = "m" } } })
    assert.equal("unknown", failed.outcome)
  end)

  it("gives each attempt the time that is left", function()
    local _, _, requests = perform(safe, { refused }, { timeout = 60 })
    assert.is_true(requests[1].timeout_ms <= 60000 and requests[1].timeout_ms > 30000)
  end)

  it("gives later attempts what earlier ones and waits have left", function()
    local now, limits = 100, {}
    local transport = fake_transport.new { function(request)
      limits[#limits + 1] = request.timeout_ms
      now = now + 1
      return nil, { code = "CURLE_RECV_ERROR", message = "m", sent = true }
    end }
    function transport.sleep(_, seconds)
      now = now + seconds
    end
    local session = new_session(transport)
    session.now, session.random = function() return now end, function() return 0.5 end
    call.perform(session, safe, { method = "GET", url = "u" })
    assert.same({ 5000, 3875, 2625 }, limits)
  end)

  it("never waits past the deadline: it fails at once and says when to ask again", function()
    local _, failed, requests, sleeps = perform(safe, { { status = 429, headers = { ["retry-after"] = "60" } } })
    assert.same({ 1, {} }, { #requests, sleeps })
    assert.equal(60, failed.retry_after)
  end)

  it("sends nothing once a helper's deadline has passed", function()
    local _, failed, requests = perform(write, { ok }, { deadline = core.now() - 1 })
    assert.equal(0, #requests)
    assert.same({ "timeout", "not_applied", 0 }, { failed.kind, failed.outcome, failed.attempts })
  end)

  describe("a helper's wait", function()
    local function wait(change)
      local transport = fake_transport.new { ok }
      local session = new_session(transport)
      if change then
        change(session, transport)
      end
      local ended = call.wait(session, "things.wait_ready", 2.5)
      return ended, transport.sleeps, transport.requests
    end

    -- Lets something happen while it sleeps.
    local function meanwhile(happen)
      return function(session, transport)
        local sleep = transport.sleep
        function transport.sleep(self, seconds)
          sleep(self, seconds)
          happen(session, transport)
        end
      end
    end

    local function refuse(_, transport)
      function transport.refusal()
        return { code = "CANNOT_WAIT", message = "not here" }
      end
    end

    local function close(session)
      session.closed = true
    end

    it("is the transport's own, and sends nothing", function()
      local ended, sleeps, requests = wait()
      assert.is_nil(ended)
      assert.same({ 2.5 }, sleeps)
      assert.equal(0, #requests)
      ended, sleeps = wait(function(_, transport)
        function transport.refusal() end
      end)
      assert.is_nil(ended)
      assert.same({ 2.5 }, sleeps)
    end)

    local ends = {
      { "does not begin once the client is closed", close, "closed", 0 },
      { "ends where the client is closed meanwhile", meanwhile(close), "closed", 1 },
      { "does not begin where the transport cannot wait", refuse, "invalid", 0 },
      { "ends where it cannot wait any longer", meanwhile(refuse), "invalid", 1 },
    }
    for _, case in ipairs(ends) do
      it(case[1], function()
        local ended, sleeps = wait(case[2])
        assert.same({ case[3], "not_applied", "things.wait_ready", 0 },
          { ended.kind, ended.outcome, ended.operation, ended.attempts })
        assert.equal(case[4], #sleeps)
      end)
    end

    it("ends in a task that is cancelled, before or meanwhile", function()
      local driver = { now = core.now, suspend = function() end, wake = function() end }
      for slept = 0, 1 do
        local ended, sleeps
        local thread = coroutine.create(function()
          local running = task.running()
          local function cancel()
            running:cancel "not wanted"
          end
          ended, sleeps = wait(slept == 0 and cancel or meanwhile(cancel))
        end)
        task.new(thread, driver)
        assert(coroutine.resume(thread))
        task.forget(thread)
        assert.same({ "cancelled", "things.wait_ready", slept }, { ended.kind, ended.operation, #sleeps })
        assert.truthy(ended.message:find("(not wanted)", 1, true))
      end
    end)
  end)

  describe("events", function()
    local function events_of(operation, answers)
      local events = {}
      perform(operation, answers, { on_event = function(event)
        events[#events + 1] = event
      end })
      return events
    end

    it("tell of each request, response and retry", function()
      local names = {}
      for i, event in ipairs(events_of(safe, { refused, ok })) do
        names[i] = event.name .. " " .. event.attempt
        assert.equal("things.list", event.operation)
        assert.equal("http://127.0.0.1/x", event["url.full"])
        assert.equal("GET", event["http.request.method"])
        assert.equal(event.attempt > 1 and 1 or nil, event["http.request.resend_count"])
      end
      assert.same({ "request 1", "response 1", "retry 1", "request 2", "response 2" }, names)
    end)

    it("tell of a call's failure at its end, once", function()
      local names = {}
      local events = events_of(safe, { refused })
      for i, event in ipairs(events) do
        names[i] = event.name .. " " .. event.attempt
      end
      assert.same({ "request 1", "response 1", "retry 1", "request 2", "response 2", "retry 2", "request 3",
        "response 3", "failure 3" }, names)
      local last = events[#events]
      assert.same({ "network", "not_applied", "CURLE_COULDNT_CONNECT" },
        { last.kind, last.outcome, last["error.type"] })
      assert.is_true(last.call_duration >= 0 and last.call_duration < 5)
    end)

    it("name what failed as OpenTelemetry does: by status, code or kind", function()
      local errors = {
        { { status = 404 }, "404" }, { broken, "CURLE_RECV_ERROR" }, { cut, "CURLE_PARTIAL_FILE" },
        { { problem = { message = "m" } }, "network" }, { { status = 200, body = "unreadable" }, "protocol" },
      }
      for _, case in ipairs(errors) do
        local events = events_of(write, { case[1] })
        assert.equal(case[2], events[#events]["error.type"])
        assert.equal(case[1].status or case[1].problem.status, events[2]["http.response.status_code"])
      end
    end)

    it("have the transport's durations, and sizes", function()
      local durations = { dns = 1, connect = 2, tls = 3, first_byte = 7 }
      for _, answer in ipairs { { status = 200, body = "four", durations = durations },
        { problem = { message = "m", durations = durations } } } do
        local event = events_of(write, { function()
          if answer.problem then
            return nil, answer.problem
          end
          return answer
        end })[2]
        assert.same({ 1, 2, 3, answer.status and 7 }, { -- where nothing came, nothing had a first byte
          event["dns.lookup.duration"], event.connect_duration, event.tls_duration, event.first_byte_duration,
        })
        assert.equal(answer.body and 4, event["http.response.body.size"])
        assert.is_true(event["http.client.request.duration"] >= 0)
      end
    end)

    it("cost a transport nothing where nobody listens", function()
      local _, _, requests = perform(safe, { ok })
      assert.is_false(requests[1].timed)
      _, _, requests = perform(safe, { ok }, { on_event = function() end })
      assert.is_true(requests[1].timed)
    end)

    it("say how long, why and until when", function()
      local events = events_of(safe, { refused, ok })
      local duration = events[2]["http.client.request.duration"]
      assert.is_true(duration >= 0 and duration < 5)
      assert.equal("network", events[3].kind)
      assert.is_true(events[3].delay >= 0 and events[3].delay <= 0.25)
    end)

    it("may close the client, which ends the call at once", function()
      for _, name in ipairs { "request", "retry" } do
        local transport = fake_transport.new { refused }
        local session = new_session(transport)
        session.on_event = function(event)
          session.closed = session.closed or event.name == name
        end
        local result, failed = call.perform(session, write, { method = "POST", url = "u" })
        assert.is_nil(result)
        local sent = name == "retry" and 1 or 0
        assert.same({ "closed", "not_applied", sent }, { failed.kind, failed.outcome, failed.attempts })
        assert.equal(sent, #transport.requests)
        assert.same({}, transport.sleeps)
      end
    end)

    it("take their time from the attempt's", function()
      local now = 0
      local transport = fake_transport.new { refused }
      local session = new_session(transport)
      session.now = function() return now end
      session.on_event = function(event)
        now = now + (event.name == "request" and 4 or 0)
      end
      local _, failed = call.perform(session, write, { method = "POST", url = "u" })
      assert.equal(1000, transport.requests[1].timeout_ms)
      assert.same({ 1, 1 }, { #transport.requests, failed.attempts })
    end)

    it("take their time from the wait's", function()
      local now = 0
      local transport = fake_transport.new { refused }
      local session = new_session(transport)
      session.now, session.random = function() return now end, function() return 1 end
      session.on_event = function(event)
        now = now + (event.name == "retry" and 4.9 or 0)
      end
      call.perform(session, write, { method = "POST", url = "u" })
      assert.is_true(transport.sleeps[1] <= 0.1001)
    end)

    it("may yield: the call goes on all the same", function()
      local yielded = coroutine.wrap(function()
        return (perform(safe, { ok }, { on_event = function() coroutine.yield "from the listener" end }))
      end)
      assert.equal("fine", yielded())
    end)

    it("have the failure in one line, and what the server calls the request", function()
      local told = {}
      local answering = { name = "things.create", safe = false, read = function(_, operation)
        return nil, failure.new { kind = "rate_limited", operation = operation.name, status = 429, message = "no",
          request_id = "r-1", retry_after = 60 }
      end }
      perform(answering, { { status = 429 } }, { on_event = function(event) told[#told + 1] = event end })
      local last = told[#told]
      assert.same({ "failure", "r-1", 60 }, { last.name, last.request_id, last.retry_after })
      assert.truthy(last.message:find("^things.create: rate_limited %(429, not_applied%): no; the server wants"))
    end)

    it("say what became of an attempt", function()
      local events = events_of(write, { broken })
      assert.same({ "network", "unknown" }, { events[2].kind, events[2].outcome })
      events = events_of(write, { ok })
      assert.equal(200, events[2]["http.response.status_code"])
      assert.is_nil(events[2].kind)
      assert.is_nil(events[2]["error.type"])
    end)

    it("are told where nothing can be a coroutine, too", function()
      local wrap, told = coroutine.wrap, 0
      coroutine.wrap = function() error "API disabled in the context of log_by_lua*" end -- luacheck: ignore 122
      local done, result = pcall(perform, safe, { ok }, { on_event = function() told = told + 1 end })
      coroutine.wrap = wrap -- luacheck: ignore 122
      assert.is_true(done, result)
      assert.equal(2, told)
    end)

    it("cannot break a call", function()
      local result = perform(safe, { ok }, { on_event = function()
        error "from the listener"
      end })
      assert.equal("fine", result)
    end)
  end)
end)
