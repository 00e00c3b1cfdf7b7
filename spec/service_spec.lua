local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"
local failure = require "integrations.failure"
local retry = require "integrations.retry"
local service = require "integrations.service"

-- A service that exists nowhere: what this module does must not depend on SendGrid.
local Things = service.define {
  name = "things",
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
          many = true,
          schema = { type = "array", minItems = 1, items = { type = "string" } },
        },
      },
    },
  },
}

local function read_failure(operation, response)
  local kinds = { [404] = "not_found", [500] = "server" }
  return failure.new {
    kind = kinds[response.status] or "rejected",
    operation = operation.name, status = response.status, message = "no",
  }
end

-- With one answer to each request, or a list of them.
local function new(answer, options)
  answer = answer or { status = 204, body = "" }
  local transport = fake_transport.new(answer[1] and answer or { answer })
  local session = {
    transport = transport, base_url = "https://example.com/base", timeout = 5, max_attempts = 1, now = os.time,
    headers = { Accept = "x" }, body_headers = { Accept = "x", ["Content-Type"] = "y" }, read_failure = read_failure,
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
end)
