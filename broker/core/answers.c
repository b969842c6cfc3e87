/* Answers and refusals; see answers.h, and dispatch.h for what others call. */
#include "core/answers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "core/audit.h"
#include "core/dispatch.h"
#include "core/instance.h"
#include "core/requests.h"
#include "core/services.h"
#include "metrics/metrics.h"
#include "tenant/tenant.h"
#include "wire/schema.h"
#include "wire/value.h"

enum { RETRY_AFTER_MS = 1000 };

struct answers {
    struct broker *broker;
    struct requests *requests;
    struct metric *refused, *over, *unanswered;
};

static void count_refused(struct answers *a, const char *reason)
{
    metric_add(a->refused, reason, 1);
}

void dispatch_count_refused(struct dispatch *d, const char *reason)
{
    count_refused(dispatch_answers(d), reason);
}

/* ---- of requests -------------------------------------------------------------------------------------------------------------- */

static int send_answer(struct answers *a, const struct request *r, const struct bus_out *how)
{
    struct bus_out out = *how;

    out.subject = r->reply;
    out.fence = -1;
    out.answer = true;
    return bus_send(broker_bus(a->broker), BUS_LIVE, &out);
}

static void count_answer(const struct request *r, const struct error_answer *error)
{
    if (r->note.endpoint)
        endpoint_count(r->note.endpoint, clock_now_ns() - r->note.recv_ns, error ? error_number(error->code) : 0,
                       error ? error->message : NULL);
}

/* Who is told that something is unavailable is told when to ask again: by a plugin, too, which has no word for it. */
static struct error_answer with_retry(const struct error_answer *answer)
{
    struct error_answer told = *answer;

    if (told.code == ERROR_UNAVAILABLE && !told.retry_after_ms)
        told.retry_after_ms = RETRY_AFTER_MS;
    return told;
}

static int send_error(struct answers *a, const struct request *r, const struct error_answer *answer)
{
    char number[12], line[ERROR_TEXT_SIZE];
    struct muster_header headers[2] = {{"Nats-Service-Error-Code", number}, {"Nats-Service-Error", line}};
    const struct error_answer told = with_retry(answer);
    struct buf body = {0};
    int err;

    error_write(&told, r->note.encoding, &body);
    (void)snprintf(number, sizeof number, "%d", error_number(answer->code));
    (void)error_header(answer->message, line);
    err = buf_failed(&body) ? MUSTER_ENOMEM
                            : send_answer(a, r, &(struct bus_out){.headers = headers, .n_headers = 2, .payload = {body.data, body.len}});
    buf_done(&body);
    if (!err)
        count_answer(r, answer);
    return err;
}

/* Every request that was opened ends here, answered or not. Nothing happens when it has ended. */
static void drop_request(struct answers *a, uint64_t request)
{
    struct request r;

    if (requests_take(a->requests, request, &r) != 0)
        return;
    tenant_leave(broker_tenants(a->broker), &r.note.place);
    request_done(&r);
}

/* An answer that found no room leaves its request open: the caller tries again. One that was sent, or cannot be, ends it. */
static int close_request(struct answers *a, uint64_t request, int err)
{
    if (err == MUSTER_EAGAIN || err == MUSTER_ENOMEM)
        requests_give_back(a->requests, request);
    else
        drop_request(a, request); /* it is there: requests_begin() keeps others off */
    return err;
}

int dispatch_reply(struct dispatch *d, uint64_t request, struct muster_bytes payload)
{
    struct answers *a = dispatch_answers(d);
    struct request r;
    int err = payload.len <= WIRE_MAX_BODY ? requests_begin(a->requests, request, &r) : MUSTER_EINVAL;

    if (err)
        return err;
    err = send_answer(a, &r, &(struct bus_out){.payload = payload});
    if (!err) {
        count_answer(&r, NULL);
        audit_answer(broker_audit(a->broker), &r, -1, payload);
    }
    request_done(&r);
    return close_request(a, request, err);
}

static int reply_error(struct answers *a, uint64_t request, const struct error_answer *answer)
{
    struct request r;
    int err = requests_begin(a->requests, request, &r);

    if (err)
        return err;
    err = send_error(a, &r, answer);
    if (!err)
        audit_answer(broker_audit(a->broker), &r, answer->code, (struct muster_bytes){0});
    request_done(&r);
    return close_request(a, request, err);
}

int dispatch_reply_error(struct dispatch *d, uint64_t request, int code, const char *field, const char *message)
{
    return reply_error(dispatch_answers(d), request, &(struct error_answer){.code = code, .field = field, .message = message});
}

static struct answers *answers_of(const struct delivery *d)
{
    return dispatch_answers(broker_dispatch(d->sub->in->broker));
}

void dispatch_note_object(struct delivery *d)
{
    requests_note(answers_of(d)->requests, d->msg.request, d->object);
}

