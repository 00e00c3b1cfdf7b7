-- Where the key goes, and Rocket.Chat's token: to its own host, and nowhere else. It is looked for in all that a client
-- holds, in all that a program can print of it, and in what others receive.
package.path = "./spec/?.lua;" .. package.path

local canary = require "support.canary"
local classes = require "support.fault_classes"
local fault_control = require "support.fault_control"
local fault_table = require "support.fault_table"
local faults_of = require "support.faults"
local operations = require "support.fault_operations"
local process = require "support.process"
local sendgrid = require "integrations.sendgrid"

local KEY = "SG.test.canary"

-- Prints all there is to print, to both outputs. It is told the server's address, the trusted authority and a proxy.
local PROGRAM = [[
local operations = require "support.fault_operations"
local rocketchat = require "integrations.rocketchat"
local sendgrid = require "integrations.sendgrid"

local function dump(value, seen)
  print(value)
  io.stderr:write(tostring(value), "\n")
  if type(value) ~= "table" or seen[value] or value == _G then return end
  seen[value] = true
  for name, field in next, value do
    dump(name, seen)
    dump(field, seen)
  end
  dump(getmetatable(value), seen)
end

local function tell(...)
  for i = 1, select("#", ...) do dump(select(i, ...), {}) end
end

local url, authority, proxy, timeout = %q, %q, %s, %s
local function open(module, options)
  options.ca_file, options.proxy, options.timeout = authority, proxy, timeout
  options.retry_writes, options.on_event = true, tell
  local client = assert(module.new(options))
  client.session.transport.sleep = function() end
  return client
end

local rc = open(rocketchat, { url = url, user_id = "u1", auth_token = "SG.test.canary",
  two_factor = { method = "totp", code = "SG.test.canary" } })
tell(rc, rc.integrations)
tell(operations["rocketchat.get"].call(rc.integrations, "a1"))
tell(operations["rocketchat.update"].call(rc.integrations, "a1"))
tell(rc.integrations:change("a1", { name = "x" }))
tell(rc.integrations:delete("webhook-incoming", "a1"))
tell(rc.integrations:find { name = "Events" })
rc:close()
tell(rc, rc.integrations:list())

local sg = open(sendgrid, { api_key = "SG.test.canary", base_url = url })
tell(operations["segments.get"].call(sg.segments, "a1"))
tell(operations["segments.update"].call(sg.segments, "a1"))
tell(sg.segments:create { name = "Events", query_dsl = "x" })
tell(sg.segments:wait_valid("a1", { timeout = 0.1 }))
tell(sg, sg.integrations, assert(sg:as "alice"))
for _, name in ipairs(operations.names) do tell(operations[name].call(sg.integrations, "a1")) end
tell(sg.integrations:ensure(operations.input))
tell(sg.integrations:find { label = "Events" })
tell(sg.integrations:add_events("a1", "open"))
tell(sg.integrations:delete_many { "a1", "a2" })
tell(pcall(sg.integrations.list), pcall(sg.integrations.get, sg.integrations, print), pcall(sg.close))
tell(pcall(sg.integrations.each, sg.integrations))
sg:close()
tell(sg, sg.integrations:list())
io.write "came to its end"
]]

