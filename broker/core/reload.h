/*
 * core/reload.h - SIGHUP: what of a changed configuration takes effect at once, and what is named as waiting for a restart.
 */
#ifndef MUSTER_CORE_RELOAD_H
#define MUSTER_CORE_RELOAD_H

struct broker;

/* Read file anew and check it whole, plugins' parts too, before any of them sees it. A fault changes nothing and is logged. The log's
 * form and level are taken over, and the settings of each instance whose every change is reloadable; every other setting that differs
 * from what is in force is named. Behind the check it takes ten seconds at most, and half of one for each instance behind those that
 * hang; all the while the service manager hears that the broker lives. Main thread. */
void reload_config(struct broker *broker, const char *file);

#endif
