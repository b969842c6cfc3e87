/* What a child has until it lets go: leases that it contends for, connections that it watches; see proxy.h. */
#include <stdlib.h>
#include <string.h>

#include "child/proxy_parts.h"

/* One lease, under the child's number. */
struct want {
    struct ward *child;
    uint64_t id, host_id; /* host_id 0: not contended for, while the child is stalled */
    uint64_t epoch;       /* that the child was told; 0: it has it not */
    int64_t ttl_ns, until_ns;
    char name[];
};

struct watched {
    struct ward *child;
    uint64_t id, host_id;
};

/* ---- leases --------------------------------------------------------------------------------------------------------------------- */

static void tell_got(struct want *w)
{
    struct frame f = ward_begin(w->child, FRAME_LEASE_GOT, w->id);

    frame_put_u64(&f, w->epoch);
    frame_put_i64(&f, w->until_ns);
    ward_end(w->child, &f);
}

static void tell_lost(struct want *w, int code)
{
    struct frame f;

    if (!w->epoch)
        return;
    w->epoch = 0;
    f = ward_begin(w->child, FRAME_LEASE_LOST, w->id);
    frame_put_i32(&f, code);
    ward_end(w->child, &f);
}

/* A child that hangs loses its leases STALL_NS after its last word: what it is told ends before, and is told anew with each tick. */
static int64_t until_of(const struct want *w)
{
    const struct proxy_options *how = &w->child->proxy->how;
    int64_t until_ns = how->hooks->lease_until(how->arg, w->host_id), told_ns = clock_boot_ns() + LEASE_TOLD_NS;

    return until_ns < told_ns ? until_ns : told_ns;
}

static void on_got(void *arg, uint64_t epoch)
{
    struct want *w = arg;

    w->epoch = epoch;
    w->until_ns = until_of(w);
    tell_got(w);
}

static void on_lost(void *arg, int code)
{
    tell_lost(arg, code);
}

static int contend(struct want *w)
{
    struct proxy *p = w->child->proxy;
    const struct muster_lease_options options = {
        .size = sizeof options, .name = w->name, .ttl_ns = w->ttl_ns, .on_got = on_got, .on_lost = on_lost, .arg = w};

    return p->lease->acquire(p->host, &options, &w->host_id);
}

static void let_go(struct want *w)
{
    struct proxy *p = w->child->proxy;

    if (w->host_id)
        p->lease->release(p->host, w->host_id);
    w->host_id = 0;
}

enum taken take_lease(struct ward *c, struct frame_reader *r)
{
    const char *name = frame_get_str(r);
    int64_t ttl_ns = frame_get_i64(r);
    struct want *w;
    int err;

    if (!frame_is_read(r) || !name || !r->id || id_get(&c->leases, r->id))
        return ward_malformed(c, r);
    if (c->leases.n >= MAX_LEASES)
        return ward_breach(c, "it contends for more than %d leases", MAX_LEASES);
    w = calloc(1, sizeof *w + strlen(name) + 1);
    if (!w || !id_put(&c->leases, r->id, w)) {
        free(w);
        ward_kill(c, "no memory for its lease");
        return BROKEN;
    }
    w->child = c;
    w->id = r->id;
    w->ttl_ns = ttl_ns;
    memcpy(w->name, name, strlen(name) + 1);
    err = contend(w);
    if (!err || err == MUSTER_ELINK) /* the instance ends */
        return TAKEN;
    if (err == MUSTER_EINVAL)
        return ward_breach(c, "its lease \"%.100s\" has no legal name or time", name);
    ward_kill(c, "its lease \"%.100s\" cannot be contended for (error %d)", name, err);
    return BROKEN;
}

enum taken take_lease_release(struct ward *c, struct frame_reader *r)
{
    struct want *w;

    if (!frame_is_read(r))
        return ward_malformed(c, r);
    w = id_take(&c->leases, r->id);
    if (w)
        let_go(w);
    free(w);
    return TAKEN;
}

