/*
 * The process of one plugin; see program.h. The main thread builds the walls before there is another thread, then watches: the lane, which has
 * everything else, and the socket, whose end ends the process however long a callback of the plugin's runs.
 */
#include "child/program.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "child/host.h"
#include "child/platform.h"
#include "child/sandbox.h"
#include "child/spawn.h"
#include "core/crash.h"
#include "core/lane.h"
#include "core/watch.h"

enum { LOOK_MS = 100 };
static const int64_t tell_again_ns = 500 * CLOCK_MS, last_words_ns = CLOCK_S;

/* ---- before there are frames ------------------------------------------------------------------------------------------------------ */

/* All len bytes, or false. */
static bool read_all(int fd, void *out, size_t len)
{
    char *at = out;

    while (len) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        ssize_t n = poll(&ready, 1, -1) < 0 ? -1 : recv(fd, at, len, MSG_DONTWAIT);

        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
            return false;
        at += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* The first frame and nothing behind it, which the pipe will read. *ret_memory is owned. */
static bool read_frame(int fd, struct frame_reader *ret_reader, char **ret_memory)
{
    uint32_t behind;
    size_t whole;
    char *memory;

    if (!read_all(fd, &behind, sizeof behind) || behind < FRAME_HEADER - sizeof behind || behind > FRAME_MAX - sizeof behind)
        return false;
    memory = malloc(sizeof behind + behind);
    if (!memory)
        return false;
    memcpy(memory, &behind, sizeof behind);
    if (read_all(fd, memory + sizeof behind, behind) && frame_peek(memory, sizeof behind + behind, ret_reader, &whole) == 1) {
        *ret_memory = memory;
        return true;
    }
    free(memory);
    return false;
}

/* Who started this without a socket is a person. */
static int refuse(const char *why)
{
    fprintf(stderr, "musterd: plugin host: %s\n", why);
    return 1;
}

/* The frame REFUSED, before there is a pipe. Where it does not go out whole, the broker sees the end of the process. */
static int tell_refused(int code, const char *why)
{
    struct buf out = {0};
    struct frame f = frame_begin(&out, FRAME_REFUSED, 0);

    frame_put_i32(&f, code);
    frame_put_str(&f, why);
    if (frame_end(&f) == 0)
        (void)send(SPAWN_FD, out.data, out.len, MSG_NOSIGNAL);
    buf_done(&out);
    return 1;
}

/* LeakSanitizer stops a process with ptrace(), which goes through no wall: a test that seeks leaks has a child without any, and only where
 * the program was built for that. */
static bool may_go_without(void)
{
    return PLATFORM_SANITIZED && getenv("MUSTER_SEEK_LEAKS");
}

static int build_walls(struct frame_reader *r, const char *file, uint32_t *ret_lacks)
{
    struct arena memory = {0};
    struct sandbox walls;
    char why[SANDBOX_WHY_SIZE] = "what the broker says of its walls is not understood";
    int err = sandbox_get(r, &walls, &memory);

    if (may_go_without())
        *ret_lacks = (1u << SANDBOX_N_LACKS) - 1;
    else if (!err)
        err = sandbox_build(&walls, file, ret_lacks, why);
    arena_done(&memory);
    return err ? tell_refused(err, why) : 0;
}

/* ---- the watch -------------------------------------------------------------------------------------------------------------------- */

struct watched {
    int64_t busy_ns, told_ns; /* of the callback that ran when it was last looked at */
};

/* The lane hangs, so its own writing does, too. */
static void tell_stalled(struct child *c, const struct lane_crumb *who, int64_t busy_ns)
{
    struct frame f = pipe_begin(c->pipe, FRAME_STALLED, 0);

    frame_put_str(&f, who->callback);
    frame_put_str(&f, who->subject);
    frame_put_i64(&f, busy_ns);
    (void)pipe_end(c->pipe, &f, false); /* told again */
    pipe_flush(c->pipe, 0);
}

static void look_at(struct child *c, struct watched *w)
{
    struct lane_crumb who = {0};
    int64_t ns = lane_busy(c->in.lane, &who);

    if (ns < w->busy_ns)
        w->told_ns = 0;
    w->busy_ns = ns;
    if (ns < WATCH_WARN_NS || (w->told_ns && ns - w->told_ns < tell_again_ns))
        return;
    w->told_ns = ns;
    tell_stalled(c, &who, ns);
}

/* Until the plugin is gone. The end of the socket needs no lane to be seen. */
static void watch(struct child *c, int fd)
{
    struct watched w = {0};

    while (!atomic_load(&c->is_through)) {
        struct pollfd end = {.fd = fd, .events = POLLRDHUP};

        if (poll(&end, 1, LOOK_MS) > 0 && !atomic_load(&c->is_through))
            _exit(1);
        look_at(c, &w);
    }
}

/* ---- the process ------------------------------------------------------------------------------------------------------------------ */

struct load {
    struct lane_item item;
    struct child *child;
};

static void run_load(struct lane_item *item)
{
    child_load(((struct load *)item)->child);
}

static int serve(const char *file, uint32_t lacks)
{
    struct child *c;
    struct load load = {.item = {.run = run_load}};
    int err = child_new(file, SPAWN_FD, &c);

    if (err)
        return tell_refused(err, "no memory for the host of a plugin");
    c->lacks = lacks;
    load.child = c;
    lane_push(c->in.lane, &load.item);
    err = lane_start(c->in.lane);
    if (!err)
        watch(c, SPAWN_FD);
    lane_stop(c->in.lane);
    pipe_flush(c->pipe, clock_now_ns() + last_words_ns);
    child_free(c);
    return err ? tell_refused(err, "no thread for a lane") : 0;
}

int program_run(void)
{
    struct frame_reader first;
    uint32_t lacks = 0;
    const char *file;
    char *memory;
    int code;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* where it fails, the end of the socket ends the process */
    crash_install("the child of a plugin, outside of its callbacks");
    log_setup(false, LOG_DEBUG); /* the broker chooses */
    (void)signal(SIGPIPE, SIG_IGN);
    if (!read_frame(SPAWN_FD, &first, &memory))
        return refuse("descriptor 3 is no socket of a broker; this option is the broker's own");
    if (first.type != FRAME_SANDBOX || frame_get_u32(&first) != FRAME_VERSION || !(file = frame_get_str(&first)))
        code = tell_refused(MUSTER_EABI, "the broker that started it speaks otherwise: was the program replaced under it?");
    else
        code = build_walls(&first, file, &lacks);
    if (!code)
        code = serve(file, lacks);
    free(memory);
    return code;
}
