/* Compiles a schema declaration (a Lua table with JSON Schema's words) and checks Lua tables
 * against it. The walk reads raw, keeps its own stack of frames, and allocates nothing as long as
 * the value is valid: that is the common case, and the one that has to be fast. */
#include "schema.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "compat.h"
#include "text.h"

enum {
  MAX_DEPTH = 64,       /* of a value; deeper is a cycle or no API's input */
  MAX_VALUES = 100000,  /* visited in one check: bounds tables that share subtables */
  MAX_PROPERTIES = 64,  /* of one object: a bit each in `required` and in a frame's `seen` */
  MAX_DECLARATION = 32, /* levels of a declaration */
  MAX_ADVICE = 100,     /* suggestions in one check: to find one takes far longer than to check */
  MAX_MESSAGE = 1024,   /* bytes of one violation's message */
  MAX_PATH = MAX_DEPTH * 96
};

enum {
  OBJECT = 1 << 0,
  ARRAY = 1 << 1,
  STRING = 1 << 2,
  NUMBER = 1 << 3,
  INTEGER = 1 << 4,
  BOOLEAN = 1 << 5,
  FUNCTION = 1 << 6, /* not JSON: for the options of a client */
  ANY = 1 << 7,      /* not JSON either: taken as it is, not walked */
  JSON = 1 << 8      /* no `type` at all: whatever JSON can say */
};

/* The article is part of the word: it is only ever used in "must be …". */
static const struct {
  const char *word, *phrase;
  unsigned bit;
} types[] = {
    {"object", "an object", OBJECT},      {"array", "an array", ARRAY},
    {"string", "a string", STRING},       {"number", "a number", NUMBER},
    {"integer", "an integer", INTEGER},   {"boolean", "a boolean", BOOLEAN},
    {"function", "a function", FUNCTION}, {"any", "anything", ANY},
};

enum { TYPE_COUNT = sizeof types / sizeof types[0] };

typedef struct node node;

/* A name's bytes belong to a Lua string that the compiled schema keeps alive. Lua interns short
 * strings, so that a key of the checked table nearly always has the very same address. */
typedef struct {
  const char *bytes;
  size_t size;
} name;

typedef struct {
  const name *items;
  size_t count;
} names;

struct node {
  unsigned types;
  size_t min_length, max_length, min_items, max_items, min_properties;
  lua_Number minimum, maximum;
  bool unique_items, closed;
  uint64_t required;
  names properties, values; /* values: the enum */
  const node **children;    /* one for each property */
  const node *items;
};

static const node json_value = {.types = JSON,
                                .max_length = SIZE_MAX,
                                .max_items = SIZE_MAX,
                                .minimum = -HUGE_VAL,
                                .maximum = HUGE_VAL,
                                .items = &json_value};

/* ---- compiling -------------------------------------------------------------------------- */

/* All memory of a schema is Lua's: userdata and strings, kept alive by one anchor table. So a
 * declaration that turns out wrong half-way, or memory that runs out, leaves nothing behind. */
typedef struct {
  lua_State *L;
  int anchor;
  int depth;
} compiler;

static const node *compile_node(compiler *c, int declaration);

/* Anchors the value on the top of the stack and pops it. */
static void anchor_top(compiler *c) {
  lua_pushboolean(c->L, 1);
  lua_rawset(c->L, c->anchor);
}

static void *anchored_memory(compiler *c, size_t size) {
  void *memory = lua_newuserdata(c->L, size > 0 ? size : 1);
  memset(memory, 0, size);
  anchor_top(c);
  return memory;
}

/* Pushes declaration[word]; false, and nothing pushed, where it is absent. */
static bool push_word(compiler *c, int declaration, const char *word, int type) {
  lua_pushstring(c->L, word);
  lua_rawget(c->L, declaration);
  if (lua_isnil(c->L, -1)) {
    lua_pop(c->L, 1);
    return false;
  }
  if (lua_type(c->L, -1) != type)
    luaL_error(c->L, "schema: '%s' must be a %s, not a %s", word, lua_typename(c->L, type),
               luaL_typename(c->L, -1));
  return true;
}

static lua_Number read_number(compiler *c, int declaration, const char *word, lua_Number absent) {
  if (!push_word(c, declaration, word, LUA_TNUMBER)) return absent;
  lua_Number number = lua_tonumber(c->L, -1);
  lua_pop(c->L, 1);
  if (number != number) luaL_error(c->L, "schema: '%s' must not be NaN", word);
  return number;
}

