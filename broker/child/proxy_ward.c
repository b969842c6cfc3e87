/* One child: its process, what it may say when, and its end; see proxy.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "child/proxy_parts.h"
#include "wire/text.h"

#define CRASH_WORDS "muster: crash: " /* core/crash.c */
enum { WAIT_MS = 5, MAX_LAST_PIECES = 64 };
#define TURN_NS (20 * CLOCK_MS) /* without the loop its standard error and its share of the machine are looked at so often */

static void read_last_words(struct ward *c);

/* ---- out ------------------------------------------------------------------------------------------------------------------------ */

/* One that is over in the midst of something is told the rest into a void. */
struct frame ward_begin(struct ward *c, uint16_t type, uint64_t id)
{
    return c->pipe ? pipe_begin(c->pipe, type, id) : frame_begin(&c->nowhere, type, id);
}

void ward_end(struct ward *c, struct frame *f)
{
    int err = f->buf == &c->nowhere ? MUSTER_ELINK : pipe_end(c->pipe, f, true);

    buf_clear(&c->nowhere);
    if (!err && pipe_waiting(c->pipe) > MAX_UNREAD)
        ward_kill(c, "it does not read what it asked for: %zu bytes wait", MAX_UNREAD);
    if (err && err != MUSTER_ELINK) /* whose end will be seen */
        ward_kill(c, "it cannot be told something (error %d)", err);
}

void ward_put(struct ward *c, uint16_t type, uint64_t id)
{
    struct frame f = ward_begin(c, type, id);

    ward_end(c, &f);
}

/* ---- the end --------------------------------------------------------------------------------------------------------------------- */

static void say_why(struct ward *c, const char *fmt, va_list ap)
{
    char raw[PROXY_WHY_SIZE];

    if (c->why[0])
        return;
    (void)vsnprintf(raw, sizeof raw, fmt, ap);
    (void)text_clean(raw, strlen(raw), c->why, sizeof c->why);
}

static void be_over(struct ward *c)
{
    if (c->state == WARD_OVER)
        return;
    ward_set_state(c, WARD_OVER);
    pipe_free(c->pipe);
    c->pipe = NULL;
    c->brakes = false; /* its number may soon be another's */
    proxy_child_over(c);
}

void ward_kill(struct ward *c, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say_why(c, fmt, ap);
    va_end(ap);
    if (c->process.pid)
        (void)kill(c->process.pid, SIGKILL); /* it is not reaped: the number is still its own */
    be_over(c);
}

enum taken ward_breach(struct ward *c, const char *fmt, ...)
{
    const struct muster_plugin *plugin = c->proxy->how.plugin;
    char text[PROXY_WHY_SIZE], line[PROXY_WHY_SIZE + 128];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)snprintf(line, sizeof line, "plugin %s %s tried what it may not: %s; its process is ended", plugin->name, plugin->version, text);
    c->proxy->how.hooks->log(c->proxy->how.arg, LOG_ERROR, line);
    ward_kill(c, "it tried what it may not: %s", text);
    return BROKEN;
}

static void on_end(void *arg, const char *why)
{
    struct ward *c = arg;

    if (strcmp(why, "the other end is gone") != 0) {
        (void)ward_breach(c, "%s", why);
        return;
    }
    be_over(c);
}

static void tell_status(struct ward *c, int status)
{
    char what[SPAWN_STATUS_SIZE];
    size_t len = strlen(c->why);

    (void)snprintf(c->why + len, sizeof c->why - len, "%sits process ended by %s%s%s", len ? "; " : "", spawn_status(status, what),
                   c->words[0] ? "; its last words: " : "", c->words);
}

bool ward_reap(struct ward *c)
{
    int status;

    if (!c->process.pid)
        return true;
    (void)ward_read_err(c);
    if (spawn_reap(&c->process, &status)) {
        read_last_words(c);
        if (!c->why[0])
            tell_status(c, status);
        return true;
    }
    if (clock_now_ns() - c->since_ns > LINGER_NS)
        (void)kill(c->process.pid, SIGKILL); /* it closed its socket and lives on */
    return false;
}

void ward_wait(struct ward *c)
{
    while (!ward_reap(c)) {
        struct pollfd ended = {.fd = c->process.pidfd, .events = POLLIN};

        (void)poll(&ended, 1, WAIT_MS);
    }
}

/* ---- standard error ------------------------------------------------------------------------------------------------------------- */

static void take_line(struct ward *c)
{
    if (!c->line_len)
        return;
    c->line[c->line_len] = '\0';
    if (strncmp(c->words, CRASH_WORDS, sizeof CRASH_WORDS - 1) != 0) /* what comes behind those is a backtrace */
        (void)text_clean(c->line, c->line_len, c->words, sizeof c->words);
    ward_log(c, LOG_WARN, c->line);
    c->line_len = 0;
}

