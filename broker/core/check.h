/*
 * core/check.h - the configuration against what it names: files, plugins, and each plugin's own part. Nothing is started.
 */
#ifndef MUSTER_CORE_CHECK_H
#define MUSTER_CORE_CHECK_H

#include "config/config.h"

/* level is MUSTER_LOG_ERROR for a fault, MUSTER_LOG_WARN for what a start goes on without; text is one line with the place. */
typedef void (*check_tell_fn)(void *arg, int level, const char *text);

/* Tell every fault and warning. Returns the number of faults. */
size_t check_config(const struct config *config, check_tell_fn tell, void *arg);
/* The files that the broker itself reads: 0, or MUSTER_EINVAL with the first that cannot be used in *err. */
int check_files(const struct config *config, struct config_error *err);
/* loader_load() with the place of the name or path in *err. */
int check_load(const struct config *config, const struct config_plugin *how, const struct muster_plugin **ret_plugin,
               struct config_error *err);

#endif
