/*
 * Signed tokens and the keys they are checked with: the examples of RFC 7515 (A.1 to A.3), tokens signed here with keys made here, and
 * every way to have a token taken that its issuer did not sign.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <muster/plugin.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/jose.h"
#include "base/buf.h"
#include "wire/value.h"

#define RFC_CLAIMS "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
#define RFC_N                                                                                                                       \
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRP" \
    "EwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qC" \
    "o5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
#define RFC_RS256                                                                                                                   \
    "eyJhbGciOiJSUzI1NiJ9." RFC_CLAIMS                                                                                              \
    ".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKB" \
    "YNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7" \
    "noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
#define RFC_ES256                                                                                                                   \
    "eyJhbGciOiJFUzI1NiJ9." RFC_CLAIMS ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
#define RFC_HS256 "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." RFC_CLAIMS ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
#define RFC_X "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
#define RFC_Y "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
#define RFC_K "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"

/* ---- helpers ---- */

static struct jwks *set_of(const char *text)
{
    char why[JWKS_WHY_SIZE];
    struct jwks *set = NULL;

    if (jwks_parse(text, strlen(text), &set, why))
        fail_msg("%s: %s", text, why);
    return set;
}

static struct jwks *secret_of(const char *base64url)
{
    char why[JWKS_WHY_SIZE];
    struct buf secret = {0};
    struct jwks *set = NULL;

    assert_true(buf_put_decoded(&secret, base64url, strlen(base64url)));
    assert_int_equal(jwks_secret(secret.data, secret.len, &set, why), 0);
    buf_done(&secret);
    return set;
}

/* The result of reading and checking a token. */
static int check(const char *token, const struct jwks *set)
{
    struct jose j = {0};
    const char *why = "";
    int err = jose_read(token, strlen(token), &j, &why);

    if (!err)
        err = jose_verify(&j, set, &why);
    if (err)
        assert_true(why[0] != '\0');
    jose_done(&j);
    return err;
}

/* header.claims in base64url. */
static void begin_token(struct buf *b, const char *header, const char *claims)
{
    buf_put_base64url(b, header, strlen(header));
    buf_putc(b, '.');
    buf_put_base64url(b, claims, strlen(claims));
}

static void end_token(struct buf *b, const void *sig, size_t len)
{
    buf_putc(b, '.');
    buf_put_base64url(b, sig, len);
    assert_false(buf_failed(b));
}

static size_t sign(EVP_PKEY *key, const EVP_MD *md, const struct buf *text, uint8_t *sig, size_t size)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    size_t len = size;

    assert_int_equal(EVP_DigestSignInit(ctx, NULL, md, NULL, key), 1);
    assert_int_equal(EVP_DigestSign(ctx, sig, &len, (const unsigned char *)text->data, text->len), 1);
    EVP_MD_CTX_free(ctx);
    return len;
}

static char *signed_rs256(EVP_PKEY *key, const char *header, const char *claims)
{
    struct buf b = {0};
    uint8_t sig[JOSE_SIG_MAX];

    begin_token(&b, header, claims);
    end_token(&b, sig, sign(key, EVP_sha256(), &b, sig, sizeof sig));
    return buf_take(&b);
}

static char *signed_eddsa(EVP_PKEY *key, const char *header, const char *claims)
{
    struct buf b = {0};
    uint8_t sig[64];

    begin_token(&b, header, claims);
    end_token(&b, sig, sign(key, NULL, &b, sig, sizeof sig));
    return buf_take(&b);
}

static char *signed_es256(EVP_PKEY *key, const char *header, const char *claims)
{
    struct buf b = {0};
    uint8_t der[128], raw[64];
    const uint8_t *at = der;

    begin_token(&b, header, claims);
    ECDSA_SIG *pair = d2i_ECDSA_SIG(NULL, &at, (long)sign(key, EVP_sha256(), &b, der, sizeof der));
    assert_int_equal(BN_bn2binpad(ECDSA_SIG_get0_r(pair), raw, 32), 32);
    assert_int_equal(BN_bn2binpad(ECDSA_SIG_get0_s(pair), raw + 32, 32), 32);
    ECDSA_SIG_free(pair);
    end_token(&b, raw, sizeof raw);
    return buf_take(&b);
}

