/*
 * muster.stream/1: the plugin's fenced streams, and those of others that it reads, over bus/js.h. Lane only.
 *
 * A plugin names subjects relative to a tenant; the prefixes are put here, so it cannot reach another's. Streams are fenced by
 * who appends (expected_seq); this file keeps no position.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "core/handover.h"
#include "core/host_stream.h"
#include "tenant/tenant.h"
#include "wire/subject.h"

enum { MAX_SUBJECT = HOST_STREAM_MAX_SUBJECT };
static const int64_t refused_again_ns = 60 * CLOCK_S;
#define HISTORY HOST_STREAM_HISTORY

/* One call under way: the plugin's function and what it was about. */
struct op {
    struct instance *in;
    union {
        muster_stream_info_fn info;
        muster_stream_ack_fn ack;
    } fn;
    void *arg;
    struct handover_out *own; /* of an open, or of a fenced append; NULL: none */
    uint32_t replicas;        /* of an open; 0: it is none */
    uint64_t seq, life;       /* what the fence says that it gets; of its handover */
};

static struct op *op_new(struct instance *in, void *arg)
{
    struct op *op = calloc(1, sizeof *op);

    if (op)
        *op = (struct op){.in = in, .arg = arg};
    return op;
}

static void op_free(struct op *op)
{
    handover_unref(op->own);
    free(op);
}

/* A call that could not be sent: nothing will run, so the operation ends here. */
static int started(struct op *op, int link, int err)
{
    err = instance_sent(op->in, link, err);
    if (err)
        op_free(op);
    return err;
}

struct host_stream *host_stream_find(struct instance *in, uint64_t id)
{
    struct host_stream *s = in->streams;

    while (s && s->id != id)
        s = s->next;
    return s;
}

void host_js_refused(struct instance *in, int code, const struct js_info *info, uint32_t replicas)
{
    int64_t now_ns = clock_now_ns();
    char few[128] = "";

    if (code == MUSTER_ELINK || code == MUSTER_ETIME || code == MUSTER_ENOTFOUND || (in->refused_ns && now_ns - in->refused_ns < refused_again_ns))
        return;
    in->refused_ns = now_ns;
    if (info->few)
        (void)snprintf(few, sizeof few, "; it takes %u servers with JetStream that can have a copy, `muster doctor` says who is missing", replicas);
    in->host.log(&in->host, MUSTER_LOG_WARN, "stream %s with %u replica%s is refused: %s%s", info->stream, replicas, replicas == 1 ? "" : "s",
                 info->text, few);
}

static void on_info(void *arg, int code, const struct js_info *info)
{
    struct op *op = arg;
    struct instance *in = op->in;

    if (code && op->replicas)
        host_js_refused(in, code, info, op->replicas);
    if (info->few)
        code = MUSTER_EAGAIN;
    if (code)
        (void)in->host.fail(&in->host, code, "%s", info->text); /* kept for the plugin to tell */
    else if (op->own)
        handover_is_of(op->own, info->state.created_wall_ns);
    instance_enter(in, "stream info", NULL);
    op->fn.info(op->arg, code, code ? NULL : &info->state);
    instance_leave(in);
    op_free(op);
}

/* ---- making ----------------------------------------------------------------------------------------------------------- */

/* What is beyond an older plugin's struct is not set. */
static struct muster_stream_options options_of(const struct muster_stream_options *o)
{
    struct muster_stream_options out = {.size = sizeof out};

    memcpy(&out, o, o->size < sizeof out ? o->size : sizeof out);
    return out;
}

static const char *republish_of(const struct muster_stream_options *o)
{
    return o->republish ? o->republish : o->subjects;
}

static size_t count_of(const char *s, char c)
{
    size_t n = 0;

    for (; *s; s++)
        n += *s == c;
    return n;
}

