/*
 * tenant/usage.h - what each agent has used up: its two buckets and its requests that wait, for the limits agent_….
 *
 * Shape    A hash table by tenant and agent. Only agents of tenants that have such a limit get an entry; one that is idle, its buckets full
 *          and nothing of it waiting, goes when its place is looked at for another.
 * Bounds   USAGE_MAX entries. When there are as many, a new agent is refused as if over its limit, and counted in n_full.
 * Threads  Any; the table is cut into parts with a lock each.
 */
#ifndef MUSTER_TENANT_USAGE_H
#define MUSTER_TENANT_USAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { USAGE_MAX = 1 << 18 };

struct muster_tenant;
struct usage;
struct usage_entry;

/* A bucket's verdict on one more: the point in time at which it would be full again moves by cost_ns. */
struct bucket {
    int64_t rate, cost_ns, depth_ns;
    bool overdraws; /* passes while there is anything in it, whatever it costs: one large body must get through in the end */
};
/* Requests, or bytes, of which `rate` a second pass and `burst` at once. */
struct bucket bucket_of_requests(int64_t rate, int64_t burst);
struct bucket bucket_of_bytes(int64_t rate, size_t n_bytes);
/* 0, and *ret_full_at is what full_at becomes; or the nanoseconds until it would pass. */
int64_t bucket_take(const struct bucket *b, int64_t full_at_ns, int64_t now_ns, int64_t *ret_full_at_ns);

/* One request that waits: what tenant_leave() gives back. Zero: of nobody. */
struct tenant_place {
    struct muster_tenant *tenant;
    struct usage_entry *agent;
};

struct usage_key {
    const struct muster_tenant *tenant;
    const char *agent;
    size_t agent_len;
    int64_t now_ns;
};

struct usage *usage_new(void);
void usage_free(struct usage *u);
enum { USAGE_REQUESTS, USAGE_BYTES, USAGE_N_BUCKETS };
/* Take from both of an agent's buckets, or from none; one whose cost is 0 has no limit. 0; or the time to wait, and *ret_which. */
int64_t usage_take(struct usage *u, const struct usage_key *key, const struct bucket buckets[USAGE_N_BUCKETS], int *ret_which);
/* One more of its requests waits, of at most `most`. NULL: it may not. */
struct usage_entry *usage_enter(struct usage *u, const struct usage_key *key, uint32_t most);
void usage_leave(struct usage *u, struct usage_entry *entry);
size_t usage_count(struct usage *u);
uint64_t usage_full(struct usage *u); /* agents turned away because the table was full */

#endif
