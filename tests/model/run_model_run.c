/*
 * run_model_run SEED STEPS - many steps of the model alone: whatever is done, what ended stays, and what run_model_check() asks for holds. It prints
 * what the steps were, and holds them against the law (tally.h).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run_model.h"
#include "tally.h"

#define TO(status) (1u << RUN_##status)
#define LIVE (TO(PENDING) | TO(IN_PROGRESS) | TO(BLOCKED) | TO(AWAITING) | TO(VERIFYING) | TO(PASSED) | TO(REFUTED) | TO(ESCALATED))
#define ANY (LIVE | TO(COMPLETED) | TO(FAILED) | TO(CANCELLED))
#define DECIDED [RUN_ESCALATED] /* by a human */

static const uint32_t law[RUN_VERBS][RUN_STATUSES] = {
    [RUN_START] = {[RUN_NONE] = TO(PENDING)},
    [RUN_PROGRESS] = {[RUN_PENDING] = TO(IN_PROGRESS)},
    [RUN_CLAIM] = {[RUN_PENDING] = TO(IN_PROGRESS), [RUN_BLOCKED] = TO(IN_PROGRESS)},
    [RUN_BLOCK] = {[RUN_PENDING] = TO(BLOCKED), [RUN_IN_PROGRESS] = TO(BLOCKED)},
    [RUN_SUBMIT] = {[RUN_IN_PROGRESS] = TO(AWAITING), [RUN_VERIFYING] = TO(AWAITING), [RUN_AWAITING] = TO(ESCALATED)},
    [RUN_COMPLETE] = {[RUN_PENDING] = TO(COMPLETED), [RUN_IN_PROGRESS] = TO(COMPLETED), [RUN_AWAITING] = TO(COMPLETED), DECIDED = TO(COMPLETED)},
    [RUN_FAIL] = {[RUN_PENDING] = TO(FAILED), [RUN_IN_PROGRESS] = TO(FAILED), [RUN_BLOCKED] = TO(FAILED), [RUN_AWAITING] = TO(FAILED), DECIDED = TO(FAILED)},
    [RUN_ESCALATE] = {[RUN_PENDING] = TO(ESCALATED), [RUN_IN_PROGRESS] = TO(ESCALATED), [RUN_BLOCKED] = TO(ESCALATED)},
    [RUN_RETRY] = {[RUN_IN_PROGRESS] = TO(PENDING), DECIDED = TO(PENDING)},
    [RUN_CANCEL] = {[RUN_PENDING] = TO(CANCELLED), [RUN_IN_PROGRESS] = TO(CANCELLED), [RUN_BLOCKED] = TO(CANCELLED)},
    [RUN_VERIFY] = {[RUN_AWAITING] = TO(VERIFYING)},
    [RUN_PASS] = {[RUN_VERIFYING] = TO(PASSED) | TO(AWAITING), [RUN_PASSED] = TO(COMPLETED)},
    [RUN_REJECT] = {[RUN_VERIFYING] = TO(REFUTED), [RUN_REFUTED] = TO(PENDING) | TO(ESCALATED)},
    [RUN_FIRE] = {[RUN_IN_PROGRESS] = TO(PENDING) | TO(FAILED), [RUN_AWAITING] = TO(ESCALATED), [RUN_VERIFYING] = TO(AWAITING), [RUN_PASSED] = TO(COMPLETED), [RUN_REFUTED] = TO(PENDING) | TO(ESCALATED)},
    [RUN_TASK_OVER] = {[RUN_PENDING] = TO(CANCELLED) | TO(FAILED), [RUN_IN_PROGRESS] = TO(CANCELLED) | TO(FAILED), [RUN_BLOCKED] = TO(CANCELLED) | TO(FAILED),
                       [RUN_AWAITING] = TO(FAILED), [RUN_VERIFYING] = TO(FAILED), [RUN_PASSED] = TO(FAILED), [RUN_REFUTED] = TO(FAILED),
                       [RUN_ESCALATED] = TO(FAILED)},
    [RUN_SESSION_LOST] = {[RUN_IN_PROGRESS] = TO(PENDING) | TO(FAILED), [RUN_VERIFYING] = TO(AWAITING), [RUN_AWAITING] = TO(ESCALATED)},
    [RUN_PLAIN] = {[RUN_PENDING] = TO(IN_PROGRESS) | TO(BLOCKED) | TO(COMPLETED) | TO(FAILED) | TO(ESCALATED) | TO(CANCELLED),
                   [RUN_IN_PROGRESS] = TO(BLOCKED) | TO(AWAITING) | TO(COMPLETED) | TO(FAILED) | TO(ESCALATED) | TO(PENDING) | TO(CANCELLED),
                   [RUN_BLOCKED] = TO(IN_PROGRESS) | TO(FAILED) | TO(ESCALATED) | TO(CANCELLED),
                   [RUN_AWAITING] = TO(VERIFYING) | TO(COMPLETED) | TO(FAILED) | TO(ESCALATED),
                   [RUN_VERIFYING] = TO(AWAITING) | TO(PASSED) | TO(REFUTED) | TO(FAILED),
                   [RUN_PASSED] = TO(COMPLETED) | TO(FAILED),
                   [RUN_REFUTED] = TO(PENDING) | TO(IN_PROGRESS) | TO(ESCALATED) | TO(FAILED),
                   [RUN_ESCALATED] = TO(COMPLETED) | TO(PENDING) | TO(FAILED)},
};

