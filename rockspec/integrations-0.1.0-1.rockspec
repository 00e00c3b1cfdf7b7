rockspec_format = "3.0"
package = "integrations"
version = "0.1.0-1"

source = {
  -- Until the project has a public home: `luarocks make` builds from a checkout and needs no address.
  url = "git+https://example.com/integrations.git",
  tag = "v0.1.0",
}

description = {
  summary = "Client for Twilio SendGrid's Integrations API and Segments 2.0, and for Rocket.Chat's integrations",
  detailed = [[
    Input is checked before anything is sent and every fault is named; each failure says whether the call was applied;
    a write never goes out twice by accident. On a C core with libcurl. Comes with an emulator of the services.
  ]],
  license = "MIT",
  labels = { "sendgrid", "segment", "rocketchat", "http", "client" },
}

supported_platforms = { "linux" } -- the core waits by epoll

dependencies = {
  "lua >= 5.1, < 5.6",
  "lua-cjson >= 2.1.0",
}

-- A library, not a header: LuaRocks does not look where Debian keeps libcurl's headers, but the compiler does.
external_dependencies = {
  CURL = { library = "curl" },
}

build = {
  type = "builtin",
  modules = {
    ["integrations.core"] = {
      sources = {
        "csrc/background.c",
        "csrc/connection.c",
        "csrc/core.c",
        "csrc/easy.c",
        "csrc/engine.c",
        "csrc/flight.c",
        "csrc/loop.c",
        "csrc/lua_engine.c",
        "csrc/lua_report.c",
        "csrc/result.c",
        "csrc/schema.c",
        "csrc/schema_check.c",
        "csrc/sigpipe.c",
        "csrc/text.c",
        "csrc/tls.c",
        "csrc/transfer.c",
      },
      defines = { "_GNU_SOURCE" },
      libraries = { "curl", "pthread" },
      incdirs = { "$(CURL_INCDIR)" },
      libdirs = { "$(CURL_LIBDIR)" },
    },
    ["integrations"] = "lua/integrations/init.lua",
    ["integrations.arguments"] = "lua/integrations/arguments.lua",
    ["integrations.call"] = "lua/integrations/call.lua",
    ["integrations.client"] = "lua/integrations/client.lua",
    ["integrations.emulator"] = "lua/integrations/emulator/init.lua",
    ["integrations.emulator.command"] = "lua/integrations/emulator/command.lua",
    ["integrations.emulator.json"] = "lua/integrations/emulator/json.lua",
    ["integrations.emulator.nginx"] = "lua/integrations/emulator/nginx.lua",
    ["integrations.emulator.records"] = "lua/integrations/emulator/records.lua",
    ["integrations.emulator.rocketchat"] = "lua/integrations/emulator/rocketchat.lua",
    ["integrations.emulator.rocketchat_forms"] = "lua/integrations/emulator/rocketchat_forms.lua",
    ["integrations.emulator.segments"] = "lua/integrations/emulator/segments.lua",
    ["integrations.emulator.sendgrid"] = "lua/integrations/emulator/sendgrid.lua",
    ["integrations.emulator.sendgrid_host"] = "lua/integrations/emulator/sendgrid_host.lua",
    ["integrations.emulator.server"] = "lua/integrations/emulator/server.lua",
    ["integrations.emulator.url"] = "lua/integrations/emulator/url.lua",
    ["integrations.examples.demo"] = "lua/integrations/examples/demo.lua",
    ["integrations.ensure"] = "lua/integrations/ensure.lua",
    ["integrations.failure"] = "lua/integrations/failure.lua",
    ["integrations.http_date"] = "lua/integrations/http_date.lua",
    ["integrations.json"] = "lua/integrations/json.lua",
    ["integrations.listing"] = "lua/integrations/listing.lua",
    ["integrations.match"] = "lua/integrations/match.lua",
    ["integrations.nginx_phase"] = "lua/integrations/nginx_phase.lua",
    ["integrations.parallel"] = "lua/integrations/parallel.lua",
    ["integrations.rate_limit"] = "lua/integrations/rate_limit.lua",
    ["integrations.refusal"] = "lua/integrations/refusal.lua",
    ["integrations.retry"] = "lua/integrations/retry.lua",
    ["integrations.rocketchat"] = "lua/integrations/rocketchat.lua",
    ["integrations.rocketchat.integrations"] = "lua/integrations/rocketchat/integrations.lua",
    ["integrations.scheduler"] = "lua/integrations/scheduler.lua",
    ["integrations.sendgrid"] = "lua/integrations/sendgrid.lua",
    ["integrations.sendgrid.bulk_delete"] = "lua/integrations/sendgrid/bulk_delete.lua",
    ["integrations.sendgrid.integrations"] = "lua/integrations/sendgrid/integrations.lua",
    ["integrations.sendgrid.segments"] = "lua/integrations/sendgrid/segments.lua",
    ["integrations.service"] = "lua/integrations/service.lua",
    ["integrations.task"] = "lua/integrations/task.lua",
    ["integrations.transport"] = "lua/integrations/transport/init.lua",
    ["integrations.transport.curl"] = "lua/integrations/transport/curl.lua",
    ["integrations.transport.engine"] = "lua/integrations/transport/engine.lua",
    ["integrations.transport.lookout"] = "lua/integrations/transport/lookout.lua",
    ["integrations.transport.nginx"] = "lua/integrations/transport/nginx.lua",
  },
  install = {
    bin = {
      ["integrations-emulator"] = "lua/integrations/emulator/command.lua",
    },
  },
}
