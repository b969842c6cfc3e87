/*
 * core/watchers.h - what watch() of muster.sys/1 made: each watcher, and the events that wait before its lane.
 *
 * Bounds   WATCHERS_MAX_QUEUED events a watcher. Where there are more, all that wait is given up, and a gap told in its place: what
 *          list() says is newer than any of them.
 * Threads  watchers_push() and the like from any thread; a watcher is made, called and ended on its instance's lane.
 * Lock     One, over the list and the queues; never held during a callback.
 */
#ifndef MUSTER_CORE_WATCHERS_H
#define MUSTER_CORE_WATCHERS_H

#include <muster/plugin.h>
#include <stdbool.h>

#include "bus/sys.h"

struct instance;
struct metric;
struct watchers;

enum { WATCHERS_MAX_QUEUED = 8192, WATCHERS_MAX = 16 /* of an instance */ };

int watchers_new(struct metric *gaps, struct watchers **ret_watchers);
void watchers_free(struct watchers *ws); /* accepts NULL */

/* False at first: nobody is told anything. When it becomes true, and when that is said again, all are told a gap. */
void watchers_hear(struct watchers *ws, bool hearing);
void watchers_gap(struct watchers *ws);
/* To those whose lane has the tenant. */
void watchers_push(struct watchers *ws, int kind, const struct muster_tenant *tenant, const struct sys_client *client);
/* True when the instance's lane has the tenant. */
bool watchers_is_of(const struct instance *in, const struct muster_tenant *tenant);

/* MUSTER_EAGAIN: the instance has WATCHERS_MAX. [lane] */
int watchers_add(struct watchers *ws, struct instance *in, muster_connection_fn fn, void *arg, uint64_t *ret_id);
void watchers_remove(struct watchers *ws, struct instance *in, uint64_t id); /* [lane] */
void watchers_forget(struct watchers *ws, struct instance *in);             /* all of the instance. [lane] */

/* Fill what a plugin sees of a connection; borrows from client. */
void watchers_show(const struct sys_client *client, int kind, const struct muster_tenant *tenant, struct muster_connection *out);

#endif
