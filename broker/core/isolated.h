/*
 * core/isolated.h - a plugin of isolation process as an instance of this broker: the functions of its descriptor, which hand everything to
 * the child (child/proxy.h), and what the proxy needs of the core.
 */
#ifndef MUSTER_CORE_ISOLATED_H
#define MUSTER_CORE_ISOLATED_H

#include <muster/plugin.h>

#include "child/describe.h"
#include "core/instance.h"

/* Set the functions of a descriptor that a child has told. */
void isolated_equip(struct described *d);
/* Have another child take the place of an instance's: with other settings, other walls, or another file; plugin is what it says of itself.
 * Waits until it has, at most until the deadline: MUSTER_ETIME, it goes on. Errors have changed nothing, and why says what happened.
 * Main thread. */
int isolated_replace(struct instance *in, const struct config *config, const struct config_plugin *how, const struct muster_plugin *plugin,
                     int64_t deadline_ns, char why[INSTANCE_WHY_SIZE]);

#endif
