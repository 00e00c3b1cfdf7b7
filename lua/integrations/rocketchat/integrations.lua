--- Rocket.Chat's integrations: incoming and outgoing webhooks.
--- Fields and operations carry the names of the server's documents.
local arguments = require "integrations.arguments"
local failure = require "integrations.failure"
local listing = require "integrations.listing"
local refusal = require "integrations.refusal"
local service = require "integrations.service"

-- ---- schemas --------------------------------------------------------------------------------

local Text, Flag = { type = "string" }, { type = "boolean" }
local Id = { type = "string", minLength = 1 }
local Words = { type = { "array", "string" }, items = { type = "string", minLength = 1 } }

-- Sent as one text, see `forms`.
local Channel = { type = { "string", "array" }, items = { type = "string", minLength = 1 } }

---@alias integrations.rocketchat.Event
---| "sendMessage"
---| "fileUploaded"
---| "roomArchived"
---| "roomCreated"
---| "roomJoined"
---| "roomLeft"
---| "userCreated"
local Event = {
  type = "string",
  enum = { "sendMessage", "fileUploaded", "roomArchived", "roomCreated", "roomJoined", "roomLeft", "userCreated" },
}

---@alias integrations.rocketchat.Type "webhook-incoming"|"webhook-outgoing"
local Type = { type = "string", enum = { "webhook-incoming", "webhook-outgoing" } }

---@class integrations.rocketchat.CommonInput
---@field name string
---@field enabled boolean
---@field channel string|string[] `#general`, `@user`; several comma-separated, or an array
---@field scriptEnabled boolean
---@field script? string
---@field scriptEngine? "isolated-vm"
---@field skipTranspile? boolean
---@field alias? string
---@field avatar? string address of a picture
---@field emoji? string
local common = {
  type = Type,
  name = Text,
  enabled = Flag,
  channel = Channel,
  username = Text,
  scriptEnabled = Flag,
  script = Text,
  scriptEngine = { type = "string", enum = { "isolated-vm" } },
  skipTranspile = Flag,
  alias = Text,
  avatar = Text,
  emoji = Text,
}

--- Posts what is sent to it into a channel.
---@class integrations.rocketchat.IncomingInput : integrations.rocketchat.CommonInput
---@field type "webhook-incoming"
---@field username? string in whose name; only an update may leave it out
---@field overrideDestinationChannelEnabled? boolean
local incoming = {
  overrideDestinationChannelEnabled = Flag,
}

--- Sends what happens in a channel to addresses.
---@class integrations.rocketchat.OutgoingInput : integrations.rocketchat.CommonInput
---@field type "webhook-outgoing"
---@field username string
---@field event integrations.rocketchat.Event
---@field urls string[]
---@field token? string goes along with what is sent, as a proof; only a create may leave it out
---@field triggerWords? string[]|string comma-separated, where it is one text
---@field triggerWordAnywhere? boolean
---@field targetRoom? string for the events that have no room of their own
---@field targetChannel? string its older name
---@field target_url? string update and delete: one of the urls, instead of the id
---@field runOnEdits? boolean
---@field retryFailedCalls? boolean
---@field retryCount? number
---@field retryDelay? string `powers-of-ten`, `powers-of-two` or `increments-of-two`
---@field impersonateUser? boolean
local outgoing = {
  event = Event,
  urls = { type = "array", minItems = 1, items = { type = "string", minLength = 1 } },
  token = { type = "string", minLength = 1 },
  triggerWords = Words,
  triggerWordAnywhere = Flag,
  targetRoom = Text,
  targetChannel = Text,
  runOnEdits = Flag,
  retryFailedCalls = Flag,
  retryCount = { type = "number" },
  retryDelay = Text,
  impersonateUser = Flag,
}

local forms = {
  channel = arguments.joined,
  triggerWords = arguments.split,
  targetChannel = arguments.renamed "targetRoom",
}

local merged = arguments.merge

local required = { "type", "name", "enabled", "channel", "scriptEnabled" }

