/* Text for messages: bounded, so that no input makes one long, and safe to print. */
#ifndef INTEGRATIONS_TEXT_H
#define INTEGRATIONS_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#pragma GCC visibility push(hidden)

/* ctype.h without the locale: what a header or a field's name may hold is not up to the host. */
static inline bool text_is_digit(char c) {
  return c >= '0' && c <= '9';
}

static inline char text_lower(char c) {
  return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static inline bool text_is_alphanumeric(char c) {
  return text_is_digit(c) || (text_lower(c) >= 'a' && text_lower(c) <= 'z');
}

static inline bool text_is_control(char c) {
  return (unsigned char)c < 0x20 || c == 0x7F;
}

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
