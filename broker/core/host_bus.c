/*
 * muster.bus/1: subscriptions, messages out, requests and answers.
 *
 * What goes to "evt.…" is emitted in the database by muster.emit(), so that it has one order and survives a crash; the heads
 * ("evt._.…") are notices and go out at once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/name.h"
#include "core/dispatch.h"
#include "core/instance.h"
#include "tenant/tenant.h"
#include "wire/error.h"
#include "wire/subject.h"

enum { MAX_SUBJECT = 512, CORKED_MAX = 64 };

static bool is_request(const char *subject)
{
    return strncmp(subject, "rpc.", 4) == 0;
}

/* A plugin asks services under its own name, which no agent can have, and under no other. */
static int check_sender(const struct instance *in, const char *subject)
{
    char own[8 + sizeof SUBJECT_PLUGIN_PREFIX + NAME_MAX_LEN];
    int n;

    if (!is_request(subject))
        return 0;
    n = snprintf(own, sizeof own, "rpc." SUBJECT_PLUGIN_PREFIX "%s.", in->plugin->name);
    if (n - (int)strlen("rpc..") > NAME_MAX_LEN)
        return in->host.fail(&in->host, MUSTER_EINVAL, "subject \"%s\": plugin %s cannot ask services: its name is longer than %d bytes",
                             subject, in->plugin->name, NAME_MAX_LEN - (int)strlen(SUBJECT_PLUGIN_PREFIX));
    if (strncmp(subject, own, (size_t)n) != 0)
        return in->host.fail(&in->host, MUSTER_EACCES, "subject \"%s\": a request of this plugin begins with %s", subject, own);
    return 0;
}

static char *put(char *at, const char *s, size_t len)
{
    memcpy(at, s, len);
    return at + len;
}

/* R.T.<rest>; every message out comes by here. */
static int absolute(const struct instance *in, const struct muster_tenant *of, const char *rest, char out[MAX_SUBJECT])
{
    const char *root = broker_root(in->broker), *tenant = tenants_name(of);
    size_t n_root = strlen(root), n_tenant = strlen(tenant), n_rest = strlen(rest);
    char *at = out;

    if (n_root + n_tenant + n_rest + 3 > MAX_SUBJECT)
        return MUSTER_EINVAL;
    at = put(at, root, n_root);
    *at++ = '.';
    at = put(at, tenant, n_tenant);
    *at++ = '.';
    (void)put(at, rest, n_rest + 1);
    return 0;
}

static int full_subject(const struct instance *in, const struct muster_publication *pub, char out[MAX_SUBJECT])
{
    int err;

    if (!MUSTER_HAS(pub, arg) || !pub->tenant || !pub->subject || !subject_is_literal(pub->subject, strlen(pub->subject)))
        return in->host.fail(&in->host, MUSTER_EINVAL, "subject \"%s\": expected size, a tenant, and tokens without wildcards",
                             MUSTER_HAS(pub, subject) && pub->subject ? pub->subject : "");
    err = absolute(in, pub->tenant, pub->subject, out);
    return err ? err : check_sender(in, pub->subject);
}

static bool has_service(const struct muster_plugin *plugin, struct text service)
{
    const char *at = (const char *)plugin->services;

    for (uint32_t i = 0; i < plugin->n_services; i++, at += plugin->service_size)
        if (text_is(service, ((const struct muster_service *)(const void *)at)->name))
            return true;
    return false;
}

/* Where respond() goes, in full; out "" where nobody is to. */
static int full_reply(const struct instance *in, const struct muster_publication *pub, char out[MAX_SUBJECT])
{
    struct text service;

    *out = '\0';
    if (!MUSTER_HAS(pub, reply) || !pub->reply)
        return 0;
    if (!subject_responds(pub->subject, pub->reply, &service))
        return in->host.fail(&in->host, MUSTER_EINVAL,
                             "reply \"%s\" of \"%s\": expected rpc.B.<service>.<verb>.<ref> of a message to.B.<from>.<type>", pub->reply, pub->subject);
    if (!has_service(in->plugin, service))
        return in->host.fail(&in->host, MUSTER_EACCES, "reply \"%s\": %.*s is no service of plugin %s", pub->reply, (int)service.len, service.s,
                             in->plugin->name);
    return absolute(in, pub->tenant, pub->reply, out);
}

