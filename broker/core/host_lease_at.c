/*
 * Whether the holder of a lease still has the connections that its record names; see host_lease.h. Lane only.
 *
 * Heard    The servers tell the system account of each connection that ends (departures.h): a lease is taken a moment later instead of
 *          when it runs out. A holder that lives has that moment to connect again and to renew; until it has, it puts nothing
 *          under its lease. So has one whose record comes after the end of what it names: it did not know yet that it is elsewhere.
 * Asked    Where nobody may have been there to hear it, the holder's server is asked: for a holder that was never seen before, and while
 *          its renewal is overdue. A server that does not answer says nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus/sys.h"
#include "core/departures.h"
#include "core/host_lease.h"

static const int64_t reconnect_ns = 750 * CLOCK_MS, answer_ns = 2 * CLOCK_S, ask_again_ns = CLOCK_S;

void lease_at_learn(struct instance *in, struct lease_at at[LEASE_N_AT])
{
    static const int links[LEASE_N_AT] = {BUS_LIVE, BUS_BULK};

    _Static_assert((int)LEASE_SERVER_SIZE == (int)BUS_SERVER_SIZE, "a server's id");
    for (int i = 0; i < LEASE_N_AT; i++)
        if (bus_where(broker_bus(in->broker), links[i], at[i].server, &at[i].client) != 0)
            at[i] = (struct lease_at){0};
}

/* ---- asking ----------------------------------------------------------------------------------------------------------------- */

struct question {
    struct instance *in;
    struct lease_at at;
    bool found;
};

static void on_row(void *arg, const struct sys_client *client)
{
    struct question *q = arg;

    q->found = q->found || client->id == q->at.client;
}

static void on_answer(void *arg, int code, const struct bus_msg *msg)
{
    struct question *q = arg;
    struct sys_page page;

    if (!code && sys_read_page(bus_msg_data(msg), &page, on_row, q) == 0 && !q->found && strcmp(page.server.id, q->at.server) == 0)
        departures_note(broker_departures(q->in->broker), q->at.server, q->at.client);
    free(q);
}

static int ask(struct instance *in, const struct lease_at *at)
{
    struct bus_call call = {.lane = in->lane, .owner = in, .timeout_ns = answer_ns, .fn = on_answer};
    char subject[LEASE_SERVER_SIZE + 32], body[48];
    struct bus_out out = {.subject = subject, .payload = {body, 0}, .fence = -1};
    struct question *q = malloc(sizeof *q);

    int err;

    if (!q)
        return MUSTER_ENOMEM;
    *q = (struct question){.in = in, .at = *at};
    call.arg = q;
    (void)snprintf(subject, sizeof subject, "$SYS.REQ.SERVER.%s.CONNZ", at->server);
    out.payload.len = (size_t)snprintf(body, sizeof body, "{\"cid\":%llu}", (unsigned long long)at->client);
    err = bus_request(broker_bus(in->broker), BUS_SYSTEM, &out, &call);
    if (err)
        free(q);
    return err;
}

/* The link may come up a moment later than the others. */
static void try_later(struct host_lease *h, int64_t now_ns)
{
    int64_t wait_ns = (50 * CLOCK_MS) << (h->n_unasked < 6 ? ++h->n_unasked : 6);

    if (broker_connections(h->in->broker))
        lease_look(&h->lease, now_ns + wait_ns);
}

static bool is_overdue(const struct lease *l, int64_t now_ns)
{
    return now_ns > l->seen_ns + 2 * (l->record.ttl_ns / 5);
}

/* A server that is lost may be out of sight only: then the holder goes on renewing. 0: the connection is not known to have ended. */
static int64_t free_at(struct host_lease *h, const struct lease_at *at)
{
    struct departures *d = broker_departures(h->in->broker);
    int64_t ended_ns = departures_when(d, at->server, at->client), lost_ns = departures_when(d, at->server, 0),
            silent_ns = h->lease.seen_ns + 2 * (h->lease.record.ttl_ns / 5);

    if (ended_ns)
        return ended_ns + reconnect_ns;
    if (!lost_ns)
        return 0;
    return lost_ns > silent_ns ? lost_ns : silent_ns;
}

static int ask_all(struct host_lease *h)
{
    int err = 0;

    for (int i = 0; i < LEASE_N_AT && !err; i++) {
        const struct lease_at *at = &h->lease.record.at[i];

        if (at->client && !free_at(h, at))
            err = ask(h->in, at);
    }
    return err;
}

static void ask_maybe(struct host_lease *h)
{
    const char *holder = h->lease.record.holder;
    int64_t now_ns = clock_boot_ns();
    bool is_new = strcmp(h->asked, holder) != 0;

    if (h->in->ending || !(is_new || is_overdue(&h->lease, now_ns)) || (!is_new && now_ns < h->asked_ns + ask_again_ns))
        return;
    if (ask_all(h) != 0) {
        try_later(h, now_ns);
        return;
    }
    (void)snprintf(h->asked, sizeof h->asked, "%s", holder);
    h->asked_ns = now_ns;
    h->n_unasked = 0;
}

void lease_at_judge(struct host_lease *h)
{
    const struct lease *l = &h->lease;
    int64_t free_ns = 0;

    if (l->epoch || l->gone || !l->record.held || strcmp(l->record.holder, l->me) == 0)
        return;
    for (int i = 0; i < LEASE_N_AT; i++) {
        const struct lease_at *at = &l->record.at[i];
        int64_t ns = at->client ? free_at(h, at) : 1;

        if (!ns) {
            ask_maybe(h);
            return;
        }
        free_ns = ns > free_ns ? ns : free_ns;
    }
    if (free_ns > 1) /* it named one */
        lease_holder_gone(&h->lease, free_ns > l->seen_ns + reconnect_ns ? free_ns : l->seen_ns + reconnect_ns);
}
