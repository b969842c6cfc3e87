/*
 * JWK sets; see jwks.h.
 *
 * A set comes from a server or a file of somebody else: it is read by the strict reader of wire/ (no member twice, UTF-8, bounded). A
 * key that is of no use here, or is wrong, is left out: the others of the set are needed all the same. A set that has no other is
 * refused, so that the keys before it hold on.
 */
#include "auth/jwks.h"

#include <muster/plugin.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/bn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "wire/value.h"

enum { RSA_BITS_MIN = 2048, RSA_BITS_MAX = 4096, P256_LEN = 32, ED25519_LEN = 32, EXPONENT_MAX_LEN = 8 };

static const char *const alg_names[JOSE_ALGS_N] = {"RS256", "ES256", "EdDSA", "HS256"};

const char *jose_alg_name(int alg)
{
    return alg_names[alg];
}

int jose_alg_find(const char *name, size_t len)
{
    for (int alg = 0; alg < JOSE_ALGS_N; alg++)
        if (strlen(alg_names[alg]) == len && memcmp(alg_names[alg], name, len) == 0)
            return alg;
    return -1;
}

/* ---- members ---- */

/* The text of a string member; "" where it is missing, NULL where it is no string. */
static const char *member(const struct muster_value *jwk, const char *name)
{
    const struct muster_value *v = value_get(jwk, name);

    if (!v)
        return "";
    return value_type(v) == MUSTER_STR ? value_str(v, NULL) : NULL;
}

static bool member_is(const struct muster_value *jwk, const char *name, const char *wanted)
{
    const char *text = member(jwk, name);

    return text && strcmp(text, wanted) == 0;
}

/* Decode a base64url member; empty when it is missing or none. */
static void member_bytes(const struct muster_value *jwk, const char *name, struct buf *out)
{
    const char *text = member(jwk, name);

    if (!text || !buf_put_decoded(out, text, strlen(text)))
        buf_clear(out);
}

/* ---- keys of OpenSSL ---- */

static EVP_PKEY *from_params(const char *type, OSSL_PARAM_BLD *bld)
{
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(bld);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    EVP_PKEY *key = NULL;

    if (!params || !ctx || EVP_PKEY_fromdata_init(ctx) != 1 || EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
        key = NULL;
    EVP_PKEY_CTX_free(ctx);
    OSSL_PARAM_free(params);
    return key;
}

static EVP_PKEY *make_rsa(const struct buf *n, const struct buf *e)
{
    OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
    BIGNUM *modulus = BN_bin2bn((const unsigned char *)n->data, (int)n->len, NULL);
    BIGNUM *exponent = BN_bin2bn((const unsigned char *)e->data, (int)e->len, NULL);
    EVP_PKEY *key = NULL;

    if (bld && modulus && exponent && OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_N, modulus) == 1 &&
        OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_E, exponent) == 1)
        key = from_params("RSA", bld);
    BN_free(modulus);
    BN_free(exponent);
    OSSL_PARAM_BLD_free(bld);
    return key;
}

static const char *read_rsa(const struct muster_value *jwk, struct jwk *out)
{
    struct buf n = {0}, e = {0};
    const char *fault = NULL;

    member_bytes(jwk, "n", &n);
    member_bytes(jwk, "e", &e);
    if (!n.len || n.len > RSA_BITS_MAX / 8 + 1 || !e.len || e.len > EXPONENT_MAX_LEN)
        fault = "n and e must be the base64url of an RSA key of 2,048 to 4,096 bits";
    else if (!(e.data[e.len - 1] & 1) || (e.len == 1 && e.data[0] == 1) || !(n.data[n.len - 1] & 1))
        fault = "n and e are no RSA key: both must be odd, and e above 1";
    else if (!(out->key = make_rsa(&n, &e)))
        fault = "n and e are no RSA key";
    else if (EVP_PKEY_get_bits(out->key) < RSA_BITS_MIN || EVP_PKEY_get_bits(out->key) > RSA_BITS_MAX)
        fault = "an RSA key has 2,048 to 4,096 bits";
    buf_done(&n);
    buf_done(&e);
    return fault;
}

