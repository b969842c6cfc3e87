/*
 * muster.stream/1: the plugin's fenced streams, over bus/js.h. Lane only.
 *
 * A plugin names subjects relative to a tenant; the prefixes are put here, so it cannot reach another's. Streams are fenced by
 * who appends (expected_seq); this file keeps no position.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/name.h"
#include "core/host_js.h"
#include "tenant/tenant.h"
#include "wire/subject.h"

enum { MAX_SUBJECT = 512, MAX_READ = 1000 };

struct host_stream {
    struct host_stream *next;
    uint64_t id;
    uint32_t replicas;
    char name[NAME_MAX_LEN + 1];
    char all[MAX_SUBJECT]; /* the subject that matches every message of it */
};

/* One call under way: the plugin's function and what it was about. */
struct op {
    struct instance *in;
    union {
        muster_stream_info_fn info;
        muster_stream_msg_fn msg;
        muster_stream_ack_fn ack;
    } fn;
    void *arg;
    uint64_t stream; /* of read(): it may be closed between two messages */
    uint64_t next_seq;
    uint32_t left;
    char subject[];
};

static struct op *op_new(struct instance *in, void *arg)
{
    struct op *op = calloc(1, sizeof *op);

    if (op)
        *op = (struct op){.in = in, .arg = arg};
    return op;
}

/* A call that could not be sent: nothing will run, so the operation ends here. */
static int started(struct op *op, int link, int err)
{
    err = instance_sent(op->in, link, err);
    if (err)
        free(op);
    return err;
}

static struct host_stream *find(struct instance *in, uint64_t id)
{
    struct host_stream *s = in->streams;

    while (s && s->id != id)
        s = s->next;
    return s;
}

static void on_info(void *arg, int code, const struct js_info *info)
{
    struct op *op = arg;
    struct instance *in = op->in;

    if (code)
        (void)in->host.fail(&in->host, code, "%s", info->text); /* kept for the plugin to tell */
    instance_enter(in, "stream info", NULL);
    op->fn.info(op->arg, code, code ? NULL : &info->state);
    instance_leave(in);
    free(op);
}

static int ensure(struct host_stream *s, const struct muster_stream_options *o, struct op *op)
{
    struct instance *in = op->in;
    const char *root = broker_root(in->broker);
    char src[MAX_SUBJECT], dest[MAX_SUBJECT];
    const char *subjects[] = {src};
    struct js_config config = {.name = o->name,
                               .subjects = subjects,
                               .n_subjects = 1,
                               .republish_src = src,
                               .republish_dest = dest,
                               .max_age_ns = o->max_age_ns,
                               .max_bytes = o->max_bytes,
                               .replicas = o->replicas};
    struct js_target t = host_js(in, s);

    (void)snprintf(src, sizeof src, "%s._in.*.%s", root, o->subjects);
    (void)snprintf(dest, sizeof dest, "%s.{{wildcard(1)}}.%s", root, o->subjects);
    return js_ensure(&t, &config, on_info, op);
}

static bool is_well_formed(const struct muster_stream_options *o)
{
    return MUSTER_HAS(o, max_bytes) && o->name && name_is_legal(o->name, strlen(o->name)) && o->subjects &&
           strlen(o->subjects) < MAX_SUBJECT / 2 && subject_is_pattern(o->subjects, strlen(o->subjects));
}

static int stream_open(const struct muster_host *host, const struct muster_stream_options *options, muster_stream_info_fn fn,
                       void *arg, uint64_t *ret_stream)
{
    struct instance *in = instance_of(host);
    struct host_stream *s;
    struct op *op;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!fn || !is_well_formed(options))
        return host->fail(host, MUSTER_EINVAL, "stream \"%s\": expected size, a name of 1 to 64 letters, digits, _ or -, and a pattern",
                          MUSTER_HAS(options, name) && options->name ? options->name : "");
    s = calloc(1, sizeof *s);
    op = op_new(in, arg);
    if (!s || !op) {
        free(s);
        free(op);
        return MUSTER_ENOMEM;
    }
    op->fn.info = fn;
    err = started(op, BUS_LIVE, ensure(s, options, op));
    if (err) {
        free(s);
        return err;
    }
    s->id = ++in->next_id;
    s->replicas = options->replicas;
    (void)snprintf(s->name, sizeof s->name, "%s", options->name);
    (void)snprintf(s->all, sizeof s->all, "%s._in.*.%s", broker_root(in->broker), options->subjects);
    s->next = in->streams;
    in->streams = s;
    *ret_stream = s->id;
    return 0;
}

