/* A compiled schema: what schema.c makes of a declaration, and schema_check.c walks along. */
#ifndef INTEGRATIONS_SCHEMA_NODE_H
#define INTEGRATIONS_SCHEMA_NODE_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

enum { SCHEMA_MAX_PROPERTIES = 64 }; /* a bit each in a node's masks and in a frame's `seen` */

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

/* The article is part of the phrase: it is only ever used in "must be …". */
typedef struct {
  const char *word, *phrase;
  unsigned bit;
} schema_type;

enum { SCHEMA_TYPE_COUNT = 8 };
extern const schema_type schema_types[SCHEMA_TYPE_COUNT];

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

/* An object whose `property` holds one of `values` is checked against the schema in its place. */
typedef struct {
  name property;
  names values;
  const node **schemas;
} discriminator;

struct node {
  unsigned types;
  size_t min_length, max_length, min_items, max_items, min_properties;
  lua_Number minimum, maximum;
  bool unique_items, closed;
  uint64_t required, exactly_one; /* masks of properties */
  names properties, values;       /* values: the enum */
  const node **children;          /* one for each property */
  const node *items;
  const discriminator *discriminator; /* NULL for most */
};

/* Anything that JSON can say: what a schema without a word describes. */
extern const node schema_json_value;

/* The position of a name, SIZE_MAX where it is not in the list. */
size_t schema_find_name(const names *list, const char *bytes, size_t size);

/* Lua: check(value, lenient, name) -> true | nil, { { field, message }, … }. Its first upvalue is
 * the root node. */
int schema_check(lua_State *L);

#pragma GCC visibility pop

#endif
