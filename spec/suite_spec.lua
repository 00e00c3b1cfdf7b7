-- Of the suite itself: what a spec starts dies with it.
package.path = "./spec/?.lua;" .. package.path

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
    return said:match "^kept (%d+) [%d.]+\n$"
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
