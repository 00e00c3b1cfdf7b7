--- A private nginx with its Lua module: found, started on a free port of 127.0.0.1, stopped.
--
-- Starting and stopping need nothing but a POSIX shell. Everything nginx writes stays in a temporary folder of its own,
-- and nothing from /etc/nginx is read.

local nginx = {}

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
-- against a number that meanwhile belongs to somebody else; its file may go at any moment, so errors are muted first.
local ALIVE = [[
alive() {
  kill -0 "$pid" 2>/dev/null || return 1
  [ -r "/proc/$pid/cmdline" ] || return 0
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$1/nginx.conf"
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

--- A path that nginx understands, whose own paths begin elsewhere.
---@param path string
---@return string
function nginx.absolute(path)
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

--- A text as a word of nginx.conf.
---@param text string
---@return string
function nginx.quote(text)
  return '"' .. text:gsub('[\\"]', "\\%0") .. '"'
end

local function load_modules(build)
  local folder, lines = module_folder(build), {}
  for _, name in ipairs(MODULES) do
    local path = folder .. "/" .. name
    if exists(path) then lines[#lines + 1] = ("load_module %s;"):format(nginx.quote(path)) end
  end
  return table.concat(lines, "\n")
end

local function temporary_paths(build, folder)
  local lines = {}
  for _, name in ipairs(TEMPORARY_FOLDERS) do
    if not build:find("--without-http_" .. name .. "_module", 1, true) then
      lines[#lines + 1] = ("  %s_temp_path %s;"):format(name, nginx.quote(folder .. "/" .. name))
    end
  end
  return table.concat(lines, "\n")
end

--- Where nginx's Lua finds C modules. It is LuaJIT, to which modules compiled for another Lua than 5.1 are of no use.
--- The folders beside theirs may hold what it needs: .../lua/5.1/?.so for .../lua/5.4/?.so.
---@return string
function nginx.package_cpath()
  if _VERSION == "Lua 5.1" then return package.cpath .. ";;" end
  local entries = { ";" }
  for entry in package.cpath:gmatch("[^;]+") do
    local beside, count = entry:gsub("/5%.%d/", "/5.1/")
    if count > 0 then entries[#entries + 1] = beside end
  end
  return table.concat(entries, ";")
end

--- What a configuration needs and only this module knows.
local function configuration(build, folder, port, options)
  local values = {
    pid = nginx.quote(folder .. "/nginx.pid"),
    log = nginx.quote(folder .. "/error.log"),
    modules = load_modules(build),
    temporary = temporary_paths(build, folder),
  }
  for name, value in pairs(options.values(port, folder)) do values[name] = value end
  return (options.template:gsub("%${([%w_]+)}", values))
end

-- Starting and stopping -----------------------------------------------------------------------------------------------

---@class integrations.emulator.Nginx
---@field port integer
---@field folder string where nginx.conf and error.log are, until `stop`
local Running = {}
Running.__index = Running

--- Stops nginx, waits until it is gone, and removes its folder. Calling it again does nothing.
---@return boolean? ok, string? message
function Running:stop()
  if self.stopped then return true end
  self.stopped = true
  local ok, output = run(STOP, self.folder)
  if ok then return true end
  return nil, "nginx does not stop: " .. output
end

--- Waits until somebody interrupts this program (Ctrl-C) or nginx ends, then stops.
function Running:wait()
  self.stopped = true
  -- exec makes this process the script's parent, whose end the script watches for.
  os.execute("exec " .. shell_command(WAIT, self.folder))
end

--- A server that is forgotten stops when it is collected (Lua 5.2 and newer; Lua 5.1 and LuaJIT ignore this), and at
--- the end of its scope as a `<close>` variable of Lua 5.4 and newer. Relying on `stop` is better: a process that is
--- killed leaves its nginx behind.
Running.__gc = Running.stop
Running.__close = function(self) self:stop() end

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

local function start_once(found, folder, port, options)
  write_file(folder .. "/nginx.conf", configuration(found.build, folder, port, options))
  local ok, output = run(START, found.binary, folder)
  if ok then return true end
  return false, start_failure(output), output:find("Address already in use", 1, true) ~= nil
end

local function start_in(found, folder, options)
  for name, text in pairs(options.files or {}) do write_file(folder .. "/" .. name, text) end
  local message, taken, ok
  for attempt = 1, options.port and 1 or PORT_ATTEMPTS do
    local port = options.port or choose_port(folder, attempt)
    ok, message, taken = start_once(found, folder, port, options)
    if ok then return port end
    if not taken then break end
    os.remove(folder .. "/error.log") -- what it says of another program's port is no error of ours
  end
  return nil, message
end

---@class integrations.emulator.NginxOptions
---@field name string what the temporary folder's begins with
---@field template string nginx.conf, in which ${name} stands for a value
---@field values fun(port: integer, folder: string): table<string, string> besides pid, log, modules and temporary
---@field files? table<string, string> text by name, in nginx's folder
---@field port? integer a free one, if absent

--- Starts nginx.
---@param options integrations.emulator.NginxOptions
---@return integrations.emulator.Nginx? running, string? message
function nginx.start(options)
  local found, message = find_nginx()
  if not found then return nil, message end
  local made, folder = run('mktemp -d "${TMPDIR:-/tmp}/$1.XXXXXXXXXX"', options.name)
  if not made then return nil, "no temporary folder: " .. folder end
  folder = nginx.absolute(folder)
  local ok, port, reason = pcall(start_in, found, folder, options)
  if not (ok and port) then
    run(STOP, folder)
    return nil, ok and reason or tostring(port)
  end
  return setmetatable({ port = port, folder = folder }, Running)
end

return nginx
