--- Compares what a client says of a call with what is expected of it, and with what the server knows.
local canary = require "support.canary"

local judge = {}

local KEY = "SG.test.canary"

-- Times its deadline, when a call is back at last; one for each attempt would be two times. This is a check of the
-- deadline where the other end is silent. Elsewhere it finds only what hangs: the deadline is half a minute there, and
-- no call comes near it (see support.fault_classes).
local SLACK = 1.3

-- So begins a complaint that may be a busy machine's fault, where there is little time. All others count at any speed.
local LATE = "late: "

--- What a call came to: `result`, `failed`, `elapsed` and `timeout` (seconds), and the server's `ledger` of it.
---@class support.Seen

-- ---- what is late ---------------------------------------------------------------------------

--- Whether there are complaints, and all of them are of what came too late.
---@param complaints string[]
function judge.is_late(complaints)
  for _, complaint in ipairs(complaints) do
    if complaint:sub(1, #LATE) ~= LATE then return false end
  end
  return complaints[1] ~= nil
end

--- A complaint of a failure where there should be none or another, whose outcome is true.
---@param text string
---@param failed? table
function judge.complaint_of(text, failed)
  return (failed and failed.kind == "timeout" and LATE or "") .. text .. tostring(failed)
end

--- Whether the time of a call was over before it had come as far as it should have: its request had not arrived, or
--- the status of the answer had not.
---@param method string
---@param expected { outcome: string? }
function judge.ended_early(method, expected, seen)
  local failed, received = seen.failed, seen.ledger.received
  if not failed or failed.kind ~= "timeout" then
    return false
  elseif failed.outcome == "not_applied" then
    return not (received.plain .. received.tls):find(method .. " /", 1, true)
  end
  return failed.outcome == "unknown" and (expected.outcome or "applied") == "applied"
end

-- ---- what is expected -----------------------------------------------------------------------

local function judge_work(operation, seen, complain)
  if seen.result == nil or seen.result == false then
    complain("failed: " .. tostring(seen.failed))
  elseif not operation.check(seen.result, seen.ledger) then
    complain "the result is not what the server has"
  end
end

local function judge_failure(expected, seen, complain)
  local failed = seen.failed
  if seen.result or not failed then
    return complain("worked, instead of " .. expected.outcome)
  end
  if not expected.kinds[failed.kind] then
    complain(("kind %s, not %s (%s)"):format(failed.kind, next(expected.kinds), tostring(failed)))
  end
  for _, name in ipairs { "outcome", "attempts", "code" } do
    if failed[name] ~= expected[name] and (name ~= "code" or expected.code) then
      complain(("%s %s, not %s (%s)"):format(name, tostring(failed[name]), expected[name], tostring(failed)))
    end
  end
end

local function judge_retry_after(row, seen, complain)
  local after, bounds = seen.failed and seen.failed.retry_after, row.retry_after
  -- A moment is in whole seconds, and comes nearer while the call lasts.
  local least = bounds and bounds[1] - (row.is_moment and seen.elapsed + 1 or 0)
  if bounds and not (after and after >= least and after <= bounds[2]) or after and not bounds then
    complain("retry_after " .. tostring(after))
  end
end

local function count_requests(seen, method)
  local count = 0
  for _, request in ipairs(seen.ledger.requests) do
    count = count + (request.method == method and 1 or 0)
  end
  return count
end

--- How many more writes reached the server than were allowed to.
function judge.duplicates(operation, allowed, seen)
  return operation.method ~= "GET" and math.max(0, count_requests(seen, operation.method) - allowed) or 0
end

-- ---- what is true ---------------------------------------------------------------------------

local truths = {
  not_applied = function(ledger)
    return ledger.changes == 0
  end,
  applied = function(ledger)
    return ledger.changes == 1
  end,
  unknown = function(ledger)
    return ledger.changes <= 1 and ledger.received.plain .. ledger.received.tls ~= ""
  end,
}

--- Whether the outcome is true: of a failure that it has, of a result that the change was made once.
---@param writes boolean whether the call was to change something
function judge.is_true(writes, seen)
  local outcome = seen.failed and seen.failed.outcome or writes and "applied" or "not_applied"
  return truths[outcome] ~= nil and truths[outcome](seen.ledger)
end

-- ---- what always holds ----------------------------------------------------------------------

--- The key stays where it belongs, the deadline holds, nobody else is asked, and the server did as it was told.
---@param seen support.Seen
---@param complain fun(text: string)
function judge.always(seen, complain)
  local leak = seen.failed and canary.find(seen.failed, KEY)
  if leak then complain("the key is in the failure: " .. leak) end
  if seen.elapsed > seen.timeout * SLACK then
    complain((LATE .. "took %.3f s of %.3f s"):format(seen.elapsed, seen.timeout))
  end
  if seen.ledger.received.elsewhere ~= "" then complain "another host was asked" end
  for _, complaint in ipairs(seen.ledger.complaints) do complain("the server itself: " .. complaint) end
end

--- All that is wrong with one call of an operation.
---@param row table of support.fault_table
---@param operation table of support.fault_operations
---@param expected table of support.fault_classes
---@param seen support.Seen
---@return string[] complaints
function judge.call(row, operation, expected, seen)
  local complaints = {}
  local function complain(text)
    complaints[#complaints + 1] = text
  end
  local early = expected.requests > 0 and judge.ended_early(operation.method, expected, seen)
  if early then
    complain(judge.complaint_of("ended early: ", seen.failed))
  elseif expected.outcome then
    judge_failure(expected, seen, complain)
    judge_retry_after(row, seen, complain)
  else
    judge_work(operation, seen, complain)
  end
  local requests = count_requests(seen, operation.method)
  if requests ~= expected.requests and not (early and requests < expected.requests) then
    complain(("%d requests, not %d"):format(requests, expected.requests))
  end
  if not judge.is_true(operation.method ~= "GET", seen) then
    complain(("%d changes, and the client says %s"):format(seen.ledger.changes,
      tostring(seen.failed or "that it worked")))
  end
  judge.always(seen, complain)
  return complaints
end

return judge
