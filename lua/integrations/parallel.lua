--- Many calls at once, written as one after the other.
---
---   local results = parallel.map(ids, function(id) return sg.integrations:get(id) end, { limit = 8 })
---   for i, result in ipairs(results) do print(ids[i], result.ok, result.failure or result.value.label) end
---
--- Each item has a task of its own, which goes on while others wait for the service. In plain Lua tasks are
--- coroutines, in nginx light threads; there is no event library to be set up.
local arguments = require "integrations.arguments"
local failure = require "integrations.failure"
local nginx_phase = require "integrations.nginx_phase"
local scheduler = require "integrations.scheduler"
local task = require "integrations.task"

local parallel = {}

local DEFAULT_LIMIT = 16

---@class integrations.parallel.Options
---@field limit? integer how many items may be under way at once (16)
---@field on_progress? fun(done: integer, total: integer): boolean? called after each item; `false` cancels
---@field timeout? number seconds for all items, after which the rest is cancelled

---@class integrations.parallel.Result
---@field item any
---@field ok boolean whether the function raised nothing, and returned nothing after nil or false
---@field value? any its first result
---@field extra? any its second one
---@field failure? any what came after nil or false, or what was raised
---@field raised? boolean true where `failure` was raised

---@alias integrations.parallel.Reason
---| "timeout"     # the time was up
---| "on_progress" # it returned false
---| "error"       # on_progress has raised one; or the run itself was interrupted by one, which is raised at its end

---@class integrations.parallel.Results an array in the order of the items
---@field [integer] integrations.parallel.Result
---@field ok boolean whether all are
---@field cancelled? integrations.parallel.Reason
---@field error? any what `on_progress` has raised: not raised again, for the results of writes would be lost

-- ---- arguments ------------------------------------------------------------------------------

local function is_callable(value)
  local metatable = type(value) ~= "function" and getmetatable(value)
  return type(value) == "function" or type(metatable) == "table" and metatable.__call ~= nil
end

local option_checks = {
  limit = function(value)
    return type(value) == "number" and value >= 1 and value % 1 == 0, "a whole number of at least 1"
  end,
  on_progress = function(value)
    return is_callable(value), "a function"
  end,
  timeout = function(value)
    return type(value) == "number" and value > 0, "a number of seconds above 0"
  end,
}

local function option_fault(options)
  if type(options) ~= "table" then
    return "options must be a table, not a " .. type(options)
  end
  for name, value in next, options do
    local check = option_checks[name]
    if not check then
      return ("unknown option %q"):format(tostring(name))
    end
    local ok, expected = check(value)
    if not ok then
      return ("%s must be %s"):format(name, expected)
    end
  end
end