/* The server asks for each wildcard of the source by its number; the first stands for the tenant. */
static void write_dest(const char *root, const char *pattern, char out[MAX_SUBJECT])
{
    size_t at = (size_t)snprintf(out, MAX_SUBJECT, "%s.{{wildcard(1)}}.", root);
    int star = 1;

    for (const char *c = pattern; *c && at < MAX_SUBJECT - 1; c++)
        if (*c == '*')
            at += (size_t)snprintf(out + at, MAX_SUBJECT - at, "{{wildcard(%d)}}", ++star);
        else
            out[at++] = *c;
    out[at < MAX_SUBJECT ? at : MAX_SUBJECT - 1] = '\0';
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
                               .max_msgs = o->max_msgs,
                               .max_msgs_per_subject = o->max_msgs_per_subject,
                               .replicas = o->replicas};
    struct js_target t = host_js(in, s);

    (void)snprintf(src, sizeof src, "%s._in.*.%s", root, o->subjects);
    write_dest(root, republish_of(o), dest);
    return js_ensure(&t, &config, on_info, op);
}

enum { MAX_STARS = 8 }; /* each takes some room in what the server is asked for */

static bool is_subjects(const char *pattern)
{
    return pattern && strlen(pattern) < MAX_SUBJECT / 2 && subject_is_pattern(pattern, strlen(pattern)) && count_of(pattern, '*') <= MAX_STARS;
}

static int check_options(struct instance *in, const struct muster_stream_options *o)
{
    const struct muster_host *host = &in->host;

    if (!o->name || !name_is_legal(o->name, strlen(o->name)) || !is_subjects(o->subjects))
        return host->fail(host, MUSTER_EINVAL, "stream \"%s\": expected size, a name of 1 to 64 letters, digits, _ or -, and a pattern",
                          o->name ? o->name : "");
    if (!is_subjects(republish_of(o)) || count_of(republish_of(o), '*') != count_of(o->subjects, '*') ||
        count_of(republish_of(o), '>') != count_of(o->subjects, '>'))
        return host->fail(host, MUSTER_EINVAL, "stream %s: republish is \"%.100s\": expected a pattern with the wildcards of %s", o->name,
                          o->republish, o->subjects);
    if (o->max_msgs < 0 || o->max_msgs_per_subject < 0)
        return host->fail(host, MUSTER_EINVAL, "stream %s: max_msgs is %lld, max_msgs_per_subject %lld: expected 0 or more", o->name,
                          (long long)o->max_msgs, (long long)o->max_msgs_per_subject);
    return 0;
}

static void keep(struct instance *in, struct host_stream *s, uint64_t *ret_stream)
{
    s->id = ++in->next_id;
    s->next = in->streams;
    in->streams = s;
    *ret_stream = s->id;
}

static int stream_open(const struct muster_host *host, const struct muster_stream_options *options, muster_stream_info_fn fn,
                       void *arg, uint64_t *ret_stream)
{
    struct instance *in = instance_of(host);
    struct muster_stream_options o;
    struct host_stream *s;
    struct op *op;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!fn || !MUSTER_HAS(options, max_bytes))
        return host->fail(host, MUSTER_EINVAL, "open(): expected size, and a function");
    o = options_of(options);
    err = check_options(in, &o);
    if (err)
        return err;
    s = calloc(1, sizeof *s);
    op = op_new(in, arg);
    if (!s || !op) {
        free(s);
        free(op);
        return MUSTER_ENOMEM;
    }
    s->replicas = o.replicas;
    (void)snprintf(s->name, sizeof s->name, "%s", o.name);
    (void)snprintf(s->all, sizeof s->all, "%s._in.*.%s", broker_root(in->broker), o.subjects);
    s->own = handover_open(broker_handover(in->broker), s->name); /* without it followers ask JetStream */
    op->fn.info = fn;
    op->own = s->own ? handover_ref(s->own) : NULL;
    op->replicas = o.replicas ? o.replicas : 1;
    err = started(op, BUS_LIVE, ensure(s, &o, op));
    if (err) {
        handover_unref(s->own);
        free(s);
        return err;
    }
    keep(in, s, ret_stream);
    return 0;
}

