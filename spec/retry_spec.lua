local failure = require "integrations.failure"
local retry = require "integrations.retry"

local function failed(fields)
  fields.operation, fields.message = "x", "y"
  return failure.new(fields)
end

local read = { safe = true }
local create = { safe = false }
local update = { safe = false, idempotent = true }

describe("integrations.retry", function()
  describe("is_allowed", function()
    -- kind, status, code, outcome of a write, then whether it may be repeated: a read, a write, an
    -- idempotent write, and one whose repeat the caller has chosen
    local cases = {
      { "network", nil, "CURLE_COULDNT_CONNECT", "not_applied", true, true, true, true },
      { "tls", nil, "CURLE_SSL_CONNECT_ERROR", "not_applied", true, true, true, true },
      { "timeout", nil, "CURLE_OPERATION_TIMEDOUT", "not_applied", true, true, true, true },
      { "tls", nil, "CURLE_PEER_FAILED_VERIFICATION", "not_applied", false, false, false, false },
      { "tls", nil, "CURLE_SSL_CACERT_BADFILE", "not_applied", false, false, false, false },
      { "network", nil, "CURLE_RECV_ERROR", "unknown", true, false, false, true },
      { "timeout", nil, "CURLE_OPERATION_TIMEDOUT", "unknown", true, false, false, true },
      { "protocol", nil, "CURLE_WEIRD_SERVER_REPLY", "unknown", true, false, false, true },
      { "rate_limited", 429, nil, "not_applied", true, true, true, true },
      { "server", 500, nil, "unknown", true, false, false, true },
      { "server", 502, nil, "unknown", true, false, false, true },
      { "server", 503, nil, "unknown", true, false, false, true },
      { "server", 504, nil, "unknown", true, false, false, true },
      { "server", 501, nil, "unknown", false, false, false, false },
      { "protocol", 200, nil, "applied", true, false, false, false },
      { "network", 200, "CURLE_RECV_ERROR", "applied", true, false, false, false },
      { "protocol", 302, nil, "not_applied", false, false, false, false },
      { "protocol", 303, nil, "unknown", false, false, false, false },
      { "rejected", 400, nil, "not_applied", false, false, false, false },
      { "unauthorized", 401, nil, "not_applied", false, false, false, false },
      { "not_found", 404, nil, "not_applied", false, false, false, false },
      { "closed", nil, nil, "not_applied", false, false, false, false },
    }
    for _, case in ipairs(cases) do
      local kind, status, code, outcome = (table.unpack or unpack)(case, 1, 4)
      it(("%s %s, %s"):format(kind, tostring(status or code), outcome), function()
        local of_write = failed { kind = kind, status = status, code = code, outcome = outcome }
        local of_read = failed { kind = kind, status = status, code = code, outcome = "not_applied" }
        assert.equal(case[5], retry.is_allowed(of_read, read))
        assert.equal(case[6], retry.is_allowed(of_write, create))
        assert.equal(case[6], retry.is_allowed(of_write, create, true))
        assert.equal(case[7], retry.is_allowed(of_write, update))
        assert.equal(case[7], retry.is_allowed(of_write, update, false))
        assert.equal(case[8], retry.is_allowed(of_write, update, true))
      end)
    end
  end)

  describe("delay", function()
    it("is anything up to a bound that doubles, and at most 20 s", function()
      assert.equal(0, retry.delay(1, 0, 100))
      assert.equal(0.25, retry.delay(1, 1, 100))
      assert.equal(0.5, retry.delay(2, 1, 100))
      assert.equal(0.5, retry.delay(3, 0.5, 100))
      assert.equal(16, retry.delay(7, 1, 100))
      assert.equal(20, retry.delay(8, 1, 100))
      assert.equal(20, retry.delay(100, 1, 100))
    end)

    it("comes on top of what the server asks for, so that not all come back at once", function()
      assert.equal(7, retry.delay(1, 0, 100, 7))
      assert.equal(7.25, retry.delay(1, 1, 100, 7))
    end)

    it("leaves half of the time that is left for the attempt", function()
      assert.equal(5, retry.delay(10, 1, 10))
      assert.equal(1.1, retry.delay(1, 1, 1.2, 1))
      assert.equal(7, retry.delay(1, 1, 5, 7))
    end)
  end)

  describe("after", function()
    local now = 1790000000 -- Mon, 21 Sep 2026 14:13:20 GMT
    local function epoch(seconds)
      return ("%.0f"):format(now + seconds)
    end
    local cases = {
      { "nothing", {}, nil },
      { "seconds", { ["retry-after"] = "3" }, 3 },
      { "a fraction of them", { ["retry-after"] = "1.5" }, 1.5 },
      { "no seconds", { ["retry-after"] = "0" }, 0 },
      { "seconds before a reset", { ["retry-after"] = "3", ["x-ratelimit-reset"] = "9" }, 3 },
      { "a date", { ["retry-after"] = "Mon, 21 Sep 2026 14:13:50 GMT" }, 30 },
      { "a date that has passed", { ["retry-after"] = "Mon, 21 Sep 2026 14:00:00 GMT" }, 0 },
      { "a date, where the clocks differ by a day: the server's counts", {
        ["retry-after"] = "Tue, 22 Sep 2026 14:13:50 GMT", date = "Tue, 22 Sep 2026 14:13:45 GMT",
      }, 5 },
      { "a date, where the server's clock is unreadable", {
        ["retry-after"] = "Mon, 21 Sep 2026 14:13:50 GMT", date = "yesterday",
      }, 30 },
      { "a date in ten years", { ["retry-after"] = "Sun, 21 Sep 2036 14:13:50 GMT" }, 3600 },
      { "a reset in seconds from now", { ["x-ratelimit-reset"] = "9" }, 9 },
      { "a reset in epoch seconds", { ["x-ratelimit-reset"] = epoch(12) }, 12 },
      { "a reset in epoch milliseconds", { ["x-ratelimit-reset"] = epoch(12) .. "500" }, 12.5 },
      { "a reset in epoch seconds, where the clocks differ", {
        ["x-ratelimit-reset"] = epoch(12), date = "Mon, 21 Sep 2026 14:13:30 GMT",
      }, 2 },
      { "a reset that has passed", { ["x-ratelimit-reset"] = epoch(-500) }, 0 },
      { "a reset that is absurd", { ["x-ratelimit-reset"] = "999999999" }, 3600 },
      { "an unreadable Retry-After beside a reset", { ["retry-after"] = "soon", ["x-ratelimit-reset"] = "9" }, 9 },
      { "an absurd number", { ["retry-after"] = "99999999" }, 3600 },
      { "a number of 400 digits", { ["retry-after"] = ("9"):rep(400) }, 3600 },
      { "a negative number", { ["retry-after"] = "-5" }, 0 },
      { "a word", { ["retry-after"] = "soon" }, nil },
      { "the first where it came twice", { ["retry-after"] = "1, 2" }, 1 },
      { "a hexadecimal number", { ["retry-after"] = "0x10" }, nil },
      { "nan", { ["x-ratelimit-reset"] = "nan" }, nil },
      { "an empty header", { ["retry-after"] = "" }, nil },
    }
    for _, case in ipairs(cases) do
      it("reads " .. case[1], function()
        assert.equal(case[3], retry.after({ status = 429, headers = case[2] }, now))
      end)
    end

    it("takes a reset for a reason to wait with a 429 only, a Retry-After with anything", function()
      assert.is_nil(retry.after({ status = 503, headers = { ["x-ratelimit-reset"] = "9" } }, now))
      assert.equal(9, retry.after({ status = 503, headers = { ["retry-after"] = "9" } }, now))
    end)
  end)

  describe("plan", function()
    local broken = failed { kind = "network", outcome = "not_applied" }

    local function plan(fields, of, operation)
      local state = { attempt = 1, max_attempts = 3, budget = retry.new_budget(), random = 0.5, left = 10 }
      for name, value in pairs(fields) do
        state[name] = value
      end
      return retry.plan(of or broken, operation or read, state)
    end

    it("says how long to wait", function()
      assert.equal(0.125, plan {})
      assert.equal(0.25, plan { attempt = 2 })
    end)

    it("ends with the attempts, and where no other is allowed, without a word", function()
      assert.same({ n = 1 }, { n = select("#", plan { attempt = 3 }), plan { attempt = 3 } })
      local _, reason = plan({}, failed { kind = "server", status = 500, outcome = "unknown" }, update)
      assert.is_nil(reason)
    end)

    it("repeats a write where the caller has chosen so", function()
      assert.equal(0.125, plan({ retry_writes = true },
        failed { kind = "server", status = 500, outcome = "unknown" }, update))
    end)

    it("never waits past the deadline, nor until just before it", function()
      local limited = failed { kind = "rate_limited", status = 429, retry_after = 9 }
      assert.equal(9.125, (plan({}, limited)))
      assert.is_number((plan({ left = 9.02 }, limited)))
      local delay, reason = plan({ left = 9.005 }, limited)
      assert.is_nil(delay)
      assert.equal("the server wants to be asked again in 9 s, and the time limit is before that", reason)
      delay, reason = plan { left = 0.005 }
      assert.is_nil(delay)
      assert.equal("no time was left to try again", reason)
    end)

    describe("pays from a budget", function()
      it("five for a retry, ten after a timeout", function()
        local budget = retry.new_budget()
        assert.equal(500, budget.tokens)
        plan { budget = budget }
        assert.equal(495, budget.tokens)
        plan({ budget = budget }, failed { kind = "timeout", outcome = "not_applied" })
        assert.equal(485, budget.tokens)
      end)

      it("nothing where there is no retry", function()
        local budget = retry.new_budget()
        plan { budget = budget, attempt = 3 }
        plan { budget = budget, left = 0 }
        plan({ budget = budget }, failed { kind = "rejected", status = 400 })
        assert.equal(500, budget.tokens)
      end)

      it("so that an outage ends in one request for a call", function()
        local budget = retry.new_budget()
        local retries = 0
        for _ = 1, 1000 do
          retries = retries + (plan { budget = budget } and 1 or 0)
        end
        assert.equal(100, retries)
        local delay, reason = plan { budget = budget }
        assert.is_nil(delay)
        assert.equal("not tried again, since too many calls of this client failed before", reason)
      end)

      it("which each success fills by one, up to where it was", function()
        local budget = retry.new_budget()
        retry.earn(budget)
        assert.equal(500, budget.tokens)
        budget.tokens = 4
        assert.is_nil((plan { budget = budget }))
        retry.earn(budget)
        assert.is_number((plan { budget = budget }))
        assert.equal(0, budget.tokens)
      end)
    end)
  end)
end)
