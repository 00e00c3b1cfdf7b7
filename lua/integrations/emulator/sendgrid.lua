--- SendGrid's Integrations API, as the emulator plays it: routes, checks and messages as tables.
--
-- Messages and shapes follow the official OpenAPI description where it gives them. Where it is silent this stand-in
-- takes the reading that leaves a client's mistake the least room: an unknown id in a bulk delete deletes nothing, a
-- PATCH that changes nothing is refused. Names that the API does not know are ignored.

local host = require "integrations.emulator.sendgrid_host"
local json = require "integrations.emulator.json"
local records = require "integrations.emulator.records"

local READ, CREATE = "marketing.integrations.read", "marketing.integrations.create"
local UPDATE, DELETE = "marketing.integrations.update", "marketing.integrations.delete"

local DEFAULT_QUOTA = 10
local DEFAULT_LABEL = "Untitled Integration"
local FIRST_ID = 0x5a1234

local EVENTS = {}
for _, name in ipairs {
  "drop", "processed", "deferred", "group_unsubscribe", "bounce", "delivered",
  "click", "unsubscribe", "open", "group_resubscribe", "spamreport", "machine_opened",
} do EVENTS[name] = true end

---@class integrations.emulator.SendGrid : integrations.emulator.SendGridHost
local Service = host.extend {
  name = "sendgrid",
  --- Also everything that no other service claims.
  prefix = {},
}

--- The state before the first request.
function Service.new_state()
  return { accounts = {}, next_id = FIRST_ID }
end

--- An account is the list of its integrations.
function Service.new_account()
  return {}
end

local function not_found(ids)
  local errors = {}
  for index, id in ipairs(ids) do errors[index] = { message = ("integration does not exist (%s)"):format(id) } end
  return 404, { errors = errors }
end

-- The body's checks: each returns nothing, or a list of what follows the field's name in the message ------------------

local function check_object(value)
  if not json.is_object(value) then return { "must be an object" } end
end

local function check_destination(value)
  if value ~= "Segment" then return { "must be Segment" } end
end

local function check_region(value)
  if value ~= "EU" and value ~= "US" then return { "must be EU or US" } end
end

local function check_events(value)
  if not json.is_array(value) then return { "must be an array" } end
  local faults = {}
  for _, event in ipairs(value) do
    if type(event) ~= "string" then return { "must contain strings only" } end
    if not EVENTS[event] then faults[#faults + 1] = ("contains an unknown event (%s)"):format(event) end
  end
  return faults
end

--- The fields of an integration, in the order in which faults are named.
local FIELDS = {
  { name = "destination", required = true, check = check_destination },
  { name = "filters", required = true, check = check_object, fields = {
    { name = "email_events", required = true, check = check_events },
  } },
  { name = "label", check = records.check_string },
  { name = "properties", required = true, check = check_object, fields = {
    { name = "destination_region", required = true, check = check_region },
    { name = "write_key", required = true, check = records.string_of(7, 51) },
  } },
}

local function check_input(input, creating)
  local texts = {}
  for index, fault in ipairs(records.faults(FIELDS, input, creating)) do
    texts[index] = fault.name .. " " .. fault.text
  end
  if not creating and not records.has_any(FIELDS, input) then texts[1] = "at least one field is required" end
  if texts[1] then return table.concat(texts, ", ") end
end

--- Copies the known fields over what is there: an object is merged, anything else (so the list of events) is replaced.
local function merge(fields, target, input)
  for _, field in ipairs(fields) do
    local value = input[field.name]
    if value ~= nil and field.fields then
      target[field.name] = merge(field.fields, target[field.name] or {}, value)
    elseif value ~= nil then
      target[field.name] = value
    end
  end
  return target
end

-- Operations: each returns a status and a body ------------------------------------------------------------------------

local function position(integrations, id)
  return (records.find(integrations, "integration_id", id))
end

local function list(_, call)
  return 200, { result = json.array(call.account) }
end

local function get(_, call)
  local index = position(call.account, call.parameters.id)
  if not index then return not_found { call.parameters.id } end
  return 200, call.account[index]
end

local function create(service, call)
  local fault = check_input(call.input, true)
  if fault then return 400, service:problem(400, fault) end
  if #call.account >= service.quota then
    return 403, service:problem(403, ("the maximum number of integrations is reached (%d)"):format(service.quota))
  end
  local integration = merge(FIELDS, { label = DEFAULT_LABEL }, call.input)
  integration.integration_id = ("%x"):format(call.state.next_id)
  integration.user_id = call.user_id
  call.state.next_id = call.state.next_id + 1
  call.account[#call.account + 1] = integration
  return 201, integration
end

local function update(service, call)
  local index = position(call.account, call.parameters.id)
  if not index then return not_found { call.parameters.id } end
  local fault = check_input(call.input, false)
  if fault then return 400, service:problem(400, fault) end
  return 200, merge(FIELDS, call.account[index], call.input)
end

--- What is wrong with the ids; an index in a message counts from zero.
local function empty_ids(ids)
  local errors = {}
  for index, id in ipairs(ids) do
    if id == "" then
      errors[#errors + 1] = { message = "IDs cannot be an empty string", parameter = ("ids[%d]"):format(index - 1) }
    end
  end
  return errors
end

--- All or nothing, unless the option says otherwise: an id that does not exist keeps the others alive. What the real
--- service does is documented nowhere.
local function delete(service, call)
  local ids, message = host.read_list(call.query, "ids")
  if not ids then return 400, { errors = { { message = message, parameter = "ids" } } } end
  local errors = empty_ids(ids)
  if errors[1] then return 400, { errors = errors } end
  local unknown = {}
  for _, id in ipairs(ids) do
    if not position(call.account, id) then unknown[#unknown + 1] = id end
  end
  if unknown[1] and not service.partial_deletes then return not_found(unknown) end
  for _, id in ipairs(ids) do
    local index = position(call.account, id)
    if index then table.remove(call.account, index) end
  end
  if unknown[1] then return not_found(unknown) end
  return 204
end

Service.routes = {
  { path = "/v3/marketing/integrations", methods = {
    GET = { handler = list, scope = READ },
    POST = { handler = create, scope = CREATE, takes_body = true },
    DELETE = { handler = delete, scope = DELETE },
  } },
  { path = "/v3/marketing/integrations/{id}", methods = {
    GET = { handler = get, scope = READ },
    PATCH = { handler = update, scope = UPDATE, takes_body = true },
  } },
}

local sendgrid = {}

--- Makes the service for one emulator.
---@param options integrations.emulator.Options
---@return integrations.emulator.SendGrid
function sendgrid.new(options)
  return host.new(Service, options, {
    quota = options.quota or DEFAULT_QUOTA,
    partial_deletes = options.partial_deletes,
  })
end

return sendgrid
