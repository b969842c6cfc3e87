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
#include "core/admission.h"
#include "core/answers.h"
#include "core/audit.h"
#include "core/copies.h"
#include "core/instance.h"
#include "core/intake.h"
#include "core/services.h"
#include "core/trie.h"
#include "metrics/metrics.h"
#include "tenant/credentials.h"
#include "tenant/tenant.h"
#include "wire/error.h"
#include "wire/reserved.h"
#include "wire/subject.h"

enum { MAX_MATCHES = 64, MAX_SUBJECT_LEN = 1024 };

struct dispatch {
    struct broker *broker;
    struct answers *answers;
    struct arrivals *arrivals; /* of tenants and names that are not known yet; its locks come before ours */
    struct credentials *credentials; /* the arrivals' */
    struct metric *taken;
    uint64_t rpc_sub; /* NATS's; 0: not started */
    atomic_bool stopped;
    struct copies copies;

    /* Guards all below. Read for each message, until it is on its inbox: so what was unsubscribed gets no message any more once
     * the writer is through. */
    pthread_rwlock_t lock;
    struct trie *trie;     /* of requests, "rpc.*.echo.say" */
    struct sub *subs;
    uint64_t next_id;
};

struct answers *dispatch_answers(const struct dispatch *d)
{
    return d->answers;
}

/* ---- taking --------------------------------------------------------------------------------------------------------------------- */

static bool check_reply(struct dispatch *d, struct intake *in)
{
    if (intake_reply_is_own(in, broker_root(d->broker)))
        return true;
    in->reply = NULL;
    dispatch_count_refused(d, "reply_subject");
    audit_refusal(broker_audit(d->broker), in, ERROR_PERMISSION_DENIED);
    return false;
}

/* Put a message on the inbox of its subscription; full bounds are answered where somebody waits. Takes the message. */
static void hand_on(struct dispatch *d, const struct intake *in, struct sub *sub)
{
    struct delivery *delivery = intake_deliver(in, sub);
    int limit;

    if (!delivery) {
        answers_refuse_for_now(d->answers, in, "memory", "the broker has no memory for this; try again");
        bus_msg_free(in->raw);
        return;
    }
    if (in->reply && !answers_open(d->answers, in, delivery)) {
        delivery_unref(delivery);
        return;
    }
    delivery->is_late = !in->reply && !sub->queue && in->subject.kind == SUBJECT_RPC && !in->subject.ref.s;
    metric_add(d->taken, NULL, 1);
    if (inbox_push(sub->in->inbox, delivery, &limit) == 0)
        return;
    answers_refuse_full(d->answers, in, delivery, limit);
    delivery_unref(delivery);
}

