/* One stream followed; see follower.h. */
#include "core/follower.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "core/handover.h"

enum { TURN = 64, TICK_MS = 500, MAX_WAITING_BYTES = 8 << 20, MAX_HEADERS = 32, MAX_DONE = 512, FLOOD_MSGS = 8, FLOOD_REST_MS = 5 };
static const int64_t flood_ns = CLOCK_MS / 2; /* between two messages of a flood, or less */
static const int64_t expires_ns = 30 * CLOCK_S, heartbeat_ns = CLOCK_S, silence_ns = 4 * CLOCK_S; /* of a request */
static const int64_t idle_ns = 20 * CLOCK_S; /* the server may forget a consumer that was not asked for longer */
static const int64_t start_up_ns = 2 * CLOCK_S, catch_up_ns = 10 * CLOCK_S; /* that a server is given for its streams, and for their ends */
enum { TURN_RUNS = 8, BUSY_MSGS = 32 }; /* in busy_ns, from memory: less is not worth a consumer that is made anew afterwards */
static const int64_t busy_ns = CLOCK_S / 10, quiet_ns = CLOCK_S / 4;
static const int64_t min_pause_ns = CLOCK_S / 4, max_pause_ns = 4 * CLOCK_S;

enum state {
    LOOKING,  /* at the stream, before a consumer is made */
    MAKING,   /* one */
    CHECKING, /* that it is one of the same stream */
    FLOWING,
    HANDED, /* it comes from memory, and there is no consumer */
    AWAY, /* until retry_ns */
    OVER,
};

/* One reference for the owner, one for the timer, one for each call that is under way. */
struct follower {
    struct js_target t;
    struct follower_how how;
    char *stream, *subject;
    int refs;
    bool dead, held;
    enum state state;
    uint32_t life; /* of consumers: an answer about an earlier one is not looked at */
    uv_timer_t timer;
    int64_t retry_ns, pause_ns;
    uint64_t connects; /* of the link, when the consumer was made */
    int64_t missing_since_ns; /* there is no such stream; 0: there is */
    bool told_away, told_end;

    /* Of the stream. */
    int64_t created_wall_ns; /* 0: not known yet */
    uint64_t next;           /* what is expected; 0: not known yet */
    uint64_t seen;           /* up to here none of its subjects is missed, as the consumer says: it may be of a node that is behind */
    uint64_t looked;         /* its last sequence at the last look; 0: nothing is known by it */
    int64_t short_since_ns;  /* it ends before what is expected; 0: it does not */

    /* Of the consumer. */
    struct js_pull *pull;
    uint64_t delivered, n_pending;
    struct js_pulled *first, **last; /* has arrived, and waits */
    struct js_pulled *done;          /* was delivered, and is freed with others */
    uint32_t n_done;
    uint32_t n_asked, n_got;         /* of the request that is open */
    int64_t asked_ns;
    bool asking;  /* a request is open */
    bool settled; /* it has brought what there was, or is over */
    bool lone;    /* the next request is for one message of any size */
    uint32_t flood; /* so much comes that so many at a time are asked for, once they are there; 0: it does not */
    int64_t rest_until_ns; /* nothing is asked for before */
    int64_t rested_ns;     /* when it was asked again last, after a rest */
    uint32_t n_since;      /* that have come since then */
    bool doubt;   /* something may have gone from the stream unseen; only where some subjects are followed */
    bool looking; /* because of it, or to know the end */

    /* Of what this broker appends itself. */
    struct handover_in *own; /* NULL: nothing is handed over */
    struct handed_cursor cursor;
    uint64_t n_offered, n_before; /* so far; and when it was counted from */
    int64_t before_ns, handed_ns; /* that; when something was handed over last */
};

static void begin(struct follower *f);
static void free_done(struct follower *f);
static void turn(struct follower *f);
static void on_arrival(void *arg);

static void unref(struct follower *f)
{
    if (--f->refs)
        return;
    free(f->stream);
    free(f->subject);
    free(f);
}

/* False: it was freed meanwhile, or has another life: the caller returns. */
static bool tell(struct follower *f, int code, const struct js_msg *msg)
{
    uint32_t life = f->life;

    f->how.fn(f->how.arg, code, msg);
    return !f->dead && f->life == life;
}

