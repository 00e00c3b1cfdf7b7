--- A server that misbehaves as it is told, and keeps a ledger of what really reached it. A program of its own:
---
---   lua5.4 spec/support/fault_server.lua        (support.fault_control starts it)
---
--- It prints one line of JSON: its process id, its ports, and the certificate of its authority. Then it serves
--- the first who connects to its control port, a line of JSON for a line of JSON, and ends when that one leaves.
---
--- Behind its faults there is an emulator of the services, so that a request that is received in full is carried
--- out before its answer is spoilt, and the ledger knows the truth.
local certificates = require "support.certificates"
local cjson = require "cjson"
local Connection = require "support.fault_connection"
local emulator = require "integrations.emulator"
local faults = require "support.fault_table"
local answers = require "support.fault_answers"
local process = require "support.process"
local services = require "support.fault_services"
local socket = require "socket"
local ssl = require "ssl"

local PATIENCE = 60 -- seconds until somebody has connected to the control port
local RECEIVED_LIMIT = 65536

-- `complaints`: what went wrong in the server itself. They outlive the ledger until they are handed over.
local server = { listeners = {}, ports = {}, connections = {}, armed = nil, complaints = {} }

-- ---- the service and the ledger -------------------------------------------------------------

local function ask(name, method, body)
  local service = services[name]
  return server.service:handle { method = method, url = method == "GET" and service.list or service.create,
    body = body and cjson.encode(body), headers = service.headers }
end

-- All that the services hold, but for when: the same update twice changes nothing else.
local function state()
  local parts = {}
  for i, name in ipairs(services.names) do parts[i] = ask(name, "GET").body end
  return (table.concat(parts, "\n"):gsub("%d%d%d%d%-%d%d%-%d%dT[%d:%.]+Z", "then"))
end

local function forget()
  server.ledger = { requests = {}, connections = 0, changes = 0, received = { plain = "", tls = "", elsewhere = "" } }
end

local function note_bytes(name, bytes)
  local received = server.ledger.received
  received[name] = (received[name] .. bytes):sub(1, RECEIVED_LIMIT)
end

-- Lets the service do its work, and notes whether that changed anything.
local function carry_out(request)
  local before = state()
  local response = server.service:handle { method = request.method, url = request.path, headers = request.headers,
    body = request.body }
  request.applied = state() ~= before
  return response
end

