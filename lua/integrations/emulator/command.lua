#!/usr/bin/env lua
--- The command line program `integrations-emulator`: serves the emulator until it is interrupted.

local server = require "integrations.emulator.server"

local command = {}

local USAGE = [[
usage: integrations-emulator [--port N] [--quota N] [--help]

Serves an emulator of SendGrid's Integrations, SendGrid's Segments 2.0 and Rocket.Chat's integrations on 127.0.0.1 until
it is interrupted.

  --port N   the port; a free one, if absent
  --quota N  SendGrid integrations per user and per subuser; 10, if absent
  --help     print this text
]]

local BANNER = [[
emulator: %s
serves:   SendGrid's Integrations, SendGrid's Segments 2.0, Rocket.Chat's integrations
SendGrid: keys SG.emulator.full (everything), SG.emulator.read (GET only)
Rocket.Chat: user id emulator, tokens RC.emulator.full (everything), RC.emulator.none (nothing)
example:  curl -H 'Authorization: Bearer SG.emulator.full' %s/v3/marketing/integrations
Ctrl-C stops it.
]]

--- What each option's number must lie between.
local OPTIONS = {
  ["--port"] = { name = "port", low = 1, high = 65535 },
  ["--quota"] = { name = "quota", low = 0, high = 1000000 },
}

local function read_number(text, option)
  local number = text and text:match("^%d+$") and tonumber(text)
  return number and number >= option.low and number <= option.high and number or nil
end

--- Reads the arguments into { port, quota, help }; nil and a message if they are wrong.
local function read_arguments(arguments)
  local settings, index = {}, 1
  while arguments[index] do
    local argument = arguments[index]
    local option = OPTIONS[argument]
    if argument == "--help" then
      settings.help = true
    elseif not option then
      return nil, ("unknown argument %s"):format(argument)
    else
      index = index + 1
      settings[option.name] = read_number(arguments[index], option)
      if not settings[option.name] then
        return nil, ("%s needs a whole number from %d to %d"):format(argument, option.low, option.high)
      end
    end
    index = index + 1
  end
  return settings
end

--- Runs the program; returns its exit status.
---@param arguments string[]
---@return integer
function command.main(arguments)
  local settings, message = read_arguments(arguments)
  if not settings then
    io.stderr:write("integrations-emulator: ", message, "\n", USAGE)
    return 2
  end
  if settings.help then
    io.stdout:write(USAGE)
    return 0
  end
  local running, reason = server.start { port = settings.port, options = { quota = settings.quota } }
  if not running then
    io.stderr:write("integrations-emulator: ", reason, "\n")
    return 1
  end
  io.stdout:write(BANNER:format(running.url, running.url))
  io.stdout:flush()
  running:wait()
  return 0
end

-- A name in `...` means that `require` is loading this file; otherwise it runs as a program.
if (...) == "integrations.emulator.command" then return command end
os.exit(command.main(arg))
