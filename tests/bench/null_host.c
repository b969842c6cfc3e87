/*
 * null_host - runs the cdc plugin itself, loaded from its .so, in a host whose stream is nowhere: decode, route, body, headers, window
 * and frontier are the plugin's own code, only NATS is missing. Every append succeeds, every acknowledgement comes with the next turn.
 *
 * Threads  One: the loop below is the plugin's lane.
 */
#include <dlfcn.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/map.h"
#include "cdc/cdc.h"
#include "common.h"

struct muster_tenant {
    char name[16];
};

/* Work for the next turn of the loop. */
struct task {
    void (*post)(void *arg);
    muster_stream_info_fn info;
    muster_stream_msg_fn msg;
    muster_stream_ack_fn ack;
    muster_kv_fn kv;
    muster_done_fn done;
    muster_sql_fn sql;
    void *arg;
    uint64_t seq;
    int code;
};

enum { MAX_TASKS = 4096 };

static struct {
    struct task tasks[MAX_TASKS]; /* a ring; the window bounds what can wait */
    uint32_t head, n;
    struct map tenants;
    int fd;
    short events;
    muster_io_fn on_io;
    void *io_arg;
    uint64_t rows, revision;
    int64_t end_ns;
    bool done;
} host_state = {.fd = -1};

static void later(const struct task *task)
{
    if (host_state.n == MAX_TASKS)
        fail("more than %d tasks wait", MAX_TASKS);
    host_state.tasks[(host_state.head + host_state.n++) % MAX_TASKS] = *task;
}

static uint64_t visible_stmt;

static const char *say_null(const struct muster_sql_result *result, uint32_t row, uint32_t column)
{
    (void)result;
    (void)row;
    (void)column;
    return NULL;
}

static const char *say_true(const struct muster_sql_result *result, uint32_t row, uint32_t column)
{
    (void)result;
    (void)row;
    (void)column;
    return "t";
}

static void run_task(const struct task *t)
{
    struct muster_stream_info info = {.size = sizeof info, .created_wall_ns = 1};

    if (t->post)
        t->post(t->arg);
    else if (t->info)
        t->info(t->arg, 0, &info);
    else if (t->msg)
        t->msg(t->arg, MUSTER_ENOTFOUND, NULL);
    else if (t->ack)
        t->ack(t->arg, 0, t->seq);
    else if (t->kv)
        t->kv(t->arg, t->code, (struct muster_bytes){0}, t->seq);
    else if (t->done)
        t->done(t->arg, 0);
    else
        t->sql(t->arg, &(struct muster_sql_result){
                           .size = sizeof(struct muster_sql_result), .error = "", .sqlstate = "", .n_rows = 1, .get = t->code ? say_true : say_null});
}

static bool run_tasks(void)
{
    uint32_t n = host_state.n;

    for (uint32_t i = 0; i < n; i++) {
        struct task t = host_state.tasks[host_state.head];

        host_state.head = (host_state.head + 1) % MAX_TASKS;
        host_state.n--;
        run_task(&t);
    }
    return n > 0;
}

/* ---- the core table ---------------------------------------------------------------------------------------------------------- */

static void say(const char *fmt, va_list ap)
{
    (void)fputs("cdc: ", stderr);
    (void)vfprintf(stderr, fmt, ap);
    (void)fputc('\n', stderr);
}

/* Faults come by health(); the rest is of no interest here. */
static void host_log(const struct muster_host *host, int level, const char *fmt, ...)
{
    (void)host;
    (void)level;
    (void)fmt;
}

static int host_fail(const struct muster_host *host, int code, const char *fmt, ...)
{
    va_list ap;

    (void)host;
    va_start(ap, fmt);
    say(fmt, ap);
    va_end(ap);
    return code;
}

static void host_health(const struct muster_host *host, int state, const char *code, const char *fmt, ...)
{
    va_list ap;

    (void)host;
    if (state == MUSTER_HEALTH_OK)
        return;
    va_start(ap, fmt);
    say(fmt, ap);
    va_end(ap);
    fail("the plugin reports %s", code);
}

