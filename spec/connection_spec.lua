-- What the core sees of a connection before it lets a request out, and what it concludes afterwards.
package.path = "./spec/?.lua;" .. package.path

local certificates = require "support.certificates"
local core = require "integrations.core"
local peer = require "support.peer"
local preload = require "support.preload"
local process = require "support.process"
local socket = require "socket"
local ssl = require "ssl"
local system_calls = require "support.system_calls"

local TIMEOUT = 20000 -- milliseconds

describe("a kept connection", function()
  local server, engine

  before_each(function()
    server = peer.new()
    engine = assert(core.engine { origin = server:origin() })
  end)

  after_each(function()
    engine:close()
    server:close()
  end)

  local function submit(method)
    return assert(engine:submit(method, server:url(), nil, method ~= "GET" and "{}" or nil, TIMEOUT))
  end

  --- Sends a request that has to come on a connection of its own, and there only.
  local function arrives_on_new_connection(method)
    local before, requests = server.accepted, #server.requests
    local id = submit(method)
    local connection = server:accept(engine)
    server:read(engine, connection)
    peer.answer(connection, "right")
    assert.equal("right", assert(peer.finish(engine, id)).body)
    assert.same({ before + 1, requests + 1, method },
      { server.accepted, #server.requests, server.requests[#server.requests] })
    return connection
  end

  local ends = {
    { "that the server has closed", function(connection) connection:close() end },
    { "that the server has reset", peer.reset },
    { "on which an answer came that nobody asked for", function(connection) peer.answer(connection, "wrong") end },
    { "on which a farewell came, and then its end", function(connection)
      connection:send "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"
      connection:close()
    end },
  }
  for _, row in ipairs(ends) do
    for _, method in ipairs { "GET", "POST", "DELETE" } do
      it(row[1] .. " is not used: " .. method, function()
        row[2](server:serve(engine, "GET"))
        local connection = arrives_on_new_connection(method)
        server:serve(engine, "POST", connection)
      end)
    end
  end

  it("is used again as long as it is well", function()
    local connection = server:serve(engine, "GET")
    for _, method in ipairs { "POST", "GET", "DELETE", "GET" } do server:serve(engine, method, connection) end
    assert.equal(1, server.accepted)
  end)

  it("that is dead costs a write neither an attempt nor its outcome, however many there are", function()
    local ids, connections = { submit "GET", submit "GET", submit "GET" }, {}
    for i in ipairs(ids) do connections[i] = server:accept(engine) end
    for _, connection in ipairs(connections) do
      server:read(engine, connection)
      peer.answer(connection, "fine")
    end
    for _, id in ipairs(ids) do assert(peer.finish(engine, id)) end
    for _, connection in ipairs(connections) do connection:close() end
    arrives_on_new_connection "POST"
  end)

  it("with a proxy is looked at, too", function()
    engine:close()
    local proxy = server
    engine = assert(core.engine { origin = "http://service.invalid", proxy = proxy:origin() })
    server.url = function() return "http://service.invalid/" end
    proxy:serve(engine, "GET"):close()
    arrives_on_new_connection "POST"
  end)

  it("that is dead, of a server that is gone, leaves nothing sent", function()
    server:serve(engine, "GET"):close()
    server:close()
    local _, problem = peer.finish(engine, submit "POST")
    assert.same({ code = "CURLE_COULDNT_CONNECT", message = "connection refused", sent = false }, problem)
  end)

  it("is not taken for another one, of which nothing has gone out", function()
    local ids, connections = { submit "GET", submit "GET" }, {}
    for i in ipairs(ids) do connections[i] = server:accept(engine) end
    for i, id in ipairs(ids) do
      server:read(engine, connections[i])
      peer.answer(connections[i], "fine")
      assert(peer.finish(engine, id))
    end
    local id = submit "POST"
    local readable = peer.until_done(engine, function() return socket.select(connections, nil, 0)[1] end)
    server:read(engine, readable)
    peer.reset(readable == connections[1] and connections[2] or connections[1])
    readable:close()
    local _, problem = server:serve_all(engine, id)
    assert.is_true(assert(problem, "it was sent again").sent)
    assert.same({ "GET", "GET", "POST" }, server.requests)
  end)

  it("that dies under a write leaves it open what became of that", function()
    local connection = server:serve(engine, "GET")
    local id = submit "POST"
    server:read(engine, connection)
    connection:close()
    local _, problem = peer.finish(engine, id)
    assert.is_true(problem.sent)
    assert.same({ "GET", "POST" }, server.requests)
    local _, why = server:accept(engine):receive(1) -- the connection on which it was not sent again
    assert.equal("closed", why)
  end)
end)

describe("over TLS a connection", function()
  local folder, server, engine, raw

  setup(function()
    folder = certificates.new()
    folder:self_signed "authority"
  end)

  teardown(function()
    folder:remove()
  end)

  before_each(function()
    local files = folder:issue("server", { authority = "authority", names = "IP:127.0.0.1" })
    files.mode, files.protocol = "server", "any"
    local context = assert(ssl.newcontext(files))
    server = peer.new(function(accepted)
      raw = accepted
      local tls = assert(ssl.wrap(accepted, context))
      tls:settimeout(0)
      return tls
    end)
    engine = assert(core.engine { origin = server:origin(), ca_file = folder:path "authority.pem" })
  end)

  after_each(function()
    engine:close()
    server:close()
  end)

  local function submit(method)
    return assert(engine:submit(method, server:url(), nil, method ~= "GET" and "{}" or nil, TIMEOUT))
  end

  local function accept()
    local tls = server:accept(engine)
    peer.until_done(engine, function() return (tls:dohandshake()) end)
    return tls
  end

  it("that the server ends with the handshake sends nothing", function()
    local id = submit "POST"
    local tls = server:accept(engine)
    peer.until_done(engine, function() return socket.select({ tls }, nil, 0)[1] end)
    -- It says all that it has to say in a handshake, and goes; the request would go after the client's answer to that.
    assert.equal("wantread", select(2, tls:dohandshake()))
    raw:setfd(tls:getfd())
    raw:shutdown "send"
    raw:setfd(-1)
    local _, problem = peer.finish(engine, id)
    assert.same({ code = "CURLE_GOT_NOTHING", message = "the server ended the connection before the request was sent",
      sent = false }, problem)
    tls:close()
  end)

  -- From libcurl 8.15 on OpenSSL takes the second answer out of the socket together with the first, unless it is told
  -- not to.
  for _, method in ipairs { "GET", "POST" } do
    it("on which two answers came at once is not used: " .. method, function()
      local id = submit "GET"
      local tls = accept()
      server:read(engine, tls)
      peer.answer(tls, "first")
      peer.answer(tls, "wrong")
      assert.equal("first", assert(peer.finish(engine, id)).body)
      id = submit(method)
      local other = accept()
      server:read(engine, other)
      peer.answer(other, "right")
      assert.equal("right", assert(peer.finish(engine, id)).body)
      tls:close()
      other:close()
    end)
  end

  it("is used again as long as it is well", function()
    local id = submit "GET"
    local tls = accept()
    server:read(engine, tls)
    peer.answer(tls, "fine")
    assert(peer.finish(engine, id))
    for _, method in ipairs { "POST", "GET", "DELETE" } do server:serve(engine, method, tls) end
    assert.equal(1, server.accepted)
    tls:close()
  end)
end)

-- Around what a program does that has a system call fail: a server and an engine, and what came of one call.
local OPENING = [[
  package.path = "./spec/?.lua;" .. package.path
  local core = require "integrations.core"
  local peer = require "support.peer"
  local server = peer.new()
  local engine = assert(core.engine { origin = server:origin() })
]]
local TELLING = [[
  print(response and response.body or "sent: " .. tostring(problem.sent), table.concat(server.requests, " "))
]]

-- The server has the request and goes without an answer. A system that seems to say that nothing had been sent must not
-- be believed.
describe("a system whose counts tell nothing leaves a write open:", function()
  local PROGRAM = OPENING .. [[
    local connection = server:serve(engine, "GET")
    local id = assert(engine:submit("POST", server:url(), nil, "{}", 20000))
    server:read(engine, connection)
    connection:close()
    local response, problem = server:serve_all(engine, id)
  ]] .. TELLING
  local compiled = process.has_command "gcc" and it or pending

  for _, counts in ipairs { "uncounted", "queued" } do
    compiled(counts, function()
      local output = process.run_lua(PROGRAM, system_calls.failing("TCP_INFO " .. counts))
      assert.equal("sent: true\tGET POST\n", output)
    end)
  end
end)

-- libcurl's own counts do not tell: what they count differs from version to version.
describe("where the system says that a request was not sent", function()
  local PROGRAM = OPENING .. [[
    local kept = %q == "kept" and server:serve(engine, "GET") or nil
    local id = assert(engine:submit(%q, server:url(), nil, "{}", 20000))
    local response, problem = server:serve_all(engine, id, { kept })
  ]] .. TELLING

  -- How the connection is, what is called, what fails, and what the caller and the server have of it.
  local rows = {
    { "a reset before a byte was sent is no failure", "kept", "POST", "send 2 reset", "fine", "GET POST" },
    { "a reset before a byte of a read was sent is none either", "kept", "GET", "send 2 reset", "fine", "GET GET" },
    { "what did arrive is not taken for unsent", "kept", "POST", "send 2 late", "sent: true", "GET POST" },
    { "a reset before a byte was sent leaves nothing sent", "new", "POST", "send 1 reset", "sent: false", "" },
    { "what did arrive is not taken for unsent", "new", "POST", "send 1 late", "sent: true", "POST" },
  }
  local compiled = process.has_command "gcc" and it or pending

  for _, row in ipairs(rows) do
    local title, connection, method, failing, result, requests = (table.unpack or unpack)(row)
    compiled(("on a %s connection, %s"):format(connection, title), function()
      local output = process.run_lua(PROGRAM:format(connection, method), system_calls.failing(failing))
      assert.equal(("%s\t%s\n"):format(result, requests), output)
    end)
  end
end)

describe("libcurl", function()
  -- A program that brings its own and exports its names puts it in the system's place.
  local LIBRARY = "build/spec/libcurl_of_host.so"
  local SOURCE = [[
    #include <stdlib.h>
    #include <string.h>
    typedef struct { int age; const char *version; unsigned version_num; const char *rest[32]; } version_info;
    version_info *curl_version_info(int age) {
      static version_info info;
      const char *words = getenv("INTEGRATIONS_SPEC_LIBCURL");
      info.age = age;
      info.version_num = (unsigned)strtoul(words, (char **)&info.version, 16);
      info.version++;
      return &info;
    }
  ]]
  local rows = {
    { "7.84.0", 0x075400, "libcurl 7.84.0 is too old: 7.85 or newer is needed" },
    { "7.87.0", 0x075700, "libcurl 7.87.0 loses events: use an older or a newer one" },
    { "8.11.1", 0x080b01, "libcurl 8.11.1 closes descriptors that are not its own: use an older or a newer one" },
  }
  local compiled = process.has_command "gcc" and it or pending

  for _, row in ipairs(rows) do
    compiled("of a host that brings its own is named where nothing helps: " .. row[1], function()
      preload.build(LIBRARY, SOURCE)
      local environment = preload.environment(LIBRARY, ("INTEGRATIONS_SPEC_LIBCURL=%x %s"):format(row[2], row[1]))
      local output = process.run_lua([[
        local core = require "integrations.core"
        print(core.engine { origin = "http://127.0.0.1:1" })
      ]], environment)
      assert.equal("nil\t" .. row[3] .. "\n", output)
    end)
  end
end)
