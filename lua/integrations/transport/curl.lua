--- The transport of plain Lua: libcurl, driven until the call is through. A task of a parallel run lets
--- the others go on meanwhile.
local Engine = require "integrations.transport.engine"
local task = require "integrations.task"

local Curl = setmetatable({}, { __index = Engine })
Curl.__index = Curl

local curl = {}

-- Long enough to cost nothing, short enough for a debug hook (Ctrl-C) to get its turn.
local TURN_MS = 1000

--- Moves the bytes of all calls of this Lua state until one has ended, for so long at the most.
---@param timeout_ms integer
function Curl:run(timeout_ms)
  if not self.closed then
    self.engine:run(timeout_ms)
  end
end

local function drive(self, id, timed)
  local response, problem
  repeat
    self.engine:run(TURN_MS)
    response, problem = self:take(id, timed)
  until response ~= false
  return response, problem
end

local function drive_or_cancel(self, id, timed)
  local ok, response, problem = pcall(drive, self, id, timed)
  if not ok then
    self.engine:cancel(id)
    error(response, 0)
  end
  return response, problem
end

-- While this task waits, the scheduler drives.
local function await(self, current, id, timed)
  local response, problem
  self.waiting[id] = current
  repeat
    current:wait(self)
    response, problem = self:take(id, timed)
  until response ~= false or current.cancelled
  self.waiting[id] = nil
  if response == false then
    return self:give_up(id, "CANCELLED", current.cancelled)
  end
  return response, problem
end

--- Sends a request and waits for the answer.
---@param request integrations.Request
---@return integrations.Response? response
---@return integrations.Problem? problem
function Curl:send(request)
  local id, problem = self:submit(request)
  if not id then
    return nil, problem
  end
  local current = task.current()
  if current then
    return await(self, current, id, request.timed)
  end
  return drive_or_cancel(self, id, request.timed)
end

--- Makes a transport with connections of its own.
---@param options integrations.transport.Options
---@return table? transport
---@return string? message
function curl.open(options)
  return Engine.open(Curl, options, false)
end

return curl
