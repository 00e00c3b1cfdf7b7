--- What is known of the service's rate limit: so many requests in a window of time, after which a new one
--- begins. All calls of a client to the same operation share it (SendGrid limits each endpoint by itself), so that they
--- wait for the next window instead of being refused. The clocks are handed in, and whoever asks does the waiting.
---
--- An answer tells what was left of the window when the service counted its request. Requests that are
--- under way may not be counted yet: what may still go is what the answers left, less those. So more than
--- that never go, in whatever order the answers come.
---
--- In a window of which no answer has told yet, as many may go as the limit says, or one where it does not.
local retry = require "integrations.retry"

local rate_limit = {}

--- Seconds after which to ask again, where answers that are due will tell.
rate_limit.STEP = 0.02

---@class integrations.RateLimit
---@field open fun(operation: string): table makes the store of an operation
---@field stores table<string, table> those that were made
local RateLimit = {}
RateLimit.__index = RateLimit

local function store_of(self, operation)
  local store = self.stores[operation]
  if not store then
    store = self.open(operation)
    self.stores[operation] = store
  end
  return store
end

-- ---- where it is kept -----------------------------------------------------------------------

-- left    requests that may go in this window by the answers so far; absent: nothing is known
-- flying  requests under way
-- limit   requests of a window, where an answer told
-- reset   when the window ends; absent: no answer told yet
-- cut     whether the service said that it ends later than that
-- heard   when an answer told last
local Memory = {}
Memory.__index = Memory

--- Adds to a field, and returns the sum.
function Memory:add(name, number)
  local sum = (self[name] or 0) + number
  self[name] = sum
  return sum
end

--- Whether it is up to the caller to begin the window after this moment.
function Memory.claim()
  return true
end

local Shared = {}

local EXPIRY = 3700 -- seconds; a reset is an hour away at most
-- Seconds: what aborted requests have not taken back is forgotten.
local FLYING_EXPIRY, CLAIM_EXPIRY = 60, 10

-- Its fields are the dictionary's entries.
local shared_fields = {
  __index = function(self, name)
    return Shared[name] or self.dictionary:get(self.prefix .. name)
  end,
  __newindex = function(self, name, value)
    self.dictionary:set(self.prefix .. name, value, name == "flying" and FLYING_EXPIRY or EXPIRY)
  end,
}

--- As Memory's. Where the dictionary is full, nothing is known.
function Shared:add(name, number)
  local key = self.prefix .. name
  local sum = self.dictionary:incr(key, number, 0, FLYING_EXPIRY)
  self.dictionary:expire(key, FLYING_EXPIRY) -- the other one is only for a key that was not there
  return sum or 0
end

--- As Memory's: one worker only.
function Shared:claim(moment)
  return self.dictionary:add(("%srenewed %.3f"):format(self.prefix, moment), true, CLAIM_EXPIRY)
end

-- ---- before a request -----------------------------------------------------------------------

local function renew(store, moment, reset)
  if store:claim(reset) then
    store.left = not store.cut and store.limit or 1
    store.heard = moment
    store.reset = nil
  end
end

-- Seconds until one more request may go, which `flying` counts already, or nil. Without news for longer than a
-- request takes, those under way were lost.
local function time_to_wait(store, moment, patience)
  local reset = store.reset
  if reset and moment >= reset then
    renew(store, moment, reset)
    reset = nil
  end
  local left = store.left
  if not left or store.flying <= left then
    return nil
  elseif left <= 0 and reset then
    return reset - moment
  elseif moment - (store.heard or 0) < patience then
    return math.min(rate_limit.STEP, reset and reset - moment or rate_limit.STEP)
  end
  store.flying = 1
  store.heard = moment
end

--- Takes one of the requests that may go, for which `done` must be called afterwards; or says how long to
--- wait before asking again.
---@param operation string
---@param now fun(): number seconds
---@param patience number seconds after which a request has ended, whatever became of it
---@return number? seconds nil: it may go
function RateLimit:take(operation, now, patience)
  local store = store_of(self, operation)
  store:add("flying", 1)
  if not store.left then
    return nil
  end
  local seconds = time_to_wait(store, now(), patience)
  if seconds then
    store:add("flying", -1)
  end
  return seconds
end

--- Whether it is known when the next window begins.
---@param operation string
---@return boolean
function RateLimit:is_known(operation)
  return store_of(self, operation).reset ~= nil
