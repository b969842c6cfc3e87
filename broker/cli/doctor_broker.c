/*
 * doctor: what the broker on broker.admin says of itself.
 *
 * Its view can differ from ours: it connects from another process, maybe another machine, since
 * another time. Where both miss the same thing both say so, with the same code.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/body.h"
#include "cli/doctor.h"
#include "base/probe.h"

enum { ANSWER_MS = 3000, ANSWER_MAX = 1 << 20 };

static const char *text_in(const struct muster_value *map, const char *key)
{
    const char *s = body_text(map, key);

    return s ? s : "";
}

/* A component that is well is not worth a line; a standby is well. */
static bool is_well(const char *state)
{
    return strcmp(state, "ok") == 0 || strcmp(state, "standby") == 0;
}

/* A required part that is down keeps the broker from being ready; everything else is worth a look.
 * */
static void tell_component(struct doctor *d, const struct muster_value *c)
{
    const char *state = text_in(c, "state"), *code = text_in(c, "code"), *text = text_in(c, "text");
    bool required = body_true(c, "required");
    char what[DOCTOR_WHAT_SIZE];

    if (is_well(state))
        return;
    (void)snprintf(what, sizeof what, "broker: %s %s", text_in(c, "kind"), text_in(c, "name"));
    doctor_say(d, required && strcmp(state, "degraded") != 0 ? DOCTOR_BROKEN : DOCTOR_HINT, what,
               code, "%s: %s", state, text);
}

static void judge(struct doctor *d, const struct muster_value *doc)
{
    const struct muster_value *components = body_get(doc, "components");
    bool ready = body_true(doc, "ready");

    for (size_t i = 0; i < body_count(components); i++)
        tell_component(d, value_at(components, i));
    doctor_say(d, ready ? DOCTOR_OK : DOCTOR_BROKEN, "broker", ready ? NULL : "not_ready",
               "%s on %s %s", text_in(doc, "broker"), d->cli->config->broker.admin,
               ready ? "is ready" : "is not ready");
}

/* The body behind the headers of an HTTP answer; NULL: it is none. */
static const char *body_of(const struct buf *answer)
{
    const char *end = answer->len && strncmp(answer->data, "HTTP/1.", 7) == 0
                          ? strstr(answer->data, "\r\n\r\n")
                          : NULL;

    return end ? end + 4 : NULL;
}

static void read_answer(struct doctor *d, const struct buf *answer)
{
    const char *body = body_of(answer);
    struct muster_value *doc;
    struct wire_error err;

    if (!body ||
        value_decode(MUSTER_JSON, (struct muster_bytes){body, strlen(body)}, &doc, &err) != 0) {
        doctor_say(d, DOCTOR_HINT, "broker", NULL,
                   "what answers on %s is no broker; is broker.admin right?",
                   d->cli->config->broker.admin);
        return;
    }
    judge(d, doc);
    value_free(doc);
}

/* Its certificate is one of ours, and not of an authority: it is known by its file. With it the doctor shows himself, too, which a
 * broker accepts whose client_ca has signed it for clients. */
static struct probe_tls tls_of(const struct config *c)
{
    bool shows = c->broker.tls_client_ca && access(c->broker.tls_key, R_OK) == 0;

    return (struct probe_tls){.shown = c->broker.tls_cert,
                              .cert = shows ? c->broker.tls_cert : NULL,
                              .key = shows ? c->broker.tls_key : NULL};
}

/* Brokers may run on other machines: that none answers here is no fault by itself. */
void doctor_broker(struct doctor *d)
{
    const char *admin = d->cli->config->broker.admin;
    const struct probe_tls tls = tls_of(d->cli->config);
    struct probe p = {.tls = tls.shown ? &tls : NULL,
                      .request =
                          "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                      .timeout_ms = ANSWER_MS,
                      .max = ANSWER_MAX};
    char why[PROBE_WHY_SIZE] = "it is no address";
    struct buf answer = {0};

    if (probe_parse(&p, admin, "7423") && probe_ask(&p, &answer, why))
        read_answer(d, &answer);
    else
        doctor_say(
            d, DOCTOR_HINT, "broker", NULL,
            "no broker answers on %s (%s): if one runs here, start it or correct broker.admin",
            admin, why);
    buf_done(&answer);
}
