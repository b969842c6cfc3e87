/*
 * muster/testhost.h - a host for tests of plugins: no broker, no NATS, no PostgreSQL.
 *
 * Shape    One struct muster_test is one instance of a plugin and all that it can reach: a struct muster_host with every service of
 *          muster/plugin.h, on a clock that only the test moves. The test says what comes (messages, answers, rows, faults), runs what
 *          is due, and reads what the plugin did. Settings, bodies and definitions go through the broker's own code.
 *          Link with libmuster-testhost; the plugin is linked in (its entry function) or loaded from a file.
 * Checks   What the plugin does against muster/plugin.h is a failure, told with the call that broke the rule: calls on the wrong
 *          thread or at the wrong time; a message or pointer used after its callback; requests that are not answered or answered twice;
 *          answers that do not fit their definition; held messages, documents and writers that are not given back; NULLs, size 0,
 *          wildcards where none may be; and what is left when destroy() has returned: threads, descriptors, signal handlers, umask,
 *          working folder, environment, locale (so what the test opens between create and destroy, it closes there). With AddressSanitizer leaks of memory count too.
 *          Borrowed memory is taken away when its callback has returned: who reads it then ends with SIGSEGV, and stderr says whose
 *          memory it was.
 * Threads  All functions here are for one thread, the one that called muster_test_new(): it is the lane. Threads of the plugin call
 *          what is [any]. Several hosts may live side by side on one thread.
 * Memory   What is returned by pointer is borrowed until muster_test_free(), where nothing else is said. What is passed in is copied.
 * Errors   0 or MUSTER_E*, as in muster/plugin.h. Mistakes of the test itself (a tenant that was never added, a NULL) are failures too.
 * Units    _ns: nanoseconds of the clock of the test, which begins at 1,000 s; wall_ns at 2026-01-01T00:00:00Z.
 */
#ifndef MUSTER_TESTHOST_H
#define MUSTER_TESTHOST_H

#include <muster/plugin.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MUSTER_TEST_API __attribute__((visibility("default")))

#define MUSTER_TEST_MS INT64_C(1000000)
#define MUSTER_TEST_S INT64_C(1000000000)

struct muster_test;

/* ---- life --------------------------------------------------------------------------------------------------------------------- */

enum {
    MUSTER_TEST_ABORT = 1u << 0,  /* abort() at the first failure, where a debugger shows who it was */
    MUSTER_TEST_STRICT = 1u << 1, /* timers, subscriptions, streams and leases still open when destroy() returns are failures; a broker
                                   * would end them without a word */
    MUSTER_TEST_LINK_DOWN = 1u << 2, /* NATS is away at first; muster_test_link() */
};

struct muster_test_options {
    uint32_t size;
    uint32_t flags; /* MUSTER_TEST_* */
    const struct muster_plugin *(*entry)(void); /* muster_plugin_entry_v0 of the plugin that is linked in; or */
    const char *file;                           /* its file */
    const char *config;   /* settings as they stand below `config:` in muster.yaml, "greeting: Hi\ncolour: red\n"; NULL: none */
    const char *instance; /* NULL: the plugin's name */
    const char *tenants;  /* names, separated by blanks; NULL: "acme" */
    const char *dsn;      /* postgres_dsn for a plugin with that capability; NULL: one where nobody answers */
    uint32_t lane, n_lanes; /* n_lanes 0: 1 */
};

/* Make a host. Nothing of the plugin runs yet but its entry. NULL only without memory; that a file does not load or a descriptor is
 * wrong is a failure, and every later step gives MUSTER_EABI. */
MUSTER_TEST_API struct muster_test *muster_test_new(const struct muster_test_options *options);
/* Bind the settings and call the plugin's check(). Part of muster_test_create(); by itself for tests of settings. */
MUSTER_TEST_API int muster_test_check(struct muster_test *t);
MUSTER_TEST_API int muster_test_create(struct muster_test *t);
/* Call start(), then on_link() and on_tables() as a broker that just came up does. */
MUSTER_TEST_API int muster_test_start(struct muster_test *t);
/* Bind new settings, hold them against check(), and call reload(). MUSTER_EABI: the plugin has none. */
MUSTER_TEST_API int muster_test_reload(struct muster_test *t, const char *config);
/* Call drain(), then move the clock on until no request is open, to the deadline at most: those open then are failures. */
MUSTER_TEST_API void muster_test_drain(struct muster_test *t, int64_t timeout_ns);
/* Complete what is open with MUSTER_ELINK, call destroy(), and look at what is left. */
MUSTER_TEST_API void muster_test_destroy(struct muster_test *t);
/* destroy() where it is due, and the end of the host. Returns the number of failures. They are written to stderr when the test has
 * not asked for them. */
