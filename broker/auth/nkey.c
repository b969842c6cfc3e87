/*
 * Ed25519 nkeys; see nkey.h.
 *
 * OpenSSL does the curve, RFC 8032 the rest: a signature depends on key and data alone, so equal
 * claims give equal JWTs. Every buffer that held a seed is wiped before its function returns.
 */
#include "auth/nkey.h"

#include <muster/plugin.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

#include "base/assert.h"
#include "base/base32.h"

enum {
    PREFIX_SEED = 18 << 3, /* shows as 'S' */
    PUBLIC_BYTES = 1 + NKEY_RAW_LEN + 2,
    SEED_BYTES = 2 + NKEY_RAW_LEN + 2,
};

static bool kind_is_known(int kind)
{
    return kind == NKEY_OPERATOR || kind == NKEY_ACCOUNT || kind == NKEY_USER ||
           kind == NKEY_SERVER;
}

/* The CRC goes last, low byte first. */
static void put_crc(uint8_t *bytes, size_t len)
{
    uint16_t crc = crc16_xmodem(bytes, len);

    bytes[len] = (uint8_t)(crc & 0xff);
    bytes[len + 1] = (uint8_t)(crc >> 8);
}

/* True when text is the one canonical base32 form of exactly n bytes that end in their CRC.
 * Canonical, because base32 of 36 bytes has two spare bits: four texts would be one seed. */
static bool decode_checked(const char *text, size_t len, uint8_t *out, size_t n)
{
    char again[NKEY_SEED_SIZE];
    uint16_t crc;

    if (len != base32_len(n) || base32_decode(text, len, out, n) != n)
        return false;
    crc = crc16_xmodem(out, n - 2);
    if (out[n - 2] != (crc & 0xff) || out[n - 1] != crc >> 8)
        return false;
    base32_encode(out, n, again, sizeof again, BASE32_UPPER);

    bool same = CRYPTO_memcmp(again, text, len) == 0;
    OPENSSL_cleanse(again, sizeof again);
    return same;
}

static int derive_public(struct nkey *key)
{
    uint8_t bytes[PUBLIC_BYTES] = {(uint8_t)key->kind};
    size_t len = NKEY_RAW_LEN;
    EVP_PKEY *pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, key->seed, NKEY_RAW_LEN);
    bool ok =
        pkey && EVP_PKEY_get_raw_public_key(pkey, bytes + 1, &len) == 1 && len == NKEY_RAW_LEN;

    EVP_PKEY_free(pkey);
    if (!ok)
        return MUSTER_ENOMEM;
    put_crc(bytes, PUBLIC_BYTES - 2);
    base32_encode(bytes, sizeof bytes, key->text, sizeof key->text, BASE32_UPPER);
    return 0;
}

/* Hand key over when its public form could be made; wipe our copy either way. */
static int finish(struct nkey *key, struct nkey *ret_key)
{
    int err = derive_public(key);

    if (!err)
        *ret_key = *key;
    nkey_wipe(key);
    return err;
}

int nkey_generate(int kind, struct nkey *ret_key)
{
    struct nkey key = {.kind = kind};

    ASSERT(kind_is_known(kind));
    if (RAND_priv_bytes(key.seed, NKEY_RAW_LEN) != 1)
        return MUSTER_ENOMEM;
    return finish(&key, ret_key);
}

int nkey_from_seed(const char *text, size_t len, struct nkey *ret_key)
{
    uint8_t bytes[SEED_BYTES];
    struct nkey key = {0};
    int err = MUSTER_EINVAL;

    if (decode_checked(text, len, bytes, sizeof bytes) && (bytes[0] & 0xf8) == PREFIX_SEED) {
        key.kind = (bytes[0] & 7) << 5 | bytes[1] >> 3;
        memcpy(key.seed, bytes + 2, NKEY_RAW_LEN);
        err = kind_is_known(key.kind) ? finish(&key, ret_key) : MUSTER_EINVAL;
    }
    OPENSSL_cleanse(bytes, sizeof bytes);
    nkey_wipe(&key);
    return err;
}

void nkey_seed_text(const struct nkey *key, char out[NKEY_SEED_SIZE])
{
    uint8_t bytes[SEED_BYTES] = {(uint8_t)(PREFIX_SEED | key->kind >> 5),
                                 (uint8_t)((key->kind & 31) << 3)};

    memcpy(bytes + 2, key->seed, NKEY_RAW_LEN);
    put_crc(bytes, SEED_BYTES - 2);
    base32_encode(bytes, sizeof bytes, out, NKEY_SEED_SIZE, BASE32_UPPER);
    OPENSSL_cleanse(bytes, sizeof bytes);
}

int nkey_sign(const struct nkey *key, const void *data, size_t len, uint8_t ret_sig[NKEY_SIG_LEN])
{
    size_t sig_len = NKEY_SIG_LEN;
    EVP_PKEY *pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, key->seed, NKEY_RAW_LEN);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = pkey && ctx && EVP_DigestSignInit(ctx, NULL, NULL, NULL, pkey) == 1 &&
              EVP_DigestSign(ctx, ret_sig, &sig_len, data, len) == 1;

    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(pkey);
    return ok ? 0 : MUSTER_ENOMEM;
}

void nkey_wipe(struct nkey *key)
{
    OPENSSL_cleanse(key->seed, sizeof key->seed);
}

/* Which kinds may stand where is for the caller: a signing key of an account is an account key too.
 */
int nkey_public_decode(const char *text, size_t len, int *ret_kind, uint8_t ret_raw[NKEY_RAW_LEN])
{
    uint8_t bytes[PUBLIC_BYTES];

    if (!decode_checked(text, len, bytes, sizeof bytes) || !kind_is_known(bytes[0]))
        return MUSTER_EINVAL;
    *ret_kind = bytes[0];
    memcpy(ret_raw, bytes + 1, NKEY_RAW_LEN);
    return 0;
}

bool nkey_verify(const char *public_text, const void *data, size_t len,
                 const uint8_t sig[NKEY_SIG_LEN])
{
    uint8_t raw[NKEY_RAW_LEN];
    int kind;

    if (nkey_public_decode(public_text, strlen(public_text), &kind, raw))
        return false;

    EVP_PKEY *pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, raw, NKEY_RAW_LEN);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = pkey && ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, pkey) == 1 &&
              EVP_DigestVerify(ctx, sig, NKEY_SIG_LEN, data, len) == 1;

    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(pkey);
    return ok;
}
