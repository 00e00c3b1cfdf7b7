--- A create that can be repeated: looks for the thing first, and settles an unknown outcome by looking
--- again. For every service whose things can be told apart by some of their fields.
local failure = require "integrations.failure"
local match = require "integrations.match"
local service = require "integrations.service"

local ensure = {}

---@class integrations.ensure.Declaration
---@field name string `integrations.ensure`
---@field identity string the field that holds a thing's id
---@field same string[] paths of the fields by which two things are the same

-- What a write may take of the time that is left: the rest is for looking what became of it.
local WRITE_SHARE = 2 / 3

-- The things that are the same as the input, or nil and a failure.
local function find_same(things, input, declaration)
  local all, failed = things:list()
  if not all then
    return nil, failed
  end
  local wanted, same = {}, {}
  for _, path in ipairs(declaration.same) do
    wanted[path] = match.at(input, path)
  end
  for _, thing in ipairs(all) do
    if match.has(thing, wanted) then
      same[#same + 1] = thing
    end
  end
  return same
end

local function ambiguous(same, declaration, outcome)
  local errors = {}
  for i, thing in ipairs(same) do
    local id = thing[declaration.identity]
    errors[i] = { id = id, message = ('"%s" has the same %s'):format(id, table.concat(declaration.same, ", ")) }
  end
  return failure.new {
    kind = "ambiguous",
    outcome = outcome,
    operation = declaration.name,
    message = ("there are %d of them: keep one and delete the others"):format(#same),
    errors = errors,
  }
end

-- After a write whose answer cannot be trusted. That the thing is not there yet proves nothing: the
-- service may still be at work.
local function settle(things, input, declaration, done, failed)
  if failed.outcome == "not_applied" then
    return nil, failed
  end
  local same, unseen = find_same(things, input, declaration)
  if same and #same > 1 then
    return nil, ambiguous(same, declaration, failed.outcome)
  elseif same and match.covers(same[1], input) then
    return same[1], done
  end
  failed.message = failed.message .. (same and "; the list does not show it: ensure it again later"
    or "; nor could the list be read to find out: " .. unseen.message)
  return nil, failed
end

-- The top-level fields in which a thing is not as wanted.
local function difference(thing, input)
  local patch = {}
  for name, wanted in next, input do
    if not match.covers(thing[name], wanted) then
      patch[name] = wanted
    end
  end
  return patch
end

-- Writes within a share of the time: `done` is what the caller hears where it works.
local function write(things, input, declaration, done, method, ...)
  local writer = service.bounded(things, WRITE_SHARE)
  local written, failed = writer[method](writer, ...)
  if written then
    return written, done
  end
  return settle(things, input, declaration, done, failed)
end

--- Creates, updates or leaves as it is.
---@param things table an object of a service, bounded: `list`, `create`, `update`
---@param input table that `create` accepts
---@param declaration integrations.ensure.Declaration
---@return table? thing
---@return "created"|"updated"|"unchanged"|integrations.Failure
function ensure.run(things, input, declaration)
  local same, failed = find_same(things, input, declaration)
  if not same then
    return nil, failed
  elseif #same > 1 then
    return nil, ambiguous(same, declaration, "not_applied")
  elseif #same == 0 then
    return write(things, input, declaration, "created", "create", input)
  end
  local patch = difference(same[1], input)
  if next(patch) == nil then
    return same[1], "unchanged"
  end
  return write(things, input, declaration, "updated", "update", same[1][declaration.identity], patch)
end

return ensure
