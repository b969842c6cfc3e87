/*
 * What is stored takes effect: on the agents that presence keeps, and on the roster.
 *
 * An event has all of the agent, and its session says since when it runs; what is of an older session than the one known is passed over.
 * So a run of events can be applied a second time, from any point on.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "presence/agent.h"
#include "presence/presence.h"

static const uint32_t roster_kinds[KINDS] = {
    [KIND_JOIN] = MUSTER_ROSTER_STATUS, /* of a session that is known already: a list tells it again */
    [KIND_STATUS] = MUSTER_ROSTER_STATUS,
    [KIND_SUSPECT] = MUSTER_ROSTER_SUSPECT,
};

static uint64_t task_digest(const struct said *said)
{
    const char *task = said->agent.task;

    return task ? hash_bytes(task, strlen(task)) | 1 : 0;
}

/* A session that is new here: what is known of the one before says nothing of it. */
static void begin_session(struct agent *a, const struct said *said)
{
    a->started_wall_ns = said->agent.started_wall_ns;
    a->heard = false;
    a->beat_digest = 0;
    a->beat_wall_ns = 0;
    a->beat_ns = a->task_ns = a->tenancy->p->timer->now(a->tenancy->p->host);
}

static void take_state(struct agent *a, const struct said *said)
{
    uint64_t task = task_digest(said);

    if (task != a->task_digest || said->agent.status != a->status)
        a->task_ns = a->tenancy->p->timer->now(a->tenancy->p->host);
    agent_uncount(a);
    a->task_digest = task;
    a->status = (uint8_t)said->agent.status;
    a->suspect = said->agent.flags & MUSTER_AGENT_SUSPECT;
    a->tenancy->n_status[a->status]++;
    a->tenancy->n_suspect += a->suspect;
    a->load = said->agent.load;
    a->load_put = (float)a->load;
    if (said->heartbeat_wall_ns > a->beat_wall_ns)
        a->beat_wall_ns = said->heartbeat_wall_ns;
}

static bool is_whole(const struct said *said)
{
    const struct muster_agent *a = &said->agent;

    return a->agent && name_is_legal(a->agent, strlen(a->agent)) && a->session && strlen(a->session) <= SESSION_MAX && a->status;
}

struct agent *apply_present(struct tenancy *t, int kind, const struct said *said)
{
    struct agent *a = is_whole(said) ? agent_find(t, said->agent.agent) : NULL;
    bool is_new = !a, replaces;
    int err;

    if (!is_whole(said) || (a && a->started_wall_ns > said->agent.started_wall_ns))
        return NULL;
    if (is_new)
        a = agent_add(t, said->agent.agent, said->agent.session);
    if (!a)
        return NULL;
    replaces = !is_new && strcmp(a->session, said->agent.session) != 0;
    if (replaces && !agent_set_session(a, said->agent.session))
        return NULL;
    if (is_new || replaces)
        begin_session(a, said);
    take_state(a, said);
    err = t->p->roster->put(t->p->host, t->tenant, is_new ? MUSTER_ROSTER_JOIN : replaces ? MUSTER_ROSTER_REPLACED : roster_kinds[kind],
                            said->reason, &said->agent);
    if (err)
        t->p->host->log(t->p->host, MUSTER_LOG_ERROR, "agent %s of tenant %s is not in the roster of this broker (error %d)", a->name, t->name, err);
    if (is_new || replaces)
        death_joined(a);
    else
        death_changed(a);
    return a;
}

void apply_leave(struct tenancy *t, const char *agent, int64_t started_wall_ns, const char *reason)
{
    struct agent *a = agent_find(t, agent);

    if (!a || a->started_wall_ns > started_wall_ns)
        return;
    (void)t->p->roster->remove(t->p->host, t->tenant, agent, reason); /* it may be missing there for want of memory */
    agent_end(a); /* agent may be its name */
}

/* The holder before may not have come to it. */
static void mirror(struct tenancy *t, int kind, const struct said *said, const struct muster_value *body)
{
    struct presence *p = t->p;
    const struct agent *before = agent_find(t, said->agent.agent);
    struct session_event event = {.tenancy = t,
                                  .kind = kind,
                                  .agent = said->agent.agent,
                                  .session = said->agent.session,
                                  .replaced = before && strcmp(before->session, said->agent.session) != 0 ? before->session : NULL,
                                  .reason = said->reason,
                                  .epoch = t->shard->epoch};
    struct muster_writer *w;

    if (before && before->started_wall_ns > said->agent.started_wall_ns)
        return;
    if (p->codec->writer_new(p->host, MUSTER_JSON, &w) != 0)
        return;
    p->codec->put_value(w, body);
    if (p->codec->bytes(w, &event.body) == 0)
        sessions_stored(p, &event);
    p->codec->writer_free(w);
}

