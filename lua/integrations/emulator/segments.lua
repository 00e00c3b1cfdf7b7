--- SendGrid's Segments 2.0, as the emulator plays it: routes, checks and messages as tables.
--
-- Shapes and filters follow the official OpenAPI description. There is no contact behind a segment: every one has the
-- description's example contact. There is no clock either: what the service forgets at midnight lasts until a reset, a
-- query is checked after so many reads of its segment, and the time goes on by a second with every change. Names that
-- the API does not know are ignored.

local host = require "integrations.emulator.sendgrid_host"
local json = require "integrations.emulator.json"
local records = require "integrations.emulator.records"

local READ, CREATE = "marketing.segments.read", "marketing.segments.create"
local UPDATE, DELETE = "marketing.segments.update", "marketing.segments.delete"

local ADDRESS = "https://api.sendgrid.com/v3/marketing/segments/2.0"
local SEGMENT_ID = "5e900000-0000-4000-8000-%012x"
local JOB_ID = "10b00000-0000-4000-8000-%012x"

--- A query is valid if it begins like this, whatever follows.
local QUERY = "^%s*select%s+contact_id%s*,%s*updated_at%s+from%s+contact_data[^%w_]"
local BAD_QUERY = "query_dsl must begin with SELECT contact_id, updated_at FROM contact_data"

local LIST_LIMIT = 50
local DEFAULT_PENDING_READS = 1
local REFRESHES_PER_SEGMENT = 2
local REFRESHES_PER_ACCOUNT = 10
local HOUR = 3600 -- between two refreshes of a segment; it goes by only as things are changed, a second for each
local SAMPLE_AGE = 3600

local FREE_USER = "Manual refresh is not available to free users."
local NO_SEGMENT = "Segment does not exist."
local BAD_TIME_ZONE = "user_time_zone must be an IANA time zone, like America/Chicago."

local EXAMPLE_CONTACT = {
  id = "47d23ab0-d895-4359-a0d1-ffc7a6fc7e70",
  email = "abcd@gmail.com",
  alternate_emails = json.array { "abcd@yahoo.com", "abcd@hotmail.com" },
  first_name = "Ab",
  last_name = "Cd",
  address_line_1 = "street address / P.O. box / CompanyName / c/o",
  address_line_2 = "apartment, suite, unit, building, floor etc",
  city = "Redwood City",
  state_province_region = "CA",
  postal_code = 94063,
  country = "USA",
  custom_fields = { custom_field_name1 = "custom_field_value1", custom_field_name2 = "custom_field_value2" },
}

---@class integrations.emulator.Segments : integrations.emulator.SendGridHost
local Service = host.extend {
  name = "segments",
  prefix = { "v3", "marketing", "segments", "2.0" },
}

--- The state before the first request.
function Service.new_state()
  return { accounts = {}, segments = 0, jobs = 0, seconds = 0 }
end

--- An account is its segments, and how often they have been refreshed in all.
function Service.new_account()
  return { segments = {}, refreshes = 0 }
end

-- Errors --------------------------------------------------------------------------------------------------------------

--- The statuses that a refresh answers in a shape of its own. The others come from the gateway, as everywhere.
local REFRESH_MESSAGES = {
  [400] = "bad request",
  [404] = NO_SEGMENT,
  [500] = "Please check [our status page](https://status.sendgrid.com/) for updates or [contact support]"
    .. "(https://support.sendgrid.com/) if the issue is not listed.",
}

--- The body of an error answer.
---@param status integer
---@param message? string the status's own message, if absent
---@param call table
---@return table
function Service:problem(status, message, call)
  if call.route and call.route.is_refresh and REFRESH_MESSAGES[status] then
    return { error = message or REFRESH_MESSAGES[status] }
  end
  return host.problem(self, status, message)
end

--- One error for each fault.
local function refuse(errors)
  return 400, { errors = errors }
end

local function not_found(id)
  return 404, { errors = { { field = "segment_id", message = ("segment does not exist (%s)"):format(id) } } }
end

-- The body's checks: each returns nothing, or a list of what follows the field's name in the message ------------------

local function check_query(value)
  if type(value) ~= "string" then return records.check_string(value) end
  if value == "" then return { "must not be empty" } end
end

