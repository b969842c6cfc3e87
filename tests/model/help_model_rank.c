/* Whom of the candidates a round of help_model.c asks: the best of those who may be asked, by what became of their answers so far, and no more than its width. */
#include "help_model.h"

enum { REMEMBERED = 20 };

int help_model_width(const struct help_row *h)
{
    return h->k << h->round;
}

void help_model_judge(struct help_model *m, int agent, bool accepted)
{
    struct help_trust *t = &m->trust[agent];

    t->accepted = (t->accepted << 1 | accepted) & ((1u << REMEMBERED) - 1);
    if (t->n < REMEMBERED)
        t->n++;
}

static int claims(const struct help_model *m, int agent)
{
    int n = 0;

    for (int i = 0; i < MODEL_SLOTS; i++)
        n += m->rows[i].state != HELP_NONE && m->rows[i].experts[agent].state == EXPERT_CLAIMED;
    return n;
}

static double score(const struct help_model *m, int agent)
{
    const struct help_trust *t = &m->trust[agent];

    return (double)(__builtin_popcount(t->accepted) + 1) / (t->n + 2) - 0.25 * claims(m, agent);
}

/* Who was asked before, and let it pass, comes after all others. */
static bool is_before(const struct help_model *m, const struct help_row *h, int agent, int other)
{
    bool passed = h->experts[agent].state == EXPERT_IGNORED || h->experts[agent].state == EXPERT_LAPSED;
    bool other_passed = h->experts[other].state == EXPERT_IGNORED || h->experts[other].state == EXPERT_LAPSED;

    return passed != other_passed ? other_passed : score(m, agent) > score(m, other);
}

uint32_t help_model_best(const struct help_model *m, const struct help_row *h, uint32_t candidates)
{
    uint32_t fit = candidates & ~h->ancestors & ~(1u << h->asker), best = 0;

    for (int i = 0; i < MODEL_AGENTS; i++)
        if (h->experts[i].excluded)
            fit &= ~(1u << i);
    for (int n = 0; n < help_model_width(h) && fit; n++) {
        int first = __builtin_ctz(fit);

        for (int i = first + 1; i < MODEL_AGENTS; i++)
            if (fit >> i & 1u && is_before(m, h, i, first))
                first = i;
        fit &= ~(1u << first);
        best |= 1u << first;
    }
    return best;
}
