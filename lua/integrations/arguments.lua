--- Turns the arguments of a call into what is sent: texts of the address, and the body. Pure.
---
--- Where an argument goes is its `place`:
---   path     a part of the path
---   query    a query parameter by itself
---   options  a table of the query parameters that may be left out
---   field    a field of the body by itself
---   body     the body, to which the fields are added
local json = require "integrations.json"

local arguments = {}

-- ---- checks ---------------------------------------------------------------------------------

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

--- A check that is compiled when it is first used: whoever only requires a client should not have
--- to wait until libcurl and its thirty libraries are loaded.
---@param schema table
---@return fun(value: any, lenient: boolean, root?: string): true?, integrations.Fault[]?
function arguments.compile(schema)
  local compiled
  return function(value, lenient, root)
    compiled = compiled or require("integrations.core").schema(schema)
    return compiled(value, lenient, root)
  end
end

--- Text as it may stand in a path or a query: all but unreserved characters as %XX (RFC 3986).
---@param text string
---@return string
function arguments.percent_encode(text)
  return (text:gsub("[^%w%-%._~]", function(character)
    return ("%%%02X"):format(character:byte())
  end))
end

--- A plain copy of an array that a schema has accepted, read as raw as the schema reads.
---@param array table
---@return table
function arguments.list(array)
  local list = {}
  local element = rawget(array, 1)
  while element ~= nil do
    list[#list + 1] = element
    element = rawget(array, #list + 1)
  end
  return list
end

--- One table of several, read raw; a later one counts.
---@param ... table
---@return table
function arguments.merge(...)
  local merged = {}
  for _, source in ipairs { ... } do
    for name, value in next, source do
      merged[name] = value
    end
  end
  return merged
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

-- ---- forms ----------------------------------------------------------------------------------

--- How a field is sent that may be written in more than one way.
---@class integrations.Form
---@field name? string what it is called today
---@field convert? fun(value: any): any
---@field check? fun(field: string, value: any, faults: integrations.Fault[]) for what no schema can say

--- An array may stand for a comma-separated text.
---@type integrations.Form
arguments.joined = {
  convert = function(value)
    return type(value) == "table" and table.concat(arguments.list(value), ",") or value
  end,
  check = function(field, value, faults)
    for i, element in ipairs(type(value) == "table" and arguments.list(value) or {}) do
      if type(element) == "string" then
        check_id(element, ("%s[%d]"):format(field, i), faults, unsafe_in_list)
      end
    end
  end,
}

--- A comma-separated text may stand for an array.
---@type integrations.Form
arguments.split = {
  convert = function(value)
    if type(value) ~= "string" then
      return value
    end
    local list = {}
    for part in value:gmatch "[^,]+" do
      local first = part:find "%S" -- linear, like the next one, however many blanks there are
      list[#list + 1] = first and part:match("^.*%S", first)
    end
    return list
  end,
}

--- An older name of a field.
---@param name string of today
---@return integrations.Form
function arguments.renamed(name)
  return { name = name }
end

-- What no schema finds: a field under both its names, and what its form cannot hold.
local function check_forms(fields, forms, faults)
  for name, form in pairs(type(fields) == "table" and forms or {}) do
    local value = rawget(fields, name)
    if value ~= nil and form.name and rawget(fields, form.name) ~= nil then
      faults[#faults + 1] = { field = name, message = ("is another name of %s: give one of the two"):format(form.name) }
    elseif value ~= nil and form.check then
      form.check(name, value, faults)
    end
  end
end

--- A checked body as the service wants it.
---@param fields table
---@param forms? table<string, integrations.Form> by the field's name
---@return table
function arguments.in_form(fields, forms)
  if not forms then
    return fields
  end
  local sent = arguments.merge(fields)
  for name, form in pairs(forms) do
    local value = sent[name]
    if value ~= nil then
      sent[name] = nil
      sent[form.name or name] = form.convert and form.convert(value) or value
    end
  end
  return sent
end

-- ---- places ---------------------------------------------------------------------------------

-- What a call's arguments come to: `texts` of the path, and where there are some `query`, `fields`, text of the `body`;
-- `faults`. `lists` has those that are one array or one by itself.

local function add_fault(state, field, message)
  state.faults[#state.faults + 1] = { field = field, message = message }
end

-- Of a list, texts are ids.
local function query_element(value, field, state)
  if type(value) == "string" then
    check_id(value, field, state.faults, unsafe)
    check_id(value, field, state.faults, unsafe_in_list)
    return arguments.percent_encode(value)
  elseif type(value) == "table" then -- only a lenient client lets that through
    add_fault(state, field, "must be a string, a number or a boolean to stand in an address")
    return ""
  end
  return json.encode(value)
end

local function query_list(name, values, state)
  local list, encoded = arguments.list(values), {}
  if list[1] == nil then
    add_fault(state, name, "must be a list to stand in an address")
  end
  for i, value in ipairs(list) do
    encoded[i] = query_element(value, ("%s[%d]"):format(name, i), state)
  end
  state.lists = state.lists or {}
  state.lists[name] = list
  return table.concat(encoded, ",")
end

local function add_query(name, value, state)
  local text
  if type(value) == "table" then
    text = query_list(name, value, state)
  else
    text = arguments.percent_encode(type(value) == "string" and value or json.encode(value))
  end
  state.query = state.query or {}
  state.query[#state.query + 1] = arguments.percent_encode(name) .. "=" .. text
end

local function as_list(argument, value)
  return argument.many and type(value) ~= "table" and { value } or value
end

local places = {}

places.path = function(argument, value, state)
  if check(argument, value, state.lenient, state.faults) then
    check_id(value, argument.name, state.faults, unsafe)
    state.texts[argument.name] = arguments.percent_encode(value)
  end
end

places.query = function(argument, value, state)
  value = as_list(argument, value)
  if not check(argument, value, state.lenient, state.faults) then
    return
  elseif type(value) == "string" then
    check_id(value, argument.name, state.faults, unsafe)
  end
  add_query(argument.name, value, state)
end

local function sorted_names(fields)
  local names = {}
  for name in pairs(fields) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

-- In the order of the declaration; what only a lenient client lets through follows.
places.options = function(argument, value, state)
  if type(value) == "nil" then -- LuaJIT's NULL pointers equal nil, too
    return
  end
  local options = type(value) == "table" and arguments.merge(value) or value
  for _, parameter in ipairs(type(value) == "table" and argument.parameters or {}) do
    if options[parameter.name] ~= nil then
      options[parameter.name] = as_list(parameter, options[parameter.name])
    end
  end
  if not check(argument, options, state.lenient, state.faults) then
    return
  end
  for _, parameter in ipairs(argument.parameters) do
    if options[parameter.name] ~= nil then
      add_query(parameter.name, options[parameter.name], state)
      options[parameter.name] = nil
    end
  end
  for _, name in ipairs(sorted_names(options)) do
    add_query(name, options[name], state)
  end
end

places.field = function(argument, value, state)
  state.fields = state.fields or {}
  state.fields[argument.name] = value
end

-- With fields given by themselves, the rest may be left out.
local function add_fields(value, fields, faults)
  local body = arguments.merge(value or {})
  for name, field in pairs(fields) do
    if body[name] ~= nil and not rawequal(body[name], field) then
      faults[#faults + 1] = { field = name, message = "is given twice, and differs" }
    end
    body[name] = field
  end
  return body
end

places.body = function(argument, value, state)
  if state.fields and (type(value) == "nil" or type(value) == "table") then
    value = add_fields(value, state.fields, state.faults)
  end
  check_forms(value, argument.forms, state.faults)
  if check(argument, value, state.lenient, state.faults) and not state.faults[1] then
    state.input = value
    state.body = json.encode(arguments.in_form(value, argument.forms), argument.schema)
  end
end

local function new_state(lenient)
  return { texts = {}, faults = {}, lenient = lenient }
end

--- Checks all arguments before anything is said about one of them, so that the caller hears of every fault at once.
---@param operation table name, arguments
---@param lenient boolean whether unknown names pass
---@param ... any
---@return table? state `texts` by argument of the path; where there are some `query`, `lists`, `body`, and `input`, of
---  which that was made
---@return integrations.Fault[]? faults
function arguments.read(operation, lenient, ...)
  local state = new_state(lenient)
  for i, argument in ipairs(operation.arguments) do
    local value = (select(i, ...))
    refuse_misuse(operation.name, argument.name, value)
    places[argument.place](argument, value, state)
  end
  if state.faults[1] then
    return nil, state.faults
  end
  return state
end

-- ---- for helpers ----------------------------------------------------------------------------

--- Checks one argument as its operation would, for a helper that sends it in parts or later.
---@param helper string `integrations.delete_many`
---@param argument table
---@param value any
---@param lenient boolean
---@return any value as an array where the argument may be one
---@return integrations.Fault[]? faults
function arguments.check(helper, argument, value, lenient)
  local state = new_state(lenient)
  refuse_misuse(helper, argument.name, value)
  value = as_list(argument, value)
  if argument.place == "body" then
    check_forms(value, argument.forms, state.faults)
    check(argument, value, lenient, state.faults)
  else
    places[argument.place](argument, value, state)
  end
  return value, state.faults[1] and state.faults
end

-- ---- declarations ---------------------------------------------------------------------------

local function new_argument(place, name, schema)
  return {
    place = place,
    name = name,
    schema = schema,
    check = schema and arguments.compile(schema),
    root = (place == "path" or place == "query") and name or nil,
  }
end

--- An argument that is no operation's, for the helpers: faults of its own fields have their plain paths.
---@param name string what faults of the argument as a whole are called
---@param schema table
---@param forms? table<string, integrations.Form>
---@return table
function arguments.new(name, schema, forms)
  local argument = new_argument("body", name, schema)
  argument.forms = forms
  argument.root = schema.type == "array" and name or nil
  return argument
end

local function is_option(parameter)
  return parameter["in"] == "query" and not parameter.required
end

local function new_options(declared)
  local schema, parameters = { type = "object", properties = {} }, {}
  for _, parameter in ipairs(declared) do
    if is_option(parameter) then
      schema.properties[parameter.name] = parameter.schema
      table.insert(parameters, parameter)
    end
  end
  if not parameters[1] then
    return nil
  end
  local argument = new_argument("options", "options", schema)
  argument.parameters = parameters
  return argument
end

local place_of = { path = "path", query = "query", body = "field" }

--- The arguments of an operation, in the order in which a caller gives them: the parameters that must be there, the
--- body, and one table of those that may be left out.
---@param declared table an operation's declaration
---@param schemas table<string, table>
---@param forms? table<string, integrations.Form>
---@return table[]
function arguments.compile_all(declared, schemas, forms)
  local all = {}
  for _, parameter in ipairs(declared.parameters or {}) do
    if not is_option(parameter) then
      local argument = new_argument(place_of[parameter["in"]], parameter.name, parameter.schema)
      argument.many = parameter.many
      all[#all + 1] = argument
    end
  end
  if declared.body then
    local argument = new_argument("body", declared.body_name or "input", schemas[declared.body])
    argument.forms = forms
    all[#all + 1] = argument
  end
  all[#all + 1] = new_options(declared.parameters or {})
  return all
end

return arguments
