--- The service as the specs of nginx meet it: an emulator in an nginx of its own, which can also be late or silent.
local cjson = require "cjson"
local emulator_server = require "integrations.emulator.server"
local nginx = require "support.nginx"

local upstream = {}

-- /after/100/v3/… answers like /v3/… 100 ms later; /silent/v3/… never does, and counts who came and who left.
local LOCATIONS = [[
  location ~ ^/after/(?<milliseconds>\d+)(?<rest>/.*)$ {
    access_by_lua_block { ngx.sleep(ngx.var.milliseconds / 1000) }
    proxy_pass http://127.0.0.1:$server_port$rest$is_args$args;
  }
  location ^~ /silent/ {
    lua_check_client_abort on;
    content_by_lua_block {
      local ledger = ngx.shared.ledger
      ngx.req.read_body()
      ledger:incr("begun", 1, 0)
      ngx.on_abort(function()
        ledger:incr("left", 1, 0)
        ngx.exit(499)
      end)
      ngx.sleep(30)
    }
  }
  location = /count {
    content_by_lua_block {
      local ledger = ngx.shared.ledger
      ngx.print(ledger:get("begun") or 0, " ", ledger:get("left") or 0)
    }
  }
]]

local HEADERS = {
  accept = "application/json",
  authorization = "Bearer SG.emulator.full",
  ["content-type"] = "application/json",
}

local Upstream = {}
Upstream.__index = Upstream

local function ask(self, path, options)
  local status, body = nginx.ask(self.server.port, path, options):receive()
  assert(status and status < 300, body)
  return body
end

--- Forgets everything; keeps this many integrations. Returns their ids.
---@param count? integer
---@return string[]
function Upstream:reset(count)
  ask(self, "/_emulator/reset", { method = "POST" })
  local ids = {}
  for i = 1, count or 0 do
    ids[i] = cjson.decode(ask(self, "/v3/marketing/integrations", {
      method = "POST",
      headers = HEADERS,
      body = cjson.encode {
        destination = "Segment",
        filters = { email_events = { "open" } },
        properties = { write_key = "a123456", destination_region = "EU" },
        label = "Number " .. i,
      },
    })).integration_id
  end
  self.before = count or 0
  return ids
end

--- The requests that came since the last reset.
function Upstream:requests()
  local requests = cjson.decode((ask(self, "/_emulator/requests")))
  for _ = 1, self.before do table.remove(requests, 1) end
  return requests
end

--- The next request gets this answer instead of the right one.
function Upstream:respond_next(answer)
  ask(self, "/_emulator/respond-next", { method = "POST", body = cjson.encode(answer) })
end

--- How many calls met silence so far, and how many of these have left.
---@return integer begun
---@return integer left
function Upstream:silenced()
  local begun, left = ask(self, "/count"):match "(%d+) (%d+)"
  return tonumber(begun), tonumber(left)
end

function Upstream:stop()
  self.server:stop()
end

function upstream.start()
  local server = assert(emulator_server.start {
    options = { quota = 1000 },
    servers = "lua_shared_dict ledger 1m;",
    locations = LOCATIONS,
  })
  return setmetatable({ server = server, url = server.url, before = 0 }, Upstream)
end

return upstream
