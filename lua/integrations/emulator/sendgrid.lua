--- SendGrid's Integrations API, as the emulator plays it: routes, checks and messages as tables.
--
-- Messages and shapes follow the official OpenAPI description where it gives them. Where it is silent this stand-in
-- takes the reading that leaves a client's mistake the least room: an unknown id in a bulk delete deletes nothing, a
-- PATCH that changes nothing is refused. Names that the API does not know are ignored.

local json = require "integrations.emulator.json"
local url = require "integrations.emulator.url"

local READ, CREATE = "marketing.integrations.read", "marketing.integrations.create"
local UPDATE, DELETE = "marketing.integrations.update", "marketing.integrations.delete"

--- The scopes' names are the emulator's own; the API documents that there are scopes, not what they are called.
local DEFAULT_KEYS = {
  ["SG.emulator.full"] = { user_id = "12345", scopes = { READ, CREATE, UPDATE, DELETE } },
  ["SG.emulator.read"] = { user_id = "12345", scopes = { READ } },
}

local DEFAULT_QUOTA = 10
local DEFAULT_LABEL = "Untitled Integration"
local FIRST_ID = 0x5a1234

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

local EVENTS = {}
for _, name in ipairs {
  "drop", "processed", "deferred", "group_unsubscribe", "bounce", "delivered",
  "click", "unsubscribe", "open", "group_resubscribe", "spamreport", "machine_opened",
} do EVENTS[name] = true end

---@class integrations.emulator.SendGrid
local Service = {
  name = "sendgrid",
  --- Every path below /v3 is this service's.
  prefix = "v3",
  secret_headers = { "authorization" },
  --- Headers that a queued answer gets if it brings none.
  answer_headers = {
    [429] = { ["x-ratelimit-limit"] = "600", ["x-ratelimit-remaining"] = "0", ["x-ratelimit-reset"] = "1" },
  },
}
Service.__index = Service

-- Errors --------------------------------------------------------------------------------------------------------------

--- The body of an error answer.
---@param status integer
---@param message? string the status's own message, if absent
---@return table
function Service.problem(_, status, message)
  local entry = { message = message or MESSAGES[status] or "error" }
  if status == 400 then
    entry.field = "request"
  elseif not WITHOUT_FIELD[status] then
    entry.field = json.null
  end
  return { errors = { entry } }
end

local function not_found(ids)
  local errors = {}
  for index, id in ipairs(ids) do errors[index] = { message = ("integration does not exist (%s)"):format(id) } end
  return 404, { errors = errors }
end

-- Who calls -----------------------------------------------------------------------------------------------------------

local function contains(list, wanted)
  for _, value in ipairs(list) do
    if value == wanted then return true end
  end
  return false
end

--- Finds the caller's account and checks the scope; returns nothing, or a status and a message.
---@param call table
function Service:authorize(call)
  local header = call.headers.authorization or ""
  if header == "" then return 401, NO_KEY end
  local scheme, name = header:match("^(%a+) +(%S+)$")
  local key = scheme and scheme:lower() == "bearer" and self.keys[name]
  if not key then return 401, BAD_KEY end
  local subuser = call.headers["on-behalf-of"]
  if subuser and self.subusers and not contains(self.subusers, subuser) or subuser == "" then
    return 403, ("access forbidden. there is no such subuser (%s)"):format(subuser)
  end
  if key.scopes and not contains(key.scopes, call.operation.scope) then return 403, NO_SCOPE end
  call.user_id = key.user_id
  call.integrations = self.account(call.state, key.user_id, subuser)
end

--- The list of one user, or of one subuser of that user. Kept by name: making it is not a change anybody can see.
function Service.account(state, user_id, subuser)
  local name = user_id .. "\0" .. (subuser or "")
  state.accounts[name] = state.accounts[name] or {}
  return state.accounts[name]
end

-- The body's checks: each returns nothing, or a list of what follows the field's name in the message ------------------

local function check_string(value)
  if type(value) ~= "string" then return { "must be a string" } end
end

local function check_object(value)
  if not json.is_object(value) then return { "must be an object" } end
end

local function check_destination(value)
  if value ~= "Segment" then return { "must be Segment" } end
end

local function check_region(value)
  if value ~= "EU" and value ~= "US" then return { "must be EU or US" } end
end

local function character_count(text)
  local _, count = text:gsub("[^\128-\191]", "")
  return count
end

