/* From a subject to the plugin's function; see dispatch.h. */
#include "core/dispatch.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/instance.h"
#include "core/requests.h"
#include "core/services.h"
#include "core/trie.h"
#include "metrics/metrics.h"
#include "tenant/tenant.h"
#include "wire/error.h"
#include "wire/subject.h"
#include "wire/value.h"

enum { MAX_MATCHES = 64, MAX_SUBJECT_LEN = 1024 };

struct dispatch {
    struct broker *broker;
    struct requests *requests;
    struct metric *refused, *taken;
    uint64_t rpc_sub; /* NATS's; 0: not started */
    atomic_bool stopped;

    /* Guards all below. Read for each message, until it is on its inbox: so what was unsubscribed gets no message any more once
     * the writer is through. */
    pthread_rwlock_t lock;
    struct trie *trie;     /* of requests, "rpc.*.echo.say" */
    struct sub *subs;
    uint64_t next_id;
};

/* A received message, checked. */
struct intake {
    struct dispatch *d;
    struct bus_msg *raw;
    struct subject subject;
    struct muster_tenant *tenant;
    struct endpoint *endpoint; /* NULL: not of a declared service */
    uint32_t encoding;
    const char *reply; /* NULL: nobody waits */
};

static void refuse(struct dispatch *d, const char *reason)
{
    metric_add(d->refused, reason, 1);
}

/* ---- answers -------------------------------------------------------------------------------------------------------------------- */

static int send_answer(struct dispatch *d, const struct request *r, const struct bus_out *how)
{
    struct bus_out out = *how;

    out.subject = r->reply;
    out.fence = -1;
    return bus_send(broker_bus(d->broker), BUS_LIVE, &out);
}

static void count_answer(const struct request *r, const struct error_answer *error)
{
    if (r->note.endpoint)
        endpoint_count(r->note.endpoint, clock_now_ns() - r->note.recv_ns, error ? error_number(error->code) : 0,
                       error ? error->message : NULL);
}

static int send_error(struct dispatch *d, const struct request *r, const struct error_answer *answer)
{
    char number[12], line[ERROR_TEXT_SIZE];
    struct muster_header headers[2] = {{"Nats-Service-Error-Code", number}, {"Nats-Service-Error", line}};
    struct buf body = {0};
    int err;

    count_answer(r, answer);
    error_write(answer, r->note.encoding, &body);
    (void)snprintf(number, sizeof number, "%d", error_number(answer->code));
    (void)error_header(answer->message, line);
    err = buf_failed(&body) ? MUSTER_ENOMEM
                            : send_answer(d, r, &(struct bus_out){.headers = headers, .n_headers = 2, .payload = {body.data, body.len}});
    buf_done(&body);
    return err;
}

int dispatch_reply(struct dispatch *d, uint64_t request, struct muster_bytes payload)
{
    struct request r;
    int err = payload.len <= WIRE_MAX_BODY ? requests_take(d->requests, request, &r) : MUSTER_EINVAL;

    if (err)
        return err;
    count_answer(&r, NULL);
    return send_answer(d, &r, &(struct bus_out){.payload = payload});
}

int dispatch_reply_error(struct dispatch *d, uint64_t request, int code, const char *field, const char *message)
{
    struct request r;
    int err = requests_take(d->requests, request, &r);

    return err ? err : send_error(d, &r, &(struct error_answer){.code = code, .field = field, .message = message});
}

void dispatch_refuse(struct delivery *d, int code, const char *message)
{
    if (d->msg.request) /* who gets no answer asks again */
        (void)dispatch_reply_error(broker_dispatch(d->sub->in->broker), d->msg.request, code, NULL, message);
}

/* Answer what never became a request. */
static void answer_error(const struct intake *in, const struct error_answer *answer)
{
    struct request r = {.note = {.encoding = in->encoding, .endpoint = in->endpoint, .recv_ns = clock_now_ns()}};

    if (!in->reply || strlen(in->reply) >= sizeof r.reply)
        return;
    memcpy(r.reply, in->reply, strlen(in->reply) + 1);
    (void)send_error(in->d, &r, answer); /* who gets no answer asks again */
}

/* ---- taking --------------------------------------------------------------------------------------------------------------------- */

