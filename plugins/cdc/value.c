/*
 * value - one column's text becomes one value of a body; see value.h.
 *
 * Every kind checks what it copies. The checks cost little (the text is in the cache, it was just
 * received) and buy that no setting of the session, no later version of PostgreSQL and no type that
 * lies about its output makes a broken body: what does not look as expected is a string.
 */
#include "cdc/value.h"

#include <string.h>

#include "cdc/jsontree.h"

enum { ARRAY_DIMENSIONS = 6 }; /* PostgreSQL's MAXDIM */

/* In JSON the digits themselves, so that int8 stays exact for readers that have 64 bits. */
static void put_int(struct out *o, const char *s, size_t len)
{
    bool negative;
    uint64_t v;

    if (!jsontree_is_number(s, len) || !jsontree_integer(s, len, &negative, &v))
        out_text(o, s, len);
    else if (o->encoding == MUSTER_JSON)
        out_verbatim(o, s, len);
    else if (negative)
        out_i64(o, (int64_t)(0 - v));
    else
        out_u64(o, v);
}

/* A float's text is the shortest that reads back as the same, so that a double loses nothing. */
static void put_float(struct out *o, const char *s, size_t len)
{
    double v;

    if (!jsontree_is_number(s, len))
        out_text(o, s, len); /* NaN, Infinity, -Infinity */
    else if (o->encoding == MUSTER_JSON)
        out_verbatim(o, s, len);
    else if (jsontree_double(s, len, &v))
        out_f64(o, v);
    else
        out_text(o, s, len);
}

static void put_bool(struct out *o, const char *s, size_t len)
{
    if (len == 1 && (*s == 't' || *s == 'f'))
        out_bool(o, *s == 't');
    else
        out_text(o, s, len);
}

/* Copy a checked JSON text on one line: outside of strings a line break is only space, and inside
 * there can be none. */
static void put_tree_text(struct out *o, const char *s, size_t len)
{
    size_t at;

    out_verbatim(o, s, len);
    if (buf_failed(o->b))
        return;
    at = o->b->len - len;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)o->b->data[at + i] < ' ')
            o->b->data[at + i] = ' ';
}

/* UTF-8 first: the walk looks at ASCII only and takes the rest for granted. */
static void put_json(struct out *o, const char *s, size_t len)
{
    struct out_mark mark = out_mark(o);

    if (!out_is_utf8(s, len)) {
        out_text(o, s, len);
    } else if (o->encoding == MUSTER_JSON && jsontree_check(s, len)) {
        put_tree_text(o, s, len);
    } else if (o->encoding == MUSTER_JSON || !jsontree_pack(o, s, len, JSONTREE_DEPTH_COLUMN)) {
        out_rewind(o, mark);
        out_text(o, s, len);
    }
}

/* Only the hex form; under bytea_output = escape the text stays what it is. */
static void put_bytea(struct out *o, const char *s, size_t len)
{
    if (len < 2 || s[0] != '\\' || s[1] != 'x' || !out_hex(o, s + 2, len - 2))
        out_text(o, s, len);
}

/* Whether s has a digit wherever the pattern has 0, and the same character elsewhere. */
static bool matches(const char *s, const char *pattern, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (pattern[i] == '0' ? (s[i] < '0' || s[i] > '9') : s[i] != pattern[i])
            return false;
    return true;
}

static const char stamp_pattern[] = "0000-00-00 00:00:00.000000";
enum { STAMP_SECONDS = 19, STAMP_MAX = 26 };

/* Length of the timestamp at s, with a fraction of one to six digits or none; 0 when there is none
 * in years 0001 to 9999. */
static size_t stamp_len(const char *s, size_t len)
{
    size_t n = STAMP_SECONDS;

    if (len < STAMP_SECONDS || !matches(s, stamp_pattern, STAMP_SECONDS))
        return 0;
    if (len == STAMP_SECONDS || s[STAMP_SECONDS] != '.')
        return n;
    for (n++; n < len && n < STAMP_MAX && s[n] >= '0' && s[n] <= '9'; n++)
        ;
    return n == STAMP_SECONDS + 1 ? 0 : n;
}

/* RFC 3339 needs two changes: T for the space, and Z for the offset that TimeZone UTC gives. PostgreSQL drops the zeros at
 * the end of a fraction; INTERFACE 3 has times in microseconds, so that they sort as text. */
static void put_stamp(struct out *o, const char *s, size_t len, bool zone)
{
    size_t n = stamp_len(s, len);
    char stamp[STAMP_MAX + 1];
    bool fits = zone ? len == n + 3 && n && memcmp(s + n, "+00", 3) == 0 : n && len == n;

    if (!fits) {
        out_text(o, s, len); /* infinity, BC, five digits of year, another zone */
        return;
    }
    memcpy(stamp, s, n);
    memcpy(stamp + n, "0000000", STAMP_MAX - n);
    stamp[10] = 'T';
    stamp[STAMP_SECONDS] = '.';
    stamp[STAMP_MAX] = 'Z';
    out_plain(o, stamp, zone ? STAMP_MAX + 1 : STAMP_MAX);
}

