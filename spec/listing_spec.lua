local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"
local failure = require "integrations.failure"
local json = require "integrations.json"
local listing = require "integrations.listing"
local retry = require "integrations.retry"
local service = require "integrations.service"

local Thing = {
  type = "object",
  properties = {
    id = { type = "string" },
    name = { type = "string" },
    kind = { type = "string", enum = { "big", "small" } },
    tags = { type = "array", items = { type = "string" } },
    size = { type = "object", properties = { width = { type = "number" } } },
  },
}

-- Services that exist nowhere: one that gives all in one piece, and one that gives pages.
local function define(list)
  list.method, list.path = "GET", "/things"
  local class = service.define { name = "things", schemas = { Thing = Thing }, operations = { list = list } }
  listing.add(class, Thing)
  return class
end

local Whole = define {
  parameters = { { name = "kind", ["in"] = "query", schema = { type = "string" } } },
  result = { field = "things", array = true, identity = "id" },
}
local Paged = define {
  parameters = {
    { name = "count", ["in"] = "query", schema = { type = "integer", minimum = 0 } },
    { name = "offset", ["in"] = "query", schema = { type = "integer", minimum = 0 } },
  },
  result = { field = "things", array = true, identity = "id", page = true },
}

local function read_failure(operation, response)
  local failed = failure.new { kind = "server", operation = operation.name, status = response.status, message = "no" }
  return failed, { is_sure = true }
end

local function new(class, answers, options)
  local transport = fake_transport.new(answers)
  local session = {
    transport = transport, base_url = "https://e.example", timeout = 9, max_attempts = 1, now = os.time,
    headers = {}, body_headers = {}, budget = retry.new_budget(), read_failure = read_failure,
  }
  for name, value in pairs(options or {}) do
    session[name] = value
  end
  return class.new(session), transport.requests
end

-- An answer with things of these ids, and what else its body has.
local function page(ids, more)
  local body = { things = {} }
  for i, id in ipairs(ids) do
    body.things[i] = { id = id, name = "n" .. id }
  end
  for name, value in pairs(more or {}) do
    body[name] = value
  end
  return { status = 200, body = json.encode(body, { properties = { things = { type = "array" } } }) }
end

local broken = { status = 500, body = "" }

