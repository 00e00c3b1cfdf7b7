--- The operations as every fault meets them: the five of SendGrid's Integrations, and one read and one write of each
--- other service. `sort` decides what a client may do about it (see support.fault_classes); `service` is a row of
--- support.fault_services; `check` says whether a result is right, given the ledger.
local services = require "support.fault_services"

local operations = {}

operations.input = {
  destination = "Segment",
  filters = { email_events = { "drop" } },
  properties = { write_key = "b234567", destination_region = "US" },
  label = "Made",
}

local function is_one_of(result, integrations)
  return (" " .. services.ids_of("integrations", integrations) .. " ")
    :find(" " .. tostring(result.integration_id) .. " ", 1, true) ~= nil
end

operations.list = {
  sort = "read",
  method = "GET",
  call = function(integrations)
    return integrations:list()
  end,
  check = function(result, ledger)
    return operations.lists("integrations", result, ledger)
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

-- One thing is read, or renamed.
local function read(service, get)
  return {
    sort = "read",
    method = "GET",
    service = service,
    call = get,
    check = function(result, ledger)
      return services.ids_of(service, { result }) == services.ids_of(service, ledger[service])
    end,
  }
end

local function rename(service, method, update)
  return {
    sort = "change",
    method = method,
    service = service,
    call = update,
    check = function(result, ledger)
      return result.name == "Changed" and ledger[service][1].name == "Changed"
    end,
  }
end

operations["segments.get"] = read("segments", function(segments, id)
  return segments:get(id)
end)

operations["segments.update"] = rename("segments", "PATCH", function(segments, id)
  return segments:update(id, { name = "Changed" })
end)

operations["rocketchat.get"] = read("rocketchat", function(integrations, id)
  return integrations:get(id)
end)

operations["rocketchat.update"] = rename("rocketchat", "PUT", function(integrations, id)
  local input = { name = "Changed" }
  for name, value in pairs(services.rocketchat.seed) do input[name] = input[name] or value end
  return integrations:update(id, input)
end)

--- In the order in which they are told: those of the first service, and of the others.
operations.names = { "list", "get", "create", "update", "delete" }
operations.others = { "segments.get", "segments.update", "rocketchat.get", "rocketchat.update" }
for _, names in ipairs { operations.names, operations.others } do
  for _, name in ipairs(names) do
    operations[name].name = name
    operations[name].service = operations[name].service or "integrations"
  end
end

--- Whether a list is what the server has.
function operations.lists(service, all, ledger)
  return services.ids_of(service, all) == services.ids_of(service, ledger[service])
end

return operations
