local cjson = require "cjson"
local clients = require "spec.support.clients"
local emulator = require "integrations.emulator"
local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"
local rocketchat = require "integrations.rocketchat"

local TOKEN = "RC.test.canary"

local function new(answers, options)
  local transport = fake_transport.new(answers)
  local given = { url = "https://chat.example.com", user_id = "u1", auth_token = TOKEN, transport = transport,
    max_attempts = 1 }
  for name, value in pairs(options or {}) do
    given[name] = value
  end
  local rc, failed = rocketchat.new(given)
  return rc, failed or transport.requests
end

local empty_list = { status = 200, body = '{"integrations":[],"offset":0,"count":0,"total":0,"success":true}' }

describe("integrations.rocketchat", function()
  describe("new refuses", function()
    local form = 'url: must look like "https://host", "https://host:8443" or "https://host/path"'
    local plain = "url: must begin with https://: the credentials would be readable on the way "
      .. "(http is for loopback only)"
    local broken = "must not have line breaks or control characters: was it read with its line end?"
    local cases = {
      { { url = "http://chat.example.com" }, plain },
      { { url = "http://10.0.0.1:3000" }, plain },
      { { url = "chat.example.com" }, form },
      { { url = "https://chat.example.com?x" }, form },
      { { url = 5 }, "url: must be a string, not a number" },
      { { base_url = "https://chat.example.com" }, { "base_url: is not a known field" } },
      { { auth_token = "a\n" }, "auth_token: " .. broken },
      { { auth_token = "" }, "auth_token: must not be empty" },
      { { auth_token = "a b" }, "auth_token: must not have spaces or characters that are not ASCII" },
      { { user_id = "u\r\nX: y" }, "user_id: " .. broken },
      { { two_factor = "123456" }, "two_factor: must be an object, not a string" },
      { { two_factor = { code = "1" } }, "two_factor.method: is required" },
      { { two_factor = { method = "totp", code = 123456 } }, "two_factor.code: must be a string, not a number" },
      { { two_factor = { method = "totp", code = "1\n2" } }, "two_factor.code: " .. broken },
      { { two_factor = { method = "totp\r\nX: y", code = "12" } }, "two_factor.method: " .. broken },
      { { two_factor = { method = "totp", code = "123456", mehtod = 1 } },
        'two_factor.mehtod: is not a known field; did you mean "method"?' },
      { { proxy = "http://proxy.example", url = "http://127.0.0.1" },
        "proxy: would get the credentials unencrypted: url must begin with https://" },
      { { region = "eu" }, { "region: is not a known field" } },
    }
    for i, case in ipairs(cases) do
      it("case " .. i, function()
        local rc, failed = new({ empty_list }, case[1])
        assert.is_nil(rc)
        assert.same({ "invalid", "rocketchat.new" }, { failed.kind, failed.operation })
        if type(case[2]) == "table" then
          assert.truthy(faults_of(failed)[1]:find(case[2][1], 1, true), faults_of(failed)[1])
        else
          assert.same({ case[2] }, faults_of(failed))
        end
        assert.is_nil(tostring(failed):find("canary", 1, true))
      end)
    end

    it("what is not there, all at once", function()
      local _, failed = rocketchat.new {}
      assert.same({ "auth_token: is required", "url: is required", "user_id: is required" }, faults_of(failed))
      assert.equal("invalid", select(2, rocketchat.new()).kind)
    end)

    it("nothing of a good server's address", function()
      for url, sent in pairs {
        ["https://chat.example.com"] = "https://chat.example.com/api/v1/integrations.list",
        ["https://chat.example.com/"] = "https://chat.example.com/api/v1/integrations.list",
        ["https://example.com/chat"] = "https://example.com/chat/api/v1/integrations.list",
        ["http://127.0.0.1:3000"] = "http://127.0.0.1:3000/api/v1/integrations.list",
        ["http://localhost"] = "http://localhost/api/v1/integrations.list",
        ["http://[::1]:3000"] = "http://[::1]:3000/api/v1/integrations.list",
      } do
        local rc, requests = new({ empty_list }, { url = url })
        assert(rc.integrations:list())
        assert.equal(sent, requests[1].url)
      end
    end)
  end)

  it("raises where new is called with a colon", function()
    assert.error_matches(function()
      rocketchat:new {}
    end, "call it with a dot: rocketchat.new", 1, true)
  end)

  it("sends who asks, and the second factor where there is one", function()
    local rc, requests = new({ empty_list }, { two_factor = { method = "totp", code = "123456" } })
    assert(rc.integrations:list())
    assert.same({
      Accept = "application/json",
      ["X-Auth-Token"] = TOKEN,
      ["X-User-Id"] = "u1",
      ["x-2fa-code"] = "123456",
      ["x-2fa-method"] = "totp",
      ["User-Agent"] = "lua-integrations/" .. require("integrations").version,
    }, requests[1].headers)
    rc, requests = new { empty_list }
    assert(rc.integrations:list())
    assert.is_nil(requests[1].headers["x-2fa-code"])
    assert.is_nil(requests[1].headers["x-2fa-method"])
  end)

  describe("a failure", function()
    local none = "there is no such integration"
    local not_mine = "there is no such integration, or it is another user's"
    local may_not = "the user may not do this: give it the permission (manage-incoming-integrations, "
      .. "manage-outgoing-integrations, or one of their -own-)"
    -- status, body, then kind, a part of the message, and faults
    local cases = {
      { 400, '{"success":false,"error":"No integration found."}', "not_found", none, { "-: No integration found." } },
      { 400, '{"success":false,"error":"The integration does not exists."}', "not_found", none,
        { "-: The integration does not exists." } },
      { 400, '{"success":false,"error":"Invalid integration","errorType":"error-invalid-integration"}', "not_found",
        not_mine, { "-: Invalid integration [error-invalid-integration]" } },
      { 400, '{"success":false,"error":"[methods] x -> integration not found [invalid_integration]"}', "not_found",
        not_mine, { "-: [methods] x -> integration not found [invalid_integration]" } },
      { 400, '{"success":false,"error":"not_authorized"}', "forbidden", may_not, { "-: not_authorized" } },
      { 400, '{"success":false,"error":"not-authorized"}', "forbidden", may_not, { "-: not-authorized" } },
      { 400, '{"success":false,"error":"Unauthorized [unauthorized]","errorType":"unauthorized"}', "forbidden",
        may_not, { "-: Unauthorized [unauthorized]" } },
      { 403, '{"success":false,"error":"User does not have the permissions required for this action '
        .. '[error-unauthorized]"}', "forbidden", may_not,
        { "-: User does not have the permissions required for this action [error-unauthorized]" } },
      { 403, "", "forbidden", may_not, {} },
      { 401, '{"status":"error","message":"You must be logged in to do this."}', "unauthorized",
        "the server does not know user_id with this auth_token", { "-: You must be logged in to do this." } },
      { 400, [[{"success":false,"error":"Match error: Missing key 'name'"}]], "rejected", "found fault",
        { "name: is required" } },
      { 400, [[{"success":false,"error":"must have required property 'event'\n must have required property ]]
        .. [['name' [invalid-params]","errorType":"invalid-params"}]], "rejected", "found fault",
        { "event: is required", "name: is required" } },
      { 400, [[{"success":false,"error":"must have required property 'a'\n/b must be boolean\n ]]
        .. [[must have required property 'a'\n must match exactly one schema in oneOf [invalid-params]"}]], "rejected",
        "found fault", { "a: is required", "b: must be boolean" } },
      { 400, [[{"success":false,"error":"missing key 'name'"}]], "rejected", "failed while it worked",
        { "-: missing key 'name'" } },
      { 400, '{"success":false,"error":"Not allowed","errorType":"error-action-not-allowed"}', "forbidden", may_not,
        { "-: Not allowed [error-action-not-allowed]" } },
      { 400, '{"success":false,"error":"error-not-allowed"}', "forbidden", may_not, { "-: error-not-allowed" } },
      { 400, '{"success":false,"error":"Invalid room: #unauthorized-people [error-invalid-room]"}', "rejected",
        "found fault", { "-: Invalid room: #unauthorized-people [error-invalid-room]" } },
      { 400, '{"success":false,"error":"Invalid name: No integration found [error-invalid-name]"}', "rejected",
        "found fault", { "-: Invalid name: No integration found [error-invalid-name]" } },
      { 400, '{"success":false,"error":"Invalid integration type."}', "rejected", "found fault",
        { "-: Invalid integration type." } },
      { 404, '{"success":false,"error":"API endpoint not found"}', "not_found", "is url right", {
        "-: API endpoint not found" } },
      { 404, "<html>", "not_found", "the answer is a web page, not JSON", {} },
      { 400, '{"success":false,"error":5,"errorType":"error-x"}', "rejected", "found fault", { "-: error-x" } },
      { 400, "[]", "rejected", "found fault", {} },
      { 429, '{"success":false,"error":"Error, too many requests. [error-too-many-requests]"}', "rate_limited",
        "too many requests", { "-: Error, too many requests. [error-too-many-requests]" } },
      { 500, '{"success":false,"error":"boom"}', "server", "try again later", { "-: boom" } },
      { 502, "<html>unauthorized", "server", "web page", {} },
    }
    for i, case in ipairs(cases) do
      it(("of %d, case %d, is %s"):format(case[1], i, case[3]), function()
        local rc = new { { status = case[1], body = case[2] } }
        local result, failed = rc.integrations:get "x"
        assert.is_nil(result)
        assert.same({ case[3], case[1], "not_applied" }, { failed.kind, failed.status, failed.outcome })
        assert.truthy(failed.message:find(case[4], 1, true), failed.message)
        assert.same(case[5], faults_of(failed))
      end)
    end

    it("is the same of a write, whose outcome is known", function()
      local rc = new { { status = 400, body = '{"success":false,"error":"No integration found."}' } }
      local _, failed = rc.integrations:delete("webhook-incoming", "x")
      assert.same({ "not_found", "not_applied" }, { failed.kind, failed.outcome })
    end)

    -- The server answers so to whatever is thrown, also after it has written.
    local thrown = {
      { '{"success":false,"error":"connection 5 to 10.0.0.2:27017 closed"}', "unknown" },
      { '{"success":false,"error":"Cannot read properties of undefined"}', "unknown" },
      { '{"success":false,"error":"Invalid URLs [error-invalid-urls]"}', "not_applied" },
      { '{"success":false,"error":"Invalid URLs","errorType":"error-invalid-urls"}', "not_applied" },
      { [[{"success":false,"error":"Match error: Missing key 'name'"}]], "not_applied" },
      { '{"success":false,"error":"Invalid integration type."}', "not_applied" },
      { '{"success":false,"error":"An integrationId or target_url needs to be provided."}', "not_applied" },
      { '{"success":false,"error":"No integration found."}', "not_applied" },
      { '{"success":false,"error":"Cannot write [x]"}', "unknown" },
      { '{"success":false,"error":"Script error: needs to be provided"}', "unknown" },
      { '{"success":false}', "unknown" },
      { '{"success":false,"error":5}', "unknown" },
      { '{"success":false,"err', "unknown" },
      { "", "unknown" },
      { "[]", "not_applied" },
      { '{"errors":["a gateway"]}', "not_applied" },
      { "<html>", "not_applied" },
    }
    for i, case in ipairs(thrown) do
      it(("of 400 to a write, case %d, is %s"):format(i, case[2]), function()
        local rc, requests = new({ { status = 400, body = case[1] } }, { max_attempts = 3, retry_writes = true })
        local _, failed = rc.integrations:delete("webhook-incoming", "x")
        assert.same({ case[2], 1 }, { failed.outcome, #requests })
        assert.equal(case[2] == "unknown", failed.message:find("failed while it worked", 1, true) ~= nil)
        assert.equal("not_applied", select(2, rc.integrations:get "x").outcome)
      end)
    end

    it("may come with 200, and then nobody knows what was done", function()
      local rc = new { { status = 200, body = '{"success":false,"error":"boom"}' } }
      for _, call in ipairs { { "delete", "webhook-incoming", "x" }, { "change", "x", { name = "n" } }, { "list" } } do
        local result, failed = rc.integrations[call[1]](rc.integrations, call[2], call[3])
        assert.is_nil(result)
        assert.same({ "rejected", call[1] == "delete" and "unknown" or "not_applied" }, { failed.kind, failed.outcome })
        assert.same({ "-: boom" }, faults_of(failed))
      end
      rc = new { { status = 200, body = '{"success":false,"error":"not_authorized"}' } }
      assert.same({ "forbidden", "unknown" }, { select(2, rc.integrations:delete("webhook-incoming", "x")).kind,
        select(2, rc.integrations:delete("webhook-incoming", "x")).outcome })
    end)

    it("says when the rate limit ends, which is told in milliseconds", function()
      local rc = new { { status = 429, body = "",
        headers = { ["x-ratelimit-reset"] = ("%d000"):format(os.time() + 20) } } }
      local _, failed = rc.integrations:list()
      assert.equal("rate_limited", failed.kind)
      assert.is_true(failed.retry_after >= 5 and failed.retry_after <= 20)
    end)

    local function wants(name, details)
      return { status = 400, body = cjson.encode { success = false, error = name, errorType = name,
        details = details } }
    end

    it("of the second factor says what to pass", function()
      local cases_of_two = {
        { wants("totp-required", { method = "email", codeGenerated = true }), "email", "wants a second factor" },
        { wants("totp-invalid", { method = "totp" }), "totp", "wrong, or too old" },
        { wants("totp-max-attempts", { method = "totp" }), "totp", "wrong, or too old" },
        { wants "totp-required", "totp", "wants a second factor" },
        { wants("totp-required", { method = "x\n" .. ("y"):rep(99) }), "totp", "wants a second factor" },
        { wants("totp-required", { method = 5 }), "totp", "wants a second factor" },
        { wants("totp-required", { method = ("y"):rep(21) }), "totp", "wants a second factor" },
        { { status = 400, body = '{"success":false,"error":"TOTP Required [totp-required]"}' }, "totp", "wants" },
        { { status = 400, body = '{"success":false,"error":"TOTP Invalid"}' }, "totp", "wrong" },
      }
      for _, case in ipairs(cases_of_two) do
        local _, failed = new({ case[1] }).integrations:get "x"
        assert.same({ "unauthorized", { method = case[2] } }, { failed.kind, failed.two_factor })
        assert.truthy(failed.message:find(('two_factor = { method = "%s", code = "…" }'):format(case[2]), 1, true))
        assert.truthy(failed.message:find(case[3], 1, true))
      end
    end)

    it("does not repeat the token or the code, though the server may", function()
      local body = cjson.encode { error = "no " .. TOKEN .. " with 987654", errorType = TOKEN,
        details = { method = "987654" } }
      local rc = assert(rocketchat.new { url = "https://chat.example.com", user_id = "u1", auth_token = TOKEN,
        two_factor = { method = "totp", code = "987654" },
        transport = fake_transport.new { { status = 400, body = body, headers = { ["x-request-id"] = TOKEN } } } })
      local _, failed = rc.integrations:list()
      local text = cjson.encode(failed)
      assert.is_nil(text:find("canary", 1, true))
      assert.is_nil(text:find("987654", 1, true))
      assert.same({ "-: no … with …" }, faults_of(failed))
      rc.session.transport.send = function()
        return { status = 400, headers = {}, body = '{"error":"totp-required","details":{"method":"987654"}}' }
      end
      _, failed = rc.integrations:list()
      assert.same({ method = "totp" }, failed.two_factor)
      assert.is_nil(tostring(failed):find("987654", 1, true))
    end)
  end)

  it("hears the emulator ask for the second factor, and pass it", function()
    local service = emulator.new { two_factor = { method = "totp", code = "123456" } }
    local input = { type = "webhook-incoming", name = "n", enabled = true, username = "rocket.cat",
      channel = "#general", scriptEnabled = false }
    local _, failed = clients.rocketchat(service).integrations:create(input)
    assert.same({ "unauthorized", { method = "totp" }, "not_applied" },
      { failed.kind, failed.two_factor, failed.outcome })
    local rc = clients.rocketchat(service, { two_factor = { method = "totp", code = "654321" } })
    assert.truthy(select(2, rc.integrations:create(input)).message:find("wrong", 1, true))
    rc = clients.rocketchat(service, { two_factor = { method = "totp", code = "123456" } })
    assert.is_table((rc.integrations:create(input)))
  end)

  it("learns who may do what", function()
    local service = emulator.new()
    local strange = clients.rocketchat(service, { auth_token = "RC.test.canary" })
    assert.equal("unauthorized", select(2, strange.integrations:list()).kind)
    local powerless = clients.rocketchat(service, { auth_token = "RC.emulator.none" })
    local input = { type = "webhook-incoming", name = "n", enabled = true, username = "rocket.cat",
      channel = "#general", scriptEnabled = false }
    for name, arguments in pairs {
      list = {}, get = { "x" }, create = { input }, update = { "x", input }, history = { "x" },
      delete = { "webhook-incoming", "x" },
    } do
      local _, failed = powerless.integrations[name](powerless.integrations, (table.unpack or unpack)(arguments))
      assert.same({ "forbidden", "not_applied" }, { failed.kind, failed.outcome }, name)
    end
  end)
end)