static char *signed_hs256(const void *secret, size_t secret_len, const char *header, const char *claims)
{
    struct buf b = {0};
    uint8_t mac[EVP_MAX_MD_SIZE];
    unsigned len = 0;

    begin_token(&b, header, claims);
    assert_non_null(HMAC(EVP_sha256(), secret, (int)secret_len, (unsigned char *)b.data, b.len, mac, &len));
    end_token(&b, mac, len);
    return buf_take(&b);
}

static void put_bn(struct buf *out, EVP_PKEY *key, const char *what)
{
    BIGNUM *bn = NULL;
    uint8_t bytes[1024];

    assert_int_equal(EVP_PKEY_get_bn_param(key, what, &bn), 1);
    buf_put_base64url(out, bytes, (size_t)BN_bn2bin(bn, bytes));
    BN_free(bn);
}

/* The key of an RSA pair as a JWK, with more members before its own. */
static void put_rsa(struct buf *out, EVP_PKEY *key, const char *more)
{
    buf_printf(out, "{\"kty\":\"RSA\",%s\"n\":\"", more);
    put_bn(out, key, OSSL_PKEY_PARAM_RSA_N);
    buf_put_lit(out, "\",\"e\":\"");
    put_bn(out, key, OSSL_PKEY_PARAM_RSA_E);
    buf_put_lit(out, "\"}");
}

static void put_ed25519(struct buf *out, EVP_PKEY *key, const char *more)
{
    uint8_t raw[32];
    size_t len = sizeof raw;

    assert_int_equal(EVP_PKEY_get_raw_public_key(key, raw, &len), 1);
    buf_printf(out, "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",%s\"x\":\"", more);
    buf_put_base64url(out, raw, len);
    buf_put_lit(out, "\"}");
}

static void put_p256(struct buf *out, EVP_PKEY *key, const char *more)
{
    uint8_t point[65];
    size_t len;

    assert_int_equal(EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point, &len), 1);
    assert_int_equal(len, 65);
    buf_printf(out, "{\"kty\":\"EC\",\"crv\":\"P-256\",%s\"x\":\"", more);
    buf_put_base64url(out, point + 1, 32);
    buf_put_lit(out, "\",\"y\":\"");
    buf_put_base64url(out, point + 33, 32);
    buf_put_lit(out, "\"}");
}

static EVP_PKEY *rsa, *other_rsa, *p256, *ed25519;

static int make_keys(void **state)
{
    (void)state;
    rsa = EVP_RSA_gen(2048);
    other_rsa = EVP_RSA_gen(2048);
    p256 = EVP_EC_gen("P-256");
    ed25519 = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    return rsa && other_rsa && p256 && ed25519 ? 0 : -1;
}

static int free_keys(void **state)
{
    (void)state;
    EVP_PKEY_free(rsa);
    EVP_PKEY_free(other_rsa);
    EVP_PKEY_free(p256);
    EVP_PKEY_free(ed25519);
    return 0;
}

/* A set with one key of each type: r, p, e. */
static struct jwks *all_keys(void)
{
    struct buf b = {0};

    buf_put_lit(&b, "{\"keys\":[");
    put_rsa(&b, rsa, "\"kid\":\"r\",\"use\":\"sig\",\"alg\":\"RS256\",");
    buf_putc(&b, ',');
    put_p256(&b, p256, "\"kid\":\"p\",\"key_ops\":[\"verify\"],");
    buf_putc(&b, ',');
    put_ed25519(&b, ed25519, "\"kid\":\"e\",\"alg\":\"EdDSA\",");
    buf_put_lit(&b, "]}");
    struct jwks *set = set_of(b.data);
    buf_done(&b);
    return set;
}

static void assert_check(int wanted, char *token, const struct jwks *set)
{
    assert_int_equal(check(token, set), wanted);
    free(token);
}

