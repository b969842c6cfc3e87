/* One change of one agent, held against what is stored; see decide.h. */
#include "presence/decide.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "presence/agent.h"

static int fail(struct change *c, const char *error, const char *field, const char *why)
{
    c->error = error;
    (void)snprintf(c->field, sizeof c->field, "%s", field);
    (void)snprintf(c->why, sizeof c->why, "%s", why);
    return 0;
}

static int refuse(struct change *c, int err, const struct said *said)
{
    return err == MUSTER_EINVAL ? fail(c, "invalid_argument", said->field, said->why)
                                : fail(c, "resource_exhausted", "", "the broker has no memory for this; try again");
}

static int written(struct change *c, int err, int kind)
{
    if (err || buf_failed(&c->body))
        return fail(c, "resource_exhausted", "", "the broker has no memory for this; try again");
    return kind;
}

static struct told told_now(const struct tenancy *t, uint32_t from, const char *reason)
{
    return (struct told){.at_wall_ns = t->p->timer->wall_now(t->p->host), .from = from, .reason = reason};
}

/* ---- hello ---------------------------------------------------------------------------------------------------------------------- */

static int join(struct tenancy *t, struct change *c, const struct agent *before, const struct said *said)
{
    struct muster_agent new = said->agent;
    struct told told = told_now(t, before ? before->status : 0, NULL);

    new.agent = c->agent;
    new.session = c->session;
    new.status = MUSTER_AGENT_ONLINE;
    new.flags &= ~(uint32_t)MUSTER_AGENT_SUSPECT;
    new.started_wall_ns = told.at_wall_ns;
    if (before && new.started_wall_ns <= before->started_wall_ns) /* the wall clock was set back */
        new.started_wall_ns = before->started_wall_ns + 1000;
    free(c->replaced);
    c->replaced = before ? strdup(before->session) : NULL;
    agent_write(&c->body, t->name, &new, told.at_wall_ns, &told);
    return written(c, before && !c->replaced ? MUSTER_ENOMEM : 0, KIND_JOIN);
}

/* The same session once more: what hello says is new, what status said stays. */
static void refreshed(void *arg, struct muster_agent *agent)
{
    const struct said *said = arg;

    agent->name = said->agent.name;
    agent->capabilities = said->agent.capabilities;
    agent->n_capabilities = said->agent.n_capabilities;
    agent->labels = said->agent.labels;
    agent->n_labels = said->agent.n_labels;
    agent->capacity = said->agent.capacity;
    agent->metadata = said->agent.metadata;
    agent->flags = (agent->flags & MUSTER_AGENT_SUSPECT) | said->agent.flags; /* a word of life, but none of its task */
}

/* What the event would say is what is known. */
static bool is_same(const struct agent *a, agent_change_fn change, void *arg)
{
    struct buf before = {0}, after = {0};
    bool same = agent_write_present(&before, a, NULL, NULL, NULL) == 0 && agent_write_present(&after, a, NULL, change, arg) == 0 &&
                before.len == after.len && !buf_failed(&before) && memcmp(before.data, after.data, before.len) == 0;

    buf_done(&before);
    buf_done(&after);
    return same;
}

static int changed(struct tenancy *t, struct change *c, const struct agent *a, agent_change_fn change, void *arg)
{
    struct told told = told_now(t, a->status, NULL);

    if (is_same(a, change, arg))
        return 0;
    return written(c, agent_write_present(&c->body, a, &told, change, arg), KIND_STATUS);
}

static int hello(struct tenancy *t, struct change *c, const struct said *said)
{
    const struct agent *a = agent_find(t, c->agent);

    if (said->agent.session)
        (void)snprintf(c->session, sizeof c->session, "%s", said->agent.session);
    else if (!*c->session)
        clock_uuid7(c->session);
    return a && strcmp(a->session, c->session) == 0 ? changed(t, c, a, refreshed, (void *)said) : join(t, c, a, said);
}

