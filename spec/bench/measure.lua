--- One measurement, in a process of its own: prints its numbers.
---
---   lua5.4 spec/bench/measure.lua NAME ARGUMENT ...
local measurements = {}

-- os.clock is the processor time of this process: user and system, as getrusage has it.
local function per_call(calls, run)
  local before = os.clock()
  run(calls)
  return (os.clock() - before) / calls
end

local function open_client(base_url, ca_file, max_connections)
  return assert(require("integrations.sendgrid").new {
    api_key = "SG.test.canary",
    base_url = base_url,
    ca_file = ca_file,
    max_connections = max_connections,
  })
end

local function list_times(sg, calls)
  local integrations = sg.integrations
  for _ = 1, calls do
    local all = assert(integrations:list())
    assert(#all == 10)
  end
end

local input = {
  destination = "Segment",
  label = "Marketing events",
  filters = { email_events = { "drop", "processed", "deferred", "bounce", "delivered", "click", "open" } },
  properties = { write_key = "canary0write0key0for0tests0only0", destination_region = "EU" },
}

--- Nanoseconds for one check of a valid input.
function measurements.check(calls)
  local core = require "integrations.core"
  local schemas = require("integrations.sendgrid.integrations").declaration.schemas
  local check = core.schema(schemas.IntegrationInput)
  assert(check(input))
  return per_call(calls, function(times)
    for _ = 1, times do
      check(input)
    end
  end) * 1e9
end

--- Microseconds for lua-cjson alone to read a file's text.
function measurements.decode(calls, path)
  local decode = require("cjson").new().decode
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return per_call(calls, function(times)
    for _ = 1, times do
      decode(text)
    end
  end) * 1e6
end

--- Microseconds for one list(). With a server that closes each connection, the warm-up leaves what
--- a new connection needs from the second one on: the certificates are parsed.
function measurements.list(calls, base_url, ca_file)
  local sg = open_client(base_url, ca_file)
  list_times(sg, 5)
  return per_call(calls, function(times)
    list_times(sg, times)
  end) * 1e6
end

local function resident_bytes()
  local file = assert(io.open "/proc/self/status")
  local kilobytes = tonumber(file:read("*a"):match("VmRSS:%s*(%d+) kB"))
  file:close()
  return kilobytes * 1024
end

local function collected_bytes()
  collectgarbage()
  collectgarbage()
  return collectgarbage("count") * 1024
end

--- Bytes that the process, and its Lua heap, grow with each round of a list() and a create() that
--- is refused before it is sent.
function measurements.memory(calls, base_url)
  local sg = open_client(base_url)
  local wrong = { destination = "Segmnt", filters = { email_events = { "opne" } }, colour = "blue" }
  local function run(times)
    for _ = 1, times do
      list_times(sg, 1)
      local created, failed = sg.integrations:create(wrong)
      assert(not created and failed.kind == "invalid")
    end
  end
  run(math.floor(calls / 10))
  local heap, resident = collected_bytes(), resident_bytes()
  run(calls)
  local heap_growth = (collected_bytes() - heap) / calls
  return (resident_bytes() - resident) / calls, heap_growth
end

-- ---- many at a time -------------------------------------------------------------------------

local function make_ids(count)
  local ids = {}
  for i = 1, count do
    ids[i] = ("3f2a6c1e-0000-4000-8000-%012d"):format(i)
  end
  return ids
end

-- Gets all of these integrations; keeps them, or what `read` makes of each as it comes.
local function get_all(sg, ids, limit, read)
  local results = require("integrations.parallel").map(ids, function(id)
    local integration, failure = sg.integrations:get(id)
    if read and integration then return read(integration) end
    return integration, failure
  end, { limit = limit })
  assert(results.ok and #results == #ids)
end

--- Microseconds of processor time for one of many get(); seconds that all of them took; how many
--- connections there were. All that a program does once is included, but for making the client.
function measurements.parallel(calls, base_url, limit, ca_file)
  local now = require("integrations.core").now
  local sg, ids = open_client(base_url, ca_file), make_ids(calls)
  local connections, count = {}, 0
  local start = now()
  local processor = per_call(calls, function()
    get_all(sg, ids, tonumber(limit), function(integration)
      connections[integration.user_id] = true -- see upstream.lua
      return integration
    end)
  end)
  local wall = now() - start
  for _ in pairs(connections) do
    count = count + 1
  end
  return processor * 1e6, wall, count
end

--- Bytes of resident memory for one of many calls that wait for their answers at the same time. What a first
--- few calls take for all others is left out.
function measurements.in_flight(calls, base_url, milliseconds)
  local now = require("integrations.core").now
  local sg, ids = open_client(base_url, nil, calls), make_ids(calls)
  sg.session.rate_limit = nil -- the answers tell of fewer
  get_all(sg, make_ids(10), 10)
  collectgarbage()
  local before, during, start = resident_bytes(), nil, now()
  get_all(sg, ids, calls, function(integration)
    during = during or resident_bytes()
    return integration
  end)
  -- The last request left before the first answer came.
  assert((now() - start) * 1000 < 2 * milliseconds, "they were not all in flight at the same time")
  return (during - before) / calls
end

local function read_label(integration)
  return integration.label
end

--- Microseconds of processor time for one of `size` get() that are made together, `times` over; the
--- integrations are kept until all are there, or only their labels.
function measurements.together(size, base_url, limit, times, kept)
  local read = kept == "labels" and read_label or nil
  local sg, ids = open_client(base_url), make_ids(size)
  get_all(sg, make_ids(1000), tonumber(limit), read)
  return per_call(size * times, function()
    for _ = 1, times do
      get_all(sg, ids, tonumber(limit), read)
    end
  end) * 1e6
end

local result = { measurements[arg[1]](tonumber(arg[2]), (table.unpack or unpack)(arg, 3)) }
for i, number in ipairs(result) do
  result[i] = ("%.3f"):format(number)
end
print(table.concat(result, " "))