static int host_post(const struct muster_host *host, void (*fn)(void *arg), void *arg)
{
    (void)host;
    later(&(struct task){.post = fn, .arg = arg});
    return 0;
}

/* ---- streams, keys ------------------------------------------------------------------------------------------------------------- */

static int open_stream(const struct muster_host *host, const struct muster_stream_options *o, muster_stream_info_fn fn, void *arg,
                       uint64_t *ret_stream)
{
    (void)host;
    (void)o;
    *ret_stream = 1;
    later(&(struct task){.info = fn, .arg = arg});
    return 0;
}

static void close_stream(const struct muster_host *host, uint64_t stream)
{
    (void)host;
    (void)stream;
}

static int last_message(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                        muster_stream_msg_fn fn, void *arg)
{
    (void)host;
    (void)stream;
    (void)tenant;
    (void)subject;
    later(&(struct task){.msg = fn, .arg = arg});
    return 0;
}

static int append(const struct muster_host *host, uint64_t stream, const struct muster_append *a)
{
    (void)host;
    (void)stream;
    host_state.rows++;
    if (a->acked)
        later(&(struct task){.ack = a->acked, .arg = a->arg, .seq = a->expected_seq + 1});
    if (strcmp(a->tenant->name, "marker") == 0) {
        host_state.end_ns = clock_wall_ns();
        host_state.done = true;
    }
    return 0;
}

static int kv_get(const struct muster_host *host, const struct muster_tenant *tenant, const char *key, muster_kv_fn fn, void *arg)
{
    (void)host;
    (void)tenant;
    (void)key;
    later(&(struct task){.kv = fn, .arg = arg, .code = MUSTER_ENOTFOUND});
    return 0;
}

static int kv_put(const struct muster_host *host, const struct muster_kv_put *put)
{
    (void)host;
    later(&(struct task){.kv = put->fn, .arg = put->arg, .seq = ++host_state.revision});
    return 0;
}

/* ---- bus, timers, descriptors ---------------------------------------------------------------------------------------------------- */

static int publish(const struct muster_host *host, const struct muster_publication *pub)
{
    (void)host;
    if (pub->done) /* the gap that a copied slot is; nobody listens */
        later(&(struct task){.done = pub->done, .arg = pub->arg});
    return 0;
}

/* No timer runs: the run is short, and what ticks confirm is a copy of a slot. */
static int timer(const struct muster_host *host, int64_t ns, muster_timer_fn fn, uint64_t *ret_id)
{
    (void)host;
    (void)ns;
    (void)fn;
    *ret_id = 1;
    return 0;
}

static void timer_stop(const struct muster_host *host, uint64_t id)
{
    (void)host;
    (void)id;
}

static int64_t now(const struct muster_host *host)
{
    (void)host;
    return clock_now_ns();
}

static int64_t wall_now(const struct muster_host *host)
{
    (void)host;
    return clock_wall_ns();
}

static int io_change(const struct muster_host *host, uint64_t id, uint32_t events)
{
    (void)host;
    (void)id;
    host_state.events = (short)((events & MUSTER_READABLE ? POLLIN : 0) | (events & MUSTER_WRITABLE ? POLLOUT : 0));
    return 0;
}

static int io_watch(const struct muster_host *host, int fd, uint32_t events, muster_io_fn fn, void *arg, uint64_t *ret_id)
{
    host_state.fd = fd;
    host_state.on_io = fn;
    host_state.io_arg = arg;
    *ret_id = 1;
    return io_change(host, 1, events);
}

static void io_unwatch(const struct muster_host *host, uint64_t id)
{
    (void)host;
    (void)id;
    host_state.fd = -1;
}

/* ---- tenants, metrics, sql ---------------------------------------------------------------------------------------------------------- */

static const char *tenant_name(const struct muster_tenant *tenant)
{
    return tenant->name;
}

