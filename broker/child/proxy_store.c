/* Streams and keys of a child, which the broker's own tables work on; see proxy.h. */
#include <stdlib.h>
#include <string.h>

#include "child/proxy_parts.h"

/* Kept in the child's table under its own number. */
struct stream {
    uint64_t host_id; /* 0: it could not be opened */
};

void store_child_over(struct ward *c)
{
    void *stream;

    for (size_t at = 0; map_next(&c->streams, &at, NULL, &stream); free(stream))
        if (((struct stream *)stream)->host_id && !c->proxy->ending)
            c->proxy->stream->close(c->proxy->host, ((struct stream *)stream)->host_id);
    map_done(&c->streams);
    c->streams = (struct map){0};
}

/* ---- streams -------------------------------------------------------------------------------------------------------------------- */

static void put_info(struct ward *c, uint64_t id, int code, const struct muster_stream_info *info)
{
    static const struct muster_stream_info none;
    struct frame f = ward_begin(c, FRAME_INFO, id);
    char reason[PROXY_WHY_SIZE] = "";

    if (code)
        c->proxy->how.hooks->reason(c->proxy->how.arg, reason, sizeof reason);
    if (!info)
        info = &none;
    frame_put_i32(&f, code);
    frame_put_str(&f, reason);
    frame_put_u64(&f, info->first_seq);
    frame_put_u64(&f, info->last_seq);
    frame_put_u64(&f, info->n_msgs);
    frame_put_u64(&f, info->n_bytes);
    frame_put_i64(&f, info->created_wall_ns);
    ward_end(c, &f);
}

static void answer_info(struct ward *c, uint64_t id, int code)
{
    put_info(c, id, code, NULL);
}

static void on_info(void *arg, int code, const struct muster_stream_info *info)
{
    struct call *call = arg;

    if (call->child)
        put_info(call->child, call->id, code, info);
    call_free(call);
}

static enum taken need_streams(struct ward *c)
{
    return c->proxy->stream ? TAKEN : ward_breach(c, "it uses streams without the capability \"stream\"");
}

/* What it asked about, under its own number. */
static enum taken find_stream(struct ward *c, uint64_t id, struct stream **ret_stream)
{
    enum taken is = need_streams(c);

    *ret_stream = is == TAKEN ? id_get(&c->streams, id) : NULL;
    return is != TAKEN || *ret_stream ? is : ward_breach(c, "it names the stream %llu, which it has not opened", (unsigned long long)id);
}

static enum taken open_stream(struct ward *c, uint64_t id, uint64_t call_id, const struct muster_stream_options *options)
{
    struct proxy *p = c->proxy;
    struct call *call = NULL;
    struct stream *s;
    enum taken is = call_make(c, call_id, &call, answer_info);
    int err;

    if (!call)
        return is;
    s = calloc(1, sizeof *s);
    if (!s || !id_put(&c->streams, id, s)) {
        free(s);
        call_free(call);
        ward_kill(c, "no memory for its stream");
        return BROKEN;
    }
    err = p->stream->open(p->host, options, on_info, call, &s->host_id);
    if (err == MUSTER_EAGAIN)
        free(id_take(&c->streams, id));
    return call_begun(c, call, err, answer_info);
}

enum taken take_stream_open(struct ward *c, struct frame_reader *r)
{
    struct muster_stream_options options = {.size = sizeof options};
    uint64_t call_id = frame_get_u64(r);
    char why[POLICY_WHY_SIZE];
    enum taken is;

    options.name = frame_get_str(r);
    options.subjects = frame_get_str(r);
    options.replicas = frame_get_u32(r);
    options.max_age_ns = frame_get_i64(r);
    options.max_bytes = frame_get_i64(r);
    options.max_msgs = frame_get_i64(r);
    options.max_msgs_per_subject = frame_get_i64(r);
    if (!frame_is_read(r) || !r->id || id_get(&c->streams, r->id))
        return ward_malformed(c, r);
    is = need_streams(c);
    if (is != TAKEN)
        return is;
    if (policy_stream(&c->proxy->how.policy, options.name, options.subjects, why) != 0)
        return ward_breach(c, "%s", why);
    if (c->streams.n >= MAX_STREAMS)
        return ward_breach(c, "it has more than %d streams open", MAX_STREAMS);
    return open_stream(c, r->id, call_id, &options);
}

enum taken take_stream_close(struct ward *c, struct frame_reader *r)
{
    struct stream *s;

    if (!frame_is_read(r))
        return ward_malformed(c, r);
    s = id_take(&c->streams, r->id);
    if (s && s->host_id)
        c->proxy->stream->close(c->proxy->host, s->host_id);
    free(s);
    return TAKEN;
}

enum taken take_stream_info(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    uint64_t id = frame_get_u64(r);
    struct stream *s;
    struct call *call = NULL;
    enum taken is;

    if (!frame_is_read(r))
        return ward_malformed(c, r);
    is = find_stream(c, id, &s);
    if (is == TAKEN)
        is = call_make(c, r->id, &call, answer_info);
    return call ? call_begun(c, call, p->stream->info(p->host, s->host_id, on_info, call), answer_info) : is;
}

