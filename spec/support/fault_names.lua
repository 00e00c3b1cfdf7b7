--- Faults of the host's name, under every operation. The names are support.names', which only a program of its own
--- can have: it makes the calls and says in JSON what it has seen.
local cjson = require "cjson"
local names = require "support.names"
local process = require "support.process"

local fault_names = {}

local PROGRAM = [[
local cjson = require "cjson"
local canary = require "support.canary"
local core = require "integrations.core"
local operations = require "support.fault_operations"
local sendgrid = require "integrations.sendgrid"

local row, repaired, port, authority = %q, %q, %q, %q
local timeout = %s

local function open()
  local sg = assert(sendgrid.new {
    api_key = "SG.test.canary", base_url = "https://" .. row .. ":" .. port, ca_file = authority, timeout = timeout,
  })
  sg.session.transport.sleep = function() end
  return sg
end

local function repair()
  assert(io.open(repaired, "w")):close()
end

-- A timeout that is shorter than a first connection to a right name would not do for finding out.
local function recovers(sg)
  repair()
  sg.session.timeout = 30
  local all, failed = sg.integrations:list()
  return all ~= nil and #all == 1 or tostring(failed)
end

local function try(call)
  os.remove(repaired)
  local sg = open()
  local started = core.now()
  local result, failed = call(sg.integrations, "5a1234")
  local elapsed = core.now() - started
  local seen = { worked = result ~= nil, elapsed = elapsed, timeout = timeout }
  if not result then
    seen.leak = canary.find(failed, "SG.test.canary")
    seen.text = tostring(failed)
    seen.failed = { kind = failed.kind, outcome = failed.outcome, attempts = failed.attempts, code = failed.code }
  end
  seen.recovered = recovers(sg)
  sg:close()
  return seen
end

local seen = {}
for _, name in ipairs(operations.names) do
  seen[name] = try(operations[name].call)
end
seen.ensure = try(function(integrations)
  return integrations:ensure(operations.input)
end)
io.write("seen ", cjson.encode(seen), "\n")
]]

--- As rows of support.fault_table.
fault_names.rows = {
  { name = "missing.invalid", class = "unreachable", kind = "network", code = "CURLE_COULDNT_RESOLVE_HOST" },
  { name = "slow.invalid", class = "unreached", code = "CURLE_OPERATION_TIMEDOUT" },
}

--- Makes all calls against one name. Returns what was seen by the operation's name; `ensure` is among them.
---@param row table
---@param server table of support.fault_control
---@param timeout number
function fault_names.run(row, server, timeout)
  local repaired = os.tmpname()
  local program = PROGRAM:format(row.name, repaired, server.ports.tls, server.authority, tostring(timeout))
  local output = process.run_lua(program, names.environment(repaired))
  os.remove(repaired)
  return cjson.decode((assert(output:match "seen ([^\n]+)", output)))
end

return fault_names