static int tenant_limits(const struct muster_host *host, const struct muster_tenant *tenant, struct muster_tenant_limits *limits)
{
    (void)host;
    (void)tenant;
    *limits = (struct muster_tenant_limits){.size = limits->size, .encoding = MUSTER_JSON};
    return 0;
}

static int64_t tenant_limit(const struct muster_host *host, const struct muster_tenant *tenant, const char *name)
{
    (void)host;
    (void)tenant;
    (void)name;
    return -1;
}

static const struct muster_tenant *tenant_find(const struct muster_host *host, const char *name, size_t len)
{
    (void)host;
    return map_get(&host_state.tenants, name, len);
}

static int tenant_each(const struct muster_host *host, muster_tenant_fn fn, void *arg)
{
    void *tenant;

    (void)host;
    for (size_t at = 0; map_next(&host_state.tenants, &at, NULL, &tenant);)
        fn(arg, tenant);
    return 0;
}

static int tenant_refresh(const struct muster_host *host, const char *name, size_t len, muster_tenant_found_fn fn, void *arg)
{
    (void)host;
    (void)fn;
    (void)arg;
    fail("tenant %.*s: unknown", (int)len, name);
}

static int tenant_tables(const struct muster_host *host, muster_table_fn fn, void *arg, uint64_t *ret_serial)
{
    (void)host;
    (void)fn;
    (void)arg;
    *ret_serial = 1;
    return 0;
}

static void add_tenant(const char *name)
{
    struct muster_tenant *tenant = calloc(1, sizeof *tenant);

    if (!tenant || !map_put(&host_state.tenants, name, strlen(name), tenant))
        fail("no memory");
    (void)snprintf(tenant->name, sizeof tenant->name, "%s", name);
}

static int make_metric(const struct muster_host *host, int type, const char *name, const char *help, const char *label,
                       uint64_t *ret_metric)
{
    (void)host;
    (void)type;
    (void)name;
    (void)help;
    (void)label;
    *ret_metric = 1;
    return 0;
}

static void add_metric(const struct muster_host *host, uint64_t metric, const char *label_value, int64_t by)
{
    (void)host;
    (void)metric;
    (void)label_value;
    (void)by;
}

static void observe_metric(const struct muster_host *host, uint64_t metric, int64_t ns)
{
    (void)host;
    (void)metric;
    (void)ns;
}

static int prepare(const struct muster_host *host, const char *name, int kind, const char *statement, uint64_t *ret_stmt)
{
    static uint64_t n_stmts;

    (void)host;
    (void)kind;
    (void)statement;
    *ret_stmt = ++n_stmts;
    if (strcmp(name, "cdc_visible") == 0)
        visible_stmt = n_stmts;
    return 0;
}

/* Every transaction is visible. Every other statement finds NULL: the table has no settings of its own, and its types are built in. */
static int exec(const struct muster_host *host, uint64_t stmt, const struct muster_tenant *tenant, const char *order_key,
                uint32_t n_params, const struct muster_bytes *params, muster_sql_fn fn, void *arg)
{
    (void)host;
    (void)tenant;
    (void)order_key;
    (void)n_params;
    (void)params;
    later(&(struct task){.sql = fn, .code = stmt == visible_stmt, .arg = arg});
    return 0;
}

/* ---- life -------------------------------------------------------------------------------------------------------------------------- */

static const struct muster_stream stream_table = {
    .size = sizeof stream_table, .open = open_stream, .close = close_stream, .last = last_message, .append = append};
static const struct muster_kv kv_table = {.size = sizeof kv_table, .get = kv_get, .put = kv_put};
static const struct muster_bus bus_table = {.size = sizeof bus_table, .publish = publish};
static const struct muster_timer timer_table = {
    .size = sizeof timer_table, .every = timer, .once = timer, .stop = timer_stop, .now = now, .wall_now = wall_now};
