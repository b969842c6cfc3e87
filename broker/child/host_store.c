/* muster.stream/1 of a child; see host.h. A stream is a number here, with its subjects; the parent has it. On the lane. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "child/host.h"
#include "wire/subject.h"

enum { MAX_READ = 1000 };

/* ---- open, close, info ------------------------------------------------------------------------------------------------------------ */

static void end_info(struct child *c, struct child_call *call, int code)
{
    instance_enter(&c->in, "stream info", NULL);
    call->fn.info(call->arg, code, NULL);
    instance_leave(&c->in);
}

static bool is_well_formed(const struct muster_stream_options *o)
{
    return MUSTER_HAS(o, max_bytes) && o->name && name_is_legal(o->name, strlen(o->name)) && o->subjects &&
           strlen(o->subjects) < CHILD_MAX_SUBJECT / 2 && subject_is_pattern(o->subjects, strlen(o->subjects));
}

static int check_options(struct child *c, const struct muster_stream_options *o)
{
    const struct muster_host *host = &c->in.host;
    char why[POLICY_WHY_SIZE];
    int err;

    if (!is_well_formed(o))
        return host->fail(host, MUSTER_EINVAL, "stream \"%s\": expected size, a name of 1 to 64 letters, digits, _ or -, and a pattern",
                          MUSTER_HAS(o, name) && o->name ? o->name : "");
    if (MUSTER_HAS(o, republish) && o->republish) /* agents would hear it as somebody else's */
        return host->fail(host, MUSTER_EACCES, "stream \"%s\": republish is \"%.100s\": a plugin in a process of its own has none", o->name,
                          o->republish);
    err = policy_stream(&c->policy, o->name, o->subjects, why);
    return err ? host->fail(host, err, "%s", why) : 0;
}

static int send_open(struct child *c, struct child_call *call, uint64_t stream, const struct muster_stream_options *o)
{
    struct frame f = pipe_begin(c->pipe, FRAME_STREAM_OPEN, stream);

    frame_put_u64(&f, call->id);
    frame_put_str(&f, o->name);
    frame_put_str(&f, o->subjects);
    frame_put_u32(&f, o->replicas);
    frame_put_i64(&f, o->max_age_ns);
    frame_put_i64(&f, o->max_bytes);
    frame_put_i64(&f, MUSTER_HAS(o, max_msgs) ? o->max_msgs : 0);
    frame_put_i64(&f, MUSTER_HAS(o, max_msgs_per_subject) ? o->max_msgs_per_subject : 0);
    return call_send(c, call, &f);
}

static int stream_open(const struct muster_host *host, const struct muster_stream_options *options, muster_stream_info_fn fn, void *arg,
                       uint64_t *ret_stream)
{
    struct child *c = child_of(host);
    struct child_call *call;
    char *subjects;
    uint64_t stream;
    int err = MAY_CALL(c);

    if (!err && !fn)
        err = host->fail(host, MUSTER_EINVAL, "open(): expected a function");
    if (!err)
        err = check_options(c, options);
    if (!err && c->streams.n >= CHILD_MAX_STREAMS)
        err = child_refuse_more(c, "open streams", CHILD_MAX_STREAMS);
    if (err)
        return err;
    call = call_new(c, FRAME_INFO, end_info, arg);
    if (!call)
        return MUSTER_ENOMEM;
    call->fn.info = fn;
    call->stream = stream = child_next_id(c);
    subjects = strdup(options->subjects);
    if (!subjects || !idmap_put(&c->streams, stream, subjects)) {
        free(subjects);
        call_done(c, call);
        return MUSTER_ENOMEM;
    }
    err = send_open(c, call, stream, options);
    if (err)
        free(idmap_take(&c->streams, stream));
    else
        *ret_stream = stream;
    return err;
}

static void stream_close(const struct muster_host *host, uint64_t stream)
{
    struct child *c = child_of(host);
    char *subjects = ON_LANE(&c->in) ? idmap_take(&c->streams, stream) : NULL;

    if (!subjects)
        return;
    free(subjects);
    call_cancel_stream(c, stream);
    (void)pipe_put(c->pipe, FRAME_STREAM_CLOSE, stream); /* without memory the parent keeps it until the child ends */
}

