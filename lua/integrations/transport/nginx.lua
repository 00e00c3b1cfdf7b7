--- The transport of nginx: a background thread of the worker moves the bytes, and whoever waits for an
--- answer lets the worker go on.
---
--- The thread cannot resume anybody: so one driver for each worker, a timer that runs only while calls are
--- in flight, looks every two milliseconds whose are finished. Through a socket, without looking, a call
--- would cost the worker half as much again.
local Engine = require "integrations.transport.engine"
local core = require "integrations.core"
local curl = require "integrations.transport.curl"
local nginx_phase = require "integrations.nginx_phase"
local task = require "integrations.task"

local ngx = rawget(_G, "ngx")

local Nginx = setmetatable({}, { __index = Engine })
Nginx.__index = Nginx

local nginx = {}

local TURN = 0.002 -- seconds between two looks
local STALE = 0.5 -- seconds after which a driver that did not look counts as dead
local CHUNK = 1 -- seconds after which one who waits looks whether the driver lives
local BEGIN = 0.02 -- seconds within which a driver begins, unless nginx has dropped it
local ABANDONED = 0.1 -- seconds between two looks for calls whose requests are gone
local SLACK = 0.25 -- seconds that the thread may be late; it is late where libcurl does not return

-- ---- the driver -----------------------------------------------------------------------------

-- Of this worker: the transports that have calls in flight, when somebody looked last, until when there will be no
-- driver, and semaphores that nobody waits on.
local driver = { transports = {}, looked = 0, swept = 0, missing = 0, semaphores = {} }

-- Where the request of a call was aborted or its light thread killed, nginx takes it out of the semaphore.
local function cancel_abandoned(transport)
  for id, waiter in pairs(transport.waiting) do
    if waiter.asleep and not waiter.woken and waiter.semaphore:count() >= 0 then
      transport.engine:cancel(id)
      transport:forget(id)
    end
  end
end

local function look(now)
  local is_time = now - driver.swept >= ABANDONED
  driver.looked = now
  driver.swept = is_time and now or driver.swept
  for transport in pairs(driver.transports) do
    transport:deliver()
    if is_time then
      cancel_abandoned(transport)
    end
  end
end

-- The token is the driver's alone: one that was taken for dead ends when it comes back, if there is another.
local function drive(_, token)
  token.begun = true
  driver.token = driver.token or token
  while driver.token == token and next(driver.transports) do
    look(core.now())
    ngx.sleep(TURN)
  end
  if driver.token == token then
    driver.token = nil
  end
end

local function lives(token, now)
  return token and now - driver.looked < (token.begun and STALE or BEGIN)
end

local function start_driver(now)
  local token = {}
  if ngx.timer.at(0, drive, token) then
    driver.token, driver.looked = token, now
  end
end

-- nginx has only so many timers (lua_max_pending_timers), and drops those for which it has no room later on
-- (lua_max_running_timers) without a word to whoever made them. Then one of those who wait looks for all.
local function stand_in(waiter, now)
  if driver.deputy ~= waiter and now - driver.looked < BEGIN then
    return ABANDONED
  end
  driver.deputy = waiter
  look(now)
  return TURN
end

-- Makes sure that somebody looks, and says for how many seconds this one may rely on that.
local function rely_on_driver(waiter, now)
  if driver.token and not lives(driver.token, now) then
    driver.missing = driver.token.begun and 0 or now + CHUNK
    driver.token = nil
  end
  if not driver.token and now >= driver.missing then
    start_driver(now)
  end
  if driver.token then
    return driver.token.begun and CHUNK or BEGIN
  end
  return stand_in(waiter, now)
end

-- ---- who waits ------------------------------------------------------------------------------

-- One call that is waited for. Its semaphore has a waiter for as long as its request lives.
local Waiter = {}
Waiter.__index = Waiter

