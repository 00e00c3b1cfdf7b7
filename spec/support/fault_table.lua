--- The faults that a server, a network or something in between can have: a row for each, under the class of
--- what a client should make of it (see support.fault_classes).
---
--- A row: its name, and
---   play       what the server does once it has the request, step by step: a number of seconds to wait, a
---              function of the right answer that gives a text to send (or a list of pieces), or the name of a
---              method of support.fault_connection. Absent: it answers as it should
---   greet      what it sends before it has read anything
---   meet       steps as in `play`, as soon as there is a connection, instead of all else
---   applies    false: the request changes nothing (otherwise it does, whatever the answer says)
---   tls        the certificate that the server has; with one the client speaks TLS
---   reused     the connection has answered a request well; "dead": it was closed since
---   first      only so many requests meet it
---   closed     nobody listens
---   speaks_of_key  the answer repeats the key, which must not get from there into a log
---   code       libcurl's name of what happened, where no other will do
---   kind, retry_after, is_moment, and an operation's name: what differs from the class
local answers = require "support.fault_answers"

local LATENCY = 0.04
local PAUSE = 0.02 -- lets the client read what was sent before the connection breaks
local KEY = "SG.test.canary"
local DOCUMENT = "<!DOCTYPE html><html><body><h1>It works</h1></body></html>"

local whole, text, body = answers.whole, answers.text, answers.body

-- What nobody can read as the JSON that was asked for, as a delete reads it: any JSON will do.
local function readable_to_delete(row)
  row.delete = "fine"
  return row
end

-- A list whose `result` is none. No other operation's answer has one.
local function broken_list(name, json)
  return readable_to_delete { name, play = { body(json) } }
end

-- After the first brace, so that what the service says comes later, and counts.
local function with_member(member)
  return body(function(json)
    return (json:gsub("^{", "{" .. member .. ",", 1))
  end)
end

local function http_date(seconds)
  return os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + seconds)
end

local function limited(headers)
  return { answers.status(429, headers) }
end

local function redirect(status, location)
  local speaks_of_key = location:find(KEY, 1, true) ~= nil
  local name = ("%d to %s"):format(status, (location:gsub(KEY, "KEY")))
  return { name, applies = false, speaks_of_key = speaks_of_key, play = { answers.status(status, function(server)
    return { location = (location:gsub("ELSEWHERE", "127.0.0.1:" .. server.ports.elsewhere)) }
  end) } }
end

-- A 5xx, both with and without its request having been carried out.
local function failing(status)
  local play = { answers.status(status) }
  return { status .. " after the change", play = play },
    { status .. " before the change", play = play, applies = false }
end

local faults = {}

faults.unreachable = {
  { "nobody listens", kind = "network", closed = true },
  { "TLS: nothing but TLS 1.1", kind = "tls", tls = "old_protocol" },
  { "TLS: closed in the handshake", kind = "tls", tls = "good", meet = { "receive", "close" } },
  { "TLS: reset in the handshake", kind = "tls", tls = "good", meet = { "receive", "reset" } },
}

faults.distrusted = {
  { "TLS: self-signed", tls = "self_signed" },
  { "TLS: expired", tls = "expired" },
  { "TLS: another host's", tls = "other_host" },
}

faults.unreached = {
  { "TLS: silence in the handshake", tls = "good", meet = { "hang" } },
}

faults.unanswered = {
  { "closed after the request", play = { "close" } },
  { "closed after the request, which is not carried out", play = { "close" }, applies = false },
  { "latency, then a reset", play = { LATENCY, "reset" } },
  { "reset before the answer", play = { "reset" } },
  { "reset before the answer to a request that is not carried out", play = { "reset" }, applies = false },
  { "half-closed", play = { "shutdown", "hang" } },
  { "closed in the status line", play = { text "HTTP/1.1 20", PAUSE, "close" } },
  { "reset in the status line", play = { text "HTTP/1.1 20", PAUSE, "reset" } },
  { "closed after 102", play = { text "HTTP/1.1 102 Processing\r\n\r\n", PAUSE, "close" } },
  { "reset after 102", play = { text "HTTP/1.1 102 Processing\r\n\r\n", PAUSE, "reset" } },
  { "5,000 times 102", play = { text(("HTTP/1.1 102 Processing\r\n\r\n"):rep(5000)), "close" }, kind = "protocol" },
  { "HTTP/0.9", play = { text '{"result":[]}', "close" }, kind = "protocol" },
  { "a garbage status line", play = { text "HTP/1.1 200 OK\r\n\r\n{}", "close" }, kind = "protocol" },
  { "a status that is no number", play = { text "HTTP/1.1 OK 200\r\n\r\n{}", "close" }, kind = "protocol" },
  { "SSH's greeting", greet = "SSH-2.0-OpenSSH_9.2p1\r\n", play = { "close" }, kind = "protocol" },
  { "TLS: closed after the request", tls = "good", play = { "close" } },
  { "TLS: reset after the request", tls = "good", play = { "reset" } },
}

