/*
 * core/watchers.h - what watch() of muster.sys/1 tells: connections of agents, gaps, and servers that are lost or back.
 *
 * Old      A plugin that was compiled against an ABI before 0.4 is told a gap where a server is lost or back.
 * Threads  Telling on any thread, as core/feed.h.
 */
#ifndef MUSTER_CORE_WATCHERS_H
#define MUSTER_CORE_WATCHERS_H

#include <muster/plugin.h>

#include "bus/sys.h"
#include "core/feed.h"

struct metric;

enum { WATCHERS_MAX_QUEUED = 8192 };

int watchers_new(struct metric *gaps, struct feed **ret_watchers);
void watchers_push(struct feed *watchers, int kind, const struct muster_tenant *tenant, const struct sys_client *client);
/* kind: MUSTER_SYS_SERVER_LOST or _BACK. */
void watchers_server(struct feed *watchers, int kind, const char *server);
/* Fill what a plugin sees of a connection; borrows from client. */
void watchers_show(const struct sys_client *client, int kind, const struct muster_tenant *tenant, struct muster_connection *out);

#endif
