/* Own appends for own followers; see handover.h. */
#include "core/handover.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "metrics/metrics.h"

enum { MAX_SPARE = 16, MAX_SPARE_BYTES = 128 << 10 };

/* One reference for each who may read it. */
struct handed {
    struct handover *h;
    struct handed *next; /* of those that are not acknowledged, or spare */
    atomic_int refs;
    bool asks; /* its last one does: nothing is added */
    uint64_t first, last, connects;
    int64_t created_ns, wall_ns; /* of the stream; when it was acknowledged */
    struct buf msgs; /* records */
};

/* In front of where each name and each value begins, its subject, its headers and its payload. */
struct record {
    uint32_t size, n_headers, subject_at, payload_at, payload_len, reserved;
};

/* A stream that somebody here appends to, or follows. */
struct way {
    struct way *next;
    uint32_t refs;
    struct handover_in *ins;
    atomic_uint n_wanting;
    char stream[];
};

struct handover_out {
    struct handover *h;
    struct way *way;
    uint32_t refs;
    int64_t created_ns;          /* of the stream; 0: not known */
    uint64_t acked, sent;        /* up to here */
    uint64_t life;               /* how often sent did not go on where it was */
    struct handed *first, *last; /* not acknowledged yet */
    uint64_t n_msgs;
    size_t n_bytes;
};

struct waiting {
    struct waiting *next;
    struct handed *run;
};

/* Freed by handover_unfollow(), or by the item that is under way then. */
struct handover_in {
    struct lane_item item;
    struct handover_in *next;
    struct handover *h;
    struct way *way;
    struct handover_how how;
    bool dead; /* lane only */

    /* Under the lock. */
    struct waiting *first, **last;
    uint64_t n_msgs, n_offered;
    size_t n_bytes;
    bool wanted, missed, scheduled;
};

struct handover {
    pthread_mutex_t lock; /* guards these, and what is below them */
    struct way *ways;
    struct handed *spare; /* with their buffers */
    uint32_t n_spare;
    struct metric *handed, *dropped;
};

/* ---- runs ---------------------------------------------------------------------------------------------------------------------- */

static uint64_t n_of(const struct handed *run)
{
    return run->last - run->first + 1;
}

static void run_free(struct handed *run)
{
    buf_done(&run->msgs);
    free(run);
}

/* The lock is held. */
static void spare(struct handed *run)
{
    struct handover *h = run->h;

    if (h->n_spare == MAX_SPARE || run->msgs.cap > MAX_SPARE_BYTES) {
        run_free(run);
        return;
    }
    run->next = h->spare;
    h->spare = run;
    h->n_spare++;
}

/* The lock is held. */
static void run_unref_locked(struct handed *run)
{
    if (atomic_fetch_sub(&run->refs, 1) == 1)
        spare(run);
}

static void run_unref(struct handed *run)
{
    struct handover *h = run ? run->h : NULL;

    if (!run || atomic_fetch_sub(&run->refs, 1) != 1)
        return;
    pthread_mutex_lock(&h->lock);
    spare(run);
    pthread_mutex_unlock(&h->lock);
}

/* NULL: there is none. */
static struct handed *take_spare(struct handover *h)
{
    struct handed *run;

    pthread_mutex_lock(&h->lock);
    run = h->spare;
    if (run) {
        h->spare = run->next;
        h->n_spare--;
    }
    pthread_mutex_unlock(&h->lock);
    return run;
}

static struct handed *run_new(struct handover *h, uint64_t first, uint64_t connects)
{
    struct handed *run = take_spare(h);

    if (!run)
        run = calloc(1, sizeof *run);
    if (!run)
        return NULL;
    run->h = h;
    run->next = NULL;
    run->asks = false;
    buf_clear(&run->msgs);
    run->first = first;
    run->last = first - 1;
    run->connects = connects;
    atomic_init(&run->refs, 1);
    return run;
}

