/*
 * A host for child/proxy.h without a broker, and a child that is a socket: frames are put into it by hand. For test_proxy.c and
 * fuzz_proxy.c. One proxy at a time.
 */
#ifndef MUSTER_TESTS_PROXY_HOST_H
#define MUSTER_TESTS_PROXY_HOST_H

#include <muster/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "child/proxy.h"

struct fake_tenant {
    const char *name;
    int64_t watches;
};

static struct fake {
    struct muster_host host;
    uv_loop_t loop;
    struct proxy *proxy;
    int child;          /* the other end of its socket */
    struct buf said;    /* what the proxy has told it */
    char log[4096];     /* the last line */
    char health[512];
    uint64_t next_id;
    uint64_t subscription; /* of the message that is delivered */
    muster_msg_fn fn;
    int n_held, n_subs, n_replies, n_errors, n_published, n_streams, n_leases, n_watches;
    int refuse; /* so many calls give MUSTER_EAGAIN */
    int64_t sum, max_msgs, max_msgs_per_subject;
    char error[64];     /* the last code of reply_error() */
    char reply[64];     /* of the last publication */
} fake;

static const struct fake_tenant acme = {"acme", 3}, zeta = {"zeta", -1};

static const struct muster_tenant *handle(const struct fake_tenant *t)
{
    return (const struct muster_tenant *)(const void *)t;
}

/* ---- tables --------------------------------------------------------------------------------------------------------------------- */

static int busy(void)
{
    if (fake.refuse <= 0)
        return 0;
    fake.refuse--;
    return MUSTER_EAGAIN;
}

static int fake_fail(const struct muster_host *host, int code, const char *fmt, ...)
{
    (void)host;
    (void)fmt;
    return code;
}

static void fake_health(const struct muster_host *host, int state, const char *code, const char *fmt, ...)
{
    va_list ap;
    int n = snprintf(fake.health, sizeof fake.health, "%d %s: ", state, code);

    (void)host;
    va_start(ap, fmt);
    (void)vsnprintf(fake.health + n, sizeof fake.health - (size_t)n, fmt, ap);
    va_end(ap);
}

static int fake_subscribe(const struct muster_host *host, const struct muster_subscription *sub, uint64_t *ret_sub)
{
    (void)host;
    fake.fn = sub->fn;
    fake.n_subs++;
    *ret_sub = ++fake.next_id;
    fake.subscription = *ret_sub;
    return 0;
}

static void fake_unsubscribe(const struct muster_host *host, uint64_t sub)
{
    (void)host;
    (void)sub;
    fake.n_subs--;
}

static int fake_publish(const struct muster_host *host, const struct muster_publication *pub)
{
    int err = busy();

    (void)host;
    if (err)
        return err;
    ASSERT(pub->tenant == handle(&acme) || pub->tenant == handle(&zeta));
    fake.n_published++;
    (void)snprintf(fake.reply, sizeof fake.reply, "%s", pub->reply ? pub->reply : "");
    if (pub->done)
        pub->done(pub->arg, 0); /* a host does it later: the proxy must not mind */
    return 0;
}

static int fake_request(const struct muster_host *host, const struct muster_publication *pub, int64_t timeout_ns, muster_reply_fn fn,
                        void *arg)
{
    struct muster_msg msg = {.size = sizeof msg, .encoding = MUSTER_JSON, .subject = "to._muster.a1.1", .payload = {"{}", 2}};
    int err = busy();

    (void)host;
    ASSERT(pub->tenant);
    if (!err && timeout_ns <= 0)
        err = MUSTER_EINVAL;
    if (!err)
        fn(arg, 0, &msg);
    return err;
}

static int fake_reply(const struct muster_host *host, uint64_t request, struct muster_bytes payload)
{
    (void)host;
    ASSERT(request);
    if (payload.len > 1000000)
        return MUSTER_EINVAL;
    fake.n_replies++;
    return busy();
}

