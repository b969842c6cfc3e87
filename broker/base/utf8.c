/*
 * UTF-8 checks; see utf8.h. Owns nothing, any thread.
 *
 * The table of well-formed byte sequences (Unicode, table 3-7) as code: only the second byte of a
 * character has bounds of its own, and those alone keep out overlong forms, surrogates and what is
 * past the last character.
 */
#include "base/utf8.h"

/* Bytes of the character that begins at s, 0 when it is broken or cut off at the end. */
static size_t char_len(const unsigned char *s, size_t len)
{
    unsigned char lo = 0x80, hi = 0xbf; /* of the second byte; the later ones have the full range */
    size_t n;

    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (s[0] == 0xe0)
        lo = 0xa0; /* below: overlong */
    else if (s[0] == 0xed)
        hi = 0x9f; /* above: surrogates */
    else if (s[0] == 0xf0)
        lo = 0x90; /* below: overlong */
    else if (s[0] == 0xf4)
        hi = 0x8f; /* above: past U+10FFFF */
    if (len < n || s[1] < lo || s[1] > hi)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

size_t utf8_prefix(const char *s, size_t len)
{
    size_t at = 0;

    while (at < len) {
        size_t n = char_len((const unsigned char *)s + at, len - at);

        if (!n)
            break;
        at += n;
    }
    return at;
}

void utf8_put(struct buf *b, const char *s, size_t len)
{
    while (len) {
        size_t n = utf8_prefix(s, len);

        buf_put(b, s, n);
        s += n;
        len -= n;
        if (!len)
            return;
        buf_put_lit(b, "\xef\xbf\xbd");
        s++;
        len--;
    }
}
