--- The transport of nginx: a background thread of the worker moves the bytes, and whoever waits for an answer lets the
--- worker go on.
local Engine = require "integrations.transport.engine"
local core = require "integrations.core"
local curl = require "integrations.transport.curl"
local lookout = require "integrations.transport.lookout"
local nginx_phase = require "integrations.nginx_phase"
local task = require "integrations.task"

local ngx = rawget(_G, "ngx")

local Nginx = setmetatable({}, { __index = Engine })
Nginx.__index = Nginx

local nginx = {}

local SLACK = 0.25 -- seconds that the thread may be late; it is late where libcurl does not return

-- ---- calls ----------------------------------------------------------------------------------

local function forget(self, id)
  self.waiting[id] = nil
  if not next(self.waiting) then
    lookout.leave(self)
  end
end

--- Ends a call for which nobody waits any more.
---@param id integer
function Nginx:abandon(id)
  if not self.closed then
    self.engine:cancel(id)
  end
  forget(self, id)
end

local function finish(self, id, request, current)
  local response, problem = self:take(id, request.timed)
  if response ~= false then
    return response, problem
  elseif current and current.cancelled then
    return self:give_up(id, "CANCELLED", current.cancelled)
  end
  return self:give_up(id, "CURLE_OPERATION_TIMEDOUT", "the time limit passed while libcurl was busy")
end

local function await(self, id, request, waiter)
  local current = task.current()
  self.waiting[id] = waiter
  lookout.watch(self)
  if current then
    function current.interrupt()
      waiter:wake()
    end
  end
  local ok, raised = pcall(waiter.wait, waiter, core.now() + request.timeout_ms / 1000 + SLACK)
  if current then
    current.interrupt = nil
  end
  if not ok then
    self:abandon(id)
    error(raised, 0)
  end
  forget(self, id)
  return finish(self, id, request, current)
end

-- ---- the transport --------------------------------------------------------------------------

--- Why no call can be made here, or nil.
---@return integrations.Problem?
function Nginx:refusal()
  if self.options.allow_blocking or nginx_phase.can_wait() then
    return nil
  end
  local place = nginx_phase.is_waiting() and "a function that C calls (table.sort, string.gsub)"
    or ngx.get_phase() .. "_by_lua"
  return { code = "CANNOT_WAIT", sent = false, message = ("%s cannot wait for an answer: make the call in "
    .. "ngx.timer.at(0, …), or the client with allow_blocking = true"):format(place) }
end

-- On connections of its own.
local function send_blocking(self, request)
  if not self.blocking_transport then
    local transport, message = curl.open(self.options)
    if not transport then
      return nil, { code = "CURLE_FAILED_INIT", message = message, sent = false }
    end
    self.blocking_transport = transport
  end
  return self.blocking_transport:send(request)
end

--- Sends a request and waits for the answer; the worker goes on meanwhile.
---@param request integrations.Request
---@return integrations.Response? response
---@return integrations.Problem? problem
function Nginx:send(request)
  local refused = self:refusal()
  if refused then
    return nil, refused
  elseif not nginx_phase.can_wait() then
    return send_blocking(self, request)
  end
  local waiter = lookout.new_waiter() -- first, since it may fail
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
  if not nginx_phase.can_wait() then
    return nil
  end
  ngx.sleep(seconds)
  return true
end

--- Ends calls that run, closes the connections and wipes the credentials.
function Nginx:close()
  Engine.close(self)
  if self.blocking_transport then
    self.blocking_transport:close()
  end
end

--- Makes a transport with connections of its own. Nothing is started before its first call, so that it may be made in
--- init_by_lua.
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
