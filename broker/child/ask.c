/* Conversations with a child that lives for them alone; see ask.h. */
#include "child/ask.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "child/spawn.h"

enum { MAX_LOG_TEXT = 8192, WORDS_SIZE = 8192, READ_SIZE = 65536, MAX_UNHEARD = 2 * FRAME_MAX };
#define CRASH "muster: crash: " /* how the line of the crash handler begins, which stands before a backtrace */

struct talk {
    const struct ask *ask;
    struct spawn child;
    int64_t until_ns;
    struct buf out, in; /* one frame of ours; what it said, of which `used` bytes are done with */
    size_t used;
    char words[WORDS_SIZE]; /* the end of what it wrote to its standard error */
    size_t n_words;
    bool over; /* its socket has ended */
    char *why;
};

static int why_not(struct talk *t, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int why_not(struct talk *t, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(t->why, ASK_WHY_SIZE, fmt, ap);
    va_end(ap);
    return code;
}

/* ---- bytes ---------------------------------------------------------------------------------------------------------------------- */

static void keep_words(struct talk *t, const char *text, size_t len)
{
    size_t most = sizeof t->words / 2, gone;

    if (len > most) {
        text += len - most;
        len = most;
    }
    gone = t->n_words + len > sizeof t->words ? t->n_words + len - sizeof t->words : 0;
    memmove(t->words, t->words + gone, t->n_words - gone);
    t->n_words -= gone;
    memcpy(t->words + t->n_words, text, len);
    t->n_words += len;
}

static void read_words(struct talk *t)
{
    char text[READ_SIZE / 16];
    ssize_t n = read(t->child.err, text, sizeof text);

    if (n > 0) {
        keep_words(t, text, (size_t)n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        (void)close(t->child.err);
        t->child.err = -1; /* poll() passes it over */
    }
}

static void read_frames(struct talk *t)
{
    ssize_t n = -1;

    if (t->in.len - t->used > MAX_UNHEARD) { /* it talks, and does not listen */
        t->over = true;
        return;
    }
    if (buf_reserve(&t->in, READ_SIZE))
        n = recv(t->child.socket, t->in.data + t->in.len, READ_SIZE, MSG_DONTWAIT);
    if (n > 0)
        t->in.len += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        t->over = true;
}

/* Wait for either, until the end of the time. False: it is over. */
static bool wait_for(struct talk *t, short socket_events)
{
    struct pollfd ends[] = {{.fd = t->over ? -1 : t->child.socket, .events = socket_events}, {.fd = t->child.err, .events = POLLIN}};
    int64_t left = t->until_ns - clock_now_ns();

    if (left <= 0)
        return false;
    if (poll(ends, 2, (int)(left / CLOCK_MS) + 1) < 0)
        return errno == EINTR;
    if (ends[1].revents)
        read_words(t);
    if (ends[0].revents & (POLLIN | POLLHUP | POLLERR))
        read_frames(t);
    return true;
}

static int64_t patience(const struct ask *a)
{
    return a->patience_ns ? a->patience_ns : ASK_NS;
}

/* ---- how it ended --------------------------------------------------------------------------------------------------------------- */

/* Of the line that begins at at. */
static size_t line_len(const char *at, const char *end)
{
    const char *stop = memchr(at, '\n', (size_t)(end - at));

    return (size_t)((stop ? stop : end) - at);
}

/* The line of the crash handler, or else the last one; "" when it said nothing. */
static void last_words(const struct talk *t, struct buf *out)
{
    const char *crash = memmem(t->words, t->n_words, CRASH, sizeof CRASH - 1), *line;
    size_t end = t->n_words, begin, len;

    while (end && strchr("\n\r \t", t->words[end - 1]))
        end--;
    for (begin = end; begin && t->words[begin - 1] != '\n';)
        begin--;
    line = crash ? crash + sizeof CRASH - 1 : t->words + begin;
    len = crash ? line_len(line, t->words + t->n_words) : end - begin;
    if (!len)
        return;
    buf_put_lit(out, "; its last words: ");
    for (size_t i = 0; i < len && i < 200; i++)
        buf_putc(out, (unsigned char)line[i] < ' ' || line[i] == 0x7f ? ' ' : line[i]);
}

/* The socket ends before the process is gone, and the words may come after both. */
static int why_over(struct talk *t, const char *doing)
{
    char status_text[SPAWN_STATUS_SIZE];
    struct buf words = {0}, clean = {0};
    int status = 0;
    bool ended = t->over && spawn_wait(&t->child, t->until_ns, &status);

    for (int i = 0; i < 16 && t->child.err >= 0; i++)
        read_words(t);
    last_words(t, &words);
    utf8_put(&clean, words.data ? words.data : "", words.len);
    if (ended)
        (void)why_not(t, MUSTER_EINVAL, "ended while %s: %s%s", doing, spawn_status(status, status_text), clean.data ? clean.data : "");
    else
        (void)why_not(t, MUSTER_EINVAL, "said nothing of use within %lld s while %s%s", (long long)(patience(t->ask) / CLOCK_S), doing,
                      clean.data ? clean.data : "");
    buf_done(&words);
    buf_done(&clean);
    return MUSTER_EINVAL;
}

/* ---- frames --------------------------------------------------------------------------------------------------------------------- */

static int say(struct talk *t, const void *data, size_t len, const char *doing)
{
    const char *at = data;

    while (len && !t->over) {
        ssize_t n = send(t->child.socket, at, len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno != EAGAIN && errno != EINTR)
            t->over = true;
        else if (n < 0 && !wait_for(t, POLLIN | POLLOUT))
            return why_over(t, doing);
        at += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return 0; /* that it is over shows when it should answer */
}

static int say_frame(struct talk *t, struct frame *f, const char *doing)
{
    int err = frame_end(f);

    if (!err)
        err = say(t, f->buf->data, f->buf->len, doing);
    else
        (void)why_not(t, err, "no memory, or too much to tell the plugin");
    buf_clear(f->buf);
    return err;
}

/* The next frame, borrowed until the next one. */
static int hear(struct talk *t, struct frame_reader *ret_reader, const char *doing)
{
    size_t len = 0;
    int is;

    if (t->used) {
        memmove(t->in.data, t->in.data + t->used, t->in.len - t->used);
        t->in.len -= t->used;
        t->used = 0;
    }
    if (clock_now_ns() >= t->until_ns)
        return why_over(t, doing);
    while ((is = frame_peek((t->in.data ? t->in.data : "") + t->used, t->in.len - t->used, ret_reader, &len)) == 0)
        if (t->over || !wait_for(t, POLLIN))
            return why_over(t, doing);
    if (is < 0)
        return why_not(t, MUSTER_EINVAL, "said what is no frame while %s", doing);
    t->used += len;
    return 0;
}

static int refused(struct talk *t, struct frame_reader *r)
{
    int code = frame_get_i32(r);
    const char *why = frame_get_str(r);
    struct buf clean = {0};

    if (!frame_is_read(r) || code >= 0)
        return why_not(t, MUSTER_EINVAL, "refused its file in a frame that is cut");
    utf8_put(&clean, why ? why : "", why ? strlen(why) : 0);
    (void)why_not(t, code, "%s", clean.data ? clean.data : "");
    buf_done(&clean);
    return code;
}

static int begin(struct talk *t)
{
    struct frame f = frame_begin(&t->out, FRAME_SANDBOX, 0);

    frame_put_u32(&f, FRAME_VERSION);
    frame_put_str(&f, t->ask->file);
    sandbox_put(&f, t->ask->walls);
    return say_frame(t, &f, "its file was loaded");
}

static int hear_hello(struct talk *t, struct described **ret_described)
{
    char fault[DESCRIBE_WHY_SIZE];
    struct frame_reader r;
    uint32_t lacks;
    int err = begin(t);

    do { /* one that hangs says so, and has the time all the same */
        err = err ? err : hear(t, &r, "its file was loaded");
    } while (!err && (r.type == FRAME_LOG || r.type == FRAME_STALLED));
    if (err)
        return err;
    if (r.type == FRAME_REFUSED)
        return refused(t, &r);
    if (r.type != FRAME_HELLO || frame_get_u32(&r) != FRAME_VERSION)
        return why_not(t, MUSTER_EINVAL, "said %s, expected hello of version %d", frame_name(r.type), FRAME_VERSION);
    lacks = frame_get_u32(&r);
    err = describe_get(&r, ret_described, fault);
    if (err)
        return why_not(t, err, "%s", fault);
    (*ret_described)->lacks = lacks;
    return 0;
}

static void log_text(struct talk *t, struct frame_reader *r)
{
    uint32_t level = frame_get_u32(r);
    const char *text = frame_get_str(r);
    struct buf clean = {0};

    if (!text || level > MUSTER_LOG_DEBUG || !t->ask->log)
        return;
    utf8_put(&clean, text, strnlen(text, MAX_LOG_TEXT));
    if (clean.data)
        t->ask->log(t->ask->arg, (int)level, clean.data);
    buf_done(&clean);
}

/* What check() logs comes before its answer. */
static int hear_checked(struct talk *t, bool *ret_asked)
{
    struct frame_reader r;
    const char *reason;
    int code, err;

    do {
        err = hear(t, &r, "check() ran");
        if (!err && r.type == FRAME_LOG)
            log_text(t, &r);
    } while (!err && (r.type == FRAME_LOG || r.type == FRAME_STALLED));
    if (err)
        return err;
    code = frame_get_i32(&r);
    reason = frame_get_str(&r);
    if (r.type != FRAME_CHECKED || !frame_is_read(&r) || code > 0)
        return why_not(t, MUSTER_EINVAL, "said %s, expected checked", frame_name(r.type));
    *ret_asked = true;
    return why_not(t, code, "%s", reason && utf8_is_valid(reason, strlen(reason)) ? reason : "");
}

static int start(struct talk *t, const struct ask *a, char why[ASK_WHY_SIZE])
{
    char fault[SPAWN_WHY_SIZE];
    int err;

    *t = (struct talk){.ask = a, .until_ns = clock_now_ns() + patience(a), .why = why};
    err = spawn_start(a->instance, &t->child, fault);
    return err ? why_not(t, err, "%s", fault) : 0;
}

static void finish(struct talk *t)
{
    (void)spawn_kill(&t->child);
    spawn_done(&t->child);
    buf_done(&t->out);
    buf_done(&t->in);
}

int ask_describe(const struct ask *a, struct described **ret_described, char why[ASK_WHY_SIZE])
{
    struct talk t;
    int err = start(&t, a, why);

    if (err)
        return err;
    err = hear_hello(&t, ret_described);
    finish(&t);
    return err;
}

int ask_check(const struct ask *a, struct muster_bytes settings, bool *ret_asked, char why[ASK_WHY_SIZE])
{
    struct described *d = NULL;
    struct talk t;
    int err = start(&t, a, why);

    *ret_asked = false;
    if (err)
        return err;
    err = hear_hello(&t, &d);
    if (!err)
        err = say(&t, settings.data, settings.len, "check() ran");
    if (!err) {
        struct frame f = frame_begin(&t.out, FRAME_CHECK, 0);

        err = say_frame(&t, &f, "check() ran");
    }
    if (!err)
        err = hear_checked(&t, ret_asked);
    describe_free(d);
    finish(&t);
    return err;
}
