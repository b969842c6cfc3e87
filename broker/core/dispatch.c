/* From a subject to the plugin's function; see dispatch.h. */
#include "core/dispatch.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "core/arrivals.h"
#include "core/instance.h"
#include "core/intake.h"
#include "core/requests.h"
#include "core/services.h"
#include "core/trie.h"
#include "metrics/metrics.h"
#include "tenant/tenant.h"
#include "wire/error.h"
#include "wire/reserved.h"
#include "wire/subject.h"
#include "wire/value.h"

enum { MAX_MATCHES = 64, MAX_SUBJECT_LEN = 1024, RETRY_AFTER_MS = 1000 };

struct dispatch {
    struct broker *broker;
    struct requests *requests;
    struct arrivals *arrivals; /* of tenants that are not known yet; its lock comes before ours */
    struct metric *refused, *unanswered, *taken;
    uint64_t rpc_sub; /* NATS's; 0: not started */
    atomic_bool stopped;

    /* Guards all below. Read for each message, until it is on its inbox: so what was unsubscribed gets no message any more once
     * the writer is through. */
    pthread_rwlock_t lock;
    struct trie *trie;     /* of requests, "rpc.*.echo.say" */
    struct sub *subs;
    uint64_t next_id;
};

void dispatch_count_refused(struct dispatch *d, const char *reason)
{
    metric_add(d->refused, reason, 1);
}

/* ---- answers -------------------------------------------------------------------------------------------------------------------- */

static int send_answer(struct dispatch *d, const struct request *r, const struct bus_out *how)
{
    struct bus_out out = *how;

    out.subject = r->reply;
    out.fence = -1;
    out.answer = true;
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

    error_write(answer, r->note.encoding, &body);
    (void)snprintf(number, sizeof number, "%d", error_number(answer->code));
    (void)error_header(answer->message, line);
    err = buf_failed(&body) ? MUSTER_ENOMEM
                            : send_answer(d, r, &(struct bus_out){.headers = headers, .n_headers = 2, .payload = {body.data, body.len}});
    buf_done(&body);
    if (!err)
        count_answer(r, answer);
    return err;
}

/* An answer that found no room leaves its request open: the caller tries again. One that was sent, or cannot be, ends it. */
static int close_request(struct dispatch *d, uint64_t request, int err)
{
    struct request r;

    if (err == MUSTER_EAGAIN || err == MUSTER_ENOMEM)
        requests_give_back(d->requests, request);
    else
        (void)requests_take(d->requests, request, &r); /* it is there: requests_begin() keeps others off */
    return err;
}

int dispatch_reply(struct dispatch *d, uint64_t request, struct muster_bytes payload)
{
    struct request r;
    int err = payload.len <= WIRE_MAX_BODY ? requests_begin(d->requests, request, &r) : MUSTER_EINVAL;

    if (err)
        return err;
    err = send_answer(d, &r, &(struct bus_out){.payload = payload});
    if (!err)
        count_answer(&r, NULL);
    return close_request(d, request, err);
}

int dispatch_reply_error(struct dispatch *d, uint64_t request, int code, const char *field, const char *message)
{
    struct request r;
    int err = requests_begin(d->requests, request, &r);

    if (err)
        return err;
    err = send_error(d, &r, &(struct error_answer){.code = code, .field = field, .message = message});
    return close_request(d, request, err);
}

void dispatch_refuse_field(struct delivery *d, int code, const char *field, const char *message)
{
    struct dispatch *dispatch = broker_dispatch(d->sub->in->broker);
    struct request r;

    if (d->msg.request && dispatch_reply_error(dispatch, d->msg.request, code, field, message) != 0)
        (void)requests_take(dispatch->requests, d->msg.request, &r); /* nobody tries again: who gets no answer asks again */
}

void dispatch_refuse(struct delivery *d, int code, const char *message)
{
    dispatch_refuse_field(d, code, NULL, message);
}

