/*
 * The lease of each shard. Who gets it raises the shard's fence in the database first: what an older holder still sends assigns nothing any more,
 * and what it has assigned is there to be read. Then it asks which tenants have anything.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "tasks/router_parts.h"

static const int64_t spread_ns = 10 * CLOCK_MS; /* between the places in which brokers contend for a shard */
static const int64_t rest_ns = 5 * CLOCK_S;     /* until who let a shard go contends for it again */
static const int64_t retry_ns = 200 * CLOCK_MS;

uint32_t task_shard_of(const char *tenant)
{
    return (uint32_t)(hash_bytes(tenant, strlen(tenant)) % TASK_SHARDS);
}

struct shard_question {
    struct task_shard *s;
    uint32_t generation;
};

static void count_shards(struct router *r)
{
    int64_t n = 0;

    for (uint32_t i = 0; i < TASK_SHARDS; i++)
        n += r->shards[i].state == SHARD_SERVES;
    r->w->metrics->set(r->w->host, r->m.shards, NULL, n);
}

static void again(struct task_shard *s)
{
    s->retry_ns = s->r->w->timer->now(s->r->w->host) + retry_ns;
}

static int ask(struct task_shard *s, uint64_t stmt, uint32_t n_params, const struct muster_bytes *params, muster_sql_fn fn)
{
    struct shard_question *q = malloc(sizeof *q);
    int err;

    if (!q)
        return MUSTER_ENOMEM;
    *q = (struct shard_question){s, s->generation};
    err = s->r->w->sql->exec(s->r->w->host, stmt, NULL, NULL, n_params, params, fn, q);
    if (err)
        free(q);
    return err;
}

static struct task_shard *answered(struct shard_question *q, enum shard_state state)
{
    struct task_shard *s = q->generation == q->s->generation && q->s->state == state ? q->s : NULL;

    free(q);
    return s;
}

/* ---- taking it over ----------------------------------------------------------------------------------------------------- */

static void on_tenants(void *arg, const struct muster_sql_result *result)
{
    struct task_shard *s = answered(arg, SHARD_READING);

    if (!s)
        return;
    if (result->code) {
        again(s);
        return;
    }
    s->state = SHARD_SERVES;
    routed_begin(s);
    for (uint32_t i = 0; i < result->n_rows; i++)
        if (task_shard_of(result->get(result, i, 0)) == s->n)
            routed_has_tasks(s, result->get(result, i, 0));
    sweep_soon(&s->r->t->sweeps[SWEEP_ORPHANS]); /* who was lost while nobody served */
    count_shards(s->r);
}

static void read_tenants(struct task_shard *s)
{
    s->state = SHARD_READING;
    if (ask(s, s->r->stmt.tenants, 0, NULL, on_tenants) != 0)
        again(s);
}

static void on_fence(void *arg, const struct muster_sql_result *result)
{
    struct task_shard *s = answered(arg, SHARD_FENCING);
    const char *text;

    if (!s)
        return;
    text = result->code || !result->n_rows ? NULL : result->get(result, 0, 0);
    if (text && strncmp(text, "{\"ok\"", 5) == 0)
        read_tenants(s);
    else
        again(s); /* where the fence is higher the lease is lost, or about to be */
}

static void raise_fence(struct task_shard *s)
{
    char args[96];

    s->state = SHARD_FENCING;
    (void)snprintf(args, sizeof args, "{\"name\":\"task.%u\",\"epoch\":%llu}", s->n, (unsigned long long)s->epoch);
    if (ask(s, s->r->stmt.fence, 3, (struct muster_bytes[]){ask_param(""), ask_param("_muster"), ask_param(args)}, on_fence) != 0)
        again(s);
}

static void on_got(void *arg, uint64_t epoch)
{
    struct task_shard *s = arg;

    s->epoch = epoch;
    s->got_ns = s->r->w->timer->now(s->r->w->host);
    s->generation++;
    raise_fence(s);
}

static void drop(struct task_shard *s)
{
    if (s->state == SHARD_ELSEWHERE)
        return;
    s->state = SHARD_ELSEWHERE;
    s->generation++;
    s->retry_ns = 0;
    routed_end_all(s);
    count_shards(s->r);
}

static void on_lost(void *arg, int code)
{
    (void)code;
    drop(arg);
}

void shard_is_lost(struct task_shard *s)
{
    if (s->state != SHARD_SERVES)
        return;
    routed_end_all(s);
    s->generation++;
    raise_fence(s); /* of a lease that is held it says so; of one that is lost nothing comes of it */
}

/* ---- contending, sharing ------------------------------------------------------------------------------------------------ */

static void contend(struct task_shard *s)
{
    struct router *r = s->r;
    char name[16];
    struct muster_lease_options options = {.size = sizeof options, .name = name, .on_got = on_got, .on_lost = on_lost, .arg = s};

    (void)snprintf(name, sizeof name, "task.%u", s->n);
    if (r->lease->acquire(r->w->host, &options, &s->lease) == 0)
        s->contend_ns = 0;
}

static uint32_t count_held(void *arg)
{
    const struct router *r = arg;
    uint32_t n = 0;

    for (uint32_t i = 0; i < TASK_SHARDS; i++)
        n += r->shards[i].state != SHARD_ELSEWHERE;
    return n;
}

static bool holds(void *arg, uint32_t n)
{
    const struct router *r = arg;

    return r->shards[n].state == SHARD_SERVES;
}

static void release(struct task_shard *s, int64_t until_ns)
{
    drop(s);
    if (s->lease)
        s->r->lease->release(s->r->w->host, s->lease);
    s->lease = 0;
    s->contend_ns = until_ns;
}

static bool let_go(void *arg, uint32_t n)
{
    struct router *r = arg;

    if (r->shards[n].state != SHARD_SERVES)
        return false;
    release(&r->shards[n], r->w->timer->now(r->w->host) + rest_ns);
    return true;
}

static void stand_back(void *arg, uint32_t n, int64_t until_ns)
{
    struct router *r = arg;

    if (r->shards[n].state == SHARD_ELSEWHERE)
        release(&r->shards[n], until_ns);
}

struct shares_how shards_how(struct router *r)
{
    return (struct shares_how){.host = r->w->host, .kv = r->kv, .timer = r->w->timer, .n_shards = TASK_SHARDS, .held = count_held, .holds = holds,
                               .let_go = let_go, .stand_back = stand_back, .arg = r};
}

/* Brokers that start together are each the first for some shards. */
void shards_start(struct router *r)
{
    int64_t now_ns = r->w->timer->now(r->w->host);
    char text[160];

    for (uint32_t i = 0; i < TASK_SHARDS; i++) {
        int n = snprintf(text, sizeof text, "%s %u", r->w->host->broker_id, i);

        r->shards[i].contend_ns = now_ns + spread_ns * (int64_t)(hash_bytes(text, (size_t)n) % TASK_SHARDS);
    }
}

void shards_tick(struct router *r, int64_t now_ns)
{
    for (uint32_t i = 0; i < TASK_SHARDS; i++) {
        struct task_shard *s = &r->shards[i];

        if (s->contend_ns && now_ns >= s->contend_ns)
            contend(s);
        if (!s->retry_ns || now_ns < s->retry_ns)
            continue;
        s->retry_ns = 0;
        if (s->state == SHARD_FENCING)
            raise_fence(s);
        else if (s->state == SHARD_READING)
            read_tenants(s);
    }
    if (r->link_up)
        shares_tick(&r->shares, now_ns);
}
