/*
 * core/quotas.h - holds tenants to the limits that NATS alone sees: connections, subscriptions of one, and bytes that it delivers to them.
 *
 * Shape    Brokers do not stand between agents, so this is observed: once a second, and for no more than a tenth of the time, the first of
 *          the brokers (core/peers.h) lists the connections (core/listing.h), while some tenant has such a limit. What is over is cut: the
 *          newest connections above `connections`, one with more than `subscriptions`, and all of a tenant over `out_bytes`. That is a
 *          bucket of ten seconds' worth; while it is overdrawn, for a minute at most, the tenant's connections are cut as they come.
 * Cutting  Needs nats-server 2.10. What an older one will not cut is told: log, muster_quota_cut_total{result="too_old"}, and a degraded
 *          component on /readyz, which `muster doctor` shows.
 * Bounds   QUOTAS_CONNECTIONS connections of such tenants are followed, QUOTAS_KICKS cut at a time; what is more waits for the next round.
 * Threads  The core lane, but for new and free.
 */
#ifndef MUSTER_CORE_QUOTAS_H
#define MUSTER_CORE_QUOTAS_H

#include "bus/sys.h"

struct broker;
struct peers;
struct quotas;

enum { QUOTAS_CONNECTIONS = 1 << 18, QUOTAS_KICKS = 1024 };

int quotas_new(struct broker *broker, struct peers *peers, struct quotas **ret_quotas);
void quotas_free(struct quotas *q); /* accepts NULL, as the next ones do */
int quotas_open(struct quotas *q);
void quotas_close(struct quotas *q);
/* A client has connected; or gone, having been delivered client->out_bytes. */
void quotas_saw(struct quotas *q, const struct sys_client *client);
void quotas_gone(struct quotas *q, const struct sys_client *client);

#endif
