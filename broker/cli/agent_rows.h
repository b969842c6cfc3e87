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
#include "auth/token.h"
#include "sql/admin.h"

struct agent_row {
    const char *agent; /* borrowed */
    int role;
    int64_t expires;          /* seconds since 1970; 0: never */
    char key[NKEY_TEXT_SIZE]; /* the public key; "" for NULL: a user with a password or a token */
    char token_id[TOKEN_ID_LEN + 1]; /* "" for NULL: it has no token */
    char secret_hash[TOKEN_HASH_SIZE];
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
/* Lock the rows of the names and read role, expires, key and token. A name that has none fails, with live a
 * revoked one too. */
int agent_rows_lock(struct agent_rows *r, bool live);
/* Set key, token and expires of live rows. */
int agent_rows_update(const struct agent_rows *r);
/* Mark as revoked; a row that is already keeps its time. */
int agent_rows_revoke(const struct agent_rows *r);

#endif
