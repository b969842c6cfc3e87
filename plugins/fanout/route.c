/* Where messages of one subject go: to which nodes, and of which channel they are; remembered, because one table brings thousands of one subject.
 * See watch.h. */
#include <string.h>

#include "base/hash.h"
#include "fanout/watch.h"

void routes_forget(struct watches *ws)
{
    ws->routes_serial++;
}

static bool is_of(const struct route *r, const struct watches *ws, const struct muster_tenant *tenant, const char *subject, size_t len)
{
    return r->serial == ws->routes_serial && r->tenant == tenant && r->len == len && memcmp(r->subject, subject, len) == 0;
}

static void find_nodes(struct watches *ws, struct route *r, const char *subject)
{
    for (size_t at = 0; at <= r->len; at++) {
        struct node *node;

        at += strcspn(subject + at, ".");
        node = node_get(ws, r->tenant, subject, at, false);
        if (node && r->n_nodes < ROUTE_NODES)
            r->nodes[r->n_nodes] = node;
        r->n_nodes += node != NULL;
    }
}

/* Tenants have the same tables: their handles alone tell their subjects apart. */
static size_t place_of(const struct muster_tenant *tenant, const char *subject, size_t len)
{
    uint64_t h = (hash_bytes(subject, len) ^ (uintptr_t)tenant) * 0x9e3779b97f4a7c15u;

    return 2 * (size_t)(h >> 32) % ROUTES;
}

struct route *route_of(struct watches *ws, const struct muster_tenant *tenant, const char *subject)
{
    size_t len = strlen(subject);
    struct route *r = &ws->routes[place_of(tenant, subject, len)];
    const struct tenant_watches *tw;

    for (size_t i = 0; len < ROUTE_SUBJECT && i < 2; i++)
        if (is_of(&r[i], ws, tenant, subject, len))
            return &r[i];
    r[1] = r[0];
    *r = (struct route){.serial = len < ROUTE_SUBJECT ? ws->routes_serial : 0, .tenant = tenant, .len = len};
    if (len < ROUTE_SUBJECT)
        memcpy(r->subject, subject, len);
    tw = tenant ? map_get(&ws->tenants, &tenant, sizeof tenant) : NULL;
    r->watched = tw != NULL;
    if (!tw)
        return r;
    r->shard = tw->shard;
    r->channel_len = channel_of(subject);
    find_nodes(ws, r, subject);
    return r;
}