void dispatch_unanswered(struct delivery *d)
{
    struct request r;

    if (d->sub->queue)
        dispatch_refuse(d, ERROR_INTERNAL, "the service gave no answer"); /* nothing happens when it was answered */
    else if (d->msg.request)
        (void)requests_take(broker_dispatch(d->sub->in->broker)->requests, d->msg.request, &r); /* likewise */
}

/* Answer what never became a request. */
static void answer_error(struct dispatch *d, const struct intake *in, const struct error_answer *answer)
{
    struct request r = {.note = {.encoding = in->encoding, .endpoint = in->endpoint, .recv_ns = clock_now_ns()}};

    if (!in->reply || strlen(in->reply) >= sizeof r.reply)
        return;
    memcpy(r.reply, in->reply, strlen(in->reply) + 1);
    (void)send_error(d, &r, answer); /* who gets no answer asks again */
}

/* ---- taking --------------------------------------------------------------------------------------------------------------------- */

static bool charge(struct dispatch *d, struct intake *in)
{
    uint32_t retry_ms = 0;

    switch (tenant_charge(in->tenant, clock_now_ns(), &retry_ms)) {
    case TENANT_OK:
        return true;
    case TENANT_OVER_ANSWER:
        answer_error(d, in,
                     &(struct error_answer){.code = ERROR_RESOURCE_EXHAUSTED,
                                            .message = "the tenant's limit requests_per_s is reached",
                                            .retry_after_ms = retry_ms});
        break;
    default:
        break;
    }
    dispatch_count_refused(d, "rate");
    return false;
}

static bool check_reply(struct dispatch *d, struct intake *in)
{
    if (intake_reply_is_own(in, broker_root(d->broker)))
        return true;
    in->reply = NULL;
    dispatch_count_refused(d, "reply_subject");
    return false;
}

static void refuse_for_now(struct dispatch *d, const struct intake *in, const char *reason, const char *message)
{
    dispatch_count_refused(d, reason);
    answer_error(d, in,
                 &(struct error_answer){.code = ERROR_RESOURCE_EXHAUSTED, .message = message, .retry_after_ms = RETRY_AFTER_MS});
}

/* Put a message on the inbox of its subscription; full bounds are answered where somebody waits. Takes the message. */
static void hand_on(struct dispatch *d, const struct intake *in, struct sub *sub)
{
    struct delivery *delivery = intake_deliver(in, sub);

    if (!delivery) {
        refuse_for_now(d, in, "memory", "the broker has no memory for this; try again");
        bus_msg_free(in->raw);
        return;
    }
    if (in->reply) {
        const struct request_note note = {
            .endpoint = in->endpoint, .recv_ns = delivery->msg.recv_ns, .encoding = in->encoding, .owner = sub->in->number};

        delivery->msg.request = requests_open(d->requests, in->reply, &note);
        if (!delivery->msg.request) {
            refuse_for_now(d, in, "requests", "too many requests are open");
            delivery_unref(delivery);
            return;
        }
    }
    metric_add(d->taken, NULL, 1);
    if (inbox_push(sub->in->inbox, delivery) == 0)
        return;
    dispatch_refuse(delivery, ERROR_RESOURCE_EXHAUSTED, "this service has more waiting than it may; try again");
    delivery_unref(delivery);
}

/* hash: of a tenant's name, whether it is known or not. */
static bool is_mine(const struct sub *sub, uint64_t hash)
{
    return hash % sub->in->host.n_lanes == sub->in->host.lane;
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
        else if (is_mine(s, in->tenant->hash))
            sub = s;
    }
    return sub;
}

/* A request may be taken: it has a legal reply subject, and its tenant may still ask. */
static bool admit(struct dispatch *d, struct intake *in)
{
    in->endpoint = services_find(broker_services(d->broker), in->subject.service, in->subject.verb);
    return check_reply(d, in) && charge(d, in);
}

