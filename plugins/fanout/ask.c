/* Requests and their answers; see ask.h. */
#include "fanout/ask.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/digest.h"
#include "wire/error.h"

static const char once_sql[] = "SELECT muster.once($1, $2, $3, $4, decode($5, 'hex'), $6, $7::jsonb)";
static const char begin_sql[] = "SELECT muster.message_begin($1, $2, $3, $4, decode($5, 'hex'), $6::jsonb)";
static const char done_sql[] = "SELECT muster.message_done($1, $2, $3, $4, $5::jsonb)";

struct asks {
    uint64_t once, begin, done; /* statements */
    struct ask *unsent, **unsent_end;
};

/* ---- from its arrival --------------------------------------------------------------------------------------------------- */

int ask_new(struct fanout *f, const struct muster_msg *msg, struct ask **ret_ask)
{
    struct ask *a = calloc(1, sizeof *a);
    struct wire_error error;
    int err = a ? value_decode(msg->encoding, msg->payload, &a->args, &error) : MUSTER_ENOMEM;

    if (!err)
        err = f->bus->hold(f->host, msg, &a->msg);
    if (err) {
        if (a)
            value_free(a->args);
        free(a);
        return err;
    }
    a->f = f;
    *ret_ask = a;
    return 0;
}

static void end(struct ask *a)
{
    value_free(a->args);
    answer_drop(a->answer);
    a->f->bus->drop(a->f->host, a->msg);
    free(a);
}

const char *ask_str(const struct ask *a, const char *key)
{
    return text_in(a->args, key);
}

int64_t ask_int(const struct ask *a, const char *key, int64_t otherwise)
{
    const struct muster_value *v = value_get(a->args, key);

    return v && value_type(v) == MUSTER_INT ? value_int(v) : otherwise;
}

const char *ask_header(const struct ask *a, const char *name)
{
    for (uint32_t i = 0; i < a->msg->n_headers; i++)
        if (strcmp(a->msg->headers[i].name, name) == 0)
            return a->msg->headers[i].value;
    return NULL;
}

bool ask_is_foreign(const struct ask *a)
{
    return !a->msg->agent || a->msg->agent[0] == '_';
}

/* ---- to its answer ------------------------------------------------------------------------------------------------------ */

struct answer *answer_new(void)
{
    struct answer *answer = calloc(1, sizeof *answer);

    if (answer)
        answer->refs = 1;
    return answer;
}

void answer_drop(struct answer *answer)
{
    if (!answer || --answer->refs)
        return;
    buf_done(&answer->bytes);
    free(answer);
}

static void wait_for_room(struct ask *a)
{
    struct asks *s = a->f->asks;

    a->next = NULL;
    *s->unsent_end = a;
    s->unsent_end = &a->next;
}

static int send(struct ask *a)
{
    const char *text = a->answer->bytes.data, *field = a->is_error ? text + strlen(text) + 1 : "";

    if (!a->msg->request) /* nobody waits */
        return 0;
    if (a->is_error)
        return a->f->bus->reply_error(a->f->host, a->msg->request, text, *field ? field : NULL, field + strlen(field) + 1);
    return a->f->bus->reply(a->f->host, a->msg->request, (struct muster_bytes){text, a->answer->bytes.len});
}

void ask_reply_shared(struct ask *a, struct answer *answer)
{
    if (buf_failed(&answer->bytes)) {
        ask_failed(a, MUSTER_ENOMEM, "the answer could not be written");
        return;
    }
    answer->refs++;
    a->answer = answer;
    if (send(a) == MUSTER_EAGAIN)
        wait_for_room(a);
    else
        end(a);
}

void ask_reply(struct ask *a, const char *bytes, size_t len)
{
    struct answer *answer = answer_new();

    if (!answer) {
        ask_failed(a, MUSTER_ENOMEM, "the answer could not be written");
        return;
    }
    buf_put(&answer->bytes, bytes, len);
    ask_reply_shared(a, answer);
    answer_drop(answer);
}

