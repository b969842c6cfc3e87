/* Requests and their answers; see ask.h. */
#include "common/work/ask.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/work/outcome.h"
#include "wire/error.h"
#include "wire/writer.h"

/* ---- from its arrival --------------------------------------------------------------------------------------------------- */

static int read_args(struct ask *a, const struct muster_msg *msg, const char *args_json)
{
    struct wire_error error;

    if (args_json)
        return value_decode(MUSTER_JSON, ask_param(args_json), &a->args, &error);
    return value_decode(msg->encoding, msg->payload, &a->args, &error);
}

int ask_new(struct work *w, const struct muster_msg *msg, const char *args_json, struct ask **ret_ask)
{
    struct ask *a = calloc(1, sizeof *a);
    int err = a ? read_args(a, msg, args_json) : MUSTER_ENOMEM;

    if (!err)
        err = w->bus->hold(w->host, msg, &a->msg);
    if (err) {
        if (a)
            value_free(a->args);
        free(a);
        return err;
    }
    a->w = w;
    *ret_ask = a;
    return 0;
}

static void end(struct ask *a)
{
    value_free(a->args);
    buf_done(&a->sent);
    buf_done(&a->answer);
    a->w->bus->drop(a->w->host, a->msg);
    free(a);
}

const char *ask_str(const struct ask *a, const char *key)
{
    return text_in(a->args, key);
}

const char *ask_tenant(const struct ask *a)
{
    return a->w->tenants->name(a->msg->tenant);
}

/* ---- to its answer ------------------------------------------------------------------------------------------------------ */

static void wait_for_room(struct ask *a)
{
    struct work *w = a->w;

    a->next = NULL;
    *w->unsent_end = a;
    w->unsent_end = &a->next;
}

static int send(struct ask *a)
{
    const char *text = a->answer.data, *field = a->is_error ? text + strlen(text) + 1 : "";

    if (!a->msg->request) /* nobody waits */
        return 0;
    if (a->is_error)
        return a->w->bus->reply_error(a->w->host, a->msg->request, text, *field ? field : NULL, field + strlen(field) + 1);
    return a->w->bus->reply(a->w->host, a->msg->request, (struct muster_bytes){text, a->answer.len});
}

static void finish(struct ask *a)
{
    if (send(a) == MUSTER_EAGAIN)
        wait_for_room(a);
    else
        end(a);
}

void work_flush(struct work *w)
{
    while (w->unsent) {
        struct ask *a = w->unsent;

        if (send(a) == MUSTER_EAGAIN)
            return;
        w->unsent = a->next;
        if (!w->unsent)
            w->unsent_end = &w->unsent;
        end(a);
    }
}

static void end_all(struct ask *a)
{
    for (struct ask *next; a; a = next) {
        next = a->next;
        end(a);
    }
}

void work_destroy(struct work *w)
{
    end_all(w->unsent);
    end_all(w->again);
}

static void put_part(struct buf *b, const char *text)
{
    buf_put(b, text ? text : "", text ? strlen(text) + 1 : 1);
}

static void put_error(struct ask *a, const char *code, const char *field, const char *message)
{
    buf_clear(&a->answer);
    put_part(&a->answer, code);
    put_part(&a->answer, field);
    put_part(&a->answer, message);
    a->is_error = true;
    a->w->metrics->add(a->w->host, a->w->m_refused, code, 1);
    if (buf_failed(&a->answer))
        end(a); /* the broker answers */
    else
        finish(a);
}

void ask_error(struct ask *a, const char *code, const char *field, const char *fmt, ...)
{
    char message[ERROR_TEXT_SIZE];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    put_error(a, code, field, message);
}

void ask_failed(struct ask *a, int code, const char *what)
{
    const char *word = error_name(error_of_result(code));

    ask_error(a, word, NULL, "%s%s", what, code == MUSTER_ELINK || code == MUSTER_EAGAIN ? "; try again" : "");
}

