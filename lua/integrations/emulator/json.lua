--- The emulator's own reading and writing of JSON: unlike lua-cjson alone it can tell an empty array from an empty
--- object, so that it notices a client that mixes them up.

local cjson = require("cjson.safe").new()

-- NaN, Infinity and hexadecimal numbers are not JSON, though lua-cjson reads them by default.
cjson.decode_invalid_numbers(false)

local json = {
  null = cjson.null,
}

local ARRAY = { __name = "integrations.emulator.array" }
local EMPTY_OBJECT = "\1integrations.emulator.empty"
local EMPTY_OBJECT_TEXT = '{"\\u0001integrations.emulator.empty":0}'

--- Marks a list, so that an empty one is written as `[]`.
function json.array(list)
  return setmetatable(list, ARRAY)
end

--- Whether a value is a list.
function json.is_array(value)
  return type(value) == "table" and (getmetatable(value) == ARRAY or value[1] ~= nil)
end

--- Whether a value is an object; an unmarked empty table is one.
function json.is_object(value)
  return type(value) == "table" and not json.is_array(value)
end

local function string_end(text, open)
  local at = open + 1
  while true do
    local found = text:find('["\\\1-\31]', at)
    local byte = found and text:sub(found, found)
    if byte == '"' then return found end
    if byte ~= "\\" then return nil end
    at = found + 2
  end
end

--- lua-cjson reads `{}` and `[]` as the same empty table. Only the text still tells them apart, so every empty object
--- outside a string gets a member first. Returns nil for a string without an end or with a raw control character.
local function mark_empty_objects(text)
  local parts, at = {}, 1
  while true do
    local open = text:find('"', at, true)
    local outside = text:sub(at, open and open - 1)
    parts[#parts + 1] = (outside:gsub("{[ \t\r\n]*}", EMPTY_OBJECT_TEXT))
    if not open then return table.concat(parts) end
    local close = string_end(text, open)
    if not close then return nil end
    parts[#parts + 1] = text:sub(open, close)
    at = close + 1
  end
end

local function tag_arrays(value)
  if type(value) ~= "table" then return value end
  for _, member in pairs(value) do tag_arrays(member) end
  if value[EMPTY_OBJECT] ~= nil then
    value[EMPTY_OBJECT] = nil
  elseif value[1] ~= nil or next(value) == nil then
    json.array(value)
  end
  return value
end

--- Reads JSON; arrays are marked, null is `cjson.null`.
function json.decode(text)
  local marked = mark_empty_objects(text)
  if not marked then return nil end
  return tag_arrays((cjson.decode(marked)))
end

local encode

local function encode_array(list)
  local parts = {}
  for index, member in ipairs(list) do parts[index] = encode(member) end
  return "[" .. table.concat(parts, ",") .. "]"
end

--- Members are sorted by name: the same state always gives the same bytes.
local function encode_object(object)
  local names, parts = {}, {}
  for name in pairs(object) do
    if type(name) ~= "string" then error("a JSON object has names only, no index " .. tostring(name), 0) end
    names[#names + 1] = name
  end
  table.sort(names)
  for index, name in ipairs(names) do parts[index] = encode(name) .. ":" .. encode(object[name]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

--- Writes JSON.
---@param value any
---@return string
function encode(value)
  if json.is_array(value) then return encode_array(value) end
  if type(value) == "table" then return encode_object(value) end
  local text, message = cjson.encode(value)
  if not text then error(message, 0) end
  -- lua-cjson escapes every slash, which JSON allows but nobody likes to read.
  return (text:gsub("\\/", "/"))
end

json.encode = encode

return json
