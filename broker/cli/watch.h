/*
 * cli/watch.h - what other commands have of `muster watch`.
 */
#ifndef MUSTER_CLI_WATCH_H
#define MUSTER_CLI_WATCH_H

#include "cli/cli.h"

/* `muster agents watch` and the like: the events of one service alone. argv[0] is the word itself; --tenant, --json, --count and --timeout
 * as watch has them. */
int watch_service(const struct cli *cli, const char *command, const char *service, int argc, char **argv);

#endif
