/* base/notify: real datagrams over a path and over an abstract socket, and the watchdog's
 * variables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/notify.h"

struct manager {
    int fd;
    char dir[32], path[64];
};

/* Be the service manager on name: a path, or an abstract name behind '@'. */
static int listen_on(const char *name)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t len = strlen(name);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    memcpy(addr.sun_path, name, len);
    if (name[0] == '@')
        addr.sun_path[0] = '\0';
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)),
                     0);
    assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
    return fd;
}

static int setup(void **state)
{
    static struct manager m;

    m = (struct manager){.fd = -1, .dir = "/tmp/muster-notify-XXXXXX"};
    assert_non_null(mkdtemp(m.dir));
    (void)snprintf(m.path, sizeof m.path, "%s/socket", m.dir);
    m.fd = listen_on(m.path);
    *state = &m;
    return 0;
}

static int teardown(void **state)
{
    struct manager *m = *state;

    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    (void)close(m->fd);
    (void)unlink(m->path);
    return rmdir(m->dir);
}

static void assert_received(int fd, const char *expected)
{
    char text[1024] = "";
    ssize_t n = recv(fd, text, sizeof text - 1, 0);

    assert_true(n >= 0);
    assert_string_equal(text, expected);
    assert_int_equal(recv(fd, text, sizeof text, 0), -1); /* and nothing else */
}

static void test_messages(void **state)
{
    const struct manager *m = *state;

    assert_true(notify_ready());
    assert_received(m->fd, "READY=1");
    assert_true(notify_stopping());
    assert_received(m->fd, "STOPPING=1");
    assert_true(notify_watchdog());
    assert_received(m->fd, "WATCHDOG=1");
    assert_true(notify_status("not ready: link nats is down"));
    assert_received(m->fd, "STATUS=not ready: link nats is down");
}

static void test_reloading_tells_the_time(void **state)
{
    const struct manager *m = *state;
    int64_t before = clock_now_ns() / 1000, us = 0;
    char text[128] = "";

    assert_true(notify_reloading());
    assert_true(recv(m->fd, text, sizeof text - 1, 0) > 0);
    assert_int_equal(sscanf(text, "RELOADING=1\nMONOTONIC_USEC=%" SCNd64, &us), 1);
    assert_in_range((uint64_t)us, (uint64_t)before, (uint64_t)(clock_now_ns() / 1000));
}

static void test_status_is_one_bounded_line(void **state)
{
    const struct manager *m = *state;
    char longer[2000], expected[520] = "STATUS=";

    assert_true(notify_status("a\nREADY=1\tb"));
    assert_received(m->fd, "STATUS=a READY=1 b");

    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    memset(expected + 7, 'x', 512);
    assert_true(notify_status(longer));
    assert_received(m->fd, expected);

    memcpy(longer + 511, "\xc3\xbc", 2); /* a character across the bound goes as a whole */
    expected[7 + 511] = '\0';
    assert_true(notify_status(longer));
    assert_received(m->fd, expected);
}

static void test_abstract_socket(void **state)
{
    char name[64];
    int fd;

    (void)state;
    (void)snprintf(name, sizeof name, "@muster-notify-%d", (int)getpid());
    fd = listen_on(name);
    assert_true(notify_ready());
    assert_received(fd, "READY=1");
    (void)close(fd);
}

static void test_nobody_asked(void **state)
{
    const struct manager *m = *state;
    char byte;

    unsetenv("NOTIFY_SOCKET");
    assert_true(notify_ready());
    setenv("NOTIFY_SOCKET", "", 1);
    assert_true(notify_ready());
    assert_int_equal(recv(m->fd, &byte, 1, 0), -1);
}

static void test_failures(void **state)
{
    char too_long[200] = "/";

    (void)state;
    setenv("NOTIFY_SOCKET", "/nonexistent/muster", 1);
    assert_false(notify_ready());
    assert_int_equal(errno, ENOENT);
    setenv("NOTIFY_SOCKET", "vsock:2:1234", 1);
    assert_false(notify_ready());
    assert_int_equal(errno, EINVAL);
    memset(too_long + 1, 'x', sizeof too_long - 2);
    setenv("NOTIFY_SOCKET", too_long, 1);
    assert_false(notify_ready());
    assert_int_equal(errno, EINVAL);
    setenv("NOTIFY_SOCKET", "@", 1);
    assert_false(notify_ready());
}

static int64_t watchdog(const char *usec, const char *pid)
{
    if (usec)
        setenv("WATCHDOG_USEC", usec, 1);
    else
        unsetenv("WATCHDOG_USEC");
    if (pid)
        setenv("WATCHDOG_PID", pid, 1);
    else
        unsetenv("WATCHDOG_PID");
    return notify_watchdog_ns();
}

static void test_watchdog(void **state)
{
    char self[16], parent[16];

    (void)state;
    (void)snprintf(self, sizeof self, "%d", (int)getpid());
    (void)snprintf(parent, sizeof parent, "%d", (int)getppid());
    assert_int_equal(watchdog(NULL, NULL), 0);
    assert_int_equal(watchdog("30000000", NULL), 30 * CLOCK_S);
    assert_int_equal(watchdog("30000000", self), 30 * CLOCK_S);
    assert_int_equal(watchdog("30000000", parent), 0);
    assert_int_equal(watchdog("30000000", "x"), 0);
    assert_int_equal(watchdog("0", self), 0);
    assert_int_equal(watchdog("", self), 0);
    assert_int_equal(watchdog("-5", self), 0);
    assert_int_equal(watchdog("12x", self), 0);
    assert_int_equal(watchdog("9223372036854775", self), INT64_C(9223372036854775000));
    assert_int_equal(watchdog("9223372036854776", self), 0); /* would not fit in nanoseconds */
    assert_int_equal(watchdog("99999999999999999999", self), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_messages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reloading_tells_the_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_status_is_one_bounded_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_abstract_socket, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_watchdog, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
