--- Writes whose unknown outcome is settled by looking: for every service whose things can be told apart by some of
--- their fields. `run` looks first, so that it can be repeated; `create` only afterwards.
local failure = require "integrations.failure"
local match = require "integrations.match"
local refusal = require "integrations.refusal"
local service = require "integrations.service"

local ensure = {}

---@class integrations.ensure.Declaration
---@field name string `integrations.ensure`
---@field identity string the field that holds a thing's id
---@field title string the field by which people know it
---@field advice string what to do where the outcome stays unknown
---@field same string[] paths of the fields by which two things are the same
---@field whole? fun(things: table, thing: table): table?, integrations.Failure? the thing with all its fields, where
---  the list leaves out some
---@field covers? fun(thing: table, input: table): boolean whether it is as wanted (match.covers)

-- What a write may take of the time that is left: the rest is for looking what became of it.
local WRITE_SHARE = 2 / 3

-- Whether two things are the same; nil where nothing tells them apart, but something is missing.
local function is_same(thing, input, declaration)
  local same = true
  for _, path in ipairs(declaration.same) do
    local value = match.at(thing, path)
    if type(value) ~= "string" then
      same = nil
    elseif value ~= match.at(input, path) then
      return false
    end
  end
  return same
end

local function undecidable(declaration, outcome, message)
  return failure.new {
    kind = "protocol",
    outcome = outcome,
    operation = declaration.name,
    message = message:format(table.concat(declaration.same, ", ")),
  }
end

-- The things that are the same as the input, or nil and a failure.
local function find_same(things, input, declaration)
  local all, failed = things:list()
  if not all then
    return nil, failed
  end
  local same, seen = {}, {}
  for _, thing in ipairs(all) do
    local id, decided = thing[declaration.identity], is_same(thing, input, declaration)
    if decided == nil then
      return nil, undecidable(declaration, "not_applied", "the list leaves out some of %s: nothing can be recognised")
    elseif decided and not seen[id] then
      same[#same + 1] = thing
    end
    seen[id] = true
  end
  return same
end

local function ambiguous(things, same, declaration, outcome)
  local errors, text_of = {}, refusal.texts_of(things.session)
  for i, thing in ipairs(same) do
    local id, title = text_of(thing[declaration.identity]) or "", text_of(thing[declaration.title]) or ""
    errors[i] = { id = id, message = ('"%s" is called "%s"'):format(id, title) }
  end
  return failure.new {
    kind = "ambiguous",
    outcome = outcome,
    operation = declaration.name,
    message = ("%d have the same %s: keep one and delete the others"):format(#same,
      table.concat(declaration.same, ", ")),
    errors = errors,
  }
end

-- What is there now: nil where nothing is, and perhaps why that cannot be said.
local function look(things, input, declaration, outcome)
  local same, unseen = find_same(things, input, declaration)
  if same and #same > 1 then
    return nil, ambiguous(things, same, declaration, outcome)
  end
  local thing = same and same[1]
  if thing and declaration.whole then
    return declaration.whole(things, thing)
  end
  return thing, unseen
end

local function settlement(things, thing, unseen, declaration)
  if unseen then
    return "nor could be read what became of it: " .. unseen.message
  elseif not thing then
    return "the list does not show it: " .. declaration.advice
  end
  local id = refusal.texts_of(things.session)(thing[declaration.identity])
  return ('there is one, "%s", but not as wanted: %s'):format(id, declaration.advice)
end

-- After a write whose answer cannot be trusted. That the thing is not there yet proves nothing: the
-- service may still be at work.
local function settle(things, input, declaration, done, failed)
  if failed.outcome == "not_applied" then
    return nil, failed
  end
  local thing, unseen = look(things, input, declaration, failed.outcome)
  if unseen and unseen.kind == "ambiguous" then
    unseen.attempts = failed.attempts
    return nil, unseen
  elseif thing and (declaration.covers or match.covers)(thing, input) then
    return thing, done
  end
  failed.outcome = "unknown"
  failed.message = failed.message .. "; " .. settlement(things, thing, unseen, declaration)
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
  if written and is_same(written, input, declaration) then
    return written, done
  elseif written then -- another call would not recognise it, and make another one
    return nil, undecidable(declaration, "applied", "the service took it, but shows another %s: do not repeat it")
  end
  return settle(things, input, declaration, done, failed)
end

--- Creates, and looks what became of it where nobody can tell.
---@param things table an object of a service, bounded: `list`
---@param input table
---@param declaration integrations.ensure.Declaration
---@param send_create fun(things: table, input: table): table?, integrations.Failure?
---@return table? thing
---@return integrations.Failure?
function ensure.create(things, input, declaration, send_create)
  local created, failed = send_create(service.bounded(things, WRITE_SHARE), input)
  if created then
    return created
  end
  return settle(things, input, declaration, nil, failed)
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
    return nil, ambiguous(things, same, declaration, "not_applied")
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
