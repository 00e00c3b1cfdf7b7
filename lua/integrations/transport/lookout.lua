--- Who sees, in a worker of nginx, whose calls have ended: a timer that runs only while calls are in flight and looks
--- every two milliseconds. The thread that moves the bytes cannot resume anybody; to be woken by it through a socket
--- would cost the worker half as much again.
local core = require "integrations.core"

local ngx = rawget(_G, "ngx")

local lookout = {}

local TURN = 0.002 -- seconds between two looks
local STALE = 0.5 -- seconds after which a timer that did not look counts as dead
local CHUNK = 1 -- seconds after which one who waits asks whether it lives
local BEGIN = 0.02 -- seconds within which a timer begins, unless nginx has dropped it
local ABANDONED = 0.1 -- seconds between two looks for calls whose requests are gone

-- Of this worker: the transports that have calls in flight, when somebody looked last, until when there will be no
-- timer, and semaphores that nobody waits on.
local state = { transports = {}, looked = 0, swept = 0, missing = 0, semaphores = {} }

-- ---- looking --------------------------------------------------------------------------------

-- Where the request of a call was aborted or its light thread killed, nginx takes it out of the semaphore; if it was
-- woken before, what woke it is still there.
local function is_abandoned(waiter)
  return waiter.asleep and waiter.semaphore:count() >= (waiter.woken and 1 or 0)
end

local function look_after(transport, is_time)
  transport:deliver()
  for id, waiter in pairs(is_time and transport.waiting or {}) do
    if is_abandoned(waiter) then
      transport:abandon(id)
    end
  end
end

-- One transport's error is not for another one's request.
local function look(now)
  local is_time = now - state.swept >= ABANDONED
  state.looked = now
  state.swept = is_time and now or state.swept
  for transport in pairs(state.transports) do
    local ok, message = pcall(look_after, transport, is_time)
    if not ok then
      ngx.log(ngx.ERR, "integrations: ", message)
    end
  end
end

-- The token is the timer's alone: one that was taken for dead ends when it comes back, if there is another.
local function run(_, token)
  token.begun = true
  state.token = state.token or token
  while state.token == token and next(state.transports) do
    look(core.now())
    ngx.sleep(TURN)
  end
  if state.token == token then
    state.token = nil
  end
end

-- ---- who looks ------------------------------------------------------------------------------

local function lives(token, now)
  return now - state.looked < (token.begun and STALE or BEGIN)
end

local function start(now)
  local token = {}
  if ngx.timer.at(0, run, token) then
    state.token, state.looked = token, now
  end
end

-- nginx has only so many timers (lua_max_pending_timers), and drops those for which it has no room later on
-- (lua_max_running_timers) without a word to whoever made them. Then one of those who wait looks for all.
local function stand_in(waiter, now)
  if state.deputy ~= waiter and now - state.looked < BEGIN then
    return ABANDONED
  end
  state.deputy = waiter
  look(now)
  return TURN
end

-- Makes sure that somebody looks, and says for how many seconds this one may rely on that.
local function rely(waiter, now)
  if state.token and not lives(state.token, now) then
    state.missing = state.token.begun and 0 or now + CHUNK
    state.token = nil
  end
  if not state.token and now >= state.missing then
    start(now)
  end
  if state.token then
    return state.token.begun and CHUNK or BEGIN
  end
  return stand_in(waiter, now)
end

-- ---- waiting --------------------------------------------------------------------------------

--- One call that is waited for. Its semaphore has a waiter for as long as its request lives.
local Waiter = {}
Waiter.__index = Waiter

--- Who may wait for a call.
---@return table waiter
function lookout.new_waiter()
  local semaphore = table.remove(state.semaphores) or assert(require("ngx.semaphore").new())
  return setmetatable({ semaphore = semaphore }, Waiter)
end

--- Lets whoever waits go on; any number of times.
function Waiter:wake()
  if not self.woken then
    self.woken = true
    self.semaphore:post()
  end
end

--- Waits until it is woken or the deadline has passed.
---@param deadline number by the core's clock
function Waiter:wait(deadline)
  local consumed
  local now = core.now()
  repeat
    local chunk = rely(self, now)
    self.asleep = true
    consumed = self.semaphore:wait(math.max(0, math.min(chunk, deadline - now)))
    self.asleep = false
    now = core.now()
  until self.woken or now >= deadline
  if consumed then
    table.insert(state.semaphores, self.semaphore)
  end
end

--- From now on there is a look at what this transport has in `waiting`.
---@param transport table with `deliver`, `abandon` and `waiting`
function lookout.watch(transport)
  state.transports[transport] = true
end

--- Nothing of this transport is in flight any more.
---@param transport table
function lookout.leave(transport)
  state.transports[transport] = nil
end

return lookout
