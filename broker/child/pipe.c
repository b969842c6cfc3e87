/*
 * One end of the socket pair; see pipe.h.
 *
 * Out: frames gather in `out`; before the loop waits (uv_prepare) they are swapped into `sending` and written, so that a turn of the
 * loop costs one write, whatever it had to say. From other threads the loop is woken first.
 */
#include "child/pipe.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"

enum { READ_SIZE = 256 << 10, TURN_FRAMES = 256 };

struct pipe {
    struct pipe_options how;
    pthread_t thread; /* of the loop, once it has run */
    atomic_bool knows_thread;
    uv_poll_t *poll;
    uv_prepare_t *prepare;
    uv_async_t *wake;
    uv_idle_t *more; /* frames are left in `in` */

    pthread_mutex_t lock; /* guards out, n_out, starved, ended */
    struct buf out;
    uint32_t n_out; /* frames in out and sending */
    bool starved;   /* somebody got MUSTER_EAGAIN */
    bool ended;

    pthread_mutex_t wire; /* held while it is written: pipe_flush() may be another thread's. Before the other lock */
    struct buf sending;   /* changed with both locks held */
    size_t sent;
    uint32_t n_sending;

    /* The loop's thread only. */
    char *in;
    size_t in_at, in_len, in_cap;
    bool refused, writing, freed;
    int waits_for;
    unsigned int depth; /* inside a callback of the loop: the memory stays until it returns */
};

static void on_ready(uv_poll_t *poll, int status, int events);
static void on_more(uv_idle_t *idle);

static void release(struct pipe *p)
{
    buf_done(&p->out);
    buf_done(&p->sending);
    free(p->in);
    (void)pthread_mutex_destroy(&p->lock);
    (void)pthread_mutex_destroy(&p->wire);
    free(p);
}

static void free_handle(uv_handle_t *handle)
{
    free(handle);
}

static void close_handles(struct pipe *p)
{
    uv_handle_t *handles[] = {(uv_handle_t *)p->poll, (uv_handle_t *)p->prepare, (uv_handle_t *)p->wake, (uv_handle_t *)p->more};

    for (size_t i = 0; i < sizeof handles / sizeof *handles; i++)
        if (handles[i])
            uv_close(handles[i], free_handle);
    p->poll = NULL;
    p->prepare = NULL;
    p->wake = NULL;
    p->more = NULL;
}

static void leave(struct pipe *p)
{
    if (--p->depth == 0 && p->freed)
        release(p);
}

static void end(struct pipe *p, const char *why)
{
    bool before;

    pthread_mutex_lock(&p->lock);
    before = p->ended;
    p->ended = true;
    pthread_mutex_unlock(&p->lock);
    if (before)
        return;
    (void)uv_poll_stop(p->poll);
    (void)uv_idle_stop(p->more);
    p->how.on_end(p->how.arg, why);
}

/* ---- out ------------------------------------------------------------------------------------------------------------------------ */

/* Wait for what can be used now: who may not read yet would be woken for ever. */
static void wait_again(struct pipe *p)
{
    bool reads = !p->refused && !uv_is_active((uv_handle_t *)p->more);
    int events = (reads ? UV_READABLE : 0) | (p->writing ? UV_WRITABLE : 0);

    if (p->ended || events == p->waits_for)
        return;
    p->waits_for = events;
    if (events)
        ASSERT(uv_poll_start(p->poll, events, on_ready) == 0);
    else
        (void)uv_poll_stop(p->poll);
}

/* Take what has gathered, once the last is written. */
static bool swap(struct pipe *p)
{
    struct buf empty = p->sending;

    if (p->sent < p->sending.len)
        return true;
    pthread_mutex_lock(&p->lock);
    p->n_out -= p->n_sending;
    buf_clear(&empty);
    p->sending = p->out;
    p->out = empty;
    p->n_sending = p->n_out;
    p->sent = 0;
    pthread_mutex_unlock(&p->lock);
    return p->sending.len > 0;
}

static bool is_half_free(const struct pipe *p)
{
    return p->n_out <= p->how.max_frames / 2 && p->out.len + p->sending.len - p->sent <= p->how.max_bytes / 2;
}

static void tell_room(struct pipe *p)
{
    bool tell;

    pthread_mutex_lock(&p->lock);
    tell = p->starved && is_half_free(p);
    if (tell)
        p->starved = false;
    pthread_mutex_unlock(&p->lock);
    if (tell && p->how.on_room)
        p->how.on_room(p->how.arg);
}

