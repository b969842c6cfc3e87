/*
 * cdc/channel.h - Muster-Seq: the count of each channel (tenant + source.schema.table, or tenant + service), and the head notices.
 *
 * A channel's count goes on from its last stored message. Where retention has cut that it goes on from the bucket, which has, for
 * each channel that ever was in this epoch, a count and the stream's sequence at that time: written when the channel is new, and
 * whenever it has moved and then been still for CHANNEL_IDLE_S seconds. If the stream still has all that was stored since, the
 * count is right; otherwise the channel may have gone on, and a hole is left that is larger than all that can have been.
 */
#ifndef MUSTER_CDC_CHANNEL_H
#define MUSTER_CDC_CHANNEL_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/map.h"

struct cdc;

enum { CHANNELS_MAX = 1 << 20, CHANNEL_IDLE_S = 60, CHANNELS_RECENT = 64 };

struct channel {
    const struct muster_tenant *tenant;
    char *name;   /* within the tenant: "cdc.main.public.orders", "evt.task" */
    char *filter; /* its subjects: "cdc.main.public.orders.>" */
    uint64_t seq; /* of the last message that was held or stored */
    uint64_t told, kept; /* of the last head notice, of the last write to the bucket */
    uint64_t pending;    /* to be told once the stream has `mark` */
    int64_t moved_ns;
    uint32_t columns_version; /* of the relation whose columns were sent here last */
    bool ready;   /* seq is known */
    bool asked;
    uint64_t kept_at; /* while it is asked for: the stream's sequence that goes with the count in the bucket */
};

struct channels {
    struct map by_name; /* "tenant name" to struct channel, owned */
    struct channel *recent[CHANNELS_RECENT]; /* by tenant, because a table's rows change tenant from one to the next */
    uint64_t mark; /* sequence of the stream that stores all pending counts */
    bool fresh; /* the stream was made anew: every channel begins at 0 */
};

void channels_done(struct channels *channels);
/* Forget every count; they are read again from the stream. */
void channels_reset(struct channels *channels, bool fresh);
/* Find or make one. NULL: no memory, or more than CHANNELS_MAX. */
struct channel *channel_get(struct cdc *c, const struct muster_tenant *tenant, const char *name);
/* Ask for its count; the pump is resumed when it is ready. */
void channel_ask(struct cdc *c, struct channel *ch);
/* Every 5 s: tell the heads that have moved, and keep those of channels that are still. */
void channels_tell(struct cdc *c);

#endif
