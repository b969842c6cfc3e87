/*
 * wrong - a plugin that breaks one rule of the header, the one that its setting names: for the tests of what the test host and
 * `muster plugin check` find.
 */
#include <fcntl.h>
#include <locale.h>
#include <muster/plugin.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEEDS                                                                                                          \
    "none|early|late_service|off_lane|forget|twice|no_json|misfit|unheld|double_drop|keep_held|stale|stale_pointer|"   \
    "stale_read|keep_doc|keep_writer|keep_thread|keep_fd|handler|umask|folder|environment|locale|leak|null_fn|no_size|" \
    "wildcard|no_bounds|no_tenant|bad_stmt|positive|no_reason|block|spin|after|closed_fd|again_held|bad_code|"         \
    "counter_falls|bad_metric|write_stdout|crash|crash_create|hang|exit|check_service|leak_slowly|static_self|fall_on_fault|"        \
    "reply_to_other|reply_abroad"
enum deed { /* in the order of DEEDS */
    NONE, EARLY, LATE_SERVICE, OFF_LANE, FORGET, TWICE, NO_JSON, MISFIT, UNHELD, DOUBLE_DROP, KEEP_HELD, STALE, STALE_POINTER,
    STALE_READ, KEEP_DOC, KEEP_WRITER, KEEP_THREAD, KEEP_FD, HANDLER, UMASK, FOLDER, ENVIRONMENT, LOCALE, LEAK, NULL_FN, NO_SIZE,
    WILDCARD, NO_BOUNDS, NO_TENANT, BAD_STMT, POSITIVE, NO_REASON, BLOCK, SPIN, AFTER, CLOSED_FD, AGAIN_HELD, BAD_CODE,
    COUNTER_FALLS, BAD_METRIC, WRITE_STDOUT, CRASH, CRASH_CREATE, HANG, EXIT, CHECK_SERVICE, LEAK_SLOWLY, STATIC_SELF, FALL_ON_FAULT,
    REPLY_TO_OTHER, REPLY_ABROAD
};

struct wrong_config {
    int32_t deed;
};

struct wrong {
    const struct muster_host *host;
    enum deed deed;
    const struct muster_bus *bus;
    const struct muster_timer *timer;
    const struct muster_codec *codec;
    const struct muster_metrics *metrics;
    const struct muster_sql *sql;
    const struct muster_io *io;
    uint64_t count, stmt, id;
    const struct muster_msg *kept, *held;
    const char *text;
    int fds[2];
};

static void *volatile lost; /* so that what is lost is not optimised away */

static int answer(struct wrong *w, const struct muster_msg *msg)
{
    static const struct muster_bytes json = {"{\"n\": 1}", 8}, msgpack = {"\x81\xa1n\x01", 4};

    return w->bus->reply(w->host, msg->request, msg->encoding == MUSTER_JSON ? json : msgpack);
}

static void publish(struct wrong *w, const struct muster_tenant *tenant, const char *subject, const void *data, size_t len)
{
    const struct muster_publication pub = {.size = w->deed == NO_SIZE ? 0 : sizeof pub,
                                           .tenant = tenant,
                                           .subject = subject,
                                           .payload = {data, len},
                                           .reply = w->deed == REPLY_TO_OTHER ? "rpc.bob.wrong.took.r"
                                                    : w->deed == REPLY_ABROAD ? "rpc.ann.task.accept.r"
                                                                              : NULL};

    (void)w->bus->publish(w->host, &pub);
}

static void *call_timer(void *arg)
{
    struct wrong *w = arg;
    uint64_t id;

    (void)w->timer->once(w->host, 1, NULL, &id);
    return NULL;
}

static void *sleep_long(void *arg)
{
    (void)sleep(3);
    return arg;
}

static void on_signal(int s)
{
    (void)s;
}

static void on_again(void *arg)
{
    struct wrong *w = arg;

    (void)w->host->post(w->host, on_again, w);
}

static void on_io(void *arg, uint32_t events)
{
    (void)arg;
    (void)events;
}

/* Deeds that a request leads to and that leave its answer to the caller. */
static void change_process(struct wrong *w)
{
    pthread_t thread;

    if (w->deed == KEEP_THREAD && pthread_create(&thread, NULL, sleep_long, NULL) == 0)
        (void)pthread_detach(thread);
    if (w->deed == KEEP_FD)
        (void)open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (w->deed == HANDLER)
        (void)signal(SIGUSR1, on_signal);
    if (w->deed == UMASK)
        (void)umask(0123);
    if (w->deed == FOLDER)
        (void)!chdir("/proc");
    if (w->deed == ENVIRONMENT)
        (void)setenv("WRONG", "1", 1);
    if (w->deed == LOCALE)
        (void)setlocale(LC_ALL, "C.UTF-8");
    if (w->deed == LEAK || w->deed == LEAK_SLOWLY)
        lost = malloc(4000);
    lost = NULL;
    if (w->deed == WRITE_STDOUT)
        (void)!write(STDOUT_FILENO, "look at me\n", 11);
}

