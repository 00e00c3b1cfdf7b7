-- The declarations against SendGrid's own descriptions of its APIs, which are not part of this project.
local cjson = require "cjson"
local core = require "integrations.core"

-- `ours_alone`: what the document says in words only, by the path of what it is about.
local services = {
  {
    title = "the Integrations API",
    file = "sendgrid_integrations_v3.json",
    module = "integrations.sendgrid.integrations",
    ours_alone = { ["IntegrationPatch minProperties"] = true },
    examples = 2,
  },
  {
    title = "Segments 2.0",
    file = "sendgrid_mc_segments_2.0_v3.json",
    module = "integrations.sendgrid.segments",
    ours_alone = {
      ["SegmentUpdate minProperties"] = true,
      ["SegmentWriteV2.parent_list_ids maxItems"] = true, -- one for now
    },
    examples = 3,
  },
}

local folder = os.getenv "INTEGRATIONS_OPENAPI" or "../shared/openapi"

local function read_document(name)
  local file = io.open(folder .. "/" .. name, "rb")
  if not file then
    return nil
  end
  local text = file:read "*a"
  file:close()
  return cjson.decode(text)
end

-- Follows `$ref`; what stands beside it describes the same thing.
local function resolve(document, schema)
  local name = schema["$ref"] and schema["$ref"]:match "^#/components/schemas/(.+)$"
  return name and resolve(document, document.components.schemas[name]) or schema
end

local function sorted(list)
  local copy = {}
  for i, value in ipairs(list or {}) do
    copy[i] = value
  end
  table.sort(copy)
  return copy
end

local function keys(map)
  local names = {}
  for name in pairs(map or {}) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

local words = { "type", "default", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "minimum",
  "minProperties" }

local function compare(context, theirs, ours, path)
  theirs = resolve(context.document, theirs)
  for _, word in ipairs(words) do
    if not context.ours_alone[path .. " " .. word] then
      assert.equal(theirs[word], ours[word], path .. ": " .. word)
    end
  end
  assert.same(sorted(theirs.required), sorted(ours.required), path .. ": required")
  assert.same(sorted(theirs.enum), sorted(ours.enum), path .. ": enum")
  assert.same(keys(theirs.properties), keys(ours.properties), path .. ": properties")
  for name, property in pairs(theirs.properties or {}) do
    compare(context, property, ours.properties[name], path .. "." .. name)
  end
  assert.equal(theirs.items == nil, ours.items == nil, path .. ": items")
  if theirs.items then
    compare(context, theirs.items, ours.items, path .. "[]")
  end
  for word in pairs(ours) do
    local known = theirs[word] ~= nil or context.ours_alone[path .. " " .. word]
    assert.is_true(known, path .. ": the document has no " .. word)
  end
end

-- A document's methods under a path, and the parameters that all of them have.
local verbs = { get = true, post = true, put = true, patch = true, delete = true }

local function operations_of(document)
  local operations = {}
  for path, item in pairs(document.paths) do
    for method, described in pairs(item) do
      if verbs[method] then
        local parameters = {}
        for _, source in ipairs { item.parameters or {}, described.parameters or {} } do
          for _, parameter in ipairs(source) do parameters[#parameters + 1] = parameter end
        end
        operations[#operations + 1] = { path = path, method = method:upper(), parameters = parameters,
          described = described }
      end
    end
  end
  return operations
end

-- The JSON of an operation's body, which may be described elsewhere.
local function body_of(document, described)
  local body = described.requestBody
  local name = body and body["$ref"] and body["$ref"]:match "[^/]+$"
  body = name and document.components.requestBodies[name] or body
  return body and body.content["application/json"]
end

local function has_list_type(ours, theirs)
  return ours == theirs or ours == "array" and theirs == "string" -- a text that is a list, in words
end

for _, row in ipairs(services) do
  local declaration = require(row.module).declaration

  describe("SendGrid's description of " .. row.title, function()
    local document = read_document(row.file)
    if not document then
      pending("is not in " .. folder .. ": set INTEGRATIONS_OPENAPI to the folder that has it")
      return
    end
    local context = { document = document, ours_alone = row.ours_alone }

    for name, schema in pairs(declaration.schemas) do
      it("has the schema " .. name .. ", field by field", function()
        assert.is_table(document.components.schemas[name], "the document has no schema " .. name)
        compare(context, document.components.schemas[name], schema, name)
      end)
    end

    local function operation_at(path, method)
      for _, operation in pairs(declaration.operations) do
        if operation.path == path and operation.method == method then
          return operation
        end
      end
    end

    local described_operations = operations_of(document)
    for _, theirs in ipairs(described_operations) do
      it(("has %s %s, with its parameters and its body"):format(theirs.method, theirs.path), function()
        local operation = operation_at(theirs.path, theirs.method)
        assert.is_table(operation)
        local ours = operation.parameters or {}
        assert.equal(#theirs.parameters, #ours)
        for i, parameter in ipairs(theirs.parameters) do
          assert.same({ parameter.name, parameter["in"] }, { ours[i].name, ours[i]["in"] })
          assert.equal(parameter["in"] == "query" and parameter.required or nil, ours[i].required)
          assert.is_true(has_list_type(ours[i].schema.type, parameter.schema.type))
        end
        local content = body_of(document, theirs.described)
        assert.equal(content and content.schema["$ref"]:match "[^/]+$", operation.body)
      end)
    end

    it("has no operation that is not declared here, nor the other way round", function()
      assert.equal(#described_operations, #keys(declaration.operations))
    end)

    -- Of a schema, and of an operation's body.
    local function examples()
      local found = {}
      for name, schema in pairs(document.components.schemas) do
        found[#found + 1] = declaration.schemas[name] and schema.example and { name, schema.example } or nil
      end
      for _, operation in ipairs(described_operations) do
        local content = body_of(document, operation.described)
        found[#found + 1] = content and content.example and { content.schema["$ref"]:match "[^/]+$", content.example }
      end
      return found
    end

    it("has examples that pass the check", function()
      local found = examples()
      for _, example in ipairs(found) do
        local ok, faults = core.schema(declaration.schemas[example[1]])(example[2])
        assert.is_true(ok, example[1] .. ": " .. cjson.encode(faults or {}))
      end
      assert.equal(row.examples, #found)
    end)
  end)
end
