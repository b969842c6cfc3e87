/*
 * cli/static_users.h - agents.conf: the users of the account in the static form, a line each.
 *
 * nats-server.conf includes it inside the account; the server reads it again on SIGHUP. It holds passwords (random, so that
 * hashing them slowly would only cost every login most of a second) and is its owner's alone.
 *
 * auth_users.conf, with a callout: the users whom the server lets in by password without asking the brokers. It takes no change of
 * them without a restart, and until then no other change either: so names are appended only, and one without a password stays.
 *
 * Errors   0 or a negative MUSTER_E*, with the sentence in *err.
 */
#ifndef MUSTER_CLI_STATIC_USERS_H
#define MUSTER_CLI_STATIC_USERS_H

#include <stdbool.h>
#include <stddef.h>

#include "cli/file.h"
#include "auth/roles.h"

enum { STATIC_PASSWORD_SIZE = 33, STATIC_USER_SIZE = 130 }; /* "tenant.agent" */

struct static_user {
    char user[STATIC_USER_SIZE];
    bool remove; /* take the user's line away; the rest does not matter then */
    char password[STATIC_PASSWORD_SIZE];
    int role;                          /* -1: everything in the account, for the broker */
    const char *root, *tenant, *agent; /* borrowed; with a role only */
    const struct role_narrowing *narrowing; /* NULL: all that the role may */
};

/* 160 random bits in base32. False when the system has none. */
bool static_password(char out[STATIC_PASSWORD_SIZE]);
/* Replace, append or remove the lines of n users; the file is made when it is missing. */
int static_users_edit(const char *path, const struct static_user *users, size_t n,
                      struct file_error *err);

/* Have the users stand in auth_users.conf; with agents, the path of agents.conf, those of that file too. *ret_grew: one was added. */
int static_bypass_add(const char *path, const char *const *users, size_t n, const char *agents, bool *ret_grew, struct file_error *err);

#endif
