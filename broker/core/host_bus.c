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
#include "core/dispatch.h"
#include "core/instance.h"
#include "tenant/tenant.h"
#include "wire/error.h"
#include "wire/subject.h"

enum { MAX_SUBJECT = 512 };

static int full_subject(const struct instance *in, const struct muster_publication *pub, char out[MAX_SUBJECT])
{
    int n;

    if (!pub->tenant || !subject_is_literal(pub->subject, strlen(pub->subject)))
        return in->host.fail(&in->host, MUSTER_EINVAL, "subject \"%s\": expected a tenant and tokens without wildcards", pub->subject);
    n = snprintf(out, MAX_SUBJECT, "%s.%s.%s", broker_root(in->broker), tenants_name(pub->tenant), pub->subject);
    return n > 0 && n < MAX_SUBJECT ? 0 : MUSTER_EINVAL;
}

static int host_subscribe(const struct muster_host *host, const struct muster_subscription *sub, uint64_t *ret_sub)
{
    struct instance *in = instance_of(host);

    CHECK_LANE(in);
    return dispatch_subscribe(broker_dispatch(in->broker), in, sub, ret_sub);
}

static void host_unsubscribe(const struct muster_host *host, uint64_t sub)
{
    struct instance *in = instance_of(host);

    CHECK_LANE(in);
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
    if (e->done)
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
        err = host_sql.prepare(&in->host, "muster_emit", MUSTER_SQL_WRITE, emit_sql, &stmt);
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

static int host_publish(const struct muster_host *host, const struct muster_publication *pub)
{
    struct instance *in = instance_of(host);
    char subject[MAX_SUBJECT];
    struct bus_out out = {.subject = subject,
                          .headers = pub->headers,
                          .n_headers = pub->n_headers,
                          .payload = pub->payload,
                          .fence = -1};
    int err = full_subject(in, pub, subject);

    if (err)
        return err;
    if (strncmp(pub->subject, "evt.", 4) == 0 && strncmp(pub->subject, "evt._.", 6) != 0) {
        CHECK_LANE(in);
        return emit(in, pub, subject);
    }
    err = bus_send(broker_bus(in->broker), BUS_LIVE, &out);
    if (err == MUSTER_EAGAIN)
        atomic_store(&in->wants_writable, true);
    if (!err && pub->done)
        pub->done(pub->arg, 0);
    return err;
}

struct question {
    struct instance *in;
    muster_reply_fn fn;
    void *arg;
};

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
        msg.subject = bus_msg_subject(raw);
        msg.n_headers = bus_msg_headers(raw, headers, DELIVERY_HEADERS);
    }
    instance_enter(q->in, "reply", code ? NULL : msg.subject);
    q->fn(q->arg, code, code ? NULL : &msg);
    instance_leave(q->in);
    free(q);
}

static int host_request(const struct muster_host *host, const struct muster_publication *pub, int64_t timeout_ns, muster_reply_fn fn,
                        void *arg)
{
    struct instance *in = instance_of(host);
    char subject[MAX_SUBJECT];
    struct bus_out out = {.subject = subject,
                          .headers = pub->headers,
                          .n_headers = pub->n_headers,
                          .payload = pub->payload,
                          .fence = -1};
    struct question *q;
    int err;

    CHECK_LANE(in);
    if (!fn || timeout_ns <= 0)
        return MUSTER_EINVAL;
    err = full_subject(in, pub, subject);
    if (err)
        return err;
    q = malloc(sizeof *q);
    if (!q)
        return MUSTER_ENOMEM;
    *q = (struct question){in, fn, arg};
    err = bus_request(broker_bus(in->broker), BUS_LIVE, &out,
                      &(struct bus_call){.lane = in->lane, .owner = in, .timeout_ns = timeout_ns, .fn = on_answer, .arg = q});
    if (err)
        free(q);
    return err;
}

/* ---- answers --------------------------------------------------------------------------------------------------------------------- */

static int host_reply(const struct muster_host *host, uint64_t request, struct muster_bytes payload)
{
    return dispatch_reply(broker_dispatch(instance_of(host)->broker), request, payload);
}

static int host_reply_error(const struct muster_host *host, uint64_t request, const char *code, const char *field,
                            const char *message)
{
    int found = error_find(code);

    if (found < 0)
        return host->fail(host, MUSTER_EINVAL, "error code \"%s\": expected one of INTERFACE 3, such as not_found", code);
    return dispatch_reply_error(broker_dispatch(instance_of(host)->broker), request, found, field, message);
}

static struct delivery *delivery_of(const struct muster_msg *msg)
{
    return (struct delivery *)(void *)((char *)(uintptr_t)msg - offsetof(struct delivery, msg));
}

static int host_hold(const struct muster_host *host, const struct muster_msg *msg, const struct muster_msg **ret_msg)
{
    struct delivery *d = delivery_of(msg);

    CHECK_LANE(instance_of(host));
    atomic_fetch_add(&d->refs, 1);
    atomic_store(&d->held, true);
    *ret_msg = &d->msg;
    return 0;
}

static void host_drop(const struct muster_host *host, const struct muster_msg *msg)
{
    struct delivery *d = delivery_of(msg);

    if (d->msg.request) /* nothing happens when it was answered */
        (void)dispatch_reply_error(broker_dispatch(instance_of(host)->broker), d->msg.request, ERROR_INTERNAL, NULL,
                                   "the service gave no answer");
    delivery_unref(d);
}

const struct muster_bus host_bus = {.size = sizeof host_bus,
                                    .subscribe = host_subscribe,
                                    .unsubscribe = host_unsubscribe,
                                    .publish = host_publish,
                                    .request = host_request,
                                    .reply = host_reply,
                                    .reply_error = host_reply_error,
                                    .hold = host_hold,
                                    .drop = host_drop};

void host_bus_done(struct instance *in)
{
    dispatch_forget(broker_dispatch(in->broker), in);
}
