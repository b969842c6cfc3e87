/*
 * tenant/tenant.h - the tenants that this broker knows, their limits, and how their tables are routed.
 *
 * Shape    tenants_new(), tenants_on_change() for who wants to hear, tenants_open() to follow the database. A handle
 *          (struct muster_tenant) is made once a name and lives as long as the registry: a tenant that is removed is marked
 *          dead and gets its old handle back when it returns. While the database is away, what was last known holds.
 * Charging tenant_charge() takes a request from the buckets of its tenant and of its agent (tenant/usage.h); what other brokers took
 *          comes by tenant_charge_other(), so that the rates of a tenant are those of the whole cluster.
 * Threads  [any] any thread, at any time between tenants_new() and tenants_free(). [loop] the thread of the loop given to
 *          tenants_open(), or before it. Finding and charging take no lock; each() and tables() take one for the time of
 *          counting a reference, never during a callback.
 * Lock     One, struct tenants.lock; nothing is called while it is held.
 */
#ifndef MUSTER_TENANT_TENANT_H
#define MUSTER_TENANT_TENANT_H

#include <muster/plugin.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/name.h"
#include "sql/fault.h"
#include "tenant/limits.h"
#include "tenant/usage.h"

enum { TENANTS_MAX = 1 << 17, TENANT_ANSWERS_PER_S = 100 };
enum { TENANTS_CHANGED = 1, TENANTS_TABLES_CHANGED = 2 };

enum { TENANT_REQUESTS, TENANT_BYTES, TENANT_N_BUCKETS };

/* What tenant_charge() and tenant_enter() say. */
enum {
    TENANT_OK,
    TENANT_OVER_ANSWER, /* over the limit: answer resource_exhausted with retry_after_ms */
    TENANT_OVER_SILENT, /* over the limit, and enough answers have gone out: say nothing */
};

/* Written by the loop's thread, except where noted; name, hash and index never change. */
struct muster_tenant {
    char name[NAME_MAX_LEN + 1];
    uint8_t name_len;
    uint32_t index; /* from 0, in the order of first sight */
    uint64_t hash;  /* of the name: for spreading tenants */
    uint64_t seen;  /* the last reading of the database that had it; of the loop's thread alone */
    atomic_bool live;
    _Atomic uint32_t encoding; /* MUSTER_JSON or MUSTER_MSGPACK */
    _Atomic uint32_t history;  /* replicas of its stream of messages; 0: it has none */
    _Atomic int64_t limits[TENANT_N_LIMITS + LIMITS_MAX_OBJECTS]; /* its own, or what stands in for them; then those of objects */
    /* By any thread: the token buckets, as the time at which each would be full again; what passed here and was not told to the other
     * brokers yet; requests that wait for their answer; and when the last answers went out. */
    _Atomic int64_t full_at_ns[TENANT_N_BUCKETS];
    _Atomic uint64_t untold[TENANT_N_BUCKETS];
    _Atomic uint32_t n_in_flight;
    _Atomic uint32_t n_answers;
    _Atomic uint32_t answered_ms[TENANT_ANSWERS_PER_S];
    _Atomic uint64_t n_charged, n_over, n_silent; /* n_over counts the silent ones too */
};

/* One row of muster.tenants. */
struct tenant_row {
    const char *name;
    size_t name_len;
    uint32_t encoding, history;
    int64_t limits[TENANT_N_LIMITS + LIMITS_MAX_OBJECTS]; /* its own; -1: none */
};

/* Who asks, and how much. The name is borrowed. */
struct tenant_asker {
    const char *agent;
    size_t agent_len, n_bytes;
    int64_t now_ns;
    bool lives;      /* a beat: what a tenant may ask must not make its agents gone, so its agent's limits alone count */
    bool everywhere; /* every broker has the request, and takes it from its own buckets: others need not be told */
};

/* The limit that was reached. */
struct tenant_over {
    int limit; /* TENANT_… */
    int64_t value;
    uint32_t retry_ms;
};

struct tenants;

typedef void (*tenants_change_fn)(void *arg, unsigned int what); /* TENANTS_…CHANGED bits. [loop] */

struct tenants_source {
    uv_loop_t *loop;
    const char *dsn, *broker_id;
    void (*on_link)(void *arg, const struct sql_fault *fault, const char *reason); /* as in struct listen_options; may be NULL. [loop] */
    void *arg;
};

/* A row of muster.credentials was changed; tenant and agent are NULL where any may have been. [loop] */
typedef void (*tenants_credential_fn)(void *arg, const char *tenant, const char *agent, bool is_new);

int tenants_new(struct tenants **ret_tenants);
/* Close first where it was opened. Every handle dies here. Accepts NULL. */
void tenants_free(struct tenants *t);
/* What holds for tenants without a limit of their own; -1: none. A burst stands in only beside a rate that does. Before any tenant is
 * known. [loop] */
