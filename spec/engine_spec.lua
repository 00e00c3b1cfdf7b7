package.path = "./spec/?.lua;" .. package.path

local certificates = require "support.certificates"
local core = require "integrations.core"
local gathering = require "support.gathering"
local process = require "support.process"
local server = require "integrations.emulator.server"
local system_calls = require "support.system_calls"

--- What nginx answers with. The ledger is a table of nginx's one process: what really arrived.
local LOCATIONS = [[
  lua_socket_log_errors off;
  location = /ok { return 200 ok; }
  location = /redirect { return 302 /ok; }
  location = /protocol { return 200 $server_protocol; }

  # The connection, how many requests it has had, and the request's very bytes.
  location /echo {
    content_by_lua_block {
      ngx.req.read_body()
      ngx.print(ngx.var.connection, " ", ngx.var.connection_requests, "\n", ngx.req.raw_header(),
        ngx.req.get_body_data() or "")
    }
  }

  location = /sleep {
    lua_check_client_abort on;
    content_by_lua_block {
      ngx.req.read_body()
      ngx.sleep(tonumber(ngx.var.arg_seconds))
      ngx.print(ngx.var.connection, " ", ngx.var.arg_id, " ", ngx.var.connection_requests)
    }
  }

  location = /large {
    content_by_lua_block {
      ngx.print(("x"):rep(tonumber(ngx.var.arg_size)))
    }
  }

  # As many bytes as the client takes; `line` is sent over and over.
  location = /endless {
    content_by_lua_block {
      local socket = assert(ngx.req.socket(true))
      socket:send(ngx.unescape_uri(ngx.var.arg_first))
      local line = ngx.unescape_uri(ngx.var.arg_line):rep(100)
      while socket:send(line) do end
    }
  }

  # The answer is what the request says.
  location = /raw {
    content_by_lua_block {
      assert(ngx.req.socket(true)):send(ngx.unescape_uri(ngx.var.arg_bytes))
    }
  }

  # A connection's first request has an answer. The second one is read, noted, and has none.
  location = /dying {
    lingering_close off;
    content_by_lua_block {
      local ledger = package.loaded.ledger or {}
      package.loaded.ledger = ledger
      table.insert(ledger, ngx.req.get_method())
      local socket = assert(ngx.req.socket(true))
      ngx.sleep(0.05)
      socket:send "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
      local line = socket:receive()
      if not line then return end
      table.insert(ledger, line:match "^%S+")
      if ngx.var.arg_unread then return end
      local size, header = 0
      repeat
        header = socket:receive()
        size = tonumber(header:lower():match "^content%-length: (%d+)") or size
      until header == ""
      if size > 0 then socket:receive(size) end
    }
  }

  # Notes the request, and says nothing.
  location = /silence {
    lua_check_client_abort on;
    content_by_lua_block {
      package.loaded.ledger = package.loaded.ledger or {}
      table.insert(package.loaded.ledger, ngx.req.get_method())
      ngx.sleep(300)
    }
  }

  # Closes without a word, also in HTTP/2.
  location = /close {
    content_by_lua_block {
      package.loaded.ledger = package.loaded.ledger or {}
      table.insert(package.loaded.ledger, ngx.req.get_method())
      ngx.exit(444)
    }
  }

  location = /ledger {
    content_by_lua_block {
      ngx.print(table.concat(package.loaded.ledger or {}, " "))
      package.loaded.ledger = nil
    }
  }
]] .. gathering.LOCATION

local function escape(bytes)
  return (bytes:gsub("[^%w]", function(byte)
    return ("%%%02X"):format(byte:byte())
  end))
end

local function raw(bytes)
  return "/raw?bytes=" .. escape(bytes)
end

--- Drives one call to its end. Every call has a time limit, so this ends: a minute where that is not what is tested,
--- since a machine may be busy.
local function finish(engine, id)
  local response, problem
  repeat
    engine:run(1000)
    response, problem = engine:take(id)
  until response ~= false
  return response, problem
end

--- The response; where there is none, the reason is raised.
local function worked(response, problem)
  return assert(response, problem and problem.message)
end

