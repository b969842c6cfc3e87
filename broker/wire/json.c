/*
 * The JSON reader: RFC 8259, strict, with the limits of value.h. It works in place on the
 * document's copy of the body: strings are unescaped where they stand (they only get shorter) and
 * end in a NUL that overwrites their closing quote. Values of an open list or map wait on a stack
 * and are copied together when it closes, so that nodes lie side by side.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "wire/node.h"
#include "wire/text.h"

enum {
    FIRST_STACK = 64,
    FIRST_NODES = 16,        /* nodes made with the document; more for longer bodies */
    BYTES_PER_NODE = 12,     /* usual density of bodies: 253 bytes held 24 nodes */
    MOST_FIRST_NODES = 4096, /* then blocks follow */
    SAFE_DIGITS = 300, /* so many characters without exponent are always below the largest double */
};

struct reader {
    struct doc *doc;
    char *p; /* next byte; *end is NUL, which no rule takes */
    const char *end;
    struct muster_value *stack; /* first, or owned memory */
    size_t n, cap;
    size_t depth;
    struct wire_error *err;
    struct muster_value first[FIRST_STACK];
};

static const char a_value[] = "a string in quotes, a number, true, false, null, a list or a map";

static int read_value(struct reader *r, const struct place *at, struct muster_value *out);

/* Refuse the byte at p: the sentence says what stands there and what could have. */
static int refuse_byte(struct reader *r, const struct place *at, const char *p,
                       const char *expected)
{
    r->err->offset = (size_t)(p - r->doc->text);
    if (p >= r->end)
        return place_refuse(r->err, at, "the end of the body came, expected %s", expected);
    if (*p > 0x20 && *p < 0x7f)
        return place_refuse(r->err, at, "'%c' came, expected %s", *p, expected);
    return place_refuse(r->err, at, "the byte 0x%02x came, expected %s", (unsigned char)*p,
                        expected);
}

/* The four blanks of RFC 8259. */
static void skip_blanks(struct reader *r)
{
    while (*r->p == ' ' || *r->p == '\n' || *r->p == '\r' || *r->p == '\t')
        r->p++;
}

/* Doubles, so a body of n values moves fewer than 2 n; the first FIRST_STACK need no memory. */
static int grow(struct reader *r)
{
    size_t cap = r->cap * 2;
    struct muster_value *stack = malloc(cap * sizeof *stack);

    if (!stack)
        return MUSTER_ENOMEM;
    memcpy(stack, r->stack, r->n * sizeof *stack);
    if (r->stack != r->first)
        free(r->stack);
    r->stack = stack;
    r->cap = cap;
    return 0;
}

static int push(struct reader *r, const struct muster_value *v)
{
    if (r->n == r->cap && grow(r))
        return MUSTER_ENOMEM;
    r->stack[r->n++] = *v;
    return 0;
}

/* Move what was pushed since `from` into the document. */
static int close_container(struct reader *r, size_t from, struct muster_value *out)
{
    size_t n = r->n - from;
    struct muster_value *items = n ? doc_nodes(r->doc, n) : NULL;

    if (n && !items)
        return MUSTER_ENOMEM;
    if (n)
        memcpy(items, r->stack + from, n * sizeof *items);
    r->n = from;
    r->depth--;
    out->n = (uint32_t)(out->type == MUSTER_MAP ? n / 2 : n);
    out->items = items;
    return 0;
}

/* The depth is checked before anything of the list or map is read. */
static int open_container(struct reader *r, const struct place *at, int type,
                          struct muster_value *out)
{
    *out = (struct muster_value){.type = (uint8_t)type};
    if (r->depth == WIRE_MAX_DEPTH) {
        r->err->offset = (size_t)(r->p - r->doc->text);
        return place_refuse(r->err, at,
                            "level %d came, expected at most %d levels of lists and maps",
                            WIRE_MAX_DEPTH + 1, WIRE_MAX_DEPTH);
    }
    r->depth++;
    r->p++;
    skip_blanks(r);
    return 0;
}

