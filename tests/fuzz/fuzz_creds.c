/* Any bytes as a creds file and as a JWT of NATS: what is taken was signed by the key that it names. */
#include <stdlib.h>
#include <string.h>

#include "auth/jwt.h"
#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_jwt(const char *text, size_t len)
{
    struct jwt_claims c;
    uint8_t raw[NKEY_RAW_LEN];
    int kind;

    if (jwt_decode(text, len, &c))
        return;
    ASSERT(nkey_public_decode(c.issuer, strlen(c.issuer), &kind, raw) == 0);
    ASSERT(c.subject[0] && strlen(c.name) < sizeof c.name && strlen(c.tenant) < sizeof c.tenant);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = calloc(1, size + 1);
    const char *jwt;
    struct nkey key;
    size_t len;

    ASSERT(text);
    if (size)
        memcpy(text, data, size);
    check_jwt(text, size);
    if (jwt_read_creds(text, &jwt, &len, &key) == 0) {
        ASSERT(jwt >= text && jwt + len <= text + size);
        check_jwt(jwt, len);
        nkey_wipe(&key);
    }
    free(text);
    return 0;
}
