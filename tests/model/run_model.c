/* The reference machine of runs; run_model.h says what it is for. Each function here is one row or one rule of the table. */
#include "run_model.h"

#include <string.h>

#define BIT(n) (1u << (n))
#define IN(status, set) (((set) >> (status)) & 1u)

static bool over(int status)
{
    return status >= RUN_COMPLETED;
}

/* What a property check says is told once. */
static void expect(struct run_model *m, bool holds, const char *what)
{
    if (!holds && !m->broken)
        m->broken = what;
}

/* Every edge of the table, whoever takes it. */
static bool edge(int from, int to)
{
    static const uint32_t to_of[RUN_STATUSES] = {
        [RUN_NONE] = BIT(RUN_PENDING),
        [RUN_PENDING] = BIT(RUN_IN_PROGRESS) | BIT(RUN_BLOCKED) | BIT(RUN_COMPLETED) | BIT(RUN_FAILED) | BIT(RUN_ESCALATED) | BIT(RUN_CANCELLED),
        [RUN_IN_PROGRESS] = BIT(RUN_BLOCKED) | BIT(RUN_AWAITING) | BIT(RUN_COMPLETED) | BIT(RUN_FAILED) | BIT(RUN_ESCALATED) | BIT(RUN_PENDING) |
                            BIT(RUN_CANCELLED),
        [RUN_BLOCKED] = BIT(RUN_IN_PROGRESS) | BIT(RUN_FAILED) | BIT(RUN_ESCALATED) | BIT(RUN_CANCELLED),
        [RUN_AWAITING] = BIT(RUN_VERIFYING) | BIT(RUN_COMPLETED) | BIT(RUN_FAILED) | BIT(RUN_ESCALATED),
        [RUN_VERIFYING] = BIT(RUN_AWAITING) | BIT(RUN_PASSED) | BIT(RUN_REFUTED) | BIT(RUN_FAILED),
        [RUN_PASSED] = BIT(RUN_COMPLETED) | BIT(RUN_FAILED),
        [RUN_REFUTED] = BIT(RUN_PENDING) | BIT(RUN_IN_PROGRESS) | BIT(RUN_ESCALATED) | BIT(RUN_FAILED),
        [RUN_ESCALATED] = BIT(RUN_COMPLETED) | BIT(RUN_PENDING) | BIT(RUN_FAILED),
    };
    return IN(to, to_of[from]);
}

static void enter(struct run_model *m, struct run_row *r, int to)
{
    expect(m, edge(r->status, to), "an edge that the table does not have");
    m->moves[m->verb][r->status][to]++;
    r->status = to;
    r->seq++;
    r->late = false;
    if (to != RUN_IN_PROGRESS && to != RUN_VERIFYING)
        r->held = r->session = -1;
    if (to != RUN_PENDING && to != RUN_BLOCKED)
        r->waits = r->open = r->others_wait = false;
    if (to == RUN_PENDING || to == RUN_IN_PROGRESS)
        r->passed_by = 0;
}

/* Who has a part in a run does not verify it. */
static void takes_part(struct run_row *r, int actor)
{
    if (actor < RUN_ACTORS)
        r->had_part |= BIT(actor);
}

static void end(struct run_model *m, struct run_row *r, int to)
{
    enter(m, r, to);
}

static void end_fenced(struct run_model *m, struct run_row *r, int to)
{
    r->epoch++;
    end(m, r, to);
}

/* What the tries after a verdict and a human's word have more. */
static void grant(struct run_row *r)
{
    if (r->status == RUN_REFUTED)
        r->tries++;
    if (r->status != RUN_ESCALATED)
        return;
    r->repeats = 0;
    r->crashes = 0;
    r->limit = r->verdicts + RUN_VERDICTS;
    if (r->tries < r->attempt + 3)
        r->tries = r->attempt + 3;
}

/* Back to pending: its worker comes first unless it was lost, and nobody comes at once from the second time on. */
static void repeat(struct run_model *m, struct run_row *r, bool lost)
{
    grant(r);
    r->repeats += r->status == RUN_IN_PROGRESS;
    r->waits = r->status == RUN_IN_PROGRESS && r->repeats > 1;
    r->open = true;
    r->others_wait = !lost;
    r->epoch++;
    enter(m, r, RUN_PENDING);
}

/* Another try, under a new epoch. */
static void again(struct run_model *m, struct run_row *r)
{
    repeat(m, r, false);
    r->attempt++;
}

