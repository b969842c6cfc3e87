/* Names and key tokens; see name.h. */
#include "base/name.h"

#include <openssl/sha.h>
#include <stdint.h>
#include <string.h>

#include "base/base32.h"

static bool legal_char(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

bool name_is_legal(const char *s, size_t len)
{
    if (len == 0 || len > NAME_MAX_LEN)
        return false;
    for (size_t i = 0; i < len; i++)
        if (!legal_char((unsigned char)s[i]))
            return false;
    return true;
}

bool name_is_public(const char *s, size_t len)
{
    return name_is_legal(s, len) && s[0] != '_';
}

bool name_is_key_prefix(const char *s)
{
    size_t len = s ? strlen(s) : NAME_KEY_MAX + 1;

    return len <= NAME_KEY_MAX && s[0] != '.' && !strstr(s, "..") &&
           strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./=~-") == len;
}

bool name_is_key(const char *s)
{
    return name_is_key_prefix(s) && *s && s[strlen(s) - 1] != '.';
}

/* 80 bits are enough for two ids never to meet, and readers that want to be sure find the full id in the body. "~" is
 * in no name, so a hash never passes for an id. */
size_t name_token(const void *id, size_t len, char out[NAME_TOKEN_SIZE])
{
    if (!name_is_legal(id, len))
        return name_hash_token(id, len, out);
    memcpy(out, id, len);
    out[len] = '\0';
    return len;
}

size_t name_hash_token(const void *id, size_t len, char out[NAME_TOKEN_SIZE])
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    size_t n;

    SHA256(id, len, digest);
    out[0] = '~';
    n = base32_encode(digest, 10, out + 1, NAME_TOKEN_SIZE - 1, BASE32_LOWER);
    return n + 1;
}