void ask_reply_written(struct ask *a, struct muster_writer *w, struct buf *out)
{
    int err = writer_finish(w, NULL);

    if (err)
        ask_failed(a, err, "the answer could not be written");
    else
        ask_reply(a, out->data, out->len);
    buf_done(out);
}

static void put_part(struct buf *b, const char *text)
{
    buf_put(b, text ? text : "", text ? strlen(text) + 1 : 1);
}

static void answer_error(struct ask *a, const char *code, const char *field, const char *message)
{
    answer_drop(a->answer);
    a->answer = answer_new();
    if (a->answer) {
        put_part(&a->answer->bytes, code);
        put_part(&a->answer->bytes, field);
        put_part(&a->answer->bytes, message);
    }
    a->is_error = true;
    if (a->answer && !buf_failed(&a->answer->bytes) && send(a) == MUSTER_EAGAIN)
        wait_for_room(a);
    else
        end(a);
}

void ask_error(struct ask *a, const char *code, const char *field, const char *fmt, ...)
{
    char message[ERROR_TEXT_SIZE];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    answer_error(a, code, field, message);
}

void ask_failed(struct ask *a, int code, const char *what)
{
    const char *word = error_name(error_of_result(code));

    ask_error(a, word, NULL, "%s%s", what, code == MUSTER_ELINK || code == MUSTER_EAGAIN ? "; try again" : "");
}

static void reply_value(struct ask *a, const struct muster_value *v)
{
    struct muster_writer w;
    struct buf out = {0};

    writer_init(&w, a->msg->encoding, &out);
    writer_value(&w, v);
    ask_reply_written(a, &w, &out);
}

static void reply_outcome(struct ask *a, const struct muster_value *outcome)
{
    const struct muster_value *ok = value_get(outcome, "ok"), *error = value_get(outcome, "error");
    const char *code = text_in(error, "code"), *message = text_in(error, "message");

    if (ok)
        reply_value(a, ok);
    else if (code && error_find(code) >= 0)
        ask_error(a, code, text_in(error, "field"), "%s", message ? message : "");
    else
        ask_failed(a, MUSTER_EINVAL, "the database gave no outcome");
}

void ask_reply_outcome(struct ask *a, const struct muster_sql_result *result)
{
    const char *text = result->code || !result->n_rows ? NULL : result->get(result, 0, 0);
    struct muster_value *outcome;
    struct wire_error error;

    if (!text) {
        if (result->code == MUSTER_EINVAL)
            a->f->host->log(a->f->host, MUSTER_LOG_ERROR, "a statement was refused: %s", result->error);
        ask_failed(a, result->code == MUSTER_EINVAL ? MUSTER_EABI : result->code, "the database could not be asked");
        return;
    }
    if (value_decode(MUSTER_JSON, (struct muster_bytes){text, strlen(text)}, &outcome, &error) != 0) {
        ask_failed(a, MUSTER_EABI, "the database gave no outcome");
        return;
    }
    reply_outcome(a, outcome);
    value_free(outcome);
}

/* ---- once --------------------------------------------------------------------------------------------------------------- */

