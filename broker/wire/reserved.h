/*
 * wire/reserved.h - names that belong to the plugins that come with Muster: theirs, and those of the services of INTERFACE 4.
 *
 * A plugin that is given by `path` may not take them: who reads a log, a metric or $SRV, or asks a service, must not meet another.
 * Threads  Any; nothing is kept.
 */
#ifndef MUSTER_WIRE_RESERVED_H
#define MUSTER_WIRE_RESERVED_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/name.h"

/* What plugin takes that it may not, as a sentence without a subject; "" when nothing. Returns 0 or MUSTER_EEXIST. */
int reserved_check(const struct muster_plugin *plugin, char *why, size_t size);
/* True when a pattern of what follows R.T. would get requests to one of the services. */
bool reserved_overlap(const char *pattern, char ret_service[NAME_TOKEN_SIZE]);

#endif
