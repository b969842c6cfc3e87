/* muster.kv/1 and muster.lease/1 of a child; see host.h. The parent has bucket and leases; when a lease ends is known here by the clock that
 * both share. On the lane. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/name.h"
#include "child/host.h"

enum { MAX_VALUE = 65536 };
static const int64_t min_lease_ns = 3 * CLOCK_S, max_lease_ns = 3600 * CLOCK_S;

/* ---- muster.kv/1 ------------------------------------------------------------------------------------------------------------------ */

static int refuse_key(const struct muster_host *host, const char *key)
{
    return host->fail(host, MUSTER_EINVAL, "key \"%s\": expected 1 to %d of A-Z a-z 0-9 _ . / = ~ -, no dot at either end, no two together",
                      key ? key : "", NAME_KEY_MAX);
}

static void end_kv(struct child *c, struct child_call *call, int code)
{
    instance_enter(&c->in, "kv", call->about);
    call->fn.kv(call->arg, code, (struct muster_bytes){0}, 0);
    instance_leave(&c->in);
}

static struct child_call *new_kv(struct child *c, const char *key, muster_kv_fn fn, void *arg)
{
    struct child_call *call = call_new(c, FRAME_VALUE, end_kv, arg);

    if (!call)
        return NULL;
    call->fn.kv = fn;
    call_note(call, key);
    return call;
}

static int kv_get(const struct muster_host *host, const struct muster_tenant *tenant, const char *key, muster_kv_fn fn, void *arg)
{
    struct child *c = child_of(host);
    struct child_call *call;
    struct frame f;
    int err = MAY_CALL(c);

    if (err)
        return err;
    if (!fn || !name_is_key(key))
        return refuse_key(host, key);
    call = new_kv(c, key, fn, arg);
    if (!call)
        return MUSTER_ENOMEM;
    f = pipe_begin(c->pipe, FRAME_KV_GET, call->id);
    frame_put_u64(&f, tenant_id(tenant));
    frame_put_str(&f, key);
    return call_send(c, call, &f);
}

static int check_put(struct child *c, const struct muster_kv_put *put)
{
    const struct muster_host *host = &c->in.host;

    if (!MUSTER_HAS(put, arg) || !put->fn || put->value.len > MAX_VALUE)
        return host->fail(host, MUSTER_EINVAL, "put(): expected size, a function and at most %d bytes", MAX_VALUE);
    if (!name_is_key(put->key))
        return refuse_key(host, put->key);
    if (put->ttl_ns != 0 && put->ttl_ns < CLOCK_S)
        return host->fail(host, MUSTER_EINVAL, "put(): ttl_ns is %lld: expected 0, or at least a second", (long long)put->ttl_ns);
    return lease_check(c, put->lease);
}

static int kv_put(const struct muster_host *host, const struct muster_kv_put *put)
{
    struct child *c = child_of(host);
    struct child_call *call;
    struct frame f;
    int err = MAY_CALL(c);

    if (!err)
        err = check_put(c, put);
    if (err)
        return err;
    call = new_kv(c, put->key, put->fn, put->arg);
    if (!call)
        return MUSTER_ENOMEM;
    f = pipe_begin(c->pipe, FRAME_KV_PUT, call->id);
    frame_put_u64(&f, tenant_id(put->tenant));
    frame_put_str(&f, put->key);
    frame_put_bytes(&f, put->value);
    frame_put_u64(&f, put->revision);
    frame_put_i64(&f, put->ttl_ns);
    frame_put_u64(&f, put->lease);
    return call_send(c, call, &f);
}

static int kv_del(const struct muster_host *host, const struct muster_tenant *tenant, const char *key, uint64_t revision, muster_kv_fn fn,
                  void *arg)
{
    struct child *c = child_of(host);
    struct child_call *call;
    struct frame f;
    int err = MAY_CALL(c);

    if (err)
        return err;
    if (!fn || !name_is_key(key))
        return refuse_key(host, key);
    call = new_kv(c, key, fn, arg);
    if (!call)
        return MUSTER_ENOMEM;
    f = pipe_begin(c->pipe, FRAME_KV_DEL, call->id);
    frame_put_u64(&f, tenant_id(tenant));
    frame_put_str(&f, key);
    frame_put_u64(&f, revision);
    return call_send(c, call, &f);
}

