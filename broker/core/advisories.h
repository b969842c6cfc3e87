/*
 * core/advisories.h - known weaknesses of nats-server (advisories.nats.io), and which of them a broker's own servers have.
 *
 * Shape    One table. What somebody who looks sees of it: one component of /readyz, degraded while a server that this broker is
 *          connected to is in it (the broker works, so it stays ready), which the log tells once; and `muster doctor`, line by line.
 *          It goes by the version that the server tells: a package whose maker mended an old version looks affected.
 * Threads  The table: any. struct advisories: advisories_on_link() on the threads of the links, one lock.
 */
#ifndef MUSTER_CORE_ADVISORIES_H
#define MUSTER_CORE_ADVISORIES_H

#include <stdbool.h>
#include <stddef.h>

#include "bus/bus.h"

enum {
    ADVISORY_OPEN,     /* whoever reaches the port or has a login may use it; nothing of Muster's stands before it */
    ADVISORY_OPERATOR, /* the same, in operator mode only */
    ADVISORY_LISTENER, /* with a listener or an option that `muster nats-config` does not write */
    ADVISORY_HELD,     /* what Muster grants keeps agents from it */
};
enum { ADVISORY_RANGES = 3 };

struct advisory {
    const char *id, *what;
    int when;             /* ADVISORY_… */
    const char *answer;   /* what Muster does about it, or what is left to do */
    struct {
        struct bus_version from, fixed; /* a fixed of 0.0.0 ends the ranges */
    } ranges[ADVISORY_RANGES];
};

/* The first after `after` (NULL: the first of all) that a server of this version has; NULL: no further one. Worst first. */
const struct advisory *advisory_next(const struct bus_version *version, const struct advisory *after);
/* True when nothing that an installation by `muster nats-config` has, or that its permissions grant, stands before it. */
bool advisory_is_open(const struct advisory *advisory, bool is_static);

struct broker;
struct advisories;
int advisories_new(struct broker *broker, struct advisories **ret_advisories);
/* Called after the bus was closed, so that no link speaks any more; accepts NULL. */
void advisories_free(struct advisories *advisories);
/* A link has come up: look at its server. */
void advisories_on_link(struct advisories *advisories, int link);

#endif