static void stream_close(const struct muster_host *host, uint64_t stream)
{
    struct instance *in = instance_of(host);
    struct host_stream **at = &in->streams, *s;

    if (!ON_LANE(in))
        return;
    while (*at && (*at)->id != stream)
        at = &(*at)->next;
    s = *at;
    if (!s)
        return;
    *at = s->next;
    bus_cancel(broker_bus(in->broker), s);
    free(s);
}

static int stream_info(const struct muster_host *host, uint64_t stream, muster_stream_info_fn fn, void *arg)
{
    struct instance *in = instance_of(host);
    struct js_target t;
    const struct host_stream *s;
    struct op *op;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    s = find(in, stream);
    if (!s || !fn)
        return MUSTER_EINVAL;
    t = host_js(in, s);
    op = op_new(in, arg);
    if (!op)
        return MUSTER_ENOMEM;
    op->fn.info = fn;
    return started(op, BUS_LIVE, js_get_info(&t, s->name, on_info, op));
}

/* Write "mst._in.acme.<subject>". False when it is too long. */
static bool stored_subject(const struct instance *in, const struct muster_tenant *tenant, const char *subject, char out[MAX_SUBJECT])
{
    const char *const parts[] = {broker_root(in->broker), "._in.", tenants_name(tenant), ".", subject};
    size_t n = 0;

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t len = strlen(parts[i]);

        if (len >= MAX_SUBJECT - n)
            return false;
        memcpy(out + n, parts[i], len + 1);
        n += len;
    }
    return true;
}

/* "mst._in.acme.cdc.main…" is acme's "cdc.main…". */
static void fill_msg(struct instance *in, const struct js_msg *from, struct muster_msg *to)
{
    const char *rest = from->subject + strlen(broker_root(in->broker)) + strlen("._in.");
    const char *dot = strchr(rest, '.');
    const unsigned char *data = from->data.data;

    *to = (struct muster_msg){.size = sizeof *to,
                              .encoding = from->data.len && data[0] != '{' ? MUSTER_MSGPACK : MUSTER_JSON,
                              .tenant = dot ? tenants_find(broker_tenants(in->broker), rest, (size_t)(dot - rest)) : NULL,
                              .subject = dot ? dot + 1 : from->subject,
                              .headers = from->headers,
                              .n_headers = from->n_headers,
                              .payload = from->data,
                              .seq = from->seq};
}

static void on_last(void *arg, int code, const struct js_msg *from)
{
    struct op *op = arg;
    struct instance *in = op->in;
    struct muster_msg msg;

    if (!code)
        fill_msg(in, from, &msg);
    instance_enter(in, "stream message", code ? NULL : msg.subject);
    op->fn.msg(op->arg, code, code ? NULL : &msg);
    instance_leave(in);
    free(op);
}

static int stream_last(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                       muster_stream_msg_fn fn, void *arg)
{
    struct instance *in = instance_of(host);
    const struct host_stream *s;
    struct js_target t;
    char full[MAX_SUBJECT];
    struct op *op;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    s = find(in, stream);
    if (!s || !fn || (tenant && (!subject || !subject_is_pattern(subject, strlen(subject)))))
        return host->fail(host, MUSTER_EINVAL, "last(): expected an open stream, a function, and a pattern of subjects");
    if (tenant && !stored_subject(in, tenant, subject, full))
        return host->fail(host, MUSTER_EINVAL, "subject %.60s…: longer than %d bytes", subject, MAX_SUBJECT);
    t = host_js(in, s);
    op = op_new(in, arg);
    if (!op)
        return MUSTER_ENOMEM;
    op->fn.msg = fn;
    /* Not ">": for that the server looks at its last sequence alone, and finds nothing when that message was deleted. */
    return started(op, BUS_LIVE, js_last(&t, s->name, tenant ? full : s->all, on_last, op));
}

/* ---- reading -------------------------------------------------------------------------------------------------------- */

static void finish_read(struct op *op, int code)
{
    struct instance *in = op->in;

    instance_enter(in, "stream read", NULL);
    op->fn.msg(op->arg, code, NULL);
    instance_leave(in);
    free(op);
}

static void on_next(void *arg, int code, const struct js_msg *from);

static int read_on(struct op *op)
{
    const struct host_stream *s = op->in->ending ? NULL : find(op->in, op->stream);
    struct js_target t = host_js(op->in, s);

    if (!s)
        return MUSTER_ELINK;
    return js_next(&t, s->name, op->subject[0] ? op->subject : s->all, op->next_seq, on_next, op);
}

