/* The child's host: the core table, the log, and how the one instance begins and ends; see host.h. */
#include "child/host.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "child/describe.h"
#include "core/loader.h"
#include "metrics/metrics.h"

enum { OUT_FRAMES = 32768, GATHER_MS = 100, LAST_WORDS_MS = 1000 };
static const size_t out_bytes = 16u << 20;

void child_confused(const char *what)
{
    fprintf(stderr, "musterd: plugin host: the broker said what was not expected: %s\n", what);
    _exit(1);
}

uint64_t child_next_id(struct child *c)
{
    return ++c->next_id;
}

/* ---- out -------------------------------------------------------------------------------------------------------------------------- */

/* The pipe may have got room between its refusal and now, and told nobody: hence the second look. */
static void starve(struct child *c)
{
    atomic_store(&c->in.wants_writable, true);
    if (pipe_is_wide(c->pipe))
        instance_tell_writable(&c->in);
}

int child_send(struct child *c, struct frame *f)
{
    int err = pipe_end(c->pipe, f, false);

    if (err == MUSTER_EAGAIN)
        starve(c);
    return err;
}

int child_refuse_more(struct child *c, const char *things, int max)
{
    return host_fail(&c->in.host, MUSTER_EAGAIN, "%s: a plugin in a process of its own may have %d", things, max);
}

int child_check_headers(struct child *c, const struct muster_header *headers, uint32_t n)
{
    bool ok = n <= CHILD_MAX_HEADERS && (!n || headers);

    for (uint32_t i = 0; ok && i < n; i++)
        ok = headers[i].name && headers[i].value;
    return ok ? 0
              : host_fail(&c->in.host, MUSTER_EINVAL, "%u headers: expected at most %d, each with a name and a value", n, CHILD_MAX_HEADERS);
}

void child_put_out(struct frame *f, const struct muster_tenant *tenant, const char *subject, const struct muster_header *headers,
                   uint32_t n_headers, struct muster_bytes payload)
{
    frame_put_u64(f, tenant_id(tenant));
    frame_put_str(f, subject);
    frame_put_headers(f, headers, n_headers);
    frame_put_bytes(f, payload);
}

static void on_room(void *arg)
{
    struct child *c = arg;

    instance_tell_writable(&c->in);
}

static void on_end(void *arg, const char *why)
{
    struct child *c = arg;

    (void)why; /* nobody is there to hear anything more */
    if (!atomic_load(&c->is_through))
        _exit(1);
}

/* Before the lane waits. */
static void before_wait(uv_prepare_t *prepare)
{
    struct child *c = prepare->data;

    message_new_turn(c);
    c->pipe_is_narrow = !pipe_is_wide(c->pipe) || (c->pipe_is_narrow && atomic_load(&c->in.wants_writable));
    life_tell_narrow(c);
    bus_tell_pause(c);
}

/* ---- what gathers ----------------------------------------------------------------------------------------------------------------- */

static void on_gather(uv_timer_t *timer)
{
    struct child *c = timer->data;

    atomic_store(&c->gathered, false);
    child_tell_health(c, false);
    if (!metrics_tell(c, false))
        child_gather(c);
}

static void start_gather(struct child *c)
{
    if (!uv_is_active((uv_handle_t *)&c->gather))
        ASSERT(uv_timer_start(&c->gather, on_gather, GATHER_MS, 0) == 0);
}

void child_gather(struct child *c)
{
    if (atomic_exchange(&c->gathered, true))
        return;
    if (lane_here(c->in.lane))
        start_gather(c);
    else
        lane_wake(c->in.lane);
}

/* Another thread may have begun to gather. */
static bool on_turn(void *arg)
{
    struct child *c = arg;

    if (atomic_load(&c->gathered) && !atomic_load(&c->is_through))
        start_gather(c);
    return false;
}

/* ---- the core table --------------------------------------------------------------------------------------------------------------- */

