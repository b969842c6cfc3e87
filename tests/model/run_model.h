/*
 * run_model.h - the machine of runs in memory, written by hand from the table of statuses and edges, as task_model.h is of tasks: what the
 * machine in PostgreSQL is compared with, step by step. It shares nothing with it, least of all the table of edges.
 *
 * Shape    A model has a fixed number of slots. A run stands in a slot and has a generation, so that a name is never used twice.
 *          pick() thinks of a step and changes nothing, apply() carries it out. There is no clock: a step says that one has run out.
 * Threads  One at a time.
 */
#ifndef RUN_MODEL_H
#define RUN_MODEL_H

#include <stdbool.h>
#include <stdint.h>

enum { RUN_AGENTS = 4, RUN_SLOTS = 24, RUN_VERDICTS = 3 };

enum run_status {
    RUN_NONE, /* an empty slot */
    RUN_PENDING,
    RUN_IN_PROGRESS,
    RUN_BLOCKED,
    RUN_AWAITING,
    RUN_VERIFYING,
    RUN_PASSED,
    RUN_REFUTED, /* verification_failed */
    RUN_ESCALATED,
    RUN_COMPLETED,
    RUN_FAILED,
    RUN_CANCELLED,
    RUN_STATUSES
};

enum run_verb {
    RUN_START,
    RUN_PROGRESS,
    RUN_CLAIM,
    RUN_BLOCK,
    RUN_SUBMIT, /* status awaiting_verification; of its verifier: he gives it back */
    RUN_COMPLETE,
    RUN_FAIL,
    RUN_ESCALATE,
    RUN_RETRY,
    RUN_CANCEL,
    RUN_VERIFY,
    RUN_PASS,
    RUN_REJECT,
    RUN_REST, /* the pause before its next try is over, and so may be what its worker has before others */
    RUN_LATE, /* its clock runs out, and nobody has looked yet */
    RUN_FIRE, /* its clock runs out, and the sweeper looks */
    RUN_TASK_OVER, /* its task is cancelled, or has expired */
    RUN_SESSION_LOST,
    RUN_HELLO,
    RUN_PLAIN, /* an UPDATE of the status by plain SQL */
    RUN_VERBS
};

/* Who does it: an agent from 0, or one of these. */
enum { RUN_OWNER = RUN_AGENTS, RUN_OTHER, RUN_ADMIN, RUN_HUMAN, RUN_ACTORS, RUN_SQL = RUN_ACTORS };

/* Of START; above them how many verifiers more than one it needs. */
enum { RUN_REQUIRED = 1, RUN_TIMED = 2, RUN_TWO_TRIES = 4, RUN_VERIFIERS_SHIFT = 3, RUN_FLAGS = 24 };

enum { RUN_EPOCH_NONE, RUN_EPOCH_CURRENT, RUN_EPOCH_OLD, RUN_EPOCH_FUTURE, RUN_EPOCH_MODES };

enum run_code {
    RUN_OK,
    RUN_NOT_FOUND,
    RUN_FAILED_PRECONDITION,
    RUN_ABORTED,
    RUN_DEADLINE_EXCEEDED,
    RUN_PERMISSION_DENIED,
    RUN_ALREADY_EXISTS,
    RUN_RAISED, /* plain SQL */
    RUN_CODES
};

struct run_step {
    int32_t verb, slot, actor, epoch_mode;
    int64_t epoch; /* what epoch_mode means for the run, or for its verification */
    int32_t agent; /* of START, SESSION_LOST, HELLO */
    int32_t flag;  /* of START: RUN_REQUIRED and so on; of REST: others may take it, too; of TASK_OVER: the time was over */
    int32_t taken; /* of START: the name is taken already */
    int32_t value; /* result; status of PLAIN */
    uint32_t made; /* generation of the one that START makes */
};

struct run_row {
    int32_t status;
    uint32_t generation;
    int64_t epoch, verify_epoch;
    int32_t seq, attempt, crashes, verdicts, limit, lost, agent, held, session, result;
    int64_t worked[RUN_ACTORS]; /* the last epoch in which each was at work; 0: in none */
    int32_t tries, repeats;           /* the last try whose time may be over; how often it was given up or lost */
    int32_t needed;                   /* verifiers */
    uint32_t had_part, verified_once; /* sets of actors */
    uint32_t passed_by;               /* this manifest; a set of actors and RUN_SQL */
    bool required, timed, verified, late, plain_part;
    bool waits;       /* nobody begins it yet */
    bool open;        /* any agent may take it */
    bool others_wait; /* but its worker may before them */
};

struct run_model {
    uint64_t random;
    struct run_row rows[RUN_SLOTS];
    int32_t sessions[RUN_AGENTS]; /* the number of each one's newest */
    bool present[RUN_AGENTS];
    int32_t verb; /* of the step that is carried out */
    uint64_t moves[RUN_VERBS][RUN_STATUSES][RUN_STATUSES]; /* how often each was made; from RUN_NONE: it was started */
    const char *broken; /* the first property that did not hold; NULL */
};

void run_model_init(struct run_model *m, uint64_t seed);

/* Think of a step. About half of them are legal. */
void run_model_pick(struct run_model *m, struct run_step *ret_step);

/* Carry it out and give its code. */
int run_model_apply(struct run_model *m, const struct run_step *step);

/* What must hold for every run; sets broken. */
void run_model_check(struct run_model *m);

#endif
