/* Tests of the plugin on the test host, with real files: the writer is a thread, so these wait in real time where it has to act. */
#include <muster/testhost.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int failed;
static char folder[] = "/tmp/audit-test-XXXXXX", path[64];

#define CHECK(condition)                                                                                                              \
    do {                                                                                                                              \
        if (!(condition)) {                                                                                                           \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                           \
            failed = 1;                                                                                                               \
        }                                                                                                                             \
    } while (0)

/* ---- files ---- */

static const char *in_folder(const char *name)
{
    static char out[4][96];
    static int next;

    next = (next + 1) % 4;
    snprintf(out[next], sizeof out[next], "%s/%s", folder, name);
    return out[next];
}

/* The whole file, "" where there is none; until the next call. */
static const char *read_file(const char *name)
{
    static char text[1 << 20];
    FILE *f = fopen(name, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;

    if (f)
        fclose(f);
    text[n] = '\0';
    return text;
}

static int count_lines(const char *text)
{
    int n = 0;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void clean(void)
{
    for (int i = 0; i <= 20; i++) {
        char old[96];

        snprintf(old, sizeof old, i ? "%s.%d" : "%s", path, i);
        unlink(old);
    }
}

/* ---- the host ---- */

static struct muster_test *begin(const char *settings)
{
    static char text[512];
    const struct muster_test_options options = {
        .size = sizeof options, .file = MUSTER_TEST_PLUGIN, .config = text, .tenants = "acme zeta"};

    clean();
    snprintf(text, sizeof text, "log_file: %s\n%s", path, settings);
    return muster_test_begin(&options);
}

static void end(struct muster_test *t)
{
    muster_test_drain(t, MUSTER_TEST_S);
    muster_test_destroy(t);
    failed |= muster_test_free(t) > 0;
}

struct expected {
    struct muster_test *t;
    const char *metric;
    int64_t value;
};

static int is_reached(void *arg)
{
    const struct expected *e = arg;

    return muster_test_metric(e->t, e->metric, NULL) >= e->value;
}

static int wait_for(struct muster_test *t, const char *metric, int64_t value)
{
    struct expected e = {t, metric, value};

    return muster_test_wait(t, is_reached, &e, 10000) == 0;
}

static int is_healthy(void *arg)
{
    return muster_test_health(arg, NULL, NULL) == MUSTER_HEALTH_OK;
}

static void say(struct muster_test *t, int from, int to)
{
    char body[64];

    for (int i = from; i <= to; i++) {
        snprintf(body, sizeof body, "{\"i\": %d}", i);
        muster_test_tell(t, "evt.test.said.k", body);
    }
}

/* ---- tests ---- */

static void test_a_message_is_a_line(void)
{
    struct muster_test *t = begin("sync: always");
    const struct muster_header headers[] = {{"Muster-Seq", "7"}, {"Muster-Seq", "8"}};
    const struct muster_test_message packed = {.size = sizeof packed, .encoding = MUSTER_MSGPACK, .tenant = "zeta", .subject = "evt.a.b.c",
                                               .headers = headers, .n_headers = 2, .payload = {"\x81\xa1k\xc4\x02\x01\x02", 7}};
    const struct muster_test_message broken = {.size = sizeof broken, .subject = "evt.a.b.d", .payload = {"{\"a\"", 4}};

    muster_test_tell(t, "evt.billing.paid.4711", "{\"amount\":\n \"12.50\"}");
    muster_test_send(t, &packed);
    muster_test_send(t, &broken);
    CHECK(wait_for(t, "lines_total", 3));
    CHECK(strcmp(read_file(path),
                 "{\"time\":\"2026-01-01T00:00:00.000Z\",\"tenant\":\"acme\",\"subject\":\"evt.billing.paid.4711\",\"agent\":null,"
                 "\"headers\":{},\"body\":{\"amount\":\"12.50\"}}\n"
                 "{\"time\":\"2026-01-01T00:00:00.000Z\",\"tenant\":\"zeta\",\"subject\":\"evt.a.b.c\",\"agent\":null,"
                 "\"headers\":{\"Muster-Seq\":\"8\"},\"body\":{\"k\":{\"base64\":\"AQI=\"}}}\n"
                 "{\"time\":\"2026-01-01T00:00:00.000Z\",\"tenant\":\"acme\",\"subject\":\"evt.a.b.d\",\"agent\":null,"
                 "\"headers\":{},\"body\":{\"base64\":\"eyJhIg==\"}}\n") == 0 ||
          (fputs(read_file(path), stderr), 0));
    end(t);
}

static void test_files_turn_over_by_size(void)
{
    struct muster_test *t = begin("max_bytes: 4KiB\nkeep: 3");
    int n = 0;

    say(t, 1, 200);
    CHECK(wait_for(t, "lines_total", 200));
    CHECK(muster_test_metric(t, "rotations_total", NULL) > 3);
    for (int i = 0; i <= 3; i++) {
        char name[96];

        snprintf(name, sizeof name, i ? "%s.%d" : "%s", path, i);
        CHECK(strlen(read_file(name)) <= 4096 && strlen(read_file(name)) > 0);
        n += count_lines(read_file(name));
    }
    CHECK(n > 60 && strstr(read_file(path), "\"i\":200"));
    CHECK(access(in_folder("audit.jsonl.4"), F_OK) != 0);
    end(t);
}

/* What a full disk refuses waits; the file of the next settings gets it, in order and whole. */
static void test_a_full_disk_loses_nothing(void)
{
    static char settings[256];
    struct muster_test *t;

    CHECK(symlink("/dev/full", in_folder("full")) == 0);
    t = begin("sync: never");
    snprintf(settings, sizeof settings, "log_file: %s\nsync: never", in_folder("full"));
    CHECK(muster_test_reload(t, settings) == 0);
    say(t, 1, 50);
    CHECK(wait_for(t, "failures_total", 2));
    CHECK(muster_test_health(t, NULL, NULL) == MUSTER_HEALTH_DEGRADED);
    say(t, 51, 60);
    snprintf(settings, sizeof settings, "log_file: %s", path);
    CHECK(muster_test_reload(t, settings) == 0);
    CHECK(wait_for(t, "lines_total", 60));
    CHECK(count_lines(read_file(path)) == 60);
    CHECK(muster_test_wait(t, is_healthy, t, 5000) == 0);
    end(t);
    unlink(in_folder("full"));
}

static void test_a_folder_that_is_not_there_yet(void)
{
    static char settings[256];
    struct muster_test *t = begin("");

    snprintf(settings, sizeof settings, "log_file: %s", in_folder("later/audit.jsonl"));
    CHECK(muster_test_reload(t, settings) == 0);
    say(t, 1, 3);
    CHECK(wait_for(t, "failures_total", 1));
    CHECK(mkdir(in_folder("later"), 0755) == 0);
    CHECK(wait_for(t, "lines_total", 3));
    CHECK(count_lines(read_file(in_folder("later/audit.jsonl"))) == 3);
    end(t);
    unlink(in_folder("later/audit.jsonl"));
    rmdir(in_folder("later"));
}

static void test_a_line_that_was_cut_off_is_ended(void)
{
    struct muster_test *t;
    static char settings[256];
    FILE *f;

    snprintf(settings, sizeof settings, "log_file: %s", in_folder("cut"));
    f = fopen(in_folder("cut"), "w");
    fputs("{\"time\":\"2026", f);
    fclose(f);
    t = begin("");
    CHECK(muster_test_reload(t, settings) == 0);
    say(t, 1, 1);
    CHECK(wait_for(t, "lines_total", 1));
    CHECK(strncmp(read_file(in_folder("cut")), "{\"time\":\"2026\n{\"time\":", 21) == 0);
    end(t);
    unlink(in_folder("cut"));
}

static void test_the_file_was_moved(void)
{
    struct muster_test *t = begin("");

    say(t, 1, 1);
    CHECK(wait_for(t, "lines_total", 1));
    CHECK(rename(path, in_folder("moved")) == 0);
    usleep(1100000); /* it looks once a second */
    say(t, 2, 2);
    CHECK(wait_for(t, "lines_total", 2));
    CHECK(strstr(read_file(in_folder("moved")), "\"i\":1") && strstr(read_file(path), "\"i\":2"));
    end(t);
    unlink(in_folder("moved"));
}

static int reader = -1;

/* A pipe that nobody reads from is a disk that hangs. */
static int make_pipe(void)
{
    unlink(path);
    if (mkfifo(path, 0600) != 0)
        return -1;
    reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    return fcntl(reader, F_SETPIPE_SZ, 4096) < 0 ? -1 : 0;
}

/* Read until there were n lines; returns the last one's number. */
static int read_pipe(struct muster_test *t, int n)
{
    static char text[1 << 20];
    int last = 0;
    size_t len = 0;
    const char *at;

    text[0] = '\0';

    for (int i = 0; i < 2000 && count_lines(text) < n; i++) {
        ssize_t got = read(reader, text + len, sizeof text - 1 - len);

        len += got > 0 ? (size_t)got : 0;
        text[len] = '\0';
        usleep(5000);
        muster_test_run(t);
    }
    for (at = text; (at = strstr(at, "\"i\":")); at += 4)
        last = atoi(at + 4) == last + 1 ? last + 1 : -1000000;
    return last;
}

static struct muster_test *begin_at_pipe(const char *settings)
{
    static char text[512];
    const struct muster_test_options options = {.size = sizeof options, .file = MUSTER_TEST_PLUGIN, .config = text};

    clean();
    CHECK(make_pipe() == 0);
    snprintf(text, sizeof text, "log_file: %s\nsync: never\nqueue_bytes: 4KiB\n%s", path, settings);
    return muster_test_begin(&options);
}

static void queue(struct muster_test *t, int from, int to)
{
    char body[64];
    struct muster_test_message msg = {.size = sizeof msg, .subject = "evt.test.said.k", .payload = {body, 0}};

    for (int i = from; i <= to; i++) {
        msg.payload.len = (size_t)snprintf(body, sizeof body, "{\"i\": %d}", i);
        muster_test_queue(t, &msg);
    }
}

static void test_a_disk_that_hangs_pauses_the_bus(void)
{
    struct muster_test *t = begin_at_pipe("");

    queue(t, 1, 200);
    muster_test_run(t);
    CHECK(muster_test_calls(t, "bus.pause") >= 1 && muster_test_metric(t, "lines_total", NULL) < 100);
    CHECK(read_pipe(t, 200) == 200);
    CHECK(muster_test_metric(t, "dropped_total", NULL) == 0);
    end(t);
    close(reader);
}

static void test_a_disk_that_hangs_drops_and_tells(void)
{
    struct muster_test *t = begin_at_pipe("on_full: drop");
    int64_t dropped;

    queue(t, 1, 200);
    muster_test_run(t);
    dropped = muster_test_metric(t, "dropped_total", NULL);
    CHECK(dropped > 100 && muster_test_calls(t, "bus.pause") == 0);
    CHECK(read_pipe(t, 200 - (int)dropped) == 200 - (int)dropped);
    end(t);
    close(reader);
}

/* The end does not wait for ever, and says what was lost. */
static void test_a_pipe_that_nobody_reads_at_the_end(void)
{
    struct muster_test *t = begin_at_pipe("");

    queue(t, 1, 200);
    muster_test_run(t);
    muster_test_drain(t, MUSTER_TEST_S);
    muster_test_destroy(t);
    CHECK(muster_test_logged(t, "are lost") == 1);
    failed |= muster_test_free(t) > 0;
    close(reader);
}

static void test_the_reader_of_a_pipe_goes_and_comes(void)
{
    struct muster_test *t = begin_at_pipe("");

    say(t, 1, 3);
    CHECK(wait_for(t, "lines_total", 3));
    close(reader);
    say(t, 4, 6);
    CHECK(wait_for(t, "failures_total", 2));
    reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    CHECK(wait_for(t, "lines_total", 6));
    end(t);
    close(reader);
}

static void test_all_is_written_before_the_end(void)
{
    struct muster_test *t = begin("sync: second");

    say(t, 1, 1000);
    end(t);
    CHECK(count_lines(read_file(path)) == 1000);
}

static void test_subjects_change(void)
{
    struct muster_test *t = begin("subjects: [\"evt.a.>\"]");
    static char settings[256];

    CHECK(muster_test_n_subscriptions(t) == 1);
    snprintf(settings, sizeof settings, "log_file: %s\nsubjects: [\"evt.b.>\", \"cdc.>\"]", path);
    CHECK(muster_test_reload(t, settings) == 0);
    CHECK(muster_test_n_subscriptions(t) == 2 && strcmp(muster_test_subscription(t, 0), "evt.b.>") == 0);
    muster_test_fault(t, "bus.subscribe", MUSTER_ENOMEM, 2, 1);
    snprintf(settings, sizeof settings, "log_file: %s\nsubjects: [\"evt.c.>\", \"evt.d.>\"]", path);
    CHECK(muster_test_reload(t, settings) == MUSTER_ENOMEM);
    CHECK(muster_test_n_subscriptions(t) == 2 && strcmp(muster_test_subscription(t, 0), "evt.b.>") == 0);
    snprintf(settings, sizeof settings, "log_file: %s\nsubjects: [\"rpc.>\"]", path);
    CHECK(muster_test_reload(t, settings) == MUSTER_EINVAL && strstr(muster_test_reason(t), "subjects: rpc.>"));
    end(t);
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/audit.jsonl", folder);
    test_a_message_is_a_line();
    test_files_turn_over_by_size();
    test_a_full_disk_loses_nothing();
    test_a_folder_that_is_not_there_yet();
    test_a_line_that_was_cut_off_is_ended();
    test_the_file_was_moved();
    test_a_disk_that_hangs_pauses_the_bus();
    test_a_disk_that_hangs_drops_and_tells();
    test_a_pipe_that_nobody_reads_at_the_end();
    test_the_reader_of_a_pipe_goes_and_comes();
    test_all_is_written_before_the_end();
    test_subjects_change();
    clean();
    rmdir(folder);
    return failed;
}
