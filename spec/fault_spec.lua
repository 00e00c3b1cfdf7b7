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

-- Counted as the cases run.
local report = { run = 0, passed = 0, duplicates = 0, right = 0 }

local server
local clients = {}

local function timeout_of(row)
  return (classes.timeouts[row.class] or TIMEOUT) * math.min(process.slowness, 8)
end

local function open(row, timeout, by_choice)
  return assert(sendgrid.new {
    api_key = KEY,
    base_url = row.tls and "https://127.0.0.1:" .. server.ports.tls or "http://127.0.0.1:" .. server.ports.plain,
    ca_file = server.authority,
    timeout = timeout,
    retry_writes = by_choice,
  })
end

-- One client for as many cases as can be: what one case leaves behind is the next one's beginning.
local function client_for(row, by_choice)
  local timeout = timeout_of(row)
  local name = ("%s %s %s"):format(row.tls and "tls" or "plain", tostring(timeout), tostring(by_choice))
  if not clients[name] then
    clients[name] = open(row, timeout, by_choice)
    -- The waits between attempts have specs of their own, as has what the client keeps of a rate limit.
    clients[name].session.transport.sleep = function() end
    clients[name].session.rate_limit = nil
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

-- A case, which is counted. Its function returns complaints, whether the call was to change something, how many writes
-- were doubled, and what was seen.
local function case(title, run)
  it(title, function()
    report.run = report.run + 1
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

-- Which requests meet the fault, which operation the first of these is, how many the server has of what is to be
-- ensured, and what is done about it where all goes well.
local ensures = {
  { "all requests", meets = "list", input = operations.input, existing = 0, done = "created" },
  { "POST", method = "POST", meets = "create", input = operations.input, existing = 0, done = "created" },
  { "PATCH", method = "PATCH", meets = "update", input = differs, existing = 1, done = "updated" },
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
  unknown = function(variant, seen)
    return #same_as(variant.input, seen.ledger.integrations) <= 1
  end,
  not_applied = function(variant, seen)
    return seen.ledger.changes == 0 and #same_as(variant.input, seen.ledger.integrations) == variant.existing
  end,
  applied = function(variant, seen)
    return is_done(variant.input, seen.ledger.integrations)
  end,
}

local WORKS, UNKNOWN, NOT_APPLIED = { success = true }, { unknown = true }, { not_applied = true }
local WORKS_IN_TIME = { success = true, unknown = true }

-- How much is left for the list depends on the machine.
local slow = { silent = true, stalled = true }

-- What may come of ensure, by what the request that meets the fault comes to: a list that fails is the end of it, and
-- what became of a write the next list shows, which is well. It shows nothing where nothing was carried out: that may
-- still come.
local function ensure_ends(row, variant)
  local expected = classes.expect(row, operations[variant.meets])
  if not expected.outcome then
    return WORKS, expected
  elseif expected.outcome == "not_applied" then
    return NOT_APPLIED, expected
  elseif row.applies == false then
    return UNKNOWN, expected
  end
  return slow[row.class] and WORKS_IN_TIME or WORKS, expected
end

local function judge_ensure_end(row, variant, seen, complain)
  local ends, expected = ensure_ends(row, variant)
  if not ends[seen.failed and seen.failed.outcome or "success"] then
    complain(("not %s, but %s"):format(next(ends), tostring(seen.failed or seen.extra)))
  elseif seen.failed and not expected.kinds[seen.failed.kind] then
    complain(("kind %s, not %s"):format(seen.failed.kind, next(expected.kinds)))
  elseif not seen.failed and seen.extra ~= variant.done then
    complain(("%s, not %s"):format(tostring(seen.extra), variant.done))
  end
end

local function judge_ensure(row, variant, seen)
  local complaints = {}
  local function complain(text)
    complaints[#complaints + 1] = text
  end
  judge_ensure_end(row, variant, seen, complain)
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
    local complaints = judge_ensure(row, variant, seen)
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

-- ---- deadlines ------------------------------------------------------------------------------

-- The attempts have one deadline, which counts the waits between them: here they are real. The second attempt meets
-- silence, so that a deadline of its own would be seen.
local function deadline_case(operation)
  local first = fault_table.by_name["100 ms of latency, then a reset"]
  case(("%s: %s, then silence"):format(operation.name, first.name), function()
    local timeout = 0.5 * math.min(process.slowness, 8)
    local client = open(first, timeout)
    local seen = call_under(first, client, timeout, operation.call, { first = 1, next = "silence" })
    local complaints = {}
    local function complain(text)
      complaints[#complaints + 1] = text
    end
    judge.always(seen, complain)
    local kind = seen.failed and seen.failed.kind
    if kind ~= "timeout" and kind ~= "network" then complain("kind " .. tostring(kind)) end
    if #seen.ledger.requests < 2 then complain(#seen.ledger.requests .. " requests") end
    client:close()
    return complaints, false, 0, seen
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
    seen.ledger = { requests = {}, changes = all.ledger.changes, received = { plain = "", tls = "", elsewhere = "" },
      complaints = all.ledger.complaints }
    local operation = operations[name] or operations.list
    local complaints = judge.call(row, operation, classes.expect(row, operation), seen)
    local requests = #all.ledger.requests
    if requests ~= #operations.names + 1 then complaints[#complaints + 1] = requests .. " requests" end
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
      report.passed, report.run, report.duplicates, report.right))
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

  describe("of one attempt after another", function()
    deadline_case(operations.list)
    deadline_case(operations.get)
  end)

  it("doubled no write, and nothing that was said of one was wrong, in as many cases as there should be", function()
    assert.same({ duplicates = 0, right = report.run, passed = report.run, run = report.run }, report)
    assert.is_true(report.passed >= AT_LEAST, report.passed .. " cases")
  end)
end)
