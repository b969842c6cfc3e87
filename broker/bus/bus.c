/* The links themselves; see bus.h. */
#include <stdlib.h>

#include "base/assert.h"
#include "bus/parts.h"

enum { SYSTEM_OUT_MSGS = 1024 };

static const char *const link_names[] = {"bulk", "live", "system", "callout"};

static void on_state(void *arg, bool up, const char *reason)
{
    struct side *side = arg;

    if (!up) {
        (void)lane_let_late_wakes(INT64_MAX); /* nothing is read for a while */
        calls_end_of_link(side->bus, side->index);
    }
    side->bus->options.on_link(side->bus->options.arg, side->index, up, reason);
}

static void on_writable(void *arg)
{
    struct side *side = arg;

    side->bus->options.on_writable(side->bus->options.arg, side->index);
}

static void on_pressure(void *arg, bool on)
{
    struct side *side = arg;

    if (side->bus->options.on_pressure)
        side->bus->options.on_pressure(side->bus->options.arg, side->index, on);
}

static void on_tick(void *arg, int64_t now_ns)
{
    struct side *side = arg;
    struct bus *b = side->bus;
    bool tell;

    bus_msgs_flush();
    calls_end_late(b, side->index, now_ns);
    tell = calls_relieved(b);
    for (int link = 0; link < BUS_N_LINKS && tell; link++) /* whose call it was is not known */
        b->options.on_writable(b->options.arg, link);
}

static void on_end(void *arg)
{
    (void)arg; /* it is the thread's */
    (void)lane_let_late_wakes(INT64_MAX);
    bus_msgs_flush();
}

/* NULL: that of the options themselves. */
static const struct bus_login *login_of(const struct bus_options *options, int index)
{
    return index == BUS_SYSTEM ? options->system : index == BUS_CALLOUT ? options->callout : NULL;
}

static int open_side(struct bus *b, int index)
{
    struct side *side = &b->sides[index];
    struct link_hooks hooks = {subs_on_connected, subs_on_resync, subs_on_read, on_state, on_writable, on_pressure, on_tick, on_end, side};
    struct bus_options options = b->options;
    const struct bus_login *login = login_of(&options, index);

    clock_uuid7(side->id);
    side->bus = b;
    side->index = index;
    if (login) {
        options.creds = login->creds;
        options.user = login->user;
        options.password = login->password;
    }
    if (index == BUS_SYSTEM)
        options.max_out_msgs = SYSTEM_OUT_MSGS;
    /* The server judges each answer where it reads this link: in a burst of logins it comes to a ping late, and a link that is given up
     * takes all answers with it. */
    options.patient = index == BUS_CALLOUT;
    return link_open(&options, link_names[index], &hooks, &side->link);
}

int bus_open(const struct bus_options *options, struct bus **ret_bus)
{
    struct bus *b = calloc(1, sizeof *b);
    int err = b ? 0 : MUSTER_ENOMEM;

    if (err)
        return err;
    b->options = *options;
    ASSERT(pthread_mutex_init(&b->lock, NULL) == 0 && pthread_cond_init(&b->detached, NULL) == 0);
    *ret_bus = b; /* before the first link may be up: on_link asks about it */
    if (nats_Open(-1) != NATS_OK || nats_SetMessageDeliveryPoolSize(2) != NATS_OK)
        err = MUSTER_ENOMEM;
    for (int i = 0; !err && i < BUS_N_LINKS; i++)
        err = i >= BUS_SYSTEM && !login_of(options, i) ? 0 : open_side(b, i);
    b->options.system = b->options.callout = NULL; /* their strings were copied */
    if (err) {
        bus_close(b, 0);
        *ret_bus = NULL;
    }
    return err;
}

void bus_close(struct bus *b, int64_t timeout_ns)
{
    if (!b)
        return;
    for (int i = 0; i < BUS_N_LINKS; i++) {
        if (b->sides[i].link)
            link_drain(b->sides[i].link, timeout_ns);
        link_stop(b->sides[i].link);
        for (int k = 0; k < 1 + BUS_N_ANSWERS; k++)
            natsSubscription_Destroy(b->sides[i].inboxes[k]);
    }
    subs_end(b);
    (void)nats_CloseAndWait(0); /* until its threads have ended; fails only when nats_Open() did */
    for (int i = 0; i < BUS_N_LINKS; i++)
        link_free(b->sides[i].link);
    free(b->calls);
    free(b->free_slots);
    free(b->generations);
    (void)pthread_cond_destroy(&b->detached);
    (void)pthread_mutex_destroy(&b->lock);
    free(b);
}

bool bus_is_up(const struct bus *b, int link)
{
    return b->sides[link].link && link_is_up(b->sides[link].link);
}

int bus_where(const struct bus *b, int link, char server[BUS_SERVER_SIZE], uint64_t *ret_client)
{
    return b->sides[link].link ? link_where(b->sides[link].link, server, ret_client) : MUSTER_ELINK;
}

int bus_server_version(const struct bus *b, int link, struct bus_version *ret_version)
{
    return b->sides[link].link ? link_server_version(b->sides[link].link, ret_version) : MUSTER_ELINK;
}

void bus_go(struct bus *b, int link)
{
    link_go(b->sides[link].link);
}

bool bus_is_starved(struct bus *b, int link)
{
    bool starved;

    pthread_mutex_lock(&b->lock);
    starved = b->calls_starved;
    pthread_mutex_unlock(&b->lock);
    return starved || (b->sides[link].link && link_is_starved(b->sides[link].link));
}

uint64_t bus_connects(const struct bus *b, int link)
{
    return b->sides[link].link ? link_connects(b->sides[link].link) : 0;
}

void bus_counters(const struct bus *b, int link, struct bus_counters *ret)
{
    *ret = (struct bus_counters){0};
    if (b->sides[link].link)
        link_counters(b->sides[link].link, ret);
}
