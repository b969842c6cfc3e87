/*
 * bus/sys.h - what nats-server says in its system account, read: events of connections, pages of CONNZ, who a server is, who its peers are.
 *
 * Identity An agent is who its login proves: in operator mode the tags and the name of the JWT that the server has verified, with
 *          passwords (and an auth callout) the user's name <T>.<A>. The name that a client gives itself is no part of it. Nor is
 *          the member "name_tag": it is the user's name in 2.9 and 2.10, and the account's from 2.11 on.
 * Input    Comes from a server that is trusted, and carries texts of clients that are not. What is not as expected is MUSTER_EINVAL.
 * Threads  Any: everything here is a function of its arguments.
 * Memory   What a function is given is borrowed and good while it runs.
 */
#ifndef MUSTER_BUS_SYS_H
#define MUSTER_BUS_SYS_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/name.h"

enum { SYS_SERVER_SIZE = 64, SYS_NAME_SIZE = 257, SYS_PAGE = 256 /* rows of a CONNZ page, of 1.5 KB with a JWT */ };

/* One connection. */
struct sys_client {
    char server[SYS_SERVER_SIZE];
    uint64_t id;
    char tenant[NAME_TOKEN_SIZE], agent[NAME_TOKEN_SIZE]; /* "": it is none of ours */
    bool is_operator; /* as far as a JWT says so: it works for all tenants, and is no agent of its own */
    char name[SYS_NAME_SIZE];                             /* of its own choice; cut where it is longer */
    char reason[SYS_SERVER_SIZE];                         /* of a disconnect; "" otherwise */
    const char *account;
    int64_t at_wall_ns; /* 0: the server did not say */
    uint64_t out_bytes; /* that it was delivered in its life; of a page and of a disconnect */
    uint64_t n_subscriptions; /* of a page */
};
typedef void (*sys_client_fn)(void *arg, const struct sys_client *client);

/* Read $SYS.ACCOUNT.*.CONNECT or DISCONNECT: *ret_kind is MUSTER_SYS_CONNECT or _DISCONNECT. fn is called when this gives 0. */
int sys_read_event(struct muster_bytes data, int *ret_kind, sys_client_fn fn, void *arg);

#define SYS_STOPPED "$SYS.SERVER.*.SHUTDOWN" /* a server that is stopped says so */
/* Whose it is, of such a subject. */
int sys_read_stopped(const char *subject, char ret_server[SYS_SERVER_SIZE]);

struct sys_server {
    char id[SYS_SERVER_SIZE];
    bool can_kick;   /* 2.10 or newer */
    uint32_t n_active; /* servers that it knows, itself included; 0: it did not say */
};
/* Read the answer to $SYS.REQ.SERVER.PING. */
int sys_read_server(struct muster_bytes data, struct sys_server *ret_server);

struct sys_page {
    struct sys_server server;
    uint32_t n_rows; /* connections of every kind, also such as were not shown */
    uint64_t total, first, last; /* connections that there are; the ids of the first and the last row */
};
/* Read the answer to $SYS.REQ.SERVER.<id>.CONNZ with auth, sorted by id; fn is called for each client. */
int sys_read_page(struct muster_bytes data, struct sys_page *ret_page, sys_client_fn fn, void *arg);
/* A server as JetStream's cluster sees it, or another that is asked about it. */
struct sys_peer {
    char name[SYS_NAME_SIZE];
    bool is_offline;
    int64_t heard_ns; /* ago; 0: just now, or never */
    uint64_t n_behind;
};
struct sys_meta {
    char name[SYS_NAME_SIZE], domain[SYS_NAME_SIZE]; /* of the server that says this */
    bool has_jetstream, is_clustered;
    char leader[SYS_NAME_SIZE]; /* of JetStream's cluster, by name; "": none */
    uint32_t n_servers;         /* that belong to it */
};
typedef void (*sys_peer_fn)(void *arg, const struct sys_peer *peer);
/* Read the answer to $SYS.REQ.SERVER.<id>.JSZ; fn is called for each other server that it knows as a peer, when *ret_meta is filled. */
int sys_read_meta(struct muster_bytes data, struct sys_meta *ret_meta, sys_peer_fn fn, void *arg);
/* Read the answer to $SYS.REQ.SERVER.<id>.KICK: MUSTER_ENOTFOUND: it has no such client. */
int sys_read_kick(struct muster_bytes data);

#endif
