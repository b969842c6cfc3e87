/* muster.bus/1 of the test host: what the plugin sends and asks. What comes to it: delivery.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "testhost/delivery.h"
#include "testhost/inside.h"
#include "wire/value.h"

/* ---- subscriptions ------------------------------------------------------------------------------------------------------------- */

static int check_subscription(struct muster_test *t, const struct muster_subscription *sub)
{
    const int call = CALL_BUS_SUBSCRIBE;

    if (!sub || !MUSTER_HAS(sub, fn))
        return breach(t, call, "size is %u: expected sizeof(struct muster_subscription)", sub ? sub->size : 0);
    if (is_stale(t, call, "subject", sub->subject))
        return MUSTER_EINVAL;
    if (!sub->subject || !subject_is_pattern(sub->subject, strlen(sub->subject)))
        return breach(t, call, "subject \"%s\": expected what follows R.T., such as rpc.*.hello.say", sub->subject ? sub->subject : "NULL");
    if (!sub->fn)
        return breach(t, call, "%s: fn is NULL", sub->subject);
    if (!sub->max_msgs || !sub->max_bytes)
        return breach(t, call, "%s: max_msgs %u, max_bytes %zu: expected bounds above 0", sub->subject, sub->max_msgs, sub->max_bytes);
    if (sub->overflow > MUSTER_OVERFLOW_DROP_OLD || sub->queue > 1)
        return breach(t, call, "%s: overflow %u, queue %u: expected MUSTER_OVERFLOW_*, and 0 or 1", sub->subject, sub->overflow,
                      sub->queue);
    return 0;
}

static int bus_subscribe(const struct muster_host *host, const struct muster_subscription *sub, uint64_t *ret_sub)
{
    struct muster_test *t = test_of(host, CALL_BUS_SUBSCRIBE);
    int err = call_begin(t, CALL_BUS_SUBSCRIBE);
    struct sub *s;

    if (!err)
        err = check_subscription(t, sub);
    if (!err && !ret_sub)
        err = breach(t, CALL_BUS_SUBSCRIBE, "ret_sub is NULL");
    if (err)
        return err;
    s = must_alloc(sizeof *s);
    s->id = ++t->next_id;
    s->subject = must_copy(sub->subject);
    s->how = *sub;
    s->how.subject = s->subject;
    list_add(&t->subs, s);
    *ret_sub = s->id;
    return 0;
}

static void bus_unsubscribe(const struct muster_host *host, uint64_t sub)
{
    struct muster_test *t = test_of(host, CALL_BUS_UNSUBSCRIBE);
    bool found = false;

    if (call_begin(t, CALL_BUS_UNSUBSCRIBE) != 0)
        return;
    for (size_t i = 0; i < t->subs.n; i++) {
        struct sub *s = t->subs.items[i];

        if (s->id == sub && !s->dead)
            s->dead = found = true; /* what waits finds out when it is due */
    }
    if (!found)
        (void)breach(t, CALL_BUS_UNSUBSCRIBE, "%llu is no subscription", (unsigned long long)sub);
}

static const struct sub *live_sub(struct muster_test *t, size_t i)
{
    for (size_t at = 0; at < t->subs.n; at++) {
        const struct sub *s = t->subs.items[at];

        if (!s->dead && i-- == 0)
            return s;
    }
    return NULL;
}

size_t muster_test_n_subscriptions(struct muster_test *t)
{
    size_t n = 0;

    while (live_sub(t, n))
        n++;
    return n;
}

const char *muster_test_subscription(struct muster_test *t, size_t i)
{
    const struct sub *s = live_sub(t, i);

    return s ? s->subject : NULL;
}

/* ---- publishing ---------------------------------------------------------------------------------------------------------------- */

