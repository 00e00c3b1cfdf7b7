--- Measures what the README promises, and prints it beside its targets. Never fails: numbers are
--- for people to judge, machines differ.
---
---   make bench [LUA=luajit] [SECTION=nginx]
---
--- Everything is on loopback. Times are processor time (user and system) of the measured process,
--- except where it says wall. What is compared is measured in turns, a round each, and the median of
--- the rounds counts: so a busy moment hits both sides, and few rounds.
package.path = "./spec/?.lua;" .. package.path

local nginx = require "bench.nginx"
local parallel = require "bench.parallel"
local support = require "bench.support"

local baseline, measure, medians, row = support.baseline, support.measure, support.medians, support.row

local ROUNDS = 9
local CHECKS, LISTS, DECODES = 500000, 8000, 8000
local SLOW_CONNECTS, FAST_CONNECTS = 25, 200
local WRITES, NEW_CONNECTION_WRITES, NEW_TLS_WRITES = 3000, 700, 100
local STARTS = 40
local MEMORY_CALLS = 100000
-- The least that malloc takes is 32 bytes: one block lost with each call grows by that, pages that
-- the heap happens to touch grow by less than half of it.
local LEAST_LEAK = 32

-- ---- servers --------------------------------------------------------------------------------

-- Ten integrations as the service would list them.
local function list_body()
  local entries = {}
  for i = 1, 10 do
    entries[i] = ('{"integration_id":"3f2a6c1e-0000-4000-8000-%012d","user_id":"10000001",'
      .. '"filters":{"email_events":["drop","bounce"]},'
      .. '"properties":{"write_key":"canary","destination_region":"EU"},'
      .. '"label":"Integration %d","destination":"Segment"}'):format(i, i)
  end
  return '{"result":[' .. table.concat(entries, ",") .. "]}"
end

local LOCATION = [[
    ${server}
    location = /v3/marketing/integrations {
      alias ${body};
      default_type application/json;
      keepalive_timeout ${keep_alive};
      etag off;
      max_ranges 0;
${headers}
    }
    location = /write {
      default_type application/json;
      keepalive_timeout ${keep_alive};
      return 200 '{"integration_id":"3f2a6c1e-0000-4000-8000-000000000001"}';
    }
]]

-- The measurement with a server of its own, which is handed the address.
local function with_server(measured, keep_alive, tls)
  return function()
    local certificates = tls and support.certificates()
    local locations = support.fill(LOCATION, {
      body = ('"%s/%s/list.json"'):format(support.here(), support.work),
      keep_alive = keep_alive,
      headers = support.service_headers,
      -- No handshake is cut short because of an earlier one.
      server = tls and "ssl_session_tickets off;" or "",
    })
    support.with_server({ locations = locations, tls = certificates or nil }, support.pinned.server, function(server)
      measured(server.url, certificates or nil)
    end)
  end
end

-- ---- what is measured -----------------------------------------------------------------------

local function measure_check()
  local target = _VERSION == "Lua 5.4" and 400 or nil
  row("one check, a call from Lua and its loop included", medians(ROUNDS, measure("check", CHECKS)), "%.0f ns", target)
end

-- (a) reads the same bytes with the same request headers, and is libcurl as it comes: with
-- CURLOPT_NOSIGNAL, which the client sets and a program without threads need not, it would be two
-- microseconds faster. It has no Lua, so (b) is a sum.
local function measure_list(url)
  local path = url .. "/v3/marketing/integrations"
  local bare, decode, ours = medians(ROUNDS, baseline("list", path, LISTS),
    measure("decode", DECODES, support.work .. "/list.json"), measure("list", LISTS, url))
  row("(a) curl_easy_perform in C", bare, "%.1f µs")
  row("(b) a + lua-cjson's decode, measured by itself", bare + decode, "%.1f µs")
  row("(c) this client, integrations:list()", ours, "%.1f µs")
  row("c / a", ours / bare, "%.2f ×", support.pinned.server and 1.65)
  row("c / b", ours / (bare + decode), "%.2f ×")
end

-- Both sides trust the same file, keep one handle, and make a full handshake for each call. The
-- one difference that matters: libcurl's default also names a folder of certificates, and with a
-- folder libcurl does not keep the parsed file. The client leaves the folder out, so it parses once.
-- Left out of both numbers is the first connection of a process, which has to parse in any case.
local function measure_connect(url, certificates)
  local default, ours = medians(ROUNDS,
    baseline("connect", url .. "/v3/marketing/integrations", SLOW_CONNECTS, certificates.bundle),
    measure("list", FAST_CONNECTS, url, certificates.bundle))
  row("libcurl's defaults in C", default / 1000, "%.2f ms")
  row("this client, integrations:list()", ours / 1000, "%.2f ms")
  row("ratio", ours / default, "%.2f ×", 0.2)
