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
local services = require "support.fault_services"

local WARM_UP = 30 -- seconds that a connection may take to come about
-- Where a sanitizer or valgrind watches, one service is enough: the C is the same for all.
local others = process.instrumented and {} or operations.others
-- One for each row under each operation, and then those that are put together here.
local AT_LEAST = #fault_table.rows * (#operations.names + #others)

-- Counted as the cases run.
local report = { run = 0, passed = 0, duplicates = 0, right = 0 }

local server
local clients = {}

local function open(row, timeout, by_choice, service)
  return services.open(service or "integrations", {
    url = row.tls and "https://127.0.0.1:" .. server.ports.tls or "http://127.0.0.1:" .. server.ports.plain,
    ca_file = server.authority,
    timeout = timeout,
    retry_writes = by_choice,
  })
end

-- One client for as many cases as can be: what one case leaves behind is the next one's beginning.
local function client_for(row, timeout, by_choice, service)
  local module = services[service or "integrations"].client
  local name = ("%s %s %s %s"):format(module, row.tls and "tls" or "plain", tostring(timeout), tostring(by_choice))
  if not clients[name] then
    clients[name] = open(row, timeout, by_choice, service)
    -- The waits between attempts have specs of their own, as has what the client keeps of a rate limit.
    clients[name].session.transport.sleep = function() end
    clients[name].session.rate_limit = nil
  end
  clients[name].session.budget = retry.new_budget()
  return clients[name]
end

-- Makes a call while a fault is there. Returns what is seen of it.
local function call_under(row, client, timeout, call, options, service)
  service = service or "integrations"
  local id = select(2, server:reset())[service]
  if row.reused then
    client.session.timeout = WARM_UP
    assert(client.integrations:list())
    client.session.timeout = timeout
  end
  if row.reused == "dead" then server:hang_up() end
  options = options or {}
  options.from_second = row.reused == true or nil
  server:arm(row.name, options)
  local started = core.now()
  local result, extra = call(client[services[service].part], id)
  local seen = { result = result, elapsed = core.now() - started, timeout = timeout, id = id }
  seen.failed = result == nil and extra or nil
  seen.extra = extra
  seen.ledger = server:disarm()
  return seen
end

-- A case, which is counted. Its function takes a timeout, and returns complaints, whether the call was to change
-- something, how many writes were doubled, and what was seen.
local function case(title, timeout, run)
  it(title, function()
    report.run = report.run + 1
    local complaints, writes, duplicates, seen = classes.patiently(timeout, run)
    report.duplicates = report.duplicates + duplicates
    report.right = report.right + (judge.is_true(writes, seen) and 1 or 0)
    assert.same({}, complaints)
    report.passed = report.passed + 1
  end)
end

