--- The client for Twilio SendGrid.
---
---   local sg = assert(require("integrations.sendgrid").new { api_key = os.getenv "SENDGRID_API_KEY" })
---   for _, integration in ipairs(assert(sg.integrations:list())) do print(integration.label) end
local client = require "integrations.client"
local failure = require "integrations.failure"
local service = require "integrations.service"

---@class integrations.sendgrid.Options : integrations.Options
---@field api_key string `SG.…`
---@field region? "global"|"eu" which of SendGrid's hosts ("global")
---@field base_url? string overrides it; plain http only for a loopback address
---@field on_behalf_of? string a subuser's name, or `account-id …`
local options = {
  type = "object",
  required = { "api_key" },
  properties = {
    api_key = { type = "string" },
    region = { type = "string", enum = { "global", "eu" } },
    on_behalf_of = { type = "string" },
  },
}

-- Lua 5.5 can be built with `global` as a reserved word.
local hosts = {
  ["global"] = "https://api.sendgrid.com",
  eu = "https://api.eu.sendgrid.com",
}

-- ---- failures -------------------------------------------------------------------------------

local statuses = {
  [401] = { "unauthorized", "the API key is not accepted: check that it is whole, not revoked, "
    .. "and of this region (option region)" },
  [403] = { "forbidden", "the API key may not do this: give it the scope in SendGrid's settings, "
    .. "and check on_behalf_of" },
  [404] = { "not_found", "there is no such thing (in this account, and for this on_behalf_of)", gone = true },
  [451] = { "forbidden", "the data may not leave its region: use the other one (option region)" },
}

local wordings = {
  { statuses = { [401] = true }, words = { "credits" },
    message = "the account has used up what its plan allows: check the plan, not the key" },
}

-- More than a person reads.
local MAX_FAULTS = 100

-- A fault is a field's name, perhaps with its path, and what it must be.
local function read_fault(text, paths)
  local name, rest = text:match("^([%w_.]+)%s+(%S.*)$")
  local path = name and paths[name:match "[^.]*$"]
  if path then
    return { field = path, message = rest }
  end
end

-- Splits a message that joins faults by commas: "a must be x, b must be y" are two of them. "a must be
-- one of x, y" is one, and so is "if a is x, b must be set".
local function split_message(message, paths)
  local parts = {}
  local text = message:match("^.*[^,%s]") or "" -- linear, unlike gsub("[,%s]+$", "")
  local before = ""
  for part, separator in (text .. ","):gmatch("([^,]*)(,%s*)") do
    local last = parts[#parts]
    if last and not (read_fault(last, paths) and read_fault(part, paths)) then
      parts[#parts] = last .. before .. part
    else
      parts[#parts + 1] = part
    end
    before = separator
  end
  return parts
end

-- By a field's last name, its path: `write_key` -> `properties.write_key`.
local function paths_of(operation)
  local paths = {}
  for _, field in ipairs(operation.fields or {}) do
    paths[field.name] = field.path
  end
  return paths
end

local function add_faults(faults, message, field, operation)
  local paths = paths_of(operation)
  for _, part in ipairs(split_message(message, paths)) do
    table.insert(faults, read_fault(part, paths) or { field = field and (paths[field] or field), message = part })
  end
end

-- `ids[1]` is the second id: the service counts from nought. An index that only makes sense
-- counted from one is read so.
local function add_parameter_fault(faults, message, parameter, request)
  local name, index = parameter:match("^([%w_]+)%[(%d+)%]$")
  local values = name and request.lists and request.lists[name]
  local position = values and math.min(tonumber(index) + 1, #values)
  if not position then
    table.insert(faults, { field = parameter, message = message })
    return
  end
  table.insert(faults, {
    field = ("%s[%d]"):format(name, position),
    id = values[position],
    message = ('%s (the id "%s")'):format(message, values[position]),
  })
end

-- The entries of a body, whichever of the documented shapes it has: a list of errors, one error beside it or alone,
-- or a fault of a parameter.
local function entries_of(body)
  local entries = {}
  for i, entry in ipairs(type(body.errors) == "table" and body.errors or {}) do
    entries[i] = type(entry) == "table" and entry or { message = entry }
  end
  for _, name in ipairs { "error", "message" } do
    if type(body[name]) == "string" then
      entries[#entries + 1] = { message = body[name], parameter = body.parameter, field = body.field }
    end
  end
  return entries
end

-- All faults that a body names.
local function read_faults(body, operation, request, text_of)
  local faults, entries = {}, entries_of(body)
  for i = 1, math.min(#entries, MAX_FAULTS) do
    local entry = entries[i]
    local message = text_of(entry.message)
    local parameter = message and text_of(entry.parameter)
    if parameter then
      add_parameter_fault(faults, message, parameter, request)
    elseif message then
      add_faults(faults, message, text_of(entry.field), operation)
    end
  end
  return faults
end

local function request_id_of(body, headers, text_of)
  return text_of(body.id) or text_of(body.error_id) or text_of(headers["x-request-id"])
end

-- ---- the client -----------------------------------------------------------------------------

---@class integrations.sendgrid.Client
---@field integrations integrations.sendgrid.Integrations
---@field segments integrations.sendgrid.Segments
---@field close fun(self) ends the client; see integrations.client
local Client = client.define {
  name = "sendgrid",
  options = options,
  address = "base_url",
  option_faults = { api_key = client.secret_fault, on_behalf_of = client.header_fault },
  base_url = function(given)
    return given.base_url or hosts[given.region or "global"]
  end,
  credentials = function(given)
    return { Authorization = "Bearer " .. given.api_key }
  end,
  headers = function(given)
    return { ["on-behalf-of"] = given.on_behalf_of }
  end,
  refusals = { statuses = statuses, wordings = wordings, faults = read_faults, request_id = request_id_of },
  response_headers = { "x-request-id" },
  services = {
    integrations = require "integrations.sendgrid.integrations",
    segments = require "integrations.sendgrid.segments",
  },
}

--- A client that acts for a subuser. It shares the connections, and closes with this one.
---@param subuser string its name, or `account-id …`
---@return integrations.sendgrid.Client? client
---@return integrations.Failure? failure
function Client:as(subuser)
  service.check_self(self, Client, "sendgrid.as")
  local fault = type(subuser) ~= "string" and "must be a string, not a " .. type(subuser)
    or client.header_fault(subuser)
  if fault then
    return nil, failure.invalid("sendgrid.as", { { field = "subuser", message = fault } })
  end
  return client.derive(self, { ["on-behalf-of"] = subuser })
end

--- Makes a client. Nothing is sent.
---@alias integrations.sendgrid.new fun(given: integrations.sendgrid.Options): integrations.sendgrid.Client?,
---  integrations.Failure?

---@class integrations.sendgrid
---@field new integrations.sendgrid.new
return client.module(Client)
