/* Pieces of a body in either encoding; see emit.h. */
#include "fanout/emit.h"

#include <string.h>

#include "base/utf8.h"

void emit_text(struct buf *b, uint32_t encoding, const char *s)
{
    size_t len = strlen(s);
    struct buf mended = {0};

    if (!utf8_is_valid(s, len)) {
        utf8_put(&mended, s, len);
        s = mended.data ? mended.data : "";
        len = mended.len;
    }
    if (encoding == MUSTER_JSON) {
        buf_put_json(b, s, len);
    } else {
        len = len > 65535 ? 65535 : len;
        buf_put(b, (char[]){'\xda', (char)(len >> 8), (char)len}, 3);
        buf_put(b, s, len);
    }
    buf_done(&mended);
}

void emit_number(struct buf *b, uint32_t encoding, uint64_t v)
{
    if (encoding == MUSTER_JSON) {
        buf_put_u64(b, v);
        return;
    }
    buf_putc(b, '\xcf');
    for (int shift = 56; shift >= 0; shift -= 8)
        buf_putc(b, (char)(v >> shift));
}

void emit_key(struct buf *b, uint32_t encoding, const char *key, bool first)
{
    if (encoding == MUSTER_JSON && !first)
        buf_putc(b, ',');
    emit_text(b, encoding, key);
    if (encoding == MUSTER_JSON)
        buf_putc(b, ':');
}

void emit_map(struct buf *b, uint32_t encoding, size_t n)
{
    if (encoding == MUSTER_JSON)
        buf_putc(b, '{');
    else
        buf_put(b, (char[]){'\xde', (char)(n >> 8), (char)n}, 3);
}

void emit_map_end(struct buf *b, uint32_t encoding)
{
    if (encoding == MUSTER_JSON)
        buf_putc(b, '}');
}

void emit_bytes(struct buf *b, uint32_t encoding, struct span body)
{
    if (encoding == MUSTER_JSON) {
        buf_put_lit(b, "{\"base64\":\"");
        buf_put_base64(b, body.s, body.len);
        buf_put_lit(b, "\"}");
        return;
    }
    buf_put(b, (char[]){'\xc6', (char)(body.len >> 24), (char)(body.len >> 16), (char)(body.len >> 8), (char)body.len}, 5);
    buf_put(b, body.s, body.len);
}

void emit_list(struct buf *b, uint32_t encoding, size_t n)
{
    if (encoding == MUSTER_JSON)
        buf_putc(b, '[');
    else
        buf_put(b, (char[]){'\xdd', (char)(n >> 24), (char)(n >> 16), (char)(n >> 8), (char)n}, 5);
}

void emit_list_end(struct buf *b, uint32_t encoding)
{
    if (encoding == MUSTER_JSON)
        buf_putc(b, ']');
}
