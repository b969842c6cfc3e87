/* muster.bus/1 of a child; see host.h. What is refused here is worded as the broker would, or as the policy says. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "child/host.h"
#include "wire/error.h"
#include "wire/subject.h"
#include "wire/value.h"

enum { ROOT_ROOM = 8 }; /* the root token is the broker's, and short */

/* ---- subscriptions ---------------------------------------------------------------------------------------------------------------- */

static int check_subscription(struct child *c, const struct muster_subscription *sub)
{
    const struct muster_host *host = &c->in.host;
    char why[POLICY_WHY_SIZE];
    int err;

    if (!MUSTER_HAS(sub, fn) || !sub->fn || !sub->max_msgs || !sub->max_bytes || sub->overflow > MUSTER_OVERFLOW_DROP_OLD)
        return host->fail(host, MUSTER_EINVAL,
                          "subscription to \"%s\": expected size, a legal pattern, a function, a known overflow, and bounds above 0",
                          MUSTER_HAS(sub, subject) && sub->subject ? sub->subject : "");
    if (c->subs.n >= CHILD_MAX_SUBSCRIPTIONS)
        return child_refuse_more(c, "subscriptions", CHILD_MAX_SUBSCRIPTIONS);
    err = policy_subscribe(&c->policy, sub->subject, why);
    return err ? host->fail(host, err, "%s", why) : 0;
}

static int send_subscription(struct child *c, uint64_t id, const struct muster_subscription *sub)
{
    struct frame f = pipe_begin(c->pipe, FRAME_SUBSCRIBE, id);

    frame_put_u32(&f, sub->overflow);
    frame_put_str(&f, sub->subject);
    frame_put_u32(&f, sub->max_msgs);
    frame_put_u32(&f, sub->queue);
    frame_put_u64(&f, sub->max_bytes);
    return child_send(c, &f);
}

static int child_subscribe(const struct muster_host *host, const struct muster_subscription *sub, uint64_t *ret_sub)
{
    struct child *c = child_of(host);
    struct child_sub *s;
    uint64_t id;
    int err = MAY_BEGIN(&c->in);

    if (!err)
        err = check_subscription(c, sub);
    if (err)
        return err;
    s = malloc(sizeof *s);
    if (!s)
        return MUSTER_ENOMEM;
    *s = (struct child_sub){sub->fn};
    id = child_next_id(c);
    err = idmap_put(&c->subs, id, s) ? send_subscription(c, id, sub) : MUSTER_ENOMEM;
    if (err) {
        (void)idmap_take(&c->subs, id);
        free(s);
        return err;
    }
    *ret_sub = id;
    return 0;
}

static void child_unsubscribe(const struct muster_host *host, uint64_t sub)
{
    struct child *c = child_of(host);
    struct child_sub *s;

    if (!ON_LANE(&c->in))
        return;
    s = idmap_take(&c->subs, sub);
    if (!s)
        return;
    free(s);
    (void)pipe_put(c->pipe, FRAME_UNSUBSCRIBE, sub);
}

static void child_pause(const struct muster_host *host, uint32_t on)
{
    struct child *c = child_of(host);

    if (!ON_LANE(&c->in) || c->paused == (on != 0))
        return;
    c->paused = on != 0;
    if (!c->paused)
        message_resume(c);
}

/* Once a turn, however often the plugin changes its mind: it is told past the bounds. */
void bus_tell_pause(struct child *c)
{
    struct frame f;

    if (c->paused == c->told_paused)
        return;
    f = pipe_begin(c->pipe, FRAME_PAUSE, 0);
    frame_put_u8(&f, c->paused);
    if (pipe_end(c->pipe, &f, true) == 0)
        c->told_paused = c->paused;
    lane_wake(c->in.lane); /* the pipe may have written for this turn */
}

/* ---- out -------------------------------------------------------------------------------------------------------------------------- */

static bool is_event(const char *subject)
{
    return strncmp(subject, "evt.", 4) == 0 && strncmp(subject, "evt._.", 6) != 0;
}

static const char *reply_of(const struct muster_publication *pub)
{
    return MUSTER_HAS(pub, reply) ? pub->reply : NULL;
}

static int check_publication(struct child *c, const struct muster_publication *pub)
{
    const struct muster_host *host = &c->in.host;
    char why[POLICY_WHY_SIZE];
    int err;

    if (!MUSTER_HAS(pub, arg) || !pub->tenant || !pub->subject || !subject_is_literal(pub->subject, strlen(pub->subject)))
        return host->fail(host, MUSTER_EINVAL, "subject \"%s\": expected size, a tenant, and tokens without wildcards",
                          MUSTER_HAS(pub, subject) && pub->subject ? pub->subject : "");
    if (strlen(pub->subject) + strlen(child_tenants.name(pub->tenant)) > CHILD_MAX_SUBJECT - ROOT_ROOM)
        return host->fail(host, MUSTER_EINVAL, "subject \"%.60s…\": longer than %d bytes", pub->subject, CHILD_MAX_SUBJECT);
    err = policy_publish(&c->policy, pub->subject, why);
    if (!err && reply_of(pub))
        err = policy_respond(&c->policy, pub->subject, pub->reply, why);
    if (err)
        return host->fail(host, err, "%s", why);
    err = child_check_headers(c, pub->headers, pub->n_headers);
    if (!err && is_event(pub->subject) && pub->n_headers)
        err = host->fail(host, MUSTER_EINVAL, "subject \"%s\": an event has no headers of its own", pub->subject);
    if (err)
        return err;
    return !is_event(pub->subject) && atomic_load(&c->link_is_down) ? MUSTER_ELINK : 0;
}

