/* The life of the one instance, as the parent orders it: settings, check, create, start, reload, drain, destroy; see frame.h. On the lane. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/assert.h"
#include "child/describe.h"
#include "child/host.h"
#include "core/loader.h"
#include "core/settings.h"

enum { MAX_SERVICES = 64, MAX_CAPABILITIES = 160 };

static void answer(struct child *c, uint16_t type, int code, const char *reason)
{
    struct frame f = pipe_begin(c->pipe, type, 0);

    frame_put_i32(&f, code);
    frame_put_str(&f, code ? reason : "");
    (void)pipe_end(c->pipe, &f, true); /* without memory the parent's deadline tells */
}

static void answer_with_reason(struct child *c, uint16_t type, int code)
{
    char reason[sizeof c->in.reason];

    pthread_mutex_lock(&c->in.lock);
    memcpy(reason, c->in.reason, sizeof reason);
    pthread_mutex_unlock(&c->in.lock);
    answer(c, type, code, reason);
}

/* ---- settings --------------------------------------------------------------------------------------------------------------------- */

/* Strings that live as long as the child. */
static const char *const *read_list(struct child *c, struct frame_reader *r, size_t *ret_n)
{
    uint32_t n = frame_get_count(r, sizeof(uint32_t));
    const char **list = arena_alloc(&c->memory, n + 1, sizeof *list);

    for (uint32_t i = 0; list && i < n; i++) {
        list[i] = arena_strdup(&c->memory, frame_get_str(r));
        if (!list[i])
            child_confused("a list without a text in its place");
    }
    if (!list)
        child_confused("no memory for its settings");
    *ret_n = n;
    return list;
}

/* The descriptor's own list, as short as the parent makes it. */
static void take_capabilities(struct child *c, struct frame_reader *r)
{
    size_t n, size = sizeof c->plugin < c->loaded->size ? sizeof c->plugin : c->loaded->size;
    const char *const *granted = read_list(c, r, &n);
    char text[MAX_CAPABILITIES] = "";

    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(text);

        (void)snprintf(text + len, sizeof text - len, "%s%s", len ? " " : "", granted[i]);
    }
    memcpy(&c->plugin, c->loaded, size);
    c->plugin.size = (uint32_t)size;
    c->plugin.capabilities = arena_strdup(&c->memory, text);
    c->in.plugin = &c->plugin;
}

/* Each service by its own stride, as the descriptor has them. */
static void take_policy(struct child *c, struct frame_reader *r)
{
    size_t n = c->plugin.n_services < MAX_SERVICES ? c->plugin.n_services : MAX_SERVICES;
    const char **names = arena_alloc(&c->memory, n + 1, sizeof *names);

    if (!names)
        child_confused("no memory for its settings");
    for (size_t i = 0; i < n; i++)
        names[i] = ((const struct muster_service *)(const void *)((const char *)c->plugin.services + i * c->plugin.service_size))->name;
    c->policy = (struct policy){.plugin = c->plugin.name, .services = names, .n_services = n};
    c->policy.subscribe = read_list(c, r, &c->policy.n_subscribe);
    c->policy.publish = read_list(c, r, &c->policy.n_publish);
}

static void release_settings(struct child_settings *s)
{
    free(s->values);
    arena_done(&s->memory);
    *s = (struct child_settings){0};
}

static void read_settings(struct child *c, struct frame_reader *r, struct child_settings *s)
{
    *s = (struct child_settings){.values = calloc(1, c->plugin.config_size + 1)};
    s->code = config_places(c, r);
    if (!s->code)
        s->code = s->values ? settings_get(r, &c->plugin, s->values, &s->memory) : MUSTER_ENOMEM;
    if (s->code)
        r->bad = false; /* the file may be another one than the broker has looked at: that is told, as check() or create() fails */
}

