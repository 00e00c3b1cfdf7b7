--- Dates in HTTP headers. Pure: neither the system's time zone nor its locale matter.
local http_date = {}

local names = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" }
local months = {}
for number, name in ipairs(names) do
  months[name] = number
end

-- RFC 9110, 5.6.7: the one form that is sent, and two old ones that have to be understood. Each with
-- the places of day, month, year, hour, minute and second among its captures.
local forms = {
  { "^%a%a%a, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$", { 1, 2, 3, 4, 5, 6 } },
  { "^%a+, (%d%d)%-(%a%a%a)%-(%d%d) (%d%d):(%d%d):(%d%d) GMT$", { 1, 2, 3, 4, 5, 6 } },
  { "^%a%a%a (%a%a%a) ([ %d]%d) (%d%d):(%d%d):(%d%d) (%d%d%d%d)$", { 2, 1, 6, 3, 4, 5 } },
}

-- Days since 1970 in the Gregorian calendar: years are counted from March, so that the leap day is
-- the last one of its year.
local function days_since_1970(year, month, day)
  if month <= 2 then
    year, month = year - 1, month + 12
  end
  return 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5) + day - 1 - 719468
end

-- Two digits are of the century that puts the year at most 50 years ahead.
local function full_year(year, epoch)
  if year >= 100 then
    return year
  end
  local this_year = 1970 + math.floor(epoch / 31556952)
  year = year + this_year - this_year % 100
  return year > this_year + 50 and year - 100 or year
end

local function read_form(text, form)
  local captures = { text:match(form[1]) }
  local month = months[captures[form[2][2]]]
  if not month then
    return nil
  end
  local read = {}
  for i, place in ipairs(form[2]) do
    read[i] = tonumber(captures[place])
  end
  return read, month
end

--- Reads a date in any of HTTP's three forms.
---@param text string? `Sun, 06 Nov 1994 08:49:37 GMT`
---@param epoch number seconds since 1970 now, for years of two digits
---@return number? seconds since 1970; nil where the text is no date
function http_date.read(text, epoch)
  for _, form in ipairs(forms) do
    local read, month = read_form(text or "", form)
    if read and read[1] <= 31 and read[4] < 24 and read[5] < 60 and read[6] <= 60 then
      local days = days_since_1970(full_year(read[3], epoch), month, read[1])
      return ((days * 24 + read[4]) * 60 + read[5]) * 60 + read[6]
    end
  end
end

return http_date
