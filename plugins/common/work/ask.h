/*
 * common/work/ask.h - one request to a service, from its arrival to its answer.
 *
 * Shape    ask_new() holds the message and decodes its body, which the broker has checked against the definition. Exactly one of ask_reply(),
 *          ask_error(), ask_failed() and ask_outcome() ends it; the ask is gone then.
 * Again    A statement that found a row locked for too long, met a deadlock or gave `unavailable` has had no effect: it is tried again, some times.
 * Threads  The lane.
 */
#ifndef MUSTER_COMMON_WORK_ASK_H
#define MUSTER_COMMON_WORK_ASK_H

#include "base/buf.h"
#include "common/work/work.h"

struct ask {
    struct work *w;
    const struct work_verb *verb; /* NULL: none of the list */
    const struct muster_msg *msg;
    struct muster_value *args;
    struct ask *next;        /* waits for room, or for its next try */
    struct buf sent;         /* what the function was given */
    unsigned int tries;
    struct buf answer;       /* the body; of an error code, field and message, each with a NUL behind it; no field: "" */
    bool is_error;
    uint64_t epoch, seq;     /* of the service's events, with WORK_PAGED */
};

/* 0, or what the callback of the message returns: nothing was held then. args_json: instead of the body of the message; NULL: that. */
int ask_new(struct work *w, const struct muster_msg *msg, const char *args_json, struct ask **ret_ask);

/* NULL where the field is missing or no text. Strings of args end in NUL. */
const char *ask_str(const struct ask *a, const char *key);
const char *ask_tenant(const struct ask *a);

/* What the function gets: the args as JSON, with the caller's role where it asks for that. */
void ask_args(const struct ask *a, struct buf *out);

/* Have the function of the ask's verb carry it out and answer; in look() of another verb's hook, too. */
void ask_run(struct ask *a);
/* With args of the plugin's own instead of those that came; the request_id is that of the request. */
void ask_run_with(struct ask *a, const char *args_json);
/* What one of the plugin's own statements gave, as the answer. */
void ask_outcome(struct ask *a, const struct muster_sql_result *result);

/* json: the whole answer, in whichever encoding it was asked for. */
void ask_reply(struct ask *a, const char *json, size_t len);
void ask_error(struct ask *a, const char *code, const char *field, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* The word that goes with a MUSTER_E*. what: "the task could not be changed". */
void ask_failed(struct ask *a, int code, const char *what);

/* NULL where there is no map, or no such key. */
static inline const struct muster_value *value_in(const struct muster_value *map, const char *key)
{
    return map ? value_get(map, key) : NULL;
}

/* NULL also where it is no text. */
static inline const char *text_in(const struct muster_value *map, const char *key)
{
    const struct muster_value *v = value_in(map, key);

    return v && value_type(v) == MUSTER_STR ? value_str(v, NULL) : NULL;
}

/* A parameter of a statement. NULL: SQL NULL. */
static inline struct muster_bytes ask_param(const char *s)
{
    return (struct muster_bytes){s, s ? strlen(s) : 0};
}

#endif
