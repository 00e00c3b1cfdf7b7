/* Checks a Lua table against a compiled schema. The walk reads raw, keeps its own stack of frames,
 * and allocates nothing as long as the value is valid: that is the common case, and the one that
 * has to be fast. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "compat.h"
#include "schema_node.h"
#include "text.h"

enum {
  MAX_DEPTH = 64,      /* of a value; deeper is a cycle or no API's input */
  MAX_VALUES = 100000, /* visited in one check: bounds tables that share subtables */
  MAX_ADVICE = 100,    /* suggestions in one check: to find one takes far longer than to check */
  MAX_MESSAGE = 1024,  /* bytes of one violation's message */
  MAX_PATH = MAX_DEPTH * 96
};

const node schema_json_value = {.types = JSON,
                                .max_length = SIZE_MAX,
                                .max_items = SIZE_MAX,
                                .minimum = -HUGE_VAL,
                                .maximum = HUGE_VAL,
                                .items = &schema_json_value};

size_t schema_find_name(const names *list, const char *bytes, size_t size) {
  for (size_t i = 0; i < list->count; i++)
    if (list->items[i].bytes == bytes) return i;
  for (size_t i = 0; i < list->count; i++)
    if (list->items[i].size == size && memcmp(list->items[i].bytes, bytes, size) == 0) return i;
  return SIZE_MAX;
}

/* A table that is being walked. On the Lua stack it has two slots: itself at `table`, and above
 * it the key that lua_next is at. */
typedef struct {
  const node *schema;
  int table;
  unsigned shape; /* OBJECT, ARRAY, or 0 while neither schema nor keys have decided it */
  uint64_t seen;
  size_t count;
  lua_Number last; /* the highest position in an array */
} frame;

typedef struct {
  lua_State *L;
  const char *root; /* the name that paths start with, or NULL */
  bool lenient;     /* unknown names pass */
  bool stopped;     /* too deep or too large to go on */
  size_t visited;
  size_t violations;
  int depth;
  frame frames[MAX_DEPTH];
} walk;

/* The stack's first slots: the call's arguments, then the list of violations. */
enum { SLOT_VALUE = 1, SLOT_LENIENT, SLOT_ROOT, SLOT_VIOLATIONS };

static void append_key(text *path, lua_State *L, int index) {
  if (lua_type(L, index) == LUA_TSTRING) {
    size_t size;
    const char *bytes = lua_tolstring(L, index, &size);
    text_field(path, bytes, size);
  } else if (lua_type(L, index) == LUA_TNUMBER) {
    text_format(path, "[%.14g]", (double)lua_tonumber(L, index));
  } else {
    text_format(path, "[%s]", luaL_typename(L, index));
  }
}

/* Reports a violation at the path that the keys of the first `levels` tables make. */
static void report(walk *w, int levels, const char *message) {
  lua_State *L = w->L;
  char bytes[MAX_PATH];
  text path = {bytes, sizeof bytes, 0};
  text_format(&path, "%s", w->root != NULL ? w->root : "");
  for (int i = 0; i < levels; i++) append_key(&path, L, w->frames[i].table + 1);

  luaL_checkstack(L, 6, "schema");
  if (w->violations == 0) {
    lua_newtable(L);
    lua_replace(L, SLOT_VIOLATIONS);
  }
  lua_createtable(L, 0, 2);
  lua_pushlstring(L, path.bytes, path.used);
  lua_setfield(L, -2, "field");
  lua_pushstring(L, message);
  lua_setfield(L, -2, "message");
  lua_rawseti(L, SLOT_VIOLATIONS, (int)++w->violations);
}

/* Ends the walk: the value is no tree that could be sent, further violations would be noise. */
static void stop(walk *w, const char *message) {
  report(w, w->depth, message);
  w->stopped = true;
}

/* Adds "; did you mean …" or, where no name is near, the names that there are. */
static void append_advice(const walk *w, text *message, const names *known, const char *bytes,
                          size_t size) {
  if (w->violations >= MAX_ADVICE) return;
  const name *nearest = NULL;
  size_t best = SIZE_MAX;
  for (size_t i = 0; i < known->count; i++) {
    size_t distance = text_distance(bytes, size, known->items[i].bytes, known->items[i].size);
    if (distance < best) {
      best = distance;
      nearest = &known->items[i];
    }
  }
  if (nearest != NULL) {
    text_format(message, "; did you mean \"%s\"?", nearest->bytes);
    return;
  }
  for (size_t i = 0; i < known->count; i++)
    text_format(message, "%s\"%s\"", i == 0 ? "; known: " : ", ", known->items[i].bytes);
}

