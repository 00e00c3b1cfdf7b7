--- Deletes any number of ids with an operation that takes a list of them in its address.
local arguments = require "integrations.arguments"
local failure = require "integrations.failure"

local bulk_delete = {}

local MAX_URL = 2000 -- bytes; what everything between here and the service passes on

---@class integrations.sendgrid.Deletion
---@field id string
---@field outcome integrations.Outcome of this id
---@field failure? integrations.Failure where the outcome is not `applied`

---@class integrations.sendgrid.DeleteReport
---@field ok boolean whether every id was deleted
---@field [integer] integrations.sendgrid.Deletion one for each id, in the order given

-- The ids without duplicates, and where the caller has each of them first.
local function unique_of(ids)
  local positions, unique = {}, {}
  for i, id in ipairs(ids) do
    if not positions[id] then
      positions[id] = i
      unique[#unique + 1] = id
    end
  end
  return unique, positions
end

local function find_too_long(ids, space)
  local faults = {}
  for i, id in ipairs(ids) do
    if #arguments.percent_encode(id) > space then
      faults[#faults + 1] = { field = ("ids[%d]"):format(i), message = "is too long for an address" }
    end
  end
  return faults[1] and faults
end

-- Cuts the ids into lists whose address stays short enough.
local function chunks_of(ids, address_size)
  local chunks, size = {}, MAX_URL
  for _, id in ipairs(ids) do
    local id_size = #arguments.percent_encode(id)
    if size + 1 + id_size > MAX_URL then
      chunks[#chunks + 1] = {}
      size = address_size - 1 -- no comma before the first
    end
    table.insert(chunks[#chunks], id)
    size = size + 1 + id_size
  end
  return chunks
end

-- The statuses that speak of one id among several, so that the others are worth trying without it.
-- Neither says reliably because of which id.
local about_one_id = { [400] = true, [404] = true }

local function halves_of(list)
  local halves = { {}, {} }
  for i, element in ipairs(list) do
    table.insert(halves[i * 2 <= #list and 1 or 2], element)
  end
  return halves
end

-- What a call of `run` knows so far: `client`, `positions` (where the caller has an id first) and
-- `deletions` (what became of it).

-- Whether a list that is refused because of one id is deleted in part is documented nowhere. So an id
-- that is not there after its list was refused may have been deleted with it. `doubtful` is a list whose
-- outcome is unknown: any of its ids may have been.
local function record(state, id, failed, was_refused, doubtful)
  local may_be_gone = failed and (doubtful or was_refused and failed.kind == "not_found")
  if may_be_gone and failed.outcome == "not_applied" then
    failed.outcome = "unknown"
    failed.message = failed.message .. "; it may have been deleted with a list that was sent before"
  end
  for _, fault in ipairs(failed and failed.errors or {}) do
    local position = state.positions[fault.id or 0]
    fault.field = position and ("ids[%d]"):format(position) or fault.field
  end
  state.deletions[id] = { id = id, outcome = failed and failed.outcome or "applied", failure = failed }
end

-- Deletes a list, records what became of each id, and returns a failure that makes it pointless
-- to go on.
local function delete_chunk(state, chunk, was_refused, doubtful)
  local _, failed = state.client:delete(chunk)
  if failed and #chunk > 1 and about_one_id[failed.status] then
    local stopped
    was_refused = was_refused or failed.status == 404
    doubtful = doubtful or failed.outcome == "unknown"
    for _, half in ipairs(halves_of(chunk)) do
      stopped = stopped or delete_chunk(state, half, was_refused, doubtful)
    end
    return stopped
  end
  for _, id in ipairs(chunk) do
    record(state, id, failed, was_refused, doubtful)
  end
  return failed and not about_one_id[failed.status] and failed or nil
end

local function not_tried(id, stopped)
  return {
    id = id,
    outcome = "not_applied",
    failure = failure.new {
      kind = stopped.kind,
      operation = "integrations.delete_many",
      message = "not sent, since an earlier part failed: " .. stopped.message,
      status = stopped.status,
      code = stopped.code,
    },
  }
end

--- Deletes the ids in as few requests as their length allows, each once.
---@param self table what has the operation `delete`
---@param ids string[]
---@param target string the address's path and the name of its query parameter
---@return integrations.sendgrid.DeleteReport? report
---@return integrations.Fault[]? faults where an id is too long: then nothing was sent
function bulk_delete.run(self, ids, target)
  local address_size = #self.session.base_url + #target
  local faults = find_too_long(ids, MAX_URL - address_size)
  if faults then
    return nil, faults
  end
  local unique, positions = unique_of(ids)
  local state = { client = self, positions = positions, deletions = {} }
  local stopped
  for _, chunk in ipairs(chunks_of(unique, address_size)) do
    stopped = stopped or delete_chunk(state, chunk, false, false)
  end
  local report = { ok = true }
  for i, id in ipairs(unique) do
    report[i] = state.deletions[id] or not_tried(id, stopped)
    report.ok = report.ok and report[i].outcome == "applied"
  end
  return report
end

return bulk_delete
