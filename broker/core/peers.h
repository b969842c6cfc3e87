/*
 * core/peers.h - the other brokers: who is there, and what they have let pass of each tenant's rates.
 *
 * Shape    Each broker says on <root>._muster.peers, which agents can neither send to nor hear, once a second that it is there, and every
 *          PEERS_TELL_MS what it has let pass of tenants whose rate that is a part of. What is heard is taken from the tenant's buckets
 *          here (tenant_charge_other()): so a rate is that of all brokers together, however the requests are spread over them. Each may
 *          let a burst, and what comes in PEERS_TELL_MS, pass before it hears of the others; that is taken back afterwards. While NATS is
 *          away no requests come either.
 * First    Of the brokers that are heard one is the first, by a number made at start: it does what one should do. For a moment there may
 *          be two, or none.
 * Bounds   PEERS_MAX brokers; PEERS_WAITING messages before the core lane, what is more is dropped and counted.
 * Threads  The core lane, but for new and free, and what NATS calls.
 */
#ifndef MUSTER_CORE_PEERS_H
#define MUSTER_CORE_PEERS_H

#include <stdbool.h>
#include <stddef.h>

struct broker;
struct peers;

enum { PEERS_TELL_MS = 250, PEERS_MAX = 256, PEERS_WAITING = 4096 };

int peers_new(struct broker *broker, struct peers **ret_peers);
void peers_free(struct peers *p); /* accepts NULL, as the next two do */
int peers_open(struct peers *p);
void peers_close(struct peers *p);
bool peers_is_first(const struct peers *p);
size_t peers_count(const struct peers *p); /* of others */

#endif
