/* The reference machine of tasks; task_model.h says what it is for. Each function here is one row or one rule of the table. */
#include "task_model.h"

#include <string.h>

#define HELD (1u << TASK_OFFERED | 1u << TASK_RUNNING | 1u << TASK_INPUT_REQUIRED | 1u << TASK_CANCELLING)
#define IN(state, set) (((set) >> (state)) & 1u)

static bool over(int state)
{
    return state >= TASK_SUCCEEDED;
}

static struct task_row *of(struct task_model *m, struct task_ref ref)
{
    if (ref.slot < 0 || m->rows[ref.slot].generation != ref.generation)
        return NULL; /* it ended long ago */
    return &m->rows[ref.slot];
}

/* What a property check says is told once. */
static void expect(struct task_model *m, bool holds, const char *what)
{
    if (!holds && !m->broken)
        m->broken = what;
}

/* Every edge of the table, whoever takes it. */
static bool edge(int from, int to)
{
    static const uint32_t to_of[TASK_STATES] = {
        [TASK_NONE] = 1u << TASK_BLOCKED | 1u << TASK_SCHEDULED | 1u << TASK_QUEUED,
        [TASK_BLOCKED] = 1u << TASK_QUEUED | 1u << TASK_SCHEDULED | 1u << TASK_CANCELLED | 1u << TASK_EXPIRED,
        [TASK_SCHEDULED] = 1u << TASK_QUEUED | 1u << TASK_CANCELLED | 1u << TASK_EXPIRED,
        [TASK_QUEUED] = 1u << TASK_OFFERED | 1u << TASK_CANCELLED | 1u << TASK_EXPIRED,
        [TASK_OFFERED] = 1u << TASK_RUNNING | 1u << TASK_QUEUED | 1u << TASK_CANCELLED | 1u << TASK_EXPIRED,
        [TASK_RUNNING] = 1u << TASK_QUEUED | 1u << TASK_SUCCEEDED | 1u << TASK_SCHEDULED | 1u << TASK_FAILED | 1u << TASK_DEAD |
                         1u << TASK_INPUT_REQUIRED | 1u << TASK_CANCELLING | 1u << TASK_EXPIRED,
        [TASK_INPUT_REQUIRED] = 1u << TASK_RUNNING | 1u << TASK_QUEUED | 1u << TASK_SCHEDULED | 1u << TASK_FAILED | 1u << TASK_CANCELLED |
                                1u << TASK_EXPIRED,
        [TASK_CANCELLING] = 1u << TASK_CANCELLED | 1u << TASK_EXPIRED,
    };
    return IN(to, to_of[from]);
}

/* The new state, and what every task in it is. Clocks that the state has are set by the caller. */
static void enter(struct task_model *m, struct task_row *t, int to)
{
    expect(m, edge(t->state, to), "an edge that the table does not have");
    m->moves[m->verb][t->state][to]++;
    t->state = to;
    t->seq++;
    t->until = t->until_passed = t->progress_clock = t->progress_passed = false;
    if (over(to) || to == TASK_CANCELLING)
        t->settled = !t->followed;
    if (IN(to, HELD)) {
        for (int i = 0; i < MODEL_AGENTS; i++)
            expect(m, i == t->assigned || t->held[i] != t->epoch, "two holders of one epoch");
        t->held[t->assigned] = t->epoch;
    }
}

/* Back to nobody. */
static void release(struct task_model *m, struct task_row *t, int to)
{
    int from = t->state;

    enter(m, t, to);
    t->assigned = t->wanted;
    t->session = -1;
    t->no_time_left = false;
    if ((from == TASK_OFFERED || from == TASK_RUNNING) && t->attempt == 0 && t->crashes == 0)
        t->started = false;
    t->until = to == TASK_SCHEDULED;
}

static void give_back(struct task_row *t)
{
    if (t->attempt > 0)
        t->attempt--;
}

static void run(struct task_model *m, struct task_row *t)
{
    bool late = t->no_time_left;

    enter(m, t, TASK_RUNNING);
    t->started = true;
    t->until = t->timeout;
    t->until_passed = t->timeout && late;
    t->no_time_left = false;
    t->progress_clock = t->progress_timeout;
}

static void end(struct task_model *m, struct task_row *t, int to)
{
    enter(m, t, to);
}

static void end_fenced(struct task_model *m, struct task_row *t, int to)
{
    t->epoch++;
    end(m, t, to);
}

static void begin_cancelling(struct task_model *m, struct task_row *t)
{
    enter(m, t, TASK_CANCELLING);
    t->until = true;
}

