package.path = "./spec/?.lua;" .. package.path

local cjson = require("cjson.safe").new()
local nginx = require "support.nginx"
local process = require "support.process"
local server = require "integrations.emulator.server"

local KEY = "-H 'Authorization: Bearer SG.emulator.full' "
local VALID = '{"destination":"Segment","filters":{"email_events":[]},'
  .. '"properties":{"write_key":"a123456","destination_region":"US"}}'
local PATH = "/v3/marketing/integrations"

local function shell(command)
  local pipe = assert(io.popen("{ " .. command .. "\n} 2>&1"))
  local output = pipe:read("*a")
  pipe:close()
  return output
end

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

--- What curl prints for a URL: the body, then a line with the status.
local function curl(arguments)
  local output = shell("curl -s --noproxy '*' -w '\\n%{http_code}' " .. arguments)
  local body, status = output:match("^(.*)\n(%d+)$")
  return tonumber(status), body
end

local function is_folder(path)
  return shell("test -d " .. quote(path) .. " && echo yes") == "yes\n"
end

local function has_command(name)
  return shell("command -v " .. name) ~= ""
end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

--- A command that runs the Lua of this spec with the same search paths; `prefix` is a command that runs commands.
local function lua(arguments, prefix)
  return ("LUA_PATH=%s LUA_CPATH=%s %s %s %s"):format(
    quote(package.path), quote(package.cpath), prefix or "", quote(process.interpreter()), arguments)
end