static int stream_info(const struct muster_host *host, uint64_t stream, muster_stream_info_fn fn, void *arg)
{
    struct child *c = child_of(host);
    struct child_call *call;
    struct frame f;
    int err = MAY_CALL(c);

    if (err)
        return err;
    if (!fn || !idmap_get(&c->streams, stream))
        return MUSTER_EINVAL;
    call = call_new(c, FRAME_INFO, end_info, arg);
    if (!call)
        return MUSTER_ENOMEM;
    call->fn.info = fn;
    call->stream = stream;
    f = pipe_begin(c->pipe, FRAME_STREAM_INFO, call->id);
    frame_put_u64(&f, stream);
    return call_send(c, call, &f);
}

void store_info(struct child *c, struct frame_reader *r)
{
    struct child_call *call = call_answered(c, r, true);
    int code = frame_get_i32(r);
    const char *reason = frame_get_str(r);
    struct muster_stream_info info = {.size = sizeof info};

    info.first_seq = frame_get_u64(r);
    info.last_seq = frame_get_u64(r);
    info.n_msgs = frame_get_u64(r);
    info.n_bytes = frame_get_u64(r);
    info.created_wall_ns = frame_get_i64(r);
    if (!call || r->bad)
        return;
    if (code && reason)
        (void)host_fail(&c->in.host, code, "%s", reason); /* kept for the plugin to tell */
    instance_enter(&c->in, "stream info", NULL);
    call->fn.info(call->arg, code, code ? NULL : &info);
    instance_leave(&c->in);
    free(call);
}

/* ---- streams of others: for plugins inside the broker ------------------------------------------------------------------------------ */

static int refuse_others(const struct muster_host *host, const char *call)
{
    return host->fail(host, MUSTER_EABI, "%s(): not in a plugin that runs in a process of its own", call);
}

static int stream_attach(const struct muster_host *host, const char *name, const struct muster_tenant *tenant, muster_stream_info_fn fn,
                         void *arg, uint64_t *ret_stream)
{
    (void)name, (void)tenant, (void)fn, (void)arg, (void)ret_stream;
    return refuse_others(host, "attach");
}

static int stream_follow(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                         uint64_t from_seq, uint32_t max_msgs, muster_stream_follow_fn fn, void *arg, uint64_t *ret_follow)
{
    (void)stream, (void)tenant, (void)subject, (void)from_seq, (void)max_msgs, (void)fn, (void)arg, (void)ret_follow;
    return refuse_others(host, "follow");
}

static void stream_unfollow(const struct muster_host *host, uint64_t follow)
{
    (void)host, (void)follow; /* there is none */
}

static void stream_hold_back(const struct muster_host *host, uint64_t follow, uint32_t on)
{
    (void)host, (void)follow, (void)on; /* there is none */
}

/* ---- reading ---------------------------------------------------------------------------------------------------------------------- */

static void end_msg(struct child *c, struct child_call *call, int code)
{
    instance_enter(&c->in, "stream message", call->about);
    call->fn.msg(call->arg, code, NULL);
    instance_leave(&c->in);
}

/* A call about stored messages of an open stream; NULL with *ret_err. */
static struct child_call *new_reading(struct child *c, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                                      muster_stream_msg_fn fn, void *arg, int *ret_err)
{
    struct child_call *call;

    *ret_err = call_may_begin(c, "stream");
    if (!*ret_err &&
        (!idmap_get(&c->streams, stream) || !fn || (tenant && (!subject || !subject_is_pattern(subject, strlen(subject))))))
        *ret_err = host_fail(&c->in.host, MUSTER_EINVAL, "last() or read(): expected an open stream, a function, and a pattern of subjects");
    if (*ret_err)
        return NULL;
    call = call_new(c, FRAME_STORED, end_msg, arg);
    if (!call) {
        *ret_err = MUSTER_ENOMEM;
        return NULL;
    }
    call->fn.msg = fn;
    call->stream = stream;
    call_note(call, tenant ? subject : "");
    return call;
}

static int stream_last(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                       muster_stream_msg_fn fn, void *arg)
{
    struct child *c = child_of(host);
    int err;
    struct child_call *call = new_reading(c, stream, tenant, subject, fn, arg, &err);
    struct frame f;

    if (!call)
        return err;
    f = pipe_begin(c->pipe, FRAME_STREAM_LAST, call->id);
    frame_put_u64(&f, stream);
    frame_put_u64(&f, tenant_id(tenant));
    frame_put_str(&f, tenant ? subject : NULL);
    return call_send(c, call, &f);
}