/* *place: where it begins. */
static void put_text(struct buf *b, const char *s, uint32_t *place, size_t begin)
{
    *place = (uint32_t)(b->len - begin);
    buf_put(b, s, strlen(s) + 1);
}

/* False: no memory. */
static bool run_put(struct handed *run, const struct bus_out *msg)
{
    static const char zeros[sizeof(uint64_t)];
    struct record r = {.n_headers = msg->n_headers, .payload_len = (uint32_t)msg->payload.len};
    uint32_t at[2 * BUS_MAX_HEADERS];
    struct buf *b = &run->msgs;
    size_t begin = b->len, at_size = 2 * msg->n_headers * sizeof *at;

    if (msg->n_headers > BUS_MAX_HEADERS || !buf_reserve(b, sizeof r + at_size + msg->payload.len))
        return false;
    buf_put(b, &r, sizeof r);
    buf_put(b, at, at_size);
    put_text(b, msg->subject, &r.subject_at, begin);
    for (uint32_t i = 0; i < msg->n_headers; i++) {
        put_text(b, msg->headers[i].name, &at[2 * i], begin);
        put_text(b, msg->headers[i].value, &at[2 * i + 1], begin);
    }
    r.payload_at = (uint32_t)(b->len - begin);
    buf_put(b, msg->payload.data, msg->payload.len);
    buf_put(b, zeros, sizeof zeros - b->len % sizeof zeros); /* a NUL behind it at least, as the library has it */
    if (buf_failed(b))
        return false;
    r.size = (uint32_t)(b->len - begin);
    memcpy(b->data + begin, &r, sizeof r);
    memcpy(b->data + begin + sizeof r, at, at_size);
    run->last++;
    return true;
}

int64_t handed_created(const struct handed *run)
{
    return run->created_ns;
}

struct handed_cursor handed_begin(struct handed *run)
{
    return (struct handed_cursor){run, 0, run->first};
}

bool handed_next(struct handed_cursor *c, struct muster_header *headers, uint32_t n, struct js_msg *ret_msg)
{
    const struct record *r;
    const uint32_t *at;
    const char *begin;

    if (!c->run || c->at >= c->run->msgs.len)
        return false;
    begin = c->run->msgs.data + c->at;
    r = (const struct record *)(const void *)begin; /* records begin at eights */
    at = (const uint32_t *)(r + 1);
    *ret_msg = (struct js_msg){.subject = begin + r->subject_at,
                               .seq = c->seq++,
                               .headers = headers,
                               .n_headers = r->n_headers < n ? r->n_headers : n,
                               .data = {begin + r->payload_at, r->payload_len},
                               .stored_wall_ns = c->run->wall_ns};
    for (uint32_t i = 0; i < ret_msg->n_headers; i++)
        headers[i] = (struct muster_header){begin + at[2 * i], begin + at[2 * i + 1]};
    c->at += r->size;
    return true;
}

void handed_end(struct handed_cursor *c)
{
    run_unref(c->run);
    *c = (struct handed_cursor){0};
}

/* ---- ways ---------------------------------------------------------------------------------------------------------------------- */

/* The lock is held. NULL: no memory. */
static struct way *get_way(struct handover *h, const char *stream)
{
    struct way *way = h->ways;
    size_t len = strlen(stream) + 1;

    while (way && strcmp(way->stream, stream) != 0)
        way = way->next;
    if (!way) {
        way = calloc(1, sizeof *way + len);
        if (!way)
            return NULL;
        memcpy(way->stream, stream, len);
        way->next = h->ways;
        h->ways = way;
    }
    way->refs++;
    return way;
}

/* The lock is held. */
static void put_way(struct handover *h, struct way *way)
{
    struct way **at = &h->ways;

    if (--way->refs)
        return;
    while (*at != way)
        at = &(*at)->next;
    *at = way->next;
    free(way);
}

