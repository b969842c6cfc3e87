/*
 * jsontree - the text of a json or jsonb value; see jsontree.h.
 *
 * One walk serves both encodings. Without a writer it only says whether the text is JSON: that is
 * all a JSON body needs, which then takes the text as it is, so that 1.10 stays 1.10. With a writer
 * it transcodes on the way. PostgreSQL checked the text when it was stored, but its json type lets
 * lone surrogates through, and what is in the stream could have been written by an older server: a
 * body must not depend on it.
 *
 * It recurses, bounded by `left`: 512 levels of two small frames.
 */
#include "cdc/jsontree.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct walk {
    const char *p, *end;
    struct out *o; /* NULL: only check */
    unsigned left; /* levels that may still be opened */
};

static bool value(struct walk *w);

static void skip_space(struct walk *w)
{
    while (w->p < w->end && (*w->p == ' ' || *w->p == '\n' || *w->p == '\r' || *w->p == '\t'))
        w->p++;
}

/* Step over c, if it is next. */
static bool take(struct walk *w, char c)
{
    if (w->p == w->end || *w->p != c)
        return false;
    w->p++;
    return true;
}

static bool literal(struct walk *w, const char *word, size_t len)
{
    if ((size_t)(w->end - w->p) < len || memcmp(w->p, word, len) != 0)
        return false;
    w->p += len;
    return true;
}

static size_t digits(const char *p, const char *end)
{
    size_t n = 0;

    while (p + n < end && p[n] >= '0' && p[n] <= '9')
        n++;
    return n;
}

/* Length of the JSON number at p, 0 when there is none. */
static size_t number_len(const char *p, const char *end)
{
    const char *from = p;
    size_t n;

    if (p < end && *p == '-')
        p++;
    n = digits(p, end);
    if (n == 0 || (n > 1 && *p == '0')) /* JSON has no leading zeros */
        return 0;
    p += n;
    if (p < end && *p == '.') {
        n = digits(p + 1, end);
        if (n == 0)
            return 0;
        p += 1 + n;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p += p + 1 < end && (p[1] == '+' || p[1] == '-') ? 2 : 1;
        n = digits(p, end);
        if (n == 0)
            return 0;
        p += n;
    }
    return (size_t)(p - from);
}

bool jsontree_is_number(const char *text, size_t len)
{
    return len && number_len(text, text + len) == len;
}

bool jsontree_integer(const char *text, size_t len, bool *ret_negative, uint64_t *ret_magnitude)
{
    bool negative = len && text[0] == '-';
    uint64_t v = 0;

    if (len == negative || digits(text + negative, text + len) != len - negative)
        return false;
    for (size_t i = negative; i < len; i++)
        if (__builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(text[i] - '0'), &v))
            return false;
    if (negative &&
        (v == 0 || v > (uint64_t)INT64_MAX + 1)) /* magnitudes reach one further below zero */
        return false;
    *ret_negative = negative;
    *ret_magnitude = v;
    return true;
}

bool jsontree_double(const char *text, size_t len, double *ret_value)
{
    char copy[64], *end; /* strtod() wants a NUL; the text is a part of a message */
    double v;

    if (len >= sizeof copy)
        return false;
    memcpy(copy, text, len);
    copy[len] = '\0';
    v = strtod(copy, &end);
    if (end != copy + len ||
        !isfinite(v)) /* the first also where a locale has another decimal point */
        return false;
    *ret_value = v;
    return true;
}

/* Digits of the mantissa from the first that is not zero: what a double has to carry. */
static size_t significant(const char *text, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len && text[i] != 'e' && text[i] != 'E'; i++)
        if (text[i] >= '0' && text[i] <= '9' && (n || text[i] != '0'))
            n++;
    return n;
}

/* Integers first, because 64 bits of them are exact. DBL_DIG (15) digits go through a double and
 * come back the same, as long as it is not so small that it loses bits: below DBL_MIN, or zero
 * where the text is not. */
