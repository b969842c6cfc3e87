/* The reference machine of help requests; help_model.h says what it is for. Each function here is one row or one rule of the table. */
#include "help_model.h"

#include <string.h>

#define IN(state, set) (((set) >> (state)) & 1u)
#define LIVE (1u << HELP_OPEN | 1u << HELP_OFFERED | 1u << HELP_CLAIMED | 1u << HELP_ANSWERED | 1u << HELP_ESCALATED)

/* What a property check says is told once. */
static void expect(struct help_model *m, bool holds, const char *what)
{
    if (!holds && !m->broken)
        m->broken = what;
}

/* Every edge of the table, whoever takes it. */
static bool edge(int from, int to)
{
    static const uint32_t to_of[HELP_STATES] = {
        [HELP_NONE] = 1u << HELP_OPEN,
        [HELP_OPEN] = 1u << HELP_ACCEPTED | 1u << HELP_OFFERED | 1u << HELP_ESCALATED | 1u << HELP_WITHDRAWN | 1u << HELP_EXPIRED,
        [HELP_OFFERED] = 1u << HELP_ACCEPTED | 1u << HELP_CLAIMED | 1u << HELP_OPEN | 1u << HELP_ESCALATED | 1u << HELP_WITHDRAWN | 1u << HELP_EXPIRED,
        [HELP_CLAIMED] = 1u << HELP_CLAIMED | 1u << HELP_ANSWERED | 1u << HELP_OPEN | 1u << HELP_WITHDRAWN | 1u << HELP_EXPIRED,
        [HELP_ANSWERED] = 1u << HELP_ACCEPTED | 1u << HELP_OPEN | 1u << HELP_ESCALATED | 1u << HELP_WITHDRAWN | 1u << HELP_UNANSWERED,
        [HELP_ESCALATED] = 1u << HELP_ANSWERED | 1u << HELP_WITHDRAWN | 1u << HELP_EXPIRED,
    };
    return IN(to, to_of[from]);
}

static void enter(struct help_model *m, struct help_row *h, int to)
{
    int from = h->state;

    expect(m, edge(from, to), "an edge that the table does not have");
    expect(m, from != HELP_CLAIMED || to != HELP_CLAIMED || h->panel, "two claims of which the first is to win");
    m->moves[m->verb][from][to]++;
    h->state = to;
    h->seq++;
    if (to == HELP_CLAIMED)
        return; /* the clock is that of the claims */
    h->until = h->until_passed = false;
    for (int i = 0; i < MODEL_AGENTS && from == HELP_CLAIMED; i++)
        if (h->experts[i].state == EXPERT_CLAIMED)
            h->experts[i].state = EXPERT_STOPPED;
}

static void escalate(struct help_model *m, struct help_row *h)
{
    enter(m, h, HELP_ESCALATED);
}

static void answered(struct help_model *m, struct help_row *h)
{
    enter(m, h, HELP_ANSWERED);
    h->until = true;
}

/* A set of agents is asked. */
static void ask(struct help_model *m, struct help_row *h, uint32_t agents)
{
    for (int i = 0; i < MODEL_AGENTS; i++) {
        struct help_expert *e = &h->experts[i];

        if (IN(i, agents)) {
            e->state = EXPERT_OFFERED;
            e->asked = true;
            e->epoch = e->offer_epoch = h->epoch;
        } else if (e->state == EXPERT_OFFERED) {
            e->state = EXPERT_IGNORED;
        }
    }
    enter(m, h, HELP_OFFERED);
    h->until = h->escalate || h->round + 1 < h->rounds;
}

static void look(struct help_model *m, struct help_row *h, uint32_t candidates)
{
    uint32_t best = help_model_best(m, h, candidates);

    if (best)
        ask(m, h, best);
    else if (h->escalate)
        escalate(m, h);
}

/* A round is over with nobody. */
static void widen(struct help_model *m, struct help_row *h)
{
    h->round++;
    for (int i = 0; i < MODEL_AGENTS; i++)
        if (h->experts[i].state == EXPERT_OFFERED)
            h->experts[i].state = EXPERT_IGNORED;
    if (h->escalate && (h->round >= h->rounds || h->half_passed))
        escalate(m, h);
    else
        enter(m, h, HELP_OPEN);
}

