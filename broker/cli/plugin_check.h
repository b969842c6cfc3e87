/*
 * cli/plugin_check.h - `muster plugin check`: a plugin's file held against the contract of muster/plugin.h.
 *
 * Shape    Each test is a row of plugin_tests and runs in a process of its own, which is `muster plugin check-one …` with an empty
 *          environment and bounds on memory, time and files (plugin_check_child.c). What it finds it writes as lines to the parent,
 *          which judges how the process ended as well and prints the report (plugin_check.c).
 * Trust    The file is a stranger's: nothing of it runs in the parent.
 */
#ifndef MUSTER_CLI_PLUGIN_CHECK_H
#define MUSTER_CLI_PLUGIN_CHECK_H

#include <muster/testhost.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* What a test needs to have been seen to work, in an earlier one; and what one that works shows. */
enum { LEVEL_FILE, LEVEL_LOADS, LEVEL_SETTINGS, LEVEL_CREATES, LEVEL_STARTS, LEVEL_ANSWERS };

/* The child's view. */
struct plugin_check {
    const char *file;   /* absolute */
    const char *config; /* the settings; "" for none */
    uint64_t seed;
    uint32_t runs;
    bool tell_events; /* of the fuzz: each one, for --reproduce */
    struct muster_test *t; /* whose plugin runs, for the signal handlers; NULL: none */
};

struct plugin_test {
    const char *name, *what; /* "requests", "each verb answers each request exactly once" */
    int needs, shows;        /* LEVEL_* */
    void (*run)(struct plugin_check *c);
};
extern const struct plugin_test plugin_tests[];
extern const size_t n_plugin_tests;

/* Say what a test has found: lines to the parent. */
void check_failed(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void check_skipped(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void check_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void check_seed(uint64_t seed);  /* of the life that begins: what is told when it ends the process */
void check_shown(void); /* what the test shows has been seen, whatever else failed */

/* What a child said and how it ended; the parent's view. */
struct check_result {
    struct buf failures, skips, notes; /* a line each */
    bool shown, finished;
    bool lived;
    uint64_t seed; /* of the life that was last begun, where lived */
    struct buf end; /* how it ended, "" when as it should */
    int64_t took_ms;
};
/* Run test `name` in a child. False: it could not be started, with errno. */
bool check_run(const struct plugin_check *c, const char *name, struct check_result *r);
void check_result_done(struct check_result *r);
#define CHECK_CHILD "check-one"
/* The child: `check-one FILE TEST SEED RUNS -|v`; settings on stdin. Returns its exit code. */
int check_one(int argc, char **argv);

/* ---- for the tests ---- */

struct check_how {
    uint32_t flags, lane, n_lanes; /* as in struct muster_test_options */
    const char *instance;
};
/* A host with the plugin's settings, whose failures are told to the parent. how may be NULL. */
struct muster_test *check_new(struct plugin_check *c, const struct check_how *how);
/* The same, created and started. NULL: it failed, which has been told. */
struct muster_test *check_begin(struct plugin_check *c);
void check_end(struct plugin_check *c, struct muster_test *t);
/* One valid request, or body, to each verb; a message to each subscription. */
void check_traffic(struct muster_test *t, uint64_t seed, int broken);
/* Clear all faults, bring the link back, and give open requests the time that they may need; what is open then has failed. */
void check_settle(struct muster_test *t, const char *when);
/* One verb of those that are declared; false: there are fewer. */
struct check_verb {
    char service[80], verb[80];
    bool defined;
};
bool check_verb_at(struct muster_test *t, size_t i, struct check_verb *out);
/* A subject that a subscription's pattern takes and that may be on the wire. False: none could be found. */
bool check_subject_for(const char *pattern, uint64_t seed, char out[256]);
void check_fuzz(struct plugin_check *c);
const char *check_code(int code); /* "MUSTER_EAGAIN" */

#endif
