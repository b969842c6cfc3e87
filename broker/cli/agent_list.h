/*
 * cli/agent_list.h - `muster agent list [TENANT] [--json]`: who has credentials, and whether they
 * still hold.
 */
#ifndef MUSTER_CLI_AGENT_LIST_H
#define MUSTER_CLI_AGENT_LIST_H

#include "cli/cli.h"

/* argv[0] is "list". Returns the exit code. */
int agent_list(const struct cli *cli, int argc, char **argv);

#endif
