/* integrations.core: the private C half of the module. Its public face is Lua. */
#include <dlfcn.h>

#include "compat.h"
#include "lua_engine.h"
#include "schema.h"

/* is_yieldable() -> whether its caller may yield; nil where this Lua cannot tell. nginx hides Lua's own. */
static int is_yieldable(lua_State *L) {
  int answer = compat_isyieldable(L);
  if (answer < 0)
    lua_pushnil(L);
  else
    lua_pushboolean(L, answer);
  return 1;
}

static const luaL_Reg functions[] = {
    {"schema", schema_compile},  {"engine", lua_engine_new},     {"now", lua_engine_now},
    {"sleep", lua_engine_sleep}, {"is_yieldable", is_yieldable}, {NULL, NULL},
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
