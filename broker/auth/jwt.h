/*
 * auth/jwt.h - the JWTs (version 2) that NATS trusts: operator, account and user; and the creds file around a user's.
 *
 * Shape    `header.claims.signature` in base64url, signed with the Ed25519 key of the issuer. The writers append to a buf.
 * Errors   0, MUSTER_EINVAL (a text that is no such JWT, or whose signature is wrong) or MUSTER_ENOMEM.
 * Units    Times are seconds since 1970 UTC, as NATS has them.
 * Memory   Arguments are borrowed for the call. A creds text holds a seed: jwt_wipe() the buffer.
 * Threads  Any; no state.
 */
#ifndef MUSTER_AUTH_JWT_H
#define MUSTER_AUTH_JWT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "auth/nkey.h"
#include "auth/roles.h"

/* User JWTs of this key made up to and including `at` are refused. */
struct jwt_revocation {
    char key[NKEY_TEXT_SIZE];
    int64_t at;
    int64_t
        expires; /* when the JWT would end by itself; 0: never. Not written into the account JWT */
};

/* What every set of claims has. */
struct jwt_head {
    const char *name, *subject;
    const char *audience; /* NULL: none; name likewise */
    int64_t issued;       /* 0: now */
    int64_t expires;      /* 0: never */
};
/* Append header.claims.signature; nats is the text of the member of that name. */
int jwt_seal(const struct nkey *signer, const struct jwt_head *head, const struct buf *nats,
             struct buf *out);

struct jwt_account {
    const char *name, *key;
    const char
        *root; /* the root token of the role templates; NULL: no roles, no JetStream (system) */
    int64_t subscriptions;        /* a connection of a role may hold */
    const struct nkey *role_keys; /* ROLES_N scoped signing keys */
    const char *callout_key;      /* signs whom a callout lets in, without a scope; NULL: nobody */
    const struct jwt_revocation *revoked;
    size_t n_revoked;
};

/* The account whose one service is to say who may log in. A client reaches it with the sentinel's creds, which say
 * nothing of who it is; one of `user` is of a broker, and is let in as it is. */
struct jwt_callout_account {
    const char *name, *key;
    const char *callout_key, *user; /* that signs the answers; the brokers' public key */
    const char *target;             /* the account whose users the answers may make */
};

struct jwt_user {
    const char *name, *key;
    const char *account; /* the account's public key when a scoped key of it signs; NULL: it signs
                            itself, no limits */
    const char *tenant;  /* with account only */
    int role;            /* with account only */
    int64_t expires;     /* 0: never */
    /* Of a user whose permissions are written out, because they are narrowed: the account's own key signs. NULL: the role's. */
    const struct role_narrowing *narrowing;
    const char *root;      /* with narrowing only */
    int64_t subscriptions; /* likewise */
};

int jwt_operator(const struct nkey *op, const char *name, const char *system_account,
                 struct buf *out);
int jwt_account(const struct nkey *op, const struct jwt_account *account, struct buf *out);
int jwt_callout_account(const struct nkey *op, const struct jwt_callout_account *account,
                        struct buf *out);
/* A user of the callout's account who may nothing there: what a client brings beside its token. */
int jwt_sentinel(const struct nkey *account, const char *key, struct buf *out);
int jwt_user(const struct nkey *signer, const struct jwt_user *user, struct buf *out);

/* Append a creds file: the JWT and the seed of its key. */
void jwt_put_creds(struct buf *out, const char *jwt, const struct nkey *key);
/* Find the JWT and read the seed in a creds file. jwt is borrowed from creds. */
int jwt_read_creds(const char *creds, const char **ret_jwt, size_t *ret_len, struct nkey *ret_key);
/* Overwrite and free a buffer that held a secret. */
void jwt_wipe(struct buf *b);

enum { JWT_NAME_SIZE = 65, JWT_TYPE_SIZE = 32 };

struct jwt_claims {
    char type[JWT_TYPE_SIZE]; /* operator, account, user */
    char name[JWT_NAME_SIZE], subject[NKEY_TEXT_SIZE], issuer[NKEY_TEXT_SIZE];
    char account[NKEY_TEXT_SIZE]; /* of a user that a scoped key signed; "" otherwise */
    char tenant[JWT_NAME_SIZE];   /* from tag `tenant:`; "" when there is none */
    char role[JWT_NAME_SIZE];     /* from tag `role:` */
    int64_t issued, expires;      /* expires 0: never */
};

/* Check the signature by the named issuer and read the claims. Whether the issuer is to be trusted
 * and the time has not passed is for the caller to say. */
int jwt_decode(const char *text, size_t len, struct jwt_claims *ret_claims);
/* The same, and append the claims' JSON for who wants more of them. */
int jwt_open(const char *text, size_t len, struct jwt_claims *ret_claims, struct buf *json);

#endif
