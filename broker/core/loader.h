/*
 * core/loader.h - finds a plugin's file, opens it and checks that the two fit.
 *
 * A file is never closed again: threads and thread-local destructors of a library outlive dlclose() (RTLD_NODELETE).
 */
#ifndef MUSTER_CORE_LOADER_H
#define MUSTER_CORE_LOADER_H

#include <muster/plugin.h>
#include <stddef.h>

#include "config/config.h"

enum { LOADER_WHY_SIZE = 512 };

/* The folder of the built-in plugins: MUSTER_PLUGIN_DIR, else beside the executable (../lib/muster/plugins, ../plugins). */
const char *loader_dir(char *out, size_t size);
/* The file of p. */
const char *loader_path(const struct config_plugin *p, char *out, size_t size);
/* True when the descriptor lists the capability. */
bool loader_has_capability(const struct muster_plugin *plugin, const char *capability);
/* Load p. Errors: MUSTER_ENOTFOUND no such file, MUSTER_EABI the two do not fit, MUSTER_EINVAL not a plugin or not a well-formed one,
 * MUSTER_EACCES a file that others than root or the broker's user may write; why names file and cause. */
int loader_load(const struct config_plugin *p, const struct muster_plugin **ret_plugin, char why[LOADER_WHY_SIZE]);

#endif
