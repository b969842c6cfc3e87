/*
 * base/utf8.h - checks and mends text that came from outside before it goes into JSON, labels or
 * logs.
 *
 * Valid is what RFC 3629 says: no overlong forms, no surrogates, nothing above U+10FFFF. Any
 * thread.
 */
#ifndef MUSTER_BASE_UTF8_H
#define MUSTER_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

/* Length of the longest valid prefix of s; len when all of it is valid. */
size_t utf8_prefix(const char *s, size_t len);
/* Append s with every byte that is part of no valid character replaced by U+FFFD. */
void utf8_put(struct buf *b, const char *s, size_t len);

static inline bool utf8_is_valid(const char *s, size_t len)
{
    return utf8_prefix(s, len) == len;
}

#endif
