--- Deletes any number of ids with an operation that takes a list of them in its address.
local failure = require "integrations.failure"
local service = require "integrations.service"

local bulk_delete = {}

local MAX_URL = 2000 -- bytes; what everything between here and the service passes on

---@class integrations.sendgrid.Deletion
---@field id string
---@field outcome integrations.Outcome of this id
---@field failure? integrations.Failure where the outcome is not `applied`

---@class integrations.sendgrid.DeleteReport
---@field ok boolean whether every id was deleted
---@field [integer] integrations.sendgrid.Deletion one for each id, in the order given

local function without_duplicates(ids)
  local seen, unique = {}, {}
  for _, id in ipairs(ids) do
    if not seen[id] then
      seen[id] = true
      unique[#unique + 1] = id
    end
  end
  return unique
end

local function find_too_long(ids, space)
  local faults = {}
  for i, id in ipairs(ids) do
    if #service.percent_encode(id) >= space then
      faults[#faults + 1] = { field = ("ids[%d]"):format(i), message = "is too long for an address" }
    end
  end
  return faults[1] and faults
end

-- Cuts the ids into lists whose address stays short enough.
local function chunks_of(ids, address_size)
  local chunks, size = {}, MAX_URL + 1
  for _, id in ipairs(ids) do
    local id_size = #service.percent_encode(id) + 1
    if size + id_size > MAX_URL then
      chunks[#chunks + 1] = {}
      size = address_size
    end
    table.insert(chunks[#chunks], id)
    size = size + id_size
  end
  return chunks
end

-- The statuses that speak of one id among several, so that the others are worth trying without it.
-- Both say that nothing was deleted, and neither says reliably because of which id.
local about_one_id = { [400] = true, [404] = true }

local function halves_of(list)
  local halves = { {}, {} }
  for i, element in ipairs(list) do
    table.insert(halves[i * 2 <= #list and 1 or 2], element)
  end
  return halves
end

-- Deletes a list, records what became of each id, and returns a failure that makes it pointless
-- to go on.
local function delete_chunk(self, chunk, deletions)
  local done, failed = self:delete(chunk)
  if not done and #chunk > 1 and about_one_id[failed.status] then
    for _, half in ipairs(halves_of(chunk)) do
      local stopped = delete_chunk(self, half, deletions)
      if stopped then
        return stopped
      end
    end
    return nil
  end
  for _, id in ipairs(chunk) do
    deletions[id] = { id = id, outcome = done and "applied" or failed.outcome, failure = failed }
  end
  return not done and not about_one_id[failed.status] and failed or nil
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
  ids = without_duplicates(ids)
  local address_size = #self.session.base_url + #target
  local faults = find_too_long(ids, MAX_URL - address_size)
  if faults then
    return nil, faults
  end
  local deletions, stopped = {}, nil
  for _, chunk in ipairs(chunks_of(ids, address_size)) do
    stopped = stopped or delete_chunk(self, chunk, deletions)
  end
  local report = { ok = true }
  for i, id in ipairs(ids) do
    report[i] = deletions[id] or not_tried(id, stopped)
    report.ok = report.ok and report[i].outcome == "applied"
  end
  return report
end

return bulk_delete