static void work(struct run_model *m, struct run_row *r, int actor, int session)
{
    enter(m, r, RUN_IN_PROGRESS);
    r->held = actor;
    r->session = session;
    for (int i = 0; i < RUN_ACTORS; i++)
        expect(m, i == actor || r->worked[i] != r->epoch || i == RUN_OWNER || actor == RUN_OWNER, "two workers of one epoch");
    r->worked[actor] = r->epoch;
    takes_part(r, actor);
}

static void escalate(struct run_model *m, struct run_row *r)
{
    enter(m, r, RUN_ESCALATED);
}

static void await_verifier(struct run_model *m, struct run_row *r)
{
    r->lost = r->status == RUN_IN_PROGRESS ? 0 : r->lost + 1;
    if (r->status == RUN_IN_PROGRESS)
        r->repeats = 0;
    enter(m, r, RUN_AWAITING);
}

/* No verdict; the third is the last. */
static void lose_verifier(struct run_model *m, struct run_row *r)
{
    await_verifier(m, r);
    if (r->lost >= 3)
        escalate(m, r);
}

static void after_verdict(struct run_model *m, struct run_row *r)
{
    if (r->status == RUN_PASSED)
        end(m, r, RUN_COMPLETED);
    else if (r->verdicts < r->limit)
        again(m, r);
    else
        escalate(m, r);
}

static int passed(const struct run_row *r)
{
    return __builtin_popcount(r->passed_by);
}

static void give_verdict(struct run_model *m, struct run_row *r, int to)
{
    if (to == RUN_PASSED)
        r->passed_by |= BIT(r->held);
    if (to == RUN_PASSED && passed(r) < r->needed) { /* the next verifier's turn */
        enter(m, r, RUN_AWAITING);
        return;
    }
    enter(m, r, to);
    r->verdicts++;
    r->verified = to == RUN_PASSED;
    r->late = true;
}

static bool works(const struct run_row *r, const struct run_step *s)
{
    return s->actor == r->agent || s->actor == RUN_OWNER;
}

static bool decides(const struct run_step *s)
{
    return s->actor == RUN_ADMIN || s->actor == RUN_HUMAN;
}

static bool other_epoch(const struct run_step *s, int64_t epoch)
{
    return s->epoch_mode != RUN_EPOCH_NONE && s->epoch != epoch;
}

/* Why a verb of the worker is refused, or RUN_OK. */
static int hold(const struct run_row *r, const struct run_step *s, uint32_t statuses)
{
    if (works(r, s) && other_epoch(s, r->epoch))
        return RUN_ABORTED;
    if (works(r, s))
        return IN(r->status, statuses) ? RUN_OK : RUN_FAILED_PRECONDITION;
    if (r->worked[s->actor] && r->worked[s->actor] < r->epoch)
        return RUN_ABORTED;
    return IN(r->status, statuses) ? RUN_PERMISSION_DENIED : RUN_FAILED_PRECONDITION;
}

static int session_of(const struct run_model *m, int actor)
{
    return actor < RUN_AGENTS && m->present[actor] ? m->sessions[actor] : -1;
}

static void claim(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    if (!works(r, s)) {
        r->agent = s->actor;
        r->epoch++;
    }
    work(m, r, s->actor, session_of(m, s->actor));
}

static int on_progress(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    int code = hold(r, s, BIT(RUN_PENDING) | BIT(RUN_IN_PROGRESS) | BIT(RUN_BLOCKED));

    if (!code && r->status == RUN_PENDING && r->waits)
        return RUN_FAILED_PRECONDITION;
    if (!code && r->status == RUN_PENDING)
        claim(m, r, s);
    else if (!code && r->held == s->actor && r->session < 0)
        r->session = session_of(m, s->actor);
    return code;
}

static int on_claim(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    bool takes = r->status == RUN_PENDING && r->open && s->epoch_mode == RUN_EPOCH_NONE && !decides(s) && !works(r, s);
    int code = takes ? RUN_OK : hold(r, s, BIT(RUN_PENDING) | BIT(RUN_BLOCKED) | BIT(RUN_IN_PROGRESS));

    if (code || r->status == RUN_IN_PROGRESS)
        return code;
    if (r->waits || (takes && r->others_wait))
        return RUN_FAILED_PRECONDITION;
    claim(m, r, s);
    return code;
}

static int on_block(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    int code = hold(r, s, BIT(RUN_PENDING) | BIT(RUN_IN_PROGRESS) | BIT(RUN_BLOCKED));

    if (code || r->status == RUN_BLOCKED)
        return code;
    takes_part(r, s->actor);
    enter(m, r, RUN_BLOCKED);
    return code;
}

