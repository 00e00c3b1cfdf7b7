-- The whole way: the public client, libcurl, a real nginx, and back.
local core = require "integrations.core"
local emulator_server = require "integrations.emulator.server"
local sendgrid = require "integrations.sendgrid"

local input = {
  destination = "Segment",
  filters = { email_events = { "open", "click" } },
  properties = { write_key = "a123456", destination_region = "EU" },
}

local function interpreter()
  return rawget(_G, "jit") and "luajit" or "lua" .. _VERSION:match "%d%.%d"
end

describe("the client over real HTTP", function()
  local server, sg

  setup(function()
    server = assert(emulator_server.start())
    sg = assert(sendgrid.new { api_key = "SG.emulator.full", base_url = server.url, max_attempts = 1 })
  end)

  teardown(function()
    sg:close()
    server:stop()
  end)

  it("lives through the life of an integration", function()
    local made = assert(sg.integrations:create(input))
    assert.equal("Untitled Integration", made.label)
    assert.same({ made }, (sg.integrations:list()))
    assert.same(made, (sg.integrations:get(made.integration_id)))
    assert.equal("B", assert(sg.integrations:update(made.integration_id, { label = "B" })).label)
    assert.same({}, assert(sg.integrations:update(made.integration_id, { filters = { email_events = {} } }))
      .filters.email_events)
    assert.same({ "drop" }, assert(sg.integrations:add_events(made.integration_id, "drop")).filters.email_events)
    assert.equal(1, #assert(sg.integrations:find { label = "B" }))
    assert.is_true(sg.integrations:delete(made.integration_id))
    assert.equal("not_found", select(2, sg.integrations:get(made.integration_id)).kind)
    assert.equal("not_found", select(2, sg.integrations:delete(made.integration_id)).kind)
    assert.same({}, (sg.integrations:list()))
  end)

  it("keeps accounts apart", function()
    local alice = assert(sg:as "alice")
    assert(alice.integrations:create(input))
    assert.equal(1, #assert(alice.integrations:list()))
    assert.equal(0, #assert(sg.integrations:list()))
    assert.is_true(assert(alice.integrations:delete_many { alice.integrations:list()[1].integration_id }).ok)
  end)

  it("learns that the account is full", function()
    local full = assert(sg:as "full")
    for _ = 1, 10 do
      assert(full.integrations:create(input))
    end
    local _, failed = full.integrations:create(input)
    assert.same({ "limit_reached", 403, "not_applied" }, { failed.kind, failed.status, failed.outcome })
  end)

  it("learns what its key may not do", function()
    for key, kind in pairs { ["SG.emulator.read"] = "forbidden", ["SG.test.canary"] = "unauthorized" } do
      local other = assert(sendgrid.new { api_key = key, base_url = server.url })
      local _, failed = other.integrations:create(input)
      assert.equal(kind, failed.kind)
      assert.is_nil(tostring(failed):find("SG.", 1, true))
      other:close()
    end
  end)

  local ids = { "a b", "100%", "%2e%2e", "a?b=c#d", "a&b", "é", "...", "a+b", "~", "'\"<>" }
  for _, id in ipairs(ids) do
    it("asks for exactly the id " .. id, function()
      local _, failed = sg.integrations:get(id)
      assert.same({ "not_found", 404 }, { failed.kind, failed.status })
      assert.equal("integration does not exist (" .. id .. ")", failed.errors[1].message)
      _, failed = sg.integrations:delete { id }
      assert.equal("integration does not exist (" .. id .. ")", failed.errors[1].message)
    end)
  end

  it("ends in time where nobody answers, and works again afterwards", function()
    local dead = assert(sendgrid.new { api_key = "SG.test.canary", base_url = "http://127.0.0.1:1", timeout = 30 })
    local started = core.now()
    local _, failed = dead.integrations:create(input)
    assert.same({ "network", "CURLE_COULDNT_CONNECT", "not_applied", 3 },
      { failed.kind, failed.code, failed.outcome, failed.attempts })
    assert.is_true(core.now() - started < 30)
    dead:close()
    assert.is_table((sg.integrations:list()))
  end)

  describe("before a server that takes a request and hangs up", function()
    local rude, client

    -- Counts what it received, answers the first request of a connection and hangs up at the second.
    setup(function()
      rude = assert(emulator_server.start {
        servers = "lua_shared_dict ledger 1m;",
        locations = [[
          location = /count { content_by_lua_block { ngx.print(ngx.shared.ledger:get("writes") or 0) } }
          location /v3/ {
            content_by_lua_block {
              if ngx.req.get_method() ~= "GET" then ngx.shared.ledger:incr("writes", 1, 0) end
              if tonumber(ngx.var.connection_requests) > 1 then ngx.exit(444) end
              ngx.header["content-type"] = "application/json"
              ngx.print('{"result":[]}')
            }
          }
        ]],
      })
    end)

    teardown(function()
      rude:stop()
    end)

    before_each(function()
      client = assert(sendgrid.new { api_key = "SG.test.canary", base_url = rude.url, max_attempts = 3 })
      assert(client.integrations:list())
    end)

    after_each(function()
      client:close()
    end)

    local function writes()
      local pipe = io.popen("curl -s --noproxy '*' " .. rude.url .. "/count")
      local count = tonumber(pipe:read "*a")
      pipe:close()
      return count
    end

    local calls = {
      create = function(integrations)
        return integrations:create(input)
      end,
      update = function(integrations)
        return integrations:update("a", { label = "x" })
      end,
      delete = function(integrations)
        return integrations:delete "a"
      end,
    }
    for name, call in pairs(calls) do
      it("sends a " .. name .. " once, and says that its outcome is unknown", function()
        local before = writes()
        local result, failed = call(client.integrations)
        assert.is_nil(result)
        assert.same({ "network", "unknown", 1 }, { failed.kind, failed.outcome, failed.attempts })
        assert.equal(before + 1, writes())
      end)
    end

    it("sends a read again, and gets its answer", function()
      assert.same({}, (client.integrations:list()))
    end)
  end)

  it("survives a server that is replaced behind it", function()
    local first = assert(emulator_server.start())
    local client = assert(sendgrid.new { api_key = "SG.emulator.full", base_url = first.url, max_attempts = 2 })
    assert(client.integrations:list())
    first:stop()
    assert.equal("network", select(2, client.integrations:list()).kind)
    local second = assert(emulator_server.start { port = first.port })
    assert.same({}, (client.integrations:list()))
    client:close()
    second:stop()
  end)

  it("is told by events, without the key", function()
    local events = {}
    local watched = assert(sendgrid.new {
      api_key = "SG.emulator.full",
      base_url = server.url,
      on_event = function(event)
        for name, value in pairs(event) do
          assert.is_nil(tostring(value):find("SG.", 1, true), name)
        end
        events[#events + 1] = event
      end,
    })
    assert(watched.integrations:list())
    watched:close()
    assert.same({ "request", "response" }, { events[1].name, events[2].name })
    local answered = events[2]
    assert.same({ "GET", 200, "127.0.0.1", server.port, 13 }, {
      answered["http.request.method"], answered["http.response.status_code"], answered["server.address"],
      answered["server.port"], answered["http.response.body.size"],
    })
    local total = answered["http.client.request.duration"]
    for _, name in ipairs { "dns.lookup.duration", "connect_duration", "tls_duration", "first_byte_duration" } do
      assert.is_true(answered[name] >= 0 and answered[name] <= total, name)
    end
    assert.is_true(answered.connect_duration > 0 and answered.first_byte_duration > answered.connect_duration)
    assert.equal(0, answered.tls_duration)
  end)

  it("gives a client that is forgotten back to the system", function()
    for _ = 1, 50 do
      assert(assert(sendgrid.new { api_key = "SG.emulator.full", base_url = server.url }).integrations:list())
    end
    collectgarbage()
    collectgarbage()
    assert.is_table((sg.integrations:list()))
  end)

  it("is shown by the demo", function()
    local pipe = io.popen(interpreter() .. " lua/integrations/examples/demo.lua 2>&1; echo \"status $?\"")
    local output = pipe:read "*a"
    pipe:close()
    assert.truthy(output:find("All went as it should", 1, true), output)
    assert.equal("0", output:match "status (%d+)\n$")
  end)
end)
