-- Runs lint and every spec on every Lua, several at once, and ends in one line: "N passed, N failed".
--
--   lua5.4 spec/support/run.lua "lua5.4 luajit" spec/retry_spec.lua ...        (`make test` does)
--
-- In the environment: JOBS, how many at once; FULL=1, see ON_TWO; LINT=no.
--
-- Each spec file has a process of its own: a crash or a hang costs one file, and is named. support/keep.c sees to it
-- that nothing of it lives on, whatever ends it or this program.
-- Written for any Lua from 5.1 on, since it runs on the first one of the list.

-- The keys that the specs' clients have. They are secrets, so nothing may write them.
local CANARIES = { "SG.test.canary", "SG.emulator.full" }

-- These wait much, and ask what the C core does at a wire. It is the same C for every Lua but for two C APIs, those of
-- the first two Luas that are named here.
local ON_TWO = {
  ["spec/fault_spec.lua"] = true, ["spec/http2_spec.lua"] = true, ["spec/secrets_spec.lua"] = true,
  ["spec/tls_spec.lua"] = true,
}

local make = os.getenv "MAKE" or "make"
-- Set by `make asan` and `make valgrind`, whose folder has the commands that watch, and the reports they write.
local instrumented = os.getenv "INTEGRATIONS_INSTRUMENTED"
local TOO_LONG, NO_KEEPER = 124, 125 -- statuses: the first is keep.c's
local TIME_LIMIT = instrumented == "valgrind" and 900 or 300 -- seconds for one spec file

local total = { passed = 0, failed = 0, skipped = 0 }

local function say(...)
  io.write(...)
  io.flush()
end

-- What a shell command wrote to its standard output.
local function ask(command)
  local pipe = assert(io.popen(command))
  local output = pipe:read "*a"
  pipe:close()
  return output
end

-- ---- several at once ------------------------------------------------------------------------

-- Holds all that this run writes. Who has come to an end says so in the pipe `ended`.
-- Others may pass through it: a spec becomes an ordinary user.
local folder = assert(ask 'mktemp -d "${TMPDIR:-/tmp}/integrations-run.XXXXXXXXXX"':match "^(/[^\n]+)\n$")
ask("chmod 711 " .. folder)
-- Twice as many as there are processors, since a spec waits most of the time; under valgrind it does not.
local jobs_at_once = tonumber(os.getenv "JOBS")
  or (instrumented == "valgrind" and 1 or 2) * (tonumber(ask "nproc") or 1)
local ended

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function open_pipe()
  local path = folder .. "/ended"
  ask("mkfifo " .. quote(path))
  ended = assert(io.open(path, "r+")) -- also to write, so that it has no end
end

-- With a folder of its own for temporary files, since one that is killed leaves them. The last line is for where the
-- keeper has written none: it could not be started, or was killed. The shell that waits for that dies with this
-- program, and the keeper with the shell; Ctrl-C is for the keeper to hear.
local START = [[
trap '' INT
here=%s ended=%s
mkdir "$here" "$here/reports" && export TMPDIR="$here" INTEGRATIONS_REPORTS="$here/reports" &&
  build/keep %d %d sh -c %s >>"$ended" 3>"$here/log" </dev/null
echo "%d %d 0 0" >>"$ended"
]]

-- A job: `command`, and `finish(output, how, reports)`; `how` it ended is its `status`, how many `seconds` it took, and
-- how many processes it has `left` behind.
local function start(job, i)
  job.folder = folder .. "/" .. i
  local command = "exec >&3 2>&1 3>&-\n" .. job.command
  local script = START:format(quote(job.folder), quote(folder .. "/ended"), i, TIME_LIMIT, quote(command), i, NO_KEEPER)
  job.keeper = assert(io.popen("exec setpriv --pdeathsig TERM sh -c " .. quote(script)))
end

-- A job that could not be started has no log.
local function read_file(path)
  local file = io.open(path, "rb")
  local text = file and file:read "*a"
  if file then file:close() end
  return text or ""