MUSTER_TEST_API size_t muster_test_free(struct muster_test *t);
/* muster_test_new(), create and start in one; failures of these are failures. */
MUSTER_TEST_API struct muster_test *muster_test_begin(const struct muster_test_options *options);

MUSTER_TEST_API const struct muster_plugin *muster_test_plugin(const struct muster_test *t); /* NULL: it did not load */
MUSTER_TEST_API const struct muster_host *muster_test_host(const struct muster_test *t);
MUSTER_TEST_API const void *muster_test_config(const struct muster_test *t); /* the struct that the plugin has now */
MUSTER_TEST_API void *muster_test_self(const struct muster_test *t);
/* The reason of the last failed call, as host->fail() or the host kept it; "" for none. Good until the next failure. */
MUSTER_TEST_API const char *muster_test_reason(const struct muster_test *t);

/* ---- failures ----------------------------------------------------------------------------------------------------------------- */

MUSTER_TEST_API size_t muster_test_failures(struct muster_test *t);
MUSTER_TEST_API const char *muster_test_failure(struct muster_test *t, size_t i); /* NULL: there is none */
/* Forget those so far: for tests that expect one. */
MUSTER_TEST_API void muster_test_forgive(struct muster_test *t);
MUSTER_TEST_API void muster_test_report(struct muster_test *t, FILE *out);
/* Told at once of each failure, on the thread that made it. */
MUSTER_TEST_API void muster_test_on_failure(struct muster_test *t, void (*fn)(void *arg, const char *text), void *arg);
/* What of the plugin runs now, "message rpc.ann.hello.say"; "" when nothing does. May be called in a signal handler. */
MUSTER_TEST_API const char *muster_test_doing(const struct muster_test *t);

/* ---- time --------------------------------------------------------------------------------------------------------------------- */

/* Run what is due now: posts, messages, completions, timers, ready descriptors; and what comes of it, until all is at rest. */
MUSTER_TEST_API void muster_test_run(struct muster_test *t);
/* Move the clock on, running what becomes due at its time. */
MUSTER_TEST_API void muster_test_advance(struct muster_test *t, int64_t ns);
MUSTER_TEST_API int64_t muster_test_now(const struct muster_test *t);
MUSTER_TEST_API int64_t muster_test_wall_now(const struct muster_test *t);
/* Move the wall clock alone, as an operator or ntpd does. */
MUSTER_TEST_API void muster_test_jump_wall(struct muster_test *t, int64_t ns);
/* For plugins with threads or descriptors of their own: run and wait in real time until done(arg) says so. 0, or MUSTER_ETIME. */
MUSTER_TEST_API int muster_test_wait(struct muster_test *t, int (*done)(void *arg), void *arg, int timeout_ms);

/* ---- what comes: messages and requests ---------------------------------------------------------------------------------------- */

struct muster_test_message {
    uint32_t size;
    uint32_t encoding;   /* 0: MUSTER_JSON */
    const char *tenant;  /* NULL: the first one */
    const char *agent;   /* NULL: of "rpc.<agent>.…", "all.<agent>.…" what the subject says, otherwise nobody known */
    const char *subject; /* what follows R.T. */
    const struct muster_header *headers;
    uint32_t n_headers;
    uint32_t asks; /* 1: it waits for an answer */
    struct muster_bytes payload;
    uint32_t role; /* MUSTER_ROLE_*; 0: of an agent AGENT. What the role may not ask for is refused as by a broker. 0.3 */
};

/* Deliver to the subscriptions that match, and run. Returns its number, for muster_test_answer(); a message that no subscription
 * takes, or that its definition refuses, has an error for an answer as from a broker. */
