--- One call: attempts under one deadline, and what became of it.
local failure = require "integrations.failure"
local rate_limit = require "integrations.rate_limit"
local retry = require "integrations.retry"
local task = require "integrations.task"

local call = {}

--- What a listener is told. The names with dots are those of OpenTelemetry's conventions for HTTP
--- clients; durations are seconds, sizes bytes.
---@class integrations.Event
---@field name "request"|"response"|"retry"|"wait"|"failure" `response`: an attempt has ended, with or
---  without an answer; `wait`: the service's rate limit lets none go yet; `failure`: one request has
---  failed for good. A helper may still recover
---@field operation string `integrations.create`
---@field attempt integer
---@field ["http.request.method"] string
---@field ["http.request.resend_count"]? integer of a second attempt and later ones
---@field ["http.request.body.size"]? integer
---@field ["url.full"] string
---@field ["server.address"]? string
---@field ["server.port"]? integer
---@field ["http.response.status_code"]? integer where a status came
---@field ["http.response.body.size"]? integer where a whole answer came
---@field ["error.type"]? string of what failed: a status from 400 on, libcurl's code or the kind
---@field kind? integrations.Kind of what failed
---@field outcome? integrations.Outcome of what failed
---@field message? string of what failed, in one line
---@field request_id? string of what failed: what the server calls the request
---@field retry_after? number of what failed: seconds
---@field ["http.client.request.duration"]? number the attempt's
---@field ["dns.lookup.duration"]? number these four where the transport knows: nought on a kept connection
---@field connect_duration? number
---@field tls_duration? number
---@field first_byte_duration? number until the answer began, since the attempt did; where one did
---@field call_duration? number of `failure`: all attempts and waits
---@field delay? number of `retry` and `wait`: until the next attempt

-- ---- events ---------------------------------------------------------------------------------

-- A listener is a guest: what it raises must not cost the caller a call's result, nor may what it
-- yields suspend the call. nginx refuses coroutines where nothing can yield, so that there is nothing
-- to keep apart.
local function tell(listener, event)
  local made, guest = pcall(coroutine.wrap, listener)
  pcall(made and guest or listener, event)
end

local function emit(session, operation, request, event)
  local number = event.attempt
  event.operation = operation.name
  event["http.request.method"] = request.method
  event["http.request.resend_count"] = number > 1 and number - 1 or nil
  event["http.request.body.size"] = request.body and #request.body
  event["url.full"] = request.url
  event["server.address"] = session.server_address
  event["server.port"] = session.server_port
  tell(session.on_event, event)
end

local function describe_failure(event, failed)
  event.kind = failed.kind
  event.outcome = failed.outcome
  event.message = tostring(failed)
  event.request_id = failed.request_id
  event.retry_after = failed.retry_after
  event["http.response.status_code"] = failed.status
  event["error.type"] = failed.status and failed.status >= 400 and tostring(failed.status)
    or failed.code or failed.kind
  return event
end

-- `answer` is a response or a problem.
local function describe_answer(event, answer)
  local durations = answer.durations or {}
  event["http.response.status_code"] = answer.status
  event["http.response.body.size"] = answer.body and #answer.body
  event["dns.lookup.duration"] = durations.dns
  event.connect_duration = durations.connect
  event.tls_duration = durations.tls
  event.first_byte_duration = answer.status and durations.first_byte
  return event
end

-- ---- what became of it ----------------------------------------------------------------------

-- What became of the request, judged by what was sent and received, never by the error's kind.
local function outcome_of(operation, sent, status)
  if operation.safe or not sent then
    return "not_applied"
  end
  -- 303 points to the result of what was done (RFC 9110, 15.4.4), the other redirects to where it
  -- should be asked for.
  if not status or status < 200 or status >= 500 or status == 303 then
    return "unknown"
  end
  return status < 300 and "applied" or "not_applied"
end

