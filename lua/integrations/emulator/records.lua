--- What the services need to keep records: the check of an input against declared fields, look-ups, timestamps.
--
-- It finds the faults and leaves the words around them to the service: each has its own way to put them.

local json = require "integrations.emulator.json"

local records = {}

---@class integrations.emulator.Field
---@field name string
---@field required? boolean
---@field check fun(value: any, field: integrations.emulator.Field): string[]?, string? what follows the field's name in
--- a message, a text for each fault; and where in the field it is ("/0"), if not all of it is meant
---@field fields? integrations.emulator.Field[] those of an object

---@class integrations.emulator.Fault
---@field name string the field's name, and where in it
---@field text string what follows the name in a message
---@field rule "missing"|"wrong"|"unknown"
---@field value any what was there
---@field field? integrations.emulator.Field as declared; absent where it is unknown

-- Fields --------------------------------------------------------------------------------------------------------------

local function missing(value)
  return value == nil or value == json.null
end

local function check_field(field, value, creating, faults)
  if field.required and creating and missing(value) then
    faults[#faults + 1] = { name = field.name, text = "is required", rule = "missing", value = value, field = field }
    return
  end
  if value == nil then return end
  local texts, place = field.check(value, field)
  for _, text in ipairs(texts or {}) do
    local name = field.name .. (place or "")
    faults[#faults + 1] = { name = name, text = text, rule = "wrong", value = value, field = field }
  end
  if not field.fields or texts and texts[1] then return end
  for _, inner in ipairs(field.fields) do check_field(inner, value[inner.name], creating, faults) end
end

--- Collects the faults of an input, in the order of the declaration. Unless something is created nothing is required,
--- but what is there has to be right.
---@param fields integrations.emulator.Field[]
---@param input table
---@param creating? boolean
---@return integrations.emulator.Fault[]
function records.faults(fields, input, creating)
  local faults = {}
  for _, field in ipairs(fields) do check_field(field, input[field.name], creating, faults) end
  return faults
end

--- Collects the names that are not declared, sorted: an object has no order, and the same input has to give the same
--- answer.
---@return integrations.emulator.Fault[]
function records.unknown(fields, input)
  local known, faults = {}, {}
  for _, field in ipairs(fields) do known[field.name] = true end
  for name, value in pairs(input) do
    if not known[name] then
      faults[#faults + 1] = { name = name, text = "is unknown", rule = "unknown", value = value }
    end
  end
  table.sort(faults, function(a, b) return a.name < b.name end)
  return faults
end

--- Whether an input has a declared field at all.
function records.has_any(fields, input)
  for _, field in ipairs(fields) do
    if input[field.name] ~= nil then return true end
  end
  return false
end

--- A check of a field.
function records.check_string(value)
  if type(value) ~= "string" then return { "must be a string" } end
end

--- Makes a check of a field: a string of so many characters, which are fewer than its bytes where they are not ASCII.
---@param least integer
---@param most integer
function records.string_of(least, most)
  return function(value)
    if type(value) ~= "string" then return records.check_string(value) end
    local _, count = value:gsub("[^\128-\191]", "")
    if count < least then return { ("must be at least %d character%s"):format(least, least == 1 and "" or "s") } end
    if count > most then return { ("must be at most %d characters"):format(most) } end
  end
end

-- Look-ups ------------------------------------------------------------------------------------------------------------

--- Where in a list the record stands whose `key` is `value`.
---@return integer? index, table? record
function records.find(list, key, value)
  for index, record in ipairs(list) do
    if record[key] == value then return index, record end
  end
end

--- Whether a list has a value.
function records.contains(list, wanted)
  for _, value in ipairs(list) do
    if value == wanted then return true end
  end
  return false
end

-- Timestamps ----------------------------------------------------------------------------------------------------------

--- 2026-01-01T00:00:00Z. No real clock: the same requests have to give the same bytes.
local BEGINNING = 1767225600

--- The moment so many seconds after the beginning, as ISO 8601 in UTC, without the Z so that fractions can follow.
---@param seconds integer
---@return string
function records.timestamp(seconds)
  return os.date("!%Y-%m-%dT%H:%M:%S", BEGINNING + seconds)
end

return records