-- An item after a hole would be left out without a word.
local function hole_fault(items, list)
  for key in next, items do
    if type(key) == "number" and not (key >= 1 and key <= #list) then
      return ("items must be an array without holes: items[%d] is nil"):format(#list + 1)
    end
  end
end

-- What is wrong with the arguments, or nil and the items.
local function read_arguments(items, fn, options)
  if items == parallel then
    return "call it with a dot: parallel.map"
  elseif type(items) ~= "table" then
    return "items must be an array, not a " .. type(items)
  elseif not is_callable(fn) then
    return "a function must come after the items, not a " .. type(fn)
  end
  local list = arguments.list(items)
  return hole_fault(items, list) or options ~= nil and option_fault(options) or nil, list
end

-- ---- a run ----------------------------------------------------------------------------------

-- What both kinds of tasks share: what is to be done, what is done, and whether it is still wanted.
---@class integrations.parallel.Run
---@field live integer tasks that have started and not ended
local Run = {}
Run.__index = Run

local function new_run(items, fn, options)
  return setmetatable({
    items = items,
    fn = fn,
    limit = math.min(options.limit or DEFAULT_LIMIT, #items),
    on_progress = options.on_progress,
    timeout = options.timeout,
    results = { ok = true },
    taken = 0,
    done = 0,
    reported = 0,
    live = 0,
    tasks = {},
  }, Run)
end

--- The index of the next item to start, or nil.
---@return integer?
function Run:take()
  if self.taken < #self.items and not self.cancelled then
    self.taken = self.taken + 1
    return self.taken
  end
end

--- A task has started.
---@param one integrations.Task
function Run:enter(one)
  self.live = self.live + 1
  self.tasks[one] = true
end

--- A task has ended.
---@param one integrations.Task
function Run:leave(one)
  if self.tasks[one] then
    self.tasks[one] = nil
    self.live = self.live - 1
  end
end

--- An item is done: `ok` and what its function returned, or false and what it raised.
---@param index integer
---@param ok boolean
---@param value any
---@param extra any
function Run:settle(index, ok, value, extra)
  local result = { item = self.items[index], ok = ok and (value or extra == nil) and true or false }
  if result.ok then
    result.value, result.extra = value, extra
  elseif ok then
    result.failure = extra
  else
    result.failure, result.raised = value, true
  end
  self.results[index] = result
  self.results.ok = self.results.ok and result.ok
  self.done = self.done + 1
end

--- Nothing is started any more; what waits is woken.
---@param reason string
function Run:cancel(reason)
  if self.cancelled then
    return
  end
  self.cancelled = reason
  for one in pairs(self.tasks) do
    one:cancel(reason)
  end
end

--- Ends the run for an error that is no item's. The first one is kept, and raised at the end; a second one
--- means that somebody is out of patience.
---@param raised any
function Run:fail(raised)
  if self.raised then
    error(self.raised[1], 0)
  end
  self.raised = { raised }
  self:cancel "error"
end

--- Tells of what is done since the last time, unless somebody is at it.
function Run:report()
  if self.reporting then
    return
  end
  self.reporting = true
  while self.on_progress and self.reported < self.done and not self.cancelled do
    self.reported = self.reported + 1
    local ok, result = pcall(self.on_progress, self.reported, #self.items)
    if not ok then
      self.results.ok, self.results.error = false, result
      self:cancel "error"
    elseif result == false then
      self:cancel "on_progress"
    end
  end
  self.reporting = false
end

-- How a task waits for those of its run. Cancelled, it takes them along, and waits for their end.
local function wait_as(owner, run)
  local function interrupt()
    run:cancel(owner.cancelled)
  end
  return function(seconds)
    if owner.cancelled then
      interrupt()
    end
    owner.interrupt = interrupt
    owner.driver:suspend(owner, nil, seconds)
    owner.interrupt = nil
  end
end

--- Waits for the tasks.
---@param wait fun(seconds?: number) may take so long
---@param now fun(): number
function Run:supervise(wait, now)
  local deadline = self.timeout and now() + self.timeout
  while self.live > 0 do
    local left = deadline and not self.cancelled and deadline - now() or nil
    if left and left <= 0 then
      self:cancel "timeout"
    else
      wait(left)
    end
    self:report()
  end
end

--- The failure of an item that does not begin.
---@return integrations.Failure
function Run:refusal()
  return failure.cancelled("parallel.map", self.cancelled)
end

--- The results, or the error that ended the run.
---@return integrations.parallel.Results
function Run:conclude()
  if self.raised then
    error(self.raised[1], 0)
  end
  for index = self.taken + 1, #self.items do
    self:settle(index, true, nil, self:refusal())
  end
  self.results.cancelled = self.cancelled
  return self.results
end

-- ---- what both kinds of tasks do ------------------------------------------------------------

-- Item by item, as long as there is one. What `call` does about an error is for each kind to say.
local function work(run, one, call)
  for index in run.take, run do
    one.index = index
    run:settle(index, call(run.fn, run.items[index], index))
    one.index = nil
    run:report() -- here, for it may cancel before the next begins
  end
end

-- ---- coroutines -----------------------------------------------------------------------------

-- An error ends the coroutine, and only that: on Lua 5.1 nothing can yield inside of pcall.
local function call_unprotected(fn, item, index)
  return true, fn(item, index)
end

local start_worker

-- An error that is no item's is the run's.
local function replace_worker(run, turns, owner, one, raised)
  if not one.index then
    pcall(run.fail, run, raised)
    return
  end
  run:settle(one.index, false, raised)
  run:report()
  if run.taken < #run.items and not run.cancelled then
    start_worker(run, turns, owner)
  end
end

function start_worker(run, turns, owner)
  local one
  local function body()
    work(run, one, call_unprotected)
  end
  one = turns:start(body, function(_, ok, raised)
    run:leave(one)
    if not ok then
      replace_worker(run, turns, owner, one, raised)
    end
    if owner then
      owner:wake()
    end
  end)
  run:enter(one)
end

-- Outside of a task whoever waits gives all tasks their turns.
local function supervise_by_turns(run, turns)
  local function turn(seconds)
    turns:pause(seconds)
    turns:resume()
  end
  while run.live > 0 do
    local ok, raised = pcall(run.supervise, run, turn, turns.now)
    if not ok then
      turns:recover()
      run:fail(raised)
    end
  end
end

local function run_coroutines(run, outer)
  local turns = outer and outer.driver or scheduler.new()
  for _ = 1, run.limit do
    start_worker(run, turns, outer)
  end
  if outer then
    run:supervise(wait_as(outer, run), turns.now)
  else
    supervise_by_turns(run, turns)
  end
end

-- ---- light threads of nginx -----------------------------------------------------------------

local A_DAY = 86400 -- seconds; a semaphore's wait must have an end, and milliseconds that fit an int
local POLL = 0.002 -- seconds between looks at a source that nginx does not know of

-- How a light thread waits.
---@return integrations.Driver
local function new_light_driver()
  local semaphore = require "ngx.semaphore"
  local driver = { now = require("integrations.core").now }
  function driver.suspend(_, one, source, seconds)
    one.semaphore = one.semaphore or semaphore.new(0)
    one.waiting = true
    if source then
      source:run(0)
      source:deliver()
      seconds = math.min(seconds or POLL, POLL)
    end
    one.semaphore:wait(math.max(0, math.min(seconds or A_DAY, A_DAY)))
    one.waiting = false
  end
  function driver.wake(_, one)
    if one.waiting then
      one.waiting = false
      one.semaphore:post(1)
    end
  end
  return driver
end

local function light_thread(run, driver, owner)
  local thread = coroutine.running()
  local one = task.new(thread, driver, light_thread)
  run:enter(one)
  work(run, one, pcall)
  run:leave(one)
  task.forget(thread)
  owner:wake()
end

local function run_light_threads(run, ngx, outer)
  local driver = new_light_driver()
  local owner = outer or task.new(nil, driver)
  local threads = {}
  for i = 1, run.limit do
    threads[i] = ngx.thread.spawn(light_thread, run, driver, owner)
  end
  run:supervise(wait_as(owner, run), driver.now)
  for _, thread in ipairs(threads) do
    ngx.thread.wait(thread) -- it has ended; nginx keeps it until somebody asks
  end
end

-- ---- the one function -----------------------------------------------------------------------

local function drive(run)
  local enclosing = task.running()
  if enclosing and enclosing.cancelled then
    run:cancel(enclosing.cancelled)
  end
  if nginx_phase.can_wait() then
    run_light_threads(run, rawget(_G, "ngx"), task.current())
  else
    run_coroutines(run, task.current())
  end
end

--- Calls a function with each item, several of them at once, and waits for all. An error stays with its
--- item; whatever comes, every item has its result. Cancelled, it starts no further items, and ends the
--- calls of those that are under way: their failures, and those of items that never began, have the kind
--- `cancelled`, and their outcomes say what is known. Inside of a task it shares the turns of all others.
---@param items any[] without holes
---@param fn fun(item: any, index: integer): any, any returns a result, or nil (or false) and a failure
---@param options? integrations.parallel.Options
---@return integrations.parallel.Results
function parallel.map(items, fn, options)
  local fault, list = read_arguments(items, fn, options)
  if fault then
    error(fault, 2)
  end
  local run = new_run(list, fn, options or {})
  drive(run)
  return run:conclude()
end

return parallel
