/*
 * muster.sys/1: watch() is watchers.c's; here list(), which asks all servers page by page, and kick().
 *
 * A listing asks the servers who they are, then each for its clients, sorted by id. A page begins a little before the end of the last
 * one: when connections went meanwhile, and rows moved up, the two still touch, and no row is missed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "core/connections.h"
#include "core/instance.h"
#include "tenant/tenant.h"

enum { MAX_SERVERS = 256, MAX_ASKED = 4, MAX_LISTINGS = 4, MAX_PAGES = 4096, MAX_GONE = 65536, OVERLAP = SYS_PAGE / 4 };
enum { MAX_SUBJECT = 128, MAX_KEY = SYS_SERVER_SIZE + 24 };
static const int64_t answer_ns = 2 * CLOCK_S;

struct listed {
    struct listing *l;
    char id[SYS_SERVER_SIZE];
    uint64_t offset, last; /* of the page that is asked for; the last id that was shown */
    uint32_t n_pages;
    bool fresh, torn; /* no row of the page was read yet; it does not touch the one before */
};

/* Lane only. Ends when nothing is open any more. */
struct listing {
    struct listing *next;
    struct instance *in;
    muster_connections_fn fn;
    void *arg;
    char account[CONNECTIONS_ACCOUNT_SIZE];
    struct listed servers[MAX_SERVERS];
    uint32_t n_servers, n_active, n_begun, n_open;
    bool pinging;
    int code;
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

    for (struct listing *l = in->listings; l; l = l->next)
        if (l->gone.n >= MAX_GONE || !map_put(&l->gone, key, len, l))
            l->code = MUSTER_EAGAIN; /* what it shows cannot be trusted any more */
}

/* ---- asking ----------------------------------------------------------------------------------------------------------------- */

static int ask(struct instance *in, const char *subject, const char *body, const struct bus_call *call)
{
    struct bus_out out = {.subject = subject, .payload = {body, strlen(body)}, .fence = -1};

    return in->ending ? MUSTER_ELINK : instance_sent(in, BUS_SYSTEM, bus_request(broker_bus(in->broker), BUS_SYSTEM, &out, call));
}

static int ask_server(struct instance *in, const char *server, const char *what, const char *body, bus_reply_fn fn, void *arg)
{
    struct bus_call call = {.lane = in->lane, .owner = in, .timeout_ns = answer_ns, .fn = fn, .arg = arg};
    char subject[MAX_SUBJECT];

    (void)snprintf(subject, sizeof subject, "$SYS.REQ.SERVER.%s.%s", server, what); /* ids are bounded */
    return ask(in, subject, body, &call);
}

static void show(struct instance *in, muster_connections_fn fn, void *arg, int code, const struct muster_connection *connection)
{
    instance_enter(in, "connections", NULL);
    fn(arg, code, connection);
    instance_leave(in);
}

static void finish(struct listing *l)
{
    struct listing **at = &l->in->listings;

    if (l->pinging || l->n_open)
        return;
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    show(l->in, l->fn, l->arg, l->code, NULL);
    map_done(&l->gone);
    free(l);
}

/* The first fault is told, and a server that is late is not waited for. */
static void fail(struct listing *l, int code)
{
    if (!l->code)
        l->code = code == MUSTER_ENOTFOUND || code == MUSTER_EINVAL ? MUSTER_ETIME : code;
}

/* ---- pages ------------------------------------------------------------------------------------------------------------------ */

static void on_page(void *arg, int code, const struct bus_msg *msg);

static int ask_page(struct listed *s)
{
    struct buf body = {0};
    int err;

    buf_printf(&body, "{\"auth\":true,\"sort\":\"cid\",\"limit\":%d,\"offset\":%llu,\"acc\":", SYS_PAGE, (unsigned long long)s->offset);
    buf_put_json(&body, s->l->account, strlen(s->l->account));
    buf_putc(&body, '}');
    s->torn = false;
    s->fresh = true;
    err = buf_failed(&body) ? MUSTER_ENOMEM : ask_server(s->l->in, s->id, "CONNZ", body.data, on_page, s);
    buf_done(&body);
    return err;
}

static void begin_more(struct listing *l)
{
    while (l->n_begun < l->n_servers && l->n_open < MAX_ASKED) {
        int err = ask_page(&l->servers[l->n_begun++]);

        if (err)
            fail(l, err);
        else
            l->n_open++;
    }
}

static bool was_told_gone(const struct listing *l, const struct sys_client *client)
{
    char key[MAX_KEY];

    return map_get(&l->gone, key, gone_key(key, client->server, client->id)) != NULL;
}