static int host_subscribe(const struct muster_host *host, const struct muster_subscription *sub, uint64_t *ret_sub)
{
    struct instance *in = instance_of(host);
    int err = MAY_BEGIN(in);

    return err ? err : dispatch_subscribe(broker_dispatch(in->broker), in, sub, ret_sub);
}

static void host_unsubscribe(const struct muster_host *host, uint64_t sub)
{
    struct instance *in = instance_of(host);

    if (ON_LANE(in))
        dispatch_unsubscribe(broker_dispatch(in->broker), in, sub);
}

/* ---- events ---------------------------------------------------------------------------------------------------------------------- */

static const char emit_sql[] = "SELECT muster.emit($1, $2, $3, $4, $5::jsonb)";

struct emission {
    struct instance *in;
    muster_done_fn done;
    void *arg;
};

static void on_emitted(void *arg, const struct muster_sql_result *result)
{
    struct emission *e = arg;

    if (result->code)
        e->in->host.log(&e->in->host, MUSTER_LOG_ERROR, "an event could not be emitted: %s", result->error);
    if (e->done) /* inside the bracket that host_sql.c put around this function */
        e->done(e->arg, result->code);
    free(e);
}

static struct muster_bytes bytes_of(struct text t)
{
    return (struct muster_bytes){t.s, t.len};
}

static int emit(struct instance *in, const struct muster_publication *pub, const char *full)
{
    struct subject s;
    struct emission *e;
    struct muster_bytes params[5];
    uint64_t stmt;
    int err = subject_parse(broker_root(in->broker), full, strlen(full), &s);

    if (!err)
        err = host_sql_prepare(in, "muster_emit", MUSTER_SQL_WRITE, emit_sql, &stmt);
    if (err)
        return err;
    e = malloc(sizeof *e);
    if (!e)
        return MUSTER_ENOMEM;
    *e = (struct emission){in, pub->done, pub->arg};
    params[0] = bytes_of(s.tenant);
    params[1] = bytes_of(s.service);
    params[2] = bytes_of(s.verb);
    params[3] = bytes_of(s.ref);
    params[4] = pub->payload;
    err = host_sql.exec(&in->host, stmt, pub->tenant, pub->subject, 5, params, on_emitted, e);
    if (err)
        free(e);
    return err;
}

/* ---- messages -------------------------------------------------------------------------------------------------------------------- */

/* done() of what was handed to NATS: never inside publish(), like every callback. */
struct sent {
    struct lane_item item;
    struct instance *in;
    muster_done_fn done;
    void *arg;
};

static void run_sent(struct lane_item *item)
{
    struct sent *s = (struct sent *)item;

    if (!s->in->ended) {
        instance_enter(s->in, "done", NULL);
        s->done(s->arg, 0);
        instance_leave(s->in);
    }
    free(s);
}

static void drop_sent(struct lane_item *item)
{
    free(item);
}

static int send_and_tell(struct instance *in, const struct muster_publication *pub, const struct bus_out *out)
{
    struct sent *s;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    s = malloc(sizeof *s);
    if (!s)
        return MUSTER_ENOMEM;
    *s = (struct sent){{.run = run_sent, .drop = drop_sent}, in, pub->done, pub->arg};
    err = bus_send(broker_bus(in->broker), BUS_LIVE, out);
    if (err)
        free(s);
    else
        lane_push(in->lane, &s->item);
    return err;
}

static bool is_event(const char *subject)
{
    return strncmp(subject, "evt.", 4) == 0 && strncmp(subject, "evt._.", 6) != 0;
}

/* What one callback publishes travels together: each wake of the link's thread costs more than a message does. */
static bool is_corked(struct instance *in)
{
    if (!lane_here(in->lane))
        return false;
    in->n_corked = (in->n_corked + 1) % CORKED_MAX;
    return in->n_corked != 0;
}

