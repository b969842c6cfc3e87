/* What a tenant and its agents may ask for: a word of state for each bucket, changed by compare and swap; see tenant.h. Any thread. */
#include "base/clock.h"
#include "tenant/parts.h"

static const int64_t place_wait_ns = CLOCK_S; /* nobody knows when an answer will come */
static const int64_t debt_max_ns = 10 * CLOCK_S;

/* Which limit stands behind a bucket. */
static const int rate_of[TENANT_N_BUCKETS] = {[TENANT_REQUESTS] = TENANT_REQUESTS_PER_S, [TENANT_BYTES] = TENANT_BYTES_PER_S};

/* False: it has no such limit. */
static bool bucket_of(const struct muster_tenant *t, int which, size_t n_bytes, struct bucket *ret_bucket)
{
    int64_t rate = tenants_limit(t, rate_of[which]);

    if (rate <= 0)
        return false;
    *ret_bucket = which == TENANT_REQUESTS ? bucket_of_requests(rate, tenants_limit(t, TENANT_BURST)) : bucket_of_bytes(rate, n_bytes);
    return true;
}

static int64_t take(struct muster_tenant *t, int which, const struct bucket *b, int64_t now_ns)
{
    int64_t full_at = atomic_load_explicit(&t->full_at_ns[which], memory_order_relaxed), next;

    do {
        int64_t wait = bucket_take(b, full_at, now_ns, &next);

        if (wait)
            return wait;
    } while (!atomic_compare_exchange_weak_explicit(&t->full_at_ns[which], &full_at, next, memory_order_relaxed, memory_order_relaxed));
    return 0;
}

/* An answer may go out when the hundredth before it is a second old. Times are milliseconds modulo 2^32: every 50 days an old
 * one looks young for a second, which costs an answer and nothing else. */
bool tenant_may_answer(struct muster_tenant *t, int64_t now_ns)
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

static int refuse(struct muster_tenant *t, int64_t now_ns, struct tenant_over over, int64_t wait_ns, struct tenant_over *ret_over)
{
    atomic_fetch_add_explicit(&t->n_over, 1, memory_order_relaxed);
    over.retry_ms = (uint32_t)((wait_ns + CLOCK_MS - 1) / CLOCK_MS);
    *ret_over = over;
    if (tenant_may_answer(t, now_ns))
        return TENANT_OVER_ANSWER;
    atomic_fetch_add_explicit(&t->n_silent, 1, memory_order_relaxed);
    return TENANT_OVER_SILENT;
}

static struct usage_key key_of(const struct muster_tenant *t, const struct tenant_asker *who)
{
    return (struct usage_key){.tenant = t, .agent = who->agent, .agent_len = who->agent_len, .now_ns = who->now_ns};
}

/* Plugins and operators ask under names that no agent can have, for others. */
static bool is_agent(const struct tenant_asker *who)
{
    return who->agent_len && who->agent[0] != '_';
}

/* An agent over its own limit takes nothing from the others of its tenant: so this comes first. */
static int64_t charge_agent(struct usage *u, struct muster_tenant *t, const struct tenant_asker *who, struct tenant_over *over)
{
    static const int limits[USAGE_N_BUCKETS] = {TENANT_AGENT_REQUESTS_PER_S, TENANT_AGENT_BYTES_PER_S};
    int64_t requests = tenants_limit(t, TENANT_AGENT_REQUESTS_PER_S), bytes = tenants_limit(t, TENANT_AGENT_BYTES_PER_S), wait;
    struct bucket buckets[USAGE_N_BUCKETS] = {{0}};
    struct usage_key key = key_of(t, who);
    int which;

    if ((requests <= 0 && bytes <= 0) || !is_agent(who))
        return 0;
    if (requests > 0)
        buckets[USAGE_REQUESTS] = bucket_of_requests(requests, 0);
    if (bytes > 0)
        buckets[USAGE_BYTES] = bucket_of_bytes(bytes, who->n_bytes);
    wait = usage_take(u, &key, buckets, &which);
    *over = (struct tenant_over){.limit = limits[which], .value = which == USAGE_REQUESTS ? requests : bytes};
    return wait;
}

/* From both buckets, or from none. */
static int64_t charge_tenant(struct muster_tenant *t, const struct tenant_asker *who, struct tenant_over *over)
{
    struct bucket buckets[TENANT_N_BUCKETS];
    bool taken[TENANT_N_BUCKETS];
    int64_t wait = 0;

    for (int i = 0; i < TENANT_N_BUCKETS && !wait; i++) {
        taken[i] = bucket_of(t, i, who->n_bytes, &buckets[i]);
        wait = taken[i] ? take(t, i, &buckets[i], who->now_ns) : 0;
        *over = (struct tenant_over){.limit = rate_of[i], .value = buckets[i].rate};
    }
    if (wait && over->limit == TENANT_BYTES_PER_S && taken[TENANT_REQUESTS])
        atomic_fetch_sub_explicit(&t->full_at_ns[TENANT_REQUESTS], buckets[TENANT_REQUESTS].cost_ns, memory_order_relaxed);
    for (int i = 0; i < TENANT_N_BUCKETS && !wait; i++)
        if (taken[i] && !who->everywhere)
            atomic_fetch_add_explicit(&t->untold[i], i == TENANT_REQUESTS ? 1 : who->n_bytes, memory_order_relaxed);
    return wait;
}