static void put_scalar(struct out *o, uint8_t kind, const char *s, size_t len)
{
    switch (kind) {
    case VALUE_INT:
        put_int(o, s, len);
        return;
    case VALUE_FLOAT:
        put_float(o, s, len);
        return;
    case VALUE_BOOL:
        put_bool(o, s, len);
        return;
    case VALUE_JSON:
        put_json(o, s, len);
        return;
    case VALUE_BYTEA:
        put_bytea(o, s, len);
        return;
    case VALUE_TIMESTAMP:
        put_stamp(o, s, len, false);
        return;
    case VALUE_TIMESTAMPTZ:
        put_stamp(o, s, len, true);
        return;
    default:
        out_text(o, s, len);
    }
}

/* An array literal on its way through. It is written while it is read; when it proves to be none,
 * the writer goes back and the text is sent instead, which is also how a type that only looks like
 * an array by its name is treated. */
struct literal {
    const char *p, *end;
    struct out *o;
    struct value_type type;
};

/* A bound may be negative. */
static bool skip_number(struct literal *l)
{
    const char *from;

    if (l->p < l->end && (*l->p == '-' || *l->p == '+'))
        l->p++;
    for (from = l->p; l->p < l->end && *l->p >= '0' && *l->p <= '9';)
        l->p++;
    return l->p > from;
}

static bool skip(struct literal *l, char c)
{
    if (l->p == l->end || *l->p != c)
        return false;
    l->p++;
    return true;
}

/* Step over `[0:2][-1:3]=`; JSON has no lower bounds. */
static bool skip_bounds(struct literal *l)
{
    if (l->p == l->end || *l->p != '[')
        return true;
    while (skip(l, '['))
        if (!skip_number(l) || !skip(l, ':') || !skip_number(l) || !skip(l, ']'))
            return false;
    return skip(l, '=');
}

/* What stands between quotes; l->p is behind the first. */
static bool quoted(struct literal *l)
{
    struct buf *plain = &l->o->element;
    const char *from = l->p;

    while (l->p < l->end && *l->p != '"' && *l->p != '\\')
        l->p++;
    if (l->p < l->end && *l->p == '"') {
        put_scalar(l->o, l->type.kind, from, (size_t)(l->p - from));
        l->p++;
        return true;
    }
    buf_clear(plain); /* a backslash: the element is put together first */
    buf_put(plain, from, (size_t)(l->p - from));
    for (; l->p < l->end && *l->p != '"'; l->p++) {
        if (*l->p == '\\' && ++l->p == l->end)
            return false;
        buf_putc(plain, *l->p);
    }
    if (!skip(l, '"'))
        return false;
    l->o->b->failed |= buf_failed(plain);
    put_scalar(l->o, l->type.kind, plain->data ? plain->data : "", plain->len);
    return true;
}

/* An element without quotes; l->p is at its first byte. PostgreSQL quotes whatever could be taken
 * for syntax. */
static bool bare(struct literal *l)
{
    const char *from = l->p;
    size_t len;

    for (; l->p < l->end && *l->p != l->type.delim && *l->p != '}'; l->p++)
        if (*l->p == '"' || *l->p == '\\' || *l->p == '{')
            return false;
    len = (size_t)(l->p - from);
    if (len == 0)
        return false;
    if (len == 4 && memcmp(from, "NULL", 4) == 0)
        out_null(l->o); /* the string is quoted */
    else
        put_scalar(l->o, l->type.kind, from, len);
    return true;
}

/* One level of an array; l->p is behind its brace. */
static bool elements(struct literal *l, unsigned left)
{
    size_t at = out_open(l->o, OUT_ARRAY), n = 0;

    if (!skip(l, '}')) {
        do {
            bool ok = skip(l, '{')   ? left && elements(l, left - 1)
                      : skip(l, '"') ? quoted(l)
                                     : bare(l);

            if (!ok)
                return false;
            n++;
        } while (skip(l, l->type.delim));
        if (!skip(l, '}'))
            return false;
    }
    out_close(l->o, OUT_ARRAY, at, n);
    return true;
}

static bool put_array(struct out *o, struct value_type type, const char *s, size_t len)
{
    struct literal l = {.p = s, .end = s + len, .o = o, .type = type};
    struct out_mark mark = out_mark(o);

    if (skip_bounds(&l) && skip(&l, '{') && elements(&l, ARRAY_DIMENSIONS - 1) && l.p == l.end)
        return true;
    out_rewind(o, mark);
    return false;
}

void value_put(struct out *o, struct value_type type, const char *text, size_t len)
{
    if (!type.array)
        put_scalar(o, type.kind, text, len);
    else if (!put_array(o, type, text, len))
        out_text(o, text, len);
}