local function check_parent_lists(value)
  if not json.is_array(value) then return { "must be an array" } end
  local texts, seen = {}, {}
  for _, id in ipairs(value) do
    if type(id) ~= "string" then return { "must contain strings only" } end
    if seen[id] then texts[#texts + 1] = ("contains an id twice (%s)"):format(id) end
    seen[id] = true
  end
  if #value > 1 then texts[#texts + 1] = "must contain one id at most" end
  return texts
end

--- The fields of a segment, in the order in which faults are named.
local NAME = { name = "name", required = true, check = records.string_of(1, 100) }
local QUERY_DSL = { name = "query_dsl", required = true, check = check_query }
local PARENT_LISTS = { name = "parent_list_ids", check = check_parent_lists }

local CREATE_FIELDS = { NAME, QUERY_DSL, PARENT_LISTS }
local UPDATE_FIELDS = { NAME, QUERY_DSL }

--- Collects the errors of a body; `own` is the segment that may keep its name.
local function check_input(call, fields, own)
  local errors, input = {}, call.input
  for index, fault in ipairs(records.faults(fields, input, not own)) do
    errors[index] = { field = fault.name, message = fault.name .. " " .. fault.text }
  end
  local _, namesake = records.find(call.account.segments, "name", input.name)
  if namesake and namesake ~= own then
    local message = ("a segment with this name exists already (%s)"):format(input.name)
    errors[#errors + 1] = { field = "name", message = message }
  end
  if own and not records.has_any(fields, input) then
    errors[1] = { field = "request", message = "at least one field is required" }
  end
  return errors
end

-- What a segment looks like -------------------------------------------------------------------------------------------

--- Time goes on with every change, so that two changes never look like one.
local function tick(state)
  state.seconds = state.seconds + 1
  return state.seconds
end

local function time(seconds)
  return records.timestamp(seconds) .. "Z"
end

local function status(segment)
  if segment.pending_reads > 0 then return { query_validation = "PENDING" } end
  if (segment.query_dsl .. " "):lower():find(QUERY) then return { query_validation = "VALID" } end
  return { query_validation = "INVALID", error_message = BAD_QUERY }
end

--- What every answer says of a segment.
local function summary(segment)
  return {
    id = segment.id,
    name = segment.name,
    contacts_count = 1,
    created_at = time(segment.created),
    updated_at = time(segment.updated),
    sample_updated_at = time(segment.sampled),
    next_sample_update = time(segment.sampled + SAMPLE_AGE),
    parent_list_ids = segment.parent_list_ids,
    query_version = "2",
    status = status(segment),
  }
end

local function entry(segment)
  local listed = summary(segment)
  listed._metadata = { self = ADDRESS .. "/" .. segment.id }
  return listed
end

local function whole(segment)
  local answer = summary(segment)
  answer.query_dsl = segment.query_dsl
  answer.contacts_sample = json.array { EXAMPLE_CONTACT }
  answer.refreshes_used = segment.refreshes
  answer.max_refreshes = REFRESHES_PER_SEGMENT
  answer.last_refreshed_at = segment.refreshed and time(segment.refreshed)
  return answer
end

--- What the answer to a new query says: nobody has checked it yet, however few reads that takes.
local function unchecked(segment)
  local answer = whole(segment)
  answer.status = { query_validation = "PENDING" }
  return answer
end

-- Parameters ----------------------------------------------------------------------------------------------------------

local BOOLEANS = { ["true"] = true, ["false"] = false }

local function parameter_fault(name, text)
  return { field = name, message = name .. " " .. text }
end

--- Reads a parameter that is true or false; nil and an error if it is neither.
local function read_boolean(query, name, default)
  for _, parameter in ipairs(query) do
    if parameter.name == name then
      if BOOLEANS[parameter.value] == nil then return nil, parameter_fault(name, "must be true or false") end
      return BOOLEANS[parameter.value]
    end
  end
  return default
end

--- Reads a list parameter into a set; nil if it is empty, nil and an error if it is wrong.
local function read_set(query, name, limit)
  local values, message = host.read_list(query, name)
  if not values then return nil, { field = name, message = message } end
  if #values == 1 and values[1] == "" then return nil end
  if #values > limit then return nil, parameter_fault(name, ("must contain %d ids at most"):format(limit)) end
  local set = {}
  for _, value in ipairs(values) do
    if value == "" then return nil, parameter_fault(name, "must not contain an empty string") end
    set[value] = true
  end
  return set
end

--- Reads the filters into a function that says whether a segment is wanted; nil and an error if one is wrong. Ids make
--- the other filters meaningless, so these are not even looked at.
local function read_filter(query)
  local ids, fault = read_set(query, "ids", math.huge)
  if fault then return nil, fault end
  if ids then return function(segment) return ids[segment.id] end end
  local lists, orphans
  lists, fault = read_set(query, "parent_list_ids", LIST_LIMIT)
  if fault then return nil, fault end
  orphans, fault = read_boolean(query, "no_parent_list_id", false)
  if fault then return nil, fault end
  return function(segment)
    local parent = segment.parent_list_ids[1]
    if not parent then return orphans or not lists end
    if lists then return lists[parent] end
    return not orphans
  end
end

-- Operations: each returns a status and a body ------------------------------------------------------------------------

local function find(call)
  local index, segment = records.find(call.account.segments, "id", call.parameters.segment_id)
  return segment, index
end

local function list(service, call)
  local wanted, fault = read_filter(call.query)
  if not wanted then return refuse { fault } end
  local results = json.array {}
  for _, segment in ipairs(call.account.segments) do
    if wanted(segment) then results[#results + 1] = entry(segment) end
  end
  if service.list_shape == "flat" then return 200, results[1] or {} end
  return 200, { results = results, _metadata = { self = ADDRESS, count = #results } }
end

local function create(service, call)
  local errors = check_input(call, CREATE_FIELDS)
  if errors[1] then return refuse(errors) end
  local state, input, now = call.state, call.input, tick(call.state)
  state.segments = state.segments + 1
  local segment = {
    id = SEGMENT_ID:format(state.segments),
    name = input.name,
    query_dsl = input.query_dsl,
    parent_list_ids = input.parent_list_ids or json.array {},
    pending_reads = service.pending_reads,
    created = now,
    updated = now,
    sampled = now,
    refreshes = 0,
  }
  table.insert(call.account.segments, segment)
  return 201, unchecked(segment)
end

local function get(_, call)
  local segment = find(call)
  if not segment then return not_found(call.parameters.segment_id) end
  local with_sample, fault = read_boolean(call.query, "contacts_sample", true)
  if fault then return refuse { fault } end
  local answer = whole(segment)
  if not with_sample then answer.contacts_sample = nil end
  segment.pending_reads = math.max(segment.pending_reads - 1, 0)
  return 200, answer
end

local function update(service, call)
  local segment = find(call)
  if not segment then return not_found(call.parameters.segment_id) end
  local errors = check_input(call, UPDATE_FIELDS, segment)
  if errors[1] then return refuse(errors) end
  local input = call.input
  segment.name = input.name or segment.name
  segment.updated = tick(call.state)
  if not input.query_dsl then return 200, whole(segment) end
  segment.query_dsl = input.query_dsl
  segment.pending_reads = service.pending_reads
  return 200, unchecked(segment)
end

local function delete(_, call)
  local segment, index = find(call)
  if not segment then return not_found(call.parameters.segment_id) end
  table.remove(call.account.segments, index)
  return 202
end

local function is_time_zone(value)
  return type(value) == "string" and (value == "UTC" or value:find("^%a[%w_+-]*/%a[%w_+/-]*$") ~= nil)
end

--- A day never ends: nothing here tells when.
local function is_used_up(account, segment, now)
  return segment.refreshes >= REFRESHES_PER_SEGMENT or account.refreshes >= REFRESHES_PER_ACCOUNT
    or segment.refreshed and now - segment.refreshed < HOUR
end

local function refresh(service, call)
  if service.free_user then return 403, { error = FREE_USER } end
  local segment = find(call)
  if not segment then return 404, service:problem(404, nil, call) end
  if not is_time_zone(call.input.user_time_zone) then return 400, { error = BAD_TIME_ZONE } end
  local account = call.account
  if is_used_up(account, segment, call.state.seconds) then return 429 end
  account.refreshes = account.refreshes + 1
  segment.refreshes = segment.refreshes + 1
  segment.refreshed = tick(call.state)
  segment.sampled = segment.refreshed
  call.state.jobs = call.state.jobs + 1
  return 202, { job_id = JOB_ID:format(call.state.jobs) }
end

Service.routes = {
  { path = "/v3/marketing/segments/2.0", methods = {
    GET = { handler = list, scope = READ },
    POST = { handler = create, scope = CREATE, takes_body = true },
  } },
  { path = "/v3/marketing/segments/2.0/{segment_id}", methods = {
    GET = { handler = get, scope = READ },
    PATCH = { handler = update, scope = UPDATE, takes_body = true },
    DELETE = { handler = delete, scope = DELETE },
  } },
  { path = "/v3/marketing/segments/2.0/refresh/{segment_id}", is_refresh = true, methods = {
    POST = { handler = refresh, scope = UPDATE, takes_body = true },
  } },
}

local segments = {}

--- Makes the service for one emulator.
---@param options integrations.emulator.Options
---@return integrations.emulator.Segments
function segments.new(options)
  return host.new(Service, options, {
    pending_reads = options.pending_reads or DEFAULT_PENDING_READS,
    list_shape = options.segments_list_shape,
    free_user = options.free_user,
  })
end

return segments