int tenant_charge(struct tenants *tenants, struct muster_tenant *t, const struct tenant_asker *who, struct tenant_over *ret_over)
{
    struct tenant_over over;
    int64_t wait;

    atomic_fetch_add_explicit(&t->n_charged, 1, memory_order_relaxed);
    wait = charge_agent(tenants->usage, t, who, &over);
    if (!wait && !who->lives)
        wait = charge_tenant(t, who, &over);
    return wait ? refuse(t, who->now_ns, over, wait, ret_over) : TENANT_OK;
}

/* ---- requests that wait ----------------------------------------------------------------------------------------------------------- */

int tenant_enter(struct tenants *tenants, struct muster_tenant *t, const struct tenant_asker *who, struct tenant_place *ret_place,
                 struct tenant_over *ret_over)
{
    int64_t most = tenants_limit(t, TENANT_IN_FLIGHT), of_agent = tenants_limit(t, TENANT_AGENT_IN_FLIGHT);
    struct tenant_over over = {.limit = TENANT_IN_FLIGHT, .value = most};
    struct usage_key key = key_of(t, who);
    struct tenant_place place = {0};

    if (most > 0) {
        place.tenant = t;
        if (atomic_fetch_add_explicit(&t->n_in_flight, 1, memory_order_relaxed) >= (uint64_t)most) {
            tenant_leave(tenants, &place);
            return refuse(t, who->now_ns, over, place_wait_ns, ret_over);
        }
    }
    if (of_agent > 0 && is_agent(who)) {
        place.agent = usage_enter(tenants->usage, &key, (uint32_t)of_agent);
        if (!place.agent) {
            tenant_leave(tenants, &place);
            over = (struct tenant_over){.limit = TENANT_AGENT_IN_FLIGHT, .value = of_agent};
            return refuse(t, who->now_ns, over, place_wait_ns, ret_over);
        }
    }
    *ret_place = place;
    return TENANT_OK;
}

void tenant_leave(struct tenants *tenants, const struct tenant_place *place)
{
    if (place->tenant)
        atomic_fetch_sub_explicit(&place->tenant->n_in_flight, 1, memory_order_relaxed);
    if (place->agent)
        usage_leave(tenants->usage, place->agent);
}

int tenant_refuse(struct muster_tenant *t, int64_t now_ns, int limit, struct tenant_over *ret_over)
{
    struct tenant_over over = {.limit = limit, .value = tenants_limit(t, limit)};

    return refuse(t, now_ns, over, place_wait_ns, ret_over);
}

/* ---- other brokers ---------------------------------------------------------------------------------------------------------------- */

/* A fiftieth of a second's worth is worth telling: a tenant far below its limit costs nothing. */
bool tenant_take_untold(struct muster_tenant *t, uint64_t ret_spent[TENANT_N_BUCKETS])
{
    bool any = false;

    for (int i = 0; i < TENANT_N_BUCKETS; i++) {
        int64_t rate = tenants_limit(t, rate_of[i]);
        uint64_t n = atomic_load_explicit(&t->untold[i], memory_order_relaxed);

        ret_spent[i] = rate > 0 && n && n >= (uint64_t)rate / 50 ? atomic_exchange_explicit(&t->untold[i], 0, memory_order_relaxed) : 0;
        any = any || ret_spent[i];
    }
    return any;
}

/* Debt has an end: a broker that counts wrong must not shut a tenant out. */
static void push(struct muster_tenant *t, int which, const struct bucket *b, int64_t now_ns)
{
    int64_t full_at = atomic_load_explicit(&t->full_at_ns[which], memory_order_relaxed), next, most = now_ns + b->depth_ns + debt_max_ns;

    do {
        next = (full_at > now_ns ? full_at : now_ns) + b->cost_ns;
        if (next > most)
            next = full_at > most ? full_at : most;
    } while (!atomic_compare_exchange_weak_explicit(&t->full_at_ns[which], &full_at, next, memory_order_relaxed, memory_order_relaxed));
}

void tenant_charge_other(struct muster_tenant *t, int64_t now_ns, const uint64_t spent[TENANT_N_BUCKETS])
{
    for (int i = 0; i < TENANT_N_BUCKETS; i++) {
        struct bucket b;

        if (!spent[i] || !bucket_of(t, i, (size_t)spent[i], &b))
            continue;
        if (i == TENANT_REQUESTS)
            b.cost_ns = spent[i] < (uint64_t)(debt_max_ns / b.cost_ns) ? (int64_t)spent[i] * b.cost_ns : debt_max_ns;
        push(t, i, &b, now_ns);
    }
}

struct usage *tenants_usage(struct tenants *t)
{
    return t->usage;
}

/* ---- what it is ------------------------------------------------------------------------------------------------------------------- */

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
