--- Libraries in C that are loaded before all others, for programs that process.run_lua starts: they stand in the way of
--- what the system would do.
local process = require "support.process"

local preload = {}

--- Compiles a library, and puts it where it belongs at once, since others may be using the one before.
---@param library string path
---@param source string
function preload.build(library, source)
  local temporary = library .. "." .. tostring({}):match "%w+$"
  process.shell(("mkdir -p %s"):format(library:match "^(.*)/"))
  process.write_file(temporary .. ".c", source)
  local output = process.shell(("gcc -O1 -shared -fPIC -o %s %s.c -ldl && mv %s %s; rm -f %s.c"):format(
    temporary, temporary, temporary, library, temporary))
  assert(process.read_file(library), output)
end

--- The environment of a program that has the library before those that it would have anyway.
---@param library string path
---@param setting string what it is told: "NAME=value"
---@return string[]
function preload.environment(library, setting)
  local others = os.getenv "LD_PRELOAD"
  local path = process.shell("pwd"):match "^[^\n]+" .. "/" .. library
  return { "LD_PRELOAD=" .. (others and others .. " " or "") .. path, setting }
end

return preload
