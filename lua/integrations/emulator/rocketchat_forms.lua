--- What Rocket.Chat accepts, as the emulator plays it: the fields of each request, the words about a wrong one, and the
--- rules that the handlers have besides.

local json = require "integrations.emulator.json"
local records = require "integrations.emulator.records"

local forms = {}

--- The kind of an integration by its type.
forms.KINDS = { ["webhook-incoming"] = "incoming", ["webhook-outgoing"] = "outgoing" }

--- A refusal.
---@return integer status, table body
function forms.fail(message)
  return 400, { success = false, error = message }
end

--- A refusal with a code, which the message repeats in brackets.
---@return integer status, table body
function forms.refuse(message, code, details)
  return 400, { success = false, error = ("%s [%s]"):format(message, code), errorType = code, details = details }
end

-- The fields of a request ---------------------------------------------------------------------------------------------

local function is_list_of_strings(value)
  if not json.is_array(value) then return { "must be array" } end
  for index, item in ipairs(value) do
    local place = ("/%d"):format(index - 1)
    if type(item) ~= "string" then return { "must be string" }, place end
    if item == "" then return { "must NOT have fewer than 1 characters" }, place end
  end
end

local function is_a(kind)
  return function(value)
    if type(value) ~= kind then return { "must be " .. kind } end
  end
end

local function is_engine(value)
  if value ~= "isolated-vm" then return { "must be equal to one of the allowed values" } end
end

local CHECKS = {
  string = is_a "string", boolean = is_a "boolean", number = is_a "number", array = is_list_of_strings,
}

--- An optional field may be null, which is as good as left out.
local function check_type(value, field)
  if value == json.null and not field.required then return nil end
  return field.is(value)
end

local function make_field(declared, required)
  local name, type_name, is = declared[1], declared[2], declared[3]
  return { name = name, type = type_name, is = is or CHECKS[type_name], required = required, check = check_type }
end

