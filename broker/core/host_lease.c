/*
 * muster.lease/1: lease/lease.h driven by time and by what its record says (host_lease_bucket.c). Lane only.
 *
 * Clocks   CLOCK_BOOTTIME: a machine that slept has not held meanwhile. Timer and answers are the lane's, so a lane that hangs
 *          renews nothing.
 * Hints    Puts are heard by a plain subscription as well, so that what was released is taken at once. They prove nothing: the record is
 *          read again, and polling would find it too.
 * Gone     Records name the broker's connections; host_lease_at.c finds out whether those of a holder have ended.
 * End      While the instance ends nothing is renewed or told. After destroy() its leases are released; what cannot be released within
 *          a second runs out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/name.h"
#include "core/departures.h"
#include "core/hearer.h"
#include "core/host_js.h"
#include "core/host_lease.h"
#include "lease/record.h"
#include "metrics/metrics.h"

enum { MAX_LEASES = 1024 };
static const int64_t default_ttl_ns = 15 * CLOCK_S, ttl_min_ns = 3 * CLOCK_S, ttl_max_ns = 3600 * CLOCK_S;

struct lease_metrics {
    struct metric *held, *taken, *lost;
};

static void pump(struct host_lease *h);
static void pump_soon(struct host_lease *h);

/* ---- what others put ----------------------------------------------------------------------------------------------------- */

static void on_heard(void *arg, bool freed)
{
    struct host_lease *h = arg;

    if (!freed && !h->lease.epoch)
        lease_hint_renewed(&h->lease, clock_boot_ns());
    else
        lease_hint(&h->lease, clock_boot_ns());
    pump(h);
}

static int hear(struct host_lease *h)
{
    struct hearer_options how = {.bus = broker_bus(h->in->broker),
                                 .lane = h->in->lane,
                                 .subject = h->subject,
                                 .mine = h->lease.me,
                                 .common = LEASE_RECORD_HELD,
                                 .fn = on_heard,
                                 .arg = h};

    return hearer_new(&how, &h->hearer);
}

/* ---- connections ---------------------------------------------------------------------------------------------------------- */

static void on_departure(void *arg)
{
    const struct instance *in = arg;

    for (struct host_lease *h = in->leases; h; h = h->next) {
        lease_at_judge(h);
        pump_soon(h);
    }
}

void host_lease_on_link(struct instance *in)
{
    for (struct host_lease *h = in->leases; h; h = h->next)
        pump_soon(h);
}

/* ---- the end of one ------------------------------------------------------------------------------------------------------- */

static void free_lease(uv_handle_t *handle)
{
    free(handle->data);
}

static void forget(struct host_lease *h)
{
    struct host_lease **at = &h->in->leases;

    while (*at != h)
        at = &(*at)->next;
    *at = h->next;
    hearer_free(h->hearer);
    (void)atomic_fetch_sub(&h->in->n_leases, 1);
    uv_close((uv_handle_t *)&h->timer, free_lease);
}

/* ---- what the bucket says ------------------------------------------------------------------------------------------------------ */

void lease_heard_of(struct host_lease *h, int code, const struct lease_record *record)
{
    lease_on_read(&h->lease, clock_boot_ns(), code, record);
    lease_at_judge(h);
    pump(h);
}

void lease_was_written(struct host_lease *h, int code, uint64_t revision)
{
    lease_on_written(&h->lease, clock_boot_ns(), code, revision);
    pump(h);
}

/* ---- driving it --------------------------------------------------------------------------------------------------------------- */

static void tell(struct host_lease *h, const struct lease_event *e)
{
    struct lease_metrics *m = h->in->lease_metrics;
    bool got = e->what == LEASE_GOT;

    metric_set(m->held, h->name, got);
    metric_add(got ? m->taken : m->lost, h->name, 1);
    if (got)
        h->in->host.log(&h->in->host, MUSTER_LOG_INFO, "lease %s: held, epoch %llu", h->name, (unsigned long long)e->epoch);
    else
        h->in->host.log(&h->in->host, MUSTER_LOG_WARN, "lease %s: lost, %s", h->name,
                        e->code == MUSTER_ESTALE ? "another has it" : "it could not be renewed in time");
    instance_enter(h->in, got ? "lease got" : "lease lost", h->name);
    if (got)
        h->on_got(h->arg, e->epoch);
    else
        h->on_lost(h->arg, e->code);
    instance_leave(h->in);
}