/* What is longer than a line may be goes on in the next one. */
static void take_text(struct ward *c, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '\n' && text[i] != '\0')
            c->line[c->line_len++] = text[i];
        if (text[i] == '\n' || c->line_len == sizeof c->line - 1)
            take_line(c);
    }
}

static void close_err(struct ward *c)
{
    if (c->err_watch)
        c->proxy->io->unwatch(c->proxy->host, c->err_watch);
    c->err_watch = 0;
    if (c->process.err >= 0)
        (void)close(c->process.err);
    c->process.err = -1;
}

bool ward_read_err(struct ward *c)
{
    char text[4096];
    ssize_t n;

    if (c->process.err < 0)
        return false;
    n = read(c->process.err, text, sizeof text);
    if (n > 0)
        take_text(c, text, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        take_line(c);
        close_err(c);
    }
    return n > 0;
}

/* What the pipe still has of a process that has ended. */
static void read_last_words(struct ward *c)
{
    for (int i = 0; i < MAX_LAST_PIECES && ward_read_err(c);)
        i++;
}

static void on_err(void *arg, uint32_t events)
{
    (void)events;
    (void)ward_read_err(arg);
}

int ward_watch(struct ward *c)
{
    struct proxy *p = c->proxy;

    return c->process.err < 0 ? 0 : p->io->watch(p->host, c->process.err, MUSTER_READABLE, on_err, c, &c->err_watch);
}

/* ---- its life ------------------------------------------------------------------------------------------------------------------- */

void ward_hear(struct ward *c)
{
    c->heard_ns = clock_now_ns();
    c->stopped_ns = throttle_stopped_ns(&c->throttle, c->heard_ns);
}

void ward_resume(struct ward *c)
{
    if (c->pipe)
        pipe_resume(c->pipe);
}

void ward_set_state(struct ward *c, enum ward_state state)
{
    c->state = state;
    c->since_ns = clock_now_ns();
    ward_hear(c);
}

static int code_of(int32_t code)
{
    return code >= MUSTER_ELINK && code <= 0 ? code : MUSTER_EINVAL;
}

enum taken ward_malformed(struct ward *c, const struct frame_reader *r)
{
    return ward_breach(c, "its frame \"%s\" is malformed", frame_name(r->type));
}

static void send_settings(struct ward *c)
{
    const struct proxy_options *how = c->how;
    struct frame f = ward_begin(c, FRAME_SETTINGS, 0);

    how->hooks->put_settings(how->arg, &f);
    ward_end(c, &f);
}

static enum taken take_hello(struct ward *c, struct frame_reader *r)
{
    const struct proxy_options *how = c->how;
    char why[PROXY_WHY_SIZE];

    if (frame_get_u32(r) != FRAME_VERSION)
        return ward_malformed(c, r);
    c->lacks = frame_get_u32(r);
    if (r->bad)
        return ward_malformed(c, r);
    if (how->hooks->is_same(how->arg, r, why) != 0) {
        ward_kill(c, "%s", why);
        return BROKEN;
    }
    ward_set_state(c, WARD_CREATING);
    send_settings(c);
    if (c->state == WARD_CREATING)
        ward_put(c, FRAME_CREATE, 0);
    return TAKEN;
}

static enum taken refuse(struct ward *c, struct frame_reader *r, const char *what)
{
    int code = code_of(frame_get_i32(r));
    const char *why = frame_get_str(r);

    if (!frame_is_read(r))
        return ward_malformed(c, r);
    if (!code)
        return TAKEN;
    c->code = code;
    if (!why || !why[0])
        why = "it gave no reason";
    if (what)
        ward_kill(c, "%s failed (%d): %s", what, code, why);
    else
        ward_kill(c, "%s", why);
    return BROKEN;
}

static enum taken take_refused(struct ward *c, struct frame_reader *r)
{
    enum taken is = refuse(c, r, NULL);

    return is == TAKEN ? ward_malformed(c, r) : is; /* a refusal with code 0 */
}

static enum taken take_created(struct ward *c, struct frame_reader *r)
{
    enum taken is = refuse(c, r, "create()");

    if (is == TAKEN) {
        ward_set_state(c, WARD_CREATED);
        proxy_child_created(c);
    }
    return is;
}

static enum taken take_started(struct ward *c, struct frame_reader *r)
{
    enum taken is = refuse(c, r, "start()");

    if (is == TAKEN) {
        ward_set_state(c, WARD_RUNNING);
        proxy_child_started(c);
    }
    return is;
}

static enum taken take_reloaded(struct ward *c, struct frame_reader *r)
{
    int code = code_of(frame_get_i32(r));
    const char *reason = frame_get_str(r);