/* Find whose the request is and hand it on. True: it was taken. */
static bool route(struct dispatch *d, struct intake *in)
{
    bool plain, taken = false;
    struct sub *sub;

    pthread_rwlock_rdlock(&d->lock);
    sub = find_sub(d, in, &plain);
    if (!sub && plain)
        ; /* comes on a subscription of its own, and is charged there */
    else if (!admit(d, in))
        ;
    else if (atomic_load(&d->stopped))
        answer_error(d, in, &(struct error_answer){.code = ERROR_UNAVAILABLE, .message = "this broker stops; try again"});
    else if (!sub)
        answer_error(d, in, &(struct error_answer){.code = ERROR_NOT_FOUND, .message = "there is no such service or verb"});
    else
        taken = true;
    if (taken)
        hand_on(d, in, sub);
    pthread_rwlock_unlock(&d->lock);
    return taken;
}

/* Takes the message of a tenant that is known. */
static void take_request(struct dispatch *d, struct intake *in)
{
    if (!route(d, in))
        bus_msg_free(in->raw);
}

/* The same for a message of a subscription of its own. */
static void take_direct(struct sub *sub, struct intake *in)
{
    struct dispatch *d = sub->dispatch;
    bool ok;

    pthread_rwlock_rdlock(&d->lock);
    ok = !sub->dead && is_mine(sub, in->tenant->hash);
    if (ok && in->subject.kind == SUBJECT_RPC)
        ok = !atomic_load(&d->stopped) && admit(d, in); /* other brokers answer */
    if (ok)
        hand_on(d, in, sub);
    else
        bus_msg_free(in->raw);
    pthread_rwlock_unlock(&d->lock);
}

/* ---- tenants that are not known yet ----------------------------------------------------------------------------------------------- */

/* Say no to a message that came in vain. Its reply subject has been checked where there may be an answer. */
static void turn_away(struct dispatch *d, const struct intake *in, const struct arrival *a, struct waiting_verdict verdict)
{
    static const struct {
        const char *reason;
        int code;
        const char *text;
        int64_t retry_after_ms;
    } refusals[] = {
        [WAITING_UNKNOWN] = {"tenant", ERROR_UNAUTHENTICATED, "is not known", 0},
        [WAITING_AWAY] = {"registry", ERROR_UNAVAILABLE, "cannot be looked up while the database is away; try again",
                          RETRY_AFTER_MS},
        [WAITING_FULL] = {"waiting", ERROR_RESOURCE_EXHAUSTED, "is not known yet, and too much waits for that; try again",
                          RETRY_AFTER_MS}};
    char text[ERROR_TEXT_SIZE];

    dispatch_count_refused(d, refusals[verdict.what].reason);
    if (a->waiter.asks && !verdict.tell)
        metric_add(d->unanswered, NULL, 1);
    if (!verdict.tell)
        return;
    (void)snprintf(text, sizeof text, "the tenant \"%.*s\" %s", (int)in->subject.tenant.len, in->subject.tenant.s,
                   refusals[verdict.what].text);
    answer_error(d, in,
                 &(struct error_answer){.code = refusals[verdict.what].code,
                                        .message = text,
                                        .retry_after_ms = refusals[verdict.what].retry_after_ms});
}

/* It may wait that has a listener here or, as a request, a legal reply subject. */
static bool may_wait(struct dispatch *d, struct intake *in, struct sub *sub)
{
    bool ok;

    if (!sub)
        return check_reply(d, in);
    pthread_rwlock_rdlock(&d->lock);
    ok = !sub->dead && is_mine(sub, hash_bytes(in->subject.tenant.s, in->subject.tenant.len));
    pthread_rwlock_unlock(&d->lock);
    return ok;
}

/* Every request comes once without a sub, so that is the one that is answered. */
static struct arrival *arrival_new(struct dispatch *d, const struct intake *in, struct sub *sub)
{
    struct arrival *a = calloc(1, sizeof *a);

