-- The README's examples are run and its tables compared with the code, so that they stay true.
local emulator = require "integrations.emulator"
local sendgrid = require "integrations.sendgrid"
local integrations = require "integrations.sendgrid.integrations"

local function read_file(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local readme = read_file "README.md"

-- Loads Lua source with an environment, on any Lua.
local function load_with(source, name, environment)
  if rawget(_G, "setfenv") then
    return setfenv(assert(rawget(_G, "loadstring")(source, name)), environment)
  end
  return assert(load(source, name, "t", environment))
end

local function blocks(language)
  local found = {}
  for block in readme:gmatch("\n```" .. language .. "\n(.-)\n```") do
    found[#found + 1] = block
  end
  return found
end

describe("README.md", function()
  -- What the examples see: the real module, with the emulator in place of SendGrid; what they print is kept.
  local function new_environment()
    local service = emulator.new()
    local printed = {}
    local stand_in = {
      new = function(options)
        options.api_key = "SG.emulator.full"
        options.transport = options.transport or service
        return sendgrid.new(options)
      end,
    }
    local environment = {
      require = function(name)
        return name == "integrations.sendgrid" and stand_in or require(name)
      end,
      print = function(...)
        local texts = { ... }
        for i = 1, select("#", ...) do
          texts[i] = tostring(texts[i])
        end
        printed[#printed + 1] = table.concat(texts, " ")
      end,
    }
    return setmetatable(environment, { __index = _G }), printed
  end

  -- Each example may use what an earlier one made, as a reader would.
  it("has examples that work and print what they say", function()
    local environment, printed = new_environment()
    local examples = blocks "lua"
    assert.equal(7, #examples)
    for i, example in ipairs(examples) do
      local shared = example:gsub("^local ", ""):gsub("\nlocal ", "\n")
      load_with(shared, "=example " .. i, environment)()
    end
    local expected = {
      "5a1234",
      'destination "segment" is not a known value; did you mean "Segment"?',
      'filters.email_events[1] "opened" is not a known value; did you mean "open"?',
      "5a1234 Events",
      "5a1234 applied nil",
    }
    for i, line in ipairs(expected) do
      assert.equal(line, printed[i])
    end
    assert.truthy(printed[6]:find("^no%-such%-id unknown integrations.delete: not_found"))
    assert.same({ "false", "created", "integrations.get 404 not_applied", "not_found", "2", "subuser-1 true 0",
      "subuser-2 true 0" }, { (table.unpack or unpack)(printed, 7) })
  end)

  it("begins with what it is, two commands and an example", function()
    local screen = {}
    for line in readme:gmatch "[^\n]*" do
      screen[#screen + 1] = line
    end
    local first = table.concat(screen, "\n", 1, 40)
    for _, text in ipairs { "make demo", "make test", 'require "integrations.sendgrid"' } do
      assert.truthy(first:find(text, 1, true), text)
    end
  end)

  local function assert_named(names, where)
    for name in pairs(names) do
      assert.truthy(readme:find(where:format(name), 1, true), "the README does not name " .. name)
    end
  end

  it("has every option", function()
    local class = getmetatable(assert(sendgrid.new { api_key = "SG.test.canary" }))
    assert_named(class.declaration.options.properties, "\n| `%s` |")
  end)

  it("has every method", function()
    local methods = {}
    for name, value in pairs(integrations) do
      if type(value) == "function" and name ~= "new" then
        methods[name] = true
      end
    end
    assert_named(methods, "`sg.integrations:%s(")
    assert_named({ as = true, close = true }, "`sg:%s(")
  end)

  it("has every kind of failure, and every event", function()
    local kinds = {}
    local source = read_file "lua/integrations/failure.lua"
    for kind in source:match("%-%-%-@alias integrations.Kind\n(.-)\n\n"):gmatch '| "([%w_]+)"' do
      kinds[kind] = true
    end
    assert.is_true(kinds.invalid and kinds.closed)
    assert_named(kinds, "\n| `%s` |")
    local events = {}
    for _, event in ipairs(integrations.declaration.schemas.IntegrationInput
      .properties.filters.properties.email_events.items.enum) do
      events[event] = true
    end
    assert_named(events, "%s")
  end)
end)
