--- What the specs of nginx run inside of it, in its LuaJIT.
local cjson = require("cjson").new()
local core = require "integrations.core"
local sendgrid = require "integrations.sendgrid"
local settings = require "spec_settings" -- which the spec has written: the options that every client has

-- luacheck: read_globals ngx

local inside = {}

cjson.encode_invalid_numbers "null" -- an answer may have had 1e999

--- A client of the spec's upstream.
---@param options? table on top of the settings
function inside.client(options)
  local all = {}
  for _, source in ipairs { settings, options or {} } do
    for name, value in pairs(source) do all[name] = value end
  end
  return assert(sendgrid.new(all))
end

local clients = {}

--- The client with this name, which every request of a worker shares.
function inside.shared(name, options)
  clients[name] = clients[name] or inside.client(options)
  return clients[name]
end

-- A failure is a table with a metatable, which JSON would not show.
local function describe_failure(failed)
  if type(failed) ~= "table" then return nil end
  local described = { text = tostring(failed) }
  for name, value in pairs(failed) do described[name] = value end
  return described
end

-- What a call came to: its result and its second value, or its failure, or what it raised.
local function outcome_of(call)
  local started = core.now()
  local ok, result, extra = pcall(call)
  local elapsed = core.now() - started
  if not ok then return { raised = tostring(result), elapsed = elapsed } end
  if result == nil then return { failed = describe_failure(extra), elapsed = elapsed } end
  return { result = result, extra = extra, elapsed = elapsed }
end

--- Answers the request with what a call comes to.
function inside.reply(call)
  local seen = outcome_of(call)
  ngx.print(cjson.encode(seen))
end

--- Keeps what a call comes to under a name, for where nothing can be answered; see `noted`.
function inside.note(name, call)
  ngx.shared.notes:set(name, cjson.encode(outcome_of(call)))
end

--- Answers the request with what was kept under the name that it asks for, if anything was.
function inside.noted()
  ngx.print(ngx.shared.notes:get(ngx.var.arg_name) or "")
end

return inside