bool held_lease(struct ward *c, uint64_t id, uint64_t *ret_host_id)
{
    const struct want *w = id_get(&c->leases, id);

    *ret_host_id = w ? w->host_id : 0;
    return w != NULL;
}

/* The child knows by the clock how long it has it; each renewal moves that on. */
void held_tick(struct ward *c)
{
    void *value;

    for (size_t at = 0; c->state != WARD_OVER && map_next(&c->leases, &at, NULL, &value);) {
        struct want *w = value;
        int64_t until_ns = w->epoch && w->host_id ? until_of(w) : 0;

        if (!until_ns)
            continue;
        w->until_ns = until_ns;
        tell_got(w);
    }
}

void held_stalled(struct ward *c, bool on)
{
    void *value;

    for (size_t at = 0; c->state != WARD_OVER && map_next(&c->leases, &at, NULL, &value);) {
        struct want *w = value;

        if (on) {
            let_go(w);
            tell_lost(w, MUSTER_ETIME);
        } else if (contend(w) != 0) {
            ward_kill(c, "its lease \"%.100s\" cannot be contended for again", w->name);
        }
    }
}

/* ---- connections ----------------------------------------------------------------------------------------------------------------- */

void put_connection(struct frame *f, const struct muster_connection *connection, uint64_t tenant)
{
    frame_put_u32(f, connection->kind);
    frame_put_u64(f, tenant);
    frame_put_str(f, connection->agent);
    frame_put_str(f, connection->server);
    frame_put_u64(f, connection->client);
    frame_put_str(f, connection->name);
    frame_put_str(f, connection->reason);
    frame_put_i64(f, connection->at_wall_ns);
}

static void on_connection(void *arg, const struct muster_connection *connection)
{
    const struct watched *w = arg;
    uint64_t tenant = connection->tenant ? tenant_number(w->child, connection->tenant) : 0;
    struct frame f;

    if (connection->tenant && !tenant)
        return;
    f = ward_begin(w->child, FRAME_SYS_EVENT, w->id);
    put_connection(&f, connection, tenant);
    ward_end(w->child, &f);
}

enum taken take_sys_watch(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    struct watched *w;
    int err;

    if (!frame_is_read(r) || !r->id || id_get(&c->watches, r->id))
        return ward_malformed(c, r);
    if (!p->sys)
        return ward_breach(c, "it watches connections without the capability \"system\"");
    if (c->watches.n >= MAX_WATCHES)
        return ward_breach(c, "it has more than %d watches", MAX_WATCHES);
    w = calloc(1, sizeof *w);
    if (!w || !id_put(&c->watches, r->id, w)) {
        free(w);
        ward_kill(c, "no memory for its watch");
        return BROKEN;
    }
    w->child = c;
    w->id = r->id;
    err = p->sys->watch(p->host, on_connection, w, &w->host_id);
    if (!err || err == MUSTER_ELINK)
        return TAKEN;
    ward_kill(c, "connections cannot be watched (error %d)", err);
    return BROKEN;
}

static void unwatch(struct watched *w)
{
    struct proxy *p = w->child->proxy;

    if (w->host_id)
        p->sys->unwatch(p->host, w->host_id);
    free(w);
}

enum taken take_sys_unwatch(struct ward *c, struct frame_reader *r)
{
    struct watched *w;

    if (!frame_is_read(r))
        return ward_malformed(c, r);
    w = id_take(&c->watches, r->id);
    if (w)
        unwatch(w);
    return TAKEN;
}

void held_child_over(struct ward *c)
{
    void *value;

    for (size_t at = 0; map_next(&c->leases, &at, NULL, &value); free(value))
        let_go(value);
    map_done(&c->leases);
    c->leases = (struct map){0};
    for (size_t at = 0; map_next(&c->watches, &at, NULL, &value);)
        unwatch(value);
    map_done(&c->watches);
    c->watches = (struct map){0};
}
