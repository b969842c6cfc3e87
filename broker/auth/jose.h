/*
 * auth/jose.h - signed tokens of somebody else: JWS in compact form (RFC 7515, 7519, 8725).
 *
 * Shape    jose_read() takes a token apart, jose_verify() checks its signature with a set of keys. Until then every member is
 *          what anybody may have written: good to choose an issuer's keys by, and for nothing else.
 * Refused  `none` and every algorithm that is not in jwks.h; `crit`; a `typ` other than JWT and at+jwt; encrypted tokens; keys and
 *          addresses of keys in the header are not looked at.
 * Bounds   16 KiB.
 * Errors   A negative MUSTER_E* with a sentence that holds nothing of the token: MUSTER_EINVAL, MUSTER_ENOMEM; MUSTER_ENOTFOUND:
 *          the set has no key that the token may be signed with, a newer one may.
 * Memory   jose_done() frees; it accepts a zeroed struct. The token is borrowed until then.
 * Threads  Any; no state.
 */
#ifndef MUSTER_AUTH_JOSE_H
#define MUSTER_AUTH_JOSE_H

#include "auth/jwks.h"

enum { JOSE_TOKEN_MAX = 16 << 10, JOSE_SIG_MAX = 512, JOSE_TRIES_MAX = 8 };

struct muster_value;

struct jose {
    int alg;         /* JOSE_* */
    const char *kid; /* NULL: none */
    const struct muster_value *claims;
    const char *text; /* what is signed */
    size_t text_len;
    uint8_t sig[JOSE_SIG_MAX];
    size_t sig_len;
    struct muster_value *header_doc, *claims_doc; /* owned */
};

int jose_read(const char *token, size_t len, struct jose *ret_jose, const char **ret_why);
void jose_done(struct jose *j);
/* Check the signature. A token with a kid is checked with the keys of that kid, one without with those of its algorithm;
 * with JOSE_TRIES_MAX of them at the most. */
int jose_verify(const struct jose *j, const struct jwks *set, const char **ret_why);

#endif