void life_settings(struct child *c, struct frame_reader *r)
{
    struct muster_host *host = &c->in.host;
    const char *dsn;

    if (!c->loaded || c->in.plugin)
        child_confused("settings before hello, or twice");
    host->instance = arena_strdup(&c->memory, frame_get_str(r));
    host->lane = frame_get_u32(r);
    host->n_lanes = frame_get_u32(r);
    host->broker_id = arena_strdup(&c->memory, frame_get_str(r));
    host->root = arena_strdup(&c->memory, frame_get_str(r));
    dsn = arena_strdup(&c->memory, frame_get_str(r));
    take_capabilities(c, r);
    take_policy(c, r);
    host->plugin = c->plugin.name;
    if (!host->instance || !host->broker_id || !host->root)
        child_confused("settings without the names of instance and broker");
    if (instance_has_capability(&c->in, "postgres"))
        host->postgres_dsn = dsn;
    c->dsn = dsn;
    (void)snprintf(c->in.area, sizeof c->in.area, "%s.%s", host->plugin, host->instance);
    c->in.crumb.instance = host->instance;
    read_settings(c, r, &c->settings);
}

static const char do_not_fit[] = "its settings do not fit its option table: was the file replaced under the broker?";

static int check_settings(struct child *c, const struct child_settings *s, char reason[SETTINGS_REASON_SIZE])
{
    const struct muster_host *host = &c->in.host;
    const struct settings_host as = {host->instance, host->broker_id, c->dsn, host->root, host->n_lanes};
    int code = s->code;

    (void)snprintf(reason, SETTINGS_REASON_SIZE, "%s", do_not_fit);
    if (code)
        return code;
    instance_enter(&c->in, "check", NULL);
    code = settings_check(&as, &c->plugin, s->values, reason);
    instance_leave(&c->in);
    return code;
}

void life_check(struct child *c)
{
    char reason[SETTINGS_REASON_SIZE];
    int code = c->in.plugin ? check_settings(c, &c->settings, reason) : MUSTER_EINVAL;

    if (!c->in.plugin)
        child_confused("check before settings");
    answer(c, FRAME_CHECKED, code, reason);
}

/* ---- create and start ------------------------------------------------------------------------------------------------------------- */

void life_create(struct child *c)
{
    struct instance *in = &c->in;
    int code = c->settings.code;

    if (!in->plugin || in->created)
        child_confused("create before settings, or twice");
    if (!code) {
        instance_enter(in, "create", NULL);
        code = in->plugin->create(&in->host, c->settings.values, &in->self);
        instance_leave(in);
    } else {
        (void)host_fail(&in->host, code, "%s", do_not_fit);
    }
    in->created = !code;
    answer_with_reason(c, FRAME_CREATED, code);
}

/* What a start() that failed has begun; destroy() comes when the parent says so. */
static void give_up(struct child *c)
{
    c->in.ending = true;
    host_time_done(&c->in);
    call_cancel_all(c);
    host_sql_done(&c->in);
    lease_forget_all(c);
    sys_forget_all(c);
}

void life_start(struct child *c)
{
    struct instance *in = &c->in;
    int code;

    if (!in->created || in->started)
        child_confused("start before create, or twice");
    code = child_sql_start(c);
    if (!code) {
        instance_enter(in, "start", NULL);
        code = in->plugin->start(in->self);
        instance_leave(in);
    }
    in->started = !code;
    if (code)
        give_up(c);
    child_tell_health(c, false);
    answer_with_reason(c, FRAME_STARTED, code);
}

/* ---- while it runs ---------------------------------------------------------------------------------------------------------------- */

static int take_over(struct child *c, const struct child_settings *next, char reason[SETTINGS_REASON_SIZE])
{
    struct instance *in = &c->in;
    int code = check_settings(c, next, reason);

    if (code)
        return code;
    pthread_mutex_lock(&in->lock);
    in->reason[0] = '\0';
    pthread_mutex_unlock(&in->lock);
    instance_enter(in, "reload", NULL);
    code = in->plugin->reload(in->self, next->values);
    instance_leave(in);
    pthread_mutex_lock(&in->lock);
    memcpy(reason, in->reason, sizeof in->reason);
    pthread_mutex_unlock(&in->lock);
    return code;
}

