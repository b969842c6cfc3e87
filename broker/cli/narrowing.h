/*
 * cli/narrowing.h - what a credential may less than its role: `muster agent add --groups G,… --tables S.T,… --verbs S.V,…`.
 *
 * Shape    Words with commas between, checked here as the database checks them again (migration 006). Groups and tables go into permissions
 *          of NATS; verbs are what brokers look at.
 * Errors   CLI_DONE, CLI_USAGE or CLI_FAILED; the reason has been told on stderr.
 */
#ifndef MUSTER_CLI_NARROWING_H
#define MUSTER_CLI_NARROWING_H

#include <stdbool.h>

#include "auth/roles.h"
#include "base/buf.h"
#include "cli/agent_rows.h"

struct narrowing {
    struct buf groups, tables, verbs; /* empty: all */
    struct role_narrowing role;       /* the first two, as narrowing_of_role() gives them */
};

void narrowing_done(struct narrowing *n); /* overwritable again; of zeroes, too */
/* Take one option's value: option is "groups", "tables" or "verbs". */
int narrowing_take(struct narrowing *n, const char *option, const char *value);
/* NULL: NATS permits all that the role may. */
const struct role_narrowing *narrowing_of_role(struct narrowing *n);
/* Write it to the rows of all names, in the caller's transaction. */
int narrowing_write(const struct agent_rows *rows, const struct narrowing *n);
/* Read that of each name; narrowings has as many as there are rows. */
int narrowing_read(const struct agent_rows *rows, struct narrowing *narrowings);

#endif
