--- lua-cjson with this project's two rules: an array stays an array when it is empty, and a field
--- that is null is absent.
local cjson = require("cjson").new()

cjson.decode_max_depth(100)
cjson.decode_invalid_numbers(false) -- NaN, Infinity and hexadecimal are not JSON
cjson.encode_invalid_numbers(false)

local json = {
  --- What stands for null where the caller writes it.
  null = cjson.null,
}

-- In an array null stays (as lua-cjson's `null`): leaving it out would move the others.
local function without_null(value)
  for key, field in next, value do
    if field == json.null and type(key) == "string" then
      value[key] = nil
    elseif type(field) == "table" then
      without_null(field)
    end
  end
  return value
end

--- Reads a JSON text.
---@param text string
---@return any value nil where the text is not JSON
---@return string? message what is wrong with it
function json.decode(text)
  local ok, value = pcall(cjson.decode, text)
  if not ok then
    return nil, value
  end
  -- Looking for the word is far cheaper than walking a value that has none.
  if type(value) == "table" and text:find("null", 1, true) then
    without_null(value)
  end
  return value
end

local encode

-- lua-cjson alone writes 14 digits: an id of 16 would become another one.
local function encode_number(value)
  if value == math.floor(value) and math.abs(value) < 2 ^ 53 then
    return ("%d"):format(value)
  end
  return (("%.17g"):format(value):gsub(",", ".")) -- some locales write a comma
end

local function encode_array(value, items)
  local parts = {}
  local element = rawget(value, 1)
  while element ~= nil do
    parts[#parts + 1] = encode(element, items)
    element = rawget(value, #parts + 1)
  end
  return "[" .. table.concat(parts, ",") .. "]"
end

local function encode_object(value, properties)
  local names = {}
  for name in next, value do
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    names[i] = cjson.encode(name) .. ":" .. encode(rawget(value, name), properties and properties[name])
  end
  return "{" .. table.concat(names, ",") .. "}"
end

local function holds(words, wanted)
  for _, word in ipairs(words) do
    if word == wanted then
      return true
    end
  end
  return false
end

-- Whether a table is an array: the schema says so, or else its keys.
local function is_array(value, types)
  if types == "array" or types == "object" then
    return types == "array"
  elseif type(types) == "table" and holds(types, "array") ~= holds(types, "object") then
    return holds(types, "array")
  end
  return rawget(value, 1) ~= nil
end

-- The schema that a discriminator's value chooses, or the one itself.
local function chosen(schema, value)
  local discriminator = schema.discriminator
  return discriminator and discriminator.mapping[rawget(value, discriminator.propertyName)] or schema
end

--- Writes a value that its schema has accepted, so there is neither a cycle nor a hole in it. An
--- empty table is an array where the schema says so; lua-cjson alone would write `{}`.
--- Fields come in the order of their names, so that equal tables make equal bytes.
---@param value any
---@param schema? table its declaration; absent for what a lenient client lets through
---@return string
function encode(value, schema)
  if type(value) == "number" then
    return encode_number(value)
  elseif type(value) ~= "table" then
    return cjson.encode(value)
  end
  schema = chosen(schema or {}, value)
  if is_array(value, schema.type) then
    return encode_array(value, schema.items)
  end
  return encode_object(value, schema.properties)
end

json.encode = encode

return json