static const struct host_service services[] = {
    {MUSTER_BUS, &child_bus, NULL},        {MUSTER_STREAM, &child_stream, "stream"}, {MUSTER_KV, &child_kv, NULL},
    {MUSTER_LEASE, &child_lease, NULL},    {MUSTER_SYS, &child_sys, "system"},       {MUSTER_TIMER, &host_timer, NULL},
    {MUSTER_IO, &host_io, NULL},           {MUSTER_TENANT, &child_tenants, NULL},    {MUSTER_CONFIG, &child_config, NULL},
    {MUSTER_METRICS, &child_metrics, NULL}, {MUSTER_SQL, &child_sql, "sql"},
};

static int child_service(const struct muster_host *host, const char *id, const void **ret_table)
{
    if (!IN_CREATE(instance_of(host)))
        return MUSTER_EINVAL;
    return host_find_service(host, services, sizeof services / sizeof *services, id, ret_table);
}

/* With the lock held: true when there is something to tell at once. */
static bool take_health(struct child_health *h, int state, const char *code, const char *text)
{
    bool is_new = !h->said || h->state != state || strcmp(h->code, code) != 0;

    if (!is_new && strcmp(h->text, text) == 0)
        return false;
    h->state = state;
    h->said = h->waits = true;
    (void)snprintf(h->code, sizeof h->code, "%s", code);
    (void)snprintf(h->text, sizeof h->text, "%s", text);
    return is_new;
}

void child_tell_health(struct child *c, bool force)
{
    struct child_health *h = &c->health;
    struct frame f;

    pthread_mutex_lock(&c->lock);
    if (h->waits) {
        f = pipe_begin(c->pipe, FRAME_HEALTH, 0);
        frame_put_u32(&f, (uint32_t)h->state);
        frame_put_str(&f, h->code);
        frame_put_str(&f, h->text);
        h->waits = pipe_end(c->pipe, &f, force) == MUSTER_EAGAIN;
    }
    pthread_mutex_unlock(&c->lock);
}

static void child_health(const struct muster_host *host, int state, const char *code, const char *fmt, ...)
{
    struct child *c = child_of(host);
    char text[sizeof c->health.text];
    bool at_once;
    va_list ap;

    if (state < MUSTER_HEALTH_OK || state > MUSTER_HEALTH_DOWN) {
        host->log(host, MUSTER_LOG_ERROR, "health state %d: expected one of MUSTER_HEALTH_*", state);
        return;
    }
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&c->lock);
    at_once = take_health(&c->health, state, code ? code : "ok", text);
    pthread_mutex_unlock(&c->lock);
    if (at_once)
        child_tell_health(c, false);
    child_gather(c);
}

