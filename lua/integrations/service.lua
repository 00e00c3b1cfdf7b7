--- Turns the declaration of a service into its methods. Pure: a request is built, a response is
--- read; who sends it is not known here.
---
--- A declaration: `name`, `schemas`, `forms` (by a field's name, see integrations.Form), `refused` (whether the body of
--- a 2xx answer says that nothing came of it), `unsure_statuses` (those that a service may also give after it has
--- written: the answer has to say that it has not), and `operations`, each with
---   method, path             `/v3/…/{id}`, as in the API's document
---   parameters               { name, in = "path"|"query"|"body", schema, required?, many? }, each an argument. Of a
---                            query those that are not `required` are fields of one table, the last argument. A field
---                            of the body needs no schema: the body's has it. `many`: one or an array, sent
---                            comma-delimited
---   body                     the name of a schema
---   body_name                what faults of the body as a whole are called (`input`, `patch`)
---   result                   where the result is in the response's body; absent: the call returns true
---     field                  in this field of it
---     array                  a list of things
---     identity               the field that every thing has
---     alone                  a thing may stand where the list belongs: a list of one
---     value                  no thing is there, but this: it is what the call returns
---     page                   the list is a page of a longer one; the call returns { offset, count, total }, too
---   statuses                 what a status means here: { kind, message }, see integrations.refusal
---   idempotent               sent twice it does no more than once: such a write may be repeated
---                            where the caller allows it (option retry_writes). A GET always is
---   once_with                a field of the body with which a second request may mean something else: after an unknown
---                            outcome it is not repeated then
---   removes                  what it is about is gone afterwards
---@see integrations.sendgrid.integrations
local arguments = require "integrations.arguments"
local call = require "integrations.call"
local failure = require "integrations.failure"
local json = require "integrations.json"

local service = {}

-- ---- requests -------------------------------------------------------------------------------

local function build_url(operation, session, state)
  local path = operation.path:gsub("{([%w_]+)}", state.texts)
  local query = state.query and "?" .. table.concat(state.query, "&") or ""
  return session.base_url .. path .. query
end

-- The request of a call, or nil and a failure.
local function build_request(operation, session, ...)
  local request = { method = operation.method, headers = session.headers }
  if #operation.arguments == 0 then
    request.url = session.base_url .. operation.path
    return request
  end
  local state, faults = arguments.read(operation, session.strict == false, ...)
  if not state then
    return nil, failure.invalid(operation.name, faults)
  end
  request.url = build_url(operation, session, state)
  request.lists = state.lists
  request.body = state.body
  request.once = operation.once_with and rawget(state.input, operation.once_with) ~= nil
  request.headers = state.body and session.body_headers or session.headers
  return request
end

-- ---- responses ------------------------------------------------------------------------------

local function protocol_failure(operation, response, message)
  return failure.new {
    kind = "protocol",
    operation = operation.name,
    status = response.status,
    message = message,
  }
end

local function is_web_page(body)
  return body:find("^%s*<") ~= nil
end

--- What a body looks like that is not what it should be, for people.
---@param body string
---@return string
function service.describe_body(body)
  if body == "" then
    return "the answer is empty"
  elseif is_web_page(body) then
    return "the answer is a web page, not JSON: something between here and the service sent it"
  end
  return "the answer is not the JSON that the service documents"
end

-- Without an identity any object is one.
local function is_thing(value, identity)
  return type(value) == "table" and (identity == nil or type(value[identity]) == "string")
end

-- A list is decoded into the positions 1 to #value; anything else in it shows as another key.
local function is_list(value, identity)
  if type(value) ~= "table" then
    return false
  end
  for i = 1, #value do
    if not is_thing(value[i], identity) then
      return false
    end
  end
  return #value > 0 or next(value) == nil
end

local function read_page(body)
  local page = {}
  for _, name in ipairs { "offset", "count", "total" } do
    page[name] = type(body[name]) == "number" and math.floor(body[name]) or nil -- an integer where Lua has some
  end
  return page
end

-- What the declaration says of the result, in a body that is JSON; nil where it is not there.
local function find_result(declared, body, request)
  local value = body
  if declared.field then
    value = type(body) == "table" and body[declared.field] or nil
  end
  if value == nil and declared.alone and is_thing(body, declared.identity) then
    value = { body }
  end
  if declared.value ~= nil then
    return value == declared.value and value or nil
  end
  local is_right = declared.array and is_list or is_thing
  if not is_right(value, declared.identity) then
    return nil
  end
  request.page = declared.page and read_page(body) or nil
  return value
end

-- Whether "not found" is what a removal wanted to hear: an earlier attempt has removed it. Of several
-- things it does not tell which, and a web page does not tell it of anything.
local function is_gone(operation, verdict, request, response)
  if not (operation.removes and request.doubtful and verdict.gone) or is_web_page(response.body) then
    return false
  end
  for _, list in pairs(request.lists or {}) do
    if #list > 1 then
      return false
    end
  end
  return true
end

local function read_refusal(session, operation, response, request)
  local failed, verdict = session.read_failure(operation, response, request, session)
  if is_gone(operation, verdict, request, response) then
    return true
  end
  return nil, failed, not verdict.is_sure
end

