/* A look into bodies; see scan.h. */
#include "fanout/scan.h"

#include <stdlib.h>
#include <string.h>

uint32_t scan_encoding(struct span body)
{
    return body.len && (unsigned char)body.s[0] >= 0x80 ? MUSTER_MSGPACK : MUSTER_JSON;
}

/* ---- JSON ---------------------------------------------------------------------------------------------------------------------- */

static const char *blanks(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r'))
        p++;
    return p;
}

/* p stands behind the opening quote; returns what follows the closing one. */
static const char *string_end(const char *p, const char *end)
{
    while (p < end) {
        const char *quote = memchr(p, '"', (size_t)(end - p)), *back = quote;

        if (!quote)
            return NULL;
        while (back > p && back[-1] == '\\')
            back--;
        p = quote + 1;
        if ((quote - back) % 2 == 0)
            return p;
    }
    return NULL;
}

static const char *tree_end(const char *p, const char *end)
{
    size_t depth = 0;

    while (p && p < end) {
        char c = *p++;

        if (c == '"')
            p = string_end(p, end);
        else if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && --depth == 0)
            return p;
    }
    return NULL;
}

static bool ends_word(char c)
{
    return c == ',' || c == ']' || c == '}' || c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\0';
}

static const char *word_end(const char *p, const char *end)
{
    const char *begin = p;

    while (p < end && !ends_word(*p))
        p++;
    return p > begin ? p : NULL;
}

static const char *json_end(const char *p, const char *end)
{
    if (p >= end)
        return NULL;
    if (*p == '"')
        return string_end(p + 1, end);
    return *p == '{' || *p == '[' ? tree_end(p, end) : word_end(p, end);
}

static int hex4(const char *p)
{
    int v = 0;

    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;

        if (digit < 0)
            return -1;
        v = v * 16 + digit;
    }
    return v;
}

static void put_rune(struct buf *b, unsigned c)
{
    if (c < 0x80) {
        buf_putc(b, (char)c);
        return;
    }
    if (c < 0x800) {
        buf_putc(b, (char)(0xC0 | c >> 6));
    } else if (c < 0x10000) {
        buf_putc(b, (char)(0xE0 | c >> 12));
        buf_putc(b, (char)(0x80 | (c >> 6 & 0x3F)));
    } else {
        buf_putc(b, (char)(0xF0 | c >> 18));
        buf_putc(b, (char)(0x80 | (c >> 12 & 0x3F)));
        buf_putc(b, (char)(0x80 | (c >> 6 & 0x3F)));
    }
    buf_putc(b, (char)(0x80 | (c & 0x3F)));
}

/* p stands behind "\u"; returns what follows, NULL for what is no character. */
static const char *unicode(struct buf *b, const char *p, const char *end)
{
    int c = end - p >= 4 ? hex4(p) : -1, low;

    if (c < 0 || (c >= 0xDC00 && c < 0xE000))
        return NULL;
    p += 4;
    if (c < 0xD800 || c >= 0xE000) {
        put_rune(b, (unsigned)c);
        return p;
    }
    low = end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2) : -1;
    if (low < 0xDC00 || low >= 0xE000)
        return NULL;
    put_rune(b, 0x10000u + (((unsigned)c - 0xD800u) << 10) + ((unsigned)low - 0xDC00u));
    return p + 6;
}

static const char *escape(struct buf *b, const char *p, const char *end)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *at = p < end && *p ? strchr(from, *p) : NULL;

    if (at) {
        buf_putc(b, to[at - from]);
        return p + 1;
    }
    return p < end && *p == 'u' ? unicode(b, p + 1, end) : NULL;
}

/* What stands between the quotes. False where an escape makes no sense. */
static bool unescape(struct span inner, struct buf *b, struct span *ret)
{
    const char *p = inner.s, *end = p + inner.len;
    size_t begin = b->len;

    if (b->cap - b->len <= inner.len) /* it would move what others point to */
        return false;
    while (p && p < end) {
        const char *slash = memchr(p, '\\', (size_t)(end - p)), *upto = slash ? slash : end;

        buf_put(b, p, (size_t)(upto - p));
        p = slash ? escape(b, slash + 1, end) : end;
    }
    *ret = (struct span){b->data ? b->data + begin : "", b->len - begin};
    return p && !buf_failed(b);
}

static bool json_string(struct span value, struct buf *text, struct span *ret)
{
    struct span inner = {value.s + 1, value.len - 2};

    if (value.len < 2 || value.s[0] != '"' || value.s[value.len - 1] != '"')
        return false;
    if (inner.len && memchr(inner.s, '\\', inner.len))
        return unescape(inner, text, ret);
    *ret = inner;
    return true;
}