static uint32_t encoding_of(struct muster_bytes data)
{
    const unsigned char *p = data.data;

    /* A MessagePack map begins 0x80-0x8f, 0xde or 0xdf; everything else is JSON, or wrong and said so in JSON. */
    return data.len && ((p[0] & 0xf0) == 0x80 || p[0] == 0xde || p[0] == 0xdf) ? MUSTER_MSGPACK : MUSTER_JSON;
}

static bool charge(struct intake *in)
{
    uint32_t retry_ms = 0;

    switch (tenant_charge(in->tenant, clock_now_ns(), &retry_ms)) {
    case TENANT_OK:
        return true;
    case TENANT_OVER_ANSWER:
        answer_error(in, &(struct error_answer){.code = ERROR_RESOURCE_EXHAUSTED,
                                                .message = "the tenant's limit requests_per_s is reached",
                                                .retry_after_ms = retry_ms});
        break;
    default:
        break;
    }
    refuse(in->d, "rate");
    return false;
}

/* An agent's reply subject outside its own box would make the broker write where the agent may not. */
static bool check_reply(struct intake *in)
{
    char agent[NAME_MAX_LEN + 1];

    if (!in->reply)
        return true;
    if (in->subject.agent.len > NAME_MAX_LEN)
        return false;
    memcpy(agent, in->subject.agent.s, in->subject.agent.len);
    agent[in->subject.agent.len] = '\0';
    if (subject_reply_is_own(in->reply, broker_root(in->d->broker), in->tenant->name, agent))
        return true;
    in->reply = NULL;
    refuse(in->d, "reply_subject");
    return false;
}

static bool open_intake(struct intake *in, struct dispatch *d, struct bus_msg *raw)
{
    const char *subject = bus_msg_subject(raw);

    *in = (struct intake){.d = d, .raw = raw, .encoding = encoding_of(bus_msg_data(raw))};
    if (subject_parse(broker_root(d->broker), subject, strlen(subject), &in->subject) != 0) {
        refuse(d, "subject");
        return false;
    }
    in->tenant = tenants_find(broker_tenants(d->broker), in->subject.tenant.s, in->subject.tenant.len);
    if (in->tenant)
        return true;
    refuse(d, "tenant");
    return false;
}

static char *copy_text(char *at, struct text t, const char **ret_copy)
{
    *ret_copy = NULL;
    if (!t.s)
        return at;
    memcpy(at, t.s, t.len);
    at[t.len] = '\0';
    *ret_copy = at;
    return at + t.len + 1;
}

/* Who sent it, where the server's permissions prove that. */
static struct text sender_of(const struct subject *s)
{
    int kind = s->kind == SUBJECT_LOG ? s->inner : s->kind;
    bool proven = kind == SUBJECT_RPC || kind == SUBJECT_ALL || kind == SUBJECT_TO || kind == SUBJECT_GRP;

    return proven && !text_is(s->agent, "_muster") ? s->agent : (struct text){0};
}

/* The delivery holds the message and its names; it owns raw from then on. */
static struct delivery *delivery_new(const struct intake *in, struct sub *sub)
{
    const char *subject = bus_msg_subject(in->raw);
    const char *rest = in->subject.tenant.s + in->subject.tenant.len + 1;
    struct delivery *d = calloc(1, sizeof *d + 2 * strlen(subject) + 8);
    struct muster_bytes data = bus_msg_data(in->raw);
    char *at;

    if (!d)
        return NULL;
    atomic_store(&d->refs, 1);
    atomic_fetch_add(&sub->refs, 1);
    d->raw = in->raw;
    d->sub = sub;
    d->tenant = in->tenant;
    d->endpoint = in->endpoint;
    d->is_answer = in->subject.kind == SUBJECT_RPC && in->subject.ref.s;
    d->n_bytes = data.len + strlen(subject) + sizeof *d;
    d->msg = (struct muster_msg){.size = sizeof d->msg,
                                 .encoding = in->encoding,
                                 .tenant = in->tenant,
                                 .headers = d->headers,
                                 .n_headers = bus_msg_headers(in->raw, d->headers, DELIVERY_HEADERS),
                                 .payload = data.len ? data : (struct muster_bytes){"{}", 2},
                                 .recv_ns = clock_now_ns()};
    at = copy_text(d->text, text_of(rest), &d->msg.subject);
    at = copy_text(at, sender_of(&in->subject), &d->msg.agent);
    if (in->subject.kind == SUBJECT_RPC) {
        at = copy_text(at, in->subject.service, &d->msg.service);
        (void)copy_text(at, in->subject.verb, &d->msg.verb);
    }
    return d;
}

