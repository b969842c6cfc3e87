/*
 * muster.stream/1 and muster.kv/1: the plugin's fenced streams and its small keys, over bus/js.h. Lane only.
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
#include "bus/js.h"
#include "core/instance.h"
#include "tenant/tenant.h"
#include "wire/subject.h"

enum { MAX_SUBJECT = 512, MAX_KEY = 200, MAX_VALUE = 65536 };
static const int64_t api_timeout_ns = 5 * CLOCK_S, ack_timeout_ns = 5 * CLOCK_S;

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
        muster_kv_fn kv;
    } fn;
    void *arg;
    /* A bucket that is made before its first use. */
    char *key;
    void *value;
    size_t value_len;
    uint64_t revision;
};

/* owner: the stream, so that its calls can end with it, or the instance. */
static struct js_target target(struct instance *in, const void *owner, int64_t timeout_ns)
{
    return (struct js_target){
        .bus = broker_bus(in->broker), .lane = in->lane, .owner = owner, .timeout_ns = timeout_ns};
}

static struct op *op_new(struct instance *in, void *arg)
{
    struct op *op = calloc(1, sizeof *op);

    if (op)
        *op = (struct op){.in = in, .arg = arg};
    return op;
}

static void op_free(struct op *op)
{
    free(op->key);
    free(op->value);
    free(op);
}

/* A call that could not be sent: nothing will run, so the operation ends here. */
static int started(struct op *op, int link, int err)
{
    if (err == MUSTER_EAGAIN)
        instance_starve(op->in, link);
    if (err)
        op_free(op);
    return err;
}

static struct host_stream *find(struct instance *in, uint64_t id)
{
    struct host_stream *s = in->streams;

    while (s && s->id != id)
        s = s->next;
    return s;
}

/* ---- muster.stream/1 ----------------------------------------------------------------------------------------------- */

static void on_info(void *arg, int code, const struct js_info *info)
{
    struct op *op = arg;
    struct instance *in = op->in;

    if (code)
        (void)in->host.fail(&in->host, code, "%s", info->text); /* kept for the plugin to tell */
    instance_enter(in, "stream info", NULL);
    op->fn.info(op->arg, code, code ? NULL : &info->state);
    instance_leave(in);
    op_free(op);
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
    struct js_target t = target(in, s, api_timeout_ns);

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
    t = target(in, s, api_timeout_ns);
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
    op_free(op);
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
    t = target(in, s, api_timeout_ns);
    op = op_new(in, arg);
    if (!op)
        return MUSTER_ENOMEM;
    op->fn.msg = fn;
    /* Not ">": for that the server looks at its last sequence alone, and finds nothing when that message was deleted. */
    return started(op, BUS_LIVE, js_last(&t, s->name, tenant ? full : s->all, on_last, op));
}

static void on_ack(void *arg, int code, uint64_t seq)
{
    struct op *op = arg;
    struct instance *in = op->in;

    instance_enter(in, "stream ack", NULL);
    op->fn.ack(op->arg, code, seq);
    instance_leave(in);
    op_free(op);
}

static int append_acked(struct instance *in, const struct host_stream *s, const struct bus_out *out, const struct muster_append *a)
{
    struct js_target t = target(in, s, ack_timeout_ns);
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
    if (a->acked)
        return append_acked(in, s, &out, a);
    err = bus_send(broker_bus(in->broker), BUS_BULK, &out);
    if (err == MUSTER_EAGAIN)
        instance_starve(in, BUS_BULK);
    return err;
}

const struct muster_stream host_stream = {.size = sizeof host_stream,
                                          .open = stream_open,
                                          .close = stream_close,
                                          .info = stream_info,
                                          .last = stream_last,
                                          .append = stream_append};

/* ---- muster.kv/1 --------------------------------------------------------------------------------------------------- */

static void bucket_of(const struct instance *in, char out[96])
{
    (void)snprintf(out, 96, "muster_%s", in->plugin->name);
}

/* As many copies as of the instance's streams: what it keeps there is about them, and is worth as much. */
static uint32_t bucket_replicas(const struct instance *in)
{
    uint32_t replicas = 1;

    for (const struct host_stream *s = in->streams; s; s = s->next)
        if (s->replicas > replicas)
            replicas = s->replicas;
    return replicas;
}

static void finish_kv(struct op *op, int code, struct muster_bytes value, uint64_t revision)
{
    instance_enter(op->in, "kv", op->key);
    op->fn.kv(op->arg, code, value, revision);
    instance_leave(op->in);
    op_free(op);
}

