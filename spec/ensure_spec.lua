local core = require "integrations.core"
local emulator = require "integrations.emulator"
local faults_of = require "spec.support.faults"
local sendgrid = require "integrations.sendgrid"

-- The key that nothing may write: only what is really used could be seen.
local KEY = "SG.test.canary"

local function new_service()
  return emulator.new { keys = { [KEY] = { user_id = "10000001" } } }
end

local function input(fields)
  local made = {
    destination = "Segment",
    filters = { email_events = { "open", "click" } },
    properties = { write_key = "a123456", destination_region = "EU" },
  }
  for name, value in pairs(fields or {}) do
    made[name] = value
  end
  return made
end

-- The service, and what a hostile network makes of each answer: `twist(request, answer, number)`.
local function new(twist, options)
  local service = new_service()
  local requests = {}
  local sg = assert(sendgrid.new {
    api_key = KEY,
    timeout = options and options.timeout,
    on_event = options and options.on_event,
    transport = {
      send = function(_, request)
        requests[#requests + 1] = request.method
        local function answer()
          return service:send(request)
        end
        if twist then
          return twist(request, answer, #requests)
        end
        return answer()
      end,
      sleep = function() end,
    },
  })
  return sg.integrations, requests, service
end

local function count(service)
  local sg = assert(sendgrid.new { api_key = KEY, transport = service })
  return #assert(sg.integrations:list())
end

-- A twist that does the request and then loses its answer.
local function lose(method)
  return function(request, answer)
    local response = answer()
    if request.method == method then
      return nil, { code = "CURLE_RECV_ERROR", message = "m", sent = true }
    end
    return response
  end
end

-- A twist that loses the request, without anybody knowing that nothing came of it.
local function swallow(method)
  return function(request, answer)
    if request.method == method then
      return { status = 502, body = "" }
    end
    return answer()
  end
end

describe("ensure", function()
  it("creates what is not there", function()
    local integrations, requests, service = new()
    local made, done = integrations:ensure(input { label = "A" })
    assert.same({ "created", "A", "a123456" }, { done, made.label, made.properties.write_key })
    assert.same({ "GET", "POST" }, requests)
    assert.equal(1, count(service))
  end)

  it("leaves what is as it should be", function()
    local integrations, requests = new()
    local made = assert(integrations:create(input()))
    for _, same in ipairs {
      input(), input { filters = { email_events = { "click", "open" } } },
      input { filters = { email_events = { "click", "open", "open" } } }, input { label = "Untitled Integration" },
    } do
      local found, done = integrations:ensure(same)
      assert.equal("unchanged", done)
      assert.same(made, found)
    end
    assert.same({ "POST", "GET", "GET", "GET", "GET" }, requests)
  end)

  it("updates what differs, and that alone", function()
    local bodies = {}
    local integrations = new(function(request, answer)
      bodies[#bodies + 1] = request.method == "PATCH" and request.body or nil
      return answer()
    end)
    local made = assert(integrations:create(input { label = "A" }))
    for _, case in ipairs {
      { { label = "B" }, '{"label":"B"}' },
      { { filters = { email_events = { "open" } }, label = "B" }, '{"filters":{"email_events":["open"]}}' },
      { { filters = { email_events = {} } }, '{"filters":{"email_events":[]}}' },
      { { label = "C" }, '{"filters":{"email_events":["open","click"]},"label":"C"}' },
    } do
      local found, done = integrations:ensure(input(case[1]))
      assert.equal("updated", done)
      assert.equal(made.integration_id, found.integration_id)
      assert.equal(case[2], bodies[#bodies])
      assert.equal("unchanged", select(2, integrations:ensure(input(case[1]))))
    end
  end)

  it("tells integrations apart by destination, write key and region", function()
    local integrations, _, service = new()
    assert(integrations:ensure(input()))
    assert.equal("created", select(2, integrations:ensure(input {
      properties = { write_key = "b123456", destination_region = "EU" } })))
    assert.equal("created", select(2, integrations:ensure(input {
      properties = { write_key = "a123456", destination_region = "US" } })))
    assert.equal("unchanged", select(2, integrations:ensure(input())))
    assert.equal(3, count(service))
  end)

  it("reports several that are the same, and touches none", function()
    local integrations, requests = new()
    local first, second = assert(integrations:create(input())), assert(integrations:create(input { label = "B" }))
    local found, failed = integrations:ensure(input { label = "C" })
    assert.is_nil(found)
    assert.same({ "ambiguous", "not_applied", "integrations.ensure" },
      { failed.kind, failed.outcome, failed.operation })
    assert.same({ first.integration_id, second.integration_id }, { failed.errors[1].id, failed.errors[2].id })
    assert.same({ '"5a1234" is called "Untitled Integration"', '"5a1235" is called "B"' },
      { failed.errors[1].message, failed.errors[2].message })
    assert.same({ "POST", "POST", "GET" }, requests)
  end)

  describe("settles an unknown outcome", function()
    it("of a create whose answer was lost", function()
      local integrations, requests, service = new(lose "POST")
      local made, done = integrations:ensure(input())
      assert.same({ "created", "a123456" }, { done, made and made.properties.write_key })
      assert.same({ "GET", "POST", "GET" }, requests)
      assert.equal(1, count(service))
    end)

    it("of a create whose answer was unreadable", function()
      local integrations, requests, service = new(function(request, answer)
        local response = answer()
        return request.method == "POST" and { status = 201, body = "<html>" } or response
      end)
      assert.equal("created", select(2, integrations:ensure(input())))
      assert.same({ "GET", "POST", "GET" }, requests)
      assert.equal(1, count(service))
    end)

    it("of an update whose answer was lost", function()
      local integrations, requests = new(lose "PATCH")
      assert(integrations:create(input()))
      local found, done = integrations:ensure(input { label = "B" })
      assert.same({ "updated", "B" }, { done, found and found.label })
      assert.same({ "POST", "GET", "PATCH", "GET" }, requests)
    end)

    for _, method in ipairs { "POST", "PATCH" } do
      it("of a " .. method .. " only where the list shows it: what is not there may still come", function()
        local integrations, requests, service = new(swallow(method))
        if method == "PATCH" then
          assert(integrations:create(input()))
        end
        local found, failed = integrations:ensure(input { label = "B" })
        assert.is_nil(found)
        assert.same({ "server", "unknown", 502 }, { failed.kind, failed.outcome, failed.status })
        local shown = method == "PATCH" and "it is there, but not as wanted" or "the list does not show it"
        assert.truthy(failed.message:find(shown, 1, true), failed.message)
        assert.equal("GET", requests[#requests])
        assert.equal(method == "PATCH" and 1 or 0, count(service))
      end)
    end

    it("by the failure of the write where the list fails, too", function()
      local integrations, requests = new(function(_, answer, number)
        if number == 1 then
          return answer()
        end
        return nil, { code = "CURLE_RECV_ERROR", message = "m", sent = true }
      end)
      local _, failed = integrations:ensure(input())
      assert.same({ "integrations.create", "unknown", 1 }, { failed.operation, failed.outcome, failed.attempts })
      assert.truthy(failed.message:find("nor could the list be read", 1, true))
      assert.equal(1 + 1 + 3, #requests)
    end)

    it("unless meanwhile there are several, which it reports", function()
      local integrations, _, service = new(function(request, answer)
        local response = answer()
        if request.method == "POST" then
          answer() -- another program, at the same time
          return { status = 504, body = "" }
        end
        return response
      end)
      local _, failed = integrations:ensure(input())
      assert.same({ "ambiguous", "unknown", 2 }, { failed.kind, failed.outcome, #failed.errors })
      assert.equal(2, count(service))
    end)

    it("in the time that the write had to leave", function()
      local limits = {}
      local integrations = new(function(request, answer)
        limits[#limits + 1] = request.timeout_ms
        local response = answer()
        if request.method == "POST" then
          core.sleep(request.timeout_ms / 1000)
          return nil, { code = "CURLE_OPERATION_TIMEDOUT", message = "m", sent = true }
        end
        return response
      end, { timeout = 0.3 })
      assert.equal("created", select(2, integrations:ensure(input())))
      assert.is_true(limits[2] <= 200 and limits[2] > 150, limits[2])
      assert.is_true(limits[3] <= 110 and limits[3] > 50, limits[3])
    end)
  end)

  -- An answer to the list, and one to a POST.
  local function answering(list, made)
    return new(function(request)
      return { status = 200, body = request.method == "GET" and list or made }
    end)
  end
  local A = '{"integration_id":"a","destination":"Segment",'
    .. '"properties":{"write_key":"a123456","destination_region":"EU"},"filters":{"email_events":["open","click"]}}'

  it("takes one that is listed twice for one", function()
    assert.equal("unchanged", select(2, answering('{"result":[' .. A .. "," .. A .. "]}"):ensure(input())))
  end)

  it("creates nothing where the list does not let it compare", function()
    for _, listed in ipairs {
      '{"integration_id":"a"}', '{"integration_id":"a","destination":"Segment","properties":{"write_key":"a123456"}}',
      (A:gsub('"a123456"', '["a123456"]')), (A:gsub('"a123456"', "5")), (A:gsub('"Segment"', "null")),
    } do
      local integrations, requests = answering('{"result":[' .. listed .. "]}")
      local _, failed = integrations:ensure(input())
      assert.same({ "protocol", "not_applied", "integrations.ensure" },
        { failed.kind, failed.outcome, failed.operation })
      assert.same({ "GET" }, requests)
    end
  end)

  it("is not kept from it by another one that is incomplete", function()
    local other = '{"integration_id":"b","properties":{"write_key":"c123456"}}'
    assert.equal("unchanged", select(2, answering('{"result":[' .. other .. "," .. A .. "]}"):ensure(input())))
    assert.equal("created", select(2, answering('{"result":[' .. other .. "]}", A):ensure(input())))
  end)

  it("says that it cannot be repeated where the service hides the key", function()
    local integrations = answering('{"result":[]}', (A:gsub("a123456", "****456")))
    local _, failed = integrations:ensure(input())
    assert.same({ "protocol", "applied" }, { failed.kind, failed.outcome })
    assert.truthy(failed.message:find("do not repeat it", 1, true))
  end)

  it("does not call applied what the list does not show", function()
    local integrations = answering('{"result":[]}', "<html>")
    local _, failed = integrations:ensure(input())
    assert.same({ "protocol", "unknown" }, { failed.kind, failed.outcome })
  end)

  it("passes on what the service refuses", function()
    local integrations, requests = new(function(request, answer)
      return request.method == "POST" and { status = 403, body = '{"errors":[{"message":"no scope"}]}' } or answer()
    end)
    local _, failed = integrations:ensure(input())
    assert.same({ "forbidden", "not_applied" }, { failed.kind, failed.outcome })
    assert.equal("POST", requests[2])
  end)

  it("passes on that the list cannot be had, and writes nothing", function()
    local integrations, requests = new(function()
      return { status = 500, body = "" }
    end)
    local _, failed = integrations:ensure(input())
    assert.same({ "server", "not_applied", "integrations.list" }, { failed.kind, failed.outcome, failed.operation })
    assert.same({ "GET", "GET", "GET" }, requests)
  end)

  it("sends nothing for an input that create would refuse, and names every fault", function()
    local integrations, requests = new()
    local found, failed = integrations:ensure { destination = "segment", filters = {} }
    assert.is_nil(found)
    assert.same({ "invalid", "not_applied", "integrations.ensure" }, { failed.kind, failed.outcome, failed.operation })
    assert.same({
      'destination: "segment" is not a known value; did you mean "Segment"?',
      "filters.email_events: is required",
      "properties: is required",
    }, faults_of(failed))
    for _, value in ipairs { false, 5, "x" } do
      assert.equal("invalid", select(2, integrations:ensure(value)).kind)
    end
    assert.equal("invalid", select(2, integrations:ensure()).kind)
    assert.equal(0, #requests)
  end)

  it("raises where it is called with a dot, or with a function", function()
    local integrations = new()
    assert.has_error(function() integrations.ensure(input()) end)
    assert.has_error(function() integrations:ensure(print) end)
  end)

  it("gives a failure once the client is closed", function()
    local sg = assert(sendgrid.new { api_key = KEY, transport = new_service() })
    sg:close()
    assert.equal("closed", select(2, sg.integrations:ensure(input())).kind)
  end)
end)
