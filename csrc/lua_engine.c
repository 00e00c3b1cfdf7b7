/* The Lua face of the engine: stack work only, no policy. Memory is acquired in an order in which
 * an error raised by Lua leaves every resource with its owner. */
#include "lua_engine.h"

#include <limits.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "compat.h"
#include "engine.h"
#include "lua_report.h"
#include "text.h"

#define METATABLE "integrations.engine"
#define LOOP_METATABLE "integrations.loop"
#define LOOP "integrations.the_loop" /* in the registry */

#define ELLIPSIS "\xe2\x80\xa6"

enum { LEAST_SECRET = 4 };

/* The userdata: NULL once it is closed. It is lent while a result of the engine's is read. */
typedef struct {
  engine *engine;
  bool lent;
  char wanted[]; /* see lua_report.h */
} box;

static box *check_box(lua_State *L) {
  box *b = luaL_checkudata(L, 1, METATABLE);
  luaL_argcheck(L, b->engine != NULL, 1, "the engine is closed");
  luaL_argcheck(L, !b->lent, 1, "the engine is in use: a finalizer may only close it");
  return b;
}

/* Allocating runs finalizers, and one may close the engine: ask after the last allocation. */
static engine *check_engine(lua_State *L) {
  return check_box(L)->engine;
}

static int push_failure(lua_State *L, const char *message) {
  lua_pushnil(L);
  lua_pushstring(L, message);
  return 2;
}

/* ---- making one -------------------------------------------------------------------------- */

static void push_config(lua_State *L, const char *field, int type) {
  lua_pushstring(L, field);
  lua_rawget(L, 1); /* a text that a metamethod makes would belong to nobody */
  if (!lua_isnil(L, -1) && lua_type(L, -1) != type)
    luaL_error(L, "'%s' must be a %s", field, lua_typename(L, type));
}

/* config[field], whose text lives as long as the config does: so it has to be a string there. */
static const char *config_text(lua_State *L, const char *field, const char *absent) {
  push_config(L, field, LUA_TSTRING);
  size_t size = 0;
  const char *value = lua_isnil(L, -1) ? absent : lua_tolstring(L, -1, &size);
  if (value != absent && strlen(value) != size) luaL_error(L, "'%s' has a NUL byte", field);
  lua_pop(L, 1);
  return value;
}

static long config_number(lua_State *L, const char *field, long absent) {
  push_config(L, field, LUA_TNUMBER);
  lua_Number value = lua_isnil(L, -1) ? (lua_Number)absent : lua_tonumber(L, -1);
  if (!(value >= 1 && value <= INT_MAX)) luaL_error(L, "'%s' is out of range", field);
  lua_pop(L, 1);
  return (long)value;
}

static bool is_token(const char *bytes, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (!text_is_alphanumeric(bytes[i]) && bytes[i] != '-' && bytes[i] != '_') return false;
  return size > 0;
}

/* A header can only be what it looks like: a line break in it would start another one, and one
 * without a visible character libcurl would take for an order to leave the header out. */
static bool is_header(const char *name, size_t name_size, const char *value, size_t value_size) {
  bool visible = false;
  for (size_t i = 0; i < value_size; i++) {
    if (text_is_control(value[i])) return false;
    visible = visible || value[i] != ' ';
  }
  return visible && is_token(name, name_size);
}

typedef bool (*add_header)(void *target, const char *name, const char *value);

static bool add_credential(void *target, const char *name, const char *value) {
  return engine_add_credential(target, name, value);
}

static bool add_request_header(void *target, const char *name, const char *value) {
  return engine_add_header(target, name, value);
}

/* Hands each header of the table at `index` on; raises nothing. Returns what is wrong, or NULL. */
static const char *read_headers(lua_State *L, int index, add_header add, void *target) {
  if (lua_isnoneornil(L, index)) return NULL;
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING) return "not two strings";
    size_t name_size, value_size;
    const char *name = lua_tolstring(L, -2, &name_size);
    const char *value = lua_tolstring(L, -1, &value_size);
    if (!is_header(name, name_size, value, value_size))
      return "empty, or with bytes that no header may have";
    if (!add(target, name, value)) return "out of memory";
  }
  return NULL;
}

/* The loop of this Lua state, which all of its engines share: so that to wait for one is to serve all.
 * Pushes what keeps it alive. */
static loop *push_loop(lua_State *L, const char **message) {
  lua_getfield(L, LUA_REGISTRYINDEX, LOOP);
  loop **l = lua_touserdata(L, -1);
  if (l != NULL && *l != NULL) return *l; /* NULL: closed by the end of the state, which goes on */
  lua_pop(L, 1);
  l = lua_newuserdata(L, sizeof *l);
  *l = NULL;
  luaL_getmetatable(L, LOOP_METATABLE);
  lua_setmetatable(L, -2);
  *l = loop_new(message);
  if (*l == NULL) return NULL;
  lua_pushvalue(L, -1);
  lua_setfield(L, LUA_REGISTRYINDEX, LOOP);
  return *l;
}

