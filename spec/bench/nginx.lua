--- What calls cost the worker that makes them, and those that it serves meanwhile.
local support = require "bench.support"
local upstream = require "bench.upstream"

local row = support.row

local ROUNDS, SECONDS = 5, 5

-- Nobody is pinned, other than elsewhere: worker, thread, service and load take a tenth of a processor each, and
-- who has to stay on one waits there for whoever else runs, for milliseconds, while another one is idle. Beside
-- other work, p99 of an idle worker was 1.1 to 2.6 ms with the worker on one processor and the others on another,
-- and 0.4 ms with nobody pinned.

-- One process is nginx's master and its only worker, so nothing else can answer. A client is made at its first
-- call, and kept.
local WORKER = [[
  init_worker_by_lua_block {
    package.cpath = "${cpath};" .. package.cpath
    local sendgrid = require "integrations.sendgrid"
    local function call(transport)
      local sg
      return function()
        sg = sg or assert(sendgrid.new { api_key = "SG.test.canary", base_url = "${service}", transport = transport })
        local body = assert(sg.integrations:get "3f2a6c1e-0000-4000-8000-000000000001").integration_id
        ngx.header.content_length = #body
        ngx.print(body)
      end
    end
    package.loaded["bench.calls"] = { own = call(), direct = call "curl" }
  }
]]
local LOCATIONS = [[
    location = /ping { content_by_lua_block { ngx.header.content_length = 4 ngx.print "pong" } }
    location = /call { content_by_lua_block { require("bench.calls").own() } }
    location = /direct { content_by_lua_block { require("bench.calls").direct() } }
]]

local function with_worker(service, use)
  local cpath = support.here() .. "/build/luajit/?.so"
  local servers = support.fill(WORKER, { cpath = cpath, service = service })
  support.with_server({ servers = servers, locations = LOCATIONS }, nil, use)
end

-- nginx runs LuaJIT, whatever this process runs.
local function build()
  local output = support.run "${MAKE:-make} -s LUA=luajit all && echo made"
  if not output:find "made\n$" then error("the core for LuaJIT: " .. output, 0) end
  support.compile "load"
end

-- For the comparison only: one round is enough.
local DIRECT = {
  { title = "libcurl called directly, 1 in flight", path = "/direct", loops = 1 },
  { title = "libcurl called directly, 8 in flight", path = "/direct", loops = 8 },
}
-- The most that meets a target: of the 99th percentile, in milliseconds or times that with nothing in flight;
-- of the processor time.
local OWN = {
  { title = "nothing in flight", path = "/ping", loops = 0 },
  { title = "this client, 32 in flight", path = "/call", loops = 32, times_idle = 2 },
  { title = "this client, 256 in flight", path = "/call", loops = 256, p99 = 1.5, busy = 200 },
}

-- The numbers that load.c prints, of each load.
local function measure_loads(worker, rounds, loads)
  local program = ("%s/load %d %s %d"):format(support.work, worker.port, worker.pid, SECONDS)
  local commands = {}
  for i, load in ipairs(loads) do
    commands[i] = ("%s %s %d"):format(program, load.path, load.loops)
  end
  return support.tabulate(rounds, (table.unpack or unpack)(commands))
end

local function report(load, numbers, idle_p99)
  local calls, _, p99, _, busy = (table.unpack or unpack)(numbers)
  row(load.title .. ": p99 of /ping", p99, "%.2f ms", load.times_idle and load.times_idle * idle_p99 or load.p99)
  if load.loops > 0 then row("  calls per second", calls, "%.0f") end
  row("  the worker's processor time per second", busy, "%.0f ms", load.busy)
end

local function measure_worker(worker)
  local direct, own = measure_loads(worker, 1, DIRECT), measure_loads(worker, ROUNDS, OWN)
  local idle_p99 = own[1][3]
  for i, load in ipairs(DIRECT) do
    report(load, direct[i])
  end
  for i, load in ipairs(OWN) do
    report(load, own[i], idle_p99)
  end
end

local function measure()
  build()
  upstream.with(nil, function(service)
    with_worker(service.url .. "/200ms", measure_worker)
  end)
end

return { title = "One nginx worker, calls to a service that takes 200 ms; nobody pinned", measure = measure }
