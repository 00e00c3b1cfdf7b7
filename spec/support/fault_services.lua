--- The services behind the faults: how the server fills and asks them, and how a client is made and looked into.
---
--- A service: `client` (the module), `part` (what the client calls it), `list`, `create` and `seed` (where and with
--- what the server asks), `headers` (who asks), `field` (where the list is in an answer), `identity`, `created` (the
--- thing in the answer to a create).
local rocketchat = require "integrations.rocketchat"
local sendgrid = require "integrations.sendgrid"

local services = {}

local KEY, USER = "SG.test.canary", "u1"

local function headers(credentials)
  credentials.accept = "application/json"
  credentials["content-type"] = "application/json"
  return credentials
end

local bearer = headers { authorization = "Bearer " .. KEY }

local function itself(answer)
  return answer
end

services.integrations = {
  client = "sendgrid",
  part = "integrations",
  list = "/v3/marketing/integrations",
  create = "/v3/marketing/integrations",
  seed = {
    destination = "Segment",
    filters = { email_events = { "open", "click" } },
    properties = { write_key = "a123456", destination_region = "EU" },
    label = "Events",
  },
  headers = bearer,
  field = "result",
  identity = "integration_id",
  created = itself,
}

services.segments = {
  client = "sendgrid",
  part = "segments",
  list = "/v3/marketing/segments/2.0",
  create = "/v3/marketing/segments/2.0",
  seed = { name = "Events", query_dsl = "SELECT contact_id, updated_at FROM contact_data" },
  headers = bearer,
  field = "results",
  identity = "id",
  created = itself,
}

services.rocketchat = {
  client = "rocketchat",
  part = "integrations",
  list = "/api/v1/integrations.list",
  create = "/api/v1/integrations.create",
  seed = {
    type = "webhook-incoming", name = "Events", enabled = true, username = "rocket.cat", channel = "#general",
    scriptEnabled = false,
  },
  headers = headers { ["x-auth-token"] = KEY, ["x-user-id"] = USER },
  field = "integrations",
  identity = "_id",
  created = function(answer)
    return answer.integration
  end,
}

services.names = { "integrations", "segments", "rocketchat" }

--- What the emulator needs: the key of all specs, and segments that no read changes.
services.emulator_options = {
  pending_reads = 1000000,
  keys = { [KEY] = { user_id = "12345" } },
  rocketchat_users = { [USER] = { [KEY] = {} } },
}

local modules = {
  sendgrid = function(options)
    options.api_key, options.base_url = KEY, options.url
    options.url = nil
    return sendgrid.new(options)
  end,
  rocketchat = function(options)
    options.auth_token, options.user_id = KEY, USER
    return rocketchat.new(options)
  end,
}

--- A client for the service.
---@param name string
---@param options table shared options, and `url`
function services.open(name, options)
  return assert(modules[services[name].client](options))
end

--- The ids of things, in one text.
---@param name string of the service
---@param things table[]
---@return string
function services.ids_of(name, things)
  local ids = {}
  for i, thing in ipairs(things) do ids[i] = thing[services[name].identity] end
  return table.concat(ids, " ")
end

return services
