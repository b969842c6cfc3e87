/*
 * The broker's log; see log.h. Owns stderr; any thread.
 *
 * A line is built in memory of the calling thread and goes out by one write(2). The only lock
 * guards the table of call sites, and is not held while anything is formatted or written: a reader
 * of stderr that is slow delays who logs, and nobody else.
 */
#include "base/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/utf8.h"

enum { N_SITES = 256, N_PROBES = 8, BURST = 20 };
static const int64_t window_ns = 10 * CLOCK_S;

/* One call site, found by area and format. Where all its slots are taken it pushes out the one that
 * began its window first, whose count is forgotten: better than that one fault hides another. */
struct site {
    uint64_t key;
    int64_t since_ns; /* 0: never used */
    unsigned int n, suppressed;
};

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards sites */
static struct site sites[N_SITES];
static atomic_bool as_json;
static atomic_int max_level = LOG_INFO;
static _Atomic uint64_t counts[4];
static log_sink_fn sink;
static void *sink_arg;

void log_setup(bool json, int level)
{
    atomic_store(&as_json, json);
    atomic_store(&max_level, level);
}

void log_to(log_sink_fn fn, void *arg)
{
    sink = fn;
    sink_arg = arg;
}

bool log_wants(int level)
{
    return level <= atomic_load_explicit(&max_level, memory_order_relaxed);
}

uint64_t log_count(int level)
{
    return atomic_load(&counts[level]);
}

static uint64_t key_of(const char *area, const char *fmt)
{
    return hash_bytes(area, strlen(area)) ^ (uint64_t)(uintptr_t)fmt * UINT64_C(0x9e3779b97f4a7c15);
}

/* Locked. */
static struct site *find_site(uint64_t key)
{
    struct site *oldest = NULL;

    for (uint64_t i = 0; i < N_PROBES; i++) {
        struct site *s = &sites[((key >> 32) + i) % N_SITES];

        if (s->key == key)
            return s;
        if (!oldest || s->since_ns < oldest->since_ns)
            oldest = s;
    }
    *oldest = (struct site){.key = key};
    return oldest;
}

/* True when this site may write now; *ret_suppressed then tells how many lines were held back
 * before. */
static bool admit(const char *area, const char *fmt, unsigned int *ret_suppressed)
{
    uint64_t key = key_of(area, fmt);
    int64_t now = clock_now_ns();
    struct site *s;
    bool ok;

    pthread_mutex_lock(&lock);
    s = find_site(key);
    if (s->since_ns == 0 || now - s->since_ns > window_ns) {
        s->since_ns = now;
        s->n = 0;
    }
    ok = s->n < BURST;
    if (ok) {
        s->n++;
        *ret_suppressed = s->suppressed;
        s->suppressed = 0;
    } else {
        s->suppressed++;
    }
    pthread_mutex_unlock(&lock);
    return ok;
}

/* Append text without control characters: a line break from outside would forge a line. */
static void put_line(struct buf *b, const struct buf *text)
{
    for (size_t i = 0; i < text->len; i++)
        buf_putc(b, (unsigned char)text->data[i] < 0x20 || text->data[i] == 0x7f ? ' '
                                                                                 : text->data[i]);
}

static void build(struct buf *b, int level, const char *area, const struct buf *text,
                  unsigned int held)
{
    char at[CLOCK_RFC3339_SIZE];

    clock_rfc3339(clock_wall_ns(), at);
    if (!atomic_load(&as_json)) {
        buf_printf(b, "%s %-5s %s: ", at, level_names[level], area);
        put_line(b, text);
        if (held)
            buf_printf(b, " (%u more of these were held back)", held);
        buf_putc(b, '\n');
        return;
    }
    buf_printf(b, "{\"time\":\"%s\",\"level\":\"%s\",\"area\":", at, level_names[level]);
    buf_put_json(b, area, strlen(area));
    buf_put_lit(b, ",\"message\":");
    buf_put_json(b, text->data, text->len);
    if (held)
        buf_printf(b, ",\"suppressed\":%u", held);
    buf_put_lit(b, "}\n");
}

static void write_line(int level, const char *area, unsigned int held, const char *fmt, va_list ap)
    __attribute__((format(printf, 4, 0)));

static void write_line(int level, const char *area, unsigned int held, const char *fmt, va_list ap)
{
    struct buf raw = {0}, text = {0}, line = {0};

    buf_vprintf(&raw, fmt, ap);
    if (raw.data) {
        /* A server's or a plugin's words may be in any encoding. */
        utf8_put(&text, raw.data, raw.len);
        if (!sink)
            build(&line, level, area, &text, held);
        else if (text.data)
            sink(sink_arg, level, area, text.data, held);
    }
    if (line.data && !buf_failed(&line))
        (void)!write(STDERR_FILENO, line.data, line.len); /* nowhere to tell of a failure */
    buf_done(&raw);
    buf_done(&text);
    buf_done(&line);
}

void log_vline(int level, const char *area, const char *fmt, va_list ap)
{
    unsigned int held = 0;

    ASSERT(level >= LOG_ERROR && level <= LOG_DEBUG);
    if (!log_wants(level))
        return;
    atomic_fetch_add_explicit(&counts[level], 1, memory_order_relaxed);
    if (admit(area, fmt, &held))
        write_line(level, area, held, fmt, ap);
}

void log_record(const char *area, const char *fmt, ...)
{
    va_list ap;

    if (!log_wants(LOG_INFO))
        return;
    atomic_fetch_add_explicit(&counts[LOG_INFO], 1, memory_order_relaxed);
    va_start(ap, fmt);
    write_line(LOG_INFO, area, 0, fmt, ap);
    va_end(ap);
}

void log_line(int level, const char *area, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    log_vline(level, area, fmt, ap);
    va_end(ap);
}

const char *log_url(const char *url, char *out, unsigned long size)
{
    size_t scheme_len =
        strspn(url, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");
    bool has_scheme = strncmp(url + scheme_len, "://", 3) == 0;
    const char *rest = has_scheme ? url + scheme_len + 3 : url;
    const char *at = memrchr(rest, '@', strcspn(rest, "?"));
    const char *host;

    if (!has_scheme && strchr(url, '=')) {
        /* libpq also takes "host=… password=…", where a secret may stand anywhere. */
        (void)snprintf(out, size, "(connection settings)");
        return out;
    }
    if (!at) /* a '?' in a password hides the '@': rather a wrong host than a secret */
        at = strrchr(rest, '@');
    host = at ? at + 1 : rest;
    (void)snprintf(out, size, "%.*s%.*s", (int)(rest - url), url, (int)strcspn(host, "?"), host);
    return out;
}