end

-- What it costs that libcurl never sends a write again by itself. A new connection for each write would
-- cost more and hold less: a refused stream (HTTP/2) is sent again on a new connection, too.
local function measure_write(url, certificates)
  local path = url .. "/write"
  local function write(protection, calls)
    return baseline("write", path, calls, ("'%s'"):format(certificates and certificates.authority or ""), protection)
  end
  local none, guard, fresh = medians(ROUNDS, write("none", WRITES), write("guard", WRITES),
    write("fresh", certificates and NEW_TLS_WRITES or NEW_CONNECTION_WRITES))
  row("(a) curl_easy_perform in C, no guard", none, "%.1f µs")
  row("(b) with the client's guard, CURLOPT_PREREQFUNCTION", guard, "%.1f µs")
  row("(c) with CURLOPT_FRESH_CONNECT", fresh, "%.1f µs")
  row("b / a", guard / none, "%.2f ×")
  row("c / a", fresh / none, "%.2f ×")
end

local function measure_require()
  local now = require("integrations.core").now
  local function start(code)
    local command = ("exec %s%s -e '%s'"):format(support.pinned.client, support.lua, code)
    return function()
      local before = now()
      os.execute(command)
      return (now() - before) * 1000
    end
  end
  local empty, loaded, used = medians(STARTS, start "", start "require \"integrations.sendgrid\"",
    start "require \"integrations.sendgrid\".new { api_key = \"SG.test.canary\" }")
  row("a process that only does that, less an empty one", loaded - empty, "%.2f ms", 5)
  row("and makes a client, which loads libcurl's libraries", used - empty, "%.2f ms")
end

local function measure_memory(url)
  local resident, heap = support.numbers_of(measure("memory", MEMORY_CALLS, url))
  row("resident memory (noise: a few; 24 pages are 1.00)", resident, "%.2f bytes", LEAST_LEAK / 2)
  row("Lua's heap after a full collection", heap, "%.2f bytes", LEAST_LEAK / 2)
end

-- ---- all of it ------------------------------------------------------------------------------

local body = list_body()

local sections = {
  { "check", "Check of a valid IntegrationInput", measure_check },
  { "list", ("List of 10 integrations, %d bytes, HTTP, kept connection: processor time of a call"):format(#body),
    with_server(measure_list, "65s") },
  { "connect", "New TLS connection, the system's certificates: processor time of a call",
    with_server(measure_connect, "0", true) },
  { "write", "A write on a kept connection, HTTP: processor time of a call", with_server(measure_write, "65s") },
  { "write-tls", "The same over TLS", with_server(measure_write, "65s", true) },
  { "require", "require \"integrations.sendgrid\" in a new process: wall time", measure_require },
  { "memory", ("Growth over %d rounds of a list() and a create() that is refused here, per round"):format(MEMORY_CALLS),
    with_server(measure_memory, "65s") },
  { "nginx", nginx.title, nginx.measure },
}
for _, section in ipairs(parallel) do
  sections[#sections + 1] = section
end

local function choose_sections(name)
  local chosen, names = {}, {}
  for _, section in ipairs(sections) do
    names[#names + 1] = section[1]
    if section[1] == (name or section[1]) then chosen[#chosen + 1] = section end
  end
  return chosen[1] and chosen or error(("no section %q; there are: %s"):format(name, table.concat(names, ", ")), 0)
end

local function build_baseline()
  support.run(("rm -rf %s; mkdir -p %s"):format(support.work, support.work))
  support.compile("baseline", "$(pkg-config --cflags --libs libcurl)")
  local version, bundle = support.run(support.work .. "/baseline about"):match "^([%d.]+ %b())\n([^\n]*)"
  support.system_bundle = bundle
  return version
end

local function main()
  io.stdout:setvbuf "line"
  local chosen = choose_sections(arg[1])
  local libcurl = build_baseline()
  support.choose_cpus()
  support.write_file(support.work .. "/list.json", body)
  print(("%s, libcurl %s, %s CPUs"):format(rawget(_G, "jit") and jit.version or _VERSION, libcurl,
    support.run("nproc"):match "%d+"))
  print(support.pinned.note)
  for _, section in ipairs(chosen) do
    support.section(section[2], section[3])
  end
end

local ok, message = pcall(main)
if not ok then
  print("could not be measured: " .. tostring(message))
end
