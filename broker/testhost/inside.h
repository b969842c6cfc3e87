/*
 * testhost/inside.h - one test host: what stands behind struct muster_test. Private to testhost/.
 *
 * Threads  Everything is the lane's (the thread that made the host) but what [any] calls touch: that is under `lock`. No function of
 *          the plugin is called with the lock held.
 * Memory   A host that has no memory aborts: there is no test without it.
 */
#ifndef MUSTER_TESTHOST_INSIDE_H
#define MUSTER_TESTHOST_INSIDE_H

#include <muster/testhost.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/buf.h"
#include "config/config.h"
#include "testhost/arena.h"
#include "testhost/calls.h"
#include "wire/schema.h"
#include "wire/subject.h"

enum { TEST_MAGIC = 0x4d545354, DOING_SIZE = 200, REASON_SIZE = 512, FAILURE_SIZE = 700, TEST_MAX_SUBJECT = 512 };
#define TEST_ROOT "mst"

/* A growing array of pointers. */
struct list {
    void **items;
    size_t n, cap;
};
void list_add(struct list *l, void *item);
void list_remove(struct list *l, size_t i); /* keeps the order */
void list_done(struct list *l);             /* the array only */
void *must_alloc(size_t size);              /* zeroed */
char *must_copy(const char *s);             /* NULL gives NULL */
/* A copy with a NUL behind it. */
struct muster_bytes must_copy_bytes(struct muster_bytes b);

struct named_limit {
    char *name;
    int64_t value;
};

/* A name as may_hear() knows it. */
struct known_agent {
    char *name, *groups, *tables;
    uint32_t role;
};

struct muster_tenant {
    struct muster_test *t;
    char *name;
    struct muster_tenant_limits limits;
    struct list named; /* of struct named_limit */
    struct list agents; /* of struct known_agent */
    struct delivery *again; /* what the plugin did not take: the tenant's others wait behind it */
};

/* ---- what is due -------------------------------------------------------------------------------------------------------------- */

enum { /* a kind of due; bits, so that several can be meant */
    DUE_POST = 1u << 0,
    DUE_MESSAGE = 1u << 1,
    DUE_LINK = 1u << 2,  /* a completion that NATS gives */
    DUE_LOCAL = 1u << 3, /* one that does not need it */
    DUE_TIMER = 1u << 4,
};
#define DUE_ALL_COMPLETIONS (DUE_LINK | DUE_LOCAL)

struct due {
    struct due *next;
    int64_t at_ns;
    uint32_t kind;
    int callback; /* CALL_* of its callback, which a fault may hit; -1: none */
    uint64_t owner; /* the stream, timer … that it belongs to; 0: none */
    /* Runs on the lane and frees d. code: 0, or what a fault or the end of its link says. */
    void (*run)(struct muster_test *t, struct due *d, int code);
};
/* Put in by time, behind what is due then already. Any thread. */
void due_add(struct muster_test *t, struct due *d, int64_t at_ns);
/* Take out without running it. */
void due_remove(struct muster_test *t, struct due *d);
/* Run all of these kinds (and owner, unless 0) that wait now with code. */
void due_end(struct muster_test *t, uint32_t kinds, uint64_t owner, int code);
struct due *due_find(struct muster_test *t, uint32_t kinds, uint64_t owner);

struct roster; /* roster/roster.h */

/* ---- the host ----------------------------------------------------------------------------------------------------------------- */

enum { PHASE_NEW, PHASE_CREATE, PHASE_CREATED, PHASE_STARTED, PHASE_ENDING, PHASE_ENDED };

struct settings {
    struct config *config;
    struct arena *arena; /* the bound struct */
    void *values;
};

struct request {
    uint64_t number;
    struct muster_test_answer answer;
    _Atomic bool answered, open, refused; /* refused: an answer met a fault */
    bool taken;                           /* by a subscription */
    bool queue;                           /* of that */
    uint32_t encoding;
    char *subject;
    const struct schema_entry *definition;
};

