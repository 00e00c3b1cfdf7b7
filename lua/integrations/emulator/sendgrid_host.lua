--- What SendGrid's APIs share, as the emulator plays them: the keys and their scopes, the subusers, the errors of the
--- gateway in front of them, comma-delimited parameters.

local json = require "integrations.emulator.json"
local records = require "integrations.emulator.records"
local url = require "integrations.emulator.url"

--- The scopes' names are the emulator's own; the API documents that there are scopes, not what they are called. A key
--- without a list has them all.
local DEFAULT_KEYS = {
  ["SG.emulator.full"] = { user_id = "12345" },
  ["SG.emulator.read"] = { user_id = "12345", scopes = { "marketing.integrations.read", "marketing.segments.read" } },
}

local NO_SCOPE = "access forbidden. please ensure you have the correct scopes defined. see "
  .. "https://docs.sendgrid.com/api-reference/how-to-use-the-sendgrid-v3-api/authorization#api-key-permissions-list"
local NO_KEY = "authorization required"
local BAD_KEY = "The provided authorization grant is invalid, expired, or revoked"

--- What a status says when nothing more precise is known.
local MESSAGES = {
  [400] = "bad request",
  [401] = BAD_KEY,
  [403] = NO_SCOPE,
  [404] = "not found",
  [405] = "method not allowed",
  [406] = "no acceptable content type: the Accept header must allow application/json",
  [413] = "request body too large",
  [415] = "content type must be application/json",
  [429] = "too many requests",
  [451] = "unavailable for legal reasons",
  [500] = "internal error",
  [502] = "bad gateway",
  [503] = "service unavailable",
  [504] = "gateway timeout",
}

--- Statuses whose errors have no `field`. A 400's is "request"; everywhere else it is null.
local WITHOUT_FIELD = { [403] = true, [404] = true, [500] = true }

---@class integrations.emulator.SendGridHost
local Host = {
  secret_headers = { "authorization" },
  --- Without an Accept header that allows JSON the answer is 406.
  needs_accept = true,
}

--- The body of an error answer.
---@param status integer
---@param message? string the status's own message, if absent
---@return table
function Host.problem(_, status, message)
  local entry = { message = message or MESSAGES[status] or "error" }
  if status == 400 then
    entry.field = "request"
  elseif not WITHOUT_FIELD[status] then
    entry.field = json.null
  end
  return { errors = { entry } }
end

--- Headers that a queued answer gets if it brings none.
---@param status integer
---@return table<string, string>?
function Host.queued_headers(_, status)
  if status ~= 429 then return nil end
  return { ["x-ratelimit-limit"] = "600", ["x-ratelimit-remaining"] = "0", ["x-ratelimit-reset"] = "1" }
end

--- Finds the caller's account and checks the scope; returns nothing, or a status and a message.
---@param call table
function Host:authorize(call)
  local header = call.headers.authorization or ""
  if header == "" then return 401, NO_KEY end
  local scheme, name = header:match("^(%a+) +(%S+)$")
  local key = scheme and scheme:lower() == "bearer" and self.keys[name]
  if not key then return 401, BAD_KEY end
  local subuser = call.headers["on-behalf-of"]
  if subuser and self.subusers and not records.contains(self.subusers, subuser) or subuser == "" then
    return 403, ("access forbidden. there is no such subuser (%s)"):format(subuser)
  end
  if key.scopes and not records.contains(key.scopes, call.operation.scope) then return 403, NO_SCOPE end
  call.user_id = key.user_id
  call.account = self:account(call.state, key.user_id, subuser)
end

--- The account of one user, or of one subuser of that user. Kept by name: making it is not a change anybody can see.
function Host:account(state, user_id, subuser)
  local name = user_id .. "\0" .. (subuser or "")
  state.accounts[name] = state.accounts[name] or self.new_account()
  return state.accounts[name]
end

-- Parameters ----------------------------------------------------------------------------------------------------------

--- The raw value of a parameter that is a list, "" if there is none; nil if it came in another form than one
--- comma-delimited parameter.
local function raw_list(query, name)
  local value
  for _, parameter in ipairs(query) do
    if parameter.name:sub(1, #name + 1) == name .. "[" then return nil end
    if parameter.name == name then
      if value then return nil end
      value = parameter.value
    end
  end
  return value or ""
end

local host = {
  --- For an API that overrides it, and still has to answer like the others.
  problem = Host.problem,
}

--- Reads a list parameter: splits at the literal commas, then decodes. Nothing at all is a list of one empty string;
--- nil and a message if it came in another form.
---@param query table[]
---@param name string
---@return string[]? values, string? message
function host.read_list(query, name)
  local raw = raw_list(query, name)
  if not raw then return nil, name .. " must be one comma-delimited parameter" end
  local values = {}
  for part in (raw .. ","):gmatch("([^,]*),") do values[#values + 1] = url.query_decode(part) end
  return values
end

--- Makes the class of one API's service: `declared` is its name, prefix, routes, state and account, and overrides what
--- it names.
---@param declared table
---@return table
function host.extend(declared)
  local Service = setmetatable(declared, { __index = Host })
  Service.__index = Service
  return Service
end

--- Makes the service of one API for one emulator.
---@param Service table
---@param options integrations.emulator.Options
---@param settings table what only this API has
---@return table
function host.new(Service, options, settings)
  settings.keys = options.keys or DEFAULT_KEYS
  settings.subusers = options.subusers
  return setmetatable(settings, Service)
end

return host
