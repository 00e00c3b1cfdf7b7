--- A stateful stand-in for the services, for demonstrations and for users' own tests.
--
-- It answers a request table with a response table and does no input or output of its own, so the same code serves as
-- a transport inside a program and, through `integrations.emulator.server`, over real HTTP. It deliberately shares no
-- code with the client: a fault in the client must not be able to hide behind the same fault here.
--
-- This file knows HTTP and bookkeeping only. What a service answers is declared in a module of its own, see
-- `integrations.emulator.sendgrid`, `segments` and `rocketchat`. Nothing mutable lives outside an emulator value.

local json = require "integrations.emulator.json"
local rocketchat = require "integrations.emulator.rocketchat"
local sendgrid = require "integrations.emulator.sendgrid"
local sendgrid_segments = require "integrations.emulator.segments"
local url = require "integrations.emulator.url"

---@class integrations.emulator.Request
---@field method string upper case
---@field url string absolute, or starting at the path
---@field headers? table<string, string|string[]> names in any case
---@field body? string

---@class integrations.emulator.Response
---@field status integer
---@field headers table<string, string> names in lower case
---@field body string "" where there is none

---@class integrations.emulator.Answer what `respond_next` queues
---@field status integer 200 to 599
---@field headers? table<string, string|number>
---@field body? string|table a table is sent as JSON
---@field times? integer how many requests get it; 1 if absent
---@field method? string only requests with this method get it

---@class integrations.emulator.Options
---
--- SendGrid:
---@field quota? integer integrations per user and per subuser; 10 if absent
---@field partial_deletes? boolean a bulk delete that is refused for an unknown id deletes the others all the same
---@field keys? table<string, { user_id: string, scopes: string[]? }> the API keys that exist; no `scopes`: every scope
---@field subusers? string[] the `on-behalf-of` values that exist; any, if absent
---
--- SendGrid's segments:
---@field pending_reads? integer how many times a new query is still read as PENDING; 1 if absent
---@field segments_list_shape? "results"|"flat" "flat": a list answers as the OpenAPI schema literally says, with
--- one segment and no array around it, for where there is exactly one; "results" if absent
---@field free_user? boolean the account is a free one: it may not refresh
---
--- Rocket.Chat:
---@field rocketchat_users? table<string, table<string, { permissions: string[]? }>> the users that exist, by id, each
--- with its tokens; no `permissions`: every permission
---@field rocketchat_wording? "newer"|"older" how a wrong request is refused, as by servers of today or older ones;
--- "newer" if absent
---@field rocketchat_rate_limit? integer calls to each route within a second; no limit if absent
---@field two_factor? { method: string, code: string } what every write has to bring a second time; nothing if absent

---@class integrations.emulator.Emulator
---@field requests table[] the ledger: { method, url, headers, body } of the last requests since the last reset
local Emulator = {}
Emulator.__index = Emulator

local SERVICES = { sendgrid, sendgrid_segments, rocketchat }

local LEDGER_LIMIT = 1000
local BODY_LIMIT = 1024 * 1024
local CONTROL_PREFIX = "_emulator"

-- The request ---------------------------------------------------------------------------------------------------------

local function header_text(value)
  if type(value) == "table" then return table.concat(value, ", ") end
  if type(value) == "number" and value % 1 == 0 then return ("%d"):format(value) end
  return tostring(value)
end

local function lower_names(headers)
  local lower = {}
  for name, value in pairs(headers or {}) do lower[name:lower()] = header_text(value) end
  return lower
end

local function read_request(request)
  if type(request) ~= "table" or type(request.method) ~= "string" or type(request.url) ~= "string" then
    error("a request is a table with a method and a url", 3)
  end
  local segments, query = url.parse(request.url)
  return {
    method = request.method,
    url = request.url,
    headers = lower_names(request.headers),
    body = request.body,
    segments = segments,
    query = query,
  }
end

-- The response --------------------------------------------------------------------------------------------------------

--- Makes a response; a string body is sent as it is, a table as JSON, nil not at all.
local function reply(status, body, headers)
  local response = { status = status, headers = lower_names(headers), body = "" }
  if body == nil then return response end
  response.body = type(body) == "string" and body or json.encode(body)
  if response.body ~= "" and not response.headers["content-type"] then
    response.headers["content-type"] = "application/json"
  end
  return response
end

