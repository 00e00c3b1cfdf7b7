local cjson = require "cjson"
local clients = require "spec.support.clients"
local emulator = require "integrations.emulator"
local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"

local QUERY = "SELECT contact_id, updated_at FROM contact_data WHERE city = 'Berlin'"

local function input(fields)
  local made = { name = "Berlin", query_dsl = QUERY }
  for name, value in pairs(fields or {}) do
    made[name] = value
  end
  return made
end

-- A client of an emulator in this process, and the emulator.
local function emulated(options, client_options)
  local service = emulator.new(options)
  return clients.sendgrid(service, client_options).segments, service
end

-- A client of answers, its requests and the time that passes while it waits.
local function answered(answers, options)
  local transport = fake_transport.new(answers)
  local sg = clients.sendgrid(transport, options)
  local clock = { now = 100 }
  sg.session.now = function()
    return clock.now
  end
  function transport.sleep(_, seconds)
    transport.sleeps[#transport.sleeps + 1] = seconds
    clock.now = clock.now + seconds
  end
  sg.session.transport.sleep = transport.sleep
  return sg.segments, transport.requests, transport.sleeps, clock
end

local function segment(fields)
  local made = { id = "s1", name = "Berlin", query_dsl = QUERY, parent_list_ids = cjson.decode "[]",
    status = { query_validation = "VALID" } }
  for name, value in pairs(fields or {}) do
    made[name] = value
  end
  made.parent_list_ids = #made.parent_list_ids > 0 and made.parent_list_ids or nil
  return { status = 200, body = cjson.encode(made) }
end

local function list_of(...)
  local results = {}
  for i, name in ipairs { ... } do
    results[i] = ('{"id":"s%d","name":"%s"}'):format(i, name)
  end
  return { status = 200, body = '{"results":[' .. table.concat(results, ",") .. "]}" }
end

describe("integrations.sendgrid.segments", function()
  it("sends the documents' requests, byte for byte", function()
    local segments, requests = answered {
      { status = 201, body = '{"id":"a"}' }, list_of(), list_of(), segment(), segment(), segment(),
      { status = 202, body = '{"job_id":"j"}' }, { status = 202 },
    }
    assert(segments:create(input { parent_list_ids = { "l" } }))
    assert(segments:list())
    assert(segments:list { ids = { "a", "b c" }, parent_list_ids = "l", no_parent_list_id = true })
    assert(segments:get "a")
    assert(segments:get("a", { contacts_sample = false }))
    assert(segments:update("a", { name = "Bonn" }))
    assert(segments:refresh("a", { user_time_zone = "America/Chicago" }))
    assert(segments:delete "a")
    assert.same({
      'POST /v3/marketing/segments/2.0 {"name":"Berlin","parent_list_ids":["l"],"query_dsl":"SELECT contact_id, '
        .. "updated_at FROM contact_data WHERE city = 'Berlin'\"}",
      "GET /v3/marketing/segments/2.0",
      "GET /v3/marketing/segments/2.0?ids=a,b%20c&parent_list_ids=l&no_parent_list_id=true",
      "GET /v3/marketing/segments/2.0/a",
      "GET /v3/marketing/segments/2.0/a?contacts_sample=false",
      'PATCH /v3/marketing/segments/2.0/a {"name":"Bonn"}',
      'POST /v3/marketing/segments/2.0/refresh/a {"user_time_zone":"America\\/Chicago"}',
      "DELETE /v3/marketing/segments/2.0/a",
    }, clients.lines(requests))
  end)

  it("lives through the life of a segment", function()
    local segments = emulated { pending_reads = 0 }
    local made = assert(segments:create(input()))
    assert.same({ "Berlin", QUERY, "PENDING" }, { made.name, made.query_dsl, made.status.query_validation })
    assert.equal(made.id, assert(segments:list())[1].id)
    local read = assert(segments:get(made.id))
    assert.equal("VALID", read.status.query_validation)
    assert.is_table(read.contacts_sample)
    assert.is_nil(assert(segments:get(made.id, { contacts_sample = false })).contacts_sample)
    assert.equal("Bonn", assert(segments:update(made.id, { name = "Bonn" })).name)
    assert.is_string(assert(segments:refresh(made.id, { user_time_zone = "America/Chicago" })).job_id)
    assert.is_true(segments:delete(made.id))
    assert.same({ "not_found", "not_applied" }, {
      select(2, segments:get(made.id)).kind, select(2, segments:delete(made.id)).outcome,
    })
    assert.same({}, (segments:list()))
  end)

  it("filters as the service does", function()
    local segments = emulated()
    local with_list = assert(segments:create(input { name = "A", parent_list_ids = { "l1" } }))
    local without = assert(segments:create(input { name = "B" }))
    local cases = {
      { {}, "A B" },
      { { ids = without.id }, "B" },
      { { ids = { without.id, with_list.id } }, "A B" },
      { { parent_list_ids = "l1" }, "A" },
      { { parent_list_ids = { "l1", "l2" }, no_parent_list_id = true }, "A B" },
      { { no_parent_list_id = true }, "B" },
      { { parent_list_ids = "l2", no_parent_list_id = false }, "" },
    }
    for i, case in ipairs(cases) do
      local names = {}
      for k, found in ipairs(assert(segments:list(case[1]))) do names[k] = found.name end
      table.sort(names)
      assert.equal(case[2], table.concat(names, " "), "case " .. i)
    end
  end)

  it("reads both shapes of the list, and refuses a third", function()
    local flat = '{"id":"a","name":"A","new":1,"contacts_count":0}'
    assert.same({ { id = "a", name = "A", new = 1, contacts_count = 0 } },
      (answered({ { status = 200, body = flat } }):list()))
    assert.same({ { id = "s1", name = "A" }, { id = "s2", name = "B" } }, (answered({ list_of("A", "B") }):list()))
    assert.same({}, (answered({ list_of() }):list()))
    local broken = { "{}", '{"results":5}', '{"results":{"id":"a"}}', '{"results":["a"]}', '{"name":"A"}', "" }
    for _, body in ipairs(broken) do
      local result, failed = answered({ { status = 200, body = body } }):list()
      assert.same({ nil, "protocol" }, { result, failed and failed.kind }, body)
    end
    local segments = emulated { segments_list_shape = "flat" }
    local made = assert(segments:create(input()))
    assert.equal(made.id, assert(segments:list())[1].id)
  end)

  it("keeps fields that it does not know", function()
    local body = '{"id":"a","new":{"x":[1]},"error":null}'
    assert.same({ id = "a", new = { x = { 1 } } }, (answered({ { status = 200, body = body } }):get "a"))
  end)

  describe("sends nothing for", function()
    local cases = {
      { "create", { {} }, { "name: is required", "query_dsl: is required" } },
      { "create", { input { name = "" } }, { "name: must have at least 1 character, not 0" } },
      { "create", { input { name = ("é"):rep(101) } }, { "name: must have at most 100 characters, not 101" } },
      { "create", { input { query_dsl = { "x" }, qurey = 1 } },
        { "query_dsl: must be a string, not a table",
          'qurey: is not a known field; known: "name", "parent_list_ids", "query_dsl"' } },
      { "create", { input { parent_list_ids = { "a", "b" } } },
        { "parent_list_ids: must have at most 1 element, not 2" } },
      { "create", { input { parent_list_ids = "a" } }, { "parent_list_ids: must be an array, not a string" } },
      { "update", { "a", {} }, { "patch: must have at least 1 field, not 0" } },
      { "update", { "a/b", { parent_list_ids = {} } },
        { 'parent_list_ids: is not a known field; known: "name", "query_dsl"', "segment_id: must not have a slash" } },
      { "get", { "a", { contact_sample = false } },
        { 'contact_sample: is not a known field; did you mean "contacts_sample"?' } },
      { "get", { "a", { contacts_sample = "false" } }, { "contacts_sample: must be a boolean, not a string" } },
      { "get", { "..", 5 }, { "options: must be an object, not a number", 'segment_id: must not be "." or ".."' } },
      { "list", { { ids = {} } }, { "ids: must have at least 1 element, not 0" } },
      { "list", { { ids = { "a,b", "" } } },
        { "ids[1]: must not have a comma: it would be taken for two", "ids[2]: must not be empty" } },
      { "list", { "a" }, { "options: must be an object, not a string" } },
      { "delete", { { "a" } }, { "segment_id: must be a string, not a table" } },
      { "refresh", { "a" }, { "input: must be an object, not nil" } },
      { "refresh", { "a", {} }, { "user_time_zone: is required" } },
      { "find", { { nmae = "x" } }, { 'nmae: is not a known field; did you mean "name"?' } },
      { "wait_valid", { "" }, { "segment_id: must not be empty" } },
      { "wait_valid", { "", { timeout = 0 } },
        { "segment_id: must not be empty", "timeout: must be at least 0.001, not 0" } },
      { "wait_valid", { "a", { timeout = 86401 } }, { "timeout: must be at most 86400, not 86401" } },
      { "wait_valid", { "a", 5 }, { "options: must be an object, not a number" } },
      { "quote", {}, { "value: must be a string, not nil" } },
      { "quote", { 5 }, { "value: must be a string, not a number" } },
      { "quote", { "a\\" }, { "value: must not have a backslash: it could end the quotes" } },
      { "quote", { "a\0b\\" },
        { "value: must not have a NUL byte", "value: must not have a backslash: it could end the quotes" } },
      { "quote", { "\255" }, { "value: must be UTF-8, which JSON requires: byte 1 is not" } },
    }
    local too_many = {}
    for i = 1, 51 do too_many[i] = "l" .. i end
    table.insert(cases, { "list", { { parent_list_ids = too_many } },
      { "parent_list_ids: must have at most 50 elements, not 51" } })
    for i, case in ipairs(cases) do
      it(("%s, case %d"):format(case[1], i), function()
        local segments, requests = answered { list_of() }
        local result, failed = segments[case[1]](segments, (table.unpack or unpack)(case[2], 1, 2))
        assert.is_nil(result)
        assert.same({ "invalid", "not_applied" }, { failed.kind, failed.outcome })
        assert.same(case[3], faults_of(failed))
        assert.equal(0, #requests)
      end)
    end

    it("methods that are called with a dot", function()
      local segments = answered { list_of() }
      for _, name in ipairs { "create", "find", "each", "wait_valid", "quote", "refresh" } do
        assert.error_matches(function()
          segments[name]("x", "y")
        end, "call it with a colon: segments:" .. name, 1, true)
      end
    end)
  end)

  describe("a failure", function()
    local cases = {
      { "errors", 400, '{"errors":[{"field":"name","message":"taken"},{"field":"query_dsl","message":"bad"}]}',
        "rejected", { "name: taken", "query_dsl: bad" } },
      { "one error", 404, '{"error":"Segment does not exist."}', "not_found", { "-: Segment does not exist." } },
      { "a parameter", 400, '{"message":"no such id","parameter":"ids[0]"}', "rejected",
        { 'ids[1]: no such id (the id "a")' } },
      { "all of them", 400, '{"errors":[{"field":"name","message":"taken"}],"error":"no","id":"r1"}', "rejected",
        { "name: taken", "-: no" } },
      { "nothing", 500, "", "server", {} },
    }
    for _, case in ipairs(cases) do
      it("in the shape of " .. case[1], function()
        local segments = answered { { status = case[2], body = case[3] } }
        local _, failed = segments:list { ids = "a" }
        assert.same({ case[4], case[2] }, { failed.kind, failed.status })
        assert.same(case[5], faults_of(failed))
      end)
    end

    it("of a refresh says what its limits are", function()
      local segments = answered { { status = 429 } }
      local _, failed = segments:refresh("a", { user_time_zone = "UTC" })
      assert.same({ "rate_limited", "not_applied" }, { failed.kind, failed.outcome })
      assert.truthy(failed.message:find("once an hour and twice a day", 1, true))
      segments = answered { { status = 403, body = '{"error":"free"}' } }
      _, failed = segments:refresh("a", { user_time_zone = "UTC" })
      assert.equal("forbidden", failed.kind)
      assert.truthy(failed.message:find("free", 1, true))
    end)

    it("of a refresh is never repeated by itself, though the caller lets writes be", function()
      local segments, requests = answered({ { status = 500 } }, { max_attempts = 3, retry_writes = true })
      local _, failed = segments:refresh("a", { user_time_zone = "UTC" })
      assert.same({ "unknown", 1, 1 }, { failed.outcome, failed.attempts, #requests })
    end)

    it("is the service's own, in the service's own words", function()
      local segments = emulated()
      assert(segments:create(input()))
      local _, failed = segments:create(input())
      assert.same({ "rejected", "name" }, { failed.kind, failed.errors[1].field })
      _, failed = segments:refresh("00000000-0000-0000-0000-000000000000", { user_time_zone = "UTC" })
      assert.same({ "not_found", "Segment does not exist." }, { failed.kind, failed.errors[1].message })
    end)
  end)

  describe("a create whose outcome is unknown", function()
    local lost = { problem = { code = "CURLE_GOT_NOTHING", message = "m", sent = true } }
    local taken = { status = 400, body = '{"errors":[{"field":"name","message":"taken"}]}' }

    it("is settled by looking for the name", function()
      local segments, requests = answered { lost, list_of("Bonn", "Berlin"), segment { id = "s2" } }
      assert.equal("s2", assert(segments:create(input())).id)
      assert.same({ "GET /v3/marketing/segments/2.0", "GET /v3/marketing/segments/2.0/s2?contacts_sample=false" },
        { clients.lines(requests)[2], clients.lines(requests)[3] })
    end)

    local others = {
      { "is not there", { lost, list_of "Bonn" }, "the list does not show it: look again later" },
      { "has another query", { lost, list_of "Berlin", segment { query_dsl = "x" } }, 'there is one, "s1"' },
      { "is another one", { lost, list_of "Berlin", segment { name = "Bonn" } }, 'there is one, "s1"' },
      { "has another list", { lost, list_of "Berlin", segment { parent_list_ids = { "l2" } } }, 'there is one, "s1"' },
      { "cannot be read", { lost, list_of "Berlin", { status = 401 } }, "nor could be read what became of it" },
      { "is in no list", { lost, { status = 500 } }, "nor could be read what became of it" },
    }
    for _, case in ipairs(others) do
      it("stays unknown where the segment " .. case[1], function()
        local segments, requests = answered(case[2])
        local result, failed = segments:create(input { parent_list_ids = { "l1" } })
        assert.is_nil(result)
        assert.same({ "unknown", "segments.create" }, { failed.outcome, failed.operation })
        assert.truthy(failed.message:find(case[3], 1, true), failed.message)
        assert.equal("POST", requests[1].method)
        for i = 2, #requests do assert.equal("GET", requests[i].method) end
      end)
    end

    it("is left alone where the service refused it", function()
      local segments, requests = answered { taken }
      local _, failed = segments:create(input())
      assert.same({ "rejected", "not_applied", 1 }, { failed.kind, failed.outcome, #requests })
    end)

    it("is not settled by an older segment that has a list", function()
      local segments = answered { lost, list_of "Berlin", segment { parent_list_ids = { "l1" } } }
      assert.equal("unknown", select(2, segments:create(input())).outcome)
      segments = answered { lost, list_of "Berlin", segment() }
      assert.is_table((segments:create(input { parent_list_ids = {} })))
    end)

    it("has one deadline for all, and time left for looking", function()
      local clock
      local function slow(answer, seconds)
        return function()
          clock.now = clock.now + seconds
          if answer.problem then return nil, answer.problem end
          return answer
        end
      end
      local segments, requests, _, its_clock = answered({ slow(lost, 15), slow(list_of "Berlin", 5), segment() },
        { timeout = 30 })
      clock = its_clock
      assert(segments:create(input()))
      assert.same({ 20000, 15000, 10000 },
        { requests[1].timeout_ms, requests[2].timeout_ms, requests[3].timeout_ms })
    end)
  end)

  describe("wait_valid", function()
    local pending = segment { status = { query_validation = "PENDING" } }

    it("gives the segment once its query is valid, and asks ever less often", function()
      local segments, requests, sleeps = answered { pending, pending, pending, pending, segment() }
      assert.equal("s1", assert(segments:wait_valid "s1").id)
      assert.equal(5, #requests)
      assert.equal("GET /v3/marketing/segments/2.0/s1?contacts_sample=false", clients.lines(requests)[5])
      assert.equal(4, #sleeps)
      for i = 2, #sleeps do assert.is_true(sleeps[i] > sleeps[i - 1]) end
    end)

    it("fails with the service's words where it is not", function()
      local segments = answered { pending, segment { status = { query_validation = "INVALID",
        error_message = "no such column" } } }
      local _, failed = segments:wait_valid "s1"
      assert.same({ "rejected", "segments.wait_valid", "not_applied" },
        { failed.kind, failed.operation, failed.outcome })
      assert.same({ "query_dsl: no such column" }, faults_of(failed))
      segments = answered { segment { status = { query_validation = "INVALID" } } }
      assert.same({ "query_dsl: is invalid" }, faults_of(select(2, segments:wait_valid "s1")))
    end)

    it("ends in time, the client's or its own", function()
      for _, case in ipairs { { nil, 30 }, { { timeout = 5 }, 5 }, { { timeout = 120 }, 120 }, { {}, 30 },
        { { timeout = 0.4 }, 0.4 }, { setmetatable({}, { __index = { timeout = 5 } }), 30 } } do
        local segments, requests, _, clock = answered { pending }
        local _, failed = segments:wait_valid("s1", case[1])
        assert.same({ "timeout", "not_applied" }, { failed.kind, failed.outcome })
        assert.truthy(failed.message:find(("query within %.3g s"):format(case[2]), 1, true), failed.message)
        assert.equal(#requests, failed.attempts)
        assert.is_true(clock.now - 100 <= case[2] and clock.now - 100 > case[2] - 0.3, clock.now)
        assert.is_true(#requests >= 2)
      end
    end)

    it("waits on where the state is one that this version does not know", function()
      local segments, requests = answered { segment { status = { query_validation = "QUEUED" } }, segment() }
      assert(segments:wait_valid "s1")
      assert.equal(2, #requests)
    end)

    it("goes on where the service is down for a moment, and gives no look more time than a call has", function()
      local down = { status = 503 }
      local hung = { problem = { code = "CURLE_OPERATION_TIMEDOUT", message = "m", sent = true } }
      local segments, requests = answered({ pending, down, hung, pending, segment() }, { timeout = 20 })
      assert(segments:wait_valid("s1", { timeout = 600 }))
      assert.equal(5, #requests)
      for _, request in ipairs(requests) do assert.equal(20000, request.timeout_ms) end
      segments = answered { down }
      assert.same({ "server", 503 }, { select(2, segments:wait_valid "s1").kind,
        select(2, segments:wait_valid "s1").status })
    end)

    it("asks again when the service wants to be asked", function()
      local later = { status = 429, headers = { ["retry-after"] = "7" } }
      local segments, requests, sleeps = answered { later, segment() }
      assert(segments:wait_valid "s1")
      assert.same({ 2, { 7 } }, { #requests, sleeps })
      segments, requests, sleeps = answered { later }
      local _, failed = segments:wait_valid("s1", { timeout = 5 })
      assert.same({ "rate_limited", 7, 1, 0 }, { failed.kind, failed.retry_after, #requests, #sleeps })
    end)

    it("repeats nothing of the service's words that is secret, or too long to read", function()
      local words = "key SG.test.canary bad " .. ("x"):rep(1e6)
      for _, status in ipairs {
        { query_validation = "INVALID", error_message = words }, { query_validation = words },
      } do
        local segments = answered({ segment { status = status } }, { api_key = "SG.test.canary" })
        local text = tostring(select(2, segments:wait_valid "s1"))
        assert.is_nil(text:find("canary", 1, true))
        assert.is_true(#text < 5000)
      end
    end)

    it("fails where there is no state, and where the segment cannot be read", function()
      for _, status in ipairs { 5, false, {} } do
        local segments = answered { segment { status = status } }
        assert.equal("protocol", select(2, segments:wait_valid "s1").kind)
      end
      local segments, requests = answered { pending, { status = 404 } }
      local _, failed = segments:wait_valid "s1"
      assert.same({ "not_found", 2 }, { failed.kind, #requests })
    end)

    it("ends when the client is closed meanwhile", function()
      local transport = fake_transport.new { pending }
      local sg = clients.sendgrid(transport)
      sg.session.transport.sleep = function() sg:close() end
      assert.equal("closed", select(2, sg.segments:wait_valid "s1").kind)
      assert.equal(1, #transport.requests)
    end)

    it("hears what the emulator makes of a query", function()
      local segments = emulated({ pending_reads = 0 })
      local good, bad = assert(segments:create(input())), assert(segments:create(input { name = "B", query_dsl = "x" }))
      assert.equal("VALID", assert(segments:wait_valid(good.id)).status.query_validation)
      assert.equal("rejected", select(2, segments:wait_valid(bad.id)).kind)
    end)
  end)

  it("a delete that is repeated is done where the segment is gone", function()
    local segments, requests = answered({ { status = 500 }, { status = 404, body = '{"errors":[]}' } },
      { max_attempts = 3, retry_writes = true })
    assert.is_true(segments:delete "a")
    assert.equal(2, #requests)
  end)

  it("find finds the segment of a name", function()
    local segments = emulated()
    assert(segments:create(input { name = "A" }))
    local second = assert(segments:create(input { name = "B" }))
    assert.same({ second.id, nil }, { assert(segments:find { name = "B" })[1].id, (segments:find { name = "C" })[1] })
    assert.equal(2, #assert(segments:find { ["status.query_validation"] = "PENDING" }))
    assert.same({}, (segments:find { id = "x", name = "" }))
    local names = {}
    for found in segments:each() do names[#names + 1] = found.name end
    assert.same({ "A", "B" }, names)
  end)

  it("quote makes a text a value that no text can get out of", function()
    local segments = answered { list_of() }
    local cases = {
      { "Berlin", "'Berlin'" }, { "", "''" }, { "O'Brien", "'O''Brien'" }, { "' OR 1=1 --", "''' OR 1=1 --'" },
      { "''", "''''''" }, { 'say "x"', "'say \"x\"'" }, { "100%", "'100%'" }, { "é\n", "'é\n'" },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], (segments:quote(case[1])))
      assert.equal(1, select("#", segments:quote(case[1])))
    end
  end)
end)
