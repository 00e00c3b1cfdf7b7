local cjson = require("cjson.safe").new()
local emulated = require "spec.support.emulated"
local emulators = require "integrations.emulator"

local expect = emulated.expect

local BASE = "http://127.0.0.1:1/v3/marketing/integrations"
local NO_SCOPE = "access forbidden. please ensure you have the correct scopes defined. see "
  .. "https://docs.sendgrid.com/api-reference/how-to-use-the-sendgrid-v3-api/authorization#api-key-permissions-list"
local BAD_KEY = "The provided authorization grant is invalid, expired, or revoked"
local VALID = '{"destination":"Segment","filters":{"email_events":["open","click"]},'
  .. '"properties":{"write_key":"a123456","destination_region":"US"}}'

--- The body of an error whose `field` is null.
local function null_field(message)
  return '{"errors":[{"field":null,"message":"' .. message .. '"}]}'
end

local function request_fault(message)
  return '{"errors":[{"field":"request","message":"' .. message .. '"}]}'
end

--- A valid input with some text of it exchanged.
local function input(from, to)
  local first, last = VALID:find(from, 1, true)
  assert(first, "no such text in the valid input: " .. from)
  return VALID:sub(1, first - 1) .. to .. VALID:sub(last + 1)
end

describe("the emulator", function()
  local emulator

  before_each(function() emulator = emulators.new() end)

  local function call(method, path, body, headers)
    return emulated.ask(emulator, { authorization = "Bearer SG.emulator.full", accept = "application/json" },
      { method = method, url = BASE .. path, body = body, headers = headers })
  end

  local function create(body, headers)
    local response = call("POST", "", body or VALID, headers)
    assert.equal(201, response.status)
    return cjson.decode(response.body).integration_id
  end

  local function ids(headers)
    local found = {}
    for index, integration in ipairs(cjson.decode(call("GET", "", nil, headers).body).result) do
      found[index] = integration.integration_id
    end
    return found
  end

  describe("keeps integrations:", function()
    it("an empty list is an empty JSON array", function()
      expect(200, '{"result":[]}', call("GET", ""))
    end)

    it("create answers 201 with the whole integration", function()
      expect(201, '{"destination":"Segment","filters":{"email_events":["open","click"]},"integration_id":"5a1234",'
        .. '"label":"Untitled Integration","properties":{"destination_region":"US","write_key":"a123456"},'
        .. '"user_id":"12345"}', call("POST", "", VALID))
    end)

    it("an empty list of events stays a JSON array", function()
      local response = call("POST", "", input('["open","click"]', "[ ]"))
      assert.equal(201, response.status)
      assert.truthy(response.body:find('"email_events":[]', 1, true))
      assert.equal(response.body, call("GET", "/5a1234").body)
      assert.equal('{"result":[' .. response.body .. "]}", call("GET", "").body)
    end)

    it("get answers what create answered", function()
      local created = call("POST", "", VALID)
      expect(200, created.body, call("GET", "/5a1234"))
    end)

    it("list keeps the order of creation, and ids differ", function()
      assert.same({ create(), create(), create() }, ids())
      assert.same({ "5a1234", "5a1235", "5a1236" }, ids())
    end)

    it("the same requests give the same bytes in another emulator", function()
      local first = call("POST", "", VALID).body
      emulator = emulators.new()
      assert.equal(first, call("POST", "", VALID).body)
    end)

    it("an unknown id is 404", function()
      local body = '{"errors":[{"message":"integration does not exist (abc)"}]}'
      expect(404, body, call("GET", "/abc"))
      expect(404, body, call("PATCH", "/abc", '{"label":"x"}'))
    end)

    it("a label is kept as it was sent, whatever its characters", function()
      local label = '"{}[] é \\u0000 / \\\\ \\" {}"'
      create(input('{"destination"', '{"label":' .. label .. ',"destination"'))
      local integration = cjson.decode(call("GET", "/5a1234").body)
      assert.equal('{}[] é \0 / \\ " {}', integration.label)
    end)

    it("names it does not know are ignored", function()
      create(input('{"destination"', '{"extra":{"a":[]},"destination"'))
      assert.is_nil(cjson.decode(call("GET", "/5a1234").body).extra)
    end)
  end)

  describe("checks a create:", function()
    local LONGEST = ("k"):rep(51)
    local cases = {
      { "nothing at all", "{}", "destination is required, filters is required, properties is required" },
      { "empty objects inside", '{"destination":"Segment","filters":{},"properties":{}}',
        "email_events is required, destination_region is required, write_key is required" },
      { "null for what is required", input('"Segment"', "null"), "destination is required" },
      { "another destination", input('"Segment"', '"Amplitude"'), "destination must be Segment" },
      { "a destination in another case", input('"Segment"', '"segment"'), "destination must be Segment" },
      { "a list as filters", input('{"email_events":["open","click"]}', "[]"), "filters must be an object" },
      { "a string as properties", input('{"write_key":"a123456","destination_region":"US"}', '"x"'),
        "properties must be an object" },
      { "an object as events", input('["open","click"]', "{}"), "email_events must be an array" },
      { "an object with blanks as events", input('["open","click"]', "{ \n\t }"),
        "email_events must be an array" },
      { "a filled object as events", input('["open","click"]', '{"open":true}'), "email_events must be an array" },
      { "a string as events", input('["open","click"]', '"open"'), "email_events must be an array" },
      { "an event that is a number", input('["open","click"]', '["open",1]'),
        "email_events must contain strings only" },
      { "an event that is null", input('["open","click"]', "[null]"), "email_events must contain strings only" },
      { "unknown events", input('["open","click"]', '["opened","click","Open"]'),
        "email_events contains an unknown event (opened), email_events contains an unknown event (Open)" },
      { "the documented pair", input('"a123456","destination_region":"US"', '"a12345","destination_region":"us"'),
        "destination_region must be EU or US, write_key must be at least 7 characters" },
      { "a write key too long", input('"a123456"', '"' .. LONGEST .. 'k"'),
        "write_key must be at most 51 characters" },
      { "a write key of six characters and more bytes", input('"a123456"', '"éééééé"'),
        "write_key must be at least 7 characters" },
      { "a write key that is a number", input('"a123456"', "1234567"), "write_key must be a string" },
      { "a region that is a number", input('"US"', "1"), "destination_region must be EU or US" },
      { "a label that is a number", input('{"destination"', '{"label":1,"destination"'), "label must be a string" },
      { "a label that is null", input('{"destination"', '{"label":null,"destination"'), "label must be a string" },
      { "faults everywhere", '{"destination":1,"filters":{"email_events":["x"]},"label":[],'
        .. '"properties":{"write_key":"","destination_region":null}}',
        "destination must be Segment, email_events contains an unknown event (x), label must be a string, "
        .. "destination_region is required, write_key must be at least 7 characters" },
    }
    for _, case in ipairs(cases) do
      it(case[1], function()
        expect(400, request_fault(case[3]), call("POST", "", (case[2])))
        assert.same({}, ids())
      end)
    end

    for _, key in ipairs { "a123456", LONGEST, "ééééééé" } do
      it("a write key of " .. #key .. " bytes is fine", function()
        create(input("a123456", key))
      end)
    end

    for _, event in ipairs {
      "drop", "processed", "deferred", "group_unsubscribe", "bounce", "delivered",
      "click", "unsubscribe", "open", "group_resubscribe", "spamreport", "machine_opened",
    } do
      it("the event " .. event .. " is known", function()
        create(input('["open","click"]', '["' .. event .. '"]'))
      end)
    end
  end)

  describe("refuses a body that is no JSON object:", function()
    local NOT_JSON, NOT_OBJECT = "request body is not valid JSON", "request body must be a JSON object"
    for body, message in pairs {
      [""] = NOT_JSON, ["{"] = NOT_JSON, ["{} {}"] = NOT_JSON, ['{"label":NaN}'] = NOT_JSON,
      ['{"label":0x10}'] = NOT_JSON, ['{"label":"open}'] = NOT_JSON, ['{"label":"a\nb"}'] = NOT_JSON,
      ["{'label':1}"] = NOT_JSON, ["\239\187\191{}"] = NOT_JSON, ['{"label":"\\'] = NOT_JSON,
      ["[]"] = NOT_OBJECT, ["[{}]"] = NOT_OBJECT, ["null"] = NOT_OBJECT, ['"x"'] = NOT_OBJECT, ["1"] = NOT_OBJECT,
      ["true"] = NOT_OBJECT, ["false"] = NOT_OBJECT,
    } do
      it(("%q"):format(body), function()
        create()
        expect(400, request_fault(message), call("POST", "", body))
        expect(400, request_fault(message), call("PATCH", "/5a1234", body))
      end)
    end

    it("no body", function()
      expect(400, request_fault(NOT_JSON), call("POST", ""))
    end)
  end)

  describe("updates:", function()
    local function patched(patch)
      local response = call("PATCH", "/" .. create(), patch)
      assert.equal(200, response.status)
      assert.equal(response.body, call("GET", "/5a1234").body)
      return cjson.decode(response.body)
    end

    it("what is left out stays", function()
      assert.same({
        integration_id = "5a1234", user_id = "12345", label = "mine", destination = "Segment",
        filters = { email_events = { "open", "click" } },
        properties = { write_key = "a123456", destination_region = "US" },
      }, patched '{"label":"mine"}')
    end)

    it("the label stays when something else changes", function()
      create(input('{"destination"', '{"label":"mine","destination"'))
      local response = call("PATCH", "/5a1234", '{"destination":"Segment"}')
      assert.equal("mine", cjson.decode(response.body).label)
    end)

    it("one property changes, the other stays", function()
      assert.same({ write_key = "a123456", destination_region = "EU" },
        patched('{"properties":{"destination_region":"EU"}}').properties)
    end)

    it("the list of events is replaced, not extended", function()
      assert.same({ "bounce" }, patched('{"filters":{"email_events":["bounce"]}}').filters.email_events)
    end)

    it("the list of events may become empty", function()
      create()
      local response = call("PATCH", "/5a1234", '{"filters":{"email_events":[]}}')
      assert.truthy(response.body:find('"email_events":[]', 1, true))
    end)

    for patch, message in pairs {
      ["{}"] = "at least one field is required",
      ['{"unknown":1}'] = "at least one field is required",
      ['{"filters":{"email_events":{}}}'] = "email_events must be an array",
      ['{"filters":null}'] = "filters must be an object",
      ['{"label":false,"properties":{"write_key":"short","destination_region":null}}'] =
        "label must be a string, destination_region must be EU or US, write_key must be at least 7 characters",
    } do
      it("refuses " .. patch .. " and changes nothing", function()
        create()
        local before = call("GET", "/5a1234").body
        expect(400, request_fault(message), call("PATCH", "/5a1234", patch))
        assert.equal(before, call("GET", "/5a1234").body)
      end)
    end
  end)

  describe("deletes in bulk:", function()
    local function empty(...)
      local errors = {}
      for index, number in ipairs { ... } do
        errors[index] = ('{"message":"IDs cannot be an empty string","parameter":"ids[%d]"}'):format(number)
      end
      return '{"errors":[' .. table.concat(errors, ",") .. "]}"
    end
    local FORM = '{"errors":[{"message":"ids must be one comma-delimited parameter","parameter":"ids"}]}'
    local function unknown(id)
      return '{"errors":[{"message":"integration does not exist (' .. id .. ')"}]}'
    end

    before_each(function()
      create()
      create()
      create()
    end)

    it("a 204 has neither body nor content type", function()
      expect(204, "", call("DELETE", "?ids=5a1234,5a1236"))
      assert.same({ "5a1235" }, ids())
    end)

    it("one id; an id named twice is deleted once", function()
      expect(204, "", call("DELETE", "?ids=5a1235"))
      expect(204, "", call("DELETE", "?ids=5a1234,5a1234"))
      assert.same({ "5a1236" }, ids())
    end)

    it("ids may be percent-encoded, other parameters are ignored", function()
      expect(204, "", call("DELETE", "?x=1&i%64s=5a%31234,%35a1235&y"))
      assert.same({ "5a1236" }, ids())
    end)

    it("a deleted id is gone and never given again", function()
      call("DELETE", "?ids=5a1236")
      expect(404, unknown "5a1236", call("GET", "/5a1236"))
      assert.equal("5a1237", create())
    end)

    local refused = {
      { "", 400, empty(0) }, { "?", 400, empty(0) }, { "?ids", 400, empty(0) }, { "?ids=", 400, empty(0) },
      { "?IDS=5a1234", 400, empty(0) },
      { "?ids=5a1234,", 400, empty(1) }, { "?ids=,5a1234", 400, empty(0) },
      { "?ids=5a1234,,5a1235", 400, empty(1) }, { "?ids=,", 400, empty(0, 1) },
      { "?ids[]=5a1234", 400, FORM }, { "?ids%5B%5D=5a1234&ids%5B%5D=5a1235", 400, FORM },
      { "?ids[0]=5a1234", 400, FORM }, { "?ids=5a1234&ids=5a1235", 400, FORM },
      { "?ids=5a1234&ids[]=5a1235", 400, FORM },
      { "?ids=5a1234,abc", 404, unknown "abc" }, { "?ids=abc", 404, unknown "abc" },
      { "?ids=5a1234%2C5a1235", 404, unknown "5a1234,5a1235" },
      { "?ids=5a1234,%205a1235", 404, unknown " 5a1235" }, { "?ids=5a1234,+5a1235", 404, unknown " 5a1235" },
      { "?ids=5a%2531234", 404, unknown "5a%31234" }, { "?ids=5A1234", 404, unknown "5A1234" },
      { "?ids=abc,5a1234,def", 404,
        '{"errors":[{"message":"integration does not exist (abc)"},{"message":"integration does not exist (def)"}]}' },
      { "?ids=5a1234,%zz", 400, request_fault "malformed URL" },
    }
    for _, case in ipairs(refused) do
      it(("DELETE %s deletes nothing"):format(case[1]), function()
        expect(case[2], case[3], call("DELETE", case[1]))
        assert.same({ "5a1234", "5a1235", "5a1236" }, ids())
      end)
    end
  end)

  describe("limits the number of integrations:", function()
    local REACHED = '{"errors":[{"message":"the maximum number of integrations is reached (%d)"}]}'

    it("ten, unless told otherwise", function()
      for _ = 1, 10 do create() end
      expect(403, REACHED:format(10), call("POST", "", VALID))
      assert.equal(10, #ids())
    end)

    it("a deleted integration makes room", function()
      emulator = emulators.new { quota = 1 }
      create()
      expect(403, REACHED:format(1), call("POST", "", VALID))
      call("DELETE", "?ids=5a1234")
      create()
    end)

    it("a subuser has a limit of its own", function()
      emulator = emulators.new { quota = 1 }
      create()
      create(nil, { ["on-behalf-of"] = "alice" })
      assert.equal(403, call("POST", "", VALID, { ["on-behalf-of"] = "alice" }).status)
    end)

    it("a wrong body is told before the limit is", function()
      emulator = emulators.new { quota = 0 }
      assert.equal(400, call("POST", "", "{}").status)
    end)
  end)

  describe("asks who calls:", function()
    for name, case in pairs {
      ["no header"] = { false, "authorization required" },
      ["an empty header"] = { "", "authorization required" },
      ["an unknown key"] = { "Bearer SG.unknown", BAD_KEY },
      ["no key"] = { "Bearer", BAD_KEY },
      ["another scheme"] = { "Basic SG.emulator.full", BAD_KEY },
      ["a key alone"] = { "SG.emulator.full", BAD_KEY },
      ["blanks after the key"] = { "Bearer SG.emulator.full ", BAD_KEY },
      ["two headers"] = { { "Bearer SG.emulator.full", "Bearer SG.emulator.full" }, BAD_KEY },
    } do
      it(name .. " is 401", function()
        expect(401, null_field(case[2]), call("GET", "", nil, { authorization = case[1] }))
      end)
    end

    it("the scheme and the header's name may be in any case", function()
      local response = emulator:send {
        method = "GET", url = BASE, headers = { AUTHORIZATION = "bearer SG.emulator.full", Accept = "*/*" },
      }
      assert.equal(200, response.status)
    end)

    it("a key that may only read gets 403 for every write", function()
      create()
      local reader = { authorization = "Bearer SG.emulator.read" }
      local forbidden = '{"errors":[{"message":"' .. NO_SCOPE .. '"}]}'
      assert.same({ "5a1234" }, ids(reader))
      assert.equal(200, call("GET", "/5a1234", nil, reader).status)
      expect(403, forbidden, call("POST", "", VALID, reader))
      expect(403, forbidden, call("PATCH", "/5a1234", '{"label":"x"}', reader))
      expect(403, forbidden, call("DELETE", "?ids=5a1234", nil, reader))
      assert.same({ "5a1234" }, ids())
    end)

    it("keys of one's own: one user's keys share integrations, another user has others", function()
      emulator = emulators.new { keys = {
        ["SG.a"] = { user_id = "1" }, ["SG.b"] = { user_id = "1" }, ["SG.c"] = { user_id = "2" },
      } }
      create(nil, { authorization = "Bearer SG.a" })
      assert.same({ "5a1234" }, ids { authorization = "Bearer SG.b" })
      assert.same({}, ids { authorization = "Bearer SG.c" })
      assert.equal(404, call("GET", "/5a1234", nil, { authorization = "Bearer SG.c" }).status)
      assert.equal(401, call("GET", "").status)
    end)

    it("a subuser has integrations of its own", function()
      local alice, account = { ["on-behalf-of"] = "alice" }, { ["On-Behalf-Of"] = "account-id 7" }
      create()
      create(nil, alice)
      create(nil, account)
      assert.same({ { "5a1234" }, { "5a1235" }, { "5a1236" } }, { ids(), ids(alice), ids(account) })
      assert.equal(404, call("GET", "/5a1234", nil, alice).status)
      assert.equal(404, call("DELETE", "?ids=5a1235", nil, account).status)
      assert.equal(404, call("PATCH", "/5a1236", '{"label":"x"}').status)
    end)

    it("only the named subusers exist", function()
      emulator = emulators.new { subusers = { "alice", "account-id 7" } }
      assert.equal(200, call("GET", "", nil, { ["on-behalf-of"] = "alice" }).status)
      assert.equal(200, call("GET", "", nil, { ["on-behalf-of"] = "account-id 7" }).status)
      assert.equal(200, call("GET", "").status)
      for _, name in ipairs { "bob", "Alice", "7" } do
        expect(403, '{"errors":[{"message":"access forbidden. there is no such subuser (' .. name .. ')"}]}',
          call("GET", "", nil, { ["on-behalf-of"] = name }))
      end
    end)

    it("an empty subuser does not exist", function()
      expect(403, '{"errors":[{"message":"access forbidden. there is no such subuser ()"}]}',
        call("GET", "", nil, { ["on-behalf-of"] = "" }))
    end)
  end)

  describe("is strict about HTTP:", function()
    local NOT_FOUND = '{"errors":[{"message":"not found"}]}'
    for _, path in ipairs {
      "s", "/", "/a/b", "/../../api_keys", "//5a1234", "%2F5a1234",
    } do
      it("there is no path " .. path, function()
        create()
        expect(404, NOT_FOUND, call("GET", path))
      end)
    end

    for _, target in ipairs { "/", "/v3", "/v4/marketing/integrations", "/_emulatorx", "http://127.0.0.1:1/" } do
      it("there is nothing at " .. target, function()
        expect(404, NOT_FOUND, emulator:handle { method = "GET", url = target, headers = {} })
      end)
    end

    it("a path is percent-decoded once", function()
      create()
      assert.equal(200, call("GET", "/5a%31234").status)
      for path, id in pairs {
        ["/5a%2531234"] = "5a%31234", ["/a%2Fb"] = "a/b", ["/%2e%2e"] = "..", ["/.."] = "..", ["/a+b"] = "a+b",
        ["/5a1234%3Fx"] = "5a1234?x",
      } do
        expect(404, '{"errors":[{"message":"integration does not exist (' .. id .. ')"}]}', call("GET", path))
      end
    end)

    for _, path in ipairs {
      "/%", "/%4", "/%zz", "/a b", "/a\nb", "/é", "/a#b", "?ids=%", "?%zz=1", "/\0",
    } do
      it(("the URL's end %q is malformed"):format(path), function()
        expect(400, request_fault "malformed URL", call("GET", path))
      end)
    end

    for _, case in ipairs {
      { "PUT", "", "DELETE, GET, POST" }, { "PATCH", "", "DELETE, GET, POST" }, { "HEAD", "", "DELETE, GET, POST" },
      { "get", "", "DELETE, GET, POST" },
      { "DELETE", "/5a1234", "GET, PATCH" }, { "POST", "/5a1234", "GET, PATCH" }, { "PUT", "/5a1234", "GET, PATCH" },
    } do
      it(("%s %s is 405"):format(case[1], case[2]), function()
        local response = call(case[1], case[2])
        expect(405, null_field "method not allowed", response)
        assert.equal(case[3], response.headers.allow)
      end)
    end

    for _, accept in ipairs {
      "application/json", "*/*", "application/*", "text/html, application/json;q=0.5", "APPLICATION/JSON",
      "application/json; charset=utf-8", "*/*;q=0, application/json", "text/html,*/*;q=0.1",
    } do
      it("Accept: " .. accept .. " allows JSON", function()
        assert.equal(200, call("GET", "", nil, { accept = accept }).status)
      end)
    end

    for _, accept in ipairs {
      false, "", "text/html", "application/xml, text/*", "application/json;q=0", "*/*, application/json; q=0.0",
      "application/jsonp",
    } do
      it("Accept: " .. tostring(accept) .. " is 406", function()
        expect(406, null_field "no acceptable content type: the Accept header must allow application/json",
          call("GET", "", nil, { accept = accept }))
      end)
    end

    for _, kind in ipairs { "application/json", "application/json; charset=utf-8", "Application/JSON ;x=y" } do
      it("content type " .. kind, function() create(nil, { ["content-type"] = kind }) end)
    end

    for _, kind in ipairs {
      false, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "text/json",
    } do
      it("content type " .. tostring(kind) .. " is 415", function()
        create()
        local headers = { ["content-type"] = kind }
        expect(415, null_field "content type must be application/json", call("POST", "", VALID, headers))
        expect(415, null_field "content type must be application/json", call("PATCH", "/5a1234", VALID, headers))
      end)
    end

    it("a body of 1 MiB is read, one byte more is 413", function()
      local body = VALID .. (" "):rep(1024 * 1024 - #VALID)
      create(body)
      expect(413, null_field "request body too large", call("POST", "", body .. " "))
      assert.equal(1, #ids())
    end)

    it("a URL may be a path alone", function()
      local headers = { Authorization = "Bearer SG.emulator.full", Accept = "application/json" }
      local response = emulator:handle { method = "GET", url = "/v3/marketing/integrations", headers = headers }
      expect(200, '{"result":[]}', response)
    end)

    it("what is no request raises", function()
      for _, request in ipairs { {}, { method = "GET" }, { url = BASE }, "GET" } do
        assert.error_matches(function() emulator:handle(request) end, "a request is a table with a method and a url")
      end
    end)
  end)

  describe("answers as told:", function()
    local defaults = {
      [400] = request_fault "bad request",
      [401] = null_field(BAD_KEY),
      [403] = '{"errors":[{"message":"' .. NO_SCOPE .. '"}]}',
      [404] = '{"errors":[{"message":"not found"}]}',
      [418] = null_field "error",
      [429] = null_field "too many requests",
      [451] = null_field "unavailable for legal reasons",
      [500] = '{"errors":[{"message":"internal error"}]}',
      [503] = null_field "service unavailable",
      [200] = "",
    }
    for status, body in pairs(defaults) do
      it(status .. " with its own body, once, and without an effect", function()
        emulator:respond_next { status = status }
        expect(status, body, call("POST", "", VALID))
        assert.same({}, ids())
      end)
    end

    it("429 brings its headers, unless others are given", function()
      emulator:respond_next { status = 429 }
      assert.same({
        ["content-type"] = "application/json", ["x-ratelimit-limit"] = "600",
        ["x-ratelimit-remaining"] = "0", ["x-ratelimit-reset"] = "1",
      }, call("GET", "").headers)
      emulator:respond_next { status = 429, headers = { ["Retry-After"] = 2 } }
      assert.same({ ["content-type"] = "application/json", ["retry-after"] = "2" }, call("GET", "").headers)
    end)

    it("a string is sent as it is, a table as JSON", function()
      emulator:respond_next { status = 502, body = "<html>", headers = { ["Content-Type"] = "text/html" } }
      emulator:respond_next { status = 200, body = { result = { { label = "a/b" }, 1, true } } }
      emulator:respond_next { status = 500, body = "" }
      local page = call("GET", "")
      assert.same({ 502, "<html>", "text/html" }, { page.status, page.body, page.headers["content-type"] })
      expect(200, '{"result":[{"label":"a/b"},1,true]}', call("GET", ""))
      expect(500, "", call("GET", ""))
      expect(200, '{"result":[]}', call("GET", ""))
    end)

    it("later changes to the caller's table do not reach the queue", function()
      local answer = { status = 200, body = { a = 1 } }
      emulator:respond_next(answer)
      answer.status, answer.body.a = 500, 2
      expect(200, '{"a":1}', call("GET", ""))
    end)

    it("several times, in order, by method", function()
      emulator:respond_next { status = 500, times = 2 }
      emulator:respond_next { status = 403, method = "POST" }
      emulator:respond_next { status = 429 }
      local seen = {}
      for index, method in ipairs { "GET", "POST", "GET", "POST", "GET" } do
        seen[index] = call(method, "", method == "POST" and VALID or nil).status
      end
      assert.same({ 500, 500, 429, 403, 200 }, seen)
    end)

    it("before any check of the request", function()
      emulator:respond_next { status = 503 }
      assert.equal(503, emulator:handle({ method = "GET", url = "/a b" }).status)
    end)

    for message, answer in pairs {
      ["status is required"] = {},
      ["status must be a whole number from 200 to 599"] = { status = 100 },
      ["unknown field statuss"] = { status = 500, statuss = 500 },
      ["headers must be a table"] = { status = 500, headers = "x" },
      ["headers must be a table of names"] = { status = 500, headers = { "x" } },
      ["headers must be a table of names and"] = { status = 500, headers = { a = { "x" } } },
      ["of names and texts or numbers"] = { status = 500, headers = { ["a b"] = "x" } },
      ["without line ends"] = { status = 500, headers = { a = "x\r\ny: z" } },
      ["body must be a string or a table"] = { status = 500, body = 1 },
      ["times must be a whole number from 1"] = { status = 500, times = 0 },
      ["method must be a string"] = { status = 500, method = 1 },
      ["an answer is a table with a status"] = 500,
    } do
      it("raises: " .. message, function()
        assert.error_matches(function() emulator:respond_next(answer) end, message, 1, true)
        assert.equal(200, call("GET", "").status)
      end)
    end
  end)

  describe("keeps a ledger:", function()
    it("of every request, whatever became of it, without the key", function()
      call("POST", "", VALID)
      call("GET", "/nowhere/at/all", nil, { Authorization = "Bearer SG.secret", ["X-Other"] = "1" })
      emulator:respond_next { status = 500 }
      call("DELETE", "?ids=1", nil, { accept = false })
      assert.same({
        { method = "POST", url = BASE, body = VALID,
          headers = { accept = "application/json", ["content-type"] = "application/json" } },
        { method = "GET", url = BASE .. "/nowhere/at/all",
          headers = { accept = "application/json", ["x-other"] = "1" } },
        { method = "DELETE", url = BASE .. "?ids=1", headers = {} },
      }, emulator.requests)
    end)

    it("without any service's secrets, whichever it went to", function()
      local secrets = { ["X-Auth-Token"] = "RC.secret", ["x-2fa-code"] = "123456", ["X-User-Id"] = "me" }
      for _, url in ipairs { BASE, "/v3/marketing/segments/2.0", "/api/v1/integrations.list", "/", "/%" } do
        secrets.authorization = "Bearer SG.secret"
        emulator:handle { method = "GET", url = url, headers = secrets }
      end
      assert.equal(5, #emulator.requests)
      for _, request in ipairs(emulator.requests) do assert.same({ ["x-user-id"] = "me" }, request.headers) end
    end)

    it("of the last thousand", function()
      for index = 1, 1003 do call("GET", "/" .. index) end
      assert.equal(1000, #emulator.requests)
      assert.equal(BASE .. "/4", emulator.requests[1].url)
      assert.equal(BASE .. "/1003", emulator.requests[1000].url)
    end)
  end)

  it("reset forgets integrations, queued answers and the ledger, and starts the ids over", function()
    create()
    emulator:respond_next { status = 500 }
    emulator:reset()
    assert.same({}, emulator.requests)
    assert.same({}, ids())
    assert.equal("5a1234", create())
  end)

  describe("serves several services:", function()
    local SENDGRID = '{"errors":[{"message":"not found"}]}'
    local ROCKETCHAT = '{"error":"API endpoint not found","success":false}'

    for target, body in pairs {
      ["/v3/marketing/segments"] = SENDGRID, ["/v3/marketing/segments/1.0"] = SENDGRID,
      ["/v3/marketing/segments/2.0/"] = SENDGRID, ["/v3/api/v1/integrations.list"] = SENDGRID, ["/"] = SENDGRID,
      ["/apis"] = SENDGRID, ["/api"] = ROCKETCHAT, ["/api/v3/marketing/integrations"] = ROCKETCHAT,
      ["/%61pi/v1"] = ROCKETCHAT, ["http://127.0.0.1:1/api/v1/"] = ROCKETCHAT,
    } do
      it("the path tells which is asked: " .. target, function()
        expect(404, body, emulator:handle { method = "GET", url = target })
      end)
    end

    local HEADERS = {
      authorization = "Bearer SG.emulator.full", accept = "*/*", ["content-type"] = "application/json",
      ["x-user-id"] = "emulator", ["x-auth-token"] = "RC.emulator.full",
    }

    --- How much each service keeps.
    local function kept()
      local function get(url)
        return cjson.decode(emulator:handle({ method = "GET", url = url, headers = HEADERS }).body)
      end
      return {
        #get(BASE).result, #get("/v3/marketing/segments/2.0").results, get("/api/v1/integrations.list").total,
      }
    end

    local function fill()
      for url, body in pairs {
        [BASE] = VALID,
        ["/v3/marketing/segments/2.0"] = '{"name":"a","query_dsl":"b"}',
        ["/api/v1/integrations.create"] = '{"type":"webhook-incoming","name":"a","enabled":true,'
          .. '"scriptEnabled":false,"channel":"#a","username":"a"}',
      } do
        local response = emulator:handle { method = "POST", url = url, headers = HEADERS, body = body }
        assert.truthy(response.status < 300, response.body)
      end
    end

    it("each keeps its own, and a reset is for all", function()
      assert.same({ 0, 0, 0 }, kept())
      fill()
      assert.same({ 1, 1, 1 }, kept())
      emulator:reset()
      assert.same({ 0, 0, 0 }, kept())
    end)

    it("a queued answer goes to whoever is asked next, in the words of the service", function()
      for target, body in pairs {
        [BASE] = '{"errors":[{"message":"internal error"}]}',
        ["/v3/marketing/segments/2.0"] = '{"errors":[{"message":"internal error"}]}',
        ["/api/v1/integrations.list"] = '{"error":"Internal server error","success":false}',
        ["/nowhere"] = '{"errors":[{"message":"internal error"}]}',
        ["/a b"] = '{"errors":[{"message":"internal error"}]}',
      } do
        emulator:respond_next { status = 500 }
        expect(500, body, emulator:handle { method = "GET", url = target })
      end
    end)
  end)

  it("two emulators share nothing", function()
    local other = emulators.new()
    create()
    emulator:respond_next { status = 500 }
    emulator = other
    assert.same({}, ids())
    assert.equal(1, #emulator.requests)
  end)

  describe("is controlled over HTTP:", function()
    local function control(method, name, body)
      return emulator:handle { method = method, url = "http://127.0.0.1:1/_emulator/" .. name, body = body }
    end

    it("health", function()
      expect(200, '{"status":"ok"}', control("GET", "health"))
    end)

    it("reset", function()
      create()
      expect(204, "", control("POST", "reset"))
      assert.same({}, ids())
    end)

    it("respond-next", function()
      expect(204, "", control("POST", "respond-next",
        '{"status":429,"headers":{"Retry-After":3},"body":{"errors":[],"x":{}},"times":2,"method":"GET"}'))
      expect(204, "", control("POST", "respond-next", '{"status":500,"body":null}'))
      local limited = call("GET", "")
      expect(429, '{"errors":[],"x":{}}', limited)
      assert.equal("3", limited.headers["retry-after"])
      assert.equal(500, call("POST", "", VALID).status)
      assert.equal(429, call("GET", "").status)
      assert.equal(200, call("GET", "").status)
    end)

    for body, message in pairs {
      ["[]"] = "the body must be a JSON object",
      ["x"] = "the body must be a JSON object",
      ["{}"] = "status is required",
      ['{"status":"500"}'] = "status must be a whole number from 200 to 599",
      ['{"status":500,"delay":1}'] = "unknown field delay",
    } do
      it("respond-next refuses " .. body, function()
        expect(400, '{"error":"' .. message .. '"}', control("POST", "respond-next", body))
        assert.equal(200, call("GET", "").status)
      end)
    end

    it("requests, of which control is none", function()
      expect(200, "[]", control("GET", "requests"))
      call("GET", "/a%20b")
      expect(200, '[{"headers":{"accept":"application/json"},"method":"GET","url":"' .. BASE .. '/a%20b"}]',
        control("GET", "requests"))
    end)

    it("nothing else", function()
      expect(404, '{"error":"no such control"}', control("GET", "other"))
      expect(404, '{"error":"no such control"}', control("GET", "health/x"))
      local response = control("GET", "reset")
      expect(405, '{"error":"method not allowed"}', response)
      assert.equal("POST", response.headers.allow)
    end)
  end)
end)
