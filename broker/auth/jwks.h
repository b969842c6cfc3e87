/*
 * auth/jwks.h - the keys that somebody else signs tokens with: a JWK set (RFC 7517), or one secret.
 *
 * Shape    A key has one algorithm, which follows from its type alone: RSA is RS256, EC on P-256 is ES256, OKP with Ed25519 is
 *          EdDSA, a secret is HS256. What a token's header says can therefore not turn a public key into a secret. A secret in a set is
 *          left out, because a set is public; so are keys for encryption and those of other types.
 * Bounds   256 KiB of text, 64 keys, RSA of 2,048 to 4,096 bits, ids up to 256 bytes, secrets of 32 to 4,096 bytes.
 * Errors   0, MUSTER_EINVAL with a sentence in why, or MUSTER_ENOMEM.
 * Memory   A set is owned by whoever made it; jwks_free() accepts NULL and wipes secrets.
 * Threads  Any; a set is read-only and may be read by several at once.
 */
#ifndef MUSTER_AUTH_JWKS_H
#define MUSTER_AUTH_JWKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JOSE_RS256, JOSE_ES256, JOSE_EDDSA, JOSE_HS256, JOSE_ALGS_N };
enum { JWKS_TEXT_MAX = 256 << 10, JWKS_KEYS_MAX = 64, JWKS_KID_MAX = 256 };
enum { JWKS_SECRET_MIN = 32, JWKS_SECRET_MAX = 4096, JWKS_WHY_SIZE = 256 };

struct evp_pkey_st;

struct jwk {
    int alg;                   /* JOSE_* */
    char *kid;                 /* NULL: none */
    struct evp_pkey_st *key;   /* NULL: HS256 */
    uint8_t *secret;           /* HS256 only */
    size_t secret_len;
};

struct jwks {
    struct jwk *keys;
    size_t n;
    size_t n_left_out; /* keys of the set that are wrong, or that nothing here is signed with */
};

/* Read a set. One that has no usable key is refused; otherwise why tells of a key that is wrong, or is to be ignored. */
int jwks_parse(const char *text, size_t len, struct jwks **ret_set, char why[JWKS_WHY_SIZE]);
/* A set of one secret; a line break at its end is not part of it. */
int jwks_secret(const char *text, size_t len, struct jwks **ret_set, char why[JWKS_WHY_SIZE]);
void jwks_free(struct jwks *set);

/* "RS256" and so on. */
const char *jose_alg_name(int alg);
/* JOSE_* of a name, or -1. */
int jose_alg_find(const char *name, size_t len);

#endif
