--- What a coroutine of a parallel run knows of itself: how it waits, and whether it is still wanted.
---
--- Whoever may have to wait asks for `task.current()`. Where there is one, it waits by it, and the other
--- tasks go on meanwhile; where there is none, it blocks.
local task = {}

-- By coroutine. Values are weak, too: on Lua 5.1 and LuaJIT one that leads to its key would keep both.
local tasks = setmetatable({}, { __mode = "kv" })

---@class integrations.Source what answers come from
---@field run fun(self, timeout_ms: integer) moves the bytes of everything in this Lua state, and waits for
---  something to happen, no longer than this
---@field deliver fun(self) wakes the tasks whose calls have ended

---@class integrations.Driver how the tasks of one kind wait
---@field plain? boolean whether their coroutines are Lua's own, also in nginx
---@field now fun(): number seconds
---@field suspend fun(self, task: integrations.Task, source?: integrations.Source, seconds?: number)
---@field wake fun(self, task: integrations.Task)

---@class integrations.Task
---@field cancelled? string why it is not wanted any more
---@field interrupt? fun() set by whoever makes it wait, called by a cancellation: ends what it waits for
---@field driver integrations.Driver
---@field entry? function what its coroutine began with, where coroutines are used again
local Task = {}
Task.__index = Task

-- ---- waiting --------------------------------------------------------------------------------

--- Waits until it is woken, the time has passed or it is cancelled, in which case it does not begin to
--- wait. Which of them it was, or none, the caller finds out.
---@param source? integrations.Source what is to be run meanwhile
---@param seconds? number
function Task:wait(source, seconds)
  if not self.cancelled then
    self.driver:suspend(self, source, seconds)
  end
end

--- Waits until the time has passed, whoever wakes it, or it is cancelled.
---@param seconds number
function Task:sleep(seconds)
  local now = self.driver.now
  local deadline = now() + seconds
  local left = seconds
  while left > 0 and not self.cancelled do
    self:wait(nil, left)
    left = deadline - now()
  end
end

--- Lets it go on. Where it does not wait, nothing happens.
function Task:wake()
  self.driver:wake(self)
end

--- Ends its waits, and fails the calls that it makes from now on. The first reason stays.
---@param reason string
function Task:cancel(reason)
  if self.cancelled then
    return
  end
  self.cancelled = reason
  if self.interrupt then
    self.interrupt()
  end
  self:wake()
end

-- ---- which one ------------------------------------------------------------------------------

local is_lua51 = _VERSION == "Lua 5.1" and not rawget(_G, "jit")

-- C functions that may be yielded across.
local transparent = {}
if not is_lua51 then
  transparent[pcall], transparent[xpcall] = true, true
end

-- Lua 5.1 calls iterators and metamethods from C code that has no frame of its own. An iterator is known by
-- its name; a metamethod has none, as has what is called without one, which is blocked for nothing.
local function is_called_by_vm(frame, caller)
  return frame.name == "(for generator)"
    or frame.namewhat == "" and frame.what ~= "tail" and caller.what ~= "tail"
end

-- For where nobody can be asked. A function called from C that does not expect a yield must not yield.
local function has_no_barrier()
  local level = 2
  local frame = debug.getinfo(level, "Sfn")
  while frame do
    level = level + 1
    local caller = debug.getinfo(level, "Sfn")
    if frame.what == "C" and not transparent[frame.func] then
      return false
    elseif is_lua51 and caller and is_called_by_vm(frame, caller) then
      return false
    end
    frame = caller
  end
  return true
end

-- nginx hides Lua's own function, the core asks Lua itself.
local function can_yield()
  local answer = require("integrations.core").is_yieldable()
  if answer == nil then
    answer = has_no_barrier()
  end
  return answer
end

-- What the running coroutine began with.
local function entry_of_running()
  local level, entry = 2, nil
  local frame = debug.getinfo(level, "f")
  while frame do
    entry = frame.func
    level = level + 1
    frame = debug.getinfo(level, "f")
  end
  return entry
end

--- The task of the running coroutine, even where it cannot yield.
---@return integrations.Task?
function task.running()
  local running = tasks[coroutine.running()]
  if running and running.entry and running.entry ~= entry_of_running() then
    return nil -- of a request that was aborted: nginx uses its coroutines again
  end
  return running
end

--- The task of the running coroutine; nil where it is none or cannot yield here. A coroutine that was made
--- inside of a task is none.
---@return integrations.Task?
function task.current()
  local running = task.running()
  return running and can_yield() and running or nil
end

--- Makes a task: a coroutine's, or nobody's, only to wait by.
---@param thread? thread
---@param driver integrations.Driver
---@param entry? function what the coroutine began with, where coroutines are used again
---@return integrations.Task
function task.new(thread, driver, entry)
  local made = setmetatable({ driver = driver, entry = entry }, Task)
  if thread then
    tasks[thread] = made
  end
  return made
end

--- Forgets the task of a coroutine that has ended.
---@param thread thread
function task.forget(thread)
  tasks[thread] = nil
end

return task
