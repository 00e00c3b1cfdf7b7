--- One connection of the fault server: each is a coroutine that gives its turn away while it waits.
local socket = require "socket"
local ssl = require "ssl"

local Connection = {}
Connection.__index = Connection

local READ_SIZE = 16384

-- What a socket that cannot go on says, and what it then waits for.
local waits = { timeout = {}, wantread = { "read" }, wantwrite = { "write" } }

---@param accepted table a luasocket client
---@param on_bytes fun(bytes: string) told of all that is received
function Connection.new(accepted, on_bytes)
  accepted:settimeout(0)
  accepted:setoption("tcp-nodelay", true)
  -- `raw` is what TLS takes its file from.
  return setmetatable({ raw = accepted, socket = accepted, on_bytes = on_bytes, buffer = "", requests = 0 },
    Connection)
end

-- Until the socket can be read from (or written to), or a time has come. Nothing to wait for: for ever.
function Connection:give_turn(direction, time)
  self.direction, self.time = direction, time
  coroutine.yield()
end

-- Repeats what the socket could not finish. TLS may have to write in order to read, and the other way round.
function Connection:try(direction, action)
  while true do
    local result, problem, partial = action()
    if result then return result end
    self.over = not waits[problem]
    if partial and partial ~= "" and direction == "read" then return partial end
    local wait = waits[problem]
    if not wait then return nil end
    self:give_turn(wait[1] or direction)
  end
end

--- Waits for bytes; nil where there will be none.
function Connection:receive()
  local bytes = self:try("read", function()
    return self.socket:receive(READ_SIZE)
  end)
  if bytes then self.on_bytes(bytes) end
  return bytes
end

function Connection:send(text)
  -- TLS whose peer left without a goodbye: LuaSec would try for ever.
  if self.is_tls and self.over then return nil end
  local first = 1
  return self:try("write", function()
    local last, problem, sent = self.socket:send(text, first)
    if not last and sent then first = sent + 1 end
    return last, problem
  end)
end

function Connection:handshake(context)
  self.socket = assert(ssl.wrap(self.socket, context))
  self.socket:settimeout(0)
  self.is_tls = true
  return self:try("read", function()
    return self.socket:dohandshake()
  end)
end

function Connection:wait(seconds)
  self:give_turn(nil, socket.gettime() + seconds)
end

--- Until the peer has enough.
function Connection:hang()
  repeat until not self:receive()
  self:close()
end

--- Ends the sending side alone. TLS has no part in it, so that its peer cannot know whether bytes were cut off.
function Connection:shutdown()
  if self.is_tls then self.raw:setfd(self.socket:getfd()) end
  self.raw:shutdown "send"
  if self.is_tls then self.raw:setfd(-1) end
end

function Connection:close()
  if self.is_tls then self:shutdown() end
  self.socket:close()
  self.closed = true
end

-- TLS without a file below it: closing it would say goodbye first, to whoever has the file's number by then.
local orphans = {}

--- Closes so that the peer sees a reset.
function Connection:reset()
  if self.is_tls then
    self.raw:setfd(self.socket:getfd())
    orphans[#orphans + 1] = self.socket
  end
  self.raw:setoption("linger", { on = true, timeout = 0 })
  self.raw:close()
  self.closed = true
end

-- Takes the first bytes of what was received; nil where the peer left before it had sent as many.
local function take(self, size)
  while #self.buffer < size do
    local bytes = self:receive()
    if not bytes then return nil end
    self.buffer = self.buffer .. bytes
  end
  local taken = self.buffer:sub(1, size)
  self.buffer = self.buffer:sub(size + 1)
  return taken
end

local function take_head(self)
  local last
  repeat
    last = select(2, self.buffer:find("\r\n\r\n", 1, true))
    local bytes = not last and self:receive()
    if not last and not bytes then return nil end
    self.buffer = self.buffer .. (bytes or "")
  until last
  return take(self, last)
end

--- A request that was received in full, or nil.
function Connection:read_request()
  local head = take_head(self)
  if not head then return nil end
  local method, path = head:match "^(%u+) (%S+) HTTP/1%.1\r\n"
  local headers = {}
  for name, value in head:gmatch "\r\n([^:\r\n]+): *([^\r\n]*)" do headers[name:lower()] = value end
  local body = take(self, tonumber(headers["content-length"] or 0))
  if not body then return nil end
  self.requests = self.requests + 1
  return { method = method, path = path, headers = headers, body = body }
end

return Connection
