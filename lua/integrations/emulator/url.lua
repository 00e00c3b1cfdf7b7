--- Takes the emulator's addresses apart.

local url = {}

--- Decodes %XX once; nil where a percent sign starts no such triplet.
local function percent_decode(text)
  if text:gsub("%%%x%x", ""):find("%", 1, true) then return nil end
  return (text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

--- Decodes a name or value of the query, where a plus sign is a space.
function url.query_decode(text)
  return percent_decode((text:gsub("+", " ")))
end

--- The decoded segments of a path; nil where it is none.
function url.parse_path(path)
  if path:sub(1, 1) ~= "/" then return nil end
  local segments = {}
  for raw in (path:sub(2) .. "/"):gmatch("([^/]*)/") do
    local segment = percent_decode(raw)
    if not segment then return nil end
    segments[#segments + 1] = segment
  end
  return segments
end

--- Values stay undecoded: who splits a value at its commas has to do so first.
local function parse_query(query)
  local parameters = {}
  for pair in query:gmatch("[^&]+") do
    local name, value = pair:match("^([^=]*)=?(.*)$")
    name = url.query_decode(name)
    if not name or not url.query_decode(value) then return nil end
    parameters[#parameters + 1] = { name = name, value = value }
  end
  return parameters
end

--- Splits a URL; nil for bytes that may not stand in a request line, or for a broken percent-encoding.
function url.parse(text)
  local target = text:gsub("^%a[%w+.-]*://[^/?#]*", "")
  if target:find("[^!-~]") or target:find("#", 1, true) then return nil end
  local path, query = target:match("^([^?]*)%??(.*)$")
  local segments, parameters = url.parse_path(path), parse_query(query)
  if not (segments and parameters) then return nil end
  return segments, parameters
end

return url
