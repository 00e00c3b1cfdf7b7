--- What a response means that refuses, as a service declares it.
local failure = require "integrations.failure"
local json = require "integrations.json"
local match = require "integrations.match"
local retry = require "integrations.retry"
local service = require "integrations.service"

local refusal = {}

---@class integrations.refusal.Declaration
---@field statuses table<integer, integrations.refusal.Row> what a status means, and what to do next
---@field wordings integrations.refusal.Wording[] what some words say better than the status; the first that fits counts
---@field faults fun(body: table, operation: table, request: table,
---  text_of: fun(value: any): string?): integrations.Fault[] all that a body names
---@field names? fun(body: table, text_of: fun(value: any): string?): string[] what the server calls the error, in
---  lower case
---@field is_sure? fun(body: table?, response: integrations.Response): boolean whether a refusal in no wording was made
---  before anything was done; asked of the service's `unsure_statuses`. No body: it is not JSON
---@field request_id fun(body: table, headers: table<string, string>, text_of: fun(value: any): string?): string? what
---  the server calls the request

---@class integrations.refusal.Row
---@field [1] integrations.Kind
---@field [2] string what to do next; `%s` is the option with the service's address
---@field gone? boolean the thing is not there: what a removal that is repeated wants to hear

---@class integrations.refusal.Wording
---@field statuses table<integer, true>
---@field words? string[] in lower case; one of them anywhere in the texts is enough
---@field names? string[] one of them is what the server calls the error
---@field kind? integrations.Kind the status's own, if absent
---@field message? string likewise
---@field gone? boolean see Row
---@field describe? fun(body: table, failed: integrations.Failure, text_of: fun(value: any): string?) says more

-- What statuses mean to every service, unless it knows better.
local common = {
  [400] = { "rejected", "the service found fault with the request" },
  [406] = { "rejected", "the service cannot answer in the form asked for: is %s right?" },
  [413] = { "rejected", "the request is too large for the service" },
  [414] = { "rejected", "the address is too long: ask for less at once" },
  [415] = { "rejected", "the service does not take JSON there: is %s right?" },
  [429] = { "rate_limited", "too many requests: wait" },
  [451] = { "forbidden", "the law does not allow it" },
}
local other_4xx = { "rejected", "the service refused the request" }
local other_5xx = { "server", "the service failed: try again later" }

-- Servers write "nothing" in many ways: SendGrid also names the field "request".
local no_text = { [""] = true, ["null"] = true, request = true }

-- More than a person reads: cut, so that no answer can make its own reading slow.
local MAX_TEXT = 4096

local UNSURE = "the service refused, or failed while it worked: it does not say which"

--- The server's words, without the credentials, which they may repeat. Cut afterwards: half a key is one, too.
---@param session table
---@return fun(value: any): string? text_of nil where there are none
function refusal.texts_of(session)
  return function(value)
    if type(value) == "string" and not no_text[value] then
      return session.transport:redact(value):sub(1, MAX_TEXT)
    end
  end
end

local function row_of(declaration, operation, status)
  return operation.statuses and operation.statuses[status] or declaration.statuses[status] or common[status]
    or (status < 500 and other_4xx or other_5xx)
end

-- A refusal that comes with a 2xx is read like one that comes with a 400.
local function fits(row, failed, names)
  if not row.statuses[failed.status < 300 and 400 or failed.status] then
    return false
  end
  for _, word in ipairs(row.words or {}) do
    if failed:mentions(word) then
      return true
    end
  end
  for _, name in ipairs(names) do
    if match.contains(row.names or {}, name) then
      return true
    end
  end
  return false
end

local function wording_of(declaration, failed, body, text_of)
  local names = declaration.names and declaration.names(body, text_of) or {}
  for _, row in ipairs(declaration.wordings) do
    if fits(row, failed, names) then
      return row
    end
  end
end

-- Says what the words say better. Returns whether there were any.
local function apply(wording, failed, body, text_of)
  if not wording then
    return false
  end
  failed.kind = wording.kind or failed.kind
  failed.message = wording.message or failed.message
  if wording.describe then
    wording.describe(body, failed, text_of)
  end
  return true
end

--- Makes the function of a client's declaration that reads a refusal.
---@param declaration integrations.refusal.Declaration
---@param address string the client's option that holds the service's address
---@return fun(operation: table, response: integrations.Response, request: table,
---  session: table): integrations.Failure, { gone: boolean?, is_sure: boolean }
function refusal.reader(declaration, address)
  return function(operation, response, request, session)
    local decoded = json.decode(response.body)
    local body = type(decoded) == "table" and decoded or {}
    local text_of = refusal.texts_of(session)
    local row = row_of(declaration, operation, response.status)
    local failed = failure.new {
      kind = row[1],
      operation = operation.name,
      status = response.status,
      message = row[2]:format(address),
      errors = declaration.faults(body, operation, request, text_of),
      retry_after = retry.after(response, os.time()),
      request_id = declaration.request_id(body, response.headers, text_of),
    }
    local wording = wording_of(declaration, failed, body, text_of)
    local is_doubted = operation.unsure_statuses and operation.unsure_statuses[response.status]
    local is_sure = apply(wording, failed, body, text_of) or not is_doubted
      or declaration.is_sure(type(decoded) == "table" and decoded or nil, response)
    failed.message = is_sure and failed.message or UNSURE
    if type(decoded) ~= "table" then
      -- First, since it says more than the status: that one may be somebody else's.
      failed.message = service.describe_body(response.body) .. "; " .. failed.message
    end
    return failed, { gone = (wording or row).gone, is_sure = is_sure }
  end
end

return refusal
