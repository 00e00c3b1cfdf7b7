/* The Lua face of the engine. */
#ifndef INTEGRATIONS_LUA_ENGINE_H
#define INTEGRATIONS_LUA_ENGINE_H

#include <lua.h>

#pragma GCC visibility push(hidden)

/* Makes the engine's metatable; once for each Lua state. */
void lua_engine_register(lua_State *L);

/* Lua: engine(config) -> engine; see lua_engine.c for the fields and the methods. */
int lua_engine_new(lua_State *L);

/* Lua: now() -> seconds of a clock that never jumps */
int lua_engine_now(lua_State *L);

/* Lua: sleep(seconds): less where a signal comes, so that the host can see to it */
int lua_engine_sleep(lua_State *L);

#pragma GCC visibility pop

#endif
