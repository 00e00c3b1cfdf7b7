-- The soak, but short: it sees a block that is lost with each call, and each kind of call must end as it should.
package.path = "./spec/?.lua;" .. package.path

local process = require "support.process"

local CALLS = math.floor(6000 / process.slowness)

describe("many calls of every kind", function()
  it("end as they should, and the process does not grow", function()
    local output, status = process.run_lua(([[
      arg[1], arg[2] = %d, %d
      dofile "spec/soak/run.lua"
    ]]):format(CALLS, CALLS / 4))
    assert.equal(0, status, output)
    assert.truthy(output:find("\nsteady over %d+ calls\n$"), output)
    print("report: " .. output:match "steady over %d+ calls")
  end)
end)