static int fake_reply_error(const struct muster_host *host, uint64_t request, const char *code, const char *field, const char *message)
{
    (void)host;
    (void)field;
    ASSERT(request && code && message);
    fake.n_errors++;
    (void)snprintf(fake.error, sizeof fake.error, "%s", code);
    return 0;
}

static int fake_hold(const struct muster_host *host, const struct muster_msg *msg, const struct muster_msg **ret_msg)
{
    struct muster_msg *copy = malloc(sizeof *copy);

    (void)host;
    ASSERT(copy);
    *copy = *msg;
    fake.n_held++;
    *ret_msg = copy;
    return 0;
}

static void fake_drop(const struct muster_host *host, const struct muster_msg *msg)
{
    (void)host;
    fake.n_held--;
    free((void *)(uintptr_t)msg);
}

static void fake_pause(const struct muster_host *host, uint32_t on)
{
    (void)host;
    (void)on;
}

static const struct muster_bus fake_bus = {.size = sizeof fake_bus, .subscribe = fake_subscribe, .unsubscribe = fake_unsubscribe,
                                           .publish = fake_publish, .request = fake_request, .reply = fake_reply,
                                           .reply_error = fake_reply_error, .hold = fake_hold, .drop = fake_drop, .pause = fake_pause};

static int fake_open(const struct muster_host *host, const struct muster_stream_options *options, muster_stream_info_fn fn, void *arg,
                     uint64_t *ret_stream)
{
    const struct muster_stream_info info = {.size = sizeof info};
    int err = busy();

    (void)host;
    ASSERT(options->name && options->subjects && MUSTER_HAS(options, max_msgs_per_subject) && !options->republish);
    fake.max_msgs = options->max_msgs;
    fake.max_msgs_per_subject = options->max_msgs_per_subject;
    if (err)
        return err;
    fake.n_streams++;
    *ret_stream = ++fake.next_id;
    fn(arg, 0, &info);
    return 0;
}

static void fake_close(const struct muster_host *host, uint64_t stream)
{
    (void)host;
    ASSERT(stream);
    fake.n_streams--;
}

static int fake_info(const struct muster_host *host, uint64_t stream, muster_stream_info_fn fn, void *arg)
{
    (void)host;
    (void)stream;
    fn(arg, MUSTER_ENOTFOUND, NULL);
    return 0;
}

static struct muster_msg stored(const struct fake_tenant *tenant)
{
    return (struct muster_msg){.size = sizeof(struct muster_msg), .encoding = MUSTER_JSON, .tenant = handle(tenant), .subject = "acme.x",
                               .payload = {"{}", 2}, .seq = 7};
}

static int fake_last(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                     muster_stream_msg_fn fn, void *arg)
{
    const struct muster_msg msg = stored(&zeta);

    (void)host;
    (void)stream;
    (void)tenant;
    (void)subject;
    fn(arg, 0, &msg);
    return 0;
}

static int fake_append(const struct muster_host *host, uint64_t stream, const struct muster_append *append)
{
    int err = busy();

    (void)host;
    (void)stream;
    ASSERT(append->tenant);
    if (!err && append->acked)
        append->acked(append->arg, 0, 1);
    return err;
}

static int fake_read(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                     uint64_t from_seq, uint32_t max_msgs, muster_stream_msg_fn fn, void *arg)
{
    const struct muster_msg first = stored(&acme), second = stored(&zeta);

    (void)host;
    (void)stream;
    (void)tenant;
    (void)subject;
    (void)from_seq;
    if (!max_msgs || max_msgs > 1000)
        return MUSTER_EINVAL;
    fn(arg, 0, &first);
    fn(arg, 0, &second);
    fn(arg, MUSTER_ENOTFOUND, NULL);
    return 0;
}

static const struct muster_stream fake_stream = {.size = sizeof fake_stream, .open = fake_open, .close = fake_close, .info = fake_info,
                                                 .last = fake_last, .append = fake_append, .read = fake_read};

