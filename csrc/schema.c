/* Compiles a schema declaration: a Lua table with JSON Schema's words. */
#include "schema.h"

#include <math.h>
#include <string.h>

#include "compat.h"
#include "schema_node.h"

enum { MAX_DECLARATION = 32 }; /* levels */

const schema_type schema_types[SCHEMA_TYPE_COUNT] = {
    {"object", "an object", OBJECT},      {"array", "an array", ARRAY},
    {"string", "a string", STRING},       {"number", "a number", NUMBER},
    {"integer", "an integer", INTEGER},   {"boolean", "a boolean", BOOLEAN},
    {"function", "a function", FUNCTION}, {"any", "anything", ANY},
};

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

/* Reads an array of strings: `enum`, `required`, `exactlyOne`. */
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
  for (size_t i = 0; i < SCHEMA_TYPE_COUNT; i++)
    if (strcmp(schema_types[i].word, word) == 0) return schema_types[i].bit;
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

/* Compiles a table of named schemas: `properties`, `mapping`. */
static names compile_children(compiler *c, int declaration, const char *word,
                              const node ***compiled) {
  if (!push_word(c, declaration, word, LUA_TTABLE)) return (names){NULL, 0};
  lua_State *L = c->L;
  int table = lua_gettop(L);
  size_t count = count_fields(L, table);
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
  lua_pop(L, 1);
  *compiled = children;
  return (names){items, count};
}

static void compile_properties(compiler *c, int declaration, node *n) {
  n->properties = compile_children(c, declaration, "properties", &n->children);
  if (n->properties.count > SCHEMA_MAX_PROPERTIES)
    luaL_error(c->L, "schema: more than %d properties", SCHEMA_MAX_PROPERTIES);
}

static uint64_t property_bit(compiler *c, const node *n, const char *word, const name *property) {
  size_t at = schema_find_name(&n->properties, property->bytes, property->size);
  if (at == SIZE_MAX)
    luaL_error(c->L, "schema: %s '%s' is not among the properties", word, property->bytes);
  return UINT64_C(1) << at;
}

/* Reads an array of properties' names as their bits. */
static uint64_t read_property_bits(compiler *c, int declaration, const char *word, const node *n) {
  names list = read_names(c, declaration, word);
  uint64_t bits = 0;
  for (size_t i = 0; i < list.count; i++) bits |= property_bit(c, n, word, &list.items[i]);
  return bits;
}

/* A misspelt word would silently check nothing: it is refused. */
static void refuse_unknown_words(compiler *c, int declaration, const char *const *known) {
  for (lua_pushnil(c->L); lua_next(c->L, declaration); lua_pop(c->L, 1)) {
    const char *word = lua_type(c->L, -2) == LUA_TSTRING ? lua_tostring(c->L, -2) : "[number]";
    size_t i = 0;
    while (known[i] != NULL && strcmp(known[i], word) != 0) i++;
    if (known[i] == NULL) luaL_error(c->L, "schema: unknown word '%s'", word);
  }
}

/* OpenAPI's word. A mapped schema is final: none of the APIs maps on from there. */
static void compile_discriminator(compiler *c, int declaration, node *n) {
  static const char *const words[] = {"propertyName", "mapping", NULL};
  if (!push_word(c, declaration, "discriminator", LUA_TTABLE)) return;
  lua_State *L = c->L;
  int table = lua_gettop(L);
  refuse_unknown_words(c, table, words);
  if (n->types != OBJECT) luaL_error(L, "schema: 'discriminator' needs the type 'object' alone");
  discriminator *d = anchored_memory(c, sizeof *d);
  if (!push_word(c, table, "propertyName", LUA_TSTRING))
    luaL_error(L, "schema: 'discriminator' needs a 'propertyName'");
  d->property = anchored_name(c, lua_gettop(L));
  property_bit(c, n, "propertyName", &d->property);
  d->values = compile_children(c, table, "mapping", &d->schemas);
  if (d->values.count == 0) luaL_error(L, "schema: 'discriminator' needs a 'mapping'");
  for (size_t i = 0; i < d->values.count; i++) {
    if (d->schemas[i]->types != OBJECT)
      luaL_error(L, "schema: mapped '%s' needs the type 'object' alone", d->values.items[i].bytes);
    if (d->schemas[i]->discriminator != NULL)
      luaL_error(L, "schema: mapped '%s' must not have a 'discriminator'",
                 d->values.items[i].bytes);
  }
  n->discriminator = d;
  lua_settop(L, table - 1);
}

static const node *compile_node(compiler *c, int declaration) {
  static const char *const words[] = {
      "type",      "properties", "required",      "additionalProperties",
      "items",     "enum",       "minItems",      "maxItems",
      "minLength", "maxLength",  "minProperties", "uniqueItems",
      "minimum",   "maximum",    "description",   "default",
      "example",   "exactlyOne", "discriminator", NULL};
  if (!lua_istable(c->L, declaration)) luaL_error(c->L, "schema: a schema must be a table");
  if (++c->depth > MAX_DECLARATION) luaL_error(c->L, "schema: nested too deep");
  luaL_checkstack(c->L, 12, "schema");
  refuse_unknown_words(c, declaration, words);
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
  if (n->values.count > 0) { /* names: a value of another type would pass them by */
    if (n->types == JSON) n->types = STRING;
    if (n->types != STRING) luaL_error(c->L, "schema: 'enum' needs the type 'string' alone");
  }
  compile_properties(c, declaration, n);
  n->required = read_property_bits(c, declaration, "required", n);
  n->exactly_one = read_property_bits(c, declaration, "exactlyOne", n);
  compile_discriminator(c, declaration, n);
  n->items = &schema_json_value;
  if (push_word(c, declaration, "items", LUA_TTABLE)) {
    n->items = compile_node(c, lua_gettop(c->L));
    lua_pop(c->L, 1);
  }
  c->depth--;
  return n;
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