-- Whether somebody has ended it, or this place allows none. Asked before anything is waited for.
local function halted(session, operation)
  local running = task.running()
  if session.closed then
    return failure.closed(operation.name)
  elseif running and running.cancelled then
    return failure.cancelled(operation.name, running.cancelled)
  end
  local transport = session.transport
  local refused = transport.refusal and transport:refusal()
  return refused and failure.from_transport(operation.name, refused) or nil
end

-- Why nothing can be sent any more, or nil. `left` is the time until the deadline.
local function obstacle(session, operation, left)
  local ended = halted(session, operation)
  if ended then
    return ended
  elseif left <= 0 then
    return failure.new {
      kind = "timeout",
      operation = operation.name,
      message = "the time limit passed before the request was sent",
    }
  end
end

-- ---- the service's rate limit ---------------------------------------------------------------

local function rate_limited(operation, seconds)
  return failure.new {
    kind = "rate_limited",
    operation = operation.name,
    message = ("the service's rate limit is used up for another %.3g s: wait, or raise timeout"):format(seconds),
    retry_after = seconds,
  }
end

-- Tells what the wait is for, and waits, unless the listener has closed the client.
local function pause(session, operation, request, deadline, event)
  if session.on_event then
    emit(session, operation, request, event)
  end
  if not session.closed then
    session.transport:sleep(math.max(0, math.min(event.delay, deadline - session.now())))
  end
end

-- Waits until the rate limit lets a request go, as many times as that takes; why it cannot, or nil.
-- Whoever goes must give back what it took.
local function admit(session, operation, request, deadline)
  local limit = session.rate_limit
  local ended = halted(session, operation)
  local seconds = not ended and limit and limit:take(operation.name, session.now, session.timeout)
  while seconds and not ended do
    if seconds > deadline - session.now() then
      return rate_limited(operation, seconds)
    elseif seconds > rate_limit.STEP then
      pause(session, operation, request, deadline,
        { name = "wait", attempt = request.attempts + 1, delay = seconds })
    else
      session.transport:sleep(seconds) -- no news: it follows a longer wait, or is over at once
    end
    ended = halted(session, operation)
    seconds = not ended and limit:take(operation.name, session.now, session.timeout)
  end
  return ended
end

-- `response` is absent where no whole one came.
local function give_back(session, operation, response)
  if session.rate_limit then
    session.rate_limit:done(operation.name, response, session.now, os.time)
  end
end

-- ---- attempts -------------------------------------------------------------------------------

-- One attempt: the result or nil, a failure or nil, and what the transport gave.
local function attempt(session, operation, request, deadline)
  local left = deadline - session.now()
  local stopped = obstacle(session, operation, left)
  if stopped then
    give_back(session, operation)
    return nil, stopped
  end
  request.attempts = request.attempts + 1
  request.timeout_ms = math.max(1, math.floor(left * 1000))
  local response, problem = session.transport:send(request)
  give_back(session, operation, response)
  if not response then
    local failed = failure.from_transport(operation.name, problem)
    local is_unsure = operation.unsure_statuses and operation.unsure_statuses[failed.status or 0]
    failed.outcome = outcome_of(operation, problem.sent ~= false, not is_unsure and failed.status or nil)
    return nil, failed, problem
  end
  local result, failed, unsure = operation.read(session, operation, response, request)
  if failed then
    failed.outcome = outcome_of(operation, true, not unsure and response.status or nil)
  end
  return result, failed, response
end

local function observed_attempt(session, operation, request, deadline)
  if not session.on_event then
    return attempt(session, operation, request, deadline)
  end
  local number = request.attempts + 1
  emit(session, operation, request, { name = "request", attempt = number })
  local started = session.now()
  local result, failed, answer = attempt(session, operation, request, deadline)
  local event = { name = "response", attempt = number, ["http.client.request.duration"] = session.now() - started }
  if failed then
    describe_failure(event, failed)
  end
  emit(session, operation, request, describe_answer(event, answer or {}))
  return result, failed