static void report_unknown_field(walk *w, const names *known, const char *bytes, size_t size) {
  char buffer[MAX_MESSAGE];
  text message = {buffer, sizeof buffer, 0};
  text_format(&message, "is not a known field");
  append_advice(w, &message, known, bytes, size);
  report(w, w->depth, buffer);
}

static void report_unknown_value(walk *w, const names *known, const char *bytes, size_t size) {
  char buffer[MAX_MESSAGE];
  text message = {buffer, sizeof buffer, 0};
  text_quote(&message, bytes, size);
  text_format(&message, " is not a known value");
  append_advice(w, &message, known, bytes, size);
  report(w, w->depth, buffer);
}

/* "must be a string or a number, not a table" */
static void report_type(walk *w, const node *schema) {
  char buffer[MAX_MESSAGE];
  text message = {buffer, sizeof buffer, 0};
  const char *before = "must be ";
  for (size_t i = 0; i < SCHEMA_TYPE_COUNT; i++) {
    if ((schema->types & schema_types[i].bit) == 0) continue;
    text_format(&message, "%s%s", before, schema_types[i].phrase);
    before = " or ";
  }
  if ((schema->types & JSON) != 0) text_format(&message, "must be a value that JSON can hold");
  bool null = lua_islightuserdata(w->L, -1) && lua_touserdata(w->L, -1) == NULL;
  const char *actual = null ? "null" : luaL_typename(w->L, -1);
  text_format(&message, lua_isnil(w->L, -1) || null ? ", not %s" : ", not a %s", actual);
  report(w, w->depth, buffer);
}

/* "must have at least 1 character, not 0" */
static void report_bounds(walk *w, int levels, size_t size, size_t min, size_t max,
                          const char *unit) {
  char buffer[MAX_MESSAGE];
  text message = {buffer, sizeof buffer, 0};
  size_t bound = size < min ? min : max;
  if (size >= min && size <= max) return;
  text_format(&message, "must have at %s %zu %s%s, not %zu", size < min ? "least" : "most", bound,
              unit, bound == 1 ? "" : "s", size);
  report(w, levels, buffer);
}

static void check_string(walk *w, const node *schema) {
  size_t size;
  const char *bytes = lua_tolstring(w->L, -1, &size);
  if (schema->values.count > 0) {
    if (schema_find_name(&schema->values, bytes, size) != SIZE_MAX) return;
    if (!w->lenient) {
      report_unknown_value(w, &schema->values, bytes, size);
      return;
    }
  }
  size_t invalid = SIZE_MAX;
  size_t length = text_length(bytes, size, &invalid);
  if (invalid != SIZE_MAX) {
    char buffer[MAX_MESSAGE];
    text message = {buffer, sizeof buffer, 0};
    text_format(&message, "must be UTF-8, which JSON requires: byte %zu is not", invalid + 1);
    report(w, w->depth, buffer);
    return;
  }
  report_bounds(w, w->depth, length, schema->min_length, schema->max_length, "character");
}

/* From 2^53 on a double, which is all that LuaJIT and most JSON readers have, is not exact. */
static void check_number(walk *w, const node *schema) {
  lua_Number number = lua_tonumber(w->L, -1);
  if (!isfinite(number)) {
    report(w, w->depth, "must be a finite number");
  } else if ((schema->types & (NUMBER | JSON)) == 0 &&
             (number != floor(number) || fabs(number) >= 9007199254740992.0)) {
    report(w, w->depth, "must be a whole number below 2^53");
  } else if (number < schema->minimum || number > schema->maximum) {
    char buffer[MAX_MESSAGE];
    bool low = number < schema->minimum;
    snprintf(buffer, sizeof buffer, "must be at %s %.14g, not %.14g", low ? "least" : "most",
             (double)(low ? schema->minimum : schema->maximum), (double)number);
    report(w, w->depth, buffer);
  }
}

/* What the table on the top of the stack is checked against. Where its field names none of the
 * mapped schemas, the schema itself knows what to say of that. */
