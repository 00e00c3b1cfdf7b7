package.path = "./spec/?.lua;" .. package.path

-- csrc/background.c and csrc/loop.c: engines that a thread of the process serves.

local certificates = require "support.certificates"
local core = require "integrations.core"
local gathering = require "support.gathering"
local process = require "support.process"
local server = require "integrations.emulator.server"

local LOCATIONS = [[
  location = /echo {
    content_by_lua_block {
      ngx.req.read_body()
      ngx.print(ngx.var.connection, " ", ngx.req.get_method(), " ", ngx.var.arg_id, " ", ngx.req.get_body_data() or "")
    }
  }
  location = /sleep {
    lua_check_client_abort on;
    content_by_lua_block {
      ngx.on_abort(function()
        package.loaded.aborted = (package.loaded.aborted or 0) + 1
        ngx.exit(499)
      end)
      package.loaded.begun = (package.loaded.begun or 0) + 1
      ngx.sleep(tonumber(ngx.var.arg_seconds))
      ngx.print(ngx.var.connection, " ", ngx.var.arg_id)
    }
  }
  location = /counted { content_by_lua_block { ngx.print(package.loaded[ngx.var.arg_name] or 0) } }
]] .. gathering.LOCATION

local PATIENCE = 60 * process.slowness -- seconds

-- Looks until the condition holds; nobody tells this thread.
local function wait_until(condition)
  local deadline = core.now() + PATIENCE
  while core.now() < deadline do
    local result = condition()
    if result then
      return result
    end
    core.sleep(0.001)
  end
  error("waited for " .. PATIENCE .. " s", 2)
end

local function finish(engine, id)
  local response, problem
  wait_until(function()
    response, problem = engine:take(id)
    return response ~= false
  end)
  return response, problem
end

local function threads()
  return tonumber(process.shell(("ls /proc/%d/task | wc -l"):format(process.id())))
end

--- The response; where there is none, the reason is raised.
local function worked(response, problem)
  return assert(response, problem and problem.message)
end

