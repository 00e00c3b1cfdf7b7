--- The retry policy. Pure: the random number and the clock are handed in.
local retry = {}

local BASE, CAP = 0.25, 20 -- seconds; the bounds of the wait before an attempt
local MAX_RETRY_AFTER = 3600 -- what a server asks for beyond an hour is taken for a mistake

-- What may pass by itself. A certificate that is wrong now is wrong a second later.
local passing = { network = true, timeout = true, server = true, protocol = true, tls = true }
local lasting_codes = { CURLE_PEER_FAILED_VERIFICATION = true, CURLE_SSL_CACERT_BADFILE = true }
local passing_statuses = { [500] = true, [502] = true, [503] = true, [504] = true }

--- Whether the same request may go out again.
---@param failure integrations.Failure
---@param safe boolean whether the operation changes nothing
---@return boolean
function retry.is_allowed(failure, safe)
  if failure.kind == "rate_limited" then
    return true
  end
  if not passing[failure.kind] or lasting_codes[failure.code] then
    return false
  end
  if failure.status and failure.status >= 300 and not passing_statuses[failure.status] then
    return false
  end
  -- A write may only be repeated where it is certain that nothing happened.
  return safe or (failure.outcome == "not_applied" and failure.status == nil)
end

--- Full jitter: anything between nothing and a bound that doubles with each attempt.
---@param attempt integer how many there were
---@param random number from 0 to 1
---@param retry_after? number seconds that the server asked for
---@return number seconds
function retry.delay(attempt, random, retry_after)
  local bound = math.min(CAP, BASE * 2 ^ (attempt - 1))
  return math.max(random * bound, retry_after or 0)
end

--- When the server wants to be asked again. X-RateLimit-Reset is seconds from now in one of
--- SendGrid's documents, an epoch in another, and an epoch in milliseconds from Rocket.Chat.
--- Every answer may have it; only with a 429 is it a reason to wait.
---@param response { status: integer, headers: table<string, string> }
---@param epoch number seconds since 1970
---@return number? seconds from now
function retry.after(response, epoch)
  local after = tonumber(response.headers["retry-after"])
  local reset = tonumber(response.headers["x-ratelimit-reset"])
  if not after and reset and response.status == 429 then
    local seconds = reset > 1e11 and reset / 1000 or reset
    after = seconds > 1e9 and seconds - epoch or seconds
  end
  if not after or after ~= after then
    return nil
  end
  return math.max(0, math.min(after, MAX_RETRY_AFTER))
end

return retry
