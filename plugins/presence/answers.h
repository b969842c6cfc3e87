/*
 * presence/answers.h - what those are told who asked for a change; and the first answer again, where a request_id came before. Private to
 * changes.c, flights.c and answers.c.
 */
#ifndef MUSTER_PRESENCE_ANSWERS_H
#define MUSTER_PRESENCE_ANSWERS_H

#include "presence/decide.h"

/* Before decide(): true while PostgreSQL is asked whether this request was answered before. changes_soon() follows. */
bool answers_wait(struct tenancy *t, struct change *c);
/* It is done, or c->error says why it is not: tell who asked. The change is freed. */
void change_finish(struct tenancy *t, struct change *c);
/* The change is freed without an answer. */
void claim_end(struct claim *claim);

/* ---- changes.c ---- */

void change_free(struct tenancy *t, struct change *c);
void changes_soon(struct tenancy *t);

#endif
