/* The few names of the Lua C API that differ between 5.1, LuaJIT and 5.2 to 5.5. */
#ifndef INTEGRATIONS_COMPAT_H
#define INTEGRATIONS_COMPAT_H

#include <lauxlib.h>
#include <lua.h>

#if LUA_VERSION_NUM == 501

/* LuaJIT has luaL_setfuncs, PUC-Rio's 5.1 has not: one own loop serves both. */
static inline void compat_setfuncs(lua_State *L, const luaL_Reg *functions) {
  for (; functions->name != NULL; functions++) {
    lua_pushcfunction(L, functions->func);
    lua_setfield(L, -2, functions->name);
  }
}

#else

static inline void compat_setfuncs(lua_State *L, const luaL_Reg *functions) {
  luaL_setfuncs(L, functions, 0);
}

#endif

/* 1 or 0; -1 where nobody knows, in PUC-Rio's 5.1 and in 5.2. LuaJIT loads what was built for 5.1, too. */
#if LUA_VERSION_NUM == 501

#ifndef LUA_LJDIR /* LuaJIT's own headers have it */
extern int lua_isyieldable(lua_State *L);
#endif
#pragma weak lua_isyieldable

static inline int compat_isyieldable(lua_State *L) {
  return lua_isyieldable != NULL ? lua_isyieldable(L) : -1;
}

#elif LUA_VERSION_NUM == 502

static inline int compat_isyieldable(lua_State *L) {
  (void)L;
  return -1;
}

#else

static inline int compat_isyieldable(lua_State *L) {
  return lua_isyieldable(L);
}

#endif

#endif
