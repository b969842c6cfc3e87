/*
 * presence/session_verbs.c - the service session: any broker answers, from PostgreSQL.
 */
#include <stdlib.h>
#include <string.h>

#include "presence/presence.h"
#include "presence/request.h"

/* As every list; the events of presence do not go on from here, so the position is none. */
static const char active_sql[] =
    "SELECT CASE WHEN o ? 'ok' THEN jsonb_set(o, '{ok}', o->'ok' || '{\"epoch\": 0, \"seq\": 0}') ELSE o END"
    " FROM muster.call('session_active', $1, $2, $3::jsonb) AS o";
/* What is asked; the message is held until PostgreSQL has answered. */
struct question {
    struct presence *p;
    const struct muster_msg *msg;
    char digest[REQUEST_DIGEST_SIZE];
    struct muster_writer *args;
    const char *request_id;           /* NULL: none; in doc */
    struct muster_value *doc;
};

static void question_free(struct question *q)
{
    const struct presence *p = q->p;

    if (q->args)
        p->codec->writer_free(q->args);
    if (q->doc)
        p->codec->free_doc(q->doc);
    if (q->msg)
        p->bus->drop(p->host, q->msg);
    free(q);
}

static void on_outcome(void *arg, const struct muster_sql_result *result)
{
    struct question *q = arg;
    const struct presence *p = q->p;

    if (!result->code) {
        request_tell(p, q->msg, result->n_rows ? result->get(result, 0, 0) : NULL);
    } else {
        p->host->log(p->host, MUSTER_LOG_ERROR, "session.%s: %s", q->msg->verb, result->error);
        (void)p->bus->reply_error(p->host, q->msg->request, request_code(result->code), NULL, "the database did not answer");
    }
    question_free(q);
}

/* ---- the question ------------------------------------------------------------------------------------------------------------- */

static bool may_any(const struct muster_msg *msg)
{
    return msg->role == MUSTER_ROLE_HUMAN || msg->role == MUSTER_ROLE_ADMIN || msg->role == MUSTER_ROLE_OPERATOR;
}

/* The body in JSON, with what the SQL function must know beyond it. */
static int write_args(struct question *q)
{
    const struct muster_codec *codec = q->p->codec;
    size_t n = codec->count(q->doc), len;
    bool limited = codec->get(q->doc, "limit");
    int err = codec->writer_new(q->p->host, MUSTER_JSON, &q->args);

    if (err)
        return err;
    codec->put_map(q->args, n + 1 + !limited);
    codec->put_str(q->args, "any", 3);
    codec->put_bool(q->args, may_any(q->msg));
    if (!limited) {
        codec->put_str(q->args, "limit", 5);
        codec->put_int(q->args, 100);
    }
    for (size_t i = 0; i < n; i++) {
        const char *key;
        const struct muster_value *value = codec->key(q->doc, i, &key, &len);

        codec->put_str(q->args, key, len);
        codec->put_value(q->args, value);
    }
    return 0;
}

static int ask(struct question *q)
{
    struct presence *p = q->p;
    const struct muster_msg *msg = q->msg;
    bool reads = strcmp(msg->verb, "active") == 0;
    struct muster_bytes args;
    int err = p->codec->bytes(q->args, &args);

    if (err)
        return err;
    if (reads)
        return p->death.sql->exec(p->host, p->death.active, msg->tenant, NULL, 3,
                                  (struct muster_bytes[]){request_param(p->tenants->name(msg->tenant)), request_param(msg->agent), args}, on_outcome, q);
    return p->death.sql->exec(p->host, strcmp(msg->verb, "register") == 0 ? p->death.enrol : p->death.set_status, msg->tenant, msg->agent, 5,
                              (struct muster_bytes[]){request_param(p->tenants->name(msg->tenant)), request_param(msg->agent), request_param(q->request_id),
                                                      request_param(q->digest), args},
                              on_outcome, q);
}

static int prepare(struct question *q, const struct muster_msg *msg)
{
    const struct presence *p = q->p;
    int err = p->bus->hold(p->host, msg, &q->msg);

    if (!err)
        err = p->codec->decode(p->host, q->msg->encoding, q->msg->payload, &q->doc);
    if (!err)
        err = write_args(q);
    if (!err)
        q->request_id = request_text(p, q->doc, "request_id");
    return err ? err : request_digest(q->msg, q->digest);
}

static int on_session(void *self, const struct muster_msg *msg)
{
    struct question *q;
    int err;

    if (!msg->request || !msg->agent)
        return 0;
    q = calloc(1, sizeof *q);
    if (!q)
        return MUSTER_ENOMEM;
    q->p = self;
    err = prepare(q, msg);
    if (!err)
        err = ask(q);
    if (!err)
        return 0;
    if (q->msg) /* held: its answer is ours to give */
        (void)q->p->bus->reply_error(q->p->host, q->msg->request, request_code(err), NULL, "no room for the request, or the database is away");
    err = q->msg ? 0 : err;
    question_free(q);
    return err;
}

int session_verbs_prepare(struct presence *p)
{
    const struct muster_sql *sql = p->death.sql;
    int err = sql->prepare(p->host, "session_register", MUSTER_SQL_WRITE,
                           "SELECT muster.once($1, $2, 'session.register', $3, $4::bytea, 'session_register', $5::jsonb)", &p->death.enrol);

    if (!err)
        err = sql->prepare(p->host, "session_status", MUSTER_SQL_WRITE,
                           "SELECT muster.once($1, $2, 'session.status', $3, $4::bytea, 'session_status', $5::jsonb)", &p->death.set_status);
    return err ? err : sql->prepare(p->host, "session_active", MUSTER_SQL_READ, active_sql,
                                    &p->death.active);
}

int session_verbs_start(struct presence *p)
{
    const struct muster_subscription sub = {.size = sizeof sub, .subject = "rpc.*.session.*", .max_msgs = 4096, .max_bytes = 8 << 20,
                                            .queue = 1, .overflow = MUSTER_OVERFLOW_REJECT, .fn = on_session};
    uint64_t id;

    return p->bus->subscribe(p->host, &sub, &id);
}