/* ---- ends ------------------------------------------------------------------------------------------------------------------- */

static void drop_consumer(struct follower *f)
{
    f->life++;
    js_pull_free(f->pull);
    f->pull = NULL;
    free_done(f);
    while (f->first) {
        struct js_pulled *got = f->first;

        f->first = got->next;
        js_pulled_free(got);
    }
    f->last = &f->first;
    handed_end(&f->cursor);
    f->delivered = f->n_pending = f->looked = 0;
    f->n_asked = 0;
    f->rest_until_ns = f->rested_ns = 0;
    f->flood = f->n_since = 0;
    f->asking = f->settled = f->doubt = f->looking = f->lone = false;
}

static void want_own(struct follower *f, bool wanted)
{
    if (f->own)
        handover_want(f->own, wanted);
}

/* The flow is away: told once, until it is back. */
static void lose(struct follower *f)
{
    bool told = f->told_away;

    drop_consumer(f);
    want_own(f, false);
    f->state = AWAY;
    f->told_away = true;
    f->told_end = false;
    f->retry_ns = clock_now_ns() + f->pause_ns / 2 + (int64_t)(clock_random() % (uint64_t)f->pause_ns);
    f->pause_ns = f->pause_ns * 2 < max_pause_ns ? f->pause_ns * 2 : max_pause_ns;
    if (!told)
        (void)tell(f, MUSTER_ELINK, NULL);
}

static void finish(struct follower *f)
{
    drop_consumer(f);
    want_own(f, false);
    f->state = OVER;
    (void)uv_timer_stop(&f->timer);
    (void)tell(f, MUSTER_ENOTFOUND, NULL);
}

/* A server that starts may not know its streams at once. */
static void miss(struct follower *f)
{
    int64_t now_ns = clock_now_ns();

    if (!f->missing_since_ns)
        f->missing_since_ns = now_ns;
    if (!f->created_wall_ns || now_ns - f->missing_since_ns > start_up_ns)
        finish(f);
    else
        lose(f);
}

static void fail(struct follower *f, int code)
{
    if (code == MUSTER_ENOTFOUND)
        miss(f);
    else
        lose(f);
}

/* ---- looks at the stream ------------------------------------------------------------------------------------------------------ */

struct look {
    struct follower *f;
    uint32_t life;
    void (*then)(struct follower *f, const struct muster_stream_info *state);
};

/* What has gone from its beginning, unseen. False as tell(). */
static bool check_head(struct follower *f, const struct muster_stream_info *state)
{
    if (state->first_seq <= f->next || state->first_seq <= f->seen + 1 || !state->last_seq)
        return true;
    f->next = state->first_seq;
    return tell(f, MUSTER_ESTALE, NULL);
}

/* A leader that has just been elected may not have caught up with itself. */
static bool is_short(struct follower *f, const struct muster_stream_info *state)
{
    bool is = f->next && state->last_seq + 1 < f->next;

    if (!is)
        f->short_since_ns = 0;
    else if (!f->short_since_ns)
        f->short_since_ns = clock_now_ns();
    return is;
}

/* It was made anew, or restored from an earlier copy. */
static bool is_another(const struct follower *f, const struct muster_stream_info *state)
{
    return (f->created_wall_ns && state->created_wall_ns != f->created_wall_ns) ||
           (f->short_since_ns && clock_now_ns() - f->short_since_ns > catch_up_ns);
}

static void on_look(void *arg, int code, const struct js_info *info)
{
    struct look look = *(struct look *)arg;
    struct follower *f = look.f;

    free(arg);
    if (!f->dead && f->life == look.life) {
        bool is_behind = !code && is_short(f, &info->state);

        f->looking = false;
        f->missing_since_ns = code == MUSTER_ENOTFOUND ? f->missing_since_ns : 0;
        if (code)
            fail(f, code);
        else if (is_another(f, &info->state))
            finish(f);
        else if (is_behind)
            lose(f);
        else
            look.then(f, &info->state);
    }
    unref(f);
}