-- libcurl takes another connection by itself, which is right for reads.
faults.resent = {
  { "a reused connection closed before the answer", reused = true, play = { "close" } },
  { "a reused connection reset before the answer", reused = true, play = { "reset" } },
  { "TLS: a reused connection closed before the answer", tls = "good", reused = true, play = { "close" } },
  { "TLS: a reused connection reset before the answer", tls = "good", reused = true, play = { "reset" } },
}

faults.silent = {
  { "silence", play = { "hang" } },
  { "silence, and nothing carried out", play = { "hang" }, applies = false },
  { "half-open: silence on a reused connection", reused = true, play = { "hang" } },
  { "silence in the status line", play = { text "HTTP/1.1 20", "hang" } },
  { "silence after 102", play = { text "HTTP/1.1 102 Processing\r\n\r\n", "hang" } },
}

faults.stalled = {
  { "silence in the head", play = { answers.up_to "\r\n", "hang" } },
  { "silence after the head", play = { answers.up_to "\r\n\r\n", "hang" } },
  { "silence in the body", play = { answers.cut, "hang" } },
}

faults.unreadable = {
  { "closed in the head after 102",
    play = { text "HTTP/1.1 102 Processing\r\n\r\n", answers.up_to "\r\n", PAUSE, "close" } },
  { "closed in the head", play = { answers.up_to "\r\n", PAUSE, "close" } },
  { "reset in the head", play = { answers.up_to "\r\n", PAUSE, "reset" }, kind = "network" },
  { "reset after the head", play = { answers.up_to "\r\n\r\n", PAUSE, "reset" }, kind = "network" },
  { "reset in the body", play = { answers.cut, PAUSE, "reset" }, kind = "network" },
  { "closed after the head", play = { answers.up_to "\r\n\r\n", PAUSE, "close" } },
  { "a body short of its Content-Length", play = { answers.cut, "close" } },
  { "Content-Length too small", play = { answers.length "content-length: 9\r\n", "close" } },
  { "Content-Length twice, differing",
    play = { answers.length "content-length: %d\r\ncontent-length: 9\r\n", "close" } },
  { "Content-Length negative", play = { answers.length "content-length: -1\r\n", "close" } },
  { "Content-Length huge", play = { answers.length "content-length: 9007199254740993\r\n", "close" } },
  { "Content-Length no number", play = { answers.length "content-length: many\r\n", "close" } },
  { "a bad chunk size", play = { answers.chunked "xyz", "close" } },
  { "chunks cut short", play = { answers.chunked(nil, ""), "close" } },
  { "a chunk cut short", play = { answers.chunked "ffff", "close" } },
  { "gzip that is none", play = { answers.gzip_garbage } },
  { "a gzip bomb", play = { answers.bomb } },
  { "an endless body", code = "CURLE_FILESIZE_EXCEEDED", play = { answers.endless, "close" } },
  { "a header of 200 KB", code = "CURLE_TOO_LARGE",
    play = { answers.headers("x-fill: " .. ("x"):rep(200000) .. "\r\n"), "close" } },
  { "2,000 headers", code = "CURLE_TOO_LARGE",
    play = { answers.headers(("x-fill: a header of a middling length\r\n"):rep(2000)), "close" } },
  { "NUL in a header", play = { answers.headers "x-fill: a\0b\r\n", "close" } },
  { "a web page", play = { answers.page(DOCUMENT) } },
  { "JSON cut", play = { body(function(json) return json:sub(1, -3) end) } },
  { "JSON nested 100,000 deep", play = { body(("["):rep(100000) .. ("]"):rep(100000)) } },
  { "JSON with NaN", play = { with_member '"extra":NaN' } },
  { "JSON and more behind it", play = { body(function(json) return json .. "<!-- -->" end) } },
  { "a complete answer before the request is read", delete = "fine", play = { "close" },
    greet = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}" },
  readable_to_delete { "an empty body", play = { body "" } },
  readable_to_delete { "JSON of another shape", play = { body '{"message":"ok"}' } },
  readable_to_delete { "201 without a body", play = { text "HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n" } },
  readable_to_delete { "204 with a body", play = { text 'HTTP/1.1 204 None\r\ncontent-length: 2\r\n\r\n{}' } },
  broken_list("a list without result", '{"results":[]}'),
  broken_list("a list whose result is null", '{"result":null}'),
  broken_list("a list whose result is an object", '{"result":{"integration_id":"x"}}'),
  broken_list("a list of what are no objects", '{"result":["x",1,true]}'),
  broken_list("a list of objects without ids", '{"result":[{"label":"x"}]}'),
  { "TLS: a body cut short, without the end of TLS", tls = "good", play = { answers.cut, PAUSE, "close" } },
}