describe("the key", function()
  local server

  setup(function()
    server = fault_control.start()
  end)

  teardown(function()
    server:stop()
  end)

  before_each(function()
    server:reset()
  end)

  after_each(function()
    server:disarm()
  end)

  local function url_of(name, scheme)
    return ("%s://127.0.0.1:%d"):format(scheme or "http", server.ports[name])
  end

  -- All that a program writes in its life with this server, and what the server has received.
  local function life(row, options)
    options = options or {}
    if row then server:arm(row.name) end
    local url = url_of(row and row.tls and "tls" or "plain", (row and row.tls or options.proxy) and "https")
    local output, status = process.run_lua(PROGRAM:format(url, server.authority,
      options.proxy and ("%q"):format(options.proxy) or "nil", options.timeout or 5), options.environment)
    assert.truthy(output:find "came to its end$", output:gsub(KEY, "(the key)"))
    assert.equal(0, status)
    return output, server:ledger()
  end

  -- One fault of each class is enough: what is told of a failure depends on its class. Under valgrind a life takes ten
  -- seconds; what C says of a failure it says of an answer or of none.
  local one_of_each = {}
  for _, row in ipairs(fault_table.rows) do
    one_of_each[row.class] = row.speaks_of_key and row or one_of_each[row.class] or row
  end
  if process.slowness > 1 then
    one_of_each = { refused = one_of_each.refused, unanswered = one_of_each.unanswered }
  end
  for class, row in pairs(one_of_each) do
    it("is in nothing that a program can print, class " .. class .. ": " .. row.name, function()
      local output, ledger = life(row, { timeout = classes.timeout(row) })
      assert.is_nil(output:find(KEY, 1, true))
      assert.equal("", ledger.received.elsewhere)
    end)
  end

  it("reaches its own host, so that the specs of this file mean something", function()
    local _, ledger = life()
    for _, header in ipairs { "Authorization: Bearer ", "X-Auth-Token: ", "x-2fa-code: " } do
      assert.truthy(ledger.received.plain:find(header .. KEY, 1, true), header)
    end
  end)

  it("does not go to the environment's proxies", function()
    local environment = {}
    for _, name in ipairs { "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY" } do
      environment[#environment + 1] = name .. "=" .. url_of "elsewhere"
    end
    for _, row in ipairs { false, { name = "nothing wrong", tls = "good" } } do
      local _, ledger = life(row or nil, { environment = environment })
      assert.equal("", ledger.received.elsewhere)
      assert.is_true(#ledger.requests > 0)
    end
  end)

  it("is not told to the proxy that is asked for", function()
    local output, ledger = life(nil, { proxy = url_of "elsewhere" })
    assert.truthy(ledger.received.elsewhere:find("^CONNECT 127.0.0.1:%d+ HTTP/1.1\r\n"))
    assert.is_nil(ledger.received.elsewhere:find(KEY, 1, true))
    assert.is_nil(output:find(KEY, 1, true))
  end)

  it("is in no table, function or metatable that a client leads to", function()
    local sg = assert(sendgrid.new { api_key = KEY, base_url = url_of "plain" })
    assert.is_nil(canary.find(sg, KEY))
    assert(sg.integrations:list())
    assert.is_nil(canary.find(sg, KEY))
    assert.is_nil(canary.find(sg:as "alice", KEY))
    sg:close()
    assert.is_nil(canary.find(sg, KEY))
    -- The search would find it.
    assert.is_string(canary.find({ { function() return KEY end } }, KEY))
    assert.is_string(canary.find(setmetatable({}, { __index = { [KEY] = true } }), KEY))
  end)

  describe("is not sent in plain text off this machine:", function()
    for _, url in ipairs {
      "http://api.sendgrid.com", "http://10.0.0.1", "http://0.0.0.0", "http://127.0.0.1.example.com",
      "http://localhost.example.com", "http://[::2]", "http://[::ffff:10.0.0.1]", "http://127.0.0.256",
      "HTTP://api.sendgrid.com", "http://127.0.0.1@example.com", "ftp://127.0.0.1", "//127.0.0.1",
    } do
      it(url, function()
        local sg, failed = sendgrid.new { api_key = KEY, base_url = url }
        assert.is_nil(sg)
        assert.same({ "invalid", "base_url" }, { failed.kind, failed.errors[1].field })
        assert.is_nil(canary.find(failed, KEY))
      end)
    end
  end)

  -- What would end a header or a text before its end, or begin another one.
  local breaks = { ["CR"] = "\r", ["LF"] = "\n", ["CR LF"] = "\r\nX-Injected: 1", ["NUL"] = "\0", ["DEL"] = "\127" }
  for name, characters in pairs(breaks) do
    local texts = { first = characters .. "a1", within = "a" .. characters .. "1", last = "a1" .. characters }
    for place, text in pairs(texts) do
      it(("cannot be joined by what a %s, %s, would add"):format(name, place), function()
        for option, value in pairs { api_key = KEY .. text, on_behalf_of = text, base_url = "https://" .. text } do
          local options = { api_key = KEY, base_url = url_of "plain" }
          options[option] = value
          local sg, failed = sendgrid.new(options)
          assert.is_nil(sg)
          assert.same({ "invalid", option }, { failed.kind, failed.errors[1].field })
          assert.is_nil(canary.find(failed, KEY))
        end
        local sg = assert(sendgrid.new { api_key = KEY, base_url = url_of "plain" })
        assert.equal("invalid", select(2, sg:as(text)).kind)
        for _, method in ipairs { "get", "update", "delete", "delete_many", "add_events", "remove_events" } do
          local argument = method == "update" and { label = "x" } or method:find "_events$" and "open" or nil
          local result, failed = sg.integrations[method](sg.integrations, text, argument)
          assert.is_nil(result)
          assert.same({ "invalid", "not_applied" }, { failed.kind, failed.outcome }, method)
          assert.truthy(faults_of(failed)[1]:find("control characters", 1, true), faults_of(failed)[1])
        end
        sg:close()
        assert.equal("", server:ledger().received.plain)
      end)
    end
  end

  it("is not in what a listener is told, nor in what it raises", function()
    local told = {}
    local sg = assert(sendgrid.new { api_key = KEY, base_url = url_of "plain", on_event = function(event)
      told[#told + 1] = event
      error(event)
    end })
    assert(sg.integrations:create(operations.input))
    assert.is_nil((sg.integrations:get "none"))
    sg:close()
    assert.equal(5, #told)
    assert.is_nil(canary.find(told, KEY))
  end)
end)