/* One message at a time: what a plugin is slow with waits in the stream, and nowhere else. */
static void on_next(void *arg, int code, const struct js_msg *from)
{
    struct op *op = arg;
    struct instance *in = op->in;
    struct muster_msg msg;

    if (code) {
        finish_read(op, code);
        return;
    }
    fill_msg(in, from, &msg);
    op->next_seq = msg.seq + 1;
    op->left--;
    instance_enter(in, "stream read", msg.subject);
    op->fn.msg(op->arg, 0, &msg);
    instance_leave(in);
    code = op->left ? instance_sent(in, BUS_LIVE, read_on(op)) : 0;
    if (!op->left || code)
        finish_read(op, code);
}

static int stream_read(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                       uint64_t from_seq, uint32_t max_msgs, muster_stream_msg_fn fn, void *arg)
{
    struct instance *in = instance_of(host);
    struct op *op;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!find(in, stream) || !fn || (tenant && (!subject || !subject_is_pattern(subject, strlen(subject)))) || max_msgs == 0 ||
        max_msgs > MAX_READ)
        return host->fail(host, MUSTER_EINVAL, "read(): expected an open stream, a function, a pattern of subjects, and 1 to %d messages",
                          MAX_READ);
    op = calloc(1, sizeof *op + MAX_SUBJECT);
    if (!op)
        return MUSTER_ENOMEM;
    *op = (struct op){
        .in = in, .fn.msg = fn, .arg = arg, .stream = stream, .next_seq = from_seq ? from_seq : 1, .left = max_msgs};
    if (tenant && !stored_subject(in, tenant, subject, op->subject)) {
        free(op);
        return host->fail(host, MUSTER_EINVAL, "subject %.60s…: longer than %d bytes", subject, MAX_SUBJECT);
    }
    return started(op, BUS_LIVE, read_on(op));
}

/* ---- appending ------------------------------------------------------------------------------------------------------ */

static void on_ack(void *arg, int code, uint64_t seq)
{
    struct op *op = arg;
    struct instance *in = op->in;

    instance_enter(in, "stream ack", NULL);
    op->fn.ack(op->arg, code, seq);
    instance_leave(in);
    free(op);
}

static int append_acked(struct instance *in, const struct host_stream *s, const struct bus_out *out, const struct muster_append *a)
{
    struct js_target t = host_js(in, s);
    struct op *op = op_new(in, a->arg);

    if (!op)
        return MUSTER_ENOMEM;
    op->fn.ack = a->acked;
    return started(op, BUS_BULK, js_append(&t, BUS_BULK, out, on_ack, op));
}

static int stream_append(const struct muster_host *host, uint64_t stream, const struct muster_append *a)
{
    struct instance *in = instance_of(host);
    const struct host_stream *s;
    char subject[MAX_SUBJECT];
    struct bus_out out = {.subject = subject, .fence = -1};
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    s = find(in, stream);
    if (!s || !MUSTER_HAS(a, arg) || !a->tenant || !a->subject || !subject_is_literal(a->subject, strlen(a->subject)))
        return host->fail(host, MUSTER_EINVAL, "append(): expected an open stream, size, a tenant, and a subject without wildcards");
    out.headers = a->headers;
    out.n_headers = a->n_headers;
    out.payload = a->payload;
    out.more = !a->acked; /* who wants to know soon asks */
    if (a->expected_seq != MUSTER_UNFENCED)
        out.fence = (int64_t)a->expected_seq;
    if (!stored_subject(in, a->tenant, a->subject, subject))
        return host->fail(host, MUSTER_EINVAL, "subject %.60s…: longer than %d bytes", a->subject, MAX_SUBJECT);
    if (MUSTER_HAS(a, lease) && a->lease && !host_lease_is_held(in, a->lease))
        return host->fail(host, MUSTER_ESTALE, "append(): its lease is not held now");
    if (a->acked)
        return append_acked(in, s, &out, a);
    return instance_sent(in, BUS_BULK, bus_send(broker_bus(in->broker), BUS_BULK, &out));
}

const struct muster_stream host_stream = {.size = sizeof host_stream,
                                          .open = stream_open,
                                          .close = stream_close,
                                          .info = stream_info,
                                          .last = stream_last,
                                          .append = stream_append,
                                          .read = stream_read};

uint32_t host_stream_replicas(const struct instance *in)
{
    uint32_t replicas = 1;

    for (const struct host_stream *s = in->streams; s; s = s->next)
        if (s->replicas > replicas)
            replicas = s->replicas;
    return replicas;
}

void host_stream_done(struct instance *in)
{
    while (in->streams)
        stream_close(&in->host, in->streams->id);
}