/* ---- who follows ---------------------------------------------------------------------------------------------------------------- */

/* The lock is held. */
static void schedule(struct handover_in *in)
{
    if (in->scheduled)
        return;
    in->scheduled = true;
    lane_push(in->how.lane, &in->item);
}

/* The lock is held. NULL: nothing waits. */
static struct handed *pop(struct handover_in *in)
{
    struct waiting *w = in->first;
    struct handed *run;

    if (!w)
        return NULL;
    run = w->run;
    in->first = w->next;
    if (!in->first)
        in->last = &in->first;
    in->n_msgs -= n_of(run);
    in->n_bytes -= run->msgs.len;
    free(w);
    return run;
}

/* The lock is held. False: there is no room. */
static bool push(struct handover_in *in, struct handed *run)
{
    bool room = in->n_msgs + n_of(run) <= HANDOVER_MAX_MSGS && in->n_bytes + run->msgs.len <= HANDOVER_MAX_BYTES;
    struct waiting *w = room ? malloc(sizeof *w) : NULL;

    if (!w)
        return false;
    *w = (struct waiting){.run = run};
    atomic_fetch_add(&run->refs, 1);
    *in->last = w;
    in->last = &w->next;
    in->n_msgs += n_of(run);
    in->n_bytes += run->msgs.len;
    return true;
}

/* The lock is held. */
static void offer(struct handover_in *in, struct handed *run)
{
    if (!in->wanted)
        return;
    in->n_offered += n_of(run);
    if (in->missed || !push(in, run)) {
        in->missed = true;
        metric_add(in->h->dropped, NULL, (int64_t)n_of(run));
    }
    schedule(in);
}

static void run_in(struct lane_item *item)
{
    struct handover_in *in = (struct handover_in *)item;

    pthread_mutex_lock(&in->h->lock);
    in->scheduled = false;
    pthread_mutex_unlock(&in->h->lock);
    if (in->dead)
        free(in);
    else
        in->how.fn(in->how.arg); /* it may be freed in there */
}

static void drop_in(struct lane_item *item)
{
    struct handover_in *in = (struct handover_in *)item;

    if (in->dead)
        free(in);
}

int handover_follow(struct handover *h, const struct handover_how *how, struct handover_in **ret_in)
{
    struct handover_in *in = calloc(1, sizeof *in);

    if (!in)
        return MUSTER_ENOMEM;
    *in = (struct handover_in){.item = {.run = run_in, .drop = drop_in}, .h = h, .how = *how, .last = &in->first};
    pthread_mutex_lock(&h->lock);
    in->way = get_way(h, how->stream);
    if (in->way) {
        in->next = in->way->ins;
        in->way->ins = in;
    }
    pthread_mutex_unlock(&h->lock);
    in->how.stream = NULL; /* the caller's */
    if (!in->way) {
        free(in);
        return MUSTER_ENOMEM;
    }
    *ret_in = in;
    return 0;
}

/* The lock is held. */
static void set_wanted(struct handover_in *in, bool wanted)
{
    if (in->wanted != wanted)
        atomic_fetch_add(&in->way->n_wanting, wanted ? 1U : -1U);
    in->wanted = wanted;
    in->missed = false;
    while (!wanted && in->first)
        run_unref_locked(pop(in));
}

void handover_want(struct handover_in *in, bool wanted)
{
    pthread_mutex_lock(&in->h->lock);
    set_wanted(in, wanted);
    pthread_mutex_unlock(&in->h->lock);
}

void handover_unfollow(struct handover_in *in)
{
    struct handover_in **at;
    bool scheduled;

    if (!in)
        return;
    pthread_mutex_lock(&in->h->lock);
    set_wanted(in, false);
    for (at = &in->way->ins; *at != in; at = &(*at)->next)
        ;
    *at = in->next;
    put_way(in->h, in->way);
    scheduled = in->scheduled;
    in->dead = true;
    pthread_mutex_unlock(&in->h->lock);
    if (!scheduled)
        free(in);
}