static size_t read_size(compiler *c, int declaration, const char *word, size_t absent) {
  if (!push_word(c, declaration, word, LUA_TNUMBER)) return absent;
  lua_Number number = lua_tonumber(c->L, -1);
  lua_pop(c->L, 1);
  if (!(number >= 0) || number != floor(number) || number > (lua_Number)UINT32_MAX)
    luaL_error(c->L, "schema: '%s' must be a whole number from 0 up", word);
  return (size_t)number;
}

static bool read_flag(compiler *c, int declaration, const char *word, bool absent) {
  if (!push_word(c, declaration, word, LUA_TBOOLEAN)) return absent;
  bool flag = lua_toboolean(c->L, -1);
  lua_pop(c->L, 1);
  return flag;
}

static name anchored_name(compiler *c, int index) {
  if (lua_type(c->L, index) != LUA_TSTRING) luaL_error(c->L, "schema: a name must be a string");
  name n;
  n.bytes = lua_tolstring(c->L, index, &n.size);
  lua_pushvalue(c->L, index);
  anchor_top(c);
  return n;
}

static size_t count_fields(lua_State *L, int table) {
  size_t count = 0;
  for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) count++;
  return count;
}

/* Reads an array of strings: `enum`, `required`. */
static names read_names(compiler *c, int declaration, const char *word) {
  names list = {NULL, 0};
  if (!push_word(c, declaration, word, LUA_TTABLE)) return list;
  int table = lua_gettop(c->L);
  while (lua_rawgeti(c->L, table, (int)list.count + 1), !lua_isnil(c->L, -1)) {
    lua_pop(c->L, 1);
    list.count++;
  }
  lua_pop(c->L, 1);
  if (list.count != count_fields(c->L, table))
    luaL_error(c->L, "schema: '%s' must be an array", word);
  if (list.count == 0) luaL_error(c->L, "schema: '%s' must not be empty", word);
  name *items = anchored_memory(c, list.count * sizeof *items);
  for (size_t i = 0; i < list.count; i++) {
    lua_rawgeti(c->L, table, (int)i + 1);
    items[i] = anchored_name(c, lua_gettop(c->L));
    lua_pop(c->L, 1);
  }
  lua_pop(c->L, 1);
  list.items = items;
  return list;
}

static unsigned type_bit(compiler *c, int index) {
  const char *word = lua_type(c->L, index) == LUA_TSTRING ? lua_tostring(c->L, index) : "";
  for (size_t i = 0; i < TYPE_COUNT; i++)
    if (strcmp(types[i].word, word) == 0) return types[i].bit;
  return (unsigned)luaL_error(c->L, "schema: unknown type '%s'", word);
}

/* `type` is a word, or an array of words as in JSON Schema. */
static unsigned read_types(compiler *c, int declaration) {
  lua_pushliteral(c->L, "type");
  lua_rawget(c->L, declaration);
  int index = lua_gettop(c->L);
  unsigned bits = 0;
  if (lua_isnil(c->L, index)) {
    bits = JSON;
  } else if (!lua_istable(c->L, index)) {
    bits = type_bit(c, index);
  } else {
    for (int i = 1; lua_rawgeti(c->L, index, i), !lua_isnil(c->L, -1); i++) {
      bits |= type_bit(c, lua_gettop(c->L));
      lua_pop(c->L, 1);
    }
  }
  if (bits == 0) luaL_error(c->L, "schema: 'type' must not be empty");
  lua_settop(c->L, index - 1);
  return bits;
}

static void compile_properties(compiler *c, int declaration, node *n) {
  if (!push_word(c, declaration, "properties", LUA_TTABLE)) return;
  lua_State *L = c->L;
  int table = lua_gettop(L);
  size_t count = count_fields(L, table);
  if (count > MAX_PROPERTIES) luaL_error(L, "schema: more than %d properties", MAX_PROPERTIES);
  name *items = anchored_memory(c, count * sizeof *items);
  const node **children = anchored_memory(c, count * sizeof *children);
  size_t used = 0;
  for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
    name key = anchored_name(c, lua_gettop(L) - 1);
    const node *child = compile_node(c, lua_gettop(L));
    /* Sorted, so that messages do not depend on the order in which Lua happens to keep them. */
    size_t at = used++;
    for (; at > 0 && strcmp(items[at - 1].bytes, key.bytes) > 0; at--) {
      items[at] = items[at - 1];
      children[at] = children[at - 1];
    }
    items[at] = key;
    children[at] = child;
  }
  n->properties = (names){items, count};
  n->children = children;
  lua_pop(L, 1);
}

static size_t find_name(const names *list, const char *bytes, size_t size) {
  for (size_t i = 0; i < list->count; i++)
    if (list->items[i].bytes == bytes) return i;
  for (size_t i = 0; i < list->count; i++)
    if (list->items[i].size == size && memcmp(list->items[i].bytes, bytes, size) == 0) return i;
  return SIZE_MAX;
}

