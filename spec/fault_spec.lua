-- Every fault that a server or a network can have, under every operation: what the client says of a call is compared
-- with what a server really received and did.
package.path = "./spec/?.lua;" .. package.path

local classes = require "support.fault_classes"
local core = require "integrations.core"
local fault_control = require "support.fault_control"
local fault_names = require "support.fault_names"
local fault_table = require "support.fault_table"
local judge = require "support.fault_judge"
local operations = require "support.fault_operations"
local process = require "support.process"
local retry = require "integrations.retry"
local sendgrid = require "integrations.sendgrid"

local KEY = "SG.test.canary"
local TIMEOUT = 5
local AT_LEAST = 225

-- Counted as the cases run; `cases` as they are declared.
local report = { cases = 0, passed = 0, duplicates = 0, right = 0 }

local server
local clients = {}

local function timeout_of(row)
  return (classes.timeouts[row.class] or TIMEOUT) * math.min(process.slowness, 8)
end

-- One client for as many cases as can be: what one case leaves behind is the next one's beginning.
local function client_for(row, by_choice)
  local timeout = timeout_of(row)
  local scheme = row.tls and "tls" or "plain"
  local name = ("%s %s %s"):format(scheme, tostring(timeout), tostring(by_choice))
  if not clients[name] then
    clients[name] = assert(sendgrid.new {
      api_key = KEY,
      base_url = (row.tls and "https" or "http") .. "://127.0.0.1:" .. server.ports[scheme],
      ca_file = server.authority,
      timeout = timeout,
      retry_writes = by_choice,
    })
    clients[name].session.transport.sleep = function() end -- the waits between attempts have specs of their own
  end
  clients[name].session.budget = retry.new_budget()
  return clients[name], timeout
end

-- Makes a call while a fault is there. Returns what is seen of it.
local function call_under(row, client, timeout, call, options)
  local id = server:reset()
  if row.reused then assert(client.integrations:list()) end
  if row.reused == "dead" then server:hang_up() end
  options = options or {}
  options.from_second = row.reused == true or nil
  server:arm(row.name, options)
  local started = core.now()
  local result, extra = call(client.integrations, id)
  local seen = { result = result, elapsed = core.now() - started, timeout = timeout, id = id }
  seen.failed = result == nil and extra or nil
  seen.extra = extra
  seen.ledger = server:disarm()
  return seen
end

-- Declares a case, and counts it. Its function returns complaints, whether the call was to change something, how many
-- writes were doubled, and what was seen.
local function case(title, run)
  report.cases = report.cases + 1
  it(title, function()
    local complaints, writes, duplicates, seen = run()
    report.duplicates = report.duplicates + duplicates
    report.right = report.right + (judge.is_true(writes, seen) and 1 or 0)
    assert.same({}, complaints)
    report.passed = report.passed + 1
  end)
end