void tenants_set_defaults(struct tenants *t, const int64_t limits[TENANT_N_LIMITS]);
/* Read the database and follow it. MUSTER_EINVAL: the connection string cannot be parsed. [loop] */
int tenants_open(struct tenants *t, const struct tenants_source *source);
/* Read the tenants again: a count was declared that was none before. MUSTER_ELINK: they are read when the database is back. [loop] */
int tenants_read(struct tenants *t);
/* Follow no longer; the registry stays. Run the loop once more, for libuv's handles. [loop] */
void tenants_close(struct tenants *t);
/* Have fn called after each change; up to 16 of them, for the registry's life. MUSTER_EAGAIN: there are 16. [loop] */
int tenants_on_change(struct tenants *t, tenants_change_fn fn, void *arg);
/* Have fn told of changed credentials, which the registry itself does not keep; NULL: of nobody. [loop] */
void tenants_on_credential(struct tenants *t, tenants_credential_fn fn, void *arg);

/* A live tenant, or NULL. [any] */
struct muster_tenant *tenants_find(const struct tenants *t, const char *name, size_t len);
/* Call fn for each live tenant, by name. Changes meanwhile are not seen. [any] */
void tenants_each(struct tenants *t, muster_tenant_fn fn, void *arg);
size_t tenants_count(struct tenants *t); /* [any] */
/* Ask the database for one tenant. fn runs once when this gives 0; MUSTER_ENOTFOUND: the name is not legal; MUSTER_ELINK: the
 * database is away; MUSTER_EAGAIN: too many ask. [loop] */
int tenants_refresh(struct tenants *t, const char *name, size_t len, muster_tenant_found_fn fn, void *arg);
/* Ask the database something else on the registry's connection; errors as of listen_ask(). [loop] */
int tenants_ask(struct tenants *t, const char *text, size_t n_params, const char *const *params, muster_sql_fn fn, void *arg);
/* Call fn for each row of muster.tables as last seen, by schema and table. The serial changes when they do. ret_serial may
 * be NULL. [any] */
void tenants_tables(struct tenants *t, muster_table_fn fn, void *arg, uint64_t *ret_serial);

/* Make the registry hold exactly these rows, or, with put, add or change one. Rows without a legal name are left out and
 * logged. What tenants_open() does with what it reads; also for tests. [loop] */
int tenants_set(struct tenants *t, const struct tenant_row *rows, size_t n);
int tenants_put(struct tenants *t, const struct tenant_row *row);
int tenants_set_tables(struct tenants *t, const struct muster_table *rows, size_t n); /* [loop] */

const char *tenants_name(const struct muster_tenant *tenant);                                  /* [any] */
uint32_t tenants_history(const struct muster_tenant *tenant);                                  /* replicas of MSG_<T>; 0: off. [any] */
bool tenants_is_live(const struct muster_tenant *tenant);                                      /* [any] */
int64_t tenants_limit(const struct muster_tenant *tenant, int which);                          /* TENANT_…; -1: none. [any] */
/* A service counts objects of a tenant under this name, <service>.<name>; again for the same is no fault. MUSTER_EAGAIN: there are
 * LIMITS_MAX_OBJECTS. [any] */
int tenants_declare(struct tenants *t, const char *name);
/* The limit of that name, of this table or declared. -1: none, or no such name. [any] */
int64_t tenants_limit_named(const struct tenants *t, const struct muster_tenant *tenant, const char *name);
/* Fill as much of *limits as its size, set by the caller, has room for. MUSTER_EINVAL: size is too small. [any] */
int tenants_limits(const struct muster_tenant *tenant, struct muster_tenant_limits *limits);

/* Charge one request. Over a limit *ret_over says which, and in how long one more would pass, at least 1 ms. At most
 * TENANT_ANSWERS_PER_S answers in any second, whatever the number of threads (a race may let one more pass). [any] */
int tenant_charge(struct tenants *t, struct muster_tenant *tenant, const struct tenant_asker *who, struct tenant_over *ret_over);
/* One more request waits for its answer; tenant_leave() with *ret_place when it has it. Verdicts as above. [any] */
int tenant_enter(struct tenants *t, struct muster_tenant *tenant, const struct tenant_asker *who, struct tenant_place *ret_place,
                 struct tenant_over *ret_over);
void tenant_leave(struct tenants *t, const struct tenant_place *place); /* [any] */
/* Of a limit that the caller keeps itself one more would break it: a verdict as above, never TENANT_OK. [any] */
int tenant_refuse(struct muster_tenant *tenant, int64_t now_ns, int limit, struct tenant_over *ret_over);
/* What has passed here since it was told last, of each bucket that has a limit; false while it is too little to matter. [any] */
bool tenant_take_untold(struct muster_tenant *tenant, uint64_t ret_spent[TENANT_N_BUCKETS]);
/* Another broker let that much pass. [any] */
void tenant_charge_other(struct muster_tenant *tenant, int64_t now_ns, const uint64_t spent[TENANT_N_BUCKETS]);
struct usage *tenants_usage(struct tenants *t);
/* Whether one more of those answers may go out. [any] */
bool tenant_may_answer(struct muster_tenant *tenant, int64_t now_ns);

#endif
