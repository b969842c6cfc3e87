/*
 * What nats-server says in its system account, on any bytes: every reader gets them. Who is shown has a server and an id, is an agent
 * with both names or with none, and has texts that are UTF-8.
 */
#include <string.h>

#include "base/assert.h"
#include "base/utf8.h"
#include "bus/sys.h"

static void check_client(void *arg, const struct sys_client *c)
{
    uint32_t *n = arg;

    (*n)++;
    ASSERT(c->id && *c->server);
    ASSERT(!*c->tenant == !*c->agent);
    ASSERT(!*c->tenant || (name_is_public(c->tenant, strlen(c->tenant)) && name_is_public(c->agent, strlen(c->agent))));
    ASSERT(utf8_is_valid(c->server, strlen(c->server)) && utf8_is_valid(c->name, strlen(c->name)) &&
           utf8_is_valid(c->reason, strlen(c->reason)));
    ASSERT(c->account && c->at_wall_ns >= 0);
}

static void check_peer(void *arg, const struct sys_peer *peer)
{
    const struct sys_meta *meta = arg;

    ASSERT(*meta->name && utf8_is_valid(peer->name, strlen(peer->name)) && peer->heard_ns >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct muster_bytes bytes = {data, size};
    struct sys_server server;
    struct sys_page page;
    struct sys_meta meta;
    uint32_t n = 0;
    int kind = 0;

    if (sys_read_event(bytes, &kind, check_client, &n) == 0)
        ASSERT(n == 1 && (kind == MUSTER_SYS_CONNECT || kind == MUSTER_SYS_DISCONNECT));
    else
        ASSERT(n == 0);
    n = 0;
    if (sys_read_page(bytes, &page, check_client, &n) == 0)
        ASSERT(n == page.n_rows && *page.server.id);
    if (sys_read_server(bytes, &server) == 0)
        ASSERT(name_is_legal(server.id, strlen(server.id)));
    if (sys_read_meta(bytes, &meta, check_peer, &meta) == 0)
        ASSERT(meta.has_jetstream || !*meta.leader || meta.is_clustered);
    (void)sys_read_kick(bytes);
    return 0;
}
