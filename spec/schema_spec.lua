package.path = "./spec/?.lua;" .. package.path

local core = require "integrations.core"
local process = require "support.process"

local INF = 1 / 0
local NAN = 0 / 0
local thread = coroutine.create(function() end)
local MAX_VALUES = 100000

--- The violations as "field message", in the order of the text; {} for a valid value.
local function violations(declaration, value, lenient, name)
  local valid, found = core.schema(declaration)(value, lenient, name)
  if valid then
    assert.same({ true, nil }, { valid, found })
    return {}
  end
  assert.is_nil(valid)
  local lines = {}
  for i, violation in ipairs(found) do
    lines[i] = violation.field .. " " .. violation.message
  end
  table.sort(lines)
  return lines
end

--- Rows of { title, declaration, value, violations... }.
local function check_rows(rows)
  for _, row in ipairs(rows) do
    it(row[1], function()
      local expected = { (table.unpack or unpack)(row, 4) }
      table.sort(expected)
      assert.same(expected, violations(row[2], row[3]))
    end)
  end
end

local function text(...)
  return string.char(...)
end

local function string_of(declaration)
  declaration.type = "string"
  return declaration
end

local function array_of(declaration)
  declaration.type = "array"
  return declaration
end

--- A table whose every metamethod raises, so that whoever runs one is found.
local function guarded(value)
  local function refuse()
    error("a metamethod was run")
  end
  return setmetatable(value, {
    __index = refuse, __newindex = refuse, __pairs = refuse, __ipairs = refuse, __len = refuse, __eq = refuse,
    __tostring = refuse, __concat = refuse, __call = refuse, __lt = refuse, __le = refuse,
  })
end

local integration = {
  type = "object",
  required = { "destination", "properties" },
  properties = {
    destination = { type = "string", enum = { "Segment" } },
    label = { type = "string", maxLength = 5 },
    filters = {
      type = "object",
      properties = {
        email_events = {
          type = "array",
          items = { type = "string", enum = { "delivered", "group_resubscribe", "open", "spam_report" } },
        },
      },
    },
    properties = {
      type = "object",
      required = { "write_key" },
      properties = { write_key = { type = "string", minLength = 1 }, region = { type = "string" } },
    },
  },
}

--- An object whose `type` says which fields it has.
local hook = {
  type = "object",
  required = { "name", "type" },
  properties = { name = { type = "string" }, type = { type = "string", enum = { "incoming", "outgoing" } } },
  additionalProperties = true,
  discriminator = {
    propertyName = "type",
    mapping = {
      incoming = {
        type = "object",
        required = { "channel", "name", "type" },
        properties = { channel = { type = "string" }, name = { type = "string" }, type = { type = "string" } },
      },
      outgoing = {
        type = "object",
        required = { "name", "type", "urls" },
        properties = {
          name = { type = "string", maxLength = 3 }, type = { type = "string" },
          urls = { type = "array", items = { type = "string" } }, id = {}, url = {},
        },
        exactlyOne = { "url", "id" },
      },
    },
  },
}

--- The discriminator of `hook` or, for misuse, one that differs from it.
local function discriminated(changes, others)
  local word = { propertyName = "type", mapping = hook.discriminator.mapping }
  for key, value in pairs(changes) do
    word[key] = value
  end
  local declaration = { type = "object", properties = hook.properties, discriminator = word }
  for key, value in pairs(others or {}) do
    declaration[key] = value
  end
  return declaration
end

local function without(declaration, word)
  local copy = {}
  for key, value in pairs(declaration) do
    if key ~= word then copy[key] = value end
  end
  return copy
end