/* Four hex digits at p; -1 when they are not. Stops at the NUL behind the body. */
static int32_t hex4(const char *p)
{
    int32_t v = 0;

    for (int i = 0; i < 4; i++) {
        int c = (unsigned char)p[i], low = c | 0x20;

        if (c >= '0' && c <= '9')
            v = v * 16 + (c - '0');
        else if (low >= 'a' && low <= 'f')
            v = v * 16 + (low - 'a' + 10);
        else
            return -1;
    }
    return v;
}

/* c is a scalar value: surrogates were paired or refused before. */
static char *put_utf8(char *w, uint32_t c)
{
    if (c < 0x80) {
        *w++ = (char)c;
        return w;
    }
    if (c < 0x800) {
        *w++ = (char)(0xc0 | c >> 6);
    } else {
        if (c < 0x10000) {
            *w++ = (char)(0xe0 | c >> 12);
        } else {
            *w++ = (char)(0xf0 | c >> 18);
            *w++ = (char)(0x80 | (c >> 12 & 0x3f));
        }
        *w++ = (char)(0x80 | (c >> 6 & 0x3f));
    }
    *w++ = (char)(0x80 | (c & 0x3f));
    return w;
}

/* r->p stands on the 'u'. Characters above U+FFFF come as two escapes. An escape has six bytes and
 * becomes at most three, a pair has twelve and becomes four: writing never overtakes reading. */
static int read_code_point(struct reader *r, const struct place *at, char **w)
{
    int32_t high = hex4(r->p + 1), low;

    if (high < 0)
        return refuse_byte(r, at, r->p, "\\u and four hex digits");
    if (high == 0)
        return refuse_byte(r, at, r->p, "no U+0000 in a string");
    r->p += 5;
    if (high < 0xd800 || high > 0xdfff) {
        *w = put_utf8(*w, (uint32_t)high);
        return 0;
    }
    low = high < 0xdc00 && r->p[0] == '\\' && r->p[1] == 'u' ? hex4(r->p + 2) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return refuse_byte(r, at, r->p - 5, "a pair of surrogates, the high one first");
    r->p += 6;
    *w = put_utf8(*w, 0x10000 + ((uint32_t)(high - 0xd800) << 10) + (uint32_t)(low - 0xdc00));
    return 0;
}

/* r->p stands behind the backslash. */
static int read_escape(struct reader *r, const struct place *at, char **w)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *hit = *r->p ? strchr(from, *r->p) : NULL;

    if (*r->p == 'u')
        return read_code_point(r, at, w);
    if (!hit)
        return refuse_byte(r, at, r->p, "one of \"\\/bfnrtu behind a backslash");
    *(*w)++ = to[hit - from];
    r->p++;
    return 0;
}

/* Move the bytes up to a quote, a backslash or a control character to *w. */
static int take_run(struct reader *r, const struct place *at, char **w)
{
    char *start = r->p;
    size_t len, good;

    while ((unsigned char)*r->p >= 0x20 && *r->p != '"' && *r->p != '\\')
        r->p++;
    len = (size_t)(r->p - start);
    good = utf8_prefix(start, len);
    if (good < len)
        return refuse_byte(r, at, start + good, "valid UTF-8");
    memmove(*w, start, len);
    *w += len;
    return 0;
}

/* The rest of a string from its first byte that is not plain ASCII. */
static int read_string_slow(struct reader *r, const struct place *at, char **ret_end)
{
    char *w = r->p;

    for (;;) {
        if (take_run(r, at, &w))
            return MUSTER_EINVAL;
        if (*r->p == '"')
            break;
        if (*r->p != '\\')
            return refuse_byte(
                r, at, r->p, r->p < r->end ? "an escape for control characters" : "a closing '\"'");
        r->p++;
        if (read_escape(r, at, &w))
            return MUSTER_EINVAL;
    }
    *ret_end = w;
    return 0;
}

/* r->p stands on the quote. */
static int read_string(struct reader *r, const struct place *at, struct muster_value *out)
{
    char *s = ++r->p, *stop;

    while ((unsigned char)*r->p >= 0x20 && (unsigned char)*r->p < 0x80 && *r->p != '"' &&
           *r->p != '\\')
        r->p++;
    stop = r->p;
    if (*r->p != '"' && read_string_slow(r, at, &stop))
        return MUSTER_EINVAL;
    r->p++;
    *stop = '\0';
    *out = (struct muster_value){.type = MUSTER_STR, .n = (uint32_t)(stop - s), .s = s};
    return 0;
}