static int close_loop(lua_State *L) {
  loop **l = lua_touserdata(L, 1);
  loop_release(*l);
  *l = NULL;
  return 0;
}

static bool config_flag(lua_State *L, const char *field) {
  push_config(L, field, LUA_TBOOLEAN);
  bool value = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return value;
}

/* engine { origin, user_agent, ca_file, proxy, connect_timeout_ms, max_connections, max_head,
 * max_body, background, wanted_headers, credentials = { [name] = value } } -> engine | nil, message
 * Those in the background are served by a thread of the process, all others when one of them is run. */
int lua_engine_new(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  engine_config config = {
      .origin = config_text(L, "origin", NULL),
      .user_agent = config_text(L, "user_agent", "lua-integrations"),
      .ca_file = config_text(L, "ca_file", NULL),
      .proxy = config_text(L, "proxy", NULL),
      .connect_timeout_ms = config_number(L, "connect_timeout_ms", 5000),
      .max_connections = config_number(L, "max_connections", 256),
      .max_head = (size_t)config_number(L, "max_head", 64 * 1024),
      .max_body = (size_t)config_number(L, "max_body", 8 * 1024 * 1024),
  };
  luaL_argcheck(L, config.origin != NULL, 1, "'origin' is required");
  push_config(L, "credentials", LUA_TTABLE); /* at 2 */
  const char *message = NULL;
  bool in_background = config_flag(L, "background");
  if (!in_background) config.loop = push_loop(L, &message);
  if (!in_background && config.loop == NULL) return push_failure(L, message);
  const char *wanted = config_text(L, "wanted_headers", "");
  box *b = lua_newuserdata(L, sizeof *b + strlen(wanted) + 1);
  b->engine = NULL;
  b->lent = false;
  strcpy(b->wanted, wanted);
  luaL_getmetatable(L, METATABLE);
  lua_setmetatable(L, -2);
  b->engine = engine_new(&config, &message);
  if (b->engine == NULL) return push_failure(L, message);
  message = read_headers(L, 2, add_credential, b->engine);
  if (message == NULL) return 1;
  /* Now, not when it is collected: it holds the credentials that are good. */
  engine_free(b->engine);
  b->engine = NULL;
  return luaL_error(L, "a credential is %s", message);
}

/* engine:next() -> the id of a call that was finished since and was not told of yet, or nil */
static int engine_next_lua(lua_State *L) {
  uint64_t id = engine_next(check_engine(L));
  if (id != 0)
    lua_pushnumber(L, (lua_Number)id);
  else
    lua_pushnil(L);
  return 1;
}

/* engine:close(): any number of times; also __gc and, from 5.4 on, __close */
static int engine_close(lua_State *L) {
  box *b = luaL_checkudata(L, 1, METATABLE);
  engine *e = b->engine;
  b->engine = NULL;
  if (!b->lent) engine_free(e); /* else engine_take does */
  return 0;
}

/* ---- calls ------------------------------------------------------------------------------- */

/* An id as it came from submit; anything else is none. */
static uint64_t check_id(lua_State *L) {
  lua_Number id = luaL_checknumber(L, 2);
  return id >= 1 && id < 9007199254740992.0 ? (uint64_t)id : 0;
}

/* engine:submit(method, url, headers, body, timeout_ms) -> id | nil, message */
static int engine_submit_lua(lua_State *L) {
  size_t method_size;
  const char *method = luaL_checklstring(L, 2, &method_size);
  luaL_argcheck(L, is_token(method, method_size), 2, "must be a word");
  size_t url_size, body_size = 0;
  const char *url = luaL_checklstring(L, 3, &url_size);
  if (!lua_isnoneornil(L, 4)) luaL_checktype(L, 4, LUA_TTABLE);
  const char *body = luaL_optlstring(L, 5, NULL, &body_size);
  lua_Number timeout_ms = luaL_checknumber(L, 6);
  luaL_argcheck(L, strlen(url) == url_size, 3, "has a NUL byte");
  /* 0 would mean no limit at all. */
  luaL_argcheck(L, timeout_ms >= 1 && timeout_ms <= INT_MAX, 6, "is out of range");
  luaL_checkstack(L, 4, "headers");

  const char *message = "out of memory";
  transfer *t = engine_begin(check_engine(L));
  if (t != NULL) {
    message = read_headers(L, 4, add_request_header, t);
    if (message != NULL) {
      engine_discard(t);
      return luaL_error(L, "a header is %s", message);
    }
    uint64_t id = engine_submit(t, method, url, body, body_size, (long)timeout_ms, &message);
    if (id != 0) {
      lua_pushnumber(L, (lua_Number)id);
      return 1;
    }
  }
  return push_failure(L, message);
}

