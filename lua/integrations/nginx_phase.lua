--- Where in nginx code may wait without holding the worker up.
local nginx_phase = {}

-- The others run to their end before anything else of the worker does.
local waiting = {
  rewrite = true, server_rewrite = true, access = true, content = true, timer = true, preread = true,
  ssl_cert = true, ssl_session_fetch = true, ssl_client_hello = true,
}

--- Whether this is nginx, in one of its phases in which a request may wait.
---@return boolean
function nginx_phase.can_wait()
  local ngx = rawget(_G, "ngx")
  return ngx ~= nil and ngx.get_phase ~= nil and waiting[ngx.get_phase()] or false
end

return nginx_phase
