/* The instance whose plugin runs in a child: its life, and which child is the present one; see proxy.h. */
#include "child/proxy.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "child/proxy_parts.h"

#define REAP_NS (10 * CLOCK_MS)

static void on_tick(void *self, int64_t now_ns);
static void on_restart(void *self, int64_t now_ns);
static void begin_brake(struct ward *c);
static void end_brake(struct ward *c);
static void start_child(struct ward *c);
static void take_over(struct proxy *p);
static void on_reap(void *self, int64_t now_ns);

static void tell_down(struct proxy *p, const char *code, const char *text)
{
    p->host->health(p->host, MUSTER_HEALTH_DOWN, code, "plugin %s %s: %s", p->how.plugin->name, p->how.plugin->version, text);
}

/* ---- pauses --------------------------------------------------------------------------------------------------------------------- */

/* Messages wait in the broker while there is nobody who could take them. */
void proxy_set_pause(struct proxy *p)
{
    const struct ward *c = p->child;
    bool runs = c && (c->state == WARD_RUNNING || c->state == WARD_DRAINING) && !c->stalled;
    bool pause = !runs || p->is_full || p->wants_pause || p->is_retiring;

    if (pause == p->paused || p->ending)
        return;
    p->paused = pause;
    p->bus->pause(p->host, pause);
}

/* With its name: the line's area has the instance's alone. */
static void log_error_of(struct proxy *p, const char *text)
{
    char line[PROXY_WHY_SIZE + 256];

    (void)snprintf(line, sizeof line, "plugin %s %s: %s", p->how.plugin->name, p->how.plugin->version, text);
    p->how.hooks->log(p->how.arg, LOG_ERROR, line);
}

/* ---- restarts ------------------------------------------------------------------------------------------------------------------- */

static int later(struct proxy *p, int64_t delay_ns, muster_timer_fn fn, uint64_t *timer)
{
    int err;

    p->timer->stop(p->host, *timer);
    err = p->timer->once(p->host, delay_ns, fn, timer);
    if (err && err != MUSTER_ELINK) /* at the broker's end nothing is begun any more */
        tell_down(p, "failed", "no memory for a timer; it is not started again");
    return err;
}

/* A quarter more or less, so that many children do not come back at once. */
static int64_t with_jitter(int64_t ns)
{
    return ns - ns / 4 + (int64_t)((uint64_t)clock_wall_ns() / 1000 % 1000) * (ns / 2000);
}

static void plan_restart(struct proxy *p, const char *why)
{
    int64_t delay_ns = with_jitter(p->delay_ns);
    char text[PROXY_WHY_SIZE + 64];

    p->delay_ns = p->delay_ns * 2 < p->how.max_delay_ns ? p->delay_ns * 2 : p->how.max_delay_ns;
    (void)snprintf(text, sizeof text, "%s; it is started again in %lld.%lld s", why, (long long)(delay_ns / CLOCK_S),
                   (long long)(delay_ns / (CLOCK_S / 10) % 10));
    log_error_of(p, text);
    tell_down(p, "restarting", text);
    p->metrics->add(p->host, p->m_restarts, NULL, 1);
    (void)later(p, delay_ns, on_restart, &p->restart);
}

static void on_restart(void *self, int64_t now_ns)
{
    struct proxy *p = self;
    char why[PROXY_WHY_SIZE];

    (void)now_ns;
    if (p->child || p->next || p->ending)
        return;
    if (ward_new(p, &p->how, &p->child, why) != 0)
        plan_restart(p, why);
    else if (ward_watch(p->child) != 0)
        ward_kill(p->child, "no memory to watch it");
    else
        begin_brake(p->child);
}

/* The present one: what it had is the next one's, or nobody's. */
static void forget_present(struct ward *c)
{
    struct proxy *p = c->proxy;

    if (p->started)
        bus_child_over(p);
    calls_child_over(c);
    store_child_over(c);
    held_child_over(c);
    if (!p->started)
        return; /* who runs it looks */
    p->child = NULL;
    p->wants_pause = false;
    proxy_set_pause(p);
}

void proxy_child_over(struct ward *c)
{
    struct proxy *p = c->proxy;

    if (c == p->child)
        forget_present(c);
    else if (c == p->next)
        p->next = NULL;
    tell_child_over(c);
    if (!p->started)
        return;
    c->next_late = p->late;
    p->late = c;
    if (!p->ending)
        (void)later(p, CLOCK_MS, on_reap, &p->reap);
}