MUSTER_TEST_API uint64_t muster_test_send(struct muster_test *t, const struct muster_test_message *msg);
/* The same for a request with a JSON body: subject "rpc.<agent>.<service>.<verb>", of the first tenant. */
MUSTER_TEST_API uint64_t muster_test_request(struct muster_test *t, const char *subject, const char *json);
/* The same for a message that waits for nothing. */
MUSTER_TEST_API void muster_test_tell(struct muster_test *t, const char *subject, const char *json);
/* Deliver only, for tests of order and bounds: muster_test_run() goes on. */
MUSTER_TEST_API uint64_t muster_test_queue(struct muster_test *t, const struct muster_test_message *msg);

struct muster_test_answer {
    const char *error;   /* the code, "not_found"; NULL: it is none */
    const char *field, *message; /* of an error; NULL: none */
    uint32_t encoding;
    uint32_t by_host; /* 1: the host gave it, because the plugin did not or could not */
    struct muster_bytes payload; /* ends in a NUL that is not counted */
};
/* NULL: not answered yet. */
MUSTER_TEST_API const struct muster_test_answer *muster_test_answer(struct muster_test *t, uint64_t number);
/* The payload as text, "" when there is none. */
MUSTER_TEST_API const char *muster_test_answer_text(struct muster_test *t, uint64_t number);
/* Requests that are held or wait. */
MUSTER_TEST_API size_t muster_test_n_open(struct muster_test *t);
MUSTER_TEST_API size_t muster_test_n_subscriptions(struct muster_test *t);
MUSTER_TEST_API const char *muster_test_subscription(struct muster_test *t, size_t i); /* its subject; NULL: there is none */

/* A body that fits the definition of a verb, made from the seed; with broken set, one that does not fit, or is no body at all. NULL
 * data: there is no such definition. Owned by the host, good until the next call. */
MUSTER_TEST_API struct muster_bytes muster_test_body(struct muster_test *t, const char *service, const char *verb, uint32_t encoding,
                                                     uint64_t seed, int broken);

/* ---- what the plugin sent ----------------------------------------------------------------------------------------------------- */

enum { MUSTER_TEST_PUBLISHED, MUSTER_TEST_ASKED, MUSTER_TEST_APPENDED };
struct muster_test_sent {
    uint32_t kind; /* MUSTER_TEST_PUBLISHED, also events; ASKED: by bus->request(); APPENDED: to a stream */
    uint32_t n_headers;
    const char *tenant, *subject;
    const char *stream; /* of APPENDED */
    const struct muster_header *headers;
    struct muster_bytes payload; /* ends in a NUL that is not counted */
    int64_t at_ns, timeout_ns;   /* timeout of ASKED */
    uint64_t seq;                /* of APPENDED */
    const char *reply;           /* of PUBLISHED: where respond() goes, what follows R.T.; NULL: nowhere. 0.4 */
};
/* In the order of the calls; NULL: there is none. */
MUSTER_TEST_API size_t muster_test_n_sent(struct muster_test *t);
MUSTER_TEST_API const struct muster_test_sent *muster_test_sent(struct muster_test *t, size_t i);
/* The last one whose subject matches the pattern ("evt.hello.>"); NULL: none. */
MUSTER_TEST_API const struct muster_test_sent *muster_test_sent_on(struct muster_test *t, const char *pattern);
/* Answer what was asked, by its index in muster_test_sent(), and run. code 0: with a JSON body; MUSTER_ETIME is what it gets by
 * itself after its timeout. MUSTER_ENOTFOUND: it was no question, or is answered. */
MUSTER_TEST_API int muster_test_answer_to(struct muster_test *t, size_t i, int code, const char *json);
/* Answer what is asked on subjects of the pattern from now on: fn returns the code and sets *ret_json (borrowed until it is called
 * again). fn NULL: no more. */
typedef int (*muster_test_answer_fn)(void *arg, const struct muster_test_sent *asked, const char **ret_json);
MUSTER_TEST_API void muster_test_answer_by(struct muster_test *t, const char *pattern, muster_test_answer_fn fn, void *arg);

/* ---- faults ------------------------------------------------------------------------------------------------------------------- */

/* A function of the host that can fail: "bus.publish", "sql.exec"; or "kv.get:callback", what its callback is told. */
struct muster_test_function {
    const char *name;
    int codes[6]; /* what it may give, ended by 0 */
};
MUSTER_TEST_API const struct muster_test_function *muster_test_functions(size_t *ret_n);
/* Let calls of a function give code: from the `first` on (1: the next), `count` of them (0: all that follow). name NULL: every
 * function that may give that code. Faults add up. */
