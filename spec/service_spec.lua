local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"
local failure = require "integrations.failure"
local retry = require "integrations.retry"
local service = require "integrations.service"

-- A service that exists nowhere: what this module does must not depend on SendGrid.
local Things = service.define {
  name = "things",
  refused = function(body)
    return body.ok == false
  end,
  unsure_statuses = { [400] = true },
  schemas = {
    Thing = {
      type = "object",
      required = { "name" },
      properties = {
        name = { type = "string" },
        kind = { type = "string", enum = { "big", "small" } },
        tags = { type = "array", items = { type = "string" } },
        size = { type = "object", properties = { width = { type = "number" } } },
      },
    },
  },
  operations = {
    list = { method = "GET", path = "/v1/things", result = { identity = "id", field = "things", array = true } },
    get = {
      method = "GET",
      path = "/v1/things/{id}/parts/{part}",
      parameters = {
        { name = "id", ["in"] = "path", schema = { type = "string" } },
        { name = "part", ["in"] = "path", schema = { type = "string" } },
      },
      result = { identity = "id" },
    },
    create = { method = "POST", path = "/v1/things", body = "Thing", result = { identity = "id" } },
    delete = {
      method = "DELETE",
      path = "/v1/things",
      idempotent = true,
      removes = true,
      parameters = {
        {
          name = "ids",
          ["in"] = "query",
          required = true,
          many = true,
          schema = { type = "array", minItems = 1, items = { type = "string" } },
        },
      },
    },
    pick = {
      method = "GET",
      path = "/v1/pick",
      result = { identity = "id", field = "things", array = true, alone = true },
    },
    leaf = {
      method = "GET",
      path = "/v1/leaf",
      result = { identity = "id", field = "things", array = true, page = true },
    },
    job = {
      method = "POST",
      path = "/v1/job",
      result = {},
      statuses = { [409] = { "limit_reached", "there is one" } },
    },
    finish = { method = "POST", path = "/v1/finish", result = { field = "done", value = true } },
    drop = { method = "POST", path = "/v1/drop", body = "Thing", idempotent = true, once_with = "kind" },
    jobs = { method = "GET", path = "/v1/jobs", result = { array = true } },
    part = { method = "GET", path = "/v1/part", result = { identity = "id", field = "thing" } },
  },
}

local function read_failure(operation, response)
  local kinds = { [404] = "not_found", [500] = "server" }
  local row = operation.statuses and operation.statuses[response.status]
  return failure.new {
    kind = row and row[1] or kinds[response.status] or "rejected",
    operation = operation.name, status = response.status, message = row and row[2] or "no",
  }, { gone = response.status == 404 and response.body ~= "another", is_sure = response.body ~= "thrown" }
end

-- With one answer to each request, or a list of them.
local function new(answer, options)
  answer = answer or { status = 204, body = "" }
  local transport = fake_transport.new(answer[1] and answer or { answer })
  local session = {
    transport = transport, base_url = "https://example.com/base", timeout = 5, max_attempts = 1, now = os.time,
    read_failure = read_failure,
    address = "url", headers = { Accept = "x" }, body_headers = { Accept = "x", ["Content-Type"] = "y" },
    budget = retry.new_budget(),
  }
  for name, value in pairs(options or {}) do
    session[name] = value
  end
  return Things.new(session), transport.requests
end

