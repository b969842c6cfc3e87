/* The life of a test host and of its instance, and the core table of struct muster_host. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "core/loader.h"
#include "testhost/inside.h"
#include "testhost/process.h"

enum { THREADS_MS = 1000 };
static const int64_t begin_ns = 1000 * MUSTER_TEST_S, drain_step_ns = 10 * MUSTER_TEST_MS;

/* Several hosts live side by side: what the process looked like is compared when the last one's plugin has gone. On one thread. */
static size_t n_live;
static struct process process;

/* ---- the core table ------------------------------------------------------------------------------------------------------------ */

static void host_log(const struct muster_host *host, int level, const char *fmt, ...) MUSTER_PRINTF(3, 4);
static void host_log(const struct muster_host *host, int level, const char *fmt, ...)
{
    struct muster_test *t = test_of(host, CALL_HOST_LOG);
    struct muster_test_line *line;
    char text[2000];
    va_list ap;

    if (call_begin(t, CALL_HOST_LOG) != 0)
        return;
    if (level < MUSTER_LOG_ERROR || level > MUSTER_LOG_DEBUG)
        (void)breach(t, CALL_HOST_LOG, "level %d: expected MUSTER_LOG_*", level);
    if (!fmt) {
        (void)breach(t, CALL_HOST_LOG, "fmt is NULL");
        return;
    }
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    line = must_alloc(sizeof *line);
    *line = (struct muster_test_line){level, must_copy(text), t->now_ns};
    pthread_mutex_lock(&t->lock);
    list_add(&t->lines, line);
    pthread_mutex_unlock(&t->lock);
}

static int host_fail(const struct muster_host *host, int code, const char *fmt, ...) MUSTER_PRINTF(3, 4);
static int host_fail(const struct muster_host *host, int code, const char *fmt, ...)
{
    struct muster_test *t = test_of(host, CALL_HOST_FAIL);
    va_list ap;

    if (call_begin(t, CALL_HOST_FAIL) != 0)
        return code;
    if (code >= 0)
        (void)breach(t, CALL_HOST_FAIL, "code %d: expected MUSTER_E*", code);
    va_start(ap, fmt);
    pthread_mutex_lock(&t->lock);
    (void)vsnprintf(t->reason, sizeof t->reason, fmt, ap);
    pthread_mutex_unlock(&t->lock);
    va_end(ap);
    return code;
}

struct post {
    struct due due;
    void (*fn)(void *arg);
    void *arg;
};

static void run_post(struct muster_test *t, struct due *d, int code)
{
    struct post *p = (struct post *)d;

    if (!code)
        DURING(t, "post", NULL, p->fn(p->arg));
    free(p);
}

static int host_post(const struct muster_host *host, void (*fn)(void *arg), void *arg)
{
    struct muster_test *t = test_of(host, CALL_HOST_POST);
    int err = call_begin(t, CALL_HOST_POST);
    struct post *p;

    if (err)
        return err;
    if (!fn)
        return breach(t, CALL_HOST_POST, "fn is NULL");
    p = must_alloc(sizeof *p);
    *p = (struct post){.due = {.kind = DUE_POST, .callback = -1, .run = run_post}, .fn = fn, .arg = arg};
    due_add(t, &p->due, t->now_ns);
    return 0;
}

static const struct {
    const char *id;
    const void *table;
    const char *capability;
} services[] = {
    {MUSTER_BUS, &test_bus, NULL},         {MUSTER_STREAM, &test_stream, "stream"}, {MUSTER_KV, &test_kv, NULL},
    {MUSTER_LEASE, &test_lease, NULL},     {MUSTER_SYS, &test_sys, "system"},       {MUSTER_TIMER, &test_timer, NULL},
    {MUSTER_IO, &test_io, NULL},           {MUSTER_TENANT, &test_tenants, NULL},    {MUSTER_CONFIG, &test_config, NULL},
    {MUSTER_METRICS, &test_metrics, NULL}, {MUSTER_SQL, &test_sql, "sql"},          {MUSTER_ROSTER, &test_roster, NULL},
};

