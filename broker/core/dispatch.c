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
#include "core/trie.h"
#include "metrics/metrics.h"
#include "tenant/tenant.h"
#include "wire/error.h"
#include "wire/subject.h"

enum { MAX_MATCHES = 64, MAX_SUBJECT_LEN = 1024 };

struct dispatch {
    struct broker *broker;
    struct requests *requests;
    struct metric *refused, *taken;
    uint64_t rpc_sub; /* NATS's; 0: not started */
    atomic_bool stopped;

    pthread_rwlock_t lock; /* guards all below: read for each message, written to subscribe */
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
    uint32_t encoding;
    const char *reply; /* NULL: nobody waits */
};

static void refuse(struct dispatch *d, const char *reason)
{
    metric_add(d->refused, reason, 1);
}

/* ---- answers -------------------------------------------------------------------------------------------------------------------- */

static int send_answer(struct dispatch *d, const struct request *r, struct muster_bytes payload, const struct muster_header *headers,
                       uint32_t n_headers)
{
    struct bus_out out = {
        .subject = r->reply, .headers = headers, .n_headers = n_headers, .payload = payload, .fence = -1};

    return bus_send(broker_bus(d->broker), BUS_LIVE, &out);
}

static int send_error(struct dispatch *d, const struct request *r, const struct error_answer *answer)
{
    char number[12], line[ERROR_TEXT_SIZE];
    struct muster_header headers[2] = {{"Nats-Service-Error-Code", number}, {"Nats-Service-Error", line}};
    struct buf body = {0};
    int err;

    error_write(answer, r->encoding, &body);
    (void)snprintf(number, sizeof number, "%d", error_number(answer->code));
    (void)error_header(answer->message, line);
    err = buf_failed(&body) ? MUSTER_ENOMEM : send_answer(d, r, (struct muster_bytes){body.data, body.len}, headers, 2);
    buf_done(&body);
    return err;
}

int dispatch_reply(struct dispatch *d, uint64_t request, struct muster_bytes payload)
{
    struct request r;
    int err = requests_take(d->requests, request, &r);

    return err ? err : send_answer(d, &r, payload, NULL, 0);
}

int dispatch_reply_error(struct dispatch *d, uint64_t request, int code, const char *field, const char *message)
{
    struct request r;
    int err = requests_take(d->requests, request, &r);

    return err ? err : send_error(d, &r, &(struct error_answer){.code = code, .field = field, .message = message});
}

/* Answer what never became a request. */
static void answer_error(const struct intake *in, const struct error_answer *answer)
{
    struct request r = {.encoding = in->encoding};

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
    d->raw = in->raw;
    d->sub = sub;
    d->tenant = in->tenant;
    d->n_bytes = data.len + strlen(subject) + sizeof *d;
    d->msg = (struct muster_msg){.size = sizeof d->msg,
                                 .encoding = in->encoding,
                                 .tenant = in->tenant,
                                 .headers = d->headers,
                                 .n_headers = bus_msg_headers(in->raw, d->headers, DELIVERY_HEADERS),
                                 .payload = data.len ? data : (struct muster_bytes){"{}", 2},
                                 .recv_ns = clock_now_ns()};
    at = copy_text(d->text, text_of(rest), &d->msg.subject);
    at = copy_text(at, in->subject.agent, &d->msg.agent);
    if (in->subject.kind == SUBJECT_RPC) {
        at = copy_text(at, in->subject.service, &d->msg.service);
        (void)copy_text(at, in->subject.verb, &d->msg.verb);
    }
    return d;
}

