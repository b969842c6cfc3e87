/*
 * tally.h - what the steps of a model were: how often each verb made each move, and what became of it in each state. Held against the law, which
 * each *_model_run.c has by hand: a move that the law does not have is a fault of the model, one that it has and nobody made means that the steps
 * are no test of it. Any thread, one at a time.
 */
#ifndef TALLY_H
#define TALLY_H

#include <stddef.h>
#include <stdint.h>

enum { TALLY_CODES = 8, TALLY_CELLS = 512 };

/* Arrays have verb after verb. A set of states is a bit for each. */
struct tally {
    const char *const *verbs, *const *states, *const *codes;
    size_t n_verbs, n_states, n_codes;
    const uint32_t *law; /* [verb][state]: where the verb leads from there; where from is the empty state: what is made */
    const uint32_t *has; /* [verb]: in which states it succeeds at times; 0: it is of no single row */
    uint64_t outcomes[TALLY_CELLS][TALLY_CODES]; /* [verb][state][code] */
};

void tally_note(struct tally *t, int verb, int state, int code);

/* Prints all of it, and what is wrong on stderr. moves: [verb][from][to]. Returns how much is wrong. */
int tally_hold(const struct tally *t, const uint64_t *moves);

#endif