void kv_value(struct child *c, struct frame_reader *r)
{
    struct child_call *call = call_answered(c, r, true);
    int code = frame_get_i32(r);
    const char *reason = frame_get_str(r);
    struct muster_bytes value = frame_get_bytes(r);
    uint64_t revision = frame_get_u64(r);

    if (!call || r->bad)
        return;
    if (code && reason)
        (void)host_fail(&c->in.host, code, "%s", reason); /* kept for the plugin to tell */
    instance_enter(&c->in, "kv", call->about);
    call->fn.kv(call->arg, code, code ? (struct muster_bytes){0} : value, code ? 0 : revision);
    instance_leave(&c->in);
    free(call);
}

static void end_scan(struct child *c, struct child_call *call, int code)
{
    instance_enter(&c->in, "kv scan", call->about);
    call->fn.scan(call->arg, code, NULL);
    instance_leave(&c->in);
}

static int kv_scan(const struct muster_host *host, const struct muster_tenant *tenant, const char *prefix, muster_kv_scan_fn fn, void *arg)
{
    struct child *c = child_of(host);
    struct child_call *call;
    struct frame f;
    int err = MAY_CALL(c);

    if (err)
        return err;
    if (!fn || !name_is_key_prefix(prefix))
        return host->fail(host, MUSTER_EINVAL, "scan(): expected a function, and what a key may begin with, at most %d bytes", NAME_KEY_MAX);
    call = call_new(c, FRAME_ENTRY, end_scan, arg);
    if (!call)
        return MUSTER_ENOMEM;
    call->fn.scan = fn;
    call_note(call, prefix);
    f = pipe_begin(c->pipe, FRAME_KV_SCAN, call->id);
    frame_put_u64(&f, tenant_id(tenant));
    frame_put_str(&f, prefix);
    return call_send(c, call, &f);
}

void kv_entry(struct child *c, struct frame_reader *r)
{
    int code = frame_get_i32(r);
    bool more = frame_get_u8(r);
    struct child_call *call = call_answered(c, r, !more);
    struct muster_kv_entry e = {.size = sizeof e};

    if (!call)
        return;
    if (more) {
        e.key = frame_get_str(r);
        e.value = frame_get_bytes(r);
        e.revision = frame_get_u64(r);
        e.expires_wall_ns = frame_get_i64(r);
    }
    if (r->bad)
        return;
    instance_enter(&c->in, "kv scan", call->about);
    call->fn.scan(call->arg, code, more ? &e : NULL);
    instance_leave(&c->in);
    if (!more)
        free(call);
}

const struct muster_kv child_kv = {.size = sizeof child_kv, .get = kv_get, .put = kv_put, .del = kv_del, .scan = kv_scan};

/* ---- muster.lease/1 --------------------------------------------------------------------------------------------------------------- */

struct lease {
    uint64_t id, epoch; /* epoch 0: not held, as the plugin was told */
    int64_t until_ns;
    muster_lease_got_fn on_got;
    muster_lease_lost_fn on_lost;
    void *arg;
    char name[NAME_KEY_MAX + 1];
};

static int check_options(struct child *c, const struct muster_lease_options *o)
{
    const struct muster_host *host = &c->in.host;
    const struct lease *l;

    if (!MUSTER_HAS(o, arg) || !o->on_got || !o->on_lost || !name_is_key(o->name))
        return host->fail(host, MUSTER_EINVAL, "lease \"%s\": expected size, two functions, and a name that is a legal key",
                          MUSTER_HAS(o, name) && o->name ? o->name : "");
    if (o->ttl_ns != 0 && (o->ttl_ns < min_lease_ns || o->ttl_ns > max_lease_ns))
        return host->fail(host, MUSTER_EINVAL, "lease \"%s\": ttl_ns is %lld: expected 0, or 3 s to 1 h", o->name, (long long)o->ttl_ns);
    if (c->leases.n >= CHILD_MAX_LEASES)
        return child_refuse_more(c, "leases", CHILD_MAX_LEASES);
    for (size_t at = 0; (l = idmap_next(&c->leases, &at));)
        if (strcmp(l->name, o->name) == 0)
            return host->fail(host, MUSTER_EEXIST, "lease \"%s\": this instance contends for it already", o->name);
    return 0;
}

