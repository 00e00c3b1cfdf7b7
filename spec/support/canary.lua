--- Looks for a secret in all that a value holds.
local canary = {}

local find

local function find_in_table(value, secret, path, seen)
  for key, field in next, value do
    local name = path .. "." .. tostring(key)
    local found = find(key, secret, name .. " (the key)", seen) or find(field, secret, name, seen)
    if found then return found end
  end
  -- The real one: `__metatable` may show another.
  return find(debug.getmetatable(value), secret, path .. " (the metatable)", seen)
end

-- What a function has kept.
local function find_in_function(value, secret, path, seen)
  local i = 1
  local name, kept = debug.getupvalue(value, i)
  while name do
    local found = find(kept, secret, ("%s.(%s)"):format(path, name), seen)
    if found then return found end
    i = i + 1
    name, kept = debug.getupvalue(value, i)
  end
end

function find(value, secret, path, seen)
  if type(value) == "string" then
    return value:find(secret, 1, true) and path or nil
  end
  if seen[value] or type(value) ~= "table" and type(value) ~= "function" then return nil end
  seen[value] = true
  local find_in = type(value) == "table" and find_in_table or find_in_function
  return find_in(value, secret, path, seen)
end

--- Where a secret is: in the value itself, in keys, fields and metatables of tables, in what functions have kept, in
--- the text that it prints as. The globals, to which every function leads, are left out.
---@param value any
---@param secret string
---@return string? path nil where it is nowhere
function canary.find(value, secret)
  return find(value, secret, "value", { [_G] = true }) or find(tostring(value), secret, "tostring", {})
end

return canary