/* A tenant's history has its subjects as agents publish them. */
static void name_attached(const struct instance *in, struct host_stream *s, const char *name)
{
    const char *root = broker_root(in->broker);

    if (s->tenant) {
        (void)snprintf(s->name, sizeof s->name, HISTORY "_%s", tenants_name(s->tenant));
        (void)snprintf(s->all, sizeof s->all, "%s.%s.>", root, tenants_name(s->tenant));
    } else {
        (void)snprintf(s->name, sizeof s->name, "%s", name);
        (void)snprintf(s->all, sizeof s->all, "%s._in.>", root);
    }
}

static int stream_attach(const struct muster_host *host, const char *name, const struct muster_tenant *tenant, muster_stream_info_fn fn,
                         void *arg, uint64_t *ret_stream)
{
    struct instance *in = instance_of(host);
    struct js_target t;
    struct host_stream *s;
    struct op *op;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    if (!fn || !name || !name_is_legal(name, strlen(name)) || (strcmp(name, HISTORY) == 0) != (tenant != NULL))
        return host->fail(host, MUSTER_EINVAL, "attach(): stream \"%.100s\": expected a function, a name of 1 to 64 letters, digits, _ or -, "
                          "and a tenant with \"" HISTORY "\" alone", name ? name : "");
    s = calloc(1, sizeof *s);
    op = op_new(in, arg);
    if (!s || !op) {
        free(s);
        free(op);
        return MUSTER_ENOMEM;
    }
    s->attached = true;
    s->tenant = tenant;
    name_attached(in, s, name);
    t = host_js(in, s);
    op->fn.info = fn;
    err = started(op, BUS_LIVE, js_get_info(&t, s->name, on_info, op));
    if (err) {
        free(s);
        return err;
    }
    keep(in, s, ret_stream);
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
    host_read_close(in, s->id);
    host_follow_close(in, s->id);
    if (s->own)
        handover_failed(s->own);
    handover_unref(s->own);
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
    s = host_stream_find(in, stream);
    if (!s || !fn)
        return MUSTER_EINVAL;
    t = host_js(in, s);
    op = op_new(in, arg);
    if (!op)
        return MUSTER_ENOMEM;
    op->fn.info = fn;
    return started(op, BUS_LIVE, js_get_info(&t, s->name, on_info, op));
}