/* ---- tests ---- */

static void test_examples_of_the_rfc(void **state)
{
    struct jwks *rs = set_of("{\"keys\":[{\"kty\":\"RSA\",\"n\":\"" RFC_N "\",\"e\":\"AQAB\"}]}");
    struct jwks *es = set_of("{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"" RFC_X "\",\"y\":\"" RFC_Y "\"}]}");
    struct jwks *hs = secret_of(RFC_K);

    (void)state;
    assert_int_equal(check(RFC_RS256, rs), 0);
    assert_int_equal(check(RFC_ES256, es), 0);
    assert_int_equal(check(RFC_HS256, hs), 0);
    /* The algorithms do not take each other's keys. */
    assert_int_equal(check(RFC_RS256, es), MUSTER_ENOTFOUND);
    assert_int_equal(check(RFC_RS256, hs), MUSTER_ENOTFOUND);
    assert_int_equal(check(RFC_ES256, rs), MUSTER_ENOTFOUND);
    assert_int_equal(check(RFC_HS256, rs), MUSTER_ENOTFOUND);
    jwks_free(rs);
    jwks_free(es);
    jwks_free(hs);
}

static void test_claims_are_read(void **state)
{
    struct jose j;
    const char *why;

    (void)state;
    assert_int_equal(jose_read(RFC_RS256, strlen(RFC_RS256), &j, &why), 0);
    assert_string_equal(value_str(value_get(j.claims, "iss"), NULL), "joe");
    assert_int_equal(value_int(value_get(j.claims, "exp")), 1300819380);
    jose_done(&j);
}

static void test_every_algorithm(void **state)
{
    struct jwks *set = all_keys();

    (void)state;
    assert_check(0, signed_rs256(rsa, "{\"alg\":\"RS256\",\"kid\":\"r\",\"typ\":\"JWT\"}", "{}"), set);
    assert_check(0, signed_es256(p256, "{\"alg\":\"ES256\",\"kid\":\"p\",\"typ\":\"at+jwt\"}", "{}"), set);
    assert_check(0, signed_eddsa(ed25519, "{\"alg\":\"EdDSA\",\"kid\":\"e\",\"typ\":\"application/at+jwt\"}", "{}"), set);
    /* Without a kid the keys of the algorithm are tried. */
    assert_check(0, signed_rs256(rsa, "{\"alg\":\"RS256\"}", "{}"), set);
    assert_check(0, signed_eddsa(ed25519, "{\"alg\":\"EdDSA\"}", "{}"), set);
    jwks_free(set);
}

static void test_wrong_signatures(void **state)
{
    struct jwks *set = all_keys();
    char *token = signed_es256(p256, "{\"alg\":\"ES256\",\"kid\":\"p\"}", "{\"a\":1}");

    (void)state;
    assert_check(MUSTER_EINVAL, signed_rs256(other_rsa, "{\"alg\":\"RS256\",\"kid\":\"r\"}", "{}"), set);
    /* One bit of the claims. */
    assert_int_equal(check(token, set), 0);
    strchr(token, '.')[3] ^= 1;
    assert_int_not_equal(check(token, set), 0);
    free(token);
    jwks_free(set);
}

/* r and s of zero, and of the group's order, verify under careless implementations. */
static void test_degenerate_es256(void **state)
{
    struct jwks *set = all_keys();
    struct buf zero = {0};
    const uint8_t none[64] = {0};

    (void)state;
    begin_token(&zero, "{\"alg\":\"ES256\",\"kid\":\"p\"}", "{}");
    end_token(&zero, none, sizeof none);
    assert_int_equal(check(zero.data, set), MUSTER_EINVAL);
    buf_done(&zero);
    /* DER in place of r and s. */
    struct buf der = {0};
    uint8_t sig[128];
    begin_token(&der, "{\"alg\":\"ES256\",\"kid\":\"p\"}", "{}");
    end_token(&der, sig, sign(p256, EVP_sha256(), &der, sig, sizeof sig));
    assert_int_equal(check(der.data, set), MUSTER_EINVAL);
    buf_done(&der);
    jwks_free(set);
}

