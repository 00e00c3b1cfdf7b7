-- The README's examples are run and its tables compared with the code, so that they stay true.
local documents = require "spec.support.documents"
local emulator = require "integrations.emulator"
local sendgrid = require "integrations.sendgrid"
local process = require "spec.support.process"
local rocketchat = require "integrations.rocketchat"

local readme = process.read_file "README.md"

describe("README.md", function()
  -- What the examples see: the real modules, with the emulator in place of the services; what they print is kept.
  local function new_environment()
    local service = emulator.new()
    local printed = {}
    local function stand_in(module, credentials)
      return {
        new = function(options)
          for name, value in pairs(credentials) do options[name] = value end
          options.transport = options.transport or service
          return module.new(options)
        end,
      }
    end
    local stand_ins = {
      ["integrations.sendgrid"] = stand_in(sendgrid, { api_key = "SG.emulator.full" }),
      ["integrations.rocketchat"] = stand_in(rocketchat, { user_id = "emulator", auth_token = "RC.emulator.full" }),
    }
    local environment = {
      require = function(name)
        return stand_ins[name] or require(name)
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
    local examples = documents.blocks(readme, "lua")
    assert.equal(10, #examples)
    for i, example in ipairs(examples) do
      local shared = example:gsub("^local ", ""):gsub("\nlocal ", "\n")
      documents.load(shared, "=example " .. i, environment)()
    end
    local expected = {
      "5a1234",
      'destination "segment" is not a known value; did you mean "Segment"?',
      'filters.email_events[1] "opened" is not a known value; did you mean "open"?',
      "Untitled Integration", "Complaints", "true", "1",
      "5a1234 Events",
      "5a1234 applied nil",
      "no-such-id unknown integrations.delete: not_found…",
      "false",
      "VALID", "1", "1", "nil", "All O'Briens", "true",
      "Alerts", "#ops", "Alarms", "true", "rollback 1", "Rollbacks", "1", "true",
      "created", "integrations.get 404 not_applied", "not_found", "2", "subuser-1 true 0", "subuser-2 true 0",
    }
    for i, line in ipairs(expected) do
      local beginning = line:match "^(.*)…$"
      assert.equal(beginning or line, beginning and printed[i]:sub(1, #beginning) or printed[i])
    end
    assert.equal(#expected, #printed)
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

  local modules = {
    { client = sendgrid, name = "sg", options = { api_key = "SG.test.canary" } },
    { client = rocketchat, name = "rc",
      options = { url = "https://chat.example.com", user_id = "u", auth_token = "RC.test.canary" } },
  }

  -- The class of each client, which has its declaration.
  local function class_of(module)
    return getmetatable(assert(module.client.new(module.options)))
  end

  it("has every option", function()
    for _, module in ipairs(modules) do
      assert_named(class_of(module).declaration.options.properties, "\n| `%s` |")
    end
  end)

  it("has every option of the emulator", function()
    local options = {}
    local class = process.read_file "lua/integrations/emulator/init.lua":match "integrations.emulator.Options\n(.-)\n\n"
    for name in class:gmatch "%-%-%-@field ([%w_]+)" do
      options[name] = true
    end
    assert.is_true(options.quota and options.two_factor)
    assert_named(options, "`%s`")
  end)

  it("has every method", function()
    for _, module in ipairs(modules) do
      for part, class in pairs(class_of(module).declaration.services) do
        local methods = {}
        for name, value in pairs(class) do
          methods[name] = type(value) == "function" and name ~= "new" or nil
        end
        assert_named(methods, ("\n| `%s.%s:%%s("):format(module.name, part))
      end
      assert_named({ close = true }, "`" .. module.name .. ":%s(")
    end
    assert_named({ as = true }, "`sg:%s(")
  end)

  it("has every operation, with its request, and an example", function()
    for _, module in ipairs(modules) do
      for part, class in pairs(class_of(module).declaration.services) do
        for name, operation in pairs(class.declaration.operations) do
          local call = ("%s.%s:%s"):format(module.name, part, name)
          local row = readme:match(("\n| `%s%%(([^\n]*)"):format(call:gsub("%p", "%%%0")))
          assert.truthy(row, "there is no row of " .. call)
          local request = ("%s %s"):format(operation.method, operation.path)
          assert.truthy(row:find("`" .. request .. "`", 1, true) or row:find("`" .. request .. "?", 1, true), call)
          local examples = table.concat(documents.blocks(readme, "lua"), "\n")
          assert.truthy(examples:find(call .. "[%s({\"]"), "there is no example of " .. call)
        end
      end
    end
  end)

  it("has every kind of failure, and every event", function()
    local kinds = {}
    local source = process.read_file "lua/integrations/failure.lua"
    for kind in source:match("%-%-%-@alias integrations.Kind\n(.-)\n\n"):gmatch '| "([%w_]+)"' do
      kinds[kind] = true
    end
    assert.is_true(kinds.invalid and kinds.closed)
    assert_named(kinds, "\n| `%s` |")
    local events = {}
    for _, event in ipairs(require("integrations.sendgrid.integrations").declaration.schemas.IntegrationInput
      .properties.filters.properties.email_events.items.enum) do
      events[event] = true
    end
    assert_named(events, "%s")
  end)
end)