describe("an engine in the background", function()
  local plain, tls, tls_1, folder

  setup(function()
    plain = assert(server.start { locations = LOCATIONS })
    folder = certificates.new()
    folder:self_signed "authority"
    local certificate = folder:issue("server", { authority = "authority", names = "IP:127.0.0.1" })
    tls = assert(server.start { locations = LOCATIONS, tls = certificate, http2 = true })
    tls_1 = assert(server.start { locations = LOCATIONS, tls = certificate })
  end)

  teardown(function()
    plain:stop()
    tls:stop()
    tls_1:stop()
    folder:remove()
  end)

  local function open(origin)
    return assert(core.engine { origin = origin or plain.url, ca_file = folder:path "authority.pem", background = true,
      connect_timeout_ms = 60000 })
  end

  local function get(engine, url)
    return finish(engine, assert(engine:submit("GET", url, nil, nil, 60000)))
  end

  it("starts its thread with the first call, one for all engines", function()
    local program = [[
      local core = require "integrations.core"
      local process = require "support.process"
      local function threads()
        return tonumber(process.shell(("ls /proc/%%d/task | wc -l"):format(process.id())))
      end
      local counts = { threads() }
      local engines = {}
      for i = 1, 5 do engines[i] = core.engine { origin = %q, background = true } end
      counts[2] = threads()
      for _, engine in ipairs(engines) do
        local id = engine:submit("GET", %q, nil, nil, 60000)
        while not engine:take(id) do core.sleep(0.001) end
        counts[#counts + 1] = threads()
      end
      io.write(table.concat(counts, " "))
    ]]
    local output, status = process.run_lua(program:format(plain.url, plain.url .. "/echo?id=1"))
    assert.same({ "1 1 2 2 2 2 2", 0 }, { output, status })
  end)

  it("gives what an engine gives that is run", function()
    local url = plain.url .. "/echo?id=7"
    local engine = open()
    assert.truthy(worked(get(engine, url)).body:find("^%d+ GET 7 $"))
    local response = finish(engine, engine:submit("POST", url, { ["X-A"] = "b" }, "the body", 10000))
    assert.equal(200, response.status)
    assert.truthy(response.body:find("^%d+ POST 7 the body$"))
    engine:close()
    local dead = open "http://127.0.0.1:1"
    local nothing, problem = get(dead, "http://127.0.0.1:1/")
    assert.same({ nil, "CURLE_COULDNT_CONNECT", false }, { nothing, problem.code, problem.sent })
    assert.is_nil((dead:submit("GET", "http://elsewhere.example/", nil, nil, 1000)))
    dead:close()
  end)

  it("keeps to the time limit", function()
    process.patiently(function(scale)
      local engine = open()
      local started = core.now()
      local id = engine:submit("GET", plain.url .. "/sleep?seconds=300&id=1", nil, nil, 100 * scale)
      local _, problem = finish(engine, id)
      local took = core.now() - started
      assert.equal("CURLE_OPERATION_TIMEDOUT", assert(problem, "it worked").code)
      engine:close()
      return took >= 0.2 * scale and ("took %.3f s"):format(took) or nil
    end)
  end)

  it("tells of each finished call once, in the order of their ends", function()
    local function check(unit)
      local engine = open()
      local ids, told = {}, {}
      local started = core.now()
      for i, units in ipairs { 3, 1, 2 } do
        local url = ("%s/sleep?seconds=%g&id=%d"):format(plain.url, units * unit, i)
        ids[i] = engine:submit("GET", url, nil, nil, 60000)
      end
      wait_until(function()
        for id in engine.next, engine do
          told[#told + 1] = id
        end
        return #told == 3
      end)
      local took = core.now() - started
      assert.is_nil(engine:next())
      for i, id in ipairs(ids) do
        assert.equal(tostring(i), worked(engine:take(id)).body:match " (%d)$")
      end
      engine:close()
      -- A machine that has come so late may have ended them in any order.
      if took > 3.5 * unit then return ("took %.3f s"):format(took) end
      assert.same({ ids[2], ids[3], ids[1] }, told)
    end
    process.patiently(function(scale) return check(0.05 * scale) end)
  end)

  for _, name in ipairs { "HTTP", "TLS with HTTP/2" } do
    it("mixes up none of many calls at once, over " .. name, function()
      local url = name == "HTTP" and plain.url or tls.url
      local engine, wanted, count, connections = open(url), {}, 0, {}
      for i = 1, 300 do
        local id = engine:submit("POST", ("%s/echo?id=%d"):format(url, i), nil, "body " .. i, 60000 * process.slowness)
        wanted[assert(id)] = i
      end
      wait_until(function()
        for id in engine.next, engine do
          local response, problem = engine:take(id)
          assert(response, problem and problem.message)
          local connection, number, body = response.body:match "^(%d+) POST (%d+) body (%d+)$"
          assert.same({ tostring(wanted[id]), tostring(wanted[id]) }, { number, body })
          wanted[id] = nil
          count, connections[connection] = count + 1, true
        end
        return count == 300
      end)
      assert.is_nil(next(wanted))
      local used = 0
      for _ in pairs(connections) do
        used = used + 1
      end
      assert.is_true(used <= (name == "HTTP" and 256 or 16), used .. " connections")
      engine:close()
    end)
  end

  it("cancels calls, whose connections end", function()
    local engine = open()
    local function counted(name)
      return tonumber(worked(get(engine, plain.url .. "/counted?name=" .. name)).body)
    end
    local aborted, begun, ids = counted "aborted", counted "begun", {}
    for i = 1, 10 do
      ids[i] = engine:submit("GET", plain.url .. "/sleep?seconds=300&id=" .. i, nil, nil, 60000)
    end
    wait_until(function() return counted "begun" == begun + 10 end)
    for _, id in ipairs(ids) do
      assert.is_true(engine:cancel(id))
      assert.is_false(pcall(engine.take, engine, id))
      assert.is_false(engine:cancel(id))
    end
    wait_until(function() return counted "aborted" == aborted + 10 end)
    assert.is_nil(engine:next())
    engine:close()
  end)

  it("cancels at any moment", function()
    local engine = open()
    for i = 1, 300 do
      local id = engine:submit("GET", plain.url .. "/echo?id=" .. i, nil, nil, 60000)
      if i % 3 == 0 then
        core.sleep(0.0005)
      end
      engine:cancel(id)
      if i % 50 == 0 then
        assert.equal(tostring(i), worked(get(engine, plain.url .. "/echo?id=" .. i)).body:match "^%d+ GET (%d+)")
      end
    end
    engine:close()
  end)

  -- How many connections there are to this port: an end of each is in the list, by the other end's address.
  local function connections(port)
    local count, remote = 0, (":%04X"):format(port)
    for address, state in process.read_file "/proc/net/tcp":gmatch "\n%s*%d+: %S+ (%S+) (%S+)" do
      count = count + (address:sub(-5) == remote and state == "01" and 1 or 0)
    end
    return count
  end

  -- The thread may see that nobody wants a call before it sees the call.
  local function cancel_at_once(engine, count)
    for i = 1, count do
      local id = assert(engine:submit("GET", plain.url .. "/sleep?seconds=300&id=" .. i, nil, nil, 60000))
      assert(engine:cancel(id)) -- luassert's takes too long
      if i % 100 == 0 then
        core.sleep(0.001) -- so that the thread falls asleep, too
      end
    end
  end

  for _, most in ipairs { 1, 256 } do
    it(("cancels calls however soon, with up to %d connections"):format(most), function()
      for _ = 1, 5 do -- since it does not happen each time
        local engine = assert(core.engine { origin = plain.url, max_connections = most, background = true })
        cancel_at_once(engine, math.ceil(1000 / process.slowness))
        local id = assert(engine:submit("GET", plain.url .. "/echo?id=1", nil, nil, 20000 * process.slowness))
        local response, problem = finish(engine, id)
        assert.equal(200, response and response.status, problem and problem.message)
        wait_until(function() return connections(plain.port) <= 1 end)
        engine:close()
      end
    end)
  end

  for _, name in ipairs { "HTTP", "TLS", "TLS with HTTP/2" } do
    it("cancels the only call, and keeps the connections that rest, over " .. name, function()
      local of = name == "HTTP" and plain or name == "TLS" and tls_1 or tls
      local engine = open(of.url)
      gathering.meet(engine, finish, { url = of.url, count = 1, seconds = 0 }) -- tells which HTTP is spoken
      local before = gathering.meet(engine, finish, { url = of.url, count = 3, seconds = 20 * process.slowness })
      local id = engine:submit("GET", of.url .. "/sleep?seconds=300&id=1", nil, nil, 60000)
      core.sleep(0.05)
      assert.is_true(engine:cancel(id))
      core.sleep(0.02)
      local after = gathering.meet(engine, finish, { url = of.url, count = 2, seconds = 20 * process.slowness })
      for connection in pairs(after) do assert.is_true(before[connection], "a new connection") end
      engine:close()
    end)
  end

  it("may be closed with calls in flight, and by the collector", function()
    for round = 1, 20 do
      local engine = open(round % 2 == 0 and tls.url or plain.url)
      local url = round % 2 == 0 and tls.url or plain.url
      for i = 1, 5 do
        assert(engine:submit("POST", url .. "/sleep?seconds=300&id=" .. i, nil, ("x"):rep(round * 1000), 60000))
      end
      if round % 3 == 0 then
        core.sleep(0.005)
      end
      if round % 4 ~= 0 then
        engine:close()
      end
    end
    collectgarbage()
    collectgarbage()
    local engine = open()
    assert.equal(200, worked(get(engine, plain.url .. "/echo?id=1")).status)
    engine:close()
  end)

  it("lets the process end at any moment, without a crash or a wait", function()
    local program = [[
      local core = require "integrations.core"
      local engine = core.engine { origin = %q, ca_file = %q, background = true }
      for i = 1, %d do engine:submit("GET", %q .. i, nil, nil, 300000) end
      core.sleep(%g)
      %s
    ]]
    -- At its end the process waits two seconds for the thread. Under valgrind a TLS handshake may take as long.
    local of = process.slowness > 1 and plain or tls
    for _, ending in ipairs { "", "os.exit(0)", "os.exit(0, true)", "engine:close() os.exit(0)" } do
      for _, seconds in ipairs { 0, 0.002, 0.05 } do
        local started = core.now()
        local output, status = process.run_lua(program:format(of.url, folder:path "authority.pem", 20,
          of.url .. "/sleep?seconds=300&id=", seconds, ending))
        assert.same({ "", 0 }, { output, status })
        assert.is_true(core.now() - started < 30 * math.min(process.slowness, 8)) -- and not five minutes
      end
    end
  end)

  it("leaves signals to the host's own thread", function()
    local engine = open()
    get(engine, plain.url .. "/echo?id=1")
    local pid = process.id()
    local blocked = process.shell(("for task in /proc/%d/task/*; do [ $(basename $task) = %d ] || "
      .. "grep SigBlk $task/status; done"):format(pid, pid))
    -- All but SIGKILL and SIGSTOP, and those that the C library keeps to itself.
    assert.truthy(blocked:find "ffffff[ec]7ffbfeff", blocked)
    engine:close()
  end)

  local forking = process.forking()
  local compiled = forking and it or pending

  compiled("works on in a child, with a thread of its own", function()
    local engine = open(tls.url)
    assert.truthy(worked(get(engine, tls.url .. "/echo?id=1")).body:find " GET 1 ")
    local id = engine:submit("GET", tls.url .. "/sleep?seconds=1&id=8", nil, nil, 60000)
    core.sleep(0.05)
    local pid = forking.fork()
    if pid == 0 then
      local status = 9
      pcall(function()
        local lost, problem = finish(engine, id)
        status = lost == nil and problem.message == "the call belongs to the process before the fork" and 0 or 1
        for i = 1, 20 do
          local response = get(engine, tls.url .. "/echo?id=" .. i)
          status = response and response.body:find(" GET " .. i .. " ", 1, true) and status or 2
        end
        status = threads() == 2 and status or 3
        engine:close()
      end)
      forking.exit(status)
    end
    assert.equal("8", worked(finish(engine, id)).body:match " (%d)$")
    assert.equal(0, forking.wait(pid))
    assert.truthy(worked(get(engine, tls.url .. "/echo?id=2")).body:find " GET 2 ")
    engine:close()
  end)
end)
