--- Turns the declaration of a service into its methods. Pure: a request is built, a response is
--- read; who sends it is not known here.
---
--- A declaration: `name`, `schemas`, and `operations`, each with
---   method, path             `/v3/…/{id}`, as in the API's document
---   parameters               { name, in = "path"|"query", schema, many? }; `many`: one or an array,
---                            sent comma-delimited
---   body                     the name of a schema
---   body_name                what faults of the body as a whole are called (`input`, `patch`)
---   result                   { identity, field?, array? }: where the result is in the response's
---                            body, and which field all things there have; absent: the call
---                            returns true
---   idempotent               sent twice it does no more than once: such a write may be repeated
---                            where the caller allows it (option retry_writes). A GET always is
---   removes                  what it is about is gone afterwards
---@see integrations.sendgrid.integrations
local call = require "integrations.call"
local failure = require "integrations.failure"
local json = require "integrations.json"

local service = {}

-- ---- arguments ------------------------------------------------------------------------------

-- A value of such a type is a slip in the program, not in its data.
local never_data = { ["function"] = true, thread = true, userdata = true }

local function refuse_misuse(operation_name, argument_name, value)
  if never_data[type(value)] and value ~= json.null then
    error(("%s: %s must be data, not a %s"):format(operation_name, argument_name, type(value)), 0)
  end
end

