/*
 * core/check.h - `musterd --check`: the configuration against every plugin's option table, without starting anything.
 */
#ifndef MUSTER_CORE_CHECK_H
#define MUSTER_CORE_CHECK_H

struct config;

/* Print one line a fault on stderr. Returns the exit code. */
int check_config(const struct config *config);

#endif
