/* What a finished call gives back, as Lua sees it. */
#ifndef INTEGRATIONS_LUA_REPORT_H
#define INTEGRATIONS_LUA_REPORT_H

#include <lua.h>
#include <stdbool.h>

#include "engine.h"

#pragma GCC visibility push(hidden)

/* What is known of a finished call. */
typedef struct {
  engine_result result;
  engine_durations durations;
  bool timed;         /* whether these are known, and asked for */
  const char *wanted; /* names of headers in lower case, a line break around each; "": all */
} report;

/* Lua: the report in a light userdata -> { status, headers, body } or nil, { code, message, … } */
int lua_report_push(lua_State *L);

#pragma GCC visibility pop

#endif
