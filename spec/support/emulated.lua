--- Asks an emulator without a client, and judges its answers.
local assert = require "luassert"

local emulated = {}

--- Sends a request with the headers of a correct client.
---@param emulator integrations.emulator.Emulator
---@param right table<string, string> these headers
---@param request { method: string, url: string, body: string?, headers: table<string, string|false>? } whose own
---  headers override those; false leaves one out
---@return integrations.emulator.Response
function emulated.ask(emulator, right, request)
  local sent = {}
  if request.body then sent["content-type"] = "application/json" end
  for _, source in ipairs { right, request.headers or {} } do
    for name, value in pairs(source) do sent[name] = value or nil end
  end
  return emulator:handle { method = request.method, url = request.url, headers = sent, body = request.body }
end

--- A response is this status and this body, and calls it JSON where there is one.
function emulated.expect(status, body, response)
  assert.same({ status, body }, { response.status, response.body })
  assert.equal(body ~= "" and "application/json" or nil, response.headers["content-type"])
end

return emulated
