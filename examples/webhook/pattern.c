/* Subjects; see pattern.h. */
#include "pattern.h"

#include <string.h>

/* The next token; false at the end. */
static bool next(const char **at, const char **token, size_t *len)
{
    if (**at == '\0')
        return false;
    *token = *at;
    *len = strcspn(*at, ".");
    *at += *len + ((*at)[*len] == '.');
    return true;
}

static bool is(const char *token, size_t len, char c)
{
    return len == 1 && *token == c;
}

static bool same(const char *a, size_t a_len, const char *b, size_t b_len)
{
    return a_len == b_len && memcmp(a, b, a_len) == 0;
}

bool pattern_covers(const char *a, const char *b)
{
    const char *ta, *tb;
    size_t la, lb;

    while (next(&a, &ta, &la)) {
        if (!next(&b, &tb, &lb))
            return false;
        if (is(ta, la, '>'))
            return true;
        if (is(tb, lb, '>') || (!is(ta, la, '*') && !same(ta, la, tb, lb)))
            return false;
    }
    return *b == '\0';
}

bool pattern_overlaps(const char *a, const char *b)
{
    const char *ta, *tb;
    size_t la, lb;

    while (next(&a, &ta, &la)) {
        if (!next(&b, &tb, &lb))
            return false;
        if (is(ta, la, '>') || is(tb, lb, '>'))
            return true;
        if (!is(ta, la, '*') && !is(tb, lb, '*') && !same(ta, la, tb, lb))
            return false;
    }
    return *b == '\0';
}
