--- What many calls at a time take, in plain Lua: time, processor time and memory.
local support = require "bench.support"
local upstream = require "bench.upstream"

local baseline, measure, row = support.baseline, support.measure, support.row

local ROUNDS, LONG_ROUNDS = 9, 3
local CALLS, LIMIT, LATENCY = 1000, 100, 50
local IN_FLIGHT, LONG_LATENCY = 1000, 3000
local SIZES, SIZE_LIMIT = { 100, 1000, 10000, 100000 }, 50
-- The least that is measured of each size: the small ones are repeated.
local LEAST_CALLS = 20000

-- A section whose measurement gets the service's address below which answers take so long.
local function section(name, title, path, measured)
  return { name, title, function()
    upstream.with(support.pinned.server, function(service)
      measured(service.url .. path)
    end)
  end }
end

-- ---- time -----------------------------------------------------------------------------------

-- Where all answers take exactly as long, those of a hundred calls come at the same moment, and then none for a
-- while: a program that looks at each transfer whenever anything happens to one seldom has to look. Services
-- answer at different times.
--
-- Both sides make their connections within what is measured, use them for all further calls, send and
-- read the same bytes, and keep the answers' bodies; the client also decodes them.
local function measure_calls(url)
  local bare, ours = (table.unpack or unpack)(support.tabulate(ROUNDS,
    baseline("multi", url .. "/v3/marketing/integrations", CALLS, LIMIT), measure("parallel", CALLS, url, LIMIT)))
  local ideal = CALLS / LIMIT * LATENCY / 1000
  row("(a) curl_multi_perform and curl_multi_poll in C: wall time", bare[2], "%.3f s")
  row("(b) this client, parallel.map: wall time", ours[2], "%.3f s")
  row(("b / %g s, which it takes at the least"):format(ideal), ours[2] / ideal, "%.2f ×", 1.15)
  row("(c) a's processor time of a call", bare[1], "%.1f µs")
  row("(d) b's processor time of a call", ours[1], "%.1f µs")
  row("d / c", ours[1] / bare[1], "%.2f ×", support.pinned.server and 1.3)
end

local function measure_http2()
  upstream.with(support.pinned.server, function(service)
    local url, authority = ("%s/%dms"):format(service.url, LATENCY), support.certificates().authority
    local ours = support.tabulate(ROUNDS, measure("parallel", CALLS, url, LIMIT, authority))[1]
    row("this client, parallel.map: wall time", ours[2], "%.3f s")
    row("processor time of a call", ours[1], "%.1f µs")
    row("connections", ours[3], "%.0f")
  end, true)
end

-- ---- memory and size ------------------------------------------------------------------------

local function measure_in_flight(url)
  local bytes = support.medians(LONG_ROUNDS, measure("in_flight", IN_FLIGHT, url, LONG_LATENCY))
  row("resident memory of a call in flight", bytes, "%.0f bytes", 64 * 1024)
end

-- What is kept of each answer is its label. 100,000 integrations are 60 MB, which have to be allocated, and which
-- the garbage collector goes through: also in a plain loop of get(), where a call costs 1.15 times as much then.
local function measure_sizes(url)
  local function together(size, kept)
    return measure("together", size, url, SIZE_LIMIT, math.ceil(LEAST_CALLS / size), kept)
  end
  local commands = {}
  for i, size in ipairs(SIZES) do
    commands[i] = together(size, "labels")
  end
  local most, few = SIZES[#SIZES], SIZES[2]
  commands[#SIZES + 1], commands[#SIZES + 2] = together(few, "all"), together(most, "all")
  local costs = { support.medians(LONG_ROUNDS, (table.unpack or unpack)(commands)) }
  for i, size in ipairs(SIZES) do
    row(("%d calls"):format(size), costs[i], "%.1f µs")
  end
  row(("%d calls / %d calls"):format(most, SIZES[1]), costs[#SIZES] / costs[1], "%.2f ×")
  row(("%d calls / %d calls"):format(most, few), costs[#SIZES] / costs[2], "%.2f ×", 1.1)
  row(("%d calls, all integrations kept"):format(most), costs[#SIZES + 2], "%.1f µs")
  row(("%d calls / %d calls, all integrations kept"):format(most, few), costs[#SIZES + 2] / costs[#SIZES + 1], "%.2f ×")
end

return {
  section("parallel", ("%d get() of %d ms, at most %d at a time, HTTP"):format(CALLS, LATENCY, LIMIT),
    ("/%dms"):format(LATENCY), measure_calls),
  section("parallel-spread", "The same, with answers between half and one and a half times as late",
    ("/%dms-spread"):format(LATENCY), measure_calls),
  { "http2", "The same over TLS and HTTP/2", measure_http2 },
  section("in-flight", ("%d get() in flight at the same time"):format(IN_FLIGHT), ("/%dms"):format(LONG_LATENCY),
    measure_in_flight),
  section("sizes", ("get() made together, at most %d at a time: processor time of a call"):format(SIZE_LIMIT), "/now",
    measure_sizes),
}
