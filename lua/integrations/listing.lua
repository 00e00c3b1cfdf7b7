--- What every service offers that lists its things: `each` and `find`.
local failure = require "integrations.failure"
local match = require "integrations.match"
local service = require "integrations.service"

local listing = {}

local PAGE = 100 -- things; no service gives more at once

-- The next things: all of them in one piece where the service has no pages.
local function next_page(self, operation, offset)
  return self:list(operation.result.page and { count = PAGE, offset = offset } or nil)
end

-- Whether that was all: the service says how many there are, or else has nothing new.
local function is_last(told, offset, page, fresh)
  if type(told.total) == "number" then
    return #page == 0 or offset >= told.total
  end
  return #fresh == 0
end

local function only_fresh(page, seen, identity)
  local fresh = {}
  for _, thing in ipairs(page) do
    if not seen[thing[identity]] then
      fresh[#fresh + 1] = thing
    end
    seen[thing[identity]] = true
  end
  return fresh
end

local function repeated(operation)
  return failure.new {
    kind = "protocol",
    operation = operation.name,
    message = "the service gives the same page again, instead of the next one",
  }
end

-- A function that gives the things of one page after another, at last nil, or nil and a failure. Where somebody
-- creates or deletes meanwhile pages move: a thing may then be missed, but none comes twice.
local function pages_of(self, operation)
  local offset, done, seen = 0, false, {}
  local identity, has_pages = operation.result.identity, operation.result.page
  return function()
    if done then
      return nil
    end
    local page, told = next_page(self, operation, offset)
    if not page then
      return nil, told
    end
    local fresh = only_fresh(page, seen, identity)
    offset = offset + #page
    done = not has_pages or is_last(told, offset, page, fresh)
    if not done and #fresh == 0 then
      return nil, repeated(operation)
    end
    return fresh
  end
end

-- A criterion of an array's field names one element of it. Its type counts, and names that are known, but no bounds:
-- it may be a part of what is looked for.
local function criteria_of(schema)
  local criteria = { type = "object", properties = {} }
  for _, field in ipairs(service.fields(schema)) do
    local wanted = field.schema.items or field.schema
    if field.schema.type ~= "object" then
      criteria.properties[field.path] = { type = wanted.type, enum = wanted.enum }
    end
  end
  return criteria
end

local function must(things, failed)
  if failed then
    error(failed, 0)
  end
  return things
end

-- The first page, which is often all, is read at once: on Lua 5.1 a task cannot let others go on inside an iterator.
local function new_each(class, operation, name)
  return function(self)
    service.check_self(self, class, name)
    local next_things = pages_of(self, operation)
    local things, i = must(next_things()), 0
    return function()
      i = i + 1
      while things and things[i] == nil do
        things, i = must(next_things()), 1
      end
      return things and things[i]
    end
  end
end

local function new_find(class, operation, name, schema)
  local check_criteria = service.checker("criteria", criteria_of(schema))
  return function(self, wanted)
    service.check_self(self, class, name)
    local faults = check_criteria(self, name, wanted)
    if faults then
      return nil, failure.invalid(name, faults)
    end
    local found = {}
    local next_things = pages_of(service.bounded(self), operation)
    local things, failed = next_things()
    while things do
      for _, thing in ipairs(things) do
        if match.has(thing, wanted) then
          found[#found + 1] = thing
        end
      end
      things, failed = next_things()
    end
    if failed then
      return nil, failed
    end
    return found
  end
end

--- Adds the helpers to a class that has the operation `list`:
---
--- `each()` iterates over all things, page by page where the service has pages. A failure is raised, since a loop has
--- no other way to hear of it.
---
---   for integration in sg.integrations:each() do print(integration.label) end
---
--- `find(criteria)` gives those whose fields have the given values, or nil and a failure. Fields of fields are written
--- with dots; `["filters.email_events"] = "open"` finds those that forward opens, whatever else they forward.
---@param class table of integrations.service
---@param schema table what the list's things look like
function listing.add(class, schema)
  local operation, name = class.operations.list, class.declaration.name
  class.each = new_each(class, operation, name .. ".each")
  class.find = new_find(class, operation, name .. ".find", schema)
end

return listing
