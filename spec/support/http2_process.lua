--- A server of HTTP/2 over TLS that breaks in every way the protocol knows, and notes what arrived.
---
---   lua5.4 spec/support/http2_process.lua CERTIFICATE KEY FOLDER
--
-- Made by hand because no server at hand refuses a stream or cuts an answer on demand. It writes two ports to the
-- file "ports" of its folder: the server's own, and one for the lines of http2_server.lua, with whose connection this
-- process ends. The folder ends with it, so that nothing is left where a spec is interrupted.
-- Whoever offers no "h2" is served HTTP/1.1, and well, since libcurl falls back to it by itself.
local process = require "support.process"
local socket = require "socket"
local ssl = require "ssl"

local START_SECONDS, SEND_SECONDS, READ_SECONDS = 30, 2, 0.02
local FLOOD, FLOOD_AT_ONCE = 2000, 100 -- frames; while they come without a pause, libcurl 7.88 sees no clock
local BODY_START = 60 -- so much of a body is noted

local PREFACE = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
local DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
local END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
local NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL, HTTP_1_1_REQUIRED = 0, 2, 7, 8, 13
local HEADER_TABLE_SIZE = 1

local ANSWER = '{"result":[],"integration_id":"1"}'

-- ---- bytes ----------------------------------------------------------------------------------

-- Big-endian, as everything in HTTP/2.
local function pack(number, size)
  local bytes = {}
  for i = size, 1, -1 do
    bytes[i] = string.char(number % 256)
    number = math.floor(number / 256)
  end
  return table.concat(bytes)
end

local function unpack_number(bytes)
  local number = 0
  for i = 1, #bytes do
    number = number * 256 + bytes:byte(i)
  end
  return number
end

local function has_flag(flags, flag)
  return math.floor(flags / flag) % 2 == 1
end

