/* What a tenant may ask for in a second: one word of state, changed by compare and swap; see tenant.h. Any thread. */
#include "base/clock.h"
#include "tenant/tenant.h"

/* A bucket of more never runs dry, and its depth in nanoseconds would not fit. */
static const int64_t tokens_max = INT64_C(1000000000);

/*
 * The bucket as a point in time (the generic cell rate algorithm): full_at_ns is when all tokens would be back. A request moves
 * it by one period and passes while it stays within `burst` periods from now.
 */
static bool take_token(struct muster_tenant *t, int64_t now_ns, int64_t rate, int64_t *ret_wait_ns)
{
    int64_t burst = tenants_limit(t, TENANT_BURST);
    int64_t period = rate < CLOCK_S ? CLOCK_S / rate : 1;
    int64_t tokens = burst > 0 ? burst : rate; /* without a burst: what a second gives */
    int64_t depth = period * (tokens < tokens_max ? tokens : tokens_max);
    int64_t full_at = atomic_load_explicit(&t->full_at_ns, memory_order_relaxed);
    int64_t next;

    do {
        next = (full_at > now_ns ? full_at : now_ns) + period;
        if (next - now_ns > depth) {
            *ret_wait_ns = next - now_ns - depth;
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&t->full_at_ns, &full_at, next, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

/* An answer may go out when the hundredth before it is a second old. Times are milliseconds modulo 2^32: every 50 days an old
 * one looks young for a second, which costs an answer and nothing else. */
static bool may_answer(struct muster_tenant *t, int64_t now_ns)
{
    uint32_t now_ms = (uint32_t)(now_ns / CLOCK_MS);
    uint32_t n = atomic_load_explicit(&t->n_answers, memory_order_relaxed);

    do {
        uint32_t before = atomic_load_explicit(&t->answered_ms[n % TENANT_ANSWERS_PER_S], memory_order_relaxed);

        if (before != 0 && now_ms - before < 1000)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&t->n_answers, &n, n + 1, memory_order_relaxed,
                                                    memory_order_relaxed));
    atomic_store_explicit(&t->answered_ms[n % TENANT_ANSWERS_PER_S], now_ms | (now_ms == 0), memory_order_relaxed);
    return true;
}

int tenant_charge(struct muster_tenant *t, int64_t now_ns, uint32_t *ret_retry_ms)
{
    int64_t rate = tenants_limit(t, TENANT_REQUESTS_PER_S);
    int64_t wait_ns;

    atomic_fetch_add_explicit(&t->n_charged, 1, memory_order_relaxed);
    if (rate <= 0 || take_token(t, now_ns, rate, &wait_ns))
        return TENANT_OK;

    atomic_fetch_add_explicit(&t->n_over, 1, memory_order_relaxed);
    *ret_retry_ms = (uint32_t)((wait_ns + CLOCK_MS - 1) / CLOCK_MS);
    if (may_answer(t, now_ns))
        return TENANT_OVER_ANSWER;
    atomic_fetch_add_explicit(&t->n_silent, 1, memory_order_relaxed);
    return TENANT_OVER_SILENT;
}

const char *tenants_name(const struct muster_tenant *t)
{
    return t->name;
}

uint32_t tenants_history(const struct muster_tenant *t)
{
    return atomic_load_explicit(&t->history, memory_order_relaxed);
}

bool tenants_is_live(const struct muster_tenant *t)
{
    return atomic_load_explicit(&t->live, memory_order_acquire);
}

int64_t tenants_limit(const struct muster_tenant *t, int which)
{
    return atomic_load_explicit(&t->limits[which], memory_order_relaxed);
}

int tenants_limits(const struct muster_tenant *t, struct muster_tenant_limits *limits)
{
    int64_t rate = tenants_limit(t, TENANT_REQUESTS_PER_S), burst = tenants_limit(t, TENANT_BURST);

    if (!MUSTER_HAS(limits, burst))
        return MUSTER_EINVAL;
    limits->encoding = atomic_load_explicit(&t->encoding, memory_order_relaxed);
    limits->requests_per_s = rate > 0 ? rate : 0;
    limits->burst = burst > 0 ? burst : limits->requests_per_s;
    return 0;
}
