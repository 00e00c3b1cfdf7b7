local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"
local sendgrid = require "integrations.sendgrid"

local input = {
  destination = "Segment",
  filters = { email_events = { "open" } },
  properties = { write_key = "a123456", destination_region = "EU" },
}

local function new(answers, options)
  local transport = fake_transport.new(answers)
  local given = { api_key = "SG.test.canary", transport = transport, max_attempts = 1 }
  for name, value in pairs(options or {}) do
    given[name] = value
  end
  local sg = assert(sendgrid.new(given))
  return sg, transport.requests
end

local empty_list = { status = 200, body = '{"result":[]}' }

describe("integrations.sendgrid", function()
  describe("new", function()
    local keys = {
      ["\n"] = "must not have line breaks or control characters: was it read with its line end?",
      ["SG.test.canary\n"] = "must not have line breaks or control characters: was it read with its line end?",
      ["SG.a\r\nX: y"] = "must not have line breaks or control characters: was it read with its line end?",
      ["SG.a\0"] = "must not have line breaks or control characters: was it read with its line end?",
      [""] = "must not be empty",
      [" "] = "must not be blank",
      ["SG.a b"] = "must not have spaces or characters that are not ASCII",
      ["SG.é"] = "must not have spaces or characters that are not ASCII",
    }
    for key, message in pairs(keys) do
      it(("refuses the key %q without showing it"):format(key), function()
        local sg, failed = sendgrid.new { api_key = key }
        assert.is_nil(sg)
        assert.same({ { field = "api_key", message = message } }, failed.errors)
        assert.is_nil(tostring(failed):find("canary", 1, true))
      end)
    end

    it("wants a key", function()
      local _, failed = sendgrid.new { api_key = os.getenv "INTEGRATIONS_NO_SUCH_VARIABLE" }
      assert.same({ { field = "api_key", message = "is required" } }, failed.errors)
    end)

    it("refuses an on_behalf_of that would break the header apart", function()
      local _, failed = sendgrid.new { api_key = "SG.test.canary", on_behalf_of = "a\r\nb" }
      assert.same({ "on_behalf_of: must not have line breaks or control characters: was it read with its line end?" },
        faults_of(failed))
    end)

    it("knows the two hosts, and no third", function()
      for region, host in pairs { ["global"] = "https://api.sendgrid.com", eu = "https://api.eu.sendgrid.com" } do
        local sg, requests = new({ empty_list }, { region = region })
        sg.integrations:list()
        assert.equal(host .. "/v3/marketing/integrations", requests[1].url)
      end
      local sg, failed = sendgrid.new { api_key = "SG.test.canary", region = "EU" }
      assert.is_nil(sg)
      assert.same({ 'region: "EU" is not a known value; did you mean "eu"?' }, faults_of(failed))
    end)
  end)

  it("sends the key, what it accepts, and its name", function()
    local sg, requests = new { empty_list }
    sg.integrations:list()
    assert.same({
      Accept = "application/json",
      Authorization = "Bearer SG.test.canary",
      ["User-Agent"] = "lua-integrations/" .. require("integrations").version,
    }, requests[1].headers)
  end)

  describe("as", function()
    it("acts for a subuser, the parent as before", function()
      local sg, requests = new { empty_list }
      sg:as("alice").integrations:list()
      sg.integrations:list()
      sg:as("alice"):as("account-id 7").integrations:create(input)
      assert.equal("alice", requests[1].headers["on-behalf-of"])
      assert.is_nil(requests[2].headers["on-behalf-of"])
      assert.equal("account-id 7", requests[3].headers["on-behalf-of"])
      assert.equal("application/json", requests[3].headers["Content-Type"])
    end)

    for _, name in ipairs { "", "  ", "a\nb", "a\0b", 5, false, {} } do
      it(("refuses %q"):format(tostring(name):gsub(":.*", "")), function()
        local sg = new { empty_list }
        local child, failed = sg:as(name)
        assert.is_nil(child)
        assert.same({ "invalid", "sendgrid.as", "subuser" },
          { failed.kind, failed.operation, failed.errors[1].field })
      end)
    end

    it("raises without its colon", function()
      local sg = new { empty_list }
      assert.error_matches(function()
        sg.as "alice"
      end, "call it with a colon: sendgrid:as", 1, true)
    end)
  end)

  describe("a failure", function()
    local scope = "access forbidden. please ensure you have the correct scopes defined. see https://example.com"
    local key = "the API key is not accepted: check that it is whole, not revoked, and of this region (option region)"
    local may_not = "the API key may not do this: give it the scope in SendGrid's settings, and check on_behalf_of"
    local nothing = "there is no such thing (in this account, and for this on_behalf_of)"
    local page = "the answer is a web page, not JSON: something between here and the service sent it; "
    local other = "the answer is not the JSON that the service documents; "
    local empty = "the answer is empty; "
    local later = "the service failed: try again later"
    -- status, body, then kind, message and faults
    local cases = {
      { 400, '{"errors":[{"message":"bad","field":null}]}', "rejected",
        "the service found fault with the request", { "-: bad" } },
      { 401, '{"errors":[{"field":null,"message":"authorization required"}]}', "unauthorized", key,
        { "-: authorization required" } },
      { 401, "", "unauthorized", empty .. key, {} },
      { 403, '{"errors":[{"message":"' .. scope .. '"}]}', "forbidden", may_not, { "-: " .. scope } },
      { 403, "<html>", "forbidden", page .. may_not, {} },
      { 404, '{"errors":[{"message":"integration does not exist (abc)"}]}', "not_found", nothing,
        { "-: integration does not exist (abc)" } },
      { 404, "", "not_found", empty .. nothing, {} },
      { 406, "", "rejected",
        empty .. "the service cannot answer in the form asked for: is base_url right?", {} },
      { 413, "{}", "rejected", "the request is too large for the service", {} },
      { 414, "{}", "rejected", "the address is too long: ask for less at once", {} },
      { 415, "{}", "rejected", "the service does not take JSON there: is base_url right?", {} },
      { 418, "{}", "rejected", "the service refused the request", {} },
      { 429, '{"errors":[{"field":null,"message":"too many requests"}]}', "rate_limited",
        "too many requests: wait", { "-: too many requests" } },
      { 451, "{}", "forbidden", "the data may not leave its region: use the other one (option region)", {} },
      { 500, '{"errors":[{"message":"internal error"}]}', "server", later, { "-: internal error" } },
      { 502, "<html>bad gateway", "server", page .. later, {} },
      { 503, "", "server", empty .. later, {} },
      { 504, "not json", "server", other .. later, {} },
      { 500, '{"error":"job failed"}', "server", later, { "-: job failed" } },
      { 500, '{"errors":"x"}', "server", later, {} },
      { 500, '{"errors":["x",5,{},{"message":5}]}', "server", later, { "-: x" } },
      { 403, '{"message":"Forbidden"}', "forbidden", may_not, { "-: Forbidden" } },
      { 401, '{"errors":[{"message":"Maximum credits exceeded"}]}', "unauthorized",
        "the account has used up what its plan allows: check the plan, not the key",
        { "-: Maximum credits exceeded" } },
      { 500, "[]", "server", later, {} },
      { 500, "null", "server", other .. later, {} },
    }
    for _, case in ipairs(cases) do
      it(("of %d with %q is %s"):format(case[1], case[2]:sub(1, 40), case[3]), function()
        local sg = new { { status = case[1], body = case[2] } }
        local result, failed = sg.integrations:get "abc"
        assert.is_nil(result)
        assert.same({ case[3], case[4], case[1], "not_applied", 1 },
          { failed.kind, failed.message, failed.status, failed.outcome, failed.attempts })
        assert.same(case[5], faults_of(failed))
      end)
    end

    it("of 5xx to a write says that it must be looked at", function()
      local sg = new { { status = 500, body = "" } }
      local _, failed = sg.integrations:create(input)
      assert.same({ "server", "unknown" }, { failed.kind, failed.outcome })
      assert.truthy(failed.message:find("it may have been applied: look before you repeat it", 1, true))
    end)

    it("has the server's name for the request, wherever it stands", function()
      for _, answer in ipairs {
        { status = 500, body = '{"id":"r1"}' },
        { status = 500, body = '{"error_id":"r1"}' },
        { status = 500, body = "", headers = { ["x-request-id"] = "r1" } },
      } do
        local sg = new { answer }
        assert.equal("r1", select(2, sg.integrations:list()).request_id)
      end
    end)

    it("of 429 says when to ask again", function()
      local sg = new { { status = 429, body = "", headers = { ["x-ratelimit-reset"] = "17" } } }
      assert.equal(17, select(2, sg.integrations:list()).retry_after)
    end)

    it("of another status takes no rate limit's reset for a time to wait", function()
      for _, status in ipairs { 404, 503 } do
        local sg = new { { status = status, body = "", headers = { ["x-ratelimit-reset"] = "17" } } }
        assert.is_nil(select(2, sg.integrations:list()).retry_after)
      end
      local sg = new { { status = 503, body = "", headers = { ["retry-after"] = "3" } } }
      assert.equal(3, select(2, sg.integrations:list()).retry_after)
    end)

    for _, given in ipairs { "proxy-key-123", "SG.a+b/c==x", "50%d%w[x]*", "SG.x" } do
      it("does not repeat the key " .. given .. ", though the server may", function()
        local sg = assert(sendgrid.new { api_key = given, transport = fake_transport.new { {
          status = 401,
          body = require("cjson").encode { error_id = given, errors = { { message = "no " .. given .. "!",
            field = "x" .. given }, { message = given:rep(2000) } } },
        } } })
        local _, failed = sg.integrations:list()
        assert.is_nil(require("cjson").encode(failed):find(given, 1, true))
        assert.is_nil(tostring(failed):find(given, 1, true))
        assert.equal("…", failed.request_id)
        assert.equal("no …!", failed.errors[1].message)
      end)
    end

    it("does not repeat the key, though the server may", function()
      local sg = new { {
        status = 400,
        body = '{"id":"SG.test.canary",'
          .. '"errors":[{"message":"bad header Bearer SG.test.canary","field":"SG.test.canary"}]}',
        headers = { ["x-request-id"] = "SG.test.canary" },
      } }
      local _, failed = sg.integrations:list()
      assert.is_nil(require("cjson").encode(failed):find("canary", 1, true))
      assert.same({ "…: bad header Bearer …" }, faults_of(failed))
    end)

    it("is read quickly, however long the server's words are", function()
      for _, message in ipairs { (" "):rep(2e6) .. "x", ("a, "):rep(7e5), ("label is wrong, "):rep(1e5) } do
        local sg = new { { status = 400, body = '{"errors":[{"message":"' .. message .. '"}]}' } }
        local started = os.clock()
        local _, failed = sg.integrations:create(input)
        assert.equal("rejected", failed.kind)
        assert.is_true(os.clock() - started < 2)
      end
      local entries = ('{"message":"m"},'):rep(100000) .. '{"message":"m"}'
      local sg = new { { status = 400, body = '{"errors":[' .. entries .. "]}" } }
      assert.equal(100, #select(2, sg.integrations:list()).errors)
    end)
  end)

  describe("a 400's message", function()
    local cases = {
      { "is split into its faults, each with its path",
        "destination_region must be EU or US, write_key must be at least 7 characters",
        { "properties.destination_region: must be EU or US", "properties.write_key: must be at least 7 characters" } },
      { "is not split in a fault with a comma of its own",
        "email_events must be one of open, click, drop, write_key must be at least 7 characters",
        { "filters.email_events: must be one of open, click, drop",
          "properties.write_key: must be at least 7 characters" } },
      { "is not split where no field begins", "label is long, very long, and odd",
        { "label: is long, very long, and odd" } },
      { "is not split after what is no whole fault",
        "email_events, destination_region are required",
        { "-: email_events, destination_region are required" } },
      { "is not split within a condition",
        "if destination is Segment, write_key must be set",
        { "-: if destination is Segment, write_key must be set" } },
      { "of one fault is one", "filters is required", { "filters: is required" } },
      { "may have commas without blanks", "destination_region must be EU,US,write_key must be set",
        { "properties.destination_region: must be EU,US", "properties.write_key: must be set" } },
      { "may have whole paths", "properties.write_key must be set, filters.email_events must be an array",
        { "properties.write_key: must be set", "filters.email_events: must be an array" } },
      { "about nothing known stays as it is", "something, somewhere, is wrong",
        { "-: something, somewhere, is wrong" } },
      { "may end in a comma", "label is wrong, ", { "label: is wrong" } },
      { "may be a name alone", "write_key", { "-: write_key" } },
    }
    for _, case in ipairs(cases) do
      it(case[1], function()
        local body = require("cjson").encode { errors = { { message = case[2], field = "request" } } }
        local sg = new { { status = 400, body = body } }
        local _, failed = sg.integrations:create(input)
        assert.same(case[3], faults_of(failed))
      end)
    end

    for _, field in ipairs { "null", '""', '"null"', '"request"' } do
      it("with the field " .. field .. " names none", function()
        local sg = new { { status = 400, body = '{"errors":[{"message":"m","field":' .. field .. "}]}" } }
        local _, failed = sg.integrations:create(input)
        assert.same({ { message = "m" } }, failed.errors)
      end)
    end

    it("keeps a field that the server names", function()
      local body = '{"errors":[{"message":"m","field":"write_key"},{"message":"n","field":"x.y"}]}'
      local sg = new { { status = 400, body = body } }
      local _, failed = sg.integrations:create(input)
      assert.same({ "properties.write_key: m", "x.y: n" }, faults_of(failed))
    end)
  end)

  describe("a bulk delete's 400", function()
    local function fault_for(parameter, ids)
      local body = ('{"errors":[{"message":"bad id","parameter":"%s"}]}'):format(parameter)
      local sg = new { { status = 400, body = body } }
      local _, failed = sg.integrations:delete(ids)
      return failed.errors[1]
    end

    it("names the caller's id, counting from nought as the service does", function()
      assert.same({ field = "ids[4]", id = "d", message = 'bad id (the id "d")' },
        fault_for("ids[3]", { "a", "b", "c", "d" }))
      assert.same({ field = "ids[1]", id = "a", message = 'bad id (the id "a")' }, fault_for("ids[0]", "a"))
    end)

    it("names the id at the very place", function()
      assert.equal("b", fault_for("ids[1]", { "a", "b", "c" }).id)
    end)

    it("names the last id for an index past the end", function()
      assert.equal("b", fault_for("ids[2]", { "a", "b" }).id)
    end)

    it("keeps a parameter that it cannot map", function()
      assert.same({ field = "ids", message = "bad id" }, fault_for("ids", { "a" }))
      assert.same({ field = "other[1]", message = "bad id" }, fault_for("other[1]", { "a" }))
    end)
  end)
end)
