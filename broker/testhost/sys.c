/* muster.sys/1 of the test host: connections that the test makes and ends. Lane only. */
#include <stdlib.h>
#include <string.h>

#include "testhost/inside.h"

enum { SERVERS_SINCE_MINOR = 4 };

struct connection {
    char *tenant, *agent, *server;
    uint64_t client;
    int64_t at_wall_ns;
};
struct watch {
    uint64_t id;
    muster_connection_fn fn;
    void *arg;
};
struct op {
    struct due due;
    muster_connections_fn list;
    muster_done_fn done;
    void *arg;
    char *server;
    uint64_t client;
};
struct event {
    uint32_t kind;
    const struct connection *connection; /* NULL with GAP and of servers */
    const char *reason;
    const char *server; /* of servers */
};

static struct connection *find(struct muster_test *t, const char *server, uint64_t client, size_t *ret_i)
{
    for (size_t i = 0; i < t->connections.n; i++) {
        struct connection *c = t->connections.items[i];

        *ret_i = i;
        if (c->client == client && strcmp(c->server, server) == 0)
            return c;
    }
    return NULL;
}

static bool is_lost(const struct muster_test *t, const char *server)
{
    for (size_t i = 0; i < t->lost_servers.n; i++)
        if (strcmp(t->lost_servers.items[i], server) == 0)
            return true;
    return false;
}

static void connection_free(struct connection *c)
{
    free(c->tenant);
    free(c->agent);
    free(c->server);
    free(c);
}

static struct muster_connection *fill(struct muster_test *t, struct arena *a, const struct event *e)
{
    struct muster_connection *out = arena_take(a, sizeof *out);
    const struct connection *c = e->connection;

    *out = (struct muster_connection){
        .size = sizeof *out, .kind = e->kind, .reason = arena_text(a, e->reason), .at_wall_ns = muster_test_wall_now(t)};
    out->server = arena_text(a, e->server);
    if (!c)
        return out;
    out->tenant = tenant_named(t, c->tenant, strlen(c->tenant));
    out->agent = arena_text(a, c->agent);
    out->server = arena_text(a, c->server);
    out->client = c->client;
    out->name = arena_text(a, "test");
    if (e->kind == MUSTER_SYS_CONNECT)
        out->at_wall_ns = c->at_wall_ns;
    return out;
}

static void tell(struct muster_test *t, uint64_t watch, const struct event *e)
{
    for (size_t i = 0; i < t->sys_watches.n; i++) {
        struct watch *w = t->sys_watches.items[i];
        struct arena *a;

        if (watch && w->id != watch)
            continue;
        a = arena_new(4096);
        DURING(t, "connection", e->connection ? e->connection->agent : "gap", w->fn(w->arg, fill(t, a, e)));
        arena_end(a, "a connection");
    }
}

static void run_first(struct muster_test *t, struct due *d, int code)
{
    if (!code)
        tell(t, d->owner, &(struct event){.kind = MUSTER_SYS_GAP});
    free(d);
}

static int sys_watch(const struct muster_host *host, muster_connection_fn fn, void *arg, uint64_t *ret_id)
{
    struct muster_test *t = test_of(host, CALL_SYS_WATCH);
    int err = call_begin(t, CALL_SYS_WATCH);
    struct watch *w;
    struct due *d;

    if (!err && (!fn || !ret_id))
        err = breach(t, CALL_SYS_WATCH, "%s is NULL", fn ? "ret_id" : "fn");
    if (err)
        return err;
    w = must_alloc(sizeof *w);
    *w = (struct watch){++t->next_id, fn, arg};
    list_add(&t->sys_watches, w);
    d = must_alloc(sizeof *d);
    *d = (struct due){.kind = DUE_POST, .callback = -1, .owner = w->id, .run = run_first};
    due_add(t, d, t->now_ns);
    *ret_id = w->id;
    return 0;
}

static void sys_unwatch(const struct muster_host *host, uint64_t id)
{
    struct muster_test *t = test_of(host, CALL_SYS_UNWATCH);

    if (call_begin(t, CALL_SYS_UNWATCH) != 0)
        return;
    for (size_t i = 0; i < t->sys_watches.n; i++) {
        struct watch *w = t->sys_watches.items[i];

        if (w->id != id)
            continue;
        list_remove(&t->sys_watches, i);
        free(w);
        return;
    }
    (void)breach(t, CALL_SYS_UNWATCH, "%llu is no watch", (unsigned long long)id);
}

static void run_list(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;

    for (size_t i = 0; i < t->connections.n && !code; i++) {
        struct arena *a;
        struct muster_connection *c;

        if (is_lost(t, ((struct connection *)t->connections.items[i])->server))
            continue;
        a = arena_new(4096);
        c = fill(t, a, &(struct event){.kind = MUSTER_SYS_CONNECT, .connection = t->connections.items[i]});
        DURING(t, "connections", NULL, op->list(op->arg, 0, c));
        arena_end(a, "a connection");
    }
    DURING(t, "connections", NULL, op->list(op->arg, code, NULL));
    free(op);
}

