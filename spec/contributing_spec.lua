-- CONTRIBUTING.md shows how an operation is added: here it is added.
local clients = require "spec.support.clients"
local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"

local MODULE = "integrations.sendgrid.segments"

local function read_file(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local function load_text(source, name, environment)
  if rawget(_G, "setfenv") then
    return setfenv(assert(rawget(_G, "loadstring")(source, name)), environment)
  end
  return assert(load(source, name, "t", environment))
end

local function blocks()
  local found = {}
  for block in read_file "CONTRIBUTING.md":gmatch "\n```lua\n(.-)\n```" do
    found[#found + 1] = block
  end
  return found
end

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
    local schema, operation, spec = (table.unpack or unpack)(blocks())
    local source = with(with(read_file "lua/integrations/sendgrid/segments.lua", schema), operation)
    package.loaded[MODULE] = load_text(source, "=segments", _G)()
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
    load_text(spec, "=spec", environment)()
    assert.is_true(ran)
  end)
end)
