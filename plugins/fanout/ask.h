/*
 * fanout/ask.h - one request to a service of this plugin, from its arrival to its answer.
 *
 * Shape    ask_new() holds the message and decodes its body, which the broker has checked against the definition. Exactly one of the
 *          ask_reply…() and ask_error…() functions ends it; the ask is gone then.
 * Bounds   Those of bus->hold(). An answer that finds no room waits, and goes out by asks_flush().
 * Memory   The ask owns message and body; an answer is counted, so that many asks can be given the same bytes.
 * Threads  The lane.
 */
#ifndef MUSTER_FANOUT_ASK_H
#define MUSTER_FANOUT_ASK_H

#include "base/buf.h"
#include "base/clock.h"
#include "fanout/fanout.h"
#include "wire/value.h"
#include "wire/writer.h"

/* A body that is sent once or often. */
struct answer {
    unsigned int refs;
    struct buf bytes;
};

struct ask {
    struct fanout *f;
    struct ask *next; /* for whoever has it in a list */
    const struct muster_msg *msg;
    struct muster_value *args;
    struct answer *answer; /* waits for room */
    bool is_error;         /* the answer is the code, the field and the message of an error, each with a NUL behind it; no field: "" */
};

/* NULL where there is no map, or no such key. */
static inline const struct muster_value *value_in(const struct muster_value *map, const char *key)
{
    return map ? value_get(map, key) : NULL;
}

/* NULL also where it is no text. */
static inline const char *text_in(const struct muster_value *map, const char *key)
{
    const struct muster_value *v = value_in(map, key);

    return v ? value_str(v, NULL) : NULL;
}

/* 0, or what the callback of the message returns: nothing was held then. */
int ask_new(struct fanout *f, const struct muster_msg *msg, struct ask **ret_ask);
/* NULL where the field is missing. Strings of args end in NUL. */
const char *ask_str(const struct ask *a, const char *key);
int64_t ask_int(const struct ask *a, const char *key, int64_t otherwise);
/* NULL: it came without. */
const char *ask_header(const struct ask *a, const char *name);
/* An operator of another tenant or a plugin: has no inbox here and is in no group. */
bool ask_is_foreign(const struct ask *a);

void ask_error(struct ask *a, const char *code, const char *field, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* The word that goes with a MUSTER_E*. what: "the message could not be stored". */
void ask_failed(struct ask *a, int code, const char *what);
void ask_reply(struct ask *a, const char *json_or_msgpack, size_t len);
void ask_reply_written(struct ask *a, struct muster_writer *w, struct buf *out);
void ask_reply_shared(struct ask *a, struct answer *answer);
/* An outcome of the database, {"ok": …} or {"error": …}, as JSON. */
void ask_reply_outcome(struct ask *a, const struct muster_sql_result *result);

/* Run muster.once() for a service function of schema muster; fn gets the outcome. args_json: what the function gets. */
int ask_once(struct ask *a, const char *function, const char *args_json, muster_sql_fn fn, void *arg);

/* Claim its request_id by muster.message_begin(); fn gets the outcome, {"ok": {"claim": …}} where nobody has done it yet. */
int ask_begin(struct ask *a, const char *args_json, muster_sql_fn fn, void *arg);

/* The claim in such an outcome: the caller's own id, or that of whoever began before it. False: there is none, the outcome is the answer. */
bool ask_claim(const struct muster_sql_result *result, char claim[CLOCK_UUID_SIZE]);

/* Keep the answer of what was claimed, as JSON: fn gets it as an outcome. */
int ask_done(struct ask *a, struct muster_bytes answer, muster_sql_fn fn, void *arg);

struct answer *answer_new(void);
void answer_drop(struct answer *answer);

int asks_create(struct fanout *f);
void asks_flush(struct fanout *f);
/* Answers wait for room: whoever would write one more does better to wait, too. */
bool asks_wait(const struct fanout *f);
void asks_done(struct fanout *f);

#endif
