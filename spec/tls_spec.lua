package.path = "./spec/?.lua;" .. package.path

local certificates = require "support.certificates"
local process = require "support.process"
local sendgrid = require "integrations.sendgrid"
local server = require "integrations.emulator.server"

local NOT_PROVED = "the server's identity could not be proved: check the host name, its certificate and ca_file"

local OTHER_HOST = "the certificate is for another host"

-- So that the servers below could speak to somebody who takes an old protocol.
local WEAK_CIPHERS = 'ssl_ciphers "ALL:@SECLEVEL=0";'

local WEAK_OPENSSL = [[
openssl_conf = defaults
[defaults]
ssl_conf = ssl
[ssl]
system_default = anything
[anything]
MinProtocol = TLSv1
CipherString = DEFAULT@SECLEVEL=0
]]

describe("over TLS", function()
  local folder, started, clients, tls

  setup(function()
    folder = certificates.new()
    folder:self_signed "authority"
    folder:self_signed "stranger"
    local own = "IP:127.0.0.1,DNS:localhost"
    tls = {
      good = folder:issue("good", { authority = "authority", names = own }),
      -- The subject is right, and must not count.
      other_host = folder:issue("other_host", { authority = "authority", names = "DNS:elsewhere.invalid",
        subject = "127.0.0.1" }),
      other_address = folder:issue("other_address", { authority = "authority", names = "IP:127.0.0.2" }),
      only_name = folder:issue("only_name", { authority = "authority", names = "DNS:127.0.0.1" }),
      expired = folder:issue("expired", { authority = "authority", names = own, days = -1 }),
      self_signed = folder:self_signed("self_signed", own),
      other_authority = folder:issue("other_authority", { authority = "stranger", names = own }),
    }
  end)

  teardown(function()
    if folder then folder:remove() end
  end)

  before_each(function()
    started, clients = {}, {}
  end)

  after_each(function()
    for _, sg in ipairs(clients) do sg:close() end
    for _, running in ipairs(started) do running:stop() end
  end)

  local function start(options)
    local running = assert(server.start(options))
    started[#started + 1] = running
    return running
  end

  local function open(running, options)
    options = options or {}
    options.api_key = "SG.emulator.full"
    options.base_url = options.base_url or running.url
    local sg = assert(sendgrid.new(options))
    clients[#clients + 1] = sg
    return sg
  end

  local function open_trusting(running)
    return open(running, { ca_file = folder:path "authority.pem" })
  end

  --- What has reached the emulator, asked by somebody who trusts everybody.
  local function ledger(running)
    return process.shell("curl -s -k -m 10 --noproxy '*' --tlsv1.1 --ciphers DEFAULT@SECLEVEL=0 " .. running.url
      .. "/_emulator/requests")
  end

  --- Nobody is told the key, and the caller is told why.
  local function check_refused(running, sg, expected)
    for _, method in ipairs { "list", "delete" } do
      local result, failure = sg.integrations[method](sg.integrations, "5a1234")
      assert.is_nil(result)
      assert.same({ "tls", "not_applied", expected.code }, { failure.kind, failure.outcome, failure.code })
      assert.is_nil(failure.status)
      if expected.message then
        assert.equal(expected.message, failure.message:sub(1, #expected.message))
      end
      if expected.reason then
        assert.truthy(failure.message:find(expected.reason, 1, true), failure.message)
      end
      assert.is_nil(tostring(failure):find("SG.emulator", 1, true))
    end
    assert.equal("[]", ledger(running))
    assert.is_nil(process.read_file(running.folder .. "/error.log"):find("SG.emulator", 1, true))
  end

  for _, http2 in ipairs { false, true } do
    describe(http2 and "with HTTP/2" or "with HTTP/1.1", function()
      it("a server is trusted whose certificate is of the trusted authority, and has its address", function()
        local running = start { tls = tls.good, http2 = http2 }
        local sg = open_trusting(running)
        assert.same({}, sg.integrations:list())
        local made = assert(sg.integrations:create {
          destination = "Segment", filters = { email_events = { "open" } },
          properties = { write_key = "a123456", destination_region = "US" },
        })
        assert.equal(made.integration_id, assert(sg.integrations:get(made.integration_id)).integration_id)
        assert.is_true(sg.integrations:delete(made.integration_id))
        assert.same({}, sg.integrations:list())
        assert.truthy(ledger(running):find('"method":"DELETE"', 1, true))
      end)

      it("its name is as good as its address", function()
        local running = start { tls = tls.good, http2 = http2 }
        local sg = open(running, {
          base_url = "https://localhost:" .. running.port, ca_file = folder:path "authority.pem",
        })
        assert.same({}, sg.integrations:list())
      end)

      local refused = {
        { "for another host", "other_host", OTHER_HOST },
        { "for another address", "other_address", OTHER_HOST },
        { "for a name that only looks like the address", "only_name", OTHER_HOST },
        { "that has expired", "expired", "certificate has expired" },
        { "that has signed itself", "self_signed", "self-signed certificate" },
        { "of another authority", "other_authority", "unable to get local issuer certificate" },
      }
      for _, row in ipairs(refused) do
        it("a certificate is refused " .. row[1], function()
          local running = start { tls = tls[row[2]], http2 = http2 }
          check_refused(running, open_trusting(running), {
            code = "CURLE_PEER_FAILED_VERIFICATION", message = NOT_PROVED, reason = row[3],
          })
        end)
      end

      it("an authority is refused that nobody told the client to trust", function()
        local running = start { tls = tls.good, http2 = http2 }
        check_refused(running, open(running), { code = "CURLE_PEER_FAILED_VERIFICATION", message = NOT_PROVED })
      end)
    end)
  end

  it("a certificate for the address does not do for the name", function()
    local running = start { tls = folder:issue("address", { authority = "authority", names = "IP:127.0.0.1" }) }
    local sg = open(running, {
      base_url = "https://localhost:" .. running.port, ca_file = folder:path "authority.pem",
    })
    check_refused(running, sg, {
      code = "CURLE_PEER_FAILED_VERIFICATION", message = NOT_PROVED, reason = OTHER_HOST,
    })
    assert.same({}, open_trusting(running).integrations:list())
  end)

  it("a server is refused that speaks nothing newer than TLS 1.1", function()
    tls.good.protocols = "TLSv1.1"
    local running = start { tls = tls.good, locations = WEAK_CIPHERS }
    tls.good.protocols = nil
    assert.equal("[]", ledger(running)) -- it does answer those who take that
    check_refused(running, open_trusting(running), {
      code = "CURLE_SSL_CONNECT_ERROR", message = "no TLS connection came about",
    })
    -- Nor is it up to the system's OpenSSL, which can be told to take anything.
    process.write_file(folder:path "openssl.cnf", WEAK_OPENSSL)
    local output, status = process.run_lua(([[
      local sg = require("integrations.sendgrid").new { api_key = "SG.emulator.full", base_url = %q, ca_file = %q }
      local result, failure = sg.integrations:list()
      io.write(tostring(result), " ", failure and failure.kind or "spoke TLS 1.1")
    ]]):format(running.url, folder:path "authority.pem"), { "OPENSSL_CONF=" .. folder:path "openssl.cnf" })
    assert.same({ "nil tls", 0 }, { output, status })
    assert.equal("[]", ledger(running))
  end)

  it("each newer protocol works", function()
    for _, protocol in ipairs { "TLSv1.2", "TLSv1.3" } do
      tls.good.protocols = protocol
      local running = start { tls = tls.good }
      tls.good.protocols = nil
      assert.same({}, open_trusting(running).integrations:list())
    end
  end)

  it("a server is refused that does not speak TLS at all", function()
    local running = start()
    local sg = open(running, {
      base_url = "https://127.0.0.1:" .. running.port, ca_file = folder:path "authority.pem",
    })
    check_refused(running, sg, { code = "CURLE_SSL_CONNECT_ERROR", message = "no TLS connection came about" })
  end)

  local files = {
    ["that is missing"] = function() return folder:path "nothing.pem" end,
    ["that is a folder"] = function() return folder.folder end,
    ["that is empty"] = function()
      process.write_file(folder:path "empty.pem", "")
      return folder:path "empty.pem"
    end,
    ["that holds no certificate"] = function()
      process.write_file(folder:path "text.pem", "not a certificate\n")
      return folder:path "text.pem"
    end,
  }
  for title, make in pairs(files) do
    it("a ca_file " .. title .. " is named as the cause", function()
      local running = start { tls = tls.good }
      check_refused(running, open(running, { ca_file = make() }), {
        code = "CURLE_SSL_CACERT_BADFILE",
        message = "the file of trusted certificates cannot be read: check ca_file, "
          .. "or install the system's (Debian: ca-certificates)",
      })
    end)
  end

  it("the environment adds no authority", function()
    local running = start { tls = tls.good }
    local ca = folder:path "authority.pem"
    local output, status = process.run_lua(([[
      local sg = require("integrations.sendgrid").new { api_key = "SG.emulator.full", base_url = %q }
      local result, failure = sg.integrations:list()
      io.write(tostring(result), " ", failure and failure.kind or "trusted")
    ]]):format(running.url), { "SSL_CERT_FILE=" .. ca, "CURL_CA_BUNDLE=" .. ca, "SSL_CERT_DIR=" .. folder.folder })
    assert.same({ "nil tls", 0 }, { output, status })
  end)

  it("a write is sent once over a connection that is used again", function()
    local running = start { tls = tls.good }
    local sg = open_trusting(running)
    assert.same({}, sg.integrations:list())
    assert(sg.integrations:create {
      destination = "Segment", filters = { email_events = { "open" } },
      properties = { write_key = "a123456", destination_region = "US" },
    })
    local _, count = ledger(running):gsub('"method":"POST"', "")
    assert.equal(1, count)
  end)
end)
