/* Messages on their way to the plugin, and the requests that it answers; see delivery.h. */
#include "testhost/delivery.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/access.h"
#include "wire/error.h"
#include "wire/schema.h"

enum { MAX_HELD = 16384 };
static const int64_t again_ns = 10 * MUSTER_TEST_MS, again_for_ns = 30 * MUSTER_TEST_S;

/* ---- answers ------------------------------------------------------------------------------------------------------------------- */

/* The lock is held. */
static struct request *find(struct muster_test *t, uint64_t number)
{
    return number && number <= t->requests.n ? t->requests.items[number - 1] : NULL;
}

static void keep_answer(struct muster_test *t, struct request *r, const struct muster_test_answer *answer)
{
    pthread_mutex_lock(&t->lock);
    r->answer = *answer;
    r->answer.encoding = r->encoding;
    r->answer.field = must_copy(answer->field);
    r->answer.message = must_copy(answer->message);
    r->answer.payload = must_copy_bytes(answer->payload);
    r->answered = true;
    r->open = false;
    pthread_mutex_unlock(&t->lock);
}

static void answer_error(struct muster_test *t, struct request *r, const struct error_answer *error, uint32_t by_host)
{
    struct buf body = {0};

    error_write(error, r->encoding, &body);
    keep_answer(t, r,
                &(struct muster_test_answer){.error = error_name(error->code),
                                             .field = error->field && error->field[0] ? error->field : NULL,
                                             .message = error->message,
                                             .by_host = by_host,
                                             .payload = {body.data, body.len}});
    buf_done(&body);
}

/* What a broker answers for the plugin; nothing when it was answered. */
static void refuse(struct muster_test *t, struct request *r, int code, const char *field, const char *message)
{
    if (r && r->open)
        answer_error(t, r, &(struct error_answer){.code = code, .field = field, .message = message}, 1);
}

/* 0 and the request; or the code that the call gives. */
static int take_request(struct muster_test *t, int call, uint64_t number, struct request **ret_request)
{
    struct request *r;

    pthread_mutex_lock(&t->lock);
    r = find(t, number);
    pthread_mutex_unlock(&t->lock);
    if (!r)
        return breach(t, call, "%llu is no request: 0 is a message that nobody waits for", (unsigned long long)number);
    if (r->answered && r->answer.by_host)
        return MUSTER_ENOTFOUND; /* the host has told why already */
    if (r->answered) {
        (void)breach(t, call, "%s has been answered already", r->subject);
        return MUSTER_ENOTFOUND;
    }
    *ret_request = r;
    return 0;
}

/* A fault that hits an answer leaves the request open, but when its link is gone. */
static int begin_answer(struct muster_test *t, int call, uint64_t number, struct request **ret_request)
{
    int err = call_begin(t, call), found;

    if (err == MUSTER_EINVAL)
        return err;
    found = take_request(t, call, number, ret_request);
    if (found)
        return found;
    if (!err && !t->up)
        err = MUSTER_ELINK;
    if (err)
        (*ret_request)->refused = true;
    if (err == MUSTER_ELINK)
        refuse(t, *ret_request, ERROR_UNAVAILABLE, NULL, "the answer was lost with the link");
    return err;
}

static int check_answer(struct muster_test *t, const struct request *r, struct muster_bytes payload)
{
    struct muster_value *doc;
    struct wire_error err;
    int code = 0;

    if (is_stale(t, CALL_BUS_REPLY, "payload", payload.data))
        return MUSTER_EINVAL;
    if (!payload.data || payload.len > WIRE_MAX_BODY)
        return breach(t, CALL_BUS_REPLY, "payload of %zu bytes%s: expected a body of 1 to %d bytes", payload.len,
                      payload.data ? "" : ", NULL", WIRE_MAX_BODY);
    if (value_decode(r->encoding, payload, &doc, &err) != 0)
        return breach(t, CALL_BUS_REPLY, "the answer to %s is no %s body: %s", r->subject,
                      r->encoding == MUSTER_JSON ? "JSON" : "MessagePack", err.text);
    if (r->definition && schema_check(&r->definition->reply, doc, SCHEMA_LENIENT, &err) != 0)
        code = breach(t, CALL_BUS_REPLY, "the answer to %s does not fit its definition: %s", r->subject, err.text);
    value_free(doc);
    return code;
}

