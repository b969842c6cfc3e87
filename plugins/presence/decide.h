/*
 * presence/decide.h - one change of one agent: what was asked for, and the event that it comes to. Private to changes.c, flights.c, answers.c
 * and decide.c.
 */
#ifndef MUSTER_PRESENCE_DECIDE_H
#define MUSTER_PRESENCE_DECIDE_H

#include "base/buf.h"
#include "presence/presence.h"

enum { ASK_HELLO = 1, ASK_STATUS, ASK_BYE, ASK_LEAVE, ASK_SUSPECT, ASK_TRUST, ASK_COUNT, ASKS };

struct change {
    struct change *next;
    int ask;
    const struct muster_msg *msg; /* held; NULL: nobody asked */
    char agent[NAME_MAX_LEN + 1];
    char session[SESSION_MAX + 1]; /* of hello: the new one; of what was asked for about an agent: that one or nothing */
    const char *reason;            /* a literal, or NULL */
    char *replaced;                /* session, owned; NULL: none */
    int64_t since_ns;
    struct buf body;               /* of the event, JSON */
    size_t at, len;                /* the same within the flight's */
    const char *error;             /* the answer, where it is one; NULL: none */
    char field[32], why[160];
    struct claim *claim;           /* answers.c: of a request with a request_id; owned */
    bool looked;                   /* whether it has one */
};

/* Hold the change against what is stored: the kind of event that it is, with c->body; 0: there is nothing to tell, and c->error says
 * whether that is right. */
int decide(struct tenancy *t, struct change *c);
/* answers.c: it was carried out before, under its request_id. */
bool change_is_answered(const struct change *c);

#endif
