/*
 * last() and read() of muster.stream/1: what is stored, once. Lane only.
 *
 * A few messages are asked for one by one, each a round trip. More come by a consumer that lives as long as the read; a server bears a few
 * thousand of those, so an instance has a few at a time, and its other reads wait in their order.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "bus/js_pull.h"
#include "core/host_stream.h"

enum { MAX_READ = 1000, A_FEW = 4, MAX_PULLS = 8, MAX_WAITING = 1024, MAX_BYTES = 8 << 20, TURN = 64, TICK_MS = 250, MAX_HEADERS = 32 };
static const int64_t silence_ns = 5 * CLOCK_S;

/* ---- last --------------------------------------------------------------------------------------------------------------------- */

struct last {
    struct instance *in;
    muster_stream_msg_fn fn;
    void *arg;
};

static void on_last(void *arg, int code, const struct js_msg *from)
{
    struct last *last = arg;
    struct instance *in = last->in;
    struct muster_msg msg;

    if (!code)
        host_stream_show(in, from, &msg);
    instance_enter(in, "stream message", code ? NULL : msg.subject);
    last->fn(last->arg, code, code ? NULL : &msg);
    instance_leave(in);
    free(last);
}

int host_stream_last(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                     muster_stream_msg_fn fn, void *arg)
{
    struct instance *in = instance_of(host);
    const struct host_stream *s;
    struct js_target t;
    char full[HOST_STREAM_MAX_SUBJECT];
    struct last *last;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    s = host_stream_find(in, stream);
    if (!s || !fn)
        return host->fail(host, MUSTER_EINVAL, "last(): expected an open stream, and a function");
    err = host_stream_wanted(in, s, tenant, subject, full);
    if (err)
        return err;
    t = host_js(in, s);
    last = malloc(sizeof *last);
    if (!last)
        return MUSTER_ENOMEM;
    *last = (struct last){in, fn, arg};
    /* Not ">": for that the server looks at its last sequence alone, and finds nothing when that message was deleted. */
    err = instance_sent(in, BUS_LIVE, js_last(&t, s->name, *full ? full : s->all, on_last, last));
    if (err)
        free(last);
    return err;
}

/* ---- read --------------------------------------------------------------------------------------------------------------------- */

/* In the instance's list until it has told its end; then libuv has the timer for a while. */
struct host_read {
    struct host_read *next;
    struct instance *in;
    uint64_t stream; /* it may be closed between two messages */
    muster_stream_msg_fn fn;
    void *arg;
    uint64_t next_seq;
    uint32_t left;
    bool stepping;

    /* By a consumer. */
    uv_timer_t timer;
    bool has_timer;
    struct js_pull *pull; /* NULL: it waits for its turn, or steps */
    uint64_t delivered, connects;
    int64_t asked_ns;
    uint32_t n_got; /* of what was asked for last */
    bool lone;      /* the next request is for one message of any size */

    char subject[HOST_STREAM_MAX_SUBJECT]; /* "": all */
};

static void begin_waiting(struct instance *in);

static void on_closed(uv_handle_t *timer)
{
    free(timer->data);
}

static void forget(struct host_read *r)
{
    struct host_read **at = &r->in->reads;

    while (*at && *at != r)
        at = &(*at)->next;
    if (*at)
        *at = r->next;
    js_pull_free(r->pull);
    r->pull = NULL;
    if (r->has_timer)
        uv_close((uv_handle_t *)&r->timer, on_closed);
    else
        free(r);
}

static void tell_end(struct host_read *r, int code)
{
    struct instance *in = r->in;
    muster_stream_msg_fn fn = r->fn;
    void *arg = r->arg;

    forget(r);
    instance_enter(in, "stream read", NULL);
    fn(arg, code, NULL);
    instance_leave(in);
}

static void end_read(struct host_read *r, int code)
{
    struct instance *in = r->in;

    tell_end(r, code);
    begin_waiting(in);
}

/* False: it is over, and was told so. A consumer of a node that is behind begins too early. */
static bool give(struct host_read *r, const struct js_msg *from)
{
    struct instance *in = r->in;
    struct muster_msg msg;

    if (from->seq < r->next_seq)
        return true;
    host_stream_show(in, from, &msg);
    r->next_seq = msg.seq + 1;
    r->left--;
    instance_enter(in, "stream read", msg.subject);
    r->fn(r->arg, 0, &msg);
    instance_leave(in);
    if (r->left && !in->ending && host_stream_find(in, r->stream))
        return true;
    end_read(r, r->left ? MUSTER_ELINK : 0);
    return false;
}

