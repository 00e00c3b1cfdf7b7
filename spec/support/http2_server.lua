--- Starts and steers the server of http2_process.lua: it answers well until it is told to break.
local process = require "support.process"
local socket = require "socket"

local http2_server = {}

local START = "LUA_PATH=%s LUA_CPATH=%s %s spec/support/http2_process.lua %s %s %s >%s 2>&1 </dev/null &"

local Server = {}
Server.__index = Server

local function ask(control, line)
  assert(control:send(line .. "\n"))
  local lines = {}
  repeat
    lines[#lines + 1] = assert(control:receive "*l")
  until lines[#lines] == ""
  return lines
end

--- What happens to the next requests; after so many of them the server is well again.
---@param name string a key of `faults` there
---@param times? integer no end, if absent
function Server:fault(name, times)
  ask(self.control, ("fault %s %d"):format(name, times or 1000000))
end

--- The requests that arrived since the last look, and how many connections there were since the start.
---@return { connection: integer, protocol: "h1"|"h2", method: string, size: integer, body: string }[] requests
---  `size` is the body's, `body` its start
---@return integer connections
function Server:ledger()
  local lines, requests = ask(self.control, "ledger"), {}
  for i = 2, #lines - 1 do
    local connection, protocol, method, size, body = lines[i]:match "^(%d+) (%S+) (%S+) (%d+) (.*)$"
    requests[i - 1] = {
      connection = tonumber(connection), protocol = protocol, method = method, size = tonumber(size), body = body,
    }
  end
  return requests, tonumber(lines[1])
end

--- What the server complained of: nothing, unless it is wrong itself.
function Server:complaints()
  return process.read_file(self.folder .. "/log")
end

--- Its process ends with this connection, so also when the spec's own process is killed, and removes its folder.
function Server:stop()
  self.control:close()
end

local function wait_for_ports(folder)
  for _ = 1, 6000 do
    local port, control_port = (process.read_file(folder .. "/ports") or ""):match "^(%d+) (%d+)$"
    if port then
      return tonumber(port), tonumber(control_port)
    elseif (process.read_file(folder .. "/log") or "") ~= "" then
      break
    end
    socket.sleep(0.01)
  end
  local log = process.read_file(folder .. "/log")
  process.remove_folder(folder)
  error("the server does not start: " .. log, 0)
end

---@param tls { certificate: string, key: string }
function http2_server.start(tls)
  local folder = process.new_folder()
  local quote = process.quote
  process.shell(START:format(quote(package.path), quote(package.cpath), quote(process.interpreter()),
    quote(tls.certificate), quote(tls.key), quote(folder), quote(folder .. "/log")))
  local port, control_port = wait_for_ports(folder)
  return setmetatable({
    url = "https://127.0.0.1:" .. port,
    folder = folder,
    control = assert(socket.connect("127.0.0.1", control_port)),
  }, Server)
end

return http2_server
