--- The retry policy. Pure: the clock, the random number and the budget are handed in, and whoever
--- asks does the waiting.
local http_date = require "integrations.http_date"

local retry = {}

local LEAST = 0.01 -- seconds that an attempt must have, or it only adds to the load
local BASE, CAP = 0.25, 20 -- seconds; the bounds of the wait before an attempt
local MAX_RETRY_AFTER = 3600 -- what a server asks for beyond an hour is taken for a mistake

-- ---- whether --------------------------------------------------------------------------------

-- What may pass by itself. A certificate that is wrong now is wrong a second later.
local passing = { network = true, timeout = true, server = true, protocol = true, tls = true }
local lasting_codes = { CURLE_PEER_FAILED_VERIFICATION = true, CURLE_SSL_CACERT_BADFILE = true }
local passing_statuses = { [500] = true, [502] = true, [503] = true, [504] = true }

local function may_pass(failed)
  if failed.status and failed.status >= 300 then
    return passing_statuses[failed.status] or false
  end
  return passing[failed.kind] and not lasting_codes[failed.code] or false
end

--- Whether the same request may go out again.
---@param failed integrations.Failure of the attempt: its outcome is what became of this request alone
---@param operation { safe: boolean, idempotent: boolean? } `safe`: it changes nothing
---@param retry_writes? boolean whether the caller lets an idempotent write go out again
---@return boolean
function retry.is_allowed(failed, operation, retry_writes)
  if failed.kind == "cancelled" then
    return false -- whatever status had come
  elseif failed.kind == "rate_limited" or failed.status == 429 then
    return true -- refused before it was looked at
  elseif not may_pass(failed) then
    return false
  elseif operation.safe or failed.outcome == "not_applied" then
    return true
  end
  return failed.outcome == "unknown" and operation.idempotent == true and retry_writes == true
end

-- ---- when -----------------------------------------------------------------------------------

--- Full jitter: anything between nothing and a bound that doubles with each attempt, on top of what
--- the server asks for, so that those whom it asks for the same do not come back all at once. It takes
--- no more than half of the time that is left for the attempt.
---@param attempt integer how many there were
---@param random number from 0 to 1
---@param left number seconds until the deadline
---@param retry_after? number seconds that the server asked for
---@return number seconds
function retry.delay(attempt, random, left, retry_after)
  local after = retry_after or 0
  local bound = math.min(CAP, BASE * 2 ^ (attempt - 1), math.max(0, left - after) / 2)
  return after + random * bound
end

--- A header's number. A header that came twice is joined by commas: the first one counts.
---@param text? string
---@return number?
function retry.read_number(text)
  return text and tonumber(text:match "^(%-?%d+%.?%d*)$" or text:match "^(%-?%d+%.?%d*),")
end

-- The server's own clock, where it tells it: only differences count, so a local clock that is wrong
-- does not matter.
local function clock_of(response, epoch)
  return http_date.read(response.headers.date, epoch) or epoch
end

local function read_retry_after(response, epoch)
  local text = response.headers["retry-after"]
  local seconds = retry.read_number(text)
  if seconds then
    return seconds
  end
  local moment = http_date.read(text, epoch)
  return moment and moment - clock_of(response, epoch)
end

-- What a server asks for is never less than nothing and never more than an hour.
local function clamp(seconds)
  return seconds and math.max(0, math.min(seconds, MAX_RETRY_AFTER))
end

--- When the rate limit is renewed, by `X-RateLimit-Reset`: seconds from now in one of SendGrid's documents,
--- an epoch in another, and an epoch in milliseconds from Rocket.Chat. Every answer may have it; only with
--- a 429 is it a reason to wait.
---@param response { headers: table<string, string> }
---@param epoch number seconds since 1970
---@return number? seconds from now
function retry.reset(response, epoch)
  local reset = retry.read_number(response.headers["x-ratelimit-reset"])
  if not reset then
    return nil
  end
  local seconds = reset > 1e11 and reset / 1000 or reset
  return clamp(seconds > 1e9 and seconds - clock_of(response, epoch) or seconds)
end

--- When the server wants to be asked again, by `Retry-After` (RFC 9110, 10.2.3) or, with a 429, by
--- `X-RateLimit-Reset`. Never less than nothing and never more than an hour.
---@param response { status: integer, headers: table<string, string> }
---@param epoch number seconds since 1970
---@return number? seconds from now
function retry.after(response, epoch)
  return clamp(read_retry_after(response, epoch)) or response.status == 429 and retry.reset(response, epoch) or nil
end

-- ---- how often ------------------------------------------------------------------------------

-- Where a service is down, each call would become as many requests as there may be attempts, and keep
-- it down. So retries are paid from a budget that only successes fill again: a hundred of them, then
-- one for five successes.
local BUDGET, COST, TIMEOUT_COST, EARNING = 500, 5, 10, 1

---@class integrations.RetryBudget
---@field tokens number

--- The budget of a new client.
---@return integrations.RetryBudget
function retry.new_budget()
  return { tokens = BUDGET }
end

--- A call has succeeded.
---@param budget integrations.RetryBudget
function retry.earn(budget)
  budget.tokens = math.min(BUDGET, budget.tokens + EARNING)
end

local function spend(budget, failed)
  local cost = failed.kind == "timeout" and TIMEOUT_COST or COST
  if budget.tokens < cost then
    return false
  end
  budget.tokens = budget.tokens - cost
  return true
end

-- ---- all of it ------------------------------------------------------------------------------

---@class integrations.RetryState
---@field attempt integer how many there were
---@field max_attempts integer
---@field retry_writes? boolean
---@field budget integrations.RetryBudget
---@field is_held_back? boolean whether the service's rate limit lets no more retries go than it can take
---@field random number from 0 to 1
---@field left number seconds until the deadline

--- How long to wait before the next attempt, which is paid for then; or nil and, where it is not the
--- failure's own nature, why there is none.
---@param failed integrations.Failure
---@param operation table
---@param state integrations.RetryState
---@return number? seconds
---@return string? reason
function retry.plan(failed, operation, state)
  if state.attempt >= state.max_attempts or not retry.is_allowed(failed, operation, state.retry_writes) then
    return nil
  end
  local delay = retry.delay(state.attempt, state.random, state.left, failed.retry_after)
  if delay + LEAST > state.left then
    return nil, failed.retry_after
      and ("the server wants to be asked again in %.3g s, and the time limit is before that"):format(failed.retry_after)
      or "no time was left to try again"
  elseif not state.is_held_back and not spend(state.budget, failed) then
    return nil, "not tried again, since too many calls of this client failed before"
  end
  return delay
end

return retry