/* 1: written, 0: the socket is full, -1: the end. */
static int write_some(struct pipe *p)
{
    ssize_t n = send(p->how.fd, p->sending.data + p->sent, p->sending.len - p->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    if (n < 0 && errno != EINTR)
        return -1;
    pthread_mutex_lock(&p->lock);
    p->sent += n > 0 ? (size_t)n : 0;
    pthread_mutex_unlock(&p->lock);
    return 1;
}

/* All that waits. 1: it is written, 0: the socket is full, -1: the end. */
static int write_out(struct pipe *p)
{
    int wrote = 1;

    pthread_mutex_lock(&p->wire);
    while (wrote == 1 && swap(p))
        wrote = write_some(p);
    pthread_mutex_unlock(&p->wire);
    return wrote;
}

static void flush(struct pipe *p)
{
    int wrote = write_out(p);

    if (wrote < 0) {
        end(p, "the other end is gone");
        return;
    }
    p->writing = wrote == 0;
    wait_again(p);
    tell_room(p);
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct pipe *p = prepare->data;

    if (!atomic_load(&p->knows_thread)) {
        p->thread = pthread_self();
        atomic_store(&p->knows_thread, true);
    }
    p->depth++;
    if (!p->ended && !p->writing)
        flush(p);
    leave(p);
}

static void on_wake(uv_async_t *wake)
{
    (void)wake; /* the prepare that follows writes */
}

struct frame pipe_begin(struct pipe *p, uint16_t type, uint64_t id)
{
    pthread_mutex_lock(&p->lock);
    return frame_begin(&p->out, type, id);
}

static bool is_full(const struct pipe *p)
{
    return p->n_out >= p->how.max_frames || p->out.len + p->sending.len > p->how.max_bytes;
}

int pipe_end(struct pipe *p, struct frame *f, bool force)
{
    bool here = atomic_load(&p->knows_thread) && pthread_equal(p->thread, pthread_self());
    int err = frame_end(f);

    if (!err && p->ended)
        err = MUSTER_ELINK;
    else if (!err && !force && is_full(p))
        err = MUSTER_EAGAIN;
    if (err)
        p->out.len = f->start;
    else
        p->n_out++;
    if (err == MUSTER_EAGAIN)
        p->starved = true;
    if (!err && !here)
        (void)uv_async_send(p->wake); /* under the lock: pipe_free() has not passed it yet */
    pthread_mutex_unlock(&p->lock);
    return err;
}

int pipe_put(struct pipe *p, uint16_t type, uint64_t id)
{
    struct frame f = pipe_begin(p, type, id);

    return pipe_end(p, &f, true);
}

static bool is_wide(const struct pipe *p)
{
    return p->n_out < p->how.max_frames / 5 * 4 && p->out.len + p->sending.len < p->how.max_bytes / 5 * 4;
}

bool pipe_is_wide(struct pipe *p)
{
    bool wide;

    pthread_mutex_lock(&p->lock);
    wide = is_wide(p);
    pthread_mutex_unlock(&p->lock);
    return wide;
}

bool pipe_has_room(struct pipe *p)
{
    bool wide;

    pthread_mutex_lock(&p->lock);
    wide = is_wide(p);
    p->starved |= !wide;
    pthread_mutex_unlock(&p->lock);
    return wide;
}

size_t pipe_waiting(struct pipe *p)
{
    size_t bytes;

    pthread_mutex_lock(&p->lock);
    bytes = p->out.len + p->sending.len;
    pthread_mutex_unlock(&p->lock);
    return bytes;
}

void pipe_flush(struct pipe *p, int64_t deadline_ns)
{
    while (write_out(p) == 0) {
        int64_t left = deadline_ns - clock_now_ns();
        struct pollfd ready = {.fd = p->how.fd, .events = POLLOUT};

        if (left <= 0 || poll(&ready, 1, (int)(left / CLOCK_MS) + 1) < 0)
            return;
    }
}

/* ---- in ------------------------------------------------------------------------------------------------------------------------- */

/* Room for the rest of a frame, or for a read's worth. */
static bool make_room(struct pipe *p)
{
    char *more;

    if (p->in_at) {
        memmove(p->in, p->in + p->in_at, p->in_len - p->in_at);
        p->in_len -= p->in_at;
        p->in_at = 0;
    }
    if (p->in_cap - p->in_len >= READ_SIZE / 4)
        return true;
    more = p->in_cap < FRAME_MAX + READ_SIZE ? realloc(p->in, p->in_cap + READ_SIZE) : NULL;
    if (!more)
        return p->in_len < p->in_cap;
    p->in = more;
    p->in_cap += READ_SIZE;
    return true;
}

/* Hand over up to a turn's worth of frames. 1: more are here, 0: none is whole, -1: no frame. */
static int hand_over(struct pipe *p)
{
    int is = 1;

    for (int i = 0; i < TURN_FRAMES && is == 1 && !p->refused && !p->ended; i++) {
        struct frame_reader r;
        size_t len;

        is = frame_peek(p->in + p->in_at, p->in_len - p->in_at, &r, &len);
        if (is != 1)
            break;
        p->refused = !p->how.on_frame(p->how.arg, &r);
        if (!p->refused)
            p->in_at += len;
    }
    return is;
}

static void deliver(struct pipe *p)
{
    int is = hand_over(p);

    if (p->ended)
        return;
    if (is < 0) {
        end(p, "what it says is no frame");
        return;
    }
    if (is == 1 && !p->refused)
        ASSERT(uv_idle_start(p->more, on_more) == 0);
    else
        (void)uv_idle_stop(p->more);
    wait_again(p);
}

static void on_more(uv_idle_t *idle)
{
    struct pipe *p = idle->data;

    p->depth++;
    deliver(p);
    leave(p);
}

static void read_some(struct pipe *p)
{
    ssize_t n;

    if (!make_room(p)) {
        end(p, "no memory for what it says");
        return;
    }
    n = recv(p->how.fd, p->in + p->in_len, p->in_cap - p->in_len, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
        end(p, "the other end is gone");
        return;
    }
    p->in_len += n > 0 ? (size_t)n : 0;
    deliver(p);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    struct pipe *p = poll->data;

    p->depth++;
    if (!status && events & UV_WRITABLE)
        flush(p);
    if (!p->ended && (status || events & UV_READABLE))
        read_some(p);
    leave(p);
}

static void turn(struct pipe *p, int64_t deadline_ns)
{
    struct pollfd ready = {.fd = p->how.fd, .events = (short)(POLLIN | (p->writing ? POLLOUT : 0))};
    int64_t left = deadline_ns - clock_now_ns();

    if (uv_is_active((uv_handle_t *)p->more))
        deliver(p);
    else if (poll(&ready, 1, left > 0 ? (int)(left / CLOCK_MS) + 1 : 0) > 0 && ready.revents & ~POLLOUT)
        read_some(p);
}

int pipe_pump(struct pipe *p, int64_t deadline_ns)
{
    int err;

    p->depth++;
    if (!p->ended)
        flush(p);
    if (!p->ended && !p->refused)
        turn(p, deadline_ns);
    err = p->ended ? MUSTER_ELINK : p->refused ? MUSTER_EAGAIN : clock_now_ns() >= deadline_ns ? MUSTER_ETIME : 0;
    leave(p);
    return err;
}

void pipe_resume(struct pipe *p)
{
    if (!p->refused || p->ended)
        return;
    p->refused = false;
    ASSERT(uv_idle_start(p->more, on_more) == 0);
}

/* ---- life ----------------------------------------------------------------------------------------------------------------------- */

static int make_handles(struct pipe *p)
{
    p->poll = calloc(1, sizeof *p->poll);
    p->prepare = calloc(1, sizeof *p->prepare);
    p->wake = calloc(1, sizeof *p->wake);
    p->more = calloc(1, sizeof *p->more);
    if (!p->poll || !p->prepare || !p->wake || !p->more || uv_poll_init(p->how.loop, p->poll, p->how.fd) != 0) {
        free(p->poll);
        free(p->prepare);
        free(p->wake);
        free(p->more);
        return MUSTER_ENOMEM;
    }
    p->poll->data = p->prepare->data = p->wake->data = p->more->data = p;
    ASSERT(uv_prepare_init(p->how.loop, p->prepare) == 0 && uv_idle_init(p->how.loop, p->more) == 0);
    ASSERT(uv_async_init(p->how.loop, p->wake, on_wake) == 0 && uv_prepare_start(p->prepare, on_prepare) == 0);
    wait_again(p);
    return 0;
}

int pipe_new(const struct pipe_options *options, struct pipe **ret_pipe)
{
    struct pipe *p = calloc(1, sizeof *p);
    int err = p ? 0 : MUSTER_ENOMEM;

    if (err)
        return err;
    p->how = *options;
    err = make_handles(p);
    if (err) {
        free(p);
        return err;
    }
    ASSERT(pthread_mutex_init(&p->lock, NULL) == 0 && pthread_mutex_init(&p->wire, NULL) == 0);
    *ret_pipe = p;
    return 0;
}

void pipe_free(struct pipe *p)
{
    if (!p || p->freed)
        return;
    pthread_mutex_lock(&p->lock);
    p->ended = true;
    pthread_mutex_unlock(&p->lock);
    close_handles(p);
    (void)close(p->how.fd);
    p->freed = true;
    if (!p->depth)
        release(p);
}