static int host_publish(const struct muster_host *host, const struct muster_publication *pub)
{
    struct instance *in = instance_of(host);
    char subject[MAX_SUBJECT], reply[MAX_SUBJECT];
    struct bus_out out;
    int err = full_subject(in, pub, subject);

    if (!err)
        err = full_reply(in, pub, reply);
    if (err)
        return err;
    if (is_event(pub->subject)) {
        err = MAY_BEGIN(in);
        if (!err && pub->n_headers)
            err = host->fail(host, MUSTER_EINVAL, "headers: %u came with \"%s\", expected none: the database stores an event's payload alone",
                             pub->n_headers, pub->subject);
        return err ? err : emit(in, pub, subject);
    }
    out = (struct bus_out){.subject = subject,
                           .reply = *reply ? reply : NULL,
                           .headers = pub->headers,
                           .n_headers = pub->n_headers,
                           .payload = pub->payload,
                           .more = is_corked(in),
                           .fence = -1};
    err = pub->done ? send_and_tell(in, pub, &out) : bus_send(broker_bus(in->broker), BUS_LIVE, &out);
    return instance_sent(in, BUS_LIVE, err);
}

struct question {
    struct instance *in;
    const struct muster_tenant *tenant; /* whose subjects the answer comes on; NULL: it proves no tenant */
    char agent[NAME_TOKEN_SIZE];        /* who alone can have answered; "": a broker */
    muster_reply_fn fn;
    void *arg;
};

/* What follows R.T. */
static const char *relative(const struct question *q, const char *subject)
{
    return subject + strlen(broker_root(q->in->broker)) + strlen(tenants_name(q->tenant)) + 2;
}

static void on_answer(void *arg, int code, const struct bus_msg *raw)
{
    struct question *q = arg;
    struct muster_header headers[DELIVERY_HEADERS];
    struct muster_msg msg = {.size = sizeof msg, .headers = headers, .encoding = MUSTER_JSON};

    if (!code) {
        const unsigned char *p;

        msg.payload = bus_msg_data(raw);
        p = msg.payload.data;
        msg.encoding = msg.payload.len && p[0] >= 0x80 ? MUSTER_MSGPACK : MUSTER_JSON;
        msg.tenant = q->tenant;
        msg.agent = q->agent[0] ? q->agent : NULL;
        msg.subject = q->tenant ? relative(q, bus_msg_subject(raw)) : bus_msg_subject(raw);
        msg.n_headers = bus_msg_headers(raw, headers, DELIVERY_HEADERS);
    }
    instance_enter(q->in, "reply", code ? NULL : msg.subject);
    q->fn(q->arg, code, code ? NULL : &msg);
    instance_leave(q->in);
    free(q);
}

/* An agent may write to its own subjects only, so what the broker asks it is answered on R.T.to._muster.<agent>.…: the subject
 * proves who did (INTERFACE 2). A service is asked as an agent would, and answers in the plugin's box, where brokers alone may write and
 * which nobody else may hear. NULL: what is asked is neither. */
static const char *answers_of(struct question *q, const struct muster_publication *pub, char out[MAX_SUBJECT])
{
    const char *root = broker_root(q->in->broker), *tenant = tenants_name(pub->tenant);
    size_t prefix = strncmp(pub->subject, "to.", 3) == 0 ? 3 : strncmp(pub->subject, "sub.", 4) == 0 ? 4 : 0;
    const char *agent = pub->subject + prefix, *dot = strchr(agent, '.');

    if (is_request(pub->subject)) {
        (void)snprintf(out, MAX_SUBJECT, "%s.%s.box." SUBJECT_PLUGIN_PREFIX "%s", root, tenant, q->in->plugin->name);
    } else if (prefix && dot && dot - agent <= NAME_MAX_LEN) {
        (void)snprintf(q->agent, sizeof q->agent, "%.*s", (int)(dot - agent), agent);
        (void)snprintf(out, MAX_SUBJECT, "%s.%s.to._muster.%s", root, tenant, q->agent);
    } else {
        return NULL;
    }
    q->tenant = pub->tenant;
    return out;
}

static int ask(struct instance *in, const struct muster_publication *pub, const char *subject, const struct bus_call *call)
{
    struct bus_out out = {
        .subject = subject, .headers = pub->headers, .n_headers = pub->n_headers, .payload = pub->payload, .fence = -1};

    return instance_sent(in, BUS_LIVE, bus_request(broker_bus(in->broker), BUS_LIVE, &out, call));
}

