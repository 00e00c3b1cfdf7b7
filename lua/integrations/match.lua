--- Compares what a service gave with what is wanted. Pure. What the caller made is read raw, as a
--- schema reads it.
local match = {}

--- The value of a field that is written with dots: `properties.write_key`.
---@param thing table
---@param path string
---@return any
function match.at(thing, path)
  local value = thing
  for name in path:gmatch "[^.]+" do
    value = type(value) == "table" and rawget(value, name) or nil
  end
  return value
end

--- Whether an element of the list is the value.
---@param list any[]
---@param wanted any
---@return boolean
function match.contains(list, wanted)
  local i = 1
  while rawget(list, i) ~= nil do
    if rawget(list, i) == wanted then
      return true
    end
    i = i + 1
  end
  return false
end

--- Whether each field has the value that is wanted. An array has it if one of its elements is it.
---@param thing table
---@param wanted table<string, any> by path
---@return boolean
function match.has(thing, wanted)
  for path, expected in next, wanted do
    local actual = match.at(thing, path)
    if actual ~= expected and not (type(actual) == "table" and match.contains(actual, expected)) then
      return false
    end
  end
  return true
end

local function is_array(value)
  return rawget(value, 1) ~= nil
end

local function are_all_in(list, others)
  local i = 1
  while match.contains(others, rawget(list, i)) do
    i = i + 1
  end
  return rawget(list, i) == nil
end

--- Whether a value is as wanted. An object may have more fields; an array is a set: neither order nor
--- duplicates count.
---@param actual any
---@param wanted any
---@return boolean
function match.covers(actual, wanted)
  if type(actual) ~= "table" or type(wanted) ~= "table" then
    return actual == wanted
  elseif is_array(actual) or is_array(wanted) then
    return are_all_in(actual, wanted) and are_all_in(wanted, actual)
  end
  for name, expected in next, wanted do
    if not match.covers(rawget(actual, name), expected) then
      return false
    end
  end
  return true
end

return match
