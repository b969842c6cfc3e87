/* What watch() of muster.sys/1 tells; see watchers.h. */
#include "core/watchers.h"

#include <stdio.h>

#include "base/clock.h"
#include "core/instance.h"

enum { SERVERS_SINCE_MINOR = 4 };

struct event {
    struct feed_event head;
    int kind;
    struct sys_client client; /* of a server: its id, and when */
};

void watchers_push(struct feed *watchers, int kind, const struct muster_tenant *tenant, const struct sys_client *client)
{
    const struct event e = {.head = {.tenant = tenant}, .kind = kind, .client = *client};

    feed_push(watchers, &e.head, sizeof e);
}

void watchers_server(struct feed *watchers, int kind, const char *server)
{
    struct event e = {.kind = kind, .client = {.at_wall_ns = clock_wall_ns()}};

    (void)snprintf(e.client.server, sizeof e.client.server, "%s", server);
    feed_push(watchers, &e.head, sizeof e);
}

void watchers_show(const struct sys_client *client, int kind, const struct muster_tenant *tenant, struct muster_connection *out)
{
    *out = (struct muster_connection){.size = sizeof *out,
                                      .kind = (uint32_t)kind,
                                      .tenant = tenant,
                                      .agent = tenant ? client->agent : NULL,
                                      .server = client->server,
                                      .client = client->id,
                                      .name = tenant ? client->name : NULL,
                                      .reason = kind == MUSTER_SYS_DISCONNECT ? client->reason : NULL,
                                      .at_wall_ns = client->at_wall_ns};
}

static void tell(struct instance *in, union feed_fn fn, void *arg, const struct feed_event *event)
{
    const struct event *e = (const struct event *)(const void *)event;
    struct muster_connection connection = {.size = sizeof connection, .kind = MUSTER_SYS_GAP, .at_wall_ns = clock_wall_ns()};

    if (e && (e->head.tenant || in->plugin->abi_minor >= SERVERS_SINCE_MINOR))
        watchers_show(&e->client, e->kind, e->head.tenant, &connection);
    if (connection.kind == MUSTER_SYS_DISCONNECT)
        host_sys_saw(in, connection.server, connection.client);
    instance_enter(in, "connection", NULL);
    fn.connection(arg, &connection);
    instance_leave(in);
}

int watchers_new(struct metric *gaps, struct feed **ret_watchers)
{
    return feed_new(&(struct feed_options){.max_queued = WATCHERS_MAX_QUEUED, .tell = tell, .gaps = gaps}, ret_watchers);
}
