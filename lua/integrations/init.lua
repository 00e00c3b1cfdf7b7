--- Clients for the APIs that manage third-party integrations.
---
--- Each has a module of its own: `integrations.sendgrid`, `integrations.rocketchat`. Many calls at once:
--- `integrations.parallel`.
---@class integrations
local integrations = {
  version = "0.1.0",
  --- The modules under `integrations.` that are clients of a service.
  services = { "sendgrid", "rocketchat" },
}

return integrations