void dispatch_refuse_field(struct delivery *d, int code, const char *field, const char *message)
{
    const struct error_answer answer = {
        .code = code, .field = field, .message = message, .retry_after_ms = code == ERROR_RESOURCE_EXHAUSTED ? RETRY_AFTER_MS : 0};

    if (d->msg.request && reply_error(answers_of(d), d->msg.request, &answer) != 0)
        drop_request(answers_of(d), d->msg.request); /* nobody tries again: who gets no answer asks again */
}

void dispatch_refuse(struct delivery *d, int code, const char *message)
{
    dispatch_refuse_field(d, code, NULL, message);
}

void dispatch_unanswered(struct delivery *d)
{
    if (d->sub->queue)
        dispatch_refuse(d, ERROR_INTERNAL, "the service gave no answer"); /* nothing happens when it was answered */
    else if (d->msg.request)
        drop_request(answers_of(d), d->msg.request); /* likewise */
}

size_t dispatch_open_requests(struct dispatch *d)
{
    return requests_count(dispatch_answers(d)->requests);
}

/* ---- of what never became one --------------------------------------------------------------------------------------------------- */

void answers_error(struct answers *a, const struct intake *in, const struct error_answer *answer)
{
    struct request r = {.note = {.encoding = in->encoding, .endpoint = in->endpoint, .recv_ns = clock_now_ns()}};

    if (!in->reply || strlen(in->reply) >= sizeof r.reply)
        return;
    memcpy(r.reply, in->reply, strlen(in->reply) + 1);
    (void)send_error(a, &r, answer); /* who gets no answer asks again */
}

void answers_refuse_name(struct answers *a, const struct intake *in, const struct error_answer *answer)
{
    if (tenant_may_answer(in->tenant, clock_now_ns()))
        answers_error(a, in, answer);
    else
        metric_add(a->unanswered, NULL, 1);
}

void answers_turn_away(struct answers *a, const struct intake *in, const struct arrival *arrival, struct waiting_verdict verdict)
{
    static const struct {
        const char *reason, *name_reason;
        int code;
        const char *text;
        int64_t retry_after_ms;
    } refusals[] = {
        [WAITING_UNKNOWN] = {"tenant", "name", ERROR_UNAUTHENTICATED, "is not known", 0},
        [WAITING_AWAY] = {"registry", "registry", ERROR_UNAVAILABLE, "cannot be looked up while the database is away; try again",
                          RETRY_AFTER_MS},
        [WAITING_FULL] = {"waiting", "waiting", ERROR_RESOURCE_EXHAUSTED, "is not known yet, and too much waits for that; try again",
                          RETRY_AFTER_MS}};
    bool of_name = arrival->waiter.agent.s;
    struct text who = of_name ? in->subject.agent : in->subject.tenant;
    char text[ERROR_TEXT_SIZE];

    count_refused(a, of_name ? refusals[verdict.what].name_reason : refusals[verdict.what].reason);
    if (!arrival->sub)
        audit_refusal(broker_audit(a->broker), in, refusals[verdict.what].code);
    if (arrival->waiter.asks && !verdict.tell)
        metric_add(a->unanswered, NULL, 1);
    if (!verdict.tell)
        return;
    (void)snprintf(text, sizeof text, "the %s \"%.*s\" %s", of_name ? "name" : "tenant", (int)who.len, who.s, refusals[verdict.what].text);
    answers_error(a, in,
                 &(struct error_answer){.code = refusals[verdict.what].code,
                                        .message = text,
                                        .retry_after_ms = refusals[verdict.what].retry_after_ms});
}

/* ---- limits ---------------------------------------------------------------------------------------------------------------------- */

/* What every broker hears, changes nothing and waits for no answer only tells that its agent lives. */
static bool is_beat(const struct intake *in)
{
    return in->everywhere && !in->reply && in->endpoint && endpoint_access(in->endpoint) == SCHEMA_READ;
}

static struct tenant_asker asker_of(const struct intake *in)
{
    return (struct tenant_asker){.agent = in->subject.agent.s,
                                 .agent_len = in->subject.agent.len,
                                 .n_bytes = in->n_bytes,
                                 .now_ns = in->recv_ns,
                                 .lives = is_beat(in),
                                 .everywhere = in->everywhere};
}

static const char *reason_of(int limit)
{
    if (limit == TENANT_IN_FLIGHT || limit == TENANT_AGENT_IN_FLIGHT)
        return "in_flight";
    return limit == TENANT_QUEUED_MESSAGES || limit == TENANT_QUEUED_BYTES ? "queued" : "rate";
}

/* Over a limit: count it, and answer where an answer may go out. */
static void refuse_over(struct answers *a, const struct intake *in, int verdict, const struct tenant_over *over)
{
    const char *limit = limit_keys[over->limit].name;
    char text[ERROR_TEXT_SIZE];

    count_refused(a, reason_of(over->limit));
    metric_add(a->over, limit, 1);
    if (verdict != TENANT_OVER_ANSWER)
        return;
    (void)snprintf(text, sizeof text, "the tenant's limit %s of %lld is reached; try again in %u ms", limit, (long long)over->value,
                   over->retry_ms);
    answers_error(a, in,
                 &(struct error_answer){
                     .code = ERROR_RESOURCE_EXHAUSTED, .field = limit, .message = text, .retry_after_ms = over->retry_ms});
}

