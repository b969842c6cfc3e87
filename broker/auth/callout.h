/*
 * auth/callout.h - what a NATS server asks and is answered when somebody logs in whom it does not know (auth callout, 2.10 and
 * newer): both are JWTs.
 *
 * Shape    callout_read() takes a request; callout_put_admission() or callout_put_refusal() append the answer. The user of an
 *          answer may what the table of roles says, with the names written out, and is named <tenant>.<agent>: so the server tells
 *          it in its events, where it tells no JWT.
 * Errors   0, MUSTER_EINVAL (a text that is no such request, or not signed by the server that it names) or MUSTER_ENOMEM.
 * Memory   A request holds what the client brought, secrets too: callout_request_done() wipes it. Its strings are its own.
 * Threads  Any; no state.
 */
#ifndef MUSTER_AUTH_CALLOUT_H
#define MUSTER_AUTH_CALLOUT_H

#include <stdint.h>

#include "auth/nkey.h"
#include "auth/roles.h"
#include "base/buf.h"

#define CALLOUT_SUBJECT "$SYS.REQ.USER.AUTH"
#define CALLOUT_REQUEST_MAX 65536 /* bytes; a CONNECT line of a client is shorter by default */

struct callout_request {
    char user_key[NKEY_TEXT_SIZE]; /* made for this login: the answer must name it */
    char server[NKEY_TEXT_SIZE];   /* who asks, and signed */
    const char *token;             /* auth_token, else pass; "" when neither came */
    const char *user, *client_name, *host;
    int64_t issued, expires; /* seconds since 1970; the server waits between the two */
    struct buf text;         /* private: what the strings stand in */
};

/* *ret_request is written, and to be done with, on success only. */
int callout_read(const char *text, size_t len, struct callout_request *ret_request);
void callout_request_done(struct callout_request *request); /* accepts one that is zero, or done */

/* Who answers, and for which accounts. */
struct callout_issuer {
    const struct nkey *key; /* of both accounts a signing key; of a static server the issuer that its configuration names */
    const char *account;    /* the agents' account: its public key; of a static server its name */
    const char *asked;      /* the public key of the account that is asked; NULL: a static server */
};

struct callout_user {
    const char *root, *tenant, *agent;
    int role;              /* ROLE_* */
    const struct role_narrowing *narrowing; /* NULL: none */
    int64_t subscriptions; /* that its connection may hold */
    int64_t expires;       /* seconds since 1970; 0: never */
};

int callout_put_admission(struct buf *out, const struct callout_issuer *issuer,
                          const struct callout_request *request, const struct callout_user *user);
/* The server logs the reason; the client does not hear it. */
int callout_put_refusal(struct buf *out, const struct callout_issuer *issuer,
                        const struct callout_request *request, const char *reason);

#endif