    if (!frame_is_read(r))
        return ward_malformed(c, r);
    if (!c->is_reloading)
        return ward_breach(c, "it was not asked to reload anything");
    c->is_reloading = false;
    c->code = code;
    (void)snprintf(c->reason, sizeof c->reason, "%s", reason ? reason : "");
    return TAKEN;
}

static enum taken take_pong(struct ward *c, struct frame_reader *r)
{
    if (!frame_is_read(r) || r->id > c->pings)
        return ward_malformed(c, r);
    ward_hear(c);
    return TAKEN;
}

static enum taken take_stalled(struct ward *c, struct frame_reader *r)
{
    const char *callback = frame_get_str(r), *subject = frame_get_str(r);

    (void)frame_get_i64(r);
    if (!frame_is_read(r))
        return ward_malformed(c, r);
    (void)text_clean(callback ? callback : "", callback ? strlen(callback) : 0, c->stalled_in, sizeof c->stalled_in);
    (void)text_clean(subject ? subject : "", subject ? strlen(subject) : 0, c->stalled_on, sizeof c->stalled_on);
    return TAKEN;
}

static enum taken take_drained(struct ward *c, struct frame_reader *r)
{
    if (!frame_is_read(r))
        return ward_malformed(c, r);
    c->is_drained = true;
    proxy_look_at_retiring(c->proxy);
    return TAKEN;
}

static enum taken take_nothing(struct ward *c, struct frame_reader *r)
{
    return frame_is_read(r) ? TAKEN : ward_malformed(c, r);
}

#define IN(state) (1u << (state))
#define CALLED (IN(WARD_STARTING) | IN(WARD_RUNNING) | IN(WARD_DRAINING) | IN(WARD_ENDING))
#define MADE (CALLED | IN(WARD_CREATED))
#define LOADED (MADE | IN(WARD_CREATING))
#define ALIVE (LOADED | IN(WARD_LOADING))

static const struct rule {
    enum taken (*take)(struct ward *c, struct frame_reader *r); /* NULL: only the broker says it */
    unsigned int states;
    bool is_paced; /* limits.messages counts it */
} rules[FRAME_N_TYPES] = {
    [FRAME_HELLO] = {take_hello, IN(WARD_LOADING), false},
    [FRAME_REFUSED] = {take_refused, IN(WARD_LOADING), false},
    [FRAME_CREATED] = {take_created, IN(WARD_CREATING), false},
    [FRAME_STARTED] = {take_started, IN(WARD_STARTING), false},
    [FRAME_RELOADED] = {take_reloaded, IN(WARD_RUNNING) | IN(WARD_DRAINING), false},
    [FRAME_DRAINED] = {take_drained, IN(WARD_DRAINING) | IN(WARD_ENDING), false},
    [FRAME_GONE] = {take_nothing, IN(WARD_ENDING), false},
    [FRAME_PONG] = {take_pong, CALLED, false},
    [FRAME_STALLED] = {take_stalled, LOADED, false},
    [FRAME_LOG] = {take_log, ALIVE, false},
    [FRAME_HEALTH] = {take_health, LOADED, false},
    [FRAME_METRIC_MAKE] = {take_metric_make, IN(WARD_CREATING), false},
    [FRAME_METRIC] = {take_metric, LOADED, false},
    [FRAME_SUBSCRIBE] = {take_subscribe, CALLED, false},
    [FRAME_UNSUBSCRIBE] = {take_unsubscribe, CALLED, false},
    [FRAME_PAUSE] = {take_pause, CALLED, false},
    [FRAME_DONE] = {take_done, CALLED, false},
    [FRAME_DROP] = {take_drop, CALLED, false},
    [FRAME_REPLY] = {take_reply, CALLED, false},
    [FRAME_REPLY_ERROR] = {take_reply_error, CALLED, false},
    [FRAME_PUBLISH] = {take_publish, LOADED, true},
    [FRAME_REQUEST] = {take_request, CALLED, true},
    [FRAME_STREAM_OPEN] = {take_stream_open, CALLED, true},
    [FRAME_STREAM_CLOSE] = {take_stream_close, CALLED, false},
    [FRAME_STREAM_INFO] = {take_stream_info, CALLED, true},
    [FRAME_STREAM_LAST] = {take_stream_last, CALLED, true},
    [FRAME_STREAM_READ] = {take_stream_read, CALLED, true},
    [FRAME_APPEND] = {take_append, CALLED, true},
    [FRAME_KV_GET] = {take_kv_get, CALLED, true},
    [FRAME_KV_PUT] = {take_kv_put, CALLED, true},
    [FRAME_KV_DEL] = {take_kv_del, CALLED, true},
    [FRAME_KV_SCAN] = {take_kv_scan, CALLED, true},
    [FRAME_LEASE] = {take_lease, CALLED, false},
    [FRAME_LEASE_RELEASE] = {take_lease_release, CALLED, false},
    [FRAME_SYS_WATCH] = {take_sys_watch, CALLED, false},
    [FRAME_SYS_UNWATCH] = {take_sys_unwatch, CALLED, false},
    [FRAME_SYS_LIST] = {take_sys_list, CALLED, true},
    [FRAME_SYS_KICK] = {take_sys_kick, CALLED, true},
    [FRAME_REFRESH] = {take_refresh, CALLED, true},
};

