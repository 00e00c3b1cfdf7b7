--- What the clients of all services share: options, one transport, closing.
---
--- A client is declared: `name`, `options` (a schema; the shared ones are added), `option_faults` (by an option's path,
--- what is wrong with its text), `address` (the option that holds the service's), `base_url`, `credentials`, `headers`
--- (functions of the options), `refusals` (see integrations.refusal), `response_headers` (those that it reads), and
--- `services`.
local arguments = require "integrations.arguments"
local failure = require "integrations.failure"
local integrations = require "integrations"
local match = require "integrations.match"
local rate_limit = require "integrations.rate_limit"
local refusal = require "integrations.refusal"
local retry = require "integrations.retry"
local service = require "integrations.service"
local transport = require "integrations.transport"

local client = {}

---@class integrations.Options
---@field timeout? number seconds for a whole call, retries included (30)
---@field connect_timeout? number seconds for one connection (5)
---@field max_attempts? integer how often a call may be tried where that is safe (3)
---@field retry_writes? boolean lets a write that does no more twice than once (update, delete) be tried
---  again after an unknown outcome (false)
---@field ca_file? string file of trusted certificates (PEM); absent: the system's
---@field proxy? string address of an HTTP proxy; absent: none, whatever the environment says
---@field on_event? fun(event: integrations.Event) told of each request, response, retry, wait and failure
---@field transport? "curl"|"nginx"|integrations.Transport
---@field max_connections? integer connections to the service at once (256)
---@field allow_blocking? boolean nginx only: lets calls block the worker in phases where nothing can yield (false)
---@field rate_limit_dict? string nginx only: the `lua_shared_dict` by which workers share the rate limit that the
---  service reports; absent: each client has its own knowledge of it
---@field strict? boolean false lets names through that this version does not know (true)
local shared_options = {
  timeout = { type = "number", minimum = 0.001, maximum = 86400 },
  connect_timeout = { type = "number", minimum = 0.001, maximum = 86400 },
  max_attempts = { type = "integer", minimum = 1, maximum = 100 },
  retry_writes = { type = "boolean" },
  ca_file = { type = "string", minLength = 1 },
  proxy = { type = "string", minLength = 1 },
  on_event = { type = "function" },
  transport = { type = "any" },
  max_connections = { type = "integer", minimum = 1, maximum = 10000 },
  allow_blocking = { type = "boolean" },
  rate_limit_dict = { type = "string", minLength = 1 },
  strict = { type = "boolean" },
}

-- ---- options --------------------------------------------------------------------------------

-- Only what no name server is asked about: "127.0.0.1.example.com" is not.
local function is_loopback(host)
  local b, c, d = host:match("^127%.(%d+)%.(%d+)%.(%d+)$")
  local is_address = b and tonumber(b) < 256 and tonumber(c) < 256 and tonumber(d) < 256
  return host == "localhost" or host == "[::1]" or is_address or false
end

-- Scheme, host, port (or nil) and path of a base_url; nothing where it is none.
local function split_url(url)
  local scheme, host, rest = url:match("^(%a+)://([%w%.%-]+)(.*)$")
  if not scheme then
    scheme, host, rest = url:match("^(%a+)://(%[[%x:]+%])(.*)$")
  end
  local port, path = (rest or ""):match("^:(%d+)(.*)$")
  return scheme, host, tonumber(port), path or rest
end

--- What is wrong with a base_url, or nil.
local function url_fault(url)
  local scheme, host, port, path = split_url(url)
  if not scheme or not path:find("^[%w%-%._~/]*$") or (port or 1) > 65535 then
    return 'must look like "https://host", "https://host:8443" or "https://host/path"'
  elseif scheme ~= "https" and scheme ~= "http" then
    return "must begin with https://"
  elseif scheme == "http" and not is_loopback(host) then
    return "must begin with https://: the credentials would be readable on the way (http is for loopback only)"
  end
end

--- What would break a header apart, or nil. Trailing line ends come from keys read from files.
---@param value string
---@return string?
function client.header_fault(value)
  if value == "" then
    return "must not be empty"
  elseif not value:find("[^ ]") then
    return "must not be blank"
  elseif value:find("%c") then
    return "must not have line breaks or control characters: was it read with its line end?"
  end
end

--- What would break a secret apart, or nil: keys and tokens have neither spaces nor other alphabets.
---@param value string
---@return string?
function client.secret_fault(value)
  local fault = client.header_fault(value)
  if not fault and value:find("[^\33-\126]") then
    fault = "must not have spaces or characters that are not ASCII"
  end
  return fault
end

local function text_fault(value)
  return value:find("%z") and "must not have a NUL byte" or nil
end

local function address_fault(value)
  return value:find("[%c%s]") and "must not have spaces or control characters" or nil
end

local option_faults = {
  ca_file = text_fault,
  proxy = address_fault,
  rate_limit_dict = rate_limit.dict_fault,
}

-- What is wrong with the two together, or nil.
local function proxy_fault(proxy, url, address)
  if type(proxy) == "string" and type(url) == "string" and url:find("^http:") then
    return ("would get the credentials unencrypted: %s must begin with https://"):format(address)
  end
end

-- All faults of the options, or nil.
local function check_options(declaration, options)
  local ok, faults = declaration.check(options, false, nil)
  faults = ok and {} or faults
  local given = type(options) == "table" and options or {}
  local function add(name, message)
    if message then
      faults[#faults + 1] = { field = name, message = message }
    end
  end
  local address = declaration.address
  for _, source in ipairs { option_faults, { [address] = url_fault }, declaration.option_faults } do
    for path, fault_of in pairs(source) do
      local value = match.at(given, path)
      add(path, type(value) == "string" and fault_of(value))
    end
  end
  add("proxy", proxy_fault(rawget(given, "proxy"), rawget(given, address), address))
  for _, fault in ipairs(faults) do
    fault.field = fault.field ~= "" and fault.field or "options"
  end
  return faults[1] and faults
end

-- ---- clients --------------------------------------------------------------------------------

local body_headers = { ["Content-Type"] = "application/json" }

-- What is read here of a response's headers, see retry and rate_limit; a declaration adds its own.
local read_headers = { "date", "retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset" }

local function wanted_headers(declaration)
  local names = {}
  for _, list in ipairs { read_headers, declaration.response_headers or {} } do
    for _, name in ipairs(list) do
      names[#names + 1] = name
    end
  end
  return names
end

local function open_transport(declaration, options, base_url)
  return transport.open(options.transport, {
    origin = base_url,
    credentials = declaration.credentials(options),
    user_agent = "lua-integrations/" .. integrations.version,
    connect_timeout = options.connect_timeout or 5,
    ca_file = options.ca_file,
    proxy = options.proxy,
    max_connections = options.max_connections,
    wanted_headers = wanted_headers(declaration),
    allow_blocking = options.allow_blocking,
  })
end

local function new_rate_limit(declaration, options, base_url)
  if options.rate_limit_dict then
    return rate_limit.shared(options.rate_limit_dict, base_url, declaration.credentials(options))
  end
  return rate_limit.new()
end

local default_ports = { https = 443, http = 80 }

local function new_session(declaration, options, base_url, opened)
  local scheme, host, port = split_url(base_url)
  local headers = arguments.merge({ Accept = "application/json" }, declaration.headers(options))
  return {
    transport = opened,
    now = require("integrations.core").now,
    closed = false,
    base_url = base_url,
    server_address = host:gsub("[%[%]]", ""),
    server_port = port or default_ports[scheme],
    headers = headers,
    body_headers = arguments.merge(body_headers, headers),
    timeout = options.timeout or 30,
    max_attempts = options.max_attempts or 3,
    retry_writes = options.retry_writes,
    budget = retry.new_budget(),
    rate_limit = new_rate_limit(declaration, options, base_url),
    on_event = options.on_event,
    strict = options.strict,
    read_failure = declaration.read_failure,
    address = declaration.address,
  }
end

local function new_client(class, session)
  local self = { session = session }
  for name, part in pairs(class.declaration.services) do
    self[name] = part.new(session)
  end
  return setmetatable(self, class)
end

--- Makes a client that differs in its headers and borrows all else, the connections above all.
---@param parent table
---@param headers table<string, string>
---@return table
function client.derive(parent, headers)
  local session = { borrowed = true, headers = arguments.merge(parent.session.headers, headers) }
  session.body_headers = arguments.merge(body_headers, session.headers)
  setmetatable(session, { __index = parent.session }) -- so that it is closed once its parent is
  return new_client(getmetatable(parent), session)
end

local function close(session)
  if session.closed then
    return
  end
  session.closed = true
  if not session.borrowed then
    session.transport:close()
  end
end

--- Makes a client's class from its declaration.
---@param declaration table
---@return table class with `new(options) -> client | nil, failure`
function client.define(declaration)
  local properties = declaration.options.properties
  for name, schema in pairs(shared_options) do
    properties[name] = schema
  end
  properties[declaration.address] = { type = "string", minLength = 1 }
  declaration.check = arguments.compile(declaration.options)
  declaration.read_failure = refusal.reader(declaration.refusals, declaration.address)
  local class = { declaration = declaration }
  class.__index = class
  --- Ends the client: its connections are closed, the credentials wiped, later calls fail. Any
  --- number of times. A client made by `as` ends alone, leaving the connections to its parent.
  function class:close()
    service.check_self(self, class, declaration.name .. ".close")
    close(self.session)
  end
  class.__close = class.close
  --- Makes a client; nothing is sent.
  function class.new(options)
    local name = declaration.name .. ".new"
    local faults = check_options(declaration, options)
    if faults then
      return nil, failure.invalid(name, faults)
    end
    options = arguments.merge({}, options) -- what was checked, and nothing that a metatable adds to it
    local base_url = declaration.base_url(options):gsub("/+$", "")
    local opened, message = open_transport(declaration, options, base_url)
    if not opened then
      return nil, failure.invalid(name, { { field = "transport", message = message } })
    end
    return new_client(class, new_session(declaration, options, base_url, opened))
  end
  return class
end

--- What a client's module gives to those who require it: the function `new`.
---@param class table
---@return table module
function client.module(class)
  local module = {}
  function module.new(given)
    if given == module then
      error(("call it with a dot: %s.new"):format(class.declaration.name), 2)
    end
    return class.new(given)
  end
  return module
end

return client
