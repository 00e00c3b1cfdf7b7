--- SendGrid's Integrations API: email events forwarded to Segment.
--- Schemas and operations carry the names of the API's OpenAPI document.
local arguments = require "integrations.arguments"
local bulk_delete = require "integrations.sendgrid.bulk_delete"
local ensure = require "integrations.ensure"
local failure = require "integrations.failure"
local listing = require "integrations.listing"
local match = require "integrations.match"
local service = require "integrations.service"

-- ---- schemas --------------------------------------------------------------------------------

local Destination = { type = "string", enum = { "Segment" } }
local DestinationRegion = { type = "string", enum = { "EU", "US" } }
local EmailEvents = {
  type = "array",
  items = {
    type = "string",
    enum = {
      "drop", "processed", "deferred", "group_unsubscribe", "bounce", "delivered", "click",
      "unsubscribe", "open", "group_resubscribe", "spamreport", "machine_opened",
    },
  },
}

-- No bounds: the documents give three that disagree, so the service decides.
local WriteKey = { type = "string" }
local Label = { type = "string", default = "Untitled Integration" }

---@alias integrations.sendgrid.EmailEvent
---| "drop"
---| "processed"
---| "deferred"
---| "group_unsubscribe"
---| "bounce"
---| "delivered"
---| "click"
---| "unsubscribe"
---| "open"
---| "group_resubscribe"
---| "spamreport"
---| "machine_opened"

---@class integrations.sendgrid.IntegrationInput
---@field destination "Segment"
---@field filters { email_events: integrations.sendgrid.EmailEvent[] } the events to forward
---@field properties { write_key: string, destination_region: "EU"|"US" } of the Segment source
---@field label? string ("Untitled Integration")
local IntegrationInput = {
  type = "object",
  required = { "destination", "filters", "properties" },
  properties = {
    destination = Destination,
    filters = {
      type = "object",
      required = { "email_events" },
      properties = { email_events = EmailEvents },
    },
    properties = {
      type = "object",
      required = { "write_key", "destination_region" },
      properties = { write_key = WriteKey, destination_region = DestinationRegion },
    },
    label = Label,
  },
}

-- Where nothing is required.
local Filters = { type = "object", properties = { email_events = EmailEvents } }
local Properties = {
  type = "object",
  properties = { write_key = WriteKey, destination_region = DestinationRegion },
}

---@class integrations.sendgrid.IntegrationPatch
---@field destination? "Segment"
---@field filters? { email_events?: integrations.sendgrid.EmailEvent[] } replaces the whole list
---@field properties? { write_key?: string, destination_region?: "EU"|"US" }
---@field label? string
local IntegrationPatch = {
  type = "object",
  minProperties = 1,
  properties = {
    destination = Destination,
    filters = Filters,
    properties = Properties,
    label = Label,
  },
}

---@class integrations.sendgrid.Integration : integrations.sendgrid.IntegrationInput
---@field integration_id string
---@field user_id string
local Integration = {
  type = "object",
  properties = {
    integration_id = { type = "string" },
    user_id = { type = "string" },
    filters = Filters,
    properties = Properties,
    label = Label,
    destination = Destination,
  },
}

-- ---- operations -----------------------------------------------------------------------------

local path = "/v3/marketing/integrations"
local Id = { name = "id", ["in"] = "path", schema = { type = "string" } }
local Ids = {
  name = "ids",
  ["in"] = "query",
  required = true,
  many = true,
  schema = { type = "array", minItems = 1, items = { type = "string" } },
}
local one = { identity = "integration_id" }

local LIMIT = 10 -- Segment integrations of one user

-- The shapes of what a method gives back: the result, or nil and a failure.
---@alias integrations.sendgrid.One fun(self, id: string): integrations.sendgrid.Integration?, integrations.Failure?
---@alias integrations.sendgrid.Update fun(self, id: string,
---  patch: integrations.sendgrid.IntegrationPatch): integrations.sendgrid.Integration?, integrations.Failure?

