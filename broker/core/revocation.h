/*
 * core/revocation.h - cuts the connections of names that may not speak any more, where servers can be told to (nats-server 2.10).
 *
 * Shape    A name is told with revocation_cut(); then all connections are listed (core/listing.h), and those of such names kicked. The
 *          names are kept: a connection that is made under one later, because a server has not learned of it yet, is kicked as it comes.
 * Bounds   REVOCATION_MAX names, of which the first give way; REVOCATION_KICKS at a time. What finds no room is done by the next listing.
 * Threads  The core lane, for every call but new and free.
 */
#ifndef MUSTER_CORE_REVOCATION_H
#define MUSTER_CORE_REVOCATION_H

#include <stdbool.h>
#include <stdint.h>

struct broker;
struct revocation;
struct sys_client;

enum { REVOCATION_MAX = 10000, REVOCATION_KICKS = 256 };

int revocation_new(struct broker *broker, struct revocation **ret_revocation);
void revocation_free(struct revocation *r); /* accepts NULL, as the others do */
int revocation_open(struct revocation *r);
void revocation_close(struct revocation *r);
/* Cut who is connected under this name; or let it be, because it holds again. */
void revocation_cut(struct revocation *r, const char *tenant, const char *agent);
void revocation_lift(struct revocation *r, const char *tenant, const char *agent);
/* Whoever connects under this name is cut. */
bool revocation_is_cut(const struct revocation *r, const char *tenant, const char *agent);
/* The credentials of a name were made anew: cut who connected under it before that time, by the clocks of the servers. */
void revocation_cut_before(struct revocation *r, const char *tenant, const char *agent, int64_t wall_ns);
/* Somebody has connected. */
void revocation_saw(struct revocation *r, const struct sys_client *client);

#endif
