/* Who waits until the registry has asked the database; see arrivals.h. */
#include "core/arrivals.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/name.h"
#include "core/broker.h"
#include "core/inbox.h"
#include "core/lane.h"
#include "tenant/tenant.h"

enum { TICK_MS = 250 };

struct arrivals {
    struct broker *broker;
    struct waiting *waiting;
    arrivals_leave_fn leave;
    void *arg;
    uv_timer_t *tick; /* core lane only; runs while somebody waits. NULL: not opened */
};

/* One tenant's name on its way to the core lane. */
struct question {
    struct lane_item item;
    struct arrivals *arrivals;
    size_t len;
    char name[NAME_MAX_LEN];
};

static void answer(struct question *q, int what)
{
    waiting_answer(q->arrivals->waiting, (struct text){q->name, q->len}, what, clock_now_ns());
    free(q);
}

static void on_found(void *arg, int code, const struct muster_tenant *tenant)
{
    (void)tenant; /* the registry has it */
    answer(arg, code == 0                  ? WAITING_KNOWN
                : code == MUSTER_ENOTFOUND ? WAITING_UNKNOWN
                                           : WAITING_AWAY);
}

static void on_tick(uv_timer_t *timer)
{
    struct arrivals *a = timer->data;

    if (!waiting_tick(a->waiting, clock_now_ns()))
        (void)uv_timer_stop(timer);
}

static void run_question(struct lane_item *item)
{
    struct question *q = (struct question *)item;
    struct arrivals *a = q->arrivals;
    int err = tenants_refresh(broker_tenants(a->broker), q->name, q->len, on_found, q);

    if (err)
        on_found(q, err, NULL);
    else if (a->tick && !uv_is_active((uv_handle_t *)a->tick))
        ASSERT(uv_timer_start(a->tick, on_tick, TICK_MS, TICK_MS) == 0);
}

/* The core lane has ended. */
static void drop_question(struct lane_item *item)
{
    answer((struct question *)item, WAITING_AWAY);
}

static void on_ask(void *arg, const char *name, size_t len)
{
    struct arrivals *a = arg;
    struct question *q = calloc(1, sizeof *q);

    if (!q) {
        waiting_answer(a->waiting, (struct text){name, len}, WAITING_AWAY, clock_now_ns());
        return;
    }
    *q = (struct question){
        .item = {.run = run_question, .drop = drop_question}, .arrivals = a, .len = len};
    memcpy(q->name, name, len);
    lane_push(broker_lane(a->broker), &q->item);
}

static void on_leave(void *arg, struct waiter *waiter, struct waiting_verdict verdict)
{
    struct arrivals *a = arg;

    a->leave(a->arg, (struct arrival *)waiter, verdict);
}

bool arrivals_has(struct arrivals *a, struct text tenant)
{
    return waiting_has(a->waiting, tenant);
}

struct waiting_verdict arrivals_enter(struct arrivals *a, struct arrival *arrival)
{
    return waiting_enter(a->waiting, &arrival->waiter, clock_now_ns());
}

void arrival_free(struct arrival *arrival)
{
    bus_msg_free(arrival->raw);
    if (arrival->sub)
        sub_unref(arrival->sub);
    free(arrival);
}

/* ---- life ----------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    free(handle);
}

int arrivals_open(struct arrivals *a)
{
    a->tick = calloc(1, sizeof *a->tick);
    if (!a->tick)
        return MUSTER_ENOMEM;
    ASSERT(uv_timer_init(lane_loop(broker_lane(a->broker)), a->tick) == 0);
    a->tick->data = a;
    return 0;
}

void arrivals_close(struct arrivals *a)
{
    if (a->tick)
        uv_close((uv_handle_t *)a->tick, on_closed);
    a->tick = NULL;
}

struct arrivals *arrivals_new(struct broker *broker, arrivals_leave_fn leave, void *arg)
{
    struct arrivals *a = calloc(1, sizeof *a);

    if (!a)
        return NULL;
    *a = (struct arrivals){.broker = broker, .leave = leave, .arg = arg};
    a->waiting = waiting_new(&(struct waiting_options){.ask = on_ask, .leave = on_leave, .arg = a});
    if (a->waiting)
        return a;
    free(a);
    return NULL;
}

void arrivals_free(struct arrivals *a)
{
    if (!a)
        return;
    waiting_free(a->waiting);
    free(a);
}
