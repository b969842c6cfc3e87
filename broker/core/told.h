/*
 * core/told.h - what the child of a plugin is told of its configuration, as FRAME_SETTINGS and FRAME_RELOAD have it (child/frame.h).
 */
#ifndef MUSTER_CORE_TOLD_H
#define MUSTER_CORE_TOLD_H

#include "child/frame.h"
#include "config/config.h"

struct told {
    const struct config *config;
    const struct config_plugin *how;
    const struct muster_plugin *plugin;
    const void *values; /* bound */
    uint32_t lane;
    const char *broker_id;
    const char *postgres_dsn; /* NULL: none */
};

/* All fields of FRAME_SETTINGS. What is granted is what the plugin asks for: one that asks for more than it may was not loaded. */
void told_put(struct frame *f, const struct told *t);
/* The fields of FRAME_RELOAD, which are the last two of FRAME_SETTINGS. */
void told_put_values(struct frame *f, const struct told *t);

#endif