local function note(request)
  local ledger = server.ledger
  ledger.requests[#ledger.requests + 1] = request
  ledger.changes = ledger.changes + (request.applied and 1 or 0)
end

-- ---- faults ---------------------------------------------------------------------------------

-- The fault that a request meets, or nil. `met` counts those of the armed one.
local function fault_of(request, connection)
  local armed = server.armed
  if not armed or armed.method and armed.method ~= request.method
    or armed.from_second and connection.requests < 2 then
    return nil
  end
  armed.met = armed.met + 1
  local row = faults.by_name[armed.fault]
  local first = armed.first or row.first
  if first and armed.met > first then
    return faults.by_name[armed.next]
  end
  return row
end

local function play(connection, steps, response)
  for _, step in ipairs(steps) do
    if connection.closed then return end
    if type(step) == "number" then
      connection:wait(step)
    elseif type(step) == "string" then
      connection[step](connection)
    else
      local pieces = step(response, server)
      for _, piece in ipairs(type(pieces) == "table" and pieces or { pieces }) do
        if not connection:send(piece) then return connection:close() end
      end
    end
  end
end

local right_answer = { answers.whole }

-- What the service says to a request that it never saw.
local untouched = { status = 200, headers = {}, body = "{}" }

local function answer(connection, request)
  local row = fault_of(request, connection) or {}
  local response = row.applies ~= false and carry_out(request) or untouched
  note(request)
  play(connection, row.play or right_answer, response)
end

-- ---- connections ----------------------------------------------------------------------------

-- A fault of the connection meets every one while it is armed: there is no method yet to choose by.
local function connection_fault()
  return server.armed and faults.by_name[server.armed.fault] or {}
end

local function serve(connection, name)
  local row = connection_fault()
  if row.meet then play(connection, row.meet) end
  if connection.closed then return end
  if name == "tls" and not connection:handshake(server.contexts[row.tls or "good"]) then
    return connection:close()
  end
  if row.greet then connection:send(row.greet) end
  repeat
    local request = connection:read_request()
    if request then answer(connection, request) end
  until not request or connection.closed
  if not connection.closed then connection:close() end
end

local function resume(connection)
  local ok, message = coroutine.resume(connection.thread)
  if not ok then table.insert(server.complaints, debug.traceback(connection.thread, tostring(message))) end
  if coroutine.status(connection.thread) == "dead" then server.connections[connection] = nil end
end

local function accept(name)
  local accepted = server.listeners[name]:accept()
  if not accepted then return end
  local connection = Connection.new(accepted, function(bytes)
    note_bytes(name, bytes)
  end)
  server.ledger.connections = server.ledger.connections + 1
  connection.thread = coroutine.create(function()
    serve(connection, name)
  end)
  server.connections[connection] = true
  resume(connection)
end

local function hang_up()
  for connection in pairs(server.connections) do
    connection:close()
  end
  server.connections = {}
end

-- ---- listeners ------------------------------------------------------------------------------

local function listen(name)
  local listener = assert(socket.tcp4())
  listener:setoption("reuseaddr", true)
  assert(listener:bind("127.0.0.1", server.ports[name] or 0))
  assert(listener:listen(64))
  listener:settimeout(0)
  server.listeners[name] = listener
  server.ports[name] = select(2, listener:getsockname())
end

-- Keeps the port from others while nobody listens there: bound, and nothing more.
local function reserve(name)
  local holder = assert(socket.tcp4())
  holder:setoption("reuseaddr", true)
  assert(holder:bind("127.0.0.1", server.ports[name]))
  return holder
end

local function stop_listening(name)
  server.listeners[name]:close()
  server.listeners[name] = nil
  server.holder = reserve(name)
end

local function listen_again(name)
  listen(name)
  server.holder:close()
  server.holder = nil
end

-- ---- turns ----------------------------------------------------------------------------------

local function collect_waiting(first)
  local reads, writes, time = { first }, {}, nil
  for _, listener in pairs(server.listeners) do reads[#reads + 1] = listener end
  for connection in pairs(server.connections) do
    if connection.direction == "read" then reads[#reads + 1] = connection.socket end
    if connection.direction == "write" then writes[#writes + 1] = connection.socket end
    if connection.time then time = math.min(time or math.huge, connection.time) end
  end
  return reads, writes, time and math.max(0, time - socket.gettime())
end

local function is_ready(connection, readable, writable)
  if connection.time then return connection.time <= socket.gettime() end
  return (connection.direction == "read" and readable or writable)[connection.socket]
end

-- Lets everybody go on who can. Returns whether there was anybody.
local function serve_ready(readable, writable)
  local ready, accepted = {}, false
  for connection in pairs(server.connections) do
    if is_ready(connection, readable, writable) then ready[#ready + 1] = connection end
  end
  for _, connection in ipairs(ready) do resume(connection) end
  for name, listener in pairs(server.listeners) do
    if readable[listener] then
      accept(name)
      accepted = true
    end
  end
  return #ready > 0 or accepted
end

-- What a client has sent before it gave up is in the ledger before the ledger is read.
local function catch_up()
  repeat
    local reads, writes = collect_waiting()
    local readable, writable = socket.select(reads, writes, 0)
  until not serve_ready(readable, writable)
end

-- ---- control --------------------------------------------------------------------------------

local commands = {}

local function be_well()
  catch_up()
  server.armed = nil
  if server.holder then listen_again "plain" end
end

--- Everything as at the start, with one thing in each service.
function commands.reset()
  be_well()
  hang_up()
  server.service:reset()
  forget()
  local ids = {}
  for _, name in ipairs(services.names) do
    local service = services[name]
    ids[name] = service.created(cjson.decode(ask(name, "POST", service.seed).body))[service.identity]
  end
  return { ids = ids }
end

--- From now on: { fault, method?, first?, next?, from_second? }. What was before is no longer in the ledger.
function commands.arm(command)
  command.met = 0
  server.armed = command
  forget()
  if faults.by_name[command.fault].closed then
    hang_up()
    stop_listening "plain"
  end
  return {}
end

--- No faults from now on; gives the ledger, and what the server has to complain of since the last time.
function commands.disarm()
  be_well()
  local ledger = commands.ledger()
  ledger.complaints, server.complaints = server.complaints, {}
  return ledger
end

function commands.ledger()
  catch_up()
  local ledger = server.ledger
  for _, name in ipairs(services.names) do
    ledger[name] = cjson.decode(ask(name, "GET").body)[services[name].field]
  end
  return ledger
end

function commands.hang_up()
  hang_up()
  return {}
end

function commands.stop()
  server.stopped = true
  return {}
end

local function obey()
  local line = server.control:receive "*l"
  if not line then
    server.stopped = true
    return
  end
  local command = cjson.decode(line)
  assert(server.control:send(cjson.encode(commands[command.command](command)) .. "\n"))
end

-- Commands come first and alone: they may close what the others are about to use.
local function turn()
  local readable, writable = socket.select(collect_waiting(server.control))
  if readable[server.control] then return obey() end
  serve_ready(readable, writable)
end

-- ---- the program ----------------------------------------------------------------------------

local function make_contexts(folder)
  local own = "IP:127.0.0.1,DNS:slow.invalid,DNS:missing.invalid"
  folder:self_signed "authority"
  local made = {
    good = folder:issue("good", { authority = "authority", names = own }),
    expired = folder:issue("expired", { authority = "authority", names = own, days = -1 }),
    other_host = folder:issue("other_host", { authority = "authority", names = "DNS:elsewhere.invalid" }),
    self_signed = folder:self_signed("self_signed", own),
  }
  made.old_protocol = { certificate = made.good.certificate, key = made.good.key, protocol = "tlsv1_1",
    ciphers = "ALL:@SECLEVEL=0" }
  local contexts = {}
  for name, files in pairs(made) do
    files.mode, files.protocol = "server", files.protocol or "any"
    contexts[name] = assert(ssl.newcontext(files))
  end
  return contexts
end

local function wait_for_control()
  listen "control"
  io.write(cjson.encode { pid = process.id(), ports = server.ports, authority = server.folder:path "authority.pem" },
    "\n")
  io.flush()
  local listener = server.listeners.control
  listener:settimeout(PATIENCE)
  server.control = listener:accept()
  listener:close()
  server.listeners.control = nil
  return server.control ~= nil
end

local function main()
  server.service = emulator.new(services.emulator_options)
  server.contexts = make_contexts(server.folder)
  forget()
  for _, name in ipairs { "plain", "tls", "elsewhere" } do listen(name) end
  if not wait_for_control() then return end
  server.control:setoption("tcp-nodelay", true)
  while not server.stopped do turn() end
end

server.folder = certificates.new()
local ok, message = xpcall(main, debug.traceback)
server.folder:remove()
if not ok then io.stderr:write("fault server: ", tostring(message), "\n") end
os.exit(ok and 0 or 1) -- without collecting what is left: see Connection:reset
