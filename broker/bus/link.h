/*
 * bus/link.h - one NATS connection, its outbox and its thread; private to bus/.
 *
 * The library runs in its external-event-loop mode: it writes only when told, so that a burst goes out in one write(2) and a single
 * message at once; its own mode has a flusher that sleeps 1 ms, or a write for every message. The loop is a poll(2) of two
 * descriptors. The library's reconnect is off: a lost connection is destroyed and made anew here, which has no half-states.
 */
#ifndef MUSTER_BUS_LINK_H
#define MUSTER_BUS_LINK_H

#include <nats/nats.h>

#include "bus/bus.h"

struct link;

struct link_hooks {
    /* Subscribe what belongs on this link. On the link's thread, before it is up. */
    natsStatus (*on_connected)(void *arg, natsConnection *nc);
    void (*on_resync)(void *arg, natsConnection *nc); /* link_resync() was called; the link is connected */
    /* The library has read what had come. behind: it is to be read faster. True: it is to be called again soon, whether something comes or not. */
    bool (*on_read)(void *arg, bool behind);
    void (*on_state)(void *arg, bool up, const char *reason);
    void (*on_writable)(void *arg);
    void (*on_pressure)(void *arg, bool on);
    void (*on_tick)(void *arg, int64_t now_ns); /* every 100 ms */
    void (*on_end)(void *arg);                  /* the thread ends */
    void *arg;
};

int link_open(const struct bus_options *options, const char *name, const struct link_hooks *hooks, struct link **ret_link);
void link_drain(struct link *link, int64_t timeout_ns); /* wait until the outbox is empty, the link away or the time over */
void link_stop(struct link *link); /* ends the thread; NULL is accepted */
/* After the library was closed: its last callbacks may still wake the link. NULL is accepted. */
void link_free(struct link *link);
bool link_is_up(const struct link *link);
/* MUSTER_ELINK: it is away. */
int link_where(const struct link *link, char server[BUS_SERVER_SIZE], uint64_t *ret_client);
/* MUSTER_ELINK: it is away. MUSTER_ENOTFOUND: it is not known. */
int link_server_version(const struct link *link, struct bus_version *ret_version);
uint64_t link_connects(const struct link *link);
void link_counters(const struct link *link, struct bus_counters *ret);
void link_count_received(struct link *link, uint64_t n);
/* Queue msg, which the link owns from then on; on failure it stays the caller's. Of how, more and answer count. */
int link_send(struct link *link, natsMsg *msg, size_t n_bytes, const struct bus_out *how);
/* Nothing more follows what was queued with `more`. */
void link_go(struct link *link);
/* True while on_writable is due to somebody who got MUSTER_EAGAIN. */
bool link_is_starved(struct link *link);
/* Have on_resync called on the link's thread, before anything that is sent from now on. */
void link_resync(struct link *link);

#endif
