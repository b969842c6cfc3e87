/*
 * auth/keyring.h - the keys of one issuer, and when to look for newer ones.
 *
 * Shape    Whoever fetches tells how it went; the keyring says when the next attempt is due. Keys hold until newer ones are there: an
 *          issuer that is away, or answers nonsense, takes nobody's login away.
 * Times    By itself as often as the answer said (Cache-Control: max-age), within fresh_min and fresh_max; fresh_default where it
 *          said nothing. After a failure from retry_min on, doubling up to retry_max. A token of an unknown kid is a reason of its own, but
 *          at most once in unknown_every, whatever how many such tokens come.
 * Threads  None: one owner. Nanoseconds of any clock that only goes forward.
 */
#ifndef MUSTER_AUTH_KEYRING_H
#define MUSTER_AUTH_KEYRING_H

#include <stdbool.h>
#include <stdint.h>

#include "auth/jwks.h"

struct keyring_times {
    int64_t fresh_min_ns, fresh_default_ns, fresh_max_ns;
    int64_t retry_min_ns, retry_max_ns;
    int64_t unknown_every_ns;
};

struct keyring {
    struct keyring_times times;
    struct jwks *keys;       /* owned; NULL: none yet */
    int64_t due_ns;          /* when the next attempt by itself is */
    int64_t unknown_from_ns; /* when an unknown kid may cause one */
    int64_t retry_ns;        /* the last delay after a failure; 0: the last attempt did well */
    bool busy;               /* an attempt is under way */
};

/* Due at once. */
void keyring_init(struct keyring *k, const struct keyring_times *times, int64_t now_ns);
void keyring_done(struct keyring *k);

bool keyring_is_due(const struct keyring *k, int64_t now_ns);
/* A token of a kid that is not here came: true when an attempt should be made for it now. */
bool keyring_may_ask(const struct keyring *k, int64_t now_ns);
/* An attempt begins; exactly one of the next two ends it. */
void keyring_begin(struct keyring *k, int64_t now_ns);
/* keys are the keyring's now. max_age_s < 0: nothing was said. */
void keyring_got(struct keyring *k, struct jwks *keys, int64_t max_age_s, int64_t now_ns);
void keyring_failed(struct keyring *k, int64_t now_ns);

#endif
