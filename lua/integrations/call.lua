--- One call: attempts under one deadline, and what became of it.
local failure = require "integrations.failure"
local retry = require "integrations.retry"

local call = {}

---@class integrations.Event
---@field name "request"|"response"|"retry"
---@field operation string
---@field method string
---@field url string
---@field attempt integer
---@field status? integer of a response
---@field kind? integrations.Kind where the attempt failed
---@field outcome? integrations.Outcome likewise
---@field duration? number seconds that the attempt took
---@field delay? number seconds until the next attempt

-- math.random repeats itself in every process where nobody seeded it, and jitter is there to keep
-- processes apart: the clock's last digits are different in each.
local function random(now)
  return now() * 1e6 % 1
end

local function new_event(name, operation, request, number)
  return {
    name = name,
    operation = operation.name,
    method = request.method,
    url = request.url,
    attempt = number,
  }
end

-- A listener is a guest: what it raises must not cost the caller a call's result.
local function emit(session, event)
  pcall(session.on_event, event)
end

-- What became of the request, judged by what was sent and received, never by the error's kind.
local function outcome_of(operation, sent, status)
  if operation.safe or not sent then
    return "not_applied"
  end
  if not status or status < 200 or status >= 500 then
    return "unknown"
  end
  return status < 300 and "applied" or "not_applied"
end

-- One attempt: the result and its response, or nil and a failure.
local function attempt(session, operation, request)
  if session.closed then -- by a listener, since the call began
    return nil, failure.closed(operation.name)
  end
  local response, problem = session.transport:send(request)
  local failed
  if response then
    local result
    result, failed = operation.read(session, operation, response, request)
    if not failed then
      return result, nil, response.status
    end
    failed.outcome = outcome_of(operation, true, response.status)
  else
    failed = failure.from_transport(operation.name, problem)
    failed.outcome = outcome_of(operation, problem.sent ~= false, problem.status)
  end
  return nil, failed, failed.status
end

local function observed_attempt(session, operation, request, number)
  if not session.on_event then
    return attempt(session, operation, request)
  end
  emit(session, new_event("request", operation, request, number))
  local started = session.now()
  local result, failed, status = attempt(session, operation, request)
  local event = new_event("response", operation, request, number)
  event.status = status
  event.duration = session.now() - started
  event.kind = failed and failed.kind
  event.outcome = failed and failed.outcome
  emit(session, event)
  return result, failed
end

local function tell_of_retry(session, operation, request, number, delay, failed)
  if session.on_event then
    local event = new_event("retry", operation, request, number)
    event.delay = delay
    event.kind = failed.kind
    emit(session, event)
  end
end

-- Where a helper's earlier requests have used up the time.
local function out_of_time(operation)
  return failure.new {
    kind = "timeout",
    operation = operation.name,
    message = "the time limit passed before the request was sent",
  }
end

--- Sends a request until it has an answer, may not be repeated, or the deadline is there.
---@param session table transport, now, timeout, deadline?, max_attempts, on_event?
---@param operation table name, safe, read
---@param request integrations.Request timeout_ms is set here
---@return any result
---@return integrations.Failure? failure
function call.perform(session, operation, request)
  local deadline = session.deadline or session.now() + session.timeout
  local number, failed = 0, nil
  while true do
    local left = deadline - session.now()
    if left <= 0 then
      return nil, failed or out_of_time(operation)
    end
    number = number + 1
    request.timeout_ms = math.max(1, math.floor(left * 1000))
    local result
    result, failed = observed_attempt(session, operation, request, number)
    if not failed then
      return result
    end
    failed.attempts = number
    if number >= session.max_attempts or not retry.is_allowed(failed, operation.safe) then
      return nil, failed
    end
    local delay = retry.delay(number, random(session.now), failed.retry_after)
    if session.now() + delay >= deadline then
      return nil, failed
    end
    tell_of_retry(session, operation, request, number, delay, failed)
    session.transport:sleep(delay)
  end
end

return call
