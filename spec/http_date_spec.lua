local http_date = require "integrations.http_date"

local now = 1790000000 -- in September 2026

describe("integrations.http_date", function()
  local dates = {
    { "Sun, 06 Nov 1994 08:49:37 GMT", 784111777 },
    { "Sunday, 06-Nov-94 08:49:37 GMT", 784111777 },
    { "Sun Nov  6 08:49:37 1994", 784111777 },
    { "Thu, 01 Jan 1970 00:00:00 GMT", 0 },
    { "Thu, 29 Feb 2024 23:59:59 GMT", 1709251199 },
    { "Fri, 01 Mar 2024 00:00:00 GMT", 1709251200 },
    { "Sun, 28 Feb 2100 00:00:00 GMT", 4107456000 },
    { "Mon, 01 Mar 2100 00:00:00 GMT", 4107542400 },
    { "Tue, 31 Dec 2030 12:00:00 GMT", 1924948800 },
    -- A year of two digits is at most fifty years ahead.
    { "Tuesday, 31-Dec-30 12:00:00 GMT", 1924948800 },
    { "Thursday, 31-Dec-76 12:00:00 GMT", 3376641600 },
    { "Saturday, 31-Dec-77 12:00:00 GMT", 252417600 },
  }
  for _, case in ipairs(dates) do
    it("reads " .. case[1], function()
      assert.equal(case[2], http_date.read(case[1], now))
    end)
  end

  local others = {
    "", "soon", "12", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 06 Foo 1994 08:49:37 GMT",
    "Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT", " Sun, 06 Nov 1994 08:49:37 GMT",
    "Sun, 32 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:49:37 GMT", "Sun, 06 Nov 1994 08:60:37 GMT",
    "Sun, 06 Nov 19940 08:49:37 GMT", "2026-11-21T00:00:00Z",
  }
  for _, text in ipairs(others) do
    it(("does not take %q for a date"):format(text), function()
      assert.is_nil(http_date.read(text, now))
    end)
  end

  it("takes nothing for no date", function()
    assert.is_nil(http_date.read(nil, now))
  end)
end)