/* Also what the link to PostgreSQL has to say. What finds no room is lost: it was one of many. */
static void write_log(void *arg, int level, const char *area, const char *text, unsigned int held)
{
    struct child *c = arg;
    struct buf line = {0};
    struct frame f;

    if (strcmp(area, c->in.area) != 0 && area != c->in.host.instance) /* check() speaks as the instance */
        buf_printf(&line, "%s: ", area);
    buf_puts(&line, text);
    if (held)
        buf_printf(&line, " (%u more of these were held back)", held);
    f = pipe_begin(c->pipe, FRAME_LOG, 0);
    frame_put_u32(&f, (uint32_t)level);
    frame_put_str(&f, line.data ? line.data : "");
    (void)pipe_end(c->pipe, &f, false);
    buf_done(&line);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------- */

static void init_host(struct child *c)
{
    struct instance *in = &c->in;

    in->magic = INSTANCE_MAGIC;
    in->host = (struct muster_host){.size = sizeof in->host,
                                    .abi_major = MUSTER_ABI_MAJOR,
                                    .abi_minor = MUSTER_ABI_MINOR,
                                    .impl = c,
                                    .log = host_log,
                                    .fail = host_fail,
                                    .post = host_post,
                                    .service = child_service,
                                    .health = child_health};
}

static int init_loop(struct child *c, int fd)
{
    uv_loop_t *loop = lane_loop(c->in.lane);
    const struct pipe_options how = {.loop = loop,
                                     .fd = fd,
                                     .max_frames = OUT_FRAMES,
                                     .max_bytes = out_bytes,
                                     .on_frame = child_on_frame,
                                     .on_room = on_room,
                                     .on_end = on_end,
                                     .arg = c};
    int err = pipe_new(&how, &c->pipe);

    if (err)
        return err;
    ASSERT(uv_timer_init(loop, &c->gather) == 0 && uv_timer_init(loop, &c->again) == 0 && uv_idle_init(loop, &c->soon) == 0); /* lane_free() closes them */
    ASSERT(uv_prepare_init(loop, &c->before_wait) == 0 && uv_prepare_start(&c->before_wait, before_wait) == 0);
    c->gather.data = c->again.data = c->soon.data = c->before_wait.data = c;
    lane_on_turn(c->in.lane, on_turn, c);
    return 0;
}

int child_new(const char *file, int fd, struct child **ret_child)
{
    struct child *c = calloc(1, sizeof *c);
    const char *base = strrchr(file, '/');
    int err = c ? lane_new("plugin", &c->in.lane) : MUSTER_ENOMEM;

    if (!c)
        return err;
    c->file = file;
    c->fd = fd;
    message_init(c);
    c->registry = metrics_new();
    c->in.crumb = (struct lane_crumb){.plugin = base ? base + 1 : file, .version = "", .source_id = "", .instance = ""};
    ASSERT(pthread_mutex_init(&c->lock, NULL) == 0 && pthread_mutex_init(&c->in.lock, NULL) == 0);
    init_host(c);
    if (!err)
        err = c->registry ? init_loop(c, fd) : MUSTER_ENOMEM;
    if (err) {
        child_free(c);
        return err;
    }
    log_to(write_log, c);
    *ret_child = c;
    return 0;
}

void child_free(struct child *c)
{
    log_to(NULL, NULL);
    pipe_free(c->pipe);
    lane_free(c->in.lane);
    life_done(c);
    child_limits_done(&c->limits);
    metrics_free(c->registry);
    (void)pthread_mutex_destroy(&c->in.lock);
    (void)pthread_mutex_destroy(&c->lock);
    free(c);
}

static void say_hello(struct child *c)
{
    struct frame f = pipe_begin(c->pipe, FRAME_HELLO, 0);

    frame_put_u32(&f, FRAME_VERSION);
    frame_put_u32(&f, c->lacks);
    describe_put(&f, c->loaded);
    if (pipe_end(c->pipe, &f, true) != 0)
        child_confused("its descriptor is larger than a frame"); /* the parent sees the end, and these words */
}

/* The process ends: nothing of the file's can be taken back. */
static _Noreturn void say_refused(struct child *c, int code, const char *why)
{
    struct frame f = pipe_begin(c->pipe, FRAME_REFUSED, 0);

    frame_put_i32(&f, code);
    frame_put_str(&f, why);
    (void)pipe_end(c->pipe, &f, true);
    pipe_flush(c->pipe, clock_now_ns() + LAST_WORDS_MS * CLOCK_MS);
    _exit(1);
}

void child_load(struct child *c)
{
    char why[LOADER_WHY_SIZE];
    int err;

    instance_enter(&c->in, "load", NULL);
    err = loader_open(c->file, &c->loaded, why);
    instance_leave(&c->in);
    if (err)
        say_refused(c, err, why);
    if (child_limits_init(&c->limits, c->loaded) != 0)
        say_refused(c, MUSTER_ENOMEM, "no memory for the names of limits");
    c->in.crumb.plugin = c->loaded->name;
    c->in.crumb.version = c->loaded->version;
    c->in.crumb.source_id = MUSTER_HAS(c->loaded, source_id) && c->loaded->source_id ? c->loaded->source_id : "";
    say_hello(c);
}