-- The same client, at once: what the server has is what it gets.
local function check_recovery(client, complaints, service)
  service = service or "integrations"
  local ledger = server:ledger()
  local all, failed = client[services[service].part]:list()
  if not all then
    complaints[#complaints + 1] = judge.complaint_of("does not work afterwards: ", failed)
  elseif not operations.lists(service, all, ledger) then
    complaints[#complaints + 1] = "lists afterwards what is not there"
  end
end

local function operation_case(row, operation, by_choice)
  case(operation.name .. ": " .. row.name, classes.timeout(row), function(timeout)
    local client = client_for(row, timeout, by_choice, operation.service)
    local seen = call_under(row, client, timeout, operation.call, nil, operation.service)
    local expected = classes.expect(row, operation, by_choice)
    local complaints = judge.call(row, operation, expected, seen)
    check_recovery(client, complaints, operation.service)
    return complaints, operation.method ~= "GET", judge.duplicates(operation, expected.requests, seen), seen
  end)
end

-- ---- writes that are settled by looking -----------------------------------------------------

local differs = {
  destination = "Segment",
  filters = { email_events = { "drop" } },
  properties = { write_key = "a123456", destination_region = "EU" },
}

local function ensures(input)
  return {
    service = "integrations",
    call = function(integrations)
      return integrations:ensure(input)
    end,
    is_same = function(integration)
      return integration.properties.write_key == input.properties.write_key
    end,
    is_done = function(integration)
      return table.concat(integration.filters.email_events) == "drop"
    end,
  }
end

-- Names are unique, so that what was made need not be made again.
local creates = {
  service = "segments",
  call = function(segments)
    local found, failed = segments:find { name = "Made" }
    if not found or found[1] then return found and found[1], failed end
    return segments:create { name = "Made", query_dsl = "SELECT contact_id, updated_at FROM contact_data" }
  end,
  is_same = function(segment)
    return segment.name == "Made"
  end,
  is_done = function()
    return true
  end,
}

-- Which requests meet the fault, which operation the first of these is, what is called, how many the server has of it,
-- and what is done about it where all goes well.
local settled = {
  { "all requests of ensure", meets = "list", of = ensures(operations.input), existing = 0, done = "created" },
  { "POST of ensure", method = "POST", meets = "create", of = ensures(operations.input), existing = 0,
    done = "created" },
  { "PATCH of ensure", method = "PATCH", meets = "update", of = ensures(differs), existing = 1, done = "updated" },
  { "POST of segments.create", method = "POST", meets = "create", of = creates, existing = 0 },
}

-- Before there is a request there is no method.
local function is_by_method(row)
  return not (row.meet or row.greet or row.closed or row.class == "distrusted" or row.tls == "old_protocol"
    or row.reused == "dead")
end

local function same_as(variant, ledger)
  local same = {}
  for _, thing in ipairs(ledger[variant.of.service]) do
    if variant.of.is_same(thing) then same[#same + 1] = thing end
  end
  return same
end

local function is_done(variant, ledger)
  local same = same_as(variant, ledger)
  return #same == 1 and variant.of.is_done(same[1])
end

-- What must be true of the server, by what the client says.
local settled_truths = {
  unknown = function(variant, ledger)
    return #same_as(variant, ledger) <= 1
  end,
  not_applied = function(variant, ledger)
    return ledger.changes == 0 and #same_as(variant, ledger) == variant.existing
  end,
  applied = is_done,
}

local WORKS, UNKNOWN, NOT_APPLIED = { success = true }, { unknown = true }, { not_applied = true }
local WORKS_IN_TIME = { success = true, unknown = true }

-- How much is left for the list depends on the machine.
local slow = { silent = true, stalled = true }

-- What may come of it, by what the request that meets the fault comes to: a list that fails is the end of it, and
-- what became of a write the next list shows, which is well. It shows nothing where nothing was carried out: that may
-- still come.
local function settled_ends(row, variant)
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

local function judge_settled_end(row, variant, seen, complain)
  local ends, expected = settled_ends(row, variant)
  local is_expected = ends[seen.failed and seen.failed.outcome or "success"]
  if not is_expected and judge.ended_early(operations[variant.meets].method, expected, seen) then
    complain(judge.complaint_of("ended early: ", seen.failed))
  elseif not is_expected then
    complain(("not %s, but %s"):format(next(ends), tostring(seen.failed or seen.extra)))
  elseif seen.failed and not expected.kinds[seen.failed.kind] then
    complain(("kind %s, not %s"):format(seen.failed.kind, next(expected.kinds)))
  elseif not seen.failed and seen.extra ~= variant.done then
    complain(("%s, not %s"):format(tostring(seen.extra), tostring(variant.done)))
  end
end

local function judge_settled(row, variant, seen)
  local complaints = {}
  local function complain(text)
    complaints[#complaints + 1] = text
  end
  judge_settled_end(row, variant, seen, complain)
  local outcome = seen.failed and seen.failed.outcome or "applied"
  if not settled_truths[outcome](variant, seen.ledger) then
    complain(("%d changes, and the client says %s"):format(seen.ledger.changes, tostring(seen.failed or seen.extra)))
  end
  judge.always(seen, complain)
  return complaints
end

local function check_again(client, variant, complaints)
  local thing, failed = variant.of.call(client[services[variant.of.service].part])
  if not thing then
    complaints[#complaints + 1] = judge.complaint_of("does not work afterwards: ", failed)
  elseif not is_done(variant, server:ledger()) then
    complaints[#complaints + 1] = "is not there once after it was called again"
  end
end

local function settled_case(row, variant)
  case(("%s: %s"):format(variant[1], row.name), classes.timeout(row), function(timeout)
    local client = client_for(row, timeout)
    local seen = call_under(row, client, timeout, variant.of.call, { method = variant.method }, variant.of.service)
    local complaints = judge_settled(row, variant, seen)
    check_again(client, variant, complaints)
    local doubled = #same_as(variant, server:ledger()) - 1
    return complaints, seen.result ~= nil and seen.extra ~= "unchanged", math.max(0, doubled), seen
  end)
end

-- ---- writes that may be repeated ------------------------------------------------------------

local writes = { "create", "update", "delete" }
for _, name in ipairs(others) do
  if operations[name].method ~= "GET" then table.insert(writes, name) end
end
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
  case(("%s: %s, then %s"):format(operation.name, first, second), classes.timeout(row), function(timeout)
    local client = client_for(row, timeout, true)
    local options = { first = 1, next = second }
    local seen = call_under(fault_table.by_name[first], client, timeout, operation.call, options)
    local expected = classes.expect(row, operation)
    expected.outcome, expected.attempts, expected.requests = "unknown", 2, 2
    local complaints = judge.call(row, operation, expected, seen)
    check_recovery(client, complaints)
    return complaints, true, judge.duplicates(operation, 2, seen), seen
  end)
end

local function repeated_case(operation, first)
  local row = fault_table.by_name[first]
  case(("%s: %s, then well"):format(operation.name, first), classes.timeout(row), function(timeout)
    local client = client_for(row, timeout, true)
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
  local first = fault_table.by_name["latency, then a reset"]
  case(("%s: %s, then silence"):format(operation.name, first.name), 0.3, function(timeout)
    local client = open(first, timeout)
    local seen = call_under(first, client, timeout, operation.call, { first = 1, next = "silence" })
    local complaints = {}
    local function complain(text)
      complaints[#complaints + 1] = text
    end
    judge.always(seen, complain)
    local kind = seen.failed and seen.failed.kind
    if kind ~= "timeout" and kind ~= "network" then complain("kind " .. tostring(kind)) end
    local requests = #seen.ledger.requests
    if requests < 2 then complain(judge.complaint_of(requests .. " requests: ", seen.failed)) end
    client:close()
    return complaints, false, 0, seen
  end)
end

-- ---- names ----------------------------------------------------------------------------------

-- What a program has seen of one name, and the ledger of all its calls: nothing but the lists that worked afterwards.
local function names_of(row)
  local seen = {}
  return function(timeout)
    if not seen[timeout] then
      server:reset()
      server:arm "nothing wrong"
      seen[timeout] = fault_names.run(row, server, timeout)
      seen[timeout].ledger = server:disarm()
    end
    return seen[timeout]
  end
end

local function name_case(name, row, seen_by)
  case(("%s: %s"):format(name, row.name), classes.timeout(row), function(timeout)
    local all = seen_by(timeout)
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
    for _, names in ipairs { operations.names, others } do
      for _, name in ipairs(names) do
        operation_case(row, operations[name])
      end
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
      for _, name in ipairs(by_choice[row.class] and writes or {}) do
        operation_case(row, operations[name], true)
      end
    end
    for _, first in ipairs(lost) do
      repeated_case(operations.update, first)
      repeated_case(operations.delete, first)
      for _, pair in ipairs(repeats) do
        repeat_case(operations[pair[1]], first, pair[2])
      end
    end
  end)

  describe("of", function()
    for _, row in ipairs(fault_table.rows) do
      for _, variant in ipairs(settled) do
        if not variant.method or is_by_method(row) then settled_case(row, variant) end
      end
    end
  end)

  describe("of one attempt after another", function()
    deadline_case(operations.list)
    deadline_case(operations.get)
  end)

  it("was met by a read and a write of each service", function()
    local met = {}
    for _, names in ipairs { operations.names, operations.others } do
      for _, name in ipairs(names) do
        local operation = operations[name]
        met[operation.service .. (operation.method == "GET" and " read" or " write")] = true
      end
    end
    for _, name in ipairs(services.names) do
      assert.same({ true, true }, { met[name .. " read"], met[name .. " write"] })
    end
  end)

  it("doubled no write, and nothing that was said of one was wrong, in as many cases as there should be", function()
    assert.same({ duplicates = 0, right = report.run, passed = report.run, run = report.run }, report)
    assert.is_true(report.passed >= AT_LEAST, report.passed .. " cases")
  end)
end)
