local arguments = require "integrations.arguments"
local core = require "integrations.core"
local fake_transport = require "spec.support.fake_transport"
local faults_of = require "spec.support.faults"
local json = require "integrations.json"
local retry = require "integrations.retry"
local service = require "integrations.service"

local Text = { type = "string" }

-- A service that exists nowhere, with arguments in every place.
local Books = service.define {
  name = "books",
  schemas = {
    Book = {
      type = "object",
      required = { "title", "id" },
      properties = {
        id = { type = "string", minLength = 1 },
        kind = { type = "string", enum = { "novel", "poem" } },
        title = Text,
        authors = { type = { "string", "array" }, items = Text },
        words = { type = { "array", "string" }, items = Text },
        shelf = Text,
        place = Text,
        lent = { type = "boolean" },
        pages = { type = "integer" },
        cover = { type = "object", properties = { colours = { type = "array", items = Text } } },
      },
    },
    Which = {
      type = "object",
      required = { "kind" },
      properties = { kind = { type = "string", enum = { "novel", "poem" } }, id = Text, title = Text },
    },
  },
  forms = {
    authors = arguments.joined,
    words = arguments.split,
    place = arguments.renamed "shelf",
  },
  operations = {
    list = {
      method = "GET",
      path = "/v1/{house}/books",
      parameters = {
        { name = "count", ["in"] = "query", schema = { type = "integer", minimum = 0, maximum = 2 ^ 50 } },
        { name = "lent", ["in"] = "query", schema = { type = "boolean" } },
        { name = "house", ["in"] = "path", schema = Text },
        { name = "ids", ["in"] = "query", many = true, schema = { type = "array", minItems = 1, items = Text } },
        { name = "about", ["in"] = "query", schema = Text },
        { name = "weight", ["in"] = "query", schema = { type = "number" } },
      },
    },
    search = {
      method = "GET",
      path = "/v1/search",
      parameters = {
        { name = "exact", ["in"] = "query", required = true, schema = { type = "boolean" } },
        { name = "in house", ["in"] = "query", required = true, schema = Text },
        { name = "shelves", ["in"] = "query", required = true, many = true,
          schema = { type = "array", minItems = 1, items = Text } },
        { name = "count", ["in"] = "query", schema = { type = "integer" } },
      },
    },
    put = {
      method = "PUT",
      path = "/v1/{house}/books",
      parameters = {
        { name = "dry", ["in"] = "query", schema = { type = "boolean" } },
        { name = "id", ["in"] = "body" },
        { name = "house", ["in"] = "path", schema = Text },
        { name = "by", ["in"] = "query", required = true, schema = { type = "integer" } },
      },
      body = "Book",
      body_name = "book",
    },
    add = { method = "POST", path = "/v1/add", body = "Book" },
    remove = {
      method = "POST",
      path = "/v1/remove",
      parameters = { { name = "kind", ["in"] = "body" }, { name = "id", ["in"] = "body" } },
      body = "Which",
    },
  },
}

local function copy(value)
  if type(value) ~= "table" then
    return value
  end
  local copied = {}
  for key, field in next, value do
    copied[key] = copy(field)
  end
  return copied
end