static void widen_when_in_vain(struct help_model *m, struct help_row *h)
{
    for (int i = 0; i < MODEL_AGENTS; i++)
        if (h->experts[i].state == EXPERT_OFFERED)
            return;
    widen(m, h);
}

static bool counts(const struct help_expert *e)
{
    return e->state == EXPERT_CLAIMED || (e->state == EXPERT_ANSWERED && !e->judged);
}

static int taken(const struct help_row *h)
{
    int n = 0;

    for (int i = 0; i < MODEL_AGENTS; i++)
        n += counts(&h->experts[i]);
    return n;
}

static int answers(const struct help_row *h)
{
    int n = 0;

    for (int i = 0; i < MODEL_AGENTS; i++)
        n += counts(&h->experts[i]) && h->experts[i].state == EXPERT_ANSWERED;
    return n;
}

/* The clock of a claimed request is that of its first claim. */
static void set_clock(struct help_row *h)
{
    h->until = h->until_passed = false;
    for (int i = 0; i < MODEL_AGENTS; i++) {
        h->until |= h->experts[i].state == EXPERT_CLAIMED;
        h->until_passed |= h->experts[i].state == EXPERT_CLAIMED && h->experts[i].late;
    }
}

/* One claim is no more. */
static void dropped(struct help_model *m, struct help_row *h)
{
    if (taken(h) == 0)
        enter(m, h, HELP_OPEN);
    else
        set_clock(h);
}

/* Why a verb of an expert is refused, or CODE_OK. */
static int hold(const struct help_row *h, const struct help_step *s)
{
    static const struct help_expert nobody;
    const struct help_expert *e = s->actor < MODEL_AGENTS ? &h->experts[s->actor] : &nobody;

    if (h->state == HELP_OPEN ? !e->asked || e->excluded : !IN(h->state, 1u << HELP_OFFERED | 1u << HELP_CLAIMED | 1u << HELP_ANSWERED))
        return CODE_FAILED_PRECONDITION;
    if (!e->asked)
        return h->state == HELP_ANSWERED ? CODE_FAILED_PRECONDITION : CODE_PERMISSION_DENIED;
    if (e->excluded)
        return CODE_FAILED_PRECONDITION;
    if (s->epoch_mode != EPOCH_NONE && s->epoch != e->epoch)
        return CODE_ABORTED;
    if (e->state == EXPERT_ANSWERED)
        return CODE_FAILED_PRECONDITION;
    if (h->state == HELP_ANSWERED)
        return CODE_ABORTED;
    if (e->state != EXPERT_CLAIMED && h->state == HELP_CLAIMED && !h->panel)
        return CODE_ABORTED;
    if (e->state != EXPERT_CLAIMED && h->state == HELP_CLAIMED && taken(h) >= h->k)
        return CODE_FAILED_PRECONDITION;
    return h->deadline_passed ? CODE_DEADLINE_EXCEEDED : CODE_OK;
}

static void take(struct help_model *m, struct help_row *h, int agent)
{
    struct help_expert *e = &h->experts[agent];

    if (h->state == HELP_OPEN) /* between two rounds */
        enter(m, h, HELP_OFFERED);
    h->epoch++;
    e->state = EXPERT_CLAIMED;
    e->epoch = h->epoch;
    e->session = m->sessions[agent];
    e->late = false;
    enter(m, h, HELP_CLAIMED);
    set_clock(h);
}

static int on_claim(struct help_model *m, struct help_row *h, const struct help_step *s)
{
    struct help_step said = *s;
    int code;

    if (s->actor < MODEL_AGENTS && h->experts[s->actor].state == EXPERT_CLAIMED && s->epoch == h->experts[s->actor].offer_epoch)
        said.epoch_mode = EPOCH_NONE;
    code = hold(h, &said);
    if (!code && h->experts[s->actor].state != EXPERT_CLAIMED)
        take(m, h, s->actor);
    return code;
}

