/*
 * Clearing away what deletes and expiry leave in a plugin's buckets. Lane only.
 *
 * An instance that has written something of the kind walks over the bucket half a minute later, one message at a time, and again as long
 * as something is left; that takes at most a fiftieth of the time. Markers stay for a minute, so that those who watch the bucket
 * hear of the delete. What a broker leaves that ends goes when its plugin next does so, or reads it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "core/host_js.h"
#include "core/host_kv.h"

static const int64_t pause_ns = 30 * CLOCK_S, marker_ns = 60 * CLOCK_S;
enum { SHARE = 50 };

/* One for each instance that needs it. */
struct kv_sweeper {
    struct instance *in;
    uv_timer_t timer;
    bool dirty[2]; /* the own bucket, the tenants' */
    bool todo[2];  /* in this round */
    bool walking;
    int64_t began_ns;

    /* The pass that is under way. */
    bool tenants, left;
    struct kv_bucket bucket;
    uint64_t next_seq, last_seq;
};

static void step(struct kv_sweeper *s);
static void begin_pass(struct kv_sweeper *s);
static void on_timer(uv_timer_t *timer);

static void start_timer(struct kv_sweeper *s, int64_t after_ns)
{
    uv_update_time(lane_loop(s->in->lane));
    ASSERT(uv_timer_start(&s->timer, on_timer, (uint64_t)(after_ns / CLOCK_MS), 0) == 0);
}

static void rest(struct kv_sweeper *s)
{
    int64_t took_ns = (clock_now_ns() - s->began_ns) * SHARE;

    s->walking = false;
    if (!s->in->ending && (s->dirty[0] || s->dirty[1]))
        start_timer(s, took_ns > pause_ns ? took_ns : pause_ns);
}

/* code 0: the pass came to the end of the bucket. Otherwise it is done again. */
static void end_pass(struct kv_sweeper *s, int code)
{
    if (code || s->left)
        s->dirty[s->tenants] = true;
    if (s->todo[0] || s->todo[1])
        begin_pass(s);
    else
        rest(s);
}

static bool is_rubbish(const struct js_msg *msg, bool *ret_later)
{
    int64_t now = clock_wall_ns(), due = host_kv_is_marker(msg) ? msg->stored_wall_ns + marker_ns : host_kv_expires(msg);

    *ret_later = due > now;
    return due && due <= now;
}

static void on_purged(void *arg, int code)
{
    struct kv_sweeper *s = arg;

    if (code)
        end_pass(s, code);
    else
        step(s);
}

static void on_msg(void *arg, int code, const struct js_msg *msg)
{
    struct kv_sweeper *s = arg;
    struct js_target t = host_js(s->in, s->in);
    bool later;
    int err;

    if (code || msg->seq > s->last_seq) {
        end_pass(s, code == MUSTER_ENOTFOUND ? 0 : code);
        return;
    }
    s->next_seq = msg->seq + 1;
    if (is_rubbish(msg, &later)) {
        err = s->in->ending ? MUSTER_ELINK : js_purge(&t, s->bucket.stream, msg->subject, msg->seq + 1, on_purged, s);
        if (err)
            end_pass(s, err);
        return;
    }
    s->left = s->left || later;
    step(s);
}

static void step(struct kv_sweeper *s)
{
    struct js_target t = host_js(s->in, s->in);
    char all[KV_SUBJECT_SIZE];
    int err;

    (void)snprintf(all, sizeof all, "%s>", s->bucket.prefix);
    err = s->in->ending ? MUSTER_ELINK : js_next(&t, s->bucket.stream, all, s->next_seq, on_msg, s);
    if (err)
        end_pass(s, err);
}

static void on_info(void *arg, int code, const struct js_info *info)
{
    struct kv_sweeper *s = arg;

    if (code) {
        end_pass(s, code == MUSTER_ENOTFOUND ? 0 : code);
        return;
    }
    s->last_seq = info->state.last_seq;
    step(s);
}

static void begin_pass(struct kv_sweeper *s)
{
    struct js_target t = host_js(s->in, s->in);
    int err;

    s->tenants = !s->todo[0];
    s->todo[s->tenants] = false;
    s->left = false;
    s->next_seq = 1;
    host_kv_bucket(s->in, s->tenants, &s->bucket);
    err = s->in->ending ? MUSTER_ELINK : js_get_info(&t, s->bucket.stream, on_info, s);
    if (err)
        end_pass(s, err);
}

static void on_timer(uv_timer_t *timer)
{
    struct kv_sweeper *s = timer->data;

    memcpy(s->todo, s->dirty, sizeof s->todo);
    memset(s->dirty, 0, sizeof s->dirty);
    s->walking = true;
    s->began_ns = clock_now_ns();
    begin_pass(s);
}

static struct kv_sweeper *sweeper_of(struct instance *in)
{
    struct kv_sweeper *s = in->sweeper ? in->sweeper : calloc(1, sizeof *s);

    if (!s || in->sweeper)
        return s;
    s->in = in;
    s->timer.data = s;
    ASSERT(uv_timer_init(lane_loop(in->lane), &s->timer) == 0);
    in->sweeper = s;
    return s;
}

void host_kv_swept_later(struct instance *in, bool tenants)
{
    struct kv_sweeper *s = in->ending ? NULL : sweeper_of(in);

    if (!s) /* without memory the bucket is not the worry */
        return;
    s->dirty[tenants] = true;
    if (!s->walking && !uv_is_active((uv_handle_t *)&s->timer))
        start_timer(s, pause_ns);
}

static void free_sweeper(uv_handle_t *handle)
{
    free(handle->data);
}

void host_kv_done(struct instance *in)
{
    if (in->sweeper)
        uv_close((uv_handle_t *)&in->sweeper->timer, free_sweeper);
    in->sweeper = NULL;
}