static int fake_get(const struct muster_host *host, const struct muster_tenant *tenant, const char *key, muster_kv_fn fn, void *arg)
{
    (void)host;
    (void)tenant;
    if (!key)
        return MUSTER_EINVAL;
    fn(arg, 0, (struct muster_bytes){"v", 1}, 3);
    return 0;
}

static int fake_put(const struct muster_host *host, const struct muster_kv_put *put)
{
    int err = busy();

    (void)host;
    if (!err && put->value.len > 65536)
        err = MUSTER_EINVAL;
    if (!err)
        put->fn(put->arg, 0, (struct muster_bytes){0}, 4);
    return err;
}

static int fake_del(const struct muster_host *host, const struct muster_tenant *tenant, const char *key, uint64_t revision, muster_kv_fn fn,
                    void *arg)
{
    (void)revision;
    return fake_get(host, tenant, key, fn, arg);
}

static int fake_scan(const struct muster_host *host, const struct muster_tenant *tenant, const char *prefix, muster_kv_scan_fn fn, void *arg)
{
    const struct muster_kv_entry entry = {.size = sizeof entry, .key = "k", .value = {"v", 1}};

    (void)host;
    (void)tenant;
    if (!prefix)
        return MUSTER_EINVAL;
    fn(arg, 0, &entry);
    fn(arg, 0, NULL);
    return 0;
}

static const struct muster_kv fake_kv = {.size = sizeof fake_kv, .get = fake_get, .put = fake_put, .del = fake_del, .scan = fake_scan};

static int fake_acquire(const struct muster_host *host, const struct muster_lease_options *options, uint64_t *ret_lease)
{
    (void)host;
    if (options->ttl_ns && options->ttl_ns < 3 * CLOCK_S)
        return MUSTER_EINVAL;
    fake.n_leases++;
    *ret_lease = ++fake.next_id;
    options->on_got(options->arg, 5);
    return 0;
}

static void fake_release(const struct muster_host *host, uint64_t lease)
{
    (void)host;
    ASSERT(lease);
    fake.n_leases--;
}

static uint64_t fake_epoch(const struct muster_host *host, uint64_t lease)
{
    (void)host;
    return lease ? 5 : 0;
}

static const struct muster_lease fake_lease = {.size = sizeof fake_lease, .acquire = fake_acquire, .release = fake_release, .epoch = fake_epoch};

static int fake_watch(const struct muster_host *host, muster_connection_fn fn, void *arg, uint64_t *ret_id)
{
    const struct muster_connection gap = {.size = sizeof gap, .kind = MUSTER_SYS_GAP};

    (void)host;
    fake.n_watches++;
    *ret_id = ++fake.next_id;
    fn(arg, &gap);
    return 0;
}

static void fake_unwatch(const struct muster_host *host, uint64_t id)
{
    (void)host;
    ASSERT(id);
    fake.n_watches--;
}

static int fake_list(const struct muster_host *host, muster_connections_fn fn, void *arg)
{
    const struct muster_connection one = {.size = sizeof one, .kind = MUSTER_SYS_CONNECT, .tenant = handle(&zeta), .agent = "a", .server = "S"};

    (void)host;
    fn(arg, 0, &one);
    fn(arg, 0, NULL);
    return 0;
}

static int fake_kick(const struct muster_host *host, const char *server, uint64_t client, muster_done_fn done, void *arg)
{
    (void)host;
    (void)client;
    ASSERT(server);
    done(arg, 0);
    return 0;
}

static const struct muster_sys fake_sys = {.size = sizeof fake_sys, .watch = fake_watch, .unwatch = fake_unwatch, .list = fake_list,
                                           .kick = fake_kick};

static const char *fake_name(const struct muster_tenant *tenant)
{
    return ((const struct fake_tenant *)(const void *)tenant)->name;
}

static int fake_limits(const struct muster_host *host, const struct muster_tenant *tenant, struct muster_tenant_limits *limits)
{
    (void)host;
    (void)tenant;
    limits->encoding = MUSTER_JSON;
    return 0;
}

