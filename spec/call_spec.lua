local call = require "integrations.call"
local core = require "integrations.core"
local fake_transport = require "spec.support.fake_transport"
local failure = require "integrations.failure"

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

local function perform(operation, answers, options)
  local transport = fake_transport.new(answers)
  local session = { transport = transport, timeout = 5, max_attempts = 3, now = core.now }
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
    { "2xx that cannot be read", { status = 200, body = "unreadable" }, "not_applied", 3, "applied", 1 },
    { "400", { status = 400 }, "not_applied", 1, "not_applied", 1 },
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

  it("gives the result of an attempt that works after one that did not", function()
    local result, failed, requests = perform(write, { refused, ok })
    assert.equal("fine", result)
    assert.is_nil(failed)
    assert.equal(2, #requests)
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
    local _, _, requests = perform(safe, { refused }, { timeout = 2 })
    assert.is_true(requests[1].timeout_ms <= 2000 and requests[1].timeout_ms > 1500)
  end)

  it("never waits past the deadline: it fails at once and says when to ask again", function()
    local started = core.now()
    local _, failed, requests = perform(safe, { { status = 429, headers = { ["retry-after"] = "60" } } })
    assert.equal(1, #requests)
    assert.equal(60, failed.retry_after)
    assert.is_true(core.now() - started < 2)
  end)

  it("sends nothing once a helper's deadline has passed", function()
    local _, failed, requests = perform(write, { ok }, { deadline = core.now() - 1 })
    assert.equal(0, #requests)
    assert.same({ "timeout", "not_applied", 0 }, { failed.kind, failed.outcome, failed.attempts })
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
        assert.equal("http://127.0.0.1/x", event.url)
      end
      assert.same({ "request 1", "response 1", "retry 1", "request 2", "response 2" }, names)
    end)

    it("say how long, why and until when", function()
      local events = events_of(safe, { refused, ok })
      assert.is_true(events[2].duration >= 0 and events[2].duration < 5)
      assert.equal("network", events[3].kind)
      assert.is_true(events[3].delay >= 0 and events[3].delay <= 0.25)
    end)

    it("may close the client, which ends the call", function()
      for _, name in ipairs { "request", "retry" } do
        local transport = fake_transport.new { refused }
        local session = { transport = transport, timeout = 5, max_attempts = 3, now = core.now }
        session.on_event = function(event)
          session.closed = session.closed or event.name == name
        end
        local result, failed = call.perform(session, write, { method = "POST", url = "u" })
        assert.is_nil(result)
        assert.same({ "closed", "not_applied" }, { failed.kind, failed.outcome })
        assert.equal(name == "retry" and 1 or 0, #transport.requests)
      end
    end)

    it("say what became of an attempt", function()
      local events = events_of(write, { broken })
      assert.same({ "network", "unknown" }, { events[2].kind, events[2].outcome })
      events = events_of(write, { ok })
      assert.equal(200, events[2].status)
      assert.is_nil(events[2].kind)
      assert.is_true(events[2].duration >= 0)
    end)

    it("cannot break a call", function()
      local result = perform(safe, { ok }, { on_event = function()
        error "from the listener"
      end })
      assert.equal("fine", result)
    end)
  end)
end)
