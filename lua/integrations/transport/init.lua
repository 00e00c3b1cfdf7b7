--- How bytes move: chooses the transport of a client.
---
--- A transport is a table with `send(self, request)`, which returns a response, or nil and a problem:
---   request  = { method, url, headers = { [name] = value }, body?, timeout_ms }
---   response = { status, headers = { [lower-case name] = value }, body }
---   problem  = { code, message, sent, status? }   `sent`: whether a byte of the request may have left
--- It may have `close(self)`, and `sleep(self, seconds)` for where a plain sleep would block others.
local transport = {}

local built_in = {
  curl = "integrations.transport.curl",
}

---@class integrations.transport.Options
---@field origin string what all addresses begin with
---@field credentials table<string, string> headers that go with each request and are secret
---@field user_agent string
---@field connect_timeout number seconds
---@field ca_file? string
---@field proxy? string

-- A transport that does not say what was sent leaves that open.
local function read_problem(problem)
  if type(problem) ~= "table" then
    problem = { message = tostring(problem or "it gives no reason") }
  end
  return { code = problem.code, message = problem.message or "it gives no reason", sent = problem.sent,
    status = problem.status }
end

-- A transport of the caller's own gets the credentials with each request: it has to send them.
local function wrap(own, options)
  local wrapped = {}
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
    }
    if not response then
      return nil, read_problem(problem)
    end
    response.headers = response.headers or {}
    response.body = response.body or ""
    return response
  end
  function wrapped.close()
    if own.close then
      own:close()
    end
  end
  function wrapped.sleep(_, seconds)
    if own.sleep then
      own:sleep(seconds)
    else
      require("integrations.core").sleep(seconds)
    end
  end
  return wrapped
end

--- Makes the transport of a client.
---@param choice? string|table a name, a transport of the caller's own, or nil for what fits here
---@param options integrations.transport.Options
---@return table? transport
---@return string? message why there is none
function transport.open(choice, options)
  if type(choice) == "table" and type(choice.send) == "function" then
    return wrap(choice, options)
  end
  if choice == nil and rawget(_G, "ngx") then
    -- Never block a worker silently.
    return nil, 'must be chosen inside nginx: "curl" works, and blocks the worker during a call'
  end
  local module = built_in[choice or "curl"]
  if not module then
    return nil, 'must be "curl", or a table with a function send'
  end
  return require(module).open(options)
end

return transport
