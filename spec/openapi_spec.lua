-- The declarations against SendGrid's own description of the API, which is not part of this project.
local cjson = require "cjson"
local core = require "integrations.core"
local integrations = require "integrations.sendgrid.integrations"

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

-- Where this project knows more than the document: a patch that changes nothing is refused.
local ours_alone = { minProperties = true }

local function compare(document, theirs, ours, path)
  theirs = resolve(document, theirs)
  for _, word in ipairs { "type", "default", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems" } do
    assert.equal(theirs[word], ours[word], path .. ": " .. word)
  end
  assert.same(sorted(theirs.required), sorted(ours.required), path .. ": required")
  assert.same(sorted(theirs.enum), sorted(ours.enum), path .. ": enum")
  assert.same(keys(theirs.properties), keys(ours.properties), path .. ": properties")
  for name, property in pairs(theirs.properties or {}) do
    compare(document, property, ours.properties[name], path .. "." .. name)
  end
  assert.equal(theirs.items == nil, ours.items == nil, path .. ": items")
  if theirs.items then
    compare(document, theirs.items, ours.items, path .. "[]")
  end
  for word in pairs(ours) do
    local known = theirs[word] ~= nil or ours_alone[word]
    assert.is_true(known, path .. ": the document has no " .. word)
  end
end

describe("SendGrid's description of the Integrations API", function()
  local document = read_document "sendgrid_integrations_v3.json"
  if not document then
    pending("is not in " .. folder .. ": set INTEGRATIONS_OPENAPI to the folder that has it")
    return
  end

  for name, schema in pairs(integrations.declaration.schemas) do
    it("has the schema " .. name .. ", field by field", function()
      compare(document, document.components.schemas[name], schema, name)
    end)
  end

  local function operation_at(path, method)
    for _, operation in pairs(integrations.declaration.operations) do
      if operation.path == path and operation.method == method then
        return operation
      end
    end
  end

  local function compare_parameters(theirs, ours)
    assert.equal(#(theirs or {}), #(ours or {}))
    for i, parameter in ipairs(theirs or {}) do
      assert.equal(parameter.name, ours[i].name)
      assert.equal(parameter["in"], ours[i]["in"])
      assert.equal(parameter.schema.type, ours[i].schema.type)
    end
  end

  local count = 0
  for path, methods in pairs(document.paths) do
    for method, described in pairs(methods) do
      count = count + 1
      it(("has %s %s, with its parameters and its body"):format(method:upper(), path), function()
        local operation = operation_at(path, method:upper())
        assert.is_table(operation)
        compare_parameters(described.parameters, operation.parameters)
        local body = described.requestBody and described.requestBody.content["application/json"].schema["$ref"]
        assert.equal(body and body:match "[^/]+$", operation.body)
      end)
    end
  end

  it("has no operation that is not declared here, nor the other way round", function()
    assert.equal(count, #keys(integrations.declaration.operations))
  end)

  it("has examples that pass the check", function()
    local count_checked = 0
    for _, methods in pairs(document.paths) do
      for _, described in pairs(methods) do
        local content = described.requestBody and described.requestBody.content["application/json"]
        if content then
          local name = content.schema["$ref"]:match "[^/]+$"
          assert.is_true(core.schema(integrations.declaration.schemas[name])(content.example))
          count_checked = count_checked + 1
        end
      end
    end
    assert.equal(2, count_checked)
  end)
end)
