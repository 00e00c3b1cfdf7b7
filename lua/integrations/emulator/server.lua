--- Serves the emulator over real HTTP: a private nginx with its Lua module, on a free port of 127.0.0.1.
--
-- Starting and stopping need nothing but a POSIX shell. Everything nginx writes stays in a temporary folder of its own,
-- and nothing from /etc/nginx is read. A single process holds the emulator, so there is one state.

local server = {}

local MISSING_NGINX = "nginx is missing (apt install nginx libnginx-mod-http-lua)"
local MISSING_LUA = "nginx has no Lua module (apt install nginx libnginx-mod-http-lua)"
local MISSING_CJSON = "nginx finds no lua-cjson for LuaJIT (apt install lua-cjson)"

--- Where nginx is looked for. The sbin folders are not in everybody's PATH.
local BINARIES = {
  "nginx", "openresty", "/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/local/openresty/bin/openresty",
}

--- The two files of nginx's Lua module, in loading order. OpenResty has them built in.
local MODULES = { "ndk_http_module.so", "ngx_http_lua_module.so" }

--- Modules of nginx that want a folder for temporary files; a build may lack any but the first.
local TEMPORARY_FOLDERS = { "client_body", "proxy", "fastcgi", "uwsgi", "scgi" }

--- Below the range from which systems take ports for outgoing connections.
local FIRST_PORT, PORT_COUNT = 20000, 12000
local PORT_ATTEMPTS = 5

-- master_process off: one process, so one state, and root stays root, who can read the folder.
local CONFIGURATION = [[
daemon on;
master_process off;
pid ${pid};
error_log ${log} error;
${modules}
events {
  worker_connections 4096;
}
http {
  access_log off;
  server_tokens off;
  default_type "";
  keepalive_timeout 65s;
  keepalive_requests 1000000;
  client_body_buffer_size 2m;
  client_max_body_size 64m;
${temporary}
  lua_package_path ${package_path};
  lua_package_cpath ${package_cpath};
  init_by_lua_block { require "integrations_emulator_instance" }
${servers}
  server {
    listen ${listen};
${tls}
${locations}
    location / {
      content_by_lua_block { require("integrations_emulator_instance")() }
    }
  }
}
]]

--- The Lua module that nginx loads once: the emulator lives in its upvalue.
local INSTANCE = [[
local emulator = require("integrations.emulator").new(%s)
local server = require "integrations.emulator.server"
return function() return server.respond(emulator) end
]]

-- NGINX in the environment would make nginx look for inherited sockets instead of opening its own, and LUA_CPATH may
-- lead to modules that were compiled for this program's version of Lua.
local START = [[
unset NGINX LUA_CPATH
"$1" -p "$2/" -c "$2/nginx.conf" >"$2/start.log" 2>&1 </dev/null || { cat "$2/start.log"; exit 1; }
tries=0
while [ ! -s "$2/nginx.pid" ]; do
  tries=$((tries + 1))
  [ "$tries" -gt 500 ] && { cat "$2/error.log"; exit 1; }
  sleep 0.01
done
]]

-- A process counts as gone once it is a zombie: in a container nobody may ever collect it. The command line guards
-- against a number that meanwhile belongs to somebody else.
local ALIVE = [[
alive() {
  kill -0 "$pid" 2>/dev/null || return 1
  [ -r "/proc/$pid/cmdline" ] || return 0
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$1/nginx.conf"
}
pid=$(cat "$1/nginx.pid" 2>/dev/null)
]]

local STOP = ALIVE .. [[
if [ -n "$pid" ]; then
  alive "$1" && kill -TERM "$pid"
  tries=0
  while alive "$1"; do
    tries=$((tries + 1))
    [ "$tries" -eq 500 ] && kill -KILL "$pid"
    [ "$tries" -gt 1000 ] && exit 1
    sleep 0.01
  done
fi
rm -rf "$1"
]]

-- Runs in the foreground, so that the interrupt key reaches it, and stops nginx afterwards. It does so as well when the
-- Lua process that waits for it is killed.
local WAIT = ALIVE .. [[
interrupted=
trap 'interrupted=1' INT TERM HUP
while [ -z "$interrupted" ] && alive "$1" && kill -0 "$PPID" 2>/dev/null; do
  sleep 1 &
  wait $!
done
]] .. STOP

-- The shell -----------------------------------------------------------------------------------------------------------