static void look_at(struct follower *f, void (*then)(struct follower *f, const struct muster_stream_info *state))
{
    struct look *look = malloc(sizeof *look);

    if (look) {
        *look = (struct look){f, f->life, then};
        f->refs++;
        f->looking = true;
        if (js_get_info(&f->t, f->stream, on_look, look) == 0)
            return;
        f->refs--;
        free(look);
    }
    lose(f);
}

/* ---- the consumer ------------------------------------------------------------------------------------------------------------- */

static bool tell_end(struct follower *f)
{
    if (f->told_end)
        return true;
    want_own(f, true);
    f->told_end = true;
    f->told_away = false;
    f->pause_ns = min_pause_ns;
    return tell(f, MUSTER_EAGAIN, NULL);
}

static void ask(struct follower *f)
{
    const struct js_pull_request request = {.batch = f->lone ? 1 : f->flood && f->flood < f->how.max_msgs ? f->flood : f->how.max_msgs,
                                            .max_bytes = f->lone ? 0 : MAX_WAITING_BYTES,
                                            .expires_ns = expires_ns,
                                            .heartbeat_ns = heartbeat_ns};
    int err = js_pull_next(f->pull, &request);

    if (err == MUSTER_EAGAIN)
        return; /* the timer asks again */
    if (err) {
        lose(f);
        return;
    }
    f->asking = true;
    f->settled = false;
    f->asked_ns = clock_now_ns();
    f->n_asked = request.batch;
    f->n_got = 0;
    f->lone = false;
}

static void on_ready(struct follower *f, const struct muster_stream_info *state)
{
    f->state = FLOWING;
    if (!check_head(f, state))
        return;
    if (!f->n_pending)
        f->seen = f->looked;
    f->looked = 0;
    f->doubt = f->subject && f->n_pending;
    if (f->n_pending || tell_end(f))
        turn(f);
}

static void on_made(void *arg, int code, const char *why, uint64_t n_pending)
{
    struct follower *f = arg;

    (void)why; /* what is away is told as such */
    if (code) {
        fail(f, code);
        return;
    }
    f->n_pending = n_pending;
    f->state = CHECKING;
    look_at(f, on_ready);
}

static uint64_t count_connects(const struct follower *f)
{
    return bus_connects(f->t.bus, BUS_LIVE);
}

static void on_first_look(struct follower *f, const struct muster_stream_info *state)
{
    struct js_pull_how how = {.stream = f->stream, .subject = f->subject, .made = on_made, .rests = true, .fn = on_arrival, .arg = f};

    f->created_wall_ns = state->created_wall_ns;
    if (!f->next)
        f->next = state->last_seq + 1;
    if (!check_head(f, state))
        return;
    f->looked = state->last_seq;
    f->state = MAKING;
    how.from_seq = f->next;
    if (js_pull_new(&f->t, &how, &f->pull) != 0)
        lose(f);
}

static void begin(struct follower *f)
{
    f->state = LOOKING;
    f->connects = count_connects(f);
    look_at(f, on_first_look);
}

/* ---- messages ----------------------------------------------------------------------------------------------------------------- */

/* Nothing has come for a request: all until the last look was seen. */
static void on_idle(struct follower *f)
{
    if (f->first || f->doubt)
        return;
    if (f->looked)
        f->seen = f->looked;
    f->looked = 0;
    (void)tell_end(f);
}


/* False: the consumer is of no use any more, and was dropped. */
static bool take_status(struct follower *f, const struct js_pulled *got)
{
    uint32_t life = f->life;

    f->settled = f->settled || got->status != JS_PULL_COMPLETE;
    if (got->status == JS_PULL_IDLE && got->delivered > f->delivered) {
        lose(f); /* the last one was lost on its way, and nothing comes behind it */
    } else if (got->status == JS_PULL_IDLE) {
        on_idle(f);
    } else if (got->status == JS_PULL_NOTHING || got->status == JS_PULL_EXPIRED || got->status == JS_PULL_TOO_LARGE) {
        f->asking = false;
        f->lone = got->status == JS_PULL_TOO_LARGE && !f->n_got;
    } else if (got->status != JS_PULL_COMPLETE) { /* which is counted: another may have been asked since */
        lose(f);
    }
    return !f->dead && f->life == life;
}

