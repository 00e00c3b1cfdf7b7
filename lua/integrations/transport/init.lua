--- How bytes move: chooses the transport of a client.
local task = require "integrations.task"

---@class integrations.Request
---@field method string
---@field url string
---@field headers table<string, string>
---@field body? string
---@field timeout_ms integer how long this attempt may take
---@field timed? boolean whether anybody wants to know the durations

---@class integrations.Durations seconds, as far as the transport knows them
---@field dns? number
---@field connect? number
---@field tls? number
---@field first_byte? number until the answer began, since the attempt did

---@class integrations.Response
---@field status integer
---@field headers? table<string, string>
---@field body? string
---@field durations? integrations.Durations

---@class integrations.Problem
---@field message string what went wrong, for people
---@field code? string libcurl's name of it
---@field sent? boolean whether a byte of the request may have left; absent: it may
---@field status? integer where a status line came, but no whole response
---@field durations? integrations.Durations

--- What a transport of the caller's own must be. What it raises passes through.
---@class integrations.Transport
---@field send fun(self, request: integrations.Request): integrations.Response?, integrations.Problem?
---@field close? fun(self)
---@field sleep? fun(self, seconds: number) for where a plain sleep would block others
local transport = {}

local built_in = {
  curl = "integrations.transport.curl",
  nginx = "integrations.transport.nginx",
}

---@class integrations.transport.Options
---@field origin string what all addresses begin with
---@field credentials table<string, string> headers that go with each request and are secret
---@field user_agent string
---@field connect_timeout number seconds
---@field ca_file? string
---@field proxy? string
---@field max_connections? integer (256)
---@field wanted_headers? string[] in lower case: which of a response's headers are read; absent: all
---@field allow_blocking? boolean whether a call may block nginx's worker where it cannot wait

-- What comes from a transport of the caller's own is copied, so that later on it is what it should be.
local function read_durations(durations)
  if type(durations) ~= "table" then
    return nil
  end
  local read = {}
  for _, name in ipairs { "dns", "connect", "tls", "first_byte" } do
    local seconds = rawget(durations, name)
    read[name] = type(seconds) == "number" and seconds >= 0 and seconds or nil
  end
  return read
end

local function read_headers(headers)
  local read = {}
  for name, value in next, headers do
    if type(name) == "string" and (type(value) == "string" or type(value) == "number") then
      read[name:lower()] = tostring(value)
    end
  end
  return read
end

-- An integer, on every Lua, or nil.
local function read_status(status)
  if type(status) == "number" and status >= 100 and status < 600 and status % 1 == 0 then
    return tonumber(("%d"):format(status))
  end
end

-- A transport that does not say what was sent leaves that open.
local function read_problem(problem)
  if type(problem) ~= "table" then
    problem = { message = tostring(problem or "it gives no reason") }
  end
  return { code = problem.code, message = tostring(problem.message or "it gives no reason"), sent = problem.sent,
    status = read_status(tonumber(problem.status)), durations = read_durations(problem.durations) }
end

-- What a response must have, whoever made it; what it may leave out is filled in.
local function read_response(response)
  local status = type(response) == "table" and read_status(response.status)
  if status and status >= 200 and type(response.headers or {}) == "table" and type(response.body or "") == "string" then
    return { status = status, headers = read_headers(response.headers or {}), body = response.body or "",
      durations = read_durations(response.durations) }
  end
  return nil, { message = "the transport returned what is no response; see integrations.transport" }
end

-- Replaces what is a secret: the last word of each credential's value. What is shorter than a secret
-- would be found in any text.
local function redact(credentials, text)
  for _, value in pairs(credentials) do
    local secret = value:match "[^ ]*$"
    if #secret >= 4 then
      text = text:gsub((secret:gsub("%W", "%%%0")), "…")
    end
  end
  return text
end

-- A transport of the caller's own gets the credentials with each request: it has to send them.
local function wrap(own, options)
  local wrapped = {}
  function wrapped.redact(_, text)
    return redact(options.credentials, text)
  end
  function wrapped.send(_, request)
    local headers = { ["User-Agent"] = options.user_agent }
    for _, source in ipairs { options.credentials, request.headers } do
      for name, value in pairs(source) do
        headers[name] = value
      end
    end
    local response, problem = own:send {
      method = request.method,
      url = request.url,
      headers = headers,
      body = request.body,
      timeout_ms = request.timeout_ms,
      timed = request.timed,
    }
    if not response then
      problem = read_problem(problem)
      problem.message = wrapped:redact(problem.message)
      return nil, problem
    end
    return read_response(response)
  end
  function wrapped.close()
    if own.close then
      own:close()
    end
  end
  wrapped.sleep = own.sleep and function(_, seconds)
    own:sleep(seconds)
  end
  return wrapped
end

-- Blocks, in turns, so that a debug hook (Ctrl-C) has its own.
local function block(seconds)
  local core = require "integrations.core"
  local deadline = core.now() + seconds
  local left = seconds
  while left > 0 do
    core.sleep(math.min(left, 1))
    left = deadline - core.now()
  end
end

-- Lets others go on meanwhile, where there are any.
local function sleep(self, seconds)
  local current = task.current()
  if current then
    current:sleep(seconds)
  elseif not (self.pause and self:pause(seconds)) then
    block(seconds)
  end
end

local function open(choice, options)
  if type(choice) == "table" and type(choice.send) == "function" then
    return wrap(choice, options)
  end
  local in_nginx = rawget(_G, "ngx") ~= nil
  local module = built_in[choice or in_nginx and "nginx" or "curl"]
  if not module then
    return nil, 'must be "curl", "nginx", or a table with a function send'
  end
  return require(module).open(options)
end

--- Makes the transport of a client.
---@param choice? "curl"|"nginx"|integrations.Transport nil: what fits here
---@param options integrations.transport.Options
---@return table? transport with `send`, `close`, `sleep` and `redact`
---@return string? message why there is none
function transport.open(choice, options)
  local opened, message = open(choice, options)
  if opened then
    opened.sleep = opened.sleep or sleep
  end
  return opened, message
end

return transport
