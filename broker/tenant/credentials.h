/*
 * tenant/credentials.h - the names that this broker knows: role, narrowing, expiry, revocation (rows of muster.credentials).
 *
 * Shape    A cache. Finding a name takes one shard's lock for reading and allocates nothing; a name that is not there is asked for with
 *          credentials_want(), many in one statement, and on_answer() tells how that ended. A struct credential stays one object for as
 *          long as its name is cached or anybody holds it, and changes in place: so what was handed on says what holds now.
 * Fresh    credentials_changed() for each notice of a changed row, credentials_stale() after each time without notices: what is cached is
 *          read again, and holds until that has been done; so while the database is away what was last known holds.
 * Operator Outside its own tenant it asks as `_op_<name>` (auth/roles.h): looked up with tenant NULL, in whatever tenant has the name with
 *          that role.
 * Bounds   CREDENTIALS_MAX names; the ones that were not asked for lately give way, never one that somebody holds. Questions are bounded by
 *          who asks; changes of names that are not cached by CREDENTIALS_CHANGES_MAX.
 * Threads  [any] any thread; [loop] the thread of the loop given to credentials_open(), or before it.
 */
#ifndef MUSTER_TENANT_CREDENTIALS_H
#define MUSTER_TENANT_CREDENTIALS_H

#include <muster/plugin.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/name.h"
#include "tenant/tenant.h"

enum { CREDENTIALS_MAX = 1 << 17, CREDENTIALS_BATCH = 4096, CREDENTIALS_CHANGES_MAX = 16384, CREDENTIALS_WATCHERS_MAX = 8 };

enum { /* whether a name may speak */
    CREDENTIAL_LIVE,
    CREDENTIAL_EXPIRED,
    CREDENTIAL_REVOKED,
    CREDENTIAL_GONE, /* the row is no more */
};
enum { /* how a question ended */
    CREDENTIALS_KNOWN, /* it is cached now, whatever its state */
    CREDENTIALS_UNKNOWN,
    CREDENTIALS_AWAY,
};

/* One name. tenant, agent and hash never change. */
struct credential {
    struct credential *next; /* in its bucket; under the shard's lock */
    struct credential *next_stale;
    atomic_uint refs;
    const struct muster_tenant *tenant; /* NULL: an operator, wherever it asks */
    uint64_t hash;
    _Atomic uint32_t role; /* MUSTER_ROLE_* */
    atomic_bool revoked, gone, narrowed;
    _Atomic int64_t expires_wall_ns; /* 0: never */
    atomic_bool used;                /* since the last look for room */
    bool stale;                      /* waits to be read again; of the loop's thread */
    /* Narrowed, or NULL; under the shard's lock. */
    char *verbs;            /* "task.get presence.*", blanks between */
    char *groups, *tables; /* as of struct role_narrowing */
    char agent[];          /* as the subject has it */
};

struct credentials;

/* One row of muster.credentials. */
struct credential_row {
    const char *role; /* a word */
    int64_t expires_wall_ns;
    bool revoked;
    const char *verbs; /* NULL: all that the role may use */
    const char *groups, *tables; /* likewise, with commas */
};

/* A question that was asked with credentials_want() has been answered. [loop], or the asking thread when nothing can be asked. */
typedef void (*credentials_answer_fn)(void *arg, const char *tenant, const char *agent, int what);
/* A row was changed or removed, and has been read: state is CREDENTIAL_*. Also for names that were not cached. [loop] */
typedef void (*credentials_change_fn)(void *arg, const char *tenant, const char *agent, int state);

struct credentials_options {
    struct tenants *tenants; /* whose connection is used */
    void (*wake)(void *arg); /* have credentials_run() called on the loop; from any thread, also under locks */
    credentials_answer_fn on_answer;
    void *arg;
};

int credentials_new(const struct credentials_options *options, struct credentials **ret_credentials);
/* Everybody has given back what he held. Accepts NULL. */
void credentials_free(struct credentials *c);
/* Begin and end what runs on the loop. What is asked for is answered CREDENTIALS_AWAY at the end. [loop] */
int credentials_open(struct credentials *c, uv_loop_t *loop);
void credentials_close(struct credentials *c);
/* Ask what is due. [loop] */
void credentials_run(struct credentials *c);

/* Counted: credential_unref() it. NULL: not cached. tenant NULL: an operator. [any] */
struct credential *credentials_find(struct credentials *c, const struct muster_tenant *tenant, const char *agent, size_t len);
struct credential *credential_ref(struct credential *credential); /* accepts NULL. [any] */
void credential_unref(struct credential *credential);             /* accepts NULL. [any] */
/* CREDENTIAL_*, at that time. [any] */
int credential_state(const struct credential *credential, int64_t wall_ns);
bool credential_expires(const struct credential *credential); /* some day */
uint32_t credential_role(const struct credential *credential); /* MUSTER_ROLE_*; NONE for NULL: broker and plugins. [any] */
/* Whether the narrowing leaves the verb; the role is another question (auth/access.h). [any] */
bool credential_may(struct credentials *c, const struct credential *credential, const char *service, size_t service_len,
                    const char *verb, size_t verb_len);

/* Whether its subscriptions cover a subject, which is written out and may have wildcards: by its role and its narrowing. tenant: where it
 * asks. [any] */
bool credential_may_hear(struct credentials *c, const struct credential *credential, const char *root, const char *tenant,
                         const char *subject);

/* Ask the database for a name. tenant "": an operator. on_answer() follows once. [any] */
void credentials_want(struct credentials *c, const char *tenant, size_t tenant_len, const char *agent, size_t agent_len);
/* A row was changed (removed: read as well); both names NULL: any may have been. [loop] */
void credentials_changed(struct credentials *c, const char *tenant, const char *agent, bool is_new);
/* Read all again. [loop] */
void credentials_stale(struct credentials *c);
/* MUSTER_EAGAIN: there are CREDENTIALS_WATCHERS_MAX. Before credentials_open(). */
int credentials_on_change(struct credentials *c, credentials_change_fn fn, void *arg);
/* Put a row; NULL: there is none any more. What the database's answers go through; also for tests. MUSTER_ENOMEM, MUSTER_EAGAIN: no room,
 * MUSTER_EINVAL: a role that this version does not know. [loop] */
int credentials_put(struct credentials *c, const struct muster_tenant *tenant, const char *agent, const struct credential_row *row);
size_t credentials_count(const struct credentials *c); /* cached names. [any] */

#endif
