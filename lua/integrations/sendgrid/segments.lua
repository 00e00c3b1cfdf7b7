--- SendGrid's Segments 2.0: groups of contacts that a query chooses.
--- Schemas and operations carry the names of the API's OpenAPI document.
local call = require "integrations.call"
local ensure = require "integrations.ensure"
local failure = require "integrations.failure"
local listing = require "integrations.listing"
local match = require "integrations.match"
local refusal = require "integrations.refusal"
local retry = require "integrations.retry"
local service = require "integrations.service"

-- ---- schemas --------------------------------------------------------------------------------

local Text = { type = "string" }
local Count = { type = "integer" }
local SegmentId = { type = "string", minLength = 36, maxLength = 36 }
local Name = { type = "string", minLength = 1, maxLength = 100 }
local QueryDsl = { type = "string" }
local ParentListIds = { type = "array", uniqueItems = true, items = Text }

---@class integrations.sendgrid.SegmentStatusResponse
---@field query_validation "PENDING"|"VALID"|"INVALID"
---@field error_message? string
local SegmentStatusResponse = {
  type = "object",
  required = { "query_validation" },
  properties = { query_validation = Text, error_message = Text },
}

local Metadata = {
  type = "object",
  properties = { prev = Text, self = Text, next = Text, count = { type = "integer", minimum = 0 } },
}

---@class integrations.sendgrid.SegmentWriteV2
---@field name string 1 to 100 characters, no other segment's
---@field query_dsl string SQL: `SELECT contact_id, updated_at FROM contact_data WHERE …`
---@field parent_list_ids? string[] one at most
local SegmentWriteV2 = {
  type = "object",
  required = { "name", "query_dsl" },
  properties = {
    name = Name,
    query_dsl = QueryDsl,
    parent_list_ids = { type = "array", uniqueItems = true, maxItems = 1, items = Text },
  },
}

---@class integrations.sendgrid.SegmentUpdate
---@field name? string
---@field query_dsl? string
local SegmentUpdate = {
  type = "object",
  minProperties = 1,
  properties = { name = Name, query_dsl = QueryDsl },
}

---@class integrations.sendgrid.SegmentRefreshRequest
---@field user_time_zone string of IANA's names: `America/Chicago`
local SegmentRefreshRequest = {
  type = "object",
  required = { "user_time_zone" },
  properties = { user_time_zone = Text },
}

---@class integrations.sendgrid.SegmentRefresh202
---@field job_id? string
local SegmentRefresh202 = { type = "object", properties = { job_id = Text } }

---@class integrations.sendgrid.ContactResponse
---@field id string
---@field email? string
local ContactResponse = {
  type = "object",
  required = {
    "id", "alternate_emails", "first_name", "last_name", "address_line_1", "address_line_2", "city",
    "state_province_region", "postal_code", "country", "custom_fields",
  },
  properties = {
    id = { type = "string", maxLength = 36 },
    email = { type = "string", minLength = 3, maxLength = 254 },
    phone_number_id = Text,
    external_id = { type = "string", maxLength = 254 },
    anonymous_id = { type = "string", maxLength = 254 },
    alternate_emails = {
      type = "array",
      uniqueItems = true,
      minItems = 0,
      items = { type = "string", minLength = 3, maxLength = 254 },
    },
    first_name = { type = "string", minLength = 1 },
    last_name = { type = "string", minLength = 1 },
    address_line_1 = { type = "string", minLength = 0 },
    address_line_2 = { type = "string", minLength = 0 },
    city = { type = "string", minLength = 0 },
    state_province_region = { type = "string", minLength = 0 },
    postal_code = { type = "integer" },
    country = { type = "string", minLength = 0 },
    list_ids = { type = "array", uniqueItems = true, items = Text },
    custom_fields = {
      type = "object",
      minProperties = 0,
      properties = {
        custom_field_name1 = { type = "string", minLength = 0 },
        custom_field_name2 = { type = "string", minLength = 0 },
      },
    },
    segment_ids = { type = "array", uniqueItems = true, items = Text },
  },
}