---@class integrations.sendgrid.Integrations
---@field list fun(self): integrations.sendgrid.Integration[]?, integrations.Failure? all of the account (or subuser)
---@field get integrations.sendgrid.One `not_found` where there is none of that id
---@field update integrations.sendgrid.Update changes the fields that the patch has
---@field each fun(self): fun(): integrations.sendgrid.Integration? see integrations.listing
---@field find fun(self, wanted: table<string, any>): integrations.sendgrid.Integration[]?, integrations.Failure?
local Integrations = service.define {
  name = "integrations",
  schemas = {
    IntegrationInput = IntegrationInput,
    IntegrationPatch = IntegrationPatch,
    Integration = Integration,
  },
  operations = {
    list = {
      method = "GET",
      path = path,
      result = { identity = "integration_id", field = "result", array = true },
    },
    create = { method = "POST", path = path, body = "IntegrationInput", result = one },
    get = { method = "GET", path = path .. "/{id}", parameters = { Id }, result = one },
    update = {
      method = "PATCH",
      path = path .. "/{id}",
      parameters = { Id },
      body = "IntegrationPatch",
      body_name = "patch",
      result = one,
      idempotent = true,
    },
    delete = {
      method = "DELETE",
      path = path,
      parameters = { Ids },
      statuses = { [414] = { "rejected", "the address is too long: delete_many takes any number of ids" } },
      idempotent = true,
      removes = true,
    },
  },
}

-- Words for a full account; none is documented, so they only count where they are about integrations.
local limit_words = { "maximum", "max number", "limit", "quota" }

local function is_full(self, failed)
  if failed:mentions "scope" then
    return false
  end
  for _, word in ipairs(failed:mentions "integration" and limit_words or {}) do
    if failed:mentions(word) then
      return true
    end
  end
  local existing = self:list()
  return existing ~= nil and #existing >= LIMIT
end

local send_create = Integrations.create

--- Makes an integration. The service answers 403 for a missing scope and for a full account; where
--- its words leave that open, the integrations are counted.
---@param input integrations.sendgrid.IntegrationInput
---@return integrations.sendgrid.Integration? created
---@return integrations.Failure? failure
function Integrations:create(input)
  service.check_self(self, Integrations, "integrations.create")
  local bounded = service.bounded(self)
  local created, failed = send_create(bounded, input)
  if failed and failed.status == 403 and is_full(bounded, failed) then
    failed.kind = "limit_reached"
    failed.message = "the account holds as many integrations as it may: delete one first"
  end
  if failed then
    return nil, failed
  end
  return created
end

-- Whether the list holds none of the ids, in one array or one by itself.
local function are_gone(self, ids)
  local existing = self:list()
  local wanted = type(ids) == "table" and arguments.list(ids) or { ids }
  for _, integration in ipairs(existing or {}) do
    if match.contains(wanted, integration.integration_id) then
      return false
    end
  end
  return existing ~= nil
end

local send_delete = Integrations.delete

--- Deletes in one request. Where it had to be repeated after an unknown outcome (option
--- retry_writes), that an integration is not found any more is what was wanted; of several, the list
--- says whether all are gone.
---@param ids string|string[]
---@return true? deleted
---@return integrations.Failure? failure
function Integrations:delete(ids)
  service.check_self(self, Integrations, "integrations.delete")
  local bounded = service.bounded(self)
  local deleted, failed = send_delete(bounded, ids)
  if failed and failed.kind == "not_found" and failed.outcome == "unknown" and are_gone(bounded, ids) then
    return true
  elseif failed then
    return nil, failed
  end
  return deleted
end

-- ---- helpers --------------------------------------------------------------------------------

listing.add(Integrations, Integration)