local function frame(kind, flags, stream, payload)
  return pack(#payload, 3) .. string.char(kind, flags) .. pack(stream, 4) .. payload
end

local function reset(stream, code)
  return frame(RST_STREAM, 0, stream, pack(code, 4))
end

local function goaway(last_stream)
  return frame(GOAWAY, 0, 0, pack(last_stream, 4) .. pack(NO_ERROR, 4))
end

local function literal(text)
  return string.char(#text) .. text
end

-- A literal header without indexing needs no table: that is all of HPACK that an answer takes. 8 is `:status`.
local function head(stream, status, length)
  local block = "\8" .. literal(tostring(status))
  if length then
    block = block .. "\0" .. literal "content-type" .. literal "application/json"
      .. "\0" .. literal "content-length" .. literal(tostring(length))
  end
  return frame(HEADERS, END_HEADERS, stream, block)
end

-- ---- methods --------------------------------------------------------------------------------

-- Huffman's codes of the letters that methods are made of.
local letters = {
  ["100001"] = "A", ["1011110"] = "C", ["1011111"] = "D", ["1100000"] = "E", ["1100011"] = "H", ["1100111"] = "L",
  ["1101010"] = "O", ["1101011"] = "P", ["1101110"] = "S", ["1101111"] = "T", ["1110000"] = "U", ["1100010"] = "G",
}

local function huffman(bytes)
  local text, code = "", ""
  for i = 1, #bytes do
    for bit = 7, 0, -1 do
      code = code .. math.floor(bytes:byte(i) / 2 ^ bit) % 2
      if letters[code] then
        text, code = text .. letters[code], ""
      end
    end
  end
  return text
end

-- `:method` comes first, behind what a change of the table's size announces. 2 is its index, in one of the three
-- forms of a literal. Our SETTINGS allow no table, so it is never the index of something sent before.
local function method_of(block)
  block = block:gsub("^[\32-\63]+", "")
  local first, length = block:byte(1, 2)
  if first == 0x82 or first == 0x83 then
    return first == 0x82 and "GET" or "POST"
  elseif first ~= 0x42 and first ~= 0x02 and first ~= 0x12 then
    return "?"
  end
  local text = block:sub(3, 2 + length % 128)
  return length >= 128 and huffman(text) or text
end

-- ---- the ledger -----------------------------------------------------------------------------

local ledger, connections = {}, 0

-- A request counts from its head on.
local function note(connection, protocol, method)
  local entry = { connection = connection.number, protocol = protocol, method = method, size = 0, body = "" }
  ledger[#ledger + 1] = entry
  return entry
end

-- Its body is added as it comes.
local function note_body(entry, bytes)
  entry.size = entry.size + #bytes
  entry.body = (entry.body .. bytes):sub(1, BODY_START)
end

-- ---- the port -------------------------------------------------------------------------------

local listener, port, holder

local function bind(wanted)
  local bound = assert(socket.tcp4())
  bound:setoption("reuseaddr", true)
  assert(bound:bind("127.0.0.1", wanted))
  return bound
end

local function listen(wanted)
  local bound = bind(wanted)
  assert(bound:listen(64))
  return bound, select(2, bound:getsockname())
end

-- As if the server were stopped: nobody listens until it is told to be well again. The port stays bound, or it might
-- be another's by then.
local function leave()
  if listener then
    listener:close()
    listener, holder = nil, bind(port)
  end
end

local function return_to_port()
  if not listener then
    listener, port = listen(port or 0)
    if holder then
      holder = holder:close() and nil
    end
  end
end

-- ---- connections ----------------------------------------------------------------------------

-- Each is a coroutine, which yields where bytes are missing.
local Connection = {}
Connection.__index = Connection

local CLOSED = {} -- raised where the client is gone

function Connection:receive(pattern)
  local bytes = ""
  while true do
    local whole, reason, part = self.tls:receive(pattern, bytes)
    if whole then
      return whole
    elseif reason ~= "wantread" and reason ~= "timeout" then
      error(CLOSED, 0)
    end
    bytes = part
    coroutine.yield()
  end
end

function Connection:send(...)
  self.tls:settimeout(SEND_SECONDS)
  local sent = self.tls:send(table.concat { ... })
  self.tls:settimeout(0)
  if not sent then
    error(CLOSED, 0)
  end
end

function Connection:close()
  self.tls:close()
  error(CLOSED, 0)
end

-- Never collected: that would close a number which by then may be another connection's.
local aborted = {}

-- Without a goodbye, neither TLS's nor TCP's. The TLS library cannot be told not to linger, a plain socket can.
function Connection:abort()
  local plain = socket.tcp4()
  plain:close()
  plain:setfd(self.tls:getfd())
  plain:setoption("linger", { on = true, timeout = 0 })
  plain:close()
  aborted[#aborted + 1] = self.tls
  error(CLOSED, 0)
end

-- ---- what becomes of a request --------------------------------------------------------------

local function answer(connection, stream)
  connection:send(head(stream, 200, #ANSWER), frame(DATA, END_STREAM, stream, ANSWER))
end

local function send_reset(code)
  return function(connection, stream)
    connection:send(reset(stream, code))
  end
end

-- The head and a part of the body, then whatever breaks it off.
local function cut(status, finish)
  return function(connection, stream)
    connection:send(head(stream, status, #ANSWER), frame(DATA, 0, stream, ANSWER:sub(1, 5)))
    finish(connection, stream)
  end
end

-- A client has to acknowledge each of these, and an acknowledgement brings the next one.
local function flood(kind, payload)
  return function(connection)
    connection.flood = { frame = frame(kind, 0, 0, payload), left = FLOOD }
    connection:send(connection.flood.frame:rep(FLOOD_AT_ONCE))
  end
end

local function go_on_flooding(connection)
  local going_on = connection.flood
  if going_on and going_on.left > 0 then
    going_on.left = going_on.left - 1
    connection:send(going_on.frame)
  end
end

local function goaway_below(connection, stream)
  connection:send(goaway(math.max(stream - 2, 0)))
end

-- The end of a connection may overtake what was sent before it, so the client gets time to read that.
local function wait()
  socket.sleep(READ_SECONDS)
end

local function in_turn(first, second)
  return function(connection, stream)
    first(connection, stream)
    second(connection, stream)
  end
end

local faults = {
  none = answer,
  silence = function() end,
  close = Connection.close,
  abort = Connection.abort,
  refused_stream = send_reset(REFUSED_STREAM),
  internal_error = send_reset(INTERNAL_ERROR),
  cancel = send_reset(CANCEL),
  no_error = send_reset(NO_ERROR),
  http_1_1_required = send_reset(HTTP_1_1_REQUIRED),
  -- "Your last request was not looked at."
  goaway_below = goaway_below,
  goaway_below_close = in_turn(goaway_below, Connection.close),
  -- "It was the last one that I look at", and then there is nothing to be seen.
  goaway_including_close = function(connection, stream)
    connection:send(goaway(stream))
    connection:close()
  end,
  -- As a server does that is about to stop, and does it well.
  goaway_answer_close = function(connection, stream)
    connection:send(goaway(stream))
    answer(connection, stream)
    connection:close()
  end,
  answer_goaway = function(connection, stream)
    answer(connection, stream)
    connection:send(goaway(stream))
  end,
  -- The end of an idle connection, with HTTP/2's goodbye and without.
  answer_goaway_close = function(connection, stream)
    answer(connection, stream)
    wait()
    connection:send(goaway(stream))
    connection:close()
  end,
  answer_close = in_turn(in_turn(answer, wait), Connection.close),
  -- What a server may say at any time.
  ping_silence = function(connection)
    connection:send(frame(PING, 0, 0, ("p"):rep(8)))
  end,
  answer_ping = function(connection, stream)
    answer(connection, stream)
    wait()
    connection:send(frame(PING, 0, 0, ("p"):rep(8)))
  end,
  answer_abort = in_turn(in_turn(answer, wait), Connection.abort),
  -- Whoever tries again finds nobody.
  refused_stream_leave = in_turn(leave, send_reset(REFUSED_STREAM)),
  abort_leave = in_turn(leave, Connection.abort),
  early_hints_refused = function(connection, stream)
    connection:send(head(stream, 103), reset(stream, REFUSED_STREAM))
  end,
  cut_reset = cut(200, send_reset(INTERNAL_ERROR)),
  cut_refused = cut(200, send_reset(REFUSED_STREAM)),
  cut_goaway_below = cut(200, goaway_below),
  cut_close = cut(200, Connection.close),
  cut_abort = cut(200, in_turn(wait, Connection.abort)),
  cut_silence = cut(200, function() end),
  cut_404 = cut(404, send_reset(INTERNAL_ERROR)),
  cut_500 = cut(500, send_reset(INTERNAL_ERROR)),
  -- DATA belongs to no stream here, which is an error of the whole connection.
  garbage_frame = function(connection)
    connection:send(frame(DATA, 0, 0, "garbage"))
  end,
  -- Read as a frame: far longer than any may be.
  garbage_bytes = function(connection)
    connection:send "HTTP/1.1 400 Bad Request\r\n\r\n"
  end,
  settings_flood = flood(SETTINGS, ""),
  ping_flood = flood(PING, ("p"):rep(8)),
}

-- What happens as soon as there is a head, so perhaps in the middle of a body.
local early_faults = {
  early_refused_stream = faults.refused_stream,
  early_goaway_below = faults.goaway_below,
  early_close = faults.close,
  early_abort = faults.abort,
}

-- What happens to the next requests, and to how many.
local current = { name = "none", left = 0 }

-- `of.none`, perhaps nil, where the present fault is none of these.
local function next_fault(of)
  if current.left == 0 or not of[current.name] then
    return of.none
  end
  current.left = current.left - 1
  return of[current.name]
end

-- ---- HTTP/2 ---------------------------------------------------------------------------------

function Connection:receive_frame()
  local start = self:receive(9)
  local length = unpack_number(start:sub(1, 3))
  return {
    kind = start:byte(4),
    flags = start:byte(5),
    stream = unpack_number(start:sub(6)),
    payload = length > 0 and self:receive(length) or "",
  }
end

-- A block of headers without what may surround it.
local function block_of(received)
  local from, to = 1, #received.payload
  if has_flag(received.flags, PADDED) then
    from, to = 2, to - received.payload:byte(1)
  end
  return received.payload:sub(has_flag(received.flags, PRIORITY) and from + 5 or from, to)
end

local function receive_block(connection, received)
  local block, flags = block_of(received), received.flags
  while not has_flag(flags, END_HEADERS) do
    local more = connection:receive_frame()
    assert(more.kind == CONTINUATION)
    block, flags = block .. more.payload, more.flags
  end
  return block
end

local function end_of_request(connection, received)
  if has_flag(received.flags, END_STREAM) and connection.streams[received.stream] then
    connection.streams[received.stream] = nil
    next_fault(faults)(connection, received.stream)
  end
end

local function give_window(connection, stream, size)
  connection:send(frame(WINDOW_UPDATE, 0, stream, pack(size, 4)))
end

local on_frame = {
  [HEADERS] = function(connection, received)
    local entry = note(connection, "h2", method_of(receive_block(connection, received)))
    local early = next_fault(early_faults)
    if early then
      early(connection, received.stream)
    else
      connection.streams[received.stream] = entry
      end_of_request(connection, received)
    end
  end,
  [DATA] = function(connection, received)
    local entry, size = connection.streams[received.stream], #received.payload
    if size > 0 then
      give_window(connection, 0, size)
    end
    if entry and size > 0 then
      note_body(entry, received.payload)
      give_window(connection, received.stream, size)
    end
    end_of_request(connection, received)
  end,
  [SETTINGS] = function(connection, received)
    if has_flag(received.flags, ACK) then
      go_on_flooding(connection)
    else
      connection:send(frame(SETTINGS, ACK, 0, ""))
    end
  end,
  [PING] = function(connection, received)
    if has_flag(received.flags, ACK) then
      go_on_flooding(connection)
    else
      connection:send(frame(PING, ACK, 0, received.payload))
    end
  end,
}

local function serve_2(connection)
  connection.streams = {}
  connection:send(frame(SETTINGS, 0, 0, pack(HEADER_TABLE_SIZE, 2) .. pack(0, 4)))
  assert(connection:receive(#PREFACE) == PREFACE)
  while true do
    local received = connection:receive_frame()
    local handle = on_frame[received.kind]
    if handle then
      handle(connection, received)
    end
  end
end

-- ---- HTTP/1.1 -------------------------------------------------------------------------------

local function serve_1(connection)
  while true do
    local entry = note(connection, "h1", connection:receive("*l"):match "^%S+")
    local length = 0
    repeat
      local line = connection:receive "*l"
      length = tonumber(line:lower():match "^content%-length: (%d+)") or length
    until line == ""
    note_body(entry, length > 0 and connection:receive(length) or "")
    connection:send("HTTP/1.1 200 OK\r\nContent-Length: ", #ANSWER, "\r\n\r\n", ANSWER)
  end
end

-- ---- the process ----------------------------------------------------------------------------

local function serve(connection)
  repeat
    local done, reason = connection.tls:dohandshake()
    if not done and reason ~= "wantread" then
      error(CLOSED, 0)
    elseif not done then
      coroutine.yield()
    end
  until done
  local run = connection.tls:getalpn() == "h2" and serve_2 or serve_1
  run(connection)
end

local function accept(context)
  local plain = assert(listener:accept())
  plain:setoption("tcp-nodelay", true)
  local tls = assert(ssl.wrap(plain, context))
  tls:settimeout(0)
  connections = connections + 1
  local connection = setmetatable({ tls = tls, number = connections }, Connection)
  connection.run = coroutine.create(serve)
  return connection
end

-- Returns whether the connection is still of use.
local function resume(connection)
  local ok, problem = coroutine.resume(connection.run, connection)
  if ok then
    return true
  elseif problem ~= CLOSED then
    io.stderr:write(debug.traceback(connection.run, tostring(problem)), "\n")
  end
  if aborted[#aborted] ~= connection.tls then
    connection.tls:close()
  end
end

local commands = {
  fault = function(name, times)
    assert(faults[name] or early_faults[name], name)
    current = { name = name, left = tonumber(times) }
    return_to_port()
    return ""
  end,
  -- What arrived since the last time that somebody asked, and how many connections there were ever.
  ledger = function()
    local lines = {}
    for i, entry in ipairs(ledger) do
      lines[i] = ("%d %s %s %d %s\n"):format(entry.connection, entry.protocol, entry.method, entry.size, entry.body)
    end
    ledger = {}
    return connections .. "\n" .. table.concat(lines)
  end,
}

-- One line is one command; the answer ends in an empty line. Returns false when the line is the last one.
local function obey(control)
  local line = control:receive "*l"
  if not line then
    return false
  end
  local name, first, second = line:match "^(%S+) ?(%S*) ?(%S*)$"
  control:send(commands[name](first, second) .. "\n")
  return true
end

-- Moved into its place whole, so that nobody reads half of it.
local function write_ports(path, ...)
  local file = assert(io.open(path .. ".new", "w"))
  assert(file:write(table.concat({ ... }, " ")))
  assert(file:close())
  assert(os.rename(path .. ".new", path))
end

-- Serves whoever has something to say; returns false at the end.
local function turn(control, context, open)
  local sockets = { control, listener }
  for tls in pairs(open) do
    sockets[#sockets + 1] = tls
  end
  for _, ready in ipairs((socket.select(sockets))) do
    if ready == control and not obey(control) then
      return false
    end
    local connection = ready == listener and accept(context) or open[ready]
    if connection then
      open[connection.tls] = resume(connection) and connection or nil
    end
  end
  return true
end

local function main(certificate, key, folder)
  local context = assert(ssl.newcontext {
    mode = "server", protocol = "any", options = { "all", "no_sslv2", "no_sslv3" },
    certificate = certificate, key = key, alpn = { "h2", "http/1.1" },
  })
  local controller, control_port = listen(0)
  return_to_port()
  write_ports(folder .. "/ports", port, control_port)
  controller:settimeout(START_SECONDS)
  local control = controller:accept()
  local open = {}
  repeat until not control or not turn(control, context, open)
  process.remove_folder(folder)
end

main((table.unpack or unpack)(arg))