local function check_write_key(value)
  if type(value) ~= "string" then return check_string(value) end
  local count = character_count(value)
  if count < 7 then return { "must be at least 7 characters" } end
  if count > 51 then return { "must be at most 51 characters" } end
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
  { name = "label", check = check_string },
  { name = "properties", required = true, check = check_object, fields = {
    { name = "destination_region", required = true, check = check_region },
    { name = "write_key", required = true, check = check_write_key },
  } },
}

local function missing(value)
  return value == nil or value == json.null
end

--- Collects the faults of one field. On an update nothing is required, but what is there has to be right.
local function check_field(field, value, creating, faults)
  if field.required and creating and missing(value) then
    faults[#faults + 1] = field.name .. " is required"
    return
  end
  if value == nil then return end
  local found = field.check(value) or {}
  for _, text in ipairs(found) do faults[#faults + 1] = field.name .. " " .. text end
  if not field.fields or found[1] then return end
  for _, inner in ipairs(field.fields) do check_field(inner, value[inner.name], creating, faults) end
end

local function check_input(input, creating)
  local faults, known = {}, false
  for _, field in ipairs(FIELDS) do
    check_field(field, input[field.name], creating, faults)
    known = known or input[field.name] ~= nil
  end
  if not creating and not known then faults[1] = "at least one field is required" end
  if faults[1] then return table.concat(faults, ", ") end
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
  for index, integration in ipairs(integrations) do
    if integration.integration_id == id then return index end
  end
end

local function list(_, call)
  return 200, { result = json.array(call.integrations) }
end

local function get(_, call)
  local index = position(call.integrations, call.parameters.id)
  if not index then return not_found { call.parameters.id } end
  return 200, call.integrations[index]
end

local function create(service, call)
  local fault = check_input(call.input, true)
  if fault then return 400, service:problem(400, fault) end
  if #call.integrations >= service.quota then
    return 403, service:problem(403, ("the maximum number of integrations is reached (%d)"):format(service.quota))
  end
  local integration = merge(FIELDS, { label = DEFAULT_LABEL }, call.input)
  integration.integration_id = ("%x"):format(call.state.next_id)
  integration.user_id = call.user_id
  call.state.next_id = call.state.next_id + 1
  call.integrations[#call.integrations + 1] = integration
  return 201, integration
end

local function update(service, call)
  local index = position(call.integrations, call.parameters.id)
  if not index then return not_found { call.parameters.id } end
  local fault = check_input(call.input, false)
  if fault then return 400, service:problem(400, fault) end
  return 200, merge(FIELDS, call.integrations[index], call.input)
end

--- The raw value of `ids`, "" if there is none; nil if it came in another form than one comma-delimited parameter.
local function ids_parameter(query)
  local value
  for _, parameter in ipairs(query) do
    if parameter.name:find("^ids%[") then return nil end
    if parameter.name == "ids" then
      if value then return nil end
      value = parameter.value
    end
  end
  return value or ""
end

--- Splits at the literal commas, then decodes; the second result is the errors, an index there counts from zero.
local function read_ids(value)
  local ids, errors = {}, {}
  for raw in (value .. ","):gmatch("([^,]*),") do
    ids[#ids + 1] = url.query_decode(raw)
    if raw == "" then
      errors[#errors + 1] = { message = "IDs cannot be an empty string", parameter = ("ids[%d]"):format(#ids - 1) }
    end
  end
  return ids, errors
end

--- All or nothing, unless the option says otherwise: an id that does not exist keeps the others alive. What the real
--- service does is documented nowhere.
local function delete(service, call)
  local value = ids_parameter(call.query)
  if not value then
    return 400, { errors = { { message = "ids must be one comma-delimited parameter", parameter = "ids" } } }
  end
  local ids, errors = read_ids(value)
  if errors[1] then return 400, { errors = errors } end
  local unknown = {}
  for _, id in ipairs(ids) do
    if not position(call.integrations, id) then unknown[#unknown + 1] = id end
  end
  if unknown[1] and not service.partial_deletes then return not_found(unknown) end
  for _, id in ipairs(ids) do
    local index = position(call.integrations, id)
    if index then table.remove(call.integrations, index) end
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

-- The service ---------------------------------------------------------------------------------------------------------

--- The state before the first request.
function Service.new_state()
  return { accounts = {}, next_id = FIRST_ID }
end

local sendgrid = {}

--- Makes the service for one emulator.
---@param options integrations.emulator.Options
---@return integrations.emulator.SendGrid
function sendgrid.new(options)
  return setmetatable({
    quota = options.quota or DEFAULT_QUOTA,
    keys = options.keys or DEFAULT_KEYS,
    subusers = options.subusers,
    partial_deletes = options.partial_deletes,
  }, Service)
end

return sendgrid