/* Put a message on the inbox of its subscription; full bounds are answered where somebody waits. Takes the message. */
static void hand_on(const struct intake *in, struct sub *sub)
{
    struct delivery *d = delivery_new(in, sub);

    if (!d) {
        refuse(in->d, "memory");
        bus_msg_free(in->raw);
        return;
    }
    if (in->reply) {
        struct request_note note = {.endpoint = in->endpoint, .recv_ns = d->msg.recv_ns, .encoding = in->encoding};

        d->msg.request = requests_open(in->d->requests, in->reply, &note);
        if (!d->msg.request) {
            refuse(in->d, "requests");
            answer_error(in, &(struct error_answer){.code = ERROR_RESOURCE_EXHAUSTED, .message = "too many requests are open",
                                                    .retry_after_ms = 1000});
            delivery_unref(d);
            return;
        }
    }
    metric_add(in->d->taken, NULL, 1);
    if (inbox_push(sub->in->inbox, d) == 0)
        return;
    dispatch_refuse(d, ERROR_RESOURCE_EXHAUSTED, "this service has more waiting than it may; try again");
    delivery_unref(d);
}

static bool is_mine(const struct sub *sub, const struct muster_tenant *tenant)
{
    return tenant->hash % sub->in->host.n_lanes == sub->in->host.lane;
}

/* The subscription of the lane that has this tenant. `plain`: one of every broker's, which NATS delivers by itself. The lock is held. */
static struct sub *find_sub(struct dispatch *d, const struct intake *in, bool *ret_plain)
{
    void *found[MAX_MATCHES];
    size_t n = trie_match(d->trie, in->subject.tenant.s + in->subject.tenant.len + 1, found, MAX_MATCHES);
    struct sub *sub = NULL;

    *ret_plain = false;
    for (size_t i = 0; i < n && !sub; i++) {
        struct sub *s = found[i];

        if (!s->queue)
            *ret_plain = true;
        else if (is_mine(s, in->tenant))
            sub = s;
    }
    return sub;
}

/* A request may be taken: it has a legal reply subject, and its tenant may still ask. */
static bool admit(struct intake *in)
{
    in->reply = bus_msg_reply(in->raw);
    in->endpoint = services_find(broker_services(in->d->broker), in->subject.service, in->subject.verb);
    return check_reply(in) && charge(in);
}

/* Find whose the request is and hand it on. True: it was taken. */
static bool route(struct intake *in)
{
    bool plain, taken = false;
    struct sub *sub;

    pthread_rwlock_rdlock(&in->d->lock);
    sub = find_sub(in->d, in, &plain);
    if (!sub && plain)
        ; /* comes on a subscription of its own, and is charged there */
    else if (!admit(in))
        ;
    else if (atomic_load(&in->d->stopped))
        answer_error(in, &(struct error_answer){.code = ERROR_UNAVAILABLE, .message = "this broker stops; try again"});
    else if (!sub)
        answer_error(in, &(struct error_answer){.code = ERROR_NOT_FOUND, .message = "there is no such service or verb"});
    else
        taken = true;
    if (taken)
        hand_on(in, sub);
    pthread_rwlock_unlock(&in->d->lock);
    return taken;
}

static void on_request(void *arg, struct bus_msg *raw)
{
    struct intake in;

    if (!open_intake(&in, arg, raw) || !route(&in))
        bus_msg_free(raw);
}

/* A message of a subscription of its own. */
static void on_direct(void *arg, struct bus_msg *raw)
{
    struct sub *sub = arg;
    struct dispatch *d = sub->dispatch;
    struct intake in;
    bool ok;

    pthread_rwlock_rdlock(&d->lock);
    ok = !sub->dead && open_intake(&in, d, raw) && is_mine(sub, in.tenant);
    if (ok && in.subject.kind == SUBJECT_RPC)
        ok = !atomic_load(&d->stopped) && admit(&in); /* other brokers answer */
    if (ok)
        hand_on(&in, sub);
    else
        bus_msg_free(raw);
    pthread_rwlock_unlock(&d->lock);
}

/* ---- delivering ----------------------------------------------------------------------------------------------------------------- */

