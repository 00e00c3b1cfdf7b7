-- Runs lint, then every spec on every Lua, and ends in one line: "N passed, N failed".
--
--   lua5.4 spec/support/run.lua "lua5.4 luajit" spec/retry_spec.lua ...        (`make test` does)
--
-- Each spec file has a process of its own: a crash or a hang costs one file, and is named.
-- Written for any Lua from 5.1 on, since it runs on the first one of the list.

-- In the foreground, so that Ctrl-C reaches busted.
local BUSTED = "exec timeout --foreground -k 5 300 %s \"$(command -v busted)\" --output=plainTerminal %s"

-- The keys that the specs' clients have. They are secrets, so nothing may write them.
local CANARIES = { "SG.test.canary", "SG.emulator.full" }

local make = os.getenv("MAKE") or "make"
-- Set by `make asan` and `make valgrind`, whose folder has the commands that watch, and the reports they write.
local instrumented = os.getenv("INTEGRATIONS_INSTRUMENTED")
local folder = instrumented and "build/" .. instrumented
local total = { passed = 0, failed = 0, skipped = 0 }

local function say(...)
  io.write(...)
  io.flush()
end

-- Returns what a shell command wrote, and its exit status. Through a file, because a server that a spec has
-- forgotten would hold a pipe open for ever.
local function run(command)
  local log = os.tmpname()
  os.execute(("( %s ) >%s 2>&1 </dev/null; echo \"status $?\" >>%s"):format(command, log, log))
  local file = assert(io.open(log, "rb"))
  local output, status = file:read("*a"):match("^(.*)status (%d+)\n")
  file:close()
  os.remove(log)
  if not status then
    os.exit(130) -- the shell itself was stopped: Ctrl-C
  end
  return output, tonumber(status)
end

-- A step that is not a spec shows up in the count only when it fails.
local function check(title, command)
  say(("%-8s %s\n"):format(title, command))
  local output, status = run(command)
  say(output)
  if status ~= 0 then
    total.failed = total.failed + 1
    say(("%-8s FAILED: %s\n"):format(title, command))
  end
  return status == 0
end

-- Reads busted's last summary; nil when it printed none.
local function read_summary(output)
  local pattern = "(%d+) success%a* / (%d+) failure%a* / (%d+) error%a* / (%d+) pending : ([%d.]+)"
  local summary
  for passed, failures, errors, skipped, seconds in output:gmatch(pattern) do
    summary = {
      passed = tonumber(passed), failed = failures + errors, skipped = tonumber(skipped), seconds = tonumber(seconds),
    }
  end
  return summary
end

-- The reports on the processes that a spec started, too. One that is still running may have begun an empty one.
local function take_reports()
  return folder and run(("find %s/reports -type f -size +0 -exec cat {} + -exec rm {} +"):format(folder)) or ""
end

-- What is wrong although no test failed. A crash after the summary (in a finalizer, say) is: the exit status must
-- agree with it.
local function faults_of(output, status, summary, reports)
  local faults = {}
  if reports ~= "" then
    faults[#faults + 1] = instrumented .. " reports errors"
  end
  for _, canary in ipairs(CANARIES) do
    if output:find(canary, 1, true) then
      faults[#faults + 1] = "a secret was written"
    end
  end
  if status ~= 0 and summary.failed == 0 and not faults[1] then
    faults[#faults + 1] = status == 124 and "took too long" or "exit status " .. status
  end
  return faults
end

-- What a spec wants to be read though all is well: lines that begin so, but for busted's mark for each test.
local function say_notes(lua, output)
  for note in ("\n" .. output):gmatch("\n[-+.*]*report: ([^\n]*)") do
    say(("%-8s   %s\n"):format(lua, note))
  end
end

local function run_spec(lua, environment, spec)
  say(("%-8s %-32s "):format(lua, spec))
  local output, status = run(environment .. BUSTED:format(lua, spec))
  local summary = read_summary(output)
  if status == 0 and not summary then
    output, status = output .. "busted printed no summary\n", 1
  end
  summary = summary or { passed = 0, failed = 0, skipped = 0, seconds = 0 }
  local reports = take_reports()
  local faults = faults_of(output, status, summary, reports)
  summary.failed = summary.failed + #faults
  for name in pairs(total) do
    total[name] = total[name] + summary[name]
  end
  say(("%4d passed"):format(summary.passed),
    summary.failed > 0 and (", %d FAILED"):format(summary.failed) or "",
    faults[1] and (" (%s)"):format(table.concat(faults, ", ")) or "",
    summary.skipped > 0 and (", %d skipped"):format(summary.skipped) or "",
    (" %6.1f s\n"):format(summary.seconds))
  say_notes(lua, output)
  if summary.failed > 0 or summary.skipped > 0 then
    say(output, reports, "\n")
  end
  return summary.passed
end

local function run_lua(lua, specs)
  if not check(lua, ("%s -s LUA=%s all"):format(make, lua)) then
    return
  end
  local environment = run(("%s -s env LUA=%s"):format(make, lua))
  if folder then -- a spec that builds for itself does so with nobody's flags
    environment = environment .. ('unset CFLAGS LDFLAGS\nexport PATH="$PWD/%s/bin:$PATH"\n'):format(folder)
  end
  local passed = 0
  for _, spec in ipairs(specs) do
    passed = passed + run_spec(lua, environment, spec)
  end
  if passed == 0 then
    total.failed = total.failed + 1
    say(("%-8s FAILED: nothing passed\n"):format(lua))
  end
end

local specs = { (table.unpack or unpack)(arg, 2) }
if not instrumented then
  check("lint", make .. " lint")
end
for lua in arg[1]:gmatch("%S+") do
  run_lua(lua, specs)
end

-- Of processes that outlived their spec.
local late = take_reports()
if late ~= "" then
  total.failed = total.failed + 1
  say(late, instrumented, " reports errors after the last spec\n")
end
if total.skipped > 0 then
  say(("%d skipped, each with its reason above\n"):format(total.skipped))
end
say(("%d passed, %d failed\n"):format(total.passed, total.failed))
os.exit(total.failed == 0 and 0 or 1)
