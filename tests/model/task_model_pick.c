/* What the model thinks of next: a random step, biased to what moves a task on. Changes nothing but the generator of numbers. */
#include "task_model.h"

#include <string.h>

static uint64_t next(struct task_model *m) /* splitmix64 */
{
    uint64_t z = (m->random += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int below(struct task_model *m, int n)
{
    return (int)(next(m) % (uint64_t)n);
}

static bool one_in(struct task_model *m, int n)
{
    return below(m, n) == 0;
}

static bool waited_for(const struct task_model *m, int slot)
{
    for (int i = 0; i < MODEL_SLOTS; i++)
        for (int k = 0; k < MODEL_PARENTS; k++)
            if (m->rows[i].state != TASK_NONE && m->rows[i].deps[k].slot == slot && !m->rows[i].met[k] &&
                m->rows[i].deps[k].generation == m->rows[slot].generation)
                return true;
    return false;
}

/* A slot that is free, or whose task is over and of no use to anybody; -1: none. */
static int room(struct task_model *m, int but)
{
    int at = below(m, MODEL_SLOTS);

    for (int n = 0; n < MODEL_SLOTS; n++, at = (at + 1) % MODEL_SLOTS)
        if (m->rows[at].state == TASK_NONE)
            return at;
    for (int n = 0; n < MODEL_SLOTS; n++, at = (at + 1) % MODEL_SLOTS)
        if (at != but && m->rows[at].state >= TASK_SUCCEEDED && m->rows[at].settled && !waited_for(m, at))
            return at;
    return -1;
}

static struct task_ref any_task(struct task_model *m, int but)
{
    struct task_ref none = {.slot = -1};
    int slot = below(m, MODEL_SLOTS);

    if (slot == but || m->rows[slot].state == TASK_NONE)
        return none;
    return (struct task_ref){.slot = slot, .generation = m->rows[slot].generation};
}

static void pick_submit(struct task_model *m, struct task_step *s)
{
    bool alone = !one_in(m, 3);

    s->flag = m->rows[s->made.slot].state != TASK_NONE && one_in(m, 20);
    s->actor = ACTOR_OWNER;
    s->wanted = one_in(m, 4) ? below(m, MODEL_AGENTS) : -1;
    s->max_attempts = 1 + below(m, 3);
    s->run_after = one_in(m, 8);
    s->timeout = one_in(m, 3);
    s->progress_timeout = one_in(m, 3);
    s->run_on_failure = one_in(m, 3);
    for (int i = 0; i < MODEL_PARENTS; i++)
        s->deps[i] = alone ? (struct task_ref){.slot = -1} : any_task(m, s->made.slot);
    if (s->deps[0].slot == s->deps[1].slot)
        s->deps[1].slot = -1;
    s->parent = one_in(m, 5) ? any_task(m, s->made.slot) : (struct task_ref){.slot = -1};
}

/* Mostly who may; otherwise anybody. */
static int actor_of(struct task_model *m, const struct task_row *t, int verb)
{
    if (one_in(m, 5))
        return below(m, ACTORS);
    if (verb >= VERB_PROVIDE_INPUT)
        return one_in(m, 2) ? ACTOR_OWNER : ACTOR_ADMIN;
    return t->assigned >= 0 ? t->assigned : below(m, MODEL_AGENTS);
}

static void pick_epoch(struct task_model *m, const struct task_row *t, struct task_step *s)
{
    s->epoch_mode = one_in(m, 4) ? below(m, EPOCH_MODES) : EPOCH_CURRENT;
    s->epoch = t->epoch;
    if (s->epoch_mode == EPOCH_OLD)
        s->epoch = t->epoch - 1 - below(m, 2);
    else if (s->epoch_mode == EPOCH_FUTURE)
        s->epoch = t->epoch + 1;
}

static int verb_of(struct task_model *m, const struct task_row *t)
{
    static const uint8_t likely[TASK_STATES][8] = {
        [TASK_BLOCKED] = {VERB_SETTLE, VERB_CANCEL, VERB_FIRE, VERB_SETTLE, VERB_SETTLE, VERB_SETTLE, VERB_SETTLE, VERB_SETTLE},
        [TASK_SCHEDULED] = {VERB_FIRE, VERB_FIRE, VERB_FIRE, VERB_FIRE, VERB_FIRE, VERB_CANCEL, VERB_FIRE, VERB_FIRE},
        [TASK_QUEUED] = {VERB_ASSIGN, VERB_ASSIGN, VERB_ASSIGN, VERB_ASSIGN, VERB_ASSIGN, VERB_CANCEL, VERB_ASSIGN, VERB_ASSIGN},
        [TASK_OFFERED] = {VERB_ACCEPT, VERB_ACCEPT, VERB_DECLINE, VERB_FIRE, VERB_ACCEPT, VERB_CANCEL, VERB_ACCEPT, VERB_PASS},
        [TASK_RUNNING] = {VERB_COMPLETE, VERB_FAIL, VERB_PROGRESS, VERB_NEED_INPUT, VERB_DECLINE, VERB_CANCEL, VERB_FIRE, VERB_FAIL},
        [TASK_INPUT_REQUIRED] = {VERB_PROVIDE_INPUT, VERB_PROVIDE_INPUT, VERB_INPUT_FAILED, VERB_CANCEL, VERB_PROVIDE_INPUT, VERB_FIRE,
                                 VERB_PROVIDE_INPUT, VERB_PROVIDE_INPUT},
        [TASK_CANCELLING] = {VERB_CANCELLED, VERB_CANCELLED, VERB_FIRE, VERB_COMPLETE, VERB_PROGRESS, VERB_CANCELLED, VERB_CANCEL, VERB_FAIL},
    };

    if (t->state >= TASK_SUCCEEDED || one_in(m, 5))
        return VERB_ASSIGN + below(m, VERB_FIRE - VERB_ASSIGN + 1);
    if (t->crashes > 0 && t->state == TASK_RUNNING && !one_in(m, 4)) /* stays there, and its agent may be lost once more */
        return VERB_PROGRESS;
    return likely[t->state][below(m, 8)];
}

/* Only clocks that the task has: the database has a clock of its own, and it goes on. */
static int clock_of(struct task_model *m, const struct task_row *t, int verb)
{
    if (one_in(m, 8))
        return CLOCK_DEADLINE;
    if (verb == VERB_PASS)
        return t->state == TASK_OFFERED || t->state == TASK_RUNNING ? CLOCK_UNTIL : CLOCK_DEADLINE;
    if (one_in(m, 8) && (!t->started || t->state == TASK_RUNNING)) /* what runs has started, and nothing follows */
        return CLOCK_START_BY;
    if (t->progress_clock && one_in(m, 2))
        return CLOCK_PROGRESS;
    return t->until ? CLOCK_UNTIL : CLOCK_DEADLINE;
}

/* Plain SQL is tried from each state to each, also where few tasks are for long. */
static bool is_rare(int state)
{
    return state == TASK_INPUT_REQUIRED || state == TASK_SUCCEEDED || state == TASK_FAILED || state == TASK_DEAD ||
           state == TASK_EXPIRED;
}

static void pick_of_task(struct task_model *m, struct task_step *s)
{
    const struct task_row *t = &m->rows[s->slot];

    s->verb = one_in(m, is_rare(t->state) ? 3 : 16) ? VERB_PLAIN : verb_of(m, t);
    s->actor = actor_of(m, t, s->verb);
    pick_epoch(m, t, s);
    s->agent = t->wanted >= 0 && !one_in(m, 5) ? t->wanted : below(m, MODEL_AGENTS);
    if (t->crashed && t->wanted < 0 && one_in(m, 2)) /* on one agent more than once */
        s->agent = __builtin_ctz(t->crashed);
    s->flag = !one_in(m, 3);
    s->value = below(m, 3);
    if (s->verb == VERB_PLAIN)
        s->value = TASK_BLOCKED + below(m, TASK_STATES - TASK_BLOCKED);
    else if (s->verb == VERB_ASSIGN)
        s->value = one_in(m, 8) ? 2 : below(m, 2);
    else if (s->verb == VERB_PASS || s->verb == VERB_FIRE)
        s->value = clock_of(m, t, s->verb);
    else if (s->verb == VERB_SETTLE)
        s->slot = -1;
}

/* Often who holds what has crashed most. */
static int agent_of(struct task_model *m)
{
    int agent = below(m, MODEL_AGENTS), worst = one_in(m, 2) ? 0 : 6;

    for (int i = 0; i < MODEL_SLOTS; i++)
        if (m->rows[i].state == TASK_RUNNING && m->rows[i].crashes > worst && m->rows[i].session == m->sessions[m->rows[i].assigned]) {
            worst = m->rows[i].crashes;
            agent = m->rows[i].assigned;
        }
    return agent;
}

static void pick_other(struct task_model *m, struct task_step *s)
{
    int what = below(m, 8);

    s->slot = -1;
    s->agent = agent_of(m);
    if (what < 3)
        s->verb = m->present[s->agent] ? VERB_SESSION_LOST : VERB_HELLO;
    else if (what < 7)
        s->verb = VERB_SETTLE;
    else
        s->verb = m->paused ? VERB_RESUME : VERB_PAUSE;
}

void task_model_pick(struct task_model *m, struct task_step *s)
{
    memset(s, 0, sizeof *s);
    s->slot = below(m, MODEL_SLOTS);
    s->made.slot = room(m, s->slot);
    if (one_in(m, 20) || (m->paused && one_in(m, 4))) {
        pick_other(m, s);
        if (s->verb != VERB_PAUSE || one_in(m, 3))
            return;
        s->verb = VERB_SETTLE;
        return;
    }
    if (s->made.slot >= 0) {
        s->made.generation = m->rows[s->made.slot].generation + 1;
        if (m->rows[s->slot].state == TASK_NONE || one_in(m, 6)) {
            s->verb = VERB_SUBMIT;
            pick_submit(m, s);
            return;
        }
    }
    pick_of_task(m, s);
    if (s->verb == VERB_RETRY && s->made.slot < 0)
        s->verb = VERB_CANCEL;
}

void task_model_init(struct task_model *m, uint64_t seed)
{
    memset(m, 0, sizeof *m);
    m->random = seed;
    for (int i = 0; i < MODEL_SLOTS; i++)
        m->rows[i].settled = true;
    for (int i = 0; i < MODEL_AGENTS; i++) {
        m->sessions[i] = 1;
        m->present[i] = true;
    }
}
