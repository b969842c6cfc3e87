/*
 * The other brokers; see peers.h.
 *
 * A message is lines: the sender's number, then `tenant requests bytes` for each tenant of which there is something to tell.
 */
#include "core/peers.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "core/broker.h"
#include "metrics/metrics.h"
#include "tenant/tenant.h"

enum { BEATS = 4 /* tellings between two of nothing but that it is there */, MAX_MESSAGE = 32 << 10, MAX_SUBJECT = 128 };
static const int64_t gone_ns = 3500 * CLOCK_MS;

struct peer {
    uint64_t number;
    int64_t heard_ns;
};

struct peers {
    struct broker *broker;
    uint64_t number;
    struct metric *dropped;
    uint64_t sub;
    uv_timer_t timer;
    bool open;
    uint32_t n_turns;
    struct peer all[PEERS_MAX];
    size_t n;
    atomic_size_t n_waiting;
    struct buf out;
    char subject[MAX_SUBJECT];
};

/* ---- telling ---------------------------------------------------------------------------------------------------------------- */

static void begin_message(struct peers *p)
{
    buf_clear(&p->out);
    buf_printf(&p->out, "%" PRIu64 "\n", p->number);
}

static void send_message(struct peers *p)
{
    const struct bus_out out = {.subject = p->subject, .payload = {p->out.data, p->out.len}, .fence = -1};

    if (!buf_failed(&p->out))
        (void)bus_send(broker_bus(p->broker), BUS_LIVE, &out); /* one that is lost makes a rate a little larger */
}

static void put_tenant(void *arg, const struct muster_tenant *known)
{
    struct peers *p = arg;
    struct muster_tenant *tenant;
    uint64_t spent[TENANT_N_BUCKETS];

    if (tenants_limit(known, TENANT_REQUESTS_PER_S) <= 0 && tenants_limit(known, TENANT_BYTES_PER_S) <= 0)
        return;
    tenant = tenants_find(broker_tenants(p->broker), tenants_name(known), strlen(tenants_name(known)));
    if (!tenant || !tenant_take_untold(tenant, spent))
        return;
    if (p->out.len > MAX_MESSAGE) {
        send_message(p);
        begin_message(p);
    }
    buf_printf(&p->out, "%s %" PRIu64 " %" PRIu64 "\n", tenants_name(tenant), spent[TENANT_REQUESTS], spent[TENANT_BYTES]);
}

static void forget_silent(struct peers *p)
{
    int64_t now = clock_now_ns();

    for (size_t i = p->n; i-- > 0;)
        if (now - p->all[i].heard_ns > gone_ns)
            p->all[i] = p->all[--p->n];
}

static void on_timer(uv_timer_t *timer)
{
    struct peers *p = timer->data;
    size_t empty;

    begin_message(p);
    empty = p->out.len;
    tenants_each(broker_tenants(p->broker), put_tenant, p);
    if (p->out.len > empty || p->n_turns % BEATS == 0)
        send_message(p);
    p->n_turns++;
    forget_silent(p);
}

/* ---- hearing ---------------------------------------------------------------------------------------------------------------- */

static void note(struct peers *p, uint64_t number)
{
    size_t i = 0;

    while (i < p->n && p->all[i].number != number)
        i++;
    if (i == PEERS_MAX)
        return;
    p->all[i] = (struct peer){number, clock_now_ns()};
    p->n += i == p->n;
}

/* One line, without its end. Of a tenant that is not known here nothing passes here. */
static void take_line(struct peers *p, const char *line, size_t len)
{
    char text[NAME_MAX_LEN + 2 * BUF_U64_SIZE + 2], name[NAME_MAX_LEN + 1];
    uint64_t spent[TENANT_N_BUCKETS];
    struct muster_tenant *tenant;

    if (len >= sizeof text)
        return;
    memcpy(text, line, len);
    text[len] = '\0';
    if (sscanf(text, "%64s %" SCNu64 " %" SCNu64, name, &spent[TENANT_REQUESTS], &spent[TENANT_BYTES]) != 3)
        return;
    tenant = tenants_find(broker_tenants(p->broker), name, strlen(name));
    if (tenant)
        tenant_charge_other(tenant, clock_now_ns(), spent);
}

