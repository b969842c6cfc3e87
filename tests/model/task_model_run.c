/*
 * task_model_run SEED STEPS - many steps of the model alone: whatever is done, what ended stays, an epoch has one holder, and what
 * task_model_check() asks for holds. It prints what the steps were, and holds them against the law (tally.h).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tally.h"
#include "task_model.h"

#define TO(state) (1u << TASK_##state)
#define LIVE (TO(BLOCKED) | TO(SCHEDULED) | TO(QUEUED) | TO(OFFERED) | TO(RUNNING) | TO(INPUT_REQUIRED) | TO(CANCELLING))
#define ANY (LIVE | TO(SUCCEEDED) | TO(FAILED) | TO(DEAD) | TO(CANCELLED) | TO(EXPIRED))
/* Where a task that nobody has worked on goes when it is cancelled. */
#define AT_ONCE \
    [TASK_SCHEDULED] = TO(CANCELLED), [TASK_QUEUED] = TO(CANCELLED), [TASK_OFFERED] = TO(CANCELLED), [TASK_INPUT_REQUIRED] = TO(CANCELLED), \
    [TASK_RUNNING] = TO(CANCELLING)

static const uint32_t law[VERBS][TASK_STATES] = {
    [VERB_SUBMIT] = {[TASK_NONE] = TO(BLOCKED) | TO(SCHEDULED) | TO(QUEUED)},
    [VERB_RETRY] = {[TASK_NONE] = TO(BLOCKED) | TO(SCHEDULED) | TO(QUEUED)},
    [VERB_ASSIGN] = {[TASK_QUEUED] = TO(OFFERED), [TASK_OFFERED] = TO(RUNNING)},
    [VERB_ACCEPT] = {[TASK_OFFERED] = TO(RUNNING)},
    [VERB_DECLINE] = {[TASK_OFFERED] = TO(QUEUED), [TASK_RUNNING] = TO(QUEUED)},
    [VERB_COMPLETE] = {[TASK_RUNNING] = TO(SUCCEEDED)},
    [VERB_FAIL] = {[TASK_RUNNING] = TO(SCHEDULED) | TO(FAILED) | TO(DEAD)},
    [VERB_NEED_INPUT] = {[TASK_RUNNING] = TO(INPUT_REQUIRED)},
    [VERB_CANCELLED] = {[TASK_CANCELLING] = TO(CANCELLED)},
    [VERB_PROVIDE_INPUT] = {[TASK_INPUT_REQUIRED] = TO(RUNNING) | TO(QUEUED)},
    [VERB_INPUT_FAILED] = {[TASK_INPUT_REQUIRED] = TO(SCHEDULED) | TO(FAILED)},
    [VERB_CANCEL] = {AT_ONCE, [TASK_BLOCKED] = TO(CANCELLED)},
    [VERB_SETTLE] = {AT_ONCE, [TASK_BLOCKED] = TO(QUEUED) | TO(SCHEDULED) | TO(CANCELLED)},
    [VERB_SESSION_LOST] = {[TASK_OFFERED] = TO(QUEUED), [TASK_RUNNING] = TO(SCHEDULED) | TO(DEAD), [TASK_SCHEDULED] = TO(QUEUED),
                           [TASK_CANCELLING] = TO(CANCELLED)},
    [VERB_FIRE] = {[TASK_BLOCKED] = TO(EXPIRED), [TASK_SCHEDULED] = TO(QUEUED) | TO(EXPIRED), [TASK_QUEUED] = TO(EXPIRED),
                   [TASK_OFFERED] = TO(QUEUED) | TO(EXPIRED), [TASK_RUNNING] = TO(SCHEDULED) | TO(DEAD) | TO(EXPIRED),
                   [TASK_INPUT_REQUIRED] = TO(EXPIRED), [TASK_CANCELLING] = TO(CANCELLED) | TO(EXPIRED)},
    [VERB_PLAIN] = {[TASK_BLOCKED] = TO(QUEUED) | TO(SCHEDULED) | TO(CANCELLED) | TO(EXPIRED),
                    [TASK_SCHEDULED] = TO(QUEUED) | TO(CANCELLED) | TO(EXPIRED),
                    [TASK_QUEUED] = TO(OFFERED) | TO(CANCELLED) | TO(EXPIRED),
                    [TASK_OFFERED] = TO(RUNNING) | TO(QUEUED) | TO(CANCELLED) | TO(EXPIRED),
                    [TASK_RUNNING] = TO(QUEUED) | TO(SUCCEEDED) | TO(SCHEDULED) | TO(FAILED) | TO(DEAD) | TO(INPUT_REQUIRED) | TO(CANCELLING) | TO(EXPIRED),
                    [TASK_INPUT_REQUIRED] = TO(RUNNING) | TO(QUEUED) | TO(SCHEDULED) | TO(FAILED) | TO(CANCELLED) | TO(EXPIRED),
                    [TASK_CANCELLING] = TO(CANCELLED) | TO(EXPIRED)},
};