--- Makes sure that there is exactly one integration as the input says, however often it is called: a
--- create that can be repeated. One is the same if destination, write key and region are; where its
--- other fields differ they are updated. Fields that the input leaves out stay as they are.
---
--- An unknown outcome is settled by listing again, for which a third of the time is kept. Where several
--- are the same already, none is touched: the failure's kind is `ambiguous`, its errors name them. Between
--- listing and creating another program may create: the API has no way to exclude that. A field that the
--- service takes but does not show (`strict = false`) is written each time.
---@param input integrations.sendgrid.IntegrationInput
---@return integrations.sendgrid.Integration? integration as it is afterwards
---@return "created"|"updated"|"unchanged"|integrations.Failure what was done, or the failure
function Integrations:ensure(input)
  service.check_self(self, Integrations, "integrations.ensure")
  if self.session.closed then
    return nil, failure.closed "integrations.ensure"
  end
  local _, faults = service.read_argument(self, "integrations.ensure", "create", "input", input)
  if faults then
    return nil, failure.invalid("integrations.ensure", faults)
  end
  return ensure.run(service.bounded(self), input, {
    name = "integrations.ensure",
    identity = "integration_id",
    title = "label",
    advice = "ensure it again later",
    same = { "destination", "properties.write_key", "properties.destination_region" },
  })
end

local check_events = service.checker("events", {
  type = "array",
  minItems = 1,
  items = EmailEvents.items,
})

-- Reads an integration, lets `change` make a new list of its events, and writes that list if it
-- differs. Between the two another program may write: the API has no way to exclude that.
local function change_events(self, name, id, events, change)
  if type(events) == "string" then
    events = { events }
  end
  local faults = check_events(self, name, events)
  if faults then
    return nil, failure.invalid(name, faults)
  end
  local bounded = service.bounded(self)
  local current, failed = bounded:get(id)
  if not current then
    return nil, failed
  end
  local before = match.at(current, "filters.email_events") or {}
  if type(before) ~= "table" then
    return nil, failure.new { kind = "protocol", operation = name, message = "the service's list of events is none" }
  end
  before = arguments.list(before)
  local after = change(before, arguments.list(events))
  if #after == #before then
    return current
  end
  -- Goes back what came from the service, also events that this version does not know.
  bounded.session.strict = false
  return bounded:update(id, { filters = { email_events = after } })
end

local function union(before, events)
  local after = arguments.list(before)
  for _, event in ipairs(events) do
    if not match.contains(after, event) then
      after[#after + 1] = event
    end
  end
  return after
end

local function difference(before, events)
  local after = {}
  for _, event in ipairs(before) do
    if not match.contains(events, event) then
      after[#after + 1] = event
    end
  end
  return after
end

--- Forwards these events, too. Where all are forwarded already, nothing is written.
---@param id string
---@param events integrations.sendgrid.EmailEvent|integrations.sendgrid.EmailEvent[]
---@return integrations.sendgrid.Integration? integration as it is afterwards
---@return integrations.Failure? failure
function Integrations:add_events(id, events)
  service.check_self(self, Integrations, "integrations.add_events")
  return change_events(self, "integrations.add_events", id, events, union)
end

--- Forwards these events no longer. Where none of them is forwarded, nothing is written.
---@param id string
---@param events integrations.sendgrid.EmailEvent|integrations.sendgrid.EmailEvent[]
---@return integrations.sendgrid.Integration? integration as it is afterwards
---@return integrations.Failure? failure
function Integrations:remove_events(id, events)
  service.check_self(self, Integrations, "integrations.remove_events")
  return change_events(self, "integrations.remove_events", id, events, difference)
end

--- Deletes any number of ids, in as few requests as their length allows. Duplicates are sent
--- once. An id that the service refuses does not keep the others from being deleted; after a
--- failure that has nothing to do with an id the rest is not sent.
---@param ids string|string[]
---@return integrations.sendgrid.DeleteReport? report
---@return integrations.Failure? failure where an id is invalid: then nothing was sent
function Integrations:delete_many(ids)
  service.check_self(self, Integrations, "integrations.delete_many")
  if self.session.closed then
    return nil, failure.closed "integrations.delete_many"
  end
  local list, faults = service.read_argument(self, "integrations.delete_many", "delete", "ids", ids)
  if faults then
    return nil, failure.invalid("integrations.delete_many", faults)
  end
  local report, too_long = bulk_delete.run(service.bounded(self), arguments.list(list), path .. "?ids=")
  if too_long then
    return nil, failure.invalid("integrations.delete_many", too_long)
  end
  return report
end

return Integrations