/* False as above. */
static bool take(struct follower *f, struct js_pulled *got)
{
    bool ok;

    if (got->status) {
        ok = take_status(f, got);
        js_pulled_free(got);
        return ok;
    }
    if (got->delivered != f->delivered + 1) { /* one was lost on its way */
        js_pulled_free(got);
        lose(f);
        return false;
    }
    f->delivered++;
    f->n_pending = got->n_pending;
    f->asking = f->asking && ++f->n_got < f->n_asked;
    f->settled = !f->n_pending || !f->asking;
    *f->last = got;
    f->last = &got->next;
    return true;
}

static void on_arrival(void *arg)
{
    struct follower *f = arg;
    struct js_pulled *got;
    bool ok = f->state == FLOWING;

    f->refs++;
    while (ok && (got = js_pull_take(f->pull)))
        ok = take(f, got);
    if (ok)
        turn(f);
    unref(f);
}

/* False as tell(). */
static bool deliver(struct follower *f, const struct js_pulled *got)
{
    struct muster_header headers[MAX_HEADERS];
    struct js_msg msg;

    if (got->seq < f->next)
        return true; /* its consumer is of a node that was behind, and began too early */
    if (!f->subject && got->seq > f->next && !tell(f, MUSTER_ESTALE, NULL))
        return false;
    f->next = got->seq + 1;
    js_pulled_msg(got, headers, MAX_HEADERS, &msg);
    return tell(f, 0, &msg) && (got->n_pending || tell_end(f));
}

/* The library has a thread to free messages, which is woken for each that comes alone and then contends for the list of them. */
static void free_done(struct follower *f)
{
    while (f->done) {
        struct js_pulled *got = f->done;

        f->done = got->next;
        if (f->pull)
            js_pull_spend(f->pull, got);
        else
            js_pulled_free(got);
    }
    f->n_done = 0;
}

static void keep_done(struct follower *f, struct js_pulled *got)
{
    got->next = f->done;
    f->done = got;
    f->n_done++;
}

/* False as tell(). */
static bool deliver_some(struct follower *f)
{
    bool ok = true;

    for (int n = 0; ok && f->first && !f->held && n < TURN; n++) {
        struct js_pulled *got = f->first;

        f->first = got->next;
        if (!f->first)
            f->last = &f->first;
        ok = deliver(f, got);
        if (ok)
            keep_done(f, got);
        else
            js_pulled_free(got);
    }
    if (ok && (!f->first || f->n_done >= MAX_DONE))
        free_done(f);
    return ok;
}

static void on_doubt_look(struct follower *f, const struct muster_stream_info *state)
{
    f->doubt = false;
    if (!check_head(f, state))
        return;
    if (!f->first)
        f->looked = state->last_seq;
    turn(f);
}

static void on_end_look(struct follower *f, const struct muster_stream_info *state)
{
    f->looked = state->last_seq;
    ask(f);
}

/* A server that sends each message as it is stored has a dozen threads woken for it, here and there. */
static bool is_flood(const struct follower *f, int64_t now_ns)
{
    return !f->subject && f->n_got >= FLOOD_MSGS && now_ns - f->asked_ns < f->n_got * flood_ns;
}

/* What most likely is there after a rest: what is asked for beyond that would be sent one by one. */
static uint32_t expected(const struct follower *f, int64_t now_ns)
{
    int64_t since_ns = now_ns - (f->rested_ns ? f->rested_ns : f->asked_ns);
    int64_t n = since_ns > 0 ? f->n_since * FLOOD_REST_MS * CLOCK_MS / since_ns * 3 / 4 : FLOOD_MSGS;

    return n < FLOOD_MSGS ? FLOOD_MSGS : n > f->how.max_msgs ? f->how.max_msgs : (uint32_t)n;
}

static void end_rest(struct follower *f, int64_t now_ns)
{
    f->rest_until_ns = 0;
    f->rested_ns = now_ns;
    f->n_since = 0;
}