static bool is_number(struct span v)
{
    const char *p = v.s, *end = v.s + v.len;
    const char *begin;

    p += p < end && *p == '-';
    for (begin = p; p < end && *p >= '0' && *p <= '9'; p++)
        ;
    if (p == begin)
        return false;
    if (p < end && *p == '.')
        for (p++; p < end && *p >= '0' && *p <= '9'; p++)
            ;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        p += p < end && (*p == '-' || *p == '+');
        for (; p < end && *p >= '0' && *p <= '9'; p++)
            ;
    }
    return p == end;
}

static struct cell json_cell(struct span value, struct buf *text)
{
    struct cell cell = {.kind = CELL_ABSENT};

    if (!value.len)
        return cell;
    if (value.s[0] == '"')
        cell.kind = json_string(value, text, &cell.text) ? CELL_TEXT : CELL_ABSENT;
    else if (value.s[0] == '{' || value.s[0] == '[')
        cell.kind = CELL_TREE;
    else if (SPAN_IS(value, "null"))
        cell.kind = CELL_NULL;
    else if (SPAN_IS(value, "true") || SPAN_IS(value, "false"))
        cell = (struct cell){.kind = CELL_BOOL, .integer = value.s[0] == 't'};
    else if (is_number(value))
        cell = (struct cell){.kind = CELL_NUMBER, .text = value};
    return cell;
}

/* ---- MessagePack --------------------------------------------------------------------------------------------------------------- */

static uint64_t big_endian(const char *p, size_t n)
{
    uint64_t v = 0;

    for (size_t i = 0; i < n; i++)
        v = v << 8 | (unsigned char)p[i];
    return v;
}

struct head {
    char kind;     /* n b i u f s x(bytes, ext) a m */
    size_t size;   /* of the head, with what it counts for numbers */
    uint64_t n;    /* bytes that follow, or members */
};

/* The fixed forms; kind 0: it is none of them. */
static struct head fixed_head(unsigned char c)
{
    if (c < 0x80 || c >= 0xE0)
        return (struct head){'i', 1, 0};
    if (c < 0x90)
        return (struct head){'m', 1, c & 15u};
    if (c < 0xA0)
        return (struct head){'a', 1, c & 15u};
    if (c < 0xC0)
        return (struct head){'s', 1, c & 31u};
    return (struct head){0, 0, 0};
}

static bool read_head(const char *p, const char *end, struct head *ret)
{
    /* From 0xC0 on: the kind, the bytes of its count, and what is to be added to the count. */
    static const struct {
        char kind;
        unsigned char width, add;
    } forms[32] = {
        {'n', 0, 0}, {0, 0, 0},   {'b', 0, 0}, {'b', 0, 0}, {'x', 1, 0}, {'x', 2, 0}, {'x', 4, 0}, {'x', 1, 1},
        {'x', 2, 1}, {'x', 4, 1}, {'f', 4, 0}, {'f', 8, 0}, {'u', 1, 0}, {'u', 2, 0}, {'u', 4, 0}, {'u', 8, 0},
        {'i', 1, 0}, {'i', 2, 0}, {'i', 4, 0}, {'i', 8, 0}, {'x', 0, 2}, {'x', 0, 3}, {'x', 0, 5}, {'x', 0, 9},
        {'x', 0, 17}, {'s', 1, 0}, {'s', 2, 0}, {'s', 4, 0}, {'a', 2, 0}, {'a', 4, 0}, {'m', 2, 0}, {'m', 4, 0},
    };
    unsigned char c;

    if (p >= end)
        return false;
    c = (unsigned char)*p;
    *ret = fixed_head(c);
    if (!ret->kind) {
        unsigned char width = forms[c - 0xC0].width;

        if (!forms[c - 0xC0].kind || end - p <= width)
            return false;
        ret->kind = forms[c - 0xC0].kind;
        ret->size = 1u + width;
        if (strchr("xsam", ret->kind))
            ret->n = big_endian(p + 1, width) + forms[c - 0xC0].add;
    }
    return strchr("xs", ret->kind) == NULL || ret->n <= (uint64_t)(end - p) - ret->size;
}

/* Without recursion: the members of what is opened join those that are to be skipped. */
static const char *pack_end(const char *p, const char *end)
{
    for (uint64_t todo = 1; todo; todo--) {
        struct head h;

        if (!read_head(p, end, &h))
            return NULL;
        p += h.size;
        if (h.kind == 's' || h.kind == 'x')
            p += h.n;
        else if (h.kind == 'a' || h.kind == 'm')
            todo += h.kind == 'm' ? 2 * h.n : h.n;
    }
    return p;
}

static int64_t pack_int(const char *p, size_t size)
{
    uint64_t v = size == 1 ? (uint64_t)(int64_t)(signed char)*p : big_endian(p + 1, size - 1);
    unsigned bits = size == 1 ? 64 : 8 * (unsigned)(size - 1);

    if (bits < 64 && v >> (bits - 1))
        v |= ~UINT64_C(0) << bits;
    return (int64_t)v;
}

