/* muster.sys/1: watch() is watchers.c's, on a feed; here list(), on top of core/listing.h, and kick(). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "core/connections.h"
#include "core/instance.h"
#include "core/listing.h"
#include "tenant/tenant.h"

enum { MAX_LISTINGS = 4, MAX_GONE = 65536 };
enum { MAX_SUBJECT = 128, MAX_KEY = SYS_SERVER_SIZE + 24 };
static const int64_t answer_ns = 2 * CLOCK_S;

/* Lane only. */
struct sys_listing {
    struct sys_listing *next;
    struct instance *in;
    struct listing *listing;
    muster_connections_fn fn;
    void *arg;
    struct map gone; /* connections that the plugin was told meanwhile to have ended */
};

static size_t gone_key(char out[MAX_KEY], const char *server, uint64_t client)
{
    return (size_t)snprintf(out, MAX_KEY, "%s.%llu", server, (unsigned long long)client);
}

void host_sys_saw(struct instance *in, const char *server, uint64_t client)
{
    char key[MAX_KEY];
    size_t len = gone_key(key, server, client);

    for (struct sys_listing *l = in->listings; l; l = l->next)
        if (l->gone.n >= MAX_GONE || !map_put(&l->gone, key, len, l))
            listing_fail(l->listing, MUSTER_EAGAIN);
}

/* ---- asking ----------------------------------------------------------------------------------------------------------------- */

static int ask(struct instance *in, const struct bus_out *out, const struct bus_call *call)
{
    return in->ending ? MUSTER_ELINK : instance_sent(in, BUS_SYSTEM, bus_request(broker_bus(in->broker), BUS_SYSTEM, out, call));
}

static int ask_server(struct instance *in, const char *server, const char *what, const char *body, bus_reply_fn fn, void *arg)
{
    struct bus_call call = {.lane = in->lane, .owner = in, .timeout_ns = answer_ns, .fn = fn, .arg = arg};
    char subject[MAX_SUBJECT];

    (void)snprintf(subject, sizeof subject, "$SYS.REQ.SERVER.%s.%s", server, what); /* ids are bounded */
    return ask(in, &(struct bus_out){.subject = subject, .payload = {body, strlen(body)}, .fence = -1}, &call);
}

static void show(struct instance *in, muster_connections_fn fn, void *arg, int code, const struct muster_connection *connection)
{
    instance_enter(in, "connections", NULL);
    fn(arg, code, connection);
    instance_leave(in);
}

/* ---- list ------------------------------------------------------------------------------------------------------------------- */

static int ask_for_list(void *arg, const struct bus_out *out, const struct bus_call *call)
{
    const struct sys_listing *l = arg;

    return ask(l->in, out, call);
}

static bool was_told_gone(const struct sys_listing *l, const struct sys_client *client)
{
    char key[MAX_KEY];

    return map_get(&l->gone, key, gone_key(key, client->server, client->id)) != NULL;
}

static void show_row(void *arg, const struct sys_client *client, const struct sys_server *server)
{
    struct sys_listing *l = arg;
    const struct muster_tenant *tenant;
    struct muster_connection connection;

    (void)server;
    if (l->in->ending || was_told_gone(l, client))
        return;
    tenant = connections_tenant(broker_connections(l->in->broker), l->in, client);
    if (!tenant)
        return;
    watchers_show(client, MUSTER_SYS_CONNECT, tenant, &connection);
    show(l->in, l->fn, l->arg, 0, &connection);
}

static void end_list(void *arg, int code)
{
    struct sys_listing *l = arg, **at = &l->in->listings;

    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    show(l->in, l->fn, l->arg, code, NULL);
    map_done(&l->gone);
    free(l);
}

static int count_listings(const struct instance *in)
{
    int n = 0;

    for (const struct sys_listing *l = in->listings; l; l = l->next)
        n++;
    return n;
}

static int sys_list(const struct muster_host *host, muster_connections_fn fn, void *arg)
{
    struct instance *in = instance_of(host);
    struct listing_how how = {.bus = broker_bus(in->broker), .lane = in->lane, .ask = ask_for_list, .row = show_row, .end = end_list};
    struct sys_listing *l;
    int err = MAY_BEGIN(in);

    if (!err && !fn)
        err = MUSTER_EINVAL;
    if (!err && count_listings(in) >= MAX_LISTINGS)
        err = MUSTER_EAGAIN;
    if (err)
        return err;
    l = calloc(1, sizeof *l);
    if (!l)
        return MUSTER_ENOMEM;
    *l = (struct sys_listing){.in = in, .fn = fn, .arg = arg};
    how.arg = l;
    err = connections_account(broker_connections(in->broker), how.account);
    if (!err)
        err = listing_begin(&how, &l->listing);
    if (err) {
        free(l);
        return err;
    }
    l->next = in->listings;
    in->listings = l;
    return 0;
}

