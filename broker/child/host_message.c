/*
 * Messages from the parent to the plugin's function. One that runs is borrowed from its frame; what is held, waits for pause() to end or is to be
 * tried again is a copy of the frame's fields. So is what comes when this turn has had its time: the loop reads on meanwhile, answers what
 * the parent asks, and one tenant's messages do not stand before another's. A tenant's own keep their order. The parent sends
 * no more than so many that are not DONE, which bounds it all.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "child/host.h"

enum { RETRY_MS = 20, HELD_MSGS = 16384 };
static const int64_t turn_ns = 5 * CLOCK_MS;
static const size_t held_bytes = 64u << 20;
static const int64_t retry_for_ns = 30 * CLOCK_S;

/* One MSG, and where its fields are. */
struct child_delivery {
    uint64_t id, sub;
    bool wants_answer, opened; /* opened: its request can be answered, or has been */
    const void *fields;
    size_t len;
    struct child_held *held; /* hold() was called; read with the lock held once it was */
    struct child_message message;
};

struct child_held {
    uint64_t id;
    unsigned int refs; /* guarded by the child's lock, like the next */
    bool done;         /* DONE has said that it is held: DROP may follow */
    size_t n_bytes;
    struct child_message message;
    char fields[];
};

struct child_later {
    struct child_later *next;
    bool opened;
    uint64_t id, sub;
    size_t len;
    char fields[];
};

/* ---- fields ----------------------------------------------------------------------------------------------------------------------- */

static bool get_fields(struct child *c, struct frame_reader *r, struct child_message *out)
{
    struct muster_msg *m = &out->msg;
    bool wants_answer;

    m->size = sizeof *m;
    m->encoding = frame_get_u32(r);
    m->tenant = (const struct muster_tenant *)(const void *)tenant_of_id(c, frame_get_u64(r));
    m->agent = frame_get_str(r);
    m->subject = frame_get_str(r);
    m->service = frame_get_str(r);
    m->verb = frame_get_str(r);
    m->headers = out->headers;
    m->n_headers = frame_get_headers(r, out->headers, CHILD_HEADERS);
    wants_answer = frame_get_u8(r);
    m->request = 0;
    m->payload = frame_get_bytes(r);
    m->recv_ns = frame_get_i64(r);
    m->seq = frame_get_u64(r);
    m->role = frame_get_u32(r);
    return wants_answer;
}

void message_get(struct child *c, struct frame_reader *r, struct child_message *out)
{
    (void)get_fields(c, r, out);
}

static struct frame_reader reader_of(const void *fields, size_t len)
{
    return (struct frame_reader){.type = FRAME_MSG, .at = fields, .end = (const unsigned char *)fields + len};
}

/* ---- requests --------------------------------------------------------------------------------------------------------------------- */

static bool open_request(struct child *c, uint64_t id)
{
    bool ok;

    pthread_mutex_lock(&c->lock);
    ok = idmap_put(&c->requests, id, c);
    pthread_mutex_unlock(&c->lock);
    return ok;
}

/* ---- later ------------------------------------------------------------------------------------------------------------------------ */

static void tell_done(struct child *c, uint64_t id, int code, bool held)
{
    struct frame f = pipe_begin(c->pipe, FRAME_DONE, id);

    frame_put_i32(&f, code);
    frame_put_u8(&f, held);
    if (pipe_end(c->pipe, &f, true) == MUSTER_ENOMEM)
        child_confused("more than there is memory to answer"); /* the parent would wait for ever */
}

static void run_later(struct child *c);
static void run_turn(uv_idle_t *idle);
static void run_again(uv_timer_t *timer);

static void ring_add(struct child_ring *ring, struct child_tenant *t)
{
    t->next = NULL;
    *ring->tail = t;
    ring->tail = &t->next;
}

static struct child_tenant *ring_take(struct child_ring *ring)
{
    struct child_tenant *t = ring->first;

    if (!t)
        return NULL;
    ring->first = t->next;
    if (!ring->first)
        ring->tail = &ring->first;
    return t;
}

static void wake_resting(struct child *c)
{
    struct child_tenant *t;

    while ((t = ring_take(&c->resting)))
        ring_add(&c->ring, t);
}

/* Those whose turn it is come as soon as the loop has looked at all else, those that rest in a while. */
static void run_soon(struct child *c)
{
    int64_t left_ns = c->again_ns - clock_now_ns();

    if (c->ring.first && !c->paused)
        ASSERT(uv_idle_start(&c->soon, run_turn) == 0);
    else
        (void)uv_idle_stop(&c->soon);
    if (c->resting.first && !uv_is_active((uv_handle_t *)&c->again))
        ASSERT(uv_timer_start(&c->again, run_again, left_ns > 0 ? (uint64_t)(left_ns / CLOCK_MS) + 1 : 0, 0) == 0);
}