/* engine:run(timeout_ms) -> how many calls are finished and not taken */
static int engine_run_lua(lua_State *L) {
  lua_Number timeout_ms = luaL_checknumber(L, 2);
  luaL_argcheck(L, timeout_ms >= 0 && timeout_ms <= INT_MAX, 2, "is out of range");
  lua_pushinteger(L, (lua_Integer)engine_run(check_engine(L), (int)timeout_ms));
  return 1;
}

/* Calls the function on the stack, whose one argument is on the top. What it reads is the engine's: a
 * finalizer that closes it has to wait until then, and an error must not leave it lent. */
static int call_lent(lua_State *L, box *b, int results) {
  engine *e = b->engine;
  b->lent = true;
  int status = lua_pcall(L, 1, results, 0);
  b->lent = false;
  if (b->engine == NULL) engine_free(e);
  return status;
}

/* engine:take(id, timed) -> false while it runs
 *                         | { status, headers, body } | nil, { code, message, sent, status }
 * If `timed` and known, either has `durations`, in seconds: { dns, connect, tls, first_byte } */
static int engine_take(lua_State *L) {
  lua_settop(L, 3);
  bool timed = lua_toboolean(L, 3);
  lua_pushcfunction(L, lua_report_push);
  box *b = check_box(L);
  engine *e = b->engine;
  uint64_t id = check_id(L);
  report r = {.wanted = b->wanted};
  transfer_state state = engine_result_of(e, id, &r.result);
  luaL_argcheck(L, state != TRANSFER_UNKNOWN, 2, "no such call: taken or cancelled before");
  if (state == TRANSFER_RUNNING) {
    lua_pushboolean(L, 0);
    return 1;
  }
  r.timed = timed && engine_durations_of(e, id, &r.durations);
  int count = r.result.code == NULL ? 1 : 2;
  lua_pushlightuserdata(L, &r);
  int status = call_lent(L, b, count);
  if (status == 0 && b->engine != NULL) engine_release(e, id);
  return status == 0 ? count : lua_error(L);
}

/* The text that is this function's upvalue, each of the engine's secrets replaced. What is shorter than
 * a secret would be found in any text. */
static int push_redacted(lua_State *L) {
  const engine *e = lua_touserdata(L, 1);
  const char *secret;
  lua_pushvalue(L, lua_upvalueindex(1));
  for (size_t i = 0; (secret = engine_secret(e, i)) != NULL; i++) {
    if (strlen(secret) < LEAST_SECRET) continue;
    luaL_gsub(L, lua_tostring(L, -1), secret, ELLIPSIS);
    lua_remove(L, -2);
  }
  return 1;
}

/* engine:redact(text) -> the text without the credentials' secrets; it ends at a NUL byte */
static int engine_redact(lua_State *L) {
  luaL_checktype(L, 2, LUA_TSTRING);
  lua_settop(L, 2);
  if (((box *)luaL_checkudata(L, 1, METATABLE))->engine == NULL) {
    lua_pushliteral(L, ELLIPSIS); /* nobody knows any more what must not be seen */
    return 1;
  }
  lua_pushcclosure(L, push_redacted, 1);
  box *b = check_box(L);
  lua_pushlightuserdata(L, b->engine);
  return call_lent(L, b, 1) == 0 ? 1 : lua_error(L);
}

/* engine:cancel(id) -> whether a byte of it may have left. Forgets a call; one that is taken or cancelled
 * already is no error */
static int engine_cancel(lua_State *L) {
  lua_pushboolean(L, engine_release(check_engine(L), check_id(L)));
  return 1;
}

/* ---- time -------------------------------------------------------------------------------- */

int lua_engine_now(lua_State *L) {
  lua_pushnumber(L, engine_now());
  return 1;
}

int lua_engine_sleep(lua_State *L) {
  lua_Number seconds = luaL_checknumber(L, 1);
  luaL_argcheck(L, seconds >= 0 && seconds < 1e6, 1, "out of range");
  struct timespec left = {(time_t)seconds, (long)((seconds - floor(seconds)) * 1e9)};
  nanosleep(&left, NULL);
  return 0;
}

/* ---- registration ------------------------------------------------------------------------ */

static const luaL_Reg methods[] = {
    {"submit", engine_submit_lua}, {"run", engine_run_lua},
    {"next", engine_next_lua},     {"take", engine_take},
    {"cancel", engine_cancel},     {"redact", engine_redact},
    {"close", engine_close},       {NULL, NULL},
};

static const luaL_Reg metamethods[] = {
    {"__gc", engine_close},
    {"__close", engine_close},
    {NULL, NULL},
};

void lua_engine_register(lua_State *L) {
  luaL_newmetatable(L, LOOP_METATABLE);
  lua_pushcfunction(L, close_loop);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_newmetatable(L, METATABLE);
  compat_setfuncs(L, metamethods);
  lua_newtable(L);
  compat_setfuncs(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pushliteral(L, "integrations.engine");
  lua_setfield(L, -2, "__metatable"); /* no script gets at __gc of a userdata it holds */
  lua_pop(L, 1);
}