int bus_reply(const struct muster_host *host, uint64_t request, struct muster_bytes payload)
{
    struct muster_test *t = test_of(host, CALL_BUS_REPLY);
    struct request *r;
    int err = begin_answer(t, CALL_BUS_REPLY, request, &r);

    if (err)
        return err;
    (void)check_answer(t, r, payload); /* told; a broker sends it all the same, but when it is too long */
    if (!payload.data || payload.len > WIRE_MAX_BODY)
        return MUSTER_EINVAL;
    keep_answer(t, r, &(struct muster_test_answer){.payload = payload});
    return 0;
}

int bus_reply_error(const struct muster_host *host, uint64_t request, const char *code, const char *field, const char *message)
{
    struct muster_test *t = test_of(host, CALL_BUS_REPLY_ERROR);
    struct request *r;
    int err = begin_answer(t, CALL_BUS_REPLY_ERROR, request, &r), found = code ? error_find(code) : -1;

    if (err)
        return err;
    if (found < 0)
        return breach(t, CALL_BUS_REPLY_ERROR, "code \"%s\": expected one of INTERFACE 3, such as not_found", code ? code : "NULL");
    if (!message)
        return breach(t, CALL_BUS_REPLY_ERROR, "message is NULL");
    if (is_stale(t, CALL_BUS_REPLY_ERROR, "message", message) || is_stale(t, CALL_BUS_REPLY_ERROR, "field", field))
        return MUSTER_EINVAL;
    answer_error(t, r, &(struct error_answer){.code = found, .field = field, .message = message}, 0);
    return 0;
}

const struct muster_test_answer *muster_test_answer(struct muster_test *t, uint64_t number)
{
    struct request *r;

    pthread_mutex_lock(&t->lock);
    r = find(t, number);
    pthread_mutex_unlock(&t->lock);
    return r && r->answered ? &r->answer : NULL;
}

const char *muster_test_answer_text(struct muster_test *t, uint64_t number)
{
    const struct muster_test_answer *answer = muster_test_answer(t, number);

    return answer ? answer->payload.data : "";
}

size_t muster_test_n_open(struct muster_test *t)
{
    size_t n = 0;

    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < t->requests.n; i++)
        n += ((struct request *)t->requests.items[i])->open;
    pthread_mutex_unlock(&t->lock);
    return n;
}

/* ---- messages that are held ---------------------------------------------------------------------------------------------------- */

static void delivery_end(struct delivery *d)
{
    char what[160];

    (void)snprintf(what, sizeof what, "the message %s", d->msg->subject);
    arena_end(d->arena, what);
    free(d);
}

/* The broker answers for who does not. A reply that met a fault was an attempt. */
static void settle_unanswered(struct muster_test *t, struct request *r, const char *how)
{
    if (!r || !r->open)
        return;
    if (!r->queue) { /* every broker hears it: silence is none */
        r->open = false;
        return;
    }
    if (!r->refused)
        fail_test(t, "did not answer request %s: %s", r->subject, how);
    refuse(t, r, ERROR_INTERNAL, NULL, "the service gave no answer");
}

int bus_hold(const struct muster_host *host, const struct muster_msg *msg, const struct muster_msg **ret_msg)
{
    struct muster_test *t = test_of(host, CALL_BUS_HOLD);
    int err = call_begin(t, CALL_BUS_HOLD);
    struct delivery *d = t->delivering;

    if (err)
        return err;
    if (is_stale(t, CALL_BUS_HOLD, "msg", msg))
        return MUSTER_EINVAL;
    if (!d || d->msg != msg || !ret_msg)
        return breach(t, CALL_BUS_HOLD, "%s: expected the message of the callback that runs", ret_msg ? "another message" : "ret_msg is NULL");
    if (d->held)
        return breach(t, CALL_BUS_HOLD, "%s is held already", msg->subject);
    if (t->held.n >= MAX_HELD)
        return MUSTER_EAGAIN;
    d->held = true;
    pthread_mutex_lock(&t->lock);
    list_add(&t->held, d);
    pthread_mutex_unlock(&t->lock);
    *ret_msg = d->msg;
    return 0;
}

static struct delivery *take_held(struct muster_test *t, const struct muster_msg *msg)
{
    struct delivery *found = NULL;

    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < t->held.n && !found; i++) {
        struct delivery *d = t->held.items[i];

        if (d->msg == msg) {
            found = d;
            list_remove(&t->held, i);
        }
    }
    pthread_mutex_unlock(&t->lock);
    return found;
}