void life_reload(struct child *c, struct frame_reader *r)
{
    struct child_settings next, before = c->settings;
    char reason[SETTINGS_REASON_SIZE];
    int code;

    if (!c->in.started || !MUSTER_HAS(c->in.plugin, reload) || !c->in.plugin->reload)
        child_confused("reload of what has none, or does not run");
    read_settings(c, r, &next);
    code = take_over(c, &next, reason);
    if (!code)
        c->settings = next;
    release_settings(code ? &next : &before);
    answer(c, FRAME_RELOADED, code, reason);
}

void life_on_link(struct child *c, struct frame_reader *r)
{
    const struct muster_plugin *p = c->in.plugin;
    int up = frame_get_u8(r);

    atomic_store(&c->link_is_down, !up);
    if (!c->in.started || !MUSTER_HAS(p, on_link) || !p->on_link)
        return;
    instance_enter(&c->in, "on_link", NULL);
    p->on_link(c->in.self, up);
    instance_leave(&c->in);
}

void life_on_tables(struct child *c, struct frame_reader *r)
{
    const struct muster_plugin *p = c->in.plugin;

    tenant_tables_told(c, frame_get_u64(r));
    if (!c->in.started || !MUSTER_HAS(p, on_tables) || !p->on_tables)
        return;
    instance_enter(&c->in, "on_tables", NULL);
    p->on_tables(c->in.self);
    instance_leave(&c->in);
}

static void tell_narrow(struct child *c, const char *callback, void (*fn)(void *self))
{
    lane_wake(c->in.lane); /* the pipe may have written for this turn */
    instance_enter(&c->in, callback, NULL);
    fn(c->in.self);
    instance_leave(&c->in);
}

void life_tell_narrow(struct child *c)
{
    const struct muster_plugin *p = c->in.plugin;
    bool narrow = c->parent_is_narrow || c->pipe_is_narrow || c->in.sql_pressed;

    if (!c->in.started || c->in.ending || narrow == c->in.told_pressed)
        return;
    c->in.told_pressed = narrow;
    if (narrow && MUSTER_HAS(p, on_pause) && p->on_pause)
        tell_narrow(c, "on_pause", p->on_pause);
    if (!narrow && MUSTER_HAS(p, on_resume) && p->on_resume)
        tell_narrow(c, "on_resume", p->on_resume);
}

/* ---- the end ---------------------------------------------------------------------------------------------------------------------- */

void life_drain(struct child *c, struct frame_reader *r)
{
    const struct muster_plugin *p = c->in.plugin;
    int64_t deadline_ns = frame_get_i64(r);

    if (c->in.started && MUSTER_HAS(p, drain) && p->drain) {
        instance_enter(&c->in, "drain", NULL);
        p->drain(c->in.self, deadline_ns);
        instance_leave(&c->in);
    }
    message_close_pause(c);
    (void)pipe_put(c->pipe, FRAME_DRAINED, 0);
}

/* Everything that is open ends, then the plugin, then what is left of both. */
void life_destroy(struct child *c)
{
    struct instance *in = &c->in;

    in->ending = true;
    message_drop_later(c);
    call_cancel_all(c);
    host_sql_done(in);
    lease_forget_all(c);
    sys_forget_all(c);
    if (in->created) {
        instance_enter(in, "destroy", NULL);
        in->plugin->destroy(in->self);
        instance_leave(in);
    }
    in->self = NULL;
    in->ended = true;
    host_time_done(in);
    (void)uv_timer_stop(&c->gather);
    child_tell_health(c, true);
    (void)metrics_tell(c, true);
    (void)pipe_put(c->pipe, FRAME_GONE, 0);
    atomic_store(&c->is_through, true);
    (void)shutdown(c->fd, SHUT_RD); /* the main thread waits for the end of the socket */
}

void life_done(struct child *c)
{
    void *value;

    for (size_t at = 0; (value = idmap_next(&c->subs, &at));)
        free(value);
    idmap_done(&c->subs);
    for (size_t at = 0; (value = idmap_next(&c->streams, &at));)
        free(value);
    idmap_done(&c->streams);
    idmap_done(&c->calls);
    idmap_done(&c->requests);
    idmap_done(&c->leases);
    idmap_done(&c->watches);
    tenant_forget_all(c);
    metrics_forget_all(c);
    map_done(&c->places);
    release_settings(&c->settings);
    arena_done(&c->memory);
}
