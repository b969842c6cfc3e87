/*
 * core/connections.h - who connects to NATS and who goes, from the server's own events in the system account: what stands behind
 * watch() of muster.sys/1. Who is told is core/watchers.h's; core/servers.h notices a server that died with its clients.
 *
 * Shape    Made where the configuration has a login in the system account. The account of the agents is learned by asking the server who BUS_LIVE is;
 *          then its CONNECT and DISCONNECT are subscribed to, and MUSTER_SYS_GAP tells the watchers that events come.
 * Bounds   CONNECTIONS_MAX_MSGS events before the core lane. What comes meanwhile is lost, and a gap told in its place.
 * Threads  Events are read on the core lane and handed to the watchers there. [core] the core lane.
 * Lock     One, over what the lanes of instances ask; nothing is called while it is held.
 */
#ifndef MUSTER_CORE_CONNECTIONS_H
#define MUSTER_CORE_CONNECTIONS_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>

#include "bus/bus.h"
#include "bus/sys.h"
#include "core/watchers.h"

struct broker;
struct connections;
struct instance;

enum { CONNECTIONS_MAX_MSGS = 16384, CONNECTIONS_MAX_BYTES = 32 << 20 };
enum { CONNECTIONS_ACCOUNT_SIZE = 256 };

/* Whether the configuration has what BUS_SYSTEM needs. MUSTER_EACCES: no login; MUSTER_EINVAL: its file cannot be read. */
int connections_may(const struct broker *broker, char why[BUS_WHY_SIZE]);
int connections_new(struct broker *broker, struct connections **ret_connections); /* before the lanes run */
void connections_free(struct connections *c);                                     /* accepts NULL, as the next three do */
int connections_open(struct connections *c);                                      /* [core] */
void connections_close(struct connections *c);                                    /* [core] */
void connections_tenants_changed(struct connections *c);                          /* [core] */
/* A link came or went; reason says why it is away. Any thread. */
void connections_on_link(struct connections *c, int link, bool up, const char *reason);

/* Have fn called for each client that connects, also of tenants that are not known. Before connections_open(); fn runs on the core lane. */
void connections_on_connect(struct connections *c, sys_client_fn fn, void *arg);
/* The same for each that has gone. */
void connections_on_gone(struct connections *c, sys_client_fn fn, void *arg);
struct feed *connections_watchers(struct connections *c);
/* Copy the agents' account. MUSTER_ELINK: it is not known now, because a link is away. [any] */
int connections_account(struct connections *c, char out[CONNECTIONS_ACCOUNT_SIZE]);
/* The tenant of a connection that may be shown to this instance, or NULL. [any] */
const struct muster_tenant *connections_tenant(struct connections *c, const struct instance *in, const struct sys_client *client);

#endif
