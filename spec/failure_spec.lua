local failure = require "integrations.failure"

describe("integrations.failure", function()
  it("prints as one line with what a person needs", function()
    local failed = failure.new {
      kind = "rejected",
      operation = "integrations.create",
      status = 400,
      message = "the service found fault with the request",
      errors = { { field = "a.b", message = "must be x" }, { message = "two\nlines" } },
    }
    assert.equal("integrations.create: rejected (400, not_applied): "
      .. "the service found fault with the request: a.b must be x; two lines", tostring(failed))
  end)

  it("prints libcurl's name where there is no status", function()
    local failed = failure.from_transport("integrations.list",
      { code = "CURLE_COULDNT_CONNECT", message = "Failed to connect", sent = false })
    assert.equal("integrations.list: network (CURLE_COULDNT_CONNECT, not_applied): nobody answers there: check the "
      .. "address, proxy and the firewall (Failed to connect)", tostring(failed))
  end)

  it("prints both where an answer was cut", function()
    local failed = failure.from_transport("x",
      { code = "CURLE_PARTIAL_FILE", message = "m", sent = true, status = 201 })
    failed.outcome = "applied"
    assert.equal("x: protocol (201, CURLE_PARTIAL_FILE, applied): the answer was cut short (m)", tostring(failed))
  end)

  it("says why a task was cancelled, and what to do", function()
    assert.equal("integrations.list: cancelled (not_applied): the parallel run that this belongs to was cancelled "
      .. "(timeout)", tostring(failure.cancelled("integrations.list", "timeout")))
  end)

  it("has defaults for what is always there", function()
    local failed = failure.new { kind = "closed", operation = "x", message = "y" }
    assert.same({ "not_applied", {}, 0 }, { failed.outcome, failed.errors, failed.attempts })
  end)

  it("sorts faults by path, positions by number", function()
    local failed = failure.invalid("x", {
      { field = "b", message = "" }, { field = "a[10]", message = "" }, { field = "a[9]", message = "" },
    })
    local fields = {}
    for i, fault in ipairs(failed.errors) do
      fields[i] = fault.field
    end
    assert.same({ "a[9]", "a[10]", "b" }, fields)
  end)

  it("tells whether the server's words hold a word, in any case", function()
    local failed = failure.new { kind = "x", operation = "x", message = "y", errors = { { message = "No SCOPE" } } }
    assert.is_true(failed:mentions "scope")
    assert.is_false(failed:mentions "quota")
  end)

  local kinds = {
    CURLE_OPERATION_TIMEDOUT = "timeout",
    CURLE_COULDNT_RESOLVE_HOST = "network",
    CURLE_COULDNT_CONNECT = "network",
    CURLE_RECV_ERROR = "network",
    CURLE_GOT_NOTHING = "network",
    CURLE_PEER_FAILED_VERIFICATION = "tls",
    CURLE_SSL_CONNECT_ERROR = "tls",
    CURLE_SSL_CACERT_BADFILE = "tls",
    CURLE_WEIRD_SERVER_REPLY = "protocol",
    CURLE_FILESIZE_EXCEEDED = "protocol",
    CURLE_TOO_LARGE = "protocol",
    CURLE_PARTIAL_FILE = "protocol",
    CANCELLED = "cancelled",
    CLOSED = "closed",
    CANNOT_WAIT = "invalid",
  }
  for code, kind in pairs(kinds) do
    it(code .. " is " .. kind, function()
      local failed = failure.from_transport("x", { code = code, message = "words", sent = true })
      assert.equal(kind, failed.kind)
      assert.equal(code, failed.code)
      assert.truthy(failed.message:find("words", 1, true))
    end)
  end
end)