struct sub {
    uint64_t id;
    struct muster_subscription how;
    char *subject;
    uint32_t n_msgs;
    size_t n_bytes;
    bool dead;
};

struct sent {
    struct muster_test_sent seen; /* first */
    muster_reply_fn reply;        /* of a question that is open; NULL otherwise */
    void *arg;
    struct due *expiry;
};

struct script { /* who answers questions on a pattern */
    char *pattern;
    muster_test_answer_fn fn;
    void *arg;
};

struct statement {
    char *name, *text;
    int kind;
};
struct sql_script {
    char *name; /* NULL: all others */
    muster_test_sql_fn fn;
    void *arg;
};

struct delivery {
    struct due due; /* first */
    struct sub *sub;
    struct muster_tenant *tenant;
    struct arena *arena;
    struct muster_msg *msg;
    struct request *request; /* NULL: nobody waits */
    const struct schema_entry *definition;
    int64_t again_until_ns; /* 0: it has not been refused */
    bool held, is_answer;
};

struct service {
    const struct muster_service *how;
    struct schema *schema; /* NULL: no definition */
};

struct metric {
    char *name, *label;
    int type;
    struct list values; /* of struct metric_value */
    int64_t sum_ns;
};
struct metric_value {
    char *label; /* NULL: the one without */
    int64_t value;
};

struct io_watch {
    uint64_t id;
    int fd;
    uint32_t events;
    muster_io_fn fn;
    void *arg;
};

struct muster_test {
    struct muster_host host;       /* first: the plugin's pointer is the host */
    struct muster_host check_host; /* of check(): beside the other, which the plugin's threads use meanwhile */
    uint32_t magic;
    uint32_t flags;
    pthread_t lane;
    const struct muster_plugin *plugin; /* NULL: it did not load */
    char *instance, *dsn;
    char area[160]; /* "hello 1.0.0" */
    void *self;
    _Atomic int phase;
    bool started, reported, paused;
    _Atomic bool up;
    char doing[DOING_SIZE];
    struct settings settings;
    char *given; /* the settings as text */
    struct list services;             /* of struct service */

    pthread_mutex_t lock; /* guards what follows, up to the blank line */
    char reason[REASON_SIZE];
    struct list failures; /* of char * */
    void (*on_failure)(void *arg, const char *text);
    void *on_failure_arg;
    struct due *due;
    _Atomic int64_t now_ns, wall_ahead_ns;
    struct list requests, sent, held; /* of struct request, sent, delivery */
    struct list lines;                /* of struct muster_test_line */
    struct list metrics;
    uint64_t n_calls[N_CALLS], n_given[N_CALLS];
    struct list faults; /* of struct fault */
    int health;
    char *health_code, *health_text;
    bool wants_writable;

    struct delivery *delivering;
    struct list tenants, tables; /* of struct muster_tenant, struct table_row */
    uint64_t tables_serial;
    struct list subs, scripts, statements, sql_scripts, timers, watches;
    struct list streams, handles, follows, keys, leases, epochs, connections, sys_watches, lost_servers, roster_watches;
    struct roster *roster;
    uint64_t next_id, revision;
    struct list positions; /* of char *: what position() gave */
    struct buf body;       /* of muster_test_body() */
};

/* The host of a call; NULL when what was passed is none, which has been told. */
struct muster_test *test_of(const struct muster_host *host, int call);

/* Count a call, hold it against the rules of threads and times. 0: go on; otherwise the code that the call gives: of a breach, of a
 * fault. */
int call_begin(struct muster_test *t, int call);
/* The fault that a call or callback is to meet now; 0: none. */
int fault_take(struct muster_test *t, int call);
/* A breach of the header: keep it as a failure that names the call and what runs, and return MUSTER_EINVAL. */
int breach(struct muster_test *t, int call, const char *fmt, ...) MUSTER_PRINTF(3, 4);
/* A failure of any other kind. */
void fail_test(struct muster_test *t, const char *fmt, ...) MUSTER_PRINTF(2, 3);
/* Tell where p points into memory that was borrowed and is gone. False: it does not. */
bool is_stale(struct muster_test *t, int call, const char *what, const void *p);
/* Keep a reason as host->fail() does; returns code. */
int test_fail(struct muster_test *t, int code, const char *fmt, ...) MUSTER_PRINTF(3, 4);