static int check_headers(struct muster_test *t, int call, const struct muster_header *headers, uint32_t n)
{
    if (n && (!headers || is_stale(t, call, "headers", headers)))
        return headers ? MUSTER_EINVAL : breach(t, call, "headers is NULL and n_headers %u", n);
    for (uint32_t i = 0; i < n; i++) {
        if (!headers[i].name || !headers[i].value)
            return breach(t, call, "header %u has a NULL", i);
        if (is_stale(t, call, "a header", headers[i].value))
            return MUSTER_EINVAL;
    }
    return 0;
}

int check_outgoing(struct muster_test *t, int call, const struct outgoing *o)
{
    if (is_stale(t, call, "subject", o->subject) || is_stale(t, call, "payload", o->payload.data))
        return MUSTER_EINVAL;
    if (!tenant_is(t, call, o->tenant))
        return MUSTER_EINVAL;
    if (!o->subject || !subject_is_literal(o->subject, strlen(o->subject)))
        return breach(t, call, "subject \"%s\": expected tokens without wildcards and blanks, none of them empty",
                      o->subject ? o->subject : "NULL");
    if (strlen(o->subject) + strlen(o->tenant->name) + sizeof TEST_ROOT "._in.." > TEST_MAX_SUBJECT)
        return breach(t, call, "subject %.60s…: longer than %d bytes", o->subject, TEST_MAX_SUBJECT);
    if (!o->payload.data && o->payload.len)
        return breach(t, call, "payload.data is NULL and len %zu", o->payload.len);
    return check_headers(t, call, o->headers, o->n_headers);
}

static int check_publication(struct muster_test *t, int call, const struct muster_publication *pub)
{
    if (!pub || !MUSTER_HAS(pub, arg))
        return breach(t, call, "size is %u: expected sizeof(struct muster_publication)", pub ? pub->size : 0);
    return check_outgoing(t, call,
                          &(struct outgoing){pub->tenant, pub->subject, pub->headers, pub->n_headers, pub->payload});
}

static bool has_service(const struct muster_test *t, struct text service)
{
    for (size_t i = 0; i < t->services.n; i++)
        if (text_is(service, ((const struct service *)t->services.items[i])->how->name))
            return true;
    return false;
}

static int check_reply(struct muster_test *t, const struct muster_publication *pub)
{
    struct text service;

    if (!MUSTER_HAS(pub, reply) || !pub->reply)
        return 0;
    if (is_stale(t, CALL_BUS_PUBLISH, "reply", pub->reply))
        return MUSTER_EINVAL;
    if (!subject_responds(pub->subject, pub->reply, &service))
        return breach(t, CALL_BUS_PUBLISH, "reply \"%s\" of \"%s\": expected rpc.B.<service>.<verb>.<ref> of a message to.B.<from>.<type>", pub->reply,
                      pub->subject);
    if (!has_service(t, service))
        return breach(t, CALL_BUS_PUBLISH, "reply \"%s\": %.*s is no service of the plugin", pub->reply, (int)service.len, service.s);
    return 0;
}

static bool is_event(const char *subject)
{
    return strncmp(subject, "evt.", 4) == 0 && strncmp(subject, "evt._.", 6) != 0;
}

static int check_event(struct muster_test *t, const struct muster_publication *pub)
{
    char full[TEST_MAX_SUBJECT];
    struct muster_value *doc;
    struct wire_error err;
    struct subject s;

    (void)snprintf(full, sizeof full, TEST_ROOT ".%s.%s", pub->tenant->name, pub->subject);
    if (subject_parse(TEST_ROOT, full, strlen(full), &s) != 0)
        return breach(t, CALL_BUS_PUBLISH, "subject %s: expected evt.<service>.<event>.<key>", pub->subject);
    if (value_decode(MUSTER_JSON, pub->payload, &doc, &err) != 0)
        return breach(t, CALL_BUS_PUBLISH, "%s: the payload of an event is a JSON object: %s", pub->subject, err.text);
    value_free(doc);
    return 0;
}

struct done {
    struct due due;
    muster_done_fn fn;
    void *arg;
};