/* True: it is asked a little later, for what has come together by then. */
static bool rests(struct follower *f)
{
    int64_t now_ns = clock_now_ns(), left_ns = f->rest_until_ns - now_ns;

    if (!f->rest_until_ns) {
        f->n_since += f->n_got;
        f->flood = !is_flood(f, now_ns) ? 0 : f->n_pending >= FLOOD_MSGS ? (uint32_t)f->n_pending : expected(f, now_ns);
        if (!f->flood || f->n_pending >= FLOOD_MSGS || f->lone)
            return false;
        left_ns = FLOOD_REST_MS * CLOCK_MS;
        f->rest_until_ns = now_ns + left_ns;
    }
    if (left_ns <= CLOCK_MS) { /* of which timers are that sure */
        end_rest(f, now_ns);
        return false;
    }
    js_pull_rest(f->pull, (uint32_t)(left_ns / CLOCK_MS));
    return true;
}

/* The request is over, and what it brought was delivered. */
static void ask_on(struct follower *f)
{
    if (rests(f))
        return;
    if (f->subject && f->n_got)
        f->doubt = true; /* more may have come, and gone, while nothing was asked for */
    if (f->subject && f->n_asked && !f->n_got)
        look_at(f, on_end_look); /* where its subjects are rare, how far they were seen */
    else
        ask(f);
}

static void turn(struct follower *f)
{
    if (f->state != FLOWING || f->held || f->looking)
        return;
    if (f->doubt && f->settled)
        look_at(f, on_doubt_look);
    else if (f->doubt && !f->asking)
        ask(f);
    if (f->dead || f->state != FLOWING || f->doubt || !deliver_some(f) || f->held)
        return;
    if (f->first)
        js_pull_again(f->pull); /* others have their turn first */
    else if (!f->asking)
        ask_on(f);
}

/* ---- from memory ---------------------------------------------------------------------------------------------------------------- */

static bool is_busy(struct follower *f)
{
    int64_t now_ns = clock_now_ns();
    uint64_t n = handover_count(f->own);

    if (now_ns - f->before_ns > busy_ns) {
        f->before_ns = now_ns;
        f->n_before = f->n_offered;
    }
    f->n_offered = n;
    return n - f->n_before >= BUSY_MSGS;
}

/* What was delivered is freed there, whether it came from there or not. */
static bool may_leave_consumer(struct follower *f)
{
    uint64_t first = handover_trim(f->own, f->next, f->created_wall_ns);
    bool busy = is_busy(f);

    if (!first)
        (void)handover_missed(f->own); /* the consumer has brought it */
    return f->told_end && !f->held && !f->looking && busy && first && first <= f->next;
}

/* False: there is none, or (*ret_gap) not the one that goes on. */
static bool open_next(struct follower *f, bool *ret_gap)
{
    struct handed *run = handover_take(f->own);

    if (!run)
        return false;
    f->cursor = handed_begin(run);
    *ret_gap = f->cursor.seq > f->next || handed_created(run) != f->created_wall_ns;
    if (*ret_gap)
        handed_end(&f->cursor);
    return !*ret_gap;
}

/* False as tell(). The run is kept aside: the follower may be freed in there. */
static bool deliver_run(struct follower *f)
{
    struct handed_cursor c = f->cursor;
    struct muster_header headers[MAX_HEADERS];
    struct js_msg msg;
    uint64_t n = 0;
    bool ok = true, more = true;

    f->cursor = (struct handed_cursor){0};
    while (ok && !f->held && (more = handed_next(&c, headers, MAX_HEADERS, &msg))) {
        if (msg.seq < f->next)
            continue;
        f->next = msg.seq + 1;
        n++;
        ok = tell(f, 0, &msg);
    }
    if (ok && n)
        handover_told(f->own, n);
    if (ok && more)
        f->cursor = c;
    else
        handed_end(&c);
    return ok;
}

/* From what is expected next on. Nothing was lost, and nothing is said. */
static void take_consumer(struct follower *f)
{
    handed_end(&f->cursor);
    f->n_offered = handover_count(f->own); /* before what counts from now on */
    begin(f);
}