local function new_waiter()
  local semaphore = table.remove(driver.semaphores) or assert(require("ngx.semaphore").new())
  return setmetatable({ semaphore = semaphore }, Waiter)
end

--- Lets whoever waits go on; any number of times.
function Waiter:wake()
  if not self.woken then
    self.woken = true
    self.semaphore:post()
  end
end

-- Until it is woken or the deadline has passed.
local function wait(waiter, deadline)
  local consumed
  local now = core.now()
  repeat
    local chunk = rely_on_driver(waiter, now)
    waiter.asleep = true
    consumed = waiter.semaphore:wait(math.max(0, math.min(chunk, deadline - now)))
    waiter.asleep = false
    now = core.now()
  until waiter.woken or now >= deadline
  if consumed then
    table.insert(driver.semaphores, waiter.semaphore)
  end
end

--- Nobody waits for this call any more.
---@param id integer
function Nginx:forget(id)
  self.waiting[id] = nil
  if not next(self.waiting) then
    driver.transports[self] = nil
  end
end

local function await(self, id, request, waiter)
  local current = task.current()
  self.waiting[id] = waiter
  driver.transports[self] = true
  if current then
    function current.interrupt()
      waiter:wake()
    end
  end
  wait(waiter, core.now() + request.timeout_ms / 1000 + SLACK)
  if current then
    current.interrupt = nil
  end
  self:forget(id)
  local response, problem = self:take(id, request.timed)
  if response ~= false then
    return response, problem
  elseif current and current.cancelled then
    return self:give_up(id, "CANCELLED", current.cancelled)
  end
  return self:give_up(id, "CURLE_OPERATION_TIMEDOUT", "the time limit passed while libcurl was busy")
end

-- ---- the transport --------------------------------------------------------------------------

-- In a callback of table.sort or string.gsub nothing can be waited for either.
local function can_wait()
  return nginx_phase.can_wait() and core.is_yieldable()
end

local function cannot_wait()
  local place = nginx_phase.can_wait() and "a function that C calls (table.sort, string.gsub)"
    or ngx.get_phase() .. "_by_lua"
  return { code = "CANNOT_WAIT", sent = false, message = ("%s cannot wait for an answer: make the call in "
    .. "ngx.timer.at(0, …), or the client with allow_blocking = true"):format(place) }
end

-- Calls that may block the worker, on connections of their own.
local function blocking(self)
  local message
  if not self.blocking then
    self.blocking, message = curl.open(self.options)
  end
  return self.blocking, message
end

--- Sends a request and waits for the answer; the worker goes on meanwhile.
---@param request integrations.Request
---@return integrations.Response? response
---@return integrations.Problem? problem
function Nginx:send(request)
  if not can_wait() then
    if not self.options.allow_blocking then
      return nil, cannot_wait()
    end
    local transport, message = blocking(self)
    if not transport then
      return nil, { code = "CURLE_FAILED_INIT", message = message, sent = false }
    end
    return transport:send(request)
  end
  local waiter = new_waiter() -- first, since it may fail
  local id, problem = self:submit(request)
  if not id then
    return nil, problem
  end
  return await(self, id, request, waiter)
end

--- Waits; nil where this place cannot.
---@param seconds number
---@return true?
function Nginx.pause(_, seconds)
  if not can_wait() then
    return nil
  end
  ngx.sleep(seconds)
  return true
end

--- Ends calls that run, closes the connections and wipes the credentials.
function Nginx:close()
  Engine.close(self)
  if self.blocking then
    self.blocking:close()
  end
end

--- Makes a transport with connections of its own. Nothing is started before its first call, so that it
--- may be made in init_by_lua.
---@param options integrations.transport.Options
---@return table? transport
---@return string? message
function nginx.open(options)
  if not ngx then
    return nil, "works in nginx only"
  end
  local transport, message = Engine.open(Nginx, options, true)
  if transport then
    transport.options = options
  end
  return transport, message
end

return nginx
