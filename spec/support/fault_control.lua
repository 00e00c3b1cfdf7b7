--- Starts and commands a fault server (see support.fault_server).
local cjson = require "cjson"
local socket = require "socket"

local fault_control = {}

-- Whatever Lua the spec runs on, and not the one that a sanitizer watches: the libraries of this program are not
-- what is tested.
local COMMAND = "exec env PATH=/usr/local/bin:/usr/bin:/bin LUA_INIT= LUA_INIT_5_4= "
  .. "LUA_PATH_5_4='./spec/?.lua;./lua/?.lua;./lua/?/init.lua;;' LUA_CPATH_5_4=';;' "
  .. "lua5.4 spec/support/fault_server.lua"

local Server = {}
Server.__index = Server

local function command(self, name, options)
  local request = { command = name }
  for key, value in pairs(options or {}) do request[key] = value end
  assert(self.socket:send(cjson.encode(request) .. "\n"))
  return cjson.decode((assert(self.socket:receive "*l")))
end

--- Empties the ledger, ends the fault and all connections. Returns the id of the only integration, and those of the
--- only thing in each service (see support.fault_services).
function Server:reset()
  local ids = command(self, "reset").ids
  return ids.integrations, ids
end

--- Requests meet a fault from now on. The ledger is emptied.
---@param name string
---@param options? { method: string?, first: integer?, next: string?, from_second: boolean? } only requests with
---  this method; only so many, and then `next` or none; only from the second request of a connection on
function Server:arm(name, options)
  local request = { fault = name }
  for key, value in pairs(options or {}) do request[key] = value end
  command(self, "arm", request)
end

--- Requests meet no fault from now on. Returns the ledger: { requests = { { method, path, headers, body, applied } },
--- connections, changes, received = { plain, tls, elsewhere }, integrations, segments, rocketchat, complaints }.
--- `complaints` are of what went wrong in the server itself: where it breaks down, it may look like the fault that was
--- asked for.
function Server:disarm()
  return command(self, "disarm")
end

function Server:ledger()
  return command(self, "ledger")
end

--- Closes the connections that clients keep.
function Server:hang_up()
  command(self, "hang_up")
end

function Server:stop()
  command(self, "stop")
  self.socket:close()
  self.pipe:close() -- waits until it has ended
end

---@return table server with `ports` (plain, tls, elsewhere), `authority` (a file) and `pid`
function fault_control.start()
  local pipe = assert(io.popen(COMMAND))
  local line = assert(pipe:read "*l", "the fault server did not start")
  local server = setmetatable(cjson.decode(line), Server)
  server.pipe = pipe
  server.socket = assert(socket.connect("127.0.0.1", server.ports.control))
  server.socket:setoption("tcp-nodelay", true)
  server.socket:settimeout(60)
  return server
end

return fault_control