/* The public key, known to all, taken as the secret of HS256. */
static void test_confusion_of_algorithms(void **state)
{
    struct jwks *set = all_keys();
    struct buf jwk = {0};

    (void)state;
    put_rsa(&jwk, rsa, "");
    assert_check(MUSTER_ENOTFOUND, signed_hs256(jwk.data, jwk.len, "{\"alg\":\"HS256\",\"kid\":\"r\"}", "{}"), set);
    assert_check(MUSTER_ENOTFOUND, signed_hs256("", 0, "{\"alg\":\"HS256\"}", "{}"), set);
    /* One type's key under another's name. */
    assert_check(MUSTER_ENOTFOUND, signed_rs256(rsa, "{\"alg\":\"ES256\",\"kid\":\"r\"}", "{}"), set);
    buf_done(&jwk);
    jwks_free(set);
}

static void test_unknown_kid(void **state)
{
    struct jwks *set = all_keys();

    (void)state;
    assert_check(MUSTER_ENOTFOUND, signed_rs256(rsa, "{\"alg\":\"RS256\",\"kid\":\"new\"}", "{}"), set);
    assert_check(MUSTER_ENOTFOUND, signed_rs256(rsa, "{\"alg\":\"RS256\",\"kid\":\"p\"}", "{}"), set);
    jwks_free(set);
}

/* Made-up tokens without a kid must not cost a signature for each key of a large set. */
static void test_tries_are_bounded(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_put_lit(&b, "{\"keys\":[");
    for (int i = 0; i < JOSE_TRIES_MAX; i++) {
        put_p256(&b, p256, "");
        buf_putc(&b, ',');
    }
    put_ed25519(&b, ed25519, "");
    buf_putc(&b, ',');
    EVP_PKEY *last = EVP_EC_gen("P-256");
    put_p256(&b, last, "\"kid\":\"last\",");
    buf_put_lit(&b, "]}");
    struct jwks *set = set_of(b.data);
    assert_check(MUSTER_EINVAL, signed_es256(last, "{\"alg\":\"ES256\"}", "{}"), set);
    assert_check(0, signed_es256(last, "{\"alg\":\"ES256\",\"kid\":\"last\"}", "{}"), set);
    assert_check(0, signed_eddsa(ed25519, "{\"alg\":\"EdDSA\"}", "{}"), set);
    EVP_PKEY_free(last);
    jwks_free(set);
    buf_done(&b);
}

static void test_refused_headers(void **state)
{
    static const char *const headers[] = {
        "{\"alg\":\"none\"}",
        "{\"alg\":\"None\"}",
        "{\"alg\":\"nOnE\"}",
        "{\"alg\":\"\"}",
        "{}",
        "{\"alg\":null}",
        "{\"alg\":[\"RS256\"]}",
        "{\"alg\":\"rs256\"}",
        "{\"alg\":\"RS512\"}",
        "{\"alg\":\"PS256\"}",
        "{\"alg\":\"RS256\",\"alg\":\"none\"}",
        "{\"alg\":\"RS256\",\"crit\":[\"exp\"],\"exp\":1}",
        "{\"alg\":\"RS256\",\"crit\":[]}",
        "{\"alg\":\"RS256\",\"crit\":[\"b64\"],\"b64\":false}",
        "{\"alg\":\"RS256\",\"typ\":\"logout+jwt\"}",
        "{\"alg\":\"RS256\",\"typ\":7}",
        "{\"alg\":\"RS256\",\"kid\":7}",
        "{\"alg\":\"RS256\",\"kid\":{\"a\":1}}",
        "[\"RS256\"]",
        "7",
        "{\"alg\":\"RS256\"",
        "{\"alg\":\"RS256\",\"x\":\"\xff\"}",
    };
    struct jwks *set = all_keys();

    (void)state;
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        assert_check(MUSTER_EINVAL, signed_rs256(rsa, headers[i], "{}"), set);
    /* Keys that the token brings itself are not looked at. */
    struct buf own = {0};
    buf_put_lit(&own, "{\"alg\":\"RS256\",\"jku\":\"https://evil/\",\"jwk\":");
    put_rsa(&own, other_rsa, "");
    buf_putc(&own, '}');
    assert_check(MUSTER_EINVAL, signed_rs256(other_rsa, own.data, "{}"), set);
    buf_done(&own);
    jwks_free(set);
}

