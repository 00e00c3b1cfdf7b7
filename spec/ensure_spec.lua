local core = require "integrations.core"
local emulator = require "integrations.emulator"
local ensure = require "integrations.ensure"
local failure = require "integrations.failure"
local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"
local json = require "integrations.json"
local process = require "spec.support.process"
local retry = require "integrations.retry"
local sendgrid = require "integrations.sendgrid"
local services = require "integrations.service"

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
        local shown = method == "PATCH" and 'there is one, "5a1234", but not as wanted' or "the list does not show it"
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
      assert.truthy(failed.message:find("nor could be read what became of it", 1, true))
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
      local limits, timeout
      local function send(request, answer)
        limits[#limits + 1] = request.timeout_ms / timeout / 1000
        local response = answer()
        if request.method == "POST" then
          core.sleep(request.timeout_ms / 1000)
          return nil, { code = "CURLE_OPERATION_TIMEDOUT", message = "m", sent = true }
        end
        return response
      end
      process.patiently(function(scale)
        limits, timeout = {}, 0.2 * scale
        local integrations, _, service = new(send, { timeout = timeout })
        local made, done = integrations:ensure(input())
        if not made and done.kind == "timeout" then
          assert.equal(done.outcome == "unknown" and 1 or 0, count(service))
          return "there was no time left for a list"
        end
        assert.equal("created", done)
        assert.is_true(limits[2] <= 0.667 and limits[3] <= 0.367, limits[2] .. " and " .. limits[3])
        if limits[2] <= 0.5 or limits[3] <= 0.167 then
          return ("%.3f and %.3f of the time were left"):format(limits[2], limits[3])
        end
      end)
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

describe("ensure.create", function()
  local Text = { type = "string" }
  local Boxes = services.define {
    name = "boxes",
    schemas = { Box = { type = "object", required = { "name" }, properties = { name = Text, text = Text } } },
    operations = {
      list = { method = "GET", path = "/boxes", result = { identity = "id", field = "boxes", array = true } },
      get = { method = "GET", path = "/boxes/{id}", parameters = { { name = "id", ["in"] = "path", schema = Text } },
        result = { identity = "id" } },
      create = { method = "POST", path = "/boxes", body = "Box", result = { identity = "id" } },
    },
  }

  local function read_failure(operation, response)
    local kinds = { [400] = "rejected", [500] = "server" }
    return failure.new { kind = kinds[response.status], operation = operation.name, status = response.status,
      message = "no" }, { is_sure = true }
  end

  -- What answers to each method: a list of answers, of which the last one repeats.
  local function create(answers, whole, options)
    local sent, counts = {}, { GET = 0, POST = 0 }
    local transport = fake_transport.new { function(request)
      sent[#sent + 1] = request.method .. " " .. request.url:match "/boxes.*"
      local own = answers[request.method]
      counts[request.method] = counts[request.method] + 1
      local answer = own[math.min(counts[request.method], #own)]
      if answer.takes then
        answer.takes(request)
      end
      if answer.problem then
        return nil, answer.problem
      end
      return answer
    end }
    local session = { transport = transport, base_url = "https://e.example", timeout = 9, max_attempts = 1,
      now = os.time, headers = {}, body_headers = {}, budget = retry.new_budget(), read_failure = read_failure }
    for name, value in pairs(options or {}) do
      session[name] = value
    end
    local boxes = services.bounded(Boxes.new(session))
    local result, failed = ensure.create(boxes, { name = "n", text = "t" }, {
      name = "boxes.create", identity = "id", title = "text", advice = "look again later", same = { "name" },
      whole = whole,
    }, Boxes.create)
    return result, failed, sent, transport.requests
  end

  local function listed(...)
    return { status = 200, body = json.encode({ boxes = { ... } }, { properties = { boxes = { type = "array" } } }) }
  end

  local box = { id = "a", name = "n", text = "t" }
  local made = { status = 201, body = json.encode(box) }
  local lost = { problem = { code = "CURLE_RECV_ERROR", message = "m", sent = true } }
  local unreadable = { status = 201, body = "<html>" }

  it("asks nothing more where the service answers", function()
    local result, failed, sent = create { POST = { made }, GET = { lost } }
    assert.same(box, result)
    assert.is_nil(failed)
    assert.same({ "POST /boxes" }, sent)
  end)

  it("asks nothing more where nothing was made, and passes the failure on", function()
    for _, case in ipairs {
      { { status = 400, body = "" }, "rejected", "no" },
      { { problem = { code = "CURLE_COULDNT_CONNECT", message = "m", sent = false } }, "network",
        "nobody answers there: check the address, proxy and the firewall (m)" },
    } do
      local result, failed, sent = create { POST = { case[1] }, GET = { listed(box) } }
      assert.is_nil(result)
      assert.same({ case[2], "not_applied", "boxes.create", 1, case[3] },
        { failed.kind, failed.outcome, failed.operation, failed.attempts, failed.message })
      assert.same({ "POST /boxes" }, sent)
    end
    local _, failed, sent = create({ POST = { made }, GET = { listed(box) } }, nil, { closed = true })
    assert.same({ "closed", 0 }, { failed.kind, #sent })
  end)

  for name, answer in pairs { lost = lost, unreadable = unreadable, ["a failure"] = { status = 500, body = "" } } do
    it("finds what was made in the list where the answer is " .. name, function()
      local result, failed, sent = create { POST = { answer },
        GET = { listed({ id = "b", name = "m", text = "t" }, { id = "a", name = "n", text = "t", new = 1 }) } }
      assert.same({ id = "a", name = "n", text = "t", new = 1 }, result)
      assert.is_nil(failed)
      assert.same({ "POST /boxes", "GET /boxes" }, sent)
    end)
  end

  it("looks at the whole of it where the list leaves out something", function()
    local function whole(things, thing)
      return things:get(thing.id)
    end
    local short = listed { id = "a", name = "n" }
    local result, failed, sent = create({ POST = { lost }, GET = { short, { status = 200, body = json.encode(box) } } },
      whole)
    assert.same(box, result)
    assert.is_nil(failed)
    assert.same({ "POST /boxes", "GET /boxes", "GET /boxes/a" }, sent)
    assert.is_nil((create { POST = { lost }, GET = { short } }))
    result, failed = create({ POST = { lost }, GET = { short, { status = 500, body = "" } } }, whole)
    assert.is_nil(result)
    assert.same({ "network", "unknown", "boxes.create" }, { failed.kind, failed.outcome, failed.operation })
    assert.truthy(failed.message:find("; nor could be read what became of it: no", 1, true), failed.message)
  end)

  -- What is looked at afterwards, and what the failure then says.
  local open = {
    { "is not there", listed(), "the list does not show it: look again later" },
    { "is not as wanted", listed { id = "a", name = "n", text = "other" },
      'there is one, "a", but not as wanted: look again later' },
    { "cannot be told apart", listed { id = "a" },
      "nor could be read what became of it: the list leaves out some of name: nothing can be recognised" },
    { "cannot be looked for", { status = 500, body = "" }, "nor could be read what became of it: no" },
  }
  for _, case in ipairs(open) do
    for name, answer in pairs { lost = lost, unreadable = unreadable } do
      it(("leaves open what became of an answer that is %s where it %s"):format(name, case[1]), function()
        local result, failed, sent = create { POST = { answer }, GET = { case[2] } }
        assert.is_nil(result)
        assert.same({ answer == lost and "network" or "protocol", "unknown", "boxes.create", 1 },
          { failed.kind, failed.outcome, failed.operation, failed.attempts })
        assert.equal("; " .. case[3], failed.message:sub(-#case[3] - 2))
        assert.equal(2, #sent)
      end)
    end
  end

  it("reports several of the name", function()
    local two = listed(box, { id = "b", name = "n", text = "u" }, { id = "c", name = "m", text = "t" })
    for outcome, answer in pairs { unknown = lost, applied = unreadable } do
      local result, failed = create { POST = { answer }, GET = { two } }
      assert.is_nil(result)
      assert.same({ "ambiguous", outcome, "boxes.create" }, { failed.kind, failed.outcome, failed.operation })
      assert.same({ { id = "a", message = '"a" is called "t"' }, { id = "b", message = '"b" is called "u"' } },
        failed.errors)
    end
  end)

  it("keeps a third of the time for looking", function()
    local now = 100
    local slow = { problem = lost.problem, takes = function(request)
      now = now + request.timeout_ms / 1000
    end }
    local result, _, _, requests = create({ POST = { slow }, GET = { listed(box) } }, nil,
      { now = function() return now end })
    assert.same(box, result)
    assert.same({ 6000, 3000 }, { requests[1].timeout_ms, requests[2].timeout_ms })
  end)
end)
