#include "text.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { MAX_QUOTED = 48, MAX_NAME = 48 };

void text_format(text *t, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int wanted = vsnprintf(t->bytes + t->used, t->size - t->used, format, arguments);
  va_end(arguments);
  /* All or nothing: a part could end in the middle of a character. */
  if (wanted >= 0 && (size_t)wanted < t->size - t->used)
    t->used += (size_t)wanted;
  else
    t->bytes[t->used] = '\0';
}

/* The size of the UTF-8 character at the start of the bytes, 0 where there is none (RFC 3629:
 * no overlong forms, no surrogates, nothing past U+10FFFF). */
static size_t character_size(const unsigned char *bytes, size_t size) {
  static const struct {
    unsigned char first, last, second_first, second_last, size;
  } forms[] = {
      {0x00, 0x7F, 0, 0, 1},       {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
      {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
      {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4},
  };
  for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
    if (bytes[0] < forms[i].first || bytes[0] > forms[i].last) continue;
    if (size < forms[i].size) return 0;
    if (forms[i].size == 1) return 1;
    if (bytes[1] < forms[i].second_first || bytes[1] > forms[i].second_last) return 0;
    for (size_t k = 2; k < forms[i].size; k++)
      if ((bytes[k] & 0xC0) != 0x80) return 0;
    return forms[i].size;
  }
  return 0;
}

size_t text_length(const char *bytes, size_t size, size_t *invalid) {
  const unsigned char *at = (const unsigned char *)bytes;
  const unsigned char *end = at + size;
  size_t length = 0;
  while (at < end) {
    uint64_t eight; /* ASCII, the common case, eight bytes at a time */
    if (end - at >= 8) {
      memcpy(&eight, at, sizeof eight);
      if ((eight & UINT64_C(0x8080808080808080)) == 0) {
        at += 8;
        length += 8;
        continue;
      }
    }
    size_t step = *at < 0x80 ? 1 : character_size(at, (size_t)(end - at));
    if (step == 0) {
      *invalid = (size_t)(at - (const unsigned char *)bytes);
      return length;
    }
    at += step;
    length++;
  }
  return length;
}

void text_quote(text *t, const char *bytes, size_t size) {
  const unsigned char *at = (const unsigned char *)bytes;
  const unsigned char *end = at + size;
  const unsigned char *limit = size > MAX_QUOTED ? at + MAX_QUOTED : end;
  text_format(t, "\"");
  while (at < limit) {
    size_t step = character_size(at, (size_t)(end - at));
    if (step > (size_t)(limit - at)) break; /* not in the middle of a character */
    if (step == 0 || *at < 0x20 || *at == 0x7F) {
      text_format(t, "\\x%02X", *at);
      step = 1;
    } else {
      text_format(t, *at == '"' || *at == '\\' ? "\\%.*s" : "%.*s", (int)step, (const char *)at);
    }
    at += step;
  }
  text_format(t, size > MAX_QUOTED ? "…\"" : "\"");
}

static bool is_identifier(const char *bytes, size_t size) {
  if (size == 0 || size > MAX_NAME || text_is_digit(bytes[0])) return false;
  for (size_t i = 0; i < size; i++)
    if (!text_is_alphanumeric(bytes[i]) && bytes[i] != '_') return false;
  return true;
}

void text_field(text *t, const char *bytes, size_t size) {
  if (is_identifier(bytes, size)) {
    text_format(t, "%s%.*s", t->used > 0 ? "." : "", (int)size, bytes);
    return;
  }
  text_format(t, "[");
  text_quote(t, bytes, size);
  text_format(t, "]");
}

static size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

/* The optimal string alignment distance, with the last three rows of its matrix. */
static size_t alignment_distance(const char *a, size_t a_size, const char *b, size_t b_size) {
  size_t rows[3][MAX_NAME + 1];
  for (size_t j = 0; j <= b_size; j++) rows[0][j] = j;
  for (size_t i = 1; i <= a_size; i++) {
    size_t *before = rows[(i + 1) % 3], *above = rows[(i - 1) % 3], *row = rows[i % 3];
    row[0] = i;
    for (size_t j = 1; j <= b_size; j++) {
      char x = text_lower(a[i - 1]), y = text_lower(b[j - 1]);
      row[j] = least(above[j - 1] + (x != y), least(above[j], row[j - 1]) + 1);
      if (i > 1 && j > 1 && x == text_lower(b[j - 2]) && y == text_lower(a[i - 2]))
        row[j] = least(row[j], before[j - 2] + 1);
    }
  }
  return rows[a_size % 3][b_size];
}

size_t text_distance(const char *a, size_t a_size, const char *b, size_t b_size) {
  if (a_size > MAX_NAME || b_size > MAX_NAME) return SIZE_MAX;
  size_t longest = a_size > b_size ? a_size : b_size;
  size_t slips = longest < 3 ? 0 : 1 + longest / 5;
  if (longest - least(a_size, b_size) > slips) return SIZE_MAX;
  size_t distance = alignment_distance(a, a_size, b, b_size);
  return distance <= slips ? distance : SIZE_MAX;
}
