--- Runs tasks by turns: plain coroutines, on one thread, without an event library.
---
--- What an event costs does not grow with the number of tasks: those that can go on are in a queue, those
--- that wait for a moment in a heap, and those that wait for an answer are woken by its source.
local task = require "integrations.task"

local scheduler = {}

-- Long enough to cost nothing, short enough for a debug hook (Ctrl-C) to get its turn.
local LONGEST = 1 -- seconds

---@class integrations.Scheduler : integrations.Driver
local Scheduler = {}
Scheduler.__index = Scheduler

-- ---- a queue: tasks that can go on ----------------------------------------------------------

-- In this order, so that an error from nowhere (a debug hook's) leaves the queue whole.
local function push(queue, one)
  local last = queue.last + 1
  queue[last] = one
  queue.last = last
end

local function drop(queue)
  local first = queue.first
  queue.first = first + 1
  queue[first] = nil
end

local function is_empty(queue)
  return queue.first > queue.last
end

-- ---- a heap: tasks that wait for a moment ---------------------------------------------------

-- Those of the same moment in the order in which they came.
local function is_before(a, b)
  return a.due < b.due or a.due == b.due and a.turn < b.turn
end

local function put(heap, position, one)
  heap[position] = one
  one.position = position
end

local function rise(heap, position, one)
  while position > 1 do
    local above = math.floor(position / 2)
    if not is_before(one, heap[above]) then
      break
    end
    put(heap, position, heap[above])
    position = above
  end
  put(heap, position, one)
end

local function sink(heap, position, one)
  local below = 2 * position
  while heap[below] do
    if heap[below + 1] and is_before(heap[below + 1], heap[below]) then
      below = below + 1
    end
    if not is_before(heap[below], one) then
      break
    end
    put(heap, position, heap[below])
    position, below = below, 2 * below
  end
  put(heap, position, one)
end

local function remove(heap, one)
  local position, last = one.position, heap[#heap]
  heap[#heap] = nil
  one.position = nil
  if last ~= one then
    rise(heap, position, last)
    sink(heap, last.position, last)
  end
end

-- ---- waiting --------------------------------------------------------------------------------

--- Suspends the running task, whether cancelled or not.
---@param one integrations.Task
---@param source? integrations.Source
---@param seconds? number
function Scheduler:suspend(one, source, seconds)
  one.waiting = true
  if source then
    one.source = source
    self.sources[source] = (self.sources[source] or 0) + 1
  end
  if seconds then
    self.turns = self.turns + 1
    one.due, one.turn, one.timers = self.now() + seconds, self.turns, self.timers
    rise(self.timers, #self.timers + 1, one)
  end
  self.coroutine.yield()
end

local function release(sources, source)
  local count = sources[source] or 0
  sources[source] = count > 1 and count - 1 or nil
end

--- Lets a task that waits go on.
---@param one integrations.Task
function Scheduler:wake(one)
  if not one.waiting then
    return
  end
  if one.source then
    release(self.sources, one.source)
    one.source = nil
  end
  if one.position and one.timers == self.timers then
    remove(self.timers, one)
  end
  push(self.ready, one)
  one.waiting = false -- last: where this was interrupted, it is woken again
end

--- After an error that came from nowhere (a debug hook's), which may have left a change half done: nothing
--- is waited for any more. Whoever waits must be woken.
function Scheduler:recover()
  self.timers, self.sources = {}, {}
end

-- ---- tasks ----------------------------------------------------------------------------------

--- Starts a task; it begins with the next `resume`.
---@param body fun(): any, any
---@param on_end fun(task: integrations.Task, ok: boolean, value: any, extra: any) what `body` returned, or
---  `false` and what it raised. Must not raise
---@return integrations.Task
function Scheduler:start(body, on_end)
  local thread = self.coroutine.create(body)
  local started = task.new(thread, self)
  started.thread, started.on_end = thread, on_end
  push(self.ready, started)
  return started
end

-- Lua 5.4 and newer close the variables of a coroutine that raised only when asked to.
local close = rawget(coroutine, "close")

local function pass_on(self, one, ok, value, extra)
  if self.coroutine.status(one.thread) ~= "dead" then
    if not one.waiting then
      push(self.ready, one) -- a yield of the caller's own lets the others have their turn
    end
    return
  end
  if not ok and close then
    close(one.thread)
  end
  task.forget(one.thread)
  one.thread = nil
  one.on_end(one, ok, value, extra)
end

--- Resumes each task that can go on, once.
function Scheduler:resume()
  local ready = self.ready
  for _ = ready.first, ready.last do
    local one = ready[ready.first]
    if one.thread and not one.waiting then
      pass_on(self, one, self.coroutine.resume(one.thread))
    end
    drop(ready) -- last: an error from nowhere loses no task, which stands being resumed twice
  end
end

-- ---- time -----------------------------------------------------------------------------------

-- Seconds until something is to be done; no more than asked for.
local function time_to_wait(self, most)
  if not is_empty(self.ready) then
    return 0
  end
  local next_one = self.timers[1]
  local left = next_one and next_one.due - self.now() or math.huge
  return math.max(0, math.min(left, most or math.huge))
end

local function wake_due(self)
  local timers = self.timers
  local moment = timers[1] and self.now()
  while timers[1] and timers[1].due <= moment do
    self:wake(timers[1])
  end
end

local function deliver(self)
  for each in pairs(self.sources) do -- which only get fewer
    each:deliver()
  end
end

-- A call that blocked may have moved the bytes of others, too: what ended then is delivered first.
local function run_sources(self, seconds)
  deliver(self)
  local source = next(self.sources)
  if source then
    source:run(is_empty(self.ready) and math.ceil(math.min(seconds, LONGEST) * 1000) or 0)
    deliver(self)
  end
end

--- Waits until a task can go on, for no more than a second; moves bytes meanwhile.
---@param most? number seconds
function Scheduler:pause(most)
  local seconds = time_to_wait(self, most)
  if next(self.sources) then
    run_sources(self, seconds)
  elseif seconds == math.huge then
    error("every task waits, and nothing is left that could wake one", 0)
  elseif seconds > 0 then
    self.sleep(math.min(seconds, LONGEST))
  end
  wake_due(self)
end

-- nginx replaces the functions of coroutines by its own, which it forbids where nothing can yield to it.
local function plain_coroutine()
  return {
    create = rawget(coroutine, "_create") or coroutine.create,
    resume = rawget(coroutine, "_resume") or coroutine.resume,
    status = rawget(coroutine, "_status") or coroutine.status,
    yield = rawget(coroutine, "_yield") or coroutine.yield,
  }
end

--- Makes a scheduler without tasks.
---@param clock? { now: fun(): number, sleep: fun(seconds: number) } the core's
---@return integrations.Scheduler
function scheduler.new(clock)
  clock = clock or require "integrations.core"
  return setmetatable({
    plain = true,
    now = clock.now,
    sleep = clock.sleep,
    coroutine = plain_coroutine(),
    ready = { first = 1, last = 0 },
    timers = {},
    turns = 0,
    sources = {},
  }, Scheduler)
end

return scheduler