static bool on_frame(void *arg, struct frame_reader *r)
{
    static const char *const states[] = {"it loads its file", "it is created",   "it was created", "it is started",
                                         "it runs",           "it is drained",   "it is destroyed"};
    struct ward *c = arg;
    const struct rule *rule = &rules[r->type];
    size_t bytes = (size_t)(r->end - r->at);
    bool is_paced;
    enum taken is;

    if (c->state == WARD_OVER)
        return true;
    if (!rule->take || !(rule->states & IN(c->state))) {
        (void)ward_breach(c, "its frame \"%s\" may not come%s%s", frame_name(r->type), rule->take ? " while " : ": only the broker says it",
                           rule->take ? states[c->state] : "");
        return true;
    }
    is_paced = rule->is_paced && c->state >= WARD_STARTING; /* nothing goes out before */
    is = is_paced && !pace_admits(c) ? LATER : rule->take(c, r);
    if (is == TAKEN && is_paced)
        pace_count(c, bytes);
    if (is != BROKEN)
        c->refusing = is == LATER;
    return is != LATER;
}

/* ---- beginning ------------------------------------------------------------------------------------------------------------------ */

static void send_sandbox(struct ward *c)
{
    const struct proxy_options *how = c->how;
    struct frame f = ward_begin(c, FRAME_SANDBOX, 0);

    frame_put_u32(&f, FRAME_VERSION);
    how->hooks->put_sandbox(how->arg, &f);
    ward_end(c, &f);
}

static void on_room(void *arg)
{
    ward_resume(arg);
}

static int open_pipe(struct ward *c)
{
    const struct pipe_options options = {.loop = c->how->loop,
                                         .fd = c->process.socket,
                                         .max_frames = PIPE_FRAMES,
                                         .max_bytes = PIPE_BYTES,
                                         .on_frame = on_frame,
                                         .on_room = on_room,
                                         .on_end = on_end,
                                         .arg = c};
    int err = pipe_new(&options, &c->pipe);

    if (!err)
        c->process.socket = -1; /* the pipe's */
    return err;
}

int ward_new(struct proxy *p, const struct proxy_options *how, struct ward **ret_child, char why[PROXY_WHY_SIZE])
{
    struct ward *c = calloc(1, sizeof *c);
    int err;

    if (!c) {
        (void)snprintf(why, PROXY_WHY_SIZE, "no memory");
        return MUSTER_ENOMEM;
    }
    c->proxy = p;
    c->how = how;
    if (child_limits_init(&c->limits, how->plugin) != 0) {
        (void)snprintf(why, PROXY_WHY_SIZE, "no memory");
        free(c);
        return MUSTER_ENOMEM;
    }
    err = how->hooks->spawn(how->arg, &c->process, why);
    if (err) {
        child_limits_done(&c->limits);
        free(c);
        return err;
    }
    err = open_pipe(c);
    if (err) {
        (void)snprintf(why, PROXY_WHY_SIZE, "no memory");
        c->state = WARD_OVER;
        ward_free(c);
        return err;
    }
    ward_set_state(c, WARD_LOADING);
    send_sandbox(c);
    *ret_child = c;
    return 0;
}

void ward_pump(struct ward *c, int64_t deadline_ns)
{
    int64_t soon_ns = clock_now_ns() + TURN_NS;
    int err = pipe_pump(c->pipe, soon_ns < deadline_ns ? soon_ns : deadline_ns);

    if (err == MUSTER_EAGAIN) { /* what would tell that there is room is the loop's: look again */
        (void)poll(NULL, 0, WAIT_MS);
        ward_resume(c);
    }
    (void)ward_read_err(c);
    if (c->brakes)
        (void)throttle_tick(&c->throttle, clock_now_ns());
}

int ward_run_until(struct ward *c, enum ward_state state, int64_t deadline_ns)
{
    while (c->state < state) {
        ward_pump(c, deadline_ns);
        if (c->state < state && clock_now_ns() >= deadline_ns)
            return MUSTER_ETIME;
    }
    return c->state == WARD_OVER && state != WARD_OVER ? MUSTER_ELINK : 0;
}

void ward_free(struct ward *c)
{
    if (!c)
        return;
    (void)spawn_kill(&c->process);
    close_err(c);
    spawn_done(&c->process);
    pipe_free(c->pipe);
    buf_done(&c->nowhere);
    free(c);
}
