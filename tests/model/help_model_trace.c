/*
 * help_model_trace SEED STEPS - steps and what the model makes of them, a line each, for tests/integration/test_help_model.py to do the
 * same to a database. Numbers: the step (struct help_step in its order, with the generation of slot, parent and made behind each), the
 * code, then of each row that changed: slot, generation, state, epoch, seq, round, rejected, and of each agent state, epoch, excluded.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "help_model.h"

static uint32_t generation(const struct help_model *m, int slot)
{
    return slot >= 0 ? m->rows[slot].generation : 0;
}

static void print_step(const struct help_model *m, const struct help_step *s)
{
    printf("%d %d %u %d %d %lld %d %d %d %d %d %d %d %d %d %d %d %d %u %d %u", s->verb, s->slot, generation(m, s->slot), s->actor, s->epoch_mode,
           (long long)s->epoch, s->agent, s->candidates, s->value, s->panel, s->k, s->rounds, s->rejections, s->escalate, s->with_default,
           s->auto_accept, s->alike, s->parent, generation(m, s->parent), s->made, generation(m, s->made) + 1);
}

static void print_row(const struct help_row *h, int slot)
{
    printf(" %d %u %d %lld %d %d %d", slot, h->generation, h->state, (long long)h->epoch, h->seq, h->round, h->rejected);
    for (int i = 0; i < MODEL_AGENTS; i++)
        printf(" %d %lld %d", h->experts[i].state, (long long)h->experts[i].epoch, h->experts[i].excluded);
}

int main(int argc, char **argv)
{
    static struct help_model m, was;
    long steps = argc > 2 ? atol(argv[2]) : 1000;

    help_model_init(&m, argc > 1 ? strtoull(argv[1], NULL, 10) : 1);
    for (long n = 0; n < steps; n++) {
        struct help_step step;

        help_model_pick(&m, &step);
        print_step(&m, &step);
        was = m;
        printf(" %d", help_model_apply(&m, &step));
        for (int i = 0; i < MODEL_SLOTS; i++)
            if (memcmp(&m.rows[i], &was.rows[i], sizeof m.rows[i]) != 0 || i == step.slot)
                print_row(&m.rows[i], i);
        printf("\n");
    }
    return 0;
}