static int on_decline(struct help_model *m, struct help_row *h, const struct help_step *s)
{
    struct help_expert *e = s->actor < MODEL_AGENTS ? &h->experts[s->actor] : NULL;
    bool claimed;

    if (e && e->state == EXPERT_DECLINED && IN(h->state, LIVE))
        return CODE_OK;
    if (!e || !IN(h->state, 1u << HELP_OPEN | 1u << HELP_OFFERED | 1u << HELP_CLAIMED) || !e->asked || e->excluded || e->state == EXPERT_ANSWERED ||
        (s->epoch_mode != EPOCH_NONE && s->epoch != e->epoch))
        return hold(h, s);
    claimed = e->state == EXPERT_CLAIMED;
    e->state = EXPERT_DECLINED;
    e->excluded = true;
    if (h->state == HELP_OFFERED)
        widen_when_in_vain(m, h);
    else if (claimed)
        dropped(m, h);
    return CODE_OK;
}

static void keep(const struct help_row *h, struct help_expert *e)
{
    if (e->asked && !e->excluded && e->state != EXPERT_CLAIMED && e->state != EXPERT_ANSWERED &&
        (e->state != EXPERT_OFFERED || h->state != HELP_OFFERED))
        e->state = EXPERT_EXTRA;
}

static int on_answer(struct help_model *m, struct help_row *h, const struct help_step *s)
{
    struct help_expert *e = s->actor < MODEL_AGENTS ? &h->experts[s->actor] : NULL;
    int code;

    if (e && e->state == EXPERT_ANSWERED && !e->excluded)
        return e->solution == s->value && (s->epoch_mode == EPOCH_NONE || s->epoch == e->epoch || s->epoch == e->offer_epoch)
                   ? CODE_OK
                   : CODE_FAILED_PRECONDITION;
    code = hold(h, s);
    if (code) {
        if (e)
            keep(h, e);
        return code;
    }
    if (e->state != EXPERT_CLAIMED)
        take(m, h, s->actor);
    e->state = EXPERT_ANSWERED;
    e->solution = s->value;
    e->judged = false;
    e->at = ++m->counter;
    if (!h->panel || answers(h) >= h->k)
        answered(m, h);
    else
        set_clock(h);
    return CODE_OK;
}

/* Which request of the asker a message of the expert answers: one that can be answered, that he has claimed, the newest. */
static struct help_row *meant(struct help_model *m, int asker, int expert)
{
    struct help_row *best = NULL;
    int best_rank = 0;

    for (int i = 0; i < MODEL_SLOTS; i++) {
        struct help_row *h = &m->rows[i];
        const struct help_expert *e = &h->experts[expert];
        int rank = IN(h->state, 1u << HELP_OPEN | 1u << HELP_OFFERED | 1u << HELP_CLAIMED) * 2 + (e->state == EXPERT_CLAIMED);

        if (!IN(h->state, LIVE) || h->asker != asker || !e->asked || e->excluded)
            continue;
        if (!best || rank > best_rank || (rank == best_rank && h->made > best->made)) {
            best = h;
            best_rank = rank;
        }
    }
    return best;
}

static int on_knowledge(struct help_model *m, const struct help_step *s)
{
    struct help_row *h = meant(m, s->agent, s->actor);

    return h ? on_answer(m, h, s) : CODE_OK;
}

static bool asks(const struct help_row *h, const struct help_step *s)
{
    return h->asker == s->actor;
}

static bool owns(const struct help_row *h, const struct help_step *s)
{
    return asks(h, s) || s->actor == ACTOR_ADMIN;
}

/* Whose answer is taken: of agent, or the first; what a human or nobody said is alone. -1: there is none. */
static int best(const struct help_row *h, int agent)
{
    int found = -1;

    for (int i = 0; i < MODEL_AGENTS; i++)
        if (h->experts[i].state == EXPERT_ANSWERED && !h->experts[i].judged && (agent < 0 || agent == i) &&
            (found < 0 || h->experts[i].at < h->experts[found].at))
            found = i;
    return found;
}

static int accept(struct help_model *m, struct help_row *h, int agent)
{
    int winner = best(h, agent);

    if (winner < 0 && (h->said < 0 || agent >= 0))
        return CODE_NOT_FOUND;
    if (winner >= 0) {
        h->experts[winner].judged = true;
        help_model_judge(m, winner, true);
    }
    h->answered_by = winner;
    m->prior |= h->alike && (winner >= 0 || h->said_by >= 0);
    enter(m, h, HELP_ACCEPTED);
    return CODE_OK;
}

