/*
 * core/settings.h - a plugin's settings as a start, a reload, `musterd --check` and `muster doctor` judge them: held against its option
 * table, then shown to its check().
 */
#ifndef MUSTER_CORE_SETTINGS_H
#define MUSTER_CORE_SETTINGS_H

#include "config/config.h"

/* config_bind(), then the plugin's check(). Main thread, or the lane before it runs. */
int settings_bind(const struct config *config, const struct config_plugin *how, const struct muster_plugin *plugin, void *values,
                  struct config_error *err);

#endif
