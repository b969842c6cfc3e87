/* Who did what; see audit.h. */
#include "core/audit.h"

#include <muster/plugin.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "auth/access.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "bus/js.h"
#include "config/config.h"
#include "core/broker.h"
#include "core/lane.h"
#include "metrics/metrics.h"

enum { WINDOW = 256, RETRY_MS = 1000, CELLS = 1024, MAX_SUBJECT = 512, MAX_ID = 160 };
static const int64_t ack_ns = 5 * CLOCK_S, end_ns = CLOCK_S;

/* One record on its way to the stream. */
struct flight {
    struct audit *audit;
    struct flight *next; /* in the list of free ones, or of those that are sent again */
    struct audit_record record;
    uint64_t number;
};

/* One name, or several whose hashes meet: refusals in one second, and records in the ring. */
struct cell {
    int64_t second;
    uint32_t n, n_waiting;
};

struct audit {
    struct broker *broker;
    struct lane *lane;
    struct metric *stored, *dropped;
    void (*on_stored)(void *arg, int64_t row);
    void *stored_arg;
    struct lane_item waking; /* on its way to the lane while is_woken */
    atomic_bool is_woken;
    atomic_size_t n_open; /* records that are not stored */
    atomic_int log;       /* CONFIG_AUDIT_* */

    pthread_mutex_t lock; /* guards these */
    struct audit_record *ring;
    size_t first, n;
    bool started, stopping;
    struct cell cells[CELLS];

    /* The lane's alone. */
    struct flight flights[WINDOW], *free, *again;
    uint64_t n_sent;
    uv_timer_t retry;
};

/* ---- one record ------------------------------------------------------------------------------------------------------------- */

static const char *role_word(uint32_t role)
{
    return role ? access_role_name(role) : "";
}

static void put_member(struct buf *b, const char *key, const char *value)
{
    if (!*value)
        return;
    buf_printf(b, ",\"%s\":", key);
    buf_put_json(b, value, strlen(value));
}

static void put_record(const struct audit *a, const struct audit_record *r, struct buf *b)
{
    char at[CLOCK_RFC3339_SIZE];

    clock_rfc3339(r->at_wall_ns, at);
    buf_printf(b, "{\"at\":\"%s\"", at);
    put_member(b, "tenant", r->tenant);
    put_member(b, "agent", r->agent);
    put_member(b, "role", role_word(r->role));
    put_member(b, "by", r->by);
    put_member(b, "database_role", r->login);
    put_member(b, "service", r->service);
    put_member(b, "verb", r->verb);
    put_member(b, "object", r->object);
    put_member(b, "result", r->result);
    put_member(b, "broker", broker_id(a->broker));
    buf_putc(b, '}');
}

static void write_log(const struct audit *a, const struct audit_record *r)
{
    int which = atomic_load(&a->log);

    if (which == CONFIG_AUDIT_NONE || (which == CONFIG_AUDIT_REFUSED && strcmp(r->result, "ok") == 0))
        return;
    log_record("audit", "%s.%s%s%s%s%s %s.%s%s%s: %s", r->tenant, r->agent, r->role ? " as " : "", role_word(r->role), *r->by ? " by " : "",
               r->by, r->service, r->verb, *r->object ? " " : "", r->object, r->result);
}

/* ---- to the stream ---------------------------------------------------------------------------------------------------------- */

static void give_back(struct flight **list, struct flight *f)
{
    f->next = *list;
    *list = f;
}

static struct flight *take(struct flight **list)
{
    struct flight *f = *list;

    if (f)
        *list = f->next;
    return f;
}

static void run(struct audit *a);

static void on_ack(void *arg, int code, uint64_t seq)
{
    struct flight *f = arg;
    struct audit *a = f->audit;

    (void)seq;
    if (code) {
        give_back(&a->again, f);
        return;
    }
    metric_add(a->stored, NULL, 1);
    if (f->record.row && a->on_stored)
        a->on_stored(a->stored_arg, f->record.row);
    give_back(&a->free, f);
    atomic_fetch_sub(&a->n_open, 1);
    run(a);
}

