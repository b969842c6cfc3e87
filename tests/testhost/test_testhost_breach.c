/* Each rule that the test host watches, broken by wrong.c: it is told, with the call that broke it. */
#include <muster/testhost.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

const struct muster_plugin *wrong_entry(void);

static struct muster_test *begin(const char *deed)
{
    char config[64];
    struct muster_test_options options = {.size = sizeof options, .entry = wrong_entry, .config = config};

    (void)snprintf(config, sizeof config, "deed: %s\n", deed);
    return muster_test_begin(&options);
}

/* Two requests, a moment, and the end. */
static void use(struct muster_test *t)
{
    for (int i = 0; i < 2; i++)
        (void)muster_test_request(t, "rpc.ann.wrong.do", "{}");
    muster_test_advance(t, MUSTER_TEST_S);
    muster_test_destroy(t);
}

static void expect(struct muster_test *t, const char *words)
{
    size_t n = muster_test_failures(t);

    for (size_t i = 0; i < n; i++)
        if (strstr(muster_test_failure(t, i), words))
            return;
    fail_msg("expected a failure with \"%s\" among %zu, the first is: %s", words, n, n ? muster_test_failure(t, 0) : "none");
}

static void test_none(void **state)
{
    struct muster_test *t = begin("none");

    (void)state;
    use(t);
    assert_int_equal(muster_test_failures(t), 0);
    assert_int_equal(muster_test_free(t), 0);
}

static const struct {
    const char *deed, *words;
} rows[] = {
    {"early", "wrong 6.6.6: timer.once() in create: [lane]: from start() on"},
    {"late_service", "host.service() in message rpc.ann.wrong.do: [init]"},
    {"off_lane", "timer.once() in a thread of its own: [lane]"},
    {"forget", "did not answer request rpc.ann.wrong.do: the callback returned"},
    {"twice", "bus.reply() in message rpc.ann.wrong.do: rpc.ann.wrong.do has been answered already"},
    {"no_json", "is no JSON body"},
    {"misfit", "does not fit its definition: n: "},
    {"unheld", "did not answer request rpc.ann.wrong.do: dropped without an answer"},
    {"double_drop", "bus.drop() in message rpc.ann.wrong.do: the message is not held"},
    {"keep_held", "left 2 messages held"},
    {"stale", "bus.hold() in message rpc.ann.wrong.do: msg points into borrowed memory that is gone: the message rpc.ann.wrong.do"},
    {"stale_pointer", "bus.publish() in message rpc.ann.wrong.do: payload points into borrowed memory that is gone"},
    {"keep_doc", "left 2 documents of codec.decode() that free_doc() was not called for; one of message rpc.ann.wrong.do"},
    {"keep_writer", "left 2 writers of codec.writer_new()"},
    {"keep_thread", "left 2 threads running"},
    {"keep_fd", "open (/dev/null)"},
    {"handler", "changed what signal 10 (User defined signal 1) does"},
    {"umask", "changed the umask to 123"},
    {"folder", "changed the working folder to /proc"},
    {"environment", "changed the environment"},
    {"locale", "changed the locale"},
    {"null_fn", "timer.once() in message rpc.ann.wrong.do: fn is NULL"},
    {"no_size", "bus.publish() in message rpc.ann.wrong.do: size is 0"},
    {"wildcard", "bus.publish() in message rpc.ann.wrong.do: subject \"all.*.x\""},
    {"reply_to_other", "bus.publish() in message rpc.ann.wrong.do: reply \"rpc.bob.wrong.took.r\" of \"to.ann._muster.x\""},
    {"reply_abroad", "reply \"rpc.ann.task.accept.r\": task is no service of the plugin"},
    {"no_tenant", "tenant is NULL"},
    {"bad_stmt", "sql.exec() in message rpc.ann.wrong.do: s: 0 parameters, the statement has 1"},
    {"positive", "the callback returned 1"},
    {"block", "no callback may block"},
    {"spin", "does not come to rest"},
#ifndef __SANITIZE_THREAD__ /* which tells the same, of the memory that is gone by then */
    {"after", "host.log() in a thread of its own: destroy() has returned"},
#endif
    {"closed_fd", "while it was watched: unwatch comes first"},
    {"again_held", "MUSTER_EAGAIN asks for it again, but it was held"},
    {"bad_code", "code \"no_such_code\""},
    {"counter_falls", "metrics.add() in message rpc.ann.wrong.do: count_total: -1: a counter does not fall"},
    {"bad_metric", "count_total: its type does not take this"},
    {"no_bounds", "bus.subscribe() in start: rpc.*.wrong.do: max_msgs 0"},
    {"no_reason", "gave no reason by host->fail()"},
    {"check_service", "host.service() in check: check() has no services"},
};

/* What a deed has changed must not be found again by the next one. */
static void put_back(void)
{
    (void)signal(SIGUSR1, SIG_DFL);
    (void)umask(022);
    (void)unsetenv("WRONG");
    for (int fd = 3; fd < 64; fd++) {
        char link[40], to[16] = "";

        (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        if (readlink(link, to, sizeof to - 1) > 0 && strcmp(to, "/dev/null") == 0)
            (void)close(fd);
    }
}

static void test_deeds(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct muster_test *t = begin(rows[i].deed);

        if (muster_test_self(t))
            use(t);
        expect(t, rows[i].words);
        assert_int_equal(muster_test_free(t) > 0, 1);
        put_back();
    }
}

/* Memory that was lent cannot be read any more, and stderr says whose it was. */
static void test_stale_read(void **state)
{
    int fds[2], status;
    char text[600] = "";
    size_t len = 0;
    ssize_t n;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(fds), 0);
    pid = fork();
    if (pid == 0) {
        (void)dup2(fds[1], STDERR_FILENO);
        (void)signal(SIGSEGV, SIG_DFL);
        use(begin("stale_read"));
        _exit(0);
    }
    (void)close(fds[1]);
    while (len < sizeof text - 1 && (n = read(fds[0], text + len, sizeof text - 1 - len)) > 0)
        len += (size_t)n;
    (void)close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_non_null(strstr(text, "borrowed memory was used after its time: the message rpc.ann.wrong.do"));
}

/* A plugin of another ABI, and none at all, are told and not called. */
static void test_does_not_load(void **state)
{
    const struct muster_test_options options = {.size = sizeof options, .file = "/nowhere/plugin.so"};
    struct muster_test *t = muster_test_new(&options);

    (void)state;
    assert_null(muster_test_plugin(t));
    expect(t, "/nowhere/plugin.so");
    assert_int_equal(muster_test_create(t), MUSTER_EABI);
    assert_int_equal(muster_test_free(t), 1);
}

static void test_mistakes_of_the_test(void **state)
{
    struct muster_test *t = begin("none");

    (void)state;
    muster_test_fault(t, "no.such", MUSTER_EAGAIN, 1, 1);
    expect(t, "no function \"no.such\"");
    muster_test_forgive(t);
    muster_test_tell(t, "no subject", "{}");
    expect(t, "\"no subject\" is no subject");
    muster_test_forgive(t);
    assert_int_equal(muster_test_metric(t, "none", NULL), -1);
    expect(t, "no metric \"none\"");
    muster_test_forgive(t);
    assert_int_equal(muster_test_free(t), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_none),          cmocka_unit_test(test_deeds),
        cmocka_unit_test(test_stale_read),    cmocka_unit_test(test_does_not_load),
        cmocka_unit_test(test_mistakes_of_the_test),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
