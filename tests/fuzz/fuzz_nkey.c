/* Any bytes as a public key and as a seed: a key has one text only, and a seed gives the key that it is written from. */
#include <string.h>

#include "auth/nkey.h"
#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_seed(const char *text, size_t len)
{
    struct nkey key, again;
    char seed[NKEY_SEED_SIZE];
    uint8_t raw[NKEY_RAW_LEN], sig[NKEY_SIG_LEN];
    int kind;

    if (nkey_from_seed(text, len, &key))
        return;
    nkey_seed_text(&key, seed);
    ASSERT(strlen(seed) == len && memcmp(seed, text, len) == 0);
    ASSERT(nkey_from_seed(seed, strlen(seed), &again) == 0 && strcmp(again.text, key.text) == 0);
    ASSERT(nkey_public_decode(key.text, strlen(key.text), &kind, raw) == 0 && kind == key.kind);
    ASSERT(nkey_sign(&key, "text", 4, sig) == 0 && nkey_verify(key.text, "text", 4, sig) && !nkey_verify(key.text, "Text", 4, sig));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    uint8_t raw[NKEY_RAW_LEN];
    int kind;

    check_seed(text, size);
    if (nkey_public_decode(text, size, &kind, raw) == 0)
        ASSERT(kind % 8 == 0 && size == NKEY_TEXT_SIZE - 1);
    return 0;
}
