/* What the model thinks of next: a random step, biased to what moves a run on. Changes nothing but the generator of numbers. */
#include "run_model.h"

#include <string.h>

static uint64_t next(struct run_model *m) /* splitmix64 */
{
    uint64_t z = (m->random += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int below(struct run_model *m, int n)
{
    return (int)(next(m) % (uint64_t)n);
}

static bool one_in(struct run_model *m, int n)
{
    return below(m, n) == 0;
}

static bool verifies(int verb)
{
    return verb == RUN_VERIFY || verb == RUN_PASS || verb == RUN_REJECT;
}

static int verb_of(struct run_model *m, const struct run_row *r)
{
    static const uint8_t likely[RUN_STATUSES][8] = {
        [RUN_PENDING] = {RUN_PROGRESS, RUN_CLAIM, RUN_CLAIM, RUN_CLAIM, RUN_CLAIM, RUN_CLAIM, RUN_REST, RUN_BLOCK},
        [RUN_IN_PROGRESS] = {RUN_SUBMIT, RUN_SUBMIT, RUN_SUBMIT, RUN_SUBMIT, RUN_SUBMIT, RUN_SUBMIT, RUN_FIRE, RUN_RETRY},
        [RUN_BLOCKED] = {RUN_CLAIM, RUN_CLAIM, RUN_CLAIM, RUN_FAIL, RUN_ESCALATE, RUN_CANCEL, RUN_PROGRESS, RUN_CLAIM},
        [RUN_AWAITING] = {RUN_VERIFY, RUN_VERIFY, RUN_VERIFY, RUN_VERIFY, RUN_VERIFY, RUN_VERIFY, RUN_VERIFY, RUN_FIRE},
        [RUN_VERIFYING] = {RUN_PASS, RUN_REJECT, RUN_REJECT, RUN_REJECT, RUN_PASS, RUN_FIRE, RUN_SUBMIT, RUN_VERIFY},
        [RUN_PASSED] = {RUN_FIRE, RUN_PASS, RUN_COMPLETE, RUN_FAIL, RUN_SUBMIT, RUN_CANCEL, RUN_CLAIM, RUN_ESCALATE},
        [RUN_REFUTED] = {RUN_FIRE, RUN_REJECT, RUN_RETRY, RUN_COMPLETE, RUN_SUBMIT, RUN_VERIFY, RUN_CLAIM, RUN_ESCALATE},
        [RUN_ESCALATED] = {RUN_RETRY, RUN_RETRY, RUN_RETRY, RUN_RETRY, RUN_COMPLETE, RUN_FAIL, RUN_RETRY, RUN_CANCEL},
    };

    if (r->status >= RUN_COMPLETED || r->status == RUN_NONE || one_in(m, 5))
        return RUN_PROGRESS + below(m, RUN_FIRE - RUN_PROGRESS + 1);
    if (r->waits && one_in(m, 2))
        return RUN_REST;
    if (r->crashes > 0 && r->status == RUN_IN_PROGRESS && !one_in(m, 4)) /* stays there, and its worker may be lost once more */
        return RUN_PROGRESS;
    return likely[r->status][below(m, 8)];
}

/* Mostly who may; otherwise anybody. */
static int actor_of(struct run_model *m, const struct run_row *r, int verb)
{
    if (one_in(m, 5) || (r->open && verb == RUN_CLAIM))
        return below(m, RUN_ACTORS);
    if (r->status == RUN_VERIFYING && r->held >= 0 && r->held < RUN_ACTORS)
        return r->held;
    if (verifies(verb))
        return below(m, RUN_ACTORS);
    if (r->status == RUN_ESCALATED)
        return one_in(m, 2) ? RUN_HUMAN : RUN_ADMIN;
    return one_in(m, 5) ? RUN_OWNER : r->agent;
}

static void pick_epoch(struct run_model *m, const struct run_row *r, struct run_step *s)
{
    s->epoch_mode = one_in(m, 4) ? below(m, RUN_EPOCH_MODES) : one_in(m, 2) ? RUN_EPOCH_CURRENT : RUN_EPOCH_NONE;
    s->epoch = verifies(s->verb) ? r->verify_epoch : r->epoch;
    if (s->epoch_mode == RUN_EPOCH_OLD)
        s->epoch = s->epoch > 0 ? s->epoch - 1 : 0;
    else if (s->epoch_mode == RUN_EPOCH_FUTURE)
        s->epoch++;
}

/* Verdicts in plain SQL are the only ones after which a run stays for a while. */
static int plain_to(struct run_model *m, const struct run_row *r)
{
    if (r->status == RUN_VERIFYING && one_in(m, 2))
        return one_in(m, 2) ? RUN_PASSED : RUN_REFUTED;
    if (r->status == RUN_REFUTED && one_in(m, 2))
        return one_in(m, 2) ? RUN_PENDING : RUN_IN_PROGRESS;
    return RUN_PENDING + below(m, RUN_STATUSES - RUN_PENDING);
}

static bool started(struct run_model *m, struct run_step *s)
{
    const struct run_row *r = &m->rows[s->slot];

    s->taken = r->status != RUN_NONE && one_in(m, 200);
    if (!s->taken && r->status != RUN_NONE && !(r->status >= RUN_COMPLETED && one_in(m, 3)))
        return false;
    s->verb = RUN_START;
    s->actor = RUN_OWNER;
    s->flag = below(m, RUN_FLAGS);
    s->made = r->generation + (s->taken ? 0 : 1);
    return true;
}

/* Often whose run has lost its worker most often. */
static int agent_of(struct run_model *m)
{
    int agent = below(m, RUN_AGENTS), worst = one_in(m, 2) ? 0 : 3;

    for (int i = 0; i < RUN_SLOTS; i++)
        if (m->rows[i].status == RUN_IN_PROGRESS && m->rows[i].crashes > worst && m->rows[i].held < RUN_AGENTS && m->rows[i].session == m->sessions[m->rows[i].held]) {
            worst = m->rows[i].crashes;
            agent = m->rows[i].held;
        }
    return agent;
}

void run_model_pick(struct run_model *m, struct run_step *s)
{
    const struct run_row *r;

    memset(s, 0, sizeof *s);
    s->slot = below(m, RUN_SLOTS);
    s->agent = below(m, RUN_AGENTS);
    if (one_in(m, 12)) {
        s->slot = -1;
        s->agent = agent_of(m);
        s->verb = m->present[s->agent] ? RUN_SESSION_LOST : RUN_HELLO;
        return;
    }
    if (started(m, s))
        return;
    r = &m->rows[s->slot];
    s->verb = one_in(m, r->status == RUN_PASSED || r->status == RUN_REFUTED ? 4 : 10) ? RUN_PLAIN : one_in(m, 40) ? RUN_TASK_OVER : verb_of(m, r);
    s->actor = actor_of(m, r, s->verb);
    s->flag = one_in(m, 2);
    pick_epoch(m, r, s);
    s->value = s->verb == RUN_PLAIN ? plain_to(m, r) : below(m, 3);
    if (r->status == RUN_VERIFYING && one_in(m, r->verdicts + 1 == r->limit ? 3 : 8)) { /* a verdict that stands until the sweeper comes */
        s->verb = RUN_PLAIN;
        s->value = one_in(m, 2) ? RUN_REFUTED : RUN_PASSED;
    }
}

void run_model_init(struct run_model *m, uint64_t seed)
{
    memset(m, 0, sizeof *m);
    m->random = seed;
    for (int i = 0; i < RUN_AGENTS; i++) {
        m->sessions[i] = 1;
        m->present[i] = true;
    }
}
