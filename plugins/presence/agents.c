/*
 * presence/agents.c - the agents of a tenant: the small struct that is kept of each; see presence.h. Its name stands in it, and its session as
 * long as it fits: most are alike in length.
 */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "presence/presence.h"

static bool has_name(const void *agent, const void *name)
{
    return strcmp(((const struct agent *)agent)->name, name) == 0;
}

struct agent *agent_find(const struct tenancy *t, const char *name)
{
    return table_get(&t->agents, hash_bytes(name, strlen(name)), has_name, name);
}

struct agent *agent_add(struct tenancy *t, const char *name, const char *session)
{
    size_t name_size = strlen(name) + 1, session_size = strlen(session) + 1;
    struct agent *a = calloc(1, sizeof *a + name_size + session_size);

    if (!a)
        return NULL;
    a->tenancy = t;
    a->session = a->name + name_size;
    a->session_room = (uint8_t)(session_size - 1);
    memcpy(a->name, name, name_size);
    memcpy(a->session, session, session_size);
    if (table_put(&t->agents, hash_bytes(name, name_size - 1), a))
        return a;
    free(a);
    return NULL;
}

static void forget_session(struct agent *a)
{
    if (a->session != a->name + strlen(a->name) + 1)
        free(a->session);
}

bool agent_set_session(struct agent *a, const char *session)
{
    size_t len = strlen(session);
    char *more = len > a->session_room ? malloc(SESSION_MAX + 1) : a->session;

    if (!more)
        return false;
    if (more != a->session) {
        forget_session(a);
        a->session = more;
        a->session_room = SESSION_MAX;
    }
    memcpy(a->session, session, len + 1);
    return true;
}

static void agent_free(struct agent *a)
{
    forget_session(a);
    free(a);
}

bool agent_next(const struct tenancy *t, size_t *at, struct agent **ret_agent)
{
    void *value;

    if (!table_next(&t->agents, at, &value))
        return false;
    *ret_agent = value;
    return true;
}

void agent_heard(struct agent *a, int64_t recv_ns)
{
    struct presence *p = a->tenancy->p;

    a->heard = true;
    a->beat_ns = p->timer->now(p->host);
    a->beat_wall_ns = a->beat_ns + p->wall_ns;
    death_heard(a, a->beat_ns - recv_ns);
}

void agent_uncount(struct agent *a)
{
    struct tenancy *t = a->tenancy;

    if (a->status)
        t->n_status[a->status]--;
    t->n_suspect -= a->suspect;
}

void agent_end(struct agent *a)
{
    agent_uncount(a);
    death_left(a);
    (void)table_take(&a->tenancy->agents, hash_bytes(a->name, strlen(a->name)), has_name, a->name);
    agent_free(a);
}