/* A thread may drop what the callback that handed it over still has: then that ends it. */
static bool is_delivering(struct muster_test *t, struct delivery *d)
{
    bool now;

    pthread_mutex_lock(&t->lock);
    now = t->delivering == d;
    if (now)
        d->held = false;
    pthread_mutex_unlock(&t->lock);
    return now;
}

void bus_drop(const struct muster_host *host, const struct muster_msg *msg)
{
    struct muster_test *t = test_of(host, CALL_BUS_DROP);
    struct delivery *d;

    if (call_begin(t, CALL_BUS_DROP) != 0)
        return;
    d = take_held(t, msg);
    if (!d) {
        (void)breach(t, CALL_BUS_DROP, "the message is not held%s", msg && arena_stale(msg) ? " any more" : "");
        return;
    }
    settle_unanswered(t, d->request, "dropped without an answer");
    if (!is_delivering(t, d))
        delivery_end(d);
}

/* ---- delivery ------------------------------------------------------------------------------------------------------------------ */

static bool check_body(struct muster_test *t, struct delivery *d)
{
    struct muster_value *doc = NULL;
    struct wire_error why;
    int err;

    if (!d->msg->service || d->is_answer)
        return true;
    err = value_decode(d->msg->encoding, d->msg->payload, &doc, &why);
    if (!err && d->definition)
        err = schema_check(&d->definition->body, doc, SCHEMA_STRICT, &why);
    value_free(doc);
    if (err)
        refuse(t, d->request, error_of_result(err), why.field, why.text);
    return !err;
}

/* What a callback has made of its message. Once held, the message may be gone: a thread of the plugin may drop it. */
struct outcome {
    int err;
    bool held;
};

static struct outcome call_plugin(struct muster_test *t, struct delivery *d)
{
    struct outcome o = {0};
    char subject[DOING_SIZE];
    struct request *r = d->request;

    (void)snprintf(subject, sizeof subject, "%s", d->msg->subject);
    t->delivering = d;
    DURING(t, "message", subject, o.err = d->sub->how.fn(t->self, d->msg));
    pthread_mutex_lock(&t->lock);
    t->delivering = NULL;
    o.held = d->held;
    pthread_mutex_unlock(&t->lock);
    if (o.err > 0)
        fail_test(t, "message %s: the callback returned %d: expected 0 or MUSTER_E*", subject, o.err);
    if (o.err == MUSTER_EAGAIN && (o.held || (r && !r->open))) {
        fail_test(t, "message %s: MUSTER_EAGAIN asks for it again, but it was %s", subject, o.held ? "held" : "answered");
        o.err = 0;
    }
    return o;
}

/* True: it comes again. */
static bool again(struct muster_test *t, struct delivery *d)
{
    if (!d->again_until_ns)
        d->again_until_ns = t->now_ns + again_for_ns;
    if (t->now_ns >= d->again_until_ns || t->phase >= PHASE_ENDING)
        return false;
    d->tenant->again = d;
    due_add(t, &d->due, t->now_ns + again_ns);
    return true;
}

/* It waits no more. */
static void leave_queue(struct delivery *d)
{
    d->sub->n_msgs--;
    d->sub->n_bytes -= d->msg->payload.len;
    if (d->tenant->again == d)
        d->tenant->again = NULL;
}

static void enter_queue(struct delivery *d)
{
    d->sub->n_msgs++;
    d->sub->n_bytes += d->msg->payload.len;
}

/* Show it to the plugin. */
static void show(struct muster_test *t, struct delivery *d)
{
    const struct sub *sub = d->sub;
    struct request *r = d->request;
    struct outcome o;

    leave_queue(d);
    o = call_plugin(t, d);
    if (o.err == MUSTER_EAGAIN && again(t, d)) {
        enter_queue(d);
        return;
    }
    if (o.err && sub->how.queue)
        refuse(t, r, error_of_result(o.err), NULL, "the service failed");
    else if (!o.held)
        settle_unanswered(t, r, "the callback returned without reply(), hold() or an error");
    if (!o.held)
        delivery_end(d);
}

static void run_delivery(struct muster_test *t, struct due *due, int code)
{
    struct delivery *d = (struct delivery *)due;

    if (!code && !d->sub->dead && check_body(t, d)) {
        show(t, d);
        return;
    }
    refuse(t, d->request, ERROR_UNAVAILABLE, NULL, "the service stops; try again"); /* nothing happens where the body was refused */
    leave_queue(d);
    delivery_end(d);
}