/* A row of the database may come from several brokers: its number is the same with all of them. */
static void name_message(const struct flight *f, char out[MAX_ID])
{
    if (f->record.row)
        (void)snprintf(out, MAX_ID, "audit-row-%lld", (long long)f->record.row);
    else
        (void)snprintf(out, MAX_ID, "audit-%s-%llu", broker_id(f->audit->broker), (unsigned long long)f->number);
}

static int send_flight(struct flight *f)
{
    struct audit *a = f->audit;
    const struct audit_record *r = &f->record;
    const struct js_target target = {.bus = broker_bus(a->broker), .lane = a->lane, .owner = a, .timeout_ns = ack_ns};
    char subject[MAX_SUBJECT], id[MAX_ID];
    const struct muster_header header = {"Nats-Msg-Id", id};
    struct bus_out out = {.subject = subject, .headers = &header, .n_headers = 1, .fence = -1};
    struct buf body = {0};
    int err;

    (void)snprintf(subject, sizeof subject, "%s._in.%s.audit.%s.%s.%s", broker_root(a->broker), r->tenant, r->service, r->verb, r->agent);
    name_message(f, id);
    put_record(a, r, &body);
    out.payload = (struct muster_bytes){body.data, body.len};
    err = buf_failed(&body) ? MUSTER_ENOMEM : js_append(&target, BUS_BULK, &out, on_ack, f);
    buf_done(&body);
    return err;
}

/* The lock is held. */
static struct cell *cell_of(struct audit *a, const struct audit_record *r)
{
    uint64_t hash = hash_bytes(r->tenant, strlen(r->tenant)) * 31 + hash_bytes(r->agent, strlen(r->agent));

    return &a->cells[hash % CELLS];
}

static bool pop(struct audit *a, struct audit_record *ret_record)
{
    bool any;

    pthread_mutex_lock(&a->lock);
    any = a->n > 0;
    if (any) {
        *ret_record = a->ring[a->first];
        cell_of(a, ret_record)->n_waiting--;
        a->first = --a->n ? (a->first + 1) % AUDIT_MAX : 0; /* of a ring that is seldom full little is touched */
    }
    pthread_mutex_unlock(&a->lock);
    return any;
}

/* As many as may be on their way. */
static void run(struct audit *a)
{
    struct flight *f;

    while (a->free && pop(a, &a->free->record)) {
        f = take(&a->free);
        f->number = ++a->n_sent;
        write_log(a, &f->record);
        if (send_flight(f) != 0)
            give_back(&a->again, f);
    }
}

static void on_retry(uv_timer_t *timer)
{
    struct audit *a = timer->data;
    struct flight *again = a->again, *f;

    a->again = NULL;
    while ((f = take(&again)) != NULL)
        if (send_flight(f) != 0)
            give_back(&a->again, f);
    run(a);
}

/* ---- from all threads ------------------------------------------------------------------------------------------------------- */

static struct audit *of_waking(struct lane_item *item)
{
    return (struct audit *)(void *)((char *)item - offsetof(struct audit, waking));
}

/* The mark goes first: what comes from now on wakes again. */
static void run_waking(struct lane_item *item)
{
    struct audit *a = of_waking(item);

    atomic_store(&a->is_woken, false);
    run(a);
}

static void drop_waking(struct lane_item *item)
{
    (void)item; /* the lane has ended, and what waits with it */
}

/* NULL: it was taken; else the reason why not. A name has no more than is left for all others, who so find room whatever it does. The lock
 * is held. */
static const char *push(struct audit *a, const struct audit_record *record)
{
    struct cell *cell = cell_of(a, record);

    if (!a->started || a->stopping)
        return "stopped";
    if (cell->n_waiting >= AUDIT_MAX - a->n)
        return "full";
    cell->n_waiting++;
    a->ring[(a->first + a->n++) % AUDIT_MAX] = *record;
    atomic_fetch_add(&a->n_open, 1);
    return NULL;
}

/* False: this name was refused too often in this second. The lock is held. */
static bool may_tell(struct audit *a, const struct audit_record *r)
{
    struct cell *cell = cell_of(a, r);
    int64_t second = clock_now_ns() / CLOCK_S;

    if (cell->second != second) {
        cell->second = second;
        cell->n = 0;
    }
    return cell->n++ < AUDIT_REFUSALS_PER_S;
}