-- The same client, at once: what the server has is what it gets.
local function check_recovery(client, complaints)
  local ledger = server:ledger()
  local all, failed = client.integrations:list()
  if not all then
    complaints[#complaints + 1] = "does not work afterwards: " .. tostring(failed)
  elseif not operations.list.check(all, ledger) then
    complaints[#complaints + 1] = "lists afterwards what is not there"
  end
end

local function operation_case(row, operation, by_choice)
  case(operation.name .. ": " .. row.name, function()
    local client, timeout = client_for(row, by_choice)
    local seen = call_under(row, client, timeout, operation.call)
    local expected = classes.expect(row, operation, by_choice)
    local complaints = judge.call(row, operation, expected, seen)
    check_recovery(client, complaints)
    return complaints, operation.method ~= "GET", judge.duplicates(operation, expected.requests, seen), seen
  end)
end

-- ---- ensure ---------------------------------------------------------------------------------

local differs = {
  destination = "Segment",
  filters = { email_events = { "drop" } },
  properties = { write_key = "a123456", destination_region = "EU" },
}

-- Which requests meet the fault, and whether the server has what is to be ensured.
local ensures = {
  { "all requests", input = operations.input, existing = 0 },
  { "POST", method = "POST", input = operations.input, existing = 0 },
  { "PATCH", method = "PATCH", input = differs, existing = 1 },
}

-- Before there is a request there is no method.
local function is_by_method(row)
  return not (row.meet or row.greet or row.closed or row.class == "distrusted" or row.tls == "old_protocol"
    or row.reused == "dead")
end

local function same_as(input, integrations)
  local same = {}
  for _, integration in ipairs(integrations) do
    if integration.properties.write_key == input.properties.write_key then same[#same + 1] = integration end
  end
  return same
end

local function is_done(input, integrations)
  local same = same_as(input, integrations)
  return #same == 1 and table.concat(same[1].filters.email_events) == "drop"
end

-- What must be true of the server, by what the client says.
local ensure_truths = {
  unknown = function()
    return true
  end,
  not_applied = function(variant, seen)
    return seen.ledger.changes == 0 and #same_as(variant.input, seen.ledger.integrations) == variant.existing
  end,
  applied = function(variant, seen)
    return is_done(variant.input, seen.ledger.integrations)
  end,
}

local function judge_ensure(variant, seen)
  local complaints = {}
  local function complain(text)
    complaints[#complaints + 1] = text
  end
  local outcome = seen.failed and seen.failed.outcome or "applied"
  if not ensure_truths[outcome](variant, seen) then
    complain(("%d changes, and the client says %s"):format(seen.ledger.changes, tostring(seen.failed or seen.extra)))
  end
  judge.always(seen, complain)
  return complaints
end

local function check_ensured(client, variant, complaints)
  local ensured, failed = client.integrations:ensure(variant.input)
  if not ensured then
    complaints[#complaints + 1] = "cannot be ensured afterwards: " .. tostring(failed)
  elseif not is_done(variant.input, server:ledger().integrations) then
    complaints[#complaints + 1] = "is not there once after it was ensured again"
  end
end

local function ensure_case(row, variant)
  case(("%s of ensure: %s"):format(variant[1], row.name), function()
    local client, timeout = client_for(row)
    local seen = call_under(row, client, timeout, function(integrations)
      return integrations:ensure(variant.input)
    end, { method = variant.method })
    local complaints = judge_ensure(variant, seen)
    check_ensured(client, variant, complaints)
    local doubled = #same_as(variant.input, server:ledger().integrations) - 1
    return complaints, seen.extra == "created" or seen.extra == "updated", math.max(0, doubled), seen
  end)
end

-- ---- writes that may be repeated ------------------------------------------------------------

local by_choice = { unanswered = true, resent = true, failing = true, failing_once = true }

-- What the repeat of a write meets whose first attempt is unknown: whatever it says, it does not say what became of
-- the first.
local repeats = {
  { "update", "404" }, { "update", "400" }, { "update", "403" }, { "update", "301 to /v3/elsewhere" },
  { "update", "501" }, { "update", "429, Retry-After beyond the deadline" },
  { "delete", "400" }, { "delete", "403" }, { "delete", "501" }, { "delete", "429, Retry-After beyond the deadline" },
}

local lost = { "closed after the request", "closed after the request, which is not carried out" }

local function repeat_case(operation, first, second)
  local row = fault_table.by_name[second]
  case(("%s: %s, then %s"):format(operation.name, first, second), function()
    local client, timeout = client_for(row, true)
    local options = { first = 1, next = second }
    local seen = call_under(fault_table.by_name[first], client, timeout, operation.call, options)
    local expected = classes.expect(row, operation)
    expected.outcome, expected.attempts, expected.requests = "unknown", 2, 2
    local complaints = judge.call(row, operation, expected, seen)
    check_recovery(client, complaints)
    return complaints, true, judge.duplicates(operation, 2, seen), seen
  end)
end

local function settled_case(operation, first)
  case(("%s: %s, then well"):format(operation.name, first), function()
    local row = fault_table.by_name[first]
    local client, timeout = client_for(row, true)
    local seen = call_under(row, client, timeout, operation.call, { first = 1 })
    local complaints = judge.call(row, operation, { requests = 2 }, seen)
    check_recovery(client, complaints)
    return complaints, true, judge.duplicates(operation, 2, seen), seen
  end)
end

-- ---- names ----------------------------------------------------------------------------------

-- What a program has seen of one name, and the ledger of all its calls: nothing but the lists that worked afterwards.
local function names_of(row)
  local seen
  return function()
    if not seen then
      server:reset()
      server:arm "nothing wrong"
      seen = fault_names.run(row, server, timeout_of(row))
      seen.ledger = server:disarm()
    end
    return seen
  end
end

local function name_case(name, row, seen_by)
  case(("%s: %s"):format(name, row.name), function()
    local all = seen_by()
    local seen = all[name]
    setmetatable(seen.failed, { __tostring = function() return seen.text end })
    seen.ledger = { requests = {}, changes = all.ledger.changes, received = { plain = "", tls = "", elsewhere = "" } }
    local operation = operations[name] or operations.list
    local complaints = judge.call(row, operation, classes.expect(row, operation), seen)
    local requests = #all.ledger.requests
    if requests ~= #operations.names + 1 then complaints[#complaints + 1] = requests .. " requests" end
    if seen.failed.code ~= row.code then complaints[#complaints + 1] = seen.text end
    complaints[#complaints + 1] = seen.leak
    complaints[#complaints + 1] = seen.recovered ~= true and seen.recovered or nil
    return complaints, false, 0, seen
  end)
end

-- ---- all of it ------------------------------------------------------------------------------

describe("a fault", function()
  setup(function()
    server = fault_control.start()
  end)

  teardown(function()
    for _, client in pairs(clients) do client:close() end
    server:stop()
    print(("\nreport: %d fault cases passed of %d, %d duplicate writes, %d outcomes right against the ledger"):format(
      report.passed, report.cases, report.duplicates, report.right))
  end)

  for _, row in ipairs(fault_table.rows) do
    for _, name in ipairs(operations.names) do
      operation_case(row, operations[name])
    end
  end

  describe("of the name", function()
    for _, row in ipairs(fault_names.rows) do
      local seen_by = names_of(row)
      for _, name in ipairs(operations.names) do
        name_case(name, row, seen_by)
      end
      name_case("ensure", row, seen_by)
    end
  end)

  describe("of writes that are repeated by choice", function()
    for _, row in ipairs(fault_table.rows) do
      for _, name in ipairs(by_choice[row.class] and { "create", "update", "delete" } or {}) do
        operation_case(row, operations[name], true)
      end
    end
    for _, first in ipairs(lost) do
      settled_case(operations.update, first)
      settled_case(operations.delete, first)
      for _, pair in ipairs(repeats) do
        repeat_case(operations[pair[1]], first, pair[2])
      end
    end
  end)

  describe("of", function()
    for _, row in ipairs(fault_table.rows) do
      for _, variant in ipairs(ensures) do
        if not variant.method or is_by_method(row) then ensure_case(row, variant) end
      end
    end
  end)

  it("has as many cases as it should", function()
    assert.is_true(report.cases >= AT_LEAST)
  end)
end)