/* What follows from its end. */
static void bury(struct ward *c)
{
    struct proxy *p = c->proxy;
    bool was_next = c->was_next;
    char why[PROXY_WHY_SIZE];

    (void)snprintf(why, sizeof why, "%s", c->why);
    ward_free(c);
    if (was_next)
        p->next_how.hooks->replaced(p->how.arg, p->next_how.arg, why);
    if (p->child)
        return;
    if (p->next && p->next->state == WARD_CREATED) {
        take_over(p);
    } else if (!p->next) {
        p->is_retiring = false;
        plan_restart(p, was_next ? "the process before it had ended" : why);
    }
}

static void on_reap(void *self, int64_t now_ns)
{
    struct proxy *p = self;
    struct ward **at = &p->late, *c;

    (void)now_ns;
    while ((c = *at) && !p->ending) {
        if (!ward_reap(c)) {
            at = &c->next_late;
            continue;
        }
        *at = c->next_late;
        bury(c);
    }
    if (p->late && !p->ending)
        (void)later(p, REAP_NS, on_reap, &p->reap);
}

/* ---- one after the other --------------------------------------------------------------------------------------------------------- */

/* The present one is gone, and the next is made. */
static void take_over(struct proxy *p)
{
    struct ward *c = p->next;
    void *before = p->how.arg;

    p->timer->stop(p->host, p->restart);
    p->how = p->next_how;
    p->next = NULL;
    p->child = c;
    p->is_retiring = c->was_next = false;
    p->delay_ns = p->how.delay_ns;
    c->how = &p->how;
    p->how.hooks->replaced(before, p->how.arg, NULL);
    begin_brake(c);
    start_child(c);
}

/* It was through with all, or has had the time for it. */
static void end_retiring(struct proxy *p)
{
    struct ward *c = p->child;

    end_brake(c);
    ward_set_state(c, WARD_ENDING);
    ward_put(c, FRAME_DESTROY, 0);
}

void proxy_look_at_retiring(struct proxy *p)
{
    struct ward *c = p->child;

    if (!p->is_retiring || !c || c->state != WARD_DRAINING)
        return;
    if ((c->is_drained && !p->n_had) || clock_now_ns() > p->retire_ns)
        end_retiring(p);
}

static void begin_retiring(struct proxy *p)
{
    p->is_retiring = true;
    p->retire_ns = clock_now_ns() + RETIRE_NS;
    if (!p->child) {
        if (!p->late)
            take_over(p); /* else its end does */
        return;
    }
    if (p->child->state >= WARD_DRAINING) {
        ward_kill(p->next, "the broker ends");
        return;
    }
    if (p->child->state != WARD_RUNNING || p->child->stalled) { /* it is not started yet, or hangs */
        ward_kill(p->child, "another takes its place");
        return;
    }
    proxy_set_pause(p);
    proxy_drain(p, p->retire_ns);
}

int proxy_replace(struct proxy *p, const struct proxy_options *options)
{
    char why[PROXY_WHY_SIZE];
    int err = !p->started || p->ending ? MUSTER_ELINK : p->next || p->is_retiring ? MUSTER_EAGAIN : 0;

    if (err)
        return p->host->fail(p->host, err, err == MUSTER_ELINK ? "the instance does not run" : "the last change is not through");
    p->next_how = *options;
    err = ward_new(p, &p->next_how, &p->next, why);
    if (err)
        return p->host->fail(p->host, err, "%s", why);
    p->next->was_next = true;
    err = ward_watch(p->next);
    if (err)
        ward_kill(p->next, "no memory to watch it"); /* which is told as any failure */
    return 0;
}

/* The settings are put in force by the caller. */
int proxy_reload(struct proxy *p, void (*put)(void *arg, struct frame *f), void *arg)
{
    int64_t deadline_ns = clock_now_ns() + RELOAD_CHILD_NS;
    struct ward *c = p->child;
    struct frame f;

    if (!c || c->state != WARD_RUNNING)
        return 0;
    c->is_reloading = true;
    f = ward_begin(c, FRAME_RELOAD, 0);
    put(arg, &f);
    ward_end(c, &f);
    while (c->is_reloading && c->state != WARD_OVER && clock_now_ns() < deadline_ns)
        ward_pump(c, deadline_ns);
    if (c->state == WARD_OVER)
        return 0; /* the next one is told them */
    if (!c->is_reloading)
        return c->code ? p->host->fail(p->host, c->code, "%s", c->reason) : 0;
    ward_kill(c, "%s within %lld s", c->refusing ? "what it said before it took over its settings could not be sent" : "reload() has not returned",
              (long long)(RELOAD_CHILD_NS / CLOCK_S));
    return 0;
}

