/*
 * cli/fleet.h - what was changed in the files of nats-server, put in force on the servers that run: through the system account, without
 * a signal to each of them.
 *
 * Shape    Operator mode: the account's JWT goes to all servers at once (CLAIMS.UPDATE, which those with the memory resolver take too); a
 *          server cuts whom it revokes. The static form: each server of 2.10 or newer reads its configuration again, which must lie on
 *          its machine. Which servers have taken it is told on stderr, one line; whoever is not reached learns it when reloaded.
 * Bounds   FLEET_MAX servers; waits FLEET_WAIT_S at the most for who does not answer.
 */
#ifndef MUSTER_CLI_FLEET_H
#define MUSTER_CLI_FLEET_H

#include "cli/cli.h"
#include "cli/keydir.h"

enum { FLEET_MAX = 256, FLEET_WAIT_S = 5 };

/* True when every server that answers has taken it. command: who speaks. */
bool fleet_tell(const struct cli *cli, const char *command, const struct keydir *keys);

#endif