/* Bracket a callback of the plugin. */
void doing_begin(struct muster_test *t, const char *callback, const char *about, int64_t *ret_began);
void doing_end(struct muster_test *t, int64_t began);
#define DURING(t, callback, about, statement)               \
    do {                                                    \
        int64_t began_;                                     \
        doing_begin((t), (callback), (about), &began_);     \
        statement;                                          \
        doing_end((t), began_);                             \
    } while (0)

/* settings.c. */
int test_settings_new(struct muster_test *t, const char *text, struct settings *out);
int test_settings_check(struct muster_test *t, const struct settings *s); /* the plugin's check() */
void test_settings_done(struct muster_test *t, struct settings *s, const char *what);
bool test_settings_position(const struct settings *s, const char *key, char out[256]);

/* services.c. */
void services_load(struct muster_test *t);
void services_done(struct muster_test *t);
const struct schema_entry *services_verb(struct muster_test *t, struct text service, struct text verb);

/* tenant.c */
struct muster_tenant *tenant_named(struct muster_test *t, const char *name, size_t len); /* NULL: none */
struct muster_tenant *tenant_need(struct muster_test *t, const char *name);              /* NULL: the first; told when there is none */
bool tenant_is(struct muster_test *t, int call, const struct muster_tenant *tenant);     /* told when it is no handle */
bool may_cross(const struct muster_test *t);
bool test_has_capability(const struct muster_test *t, const char *capability);

/* bus.c, stream.c, … : what an end of the instance, or of the host, has to do. */
void bus_end(struct muster_test *t);
void bus_free(struct muster_test *t);
void stream_free(struct muster_test *t);
void follow_link(struct muster_test *t, bool up);
void kv_free(struct muster_test *t);
void lease_link(struct muster_test *t, bool up);
bool lease_holds(struct muster_test *t, uint64_t lease);
void lease_end(struct muster_test *t);
void lease_free(struct muster_test *t);
void sys_end(struct muster_test *t);
void sys_free(struct muster_test *t);
void roster_begin(struct muster_test *t);
void roster_end(struct muster_test *t);
void roster_done(struct muster_test *t);
/* This thread is inside a function that get() or find() of the roster called. */
extern _Thread_local bool testing_roster;
void time_end(struct muster_test *t);
bool io_poll(struct muster_test *t, int timeout_ms); /* false: nothing was ready */
void misc_free(struct muster_test *t);
void sql_free_all(struct muster_test *t);
void tenant_free_all(struct muster_test *t);
void codec_end(struct muster_test *t);
struct sent *sent_add(struct muster_test *t, uint32_t kind, const struct muster_tenant *tenant, const char *subject,
                      const struct muster_header *headers, uint32_t n_headers, struct muster_bytes payload);
struct sent *sent_make(struct muster_test *t, uint32_t kind, const struct muster_tenant *tenant, const char *subject,
                       const struct muster_header *headers, uint32_t n_headers, struct muster_bytes payload);
void sent_free(struct sent *s);
void starve(struct muster_test *t); /* a call gave MUSTER_EAGAIN that on_writable follows */
/* The message of a stored or sent one in an arena of its own. */
struct muster_msg *msg_make(struct arena *a, const struct muster_test_sent *from, const struct muster_tenant *tenant);
size_t msg_room(const struct muster_test_sent *from);

extern const struct muster_bus test_bus;
extern const struct muster_stream test_stream;
extern const struct muster_kv test_kv;
extern const struct muster_lease test_lease;
extern const struct muster_sys test_sys;
extern const struct muster_roster test_roster;
extern const struct muster_timer test_timer;
extern const struct muster_io test_io;
extern const struct muster_tenants test_tenants;
extern const struct muster_config test_config;
extern const struct muster_metrics test_metrics;
extern const struct muster_sql test_sql;
const struct muster_codec *test_codec(void);

#endif