static int sys_list(const struct muster_host *host, muster_connections_fn fn, void *arg)
{
    struct muster_test *t = test_of(host, CALL_SYS_LIST);
    int err = call_begin(t, CALL_SYS_LIST);
    struct op *op;

    if (!err && !fn)
        err = breach(t, CALL_SYS_LIST, "fn is NULL");
    if (!err && !t->up)
        err = MUSTER_ELINK;
    if (err)
        return err;
    op = must_alloc(sizeof *op);
    *op = (struct op){.due = {.kind = DUE_LINK, .callback = CALL_SYS_LIST_CB, .run = run_list}, .list = fn, .arg = arg};
    due_add(t, &op->due, t->now_ns);
    return 0;
}

static void end_connection(struct muster_test *t, struct connection *c, size_t i, const char *reason)
{
    list_remove(&t->connections, i);
    if (!is_lost(t, c->server)) /* nobody hears it */
        tell(t, 0, &(struct event){.kind = MUSTER_SYS_DISCONNECT, .connection = c, .reason = reason});
    connection_free(c);
}

static void run_kick(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;
    size_t i = 0;
    struct connection *c = code ? NULL : find(t, op->server, op->client, &i);

    if (!code && !c)
        code = MUSTER_ENOTFOUND;
    if (op->done)
        DURING(t, "kick", NULL, op->done(op->arg, code));
    if (c)
        end_connection(t, c, i, "Kicked");
    free(op->server);
    free(op);
}

static int sys_kick(const struct muster_host *host, const char *server, uint64_t client, muster_done_fn done, void *arg)
{
    struct muster_test *t = test_of(host, CALL_SYS_KICK);
    int err = call_begin(t, CALL_SYS_KICK);
    struct op *op;

    if (!err && is_stale(t, CALL_SYS_KICK, "server", server))
        err = MUSTER_EINVAL;
    if (!err && !server)
        err = breach(t, CALL_SYS_KICK, "server is NULL");
    if (!err && !t->up)
        err = MUSTER_ELINK;
    if (err)
        return err;
    op = must_alloc(sizeof *op);
    *op = (struct op){.due = {.kind = DUE_LINK, .callback = CALL_SYS_KICK_CB, .run = run_kick},
                      .done = done,
                      .arg = arg,
                      .server = must_copy(server),
                      .client = client};
    due_add(t, &op->due, t->now_ns);
    return 0;
}

const struct muster_sys test_sys = {
    .size = sizeof test_sys, .watch = sys_watch, .unwatch = sys_unwatch, .list = sys_list, .kick = sys_kick};

void muster_test_connect(struct muster_test *t, const char *tenant, const char *agent, const char *server, uint64_t client)
{
    const struct muster_tenant *whose = tenant_need(t, tenant);
    struct connection *c;

    if (!whose)
        return;
    c = must_alloc(sizeof *c);
    *c = (struct connection){must_copy(whose->name), must_copy(agent), must_copy(server ? server : "NTEST"), client,
                             muster_test_wall_now(t)};
    list_add(&t->connections, c);
    if (!is_lost(t, c->server))
        tell(t, 0, &(struct event){.kind = MUSTER_SYS_CONNECT, .connection = c});
    muster_test_run(t);
}

void muster_test_disconnect(struct muster_test *t, const char *server, uint64_t client, const char *reason)
{
    size_t i = 0;
    struct connection *c = find(t, server ? server : "NTEST", client, &i);

    if (c)
        end_connection(t, c, i, reason ? reason : "Client Closed");
    else
        fail_test(t, "muster_test_disconnect(): client %llu is not connected", (unsigned long long)client);
    muster_test_run(t);
}

void muster_test_gap(struct muster_test *t)
{
    tell(t, 0, &(struct event){.kind = MUSTER_SYS_GAP});
    muster_test_run(t);
}

void muster_test_server(struct muster_test *t, const char *server, int up)
{
    const char *id = server ? server : "NTEST";
    bool was_lost = is_lost(t, id), knows = t->plugin && t->plugin->abi_minor >= SERVERS_SINCE_MINOR;

    if (was_lost == !up)
        return;
    for (size_t i = t->lost_servers.n; was_lost && i-- > 0;)
        if (strcmp(t->lost_servers.items[i], id) == 0) {
            free(t->lost_servers.items[i]);
            list_remove(&t->lost_servers, i);
        }
    if (!was_lost)
        list_add(&t->lost_servers, must_copy(id));
    if (knows)
        tell(t, 0, &(struct event){.kind = up ? MUSTER_SYS_SERVER_BACK : MUSTER_SYS_SERVER_LOST, .server = id});
    else
        tell(t, 0, &(struct event){.kind = MUSTER_SYS_GAP});
    muster_test_run(t);
}

void sys_end(struct muster_test *t)
{
    for (size_t i = 0; i < t->sys_watches.n; i++)
        free(t->sys_watches.items[i]);
    list_done(&t->sys_watches);
}

void sys_free(struct muster_test *t)
{
    sys_end(t);
    for (size_t i = 0; i < t->connections.n; i++)
        connection_free(t->connections.items[i]);
    list_done(&t->connections);
    for (size_t i = 0; i < t->lost_servers.n; i++)
        free(t->lost_servers.items[i]);
    list_done(&t->lost_servers);
}
