--- What the specs of nginx share: locations whose code runs inside, and what came of it.
local assert = require "luassert"
local cjson = require "cjson"
local nginx = require "support.nginx"
local process = require "support.process"

local pages = {}

--- Inside it is always nginx's LuaJIT, and nobody watches it: what takes long is done under one Lua only, and nothing
--- where a sanitizer watches.
pages.is_first = _VERSION == "Lua 5.4"
pages.is_watched = process.instrumented ~= nil

--- Says so where a spec leaves something out.
function pages.report(text)
  print("\nreport: nginx: " .. text)
end

--- An integration, as Lua source.
pages.INPUT = [[{
  destination = "Segment",
  filters = { email_events = { "open" } },
  properties = { write_key = "b234567", destination_region = "US" },
  label = "Made",
}]]

--- A location that answers with what its code comes to. The code has `inside` (support.nginx_inside) and `argument`
--- (those of the URL).
---@param path string
---@param code string
---@param directives? string
function pages.page(path, code, directives)
  return ([[
    location = %s {
      %s
      content_by_lua_block {
        local inside = require "support.nginx_inside"
        local argument = ngx.req.get_uri_args()
        inside.reply(function() %s end)
      }
    }
  ]]):format(path, directives or "", code)
end

--- The options that every client inside has, as a file for nginx.start.
function pages.settings(options)
  local lines = {}
  for name, value in pairs(options) do lines[#lines + 1] = ("%s = %s,"):format(name, ("%q"):format(value)) end
  return { ["spec_settings.lua"] = "return {\n" .. table.concat(lines, "\n") .. "\n}\n" }
end

local running = {}

--- Starts an nginx whose clients have this base_url, if `options.files` says nothing else, and locations as a list.
function pages.start(base_url, options)
  local started = nginx.start {
    workers = options.workers,
    listen = options.listen,
    main = options.main,
    http = "lua_shared_dict notes 1m;\n" .. (options.http or ""),
    locations = "location = /ping { return 200 pong; }\n" .. table.concat(options.locations, "\n"),
    files = options.files or pages.settings { api_key = "SG.emulator.full", base_url = base_url },
  }
  running[started] = true
  return started
end

--- Stops one that may have written nothing bad, but for what is tolerated. Returns how many seconds it took.
---@param signal? "TERM"|"QUIT"
---@param tolerated? string a pattern
function pages.stop(started, signal, tolerated)
  running[started] = nil
  local faults, seconds = started:stop(signal, tolerated)
  assert.same({}, faults)
  return seconds
end

--- Stops those that tests which failed have left.
function pages.stop_all()
  for started in pairs(running) do started:stop() end
  running = {}
end

--- What a page's code came to: { result, extra } or { failed } or { raised }.
function pages.read(status, body)
  assert.equal(200, status, body)
  return cjson.decode(body)
end

--- The result of a page's code, which had to have one.
function pages.result(started, path)
  local seen = pages.read(started:get(path))
  assert.is_nil(seen.raised or seen.failed and seen.failed.text)
  return seen.result
end

--- The failure of a page's code, which had to have one.
function pages.failed(started, path)
  local seen = pages.read(started:get(path))
  assert.is_nil(seen.raised)
  assert.is_table(seen.failed)
  return seen.failed
end

return pages
