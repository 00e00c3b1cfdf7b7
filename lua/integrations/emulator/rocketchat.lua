--- Rocket.Chat's integrations, as the emulator plays them: routes, permissions and messages as tables.
--
-- It behaves like a server of version 8.8. There is no directory: every room and every user exists, and a user's id is
-- his name. Where nobody documents what the service does, this stand-in takes the reading that leaves a client's
-- mistake the least room: an update clears the fields that it leaves out.

local forms = require "integrations.emulator.rocketchat_forms"
local json = require "integrations.emulator.json"
local records = require "integrations.emulator.records"
local url = require "integrations.emulator.url"

local DEFAULT_USERS = {
  emulator = { ["RC.emulator.full"] = {}, ["RC.emulator.none"] = { permissions = {} } },
}

local INTEGRATION_ID = "EmuIntegratn%05d"
local HISTORY_ID = "EmuHistory%05d%02d"
local TOKEN_LENGTH = 48
local HISTORY_LENGTH = 2
local DEFAULT_COUNT, MOST = 50, 100

-- Errors --------------------------------------------------------------------------------------------------------------

local NOT_LOGGED_IN = "You must be logged in to do this."
local NO_PERMISSION = "User does not have the permissions required for this action [error-unauthorized]"
local TOO_MANY = "Error, too many requests. Please slow down. "
  .. "You must wait 1 seconds before trying this endpoint again. [error-too-many-requests]"

--- What a status says when nothing more precise is known.
local MESSAGES = {
  [400] = "Bad request",
  [401] = NOT_LOGGED_IN,
  [403] = NO_PERMISSION,
  [404] = "API endpoint not found",
  [405] = "Method not allowed",
  [413] = "request entity too large",
  [415] = "content type must be application/json",
  [429] = TOO_MANY,
  [500] = "Internal server error",
}

---@class integrations.emulator.RocketChat
local Service = {
  name = "rocketchat",
  prefix = { "api" },
  secret_headers = { "x-auth-token", "x-2fa-code" },
}
Service.__index = Service

--- The body of an error answer. Who is not logged in gets another shape.
---@param status integer
---@param message? string the status's own message, if absent
---@return table
function Service.problem(_, status, message)
  message = message or MESSAGES[status] or "Error"
  if status == 401 then return { status = "error", message = message } end
  return { success = false, error = message }
end

-- The rate limit ------------------------------------------------------------------------------------------------------

--- A window is a second; its end is told in milliseconds since the epoch.
local function limit_headers(limit, used, ends)
  return {
    ["x-ratelimit-limit"] = ("%d"):format(limit),
    ["x-ratelimit-remaining"] = ("%d"):format(math.max(limit - used, 0)),
    ["x-ratelimit-reset"] = ("%d000"):format(ends),
  }
end

--- Headers that a queued answer gets if it brings none.
---@param status integer
---@return table<string, string>?
function Service.queued_headers(_, status)
  if status == 429 then return limit_headers(10, 10, os.time() + 1) end
end

--- Counts a call to a route; true if there have been too many. This is the one place with a real clock: a client waits
--- for the moment that it is told.
local function over_limit(service, call)
  local limit = service.rate_limit
  if not limit then return false end
  local windows, now = call.state.windows, os.time()
  local window = windows[call.route]
  if not window or now >= window.ends then
    window = { used = 0, ends = now + 1 }
    windows[call.route] = window
  end
  window.used = window.used + 1
  call.answer_headers = limit_headers(limit, window.used, window.ends)
  return window.used > limit
end

-- Who calls -----------------------------------------------------------------------------------------------------------

local BOTH = { "incoming", "outgoing" }

--- Whether the caller may deal with integrations of a kind, or with a given one. A permission for his `own` ones does
--- not reach those that others have made.
local function may(call, kind, integration)
  local permissions = call.permissions
  if not permissions or records.contains(permissions, ("manage-%s-integrations"):format(kind)) then return true end
  return records.contains(permissions, ("manage-own-%s-integrations"):format(kind))
    and (not integration or integration._createdBy._id == call.user_id)
end

local function may_any(call, kinds)
  for _, kind in ipairs(kinds) do
    if may(call, kind) then return true end
  end
  return false
end

local function may_see(call, integration)
  return may(call, forms.KINDS[integration.type], integration)
end

