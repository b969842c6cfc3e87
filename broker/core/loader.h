/*
 * core/loader.h - finds a plugin's file, opens it and checks that the two fit.
 *
 * A file is never closed again: threads and thread-local destructors of a library outlive dlclose() (RTLD_NODELETE).
 */
#ifndef MUSTER_CORE_LOADER_H
#define MUSTER_CORE_LOADER_H

#include <muster/plugin.h>
#include <stddef.h>

#include "base/stamp.h"
#include "config/config.h"

enum { LOADER_WHY_SIZE = 512 };

/* The folder of the built-in plugins: MUSTER_PLUGIN_DIR, else beside the executable (../lib/muster/plugins, ../plugins). */
const char *loader_dir(char *out, size_t size);
/* The file of p. */
const char *loader_path(const struct config_plugin *p, char *out, size_t size);
/* Whether this broker can use the descriptor that an entry returned; path: for the message. */
int loader_check(const struct muster_plugin *plugin, const char *path, char why[LOADER_WHY_SIZE]);
/* All zero where there is no file. */
struct stamp loader_stamp(const struct config_plugin *p);
/* True when the descriptor lists the capability. */
bool loader_has_capability(const struct muster_plugin *plugin, const char *capability);
/* Open a file and check what it says of itself; who owns it is not asked. For the child of a plugin, and what is below. */
int loader_open(const char *path, const struct muster_plugin **ret_plugin, char why[LOADER_WHY_SIZE]);
/* Whether a file may be loaded at all: it is one, and nobody else may write it; and whether its plugin may have its names. */
int loader_check_file(const struct config_plugin *p, const char *path, char why[LOADER_WHY_SIZE]);
int loader_check_names(const struct config_plugin *p, const struct muster_plugin *plugin, const char *path, char why[LOADER_WHY_SIZE]);
/* Load p, or have a child describe it where its isolation is process (described.h). Errors: MUSTER_ENOTFOUND no such file, MUSTER_EABI
 * the two do not fit, MUSTER_EINVAL not a plugin or not a well-formed one, MUSTER_EACCES a file that others than root or the broker's user
 * may write, MUSTER_EEXIST a plugin by path with a name or a service of those that come with Muster; why names file and cause. */
int loader_load(const struct config_plugin *p, const struct muster_plugin **ret_plugin, char why[LOADER_WHY_SIZE]);

#endif