/* point: 4, x, y. */
static EVP_PKEY *make_p256(const uint8_t point[1 + 2 * P256_LEN])
{
    OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
    EVP_PKEY *key = NULL;

    if (bld && OSSL_PARAM_BLD_push_utf8_string(bld, OSSL_PKEY_PARAM_GROUP_NAME, "P-256", 0) == 1 &&
        OSSL_PARAM_BLD_push_octet_string(bld, OSSL_PKEY_PARAM_PUB_KEY, point, 1 + 2 * P256_LEN) == 1)
        key = from_params("EC", bld);
    OSSL_PARAM_BLD_free(bld);
    return key;
}

/* A point that is not on the curve would let who chose it choose signatures too. */
static bool is_sound(EVP_PKEY *key)
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    bool sound = ctx && EVP_PKEY_public_check(ctx) == 1;

    EVP_PKEY_CTX_free(ctx);
    return sound;
}

static const char *read_p256(const struct muster_value *jwk, struct jwk *out)
{
    struct buf x = {0}, y = {0};
    uint8_t point[1 + 2 * P256_LEN] = {4};
    const char *fault = NULL;

    member_bytes(jwk, "x", &x);
    member_bytes(jwk, "y", &y);
    if (x.len != P256_LEN || y.len != P256_LEN) {
        fault = "x and y must be the base64url of 32 bytes each";
    } else {
        memcpy(point + 1, x.data, P256_LEN);
        memcpy(point + 1 + P256_LEN, y.data, P256_LEN);
        out->key = make_p256(point);
        if (!out->key || !is_sound(out->key))
            fault = "x and y are no point of the curve";
    }
    buf_done(&x);
    buf_done(&y);
    return fault;
}

static const char *read_ed25519(const struct muster_value *jwk, struct jwk *out)
{
    struct buf x = {0};
    const char *fault = NULL;

    member_bytes(jwk, "x", &x);
    if (x.len == ED25519_LEN)
        out->key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, (const unsigned char *)x.data, x.len);
    if (!out->key)
        fault = "x must be the base64url of 32 bytes";
    buf_done(&x);
    return fault;
}

/* ---- one key of a set ---- */

/* The types that tokens are checked with; the curve is part of the type. */
static const struct type {
    const char *kty, *crv; /* crv NULL: the type has none */
    int alg;
    const char *(*read)(const struct muster_value *jwk, struct jwk *out);
} types[] = {
    {"RSA", NULL, JOSE_RS256, read_rsa},
    {"EC", "P-256", JOSE_ES256, read_p256},
    {"OKP", "Ed25519", JOSE_EDDSA, read_ed25519},
};

static const struct type *type_of(const struct muster_value *jwk)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (member_is(jwk, "kty", types[i].kty) && (!types[i].crv || member_is(jwk, "crv", types[i].crv)))
            return &types[i];
    return NULL;
}

/* `key_ops` is a list, and not there for most. */
static bool may_verify(const struct muster_value *jwk)
{
    const struct muster_value *ops = value_get(jwk, "key_ops");

    for (size_t i = 0; ops && i < value_count(ops); i++) {
        const char *op = value_str(value_at(ops, i), NULL);

        if (op && strcmp(op, "verify") == 0)
            return true;
    }
    return !ops;
}

/* Meant for signatures by the one algorithm that its type has? */
static bool is_useful(const struct muster_value *jwk, const struct type *type)
{
    bool use = member_is(jwk, "use", "") || member_is(jwk, "use", "sig");
    bool alg = member_is(jwk, "alg", "") || member_is(jwk, "alg", alg_names[type->alg]) ||
               (type->alg == JOSE_EDDSA && member_is(jwk, "alg", "Ed25519"));

    return use && alg && may_verify(jwk);
}

static const char *take_kid(const struct muster_value *jwk, struct jwk *out)
{
    const char *kid = member(jwk, "kid");

    if (!kid || strlen(kid) > JWKS_KID_MAX)
        return "kid must be a string of at most 256 bytes";
    out->kid = *kid ? strdup(kid) : NULL;
    return *kid && !out->kid ? "out of memory" : NULL;
}

static void jwk_done(struct jwk *k)
{
    free(k->kid);
    EVP_PKEY_free(k->key);
    if (k->secret)
        OPENSSL_cleanse(k->secret, k->secret_len);
    free(k->secret);
}

