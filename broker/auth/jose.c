/* Signed tokens; see jose.h. */
#include "auth/jose.h"

#include <muster/plugin.h>
#include <openssl/crypto.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "wire/value.h"

enum { HS256_LEN = 32, ED25519_SIG_LEN = 64, ES256_LEN = 64, DER_MAX = 80 };

/* ---- taking apart ---- */

static int refuse(const char **ret_why, const char *why)
{
    *ret_why = why;
    return MUSTER_EINVAL;
}

/* A part is the base64url of a map in JSON. */
static struct muster_value *decode_part(const char *text, size_t len)
{
    struct buf json = {0};
    struct muster_value *doc = NULL;
    struct wire_error err;

    if (!len || !buf_put_decoded(&json, text, len) || value_decode_any(MUSTER_JSON, (struct muster_bytes){json.data, json.len}, &doc, &err))
        doc = NULL;
    buf_done(&json);
    if (doc && value_type(doc) != MUSTER_MAP) {
        value_free(doc);
        doc = NULL;
    }
    return doc;
}

static bool take_signature(struct jose *j, const char *text, size_t len)
{
    struct buf sig = {0};
    bool ok = buf_put_decoded(&sig, text, len) && sig.len > 0 && sig.len <= JOSE_SIG_MAX;

    if (ok) {
        memcpy(j->sig, sig.data, sig.len);
        j->sig_len = sig.len;
    }
    buf_done(&sig);
    return ok;
}

/* A token of another kind from the same issuer (a logout token, a security event) is no login. */
static bool typ_is_login(const struct muster_value *header)
{
    const struct muster_value *typ = value_get(header, "typ");
    const char *text = typ && value_type(typ) == MUSTER_STR ? value_str(typ, NULL) : NULL;

    if (text && strncasecmp(text, "application/", 12) == 0)
        text += 12;
    return !typ || (text && (strcasecmp(text, "JWT") == 0 || strcasecmp(text, "at+jwt") == 0));
}

static int read_header(struct jose *j, const char **ret_why)
{
    const struct muster_value *alg = value_get(j->header_doc, "alg"), *kid = value_get(j->header_doc, "kid");
    size_t len = 0;
    const char *name = alg && value_type(alg) == MUSTER_STR ? value_str(alg, &len) : NULL;

    j->alg = name ? jose_alg_find(name, len) : -1;
    if (j->alg < 0)
        return refuse(ret_why, "the header's alg is none of RS256, ES256, EdDSA, HS256");
    if (value_get(j->header_doc, "crit"))
        return refuse(ret_why, "the header has crit: extensions are not known here");
    if (!typ_is_login(j->header_doc))
        return refuse(ret_why, "the header's typ is neither JWT nor at+jwt");
    if (!kid)
        return 0;
    j->kid = value_type(kid) == MUSTER_STR ? value_str(kid, &len) : NULL;
    return j->kid && len <= JWKS_KID_MAX ? 0 : refuse(ret_why, "the header's kid is no string of at most 256 bytes");
}

static int read_parts(struct jose *j, const char *token, size_t len, const char **ret_why)
{
    const char *end = token + len;
    const char *first = memchr(token, '.', len);
    const char *second = first ? memchr(first + 1, '.', (size_t)(end - first - 1)) : NULL;

    if (!second || memchr(second + 1, '.', (size_t)(end - second - 1)))
        return refuse(ret_why, "three parts with dots between were expected");
    j->text = token;
    j->text_len = (size_t)(second - token);
    j->header_doc = decode_part(token, (size_t)(first - token));
    if (!j->header_doc)
        return refuse(ret_why, "the header is no base64url of a JSON map");
    int err = read_header(j, ret_why);
    if (err)
        return err;
    j->claims_doc = decode_part(first + 1, (size_t)(second - first - 1));
    if (!j->claims_doc)
        return refuse(ret_why, "the claims are no base64url of a JSON map");
    j->claims = j->claims_doc;
    return take_signature(j, second + 1, (size_t)(end - second - 1)) ? 0 : refuse(ret_why, "the signature is no base64url of at most 512 bytes");
}

