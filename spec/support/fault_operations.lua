--- The five operations as every fault meets them. `sort` decides what a client may do about it (see
--- support.fault_classes); `check` says what is wrong with a result, given the ledger.
local operations = {}

operations.input = {
  destination = "Segment",
  filters = { email_events = { "drop" } },
  properties = { write_key = "b234567", destination_region = "US" },
  label = "Made",
}

local function ids_of(integrations)
  local ids = {}
  for i, integration in ipairs(integrations) do ids[i] = integration.integration_id end
  return table.concat(ids, " ")
end

local function is_one_of(result, integrations)
  return (" " .. ids_of(integrations) .. " "):find(" " .. tostring(result.integration_id) .. " ", 1, true) ~= nil
end

operations.list = {
  sort = "read",
  method = "GET",
  call = function(integrations)
    return integrations:list()
  end,
  check = function(result, ledger)
    return ids_of(result) == ids_of(ledger.integrations)
  end,
}

operations.get = {
  sort = "read",
  method = "GET",
  call = function(integrations, id)
    return integrations:get(id)
  end,
  check = function(result, ledger)
    return is_one_of(result, ledger.integrations)
  end,
}

operations.create = {
  sort = "create",
  method = "POST",
  call = function(integrations)
    return integrations:create(operations.input)
  end,
  check = function(result, ledger)
    return #ledger.integrations == 2 and is_one_of(result, ledger.integrations)
  end,
}

operations.update = {
  sort = "change",
  method = "PATCH",
  call = function(integrations, id)
    return integrations:update(id, { label = "Changed" })
  end,
  check = function(result, ledger)
    return ledger.integrations[1].label == "Changed" and is_one_of(result, ledger.integrations)
  end,
}

operations.delete = {
  sort = "change",
  method = "DELETE",
  call = function(integrations, id)
    return integrations:delete(id)
  end,
  check = function(result, ledger)
    return result == true and #ledger.integrations == 0
  end,
}

--- In the order in which they are told.
operations.names = { "list", "get", "create", "update", "delete" }
for _, name in ipairs(operations.names) do operations[name].name = name end

return operations
