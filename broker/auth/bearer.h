/*
 * auth/bearer.h - whom a token that somebody else has signed names: the rules of one issuer, from claims to tenant, agent and role.
 *
 * Shape    The signature has been checked with the issuer's keys before (jose.h). `iss` and one of the audiences must be exactly what
 *          is set; `exp` must be there unless exp_optional is set; `exp`, `nbf` and `iat` are held against the clock with a leeway.
 * Claims   A claim's name is looked up as it is, then as a path whose steps are separated by dots: `org.tenant` is the member tenant of
 *          the map org, or a claim whose name has a dot. A list counts as its one element; for the role, as its one element that is an
 *          allowed role. What a claim lacks, a default gives, if there is one.
 * Errors   0 or a reason, BEARER_*, with a sentence. What the sentence takes from claims is told only after the signature held.
 * Threads  Any; no state.
 */
#ifndef MUSTER_AUTH_BEARER_H
#define MUSTER_AUTH_BEARER_H

#include "auth/jose.h"
#include "base/name.h"

struct bearer_rules {               /* all borrowed */
    const char *issuer;             /* what `iss` must be */
    const char *const *audiences;   /* one of them must be in `aud` */
    size_t n_audiences;
    const char *tenant_claim, *agent_claim, *role_claim; /* NULL: not read */
    const char *tenant;             /* where the claim is missing; NULL: refused */
    int role;                       /* the same, ROLE_*; -1: refused */
    uint32_t roles;                 /* a bit for each ROLE_* that this issuer may give */
    const char *const *tenants;     /* that this issuer may name; none: all */
    size_t n_tenants;
    int64_t leeway_s;
    bool exp_optional;
};

struct bearer_identity {
    char tenant[NAME_MAX_LEN + 1], agent[NAME_MAX_LEN + 1];
    int role;          /* ROLE_* */
    int64_t expires_s; /* since 1970; the leeway is in it; 0: the token has no end */
};

/* Why not. Their names are short words for counters. */
enum {
    BEARER_TAKEN,
    BEARER_MALFORMED,
    BEARER_UNKNOWN_ISSUER,
    BEARER_UNKNOWN_KEY,
    BEARER_BAD_SIGNATURE,
    BEARER_EXPIRED,
    BEARER_TOO_EARLY,
    BEARER_OTHER_AUDIENCE,
    BEARER_BAD_CLAIM,
    BEARER_REASONS_N
};
enum { BEARER_WHY_SIZE = 256 };

const char *bearer_reason(int reason);
/* `iss` as the token has it, unchecked; NULL when there is none. */
const char *bearer_issuer(const struct jose *j);
/* Hold the claims of a token whose signature is good against the rules. */
int bearer_check(const struct bearer_rules *rules, const struct jose *j, int64_t now_s, struct bearer_identity *ret_identity,
                 char why[BEARER_WHY_SIZE]);

#endif
