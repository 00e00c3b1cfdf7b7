-- nginx's processes and requests come and go while calls are in flight.
package.path = "./spec/?.lua;" .. package.path

local nginx = require "support.nginx"
local pages = require "support.nginx_pages"
local socket = require "socket"
local upstream_server = require "support.nginx_upstream"

local page, result = pages.page, pages.result

if pages.is_watched then
  return pages.report "nobody watches its processes; their comings and goings are left to make test"
end

local RELOADS, IN_FLIGHT = 20, 8

local upstream

local function start(options)
  return pages.start(upstream.url, options)
end

-- A client, as Lua source, whose requests meet what is at this path of the upstream.
local function at(path, timeout)
  return ("inside.shared(%q, { base_url = %q, timeout = %g })"):format(path, upstream.url .. path, timeout or 30)
end

-- Lua source: how many calls have met silence so far. In a page a call is in flight once there is one more.
local SILENCED = [[
  local function silenced()
    local connection = ngx.socket.tcp()
    assert(connection:connect("127.0.0.1", PORT))
    assert(connection:send "GET /count HTTP/1.0\r\n\r\n")
    return tonumber(connection:receive "*a":match "\r\n\r\n(%d+)")
  end
  local before = silenced()
  local function wait_for_flight()
    repeat ngx.sleep(0.01) until silenced() > before
  end
]]

-- Seconds for what is done at once: what would not be done takes the half minute that a call may take.
local AT_ONCE = 15

-- ---- load -----------------------------------------------------------------------------------

