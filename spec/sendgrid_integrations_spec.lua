local clients = require "spec.support.clients"
local emulator = require "integrations.emulator"
local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"

local function input(fields)
  local made = {
    destination = "Segment",
    filters = { email_events = { "open", "click" } },
    properties = { write_key = "a123456", destination_region = "EU" },
    label = "A",
  }
  for name, value in pairs(fields or {}) do
    made[name] = value
  end
  return made
end

-- A client of an emulator in this process, and the emulator.
local function emulated(options)
  local service = emulator.new(options)
  return clients.sendgrid(service).integrations, service
end

-- A client of answers that no service would give.
local function answered(answers, options)
  local transport = fake_transport.new(answers)
  return clients.sendgrid(transport, options).integrations, transport.requests
end

local lines = clients.lines

describe("integrations.sendgrid.integrations", function()
  it("sends the documents' requests, byte for byte", function()
    local integrations, service = emulated()
    local made = assert(integrations:create(input()))
    assert(integrations:list())
    assert(integrations:get(made.integration_id))
    assert(integrations:update(made.integration_id, { filters = { email_events = {} } }))
    local second = assert(integrations:create(input { filters = { email_events = {} } }))
    assert.is_true(integrations:delete { made.integration_id, second.integration_id })
    assert.same({
      'POST /v3/marketing/integrations {"destination":"Segment","filters":{"email_events":["open","click"]},'
        .. '"label":"A","properties":{"destination_region":"EU","write_key":"a123456"}}',
      "GET /v3/marketing/integrations",
      "GET /v3/marketing/integrations/5a1234",
      'PATCH /v3/marketing/integrations/5a1234 {"filters":{"email_events":[]}}',
      'POST /v3/marketing/integrations {"destination":"Segment","filters":{"email_events":[]},'
        .. '"label":"A","properties":{"destination_region":"EU","write_key":"a123456"}}',
      "DELETE /v3/marketing/integrations?ids=5a1234,5a1235",
    }, lines(service.requests))
    for i, request in ipairs(service.requests) do
      assert.equal(request.body and "application/json" or nil, request.headers["content-type"], "request " .. i)
      assert.equal("application/json", request.headers.accept)
    end
  end)

  it("gives what the service gives", function()
    local integrations = emulated()
    local made = assert(integrations:create(input()))
    assert.same({
      integration_id = "5a1234",
      user_id = "12345",
      destination = "Segment",
      filters = { email_events = { "open", "click" } },
      properties = { write_key = "a123456", destination_region = "EU" },
      label = "A",
    }, made)
    assert.same({ made }, (integrations:list()))
    assert.same(made, (integrations:get "5a1234"))
    local changed = assert(integrations:update("5a1234", { label = "B" }))
    assert.same({ "B", { "open", "click" } }, { changed.label, changed.filters.email_events })
  end)

  it("keeps fields that it does not know, and leaves out those that are null", function()
    local integrations = answered { { status = 200, body = '{"integration_id":"a","new":{"x":[1]},"label":null}' } }
    assert.same({ integration_id = "a", new = { x = { 1 } } }, (integrations:get "a"))
  end)

  it("can send back what it was given", function()
    local integrations, service = emulated()
    local made = assert(integrations:create(input { filters = { email_events = {} } }))
    assert(integrations:update(made.integration_id, { filters = made.filters, properties = made.properties }))
    assert.equal('{"filters":{"email_events":[]},"properties":{"destination_region":"EU","write_key":"a123456"}}',
      service.requests[2].body)
  end)

  describe("sends nothing for", function()
    local cases = {
      { "create", { {} }, { "destination: is required", "filters: is required", "properties: is required" } },
      { "create", { input { filters = {}, properties = {} } }, {
        "filters.email_events: is required",
        "properties.destination_region: is required",
        "properties.write_key: is required",
      } },
      { "create", { input { filters = { email_events = { "opened", "click", "Open" } } } }, {
        'filters.email_events[1]: "opened" is not a known value; did you mean "open"?',
        'filters.email_events[3]: "Open" is not a known value; did you mean "open"?',
      } },
      { "create", { input { label = 5, integration_id = "x" } }, {
        'integration_id: is not a known field; known: "destination", "filters", "label", "properties"',
        "label: must be a string, not a number",
      } },
      { "create", { input { properties = { write_key = true, destination_region = "eu" } } }, {
        'properties.destination_region: "eu" is not a known value; did you mean "EU"?',
        "properties.write_key: must be a string, not a boolean",
      } },
      { "update", { "a", {} }, { "patch: must have at least 1 field, not 0" } },
      { "update", { "a", { lable = "x" } }, { 'lable: is not a known field; did you mean "label"?' } },
      { "update", { "..", nil }, { 'id: must not be "." or ".."', "patch: must be an object, not nil" } },
      { "get", {}, { "id: must be a string, not nil" } },
      { "delete", { { "a", "b,c" } }, { "ids[2]: must not have a comma: it would be taken for two" } },
      { "delete_many", { {} }, { "ids: must have at least 1 element, not 0" } },
      { "delete_many", { { "a", "b/c", 5 } }, { "ids[3]: must be a string, not a number" } },
      { "delete_many", { { ("x"):rep(2000) } }, { "ids[1]: is too long for an address" } },
      { "find", { { lable = "x" } }, { 'lable: is not a known field; did you mean "label"?' } },
      { "find", {}, { "criteria: must be an object, not nil" } },
      { "find", { { ["properties.destination_region"] = "eu" } },
        { '["properties.destination_region"]: "eu" is not a known value; did you mean "EU"?' } },
      { "add_events", { "a", "opened" }, { 'events[1]: "opened" is not a known value; did you mean "open"?' } },
      { "add_events", { "a", {} }, { "events: must have at least 1 element, not 0" } },
      { "remove_events", { "a" }, { "events: must be an array, not nil" } },
      { "remove_events", { "..", { "open" } }, { 'id: must not be "." or ".."' } },
    }
    for i, case in ipairs(cases) do
      it(("%s, case %d"):format(case[1], i), function()
        local integrations, service = emulated()
        local result, failed = integrations[case[1]](integrations, (table.unpack or unpack)(case[2], 1, 2))
        assert.is_nil(result)
        assert.same({ "invalid", "not_applied" }, { failed.kind, failed.outcome })
        assert.same(case[3], faults_of(failed))
        assert.equal(0, #service.requests)
      end)
    end
  end)

  describe("a full account", function()
    it("is known by the service's words", function()
      local integrations, service = emulated { quota = 1 }
      assert(integrations:create(input()))
      local _, failed = integrations:create(input())
      assert.same({ "limit_reached", 403, "not_applied" }, { failed.kind, failed.status, failed.outcome })
      assert.equal(2, #service.requests)
    end)

    local function list_of(count)
      local parts = {}
      for i = 1, count do
        parts[i] = ('{"integration_id":"%d"}'):format(i)
      end
      return { status = 200, body = '{"result":[' .. table.concat(parts, ",") .. "]}" }
    end

    it("is known by counting where the words leave it open", function()
      local integrations, requests = answered { { status = 403, body = "" }, list_of(10) }
      local _, failed = integrations:create(input())
      assert.same({ "limit_reached", "the account holds as many integrations as it may: delete one first" },
        { failed.kind, failed.message })
      assert.equal(2, #requests)
    end)

    it("is not assumed where there is room, or where nobody can say", function()
      for _, second in ipairs { list_of(9), { status = 403, body = "" } } do
        local integrations = answered { { status = 403, body = "" }, second }
        assert.equal("forbidden", select(2, integrations:create(input())).kind)
      end
    end)

    it("is not read into words that are about something else", function()
      for _, words in ipairs {
        "your account is temporarily limited", "IP blocked: too many failed logins", "maximum credits exceeded",
      } do
        local body = ('{"errors":[{"message":"%s"}]}'):format(words)
        local integrations, requests = answered { { status = 403, body = body }, list_of(3) }
        assert.equal("forbidden", select(2, integrations:create(input())).kind)
        assert.equal(2, #requests)
      end
    end)

    it("is not looked for where a scope is missing", function()
      local body = '{"errors":[{"message":"please ensure you have the correct scopes: limit of your key"}]}'
      local integrations, requests = answered { { status = 403, body = body } }
      assert.equal("forbidden", select(2, integrations:create(input())).kind)
      assert.equal(1, #requests)
    end)
  end)

  describe("each", function()
    it("gives them one by one", function()
      local integrations = emulated()
      for _, label in ipairs { "A", "B", "C" } do
        assert(integrations:create(input { label = label }))
      end
      local labels = {}
      for integration in integrations:each() do
        labels[#labels + 1] = integration.label
      end
      assert.same({ "A", "B", "C" }, labels)
    end)

    it("gives nothing for an empty account", function()
      for _ in emulated():each() do
        error "there should be none"
      end
    end)

    it("raises the failure, since a loop has no other way to hear of it", function()
      local integrations = answered { { status = 401, body = "" } }
      local ok, failed = pcall(integrations.each, integrations)
      assert.is_false(ok)
      assert.equal("unauthorized", failed.kind)
    end)
  end)

  describe("find", function()
    local integrations = emulated()
    for i, region in ipairs { "EU", "US", "EU" } do
      assert(integrations:create {
        destination = "Segment",
        label = i == 3 and "other" or "same",
        filters = { email_events = i == 1 and { "open", "click" } or { "bounce" } },
        properties = { write_key = "a12345" .. i, destination_region = region },
      })
    end
    local cases = {
      { {}, "a123451 a123452 a123453" },
      { { label = "same" }, "a123451 a123452" },
      { { label = "same", ["properties.destination_region"] = "EU" }, "a123451" },
      { { ["properties.write_key"] = "a123453" }, "a123453" },
      { { ["filters.email_events"] = "click" }, "a123451" },
      { { label = "none" }, "" },
      { { user_id = "12345", destination = "Segment" }, "a123451 a123452 a123453" },
    }
    for i, case in ipairs(cases) do
      it("finds what has all the values, case " .. i, function()
        local keys = {}
        for k, found in ipairs(assert(integrations:find(case[1]))) do
          keys[k] = found.properties.write_key
        end
        assert.equal(case[2], table.concat(keys, " "))
      end)
    end

    it("passes on what goes wrong", function()
      assert.equal("server", select(2, answered({ { status = 500, body = "" } }):find {}).kind)
    end)
  end)

  describe("add_events and remove_events", function()
    local function start()
      local integrations, service = emulated()
      local id = assert(integrations:create(input())).integration_id
      return integrations, service, id
    end

    it("write the list as it should be", function()
      local integrations, service, id = start()
      assert.same({ "open", "click", "bounce", "drop" },
        assert(integrations:add_events(id, { "bounce", "open", "drop", "bounce" })).filters.email_events)
      assert.same({ "open", "drop" },
        assert(integrations:remove_events(id, { "click", "bounce" })).filters.email_events)
      assert.same({}, assert(integrations:remove_events(id, { "drop", "open" })).filters.email_events)
      assert.equal('{"filters":{"email_events":[]}}', service.requests[#service.requests].body)
    end)

    it("take one name, too", function()
      local integrations, _, id = start()
      assert.same({ "open", "click", "drop" }, assert(integrations:add_events(id, "drop")).filters.email_events)
      assert.same({ "open", "click" }, assert(integrations:remove_events(id, "drop")).filters.email_events)
    end)

    it("write nothing where nothing changes", function()
      local integrations, service, id = start()
      assert.equal(id, assert(integrations:add_events(id, { "click", "open" })).integration_id)
      assert.equal(id, assert(integrations:remove_events(id, "drop")).integration_id)
      for i = 2, #service.requests do
        assert.equal("GET", service.requests[i].method)
      end
    end)

    local function with_events(events)
      return { status = 200, body = '{"integration_id":"a","filters":{"email_events":' .. events .. "}}" }
    end

    it("send back events that this version does not know", function()
      local integrations, requests = answered { with_events '["open","brand_new"]' }
      assert(integrations:add_events("a", "click"))
      assert.equal('{"filters":{"email_events":["open","brand_new","click"]}}', requests[2].body)
      assert.equal("invalid", select(2, integrations:update("a", { label = 5 })).kind)
    end)

    it("do not write over what is no list", function()
      for _, events in ipairs { "5", '"open"', "true" } do
        local integrations, requests = answered { with_events(events) }
        local _, failed = integrations:add_events("a", "click")
        assert.same({ "protocol", "not_applied" }, { failed.kind, failed.outcome })
        assert.equal(1, #requests)
      end
    end)

    it("take a list of any length", function()
      local many = {}
      for i = 1, 20000 do
        many[i] = '"e' .. i .. '"'
      end
      local integrations, requests = answered { with_events("[" .. table.concat(many, ",") .. "]") }
      assert(integrations:add_events("a", "click"))
      assert.equal(2, #requests)
    end)

    it("know no name that the client does not, unless it is lenient", function()
      local service = emulator.new()
      local sg = clients.sendgrid(service, { strict = false })
      local id = assert(sg.integrations:create(input())).integration_id
      local _, failed = sg.integrations:add_events(id, "brand_new")
      assert.equal("rejected", failed.kind)
      assert.same({}, (sg.integrations:find { brand_new = "x" }))
    end)

    it("pass on what goes wrong", function()
      local integrations = emulated()
      assert.equal("not_found", select(2, integrations:add_events("none", "open")).kind)
    end)
  end)

  describe("a delete that may be repeated", function()
    -- The first DELETE is carried out, or not, and answered with 500.
    local function flaky(applies)
      local service, failed_once = emulator.new(), false
      local sg = clients.sendgrid({
        send = function(_, request)
          if request.method ~= "DELETE" or failed_once then
            return service:send(request)
          end
          failed_once = true
          if applies then
            service:send(request)
          end
          return { status = 500, body = "" }
        end,
        sleep = function() end,
      }, { retry_writes = true, max_attempts = 3 })
      return sg.integrations, service
    end

    for _, applies in ipairs { true, false } do
      it("deletes one, " .. (applies and "whose first request was carried out" or "at the second request"), function()
        local integrations = flaky(applies)
        local id = assert(integrations:create(input())).integration_id
        assert.is_true(integrations:delete(id))
        assert.same({}, (integrations:list()))
      end)

      it("deletes several, " .. (applies and "of which the list says that they are gone" or "likewise"), function()
        local integrations = flaky(applies)
        local a, b = integrations:create(input()).integration_id, integrations:create(input()).integration_id
        local other = integrations:create(input()).integration_id
        assert.is_true(integrations:delete { a, b })
        assert.equal(other, integrations:list()[1].integration_id)
      end)
    end

    it("does not call several gone of which one is still there", function()
      local integrations = flaky(false)
      local id = assert(integrations:create(input())).integration_id
      local done, failed = integrations:delete { id, "none" }
      assert.is_nil(done)
      assert.same({ "not_found", "unknown", 2 }, { failed.kind, failed.outcome, failed.attempts })
      assert.equal(1, #assert(integrations:list()))
    end)

    it("does not call many not_applied of which any may have been", function()
      local integrations = answered({
        { problem = { message = "m", sent = true } }, { status = 400, body = "" },
        { status = 404, body = "" }, { status = 400, body = "" },
      }, { retry_writes = true, max_attempts = 2 })
      local report = assert(integrations:delete_many { "a", "b" })
      assert.same({ "unknown", "unknown" }, { report[1].outcome, report[2].outcome })
    end)

    it("has an outcome for each of many", function()
      local integrations = flaky(true)
      local a, b = integrations:create(input()).integration_id, integrations:create(input()).integration_id
      assert.is_true(assert(integrations:delete_many { a, b }).ok)
    end)
  end)

  describe("delete_many", function()
    local function outcomes(report)
      local texts = {}
      for i, entry in ipairs(report) do
        texts[i] = entry.id .. " " .. entry.outcome .. (entry.failure and " " .. entry.failure.kind or "")
      end
      return texts
    end

    it("deletes in one request what fits, each id once", function()
      local integrations, service = emulated()
      local a = assert(integrations:create(input())).integration_id
      local b = assert(integrations:create(input())).integration_id
      local report = assert(integrations:delete_many { a, b, a })
      assert.is_true(report.ok)
      assert.same({ a .. " applied", b .. " applied" }, outcomes(report))
      assert.equal("DELETE /v3/marketing/integrations?ids=" .. a .. "," .. b, lines(service.requests)[3])
      assert.equal(3, #service.requests)
    end)

    it("takes one id", function()
      local report = assert((answered { { status = 204, body = "" } }):delete_many "a")
      assert.same({ "a applied" }, outcomes(report))
    end)

    it("keeps every address within 2,000 bytes, and as few as can be", function()
      local integrations, requests = answered { { status = 204, body = "" } }
      local ids = {}
      for i = 1, 1000 do
        ids[i] = ("é-%04d"):format(i)
      end
      local report = assert(integrations:delete_many(ids))
      assert.equal(1000, #report)
      assert.is_true(report.ok)
      local sent = {}
      for i, request in ipairs(requests) do
        assert.is_true(#request.url <= 2000)
        -- Ten more characters and a comma would not have fitted.
        assert.is_true(i == #requests or #request.url + 12 > 2000)
        for id in request.url:match("ids=(.*)"):gmatch "[^,]+" do
          sent[#sent + 1] = id
        end
      end
      assert.equal(1000, #sent)
      assert.equal("%C3%A9-0001", sent[1])
    end)

    it("deletes the others where the service finds fault with one", function()
      local integrations, service = emulated()
      local a = assert(integrations:create(input())).integration_id
      local b = assert(integrations:create(input())).integration_id
      local report = assert(integrations:delete_many { a, "none", b })
      assert.is_false(report.ok)
      assert.same({ a .. " applied", "none unknown not_found", b .. " applied" }, outcomes(report))
      assert.same({}, (integrations:list()))
      assert.equal("DELETE /v3/marketing/integrations?ids=" .. a .. ",none," .. b, lines(service.requests)[3])
    end)

    it("finds the one at fault among many in few requests", function()
      local integrations, requests = answered {
        function(request)
          local bad = request.url:find("id-077", 1, true)
          return { status = bad and 404 or 204, body = "" }
        end,
      }
      local ids = {}
      for i = 1, 100 do
        ids[i] = ("id-%03d"):format(i)
      end
      local report = assert(integrations:delete_many(ids))
      for i, entry in ipairs(report) do
        assert.equal(i == 77 and "unknown" or "applied", entry.outcome)
      end
      assert.is_true(#requests <= 15)
    end)

    it("deletes the others after a 400, and names the caller's id and where it stands", function()
      local integrations = answered {
        function(request)
          local ids = {}
          for id in request.url:match("ids=(.*)"):gmatch "[^,]+" do
            ids[#ids + 1] = id
            if id == "bad" then
              local body = ('{"errors":[{"message":"bad id","parameter":"ids[%d]"}]}'):format(#ids - 1)
              return { status = 400, body = body }
            end
          end
          return { status = 204, body = "" }
        end,
      }
      local report = assert(integrations:delete_many { "a", "a", "b", "bad", "d" })
      assert.same({ "a applied", "b applied", "bad not_applied rejected", "d applied" }, outcomes(report))
      assert.same({ field = "ids[4]", id = "bad", message = 'bad id (the id "bad")' }, report[3].failure.errors[1])
    end)

    it("does not call not_applied what a refused list may have deleted", function()
      local integrations, service = emulated { partial_deletes = true }
      local a = assert(integrations:create(input())).integration_id
      local b = assert(integrations:create(input())).integration_id
      local report = assert(integrations:delete_many { a, "none", b })
      assert.same({ a .. " unknown not_found", "none unknown not_found", b .. " unknown not_found" }, outcomes(report))
      assert.same({}, (integrations:list()))
      assert.is_true(#service.requests > 3)
      assert.same({ "none not_applied not_found" }, outcomes(assert(integrations:delete_many "none")))
    end)

    it("names the place of an id that is too long as the caller counts", function()
      local _, failed = emulated():delete_many { "a", "a", ("x"):rep(2000) }
      assert.same({ "ids[3]: is too long for an address" }, faults_of(failed))
    end)

    it("fills an address to the last byte", function()
      local integrations, requests = answered { { status = 204, body = "" } }
      local space = 2000 - #"http://127.0.0.1:1/v3/marketing/integrations?ids="
      assert(integrations:delete_many { ("x"):rep(space) })
      assert.equal(2000, #requests[1].url)
      assert(integrations:delete_many { ("y"):rep(space - 2), "z" })
      assert.equal(2000, #requests[2].url)
      assert.equal(2, #requests)
      assert.is_nil((integrations:delete_many { ("x"):rep(space + 1) }))
    end)

    it("is a failure once the client is closed", function()
      local sg = clients.sendgrid(emulator.new())
      sg:close()
      local report, failed = sg.integrations:delete_many { "a" }
      assert.is_nil(report)
      assert.same({ "closed", "integrations.delete_many" }, { failed.kind, failed.operation })
    end)

    it("does not try ids alone where the service refuses for another reason", function()
      for _, status in ipairs { 401, 403, 406, 415, 418, 429, 500 } do
        local integrations, requests = answered { { status = status, body = "" } }
        local report = assert(integrations:delete_many { "a", "b", "c" })
        assert.equal(1, #requests)
        assert.same({ 3, false }, { #report, report.ok })
      end
    end)

    it("sends nothing more after a failure that no id explains", function()
      local ids = {}
      for i = 1, 300 do
        ids[i] = ("id-%012d"):format(i)
      end
      local integrations, requests = answered {
        { status = 204, body = "" },
        { problem = { code = "CURLE_RECV_ERROR", message = "reset", sent = true } },
      }
      local report = assert(integrations:delete_many(ids))
      assert.equal(2, #requests)
      assert.is_false(report.ok)
      assert.equal("applied", report[1].outcome)
      assert.same({ "unknown", "network" }, { report[150].outcome, report[150].failure.kind })
      assert.same({ "not_applied", "network" }, { report[300].outcome, report[300].failure.kind })
      assert.truthy(report[300].failure.message:find("not sent, since an earlier part failed: ", 1, true))
    end)
  end)

  it("raises where a helper's data is a function", function()
    local integrations = emulated()
    for name, call in pairs {
      find = function()
        integrations:find(print)
      end,
      add_events = function()
        integrations:add_events("a", print)
      end,
      delete_many = function()
        integrations:delete_many(print)
      end,
    } do
      assert.error_matches(call, name .. ": %w+ must be data, not a function")
    end
  end)

  for _, name in ipairs {
    "create", "delete", "ensure", "each", "find", "add_events", "remove_events", "delete_many",
  } do
    it(name .. " raises without its colon", function()
      local integrations = emulated()
      for _, argument in ipairs { {}, "x" } do
        assert.error_matches(function()
          integrations[name](argument)
        end, "call it with a colon: integrations:" .. name, 1, true)
      end
    end)
  end
end)
