/* plugins/fanout: from where a stream is followed, the first time and after what went wrong; NATS is played here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/watch.h"

static struct {
    int64_t now_ns;
    uint64_t first, last;
    int64_t created;
    int follow_err;
    uint64_t followed_from; /* 0: nothing is followed */
    muster_stream_info_fn fn; /* that waits for an answer */
    void *arg;
    muster_stream_follow_fn on_msg;
    void *feed;
    size_t n_closed;
} nats;

static int attach(const struct muster_host *host, const char *name, const struct muster_tenant *tenant, muster_stream_info_fn fn, void *arg,
                  uint64_t *ret_stream)
{
    (void)host;
    (void)name;
    (void)tenant;
    nats.fn = fn;
    nats.arg = arg;
    *ret_stream = 1;
    return 0;
}

static int info(const struct muster_host *host, uint64_t stream, muster_stream_info_fn fn, void *arg)
{
    (void)stream;
    return attach(host, NULL, NULL, fn, arg, &(uint64_t){0});
}

static int follow(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject, uint64_t from_seq,
                  uint32_t max_msgs, muster_stream_follow_fn fn, void *arg, uint64_t *ret_follow)
{
    (void)host;
    (void)stream;
    (void)tenant;
    (void)subject;
    (void)max_msgs;
    nats.followed_from = nats.follow_err ? 0 : from_seq;
    nats.on_msg = fn;
    nats.feed = arg;
    *ret_follow = 1;
    return nats.follow_err;
}

static void unfollow(const struct muster_host *host, uint64_t id)
{
    (void)host;
    (void)id;
    nats.followed_from = 0;
}

static void hold_back(const struct muster_host *host, uint64_t id, uint32_t on)
{
    (void)host;
    (void)id;
    (void)on;
}

static void close_stream(const struct muster_host *host, uint64_t stream)
{
    (void)host;
    (void)stream;
    nats.n_closed++;
}

static int64_t now(const struct muster_host *host)
{
    (void)host;
    return nats.now_ns;
}

static int once(const struct muster_host *host, int64_t delay_ns, muster_timer_fn fn, uint64_t *ret_id)
{
    (void)host;
    (void)delay_ns;
    (void)fn;
    *ret_id = 1;
    return 0;
}

static void stop(const struct muster_host *host, uint64_t id)
{
    (void)host;
    (void)id;
}

static void add(const struct muster_host *host, uint64_t metric, const char *label, int64_t by)
{
    (void)host;
    (void)metric;
    (void)label;
    (void)by;
}

static void say(const struct muster_host *host, int level, const char *fmt, ...)
{
    (void)host;
    (void)level;
    (void)fmt;
}

/* The plugin's own. */
void fanout_look_ready(struct fanout *self)
{
    (void)self;
}

static const struct muster_stream stream = {.size = sizeof stream, .attach = attach, .info = info, .follow = follow, .unfollow = unfollow,
                                            .hold_back = hold_back, .close = close_stream};
static const struct muster_timer timer = {.size = sizeof timer, .now = now, .once = once, .stop = stop};
static const struct muster_metrics metrics = {.size = sizeof metrics, .add = add};
static const struct muster_host host = {.log = say};
static struct fanout f = {.host = &host, .stream = &stream, .timer = &timer, .metrics = &metrics};
static struct watches ws;
static struct watch watch;
static struct tap tap;
static struct feed *feed;

static void answer(int code)
{
    const struct muster_stream_info state = {.size = sizeof state, .first_seq = nats.first, .last_seq = nats.last, .created_wall_ns = nats.created};
    muster_stream_info_fn fn = nats.fn;

    nats.fn = NULL;
    if (fn)
        fn(nats.arg, code, code ? NULL : &state);
}

static void pass(int64_t ns)
{
    nats.now_ns += ns;
    feeds_tick(&ws, nats.now_ns);
    answer(0);
}

static int set_up(void **state)
{
    static char pattern[] = "evt.x.>";
    static struct pattern patterns[1];

    (void)state;
    memset(&nats, 0, sizeof nats);
    nats.now_ns = CLOCK_S;
    nats.first = 1;
    nats.last = 10;
    nats.created = 5 * CLOCK_S;
    ws = (struct watches){.f = &f, .routes_serial = 1};
    f.watches = &ws;
    feed = feed_get(&ws, "EVT", NULL);
    watch = (struct watch){.ws = &ws, .taps = &tap, .n_taps = 1};
    patterns[0] = (struct pattern){.text = pattern};
    tap = (struct tap){.w = &watch, .feed = feed, .patterns = patterns, .n_patterns = 1};
    feed->refs = 1;
    feed_ensure(feed);
    answer(0);
    assert_true(tap_link(&tap));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    tap_unlink(&tap);
    feeds_done(&ws);
    nodes_done(&ws);
    return 0;
}

static void read_to(uint64_t seq)
{
    const struct muster_msg msg = {.size = sizeof msg, .subject = "evt.y.z", .seq = seq};

    nats.on_msg(nats.feed, 0, &msg);
    assert_int_equal(feed->pos, seq);
}

/* The flow has stopped without a word: it is looked at, and followed anew, which fails. */
static void stall(int err)
{
    nats.last = 20;
    nats.follow_err = err;
    pass(6 * CLOCK_S);
    pass(6 * CLOCK_S);
    assert_false(feed->ready);
    nats.follow_err = 0;
}

static void test_begins_at_the_end(void **state)
{
    (void)state;
    assert_int_equal(nats.followed_from, 11);
    assert_int_equal(watch.n_gaps, 0);
}

static void test_goes_on_where_it_was(void **state)
{
    (void)state;
    read_to(12);
    stall(MUSTER_ELINK);
    nats.last = 30;
    pass(2 * CLOCK_S);
    assert_int_equal(nats.followed_from, 13);
    assert_int_equal(watch.n_gaps, 0);
}

static void test_tells_what_was_cut_meanwhile(void **state)
{
    (void)state;
    read_to(12);
    stall(MUSTER_ENOMEM);
    nats.first = 16;
    pass(2 * CLOCK_S);
    assert_int_equal(nats.followed_from, 16);
    assert_int_equal(watch.n_gaps, 1);
    assert_string_equal(watch.gaps[0].reason, "retention");
}

static void test_a_stream_made_anew_meanwhile_is_read_whole(void **state)
{
    (void)state;
    read_to(12);
    stall(MUSTER_ELINK);
    nats.created += CLOCK_S;
    nats.last = 40; /* above where the old one was */
    pass(2 * CLOCK_S);
    assert_int_equal(watch.n_gaps, 1);
    assert_string_equal(watch.gaps[0].reason, "stream");
    pass(2 * CLOCK_S);
    assert_int_equal(nats.followed_from, 1);
    assert_int_equal(feed->created_us, nats.created / 1000);
    assert_int_equal(watch.n_gaps, 1);
}

static void test_one_too_many_is_tried_again(void **state)
{
    (void)state;
    read_to(12);
    stall(MUSTER_ELINK);
    nats.follow_err = MUSTER_EINVAL;
    pass(2 * CLOCK_S);
    assert_true(feed->full && feed->missing);
    nats.follow_err = 0;
    pass(2 * CLOCK_S);
    assert_true(feed->ready && !feed->full);
    assert_int_equal(nats.followed_from, 13);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_begins_at_the_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_goes_on_where_it_was, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tells_what_was_cut_meanwhile, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_stream_made_anew_meanwhile_is_read_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_one_too_many_is_tried_again, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
