--- The service as many calls at a time see it: one integration, after a while or at once.
local support = require "bench.support"

-- Whose user it is tells which connection the answer came over.
local ANSWER = '{"integration_id":"%s","user_id":"%s","filters":{"email_events":["drop","bounce"]},'
  .. '"properties":{"write_key":"canary","destination_region":"EU"},"label":"Integration","destination":"Segment"}'

local LOCATIONS = [[
    location ~ ^/(?<delay>\d+)ms(?<spread>-spread)?/v3/marketing/integrations/(?<id>[\w-]+)$ {
      default_type application/json;
${headers}
      content_by_lua_block {
        local share = ngx.var.spread ~= "" and 0.5 + math.random() or 1
        ngx.sleep(ngx.var.delay / 1000 * share)
        local body = ('${answer}'):format(ngx.var.id, ngx.var.connection)
        ngx.header.content_length = #body
        ngx.print(body)
      }
    }
    location ~ ^/now/v3/marketing/integrations/(?<id>[\w-]+)$ {
      default_type application/json;
${headers}
      return 200 '${now}';
    }
]]

local upstream = {}

--- Starts it, hands it to `use`, and stops it. Below `/200ms` of its address an answer takes 200 ms, below
--- `/200ms-spread` between 100 and 300 ms, below `/now` no time.
---@param cpu integer? where it has to stay
---@param use fun(server: integrations.emulator.Server)
---@param tls boolean? with HTTP/2
function upstream.with(cpu, use, tls)
  local certificates = tls and support.certificates() or nil
  local locations = support.fill(LOCATIONS, {
    headers = support.service_headers,
    answer = ANSWER,
    now = ANSWER:format("$id", "$connection"),
  })
  support.with_server({ locations = locations, tls = certificates, http2 = tls }, cpu, use)
end

return upstream