static int on_accept(struct help_model *m, struct help_row *h, const struct help_step *s)
{
    if (h->state == HELP_ACCEPTED && asks(h, s) && (s->agent < 0 || s->agent == h->answered_by))
        return CODE_OK;
    if (!IN(h->state, 1u << HELP_OPEN | 1u << HELP_OFFERED | 1u << HELP_ANSWERED))
        return CODE_FAILED_PRECONDITION;
    if (!asks(h, s))
        return CODE_PERMISSION_DENIED;
    if (h->state == HELP_ANSWERED)
        return accept(m, h, s->agent);
    if (!h->alike || !m->prior)
        return CODE_FAILED_PRECONDITION;
    enter(m, h, HELP_ACCEPTED);
    return CODE_OK;
}

static int on_reject(struct help_model *m, struct help_row *h, const struct help_step *s)
{
    if (h->state != HELP_ANSWERED)
        return CODE_FAILED_PRECONDITION;
    if (!asks(h, s))
        return CODE_PERMISSION_DENIED;
    for (int i = 0; i < MODEL_AGENTS; i++) {
        struct help_expert *e = &h->experts[i];

        if (e->state == EXPERT_ANSWERED && !e->judged) {
            e->judged = e->excluded = true;
            help_model_judge(m, i, false);
        } else if (e->state == EXPERT_STOPPED) {
            e->state = EXPERT_IGNORED;
        }
    }
    h->said = -1;
    h->rejected++;
    h->round = 0;
    if (h->rejected > h->rejections)
        escalate(m, h);
    else
        enter(m, h, HELP_OPEN);
    return CODE_OK;
}

static int on_escalate(struct help_model *m, struct help_row *h, const struct help_step *s)
{
    if (h->state == HELP_ESCALATED && owns(h, s))
        return CODE_OK;
    if (h->state != HELP_OPEN && h->state != HELP_OFFERED)
        return CODE_FAILED_PRECONDITION;
    if (!owns(h, s))
        return CODE_PERMISSION_DENIED;
    escalate(m, h);
    return CODE_OK;
}

static int on_resolve(struct help_model *m, struct help_row *h, const struct help_step *s)
{
    if (s->actor != ACTOR_HUMAN && s->actor != ACTOR_ADMIN)
        return CODE_PERMISSION_DENIED;
    if (h->state == HELP_ANSWERED && h->said_by == s->actor && h->said == s->value)
        return CODE_OK;
    if (h->state != HELP_ESCALATED)
        return CODE_FAILED_PRECONDITION;
    if (h->deadline_passed)
        return CODE_DEADLINE_EXCEEDED;
    h->said = s->value;
    h->said_by = s->actor;
    answered(m, h);
    return CODE_OK;
}

static int on_withdraw(struct help_model *m, struct help_row *h, const struct help_step *s)
{
    if (h->state == HELP_WITHDRAWN && owns(h, s))
        return CODE_OK;
    if (!IN(h->state, LIVE))
        return CODE_FAILED_PRECONDITION;
    if (!owns(h, s))
        return CODE_PERMISSION_DENIED;
    enter(m, h, HELP_WITHDRAWN);
    return CODE_OK;
}

static int on_offer(struct help_model *m, struct help_row *h, const struct help_step *s)
{
    if (h->state != HELP_OPEN)
        return CODE_FAILED_PRECONDITION;
    if (s->value == 2)
        return CODE_ABORTED;
    if (h->deadline_passed)
        return CODE_DEADLINE_EXCEEDED;
    if (h->round >= h->rounds)
        return CODE_FAILED_PRECONDITION;
    look(m, h, (uint32_t)s->candidates);
    return CODE_OK;
}

/* A clock of the request runs out, where it has it. */
static void pass(struct help_row *h, int clock)
{
    if (clock == CLOCK_HALF) {
        h->half_passed |= h->escalate;
    } else if (clock == CLOCK_DEADLINE) {
        h->deadline_passed = true;
    } else {
        h->until_passed |= h->until;
        for (int i = 0; i < MODEL_AGENTS && h->state == HELP_CLAIMED; i++)
            h->experts[i].late |= h->experts[i].state == EXPERT_CLAIMED;
    }
}