-- A server of so many things, which gives no more of them at once than it wants.
local function server(total, most, extra)
  return function(request)
    local count, offset = request.url:match "^https://e.example/things%?count=(%d+)&offset=(%d+)$"
    count, offset = tonumber(count), tonumber(offset)
    local ids = {}
    for i = offset + 1, math.min(total, offset + math.min(count, most)) do
      ids[#ids + 1] = ("%d"):format(i)
    end
    return page(ids, extra)
  end
end

local function ids_of(things)
  local ids = {}
  for i, thing in ipairs(things) do
    ids[i] = thing.id
  end
  return ids
end

local function each(things)
  local all = {}
  for thing in things:each() do
    all[#all + 1] = thing
  end
  return all
end

-- All things, the one way and the other.
local readers = {
  each = each,
  find = function(things)
    return assert(things:find {})
  end,
}

describe("integrations.listing", function()
  -- the answers, the ids that come of them, and how many requests that takes
  local lists = {
    { "in one piece", Whole, { page { "a", "b" } }, { "a", "b" }, 1 },
    { "of which there are none", Whole, { page {} }, {}, 1 },
    { "one of which is listed twice", Whole, { page { "a", "b", "a" } }, { "a", "b" }, 1 },
    { "in one piece, whatever else it says", Whole, { page({ "a" }, { total = 5 }) }, { "a" }, 1 },
    { "on one page", Paged, { page({ "a", "b" }, { total = 2 }) }, { "a", "b" }, 1 },
    { "on no page", Paged, { page({}, { total = 0 }) }, {}, 1 },
    { "on several pages", Paged,
      { page({ "a", "b" }, { total = 5 }), page({ "c", "d" }, { total = 5 }), page({ "e" }, { total = 5 }) },
      { "a", "b", "c", "d", "e" }, 3 },
    { "on pages that are moving: none comes twice", Paged,
      { page({ "a", "b" }, { total = 5 }), page({ "b", "c" }, { total = 5 }), page({ "c" }, { total = 5 }) },
      { "a", "b", "c" }, 3 },
    { "on pages of which the last repeats only what has come", Paged,
      { page({ "a", "b" }, { total = 4 }), page({ "b", "a" }, { total = 4 }) }, { "a", "b" }, 2 },
    { "that become more meanwhile: the last page counts", Paged,
      { page({ "a", "b" }, { total = 3 }), page({ "c" }, { total = 4 }), page({ "d" }, { total = 4 }) },
      { "a", "b", "c", "d" }, 3 },
    { "that become less meanwhile", Paged,
      { page({ "a", "b" }, { total = 5 }), page({ "c" }, { total = 3 }) }, { "a", "b", "c" }, 2 },
    { "that end before their number: an empty page is the last", Paged,
      { page({ "a", "b" }, { total = 99 }), page({}, { total = 99 }) }, { "a", "b" }, 2 },
    { "whose number is not told", Paged, { page { "a", "b" }, page { "c" }, page {} }, { "a", "b", "c" }, 3 },
    { "whose number is none", Paged,
      { page({ "a" }, { total = "1" }), page({ "b" }, { total = { 1 } }), page({}, { total = true }) },
      { "a", "b" }, 3 },
    { "where the offset counts for nothing, and the total is not told", Paged, { page { "a", "b" } }, { "a", "b" }, 2 },
    { "whose number is null", Paged, { page({ "a" }, { total = json.null }), page {} }, { "a" }, 2 },
  }
  for _, list in ipairs(lists) do
    for name, read in pairs(readers) do
      it(name .. " gives things " .. list[1], function()
        local things, requests = new(list[2], list[3])
        assert.same(list[4], ids_of(read(things)))
        assert.equal(list[5], #requests)
      end)
    end
  end

  for name, read in pairs(readers) do
    it(name .. " does not go on for ever where the same page comes again and again", function()
      for _, total in ipairs { 5, 1e9 } do
        local things, requests = new(Paged, { page({ "a", "b" }, { total = total }) })
        local ok, failed = pcall(read, things)
        failed = type(failed) == "table" and failed.kind and failed or select(2, things:find {})
        assert.is_false(ok)
        assert.same({ "protocol", "not_applied" }, { failed.kind, failed.outcome })
        assert.truthy(failed.message:find("the same page again", 1, true))
        assert.is_true(#requests <= 4)
      end
    end)

    it(name .. " asks for a hundred at once, and goes on after what it got", function()
      local things, requests = new(Paged, { server(250, 1000, { total = 250 }) })
      assert.equal(250, #read(things))
      local urls = {}
      for i, request in ipairs(requests) do
        urls[i] = request.url:match "%?.*"
      end
      assert.same({ "?count=100&offset=0", "?count=100&offset=100", "?count=100&offset=200" }, urls)
    end)

    it(name .. " goes on after fewer, where the service gives no more", function()
      local things, requests = new(Paged, { server(45, 20, { total = 45 }) })
      local all = read(things)
      assert.same({ 45, "1", "45" }, { #all, all[1].id, all[45].id })
      assert.equal("https://e.example/things?count=100&offset=40", requests[3].url)
      assert.equal(3, #requests)
    end)

    it(name .. " asks for no page where there are none", function()
      local things, requests = new(Whole, { page { "a" } })
      read(things)
      assert.equal("https://e.example/things", requests[1].url)
    end)
  end

  describe("each", function()
    it("reads the first page at once, and the others when they are due", function()
      local things, requests = new(Paged, { page({ "a", "b" }, { total = 3 }), page({ "c" }, { total = 3 }) })
      local next_thing = things:each()
      assert.equal(1, #requests)
      assert.same({ "a", "b", 1 }, { next_thing().id, next_thing().id, #requests })
      assert.same({ "c", 2 }, { next_thing().id, #requests })
      assert.is_nil(next_thing())
      assert.is_nil(next_thing())
      assert.equal(2, #requests)
    end)

    it("gives whole things, with fields that are not known", function()
      local things = new(Whole, { { status = 200, body = '{"things":[{"id":"a","new":{"x":1}}]}' } })
      assert.same({ { id = "a", new = { x = 1 } } }, each(things))
    end)

    it("raises the failure of the first page at once", function()
      local things = new(Paged, { broken })
      local done, failed = pcall(things.each, things)
      assert.is_false(done)
      assert.same({ "server", "things.list", 500 }, { failed.kind, failed.operation, failed.status })
    end)

    it("raises that of a later one when it is due", function()
      local things = new(Paged, { page({ "a", "b" }, { total = 9 }), broken })
      local seen = {}
      local done, failed = pcall(function()
        for thing in things:each() do
          seen[#seen + 1] = thing.id
        end
      end)
      assert.is_false(done)
      assert.same({ "a", "b" }, seen)
      assert.same({ "server", 500, 1 }, { failed.kind, failed.status, failed.attempts })
    end)

    it("raises where the client is closed, or was in between", function()
      local things = new(Whole, { page { "a" } }, { closed = true })
      assert.equal("closed", select(2, pcall(things.each, things)).kind)
      things = new(Paged, { page({ "a" }, { total = 2 }) })
      local next_thing = things:each()
      next_thing()
      things.session.closed = true
      assert.equal("closed", select(2, pcall(next_thing)).kind)
    end)

    it("gives each page the whole time", function()
      local now = 100
      local things, requests = new(Paged, { page({ "a" }, { total = 2 }), page({ "b" }, { total = 2 }) },
        { now = function() return now end })
      local next_thing = things:each()
      now = now + 1000
      assert.same({ "a", "b" }, { next_thing().id, next_thing().id })
      assert.same({ 9000, 9000 }, { requests[1].timeout_ms, requests[2].timeout_ms })
    end)
  end)

  describe("find", function()
    local all = { { status = 200, body = json.encode { things = {
      { id = "a", name = "x", kind = "big", tags = { "t", "u" }, size = { width = 1.5 } },
      { id = "b", name = "x", kind = "small", tags = { "u" }, size = { width = 2 } },
      { id = "c", name = "y", kind = "big", size = 5 },
      { id = "d", name = { "x" } },
    } } } }
    local cases = {
      { "by no criterion all", {}, { "a", "b", "c", "d" } },
      { "by one field", { kind = "big" }, { "a", "c" } },
      { "by several", { name = "x", kind = "big" }, { "a" } },
      { "by none that any has", { name = "z" }, {} },
      { "by the element of an array", { tags = "u" }, { "a", "b" } },
      { "by a field of a field", { ["size.width"] = 2 }, { "b" } },
      { "by what a metatable does not add", setmetatable({ name = "y" }, { __index = { kind = "small" } }), { "c" } },
    }
    for _, case in ipairs(cases) do
      it("gives " .. case[1], function()
        local things = new(Whole, all)
        local before = {}
        for name, value in next, case[2] do
          before[name] = value
        end
        assert.same(case[3], ids_of((assert(things:find(case[2])))))
        for name, value in next, case[2] do
          assert.equal(before[name], value)
        end
      end)
    end

    local refused = {
      { nil, "criteria: must be an object, not nil" },
      { "x", "criteria: must be an object, not a string" },
      { { nam = "x" }, 'nam: is not a known field; did you mean "name"?' },
      { { name = 5 }, "name: must be a string, not a number" },
      { { kind = "Big" }, 'kind: "Big" is not a known value; did you mean "big"?' },
      { { tags = { "u" } }, "tags: must be a string, not a table" },
      { { ["size.width"] = "2" }, '["size.width"]: must be a number, not a string' },
    }
    for i = 1, #refused do
      it("sends nothing where " .. refused[i][2], function()
        local things, requests = new(Whole, all)
        local found, failed = things:find(refused[i][1])
        assert.is_nil(found)
        assert.same({ "invalid", "not_applied", "things.find" }, { failed.kind, failed.outcome, failed.operation })
        assert.same({ refused[i][2] }, faults_of(failed))
        assert.equal(0, #requests)
      end)
    end

    it("takes no object for a criterion, since its fields are ones", function()
      local _, failed = new(Whole, all):find { size = { width = 2 } }
      assert.truthy(faults_of(failed)[1]:find('^size: is not a known field; .*"size.width"'), faults_of(failed)[1])
    end)

    it("takes names that are not known where the client is lenient", function()
      local things = new(Whole, { { status = 200, body = '{"things":[{"id":"a","new":1},{"id":"b"}]}' } },
        { strict = false })
      assert.same({ "a" }, ids_of((assert(things:find { new = 1 }))))
    end)

    it("gives the failure of any page, and nothing of those before", function()
      for _, answers in ipairs { { broken }, { page({ "a" }, { total = 2 }), broken } } do
        local found, failed = new(Paged, answers):find {}
        assert.is_nil(found)
        assert.same({ "server", "things.list", 500 }, { failed.kind, failed.operation, failed.status })
      end
    end)

    it("has one deadline for all pages", function()
      local now = 100
      local function slow(request)
        now = now + 4
        return server(9, 1, { total = 9 })(request)
      end
      local things, requests = new(Paged, { slow }, { now = function() return now end })
      local found, failed = things:find {}
      assert.is_nil(found)
      assert.same({ "timeout", "things.list" }, { failed.kind, failed.operation })
      local limits = {}
      for i, request in ipairs(requests) do
        limits[i] = request.timeout_ms
      end
      assert.same({ 9000, 5000, 1000 }, limits)
      assert.is_nil(things.session.deadline)
    end)

    it("gives a failure once the client is closed", function()
      local things, requests = new(Whole, all, { closed = true })
      local found, failed = things:find {}
      assert.is_nil(found)
      assert.same({ "closed", 0 }, { failed.kind, #requests })
    end)
  end)

  for _, name in ipairs { "each", "find" } do
    it(name .. " raises where it is called with a dot", function()
      local things = new(Whole, { page {} })
      assert.error_matches(function()
        things[name] {}
      end, "call it with a colon: things:" .. name, 1, true)
    end)
  end
end)
