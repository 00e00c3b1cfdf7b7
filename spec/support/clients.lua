--- Clients that need no network: of an emulator in this process, or of a fake transport.
local rocketchat = require "integrations.rocketchat"
local sendgrid = require "integrations.sendgrid"

local clients = {}

local BASE = "http://127.0.0.1:1"

local function with(options, given)
  local all = { transport = given, max_attempts = 1 }
  for name, value in pairs(options or {}) do all[name] = value end
  return all
end

---@param transport table
---@param options? table
function clients.sendgrid(transport, options)
  local given = with(options, transport)
  given.api_key = given.api_key or "SG.emulator.full"
  given.base_url = given.base_url or BASE
  return assert(sendgrid.new(given))
end

---@param transport table
---@param options? table
function clients.rocketchat(transport, options)
  local given = with(options, transport)
  given.url = given.url or BASE
  given.user_id = given.user_id or "emulator"
  given.auth_token = given.auth_token or "RC.emulator.full"
  return assert(rocketchat.new(given))
end

--- What was sent, a line for each request.
---@param requests table[]
---@return string[]
function clients.lines(requests)
  local lines = {}
  for i, request in ipairs(requests) do
    lines[i] = request.method .. " " .. request.url:gsub("^http://127.0.0.1:1", "")
      .. (request.body and " " .. request.body or "")
  end
  return lines
end

return clients
