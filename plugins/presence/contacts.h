/*
 * presence/contacts.h - who is connected where: the connections of each name, and the NATS servers that they are on.
 *
 * Shape    A connection is known by its server's id and its client id, and by nothing else. A contact is a name of a tenant, present or not. A
 *          server is kept while it has a connection, or an agent that is counted with it.
 * Bounds   At most max connections; of more none is kept, and they are counted in `refused`.
 * Memory   Everything here is owned; agents are borrowed.
 * Threads  None: one owner.
 */
#ifndef MUSTER_PRESENCE_CONTACTS_H
#define MUSTER_PRESENCE_CONTACTS_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/table.h"

enum { CONTACTS_MAX = 1000000, SERVER_ID_MAX = 64 };

struct agent;

struct server {
    struct server *next, *prev; /* NULL: it stands by itself */
    char id[SERVER_ID_MAX + 1];
    int64_t lost_ns; /* since when it is lost; 0: it is not */
    uint32_t n_connections;
    uint32_t round; /* as in struct connection: of any of its connections */
    uint32_t n_agents, n_overdue; /* agents counted with it, and those of them whose beats are missing */
};

struct connection {
    struct connection *next; /* of its contact */
    struct contact *contact;
    struct server *server;
    uint64_t client;
    int64_t since_ns; /* when it was first heard of; set by who opens it */
    uint32_t round;   /* of the listing that named it last */
    bool stale;       /* from before the agent was gone: another may have taken its place, and nobody has told of its end yet */
};

struct contact {
    const struct muster_tenant *tenant;
    struct agent *agent; /* NULL: it is not present */
    struct connection *first;
    char name[];
};

struct contacts {
    struct table by_name, by_id;
    struct server servers; /* head of the ring */
    size_t n, max;
    uint64_t refused;
    uint32_t round;
};

void contacts_init(struct contacts *contacts, size_t max);
void contacts_done(struct contacts *contacts);

/* NULL: none of that name is connected. */
struct contact *contacts_get(const struct contacts *contacts, const struct muster_tenant *tenant, const char *name);
/* Find or make the contact. NULL: no memory. */
struct contact *contacts_of(struct contacts *contacts, const struct muster_tenant *tenant, const char *name);
/* Forget it where it has neither a connection nor an agent. */
void contacts_release(struct contacts *contacts, struct contact *contact);

struct server *contacts_server(struct contacts *contacts, const char *id); /* NULL: it is not known */
/* Count an agent with a server, or no longer. */
void server_hold(struct server *server);
void server_release(struct server *server);

/* The connection is there. 0: it is new; MUSTER_EEXIST: it is known; MUSTER_EAGAIN: there are too many; MUSTER_EINVAL: no id of a server. */
int contacts_open(struct contacts *contacts, const struct muster_connection *told, struct connection **ret_connection);
struct connection *contacts_find(struct contacts *contacts, const char *server, uint64_t client);
/* End it; its contact stays, for contacts_release(). */
void contacts_close(struct contacts *contacts, struct connection *connection);
/* Walk: start with *at = 0. Closing the current one is allowed. */
bool contacts_next(const struct contacts *contacts, size_t *at, struct connection **ret_connection);

/* What the contact has is stale from now on, or is not, where it has nothing else. */
void contact_went(struct contact *contact);
void contact_came(struct contact *contact);
/* True when it has a connection that is not stale. */
bool contact_is_connected(const struct contact *contact);
/* True when it is connected, but only to servers that are lost. */
bool contact_is_out_of_sight(const struct contact *contact);

#endif
