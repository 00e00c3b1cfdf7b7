--- What a client should make of a fault, by the fault's class and the kind of operation.
---
--- An expectation: `outcome` and `attempts` of the failure (no outcome: the call works), and how many `requests`
--- the server receives. Kinds of operations: `read`, `create`, `change` (update and delete), and `by_choice`, a
--- change that its caller allowed to be repeated.
local judge = require "support.fault_judge"
local process = require "support.process"

local fault_classes = {}

local function failed(outcome, attempts, requests)
  return { outcome = outcome, attempts = attempts, requests = requests or attempts }
end

local function works(requests)
  return { requests = requests }
end

-- The same whatever the operation.
local function all(expectation, kind)
  return { kind = kind, read = expectation, create = expectation, change = expectation, by_choice = expectation }
end

local UNKNOWN, UNKNOWN_AT_LAST = failed("unknown", 1), failed("unknown", 3)
local APPLIED = failed("applied", 1)
local REFUSED, RETRIED = failed("not_applied", 1), failed("not_applied", 3)

local classes = {
  unreachable = all(failed("not_applied", 3, 0)),
  distrusted = all(failed("not_applied", 1, 0), "tls"),
  unreached = all(failed("not_applied", 1, 0), "timeout"),
  unanswered = { kind = "network", read = RETRIED, create = UNKNOWN, change = UNKNOWN, by_choice = UNKNOWN_AT_LAST },
  resent = { kind = "network", read = works(2), create = UNKNOWN, change = UNKNOWN, by_choice = works(2) },
  silent = { kind = "timeout", read = REFUSED, create = UNKNOWN, change = UNKNOWN, by_choice = UNKNOWN },
  stalled = { kind = "timeout", read = REFUSED, create = APPLIED, change = APPLIED, by_choice = APPLIED },
  unreadable = { kind = "protocol", read = RETRIED, create = APPLIED, change = APPLIED, by_choice = APPLIED },
  failing = { kind = "server", read = RETRIED, create = UNKNOWN, change = UNKNOWN, by_choice = UNKNOWN_AT_LAST },
  failing_once = { kind = "server", read = works(2), create = UNKNOWN, change = UNKNOWN, by_choice = works(2) },
  unsupported = { kind = "server", read = REFUSED, create = UNKNOWN, change = UNKNOWN, by_choice = UNKNOWN },
  refused = all(REFUSED),
  refused_perhaps = { read = REFUSED, create = UNKNOWN, change = UNKNOWN, by_choice = UNKNOWN },
  limited = all(RETRIED, "rate_limited"),
  limited_for_long = all(REFUSED, "rate_limited"),
  redirected = all(REFUSED, "protocol"),
  redirected_after = { kind = "protocol", read = REFUSED, create = UNKNOWN, change = UNKNOWN, by_choice = UNKNOWN },
  fine = all(works(1)),
}

-- How long a call may take, in seconds: where nobody answers, no longer than it takes to see that. Elsewhere only what
-- hangs takes it; it is shorter than the minute after which some answers say to come again.
local SLOWER = math.min(process.slowness, 8)
local SILENCE, LONGEST_SILENCE, TIMEOUT = 0.06 * SLOWER, 3 * SLOWER, 30
local is_silence = { silent = true, stalled = true, unreached = true }

--- How long a call may take under a row of support.fault_table.
function fault_classes.timeout(row)
  return is_silence[row.class] and SILENCE or TIMEOUT
end

--- Makes a case, and makes it again with twice the time where nobody answers and all that is wrong came too late: a
--- busy machine may not have come as far as the silence. An outcome that is not true, a write that is doubled and
--- whatever else is wrong is so at any speed.
---@param timeout number
---@param make fun(timeout: number): string[], boolean, integer, support.Seen complaints, whether it was to change
---  something, how many writes were doubled
function fault_classes.patiently(timeout, make)
  local complaints, writes, doubled, seen = make(timeout)
  while judge.is_late(complaints) and doubled == 0 and judge.is_true(writes, seen) and timeout < LONGEST_SILENCE do
    process.report_repeat(table.concat(complaints, "; "))
    timeout = timeout * 2
    complaints, writes, doubled, seen = make(timeout)
  end
  return complaints, writes, doubled, seen
end

-- A row's kind "any": where libcurl has one code for a connection that broke and for an answer that is none.
local any_kind = { network = true, protocol = true }

--- What a row of support.fault_table expects of an operation.
---@param row table
---@param operation table a row of support.fault_operations
---@param by_choice? boolean whether changes may be repeated
---@return table expectation with `kinds`, a set, where it fails, and perhaps libcurl's `code`
function fault_classes.expect(row, operation, by_choice)
  local class = classes[row[operation.name] or row.class]
  local kind = row.kind or class.kind
  local expectation = class[by_choice and operation.sort == "change" and "by_choice" or operation.sort]
  return {
    outcome = expectation.outcome,
    attempts = expectation.attempts,
    requests = expectation.requests,
    code = row.code,
    kinds = kind == "any" and any_kind or { [kind or ""] = true },
  }
end

return fault_classes
