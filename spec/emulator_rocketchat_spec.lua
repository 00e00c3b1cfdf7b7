local cjson = require("cjson.safe").new()
local emulated = require "spec.support.emulated"
local emulators = require "integrations.emulator"

local expect = emulated.expect

local BASE = "http://127.0.0.1:1/api/v1/integrations."
local FIRST, SECOND = "EmuIntegratn00001", "EmuIntegratn00002"
local TOKEN = "EmuIntegratn00001EmuIntegratn00001EmuIntegratn00"

--- The least that each kind of integration needs.
local NEEDED = {
  incoming = {
    type = "webhook-incoming", name = "in", enabled = true, scriptEnabled = false, channel = "#general",
    username = "bot",
  },
  outgoing = {
    type = "webhook-outgoing", name = "out", enabled = true, scriptEnabled = false, channel = "#general",
    username = "bot", event = "sendMessage", urls = { "https://example.com/a" }, token = "secret",
  },
}

--- An input of some kind with some fields changed; `cjson.null` is null, NONE leaves a field out.
local NONE = {}

local function input(kind, changes)
  local fields = {}
  for name, value in pairs(NEEDED[kind]) do fields[name] = value end
  for name, value in pairs(changes or {}) do fields[name] = value end
  for name, value in pairs(fields) do
    if value == NONE then fields[name] = nil end
  end
  return fields
end

local function failure(message, code)
  return '{"error":"' .. message .. '",' .. (code and '"errorType":"' .. code .. '",' or "") .. '"success":false}'
end

--- A refusal whose message names its code.
local function refusal(message, code)
  return failure(message .. " [" .. code .. "]", code)
end

local function invalid(...)
  return refusal(table.concat({ ... }, "\\n "), "invalid-params")
end

local NOT_FOUND = failure "No integration found."
local NOT_LOGGED_IN = '{"message":"You must be logged in to do this.","status":"error"}'
local NOT_AUTHORIZED = refusal("Unauthorized", "not_authorized")
local FORBIDDEN = failure "User does not have the permissions required for this action [error-unauthorized]"