static void wait_for_input(struct task_model *m, struct task_row *t)
{
    bool late = t->until && t->until_passed;

    enter(m, t, TASK_INPUT_REQUIRED);
    t->no_time_left = late;
}

/* A failed try: another, or the last was it. */
static void try_again(struct task_model *m, struct task_row *t)
{
    if (t->attempt >= t->max_attempts)
        end(m, t, TASK_DEAD);
    else
        release(m, t, TASK_SCHEDULED);
}

/* Why a verb of the holder is refused, or CODE_OK. */
static int hold(const struct task_row *t, const struct task_step *s, uint32_t states, bool live)
{
    int64_t held = s->actor < MODEL_AGENTS ? t->held[s->actor] : 0;
    bool fits = s->epoch_mode == EPOCH_NONE || s->epoch == t->epoch;

    if (IN(t->state, states) && t->assigned == s->actor && fits)
        return live && t->deadline_passed ? CODE_DEADLINE_EXCEEDED : CODE_OK;
    if (held && (held < t->epoch || !fits))
        return CODE_ABORTED;
    return !held && IN(t->state, states) ? CODE_PERMISSION_DENIED : CODE_FAILED_PRECONDITION;
}

static int on_accept(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    int code = hold(t, s, 1u << TASK_OFFERED | 1u << TASK_RUNNING, true);

    if (code || t->state == TASK_RUNNING)
        return code;
    if (t->until_passed)
        return CODE_DEADLINE_EXCEEDED;
    run(m, t);
    return CODE_OK;
}

static int on_decline(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    int code = hold(t, s, 1u << TASK_OFFERED | 1u << TASK_RUNNING, false);

    if (code)
        return code;
    if (t->state == TASK_RUNNING && t->progressed)
        return CODE_FAILED_PRECONDITION;
    t->excluded |= 1u << s->actor;
    give_back(t);
    release(m, t, TASK_QUEUED);
    return CODE_OK;
}

static int on_progress(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    int code = hold(t, s, 1u << TASK_RUNNING | 1u << TASK_CANCELLING, true);

    (void)m;
    if (code)
        return code;
    t->progressed = true;
    t->progress_passed = false;
    return CODE_OK;
}

static int on_complete(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    bool fits = s->epoch_mode == EPOCH_NONE || s->epoch == t->epoch;
    int code;

    if (t->state == TASK_SUCCEEDED && t->assigned == s->actor && fits && t->result == s->value)
        return CODE_OK;
    code = hold(t, s, 1u << TASK_RUNNING, true);
    if (code)
        return code;
    t->result = s->value;
    end(m, t, TASK_SUCCEEDED);
    return CODE_OK;
}

static int on_fail(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    int code = hold(t, s, 1u << TASK_RUNNING, true);

    if (code)
        return code;
    if (s->flag)
        try_again(m, t);
    else
        end(m, t, TASK_FAILED);
    return CODE_OK;
}

static int on_need_input(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    int code = hold(t, s, 1u << TASK_RUNNING, true);

    if (!code)
        wait_for_input(m, t);
    return code;
}

static int on_cancelled(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    int code;

    if (t->state == TASK_CANCELLED && t->assigned == s->actor &&
        (s->epoch_mode == EPOCH_NONE || s->epoch == t->epoch || s->epoch == t->epoch - 1))
        return CODE_OK;
    code = hold(t, s, 1u << TASK_CANCELLING, false);
    if (!code)
        end_fenced(m, t, TASK_CANCELLED);
    return code;
}

static bool owns(const struct task_step *s)
{
    return s->actor == ACTOR_OWNER || s->actor == ACTOR_ADMIN;
}

static bool session_gone(const struct task_model *m, const struct task_row *t)
{
    if (t->session < 0)
        return false; /* of which nothing is known */
    return t->session != m->sessions[t->assigned] || !m->present[t->assigned];
}

static int on_provide_input(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    if (t->state != TASK_INPUT_REQUIRED)
        return CODE_FAILED_PRECONDITION;
    if (!owns(s) && s->actor != ACTOR_HUMAN)
        return CODE_PERMISSION_DENIED;
    if (session_gone(m, t)) {
        give_back(t);
        release(m, t, TASK_QUEUED);
        return CODE_OK;
    }
    t->epoch++;
    run(m, t);
    return CODE_OK;
}

