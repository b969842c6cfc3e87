/*
 * core/reload.h - SIGHUP: what of a changed configuration takes effect at once, and what is named as waiting for a restart.
 */
#ifndef MUSTER_CORE_RELOAD_H
#define MUSTER_CORE_RELOAD_H

struct config;

/* Read file anew and check it whole, plugins' parts too. A fault changes nothing and is logged. The log's form and level are
 * taken over; every other setting that differs from `running` is named. Main thread. */
void reload_config(const struct config *running, const char *file);

#endif