/* ---- one by one --------------------------------------------------------------------------------------------------------------- */

static int step(struct host_read *r);

static void on_step(void *arg, int code, const struct js_msg *from)
{
    struct host_read *r = arg;

    if (code) {
        end_read(r, code);
        return;
    }
    if (!give(r, from))
        return;
    code = instance_sent(r->in, BUS_LIVE, step(r));
    if (code)
        end_read(r, code);
}

static int step(struct host_read *r)
{
    const struct host_stream *s = host_stream_find(r->in, r->stream);
    struct js_target t = host_js(r->in, s);

    r->stepping = true;
    return s ? js_next(&t, s->name, *r->subject ? r->subject : s->all, r->next_seq, on_step, r) : MUSTER_ELINK;
}

/* ---- by a consumer ------------------------------------------------------------------------------------------------------------ */

static uint64_t count_connects(const struct host_read *r)
{
    struct bus_counters counters;

    bus_counters(broker_bus(r->in->broker), BUS_LIVE, &counters);
    return counters.connects;
}

static void ask(struct host_read *r)
{
    const struct js_pull_request request = {.batch = r->lone ? 1 : r->left, .max_bytes = r->lone ? 0 : MAX_BYTES};
    int err = js_pull_next(r->pull, &request);

    r->asked_ns = clock_now_ns();
    r->n_got = 0;
    r->lone = false;
    if (err)
        end_read(r, err);
}

/* The rest one by one: what the server refuses to make a consumer for, and the end: a consumer's word for it is a count, which bounds that
 * drop messages meanwhile can put wrong. */
static void step_on(struct host_read *r)
{
    struct instance *in = r->in;
    int err;

    js_pull_free(r->pull);
    r->pull = NULL;
    err = step(r);
    if (err)
        end_read(r, err);
    else
        begin_waiting(in);
}

static void on_made(void *arg, int code, const char *why, uint64_t n_pending)
{
    struct host_read *r = arg;

    (void)why;
    if (code == MUSTER_EINVAL || code == MUSTER_ENOMEM || (!code && !n_pending))
        step_on(r);
    else if (code)
        end_read(r, code);
    else
        ask(r);
}

/* False: nothing more comes from the consumer. */
static bool take_status(struct host_read *r, const struct js_pulled *got)
{
    if (got->status == JS_PULL_IDLE)
        return true;
    if (got->status == JS_PULL_TOO_LARGE || got->status == JS_PULL_COMPLETE) {
        r->lone = !r->n_got;
        ask(r);
        return r->pull != NULL;
    }
    if (got->status == JS_PULL_NOTHING || got->status == JS_PULL_EXPIRED)
        step_on(r);
    else
        end_read(r, MUSTER_ELINK);
    return false;
}

/* False likewise. */
static bool take(struct host_read *r, const struct js_pulled *got)
{
    struct muster_header headers[MAX_HEADERS];
    struct js_msg msg;

    if (got->status)
        return take_status(r, got);
    if (got->delivered != ++r->delivered) { /* one was lost on its way */
        end_read(r, MUSTER_ELINK);
        return false;
    }
    r->n_got++;
    js_pulled_msg(got, headers, MAX_HEADERS, &msg);
    if (!give(r, &msg))
        return false;
    if (got->n_pending)
        return true;
    step_on(r);
    return false;
}

static void on_arrival(void *arg)
{
    struct host_read *r = arg;
    struct js_pulled *got;

    for (int n = 0; n < TURN; n++) {
        bool on;

        got = js_pull_take(r->pull);
        if (!got)
            return;
        on = take(r, got);
        js_pulled_free(got);
        if (!on)
            return;
    }
    js_pull_again(r->pull); /* others have their turn first */
}

static void on_tick(uv_timer_t *timer)
{
    struct host_read *r = timer->data;
    int64_t heard_ns = r->pull ? js_pull_heard_ns(r->pull) : 0;

    if (!host_stream_find(r->in, r->stream) && !r->stepping)
        end_read(r, MUSTER_ELINK);
    else if (!r->pull || !r->asked_ns)
        return; /* it waits for its turn, or what was asked has a deadline of its own */
    else if (!bus_is_up(broker_bus(r->in->broker), BUS_LIVE) || count_connects(r) != r->connects)
        end_read(r, MUSTER_ELINK);
    else if (clock_now_ns() - (heard_ns > r->asked_ns ? heard_ns : r->asked_ns) > silence_ns)
        end_read(r, MUSTER_ETIME);
}