static int on_input_failed(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    if (t->state != TASK_INPUT_REQUIRED)
        return CODE_FAILED_PRECONDITION;
    if (s->flag && t->attempt < t->max_attempts)
        release(m, t, TASK_SCHEDULED);
    else
        end(m, t, TASK_FAILED);
    return CODE_OK;
}

static int stop(struct task_model *m, struct task_row *t)
{
    if (over(t->state))
        return CODE_FAILED_PRECONDITION;
    if (t->state == TASK_RUNNING)
        begin_cancelling(m, t);
    else if (t->state != TASK_CANCELLING)
        end(m, t, TASK_CANCELLED);
    return CODE_OK;
}

static int on_cancel(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    if (!over(t->state) && !owns(s))
        return CODE_PERMISSION_DENIED;
    return stop(m, t);
}

static int on_assign(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    if (t->state != TASK_QUEUED)
        return CODE_FAILED_PRECONDITION;
    if (s->value == 2)
        return CODE_ABORTED;
    if (t->deadline_passed || (t->start_by_passed && !t->started))
        return CODE_DEADLINE_EXCEEDED;
    if (m->paused || IN(s->agent, t->excluded) || (t->wanted >= 0 && t->wanted != s->agent))
        return CODE_FAILED_PRECONDITION;
    t->epoch++;
    t->attempt++;
    t->assigned = s->agent;
    t->session = m->sessions[s->agent];
    t->progressed = false;
    enter(m, t, TASK_OFFERED);
    t->until = true;
    if (s->flag)
        run(m, t);
    return CODE_OK;
}

/* A clock of the task runs out, where it has it. */
static void pass(struct task_row *t, int clock)
{
    if (clock == CLOCK_UNTIL)
        t->until_passed |= t->until;
    else if (clock == CLOCK_PROGRESS)
        t->progress_passed |= t->progress_clock;
    else if (clock == CLOCK_DEADLINE)
        t->deadline_passed = true;
    else
        t->start_by_passed = true;
}

static void on_time(struct task_model *m, struct task_row *t)
{
    if (over(t->state))
        return;
    if (t->deadline_passed || (t->start_by_passed && !t->started)) {
        end_fenced(m, t, TASK_EXPIRED);
    } else if (t->until_passed) {
        if (t->state == TASK_SCHEDULED) {
            release(m, t, TASK_QUEUED);
        } else if (t->state == TASK_OFFERED) {
            give_back(t);
            release(m, t, TASK_QUEUED);
        } else if (t->state == TASK_RUNNING) {
            try_again(m, t);
        } else {
            end_fenced(m, t, TASK_CANCELLED);
        }
    } else if (t->progress_passed) {
        try_again(m, t);
    }
}

static bool somebody_else(const struct task_model *m, const struct task_row *t)
{
    for (int i = 0; i < MODEL_AGENTS; i++)
        if (m->present[i] && i != t->assigned && !IN(i, t->excluded) && (t->wanted < 0 || t->wanted == i))
            return true;
    return false;
}

/* Three crashes are enough, on two agents if there are two. */
static void crash(struct task_model *m, struct task_row *t)
{
    uint32_t him = 1u << t->assigned;

    give_back(t);
    t->crashes++;
    if (t->crashes >= 3 && !((t->crashed | him) == him && somebody_else(m, t))) {
        t->crashed |= him;
        end(m, t, TASK_DEAD);
        return;
    }
    if (t->crashes >= 3)
        t->excluded |= him;
    t->crashed |= him;
    release(m, t, TASK_SCHEDULED);
    if (t->crashes == 1)
        release(m, t, TASK_QUEUED);
}

static void lose(struct task_model *m, struct task_row *t)
{
    if (t->state == TASK_OFFERED) {
        give_back(t);
        release(m, t, TASK_QUEUED);
    } else if (t->state == TASK_RUNNING) {
        crash(m, t);
    } else if (t->state == TASK_CANCELLING) {
        end_fenced(m, t, TASK_CANCELLED);
    }
}

static int on_session_lost(struct task_model *m, const struct task_step *s)
{
    m->present[s->agent] = false;
    for (int i = 0; i < MODEL_SLOTS; i++) {
        struct task_row *t = &m->rows[i];

        if (IN(t->state, HELD) && t->assigned == s->agent && t->session == m->sessions[s->agent])
            lose(m, t);
    }
    return CODE_OK;
}

static int unmet(const struct task_row *t)
{
    int n = 0;

    for (int i = 0; i < MODEL_PARENTS; i++)
        n += t->deps[i].slot >= 0 && !t->met[i];
    return n;
}

