--- A real nginx with its Lua module, in which this checkout's code runs, and the requests that drive it. Whatever Lua a
--- spec runs on, inside it is nginx's LuaJIT.
local private = require "integrations.emulator.nginx"
local process = require "support.process"
local socket = require "socket"

local nginx = {}

local TEMPLATE = [[
daemon on;
${user}
worker_processes ${workers};
pid ${pid};
error_log ${log} error;
${modules}
${main}
events {
  worker_connections 1024;
}
http {
  access_log off;
${temporary}
  lua_package_path ${package_path};
  lua_package_cpath ${package_cpath};
${http}
  server {
    listen 127.0.0.1:${port}${listen};
${locations}
  }
}
]]

local PATIENCE = 60 -- seconds, which only what hangs takes

-- Without what a surrounding make has set, and up to date.
local BUILD = "env -u MAKEFLAGS -u MAKELEVEL make -s LUA=luajit all"

-- ---- waiting --------------------------------------------------------------------------------

--- Waits until a condition holds. Returns what it gave last.
---@param condition fun(): any
---@param seconds? number
function nginx.eventually(condition, seconds)
  local deadline = socket.gettime() + (seconds or PATIENCE)
  local held = condition()
  while not held and socket.gettime() < deadline do
    socket.sleep(0.005)
    held = condition()
  end
  return held
end

-- ---- requests -------------------------------------------------------------------------------

local Request = {}
Request.__index = Request

--- The answer: status and body, or nil and what is wrong.
---@return integer? status
---@return string body
function Request:receive()
  local answer, message = self.socket:receive "*a"
  self.socket:close()
  if not answer then return nil, message end
  local status, body = answer:match "^HTTP/1%.%d (%d+).-\r\n\r\n(.*)$"
  return tonumber(status), body or answer
end

--- Leaves without an answer.
function Request:abort()
  self.socket:close()
end

