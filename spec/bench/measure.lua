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

local function open_client(base_url, ca_file)
  return assert(require("integrations.sendgrid").new {
    api_key = "SG.test.canary",
    base_url = base_url,
    ca_file = ca_file,
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

local result = { measurements[arg[1]](tonumber(arg[2]), arg[3], arg[4]) }
for i, number in ipairs(result) do
  result[i] = ("%.3f"):format(number)
end
print(table.concat(result, " "))
