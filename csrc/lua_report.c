/* What a finished call gives back, as Lua sees it. */
#include "lua_report.h"

#include <string.h>

#include "compat.h"
#include "text.h"

enum { MAX_FIELD_NAME = 128 };

/* Services send a dozen headers that nobody reads: to make strings of them would be half of what a small
 * answer costs in memory. `name` has room for what is put around it. */
static bool is_wanted(const char *wanted, char *name, size_t size) {
  if (wanted[0] == '\0') return true;
  name[-1] = name[size] = '\n';
  return memmem(wanted, strlen(wanted), name - 1, size + 2) != NULL;
}

/* Adds one line of a head to the table on the top; a name that comes again is joined by commas,
 * as HTTP allows. */
static void push_header(lua_State *L, const char *line, size_t size, const char *wanted) {
  const char *colon = memchr(line, ':', size);
  if (colon == NULL || colon == line) return;
  size_t name_size = (size_t)(colon - line);
  if (name_size > MAX_FIELD_NAME) return;
  char line_of_name[MAX_FIELD_NAME + 2], *name = line_of_name + 1;
  for (size_t i = 0; i < name_size; i++) name[i] = text_lower(line[i]);
  if (!is_wanted(wanted, name, name_size)) return;
  const char *value = colon + 1, *end = line + size;
  while (value < end && (*value == ' ' || *value == '\t')) value++;
  while (end > value && (end[-1] == ' ' || end[-1] == '\t')) end--;

  lua_pushlstring(L, name, name_size);
  lua_pushvalue(L, -1);
  lua_rawget(L, -3);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    lua_pushlstring(L, value, (size_t)(end - value));
  } else {
    lua_pushliteral(L, ", ");
    lua_pushlstring(L, value, (size_t)(end - value));
    lua_concat(L, 3);
  }
  lua_rawset(L, -3);
}

/* Pushes the headers of the last response in the head: 1xx ones may stand before it, and trailers
 * of its body behind it, which are no headers. */
static void push_headers(lua_State *L, const char *head, size_t size, const char *wanted) {
  bool inside = false;
  lua_createtable(L, 0, 8);
  for (const char *at = head, *end = head + size; at < end;) {
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    const char *stop = newline != NULL ? newline : end;
    size_t length = (size_t)(stop - at);
    if (length > 0 && at[length - 1] == '\r') length--;
    if (inside && length > 0) {
      push_header(L, at, length, wanted);
    } else if (inside) {
      inside = false;
    } else if (length >= 5 && memcmp(at, "HTTP/", 5) == 0) {
      inside = true;
      lua_pop(L, 1);
      lua_createtable(L, 0, 8);
    }
    at = stop + 1;
  }
}

static void push_response(lua_State *L, const engine_result *result, const char *wanted) {
  lua_createtable(L, 0, 3);
  lua_pushinteger(L, result->status);
  lua_setfield(L, -2, "status");
  push_headers(L, result->head, result->head_size, wanted);
  lua_setfield(L, -2, "headers");
  lua_pushlstring(L, result->body_size > 0 ? result->body : "", result->body_size);
  lua_setfield(L, -2, "body");
}

static void push_problem(lua_State *L, const engine_result *result) {
  lua_createtable(L, 0, 4);
  lua_pushstring(L, result->code);
  lua_setfield(L, -2, "code");
  lua_pushstring(L, result->message);
  lua_setfield(L, -2, "message");
  lua_pushboolean(L, result->sent);
  lua_setfield(L, -2, "sent");
  if (result->status != 0) {
    lua_pushinteger(L, result->status);
    lua_setfield(L, -2, "status");
  }
}

static void push_durations(lua_State *L, const engine_durations *durations) {
  const struct {
    const char *name;
    double seconds;
  } rows[] = {
      {"dns", durations->dns},
      {"connect", durations->connect},
      {"tls", durations->tls},
      {"first_byte", durations->first_byte},
  };
  lua_createtable(L, 0, sizeof rows / sizeof rows[0]);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    lua_pushnumber(L, rows[i].seconds);
    lua_setfield(L, -2, rows[i].name);
  }
}

int lua_report_push(lua_State *L) {
  const report *r = lua_touserdata(L, 1);
  bool is_whole = r->result.code == NULL;
  if (is_whole) {
    push_response(L, &r->result, r->wanted);
  } else {
    lua_pushnil(L);
    push_problem(L, &r->result);
  }
  if (r->timed) {
    push_durations(L, &r->durations);
    lua_setfield(L, -2, "durations");
  }
  return is_whole ? 1 : 2;
}