local function read_success(session, operation, response, request)
  local declared = operation.result
  if not declared and response.body == "" then
    return true
  end
  local body = json.decode(response.body)
  if operation.refused and type(body) == "table" and operation.refused(body) then
    local result, failed = read_refusal(session, operation, response, request)
    return result, failed, true
  end
  local result
  if declared then
    result = find_result(declared, body, request)
  elseif body ~= nil then
    result = true
  end
  if result == nil then
    return nil, protocol_failure(operation, response, service.describe_body(response.body))
  end
  return result
end

-- Reads a response: the result, or nil and a failure whose outcome call.lua decides, and whether even a status that
-- speaks for itself leaves it open.
local function read(session, operation, response, request)
  if response.status >= 200 and response.status < 300 then
    return read_success(session, operation, response, request)
  elseif response.status < 400 then
    return nil, protocol_failure(operation, response,
      "the answer points elsewhere; it is not followed, since the credentials belong to one host: check "
        .. session.address)
  end
  return read_refusal(session, operation, response, request)
end

-- ---- declarations ---------------------------------------------------------------------------

local function compile_operation(declaration, name, declared)
  local schemas = declaration.schemas
  return {
    name = declaration.name .. "." .. name,
    method = declared.method,
    path = declared.path,
    result = declared.result,
    statuses = declared.statuses,
    safe = declared.method == "GET",
    refused = declaration.refused,
    unsure_statuses = declaration.unsure_statuses or {},
    idempotent = declared.idempotent,
    once_with = declared.once_with,
    removes = declared.removes,
    read = read,
    arguments = arguments.compile_all(declared, schemas, declaration.forms),
    fields = declared.body and service.fields(schemas[declared.body]),
  }
end

--- Raises where a method was called with a dot, or with another object's method.
---@param self any
---@param class table
---@param name string `integrations.find`
function service.check_self(self, class, name)
  if type(self) ~= "table" or getmetatable(self) ~= class then
    error("call it with a colon: " .. name:gsub("%.([%w_]+)$", ":%1"), 3)
  end
end

--- The fields of a schema, with those of its objects: name, dotted path and schema of each.
---@param schema table
---@return { name: string, path: string, schema: table }[]
function service.fields(schema)
  local fields = {}
  local function collect(properties, prefix)
    for name, child in pairs(properties) do
      local field = { name = name, path = prefix .. name, schema = child }
      fields[#fields + 1] = field
      collect(child.properties or {}, field.path .. ".")
    end
  end
  collect(schema.properties or {}, "")
  return fields
end

--- A check for the argument of a helper, with the rules of all arguments.
---@param name string what faults of the argument as a whole are called
---@param schema table
---@param forms? table<string, integrations.Form>
---@return fun(self: table, operation_name: string, value: any): integrations.Fault[]?
function service.checker(name, schema, forms)
  local argument = arguments.new(name, schema, forms)
  return function(self, operation_name, value)
    return select(2, arguments.check(operation_name, argument, value, self.session.strict == false))
  end
end

--- Checks an argument as an operation would, for a helper that sends it in parts.
---@param self table
---@param helper string `integrations.delete_many`
---@param operation_name string whose argument it is
---@param argument_name string
---@param value any
---@return any value as an array where the argument may be one
---@return integrations.Fault[]? faults
function service.read_argument(self, helper, operation_name, argument_name, value)
  for _, argument in ipairs(getmetatable(self).operations[operation_name].arguments) do
    if argument.name == argument_name then
      return arguments.check(helper, argument, value, self.session.strict == false)
    end
  end
end

--- The faults of several arguments in one list, or nil.
---@param first? integrations.Fault[]
---@param second? integrations.Fault[]
---@return integrations.Fault[]?
function service.join_faults(first, second)
  local faults = {}
  for _, list in ipairs { first or {}, second or {} } do
    for _, fault in ipairs(list) do
      faults[#faults + 1] = fault
    end
  end
  return faults[1] and faults
end

--- The same object with one deadline for all that it does from now on: for helpers that send
--- several requests.
---@param self table
---@param share? number how much of the time that is left it may use, for what must leave some (1)
---@param seconds? number no more than these (the client's timeout, where nothing has bounded it yet)
---@return table
function service.bounded(self, share, seconds)
  local session = self.session
  local now = session.now()
  local left = seconds or session.timeout
  if session.deadline then
    left = math.min(session.deadline - now, seconds or math.huge)
  end
  local bounded = setmetatable({ deadline = now + left * (share or 1) }, { __index = session })
  return setmetatable({ session = bounded }, getmetatable(self))
end

--- Makes the class of a service: a method for each operation. Helpers are added by the caller.
---@param declaration table
---@return table class `class.new(session)` makes an object
function service.define(declaration)
  local class = { declaration = declaration, operations = {} }
  class.__index = class
  for name, declared in pairs(declaration.operations) do
    local operation = compile_operation(declaration, name, declared)
    class.operations[name] = operation
    class[name] = function(self, ...)
      service.check_self(self, class, operation.name)
      local session = self.session
      if session.closed then
        return nil, failure.closed(operation.name)
      end
      local request, invalid = build_request(operation, session, ...)
      if not request then
        return nil, invalid
      end
      local result, failed = call.perform(session, operation, request)
      if failed or request.page then
        return result, failed or request.page
      end
      return result -- and nothing else: it may be printed
    end
  end
  --- An object that sends its requests by this session: transport, base_url, headers, limits.
  function class.new(session)
    return setmetatable({ session = session }, class)
  end
  return class
end

return service