--- Declares fields: each is a name, a type and, where that is not enough, a check.
local function declare(required, optional)
  local fields = {}
  for _, declared in ipairs(required) do fields[#fields + 1] = make_field(declared, true) end
  for _, declared in ipairs(optional or {}) do fields[#fields + 1] = make_field(declared, false) end
  return fields
end

local function join(...)
  local joined = {}
  for _, fields in ipairs { ... } do
    for _, field in ipairs(fields) do joined[#joined + 1] = field end
  end
  return joined
end

local TYPE, USERNAME = { "type", "string" }, { "username", "string" }

local COMMON = declare(
  { TYPE, { "name", "string" }, { "enabled", "boolean" }, { "scriptEnabled", "boolean" }, { "channel", "string" } },
  {
    { "alias", "string" }, { "avatar", "string" }, { "emoji", "string" }, { "script", "string" },
    { "scriptEngine", "string", is_engine }, { "skipTranspile", "boolean" },
  }
)

local INCOMING = declare({}, { { "overrideDestinationChannelEnabled", "boolean" } })

local OUTGOING = declare({ USERNAME, { "event", "string" } }, {
  { "urls", "array" }, { "token", "string" }, { "triggerWords", "array" }, { "targetRoom", "string" },
  { "triggerWordAnywhere", "boolean" }, { "runOnEdits", "boolean" }, { "retryFailedCalls", "boolean" },
  { "impersonateUser", "boolean" }, { "retryCount", "number" }, { "retryDelay", "string" },
})

local BY_ID, BY_URL = { "integrationId", "string" }, { "target_url", "string" }

--- What the body of a create may hold, by the kind of the integration.
forms.CREATE = {
  incoming = { fields = join(COMMON, declare { USERNAME }, INCOMING) },
  outgoing = { fields = join(COMMON, OUTGOING) },
}

--- What the body of an update may hold. An `open` form lets pass what it does not know.
forms.UPDATE = {
  incoming = { open = true, fields = join(COMMON, declare({ BY_ID }, { USERNAME }), INCOMING) },
  outgoing = { fields = join(COMMON, OUTGOING, declare({}, { BY_ID, BY_URL })) },
}

local REMOVE = { open = true, fields = declare({ TYPE }, { BY_ID, BY_URL }) }

--- The parameters of a page; `sort` is accepted and changes nothing: the newest is always the first.
local PAGE = declare({}, { { "count", "string" }, { "offset", "string" }, { "sort", "string" } })

--- What the queries may hold.
forms.LIST = { fields = join(PAGE, declare({}, { { "name", "string" }, { "type", "string" } })) }
forms.HISTORY = { fields = join(declare { { "id", "string" } }, PAGE) }
forms.GET = { open = true, fields = declare({ BY_ID }, { { "createdBy", "string" } }) }

-- The words about a wrong request -------------------------------------------------------------------------------------

local INVALID = "invalid-params"
local BAD_TYPE = "Invalid integration type."

local NEWER_TEXTS = {
  missing = function(fault) return ("must have required property '%s'"):format(fault.name) end,
  unknown = function() return "must NOT have additional properties" end,
  wrong = function(fault) return ("/%s %s"):format(fault.name, fault.text) end,
}

local function newer_refusal(faults)
  local lines = {}
  for _, fault in ipairs(faults) do
    local text = NEWER_TEXTS[fault.rule](fault)
    -- Two unknown names would make the same line twice.
    if text ~= lines[#lines] then lines[#lines + 1] = text end
  end
  return forms.refuse(table.concat(lines, "\n "), INVALID)
end

local function json_type(value)
  if value == json.null then return "null" end
  if type(value) ~= "table" then return type(value) end
  return json.is_array(value) and "array" or "object"
end

local OLDER_TEXTS = {
  missing = function(fault) return ("Missing key '%s'"):format(fault.name) end,
  unknown = function(fault) return ("Unknown key in field %s"):format(fault.name) end,
  wrong = function(fault)
    local got = json_type(fault.value)
    if got == fault.field.type then return ("Failed Match.Where validation in field %s"):format(fault.name) end
    return ("Expected %s, got %s in field %s"):format(fault.field.type, got, fault.name)
  end,
}

--- Servers of before the schema checks stop at the first fault.
local function older_refusal(faults)
  return forms.fail("Match error: " .. OLDER_TEXTS[faults[1].rule](faults[1]))
end

local WORDINGS = { newer = newer_refusal, older = older_refusal }

--- Collects the faults of an input.
local function find_faults(form, input)
  local faults = records.faults(form.fields, input, true)
  for _, fault in ipairs(faults) do
    -- To this service a null is there, and so of a wrong type.
    if fault.rule == "missing" and fault.value ~= nil then
      fault.rule, fault.text = "wrong", "must be " .. fault.field.type
    end
  end
  if form.open then return faults end
  for _, fault in ipairs(records.unknown(form.fields, input)) do faults[#faults + 1] = fault end
  return faults
end

--- Holds an input against a form, and takes the nulls out of it; returns nothing, or a status and a body.
---@param form { fields: integrations.emulator.Field[], open: boolean? }
---@param input table
---@param wording "newer"|"older"
---@return integer? status, table? body
function forms.check(form, input, wording)
  local faults = find_faults(form, input)
  if faults[1] then return WORDINGS[wording](faults) end
  for name, value in pairs(input) do
    if value == json.null then input[name] = nil end
  end
end

--- Finds the kind of the integration that a body is about, and checks the body's fields.
---@param by_kind table<string, table> the form for each kind
---@return string? kind, integer? status, table? body
function forms.check_body(by_kind, input, wording)
  local kind = forms.KINDS[input.type]
  if kind then return kind, forms.check(by_kind[kind], input, wording) end
  if input.type ~= nil then return nil, forms.fail(BAD_TYPE) end
  return nil, forms.check({ open = true, fields = declare { TYPE } }, input, wording)
end

local ONE_OF = "must match exactly one schema in oneOf"
local UNNAMED = "An integrationId or target_url needs to be provided."

--- The words about a remove of no known type, without a name of the integration, and with two of them.
local REMOVE_TEXTS = {
  newer = {
    no_type = ONE_OF,
    incoming = ("must have required property 'integrationId'\n %s"):format(ONE_OF),
    outgoing = ("must have required property 'integrationId'\n must have required property 'target_url'\n %s")
      :format(ONE_OF),
    two_names = ONE_OF,
  },
  older = {
    no_type = BAD_TYPE,
    incoming = "Match error: Missing key 'integrationId'",
    outgoing = UNNAMED,
    two_names = UNNAMED,
  },
}

--- What is wrong with the names in the body of a remove: an outgoing integration is named by its id or by one of its
--- URLs, and not by both.
local function find_name_fault(input)
  local kind = forms.KINDS[input.type]
  if not kind then return "no_type" end
  local by_id, by_url = input.integrationId ~= nil, kind == "outgoing" and input.target_url ~= nil
  if by_id and by_url then return "two_names" end
  if not by_id and not by_url then return kind end
end

--- Checks the body of a remove; returns nothing, or a status and a body.
---@return integer? status, table? body
function forms.check_remove(input, wording)
  local status, body = forms.check(REMOVE, input, wording)
  if status then return status, body end
  local fault = find_name_fault(input)
  if not fault then return nil end
  local text = REMOVE_TEXTS[wording][fault]
  if wording == "older" then return forms.fail(text) end
  return forms.refuse(text, INVALID)
end

-- The rules of the handlers -------------------------------------------------------------------------------------------

--- What an event makes of an integration's other fields.
local EVENTS = {
  sendMessage = { channel = true, triggerWords = true },
  fileUploaded = { channel = true },
  roomArchived = {},
  roomCreated = {},
  roomJoined = { channel = true },
  roomLeft = { channel = true },
  userCreated = { targetRoom = true },
}

--- The channels that are no room and no user; for outgoing integrations only.
local SCOPES = { all_public_channels = true, all_private_groups = true, all_direct_messages = true }

local function blank(value)
  return value == nil or not value:find("%S")
end

local function split(text)
  local parts = json.array {}
  for part in (text .. ","):gmatch("([^,]*),") do parts[#parts + 1] = part:match("^%s*(.-)%s*$") end
  return parts
end

--- Whether every channel begins with # or @, or is one of the others that are allowed.
local function are_channels(text, others)
  for _, channel in ipairs(split(text)) do
    if not channel:find("^[#@]") and not others[channel:lower()] then return false end
  end
  return true
end

local function has_urls(input)
  for _, address in ipairs(input.urls or {}) do
    if not blank(address) then return true end
  end
  return false
end

local BAD_START = { "Invalid channel. Start with @ or #", "error-invalid-channel-start-with-chars" }

--- In the order in which they are asked; the first that does not hold is told.
local RULES = {
  incoming = {
    { "Invalid channel", "error-invalid-channel", holds = function(input) return not blank(input.channel) end },
    { BAD_START[1], BAD_START[2], holds = function(input) return are_channels(input.channel, {}) end },
    { "Invalid username", "error-invalid-username", holds = function(input)
      return input.username == nil or not blank(input.username)
    end },
  },
  outgoing = {
    { "Invalid event type", "error-invalid-event-type", holds = function(input) return EVENTS[input.event] end },
    { "Invalid username", "error-invalid-username", holds = function(input) return not blank(input.username) end },
    { "Invalid Target Room", "error-invalid-targetRoom", holds = function(input)
      return not EVENTS[input.event].targetRoom or not blank(input.targetRoom)
    end },
    { "Invalid URLs", "error-invalid-urls", holds = has_urls },
    -- To be made it needs none.
    { "Invalid token", "error-invalid-token", holds = function(input, updating)
      return not updating or not blank(input.token)
    end },
    { "Invalid Channel", "error-invalid-channel", holds = function(input)
      return not EVENTS[input.event].channel or not blank(input.channel)
    end },
    { BAD_START[1], BAD_START[2], holds = function(input)
      return not EVENTS[input.event].channel or are_channels(input.channel, SCOPES)
    end },
  },
}

--- What the handler refuses though the form is right; returns nothing, or a status and a body.
---@param kind "incoming"|"outgoing"
---@param input table
---@param updating boolean
---@return integer? status, table? body
function forms.check_rules(kind, input, updating)
  for _, rule in ipairs(RULES[kind]) do
    if not rule.holds(input, updating) then return forms.refuse(rule[1], rule[2]) end
  end
end

-- What comes of it ----------------------------------------------------------------------------------------------------

--- Fields that an integration has even if the request has not.
local DEFAULTS = {
  incoming = { scriptEngine = "isolated-vm", skipTranspile = false, overrideDestinationChannelEnabled = false },
  outgoing = {},
}

--- What a request says of an integration.
---@return table integration
function forms.read_integration(kind, input)
  local integration = {}
  for _, declared in ipairs(forms.CREATE[kind].fields) do
    integration[declared.name] = input[declared.name]
  end
  for name, value in pairs(DEFAULTS[kind]) do
    if integration[name] == nil then integration[name] = value end
  end
  local event = kind == "outgoing" and EVENTS[input.event] or { channel = true }
  integration.channel = event.channel and split(input.channel) or json.array {}
  if not event.triggerWords then integration.triggerWords = nil end
  return integration
end

return forms