describe("the emulator's server", function()
  local started, scratch

  before_each(function()
    started = {}
    scratch = shell "mktemp -d":match("[^\n]+")
  end)

  after_each(function()
    for _, running in ipairs(started) do running:stop() end
    shell("rm -rf " .. quote(scratch))
  end)

  local function start(options)
    local running = assert(server.start(options))
    started[#started + 1] = running
    return running
  end

  it("serves the emulator on a port of 127.0.0.1", function()
    local running = start()
    assert.equal("http://127.0.0.1:" .. running.port, running.url)
    assert.same({ 200, '{"status":"ok"}' }, { curl(running.url .. "/_emulator/health") })
    assert.same({ 200, '{"result":[]}' }, { curl(KEY .. running.url .. PATH) })
    assert.same({ 401, '{"errors":[{"field":null,"message":"authorization required"}]}' },
      { curl(running.url .. PATH) })
  end)

  it("keeps one state for all connections", function()
    local running = start()
    local post = KEY .. "-H 'Content-Type: application/json' -d " .. quote(VALID) .. " " .. running.url .. PATH
    local expected = '{"destination":"Segment","filters":{"email_events":[]},"integration_id":"5a1234",'
      .. '"label":"Untitled Integration","properties":{"destination_region":"US","write_key":"a123456"},'
      .. '"user_id":"12345"}'
    assert.same({ 201, expected }, { curl(post) })
    assert.same({ 200, expected }, { curl(KEY .. running.url .. PATH .. "/5a1234") })
    local patch = "-X PATCH -H 'Content-Type: application/json' -d '{\"label\":\"x\"}' "
    assert.equal(200, (curl(KEY .. patch .. running.url .. PATH .. "/5a1234")))
    assert.same({ 204, "" }, { curl(KEY .. "-X DELETE '" .. running.url .. PATH .. "?ids=5a1234'") })
    assert.same({ 200, '{"result":[]}' }, { curl(KEY .. running.url .. PATH) })
  end)

  it("answers with the emulator's headers and no others", function()
    local running = start()
    local function headers(arguments)
      local names = {}
      for name in shell("curl -s -o /dev/null -D - " .. KEY .. arguments):gmatch("\n([%w-]+):") do
        names[name:lower()] = true
      end
      return names
    end
    local always = { server = true, date = true, connection = true }
    assert.same(always, headers("-X DELETE '" .. running.url .. "/_emulator/reset' -X POST"))
    always["content-type"], always["content-length"] = true, true
    assert.same(always, headers(running.url .. PATH))
    always.allow = true
    assert.same(always, headers("-X PUT " .. running.url .. PATH))
  end)

  it("passes the bytes of the URL on as they came", function()
    local running = start()
    for target, expected in pairs {
      ["/%2e%2e"] = '{"errors":[{"message":"integration does not exist (..)"}]}',
      ["/a%2Fb"] = '{"errors":[{"message":"integration does not exist (a/b)"}]}',
      ["//a"] = '{"errors":[{"message":"not found"}]}',
    } do
      assert.same({ 404, expected }, { curl(KEY .. "--path-as-is '" .. running.url .. PATH .. target .. "'") })
    end
    local status, body = curl(KEY .. "-g -X DELETE '" .. running.url .. PATH .. "?ids[]=a&ids[]=b'")
    assert.equal(400, status)
    assert.equal('{"errors":[{"message":"ids must be one comma-delimited parameter","parameter":"ids"}]}', body)
  end)

  it("answers a body that is too large like the service, not like nginx", function()
    local running = start()
    for _, size in ipairs { 1024 * 1024 + 1, 3 * 1024 * 1024 } do
      write(scratch .. "/body", ("x"):rep(size))
      local status, body = curl(KEY .. "-H 'Content-Type: application/json' --data-binary @"
        .. quote(scratch .. "/body") .. " " .. running.url .. PATH)
      assert.same({ 413, '{"errors":[{"field":null,"message":"request body too large"}]}' }, { status, body })
    end
  end)

  it("is controlled over HTTP", function()
    local running = start()
    local control = running.url .. "/_emulator/"
    assert.same({ 204, "" }, { curl("-d '{\"status\":429,\"times\":2}' " .. control .. "respond-next") })
    assert.same({ 429, '{"errors":[{"field":null,"message":"too many requests"}]}' },
      { curl(KEY .. running.url .. PATH) })
    local headers = shell("curl -si " .. KEY .. running.url .. PATH)
    assert.truthy(headers:lower():find("\nx-ratelimit-remaining: 0\r\n", 1, true))
    local status, body = curl(control .. "requests")
    local requests = cjson.decode(body)
    assert.same({ 200, 2 }, { status, #requests })
    assert.equal(running.url .. PATH, requests[1].url)
    assert.equal("127.0.0.1:" .. running.port, requests[1].headers.host)
    assert.is_nil(requests[1].headers.authorization)
    assert.is_nil(body:find("SG.emulator", 1, true))
    assert.same({ 204, "" }, { curl("-X POST " .. control .. "reset") })
    assert.same({ 200, "[]" }, { curl(control .. "requests") })
  end)

  it("hands the emulator its options", function()
    local running = start { options = {
      quota = 0, keys = { ["SG.\"quoted\"\\"] = { user_id = "7" } }, subusers = { "alice" },
    } }
    assert.equal(401, (curl(KEY .. running.url .. PATH)))
    local key = "-H 'Authorization: Bearer SG.\"quoted\"\\' "
    assert.equal(200, (curl(key .. "-H 'On-Behalf-Of: alice' " .. running.url .. PATH)))
    assert.equal(403, (curl(key .. "-H 'On-Behalf-Of: bob' " .. running.url .. PATH)))
    local status, body = curl(key .. "-H 'Content-Type: application/json' -d " .. quote(VALID) .. " "
      .. running.url .. PATH)
    assert.same({ 403, '{"errors":[{"message":"the maximum number of integrations is reached (0)"}]}' },
      { status, body })
  end)

  it("serves segments and Rocket.Chat, too, with their options", function()
    local running = start { options = {
      pending_reads = 0, segments_list_shape = "flat", free_user = true,
      rocketchat_users = { ["it's me"] = { ["a token"] = { permissions = { "manage-incoming-integrations" } } } },
      rocketchat_wording = "older", rocketchat_rate_limit = 3, two_factor = { method = "totp", code = "1" },
    } }
    local json = "-H 'Content-Type: application/json' -d "
    local segments = running.url .. "/v3/marketing/segments/2.0"
    assert.equal(201, (curl(KEY .. json .. quote '{"name":"a","query_dsl":"b"}' .. " " .. segments)))
    local status, body = curl(KEY .. segments)
    local segment = cjson.decode(body)
    assert.same({ 200, "a", "INVALID" }, { status, segment.name, segment.status.query_validation })
    assert.equal(403, (curl(KEY .. json .. quote '{"user_time_zone":"UTC"}' .. " " .. segments .. "/refresh/"
      .. segment.id)))
    assert.same({ 202, "" }, { curl(KEY .. "-X DELETE " .. segments .. "/" .. segment.id) })

    local me = '-H "X-User-Id: it\'s me" -H "X-Auth-Token: a token" '
    local create = running.url .. "/api/v1/integrations.create"
    status, body = curl(me .. json .. "'{}' " .. create)
    assert.same({ 400, "totp-required" }, { status, cjson.decode(body).errorType })
    assert.same({ 400, '{"error":"Match error: Missing key \'type\'","success":false}' },
      { curl(me .. "-H 'X-2FA-Code: 1' " .. json .. "'{}' " .. create) })
    local headers = shell("curl -si " .. me .. running.url .. "/api/v1/integrations.list"):lower()
    assert.truthy(headers:find("\nx-ratelimit-remaining: 2\r\n", 1, true), headers)
    assert.truthy(headers:find("\nx%-ratelimit%-reset: %d+000\r\n"), headers)
    body = select(2, curl(running.url .. "/_emulator/requests"))
    assert.is_nil(body:find("a token", 1, true))
    assert.is_nil(body:find("2fa-code", 1, true))
  end)

  it("takes configuration of one's own", function()
    local running = start {
      locations = "location = /own { return 200 $upstream_name; }",
      servers = 'map $uri $upstream_name { default "own text"; }',
    }
    assert.same({ 200, "own text" }, { curl(running.url .. "/own") })
    assert.equal(200, (curl(KEY .. running.url .. PATH)))
  end)

  it("takes a port, and says when it is taken", function()
    local first = start()
    local running, message = server.start { port = first.port }
    assert.is_nil(running)
    assert.truthy(message:find("^nginx does not start: %[emerg%].*bind"), message)
    assert.equal(200, (curl(first.url .. "/_emulator/health")))
    first:stop()
    local second = start { port = first.port }
    assert.equal(first.url, second.url)
  end)

  it("stops completely, and twice does no harm", function()
    local running = start()
    local pid = shell("cat " .. quote(running.folder .. "/nginx.pid")):match("%d+")
    assert.equal("", shell("kill -0 " .. pid))
    assert.equal(true, running:stop())
    -- Where nobody collects it, the process remains as a zombie (Z), without port and files.
    local remains = shell(("kill -0 %s 2>/dev/null && grep ^State: /proc/%s/status"):format(pid, pid))
    assert.truthy(remains == "" or remains:find("^State:%s*Z"), remains)
    assert.is_false(is_folder(running.folder))
    assert.equal(0, (curl(running.url .. "/_emulator/health")))
    assert.equal(true, running:stop())
  end)

  it("stops one server and leaves the others alone", function()
    local first, second = start(), start()
    first:stop()
    assert.equal(200, (curl(second.url .. "/_emulator/health")))
  end)

  it("cleans up after an nginx that has died by itself", function()
    local running = start()
    shell("kill -9 $(cat " .. running.folder .. "/nginx.pid)")
    assert.equal(true, running:stop())
    assert.is_false(is_folder(running.folder))
  end)

  it("refuses options that cannot be written down", function()
    local running, message = server.start { options = { keys = print } }
    assert.is_nil(running)
    assert.equal("the emulator's options cannot hold a function", message)
  end)

  if _VERSION ~= "Lua 5.1" then
    it("stops when it is collected", function()
      local folder = server.start().folder
      assert.is_true(is_folder(folder))
      collectgarbage()
      collectgarbage()
      assert.is_false(is_folder(folder))
    end)
  end

  describe("with another nginx", function()
    local getenv = os.getenv
    local chosen, replaced

    before_each(function()
      replaced = stub(os, "getenv")
      replaced.invokes(function(name)
        if name == "INTEGRATIONS_NGINX" then return chosen end
        return getenv(name)
      end)
    end)

    after_each(function() replaced:revert() end)

    --- An nginx that does something of its own before it becomes the real one.
    local function choose(script)
      chosen = scratch .. "/an nginx's name"
      write(chosen, "#!/bin/sh\nPATH=$PATH:/usr/sbin\n" .. script .. '\nexec nginx "$@"\n')
      shell("chmod +x " .. quote(chosen))
    end

    it("says that nginx is missing", function()
      chosen = "/nonexistent/nginx"
      assert.same({ n = 2, nil, "INTEGRATIONS_NGINX=/nonexistent/nginx does not run; "
        .. "nginx is missing (apt install nginx libnginx-mod-http-lua)" }, { n = 2, server.start() })
    end)

    it("says that nginx's Lua module is missing", function()
      choose '[ "$1" = -V ] && echo --prefix=/nonexistent && exit'
      assert.same({ n = 2, nil, "nginx has no Lua module (apt install nginx libnginx-mod-http-lua)" },
        { n = 2, server.start() })
    end)

    it("tries other ports while they are taken", function()
      -- The stand-in notes the ports and calls the first two taken.
      choose(([[
        if [ "$1" != -V ]; then
          sed -n 's/^ *listen //p' "$2/nginx.conf" >>%s
          [ $(wc -l <%s) -le 2 ] && echo 'nginx: [emerg] bind() failed (98: Address already in use)' && exit 1
        fi]]):format(quote(scratch .. "/ports"), quote(scratch .. "/ports")))
      local running = start()
      local seen, last = {}, nil
      for port in io.lines(scratch .. "/ports") do
        assert.is_nil(seen[port])
        seen[port], last = true, port
      end
      assert.equal("http://" .. last:match("[^;]+"), running.url)
      assert.equal(200, (curl(running.url .. "/_emulator/health")))
    end)
  end)

  describe("with TLS", function()
    local function certificate()
      local made = shell("cd " .. quote(scratch) .. " && openssl req -x509 -newkey ec -pkeyopt "
        .. "ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 "
        .. "-keyout key.pem -out cert.pem")
      assert(io.open(scratch .. "/cert.pem"), made):close()
      return { certificate = scratch .. "/cert.pem", key = scratch .. "/key.pem" }
    end
    local openssl = has_command "openssl" and it or pending

    openssl("speaks https", function()
      local running = start { tls = certificate() }
      assert.equal("https://127.0.0.1:" .. running.port, running.url)
      local trust = "--cacert " .. quote(scratch .. "/cert.pem") .. " "
      assert.same({ 200, '{"result":[]}' }, { curl(trust .. KEY .. running.url .. PATH) })
      assert.equal(0, (curl(KEY .. running.url .. PATH)))
      local _, body = curl(trust .. running.url .. "/_emulator/requests")
      assert.equal(running.url .. PATH, cjson.decode(body)[1].url)
    end)

    openssl("speaks the protocols it is told", function()
      local tls = certificate()
      tls.protocols = "TLSv1.2"
      local running = start { tls = tls }
      assert.equal(200, (curl("-k " .. running.url .. "/_emulator/health")))
      assert.equal(0, (curl("-k --tlsv1.3 " .. running.url .. "/_emulator/health")))
    end)

    openssl("speaks HTTP/2", function()
      local running = start { tls = certificate(), http2 = true }
      local url = running.url .. PATH
      local post = "-k --http2 -H 'Content-Type: application/json' -d " .. quote(VALID) .. " " .. KEY .. url
      assert.equal(201, (curl(post)))
      local status, body = curl("-k --http2 " .. KEY .. url .. "/5a1234")
      assert.same({ 200, "5a1234" }, { status, cjson.decode(body).integration_id })
      assert.equal("204 2", shell("curl -sk --http2 -w '%{http_code} %{http_version}' -X DELETE "
        .. KEY .. quote(url .. "?ids=5a1234")))
      local _, ledger = curl("-k --http2 " .. running.url .. "/_emulator/requests")
      assert.equal(url, cjson.decode(ledger)[1].url)
    end)
  end)

  describe("in a process of its own", function()
    --- Runs Lua code with another folder for temporary files, or as somebody else; returns what it printed.
    local function run(code, folder, prefix)
      write(scratch .. "/program.lua", 'local server = require "integrations.emulator.server"\n' .. code)
      return shell(("TMPDIR=%s %s"):format(quote(folder or "/tmp"), lua(quote(scratch .. "/program.lua"), prefix)))
    end

    local SERVE = [[
      local running, message = server.start()
      if not running then print(message) return end
      io.write(running.folder, "\n")
      io.stdout:flush()
      os.execute("curl -s " .. running.url .. "/_emulator/health")
      running:stop()
    ]]

    it("works in a folder with a difficult name", function()
      local folder = scratch .. "/it's \"one\" folder"
      shell("mkdir " .. quote(folder))
      local output = run(SERVE, folder)
      assert.equal(folder .. "/integrations-emulator.", output:match("^(.-%.)%w+\n"), output)
      assert.equal('{"status":"ok"}', output:match("\n(.*)$"))
      assert.equal("", shell("ls -A " .. quote(folder)))
    end)

    it("leaves nothing behind when nginx does not start", function()
      shell("mkdir " .. quote(scratch .. "/folder"))
      local output = run('print(server.start { locations = "nonsense on;" })', scratch .. "/folder")
      assert.truthy(output:find('^nil%s+nginx does not start: %[emerg%] unknown directive "nonsense"'), output)
      assert.equal("", shell("ls -A " .. quote(scratch .. "/folder")))
    end)

    it("says when there is no place for its files", function()
      local output = run("print(server.start())", scratch .. "/nowhere")
      assert.truthy(output:find("^nil%s+no temporary folder: mktemp: "), output)
    end)

    local drop = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    local is_root = shell "id -u" == "0\n" and shell(drop .. " id -u") == "65534\n"
    local ordinary = is_root and it or pending
    ordinary("works for an ordinary user", function()
      -- From a copy: a checkout below root's home is none that everybody can read.
      shell(("chmod 755 %s; cp -r lua %s"):format(quote(scratch), quote(scratch .. "/lua")))
      local path = package.path
      package.path = ("%s/lua/?.lua;%s/lua/?/init.lua;"):format(scratch, scratch) .. path
      local output = run(SERVE, nil, drop)
      package.path = path
      assert.equal('{"status":"ok"}', output:match("\n(.*)$"))
    end)
  end)

  describe("as a program", function()
    local PROGRAM = quote(debug.getinfo(server.start, "S").source:match("^@(.*)server%.lua$") .. "command.lua")

    it("explains itself", function()
      local output = shell(lua(PROGRAM .. " --help; echo $?"))
      assert.truthy(output:find("^usage: integrations%-emulator %[%-%-port N%] %[%-%-quota N%] %[%-%-help%]\n"))
      assert.truthy(output:find("\n0\n$"))
    end)

    for arguments, message in pairs {
      ["--nonsense"] = "unknown argument --nonsense",
      ["--port"] = "--port needs a whole number from 1 to 65535",
      ["--port 0"] = "--port needs a whole number from 1 to 65535",
      ["--quota -1"] = "--quota needs a whole number from 0 to 1000000",
    } do
      it("refuses " .. arguments, function()
        local output = shell(lua(PROGRAM .. " " .. arguments .. "; echo $?"))
        assert.equal("integrations-emulator: " .. message, output:match("^[^\n]*"))
        assert.truthy(output:find("\n2\n$"))
      end)
    end

    local SERVE = "{ setsid --wait env --default-signal=INT sh -c %s; echo $?; } >%s 2>&1 </dev/null &"

    local function file(name)
      return process.read_file(scratch .. "/" .. name) or ""
    end

    --- Runs the program in the background, with a process group of its own, until it has told its URL.
    local function serve(arguments)
      local program = ("echo $$ >%s; exec env %s"):format(quote(scratch .. "/pid"), lua(PROGRAM .. " " .. arguments))
      shell(SERVE:format(quote(program), quote(scratch .. "/out")))
      nginx.eventually(function() return file "out":find "Ctrl%-C" end)
      return assert(file "out":match "emulator: (%S+)\n", file "out"), file "out", file "pid":match "%d+"
    end

    --- Whether it waits for the key already: its shell naps meanwhile.
    local function is_waiting(pid)
      for _, below in ipairs(process.below(pid)) do
        if process.read_file(("/proc/%s/comm"):format(below)) == "sleep\n" then return true end
      end
    end

    local function gone(url)
      return nginx.eventually(function() return curl(url .. "/_emulator/health") == 0 end)
    end

    it("serves, and stops when it is killed", function()
      local url, text, pid = serve "--quota 0"
      assert.equal(("emulator: %s\n"
        .. "serves:   SendGrid's Integrations, SendGrid's Segments 2.0, Rocket.Chat's integrations\n"
        .. "SendGrid: keys SG.emulator.full (everything), SG.emulator.read (GET only)\n"
        .. "Rocket.Chat: user id emulator, tokens RC.emulator.full (everything), RC.emulator.none (nothing)\n"
        .. "example:  curl -H 'Authorization: Bearer SG.emulator.full' %s/v3/marketing/integrations\n"
        .. "Ctrl-C stops it.\n"):format(url, url), text)
      assert.same({ 200, '{"result":[]}\n' }, { curl(text:match("curl (%-H [^\n]+)") .. " -w '\\n\\n%{http_code}'") })
      assert.equal(403, (curl(KEY .. "-H 'Content-Type: application/json' -d " .. quote(VALID) .. " " .. url .. PATH)))
      shell("kill -9 " .. pid)
      assert.is_true(gone(url))
    end)

    it("stops at Ctrl-C", function()
      local url, _, group = serve ""
      assert.is_true(nginx.eventually(function() return is_waiting(group) end))
      shell("kill -INT -" .. group)
      assert.truthy(nginx.eventually(function() return file "out":find "Ctrl%-C stops it%.\n.-\n?%d+\n$" end))
      assert.equal("0", file "out":match "(%d+)\n$")
      assert.equal(0, (curl(url .. "/_emulator/health")))
    end)
  end)
end)
