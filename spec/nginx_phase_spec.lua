-- The phases of nginx, and callbacks: where a call can wait it does, and where it cannot it says so.
package.path = "./spec/?.lua;" .. package.path

local certificates = require "support.certificates"
local cjson = require "cjson"
local nginx = require "support.nginx"
local pages = require "support.nginx_pages"
local process = require "support.process"
local upstream_server = require "support.nginx_upstream"

local page, result = pages.page, pages.result

if pages.is_watched then
  return pages.report "nobody watches its processes; their phases are left to make test"
end

local upstream

local function start(options)
  return pages.start(upstream.url, options)
end

describe("nginx", function()
  setup(function()
    upstream = upstream_server.start()
  end)

  teardown(function()
    pages.stop_all()
    upstream:stop()
  end)

  describe("in a phase that", function()
    local running, ids

    local NOTE = [[
      local inside = require "support.nginx_inside"
      inside.note(%q, function() return inside.client(%s).integrations:get(%q) end)
    ]]

    -- The code of a phase: a call whose end is noted by the phase's name.
    local function note(name, options)
      return NOTE:format(name, options or "{}", ids[1])
    end

    local function blocking(name)
      return note("blocking_" .. name, "{ allow_blocking = true, on_event = print }")
    end

    -- What was noted; requests and workers that leave may take their time.
    local function noted(name)
      local body = nginx.eventually(function()
        local _, text = running:get("/noted?name=" .. name)
        return text ~= "" and text
      end)
      return cjson.decode((assert(body, name .. ": nothing noted")))
    end

    setup(function()
      ids = upstream:reset(1)
      local function location(name, code)
        return ("location = /%s { %s content_by_lua_block { ngx.print 'page' } }"):format(name, code)
      end
      running = start {
        http = ([[
          init_by_lua_block { %s }
          init_worker_by_lua_block { %s }
          exit_worker_by_lua_block { %s }
          upstream balanced {
            server 0.0.0.1;
            balancer_by_lua_block {
              %s
              assert(require("ngx.balancer").set_current_peer("127.0.0.1", ngx.var.server_port))
            }
          }
        ]]):format(note "init" .. blocking "init", note "init_worker" .. blocking "init_worker", note "exit_worker",
          note "balancer"),
        locations = {
          [[location = /noted { content_by_lua_block { require("support.nginx_inside").noted() } }]],
          ("server_rewrite_by_lua_block { if ngx.var.uri == '/server_rewrite' then %s end }"):format(
            note "server_rewrite"),
          location("server_rewrite", ""),
          location("rewrite", ("rewrite_by_lua_block { %s }"):format(note "rewrite")),
          location("access", ("access_by_lua_block { %s }"):format(note "access")),
          ("location = /content { content_by_lua_block { %s ngx.print 'page' } }"):format(note "content"),
          location("timer", ("access_by_lua_block { ngx.timer.at(0, function() %s end) }"):format(note "timer")),
          location("thread", ("access_by_lua_block { ngx.thread.wait(ngx.thread.spawn(function() %s end)) }")
            :format(note "thread")),
          location("set", ("set_by_lua_block $unused { %s return '' }"):format(note "set")),
          location("header_filter", ("header_filter_by_lua_block { %s %s }"):format(note "header_filter",
            blocking "header_filter")),
          location("body_filter", ("body_filter_by_lua_block { if ngx.arg[2] then %s end }")
            :format(note "body_filter")),
          location("log", ("log_by_lua_block { %s %s }"):format(note "log", blocking "log")),
          "location = /balancer { proxy_pass http://balanced/ping; }",
        },
      }
    end)

    teardown(function()
      pages.stop(running)
    end)

    for _, name in ipairs { "server_rewrite", "rewrite", "access", "content", "timer", "thread" } do
      it("can wait, works: " .. name, function()
        assert.same({ 200, "page" }, { running:get("/" .. name) })
        local came = noted(name)
        assert.is_nil(came.raised or came.failed and came.failed.text)
        assert.equal(ids[1], came.result.integration_id)
      end)
    end

    local function assert_refused(name)
      local came = noted(name)
      assert.is_nil(came.raised)
      assert.same({ "invalid", "not_applied" }, { came.failed.kind, came.failed.outcome })
      assert.truthy(came.failed.message:find("ngx.timer.at(0", 1, true), came.failed.message)
      assert.is_true(came.elapsed < 10, came.elapsed) -- nor does it block for nothing, for the half minute of a call
    end

    for _, name in ipairs { "init", "init_worker" } do
      it("cannot wait, refuses and says what to do: " .. name, function()
        assert_refused(name)
      end)

      it("cannot wait, blocks if it may: " .. name, function()
        assert.equal(ids[1], noted("blocking_" .. name).result.integration_id)
      end)
    end

    for name, sent in pairs { set = 0, header_filter = 1, body_filter = 0, log = 1, balancer = 0 } do
      it("cannot wait, refuses and says what to do: " .. name, function()
        local before = #upstream:requests()
        assert.same({ 200, name == "balancer" and "pong" or "page" }, { running:get("/" .. name) })
        assert_refused(name)
        if sent == 1 then assert.equal(ids[1], noted("blocking_" .. name).result.integration_id) end
        assert.equal(before + sent, #upstream:requests())
      end)
    end

    it("cannot wait, refuses and says what to do: exit_worker", function()
      running:reload()
      assert_refused "exit_worker"
    end)
  end)

  describe("in a phase that cannot wait while the service lets no request go", function()
    local running

    -- A page whose client learns that for 5 seconds nothing may be sent. Then this phase calls.
    local function limited(phase)
      local directives = ([[
        %s_by_lua_block {
          local inside = require "support.nginx_inside"
          inside.note(%q, function()
            local client, events = package.loaded.limited.client, package.loaded.limited.events
            local _, failed = client.integrations:list()
            return { kind = failed.kind, attempts = failed.attempts, events = table.concat(events, " ") }
          end)
        }
      ]]):format(phase, phase)
      return page("/" .. phase, [[
        local events = {}
        local function on_event(event) table.insert(events, event.name) end
        local client = inside.client { max_attempts = 1, on_event = on_event }
        local all, failed = client.integrations:list()
        package.loaded.limited = { client = client, events = events }
        while table.remove(events) do end
        return all, failed
      ]], directives)
    end

    setup(function()
      upstream:reset()
      running = start {
        locations = {
          [[location = /noted { content_by_lua_block { require("support.nginx_inside").noted() } }]],
          limited "header_filter", limited "log",
        },
      }
    end)

    teardown(function()
      pages.stop(running)
    end)

    for _, phase in ipairs { "header_filter", "log" } do
      it("refuses at once: " .. phase, function()
        upstream:respond_next { status = 429, headers = { ["retry-after"] = "20", ["x-ratelimit-reset"] = "20" } }
        assert.equal("rate_limited", pages.failed(running, "/" .. phase).kind)
        local came
        nginx.eventually(function()
          local _, body = running:get("/noted?name=" .. phase)
          came = body ~= "" and cjson.decode(body)
          return came
        end)
        assert.is_nil(came.raised)
        assert.same({ "invalid", 0 }, { came.result.kind, came.result.attempts })
        assert.is_nil(came.result.events:find "wait")
        assert.is_true(came.elapsed < 10, came.elapsed)
        assert.equal(1, #upstream:requests())
        upstream:reset()
      end)
    end
  end)

  describe("in a phase of a TLS handshake that cannot wait", function()
    local folder

    setup(function()
      folder = certificates.new()
      folder:self_signed "authority"
      folder:issue("server", { authority = "authority", names = "IP:127.0.0.1" })
    end)

    teardown(function()
      folder:remove()
    end)

    -- Where a session can be asked for again, which takes an id instead of a ticket.
    local SERVER = [[
      %s
      server {
        listen 127.0.0.1:PORT ssl;
        ssl_certificate %s;
        ssl_certificate_key %s;
        ssl_protocols TLSv1.2;
        ssl_session_tickets off;
        %s
        location = /noted { content_by_lua_block { require("support.nginx_inside").noted() } }
      }
    ]]

    local function configuration(phase)
      local code = ([[%s_by_lua_block {
        local inside = require "support.nginx_inside"
        inside.note("handshake", function() return inside.client().integrations:list() end)
      }]]):format(phase)
      local is_in_server = phase == "ssl_client_hello"
      return SERVER:format(is_in_server and "" or code, folder:path "server.pem", folder:path "server.key",
        is_in_server and code or "")
    end

    for _, phase in ipairs { "ssl_client_hello", "ssl_session_fetch" } do
      it("refuses and lets the handshake go on: " .. phase, function()
        upstream:reset()
        local running = start { http = configuration(phase), locations = {} }
        process.shell(("timeout 10 openssl s_client -connect 127.0.0.1:%d -tls1_2 -reconnect </dev/null"):format(
          running.port))
        local output = process.shell(
          ("curl -s -m 10 --noproxy '*' --cacert %s 'https://127.0.0.1:%d/noted?name=handshake'"):format(
            process.quote(folder:path "authority.pem"), running.port))
        assert.are_not.equal("", output, "no handshake, or nothing noted")
        local came = cjson.decode(output)
        assert.is_nil(came.raised)
        assert.same({ "invalid", "not_applied", 0 }, { came.failed.kind, came.failed.outcome, came.failed.attempts })
        assert.truthy(came.failed.message:find(phase .. "_by_lua cannot wait", 1, true), came.failed.message)
        assert.same({}, upstream:requests())
        pages.stop(running)
      end)
    end
  end)

  describe("in a callback that cannot wait", function()
    local running

    setup(function()
      upstream:reset()
      running = start {
        locations = {
          page("/sort", [[
            local client, ended = inside.shared "callback"
            table.sort({ 2, 1 }, function() ended = { client.integrations:list() } return false end)
            return (table.unpack or unpack)(ended, 1, 2)
          ]]),
          page("/gsub", [[
            local client, ended = inside.shared "callback"
            local text = ("x"):gsub("x", function() ended = { client.integrations:list() } end)
            return (table.unpack or unpack)(ended, 1, 2)
          ]]),
          page("/after", [[return inside.shared("callback").integrations:list()]]),
        },
      }
    end)

    teardown(function()
      pages.stop(running)
    end)

    for _, name in ipairs { "sort", "gsub" } do
      it("sends nothing and says so: " .. name, function()
        local worker = running:workers()[1]
        local came = pages.read(running:get("/" .. name))
        assert.is_nil(came.result or came.raised)
        assert.same({ "invalid", "not_applied" }, { came.failed.kind, came.failed.outcome })
        assert.truthy(came.failed.message:find("table.sort", 1, true), came.failed.message)
        assert.same({}, upstream:requests())
        assert.same({}, result(running, "/after"))
        assert.same({ worker }, running:workers())
        upstream:reset()
      end)
    end
  end)
end)
