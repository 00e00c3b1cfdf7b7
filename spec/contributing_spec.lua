-- CONTRIBUTING.md shows how an operation is added: here it is added.
local clients = require "spec.support.clients"
local documents = require "spec.support.documents"
local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"
local process = require "spec.support.process"

local MODULE = "integrations.sendgrid.segments"

-- The module's source with the block put where its first line says.
local function with(source, block)
  local place = assert(block:match "^%-%- in (%w+)\n")
  local changed, count = source:gsub("\n  " .. place .. " = {\n", function(line)
    return line .. block .. "\n"
  end)
  assert.equal(1, count)
  return changed
end

describe("CONTRIBUTING.md", function()
  local real = require(MODULE)

  after_each(function()
    package.loaded[MODULE] = real
    package.loaded["integrations.sendgrid"] = nil
  end)

  it("adds an operation by a declaration and a spec", function()
    local blocks = documents.blocks(process.read_file "CONTRIBUTING.md", "lua")
    local schema, operation, spec = (table.unpack or unpack)(blocks)
    local source = with(with(process.read_file "lua/integrations/sendgrid/segments.lua", schema), operation)
    package.loaded[MODULE] = documents.load(source, "=segments", _G)()
    package.loaded["integrations.sendgrid"] = nil
    local sendgrid = require "integrations.sendgrid"

    local ran = false
    local environment = setmetatable({
      assert = assert,
      clients = clients,
      faults_of = faults_of,
      it = function(_, run)
        run()
        ran = true
      end,
      segment = function(fields)
        return { status = 200, body = ('{"id":"%s"}'):format(fields.id) }
      end,
      answered = function(answers)
        local transport = fake_transport.new(answers)
        local sg = assert(sendgrid.new { api_key = "SG.test.canary", base_url = "http://127.0.0.1:1",
          transport = transport })
        return sg.segments, transport.requests
      end,
    }, { __index = _G })
    documents.load(spec, "=spec", environment)()
    assert.is_true(ran)
  end)
end)
