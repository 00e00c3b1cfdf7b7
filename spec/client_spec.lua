local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"
local sendgrid = require "integrations.sendgrid"

-- The shared options are tried through a client that exists.
local function new(options)
  local answers = { { status = 200, body = '{"result":[]}' } }
  local given = { api_key = "SG.test.canary", transport = fake_transport.new(answers) }
  for name, value in pairs(options) do
    given[name] = value
  end
  return sendgrid.new(given)
end

local URL_FORM = 'base_url: must look like "https://host", "https://host:8443" or "https://host/path"'
local PLAIN = "base_url: must begin with https://: "
  .. "the credentials would be readable on the way (http is for loopback only)"

describe("integrations.client", function()
  describe("refuses", function()
    local cases = {
      { { base_url = "http://example.com" }, PLAIN },
      { { base_url = "http://127.0.0.1.example.com" }, PLAIN },
      { { base_url = "http://localhost.example.com" }, PLAIN },
      { { base_url = "http://10.0.0.1" }, PLAIN },
      { { base_url = "http://[::2]" }, PLAIN },
      { { base_url = "http://127.999.1.1" }, PLAIN },
      { { base_url = "https://example.com:65536" }, URL_FORM },
      { { proxy = "http://proxy.example:3128", base_url = "http://127.0.0.1" },
        "proxy: would get the credentials unencrypted: base_url must begin with https://" },
      { { base_url = "http://127.0.0.1@example.com" }, URL_FORM },
      { { base_url = "https://user:pass@example.com" }, URL_FORM },
      { { base_url = "https://example.com?x=1" }, URL_FORM },
      { { base_url = "https://example.com#x" }, URL_FORM },
      { { base_url = "https://example.com:port" }, URL_FORM },
      { { base_url = "https://example.com\\@evil.example" }, URL_FORM },
      { { base_url = "https://example.com\r\nX: y" }, URL_FORM },
      { { base_url = "https://example.com\0" }, URL_FORM },
      { { base_url = "example.com" }, URL_FORM },
      { { base_url = "HTTPS://example.com" }, "base_url: must begin with https://" },
      { { base_url = "ftp://example.com" }, "base_url: must begin with https://" },
      { { base_url = "file:///etc/passwd" }, URL_FORM },
      { { base_url = "" }, "base_url: must have at least 1 character, not 0", URL_FORM },
      { { base_url = 5 }, "base_url: must be a string, not a number" },
      { { timeout = 0 }, "timeout: must be at least 0.001, not 0" },
      { { timeout = -1 }, "timeout: must be at least 0.001, not -1" },
      { { timeout = 1e300 }, "timeout: must be at most 86400, not 1e+300" },
      { { timeout = 0 / 0 }, "timeout: must be a finite number" },
      { { timeout = "30" }, "timeout: must be a number, not a string" },
      { { connect_timeout = 0 }, "connect_timeout: must be at least 0.001, not 0" },
      { { max_attempts = 0 }, "max_attempts: must be at least 1, not 0" },
      { { max_attempts = 1.5 }, "max_attempts: must be a whole number below 2^53" },
      { { retry_writes = "yes" }, "retry_writes: must be a boolean, not a string" },
      { { on_event = "print" }, "on_event: must be a function, not a string" },
      { { strict = "no" }, "strict: must be a boolean, not a string" },
      { { ca_file = "a\0b" }, "ca_file: must not have a NUL byte" },
      { { proxy = "" }, "proxy: must have at least 1 character, not 0" },
      { { transport = "pigeon" }, 'transport: must be "curl", "nginx", or a table with a function send' },
      { { max_connections = 0 }, "max_connections: must be at least 1, not 0" },
      { { max_connections = 10001 }, "max_connections: must be at most 10000, not 10001" },
      { { max_connections = 1.5 }, "max_connections: must be a whole number below 2^53" },
      { { allow_blocking = "yes" }, "allow_blocking: must be a boolean, not a string" },
      { { rate_limit_dict = 5 }, "rate_limit_dict: must be a string, not a number" },
      { { rate_limit_dict = "limits" }, "rate_limit_dict: is for nginx only, whose workers share it" },
      { { time_out = 5 }, 'time_out: is not a known field; did you mean "timeout"?' },
    }
    for _, case in ipairs(cases) do
      local names = {}
      for name, value in pairs(case[1]) do
        names[#names + 1] = ("%s = %q"):format(name, tostring(value))
      end
      table.sort(names)
      it(table.concat(names, ", "), function()
        local client, failed = new(case[1])
        assert.is_nil(client)
        assert.same({ "invalid", "not_applied", "sendgrid.new" }, { failed.kind, failed.outcome, failed.operation })
        local expected = { (table.unpack or unpack)(case, 2) }
        assert.same(expected, faults_of(failed))
      end)
    end

    it("a proxy that would see the key, beside all other faults", function()
      local _, failed = new { proxy = "http://proxy.example", base_url = "http://127.0.0.1", timeout = 0 }
      assert.same({
        "proxy: would get the credentials unencrypted: base_url must begin with https://",
        "timeout: must be at least 0.001, not 0",
      }, faults_of(failed))
    end)

    it("all faults at once", function()
      local _, failed = new { timeout = 0, connect_timeout = "x", base_url = "http://example.com", regoin = "eu" }
      assert.same({
        PLAIN,
        "connect_timeout: must be a number, not a string",
        'regoin: is not a known field; did you mean "region"?',
        "timeout: must be at least 0.001, not 0",
      }, faults_of(failed))
    end)

    for _, options in ipairs { "text", 5, true } do
      it("a " .. type(options) .. " for options", function()
        local _, failed = sendgrid.new(options)
        assert.same({ "options: must be an object, not a " .. type(options) }, faults_of(failed))
      end)
    end

    it("no options at all", function()
      assert.same({ "options: must be an object, not nil" }, faults_of(select(2, sendgrid.new())))
    end)

    it("nothing that a metatable adds to good options: it is not there", function()
      local transport = fake_transport.new { { status = 200, body = '{"result":[]}' } }
      local client = assert(sendgrid.new(setmetatable({ api_key = "SG.test.canary", transport = transport }, {
        __index = { base_url = "http://evil.example", proxy = "http://evil.example", on_behalf_of = "mallory" },
      })))
      assert(client.integrations:list())
      assert.equal("https://api.sendgrid.com/v3/marketing/integrations", transport.requests[1].url)
      assert.is_nil(transport.requests[1].headers["on-behalf-of"])
    end)

    it("what only a metatable adds", function()
      local _, failed = sendgrid.new(setmetatable({}, { __index = { api_key = "SG.test.canary" } }))
      assert.same({ "api_key: is required" }, faults_of(failed))
    end)
  end)

  describe("accepts", function()
    for _, url in ipairs {
      "https://example.com", "https://example.com:8443", "https://example.com/a/b/", "http://127.0.0.1:8080",
      "http://localhost", "http://[::1]:8080", "http://127.8.9.10/x", "https://[2001:db8::1]",
    } do
      it(url, function()
        assert.is_table((new { base_url = url }))
      end)
    end
  end)

  it("has the limits that the README names, where none are given", function()
    local core = require "integrations.core"
    local config
    local original = core.engine
    core.engine = function(given)
      config = given
      return original(given)
    end
    local client = assert(sendgrid.new { api_key = "SG.test.canary" })
    core.engine = original
    assert.same({ 30, 3 }, { client.session.timeout, client.session.max_attempts })
    assert.equal(5000, config.connect_timeout_ms)
    client:close()
  end)

  it("hands on what is the transport's", function()
    local transport = require "integrations.transport"
    local open, given = transport.open, nil
    transport.open = function(_, options)
      given = options
      return fake_transport.new {}
    end
    local client = new { max_connections = 7, allow_blocking = true, transport = "curl" }
    transport.open = open
    assert.is_table(client)
    assert.same({ 7, true }, { given.max_connections, given.allow_blocking })
  end)

  it("ignores the slash at the end of base_url", function()
    local client = new { base_url = "https://example.com/base//" }
    assert.equal("https://example.com/base", client.session.base_url)
  end)

  describe("close", function()
    it("closes the transport once, however often it is called", function()
      local transport = fake_transport.new { { status = 204 } }
      local client = new { transport = transport }
      client:close()
      client:close()
      assert.equal(1, transport.closed)
      local result, failed = client.integrations:list()
      assert.is_nil(result)
      assert.same({ "closed", "integrations.list: closed (not_applied): this client was closed; make a new one" },
        { failed.kind, tostring(failed) })
      assert.equal(0, #transport.requests)
    end)

    it("ends libcurl's side, too", function()
      local client = assert(sendgrid.new { api_key = "SG.test.canary" })
      local engine = client.session.transport.engine
      client:close()
      assert.error_matches(function()
        engine:run(0)
      end, "the engine is closed", 1, true)
    end)

    it("of a client made by as leaves its parent open", function()
      local transport = fake_transport.new { { status = 200, body = '{"result":[]}' } }
      local client = new { transport = transport }
      local child = client:as "alice"
      child:close()
      assert.equal(0, transport.closed)
      assert.equal("closed", select(2, child.integrations:list()).kind)
      assert.same({}, (client.integrations:list()))
    end)

    it("of a parent closes those made by as", function()
      local client = new {}
      local child = assert(client:as "alice")
      local grandchild = assert(child:as "bob")
      client:close()
      assert.equal("closed", select(2, child.integrations:list()).kind)
      assert.equal("closed", select(2, grandchild.integrations:list()).kind)
    end)

    it("raises without its colon", function()
      local client = new {}
      assert.error_matches(function()
        client.close()
      end, "call it with a colon: sendgrid:close", 1, true)
    end)

    it("happens at the end of a scope where Lua has <close>", function()
      local ok, scope = pcall(load, "local client <close> = ...")
      if not (ok and scope) then
        return
      end
      local transport = fake_transport.new { { status = 204 } }
      scope((new { transport = transport }))
      assert.equal(1, transport.closed)
    end)
  end)

  it("shows no secret, however one looks", function()
    local client = new { on_behalf_of = "alice", transport = "curl" }
    local seen = {}
    local function look(value)
      assert.is_nil(tostring(value):find("canary", 1, true))
      if type(value) == "table" and not seen[value] then
        seen[value] = true
        look(getmetatable(value))
        for name, field in pairs(value) do
          look(name)
          look(field)
        end
      end
    end
    look(client)
    client:close()
  end)

  local modules = {
    sendgrid = { api_key = "SG.test.canary" },
    rocketchat = { url = "https://chat.example.com", user_id = "u", auth_token = "RC.test.canary" },
  }
  for module, options in pairs(modules) do
    it("asks for each header of a response that its code reads, " .. module, function()
      local asked
      local transport = require "integrations.transport"
      local open = transport.open
      transport.open = function(_, given)
        asked = given.wanted_headers
        return nil, "no"
      end
      require("integrations." .. module).new(options)
      transport.open = open
      local read = {}
      for _, name in ipairs { "retry", "rate_limit", "http_date", "call", "service", "refusal", module } do
        local file = assert(io.open(("lua/integrations/%s.lua"):format(name)))
        local source = file:read "*a"
        file:close()
        for header in source:gmatch 'headers%["([%w%-]+)"%]' do read[header] = true end
        for header in source:gmatch "response%.headers%.(%w+)" do read[header] = true end
      end
      local names = {}
      for name in pairs(read) do names[#names + 1] = name end
      table.sort(names)
      table.sort(asked)
      assert.same(names, asked)
    end)
  end
end)
