/*
 * out - writes the parts of a body as JSON or MessagePack; see out.h.
 *
 * The hot path is a row of short texts: each is looked at once, eight bytes at a time, which
 * answers both questions that decide its form (is it UTF-8? does it need an escape?), and is then
 * copied whole.
 */
#include "cdc/out.h"

#include <string.h>

/* A byte repeated in a word: "is any of eight bytes below n" is one subtraction. */
#define ONES UINT64_C(0x0101010101010101)
#define HIGHS UINT64_C(0x8080808080808080)

/* What a text is: as it stands, as a string with escapes, or no text at all. */
enum { SCAN_PLAIN, SCAN_ESCAPE, SCAN_INVALID };

void out_done(struct out *o)
{
    buf_done(&o->element);
    buf_done(&o->string);
}

void out_rewind(struct out *o, struct out_mark mark)
{
    o->b->len = mark.len;
    o->comma = mark.comma;
    if (o->b->data)
        o->b->data[mark.len] = '\0';
}

/* Whether one of eight ASCII bytes needs an escape in JSON: below 0x20, a quote, a backslash. */
static bool word_needs_escape(uint64_t w)
{
    uint64_t quote = w ^ ONES * '"', backslash = w ^ ONES * '\\';

    return (((w - ONES * 0x20) | (quote - ONES) | (backslash - ONES)) & ~w & HIGHS) != 0;
}

static bool is_tail(unsigned char c)
{
    return (c & 0xC0) == 0x80;
}

/* Length of the UTF-8 character at s, 0 when there is none. As strict as RFC 3629: readers refuse a
 * whole body for one overlong form or surrogate, and a SQL_ASCII database can send either. */
static size_t utf8_len(const unsigned char *s, size_t left)
{
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xC2 || left < 2 || !is_tail(s[1]))
        return 0;
    if (s[0] < 0xE0)
        return 2;
    if (left < 3 || !is_tail(s[2]))
        return 0;
    if (s[0] < 0xF0) {
        bool overlong = s[0] == 0xE0 && s[1] < 0xA0, surrogate = s[0] == 0xED && s[1] >= 0xA0;

        return overlong || surrogate ? 0 : 3;
    }
    if (left < 4 || !is_tail(s[3]) || s[0] > 0xF4)
        return 0;
    return (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] >= 0x90) ? 0 : 4;
}

/* Words of ASCII at once, anything else a character at a time. */
static int scan(const char *s, size_t len)
{
    bool escape = false;
    size_t i = 0, n;

    while (i < len) {
        unsigned char c = (unsigned char)s[i];
        uint64_t w;

        if (len - i >= sizeof w) {
            memcpy(&w, s + i, sizeof w);
            if (!(w & HIGHS)) {
                escape |= word_needs_escape(w);
                i += sizeof w;
                continue;
            }
        }
        n = utf8_len((const unsigned char *)s + i, len - i);
        if (n == 0)
            return SCAN_INVALID;
        escape |= c < 0x20 || c == '"' || c == '\\';
        i += n;
    }
    return escape ? SCAN_ESCAPE : SCAN_PLAIN;
}

bool out_is_utf8(const char *s, size_t len)
{
    return scan(s, len) != SCAN_INVALID;
}

/* A MessagePack tag followed by the low n bytes of v, big end first. */
static void put_tag(struct buf *b, unsigned tag, uint64_t v, size_t n)
{
    char bytes[9] = {(char)tag};

    for (size_t i = 0; i < n; i++)
        bytes[1 + i] = (char)(v >> 8 * (n - 1 - i));
    buf_put(b, bytes, 1 + n);
}

/* What every JSON value begins with; a key clears the flag, so that its value takes no comma. */
static void begin_json(struct out *o)
{
    if (o->comma)
        buf_putc(o->b, ',');
    o->comma = true;
}

size_t out_open(struct out *o, int shape)
{
    size_t at;

    if (o->encoding == MUSTER_JSON)
        begin_json(o);
    at = o->b->len;
    buf_putc(o->b,
             shape == OUT_MAP ? '{' : '['); /* MessagePack: the place of the header's first byte */
    o->comma = false;
    return at;
}

/* Fill the header in; beyond 15 members it grows, and what follows moves. A row moves once, a tree
 * at most once a level, and levels are bounded: cheaper than counting members before they are
 * written. */
