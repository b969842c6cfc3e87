/* Questions to services; see service.h. */
#include "cli/service.h"

#include <stdio.h>
#include <string.h>
#include <uv.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cli/body.h"
#include "cli/term.h"
#include "config/config.h"

enum { SENTENCE_SHOWN = 400 };
static const int64_t answer_ns = 2 * CLOCK_S, patience_ns = 20 * CLOCK_S; /* a lease of a broker that stands still moves in 16 s */

struct waiting {
    uv_sem_t done;
    int code;
    bool refused;             /* the header says it: what is kept of a run or a task has an `error` of its own */
    struct muster_value *doc; /* NULL: what came is no body */
};

/* On the lane of the session. */
static void on_answer(void *arg, int code, const struct bus_msg *msg)
{
    struct waiting *w = arg;
    struct wire_error err;
    uint32_t encoding;

    w->code = code;
    w->refused = !code && bus_msg_header(msg, "Nats-Service-Error-Code");
    if (!code && (value_detect(bus_msg_data(msg), &encoding, &err) != 0 || value_decode(encoding, bus_msg_data(msg), &w->doc, &err) != 0))
        w->doc = NULL;
    uv_sem_post(&w->done);
}

static int ask_once(struct session *s, const char *subject, const char *answers, const struct buf *body, struct waiting *w)
{
    const struct bus_out out = {.subject = subject, .fence = -1, .payload = {body->data, body->len}};
    const struct bus_call call = {
        .lane = session_lane(s), .owner = w, .answers = answers, .timeout_ns = answer_ns, .fn = on_answer, .arg = w};
    int err = bus_request(session_bus(s), BUS_LIVE, &out, &call);

    if (err)
        return err;
    uv_sem_wait(&w->done);
    return w->code;
}

/* The brokers' own words where nothing serves what is asked: whatever is not found by a service is told in the service's. */
static bool is_served(const struct muster_value *error)
{
    const char *message = body_text(error, "message");

    return !message || strcmp(message, "there is no such service or verb") != 0;
}

static bool is_missing(const struct muster_value *error)
{
    const char *code = body_text(error, "code");

    return code && strcmp(code, "not_found") == 0 && is_served(error);
}

static int tell_error(const struct service_question *q, const struct muster_value *error)
{
    const char *code = body_text(error, "code"), *message = body_text(error, "message");
    struct buf clean = {0};

    if (!is_served(error))
        return cli_fail(CLI_FAILED, q->command, "no broker has %s.%s; add `- name: %s` to plugins in their configuration", q->service,
                        q->verb, q->plugin);
    term_put(&clean, message ? message : "it gives no reason", message ? strlen(message) : 18, SENTENCE_SHOWN);
    (void)cli_fail(CLI_FAILED, q->command, "tenant %s: %s.%s: %s: %s", q->tenant, q->service, q->verb, code ? code : "internal",
                   clean.data ? clean.data : "");
    buf_done(&clean);
    return CLI_FAILED;
}

static int judge(const struct service_question *q, const struct waiting *w, int err)
{
    if (err == MUSTER_ELINK)
        return cli_fail(CLI_FAILED, q->command, "NATS went away; see muster doctor");
    if (err == MUSTER_ENOTFOUND || err == MUSTER_ETIME)
        return cli_fail(CLI_FAILED, q->command, "tenant %s: no broker answers %s.%s; one with the plugin %s must run: see muster doctor",
                        q->tenant, q->service, q->verb, q->plugin);
    if (err || !w->doc)
        return cli_fail(CLI_FAILED, q->command, "tenant %s: %s.%s: %s", q->tenant, q->service, q->verb,
                        err ? "it could not be asked" : "what came is no answer");
    return w->refused ? tell_error(q, body_get(w->doc, "error")) : CLI_DONE;
}

void service_answers(const struct config *config, char out[SERVICE_SUBJECT_SIZE])
{
    (void)snprintf(out, SERVICE_SUBJECT_SIZE, "%s.*.box._p_muster", config->broker.root);
}

int service_ask(struct session *s, const struct config *config, const struct service_question *q, struct muster_value **ret_doc)
{
    char subject[SERVICE_SUBJECT_SIZE], answers[SERVICE_SUBJECT_SIZE];
    int64_t until = clock_now_ns() + patience_ns;
    struct waiting w = {0};
    int code;

    (void)snprintf(subject, sizeof subject, "%s.%s.rpc._p_muster.%s.%s", config->broker.root, q->tenant, q->service, q->verb);
    (void)snprintf(answers, sizeof answers, "%s.%s.box._p_muster", config->broker.root, q->tenant);
    ASSERT(uv_sem_init(&w.done, 0) == 0);
    do
        code = ask_once(s, subject, answers, q->body, &w);
    while (code == MUSTER_ETIME && clock_now_ns() < until);
    uv_sem_destroy(&w.done);
    if (q->may_miss && w.refused && is_missing(body_get(w.doc, "error"))) {
        value_free(w.doc);
        *ret_doc = NULL;
        return CLI_DONE;
    }
    code = judge(q, &w, code);
    if (code == CLI_DONE)
        *ret_doc = w.doc;
    else
        value_free(w.doc);
    return code;
}