/* ---- its share of the machine -------------------------------------------------------------------------------------------------- */

static void on_brake(void *self, int64_t now_ns)
{
    struct proxy *p = self;
    struct ward *c = p->child;
    int64_t next_ns = c && c->brakes ? throttle_tick(&c->throttle, now_ns) : INT64_MAX;
    int64_t stopped_ms;

    if (!c)
        return;
    stopped_ms = throttle_stopped_ns(&c->throttle, now_ns) / CLOCK_MS;
    p->metrics->add(p->host, p->m_throttled, NULL, stopped_ms - c->told_stopped_ms);
    c->told_stopped_ms = stopped_ms;
    if (next_ns != INT64_MAX)
        (void)later(p, next_ns > now_ns ? next_ns - now_ns : CLOCK_MS, on_brake, &p->brake);
}

static void begin_brake(struct ward *c)
{
    int64_t now_ns = clock_now_ns();

    throttle_init(&c->throttle, c->process.pid, c->proxy->how.cpu, now_ns);
    c->brakes = c->process.pid != 0;
    on_brake(c->proxy, now_ns);
}

/* It is to end in time, whatever it used. */
static void end_brake(struct ward *c)
{
    if (c->brakes)
        throttle_end(&c->throttle, clock_now_ns());
    c->brakes = false;
}

/* ---- liveness ------------------------------------------------------------------------------------------------------------------- */

static void set_stalled(struct ward *c, bool stalled)
{
    struct proxy *p = c->proxy;
    char text[PROXY_WHY_SIZE];

    if (c->stalled == stalled)
        return;
    c->stalled = stalled;
    held_stalled(c, stalled);
    proxy_set_pause(p);
    if (stalled) {
        (void)snprintf(text, sizeof text, "its callback %s%s%s has not returned for %lld s", c->stalled_in[0] ? c->stalled_in : "(unknown)",
                       c->stalled_on[0] ? " on " : "", c->stalled_on, (long long)(STALL_NS / CLOCK_S));
        tell_down(p, "stalled", text);
    } else {
        tell_health_again(c);
    }
}

static void look_at(struct ward *c, int64_t now_ns)
{
    int64_t silent_ns;

    if (c->refusing) /* its answers wait behind what has no room now */
        ward_hear(c);
    silent_ns = now_ns - c->heard_ns - (throttle_stopped_ns(&c->throttle, now_ns) - c->stopped_ns);
    if (silent_ns > KILL_NS) {
        ward_kill(c, "its callback %s%s%s had not returned for %lld s, so it was ended", c->stalled_in[0] ? c->stalled_in : "(unknown)",
                   c->stalled_on[0] ? " on " : "", c->stalled_on, (long long)(KILL_NS / CLOCK_S));
        return;
    }
    set_stalled(c, silent_ns > STALL_NS);
    ward_put(c, FRAME_PING, ++c->pings);
}

/* One that is made, or ends. */
static void look_at_making(struct ward *c)
{
    static const char *const doing[] = {[WARD_LOADING] = "load its file", [WARD_CREATING] = "create()", [WARD_STARTING] = "start()",
                                        [WARD_ENDING] = "destroy()"};
    int64_t limit_ns = c->state == WARD_LOADING ? CHECK_NS : c->state == WARD_ENDING ? END_NS : CREATE_NS;

    if (c->state != WARD_CREATED && c->state != WARD_OVER && clock_now_ns() - c->since_ns > limit_ns)
        ward_kill(c, "it did not end %s in time", doing[c->state]);
}

/* Time in which nobody listened to it. */
static void forgive(struct ward *c, int64_t late_ns, int64_t now_ns)
{
    c->heard_ns = c->heard_ns + late_ns < now_ns ? c->heard_ns + late_ns : now_ns;
    c->since_ns = c->since_ns + late_ns < now_ns ? c->since_ns + late_ns : now_ns;
}

/* A lane that another kept busy, or a broker that was stopped, comes here late, and before it reads what the child has said meanwhile. */
static void look_at_lateness(struct proxy *p, int64_t now_ns)
{
    int64_t late_ns = now_ns - p->ticked_ns - PING_NS;

    p->ticked_ns = now_ns;
    if (late_ns > 0 && p->child)
        forgive(p->child, late_ns, now_ns);
    if (late_ns > 0 && p->next)
        forgive(p->next, late_ns, now_ns);
}