static void close_msgpack(struct buf *b, int shape, size_t at, size_t n)
{
    size_t more = n <= 15 ? 0 : n <= UINT16_MAX ? 2 : 4;
    unsigned char tag = shape == OUT_MAP ? (more == 2 ? 0xDE : 0xDF) : (more == 2 ? 0xDC : 0xDD);

    if (!buf_reserve(b, more))
        return;
    if (more == 0) {
        b->data[at] = (char)((shape == OUT_MAP ? 0x80 : 0x90) | n);
        return;
    }
    memmove(b->data + at + 1 + more, b->data + at + 1, b->len - at - 1);
    b->len += more;
    b->data[b->len] = '\0';
    b->data[at] = (char)tag;
    for (size_t i = 0; i < more; i++)
        b->data[at + 1 + i] = (char)(n >> 8 * (more - 1 - i));
}

void out_close(struct out *o, int shape, size_t at, size_t n)
{
    if (buf_failed(o->b))
        return; /* the place at `at` may never have been written */
    if (o->encoding == MUSTER_JSON)
        buf_putc(o->b, shape == OUT_MAP ? '}' : ']');
    else
        close_msgpack(o->b, shape, at, n);
    o->comma = true;
}

void out_key(struct out *o, const char *name, size_t len)
{
    out_str(o, name, len);
    if (o->encoding == MUSTER_JSON)
        buf_putc(o->b, ':');
    o->comma = false;
}

void out_verbatim(struct out *o, const char *text, size_t len)
{
    begin_json(o);
    buf_put(o->b, text, len);
}

void out_null(struct out *o)
{
    if (o->encoding == MUSTER_JSON)
        out_verbatim(o, "null", 4);
    else
        put_tag(o->b, 0xC0, 0, 0);
}

void out_bool(struct out *o, bool v)
{
    if (o->encoding == MUSTER_MSGPACK)
        put_tag(o->b, v ? 0xC3 : 0xC2, 0, 0);
    else if (v)
        out_verbatim(o, "true", 4);
    else
        out_verbatim(o, "false", 5);
}

void out_u64(struct out *o, uint64_t v)
{
    if (o->encoding == MUSTER_JSON) {
        begin_json(o);
        buf_put_u64(o->b, v);
    } else if (v < 0x80) { /* the smallest form that holds v, as the format asks of writers */
        put_tag(o->b, (unsigned)v, 0, 0);
    } else if (v <= UINT8_MAX) {
        put_tag(o->b, 0xCC, v, 1);
    } else if (v <= UINT16_MAX) {
        put_tag(o->b, 0xCD, v, 2);
    } else if (v <= UINT32_MAX) {
        put_tag(o->b, 0xCE, v, 4);
    } else {
        put_tag(o->b, 0xCF, v, 8);
    }
}

void out_i64(struct out *o, int64_t v)
{
    if (v >= 0) {
        out_u64(o, (uint64_t)v);
    } else if (o->encoding == MUSTER_JSON) {
        begin_json(o);
        buf_put_i64(o->b, v);
    } else if (v >= -32) { /* the value is the tag */
        put_tag(o->b, (unsigned)(v & 0xFF), 0, 0);
    } else if (v >= INT8_MIN) {
        put_tag(o->b, 0xD0, (uint64_t)v, 1);
    } else if (v >= INT16_MIN) {
        put_tag(o->b, 0xD1, (uint64_t)v, 2);
    } else if (v >= INT32_MIN) {
        put_tag(o->b, 0xD2, (uint64_t)v, 4);
    } else {
        put_tag(o->b, 0xD3, (uint64_t)v, 8);
    }
}

void out_f64(struct out *o, double v)
{
    uint64_t bits;

    memcpy(&bits, &v, sizeof bits);
    put_tag(o->b, 0xCB, bits, 8);
}

/* The shortest header that holds len; a column is below 1 GB, so that 32 bits are enough. */
static void put_msgpack_str(struct buf *b, const char *s, size_t len)
{
    if (len < 32)
        put_tag(b, 0xA0 | (unsigned)len, 0, 0);
    else if (len <= UINT8_MAX)
        put_tag(b, 0xD9, len, 1);
    else if (len <= UINT16_MAX)
        put_tag(b, 0xDA, len, 2);
    else
        put_tag(b, 0xDB, len, 4);
    buf_put(b, s, len);
}

