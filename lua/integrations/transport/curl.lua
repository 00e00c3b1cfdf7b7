--- The transport of plain Lua: libcurl, driven until the call is through.
local core = require "integrations.core"

local Curl = {}
Curl.__index = Curl

local curl = {}

-- Long enough to cost nothing, short enough for a debug hook (Ctrl-C) to get its turn.
local TURN_MS = 1000

local function drive(engine, id, timed)
  local response, problem
  repeat
    engine:run(TURN_MS)
    response, problem = engine:take(id, timed)
  until response ~= false
  return response, problem
end

--- Sends a request and waits for the answer.
---@param request integrations.Request
---@return integrations.Response? response
---@return integrations.Problem? problem
function Curl:send(request)
  local engine = self.engine
  local id, message =
    engine:submit(request.method, request.url, request.headers, request.body, request.timeout_ms)
  if not id then
    return nil, { code = "CURLE_FAILED_INIT", message = message, sent = false }
  end
  local ok, response, problem = pcall(drive, engine, id, request.timed)
  if not ok then
    engine:cancel(id)
    error(response, 0)
  end
  return response, problem
end

--- A text that somebody else wrote, without the client's secrets: an answer may repeat the request's
--- headers, and a failure goes into logs.
---@param text string
---@return string
function Curl:redact(text)
  return self.engine:redact(text)
end

--- Ends calls that run, closes the connections and wipes the credentials.
function Curl:close()
  self.engine:close()
end

--- Makes a transport with connections of its own.
---@param options integrations.transport.Options
---@return table? transport
---@return string? message
function curl.open(options)
  local engine, message = core.engine {
    origin = options.origin,
    credentials = options.credentials,
    user_agent = options.user_agent,
    connect_timeout_ms = math.ceil(options.connect_timeout * 1000),
    ca_file = options.ca_file,
    proxy = options.proxy,
  }
  if not engine then
    return nil, message
  end
  return setmetatable({ engine = engine }, Curl)
end

return curl