int jose_read(const char *token, size_t len, struct jose *ret_jose, const char **ret_why)
{
    struct jose j = {0};
    int err = len <= JOSE_TOKEN_MAX ? read_parts(&j, token, len, ret_why) : refuse(ret_why, "the token is larger than 16 KiB");

    if (err)
        jose_done(&j);
    else
        *ret_jose = j;
    return err;
}

void jose_done(struct jose *j)
{
    value_free(j->header_doc);
    value_free(j->claims_doc);
    *j = (struct jose){0};
}

/* ---- signatures ---- */

static bool verify_with(const struct jose *j, struct evp_pkey_st *key, const EVP_MD *md, const uint8_t *sig, size_t sig_len)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx && EVP_DigestVerifyInit(ctx, NULL, md, NULL, key) == 1 &&
              EVP_DigestVerify(ctx, sig, sig_len, (const unsigned char *)j->text, j->text_len) == 1;

    EVP_MD_CTX_free(ctx);
    return ok;
}

static bool verify_rs256(const struct jose *j, const struct jwk *k)
{
    return verify_with(j, k->key, EVP_sha256(), j->sig, j->sig_len);
}

/* JOSE writes r and s side by side, OpenSSL reads them in DER. */
static bool verify_es256(const struct jose *j, const struct jwk *k)
{
    ECDSA_SIG *pair = j->sig_len == ES256_LEN ? ECDSA_SIG_new() : NULL;
    BIGNUM *r = pair ? BN_bin2bn(j->sig, ES256_LEN / 2, NULL) : NULL, *s = pair ? BN_bin2bn(j->sig + ES256_LEN / 2, ES256_LEN / 2, NULL) : NULL;
    unsigned char der[DER_MAX], *at = der;
    int len = 0;

    if (r && s && ECDSA_SIG_set0(pair, r, s) == 1) { /* the pair owns them now */
        if (i2d_ECDSA_SIG(pair, NULL) <= DER_MAX)
            len = i2d_ECDSA_SIG(pair, &at);
    } else {
        BN_free(r);
        BN_free(s);
    }
    ECDSA_SIG_free(pair);
    return len > 0 && verify_with(j, k->key, EVP_sha256(), der, (size_t)len);
}

static bool verify_eddsa(const struct jose *j, const struct jwk *k)
{
    return j->sig_len == ED25519_SIG_LEN && verify_with(j, k->key, NULL, j->sig, j->sig_len);
}

static bool verify_hs256(const struct jose *j, const struct jwk *k)
{
    uint8_t mac[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    bool ok = j->sig_len == HS256_LEN &&
              HMAC(EVP_sha256(), k->secret, (int)k->secret_len, (const unsigned char *)j->text, j->text_len, mac, &len) &&
              CRYPTO_memcmp(mac, j->sig, HS256_LEN) == 0;

    OPENSSL_cleanse(mac, sizeof mac); /* it would sign the text that came */
    return ok;
}

/* By the key's algorithm: that it is the token's has been checked. */
static bool verify(const struct jose *j, const struct jwk *k)
{
    static bool (*const by_alg[JOSE_ALGS_N])(const struct jose *, const struct jwk *) = {
        [JOSE_RS256] = verify_rs256, [JOSE_ES256] = verify_es256, [JOSE_EDDSA] = verify_eddsa, [JOSE_HS256] = verify_hs256};

    return by_alg[k->alg](j, k);
}

/* A secret has no kid of its own: whatever the token calls it, there is one. */
static bool may_be_by(const struct jose *j, const struct jwk *k)
{
    if (k->alg != j->alg)
        return false;
    return !j->kid || k->alg == JOSE_HS256 || (k->kid && strcmp(k->kid, j->kid) == 0);
}

int jose_verify(const struct jose *j, const struct jwks *set, const char **ret_why)
{
    size_t n = 0;

    for (size_t i = 0; i < set->n; i++) {
        if (!may_be_by(j, &set->keys[i]))
            continue;
        if (++n > JOSE_TRIES_MAX) /* a signature costs who checks it more than who makes it up */
            return refuse(ret_why, "none of the first eight keys that it may be signed with has signed it; a kid would tell which");
        if (verify(j, &set->keys[i]))
            return 0;
    }
    if (n)
        return refuse(ret_why, "the signature is wrong");
    *ret_why = j->kid ? "the issuer has no key of this kid and alg" : "the issuer has no key of this alg";
    return MUSTER_ENOTFOUND;
}