static int stream_read(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                       uint64_t from_seq, uint32_t max_msgs, muster_stream_msg_fn fn, void *arg)
{
    struct child *c = child_of(host);
    struct child_call *call;
    struct frame f;
    int err;

    if (!max_msgs || max_msgs > MAX_READ)
        return host->fail(host, MUSTER_EINVAL, "read(): %u messages: expected 1 to %d", max_msgs, MAX_READ);
    call = new_reading(c, stream, tenant, subject, fn, arg, &err);
    if (!call)
        return err;
    f = pipe_begin(c->pipe, FRAME_STREAM_READ, call->id);
    frame_put_u64(&f, stream);
    frame_put_u64(&f, tenant_id(tenant));
    frame_put_str(&f, tenant ? subject : NULL);
    frame_put_u64(&f, from_seq);
    frame_put_u32(&f, max_msgs);
    return call_send(c, call, &f);
}

/* The function may close the stream: a call of which more comes is not touched behind it. */
void store_stored(struct child *c, struct frame_reader *r)
{
    int code = frame_get_i32(r);
    bool has_msg = frame_get_u8(r), more = frame_get_u8(r);
    struct child_call *call = call_answered(c, r, !more);
    struct child_message m;

    if (!call)
        return;
    if (has_msg)
        message_get(c, r, &m);
    if (r->bad)
        return;
    instance_enter(&c->in, "stream message", has_msg ? m.msg.subject : call->about);
    call->fn.msg(call->arg, code, has_msg ? &m.msg : NULL);
    instance_leave(&c->in);
    if (!more)
        free(call);
}

/* ---- appending -------------------------------------------------------------------------------------------------------------------- */

static void end_ack(struct child *c, struct child_call *call, int code)
{
    instance_enter(&c->in, "stream ack", NULL);
    call->fn.ack(call->arg, code, 0);
    instance_leave(&c->in);
}

static int check_append(struct child *c, uint64_t stream, const struct muster_append *a)
{
    const struct muster_host *host = &c->in.host;
    char why[POLICY_WHY_SIZE];
    int err;

    if (!idmap_get(&c->streams, stream) || !MUSTER_HAS(a, arg) || !a->tenant || !a->subject ||
        !subject_is_literal(a->subject, strlen(a->subject)))
        return host->fail(host, MUSTER_EINVAL, "append(): expected an open stream, size, a tenant, and a subject without wildcards");
    err = policy_append(&c->policy, a->subject, why);
    if (err)
        return host->fail(host, err, "%s", why);
    err = child_check_headers(c, a->headers, a->n_headers);
    if (err || atomic_load(&c->link_is_down))
        return err ? err : MUSTER_ELINK;
    return MUSTER_HAS(a, lease) ? lease_check(c, a->lease) : 0;
}

static int stream_append(const struct muster_host *host, uint64_t stream, const struct muster_append *a)
{
    struct child *c = child_of(host);
    struct child_call *call = NULL;
    struct frame f;
    int err = MAY_CALL(c);

    if (!err)
        err = check_append(c, stream, a);
    if (err)
        return err;
    if (a->acked) {
        call = call_new(c, FRAME_APPENDED, end_ack, a->arg);
        if (!call)
            return MUSTER_ENOMEM;
        call->fn.ack = a->acked;
        call->stream = stream;
    }
    f = pipe_begin(c->pipe, FRAME_APPEND, call ? call->id : 0);
    frame_put_u64(&f, stream);
    child_put_out(&f, a->tenant, a->subject, a->headers, a->n_headers, a->payload);
    frame_put_u64(&f, a->expected_seq);
    frame_put_u64(&f, MUSTER_HAS(a, lease) ? a->lease : 0);
    return call ? call_send(c, call, &f) : child_send(c, &f);
}

void store_appended(struct child *c, struct frame_reader *r)
{
    struct child_call *call = call_answered(c, r, true);
    int code = frame_get_i32(r);
    uint64_t seq = frame_get_u64(r);

    if (!call)
        return;
    instance_enter(&c->in, "stream ack", NULL);
    call->fn.ack(call->arg, code, seq);
    instance_leave(&c->in);
    free(call);
}

const struct muster_stream child_stream = {.size = sizeof child_stream,
                                           .open = stream_open,
                                           .close = stream_close,
                                           .info = stream_info,
                                           .last = stream_last,
                                           .append = stream_append,
                                           .read = stream_read,
                                           .attach = stream_attach,
                                           .follow = stream_follow,
                                           .unfollow = stream_unfollow,
                                           .hold_back = stream_hold_back};
