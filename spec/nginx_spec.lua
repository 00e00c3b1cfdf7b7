-- The client in a real nginx: from content handlers, in several workers, and as the README shows it.
package.path = "./spec/?.lua;" .. package.path

local certificates = require "support.certificates"
local cjson = require "cjson"
local emulator_server = require "integrations.emulator.server"
local nginx = require "support.nginx"
local pages = require "support.nginx_pages"
local process = require "support.process"
local socket = require "socket"
local upstream_server = require "support.nginx_upstream"

local page, result, failed = pages.page, pages.result, pages.failed

if pages.is_watched then
  return pages.report "nobody watches its processes; what they do is left to make test"
end

local upstream

local function start(options)
  return pages.start(upstream.url, options)
end

local function elapsed(action)
  local begun = socket.gettime()
  action()
  return socket.gettime() - begun
end

-- Asks for a page, and nginx alone while the page is not there yet. Returns what the page comes to, and how many
-- answers nginx gave meanwhile: a worker that the page blocks gives one or two, at its beginning and at its end.
local function with_pings(running, path)
  local request, pings = running:ask(path), 0
  while #socket.select({ request.socket }, nil, 0) == 0 do
    assert.equal(200, (running:get "/ping"))
    pings = pings + 1
  end
  return pages.read(request:receive()), pings
end

local ENOUGH_PINGS = 5

-- ---- what the pages do ----------------------------------------------------------------------