/* ---- status --------------------------------------------------------------------------------------------------------------------- */

static void restated(void *arg, struct muster_agent *agent)
{
    const struct said *said = arg;

    agent->status = said->agent.status;
    agent->task = said->agent.task;
    agent->flags &= ~(uint32_t)MUSTER_AGENT_SUSPECT;
    if (!isnan(said->agent.load))
        agent->load = said->agent.load;
    if (said->has_metadata)
        agent->metadata = said->agent.metadata;
}

static int status(struct tenancy *t, struct change *c, const struct said *said)
{
    const struct agent *a = agent_find(t, c->agent);

    if (!a)
        return fail(c, "failed_precondition", "", "this agent is not present: say hello first");
    (void)snprintf(c->session, sizeof c->session, "%s", a->session);
    return changed(t, c, a, restated, (void *)said);
}

/* ---- the end -------------------------------------------------------------------------------------------------------------------- */

static int leave(struct tenancy *t, struct change *c, const struct agent *a, const char *reason)
{
    struct told told = told_now(t, a->status, reason);

    c->reason = reason;
    (void)snprintf(c->session, sizeof c->session, "%s", a->session);
    return written(c, agent_write_present(&c->body, a, &told, NULL, NULL), KIND_LEAVE);
}

static int bye(struct tenancy *t, struct change *c, const struct said *said)
{
    const struct agent *a = agent_find(t, c->agent);

    if (!a || (said->agent.session && strcmp(said->agent.session, a->session) != 0))
        return 0;
    return leave(t, c, a, "bye");
}

/* ---- what death.h asks for ------------------------------------------------------------------------------------------------------ */

static void suspected(void *arg, struct muster_agent *agent)
{
    (void)arg;
    agent->flags |= MUSTER_AGENT_SUSPECT;
}

static void trusted(void *arg, struct muster_agent *agent)
{
    (void)arg;
    agent->flags &= ~(uint32_t)MUSTER_AGENT_SUSPECT;
}

static int about_agent(struct tenancy *t, struct change *c)
{
    const struct agent *a = agent_find(t, c->agent);
    struct told told = told_now(t, a ? a->status : 0, c->reason);

    if (!a || strcmp(a->session, c->session) != 0)
        return 0; /* another incarnation: not this one's business */
    if (c->ask == ASK_LEAVE)
        return death_still(a, c->reason) ? leave(t, c, a, c->reason) : 0;
    if (c->ask == ASK_TRUST)
        return a->suspect ? written(c, agent_write_present(&c->body, a, &told, trusted, NULL), KIND_STATUS) : 0;
    return a->suspect ? 0 : written(c, agent_write_present(&c->body, a, &told, suspected, NULL), KIND_SUSPECT);
}

/* ---- all ------------------------------------------------------------------------------------------------------------------------ */

static int requested(struct tenancy *t, struct change *c, const struct muster_value *body)
{
    struct said said;
    int err = said_ask(t->p, body, &said), kind;

    if (err)
        return refuse(c, err, &said);
    kind = c->ask == ASK_HELLO ? hello(t, c, &said) : c->ask == ASK_STATUS ? status(t, c, &said) : bye(t, c, &said);
    said_done(&said);
    return kind;
}

static int of_message(struct tenancy *t, struct change *c)
{
    struct muster_value *body;
    int err = t->p->codec->decode(t->p->host, c->msg->encoding, c->msg->payload, &body), kind;

    if (err)
        return fail(c, "invalid_argument", "", "the body cannot be read");
    kind = requested(t, c, body);
    t->p->codec->free_doc(body);
    return kind;
}

int decide(struct tenancy *t, struct change *c)
{
    if (c->error || change_is_answered(c))
        return 0;
    buf_clear(&c->body);
    if (c->msg)
        return of_message(t, c);
    if (c->ask != ASK_COUNT)
        return about_agent(t, c);
    count_write(t, &c->body);
    return written(c, 0, KIND_COUNT);
}
