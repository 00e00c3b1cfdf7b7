--- What the transports on the C core share: an engine, and the calls that wait for it.
local core = require "integrations.core"

---@class integrations.transport.Engine
---@field engine userdata
---@field waiting table<integer, table> who waits for which call
---@field closed? boolean
local Engine = {}
Engine.__index = Engine

--- Makes the engine of a transport.
---@param class table of the transport
---@param options integrations.transport.Options
---@param background boolean whether a thread of its own moves the bytes
---@return table? transport
---@return string? message
function Engine.open(class, options, background)
  local engine, message = core.engine {
    origin = options.origin,
    credentials = options.credentials,
    user_agent = options.user_agent,
    connect_timeout_ms = math.ceil(options.connect_timeout * 1000),
    max_connections = options.max_connections,
    ca_file = options.ca_file,
    proxy = options.proxy,
    background = background,
    wanted_headers = options.wanted_headers and "\n" .. table.concat(options.wanted_headers, "\n") .. "\n",
  }
  if not engine then
    return nil, message
  end
  return setmetatable({ engine = engine, waiting = {} }, class)
end

--- Starts a call: its id, or nil and why not.
---@param request integrations.Request
---@return integer? id
---@return integrations.Problem? problem
function Engine:submit(request)
  local id, message =
    self.engine:submit(request.method, request.url, request.headers, request.body, request.timeout_ms)
  if not id then
    return nil, { code = "CURLE_FAILED_INIT", message = message, sent = false }
  end
  return id
end

--- What a finished call gave; false while it is not.
---@param id integer
---@param timed? boolean
---@return integrations.Response|false|nil response
---@return integrations.Problem? problem
function Engine:take(id, timed)
  if self.closed then
    return nil, { code = "CLOSED", message = "by another part of the program", sent = true }
  end
  return self.engine:take(id, timed)
end

--- Gives a call up that is not finished.
---@param id integer
---@param code string
---@param message string
---@return nil
---@return integrations.Problem problem
function Engine:give_up(id, code, message)
  return nil, { code = code, message = message, sent = self.engine:cancel(id) }
end

--- Wakes who waits for what is finished meanwhile.
function Engine:deliver()
  if self.closed then
    return
  end
  for id in self.engine.next, self.engine do
    local waiter = self.waiting[id]
    if waiter then
      waiter:wake()
    end
  end
end

--- A text that somebody else wrote, without the client's secrets: an answer may repeat the request's
--- headers, and a failure goes into logs.
---@param text string
---@return string
function Engine:redact(text)
  return self.engine:redact(text)
end

--- Ends calls that run, closes the connections and wipes the credentials.
function Engine:close()
  self.closed = true
  self.engine:close()
  for _, waiter in pairs(self.waiting) do
    waiter:wake()
  end
end

return Engine
