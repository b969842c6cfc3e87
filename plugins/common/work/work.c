/* A service whose verbs are functions of the database; see work.h. */
#include "common/work/work.h"

#include <stdio.h>
#include <string.h>

#include "common/metric_list.h"
#include "common/work/ask.h"
#include "common/work/storable.h"

enum { ASKED_MAX = 16384, ASKED_BYTES = 64 << 20 };

static const char once_sql[] = "SELECT muster.once($1, $2, $3, $4, $5::bytea, $6, $7::jsonb)";

/* What `muster` asks for its operator it asks with the brokers' own login, under a name that no plugin has. */
const char *work_role(const struct muster_msg *msg)
{
    static const char *const words[] = {"none", "agent", "observer", "user", "human", "admin", "operator", "plugin"};
    uint32_t role = msg->agent && strcmp(msg->agent, "_p_muster") == 0 ? MUSTER_ROLE_OPERATOR : msg->role;

    return role < sizeof words / sizeof *words ? words[role] : "none";
}

/* ---- requests ----------------------------------------------------------------------------------------------------------- */

static const struct work_verb *verb_of(const struct work *w, const char *name)
{
    for (size_t i = 0; i < w->n_verbs; i++)
        if (strcmp(w->verbs[i].verb, name) == 0)
            return &w->verbs[i];
    return NULL;
}

static bool is_storable(struct ask *a)
{
    char field[STORABLE_FIELD_SIZE], why[STORABLE_WHY_SIZE];

    if (storable(a->args, field, why))
        return true;
    ask_error(a, "invalid_argument", field, "%s: %s", field, why);
    return false;
}

static int take(struct work *w, const struct muster_msg *msg, const struct work_verb *verb, const char *args_json)
{
    struct ask *a;
    int err = verb && msg->agent ? ask_new(w, msg, args_json, &a) : MUSTER_ENOTFOUND;

    if (err)
        return err;
    a->verb = verb;
    w->metrics->add(w->host, w->m_asked, verb->verb, 1);
    if (!(verb->flags & WORK_READS) && !is_storable(a))
        return 0;
    if (!args_json && verb->look && !verb->look(a))
        return 0;
    if (args_json)
        ask_run_with(a, args_json);
    else
        ask_run(a);
    return 0;
}

int work_answer(struct work *w, const struct muster_msg *msg, const char *verb, const char *args_json)
{
    return take(w, msg, verb_of(w, verb), args_json);
}

/* ---- the service -------------------------------------------------------------------------------------------------------- */

static int find_services(struct work *w)
{
    const struct {
        const char *id;
        const void **table;
    } wanted[] = {
        {MUSTER_BUS, (const void **)&w->bus},       {MUSTER_SQL, (const void **)&w->sql},         {MUSTER_STREAM, (const void **)&w->stream},
        {MUSTER_TIMER, (const void **)&w->timer},   {MUSTER_TENANT, (const void **)&w->tenants},  {MUSTER_METRICS, (const void **)&w->metrics},
    };
    int err = 0;

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && !err; i++)
        err = w->host->service(w->host, wanted[i].id, wanted[i].table);
    return err;
}

static int make_metrics(struct work *w)
{
    const struct wanted_metric wanted[] = {
        {MUSTER_COUNTER, "asked_total", "Requests.", "verb", &w->m_asked},
        {MUSTER_COUNTER, "refused_total", "Requests that were answered with an error.", "code", &w->m_refused},
        {MUSTER_COUNTER, "swept_total", "What was done without anybody asking, such as deadlines.", "job", &w->m_swept},
    };

    return metric_list_make(w->host, w->metrics, wanted, sizeof wanted / sizeof *wanted);
}

static int prepare(struct work *w, size_t i)
{
    char statement[128];

    (void)snprintf(statement, sizeof statement, "SELECT muster.%s($1, $2, $3::jsonb)", w->verbs[i].function);
    return w->sql->prepare(w->host, w->verbs[i].function, w->verbs[i].flags & WORK_READS ? MUSTER_SQL_READ : MUSTER_SQL_WRITE, statement,
                           &w->stmts[i]);
}

static int prepare_all(struct work *w)
{
    int err = 0;

    for (size_t i = 0; i < w->n_verbs && !err; i++)
        err = w->verbs[i].function ? prepare(w, i) : 0;
    return err;
}

int work_create(struct work *w)
{
    int err = w->n_verbs <= WORK_VERBS_MAX ? find_services(w) : MUSTER_EINVAL;

    w->unsent_end = &w->unsent;
    w->again_end = &w->again;
    if (!err)
        err = make_metrics(w);
    if (!err)
        err = w->sql->prepare(w->host, "once", MUSTER_SQL_WRITE, once_sql, &w->once);
    return err ? err : prepare_all(w);
}

int work_also(struct work *w, struct work *other)
{
    struct work own = *other;

    *other = *w;
    other->service = own.service;
    other->verbs = own.verbs;
    other->n_verbs = own.n_verbs;
    other->unsent = other->again = NULL;
    other->unsent_end = &other->unsent;
    other->again_end = &other->again;
    w->also = other;
    return other->n_verbs <= WORK_VERBS_MAX ? prepare_all(other) : MUSTER_EINVAL;
}

/* The instance begins with its struct work. */
static int on_request(void *self, const struct muster_msg *msg)
{
    struct work *w = self;

    while (w->also && strcmp(w->service, msg->service) != 0)
        w = w->also;
    return take(w, msg, verb_of(w, msg->verb), NULL);
}

int work_start(struct work *w)
{
    char subject[80];
    const struct muster_subscription sub = {.size = sizeof sub, .subject = subject, .queue = 1, .overflow = MUSTER_OVERFLOW_REJECT,
                                            .max_msgs = ASKED_MAX, .max_bytes = ASKED_BYTES, .fn = on_request};
    uint64_t id;

    (void)snprintf(subject, sizeof subject, "rpc.*.%s.*", w->service);
    return w->bus->subscribe(w->host, &sub, &id);
}