static void test_refused_texts(void **state)
{
    static const char *const tokens[] = {
        "", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "a.b.c.d.e",
        "eyJhbGciOiJub25lIn0.e30.",                       /* none, without a signature */
        "eyJhbGciOiJSUzI1NiJ9." RFC_CLAIMS ".",           /* no signature */
        "eyJhbGciOiJSUzI1NiJ9." RFC_CLAIMS ".===",        /* padding */
        "eyJhbGciOiJSUzI1NiJ9..AAAA",                     /* no claims */
        "eyJhbGciOiJSUzI1NiJ9.W10.AAAA",                  /* claims are a list */
        "eyJhbGciOiJSUzI1NiJ9.eyJhIjoxLCJhIjoyfQ.AAAA",   /* a claim twice */
        " " RFC_RS256, RFC_RS256 " ", RFC_RS256 "\n", "Bearer " RFC_RS256,
    };
    struct jwks *set = set_of("{\"keys\":[{\"kty\":\"RSA\",\"n\":\"" RFC_N "\",\"e\":\"AQAB\"}]}");

    (void)state;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        assert_int_equal(check(tokens[i], set), MUSTER_EINVAL);
    jwks_free(set);
}

static void test_size_is_bounded(void **state)
{
    struct jwks *set = all_keys();
    struct buf claims = {0};

    (void)state;
    buf_put_lit(&claims, "{\"a\":\"");
    for (int i = 0; i < JOSE_TOKEN_MAX; i++)
        buf_putc(&claims, 'x');
    buf_put_lit(&claims, "\"}");
    assert_check(MUSTER_EINVAL, signed_eddsa(ed25519, "{\"alg\":\"EdDSA\",\"kid\":\"e\"}", claims.data), set);
    buf_done(&claims);
    jwks_free(set);
}

/* ---- sets ---- */

static void assert_no_set(const char *text)
{
    char why[JWKS_WHY_SIZE] = "";
    struct jwks *set = NULL;

    if (jwks_parse(text, strlen(text), &set, why) != MUSTER_EINVAL)
        fail_msg("taken: %s", text);
    assert_true(why[0] != '\0');
    assert_null(set);
}

