/*
 * cli/watch.h - what other commands have of `muster watch`.
 */
#ifndef MUSTER_CLI_WATCH_H
#define MUSTER_CLI_WATCH_H

#include "cli/cli.h"

/* `muster agents watch`: the events of presence alone. argv[0] is the word itself; --tenant, --json, --count and --timeout as watch has
 * them. */
int watch_presence(const struct cli *cli, int argc, char **argv);

#endif