    if (!a) {
        dispatch_count_refused(d, "memory");
        return NULL;
    }
    *a = (struct arrival){.raw = in->raw, .sub = sub};
    a->waiter.tenant = in->subject.tenant;
    a->waiter.n_bytes = bus_msg_size(in->raw) + sizeof *a;
    a->waiter.known = in->tenant != NULL;
    a->waiter.asks = !sub && in->reply && intake_reply_is_own(in, broker_root(d->broker));
    if (sub)
        atomic_fetch_add(&sub->refs, 1);
    return a;
}

/* True when the message was taken: it waits for its tenant, or was refused. False: the tenant is known, and nothing of it waits. */
static bool await_tenant(struct dispatch *d, struct intake *in, struct sub *sub)
{
    struct waiting_verdict verdict;
    struct arrival *a = NULL;

    if (in->tenant && !arrivals_has(d->arrivals, in->subject.tenant))
        return false;
    if (in->tenant || may_wait(d, in, sub))
        a = arrival_new(d, in, sub);
    if (!a) {
        bus_msg_free(in->raw);
        return true;
    }
    verdict = arrivals_enter(d->arrivals, a);
    if (verdict.what == WAITING_IN)
        return true;
    if (verdict.what == WAITING_KNOWN)
        a->raw = NULL; /* still the caller's */
    else
        turn_away(d, in, a, verdict);
    arrival_free(a);
    return verdict.what != WAITING_KNOWN;
}

/* As if it had just come. A tenant that is gone again is unknown. */
static void on_leave(void *arg, struct arrival *a, struct waiting_verdict verdict)
{
    struct dispatch *d = arg;
    struct intake in;

    ASSERT(intake_open(&in, d->broker, a->raw) == 0); /* it was well-formed when it came */
    if (verdict.what == WAITING_KNOWN && !in.tenant)
        verdict = (struct waiting_verdict){.what = WAITING_UNKNOWN, .tell = a->waiter.asks};
    if (verdict.what != WAITING_KNOWN) {
        turn_away(d, &in, a, verdict);
    } else {
        a->raw = NULL;
        if (a->sub)
            take_direct(a->sub, &in);
        else
            take_request(d, &in);
    }
    arrival_free(a);
}

/* ---- from NATS ------------------------------------------------------------------------------------------------------------------- */

/* Names that are none are told to who asks, when the beginning of the subject says who that is. */
static void refuse_malformed(struct dispatch *d, struct intake *in)
{
    const char *rest = in->subject.agent.s + in->subject.agent.len + 1;
    char shown[TEXT_QUOTE_SIZE], text[ERROR_TEXT_SIZE];

    if (!in->tenant || !in->reply || !check_reply(d, in) || !charge(d, in))
        return;
    (void)snprintf(text, sizeof text,
                   "behind the agent's name %s came, <service>.<verb> or <service>.<verb>.<ref> was expected, each"
                   " [A-Za-z0-9_-]{1,64} and the first two without _ in front",
                   text_quote(rest, strlen(rest), shown));
    answer_error(d, in, &(struct error_answer){.code = ERROR_INVALID_ARGUMENT, .message = text});
}

/* Nobody's message has that many; to take them apart could take seconds. */
static void refuse_headers(struct dispatch *d, struct intake *in)
{
    char text[ERROR_TEXT_SIZE];

    dispatch_count_refused(d, "headers");
    if (!in->tenant || !in->reply || !check_reply(d, in) || !charge(d, in))
        return;
    (void)snprintf(text, sizeof text, "headers: more came than the %d headers and %d bytes that a message may have", BUS_MAX_HEADERS,
                   BUS_MAX_HEADER_BYTES);
    answer_error(d, in, &(struct error_answer){.code = ERROR_INVALID_ARGUMENT, .message = text});
}

