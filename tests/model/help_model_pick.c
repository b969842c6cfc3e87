/* What the model thinks of next: a random step, biased to what moves a request on. Changes nothing but the generator of numbers. */
#include "help_model.h"

#include <string.h>

static uint64_t next(struct help_model *m) /* splitmix64 */
{
    uint64_t z = (m->random += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int below(struct help_model *m, int n)
{
    return (int)(next(m) % (uint64_t)n);
}

static bool one_in(struct help_model *m, int n)
{
    return below(m, n) == 0;
}

/* A slot that is free, or whose request has ended; -1: none. */
static int room(struct help_model *m)
{
    int at = below(m, MODEL_SLOTS);

    for (int n = 0; n < MODEL_SLOTS; n++, at = (at + 1) % MODEL_SLOTS)
        if (m->rows[at].state == HELP_NONE || m->rows[at].state >= HELP_ACCEPTED)
            return at;
    return -1;
}

/* Any agents, often all. */
static int some(struct help_model *m)
{
    int all = (1 << MODEL_AGENTS) - 1;

    return one_in(m, 3) ? all : below(m, all + 1);
}

static void pick_request(struct help_model *m, struct help_step *s)
{
    s->verb = VERB_REQUEST;
    s->actor = below(m, MODEL_AGENTS);
    s->panel = one_in(m, 2);
    s->k = 1 + below(m, 3);
    s->rounds = 1 + below(m, 3);
    s->rejections = below(m, 3);
    s->escalate = one_in(m, 2);
    s->with_default = s->escalate && one_in(m, 3);
    s->auto_accept = one_in(m, 2);
    s->alike = one_in(m, 4);
    s->parent = one_in(m, 8) ? below(m, MODEL_SLOTS) : -1;
    if (s->parent >= 0 && m->rows[s->parent].state == HELP_NONE)
        s->parent = -1;
    s->candidates = one_in(m, 3) ? -1 : one_in(m, 5) ? 0 : some(m);
}

static int verb_of(struct help_model *m, const struct help_row *h)
{
    static const uint8_t likely[HELP_STATES][8] = {
        [HELP_OPEN] = {VERB_OFFER, VERB_OFFER, VERB_OFFER, VERB_ANSWER, VERB_ACCEPT, VERB_FIRE, VERB_WITHDRAW, VERB_ESCALATE},
        [HELP_OFFERED] = {VERB_CLAIM, VERB_CLAIM, VERB_CLAIM, VERB_DECLINE, VERB_DECLINE, VERB_ANSWER, VERB_FIRE, VERB_KNOWLEDGE},
        [HELP_CLAIMED] = {VERB_ANSWER, VERB_CLAIM, VERB_DECLINE, VERB_FIRE, VERB_ANSWER, VERB_CLAIM, VERB_KNOWLEDGE, VERB_DECLINE},
        [HELP_ANSWERED] = {VERB_ACCEPT, VERB_REJECT, VERB_REJECT, VERB_REJECT, VERB_FIRE, VERB_ANSWER, VERB_ACCEPT, VERB_REJECT},
        [HELP_ESCALATED] = {VERB_RESOLVE, VERB_RESOLVE, VERB_FIRE, VERB_ANSWER, VERB_RESOLVE, VERB_FIRE, VERB_RESOLVE, VERB_WITHDRAW},
    };

    if (h->state >= HELP_ACCEPTED || one_in(m, 5))
        return VERB_OFFER + below(m, VERB_FIRE - VERB_OFFER + 1);
    if (h->panel && h->state == HELP_OFFERED && h->round + 1 < h->rounds && one_in(m, 3)) /* more are asked than may claim */
        return VERB_FIRE;
    if (h->panel && h->state == HELP_CLAIMED && one_in(m, 3))
        return VERB_CLAIM;
    return likely[h->state][below(m, 8)];
}

/* An expert in one of these states, where there is one. */
static int expert_in(struct help_model *m, const struct help_row *h, uint32_t states)
{
    int at = below(m, MODEL_AGENTS);

    for (int n = 0; n < MODEL_AGENTS; n++, at = (at + 1) % MODEL_AGENTS)
        if (states >> h->experts[at].state & 1u)
            return at;
    return at;
}

/* Mostly who may; otherwise anybody. */
static int actor_of(struct help_model *m, const struct help_row *h, int verb)
{
    if (one_in(m, 6))
        return below(m, ACTORS);
    if (verb == VERB_RESOLVE)
        return one_in(m, 4) ? ACTOR_ADMIN : ACTOR_HUMAN;
    if (verb >= VERB_ACCEPT)
        return verb >= VERB_ESCALATE && one_in(m, 4) ? ACTOR_ADMIN : h->asker;
    if (verb == VERB_ANSWER && h->state >= HELP_ACCEPTED) /* said twice */
        return expert_in(m, h, 1u << EXPERT_ANSWERED);
    if (verb == VERB_CLAIM && h->panel && h->state == HELP_CLAIMED && !one_in(m, 3)) /* the next of it */
        return expert_in(m, h, 1u << EXPERT_OFFERED | 1u << EXPERT_IGNORED);
    if (verb == VERB_ANSWER && h->state == HELP_CLAIMED && !one_in(m, 3))
        return expert_in(m, h, 1u << EXPERT_CLAIMED);
    return one_in(m, 4) ? expert_in(m, h, 1u << EXPERT_CLAIMED | 1u << EXPERT_LAPSED | 1u << EXPERT_IGNORED | 1u << EXPERT_EXTRA)
                        : expert_in(m, h, 1u << EXPERT_OFFERED | 1u << EXPERT_CLAIMED);
}

static void pick_epoch(struct help_model *m, const struct help_row *h, struct help_step *s)
{
    int64_t epoch = s->actor < MODEL_AGENTS ? h->experts[s->actor].epoch : h->epoch;

    s->epoch_mode = one_in(m, 4) ? below(m, EPOCH_MODES) : EPOCH_CURRENT;
    s->epoch = epoch;
    if (s->epoch_mode == EPOCH_OLD)
        s->epoch = epoch - 1 - below(m, 2);
    else if (s->epoch_mode == EPOCH_FUTURE)
        s->epoch = epoch + 1;
}

/* Mostly that of its state; one that it does not have runs out for nobody. */
static int clock_of(struct help_model *m, const struct help_row *h)
{
    if (h->until ? !one_in(m, 4) : one_in(m, 4))
        return CLOCK_UNTIL;
    if (h->escalate && one_in(m, 2))
        return CLOCK_HALF;
    return CLOCK_DEADLINE;
}

static void pick_of_help(struct help_model *m, struct help_step *s)
{
    const struct help_row *h = &m->rows[s->slot];

    s->verb = verb_of(m, h);
    s->actor = actor_of(m, h, s->verb);
    pick_epoch(m, h, s);
    s->agent = -1;
    s->value = below(m, 3);
    if (s->verb == VERB_OFFER) {
        s->value = one_in(m, 8) ? 2 : below(m, 2);
        s->candidates = one_in(m, 5) ? 0 : some(m);
    } else if (s->verb == VERB_PASS || s->verb == VERB_FIRE) {
        s->value = clock_of(m, h);
    } else if (s->verb == VERB_ACCEPT && h->state == HELP_ANSWERED && one_in(m, 3)) {
        s->agent = expert_in(m, h, 1u << EXPERT_ANSWERED);
    } else if (s->verb == VERB_KNOWLEDGE) {
        s->agent = h->asker;
        s->actor = s->actor < MODEL_AGENTS ? s->actor : 0;
        s->epoch_mode = EPOCH_NONE;
        s->slot = -1;
    }
}

void help_model_pick(struct help_model *m, struct help_step *s)
{
    memset(s, 0, sizeof *s);
    s->slot = below(m, MODEL_SLOTS);
    s->made = room(m);
    s->parent = s->candidates = -1;
    if (one_in(m, 20)) {
        s->slot = -1;
        s->agent = below(m, MODEL_AGENTS);
        s->verb = one_in(m, 2) ? VERB_SESSION_LOST : VERB_HELLO;
    } else if (s->made >= 0 && (m->rows[s->slot].state == HELP_NONE || one_in(m, 5))) {
        s->slot = -1;
        pick_request(m, s);
    } else {
        pick_of_help(m, s);
    }
}

void help_model_init(struct help_model *m, uint64_t seed)
{
    memset(m, 0, sizeof *m);
    m->random = seed;
    for (int i = 0; i < MODEL_AGENTS; i++)
        m->sessions[i] = 1;
}