static bool add(struct audit *a, const struct audit_record *record, bool refusal)
{
    const char *why;

    pthread_mutex_lock(&a->lock);
    why = refusal && !may_tell(a, record) ? "refusals" : push(a, record);
    pthread_mutex_unlock(&a->lock);
    if (why)
        metric_add(a->dropped, why, 1);
    else if (!atomic_exchange(&a->is_woken, true))
        lane_push(a->lane, &a->waking);
    return !why;
}

bool audit_add(struct audit *a, const struct audit_record *record)
{
    return add(a, record, false);
}

bool audit_add_refusal(struct audit *a, const struct audit_record *record)
{
    return add(a, record, true);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

void audit_set_log(struct audit *a, int which)
{
    atomic_store(&a->log, which);
}

void audit_on_stored(struct audit *a, void (*fn)(void *arg, int64_t row), void *arg)
{
    a->on_stored = fn;
    a->stored_arg = arg;
}

static int open_lane(void *arg)
{
    struct audit *a = arg;

    ASSERT(uv_timer_init(lane_loop(a->lane), &a->retry) == 0);
    a->retry.data = a;
    ASSERT(uv_timer_start(&a->retry, on_retry, RETRY_MS, RETRY_MS) == 0);
    return 0;
}

static int close_lane(void *arg)
{
    struct audit *a = arg;

    bus_cancel(broker_bus(a->broker), a);
    uv_close((uv_handle_t *)&a->retry, NULL);
    return 0;
}

int audit_start(struct audit *a)
{
    int err = lane_start(a->lane);

    if (!err)
        err = lane_call(a->lane, open_lane, a);
    pthread_mutex_lock(&a->lock);
    a->started = !err;
    pthread_mutex_unlock(&a->lock);
    return err;
}

void audit_stop(struct audit *a)
{
    int64_t until = clock_now_ns() + end_ns;
    bool started;

    if (!a)
        return;
    pthread_mutex_lock(&a->lock);
    started = a->started;
    a->started = false;
    a->stopping = true;
    pthread_mutex_unlock(&a->lock);
    if (!started)
        return;
    while (atomic_load(&a->n_open) && clock_now_ns() < until)
        (void)usleep(2000); /* what was done last is told, too */
    if (atomic_load(&a->n_open))
        log_warn("audit", "%zu records were not stored before the broker ended; those that NATS was away for are in this log only",
                 (size_t)atomic_load(&a->n_open));
    (void)lane_call(a->lane, close_lane, a); /* no memory: the lane ends all the same */
    lane_stop(a->lane);
}

int audit_new(struct broker *broker, struct audit **ret_audit)
{
    const struct metric_spec stored = {MUSTER_COUNTER, "muster_audited_total", "Records of the audit that are in their stream.", NULL, {{0}}};
    const struct metric_spec dropped = {
        MUSTER_COUNTER, "muster_audited_dropped_total", "Records of the audit that were given up, by reason.", "reason", {{0}}};
    struct audit *a = calloc(1, sizeof *a);
    int err;

    if (!a)
        return MUSTER_ENOMEM;
    a->broker = broker;
    audit_set_log(a, broker_config(broker)->broker.log_audit);
    ASSERT(pthread_mutex_init(&a->lock, NULL) == 0);
    a->waking = (struct lane_item){.run = run_waking, .drop = drop_waking};
    for (size_t i = 0; i < WINDOW; i++) {
        a->flights[i].audit = a;
        give_back(&a->free, &a->flights[i]);
    }
    a->ring = calloc(AUDIT_MAX, sizeof *a->ring);
    err = a->ring ? lane_new("audit", &a->lane) : MUSTER_ENOMEM;
    if (!err)
        err = metrics_make(broker_metrics(broker), &stored, &a->stored);
    if (!err)
        err = metrics_make(broker_metrics(broker), &dropped, &a->dropped);
    if (err) {
        audit_free(a);
        return err;
    }
    *ret_audit = a;
    return 0;
}

void audit_free(struct audit *a)
{
    if (!a)
        return;
    audit_stop(a);
    lane_free(a->lane);
    free(a->ring);
    (void)pthread_mutex_destroy(&a->lock);
    free(a);
}