static void lapse(struct help_expert *e)
{
    e->state = EXPERT_LAPSED;
    e->excluded = e->crashes >= 1; /* not the first time */
    e->crashes++;
}

static void claims_over(struct help_model *m, struct help_row *h)
{
    for (int i = 0; i < MODEL_AGENTS; i++)
        if (h->experts[i].state == EXPERT_CLAIMED && h->experts[i].late)
            lapse(&h->experts[i]);
    dropped(m, h);
}

static void deadline(struct help_model *m, struct help_row *h)
{
    if (h->state == HELP_CLAIMED && answers(h) > 0) {
        answered(m, h);
    } else if (h->with_default) {
        if (h->state == HELP_CLAIMED)
            enter(m, h, HELP_OPEN);
        if (h->state != HELP_ESCALATED)
            escalate(m, h);
        h->said = 0;
        h->said_by = -1;
        answered(m, h);
    } else {
        enter(m, h, HELP_EXPIRED);
    }
}

static void on_time(struct help_model *m, struct help_row *h)
{
    bool early = h->state == HELP_OPEN || h->state == HELP_OFFERED;

    if (h->state == HELP_ANSWERED) {
        if (h->until_passed && h->auto_accept)
            (void)accept(m, h, -1);
        else if (h->until_passed)
            enter(m, h, HELP_UNANSWERED);
    } else if (!IN(h->state, LIVE)) {
        return;
    } else if (early && h->half_passed && (!h->deadline_passed || h->with_default)) {
        escalate(m, h);
    } else if (h->deadline_passed) {
        deadline(m, h);
    } else if (h->until_passed && h->state == HELP_OFFERED) {
        widen(m, h);
    } else if (h->until_passed && h->state == HELP_CLAIMED) {
        claims_over(m, h);
    }
}

static void lose(struct help_model *m, struct help_row *h, int agent)
{
    struct help_expert *e = &h->experts[agent];

    if (h->state == HELP_CLAIMED && e->state == EXPERT_CLAIMED && e->session == m->sessions[agent]) {
        lapse(e);
        dropped(m, h);
    } else if (IN(h->state, 1u << HELP_OFFERED | 1u << HELP_CLAIMED) && e->state == EXPERT_OFFERED) {
        e->state = EXPERT_IGNORED;
        if (h->state == HELP_OFFERED)
            widen_when_in_vain(m, h);
    }
}

static int on_session_lost(struct help_model *m, const struct help_step *s)
{
    for (int i = 0; i < MODEL_SLOTS; i++) {
        struct help_row *h = &m->rows[i];

        if (IN(h->state, LIVE) && h->asker == s->agent && h->session == m->sessions[s->agent])
            enter(m, h, HELP_WITHDRAWN);
    }
    for (int i = 0; i < MODEL_SLOTS; i++)
        lose(m, &m->rows[i], s->agent);
    return CODE_OK;
}

static int open_of(const struct help_model *m, int asker)
{
    int n = 0;

    for (int i = 0; i < MODEL_SLOTS; i++)
        n += IN(m->rows[i].state, LIVE) && m->rows[i].asker == asker;
    return n;
}

/* What the asker answers right now is what he asks for. */
static int behind(const struct help_model *m, const struct help_step *s, struct help_row *like)
{
    bool named = false;

    like->depth = 0;
    for (int i = 0; i < MODEL_SLOTS; i++) {
        const struct help_row *h = &m->rows[i];

        if (h->state == HELP_NONE || h->experts[s->actor].state != EXPERT_CLAIMED)
            continue;
        named |= i == s->parent;
        like->ancestors |= h->ancestors | 1u << h->asker;
        if (like->depth < h->depth + 1)
            like->depth = h->depth + 1;
    }
    if (s->parent >= 0 && !named)
        return CODE_FAILED_PRECONDITION;
    return like->depth > MODEL_DEPTH ? CODE_FAILED_PRECONDITION : CODE_OK;
}