--- Writes need a second factor where the user has one. The header with the method may be left out: a user has only one.
local function check_second_factor(service, call)
  local factor = service.two_factor
  if not factor then return nil end
  local code, method = call.headers["x-2fa-code"] or "", call.headers["x-2fa-method"] or factor.method
  if code == factor.code and method == factor.method then return nil end
  local details = {
    method = factor.method,
    codeGenerated = factor.method == "email",
    availableMethods = json.array { factor.method },
  }
  if code == "" then return forms.refuse("TOTP Required", "totp-required", details) end
  return forms.refuse("TOTP Invalid", "totp-invalid", details)
end

--- Finds the caller; returns nothing, or a status and a message. An operation that asks for permissions itself, and
--- refuses with other words, names no `kinds`.
---@param call table
function Service:authorize(call)
  if over_limit(self, call) then return 429 end
  local user = self.users[call.headers["x-user-id"] or ""]
  local token = user and user[call.headers["x-auth-token"] or ""]
  if not token then return 401 end
  call.user_id = call.headers["x-user-id"]
  call.permissions = token.permissions
  if call.operation.kinds and not may_any(call, call.operation.kinds) then return 403 end
end

local function not_authorized()
  return forms.refuse("Unauthorized", "not_authorized")
end

-- Integrations --------------------------------------------------------------------------------------------------------

--- Time goes on by a second with every change, so that two changes never look like one.
local function now(state)
  state.seconds = state.seconds + 1
  return records.timestamp(state.seconds) .. ".000Z"
end

local function find(call, id)
  return records.find(call.state.integrations, "_id", id)
end

local function find_by_url(call, address)
  for index, integration in ipairs(call.state.integrations) do
    if records.contains(integration.urls or {}, address) then return index, integration end
  end
end

--- Finds the integration of this type that a body names; a URL wins over an id.
local function find_named(call)
  local input = call.input
  local by_url = forms.KINDS[input.type] == "outgoing" and input.target_url
  local index, integration = (by_url and find_by_url or find)(call, by_url or input.integrationId)
  if integration and integration.type == input.type then return index, integration end
end

local function who(call)
  return { _id = call.user_id, username = call.user_id }
end

-- Operations: each returns a status and a body ------------------------------------------------------------------------

local NOT_FOUND = "No integration found."

local function answer(integration)
  return 200, { integration = integration, success = true }
end

local function create(service, call)
  local kind, status, body = forms.check_body(forms.CREATE, call.input, service.wording)
  if status then return status, body end
  if not may(call, kind) then return not_authorized() end
  status, body = forms.check_rules(kind, call.input, false)
  if status then return status, body end
  local state, integration = call.state, forms.read_integration(kind, call.input)
  state.created = state.created + 1
  integration._id = INTEGRATION_ID:format(state.created)
  integration.userId = integration.username
  integration._createdAt = now(state)
  integration._createdBy = who(call)
  integration._updatedAt = integration._createdAt
  if kind == "incoming" then integration.token = integration._id:rep(3):sub(1, TOKEN_LENGTH) end
  table.insert(state.integrations, integration)
  return answer(integration)
end

--- Puts a new integration in the place of an old one, with what the server owns.
local function replace(call, kind, index, old)
  local new = forms.read_integration(kind, call.input)
  -- An incoming integration keeps the user it posts as: without one it could not post.
  new.username = new.username or old.username
  new.userId = new.username
  if kind == "incoming" then new.token = old.token end
  for _, name in ipairs { "_id", "_createdAt", "_createdBy" } do new[name] = old[name] end
  new._updatedAt = now(call.state)
  new._updatedBy = who(call)
  call.state.integrations[index] = new
  return new
end

local function update(service, call)
  local kind, status, body = forms.check_body(forms.UPDATE, call.input, service.wording)
  if status then return status, body end
  if not may(call, kind) then return not_authorized() end
  local index, old = find_named(call)
  if not old then return forms.fail(NOT_FOUND) end
  status, body = forms.check_rules(kind, call.input, true)
  if status then return status, body end
  if not may(call, kind, old) then return forms.refuse("Invalid integration", "error-invalid-integration") end
  return answer(replace(call, kind, index, old))
end

local function remove(service, call)
  local status, body = forms.check_remove(call.input, service.wording)
  if status then return status, body end
  local index, integration = find_named(call)
  if not integration then return forms.fail(NOT_FOUND) end
  if not may_see(call, integration) then return not_authorized() end
  table.remove(call.state.integrations, index)
  return answer(integration)
end