/* Write "mst._in.acme.<subject>", or "mst.acme.<subject>" for a history. False when it is too long. */
static bool stored_subject(const struct instance *in, const struct host_stream *s, const struct muster_tenant *tenant, const char *subject,
                           char out[MAX_SUBJECT])
{
    const char *const parts[] = {broker_root(in->broker), s->tenant ? "." : "._in.", tenants_name(tenant), ".", subject};
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

int host_stream_wanted(struct instance *in, const struct host_stream *s, const struct muster_tenant *tenant, const char *subject,
                       char out[MAX_SUBJECT])
{
    const struct muster_host *host = &in->host;

    if (!tenant)
        out[0] = '\0';
    else if (!subject || !subject_is_pattern(subject, strlen(subject)))
        return host->fail(host, MUSTER_EINVAL, "stream %s: subject \"%.100s\": expected a pattern", s->name, subject ? subject : "");
    else if (s->tenant && s->tenant != tenant)
        return host->fail(host, MUSTER_EACCES, "stream %s: it is not of tenant %s", s->name, tenants_name(tenant));
    else if (!stored_subject(in, s, tenant, subject, out))
        return host->fail(host, MUSTER_EINVAL, "subject %.60s…: longer than %d bytes", subject, MAX_SUBJECT);
    return 0;
}

/* "mst._in.acme.cdc.main…" is acme's "cdc.main…"; "mst.acme.all.a1.hi", of a history, its "all.a1.hi". No tenant is called "_in". */
void host_stream_show(struct instance *in, const struct js_msg *from, struct muster_msg *to)
{
    const char *rest = from->subject + strlen(broker_root(in->broker)) + 1, *dot;
    const unsigned char *data = from->data.data;

    if (strncmp(rest, "_in.", 4) == 0)
        rest += 4;
    dot = strchr(rest, '.');
    *to = (struct muster_msg){.size = sizeof *to,
                              .encoding = from->data.len && data[0] != '{' ? MUSTER_MSGPACK : MUSTER_JSON,
                              .tenant = dot ? tenants_find(broker_tenants(in->broker), rest, (size_t)(dot - rest)) : NULL,
                              .subject = dot ? dot + 1 : from->subject,
                              .headers = from->headers,
                              .n_headers = from->n_headers,
                              .payload = from->data,
                              .seq = from->seq,
                              .stored_wall_ns = from->stored_wall_ns};
}

/* ---- appending ------------------------------------------------------------------------------------------------------ */

static void on_ack(void *arg, int code, uint64_t seq)
{
    struct op *op = arg;
    struct instance *in = op->in;

    if (op->own && !code && seq == op->seq)
        handover_acked(op->own, op->life, seq);
    else if (op->own)
        handover_failed(op->own);
    instance_enter(in, "stream ack", NULL);
    op->fn.ack(op->arg, code, seq);
    instance_leave(in);
    op_free(op);
}

/* Own followers may have it, too, once it is stored. */
static uint64_t note_sent(const struct instance *in, const struct host_stream *s, const struct bus_out *out, bool asks)
{
    if (!s->own || out->fence < 0)
        return 0;
    return handover_sent(s->own, out, asks, bus_connects(broker_bus(in->broker), BUS_BULK));
}

static int append_acked(struct instance *in, const struct host_stream *s, const struct bus_out *out, const struct muster_append *a)
{
    struct js_target t = host_js(in, s);
    struct op *op = op_new(in, a->arg);
    int err;

    if (!op)
        return MUSTER_ENOMEM;
    op->fn.ack = a->acked;
    if (s->own && out->fence >= 0) {
        op->own = handover_ref(s->own);
        op->seq = (uint64_t)out->fence + 1;
    }
    err = started(op, BUS_BULK, js_append(&t, BUS_BULK, out, on_ack, op));
    if (!err)
        op->life = note_sent(in, s, out, true);
    return err;
}

static int send_append(struct instance *in, const struct host_stream *s, const struct bus_out *out, const struct muster_append *a)
{
    int err;

    if (a->acked)
        return append_acked(in, s, out, a);
    err = instance_sent(in, BUS_BULK, bus_send(broker_bus(in->broker), BUS_BULK, out));
    if (!err)
        (void)note_sent(in, s, out, false);
    return err;
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
    s = host_stream_find(in, stream);
    if (!s || !MUSTER_HAS(a, arg) || !a->tenant || !a->subject || !subject_is_literal(a->subject, strlen(a->subject)))
        return host->fail(host, MUSTER_EINVAL, "append(): expected an open stream, size, a tenant, and a subject without wildcards");
    if (s->attached)
        return host->fail(host, MUSTER_EACCES, "append(): stream %s is kept by others", s->name);
    out.headers = a->headers;
    out.n_headers = a->n_headers;
    out.payload = a->payload;
    out.more = !a->acked; /* who wants to know soon asks */
    if (a->expected_seq != MUSTER_UNFENCED)
        out.fence = (int64_t)a->expected_seq;
    if (!stored_subject(in, s, a->tenant, a->subject, subject))
        return host->fail(host, MUSTER_EINVAL, "subject %.60s…: longer than %d bytes", a->subject, MAX_SUBJECT);
    if (MUSTER_HAS(a, lease) && a->lease && !host_lease_is_held(in, a->lease))
        return host->fail(host, MUSTER_ESTALE, "append(): its lease is not held now");
    return send_append(in, s, &out, a);
}

const struct muster_stream host_stream = {.size = sizeof host_stream,
                                          .open = stream_open,
                                          .close = stream_close,
                                          .info = stream_info,
                                          .last = host_stream_last,
                                          .append = stream_append,
                                          .read = host_stream_read,
                                          .attach = stream_attach,
                                          .follow = host_stream_follow,
                                          .unfollow = host_stream_unfollow,
                                          .hold_back = host_stream_hold_back};

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
    host_follow_close(in, 0);
    host_read_done(in);
    while (in->streams)
        stream_close(&in->host, in->streams->id);
}