static void pack_number(struct out *o, const char *text, size_t len)
{
    size_t n = significant(text, len);
    bool negative;
    uint64_t v;
    double d;

    if (jsontree_integer(text, len, &negative, &v)) {
        if (negative)
            out_i64(o, (int64_t)(0 - v));
        else
            out_u64(o, v);
    } else if (n <= DBL_DIG && jsontree_double(text, len, &d) && (n == 0 || fabs(d) >= DBL_MIN)) {
        out_f64(o, d);
    } else {
        out_plain(o, text, len);
    }
}

static bool number(struct walk *w)
{
    size_t len = number_len(w->p, w->end);

    if (len == 0)
        return false;
    if (w->o)
        pack_number(w->o, w->p, len);
    w->p += len;
    return true;
}

/* The value of the four hex digits at p, negative when they are none. */
static int32_t hex4(const char *p, const char *end)
{
    int32_t v = 0;

    if (end - p < 4)
        return -1;
    for (size_t i = 0; i < 4; i++) {
        char c = p[i], lower = (char)(c | 0x20);

        if (c >= '0' && c <= '9')
            v = v << 4 | (c - '0');
        else if (lower >= 'a' && lower <= 'f')
            v = v << 4 | (lower - 'a' + 10);
        else
            return -1;
    }
    return v;
}

static void put_utf8(struct buf *b, uint32_t c)
{
    if (c < 0x80)
        buf_putc(b, (char)c);
    else if (c < 0x800)
        buf_put(b, (char[]){(char)(0xC0 | c >> 6), (char)(0x80 | (c & 63))}, 2);
    else if (c < 0x10000)
        buf_put(
            b,
            (char[]){(char)(0xE0 | c >> 12), (char)(0x80 | (c >> 6 & 63)), (char)(0x80 | (c & 63))},
            3);
    else
        buf_put(b,
                (char[]){(char)(0xF0 | c >> 18), (char)(0x80 | (c >> 12 & 63)),
                         (char)(0x80 | (c >> 6 & 63)), (char)(0x80 | (c & 63))},
                4);
}

/* What stands behind \u, where two halves of a pair make one character. */
static bool unicode_escape(struct walk *w, struct buf *to)
{
    int32_t c = hex4(w->p, w->end), low;

    if (c < 0 || (c >= 0xDC00 && c <= 0xDFFF)) /* a second half without a first */
        return false;
    w->p += 4;
    if (c >= 0xD800 && c <= 0xDBFF) {
        if (!literal(w, "\\u", 2))
            return false;
        low = hex4(w->p, w->end);
        if (low < 0xDC00 || low > 0xDFFF)
            return false;
        w->p += 4;
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    }
    if (to)
        put_utf8(to, (uint32_t)c);
    return true;
}

