local core = require "integrations.core"
local faults_of = require "spec.support.faults"
local parallel = require "integrations.parallel"
local rate_limit = require "integrations.rate_limit"
local sendgrid = require "integrations.sendgrid"
local task = require "integrations.task"

local EPOCH = 1790000000 -- Mon, 21 Sep 2026 14:13:20 GMT

local moment

local function now()
  return moment
end

local function epoch()
  return EPOCH + moment
end

local function answer(status, remaining, reset, limit)
  return { status = status, headers = {
    ["x-ratelimit-remaining"] = remaining, ["x-ratelimit-reset"] = reset, ["x-ratelimit-limit"] = limit,
  } }
end

-- Sends a request, which must go, and reads its answer.
local function exchange(limit, response)
  assert.is_nil(limit:take("list", now, 1))
  limit:done("list", response, now, epoch)
end

-- How many of so many requests would go now.
local function count(limit, most)
  local gone = 0
  local seconds = limit:take("list", now, 1)
  while not seconds do
    gone = gone + 1
    if gone == most then
      break
    end
    seconds = limit:take("list", now, 1)
  end
  return gone, seconds
end

-- One of nginx's dictionaries.
local function new_dictionary()
  local values, dictionary = {}, { expiries = {} }
  function dictionary.get(_, key)
    return values[key]
  end
  function dictionary.set(_, key, value, expiry)
    values[key] = value
    dictionary.expiries[key] = expiry
    return true
  end
  function dictionary.expire(_, key, expiry)
    if values[key] == nil then
      return nil, "not found"
    end
    dictionary.expiries[key] = expiry
    return true
  end
  function dictionary.add(_, key, value, expiry)
    if values[key] ~= nil then
      return false, "exists"
    end
    return dictionary:set(key, value, expiry)
  end
  function dictionary.incr(_, key, number, initial, expiry)
    if values[key] == nil then
      dictionary:set(key, initial, expiry)
    end
    values[key] = values[key] + number
    return values[key]
  end
  return dictionary
end