static void take_message(struct peers *p, struct muster_bytes data)
{
    const char *at = data.data, *end = at + data.len, *line;
    uint64_t number = 0;

    for (; at < end && *at >= '0' && *at <= '9'; at++)
        number = number * 10 + (uint64_t)(*at - '0');
    if (at == data.data || at == end || *at++ != '\n' || number == p->number)
        return;
    note(p, number);
    for (; at < end; at = line + 1) {
        line = memchr(at, '\n', (size_t)(end - at));
        if (!line)
            return;
        take_line(p, at, (size_t)(line - at));
    }
}

struct arrival {
    struct lane_item item;
    struct peers *p;
    struct bus_msg *msg;
};

static void drop_arrival(struct lane_item *item)
{
    struct arrival *a = (struct arrival *)item;

    atomic_fetch_sub(&a->p->n_waiting, 1);
    bus_msg_free(a->msg);
    free(a);
}

static void run_arrival(struct lane_item *item)
{
    struct arrival *a = (struct arrival *)item;

    if (a->p->open)
        take_message(a->p, bus_msg_data(a->msg));
    drop_arrival(item);
}

/* On a thread of the NATS library. */
static void on_message(void *arg, struct bus_msg *msg)
{
    struct peers *p = arg;
    struct arrival *a = atomic_load(&p->n_waiting) < PEERS_WAITING ? malloc(sizeof *a) : NULL;

    if (!a) {
        metric_add(p->dropped, NULL, 1);
        bus_msg_free(msg);
        return;
    }
    *a = (struct arrival){{.run = run_arrival, .drop = drop_arrival}, p, msg};
    atomic_fetch_add(&p->n_waiting, 1);
    lane_push(broker_lane(p->broker), &a->item);
}

/* ---- who ------------------------------------------------------------------------------------------------------------------- */

bool peers_is_first(const struct peers *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->all[i].number < p->number)
            return false;
    return true;
}

size_t peers_count(const struct peers *p)
{
    return p->n;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

int peers_open(struct peers *p)
{
    int err = bus_subscribe(broker_bus(p->broker), &(struct bus_sub){.subject = p->subject, .fn = on_message, .arg = p}, &p->sub);

    if (err)
        return err;
    ASSERT(uv_timer_init(lane_loop(broker_lane(p->broker)), &p->timer) == 0);
    p->timer.data = p;
    p->open = true;
    return uv_timer_start(&p->timer, on_timer, 0, PEERS_TELL_MS) == 0 ? 0 : MUSTER_ENOMEM;
}

void peers_close(struct peers *p)
{
    if (!p || !p->open)
        return;
    p->open = false;
    bus_unsubscribe(broker_bus(p->broker), p->sub);
    uv_close((uv_handle_t *)&p->timer, NULL);
}

int peers_new(struct broker *broker, struct peers **ret_peers)
{
    const struct metric_spec dropped = {
        MUSTER_COUNTER, "muster_peers_dropped_total", "Messages of other brokers that found no room.", NULL, {{0}}};
    struct peers *p = calloc(1, sizeof *p);
    int err = p ? metrics_make(broker_metrics(broker), &dropped, &p->dropped) : MUSTER_ENOMEM;

    if (err) {
        free(p);
        return err;
    }
    p->broker = broker;
    p->number = clock_random();
    (void)snprintf(p->subject, sizeof p->subject, "%s._muster.peers", broker_root(broker)); /* a root is a name */
    *ret_peers = p;
    return 0;
}

void peers_free(struct peers *p)
{
    if (!p)
        return;
    buf_done(&p->out);
    free(p);
}