static bool digest_hex(const struct ask *a, char out[2 * DIGEST_SIZE + 1])
{
    uint8_t digest[DIGEST_SIZE];

    if (digest_of(a->args, digest) != 0)
        return false;
    for (size_t i = 0; i < DIGEST_SIZE; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
    return true;
}

static struct muster_bytes text(const char *s)
{
    return (struct muster_bytes){s, s ? strlen(s) : 0};
}

/* tenant, agent, verb, request id, digest: what both statements begin with. */
enum { N_FIRST = 5, VERB_SIZE = 160, DIGEST_TEXT = 2 * DIGEST_SIZE + 1 };

static bool fill_first(const struct ask *a, char verb[VERB_SIZE], char digest[DIGEST_TEXT], struct muster_bytes params[N_FIRST])
{
    if (!digest_hex(a, digest))
        return false;
    (void)snprintf(verb, VERB_SIZE, "%s.%s", a->msg->service, a->msg->verb);
    params[0] = text(a->f->tenants->name(a->msg->tenant));
    params[1] = text(a->msg->agent);
    params[2] = text(verb);
    params[3] = text(ask_str(a, "request_id"));
    params[4] = text(digest);
    return true;
}

int ask_once(struct ask *a, const char *function, const char *args_json, muster_sql_fn fn, void *arg)
{
    struct fanout *f = a->f;
    char digest[DIGEST_TEXT], verb[VERB_SIZE];
    struct muster_bytes params[N_FIRST + 2];

    if (!fill_first(a, verb, digest, params))
        return MUSTER_ENOMEM;
    params[N_FIRST] = text(function);
    params[N_FIRST + 1] = text(args_json);
    return f->sql->exec(f->host, f->asks->once, a->msg->tenant, a->msg->agent, N_FIRST + 2, params, fn, arg);
}

int ask_begin(struct ask *a, const char *args_json, muster_sql_fn fn, void *arg)
{
    struct fanout *f = a->f;
    char digest[DIGEST_TEXT], verb[VERB_SIZE];
    struct muster_bytes params[N_FIRST + 1];

    if (!fill_first(a, verb, digest, params))
        return MUSTER_ENOMEM;
    params[N_FIRST] = text(args_json);
    return f->sql->exec(f->host, f->asks->begin, a->msg->tenant, a->msg->agent, N_FIRST + 1, params, fn, arg);
}

bool ask_claim(const struct muster_sql_result *result, char claim[CLOCK_UUID_SIZE])
{
    const char *outcome = result->code || !result->n_rows ? NULL : result->get(result, 0, 0), *found = NULL;
    struct muster_value *doc = NULL;
    struct wire_error error;

    if (outcome && value_decode(MUSTER_JSON, text(outcome), &doc, &error) == 0)
        found = text_in(value_in(doc, "ok"), "claim");
    if (found)
        (void)snprintf(claim, CLOCK_UUID_SIZE, "%s", found);
    value_free(doc);
    return found != NULL;
}

int ask_done(struct ask *a, struct muster_bytes answer, muster_sql_fn fn, void *arg)
{
    struct fanout *f = a->f;
    char digest[DIGEST_TEXT], verb[VERB_SIZE];
    struct muster_bytes params[N_FIRST];

    if (!fill_first(a, verb, digest, params))
        return MUSTER_ENOMEM;
    params[N_FIRST - 1] = answer;
    return f->sql->exec(f->host, f->asks->done, a->msg->tenant, a->msg->agent, N_FIRST, params, fn, arg);
}

/* ---- all of them -------------------------------------------------------------------------------------------------------- */

int asks_create(struct fanout *f)
{
    struct asks *s = calloc(1, sizeof *s);
    int err;

    if (!s)
        return f->host->fail(f->host, MUSTER_ENOMEM, "no memory for an instance");
    s->unsent_end = &s->unsent;
    f->asks = s;
    err = f->sql->prepare(f->host, "once", MUSTER_SQL_WRITE, once_sql, &s->once);
    if (!err)
        err = f->sql->prepare(f->host, "message_begin", MUSTER_SQL_WRITE, begin_sql, &s->begin);
    return err ? err : f->sql->prepare(f->host, "message_done", MUSTER_SQL_WRITE, done_sql, &s->done);
}

bool asks_wait(const struct fanout *f)
{
    return f->asks && f->asks->unsent;
}

void asks_flush(struct fanout *f)
{
    struct asks *s = f->asks;

    while (s->unsent) {
        struct ask *a = s->unsent;

        if (send(a) == MUSTER_EAGAIN)
            return;
        s->unsent = a->next;
        if (!s->unsent)
            s->unsent_end = &s->unsent;
        end(a);
    }
}

void asks_done(struct fanout *f)
{
    struct asks *s = f->asks;

    while (s && s->unsent) {
        struct ask *a = s->unsent;

        s->unsent = a->next;
        end(a);
    }
    free(s);
    f->asks = NULL;
}
