--- Host names that need no network, for programs that process.run_lua starts: a library that is loaded before the
--- others answers in the resolver's place.
---
---   missing.invalid   does not exist
---   slow.invalid      is 127.0.0.1, which is said two seconds late
---
--- As soon as a file is there, both are 127.0.0.1 at once.
local preload = require "support.preload"

local names = {}

local LIBRARY = "build/spec/names.so"
local REPAIRED = "INTEGRATIONS_SPEC_NAMES"

local SOURCE = [[
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int resolver(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **result) {
  resolver *system_resolver = (resolver *)dlsym(RTLD_NEXT, "getaddrinfo");
  const char *repaired = getenv("INTEGRATIONS_SPEC_NAMES");
  int broken = repaired != NULL && access(repaired, F_OK) != 0;
  int missing = name != NULL && strcmp(name, "missing.invalid") == 0;
  int slow = name != NULL && strcmp(name, "slow.invalid") == 0;
  if (missing && broken) return EAI_NONAME;
  if (slow && broken) sleep(2);
  return system_resolver(missing || slow ? "127.0.0.1" : name, service, hints, result);
}
]]

--- The environment of a program that is to have these names.
---@param file string what repairs them; it must not be there yet
---@return string[]
function names.environment(file)
  preload.build(LIBRARY, SOURCE)
  return preload.environment(LIBRARY, REPAIRED .. "=" .. file)
end

return names