static int on_request(struct help_model *m, const struct help_step *s)
{
    struct help_row *h = &m->rows[s->made];
    struct help_row like = {.generation = h->generation + 1, .asker = s->actor, .panel = s->panel, .k = s->k, .rounds = s->rounds,
                            .rejections = s->rejections, .escalate = s->escalate, .with_default = s->with_default, .auto_accept = s->auto_accept,
                            .alike = s->alike, .said = -1, .said_by = -1, .answered_by = -1, .session = m->sessions[s->actor]};
    int code = behind(m, s, &like);

    if (code)
        return code;
    if (open_of(m, s->actor) >= MODEL_QUOTA)
        return CODE_RESOURCE_EXHAUSTED;
    *h = like;
    h->made = ++m->counter;
    enter(m, h, HELP_OPEN);
    if (s->candidates >= 0)
        look(m, h, (uint32_t)s->candidates);
    return CODE_OK;
}

static int on_help(struct help_model *m, struct help_row *h, const struct help_step *s)
{
    switch (s->verb) {
    case VERB_OFFER: return on_offer(m, h, s);
    case VERB_CLAIM: return on_claim(m, h, s);
    case VERB_DECLINE: return on_decline(m, h, s);
    case VERB_ANSWER: return on_answer(m, h, s);
    case VERB_ACCEPT: return on_accept(m, h, s);
    case VERB_REJECT: return on_reject(m, h, s);
    case VERB_ESCALATE: return on_escalate(m, h, s);
    case VERB_RESOLVE: return on_resolve(m, h, s);
    case VERB_WITHDRAW: return on_withdraw(m, h, s);
    default: break;
    }
    pass(h, s->value);
    if (s->verb == VERB_FIRE)
        on_time(m, h);
    return CODE_OK;
}

int help_model_apply(struct help_model *m, const struct help_step *s)
{
    m->verb = s->verb;
    switch (s->verb) {
    case VERB_REQUEST: return on_request(m, s);
    case VERB_KNOWLEDGE: return on_knowledge(m, s);
    case VERB_SESSION_LOST: return on_session_lost(m, s);
    case VERB_HELLO: m->sessions[s->agent]++; return CODE_OK;
    default: return m->rows[s->slot].state == HELP_NONE ? CODE_NOT_FOUND : on_help(m, &m->rows[s->slot], s);
    }
}

static void check_expert(struct help_model *m, const struct help_row *h, int agent)
{
    const struct help_expert *e = &h->experts[agent];

    expect(m, !e->asked || (agent != h->asker && !IN(agent, h->ancestors)), "the asker, or who he asks for, was asked");
    expect(m, e->state != EXPERT_CLAIMED || h->state == HELP_CLAIMED, "a claim of what is not claimed");
    expect(m, e->state != EXPERT_CLAIMED || (!e->excluded && e->asked), "claimed by who may not");
    expect(m, e->epoch <= h->epoch, "an epoch from the future");
    for (int i = 0; i < agent && e->state == EXPERT_CLAIMED; i++)
        expect(m, h->experts[i].state != EXPERT_CLAIMED || h->experts[i].epoch != e->epoch, "two holders of one epoch");
}

/* What holds for a request whatever was done. */
static void check(struct help_model *m, const struct help_row *h)
{
    int n = taken(h);

    expect(m, h->state != HELP_CLAIMED || n > 0, "claimed by nobody");
    expect(m, h->state != HELP_CLAIMED || n <= (h->panel ? h->k : 1), "claimed by too many");
    expect(m, h->state != HELP_CLAIMED || answers(h) < h->k, "a panel that has enough");
    expect(m, h->state != HELP_ANSWERED || answers(h) > 0 || h->said >= 0, "answered by nobody");
    expect(m, h->state != HELP_OPEN || n == 0, "open, and somebody is at it");
    expect(m, h->depth <= MODEL_DEPTH, "too deep");
    expect(m, h->round <= h->rounds, "too many rounds");
    expect(m, h->rejected <= h->rejections || h->state != HELP_OPEN, "turned down too often");
    expect(m, h->until || !h->until_passed, "a clock that is not there has run out");
    for (int i = 0; i < MODEL_AGENTS; i++)
        check_expert(m, h, i);
}

void help_model_check(struct help_model *m)
{
    for (int i = 0; i < MODEL_SLOTS; i++)
        if (m->rows[i].state != HELP_NONE)
            check(m, &m->rows[i]);
}