/* One escape; w->p is behind its backslash. Without `to` it is only checked. */
static bool escape(struct walk *w, struct buf *to)
{
    static const char named[256] = {['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
                                    ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t'};
    char c;

    if (w->p == w->end)
        return false;
    c = *w->p++;
    if (c == 'u')
        return unicode_escape(w, to);
    if (!named[(unsigned char)c])
        return false;
    if (to)
        buf_putc(to, named[(unsigned char)c]);
    return true;
}

/* The rest of a string that has escapes; w->p is at the first. */
static bool escaped_string(struct walk *w, const char *from)
{
    struct buf *to = w->o ? &w->o->string : NULL;

    if (to) {
        buf_clear(to);
        buf_put(to, from, (size_t)(w->p - from));
    }
    while (w->p < w->end && (unsigned char)*w->p >= 0x20) {
        char c = *w->p++;

        if (c == '"') {
            if (to)
                w->o->b->failed |= buf_failed(to);
            if (to)
                out_str(w->o, to->data ? to->data : "", to->len);
            return true;
        }
        if (c == '\\' ? !escape(w, to) : false)
            return false;
        if (c != '\\' && to)
            buf_putc(to, c);
    }
    return false;
}

/* A string; w->p is behind its first quote. One without escapes, the usual case, is not copied on
 * the way. */
static bool string(struct walk *w)
{
    const char *from = w->p;

    while (w->p < w->end && *w->p != '"' && *w->p != '\\' && (unsigned char)*w->p >= 0x20)
        w->p++;
    if (w->p == w->end)
        return false;
    if (*w->p != '"')
        return *w->p == '\\' && escaped_string(w, from);
    if (w->o)
        out_str(w->o, from, (size_t)(w->p - from));
    w->p++;
    return true;
}

static bool member(struct walk *w, int shape)
{
    if (shape == OUT_MAP) {
        skip_space(w);
        if (!take(w, '"') || !string(w))
            return false;
        skip_space(w);
        if (!take(w, ':'))
            return false;
    }
    return value(w);
}

/* What stands between the brackets; w->p is behind the first. */
static bool members(struct walk *w, int shape)
{
    char close = shape == OUT_MAP ? '}' : ']';
    size_t at = w->o ? out_open(w->o, shape) : 0, n = 0;

    skip_space(w);
    if (!take(w, close)) {
        do {
            if (!member(w, shape))
                return false;
            n++;
        } while (take(w, ','));
        if (!take(w, close))
            return false;
    }
    if (w->o)
        out_close(w->o, shape, at, n);
    return true;
}

/* A map or an array, if the depth allows one more. */
static bool container(struct walk *w, int shape)
{
    bool ok;

    if (w->left == 0)
        return false;
    w->left--;
    ok = members(w, shape);
    w->left++;
    return ok;
}

/* true, false or null. */
static bool word(struct walk *w)
{
    bool is_true = literal(w, "true", 4);

    if (is_true || literal(w, "false", 5)) {
        if (w->o)
            out_bool(w->o, is_true);
        return true;
    }
    if (!literal(w, "null", 4))
        return false;
    if (w->o)
        out_null(w->o);
    return true;
}

/* One value and the space around it. */
static bool value(struct walk *w)
{
    bool ok;

    skip_space(w);
    if (take(w, '"'))
        ok = string(w);
    else if (take(w, '{'))
        ok = container(w, OUT_MAP);
    else if (take(w, '['))
        ok = container(w, OUT_ARRAY);
    else
        ok = word(w) || number(w);
    skip_space(w);
    return ok;
}

bool jsontree_check(const char *text, size_t len)
{
    struct walk w = {.p = text, .end = text + len, .left = JSONTREE_DEPTH_JSON};

    return value(&w) && w.p == w.end;
}

bool jsontree_pack(struct out *o, const char *text, size_t len, unsigned depth)
{
    struct walk w = {.p = text, .end = text + len, .o = o, .left = depth};

    return value(&w) && w.p == w.end;
}

static bool next_member(struct walk *w, struct jsontree_span *key, struct jsontree_span *v)
{
    skip_space(w);
    key->s = w->p + 1;
    if (!take(w, '"') || !string(w))
        return false;
    key->len = (size_t)(w->p - 1 - key->s);
    skip_space(w);
    if (!take(w, ':'))
        return false;
    skip_space(w);
    v->s = w->p;
    if (!value(w))
        return false;
    v->len = (size_t)(w->p - v->s);
    while (strchr(" \n\r\t", v->s[v->len - 1])) /* a value is not empty */
        v->len--;
    return true;
}

bool jsontree_each(const char *text, size_t len, void (*fn)(void *arg, struct jsontree_span key, struct jsontree_span value), void *arg)
{
    struct walk w = {.p = text, .end = text + len, .left = JSONTREE_DEPTH_JSON};
    struct jsontree_span key, v;

    skip_space(&w);
    if (!take(&w, '{'))
        return false;
    skip_space(&w);
    if (!take(&w, '}')) {
        do {
            if (!next_member(&w, &key, &v))
                return false;
            fn(arg, key, v);
        } while (take(&w, ','));
        if (!take(&w, '}'))
            return false;
    }
    skip_space(&w);
    return w.p == w.end;
}

bool jsontree_string(const char *text, size_t len, struct buf *to)
{
    struct walk w = {.p = text, .end = text + len};

    if (!take(&w, '"'))
        return false;
    while (w.p < w.end && (unsigned char)*w.p >= 0x20) {
        char c = *w.p++;

        if (c == '"')
            return w.p == w.end;
        if (c == '\\' ? !escape(&w, to) : false)
            return false;
        if (c != '\\')
            buf_putc(to, c);
    }
    return false;
}
