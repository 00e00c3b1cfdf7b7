-- Faults of a server, met from inside nginx: what the client says of a call is compared with what the server really
-- received and did, as fault_spec does it in plain Lua.
package.path = "./spec/?.lua;" .. package.path

local classes = require "support.fault_classes"
local fault_control = require "support.fault_control"
local fault_table = require "support.fault_table"
local judge = require "support.fault_judge"
local operations = require "support.fault_operations"
local pages = require "support.nginx_pages"

if pages.is_watched or not pages.is_first then
  return pages.report "its faults are met under Lua 5.4 alone, unwatched: inside it is the same"
end

-- A client for as many cases as can be: what one leaves behind is the next one's beginning.
local CALL = [[
  local operations = require "support.fault_operations"
  local timeout = tonumber(argument.timeout)
  local client = inside.shared(argument.base_url .. timeout, { base_url = argument.base_url, timeout = timeout })
  client.session.transport.sleep = function() end -- the waits between attempts have specs of their own
  client.session.budget = require("integrations.retry").new_budget()
  client.session.timeout = tonumber(argument.allowed)
  client.session.rate_limit = nil -- nor may what one case was told hold the next one back
  return operations[argument.operation].call(client.integrations, argument.id)
]]

local WARM_UP = 30 -- seconds that a connection may take to come about

local report = { run = 0, duplicates = 0, right = 0 }
local server, running

-- `allowed`: this call's own time, if it is not the client's.
local function call(row, operation, timeout, id, allowed)
  local base_url = row.tls and "https://127.0.0.1:" .. server.ports.tls or "http://127.0.0.1:" .. server.ports.plain
  local seen = pages.read(running:get(("/call?base_url=%s&timeout=%g&allowed=%g&operation=%s&id=%s"):format(base_url,
    timeout, allowed or timeout, operation.name, id)))
  local text = seen.failed and seen.failed.text
  if text then setmetatable(seen.failed, { __tostring = function() return text end }) end
  return seen
end

-- Makes a call while a fault is there. Returns what is seen of it.
local function call_under(row, operation, timeout)
  local id = server:reset()
  if row.reused then assert.is_table(call(row, operations.list, timeout, id, WARM_UP).result) end
  if row.reused == "dead" then server:hang_up() end
  server:arm(row.name, { from_second = row.reused == true or nil })
  local seen = call(row, operation, timeout, id)
  seen.timeout, seen.id, seen.ledger = timeout, id, server:disarm()
  return seen
end

-- The same client, at once: what the server has is what it gets.
local function check_recovery(row, timeout, complaints)
  local ledger = server:ledger()
  local seen = call(row, operations.list, timeout, "")
  if not (seen.result and operations.list.check(seen.result, ledger)) then
    complaints[#complaints + 1] = judge.complaint_of("does not work afterwards: ", seen.failed)
  end
end

local function case(row, operation)
  it(operation.name .. ": " .. row.name, function()
    report.run = report.run + 1
    local complaints, writes, duplicates, seen = classes.patiently(classes.timeout(row), function(timeout)
      local seen = call_under(row, operation, timeout)
      assert.is_nil(seen.raised)
      local expected = classes.expect(row, operation)
      local complaints = judge.call(row, operation, expected, seen)
      check_recovery(row, timeout, complaints)
      return complaints, operation.method ~= "GET", judge.duplicates(operation, expected.requests, seen), seen
    end)
    report.duplicates = report.duplicates + duplicates
    report.right = report.right + (judge.is_true(writes, seen) and 1 or 0)
    assert.same({}, complaints)
  end)
end

describe("a fault met inside nginx", function()
  setup(function()
    server = fault_control.start()
    running = pages.start(nil, {
      files = pages.settings { api_key = "SG.test.canary", ca_file = server.authority },
      locations = { pages.page("/call", CALL) },
    })
  end)

  teardown(function()
    pages.report(("%d fault cases, %d duplicate writes, %d outcomes right against the ledger"):format(report.run,
      report.duplicates, report.right))
    pages.stop(running)
    server:stop()
  end)

  for _, row in ipairs(fault_table.rows) do
    case(row, operations.get)
    case(row, operations.create)
  end
end)