static void apply_one(struct tenancy *t, int kind, const struct muster_value *body)
{
    struct said said;

    if (said_read(t->p, body, &said) != 0)
        return;
    if (t->shard->state == SHARD_TAIL && is_whole(&said))
        mirror(t, kind, &said, body);
    if (kind == KIND_LEAVE && said.agent.agent)
        apply_leave(t, said.agent.agent, said.agent.started_wall_ns, said.reason);
    else
        (void)apply_present(t, kind, &said);
    said_done(&said);
}

void apply_event(struct tenancy *t, int kind, const struct muster_value *body)
{
    const struct muster_codec *codec = t->p->codec;
    const struct muster_value *many = codec->get(body, "agents");

    if (kind == KIND_COUNT)
        return;
    if (!many) {
        apply_one(t, kind, body);
        return;
    }
    for (size_t i = 0; i < codec->count(many); i++)
        apply_one(t, kind, codec->at(many, i));
}

void agent_restore(struct shard *s, const struct muster_tenant *tenant, struct muster_bytes body)
{
    struct presence *p = s->p;
    struct tenancy *t = tenancy_of(p, tenant);
    struct muster_value *doc;
    struct said said;

    if (!t || t->shard != s || p->codec->decode(p->host, MUSTER_JSON, body, &doc) != 0)
        return;
    if (said_read(p, doc, &said) == 0) {
        if (said.agent.agent && !agent_find(t, said.agent.agent))
            (void)apply_present(t, KIND_STATUS, &said);
        said_done(&said);
    }
    p->codec->free_doc(doc);
}

/* ---- messages ------------------------------------------------------------------------------------------------------------------- */

static const char *const kind_words[KINDS] = {
    [KIND_JOIN] = "join", [KIND_LEAVE] = "leave", [KIND_STATUS] = "status", [KIND_SUSPECT] = "suspect", [KIND_COUNT] = "count"};

const char *kind_name(int kind)
{
    return kind_words[kind];
}

static int kind_of(const char *word, size_t len)
{
    for (int i = KIND_JOIN; i < KINDS; i++)
        if (strlen(kind_words[i]) == len && memcmp(word, kind_words[i], len) == 0)
            return i;
    return 0;
}

uint64_t header_number(const struct muster_msg *msg, const char *name)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < msg->n_headers; i++)
        if (strcmp(msg->headers[i].name, name) == 0)
            n = strtoull(msg->headers[i].value, NULL, 10);
    return n;
}

bool place_read(const struct muster_msg *msg, struct event_place *ret_place)
{
    const char *token = strchr(msg->subject, '.'), *end;

    token = token ? strchr(token + 1, '.') : NULL; /* the third: after "evt.presence" or "pres.3" */
    end = token ? strchr(token + 1, '.') : NULL;
    if (!end)
        return false;
    *ret_place = (struct event_place){
        .epoch = header_number(msg, "Muster-Epoch"),
        .seq = header_number(msg, "Muster-Seq"),
        .stream_seq = msg->seq ? msg->seq : header_number(msg, "Nats-Sequence"),
        .kind = kind_of(token + 1, (size_t)(end - token - 1)),
    };
    return ret_place->kind && ret_place->seq;
}

void apply_message(struct tenancy *t, const struct event_place *place, const struct muster_msg *msg)
{
    struct muster_value *body;

    t->epoch = place->epoch;
    t->seq = place->seq;
    if (place->kind == KIND_COUNT)
        return;
    if (t->p->codec->decode(t->p->host, msg->encoding, msg->payload, &body) != 0) {
        t->p->host->log(t->p->host, MUSTER_LOG_ERROR, "event %s of tenant %s cannot be read", msg->subject, t->name);
        return;
    }
    apply_event(t, place->kind, body);
    t->p->codec->free_doc(body);
}

/* Only what the holder has appended itself shuts out those before it: until then several of them may come late, one after another. */
bool place_is_late(const struct tenancy *t, const struct event_place *place)
{
    return place->epoch < t->epoch && place->stream_seq > t->covered;
}

void apply_late(struct tenancy *t, const struct event_place *place, const struct muster_msg *msg)
{
    struct event_place here = *place;

    here.epoch = t->epoch;
    here.seq = t->seq + 1;
    apply_message(t, &here, msg);
}
