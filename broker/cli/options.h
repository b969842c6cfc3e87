/*
 * cli/options.h - a plugin's option table for people, and single values out of what was bound to
 * it.
 */
#ifndef MUSTER_CLI_OPTIONS_H
#define MUSTER_CLI_OPTIONS_H

#include <muster/plugin.h>

#include "base/buf.h"

/* NULL, or what is wrong with the table; nothing else here takes such a table. */
const char *options_fault(const struct muster_plugin *plugin);
/* Append the table: key, type, default, bounds and help of each option, those of a map's entries
 * behind `KEY.*.`. */
void options_print(const struct muster_plugin *plugin, struct buf *out);

/* The value of a STRING, LIST, INT or MAP option in the struct that config_bind() filled; NULL or empty
 * where the plugin has no such option or it is not set. Borrowed from values. */
const char *options_string(const struct muster_plugin *plugin, const void *values, const char *key);
struct muster_list options_list(const struct muster_plugin *plugin, const void *values,
                                const char *key);
/* 0 where there is no such INT option. */
int64_t options_int(const struct muster_plugin *plugin, const void *values, const char *key);
/* The STRING option field of the entry of a MAP option. */
const char *options_entry(const struct muster_plugin *plugin, const void *values,
                          const char *const path[3]);

#endif
