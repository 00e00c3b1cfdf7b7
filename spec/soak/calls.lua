--- The calls of the soak: what a program does all day, and all that can go wrong meanwhile. Each kind says what has to
--- come of it, so that a soak is a test, too.
local emulator_server = require "integrations.emulator.server"
local fault_control = require "support.fault_control"
local fault_table = require "support.fault_table"
local operations = require "support.fault_operations"
local process = require "support.process"
local sendgrid = require "integrations.sendgrid"
local services = require "support.fault_services"

local calls = {}

-- The keys that the service has. The second may only read.
local KEY, READER = "SG.test.canary", "SG.test.reader"
local KEYS = {
  [KEY] = { user_id = "10000001" },
  [READER] = { user_id = "10000001", scopes = { "marketing.integrations.read" } },
}
local FAULT_COUNT = #fault_table.rows
-- What a fault may take, so that silence does not make up the soak.
local FAULT_TIMEOUT = 0.03 * math.min(process.slowness, 8)

--- What the emulator does not do by itself, below a path each.
local LOCATIONS = [[
  lua_socket_log_errors off;
  location /500/ { default_type application/json; return 500 '{"errors":[{"message":"internal error"}]}'; }
  location /429/ { add_header retry-after 60 always; return 429; }
  location /page/ { default_type text/html; return 200 "<html>It works</html>"; }
  location /redirect/ { return 302 /; }
  location /cut-json/ { default_type application/json; return 200 '{"result":[{"integration_id":'; }
  location /silent/ { content_by_lua_block { ngx.req.read_body() ngx.sleep(0.05) ngx.exit(444) } }
  location /hang-up/ { content_by_lua_block { ngx.req.read_body() ngx.exit(444) } }
  location /short/ {
    content_by_lua_block {
      ngx.req.read_body()
      ngx.header["content-length"] = 1000
      ngx.print('{"result":[')
      ngx.flush(true)
      ngx.exit(444)
    }
  }
  location /large/ {
    default_type application/json;
    content_by_lua_block { ngx.print('{"result":[],"fill":"', ("x"):rep(200000), '"}') }
  }
]]

local input = {
  destination = "Segment",
  filters = { email_events = { "open", "click" } },
  properties = { write_key = "a123456", destination_region = "EU" },
  label = "Soak",
}

--- A result; or a failure of this kind.
local function expect(kind, result, failed)
  local got = result == nil and failed.kind or "a result"
  if got ~= (kind or "a result") then
    error(("expected %s, got %s"):format(kind or "a result", result == nil and tostring(failed) or got), 2)
  end
  return result
end

local function changed(field, value)
  local copy = {}
  for name, kept in pairs(input) do copy[name] = kept end
  copy[field] = value
  return copy
end

