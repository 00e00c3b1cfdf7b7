--- The client for a Rocket.Chat server.
---
---   local rc = assert(require("integrations.rocketchat").new {
---     url = "https://chat.example.com", user_id = "…", auth_token = os.getenv "ROCKETCHAT_TOKEN" })
---   for integration in rc.integrations:each() do print(integration.type, integration.name) end
local client = require "integrations.client"

---@class integrations.rocketchat.TwoFactor
---@field method string `totp`, `email` or `password`, as the server asks
---@field code string for `password` the password's SHA-256 in hexadecimal

---@class integrations.rocketchat.Options : integrations.Options
---@field url string the server's address; plain http only for a loopback address
---@field user_id string
---@field auth_token string a personal access token, or that of a login
---@field two_factor? integrations.rocketchat.TwoFactor for servers that want a second factor
local options = {
  type = "object",
  required = { "url", "user_id", "auth_token" },
  properties = {
    user_id = { type = "string" },
    auth_token = { type = "string" },
    two_factor = {
      type = "object",
      required = { "method", "code" },
      properties = { method = { type = "string" }, code = { type = "string" } },
    },
  },
}

-- ---- failures -------------------------------------------------------------------------------

local statuses = {
  [401] = { "unauthorized", "the server does not know user_id with this auth_token: has the token been revoked?" },
  [403] = { "forbidden", "the user may not do this: give it the permission (manage-incoming-integrations, "
    .. "manage-outgoing-integrations, or one of their -own-)" },
  [404] = { "not_found", "there is nothing at this address: is %s right, and the server's version not too old?" },
}

local refusals = { [400] = true, [401] = true, [403] = true, [404] = true }

-- The second factor that the server wants, for the program. Its names are short words.
local function describe_two_factor(body, failed, text_of)
  local method = text_of(type(body.details) == "table" and body.details.method)
  method = method and #method <= 20 and method:match "^%w+$" or "totp"
  failed.two_factor = { method = method }
  failed.message = ('%s: two_factor = { method = "%s", code = "…" }'):format(failed.message, method)
end

-- By what the server calls the error, never by words within a sentence: those may be the caller's own.
local wordings = {
  { statuses = refusals, names = { "totp-required", "totp required" }, kind = "unauthorized",
    message = "the server wants a second factor: make the client with", describe = describe_two_factor },
  { statuses = refusals, names = { "totp-invalid", "totp invalid", "totp-max-attempts" }, kind = "unauthorized",
    message = "the second factor's code is wrong, or too old: make the client with", describe = describe_two_factor },
  { statuses = { [400] = true }, kind = "not_found", message = "there is no such integration", gone = true,
    names = { "no integration found", "the integration does not exists", "the integration does not exist" } },
  { statuses = { [400] = true }, kind = "not_found", message = "there is no such integration, or it is another user's",
    names = { "error-invalid-integration", "invalid_integration" } },
  { statuses = { [400] = true }, kind = "forbidden", message = statuses[403][2],
    names = { "not_authorized", "not-authorized", "not authorized", "unauthorized", "error-unauthorized",
      "error-action-not-allowed", "error-not-allowed" } },
}

-- What a server calls an error: `errorType`, the same in brackets at the end of its sentence, or all of a short one.
local function names_of(body, text_of)
  local names = {}
  for _, value in ipairs { body.errorType or false, body.error or false } do
    local text = text_of(value)
    if text then
      names[#names + 1] = text:lower():match "%[([%w_%-]+)%]%s*$"
      names[#names + 1] = text:lower():gsub("%.%s*$", "")
    end
  end
  return names
end

-- What the server says where it has found something wrong before it wrote.
local checked_before = {
  "%[%w+[_%-][%w_%-]+%]%s*$", "^match error", "^invalid integration type", "^invalid integration id",
  "^an integrationid or target_url needs to be provided",
}

-- The server answers 400 to whatever is thrown while it works, also after it has written. A body of another shape is
-- not the server's, so that nothing has reached it.
local function is_sure(body, response)
  if not body then
    return response.body:find "^%s*<" ~= nil
  elseif body.success ~= false or type(body.errorType) == "string" then
    return true
  end
  local text = type(body.error) == "string" and body.error:sub(1, 4096):lower() or ""
  for _, pattern in ipairs(checked_before) do
    if text:find(pattern) then
      return true
    end
  end
  return false
end

-- How servers name a field that is missing (the newer ones, and the older) or wrong.
local field_faults = {
  { "must have required property '([^']+)'", "is required" },
  { "Missing key '([^']+)'", "is required" },
  { "^/([%w_]+) (must .*)" },
}
local says_nothing = "must match exactly one schema"

local function read_line(line)
  for _, row in ipairs(field_faults) do
    local field, rest = line:match(row[1])
    if field then
      return { field = field, message = row[2] or rest }
    end
  end
  return not line:find(says_nothing, 1, true) and { message = line } or nil
end

-- A server that finds several faults has each on a line of its own, some of them twice, and its name for them at the
-- end. One sentence stays as it is.
local function read_text(text)
  local faults, seen = {}, {}
  for found in text:gmatch "[^\n]+" do
    local line = found:match "^%s*(.-)%s*$"
    local fault = read_line(text:find("\n", 1, true) and line:gsub("%s*%[[%w_%-]+%]$", "") or line)
    local key = fault and (fault.field or "") .. " " .. fault.message
    if fault and not seen[key] then
      faults[#faults + 1] = fault
      seen[key] = true
    end
  end
  return faults[1] and faults or { { message = text } }
end

-- The server's text, and its name for it, which older servers have beside it and newer ones in it.
local function read_faults(body, _, _, text_of)
  local text, name = text_of(body.error) or text_of(body.message), text_of(body.errorType)
  if text and name and not text:find(name, 1, true) then
    text = ("%s [%s]"):format(text, name)
  end
  text = text or name
  return text and read_text(text) or {}
end

local function request_id_of(_, headers, text_of)
  return text_of(headers["x-request-id"])
end

-- ---- the client -----------------------------------------------------------------------------

---@class integrations.rocketchat.Client
---@field integrations integrations.rocketchat.Integrations
---@field close fun(self) ends the client; see integrations.client
local Client = client.define {
  name = "rocketchat",
  options = options,
  address = "url",
  option_faults = {
    user_id = client.secret_fault,
    auth_token = client.secret_fault,
    ["two_factor.method"] = client.secret_fault,
    ["two_factor.code"] = client.secret_fault,
  },
  base_url = function(given)
    return given.url
  end,
  -- The password is one of the second factors, so its code is a secret, too.
  credentials = function(given)
    local factor = given.two_factor
    return { ["X-Auth-Token"] = given.auth_token, ["x-2fa-code"] = factor and factor.code }
  end,
  headers = function(given)
    local factor = given.two_factor
    return { ["X-User-Id"] = given.user_id, ["x-2fa-method"] = factor and factor.method }
  end,
  refusals = { statuses = statuses, wordings = wordings, faults = read_faults, names = names_of,
    is_sure = is_sure, request_id = request_id_of },
  response_headers = { "x-request-id" },
  services = {
    integrations = require "integrations.rocketchat.integrations",
  },
}

--- Makes a client. Nothing is sent.
---@alias integrations.rocketchat.new fun(given: integrations.rocketchat.Options): integrations.rocketchat.Client?,
---  integrations.Failure?

---@class integrations.rocketchat
---@field new integrations.rocketchat.new
return client.module(Client)
