--- Calls that meet at a server: for whoever wants to know how many are there at once, and on which connections.
local gathering = {}

--- A location for integrations.emulator.server. /gathering answers once `wanted` requests are there, or when it has
--- waited for so many `seconds`: with its connection, and how many there were.
gathering.LOCATION = [[
  location = /gathering {
    content_by_lua_block {
      local there = package.loaded.gathering or { now = 0, most = 0 }
      package.loaded.gathering = there
      there.now = there.now + 1
      there.most = math.max(there.most, there.now)
      local deadline = ngx.now() + ngx.var.arg_seconds
      while there.most < tonumber(ngx.var.arg_wanted) and ngx.now() < deadline do ngx.sleep(0.002) end
      ngx.print(ngx.var.connection, " ", there.most)
      there.now = there.now - 1
      there.most = there.now > 0 and there.most or 0
    }
  }
]]

--- Submits calls that wait for each other there.
---@param options { url: string, count: integer, wanted: integer?, seconds: number } wanted: all of them
---@return integer[] ids
function gathering.submit(engine, options)
  local url = ("%s/gathering?wanted=%d&seconds=%g"):format(options.url, options.wanted or options.count,
    options.seconds)
  local ids = {}
  for i = 1, options.count do
    ids[i] = assert(engine:submit("GET", url, nil, nil, 30000 + options.seconds * 10000))
  end
  return ids
end

--- An answer's connection, and how many requests were there.
---@return string connection
---@return integer there
function gathering.read(response, problem)
  assert(response, problem and problem.message)
  local connection, there = response.body:match "^(%d+) (%d+)$"
  return connection, tonumber(there)
end

--- Lets calls meet and waits for them.
---@param finish fun(engine, id): table?, table?
---@return table<string, true> connections
---@return integer used how many connections that is
---@return integer there how many requests there were at once
function gathering.meet(engine, finish, options)
  local connections, used, most = {}, 0, 0
  for _, id in ipairs(gathering.submit(engine, options)) do
    local connection, there = gathering.read(finish(engine, id))
    used = used + (connections[connection] and 0 or 1)
    connections[connection] = true
    most = math.max(most, there)
  end
  return connections, used, most
end

return gathering