/* Not isdigit(): that depends on the locale. */
static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* One digit at least, then all that follow. */
static int skip_digits(struct reader *r, const struct place *at, const char *expected)
{
    if (!is_digit(*r->p))
        return refuse_byte(r, at, r->p, expected);
    while (is_digit(*r->p))
        r->p++;
    return 0;
}

/* Fraction and exponent; *ret_large: the number may be beyond a double. */
static int skip_tail(struct reader *r, const struct place *at, bool *ret_large)
{
    if (*r->p == '.') {
        r->p++;
        if (skip_digits(r, at, "a digit behind the point"))
            return MUSTER_EINVAL;
    }
    if (*r->p != 'e' && *r->p != 'E')
        return 0;
    *ret_large = true;
    r->p++;
    if (*r->p == '+' || *r->p == '-')
        r->p++;
    return skip_digits(r, at, "a digit of the exponent");
}

/* Digits of a number without fraction: INT, or FLOAT in the form U64; false when it is larger than
 * both. */
static bool to_integer(const char *digits, const char *end, bool negative, struct muster_value *out)
{
    uint64_t v = 0;

    for (; digits < end; digits++)
        if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
            __builtin_add_overflow(v, (uint64_t)(*digits - '0'), &v))
            return false;
    if (v <= (uint64_t)INT64_MAX + negative) {
        *out = (struct muster_value){.type = MUSTER_INT, .i = (int64_t)(negative ? 0 - v : v)};
        return true;
    }
    *out = (struct muster_value){.type = MUSTER_FLOAT, .form = FORM_U64, .u = v};
    return !negative;
}

/* The grammar is checked here, because strtod() takes far more than JSON has. */
static int read_number(struct reader *r, const struct place *at, struct muster_value *out)
{
    char *start = r->p, *digits;
    bool negative = *r->p == '-', large = false;

    r->p += negative;
    digits = r->p;
    if (*r->p == '0' && is_digit(r->p[1]))
        return refuse_byte(r, at, r->p, "a number without leading zeros");
    if (skip_digits(r, at, "a digit"))
        return MUSTER_EINVAL;
    if (*r->p != '.' && *r->p != 'e' && *r->p != 'E' && to_integer(digits, r->p, negative, out))
        return 0;
    if (skip_tail(r, at, &large))
        return MUSTER_EINVAL;
    *out = (struct muster_value){
        .type = MUSTER_FLOAT, .form = FORM_DIGITS, .n = (uint32_t)(r->p - start), .s = start};
    if ((large || out->n > SAFE_DIGITS) && !isfinite(node_digits(out))) {
        char shown[TEXT_QUOTE_SIZE];

        r->err->offset = (size_t)(start - r->doc->text);
        return place_refuse(r->err, at, "the number %s came, expected one that a double can hold",
                            text_quote(start, out->n, shown));
    }
    return 0;
}

static int read_word(struct reader *r, const struct place *at, const char *word)
{
    size_t len = strlen(word);

    if (strncmp(r->p, word, len) != 0)
        return refuse_byte(r, at, r->p, a_value);
    r->p += len;
    return 0;
}

/* `here` is the place of the element that is being read. */
static int read_array(struct reader *r, const struct place *at, struct muster_value *out)
{
    struct place here = {.up = at};
    size_t from = r->n;
    int err = open_container(r, at, MUSTER_ARRAY, out);

    if (err)
        return err;
    if (*r->p == ']') {
        r->p++;
        return close_container(r, from, out);
    }
    for (here.n = 0;; here.n++) {
        struct muster_value v;

        if (here.n == WIRE_MAX_ELEMENTS)
            return refuse_byte(r, at, r->p, "']', because a list has at most 4,096 elements");
        err = read_value(r, &here, &v);
        if (!err)
            err = push(r, &v);
        if (err)
            return err;
        skip_blanks(r);
        if (*r->p != ',')
            break;
        r->p++;
    }
    if (*r->p != ']')
        return refuse_byte(r, at, r->p, "',' or ']'");
    r->p++;
    return close_container(r, from, out);
}

