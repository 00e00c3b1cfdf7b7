--- Measures what the README promises, and prints it beside its targets. Never fails: numbers are
--- for people to judge, machines differ.
---
---   make bench [LUA=luajit]
---
--- Everything is on loopback. Times are processor time (user and system) of the measured process,
--- except where it says wall. What is compared is measured in turns, a round each, and the median of
--- the rounds counts: so a busy moment hits both sides, and few rounds.
local emulator = require "integrations.emulator.server"

local lua = arg[-1]
local work = "build/bench"

local ROUNDS = 9
local CHECKS, LISTS, DECODES = 500000, 8000, 8000
local SLOW_CONNECTS, FAST_CONNECTS = 25, 200
local WRITES, NEW_CONNECTION_WRITES, NEW_TLS_WRITES = 3000, 700, 100
local STARTS = 40
local MEMORY_CALLS = 100000
-- The least that malloc takes is 32 bytes: one block lost with each call grows by that, pages that
-- the heap happens to touch grow by less than half of it.
local LEAST_LEAK = 32

-- ---- commands -------------------------------------------------------------------------------

local function run(command)
  local pipe = assert(io.popen("{ " .. command .. "\n} 2>&1"))
  local output = pipe:read("*a")
  pipe:close()
  return output
end

-- The numbers that a command prints, in one line.
local function numbers_of(command)
  local output = run(command)
  local numbers = {}
  for word in output:gmatch "%S+" do
    numbers[#numbers + 1] = tonumber(word) or error(("%s: %s"):format(command, output), 0)
  end
  if not numbers[1] then
    error(command .. ": printed nothing", 0)
  end
  return (table.unpack or unpack)(numbers)
end

local function write_file(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

local function read_file(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

-- ---- processors -----------------------------------------------------------------------------

-- The processors this process may use.
local function allowed_cpus()
  local cpus = {}
  for range in run("taskset -cp $$"):match("([%d,-]+)%s*$"):gmatch "[^,]+" do
    local first, last = range:match "^(%d+)%-?(%d*)$"
    for cpu = tonumber(first), tonumber(last) or tonumber(first) do
      cpus[#cpus + 1] = cpu
    end
  end
  return cpus
end

-- Where client and server share a processor, a bare call costs less than half of what it costs where
-- they do not, since nobody has to be woken; the ratios follow (2.3 instead of 1.6 for the list). A
-- server elsewhere is what there is outside of a benchmark, so it is not left to the scheduler.
local pinned = { client = "", server = nil, note = "not pinned (one CPU, or no taskset): no verdict on the list" }

local function choose_cpus()
  local ok, cpus = pcall(allowed_cpus)
  if ok and #cpus > 1 then
    pinned.client = ("taskset -c %d "):format(cpus[#cpus])
    pinned.server = cpus[1]
    pinned.note = ("server on CPU %d, the measured process on CPU %d"):format(cpus[1], cpus[#cpus])
  end
end

-- The command of one measurement; see measure.lua.
local function measure(...)
  return pinned.client .. table.concat({ lua, "spec/bench/measure.lua", ... }, " ")
end

local function baseline(...)
  return pinned.client .. table.concat({ work .. "/baseline", ... }, " ")
end

-- ---- medians --------------------------------------------------------------------------------

local function median(values)
  table.sort(values)
  local middle = #values / 2
  return (values[math.floor(middle) + 1] + values[math.ceil(middle)]) / 2
end

-- Runs the measurements in turns and returns the median of each, in their order.
local function medians(rounds, ...)
  local measured = {}
  for _ = 1, rounds do
    for i, measurement in ipairs { ... } do
      measured[i] = measured[i] or {}
      local number = type(measurement) == "function" and measurement() or numbers_of(measurement)
      table.insert(measured[i], number)
    end
  end
  for i, values in ipairs(measured) do
    measured[i] = median(values)
  end
  return (table.unpack or unpack)(measured)
end

-- ---- the table ------------------------------------------------------------------------------

-- Padding with %12s would count bytes: "µ", "×" and "≤" have more of them than columns.
local function right_aligned(text)
  local columns = #text:gsub("[\128-\191]", "")
  return (" "):rep(14 - columns) .. text
end

local rows

-- A target is the most that meets it.
local function row(title, number, format, target)
  local verdict = ""
  if target then
    verdict = ("%s   %s"):format(right_aligned("≤ " .. format:format(target)), number <= target and "met" or "MISSED")
  end
  rows[#rows + 1] = ("  %-56s%s%s"):format(title, right_aligned(format:format(number)), verdict)
end

-- Prints when all is measured and every server stopped: with `| head` printing may end the program.
local function section(title, measured, ...)
  rows = { "", title }
  local ok, message = pcall(measured, ...)
  if not ok and tostring(message):find("interrupted!", 1, true) then
    error(message, 0)
  elseif not ok then
    rows[#rows + 1] = "  could not be measured: " .. tostring(message)
  end
  print(table.concat(rows, "\n"))
end

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
      add_header access-control-allow-methods "GET, POST, PATCH, DELETE, OPTIONS";
      add_header access-control-max-age 21600;
      add_header access-control-allow-origin "*";
      add_header access-control-allow-headers "AUTHORIZATION, Content-Type, On-behalf-of, x-sg-elas-acl";
      add_header content-security-policy "default-src https://api.sendgrid.com; frame-src 'none'";
      add_header strict-transport-security "max-age=31536000; includeSubDomains";
      add_header referrer-policy strict-origin-when-cross-origin;
      add_header x-content-type-options nosniff;
      add_header x-no-cors-reason "https://sendgrid.com/docs/Classroom/Basics/API/cors.html";
      add_header x-ratelimit-limit 600;
      add_header x-ratelimit-remaining 599;
      add_header x-ratelimit-reset 42;
    }
    location = /write {
      default_type application/json;
      keepalive_timeout ${keep_alive};
      return 200 '{"integration_id":"3f2a6c1e-0000-4000-8000-000000000001"}';
    }
]]

local function start_server(keep_alive, tls)
  local values = {
    body = ('"%s/%s/list.json"'):format(run("pwd"):match "[^\n]+", work),
    keep_alive = keep_alive,
    -- No handshake is cut short because of an earlier one.
    server = tls and "ssl_session_tickets off;" or "",
  }
  local server = assert(emulator.start { locations = LOCATION:gsub("${([%w_]+)}", values), tls = tls })
  if pinned.server then
    run(("taskset -acp %d %s"):format(pinned.server, read_file(server.folder .. "/nginx.pid"):match "%d+"))
  end
  return server
end

-- A throw-away authority, a certificate for loopback, and a bundle that trusts the authority beside
-- all that the system trusts.
local function make_certificates(system_bundle)
  local script = [[
    cd %s && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=throw-away authority" \
      -keyout authority.key -out authority.pem &&
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=127.0.0.1" -CA authority.pem \
      -CAkey authority.key -addext "subjectAltName=IP:127.0.0.1" -keyout server.key -out server.pem]]
  local output = run(script:format(work))
  local ok, bundle = pcall(read_file, work .. "/authority.pem")
  if not ok then
    error(output, 0)
  end
  write_file(work .. "/bundle.pem", read_file(system_bundle) .. bundle)
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
    measure("decode", DECODES, work .. "/list.json"), measure("list", LISTS, url))
  row("(a) curl_easy_perform in C", bare, "%.1f µs")
  row("(b) a + lua-cjson's decode, measured by itself", bare + decode, "%.1f µs")
  row("(c) this client, integrations:list()", ours, "%.1f µs")
  row("c / a", ours / bare, "%.2f ×", pinned.server and 1.65)
  row("c / b", ours / (bare + decode), "%.2f ×")
end

-- Both sides trust the same file, keep one handle, and make a full handshake for each call. The
-- one difference that matters: libcurl's default also names a folder of certificates, and with a
-- folder libcurl does not keep the parsed file. The client leaves the folder out, so it parses once.
-- Left out of both numbers is the first connection of a process, which has to parse in any case.
local function measure_connect(url)
  local bundle = work .. "/bundle.pem"
  local default, ours = medians(ROUNDS,
    baseline("connect", url .. "/v3/marketing/integrations", SLOW_CONNECTS, bundle),
    measure("list", FAST_CONNECTS, url, bundle))
  row("libcurl's defaults in C", default / 1000, "%.2f ms")
  row("this client, integrations:list()", ours / 1000, "%.2f ms")
  row("ratio", ours / default, "%.2f ×", 0.2)
end

-- What it costs that libcurl never sends a write again by itself. A new connection for each write would
-- cost more and hold less: a refused stream (HTTP/2) is sent again on a new connection, too.
local function measure_write(url, certificates)
  local path = url .. "/write"
  local function write(protection, calls)
    return baseline("write", path, calls, ("'%s'"):format(certificates or ""), protection)
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
    local command = ("exec %s%s -e '%s'"):format(pinned.client, lua, code)
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
  local resident, heap = numbers_of(measure("memory", MEMORY_CALLS, url))
  row("resident memory (noise: a few; 24 pages are 1.00)", resident, "%.2f bytes", LEAST_LEAK / 2)
  row("Lua's heap after a full collection", heap, "%.2f bytes", LEAST_LEAK / 2)
end

local function measure_with_server(measured, keep_alive, tls)
  local server = start_server(keep_alive, tls)
  local ok, message = pcall(measured, server.url, tls and tls.authority)
  server:stop()
  if not ok then
    error(message, 0)
  end
end

-- ---- all of it ------------------------------------------------------------------------------

local function build_baseline()
  run("rm -rf " .. work .. "; mkdir -p " .. work)
  local compiled = run(("%s -O2 -std=c11 -D_GNU_SOURCE $(pkg-config --cflags libcurl) -o %s/baseline "
    .. "spec/bench/baseline.c $(pkg-config --libs libcurl)"):format(os.getenv "CC" or "cc", work))
  local version, bundle = run(work .. "/baseline about"):match "^([%d.]+ %b())\n([^\n]*)"
  return version or error("the baseline does not compile: " .. compiled, 0), bundle
end

local function main()
  io.stdout:setvbuf "line"
  local libcurl, bundle = build_baseline()
  choose_cpus()
  local body = list_body()
  write_file(work .. "/list.json", body)
  print(("%s, libcurl %s, %s CPUs"):format(rawget(_G, "jit") and jit.version or _VERSION, libcurl,
    run("nproc"):match "%d+"))
  print(pinned.note)

  section("Check of a valid IntegrationInput", measure_check)
  section(("List of 10 integrations, %d bytes, HTTP, kept connection: processor time of a call"):format(#body),
    measure_with_server, measure_list, "65s")
  local tls = { certificate = work .. "/server.pem", key = work .. "/server.key", authority = work .. "/authority.pem" }
  section("New TLS connection, the system's certificates: processor time of a call", function()
    make_certificates(bundle)
    measure_with_server(measure_connect, "0", tls)
  end)
  section("A write on a kept connection, HTTP: processor time of a call", measure_with_server, measure_write, "65s")
  section("The same over TLS", measure_with_server, measure_write, "65s", tls)
  section("require \"integrations.sendgrid\" in a new process: wall time", measure_require)
  section(("Growth over %d rounds of a list() and a create() that is refused here, per round"):format(MEMORY_CALLS),
    measure_with_server, measure_memory, "65s")
end

local ok, message = pcall(main)
if not ok then
  print("could not be measured: " .. tostring(message))
end