static int on_submit(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    int code;

    if (r->status == RUN_VERIFYING && r->held == s->actor) {
        lose_verifier(m, r);
        return RUN_OK;
    }
    code = hold(r, s, BIT(RUN_IN_PROGRESS) | BIT(RUN_AWAITING));
    if (code || r->status == RUN_AWAITING)
        return code;
    takes_part(r, s->actor);
    await_verifier(m, r);
    return code;
}

/* What is said of a run that is completed: its result once, if it was verified, and the same again. */
static int complete_again(struct run_row *r, const struct run_step *s)
{
    if (r->verified && r->result < 0)
        r->result = s->value;
    return r->result == s->value ? RUN_OK : RUN_FAILED_PRECONDITION;
}

static int on_complete(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    int code;

    if (r->status == RUN_ESCALATED) {
        if (!decides(s))
            return RUN_PERMISSION_DENIED;
        r->result = s->value;
        r->verified = false;
        end_fenced(m, r, RUN_COMPLETED);
        return RUN_OK;
    }
    code = hold(r, s, BIT(RUN_PENDING) | BIT(RUN_IN_PROGRESS) | BIT(RUN_AWAITING) | BIT(RUN_COMPLETED));
    if (code)
        return code;
    if (r->status == RUN_COMPLETED)
        return complete_again(r, s);
    if (r->required)
        return RUN_FAILED_PRECONDITION;
    r->result = s->value;
    r->verified = false;
    end(m, r, RUN_COMPLETED);
    return RUN_OK;
}

static int on_fail(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    int code;

    if (r->status == RUN_ESCALATED) {
        if (!decides(s))
            return RUN_PERMISSION_DENIED;
        end_fenced(m, r, RUN_FAILED);
        return RUN_OK;
    }
    code = hold(r, s, BIT(RUN_PENDING) | BIT(RUN_IN_PROGRESS) | BIT(RUN_BLOCKED) | BIT(RUN_AWAITING));
    if (!code)
        end(m, r, RUN_FAILED);
    return code;
}

static int on_escalate(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    int code = hold(r, s, BIT(RUN_PENDING) | BIT(RUN_IN_PROGRESS) | BIT(RUN_BLOCKED));

    if (code)
        return code;
    takes_part(r, s->actor);
    escalate(m, r);
    return code;
}

static int on_retry(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    int code;

    if (r->status == RUN_ESCALATED) {
        if (!decides(s))
            return RUN_PERMISSION_DENIED;
        again(m, r);
        return RUN_OK;
    }
    code = hold(r, s, BIT(RUN_IN_PROGRESS));
    if (code)
        return code;
    takes_part(r, s->actor);
    again(m, r);
    return code;
}

static int on_cancel(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    uint32_t statuses = BIT(RUN_PENDING) | BIT(RUN_IN_PROGRESS) | BIT(RUN_BLOCKED);
    int code = hold(r, s, statuses);

    if (s->actor == RUN_ADMIN || s->actor == RUN_OWNER)
        code = !IN(r->status, statuses) ? RUN_FAILED_PRECONDITION : other_epoch(s, r->epoch) ? RUN_ABORTED : RUN_OK;
    if (code)
        return code;
    if (r->status == RUN_IN_PROGRESS)
        end_fenced(m, r, RUN_CANCELLED);
    else
        end(m, r, RUN_CANCELLED);
    return code;
}

/* Why somebody gives no verdict, or RUN_OK. */
static int may_verify(const struct run_row *r, const struct run_step *s)
{
    if (r->status != RUN_AWAITING && r->status != RUN_VERIFYING)
        return RUN_FAILED_PRECONDITION;
    if (works(r, s) || IN(s->actor, r->had_part | r->passed_by))
        return RUN_PERMISSION_DENIED;
    if (r->status == RUN_VERIFYING && r->held != s->actor)
        return IN(s->actor, r->verified_once) ? RUN_ABORTED : RUN_PERMISSION_DENIED;
    if (r->status == RUN_VERIFYING && other_epoch(s, r->verify_epoch))
        return RUN_ABORTED;
    if (r->status == RUN_AWAITING && s->verb != RUN_VERIFY)
        return RUN_FAILED_PRECONDITION;
    return r->late ? RUN_DEADLINE_EXCEEDED : RUN_OK;
}