static int64_t fake_limit(const struct muster_host *host, const struct muster_tenant *tenant, const char *name)
{
    (void)host;
    return strcmp(name, "watches") == 0 ? ((const struct fake_tenant *)(const void *)tenant)->watches : -1;
}

static int fake_each(const struct muster_host *host, muster_tenant_fn fn, void *arg)
{
    (void)host;
    fn(arg, handle(&acme));
    fn(arg, handle(&zeta));
    return 0;
}

static int fake_refresh(const struct muster_host *host, const char *name, size_t len, muster_tenant_found_fn fn, void *arg)
{
    (void)host;
    (void)name;
    fn(arg, len ? 0 : MUSTER_ENOTFOUND, len ? handle(&zeta) : NULL);
    return 0;
}

static int fake_tables(const struct muster_host *host, muster_table_fn fn, void *arg, uint64_t *ret_serial)
{
    const struct muster_table row = {.size = sizeof row, .schema = "public", .table = "notes", .tenant = "zeta"};

    (void)host;
    fn(arg, &row);
    *ret_serial = 9;
    return 0;
}

static const struct muster_tenants fake_tenants = {.size = sizeof fake_tenants, .name = fake_name, .limits = fake_limits, .each = fake_each,
                                                   .refresh = fake_refresh, .tables = fake_tables, .limit = fake_limit};

static int fake_every(const struct muster_host *host, int64_t period_ns, muster_timer_fn fn, uint64_t *ret_id)
{
    (void)host;
    (void)period_ns;
    (void)fn;
    *ret_id = ++fake.next_id;
    return 0;
}

static void fake_stop(const struct muster_host *host, uint64_t id)
{
    (void)host;
    (void)id;
}

static const struct muster_timer fake_timer = {.size = sizeof fake_timer, .every = fake_every, .once = fake_every, .stop = fake_stop};

static int fake_io_watch(const struct muster_host *host, int fd, uint32_t events, muster_io_fn fn, void *arg, uint64_t *ret_id)
{
    (void)host;
    (void)fd;
    (void)events;
    (void)fn;
    (void)arg;
    *ret_id = ++fake.next_id;
    return 0;
}

static const struct muster_io fake_io = {.size = sizeof fake_io, .watch = fake_io_watch, .unwatch = fake_stop};

static int fake_make(const struct muster_host *host, int type, const char *name, const char *help, const char *label, uint64_t *ret_metric)
{
    (void)host;
    (void)type;
    (void)help;
    (void)label;
    *ret_metric = ++fake.next_id;
    return strchr(name, ' ') ? MUSTER_EINVAL : 0;
}

static void fake_add(const struct muster_host *host, uint64_t metric, const char *label_value, int64_t by)
{
    (void)host;
    (void)label_value;
    ASSERT(metric);
    fake.sum = (int64_t)((uint64_t)fake.sum + (uint64_t)by);
}

static const struct muster_metrics fake_metrics = {.size = sizeof fake_metrics, .make = fake_make, .add = fake_add, .set = fake_add};

static int fake_service(const struct muster_host *host, const char *id, const void **ret_table)
{
    static const struct {
        const char *id;
        const void *table;
    } tables[] = {{MUSTER_BUS, &fake_bus}, {MUSTER_STREAM, &fake_stream}, {MUSTER_KV, &fake_kv}, {MUSTER_LEASE, &fake_lease},
                  {MUSTER_SYS, &fake_sys}, {MUSTER_TENANT, &fake_tenants}, {MUSTER_TIMER, &fake_timer}, {MUSTER_IO, &fake_io},
                  {MUSTER_METRICS, &fake_metrics}};

    (void)host;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (strcmp(tables[i].id, id) == 0)
            *ret_table = tables[i].table;
    return 0;
}

/* ---- hooks ---------------------------------------------------------------------------------------------------------------------- */

static int hook_spawn(void *arg, struct spawn *ret_child, char why[SPAWN_WHY_SIZE]);

static void hook_put(void *arg, struct frame *f)
{
    (void)arg;
    frame_put_str(f, "x");
}

