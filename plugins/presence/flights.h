/*
 * presence/flights.h - events on their way. Private to changes.c and flights.c.
 */
#ifndef MUSTER_PRESENCE_FLIGHTS_H
#define MUSTER_PRESENCE_FLIGHTS_H

#include "presence/decide.h"

/* Append n changes of one kind. What could not be sent waits again. */
int flights_send(struct tenancy *t, int kind, struct change *list, size_t n);
/* Nothing is under way any more: whether it is stored, the stream says. Their changes, in order. */
struct change *flights_end(struct tenancy *t);

/* ---- changes.c ---- */

/* A list of changes in front of those that wait. */
void changes_put_back(struct tenancy *t, struct change *list);

#endif