static const node *discriminated(lua_State *L, const node *schema) {
  const discriminator *d = schema->discriminator;
  size_t at = SIZE_MAX;
  lua_pushlstring(L, d->property.bytes, d->property.size); /* short, so interned: no allocation */
  lua_rawget(L, -2);
  if (lua_type(L, -1) == LUA_TSTRING) {
    size_t size;
    const char *bytes = lua_tolstring(L, -1, &size);
    at = schema_find_name(&d->values, bytes, size);
  }
  lua_pop(L, 1);
  return at == SIZE_MAX ? schema : d->schemas[at];
}

/* Makes the table on the top of the stack the next one to be walked; it stays on the stack. */
static void enter_table(walk *w, const node *schema) {
  if (w->depth == MAX_DEPTH) {
    stop(w, "is nested too deep, or holds itself");
    return;
  }
  luaL_checkstack(w->L, 6, "schema");
  if (schema->discriminator != NULL) schema = discriminated(w->L, schema);
  frame *f = &w->frames[w->depth++];
  unsigned shape = schema->types & (OBJECT | ARRAY);
  *f = (frame){
      .schema = schema, .table = lua_gettop(w->L), .shape = shape == (OBJECT | ARRAY) ? 0 : shape};
  lua_pushnil(w->L);
}

/* What a schema's types say to each of Lua's. A row without a check needs none. */
static const struct {
  unsigned accepted;
  void (*check)(walk *w, const node *schema);
} lua_types[] = {
    [LUA_TNIL] = {0, NULL},
    [LUA_TBOOLEAN] = {BOOLEAN | JSON, NULL},
    [LUA_TLIGHTUSERDATA] = {0, NULL},
    [LUA_TNUMBER] = {NUMBER | INTEGER | JSON, check_number},
    [LUA_TSTRING] = {STRING | JSON, check_string},
    [LUA_TTABLE] = {OBJECT | ARRAY | JSON, enter_table},
    [LUA_TFUNCTION] = {FUNCTION, NULL},
};

/* Checks the value on the top of the stack, and pops it unless it is a table to be walked. */
static void visit(walk *w, const node *schema) {
  int depth = w->depth;
  int type = lua_type(w->L, -1);
  if ((schema->types & ANY) == 0) {
    bool known = (size_t)type < sizeof lua_types / sizeof lua_types[0];
    if (!known || (lua_types[type].accepted & schema->types) == 0)
      report_type(w, schema);
    else if (lua_types[type].check != NULL)
      lua_types[type].check(w, schema);
  }
  if (w->depth == depth) lua_pop(w->L, 1);
}

/* The schema of the field whose name is the current key, or NULL where it is a violation. */
static const node *field_schema(walk *w, frame *f) {
  size_t size;
  const char *bytes = lua_tolstring(w->L, -2, &size);
  f->count++;
  size_t at = schema_find_name(&f->schema->properties, bytes, size);
  if (at != SIZE_MAX) {
    f->seen |= UINT64_C(1) << at;
    return f->schema->children[at];
  }
  if (f->schema->closed && !w->lenient) {
    report_unknown_field(w, &f->schema->properties, bytes, size);
    return NULL;
  }
  size_t invalid = SIZE_MAX;
  text_length(bytes, size, &invalid);
  if (invalid == SIZE_MAX) return &schema_json_value;
  report(w, w->depth, "is no name that JSON can hold: it is not UTF-8");
  return NULL;
}

/* Likewise for a position. Elements may come in any order: density is judged at the end. */
static const node *element_schema(walk *w, frame *f) {
  lua_Number position = lua_tonumber(w->L, -2);
  if (position < 1 || position != floor(position)) {
    report(w, w->depth, "is no position in an array: those are 1, 2, 3, …");
    return NULL;
  }
  f->count++;
  if (position > f->last) f->last = position;
  return f->schema->items;
}

static const node *child_schema(walk *w, frame *f) {
  int type = lua_type(w->L, -2);
  unsigned shape = type == LUA_TSTRING ? OBJECT : type == LUA_TNUMBER ? ARRAY : 0;
  if (f->shape == 0) f->shape = shape;
  if (shape == OBJECT && f->shape == OBJECT) return field_schema(w, f);
  if (shape == ARRAY && f->shape == ARRAY) return element_schema(w, f);
  report(w, w->depth,
         f->shape == ARRAY ? "is no position in an array: an array belongs here"
                           : "is no field name: an object belongs here");
  return NULL;
}