static int host_service(const struct muster_host *host, const char *id, const void **ret_table)
{
    struct muster_test *t = test_of(host, CALL_HOST_SERVICE);
    int err = call_begin(t, CALL_HOST_SERVICE);

    if (err)
        return err;
    if (!id || !ret_table)
        return breach(t, CALL_HOST_SERVICE, "%s is NULL", id ? "ret_table" : "id");
    if (strcmp(id, MUSTER_CODEC) == 0) {
        *ret_table = test_codec();
        return 0;
    }
    for (size_t i = 0; i < sizeof services / sizeof *services; i++) {
        if (strcmp(services[i].id, id) != 0)
            continue;
        if (services[i].capability && !test_has_capability(t, services[i].capability))
            return test_fail(t, MUSTER_EACCES, "service %s needs the capability \"%s\" in the plugin's descriptor", id,
                             services[i].capability);
        *ret_table = services[i].table;
        return 0;
    }
    return test_fail(t, MUSTER_EABI, "this host (ABI %d.%d) has no service %s", MUSTER_ABI_MAJOR, MUSTER_ABI_MINOR, id);
}

static void host_health(const struct muster_host *host, int state, const char *code, const char *fmt, ...) MUSTER_PRINTF(4, 5);
static void host_health(const struct muster_host *host, int state, const char *code, const char *fmt, ...)
{
    struct muster_test *t = test_of(host, CALL_HOST_HEALTH);
    char text[1000];
    va_list ap;

    if (call_begin(t, CALL_HOST_HEALTH) != 0)
        return;
    if (state < MUSTER_HEALTH_OK || state > MUSTER_HEALTH_DOWN || !code || !fmt) {
        (void)breach(t, CALL_HOST_HEALTH, "state %d, code %s: expected MUSTER_HEALTH_*, a word and a text", state, code ? code : "NULL");
        return;
    }
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&t->lock);
    t->health = state;
    free(t->health_code);
    free(t->health_text);
    t->health_code = must_copy(code);
    t->health_text = must_copy(text);
    pthread_mutex_unlock(&t->lock);
}

static void core_init(struct muster_test *t, uint32_t lane, uint32_t n_lanes)
{
    t->host = (struct muster_host){.size = sizeof t->host,
                                   .abi_major = MUSTER_ABI_MAJOR,
                                   .abi_minor = MUSTER_ABI_MINOR,
                                   .impl = t,
                                   .log = host_log,
                                   .fail = host_fail,
                                   .post = host_post,
                                   .service = host_service,
                                   .health = host_health,
                                   .plugin = t->plugin->name,
                                   .instance = t->instance,
                                   .lane = lane,
                                   .n_lanes = n_lanes,
                                   .broker_id = "test",
                                   .postgres_dsn = test_has_capability(t, "postgres") ? t->dsn : NULL,
                                   .root = "mst"};
}

/* ---- making -------------------------------------------------------------------------------------------------------------------- */

static void load(struct muster_test *t, const struct muster_test_options *o)
{
    const struct config_plugin how = {.path = o->file, .instance = o->instance, .lanes = 1};
    const struct muster_plugin *plugin = NULL;
    char why[LOADER_WHY_SIZE];
    int err;

    (void)snprintf(t->area, sizeof t->area, "%.120s", o->file ? o->file : "plugin");
    if (!o->entry == !o->file) {
        fail_test(t, "muster_test_new(): expected one of entry and file");
        return;
    }
    if (o->entry) {
        plugin = o->entry();
        err = loader_check(plugin, "the plugin", why);
    } else {
        err = loader_check_file(&how, o->file, why);
        if (!err)
            err = loader_open(o->file, &plugin, why);
    }
    if (err) {
        (void)test_fail(t, err, "%s", why);
        fail_test(t, "%s", why);
        return;
    }
    t->plugin = plugin;
    (void)snprintf(t->area, sizeof t->area, "%.70s %.40s", plugin->name, plugin->version);
}

static void add_tenants(struct muster_test *t, const char *names)
{
    char name[NAME_MAX_LEN + 1];

    while (*names) {
        size_t len = strcspn(names, " ");

        if (len && len < sizeof name) {
            memcpy(name, names, len);
            name[len] = '\0';
            (void)muster_test_tenant(t, name);
        }
        names += len + strspn(names + len, " ");
    }
}

