/*
 * help_model.h - the machine of help requests in memory, written by hand from the table of states and edges: what the machine in
 * PostgreSQL is compared with, step by step, as task_model.h has it for tasks.
 *
 * Shape    A request stands in a slot and has a generation. pick() thinks of a step and changes nothing, apply() carries it out. There
 *          is no clock: a step says that one has run out. The step names the candidates, the model says which of them are asked.
 * Threads  One at a time.
 */
#ifndef HELP_MODEL_H
#define HELP_MODEL_H

#include <stdbool.h>
#include <stdint.h>

enum { MODEL_AGENTS = 6, MODEL_SLOTS = 24, MODEL_DEPTH = 2, MODEL_QUOTA = 5 };

enum help_state {
    HELP_NONE, /* an empty slot */
    HELP_OPEN,
    HELP_OFFERED,
    HELP_CLAIMED,
    HELP_ANSWERED,
    HELP_ESCALATED,
    HELP_ACCEPTED,
    HELP_WITHDRAWN,
    HELP_EXPIRED,
    HELP_UNANSWERED,
    HELP_STATES
};

enum expert_state {
    EXPERT_NONE, /* never asked */
    EXPERT_OFFERED,
    EXPERT_IGNORED, /* his round is over */
    EXPERT_CLAIMED,
    EXPERT_LAPSED,
    EXPERT_DECLINED,
    EXPERT_ANSWERED,
    EXPERT_EXTRA, /* his answer came too late */
    EXPERT_STOPPED
};

enum help_verb {
    VERB_REQUEST,
    VERB_OFFER,
    VERB_CLAIM,
    VERB_DECLINE,
    VERB_ANSWER,
    VERB_KNOWLEDGE, /* a share_knowledge straight to the asker */
    VERB_ACCEPT,
    VERB_REJECT,
    VERB_ESCALATE,
    VERB_RESOLVE,
    VERB_WITHDRAW,
    VERB_PASS, /* a clock runs out, and nobody has looked yet */
    VERB_FIRE, /* a clock runs out, and the sweeper looks */
    VERB_SESSION_LOST,
    VERB_HELLO,
    VERBS
};

enum help_clock { CLOCK_UNTIL, CLOCK_HALF, CLOCK_DEADLINE, CLOCKS };

/* Who does it: an agent from 0, or one of these. */
enum { ACTOR_ADMIN = MODEL_AGENTS, ACTOR_HUMAN, ACTORS };

enum { EPOCH_NONE, EPOCH_CURRENT, EPOCH_OLD, EPOCH_FUTURE, EPOCH_MODES };

enum help_code {
    CODE_OK,
    CODE_NOT_FOUND,
    CODE_FAILED_PRECONDITION,
    CODE_ABORTED,
    CODE_DEADLINE_EXCEEDED,
    CODE_PERMISSION_DENIED,
    CODE_RESOURCE_EXHAUSTED,
    CODES
};

struct help_step {
    int32_t verb, slot, actor, epoch_mode;
    int64_t epoch;      /* what epoch_mode means for the expert */
    int32_t agent;      /* of SESSION_LOST, HELLO; of KNOWLEDGE the asker; of ACCEPT whose answer, or -1 */
    int32_t candidates; /* a set; -1: nobody has looked */
    int32_t value;      /* solution; clock; of OFFER 1: with the row's seq, 2: with an old one */
    int32_t panel, k, rounds, rejections, escalate, with_default, auto_accept, alike;
    int32_t parent; /* of REQUEST: a slot, or -1 */
    int32_t made;   /* where REQUEST puts the new one */
};

struct help_expert {
    int32_t state, crashes, session, solution, at; /* at: in which order answers came */
    int64_t epoch, offer_epoch;
    bool excluded, asked, judged, late; /* late: the time of his claim has run out */
};

struct help_row {
    int32_t state;
    uint32_t generation;
    int64_t epoch;
    int32_t seq, round, rounds, rejected, rejections, k, depth, asker, session, made, said, said_by, answered_by;
    uint32_t ancestors;
    bool panel, escalate, with_default, auto_accept, alike;
    bool until, until_passed, half_passed, deadline_passed;
    struct help_expert experts[MODEL_AGENTS];
};

/* What became of the last answers of an agent, the newest in the lowest bit. */
struct help_trust {
    uint32_t accepted;
    int32_t n;
};

struct help_model {
    uint64_t random;
    struct help_row rows[MODEL_SLOTS];
    struct help_trust trust[MODEL_AGENTS];
    int32_t sessions[MODEL_AGENTS], counter;
    bool prior; /* a problem like the alike ones has an accepted answer */
    int32_t verb; /* of the step that is carried out */
    uint64_t moves[VERBS][HELP_STATES][HELP_STATES]; /* how often each was made; from HELP_NONE: it was asked */
    const char *broken; /* the first property that did not hold; NULL */
};

void help_model_init(struct help_model *m, uint64_t seed);

/* Think of a step. About half of them are legal. */
void help_model_pick(struct help_model *m, struct help_step *ret_step);

/* Carry it out and give its code. */
int help_model_apply(struct help_model *m, const struct help_step *step);

/* What must hold for every request; sets broken. */
void help_model_check(struct help_model *m);

/* How many a round asks at most. */
int help_model_width(const struct help_row *h);

/* Which of a set of candidates it asks. */
uint32_t help_model_best(const struct help_model *m, const struct help_row *h, uint32_t candidates);

/* A verdict on an answer of his. */
void help_model_judge(struct help_model *m, int agent, bool accepted);

#endif
