local failure = require "integrations.failure"
local retry = require "integrations.retry"

local function failed(fields)
  fields.operation, fields.message = "x", "y"
  return failure.new(fields)
end

describe("integrations.retry", function()
  describe("is_allowed", function()
    -- kind, status, code, outcome, then whether a read and a write may be repeated
    local cases = {
      { "network", nil, "CURLE_COULDNT_CONNECT", "not_applied", true, true },
      { "tls", nil, "CURLE_SSL_CONNECT_ERROR", "not_applied", true, true },
      { "tls", nil, "CURLE_PEER_FAILED_VERIFICATION", "not_applied", false, false },
      { "tls", nil, "CURLE_SSL_CACERT_BADFILE", "not_applied", false, false },
      { "network", nil, "CURLE_RECV_ERROR", "unknown", true, false },
      { "timeout", nil, "CURLE_OPERATION_TIMEDOUT", "unknown", true, false },
      { "rate_limited", 429, nil, "not_applied", true, true },
      { "server", 500, nil, "unknown", true, false },
      { "server", 503, nil, "unknown", true, false },
      { "server", 501, nil, "unknown", false, false },
      { "protocol", 200, nil, "applied", true, false },
      { "protocol", 302, nil, "not_applied", false, false },
      { "rejected", 400, nil, "not_applied", false, false },
      { "unauthorized", 401, nil, "not_applied", false, false },
      { "not_found", 404, nil, "not_applied", false, false },
      { "closed", nil, nil, "not_applied", false, false },
    }
    for _, case in ipairs(cases) do
      local kind, status, code, outcome, read, write = (table.unpack or unpack)(case, 1, 6)
      it(("%s %s: a read %s, a write %s"):format(kind, tostring(status or code), tostring(read), tostring(write)),
        function()
          local f = failed { kind = kind, status = status, code = code, outcome = outcome }
          assert.equal(read, retry.is_allowed(f, true))
          assert.equal(write, retry.is_allowed(f, false))
        end)
    end
  end)

  it("waits anything up to a bound that doubles, and at most 20 s", function()
    assert.equal(0, retry.delay(1, 0))
    assert.equal(0.25, retry.delay(1, 1))
    assert.equal(0.5, retry.delay(2, 1))
    assert.equal(0.5, retry.delay(3, 0.5))
    assert.equal(20, retry.delay(30, 1))
  end)

  it("waits at least as long as the server asks", function()
    assert.equal(7, retry.delay(1, 1, 7))
  end)

  describe("after", function()
    local now = 1790000000
    local cases = {
      { {}, nil },
      { { ["retry-after"] = "3" }, 3 },
      { { ["retry-after"] = "3", ["x-ratelimit-reset"] = "9" }, 3 },
      { { ["x-ratelimit-reset"] = "9" }, 9 },
      { { ["x-ratelimit-reset"] = tostring(now + 12) }, 12 },
      { { ["x-ratelimit-reset"] = ("%.0f"):format((now + 12) * 1000) }, 12 },
      { { ["x-ratelimit-reset"] = tostring(now - 500) }, 0 },
      { { ["retry-after"] = "99999999" }, 3600 },
      { { ["retry-after"] = "-5" }, 0 },
      { { ["retry-after"] = "soon" }, nil },
      { { ["x-ratelimit-reset"] = "nan" }, nil },
    }
    for i, case in ipairs(cases) do
      it("reads its header, case " .. i, function()
        assert.equal(case[2], retry.after({ status = 429, headers = case[1] }, now))
      end)
    end
  end)
end)