static void call_badly(struct wrong *w, const struct muster_msg *msg)
{
    pthread_t thread;
    struct muster_value *doc;
    struct muster_writer *writer;
    const void *table;

    if (w->deed == OFF_LANE && pthread_create(&thread, NULL, call_timer, w) == 0)
        (void)pthread_join(thread, NULL);
    if (w->deed == LATE_SERVICE)
        (void)w->host->service(w->host, MUSTER_KV, &table);
    if (w->deed == KEEP_DOC)
        (void)w->codec->decode(w->host, msg->encoding, msg->payload, &doc);
    if (w->deed == KEEP_WRITER)
        (void)w->codec->writer_new(w->host, MUSTER_JSON, &writer);
    if (w->deed == NULL_FN)
        (void)w->timer->once(w->host, 1, NULL, &w->id);
    if (w->deed == NO_SIZE)
        publish(w, msg->tenant, "all.wrong.x", "{}", 2);
    if (w->deed == REPLY_TO_OTHER || w->deed == REPLY_ABROAD)
        publish(w, msg->tenant, "to.ann._muster.x", "{}", 2);
    if (w->deed == WILDCARD)
        publish(w, msg->tenant, "all.*.x", "{}", 2);
    if (w->deed == NO_TENANT)
        publish(w, NULL, "all.wrong.x", "{}", 2);
    if (w->deed == BAD_STMT)
        (void)w->sql->exec(w->host, w->stmt, msg->tenant, NULL, 0, NULL, NULL, w);
    if (w->deed == SPIN)
        on_again(w);
    if (w->deed == COUNTER_FALLS)
        w->metrics->add(w->host, w->count, NULL, -1);
    if (w->deed == BAD_METRIC)
        w->metrics->set(w->host, w->count, NULL, 1);
    if (w->deed == CLOSED_FD && !w->fds[0] && pipe2(w->fds, O_CLOEXEC) == 0 &&
        w->io->watch(w->host, w->fds[0], MUSTER_READABLE, on_io, w, &w->id) == 0)
        (void)close(w->fds[0]);
}

static void keep(struct wrong *w, const struct muster_msg *msg)
{
    if (w->deed == STALE_POINTER && w->text)
        publish(w, msg->tenant, "all.wrong.x", w->text, 2);
    if (w->deed == STALE && w->kept)
        (void)w->bus->hold(w->host, w->kept, &w->held);
    if (w->deed == STALE_READ && w->kept)
        lost = (void *)(uintptr_t)w->kept->payload.len;
    lost = NULL;
    w->kept = msg;
    w->text = msg->payload.data;
}

static int misbehave(struct wrong *w, const struct muster_msg *msg)
{
    if (w->deed == CRASH)
        abort();
    if (w->deed == HANG)
        for (;;)
            (void)pause();
    if (w->deed == EXIT)
        exit(0);
    if (w->deed == BLOCK)
        (void)usleep(2200 * 1000);
    if (w->deed == UNHELD || w->deed == DOUBLE_DROP)
        (void)w->bus->hold(w->host, msg, &w->held);
    if (w->deed == DOUBLE_DROP)
        (void)answer(w, msg);
    if (w->deed == UNHELD || w->deed == DOUBLE_DROP)
        w->bus->drop(w->host, w->held);
    if (w->deed == DOUBLE_DROP)
        w->bus->drop(w->host, w->held);
    if (w->deed == AGAIN_HELD || w->deed == KEEP_HELD)
        (void)w->bus->hold(w->host, msg, &w->held);
    return w->deed == AGAIN_HELD ? MUSTER_EAGAIN : w->deed == POSITIVE ? 1 : 0;
}

static int on_do(void *self, const struct muster_msg *msg)
{
    struct wrong *w = self;
    int err;

    if (!msg->request)
        return 0;
    change_process(w);
    call_badly(w, msg);
    keep(w, msg);
    err = misbehave(w, msg);
    if (err || w->deed == FORGET || w->deed == UNHELD || w->deed == DOUBLE_DROP)
        return err;
    if (w->deed == NO_JSON)
        return w->bus->reply(w->host, msg->request, (struct muster_bytes){"{\"n\":", 5});
    if (w->deed == MISFIT)
        return w->bus->reply(w->host, msg->request,
                             msg->encoding == MUSTER_JSON ? (struct muster_bytes){"{\"n\": \"one\"}", 12}
                                                          : (struct muster_bytes){"\x81\xa1n\xa1x", 5});
    if (w->deed == BAD_CODE)
        (void)w->bus->reply_error(w->host, msg->request, "no_such_code", NULL, "text");
    err = answer(w, msg);
    if (w->deed == FALL_ON_FAULT && err)
        abort();
    if (w->deed == TWICE)
        (void)answer(w, msg);
    return err;
}