local function with(list, ...)
  local longer = { (table.unpack or unpack)(list) }
  for _, name in ipairs { ... } do
    longer[#longer + 1] = name
  end
  return longer
end

-- A webhook of either kind. The type decides what it needs and may have; where the type itself is wrong, what both
-- need and either may have counts.
local function either(required_by_both, of_incoming, of_outgoing)
  return {
    type = "object",
    required = required_by_both,
    properties = merged(of_incoming.properties, of_outgoing.properties),
    discriminator = {
      propertyName = "type",
      mapping = { ["webhook-incoming"] = of_incoming, ["webhook-outgoing"] = of_outgoing },
    },
  }
end

local function webhook(required_fields, fields, only_one)
  return { type = "object", required = required_fields, properties = fields, exactlyOne = only_one }
end

local of_outgoing = with(required, "username", "event", "urls")

local IntegrationInput = either(with(required, "username"),
  webhook(with(required, "username"), merged(common, incoming)),
  webhook(of_outgoing, merged(common, outgoing)))

local which = { integrationId = Id, target_url = Id }

local IntegrationUpdate = either(required,
  webhook(with(required, "integrationId"), merged(common, incoming, { integrationId = Id })),
  webhook(with(of_outgoing, "token"), merged(common, outgoing, which), { "integrationId", "target_url" }))

local IntegrationRemoval = either({ "type" },
  webhook({ "type", "integrationId" }, { type = Type, integrationId = Id }),
  webhook({ "type" }, merged({ type = Type }, which), { "integrationId", "target_url" }))

-- Any of a webhook's fields, of whichever kind: all but what says which one it is.
local Change = webhook(nil, merged(common, incoming, outgoing))
Change.properties.type = nil
Change.minProperties = 1

---@class integrations.rocketchat.Integration
---@field _id string
---@field type integrations.rocketchat.Type
---@field name string
---@field enabled boolean
---@field channel string[] an array here, a text in what is sent
---@field username string
---@field userId string
---@field token? string
local Integration = {
  type = "object",
  properties = merged(common, incoming, outgoing, {
    _id = Text,
    channel = { type = "array", items = Text },
    triggerWords = { type = "array", items = Text },
    scriptEngine = Text,
    userId = Text,
    _createdAt = Text,
    _createdBy = { type = "object", properties = { _id = Text, username = Text } },
    _updatedAt = Text,
  }),
}
Integration.properties.targetChannel = nil -- a server has the name of today

-- ---- operations -----------------------------------------------------------------------------

local path = "/api/v1/integrations."
local one = { field = "integration", identity = "_id" }
local integration_id = { name = "integrationId", ["in"] = "body" }

local offset = { name = "offset", ["in"] = "query", schema = { type = "integer", minimum = 0 } }
local count = { name = "count", ["in"] = "query", schema = { type = "integer", minimum = 0 } }

---@class integrations.rocketchat.Page
---@field offset integer
---@field count integer on this page
---@field total integer on all pages

---@class integrations.rocketchat.PageOptions
---@field count? integer how many; a server gives no more than it is set up for (50; 100 at most)
---@field offset? integer how many to leave out (0)

---@class integrations.rocketchat.Filter : integrations.rocketchat.PageOptions
---@field name? string
---@field type? integrations.rocketchat.Type

---@class integrations.rocketchat.Integrations
---@field list fun(self, options?: integrations.rocketchat.Filter): integrations.rocketchat.Integration[]?,
---  integrations.rocketchat.Page|integrations.Failure one page; `each` has all
---@field get fun(self, integrationId: string, options?: { createdBy: string? }): integrations.rocketchat.Integration?,
---  integrations.Failure?
---@field create fun(self, input: integrations.rocketchat.IncomingInput|integrations.rocketchat.OutgoingInput):
---  integrations.rocketchat.Integration?, integrations.Failure?
---@field update fun(self, integrationId?: string,
---  input: integrations.rocketchat.IncomingInput|integrations.rocketchat.OutgoingInput):
---  integrations.rocketchat.Integration?, integrations.Failure? sends what it is given; what is left out the server may
---  clear. Instead of an id the input of an outgoing one may have `target_url`, one of its urls
---@field delete fun(self, type: integrations.rocketchat.Type, integrationId?: string, input?: { target_url: string }):
---  true?, integrations.Failure? an outgoing one by its id, or by one of its urls
---@field history fun(self, id: string, options?: integrations.rocketchat.PageOptions): table[]?,
---  integrations.rocketchat.Page|integrations.Failure what an outgoing one has sent, a page of it
---@field each fun(self): fun(): integrations.rocketchat.Integration? see integrations.listing
---@field find fun(self, wanted: table<string, any>): integrations.rocketchat.Integration[]?, integrations.Failure?
local Integrations = service.define {
  name = "integrations",
  schemas = {
    Integration = Integration,
    IntegrationInput = IntegrationInput,
    IntegrationUpdate = IntegrationUpdate,
    IntegrationRemoval = IntegrationRemoval,
  },
  forms = forms,
  refused = function(body)
    return body.success == false
  end,
  unsure_statuses = { [400] = true },
  operations = {
    list = {
      method = "GET",
      path = path .. "list",
      parameters = {
        count,
        offset,
        { name = "name", ["in"] = "query", schema = Text },
        { name = "type", ["in"] = "query", schema = Type },
      },
      result = { field = "integrations", array = true, identity = "_id", page = true },
    },
    create = { method = "POST", path = path .. "create", body = "IntegrationInput", result = one },
    get = {
      method = "GET",
      path = path .. "get",
      parameters = {
        { name = "integrationId", ["in"] = "query", required = true, schema = Id },
        { name = "createdBy", ["in"] = "query", schema = Text },
      },
      result = one,
    },
    update = {
      method = "PUT",
      path = path .. "update",
      parameters = { integration_id },
      body = "IntegrationUpdate",
      result = one,
      idempotent = true,
      once_with = "target_url", -- others may have the same one
    },
    delete = {
      method = "POST",
      path = path .. "remove",
      parameters = { { name = "type", ["in"] = "body" }, integration_id },
      body = "IntegrationRemoval",
      result = { field = "success", value = true },
      idempotent = true,
      once_with = "target_url",
      removes = true,
    },
    history = {
      method = "GET",
      path = path .. "history",
      parameters = { { name = "id", ["in"] = "query", required = true, schema = Id }, count, offset },
      result = { field = "history", array = true, identity = "_id", page = true },
    },
  },
}

listing.add(Integrations, Integration)

-- ---- helpers --------------------------------------------------------------------------------

local check_change = service.checker("fields", Change, forms)

-- Of a webhook what its kind's update takes, but for what says which one it is.
local function updatable(integration, properties)
  local input = {}
  for name in pairs(properties) do
    local form = forms[name]
    local is_older = form and form.name and integration[form.name] ~= nil
    if not which[name] and not is_older then
      input[name] = integration[name]
    end
  end
  return arguments.in_form(input, forms)
end

-- Fields that only the other kind of webhook has.
local function misplaced(fields, kind, properties)
  local faults = {}
  for name in next, fields do
    if not properties[name] then
      faults[#faults + 1] = { field = name, message = "is no field of a " .. kind }
    end
  end
  return faults[1] and faults
end

local function unchanged(name, faults)
  local failed = failure.invalid(name, faults)
  failed.message = "nothing was changed"
  return failed
end

-- A fault of what the caller did not give is the server's own, and so are its words.
local function of_the_server(self, name, failed, fields)
  local text_of = refusal.texts_of(self.session)
  for _, fault in ipairs(failed.errors) do
    if rawget(fields, fault.field:match "^[%w_]*") == nil then
      fault.field = text_of(fault.field)
      fault.message = text_of(fault.message) .. ", as the server has it: give another value"
    end
  end
  return unchanged(name, failed.errors)
end

-- Also where the client is lenient: with another type or id it would be another one.
local function check_fixed(fields)
  local faults = {}
  for _, field in ipairs { "type", "integrationId", "target_url" } do
    if type(fields) == "table" and rawget(fields, field) ~= nil then
      faults[#faults + 1] = { field = field, message = "says which one it is, and cannot be changed" }
    end
  end
  return faults
end

--- Changes the given fields, and leaves all others as they are: reads, merges and writes, since the server may clear
--- what an update leaves out. Between the two another program may write: the API has no way to exclude that.
---@param integrationId string
---@param fields table some of those that `create` takes, not `type`
---@return integrations.rocketchat.Integration? integration as it is afterwards
---@return integrations.Failure? failure
function Integrations:change(integrationId, fields)
  local name = "integrations.change"
  service.check_self(self, Integrations, name)
  local _, id_faults = service.read_argument(self, name, "get", "integrationId", integrationId)
  local faults = service.join_faults(id_faults, check_change(self, name, fields) or check_fixed(fields))
  if faults then
    return nil, failure.invalid(name, faults)
  end
  local bounded = service.bounded(self)
  local current, failed = bounded:get(integrationId)
  if not current then
    return nil, failed
  end
  local variant = IntegrationUpdate.discriminator.mapping[current.type]
  if not variant then
    return nil, failure.new { kind = "protocol", operation = name,
      message = "the integration is of a type that this version does not know: use update, with strict = false" }
  end
  faults = self.session.strict ~= false and misplaced(fields, current.type, variant.properties)
  if faults then
    return nil, unchanged(name, faults)
  end
  -- Goes back what came from the server, also values that this version does not know.
  bounded.session.strict = false
  local sent = merged(updatable(current, variant.properties), arguments.in_form(fields, forms))
  local changed
  changed, failed = bounded:update(integrationId, sent)
  if failed and failed.kind == "invalid" and failed.errors[1] then
    return nil, of_the_server(self, name, failed, fields)
  elseif failed then
    return nil, failed
  end
  return changed
end

return Integrations