-- Every fault that there is, under each operation in turn. What has to come of them is another spec's affair; here
-- they only have to happen.
local function fault_kind(faulty, open)
  local function client_for(scheme, port)
    return open(("%s://127.0.0.1:%d"):format(scheme, port), {
      ca_file = faulty.authority, max_attempts = 1, timeout = FAULT_TIMEOUT,
    })
  end
  local plain, tls = client_for("http", faulty.ports.plain), client_for("https", faulty.ports.tls)
  local turn = 0
  return function()
    local row = fault_table.rows[turn % FAULT_COUNT + 1]
    local round = math.floor(turn / FAULT_COUNT)
    local operation = operations[operations.names[(turn + round) % #operations.names + 1]]
    turn = turn + 1
    local client = row.tls and tls or plain
    local id = faulty:reset()
    if row.reused then client.integrations:list() end
    if row.reused == "dead" then faulty:hang_up() end
    faulty:arm(row.name, { from_second = row.reused == true or nil })
    operation.call(client.integrations, id)
    faulty:disarm()
    return row.reused and 2 or 1
  end
end

--- The kinds of calls. `share` is how many rounds of all shares together are of this kind, and a round may be several
--- calls: `run` returns how many of them went to a server, since what is refused before costs next to nothing.
---@return { name: string, share: integer, run: fun(): integer }[]
local function kinds_of(url, faulty, open)
  local sg = open(url)
  local alice = sg:as "alice"
  local kinds = {}

  local function add(name, share, run)
    kinds[#kinds + 1] = { name = name, share = share, run = run }
  end

  add("life", 100, function()
    local made = expect(nil, sg.integrations:create(input))
    local id = made.integration_id
    expect(nil, sg.integrations:get(id))
    expect(nil, sg.integrations:update(id, { label = "Other" }))
    expect(nil, sg.integrations:add_events(id, { "drop", "bounce" }))
    expect(nil, sg.integrations:remove_events(id, { "drop", "open" }))
    expect(nil, sg.integrations:delete(id))
    return 6
  end)

  local segment = services.segments.seed
  add("life of a segment", 30, function()
    local id = expect(nil, sg.segments:create(segment)).id
    expect(nil, sg.segments:get(id))
    expect(nil, sg.segments:update(id, { name = "Other" }))
    expect(nil, sg.segments:find { name = "Other" })
    expect("invalid", sg.segments:create { name = "", parent_list_ids = { 1, 2 } })
    expect(nil, sg.segments:delete(id))
    expect("not_found", sg.segments:get(id))
    return 6
  end)

  local rc, webhook = services.open("rocketchat", { url = url }), services.rocketchat.seed
  add("life of a webhook", 30, function()
    local id = expect(nil, rc.integrations:create(webhook))._id
    expect(nil, rc.integrations:change(id, { name = "Other", channel = { "#a", "#b" } }))
    for integration in rc.integrations:each() do assert(integration.name == "Other") end
    expect("invalid", rc.integrations:update(id, { type = "webhook-outgoing", urls = {}, nmae = 1 }))
    expect(nil, rc.integrations:delete(webhook.type, id))
    expect("not_found", rc.integrations:get(id))
    return 6
  end)

  add("list", 200, function()
    expect(nil, sg.integrations:list())
    for integration in alice.integrations:each() do assert(integration.label) end
    return 2
  end)

  add("find", 50, function()
    expect(nil, alice.integrations:find { label = "Kept", ["properties.destination_region"] = "EU" })
    return 1
  end)

  add("ensure", 30, function()
    expect(nil, alice.integrations:ensure(changed("label", "Kept")))
    return 1
  end)

  add("delete_many", 20, function()
    local ids = { "no-such-id" }
    for i = 1, 3 do ids[i + 1] = expect(nil, sg.integrations:create(input)).integration_id end
    local report = expect(nil, sg.integrations:delete_many(ids))
    assert(not report.ok and #report == 4)
    return 4
  end)

  add("subuser", 50, function()
    expect(nil, expect(nil, sg:as("subuser " .. math.random(20))).integrations:list())
    return 1
  end)

  add("refused before it is sent", 200, function()
    expect("invalid", sg.integrations:create(changed("destination", "Segmnt")))
    expect("invalid", sg.integrations:create { filters = { email_events = { "opne", 1, {} } }, colour = "blue" })
    expect("invalid", sg.integrations:get "..")
    expect("invalid", sg.integrations:update("a", {}))
    expect("invalid", sendgrid.new { api_key = "a\nb", base_url = "ftp://x", timeout = -1 })
    assert(not pcall(sg.integrations.list))
    return 0
  end)

  add("refused by the service", 100, function()
    expect("not_found", sg.integrations:get "no-such-id")
    expect("not_found", sg.integrations:delete "no-such-id")
    expect("rejected", sg.integrations:create(changed("properties", { write_key = "ab", destination_region = "EU" })))
    return 3
  end)

  for key, kind in pairs { [READER] = "forbidden", ["SG.test.nobody"] = "unauthorized" } do
    local other = open(url, { api_key = key })
    add(kind, 10, function()
      expect(kind, other.integrations:create(input))
      return 1
    end)
  end

  -- A connection each: these come to an end with it, or would keep the others from theirs.
  local broken = {
    { "500", "server", 30 }, { "429", "rate_limited", 30 }, { "page", "protocol", 30 },
    { "redirect", "protocol", 20 }, { "cut-json", "protocol", 30 }, { "hang-up", "network", 30 },
    { "short", "protocol", 20 }, { "silent", "timeout", 2, 0.02 },
  }
  for _, row in ipairs(broken) do
    local path, kind, share, timeout = (table.unpack or unpack)(row)
    local failing = open(url .. "/" .. path, { max_attempts = 1, timeout = timeout })
    add(path, share, function()
      expect(kind, failing.integrations:list())
      expect(kind, failing.integrations:create(input))
      return 2
    end)
  end

  local again = open(url .. "/hang-up", { max_attempts = 2 })
  add("tried again", 1, function()
    expect("network", again.integrations:list())
    return 1
  end)

  local large = open(url .. "/large")
  add("a large answer", 5, function()
    expect(nil, large.integrations:list())
    return 1
  end)

  local dead = open("http://127.0.0.1:1", { max_attempts = 1 })
  add("nobody listens", 10, function()
    expect("network", dead.integrations:list())
    return 1
  end)

  local told = 0
  local watched = open(url, { on_event = function(event)
    told = told + 1
    assert(event.name)
    if told % 10 == 0 then error "what a listener raises is its own" end
  end })
  add("a listener", 50, function()
    expect(nil, watched.integrations:list())
    return 1
  end)

  add("a client opened and closed", 20, function()
    local client = open(url)
    expect(nil, client.integrations:list())
    client:close()
    client:close()
    expect("closed", client.integrations:list())
    return 1
  end)

  add("a client forgotten", 5, function()
    expect(nil, open(url).integrations:list())
    return 1
  end)

  add("a fault", 80, fault_kind(faulty, open))

  return kinds
end

-- Which kind is whose turn: a fixed order that mixes them, the same in every soak.
local function order_of(kinds)
  local order = {}
  for _, kind in ipairs(kinds) do
    for _ = 1, kind.share do order[#order + 1] = kind end
  end
  local state = 1
  for i = #order, 2, -1 do
    state = state * 16807 % 2147483647
    local j = state % i + 1
    order[i], order[j] = order[j], order[i]
  end
  return order
end

-- Has every kind of call and every fault happen once: what a client keeps for later grows then.
local function warm_up(kinds)
  for _, kind in ipairs(kinds) do
    for _ = 1, kind.name == "a fault" and FAULT_COUNT or 1 do kind.run() end
  end
end

--- Starts the servers, opens the clients and lets everything happen once.
---@return fun(count: integer): integer run makes at least so many calls, and says how many it made
---@return fun() stop
function calls.start()
  local server = assert(emulator_server.start { locations = LOCATIONS, options = { keys = KEYS,
    rocketchat_users = services.emulator_options.rocketchat_users } })
  local faulty = fault_control.start()
  local function open(url, options)
    options = options or {}
    options.api_key = options.api_key or KEY
    options.base_url = url
    return assert(sendgrid.new(options))
  end
  local kinds = kinds_of(server.url, faulty, open)
  local order = order_of(kinds)
  warm_up(kinds)
  local turn = 0
  local function run(count)
    local made = 0
    while made < count do
      turn = turn % #order + 1
      local ok, result = pcall(order[turn].run)
      if not ok then error(("%s: %s"):format(order[turn].name, result), 0) end
      made = made + result
    end
    return made
  end
  return run, function()
    faulty:stop()
    server:stop()
  end
end

return calls