-- The life of an integration, with every operation and every helper. Returns what is not as it should be, if anything.
local LIFE = ([[
  local client = inside.client { ca_file = argument.ca_file }
  local api = client.integrations
  local made = assert(api:create(INPUT))
  local id = made.integration_id
  assert(made.label == "Made")
  assert(#assert(api:list()) == 1)
  assert(assert(api:get(id)).integration_id == id)
  assert(assert(api:update(id, { label = "Changed" })).label == "Changed")
  local seen
  for integration in api:each() do seen = integration.label end
  assert(seen == "Changed")
  assert(#assert(api:find { label = "Changed" }) == 1)
  assert(#assert(api:add_events(id, "drop")).filters.email_events == 2)
  assert(#assert(api:remove_events(id, "open")).filters.email_events == 1)
  assert(select(2, assert(api:ensure(INPUT))) == "updated")
  assert(select(2, assert(api:ensure(INPUT))) == "unchanged")
  local alice = assert(client:as "alice")
  assert(select(2, assert(alice.integrations:ensure(INPUT))) == "created")
  assert(assert(alice.integrations:delete_many { alice.integrations:list()[1].integration_id, "none" })[1].outcome
    == "applied")
  assert(api:delete(id) == true)
  assert(select(2, api:get(id)).kind == "not_found")
  client:close()
  assert(select(2, api:list()).kind == "closed")
  return "well"
]]):gsub("INPUT", pages.INPUT)

-- The lives of a segment, for whose query it waits, and of a webhook.
local OTHERS = [[
  local client = inside.client()
  local segment = assert(client.segments:create { name = "Made",
    query_dsl = "SELECT contact_id, updated_at FROM contact_data" })
  assert(assert(client.segments:wait_valid(segment.id)).status.query_validation == "VALID")
  assert(client.segments:delete(segment.id))
  local rc = assert(require("integrations.rocketchat").new {
    url = client.session.base_url, user_id = "emulator", auth_token = "RC.emulator.full",
  })
  local webhook = assert(rc.integrations:create { type = "webhook-incoming", name = "Made", enabled = true,
    username = "rocket.cat", channel = "#general", scriptEnabled = false })
  assert(assert(rc.integrations:change(webhook._id, { name = "Changed" })).name == "Changed")
  for integration in rc.integrations:each() do assert(integration.name == "Changed") end
  assert(rc.integrations:delete(webhook.type, webhook._id))
  return "well"
]]

-- As many calls at once as asked for, each for an id of its own. Returns which of them got another's answer.
local CROWD = [[
  local client, threads, wrong = inside.shared(argument.client or "crowd"), {}, {}
  for id in argument.ids:gmatch "[^,]+" do
    table.insert(threads, ngx.thread.spawn(function()
      local integration, failed = client.integrations:get(id)
      if not integration or integration.integration_id ~= id then
        table.insert(wrong, id .. ": " .. tostring(failed or integration.integration_id))
      end
    end))
  end
  for _, thread in ipairs(threads) do assert(ngx.thread.wait(thread)) end
  return table.concat(wrong, ", ")
]]

-- A client whose requests meet what is at this path of the upstream.
local function at(path, timeout)
  return ("inside.shared(%q, { base_url = %q, timeout = %g })"):format(path, upstream.url .. path, timeout or 30)
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

  describe("with calls from a content handler", function()
    local running, ids

    setup(function()
      ids = upstream:reset(8)
      running = start {
        workers = 1,
        locations = {
          page("/life", LIFE),
          page("/others", OTHERS),
          page("/crowd", CROWD),
          page("/late", ("return (%s.integrations:list())"):format(at "/after/300")),
          page("/many", [[
            for _ = 1, 20 do
              local client = inside.client()
              assert(client.integrations:get(argument.id))
            end
            return "well"
          ]]),
          page("/limited", [[return inside.shared("limited").integrations:list()]]),
          page("/never", ([[
            local client = inside.client { base_url = %q, timeout = tonumber(argument.timeout) }
            return client.integrations:create(%s)
          ]]):format(upstream.url .. "/silent", pages.INPUT)),
          page("/coroutine", [[
            local resume = coroutine.wrap(function() return inside.shared("crowd").integrations:list() end)
            return #assert(resume())
          ]]),
        },
      }
    end)

    teardown(function()
      pages.stop(running)
    end)

    it("begins no thread before the first call, and one for all clients", function()
      local worker = running:workers()[1]
      running:get "/ping"
      assert.equal(1, nginx.threads(worker))
      assert.equal("well", result(running, "/many?id=" .. ids[1]))
      assert.equal(2, nginx.threads(worker))
      assert.equal("", result(running, "/crowd?ids=" .. table.concat(ids, ",")))
      assert.equal(2, nginx.threads(worker))
    end)

    it("does everything that the client can", function()
      upstream:reset()
      assert.equal("well", result(running, "/life"))
    end)

    it("lets the worker go on while it waits for a segment's query", function()
      local seen, pings = with_pings(running, "/others")
      assert.same({ nil, "well" }, { seen.raised or seen.failed and seen.failed.text, seen.result })
      assert.is_true(seen.elapsed >= 0.5)
      assert.is_true(pings >= ENOUGH_PINGS, pings)
      ids = upstream:reset(8)
    end)

    it("answers others while a call waits", function()
      local seen, pings = with_pings(running, "/late")
      assert.is_true(pings >= ENOUGH_PINGS, pings)
      assert.equal(8, #seen.result)
    end)

    it("makes several calls at once in the time of one", function()
      local requests = {}
      local took = elapsed(function()
        for i = 1, 10 do requests[i] = running:ask "/late" end
        for _, request in ipairs(requests) do assert.equal(8, #pages.read(request:receive()).result) end
      end)
      assert.is_true(took > 0.29 and took < 2.5, took) -- one after the other they take 3 s
    end)

    it("gives each call its own answer", function()
      for _ = 1, 5 do assert.equal("", result(running, "/crowd?ids=" .. table.concat(ids, ","))) end
    end)

    it("works in a coroutine of one's own", function()
      assert.equal(8, result(running, "/coroutine"))
    end)

    it("answers others while a call waits to be repeated", function()
      upstream:respond_next { status = 429, headers = { ["retry-after"] = "1" } }
      local seen, pings = with_pings(running, "/limited")
      assert.is_true(pings >= ENOUGH_PINGS, pings)
      assert.equal(8, #seen.result)
    end)

    it("ends a call in time that is never answered", function()
      process.patiently(function(scale)
        local timeout, failure, before = 0.3 * scale, nil, upstream:silenced()
        local took = elapsed(function() failure = failed(running, "/never?timeout=" .. timeout) end)
        assert.same({ "timeout", 1 }, { failure.kind, failure.attempts })
        assert.is_true(took > 0.9 * timeout, took)
        if failure.outcome == "not_applied" then
          assert.equal(before, (upstream:silenced()))
          return "the call had not been sent"
        end
        assert.equal("unknown", failure.outcome)
        return took >= 1.5 * timeout and ("took %.3f s"):format(took) or nil
      end)
    end)

    it("rests when no call runs", function()
      local worker = running:workers()[1]
      local before = nginx.processor_time(worker)
      socket.sleep(1)
      assert.is_true(nginx.processor_time(worker) - before <= 0.02, nginx.processor_time(worker) - before)
    end)
  end)

  describe("over TLS with HTTP/2", function()
    local folder, tls_upstream, running

    setup(function()
      folder = certificates.new()
      folder:self_signed "authority"
      local names = { authority = "authority", names = "IP:127.0.0.1" }
      tls_upstream = assert(emulator_server.start { tls = folder:issue("server", names), http2 = true })
      running = start {
        files = pages.settings { api_key = "SG.emulator.full", base_url = tls_upstream.url },
        locations = {
          page("/life", LIFE),
          page("/crowd", ([[
            local api, threads = inside.client({ ca_file = argument.ca_file }).integrations, {}
            for i = 1, 8 do
              local id = assert(api:create(%s)).integration_id
              threads[i] = ngx.thread.spawn(function() return assert(api:get(id)).integration_id == id end)
            end
            for _, thread in ipairs(threads) do assert(select(2, assert(ngx.thread.wait(thread)))) end
            for _, each in ipairs(api:list()) do assert(api:delete(each.integration_id)) end
            return "well"
          ]]):format(pages.INPUT)),
          page("/distrust", "return inside.client().integrations:list()"),
        },
      }
    end)

    teardown(function()
      pages.stop(running)
      tls_upstream:stop()
      folder:remove()
    end)

    it("does everything that the client can", function()
      assert.equal("well", result(running, "/life?ca_file=" .. folder:path "authority.pem"))
    end)

    it("makes several calls at once", function()
      assert.equal("well", result(running, "/crowd?ca_file=" .. folder:path "authority.pem"))
    end)

    it("may be asked while a connection's certificate is chosen", function()
      local authority = folder:path "authority.pem"
      local secure = pages.start(tls_upstream.url, {
        http = ([[
          server {
            listen 127.0.0.1:PORT ssl;
            ssl_certificate %s;
            ssl_certificate_key %s;
            ssl_certificate_by_lua_block {
              local inside = require "support.nginx_inside"
              inside.note("certificate", function() return inside.client { ca_file = %q }.integrations:list() end)
            }
            location = /noted { content_by_lua_block { require("support.nginx_inside").noted() } }
          }
        ]]):format(folder:path "server.pem", folder:path "server.key", authority),
        locations = {},
      })
      local output = process.shell(("curl -s --noproxy '*' --cacert %s 'https://127.0.0.1:%d/noted?name=certificate'")
        :format(process.quote(authority), secure.port))
      assert.same({}, cjson.decode(output).result)
      pages.stop(secure)
    end)

    it("trusts nobody unasked", function()
      local failure = failed(running, "/distrust")
      assert.same({ "tls", "not_applied" }, { failure.kind, failure.outcome })
    end)
  end)

  describe("with the client that init_by_lua made", function()
    local running, ids

    setup(function()
      ids = upstream:reset(20)
      running = start {
        workers = 2,
        listen = " reuseport", -- so that each gets some of the requests
        http = [[
          init_by_lua_block {
            local client = require("support.nginx_inside").shared("crowd", { allow_blocking = true })
            assert(client.integrations:list()) -- whose connection no worker may touch
          }
        ]],
        locations = {
          page("/crowd", CROWD, [[
            log_by_lua_block { assert(require("support.nginx_inside").shared("crowd").integrations:list()) }
          ]]),
          page("/each", [[
            local client = inside.client()
            local integration = assert(client.integrations:get(argument.id))
            assert(integration.integration_id == argument.id)
            if argument.close then client:close() end
            return ngx.worker.pid()
          ]]),
        },
      }
    end)

    teardown(function()
      pages.stop(running)
    end)

    it("gives each worker's requests their own answers", function()
      local all, requests = table.concat(ids, ","), {}
      for round = 1, 20 do requests[round] = running:ask("/crowd?ids=" .. all) end
      for _, request in ipairs(requests) do assert.equal("", pages.read(request:receive()).result) end
      for _, worker in ipairs(running:workers()) do assert.equal(2, nginx.threads(worker)) end
      assert.equal(1, nginx.threads(running.master))
    end)

    it("leaves room for a client per request", function()
      local workers, requests = {}, {}
      for round = 1, 60 do
        local close = round % 2 == 0 and "&close=1" or ""
        requests[round] = running:ask(("/each?id=%s%s"):format(ids[round % #ids + 1], close))
      end
      for _, request in ipairs(requests) do workers[pages.read(request:receive()).result] = true end
      for _, worker in ipairs(running:workers()) do
        assert.is_true(workers[tonumber(worker)])
        assert.equal(2, nginx.threads(worker))
      end
    end)
  end)

  it("works where lua_code_cache is off", function()
    local ids = upstream:reset(3)
    local running = start {
      http = "lua_code_cache off;",
      locations = { page("/get", "return inside.client().integrations:get(argument.id)") },
    }
    local worker = running:workers()[1]
    for round = 1, 50 do
      local id = ids[round % 3 + 1]
      assert.equal(id, result(running, "/get?id=" .. id).integration_id)
      assert.is_true(nginx.threads(worker) <= 2)
    end
    assert.same({ worker }, running:workers())
    socket.sleep(0.1) -- nginx complains of semaphores of a Lua state that it did not close, such as the last timer's
    pages.stop(running, "TERM", "lua_code_cache is off")
  end)

  describe("where timers are short", function()
    local function check(http, tolerated)
      local ids = upstream:reset(1)
      local running = start {
        http = http,
        locations = {
          page("/get", "return inside.shared('get').integrations:get(argument.id)"),
          page("/late", ("return %s.integrations:list()"):format(at "/after/50")),
        },
      }
      assert.equal(ids[1], result(running, "/get?id=" .. ids[1]).integration_id)
      assert.equal(1, #result(running, "/late"))
      pages.stop(running, "TERM", tolerated)
    end

    it("calls end where no more may run", function()
      check([[
        lua_max_running_timers 1;
        init_worker_by_lua_block { ngx.timer.at(0, function() ngx.sleep(60) end) }
      ]], "lua_max_running_timers are not enough")
    end)

    it("calls end where no more may wait", function()
      check [[
        lua_max_pending_timers 1;
        init_worker_by_lua_block { ngx.timer.at(60, function() end) }
      ]]
    end)
  end)

  describe("with a transport that raises while it is looked after", function()
    -- The first of two clients is broken, once. Returns what their calls came to.
    local CODE = [[
      local transport = require "integrations.transport"
      local open, opened = transport.open, nil
      transport.open = function(...)
        opened = assert(open(...))
        return opened
      end
      local clients = { inside.client { base_url = argument.url } }
      transport.open = open
      function opened.deliver()
        opened.deliver = nil
        error "not enough memory"
      end
      clients[2] = inside.client { base_url = argument.url }
      local threads, counts = {}, {}
      for i, client in ipairs(clients) do
        threads[i] = ngx.thread.spawn(function() return #assert(client.integrations:list()) end)
      end
      for i, thread in ipairs(threads) do counts[i] = select(2, assert(ngx.thread.wait(thread))) end
      assert(not rawget(opened, "deliver"))
      return counts
    ]]

    local function check(http)
      upstream:reset(3)
      local running = start { http = http, locations = { page("/raising", CODE) } }
      local came = pages.read(running:get("/raising?url=" .. upstream.url .. "/after/100"))
      assert.is_nil(came.raised)
      assert.same({ 3, 3 }, came.result)
      assert.is_true(came.elapsed < 15, came.elapsed) -- and not the half minute that a call may take
      pages.stop(running, "TERM", "not enough")
    end

    it("calls end in time", function()
      check()
    end)

    it("calls end in time where no more timers may run", function()
      check [[
        lua_max_running_timers 1;
        init_worker_by_lua_block { ngx.timer.at(0, function() ngx.sleep(60) end) }
      ]]
    end)
  end)

  describe("with many calls at once", function()
    local running, ids

    setup(function()
      ids = upstream:reset(12)
      running = start {
        workers = 2,
        listen = " reuseport", -- so that each gets some of the requests
        http = "lua_shared_dict limits 1m;",
        locations = {
          page("/map", ([[
            local parallel = require "integrations.parallel"
            local client = inside.shared("after " .. argument.after, { base_url = %q .. argument.after })
            local ids, told = {}, 0
            for id in argument.ids:gmatch "[^,]+" do table.insert(ids, id) end
            local results = parallel.map(ids, function(id) return client.integrations:get(id) end, {
              limit = 4,
              on_progress = function(done)
                told = told + 1
                return done < tonumber(argument.stop_after or 1000)
              end,
            })
            local right, cancelled = 0, 0
            for i, each in ipairs(results) do
              right = right + (each.ok and each.value.integration_id == ids[i] and 1 or 0)
              cancelled = cancelled + (each.failure and each.failure.kind == "cancelled" and 1 or 0)
            end
            return { right = right, cancelled = cancelled, told = told, count = #results }
          ]]):format(upstream.url .. "/after/")),
          page("/limited", [[
            local client = inside.shared("limited", { rate_limit_dict = "limits", max_attempts = 1 })
            local all, failed = client.integrations:list()
            return all and ngx.worker.pid(), failed
          ]]),
        },
      }
    end)

    teardown(function()
      pages.stop(running)
    end)

    it("has as many under way as it may, and tells of each", function()
      process.patiently(function(scale)
        local milliseconds, came = 100 * scale, nil
        local took = elapsed(function()
          came = result(running, ("/map?after=%d&ids=%s"):format(milliseconds, table.concat(ids, ",")))
        end) * 1000 / milliseconds
        assert.same({ right = 12, cancelled = 0, told = 12, count = 12 }, came)
        assert.is_true(took > 2.9, took) -- three rounds of four
        return took >= 8 and ("took as long as %.1f calls"):format(took) or nil
      end)
    end)

    it("stops when it is told to", function()
      local came = result(running, "/map?after=100&stop_after=1&ids=" .. table.concat(ids, ","))
      assert.equal(12, came.count)
      assert.is_true(came.right >= 1 and came.right <= 4 and came.cancelled == 12 - came.right)
    end)

    it("lets one worker learn of the rate limit from another", function()
      upstream:reset()
      upstream:respond_next { status = 429, headers = { ["retry-after"] = "1", ["x-ratelimit-reset"] = "1" } }
      local begun = socket.gettime()
      assert.equal("rate_limited", failed(running, "/limited").kind)
      local flying = {}
      for i = 1, 20 do flying[i] = running:ask "/limited" end
      local workers = {}
      for _, request in ipairs(flying) do workers[pages.read(request:receive()).result] = true end
      assert.is_true(socket.gettime() - begun > 0.9, "did not wait")
      assert.is_true(workers[tonumber(running:workers()[1])] and workers[tonumber(running:workers()[2])])
    end)
  end)

  describe("with the README's example", function()
    local running
    local TYPE = { ["content-type"] = "application/json" }

    -- As it is, but for the addresses.
    local function example()
      local block = process.read_file "README.md":match "\n```nginx\n(.-)\n```"
      local text, addresses = block:gsub('api_key = os.getenv "SENDGRID_API_KEY"', '%0, base_url = "' .. upstream.url
        .. '"')
      local text_with_port, ports = text:gsub("8025", "PORT")
      assert.same({ 1, 1 }, { addresses, ports })
      return text_with_port
    end

    local function ask(method, path, body)
      local status, answer = running:ask(path, { method = method, body = body, headers = TYPE }):receive()
      return status, cjson.decode(answer)
    end

    -- In an environment that is nginx's alone: a program by the name that our nginx is looked for.
    local function start_in(environment)
      local folder = process.new_folder()
      local program = folder .. "/nginx"
      process.write_file(program, ('#!/bin/sh\nPATH=$PATH:/usr/sbin\nexec env %s nginx "$@"\n'):format(environment))
      process.shell("chmod +x " .. program)
      local getenv = os.getenv
      local replaced = stub(os, "getenv").invokes(function(name)
        return name == "INTEGRATIONS_NGINX" and program or getenv(name)
      end)
      local ok, started = pcall(start, { http = example(), locations = {} })
      replaced:revert()
      process.remove_folder(folder)
      return ok, started
    end

    setup(function()
      upstream:reset()
      running = select(2, assert(start_in "SENDGRID_API_KEY=SG.emulator.full"))
    end)

    teardown(function()
      pages.stop(running)
    end)

    local BODY = '{"destination":"Segment","filters":{"email_events":["open"]},"label":"Made",'
      .. '"properties":{"write_key":"a123456","destination_region":"EU"}}'

    it("lists, makes and deletes, also after a reload", function()
      for _ = 1, 2 do
        assert.same({ 200, {} }, { ask("GET", "/integrations") })
        local status, made = ask("POST", "/integrations", BODY)
        assert.same({ 200, "Made" }, { status, made.label })
        assert.same({ 200, { made } }, { ask("GET", "/integrations") })
        assert.same({ 200, {} }, { ask("DELETE", "/integrations?id=" .. made.integration_id) })
        running:reload()
      end
    end)

    it("says what is wrong", function()
      local status, answer = ask("POST", "/integrations", "no JSON")
      assert.same({ 422, "invalid", "not_applied", "input must be an object, not nil" },
        { status, answer.kind, answer.outcome, answer.errors[1].field .. " " .. answer.errors[1].message })
      status, answer = ask("POST", "/integrations", (BODY:gsub("open", "opened")))
      assert.same({ 422, "filters.email_events[1]" }, { status, answer.errors[1].field })
      assert.equal(422, (ask("DELETE", "/integrations")))
      status, answer = ask("DELETE", "/integrations?id=none")
      assert.same({ 404, "not_found", "not_applied" }, { status, answer.kind, answer.outcome })
      upstream:respond_next { status = 401 }
      status, answer = ask("GET", "/integrations")
      assert.same({ 502, "unauthorized" }, { status, answer.kind })
      assert.equal(405, (running:ask("/integrations", { method = "PUT" }):receive()))
    end)

    it("says that there is no key", function()
      local ok, message = start_in "-u SENDGRID_API_KEY"
      assert.is_false(ok)
      assert.truthy(message:find("api_key is required", 1, true), message)
    end)
  end)
end)