MUSTER_TEST_API void muster_test_fault(struct muster_test *t, const char *name, int code, uint32_t first, uint32_t count);
MUSTER_TEST_API void muster_test_no_faults(struct muster_test *t);
/* How often a function was called, and how often a fault was given, since muster_test_new(); name NULL: all. */
MUSTER_TEST_API uint64_t muster_test_calls(struct muster_test *t, const char *name);
MUSTER_TEST_API uint64_t muster_test_faults_given(struct muster_test *t, const char *name);

/* NATS comes or goes: what is under way completes with MUSTER_ELINK, on_link() is called. */
MUSTER_TEST_API void muster_test_link(struct muster_test *t, int up);
/* Call on_writable(), on_pause() or on_resume(), on_tables(), where the plugin has them. */
MUSTER_TEST_API void muster_test_writable(struct muster_test *t);
MUSTER_TEST_API void muster_test_pressure(struct muster_test *t, int on);
MUSTER_TEST_API void muster_test_tables_changed(struct muster_test *t);

/* ---- tenants ------------------------------------------------------------------------------------------------------------------ */

/* Add a tenant, or find it. */
MUSTER_TEST_API const struct muster_tenant *muster_test_tenant(struct muster_test *t, const char *name);
MUSTER_TEST_API void muster_test_tenant_limits(struct muster_test *t, const char *name, const struct muster_tenant_limits *limits);
/* What tenants->limit() gives for a name; -1: none. */
MUSTER_TEST_API void muster_test_tenant_limit(struct muster_test *t, const char *name, const char *limit, int64_t value);
/* What tenants->may_hear() knows of a name: its role, and the groups and tables that it is narrowed to, with commas between (NULL: all). role
 * MUSTER_ROLE_NONE: the name is not held. One that was never told has MUSTER_ROLE_AGENT. Tell it before the plugin's own threads ask. 0.4 */
MUSTER_TEST_API void muster_test_agent(struct muster_test *t, const char *tenant, const char *agent, uint32_t role, const char *groups,
                                       const char *tables);
/* Add a row of muster.tables; tell with muster_test_tables_changed(). */
MUSTER_TEST_API void muster_test_table(struct muster_test *t, const struct muster_table *table);

/* ---- what is stored ----------------------------------------------------------------------------------------------------------- */

/* tenant NULL: the plugin's own keys. revision 0: no such key. */
struct muster_test_value {
    struct muster_bytes value; /* ends in a NUL that is not counted; good until the key changes */
    uint64_t revision;
};
MUSTER_TEST_API struct muster_test_value muster_test_kv_get(struct muster_test *t, const char *tenant, const char *key);
/* As another broker would: returns the new revision. value.data NULL removes the key. */
MUSTER_TEST_API uint64_t muster_test_kv_put(struct muster_test *t, const char *tenant, const char *key, struct muster_bytes value);

/* A stream by its name. MUSTER_ENOTFOUND: nobody made it. */
MUSTER_TEST_API int muster_test_stream(struct muster_test *t, const char *name, struct muster_stream_info *ret_info);
/* One stored message; NULL: there is no such one. */
MUSTER_TEST_API const struct muster_test_sent *muster_test_stored(struct muster_test *t, const char *name, uint64_t seq);
/* As another broker would: append one, making the stream where it is missing. Returns its sequence. */
MUSTER_TEST_API uint64_t muster_test_store(struct muster_test *t, const char *name, const char *tenant, const char *subject,
                                           struct muster_bytes payload);
/* Drop what is stored up to a sequence, as the stream's bounds do; or the whole stream, as an operator does. MUSTER_ENOTFOUND: nobody made
 * it. 0.4 */
MUSTER_TEST_API int muster_test_drop(struct muster_test *t, const char *name, uint64_t up_to);
MUSTER_TEST_API int muster_test_remove_stream(struct muster_test *t, const char *name);

/* A lease that the plugin contends for is held by nobody until it is given (name NULL: all), and lost when it is taken: code
 * MUSTER_ESTALE or MUSTER_ETIME. Each giving raises the epoch. MUSTER_ENOTFOUND: nobody contends, or it is so already. */
