/*
 * wire/text.h - which strings are legal, and how foreign bytes are shown in a sentence.
 *
 * Whatever came from outside may hold control characters, broken UTF-8 or a megabyte; what is
 * quoted in an error, a log line or a header goes through text_quote() or text_clean(), so that it
 * is short, one line, and valid UTF-8. Any thread.
 */
#ifndef MUSTER_WIRE_TEXT_H
#define MUSTER_WIRE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* A piece of a longer text: borrowed, not NUL-terminated. */
struct text {
    const char *s; /* NULL: not there */
    size_t len;
};

static inline bool text_is(struct text t, const char *s)
{
    return t.s && t.len == strlen(s) && memcmp(t.s, s, t.len) == 0;
}

static inline struct text text_of(const char *s)
{
    return (struct text){s, strlen(s)};
}

/* True for valid UTF-8 without U+0000, which neither PostgreSQL's text nor a C string can hold.
 * *ret_bad: offset of the fault. */
bool text_is_legal(const char *s, size_t len, size_t *ret_bad);

enum { TEXT_SHOWN = 40 }; /* bytes of a foreign text that a sentence quotes */
#define TEXT_QUOTE_SIZE (TEXT_SHOWN + 8)
/* Write s between double quotes, at most TEXT_SHOWN bytes of it and then an ellipsis; what is not
 * printable becomes '?'. */
const char *text_quote(const char *s, size_t len, char out[TEXT_QUOTE_SIZE]);
/* Copy at most size - 1 bytes, cut between characters; what is not printable becomes '?'. Returns
 * the length. */
size_t text_clean(const char *s, size_t len, char *out, size_t size);

#endif