static int pull(struct host_read *r)
{
    const struct host_stream *s = host_stream_find(r->in, r->stream);
    struct js_target t = host_js(r->in, r);
    const struct js_pull_how how = {.stream = s ? s->name : "",
                                    .subject = *r->subject ? r->subject : NULL,
                                    .from_seq = r->next_seq,
                                    .made = on_made,
                                    .fn = on_arrival,
                                    .arg = r};

    r->connects = count_connects(r);
    return s ? js_pull_new(&t, &how, &r->pull) : MUSTER_ELINK;
}

static void count(const struct instance *in, int *ret_pulls, int *ret_waiting)
{
    *ret_pulls = *ret_waiting = 0;
    for (const struct host_read *r = in->reads; r; r = r->next)
        if (r->pull)
            ++*ret_pulls;
        else if (!r->stepping)
            ++*ret_waiting;
}

/* New ones stand in front. */
static struct host_read *oldest_waiting(const struct instance *in)
{
    struct host_read *oldest = NULL;

    for (struct host_read *r = in->reads; r; r = r->next)
        if (!r->pull && !r->stepping)
            oldest = r;
    return oldest;
}

static void begin_waiting(struct instance *in)
{
    int n_pulls, n_waiting, err;

    for (;;) {
        struct host_read *oldest = in->ending ? NULL : oldest_waiting(in);

        count(in, &n_pulls, &n_waiting);
        if (in->reads_starved && n_waiting <= MAX_WAITING / 2) {
            in->reads_starved = false;
            instance_has_room(in);
        }
        if (!oldest || n_pulls >= MAX_PULLS)
            return;
        err = pull(oldest);
        if (err)
            tell_end(oldest, err);
    }
}

/* ---- calls -------------------------------------------------------------------------------------------------------------------- */

static int begin(struct host_read *r)
{
    struct instance *in = r->in;
    int n_pulls, n_waiting, err = 0;

    count(in, &n_pulls, &n_waiting);
    if (r->left <= A_FEW) {
        err = instance_sent(in, BUS_LIVE, step(r));
    } else if (n_pulls < MAX_PULLS && !n_waiting) {
        err = instance_sent(in, BUS_LIVE, pull(r));
    } else if (n_waiting >= MAX_WAITING) {
        in->reads_starved = true;
        err = MUSTER_EAGAIN;
    }
    if (err || r->left <= A_FEW)
        return err;
    ASSERT(uv_timer_init(lane_loop(in->lane), &r->timer) == 0);
    ASSERT(uv_timer_start(&r->timer, on_tick, TICK_MS, TICK_MS) == 0);
    r->timer.data = r;
    r->has_timer = true;
    return 0;
}

int host_stream_read(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                     uint64_t from_seq, uint32_t max_msgs, muster_stream_msg_fn fn, void *arg)
{
    struct instance *in = instance_of(host);
    const struct host_stream *s;
    struct host_read *r;
    int err = MAY_BEGIN(in);

    if (err)
        return err;
    s = host_stream_find(in, stream);
    if (!s || !fn || max_msgs == 0 || max_msgs > MAX_READ)
        return host->fail(host, MUSTER_EINVAL, "read(): expected an open stream, a function, and 1 to %d messages", MAX_READ);
    r = calloc(1, sizeof *r);
    if (!r)
        return MUSTER_ENOMEM;
    *r = (struct host_read){.in = in, .stream = stream, .fn = fn, .arg = arg, .next_seq = from_seq ? from_seq : 1, .left = max_msgs};
    err = host_stream_wanted(in, s, tenant, subject, r->subject);
    if (!err)
        err = begin(r);
    if (err) {
        free(r);
        return err;
    }
    r->next = in->reads;
    in->reads = r;
    return 0;
}

void host_read_close(struct instance *in, uint64_t stream)
{
    for (struct host_read *r = in->reads; r; r = r->next)
        if (r->stream == stream && r->has_timer)
            ASSERT(uv_timer_start(&r->timer, on_tick, 0, TICK_MS) == 0);
}

/* Those that step end with what they asked. */
void host_read_done(struct instance *in)
{
    for (struct host_read *r = in->reads, *next; r; r = next) {
        next = r->next;
        if (!r->stepping)
            tell_end(r, MUSTER_ELINK);
    }
}
