-- What Lua 5.1 to 5.5 and LuaJIT all have; a newer name must be asked for, so it must be listed here.
std = "min"
read_globals = {
  "jit",
  "setfenv",
  "unpack",
  math = { fields = { "type", "tointeger", "maxinteger", "mininteger" } },
  table = { fields = { "unpack", "pack" } },
}
max_line_length = 120

-- Inside nginx only.
files["lua/integrations/transport"].read_globals = { "ngx" }
files["lua/integrations/emulator"].read_globals = { "ngx" }

files["spec"].std = "+busted"
