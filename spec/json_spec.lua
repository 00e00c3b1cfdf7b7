local cjson = require "cjson"
local json = require "integrations.json"

describe("integrations.json", function()
  describe("encode", function()
    local list = { type = "array", items = { type = "string" } }
    local schema = { type = "object", properties = { list = list, object = { type = "object" } } }
    local cases = {
      { "an empty array is []", { list = {} }, '{"list":[]}' },
      { "an empty object is {}", { object = {} }, '{"object":{}}' },
      { "fields come in the order of their names", { object = { b = 1, a = true, c = "x" } },
        '{"object":{"a":true,"b":1,"c":"x"}}' },
      { "elements come in theirs", { list = { "z", "a" } }, '{"list":["z","a"]}' },
      { "what no schema names is told apart by its keys", { other = { { x = 1 }, {} } }, '{"other":[{"x":1},{}]}' },
      { "whole numbers are exact", { object = { a = 1234567890123456, b = -9007199254740991, c = 3.0 } },
        '{"object":{"a":1234567890123456,"b":-9007199254740991,"c":3}}' },
      { "so are others", { object = { a = 0.5, b = 1e300 } }, '{"object":{"a":0.5,"b":1.0000000000000001e+300}}' },
      { "NUL and control characters are escaped", { list = { "a\0b\n" } }, '{"list":["a\\u0000b\\n"]}' },
    }
    for _, case in ipairs(cases) do
      it(case[1], function()
        assert.equal(case[3], json.encode(case[2], schema))
      end)
    end

    local words = { type = { "string", "array" }, items = { type = { "boolean", "object" } } }
    local kinds = { propertyName = "kind", mapping = {
      flat = { type = "object", properties = { parts = { type = "object" } } },
      deep = { type = "object", properties = { kind = {}, parts = { type = "array", items = list } } },
    } }
    local hook = { type = "object", properties = { parts = list }, discriminator = kinds }
    local shapes = {
      { "an empty array among other types is []", words, {}, "[]" },
      { "a text is one all the same", words, "a", '"a"' },
      { "an empty object among other types is {}", words, { {}, true, {} }, "[{},true,{}]" },
      { "an empty table that may be either is what comes first", { type = { "object", "array" } }, {}, "{}" },
      { "an empty table of which nothing is known is {}", nil, {}, "{}" },
      { "an array of which nothing is known is one", nil, { {}, { 1 } }, "[{},[1]]" },
      { "an array of empty arrays is one", { type = "array", items = list }, { {}, { "a" }, {} }, '[[],["a"],[]]' },
      { "an array whose elements are not described is one", { type = "array" }, { {}, 1 }, "[{},1]" },
      { "a discriminator chooses what is an object", hook, { kind = "flat", parts = {} },
        '{"kind":"flat","parts":{}}' },
      { "and what is an array, at any depth", hook, { kind = "deep", parts = { {}, {} } },
        '{"kind":"deep","parts":[[],[]]}' },
      { "and nothing where its value is none of them", hook, { kind = "x", parts = {} }, '{"kind":"x","parts":[]}' },
      { "and nothing where it is absent", hook, { parts = {} }, '{"parts":[]}' },
      { "and nothing where it is no text", hook, { kind = { "flat" }, parts = {} }, '{"kind":["flat"],"parts":[]}' },
      { "a discriminator counts in the elements of an array", { type = "array", items = hook },
        { { kind = "deep", parts = {} }, { kind = "flat", parts = {} } },
        '[{"kind":"deep","parts":[]},{"kind":"flat","parts":{}}]' },
      { "and in a field", { type = "object", properties = { hook = hook } }, { hook = { kind = "flat", parts = {} } },
        '{"hook":{"kind":"flat","parts":{}}}' },
      { "what may be either goes by its keys", { type = { "object", "array" } }, { "a" }, '["a"]' },
      { "so does what may be anything", { type = "any" }, { "a" }, '["a"]' },
      { "null is null", list, { json.null }, "[null]" },
    }
    for _, case in ipairs(shapes) do
      it(case[1], function()
        assert.equal(case[4], json.encode(case[3], case[2]))
      end)
    end

    it("reads what a discriminator goes by raw", function()
      local value = setmetatable({ parts = {} }, { __index = { kind = "flat" } })
      assert.equal('{"parts":[]}', json.encode(value, hook))
    end)

    it("runs no metamethod", function()
      local forbidden = { __index = error, __pairs = error, __len = error }
      local value = setmetatable({ list = setmetatable({ "a" }, forbidden) }, forbidden)
      assert.equal('{"list":["a"]}', json.encode(value, schema))
    end)
  end)

  describe("decode", function()
    it("leaves out fields that are null, at any depth", function()
      assert.same({ a = 1, c = { { e = "null" } } }, json.decode '{"a":1,"b":null,"c":[{"d":null,"e":"null"}]}')
    end)

    it("keeps null in an array, so that the others keep their places", function()
      local list = json.decode "[1,null,3]"
      assert.equal(json.null, list[2])
      assert.equal(3, list[3])
    end)

    local faults = {
      ["nothing"] = "",
      ["a web page"] = "<html></html>",
      ["a text that goes on"] = '{"a":1} x',
      ["a text that is cut"] = '{"a":',
      ["NaN"] = '{"a":NaN}',
      ["Infinity"] = '{"a":Infinity}',
      ["a hexadecimal number"] = '{"a":0x10}',
      ["100,000 levels"] = ("["):rep(100000) .. ("]"):rep(100000),
    }
    for name, text in pairs(faults) do
      it("refuses " .. name, function()
        local value, message = json.decode(text)
        assert.is_nil(value)
        assert.is_string(message)
      end)
    end

    it("leaves the settings of the program's own lua-cjson alone", function()
      assert.equal(cjson.null, cjson.decode '{"a":null}'.a)
      assert.equal(math.huge, cjson.decode '{"a":Infinity}'.a)
    end)
  end)
end)