static void report_duplicates(walk *w, const frame *f) {
  lua_State *L = w->L;
  int key = f->table + 1; /* free once lua_next is through, and where paths look for it */
  lua_pushnil(L);
  lua_newtable(L); /* value -> the position where it was first */
  for (size_t i = 1; i <= f->count; i++) {
    lua_pushinteger(L, (lua_Integer)i);
    lua_replace(L, key);
    lua_rawgeti(L, f->table, (int)i);
    if (lua_type(L, -1) == LUA_TNUMBER && isnan(lua_tonumber(L, -1))) { /* no key of a table */
      lua_pop(L, 1);
      continue;
    }
    lua_pushvalue(L, -1);
    lua_rawget(L, key + 1);
    if (!lua_isnil(L, -1)) {
      char message[64];
      snprintf(message, sizeof message, "is the same as [%d]", (int)lua_tointeger(L, -1));
      report(w, w->depth, message);
      lua_pop(L, 2);
      continue;
    }
    lua_pop(L, 1);
    lua_pushvalue(L, key);
    lua_rawset(L, key + 1);
  }
  lua_pop(L, 2);
}

static void finish_array(walk *w, const frame *f) {
  if ((lua_Number)f->count != f->last) {
    char message[96];
    snprintf(message, sizeof message,
             "must be an array without holes: %zu elements, the last at %.14g", f->count,
             (double)f->last);
    report(w, w->depth - 1, message);
    return;
  }
  report_bounds(w, w->depth - 1, f->count, f->schema->min_items, f->schema->max_items, "element");
  if (f->schema->unique_items) report_duplicates(w, f);
}

static void check_exactly_one(walk *w, const frame *f) {
  uint64_t present = f->schema->exactly_one & f->seen;
  if (present != 0 && (present & (present - 1)) == 0) return;
  char buffer[MAX_MESSAGE];
  text message = {buffer, sizeof buffer, 0};
  const char *before = present == 0 ? "must have one of " : "must have only one of ";
  const names *known = &f->schema->properties;
  for (size_t i = 0; i < known->count; i++) {
    if ((f->schema->exactly_one >> i & 1) == 0) continue;
    text_format(&message, "%s\"%s\"", before, known->items[i].bytes);
    before = ", ";
  }
  report(w, w->depth - 1, buffer);
}

static void finish_object(walk *w, const frame *f) {
  report_bounds(w, w->depth - 1, f->count, f->schema->min_properties, SIZE_MAX, "field");
  if (f->schema->exactly_one != 0) check_exactly_one(w, f);
  uint64_t missing = f->schema->required & ~f->seen;
  for (size_t i = 0; missing != 0; i++, missing >>= 1) {
    if ((missing & 1) == 0) continue;
    lua_pushlstring(w->L, f->schema->properties.items[i].bytes,
                    f->schema->properties.items[i].size);
    report(w, w->depth, "is required");
    lua_pop(w->L, 1);
  }
}

/* Judges what only the whole table shows, and leaves it. lua_next has taken the key already. */
static void leave_table(walk *w, frame *f) {
  /* An empty table without a type may be either. */
  if (f->shape != ARRAY) finish_object(w, f);
  if (f->shape != OBJECT) finish_array(w, f);
  w->depth--;
  lua_pop(w->L, 1);
}

static void walk_tables(walk *w) {
  while (w->depth > 0 && !w->stopped) {
    frame *f = &w->frames[w->depth - 1];
    if (!lua_next(w->L, f->table)) {
      leave_table(w, f);
      continue;
    }
    if (++w->visited > MAX_VALUES) {
      stop(w, "holds too many values");
      return;
    }
    const node *schema = child_schema(w, f);
    if (schema != NULL)
      visit(w, schema);
    else
      lua_pop(w->L, 1);
  }
}

/* Lua: check(value, lenient, name) -> true | nil, { { field, message }, … } */
int schema_check(lua_State *L) {
  lua_settop(L, SLOT_VIOLATIONS);
  walk w;
  w.L = L;
  w.lenient = lua_toboolean(L, SLOT_LENIENT);
  w.root = lua_type(L, SLOT_ROOT) == LUA_TSTRING ? lua_tostring(L, SLOT_ROOT) : NULL;
  w.stopped = false;
  w.visited = 1; /* the value itself */
  w.violations = 0;
  w.depth = 0;
  lua_pushvalue(L, SLOT_VALUE);
  visit(&w, lua_touserdata(L, lua_upvalueindex(1)));
  walk_tables(&w);
  if (w.violations == 0) {
    lua_pushboolean(L, 1);
    return 1;
  }
  lua_pushnil(L);
  lua_pushvalue(L, SLOT_VIOLATIONS);
  return 2;
}
