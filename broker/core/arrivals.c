/* Who waits until the database has been asked; see arrivals.h. */
#include "core/arrivals.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/name.h"
#include "core/broker.h"
#include "core/inbox.h"
#include "core/lane.h"
#include "core/revocation.h"
#include "tenant/credentials.h"
#include "tenant/tenant.h"
#include "wire/subject.h"

enum { TICK_MS = 250 };

struct arrivals {
    struct broker *broker;
    struct waiting *tenants, *names; /* the lock of the first comes before that of the second */
    struct credentials *credentials;
    arrivals_leave_fn leave;
    void *arg;
    uv_timer_t *tick; /* core lane only; runs while somebody waits. NULL: not opened */
    /* On its way to the core lane while is_woken: names are to be asked for. */
    struct lane_item waking;
    atomic_bool is_woken;
};

/* One tenant's name on its way to the core lane. */
struct question {
    struct lane_item item;
    struct arrivals *arrivals;
    size_t len;
    char name[NAME_MAX_LEN];
};

static const struct text no_agent;

static void on_tick(uv_timer_t *timer)
{
    struct arrivals *a = timer->data;
    int64_t now = clock_now_ns();
    bool tenants = waiting_tick(a->tenants, now), names = waiting_tick(a->names, now);

    if (!tenants && !names)
        (void)uv_timer_stop(timer);
}

static void start_tick(struct arrivals *a)
{
    if (a->tick && !uv_is_active((uv_handle_t *)a->tick))
        ASSERT(uv_timer_start(a->tick, on_tick, TICK_MS, TICK_MS) == 0);
}

/* ---- tenants ---------------------------------------------------------------------------------- */

static void answer(struct question *q, int what)
{
    waiting_answer(q->arrivals->tenants, (struct text){q->name, q->len}, no_agent, what, clock_now_ns());
    free(q);
}

static void on_found(void *arg, int code, const struct muster_tenant *tenant)
{
    (void)tenant; /* the registry has it */
    answer(arg, code == 0                  ? WAITING_KNOWN
                : code == MUSTER_ENOTFOUND ? WAITING_UNKNOWN
                                           : WAITING_AWAY);
}

static void run_question(struct lane_item *item)
{
    struct question *q = (struct question *)item;
    struct arrivals *a = q->arrivals;
    int err = tenants_refresh(broker_tenants(a->broker), q->name, q->len, on_found, q);

    if (err)
        on_found(q, err, NULL);
    else
        start_tick(a);
}

/* The core lane has ended. */
static void drop_question(struct lane_item *item)
{
    answer((struct question *)item, WAITING_AWAY);
}

static void on_ask_tenant(void *arg, struct text tenant, struct text agent)
{
    struct arrivals *a = arg;
    struct question *q = calloc(1, sizeof *q);

    (void)agent; /* there is none */
    if (!q) {
        waiting_answer(a->tenants, tenant, no_agent, WAITING_AWAY, clock_now_ns());
        return;
    }
    *q = (struct question){
        .item = {.run = run_question, .drop = drop_question}, .arrivals = a, .len = tenant.len};
    memcpy(q->name, tenant.s, tenant.len);
    lane_push(broker_lane(a->broker), &q->item);
}

/* ---- names ------------------------------------------------------------------------------------ */

/* Of an operator outside its own tenant the tenant is "". */
static void on_ask_name(void *arg, struct text tenant, struct text agent)
{
    struct arrivals *a = arg;

    credentials_want(a->credentials, tenant.s, tenant.len, agent.s, agent.len);
}

static void on_answer(void *arg, const char *tenant, const char *agent, int what)
{
    static const int verdicts[] = {
        [CREDENTIALS_KNOWN] = WAITING_KNOWN, [CREDENTIALS_UNKNOWN] = WAITING_UNKNOWN, [CREDENTIALS_AWAY] = WAITING_AWAY};
    struct arrivals *a = arg;

    waiting_answer(a->names, text_of(tenant), text_of(agent), verdicts[what], clock_now_ns());
}

static struct arrivals *of_waking(struct lane_item *item)
{
    return (struct arrivals *)(void *)((char *)item - offsetof(struct arrivals, waking));
}