-- Keeps requests in flight for as long as `goes_on` says, and waits for the last ones. `open` makes one, `check` is
-- given what it was for and its answer. Returns how many there were.
local function load(goes_on, open, check)
  local flying, count = {}, 0
  local going = true
  while going or next(flying) do
    going = going and goes_on()
    while going and #flying < IN_FLIGHT do
      count = count + 1
      flying[#flying + 1] = open(count)
    end
    local sockets = {}
    for i, flight in ipairs(flying) do sockets[i] = flight.request.socket end
    local readable = socket.select(sockets, nil, 0.02)
    for i = #flying, 1, -1 do
      if readable[flying[i].request.socket] then check(table.remove(flying, i)) end
    end
  end
  return count
end

-- A function that reloads nginx each time the workers of the last reload are there, and says whether it still does.
local function reloader(running, reloads)
  local known, left = {}, reloads
  local function new_workers()
    local new = {}
    for _, pid in ipairs(running:workers()) do
      if not known[pid] then new[#new + 1] = pid end
    end
    return new
  end
  return function()
    local new = new_workers()
    if #new < running.count then return true end
    for _, pid in ipairs(new) do known[pid] = true end
    left = left - 1
    if left >= 0 then running:signal "HUP" end
    return left >= 0
  end
end

-- ---- all of it ------------------------------------------------------------------------------

describe("nginx", function()
  setup(function()
    upstream = upstream_server.start()
  end)

  teardown(function()
    pages.stop_all()
    upstream:stop()
  end)

  describe("with calls that nobody waits for any more", function()
    local running, worker

    setup(function()
      upstream:reset()
      local silent, silenced = at "/silent", SILENCED:gsub("PORT", upstream.url:match ":(%d+)$")
      local write = ("return %s.integrations:create(%s)"):format(silent, pages.INPUT)
      running = start {
        locations = {
          page("/read", ("return %s.integrations:list()"):format(silent), "lua_check_client_abort on;"),
          page("/write", write, "lua_check_client_abort on;"),
          page("/unchecked", ("return %s.integrations:list()"):format(at("/silent/unchecked", 0.5))),
          page("/killed", silenced .. ([[
            local thread = ngx.thread.spawn(function() %s.integrations:list() end)
            wait_for_flight()
            return ngx.thread.kill(thread)
          ]]):format(silent)),
          page("/exit", silenced .. ([[
            ngx.thread.spawn(function() %s.integrations:list() end)
            wait_for_flight()
            ngx.exit(204)
          ]]):format(silent)),
          page("/closed", silenced .. ([[
            local client, failed = inside.client { base_url = %q }
            local thread = ngx.thread.spawn(function()
              failed = select(2, client.integrations:create(%s))
            end)
            wait_for_flight()
            client:close()
            ngx.thread.wait(thread)
            return nil, failed
          ]]):format(upstream.url .. "/silent", pages.INPUT)),
          page("/well", [[return inside.shared("well").integrations:list()]]),
        },
      }
      worker = running:workers()[1]
    end)

    teardown(function()
      pages.stop(running)
    end)

    local function leave(path)
      local begun, left = upstream:silenced()
      local request = running:ask(path)
      assert.is_true(nginx.eventually(function() return upstream:silenced() == begun + 1 end), "never sent")
      request:abort()
      assert.is_true(nginx.eventually(function() return select(2, upstream:silenced()) == left + 1 end, AT_ONCE),
        "still in flight")
      assert.same({ begun + 1, left + 1 }, { upstream:silenced() })
    end

    local function assert_well()
      assert.same({}, result(running, "/well"))
      assert.same({ worker }, running:workers())
    end

    for _, name in ipairs { "read", "write" } do
      it("cancels them where lua_check_client_abort is on: a " .. name, function()
        leave("/" .. name)
        assert_well()
      end)
    end

    it("lets them end where it is off", function()
      leave "/unchecked"
      assert_well()
    end)

    local function assert_left(action)
      local _, left = upstream:silenced()
      action()
      assert.is_true(nginx.eventually(function() return select(2, upstream:silenced()) == left + 1 end, AT_ONCE),
        "still in flight")
      assert_well()
    end

    it("cancels them when their thread is killed", function()
      assert_left(function() assert.equal(1, result(running, "/killed")) end)
    end)

    it("cancels them when their request ends", function()
      assert_left(function() assert.equal(204, (running:get "/exit")) end)
    end)

    it("ends them when their client is closed", function()
      assert_left(function()
        local failed = pages.failed(running, "/closed")
        assert.same({ "closed", "unknown" }, { failed.kind, failed.outcome })
      end)
    end)
  end)

  -- Within the tenth of a second between two looks for calls whose light threads are gone.
  describe("with light threads that are killed just before their calls are answered", function()
    local KILL = [[
      local thread = ngx.thread.spawn(function() client.integrations:list() end)
      ngx.sleep(0.04)
      assert(ngx.thread.kill(thread))
    ]]

    local function rests(pid)
      local before = nginx.naps(pid)
      socket.sleep(0.2)
      return nginx.naps(pid) - before < 20
    end

    local function check(code)
      upstream:reset()
      local running = start {
        locations = {
          page("/kill", code:gsub("KILL", KILL) .. " return 'well'"),
          page("/well", [[return inside.shared("well").integrations:list()]]),
        },
      }
      local worker = running:workers()[1]
      assert.equal("well", result(running, "/kill"))
      assert.same({}, result(running, "/well"))
      assert.is_true(nginx.eventually(function() return rests(worker) end), "does not rest")
      assert.same({ worker }, running:workers())
      local seconds = pages.stop(running, "QUIT")
      assert.is_true(seconds < AT_ONCE, seconds)
    end

    it("rests afterwards, and quits at once", function()
      check(("local client = %s for _ = 1, 10 do KILL end"):format(at "/after/60"))
    end)

    it("rests afterwards, and quits at once, though their clients are closed", function()
      check(([[
        for round = 1, 10 do
          local client = inside.client { base_url = %q }
          KILL
          if round %% 2 == 0 then ngx.sleep(0.03) end
          client:close()
        end
      ]]):format(upstream.url .. "/after/60"))
    end)
  end)

  describe("at its end", function()
    local function start_silent(timeout)
      return start {
        workers = 2,
        locations = {
          page("/silent", ("return %s.integrations:list()"):format(at("/silent", timeout))),
          page("/well", [[return inside.shared("well").integrations:list()]]),
        },
      }
    end

    -- Calls that are in flight, and requests that wait for them.
    local function fly(running, count)
      local begun, requests = upstream:silenced(), {}
      for i = 1, count do requests[i] = running:ask "/silent" end
      assert.is_true(nginx.eventually(function() return upstream:silenced() == begun + count end), "never sent")
      return requests
    end

    it("stops at once with calls in flight", function()
      local running = start_silent(30)
      fly(running, 6)
      local seconds = pages.stop(running, "TERM")
      assert.is_true(seconds < AT_ONCE, seconds)
    end)

    it("quits when the calls in flight have ended", function()
      local running = start_silent(1)
      local requests = fly(running, 6)
      local seconds = pages.stop(running, "QUIT")
      assert.is_true(seconds < AT_ONCE, seconds)
      for _, request in ipairs(requests) do assert.equal("timeout", pages.read(request:receive()).failed.kind) end
    end)

    it("quits at once with connections that rest", function()
      local running = start_silent(30)
      for _ = 1, 10 do assert.same({}, result(running, "/well")) end
      local seconds = pages.stop(running, "QUIT")
      assert.is_true(seconds < AT_ONCE, seconds)
    end)

    it("replaces a worker that is ended with calls in flight", function()
      local running = start_silent(30)
      local before = running:workers()
      fly(running, 6)
      running:signal("TERM", before[1])
      assert.is_true(nginx.eventually(function()
        local now = running:workers()
        return #now == 2 and now[1] ~= before[1] and now[2] ~= before[1]
      end), "no new worker")
      for _ = 1, 10 do assert.same({}, result(running, "/well")) end
      pages.stop(running)
    end)
  end)

  if not pages.is_first then
    return pages.report "it is reloaded under load by Lua 5.4 alone: inside it is the same"
  end

  it("loses no request when it is reloaded again and again", function()
    local ids = upstream:reset(20)
    local running = start {
      workers = 2,
      http = 'init_by_lua_block { require("support.nginx_inside").shared "made in init" }',
      locations = {
        -- When the second call begins, the worker may be on its way out.
        page("/twice", ([[
          local first = assert(%s.integrations:get(argument.id))
          local second = assert(inside.shared("made in init").integrations:get(argument.id))
          return first.integration_id .. " " .. second.integration_id
        ]]):format(at "/after/100")),
      },
    }
    local lost = {}
    local count = load(reloader(running, RELOADS), function(number)
      local id = ids[number % #ids + 1]
      return { id = id, request = running:ask("/twice?id=" .. id) }
    end, function(flight)
      local status, body = flight.request:receive()
      local right = ('"result":"%s %s"'):format(flight.id, flight.id)
      if status ~= 200 or not body:find(right, 1, true) then lost[#lost + 1] = tostring(status) .. " " .. body end
    end)
    assert.same({}, lost)
    assert.is_true(nginx.eventually(function() return #running:workers() == 2 end), "old workers stay")
    pages.stop(running)
    pages.report(("%d requests during %d reloads, %d lost"):format(count, RELOADS, #lost))
  end)
end)