describe("integrations.service", function()
  describe("a request", function()
    it("has method, address and headers as declared, and no body where none is", function()
      local things, requests = new()
      things:list()
      assert.equal("GET", requests[1].method)
      assert.equal("https://example.com/base/v1/things", requests[1].url)
      assert.same({ Accept = "x" }, requests[1].headers)
      assert.is_nil(requests[1].body)
    end)

    it("has its body as JSON, and says so", function()
      local things, requests = new()
      things:create { name = "a", tags = {} }
      assert.equal('{"name":"a","tags":[]}', requests[1].body)
      assert.equal("y", requests[1].headers["Content-Type"])
    end)

    local paths = {
      { "plain", "plain" },
      { "a b", "a%20b" },
      { "100%", "100%25" },
      { "%2e%2e", "%252e%252e" },
      { "a?b#c", "a%3Fb%23c" },
      { "a&b=c;d", "a%26b%3Dc%3Bd" },
      { "...", "..." },
      { ".a", ".a" },
      { "é", "%C3%A9" },
      { "a,b", "a%2Cb" },
      { "{part}", "%7Bpart%7D" },
      { "~a-b_c.d", "~a-b_c.d" },
    }
    for _, case in ipairs(paths) do
      it("cannot be changed by the id " .. case[1], function()
        local things, requests = new()
        things:get(case[1], "p")
        assert.equal("https://example.com/base/v1/things/" .. case[2] .. "/parts/p", requests[1].url)
      end)
    end

    local refused = {
      { "", "must not be empty" },
      { ".", 'must not be "." or ".."' },
      { "..", 'must not be "." or ".."' },
      { "a/b", "must not have a slash" },
      { "../../x", "must not have a slash" },
      { "a\\b", "must not have a slash" },
      { "a\r\nb", "must not have control characters" },
      { "a\0b", "must not have control characters" },
      { "a\127", "must not have control characters" },
      { "a\255", "must be UTF-8, which JSON requires: byte 2 is not" },
      { 5, "must be a string, not a number" },
      { false, "must be a string, not a boolean" },
      { {}, "must be a string, not a table" },
    }
    for _, case in ipairs(refused) do
      it(("is not sent for the id %q"):format(tostring(case[1])), function()
        local things, requests = new()
        local result, failed = things:get(case[1], "p")
        assert.is_nil(result)
        assert.same({ "id: " .. case[2] }, faults_of(failed))
        assert.equal(0, #requests)
      end)
    end

    it("has a list as literal commas between encoded ids", function()
      local things, requests = new()
      assert.is_true(things:delete { "a b", "c", "d&e" })
      assert.is_true(things:delete "one")
      assert.equal("https://example.com/base/v1/things?ids=a%20b,c,d%26e", requests[1].url)
      assert.equal("https://example.com/base/v1/things?ids=one", requests[2].url)
    end)

    it("is not sent where a list has what would be taken for something else", function()
      local things, requests = new()
      local _, failed = things:delete { "a,b", "ok", "", "..", 5 }
      assert.same({ "ids[5]: must be a string, not a number" }, faults_of(failed))
      _, failed = things:delete { "a,b", "ok", "", ".." }
      assert.same({
        "ids[1]: must not have a comma: it would be taken for two",
        "ids[3]: must not be empty",
        'ids[4]: must not be "." or ".."',
      }, faults_of(failed))
      _, failed = things:delete {}
      assert.same({ "ids: must have at least 1 element, not 0" }, faults_of(failed))
      _, failed = things:delete()
      assert.same({ "ids: must have at least 1 element, not 0" }, faults_of(failed))
      assert.equal(0, #requests)
    end)

    it("names the faults of all arguments at once", function()
      local things = new()
      local _, failed = things:get("..", nil)
      assert.same({ 'id: must not be "." or ".."', "part: must be a string, not nil" }, faults_of(failed))
      assert.same({ "invalid", "not_applied", "things.get", 0 },
        { failed.kind, failed.outcome, failed.operation, failed.attempts })
    end)

    it("reads ids raw, so that a metatable adds none", function()
      local things, requests = new()
      things:delete(setmetatable({ "a" }, { __index = function()
        return "b"
      end, __len = error }))
      assert.equal("https://example.com/base/v1/things?ids=a", requests[1].url)
    end)

    it("lets unknown names pass where the client is lenient", function()
      local things, requests = new(nil, { strict = false })
      things:create { name = "a", kind = "huge", colour = { "red" } }
      assert.equal('{"colour":["red"],"kind":"huge","name":"a"}', requests[1].body)
    end)
  end)

  describe("misuse raises", function()
    local things = new()

    it("where a method is called with a dot", function()
      assert.error_matches(function()
        things.list()
      end, "call it with a colon: things:list", 1, true)
      assert.error_matches(function()
        things.get "x"
      end, "call it with a colon: things:get", 1, true)
    end)

    local thread = coroutine.create(function() end)
    for name, value in pairs { ["function"] = print, thread = thread, userdata = io.stdout } do
      it("where data is a " .. name, function()
        assert.error_matches(function()
          things:create(value)
        end, "things.create: input must be data, not a " .. name, 1, true)
        assert.error_matches(function()
          things:delete(value)
        end, "things.delete: ids must be data, not a " .. name, 1, true)
        assert.error_matches(function()
          things:get(value, "p")
        end, "things.get: id must be data, not a " .. name, 1, true)
      end)
    end

    it("but data of the wrong type is a failure", function()
      for _, value in ipairs { "text", 5, true } do
        local result, failed = things:create(value)
        assert.is_nil(result)
        assert.same({ "input: must be an object, not a " .. type(value) }, faults_of(failed))
      end
      local _, failed = things:create()
      assert.same({ "input: must be an object, not nil" }, faults_of(failed))
      _, failed = things:create(require("integrations.json").null)
      assert.same({ "input: must be an object, not null" }, faults_of(failed))
    end)
  end)

  describe("a response", function()
    local page = "the answer is a web page, not JSON: something between here and the service sent it"
    local other = "the answer is not the JSON that the service documents"
    local lists = {
      { "a list", '{"things":[{"id":"a","new":1},{"id":"b"}]}', { { id = "a", new = 1 }, { id = "b" } } },
      { "an empty list", '{"things":[]}', {} },
      { "an empty body", "", "the answer is empty" },
      { "a web page", " <html>", page },
      { "cut JSON", '{"things":[{"id":"a"}', other },
      { "no list", "{}", other },
      { "null for a list", '{"things":null}', other },
      { "an object for a list", '{"things":{"id":"a"}}', other },
      { "a list of strings", '{"things":["a"]}', other },
      { "a list with a null", '{"things":[{"id":"a"},null]}', other },
      { "a list with a thing without id", '{"things":[{"id":"a"},{}]}', other },
      { "an array at the top", '[{"id":"a"}]', other },
      { "a number", "5", other },
    }
    for _, case in ipairs(lists) do
      it("to list with " .. case[1], function()
        local things = new { status = 200, body = case[2] }
        local result, failed = things:list()
        if type(case[3]) == "table" then
          assert.same(case[3], result)
        else
          assert.is_nil(result)
          assert.same({ "protocol", 200, case[3] }, { failed.kind, failed.status, failed.message })
        end
      end)
    end

    local a, b = { id = "a", new = 1 }, { id = "b" }
    local results = {
      { "pick", "a list, where one may be alone", '{"things":[{"id":"a","new":1},{"id":"b"}]}', { a, b } },
      { "pick", "an empty one", '{"things":[]}', {} },
      { "pick", "one alone: a list of one", '{"id":"a","new":1}', { a } },
      { "pick", "one alone beside null for a list", '{"id":"b","things":null}', { b } },
      { "pick", "a list that is none beside an id", '{"id":"b","things":{"id":"a"}}' },
      { "pick", "one alone without an id", '{"new":1}' },
      { "pick", "one alone whose id is a number", '{"id":1}' },
      { "pick", "nothing", "{}" },
      { "pick", "a web page", "<html>" },
      { "pick", "an empty body", "" },
      { "pick", "a list at the top", '[{"id":"a"}]' },
      { "list", "one where none may be alone", '{"id":"a","new":1}' },
      { "part", "one in its field", '{"thing":{"id":"a","new":1},"id":"b"}', a },
      { "part", "one that is not in its field", '{"id":"b"}' },
      { "part", "one without an id", '{"thing":{"new":1}}' },
      { "part", "null in its field", '{"thing":null}' },
      { "job", "any object, where none has an id", '{"new":1}', { new = 1 } },
      { "job", "an empty object", "{}", {} },
      { "job", "a text for an object", '"x"' },
      { "job", "null for an object", "null" },
      { "job", "no body at all", "" },
      { "jobs", "a list at the top, of things without ids", '[{"new":1},{}]', { { new = 1 }, {} } },
      { "jobs", "an empty list at the top", "[]", {} },
      { "jobs", "a list at the top with a null", '[{},null]' },
      { "jobs", "an object for a list", '{"new":1}' },
      { "leaf", "a page without its list", '{"offset":0,"count":0,"total":0}' },
    }
    for _, case in ipairs(results) do
      it(("to %s with %s"):format(case[1], case[2]), function()
        local things = new { status = 200, body = case[3] }
        local result, failed = things[case[1]](things)
        assert.same(case[4], result)
        if case[4] then
          assert.is_nil(failed)
        else
          assert.same({ "protocol", "things." .. case[1] }, { failed.kind, failed.operation })
        end
      end)
    end

    local pages = {
      { '"offset":2,"count":1,"total":3,', { offset = 2, count = 1, total = 3 } },
      { '"total":0,"success":true,', { total = 0 } },
      { '"total":null,', {} },
      { "", {} },
    }
    for _, case in ipairs(pages) do
      it("that is a page comes with what it says of itself: " .. case[1], function()
        local things = new { status = 200, body = ("{%s" .. '"things":[{"id":"b"}]}'):format(case[1]) }
        local result, told = things:leaf()
        assert.same({ { b }, case[2] }, { result, told })
        assert.is_nil(select(2, things:list()))
      end)
    end

    it("that is a page never comes with one where it is a failure", function()
      local good = { status = 200, body = '{"total":1,"things":[{"id":"b"}]}' }
      for _, answers in ipairs {
        { { status = 500, body = good.body } }, { { status = 404, body = good.body } },
        { { status = 200, body = '{"total":1,"things":[{}]}' } }, { { status = 200, body = '{"total":1}' } },
        { { problem = { code = "CURLE_PARTIAL_FILE", message = "m", sent = true, status = 200 } } },
      } do
        answers[2] = good
        local things = new(answers)
        local result, failed = things:leaf()
        assert.is_nil(result)
        assert.same({ "things.leaf", "not_applied", 1 }, { failed.operation, failed.outcome, failed.attempts })
        assert.is_nil(failed.total)
        assert.same({ total = 1 }, select(2, things:leaf()))
      end
    end)

    it("is read by what an operation says of its status", function()
      for _, case in ipairs { { "job", "limit_reached", "there is one" }, { "jobs", "rejected", "no" } } do
        local things = new { status = 409, body = "" }
        local _, failed = things[case[1]](things)
        assert.same({ case[2], case[3] }, { failed.kind, failed.message })
      end
    end)

    it("of 201 without a body was applied all the same", function()
      local things = new { status = 201, body = "" }
      local result, failed = things:create { name = "a" }
      assert.is_nil(result)
      assert.same({ "protocol", "applied", 201 }, { failed.kind, failed.outcome, failed.status })
    end)

    it("of any 2xx is good where nothing is to be read: without a body, or with any JSON", function()
      for _, body in ipairs { "", "{}", '{"job_id":"x"}', "[]", "null", "true" } do
        for _, status in ipairs { 200, 202, 204 } do
          assert.is_true((new { status = status, body = body }):delete "a")
        end
      end
    end)

    it("of 2xx is none where it is not JSON: something in between may have sent it", function()
      for _, body in ipairs { "<html>", "x", '{"a":', "\31\139\8" } do
        local done, failed = new({ status = 200, body = body }):delete "a"
        assert.is_nil(done)
        assert.same({ "protocol", "applied", 200 }, { failed.kind, failed.outcome, failed.status })
      end
    end)

    describe("of 404 to a removal that is repeated", function()
      local gone = { { status = 500, body = "" }, { status = 404, body = "" } }
      local choice = { max_attempts = 3, retry_writes = true }

      it("means that it is done", function()
        local things, requests = new(gone, choice)
        assert.is_true(things:delete "a")
        assert.equal(2, #requests)
      end)

      it("means nothing where it is about something else", function()
        local _, failed = new({ gone[1], { status = 404, body = "another" } }, choice):delete "a"
        assert.same({ "not_found", "unknown", 2 }, { failed.kind, failed.outcome, failed.attempts })
      end)

      it("leaves open which of several things are gone", function()
        local _, failed = new(gone, choice):delete { "a", "b" }
        assert.same({ "not_found", "unknown", 2 }, { failed.kind, failed.outcome, failed.attempts })
      end)

      it("means nothing where the first attempt did nothing", function()
        local refused = { problem = { code = "CURLE_COULDNT_CONNECT", message = "m", sent = false } }
        local _, failed = new({ refused, gone[2] }, choice):delete "a"
        assert.same({ "not_found", "not_applied", 2 }, { failed.kind, failed.outcome, failed.attempts })
      end)

      it("means nothing where something in between sends a web page", function()
        local _, failed = new({ gone[1], { status = 404, body = "<html>" } }, choice):delete "a"
        assert.same({ "not_found", "unknown", 2 }, { failed.kind, failed.outcome, failed.attempts })
      end)

      it("means nothing without one", function()
        local _, failed = new({ gone[2] }, choice):delete "a"
        assert.same({ "not_found", "not_applied", 1 }, { failed.kind, failed.outcome, failed.attempts })
      end)
    end)

    it("that points elsewhere is not followed", function()
      local things, requests = new { status = 302, headers = { location = "https://evil.example" }, body = "" }
      local _, failed = things:create { name = "a" }
      assert.same({ "protocol", 302, "not_applied" }, { failed.kind, failed.status, failed.outcome })
      assert.equal(1, #requests)
    end)

    it("of 4xx leaves a write's outcome open where the service says it after all it does", function()
      local refused = { status = 400, body = "thrown" }
      assert.equal("unknown", select(2, new(refused):create { name = "a" }).outcome)
      assert.equal("not_applied", select(2, new(refused):list()).outcome)
      assert.equal("not_applied", select(2, new({ status = 400, body = "" }):create { name = "a" }).outcome)
      for status, outcome in pairs { [400] = "unknown", [403] = "not_applied", [200] = "applied" } do
        local cut = { problem = { code = "CURLE_PARTIAL_FILE", message = "m", sent = true, status = status } }
        assert.equal(outcome, select(2, new(cut):create { name = "a" }).outcome)
      end
    end)

    it("of 2xx that says that nothing came of it is a refusal, of which nobody knows more", function()
      local refused = { status = 200, body = '{"ok":false,"id":"a","things":[]}' }
      for _, method in ipairs { "create", "delete" } do
        local things, requests = new(refused)
        local result, failed = things[method](things, method == "create" and { name = "a" } or "a")
        assert.is_nil(result)
        assert.same({ "rejected", "unknown", 200, 1 }, { failed.kind, failed.outcome, failed.status, #requests })
      end
      assert.same({ "rejected", "not_applied" }, { select(2, new(refused):list()).kind,
        select(2, new(refused):list()).outcome })
      assert.is_table((new({ status = 200, body = '{"ok":true,"things":[]}' }):list()))
    end)

    it("has the value that is declared, or is none", function()
      assert.is_true((new({ status = 200, body = '{"done":true}' }):finish()))
      for _, body in ipairs { "{}", '{"done":"true"}', '{"done":1}', "null", "true", "" } do
        assert.equal("protocol", select(2, new({ status = 200, body = body }):finish()).kind)
      end
    end)

    it("to a write that is about another thing the second time is the end of it", function()
      local lost = { problem = { code = "CURLE_GOT_NOTHING", message = "m", sent = true } }
      local choice = { max_attempts = 3, retry_writes = true }
      local things, requests = new({ lost, { status = 204, body = "" } }, choice)
      assert.is_true(things:drop { name = "a" })
      assert.equal(2, #requests)
      things, requests = new({ lost, { status = 204, body = "" } }, choice)
      assert.same({ "unknown", 1 }, { select(2, things:drop { name = "a", kind = "big" }).outcome, #requests })
    end)

    it("is one value, unless there are two", function()
      assert.equal(1, select("#", new({ status = 204, body = "" }):delete "a"))
      assert.equal(1, select("#", new({ status = 200, body = '{"things":[]}' }):list()))
    end)

    it("of 4xx is read by the client", function()
      local things = new { status = 418, body = "" }
      local _, failed = things:list()
      assert.same({ "rejected", 418 }, { failed.kind, failed.status })
    end)
  end)

  it("gives a failure once the client is closed", function()
    local things, requests = new(nil, { closed = true })
    local result, failed = things:list()
    assert.is_nil(result)
    assert.same({ "closed", "not_applied", "things.list" }, { failed.kind, failed.outcome, failed.operation })
    assert.equal(0, #requests)
  end)

  it("knows a schema's fields by their paths", function()
    local paths = {}
    for i, field in ipairs(service.fields(Things.declaration.schemas.Thing)) do
      paths[i] = field.path
    end
    table.sort(paths)
    assert.same({ "kind", "name", "size", "size.width", "tags" }, paths)
  end)

  it("bounds a helper's requests by one deadline", function()
    local things = new()
    local bounded = service.bounded(things)
    assert.is_number(bounded.session.deadline)
    assert.is_nil(things.session.deadline)
  end)

  it("gives a part of a helper's work a share of the time that is left", function()
    local things = new(nil, { now = function() return 100 end, timeout = 9 })
    local bounded = service.bounded(things)
    assert.equal(109, bounded.session.deadline)
    assert.equal(109, service.bounded(bounded).session.deadline)
    assert.equal(103, service.bounded(bounded, 1 / 3).session.deadline)
  end)

  it("gives a helper the time that it wants, but no more than is left", function()
    local things = new(nil, { now = function() return 100 end, timeout = 9 })
    local bounded = service.bounded(things, 1, 50)
    assert.equal(150, bounded.session.deadline)
    assert.equal(150, service.bounded(bounded, 1, 500).session.deadline)
  end)
end)