static void run_done(struct muster_test *t, struct due *d, int code)
{
    struct done *done = (struct done *)d;

    DURING(t, "done", NULL, done->fn(done->arg, code));
    free(done);
}

static void tell_done(struct muster_test *t, const struct muster_publication *pub, bool event)
{
    struct done *done;

    if (!pub->done)
        return;
    done = must_alloc(sizeof *done);
    *done = (struct done){.due = {.kind = event ? DUE_LOCAL : DUE_LINK, .callback = CALL_BUS_PUBLISH_CB, .run = run_done},
                          .fn = pub->done,
                          .arg = pub->arg};
    due_add(t, &done->due, t->now_ns);
}

static void keep_published(struct muster_test *t, const struct muster_publication *pub)
{
    struct sent *s = sent_make(t, MUSTER_TEST_PUBLISHED, pub->tenant, pub->subject, pub->headers, pub->n_headers, pub->payload);

    s->seen.reply = MUSTER_HAS(pub, reply) ? must_copy(pub->reply) : NULL;
    pthread_mutex_lock(&t->lock);
    list_add(&t->sent, s);
    pthread_mutex_unlock(&t->lock);
}

static int bus_publish(const struct muster_host *host, const struct muster_publication *pub)
{
    struct muster_test *t = test_of(host, CALL_BUS_PUBLISH);
    int err = call_begin(t, CALL_BUS_PUBLISH);
    bool event;

    if (!err)
        err = check_publication(t, CALL_BUS_PUBLISH, pub);
    if (!err)
        err = check_reply(t, pub);
    if (err)
        return err;
    event = is_event(pub->subject);
    if ((event || pub->done) && !pthread_equal(pthread_self(), t->lane))
        return breach(t, CALL_BUS_PUBLISH, "%s: [lane] with done or on evt.…", pub->subject);
    if ((event || pub->done) && t->phase == PHASE_CREATE)
        return breach(t, CALL_BUS_PUBLISH, "%s: with done or on evt.…: from start() on, not in create()", pub->subject);
    if (event)
        err = check_event(t, pub);
    else if (!t->up)
        err = MUSTER_ELINK;
    if (err)
        return err;
    keep_published(t, pub);
    tell_done(t, pub, event);
    return 0;
}

/* ---- questions ----------------------------------------------------------------------------------------------------------------- */

struct expiry {
    struct due due;
    struct sent *sent;
    int code; /* what its callback is told */
    const struct script *script;
};

/* Call the plugin's function once, with the answer or a code. */
static void give(struct muster_test *t, struct sent *s, int code, const char *json)
{
    muster_reply_fn fn = s->reply;
    struct muster_test_sent body = {.subject = s->seen.subject};
    struct arena *a;
    struct muster_msg *msg;

    s->reply = NULL;
    if (code) {
        DURING(t, "reply to", s->seen.subject, fn(s->arg, code, NULL));
        return;
    }
    body.payload = (struct muster_bytes){json, strlen(json)};
    a = arena_new(msg_room(&body));
    msg = msg_make(a, &body, NULL);
    DURING(t, "reply to", s->seen.subject, fn(s->arg, 0, msg));
    arena_end(a, "the answer to a request");
}

static void run_expiry(struct muster_test *t, struct due *d, int code)
{
    struct expiry *e = (struct expiry *)d;
    struct sent *s = e->sent;
    const char *json = "{}";

    s->expiry = NULL;
    if (!code && e->script)
        code = e->script->fn(e->script->arg, &s->seen, &json);
    else if (!code)
        code = e->code;
    give(t, s, code, json);
    free(e);
}

static const struct script *script_for(struct muster_test *t, const char *subject)
{
    for (size_t i = t->scripts.n; i-- > 0;) {
        const struct script *s = t->scripts.items[i];

        if (subject_match(s->pattern, subject))
            return s->fn ? s : NULL;
    }
    return NULL;
}

