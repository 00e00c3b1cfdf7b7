local cjson = require("cjson.safe").new()
local emulated = require "spec.support.emulated"
local emulators = require "integrations.emulator"

local expect = emulated.expect

local BASE = "http://127.0.0.1:1/v3/marketing/segments/2.0"
local QUERY = "SELECT contact_id, updated_at FROM contact_data"
local ID = "5e900000-0000-4000-8000-%012x"
local FIRST, SECOND, THIRD = ID:format(1), ID:format(2), ID:format(3)
local SAMPLE = '"contacts_sample":[{"address_line_1":"street address / P.O. box / CompanyName / c/o",'
  .. '"address_line_2":"apartment, suite, unit, building, floor etc",'
  .. '"alternate_emails":["abcd@yahoo.com","abcd@hotmail.com"],"city":"Redwood City","country":"USA",'
  .. '"custom_fields":{"custom_field_name1":"custom_field_value1","custom_field_name2":"custom_field_value2"},'
  .. '"email":"abcd@gmail.com","first_name":"Ab","id":"47d23ab0-d895-4359-a0d1-ffc7a6fc7e70","last_name":"Cd",'
  .. '"postal_code":94063,"state_province_region":"CA"}],'
local NO_SCOPE = "access forbidden. please ensure you have the correct scopes defined. see "
  .. "https://docs.sendgrid.com/api-reference/how-to-use-the-sendgrid-v3-api/authorization#api-key-permissions-list"