static double pack_float(const char *p, size_t size)
{
    uint64_t bits = big_endian(p + 1, size - 1);
    uint32_t half = (uint32_t)bits;
    float single;
    double v;

    if (size == 9) {
        memcpy(&v, &bits, sizeof v);
        return v;
    }
    memcpy(&single, &half, sizeof single);
    return single;
}

static struct cell pack_cell(struct span value)
{
    struct head h;

    if (!value.len || !read_head(value.s, value.s + value.len, &h))
        return (struct cell){.kind = CELL_ABSENT};
    switch (h.kind) {
    case 'n':
        return (struct cell){.kind = CELL_NULL};
    case 'b':
        return (struct cell){.kind = CELL_BOOL, .integer = (unsigned char)value.s[0] == 0xC3};
    case 'i':
        return (struct cell){.kind = CELL_INT, .integer = pack_int(value.s, h.size)};
    case 'u': /* nothing that PostgreSQL calls an integer is above 2^63 */
        return (struct cell){.kind = CELL_INT, .integer = (int64_t)big_endian(value.s + 1, h.size - 1)};
    case 'f':
        return (struct cell){.kind = CELL_FLOAT, .number = pack_float(value.s, h.size)};
    case 's':
        return (struct cell){.kind = CELL_TEXT, .text = {value.s + h.size, (size_t)h.n}};
    default:
        return (struct cell){.kind = CELL_TREE};
    }
}

/* ---- both ---------------------------------------------------------------------------------------------------------------------- */

static bool begin(struct scan *scan, uint32_t encoding, struct span value, char json, char pack)
{
    struct head h;

    *scan = (struct scan){.encoding = encoding, .first = true};
    if (!value.len)
        return false;
    scan->p = value.s;
    scan->end = value.s + value.len;
    if (encoding == MUSTER_MSGPACK) {
        if (!read_head(scan->p, scan->end, &h) || h.kind != pack)
            return false;
        scan->p += h.size;
        scan->left = (size_t)h.n;
        return true;
    }
    scan->p = blanks(scan->p, scan->end);
    if (scan->p >= scan->end || *scan->p != json)
        return false;
    scan->p++;
    return true;
}

bool scan_map(struct scan *scan, uint32_t encoding, struct span value)
{
    return begin(scan, encoding, value, '{', 'm');
}

bool scan_array(struct scan *scan, uint32_t encoding, struct span value)
{
    return begin(scan, encoding, value, '[', 'a');
}

static bool take(struct scan *scan, const char *upto, struct span *ret)
{
    if (!upto)
        return false;
    *ret = (struct span){scan->p, (size_t)(upto - scan->p)};
    scan->p = upto;
    return true;
}

/* To the first byte of the next member of JSON. */
static bool step(struct scan *scan, char close)
{
    scan->p = blanks(scan->p, scan->end);
    if (scan->p >= scan->end || *scan->p == close)
        return false;
    if (!scan->first) {
        if (*scan->p != ',')
            return false;
        scan->p = blanks(scan->p + 1, scan->end);
    }
    scan->first = false;
    return true;
}

static bool json_member(struct scan *scan, struct buf *text, struct span *ret_key, struct span *ret_value)
{
    struct span key;

    if (!step(scan, '}') || scan->p >= scan->end || *scan->p != '"' || !take(scan, string_end(scan->p + 1, scan->end), &key) ||
        !json_string(key, text, ret_key))
        return false;
    scan->p = blanks(scan->p, scan->end);
    if (scan->p >= scan->end || *scan->p != ':')
        return false;
    scan->p = blanks(scan->p + 1, scan->end);
    return take(scan, json_end(scan->p, scan->end), ret_value);
}

bool scan_member(struct scan *scan, struct buf *text, struct span *ret_key, struct span *ret_value)
{
    struct cell key;
    struct span raw;

    if (scan->encoding == MUSTER_JSON)
        return json_member(scan, text, ret_key, ret_value);
    if (!scan->left || !take(scan, pack_end(scan->p, scan->end), &raw) || !take(scan, pack_end(scan->p, scan->end), ret_value))
        return false;
    key = pack_cell(raw);
    *ret_key = key.text;
    scan->left--;
    return key.kind == CELL_TEXT;
}

bool scan_element(struct scan *scan, struct span *ret_value)
{
    if (scan->encoding == MUSTER_JSON)
        return step(scan, ']') && take(scan, json_end(scan->p, scan->end), ret_value);
    if (!scan->left)
        return false;
    scan->left--;
    return take(scan, pack_end(scan->p, scan->end), ret_value);
}

size_t scan_count(struct scan scan)
{
    struct span value;
    size_t n = 0;

    while (scan_element(&scan, &value))
        n++;
    return n;
}

struct cell scan_cell(uint32_t encoding, struct span value, struct buf *text)
{
    return encoding == MUSTER_MSGPACK ? pack_cell(value) : json_cell(value, text);
}