/* What is said twice by who was heard succeeds too. */
static const uint32_t has[VERBS] = {
    [VERB_ASSIGN] = TO(QUEUED), [VERB_ACCEPT] = TO(OFFERED) | TO(RUNNING), [VERB_DECLINE] = TO(OFFERED) | TO(RUNNING),
    [VERB_PROGRESS] = TO(RUNNING) | TO(CANCELLING), [VERB_COMPLETE] = TO(RUNNING) | TO(SUCCEEDED), [VERB_FAIL] = TO(RUNNING),
    [VERB_NEED_INPUT] = TO(RUNNING), [VERB_CANCELLED] = TO(CANCELLING) | TO(CANCELLED), [VERB_PROVIDE_INPUT] = TO(INPUT_REQUIRED),
    [VERB_CANCEL] = LIVE, [VERB_RETRY] = TO(FAILED) | TO(DEAD) | TO(CANCELLED) | TO(EXPIRED), [VERB_INPUT_FAILED] = TO(INPUT_REQUIRED),
    [VERB_PASS] = ANY, [VERB_FIRE] = ANY, [VERB_PLAIN] = ANY,
};

static const char *const verbs[VERBS] = {"submit", "assign", "accept", "decline", "progress", "complete", "fail", "need_input", "cancelled", "provide_input",
                                         "cancel", "retry", "input_failed", "pass", "fire", "session_lost", "hello", "settle", "pause", "resume", "plain"};
static const char *const states[TASK_STATES] = {"", "blocked", "scheduled", "queued", "offered", "running", "input_required", "cancelling", "succeeded",
                                                "failed", "dead", "cancelled", "expired"};
static const char *const codes[CODES] = {"ok", "not_found", "failed_precondition", "aborted", "deadline_exceeded", "permission_denied", "already_exists",
                                         "raised"};

struct seen {
    int32_t state[MODEL_SLOTS];
    uint32_t generation[MODEL_SLOTS];
    int64_t epoch[MODEL_SLOTS];
    int32_t seq[MODEL_SLOTS];
};

static void look(const struct task_model *m, struct seen *seen)
{
    for (int i = 0; i < MODEL_SLOTS; i++) {
        seen->state[i] = m->rows[i].state;
        seen->generation[i] = m->rows[i].generation;
        seen->epoch[i] = m->rows[i].epoch;
        seen->seq[i] = m->rows[i].seq;
    }
}

/* The reason why what is there cannot follow what was there, or NULL. */
static const char *impossible(const struct task_model *m, const struct seen *was, int code)
{
    for (int i = 0; i < MODEL_SLOTS; i++) {
        const struct task_row *t = &m->rows[i];

        if (t->generation != was->generation[i])
            continue;
        if (was->state[i] >= TASK_SUCCEEDED && (t->state != was->state[i] || t->epoch != was->epoch[i] || t->seq != was->seq[i]))
            return "what had ended changed";
        if (t->epoch < was->epoch[i] || t->seq < was->seq[i])
            return "an epoch or a number went back";
        if (t->state != was->state[i] && t->seq == was->seq[i])
            return "a change without a number";
        if (code && t->seq != was->seq[i])
            return "what was refused changed something";
    }
    return m->broken;
}

int main(int argc, char **argv)
{
    static struct task_model m;
    static struct seen was;
    static struct tally tally = {verbs, states, codes, VERBS, TASK_STATES, CODES, &law[0][0], has, {{0}}};
    long steps = argc > 2 ? atol(argv[2]) : 1000000;

    task_model_init(&m, argc > 1 ? strtoull(argv[1], NULL, 10) : 1);
    for (long n = 0; n < steps; n++) {
        struct task_step step;
        const char *why;
        int code;

        task_model_pick(&m, &step);
        look(&m, &was);
        code = task_model_apply(&m, &step);
        tally_note(&tally, step.verb, step.slot >= 0 ? was.state[step.slot] : TASK_NONE, code);
        task_model_check(&m);
        why = impossible(&m, &was, code);
        if (why) {
            fprintf(stderr, "step %ld, verb %d, slot %d, actor %d: %s\n", n, step.verb, step.slot, step.actor, why);
            return 1;
        }
    }
    return tally_hold(&tally, &m.moves[0][0][0]) == 0 ? 0 : 1;
}
