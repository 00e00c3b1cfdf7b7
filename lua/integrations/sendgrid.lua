--- The client for Twilio SendGrid.
---
---   local sg = assert(require("integrations.sendgrid").new { api_key = os.getenv "SENDGRID_API_KEY" })
---   for _, integration in ipairs(assert(sg.integrations:list())) do print(integration.label) end
local client = require "integrations.client"
local failure = require "integrations.failure"
local json = require "integrations.json"
local retry = require "integrations.retry"
local service = require "integrations.service"

---@class integrations.sendgrid.Options : integrations.Options
---@field api_key string `SG.…`
---@field region? "global"|"eu" which of SendGrid's hosts ("global")
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

local hosts = {
  global = "https://api.sendgrid.com",
  eu = "https://api.eu.sendgrid.com",
}

local function key_fault(value)
  local fault = client.header_fault(value)
  if not fault and value:find("[^\33-\126]") then
    fault = "must not have spaces or characters that are not ASCII"
  end
  return fault
end

-- ---- failures -------------------------------------------------------------------------------

-- What a status means and what to do next. `kind` may be changed by what the body says.
local statuses = {
  [400] = { "rejected", "the service found fault with the request" },
  [401] = { "unauthorized", "the API key is not accepted: check that it is whole, not revoked, "
    .. "and of this region (option region)" },
  [403] = { "forbidden", "the API key may not do this: give it the scope in SendGrid's settings, "
    .. "and check on_behalf_of" },
  [404] = { "not_found", "there is no such thing (in this account, and for this on_behalf_of)" },
  [406] = { "rejected", "the service cannot answer in the form asked for: is base_url right?" },
  [413] = { "rejected", "the request is too large for the service" },
  [414] = { "rejected", "the address is too long: delete_many takes any number of ids" },
  [415] = { "rejected", "the service does not take JSON there: is base_url right?" },
  [429] = { "rate_limited", "too many requests: wait" },
  [451] = { "forbidden", "the data may not leave its region: use the other one (option region)" },
}
local other_4xx = { "rejected", "the service refused the request" }
local other_5xx = { "server", "the service failed: try again later" }

-- The server writes "nothing" in four ways.
local no_field = { [""] = true, ["null"] = true, request = true }

-- More than a person reads: cut, so that no answer can make its own reading slow.
local MAX_TEXT, MAX_FAULTS = 4096, 100

-- The server's words, without the key, which they may repeat. Cut afterwards: half a key is one, too.
local function reader_of_texts(redact)
  return function(value)
    if type(value) == "string" and not no_field[value] then
      return redact(value):sub(1, MAX_TEXT)
    end
  end
end

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
  local values = name and request.values[name]
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

-- All faults that a body names, whichever of the documented shapes it has.
local function read_faults(body, operation, request, text_of)
  local faults = {}
  local errors = type(body.errors) == "table" and body.errors
    or { { message = body.error or body.message, parameter = body.parameter, field = body.field } }
  for i = 1, math.min(#errors, MAX_FAULTS) do
    local entry = type(errors[i]) == "table" and errors[i] or { message = errors[i] }
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

-- What some words say better than the status.
local wordings = {
  { 401, "credits", "the account has used up what its plan allows: check the plan, not the key" },
}

local function message_for(status, failed, message)
  for _, row in ipairs(wordings) do
    if row[1] == status and failed:mentions(row[2]) then
      return row[3]
    end
  end
  return message
end

-- The failure that a response other than 2xx means.
local function read_failure(operation, response, request, redact)
  local body = json.decode(response.body)
  local is_json = type(body) == "table"
  local text_of = reader_of_texts(redact)
  body = is_json and body or {}
  local row = statuses[response.status]
    or response.status < 500 and other_4xx
    or other_5xx
  local failed = failure.new {
    kind = row[1],
    operation = operation.name,
    status = response.status,
    errors = read_faults(body, operation, request, text_of),
    retry_after = retry.after(response, os.time()),
    request_id = text_of(body.id) or text_of(body.error_id) or text_of(response.headers["x-request-id"]),
  }
  failed.message = message_for(response.status, failed, row[2])
  if not is_json then
    -- First, since it says more than the status: that one may be somebody else's.
    failed.message = service.describe_body(response.body) .. "; " .. failed.message
  end
  return failed
end

-- ---- the client -----------------------------------------------------------------------------

---@class integrations.sendgrid.Client
---@field integrations integrations.sendgrid.Integrations
---@field close fun(self) ends the client; see integrations.client
local Client = client.define {
  name = "sendgrid",
  options = options,
  option_faults = { api_key = key_fault, on_behalf_of = client.header_fault },
  base_url = function(given)
    return hosts[given.region or "global"]
  end,
  credentials = function(given)
    return { Authorization = "Bearer " .. given.api_key }
  end,
  headers = function(given)
    return { ["on-behalf-of"] = given.on_behalf_of }
  end,
  read_failure = read_failure,
  response_headers = { "x-request-id" },
  services = {
    integrations = require "integrations.sendgrid.integrations",
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

local sendgrid = {}

--- Makes a client. Nothing is sent.
---@param given integrations.sendgrid.Options
---@return integrations.sendgrid.Client? client
---@return integrations.Failure? failure
function sendgrid.new(given)
  if given == sendgrid then
    error("call it with a dot: sendgrid.new", 2)
  end
  return Client.new(given)
end

return sendgrid