-- nginx, as far as it is asked here.
local function with_nginx(dictionaries, body)
  local before = rawget(_G, "ngx")
  rawset(_G, "ngx", { shared = dictionaries, md5 = function(text)
    return ("%08x"):format(#text * 2654435761 % 2 ^ 32) .. ("0"):rep(24)
  end })
  local ok, raised = pcall(body)
  rawset(_G, "ngx", before)
  assert(ok, raised)
end

local makers = {
  ["of a client"] = rate_limit.new,
  ["of nginx's workers"] = function()
    local limit
    with_nginx({ limits = new_dictionary() }, function()
      limit = rate_limit.shared("limits", "https://api.example.com", { Authorization = "Bearer SG.test.canary" })
    end)
    return limit
  end,
}

describe("integrations.rate_limit", function()
  before_each(function()
    moment = 1000
  end)

  for name, new in pairs(makers) do
    describe(name, function()
      it("lets everything go while nothing is known", function()
        local limit = new()
        assert.equal(1000, (count(limit, 1000)))
        for _ = 1, 1000 do
          limit:done("list", { status = 200, headers = {} }, now, epoch)
          limit:done("list", { status = 500 }, now, epoch)
          limit:done("list", nil, now, epoch)
        end
        assert.equal(1000, (count(limit, 1000)))
      end)

      it("lets as many go as an answer left, and no more until the reset", function()
        local limit = new()
        exchange(limit, answer(200, "3", "60", "10"))
        assert.same({ 3, rate_limit.STEP }, { count(limit, 10) }) -- their answers may tell
        for _, left in ipairs { "2", "1", "0" } do
          limit:done("list", answer(200, left, "60", "10"), now, epoch)
        end
        assert.same({ 0, 60 }, { count(limit, 10) })
        moment = moment + 59
        assert.same({ 0, 1 }, { count(limit, 10) })
      end)

      it("counts those under way, in whatever order their answers come", function()
        local limit = new()
        assert.equal(5, (count(limit, 5)))
        limit:done("list", answer(200, "6", "60", "10"), now, epoch) -- the fourth
        assert.equal(2, (count(limit, 10)))
        limit:done("list", answer(200, "9", "60", "10"), now, epoch) -- the first
        assert.equal(1, (count(limit, 10)))
      end)

      it("begins a new window with the limit, and those beyond it wait for an answer", function()
        local limit = new()
        exchange(limit, answer(200, "0", "60", "10"))
        moment = moment + 60
        assert.same({ 10, rate_limit.STEP }, { count(limit, 100) })
        limit:done("list", answer(200, "9", "60", "10"), now, epoch)
        assert.same({ 0, rate_limit.STEP }, { count(limit, 100) })
        for left = 8, 0, -1 do
          limit:done("list", answer(200, tostring(left), "60", "10"), now, epoch)
        end
        assert.same({ 0, 60 }, { count(limit, 100) })
      end)

      it("begins with one request where the limit is not told, then with what its answer left", function()
        local limit = new()
        exchange(limit, answer(200, "0", "60"))
        moment = moment + 60
        assert.same({ 1, rate_limit.STEP }, { count(limit, 100) })
        limit:done("list", answer(200, "7", "60"), now, epoch)
        assert.equal(7, (count(limit, 100)))
      end)

      it("lets everything go again where that answer tells nothing", function()
        local limit = new()
        exchange(limit, { status = 429, headers = { ["x-ratelimit-reset"] = "5" } })
        assert.same({ 0, 5 }, { count(limit, 100) })
        moment = moment + 5
        assert.equal(1, (count(limit, 100)))
        limit:done("list", { status = 200, headers = {} }, now, epoch)
        assert.equal(100, (count(limit, 100)))
      end)

      it("forgets those whose answers have not come in a second", function()
        local limit = new()
        exchange(limit, answer(200, "0", "60", "10"))
        moment = moment + 60
        assert.equal(10, (count(limit, 100)))
        moment = moment + 0.9
        assert.equal(0, (count(limit, 100)))
        moment = moment + 0.2
        assert.equal(10, (count(limit, 100)))
      end)

      it("takes back what was not sent", function()
        local limit = new()
        exchange(limit, answer(200, "1", "60", "10"))
        assert.equal(1, (count(limit, 10)))
        limit:done("list", nil, now, epoch)
        assert.equal(1, (count(limit, 10)))
      end)

      it("waits after a refusal for as long as the service asks, or until the reset", function()
        local cases = {
          { { ["x-ratelimit-reset"] = "7" }, 7 },
          { { ["retry-after"] = "7" }, nil }, -- for whoever was refused
          { { ["retry-after"] = "7", ["x-ratelimit-remaining"] = "0", ["x-ratelimit-reset"] = "30" }, 7 },
          { { ["x-ratelimit-reset"] = "30" }, 30 },
          { { ["x-ratelimit-reset"] = ("%d"):format(EPOCH + 1012) }, 12 },
          { { ["x-ratelimit-reset"] = ("%d500"):format(EPOCH + 1012) }, 12.5 },
          { { ["x-ratelimit-reset"] = "61" }, 60 },
          { { ["x-ratelimit-reset"] = "99999" }, 60 },
          { { ["x-ratelimit-reset"] = "0" }, nil },
          { {}, nil },
        }
        for _, case in ipairs(cases) do
          local limit = new()
          exchange(limit, { status = 429, headers = case[1] })
          assert.equal(case[2], limit:take("list", now, 1))
        end
      end)

      it("is not moved by nonsense", function()
        for _, row in ipairs {
          { "0" }, { "0", "soon" }, { "0", "0" }, { "0", "-5" }, { "-1", "60" }, { "none", "60" }, { "nan", "60" },
          { ("9"):rep(400), "60" }, { nil, "60" }, { "0", ("%d"):format(EPOCH - 500) },
        } do
          local limit = new()
          exchange(limit, answer(200, row[1], row[2], "10"))
          assert.equal(100, (count(limit, 100)))
        end
      end)

      it("tries with one request after a minute, whatever the service says", function()
        for _, told in ipairs { answer(200, "0", "999999999", "100"), answer(429, "0", "61", "100") } do
          moment = 1000
          local limit = new()
          exchange(limit, told)
          assert.equal(60, limit:take("list", now, 1))
          moment = moment + 60
          assert.equal(1, (count(limit, 1000)))
          limit:done("list", answer(200, "99", "61", "100"), now, epoch)
          assert.equal(99, (count(limit, 1000)))
        end
      end)

      it("takes no limit for what is none", function()
        local limit = new()
        exchange(limit, answer(200, "0", "5", "0"))
        moment = moment + 5
        assert.equal(1, (count(limit, 100)))
      end)

      it("is not moved by an answer of an earlier window", function()
        local limit = new()
        assert.equal(2, (count(limit, 2)))
        limit:done("list", answer(200, "50", "60", "100"), now, epoch)
        limit:done("list", answer(200, "0", "1", "100"), now, epoch)
        assert.equal(50, (count(limit, 100)))
      end)

      it("knows a window that began earlier than was thought", function()
        local limit = new()
        exchange(limit, answer(200, "1", "10", "100"))
        moment = moment + 8
        exchange(limit, answer(200, "99", "10", "100"))
        assert.equal(99, (count(limit, 1000)))
      end)

      it("takes the earliest end that answers tell: some tell whole seconds only", function()
        local limit = new()
        assert.equal(2, (count(limit, 2)))
        limit:done("list", answer(200, "1", "2"), now, epoch)
        limit:done("list", answer(200, "0", "1"), now, epoch)
        assert.equal(1, limit:take("list", now, 1))
      end)
    end)
  end

  describe("in one of nginx's dictionaries", function()
    local function shared(dictionaries, key, address)
      local limit
      with_nginx(dictionaries, function()
        limit = rate_limit.shared("limits", address or "https://api.example.com", { Authorization = key })
      end)
      return limit
    end

    it("is what all who have the same address and credentials know", function()
      local dictionaries = { limits = new_dictionary() }
      local first, second = shared(dictionaries, "Bearer a"), shared(dictionaries, "Bearer a")
      local other = shared(dictionaries, "Bearer longer")
      local elsewhere = shared(dictionaries, "Bearer a", "https://b.example")
      exchange(first, answer(200, "0", "60", "10"))
      assert.equal(60, second:take("list", now, 1))
      assert.is_nil(other:take("list", now, 1))
      assert.is_nil(elsewhere:take("list", now, 1))
      moment = moment + 60
      assert.is_nil(second:take("list", now, 1))
      assert.equal(9, (count(first, 100)))
    end)

    it("shows no secret, and everything expires", function()
      local dictionaries = { limits = new_dictionary() }
      local limit = shared(dictionaries, "Bearer SG.test.canary")
      exchange(limit, answer(200, "0", "60", "10"))
      moment = moment + 60
      exchange(limit, answer(429, "0", "60", "10"))
      local keys = 0
      for key, expiry in pairs(dictionaries.limits.expiries) do
        keys = keys + 1
        assert.is_nil(key:find("canary", 1, true))
        assert.truthy(key:find("^https://api%.example%.com %x%x%x%x%x%x%x%x "))
        assert.is_true(expiry > 0 and expiry <= 3700)
      end
      assert.equal(7, keys)
    end)

    it("lets everything go where the dictionary is full", function()
      local full = { get = function() end, set = function() end, add = function() end, incr = function() end,
        expire = function() end }
      local limit = shared({ limits = full }, "Bearer a")
      exchange(limit, answer(429, "0", "60", "10"))
      assert.equal(100, (count(limit, 100)))
    end)

    it("is an option of a client, which names what is missing", function()
      local function new()
        return sendgrid.new { api_key = "SG.test.canary", rate_limit_dict = "limits", transport = { send = print } }
      end
      assert.same({ "rate_limit_dict: is for nginx only, whose workers share it" }, faults_of(select(2, new())))
      with_nginx({}, function()
        assert.same({ "rate_limit_dict: is no dictionary of nginx: its configuration needs "
          .. '"lua_shared_dict limits 1m;"' }, faults_of(select(2, new())))
      end)
      with_nginx({ limits = new_dictionary() }, function()
        local first, second = assert(new()), assert(new())
        exchange(first.session.rate_limit, answer(200, "0", "60", "10"))
        assert.equal(60, second.session.rate_limit:take("list", now, 1))
      end)
    end)
  end)

  describe("of a client", function()
    local core_now, core_sleep = core.now, core.sleep

    before_each(function()
      core.now = now
      core.sleep = function(seconds) moment = moment + seconds end
    end)

    after_each(function()
      core.now, core.sleep = core_now, core_sleep
    end)

    local function work(seconds)
      local current = task.current()
      if current then
        current:sleep(seconds)
      else
        core.sleep(seconds)
      end
    end

    -- A service that lets so many requests through in each window.
    local function new_service(limit, window, delay)
      local service = { began = moment, taken = 0, refused = 0, late = 0, requests = 0 }
      function service.send()
        work(delay / 2)
        service.requests = service.requests + 1
        if moment >= service.began + window then
          service.began, service.taken = moment - (moment - service.began) % window, 0
        end
        local status = service.taken < limit and 200 or 429
        service.taken = service.taken + (status == 200 and 1 or 0)
        service.refused = service.refused + (status == 429 and 1 or 0)
        service.late = service.late + (status == 429 and moment - 1000 > window and 1 or 0)
        local told = answer(status, tostring(limit - service.taken),
          ("%.6f"):format(service.began + window - moment), tostring(limit))
        work(delay / 2)
        return { status = status, headers = told.headers, body = '{"result":[]}' }
      end
      function service.sleep(_, seconds)
        work(seconds)
      end
      return service
    end

    local function new_client(service, options)
      options = options or {}
      options.api_key, options.transport = "SG.test.canary", service
      return assert(sendgrid.new(options))
    end

    local function fill(size)
      local items = {}
      for i = 1, size do
        items[i] = i
      end
      return items
    end

    -- of a window, its seconds, an answer's seconds, then the most seconds that 200 calls may take
    local services = { { 20, 0.3, 0.02, 3 }, { 20, 0.3, 0.1, 3.2 }, { 7, 1, 0.05, 30 }, { 100, 60, 0.2, 65 },
      { 10, 60, 3, 1300 } }
    for _, row in ipairs(services) do
      it(("has refusals in the first window only: %d in %g s, %g s each"):format(row[1], row[2], row[3]), function()
        local service = new_service(row[1], row[2], row[3])
        local sg = new_client(service, { timeout = 6000 })
        local results = parallel.map(fill(200), function() return sg.integrations:list() end, { limit = 50 })
        assert.is_true(results.ok)
        assert.is_true(service.refused <= math.max(0, 50 - row[1]))
        assert.equal(0, service.late)
        assert.equal(200 + service.refused, service.requests)
        assert.is_true(moment - 1000 <= row[4], moment)
      end)
    end

    it("has no call fail of a thousand that begin at once, knowing nothing", function()
      local service = new_service(100, 10, 0.2)
      local sg = new_client(service, { timeout = 600 })
      local results = parallel.map(fill(1000), function() return sg.integrations:list() end, { limit = 1000 })
      assert.is_true(results.ok)
      assert.equal(900, service.refused)
      assert.equal(500, sg.session.budget.tokens)
    end)

    it("is each operation's own", function()
      local service = new_service(1, 60, 0)
      local sg = new_client(service, { timeout = 5, max_attempts = 1 })
      assert(sg.integrations:list())
      service.taken = 0
      assert.equal("protocol", select(2, sg.integrations:get "id").kind)
      assert.equal("rate_limited", select(2, sg.integrations:list()).kind)
      assert.equal(2, service.requests)
    end)

    it("is shared with those that are made by as", function()
      local service = new_service(1, 60, 0)
      local sg = new_client(service, { timeout = 5 })
      assert(sg.integrations:list())
      local _, failed = assert(sg:as "alice").integrations:list()
      assert.same({ "rate_limited", 1 }, { failed.kind, service.requests })
    end)

    it("fails a call at once that would wait past its deadline, with nothing sent", function()
      local service = new_service(1, 60, 1)
      local sg = new_client(service, { timeout = 30 })
      assert(sg.integrations:list())
      local _, failed = sg.integrations:list()
      assert.same({ "rate_limited", "not_applied", 0, 59.5 },
        { failed.kind, failed.outcome, failed.attempts, failed.retry_after })
      assert.equal("integrations.list: rate_limited (not_applied): the service's rate limit is used up for another "
        .. "59.5 s: wait, or raise timeout", tostring(failed))
      assert.same({ 1, 1001 }, { service.requests, moment })
    end)

    it("waits without counting an attempt or paying for a retry, and says so", function()
      local service = new_service(1, 10, 1)
      local events = {}
      local sg = new_client(service, { max_attempts = 1, on_event = function(event)
        events[#events + 1] = ("%s %d %g"):format(event.name, event.attempt, event.delay or 0)
      end })
      for _ = 1, 2 do
        assert(sg.integrations:list())
      end
      assert.same({ "request 1 0", "response 1 0", "wait 1 9.5", "request 1 0", "response 1 0" }, events)
      assert.equal(500, sg.session.budget.tokens)
      assert.equal(1011.5, moment)
    end)

    it("is given back what a listener has stopped", function()
      local service = new_service(10, 60, 0)
      local sg = new_client(service)
      assert(sg.integrations:list())
      sg.session.on_event = function() sg.session.closed = true end
      assert.equal("closed", select(2, sg.integrations:list()).kind)
      assert.equal(0, sg.session.rate_limit.stores["integrations.list"].flying)
    end)
  end)
end)
