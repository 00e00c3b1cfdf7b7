--- Where in nginx code may wait without holding the worker up.
local task = require "integrations.task"

local nginx_phase = {}

-- The others run to their end before anything else of the worker does. Two that nginx's documents add need an OpenSSL
-- that can be suspended there: with Debian's the handshake fails, or the coroutine never comes back.
local waiting = {
  rewrite = true, server_rewrite = true, access = true, content = true, timer = true, ssl_cert = true,
}

--- Whether this is nginx, in one of its phases in which a request may wait.
---@return boolean
function nginx_phase.is_waiting()
  local ngx = rawget(_G, "ngx")
  return ngx ~= nil and ngx.get_phase ~= nil and waiting[ngx.get_phase()] or false
end

-- Of coroutines that are not nginx's own it knows nothing: what waits in one crashes the worker.
local function is_unknown_to_nginx()
  local running = task.running()
  return running ~= nil and running.driver.plain == true
end

--- Whether this very place can wait: not in a callback of table.sort or string.gsub.
---@return boolean
function nginx_phase.can_wait()
  return nginx_phase.is_waiting() and require("integrations.core").is_yieldable() and not is_unknown_to_nginx()
end

return nginx_phase
