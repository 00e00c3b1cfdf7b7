--- What the sections share: commands, processors, medians, the printed table, servers.
local emulator = require "integrations.emulator.server"

local support = {}

-- Where everything that a run makes is kept.
support.work = "build/bench"

support.lua = arg[-1]

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
  if not numbers[1] then error(command .. ": printed nothing", 0) end
  return (table.unpack or unpack)(numbers)
end

function support.write_file(path, text)
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

function support.here()
  return run("pwd"):match "[^\n]+"
end

--- Compiles a program of this folder.
function support.compile(name, flags)
  local output = run(("%s -O2 -std=c11 -D_GNU_SOURCE -pthread -o %s/%s spec/bench/%s.c %s && echo compiled"):format(
    os.getenv "CC" or "cc", support.work, name, name, flags or ""))
  if not output:find "compiled\n$" then error(name .. ".c does not compile: " .. output, 0) end
end

support.run = run
support.numbers_of = numbers_of
support.read_file = read_file

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
support.pinned = {
  client = "",
  server = nil,
  note = "not pinned (one CPU, or no taskset): no verdict where that matters",
}
local pinned = support.pinned

function support.choose_cpus()
  local ok, cpus = pcall(allowed_cpus)
  if ok and #cpus > 1 then
    pinned.client = ("taskset -c %d "):format(cpus[#cpus])
    pinned.server = cpus[1]
    pinned.note = ("server on CPU %d, the measured process on CPU %d"):format(cpus[1], cpus[#cpus])
  end
end

-- The command of one measurement; see measure.lua.
function support.measure(...)
  return pinned.client .. table.concat({ support.lua, "spec/bench/measure.lua", ... }, " ")
end

function support.baseline(...)
  return pinned.client .. table.concat({ support.work .. "/baseline", ... }, " ")
end

-- ---- medians --------------------------------------------------------------------------------

local function median(values)
  table.sort(values)
  local middle = #values / 2
  return (values[math.floor(middle) + 1] + values[math.ceil(middle)]) / 2
end

--- Runs the measurements in turns. A measurement is a command that prints numbers, or a function that
--- returns some.
---@return number[][] medians of each measurement's numbers, both in their order
function support.tabulate(rounds, ...)
  local measured = {}
  for _ = 1, rounds do
    for i, measurement in ipairs { ... } do
      measured[i] = measured[i] or {}
      local take = type(measurement) == "function" and measurement or numbers_of
      for column, number in ipairs { take(measurement) } do
        measured[i][column] = measured[i][column] or {}
        table.insert(measured[i][column], number)
      end
    end
  end
  for _, columns in ipairs(measured) do
    for column, values in ipairs(columns) do
      columns[column] = median(values)
    end
  end
  return measured
end

--- The same for those of which the first number counts: the median of each, in their order.
function support.medians(rounds, ...)
  local first = {}
  for i, columns in ipairs(support.tabulate(rounds, ...)) do
    first[i] = columns[1]
  end
  return (table.unpack or unpack)(first)
end

-- ---- the table ------------------------------------------------------------------------------

-- Padding with %12s would count bytes: "µ", "×" and "≤" have more of them than columns.
local function right_aligned(text)
  local columns = #text:gsub("[\128-\191]", "")
  return (" "):rep(14 - columns) .. text
end

local rows

--- A target is the most that meets it.
function support.row(title, number, format, target)
  local verdict = ""
  if target then
    verdict = ("%s   %s"):format(right_aligned("≤ " .. format:format(target)), number <= target and "met" or "MISSED")
  end
  rows[#rows + 1] = ("  %-56s%s%s"):format(title, right_aligned(format:format(number)), verdict)
end

--- Prints when all is measured and every server stopped: with `| head` printing may end the program.
function support.section(title, measured)
  rows = { "", title }
  local ok, message = pcall(measured)
  if not ok and tostring(message):find("interrupted!", 1, true) then
    error(message, 0)
  elseif not ok then
    rows[#rows + 1] = "  could not be measured: " .. tostring(message)
  end
  print(table.concat(rows, "\n"))
end

-- ---- servers --------------------------------------------------------------------------------

--- A throw-away authority, a certificate for loopback, and a bundle that trusts the authority beside
--- all that the system trusts; made once.
function support.certificates()
  if support.tls then return support.tls end
  local work = support.work
  local script = [[
    cd %s && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=throw-away authority" \
      -keyout authority.key -out authority.pem &&
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=127.0.0.1" -CA authority.pem \
      -CAkey authority.key -addext "subjectAltName=IP:127.0.0.1" -keyout server.key -out server.pem]]
  local output = run(script:format(work))
  local ok, authority = pcall(read_file, work .. "/authority.pem")
  if not ok then error(output, 0) end
  local bundle = work .. "/bundle.pem"
  support.write_file(bundle, read_file(support.system_bundle) .. authority)
  support.tls = {
    certificate = work .. "/server.pem",
    key = work .. "/server.key",
    authority = work .. "/authority.pem",
    bundle = bundle,
  }
  return support.tls
end

-- What the service sends with every answer, so that both sides of a comparison have it to read.
support.service_headers = [[
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
      add_header x-ratelimit-reset 42;]]

--- What stands in `text` for each ${name}.
function support.fill(text, values)
  return (text:gsub("${([%w_]+)}", values))
end

-- Stops a server whose program was killed. $PPID is the program, since the shell is its child. What kills the
-- program may have been sent to all of its group, so it is ignored here.
local WATCH = [[
program=$PPID
(
  trap '' HUP INT TERM
  while kill -0 $program; do
    kill -0 %s || exit
    sleep 1
  done
  kill %s
  rm -rf %s
) >/dev/null 2>&1 </dev/null &]]

--- Starts nginx, hands it to `use`, and stops it whatever happens.
---@param options integrations.emulator.ServerOptions
---@param cpu? integer where it has to stay
---@param use fun(server: integrations.emulator.Server)
function support.with_server(options, cpu, use)
  local server = assert(emulator.start(options))
  local ok, message = pcall(function()
    server.pid = read_file(server.folder .. "/nginx.pid"):match "%d+"
    run(WATCH:format(server.pid, server.pid, server.folder))
    if cpu then run(("taskset -acp %d %s"):format(cpu, server.pid)) end
    use(server)
  end)
  server:stop()
  if not ok then error(message, 0) end
end

return support