struct muster_test *muster_test_new(const struct muster_test_options *options)
{
    struct muster_test_options o = {0};
    struct muster_test *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    if (options)
        memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    t->magic = TEST_MAGIC;
    t->flags = o.flags;
    t->lane = pthread_self();
    t->now_ns = begin_ns;
    t->health = MUSTER_HEALTH_DOWN;
    t->up = !(o.flags & MUSTER_TEST_LINK_DOWN);
    ASSERT(pthread_mutex_init(&t->lock, NULL) == 0);
    arena_watch();
    roster_begin(t);
    load(t, &o);
    t->given = must_copy(o.config);
    t->dsn = must_copy(o.dsn ? o.dsn : "host=127.0.0.1 port=1 dbname=none");
    add_tenants(t, o.tenants ? o.tenants : "acme");
    if (!t->plugin)
        return t;
    t->instance = must_copy(o.instance ? o.instance : t->plugin->name);
    core_init(t, o.lane, o.n_lanes ? o.n_lanes : 1);
    services_load(t);
    return t;
}

/* ---- life ---------------------------------------------------------------------------------------------------------------------- */

static bool is_in(struct muster_test *t, const char *function, int phase)
{
    if (!t->plugin)
        return false; /* told by muster_test_new() */
    if (t->phase == phase)
        return true;
    fail_test(t, "%s(): not now: new, check or create, start, …, destroy is the order", function);
    return false;
}

static int bind(struct muster_test *t)
{
    int err;

    if (t->settings.values)
        return 0;
    err = test_settings_new(t, t->given, &t->settings);
    if (!err)
        err = test_settings_check(t, &t->settings);
    if (err)
        test_settings_done(t, &t->settings, "settings that check() refused");
    return err;
}

int muster_test_check(struct muster_test *t)
{
    return is_in(t, __func__, PHASE_NEW) ? bind(t) : MUSTER_EABI;
}

static void compare(struct muster_test *t);

int muster_test_create(struct muster_test *t)
{
    int err = is_in(t, __func__, PHASE_NEW) ? bind(t) : MUSTER_EABI;

    if (err)
        return err;
    if (n_live++ == 0)
        process_look(&process);
    t->phase = PHASE_CREATE;
    DURING(t, "create", NULL, err = t->plugin->create(&t->host, t->settings.values, &t->self));
    if (err > 0)
        fail_test(t, "create() returned %d: expected 0 or MUSTER_E*", err);
    if (!err) {
        t->phase = PHASE_CREATED;
        return 0;
    }
    if (!t->reason[0])
        fail_test(t, "create() failed with %d and gave no reason by host->fail()", err);
    t->phase = PHASE_ENDED;
    codec_end(t);
    compare(t);
    return err;
}

static int call_start(struct muster_test *t)
{
    int err;

    t->phase = PHASE_STARTED; /* the lane runs */
    DURING(t, "start", NULL, err = t->plugin->start(t->self));
    if (err > 0)
        fail_test(t, "start() returned %d: expected 0 or MUSTER_E*", err);
    t->started = !err;
    return err;
}

int muster_test_start(struct muster_test *t)
{
    int err = is_in(t, __func__, PHASE_CREATED) ? call_start(t) : MUSTER_EABI;

    if (err)
        return err;
    muster_test_tables_changed(t);
    if (t->up && MUSTER_HAS(t->plugin, on_link) && t->plugin->on_link)
        DURING(t, "on_link", "up", t->plugin->on_link(t->self, 1));
    muster_test_run(t);
    return 0;
}

struct muster_test *muster_test_begin(const struct muster_test_options *options)
{
    struct muster_test *t = muster_test_new(options);
    int err;

    if (!t || !t->plugin)
        return t;
    err = muster_test_create(t);
    if (err)
        fail_test(t, "create failed (%d): %s", err, t->reason);
    if (!err) {
        err = muster_test_start(t);
        if (err)
            fail_test(t, "start() failed (%d): %s", err, t->reason);
    }
    return t;
}