/* The commonest value of all: room is made once for comma, quotes and text. */
static void put_quoted(struct out *o, const char *s, size_t len)
{
    struct buf *b = o->b;
    char *to;

    if (len > SIZE_MAX - 3 || !buf_reserve(b, len + 3))
        return;
    to = b->data + b->len;
    if (o->comma)
        *to++ = ',';
    *to++ = '"';
    memcpy(to, s, len);
    to[len] = '"';
    to[len + 1] = '\0';
    b->len = (size_t)(to + len + 1 - b->data);
    o->comma = true;
}

void out_plain(struct out *o, const char *s, size_t len)
{
    if (o->encoding == MUSTER_MSGPACK) {
        put_msgpack_str(o->b, s, len);
        return;
    }
    put_quoted(o, s, len);
}

void out_str(struct out *o, const char *s, size_t len)
{
    if (o->encoding == MUSTER_MSGPACK || scan(s, len) == SCAN_PLAIN) {
        out_plain(o, s, len);
        return;
    }
    begin_json(o);
    buf_put_json(o->b, s, len);
}

/* The same map in both encodings: MessagePack has bytes of its own, but readers could not tell them
 * from a bytea. */
static void put_base64_map(struct out *o, const char *s, size_t len)
{
    size_t at = out_open(o, OUT_MAP);

    OUT_KEY(o, "base64");
    buf_clear(&o->string);
    buf_put_base64(&o->string, s, len);
    o->b->failed |= buf_failed(&o->string); /* callers look at the target only */
    out_plain(o, o->string.data ? o->string.data : "", o->string.len);
    out_close(o, OUT_MAP, at, 1);
}

void out_text(struct out *o, const char *s, size_t len)
{
    switch (scan(s, len)) {
    case SCAN_PLAIN:
        out_plain(o, s, len);
        return;
    case SCAN_ESCAPE:
        out_str(o, s, len);
        return;
    default:
        put_base64_map(o, s, len);
    }
}

/* One replacement for each bad byte, as decoders of UTF-8 do it. */
void out_name(struct out *o, const char *s, size_t len)
{
    buf_clear(&o->string);
    for (size_t i = 0, n; i < len; i += n ? n : 1) {
        n = utf8_len((const unsigned char *)s + i, len - i);
        if (n)
            buf_put(&o->string, s + i, n);
        else
            buf_puts(&o->string, "\xEF\xBF\xBD");
    }
    o->b->failed |= buf_failed(&o->string);
    out_str(o, o->string.data ? o->string.data : "", o->string.len);
}

static const uint8_t hex_value[256] = {
    ['0'] = 1,  ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
    ['8'] = 9,  ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
    ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16};

/* Decode n bytes; false at what is no hex digit. */
static bool hex_decode(const char *hex, size_t n, char *to)
{
    for (size_t i = 0; i < n; i++) {
        int high = hex_value[(unsigned char)hex[2 * i]],
            low = hex_value[(unsigned char)hex[2 * i + 1]];

        if (!high || !low)
            return false;
        to[i] = (char)((high - 1) << 4 | (low - 1));
    }
    return true;
}

static void put_bin_header(struct buf *b, size_t len)
{
    if (len <= UINT8_MAX)
        put_tag(b, 0xC4, len, 1);
    else if (len <= UINT16_MAX)
        put_tag(b, 0xC5, len, 2);
    else
        put_tag(b, 0xC6, len, 4);
}

/* A chunk at a time: a bytea of 500 MB needs no copy of its bytes beside the body. */
bool out_hex(struct out *o, const char *hex, size_t len)
{
    struct out_mark mark = out_mark(o);
    bool json = o->encoding == MUSTER_JSON;
    char chunk[768]; /* a multiple of three, so that base64 pads at the end only */

    if (len % 2)
        return false;
    if (json)
        begin_json(o);
    if (json)
        buf_putc(o->b, '"');
    else
        put_bin_header(o->b, len / 2);
    for (size_t at = 0, n; at < len / 2; at += n) {
        n = len / 2 - at < sizeof chunk ? len / 2 - at : sizeof chunk;
        if (!hex_decode(hex + 2 * at, n, chunk)) {
            out_rewind(o, mark);
            return false;
        }
        if (json)
            buf_put_base64(o->b, chunk, n);
        else
            buf_put(o->b, chunk, n);
    }
    if (json)
        buf_putc(o->b, '"');
    return true;
}