end

-- ---- calls ----------------------------------------------------------------------------------

-- math.random repeats itself in every process where nobody seeded it, and jitter is there to keep
-- processes apart: the clock differs in each, and so does where this table is. The sine spreads them, also
-- where both grow in even steps: no factor would do that for all steps.
local function random(session)
  if session.random then
    return session.random()
  end
  local address = tonumber(tostring(session):match "%x+$" or "0", 16) % 65536
  return math.sin(session.now() * 1e6 + address) * 43758.5453 % 1
end

-- Waits until the next attempt; false where there will be none.
local function wait_for_next(session, operation, request, deadline, failed)
  local limit = failed.kind == "rate_limited" and session.rate_limit
  local delay, reason = retry.plan(failed, operation, {
    attempt = request.attempts,
    max_attempts = session.max_attempts,
    retry_writes = session.retry_writes and not request.once,
    budget = session.budget,
    is_held_back = limit and limit:is_known(operation.name) or false,
    random = random(session),
    left = deadline - session.now(),
  })
  if not delay then
    failed.message = reason and failed.message .. "; " .. reason or failed.message
    return false
  end
  local event = { name = "retry", attempt = request.attempts, delay = delay }
  pause(session, operation, request, deadline, describe_failure(event, failed))
  return true
end

-- Attempts, until one has an answer that stands, none may follow, or the deadline is there.
local function try(session, operation, request, deadline)
  local result, failed, stopped
  repeat
    stopped = admit(session, operation, request, deadline)
    if not stopped then
      result, failed = observed_attempt(session, operation, request, deadline)
      if not failed then
        retry.earn(session.budget)
        return result
      end
      -- For whoever reads a later answer: an earlier request may have been applied.
      request.doubtful = request.doubtful or failed.outcome == "unknown"
      if not wait_for_next(session, operation, request, deadline, failed) then
        return nil, failed
      end
      stopped = obstacle(session, operation, deadline - session.now())
    end
  until stopped
  return nil, failed and stopped.kind == "timeout" and failed or stopped
end

-- What to do next, where that does not depend on the cause.
local advice = {
  unknown = "it may have been applied: look before you repeat it",
  applied = "the service says that it was applied: look instead of repeating it",
}

-- The end of a call that failed: an earlier attempt may have done what the last one did not.
local function conclude(failed, request)
  if request.doubtful and failed.outcome == "not_applied" then
    failed.outcome = "unknown"
  end
  local next_step = advice[failed.outcome]
  failed.message = next_step and failed.message .. "; " .. next_step or failed.message
  failed.attempts = request.attempts
end

--- Waits, for a helper that asks again and again. Returns why it has to end, or nil.
---@param session table
---@param name string `segments.wait_valid`
---@param seconds number
---@return integrations.Failure?
function call.wait(session, name, seconds)
  local operation = { name = name }
  local ended = halted(session, operation)
  if not ended then
    session.transport:sleep(seconds)
    ended = halted(session, operation)
  end
  return ended
end

--- Sends a request until it has an answer, may not be repeated, or the deadline is there.
---@param session table transport, now, timeout, deadline?, max_attempts, retry_writes?, budget, rate_limit?, random?,
---  on_event?
---@param operation table name, safe, idempotent?, unsure_statuses?, read
---@param request integrations.Request timeout_ms, timed, attempts and doubtful are set here
---@return any result
---@return integrations.Failure? failure
function call.perform(session, operation, request)
  local started = session.now()
  request.timed = session.on_event ~= nil
  request.attempts = 0
  local result, failed = try(session, operation, request, session.deadline or started + session.timeout)
  if failed then
    conclude(failed, request)
  end
  if failed and session.on_event then
    local event = { name = "failure", attempt = request.attempts, call_duration = session.now() - started }
    emit(session, operation, request, describe_failure(event, failed))
  end
  return result, failed
end

return call