static void on_tick(void *self, int64_t fired_ns)
{
    struct proxy *p = self;
    struct ward *c = p->child;
    int64_t now_ns = clock_now_ns();

    (void)fired_ns;
    look_at_lateness(p, now_ns);
    if (c) /* whatever it waits for */
        ward_resume(c);
    if (p->next)
        look_at_making(p->next);
    proxy_look_at_retiring(p);
    if (!c || c != p->child)
        return;
    if (c->state == WARD_RUNNING || c->state == WARD_DRAINING) {
        look_at(c, now_ns);
        held_tick(c);
    } else {
        look_at_making(c);
    }
    if (c == p->child && c->state == WARD_RUNNING && now_ns - c->since_ns > HEALTHY_NS)
        p->delay_ns = p->how.delay_ns;
}

/* ---- beginning ------------------------------------------------------------------------------------------------------------------ */

static int find_services(struct proxy *p)
{
    const struct {
        const char *id, *capability;
        void *table;
    } services[] = {{MUSTER_BUS, NULL, &p->bus},         {MUSTER_STREAM, "stream", &p->stream}, {MUSTER_KV, NULL, &p->kv},
                    {MUSTER_LEASE, NULL, &p->lease},     {MUSTER_SYS, "system", &p->sys},       {MUSTER_TENANT, NULL, &p->tenants},
                    {MUSTER_TIMER, NULL, &p->timer},     {MUSTER_IO, NULL, &p->io},             {MUSTER_METRICS, NULL, &p->metrics}};
    int err = 0;

    for (size_t i = 0; i < sizeof services / sizeof *services && !err; i++)
        if (!services[i].capability || proxy_has_capability(p, services[i].capability))
            err = p->host->service(p->host, services[i].id, services[i].table);
    return err;
}

static struct proxy *make(const struct proxy_options *options)
{
    struct proxy *p = calloc(1, sizeof *p);

    if (!p)
        return NULL;
    p->how = *options;
    p->host = options->host;
    p->delay_ns = options->delay_ns;
    return p;
}

/* Its first child, without a loop. */
static int run_first(struct proxy *p, char why[PROXY_WHY_SIZE])
{
    struct ward *c;
    int err = ward_new(p, &p->how, &c, why);

    if (err)
        return err;
    p->child = c;
    err = ward_run_until(c, WARD_CREATED, clock_now_ns() + CREATE_NS);
    if (err == MUSTER_ETIME)
        ward_kill(c, "%s has not returned in time", c->state == WARD_LOADING ? "loading its file" : "create()");
    if (err)
        ward_wait(c);
    if (err)
        (void)snprintf(why, PROXY_WHY_SIZE, "%s", c->why);
    return err && c->code ? c->code : err ? MUSTER_EINVAL : 0;
}

/* One that was to come and does not. */
static void tell_no_next(struct proxy *p)
{
    for (struct ward *c = p->late; c; c = c->next_late)
        if (c->was_next)
            p->next_how.hooks->replaced(p->how.arg, p->next_how.arg, "the broker ends");
}

static void done(struct proxy *p)
{
    struct ward *late;
    void *metric;

    bus_done(p);
    ward_free(p->child);
    ward_free(p->next);
    while ((late = p->late)) {
        p->late = late->next_late;
        ward_free(late);
    }
    for (size_t at = 0; map_next(&p->metrics_made, &at, NULL, &metric);)
        free(metric);
    map_done(&p->metrics_made);
    free(p);
}

int proxy_new(const struct proxy_options *options, struct proxy **ret_proxy)
{
    struct proxy *p = make(options);
    char why[PROXY_WHY_SIZE] = "";
    int err = p ? 0 : MUSTER_ENOMEM;

    if (err)
        return err;
    err = find_services(p);
    if (!err)
        err = p->metrics->make(p->host, MUSTER_COUNTER, "child_restarts_total", "Times that the plugin's process was started again.", NULL,
                               &p->m_restarts);
    if (!err)
        err = p->metrics->make(p->host, MUSTER_COUNTER, "child_throttled_milliseconds_total",
                               "Time for which the plugin's process was stopped, because it had used its share (limits.cpu).", NULL,
                               &p->m_throttled);
    if (!err)
        err = p->metrics->make(p->host, MUSTER_COUNTER, "child_paced_total",
                               "Times that the plugin's messages waited, because there were more in a second than it may send"
                               " (limits.messages).", NULL,
                               &p->m_paced);
    if (!err) {
        err = run_first(p, why);
        if (err)
            (void)p->host->fail(p->host, err, "%s", why);
    }
    if (err) {
        done(p);
        return err;
    }
    *ret_proxy = p;
    return 0;
}

