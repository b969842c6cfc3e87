/*
 * Any bytes as a set of keys, and as a secret: what is taken has keys that a signature can be held against; what is not has a sentence.
 */
#include <string.h>

#include "auth/jose.h"
#include "auth/fetch.h"
#include "base/assert.h"

/* One token for each algorithm, with a signature of the right size that is none. */
static const char *const tokens[] = {
    "eyJhbGciOiJSUzI1NiJ9.e30.AAAA",
    "eyJhbGciOiJFUzI1NiJ9.e30.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "eyJhbGciOiJFZERTQSJ9.e30.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "eyJhbGciOiJIUzI1NiJ9.e30.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(struct jwks *set)
{
    ASSERT(set->n > 0 && set->n <= JWKS_KEYS_MAX);
    for (size_t i = 0; i < set->n; i++)
        ASSERT((set->keys[i].alg == JOSE_HS256) == (set->keys[i].key == NULL));
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        struct jose j;
        const char *why = "";

        ASSERT(jose_read(tokens[i], strlen(tokens[i]), &j, &why) == 0);
        /* A key of order one signs everything; OpenSSL takes it, and an issuer that publishes it has given itself up. */
        if (j.alg != JOSE_EDDSA)
            ASSERT(jose_verify(&j, set, &why) != 0 && why[0]);
        jose_done(&j);
    }
    jwks_free(set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    char why[JWKS_WHY_SIZE] = "", header[256];
    struct jwks *set = NULL;

    if (jwks_parse(text, size, &set, why) == 0)
        use(set);
    else
        ASSERT(why[0]);
    if (jwks_secret(text, size, &set, why) == 0)
        use(set);
    size_t n = size < sizeof header ? size : sizeof header - 1;
    memcpy(header, data, n);
    header[n] = '\0';
    ASSERT(fetch_max_age(header) >= -1);
    (void)fetch_url_fault(header);
    return 0;
}