static struct request *request_new(struct muster_test *t, const struct muster_test_message *msg)
{
    struct request *r = must_alloc(sizeof *r);

    r->subject = must_copy(msg->subject);
    r->encoding = msg->encoding ? msg->encoding : MUSTER_JSON;
    r->open = true;
    pthread_mutex_lock(&t->lock);
    list_add(&t->requests, r);
    r->number = t->requests.n;
    pthread_mutex_unlock(&t->lock);
    return r;
}

struct incoming {
    const struct muster_test_message *msg;
    struct muster_tenant *tenant;
    struct subject parsed;
    struct request *request; /* for the first that takes it */
    const struct schema_entry *definition;
};

static char *arena_slice(struct arena *a, struct text text)
{
    return text.len ? arena_copy(a, text.s, text.len) : NULL;
}

/* As a broker would know it: of who asks as a plugin, and where nobody is known, there is none. */
static uint32_t role_of(const struct incoming *in)
{
    const struct muster_test_message *from = in->msg;

    if (from->role)
        return from->role;
    if (from->agent)
        return MUSTER_ROLE_AGENT;
    return in->parsed.agent.s && !text_is(in->parsed.agent, "_muster") && !subject_is_plugin(in->parsed.agent) ? MUSTER_ROLE_AGENT
                                                                                                              : MUSTER_ROLE_NONE;
}

static bool may_ask(struct muster_test *t, const struct incoming *in)
{
    const struct schema_entry *e = in->definition;
    char text[ERROR_TEXT_SIZE];

    if (in->parsed.kind != SUBJECT_RPC || access_allows(role_of(in), e ? e->access : SCHEMA_WRITE, e && e->user))
        return true;
    (void)snprintf(text, sizeof text, "role %s may not ask for %.*s.%.*s", access_role_name(role_of(in)), (int)in->parsed.service.len,
                   in->parsed.service.s, (int)in->parsed.verb.len, in->parsed.verb.s);
    refuse(t, in->request, ERROR_PERMISSION_DENIED, NULL, text);
    return false;
}

static struct delivery *delivery_new(struct muster_test *t, struct incoming *in, struct sub *sub)
{
    static const struct muster_bytes empty = {"{}", 2};
    const struct muster_test_message *from = in->msg;
    const struct muster_test_sent body = {.subject = from->subject,
                                          .headers = from->headers,
                                          .n_headers = from->n_headers < 32 ? from->n_headers : 32,
                                          .payload = from->payload.len ? from->payload : empty};
    struct delivery *d = must_alloc(sizeof *d);

    *d = (struct delivery){.due = {.kind = DUE_MESSAGE, .callback = -1, .run = run_delivery},
                           .sub = sub,
                           .tenant = in->tenant,
                           .arena = arena_new(msg_room(&body)),
                           .definition = in->definition,
                           .is_answer = in->parsed.kind == SUBJECT_RPC && in->parsed.ref.len};
    d->msg = msg_make(d->arena, &body, in->tenant);
    d->msg->encoding = from->encoding ? from->encoding : MUSTER_JSON;
    d->msg->recv_ns = t->now_ns;
    d->msg->role = role_of(in);
    d->msg->agent = from->agent ? arena_text(d->arena, from->agent) : arena_slice(d->arena, in->parsed.agent);
    if (in->parsed.kind == SUBJECT_RPC) {
        d->msg->service = arena_slice(d->arena, in->parsed.service);
        d->msg->verb = arena_slice(d->arena, in->parsed.verb);
    }
    if (in->request && !in->request->taken) {
        d->request = in->request;
        d->request->taken = true;
        d->request->queue = sub->how.queue;
        d->msg->request = d->request->number;
    }
    return d;
}

/* The tenant's oldest of the subscription makes room. */
static bool drop_oldest(struct muster_test *t, const struct sub *sub, const struct muster_tenant *tenant)
{
    struct delivery *oldest = NULL;

    for (struct due *d = t->due; d && !oldest; d = d->next) {
        struct delivery *m = (struct delivery *)d;

        if (d->kind == DUE_MESSAGE && m->sub == sub && m->tenant == tenant)
            oldest = m;
    }
    if (!oldest)
        return false;
    due_remove(t, &oldest->due);
    refuse(t, oldest->request, ERROR_RESOURCE_EXHAUSTED, NULL, "it made room for a newer one");
    leave_queue(oldest);
    delivery_end(oldest);
    return true;
}