static void compile_required(compiler *c, int declaration, node *n) {
  names required = read_names(c, declaration, "required");
  for (size_t i = 0; i < required.count; i++) {
    size_t at = find_name(&n->properties, required.items[i].bytes, required.items[i].size);
    if (at == SIZE_MAX)
      luaL_error(c->L, "schema: required '%s' is not among the properties",
                 required.items[i].bytes);
    n->required |= UINT64_C(1) << at;
  }
}

/* A misspelt word would silently check nothing: it is refused. */
static void refuse_unknown_words(compiler *c, int declaration) {
  static const char *const known[] = {
      "type",      "properties", "required",      "additionalProperties",
      "items",     "enum",       "minItems",      "maxItems",
      "minLength", "maxLength",  "minProperties", "uniqueItems",
      "minimum",   "maximum",    "description",   "default",
      "example",   NULL};
  for (lua_pushnil(c->L); lua_next(c->L, declaration); lua_pop(c->L, 1)) {
    const char *word = lua_type(c->L, -2) == LUA_TSTRING ? lua_tostring(c->L, -2) : "[number]";
    size_t i = 0;
    while (known[i] != NULL && strcmp(known[i], word) != 0) i++;
    if (known[i] == NULL) luaL_error(c->L, "schema: unknown word '%s'", word);
  }
}

static const node *compile_node(compiler *c, int declaration) {
  if (!lua_istable(c->L, declaration)) luaL_error(c->L, "schema: a schema must be a table");
  if (++c->depth > MAX_DECLARATION) luaL_error(c->L, "schema: nested too deep");
  luaL_checkstack(c->L, 12, "schema");
  refuse_unknown_words(c, declaration);
  node *n = anchored_memory(c, sizeof *n);
  n->types = read_types(c, declaration);
  n->min_length = read_size(c, declaration, "minLength", 0);
  n->max_length = read_size(c, declaration, "maxLength", SIZE_MAX);
  n->min_items = read_size(c, declaration, "minItems", 0);
  n->max_items = read_size(c, declaration, "maxItems", SIZE_MAX);
  n->min_properties = read_size(c, declaration, "minProperties", 0);
  n->minimum = read_number(c, declaration, "minimum", -HUGE_VAL);
  n->maximum = read_number(c, declaration, "maximum", HUGE_VAL);
  n->unique_items = read_flag(c, declaration, "uniqueItems", false);
  /* Nearly every unknown field is a slip, so unlike JSON Schema's the default is `false`. */
  n->closed = !read_flag(c, declaration, "additionalProperties", (n->types & JSON) != 0);
  n->values = read_names(c, declaration, "enum");
  compile_properties(c, declaration, n);
  compile_required(c, declaration, n);
  n->items = &json_value;
  if (push_word(c, declaration, "items", LUA_TTABLE)) {
    n->items = compile_node(c, lua_gettop(c->L));
    lua_pop(c->L, 1);
  }
  c->depth--;
  return n;
}

/* ---- walking ---------------------------------------------------------------------------- */

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
  for (size_t i = 0; i < TYPE_COUNT; i++) {
    if ((schema->types & types[i].bit) == 0) continue;
    text_format(&message, "%s%s", before, types[i].phrase);
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
    if (find_name(&schema->values, bytes, size) != SIZE_MAX) return;
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

/* Makes the table on the top of the stack the next one to be walked; it stays on the stack. */
static void enter_table(walk *w, const node *schema) {
  if (w->depth == MAX_DEPTH) {
    stop(w, "is nested too deep, or holds itself");
    return;
  }
  luaL_checkstack(w->L, 6, "schema");
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
  size_t at = find_name(&f->schema->properties, bytes, size);
  if (at != SIZE_MAX) {
    f->seen |= UINT64_C(1) << at;
    return f->schema->children[at];
  }
  if (f->schema->closed && !w->lenient) {
    report_unknown_field(w, &f->schema->properties, bytes, size);
    return NULL;
  }
  return &json_value;
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

static void finish_object(walk *w, const frame *f) {
  report_bounds(w, w->depth - 1, f->count, f->schema->min_properties, SIZE_MAX, "field");
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
  if (f->shape == OBJECT) finish_object(w, f);
  if (f->shape == ARRAY) finish_array(w, f);
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
static int schema_check(lua_State *L) {
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

int schema_compile(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_newtable(L);
  compiler c = {L, 2, 0};
  const node *root = compile_node(&c, 1);
  lua_pushlightuserdata(L, (void *)(uintptr_t)root);
  lua_pushvalue(L, c.anchor);
  lua_pushcclosure(L, schema_check, 2);
  return 1;
}
