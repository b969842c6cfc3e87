/*
 * cli/agent_rows.h - the rows of muster.credentials that `muster agent` writes: one statement for
 * any number of agents.
 *
 * Shape    All run inside the caller's transaction and see one tenant.
 * Errors   CLI_DONE or CLI_FAILED; the reason has been told on stderr.
 */
#ifndef MUSTER_CLI_AGENT_ROWS_H
#define MUSTER_CLI_AGENT_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "auth/nkey.h"
#include "sql/admin.h"

struct agent_row {
    const char *agent; /* borrowed */
    int role;
    int64_t expires;          /* seconds since 1970; 0: never */
    char key[NKEY_TEXT_SIZE]; /* the public key; "" for NULL: a user with a password */
};

struct agent_rows {
    struct sql_admin *admin;
    const char *tenant;
    struct agent_row *rows;
    size_t n;
};

/* Insert the rows. A name that has a live credential is refused; one that was revoked is made new.
 */
int agent_rows_insert(const struct agent_rows *r);
/* Lock the rows of the names and read role, expires and key. A name that has none, or with live
 * only a revoked one, fails. */
int agent_rows_lock(struct agent_rows *r, bool live);
/* Set key and expires of live rows. */
int agent_rows_update(const struct agent_rows *r);
/* Mark as revoked; a row that is already keeps its time. */
int agent_rows_revoke(const struct agent_rows *r);

#endif