static int hook_is_same(void *arg, struct frame_reader *r, char why[PROXY_WHY_SIZE])
{
    (void)arg;
    (void)snprintf(why, PROXY_WHY_SIZE, "another");
    return frame_is_read(r) ? 0 : MUSTER_EEXIST;
}

static void hook_log(void *arg, int level, const char *text)
{
    (void)arg;
    (void)level;
    (void)snprintf(fake.log, sizeof fake.log, "%s", text);
}

static void hook_reason(void *arg, char *out, size_t size)
{
    (void)arg;
    (void)snprintf(out, size, "a reason");
}

static uint64_t hook_subscription(void *arg)
{
    (void)arg;
    return fake.subscription;
}

static void hook_nothing(void *arg)
{
    (void)arg;
}

static void hook_failed(void *arg, const struct muster_msg *msg, int code)
{
    (void)arg;
    ASSERT(msg && code);
    fake.n_errors++;
}

static int hook_make(void *arg, int type, const char *name, const char *help, const char *label, uint64_t *ret_metric)
{
    (void)arg;
    return fake_make(NULL, type, name, help, label, ret_metric);
}

static int hook_merge(void *arg, uint64_t metric, const uint64_t *counts, size_t n_counts, int64_t sum_ns)
{
    (void)arg;
    (void)sum_ns;
    ASSERT(metric && (n_counts == 0 || counts));
    return n_counts == 3 ? 0 : MUSTER_EINVAL;
}

static int64_t hook_until(void *arg, uint64_t lease)
{
    (void)arg;
    return lease ? clock_boot_ns() + CLOCK_S : 0;
}

static const struct proxy_hooks fake_hooks = {.spawn = hook_spawn, .put_sandbox = hook_put, .put_settings = hook_put, .is_same = hook_is_same,
                                              .log = hook_log, .reason = hook_reason, .subscription = hook_subscription,
                                              .waits = hook_nothing, .go_on = hook_nothing, .failed = hook_failed, .make_metric = hook_make, .merge_metric = hook_merge,
                                              .lease_until = hook_until};

/* ---- the child ------------------------------------------------------------------------------------------------------------------- */

/* Let the proxy read, and keep what it says. */
static void turn(void)
{
    char bytes[65536];
    ssize_t n;

    for (int i = 0; i < 8; i++)
        (void)uv_run(&fake.loop, UV_RUN_NOWAIT);
    while ((n = recv(fake.child, bytes, sizeof bytes, MSG_DONTWAIT)) > 0)
        buf_put(&fake.said, bytes, (size_t)n);
}

/* All of it, unless the proxy reads no more. */
static void say_bytes(const void *data, size_t len)
{
    size_t sent = 0;

    for (int i = 0; i < 1000 && sent < len; i++) {
        ssize_t n = send(fake.child, (const char *)data + sent, len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

        sent += n > 0 ? (size_t)n : 0;
        if (sent < len)
            turn();
    }
}

static void say(struct buf *b, struct frame *f)
{
    ASSERT(frame_end(f) == 0);
    say_bytes(b->data, b->len);
    buf_done(b);
}

static void say_code(uint16_t type, int32_t code)
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, type, 0);

    frame_put_i32(&f, code);
    frame_put_str(&f, NULL);
    say(&b, &f);
}

static void say_hello(void)
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_HELLO, 0);

    frame_put_u32(&f, FRAME_VERSION);
    frame_put_u32(&f, 0);
    say(&b, &f);
}

static void say_subscribe(uint64_t id, const char *pattern)
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_SUBSCRIBE, id);

    frame_put_u32(&f, MUSTER_OVERFLOW_REJECT);
    frame_put_str(&f, pattern);
    frame_put_u32(&f, 10);
    frame_put_u32(&f, 1);
    frame_put_u64(&f, 1000);
    say(&b, &f);
}

static void say_stream_open(uint64_t id, const char *name, const char *subjects)
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_STREAM_OPEN, id);

    frame_put_u64(&f, 50);
    frame_put_str(&f, name);
    frame_put_str(&f, subjects);
    frame_put_u32(&f, 1);
    frame_put_i64(&f, 0);
    frame_put_i64(&f, 0);
    frame_put_i64(&f, 1000);
    frame_put_i64(&f, 10);
    say(&b, &f);
}