static int recode(const char *json, size_t len, struct buf *out)
{
    struct muster_writer w;
    struct muster_value *doc;
    struct wire_error error;
    int err = value_decode(MUSTER_JSON, (struct muster_bytes){json, len}, &doc, &error);

    if (err)
        return err;
    writer_init(&w, MUSTER_MSGPACK, out);
    writer_value(&w, doc);
    value_free(doc);
    return writer_finish(&w, NULL);
}

void ask_reply(struct ask *a, const char *json, size_t len)
{
    int err = 0;

    buf_clear(&a->answer);
    if (a->msg->encoding == MUSTER_MSGPACK)
        err = recode(json, len, &a->answer);
    else
        buf_put(&a->answer, json, len);
    if (!err && buf_failed(&a->answer))
        err = MUSTER_ENOMEM;
    if (err)
        ask_failed(a, err == MUSTER_ENOMEM ? err : MUSTER_EABI, "the answer could not be written");
    else if (a->answer.len > WIRE_MAX_BODY)
        ask_error(a, "failed_precondition", NULL, "the answer has %zu bytes, at most %d can be sent", a->answer.len, WIRE_MAX_BODY);
    else
        finish(a);
}

/* ---- outcomes ----------------------------------------------------------------------------------------------------------- */

static void reply_ok(struct ask *a, const char *ok, size_t len)
{
    struct buf out = {0};

    if (!(a->verb && a->verb->flags & WORK_PAGED) || len < 2) {
        ask_reply(a, ok, len);
        return;
    }
    buf_put(&out, ok, len - 1); /* up to its bracket */
    buf_printf(&out, ", \"epoch\": %llu, \"seq\": %llu}", (unsigned long long)a->epoch, (unsigned long long)a->seq);
    if (buf_failed(&out))
        ask_failed(a, MUSTER_ENOMEM, "the answer could not be written");
    else
        ask_reply(a, out.data, out.len);
    buf_done(&out);
}

static void tell_done(struct ask *a, const char *ok, size_t len, const struct buf *more)
{
    struct muster_value *doc = NULL;
    struct wire_error error;

    if (!a->verb || !a->verb->done || buf_failed(more) || value_decode(MUSTER_JSON, (struct muster_bytes){more->data, more->len}, &doc, &error) != 0)
        return;
    a->verb->done(a, ok, len, doc);
    value_free(doc);
}

static void reply_error(struct ask *a, const char *text)
{
    struct muster_value *doc = NULL;
    struct wire_error why;
    const struct muster_value *error = value_decode(MUSTER_JSON, ask_param(text), &doc, &why) == 0 ? value_in(doc, "error") : NULL;
    const char *code = text_in(error, "code"), *message = text_in(error, "message");

    if (code && error_find(code) >= 0)
        ask_error(a, code, text_in(error, "field"), "%s", message ? message : "");
    else
        ask_failed(a, MUSTER_EABI, "the database gave no outcome");
    value_free(doc);
}

/* A value that JSON has and PostgreSQL does not, such as a number of 20,000 digits, is the asker's. */
static bool is_data_exception(const struct muster_sql_result *result)
{
    return result->code == MUSTER_EINVAL && strncmp(result->sqlstate, "22", 2) == 0;
}

static void reply_failure(struct ask *a, const struct muster_sql_result *result)
{
    if (is_data_exception(result)) {
        ask_error(a, "invalid_argument", NULL, "PostgreSQL cannot take it: %s", result->error);
        return;
    }
    if (result->code == MUSTER_EINVAL)
        a->w->host->log(a->w->host, MUSTER_LOG_ERROR, "a statement was refused: %s", result->error);
    ask_failed(a, result->code == MUSTER_EINVAL ? MUSTER_EABI : result->code, "the database could not be asked");
}

void ask_outcome(struct ask *a, const struct muster_sql_result *result)
{
    const char *text = result->code || !result->n_rows ? NULL : result->get(result, 0, 0), *ok;
    struct buf more = {0};
    size_t len;

    if (!text) {
        reply_failure(a, result);
    } else if (outcome_ok(text, &ok, &len, &more)) {
        tell_done(a, ok, len, &more);
        reply_ok(a, ok, len);
    } else {
        reply_error(a, text);
    }
    buf_done(&more);
}