faults.failing = {}
for _, status in ipairs { 500, 502, 503, 504 } do
  local after, before = failing(status)
  table.insert(faults.failing, after)
  table.insert(faults.failing, before)
end

faults.failing_once = {
  { "500, then well", play = { answers.status(500) }, first = 1 },
  { "500 before the change, then well", play = { answers.status(500) }, first = 1, applies = false },
}

faults.unsupported = {
  { "501", play = { answers.status(501) }, applies = false },
}

faults.refused = {
  { "400", kind = "rejected", play = { answers.status(400) } },
  { "401", kind = "unauthorized", play = { answers.status(401) } },
  { "403", kind = "forbidden", play = { answers.status(403, {}, '{"errors":[{"message":"no scope"}]}') } },
  { "404", kind = "not_found", play = { answers.status(404) } },
  { "409", kind = "rejected", play = { answers.status(409) } },
  { "451", kind = "forbidden", play = { answers.status(451) } },
  { "400 that repeats the key", kind = "rejected", speaks_of_key = true, play = { answers.status(400,
    { ["x-request-id"] = KEY }, ('{"id":"%s","errors":[{"message":"bad header Bearer %s","field":"%s"}]}'):format(KEY,
      KEY, KEY)) } },
  -- Rocket.Chat answers 400 to whatever is thrown, and only its words tell.
  { "400 cut short", kind = "any", ["rocketchat.update"] = "refused_perhaps",
    play = { answers.status_cut(400), "close" } },
  { "400 without words", kind = "rejected", ["rocketchat.update"] = "refused_perhaps",
    play = { answers.status(400, {}, '{"success":false}') } },
  -- The status is the answer, however it goes on.
  { "403 cut short", kind = "any", play = { answers.status_cut(403), "close" } },
  { "404 cut short", kind = "any", play = { answers.status_cut(404), PAUSE, "reset" } },
  { "307 cut short", kind = "any", play = { answers.status_cut(307), "close" } },
  { "400 with a web page", kind = "rejected", play = { answers.status(400, {}, DOCUMENT) } },
}

-- `retry_after`: between which two numbers; absent: there is none. `is_moment`: the answer does not name the seconds
-- but their end.
faults.limited = {
  { "429", play = limited {} },
  { "429, Retry-After in seconds", play = limited { ["retry-after"] = "1" }, retry_after = { 1, 1 } },
  { "429, Retry-After as a date", retry_after = { 2, 2 }, is_moment = true, play = limited(function()
    return { ["retry-after"] = http_date(2) }
  end) },
  { "429, Retry-After as a date gone by", retry_after = { 0, 0 }, play = limited(function()
    return { ["retry-after"] = http_date(-60) }
  end) },
  { "429, Retry-After negative", play = limited { ["retry-after"] = "-5" }, retry_after = { 0, 0 } },
  { "429, Retry-After garbage", play = limited { ["retry-after"] = "soon" } },
  { "429, Retry-After hexadecimal", play = limited { ["retry-after"] = "0xffff" } },
  { "429, X-RateLimit-Reset in seconds", play = limited { ["x-ratelimit-reset"] = "1" }, retry_after = { 1, 1 } },
  { "429, X-RateLimit-Reset as an epoch", retry_after = { 2, 2 }, is_moment = true, play = limited(function()
    return { ["x-ratelimit-reset"] = ("%d"):format(os.time() + 2) }
  end) },
  { "429, X-RateLimit-Reset as an epoch in milliseconds", retry_after = { 2, 2 }, is_moment = true,
    play = limited(function()
      return { ["x-ratelimit-reset"] = ("%d000"):format(os.time() + 2) }
    end) },
  { "429, X-RateLimit-Reset negative", play = limited { ["x-ratelimit-reset"] = "-5" }, retry_after = { 0, 0 } },
}

