/*
 * core/walls.h - the walls of an instance in a child, made from its entry of the configuration (child/sandbox.h builds them).
 *
 * Users    Where the broker is root a child runs as `user`, or as a number of its own from WALLS_FIRST_UID on, which the system must not
 *          know as anybody's. Otherwise it runs as the broker's user.
 */
#ifndef MUSTER_CORE_WALLS_H
#define MUSTER_CORE_WALLS_H

#include "child/sandbox.h"
#include "config/config.h"

enum { WALLS_WHY_SIZE = 384, WALLS_FIRST_UID = 61184 };

/* Paths that the settings name (options whose key ends in _file) may be read; plugin and values may be NULL. Lists live in memory, texts
 * where they come from. Errors: MUSTER_EINVAL with why, which begins with the key in the entry, "user: …"; MUSTER_ENOMEM. */
int walls_of(const struct config_plugin *how, const struct muster_plugin *plugin, const void *values, struct arena *memory,
             struct sandbox *ret_walls, char why[WALLS_WHY_SIZE]);
/* The same for a child that only answers what its plugin is, and whether settings are right: a user that only root can become is passed
 * over, so that whoever may read the configuration can check it. */
int walls_to_ask(const struct config_plugin *how, const struct muster_plugin *plugin, const void *values, struct arena *memory,
                 struct sandbox *ret_walls, char why[WALLS_WHY_SIZE]);
/* Its connection string, from the entry or from the first line of its file; *ret_dsn is NULL when it has none. MUSTER_EINVAL with why,
 * as above. */
int walls_dsn(const struct config_plugin *how, struct arena *memory, const char **ret_dsn, char why[WALLS_WHY_SIZE]);

#endif
