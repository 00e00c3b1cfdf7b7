--- A server in the spec's own process, of which each step is the spec's: so what an engine finds on a connection is no
--- matter of time. In between the engine is run, and never waits.
local socket = require "socket"

local Peer = {}
Peer.__index = Peer

local peer = {}

local PATIENCE = 20 -- seconds until something is wrong

---@param wrap? fun(accepted: table): table makes TLS of a connection
function peer.new(wrap)
  local listener = assert(socket.bind("127.0.0.1", 0))
  listener:settimeout(0)
  local port = tonumber((select(2, listener:getsockname())))
  return setmetatable({ listener = listener, wrap = wrap, port = port, accepted = 0, requests = {} }, Peer)
end

--- Runs the engine until `step` gives something, and returns that.
function peer.until_done(engine, step)
  local deadline = socket.gettime() + PATIENCE
  while true do
    local done, second = step()
    if done then return done, second end
    assert(socket.gettime() < deadline, "nothing happens")
    engine:run(0)
  end
end

--- What has become of a call: a response, or nil and a problem.
function peer.finish(engine, id)
  local response, problem
  peer.until_done(engine, function()
    response, problem = engine:take(id)
    return response ~= false
  end)
  return response, problem
end

--- Sends an answer with this body.
function peer.answer(connection, body)
  assert(connection:send(("HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s"):format(#body, body)))
end

--- Closes so that the client sees a reset.
function peer.reset(connection)
  assert(connection:setoption("linger", { on = true, timeout = 0 }))
  connection:close()
end

--- The next connection, once the engine has opened it.
function Peer:accept(engine)
  local accepted = peer.until_done(engine, function() return self.listener:accept() end)
  accepted:settimeout(0)
  accepted:setoption("tcp-nodelay", true)
  self.accepted = self.accepted + 1
  return self.wrap and self.wrap(accepted) or accepted
end

--- Reads a request with its body from a connection, and notes its method.
function Peer:read(engine, connection)
  local bytes = ""
  peer.until_done(engine, function()
    local all, _, part = connection:receive(65536)
    bytes = bytes .. (all or part or "")
    local _, head = bytes:find("\r\n\r\n", 1, true)
    local size = head and tonumber(bytes:lower():match "content%-length: (%d+)" or 0)
    return head and #bytes >= head + size
  end)
  table.insert(self.requests, bytes:match "^%u+")
end

--- Makes a call and answers it well: on this connection, or on a new one. Returns the connection.
function Peer:serve(engine, method, connection)
  local id = assert(engine:submit(method, self:url(), nil, method ~= "GET" and "{}" or nil, PATIENCE * 1000))
  connection = connection or self:accept(engine)
  self:read(engine, connection)
  peer.answer(connection, "fine")
  assert(assert(peer.finish(engine, id)).body == "fine")
  return connection
end

--- Answers well whatever comes on whatever connection, until a call is finished; its response, or nil and a problem.
---@param connections? table[] those that there are
function Peer:serve_all(engine, id, connections)
  connections = connections or {}
  local function serve()
    local accepted = self.listener:accept()
    if accepted then
      accepted:settimeout(0)
      connections[#connections + 1] = accepted
    end
    for _, connection in ipairs(connections) do
      local bytes = select(3, connection:receive(65536))
      if bytes and bytes ~= "" then
        table.insert(self.requests, bytes:match "^%u+")
        peer.answer(connection, "fine")
      end
    end
  end
  local response, problem
  peer.until_done(engine, function()
    serve()
    response, problem = engine:take(id)
    return response ~= false
  end)
  serve() -- what came with a connection's end
  return response, problem
end

function Peer:origin()
  return ("%s://127.0.0.1:%d"):format(self.wrap and "https" or "http", self.port)
end

function Peer:url()
  return self:origin() .. "/"
end

function Peer:close()
  self.listener:close()
end

return peer