describe("the emulator's Rocket.Chat", function()
  local emulator

  before_each(function() emulator = emulators.new() end)

  --- Sends a request as a correct client would; a body that is a table is sent as JSON, `headers` overrides, false
  --- leaves a header out.
  local function call(method, path, body, headers)
    if type(body) == "table" then body = cjson.encode(body) end
    return emulated.ask(emulator, { ["x-user-id"] = "emulator", ["x-auth-token"] = "RC.emulator.full" },
      { method = method, url = BASE .. path, body = body, headers = headers })
  end

  --- The integration in an answer that has to be a success.
  local function integration(response)
    local answer = cjson.decode(response.body)
    assert.same({ 200, true }, { response.status, answer.success })
    return answer.integration
  end

  local function create(kind, changes, headers)
    return integration(call("POST", "create", input(kind, changes), headers))
  end

  local function update(kind, id, changes, headers)
    local fields = input(kind, changes)
    fields.integrationId = fields.integrationId or id
    return call("PUT", "update", fields, headers)
  end

  local function get(id)
    return integration(call("GET", "get?integrationId=" .. id))
  end

  local function page(path, headers)
    local response = call("GET", path, nil, headers)
    assert.equal(200, response.status)
    return cjson.decode(response.body)
  end

  local function names(query, headers)
    local found = {}
    for index, member in ipairs(page("list" .. (query or ""), headers).integrations) do found[index] = member.name end
    return found
  end

  describe("makes integrations:", function()
    it("an incoming one gets a token", function()
      expect(200, '{"integration":{"_createdAt":"2026-01-01T00:00:01.000Z",'
        .. '"_createdBy":{"_id":"emulator","username":"emulator"},"_id":"' .. FIRST .. '",'
        .. '"_updatedAt":"2026-01-01T00:00:01.000Z","channel":["#general"],"enabled":true,"name":"in",'
        .. '"overrideDestinationChannelEnabled":false,"scriptEnabled":false,"scriptEngine":"isolated-vm",'
        .. '"skipTranspile":false,"token":"' .. TOKEN .. '","type":"webhook-incoming","userId":"bot",'
        .. '"username":"bot"},"success":true}', call("POST", "create", input "incoming"))
      assert.same({ 17, 48 }, { #FIRST, #TOKEN })
    end)

    it("an outgoing one keeps its own", function()
      expect(200, '{"integration":{"_createdAt":"2026-01-01T00:00:01.000Z",'
        .. '"_createdBy":{"_id":"emulator","username":"emulator"},"_id":"' .. FIRST .. '",'
        .. '"_updatedAt":"2026-01-01T00:00:01.000Z","channel":["#general"],"enabled":true,"event":"sendMessage",'
        .. '"name":"out","scriptEnabled":false,"token":"secret","type":"webhook-outgoing",'
        .. '"urls":["https://example.com/a"],"userId":"bot","username":"bot"},"success":true}',
        call("POST", "create", input "outgoing"))
    end)

    local optional = { alias = "Alias", avatar = "https://example.com/a.png", emoji = ":ghost:", script = "class A {}",
      scriptEngine = "isolated-vm", skipTranspile = true }
    local only = {
      incoming = { overrideDestinationChannelEnabled = true },
      outgoing = {
        triggerWords = { "a", "b" }, targetRoom = "#room", triggerWordAnywhere = true, runOnEdits = false,
        retryFailedCalls = true, impersonateUser = false, retryCount = 3, retryDelay = "powers-of-ten",
      },
    }
    for kind, fields in pairs(only) do
      for name, value in pairs(optional) do fields[name] = value end
      it("an " .. kind .. " one has every optional field", function()
        local made = create(kind, fields)
        for name, value in pairs(fields) do assert.same(value, made[name], name) end
        assert.same(made, get(FIRST))
      end)

      for name in pairs(fields) do
        it(("an %s one's %s may be null, which is as good as nothing"):format(kind, name), function()
          local with = create(kind, { [name] = cjson.null })
          emulator:reset()
          assert.same(create(kind), with)
        end)
      end
    end

    it("the channels are a string in the request and an array in the answer", function()
      assert.same({ "#a", "@b", "#c" }, create("incoming", { channel = "#a,@b , #c" }).channel)
      assert.same({ "#a", "all_public_channels" }, create("outgoing", { channel = "#a,all_public_channels" }).channel)
    end)

    for event, channels in pairs {
      sendMessage = 1, fileUploaded = 1, roomArchived = 0, roomCreated = 0, roomJoined = 1, roomLeft = 1,
      userCreated = 0,
    } do
      it("the event " .. event .. " is known", function()
        local made = create("outgoing", { event = event, targetRoom = "#room", triggerWords = { "a" } })
        assert.same({ event, channels }, { made.event, #made.channel })
        assert.same(event == "sendMessage" and { "a" } or nil, made.triggerWords)
      end)
    end

    it("ids and times are counted up", function()
      create "incoming"
      local second = create "outgoing"
      assert.same({ SECOND, "2026-01-01T00:00:02.000Z" }, { second._id, second._createdAt })
    end)

    it("two may have the same name", function()
      create "incoming"
      create "incoming"
      assert.same({ "in", "in" }, names())
    end)

    it("reset forgets them, and starts the ids and the time over", function()
      local first = create "incoming"
      emulator:reset()
      assert.same({}, names())
      assert.same(first, create "incoming")
    end)
  end)

  describe("checks the fields:", function()
    local MISSING, WRONG, UNKNOWN = "must have required property '%s'", "/%s must be %s",
      "must NOT have additional properties"

    for kind, required in pairs {
      incoming = { "type", "name", "enabled", "scriptEnabled", "channel", "username" },
      outgoing = { "type", "name", "enabled", "scriptEnabled", "channel", "username", "event" },
    } do
      for _, name in ipairs(required) do
        it(("an %s one needs %s"):format(kind, name), function()
          expect(400, invalid(MISSING:format(name)), call("POST", "create", input(kind, { [name] = NONE })))
          assert.same({}, names())
        end)
      end
    end

    local types = {
      string = { "name", "channel", "username", "alias", "avatar", "emoji", "script", "scriptEngine" },
      boolean = { "enabled", "scriptEnabled", "skipTranspile" },
    }
    local outgoing = {
      string = { "event", "token", "targetRoom", "retryDelay" },
      boolean = { "triggerWordAnywhere", "runOnEdits", "retryFailedCalls", "impersonateUser" },
      number = { "retryCount" },
      array = { "urls", "triggerWords" },
    }
    for kind, declared in pairs { incoming = types, outgoing = outgoing } do
      for type_name, fields in pairs(declared) do
        for _, name in ipairs(fields) do
          it(("an %s one's %s is a %s"):format(kind, name, type_name), function()
            local text = name == "scriptEngine" and "/scriptEngine must be equal to one of the allowed values"
              or WRONG:format(name, type_name)
            expect(400, invalid(text), call("POST", "create", input(kind, { [name] = { a = 1 } })))
          end)
        end
      end
    end

    for name, case in pairs {
      ["null for what is required"] = { "incoming", { name = cjson.null, enabled = cjson.null },
        WRONG:format("name", "string"), WRONG:format("enabled", "boolean") },
      ["an unknown field"] = { "incoming", { nmae = "x" }, UNKNOWN },
      ["two unknown fields"] = { "outgoing", { a = 1, b = 2 }, UNKNOWN },
      ["a token for an incoming one"] = { "incoming", { token = "x" }, UNKNOWN },
      ["a field of the other kind"] = { "outgoing", { overrideDestinationChannelEnabled = true }, UNKNOWN },
      ["an id"] = { "outgoing", { integrationId = "x" }, UNKNOWN },
      ["another engine"] = { "incoming", { scriptEngine = "vm2" },
        "/scriptEngine must be equal to one of the allowed values" },
      ["a URL that is a number"] = { "outgoing", { urls = { "https://example.com", 1 } }, "/urls/1 must be string" },
      ["an empty trigger word"] = { "outgoing", { triggerWords = { "" } },
        "/triggerWords/0 must NOT have fewer than 1 characters" },
      ["trigger words in one string"] = { "outgoing", { triggerWords = "a,b" }, WRONG:format("triggerWords", "array") },
      ["channels in an array"] = { "incoming", { channel = { "#a" } }, WRONG:format("channel", "string") },
      ["faults everywhere"] = { "outgoing", { name = 1, enabled = NONE, urls = "x", x = 1 },
        WRONG:format("name", "string"), MISSING:format "enabled", WRONG:format("urls", "array"), UNKNOWN },
    } do
      it(name, function()
        expect(400, invalid((unpack or table.unpack)(case, 3)), call("POST", "create", input(case[1], case[2])))
        assert.same({}, names())
      end)
    end

    it("null is no type either, nor is a number", function()
      for _, value in ipairs { cjson.null, 1, "webhook", "webhook-incoming-invalid" } do
        for method, path in pairs { POST = "create", PUT = "update" } do
          expect(400, failure "Invalid integration type.", call(method, path, input("incoming", { type = value })))
        end
      end
    end)

    it("a body that is no JSON object", function()
      expect(400, failure "request body is not valid JSON", call("POST", "create", "{"))
      expect(400, failure "request body must be a JSON object", call("POST", "create", "[]"))
      expect(415, failure "content type must be application/json",
        call("POST", "create", "{}", { ["content-type"] = "text/plain" }))
    end)
  end)

  describe("checks what the fields mean:", function()
    local START = refusal("Invalid channel. Start with @ or #", "error-invalid-channel-start-with-chars")
    local URLS = refusal("Invalid URLs", "error-invalid-urls")
    local USER = refusal("Invalid username", "error-invalid-username")

    for name, case in pairs {
      ["a blank channel, incoming"] = { "incoming", { channel = " " },
        refusal("Invalid channel", "error-invalid-channel") },
      ["a blank channel, outgoing"] = { "outgoing", { channel = "" },
        refusal("Invalid Channel", "error-invalid-channel") },
      ["a channel without its first character"] = { "incoming", { channel = "#a,general" }, START },
      ["an empty channel among others"] = { "incoming", { channel = "#a,,#b" }, START },
      ["all channels for an incoming one"] = { "incoming", { channel = "all_public_channels" }, START },
      ["channels that are none"] = { "outgoing", { channel = "all_channels" }, START },
      ["a blank user, incoming"] = { "incoming", { username = " " }, USER },
      ["a blank user, outgoing"] = { "outgoing", { username = "" }, USER },
      ["an unknown event"] = { "outgoing", { event = "SendMessage" },
        refusal("Invalid event type", "error-invalid-event-type") },
      ["a new user without a room to tell it"] = { "outgoing", { event = "userCreated" },
        refusal("Invalid Target Room", "error-invalid-targetRoom") },
      ["no URLs"] = { "outgoing", { urls = NONE }, URLS },
      ["null for the URLs"] = { "outgoing", { urls = cjson.null }, URLS },
      ["a blank URL"] = { "outgoing", { urls = { " " } }, URLS },
    } do
      it(name, function()
        expect(400, case[3], call("POST", "create", input(case[1], case[2])))
        assert.same({}, names())
        create(case[1])
        expect(400, case[3], update(case[1], FIRST, case[2]))
      end)
    end

    for name, token in pairs { ["no token"] = NONE, ["a blank token"] = " " } do
      it(name .. ", but only in an update", function()
        create("outgoing", { token = token })
        expect(400, refusal("Invalid token", "error-invalid-token"), update("outgoing", FIRST, { token = token }))
      end)
    end

    it("an empty list of URLs", function()
      local body = cjson.encode(input("outgoing", { urls = NONE })):gsub("^{", '{"urls":[],')
      expect(400, URLS, call("POST", "create", body))
    end)
  end)

  describe("says it in the words of older servers, if told so:", function()
    before_each(function() emulator = emulators.new { rocketchat_wording = "older" } end)

    for message, case in pairs {
      ["Missing key 'name'"] = { "incoming", { name = NONE, enabled = NONE } },
      ["Missing key 'type'"] = { "incoming", { type = NONE } },
      ["Expected string, got number in field name"] = { "incoming", { name = 1 } },
      ["Expected boolean, got null in field enabled"] = { "outgoing", { enabled = cjson.null } },
      ["Expected array, got object in field urls"] = { "outgoing", { urls = { a = 1 } } },
      ["Failed Match.Where validation in field scriptEngine"] = { "outgoing", { scriptEngine = "vm2" } },
      ["Unknown key in field x"] = { "outgoing", { x = 1, y = 1 } },
    } do
      it(message, function()
        expect(400, failure("Match error: " .. message), call("POST", "create", input(case[1], case[2])))
      end)
    end

    for body, message in pairs {
      ['{"type":"webhook"}'] = "Invalid integration type.",
      ['{"type":"webhook-incoming"}'] = "Match error: Missing key 'integrationId'",
      ['{"type":"webhook-outgoing"}'] = "An integrationId or target_url needs to be provided.",
      ['{"type":"webhook-outgoing","integrationId":"a","target_url":"b"}'] =
        "An integrationId or target_url needs to be provided.",
    } do
      it("when asked to remove " .. body, function()
        expect(400, failure(message), call("POST", "remove", body))
      end)
    end

    it("in queries, too", function()
      expect(400, failure "Match error: Missing key 'integrationId'", call("GET", "get"))
    end)
  end)

  describe("updates:", function()
    it("what is left out is cleared, but what the server owns stays", function()
      local before = create("incoming", { alias = "x", emoji = ":x:", overrideDestinationChannelEnabled = true })
      local after = integration(update("incoming", FIRST, { name = "new", emoji = ":y:" }))
      assert.same(after, get(FIRST))
      before.alias, before.emoji, before.name, before.overrideDestinationChannelEnabled = nil, ":y:", "new", false
      before._updatedAt = "2026-01-01T00:00:02.000Z"
      before._updatedBy = { _id = "emulator", username = "emulator" }
      assert.same(before, after)
    end)

    it("an outgoing one's optional fields are cleared, too", function()
      create("outgoing", { triggerWords = { "a" }, retryCount = 3, alias = "x" })
      local after = integration(update("outgoing", FIRST, { urls = { "https://example.com/b" }, token = "new" }))
      assert.same({ urls = { "https://example.com/b" }, token = "new" }, {
        urls = after.urls, token = after.token, alias = after.alias,
        triggerWords = after.triggerWords, retryCount = after.retryCount,
      })
    end)

    it("an incoming one keeps its user, unless another is named", function()
      create "incoming"
      assert.equal("bot", integration(update("incoming", FIRST, { username = NONE })).username)
      local other = integration(update("incoming", FIRST, { username = "other" }))
      assert.same({ "other", "other" }, { other.username, other.userId })
    end)

    it("an incoming one's unknown fields pass, and go nowhere", function()
      create "incoming"
      local after = integration(update("incoming", FIRST, { token = "mine", nmae = "x", target_url = "x" }))
      assert.same({ TOKEN }, { after.token, after.nmae, after.target_url, after.integrationId })
    end)

    it("an outgoing one's unknown fields do not", function()
      create "outgoing"
      expect(400, invalid "must NOT have additional properties", update("outgoing", FIRST, { nmae = "x" }))
    end)

    it("an outgoing one is found by a URL of its own, which wins over the id", function()
      create "outgoing"
      create("outgoing", { urls = { "https://example.com/b", "https://example.com/c" } })
      local by_url = integration(call("PUT", "update", input("outgoing", { target_url = "https://example.com/c" })))
      assert.same({ SECOND, { "https://example.com/a" } }, { by_url._id, by_url.urls })
      assert.is_nil(by_url.target_url)
      local both = input("outgoing", { target_url = "https://example.com/a", integrationId = SECOND })
      assert.equal(FIRST, integration(call("PUT", "update", both))._id)
    end)

    it("an incoming one needs an id", function()
      expect(400, invalid "must have required property 'integrationId'", call("PUT", "update", input "incoming"))
    end)

    for name, case in pairs {
      ["an unknown id"] = { "incoming", { integrationId = "x" } },
      ["an id of the other kind"] = { "incoming", { integrationId = SECOND } },
      ["an unknown URL, whatever the id"] = { "outgoing", { integrationId = SECOND, target_url = "x" } },
      ["neither id nor URL"] = { "outgoing", {} },
    } do
      it("finds nothing by " .. name, function()
        create "incoming"
        create "outgoing"
        expect(400, NOT_FOUND, call("PUT", "update", input(case[1], case[2])))
      end)
    end

    it("the other fields are checked as in a create", function()
      create "outgoing"
      expect(400, invalid("must have required property 'name'", "/enabled must be boolean"),
        update("outgoing", FIRST, { name = NONE, enabled = 1 }))
    end)
  end)

  describe("gets:", function()
    it("what create answered", function()
      assert.same(create "incoming", get(FIRST))
    end)

    it("by who made it, too", function()
      create "incoming"
      assert.equal(FIRST, get(FIRST .. "&createdBy=emulator")._id)
      expect(400, failure "The integration does not exists.",
        call("GET", "get?createdBy=other&integrationId=" .. FIRST))
    end)

    for path, body in pairs {
      ["get"] = invalid "must have required property 'integrationId'",
      ["get?integrationId=x"] = failure "The integration does not exists.",
      ["get?integrationId="] = failure "The integration does not exists.",
    } do
      it(path .. " is a 400", function() expect(400, body, call("GET", path)) end)
    end
  end)

  describe("lists:", function()
    local function make(count)
      for index = 1, count do create("incoming", { name = "n" .. index }) end
    end

    it("an empty page", function()
      expect(200, '{"count":0,"integrations":[],"items":0,"offset":0,"success":true,"total":0}', call("GET", "list"))
    end)

    it("the newest first", function()
      make(3)
      update("incoming", FIRST, { name = "new" })
      assert.same({ "n3", "n2", "new" }, names())
    end)

    for _, case in ipairs {
      { "", 50, 0 }, { "?count=10", 10, 0 }, { "?count=100", 100, 0 }, { "?count=101", 100, 0 },
      { "?count=0", 50, 0 }, { "?count=x&offset=y", 50, 0 }, { "?count=100&offset=100", 5, 100 },
      { "?offset=105", 0, 105 }, { "?offset=1000", 0, 1000 }, { "?count=2&offset=3&sort=%7B%7D", 2, 3 },
    } do
      it(("a page %q"):format(case[1]), function()
        make(105)
        local found = page("list" .. case[1])
        assert.same({ case[2], case[2], case[2], case[3], 105, true }, {
          #found.integrations, found.count, found.items, found.offset, found.total, found.success,
        })
        if case[2] > 0 then assert.equal("n" .. 105 - case[3], found.integrations[1].name) end
      end)
    end

    for query, expected in pairs {
      ["?name=Two"] = { "the two" }, ["?name=T"] = { "three", "the two" }, ["?name=."] = {}, ["?name="] =
        { "three", "the two", "one" },
      ["?type=webhook-outgoing"] = { "the two" }, ["?type=webhook-incoming&name=E"] = { "three", "one" },
      ["?type=webhook"] = {},
    } do
      it("by " .. query, function()
        create("incoming", { name = "one" })
        create("outgoing", { name = "the two" })
        create("incoming", { name = "three" })
        assert.same(expected, names(query))
        assert.equal(#expected, page("list" .. query).total)
      end)
    end

    it("nothing by what it does not know", function()
      expect(400, invalid "must NOT have additional properties", call("GET", "list?limit=1"))
    end)
  end)

  describe("removes:", function()
    before_each(function()
      create "incoming"
      create "outgoing"
    end)

    it("by id, and answers what is no more", function()
      local before = get(FIRST)
      local body = { type = "webhook-incoming", integrationId = FIRST }
      assert.same(before, integration(call("POST", "remove", body)))
      expect(400, NOT_FOUND, call("POST", "remove", body))
      assert.same({ "out" }, names())
    end)

    for name, value in pairs { integrationId = SECOND, target_url = "https://example.com/a" } do
      it("an outgoing one by " .. name, function()
        assert.equal(SECOND, integration(call("POST", "remove", { type = "webhook-outgoing", [name] = value }))._id)
        assert.same({ "in" }, names())
      end)
    end

    local ONE_OF = "must match exactly one schema in oneOf"
    for body, expected in pairs {
      ["{}"] = invalid "must have required property 'type'",
      ['{"type":"webhook","integrationId":"' .. FIRST .. '"}'] = invalid(ONE_OF),
      ['{"type":"webhook-incoming"}'] = invalid("must have required property 'integrationId'", ONE_OF),
      ['{"type":"webhook-incoming","target_url":"https://example.com/a"}'] =
        invalid("must have required property 'integrationId'", ONE_OF),
      ['{"type":"webhook-outgoing"}'] =
        invalid("must have required property 'integrationId'", "must have required property 'target_url'", ONE_OF),
      ['{"type":"webhook-outgoing","integrationId":"' .. SECOND .. '","target_url":"https://example.com/a"}'] =
        invalid(ONE_OF),
      ['{"type":"webhook-incoming","integrationId":1}'] = invalid "/integrationId must be string",
      ['{"type":"webhook-incoming","integrationId":"x"}'] = NOT_FOUND,
      ['{"type":"webhook-incoming","integrationId":"' .. SECOND .. '"}'] = NOT_FOUND,
      ['{"type":"webhook-outgoing","target_url":"https://example.com"}'] = NOT_FOUND,
    } do
      it("not with " .. body, function()
        expect(400, expected, call("POST", "remove", body))
        assert.same({ "out", "in" }, names())
      end)
    end
  end)

  describe("tells what was sent:", function()
    before_each(function()
      create "incoming"
      create "outgoing"
    end)

    it("two calls of every outgoing integration, the last first", function()
      local found = page("history?id=" .. SECOND)
      assert.same({ 2, 2, 2, 0, true }, { found.count, found.items, found.total, found.offset, found.success })
      assert.same({
        _id = "EmuHistory0000202", type = "outgoing-webhook", step = "after-process-false", event = "sendMessage",
        integration = { _id = SECOND, name = "out" }, url = "https://example.com/a", finished = true, error = false,
        _createdAt = "2026-01-01T00:00:02.000Z", _updatedAt = "2026-01-01T00:00:02.000Z",
      }, found.history[1])
      assert.equal("EmuHistory0000201", found.history[2]._id)
      assert.equal(found.history[2]._id, page("history?count=1&offset=1&id=" .. SECOND).history[1]._id)
    end)

    for _, id in ipairs { FIRST, "unknown" } do
      it("nothing of " .. id, function()
        expect(200, '{"count":0,"history":[],"items":0,"offset":0,"success":true,"total":0}',
          call("GET", "history?id=" .. id))
      end)
    end

    for path, body in pairs {
      ["history"] = invalid "must have required property 'id'",
      ["history?id="] = failure "Invalid integration id.",
      ["history?id=x&integrationId=y"] = invalid "must NOT have additional properties",
    } do
      it(path .. " is a 400", function() expect(400, body, call("GET", path)) end)
    end
  end)

  describe("asks who calls:", function()
    for name, headers in pairs {
      ["no headers"] = { ["x-user-id"] = false, ["x-auth-token"] = false },
      ["no user"] = { ["x-user-id"] = false },
      ["no token"] = { ["x-auth-token"] = false },
      ["an unknown user"] = { ["x-user-id"] = "other" },
      ["an unknown token"] = { ["x-auth-token"] = "RC.unknown" },
      ["empty headers"] = { ["x-user-id"] = "", ["x-auth-token"] = "" },
      ["another service's key"] = { ["x-auth-token"] = false, authorization = "Bearer SG.emulator.full" },
    } do
      it(name .. ": 401", function()
        expect(401, NOT_LOGGED_IN, call("GET", "list", nil, headers))
        expect(401, NOT_LOGGED_IN, call("POST", "create", input "incoming", headers))
      end)
    end

    it("users of one's own", function()
      emulator = emulators.new { rocketchat_users = { alice = { ["a"] = {}, ["b"] = {} }, bob = { ["c"] = {} } } }
      local made = create("incoming", nil, { ["x-user-id"] = "alice", ["x-auth-token"] = "a" })
      assert.same({ _id = "alice", username = "alice" }, made._createdBy)
      assert.same({ "in" }, names("", { ["x-user-id"] = "alice", ["x-auth-token"] = "b" }))
      assert.same({ "in" }, names("", { ["x-user-id"] = "bob", ["x-auth-token"] = "c" }))
      expect(401, NOT_LOGGED_IN, call("GET", "list", nil, { ["x-user-id"] = "bob", ["x-auth-token"] = "a" }))
      expect(401, NOT_LOGGED_IN, call("GET", "list"))
    end)
  end)

  describe("asks for permissions:", function()
    local NOBODY = { ["x-auth-token"] = "RC.emulator.none" }

    local function requests(id)
      return {
        create = { "POST", "create", input "outgoing" },
        update = { "PUT", "update", input("outgoing", { integrationId = id }) },
        remove = { "POST", "remove", { type = "webhook-outgoing", integrationId = id } },
        get = { "GET", "get?integrationId=" .. id },
        list = { "GET", "list" },
        history = { "GET", "history?id=" .. id },
      }
    end

    local function ask(request, headers)
      return call(request[1], request[2], request[3], headers)
    end

    for name, refused in pairs {
      create = { 400, NOT_AUTHORIZED }, update = { 400, NOT_AUTHORIZED }, get = { 400, failure "not-authorized" },
      remove = { 403, FORBIDDEN }, list = { 403, FORBIDDEN }, history = { 403, FORBIDDEN },
    } do
      it(name .. " without any", function()
        create "outgoing"
        expect(refused[1], refused[2], ask(requests(FIRST)[name], NOBODY))
        assert.same({ "out" }, names())
        assert.equal(200, ask(requests(FIRST)[name]).status)
      end)
    end

    it("a permission is for one kind", function()
      emulator = emulators.new { rocketchat_users = { emulator = {
        ["RC.emulator.full"] = {},
        ["in"] = { permissions = { "manage-incoming-integrations" } },
        ["out"] = { permissions = { "manage-outgoing-integrations" } },
      } } }
      local into, out = { ["x-auth-token"] = "in" }, { ["x-auth-token"] = "out" }
      create("incoming", nil, into)
      create("outgoing", nil, out)
      expect(400, NOT_AUTHORIZED, call("POST", "create", input "incoming", out))
      expect(400, NOT_AUTHORIZED, call("POST", "create", input "outgoing", into))
      expect(400, NOT_AUTHORIZED, update("outgoing", SECOND, nil, into))
      expect(400, NOT_AUTHORIZED, call("POST", "remove", { type = "webhook-outgoing", integrationId = SECOND }, into))
      expect(400, failure "not-authorized", call("GET", "get?integrationId=" .. SECOND, nil, into))
      expect(403, FORBIDDEN, call("GET", "history?id=" .. SECOND, nil, into))
      assert.same({ { "in" }, { "out" }, { "out", "in" } }, { names("", into), names("", out), names() })
    end)

    it("a permission for one's own reaches no others", function()
      local own = { permissions = { "manage-own-outgoing-integrations" } }
      emulator = emulators.new { rocketchat_users = { alice = { a = own }, bob = { b = own } } }
      local alice = { ["x-user-id"] = "alice", ["x-auth-token"] = "a" }
      local bob = { ["x-user-id"] = "bob", ["x-auth-token"] = "b" }
      create("outgoing", nil, alice)
      create("outgoing", { name = "bob's" }, bob)
      assert.same({ { "out" }, { "bob's" } }, { names("", alice), names("", bob) })
      expect(400, refusal("Invalid integration", "error-invalid-integration"), ask(requests(FIRST).update, bob))
      expect(400, NOT_AUTHORIZED, ask(requests(FIRST).remove, bob))
      expect(400, failure "not-authorized", ask(requests(FIRST).get, bob))
      assert.equal(0, page("history?id=" .. FIRST, bob).total)
      for _, name in ipairs { "get", "history", "update", "remove" } do
        assert.equal(200, ask(requests(SECOND)[name], bob).status)
      end
      assert.same({ "out" }, names("", alice))
    end)
  end)

  describe("asks for a second factor:", function()
    local DETAILS = '"details":{"availableMethods":["totp"],"codeGenerated":false,"method":"totp"},'
    local REQUIRED = "{" .. DETAILS .. '"error":"TOTP Required [totp-required]","errorType":"totp-required",'
      .. '"success":false}'
    local WRONG = "{" .. DETAILS .. '"error":"TOTP Invalid [totp-invalid]","errorType":"totp-invalid","success":false}'

    before_each(function() emulator = emulators.new { two_factor = { method = "totp", code = "123456" } } end)

    local function factor(code, method)
      return { ["x-2fa-code"] = code, ["x-2fa-method"] = method }
    end

    for name, case in pairs {
      ["none"] = { {}, REQUIRED }, ["a method alone"] = { factor(nil, "totp"), REQUIRED },
      ["an empty code"] = { factor("", "totp"), REQUIRED }, ["another code"] = { factor("654321", "totp"), WRONG },
      ["another method"] = { factor("123456", "email"), WRONG },
    } do
      it(name .. " is refused by every write, without an effect", function()
        create("incoming", nil, factor("123456", "totp"))
        expect(400, case[2], call("POST", "create", input "incoming", case[1]))
        expect(400, case[2], update("incoming", FIRST, { name = "new" }, case[1]))
        expect(400, case[2], call("POST", "remove", { type = "webhook-incoming", integrationId = FIRST }, case[1]))
        assert.same({ "in" }, names())
      end)
    end

    it("the right one lets every write pass, with or without the method", function()
      for _, headers in ipairs { factor("123456", "totp"), factor "123456" } do
        emulator:reset()
        create("incoming", nil, headers)
        assert.equal("new", integration(update("incoming", FIRST, { name = "new" }, headers)).name)
        integration(call("POST", "remove", { type = "webhook-incoming", integrationId = FIRST }, headers))
      end
    end)

    it("reads need none", function()
      for _, path in ipairs { "list", "history?id=x" } do assert.equal(200, call("GET", path).status) end
      expect(400, failure "The integration does not exists.", call("GET", "get?integrationId=x"))
    end)

    it("a code that comes by email is made by the server", function()
      emulator = emulators.new { two_factor = { method = "email", code = "1" } }
      local details = cjson.decode(call("POST", "create", input "incoming").body).details
      assert.same({ method = "email", codeGenerated = true, availableMethods = { "email" } }, details)
    end)
  end)

  describe("limits the rate:", function()
    local TOO_MANY = failure("Error, too many requests. Please slow down. "
      .. "You must wait 1 seconds before trying this endpoint again. [error-too-many-requests]")
    local time, now

    before_each(function()
      now = 1800000000
      time = stub(os, "time")
      time.invokes(function() return now end)
      emulator = emulators.new { rocketchat_rate_limit = 2 }
    end)

    after_each(function() time:revert() end)

    local function limits(response)
      local headers = response.headers
      return { headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"], headers["x-ratelimit-reset"] }
    end

    it("every answer tells what is left", function()
      assert.same({ "2", "1", "1800000001000" }, limits(call("GET", "list")))
      assert.same({ "2", "0", "1800000001000" }, limits(call("GET", "list")))
      local refused = call("GET", "list")
      expect(429, TOO_MANY, refused)
      assert.same({ "2", "0", "1800000001000" }, limits(refused))
      assert.same({ "2", "1", "1800000001000" }, limits(call("GET", "get?integrationId=x")))
      assert.same({ "2", "0", "1800000001000" }, limits(call("GET", "get", nil, { ["x-auth-token"] = false })))
    end)

    it("the count starts over when the time has come", function()
      for _ = 1, 3 do call("POST", "create", input "incoming") end
      now = now + 1
      assert.same({ "2", "1", "1800000002000" }, limits(call("POST", "create", input "incoming")))
      assert.equal(3, #names())
    end)

    it("the count starts over with a reset", function()
      for _ = 1, 3 do call("GET", "list") end
      emulator:reset()
      assert.equal(200, call("GET", "list").status)
    end)

    it("not, unless told so", function()
      emulator = emulators.new()
      for _ = 1, 100 do assert.same({}, limits(call("GET", "list"))) end
    end)
  end)

  describe("is strict about HTTP:", function()
    for _, path in ipairs { "other", "", "list/", "list/a", "clearHistory" } do
      it("there is no integrations." .. path, function()
        expect(404, failure "API endpoint not found", call("GET", path))
      end)
    end

    for _, path in ipairs { "/api", "/api/", "/api/v1", "/api/v1/info", "/api/v2/integrations.list" } do
      it("there is nothing at " .. path, function()
        expect(404, failure "API endpoint not found", emulator:handle { method = "GET", url = path })
      end)
    end

    for path, allowed in pairs {
      create = "POST", update = "PUT", remove = "POST", get = "GET", list = "GET", history = "GET",
    } do
      it(("%s is for %s only"):format(path, allowed), function()
        for _, method in ipairs { "GET", "POST", "PUT", "PATCH", "DELETE" } do
          if method ~= allowed then
            local response = call(method, path)
            expect(405, failure "Method not allowed", response)
            assert.equal(allowed, response.headers.allow)
          end
        end
      end)
    end

    it("but not about what the client accepts", function()
      assert.equal(200, call("GET", "list", nil, { accept = "text/html" }).status)
    end)
  end)

  describe("answers as told:", function()
    for status, body in pairs {
      [400] = failure "Bad request",
      [401] = NOT_LOGGED_IN,
      [403] = FORBIDDEN,
      [404] = failure "API endpoint not found",
      [418] = failure "Error",
      [500] = failure "Internal server error",
    } do
      it(status .. " with its own body, once, and without an effect", function()
        emulator:respond_next { status = status }
        expect(status, body, call("POST", "create", input "incoming"))
        assert.same({}, names())
      end)
    end

    it("429 tells when to come again, in milliseconds", function()
      emulator:respond_next { status = 429 }
      local before = os.time()
      local headers = call("GET", "list").headers
      local seconds = tonumber(headers["x-ratelimit-reset"]) / 1000
      assert.truthy(seconds > before and seconds <= os.time() + 1)
      assert.same({ "10", "0" }, { headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"] })
    end)
  end)

  it("leaves the token and the code out of the ledger", function()
    call("GET", "list", nil, { ["X-2FA-Code"] = "123456", ["x-2fa-method"] = "totp" })
    assert.same({ { method = "GET", url = BASE .. "list",
      headers = { ["x-user-id"] = "emulator", ["x-2fa-method"] = "totp" } } }, emulator.requests)
  end)

  it("never gives an id twice", function()
    create "incoming"
    create "incoming"
    call("POST", "remove", { type = "webhook-incoming", integrationId = SECOND })
    assert.equal("EmuIntegratn00003", create("incoming")._id)
  end)
end)