void handover_again(struct handover_in *in)
{
    pthread_mutex_lock(&in->h->lock);
    schedule(in);
    pthread_mutex_unlock(&in->h->lock);
}

uint64_t handover_count(struct handover_in *in)
{
    uint64_t n;

    pthread_mutex_lock(&in->h->lock);
    n = in->n_offered;
    pthread_mutex_unlock(&in->h->lock);
    return n;
}

uint64_t handover_trim(struct handover_in *in, uint64_t from, int64_t created_wall_ns)
{
    uint64_t first;

    pthread_mutex_lock(&in->h->lock);
    while (in->first && (in->first->run->last < from || in->first->run->created_ns != created_wall_ns))
        run_unref_locked(pop(in));
    first = in->first ? in->first->run->first : 0;
    pthread_mutex_unlock(&in->h->lock);
    return first;
}

struct handed *handover_take(struct handover_in *in)
{
    struct handed *run;

    pthread_mutex_lock(&in->h->lock);
    run = pop(in);
    pthread_mutex_unlock(&in->h->lock);
    return run;
}

void handover_told(struct handover_in *in, uint64_t n)
{
    metric_add(in->h->handed, NULL, (int64_t)n);
}

bool handover_missed(struct handover_in *in)
{
    bool missed;

    pthread_mutex_lock(&in->h->lock);
    missed = in->missed;
    in->missed = false;
    pthread_mutex_unlock(&in->h->lock);
    return missed;
}

/* ---- who appends ---------------------------------------------------------------------------------------------------------------- */

struct handover_out *handover_open(struct handover *h, const char *stream)
{
    struct handover_out *out = calloc(1, sizeof *out);

    if (!out)
        return NULL;
    pthread_mutex_lock(&h->lock);
    out->way = get_way(h, stream);
    pthread_mutex_unlock(&h->lock);
    if (!out->way) {
        free(out);
        return NULL;
    }
    out->h = h;
    out->refs = 1;
    return out;
}

struct handover_out *handover_ref(struct handover_out *out)
{
    out->refs++;
    return out;
}

void handover_is_of(struct handover_out *out, int64_t created_wall_ns)
{
    out->created_ns = created_wall_ns;
    out->acked = 0;
}

static struct handed *shift(struct handover_out *out)
{
    struct handed *run = out->first;

    out->first = run->next;
    if (!out->first)
        out->last = NULL;
    out->n_msgs -= n_of(run);
    out->n_bytes -= run->msgs.len;
    return run;
}

static void give_up(struct handover_out *out)
{
    while (out->first)
        run_unref(shift(out));
    out->n_bytes = 0; /* of one that could not be copied whole a part was never counted */
}

void handover_unref(struct handover_out *out)
{
    if (!out || --out->refs)
        return;
    give_up(out);
    pthread_mutex_lock(&out->h->lock);
    put_way(out->h, out->way);
    pthread_mutex_unlock(&out->h->lock);
    free(out);
}

/* The run that a message goes into; NULL: no memory. */
static struct handed *run_for(struct handover_out *out, uint64_t seq, uint64_t connects)
{
    struct handed *run = out->last;

    if (run && !run->asks)
        return run;
    run = run_new(out->h, seq, connects);
    if (!run)
        return NULL;
    run->created_ns = out->created_ns;
    if (out->last)
        out->last->next = run;
    else
        out->first = run;
    out->last = run;
    return run;
}

static bool follows(const struct handover_out *out, uint64_t seq, uint64_t connects)
{
    return !out->last || (out->last->last + 1 == seq && out->last->connects == connects);
}

static bool has_room(const struct handover_out *out)
{
    return out->n_msgs < HANDOVER_MAX_MSGS && out->n_bytes < HANDOVER_MAX_BYTES;
}

