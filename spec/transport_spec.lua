local transport = require "integrations.transport"

local options = {
  origin = "https://example.com",
  credentials = { Authorization = "Bearer SG.test.canary" },
  user_agent = "agent",
  connect_timeout = 1,
}

describe("integrations.transport", function()
  describe("of the caller's own", function()
    local function send(answer, problem)
      local seen
      local own = { send = function(_, request)
        seen = request
        return answer, problem
      end }
      local opened = transport.open(own, options)
      local headers = { Accept = "x" }
      local response, found = opened:send { method = "GET", url = "u", headers = headers, timeout_ms = 5, values = {} }
      assert.same({ Accept = "x" }, headers)
      return response, found, seen
    end

    it("gets the credentials with each request, and nothing of the client's inside", function()
      local _, _, seen = send { status = 200 }
      assert.same({
        method = "GET",
        url = "u",
        timeout_ms = 5,
        headers = { Accept = "x", Authorization = "Bearer SG.test.canary", ["User-Agent"] = "agent" },
      }, seen)
    end)

    it("may leave out headers and body", function()
      assert.same({ status = 200, headers = {}, body = "" }, (send { status = 200 }))
    end)

    it("may say little about what went wrong", function()
      local response, problem = send(nil, "gone")
      assert.is_nil(response)
      assert.same({ message = "gone" }, problem)
      assert.same({ message = "it gives no reason" }, select(2, send(nil)))
      assert.same({ message = "m", code = "C", sent = false, status = 200 },
        select(2, send(nil, { message = "m", code = "C", sent = false, status = 200 })))
    end)

    it("need not have close or sleep", function()
      local opened = transport.open({ send = print }, options)
      assert.has_no.errors(function()
        opened:sleep(0)
        opened:close()
      end)
    end)

    it("waits as long as it is told, where it has no way of its own", function()
      local core = require "integrations.core"
      local opened = transport.open({ send = print }, options)
      local started = core.now()
      opened:sleep(0.05)
      assert.is_true(core.now() - started >= 0.05)
    end)

    local nonsense = {
      true, 5, "ok", {}, { status = "200" }, { status = 0 / 0 }, { status = 99 }, { status = 101 }, { status = 600 },
      { status = 200, body = 5 }, { status = 200, body = {} }, { status = 200, headers = "x" },
    }
    for i, answer in ipairs(nonsense) do
      it("may return nonsense, case " .. i, function()
        local response, problem = send(answer)
        assert.is_nil(response)
        assert.same({ message = "the transport returned what is no response; see integrations.transport" }, problem)
      end)
    end

    it("may return a nonsensical problem", function()
      assert.equal("table: ", select(2, send(nil, { message = {} })).message:sub(1, 7))
      assert.equal(200, select(2, send(nil, { message = "m", status = "200" })).status)
    end)

    it("may have headers of any case, and numbers in them; what is no text is left out", function()
      local headers = { ["Retry-After"] = 5, ["X-A"] = "b", [1] = "x", c = {}, d = true }
      local response = send { status = 200, headers = headers }
      assert.same({ ["retry-after"] = "5", ["x-a"] = "b" }, response.headers)
    end)

    it("may tell durations, of which those are kept that can be some", function()
      local durations = setmetatable({ dns = 0, connect = -1, tls = "x", first_byte = 2, other = 5 },
        { __index = function() error "asked" end })
      assert.same({ dns = 0, first_byte = 2 }, (send { status = 200, durations = durations }).durations)
      assert.same({ dns = 0, first_byte = 2 }, (select(2, send(nil, { durations = durations }))).durations)
      assert.is_nil((send { status = 200, durations = "long" }).durations)
      assert.same({}, (send { status = 200, durations = { dns = 0 / 0 } }).durations)
    end)

    it("has a status that is an integer", function()
      local response = send { status = 404.0 }
      assert.equal("404", tostring(response.status))
      assert.is_nil((send { status = 404.5 }))
    end)

    it("cannot bring the credentials into a problem's text", function()
      local _, problem = send(nil, { message = "cannot send Bearer SG.test.canary to x" })
      assert.equal("cannot send Bearer … to x", problem.message)
    end)

    it("waits in its own way, where it has one", function()
      local slept
      local opened = transport.open({ send = print, sleep = function(_, seconds)
        slept = seconds
      end }, options)
      opened:sleep(7)
      assert.equal(7, slept)
    end)
  end)

  for _, choice in ipairs { "carrier pigeon", {}, { send = 5 }, 5, true } do
    it("refuses " .. type(choice) .. " " .. tostring(choice):gsub(":.*", ""), function()
      local opened, message = transport.open(choice, options)
      assert.is_nil(opened)
      assert.equal('must be "curl", "nginx", or a table with a function send', message)
    end)
  end

  it("refuses nginx outside of nginx", function()
    local opened, message = transport.open("nginx", options)
    assert.is_nil(opened)
    assert.equal("works in nginx only", message)
  end)

  describe("curl", function()
    it("reports what keeps a request from being sent", function()
      local opened = assert(transport.open("curl", options))
      local response, problem =
        opened:send { method = "GET", url = "https://elsewhere.example/", headers = {}, timeout_ms = 1000 }
      assert.is_nil(response)
      assert.same({
        code = "CURLE_FAILED_INIT",
        message = "the address is not below this client's base_url",
        sent = false,
      }, problem)
      opened:close()
    end)

    it("cancels a call that a debug hook ends, and works on", function()
      local opened = assert(transport.open("curl", { origin = "http://127.0.0.1:1", credentials = {},
        user_agent = "agent", connect_timeout = 1 }))
      local cancelled
      local engine = opened.engine
      opened.engine = setmetatable({}, { __index = function(_, name)
        return function(_, ...)
          if name == "run" then
            error "interrupted!"
          elseif name == "cancel" then
            cancelled = (...)
          end
          return engine[name](engine, ...)
        end
      end })
      local request = { method = "GET", url = "http://127.0.0.1:1/", headers = {}, timeout_ms = 1000 }
      assert.error_matches(function()
        opened:send(request)
      end, "interrupted!")
      assert.is_number(cancelled)
      opened.engine = engine
      local _, problem = opened:send(request)
      assert.equal("CURLE_COULDNT_CONNECT", problem.code)
      opened:close()
    end)
  end)
end)