end

-- ---- after it -------------------------------------------------------------------------------

-- Seconds after which one request tries, whatever the service asked for: a reset that makes no sense must not
-- end the client. Whoever was told to wait for longer hears of all of it.
local LONGEST = 60

-- Seconds by which the end of the same window differs from answer to answer: some tell whole seconds only.
local SLACK = 2

-- A header's number where it makes sense.
local function read_count(text, least)
  local number = retry.read_number(text)
  return number and number >= least and number < 1e9 and number or nil
end

local function set_reset(store, moment, seconds)
  store.cut = seconds > LONGEST or nil
  store.reset = moment + math.min(seconds, LONGEST)
end

local function learn(store, told, moment)
  local reset, left = store.reset, store.left
  local ending = moment + math.min(told.seconds, LONGEST)
  if not left or not reset or ending > reset + SLACK then
    store.left = told.remaining
    set_reset(store, moment, told.seconds)
  elseif ending > reset - SLACK then -- else it tells of an earlier window
    store.left = math.min(left, told.remaining)
    store.reset = math.min(reset, ending)
  end
  store.limit = told.limit or store.limit
  store.heard = moment
end

-- A refusal, after which nothing may go until the service wants to be asked again.
local function pause(store, seconds, moment)
  store.left = 0
  set_reset(store, moment, seconds)
  store.heard = moment
end

local function read(response, epoch)
  local headers = response.headers
  local remaining = read_count(headers["x-ratelimit-remaining"], 0)
  local seconds = remaining and retry.reset(response, epoch())
  if seconds and seconds > 0 then
    return { remaining = remaining, seconds = seconds, limit = read_count(headers["x-ratelimit-limit"], 1) }
  end
end

local function hear(store, response, now, epoch)
  local told = read(response, epoch)
  -- A Retry-After by itself is no limit that all share: it is for whoever was refused.
  local seconds = response.status == 429 and retry.reset(response, epoch()) and retry.after(response, epoch()) or 0
  if told then
    learn(store, told, now())
  end
  if seconds > 0 then
    pause(store, seconds, now())
  elseif not told and response.status < 429 and not store.reset then
    store.left = store.limit -- a service that does not tell: only refusals stop it
  end
end

--- A request that `take` let go has ended.
---@param operation string
---@param response? { status: integer, headers?: table<string, string> } absent: there was no whole answer
---@param now fun(): number seconds, the clock of `take`
---@param epoch fun(): number seconds since 1970
function RateLimit:done(operation, response, now, epoch)
  local store = store_of(self, operation)
  if store:add("flying", -1) < 0 then
    store.flying = 0
  end
  if response and response.headers then
    hear(store, response, now, epoch)
  end
end

-- ---- making one -----------------------------------------------------------------------------

--- What a client knows at first: nothing.
---@return integrations.RateLimit
function rate_limit.new()
  local function open()
    return setmetatable({}, Memory)
  end
  return setmetatable({ open = open, stores = {} }, RateLimit)
end

local function dictionary_of(name)
  local ngx = rawget(_G, "ngx")
  return ngx and ngx.shared and ngx.shared[name]
end

--- What is wrong with the name of a dictionary, or nil.
---@param name string
---@return string?
function rate_limit.dict_fault(name)
  if not rawget(_G, "ngx") then
    return "is for nginx only, whose workers share it"
  elseif not dictionary_of(name) then
    return ("is no dictionary of nginx: its configuration needs \"lua_shared_dict %s 1m;\""):format(name)
  end
end

--- What all workers of nginx know, in one of its dictionaries.
---@param name string of the dictionary
---@param address string of the service
---@param credentials table<string, string> whose limit it is; kept as a short hash
---@return integrations.RateLimit
function rate_limit.shared(name, address, credentials)
  local parts = { address }
  for header, value in pairs(credentials) do
    parts[#parts + 1] = header .. ": " .. value
  end
  table.sort(parts)
  local hash = rawget(_G, "ngx").md5(table.concat(parts, "\n")):sub(1, 8)
  local dictionary = dictionary_of(name)
  local function open(operation)
    local store = { dictionary = dictionary, prefix = ("%s %s %s "):format(address, hash, operation) }
    return setmetatable(store, shared_fields)
  end
  return setmetatable({ open = open, stores = {} }, RateLimit)
end

return rate_limit