/* It has begun again, so it is another one than was opened. */
static bool is_another(const struct handover_out *out, uint64_t seq)
{
    return out->created_ns && seq <= out->acked;
}

static void note_sent(struct handover_out *out, uint64_t seq)
{
    if (seq != out->sent + 1)
        out->life++;
    out->sent = seq;
}

/* False: nothing is kept. */
static bool keep(struct handover_out *out, const struct bus_out *msg, uint64_t seq, uint64_t connects)
{
    struct handed *run = has_room(out) ? run_for(out, seq, connects) : NULL;
    size_t before = run ? run->msgs.len : 0;

    if (!run || !run_put(run, msg))
        return false;
    out->n_msgs++;
    out->n_bytes += run->msgs.len - before;
    return true;
}

/* What was on its way over a link that is gone may be anywhere. */
uint64_t handover_sent(struct handover_out *out, const struct bus_out *msg, bool asks, uint64_t connects)
{
    uint64_t seq = (uint64_t)msg->fence + 1;
    bool wanted;

    note_sent(out, seq);
    if (is_another(out, seq)) {
        out->created_ns = 0;
        handover_failed(out);
    }
    wanted = out->created_ns && atomic_load_explicit(&out->way->n_wanting, memory_order_relaxed);
    if (!wanted || !follows(out, seq, connects))
        give_up(out);
    if (wanted && keep(out, msg, seq, connects)) {
        out->last->asks = asks;
    } else if (wanted) {
        metric_add(out->h->dropped, NULL, (int64_t)out->n_msgs + 1);
        give_up(out);
    }
    return out->life;
}

void handover_acked(struct handover_out *out, uint64_t life, uint64_t seq)
{
    if (life != out->life)
        return;
    out->acked = seq;
    while (out->first && out->first->asks && out->first->last <= seq) {
        struct handed *run = shift(out);

        run->wall_ns = clock_wall_ns();
        pthread_mutex_lock(&out->h->lock);
        for (struct handover_in *in = out->way->ins; in; in = in->next)
            offer(in, run);
        pthread_mutex_unlock(&out->h->lock);
        run_unref(run);
    }
}

void handover_failed(struct handover_out *out)
{
    give_up(out);
    pthread_mutex_lock(&out->h->lock);
    for (struct handover_in *in = out->way->ins; in; in = in->next) {
        in->missed = in->wanted;
        if (in->wanted)
            schedule(in);
    }
    pthread_mutex_unlock(&out->h->lock);
}

/* ---- life ---------------------------------------------------------------------------------------------------------------------- */

static int make_metrics(struct handover *h, struct metrics *metrics)
{
    const struct metric_spec handed = {.type = MUSTER_COUNTER,
                                       .name = "muster_stream_handed_over_total",
                                       .help = "Messages that this broker appended and its own followers of the stream had from memory."};
    const struct metric_spec dropped = {.type = MUSTER_COUNTER,
                                        .name = "muster_stream_not_handed_over_total",
                                        .help = "Messages that this broker appended and, for want of room, its own followers had to read from the stream."};
    int err = metrics_make(metrics, &handed, &h->handed);

    return err ? err : metrics_make(metrics, &dropped, &h->dropped);
}

int handover_new(struct metrics *metrics, struct handover **ret_handover)
{
    struct handover *h = calloc(1, sizeof *h);
    int err;

    if (!h)
        return MUSTER_ENOMEM;
    ASSERT(pthread_mutex_init(&h->lock, NULL) == 0);
    err = make_metrics(h, metrics);
    if (err)
        handover_free(h);
    else
        *ret_handover = h;
    return err;
}

void handover_free(struct handover *h)
{
    if (!h)
        return;
    while (h->spare) {
        struct handed *run = h->spare;

        h->spare = run->next;
        run_free(run);
    }
    (void)pthread_mutex_destroy(&h->lock);
    free(h);
}