--- A segment as the list has it: without its query and its contacts.
---@class integrations.sendgrid.SegmentSummary
---@field id string
---@field name string
---@field contacts_count integer of one to 24 hours ago
---@field created_at string ISO 8601, as all times
---@field updated_at string
---@field sample_updated_at string
---@field next_sample_update string
---@field parent_list_ids string[]
---@field query_version string
---@field status integrations.sendgrid.SegmentStatusResponse
local AllSegments200 = {
  type = "object",
  required = {
    "id", "name", "contacts_count", "created_at", "updated_at", "sample_updated_at", "next_sample_update",
    "parent_list_ids", "query_version", "status",
  },
  properties = {
    id = SegmentId,
    name = Name,
    contacts_count = Count,
    created_at = Text,
    updated_at = Text,
    sample_updated_at = Text,
    next_sample_update = Text,
    parent_list_ids = ParentListIds,
    query_version = Text,
    _metadata = Metadata,
    status = SegmentStatusResponse,
  },
}

---@class integrations.sendgrid.Segment : integrations.sendgrid.SegmentSummary
---@field query_dsl string
---@field contacts_sample? integrations.sendgrid.ContactResponse[]
---@field refreshes_used? integer today
---@field max_refreshes? integer a day
---@field last_refreshed_at? string
local Segment2xx = {
  type = "object",
  required = {
    "id", "name", "query_dsl", "contacts_count", "contacts_sample", "created_at", "updated_at", "sample_updated_at",
    "next_sample_update", "parent_list_ids", "query_version", "status",
  },
  properties = {
    id = SegmentId,
    name = Name,
    query_dsl = QueryDsl,
    contacts_count = Count,
    contacts_sample = { type = "array", items = ContactResponse },
    created_at = Text,
    updated_at = Text,
    sample_updated_at = Text,
    next_sample_update = Text,
    parent_list_ids = ParentListIds,
    query_version = Text,
    status = SegmentStatusResponse,
    refreshes_used = Count,
    max_refreshes = Count,
    last_refreshed_at = Text,
  },
}

-- ---- operations -----------------------------------------------------------------------------

local path = "/v3/marketing/segments/2.0"
local Id = { name = "segment_id", ["in"] = "path", schema = Text }
local one = { identity = "id" }

---@class integrations.sendgrid.SegmentFilter
---@field ids? string|string[] the service then looks at nothing else
---@field parent_list_ids? string|string[] 50 at most
---@field no_parent_list_id? boolean those without a list, too