/* One key, its colon and its value. */
static int read_pair(struct reader *r, const struct place *map)
{
    struct place here = {.up = map};
    struct muster_value key, v;
    int err;

    skip_blanks(r);
    if (*r->p != '"')
        return refuse_byte(r, map, r->p, "'\"' and a key");
    err = read_string(r, map, &key);
    if (err)
        return err;
    here.key = key.s;
    here.n = key.n;
    skip_blanks(r);
    if (*r->p != ':')
        return refuse_byte(r, &here, r->p, "':'");
    r->p++;
    err = read_value(r, &here, &v);
    if (!err)
        err = push(r, &key);
    return err ? err : push(r, &v);
}

/* Keys are compared when all are there; the second of two equal ones is named. */
static int close_map(struct reader *r, const struct place *at, size_t from,
                     struct muster_value *out)
{
    const struct muster_value *twice;
    struct place here = {.up = at};
    int err = close_container(r, from, out);

    if (err)
        return err;
    twice = node_twice(out);
    if (!twice)
        return 0;
    here.key = twice->s;
    here.n = twice->n;
    r->err->offset = (size_t)(twice->s - r->doc->text);
    return place_refuse(r->err, &here, "this key came twice, expected each key once");
}

/* The count is checked before a pair is read, so the stack never holds more than is allowed. */
static int read_map(struct reader *r, const struct place *at, struct muster_value *out)
{
    size_t from = r->n;
    int err = open_container(r, at, MUSTER_MAP, out);

    if (err)
        return err;
    if (*r->p == '}') {
        r->p++;
        return close_container(r, from, out);
    }
    for (size_t n = 0;; n++) {
        if (n == WIRE_MAX_KEYS)
            return refuse_byte(r, at, r->p, "'}', because a map has at most 1,024 keys");
        err = read_pair(r, at);
        if (err)
            return err;
        skip_blanks(r);
        if (*r->p != ',')
            break;
        r->p++;
    }
    if (*r->p != '}')
        return refuse_byte(r, at, r->p, "',' or '}'");
    r->p++;
    return close_map(r, at, from, out);
}

/* The first byte tells the kind. Recursion is bounded by WIRE_MAX_DEPTH. */
static int read_value(struct reader *r, const struct place *at, struct muster_value *out)
{
    skip_blanks(r);
    switch (*r->p) {
    case '{':
        return read_map(r, at, out);
    case '[':
        return read_array(r, at, out);
    case '"':
        return read_string(r, at, out);
    case 't':
        *out = (struct muster_value){.type = MUSTER_BOOL, .i = 1};
        return read_word(r, at, "true");
    case 'f':
        *out = (struct muster_value){.type = MUSTER_BOOL};
        return read_word(r, at, "false");
    case 'n':
        *out = (struct muster_value){.type = MUSTER_NULL};
        return read_word(r, at, "null");
    default:
        if (*r->p == '-' || is_digit(*r->p))
            return read_number(r, at, out);
        return refuse_byte(r, at, r->p, a_value);
    }
}

static int read_document(struct reader *r)
{
    int err = read_value(r, NULL, &r->doc->root);

    if (err)
        return err;
    skip_blanks(r);
    return r->p == r->end ? 0 : refuse_byte(r, NULL, r->p, "the end of the body");
}

int json_read(struct muster_bytes body, struct doc **ret_doc, struct wire_error *err)
{
    size_t guess = body.len / BYTES_PER_NODE;
    struct reader r; /* the stack's memory is not cleared: 1 KiB a body */
    int code;

    r.doc = doc_new(body, guess < MOST_FIRST_NODES ? guess + FIRST_NODES : MOST_FIRST_NODES);
    if (!r.doc)
        return MUSTER_ENOMEM;
    r.p = r.doc->text;
    r.end = r.p + body.len;
    r.stack = r.first;
    r.n = 0;
    r.cap = FIRST_STACK;
    r.depth = 0;
    r.err = err;
    code = read_document(&r);
    if (r.stack != r.first)
        free(r.stack);
    if (code) {
        doc_free(r.doc);
        return code;
    }
    *ret_doc = r.doc;
    return 0;
}
