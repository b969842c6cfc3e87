/*
 * core/servers.h - which NATS servers there are, asked every two seconds: a server that dies tells nobody that its clients went.
 *
 * Shape    Servers answer a ping in the system account. One that stays silent twice is gone; one that was not there before may have
 *          been cut off, with clients of its own. Either is told.
 * Bounds   SERVERS_MAX; of more the rest is not followed.
 * Threads  The core lane, for every call but new and free.
 */
#ifndef MUSTER_CORE_SERVERS_H
#define MUSTER_CORE_SERVERS_H

struct broker;
struct servers;

enum { SERVERS_MAX = 256 };

int servers_new(struct broker *broker, void (*on_change)(void *arg), void *arg, struct servers **ret_servers);
void servers_free(struct servers *s); /* accepts NULL */
/* Begin a round, unless one is under way. */
void servers_ask(struct servers *s);
/* Begin anew: what was known is no measure any more, since the link was away. */
void servers_forget(struct servers *s);
void servers_close(struct servers *s);

#endif
