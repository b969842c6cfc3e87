/*
 * presence/agent.h - an agent as a body. Written as JSON, whatever the encoding of who reads it: reply_json() and the appends turn it into
 * MessagePack where that is asked for.
 *
 * Memory   What is read points into the document it was read from.
 */
#ifndef MUSTER_PRESENCE_AGENT_H
#define MUSTER_PRESENCE_AGENT_H

#include <muster/plugin.h>
#include <stdbool.h>

#include "base/buf.h"

struct presence;
struct tenancy;
struct agent;

/* CAPABILITIES_MAX and LABELS_MAX as in schemas/messages/presence.yaml. SAID_MAX: all that an agent says of itself, together. */
enum { CAPABILITIES_MAX = 64, LABELS_MAX = 64, SAID_MAX = 4096, LABEL_VALUE_MAX = 256, METADATA_DEPTH_MAX = 16 };

/* An agent as a body tells of it: hello, an event, a list, agent_sessions. */
struct said {
    struct muster_agent agent;
    const char *capabilities[CAPABILITIES_MAX];
    struct muster_header labels[LABELS_MAX];
    struct buf metadata;    /* owned: said_done() */
    bool has_metadata;
    int64_t heartbeat_wall_ns; /* 0: not told */
    const char *reason;     /* of an event; NULL: none */
    char field[32];         /* after MUSTER_EINVAL: which field, and why */
    char why[160];
};

/* 0, MUSTER_ENOMEM, or MUSTER_EINVAL with field and why. What is not there is left at its default; agent.status is 0 then. */
int said_read(struct presence *p, const struct muster_value *body, struct said *ret_said);
/* The same of a request. metadata is told inside of lists and maps, up to a message that has an event in a list, and has to fit there. */
int said_ask(struct presence *p, const struct muster_value *body, struct said *ret_said);
void said_done(struct said *said);

/* What happened, after the fields of the agent itself. */
struct told {
    int64_t at_wall_ns;
    uint32_t from;      /* MUSTER_AGENT_*; 0: it was not here */
    const char *reason; /* NULL: none */
};

/* Append the agent as one JSON map. told NULL: as `get` shows it. */
void agent_write(struct buf *b, const char *tenant, const struct muster_agent *agent, int64_t heartbeat_wall_ns, const struct told *told);
/* The same for one that is present, with load and last heartbeat as they are now; change (may be NULL) is shown the copy before it is
 * written. MUSTER_ENOTFOUND: the roster does not have it. */
typedef void (*agent_change_fn)(void *arg, struct muster_agent *agent);
int agent_write_present(struct buf *b, const struct agent *a, const struct told *told, agent_change_fn change, void *arg);

/* "online" … of MUSTER_AGENT_*. */
const char *status_name(uint32_t status);
/* 0: no such word. */
uint32_t status_of(const char *word);

#endif