describe("a schema", function()
  describe("knows the type", function()
    local values = {
      object = { a = 1 }, array = { 1 }, string = "1", number = 1.5, integer = 1, boolean = false,
      ["function"] = print,
    }
    local lua_type = { object = "table", array = "table", integer = "number" }
    local phrases = {
      object = "an object", array = "an array", string = "a string", number = "a number",
      integer = "an integer", boolean = "a boolean", ["function"] = "a function",
    }
    for word, phrase in pairs(phrases) do
      it(word, function()
        local declaration = { type = word, additionalProperties = true }
        assert.same({}, violations(declaration, values[word]))
        for other, value in pairs(values) do
          if (lua_type[other] or other) ~= (lua_type[word] or word) then
            local expected = { (" must be %s, not a %s"):format(phrase, type(value)) }
            assert.same(expected, violations(declaration, value), word .. " for " .. other)
          end
        end
        assert.same({ (" must be %s, not nil"):format(phrase) }, violations(declaration, nil))
        assert.same({ (" must be %s, not a thread"):format(phrase) }, violations(declaration, thread))
        assert.same({ (" must be %s, not a userdata"):format(phrase) }, violations(declaration, io.stdout))
      end)
    end

    it("any, and looks no further", function()
      local cycle = {}
      cycle.cycle = cycle
      for _, value in ipairs { cycle, print, io.stdout, NAN, "\255", { [{}] = print } } do
        assert.same({}, violations({ type = "any" }, value))
      end
      assert.same({}, violations({ type = "any" }, nil))
    end)

    it("that JSON can hold, where none is given", function()
      for _, value in ipairs { "x", 1.5, true, {}, { 1, { a = {} } }, { a = { 1 } } } do
        assert.same({}, violations({}, value))
      end
      assert.same({ " must be a value that JSON can hold, not a function" }, violations({}, print))
      assert.same({ "a[1] must be a value that JSON can hold, not a thread", "b must be a finite number" },
        violations({}, { a = { thread }, b = INF }))
    end)

    it("of several", function()
      local declaration = { type = { "string", "integer", "boolean" } }
      for _, value in ipairs { "x", 1, true } do
        assert.same({}, violations(declaration, value))
      end
      assert.same({ " must be a string or an integer or a boolean, not a table" }, violations(declaration, {}))
      assert.same({ " must be a whole number below 2^53" }, violations(declaration, 1.5))
      assert.same({}, violations({ type = { "integer", "number" } }, 1.5))
    end)

    local json_ok, cjson = pcall(require, "cjson")
    local with_null = json_ok and it or pending
    with_null("of lua-cjson's null, which is none", function()
      assert.same({ " must be a string, not null" }, violations({ type = "string" }, cjson.null))
      assert.same({ "a must be a value that JSON can hold, not null" }, violations({}, { a = cjson.null }))
    end)

    if rawget(_G, "jit") then
      it("of LuaJIT's own values, which are none", function()
        local ffi = require "ffi"
        assert.same({ " must be an integer, not a cdata" }, violations({ type = "integer" }, ffi.new("int64_t", 1)))
      end)
    end
  end)

  describe("bounds", function()
    check_rows {
      { "takes a string of the least length", string_of { minLength = 2 }, "ab" },
      { "refuses a shorter string", string_of { minLength = 2 }, "a", " must have at least 2 characters, not 1" },
      { "says one character", string_of { minLength = 1 }, "", " must have at least 1 character, not 0" },
      { "takes a string of the greatest length", string_of { maxLength = 2 }, "ab" },
      { "refuses a longer string", string_of { maxLength = 2 }, "abc", " must have at most 2 characters, not 3" },
      { "counts characters, not bytes", string_of { minLength = 4, maxLength = 4 },
        "a\195\188\226\130\172\240\159\152\128" },
      { "counts a NUL byte as one", string_of { minLength = 3, maxLength = 3 }, "a\0b" },
      { "counts past a NUL byte", string_of { maxLength = 3 }, "a\0bc", " must have at most 3 characters, not 4" },

      { "takes an array of the least size", array_of { minItems = 2 }, { 1, 2 } },
      { "refuses a smaller array", array_of { minItems = 2 }, { 1 }, " must have at least 2 elements, not 1" },
      { "refuses an empty array", array_of { minItems = 1 }, {}, " must have at least 1 element, not 0" },
      { "takes an array of the greatest size", array_of { maxItems = 2 }, { 1, 2 } },
      { "refuses a larger array", array_of { maxItems = 2 }, { 1, 2, 3 }, " must have at most 2 elements, not 3" },
      { "takes no element where none may be", array_of { maxItems = 0 }, {} },
      { "refuses any where none may be", array_of { maxItems = 0 }, { 1 }, " must have at most 0 elements, not 1" },

      { "takes an object with the fewest fields", { type = "object", minProperties = 1,
        additionalProperties = true }, { a = 1 } },
      { "refuses an object with fewer", { type = "object", minProperties = 2, additionalProperties = true },
        { a = 1 }, " must have at least 2 fields, not 1" },
      { "refuses an empty object", { type = "object", minProperties = 1 }, {}, " must have at least 1 field, not 0" },

      { "takes the minimum and the maximum", array_of { items = { type = "number", minimum = -1.5, maximum = 2 } },
        { -1.5, 2, 0 } },
      { "refuses numbers beyond", array_of { items = { type = "number", minimum = -1.5, maximum = 2 } },
        { -1.75, 2.25 }, "[1] must be at least -1.5, not -1.75", "[2] must be at most 2, not 2.25" },
      { "bounds integers likewise", { type = "integer", minimum = 1 }, 0, " must be at least 1, not 0" },
    }
  end)

  describe("wants exactly one of some fields", function()
    local fields = { a = {}, b = { type = "string" }, c = {} }
    local one = { type = "object", properties = fields, exactlyOne = { "c", "b" } }
    local both = { type = "object", properties = fields, exactlyOne = { "b", "c" }, required = { "a", "b" },
      minProperties = 1 }
    local NONE, SEVERAL = ' must have one of "b", "c"', ' must have only one of "b", "c"'
    check_rows {
      { "and takes either", array_of { items = one }, { { b = "x" }, { c = 1 }, { a = 1, c = false } } },
      { "and refuses none of them", one, { a = 1 }, NONE },
      { "and refuses an empty object", one, {}, NONE },
      { "and refuses several", one, { b = "x", c = 1 }, SEVERAL },
      { "and counts one that is wrong", one, { b = 1 }, "b must be a string, not a number" },
      { "and counts two that are wrong", one, { b = 1, c = print }, SEVERAL, "b must be a string, not a number",
        "c must be a value that JSON can hold, not a function" },
      { "and does not count one that is unknown", one, { x = 1 },
        'x is not a known field; known: "a", "b", "c"', NONE },
      { "beside required fields and a least number", both, {}, NONE, "a is required", "b is required",
        " must have at least 1 field, not 0" },
      { "beside a required one of them", both, { a = 1, c = 2 }, "b is required" },
      { "under a name", { type = "object", properties = { it = one } }, { it = { b = "x", c = 1 } },
        "it" .. SEVERAL },
      { "in an array", array_of { items = one }, { { b = "x" }, {}, { b = "x", c = 1 } }, "[2]" .. NONE,
        "[3]" .. SEVERAL },
      { "but not of another type", { type = { "object", "string" }, properties = fields, exactlyOne = { "b" } }, "x" },
      { "out of one alone", { type = "object", properties = fields, exactlyOne = { "b" } }, {},
        ' must have one of "b"' },
    }

    it("below the name it is given, in lenient mode, too", function()
      assert.same({ "input" .. NONE }, violations(one, { d = 1 }, true, "input"))
      assert.same({}, violations(one, { b = "x", d = 1 }, true))
    end)

    it("among 64", function()
      local declaration = { type = "object", properties = {}, exactlyOne = { "p01", "p64" } }
      for i = 1, 64 do
        declaration.properties[("p%02d"):format(i)] = {}
      end
      assert.same({}, violations(declaration, { p01 = 1, p02 = 2 }))
      assert.same({}, violations(declaration, { p64 = 1, p63 = 2 }))
      assert.same({ ' must have one of "p01", "p64"' }, violations(declaration, { p32 = 1 }))
      assert.same({ ' must have only one of "p01", "p64"' }, violations(declaration, { p01 = 1, p64 = 1 }))
    end)
  end)

  describe("goes by the field that tells objects apart", function()
    local incoming = { type = "incoming", name = "x", channel = "y" }
    local outgoing = { type = "outgoing", name = "x", urls = { "y" }, id = 1 }
    local tree = { type = "object", properties = { hooks = array_of { items = hook }, hook = hook } }
    local kinds = { kind = {} }
    local odd = { type = "object", properties = kinds, discriminator = { propertyName = "kind", mapping = {
      ["a\0b"] = { type = "object", properties = kinds, minProperties = 2 },
      [("long"):rep(25)] = { type = "object", properties = kinds, minProperties = 3 },
      ["1"] = { type = "object", properties = kinds, minProperties = 4 },
      [""] = { type = "object", properties = kinds, minProperties = 5 },
    } } }
    local NO_TYPE = "type must be a string, not a "
    check_rows {
      { "and takes one", hook, incoming },
      { "and takes another", hook, outgoing },
      { "and wants what that one requires", hook, { type = "incoming" }, "channel is required", "name is required" },
      { "and does not know the other's fields", hook, { type = "incoming", name = "x", channel = "y", urls = {} },
        'urls is not a known field; known: "channel", "name", "type"' },
      { "and bounds a field that both have as that one does", hook,
        { type = "outgoing", name = "long", urls = {}, id = 1 }, "name must have at most 3 characters, not 4" },
      { "and wants exactly one of that one's", hook, { type = "outgoing", name = "x", urls = { 1 }, id = 1, url = 2 },
        ' must have only one of "id", "url"', "urls[1] must be a string, not a number" },
      { "absent", hook, { name = "x", urls = 1 }, "type is required" },
      { "absent from an empty object", hook, {}, "name is required", "type is required" },
      { "unknown", hook, { name = "x", type = "outgoin", urls = 1 },
        'type "outgoin" is not a known value; did you mean "outgoing"?' },
      { "unknown, beside what else is wrong", hook, { type = "x", name = 1 }, "name must be a string, not a number",
        'type "x" is not a known value; known: "incoming", "outgoing"' },
      { "a number", hook, { name = "x", type = 1 }, NO_TYPE .. "number" },
      { "a boolean", hook, { name = "x", type = true }, NO_TYPE .. "boolean" },
      { "a table", hook, { name = "x", type = { "incoming" } }, NO_TYPE .. "table" },
      { "a string where an object belongs", hook, "incoming", " must be an object, not a string" },
      { "an array where an object belongs", hook, { "incoming" }, "[1] is no field name: an object belongs here",
        "name is required", "type is required" },
      { "a position beside it", hook, { type = "incoming", name = "x", channel = "y", [1] = 1 },
        "[1] is no field name: an object belongs here" },
      { "in objects and arrays", tree, { hooks = { incoming, outgoing, incoming }, hook = outgoing } },
      { "in an empty array", tree, { hooks = {} } },
      { "wrong in objects and arrays", tree, {
        hooks = { { type = "outgoing", name = "x", url = 1 }, 7, { type = "incoming" },
          { name = "x", type = "incomin" }, { type = "outgoing", name = "x", urls = {} } },
        hook = { type = "incoming", name = "x" },
      }, "hooks[1].urls is required", "hooks[2] must be an object, not a number", "hooks[3].channel is required",
        "hooks[3].name is required", 'hooks[4].type "incomin" is not a known value; did you mean "incoming"?',
        'hooks[5] must have one of "id", "url"', "hook.channel is required" },
      { "all of its bytes, past a NUL", odd, { kind = "a\0b" }, " must have at least 2 fields, not 1" },
      { "not only those before the NUL", odd, { kind = "a" } },
      { "a number, which is not the name that it looks like", odd, { kind = 1 } },
      { "empty", odd, { kind = "" }, " must have at least 5 fields, not 1" },
      { "absent, which is not empty", odd, {} },
      { "too long to be interned", odd, { kind = ("long"):rep(25) }, " must have at least 3 fields, not 1" },
    }

    it("in lenient mode, where an unknown value passes", function()
      assert.same({}, violations(hook, { type = "x", name = "x", urls = 1 }, true))
      assert.same({ "name is required" }, violations(hook, { type = "x" }, true))
      assert.same({ "channel is required" }, violations(hook, { type = "incoming", name = "x", urls = 1 }, true))
      assert.same({ "type is required" }, violations(hook, { name = "x" }, true))
    end)

    it("below the name it is given", function()
      assert.same({ "input.channel is required" }, violations(hook, { type = "incoming", name = "x" }, false, "input"))
      assert.same({ 'input must have one of "id", "url"' },
        violations(hook, { type = "outgoing", name = "x", urls = {} }, false, "input"))
    end)

    it("and reads it raw", function()
      assert.same({}, violations(tree, guarded { hook = guarded { type = "incoming", name = "x", channel = "y" } }))
      assert.same({ NO_TYPE .. "table" }, violations(hook, guarded { name = "x", type = guarded {} }))
      local value = setmetatable({ name = "x" }, { __index = { type = "incoming" } })
      assert.same({ "type is required" }, violations(hook, value))
    end)

    it("at the greatest depth, and no deeper", function()
      local declaration, value = hook, incoming
      for _ = 1, 28 do -- and four levels more, down to the strings in `urls`
        declaration, value = { items = declaration }, { value }
      end
      assert.same({}, violations(declaration, value))
      assert.has_error(function() core.schema { items = declaration } end, "schema: nested too deep")
      value = { type = "outgoing", name = "x", urls = {}, url = {} }
      value.url[1] = value
      local found = violations(hook, value)
      assert.equal(1, #found)
      assert.truthy(found[1]:find("is nested too deep, or holds itself", 1, true), found[1])
    end)
  end)

  describe("finds elements that come twice", function()
    local unique = array_of { uniqueItems = true }
    local shared = {}
    check_rows {
      { "none", unique, { "a", "b", 1, "1", true } },
      { "strings", unique, { "a", "b", "a", "a" }, "[3] is the same as [1]", "[4] is the same as [1]" },
      { "numbers of either kind", unique, { 1, 2, 1.0 }, "[3] is the same as [1]" },
      { "booleans", unique, { false, true, false }, "[3] is the same as [1]" },
      { "the very same table, but not an equal one", unique, { shared, {}, shared }, "[3] is the same as [1]" },
      { "under a name", { type = "object", properties = { ids = unique } }, { ids = { "x", "x" } },
        "ids[2] is the same as [1]" },
      { "with elements that are wrong themselves", array_of { uniqueItems = true, items = { type = "string" } },
        { 7, 7 }, "[1] must be a string, not a number", "[2] is the same as [1]",
        "[2] must be a string, not a number" },
      { "beside a number that is none", unique, { NAN, "a", NAN, "a" }, "[1] must be a finite number",
        "[3] must be a finite number", "[4] is the same as [2]" },
    }
  end)

  describe("reads numbers", function()
    local integer, number = { type = "integer" }, { type = "number" }
    local WHOLE = " must be a whole number below 2^53"
    check_rows {
      { "refuses NaN", number, NAN, " must be a finite number" },
      { "refuses infinity", number, INF, " must be a finite number" },
      { "refuses negative infinity", integer, -INF, " must be a finite number" },
      { "refuses a fraction for an integer", integer, 1.5, WHOLE },
      { "takes a float that is whole", integer, 3.0 },
      { "takes negative zero", integer, -0.0 },
      { "takes the largest whole number that is exact", integer, 2 ^ 53 - 1 },
      { "takes its opposite", integer, -(2 ^ 53 - 1) },
      { "refuses one that is not exact", integer, 2 ^ 53 + 2, WHOLE },
      { "refuses its opposite", integer, -(2 ^ 53 + 2), WHOLE },
      { "refuses a huge one", integer, 1e300, WHOLE },
      { "takes a huge number", number, 1e300 },
      { "does not take a number in a string", integer, "1", " must be an integer, not a string" },
    }

    if math.tointeger then
      it("refuses 2^53 + 1, which no double holds, though it is one of Lua's integers", function()
        local limit = math.tointeger(2 ^ 53)
        assert.same({ WHOLE }, violations(integer, limit + 1))
        assert.same({ WHOLE }, violations(integer, -limit - 1))
        assert.same({ WHOLE }, violations(integer, math.maxinteger))
        assert.same({ WHOLE }, violations(integer, math.mininteger))
      end)
    end
  end)

  describe("reads strings", function()
    local function invalid(byte)
      return (" must be UTF-8, which JSON requires: byte %d is not"):format(byte)
    end
    local valid = {
      ["the first and last of one byte"] = text(0, 0x7F),
      ["the first of two bytes"] = text(0xC2, 0x80),
      ["the last of two bytes"] = text(0xDF, 0xBF),
      ["the first of three bytes"] = text(0xE0, 0xA0, 0x80),
      ["the last before the surrogates"] = text(0xED, 0x9F, 0xBF),
      ["the first after the surrogates"] = text(0xEE, 0x80, 0x80),
      ["the last of three bytes"] = text(0xEF, 0xBF, 0xBF),
      ["the first of four bytes"] = text(0xF0, 0x90, 0x80, 0x80),
      ["the last of all"] = text(0xF4, 0x8F, 0xBF, 0xBF),
    }
    for title, bytes in pairs(valid) do
      it("takes " .. title, function()
        assert.same({}, violations({ type = "string" }, "ab" .. bytes .. "c"))
      end)
    end
    local refused = {
      ["a byte that only continues"] = text(0x80),
      ["the last such byte"] = text(0xBF),
      ["an overlong form of two bytes"] = text(0xC0, 0x80),
      ["another"] = text(0xC1, 0xBF),
      ["an overlong form of three bytes"] = text(0xE0, 0x9F, 0xBF),
      ["an overlong form of four bytes"] = text(0xF0, 0x8F, 0xBF, 0xBF),
      ["the first surrogate"] = text(0xED, 0xA0, 0x80),
      ["the last surrogate"] = text(0xED, 0xBF, 0xBF),
      ["the first past U+10FFFF"] = text(0xF4, 0x90, 0x80, 0x80),
      ["a first byte of more"] = text(0xF5, 0x80, 0x80, 0x80),
      ["a byte that is in no UTF-8"] = text(0xFF),
      ["two bytes cut to one"] = text(0xC3),
      ["three bytes cut to two"] = text(0xE2, 0x82),
      ["four bytes cut to three"] = text(0xF0, 0x9F, 0x98),
      ["a broken second byte"] = text(0xC3, 0x28),
      ["a broken third byte"] = text(0xE2, 0x82, 0x28),
      ["a broken fourth byte"] = text(0xF0, 0x9F, 0x98, 0x28),
    }
    for title, bytes in pairs(refused) do
      it("refuses " .. title, function()
        assert.same({ invalid(3) }, violations({ type = "string" }, "ab" .. bytes))
        assert.same({ invalid(3) }, violations({ type = "string" }, "ab" .. bytes .. "cdef"))
        assert.same({ invalid(1) }, violations({ type = "string", minLength = 100 }, bytes))
      end)
    end

    it("wherever the bytes are", function()
      for before = 0, 20 do
        local start = ("x"):rep(before)
        assert.same({ (" must have at most 0 characters, not %d"):format(before + 2) },
          violations({ type = "string", maxLength = 0 }, start .. "é€"))
        for after = 0, 9 do
          assert.same({ invalid(before + 1) }, violations({ type = "string" }, start .. "\255" .. ("y"):rep(after)))
        end
      end
    end)

    check_rows {
      { "takes one of a list", string_of { enum = { "a", "b" } }, "b" },
      { "refuses what is not in the list", string_of { enum = { "left", "right" } }, "middle",
        ' "middle" is not a known value; known: "left", "right"' },
      { "compares all bytes, past a NUL", string_of { enum = { "left" } }, "left\0right",
        ' "left\\x00right" is not a known value; known: "left"' },
      { "takes a listed value with a NUL byte", string_of { enum = { "a\0b" } }, "a\0b" },
      { "shows bytes that cannot be printed", string_of { enum = { "left" } }, "\0\n\127\255\"\\",
        ' "\\x00\\x0A\\x7F\\xFF\\"\\\\" is not a known value; known: "left"' },
      { "shows no more than a part of a long one", string_of { enum = { "left" } }, ("x"):rep(1e6),
        ' "' .. ("x"):rep(48) .. '…" is not a known value; known: "left"' },
      { "shortens a long one between two characters", string_of { enum = { "left" } }, ("x"):rep(47) .. "ééé",
        ' "' .. ("x"):rep(47) .. '…" is not a known value; known: "left"' },
    }
  end)

  describe("suggests the name that was meant", function()
    local events = string_of { enum = { "delivered", "group_resubscribe", "open", "spam_report" } }
    local rows = {
      { "DELIVERED", "delivered" }, -- another case
      { "Delivered", "delivered" },
      { "delivred", "delivered" }, -- a letter left out
      { "deliverred", "delivered" }, -- one too many
      { "delivared", "delivered" }, -- another one
      { "deilvered", "delivered" }, -- two swapped
      { "opne", "open" },
      { "opened", "open" },
      { "groupresubscribe", "group_resubscribe" },
      { "spamreport", "spam_report" },
      { "bounce", false },
      { "", false },
      { "o", false },
      { ("d"):rep(1000), false },
      { "spam report", "spam_report" },
    }
    for _, row in ipairs(rows) do
      it(("for %q"):format(row[1]):sub(1, 60), function()
        local found = violations(events, row[1])
        assert.equal(1, #found)
        local advice = found[1]:match("is not a known value; (.*)$")
        if row[2] then
          assert.equal(('did you mean "%s"?'):format(row[2]), advice)
        else
          assert.equal('known: "delivered", "group_resubscribe", "open", "spam_report"', advice)
        end
      end)
    end

    it("for a field", function()
      assert.same({
        'properties.writekey is not a known field; did you mean "write_key"?',
        "properties.write_key is required",
      }, (function()
        local found = violations(integration, { destination = "Segment", properties = { writekey = "x" } })
        table.sort(found, function(a, b) return a > b end)
        return found
      end)())
    end)

    it("and where none is near, lists the names in the order of the alphabet", function()
      local properties = {}
      for _, name in ipairs { "golf", "alpha", "echo", "charlie", "bravo", "delta" } do
        properties[name] = { type = "string" }
      end
      assert.same({ 'quebec is not a known field; known: "alpha", "bravo", "charlie", "delta", "echo", "golf"' },
        violations({ type = "object", properties = properties }, { quebec = "x" }))
    end)

    it("and of two that are equally near, the first in the alphabet", function()
      for _ = 1, 20 do
        local properties = {}
        for _, name in ipairs { "event_d", "event_a", "event_c", "event_b" } do
          properties[name] = { type = "string" }
        end
        assert.same({ 'event_x is not a known field; did you mean "event_a"?' },
          violations({ type = "object", properties = properties }, { event_x = "x" }))
      end
    end)
  end)

  describe("names every fault at once", function()
    it("with its path", function()
      assert.same({
        'destination "Segmant" is not a known value; did you mean "Segment"?',
        'filters.email_events[2] "opn" is not a known value; did you mean "open"?',
        "filters.email_events[3] must be a string, not a number",
        'filters.speed is not a known field; known: "email_events"',
        "label must have at most 5 characters, not 6",
        "properties.region must be a string, not a boolean",
        "properties.write_key is required",
      }, violations(integration, {
        destination = "Segmant",
        label = "abcdef",
        filters = { email_events = { "open", "opn", 3 }, speed = 1 },
        properties = { region = false },
      }))
    end)

    it("below the name it is given", function()
      assert.same({ "input.destination is required", "input.properties is required" },
        violations(integration, {}, false, "input"))
      assert.same({ "ids[2] must be a string, not a number" },
        violations(array_of { items = { type = "string" } }, { "a", 2 }, false, "ids"))
      assert.same({ "id must be a string, not nil" }, violations({ type = "string" }, nil, false, "id"))
    end)

    it("in tables of its own each time", function()
      local check = core.schema(integration)
      local _, first = check {}
      local _, second = check {}
      assert.same(first, second)
      assert.are_not.equal(first, second)
      assert.same({ field = "destination", message = "is required" },
        first[1].field == "destination" and first[1] or first[2])
    end)

    it("and takes what has none", function()
      assert.same({}, violations(integration, {
        destination = "Segment", properties = { write_key = "x" }, filters = { email_events = {} },
      }))
    end)
  end)

  describe("writes paths", function()
    local open = { type = "object", additionalProperties = true, properties = {} }
    local function path_of(key)
      local _, found = core.schema(open)({ [key] = print })
      return found[1].field
    end
    local rows = {
      { "plain", "plain" },
      { "with_digits_1", "with_digits_1" },
      { "1st", '["1st"]' },
      { "a b", '["a b"]' },
      { "a.b", '["a.b"]' },
      { "a-b", '["a-b"]' },
      { "", '[""]' },
      { "a\0b", '["a\\x00b"]' },
      { "a\n", '["a\\x0A"]' },
      { "\"\\", '["\\"\\\\"]' },
      { "\255", '["\\xFF"]' },
      { "größe", '["größe"]' },
      { ("x"):rep(48), ("x"):rep(48) },
      { ("x"):rep(49), '["' .. ("x"):rep(48) .. '…"]' },
      { ("\0"):rep(1e5), '["' .. ("\\x00"):rep(48) .. '…"]' },
    }
    for i, row in ipairs(rows) do
      it("row " .. i, function()
        assert.equal(row[2], path_of(row[1]))
      end)
    end

    it("that are bounded and stay UTF-8, however deep and long the names are", function()
      local value = { print }
      for _ = 1, 62 do
        value = { [("\1"):rep(49)] = value }
      end
      -- Wherever the bound falls in a name.
      for length = 1, 200 do
        local _, found = core.schema({})(value, false, ("x"):rep(length))
        assert.equal(1, #found)
        assert.is_true(#found[1].field < 8192)
        assert.same({}, violations({ type = "string" }, found[1].field))
      end
    end)
  end)

  describe("tells arrays from objects", function()
    local array = array_of { items = { type = "string" } }
    local object = { type = "object", properties = { a = { type = "string" } } }
    local NO_FIELD = " is no field name: an object belongs here"
    local NO_POSITION = " is no position in an array: an array belongs here"
    local WRONG_POSITION = " is no position in an array: those are 1, 2, 3, …"
    check_rows {
      { "an empty table is either", { type = "object", properties = { list = array, object = object } },
        { list = {}, object = {} } },
      { "a hole", array, { [1] = "a", [3] = "b" }, " must be an array without holes: 2 elements, the last at 3" },
      { "a hole at the start", array, { [2] = "a" }, " must be an array without holes: 1 elements, the last at 2" },
      { "a far position", array, { [1] = "a", [2 ^ 40] = "b" },
        " must be an array without holes: 2 elements, the last at 1099511627776" },
      { "a hole below a name", { type = "object", properties = { list = array } }, { list = { [2] = "a" } },
        "list must be an array without holes: 1 elements, the last at 2" },
      { "position 0", array, { [0] = "a", "b" }, "[0]" .. WRONG_POSITION },
      { "a negative position", array, { [-1] = "a" }, "[-1]" .. WRONG_POSITION },
      { "a position that is not whole", array, { "a", [1.5] = "b" }, "[1.5]" .. WRONG_POSITION },
      { "an infinite position", array, { "a", [INF] = "b" },
        " must be an array without holes: 2 elements, the last at inf" },
      { "a name in an array", array, { "a", b = "c" }, "b" .. NO_POSITION },
      { "a boolean in an array", array, { "a", [true] = "c" }, "[boolean]" .. NO_POSITION },
      { "an object for an array", array, { a = "x", b = "y" }, "a" .. NO_POSITION, "b" .. NO_POSITION },
      { "an array for an object", object, { "x", "y" }, "[1]" .. NO_FIELD, "[2]" .. NO_FIELD },
      { "a number among names", object, { a = "x", [7] = "y" }, "[7]" .. NO_FIELD },
      { "a fraction among names", object, { [0.5] = "y" }, "[0.5]" .. NO_FIELD },
      { "a boolean for a name", object, { [true] = "x" }, "[boolean]" .. NO_FIELD },
      { "a table for a name", object, { [{}] = "x" }, "[table]" .. NO_FIELD },
      { "a function for a name", object, { [print] = "x" }, "[function]" .. NO_FIELD },
      { "a number is not the name that it looks like", { type = "object", properties = { ["1"] = {} } }, { "x" },
        "[1]" .. NO_FIELD },
    }

    it("where either may be, by what it holds", function()
      local either = { type = { "object", "array" }, additionalProperties = true }
      assert.same({}, violations(either, { 1, 2 }))
      assert.same({}, violations(either, { a = 1 }))
      local found = violations(either, { 1, a = 2 })
      assert.equal(1, #found)
      assert.truthy(found[1] == "a" .. NO_POSITION or found[1] == "[1]" .. NO_FIELD, found[1])
    end)
  end)

  describe("reads raw", function()
    it("and runs no metamethod, of a valid value", function()
      assert.same({}, violations(integration, guarded {
        destination = "Segment",
        properties = guarded { write_key = "x" },
        filters = guarded { email_events = guarded { "open" } },
      }))
      assert.same({}, violations(array_of { uniqueItems = true }, guarded { guarded {}, guarded {} }))
    end)

    it("and runs none of a wrong one", function()
      assert.same({
        "destination must be a string, not a table",
        "filters.email_events[1] must be a string, not a table",
        "properties.write_key is required",
      }, violations(integration, guarded {
        destination = guarded {},
        properties = guarded {},
        filters = guarded { email_events = guarded { guarded {} } },
      }))
    end)

    it("a declaration, too", function()
      assert.same({ "a must be a string, not a number" },
        violations(guarded { type = "object", properties = guarded { a = guarded { type = "string" } } }, { a = 1 }))
    end)

    it("and sees no field that only a metatable has", function()
      local value = setmetatable({}, { __index = { destination = "Segment", properties = {} } })
      assert.same({ "destination is required", "properties is required" }, violations(integration, value))
    end)

    it("and changes nothing", function()
      local value = { destination = "x", [1] = "y", filters = { email_events = { "z" } } }
      core.schema(integration)(value)
      assert.same({ destination = "x", [1] = "y", filters = { email_events = { "z" } } }, value)
    end)
  end)

  describe("ends quickly", function()
    local TOO_DEEP = " is nested too deep, or holds itself"
    local TOO_MANY = " holds too many values"

    --- Far above what is needed, far below what a user would take for a hang.
    local function quickly(callback)
      local started = os.clock()
      callback()
      assert.is_true(os.clock() - started < 5 * process.slowness, "took " .. os.clock() - started .. " s")
    end

    local function nested(levels)
      local value = "x"
      for _ = 1, levels do
        value = { value }
      end
      return value
    end

    it("with a table that holds itself", function()
      local cycle = {}
      cycle[1] = cycle
      assert.same({ ("[1]"):rep(64) .. TOO_DEEP }, violations({}, cycle))
      local named = {}
      named.again = named
      assert.same({ "again" .. (".again"):rep(63) .. TOO_DEEP }, violations({}, named))
      local first, second = {}, {}
      first.second, second.first = second, first
      assert.same({ ("second.first."):rep(32):sub(1, -2) .. TOO_DEEP }, violations({}, first))
    end)

    it("with tables in tables: 64 are fine, 65 are not", function()
      assert.same({}, violations({}, nested(64)))
      assert.same({ ("[1]"):rep(64) .. TOO_DEEP }, violations({}, nested(65)))
      assert.same({ ("[1]"):rep(64) .. TOO_DEEP }, violations({}, nested(100000)))
    end)

    it("with 2^60 ways through shared tables", function()
      quickly(function()
        local value = "x"
        for _ = 1, 60 do
          value = { value, value }
        end
        local found = violations({}, value)
        assert.equal(1, #found)
        assert.truthy(found[1]:find(TOO_MANY, 1, true), found[1])
      end)
    end)

    it("with a shared table that is no cycle, which is fine", function()
      local shared = { "x" }
      assert.same({}, violations({}, { a = shared, b = { shared, shared } }))
    end)

    it("with an array of many elements", function()
      local value = {}
      for i = 1, 200000 do
        value[i] = "open"
      end
      quickly(function()
        assert.same({ ("[%d]%s"):format(MAX_VALUES, TOO_MANY) },
          violations(array_of { items = { type = "string" } }, value))
      end)
      for i = MAX_VALUES, 200000 do
        value[i] = nil
      end
      quickly(function()
        assert.same({}, violations(array_of { items = { type = "string" }, uniqueItems = false }, value))
      end)
    end)

    it("with an array of many faults", function()
      local value = {}
      for i = 1, 200000 do
        value[i] = "opne"
      end
      quickly(function()
        local _, found = core.schema(array_of { items = { type = "string", enum = { "open" } } })(value)
        assert.is_true(#found <= MAX_VALUES)
        assert.same({ field = "[1]", message = '"opne" is not a known value; did you mean "open"?' }, found[1])
      end)
    end)

    it("with an object of many unknown fields", function()
      local value = {}
      for i = 1, 120000 do
        value[("unknown_field_%034d"):format(i)] = true
      end
      local properties = {}
      for i = 1, 20 do
        properties[("known_field_%034d"):format(i)] = { type = "string" }
      end
      quickly(function()
        local _, found = core.schema({ type = "object", properties = properties })(value)
        assert.is_true(#found <= MAX_VALUES)
      end)
    end)

    it("with an array of many names and wrong positions", function()
      local value = {}
      for i = 1, 200000 do
        value[-i] = true
      end
      quickly(function()
        local _, found = core.schema(array_of {})(value)
        assert.is_true(#found <= MAX_VALUES)
      end)
    end)

    it("with names of a megabyte", function()
      quickly(function()
        local name = ("x"):rep(1e6)
        assert.same({ '["' .. ("x"):rep(48) .. '…"] is not a known field; known: "label"' },
          violations({ type = "object", properties = { label = {} } }, { [name] = 1 }))
        assert.same({}, violations({ type = "object", properties = { [name] = {} } }, { [name] = 1 }))
      end)
    end)
  end)

  describe("in lenient mode", function()
    it("lets names pass that it does not know", function()
      assert.same({}, violations(integration, {
        destination = "Amplitude", -- an enum's unknown value
        colour = { "any", { thing = true } }, -- an unknown field
        properties = { write_key = "x", extra = 1 },
        filters = { email_events = { "open", "unheard_of" } },
      }, true))
    end)

    it("holds everything else to its schema", function()
      assert.same({
        "destination must be a string, not a number",
        "filters.email_events[1] must be a string, not a boolean",
        "label must have at most 5 characters, not 6",
        "properties.write_key is required",
      }, violations(integration, {
        destination = 1, label = "abcdef", filters = { email_events = { true } }, properties = { extra = 1 },
      }, true))
    end)

    it("refuses in unknown names what JSON cannot hold", function()
      assert.same({
        '["\\xFF"] is no name that JSON can hold: it is not UTF-8',
        "colour[2] must be a value that JSON can hold, not a function",
        "depth must be a finite number",
        "destination must be UTF-8, which JSON requires: byte 2 is not",
        "width must be UTF-8, which JSON requires: byte 1 is not",
      }, violations(integration, {
        destination = "a\255", properties = { write_key = "x" }, colour = { 1, print }, depth = INF, width = "\255",
        ["\255"] = 1,
      }, true))
    end)

    it("is off for false and nil", function()
      local unknown = { 'b is not a known field; known: "a"' }
      local declaration = { type = "object", properties = { a = {} } }
      assert.same(unknown, violations(declaration, { b = 1 }, false))
      assert.same(unknown, violations(declaration, { b = 1 }))
    end)
  end)

  it("lets unknown fields pass where it says so, and checks the known ones", function()
    local declaration = { type = "object", additionalProperties = true, properties = { a = { type = "string" } } }
    assert.same({ "a must be a string, not a number" }, violations(declaration, { a = 1, b = { c = 2 } }))
    assert.same({ "b must be a value that JSON can hold, not a function" }, violations(declaration, { b = print }))
  end)

  it("checks up to 64 properties, each required", function()
    local declaration = { type = "object", properties = {}, required = {} }
    local expected, value = {}, {}
    for i = 1, 64 do
      local name = ("p%02d"):format(i)
      declaration.properties[name] = { type = "integer" }
      declaration.required[i] = name
      expected[i] = name .. " is required"
      value[name] = i
    end
    assert.same(expected, violations(declaration, {}))
    assert.same({}, violations(declaration, value))
    value.p64 = nil
    assert.same({ "p64 is required" }, violations(declaration, value))
  end)

  it("finds names that are too long to be interned", function()
    local name = ("long"):rep(25)
    local declaration = { type = "object", required = { name }, properties = { [name] = { enum = { name .. "x" } } } }
    assert.same({}, violations(declaration, { [("long"):rep(25)] = ("long"):rep(25) .. "x" }))
  end)

  it("outlives its declaration", function()
    local check
    do
      local declaration = { type = "object", properties = { ["built_" .. 1] = { enum = { "x" .. 1 } } } }
      check = core.schema(declaration)
      declaration.properties.built_1 = nil
    end
    for _ = 1, 3 do
      collectgarbage()
    end
    local _, found = check { built_2 = "x1" }
    assert.same({ { field = "built_2", message = 'is not a known field; did you mean "built_1"?' } }, found)
    assert.is_true(check { built_1 = "x1" })
  end)

  it("outlives a declaration that maps", function()
    local check
    do
      local properties = { ["kind_" .. 1] = {} }
      local mapped = { type = "object", properties = properties, minProperties = 2 }
      check = core.schema { type = "object", properties = properties, discriminator = {
        propertyName = "kind_" .. 1, mapping = { ["built_" .. 1] = mapped },
      } }
    end
    for _ = 1, 3 do
      collectgarbage()
    end
    local _, found = check { kind_1 = "built_1" }
    assert.same({ { field = "", message = "must have at least 2 fields, not 1" } }, found)
  end)

  it("can be checked from a coroutine, and with no stack to spare", function()
    local check = core.schema(integration)
    local function deep(levels)
      if levels > 0 then
        local result = deep(levels - 1)
        return result
      end
      return check { destination = "Segment", properties = { write_key = "x" } }
    end
    assert.is_true(coroutine.wrap(function() return deep(150) end)())
  end)

  describe("allocates nothing", function()
    local off = rawget(_G, "jit") and jit.off or function() end

    local function stays_as_it_is(check, value)
      local function many(count)
        for _ = 1, count do
          if check(value) ~= true then error "not valid" end
        end
      end
      off(many) -- a trace that LuaJIT compiles meanwhile is memory, too
      many(10)
      collectgarbage()
      collectgarbage "stop"
      local before = collectgarbage "count"
      many(100000)
      local after = collectgarbage "count"
      collectgarbage "restart"
      assert.equal(0, after - before)
    end

    it("for a valid value", function()
      stays_as_it_is(core.schema(integration), {
        destination = "Segment",
        properties = { write_key = "x", region = "EU" },
        filters = { email_events = { "open", "delivered", "spam_report" } },
      })
    end)

    it("for objects that a field tells apart", function()
      stays_as_it_is(core.schema(array_of { items = hook }), {
        { type = "incoming", name = "x", channel = "y" },
        { type = "outgoing", name = "x", urls = { "y" }, url = "z" },
      })
    end)

    it("that lasts, for a wrong one", function()
      local check = core.schema(integration)
      local function many(count)
        for i = 1, count do
          check { destination = "x" .. i % 10, [i % 10] = true, filters = { email_events = { "opn", 1 } } }
        end
        collectgarbage()
        collectgarbage()
      end
      many(1000)
      local before = collectgarbage "count"
      many(20000)
      assert.is_true(collectgarbage "count" - before < 64)
    end)
  end)

  describe("is refused when it is declared", function()
    local function nested(levels)
      local declaration = {}
      for _ = 1, levels do
        declaration = { items = declaration }
      end
      return declaration
    end

    local function many(count)
      local properties = {}
      for i = 1, count do
        properties["p" .. i] = {}
      end
      return properties
    end

    local cycle = {}
    cycle.items = cycle
    local mapped_cycle = discriminated {}
    mapped_cycle.discriminator.mapping = { incoming = mapped_cycle }
    local ALONE = "schema: 'discriminator' needs the type 'object' alone"
    local MAPPED_ALONE = "schema: mapped 'incoming' needs the type 'object' alone"

    local rows = {
      { "with a word that is unknown", { typ = "string" }, "schema: unknown word 'typ'" },
      { "with a word of another case", { minlength = 1 }, "schema: unknown word 'minlength'" },
      { "with a position for a word", { "string" }, "schema: unknown word '[number]'" },
      { "with an unknown type", { type = "text" }, "schema: unknown type 'text'" },
      { "with an unknown type among others", { type = { "string", "null" } }, "schema: unknown type 'null'" },
      { "with a type that is no word", { type = 1 }, "schema: unknown type ''" },
      { "with a type that is a boolean", { type = true }, "schema: unknown type ''" },
      { "with properties that are none", { properties = "x" },
        "schema: 'properties' must be a table, not a string" },
      { "with a property that is none", { properties = { a = "string" } }, "schema: a schema must be a table" },
      { "with a property without a name", { properties = { {} } }, "schema: a name must be a string" },
      { "with too many properties", { properties = many(65) }, "schema: more than 64 properties" },
      { "with items that are none", { items = "string" }, "schema: 'items' must be a table, not a string" },
      { "with a required field that there is not", { properties = { a = {} }, required = { "b" } },
        "schema: required 'b' is not among the properties" },
      { "with a required field without properties", { required = { "b" } },
        "schema: required 'b' is not among the properties" },
      { "with one required field alone", { required = "a" }, "schema: 'required' must be a table, not a string" },
      { "with an enum of numbers", { enum = { 1 } }, "schema: a name must be a string" },
      { "with an enum that no value could meet", { type = "integer", enum = { "1" } },
        "schema: 'enum' needs the type 'string' alone" },
      { "with an enum that is none", { enum = "a" }, "schema: 'enum' must be a table, not a string" },
      { "with a flag that is none", { uniqueItems = 1 }, "schema: 'uniqueItems' must be a boolean, not a number" },
      { "with a schema for additional properties", { additionalProperties = {} },
        "schema: 'additionalProperties' must be a boolean, not a table" },
      { "with a bound that is a string", { minimum = "1" }, "schema: 'minimum' must be a number, not a string" },
      { "that is nested too deep", nested(32), "schema: nested too deep" },
      { "that holds itself", cycle, "schema: nested too deep" },
      { "with exactly one of fields that there are not", { properties = { a = {} }, exactlyOne = { "a", "b" } },
        "schema: exactlyOne 'b' is not among the properties" },
      { "with exactly one of fields without properties", { exactlyOne = { "b" } },
        "schema: exactlyOne 'b' is not among the properties" },
      { "with exactly one of a name alone", { properties = { a = {} }, exactlyOne = "a" },
        "schema: 'exactlyOne' must be a table, not a string" },
      { "with exactly one of numbers", { properties = { a = {} }, exactlyOne = { 1 } },
        "schema: a name must be a string" },
      { "with a discriminator that is none", discriminated({}, { discriminator = "type" }),
        "schema: 'discriminator' must be a table, not a string" },
      { "with a discriminator's word that is unknown", discriminated { propertyname = "type" },
        "schema: unknown word 'propertyname'" },
      { "with a discriminator without a field", discriminated({}, { discriminator = without(hook.discriminator,
        "propertyName") }), "schema: 'discriminator' needs a 'propertyName'" },
      { "with a discriminator whose field is none", discriminated { propertyName = 1 },
        "schema: 'propertyName' must be a string, not a number" },
      { "with a discriminator whose field there is not", discriminated { propertyName = "kind" },
        "schema: propertyName 'kind' is not among the properties" },
      { "with a discriminator without a mapping", discriminated({}, { discriminator = without(hook.discriminator,
        "mapping") }), "schema: 'discriminator' needs a 'mapping'" },
      { "with a mapping that is none", discriminated { mapping = "incoming" },
        "schema: 'mapping' must be a table, not a string" },
      { "with a mapped schema that is none", discriminated { mapping = { incoming = "#/hook" } },
        "schema: a schema must be a table" },
      { "with a mapped schema without a name", discriminated { mapping = { hook } },
        "schema: a name must be a string" },
      { "with a mapped schema that is wrong", discriminated { mapping = { incoming = { typ = "object" } } },
        "schema: unknown word 'typ'" },
      { "with a mapped schema of another type", discriminated { mapping = { incoming = { type = "string" } } },
        MAPPED_ALONE },
      { "with a mapped schema of several types",
        discriminated { mapping = { incoming = { type = { "object", "array" } } } }, MAPPED_ALONE },
      { "with a mapped schema of no type", discriminated { mapping = { incoming = {} } }, MAPPED_ALONE },
      { "with a mapped schema that maps in turn", discriminated { mapping = { incoming = hook } },
        "schema: mapped 'incoming' must not have a 'discriminator'" },
      { "with a mapping that holds its own schema", mapped_cycle, "schema: nested too deep" },
      { "with a mapped schema that is nested too deep",
        discriminated { mapping = { incoming = { type = "object", properties = { a = nested(30) } } } },
        "schema: nested too deep" },
      { "with a discriminator of a string", discriminated({}, { type = "string" }), ALONE },
      { "with a discriminator of several types", discriminated({}, { type = { "object", "string" } }), ALONE },
      -- What follows would check nothing, or refuse everything, without a word.
      { "with a type that is an empty list", { type = {} }, "schema: 'type' must not be empty" },
      { "with an enum that is empty", { enum = {} }, "schema: 'enum' must not be empty" },
      { "with an enum that is no array", { enum = { a = true } }, "schema: 'enum' must be an array" },
      { "with an enum that has a hole", { enum = { "a", nil, "b" } }, "schema: 'enum' must be an array" },
      { "with required fields that are no array", { properties = { a = {} }, required = { a = true } },
        "schema: 'required' must be an array" },
      { "with exactly one of an empty list", { properties = { a = {} }, exactlyOne = {} },
        "schema: 'exactlyOne' must not be empty" },
      { "with exactly one of no array", { properties = { a = {} }, exactlyOne = { a = true } },
        "schema: 'exactlyOne' must be an array" },
      { "with a mapping that is empty", discriminated { mapping = {} }, "schema: 'discriminator' needs a 'mapping'" },
      { "with a discriminator of no type", without(discriminated {}, "type"), ALONE },
      { "with a minimum that is no number", { minimum = NAN }, "schema: 'minimum' must not be NaN" },
      { "with a maximum that is no number", { maximum = NAN }, "schema: 'maximum' must not be NaN" },
    }
    for _, word in ipairs { "minLength", "maxLength", "minItems", "maxItems", "minProperties" } do
      for _, size in ipairs { -1, -2, 0.5, NAN, INF, 2 ^ 32 } do
        rows[#rows + 1] = { ("with %s = %s"):format(word, size), { [word] = size },
          ("schema: '%s' must be a whole number from 0 up"):format(word) }
      end
    end

    for _, row in ipairs(rows) do
      it(row[1], function()
        local ok, message = pcall(core.schema, row[2])
        assert.is_false(ok)
        assert.equal(row[3], (message:gsub("^[^ ]+:%d+: ", "")))
        ok, message = pcall(core.schema, { type = "object", properties = { deep = { items = row[2] } } })
        assert.is_false(ok)
        assert.equal(row[3], (message:gsub("^[^ ]+:%d+: ", "")))
      end)
    end

    it("unless it is as deep as may be", function()
      assert.same({}, violations(nested(31), {}))
    end)

    it("when it is no table", function()
      for _, value in ipairs { "string", 1, true, print } do
        local ok, message = pcall(core.schema, value)
        assert.is_false(ok)
        assert.truthy(message:find("bad argument #1 to '[^']*' %(table expected, got " .. type(value) .. "%)"), message)
      end
      assert.has_error(function() core.schema() end)
    end)

    it("and leaves nothing behind", function()
      local function all()
        for _, row in ipairs(rows) do
          pcall(core.schema, { type = "object", properties = { fine = { enum = { "x" } }, deep = { items = row[2] } } })
        end
        collectgarbage()
        collectgarbage()
      end
      all()
      local before = collectgarbage "count"
      for _ = 1, 50 do
        all()
      end
      assert.is_true(collectgarbage "count" - before < 16)
    end)
  end)
end)
