/*
 * task_model.h - the machine of tasks in memory, written by hand from the table of states and edges: what the machine in PostgreSQL
 * is compared with, step by step. It shares nothing with it, least of all the table of edges.
 *
 * Shape    A model has a fixed number of slots. A task stands in a slot and has a generation, so that a name is never used twice.
 *          pick() thinks of a step and changes nothing, apply() carries it out. There is no clock: a step says that one has run out.
 * Threads  One at a time.
 */
#ifndef TASK_MODEL_H
#define TASK_MODEL_H

#include <stdbool.h>
#include <stdint.h>

enum { MODEL_AGENTS = 4, MODEL_SLOTS = 48, MODEL_PARENTS = 2 };

enum task_state {
    TASK_NONE, /* an empty slot */
    TASK_BLOCKED,
    TASK_SCHEDULED,
    TASK_QUEUED,
    TASK_OFFERED,
    TASK_RUNNING,
    TASK_INPUT_REQUIRED,
    TASK_CANCELLING,
    TASK_SUCCEEDED,
    TASK_FAILED,
    TASK_DEAD,
    TASK_CANCELLED,
    TASK_EXPIRED,
    TASK_STATES
};

enum task_verb {
    VERB_SUBMIT,
    VERB_ASSIGN,
    VERB_ACCEPT,
    VERB_DECLINE,
    VERB_PROGRESS,
    VERB_COMPLETE,
    VERB_FAIL,
    VERB_NEED_INPUT,
    VERB_CANCELLED,
    VERB_PROVIDE_INPUT,
    VERB_CANCEL,
    VERB_RETRY,
    VERB_INPUT_FAILED,
    VERB_PASS, /* a clock runs out, and nobody has looked yet */
    VERB_FIRE, /* a clock runs out, and the sweeper looks */
    VERB_SESSION_LOST,
    VERB_HELLO,
    VERB_SETTLE,
    VERB_PAUSE,
    VERB_RESUME,
    VERB_PLAIN, /* an UPDATE of the state by plain SQL */
    VERBS
};

enum task_clock { CLOCK_UNTIL, CLOCK_PROGRESS, CLOCK_DEADLINE, CLOCK_START_BY, CLOCKS };

/* Who does it: an agent from 0, or one of these. */
enum { ACTOR_OWNER = MODEL_AGENTS, ACTOR_OTHER, ACTOR_ADMIN, ACTOR_HUMAN, ACTORS };

enum { EPOCH_NONE, EPOCH_CURRENT, EPOCH_OLD, EPOCH_FUTURE, EPOCH_MODES };

enum task_code {
    CODE_OK,
    CODE_NOT_FOUND,
    CODE_FAILED_PRECONDITION,
    CODE_ABORTED,
    CODE_DEADLINE_EXCEEDED,
    CODE_PERMISSION_DENIED,
    CODE_ALREADY_EXISTS,
    CODE_RAISED, /* plain SQL */
    CODES
};

struct task_ref {
    int32_t slot; /* -1: none */
    uint32_t generation;
};

struct task_step {
    int32_t verb, slot, actor, epoch_mode;
    int64_t epoch;      /* what epoch_mode means for the task */
    int32_t agent;      /* of ASSIGN, SESSION_LOST, HELLO, PLAIN to offered */
    int32_t flag;       /* auto_accept; retryable; of SUBMIT 1: the name is taken already */
    int32_t value;      /* result; clock; state of PLAIN; of ASSIGN 1: with the row's seq, 2: with an old one */
    int32_t wanted;     /* of SUBMIT, an agent or -1 */
    int32_t max_attempts, run_after, timeout, progress_timeout, run_on_failure;
    struct task_ref deps[MODEL_PARENTS], parent;
    struct task_ref made; /* where SUBMIT and RETRY put the new one */
};

struct task_row {
    int32_t state;
    uint32_t generation;
    int64_t epoch;
    int32_t seq, attempt, max_attempts, crashes, assigned, wanted, session, result;
    uint32_t crashed, excluded; /* sets of agents */
    int64_t held[MODEL_AGENTS]; /* the last epoch that each held; 0: none */
    bool until, until_passed, progress_clock, progress_passed, deadline_passed, start_by_passed, started, progressed, no_time_left;
    bool timeout, progress_timeout, run_after, run_on_failure, followed, settled, by_plain;
    struct task_ref deps[MODEL_PARENTS], parent;
    bool met[MODEL_PARENTS];
};

struct task_model {
    uint64_t random;
    struct task_row rows[MODEL_SLOTS];
    int32_t sessions[MODEL_AGENTS]; /* the number of each one's newest */
    bool present[MODEL_AGENTS], paused;
    int32_t verb; /* of the step that is carried out */
    uint64_t moves[VERBS][TASK_STATES][TASK_STATES]; /* how often each was made; from TASK_NONE: it was submitted */
    const char *broken; /* the first property that did not hold; NULL */
};

void task_model_init(struct task_model *m, uint64_t seed);

/* Think of a step. About half of them are legal. */
void task_model_pick(struct task_model *m, struct task_step *ret_step);

/* Carry it out and give its code. */
int task_model_apply(struct task_model *m, const struct task_step *step);

/* What must hold for every task; sets broken. */
void task_model_check(struct task_model *m);

const struct task_row *task_model_row(const struct task_model *m, int32_t slot);
uint64_t task_model_size(void);

#endif
