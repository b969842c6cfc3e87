/* muster.sys/1 of a child; see host.h. On the lane. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "child/host.h"

struct watch {
    uint64_t id;
    muster_connection_fn fn;
    void *arg;
};

static struct muster_connection get_connection(struct child *c, struct frame_reader *r)
{
    struct muster_connection con = {.size = sizeof con};

    con.kind = frame_get_u32(r);
    con.tenant = (const struct muster_tenant *)(const void *)tenant_of_id(c, frame_get_u64(r));
    con.agent = frame_get_str(r);
    con.server = frame_get_str(r);
    con.client = frame_get_u64(r);
    con.name = frame_get_str(r);
    con.reason = frame_get_str(r);
    con.at_wall_ns = frame_get_i64(r);
    return con;
}

static int sys_watch(const struct muster_host *host, muster_connection_fn fn, void *arg, uint64_t *ret_id)
{
    struct child *c = child_of(host);
    struct watch *w;
    struct frame f;
    int err = MAY_BEGIN(&c->in);

    if (err)
        return err;
    if (!fn)
        return host->fail(host, MUSTER_EINVAL, "watch(): expected a function");
    if (c->watches.n >= CHILD_MAX_WATCHES)
        return child_refuse_more(c, "watches", CHILD_MAX_WATCHES);
    w = malloc(sizeof *w);
    if (!w)
        return MUSTER_ENOMEM;
    *w = (struct watch){child_next_id(c), fn, arg};
    err = idmap_put(&c->watches, w->id, w) ? 0 : MUSTER_ENOMEM;
    if (!err) {
        f = pipe_begin(c->pipe, FRAME_SYS_WATCH, w->id);
        err = child_send(c, &f);
    }
    if (err) {
        (void)idmap_take(&c->watches, w->id);
        free(w);
        return err;
    }
    *ret_id = w->id;
    return 0;
}

static void sys_unwatch(const struct muster_host *host, uint64_t id)
{
    struct child *c = child_of(host);
    struct watch *w;

    if (!ON_LANE(&c->in))
        return;
    w = idmap_take(&c->watches, id);
    if (!w)
        return;
    free(w);
    (void)pipe_put(c->pipe, FRAME_SYS_UNWATCH, id); /* without memory its events come and are dropped */
}

void sys_event(struct child *c, struct frame_reader *r)
{
    const struct watch *w = idmap_get(&c->watches, r->id);
    struct muster_connection con = get_connection(c, r);

    if (!w || r->bad)
        return;
    instance_enter(&c->in, "connection", con.agent);
    w->fn(w->arg, &con);
    instance_leave(&c->in);
}

static void end_list(struct child *c, struct child_call *call, int code)
{
    instance_enter(&c->in, "connections", NULL);
    call->fn.list(call->arg, code, NULL);
    instance_leave(&c->in);
}

static int sys_list(const struct muster_host *host, muster_connections_fn fn, void *arg)
{
    struct child *c = child_of(host);
    struct child_call *call;
    struct frame f;
    int err = MAY_CALL(c);

    if (err)
        return err;
    if (!fn)
        return host->fail(host, MUSTER_EINVAL, "list(): expected a function");
    call = call_new(c, FRAME_SYS_LISTED, end_list, arg);
    if (!call)
        return MUSTER_ENOMEM;
    call->fn.list = fn;
    f = pipe_begin(c->pipe, FRAME_SYS_LIST, call->id);
    return call_send(c, call, &f);
}

void sys_listed(struct child *c, struct frame_reader *r)
{
    int code = frame_get_i32(r);
    bool more = frame_get_u8(r);
    struct child_call *call = call_answered(c, r, !more);
    struct muster_connection con;

    if (!call)
        return;
    if (more)
        con = get_connection(c, r);
    if (r->bad)
        return;
    instance_enter(&c->in, "connections", NULL);
    call->fn.list(call->arg, code, more ? &con : NULL);
    instance_leave(&c->in);
    if (!more)
        free(call);
}

static void end_kick(struct child *c, struct child_call *call, int code)
{
    instance_enter(&c->in, "kick", NULL);
    call->fn.done(call->arg, code);
    instance_leave(&c->in);
}

static int sys_kick(const struct muster_host *host, const char *server, uint64_t client, muster_done_fn done, void *arg)
{
    struct child *c = child_of(host);
    struct child_call *call = NULL;
    struct frame f;
    int err = MAY_CALL(c);

    if (err)
        return err;
    if (!server || !*server)
        return host->fail(host, MUSTER_EINVAL, "kick(): expected a server's id");
    if (done) {
        call = call_new(c, FRAME_SENT, end_kick, arg);
        if (!call)
            return MUSTER_ENOMEM;
        call->fn.done = done;
    }
    f = pipe_begin(c->pipe, FRAME_SYS_KICK, call ? call->id : 0);
    frame_put_str(&f, server);
    frame_put_u64(&f, client);
    return call ? call_send(c, call, &f) : child_send(c, &f);
}

void sys_forget_all(struct child *c)
{
    struct watch *w;

    while ((w = idmap_first(&c->watches))) {
        (void)idmap_take(&c->watches, w->id);
        free(w);
    }
}

const struct muster_sys child_sys = {
    .size = sizeof child_sys, .watch = sys_watch, .unwatch = sys_unwatch, .list = sys_list, .kick = sys_kick};