-- Adds what the schema finds wrong with the value to the faults.
local function check(argument, value, lenient, faults)
  local ok, violations = argument.check(value, lenient, argument.root)
  if ok then
    return true
  end
  for _, violation in ipairs(violations) do
    if violation.field == "" then
      violation.field = argument.name
    end
    faults[#faults + 1] = violation
  end
  return false
end

--- Text as it may stand in a path or a query: all but unreserved characters as %XX (RFC 3986).
---@param text string
---@return string
function service.percent_encode(text)
  return (text:gsub("[^%w%-%._~]", function(character)
    return ("%%%02X"):format(character:byte())
  end))
end

-- What an id may not hold, because something on the way could take it for a part of the address.
-- The rest is percent-encoded.
local unsafe = {
  { "^$", "must not be empty" },
  { "^%.%.?$", 'must not be "." or ".."' },
  { "[/\\]", "must not have a slash" },
  { "%c", "must not have control characters" },
}
local unsafe_in_list = { { ",", "must not have a comma: it would be taken for two" } }

local function find_unsafe(text, rows)
  for _, row in ipairs(rows) do
    if text:find(row[1]) then
      return row[2]
    end
  end
end

local function check_id(text, field, faults, rows)
  local message = find_unsafe(text, rows)
  if message then
    faults[#faults + 1] = { field = field, message = message }
  end
end

--- A plain copy of an array that a schema has accepted, read as raw as the schema reads.
---@param array table
---@return table
function service.list(array)
  local list = {}
  local element = rawget(array, 1)
  while element ~= nil do
    list[#list + 1] = element
    element = rawget(array, #list + 1)
  end
  return list
end

-- How an argument becomes the text to send, by where it goes.
local readers = {}

readers.path = function(argument, value, _, faults)
  check_id(value, argument.name, faults, unsafe)
  return service.percent_encode(value)
end

readers.query = function(argument, values, request, faults)
  local encoded = {}
  values = service.list(values)
  for i, value in ipairs(values) do
    local field = ("%s[%d]"):format(argument.name, i)
    check_id(value, field, faults, unsafe)
    check_id(value, field, faults, unsafe_in_list)
    encoded[i] = service.percent_encode(value)
  end
  request.values[argument.name] = values
  return table.concat(encoded, ",")
end

readers.body = function(argument, value)
  return json.encode(value, argument.schema)
end

-- ---- requests -------------------------------------------------------------------------------

-- Reads one argument: the text to send, and the value as an array where it may be one. Without a
-- text there are new faults.
local function read_argument(operation_name, argument, value, lenient, request, faults)
  refuse_misuse(operation_name, argument.name, value)
  if argument.many and type(value) ~= "table" then
    value = { value }
  end
  if check(argument, value, lenient, faults) then
    return argument.read(argument, value, request, faults), value
  end
end

-- Checks all arguments before anything is said about one of them, so that the caller hears of
-- every fault at once. Returns the texts to send by argument name, or the faults.
local function read_arguments(operation, request, lenient, ...)
  local faults, texts = {}, {}
  for i, argument in ipairs(operation.arguments) do
    local value = (select(i, ...))
    texts[argument.name] = read_argument(operation.name, argument, value, lenient, request, faults)
  end
  if #faults > 0 then
    return nil, faults
  end
  return texts
end

local function build_url(operation, session, texts)
  local path = operation.path:gsub("{([%w_]+)}", texts)
  local query = operation.query and "?" .. operation.query .. "=" .. texts[operation.query] or ""
  return session.base_url .. path .. query
end

-- The request of a call, or nil and a failure.
local function build_request(operation, session, ...)
  local request = { method = operation.method, headers = session.headers, values = {} }
  if #operation.arguments == 0 then
    request.url = session.base_url .. operation.path
    return request
  end
  local texts, faults = read_arguments(operation, request, session.strict == false, ...)
  if not texts then
    return nil, failure.invalid(operation.name, faults)
  end
  request.url = build_url(operation, session, texts)
  if operation.body then
    request.body = texts[operation.body_name]
    request.headers = session.body_headers
  end
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

local function is_thing(value, identity)
  return type(value) == "table" and type(value[identity]) == "string"
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

local function read_success(operation, response)
  local result = operation.result
  if not result and response.body == "" then
    return true
  end
  local value = json.decode(response.body)
  if not result and value ~= nil then
    return true
  elseif result and result.field and type(value) == "table" then
    value = value[result.field]
  end
  local is_right = result and (result.array and is_list or is_thing)
  if is_right and is_right(value, result.identity) then
    return value
  end
  return nil, protocol_failure(operation, response, service.describe_body(response.body))
end

-- Whether "not found" is what a removal wanted to hear: an earlier attempt has removed it. Of several
-- things it does not tell which, and a web page does not tell it of anything.
local function is_gone(operation, failed, request, response)
  if not (operation.removes and request.doubtful and failed.kind == "not_found") or is_web_page(response.body) then
    return false
  end
  for _, values in pairs(request.values) do
    if #values > 1 then
      return false
    end
  end
  return true
end

local function read_refusal(session, operation, response, request)
  local failed = session.read_failure(operation, response, request, function(text)
    return session.transport:redact(text)
  end)
  if is_gone(operation, failed, request, response) then
    return true
  end
  return nil, failed
end

-- Reads a response: the result, or nil and a failure whose outcome call.lua decides.
local function read(session, operation, response, request)
  if response.status >= 200 and response.status < 300 then
    return read_success(operation, response)
  elseif response.status < 400 then
    return nil, protocol_failure(operation, response,
      "the answer points elsewhere; it is not followed, since the credentials belong to one host: check base_url")
  end
  return read_refusal(session, operation, response, request)
end

-- ---- declarations ---------------------------------------------------------------------------

--- A check that is compiled when it is first used: whoever only requires a client should not have
--- to wait until libcurl and its thirty libraries are loaded.
---@param schema table
---@return fun(value: any, lenient: boolean, root?: string): true?, integrations.Fault[]?
function service.compile(schema)
  local compiled
  return function(value, lenient, root)
    compiled = compiled or require("integrations.core").schema(schema)
    return compiled(value, lenient, root)
  end
end

local function new_argument(name, kind, declaration, many)
  return {
    name = name,
    schema = declaration,
    check = service.compile(declaration),
    many = many,
    read = readers[kind],
    root = kind ~= "body" and name or nil,
  }
end

local function compile_operation(service_name, name, declared, schemas)
  local operation = {
    name = service_name .. "." .. name,
    method = declared.method,
    path = declared.path,
    body = declared.body,
    body_name = declared.body_name or "input",
    result = declared.result,
    safe = declared.method == "GET",
    idempotent = declared.idempotent,
    removes = declared.removes,
    read = read,
    arguments = {},
  }
  for _, parameter in ipairs(declared.parameters or {}) do
    local kind = parameter["in"]
    table.insert(operation.arguments, new_argument(parameter.name, kind, parameter.schema, parameter.many))
    operation.query = kind == "query" and parameter.name or operation.query
  end
  if declared.body then
    table.insert(operation.arguments, new_argument(operation.body_name, "body", schemas[declared.body]))
    operation.fields = service.fields(schemas[declared.body])
  end
  return operation
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
---@return fun(self: table, operation_name: string, value: any): integrations.Fault[]?
function service.checker(name, schema)
  local argument = new_argument(name, "body", schema)
  argument.root = schema.type == "array" and name or nil
  return function(self, operation_name, value)
    local faults = {}
    refuse_misuse(operation_name, name, value)
    check(argument, value, self.session.strict == false, faults)
    return faults[1] and faults
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
  local faults = {}
  local operation = getmetatable(self).operations[operation_name]
  for _, argument in ipairs(operation.arguments) do
    if argument.name == argument_name then
      local lenient = self.session.strict == false
      local _, list = read_argument(helper, argument, value, lenient, { values = {} }, faults)
      return list, faults[1] and faults
    end
  end
end

--- The same object with one deadline for all that it does from now on: for helpers that send
--- several requests.
---@param self table
---@param share? number how much of the time that is left it may use, for what must leave some (1)
---@return table
function service.bounded(self, share)
  local session = self.session
  local now = session.now()
  local left = session.deadline and session.deadline - now or session.timeout
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
    local operation = compile_operation(declaration.name, name, declared, declaration.schemas)
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
      return call.perform(session, operation, request)
    end
  end
  --- An object that sends its requests by this session: transport, base_url, headers, limits.
  function class.new(session)
    return setmetatable({ session = session }, class)
  end
  return class
end

return service