---@class integrations.sendgrid.Segments
---@field list fun(self, options?: integrations.sendgrid.SegmentFilter):
---  integrations.sendgrid.SegmentSummary[]?, integrations.Failure?
---@field get fun(self, segment_id: string, options?: { contacts_sample: boolean? }): integrations.sendgrid.Segment?,
---  integrations.Failure? with a sample of its contacts, unless that is false
---@field update fun(self, segment_id: string, patch: integrations.sendgrid.SegmentUpdate):
---  integrations.sendgrid.Segment?, integrations.Failure?
---@field delete fun(self, segment_id: string): true?, integrations.Failure?
---@field refresh fun(self, segment_id: string, input: integrations.sendgrid.SegmentRefreshRequest):
---  integrations.sendgrid.SegmentRefresh202?, integrations.Failure? twice a day and once an hour; all segments together
---  ten times a day
---@field each fun(self): fun(): integrations.sendgrid.SegmentSummary? see integrations.listing
---@field find fun(self, wanted: table<string, any>): integrations.sendgrid.SegmentSummary[]?, integrations.Failure?
local Segments = service.define {
  name = "segments",
  schemas = {
    AllSegments200 = AllSegments200,
    ContactResponse = ContactResponse,
    Metadata = Metadata,
    Segment2xx = Segment2xx,
    SegmentRefresh202 = SegmentRefresh202,
    SegmentRefreshRequest = SegmentRefreshRequest,
    SegmentStatusResponse = SegmentStatusResponse,
    SegmentUpdate = SegmentUpdate,
    SegmentWriteV2 = SegmentWriteV2,
  },
  operations = {
    list = {
      method = "GET",
      path = path,
      parameters = {
        { name = "ids", ["in"] = "query", many = true, schema = { type = "array", minItems = 1, items = Text } },
        {
          name = "parent_list_ids",
          ["in"] = "query",
          many = true,
          schema = { type = "array", minItems = 1, maxItems = 50, items = Text },
        },
        { name = "no_parent_list_id", ["in"] = "query", schema = { type = "boolean" } },
      },
      -- The document's text and the real service have `results`, its schema has one segment by itself.
      result = { identity = "id", field = "results", array = true, alone = true },
    },
    create = { method = "POST", path = path, body = "SegmentWriteV2", result = one },
    get = {
      method = "GET",
      path = path .. "/{segment_id}",
      parameters = { Id, { name = "contacts_sample", ["in"] = "query", schema = { type = "boolean" } } },
      result = one,
    },
    update = {
      method = "PATCH",
      path = path .. "/{segment_id}",
      parameters = { Id },
      body = "SegmentUpdate",
      body_name = "patch",
      result = one,
      idempotent = true,
    },
    delete = {
      method = "DELETE",
      path = path .. "/{segment_id}",
      parameters = { Id },
      idempotent = true,
      removes = true,
    },
    refresh = {
      method = "POST",
      path = path .. "/refresh/{segment_id}",
      parameters = { Id },
      body = "SegmentRefreshRequest",
      result = {},
      statuses = {
        [403] = { "forbidden", "the API key may not do this, or the account is a free one: give the key the scope" },
        [429] = { "rate_limited", "a segment can be refreshed once an hour and twice a day, "
          .. "and all of them together ten times a day: wait" },
      },
    },
  },
}

listing.add(Segments, AllSegments200)

-- ---- helpers --------------------------------------------------------------------------------

local send_create = Segments.create

-- Reads a segment without the sample of its contacts, which takes the service long.
local function get_plain(segments, segment)
  return segments:get(segment.id, { contacts_sample = false })
end

local creation = {
  name = "segments.create",
  identity = "id",
  title = "name",
  advice = "look again later",
  same = { "name" },
  whole = get_plain,
  -- A list that is left out is none, and an older segment of this name may have one.
  covers = function(segment, input)
    return segment.name == input.name and segment.query_dsl == input.query_dsl
      and match.covers(segment.parent_list_ids or {}, rawget(input, "parent_list_ids") or {})
  end,
}

--- Makes a segment. Names are unique: where nobody can tell whether it was made, the segment of that name is looked
--- for, for which a third of the time is kept. It counts as made if its query and list are those of the input.
---@param input integrations.sendgrid.SegmentWriteV2
---@return integrations.sendgrid.Segment? created
---@return integrations.Failure? failure
function Segments:create(input)
  service.check_self(self, Segments, "segments.create")
  return ensure.create(service.bounded(self), input, creation, send_create)
end

-- Seconds between two looks: short at first, since most queries are judged at once. The last look has a moment left.
local FIRST_PAUSE, LAST_PAUSE, GROWTH, LAST_LOOK = 0.5, 10, 1.6, 0.25

local function invalid_query(session, segment)
  local message = refusal.texts_of(session)(segment.status.error_message)
  return failure.new {
    kind = "rejected",
    operation = "segments.wait_valid",
    message = "the service finds fault with the segment's query: update it",
    errors = { { field = "query_dsl", message = message or "is invalid" } },
  }
end