static int on_verification(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    int code = may_verify(r, s);

    if (code)
        return code;
    if (s->verb != RUN_VERIFY) {
        give_verdict(m, r, s->verb == RUN_PASS ? RUN_PASSED : RUN_REFUTED);
        if (r->status != RUN_AWAITING)
            after_verdict(m, r);
    } else if (r->status == RUN_AWAITING) {
        enter(m, r, RUN_VERIFYING);
        r->verify_epoch++;
        r->held = s->actor;
        r->session = session_of(m, s->actor);
        r->verified_once |= BIT(s->actor);
    }
    return code;
}

static void time_out(struct run_model *m, struct run_row *r)
{
    if (r->attempt < r->tries)
        again(m, r);
    else
        end_fenced(m, r, RUN_FAILED);
}

static void on_time(struct run_model *m, struct run_row *r)
{
    if (r->status == RUN_IN_PROGRESS && r->timed)
        time_out(m, r);
    else if (r->status == RUN_AWAITING)
        escalate(m, r);
    else if (r->status == RUN_VERIFYING)
        lose_verifier(m, r);
    else if (r->status == RUN_PASSED || r->status == RUN_REFUTED)
        after_verdict(m, r);
}

static void release(struct run_model *m, struct run_row *r)
{
    if (r->status == RUN_VERIFYING) {
        lose_verifier(m, r);
        return;
    }
    r->crashes++;
    if (r->crashes >= 3)
        end_fenced(m, r, RUN_FAILED);
    else
        repeat(m, r, true);
}

/* Of a cancelled task what nobody has to verify yet goes with it, of one whose time is over all. */
static int on_task_over(struct run_model *m, struct run_row *r, bool expired)
{
    if (over(r->status))
        return RUN_OK;
    if (expired)
        end_fenced(m, r, RUN_FAILED);
    else if (r->status == RUN_IN_PROGRESS)
        end_fenced(m, r, RUN_CANCELLED);
    else if (r->status == RUN_PENDING || r->status == RUN_BLOCKED)
        end(m, r, RUN_CANCELLED);
    return RUN_OK;
}

static int on_session_lost(struct run_model *m, const struct run_step *s)
{
    m->present[s->agent] = false;
    for (int i = 0; i < RUN_SLOTS; i++) {
        struct run_row *r = &m->rows[i];

        if ((r->status == RUN_IN_PROGRESS || r->status == RUN_VERIFYING) && r->held == s->agent && r->session == m->sessions[s->agent])
            release(m, r);
    }
    return RUN_OK;
}

static bool plain_refused(const struct run_row *r, int to)
{
    if (!edge(r->status, to))
        return true;
    if (r->status == RUN_REFUTED && (to == RUN_PENDING || to == RUN_IN_PROGRESS) && r->verdicts >= r->limit)
        return true;
    if ((to == RUN_IN_PROGRESS && r->waits) || (to == RUN_PASSED && passed(r) + 1 < r->needed) || (to == RUN_VERIFYING && IN(RUN_SQL, r->passed_by)))
        return true;
    if (!r->required)
        return false;
    if (to == RUN_COMPLETED && IN(r->status, BIT(RUN_PENDING) | BIT(RUN_IN_PROGRESS) | BIT(RUN_AWAITING)))
        return true;
    if (to == RUN_PASSED || to == RUN_REFUTED)
        return r->held != RUN_SQL;
    return to == RUN_VERIFYING && r->plain_part;
}

static void plain_move(struct run_model *m, struct run_row *r, int to)
{
    bool fenced = (over(to) && IN(r->status, BIT(RUN_VERIFYING) | BIT(RUN_PASSED) | BIT(RUN_REFUTED) | BIT(RUN_ESCALATED)) &&
                   !(r->status == RUN_PASSED && to == RUN_COMPLETED)) || (r->status == RUN_IN_PROGRESS && to == RUN_CANCELLED);

    r->plain_part |= !IN(to, BIT(RUN_VERIFYING) | BIT(RUN_PASSED) | BIT(RUN_REFUTED)) && !(r->status == RUN_VERIFYING && to == RUN_AWAITING);
    if (to == RUN_IN_PROGRESS) {
        grant(r);
        r->attempt += r->status == RUN_REFUTED;
        r->epoch += r->status == RUN_REFUTED;
        work(m, r, r->agent, -1);
    } else if (to == RUN_PENDING) {
        again(m, r);
    } else if (to == RUN_AWAITING) {
        await_verifier(m, r);
        r->late = r->lost >= 3;
    } else if (to == RUN_VERIFYING) {
        enter(m, r, to);
        r->verify_epoch++;
        r->held = RUN_SQL;
    } else if (to == RUN_PASSED || to == RUN_REFUTED) {
        give_verdict(m, r, to);
    } else {
        r->epoch += fenced;
        enter(m, r, to);
    }
}