static int bus_request(const struct muster_host *host, const struct muster_publication *pub, int64_t timeout_ns, muster_reply_fn fn,
                       void *arg)
{
    struct muster_test *t = test_of(host, CALL_BUS_REQUEST);
    int err = call_begin(t, CALL_BUS_REQUEST);
    struct expiry *e;

    if (!err)
        err = check_publication(t, CALL_BUS_REQUEST, pub);
    if (!err && (!fn || timeout_ns <= 0))
        err = breach(t, CALL_BUS_REQUEST, "%s: fn %s, timeout_ns %lld: expected a function and a time above 0", pub->subject,
                     fn ? "given" : "NULL", (long long)timeout_ns);
    if (!err && MUSTER_HAS(pub, reply) && pub->reply)
        err = breach(t, CALL_BUS_REQUEST, "reply \"%s\": a request has its own; expected NULL", pub->reply);
    if (!err && !t->up)
        err = MUSTER_ELINK;
    if (err)
        return err;
    e = must_alloc(sizeof *e);
    *e = (struct expiry){.due = {.kind = DUE_LINK, .callback = -1, .run = run_expiry},
                         .sent = sent_add(t, MUSTER_TEST_ASKED, pub->tenant, pub->subject, pub->headers, pub->n_headers, pub->payload),
                         .code = fault_take(t, CALL_BUS_REQUEST_CB)};
    e->sent->seen.timeout_ns = timeout_ns;
    e->sent->reply = fn;
    e->sent->arg = arg;
    e->sent->expiry = &e->due;
    e->script = e->code ? NULL : script_for(t, pub->subject);
    due_add(t, &e->due, t->now_ns + (e->code || e->script ? 0 : timeout_ns));
    if (!e->code)
        e->code = MUSTER_ETIME;
    return 0;
}

int muster_test_answer_to(struct muster_test *t, size_t i, int code, const char *json)
{
    struct sent *s = i < t->sent.n ? t->sent.items[i] : NULL;

    if (!s || !s->reply)
        return MUSTER_ENOTFOUND;
    if (s->expiry) {
        due_remove(t, s->expiry);
        free(s->expiry);
        s->expiry = NULL;
    }
    give(t, s, code, json ? json : "{}");
    muster_test_run(t);
    return 0;
}

void muster_test_answer_by(struct muster_test *t, const char *pattern, muster_test_answer_fn fn, void *arg)
{
    struct script *s = must_alloc(sizeof *s);

    *s = (struct script){must_copy(pattern), fn, arg};
    list_add(&t->scripts, s);
}

static void bus_pause(const struct muster_host *host, uint32_t on)
{
    struct muster_test *t = test_of(host, CALL_BUS_PAUSE);

    if (call_begin(t, CALL_BUS_PAUSE) != 0)
        return;
    if (on > 1)
        (void)breach(t, CALL_BUS_PAUSE, "on is %u: expected 0 or 1", on);
    t->paused = on;
}

const struct muster_bus test_bus = {.size = sizeof test_bus,
                                    .subscribe = bus_subscribe,
                                    .unsubscribe = bus_unsubscribe,
                                    .publish = bus_publish,
                                    .request = bus_request,
                                    .reply = bus_reply,
                                    .reply_error = bus_reply_error,
                                    .hold = bus_hold,
                                    .drop = bus_drop,
                                    .pause = bus_pause};

void bus_free(struct muster_test *t)
{
    delivery_free_all(t);
    for (size_t i = 0; i < t->subs.n; i++) {
        struct sub *s = t->subs.items[i];

        free(s->subject);
        free(s);
    }
    for (size_t i = 0; i < t->scripts.n; i++) {
        struct script *s = t->scripts.items[i];

        free(s->pattern);
        free(s);
    }
    for (size_t i = 0; i < t->sent.n; i++)
        sent_free(t->sent.items[i]);
    list_done(&t->subs);
    list_done(&t->scripts);
    list_done(&t->sent);
}