bool answers_charge(struct answers *a, const struct intake *in)
{
    const struct tenant_asker who = asker_of(in);
    struct tenant_over over;
    int verdict = tenant_charge(broker_tenants(a->broker), in->tenant, &who, &over);

    if (verdict != TENANT_OK)
        refuse_over(a, in, verdict, &over);
    return verdict == TENANT_OK;
}

static bool enter(struct answers *a, const struct intake *in, struct tenant_place *ret_place)
{
    const struct tenant_asker who = asker_of(in);
    struct tenant_over over;
    int verdict = tenant_enter(broker_tenants(a->broker), in->tenant, &who, ret_place, &over);

    if (verdict != TENANT_OK)
        refuse_over(a, in, verdict, &over);
    return verdict == TENANT_OK;
}

void answers_refuse_for_now(struct answers *a, const struct intake *in, const char *reason, const char *message)
{
    count_refused(a, reason);
    answers_error(a, in,
                 &(struct error_answer){.code = ERROR_RESOURCE_EXHAUSTED, .message = message, .retry_after_ms = RETRY_AFTER_MS});
}

bool answers_open(struct answers *a, const struct intake *in, struct delivery *delivery)
{
    struct request_note note = {
        .endpoint = in->endpoint, .tenant = in->tenant, .credential = in->credential, .recv_ns = delivery->msg.recv_ns, .encoding = in->encoding,
        .owner = delivery->sub->in->number};

    if (!enter(a, in, &note.place))
        return false;
    delivery->msg.request = requests_open(a->requests, in->reply, &note);
    if (delivery->msg.request)
        return true;
    tenant_leave(broker_tenants(a->broker), &note.place);
    answers_refuse_for_now(a, in, "requests", "too many requests are open");
    return false;
}

void answers_refuse_full(struct answers *a, const struct intake *in, struct delivery *delivery, int limit)
{
    struct tenant_over over;
    int verdict;

    if (limit < 0) {
        dispatch_refuse(delivery, ERROR_RESOURCE_EXHAUSTED, "this service has more waiting than it may; try again");
        return;
    }
    verdict = tenant_refuse(in->tenant, clock_now_ns(), limit, &over);
    refuse_over(a, in, verdict, &over);
    if (delivery->msg.request)
        drop_request(a, delivery->msg.request);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------ */

static void read_usage(void *arg, struct metrics_out *out)
{
    const struct answers *a = arg;

    metrics_emit(out, NULL, 0, (double)usage_count(tenants_usage(broker_tenants(a->broker))));
}

static void read_full(void *arg, struct metrics_out *out)
{
    const struct answers *a = arg;

    metrics_emit(out, NULL, 0, (double)usage_full(tenants_usage(broker_tenants(a->broker))));
}

/* The table behind the limits of agents. */
static int watch_usage(struct answers *a)
{
    const struct metric_spec n = {MUSTER_GAUGE, "muster_limited_agents", "Agents whose limits are being counted.", NULL, {{0}}};
    const struct metric_spec full = {MUSTER_COUNTER, "muster_limited_agents_full_total",
                                     "Requests refused because the limits of no more agents could be counted.", NULL, {{0}}};
    int err = metrics_watch(broker_metrics(a->broker), &n, read_usage, a);

    return err ? err : metrics_watch(broker_metrics(a->broker), &full, read_full, a);
}

static int make_metrics(struct answers *a)
{
    struct metrics *metrics = broker_metrics(a->broker);
    struct metric_spec refused = {.type = MUSTER_COUNTER,
                                  .name = "muster_refused_total",
                                  .help = "Messages refused before dispatch, by reason.",
                                  .label = "reason"};
    struct metric_spec over = {.type = MUSTER_COUNTER,
                               .name = "muster_over_limit_total",
                               .help = "Requests refused because a tenant or an agent was over its limit, by limit.",
                               .label = "limit"};
    struct metric_spec unanswered = {.type = MUSTER_COUNTER,
                                     .name = "muster_unanswered_total",
                                     .help = "Requests of tenants that are not known that got no answer, because enough had gone."};
    int err = metrics_make(metrics, &refused, &a->refused);

    if (!err)
        err = metrics_make(metrics, &over, &a->over);
    if (!err)
        err = watch_usage(a);
    return err ? err : metrics_make(metrics, &unanswered, &a->unanswered);
}

int answers_new(struct broker *broker, struct answers **ret_answers)
{
    struct answers *a = calloc(1, sizeof *a);
    int err;

    if (!a)
        return MUSTER_ENOMEM;
    a->broker = broker;
    a->requests = requests_new();
    err = a->requests ? make_metrics(a) : MUSTER_ENOMEM;
    if (err) {
        answers_free(a);
        return err;
    }
    *ret_answers = a;
    return 0;
}

void answers_free(struct answers *a)
{
    if (!a)
        return;
    requests_free(a->requests);
    free(a);
}
