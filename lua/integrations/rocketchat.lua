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

-- What the server says of the second factor, for the program: which methods there are. Kept short, as it is the
-- server's to say.
local function describe_two_factor(body, failed)
  local details = type(body.details) == "table" and body.details or {}
  local method = type(details.method) == "string" and details.method:match "^%w+$" or "totp"
  failed.two_factor = { method = method }
  failed.message = ('%s: two_factor = { method = "%s", code = "…" }'):format(failed.message, method)
end

-- Newer servers have the words in brackets, behind others that a translation may change.
local wordings = {
  { statuses = refusals, words = { "totp-required", "totp required" }, kind = "unauthorized",
    message = "the server wants a second factor: make the client with", describe = describe_two_factor },
  { statuses = refusals, words = { "totp-invalid", "totp invalid", "totp-max-attempts" }, kind = "unauthorized",
    message = "the second factor's code is wrong, or too old: make the client with", describe = describe_two_factor },
  { statuses = { [400] = true },
    words = { "no integration found", "integration does not exist", "error-invalid-integration" },
    kind = "not_found", message = "there is no such integration, or not for this user" },
  { statuses = { [400] = true, [403] = true }, kind = "forbidden", message = statuses[403][2],
    words = { "not_authorized", "not-authorized", "unauthorized", "error-action-not-allowed", "error-not-allowed" } },
}

-- How servers name a field that is missing: the newer ones, and the older.
local missing = { "must have required property '([^']+)'", "[Mm]issing key '([^']+)'" }

-- All fields that a text calls missing; the text itself where there are none.
local function read_text(text)
  local faults = {}
  for _, pattern in ipairs(missing) do
    for name in text:gmatch(pattern) do
      faults[#faults + 1] = { field = name, message = "is required" }
    end
  end
  return faults[1] and faults or { { message = text } }
end

-- The server's one sentence, and its name for it, which older servers have beside it and newer ones in it.
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
  refusals = { statuses = statuses, wordings = wordings, faults = read_faults, request_id = request_id_of },
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