static void run_turn(uv_idle_t *idle)
{
    struct child *c = idle->data;

    message_new_turn(c);
    run_later(c);
    run_soon(c);
}

static void run_again(uv_timer_t *timer)
{
    struct child *c = timer->data;

    wake_resting(c);
    run_soon(c);
}

static void rest(struct child *c, struct child_tenant *t)
{
    if (!c->resting.first)
        c->again_ns = clock_now_ns() + RETRY_MS * CLOCK_MS;
    ring_add(&c->resting, t);
}

static struct child_tenant *tenant_of(struct child *c, const struct child_delivery *d)
{
    return d->message.msg.tenant ? (struct child_tenant *)(uintptr_t)d->message.msg.tenant : &c->no_tenant;
}

static struct child_later *later_new(const struct child_delivery *d)
{
    struct child_later *l = malloc(sizeof *l + d->len);

    if (!l)
        return NULL;
    *l = (struct child_later){.id = d->id, .sub = d->sub, .opened = d->opened, .len = d->len};
    memcpy(l->fields, d->fields, d->len);
    return l;
}

static void append_later(struct child_tenant *t, struct child_later *l)
{
    if (!t->later)
        t->later_tail = &t->later;
    *t->later_tail = l;
    t->later_tail = &l->next;
}

static struct child_later *take_later(struct child_tenant *t)
{
    struct child_later *l = t->later;

    t->later = l->next;
    if (!t->later)
        t->later_tail = &t->later;
    return l;
}

/* ---- the function ----------------------------------------------------------------------------------------------------------------- */

static int call_plugin(struct child *c, struct child_delivery *d)
{
    const struct child_sub *sub = idmap_get(&c->subs, d->sub);
    int code;

    if (!sub)
        return MUSTER_ELINK; /* `unavailable` to who waits */
    if (d->wants_answer && !d->opened && !open_request(c, d->id))
        return MUSTER_ENOMEM;
    d->opened = d->wants_answer;
    d->message.msg.request = d->wants_answer ? d->id : 0;
    c->running = d;
    instance_enter(&c->in, "message", d->message.msg.subject);
    code = sub->fn(c->in.self, &d->message.msg);
    instance_leave(&c->in);
    c->running = NULL;
    return code;
}

/* DONE goes out under the lock, so that no DROP overtakes it. What was dropped before it was never held. */
static void finish(struct child *c, const struct child_delivery *d, int code)
{
    struct child_held *h = d->held;
    bool held;

    pthread_mutex_lock(&c->lock);
    held = h && h->refs > 0;
    if (d->wants_answer && (code || !held))
        (void)idmap_take(&c->requests, d->id);
    if (held)
        h->done = true;
    tell_done(c, d->id, code, held);
    pthread_mutex_unlock(&c->lock);
    if (!held)
        free(h);
}

void message_init(struct child *c)
{
    c->ring.tail = &c->ring.first;
    c->resting.tail = &c->resting.first;
}

void message_new_turn(struct child *c)
{
    c->turn_ns = 0;
    c->turn_is_over = false;
}

/* True when it is to come again. */
static bool deliver(struct child *c, struct child_delivery *d)
{
    int64_t now_ns = clock_now_ns();
    int code;

    if (!c->turn_ns)
        c->turn_ns = now_ns;
    code = call_plugin(c, d);
    now_ns = clock_now_ns();
    c->turn_is_over = now_ns - c->turn_ns >= turn_ns;
    if (code == MUSTER_EAGAIN && !d->held && now_ns - d->message.msg.recv_ns <= retry_for_ns)
        return true;
    finish(c, d, code);
    return false;
}

static bool must_wait(struct child *c, const struct child_delivery *d)
{
    return c->paused || c->turn_is_over || tenant_of(c, d)->later;
}

void message_arrives(struct child *c, struct frame_reader *r)
{
    struct child_delivery d = {.id = r->id, .sub = frame_get_u64(r)};
    struct child_later *later;
    struct child_tenant *tenant;
    bool again = false;

    d.fields = r->at;
    d.len = (size_t)(r->end - r->at);
    d.wants_answer = get_fields(c, r, &d.message);
    if (r->bad)
        return;
    if (!must_wait(c, &d)) {
        again = deliver(c, &d);
        if (!again)
            return;
    }
    later = c->paused && c->pause_is_closed ? NULL : later_new(&d);
    if (!later) {
        tell_done(c, d.id, c->pause_is_closed ? MUSTER_ELINK : MUSTER_ENOMEM, false);
        return;
    }
    tenant = tenant_of(c, &d);
    if (again)
        rest(c, tenant);
    else if (!tenant->later)
        ring_add(&c->ring, tenant);
    append_later(tenant, later);
    run_soon(c);
}

