/* Legal strings and quoting; see text.h. */
#include "wire/text.h"

#include <stdint.h>

#include "base/utf8.h"

/* True when none of the eight bytes at p is NUL or above 0x7f. */
static bool is_plain(const char *p)
{
    uint64_t w;

    memcpy(&w, p, sizeof w);
    return ((w | (w - UINT64_C(0x0101010101010101))) & UINT64_C(0x8080808080808080)) == 0;
}

bool text_is_legal(const char *s, size_t len, size_t *ret_bad)
{
    size_t at = 0, good;
    const char *nul;

    while (len - at >= 8 && is_plain(s + at)) /* most strings are ASCII */
        at += 8;
    while (at < len && s[at] > 0 && (unsigned char)s[at] < 0x80)
        at++;
    if (at == len)
        return true;
    nul = memchr(s + at, '\0', len - at);
    good = at + utf8_prefix(s + at, nul ? (size_t)(nul - s) - at : len - at);
    if (good == len)
        return true;
    *ret_bad = good;
    return false;
}

/* The largest cut of at most `most` bytes that is not inside a character. */
static size_t cut(const char *s, size_t len, size_t most)
{
    if (len <= most)
        return len;
    while (most && ((unsigned char)s[most] & 0xc0) == 0x80)
        most--;
    return most;
}

/* A byte for a byte: the result is never longer than s. */
size_t text_clean(const char *s, size_t len, char *out, size_t size)
{
    size_t n = cut(s, len, size - 1), at = 0;

    while (at < n) {
        size_t good = utf8_prefix(s + at, n - at);

        memcpy(out + at, s + at, good);
        at += good;
        if (at < n)
            out[at++] = '?';
    }
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)out[i] < 0x20 || out[i] == 0x7f)
            out[i] = '?';
    out[n] = '\0';
    return n;
}

const char *text_quote(const char *s, size_t len, char out[TEXT_QUOTE_SIZE])
{
    size_t n;

    out[0] = '"';
    n = 1 + text_clean(s, len, out + 1, TEXT_SHOWN + 1);
    memcpy(out + n, len > TEXT_SHOWN ? "...\"" : "\"", len > TEXT_SHOWN ? 5 : 2);
    return out;
}
