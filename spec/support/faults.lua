--- The faults of a failure as lines, for comparison.

---@param failed integrations.Failure
---@return string[]
return function(failed)
  local lines = {}
  for i, fault in ipairs(failed.errors) do
    lines[i] = (fault.field or "-") .. ": " .. fault.message
  end
  return lines
end