static void put_publication(struct frame *f, const struct muster_publication *pub)
{
    child_put_out(f, pub->tenant, pub->subject, pub->headers, pub->n_headers, pub->payload);
}

static void end_done(struct child *c, struct child_call *call, int code)
{
    instance_enter(&c->in, "done", call->about);
    call->fn.done(call->arg, code);
    instance_leave(&c->in);
}

static int publish_and_tell(struct child *c, const struct muster_publication *pub)
{
    struct child_call *call = call_new(c, FRAME_SENT, end_done, pub->arg);
    struct frame f;

    if (!call)
        return MUSTER_ENOMEM;
    call->fn.done = pub->done;
    call_note(call, pub->subject);
    f = pipe_begin(c->pipe, FRAME_PUBLISH, call->id);
    put_publication(&f, pub);
    frame_put_str(&f, reply_of(pub));
    return call_send(c, call, &f);
}

static int child_publish(const struct muster_host *host, const struct muster_publication *pub)
{
    struct child *c = child_of(host);
    struct frame f;
    int err = check_publication(c, pub);

    if (!err && (pub->done || is_event(pub->subject)))
        err = MAY_CALL(c);
    if (err)
        return err;
    if (pub->done)
        return publish_and_tell(c, pub);
    f = pipe_begin(c->pipe, FRAME_PUBLISH, 0);
    put_publication(&f, pub);
    frame_put_str(&f, reply_of(pub));
    return child_send(c, &f);
}

void bus_sent(struct child *c, struct frame_reader *r)
{
    struct child_call *call = call_answered(c, r, true);
    int code = frame_get_i32(r);

    if (!call)
        return;
    call->end(c, call, code);
    free(call);
}

static void end_reply(struct child *c, struct child_call *call, int code)
{
    instance_enter(&c->in, "reply", NULL);
    call->fn.reply(call->arg, code, NULL);
    instance_leave(&c->in);
}

static int child_request(const struct muster_host *host, const struct muster_publication *pub, int64_t timeout_ns, muster_reply_fn fn,
                       void *arg)
{
    struct child *c = child_of(host);
    struct child_call *call;
    struct frame f;
    int err = MAY_CALL(c);

    if (!err && (!fn || timeout_ns <= 0))
        err = MUSTER_EINVAL;
    if (!err)
        err = check_publication(c, pub);
    if (!err && reply_of(pub))
        err = host->fail(host, MUSTER_EINVAL, "reply \"%s\": a request has its own; expected NULL", pub->reply);
    if (err)
        return err;
    call = call_new(c, FRAME_ANSWER, end_reply, arg);
    if (!call)
        return MUSTER_ENOMEM;
    call->fn.reply = fn;
    f = pipe_begin(c->pipe, FRAME_REQUEST, call->id);
    frame_put_i64(&f, timeout_ns);
    put_publication(&f, pub);
    return call_send(c, call, &f);
}

void bus_answer(struct child *c, struct frame_reader *r)
{
    struct child_call *call = call_answered(c, r, true);
    int code = frame_get_i32(r);
    struct child_message m;

    if (!call)
        return;
    if (!code)
        message_get(c, r, &m);
    if (r->bad)
        return;
    instance_enter(&c->in, "reply", code ? NULL : m.msg.subject);
    call->fn.reply(call->arg, code, code ? NULL : &m.msg);
    instance_leave(&c->in);
    free(call);
}

/* ---- answers ---------------------------------------------------------------------------------------------------------------------- */

/* Once: it is taken before it is sent, and given back where it was not. */
static int take_request(struct child *c, uint64_t request)
{
    bool open;

    pthread_mutex_lock(&c->lock);
    open = idmap_take(&c->requests, request) != NULL;
    pthread_mutex_unlock(&c->lock);
    return open ? 0 : MUSTER_ENOTFOUND;
}

static int send_answer(struct child *c, uint64_t request, struct frame *f)
{
    int err = child_send(c, f);

    if (!err)
        return 0;
    pthread_mutex_lock(&c->lock);
    (void)idmap_put(&c->requests, request, c); /* there is room: it has just been there */
    pthread_mutex_unlock(&c->lock);
    return err;
}

static int child_reply(const struct muster_host *host, uint64_t request, struct muster_bytes payload)
{
    struct child *c = child_of(host);
    struct frame f;
    int err;

    if (payload.len > WIRE_MAX_BODY)
        return MUSTER_EINVAL;
    err = take_request(c, request);
    if (err)
        return err;
    f = pipe_begin(c->pipe, FRAME_REPLY, request);
    frame_put_bytes(&f, payload);
    return send_answer(c, request, &f);
}

static int child_reply_error(const struct muster_host *host, uint64_t request, const char *code, const char *field, const char *message)
{
    struct child *c = child_of(host);
    struct frame f;
    int err;

    if (error_find(code) < 0)
        return host->fail(host, MUSTER_EINVAL, "error code \"%s\": expected one of INTERFACE 3, such as not_found", code);
    err = take_request(c, request);
    if (err)
        return err;
    f = pipe_begin(c->pipe, FRAME_REPLY_ERROR, request);
    frame_put_str(&f, code);
    frame_put_str(&f, field);
    frame_put_str(&f, message ? message : "");
    return send_answer(c, request, &f);
}

const struct muster_bus child_bus = {.size = sizeof child_bus,
                                     .subscribe = child_subscribe,
                                     .unsubscribe = child_unsubscribe,
                                     .publish = child_publish,
                                     .request = child_request,
                                     .reply = child_reply,
                                     .reply_error = child_reply_error,
                                     .hold = message_hold,
                                     .drop = message_drop,
                                     .pause = child_pause};