static void on_value(void *arg, int code, const struct js_msg *msg)
{
    struct op *op = arg;

    /* A bucket that is not there yet has no keys. */
    finish_kv(op, code, code ? (struct muster_bytes){0} : msg->data, code ? 0 : msg->seq);
}

static bool key_is_legal(const char *key)
{
    size_t len = key ? strlen(key) : 0;

    return len > 0 && len <= MAX_KEY && key[0] != '.' && key[len - 1] != '.' &&
           strspn(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./=~-") == len;
}

static int kv_get(const struct muster_host *host, const struct muster_tenant *tenant, const char *key, muster_kv_fn fn, void *arg)
{
    struct instance *in = instance_of(host);
    struct js_target t = target(in, in, api_timeout_ns);
    char bucket[96], stream[128], subject[MAX_SUBJECT];
    struct op *op;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!fn || tenant || !key_is_legal(key))
        return host->fail(host, MUSTER_EINVAL, "key \"%s\": expected 1 to %d of A-Z a-z 0-9 _ . / = ~ -", key ? key : "", MAX_KEY);
    op = op_new(in, arg);
    if (!op)
        return MUSTER_ENOMEM;
    op->fn.kv = fn;
    bucket_of(in, bucket);
    (void)snprintf(stream, sizeof stream, "KV_%s", bucket);
    (void)snprintf(subject, sizeof subject, "$KV.%s.%s", bucket, key);
    return started(op, BUS_LIVE, js_last(&t, stream, subject, on_value, op));
}

static void on_stored(void *arg, int code, uint64_t seq)
{
    finish_kv(arg, code, (struct muster_bytes){0}, seq);
}

static int send_put(struct op *op)
{
    char bucket[96], subject[MAX_SUBJECT], fence[24];
    struct muster_header header = {"Nats-Expected-Last-Subject-Sequence", fence};
    struct bus_out out = {.subject = subject,
                          .headers = &header,
                          .n_headers = op->revision != MUSTER_UNFENCED,
                          .payload = {op->value, op->value_len},
                          .fence = -1};
    struct js_target t = target(op->in, op->in, ack_timeout_ns);

    bucket_of(op->in, bucket);
    (void)snprintf(subject, sizeof subject, "$KV.%s.%s", bucket, op->key);
    (void)snprintf(fence, sizeof fence, "%llu", (unsigned long long)op->revision);
    return js_append(&t, BUS_LIVE, &out, on_stored, op);
}

static void on_bucket(void *arg, int code, const struct js_info *info)
{
    struct op *op = arg;

    if (code)
        (void)op->in->host.fail(&op->in->host, code, "%s", info->text); /* kept for the plugin to tell */
    else
        code = op->in->ending ? MUSTER_ELINK : send_put(op);
    if (code)
        finish_kv(op, code, (struct muster_bytes){0}, 0);
}

/* The bucket is made, or found, before each put: puts are rare, and a bucket that was removed comes back. */
static int kv_put(const struct muster_host *host, const struct muster_kv_put *put)
{
    struct instance *in = instance_of(host);
    char bucket[96], stream[128], subject[128];
    const char *subjects[] = {subject};
    struct js_config config = {
        .name = stream, .subjects = subjects, .n_subjects = 1, .max_msgs_per_subject = 1, .replicas = bucket_replicas(in), .is_kv = true};
    struct js_target t = target(in, in, api_timeout_ns);
    struct op *op;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!MUSTER_HAS(put, arg) || !put->fn || put->tenant || !key_is_legal(put->key) || put->value.len > MAX_VALUE)
        return host->fail(host, MUSTER_EINVAL, "put(): expected size, a legal key and at most %d bytes", MAX_VALUE);
    op = op_new(in, put->arg);
    if (!op)
        return MUSTER_ENOMEM;
    op->fn.kv = put->fn;
    op->revision = put->revision;
    op->key = strdup(put->key);
    op->value = malloc(put->value.len + 1);
    op->value_len = put->value.len;
    if (!op->key || !op->value)
        return started(op, BUS_LIVE, MUSTER_ENOMEM);
    if (put->value.len) /* data may be NULL then, which memcpy() does not take */
        memcpy(op->value, put->value.data, put->value.len);
    bucket_of(in, bucket);
    (void)snprintf(stream, sizeof stream, "KV_%s", bucket);
    (void)snprintf(subject, sizeof subject, "$KV.%s.>", bucket);
    return started(op, BUS_LIVE, js_ensure(&t, &config, on_bucket, op));
}

const struct muster_kv host_kv = {.size = sizeof host_kv, .get = kv_get, .put = kv_put};

void host_stream_done(struct instance *in)
{
    while (in->streams)
        stream_close(&in->host, in->streams->id);
}
