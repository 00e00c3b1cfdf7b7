--- Serves the emulator over real HTTP, by a private nginx on a free port of 127.0.0.1.
--
-- A single process holds the emulator, so there is one state.
local nginx = require "integrations.emulator.nginx"

local server = {}

-- master_process off: one process, so one state, and root stays root, who can read the folder.
local CONFIGURATION = [[
daemon on;
master_process off;
pid ${pid};
error_log ${log} error;
${modules}
events {
  worker_connections 4096;
}
http {
  access_log off;
  server_tokens off;
  default_type "";
  keepalive_timeout 65s;
  keepalive_requests 1000000;
  client_body_buffer_size 2m;
  client_max_body_size 64m;
${temporary}
  lua_package_path ${package_path};
  lua_package_cpath ${package_cpath};
  init_by_lua_block { require "integrations_emulator_instance" }
${servers}
  server {
    listen ${listen};
${tls}
${locations}
    location / {
      content_by_lua_block { require("integrations_emulator_instance")() }
    }
  }
}
]]

--- The Lua module that nginx loads once: the emulator lives in its upvalue.
local INSTANCE = [[
local emulator = require("integrations.emulator").new(%s)
local server = require "integrations.emulator.server"
return function() return server.respond(emulator) end
]]

-- The configuration ---------------------------------------------------------------------------------------------------

local function tls_lines(tls)
  if not tls then return "" end
  local certificate, key = nginx.absolute(tls.certificate), nginx.absolute(tls.key)
  return ("    ssl_certificate %s;\n    ssl_certificate_key %s;\n    ssl_protocols %s;"):format(
    nginx.quote(certificate), nginx.quote(key), tls.protocols or "TLSv1.2 TLSv1.3")
end

--- The folder that holds this project's Lua code, taken from where this very file was loaded.
local function code_folder()
  local source = debug.getinfo(code_folder, "S").source
  local folder = source:match("^@(.*)integrations/emulator/server%.lua$")
  if not folder then error("cannot tell where the emulator's Lua code is: " .. source, 0) end
  return nginx.absolute(folder)
end

local function values(options, port, folder)
  local code = code_folder()
  return {
    package_path = nginx.quote(("%s?.lua;%s?/init.lua;%s/?.lua;;"):format(code, code, folder)),
    package_cpath = nginx.quote(nginx.package_cpath()),
    listen = ("127.0.0.1:%d%s%s"):format(port, options.tls and " ssl" or "", options.http2 and " http2" or ""),
    tls = tls_lines(options.tls),
    locations = options.locations or "",
    servers = options.servers or "",
  }
end

--- Lua source of a value made of tables, strings, numbers and booleans.
local function literal(value)
  if type(value) == "string" then return ("%q"):format(value) end
  if type(value) == "number" then return ("%.17g"):format(value) end
  if type(value) == "boolean" then return tostring(value) end
  if type(value) ~= "table" then error("the emulator's options cannot hold a " .. type(value), 0) end
  local parts = {}
  for key, member in pairs(value) do parts[#parts + 1] = ("[%s]=%s"):format(literal(key), literal(member)) end
  return "{" .. table.concat(parts, ",") .. "}"
end

-- Starting ------------------------------------------------------------------------------------------------------------

---@class integrations.emulator.Server : integrations.emulator.Nginx
---@field url string "http://127.0.0.1:PORT", or https

---@class integrations.emulator.ServerOptions
---@field port? integer a free one, if absent
---@field tls? { certificate: string, key: string, protocols: string? } files in PEM; TLS 1.2 and 1.3, if no `protocols`
---@field http2? boolean without tls this means HTTP/2 with prior knowledge
---@field options? integrations.emulator.Options
---@field locations? string raw nginx configuration inside the server
---@field servers? string raw nginx configuration beside the server

--- Starts nginx with a fresh emulator.
---@param options? integrations.emulator.ServerOptions
---@return integrations.emulator.Server? running, string? message
function server.start(options)
  options = options or {}
  local ok, instance = pcall(literal, options.options or {})
  if not ok then return nil, instance end
  local running, message = nginx.start {
    name = "integrations-emulator",
    template = CONFIGURATION,
    values = function(port, folder) return values(options, port, folder) end,
    files = { ["integrations_emulator_instance.lua"] = INSTANCE:format(instance) },
    port = options.port,
  }
  if not running then return nil, message end
  running.url = ("%s://127.0.0.1:%d"):format(options.tls and "https" or "http", running.port)
  return running
end

-- Inside nginx --------------------------------------------------------------------------------------------------------

-- luacheck: globals ngx

--- The body; nginx keeps one that is larger than its buffer (and so far too large for the emulator) in a file.
local function read_body()
  -- HTTP/2 allows a body without a length, of which the Lua module may not be capable: there is none, then.
  if not pcall(ngx.req.read_body) then return nil end
  local path = ngx.req.get_body_file()
  if not path then return ngx.req.get_body_data() end
  local file = assert(io.open(path, "rb"))
  local body = file:read("*a")
  file:close()
  return body
end

local function read_request()
  local variables = ngx.var
  local host = variables.http_host or variables.host
  return {
    method = ngx.req.get_method(),
    url = variables.scheme .. "://" .. host .. variables.request_uri:gsub("^%a[%w+.-]*://[^/?#]*", ""),
    headers = ngx.req.get_headers(0),
    body = read_body(),
  }
end

--- Answers nginx's current request. For nginx only.
---@param emulator integrations.emulator.Emulator
function server.respond(emulator)
  local response = emulator:handle(read_request())
  ngx.status = response.status
  for name, value in pairs(response.headers) do ngx.header[name] = value end
  if response.body == "" then
    ngx.send_headers()
    return
  end
  if not response.headers["content-length"] then ngx.header["content-length"] = #response.body end
  ngx.print(response.body)
end

return server
