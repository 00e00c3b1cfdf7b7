--- Clients for the APIs that manage third-party integrations.
---
--- Each service is a module of its own: `require "integrations.sendgrid"`. Many calls at once: `integrations.parallel`.
---@class integrations
local integrations = {
  version = "0.1.0",
  --- The modules under `integrations.` that are clients of a service.
  services = { "sendgrid" },
}

return integrations
