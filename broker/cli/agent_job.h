/*
 * cli/agent_job.h - one call of `muster agent`: what it was told, and the secrets it makes. Private
 * to agent.c, which has the order of the steps, agent_args.c and agent_mint.c.
 *
 * Owns     The rows, the secrets (overwritten by job_done()) and the locks on keys and database.
 * Threads  The one that runs the command.
 * Errors   CLI_DONE, CLI_USAGE or CLI_FAILED; the reason has been told on stderr.
 */
#ifndef MUSTER_CLI_AGENT_JOB_H
#define MUSTER_CLI_AGENT_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/agent_rows.h"
#include "cli/cli.h"
#include "cli/keydir.h"
#include "cli/narrowing.h"

struct minted {
    struct buf secret; /* a creds file, or a password or token and a line break */
    char *path;        /* where it goes; NULL: stdout */
};

struct job {
    const char *tenant, *out;
    int role;
    int64_t expires; /* seconds since 1970; 0: never */
    bool is_add;
    bool needs_restart; /* nats-server takes up what was written at its next start only; it has been told */
    bool tokens;     /* what is minted are tokens of Muster; NATS is told nothing then */
    size_t n;
    struct agent_row *rows;     /* n */
    struct minted *minted;      /* n */
    struct jwt_revocation *old; /* n: what rotate and revoke put out of use */
    int64_t subscriptions;        /* of the tenant's connections; 0: those of all */
    struct narrowing *narrowings; /* n: what each may less than its role */
    struct narrowing given;       /* by the options of add; all names get it */
    struct keydir *keys;        /* NULL: none are configured, and tokens need none */
    struct sql_admin *admin;
};

/* agent_args.c. allowed: the letters of the options that this verb takes. optind is left at TENANT. */
int job_parse_options(struct job *job, int argc, char **argv, const char *allowed);
/* Checked here and not left to the database: names go into subjects, file names and configuration. */
int job_check_name(const char *what, const char *name, size_t max);
/* Names go into job->rows; one that comes twice could only fail later, in words of the database. */
int job_take_names(struct job *job, char **names, size_t n);

/* agent_mint.c. Make the secrets of all, and what the rows say of them. */
int job_mint(struct job *job);
/* Before job_mint(), which overwrites key and expires of the rows. */
void job_keep_old_keys(struct job *job);
/* Write or remove the users' lines of agents.conf. */
int job_edit_static_users(const struct job *job, bool remove);
/* With a callout: have the server let them in by password. */
int job_bypass_callout(struct job *job);
/* Revoke the keys that were in use until now. */
int job_revoke_old_keys(struct job *job);

#endif