int muster_test_reload(struct muster_test *t, const char *config)
{
    struct settings next = {0};
    int err;

    if (!is_in(t, __func__, PHASE_STARTED))
        return MUSTER_EABI;
    if (!MUSTER_HAS(t->plugin, reload) || !t->plugin->reload)
        return test_fail(t, MUSTER_EABI, "the plugin has no reload(): a change waits for a restart");
    err = test_settings_new(t, config, &next);
    if (!err)
        err = test_settings_check(t, &next);
    if (!err)
        DURING(t, "reload", NULL, err = t->plugin->reload(t->self, next.values));
    if (err > 0)
        fail_test(t, "reload() returned %d: expected 0 or MUSTER_E*", err);
    if (!err) {
        test_settings_done(t, &t->settings, "the settings before reload()");
        t->settings = next;
    } else {
        test_settings_done(t, &next, "settings that reload() did not take");
    }
    muster_test_run(t);
    return err;
}

static int is_quiet(void *arg)
{
    return muster_test_n_open(arg) == 0;
}

void muster_test_drain(struct muster_test *t, int64_t timeout_ns)
{
    int64_t until = t->now_ns + timeout_ns;

    if (!is_in(t, __func__, PHASE_STARTED))
        return;
    if (t->started && MUSTER_HAS(t->plugin, drain) && t->plugin->drain)
        DURING(t, "drain", NULL, t->plugin->drain(t->self, until));
    muster_test_run(t);
    while (muster_test_n_open(t) && t->now_ns < until) {
        (void)muster_test_wait(t, NULL, NULL, 0);
        muster_test_advance(t, drain_step_ns);
    }
    if (muster_test_wait(t, is_quiet, t, THREADS_MS) != 0) /* the clock of the test is faster than threads are */
        fail_test(t, "drain(): %zu requests are not answered at the deadline", muster_test_n_open(t));
}

static void on_difference(void *arg, const char *text)
{
    struct muster_test *t = arg;

    fail_test(t, "%s", text);
}

/* Weak: there with AddressSanitizer only. Reports on stderr by itself, too. */
extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static void compare(struct muster_test *t)
{
    if (--n_live > 0)
        return;
    process_compare(&process, on_difference, t);
    process_done(&process);
    t->self = NULL;
    if (__lsan_do_recoverable_leak_check && __lsan_do_recoverable_leak_check() != 0)
        fail_test(t, "left memory allocated that nothing points to: see stderr");
}

static void tell_strictly(struct muster_test *t)
{
    if (!(t->flags & MUSTER_TEST_STRICT))
        return;
    if (due_find(t, DUE_TIMER, 0))
        fail_test(t, "left a timer running");
    if (muster_test_n_subscriptions(t))
        fail_test(t, "left %zu subscriptions", muster_test_n_subscriptions(t));
    if (t->handles.n)
        fail_test(t, "left %zu streams open", t->handles.n);
    if (t->leases.n)
        fail_test(t, "left %zu leases", t->leases.n);
}

void muster_test_destroy(struct muster_test *t)
{
    if (!t->plugin || t->phase < PHASE_CREATED || t->phase == PHASE_ENDED)
        return;
    muster_test_run(t);
    t->phase = PHASE_ENDING;
    bus_end(t);
    sys_end(t);
    roster_end(t);
    for (int i = 0; i < 3; i++) /* an answer may lead to another call, of which none leads to a third */
        due_end(t, DUE_ALL_COMPLETIONS, 0, MUSTER_ELINK);
    lease_end(t);
    DURING(t, "destroy", NULL, t->plugin->destroy(t->self));
    if (t->held.n)
        fail_test(t, "left %zu messages held: what hold() gave is released with drop()", t->held.n);
    tell_strictly(t);
    time_end(t);
    t->phase = PHASE_ENDED;
    codec_end(t);
    test_settings_done(t, &t->settings, "the settings, after destroy()");
    compare(t);
}