static int on_plain(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    if (s->value == r->status)
        return RUN_OK;
    if (plain_refused(r, s->value))
        return RUN_RAISED;
    plain_move(m, r, s->value);
    return RUN_OK;
}

static int on_start(struct run_model *m, const struct run_step *s)
{
    struct run_row *r = &m->rows[s->slot];

    if (s->taken)
        return RUN_ALREADY_EXISTS;
    *r = (struct run_row){.generation = s->made, .epoch = 1, .attempt = 1, .limit = RUN_VERDICTS, .agent = s->agent, .held = -1, .session = -1,
                          .result = -1, .required = s->flag & RUN_REQUIRED, .timed = s->flag & RUN_TIMED, .tries = s->flag & RUN_TWO_TRIES ? 2 : 3,
                          .needed = 1 + (s->flag >> RUN_VERIFIERS_SHIFT)};
    enter(m, r, RUN_PENDING);
    return RUN_OK;
}

static int on_rest(struct run_row *r, const struct run_step *s)
{
    r->waits = false;
    if (s->flag)
        r->others_wait = false;
    return RUN_OK;
}

static int on_run(struct run_model *m, struct run_row *r, const struct run_step *s)
{
    switch (s->verb) {
    case RUN_PROGRESS: return on_progress(m, r, s);
    case RUN_CLAIM: return on_claim(m, r, s);
    case RUN_BLOCK: return on_block(m, r, s);
    case RUN_SUBMIT: return on_submit(m, r, s);
    case RUN_COMPLETE: return on_complete(m, r, s);
    case RUN_FAIL: return on_fail(m, r, s);
    case RUN_ESCALATE: return on_escalate(m, r, s);
    case RUN_RETRY: return on_retry(m, r, s);
    case RUN_CANCEL: return on_cancel(m, r, s);
    case RUN_VERIFY:
    case RUN_PASS:
    case RUN_REJECT: return on_verification(m, r, s);
    case RUN_REST: return on_rest(r, s);
    case RUN_PLAIN: return on_plain(m, r, s);
    case RUN_TASK_OVER: return on_task_over(m, r, s->flag);
    default: break;
    }
    r->late |= IN(r->status, BIT(RUN_AWAITING) | BIT(RUN_VERIFYING)) != 0; /* a worker may be late, and is heard until somebody looks */
    if (s->verb == RUN_FIRE)
        on_time(m, r);
    return RUN_OK;
}

int run_model_apply(struct run_model *m, const struct run_step *s)
{
    m->verb = s->verb;
    switch (s->verb) {
    case RUN_START: return on_start(m, s);
    case RUN_SESSION_LOST: return on_session_lost(m, s);
    case RUN_HELLO:
        m->sessions[s->agent]++;
        m->present[s->agent] = true;
        return RUN_OK;
    default: return m->rows[s->slot].status == RUN_NONE ? RUN_NOT_FOUND : on_run(m, &m->rows[s->slot], s);
    }
}

/* What holds for a run whatever was done. */
static void check(struct run_model *m, const struct run_row *r)
{
    expect(m, (r->held >= 0) == (r->status == RUN_IN_PROGRESS || r->status == RUN_VERIFYING), "held by nobody, or by somebody for nothing");
    expect(m, r->status != RUN_VERIFYING || (r->held != r->agent && r->held != RUN_OWNER), "verified by its worker");
    expect(m, r->status != RUN_VERIFYING || r->held == RUN_SQL || !IN(r->held, r->had_part), "verified by who had a part in it");
    expect(m, r->verdicts <= r->limit, "verified too often");
    expect(m, r->crashes <= 3, "lost too often");
    expect(m, r->status != RUN_COMPLETED || !r->verified || passed(r) >= r->needed, "passed by too few");
    expect(m, !r->waits || r->repeats > 1, "a pause without a reason");
    expect(m, r->status != RUN_VERIFYING || !IN(r->held, r->passed_by), "a verifier for the second time");
    expect(m, r->session < 0 || r->held >= 0, "a session that holds nothing");
    for (int i = 0; i < RUN_ACTORS; i++)
        expect(m, r->worked[i] <= r->epoch, "an epoch from the future");
}

void run_model_check(struct run_model *m)
{
    for (int i = 0; i < RUN_SLOTS; i++)
        if (m->rows[i].status != RUN_NONE)
            check(m, &m->rows[i]);
}