static void on_request(void *arg, struct bus_msg *raw)
{
    struct dispatch *d = arg;
    struct intake in;
    int err = intake_open(&in, d->broker, raw);

    if (err) {
        dispatch_count_refused(d, "subject");
        if (err == MUSTER_EINVAL)
            refuse_malformed(d, &in);
        bus_msg_free(raw);
    } else if (!bus_msg_headers_fit(raw)) {
        refuse_headers(d, &in);
        bus_msg_free(raw);
    } else if (!await_tenant(d, &in, NULL)) {
        take_request(d, &in);
    }
}

/* A message of a subscription of its own. */
static void on_direct(void *arg, struct bus_msg *raw)
{
    struct sub *sub = arg;
    struct intake in;

    if (intake_open(&in, sub->dispatch->broker, raw) != 0) {
        dispatch_count_refused(sub->dispatch, "subject");
        bus_msg_free(raw);
    } else if (!bus_msg_headers_fit(raw)) {
        dispatch_count_refused(sub->dispatch, "headers");
        bus_msg_free(raw);
    } else if (!await_tenant(sub->dispatch, &in, sub)) {
        take_direct(sub, &in);
    }
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

/* The services of INTERFACE 4 are of the plugins that come with Muster; who hears their requests could answer them. */
static int check_reserved(struct instance *in, const char *pattern)
{
    char service[NAME_TOKEN_SIZE];

    return in->how->path && reserved_overlap(pattern, service)
               ? in->host.fail(&in->host, MUSTER_EACCES,
                               "subscription to \"%s\": would get requests to service %s, which is of the plugins that come with Muster",
                               pattern, service)
               : 0;
}

int dispatch_subscribe(struct dispatch *d, struct instance *in, const struct muster_subscription *sub, uint64_t *ret_id)
{
    struct sub *s;
    int err;

    if (!is_well_formed(sub))
        return in->host.fail(&in->host, MUSTER_EINVAL,
                             "subscription to \"%s\": expected size, a legal pattern, a function, a known overflow, and bounds above 0",
                             MUSTER_HAS(sub, subject) && sub->subject ? sub->subject : "");
    err = check_reserved(in, sub->subject);
    if (err)
        return err;
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
    struct metric_spec unanswered = {.type = MUSTER_COUNTER,
                                     .name = "muster_unanswered_total",
                                     .help = "Requests of tenants that are not known that got no answer, because enough had gone."};
    struct metric_spec taken = {.type = MUSTER_COUNTER, .name = "muster_messages_total", .help = "Messages handed to plugins."};
    struct dispatch *d = calloc(1, sizeof *d);
    int err;

    if (!d)
        return MUSTER_ENOMEM;
    d->broker = broker;
    init_lock(&d->lock);
    d->trie = trie_new();
    d->requests = requests_new();
    d->arrivals = arrivals_new(broker, on_leave, d);
    err = d->trie && d->requests && d->arrivals ? metrics_make(broker_metrics(broker), &refused, &d->refused) : MUSTER_ENOMEM;
    if (!err)
        err = metrics_make(broker_metrics(broker), &unanswered, &d->unanswered);
    if (!err)
        err = metrics_make(broker_metrics(broker), &taken, &d->taken);
    if (err) {
        dispatch_free(d);
        return err;
    }
    *ret_dispatch = d;
    return 0;
}

int dispatch_open(struct dispatch *d)
{
    return arrivals_open(d->arrivals);
}

void dispatch_close(struct dispatch *d)
{
    arrivals_close(d->arrivals);
}

int dispatch_start(struct dispatch *d)
{
    char subject[MAX_SUBJECT_LEN];

    if (atomic_load(&d->stopped))
        return 0;
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
    arrivals_free(d->arrivals); /* first: what leaves it looks for its subscription */
    trie_free(d->trie);
    requests_free(d->requests);
    (void)pthread_rwlock_destroy(&d->lock);
    free(d);
}
