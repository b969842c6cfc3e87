/*
 * base/base32.h - RFC 4648 base32 without padding, and the CRC-16 (XMODEM) that nkeys carry.
 */
#ifndef MUSTER_BASE_BASE32_H
#define MUSTER_BASE_BASE32_H

#include <stddef.h>
#include <stdint.h>

enum { BASE32_UPPER, BASE32_LOWER };

/* Characters that len bytes become, without the NUL. */
static inline size_t base32_len(size_t len)
{
    return (len * 8 + 4) / 5;
}

/* Encode into out (NUL-terminated). Returns the length, 0 when size is too small. */
size_t base32_encode(const void *data, size_t len, char *out, size_t size, int letters);
/* Decode either case. Returns the number of bytes, or 0 when s is not base32 or out is too small. */
size_t base32_decode(const char *s, size_t len, uint8_t *out, size_t size);
/* CRC-16/XMODEM: polynomial 0x1021, start 0. */
uint16_t crc16_xmodem(const void *data, size_t len);

#endif
