/* Text for messages: bounded, so that no input makes one long, and safe to print. */
#ifndef INTEGRATIONS_TEXT_H
#define INTEGRATIONS_TEXT_H

#include <stddef.h>

#pragma GCC visibility push(hidden)

/* A buffer that is filled from the left, always ends in NUL, and drops what does not fit. */
typedef struct {
  char *bytes;
  size_t size, used;
} text;

void text_format(text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Appends the bytes in quotes, shortened, control bytes and invalid UTF-8 as \xNN. */
void text_quote(text *t, const char *bytes, size_t size);

/* Appends a path's next step: `.name`, `[2]`, or `["odd name"]`. */
void text_field(text *t, const char *bytes, size_t size);

/* Counts characters. Where the bytes are not UTF-8, *invalid is set to the first bad byte. */
size_t text_length(const char *bytes, size_t size, size_t *invalid);

/* How many slips (a character left out, added, changed, or two swapped; case does not count)
 * turn one name into the other; SIZE_MAX where that is too many to be a slip. */
size_t text_distance(const char *a, size_t a_size, const char *b, size_t b_size);

#pragma GCC visibility pop

#endif
