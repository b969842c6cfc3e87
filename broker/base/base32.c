/* base32 and CRC-16; see base32.h. */
#include "base/base32.h"

size_t base32_encode(const void *data, size_t len, char *out, size_t size, int letters)
{
    const char *alphabet =
        letters == BASE32_LOWER ? "abcdefghijklmnopqrstuvwxyz234567" : "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    const uint8_t *p = data;
    uint32_t acc = 0;
    int bits = 0;
    size_t n = 0;

    if (size <= base32_len(len))
        return 0;
    /* At most 4 bits of the bytes before wait in acc, so 12 bits are enough. */
    for (size_t i = 0; i < len; i++) {
        acc = (acc << 8 | p[i]) & 0xfff;
        for (bits += 8; bits >= 5; bits -= 5)
            out[n++] = alphabet[acc >> (bits - 5) & 31];
    }
    if (bits)
        out[n++] = alphabet[acc << (5 - bits) & 31];
    out[n] = '\0';
    return n;
}

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a';
    if (c >= '2' && c <= '7')
        return c - '2' + 26;
    return -1;
}

/* Either case, no padding. Bits that are left over at the end are not looked at. */
size_t base32_decode(const char *s, size_t len, uint8_t *out, size_t size)
{
    uint32_t acc = 0;
    int bits = 0;
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        int v = value_of(s[i]);

        if (v < 0)
            return 0;
        acc = (acc << 5 | (uint32_t)v) & 0xfff;
        bits += 5;
        if (bits < 8)
            continue;
        bits -= 8;
        if (n == size)
            return 0;
        out[n++] = (uint8_t)(acc >> bits);
    }
    return n;
}

/* Polynomial 0x1021, start 0. Bit by bit, because it is for a few dozen bytes. */
uint16_t crc16_xmodem(const void *data, size_t len)
{
    const uint8_t *p = data;
    uint32_t crc = 0;

    while (len--) {
        crc ^= (uint32_t)*p++ << 8;
        for (int i = 0; i < 8; i++)
            crc = crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1;
    }
    return (uint16_t)crc;
}