void *proxy_arg(const struct proxy *p)
{
    return p->how.arg;
}

/* ---- running -------------------------------------------------------------------------------------------------------------------- */

static void start_child(struct ward *c)
{
    struct frame f;

    tell_tables(c);
    f = ward_begin(c, FRAME_ON_LINK, 0);
    frame_put_u8(&f, c->proxy->link_up);
    ward_end(c, &f);
    ward_set_state(c, WARD_STARTING);
    ward_put(c, FRAME_START, 0);
}

void proxy_child_created(struct ward *c)
{
    if (c->proxy->started && c == c->proxy->child)
        start_child(c);
    else if (c == c->proxy->next)
        begin_retiring(c->proxy);
}

void proxy_child_started(struct ward *c)
{
    bus_child_started(c);
    proxy_set_pause(c->proxy);
}

int proxy_start(struct proxy *p)
{
    struct ward *c = p->child;
    int err = c->state == WARD_CREATED ? ward_watch(c) : 0;

    if (!err)
        err = p->timer->every(p->host, PING_NS, on_tick, &p->tick);
    if (err)
        return err;
    p->started = true;
    p->ticked_ns = clock_now_ns();
    if (c->state == WARD_CREATED) {
        begin_brake(c);
        start_child(c);
    }
    err = ward_run_until(c, WARD_RUNNING, clock_now_ns() + CREATE_NS);
    if (err == MUSTER_ETIME)
        ward_kill(c, "start() has not returned in time");
    if (!err)
        return 0;
    ward_wait(c);
    return p->host->fail(p->host, c->code ? c->code : MUSTER_EINVAL, "%s", c->why);
}

static void tell(struct proxy *p, uint16_t type)
{
    if (p->child && p->child->state >= WARD_STARTING)
        ward_put(p->child, type, 0);
}

void proxy_on_writable(struct proxy *p)
{
    if (p->child)
        ward_resume(p->child);
    if (p->next)
        ward_resume(p->next);
    tell(p, FRAME_ON_WRITABLE);
}

void proxy_on_link(struct proxy *p, bool up)
{
    struct frame f;

    p->link_up = up;
    if (!p->child || p->child->state < WARD_STARTING)
        return;
    f = ward_begin(p->child, FRAME_ON_LINK, 0);
    frame_put_u8(&f, up);
    ward_end(p->child, &f);
}

void proxy_on_tables(struct proxy *p)
{
    p->knows_tables = true;
    if (p->child && p->child->state >= WARD_STARTING)
        tell_tables(p->child);
}

void proxy_on_pause(struct proxy *p, bool on)
{
    tell(p, on ? FRAME_ON_PAUSE : FRAME_ON_RESUME);
}

/* ---- the end -------------------------------------------------------------------------------------------------------------------- */

void proxy_drain(struct proxy *p, int64_t deadline_ns)
{
    struct frame f;

    if (!p->child || p->child->state != WARD_RUNNING)
        return;
    f = ward_begin(p->child, FRAME_DRAIN, 0);
    frame_put_i64(&f, deadline_ns);
    ward_end(p->child, &f);
    if (p->child)
        p->child->state = WARD_DRAINING; /* since_ns stays: it was heard of */
}

/* Let it run destroy(), and end it where that takes too long. */
static void destroy_child(struct ward *c)
{
    int64_t deadline_ns = clock_now_ns() + END_NS;

    end_brake(c);
    if (c->state > WARD_CREATING && c->state < WARD_ENDING) {
        ward_set_state(c, WARD_ENDING);
        ward_put(c, FRAME_DESTROY, 0);
        if (ward_run_until(c, WARD_OVER, deadline_ns) == MUSTER_ETIME)
            ward_kill(c, "destroy() has not returned in time");
    }
    if (c->state != WARD_OVER)
        ward_kill(c, "the broker ends");
    ward_wait(c);
}

void proxy_destroy(struct proxy *p)
{
    struct ward *c;

    if (!p)
        return;
    p->ending = true;
    if (p->next)
        ward_kill(p->next, "the broker ends");
    c = p->child;
    if (c)
        destroy_child(c);
    if (c && !strstr(c->why, "ended by exit code 0"))
        log_error_of(p, c->why);
    tell_no_next(p);
    done(p);
}