describe("the engine", function()
  local running, folder, tls, tls_1

  setup(function()
    running = assert(server.start { locations = LOCATIONS })
    folder = certificates.new()
    folder:self_signed "authority"
    local certificate = folder:issue("server", { authority = "authority", names = "IP:127.0.0.1" })
    tls = assert(server.start { locations = LOCATIONS, tls = certificate, http2 = true })
    tls_1 = assert(server.start { locations = LOCATIONS, tls = certificate })
  end)

  teardown(function()
    for _, started in ipairs { running or false, tls or false, tls_1 or false } do
      if started then started:stop() end
    end
    if folder then folder:remove() end
  end)

  local engines

  before_each(function()
    engines = {}
  end)

  after_each(function()
    for _, engine in ipairs(engines) do engine:close() end
  end)

  local function open(options)
    options = options or {}
    options.origin, options.connect_timeout_ms = options.origin or running.url, options.connect_timeout_ms or 60000
    local engine = assert(core.engine(options))
    engines[#engines + 1] = engine
    return engine
  end

  local function open_tls(of)
    return open { origin = (of or tls).url, ca_file = folder:path "authority.pem" }
  end

  local function send(engine, method, path, headers, body, timeout_ms)
    local origin = engines.origin or running.url
    local id = assert(engine:submit(method, origin .. path, headers, body, timeout_ms or 60000))
    return finish(engine, id)
  end

  local function get(engine, path, timeout_ms)
    return send(engine, "GET", path, nil, nil, timeout_ms)
  end

  --- The connection, its number of requests, and the bytes of the request.
  local function echo(engine, method, path, headers, body)
    local response = worked(send(engine, method, path, headers, body))
    return response.body:match "^(%d+) (%d+)\n(.*)$"
  end

  --- What arrived at /dying, /silence and /close since the last look.
  local function ledger()
    local engine = open()
    local response = worked(get(engine, "/ledger"))
    engine:close()
    return response.body
  end

  describe("sends", function()
    it("the request line, the headers and nothing that nobody asked for", function()
      local engine = open { user_agent = "agent/1", credentials = { Authorization = "Bearer SG.test.canary" } }
      local _, _, bytes = echo(engine, "GET", "/echo?a=b", { Accept = "text/plain" })
      assert.equal("GET /echo?a=b HTTP/1.1\r\n"
        .. "Host: 127.0.0.1:" .. running.port .. "\r\n"
        .. "User-Agent: agent/1\r\n"
        .. "Accept: text/plain\r\n"
        .. "Authorization: Bearer SG.test.canary\r\n\r\n", bytes)
    end)

    it("without headers of its own, too", function()
      local _, _, bytes = echo(open(), "GET", "/echo")
      assert.equal("GET /echo HTTP/1.1\r\nHost: 127.0.0.1:" .. running.port
        .. "\r\nUser-Agent: lua-integrations\r\nAccept: */*\r\n\r\n", bytes)
    end)

    local every_byte = {}
    for byte = 0, 255 do every_byte[#every_byte + 1] = string.char(byte) end
    local bodies = {
      ["no body"] = nil, ["an empty body"] = "", ["one byte"] = "x", ["JSON"] = '{"a":1}',
      ["every byte there is"] = table.concat(every_byte), ["NUL bytes"] = ("\0"):rep(1000),
      ["a large body"] = ("0123456789abcdef"):rep(65536),
    }
    for _, method in ipairs { "POST", "PATCH", "PUT", "DELETE" } do
      for title, body in pairs(bodies) do
        it(("%s with %s, byte for byte"):format(method, title), function()
          local _, _, bytes = echo(open(), method, "/echo", { ["Content-Type"] = "x/y" }, body)
          local head, received = bytes:match "^(.-\r\n\r\n)(.*)$"
          assert.equal(method .. " /echo HTTP/1.1", (head:match "^[^\r]*"))
          assert.is_true(received == body)
          assert.equal(tostring(#body), head:match "\r\nContent%-Length: (%d+)")
          assert.equal("x/y", head:match "\r\nContent%-Type: ([^\r]*)")
          assert.is_nil(head:find "\r\nExpect:")
        end)
      end
      it(method .. " without a body, and without a length", function()
        local _, _, bytes = echo(open(), method, "/echo")
        assert.equal(method, (bytes:match "^%S+"))
        assert.is_nil(bytes:lower():find("\r\ncontent-", 1, true))
        assert.is_nil(bytes:lower():find("\r\ntransfer-", 1, true))
      end)
    end

    it("one request after another on one handle, each with nothing of the one before", function()
      local engine = open()
      echo(engine, "POST", "/echo", { ["X-First"] = "1" }, "first body")
      local _, _, bytes = echo(engine, "DELETE", "/echo")
      assert.equal("DELETE /echo HTTP/1.1\r\nHost: 127.0.0.1:" .. running.port
        .. "\r\nUser-Agent: lua-integrations\r\nAccept: */*\r\n\r\n", bytes)
      _, _, bytes = echo(engine, "PATCH", "/echo", { Accept = "a/b", ["Content-Type"] = "c/d" }, "x")
      assert.equal("PATCH /echo HTTP/1.1\r\nHost: 127.0.0.1:" .. running.port
        .. "\r\nUser-Agent: lua-integrations\r\n", (bytes:match "^.-\r\nUser%-Agent: [^\r]*\r\n"))
      assert.equal("x", (bytes:match "\r\n\r\n(.*)$"))
      _, _, bytes = echo(engine, "GET", "/echo")
      assert.is_nil(bytes:find("Content", 1, true))
    end)

    it("paths as they are: .. is not folded", function()
      for _, path in ipairs { "/echo/a/../b", "/echo/./a", "/echo/a/..", "/echo//a", "/echo/%2e%2e/echo" } do
        local _, _, bytes = echo(open(), "GET", path)
        -- libcurl from 8.22 on has %2e in capitals.
        assert.equal(("GET " .. path .. " HTTP/1.1"):upper(), (bytes:match "^[^\r]*"):upper())
      end
    end)

    it("HTTP/2 where the server offers it", function()
      engines.origin = tls.url
      assert.equal("HTTP/2.0", worked(get(open_tls(), "/protocol")).body)
    end)
  end)

  describe("uses connections", function()
    it("again", function()
      local engine = open()
      local first = echo(engine, "GET", "/echo")
      for i = 2, 5 do
        local method, body = "GET", nil
        if i % 2 == 0 then method, body = "POST", "x" end
        local connection, requests = echo(engine, method, "/echo", nil, body)
        assert.same({ first, tostring(i) }, { connection, requests })
      end
    end)

    it("again after a response that is an error", function()
      local engine = open()
      local first = echo(engine, "GET", "/echo")
      assert.equal(404, worked(get(engine, "/nothing")).status)
      local connection, requests = echo(engine, "GET", "/echo")
      assert.same({ first, "3" }, { connection, requests })
    end)

    it("in parallel, up to the cap, and no more", function()
      for _, cap in ipairs { 1, 3 } do
        local engine = open { max_connections = cap }
        local ids, seen, count = {}, {}, 0
        for i = 1, 9 do
          ids[i] = engine:submit("GET", running.url .. "/sleep?seconds=0.05&id=" .. i, nil, nil, 60000)
        end
        for i, id in ipairs(ids) do
          local connection, number = worked(finish(engine, id)).body:match "^(%d+) (%d+)"
          assert.equal(tostring(i), number)
          count = count + (seen[connection] and 0 or 1)
          seen[connection] = true
        end
        assert.equal(cap, count)
        engine:close()
      end
    end)

    it("of HTTP/2 for all calls at once", function()
      local engine = open_tls()
      local ids, first = {}, nil
      for i = 1, 30 do
        ids[i] = engine:submit("GET", tls.url .. "/sleep?seconds=0.02&id=" .. i, nil, nil, 60000)
      end
      for i, id in ipairs(ids) do
        local connection, number = worked(finish(engine, id)).body:match "^(%d+) (%d+)"
        first = first or connection
        assert.same({ first, tostring(i) }, { connection, number })
      end
    end)

    local PATIENCE = 20 * process.slowness -- seconds that those who are there wait for the others

    local function meet(engine, of, count)
      return gathering.meet(engine, finish, { url = of.url, count = count, seconds = PATIENCE })
    end

    for _, name in ipairs { "HTTP/1.1", "HTTP/2" } do
      it("that are few before the first answer tells whether it is HTTP/2: " .. name, function()
        local of = name == "HTTP/2" and tls or tls_1
        local engine = open_tls(of)
        gathering.submit(engine, { url = of.url, count = 40, wanted = 17, seconds = 0.2 })
        repeat until engine:run(1000) > 0
        local _, there = gathering.read(engine:take(engine:next()))
        assert.is_true(there <= 16, there)
      end)
    end

    it("for each call one, once an answer has told that it is HTTP/1.1", function()
      local engine = open_tls(tls_1)
      meet(engine, tls_1, 1)
      local _, used, there = meet(engine, tls_1, 40)
      assert.same({ 40, 40 }, { used, there })
    end)

    it("for many calls a few, once an answer has told that it is HTTP/2", function()
      local engine = open_tls(tls)
      meet(engine, tls, 1)
      local _, used, there = meet(engine, tls, 40)
      assert.equal(40, there)
      assert.is_true(used <= 16, used)
    end)

    it("and counts what is finished and not taken", function()
      local engine = open()
      assert.equal(0, engine:run(0))
      local ids = {}
      for i = 1, 3 do
        ids[i] = engine:submit("GET", running.url .. "/ok", nil, nil, 60000)
      end
      repeat until engine:run(1000) == 3
      assert.equal(3, engine:run(0))
      engine:take(ids[2])
      assert.equal(2, engine:run(0))
      engine:cancel(ids[1])
      assert.equal(1, engine:run(0))
      engine:take(ids[3])
      assert.equal(0, engine:run(1000))
    end)
  end)

  describe("redacts", function()
    local function redacted(credentials, text)
      local engine = open { credentials = credentials }
      local result = engine:redact(text)
      engine:close()
      return result
    end

    it("what a credential's value ends with, wherever it is", function()
      local key = { Authorization = "Bearer SG.test.canary" }
      assert.equal("a … b…", redacted(key, "a SG.test.canary bSG.test.canary"))
      assert.equal("Bearer …", redacted(key, "Bearer SG.test.canary"))
      assert.equal("SGxtest.canary", redacted(key, "SGxtest.canary"))
      assert.equal("", redacted(key, ""))
      assert.equal("… and …", redacted({ ["X-A"] = "first-secret", ["X-B"] = "the second" }, "first-secret and second"))
    end)

    it("nothing where there is no secret, nor what is too short for one", function()
      assert.equal("text", redacted(nil, "text"))
      assert.equal("text", redacted({ ["X-A"] = "tex", ["X-B"] = "t " }, "text"))
    end)

    it("all of a text once it does not know any more what must not be seen", function()
      local engine = open { credentials = { Authorization = "Bearer SG.test.canary" } }
      engine:close()
      assert.equal("…", engine:redact "text")
    end)

    it("texts only", function()
      local engine = open()
      for _, value in ipairs { 5, {}, false } do
        assert.is_false(pcall(engine.redact, engine, value))
      end
    end)
  end)

  describe("tells, where it is asked, how long a call took", function()
    local function timed(engine, url)
      local id = assert(engine:submit("GET", url, nil, nil, 60000))
      local response, problem
      repeat
        engine:run(1000)
        response, problem = engine:take(id, true)
      until response ~= false
      return (response or problem).durations
    end

    it("step by step, and nothing for what a kept connection saves", function()
      local engine = open_tls()
      local first = timed(engine, tls.url .. "/sleep?seconds=0.05")
      assert.is_true(first.dns >= 0 and first.connect > 0 and first.tls > 0)
      -- nginx may wake a little early: its clock stands still during a turn of its loop.
      assert.is_true(first.first_byte >= 0.04 + first.connect + first.tls)
      local second = timed(engine, tls.url .. "/ok")
      assert.same({ 0, 0, 0 }, { second.dns, second.connect, second.tls })
      assert.is_true(second.first_byte > 0)
    end)

    it("also one that failed", function()
      local durations = timed(open { origin = "http://127.0.0.1:1" }, "http://127.0.0.1:1/")
      assert.same({ 0, 0 }, { durations.tls, durations.first_byte })
    end)

    it("and does not otherwise", function()
      local engine = open()
      assert.is_nil(worked(get(engine, "/ok")).durations)
      local _, problem = get(engine, "/sleep?seconds=300", 20)
      assert.is_nil(assert(problem, "it worked").durations)
    end)
  end)

  describe("reads", function()
    local rows = {
      { "a response", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok",
        200, { ["content-length"] = "2", ["x-a"] = "b" }, "ok" },
      { "a body that ends with the connection", "HTTP/1.0 201 Made\r\n\r\nall of it", 201, {}, "all of it" },
      { "a chunked body", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
        200, { ["transfer-encoding"] = "chunked" }, "abcde" },
      { "headers that come again, joined", "HTTP/1.1 200 OK\r\nX-A: 1\r\nX-B: 2\r\nx-a: 3\r\nX-A:4\r\n"
        .. "Content-Length: 0\r\n\r\n", 200, { ["x-a"] = "1, 3, 4", ["x-b"] = "2", ["content-length"] = "0" }, "" },
      { "headers without the spaces around them", "HTTP/1.1 200 OK\r\nX-A: \t a b \t \r\nX-B:\r\nX-C: c:d\r\n"
        .. "Content-Length: 0\r\n\r\n", 200, { ["x-a"] = "a b", ["x-b"] = "", ["x-c"] = "c:d",
        ["content-length"] = "0" }, "" },
      { "no trailers", "HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n"
        .. "2\r\nok\r\n0\r\nX-A: evil\r\nRetry-After: 9\r\n\r\n",
        200, { ["x-a"] = "b", ["transfer-encoding"] = "chunked" }, "ok" },
      { "the final response after a 1xx", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        .. "HTTP/1.1 102 Processing\r\nX-Early: 1\r\n\r\nHTTP/1.1 200 OK\r\nX-Final: 1\r\nContent-Length: 2\r\n\r\nok",
        200, { ["x-final"] = "1", ["content-length"] = "2" }, "ok" },
      { "a body with every kind of byte", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\0\r\n\255x", 200,
        { ["content-length"] = "5" }, "\0\r\n\255x" },
      { "a status without words", "HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", 404, { ["content-length"] = "0" }, "" },
      { "a 204", "HTTP/1.1 204 No Content\r\n\r\n", 204, {}, "" },
      { "a body that nobody can decode, as it came", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"
        .. "Content-Length: 3\r\n\r\nabc", 200, { ["content-encoding"] = "gzip", ["content-length"] = "3" }, "abc" },
    }
    for _, row in ipairs(rows) do
      it(row[1], function()
        local response, problem = get(open(), raw(row[2]))
        assert.is_nil(problem)
        assert.same({ status = row[3], headers = row[4], body = row[5] }, response)
      end)
    end

    it("redirects as they are", function()
      local response = worked(get(open(), "/redirect"))
      assert.equal(302, response.status)
      assert.equal(running.url .. "/ok", response.headers.location)
    end)

    it("large bodies", function()
      assert.equal(1000000, #worked(get(open(), "/large?size=1000000")).body)
    end)
  end)

  describe("bounds", function()
    it("a response's body", function()
      local engine = open { max_body = 1000 }
      assert.equal(1000, #worked(get(engine, "/large?size=1000")).body)
      assert.same({ n = 2, nil, {
        code = "CURLE_FILESIZE_EXCEEDED", message = "the response's body is over 1000 bytes", sent = true, status = 200,
      } }, { n = 2, get(engine, "/large?size=1001") })
      assert.equal(1000, #worked(get(engine, "/large?size=1000")).body)
    end)

    it("a response's head", function()
      local function head(size)
        local start, finish_ = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", "\r\n\r\n"
        return raw(start .. "X-A: " .. ("x"):rep(size - #start - #finish_ - #"X-A: ") .. finish_)
      end
      local engine = open { max_head = 1000 }
      assert.equal(200, worked(get(engine, head(1000))).status)
      assert.same({ n = 2, nil, {
        code = "CURLE_TOO_LARGE", message = "the response's head is over 1000 bytes", sent = true, status = 200,
      } }, { n = 2, get(engine, head(1001)) })
      assert.equal(200, worked(get(engine, head(1000))).status)
    end)

    local OK = "HTTP/1.1 200 OK\r\n"
    local endless = {
      { "body", OK .. "\r\n", ("x"):rep(100), "CURLE_FILESIZE_EXCEEDED", 200 },
      { "chunked body", OK .. "Transfer-Encoding: chunked\r\n\r\n", "4\r\nabcd\r\n", "CURLE_FILESIZE_EXCEEDED", 200 },
      { "head", OK, "X-A: b\r\n", "CURLE_TOO_LARGE", 200 },
      { "row of 1xx", "", "HTTP/1.1 103 Early Hints\r\n\r\n", "CURLE_TOO_LARGE", 103 },
    }
    for _, row in ipairs(endless) do
      it("an endless " .. row[1], function()
        local engine = open { max_body = 100000 }
        local response, problem = get(engine, ("/endless?first=%s&line=%s"):format(escape(row[2]), escape(row[3])))
        assert.is_nil(response)
        assert.same({ row[4], row[5], true }, { problem.code, problem.status, problem.sent })
      end)
    end

    it("an endless header line", function()
      local response, problem = get(open(), ("/endless?first=%s&line=xxxxxxxx"):format(escape(OK .. "X-A: ")))
      assert.is_nil(response)
      -- libcurl has a cap of its own for one line, which old versions report as if memory had run out.
      assert.is_truthy(problem.code == "CURLE_TOO_LARGE" or problem.code == "CURLE_OUT_OF_MEMORY", problem.code)
      assert.is_true(problem.sent)
    end)

    it("the time of a call", function()
      process.patiently(function(scale)
        local engine = open()
        local started = core.now()
        local response, problem = get(engine, "/silence", 50 * scale)
        local took = core.now() - started
        assert.is_nil(response)
        assert.same({ "CURLE_OPERATION_TIMEDOUT", nil }, { problem.code, problem.status })
        assert.equal("ok", worked(get(engine, "/ok")).body)
        local arrived = ledger()
        if not problem.sent then
          assert.equal("", arrived)
          return "the call had not been sent"
        end
        return took >= 0.1 * scale and ("took %.3f s"):format(took) or nil
      end)
    end)

    it("the time of a call that waits for a connection, which is not sent then", function()
      local engine = open { max_connections = 1 }
      local first = engine:submit("GET", running.url .. "/sleep?seconds=300&id=1", nil, nil, 60000)
      engine:run(50)
      local second = engine:submit("POST", running.url .. "/ok", nil, "x", 100)
      local started = core.now()
      local _, problem = finish(engine, second)
      assert.same({ "CURLE_OPERATION_TIMEDOUT", false }, { problem.code, problem.sent })
      assert.is_true(core.now() - started < 30) -- and not the minute of the first
      assert.is_false(engine:take(first))
    end)

    it("the time that `run` waits", function()
      local engine = open()
      local id = engine:submit("GET", running.url .. "/sleep?seconds=300&id=1", nil, nil, 60000)
      local started = core.now()
      for _ = 1, 20 do
        assert.equal(0, engine:run(10))
      end
      assert.is_false(engine:take(id))
      assert.is_true(core.now() - started < 30) -- and not until the call has ended
    end)
  end)

  describe("says what went wrong, and whether anything was sent:", function()
    local function check(problem, code, sent, status)
      assert(problem, "it worked")
      assert.same({ code = code, sent = sent, status = status },
        { code = problem.code, sent = problem.sent, status = problem.status })
      assert.equal("string", type(problem.message))
      assert.is_true(#problem.message > 3)
    end

    it("nobody listens", function()
      local engine = open { origin = "http://127.0.0.1:1" }
      local _, problem = finish(engine, engine:submit("POST", "http://127.0.0.1:1/", nil, "x", 60000))
      check(problem, "CURLE_COULDNT_CONNECT", false)
    end)

    it("the host has no address", function()
      local engine = open { origin = "https://nobody.invalid" }
      local _, problem = finish(engine, engine:submit("POST", "https://nobody.invalid/", nil, "x", 60000))
      check(problem, "CURLE_COULDNT_RESOLVE_HOST", false)
    end)

    local OK = "HTTP/1.1 200 OK\r\n"
    local rows = {
      { "no answer", "", "CURLE_GOT_NOTHING" },
      { "a status line that is none", "SIP/2.0 nonsense\r\n\r\n", "CURLE_UNSUPPORTED_PROTOCOL" },
      { "an answer that is not HTTP", "220 mail.example ESMTP\r\n", "CURLE_UNSUPPORTED_PROTOCOL" },
      { "a body that is cut", OK .. "Content-Length: 10\r\n\r\nabc", "CURLE_PARTIAL_FILE", 200 },
      { "a chunk that is cut", OK .. "Transfer-Encoding: chunked\r\n\r\n5\r\nab", "CURLE_PARTIAL_FILE", 200 },
      { "a chunk of no size", OK .. "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "CURLE_PARTIAL_FILE", 200 },
    }
    for _, row in ipairs(rows) do
      for _, method in ipairs { "GET", "DELETE" } do
        it(("%s (%s)"):format(row[1], method), function()
          local response, problem = send(open(), method, raw(row[2]))
          assert.is_nil(response)
          check(problem, row[3], true, row[4])
        end)
      end
    end

    it("a proxy that makes no tunnel, and so lets nothing through", function()
      -- nginx answers every CONNECT with 405.
      local engine = open { origin = "https://127.0.0.1:1", proxy = running.url }
      local _, problem = finish(engine, engine:submit("POST", "https://127.0.0.1:1/", nil, "x", 60000))
      assert(problem, "it worked")
      assert.is_false(problem.sent)
      assert.is_nil(problem.status)
    end)
  end)

  describe("hands a result out once", function()
    it("and then knows no such call", function()
      local engine = open()
      local id = engine:submit("GET", running.url .. "/ok", nil, nil, 60000)
      assert.equal("ok", worked(finish(engine, id)).body)
      assert.has_error(function() engine:take(id) end)
      local ok, message = pcall(engine.take, engine, id)
      assert.is_false(ok)
      assert.truthy(message:find("no such call: taken or cancelled before", 1, true), message)
    end)

    it("also where the next call has its place", function()
      local engine = open()
      local first = engine:submit("GET", running.url .. "/ok", nil, nil, 60000)
      finish(engine, first)
      local second = engine:submit("GET", running.url .. "/ok", nil, nil, 60000)
      assert.are_not.equal(first, second)
      assert.is_false(pcall(engine.take, engine, first))
      engine:cancel(first)
      assert.equal("ok", worked(finish(engine, second)).body)
    end)

    it("and knows none that was never there", function()
      local engine = open()
      for _, id in ipairs { 0, 1, -1, 2 ^ 20, 2 ^ 52, 0.5 } do
        assert.is_false(pcall(engine.take, engine, id))
        engine:cancel(id)
      end
    end)
  end)

  describe("cancels", function()
    it("a running call, and goes on", function()
      local engine = open()
      for _, turns in ipairs { 0, 1, 5 } do
        local id = engine:submit("POST", running.url .. "/sleep?seconds=300&id=1", nil, "x", 60000)
        for _ = 1, turns do engine:run(20) end
        engine:cancel(id)
        assert.is_false(pcall(engine.take, engine, id))
        assert.equal("ok", worked(get(engine, "/ok")).body)
      end
    end)

    it("one call, and leaves the others alone", function()
      local engine = open()
      local first = engine:submit("GET", running.url .. "/sleep?seconds=300&id=1", nil, nil, 60000)
      local second = engine:submit("GET", running.url .. "/sleep?seconds=0.1&id=2", nil, nil, 60000)
      engine:run(20)
      engine:cancel(first)
      assert.truthy(worked(finish(engine, second)).body:find " 2 ")
    end)

    it("a stream of HTTP/2, and leaves the others alone", function()
      local engine = open_tls()
      local first = engine:submit("GET", tls.url .. "/sleep?seconds=300&id=1", nil, nil, 60000)
      local second = engine:submit("GET", tls.url .. "/sleep?seconds=0.1&id=2", nil, nil, 60000)
      engine:run(50)
      engine:cancel(first)
      assert.truthy(worked(finish(engine, second)).body:find " 2 ")
    end)

    for _, name in ipairs { "HTTP", "TLS", "TLS with HTTP/2" } do
      it("the only call, and keeps the connections that rest, over " .. name, function()
        local of = name == "HTTP" and running or name == "TLS" and tls_1 or tls
        local engine = open_tls(of)
        gathering.meet(engine, finish, { url = of.url, count = 1, seconds = 0 }) -- tells which HTTP is spoken
        local before = gathering.meet(engine, finish, { url = of.url, count = 3, seconds = 20 * process.slowness })
        local id = engine:submit("GET", of.url .. "/sleep?seconds=300&id=1", nil, nil, 60000)
        engine:run(50)
        engine:cancel(id)
        local after = gathering.meet(engine, finish, { url = of.url, count = 2, seconds = 20 * process.slowness })
        for connection in pairs(after) do assert.is_true(before[connection], "a new connection") end
      end)
    end

    it("any number of times", function()
      local engine = open()
      local id = engine:submit("GET", running.url .. "/ok", nil, nil, 60000)
      engine:cancel(id)
      engine:cancel(id)
      assert.equal(0, engine:run(0))
    end)
  end)

  describe("closes", function()
    --- Without those of other engines that are still to be collected.
    local function open_files()
      collectgarbage()
      collectgarbage()
      return process.open_files()
    end

    it("while calls are running", function()
      local before = open_files()
      local engine = open()
      for i = 1, 5 do
        engine:submit("GET", running.url .. "/sleep?seconds=300&id=" .. i, nil, nil, 60000)
      end
      engine:run(50)
      engine:close()
      assert.equal(before, process.open_files())
    end)

    it("with results that nobody took", function()
      local engine = open()
      engine:submit("GET", running.url .. "/ok", nil, nil, 60000)
      repeat until engine:run(1000) == 1
      engine:close()
    end)

    it("any number of times", function()
      local engine = open()
      engine:close()
      engine:close()
    end)

    it("and is a clear error to use afterwards", function()
      local engine = open()
      engine:close()
      local calls = {
        submit = { "GET", running.url .. "/ok", nil, nil, 1000 }, run = { 0 }, take = { 1 }, cancel = { 1 },
      }
      for method, arguments in pairs(calls) do
        local ok, message = pcall(engine[method], engine, (table.unpack or unpack)(arguments, 1, 5))
        assert.is_false(ok)
        assert.truthy(message:find("the engine is closed", 1, true), message)
      end
    end)

    it("when it is collected, with calls that are running", function()
      local before = open_files()
      for _ = 1, 5 do
        local engine = assert(core.engine { origin = running.url })
        engine:submit("GET", running.url .. "/sleep?seconds=300&id=1", nil, nil, 60000)
        engine:run(20)
      end
      assert.is_true(process.open_files() > before)
      assert.equal(before, open_files())
      assert.equal("ok", worked(get(open(), "/ok")).body)
    end)

    it("when the Lua state closes, with calls that are running", function()
      local output, status = process.run_lua(([[
        local core = require "integrations.core"
        engine = core.engine { origin = %q }
        engine:submit("GET", %q, nil, nil, 60000)
        engine:run(50)
        io.write "done"
      ]]):format(running.url, running.url .. "/sleep?seconds=300&id=1"))
      assert.same({ "done", 0 }, { output, status })
    end)
  end)

  describe("refuses", function()
    local BAD_HEADER = "a header is empty, or with bytes that no header may have"
    local headers = {
      ["a name with a line break"] = { ["X-A\r\nX-B"] = "1" },
      ["a name with a line feed"] = { ["X-A\nX-B"] = "1" },
      ["a name with a NUL byte"] = { ["X-A\0"] = "1" },
      ["a name with a colon"] = { ["X-A: 1\tX-B"] = "1" },
      ["a name with a space"] = { ["X A"] = "1" },
      ["a name with a semicolon"] = { ["X-A;"] = "1" },
      ["a name that is not ASCII"] = { ["X-Ä"] = "1" },
      ["an empty name"] = { [""] = "1" },
      ["a value with a line break"] = { ["X-A"] = "1\r\nX-B: 2" },
      ["a value with a carriage return"] = { ["X-A"] = "1\rX-B: 2" },
      ["a value with a line feed"] = { ["X-A"] = "1\nX-B: 2" },
      ["a value that ends in a line feed"] = { ["X-A"] = "1\n" },
      ["a value with a NUL byte"] = { ["X-A"] = "1\0002" },
      ["a value with another control character"] = { ["X-A"] = "1\127" },
      ["an empty value, which libcurl would take for the header's removal"] = { ["X-A"] = "" },
      ["a value of spaces, likewise"] = { ["X-A"] = "  " },
    }
    for title, given in pairs(headers) do
      it("a header: " .. title, function()
        local engine = open()
        local ok, message = pcall(engine.submit, engine, "GET", running.url .. "/ok", given, nil, 1000)
        assert.same({ false, BAD_HEADER }, { ok, message })
        assert.equal(0, engine:run(0))
        assert.equal("ok", worked(get(engine, "/ok")).body)
      end)
      it("a credential: " .. title, function()
        local ok, message = pcall(core.engine, { origin = running.url, credentials = given })
        assert.same({ false, (BAD_HEADER:gsub("header is", "credential is")) }, { ok, message })
      end)
    end

    it("headers that are no strings", function()
      for _, given in ipairs { { "x" }, { ["X-A"] = 1 }, { ["X-A"] = true }, { ["X-A"] = {} } } do
        local engine = open()
        local ok, message = pcall(engine.submit, engine, "GET", running.url .. "/ok", given, nil, 1000)
        assert.same({ false, "a header is not two strings" }, { ok, message })
      end
    end)

    it("headers and credentials that are no table", function()
      local engine = open()
      assert.is_false(pcall(engine.submit, engine, "GET", running.url .. "/ok", "X: y", nil, 1000))
      -- In a process of its own: reading what is no table as one ends the process.
      assert.same({ "refused", 0 }, { process.run_lua [[
        local core = require "integrations.core"
        for _, given in ipairs { "x", 1, true, print } do
          assert(not pcall(core.engine, { origin = "http://127.0.0.1:1", credentials = given }))
        end
        io.write "refused"
      ]] })
    end)

    it("options of the wrong type, instead of doing without them", function()
      for _, name in ipairs { "origin", "user_agent", "ca_file", "proxy" } do
        for _, value in ipairs { 1, true, {}, print, "a\0b" } do
          local given = { origin = running.url }
          given[name] = value
          assert.is_false(pcall(core.engine, given), name .. " = " .. type(value))
        end
      end
      for _, name in ipairs { "connect_timeout_ms", "max_connections", "max_head", "max_body" } do
        for _, value in ipairs { "x", true, {}, -1, 0 / 0, 1 / 0, 1e300 } do
          local given = { origin = running.url }
          given[name] = value
          assert.is_false(pcall(core.engine, given), name .. " = " .. tostring(value))
        end
      end
      assert.has_error(function() core.engine {} end)
      assert.has_error(function() core.engine() end)
    end)

    it("addresses that are not below its own", function()
      local port = running.port
      local engine = open()
      for _, url in ipairs {
        running.url,
        running.url .. ".evil/ok",
        running.url .. "@evil.invalid/ok",
        running.url .. ":x@evil.invalid/ok",
        running.url .. "1/ok",
        running.url .. "?/ok",
        running.url .. "#/ok",
        running.url .. "\\@evil.invalid/ok",
        "http://x@127.0.0.1:" .. port .. "/ok",
        "https://127.0.0.1:" .. port .. "/ok",
        "HTTP://127.0.0.1:" .. port .. "/ok",
        "http:/127.0.0.1:" .. port .. "/ok",
        " " .. running.url .. "/ok",
        "//127.0.0.1:" .. port .. "/ok",
        "127.0.0.1:" .. port .. "/ok",
        "http://localhost:" .. port .. "/ok",
        "http://evil.invalid/" .. running.url .. "/ok",
        "file:///etc/passwd",
        "",
      } do
        assert.same({ n = 2, nil, "the address is not below this client's base_url" },
          { n = 2, engine:submit("GET", url, nil, nil, 1000) }, url)
      end
      assert.equal(0, engine:run(0))
    end)

    it("addresses that leave the origin's folder", function()
      local engine = open { origin = running.url .. "/echo" }
      for _, path in ipairs { "/ok", "/echoes", "/echo", "/Echo/x" } do
        assert.is_nil((engine:submit("GET", running.url .. path, nil, nil, 1000)))
      end
      assert.truthy(finish(engine, engine:submit("GET", running.url .. "/echo/x", nil, nil, 60000)))
    end)

    it("addresses with line breaks, spaces or NUL bytes", function()
      local engine = open()
      for _, path in ipairs { "/echo\r\nX-A: 1", "/echo\nX-A: 1", "/echo HTTP/1.1", "/echo\t", "/echo\127" } do
        local id = engine:submit("GET", running.url .. path, nil, nil, 1000)
        local response, problem
        if id then response, problem = finish(engine, id) end
        assert.is_nil(response)
        assert.is_true(not problem or not problem.sent)
      end
      assert.is_false(pcall(engine.submit, engine, "GET", running.url .. "/ok\0", nil, nil, 1000))
    end)

    it("methods that are more than a word", function()
      local engine = open()
      for _, method in ipairs { "", "GET /evil", "GET\r\nX-A: 1", "GET\0", "GET ", "G:T" } do
        assert.is_false(pcall(engine.submit, engine, method, running.url .. "/ok", nil, nil, 1000), method)
      end
    end)

    it("calls without a time limit", function()
      local engine = open()
      for _, timeout in ipairs { 0, -1, 0.5, 0 / 0, -1 / 0 } do
        assert.is_false(pcall(engine.submit, engine, "GET", running.url .. "/ok", nil, nil, timeout))
      end
    end)

    it("to be another thing than an engine", function()
      local engine = open()
      for _, self in ipairs { {}, io.stdout, "x", 1 } do
        assert.is_false(pcall(engine.run, self, 0))
        assert.is_false(pcall(engine.close, self))
      end
      assert.equal("integrations.engine", getmetatable(engine))
    end)
  end)

  describe("sends a write once", function()
    --- Leaves as many idle connections as wanted that will die at their next request.
    local function warm(engine, count, path)
      -- Until libcurl knows that the server has no HTTP/2, it keeps calls waiting for one connection.
      assert.equal("ok", worked(get(engine, "/ok")).body)
      local ids = {}
      for i = 1, count do
        ids[i] = engine:submit("GET", running.url .. path, nil, nil, 60000)
      end
      for _, id in ipairs(ids) do
        assert.equal("ok", worked(finish(engine, id)).body)
      end
    end

    for _, path in ipairs { "/dying", "/dying?unread=1" } do
      for _, count in ipairs { 1, 3 } do
        local idle = ("GET "):rep(count)
        local title = (", though %d idle connections die under it (%s)"):format(count, path)

        for _, row in ipairs { { "POST", '{"a":1}' }, { "PATCH", ("x"):rep(300000) }, { "POST", "" }, { "DELETE" },
          { "PUT", "x" } } do
          it(("%s of %s bytes%s"):format(row[1], row[2] and #row[2] or "no", title), function()
            local engine = open()
            ledger()
            warm(engine, count, path)
            local response, problem = send(engine, row[1], path, nil, row[2])
            assert.is_nil(response)
            assert.is_true(problem.sent)
            assert.is_nil(problem.status)
            assert.equal(idle .. row[1], ledger())
          end)
        end

        it("but a GET once more" .. title, function()
          local engine = open()
          ledger()
          warm(engine, count, path)
          local response, problem = get(engine, path)
          assert.equal(idle .. "GET GET", ledger())
          if count == 1 then
            assert.equal("ok", response.body)
          else -- the rest is for the caller, who waits in between
            assert.same({ code = "CURLE_GOT_NOTHING", message = "no answer came, twice", sent = true }, problem)
          end
        end)
      end
    end

    it("and says why it did not send it again", function()
      local engine = open()
      warm(engine, 1, "/dying")
      local _, problem = send(engine, "DELETE", "/dying")
      assert.same({
        code = "CURLE_GOT_NOTHING",
        message = "no answer came; a write is not sent again",
        sent = true,
      }, problem)
    end)

    it("and goes on with the same handle", function()
      local engine = open()
      warm(engine, 1, "/dying")
      assert.is_nil((send(engine, "POST", "/dying", nil, "x")))
      local _, _, bytes = echo(engine, "POST", "/echo", nil, "next")
      assert.equal("next", (bytes:match "\r\n\r\n(.*)$"))
      assert.equal("ok", worked(get(engine, "/dying")).body)
    end)

    it("of HTTP/2, too", function()
      engines.origin = tls.url
      for _, row in ipairs { { "POST", "x" }, { "PATCH", ("x"):rep(100000) }, { "DELETE" } } do
        local engine = open_tls()
        get(engine, "/ledger")
        assert.equal("ok", worked(get(engine, "/ok")).body)
        local response, problem = send(engine, row[1], "/close", nil, row[2])
        assert.is_nil(response)
        assert.is_true(problem.sent)
        assert.equal(row[1], worked(get(open_tls(), "/ledger")).body)
      end
    end)
  end)

  describe("takes nothing from its surroundings:", function()
    local PROGRAM = [[
      local core = require "integrations.core"
      local engine = core.engine { origin = %q, proxy = %s }
      local id = engine:submit("GET", %q, nil, nil, 60000)
      local response, problem
      repeat
        engine:run(1000)
        response, problem = engine:take(id)
      until response ~= false
      io.write(response and response.body or problem.code)
    ]]

    local function run(origin, proxy, environment)
      local program = PROGRAM:format(origin, proxy and ("%q"):format(proxy) or "nil", origin .. "/echo")
      local output, status = process.run_lua(program, environment)
      assert.equal(0, status)
      return output
    end

    it("no proxy", function()
      local environment = {}
      for _, name in ipairs { "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY" } do
        environment[#environment + 1] = name .. "=http://127.0.0.1:1"
      end
      assert.truthy(run(running.url, nil, environment):find("GET /echo HTTP/1.1", 1, true))
    end)

    it("no exception from the proxy that it is given", function()
      -- nginx takes a whole address in the request line, as a proxy gets it.
      local expected = "GET http://127.0.0.1:1/echo HTTP/1.1"
      for _, environment in ipairs { {}, { "no_proxy=*" }, { "NO_PROXY=*" }, { "no_proxy=127.0.0.1" } } do
        local output = run("http://127.0.0.1:1", running.url, environment)
        assert.truthy(output:find(expected, 1, true), output)
      end
    end)

    it("no password file", function()
      process.write_file(folder:path ".netrc", "machine 127.0.0.1 login a password b\ndefault login a password b\n")
      local output = run(running.url, nil, { "HOME=" .. folder.folder, "NETRC=" .. folder:path ".netrc" })
      assert.truthy(output:find("GET /echo HTTP/1.1", 1, true))
      assert.is_nil(output:find("Authorization", 1, true))
    end)

    it("and leaves no connection to the programs that are started", function()
      local engine = open()
      get(engine, "/ok")
      local inherited = process.shell "ls -l /proc/self/fd"
      -- A line of a connection: number, local address, remote address, ..., the socket's number at last.
      local remote = (":%04X"):format(running.port)
      for line in process.shell "cat /proc/net/tcp":gmatch "[^\n]+" do
        local words = {}
        for word in line:gmatch "%S+" do words[#words + 1] = word end
        if words[3]:sub(-5) == remote then
          assert.is_nil(inherited:find("socket:[" .. words[10] .. "]", 1, true), line)
        end
      end
    end)
  end)

  describe("and processes:", function()
    local forking

    setup(function()
      forking = process.forking()
    end)

    local compiled = process.has_command "gcc" and it or pending

    --- Calls with an id of its own each; returns how many came back with another one.
    local function crossed(engine, url, name, count)
      local wrong = 0
      for i = 1, count do
        local id = name .. i
        local response = finish(engine, engine:submit("GET", url .. "/sleep?seconds=0&id=" .. id, nil, nil, 60000))
        if not response or response.body:match " (%S+)" ~= id then
          wrong = wrong + 1
        end
      end
      return wrong
    end

    --- Runs a function in a child; its result is the exit status.
    local function in_child(callback)
      local pid = forking.fork()
      if pid == 0 then
        local ok, status = pcall(callback)
        forking.exit(ok and status or 99)
      end
      return pid
    end

    local function server_of(name)
      return name == "HTTP" and running or name == "TLS" and tls_1 or tls
    end

    for _, name in ipairs { "HTTP", "TLS", "TLS with HTTP/2" } do
      compiled("after a fork parent and children get their own answers over " .. name, function()
        local url = server_of(name).url
        local engine = open_tls(server_of(name))
        assert.equal(0, crossed(engine, url, "before", 3))
        local children = {}
        for child = 1, 3 do
          children[child] = in_child(function()
            local wrong = crossed(engine, url, "child" .. child .. "-", 100)
            engine:close()
            return math.min(wrong, 98)
          end)
        end
        assert.equal(0, crossed(engine, url, "parent", 100))
        for _, pid in ipairs(children) do
          assert.equal(0, forking.wait(pid))
        end
        assert.equal(0, crossed(engine, url, "after", 3))
      end)

      compiled("a child ends what it has of its parent's calls, which stay the parent's, over " .. name, function()
        local url = server_of(name).url
        local deeds = {
          run = function(engine, id)
            if engine:run(0) ~= 1 then return 1 end
            local response, problem = engine:take(id)
            return response == nil and problem.sent
              and problem.message == "the call belongs to the process before the fork" and 0 or 2
          end,
          take = function(engine, id)
            local response, problem = engine:take(id)
            if response == false then response, problem = finish(engine, id) end
            return response == nil and problem.sent and 0 or 3
          end,
          cancel = function(engine, id) engine:cancel(id) end,
          close = function(engine) engine:close() end,
          collect = function() collectgarbage() end,
        }
        -- The child comes while the server still has the call.
        local function check(title, deed, scale)
          local engine = open_tls(server_of(name))
          local answer = ("/sleep?seconds=%g&id=x"):format(0.2 * scale)
          local id = engine:submit("POST", url .. answer, nil, "body", 60000)
          for _ = 1, 5 do engine:run(10 * scale) end
          local early = engine:take(id)
          if early ~= false then
            assert.truthy(early, title)
            return "the answer was there before the child"
          end
          local pid = in_child(function() return deed(engine, id) or 0 end)
          assert.equal(0, forking.wait(pid), title)
          local response, problem = finish(engine, id)
          assert.truthy(response, title .. ": " .. (problem and problem.message or ""))
          local connection, requests = response.body:match "^(%d+) x (%d+)$"
          -- The connection is as it was: nobody said goodbye on it.
          response, problem = finish(engine, engine:submit("POST", url .. "/sleep?seconds=0&id=y", nil, "body", 60000))
          assert.truthy(response, title .. ": " .. (problem and problem.message or ""))
          assert.equal(("%s y %d"):format(connection, requests + 1), response.body, title)
          engine:close()
        end
        for title, deed in pairs(deeds) do
          process.patiently(function(scale) return check(title, deed, scale) end)
        end
      end)
    end

    compiled("a child sees the whole of a response that its parent had received", function()
      local engine = open()
      local id = engine:submit("GET", running.url .. "/ok", nil, nil, 60000)
      repeat until engine:run(1000) == 1
      local pid = in_child(function()
        engine:run(0)
        local response = engine:take(id)
        return response.status == 200 and response.body == "ok" and 0 or 1
      end)
      assert.equal(0, forking.wait(pid))
      assert.equal("ok", worked(engine:take(id)).body)
    end)

    -- What was the parent's descriptor may be a file of the child's by then.
    compiled("a child that has closed all descriptors keeps the files that it opens", function()
      local close = system_calls.closing()
      local engine, path = open(), folder:path "daemon.log"
      assert.equal("ok", worked(get(engine, "/ok")).body)
      local pid = in_child(function()
        close(3, 255)
        local files = {}
        for i = 1, 20 do files[i] = assert(io.open(path, "a")) end
        if worked(get(engine, "/ok")).body ~= "ok" then return 1 end
        for i, file in ipairs(files) do
          if not (file:write(i, "\n") and file:flush()) then return 2 end
        end
        return 0
      end)
      assert.equal(0, forking.wait(pid))
      assert.equal(20, select(2, process.read_file(path):gsub("\n", "")))
    end)

    compiled("a connection that the server closes under a TLS write ends no process", function()
      local program = process.LOAD .. ([[
        process.default_sigpipe()
        local core = require "integrations.core"
        local url = %q
        local body = ("x"):rep(4e6)
        for i = 1, 10 do
          local engine = core.engine { origin = url, ca_file = %q }
          for _ = 1, 2 do
            local id = engine:submit("POST", url .. "/close", nil, body, 60000)
            local response, problem
            repeat
              engine:run(1000)
              response, problem = engine:take(id)
            until response ~= false
            assert(response == nil and problem.sent)
          end
          engine:close()
        end
        io.write "alive"
      ]]):format(tls.url, folder:path "authority.pem")
      assert.same({ "alive", 0 }, { process.run_lua(program) })
    end)
  end)

  describe("keeps its size", function()
    -- In a process of its own, where nothing else needs memory. One that is watched keeps what is freed, to see it
    -- used; what is never freed is reported at its end.
    local PROGRAM = [[
      local core = require "integrations.core"
      local process = require "support.process"
      local URL = %q
      local function open()
        return core.engine { origin = URL, credentials = { Authorization = "Bearer SG.test.canary" } }
      end
      local function send(engine, method, body)
        local id = engine:submit(method, URL .. "/ok", { ["X-A"] = "b" }, body, 60000)
        local response
        repeat
          engine:run(1000)
          response = engine:take(id)
        until response ~= false
        assert(response.body == "ok")
      end
      local kept = open()
      local function many(count)
        for i = 1, count do
          %s
        end
        collectgarbage()
        collectgarbage()
      end
      many(%d)
      local memory, files = process.memory(), process.open_files()
      many(%d)
      local grown = process.memory() - memory
      io.write((process.instrumented or grown < 512 * 1024) and "steady" or grown, " ", process.open_files() - files)
    ]]

    local function check(step, before, count)
      before, count = math.ceil(before / process.slowness), math.ceil(count / process.slowness)
      local output, status = process.run_lua(PROGRAM:format(running.url, step, before, count))
      assert.same({ 0, 0 }, { status, tonumber(output:match "^steady (%S+)$") }, output)
    end

    it("over many calls", function()
      check([[send(kept, i % 2 == 0 and "POST" or "GET", i % 2 == 0 and "body" or nil)]], 1000, 20000)
    end)

    it("over many engines", function()
      check([[
        local engine = open()
        send(engine, "GET")
        engine:close()
      ]], 100, 500)
    end)

    it("over many calls that fail", function()
      check([[
        local id = kept:submit("POST", URL .. "/raw?bytes=x", nil, "body", 60000)
        repeat
          kept:run(1000)
          local response, problem = kept:take(id)
        until problem
        kept:submit("GET", "http://elsewhere.invalid/", { ["X-A"] = "b" }, "body", 60000)
        pcall(kept.submit, kept, "GET", URL .. "/ok", { ["X-A"] = "b", ["X-B"] = 1 }, "body", 60000)
        kept:cancel(kept:submit("POST", URL .. "/ok", { ["X-A"] = "b" }, "body", 60000))
      ]], 200, 1000)
    end)
  end)

  describe("after a burst of calls", function()
    -- Bytes that are in use and were not before: of the heap, which does not depend on where in it they are.
    local PROGRAM = process.LOAD .. [[
      local core = require "integrations.core"
      local engine = core.engine { origin = %q, background = %s, max_connections = 16 }
      local function burst(count)
        local ids = {}
        for i = 1, count do ids[i] = assert(engine:submit("GET", %q, nil, nil, 60000)) end
        for _, id in ipairs(ids) do
          local response, problem = engine:take(id)
          while response == false do
            if engine:run(100) == 0 then core.sleep(0.001) end
            response, problem = engine:take(id)
          end
          assert(response, problem and problem.message)
        end
      end
      burst(20)
      collectgarbage()
      collectgarbage()
      local before = process.allocated()
      burst(%d)
      collectgarbage()
      collectgarbage()
      io.write(("%%.0f kB"):format((process.allocated() - before) / 1024))
    ]]

    local compiled = process.forking() and it or pending

    for _, place in ipairs { "foreground", "background" } do
      compiled("gives most of the memory back that it took, in the " .. place, function()
        local output, status = process.run_lua(PROGRAM:format(running.url, tostring(place == "background"),
          running.url .. "/ok", 3000 / process.slowness))
        assert.equal(0, status, output)
        local kept = tonumber(output:match "^(%-?%d+) kB$")
        -- One that is watched keeps what is freed.
        assert.is_true(process.instrumented ~= nil or kept < 4096, output)
      end)
    end
  end)

  describe("where the system refuses once, says so and goes on:", function()
    local PROGRAM = [[
      local core = require "integrations.core"
      local engine
      local function call()
        local message, id, response, problem
        if not engine then
          engine, message = core.engine { origin = %q, background = %s }
          if not engine then return message end
        end
        id, message = engine:submit("GET", %q, nil, nil, 60000)
        if not id then return message end
        repeat
          if engine:run(100) == 0 then core.sleep(0.001) end
          response, problem = engine:take(id)
        until response ~= false
        return response and response.body or problem.message
      end
      local first, second, third = call(), call(), call()
      io.write(first, ", ", second, ", ", third)
    ]]

    local NO_POLLER = "the system has no epoll descriptor left"
    local NO_THREAD = "the background thread could not be started"
    local NOT_WATCHED = "the system could not watch a socket"
    local rows = {
      { "foreground", "epoll_create1 1", NO_POLLER },
      { "foreground", "epoll_ctl 1", NOT_WATCHED },
      { "foreground", "epoll_ctl 2", NOT_WATCHED, somewhere = true },
      { "background", "epoll_create1 1", NO_POLLER },
      { "background", "eventfd 1", NO_THREAD },
      { "background", "pthread_create 1", NO_THREAD },
      { "background", "epoll_ctl 1", NO_THREAD }, -- of what wakes it
      { "background", "epoll_ctl 2", NOT_WATCHED },
      { "background", "epoll_ctl 3", NOT_WATCHED, somewhere = true },
    }
    local compiled = process.has_command "gcc" and it or pending

    for _, row in ipairs(rows) do
      local place, failing, message = row[1], row[2], row[3]
      compiled(("%s, in the %s"):format(failing, place), function()
        local program = PROGRAM:format(running.url, tostring(place == "background"), running.url .. "/ok")
        local output, status = process.run_lua(program, system_calls.failing(failing))
        -- How often libcurl has a socket watched anew is its own affair: in which call the refusal falls, if in any.
        if row.somewhere then output = output:gsub(message, "ok", 1):gsub("^ok", message) end
        assert.same({ message .. ", ok, ok", 0 }, { output, status })
      end)
    end
  end)

  describe("among many engines", function()
    -- Calls that find nobody: where a server answers, it counts on which processor it runs. The best of a few turns,
    -- since the machine may be busy.
    local PROGRAM = [[
      local core = require "integrations.core"
      local URL = "http://127.0.0.1:1"
      local function call(engine)
        local id = assert(engine:submit("GET", URL .. "/", nil, nil, 60000))
        repeat engine:run(1000) until engine:take(id) ~= false
      end
      local engine, resting = core.engine { origin = URL }, {}
      local function cost()
        collectgarbage()
        local best = math.huge
        for _ = 1, %d do
          local begun = os.clock()
          for _ = 1, 50 do call(engine) end
          best = math.min(best, os.clock() - begun)
        end
        return best
      end
      cost()
      local alone = cost()
      for i = 1, %d do
        resting[i] = assert(core.engine { origin = URL })
        call(resting[i])
      end
      io.write(("%%.1f times"):format(cost() / alone))
    ]]

    -- libcurl has up to two descriptors for each.
    local function count()
      local limit = tonumber(process.shell "ulimit -n":match "^%d+") or 1000000
      return math.floor(math.min(1000, (limit - 200) / 2) / process.slowness)
    end

    it("that rest, a call costs what it does alone", function()
      process.patiently(function(scale)
        local output, status = process.run_lua(PROGRAM:format(5 * scale, count()))
        assert.equal(0, status, output)
        return tonumber(output:match "^[%d.]+") >= 3 and output or nil
      end)
    end)
  end)

  -- Reading a result allocates, which runs finalizers: this one came to a freed response.
  it("may be closed by a finalizer while a result is read", function()
    local function leave_garbage(finalizer)
      local newproxy = rawget(_G, "newproxy") -- 5.1 and LuaJIT know no __gc of tables
      if newproxy then
        getmetatable(newproxy(true)).__gc = finalizer
      else
        setmetatable({}, { __gc = finalizer })
      end
    end
    local closed = 0
    for _ = 1, 100 do
      local engine = open()
      local id = engine:submit("GET", running.url .. "/large?size=1000", nil, nil, 60000)
      repeat until engine:run(1000) == 1
      collectgarbage()
      collectgarbage "stop"
      leave_garbage(function()
        engine:close()
        closed = closed + 1
      end)
      collectgarbage "restart"
      local ok, response = pcall(engine.take, engine, id)
      assert.is_true(not ok or response.status == 200)
    end
    collectgarbage()
    assert.is_true(closed > 0)
  end)

  it("reads its options raw: what a metamethod makes belongs to nobody", function()
    local options = setmetatable({}, { __index = function() return "http://127.0.0.1" end })
    assert.error_matches(function() core.engine(options) end, "'origin' is required")
  end)
end)