/* True when it is through. */
static bool deliver_later(struct child *c, struct child_later *l)
{
    struct frame_reader r = reader_of(l->fields, l->len);
    struct child_delivery d = {.id = l->id, .sub = l->sub, .opened = l->opened, .fields = l->fields, .len = l->len};
    bool again;

    d.wants_answer = get_fields(c, &r, &d.message);
    again = deliver(c, &d);
    l->opened = d.opened;
    return !again;
}

/* A message of each tenant in turn, while this turn lasts; a function may pause, and what it makes come arrives behind. */
static void run_later(struct child *c)
{
    struct child_tenant *t;

    while (!c->paused && !c->turn_is_over && (t = ring_take(&c->ring))) {
        if (!deliver_later(c, t->later)) {
            rest(c, t);
            continue;
        }
        free(take_later(t));
        if (t->later)
            ring_add(&c->ring, t);
    }
}

void message_resume(struct child *c)
{
    run_soon(c);
}

void message_close_pause(struct child *c)
{
    c->pause_is_closed = true;
    if (c->paused)
        message_drop_later(c);
}

void message_drop_later(struct child *c)
{
    struct child_tenant *t;

    (void)uv_timer_stop(&c->again);
    (void)uv_idle_stop(&c->soon);
    wake_resting(c);
    while ((t = ring_take(&c->ring)))
        while (t->later) {
            struct child_later *l = take_later(t);

            tell_done(c, l->id, MUSTER_ELINK, false);
            free(l);
        }
}

/* ---- hold ------------------------------------------------------------------------------------------------------------------------- */

static void uncount(struct child *c, size_t n_bytes)
{
    atomic_fetch_sub(&c->n_held, 1);
    atomic_fetch_sub(&c->n_held_bytes, n_bytes);
}

static bool count(struct child *c, size_t n_bytes)
{
    size_t n = atomic_fetch_add(&c->n_held, 1), before = atomic_fetch_add(&c->n_held_bytes, n_bytes);

    if (n < HELD_MSGS && before + n_bytes <= held_bytes)
        return true;
    uncount(c, n_bytes);
    return false;
}

static struct child_held *held_new(struct child *c, const struct child_delivery *d)
{
    struct child_held *h = malloc(sizeof *h + d->len);
    struct frame_reader r;

    if (!h)
        return NULL;
    h->id = d->id;
    h->n_bytes = sizeof *h + d->len;
    h->refs = 0;
    h->done = false;
    memcpy(h->fields, d->fields, d->len);
    r = reader_of(h->fields, d->len);
    (void)get_fields(c, &r, &h->message);
    h->message.msg.request = d->message.msg.request;
    return h;
}

int message_hold(const struct muster_host *host, const struct muster_msg *msg, const struct muster_msg **ret_msg)
{
    struct child *c = child_of(host);
    struct child_delivery *d = c->running;

    if (!ON_LANE(&c->in))
        return MUSTER_EINVAL;
    if (!d || msg != &d->message.msg)
        return host->fail(host, MUSTER_EINVAL, "hold(): expected the message of the callback that runs");
    if (!count(c, sizeof *d->held + d->len))
        return MUSTER_EAGAIN;
    if (!d->held && !(d->held = held_new(c, d))) {
        uncount(c, sizeof *d->held + d->len);
        return MUSTER_ENOMEM;
    }
    pthread_mutex_lock(&c->lock);
    d->held->refs++;
    pthread_mutex_unlock(&c->lock);
    *ret_msg = &d->held->message.msg;
    return 0;
}

/* While its callback still runs, the end of that does the rest. */
void message_drop(const struct muster_host *host, const struct muster_msg *msg)
{
    struct child *c = child_of(host);
    struct child_held *h = (struct child_held *)(void *)((char *)(uintptr_t)msg - offsetof(struct child_held, message.msg));
    bool last;

    uncount(c, h->n_bytes);
    pthread_mutex_lock(&c->lock);
    last = --h->refs == 0 && h->done;
    if (last) {
        (void)idmap_take(&c->requests, h->id);
        (void)pipe_put(c->pipe, FRAME_DROP, h->id); /* without memory the parent keeps it until the child ends */
    }
    pthread_mutex_unlock(&c->lock);
    if (last)
        free(h);
}