/* One of the parents of a task is over. */
static void parent_over(struct task_model *m, struct task_row *t, int which, bool succeeded)
{
    t->met[which] = true;
    if (t->state != TASK_BLOCKED)
        return;
    if (!succeeded && !t->run_on_failure)
        end(m, t, TASK_CANCELLED);
    else if (unmet(t) == 0)
        release(m, t, t->run_after ? TASK_SCHEDULED : TASK_QUEUED);
}

static void tell_followers(struct task_model *m, const struct task_row *parent, int slot)
{
    for (int i = 0; i < MODEL_SLOTS; i++) {
        struct task_row *t = &m->rows[i];

        if (t->state == TASK_NONE)
            continue;
        if (t->parent.slot == slot && t->parent.generation == parent->generation &&
            (parent->state == TASK_CANCELLING || parent->state == TASK_CANCELLED) && t->state != TASK_CANCELLING)
            (void)stop(m, t); /* those that are over stay */
        for (int k = 0; k < MODEL_PARENTS && over(parent->state); k++)
            if (t->deps[k].slot == slot && t->deps[k].generation == parent->generation && !t->met[k])
                parent_over(m, t, k, parent->state == TASK_SUCCEEDED);
    }
}

static int on_settle(struct task_model *m)
{
    for (bool again = true; again;) {
        again = false;
        for (int i = 0; i < MODEL_SLOTS; i++) {
            if (m->rows[i].state == TASK_NONE || m->rows[i].settled)
                continue;
            m->rows[i].settled = true;
            tell_followers(m, &m->rows[i], i);
            again = true;
        }
    }
    return CODE_OK;
}

/* Follow one: false, it has to be waited for. */
static bool follow(struct task_row *parent, bool run_on_failure, bool again)
{
    parent->followed = true;
    if (parent->state == TASK_SUCCEEDED || (over(parent->state) && (run_on_failure || again)))
        return true;
    if (over(parent->state))
        parent->settled = false; /* it tells once more */
    return false;
}

static void make(struct task_model *m, struct task_row *t, const struct task_row *like, bool again)
{
    uint32_t generation = t->generation + 1;

    *t = *like;
    t->generation = generation;
    t->state = TASK_NONE;
    t->assigned = t->wanted;
    t->session = t->result = -1;
    t->settled = true;
    for (int i = 0; i < MODEL_PARENTS; i++) {
        struct task_row *parent = of(m, t->deps[i]);

        t->met[i] = !parent || follow(parent, t->run_on_failure, again);
    }
    if (of(m, t->parent))
        of(m, t->parent)->followed = true;
    if (unmet(t) > 0)
        enter(m, t, TASK_BLOCKED);
    else
        enter(m, t, t->run_after ? TASK_SCHEDULED : TASK_QUEUED);
    t->until = t->state == TASK_SCHEDULED;
}

static int on_submit(struct task_model *m, const struct task_step *s)
{
    const struct task_row *parent;
    struct task_row like = {.wanted = s->wanted, .max_attempts = s->max_attempts, .run_after = s->run_after, .timeout = s->timeout,
                            .progress_timeout = s->progress_timeout, .run_on_failure = s->run_on_failure, .parent = s->parent};

    memcpy(like.deps, s->deps, sizeof like.deps);
    parent = of(m, s->parent);
    if (parent && (parent->state == TASK_CANCELLING || parent->state == TASK_CANCELLED))
        return CODE_FAILED_PRECONDITION;
    if (s->flag)
        return CODE_ALREADY_EXISTS;
    make(m, &m->rows[s->made.slot], &like, false);
    return CODE_OK;
}

static int on_retry(struct task_model *m, const struct task_row *t, const struct task_step *s)
{
    struct task_row like = {.wanted = t->wanted, .max_attempts = t->max_attempts, .run_after = t->run_after, .timeout = t->timeout,
                            .progress_timeout = t->progress_timeout, .run_on_failure = t->run_on_failure, .parent = t->parent};
    const struct task_row *parent = of(m, t->parent);

    if (t->state < TASK_FAILED)
        return CODE_FAILED_PRECONDITION;
    if (!owns(s))
        return CODE_PERMISSION_DENIED;
    memcpy(like.deps, t->deps, sizeof like.deps);
    if (parent && (parent->state == TASK_CANCELLING || parent->state == TASK_CANCELLED))
        like.parent.slot = -1;
    make(m, &m->rows[s->made.slot], &like, true);
    return CODE_OK;
}

