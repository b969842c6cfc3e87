/*
 * base/buf.h - a growable byte buffer.
 *
 * Shape    Zero-initialised is empty and valid: `struct buf b = {0};`. data is NUL-terminated after any
 *          put, the NUL is not counted in len, so text can be passed to C functions as it is.
 * Errors   A failed allocation marks the buffer (`failed`) and drops what would not fit; callers build
 *          the whole text and check buf_failed() once at the end.
 * Memory   Owned by the caller; buf_done() releases it. buf_clear() keeps the memory for the next use.
 * Threads  None: one owner at a time.
 */
#ifndef MUSTER_BASE_BUF_H
#define MUSTER_BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct buf {
    char *data;
    size_t len, cap;
    bool failed;
};

/* Make room for extra more bytes. False (and failed is set) when there is no memory. */
bool buf_reserve(struct buf *b, size_t extra);
void buf_done(struct buf *b);
void buf_put_slow(struct buf *b, const void *data, size_t len);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_vprintf(struct buf *b, const char *fmt, va_list ap);
#define BUF_U64_SIZE 21
/* Write v in decimal, with a NUL, at the end of out; returns its first digit. */
char *buf_u64(uint64_t v, char out[BUF_U64_SIZE]);
/* Append the decimal digits of v. */
void buf_put_u64(struct buf *b, uint64_t v);
void buf_put_i64(struct buf *b, int64_t v);
/* Append s as a JSON string with its quotes; bytes that are not UTF-8 must not be passed. */
void buf_put_json(struct buf *b, const char *s, size_t len);
/* Append base64 (RFC 4648, padded), or base64url without padding. */
void buf_put_base64(struct buf *b, const void *data, size_t len);
void buf_put_base64url(struct buf *b, const void *data, size_t len);
/* Append the bytes of unpadded base64url text; false when it is none, or there is no memory. */
bool buf_put_decoded(struct buf *b, const char *text, size_t len);
/* Give the memory to the caller, who free()s it; the buffer is empty again. NULL when failed. */
char *buf_take(struct buf *b);

static inline void buf_clear(struct buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = '\0';
}

static inline bool buf_failed(const struct buf *b)
{
    return b->failed;
}

static inline void buf_put(struct buf *b, const void *data, size_t len)
{
    if (__builtin_expect(b->cap - b->len <= len, 0)) {
        buf_put_slow(b, data, len);
        return;
    }
    if (len) /* data may be NULL then, which memcpy() does not take */
        memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
}

static inline void buf_puts(struct buf *b, const char *s)
{
    buf_put(b, s, strlen(s));
}

static inline void buf_putc(struct buf *b, char c)
{
    buf_put(b, &c, 1);
}

/* For string literals: the length is known when compiled. */
#define buf_put_lit(b, lit) buf_put((b), "" lit, sizeof(lit) - 1)

#endif