faults.limited_for_long = {
  { "429, Retry-After beyond the deadline", play = limited { ["retry-after"] = "60" }, retry_after = { 60, 60 } },
  { "429, Retry-After absurd", play = limited { ["retry-after"] = "99999999999999" }, retry_after = { 60, math.huge } },
  { "429, Retry-After as a date beyond the deadline", retry_after = { 60, 60 }, is_moment = true,
    play = limited(function()
      return { ["retry-after"] = http_date(60) }
    end) },
  { "429, X-RateLimit-Reset as an epoch beyond the deadline", retry_after = { 60, 60 }, is_moment = true,
    play = limited(function()
      return { ["x-ratelimit-reset"] = ("%d"):format(os.time() + 60) }
    end) },
  { "429, X-RateLimit-Reset as an epoch in milliseconds beyond the deadline", retry_after = { 60, 60 },
    is_moment = true, play = limited(function()
      return { ["x-ratelimit-reset"] = ("%d000"):format(os.time() + 60) }
    end) },
  { "429, X-RateLimit-Reset absurd", play = limited { ["x-ratelimit-reset"] = "999999999" },
    retry_after = { 60, math.huge } },
}

faults.redirected = {
  redirect(301, "/v3/elsewhere"),
  redirect(302, "http://ELSEWHERE/v3/marketing/integrations?key=" .. KEY),
  redirect(307, "file:///etc/passwd"),
  redirect(308, "http://ELSEWHERE/v3/marketing/integrations"),
}

faults.redirected_after = {
  { "303 to what was done", play = redirect(303, "http://ELSEWHERE/v3/marketing/integrations").play },
}

faults.fine = {
  { "nothing wrong" },
  { "latency", play = { LATENCY, whole } },
  { "TLS: latency", tls = "good", play = { LATENCY, whole } },
  { "one byte at a time", play = { answers.bytes } },
  { "two answers at once", play = { answers.twice } },
  { "1,000 times 102", play = { text(("HTTP/1.1 102 Processing\r\n\r\n"):rep(1000)), whole } },
  { "chunks", play = { answers.chunked() } },
  { "Content-Length beyond all numbers",
    play = { answers.length "content-length: 99999999999999999999\r\n", "close" } },
  { "JSON with a name twice", play = { with_member '"result":[],"integration_id":"none"' } },
  { "JSON with 1e999", play = { with_member '"extra":1e999' } },
  { "JSON with 400 digits", play = { with_member('"extra":' .. ("9"):rep(400)) } },
  { "a label that is not UTF-8", play = { body(function(json)
    return (json:gsub('"label":"', '"label":"\255\192'))
  end) } },
  { "an idle connection closed just before", reused = "dead" },
  { "TLS: an idle connection closed just before", tls = "good", reused = "dead" },
}

-- ---- by name --------------------------------------------------------------------------------

-- A 4xx and a 429 mean that nothing was done.
for _, class in ipairs { "refused", "limited", "limited_for_long" } do
  for _, row in ipairs(faults[class]) do row.applies = false end
end

local fault_table = { rows = {}, by_name = {} }

for class, rows in pairs(faults) do
  for _, row in ipairs(rows) do
    row.name, row.class = row[1], class
    assert(not fault_table.by_name[row.name], row.name)
    fault_table.by_name[row.name] = row
    table.insert(fault_table.rows, row)
  end
end
table.sort(fault_table.rows, function(a, b)
  return a.class < b.class or a.class == b.class and a.name < b.name
end)

return fault_table