/* What an UPDATE of the state means, once the edge is there. */
static void plain(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    int from = t->state, to = s->value;

    if (to == TASK_OFFERED) {
        t->epoch++;
        t->attempt++;
        t->assigned = s->agent;
        t->session = -1;
        t->progressed = false;
        enter(m, t, to);
        t->until = true;
    } else if (to == TASK_RUNNING) {
        t->epoch += from == TASK_INPUT_REQUIRED;
        run(m, t);
    } else if (to == TASK_QUEUED || to == TASK_SCHEDULED) {
        if (to == TASK_QUEUED && IN(from, HELD))
            give_back(t);
        release(m, t, to);
    } else if (to == TASK_INPUT_REQUIRED) {
        wait_for_input(m, t);
    } else if (to == TASK_CANCELLING) {
        begin_cancelling(m, t);
    } else if (to == TASK_EXPIRED || from == TASK_CANCELLING) {
        end_fenced(m, t, to);
    } else {
        end(m, t, to);
    }
}

static int on_plain(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    if (t->state == s->value)
        return CODE_OK;
    if (!edge(t->state, s->value))
        return CODE_RAISED;
    t->by_plain = true;
    plain(m, t, s);
    return CODE_OK;
}

static int on_task(struct task_model *m, struct task_row *t, const struct task_step *s)
{
    switch (s->verb) {
    case VERB_ASSIGN: return on_assign(m, t, s);
    case VERB_ACCEPT: return on_accept(m, t, s);
    case VERB_DECLINE: return on_decline(m, t, s);
    case VERB_PROGRESS: return on_progress(m, t, s);
    case VERB_COMPLETE: return on_complete(m, t, s);
    case VERB_FAIL: return on_fail(m, t, s);
    case VERB_NEED_INPUT: return on_need_input(m, t, s);
    case VERB_CANCELLED: return on_cancelled(m, t, s);
    case VERB_PROVIDE_INPUT: return on_provide_input(m, t, s);
    case VERB_CANCEL: return on_cancel(m, t, s);
    case VERB_RETRY: return on_retry(m, t, s);
    case VERB_INPUT_FAILED: return on_input_failed(m, t, s);
    case VERB_PLAIN: return on_plain(m, t, s);
    default: break;
    }
    pass(t, s->value);
    if (s->verb == VERB_FIRE)
        on_time(m, t);
    return CODE_OK;
}

int task_model_apply(struct task_model *m, const struct task_step *s)
{
    m->verb = s->verb;
    switch (s->verb) {
    case VERB_SUBMIT: return on_submit(m, s);
    case VERB_SESSION_LOST: return on_session_lost(m, s);
    case VERB_SETTLE: return on_settle(m);
    case VERB_HELLO:
        m->sessions[s->agent]++;
        m->present[s->agent] = true;
        return CODE_OK;
    case VERB_PAUSE:
    case VERB_RESUME: m->paused = s->verb == VERB_PAUSE; return CODE_OK;
    default: return m->rows[s->slot].state == TASK_NONE ? CODE_NOT_FOUND : on_task(m, &m->rows[s->slot], s);
    }
}

/* What holds for a task whatever was done. */
static void check(struct task_model *m, const struct task_row *t)
{
    bool held = IN(t->state, HELD);

    expect(m, !held || t->assigned >= 0, "held by nobody");
    expect(m, !held || (t->epoch > 0 && t->held[t->assigned] == t->epoch), "held under another epoch");
    expect(m, t->state != TASK_BLOCKED || unmet(t) > 0, "blocked on nothing");
    expect(m, t->state != TASK_SUCCEEDED || t->result >= 0 || t->by_plain, "succeeded without a result");
    expect(m, t->result < 0 || t->state == TASK_SUCCEEDED, "a result that did not succeed");
    expect(m, t->attempt <= t->max_attempts || t->by_plain, "tried too often");
    expect(m, t->crashes <= 6, "crashed too often");
    expect(m, t->state != TASK_RUNNING || t->started, "runs and never started");
    expect(m, t->until || !t->until_passed, "a clock that is not there has run out");
    for (int i = 0; i < MODEL_AGENTS; i++)
        expect(m, t->held[i] <= t->epoch, "an epoch from the future");
}

void task_model_check(struct task_model *m)
{
    for (int i = 0; i < MODEL_SLOTS; i++)
        if (m->rows[i].state != TASK_NONE)
            check(m, &m->rows[i]);
}

const struct task_row *task_model_row(const struct task_model *m, int32_t slot)
{
    return &m->rows[slot];
}

uint64_t task_model_size(void)
{
    return sizeof(struct task_model);
}