local function allow(methods)
  local names = {}
  for name in pairs(methods) do names[#names + 1] = name end
  table.sort(names)
  return { allow = table.concat(names, ", ") }
end

-- The checks of every request: each returns nothing, or a status, a message and headers -----------

local MEDIA_RANGES = { ["application/json"] = 3, ["application/*"] = 2, ["*/*"] = 1 }

local function quality(range)
  return tonumber(range:match(";%s*[qQ]%s*=%s*([%d.]+)") or 1) or 1
end

--- Whether an Accept header allows JSON: the most specific range that covers it decides.
local function accepts_json(accept)
  local best, allowed = 0, false
  for range in (accept or ""):gmatch("[^,]+") do
    local rank = MEDIA_RANGES[range:match("^%s*([^;%s]*)"):lower()] or 0
    if rank > best then best, allowed = rank, quality(range) > 0 end
  end
  return allowed
end

local function check_url(_, call)
  if not call.segments then return 400, "malformed URL" end
end

--- Fills in the parameters of a path; nil if the route's path is another one.
local function match_path(pattern, segments)
  if #pattern ~= #segments then return nil end
  local parameters = {}
  for index, expected in ipairs(pattern) do
    local name, segment = expected:match("^{(.+)}$"), segments[index]
    if name and segment ~= "" then
      parameters[name] = segment
    elseif expected ~= segment then
      return nil
    end
  end
  return parameters
end

local function check_route(service, call)
  for index, route in ipairs(service.routes) do
    call.parameters = match_path(service.patterns[index], call.segments)
    if call.parameters then
      call.route = route
      return nil
    end
  end
  return 404
end

local function check_method(_, call)
  call.operation = call.route.methods[call.method]
  if not call.operation then return 405, nil, allow(call.route.methods) end
end

local function authorize(service, call)
  return service:authorize(call)
end

local function check_accept(service, call)
  if service.needs_accept and not accepts_json(call.headers.accept) then return 406 end
end

local function check_size(_, call)
  if #(call.body or "") > BODY_LIMIT then return 413 end
end

local function check_content_type(_, call)
  if (call.body or "") == "" then return nil end
  local media = (call.headers["content-type"] or ""):match("^%s*([^;%s]*)%s*;?"):lower()
  if media ~= "application/json" then return 415 end
end

local function check_body(_, call)
  if not call.operation.takes_body then return nil end
  call.input = json.decode(call.body or "")
  if call.input == nil then return 400, "request body is not valid JSON" end
  if not json.is_object(call.input) then return 400, "request body must be a JSON object" end
end

local CHECKS = {
  check_url, check_route, check_method, authorize, check_accept, check_size, check_content_type, check_body,
}

local function answer_call(service, call)
  for _, check in ipairs(CHECKS) do
    local status, message, headers = check(service, call)
    if status then return reply(status, service:problem(status, message, call), headers) end
  end
  return reply(call.operation.handler(service, call))
end

local function dispatch(service, call)
  local response = answer_call(service, call)
  for name, value in pairs(call.answer_headers or {}) do response.headers[name] = value end
  return response
end

local function starts_with(path, prefix)
  for index, segment in ipairs(prefix) do
    if path[index] ~= segment then return false end
  end
  return true
end

--- The service that claims a path: the one with the longest prefix. One of them has an empty prefix, and so claims what
--- nobody else does, even what is no path at all.
local function find_service(services, path)
  local found
  for _, service in ipairs(services) do
    if starts_with(path or {}, service.prefix) and not (found and #found.prefix > #service.prefix) then
      found = service
    end
  end
  return found
end

-- Queued answers ------------------------------------------------------------------------------------------------------

local function whole_number(low, high)
  return function(value)
    return type(value) == "number" and value % 1 == 0 and value >= low and value <= high
  end
end

local function of_type(expected)
  return function(value) return type(value) == expected end
end

local function are_headers(headers)
  if type(headers) ~= "table" then return false end
  for name, value in pairs(headers) do
    local is_value = type(value) == "number" or type(value) == "string" and not value:find("%c")
    if type(name) ~= "string" or not name:find("^[%w_-]+$") or not is_value then return false end
  end
  return true
end

--- What each field of a queued answer must be.
local ANSWER_FIELDS = {
  status = { check = whole_number(200, 599), text = "status must be a whole number from 200 to 599" },
  headers = { check = are_headers, text = "headers must be a table of names and texts or numbers, without line ends" },
  body = { check = function(value) return type(value) == "string" or type(value) == "table" end,
    text = "body must be a string or a table" },
  times = { check = whole_number(1, 2 ^ 31), text = "times must be a whole number from 1" },
  method = { check = of_type "string", text = "method must be a string" },
}

local function check_answer(answer)
  if type(answer) ~= "table" then return "an answer is a table with a status" end
  if answer.status == nil then return "status is required" end
  for name, value in pairs(answer) do
    local field = ANSWER_FIELDS[name]
    if not field then return "unknown field " .. tostring(name) end
    if not field.check(value) then return field.text end
  end
end

--- A copy whose body is already bytes: later changes to the caller's tables do not reach the queue.
local function copy_answer(answer)
  local body = answer.body
  if type(body) == "table" then body = json.encode(body) end
  return {
    status = math.floor(answer.status),
    headers = answer.headers and lower_names(answer.headers),
    body = body,
    times = answer.times or 1,
    method = answer.method,
  }
end

local function take_answer(answers, method)
  for index, answer in ipairs(answers) do
    if answer.method == nil or answer.method == method then
      answer.times = answer.times - 1
      if answer.times == 0 then table.remove(answers, index) end
      return answer
    end
  end
end

local function send_answer(service, call, queued)
  local status, body = queued.status, queued.body
  -- What an error looks like may depend on what is asked.
  if call.segments then check_route(service, call) end
  if body == nil and status >= 400 then body = service:problem(status, nil, call) end
  return reply(status, body, queued.headers or service:queued_headers(status))
end

-- Control over HTTP: /_emulator/… -------------------------------------------------------------------------------------

local function control_respond_next(emulator, call)
  local answer = json.decode(call.body or "")
  if not json.is_object(answer) then return reply(400, { error = "the body must be a JSON object" }) end
  for name, value in pairs(answer) do
    if value == json.null then answer[name] = nil end
  end
  local fault = check_answer(answer)
  if fault then return reply(400, { error = fault }) end
  emulator:respond_next(answer)
  return reply(204)
end

local function control_reset(emulator)
  emulator:reset()
  return reply(204)
end

local function control_requests(emulator)
  return reply(200, json.array(emulator.requests))
end

local function control_health()
  return reply(200, { status = "ok" })
end

local CONTROLS = {
  reset = { POST = control_reset },
  ["respond-next"] = { POST = control_respond_next },
  requests = { GET = control_requests },
  health = { GET = control_health },
}

local function control(emulator, call)
  local methods = #call.segments == 2 and CONTROLS[call.segments[2]]
  if not methods then return reply(404, { error = "no such control" }) end
  local action = methods[call.method]
  if not action then return reply(405, { error = "method not allowed" }, allow(methods)) end
  return action(emulator, call)
end

-- The emulator --------------------------------------------------------------------------------------------------------

--- Notes a request, without the headers that carry a secret, whichever service it went to: it may be the wrong one.
local function record(emulator, call)
  local headers = {}
  for name, value in pairs(call.headers) do headers[name] = value end
  for _, service in ipairs(emulator._services) do
    for _, name in ipairs(service.secret_headers) do headers[name] = nil end
  end
  local requests = emulator.requests
  requests[#requests + 1] = { method = call.method, url = call.url, headers = headers, body = call.body }
  if #requests > LEDGER_LIMIT then table.remove(requests, 1) end
end

--- Answers one request. Raises only for a request that is not one (no method, no url).
---@param request integrations.emulator.Request
---@return integrations.emulator.Response
function Emulator:handle(request)
  local call = read_request(request)
  if call.segments and call.segments[1] == CONTROL_PREFIX then return control(self, call) end
  local service = find_service(self._services, call.segments)
  record(self, call)
  local queued = take_answer(self._answers, call.method)
  if queued then return send_answer(service, call, queued) end
  call.state = self._states[service.name]
  return dispatch(service, call)
end

--- The client's transport interface: the same as `handle`.
---@param request integrations.emulator.Request
---@return integrations.emulator.Response
function Emulator:send(request)
  return self:handle(request)
end

--- Forgets everything: the services' state, the queued answers, the ledger. Ids start over.
function Emulator:reset()
  self.requests = {}
  self._answers = {}
  self._states = {}
  for _, service in ipairs(self._services) do self._states[service.name] = service:new_state() end
end

--- Queues an answer for the next request, or for the next `times` requests with this `method`. Such a request has no
--- effect. An error status without a body gets the one that the service documents, and a 429 without headers gets its
--- rate-limit headers. Raises for an answer that cannot be sent.
---@param answer integrations.emulator.Answer
function Emulator:respond_next(answer)
  local fault = check_answer(answer)
  if fault then error(fault, 2) end
  self._answers[#self._answers + 1] = copy_answer(answer)
end

local emulator = {}

--- Makes one service and splits the paths of its routes once.
local function start_service(module, options)
  local service = module.new(options)
  service.patterns = {}
  for index, route in ipairs(service.routes) do service.patterns[index] = url.parse_path(route.path) end
  return service
end

--- Makes an emulator with no integrations and no segments in it.
---@param options? integrations.emulator.Options
---@return integrations.emulator.Emulator
function emulator.new(options)
  local services = {}
  for index, module in ipairs(SERVICES) do services[index] = start_service(module, options or {}) end
  local self = setmetatable({ _services = services }, Emulator)
  self:reset()
  return self
end

return emulator