/* What is said twice by who was heard succeeds too. */
static const uint32_t has[RUN_VERBS] = {
    [RUN_PROGRESS] = TO(PENDING) | TO(IN_PROGRESS) | TO(BLOCKED), [RUN_CLAIM] = TO(PENDING) | TO(IN_PROGRESS) | TO(BLOCKED),
    [RUN_BLOCK] = TO(PENDING) | TO(IN_PROGRESS) | TO(BLOCKED), [RUN_SUBMIT] = TO(IN_PROGRESS) | TO(AWAITING) | TO(VERIFYING),
    [RUN_COMPLETE] = TO(PENDING) | TO(IN_PROGRESS) | TO(AWAITING) | TO(ESCALATED) | TO(COMPLETED),
    [RUN_FAIL] = TO(PENDING) | TO(IN_PROGRESS) | TO(BLOCKED) | TO(AWAITING) | TO(ESCALATED),
    [RUN_ESCALATE] = TO(PENDING) | TO(IN_PROGRESS) | TO(BLOCKED), [RUN_RETRY] = TO(IN_PROGRESS) | TO(ESCALATED),
    [RUN_CANCEL] = TO(PENDING) | TO(IN_PROGRESS) | TO(BLOCKED), [RUN_VERIFY] = TO(AWAITING) | TO(VERIFYING), [RUN_PASS] = TO(VERIFYING),
    [RUN_REJECT] = TO(VERIFYING), [RUN_REST] = ANY, [RUN_LATE] = ANY, [RUN_FIRE] = ANY, [RUN_TASK_OVER] = ANY, [RUN_PLAIN] = ANY,
};

static const char *const verbs[RUN_VERBS] = {"start", "progress", "claim", "block", "submit", "complete", "fail", "escalate", "retry", "cancel", "verify",
                                             "pass", "reject", "rest", "late", "fire", "task_over", "session_lost", "hello", "plain"};
static const char *const statuses[RUN_STATUSES] = {"", "pending", "in_progress", "blocked", "awaiting", "verifying", "passed", "refuted", "escalated",
                                                   "completed", "failed", "cancelled"};
static const char *const codes[RUN_CODES] = {"ok", "not_found", "failed_precondition", "aborted", "deadline_exceeded", "permission_denied",
                                             "already_exists", "raised"};

/* The reason why what is there cannot follow what was there, or NULL. */
static const char *impossible(const struct run_model *m, const struct run_model *was, int code)
{
    for (int i = 0; i < RUN_SLOTS; i++) {
        const struct run_row *r = &m->rows[i], *old = &was->rows[i];

        if (r->generation != old->generation)
            continue;
        if (old->status >= RUN_COMPLETED && (r->status != old->status || r->epoch != old->epoch || r->seq != old->seq))
            return "what had ended changed";
        if (r->epoch < old->epoch || r->seq < old->seq || r->verify_epoch < old->verify_epoch || r->verdicts < old->verdicts)
            return "an epoch or a number went back";
        if (r->status != old->status && r->seq == old->seq)
            return "a change without a number";
        if (code && r->seq != old->seq)
            return "what was refused changed something";
    }
    return m->broken;
}

int main(int argc, char **argv)
{
    static struct run_model m, was;
    static struct tally tally = {verbs, statuses, codes, RUN_VERBS, RUN_STATUSES, RUN_CODES, &law[0][0], has, {{0}}};
    long steps = argc > 2 ? atol(argv[2]) : 1000000;

    run_model_init(&m, argc > 1 ? strtoull(argv[1], NULL, 10) : 1);
    for (long n = 0; n < steps; n++) {
        struct run_step step;
        const char *why;
        int code;

        run_model_pick(&m, &step);
        memcpy(was.rows, m.rows, sizeof was.rows);
        code = run_model_apply(&m, &step);
        tally_note(&tally, step.verb, step.slot >= 0 ? was.rows[step.slot].status : RUN_NONE, code);
        run_model_check(&m);
        why = impossible(&m, &was, code);
        if (why) {
            fprintf(stderr, "step %ld, verb %d, slot %d, actor %d: %s\n", n, step.verb, step.slot, step.actor, why);
            return 1;
        }
    }
    return tally_hold(&tally, &m.moves[0][0][0]) == 0 ? 0 : 1;
}
