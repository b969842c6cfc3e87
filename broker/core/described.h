/*
 * core/described.h - plugins of isolation process, known by what a child of theirs said: the broker never loads their file.
 *
 * Memory   A descriptor is kept for as long as the program runs, once for all who say the same, as the code of a loaded file would be.
 * Threads  Main thread.
 */
#ifndef MUSTER_CORE_DESCRIBED_H
#define MUSTER_CORE_DESCRIBED_H

#include "child/describe.h"
#include "config/config.h"
#include "core/loader.h"

/* Have a child load the file, which was checked (loader.h). The plugin is the first member of a struct described; its functions are NULL.
 * Errors as loader_load(), and MUSTER_EACCES where it asks for a capability that the entry does not allow; why names the file. */
int described_load(const struct config_plugin *how, const char *path, const struct muster_plugin **ret_plugin, char why[LOADER_WHY_SIZE]);
/* Have a child run its check(), if it has one; values are bound. 0, or its code with its reason in why, which may be "". *ret_asked is
 * false where nobody answered: why says what happened then. */
int described_check(const struct config *config, const struct config_plugin *how, const struct muster_plugin *plugin, const void *values,
                    bool *ret_asked, char why[LOADER_WHY_SIZE]);

#endif
