--- What the fault server can answer: functions that make a text of the answer that would have been right.
local process = require "support.process"

local answers = {}

local BOMB = "build/spec/bomb.gz"
local BOMB_MEGABYTES, ENDLESS_MEGABYTES = 64, 32

local function head(response)
  local lines = { ("HTTP/1.1 %d Whatever"):format(response.status) }
  for name, value in pairs(response.headers) do lines[#lines + 1] = name .. ": " .. value end
  return table.concat(lines, "\r\n") .. "\r\n"
end

local function with_length(response)
  local text = head(response)
  if response.status == 204 then return text .. "\r\n" end
  return ("%scontent-length: %d\r\n\r\n"):format(text, #response.body)
end

--- The right answer.
function answers.whole(response)
  return with_length(response) .. response.body
end

--- The right answer, and once more: what nobody asked for must not be taken for the answer to the next request.
function answers.twice(response)
  return answers.whole(response) .. answers.whole(response)
end

-- A fault of the body needs one. To a delete the service answers without.
local function with_body(response)
  if response.status ~= 204 then return response end
  return { status = 200, headers = { ["content-type"] = "application/json" }, body = '{"deleted":true}' }
end

--- The right answer with another body: a text, or a function of the right one.
function answers.body(change)
  return function(response)
    response = with_body(response)
    local body = type(change) == "function" and change(response.body) or change
    return answers.whole { status = response.status, headers = response.headers, body = body }
  end
end

--- The right body behind a head that says more than the right one.
function answers.headers(lines)
  return function(response)
    response = with_body(response)
    return head(response) .. lines .. ("content-length: %d\r\n\r\n"):format(#response.body) .. response.body
  end
end

--- Like `headers`, except that the length is the caller's to say: %d is the right one.
function answers.length(lines)
  return function(response)
    response = with_body(response)
    return head(response) .. lines:gsub("%%d", #response.body) .. "\r\n" .. response.body
  end
end

--- The right answer up to, and with, this text.
function answers.up_to(text)
  return function(response)
    local whole = answers.whole(with_body(response))
    return (whole:sub(1, select(2, assert(whole:find(text, 1, true)))))
  end
end

--- The right answer without the last bytes of its body.
function answers.cut(response)
  return answers.whole(with_body(response)):sub(1, -6)
end

--- The right body in one chunk; `size` and `last` replace what is right.
function answers.chunked(size, last)
  return function(response)
    response = with_body(response)
    return head(response) .. "transfer-encoding: chunked\r\n\r\n"
      .. (size or ("%x"):format(#response.body)) .. "\r\n" .. response.body .. "\r\n" .. (last or "0\r\n\r\n")
  end
end

--- The right answer in pieces of one byte.
function answers.bytes(response)
  local pieces = {}
  for byte in answers.whole(response):gmatch "." do pieces[#pieces + 1] = byte end
  return pieces
end

--- Some other text, or a list of pieces.
function answers.text(text)
  return function()
    return text
  end
end

--- An answer in the service's name that has nothing to do with the request. `headers` may be a function of the
--- server, for those that depend on where it is or on the time of day.
function answers.status(status, headers, body)
  return function(_, server)
    return answers.whole {
      status = status,
      headers = type(headers) == "function" and headers(server) or headers or {},
      body = body or '{"errors":[{"field":null,"message":"it is so"}]}',
    }
  end
end

--- Like `status`, without the last bytes of its body.
function answers.status_cut(status)
  local whole = answers.status(status)
  return function(response, server)
    return whole(response, server):sub(1, -6)
  end
end

--- A web page, which no part of the right answer survives.
function answers.page(document)
  return function(response)
    return answers.whole { status = with_body(response).status, headers = { ["content-type"] = "text/html" },
      body = document }
  end
end

--- A head that promises gzip, before what is none.
function answers.gzip_garbage(response)
  return answers.whole { status = with_body(response).status, body = "\31\139\8\0 and then something else",
    headers = { ["content-encoding"] = "gzip", ["content-type"] = "application/json" } }
end

--- More of a body than anybody should read. In pieces: the client leaves before the end.
function answers.endless(response)
  local pieces = { head(with_body(response)) .. "\r\n[" }
  local piece = ("1,"):rep(2 ^ 16)
  for i = 1, ENDLESS_MEGABYTES * 8 do pieces[i + 1] = piece end
  return pieces
end

--- A few kilobytes of gzip that many megabytes come out of. Made once, since that takes a moment; by
--- whichever spec comes first, so it is put in its place whole.
function answers.bomb(response)
  if not process.read_file(BOMB) then
    process.shell(("mkdir -p build/spec && head -c %dM /dev/zero | gzip -9 >%s.$$ && mv %s.$$ %s"):format(
      BOMB_MEGABYTES, BOMB, BOMB, BOMB))
  end
  local packed = assert(process.read_file(BOMB))
  return answers.whole {
    status = with_body(response).status,
    headers = { ["content-encoding"] = "gzip", ["content-type"] = "application/json" },
    body = packed,
  }
end

return answers