/* False: nothing more is to be done now. */
static bool do_step(struct host_lease *h, const struct lease_step *step)
{
    struct lease_record none = {0};
    int err;

    if (step->what == LEASE_READ) {
        err = lease_bucket_read(h);
        if (err)
            lease_on_read(&h->lease, clock_boot_ns(), err == MUSTER_ENOTFOUND ? MUSTER_ELINK : err, &none);
        return true;
    }
    if (step->what == LEASE_WRITE) {
        err = lease_bucket_write(h, &step->record);
        if (err)
            lease_on_written(&h->lease, clock_boot_ns(), err == MUSTER_ESTALE ? MUSTER_ELINK : err, 0);
        return true;
    }
    return false;
}

static void on_timer(uv_timer_t *timer)
{
    pump(timer->data);
}

static void sleep_until(struct host_lease *h, int64_t due_ns)
{
    int64_t ns = due_ns - clock_boot_ns();

    if (due_ns == INT64_MAX) {
        (void)uv_timer_stop(&h->timer);
        return;
    }
    uv_update_time(lane_loop(h->in->lane)); /* the loop's time is when this turn began */
    ASSERT(uv_timer_start(&h->timer, on_timer, ns > 0 ? (uint64_t)(ns / CLOCK_MS) + 1 : 0, 0) == 0);
}

/* For whoever goes through all of them: what one is told may end another. */
static void pump_soon(struct host_lease *h)
{
    if (!h->pumping)
        sleep_until(h, clock_boot_ns());
}

static void pump(struct host_lease *h)
{
    struct lease_at at[LEASE_N_AT];
    struct lease_event e;
    struct lease_step step;

    if (h->pumping || h->in->leases_over || (h->in->ending && !h->lease.releasing))
        return;
    h->pumping = true; /* what is told may call release() */
    lease_at_learn(h->in, at);
    lease_connected(&h->lease, clock_boot_ns(), at);
    do {
        while ((e = lease_event(&h->lease, clock_boot_ns())).what != LEASE_NOTHING)
            tell(h, &e);
        step = lease_step(&h->lease, clock_boot_ns(), clock_wall_ns());
    } while (do_step(h, &step));
    h->pumping = false;
    if (step.what == LEASE_DONE)
        forget(h);
    else
        sleep_until(h, step.due_ns);
}

/* ---- the calls ---------------------------------------------------------------------------------------------------------------- */

static int make_metrics(struct instance *in)
{
    struct metric_spec spec = {.type = MUSTER_GAUGE,
                               .name = "muster_lease_held",
                               .help = "1 while this broker holds the lease.",
                               .label = "lease",
                               .constants = {{"plugin", in->plugin->name}, {"instance", in->how->instance}}};
    struct lease_metrics *m;
    char lane[12];
    int err;

    if (in->lease_metrics)
        return 0;
    m = calloc(1, sizeof *m);
    if (!m)
        return MUSTER_ENOMEM;
    (void)snprintf(lane, sizeof lane, "%u", in->host.lane);
    if (in->host.n_lanes > 1)
        spec.constants[2] = (struct metric_label){"lane", lane};
    err = metrics_make(broker_metrics(in->broker), &spec, &m->held);
    spec.type = MUSTER_COUNTER;
    spec.name = "muster_lease_taken_total";
    spec.help = "Leases that this broker got.";
    if (!err)
        err = metrics_make(broker_metrics(in->broker), &spec, &m->taken);
    spec.name = "muster_lease_lost_total";
    spec.help = "Leases that this broker held and lost, by time or to another.";
    if (!err)
        err = metrics_make(broker_metrics(in->broker), &spec, &m->lost);
    if (err)
        free(m);
    else
        in->lease_metrics = m;
    return err;
}

static struct host_lease *find(struct instance *in, uint64_t id)
{
    struct host_lease *h = in->leases;

    while (h && (h->id != id || h->lease.releasing))
        h = h->next;
    return h;
}

static int check(const struct muster_host *host, const struct muster_lease_options *o)
{
    struct instance *in = instance_of(host);

    if (!MUSTER_HAS(o, arg))
        return host->fail(host, MUSTER_EINVAL, "acquire(): its size is %u, expected at least %zu", o->size, sizeof *o);
    if (!name_is_key(o->name) || !o->on_got || !o->on_lost)
        return host->fail(host, MUSTER_EINVAL, "acquire(): name \"%.210s\": expected a name as of a key, on_got and on_lost",
                          o->name ? o->name : "");
    if (o->ttl_ns && (o->ttl_ns < ttl_min_ns || o->ttl_ns > ttl_max_ns))
        return host->fail(host, MUSTER_EINVAL, "lease %s: ttl_ns %lld, expected 0 or 3 s to 1 h", o->name, (long long)o->ttl_ns);
    for (const struct host_lease *h = in->leases; h; h = h->next)
        if (!h->lease.releasing && strcmp(h->name, o->name) == 0)
            return host->fail(host, MUSTER_EEXIST, "lease %s: this instance contends for it already", o->name);
    if (atomic_load(&in->n_leases) >= MAX_LEASES)
        return host->fail(host, MUSTER_EAGAIN, "lease %s: this instance has %d leases already", o->name, MAX_LEASES);
    return 0;
}