--- The parameters of a query as a table. There is none in them that means something twice.
local function read_query(call)
  local parameters = {}
  for _, parameter in ipairs(call.query) do parameters[parameter.name] = url.query_decode(parameter.value) end
  return parameters
end

local function get(service, call)
  local query = read_query(call)
  local status, body = forms.check(forms.GET, query, service.wording)
  if status then return status, body end
  local _, integration = find(call, query.integrationId)
  if not may_any(call, BOTH) or integration and not may_see(call, integration) then
    return forms.fail("not-authorized")
  end
  if not integration or query.createdBy and query.createdBy ~= integration._createdBy._id then
    return forms.fail("The integration does not exists.")
  end
  return answer(integration)
end

--- A whole number from a parameter, and another one where there is none.
local function read_number(text, default)
  return text and text:find("^%d+$") and tonumber(text) or default
end

--- A page of `all`, under the given name.
local function page(name, all, query)
  local offset, count = read_number(query.offset, 0), read_number(query.count, DEFAULT_COUNT)
  if count == 0 then count = DEFAULT_COUNT end
  local items = json.array {}
  for index = offset + 1, math.min(offset + math.min(count, MOST), #all) do items[#items + 1] = all[index] end
  return 200, { [name] = items, offset = offset, count = #items, items = #items, total = #all, success = true }
end

local function is_wanted(integration, query)
  local name = (query.name or ""):lower()
  return (query.type or integration.type) == integration.type and integration.name:lower():find(name, 1, true)
end

local function list(service, call)
  local query = read_query(call)
  local status, body = forms.check(forms.LIST, query, service.wording)
  if status then return status, body end
  local found = {}
  for _, integration in ipairs(call.state.integrations) do
    if may_see(call, integration) and is_wanted(integration, query) then table.insert(found, 1, integration) end
  end
  return page("integrations", found, query)
end

--- One of the calls that an outgoing integration has never made.
local function history_entry(integration, number)
  local index = tonumber(integration._id:match("%d+$"))
  return {
    _id = HISTORY_ID:format(index, number),
    type = "outgoing-webhook",
    step = "after-process-false",
    integration = { _id = integration._id, name = integration.name },
    event = integration.event,
    url = integration.urls[1],
    finished = true,
    error = false,
    _createdAt = integration._createdAt,
    _updatedAt = integration._createdAt,
  }
end

--- The service does not look whether there is such an integration: an unknown id has no history.
local function history(service, call)
  local query = read_query(call)
  local status, body = forms.check(forms.HISTORY, query, service.wording)
  if status then return status, body end
  if not query.id:find("%S") then return forms.fail("Invalid integration id.") end
  local entries = {}
  local _, integration = find(call, query.id)
  if integration and forms.KINDS[integration.type] == "outgoing" and may_see(call, integration) then
    for number = HISTORY_LENGTH, 1, -1 do entries[#entries + 1] = history_entry(integration, number) end
  end
  return page("history", entries, query)
end

--- A write asks for the second factor before its handler has any effect.
local function guarded(handler)
  return function(service, call)
    local status, body = check_second_factor(service, call)
    if status then return status, body end
    return handler(service, call)
  end
end

Service.routes = {
  { path = "/api/v1/integrations.create", methods = {
    POST = { handler = guarded(create), takes_body = true },
  } },
  { path = "/api/v1/integrations.update", methods = {
    PUT = { handler = guarded(update), takes_body = true },
  } },
  { path = "/api/v1/integrations.remove", methods = {
    POST = { handler = guarded(remove), takes_body = true, kinds = BOTH },
  } },
  { path = "/api/v1/integrations.get", methods = { GET = { handler = get } } },
  { path = "/api/v1/integrations.list", methods = { GET = { handler = list, kinds = BOTH } } },
  { path = "/api/v1/integrations.history", methods = { GET = { handler = history, kinds = { "outgoing" } } } },
}

-- The service ---------------------------------------------------------------------------------------------------------

--- The state before the first request.
function Service.new_state()
  return { integrations = {}, created = 0, seconds = 0, windows = {} }
end

local rocketchat = {}

--- Makes the service for one emulator.
---@param options integrations.emulator.Options
---@return integrations.emulator.RocketChat
function rocketchat.new(options)
  return setmetatable({
    users = options.rocketchat_users or DEFAULT_USERS,
    wording = options.rocketchat_wording or "newer",
    rate_limit = options.rocketchat_rate_limit,
    two_factor = options.two_factor,
  }, Service)
end

return rocketchat
