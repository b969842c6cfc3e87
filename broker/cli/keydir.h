/*
 * cli/keydir.h - the folder of keys of operator mode, and what is signed with them.
 *
 * Shape    keys/ holds operator.nk, account.nk, system.nk, role-<role>.nk (seeds), revoked (a line a revoked key) and settings.
 *          Beside it, in the folder of nats-server.conf, lies accounts.conf: the operator's and the accounts' JWTs that the server
 *          includes. Only accounts.conf is meant for the server's machine. With a callout auth.nk is the key of the account that
 *          servers ask; callout.nk and callout.creds lie beside accounts.conf, because the brokers read them.
 * Errors   0 or a negative MUSTER_E*, with the sentence in *err.
 * Memory   keydir_close() wipes and frees; it accepts NULL.
 * Threads  None. Processes exclude each other with the folder's lock, held from open to close.
 */
#ifndef MUSTER_CLI_KEYDIR_H
#define MUSTER_CLI_KEYDIR_H

#include "cli/file.h"
#include "auth/jwt.h"
#include "auth/nkey.h"
#include "auth/roles.h"
#include "cli/settings.h"

enum {
    KEYDIR_REVOKED_MAX = 10000
}; /* the account JWT holds them all, and grows by 70 bytes for each */

struct keydir {
    char *path;
    int lock_fd;
    struct settings settings;
    struct nkey op, account, system, roles[ROLES_N]; /* zero in the static form */
    struct nkey callout, auth; /* zero without a callout; auth in the static form too */
    char callout_user[NKEY_TEXT_SIZE]; /* who asks nobody: the brokers. "" until keydir_set_callout_user() has been called once */
    struct jwt_revocation *revoked;
    size_t n_revoked;
};

/* Open a folder that nats-config made. */
int keydir_open(const char *path, struct keydir **ret_dir, struct file_error *err);
/* Open or make it: settings are written, and keys that are missing are generated when the form
 * needs them. */
int keydir_create(const char *path, const struct settings *settings, struct keydir **ret_dir,
                  struct file_error *err);
void keydir_close(struct keydir *dir);

/* Append the path of a file in the folder of nats-server.conf. */
void keydir_beside(const struct keydir *dir, const char *name, struct buf *out);
/* Read the brokers' public key in the callout's account from callout.creds. */
int keydir_set_callout_user(struct keydir *dir, struct file_error *err);
/* Write accounts.conf. The server takes it up when it is reloaded (SIGHUP), and cuts whom it
 * revokes. */
int keydir_write_accounts(const struct keydir *dir, struct file_error *err);
/* Append the account's JWT as it stands there. */
int keydir_account(const struct keydir *dir, struct buf *out);
/* Remember the keys as revoked from now on and write accounts.conf. Entries whose JWTs have ended
 * by themselves go. */
int keydir_revoke(struct keydir *dir, const struct jwt_revocation *more, size_t n,
                  struct file_error *err);

/* Make a key and a user JWT for it, scoped unless it is narrowed, and append its creds. ret_key gets the public key. */
int keydir_mint(const struct keydir *dir, struct jwt_user *user, struct buf *creds,
                char ret_key[NKEY_TEXT_SIZE]);

#endif
