/* How often what was done; see tally.h. */
#include "tally.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

void tally_note(struct tally *t, int verb, int state, int code)
{
    t->outcomes[(size_t)verb * t->n_states + (size_t)state][code]++;
}

static int wrong(const struct tally *t, const char *what, size_t verb, size_t from, size_t to)
{
    fprintf(stderr, "%s: %s, %s to %s\n", what, t->verbs[verb], t->states[from], t->states[to]);
    return 1;
}

static int hold_moves(const struct tally *t, const uint64_t *moves, size_t verb)
{
    int n = 0;

    for (size_t from = 0; from < t->n_states; from++)
        for (size_t to = 0; to < t->n_states; to++) {
            uint64_t taken = moves[(verb * t->n_states + from) * t->n_states + to];
            bool is_law = t->law[verb * t->n_states + from] >> to & 1u;

            if (taken)
                printf(" %s-%s:%" PRIu64, t->states[from], t->states[to], taken);
            if (!taken != !is_law)
                n += wrong(t, is_law ? "an edge of the law was never taken" : "the law has no such edge", verb, from, to);
        }
    return n;
}

static uint64_t sum(const uint64_t codes[TALLY_CODES])
{
    uint64_t n = 0;

    for (size_t i = 0; i < TALLY_CODES; i++)
        n += codes[i];
    return n;
}

/* The empty state is that of no row. */
static int hold_outcomes(const struct tally *t, size_t verb)
{
    int n = 0;

    for (size_t state = 1; state < t->n_states; state++) {
        const uint64_t *codes = t->outcomes[verb * t->n_states + state];

        printf("\n  %s:", t->states[state]);
        for (size_t i = 0; i < t->n_codes; i++)
            if (codes[i])
                printf(" %s:%" PRIu64, t->codes[i], codes[i]);
        if (!sum(codes))
            n += wrong(t, "never tried", verb, state, state);
        else if (!codes[0] != !(t->has[verb] >> state & 1u))
            n += wrong(t, codes[0] ? "it has to be refused" : "it never succeeded", verb, state, state);
    }
    return n;
}

int tally_hold(const struct tally *t, const uint64_t *moves)
{
    int n = 0;

    for (size_t verb = 0; verb < t->n_verbs; verb++) {
        printf("%s:", t->verbs[verb]);
        n += hold_moves(t, moves, verb);
        if (t->has[verb])
            n += hold_outcomes(t, verb);
        printf("\n");
    }
    return n;
}
