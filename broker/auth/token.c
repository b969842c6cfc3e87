/* Muster's own tokens; see token.h. */
#include "auth/token.h"

#include <muster/plugin.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/base32.h"

enum { ID_BYTES = 10, SECRET_BYTES = 32, SALT_HEX = 32, HASH_BYTES = 32, TEXT_LEN = TOKEN_TEXT_SIZE - 1 };

static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";

static bool random_text(size_t n, char *out, size_t size)
{
    uint8_t bytes[SECRET_BYTES];
    bool ok = RAND_priv_bytes(bytes, (int)n) == 1 && base32_encode(bytes, n, out, size, BASE32_LOWER) > 0;

    OPENSSL_cleanse(bytes, sizeof bytes);
    return ok;
}

int token_generate(struct token *ret_token)
{
    struct token t;
    bool ok = random_text(ID_BYTES, t.id, sizeof t.id) && random_text(SECRET_BYTES, t.secret, sizeof t.secret);

    if (ok)
        *ret_token = t;
    token_wipe(&t);
    return ok ? 0 : MUSTER_ENOMEM;
}

bool token_is_ours(const char *text, size_t len)
{
    return len >= sizeof TOKEN_PREFIX - 1 && memcmp(text, TOKEN_PREFIX, sizeof TOKEN_PREFIX - 1) == 0;
}

static bool is_base32(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!text[i] || !strchr(alphabet, text[i]))
            return false;
    return true;
}

int token_read(const char *text, size_t len, struct token *ret_token)
{
    const char *id = text + sizeof TOKEN_PREFIX - 1, *secret = id + TOKEN_ID_LEN + 1;

    if (len != TEXT_LEN || !token_is_ours(text, len) || !is_base32(id, TOKEN_ID_LEN) || id[TOKEN_ID_LEN] != '_' ||
        !is_base32(secret, TOKEN_SECRET_LEN))
        return MUSTER_EINVAL;
    *ret_token = (struct token){0};
    memcpy(ret_token->id, id, TOKEN_ID_LEN);
    memcpy(ret_token->secret, secret, TOKEN_SECRET_LEN);
    return 0;
}

void token_text(const struct token *token, char out[TOKEN_TEXT_SIZE])
{
    (void)snprintf(out, TOKEN_TEXT_SIZE, TOKEN_PREFIX "%s_%s", token->id, token->secret); /* it fits by its sizes */
}

/* salt: its hexadecimal text, which is what is hashed. */
static bool digest(const char *salt, const char *secret, uint8_t out[HASH_BYTES])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 && EVP_DigestUpdate(ctx, salt, SALT_HEX) == 1 &&
              EVP_DigestUpdate(ctx, secret, TOKEN_SECRET_LEN) == 1 && EVP_DigestFinal_ex(ctx, out, NULL) == 1;

    EVP_MD_CTX_free(ctx);
    return ok;
}

static void put_hex(char *out, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static int write_hash(const char *salt, const char *secret, char out[TOKEN_HASH_SIZE])
{
    uint8_t hash[HASH_BYTES];
    char hex[2 * HASH_BYTES + 1];

    if (!digest(salt, secret, hash))
        return MUSTER_ENOMEM;
    put_hex(hex, hash, HASH_BYTES);
    (void)snprintf(out, TOKEN_HASH_SIZE, "sha256:%.*s:%s", SALT_HEX, salt, hex);
    return 0;
}

int token_hash(const struct token *token, char out[TOKEN_HASH_SIZE])
{
    uint8_t bytes[SALT_HEX / 2];
    char salt[SALT_HEX + 1];

    if (RAND_bytes(bytes, sizeof bytes) != 1)
        return MUSTER_ENOMEM;
    put_hex(salt, bytes, sizeof bytes);
    return write_hash(salt, token->secret, out);
}

int token_check(const struct token *token, const char *stored)
{
    char mine[TOKEN_HASH_SIZE];

    if (strlen(stored) != TOKEN_HASH_SIZE - 1)
        return MUSTER_EINVAL;
    int err = write_hash(stored + sizeof "sha256:" - 1, token->secret, mine);
    if (err)
        return err;
    return CRYPTO_memcmp(mine, stored, TOKEN_HASH_SIZE) == 0 ? 0 : MUSTER_EINVAL;
}

void token_wipe(struct token *token)
{
    OPENSSL_cleanse(token, sizeof *token);
}