local function shell_quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function shell_command(script, ...)
  local words = { "sh", "-c", shell_quote(script), "sh" }
  for _, word in ipairs { ... } do words[#words + 1] = shell_quote(word) end
  return table.concat(words, " ")
end

--- Runs a script with arguments; returns whether it succeeded, and what it wrote. The exit status travels in the text,
--- because what `close` tells about it differs between the versions of Lua.
local function run(script, ...)
  local pipe = assert(io.popen(shell_command(script, ...) .. " 2>&1; printf '\\n%d\\n' $?"))
  local output = pipe:read("*a")
  pipe:close()
  local text, status = output:match("^(.-)\n?\n(%d+)\n$")
  return status == "0", text or output
end

local function write_file(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end

local function absolute(path)
  if path:sub(1, 1) == "/" then return path end
  local ok, folder = run("pwd")
  if not ok then error("the current folder is gone", 0) end
  return folder .. "/" .. path
end

-- nginx ---------------------------------------------------------------------------------------------------------------

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

--- The binary and what it says about its build.
local function find_nginx()
  local chosen = os.getenv "INTEGRATIONS_NGINX"
  for _, binary in ipairs(chosen and { chosen } or BINARIES) do
    local ok, build = run('"$1" -V', binary)
    if ok then return { binary = binary, build = build } end
  end
  return nil, chosen and ("INTEGRATIONS_NGINX=%s does not run; %s"):format(chosen, MISSING_NGINX) or MISSING_NGINX
end

local function build_option(build, name)
  return build:match("%-%-" .. name:gsub("%-", "%%-") .. "=([^%s']+)")
end

local function module_folder(build)
  local folder = build_option(build, "modules-path")
  local prefix = build_option(build, "prefix") or "/usr/local/nginx"
  if not folder then return prefix .. "/modules" end
  return folder:sub(1, 1) == "/" and folder or prefix .. "/" .. folder
end

-- The configuration ---------------------------------------------------------------------------------------------------

local function conf_quote(text)
  return '"' .. text:gsub('[\\"]', "\\%0") .. '"'
end

local function load_modules(build)
  local folder, lines = module_folder(build), {}
  for _, name in ipairs(MODULES) do
    local path = folder .. "/" .. name
    if exists(path) then lines[#lines + 1] = ("load_module %s;"):format(conf_quote(path)) end
  end
  return table.concat(lines, "\n")
end

local function temporary_paths(build, folder)
  local lines = {}
  for _, name in ipairs(TEMPORARY_FOLDERS) do
    if not build:find("--without-http_" .. name .. "_module", 1, true) then
      lines[#lines + 1] = ("  %s_temp_path %s;"):format(name, conf_quote(folder .. "/" .. name))
    end
  end
  return table.concat(lines, "\n")
end

local function tls_lines(tls)
  if not tls then return "" end
  return ("    ssl_certificate %s;\n    ssl_certificate_key %s;\n    ssl_protocols %s;"):format(
    conf_quote(absolute(tls.certificate)), conf_quote(absolute(tls.key)), tls.protocols or "TLSv1.2 TLSv1.3")
end

--- The folder that holds this project's Lua code, taken from where this very file was loaded.
local function code_folder()
  local source = debug.getinfo(code_folder, "S").source
  local folder = source:match("^@(.*)integrations/emulator/server%.lua$")
  if not folder then error("cannot tell where the emulator's Lua code is: " .. source, 0) end
  return absolute(folder)
end

--- nginx runs LuaJIT, to which modules compiled for another Lua than 5.1 are of no use. The folders beside theirs may
--- hold what it needs: .../lua/5.1/?.so for .../lua/5.4/?.so.
local function package_cpath()
  if _VERSION == "Lua 5.1" then return package.cpath .. ";;" end
  local entries = { ";" }
  for entry in package.cpath:gmatch("[^;]+") do
    local beside, count = entry:gsub("/5%.%d/", "/5.1/")
    if count > 0 then entries[#entries + 1] = beside end
  end
  return table.concat(entries, ";")
end

local function configuration(nginx, folder, port, options)
  local code = code_folder()
  local values = {
    pid = conf_quote(folder .. "/nginx.pid"),
    log = conf_quote(folder .. "/error.log"),
    modules = load_modules(nginx.build),
    temporary = temporary_paths(nginx.build, folder),
    package_path = conf_quote(("%s?.lua;%s?/init.lua;%s/?.lua;;"):format(code, code, folder)),
    package_cpath = conf_quote(package_cpath()),
    listen = ("127.0.0.1:%d%s%s"):format(port, options.tls and " ssl" or "", options.http2 and " http2" or ""),
    tls = tls_lines(options.tls),
    locations = options.locations or "",
    servers = options.servers or "",
  }
  return (CONFIGURATION:gsub("%${([%w_]+)}", values))
end

--- Lua source of a value made of tables, strings, numbers and booleans.
local function literal(value)
  if type(value) == "string" then return ("%q"):format(value) end
  if type(value) == "number" then return ("%.17g"):format(value) end
  if type(value) == "boolean" then return tostring(value) end
  if type(value) ~= "table" then error("the emulator's options cannot hold a " .. type(value), 0) end
  local parts = {}
  for key, member in pairs(value) do parts[#parts + 1] = ("[%s]=%s"):format(literal(key), literal(member)) end
  return "{" .. table.concat(parts, ",") .. "}"
end

-- Starting and stopping -----------------------------------------------------------------------------------------------

---@class integrations.emulator.Server
---@field url string "http://127.0.0.1:PORT", or https
---@field port integer
---@field folder string where nginx.conf and error.log are, until `stop`
local Server = {}
Server.__index = Server

--- Stops nginx, waits until it is gone, and removes its folder. Calling it again does nothing.
---@return boolean? ok, string? message
function Server:stop()
  if self.stopped then return true end
  self.stopped = true
  local ok, output = run(STOP, self.folder)
  if ok then return true end
  return nil, "nginx does not stop: " .. output
end

--- Waits until somebody interrupts this program (Ctrl-C) or nginx ends, then stops.
function Server:wait()
  self.stopped = true
  -- exec makes this process the script's parent, whose end the script watches for.
  os.execute("exec " .. shell_command(WAIT, self.folder))
end

--- A server that is forgotten stops when it is collected (Lua 5.2 and newer; Lua 5.1 and LuaJIT ignore this), and at
--- the end of its scope as a `<close>` variable of Lua 5.4. Relying on `stop` is better: a process that is killed
--- leaves its nginx behind.
Server.__gc = Server.stop
Server.__close = function(self) self:stop() end

--- Ports differ from start to start without touching the program's random numbers: the folder's name is random.
local function choose_port(folder, attempt)
  local hash = attempt * 7919
  for index = 1, #folder do hash = (hash * 31 + folder:byte(index)) % 1000003 end
  return FIRST_PORT + hash % PORT_COUNT
end

--- The line of nginx's output that tells what went wrong.
local function start_failure(output)
  if output:find('unknown directive "lua_', 1, true) then return MISSING_LUA end
  if output:find("module 'cjson.safe' not found", 1, true) then return MISSING_CJSON end
  local line = output:match("%[emerg%] [^\n]*") or output
  return "nginx does not start: " .. line:gsub("^(%[emerg%] )%d+#%d+: ", "%1")
end

local function start_once(nginx, folder, port, options)
  write_file(folder .. "/nginx.conf", configuration(nginx, folder, port, options))
  local ok, output = run(START, nginx.binary, folder)
  if ok then return true end
  return false, start_failure(output), output:find("Address already in use", 1, true) ~= nil
end

local function start_in(nginx, folder, options)
  write_file(folder .. "/integrations_emulator_instance.lua", INSTANCE:format(literal(options.options or {})))
  local message, taken, ok
  for attempt = 1, options.port and 1 or PORT_ATTEMPTS do
    local port = options.port or choose_port(folder, attempt)
    ok, message, taken = start_once(nginx, folder, port, options)
    if ok then return port end
    if not taken then break end
  end
  return nil, message
end

---@class integrations.emulator.ServerOptions
---@field port? integer a free one, if absent
---@field tls? { certificate: string, key: string, protocols: string? } files in PEM; TLS 1.2 and 1.3, if no `protocols`
---@field http2? boolean without tls this means HTTP/2 with prior knowledge
---@field options? integrations.emulator.Options
---@field locations? string raw nginx configuration inside the server
---@field servers? string raw nginx configuration beside the server

--- Starts nginx with a fresh emulator.
---@param options? integrations.emulator.ServerOptions
---@return integrations.emulator.Server? running, string? message
function server.start(options)
  options = options or {}
  local nginx, message = find_nginx()
  if not nginx then return nil, message end
  local made, folder = run('mktemp -d "${TMPDIR:-/tmp}/integrations-emulator.XXXXXXXXXX"')
  if not made then return nil, "no temporary folder: " .. folder end
  folder = absolute(folder)
  local ok, port, reason = pcall(start_in, nginx, folder, options)
  if not (ok and port) then
    run(STOP, folder)
    return nil, ok and reason or tostring(port)
  end
  local url = ("%s://127.0.0.1:%d"):format(options.tls and "https" or "http", port)
  return setmetatable({ url = url, port = port, folder = folder }, Server)
end

-- Inside nginx --------------------------------------------------------------------------------------------------------

-- luacheck: globals ngx

--- The body; nginx keeps one that is larger than its buffer (and so far too large for the emulator) in a file.
local function read_body()
  -- HTTP/2 allows a body without a length, of which the Lua module may not be capable: there is none, then.
  if not pcall(ngx.req.read_body) then return nil end
  local path = ngx.req.get_body_file()
  if not path then return ngx.req.get_body_data() end
  local file = assert(io.open(path, "rb"))
  local body = file:read("*a")
  file:close()
  return body
end

local function read_request()
  local variables = ngx.var
  local host = variables.http_host or variables.host
  return {
    method = ngx.req.get_method(),
    url = variables.scheme .. "://" .. host .. variables.request_uri:gsub("^%a[%w+.-]*://[^/?#]*", ""),
    headers = ngx.req.get_headers(0),
    body = read_body(),
  }
end

--- Answers nginx's current request. For nginx only.
---@param emulator integrations.emulator.Emulator
function server.respond(emulator)
  local response = emulator:handle(read_request())
  ngx.status = response.status
  for name, value in pairs(response.headers) do ngx.header[name] = value end
  if response.body == "" then
    ngx.send_headers()
    return
  end
  if not response.headers["content-length"] then ngx.header["content-length"] = #response.body end
  ngx.print(response.body)
end

return server
