local cjson = require "cjson"
local clients = require "spec.support.clients"
local core = require "integrations.core"
local emulator = require "integrations.emulator"
local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"

local unpack = table.unpack or unpack

local function with(fields, changes)
  local made = {}
  for _, source in ipairs { fields, changes or {} } do
    for name, value in pairs(source) do made[name] = value end
  end
  return made
end

local function incoming(changes)
  return with({ type = "webhook-incoming", name = "In", enabled = true, username = "rocket.cat",
    channel = "#general", scriptEnabled = false }, changes)
end

local function outgoing(changes)
  return with({ type = "webhook-outgoing", name = "Out", enabled = true, username = "rocket.cat",
    channel = "#general", scriptEnabled = false, event = "sendMessage", urls = { "https://example.com/hook" },
    token = "t0ken" }, changes)
end

local function emulated(options, client_options)
  local service = emulator.new(options)
  return clients.rocketchat(service, client_options).integrations, service
end

local function answered(answers, options)
  local transport = fake_transport.new(answers)
  return clients.rocketchat(transport, options).integrations, transport.requests
end

local one = { status = 200, body = '{"integration":{"_id":"a","type":"webhook-incoming"},"success":true}' }

local function page(ids, total)
  local things = {}
  for i, id in ipairs(ids) do things[i] = ('{"_id":"%s"}'):format(id) end
  return { status = 200, body = ('{"integrations":[%s],"offset":0,"count":%d,"total":%s,"success":true}'):format(
    table.concat(things, ","), #ids, total or "null") }
end

describe("integrations.rocketchat.integrations", function()
  it("sends the documents' requests, byte for byte", function()
    local integrations, requests = answered { one, one, one, page {}, page {}, one,
      { status = 200, body = '{"history":[],"offset":0,"count":0,"total":0,"success":true}' }, one, one }
    assert(integrations:create(incoming()))
    assert(integrations:update("a", outgoing()))
    assert(integrations:update(nil, outgoing { target_url = "https://example.com/hook" }))
    assert(integrations:list())
    assert(integrations:list { type = "webhook-incoming", name = "a b", count = 5, offset = 10 })
    assert(integrations:get("a", { createdBy = "u" }))
    assert(integrations:history("a", { count = 0 }))
    assert.is_true(integrations:delete("webhook-incoming", "a"))
    assert.is_true(integrations:delete("webhook-outgoing", nil, { target_url = "https://example.com/hook" }))
    assert.same({
      'POST /api/v1/integrations.create {"channel":"#general","enabled":true,"name":"In","scriptEnabled":false,'
        .. '"type":"webhook-incoming","username":"rocket.cat"}',
      'PUT /api/v1/integrations.update {"channel":"#general","enabled":true,"event":"sendMessage",'
        .. '"integrationId":"a","name":"Out","scriptEnabled":false,"token":"t0ken","type":"webhook-outgoing",'
        .. '"urls":["https:\\/\\/example.com\\/hook"],"username":"rocket.cat"}',
      'PUT /api/v1/integrations.update {"channel":"#general","enabled":true,"event":"sendMessage",'
        .. '"name":"Out","scriptEnabled":false,"target_url":"https:\\/\\/example.com\\/hook","token":"t0ken",'
        .. '"type":"webhook-outgoing","urls":["https:\\/\\/example.com\\/hook"],"username":"rocket.cat"}',
      "GET /api/v1/integrations.list",
      "GET /api/v1/integrations.list?count=5&offset=10&name=a%20b&type=webhook-incoming",
      "GET /api/v1/integrations.get?integrationId=a&createdBy=u",
      "GET /api/v1/integrations.history?id=a&count=0",
      'POST /api/v1/integrations.remove {"integrationId":"a","type":"webhook-incoming"}',
      'POST /api/v1/integrations.remove {"target_url":"https:\\/\\/example.com\\/hook","type":"webhook-outgoing"}',
    }, clients.lines(requests))
  end)

  -- The examples of the vendor's documents, as calls and as answers.
  describe("takes the documents' examples:", function()
    local common = { username = "test.cat", channel = "#general", scriptEnabled = true, name = "test.cat",
      enabled = true }
    local inputs = {
      ["create, incoming"] = { "create", with(common, { type = "webhook-incoming" }) },
      ["create, outgoing"] = { "create", with(common, { type = "webhook-outgoing", event = "sendMessage",
        urls = { "https://text2gif.guggy.com/guggify" } }) },
      ["update, incoming"] = { "update", "x3tPXa9XXRqW6Xp2M", { type = "webhook-incoming", name = "Test",
        enabled = false, username = "rocket.cat", scriptEnabled = false, channel = "#test",
        integrationId = "x3tPXa9XXRqW6Xp2M" } },
      ["update, which names itself"] = { "update", nil, { type = "webhook-incoming", name = "Test",
        enabled = false, username = "rocket.cat", scriptEnabled = false, channel = "#test",
        integrationId = "x3tPXa9XXRqW6Xp2M" } },
    }
    for name, case in pairs(inputs) do
      it(name, function()
        local integrations, requests = answered { one }
        assert(integrations[case[1]](integrations, case[2], case[3]))
        local input = cjson.decode(requests[1].body)
        for field, value in pairs(case[3] or case[2]) do assert.same(value, input[field], field) end
      end)
    end

    it("create, played by the emulator", function()
      local integrations = emulated()
      local made = assert(integrations:create(inputs["create, outgoing"][2]))
      assert.is_nil(made.token)
      local _, failed = integrations:change(made._id, { enabled = false })
      assert.same({ "token: is required, as the server has it: give another value" }, faults_of(failed))
      assert.is_false(assert(integrations:change(made._id, { enabled = false, token = "proof" })).enabled)
    end)

    it("the list's answer, with what only some have", function()
      local body = '{"integrations":[{"_id":"WMQDChpnYTRmFre9h","enabled":true,"username":"rocket.cat",'
        .. '"alias":"Guggy","name":"Guggy","triggerWords":["!guggy","guggy","gif+"],'
        .. '"urls":["http://text2gif.guggy.com/guggify"],"token":"aobEdbYhXfu5hkeqG","script":"...",'
        .. '"scriptEnabled":true,"impersonateUser":false,"scriptCompiled":"...","scriptError":null,'
        .. '"type":"webhook-outgoing","userId":"rocket.cat","channel":[],'
        .. '"_createdAt":"2017-01-05T17:06:05.660Z","_createdBy":{"username":"graywolf336",'
        .. '"_id":"R4jgcQaQhvvK6K3iY"}},{"_id":"3aazpZ2WzoBP8msi9","type":"webhook-outgoing","channel":[]}],'
        .. '"offset":0,"items":2,"total":2,"success":true}'
      local integrations = answered { { status = 200, body = body } }
      local all, told = integrations:list()
      assert.same({ "WMQDChpnYTRmFre9h", "3aazpZ2WzoBP8msi9", { offset = 0, total = 2 } },
        { all[1]._id, all[2]._id, told })
      assert.is_nil(all[1].scriptError)
      assert.equal("WMQDChpnYTRmFre9h", assert(integrations:find { triggerWords = "guggy" })[1]._id)
      assert.equal("WMQDChpnYTRmFre9h", assert(integrations:find { ["_createdBy.username"] = "graywolf336" })[1]._id)
    end)
  end)

  for name, input in pairs { incoming = incoming(), outgoing = outgoing() } do
    it("lives through the life of an " .. name .. " one", function()
      local integrations = emulated()
      local made = assert(integrations:create(input))
      assert.same({ input.type, input.name, { "#general" } }, { made.type, made.name, made.channel })
      assert.same(made, (integrations:get(made._id)))
      assert.same(made, assert(integrations:list())[1])
      assert.equal("B", assert(integrations:update(made._id, with(input, { name = "B" }))).name)
      assert.equal("C", assert(integrations:change(made._id, { name = "C" })).name)
      assert.is_true(integrations:delete(input.type, made._id))
      local _, failed = integrations:get(made._id)
      assert.same({ "not_found", 400, "not_applied" }, { failed.kind, failed.status, failed.outcome })
      _, failed = integrations:delete(input.type, made._id)
      assert.same({ "not_found", "not_applied" }, { failed.kind, failed.outcome })
      assert.same({}, (integrations:list()))
    end)
  end

  it("updates and deletes an outgoing one by one of its urls", function()
    local integrations = emulated()
    local made = assert(integrations:create(outgoing()))
    local changed = assert(integrations:update(nil, outgoing { name = "B", target_url = made.urls[1] }))
    assert.same({ made._id, "B" }, { changed._id, changed.name })
    assert.is_true(integrations:delete("webhook-outgoing", nil, { target_url = made.urls[1] }))
    assert.same({}, (integrations:list()))
  end)

  it("keeps fields that it does not know, and leaves out those that are null", function()
    local body = '{"integration":{"_id":"a","new":{"x":[1]},"alias":null},"success":true}'
    assert.same({ _id = "a", new = { x = { 1 } } }, (answered({ { status = 200, body = body } }):get "a"))
  end)

  describe("takes the older document's names:", function()
    local cases = {
      { "channel as an array", { channel = { "#a", "@b" } }, '"channel":"#a,@b"' },
      { "channel as an array of one", { channel = { "#a" } }, '"channel":"#a"' },
      { "channel as a text", { channel = "#a,@b" }, '"channel":"#a,@b"' },
      { "triggerWords as a text", { triggerWords = " a, b c ,,d" }, '"triggerWords":["a","b c","d"]' },
      { "triggerWords as an empty text", { triggerWords = "" }, '"triggerWords":[]' },
      { "triggerWords as an array", { triggerWords = { "a", "b" } }, '"triggerWords":["a","b"]' },
      { "triggerWords as an empty array", { triggerWords = {} }, '"triggerWords":[]' },
      { "targetChannel", { targetChannel = "#t" }, '"targetRoom":"#t"' },
      { "targetRoom, which is today's", { targetRoom = "#t" }, '"targetRoom":"#t"' },
    }
    for _, case in ipairs(cases) do
      it(case[1], function()
        local integrations, requests = answered { one }
        local input = outgoing(case[2])
        local before = with(input)
        assert(integrations:create(input))
        assert(integrations:update("a", input))
        for _, request in ipairs(requests) do
          assert.truthy(request.body:find(case[3], 1, true), request.body)
          assert.is_nil(request.body:find("targetChannel", 1, true))
        end
        assert.same(before, input)
      end)
    end
  end)

  describe("sends nothing for", function()
    local kinds = 'known: "webhook-incoming", "webhook-outgoing"'
    local cases = {
      { "create", { {} }, { "channel: is required", "enabled: is required", "name: is required",
        "scriptEnabled: is required", "type: is required", "username: is required" } },
      { "create", {}, { "input: must be an object, not nil" } },
      { "create", { incoming { type = "incoming" } }, { 'type: "incoming" is not a known value; ' .. kinds } },
      { "create", { incoming { type = "x" } }, { 'type: "x" is not a known value; ' .. kinds } },
      { "create", { incoming { type = 5, nmae = "x" } },
        { 'nmae: is not a known field; did you mean "name"?', "type: must be a string, not a number" } },
      { "create", { incoming { enabled = "yes", chanel = "#a" } },
        { 'chanel: is not a known field; did you mean "channel"?', "enabled: must be a boolean, not a string" } },
      { "create", { incoming { token = "t" } }, { "token: is not a known field" } },
      { "create", { incoming { event = "sendMessage" } }, { "event: is not a known field" } },
      { "create", { incoming { integrationId = "a" } }, { "integrationId: is not a known field" } },
      { "create", { outgoing { overrideDestinationChannelEnabled = true } },
        { "overrideDestinationChannelEnabled: is not a known field" } },
      { "create", { outgoing { event = "sendMessge", urls = {}, token = "" } },
        { 'event: "sendMessge" is not a known value; did you mean "sendMessage"?',
          "token: must have at least 1 character, not 0", "urls: must have at least 1 element, not 0" } },
      { "create", { { type = "webhook-outgoing" } }, { "channel: is required", "enabled: is required",
        "event: is required", "name: is required", "scriptEnabled: is required", "urls: is required",
        "username: is required" } },
      { "update", { "a", { type = "webhook-outgoing" } }, { "channel: is required", "enabled: is required",
        "event: is required", "name: is required", "scriptEnabled: is required", "token: is required",
        "urls: is required", "username: is required" } },
      { "create", { outgoing { channel = { "#a,@b", "" }, name = 5, targetChannel = "#a", targetRoom = "#b" } },
        { "channel[1]: must not have a comma: it would be taken for two",
          "channel[2]: must have at least 1 character, not 0", "name: must be a string, not a number",
          "targetChannel: is another name of targetRoom: give one of the two" } },
      { "create", { outgoing { channel = { "#a", 5 }, triggerWords = 5 } },
        { "channel[2]: must be a string, not a number", "triggerWords: must be an array or a string, not a number" } },
      { "create", { outgoing { targetChannel = "#a", targetRoom = "#b" } },
        { "targetChannel: is another name of targetRoom: give one of the two" } },
      { "create", { outgoing { retryCount = "3", scriptEngine = "vm2", impersonateUser = 1 } },
        { "impersonateUser: must be a boolean, not a number", "retryCount: must be a number, not a string",
          'scriptEngine: "vm2" is not a known value; known: "isolated-vm"' } },
      { "update", { nil, incoming() }, { "integrationId: is required" } },
      { "update", { "", incoming() }, { "integrationId: must have at least 1 character, not 0" } },
      { "update", { 5, incoming() }, { "integrationId: must be a string, not a number" } },
      { "update", { "a" }, { "channel: is required", "enabled: is required", "name: is required",
        "scriptEnabled: is required", "type: is required" } },
      { "update", { "a", "b" }, { "input: must be an object, not a string" } },
      { "update", { "a", incoming { integrationId = "b" } }, { "integrationId: is given twice, and differs" } },
      { "update", { nil, outgoing() }, { 'input: must have one of "integrationId", "target_url"' } },
      { "update", { "a", outgoing { target_url = "u" } },
        { 'input: must have only one of "integrationId", "target_url"' } },
      { "update", { "a", incoming { target_url = "u" } }, { "target_url: is not a known field" } },
      { "change", { "a", {} }, { "fields: must have at least 1 field, not 0" } },
      { "change", { "a", { type = "webhook-incoming" } }, { "type: is not a known field" } },
      { "change", { "a", { name = 5, urls = "u" } },
        { "name: must be a string, not a number", "urls: must be an array, not a string" } },
      { "change", { "a" }, { "fields: must be an object, not nil" } },
      { "change", { "", { nmae = "b" } }, { "integrationId: must have at least 1 character, not 0",
        'nmae: is not a known field; did you mean "name"?' } },
      { "change", { "a", { targetRoom = "#a", targetChannel = "#b" } },
        { "targetChannel: is another name of targetRoom: give one of the two" } },
      { "change", { "a", { target_url = "u" } }, { "target_url: is not a known field" } },
      { "delete", {}, { "type: is required" } },
      { "delete", { "webhook-incoming" }, { "integrationId: is required" } },
      { "delete", { "webhook-outgoing" }, { 'input: must have one of "integrationId", "target_url"' } },
      { "delete", { "webhook-outgoing", "a", { target_url = "u" } },
        { 'input: must have only one of "integrationId", "target_url"' } },
      { "delete", { "webhook-incoming", nil, { target_url = "u" } },
        { "integrationId: is required", "target_url: is not a known field" } },
      { "delete", { "incoming", "a" }, { 'type: "incoming" is not a known value; ' .. kinds } },
      { "get", {}, { "integrationId: must be a string, not nil" } },
      { "get", { "a\n", { created_by = "u" } },
        { 'created_by: is not a known field; did you mean "createdBy"?',
          "integrationId: must not have control characters" } },
      { "list", { { count = "5", offset = -1, type = "incoming" } },
        { "count: must be an integer, not a string", "offset: must be at least 0, not -1",
          'type: "incoming" is not a known value; ' .. kinds } },
      { "history", { {}, { sort = "x" } }, { "id: must be a string, not a table", "sort: is not a known field" } },
      { "find", { { targetChannel = "x" } }, { "targetChannel: is not a known field" } },
      { "find", { { nmae = "x" } }, { 'nmae: is not a known field; did you mean "name"?' } },
    }
    for i, case in ipairs(cases) do
      it(("%s, case %d"):format(case[1], i), function()
        local integrations, requests = answered { one }
        local result, failed = integrations[case[1]](integrations, unpack(case[2], 1, 3))
        assert.is_nil(result)
        assert.same({ "invalid", "not_applied" }, { failed.kind, failed.outcome })
        local faults = faults_of(failed)
        assert.equal(#case[3], #faults, table.concat(faults, "\n"))
        for k, expected in ipairs(case[3]) do
          assert.equal(expected, faults[k]:sub(1, #expected))
        end
        assert.equal(0, #requests)
      end)
    end
  end)

  describe("list and each", function()
    local function filled(count)
      local integrations, service = emulated()
      for i = 1, count do assert(integrations:create(incoming { name = "n" .. i })) end
      service.requests = {}
      return integrations, service
    end

    it("give one page, and what there is besides", function()
      local integrations = filled(7)
      local things, told = integrations:list { count = 3, offset = 3 }
      assert.equal(3, #things)
      assert.same({ offset = 3, count = 3, total = 7 }, told)
      assert.equal(7, #assert(integrations:list()))
    end)

    it("give all pages", function()
      local integrations, service = filled(203)
      local names, count = {}, 0
      for integration in integrations:each() do
        names[integration.name], count = true, count + 1
      end
      assert.equal(203, count)
      for i = 1, 203 do assert.is_true(names["n" .. i]) end
      assert.same({
        "GET /api/v1/integrations.list?count=100&offset=0", "GET /api/v1/integrations.list?count=100&offset=100",
        "GET /api/v1/integrations.list?count=100&offset=200",
      }, clients.lines(service.requests))
      assert.equal(1, #assert(integrations:find { name = "n7" }))
      assert.equal(203, #assert(integrations:find { channel = "#general" }))
    end)

    it("give no thing twice where pages move, and end where the server counts wrong", function()
      local integrations, requests = answered { page({ "a", "b" }, 5), page({ "b", "c" }, 5), page({}, 5) }
      local ids = {}
      for integration in integrations:each() do ids[#ids + 1] = integration._id end
      assert.same({ "a", "b", "c" }, ids)
      assert.equal(3, #requests)
    end)

    it("raise, or return, what goes wrong on a later page", function()
      local answers = { page({ "a" }, 2), { status = 500 } }
      local seen = {}
      local ok, failed = pcall(function()
        for integration in answered(answers):each() do seen[#seen + 1] = integration._id end
      end)
      assert.same({ false, "server", { "a" } }, { ok, failed.kind, seen })
      assert.equal("server", select(2, answered(answers):find {}).kind)
    end)
  end)

  it("has the history of an outgoing one", function()
    local integrations = emulated()
    local made = assert(integrations:create(outgoing()))
    local entries, told = integrations:history(made._id, { count = 1 })
    assert.same({ 1, 1 }, { #entries, told.count })
    assert.is_string(entries[1]._id)
    assert.same({}, (integrations:history "none"))
  end)

  describe("change", function()
    it("leaves as it is what is left out, where update would clear it", function()
      local integrations, service = emulated()
      local made = assert(integrations:create(outgoing { alias = "A", emoji = ":x:", triggerWords = { "a", "b" },
        targetRoom = "#t", channel = { "#general", "@bob" }, retryFailedCalls = true, retryCount = 6,
        retryDelay = "powers-of-ten", script = "x" }))
      local changed = assert(integrations:change(made._id, { emoji = ":y:" }))
      for _, name in ipairs { "alias", "triggerWords", "targetRoom", "channel", "retryFailedCalls", "retryCount",
        "retryDelay", "script", "urls", "token", "name", "enabled" } do
        assert.same(made[name], changed[name], name)
      end
      assert.equal(":y:", changed.emoji)
      assert.equal(3, #service.requests)
      assert.is_nil(assert(integrations:update(made._id, outgoing())).alias)
    end)

    it("takes the older names, and each shape", function()
      local integrations = emulated()
      local made = assert(integrations:create(outgoing { targetRoom = "#t", triggerWords = { "a" } }))
      local changed = assert(integrations:change(made._id, { targetChannel = "#u", triggerWords = "x,y",
        channel = { "#a", "#b" } }))
      assert.same({ "#u", { "x", "y" }, { "#a", "#b" } },
        { changed.targetRoom, changed.triggerWords, changed.channel })
    end)

    local function thing(type)
      return { status = 200, body = ('{"integration":{"_id":"a","type":"%s","name":"n","enabled":true,'
        .. '"scriptEnabled":false,"username":"u","channel":["#a"],"event":"brandNew","token":"made-by-server",'
        .. '"urls":["u"],"_updatedAt":"x","userId":"u","new":1},"success":true}'):format(type) }
    end

    it("sends back what came, even what this version does not know, but not what is the server's own", function()
      local integrations, requests = answered { thing "webhook-outgoing" }
      assert(integrations:change("a", { name = "b" }))
      assert.equal('{"channel":"#a","enabled":true,"event":"brandNew","integrationId":"a","name":"b",'
        .. '"scriptEnabled":false,"token":"made-by-server","type":"webhook-outgoing","urls":["u"],"username":"u"}',
        requests[2].body)
      integrations, requests = answered { thing "webhook-incoming" }
      assert(integrations:change("a", { name = "b" }))
      assert.equal('{"channel":"#a","enabled":true,"integrationId":"a","name":"b","scriptEnabled":false,'
        .. '"type":"webhook-incoming","username":"u"}', requests[2].body)
      assert.equal("invalid", select(2, integrations:update("a", incoming { event = "x" })).kind)
    end)

    it("writes nothing where the fields are the other kind's, or both names are given", function()
      local integrations, requests = answered { thing "webhook-incoming" }
      local _, failed = integrations:change("a", { event = "sendMessage", urls = { "u" }, name = "b" })
      assert.same({ "event: is no field of a webhook-incoming", "urls: is no field of a webhook-incoming" },
        faults_of(failed))
      assert.same({ "invalid", "nothing was changed", 1 }, { failed.kind, failed.message, #requests })
    end)

    it("never makes it another one", function()
      for _, strict in ipairs { true, false } do
        local integrations, requests = answered({ thing "webhook-outgoing" }, { strict = strict })
        for _, fields in ipairs { { type = "webhook-incoming" }, { integrationId = "b" }, { target_url = "u" } } do
          local _, failed = integrations:change("a", fields)
          assert.same({ "invalid", (next(fields)) }, { failed.kind, failed.errors[1].field })
        end
        assert.equal(0, #requests)
      end
    end)

    it("keeps a field that an older server has under its older name", function()
      local integrations, requests = answered { { status = 200, body = cjson.encode { success = true,
        integration = with(outgoing { _id = "a" }, { targetChannel = "#o" }) } } }
      assert(integrations:change("a", { name = "b" }))
      assert.truthy(requests[2].body:find('"targetRoom":"#o"', 1, true))
    end)

    it("lets them pass where the client is lenient", function()
      local integrations, requests = answered({ thing "webhook-incoming" }, { strict = false })
      assert(integrations:change("a", { brandNew = true }))
      assert.truthy(requests[2].body:find('"brandNew":true', 1, true))
    end)

    it("is not held up by what the server adds, and says whose a value is that cannot go back", function()
      local function odd(fields)
        return { status = 200, body = cjson.encode { success = true, integration = with(outgoing { _id = "a",
          channel = { "#a" } }, fields) } }
      end
      local integrations, requests = answered { odd { target_url = "x", integrationId = "b", targetChannel = "#o",
        targetRoom = "#r" } }
      assert(integrations:change("a", { targetRoom = "#s" }))
      assert.truthy(requests[2].body:find('"integrationId":"a"', 1, true))
      assert.truthy(requests[2].body:find('"targetRoom":"#s"', 1, true))
      assert.is_nil(requests[2].body:find("target_url", 1, true))
      integrations, requests = answered { odd { retryCount = "6", token = "" } }
      local _, failed = integrations:change("a", { name = "b" })
      assert.same({ "invalid", "integrations.change", "nothing was changed", 1 },
        { failed.kind, failed.operation, failed.message, #requests })
      assert.same({
        "retryCount: must be a number, not a string, as the server has it: give another value",
        "token: must have at least 1 character, not 0, as the server has it: give another value",
      }, faults_of(failed))
      integrations = answered { odd { urls = { ["RC.emulator.full"] = 1 } } }
      _, failed = integrations:change("a", { name = "b" })
      assert.same({ "invalid", "integrations.change" }, { failed.kind, failed.operation })
      assert.is_nil(tostring(failed):find("RC.emulator.full", 1, true))
    end)

    it("writes nothing where the integration is of no known type, or cannot be read", function()
      local integrations, requests = answered { thing "webhook-new" }
      local _, failed = integrations:change("a", { name = "b" })
      assert.same({ "protocol", "integrations.change" }, { failed.kind, failed.operation })
      assert.truthy(failed.message:find("use update", 1, true))
      assert.equal(1, #requests)
      assert.equal("not_found", select(2, emulated():change("none", { name = "b" })).kind)
    end)

    it("has one deadline for both", function()
      local integrations, requests = answered({ thing "webhook-incoming" }, { timeout = 30 })
      local times = { 100, 100 }
      integrations.session.now = function() return table.remove(times, 1) or 110 end
      assert(integrations:change("a", { name = "b" }))
      assert.is_true(requests[2].timeout_ms <= 20000)
    end)
  end)

  describe("a write that may be repeated", function()
    local lost = { problem = { code = "CURLE_GOT_NOTHING", message = "m", sent = true } }
    local gone = { status = 400, body = '{"success":false,"error":"No integration found."}' }
    local choice = { max_attempts = 3, retry_writes = true }

    it("is done where the integration to delete is gone", function()
      local integrations, requests = answered({ lost, gone }, choice)
      assert.is_true(integrations:delete("webhook-incoming", "a"))
      assert.equal(2, #requests)
    end)

    it("is not repeated where it goes by a url, which others may have, too", function()
      local integrations, requests = answered({ lost }, choice)
      assert.equal("unknown", select(2, integrations:delete("webhook-outgoing", nil, { target_url = "u" })).outcome)
      assert.equal("unknown", select(2, integrations:update(nil, outgoing { target_url = "u" })).outcome)
      assert.equal(2, #requests)
    end)

    it("is not done where something else is not found", function()
      for _, answer in ipairs {
        { status = 404, body = '{"success":false,"error":"API endpoint not found"}' }, { status = 404, body = "" },
        { status = 400, body = '{"success":false,"error":"Invalid integration [error-invalid-integration]"}' },
      } do
        local integrations = answered({ lost, answer }, choice)
        local _, failed = integrations:delete("webhook-incoming", "a")
        assert.same({ "not_found", "unknown" }, { failed.kind, failed.outcome })
      end
    end)

    it("is an update, and never a create", function()
      local integrations, requests = answered({ lost, one }, choice)
      assert(integrations:update("a", incoming()))
      assert.equal(2, #requests)
      integrations, requests = answered({ lost, one }, choice)
      local _, failed = integrations:create(incoming())
      assert.same({ "unknown", 1 }, { failed.outcome, #requests })
    end)
  end)

  it("waits for the rate limit, told in milliseconds", function()
    local service = emulator.new { rocketchat_rate_limit = 2 }
    local slept = 0
    local transport = {
      send = function(_, request)
        return service:send(request)
      end,
      sleep = function(_, seconds)
        slept = slept + seconds
        core.sleep(seconds)
      end,
    }
    local rc = clients.rocketchat(transport, { max_attempts = 3, timeout = 10 })
    for _ = 1, 4 do assert(rc.integrations:list()) end
    assert.equal(4, #service.requests)
    assert.is_true(slept > 0.01, slept)
  end)
end)
