/*
 * core/servers.h - which NATS servers there are, asked every two seconds: a server that dies tells nobody that its clients went.
 *
 * Shape    Servers answer a ping in the system account. One that stays silent twice, or says that it is stopped, is lost; one that was lost
 *          and answers is back. One that was not there before may have been cut off, with clients of its own. Each is told.
 * Bounds   SERVERS_MAX; of more the rest is not followed. Lost ones give way first.
 * Threads  The core lane, for every call but new and free.
 */
#ifndef MUSTER_CORE_SERVERS_H
#define MUSTER_CORE_SERVERS_H

struct broker;
struct servers;

enum { SERVERS_MAX = 256 };

struct servers_hooks {
    void (*on_new)(void *arg);
    void (*on_server)(void *arg, int kind, const char *id); /* MUSTER_SYS_SERVER_LOST or _BACK */
    void *arg;
};
int servers_new(struct broker *broker, const struct servers_hooks *tell, struct servers **ret_servers);
void servers_free(struct servers *s); /* accepts NULL */
/* Begin a round, unless one is under way. */
void servers_ask(struct servers *s);
/* The link was away: count silence anew. */
void servers_begin(struct servers *s);
/* It has said so. */
void servers_stopped(struct servers *s, const char *id);
void servers_close(struct servers *s);

#endif