static void take_handed(struct follower *f)
{
    bool gap = false, more = true;

    f->handed_ns = clock_now_ns();
    for (int n = 0; n < TURN_RUNS && !f->held; n++) {
        more = f->cursor.run || open_next(f, &gap);
        if (!more)
            break;
        if (!deliver_run(f))
            return;
    }
    if (f->held)
        return;
    if (more)
        handover_again(f->own); /* others have their turn first */
    else if (gap || handover_missed(f->own))
        take_consumer(f);
}

static void on_handed(void *arg)
{
    struct follower *f = arg;

    f->refs++;
    if (f->state == FLOWING && may_leave_consumer(f)) {
        drop_consumer(f);
        f->state = HANDED;
    }
    if (f->state == HANDED)
        take_handed(f);
    unref(f);
}

/* ---- life --------------------------------------------------------------------------------------------------------------------- */

static bool is_silent(const struct follower *f, int64_t now_ns)
{
    int64_t heard_ns = js_pull_heard_ns(f->pull);

    return f->asking && now_ns - (heard_ns > f->asked_ns ? heard_ns : f->asked_ns) > silence_ns;
}

/* What was on its way when the link was lost is lost, and what the server still holds of it would come twice. */
static void on_tick(uv_timer_t *timer)
{
    struct follower *f = timer->data;
    bool up = bus_is_up(f->t.bus, BUS_LIVE);
    int64_t now_ns = clock_now_ns();

    if (f->state == AWAY) {
        if (up && now_ns >= f->retry_ns)
            begin(f);
    } else if (!up || count_connects(f) != f->connects || (f->state == FLOWING && is_silent(f, now_ns))) {
        lose(f);
    } else if (f->state == HANDED) {
        if (!f->held && now_ns - f->handed_ns > quiet_ns)
            take_consumer(f);
    } else {
        turn(f);
    }
}

static void on_closed(uv_handle_t *timer)
{
    unref(timer->data);
}

/* Whom nobody asks the server forgets, and says nothing when it is asked then. */
static bool is_forgotten(const struct follower *f)
{
    return !f->asking && !f->first && clock_now_ns() - js_pull_heard_ns(f->pull) > idle_ns;
}

void follower_hold(struct follower *f, bool on)
{
    bool resumes = f->held && !on;

    f->held = on;
    if (resumes && f->state == HANDED)
        handover_again(f->own);
    if (!resumes || f->state != FLOWING)
        return;
    if (is_forgotten(f)) {
        drop_consumer(f);
        f->state = AWAY;
        f->retry_ns = 0;
        ASSERT(uv_timer_start(&f->timer, on_tick, 0, TICK_MS) == 0);
        return;
    }
    if (f->subject && !f->asking && !f->first) {
        f->doubt = true;
        f->settled = false;
    }
    js_pull_again(f->pull);
}

int follower_new(const struct js_target *t, const struct follower_how *how, struct follower **ret_follower)
{
    struct follower *f = calloc(1, sizeof *f);
    struct handover_how own = {.stream = how->stream, .lane = t->lane, .fn = on_handed, .arg = f};

    if (!f)
        return MUSTER_ENOMEM;
    *f = (struct follower){.t = *t, .how = *how, .refs = 2, .state = AWAY, .pause_ns = min_pause_ns, .next = how->from_seq, .last = &f->first};
    f->stream = strdup(how->stream);
    f->subject = how->subject ? strdup(how->subject) : NULL;
    if (!f->stream || (how->subject && !f->subject)) {
        f->refs = 1;
        unref(f);
        return MUSTER_ENOMEM;
    }
    if (how->handover && !how->subject && handover_follow(how->handover, &own, &f->own) != 0) {
        f->refs = 1;
        unref(f);
        return MUSTER_ENOMEM;
    }
    f->timer.data = f;
    ASSERT(uv_timer_init(lane_loop(t->lane), &f->timer) == 0);
    uv_update_time(lane_loop(t->lane));
    ASSERT(uv_timer_start(&f->timer, on_tick, 0, TICK_MS) == 0);
    *ret_follower = f;
    return 0;
}

void follower_free(struct follower *f)
{
    if (!f)
        return;
    f->dead = true;
    drop_consumer(f);
    handover_unfollow(f->own);
    uv_close((uv_handle_t *)&f->timer, on_closed);
    unref(f);
}
