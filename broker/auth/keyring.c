/* The keys of an issuer; see keyring.h. */
#include "auth/keyring.h"

#include "base/assert.h"
#include "base/clock.h"

void keyring_init(struct keyring *k, const struct keyring_times *times, int64_t now_ns)
{
    *k = (struct keyring){.times = *times, .due_ns = now_ns, .unknown_from_ns = now_ns};
}

void keyring_done(struct keyring *k)
{
    jwks_free(k->keys);
    k->keys = NULL;
}

bool keyring_is_due(const struct keyring *k, int64_t now_ns)
{
    return !k->busy && now_ns >= k->due_ns;
}

bool keyring_may_ask(const struct keyring *k, int64_t now_ns)
{
    return !k->busy && now_ns >= k->unknown_from_ns;
}

/* Every attempt counts as one for unknown kids, too: they are in it, if they are anywhere. */
void keyring_begin(struct keyring *k, int64_t now_ns)
{
    ASSERT(!k->busy);
    k->busy = true;
    k->unknown_from_ns = now_ns + k->times.unknown_every_ns;
}

/* An answer may say any number: it is bounded before it is multiplied. */
static int64_t fresh_for(const struct keyring_times *t, int64_t max_age_s)
{
    if (max_age_s < 0)
        return t->fresh_default_ns;
    if (max_age_s > t->fresh_max_ns / CLOCK_S)
        return t->fresh_max_ns;
    return max_age_s * CLOCK_S < t->fresh_min_ns ? t->fresh_min_ns : max_age_s * CLOCK_S;
}

void keyring_got(struct keyring *k, struct jwks *keys, int64_t max_age_s, int64_t now_ns)
{
    jwks_free(k->keys);
    k->keys = keys;
    k->busy = false;
    k->retry_ns = 0;
    k->due_ns = now_ns + fresh_for(&k->times, max_age_s);
}

void keyring_failed(struct keyring *k, int64_t now_ns)
{
    int64_t delay = k->retry_ns ? k->retry_ns * 2 : k->times.retry_min_ns;

    k->busy = false;
    k->retry_ns = delay < k->times.retry_max_ns ? delay : k->times.retry_max_ns;
    k->due_ns = now_ns + k->retry_ns;
}
