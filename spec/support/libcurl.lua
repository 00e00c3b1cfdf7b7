--- Which libcurl the C core has loaded: some specs make allowance for what single versions do.
require "integrations.core"
local process = require "support.process"

local libcurl = {}

local function number_of(version)
  local major, minor, patch = version:match "^(%d+)%.(%d+)%.(%d+)"
  return (tonumber(major) * 1000 + tonumber(minor)) * 1000 + tonumber(patch)
end

-- The core has no function that tells, and programs of the system may have another libcurl. Its name for itself is in
-- every build.
local function loaded_version()
  local path = process.read_file("/proc/self/maps"):match "(/[^\n]*/libcurl[^/\n]*)\n"
  return assert(process.read_file(path):match "libcurl/(%d+%.%d+%.%d+)", path)
end

--- "8.14.1"
libcurl.version = loaded_version()

--- Whether it is this version or a newer one.
---@param version string
function libcurl.is_from(version)
  return number_of(libcurl.version) >= number_of(version)
end

return libcurl
