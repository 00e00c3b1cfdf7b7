/* JSON Schema for Lua tables: a declaration is compiled once, then checks in one walk. */
#ifndef INTEGRATIONS_SCHEMA_H
#define INTEGRATIONS_SCHEMA_H

#include <lua.h>

#pragma GCC visibility push(hidden)

/* Lua: compile(declaration) -> check(value, lenient, name) -> true | nil, violations */
int schema_compile(lua_State *L);

#pragma GCC visibility pop

#endif