static void answer_stored(struct ward *c, uint64_t id, int code)
{
    struct frame f = ward_begin(c, FRAME_STORED, id);

    frame_put_i32(&f, code);
    frame_put_u8(&f, 0);
    frame_put_u8(&f, 0);
    ward_end(c, &f);
}

/* False: it may not see that one, or it is too long to be told. */
static bool put_stored(struct ward *c, uint64_t id, const struct muster_msg *msg, bool more)
{
    uint64_t tenant = msg->tenant ? tenant_number(c, msg->tenant) : 0;
    struct frame f;

    if ((msg->tenant ? !tenant : c->proxy->how.tenants.n > 0) || msg->payload.len > MAX_PAYLOAD)
        return false;
    f = ward_begin(c, FRAME_STORED, id);
    frame_put_i32(&f, 0);
    frame_put_u8(&f, 1);
    frame_put_u8(&f, more);
    put_msg(&f, msg, false, tenant);
    ward_end(c, &f);
    return true;
}

static void on_last(void *arg, int code, const struct muster_msg *msg)
{
    struct call *call = arg;

    if (call->child && (code || !put_stored(call->child, call->id, msg, false)))
        answer_stored(call->child, call->id, code ? code : MUSTER_ENOTFOUND);
    call_free(call);
}

static void on_read(void *arg, int code, const struct muster_msg *msg)
{
    struct call *call = arg;

    if (!code && msg) {
        if (call->child)
            (void)put_stored(call->child, call->id, msg, true);
        return;
    }
    if (call->child)
        answer_stored(call->child, call->id, code);
    call_free(call);
}

enum taken take_stream_last(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    uint64_t id = frame_get_u64(r), number = frame_get_u64(r);
    const char *subject = frame_get_str(r);
    const struct muster_tenant *tenant;
    struct stream *s;
    struct call *call = NULL;
    enum taken is;

    if (!frame_is_read(r))
        return ward_malformed(c, r);
    if (!tenant_by_number(c, number, &tenant))
        return ward_breach(c, "it names the tenant %llu, which it was not given", (unsigned long long)number);
    is = find_stream(c, id, &s);
    if (is == TAKEN)
        is = call_make(c, r->id, &call, answer_stored);
    return call ? call_begun(c, call, p->stream->last(p->host, s->host_id, tenant, subject, on_last, call), answer_stored) : is;
}

enum taken take_stream_read(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    uint64_t id = frame_get_u64(r), number = frame_get_u64(r), from;
    const char *subject = frame_get_str(r);
    const struct muster_tenant *tenant;
    uint32_t max_msgs;
    struct stream *s;
    struct call *call = NULL;
    enum taken is;

    from = frame_get_u64(r);
    max_msgs = frame_get_u32(r);
    if (!frame_is_read(r))
        return ward_malformed(c, r);
    if (!tenant_by_number(c, number, &tenant))
        return ward_breach(c, "it names the tenant %llu, which it was not given", (unsigned long long)number);
    is = find_stream(c, id, &s);
    if (is == TAKEN)
        is = call_make(c, r->id, &call, answer_stored);
    return call ? call_begun(c, call, p->stream->read(p->host, s->host_id, tenant, subject, from, max_msgs, on_read, call), answer_stored) : is;
}

static void put_appended(struct ward *c, uint64_t id, int code, uint64_t seq)
{
    struct frame f;

    if (!id)
        return;
    f = ward_begin(c, FRAME_APPENDED, id);
    frame_put_i32(&f, code);
    frame_put_u64(&f, seq);
    ward_end(c, &f);
}

static void answer_appended(struct ward *c, uint64_t id, int code)
{
    put_appended(c, id, code, 0);
}

static void on_appended(void *arg, int code, uint64_t seq)
{
    struct call *call = arg;

    if (call->child)
        put_appended(call->child, call->id, code, seq);
    call_free(call);
}

static enum taken append(struct ward *c, uint64_t id, const struct stream *s, struct muster_append *a)
{
    struct proxy *p = c->proxy;
    struct call *call = NULL;
    enum taken is;

    if (!id) /* nobody waits: of a refused one the next that asks tells */
        return p->stream->append(p->host, s->host_id, a) == MUSTER_EAGAIN ? LATER : TAKEN;
    is = call_make(c, id, &call, answer_appended);
    if (!call)
        return is;
    a->acked = on_appended;
    a->arg = call;
    return call_begun(c, call, p->stream->append(p->host, s->host_id, a), answer_appended);
}

enum taken take_append(struct ward *c, struct frame_reader *r)
{
    struct out out;
    struct stream *s;
    struct muster_append a = {.size = sizeof a};
    char why[POLICY_WHY_SIZE];
    uint64_t id = frame_get_u64(r), tenant = out_get(r, &out), lease;
    enum taken is;