static void test_sets_without_a_use(void **state)
{
    static const char *const sets[] = {
        "",
        "[]",
        "{}",
        "{\"keys\":{}}",
        "{\"keys\":[]}",
        "{\"keys\":[7]}",
        "{\"keys\":[null]}",
        "{\"keys\":[{}]}",
        "{\"keys\":[{\"kty\":\"oct\",\"k\":\"" RFC_K "\"}]}", /* a secret that everybody can read is none */
        "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"" RFC_N "\",\"e\":\"AQ\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"" RFC_N "\",\"e\":\"Ag\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"" RFC_N "\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"n\":7,\"e\":\"AQAB\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"use\":\"enc\",\"n\":\"" RFC_N "\",\"e\":\"AQAB\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"alg\":\"PS256\",\"n\":\"" RFC_N "\",\"e\":\"AQAB\"}]}",
        "{\"keys\":[{\"kty\":\"RSA\",\"key_ops\":[\"encrypt\"],\"n\":\"" RFC_N "\",\"e\":\"AQAB\"}]}",
        "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-384\",\"x\":\"" RFC_X "\",\"y\":\"" RFC_Y "\"}]}",
        "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"" RFC_X "\",\"y\":\"" RFC_X "\"}]}", /* not on the curve */
        "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\"}]}",
        "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"X25519\",\"x\":\"" RFC_X "\"}]}",
        "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AQAB\"}]}",
        "{\"keys\":[],\"keys\":[]}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        assert_no_set(sets[i]);
}

static void test_a_wrong_key_leaves_the_others(void **state)
{
    struct jwks *set = set_of("{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"short\",\"n\":\"AQAB\",\"e\":\"AQAB\"},"
                              "{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"good\",\"x\":\"" RFC_X "\",\"y\":\"" RFC_Y "\"},"
                              "{\"kty\":\"future\"}]}");

    (void)state;
    assert_int_equal(set->n, 1);
    assert_int_equal(set->n_left_out, 2);
    assert_string_equal(set->keys[0].kid, "good");
    jwks_free(set);
}

/* Whether it is the product of two primes nobody can tell; its size everybody can. */
static void put_modulus(struct buf *b, size_t len)
{
    uint8_t n[1024];

    memset(n, 0xa5, len);
    buf_put_lit(b, "{\"keys\":[{\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"");
    buf_put_base64url(b, n, len);
    buf_put_lit(b, "\"}]}");
}

static void test_sizes_of_rsa(void **state)
{
    static const size_t taken[] = {256, 384, 512}, refused[] = {128, 255, 513, 640, 1024};
    char why[JWKS_WHY_SIZE];
    struct jwks *set = NULL;
    struct buf b = {0};

    (void)state;
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++, buf_clear(&b)) {
        put_modulus(&b, taken[i]);
        assert_int_equal(jwks_parse(b.data, b.len, &set, why), 0);
        jwks_free(set);
        set = NULL;
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++, buf_clear(&b)) {
        put_modulus(&b, refused[i]);
        assert_no_set(b.data);
    }
    buf_done(&b);
}

static void test_bounds_of_sets(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_put_lit(&b, "{\"keys\":[{}");
    for (int i = 0; i < JWKS_KEYS_MAX; i++)
        buf_put_lit(&b, ",{}");
    buf_put_lit(&b, "]}");
    assert_no_set(b.data);
    buf_clear(&b);
    buf_put_lit(&b, "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"" RFC_X "\",\"y\":\"" RFC_Y "\"}]");
    while (b.len < JWKS_TEXT_MAX)
        buf_putc(&b, ' ');
    buf_putc(&b, '}');
    assert_no_set(b.data);
    buf_done(&b);
}

static void test_secrets(void **state)
{
    static const char text[] = "0123456789abcdef0123456789abcdef";
    char why[JWKS_WHY_SIZE];
    struct jwks *set = NULL;

    (void)state;
    assert_int_equal(jwks_secret(text, 31, &set, why), MUSTER_EINVAL);
    assert_int_equal(jwks_secret("0123456789abcdef0123456789abcde\r\n", 33, &set, why), MUSTER_EINVAL);
    assert_int_equal(jwks_secret("0123456789abcdef0123456789abcdef\r\n", 34, &set, why), 0);
    assert_check(0, signed_hs256(text, 32, "{\"alg\":\"HS256\"}", "{}"), set);
    assert_check(0, signed_hs256(text, 32, "{\"alg\":\"HS256\",\"kid\":\"any\"}", "{}"), set);
    assert_check(MUSTER_EINVAL, signed_hs256(text, 31, "{\"alg\":\"HS256\"}", "{}"), set);
    jwks_free(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples_of_the_rfc),
        cmocka_unit_test(test_claims_are_read),
        cmocka_unit_test(test_every_algorithm),
        cmocka_unit_test(test_wrong_signatures),
        cmocka_unit_test(test_degenerate_es256),
        cmocka_unit_test(test_confusion_of_algorithms),
        cmocka_unit_test(test_unknown_kid),
        cmocka_unit_test(test_tries_are_bounded),
        cmocka_unit_test(test_refused_headers),
        cmocka_unit_test(test_refused_texts),
        cmocka_unit_test(test_size_is_bounded),
        cmocka_unit_test(test_sets_without_a_use),
        cmocka_unit_test(test_a_wrong_key_leaves_the_others),
        cmocka_unit_test(test_sizes_of_rsa),
        cmocka_unit_test(test_bounds_of_sets),
        cmocka_unit_test(test_secrets),
    };

    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