-- What a segment's state means: the segment, or nil and a failure, or nothing while it is open.
local function judge(session, segment)
  local state = type(segment.status) == "table" and segment.status.query_validation
  if state == "VALID" then
    return segment
  elseif state == "INVALID" then
    return nil, invalid_query(session, segment)
  elseif type(state) ~= "string" then
    return nil, failure.new {
      kind = "protocol",
      operation = "segments.wait_valid",
      message = "the service does not say whether the segment's query is valid",
    }
  end
end

local function still_pending(seconds)
  return failure.new {
    kind = "timeout",
    operation = "segments.wait_valid",
    message = ("the service has not judged the segment's query within %.3g s: wait longer (timeout)"):format(seconds),
  }
end

local check_wait = service.checker("options", {
  type = "object",
  properties = { timeout = { type = "number", minimum = 0.001, maximum = 86400 } },
})

-- One look, for no longer than a call of its own may take: the segment where it is valid, a failure that is the end of
-- it, or else perhaps one that may pass.
local function look(segments, id)
  local segment, failed = get_plain(service.bounded(segments, 1, segments.session.timeout), { id = id })
  if segment then
    return judge(segments.session, segment)
  elseif retry.is_allowed(failed, segments.operations.get) then
    return nil, nil, failed
  end
  return nil, failed
end

-- Looks until there is a judgement, or no time for another look. The last one is close to the end.
local function await(segments, id, seconds)
  local session, pause, looks = segments.session, FIRST_PAUSE, 0
  while true do
    local valid, ended, passing = look(segments, id)
    looks = looks + 1
    if valid then
      return valid
    end
    local left = session.deadline - session.now() - LAST_LOOK
    local asked = passing and passing.retry_after or 0
    if not ended and left <= asked then
      ended = passing or still_pending(seconds)
    end
    ended = ended or call.wait(session, "segments.wait_valid", math.max(asked, math.min(pause, left)))
    if ended then
      ended.attempts = math.max(ended.attempts, looks)
      return nil, ended
    end
    pause = math.min(pause * GROWTH, LAST_PAUSE)
  end
end

--- Waits until the service has judged the segment's query. A failure of kind `rejected` has the service's words;
--- `timeout` means that it is not through yet, or silent.
---@param segment_id string
---@param options? { timeout: number? } seconds for all of it (the client's timeout)
---@return integrations.sendgrid.Segment? segment whose query is valid
---@return integrations.Failure? failure
function Segments:wait_valid(segment_id, options)
  local name = "segments.wait_valid"
  service.check_self(self, Segments, name)
  local _, id_faults = service.read_argument(self, name, "get", "segment_id", segment_id)
  local is_given = type(options) ~= "nil"
  local faults = service.join_faults(id_faults, is_given and check_wait(self, name, options) or nil)
  if faults then
    return nil, failure.invalid(name, faults)
  end
  local seconds = is_given and rawget(options, "timeout") or self.session.timeout
  return await(service.bounded(self, 1, seconds), segment_id, seconds)
end

-- A backslash may be an escape, as it was in the queries of version 1, or a character like any other, as in plain
-- SQL: which, is documented nowhere, and who is wrong lets a text end its own quotes.
local check_text = service.checker("value", { type = "string" })
local unquotable = { { "\\", "must not have a backslash: it could end the quotes" },
  { "%z", "must not have a NUL byte" } }

--- A text as a value in query_dsl, with its quotes: `"… WHERE first_name = " .. sg.segments:quote(name)`. In a
--- pattern of LIKE `%` and `_` keep their meaning.
---@param value string
---@return string? quoted
---@return integrations.Failure? failure
function Segments:quote(value)
  service.check_self(self, Segments, "segments.quote")
  local faults = check_text(self, "segments.quote", value) or {}
  for _, row in ipairs(faults[1] and {} or unquotable) do
    if value:find(row[1]) then
      faults[#faults + 1] = { field = "value", message = row[2] }
    end
  end
  if faults[1] then
    return nil, failure.invalid("segments.quote", faults)
  end
  return "'" .. value:gsub("'", "''") .. "'"
end

return Segments
