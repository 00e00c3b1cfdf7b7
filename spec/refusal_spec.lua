local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"
local refusal = require "integrations.refusal"
local rocketchat = require "integrations.rocketchat"
local sendgrid = require "integrations.sendgrid"

local SECRET = "s3cret-token"

local session = { transport = {} }

function session.transport.redact(_, text)
  return (text:gsub("s3cret%-token", "[hidden]"))
end

-- Of a service that exists nowhere.
local declaration = {
  statuses = {
    [401] = { "unauthorized", "nobody knows you" },
    [404] = { "not_found", "is %s right?" },
  },
  wordings = {
    { statuses = { [400] = true, [403] = true }, words = { "no such", "gone" }, kind = "not_found",
      message = "there is none" },
    { statuses = { [400] = true }, words = { "no such user" }, kind = "unauthorized", message = "too late" },
    { statuses = { [401] = true }, words = { "plan" }, message = "check the plan" },
    { statuses = { [409] = true }, words = { "twice" }, kind = "limit_reached" },
    { statuses = { [403] = true }, words = { "factor" }, kind = "unauthorized",
      describe = function(body, failed)
        failed.factor, failed.message = body.factor, failed.message .. "; second factor"
      end },
  },
  faults = function(body, operation, request, text_of)
    local faults = {}
    for i, value in ipairs(type(body.errors) == "table" and body.errors or {}) do
      faults[#faults + 1] = { field = operation.field, message = text_of(value), id = request.lists[i] }
    end
    local message = text_of(body.message)
    faults[#faults + 1] = message and { message = message }
    return faults
  end,
  request_id = function(body, headers, text_of)
    return text_of(body.id) or text_of(headers["x-request-id"])
  end,
}

local plain = { name = "things.list" }
local special = {
  name = "things.create",
  field = "name",
  statuses = {
    [401] = { "forbidden", "not this" },
    [429] = { "limit_reached", "see %s" },
    [507] = { "rejected", "full" },
  },
}

local reader = refusal.reader(declaration, "host_name")

local function read(status, body, operation, headers)
  return reader(operation or plain, { status = status, body = body or "{}", headers = headers or {} },
    { lists = { "id1" } }, session)
end

describe("integrations.refusal", function()
  -- status, then kind and words without and with an operation's own statuses
  local statuses = {
    { 400, { "rejected", "found fault with the request" } },
    { 401, { "unauthorized", "nobody knows you" }, { "forbidden", "not this" } },
    { 402, { "rejected", "the service refused the request" } },
    { 403, { "rejected", "the service refused the request" } },
    { 404, { "not_found", "is host_name right?" } },
    { 406, { "rejected", "in the form asked for: is host_name right?" } },
    { 409, { "rejected", "the service refused the request" } },
    { 413, { "rejected", "the request is too large" } },
    { 414, { "rejected", "the address is too long" } },
    { 415, { "rejected", "does not take JSON there: is host_name right?" } },
    { 451, { "forbidden", "the law does not allow it" } },
    { 429, { "rate_limited", "too many requests" }, { "limit_reached", "see host_name" } },
    { 499, { "rejected", "the service refused the request" } },
    { 500, { "server", "the service failed" } },
    { 503, { "server", "the service failed" } },
    { 507, { "server", "the service failed" }, { "rejected", "full" } },
    { 999, { "server", "the service failed" } },
  }
  for _, case in ipairs(statuses) do
    it("knows what " .. case[1] .. " means", function()
      for operation, expected in pairs { [plain] = case[2], [special] = case[3] or case[2] } do
        local failed = read(case[1], "{}", operation)
        assert.same({ expected[1], case[1], operation.name }, { failed.kind, failed.status, failed.operation })
        assert.truthy(failed.message:find(expected[2], 1, true), failed.message)
        assert.same({}, failed.errors)
        assert.is_nil(failed.request_id)
        assert.is_nil(failed.retry_after)
      end
    end)
  end

  describe("takes words for more than the status", function()
    local cases = {
      { "which are in any case", 400, "No SUCH thing", "not_found", "there is none" },
      { "which are any of several", 403, "it is gone", "not_found", "there is none" },
      { "of which the first that fits counts", 400, "no such user", "not_found", "there is none" },
      { "but not with another status", 402, "no such thing", "rejected", "the service refused the request" },
      { "but not others", 400, "such a thing", "rejected", "the service found fault with the request" },
      { "for the message alone", 401, "your plan", "unauthorized", "check the plan" },
      { "for the kind alone", 409, "twice", "limit_reached", "the service refused the request" },
    }
    for _, case in ipairs(cases) do
      it(case[1], function()
        local failed = read(case[2], ('{"message":"%s"}'):format(case[3]))
        assert.same({ case[4], case[5] }, { failed.kind, failed.message })
        assert.same({ "-: " .. case[3] }, faults_of(failed))
      end)
    end

    it("whichever of the faults has them", function()
      assert.equal("not_found", read(400, '{"errors":["x","no such thing"]}').kind)
    end)

    it("over what an operation says of the status", function()
      assert.same({ "forbidden", "check the plan" }, (function(failed)
        return { failed.kind, failed.message }
      end)(read(401, '{"message":"plan"}', special)))
    end)

    it("and lets them say more", function()
      local failed = read(403, '{"message":"second FACTOR","factor":"totp"}')
      assert.same({ "unauthorized", "totp", "the service refused the request; second factor" },
        { failed.kind, failed.factor, failed.message })
      assert.is_nil(read(403, '{"message":"gone factor","factor":"totp"}').factor)
      assert.is_nil(read(403, '{"message":"x","factor":"totp"}').factor)
    end)
  end)

  describe("reads the server's words", function()
    it("with what the operation and the request know of them", function()
      local failed = read(400, '{"errors":["a","b"],"message":"c"}', special)
      assert.same({ { field = "name", message = "a", id = "id1" }, { field = "name", message = "b" },
        { message = "c" } }, failed.errors)
    end)

    for _, nothing in ipairs { '""', '"null"', '"request"', "null", "5", "{}", "true" } do
      it("but not " .. nothing, function()
        local failed = read(400, ('{"message":%s,"id":%s}'):format(nothing, nothing))
        assert.same({}, failed.errors)
        assert.is_nil(failed.request_id)
      end)
    end

    it("without credentials", function()
      local failed = read(400, ('{"message":"%s is no token, %s","id":"%s"}'):format(SECRET, SECRET, SECRET))
      assert.same({ "-: [hidden] is no token, [hidden]" }, faults_of(failed))
      assert.equal("[hidden]", failed.request_id)
      assert.is_nil(tostring(failed):find(SECRET, 1, true))
    end)

    it("up to a length, which cuts no credential in two", function()
      local failed = read(400, ('{"message":"%s"}'):format(("x"):rep(5000)))
      assert.equal(("x"):rep(4096), failed.errors[1].message)
      failed = read(400, ('{"message":"%s%s"}'):format(("x"):rep(4090), SECRET))
      assert.equal(("x"):rep(4090) .. "[hidde", failed.errors[1].message)
    end)

    it("and what it calls the request, in the body or the headers", function()
      local headers = { ["x-request-id"] = "r-" .. SECRET }
      assert.equal("b1", read(500, '{"id":"b1"}', plain, headers).request_id)
      assert.equal("r-[hidden]", read(500, "{}", plain, headers).request_id)
      assert.equal("r-[hidden]", read(500, "<html>", plain, headers).request_id)
      assert.equal(4096, #read(500, "", plain, { ["x-request-id"] = ("r"):rep(9999) }).request_id)
    end)
  end)

  describe("reads an answer that is no object", function()
    local other = "the answer is not the JSON that the service documents; "
    local page = "the answer is a web page, not JSON: something between here and the service sent it; "
    local cases = {
      { "", "the answer is empty; " },
      { "<html>no such</html>", page },
      { "no such thing", other }, { '"no such thing"', other }, { "5", other }, { "null", other },
      { '{"message":', other }, { "[]", "" }, { '["no such thing"]', "" },
    }
    for _, case in ipairs(cases) do
      it("as nothing but its status: " .. case[1], function()
        local failed = read(400, case[1])
        assert.same({ "rejected", case[2] .. "the service found fault with the request" },
          { failed.kind, failed.message })
        assert.same({}, failed.errors)
        assert.equal("unauthorized", read(401, case[1]).kind)
        assert.equal("server", read(502, case[1]).kind)
      end)
    end
  end)

  it("reads when the server wants to be asked again", function()
    assert.equal(7, read(429, "{}", plain, { ["retry-after"] = "7" }).retry_after)
    assert.equal(8, read(503, "<html>", plain, { ["retry-after"] = "8" }).retry_after)
    assert.equal(9, read(429, "{}", plain, { ["x-ratelimit-reset"] = "9" }).retry_after)
    assert.is_nil(read(503, "{}", plain, { ["x-ratelimit-reset"] = "9" }).retry_after)
  end)

  it("leaves the declaration as it was", function()
    read(403, '{"message":"factor"}')
    read(404, "<html>")
    assert.same({ "not_found", "is %s right?" }, declaration.statuses[404])
    assert.equal("the service refused the request", read(403).message)
  end)

  -- Clients differ in what statuses mean to them, and in the option that has the address.
  local clients = {
    ["SendGrid's"] = {
      new = function(transport)
        return assert(sendgrid.new { api_key = "SG.test.canary", transport = transport })
      end,
      address = "base_url",
      statuses = { [401] = "unauthorized", [403] = "forbidden", [404] = "not_found", [451] = "forbidden" },
      body = '{"errors":[{"message":"m"}]}',
    },
    ["Rocket.Chat's"] = {
      new = function(transport)
        return assert(rocketchat.new { url = "https://chat.example", user_id = "u", auth_token = "canary",
          transport = transport })
      end,
      address = "url",
      statuses = { [401] = "unauthorized", [403] = "forbidden", [404] = "not_found", [451] = "forbidden" },
      body = '{"error":"m"}',
    },
  }
  for name, case in pairs(clients) do
    local function refuse(status, body)
      local transport = fake_transport.new { { status = status, headers = { ["x-request-id"] = "r1" }, body = body } }
      return select(2, case.new(transport).integrations:list())
    end

    it("knows " .. name .. " own statuses", function()
      for status, kind in pairs(case.statuses) do
        local failed = refuse(status, case.body)
        assert.same({ kind, status, "r1" }, { failed.kind, failed.status, failed.request_id })
        assert.same({ "-: m" }, faults_of(failed))
      end
    end)

    it("names " .. name .. " option for the address", function()
      for _, status in ipairs { 302, 406, 415 } do
        local failed = refuse(status, case.body)
        local word = failed.message:match(status == 302 and "check ([%w_]+)" or "is ([%w_]+) right")
        assert.equal(case.address, word, failed.message)
      end
    end)
  end
end)