static struct host_lease *lease_new(struct instance *in, const struct muster_lease_options *o)
{
    struct host_lease *h = calloc(1, sizeof *h);
    char me[CLOCK_UUID_SIZE];
    int n;

    if (!h)
        return NULL;
    h->in = in;
    h->on_got = o->on_got;
    h->on_lost = o->on_lost;
    h->arg = o->arg;
    n = snprintf(h->subject, sizeof h->subject, "$KV.muster_leases.%s.", in->plugin->name);
    h->name = h->subject + n;
    (void)snprintf(h->subject + n, sizeof h->subject - (size_t)n, "%s", o->name);
    clock_uuid7(me);
    lease_init(&h->lease, me, o->ttl_ns ? o->ttl_ns : default_ttl_ns, clock_boot_ns());
    return h;
}

static int lease_acquire(const struct muster_host *host, const struct muster_lease_options *options, uint64_t *ret_lease)
{
    struct instance *in = instance_of(host);
    struct host_lease *h;
    int err = MAY_BEGIN(in);

    if (!err)
        err = check(host, options);
    if (!err)
        err = make_metrics(in);
    if (!err && !in->departures)
        in->departures = departures_hear(broker_departures(in->broker), in->lane, on_departure, in);
    if (!err && !in->departures)
        err = MUSTER_ENOMEM;
    if (err)
        return err;
    h = lease_new(in, options);
    err = h ? hear(h) : MUSTER_ENOMEM;
    if (err) {
        free(h);
        return err;
    }
    ASSERT(uv_timer_init(lane_loop(in->lane), &h->timer) == 0);
    h->timer.data = h;
    h->id = ++in->next_id;
    h->next = in->leases;
    in->leases = h;
    (void)atomic_fetch_add(&in->n_leases, 1);
    *ret_lease = h->id;
    sleep_until(h, clock_boot_ns()); /* nothing is called back inside this call */
    return 0;
}

static void let_go(struct host_lease *h)
{
    metric_set(h->in->lease_metrics->held, h->name, 0);
    lease_release(&h->lease, clock_boot_ns());
    pump(h);
}

static void lease_let_go(const struct muster_host *host, uint64_t lease)
{
    struct instance *in = instance_of(host);
    struct host_lease *h = ON_LANE(in) && !in->ending ? find(in, lease) : NULL;

    if (h)
        let_go(h);
}

static uint64_t lease_epoch_of(const struct muster_host *host, uint64_t lease)
{
    struct instance *in = instance_of(host);
    const struct host_lease *h = ON_LANE(in) ? find(in, lease) : NULL;

    return h ? lease_epoch(&h->lease, clock_boot_ns()) : 0;
}

int64_t host_lease_until(struct instance *in, uint64_t lease)
{
    const struct host_lease *h = ON_LANE(in) ? find(in, lease) : NULL;

    return h && lease_epoch(&h->lease, clock_boot_ns()) ? h->lease.until_ns : 0;
}

bool host_lease_is_held(struct instance *in, uint64_t lease)
{
    return lease_epoch_of(&in->host, lease) > 0;
}

bool host_lease_is_doubtful(struct instance *in, uint64_t lease)
{
    const struct host_lease *h = ON_LANE(in) ? find(in, lease) : NULL;
    struct lease_at at[LEASE_N_AT];

    if (!h)
        return false;
    lease_at_learn(in, at);
    return lease_is_doubtful(&h->lease, at);
}

const struct muster_lease host_lease = {
    .size = sizeof host_lease, .acquire = lease_acquire, .release = lease_let_go, .epoch = lease_epoch_of};

void host_lease_end(struct instance *in)
{
    struct host_lease *next;

    for (struct host_lease *h = in->leases; h; h = next) {
        next = h->next;
        if (!h->lease.releasing)
            let_go(h);
    }
}

void host_lease_done(struct instance *in)
{
    while (in->leases)
        forget(in->leases);
    departures_ear_free(in->departures);
    in->departures = NULL;
    free(in->lease_metrics);
    in->lease_metrics = NULL;
}