static const struct muster_io io_table = {.size = sizeof io_table, .watch = io_watch, .change = io_change, .unwatch = io_unwatch};
static const struct muster_tenants tenants_table = {.size = sizeof tenants_table,
                                                    .name = tenant_name,
                                                    .limits = tenant_limits,
                                                    .find = tenant_find,
                                                    .each = tenant_each,
                                                    .refresh = tenant_refresh,
                                                    .tables = tenant_tables,
                                                    .limit = tenant_limit};
static const struct muster_metrics metrics_table = {
    .size = sizeof metrics_table, .make = make_metric, .add = add_metric, .set = add_metric, .observe = observe_metric};
static const struct muster_sql sql_table = {.size = sizeof sql_table, .prepare = prepare, .exec = exec};
static const struct muster_codec codec_table = {.size = sizeof codec_table};

static int service(const struct muster_host *host, const char *id, const void **ret_table)
{
    static const struct {
        const char *id;
        const void *table;
    } all[] = {{MUSTER_STREAM, &stream_table},   {MUSTER_KV, &kv_table},           {MUSTER_BUS, &bus_table},
               {MUSTER_TIMER, &timer_table},     {MUSTER_IO, &io_table},           {MUSTER_TENANT, &tenants_table},
               {MUSTER_METRICS, &metrics_table}, {MUSTER_SQL, &sql_table},         {MUSTER_CODEC, &codec_table}};

    (void)host;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strcmp(all[i].id, id) == 0) {
            *ret_table = all[i].table;
            return 0;
        }
    }
    return MUSTER_EABI;
}

static const struct muster_plugin *load(const char *path)
{
    const struct muster_plugin *(*entry)(void);
    void *so = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    void *symbol = so ? dlsym(so, "muster_plugin_entry_v0") : NULL;

    if (!symbol)
        fail("%s", path ? dlerror() : "--plugin is missing");
    memcpy(&entry, &symbol, sizeof entry); /* ISO C has no cast from an object to a function */
    return entry();
}

static void loop(void)
{
    while (!host_state.done) {
        struct pollfd p = {.fd = host_state.events ? host_state.fd : -1, .events = host_state.events};
        bool busy = run_tasks();

        if (poll(&p, 1, busy || host_state.n ? 0 : 100) > 0)
            host_state.on_io(host_state.io_arg, (p.revents & POLLOUT ? MUSTER_WRITABLE : 0u) | MUSTER_READABLE);
    }
}

static int sender_of(const struct args *args)
{
    const char *values[] = {args->slot};
    PGconn *conn = PQconnectdb(args->dsn);
    PGresult *r = PQexecParams(conn, "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1", 1, NULL, values, NULL, NULL, 0);
    int pid = PQntuples(r) == 1 ? atoi(PQgetvalue(r, 0, 0)) : 0;

    PQclear(r);
    PQfinish(conn);
    return pid;
}

static void add_tenants(void)
{
    char name[16];

    for (int i = 0; i < 16; i++) {
        (void)snprintf(name, sizeof name, "t%d", i);
        add_tenant(name);
    }
    add_tenant("marker");
}

int main(int argc, char **argv)
{
    struct args args = {0};
    struct muster_host host = {.size = sizeof host, .abi_major = MUSTER_ABI_MAJOR, .abi_minor = MUSTER_ABI_MINOR, .log = host_log,
                               .fail = host_fail, .post = host_post, .service = service, .health = host_health, .plugin = "cdc",
                               .n_lanes = 1, .broker_id = "bench"};
    struct cdc_config config = {.tenant_column = "tenant_id", .window_msgs = 8192, .window_bytes = 16 << 20};
    const struct muster_plugin *plugin;
    void *self;

    args_parse(&args, argc, argv);
    host.postgres_dsn = args.dsn;
    host.instance = args.source;
    config.slot = args.slot;
    config.publication = args.publication;
    add_tenants();
    plugin = load(args.plugin);
    if (plugin->create(&host, &config, &self) || plugin->start(self))
        fail("the plugin did not start");
    plugin->on_link(self, 1);
    loop();
    report(host_state.rows, host_state.end_ns, sender_of(&args));
    plugin->destroy(self);
    return 0;
}