/* NULL when it was taken, or is merely of no use here. */
static const char *take_key(const struct muster_value *jwk, struct jwks *set)
{
    const struct type *type = type_of(jwk);
    struct jwk key = {0};
    const char *fault;

    if (!type || !is_useful(jwk, type))
        return value_type(jwk) == MUSTER_MAP ? NULL : "a key must be a map";
    key.alg = type->alg;
    fault = type->read(jwk, &key);
    if (!fault)
        fault = take_kid(jwk, &key);
    if (fault)
        jwk_done(&key);
    else
        set->keys[set->n++] = key;
    return fault;
}

/* ---- sets ---- */

static int refuse(char why[JWKS_WHY_SIZE], const char *text)
{
    (void)snprintf(why, JWKS_WHY_SIZE, "%.*s", JWKS_WHY_SIZE - 1, text);
    return MUSTER_EINVAL;
}

static struct jwks *set_new(size_t room)
{
    struct jwks *set = calloc(1, sizeof *set);

    if (set && !(set->keys = calloc(room, sizeof *set->keys))) {
        free(set);
        return NULL;
    }
    return set;
}

static int take_keys(const struct muster_value *keys, struct jwks *set, char why[JWKS_WHY_SIZE])
{
    (void)refuse(why, "no key of the set can check RS256, ES256 or EdDSA");
    for (size_t i = 0; i < value_count(keys); i++) {
        const char *fault = take_key(value_at(keys, i), set);

        if (fault)
            (void)snprintf(why, JWKS_WHY_SIZE, "keys[%zu]: %s", i, fault);
    }
    set->n_left_out = value_count(keys) - set->n;
    return set->n ? 0 : MUSTER_EINVAL;
}

static int read_set(const struct muster_value *doc, struct jwks **ret_set, char why[JWKS_WHY_SIZE])
{
    const struct muster_value *keys = value_get(doc, "keys");
    struct jwks *set;
    int err;

    if (value_type(doc) != MUSTER_MAP || !keys || value_type(keys) != MUSTER_ARRAY)
        return refuse(why, "a map with the list `keys` was expected");
    if (value_count(keys) > JWKS_KEYS_MAX)
        return refuse(why, "the set has more than 64 keys");
    set = set_new(JWKS_KEYS_MAX);
    if (!set)
        return MUSTER_ENOMEM;
    err = take_keys(keys, set, why);
    if (err)
        jwks_free(set);
    else
        *ret_set = set;
    return err;
}

int jwks_parse(const char *text, size_t len, struct jwks **ret_set, char why[JWKS_WHY_SIZE])
{
    struct muster_value *doc;
    struct wire_error err;

    why[0] = '\0';
    if (len > JWKS_TEXT_MAX)
        return refuse(why, "the set is larger than 256 KiB");
    if (value_decode_any(MUSTER_JSON, (struct muster_bytes){text, len}, &doc, &err))
        return refuse(why, err.text);

    int code = read_set(doc, ret_set, why);
    value_free(doc);
    return code;
}

int jwks_secret(const char *text, size_t len, struct jwks **ret_set, char why[JWKS_WHY_SIZE])
{
    struct jwks *set;

    why[0] = '\0';
    while (len && (text[len - 1] == '\n' || text[len - 1] == '\r'))
        len--;
    if (len < JWKS_SECRET_MIN || len > JWKS_SECRET_MAX)
        return refuse(why, "a secret for HS256 has 32 to 4,096 bytes");
    set = set_new(1);
    if (!set)
        return MUSTER_ENOMEM;
    set->n = 1;
    set->keys[0] = (struct jwk){.alg = JOSE_HS256, .secret = malloc(len), .secret_len = len};
    if (!set->keys[0].secret) {
        jwks_free(set);
        return MUSTER_ENOMEM;
    }
    memcpy(set->keys[0].secret, text, len);
    *ret_set = set;
    return 0;
}

void jwks_free(struct jwks *set)
{
    if (!set)
        return;
    for (size_t i = 0; i < set->n; i++)
        jwk_done(&set->keys[i]);
    free(set->keys);
    free(set);
}