static void free_lists(struct muster_test *t)
{
    for (struct due *d; (d = t->due);) { /* posts and timers that were not run */
        t->due = d->next;
        free(d);
    }
    muster_test_no_faults(t);
    muster_test_forgive(t);
    list_done(&t->failures);
    bus_free(t);
    stream_free(t);
    kv_free(t);
    lease_free(t);
    sys_free(t);
    roster_done(t);
    sql_free_all(t);
    misc_free(t);
    tenant_free_all(t);
    services_done(t);
}

size_t muster_test_free(struct muster_test *t)
{
    size_t n;

    if (!t)
        return 0;
    muster_test_destroy(t);
    n = t->failures.n;
    if (n && !t->reported)
        muster_test_report(t, stderr);
    test_settings_done(t, &t->settings, "the settings, after destroy()");
    free_lists(t);
    free(t->given);
    free(t->dsn);
    free(t->instance);
    free(t->health_code);
    free(t->health_text);
    (void)pthread_mutex_destroy(&t->lock);
    t->magic = 0;
    free(t);
    return n;
}

/* ---- what a test asks ---------------------------------------------------------------------------------------------------------- */

const struct muster_plugin *muster_test_plugin(const struct muster_test *t)
{
    return t->plugin;
}

const struct muster_host *muster_test_host(const struct muster_test *t)
{
    return &t->host;
}

const void *muster_test_config(const struct muster_test *t)
{
    return t->settings.values;
}

void *muster_test_self(const struct muster_test *t)
{
    return t->self;
}

const char *muster_test_reason(const struct muster_test *t)
{
    return t->reason;
}

void muster_test_writable(struct muster_test *t)
{
    if (t->started && MUSTER_HAS(t->plugin, on_writable) && t->plugin->on_writable)
        DURING(t, "on_writable", NULL, t->plugin->on_writable(t->self));
}

void muster_test_pressure(struct muster_test *t, int on)
{
    const struct muster_plugin *p = t->plugin;

    if (t->started && on && MUSTER_HAS(p, on_pause) && p->on_pause)
        DURING(t, "on_pause", NULL, p->on_pause(t->self));
    if (t->started && !on && MUSTER_HAS(p, on_resume) && p->on_resume)
        DURING(t, "on_resume", NULL, p->on_resume(t->self));
    muster_test_run(t);
}

void muster_test_tables_changed(struct muster_test *t)
{
    t->tables_serial++;
    if (t->started && MUSTER_HAS(t->plugin, on_tables) && t->plugin->on_tables)
        DURING(t, "on_tables", NULL, t->plugin->on_tables(t->self));
    muster_test_run(t);
}

void muster_test_link(struct muster_test *t, int up)
{
    if (t->up == !!up || t->phase >= PHASE_ENDING)
        return;
    t->up = up;
    if (!up)
        due_end(t, DUE_LINK, 0, MUSTER_ELINK);
    lease_link(t, up);
    follow_link(t, up);
    if (t->started && MUSTER_HAS(t->plugin, on_link) && t->plugin->on_link)
        DURING(t, "on_link", up ? "up" : "down", t->plugin->on_link(t->self, !!up));
    muster_test_run(t);
}

int muster_test_health(struct muster_test *t, const char **ret_code, const char **ret_text)
{
    if (ret_code)
        *ret_code = t->health_code ? t->health_code : "";
    if (ret_text)
        *ret_text = t->health_text ? t->health_text : "";
    return t->health;
}

size_t muster_test_n_lines(struct muster_test *t)
{
    size_t n;

    pthread_mutex_lock(&t->lock);
    n = t->lines.n;
    pthread_mutex_unlock(&t->lock);
    return n;
}

const struct muster_test_line *muster_test_line(struct muster_test *t, size_t i)
{
    const struct muster_test_line *line;

    pthread_mutex_lock(&t->lock);
    line = i < t->lines.n ? t->lines.items[i] : NULL;
    pthread_mutex_unlock(&t->lock);
    return line;
}

size_t muster_test_logged(struct muster_test *t, const char *words)
{
    size_t n = 0;

    for (size_t i = 0; i < muster_test_n_lines(t); i++)
        n += strstr(muster_test_line(t, i)->text, words) != NULL;
    return n;
}
