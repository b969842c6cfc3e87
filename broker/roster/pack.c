/* One agent in one piece of memory, and what may be one; see pack.h. */
#include "roster/pack.h"

#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "roster/roster.h"

static size_t room_of(const char *s)
{
    return s ? strlen(s) + 1 : 0;
}

static size_t texts_of(const struct muster_agent *a)
{
    size_t n = room_of(a->agent) + room_of(a->session) + room_of(a->name) + room_of(a->task) + a->metadata.len + 1;

    for (uint32_t i = 0; i < a->n_labels; i++)
        n += room_of(a->labels[i].name) + room_of(a->labels[i].value);
    return n;
}

static const char *take_text(char **at, const char *s)
{
    size_t n = room_of(s);
    const char *copy = s ? memcpy(*at, s, n) : NULL;

    *at += n;
    return copy;
}

static void copy_texts(struct pack *p, const struct muster_agent *from, struct muster_header *labels, char *at)
{
    struct muster_agent *a = &p->agent;

    a->agent = take_text(&at, from->agent);
    a->session = take_text(&at, from->session);
    a->name = take_text(&at, from->name);
    a->task = take_text(&at, from->task);
    for (uint32_t i = 0; i < from->n_labels; i++) {
        labels[i].name = take_text(&at, from->labels[i].name);
        labels[i].value = take_text(&at, from->labels[i].value);
    }
    a->labels = labels;
    if (from->metadata.len)
        memcpy(at, from->metadata.data, from->metadata.len);
    at[from->metadata.len] = '\0';
    a->metadata.data = at;
}

struct pack *pack_new(const struct muster_agent *from, const char *const *names, uint32_t n_names)
{
    size_t lists = n_names * sizeof *names + from->n_labels * sizeof *from->labels;
    size_t size = sizeof(struct pack) + lists + texts_of(from);
    struct pack *p = malloc(size);
    struct muster_header *labels;

    if (!p)
        return NULL;
    p->agent = *from;
    p->agent.size = sizeof p->agent;
    p->n_bytes = size;
    p->capabilities = (const char **)(void *)(p + 1);
    if (n_names)
        memcpy(p->capabilities, names, n_names * sizeof *names);
    p->agent.capabilities = p->capabilities;
    p->agent.n_capabilities = n_names;
    labels = (struct muster_header *)(void *)(p->capabilities + n_names);
    copy_texts(p, from, labels, (char *)(labels + from->n_labels));
    return p;
}

static const char *list_fault(const struct muster_agent *a)
{
    if (a->n_capabilities > ROSTER_MAX_LIST || a->n_labels > ROSTER_MAX_LIST)
        return "capabilities, labels: expected at most 64 of each";
    if ((a->n_capabilities && !a->capabilities) || (a->n_labels && !a->labels))
        return "capabilities, labels: a list is NULL";
    for (uint32_t i = 0; i < a->n_capabilities; i++)
        if (!a->capabilities[i])
            return "capabilities: one is NULL";
    for (uint32_t i = 0; i < a->n_labels; i++)
        if (!a->labels[i].name || !a->labels[i].value)
            return "labels: a name or a value is NULL";
    return NULL;
}

const char *roster_fault(const struct muster_agent *a)
{
    const char *fault;
    size_t n;

    if (!a || !MUSTER_HAS(a, started_wall_ns))
        return "size: expected sizeof(struct muster_agent)";
    if (!a->agent || !name_is_legal(a->agent, strlen(a->agent)))
        return "agent: expected a name";
    if (!a->session || strlen(a->session) > ROSTER_MAX_SESSION)
        return "session: expected a text of at most 64 bytes";
    if (a->status < MUSTER_AGENT_ONLINE || a->status > MUSTER_AGENT_AWAY)
        return "status: expected one of MUSTER_AGENT_ONLINE, BUSY, AWAY";
    if (a->metadata.len > ROSTER_MAX_BYTES || (a->metadata.len && !a->metadata.data))
        return "metadata: expected at most 16384 bytes";
    fault = list_fault(a);
    if (fault)
        return fault;
    n = texts_of(a);
    for (uint32_t i = 0; i < a->n_capabilities; i++)
        n += strlen(a->capabilities[i]) + 1;
    return n > ROSTER_MAX_BYTES ? "its texts together: expected at most 16384 bytes" : NULL;
}