local function send_by(options, method, ...)
  local transport = fake_transport.new { { status = 204, body = "" } }
  local books = Books.new {
    transport = transport, base_url = "https://e.example", timeout = 5, max_attempts = 1, now = os.time,
    headers = {}, body_headers = {}, budget = retry.new_budget(), strict = options.strict,
  }
  local given = { ... }
  local before = copy(given)
  local done, failed = books[method](books, ...)
  assert.same(before, copy(given)) -- nothing of the caller's is ever changed
  assert.equal(done and 1 or 0, #transport.requests)
  return transport.requests[1] or {}, failed
end

-- What goes out, without the host; or nothing and the failure.
local function send(method, ...)
  local request, failed = send_by({}, method, ...)
  return { request.url and request.url:sub(#"https://e.example/v1" + 1), request.body }, failed
end

local function send_lenient(method, ...)
  local request, failed = send_by({ strict = false }, method, ...)
  return { request.url and request.url:sub(#"https://e.example/v1" + 1), request.body }, failed
end

local function refused(method, ...)
  local sent, failed = send(method, ...)
  assert.same({}, sent)
  assert.same({ "invalid", "not_applied", "books." .. method }, { failed.kind, failed.outcome, failed.operation })
  return faults_of(failed)
end

local function hostile(fields)
  local function refuse()
    error "a metamethod ran"
  end
  return setmetatable(fields, {
    __index = refuse, __newindex = refuse, __pairs = refuse, __ipairs = refuse, __len = refuse, __concat = refuse,
    __call = refuse, __tostring = refuse,
  })
end

describe("integrations.arguments", function()
  describe("sends", function()
    local cases = {
      { "what must be there in the order of the declaration", { "search", true, "a b", { "x", "y z" } },
        "/search?exact=true&in%20house=a%20b&shelves=x,y%20z" },
      { "a false that must be there", { "search", false, "h", "x" }, "/search?exact=false&in%20house=h&shelves=x" },
      { "options after them", { "search", true, "h", "x", { count = 3 } },
        "/search?exact=true&in%20house=h&shelves=x&count=3" },
      { "no options where none are given", { "list", "h" }, "/h/books" },
      { "none where their table is empty", { "list", "h", {} }, "/h/books" },
      { "options in the order of the declaration",
        { "list", "h", { weight = 0.5, about = "x", ids = { "b", "a" }, lent = false, count = 2 } },
        "/h/books?count=2&lent=false&ids=b,a&about=x&weight=0.5" },
      { "one text for a list", { "list", "h", { ids = "a b" } }, "/h/books?ids=a%20b" },
      { "a comma of a text, but none of a list, in disguise", { "list", "h", { about = "a,b" } },
        "/h/books?about=a%2Cb" },
      { "all but unreserved characters in disguise", { "list", "~a-b_c.d", { about = " &=?#/+%é\0\n~-_." } },
        "/~a-b_c.d/books?about=%20%26%3D%3F%23%2F%2B%25%C3%A9%00%0A~-_." },
      { "an empty text", { "list", "h", { about = "" } }, "/h/books?about=" },
      { "numbers alike on every Lua: whole", { "list", "h", { count = 3.0, weight = -7.0 } },
        "/h/books?count=3&weight=-7" },
      { "large", { "list", "h", { count = 1e15, weight = 2 ^ 52 } },
        "/h/books?count=1000000000000000&weight=4503599627370496" },
      { "and huge", { "list", "h", { weight = 1e300 } }, "/h/books?weight=1.0000000000000001e%2B300" },
      { "a path's text, a field, a query and a body where they belong",
        { "put", "b1", "h 1", 7, { title = "T" }, { dry = true } }, "/h%201/books?by=7&dry=true",
        '{"id":"b1","title":"T"}' },
      { "a body's empty arrays as arrays", { "put", "b1", "h", 7, { title = "T", cover = { colours = {} } } },
        "/h/books?by=7", '{"cover":{"colours":[]},"id":"b1","title":"T"}' },
      { "a body's empty object as an object", { "put", "b1", "h", 7, { title = "T", cover = {} } },
        "/h/books?by=7", '{"cover":{},"id":"b1","title":"T"}' },
      { "fields by themselves without a body", { "remove", "poem", "b1" }, "/remove", '{"id":"b1","kind":"poem"}' },
      { "a field by itself beside the body's", { "remove", "poem", nil, { title = "T" } }, "/remove",
        '{"kind":"poem","title":"T"}' },
      { "a field that is given twice, and the same", { "remove", "poem", "b1", { id = "b1" } }, "/remove",
        '{"id":"b1","kind":"poem"}' },
      { "a body by itself in its form", { "add", { id = "b1", title = "T", authors = { "A", "B" }, place = "p" } },
        "/add", '{"authors":"A,B","id":"b1","shelf":"p","title":"T"}' },
      { "the body where a field is left out", { "remove", nil, nil, { kind = "poem", id = "b1" } }, "/remove",
        '{"id":"b1","kind":"poem"}' },
    }
    for _, case in ipairs(cases) do
      it(case[1], function()
        assert.same({ case[3], case[4] }, (send((table.unpack or unpack)(case[2], 1, 6))))
      end)
    end

    it("what the tables have, and nothing of their metatables", function()
      assert.same({ "/h/books?ids=a", nil }, (send("list", "h", hostile { ids = hostile { "a" } })))
      assert.same({ "/remove", '{"id":"b1","kind":"poem"}' }, (send("remove", "poem", "b1", hostile {})))
      assert.same({ "/h/books?by=7", '{"authors":"A,B","id":"b1","title":"T"}' },
        (send("put", "b1", "h", 7, hostile { title = "T", authors = hostile { "A", "B" } })))
      local defaults = { __index = { id = "b1", title = "T", count = 1 } }
      assert.same({ "id: is required", "title: is required" },
        refused("put", nil, "h", 7, setmetatable({}, defaults)))
      assert.same({ "/h/books", nil }, (send("list", "h", setmetatable({}, defaults))))
    end)
  end)

  describe("refuses", function()
    local cases = {
      { "all faults of all arguments, with their paths",
        { "put", 5, "a/b", 1.5, { title = 1, cover = { colours = { "x", 2 } }, kind = "Poem" }, { dry = "yes" } },
        { "by: must be a whole number below 2^53", "cover.colours[2]: must be a string, not a number",
          "dry: must be a boolean, not a string", "house: must not have a slash",
          "id: must be a string, not a number", 'kind: "Poem" is not a known value; did you mean "poem"?',
          "title: must be a string, not a number" } },
      { "an unknown option, and knows better", { "list", "h", { idz = "a", coutn = 1 } },
        { 'coutn: is not a known field; did you mean "count"?', 'idz: is not a known field; did you mean "ids"?' } },
      { "options of wrong types", { "list", "h", { count = "1", lent = 0, ids = 5, about = false, weight = {} } },
        { "about: must be a string, not a boolean", "count: must be an integer, not a string",
          "ids[1]: must be a string, not a number", "lent: must be a boolean, not a number",
          "weight: must be a number, not a table" } },
      { "options beyond their bounds", { "list", "h", { count = -1, ids = {} } },
        { "count: must be at least 0, not -1", "ids: must have at least 1 element, not 0" } },
      { "options that are no table", { "list", "h", "x" }, { "options: must be an object, not a string" } },
      { "false for options", { "list", "h", false }, { "options: must be an object, not a boolean" } },
      { "null for options", { "list", "h", json.null }, { "options: must be an object, not null" } },
      { "an array for options", { "list", "h", { "a" } }, { "[1]: is no field name: an object belongs here" } },
      { "null for an option", { "list", "h", { ids = json.null, count = json.null } },
        { "count: must be an integer, not null", "ids[1]: must be a string, not null" } },
      { "what would be taken for several of a list, or for none", { "list", "h", { ids = { "a,b", "c", "", ".." } } },
        { "ids[1]: must not have a comma: it would be taken for two", "ids[3]: must not be empty",
          'ids[4]: must not be "." or ".."' } },
      { "the same of one by itself", { "list", "h", { ids = "a,b" } },
        { "ids[1]: must not have a comma: it would be taken for two" } },
      { "an id in the query that is none", { "search", true, "", "x" }, { "in house: must not be empty" } },
      { "what must be there and is not", { "search" },
        { "exact: must be a boolean, not nil", "in house: must be a string, not nil",
          "shelves: must have at least 1 element, not 0" } },
      { "neither fields nor a body", { "put", nil, "h", 7 }, { "id: is required", "title: is required" } },
      { "a body that lacks a field", { "put", "b1", "h", 7 }, { "title: is required" } },
      { "a body that is none", { "put", "b1", "h", 7, "x" }, { "book: must be an object, not a string" } },
      { "null for a body", { "remove", "poem", "b1", json.null }, { "input: must be an object, not null" } },
      { "fields by themselves that are wrong", { "remove", "prose", 5 },
        { "id: must be a string, not a number", 'kind: "prose" is not a known value; known: "novel", "poem"' } },
      { "a field that is given twice, and differs", { "remove", "poem", "b1", { id = "b2", kind = "novel" } },
        { "id: is given twice, and differs", "kind: is given twice, and differs" } },
      { "a field that is given by both its names",
        { "put", "b1", "h", 7, { title = "T", place = "p", shelf = "p" } },
        { "place: is another name of shelf: give one of the two" } },
    }
    for _, case in ipairs(cases) do
      it(case[1], function()
        assert.same(case[3], refused((table.unpack or unpack)(case[2], 1, 6)))
      end)
    end

    local slips = { ["function"] = print, thread = coroutine.create(function() end), userdata = io.stdout }
    for kind, slip in pairs(slips) do
      it("a " .. kind .. " by raising, wherever it is given", function()
        for _, case in ipairs {
          { "house", "list", slip }, { "options", "list", "h", slip }, { "exact", "search", slip },
          { "shelves", "search", true, "h", slip }, { "id", "remove", "poem", slip },
          { "input", "remove", "poem", "b1", slip }, { "book", "put", "b1", "h", 7, slip },
        } do
          assert.error_matches(function()
            send((table.unpack or unpack)(case, 2, 6))
          end, ("books.%s: %s must be data, not a %s"):format(case[2], case[1], kind), 1, true)
        end
      end)
    end
  end)

  describe("lets a lenient client", function()
    it("send options that are not known, after those that are", function()
      assert.same({ "/h/books?count=1&about=x&new=a%20b" },
        (send_lenient("list", "h", { new = "a b", about = "x", count = 1 })))
    end)

    local values = { { true, "true" }, { false, "false" }, { 3.0, "3" }, { 1e15, "1000000000000000" },
      { "é", "%C3%A9" }, { { "a b", "c" }, "a%20b,c" }, { { 1, 2.5, true, "x" }, "1,2.5,true,x" } }
    for _, case in ipairs(values) do
      it("send a " .. type(case[1]) .. " as " .. case[2], function()
        assert.same({ "/h/books?new%26=" .. case[2] }, (send_lenient("list", "h", { ["new&"] = case[1] })))
      end)
    end

    it("send them in the order of their names", function()
      assert.same({ "/h/books?count=1&a=1&b=2&c=3&d=4&e=5" },
        (send_lenient("list", "h", { e = 5, b = 2, a = 1, d = 4, c = 3, count = 1 })))
    end)

    it("send fields that are not known", function()
      assert.same({ "/remove", '{"id":"b1","kind":"prose","new":["a"]}' },
        (send_lenient("remove", "prose", "b1", { new = { "a" } })))
    end)

    it("send nothing that is wrong, or no data", function()
      for _, case in ipairs {
        { { new = { "a,b" } }, "new[1]: must not have a comma: it would be taken for two" },
        { { new = { a = 1 } }, "new: must be a list to stand in an address" },
        { { new = {} }, "new: must be a list to stand in an address" },
        { { new = { { "a" } } }, "new[1]: must be a string, a number or a boolean to stand in an address" },
        { { new = print }, "new: must be a value that JSON can hold, not a function" },
        { { count = "1" }, "count: must be an integer, not a string" },
      } do
        local sent, failed = send_lenient("list", "h", case[1])
        assert.same({}, sent)
        assert.same({ case[2] }, faults_of(failed))
      end
    end)
  end)

  describe("a form", function()
    local cases = {
      { "joins an array", { authors = { "A", "B C", "D" } }, { authors = "A,B C,D" } },
      { "joins an array of one", { authors = { "A" } }, { authors = "A" } },
      { "joins an empty array", { authors = {} }, { authors = "" } },
      { "leaves a text that is joined", { authors = "A,B" }, { authors = "A,B" } },
      { "splits a text", { words = "a,b c" }, { words = { "a", "b c" } } },
      { "splits no array", { words = { "a,b" } }, { words = { "a,b" } } },
      { "splits without blanks and without empty parts", { words = " a , ,b,,\tc  d\n," },
        { words = { "a", "b", "c  d" } } },
      { "splits an empty text into nothing", { words = "" }, { words = {} } },
      { "splits blanks into nothing", { words = " , " }, { words = {} } },
      { "splits very many blanks at once", { words = (" "):rep(1e6) .. ",a" }, { words = { "a" } } },
      { "renames", { place = "p" }, { shelf = "p" } },
      { "renames an empty text", { place = "" }, { shelf = "" } },
      { "leaves today's name", { shelf = "p" }, { shelf = "p" } },
      { "adds nothing", { title = "U" }, { title = "U" } },
    }
    for _, case in ipairs(cases) do
      it(case[1], function()
        case[2].title, case[3].title = case[2].title or "T", case[3].title or "T"
        local sent = send("put", "b1", "h", 7, case[2])
        case[3].id = "b1"
        assert.same(case[3], json.decode(sent[2]))
        assert.equal(case[3].words and #case[3].words == 0 or false, sent[2]:find('"words":[]', 1, true) ~= nil)
      end)
    end

    it("keeps a false", function()
      local argument = arguments.new("body", { type = "object", additionalProperties = true },
        { old = arguments.renamed "new" })
      assert.same({ new = false }, arguments.in_form({ old = false }, argument.forms))
      for _, both in ipairs { { old = true, new = false }, { old = false, new = true } } do
        local _, faults = arguments.check("books.help", argument, both, false)
        assert.same({ { field = "old", message = "is another name of new: give one of the two" } }, faults)
      end
    end)

    it("finds its faults beside those of the schema", function()
      assert.same({
        "authors[1]: must not have a comma: it would be taken for two",
        "place: is another name of shelf: give one of the two",
        "title: must be a string, not a number",
      }, refused("put", "b1", "h", 7, { title = 5, place = "p", shelf = "p", authors = { "A,B", "C" } }))
    end)
  end)

  describe("a check for helpers", function()
    local ids = Books.operations.list.arguments[1]
    local shelves, book = Books.operations.search.arguments[3], Books.operations.put.arguments[4]

    local function check(argument, value, lenient)
      local given, faults = arguments.check("books.help", argument, value, lenient or false)
      return given, faults and faults_of { errors = faults }
    end

    it("finds what the operation would", function()
      assert.same({ "house: must not have a slash" }, select(2, check(ids, "a/b")))
      assert.same({ "shelves[1]: must not be empty" }, select(2, check(shelves, "")))
      assert.same({ "shelves: must have at least 1 element, not 0" }, select(2, check(shelves, {})))
      assert.same({ "book: must be an object, not nil" }, select(2, check(book, nil)))
      assert.same({ 'tilte: is not a known field; did you mean "title"?', "title: is required" },
        select(2, check(book, { id = "b", tilte = "T" })))
    end)

    it("gives one as an array, and an array as it is", function()
      assert.same({ "a" }, (check(shelves, "a")))
      local given = { "a", "b" }
      local same, faults = check(shelves, given)
      assert.equal(given, same)
      assert.is_nil(faults)
    end)

    it("lets lenient clients' names through", function()
      assert.is_nil(select(2, check(book, { title = "T", id = "b", new = 1 }, true)))
    end)

    it("raises where no data is given", function()
      assert.error_matches(function()
        check(shelves, print)
      end, "books.help: shelves must be data, not a function", 1, true)
    end)

    it("takes an argument that is no operation's, with plain paths for its fields", function()
      local wanted = arguments.new("wanted", { type = "object", properties = { a = { type = "integer" } } })
      local list = arguments.new("list", { type = "array", minItems = 1, items = Text })
      assert.same({ "a: must be an integer, not a string" }, select(2, check(wanted, { a = "1" })))
      assert.same({ "wanted: must be an object, not nil" }, select(2, check(wanted, nil)))
      assert.same({ "list[2]: must be a string, not a number" }, select(2, check(list, { "a", 1 })))
      assert.same({ "list: must have at least 1 element, not 0" }, select(2, check(list, {})))
      assert.is_nil(select(2, check(wanted, { a = 1 })))
    end)
  end)

  it("compiles a check when it is first used", function()
    local check = arguments.compile { type = "nonsense" }
    assert.error_matches(function()
      check("x", false)
    end, "unknown type 'nonsense'", 1, true)
  end)

  it("compiles it once", function()
    local schema, compiled = core.schema, 0
    core.schema = function(declaration)
      compiled = compiled + 1
      return schema(declaration)
    end
    local check = arguments.compile(Text)
    local first, second = check("x", false), check(5, false)
    core.schema = schema
    assert.same({ true, false, 1 }, { first, second or false, compiled })
  end)

  it("copies an array without what a metatable adds, up to its first hole", function()
    local list = { "a", "b" }
    assert.same(list, arguments.list(hostile { "a", "b" }))
    assert.are_not.equal(list, arguments.list(list))
    assert.same({ "a" }, arguments.list { "a", nil, "c" })
  end)
end)
