/* Signatures; see sign.h. */
#include "sign.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char prefix[] = "whsec_";
enum { PREFIX_LEN = sizeof prefix - 1, TEXT_MAX = 88 }; /* base64 of 64 bytes */

const char *sign_read_key(const char *text, size_t len, struct sign_key *ret)
{
    uint8_t bytes[TEXT_MAX / 4 * 3 + 3];
    int n;

    while (len > 0 && strchr(" \t\r\n", text[len - 1]))
        len--;
    while (len > 0 && strchr(" \t\r\n", *text))
        text++, len--;
    if (len < PREFIX_LEN || memcmp(text, prefix, PREFIX_LEN) != 0)
        return "whsec_ and base64 were expected";
    text += PREFIX_LEN;
    len -= PREFIX_LEN;
    n = len && len <= TEXT_MAX && len % 4 == 0 ? EVP_DecodeBlock(bytes, (const unsigned char *)text, (int)len) : -1;
    if (n < 0)
        return "base64 of 24 to 64 bytes was expected behind whsec_";
    n -= (text[len - 1] == '=') + (text[len - 2] == '='); /* OpenSSL counts what is padding */
    if (n < SIGN_KEY_MIN || n > SIGN_KEY_MAX)
        return "a key of 24 to 64 bytes was expected";
    memcpy(ret->bytes, bytes, (size_t)n);
    ret->len = (size_t)n;
    explicit_bzero(bytes, sizeof bytes);
    return NULL;
}

static size_t sign_one(const struct sign_key *key, const char *content, size_t len, char *out)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int n;

    if (!HMAC(EVP_sha256(), key->bytes, (int)key->len, (const unsigned char *)content, len, digest, &n))
        return 0;
    memcpy(out, "v1,", 3);
    return 3 + (size_t)EVP_EncodeBlock((unsigned char *)out + 3, digest, (int)n);
}

bool sign_make(const struct sign_key keys[2], const char *id, int64_t timestamp_s, const char *body, size_t len, char out[SIGN_TEXT_SIZE])
{
    char *content = malloc(len + SIGN_ID_SIZE + 32);
    size_t at, n = 0;

    if (!content)
        return false;
    at = (size_t)snprintf(content, SIGN_ID_SIZE + 32, "%s.%" PRId64 ".", id, timestamp_s);
    memcpy(content + at, body, len);
    for (int i = 0; i < 2 && keys[i].len; i++) {
        size_t one;

        if (i)
            out[n++] = ' ';
        one = sign_one(&keys[i], content, at + len, out + n);
        n = one ? n + one : 0;
        if (!one)
            break;
    }
    out[n] = '\0';
    free(content);
    return n > 0;
}

bool sign_new_id(char out[SIGN_ID_SIZE])
{
    uint64_t bits[2];

    if (getrandom(bits, sizeof bits, 0) != (ssize_t)sizeof bits)
        return false;
    (void)snprintf(out, SIGN_ID_SIZE, "msg_%016" PRIx64 "%016" PRIx64, bits[0], bits[1]);
    return true;
}