/* hash: of a tenant's name, whether it is known or not. */
static bool is_mine(const struct sub *sub, uint64_t hash)
{
    return sub->in->host.n_lanes == 1 || hash % sub->in->host.n_lanes == sub->in->host.lane;
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

/* Its service says which verbs it has, and this is none. An answer, with its ref, is the business of who asked for it. */
static bool is_no_verb(struct dispatch *d, const struct intake *in)
{
    return !in->endpoint && !in->subject.ref.len && services_has(broker_services(d->broker), in->subject.service);
}

static void refuse_unknown(struct dispatch *d, struct intake *in)
{
    answers_error(d->answers, in, &(struct error_answer){.code = ERROR_NOT_FOUND, .message = "there is no such service or verb"});
}

/* A request may be taken: it has a legal reply subject, and its tenant may still ask. */
static bool admit(struct dispatch *d, struct intake *in)
{
    in->endpoint = services_find(broker_services(d->broker), in->subject.service, in->subject.verb);
    return check_reply(d, in) && answers_charge(d->answers, in);
}

/* Who asks may use the verb. `tell`: this broker is the one that answers. */
static bool may_ask(struct dispatch *d, const struct intake *in, bool tell)
{
    struct admission_refusal why;

    if (admission_allows(d->credentials, in, &why))
        return true;
    if (tell) {
        dispatch_count_refused(d, why.reason);
        audit_refusal(broker_audit(d->broker), in, why.code);
        answers_error(d->answers, in, &(struct error_answer){.code = why.code, .message = why.text});
    }
    return false;
}

/* Every broker hears it, and this one answers where it must not be asked. */
static void refuse_plain(struct dispatch *d, struct intake *in)
{
    in->endpoint = services_find(broker_services(d->broker), in->subject.service, in->subject.verb);
    if (!intake_reply_is_own(in, broker_root(d->broker)))
        in->reply = NULL; /* counted where it is charged */
    if (is_no_verb(d, in))
        refuse_unknown(d, in);
    else
        (void)may_ask(d, in, true);
}

/* Find whose the request is and hand it on. True: it was taken. */
static bool route(struct dispatch *d, struct intake *in)
{
    bool plain, taken = false;
    struct sub *sub;

    pthread_rwlock_rdlock(&d->lock);
    sub = find_sub(d, in, &plain);
    if (!sub && plain)
        refuse_plain(d, in); /* or it comes on a subscription of its own, and is charged there */
    else if (!admit(d, in))
        ;
    else if (atomic_load(&d->stopped))
        answers_error(d->answers, in, &(struct error_answer){.code = ERROR_UNAVAILABLE, .message = "this broker stops; try again"});
    else if (!sub || is_no_verb(d, in))
        refuse_unknown(d, in);
    else
        taken = may_ask(d, in, true);
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

/* Other brokers answer. */
static bool admit_direct(struct dispatch *d, struct intake *in)
{
    return !atomic_load(&d->stopped) && admit(d, in) && !is_no_verb(d, in) && may_ask(d, in, false);
}

/* The same for a message of a subscription of its own. */
static void take_direct(struct sub *sub, struct intake *in)
{
    struct dispatch *d = sub->dispatch;
    bool ok;

    in->everywhere = true;
    pthread_rwlock_rdlock(&d->lock);
    ok = !sub->dead && is_mine(sub, in->tenant->hash);
    if (ok && in->subject.kind == SUBJECT_RPC) {
        ok = admit_direct(d, in);
        if (!ok)
            copies_doubt(&d->copies);
    }
    if (ok)
        hand_on(d, in, sub);
    else
        bus_msg_free(in->raw);
    pthread_rwlock_unlock(&d->lock);
}

/* ---- tenants and names that are not known yet --------------------------------------------------------------------------------------- */

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

/* What a message waits for: its tenant, or its name. */
static struct waiter waiter_of(struct dispatch *d, const struct intake *in, const struct sub *sub, bool for_name)
{
    return (struct waiter){
        .tenant = for_name ? admission_tenant(in) : in->subject.tenant,
        .agent = for_name ? in->subject.agent : (struct text){0},
        .n_bytes = in->n_bytes + sizeof(struct arrival),
        .known = for_name ? in->credential != NULL : in->tenant != NULL,
        /* Every request comes once without a sub, so that is the one that is answered. */
        .asks = !sub && in->reply && intake_reply_is_own(in, broker_root(d->broker)),
    };
}

static struct arrival *arrival_new(struct dispatch *d, const struct intake *in, struct sub *sub, bool for_name)
{
    struct arrival *a = calloc(1, sizeof *a);

    if (!a) {
        dispatch_count_refused(d, "memory");
        return NULL;
    }
    *a = (struct arrival){.raw = in->raw, .sub = sub, .waiter = waiter_of(d, in, sub, for_name)};
    if (sub)
        atomic_fetch_add(&sub->refs, 1);
    return a;
}

/* True when the message was taken: it waits, or was refused. False: what it would wait for is known. */
static bool wait(struct dispatch *d, struct intake *in, struct sub *sub, bool for_name)
{
    bool known = for_name ? in->credential != NULL : in->tenant != NULL;
    struct arrival *a = known || may_wait(d, in, sub) ? arrival_new(d, in, sub, for_name) : NULL;
    struct waiting_verdict verdict;

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
        answers_turn_away(d->answers, in, a, verdict);
    arrival_free(a);
    return verdict.what != WAITING_KNOWN;
}

/* True when the message was taken. False: the tenant is known, and nothing of it waits. */
static bool await_tenant(struct dispatch *d, struct intake *in, struct sub *sub)
{
    if (in->tenant && !arrivals_has(d->arrivals, in->subject.tenant, (struct text){0}))
        return false;
    return wait(d, in, sub, false);
}

/* The same for the name that sent it. */
static bool await_name(struct dispatch *d, struct intake *in, struct sub *sub)
{
    if (!admission_needs_name(in))
        return false;
    if (admission_find(d->credentials, in) && !arrivals_has(d->arrivals, admission_tenant(in), in->subject.agent))
        return false;
    return wait(d, in, sub, true);
}

/* A name that is known and no longer in force. On a subscription of its own a request comes a second time: the first one was answered. */
static bool refuse_name(struct dispatch *d, struct intake *in, const struct sub *sub)
{
    bool is_second = sub && in->subject.kind == SUBJECT_RPC;
    struct admission_refusal why;

    if (admission_in_force(in, &why))
        return false;
    if (is_second)
        return true;
    dispatch_count_refused(d, why.reason);
    audit_refusal(broker_audit(d->broker), in, why.code);
    if (!in->reply || !check_reply(d, in))
        return true;
    answers_refuse_name(d->answers, in, &(struct error_answer){.code = why.code, .message = why.text});
    return true;
}

/* The tenant and the name are known. Takes the message. */
static void take(struct dispatch *d, struct intake *in, struct sub *sub)
{
    if (refuse_name(d, in, sub)) {
        if (sub)
            copies_doubt(&d->copies);
        bus_msg_free(in->raw);
    } else if (sub) {
        take_direct(sub, in);
    } else {
        take_request(d, in);
    }
}

/* As if it had just come: what waited for its tenant may wait for its name now. What was known when it was told, and is gone again, is unknown
 * (a tenant) or can be asked for again (a name that gave way to others). */
static void on_leave(void *arg, struct arrival *a, struct waiting_verdict verdict)
{
    bool for_name = a->waiter.agent.s;
    struct dispatch *d = arg;
    struct intake in;

    ASSERT(intake_open(&in, d->broker, a->raw) == 0); /* it was well-formed when it came */
    if (verdict.what == WAITING_KNOWN && (!in.tenant || (for_name && !admission_find(d->credentials, &in))))
        verdict = (struct waiting_verdict){.what = for_name && in.tenant ? WAITING_AWAY : WAITING_UNKNOWN, .tell = a->waiter.asks};
    if (verdict.what != WAITING_KNOWN) {
        answers_turn_away(d->answers, &in, a, verdict);
    } else {
        a->raw = NULL;
        if (for_name || !await_name(d, &in, a->sub))
            take(d, &in, a->sub);
    }
    intake_close(&in);
    arrival_free(a);
}

/* ---- from NATS ------------------------------------------------------------------------------------------------------------------- */

/* Names that are none are told to who asks, when the beginning of the subject says who that is. */
static void refuse_malformed(struct dispatch *d, struct intake *in)
{
    const char *rest = in->subject.agent.s + in->subject.agent.len + 1;
    char shown[TEXT_QUOTE_SIZE], text[ERROR_TEXT_SIZE];

    if (!in->tenant || !in->reply || !check_reply(d, in) || !answers_charge(d->answers, in))
        return;
    (void)snprintf(text, sizeof text,
                   "behind the agent's name %s came, <service>.<verb> or <service>.<verb>.<ref> was expected, each"
                   " [A-Za-z0-9_-]{1,64} and the first two without _ in front",
                   text_quote(rest, strlen(rest), shown));
    answers_error(d->answers, in, &(struct error_answer){.code = ERROR_INVALID_ARGUMENT, .message = text});
}

/* Nobody's message has that many; to take them apart could take seconds. */
static void refuse_headers(struct dispatch *d, struct intake *in)
{
    char text[ERROR_TEXT_SIZE];

    dispatch_count_refused(d, "headers");
    if (!in->tenant || !in->reply || !check_reply(d, in) || !answers_charge(d->answers, in))
        return;
    (void)snprintf(text, sizeof text, "headers: more came than the %d headers and %d bytes that a message may have", BUS_MAX_HEADERS,
                   BUS_MAX_HEADER_BYTES);
    answers_error(d->answers, in, &(struct error_answer){.code = ERROR_INVALID_ARGUMENT, .message = text});
}

static void on_request(void *arg, struct bus_msg *raw)
{
    struct dispatch *d = arg;
    struct intake in;
    int err;

    if (copies_is_superfluous(&d->copies, raw)) {
        bus_msg_free(raw);
        return;
    }
    err = intake_open(&in, d->broker, raw);
    if (err) {
        dispatch_count_refused(d, "subject");
        if (err == MUSTER_EINVAL)
            refuse_malformed(d, &in);
        bus_msg_free(raw);
    } else if (!bus_msg_headers_fit(raw)) {
        refuse_headers(d, &in);
        bus_msg_free(raw);
    } else if (!await_tenant(d, &in, NULL) && !await_name(d, &in, NULL)) {
        take(d, &in, NULL);
    }
    intake_close(&in);
}

/* A message of a subscription of its own. */
static void on_direct(void *arg, struct bus_msg *raw)
{
    struct sub *sub = arg;
    struct dispatch *d = sub->dispatch;
    struct intake in;

    if (intake_open(&in, d->broker, raw) != 0) {
        copies_doubt(&d->copies);
        dispatch_count_refused(d, "subject");
        bus_msg_free(raw);
    } else if (!bus_msg_headers_fit(raw)) {
        copies_doubt(&d->copies);
        dispatch_count_refused(d, "headers");
        bus_msg_free(raw);
    } else if (await_tenant(d, &in, sub) || await_name(d, &in, sub)) {
        copies_doubt(&d->copies);
    } else {
        take(d, &in, sub);
    }
    intake_close(&in);
}

/* ---- subscriptions -------------------------------------------------------------------------------------------------------------- */

static void on_gone(void *arg)
{
    sub_unref(arg);
}

/* Of the plugins that come with Muster, which have a handful: each read of the link looks at all that are direct. */
static bool is_own_event(const struct sub *s)
{
    return strncmp(s->pattern, "evt.", 4) == 0 && !s->in->how->path;
}

static int attach(struct dispatch *d, struct sub *s)
{
    char full[MAX_SUBJECT_LEN];
    struct bus_sub how = {.subject = full, .queue = s->queue ? "muster" : NULL, .fn = on_direct, .gone = on_gone, .arg = s};
    bool is_rpc = strncmp(s->pattern, "rpc.", 4) == 0;
    int err = 0;

    how.direct = is_rpc || is_own_event(s);
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
    copies_list(&d->copies, d->subs);
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
        copies_list(&d->copies, d->subs);
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

struct credentials *dispatch_credentials(struct dispatch *d)
{
    return d->credentials;
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
    struct metric_spec taken = {.type = MUSTER_COUNTER, .name = "muster_messages_total", .help = "Messages handed to plugins."};
    struct dispatch *d = calloc(1, sizeof *d);
    int err;

    if (!d)
        return MUSTER_ENOMEM;
    d->broker = broker;
    init_lock(&d->lock);
    copies_init(&d->copies);
    d->trie = trie_new();
    d->arrivals = arrivals_new(broker, on_leave, d);
    d->credentials = d->arrivals ? arrivals_credentials(d->arrivals) : NULL;
    err = d->trie && d->arrivals ? answers_new(broker, &d->answers) : MUSTER_ENOMEM;
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
    return bus_subscribe(broker_bus(d->broker), &(struct bus_sub){.subject = subject, .queue = "muster", .direct = true, .fn = on_request, .arg = d},
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
    answers_free(d->answers);
    copies_done(&d->copies);
    (void)pthread_rwlock_destroy(&d->lock);
    free(d);
}
