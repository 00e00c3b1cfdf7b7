--- The life of an Integration, step by step, against the emulator behind a real nginx; then a segment's, and that of
--- a webhook of Rocket.Chat.
---
---   make demo
local emulator = require "integrations.emulator.server"
local rocketchat = require "integrations.rocketchat"
local sendgrid = require "integrations.sendgrid"

local function say(text, ...)
  print(select("#", ...) > 0 and text:format(...) or text)
end

-- A table as Lua source, so that what came back can be read and copied.
local function show(value, indent)
  if type(value) ~= "table" then
    return type(value) == "string" and ("%q"):format(value) or tostring(value)
  end
  local parts = {}
  for _, element in ipairs(value) do
    parts[#parts + 1] = show(element, indent)
  end
  if #parts > 0 or next(value) == nil then
    return "{ " .. table.concat(parts, ", ") .. " }"
  end
  local inner = indent .. "  "
  for name, field in pairs(value) do
    parts[#parts + 1] = ("%s%s = %s,"):format(inner, name, show(field, inner))
  end
  table.sort(parts)
  return "{\n" .. table.concat(parts, "\n") .. "\n" .. indent .. "}"
end

local function step(title, code)
  say("\n%s\n  %s", title, code)
end

local function came_back(value)
  say("  -> %s", show(value, "     "))
  return value
end

-- Ends the demo with what was expected, unless it is so.
local function expect(condition, what)
  if not condition then
    error("expected " .. what, 0)
  end
end

local function make_two(sg)
  step("Make an integration: forward four kinds of events to a Segment source.",
    'sg.integrations:create { destination = "Segment", filters = …, properties = …, label = "Events" }')
  local created = came_back(assert(sg.integrations:create {
    destination = "Segment",
    filters = { email_events = { "delivered", "open", "click", "bounce" } },
    properties = { write_key = "segment-write-key", destination_region = "EU" },
    label = "Events",
  }))
  local second = assert(sg.integrations:create {
    destination = "Segment",
    filters = { email_events = {} },
    properties = { write_key = "another-write-key", destination_region = "US" },
  })
  say("  -> and a second one, without a label: it is called %q", second.label)
  return created, second
end

local function look(sg, created)
  step("List them all.", "sg.integrations:list()")
  local all = assert(sg.integrations:list())
  for _, integration in ipairs(all) do
    say("  -> %s  %-22s %s", integration.integration_id, integration.label,
      table.concat(integration.filters.email_events, " "))
  end
  expect(#all == 2, "two integrations")
  step("Get one by its id.", ('sg.integrations:get "%s"'):format(created.integration_id))
  local same = assert(sg.integrations:get(created.integration_id))
  say("  -> %s, %s", same.label, same.properties.destination_region)
  expect(same.label == "Events", "the label Events")
end

local function change(sg, created)
  step("Change one field; the others stay.", ('sg.integrations:update("%s", { label = "Opens and clicks" })')
    :format(created.integration_id))
  local changed = assert(sg.integrations:update(created.integration_id, { label = "Opens and clicks" }))
  say("  -> %s, still %s", changed.label, table.concat(changed.filters.email_events, " "))
  step("Forward one more event.", ('sg.integrations:add_events("%s", "spamreport")'):format(created.integration_id))
  changed = assert(sg.integrations:add_events(created.integration_id, "spamreport"))
  say("  -> %s", table.concat(changed.filters.email_events, " "))
  expect(#changed.filters.email_events == 5, "five events")
end

local function ensure(sg, second)
  step("Ensure one, as often as you like: what is there is not made again.",
    'sg.integrations:ensure { destination = "Segment", filters = …, properties = …, label = "Second" }')
  local input = {
    destination = "Segment",
    filters = { email_events = {} },
    properties = { write_key = "another-write-key", destination_region = "US" },
    label = "Second",
  }
  for _, expected in ipairs { "updated", "unchanged" } do
    local integration, done = sg.integrations:ensure(input)
    say("  -> %s is %s", assert(integration, done).label, done)
    expect(done == expected and integration.integration_id == second.integration_id, expected)
  end
end

local function make_mistakes(sg)
  step("Make mistakes. They are found here: nothing is sent, and every one is named.",
    'sg.integrations:create { destination = "segment", filters = { email_events = { "opened" } }, lable = "x" }')
  local none, failure = sg.integrations:create {
    destination = "segment",
    filters = { email_events = { "opened" } },
    lable = "x",
  }
  expect(not none and failure.kind == "invalid" and failure.outcome == "not_applied", "an invalid input")
  for _, fault in ipairs(failure.errors) do
    say("  -> %-24s %s", fault.field, fault.message)
  end
  expect(#failure.errors == 4, "four faults")
  step("Let the server find fault: only it knows which write keys are good.",
    'sg.integrations:create { …, properties = { write_key = "short", destination_region = "EU" } }')
  none, failure = sg.integrations:create {
    destination = "Segment",
    filters = { email_events = {} },
    properties = { write_key = "short", destination_region = "EU" },
  }
  expect(not none and failure.kind == "rejected", "a rejected input")
  say("  -> %s", tostring(failure))
end

local function clean_up(sg, created, second)
  step("Delete both in one request.", ('sg.integrations:delete { "%s", "%s" }')
    :format(created.integration_id, second.integration_id))
  say("  -> %s", tostring(assert(sg.integrations:delete { created.integration_id, second.integration_id })))
  step("Look once more.", ('sg.integrations:get "%s"'):format(created.integration_id))
  local gone, failure = sg.integrations:get(created.integration_id)
  expect(not gone and failure.kind == "not_found", "nothing to be found")
  say("  -> %s", tostring(failure))
  expect(#assert(sg.integrations:list()) == 0, "an empty list")
end

-- ---- the other two services -----------------------------------------------------------------

local function title(text)
  say("\n%s\n%s", text, ("-"):rep(#text))
end

local function segment(sg)
  title "SendGrid's Segments 2.0"
  step("Make a segment; a user's text goes into its query by quote.",
    [[sg.segments:create { name = "O'Briens", query_dsl = "… WHERE last_name = " .. sg.segments:quote "O'Brien" }]])
  local made = assert(sg.segments:create {
    name = "O'Briens",
    query_dsl = "SELECT contact_id, updated_at FROM contact_data WHERE last_name = "
      .. assert(sg.segments:quote "O'Brien"),
  })
  say("  -> %s  %s  %s", made.id, made.status.query_validation, made.query_dsl:match "WHERE.*")
  step("Wait until the service has looked at the query.", ('sg.segments:wait_valid("%s", { timeout = 60 })')
    :format(made.id))
  local valid = assert(sg.segments:wait_valid(made.id, { timeout = 60 }))
  say("  -> %s", valid.status.query_validation)
  step("Find it by its name.", [[sg.segments:find { name = "O'Briens" }]])
  local found = assert(sg.segments:find { name = "O'Briens" })
  expect(#found == 1 and found[1].id == made.id, "one segment of that name")
  say("  -> %s", found[1].id)
  step("Have its contacts counted anew.", ('sg.segments:refresh("%s", { user_time_zone = "Europe/Dublin" })')
    :format(made.id))
  came_back(assert(sg.segments:refresh(made.id, { user_time_zone = "Europe/Dublin" })))
  step("Delete it.", ('sg.segments:delete "%s"'):format(made.id))
  say("  -> %s", tostring(assert(sg.segments:delete(made.id))))
  expect(#assert(sg.segments:list()) == 0, "no segment")
end

local function webhook(url)
  title "Rocket.Chat's integrations"
  local rc = assert(rocketchat.new { url = url, user_id = "emulator", auth_token = "RC.emulator.full" })
  step("Make an outgoing webhook.", 'rc.integrations:create { type = "webhook-outgoing", name = "Deploys", … }')
  local made = assert(rc.integrations:create {
    type = "webhook-outgoing",
    name = "Deploys",
    enabled = true,
    username = "rocket.cat",
    channel = { "#general", "#deploys" },
    scriptEnabled = false,
    event = "sendMessage",
    urls = { "https://example.com/hook" },
    token = "proof",
    triggerWords = "deploy, rollback",
  })
  say("  -> %s in %s on %s", made._id, table.concat(made.channel, " "), table.concat(made.triggerWords, " "))
  step("Change one field: the server may clear what an update leaves out, so this reads, merges and writes.",
    ('rc.integrations:change("%s", { enabled = false })'):format(made._id))
  local changed = assert(rc.integrations:change(made._id, { enabled = false }))
  say("  -> enabled is %s, still on %s", tostring(changed.enabled), table.concat(changed.triggerWords, " "))
  expect(not changed.enabled and #changed.triggerWords == 2, "a webhook that is switched off, and nothing else")
  step("Make an incoming one, and update it: that is sent as it is.",
    'rc.integrations:update(id, { type = "webhook-incoming", name = "Alarms", … })')
  local input = {
    type = "webhook-incoming", name = "Alerts", enabled = true, scriptEnabled = false, username = "rocket.cat",
    channel = "#ops",
  }
  local incoming = assert(rc.integrations:create(input))
  input.name = "Alarms"
  say("  -> %s is called %s now", incoming._id, assert(rc.integrations:update(incoming._id, input)).name)
  step("Take all of them, from all pages, and delete each.", "rc.integrations:find {}")
  for _, integration in ipairs(assert(rc.integrations:find {})) do
    say("  -> %s  %s", integration.type, integration.name)
    assert(rc.integrations:delete(integration.type, integration._id))
  end
  step("Look once more.", ('rc.integrations:get "%s"'):format(made._id))
  local gone, failure = rc.integrations:get(made._id)
  expect(not gone and failure.kind == "not_found", "nothing to be found")
  say("  -> %s", tostring(failure))
  rc:close()
end

local function run(url)
  say("The emulator runs behind nginx at %s", url)
  title "SendGrid's Integrations"
  local sg = assert(sendgrid.new { api_key = "SG.emulator.full", base_url = url })
  local created, second = make_two(sg)
  look(sg, created)
  change(sg, created)
  ensure(sg, second)
  make_mistakes(sg)
  clean_up(sg, created, second)
  segment(sg)
  sg:close()
  webhook(url)
end

local server = assert(emulator.start())
local ok, message = pcall(run, server.url)
assert(server:stop())
if not ok then
  io.stderr:write("\nThe demo failed: ", tostring(message), "\n")
  os.exit(1)
end
say "\nAll went as it should. Next: README.md, or `make emulator` to try your own program against it."