static void say_metric(uint64_t id)
{
    struct buf b = {0};
    struct frame f = frame_begin(&b, FRAME_METRIC_MAKE, id);

    frame_put_u32(&f, MUSTER_GAUGE);
    frame_put_str(&f, "open");
    frame_put_str(&f, "Help.");
    frame_put_str(&f, NULL);
    say(&b, &f);
}

static int hook_spawn(void *arg, struct spawn *ret_child, char why[SPAWN_WHY_SIZE])
{
    int ends[2];

    (void)arg;
    (void)why;
    ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    if (fake.child >= 0)
        (void)close(fake.child);
    fake.child = ends[1];
    say_hello();
    say_metric(1);
    say_code(FRAME_CREATED, 0);
    *ret_child = (struct spawn){.socket = ends[0], .err = -1, .pidfd = -1};
    return 0;
}

static int deliver(const struct fake_tenant *tenant, uint64_t request)
{
    const struct muster_msg msg = {.size = sizeof msg, .encoding = MUSTER_JSON, .tenant = handle(tenant), .agent = "a1",
                                   .subject = "rpc.a1.acme.say", .service = "acme", .verb = "say", .request = request, .payload = {"{}", 2}};

    return fake.fn(fake.proxy, &msg);
}

static const struct proxy_options *fake_options(void)
{
    static const char *const services[] = {"acme"}, *const tenants[] = {"acme"}, *const capabilities[] = {"stream", "cross_tenant", "system"},
                             *const publish[] = {"to.>"};
    static const struct muster_plugin plugin = {.name = "acme", .version = "1.0"};
    static struct proxy_options options;

    options = (struct proxy_options){.host = &fake.host, .plugin = &plugin,
                                     .policy = {.plugin = "acme", .services = services, .n_services = 1, .publish = publish, .n_publish = 1},
                                     .capabilities = {capabilities, 3}, .tenants = {tenants, 1}, .delay_ns = CLOCK_S,
                                     .max_delay_ns = CLOCK_S, .cpu = 64, .loop = &fake.loop, .hooks = &fake_hooks};
    return &options;
}

/* A proxy whose child runs, hears rpc.*.acme.> as its subscription 1, and knows the gauge 1. With refuse it opens a stream in its
 * start(), for which there is no room so often. */
static void fake_begin_with(int refuse)
{
    fake = (struct fake){.child = -1};
    fake.host = (struct muster_host){.size = sizeof fake.host, .fail = fake_fail, .service = fake_service, .health = fake_health,
                                     .plugin = "acme", .instance = "main", .n_lanes = 1, .broker_id = "b"};
    ASSERT(uv_loop_init(&fake.loop) == 0);
    ASSERT(proxy_new(fake_options(), &fake.proxy) == 0);
    say_subscribe(1, "rpc.*.acme.>");
    if (refuse)
        say_stream_open(1, "acme", "acme.>");
    fake.refuse = refuse;
    say_code(FRAME_STARTED, 0);
    ASSERT(proxy_start(fake.proxy) == 0);
    turn();
}

static void fake_begin(void)
{
    fake_begin_with(0);
}

static void on_walk(uv_handle_t *handle_of_loop, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle_of_loop))
        uv_close(handle_of_loop, NULL);
}

static void fake_end(void)
{
    (void)shutdown(fake.child, SHUT_RDWR); /* or it would be waited for */
    proxy_destroy(fake.proxy);
    (void)close(fake.child);
    (void)uv_run(&fake.loop, UV_RUN_DEFAULT);
    uv_walk(&fake.loop, on_walk, NULL);
    (void)uv_run(&fake.loop, UV_RUN_DEFAULT);
    ASSERT(uv_loop_close(&fake.loop) == 0);
    buf_done(&fake.said);
    fake.said = (struct buf){0};
}

#endif
