--- The code in the project's documents.
local documents = {}

--- The blocks of code of a language, in their order.
---@param text string
---@param language string
---@return string[]
function documents.blocks(text, language)
  local found = {}
  for block in text:gmatch("\n```" .. language .. "\n(.-)\n```") do
    found[#found + 1] = block
  end
  return found
end

--- Loads Lua source with an environment, on any Lua.
---@param source string
---@param name string
---@param environment table
---@return function
function documents.load(source, name, environment)
  if rawget(_G, "setfenv") then
    return setfenv(assert(rawget(_G, "loadstring")(source, name)), environment)
  end
  return assert(load(source, name, "t", environment))
end

return documents
