/*
 * help/known.h - whom the open requests are about, as far as this broker has heard: so that messages and departures of others cost nothing. It
 * decides nothing: the database does.
 *
 * Bounds   65,536 requests; of more nothing is known, and their share_knowledge is a message like others.
 * Threads  The lane.
 */
#ifndef MUSTER_HELP_KNOWN_H
#define MUSTER_HELP_KNOWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/table.h"

struct known {
    struct table requests, agents;
    uint32_t round;
};

enum { KNOWN_REQUESTS_MAX = 65536, KNOWN_NAMES_MAX = 256 };

void known_add(struct known *k, const char *tenant, const char *help_id, const char *const *names, size_t n);
void known_forget(struct known *k, const char *tenant, const char *help_id);
/* All that is open is told between the two: what nobody tells of twice has ended unheard, and is forgotten. Once may be too early: it was heard
 * before it could be read. */
void known_begin(struct known *k);
void known_end(struct known *k);
bool known_has(const struct known *k, const char *tenant, const char *agent);
void known_done(struct known *k);

#endif