--- The body of an error; the arguments are fields and messages by turns.
local function faults(...)
  local errors, texts = {}, { ... }
  for index = 1, #texts, 2 do
    errors[#errors + 1] = ('{"field":"%s","message":"%s"}'):format(texts[index], texts[index + 1])
  end
  return '{"errors":[' .. table.concat(errors, ",") .. "]}"
end

local function unknown(id)
  return faults("segment_id", "segment does not exist (" .. id .. ")")
end

local function input(name, more)
  return ('{"name":"%s","query_dsl":"%s"%s}'):format(name, QUERY, more or "")
end

describe("the emulator's segments", function()
  local emulator

  before_each(function() emulator = emulators.new() end)

  local function call(method, path, body, headers)
    return emulated.ask(emulator, { authorization = "Bearer SG.emulator.full", accept = "application/json" },
      { method = method, url = BASE .. path, body = body, headers = headers })
  end

  local function create(name, more, headers)
    local response = call("POST", "", input(name, more), headers)
    assert.equal(201, response.status)
    return cjson.decode(response.body)
  end

  local function get(id, query)
    local response = call("GET", "/" .. id .. (query or ""))
    assert.equal(200, response.status)
    return cjson.decode(response.body)
  end

  local function list(query, headers)
    local response = call("GET", query or "", nil, headers)
    assert.equal(200, response.status)
    return cjson.decode(response.body).results
  end

  local function names(query, headers)
    local found = {}
    for index, segment in ipairs(list(query, headers)) do found[index] = segment.name end
    return found
  end

  describe("are kept:", function()
    local CREATED = '{"contacts_count":1,' .. SAMPLE .. '"created_at":"2026-01-01T00:00:01Z","id":"' .. FIRST
      .. '","max_refreshes":2,"name":"first","next_sample_update":"2026-01-01T01:00:01Z","parent_list_ids":["list"],'
      .. '"query_dsl":"' .. QUERY .. '","query_version":"2","refreshes_used":0,'
      .. '"sample_updated_at":"2026-01-01T00:00:01Z","status":{"query_validation":"PENDING"},'
      .. '"updated_at":"2026-01-01T00:00:01Z"}'

    it("create answers 201 with the whole segment", function()
      expect(201, CREATED, call("POST", "", input("first", ',"parent_list_ids":["list"]')))
    end)

    it("get answers what create answered", function()
      create("first", ',"parent_list_ids":["list"]')
      expect(200, CREATED, call("GET", "/" .. FIRST))
    end)

    it("the same requests give the same bytes in another emulator", function()
      local first = call("POST", "", input "a").body
      emulator = emulators.new()
      assert.equal(first, call("POST", "", input "a").body)
    end)

    it("without a parent list there is an empty array", function()
      assert.truthy(call("POST", "", input "a").body:find('"parent_list_ids":[]', 1, true))
      assert.truthy(call("POST", "", input("b", ',"parent_list_ids":[]')).body:find('"parent_list_ids":[]', 1, true))
    end)

    it("a list tells neither queries nor contacts", function()
      create "first"
      expect(200, '{"_metadata":{"count":1,"self":"https://api.sendgrid.com/v3/marketing/segments/2.0"},"results":['
        .. '{"_metadata":{"self":"https://api.sendgrid.com/v3/marketing/segments/2.0/' .. FIRST .. '"},'
        .. '"contacts_count":1,"created_at":"2026-01-01T00:00:01Z","id":"' .. FIRST .. '","name":"first",'
        .. '"next_sample_update":"2026-01-01T01:00:01Z","parent_list_ids":[],"query_version":"2",'
        .. '"sample_updated_at":"2026-01-01T00:00:01Z","status":{"query_validation":"PENDING"},'
        .. '"updated_at":"2026-01-01T00:00:01Z"}]}', call("GET", ""))
    end)

    it("an empty list is an empty JSON array", function()
      expect(200, '{"_metadata":{"count":0,"self":"https://api.sendgrid.com/v3/marketing/segments/2.0"},"results":[]}',
        call("GET", ""))
    end)

    it("ids are UUIDs and counted up, and no id is given twice", function()
      assert.same({ FIRST, SECOND }, { create("a").id, create("b").id })
      assert.equal(36, #FIRST)
      call("DELETE", "/" .. SECOND)
      assert.equal(THIRD, create("c").id)
    end)

    it("an unknown id is 404", function()
      expect(404, unknown "abc", call("GET", "/abc"))
      expect(404, unknown "abc", call("PATCH", "/abc", '{"name":"x"}'))
      expect(404, unknown "abc", call("DELETE", "/abc"))
    end)

    it("names that are not known are ignored", function()
      assert.is_nil(create("a", ',"extra":{"a":[]}').extra)
    end)

    it("a deleted segment is gone; the answer is 202 without a body", function()
      create "a"
      create "b"
      expect(202, "", call("DELETE", "/" .. FIRST))
      expect(404, unknown(FIRST), call("DELETE", "/" .. FIRST))
      assert.same({ "b" }, names())
    end)

    it("reset forgets them, and starts the ids and the time over", function()
      local before = create "a"
      emulator:reset()
      assert.same({}, names())
      assert.same(before, create "a")
    end)
  end)

  describe("have a sample of their contacts:", function()
    before_each(function() create "a" end)

    it("unless the caller wants none", function()
      assert.equal("abcd@gmail.com", get(FIRST).contacts_sample[1].email)
      assert.equal("abcd@gmail.com", get(FIRST, "?contacts_sample=true").contacts_sample[1].email)
      assert.is_nil(get(FIRST, "?contacts_sample=false").contacts_sample)
    end)

    for _, value in ipairs { "", "0", "False", "no" } do
      it(("contacts_sample=%s is refused"):format(value), function()
        expect(400, faults("contacts_sample", "contacts_sample must be true or false"),
          call("GET", "/" .. FIRST .. "?contacts_sample=" .. value))
      end)
    end
  end)

  describe("are checked when they are made:", function()
    local LONGEST = ("é"):rep(100)
    local cases = {
      { "nothing at all", "{}", "name", "name is required", "query_dsl", "query_dsl is required" },
      { "null for what is required", '{"name":null,"query_dsl":null}',
        "name", "name is required", "query_dsl", "query_dsl is required" },
      { "an empty name", input "", "name", "name must be at least 1 character" },
      { "a name of 101 characters", input(LONGEST .. "é"), "name", "name must be at most 100 characters" },
      { "a name that is a number", '{"name":1,"query_dsl":"x"}', "name", "name must be a string" },
      { "an empty query", '{"name":"a","query_dsl":""}', "query_dsl", "query_dsl must not be empty" },
      { "a query that is an object", '{"name":"a","query_dsl":{}}', "query_dsl", "query_dsl must be a string" },
      { "a list that is no array", input("a", ',"parent_list_ids":"list"'),
        "parent_list_ids", "parent_list_ids must be an array" },
      { "a list that is null", input("a", ',"parent_list_ids":null'),
        "parent_list_ids", "parent_list_ids must be an array" },
      { "an object as lists", input("a", ',"parent_list_ids":{}'),
        "parent_list_ids", "parent_list_ids must be an array" },
      { "a list's id that is a number", input("a", ',"parent_list_ids":[1]'),
        "parent_list_ids", "parent_list_ids must contain strings only" },
      { "two lists", input("a", ',"parent_list_ids":["x","y"]'),
        "parent_list_ids", "parent_list_ids must contain one id at most" },
      { "one list twice", input("a", ',"parent_list_ids":["x","x"]'),
        "parent_list_ids", "parent_list_ids contains an id twice (x)",
        "parent_list_ids", "parent_list_ids must contain one id at most" },
      { "faults everywhere", '{"name":"","query_dsl":1,"parent_list_ids":[null]}',
        "name", "name must be at least 1 character", "query_dsl", "query_dsl must be a string",
        "parent_list_ids", "parent_list_ids must contain strings only" },
    }
    for _, case in ipairs(cases) do
      it(case[1], function()
        expect(400, faults((unpack or table.unpack)(case, 3)), call("POST", "", (case[2])))
        assert.same({}, names())
      end)
    end

    it("a name of 100 characters is fine, however many bytes", function()
      assert.equal(LONGEST, create(LONGEST).name)
    end)

    it("a name is there once", function()
      create "a"
      expect(400, faults("name", "a segment with this name exists already (a)"), call("POST", "", input "a"))
      create "A"
      assert.same({ "a", "A" }, names())
    end)

    it("a deleted segment's name is free again", function()
      create "a"
      call("DELETE", "/" .. FIRST)
      create "a"
    end)

    it("a body that is no JSON object", function()
      expect(400, faults("request", "request body is not valid JSON"), call("POST", "", "{"))
      expect(400, faults("request", "request body must be a JSON object"), call("POST", "", "[]"))
    end)
  end)

  describe("are updated:", function()
    before_each(function()
      create("a", ',"parent_list_ids":["list"]')
      create "b"
    end)

    it("what is left out stays, and the time goes on", function()
      local response = call("PATCH", "/" .. FIRST, '{"name":"c"}')
      assert.equal(200, response.status)
      assert.equal(response.body, call("GET", "/" .. FIRST).body)
      local segment = cjson.decode(response.body)
      assert.same({ "c", QUERY, { "list" }, "2026-01-01T00:00:01Z", "2026-01-01T00:00:03Z" }, {
        segment.name, segment.query_dsl, segment.parent_list_ids, segment.created_at, segment.updated_at,
      })
    end)

    it("a segment may keep its name", function()
      assert.equal(200, call("PATCH", "/" .. FIRST, '{"name":"a"}').status)
    end)

    it("the parent list cannot be changed", function()
      assert.equal(200, call("PATCH", "/" .. FIRST, '{"name":"c","parent_list_ids":["other"]}').status)
      assert.same({ "list" }, get(FIRST).parent_list_ids)
    end)

    for body, expected in pairs {
      ["{}"] = faults("request", "at least one field is required"),
      ['{"parent_list_ids":[]}'] = faults("request", "at least one field is required"),
      ['{"name":"b"}'] = faults("name", "a segment with this name exists already (b)"),
      ['{"name":null}'] = faults("name", "name must be a string"),
      ['{"name":"","query_dsl":""}'] =
        faults("name", "name must be at least 1 character", "query_dsl", "query_dsl must not be empty"),
    } do
      it("refuses " .. body .. " and changes nothing", function()
        local before = call("GET", "/" .. FIRST .. "?contacts_sample=false").body
        call("GET", "/" .. FIRST)
        expect(400, expected, call("PATCH", "/" .. FIRST, body))
        local after = call("GET", "/" .. FIRST .. "?contacts_sample=false").body
        assert.equal(before:gsub("PENDING", "VALID"), (after))
      end)
    end
  end)

  describe("have their queries checked:", function()
    local INVALID = {
      query_validation = "INVALID",
      error_message = "query_dsl must begin with SELECT contact_id, updated_at FROM contact_data",
    }

    --- What the reads of a new segment say, one after the other.
    local function read(count)
      local seen = {}
      for index = 1, count do seen[index] = get(FIRST).status.query_validation end
      return seen
    end

    it("one read finds the query pending, the next one does not", function()
      assert.equal("PENDING", create("a").status.query_validation)
      assert.same({ "PENDING", "VALID", "VALID" }, read(3))
    end)

    it("as many reads as told", function()
      emulator = emulators.new { pending_reads = 3 }
      create "a"
      assert.same({ "PENDING", "PENDING", "PENDING", "VALID" }, read(4))
    end)

    it("without any, only the answer to the create says pending", function()
      emulator = emulators.new { pending_reads = 0 }
      assert.equal("PENDING", create("a").status.query_validation)
      assert.same({ "VALID" }, read(1))
    end)

    it("a list is no read", function()
      create "a"
      for _ = 1, 3 do assert.equal("PENDING", list()[1].status.query_validation) end
      assert.same({ "PENDING" }, read(1))
      assert.equal("VALID", list()[1].status.query_validation)
    end)

    it("another name leaves the query checked, another query does not", function()
      create "a"
      read(2)
      assert.equal("VALID", cjson.decode(call("PATCH", "/" .. FIRST, '{"name":"b"}').body).status.query_validation)
      local answer = call("PATCH", "/" .. FIRST, '{"query_dsl":"nonsense"}')
      assert.same({ query_validation = "PENDING" }, cjson.decode(answer.body).status)
      assert.same({ "PENDING", "INVALID" }, read(2))
      assert.same(INVALID, get(FIRST).status)
      assert.same(INVALID, list()[1].status)
    end)

    for query, state in pairs {
      [QUERY] = "VALID",
      [QUERY .. " WHERE email IS NOT NULL"] = "VALID",
      [QUERY:lower()] = "VALID",
      ["\\n\\tselect  contact_id ,updated_at\\nFrom\\tcontact_data\\n"] = "VALID",
      [QUERY .. "s"] = "INVALID",
      ["SELECT contact_id FROM contact_data"] = "INVALID",
      ["SELECT updated_at, contact_id FROM contact_data"] = "INVALID",
      ["-- " .. QUERY] = "INVALID",
      [" "] = "INVALID",
    } do
      it(("%q is %s"):format(query, state), function()
        emulator = emulators.new { pending_reads = 0 }
        assert.equal(201, call("POST", "", '{"name":"a","query_dsl":"' .. query .. '"}').status)
        assert.equal(state, get(FIRST).status.query_validation)
      end)
    end
  end)

  describe("are filtered:", function()
    before_each(function()
      create("one", ',"parent_list_ids":["x"]')
      create("two", ',"parent_list_ids":["y"]')
      create "three"
    end)

    local ALL = { "one", "two", "three" }
    for _, case in ipairs {
      { "", ALL }, { "?", ALL }, { "?other=1", ALL },
      { "?ids=", ALL }, { "?parent_list_ids=&no_parent_list_id=false", ALL },
      { "?parent_list_ids=x", { "one" } }, { "?parent_list_ids=y,x", { "one", "two" } },
      { "?parent_list_ids=z", {} }, { "?parent_list_ids=%78", { "one" } }, { "?parent_list_ids=x%2Cy", {} },
      { "?parent_list_ids=x&no_parent_list_id=false", { "one" } },
      { "?parent_list_ids=x&no_parent_list_id=true", { "one", "three" } },
      { "?no_parent_list_id=true", { "three" } },
      { "?ids=" .. SECOND, { "two" } }, { "?ids=" .. THIRD .. "," .. FIRST, { "one", "three" } },
      { "?ids=unknown", {} },
      { "?ids=" .. SECOND .. "&parent_list_ids=x&no_parent_list_id=true", { "two" } },
      { "?ids=" .. SECOND .. "&parent_list_ids=x,&no_parent_list_id=maybe", { "two" } },
    } do
      it(("by %q"):format(case[1]), function()
        assert.same(case[2], names(case[1]))
        assert.equal(#case[2], cjson.decode(call("GET", case[1]).body)._metadata.count)
      end)
    end

    for _, name in ipairs { "ids", "parent_list_ids" } do
      local form = faults(name, name .. " must be one comma-delimited parameter")
      local empty = faults(name, name .. " must not contain an empty string")
      for form_of_query, expected in pairs {
        ["?%s=a&%s=b"] = form, ["?%s[]=a"] = form, ["?%s%%5B0%%5D=a"] = form,
        ["?%s=a,"] = empty, ["?%s=,a"] = empty, ["?%s=,"] = empty,
      } do
        local query = form_of_query:format(name, name)
        it(("but not by %s"):format(query:sub(1, 60)), function()
          expect(400, expected, call("GET", query))
        end)
      end

    end

    it("by 50 lists at most, and any number of ids", function()
      assert.equal(200, call("GET", "?parent_list_ids=" .. ("a,"):rep(49) .. "a").status)
      expect(400, faults("parent_list_ids", "parent_list_ids must contain 50 ids at most"),
        call("GET", "?parent_list_ids=" .. ("a,"):rep(50) .. "a"))
      assert.equal(200, call("GET", "?ids=" .. ("a,"):rep(99) .. "a").status)
    end)

    for _, value in ipairs { "", "1", "True" } do
      it("but not by no_parent_list_id=" .. value, function()
        expect(400, faults("no_parent_list_id", "no_parent_list_id must be true or false"),
          call("GET", "?no_parent_list_id=" .. value))
      end)
    end
  end)

  describe("are listed flat, if told so:", function()
    before_each(function() emulator = emulators.new { segments_list_shape = "flat" } end)

    it("one segment, and no array around it", function()
      create "a"
      local segment = cjson.decode(call("GET", "").body)
      assert.same({ FIRST, "a" }, { segment.id, segment.name })
      assert.is_nil(segment.results)
    end)

    it("nothing where there is none, the first where there are several", function()
      expect(200, "{}", call("GET", ""))
      create "a"
      create "b"
      assert.equal("a", cjson.decode(call("GET", "").body).name)
      assert.equal("b", cjson.decode(call("GET", "?ids=" .. SECOND).body).name)
    end)
  end)

  describe("are refreshed:", function()
    local CHICAGO = '{"user_time_zone":"America/Chicago"}'

    local function refresh(id, body)
      return call("POST", "/refresh/" .. id, body or CHICAGO)
    end

    it("202 names a job; the segment tells that it was", function()
      create "a"
      expect(202, '{"job_id":"10b00000-0000-4000-8000-000000000001"}', refresh(FIRST))
      local segment = get(FIRST)
      assert.same({ 1, 2, "2026-01-01T00:00:02Z", "2026-01-01T00:00:02Z", "2026-01-01T01:00:02Z" }, {
        segment.refreshes_used, segment.max_refreshes, segment.last_refreshed_at, segment.sample_updated_at,
        segment.next_sample_update,
      })
      assert.equal("2026-01-01T00:00:01Z", segment.updated_at)
    end)

    -- Each change takes a second.
    local function let_an_hour_pass()
      for index = 1, 3600 do call("PATCH", "/" .. FIRST, '{"name":"a' .. index % 2 .. '"}') end
    end

    it("once an hour and twice in all, each with a job of its own", function()
      create "a"
      local first = refresh(FIRST).body
      expect(429, "", refresh(FIRST))
      let_an_hour_pass()
      assert.equal(1, get(FIRST).refreshes_used)
      assert.not_equal(first, refresh(FIRST).body)
      assert.equal(2, get(FIRST).refreshes_used)
      let_an_hour_pass()
      expect(429, "", refresh(FIRST))
      assert.equal(2, get(FIRST).refreshes_used)
      emulator:reset()
      create "a"
      assert.equal(202, refresh(FIRST).status)
    end)

    it("ten times in all, deleted segments counted", function()
      for index = 1, 11 do create("segment " .. index) end
      for index = 1, 10 do assert.equal(202, refresh(ID:format(index)).status) end
      expect(429, "", refresh(ID:format(11)))
      call("DELETE", "/" .. FIRST)
      expect(429, "", refresh(ID:format(11)))
      assert.equal(0, get(ID:format(11)).refreshes_used)
    end)

    it("not by another account's limit", function()
      create "a"
      refresh(FIRST)
      refresh(FIRST)
      create("a", nil, { ["on-behalf-of"] = "alice" })
      assert.equal(202, call("POST", "/refresh/" .. SECOND, CHICAGO, { ["on-behalf-of"] = "alice" }).status)
    end)

    it("not if there is no such segment", function()
      expect(404, '{"error":"Segment does not exist."}', refresh "abc")
    end)

    it("not for a free user", function()
      emulator = emulators.new { free_user = true }
      create "a"
      expect(403, '{"error":"Manual refresh is not available to free users."}', refresh(FIRST))
    end)

    for _, zone in ipairs {
      "UTC", "America/Chicago", "America/Argentina/Buenos_Aires", "America/Port-au-Prince", "Etc/GMT+5",
    } do
      it("in the time zone " .. zone, function()
        create "a"
        assert.equal(202, refresh(FIRST, '{"user_time_zone":"' .. zone .. '"}').status)
      end)
    end

    for _, body in ipairs {
      "{}", '{"user_time_zone":null}', '{"user_time_zone":1}', '{"user_time_zone":""}', '{"user_time_zone":"CST"}',
      '{"user_time_zone":"America/"}', '{"user_time_zone":"/Chicago"}', '{"user_time_zone":"America/Chicago "}',
      '{"user_time_zone":"+01:00"}',
    } do
      it("but not with " .. body, function()
        create "a"
        expect(400, '{"error":"user_time_zone must be an IANA time zone, like America/Chicago."}', refresh(FIRST, body))
        assert.equal(0, get(FIRST).refreshes_used)
      end)
    end

    it("but not without a JSON object", function()
      create "a"
      expect(400, '{"error":"request body is not valid JSON"}', refresh(FIRST, "{"))
    end)
  end)

  describe("have owners:", function()
    it("a caller without a key is asked for one, as everywhere", function()
      expect(401, '{"errors":[{"field":null,"message":"authorization required"}]}',
        call("GET", "", nil, { authorization = false }))
    end)

    it("a key that may only read gets 403 for every write", function()
      create "a"
      local reader = { authorization = "Bearer SG.emulator.read" }
      local forbidden = '{"errors":[{"message":"' .. NO_SCOPE .. '"}]}'
      assert.same({ "a" }, names("", reader))
      assert.equal(200, call("GET", "/" .. FIRST, nil, reader).status)
      expect(403, forbidden, call("POST", "", input "b", reader))
      expect(403, forbidden, call("PATCH", "/" .. FIRST, '{"name":"b"}', reader))
      expect(403, forbidden, call("DELETE", "/" .. FIRST, nil, reader))
      expect(403, forbidden, call("POST", "/refresh/" .. FIRST, '{"user_time_zone":"UTC"}', reader))
      assert.same({ "a" }, names())
    end)

    for scope, request in pairs {
      ["marketing.segments.read"] = { "GET", "" },
      ["marketing.segments.create"] = { "POST", "", input "b" },
      ["marketing.segments.update"] = { "PATCH", "/" .. FIRST, '{"name":"b"}' },
      ["marketing.segments.delete"] = { "DELETE", "/" .. FIRST },
    } do
      it(scope .. " is for " .. request[1], function()
        emulator = emulators.new { keys = {
          ["SG.emulator.full"] = { user_id = "1" },
          ["SG.one"] = { user_id = "1", scopes = { scope } },
          ["SG.others"] = { user_id = "1", scopes = { "marketing.integrations.read", "marketing.segments" } },
        } }
        create "a"
        local method, path, body = request[1], request[2], request[3]
        assert.equal(403, call(method, path, body, { authorization = "Bearer SG.others" }).status)
        assert.truthy(call(method, path, body, { authorization = "Bearer SG.one" }).status < 300)
      end)
    end

    it("a subuser has segments and names of its own", function()
      local alice = { ["on-behalf-of"] = "alice" }
      create "a"
      create("a", nil, alice)
      assert.same({ FIRST, SECOND }, { list()[1].id, list("", alice)[1].id })
      expect(404, unknown(FIRST), call("GET", "/" .. FIRST, nil, alice))
    end)
  end)

  describe("are strict about HTTP:", function()
    for _, path in ipairs { "/", "/a/b", "/refresh/a/b" } do
      it("there is no path " .. path, function()
        expect(404, '{"errors":[{"message":"not found"}]}', call("GET", path))
      end)
    end

    for _, case in ipairs {
      { "DELETE", "", "GET, POST" }, { "PUT", "/a", "DELETE, GET, PATCH" }, { "GET", "/refresh/a", "POST" },
    } do
      it(("%s %s is 405"):format(case[1], case[2]), function()
        local response = call(case[1], case[2])
        expect(405, '{"errors":[{"field":null,"message":"method not allowed"}]}', response)
        assert.equal(case[3], response.headers.allow)
      end)
    end

    it("Accept is required", function()
      assert.equal(406, call("GET", "", nil, { accept = false }).status)
    end)
  end)

  describe("answer as told:", function()
    for status, body in pairs {
      [400] = faults("request", "bad request"),
      [404] = '{"errors":[{"message":"not found"}]}',
      [429] = '{"errors":[{"field":null,"message":"too many requests"}]}',
      [500] = '{"errors":[{"message":"internal error"}]}',
    } do
      it(status .. " with the body of SendGrid's APIs", function()
        emulator:respond_next { status = status }
        expect(status, body, call("POST", "", input "a"))
        assert.same({}, names())
      end)
    end

    for status, body in pairs {
      [404] = '{"error":"Segment does not exist."}',
      [429] = '{"errors":[{"field":null,"message":"too many requests"}]}',
      [500] = '{"error":"Please check [our status page](https://status.sendgrid.com/) for updates or '
        .. '[contact support](https://support.sendgrid.com/) if the issue is not listed."}',
    } do
      it(status .. " with the body of a refresh", function()
        emulator:respond_next { status = status }
        expect(status, body, call("POST", "/refresh/" .. FIRST, '{"user_time_zone":"UTC"}'))
      end)
    end
  end)

  describe("look as SendGrid's description says:", function()
    local folder = os.getenv "INTEGRATIONS_OPENAPI" or "../shared/openapi"
    local file = io.open(folder .. "/sendgrid_mc_segments_2.0_v3.json", "rb")
    if not file then
      pending("it is not in " .. folder .. ": set INTEGRATIONS_OPENAPI to the folder that has it")
      return
    end
    local document = cjson.decode(file:read "*a")
    file:close()

    local function resolve(schema)
      local name = schema["$ref"] and schema["$ref"]:match "[^/]+$"
      return name and document.components.schemas[name] or schema
    end

    local LUA_TYPES = { string = "string", integer = "number", array = "table", object = "table", boolean = "boolean" }

    --- Every field that there has to be is there, every one that is there is described, each has its type.
    local function compare(schema, value, path)
      schema = resolve(schema)
      assert.equal(LUA_TYPES[schema.type], type(value), path)
      for _, name in ipairs(schema.required or {}) do assert.not_nil(value[name], path .. "." .. name) end
      if schema.items then
        for index, item in ipairs(value) do compare(schema.items, item, path .. "/" .. index) end
      elseif schema.properties then
        for name, member in pairs(value) do
          assert.not_nil(schema.properties[name], path .. "." .. name)
          compare(schema.properties[name], member, path .. "." .. name)
        end
      end
      if schema.maxLength then assert.truthy(#value <= schema.maxLength, path) end
      if schema.minLength then assert.truthy(#value >= schema.minLength, path) end
    end

    local schemas = document.components.schemas

    it("Segment2xx is what create, get, update and a refreshed segment are", function()
      compare(schemas.Segment2xx, create("a", ',"parent_list_ids":["x"]'), "create")
      compare(schemas.Segment2xx, get(FIRST), "get")
      compare(schemas.Segment2xx, cjson.decode(call("PATCH", "/" .. FIRST, '{"query_dsl":"x"}').body), "update")
      get(FIRST)
      local refreshed = call("POST", "/refresh/" .. FIRST, '{"user_time_zone":"UTC"}')
      compare(schemas.SegmentRefresh202, cjson.decode(refreshed.body), "refresh")
      local segment = get(FIRST)
      compare(schemas.Segment2xx, segment, "refreshed")
      local described = 0
      for name in pairs(schemas.Segment2xx.properties) do
        assert.not_nil(segment[name], name)
        described = described + 1
      end
      assert.equal(15, described)
    end)

    it("AllSegments200 is what a list's entries are, and a flat list as a whole", function()
      create "a"
      compare(schemas.AllSegments200, list()[1], "list")
      compare(schemas.Metadata, cjson.decode(call("GET", "").body)._metadata, "_metadata")
      for name in pairs(schemas.AllSegments200.properties) do assert.not_nil(list()[1][name], name) end
      emulator = emulators.new { segments_list_shape = "flat" }
      create "a"
      compare(schemas.AllSegments200, cjson.decode(call("GET", "").body), "flat")
    end)

    it("the sample is the description's example", function()
      assert.same(schemas.ContactResponse.example, create("a").contacts_sample[1])
    end)

    it("errors have the documented shapes", function()
      create "a"
      compare(schemas.ErrorsSegmentV2, cjson.decode(call("POST", "", "{}").body), "create")
      compare(schemas.ErrorsSegmentV2, cjson.decode(call("PATCH", "/" .. FIRST, "{}").body), "update")
      compare(schemas.ErrorsSegmentV2, cjson.decode(call("GET", "?ids=,").body), "list")
      compare(schemas.ErrorsSegmentV2, cjson.decode(call("GET", "/abc").body), "get")
      compare(schemas.SegmentError, cjson.decode(call("POST", "/refresh/abc", "{}").body), "refresh")
    end)
  end)
end)