/* True when the plugin may see it. Any body accepts, when it answers what the broker pushed. */
static bool check_body(struct instance *in, struct delivery *d)
{
    struct dispatch *dispatch = broker_dispatch(in->broker);
    struct wire_error why;
    int err;

    if (!d->msg.service || d->is_answer)
        return true;
    err = endpoint_check(d->endpoint, &d->msg, &why);
    if (!err)
        return true;
    refuse(dispatch, "body");
    if (d->msg.request)
        (void)dispatch_reply_error(dispatch, d->msg.request, error_of_result(err), why.field, why.text); /* who gets none asks again */
    else if (d->endpoint)
        endpoint_count(d->endpoint, clock_now_ns() - d->msg.recv_ns, error_number(error_of_result(err)), why.text);
    return false;
}

static int call_plugin(struct instance *in, struct delivery *d)
{
    int err;

    in->delivering = d;
    instance_enter(in, "message", d->msg.subject);
    err = d->sub->fn(in->self, &d->msg);
    instance_leave(in);
    in->delivering = NULL;
    return err;
}

/* Answer where the plugin did not; nothing happens when it did. */
static void settle(struct instance *in, struct delivery *d, int err)
{
    if (err) {
        inbox_count_failure(in->inbox);
        dispatch_refuse(d, error_of_result(err), "the service failed");
    } else if (!atomic_load(&d->held)) {
        dispatch_refuse(d, ERROR_INTERNAL, "the service gave no answer");
    }
    if (!d->msg.request && d->endpoint)
        endpoint_count(d->endpoint, clock_now_ns() - d->msg.recv_ns, err ? error_number(error_of_result(err)) : 0,
                       "the service failed");
}

void dispatch_deliver(void *arg, struct delivery *d)
{
    struct instance *in = arg;
    int err;

    if (d->sub->dead) {
        dispatch_refuse(d, ERROR_UNAVAILABLE, "the service stops; try again");
    } else if (check_body(in, d)) {
        err = call_plugin(in, d);
        if (err == MUSTER_EAGAIN && inbox_again(in->inbox, d))
            return;
        settle(in, d, err);
    }
    delivery_unref(d);
}

/* ---- subscriptions -------------------------------------------------------------------------------------------------------------- */

static void on_gone(void *arg)
{
    sub_unref(arg);
}

static int attach(struct dispatch *d, struct sub *s)
{
    char full[MAX_SUBJECT_LEN];
    struct bus_sub how = {.subject = full, .queue = s->queue ? "muster" : NULL, .fn = on_direct, .gone = on_gone, .arg = s};
    bool is_rpc = strncmp(s->pattern, "rpc.", 4) == 0;
    int err = 0;

    if ((size_t)snprintf(full, sizeof full, "%s.*.%s", broker_root(d->broker), s->pattern) >= sizeof full)
        return MUSTER_EINVAL;
    if (is_rpc) {
        pthread_rwlock_wrlock(&d->lock);
        err = trie_add(d->trie, s->pattern, s);
        pthread_rwlock_unlock(&d->lock);
        if (err || s->queue)
            return err;
    }
    atomic_fetch_add(&s->refs, 1);
    err = bus_subscribe(broker_bus(d->broker), &how, &s->bus_id);
    if (!err)
        return 0;
    sub_unref(s);
    if (is_rpc) {
        pthread_rwlock_wrlock(&d->lock);
        trie_remove(d->trie, s->pattern, s);
        pthread_rwlock_unlock(&d->lock);
    }
    return err;
}

static bool is_well_formed(const struct muster_subscription *sub)
{
    return MUSTER_HAS(sub, fn) && sub->fn && sub->max_msgs && sub->max_bytes && sub->overflow <= MUSTER_OVERFLOW_DROP_OLD &&
           sub->subject && subject_is_pattern(sub->subject, strlen(sub->subject));
}

