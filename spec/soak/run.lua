--- Makes very many calls of every kind, and fails where the process grows.
---
---   lua5.4 spec/soak/run.lua CALLS [WARM_UP]        (`make soak` does)
---
--- The calls are counted after the warm-up, in which what is kept for later grows.
package.path = "./spec/?.lua;" .. package.path

local core = require "integrations.core"
local process = require "support.process"

local SAMPLES, WARM_UP = 20, 15000

-- What is counted, and by how much it may have grown from the first quarter of the samples to the last, whatever the
-- number of calls: caches fill up, and which connections are open differs. Bytes that are allocated are exact, so that
-- a block lost with each of 5,000 calls is already more (the least that malloc takes is 32 bytes). What is resident
-- depends on how blocks happen to lie, and on pages that are not given back; where the process is watched, freed blocks
-- are kept, and lost ones are reported at its end.
local MEASURES = {
  { name = "allocated", unit = 1024, limit = 96 * 1024 },
  { name = "resident", unit = 1024, limit = process.instrumented and math.huge or 4 * 1024 * 1024 },
  { name = "Lua heap", unit = 1024, limit = (rawget(_G, "jit") and 512 or 48) * 1024 }, -- traces are in it
  { name = "files", unit = 1, limit = 3 },
  { name = "engines", unit = 1, limit = 1 },
}

-- The engines that are not collected yet.
local engines = setmetatable({}, { __mode = "k" })
local new_engine = core.engine
function core.engine(...)
  local engine, message = new_engine(...)
  if engine then engines[engine] = true end
  return engine, message
end

local calls = require "soak.calls"
local forking = process.forking()

local function sample()
  for _ = 1, 3 do collectgarbage() end -- what a finalizer frees is collected by the next one
  local living = 0
  for _ in pairs(engines) do living = living + 1 end
  return { forking.allocated(), process.memory(), collectgarbage "count" * 1024, process.open_files(), living }
end

local function print_row(count, seconds, cells)
  local row = { ("%10s %8s"):format(count, seconds) }
  for _, cell in ipairs(cells) do row[#row + 1] = ("%12s"):format(cell) end
  print(table.concat(row, " "))
end

local function print_sample(count, seconds, values)
  local cells = {}
  for i, measure in ipairs(MEASURES) do cells[i] = ("%.0f"):format(values[i] / measure.unit) end
  print_row(count, ("%.0f"):format(seconds), cells)
end

local function mean(samples, i, first, last)
  local sum = 0
  for j = first, last do sum = sum + samples[j][i] end
  return sum / (last - first + 1)
end

local function find_growth(samples)
  local quarter, grown = SAMPLES / 4, {}
  for i, measure in ipairs(MEASURES) do
    local growth = mean(samples, i, SAMPLES - quarter + 1, SAMPLES) - mean(samples, i, 1, quarter)
    if growth > measure.limit then
      grown[#grown + 1] = ("%s by %.0f (%.0f are allowed)"):format(measure.name, growth, measure.limit)
    end
  end
  return grown
end

local function soak(run, count, warm_up)
  local titles = {}
  for i, measure in ipairs(MEASURES) do titles[i] = measure.name .. (measure.unit > 1 and ", KB" or "") end
  print_row("calls", "seconds", titles)
  local started = core.now()
  run(warm_up)
  local made, samples = 0, {}
  for i = 1, SAMPLES do
    made = made + run((count - made) / (SAMPLES - i + 1))
    samples[i] = sample()
    print_sample(made, core.now() - started, samples[i])
  end
  return made, samples
end

io.stdout:setvbuf "line"
forking.give_back()
local run, stop = calls.start()
local ok, made, samples = pcall(soak, run, tonumber(arg[1]), tonumber(arg[2] or WARM_UP))
stop()
assert(ok, made)
local grown = find_growth(samples)
if grown[1] then
  print(("GROWN over %d calls: %s"):format(made, table.concat(grown, "; ")))
  os.exit(1)
end
print(("steady over %d calls"):format(made))
