/* A growable byte buffer; see buf.h. */
#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

/* One byte more than asked for: the NUL behind a text is not counted in len. What stood in a buffer that fails stays,
 * so that callers look once, at the end. */
bool buf_reserve(struct buf *b, size_t extra)
{
    size_t need, cap;
    char *data;

    if (b->cap - b->len > extra)
        return true;
    if (__builtin_add_overflow(b->len, extra, &need) || __builtin_add_overflow(need, 1u, &need)) {
        b->failed = true;
        return false;
    }
    cap = b->cap ? b->cap : 64;
    while (cap < need && cap <= SIZE_MAX / 2)
        cap *= 2;
    data = cap >= need ? realloc(b->data, cap) : NULL;
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

void buf_done(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}

void buf_put_slow(struct buf *b, const void *data, size_t len)
{
    if (!buf_reserve(b, len))
        return;
    if (len)
        memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
}

/* Formatted twice, the first time to measure; that uses ap up, hence the copy. */
void buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
    va_list again;
    int n;

    va_copy(again, ap);
    n = vsnprintf(NULL, 0, fmt, ap);
    if (n < 0)
        b->failed = true;
    else if (buf_reserve(b, (size_t)n)) {
        (void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again); /* the room was reserved */
        b->len += (size_t)n;
    }
    va_end(again);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    buf_vprintf(b, fmt, ap);
    va_end(ap);
}

/* From the last digit to the first; 20 hold UINT64_MAX. Without printf, because ids and sequences are on the hot
 * path. */
char *buf_u64(uint64_t v, char out[BUF_U64_SIZE])
{
    char *at = out + BUF_U64_SIZE - 1;

    *at = '\0';
    do {
        *--at = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    return at;
}

void buf_put_u64(struct buf *b, uint64_t v)
{
    char digits[BUF_U64_SIZE];
    const char *first = buf_u64(v, digits);

    buf_put(b, first, (size_t)(digits + BUF_U64_SIZE - 1 - first));
}

/* 0 - (uint64_t)v is defined for INT64_MIN, -v is not. */
void buf_put_i64(struct buf *b, int64_t v)
{
    if (v < 0)
        buf_putc(b, '-');
    buf_put_u64(b, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

/* Only what JSON requires: the quote, the backslash and control characters, those with a letter of their own by it.
 * Only what JSON requires: the quote, the backslash and control characters, those with a letter of their own by it. */
static void put_escape(struct buf *b, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    static const char named[32] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};

    if (c == '"' || c == '\\') {
        buf_put(b, (char[]){'\\', (char)c}, 2);
        return;
    }
    if (named[c]) {
        buf_put(b, (char[]){'\\', named[c]}, 2);
        return;
    }
    buf_put(b, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
}

/* Runs of plain characters are copied in one piece. Whether s is UTF-8 is not looked at. */
void buf_put_json(struct buf *b, const char *s, size_t len)
{
    size_t from = 0;

    buf_putc(b, '"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        buf_put(b, s + from, i - from);
        put_escape(b, c);
        from = i + 1;
    }
    if (len > from)
        buf_put(b, s + from, len - from);
    buf_putc(b, '"');
}

/* Three bytes are four letters; one or two that are left over are two or three letters, with or without padding. */
static void put_base64(struct buf *b, const uint8_t *p, size_t len, const char *alphabet, bool pad)
{
    for (; len >= 3; len -= 3, p += 3) {
        uint32_t v = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];

        buf_put(b, (char[]){alphabet[v >> 18], alphabet[v >> 12 & 63], alphabet[v >> 6 & 63], alphabet[v & 63]}, 4);
    }
    if (len) {
        uint32_t v = (uint32_t)p[0] << 16 | (len == 2 ? (uint32_t)p[1] << 8 : 0);
        char out[4] = {alphabet[v >> 18], alphabet[v >> 12 & 63], len == 2 ? alphabet[v >> 6 & 63] : '=', '='};

        buf_put(b, out, pad ? 4 : len + 1);
    }
}

void buf_put_base64(struct buf *b, const void *data, size_t len)
{
    put_base64(b, data, len, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", true);
}

void buf_put_base64url(struct buf *b, const void *data, size_t len)
{
    put_base64(b, data, len, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", false);
}

static int url64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

bool buf_put_decoded(struct buf *b, const char *text, size_t len)
{
    uint32_t acc = 0;
    int bits = 0;

    if (len % 4 == 1)
        return false;
    for (size_t i = 0; i < len; i++) {
        int v = url64_value(text[i]);

        if (v < 0)
            return false;
        acc = (acc << 6 | (uint32_t)v) & 0x3fff;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            buf_putc(b, (char)(acc >> bits & 0xff));
        }
    }
    return !buf_failed(b);
}

/* NULL when the buffer failed: half a text must not pass for a whole one. */
char *buf_take(struct buf *b)
{
    char *data = b->failed ? NULL : b->data;

    if (b->failed)
        free(b->data);
    *b = (struct buf){0};
    return data;
}