static int lease_acquire(const struct muster_host *host, const struct muster_lease_options *o, uint64_t *ret_lease)
{
    struct child *c = child_of(host);
    struct lease *l;
    struct frame f;
    int err = MAY_BEGIN(&c->in);

    if (!err)
        err = check_options(c, o);
    if (err)
        return err;
    l = calloc(1, sizeof *l);
    if (!l)
        return MUSTER_ENOMEM;
    *l = (struct lease){.id = child_next_id(c), .on_got = o->on_got, .on_lost = o->on_lost, .arg = o->arg};
    strcpy(l->name, o->name); /* a legal key fits */
    f = pipe_begin(c->pipe, FRAME_LEASE, l->id);
    frame_put_str(&f, o->name);
    frame_put_i64(&f, o->ttl_ns);
    err = child_send(c, &f);
    if (!err && !idmap_put(&c->leases, l->id, l)) {
        (void)pipe_put(c->pipe, FRAME_LEASE_RELEASE, l->id);
        err = MUSTER_ENOMEM;
    }
    if (err)
        free(l);
    else
        *ret_lease = l->id;
    return err;
}

static void lease_release(const struct muster_host *host, uint64_t lease)
{
    struct child *c = child_of(host);
    struct lease *l;

    if (!ON_LANE(&c->in))
        return;
    l = idmap_take(&c->leases, lease);
    if (!l)
        return;
    free(l);
    (void)pipe_put(c->pipe, FRAME_LEASE_RELEASE, lease); /* without memory the parent keeps it until the child ends */
}

static uint64_t lease_epoch(const struct muster_host *host, uint64_t lease)
{
    struct child *c = child_of(host);
    const struct lease *l = ON_LANE(&c->in) ? idmap_get(&c->leases, lease) : NULL;

    return l && clock_boot_ns() < l->until_ns ? l->epoch : 0;
}

int lease_check(struct child *c, uint64_t id)
{
    return !id || lease_epoch(&c->in.host, id) ? 0 : MUSTER_ESTALE;
}

static void tell_lost(struct child *c, struct lease *l, int code)
{
    l->epoch = 0;
    instance_enter(&c->in, "lease lost", l->name);
    l->on_lost(l->arg, code);
    instance_leave(&c->in);
}

/* One that was released meanwhile is not known any more. Another epoch without a word between: what was held is lost. */
void lease_got(struct child *c, struct frame_reader *r)
{
    struct lease *l = idmap_get(&c->leases, r->id);
    uint64_t id = r->id, epoch = frame_get_u64(r);
    int64_t until_ns = frame_get_i64(r);

    if (!l || r->bad)
        return;
    l->until_ns = until_ns;
    if (l->epoch == epoch)
        return; /* renewed */
    if (l->epoch) {
        tell_lost(c, l, MUSTER_ESTALE);
        if (idmap_get(&c->leases, id) != l)
            return;
    }
    l->epoch = epoch;
    instance_enter(&c->in, "lease got", l->name);
    l->on_got(l->arg, epoch);
    instance_leave(&c->in);
}

void lease_lost(struct child *c, struct frame_reader *r)
{
    struct lease *l = idmap_get(&c->leases, r->id);
    int code = frame_get_i32(r);

    if (l && !r->bad && l->epoch)
        tell_lost(c, l, code);
}

void lease_forget_all(struct child *c)
{
    struct lease *l;

    while ((l = idmap_first(&c->leases))) {
        (void)idmap_take(&c->leases, l->id);
        (void)pipe_put(c->pipe, FRAME_LEASE_RELEASE, l->id);
        free(l);
    }
}

const struct muster_lease child_lease = {
    .size = sizeof child_lease, .acquire = lease_acquire, .release = lease_release, .epoch = lease_epoch};
