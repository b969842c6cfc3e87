/*
 * help_model_run SEED STEPS - many steps of the model alone: whatever is done, what ended stays, an epoch has one holder, and what
 * help_model_check() asks for holds. It prints what the steps were, and holds them against the law (tally.h).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "help_model.h"
#include "tally.h"

#define TO(state) (1u << HELP_##state)
#define LIVE (TO(OPEN) | TO(OFFERED) | TO(CLAIMED) | TO(ANSWERED) | TO(ESCALATED))
#define OVER (TO(ACCEPTED) | TO(WITHDRAWN) | TO(EXPIRED) | TO(UNANSWERED))
/* Who answers without a claim claims by that, also between two rounds, as one to whom it is offered still. */
#define ANSWERS {[HELP_OPEN] = TO(OFFERED), [HELP_OFFERED] = TO(CLAIMED), [HELP_CLAIMED] = TO(CLAIMED) | TO(ANSWERED)}

static const uint32_t law[VERBS][HELP_STATES] = {
    [VERB_REQUEST] = {[HELP_NONE] = TO(OPEN), [HELP_OPEN] = TO(OFFERED) | TO(ESCALATED)},
    [VERB_OFFER] = {[HELP_OPEN] = TO(OFFERED) | TO(ESCALATED)},
    [VERB_CLAIM] = {[HELP_OPEN] = TO(OFFERED), [HELP_OFFERED] = TO(CLAIMED), [HELP_CLAIMED] = TO(CLAIMED)},
    [VERB_DECLINE] = {[HELP_OFFERED] = TO(OPEN) | TO(ESCALATED), [HELP_CLAIMED] = TO(OPEN)},
    [VERB_ANSWER] = ANSWERS,
    [VERB_KNOWLEDGE] = ANSWERS,
    [VERB_ACCEPT] = {[HELP_OPEN] = TO(ACCEPTED), [HELP_OFFERED] = TO(ACCEPTED), [HELP_ANSWERED] = TO(ACCEPTED)},
    [VERB_REJECT] = {[HELP_ANSWERED] = TO(OPEN) | TO(ESCALATED)},
    [VERB_ESCALATE] = {[HELP_OPEN] = TO(ESCALATED), [HELP_OFFERED] = TO(ESCALATED)},
    [VERB_RESOLVE] = {[HELP_ESCALATED] = TO(ANSWERED)},
    [VERB_WITHDRAW] = {[HELP_OPEN] = TO(WITHDRAWN), [HELP_OFFERED] = TO(WITHDRAWN), [HELP_CLAIMED] = TO(WITHDRAWN), [HELP_ANSWERED] = TO(WITHDRAWN),
                       [HELP_ESCALATED] = TO(WITHDRAWN)},
    [VERB_SESSION_LOST] = {[HELP_OPEN] = TO(WITHDRAWN), [HELP_OFFERED] = TO(WITHDRAWN) | TO(OPEN) | TO(ESCALATED), [HELP_CLAIMED] = TO(WITHDRAWN) | TO(OPEN),
                           [HELP_ANSWERED] = TO(WITHDRAWN), [HELP_ESCALATED] = TO(WITHDRAWN)},
    [VERB_FIRE] = {[HELP_OPEN] = TO(ESCALATED) | TO(EXPIRED), [HELP_OFFERED] = TO(OPEN) | TO(ESCALATED) | TO(EXPIRED),
                   [HELP_CLAIMED] = TO(OPEN) | TO(ANSWERED) | TO(EXPIRED), [HELP_ANSWERED] = TO(ACCEPTED) | TO(UNANSWERED),
                   [HELP_ESCALATED] = TO(ANSWERED) | TO(EXPIRED)},
};

/* What is said twice by who was heard succeeds too. */
static const uint32_t has[VERBS] = {
    [VERB_OFFER] = TO(OPEN), [VERB_CLAIM] = TO(OPEN) | TO(OFFERED) | TO(CLAIMED), [VERB_DECLINE] = LIVE,
    [VERB_ANSWER] = TO(OPEN) | TO(OFFERED) | TO(CLAIMED) | TO(ANSWERED) | TO(ACCEPTED) | TO(WITHDRAWN) | TO(UNANSWERED),
    [VERB_ACCEPT] = TO(OPEN) | TO(OFFERED) | TO(ANSWERED) | TO(ACCEPTED),
    [VERB_REJECT] = TO(ANSWERED), [VERB_ESCALATE] = TO(OPEN) | TO(OFFERED) | TO(ESCALATED), [VERB_RESOLVE] = TO(ESCALATED) | TO(ANSWERED),
    [VERB_WITHDRAW] = LIVE | TO(WITHDRAWN), [VERB_PASS] = LIVE | OVER, [VERB_FIRE] = LIVE | OVER,
};

static const char *const verbs[VERBS] = {"request", "offer", "claim", "decline", "answer", "knowledge", "accept", "reject", "escalate", "resolve",
                                         "withdraw", "pass", "fire", "session_lost", "hello"};
static const char *const states[HELP_STATES] = {"", "open", "offered", "claimed", "answered", "escalated", "accepted", "withdrawn", "expired", "unanswered"};
static const char *const codes[CODES] = {"ok", "not_found", "failed_precondition", "aborted", "deadline_exceeded", "permission_denied", "resource_exhausted"};

/* The reason why what is there cannot follow what was there, or NULL. */
static const char *impossible(const struct help_model *m, const struct help_model *was, int code)
{
    for (int i = 0; i < MODEL_SLOTS; i++) {
        const struct help_row *h = &m->rows[i], *before = &was->rows[i];

        if (h->generation != before->generation)
            continue;
        if (before->state >= HELP_ACCEPTED && (h->state != before->state || h->epoch != before->epoch || h->seq != before->seq))
            return "what had ended changed";
        if (h->epoch < before->epoch || h->seq < before->seq)
            return "an epoch or a number went back";
        if (h->state != before->state && h->seq == before->seq)
            return "a change without a number";
        if (code && h->seq != before->seq)
            return "what was refused changed something";
    }
    return m->broken;
}

int main(int argc, char **argv)
{
    static struct help_model m, was;
    static struct tally tally = {verbs, states, codes, VERBS, HELP_STATES, CODES, &law[0][0], has, {{0}}};
    long steps = argc > 2 ? atol(argv[2]) : 1000000;

    help_model_init(&m, argc > 1 ? strtoull(argv[1], NULL, 10) : 1);
    for (long n = 0; n < steps; n++) {
        struct help_step step;
        const char *why;
        int code;

        help_model_pick(&m, &step);
        memcpy(was.rows, m.rows, sizeof was.rows);
        code = help_model_apply(&m, &step);
        tally_note(&tally, step.verb, step.slot >= 0 ? was.rows[step.slot].state : HELP_NONE, code);
        help_model_check(&m);
        why = impossible(&m, &was, code);
        if (why) {
            fprintf(stderr, "step %ld, verb %d, slot %d, actor %d: %s\n", n, step.verb, step.slot, step.actor, why);
            return 1;
        }
    }
    return tally_hold(&tally, &m.moves[0][0][0]) == 0 ? 0 : 1;
}
