/*
 * echo - the plugin of the plugin tests: each function of muster/plugin.h behind a verb, and every way to misbehave that a test needs.
 *
 * echo.say and echo.count have definitions and are checked by the broker; the verbs of `lab` are not. Each verb is one function of
 * echo_*.c. What waits for something is a job: the message, held, until job_answer().
 */
#ifndef MUSTER_TESTS_ECHO_H
#define MUSTER_TESTS_ECHO_H

#include <muster/plugin.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct echo_config {
    const char *greeting;
    int32_t misbehave; /* MISBEHAVE_* */
    int32_t sql;       /* prepare statements: needs postgres.dsn */
    const char *lease; /* contended for from the start; NULL: none */
    int64_t lease_ttl_ns;
    int32_t writer;    /* write into stream WRITTEN while it is held */
};
enum {
    MISBEHAVE_NO,
    MISBEHAVE_CREATE,
    MISBEHAVE_START,
    MISBEHAVE_CRASH,
    MISBEHAVE_HANG,
    MISBEHAVE_EARLY,
    MISBEHAVE_DESTROY,
    MISBEHAVE_STUCK /* in create() */
};

struct echo;

/* A request that is answered later. Lane only. */
struct job {
    struct job *next; /* of those that wait for the clock */
    struct echo *e;
    const struct muster_msg *msg; /* held */
    struct muster_value *args;
    int64_t due_ns;
    int64_t n, sent, refused; /* of verbs that count */
    char *body;               /* of flood, and of lists */
    int fds[2];               /* of pipe */
    uint64_t handle;
    pthread_t thread;
};

struct echo_lease {
    struct echo *e;
    uint64_t id; /* 0: none */
    char name[60];
    int64_t epoch, n_got, n_lost, code; /* as told */
    int64_t release_when_got;
};

struct echo_follow {
    uint64_t id; /* 0: none */
    int64_t n_msgs, n_ends, n_lost, n_gaps, n_gone, n_wrong, sum, in_order;
    uint64_t last_seq;
    int64_t stop_at, hold_at, close_at;
    char list[60000]; /* what was told, a line each; what does not fit is counted only */
};

struct echo {
    const struct muster_host *host;
    const struct echo_config *config;
    const struct muster_bus *bus;
    const struct muster_stream *streams;
    const struct muster_kv *kv;
    const struct muster_lease *leases;
    const struct muster_timer *timers;
    const struct muster_io *io;
    const struct muster_tenants *tenants;
    const struct muster_config *positions;
    const struct muster_metrics *metrics;
    const struct muster_sql *sql; /* NULL unless configured */
    const struct muster_codec *codec;
    uint64_t m_said, m_open, m_took; /* counter with a label, gauge, histogram */
    uint64_t read_stmt, write_stmt;
    uint64_t stream; /* 0: not open */
    uint64_t clock;  /* the timer that runs while jobs wait for it */
    uint64_t extra;  /* subscription of verb listen */
    uint64_t shouts; /* the one that drain() ends */
    struct echo_lease lease[4];
    struct echo_follow follow;
    uint64_t last_seq; /* of what the writer writes */
    bool writing, knows_last;
    struct job *waiting, *flooding;
    int64_t n_said, n_heard, n_beats, n_ticks, n_writable, n_up, n_down, n_tables, n_paused, n_resumed;
    int64_t again_left;
    int bad_name; /* what make() said of a name that is none */
    char last_agent[80], last_text[200];
};

/* What a verb does with a message. Its result is the callback's. */
typedef int (*verb_fn)(struct echo *e, const struct muster_msg *msg,
                       const struct muster_value *args);
struct verb {
    const char *name;
    verb_fn fn;
};
extern const struct verb echo_verbs_lane[], echo_verbs_out[],
    echo_verbs_store[], echo_verbs_keep[], echo_verbs_follow[]; /* each ends with a NULL name */
#define ECHO_VERBS_LANE                                                                            \
    "silent fail error hold slow hang crash again twice large held lane last pipe tick post "      \
    "wrong_thread late_health rest late leak"
#define ECHO_VERBS_OUT                                                                             \
    "ask publish flood event listen unlisten heard tenants limits refresh where measure mirror"
#define ECHO_VERBS_STORE "kv_put kv_get append burst last_of info reopen attach read write many"
#define ECHO_VERBS_KEEP "kv_scan kv_del read_on acquire release lease lease_put kv_many"

#define ECHO_VERBS_FOLLOW "follow unfollow hold_back followed"

/* One pair of an answer; s NULL: the number. */
struct pair {
    const char *key, *s;
    int64_t i;
};
int echo_answer(struct echo *e, const struct muster_msg *msg, const struct pair *pairs, size_t n);
#define ANSWER(e, msg, ...)                                                                        \
    echo_answer((e), (msg), (const struct pair[]){__VA_ARGS__},                                    \
                sizeof(const struct pair[]){__VA_ARGS__} / sizeof(struct pair))

/* Arguments of a request; absent or of another type: what is given as otherwise. */
int64_t arg_int(const struct echo *e, const struct muster_value *args, const char *key,
                int64_t otherwise);
const char *arg_str(const struct echo *e, const struct muster_value *args, const char *key,
                    const char *otherwise);
struct muster_bytes bytes_of(const char *s);

/* Hold the message. NULL: it could not be held, and was answered. */
struct job *job_new(struct echo *e, const struct muster_msg *msg);
#define JOB_ANSWER(job, ...)                                                                       \
    job_answer((job), (const struct pair[]){__VA_ARGS__},                                          \
               sizeof(const struct pair[]){__VA_ARGS__} / sizeof(struct pair))
/* Answer, and the job is gone. */
void job_answer(struct job *job, const struct pair *pairs, size_t n);
/* Where a call of the host that was to finish the job failed at once. */
int job_failed(struct job *job, int code);
void job_drop(struct job *job);
/* 0 for ""; a handle that is none for a name that is not contended for. */
uint64_t echo_lease_id(struct echo *e, const char *name);
int echo_acquire(struct echo *e, const char *name, int64_t ttl_ms, int64_t release_when_got);
int echo_write_on(struct echo *e);
void flood_on(struct echo *e); /* on_writable */

#endif