static int host_request(const struct muster_host *host, const struct muster_publication *pub, int64_t timeout_ns, muster_reply_fn fn,
                        void *arg)
{
    struct instance *in = instance_of(host);
    char subject[MAX_SUBJECT], answers[MAX_SUBJECT];
    struct bus_call call = {.lane = in->lane, .owner = in, .timeout_ns = timeout_ns, .fn = on_answer};
    struct question *q;
    int err = MAY_BEGIN(in);

    if (!err && (!fn || timeout_ns <= 0))
        err = MUSTER_EINVAL;
    if (!err)
        err = full_subject(in, pub, subject);
    if (!err && is_event(pub->subject))
        err = host->fail(host, MUSTER_EINVAL, "subject \"%s\": an event is published; nobody can answer it", pub->subject);
    if (!err && MUSTER_HAS(pub, reply) && pub->reply)
        err = host->fail(host, MUSTER_EINVAL, "reply \"%s\": a request has its own; expected NULL", pub->reply);
    if (err)
        return err;
    q = malloc(sizeof *q);
    if (!q)
        return MUSTER_ENOMEM;
    *q = (struct question){.in = in, .fn = fn, .arg = arg};
    call.arg = q;
    call.answers = answers_of(q, pub, answers);
    err = ask(in, pub, subject, &call);
    if (err)
        free(q);
    return err;
}

/* ---- answers --------------------------------------------------------------------------------------------------------------------- */

static int host_reply(const struct muster_host *host, uint64_t request, struct muster_bytes payload)
{
    struct instance *in = instance_of(host);

    return instance_sent(in, BUS_LIVE, dispatch_reply(broker_dispatch(in->broker), request, payload));
}

static int host_reply_error(const struct muster_host *host, uint64_t request, const char *code, const char *field,
                            const char *message)
{
    struct instance *in = instance_of(host);
    int found = error_find(code);

    if (found < 0)
        return host->fail(host, MUSTER_EINVAL, "error code \"%s\": expected one of INTERFACE 3, such as not_found", code);
    return instance_sent(in, BUS_LIVE, dispatch_reply_error(broker_dispatch(in->broker), request, found, field, message));
}

static struct delivery *delivery_of(const struct muster_msg *msg)
{
    return (struct delivery *)(void *)((char *)(uintptr_t)msg - offsetof(struct delivery, msg));
}

static int host_hold(const struct muster_host *host, const struct muster_msg *msg, const struct muster_msg **ret_msg)
{
    struct instance *in = instance_of(host);
    struct delivery *d = in->delivering;
    int err;

    if (!ON_LANE(in))
        return MUSTER_EINVAL;
    if (!d || &d->msg != msg)
        return host->fail(host, MUSTER_EINVAL, "hold(): expected the message of the callback that runs");
    err = inbox_hold(in->inbox, d);
    if (err)
        return err;
    atomic_fetch_add(&d->refs, 1);
    atomic_store(&d->held, true);
    *ret_msg = &d->msg;
    return 0;
}

static void host_drop(const struct muster_host *host, const struct muster_msg *msg)
{
    struct delivery *d = delivery_of(msg);

    dispatch_unanswered(d);
    inbox_release(instance_of(host)->inbox, d);
    delivery_unref(d);
}

static void host_pause(const struct muster_host *host, uint32_t on)
{
    struct instance *in = instance_of(host);

    if (MAY_BEGIN(in) == 0)
        inbox_pause(in->inbox, on != 0);
}

const struct muster_bus host_bus = {.size = sizeof host_bus,
                                    .subscribe = host_subscribe,
                                    .unsubscribe = host_unsubscribe,
                                    .publish = host_publish,
                                    .request = host_request,
                                    .reply = host_reply,
                                    .reply_error = host_reply_error,
                                    .hold = host_hold,
                                    .drop = host_drop,
                                    .pause = host_pause};

void host_bus_done(struct instance *in)
{
    dispatch_forget(broker_dispatch(in->broker), in);
}