/* ---- kick ------------------------------------------------------------------------------------------------------------------- */

/* First a look at the connection: only an agent's may be cut. */
struct kick {
    struct instance *in;
    char server[SYS_SERVER_SIZE], account[CONNECTIONS_ACCOUNT_SIZE];
    uint64_t client;
    bool found;
    muster_done_fn done;
    void *arg;
};

static void end_kick(struct kick *k, int code)
{
    if (k->done) {
        instance_enter(k->in, "done", NULL);
        k->done(k->arg, code);
        instance_leave(k->in);
    }
    free(k);
}

static void on_kicked(void *arg, int code, const struct bus_msg *msg)
{
    end_kick(arg, code ? code : sys_read_kick(bus_msg_data(msg)));
}

static void keep_found(void *arg, const struct sys_client *client)
{
    struct kick *k = arg;

    if (client->id == k->client && strcmp(client->account, k->account) == 0 && *client->tenant && !client->is_operator)
        k->found = tenants_find(broker_tenants(k->in->broker), client->tenant, strlen(client->tenant)) != NULL;
}

static int ask_client(struct kick *k, const char *what, bus_reply_fn fn)
{
    char body[64];

    (void)snprintf(body, sizeof body, "{\"auth\":true,\"cid\":%llu}", (unsigned long long)k->client);
    return ask_server(k->in, k->server, what, body, fn, k);
}

static void on_found(void *arg, int code, const struct bus_msg *msg)
{
    struct kick *k = arg;
    struct sys_page page;

    if (!code)
        code = sys_read_page(bus_msg_data(msg), &page, keep_found, k);
    if (!code && !k->found)
        code = MUSTER_ENOTFOUND;
    if (!code && !page.server.can_kick)
        code = MUSTER_EABI;
    if (!code)
        code = ask_client(k, "KICK", on_kicked);
    if (code)
        end_kick(k, code);
}

static int sys_kick(const struct muster_host *host, const char *server, uint64_t client, muster_done_fn done, void *arg)
{
    struct instance *in = instance_of(host);
    struct kick *k;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!server || !name_is_legal(server, strlen(server)) || strlen(server) >= sizeof k->server || !client)
        return host->fail(host, MUSTER_EINVAL, "kick(): expected server and client as watch() or list() gave them");
    k = calloc(1, sizeof *k);
    if (!k)
        return MUSTER_ENOMEM;
    *k = (struct kick){.in = in, .client = client, .done = done, .arg = arg};
    (void)snprintf(k->server, sizeof k->server, "%s", server);
    err = connections_account(broker_connections(in->broker), k->account);
    if (!err)
        err = ask_client(k, "CONNZ", on_found);
    if (err)
        free(k);
    return err;
}

/* ---- watch ------------------------------------------------------------------------------------------------------------------ */

static int sys_watch(const struct muster_host *host, muster_connection_fn fn, void *arg, uint64_t *ret_id)
{
    struct instance *in = instance_of(host);
    int err = MAY_BEGIN(in);

    if (!err && !fn)
        err = MUSTER_EINVAL;
    return err ? err : feed_add(connections_watchers(broker_connections(in->broker)), in, (union feed_fn){.connection = fn}, arg, ret_id);
}

static void sys_unwatch(const struct muster_host *host, uint64_t id)
{
    struct instance *in = instance_of(host);

    if (ON_LANE(in))
        feed_remove(connections_watchers(broker_connections(in->broker)), in, id);
}

const struct muster_sys host_sys = {
    .size = sizeof host_sys, .watch = sys_watch, .unwatch = sys_unwatch, .list = sys_list, .kick = sys_kick};

/* What is asked of the servers ends with bus_cancel(). */
void host_sys_done(struct instance *in)
{
    if (broker_connections(in->broker))
        feed_forget(connections_watchers(broker_connections(in->broker)), in);
    for (struct sys_listing *l = in->listings; l; l = l->next)
        listing_cancel(l->listing);
}