/* Put a message on the inbox of its subscription; full bounds are answered where somebody waits. */
static void hand_on(const struct intake *in, struct sub *sub)
{
    struct delivery *d = delivery_new(in, sub);

    if (!d) {
        bus_msg_free(in->raw);
        return;
    }
    if (in->reply) {
        d->msg.request = requests_open(in->d->requests, in->reply, in->encoding);
        if (!d->msg.request) {
            answer_error(in, &(struct error_answer){.code = ERROR_RESOURCE_EXHAUSTED, .message = "too many requests are open",
                                                    .retry_after_ms = 1000});
            delivery_unref(d);
            return;
        }
    }
    metric_add(in->d->taken, NULL, 1);
    if (inbox_push(sub->in->inbox, d) == 0)
        return;
    if (d->msg.request)
        (void)dispatch_reply_error(in->d, d->msg.request, ERROR_RESOURCE_EXHAUSTED, NULL, /* who gets no answer asks again */
                                   "this service has more waiting than it may; try again");
    delivery_unref(d);
}

/* The subscription of the lane that has this tenant. `plain`: one of every broker's, which NATS delivers by itself. */
static struct sub *find_sub(struct dispatch *d, const struct intake *in, bool *ret_plain)
{
    void *found[MAX_MATCHES];
    struct sub *sub = NULL;
    size_t n;

    *ret_plain = false;
    pthread_rwlock_rdlock(&d->lock);
    n = trie_match(d->trie, in->subject.tenant.s + in->subject.tenant.len + 1, found, MAX_MATCHES);
    for (size_t i = 0; i < n && !sub; i++) {
        struct sub *s = found[i];

        if (!s->queue)
            *ret_plain = true;
        else if (in->tenant->hash % s->in->host.n_lanes == s->in->host.lane)
            sub = s;
    }
    pthread_rwlock_unlock(&d->lock);
    return sub;
}

static void on_request(void *arg, struct bus_msg *raw)
{
    struct dispatch *d = arg;
    struct intake in;
    struct sub *sub;
    bool plain;

    if (!open_intake(&in, d, raw)) {
        bus_msg_free(raw);
        return;
    }
    in.reply = bus_msg_reply(raw);
    if (!check_reply(&in) || !charge(&in)) {
        bus_msg_free(raw);
        return;
    }
    sub = find_sub(d, &in, &plain);
    if (sub && !atomic_load(&d->stopped)) {
        hand_on(&in, sub);
        return;
    }
    if (!sub && !plain)
        answer_error(&in, &(struct error_answer){.code = ERROR_NOT_FOUND, .message = "there is no such service or verb"});
    else if (sub)
        answer_error(&in, &(struct error_answer){.code = ERROR_UNAVAILABLE, .message = "this broker stops; try again"});
    bus_msg_free(raw);
}

/* A message of a subscription of its own. */
static void on_direct(void *arg, struct bus_msg *raw)
{
    struct sub *sub = arg;
    struct dispatch *d = broker_dispatch(sub->in->broker);
    struct intake in;
    bool ok = open_intake(&in, d, raw) && in.tenant->hash % sub->in->host.n_lanes == sub->in->host.lane;

    if (ok && in.subject.kind == SUBJECT_RPC) {
        in.reply = bus_msg_reply(raw);
        ok = check_reply(&in) && charge(&in);
    }
    if (ok)
        hand_on(&in, sub);
    else
        bus_msg_free(raw);
}

void dispatch_deliver(struct instance *in, struct delivery *d)
{
    struct dispatch *dispatch = broker_dispatch(in->broker);
    int err = 0;

    if (!d->sub->dead) {
        instance_enter(in, "message", d->msg.subject);
        err = d->sub->fn(in->self, &d->msg);
        instance_leave(in);
    }
    if (d->msg.request && (err || d->sub->dead))
        (void)dispatch_reply_error(dispatch, d->msg.request, d->sub->dead ? ERROR_UNAVAILABLE : error_of_result(err), NULL,
                                   d->sub->dead ? "the service stops" : "the service failed");
    else if (d->msg.request && !atomic_load(&d->held)) /* nothing happens when it was answered */
        (void)dispatch_reply_error(dispatch, d->msg.request, ERROR_INTERNAL, NULL, "the service gave no answer");
    delivery_unref(d);
}

