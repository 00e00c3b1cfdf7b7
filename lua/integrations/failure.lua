--- The error value: what every call gives back, after `nil`, when it did not work.

---@alias integrations.Kind
---| "invalid"       # refused here, nothing was sent
---| "unauthorized"  # the server does not accept the credentials
---| "forbidden"     # the credentials may not do this
---| "limit_reached" # the account holds as many as it may
---| "not_found"     # there is no such thing
---| "rejected"      # the server found fault with the request
---| "rate_limited"  # too many requests
---| "server"        # the server failed
---| "timeout"       # the deadline passed
---| "network"       # no connection, or it broke
---| "tls"           # no connection that can be trusted
---| "protocol"      # an answer that is none
---| "ambiguous"     # several things are what one was asked for
---| "closed"        # the client was closed before
---| "cancelled"     # the parallel run that it belongs to was cancelled

---@alias integrations.Outcome
---| "not_applied" # nothing was changed
---| "applied"     # the change was made
---| "unknown"     # it may have been made: look before you repeat it

---@class integrations.Fault
---@field field? string where it is: `filters.email_events[2]`; absent where the server does not say
---@field message string what is wrong with it
---@field id? string the caller's id that the server complains of

---@class integrations.Failure
---@field kind integrations.Kind
---@field outcome integrations.Outcome
---@field message string what happened and what to do next
---@field errors integrations.Fault[] every fault, found here or by the server; may be empty
---@field operation string `integrations.create`
---@field attempts integer how many times a request was sent, or tried to be
---@field status? integer the HTTP status
---@field code? string libcurl's name of what went wrong, where no whole answer came; or a transport's own
---@field retry_after? number seconds after which the server wants to be asked again
---@field request_id? string what the server calls this request
---@field two_factor? { method: string } Rocket.Chat: the second factor that the server wants
local Failure = {}
Failure.__index = Failure

--- Whether the server's own words hold this one.
---@param word string in lower case
---@return boolean
function Failure:mentions(word)
  for _, fault in ipairs(self.errors) do
    if fault.message:lower():find(word, 1, true) then
      return true
    end
  end
  return false
end

local failure = {}

local function describe_fault(fault)
  return fault.field and fault.field .. " " .. fault.message or fault.message
end

function Failure.__tostring(self)
  local details = {}
  for _, name in ipairs { "status", "code", "outcome" } do
    details[#details + 1] = self[name] and tostring(self[name])
  end
  local parts = { self.operation, ": ", self.kind, " (", table.concat(details, ", "), "): ", self.message }
  for i, fault in ipairs(self.errors) do
    parts[#parts + 1] = (i == 1 and ": " or "; ") .. describe_fault(fault)
  end
  return (table.concat(parts):gsub("%c+", " "))
end

---@param fields table the fields of a Failure; `outcome`, `errors` and `attempts` have defaults
---@return integrations.Failure
function failure.new(fields)
  fields.outcome = fields.outcome or "not_applied"
  fields.errors = fields.errors or {}
  fields.attempts = fields.attempts or 0
  return setmetatable(fields, Failure)
end

-- Numbers inside a path sort by value, so that [10] comes after [9].
local function sort_key(fault)
  return (fault.field:gsub("%d+", function(digits)
    return ("0"):rep(16 - #digits) .. digits
  end))
end

--- What is refused before anything is sent.
---@param operation string
---@param faults integrations.Fault[]
---@return integrations.Failure
function failure.invalid(operation, faults)
  table.sort(faults, function(a, b)
    local x, y = sort_key(a), sort_key(b)
    return x < y or x == y and a.message < b.message
  end)
  return failure.new {
    kind = "invalid",
    operation = operation,
    message = "nothing was sent",
    errors = faults,
  }
end

---@param operation string
---@return integrations.Failure
function failure.closed(operation)
  return failure.new {
    kind = "closed",
    operation = operation,
    message = "this client was closed; make a new one",
  }
end

local CANCELLED = "the parallel run that this belongs to was cancelled"

--- What a task is told once it is not wanted any more.
---@param operation string
---@param reason string
---@return integrations.Failure
function failure.cancelled(operation, reason)
  return failure.new {
    kind = "cancelled",
    operation = operation,
    message = ("%s (%s)"):format(CANCELLED, reason),
  }
end

local TLS = "the server's identity could not be proved: check the host name, its certificate and ca_file"

-- What libcurl's codes mean to a caller. Codes that stand for nothing of their own are `network`.
local codes = {
  CURLE_OPERATION_TIMEDOUT = { "timeout", "no answer within the time limit (timeout, or connect_timeout)" },
  CURLE_COULDNT_RESOLVE_HOST = { "network", "the host name was not found: check the address and DNS" },
  CURLE_COULDNT_RESOLVE_PROXY = { "network", "the proxy's name was not found: check proxy" },
  CURLE_COULDNT_CONNECT = { "network", "nobody answers there: check the address, proxy and the firewall" },
  CURLE_SSL_CONNECT_ERROR = { "tls", "no TLS connection came about" },
  CURLE_SSL_CIPHER = { "tls", "no TLS connection came about" },
  CURLE_PEER_FAILED_VERIFICATION = { "tls", TLS },
  CURLE_SSL_ISSUER_ERROR = { "tls", TLS },
  CURLE_SSL_INVALIDCERTSTATUS = { "tls", TLS },
  CURLE_SSL_CACERT_BADFILE = { "tls", "the file of trusted certificates cannot be read: check ca_file, "
    .. "or install the system's (Debian: ca-certificates)" },
  CURLE_WEIRD_SERVER_REPLY = { "protocol", "what answers there does not speak HTTP" },
  CURLE_UNSUPPORTED_PROTOCOL = { "protocol", "what answers there does not speak HTTP as expected" },
  CURLE_HTTP2 = { "protocol", "the server broke HTTP/2's rules" },
  CURLE_HTTP2_STREAM = { "protocol", "the server broke HTTP/2's rules" },
  CURLE_PARTIAL_FILE = { "protocol", "the answer was cut short" },
  CURLE_WRITE_ERROR = { "protocol", "the answer could not be read" },
  CURLE_BAD_CONTENT_ENCODING = { "protocol", "the answer could not be read" },
  CURLE_FILESIZE_EXCEEDED = { "protocol", "the answer is too large" },
  CURLE_TOO_LARGE = { "protocol", "the answer is too large" },
  CANCELLED = { "cancelled", CANCELLED },
  CLOSED = { "closed", "this client was closed during the call; make a new one" },
  CANNOT_WAIT = { "invalid", "nothing was sent" },
}

local other_code = { "network", "the connection failed" }

--- What a transport reports when no whole response came.
---@param operation string
---@param problem { code: string, message: string, sent: boolean, status?: integer }
---@return integrations.Failure
function failure.from_transport(operation, problem)
  local row = codes[problem.code] or other_code
  return failure.new {
    kind = row[1],
    operation = operation,
    status = problem.status,
    code = problem.code,
    message = row[2] .. " (" .. problem.message .. ")",
  }
end

return failure