static int wrong_start(void *self)
{
    struct wrong *w = self;
    struct muster_subscription sub = {.size = sizeof sub,
                                      .subject = "rpc.*.wrong.do",
                                      .queue = 1,
                                      .max_msgs = w->deed == NO_BOUNDS ? 0 : 100,
                                      .max_bytes = 1 << 20,
                                      .fn = on_do};
    uint64_t id;

    return w->bus->subscribe(w->host, &sub, &id);
}

static void wrong_destroy(void *self)
{
    struct wrong *w = self;

    if (!w)
        return;
    if (w->fds[1])
        (void)close(w->fds[1]);
    free(w);
}

static int find_services(struct wrong *w)
{
    const struct {
        const char *id;
        const void **table;
    } wanted[] = {{MUSTER_BUS, (const void **)&w->bus},         {MUSTER_TIMER, (const void **)&w->timer},
                  {MUSTER_CODEC, (const void **)&w->codec},     {MUSTER_METRICS, (const void **)&w->metrics},
                  {MUSTER_SQL, (const void **)&w->sql},         {MUSTER_IO, (const void **)&w->io}};
    int err = 0;

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && !err; i++)
        err = w->host->service(w->host, wanted[i].id, wanted[i].table);
    if (!err)
        err = w->metrics->make(w->host, MUSTER_COUNTER, "count_total", "Counts.", NULL, &w->count);
    if (!err)
        err = w->sql->prepare(w->host, "s", MUSTER_SQL_READ, "SELECT $1", &w->stmt);
    return err;
}

static struct wrong *shared; /* of static_self: what all instances are */

static int wrong_create(const struct muster_host *host, const void *config, void **ret_self)
{
    const struct wrong_config *c = config;
    struct wrong *w = c->deed == STATIC_SELF && shared ? shared : calloc(1, sizeof *w);
    int err;

    if (!w)
        return host->fail(host, MUSTER_ENOMEM, "no memory");
    if (c->deed == CRASH_CREATE)
        abort();
    w->host = host;
    w->deed = (enum deed)c->deed;
    err = find_services(w);
    if (!err && w->deed == EARLY)
        (void)w->timer->once(host, 1, NULL, &w->id);
    if (!err && w->deed == NO_REASON)
        err = MUSTER_EINVAL;
    if (err && w->deed != LEAK) {
        wrong_destroy(w);
        return err;
    }
    if (err)
        return err; /* and what was allocated is lost */
    if (w->deed == STATIC_SELF)
        shared = w;
    *ret_self = w;
    return 0;
}

static int wrong_check(const struct muster_host *host, const void *config)
{
    const struct wrong_config *c = config;
    const void *table;

    return c->deed == CHECK_SERVICE ? host->service(host, MUSTER_BUS, &table) : 0;
}

static const struct muster_host *gone_host; /* of after: a thread that outlives the instance */

static void *call_after(void *arg)
{
    const struct muster_host *host = gone_host;

    (void)arg;
    (void)usleep(200 * 1000);
    host->log(host, MUSTER_LOG_INFO, "still here");
    return NULL;
}

static void wrong_end(void *self)
{
    struct wrong *w = self;
    pthread_t thread;

    if (w && w->deed == AFTER) {
        gone_host = w->host;
        if (pthread_create(&thread, NULL, call_after, NULL) == 0)
            (void)pthread_detach(thread);
    }
    if (w && w->deed == STATIC_SELF) {
        shared = NULL;
        free(w);
        return;
    }
    wrong_destroy(w);
}

static const struct muster_option options[] = {{.key = "deed", .help = "Which rule to break.", .def = "none", .type = MUSTER_T_ENUM,
                                                .choices = DEEDS, .offset = offsetof(struct wrong_config, deed)}};

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service),
     .name = "wrong",
     .verbs = "do",
     .schema = "{\"service\": \"wrong\", \"verbs\": {\"do\": {\"request\": {\"text?\": \"str\"}, \"reply\": {\"n\": \"int\"}}}}"}};

MUSTER_PLUGIN(.name = "wrong", .version = "6.6.6", .capabilities = "sql", .options = options, .n_options = 1,
              .config_size = sizeof(struct wrong_config), .services = services, .n_services = 1, .create = wrong_create,
              .start = wrong_start, .destroy = wrong_end, .check = wrong_check);