end

-- The next job that has ended, and how. The second line of a job says nothing new.
local function next_ended(jobs)
  while true do
    local i, status, seconds, left = ended:read "*l":match "^(%d+) (%d+) ([%d.]+) (%d+)$"
    local job = jobs[tonumber(i)]
    if job.keeper then
      return job, { status = tonumber(status), seconds = tonumber(seconds), left = tonumber(left) }
    end
  end
end

local function finish_one(jobs)
  local job, how = next_ended(jobs)
  job.keeper:close()
  job.keeper = nil
  local reports = ask("find " .. quote(job.folder .. "/reports") .. " -type f -size +0 -exec cat {} + 2>/dev/null")
  job.finish(read_file(job.folder .. "/log"), how, reports)
  ask("rm -rf " .. quote(job.folder))
end

local function run_all(jobs)
  local started, left = 0, #jobs
  while left > 0 do
    while jobs[started + 1] and started - (#jobs - left) < jobs_at_once do
      started = started + 1
      start(jobs[started], started)
    end
    finish_one(jobs)
    left = left - 1
  end
end

-- ---- what a job comes to --------------------------------------------------------------------

-- A step that is not a spec shows up in the count only when it fails.
local function finish_step(lua, title, output, status)
  say(("%-8s %s\n"):format(lua, title), output)
  if status ~= 0 then
    total.failed = total.failed + 1
    say(("%-8s FAILED: %s\n"):format(lua, title))
  end
end

-- Reads busted's last summary; nil when it printed none.
local function read_summary(output)
  local summary
  for passed, failures, errors, skipped in
    output:gmatch "(%d+) success%a* / (%d+) failure%a* / (%d+) error%a* / (%d+) pending : [%d.]+" do
    summary = { passed = tonumber(passed), failed = failures + errors, skipped = tonumber(skipped) }
  end
  return summary
end

local NAMED = { [TOO_LONG] = "took too long", [NO_KEEPER] = "build/keep did not start, or was killed" }

-- What is wrong although no test failed. A crash after the summary (in a finalizer, say) is: the exit status must
-- agree with it.
local function faults_of(output, how, summary, reports)
  local faults, status = {}, how.status
  if reports ~= "" then
    faults[#faults + 1] = instrumented .. " reports errors"
  end
  for _, canary in ipairs(CANARIES) do
    if output:find(canary, 1, true) then
      faults[#faults + 1] = "a secret was written"
    end
  end
  if how.left > 0 then
    faults[#faults + 1] = ("left %d processes"):format(how.left)
  end
  if status ~= 0 and summary.failed == 0 and not faults[1] then
    faults[#faults + 1] = NAMED[status] or "exit status " .. status
  end
  return faults
end

-- What a spec wants to be read though all is well: lines that begin so, but for busted's mark for each test.
local function say_notes(lua, output)
  for note in ("\n" .. output):gmatch "\n[-+.*]*report: ([^\n]*)" do
    say(("%-8s   %s\n"):format(lua, note))
  end
end

local function finish_spec(lua, spec, output, how, reports)
  local summary = read_summary(output)
  if how.status == 0 and not summary then
    output, how.status = output .. "busted printed no summary\n", 1
  end
  summary = summary or { passed = 0, failed = 0, skipped = 0 }
  local faults = faults_of(output, how, summary, reports)
  summary.failed = summary.failed + #faults
  for name in pairs(total) do
    total[name] = total[name] + summary[name]
  end
  say(("%-8s %-34s %4d passed"):format(lua, spec, summary.passed),
    summary.failed > 0 and (", %d FAILED"):format(summary.failed) or "",
    faults[1] and (" (%s)"):format(table.concat(faults, ", ")) or "",
    summary.skipped > 0 and (", %d skipped"):format(summary.skipped) or "",
    (" %6.1f s\n"):format(how.seconds))
  say_notes(lua, output)
  if summary.failed > 0 or summary.skipped > 0 then
    say(output, reports, "\n")
  end
  return summary.passed
end

-- ---- all of it ------------------------------------------------------------------------------

-- Without what a surrounding make has set: specs build for themselves, and nginx loads what is built for LuaJIT.
local PLAIN = "env -u MAKEFLAGS -u MAKELEVEL -u CFLAGS -u LDFLAGS "

-- One after the other, since they share their objects. Returns whether all of a Lua's is there.
local function build(lua)
  local title = ("%s -s LUA=%s all"):format(make, lua)
  local log = folder .. "/build"
  local status = ask(("%s >%s 2>&1; echo $?"):format(title, quote(log))):match "%d+"
  finish_step(lua, title, read_file(log), tonumber(status))
  return status == "0"
end

local function lint_job()
  local command = make .. " lint"
  return { command = command, finish = function(output, how) finish_step("lint", command, output, how.status) end }
end

local function spec_job(lua, environment, spec, passed)
  return {
    command = environment .. ('exec %s "$(command -v busted)" --output=plainTerminal %s'):format(lua, spec),
    finish = function(...) passed[lua] = passed[lua] + finish_spec(lua, spec, ...) end,
  }
end

local function environment_of(lua)
  local environment = ask(("%s -s env LUA=%s"):format(make, lua))
  if instrumented then -- a spec that builds for itself does so with nobody's flags
    environment = environment .. ('unset CFLAGS LDFLAGS\nexport PATH="$PWD/build/%s/bin:$PATH"\n'):format(instrumented)
  end
  return environment
end

local function list(set)
  local names = {}
  for name in pairs(set) do names[#names + 1] = name end
  table.sort(names)
  return table.concat(names, ", ")
end

-- Lint, and every spec on every Lua that could be built. Returns them, and counts by Lua of what will have passed.
local function plan(luas, specs)
  local jobs, passed, left_out, count = {}, {}, {}, 0
  if not instrumented and os.getenv "LINT" ~= "no" then
    jobs[1] = lint_job()
  end
  for lua in luas:gmatch "%S+" do
    count = count + 1
    passed[lua] = build(lua) and 0 or nil
    local environment = passed[lua] and environment_of(lua)
    for _, spec in ipairs(passed[lua] and specs or {}) do
      if count > 2 and ON_TWO[spec] and os.getenv "FULL" ~= "1" then
        left_out[spec] = true
      else
        jobs[#jobs + 1] = spec_job(lua, environment, spec, passed)
      end
    end
  end
  if next(left_out) then
    say(("On the first two Luas only, on all with FULL=1: %s\n"):format(list(left_out)))
  end
  return jobs, passed
end

-- After Ctrl-C, which the keepers have heard, too.
local function stop(jobs, problem)
  for _, job in ipairs(jobs) do
    if job.keeper then job.keeper:close() end
  end
  ask("rm -rf " .. quote(folder))
  say(problem, "\n")
  os.exit(130)
end

open_pipe()
if ask(PLAIN .. make .. " -s build/keep >&2 && setpriv --pdeathsig TERM echo there") ~= "there\n" then
  ask("rm -rf " .. quote(folder))
  say "build/keep cannot be built, or there is no setpriv of util-linux: without them nothing is started\n"
  os.exit(1)
end
ask(PLAIN .. make .. " -s LUA=luajit all 2>/dev/null") -- where that fails, the specs that start nginx say so
local jobs, passed = plan(arg[1], { (table.unpack or unpack)(arg, 2) })
local whole, problem = pcall(run_all, jobs)
if not whole then stop(jobs, problem) end
ask("rm -rf " .. quote(folder))

for lua in pairs(passed) do
  if passed[lua] == 0 then
    total.failed = total.failed + 1
    say(("%-8s FAILED: nothing passed\n"):format(lua))
  end
end
if total.skipped > 0 then
  say(("%d skipped, each with its reason above\n"):format(total.skipped))
end
say(("%d passed, %d failed\n"):format(total.passed, total.failed))
os.exit(total.failed == 0 and 0 or 1)