--- Sends a request, and does not wait.
---@param port integer
---@param path string
---@param options? { method: string?, headers: table<string, string>?, body: string? }
function nginx.ask(port, path, options)
  options = options or {}
  local lines = { ("%s %s HTTP/1.0"):format(options.method or "GET", path), "Host: 127.0.0.1" }
  for name, value in pairs(options.headers or {}) do lines[#lines + 1] = name .. ": " .. value end
  if options.body then lines[#lines + 1] = "Content-Length: " .. #options.body end
  local connection = assert(socket.connect("127.0.0.1", port))
  connection:settimeout(PATIENCE)
  assert(connection:send(table.concat(lines, "\r\n") .. "\r\n\r\n" .. (options.body or "")))
  return setmetatable({ socket = connection }, Request)
end

-- ---- processes ------------------------------------------------------------------------------

--- Whether there is such a process: one that has ended and that nobody has collected is none.
function nginx.is_running(pid)
  local stat = process.read_file(("/proc/%s/stat"):format(pid))
  return stat ~= nil and not stat:find("%) Z ")
end

--- How many threads a process has.
function nginx.threads(pid)
  return tonumber(process.read_file(("/proc/%s/status"):format(pid)):match "\nThreads:%s*(%d+)")
end

--- Seconds of processor time that a process has used, to a hundredth.
function nginx.processor_time(pid)
  local fields = process.read_file(("/proc/%s/stat"):format(pid)):match "^.*%) (.*)$"
  local user, system = fields:match(("%S+ "):rep(11) .. "(%d+) (%d+)")
  return (user + system) / 100
end

--- How often the threads of a process have gone to sleep so far: one that has nothing to do stays asleep.
function nginx.naps(pid)
  local naps = 0
  for count in process.shell(("cat /proc/%s/task/*/status"):format(pid)):gmatch "\nvoluntary_ctxt_switches:%s*(%d+)" do
    naps = naps + count
  end
  return naps
end

-- ---- nginx ----------------------------------------------------------------------------------

---@class support.Nginx
---@field port integer
---@field master string its process id
local Nginx = {}
Nginx.__index = Nginx

--- Sends a request, and does not wait: see nginx.ask.
function Nginx:ask(path, options)
  return nginx.ask(self.port, path, options)
end

---@return integer? status
---@return string body
function Nginx:get(path, headers)
  return self:ask(path, { headers = headers }):receive()
end

--- The workers' process ids, in no order: those that are shutting down, too.
---@return string[]
function Nginx:workers()
  local pids = {}
  local children = process.read_file(("/proc/%s/task/%s/children"):format(self.master, self.master)) or ""
  for pid in children:gmatch "%d+" do
    if nginx.is_running(pid) then pids[#pids + 1] = pid end
  end
  return pids
end

--- Sends a signal to the master, or to one of its workers.
---@param signal string "HUP"
---@param pid? string
function Nginx:signal(signal, pid)
  process.shell(("kill -%s %s"):format(signal, pid or self.master))
end

--- Reloads, and waits until new workers are there; old ones may still be.
function Nginx:reload()
  local before = {}
  for _, pid in ipairs(self:workers()) do before[pid] = true end
  self:signal "HUP"
  assert(nginx.eventually(function()
    local new = 0
    for _, pid in ipairs(self:workers()) do new = new + (before[pid] and 0 or 1) end
    return new == self.count
  end), "no new workers")
end

function Nginx:error_log()
  return process.read_file(self.private.folder .. "/error.log") or ""
end

--- Lines of the error log: there should be none, whatever was done to it. `tolerated` is a pattern of such as a test
--- provokes.
function Nginx:faults(tolerated)
  local faults = {}
  for line in self:error_log():gmatch "[^\n]+" do
    if not (tolerated and line:find(tolerated)) then faults[#faults + 1] = line end
  end
  return faults
end

--- Stops, and returns what is in the error log and should not be, and how many seconds it took.
---@param signal? "TERM"|"QUIT"
---@param tolerated? string
---@return string[] faults
---@return number seconds
function Nginx:stop(signal, tolerated)
  local workers, started = self:workers(), socket.gettime()
  self:signal(signal or "TERM")
  nginx.eventually(function() return not nginx.is_running(self.master) end)
  local seconds = socket.gettime() - started
  local faults = self:faults(tolerated)
  for _, pid in ipairs(workers) do
    if nginx.is_running(pid) then faults[#faults + 1] = "worker " .. pid .. " is still there" end
  end
  self.private:stop()
  return faults, seconds
end

---@class support.NginxOptions
---@field workers? integer (1)
---@field main? string lines of configuration outside of http
---@field http? string lines inside of http; PORT stands for the port, whose first server in here comes before ours
---@field locations? string lines inside of the server
---@field listen? string parameters of the directive of that name
---@field files? table<string, string> modules, by file name

--- Starts one.
---@param options support.NginxOptions
---@return support.Nginx
function nginx.start(options)
  assert(os.execute(BUILD))
  local here = private.absolute ""
  local is_root = process.shell "id -u" == "0\n"
  local running = assert(private.start {
    name = "integrations-spec",
    template = TEMPLATE,
    files = options.files,
    values = function(port, folder)
      return {
        port = tostring(port),
        user = is_root and "user root;" or "", -- who made the folder can read it
        workers = tostring(options.workers or 1),
        main = options.main or "",
        http = (options.http or ""):gsub("PORT", port),
        locations = options.locations or "",
        listen = options.listen or "",
        package_path = private.quote(("%slua/?.lua;%slua/?/init.lua;%sspec/?.lua;%s/?.lua;;"):format(here, here, here,
          folder)),
        package_cpath = private.quote(here .. "build/luajit/?.so;" .. private.package_cpath()),
      }
    end,
  })
  local master = process.read_file(running.folder .. "/nginx.pid"):match "%d+"
  local self = setmetatable({ private = running, port = running.port, master = master, count = options.workers or 1 },
    Nginx)
  assert(nginx.eventually(function() return #self:workers() == self.count end), "no workers")
  return self
end

return nginx
