/*
 * common/shares.h - how the shards of a plugin are shared out among the brokers that run it. Lane only.
 *
 * Each broker says in the plugin's bucket that it is there (broker.<id>), and how many it holds; who holds more than its part of the shards lets
 * as many go as others lack, and contends for them again some seconds later. Which they are it says two rounds before, so that who has its part
 * does not take them. So a broker that comes gets its part, and what it costs is one move a shard.
 */
#ifndef MUSTER_COMMON_SHARES_H
#define MUSTER_COMMON_SHARES_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stdint.h>

struct shares_how {
    const struct muster_host *host;
    const struct muster_kv *kv;
    const struct muster_timer *timer;
    uint32_t n_shards;
    uint32_t (*held)(void *arg);            /* how many are held here */
    bool (*holds)(void *arg, uint32_t n);   /* false: it is not held here, or is not served yet */
    bool (*let_go)(void *arg, uint32_t n);  /* false: it is not held here, or has something to do */
    void (*stand_back)(void *arg, uint32_t n, int64_t until_ns); /* it is meant for another: contend for it later, unless it is held */
    void *arg;
};

/* What another broker said of itself, as it was seen last. */
struct peer_seen {
    uint64_t digest, revision; /* of its key */
};
enum { SHARES_PEERS_SEEN = 64 };

/* In the instance, of which it is a part; only shares.c touches what follows how. */
struct shares {
    struct shares_how how;
    int64_t due_ns;    /* when it looks next */
    int64_t let_go_ns; /* until when no more shards are let go */
    uint32_t offered, n_rounds; /* shards, a bit each, that are let go soon, and for how many rounds they have been said */
    uint32_t n_lacking; /* shards that those counted have not for their part */
    struct peer_seen seen[SHARES_PEERS_SEEN];
    uint32_t n_brokers, n_counted;
    bool counting, over;
};

/* Every tick while NATS is there. */
void shares_tick(struct shares *s, int64_t now_ns);
/* The instance ends: nothing is let go any more. */
void shares_end(struct shares *s);

#endif
