/*
 * run_model_trace SEED STEPS - steps and what the model makes of them, a line each, for tests/integration/test_run_model.py to do the same to
 * a database. Numbers: the step (struct run_step in its order, the run's generation behind its slot), the code, then eighteen of each row that
 * changed: slot, generation, status, epoch, verify_epoch, seq, attempt, crashes, verdicts, agent, held, verified, result, tries, repeats, how many
 * passed it, whether it waits, whether it is open.
 */
#include <stdio.h>
#include <stdlib.h>

#include "run_model.h"

static void print_step(const struct run_model *m, const struct run_step *s)
{
    printf("%d %d %u %d %d %lld %d %d %d %d %u", s->verb, s->slot, s->slot >= 0 ? m->rows[s->slot].generation : 0, s->actor, s->epoch_mode,
           (long long)s->epoch, s->agent, s->flag, s->taken, s->value, s->made);
}

static void print_row(const struct run_row *r, int slot)
{
    printf(" %d %u %d %lld %lld %d %d %d %d %d %d %d %d %d %d %d %d %d", slot, r->generation, r->status, (long long)r->epoch, (long long)r->verify_epoch, r->seq,
           r->attempt, r->crashes, r->verdicts, r->agent, r->held, r->verified, r->result, r->tries, r->repeats, __builtin_popcount(r->passed_by), r->waits, r->open);
}

int main(int argc, char **argv)
{
    static struct run_model m, was;
    long steps = argc > 2 ? atol(argv[2]) : 1000;

    run_model_init(&m, argc > 1 ? strtoull(argv[1], NULL, 10) : 1);
    for (long n = 0; n < steps; n++) {
        struct run_step step;

        run_model_pick(&m, &step);
        print_step(&m, &step);
        was = m;
        printf(" %d", run_model_apply(&m, &step));
        for (int i = 0; i < RUN_SLOTS; i++)
            if (m.rows[i].seq != was.rows[i].seq || m.rows[i].generation != was.rows[i].generation || i == step.slot)
                print_row(&m.rows[i], i);
        printf("\n");
    }
    return 0;
}
