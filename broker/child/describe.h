/*
 * child/describe.h - what a plugin in a child says of itself, and what it is told of its settings.
 *
 * Trust    A descriptor comes from a stranger. The parent makes one of its own from it: its own offsets, at most DESCRIBE_MAX_OPTIONS
 *          options nested DESCRIBE_MAX_DEPTH deep, bounded texts without control characters, names that are legal. Functions are only
 *          told as bits.
 * Memory   A struct described owns all its texts and tables.
 * Threads  One user at a time.
 */
#ifndef MUSTER_CHILD_DESCRIBE_H
#define MUSTER_CHILD_DESCRIBE_H

#include <muster/plugin.h>

#include "child/arena.h"
#include "child/frame.h"

enum {
    DESCRIBE_MAX_OPTIONS = 1000, /* those in maps counted */
    DESCRIBE_MAX_DEPTH = 3,      /* maps in maps */
    DESCRIBE_MAX_SERVICES = 64,
    DESCRIBE_MAX_TEXT = 64 << 10,
    DESCRIBE_MAX_SCHEMA = 512 << 10,
    DESCRIBE_WHY_SIZE = 384,
};

enum { /* functions that the plugin has; create, start and destroy it must have */
    DESCRIBE_DRAIN = 1u << 0,
    DESCRIBE_ON_WRITABLE = 1u << 1,
    DESCRIBE_ON_LINK = 1u << 2,
    DESCRIBE_ON_TABLES = 1u << 3,
    DESCRIBE_CHECK = 1u << 4,
    DESCRIBE_RELOAD = 1u << 5,
    DESCRIBE_ON_PAUSE = 1u << 6,
    DESCRIBE_ON_RESUME = 1u << 7,
};

struct described {
    struct muster_plugin plugin; /* first: who has the plugin has the rest. Its functions are NULL until somebody sets them */
    uint32_t has;                /* DESCRIBE_* */
    uint32_t lacks;              /* SANDBOX_LACKS_*, of the child that said it; set by whoever heard it */
    struct muster_bytes said;    /* the descriptor as it came */
    struct arena memory;
};

/* Append a descriptor that was loaded and checked (core/loader.h). */
void describe_put(struct frame *f, const struct muster_plugin *plugin);
/* MUSTER_EINVAL: the frame is bad, or what it says is not taken, with why; MUSTER_ENOMEM. */
int describe_get(struct frame_reader *r, struct described **ret_described, char why[DESCRIBE_WHY_SIZE]);
void describe_free(struct described *d); /* accepts NULL */
/* True when what r is about to read is the same descriptor. Nothing is read. */
bool describe_is_same(const struct described *d, const struct frame_reader *r);

/* Append the values of a bound config struct, in the order of the table. */
void settings_put(struct frame *f, const struct muster_plugin *plugin, const void *values);
/* Write them into values (plugin->config_size bytes, zeroed by the caller) at the offsets of this end's table. Texts and tables live in
 * memory. MUSTER_EINVAL: they are not those of this table; MUSTER_ENOMEM. */
int settings_get(struct frame_reader *r, const struct muster_plugin *plugin, void *values, struct arena *memory);

#endif
