/*
 * task_model_trace SEED STEPS - steps and what the model makes of them, a line each, for tests/integration/test_task_model.py to do the
 * same to a database. Numbers: the step (struct task_step in its order), the code, then nine of each row that changed: slot, generation,
 * state, epoch, seq, attempt, crashes, assigned, excluded.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "task_model.h"

static void print_ref(struct task_ref ref)
{
    printf(" %d %u", ref.slot, ref.generation);
}

static void print_step(const struct task_model *m, const struct task_step *s)
{
    printf("%d %d %u %d %d %lld %d %d %d %d %d %d %d %d %d", s->verb, s->slot, s->slot >= 0 ? m->rows[s->slot].generation : 0, s->actor,
           s->epoch_mode, (long long)s->epoch, s->agent, s->flag, s->value, s->wanted, s->max_attempts, s->run_after, s->timeout,
           s->progress_timeout, s->run_on_failure);
    for (int i = 0; i < MODEL_PARENTS; i++)
        print_ref(s->deps[i]);
    print_ref(s->parent);
    print_ref(s->made);
}

static void print_row(const struct task_row *t, int slot)
{
    printf(" %d %u %d %lld %d %d %d %d %u", slot, t->generation, t->state, (long long)t->epoch, t->seq, t->attempt, t->crashes, t->assigned,
           t->excluded);
}

int main(int argc, char **argv)
{
    static struct task_model m, was;
    long steps = argc > 2 ? atol(argv[2]) : 1000;

    task_model_init(&m, argc > 1 ? strtoull(argv[1], NULL, 10) : 1);
    for (long n = 0; n < steps; n++) {
        struct task_step step;

        task_model_pick(&m, &step);
        print_step(&m, &step);
        was = m;
        printf(" %d", task_model_apply(&m, &step));
        for (int i = 0; i < MODEL_SLOTS; i++)
            if (m.rows[i].seq != was.rows[i].seq || m.rows[i].generation != was.rows[i].generation || i == step.slot)
                print_row(&m.rows[i], i);
        printf("\n");
    }
    return 0;
}