/* ---- subscriptions -------------------------------------------------------------------------------------------------------------- */

static void sub_free(struct sub *s)
{
    if (!s)
        return;
    free(s->pattern);
    free(s);
}

static int attach(struct dispatch *d, struct sub *s)
{
    char full[MAX_SUBJECT_LEN];
    int err = 0;

    if (strncmp(s->pattern, "rpc.", 4) == 0) {
        pthread_rwlock_wrlock(&d->lock);
        err = trie_add(d->trie, s->pattern, s);
        pthread_rwlock_unlock(&d->lock);
        if (err || s->queue)
            return err;
    }
    if ((size_t)snprintf(full, sizeof full, "%s.*.%s", broker_root(d->broker), s->pattern) >= sizeof full)
        return MUSTER_EINVAL;
    return bus_subscribe(broker_bus(d->broker), full, s->queue ? "muster" : NULL, on_direct, s, &s->bus_id);
}

int dispatch_subscribe(struct dispatch *d, struct instance *in, const struct muster_subscription *sub, uint64_t *ret_id)
{
    struct sub *s;
    int err;

    if (!sub->fn || !sub->max_msgs || !sub->max_bytes || sub->overflow > MUSTER_OVERFLOW_DROP_OLD || !subject_is_pattern(sub->subject, strlen(sub->subject)))
        return in->host.fail(&in->host, MUSTER_EINVAL,
                             "subscription to \"%s\": expected a legal pattern, a function, and bounds above 0", sub->subject);
    s = calloc(1, sizeof *s);
    if (!s)
        return MUSTER_ENOMEM;
    *s = (struct sub){.in = in,
                      .pattern = strdup(sub->subject),
                      .overflow = sub->overflow,
                      .max_msgs = sub->max_msgs,
                      .max_bytes = sub->max_bytes,
                      .queue = sub->queue,
                      .fn = sub->fn};
    err = s->pattern ? attach(d, s) : MUSTER_ENOMEM;
    if (err) {
        sub_free(s);
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

/* The struct stays until dispatch_free(): messages on their way point to it. */
static void detach(struct dispatch *d, struct sub *s)
{
    if (s->dead)
        return;
    s->dead = true;
    if (s->bus_id)
        bus_unsubscribe(broker_bus(d->broker), s->bus_id);
    pthread_rwlock_wrlock(&d->lock);
    trie_remove(d->trie, s->pattern, s);
    pthread_rwlock_unlock(&d->lock);
}

static struct sub *next_of(struct dispatch *d, const struct instance *in, uint64_t id)
{
    struct sub *s;

    pthread_rwlock_rdlock(&d->lock);
    for (s = d->subs; s && (s->in != in || s->dead || (id && s->id != id)); s = s->next)
        ;
    pthread_rwlock_unlock(&d->lock);
    return s;
}

void dispatch_unsubscribe(struct dispatch *d, struct instance *in, uint64_t id)
{
    struct sub *s = id ? next_of(d, in, id) : NULL;

    if (s)
        detach(d, s);
}

void dispatch_forget(struct dispatch *d, struct instance *in)
{
    struct sub *s;

    while ((s = next_of(d, in, 0)) != NULL)
        detach(d, s);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------ */

size_t dispatch_open_requests(struct dispatch *d)
{
    return requests_count(d->requests);
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
    ASSERT(pthread_rwlock_init(&d->lock, NULL) == 0);
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
    return bus_subscribe(broker_bus(d->broker), subject, "muster", on_request, d, &d->rpc_sub);
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
    while (d->subs) {
        struct sub *s = d->subs;

        d->subs = s->next;
        sub_free(s);
    }
    trie_free(d->trie);
    requests_free(d->requests);
    (void)pthread_rwlock_destroy(&d->lock);
    free(d);
}