/* The mark goes first: what comes from now on wakes again. */
static void run_waking(struct lane_item *item)
{
    struct arrivals *a = of_waking(item);

    atomic_store(&a->is_woken, false);
    credentials_run(a->credentials);
    start_tick(a);
}

static void drop_waking(struct lane_item *item)
{
    atomic_store(&of_waking(item)->is_woken, false); /* credentials_close() answers what waits */
}

static void on_wake(void *arg)
{
    struct arrivals *a = arg;

    if (!atomic_exchange(&a->is_woken, true))
        lane_push(broker_lane(a->broker), &a->waking);
}

/* ---- both ------------------------------------------------------------------------------------- */

static void on_leave(void *arg, struct waiter *waiter, struct waiting_verdict verdict)
{
    struct arrivals *a = arg;

    a->leave(a->arg, (struct arrival *)waiter, verdict);
}

bool arrivals_has(struct arrivals *a, struct text tenant, struct text agent)
{
    return waiting_has(agent.s ? a->names : a->tenants, tenant, agent);
}

struct waiting_verdict arrivals_enter(struct arrivals *a, struct arrival *arrival)
{
    return waiting_enter(arrival->waiter.agent.s ? a->names : a->tenants, &arrival->waiter, clock_now_ns());
}

void arrival_free(struct arrival *arrival)
{
    bus_msg_free(arrival->raw);
    if (arrival->sub)
        sub_unref(arrival->sub);
    free(arrival);
}

struct credentials *arrivals_credentials(struct arrivals *a)
{
    return a->credentials;
}

/* ---- life ----------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    free(handle);
}

/* A name that was removed, and whose connections are cut, is no new one when it comes back. */
static void on_credential(void *arg, const char *tenant, const char *agent, bool is_new)
{
    const struct arrivals *a = arg;

    if (is_new && tenant && agent)
        is_new = !revocation_is_cut(broker_revocation(a->broker), tenant, agent);
    credentials_changed(a->credentials, tenant, agent, is_new);
}

int arrivals_open(struct arrivals *a)
{
    uv_loop_t *loop = lane_loop(broker_lane(a->broker));
    int err = credentials_open(a->credentials, loop);

    if (err)
        return err;
    tenants_on_credential(broker_tenants(a->broker), on_credential, a);
    a->tick = calloc(1, sizeof *a->tick);
    if (!a->tick)
        return MUSTER_ENOMEM;
    ASSERT(uv_timer_init(loop, a->tick) == 0);
    a->tick->data = a;
    return 0;
}

void arrivals_close(struct arrivals *a)
{
    tenants_on_credential(broker_tenants(a->broker), NULL, NULL);
    credentials_close(a->credentials);
    if (a->tick)
        uv_close((uv_handle_t *)a->tick, on_closed);
    a->tick = NULL;
}

static struct waiting *room(struct arrivals *a, bool of_names)
{
    return waiting_new(&(struct waiting_options){
        .of_names = of_names, .ask = of_names ? on_ask_name : on_ask_tenant, .leave = on_leave, .arg = a});
}

struct arrivals *arrivals_new(struct broker *broker, arrivals_leave_fn leave, void *arg)
{
    struct arrivals *a = calloc(1, sizeof *a);
    struct credentials_options names = {.tenants = broker_tenants(broker), .wake = on_wake, .on_answer = on_answer, .arg = a};

    if (!a)
        return NULL;
    a->broker = broker;
    a->leave = leave;
    a->arg = arg;
    a->waking = (struct lane_item){.run = run_waking, .drop = drop_waking};
    a->tenants = room(a, false);
    a->names = room(a, true);
    if (a->tenants && a->names && credentials_new(&names, &a->credentials) == 0)
        return a;
    arrivals_free(a);
    return NULL;
}

/* What leaves the room for tenants now leaves; it does not go on to the other. */
void arrivals_free(struct arrivals *a)
{
    if (!a)
        return;
    waiting_free(a->tenants);
    waiting_free(a->names);
    credentials_free(a->credentials);
    free(a);
}