    a.expected_seq = frame_get_u64(r);
    lease = frame_get_u64(r);
    is = out_check(c, r, tenant, &out);
    if (is == TAKEN)
        is = find_stream(c, id, &s);
    if (is != TAKEN)
        return is;
    if (policy_append(&c->proxy->how.policy, out.subject, why) != 0)
        return ward_breach(c, "%s", why);
    if (lease && !held_lease(c, lease, &a.lease))
        return ward_breach(c, "it names the lease %llu, which it does not contend for", (unsigned long long)lease);
    if (lease && !a.lease) {
        answer_appended(c, r->id, MUSTER_ESTALE);
        return TAKEN;
    }
    a.n_headers = out.n_headers;
    a.tenant = out.tenant;
    a.subject = out.subject;
    a.headers = out.headers;
    a.payload = out.payload;
    return append(c, r->id, s, &a);
}

/* ---- keys ------------------------------------------------------------------------------------------------------------------------- */

static void put_value(struct ward *c, uint64_t id, int code, struct muster_bytes value, uint64_t revision)
{
    struct frame f = ward_begin(c, FRAME_VALUE, id);
    char reason[PROXY_WHY_SIZE] = "";

    if (code)
        c->proxy->how.hooks->reason(c->proxy->how.arg, reason, sizeof reason);
    frame_put_i32(&f, code);
    frame_put_str(&f, reason);
    frame_put_bytes(&f, value);
    frame_put_u64(&f, revision);
    ward_end(c, &f);
}

static void answer_value(struct ward *c, uint64_t id, int code)
{
    put_value(c, id, code, (struct muster_bytes){0}, 0);
}

static void on_value(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct call *call = arg;

    if (call->child)
        put_value(call->child, call->id, code, value, revision);
    call_free(call);
}

/* The tenant that a key is of, and room for the call. */
static enum taken begin_kv(struct ward *c, const struct frame_reader *r, uint64_t number, const struct muster_tenant **ret_tenant,
                           struct call **ret_call, answer_fn answer)
{
    *ret_call = NULL;
    if (!frame_is_read(r))
        return ward_malformed(c, r);
    if (!tenant_by_number(c, number, ret_tenant))
        return ward_breach(c, "it names the tenant %llu, which it was not given", (unsigned long long)number);
    return call_make(c, r->id, ret_call, answer);
}

enum taken take_kv_get(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    uint64_t number = frame_get_u64(r);
    const char *key = frame_get_str(r);
    const struct muster_tenant *tenant;
    struct call *call;
    enum taken is = begin_kv(c, r, number, &tenant, &call, answer_value);

    return call ? call_begun(c, call, p->kv->get(p->host, tenant, key, on_value, call), answer_value) : is;
}

enum taken take_kv_put(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    struct muster_kv_put put = {.size = sizeof put, .fn = on_value};
    uint64_t number = frame_get_u64(r), lease;
    struct call *call;
    enum taken is;

    put.key = frame_get_str(r);
    put.value = frame_get_bytes(r);
    put.revision = frame_get_u64(r);
    put.ttl_ns = frame_get_i64(r);
    lease = frame_get_u64(r);
    if (frame_is_read(r) && lease && !held_lease(c, lease, &put.lease))
        return ward_breach(c, "it names the lease %llu, which it does not contend for", (unsigned long long)lease);
    is = begin_kv(c, r, number, &put.tenant, &call, answer_value);
    if (!call)
        return is;
    put.arg = call;
    return call_begun(c, call, lease && !put.lease ? MUSTER_ESTALE : p->kv->put(p->host, &put), answer_value);
}

enum taken take_kv_del(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    uint64_t number = frame_get_u64(r), revision;
    const char *key = frame_get_str(r);
    const struct muster_tenant *tenant;
    struct call *call;
    enum taken is;

    revision = frame_get_u64(r);
    is = begin_kv(c, r, number, &tenant, &call, answer_value);
    return call ? call_begun(c, call, p->kv->del(p->host, tenant, key, revision, on_value, call), answer_value) : is;
}

static void answer_entry(struct ward *c, uint64_t id, int code)
{
    struct frame f = ward_begin(c, FRAME_ENTRY, id);

    frame_put_i32(&f, code);
    frame_put_u8(&f, 0);
    ward_end(c, &f);
}

static void on_entry(void *arg, int code, const struct muster_kv_entry *entry)
{
    struct call *call = arg;
    struct frame f;

    if (!entry) {
        if (call->child)
            answer_entry(call->child, call->id, code);
        call_free(call);
        return;
    }
    if (!call->child)
        return;
    f = ward_begin(call->child, FRAME_ENTRY, call->id);
    frame_put_i32(&f, 0);
    frame_put_u8(&f, 1);
    frame_put_str(&f, entry->key);
    frame_put_bytes(&f, entry->value);
    frame_put_u64(&f, entry->revision);
    frame_put_i64(&f, entry->expires_wall_ns);
    ward_end(call->child, &f);
}

enum taken take_kv_scan(struct ward *c, struct frame_reader *r)
{
    struct proxy *p = c->proxy;
    uint64_t number = frame_get_u64(r);
    const char *prefix = frame_get_str(r);
    const struct muster_tenant *tenant;
    struct call *call;
    enum taken is = begin_kv(c, r, number, &tenant, &call, answer_entry);

    return call ? call_begun(c, call, p->kv->scan(p->host, tenant, prefix, on_entry, call), answer_entry) : is;
}