static void show_row(void *arg, const struct sys_client *client)
{
    struct listed *s = arg;
    struct listing *l = s->l;
    const struct muster_tenant *tenant;
    struct muster_connection connection;

    if (s->fresh)
        s->torn = s->offset && client->id > s->last;
    s->fresh = false;
    if (s->torn || client->id <= s->last)
        return;
    s->last = client->id;
    if (l->in->ending || strcmp(client->account, l->account) != 0 || was_told_gone(l, client))
        return;
    tenant = connections_tenant(broker_connections(l->in->broker), l->in, client);
    if (!tenant)
        return;
    watchers_show(client, MUSTER_SYS_CONNECT, tenant, &connection);
    show(l->in, l->fn, l->arg, 0, &connection);
}

/* Where the next page begins; false: this was the last. */
static bool turn_page(struct listed *s, uint32_t n_rows)
{
    if (s->torn || (!n_rows && s->offset))
        s->offset -= s->offset < SYS_PAGE / 2 ? s->offset : SYS_PAGE / 2;
    else if (n_rows >= SYS_PAGE)
        s->offset += n_rows - OVERLAP;
    else
        return false;
    return true;
}

static void on_page(void *arg, int code, const struct bus_msg *msg)
{
    struct listed *s = arg;
    struct listing *l = s->l;
    struct sys_page page;
    bool more;

    if (!code)
        code = sys_read_page(bus_msg_data(msg), &page, show_row, s);
    more = !code && turn_page(s, page.n_rows);
    if (more)
        code = ++s->n_pages < MAX_PAGES ? ask_page(s) : MUSTER_EAGAIN; /* connections come and go faster than they are read */
    if (code)
        fail(l, code);
    if (!more || code)
        l->n_open--;
    begin_more(l);
    finish(l);
}

/* ---- servers ---------------------------------------------------------------------------------------------------------------- */

static void add_server(struct listing *l, const struct sys_server *server)
{
    struct listed *s = &l->servers[l->n_servers];

    l->n_active = server->n_active > l->n_active ? server->n_active : l->n_active;
    for (uint32_t i = 0; i < l->n_servers; i++)
        if (strcmp(l->servers[i].id, server->id) == 0)
            return;
    if (l->n_servers == MAX_SERVERS) {
        fail(l, MUSTER_EAGAIN);
        return;
    }
    *s = (struct listed){.l = l};
    memcpy(s->id, server->id, sizeof s->id);
    l->n_servers++;
}

/* Servers know how many they are: with the last of them there is nothing more to wait for. */
static void on_server(void *arg, int code, const struct bus_msg *msg)
{
    struct listing *l = arg;
    struct sys_server server;

    if (!code && sys_read_server(bus_msg_data(msg), &server) == 0)
        add_server(l, &server);
    if (!code && l->n_active && l->n_servers >= l->n_active)
        bus_cancel(broker_bus(l->in->broker), l);
    if (code) {
        l->pinging = false;
        if (!l->n_servers || l->n_servers < l->n_active)
            fail(l, code);
    }
    begin_more(l);
    finish(l);
}

static int ping(struct listing *l)
{
    struct bus_call call = {
        .lane = l->in->lane, .owner = l, .timeout_ns = answer_ns, .many = true, .fn = on_server, .arg = l};

    return ask(l->in, "$SYS.REQ.SERVER.PING", "", &call);
}

static int count_listings(const struct instance *in)
{
    int n = 0;

    for (const struct listing *l = in->listings; l; l = l->next)
        n++;
    return n;
}

static int sys_list(const struct muster_host *host, muster_connections_fn fn, void *arg)
{
    struct instance *in = instance_of(host);
    struct listing *l;
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
    l->in = in;
    l->fn = fn;
    l->arg = arg;
    l->pinging = true;
    err = connections_account(broker_connections(in->broker), l->account);
    if (!err)
        err = ping(l);
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

    if (client->id == k->client && strcmp(client->account, k->account) == 0 && *client->tenant)
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
    return err ? err : watchers_add(connections_watchers(broker_connections(in->broker)), in, fn, arg, ret_id);
}

static void sys_unwatch(const struct muster_host *host, uint64_t id)
{
    struct instance *in = instance_of(host);

    if (ON_LANE(in))
        watchers_remove(connections_watchers(broker_connections(in->broker)), in, id);
}

const struct muster_sys host_sys = {
    .size = sizeof host_sys, .watch = sys_watch, .unwatch = sys_unwatch, .list = sys_list, .kick = sys_kick};

/* What is asked of the servers ends with bus_cancel(). */
void host_sys_done(struct instance *in)
{
    if (broker_connections(in->broker))
        watchers_forget(connections_watchers(broker_connections(in->broker)), in);
    for (struct listing *l = in->listings; l; l = l->next)
        bus_cancel(broker_bus(in->broker), l);
}