int dispatch_subscribe(struct dispatch *d, struct instance *in, const struct muster_subscription *sub, uint64_t *ret_id)
{
    struct sub *s;
    int err;

    if (!is_well_formed(sub))
        return in->host.fail(&in->host, MUSTER_EINVAL,
                             "subscription to \"%s\": expected size, a legal pattern, a function, a known overflow, and bounds above 0",
                             MUSTER_HAS(sub, subject) && sub->subject ? sub->subject : "");
    s = calloc(1, sizeof *s);
    if (!s)
        return MUSTER_ENOMEM;
    *s = (struct sub){.in = in,
                      .dispatch = d,
                      .refs = 1,
                      .pattern = strdup(sub->subject),
                      .overflow = sub->overflow,
                      .max_msgs = sub->max_msgs,
                      .max_bytes = sub->max_bytes,
                      .queue = sub->queue,
                      .fn = sub->fn};
    err = s->pattern ? attach(d, s) : MUSTER_ENOMEM;
    if (err) {
        sub_unref(s);
        return err;
    }
    pthread_rwlock_wrlock(&d->lock);
    s->id = ++d->next_id;
    s->next = d->subs;
    d->subs = s;
    pthread_rwlock_unlock(&d->lock);
    *ret_id = s->id;
    return 0;
}

/* Take a subscription of the instance out of the list; id 0: any. NULL: there is none. */
static struct sub *take_sub(struct dispatch *d, const struct instance *in, uint64_t id)
{
    struct sub **at, *s;

    pthread_rwlock_wrlock(&d->lock);
    for (at = &d->subs; *at && ((*at)->in != in || (id && (*at)->id != id)); at = &(*at)->next)
        ;
    s = *at;
    if (s) {
        *at = s->next;
        s->dead = true;
        if (strncmp(s->pattern, "rpc.", 4) == 0)
            trie_remove(d->trie, s->pattern, s);
    }
    pthread_rwlock_unlock(&d->lock);
    return s;
}

static void detach(struct dispatch *d, struct sub *s)
{
    if (s->bus_id)
        bus_unsubscribe(broker_bus(d->broker), s->bus_id);
    sub_unref(s);
}

void dispatch_unsubscribe(struct dispatch *d, struct instance *in, uint64_t id)
{
    struct sub *s = id ? take_sub(d, in, id) : NULL;

    if (s)
        detach(d, s);
}

void dispatch_forget(struct dispatch *d, struct instance *in)
{
    struct sub *s;

    while ((s = take_sub(d, in, 0)) != NULL)
        detach(d, s);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------ */

size_t dispatch_open_requests(struct dispatch *d)
{
    return requests_count(d->requests);
}

/* Readers never hold it twice; a writer must get through while messages stream in. */
static void init_lock(pthread_rwlock_t *lock)
{
    pthread_rwlockattr_t attr;

    ASSERT(pthread_rwlockattr_init(&attr) == 0);
    ASSERT(pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP) == 0);
    ASSERT(pthread_rwlock_init(lock, &attr) == 0);
    (void)pthread_rwlockattr_destroy(&attr);
}

int dispatch_new(struct broker *broker, struct dispatch **ret_dispatch)
{
    struct metric_spec refused = {.type = MUSTER_COUNTER,
                                  .name = "muster_refused_total",
                                  .help = "Messages refused before dispatch, by reason.",
                                  .label = "reason"};
    struct metric_spec taken = {.type = MUSTER_COUNTER, .name = "muster_messages_total", .help = "Messages handed to plugins."};
    struct dispatch *d = calloc(1, sizeof *d);
    int err;

    if (!d)
        return MUSTER_ENOMEM;
    d->broker = broker;
    init_lock(&d->lock);
    d->trie = trie_new();
    d->requests = requests_new();
    err = d->trie && d->requests ? metrics_make(broker_metrics(broker), &refused, &d->refused) : MUSTER_ENOMEM;
    if (!err)
        err = metrics_make(broker_metrics(broker), &taken, &d->taken);
    if (err) {
        dispatch_free(d);
        return err;
    }
    *ret_dispatch = d;
    return 0;
}

int dispatch_start(struct dispatch *d)
{
    char subject[MAX_SUBJECT_LEN];

    (void)snprintf(subject, sizeof subject, "%s.*.rpc.*.>", broker_root(d->broker));
    return bus_subscribe(broker_bus(d->broker), &(struct bus_sub){.subject = subject, .queue = "muster", .fn = on_request, .arg = d},
                         &d->rpc_sub);
}

void dispatch_stop(struct dispatch *d)
{
    atomic_store(&d->stopped, true);
    if (d->rpc_sub)
        bus_unsubscribe(broker_bus(d->broker), d->rpc_sub);
}

void dispatch_free(struct dispatch *d)
{
    if (!d)
        return;
    trie_free(d->trie);
    requests_free(d->requests);
    (void)pthread_rwlock_destroy(&d->lock);
    free(d);
}