static void queue_for(struct muster_test *t, struct incoming *in, struct sub *sub)
{
    size_t len = in->msg->payload.len ? in->msg->payload.len : 2;
    bool full = sub->n_msgs >= sub->how.max_msgs || sub->n_bytes + len > sub->how.max_bytes;
    struct delivery *d;

    if (full && sub->how.overflow == MUSTER_OVERFLOW_DROP_OLD)
        full = !drop_oldest(t, sub, in->tenant);
    if (full) {
        if (in->request && !in->request->taken)
            refuse(t, in->request, ERROR_RESOURCE_EXHAUSTED, NULL, "this service has more waiting than it may; try again");
        return;
    }
    d = delivery_new(t, in, sub);
    enter_queue(d);
    due_add(t, &d->due, t->now_ns);
}

/* One of those with a queue, and each of the others. */
static void hand_on(struct muster_test *t, struct incoming *in)
{
    bool queued = false, any = false;

    for (int queue = 1; queue >= 0; queue--)
        for (size_t i = 0; i < t->subs.n; i++) {
            struct sub *s = t->subs.items[i];

            if (s->dead || (int)s->how.queue != queue || !subject_match(s->subject, in->msg->subject) || (queue && queued))
                continue;
            queued |= queue;
            any = true;
            queue_for(t, in, s);
        }
    if (!any)
        refuse(t, in->request, ERROR_NOT_FOUND, NULL, "there is no such service or verb");
}

static bool is_sound(struct muster_test *t, const struct muster_test_message *msg)
{
    if (t->phase != PHASE_STARTED)
        fail_test(t, "a message was sent to the plugin, which does not run");
    else if (!msg->subject || (!msg->payload.data && msg->payload.len))
        fail_test(t, "muster_test_send(): subject or payload is NULL");
    else
        return true;
    return false;
}

uint64_t muster_test_queue(struct muster_test *t, const struct muster_test_message *msg)
{
    struct muster_test_message m = {0};
    struct incoming in = {.msg = &m};
    char full[TEST_MAX_SUBJECT];

    memcpy(&m, msg, msg->size < sizeof m ? msg->size : sizeof m);
    if (!is_sound(t, &m))
        return 0;
    in.tenant = tenant_need(t, m.tenant);
    if (!in.tenant)
        return 0;
    (void)snprintf(full, sizeof full, TEST_ROOT ".%s.%s", in.tenant->name, m.subject);
    if (subject_parse(TEST_ROOT, full, strlen(full), &in.parsed) != 0) {
        fail_test(t, "muster_test_send(): \"%s\" is no subject of the wire", m.subject);
        return 0;
    }
    if (in.parsed.kind == SUBJECT_RPC)
        in.definition = services_verb(t, in.parsed.service, in.parsed.verb);
    if (m.asks) {
        in.request = request_new(t, &m);
        in.request->definition = in.definition;
    }
    if (may_ask(t, &in))
        hand_on(t, &in);
    return in.request ? in.request->number : 0;
}

uint64_t muster_test_send(struct muster_test *t, const struct muster_test_message *msg)
{
    uint64_t number = muster_test_queue(t, msg);

    muster_test_run(t);
    return number;
}

uint64_t muster_test_request(struct muster_test *t, const char *subject, const char *json)
{
    const struct muster_test_message msg = {
        .size = sizeof msg, .subject = subject, .asks = 1, .payload = {json, json ? strlen(json) : 0}};

    return muster_test_send(t, &msg);
}

void muster_test_tell(struct muster_test *t, const char *subject, const char *json)
{
    const struct muster_test_message msg = {.size = sizeof msg, .subject = subject, .payload = {json, json ? strlen(json) : 0}};

    (void)muster_test_send(t, &msg);
}

void bus_end(struct muster_test *t)
{
    due_end(t, DUE_MESSAGE, 0, MUSTER_ELINK);
}

void delivery_free_all(struct muster_test *t)
{
    for (size_t i = 0; i < t->held.n; i++)
        delivery_end(t->held.items[i]);
    for (size_t i = 0; i < t->requests.n; i++) {
        struct request *r = t->requests.items[i];

        free((char *)(uintptr_t)r->answer.field);
        free((char *)(uintptr_t)r->answer.message);
        free((void *)(uintptr_t)r->answer.payload.data);
        free(r->subject);
        free(r);
    }
    list_done(&t->held);
    list_done(&t->requests);
}
