--- A transport that answers from a list and notes what it was asked to send.
local fake_transport = {}

--- Answers: a response, or `{ problem = … }`, or a function of the request. The last one repeats.
---@param answers table[]
---@return table transport with `requests`, `sleeps` and `closed`
function fake_transport.new(answers)
  local self = { requests = {}, sleeps = {}, closed = 0 }
  function self.send(_, request)
    self.requests[#self.requests + 1] = request
    local answer = answers[math.min(#self.requests, #answers)]
    if type(answer) == "function" then
      return answer(request)
    end
    if answer.problem then
      return nil, answer.problem
    end
    return { status = answer.status, headers = answer.headers, body = answer.body }
  end
  function self.sleep(_, seconds)
    self.sleeps[#self.sleeps + 1] = seconds
  end
  function self.redact(_, text)
    return text
  end
  function self.close()
    self.closed = self.closed + 1
  end
  return self
end

return fake_transport
