-- Of the suite itself: what a spec starts dies with it, what it should have stopped counts, and what is wrong is not
-- tried again until it is right.
package.path = "./spec/?.lua;" .. package.path

local classes = require "support.fault_classes"
local judge = require "support.fault_judge"
local nginx = require "support.nginx"
local process = require "support.process"

-- Starts all that specs start, and stops none of it.
local PROGRAM = [[
local certificates = require "support.certificates"
local process = require "support.process"
local folder = certificates.new()
local kept = {
  assert(require("integrations.emulator.server").start()),
  require("support.nginx").start { workers = 2 },
  require("support.fault_control").start(),
  require("support.http2_server").start(folder:self_signed "server"),
}
process.shell "sleep 1000 >/dev/null 2>&1 </dev/null & setsid sleep 1000 >/dev/null 2>&1 </dev/null &"
print(process.id())
io.flush()
require("socket").sleep(1000)
]]

local AT_LEAST = 9 -- a program, two masters and three workers of nginx, two servers, two sleepers; a shell or two more

describe("what a spec has started", function()
  local folder, keeper

  setup(function()
    process.shell "env -u MAKEFLAGS -u MAKELEVEL -u CFLAGS -u LDFLAGS make -s build/keep"
    folder = process.new_folder()
    process.write_file(folder .. "/program.lua", PROGRAM)
  end)

  teardown(function()
    process.remove_folder(folder)
  end)

  after_each(function()
    if keeper then keeper:close() end
    keeper = nil
  end)

  --- Starts the program, and waits until it has started all. Returns its process id.
  local function start(command)
    local quote = process.quote
    local environment = ("export LUA_PATH=%s LUA_CPATH=%s TMPDIR=%s; exec "):format(quote(package.path),
      quote(package.cpath), quote(folder))
    keeper = assert(io.popen(environment .. command:format(quote(process.interpreter()),
      quote(folder .. "/program.lua"))))
    return assert(keeper:read "*l":match "^%d+$")
  end

  local function parent_of(pid)
    return process.read_file(("/proc/%s/stat"):format(pid)):match "^.*%) %S (%d+)"
  end

  --- Kills one of them, and waits for the end. Returns what the keeper says of it.
  local function check_gone(keeping, killed)
    local started = process.below(keeping)
    assert.is_true(#started >= AT_LEAST, #started .. " processes")
    process.shell("kill -KILL " .. killed)
    local said = keeper:read "*a"
    for _, pid in ipairs(started) do assert.is_false(nginx.is_running(pid), pid) end
    return said:match "^kept (%d+) [%d.]+ 0\n$"
  end

  it("is gone when the spec is killed", function()
    local program = start "build/keep kept 60 %s %s"
    assert.equal("137", check_gone(parent_of(program), program))
  end)

  it("is gone when the runner is killed", function()
    local program = start "sh -c 'build/keep kept 60 \"$@\" & wait' sh %s %s"
    local keeping = parent_of(program)
    assert.equal("143", check_gone(keeping, parent_of(keeping)))
  end)

  it("is counted when it is there still, some time after a spec that ended by itself", function()
    local left = "sleep 1000 >/dev/null & setsid sleep 1000 >/dev/null & sleep 0.5 >/dev/null &"
    assert.truthy(process.shell("build/keep kept 60 sh -c " .. process.quote(left)):find "^kept 0 [%d.]+ 2\n$")
    assert.truthy(process.shell "build/keep kept 60 sh -c 'sleep 0.1 >/dev/null &'":find "^kept 0 [%d.]+ 0\n$")
  end)

  it("is gone when it takes too long, or Ctrl-C is pressed", function()
    assert.truthy(process.shell "build/keep kept 0.1 sleep 1000":find "^kept 124 ")
    local program = start "build/keep kept 60 %s %s"
    local keeping = parent_of(program)
    local started = process.below(keeping)
    process.shell("kill -INT " .. keeping)
    assert.truthy(keeper:read "*a":find "^kept 130 ")
    for _, pid in ipairs(started) do assert.is_false(nginx.is_running(pid), pid) end
  end)
end)

describe("a check that watches the clock", function()
  local say, said = process.report_repeat, nil

  before_each(function()
    said = {}
    process.report_repeat = function(late) said[#said + 1] = late end
  end)

  after_each(function()
    process.report_repeat = say
  end)

  it("is made again where something came too late, with more time, and it is said", function()
    local scales = {}
    process.patiently(function(scale)
      scales[#scales + 1] = scale
      return #scales < 3 and "late " .. #scales or nil
    end)
    assert.same({ scales[1], scales[1] * 2, scales[1] * 4 }, scales)
    assert.same({ "late 1", "late 2" }, said)
    assert.error_matches(function()
      process.patiently(function() return "always late" end)
    end, "always late")
  end)

  it("is not made again where something is wrong", function()
    local times = 0
    assert.error_matches(function()
      process.patiently(function()
        times = times + 1
        assert(times > 1, "it is wrong")
      end)
    end, "it is wrong")
    assert.same({ 1, {} }, { times, said })
  end)

  --- How often a case is made of which this is seen. `change` makes something else of what is true, but too slow.
  local function times_of(change)
    local times = 0
    local seen = { elapsed = 9, timeout = 0.01, failed = { kind = "timeout", outcome = "not_applied" },
      ledger = { requests = {}, changes = 0, complaints = {}, received = { plain = "", tls = "", elsewhere = "" } } }
    if change then change(seen) end
    classes.patiently(0.01, function()
      times = times + 1
      local complaints = judge.call({}, { method = "POST" },
        { outcome = "unknown", attempts = 1, requests = 1, kinds = { timeout = true } }, seen)
      return complaints, true, 0, seen
    end)
    return times
  end

  it("of a fault is made again where a call had not come as far as the fault, and nothing else is wrong", function()
    assert.is_true(times_of() > 1)
    for title, change in pairs {
      ["it had been sent"] = function(seen) seen.ledger.received.plain = "POST / HTTP/1.1" end,
      ["it was carried out"] = function(seen) seen.ledger.changes = 1 end,
      ["the key is in the failure"] = function(seen) seen.failed.message = "Bearer SG.test.canary" end,
      ["another host was asked"] = function(seen) seen.ledger.received.elsewhere = "GET" end,
      ["it has another kind"] = function(seen) seen.failed.kind = "network" end,
      ["it has another outcome"] = function(seen) seen.failed.outcome = "applied" end,
    } do
      assert.equal(1, times_of(change), title)
    end
  end)
end)
