local match = require "integrations.match"

-- Whatever a metatable would add is not there for a schema either.
local function with_index(thing, added)
  return setmetatable(thing, { __index = added })
end

describe("integrations.match", function()
  describe("at", function()
    local thing = { label = "a", properties = { write_key = "k", nested = { deep = 1 } }, on = false }

    it("finds fields of fields", function()
      assert.equal("a", match.at(thing, "label"))
      assert.equal("k", match.at(thing, "properties.write_key"))
      assert.equal(1, match.at(thing, "properties.nested.deep"))
    end)

    it("finds nothing where there is none", function()
      for _, path in ipairs { "x", "properties.x", "label.x", "x.y.z", "properties.write_key.x" } do
        assert.is_nil(match.at(thing, path))
      end
      assert.is_nil(match.at(with_index({}, { label = "a" }), "label"))
    end)
  end)

  describe("has", function()
    local thing = { label = "a", filters = { events = { "open", "click" } } }

    it("wants every field to be equal, and of an array one element", function()
      assert.is_true(match.has(thing, {}))
      assert.is_true(match.has(thing, { label = "a" }))
      assert.is_true(match.has(thing, { label = "a", ["filters.events"] = "click" }))
      assert.is_false(match.has(thing, { label = "a", ["filters.events"] = "drop" }))
      assert.is_false(match.has(thing, { label = "A" }))
      assert.is_false(match.has(thing, { filters = "open" }))
    end)
  end)

  describe("covers", function()
    local cases = {
      { "equal texts", "a", "a", true },
      { "different texts", "a", "b", false },
      { "a number and its text", 1, "1", false },
      { "an object with more fields", { a = 1, b = 2 }, { a = 1 }, true },
      { "an object with less", { a = 1 }, { a = 1, b = 2 }, false },
      { "fields of fields", { a = { b = { c = 1 }, d = 2 } }, { a = { b = { c = 1 } } }, true },
      { "a field that is another", { a = { b = { c = 1 } } }, { a = { b = { c = 2 } } }, false },
      { "an array in another order", { "a", "b" }, { "b", "a" }, true },
      { "an array with duplicates", { "a", "b" }, { "b", "a", "b" }, true },
      { "an array with more elements", { "a", "b" }, { "a" }, false },
      { "an array with less", { "a" }, { "a", "b" }, false },
      { "an array where none is wanted", { "a" }, {}, false },
      { "no array where one is wanted", {}, { "a" }, false },
      { "two empty ones", {}, {}, true },
      { "nothing", nil, { "a" }, false },
      { "a text where an array is wanted", "a", { "a" }, false },
    }
    for _, case in ipairs(cases) do
      it(case[1] .. (case[4] and "" or ": no"), function()
        assert.equal(case[4], match.covers(case[2], case[3]))
      end)
    end

    it("reads raw what is wanted", function()
      assert.is_true(match.covers({ "a" }, with_index({ "a" }, { [2] = "b" })))
      assert.is_true(match.covers({ a = 1 }, with_index({ a = 1 }, { b = 2 })))
    end)
  end)
end)