MUSTER_TEST_API int muster_test_lease_give(struct muster_test *t, const char *name);
MUSTER_TEST_API int muster_test_lease_take(struct muster_test *t, const char *name, int code);

/* ---- SQL ---------------------------------------------------------------------------------------------------------------------- */

struct muster_test_rows; /* what is being answered */
struct muster_test_statement {
    const char *name, *text; /* as prepared */
    const char *tenant;      /* NULL: across tenants */
    const char *order_key;   /* NULL: none */
    uint32_t n_params;
    const struct muster_bytes *params; /* data NULL: SQL NULL */
};
/* Answer a statement: add rows, and return 0 or the code of the failure. */
typedef int (*muster_test_sql_fn)(void *arg, const struct muster_test_statement *statement, struct muster_test_rows *rows);
/* name NULL: all statements without a function of their own. Without any there are no rows; a write gives one with "{}". */
MUSTER_TEST_API void muster_test_sql(struct muster_test *t, const char *name, muster_test_sql_fn fn, void *arg);
/* values: n_columns texts, NULL for SQL NULL. All rows have as many. */
MUSTER_TEST_API void muster_test_row(struct muster_test_rows *rows, uint32_t n_columns, const char *const *values);
MUSTER_TEST_API void muster_test_sql_error(struct muster_test_rows *rows, const char *sqlstate, const char *text);

/* ---- connections (muster.sys/1) ----------------------------------------------------------------------------------------------- */

/* server NULL: "NTEST". */
MUSTER_TEST_API void muster_test_connect(struct muster_test *t, const char *tenant, const char *agent, const char *server, uint64_t client);
MUSTER_TEST_API void muster_test_disconnect(struct muster_test *t, const char *server, uint64_t client, const char *reason);
MUSTER_TEST_API void muster_test_gap(struct muster_test *t);
/* A NATS server is lost (up 0), with its connections, whose ends and begins nobody hears and which list() does not show until it is back. 0.4 */
MUSTER_TEST_API void muster_test_server(struct muster_test *t, const char *server, int up);

/* ---- who is present (muster.roster/1) --------------------------------------------------------------------------------------------- 0.4 */

/* As the plugin presence would: an agent is there, or has changed; kind is what those who watch are told (0: nothing). */
MUSTER_TEST_API void muster_test_present(struct muster_test *t, const char *tenant, uint32_t kind, const char *reason,
                                         const struct muster_agent *agent);
MUSTER_TEST_API void muster_test_absent(struct muster_test *t, const char *tenant, const char *agent, const char *reason);
/* What the roster has, as roster->find() gives it: also of a plugin that keeps it. query NULL: all. */
MUSTER_TEST_API int64_t muster_test_roster(struct muster_test *t, const char *tenant, const struct muster_roster_query *query, muster_agent_fn fn,
                                           void *arg);
/* Tell those who watch that changes may have been missed. */
MUSTER_TEST_API void muster_test_roster_reset(struct muster_test *t);

/* ---- what the plugin says of itself ------------------------------------------------------------------------------------------- */

/* The value of metric `name` as given to make(); of a histogram the number of observations. label_value NULL: the one without a
 * label, or the sum of all. -1: there is no such metric, which is a failure. */
MUSTER_TEST_API int64_t muster_test_metric(struct muster_test *t, const char *name, const char *label_value);
MUSTER_TEST_API int64_t muster_test_metric_sum_ns(struct muster_test *t, const char *name); /* of a histogram's observations */

struct muster_test_line {
    int level; /* MUSTER_LOG_* */
    const char *text;
    int64_t at_ns;
};
MUSTER_TEST_API size_t muster_test_n_lines(struct muster_test *t);
MUSTER_TEST_API const struct muster_test_line *muster_test_line(struct muster_test *t, size_t i);
/* How many lines hold the words. */
MUSTER_TEST_API size_t muster_test_logged(struct muster_test *t, const char *words);
/* MUSTER_HEALTH_*; before its first word MUSTER_HEALTH_DOWN with the code "". ret_code, ret_text may be NULL. */
MUSTER_TEST_API int muster_test_health(struct muster_test *t, const char **ret_code, const char **ret_text);

#ifdef __cplusplus
}
#endif
#endif
