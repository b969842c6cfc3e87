/*
 * core/listing.h - every connection of an account on every NATS server, asked of all servers page by page in the system account.
 *
 * Threads  One lane: begun there, and its functions are called there.
 * Errors   MUSTER_ETIME: a server has not answered, or not as expected; what it has was not shown, or not all. MUSTER_EAGAIN: there are
 *          more servers than are asked, or connections come and go faster than they can be read. MUSTER_ELINK: the link went.
 * Memory   A listing is freed after end() by itself.
 */
#ifndef MUSTER_CORE_LISTING_H
#define MUSTER_CORE_LISTING_H

#include "bus/bus.h"
#include "bus/sys.h"
#include "core/connections.h"

struct listing;

struct listing_how {
    struct bus *bus;
    struct lane *lane;
    char account[CONNECTIONS_ACCOUNT_SIZE];
    /* Send a question on BUS_SYSTEM: bus_request(), and what the owner has to do about its result. */
    int (*ask)(void *arg, const struct bus_out *out, const struct bus_call *call);
    void (*row)(void *arg, const struct sys_client *client, const struct sys_server *server); /* each connection once */
    void (*end)(void *arg, int code);
    void *arg;
};

int listing_begin(const struct listing_how *how, struct listing **ret_listing);
/* It cannot be trusted any more: it goes on, and ends with code. */
void listing_fail(struct listing *listing, int code);
/* End soon, with MUSTER_ELINK. */
void listing_cancel(struct listing *listing);

#endif
