/* integrations.core: the private C half of the module. Its public face is Lua. */
#include <dlfcn.h>

#include "compat.h"
#include "lua_engine.h"
#include "schema.h"

static const luaL_Reg functions[] = {
    {"schema", schema_compile},
    {"engine", lua_engine_new},
    {"now", lua_engine_now},
    {"sleep", lua_engine_sleep},
    {NULL, NULL},
};

/* A Lua state that closes unloads its modules, and libcurl may still have a resolver thread in
 * this code: the module stays in the process. */
static void stay_loaded(void) {
  static const char here = 0;
  Dl_info self;
  if (dladdr(&here, &self) != 0) dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

__attribute__((visibility("default"))) int luaopen_integrations_core(lua_State *L);

int luaopen_integrations_core(lua_State *L) {
  stay_loaded();
  lua_engine_register(L);
  lua_newtable(L);
  compat_setfuncs(L, functions);
  return 1;
}
