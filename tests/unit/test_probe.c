/* Addresses as people write them, and questions to a port of our own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/probe.h"

static void test_addresses(void **state)
{
    static const struct {
        const char *text, *host, *port;
    } good[] = {
        {"127.0.0.1:4222", "127.0.0.1", "4222"},
        {"nats://127.0.0.1:4223", "127.0.0.1", "4223"},
        {"tls://nats.example.com", "nats.example.com", "99"},
        {"nats://user:pa:ss@host:1", "host", "1"},
        {"nats://host:1/path?x=y@z", "host", "1"},
        {"[::1]:7423", "::1", "7423"},
        {"nats://[fe80::1]", "fe80::1", "99"},
    };
    static const char *const bad[] = {"",     "nats://", ":4222",  "[::1",
                                      "[]:1", "host:",   "[::1]x", "host:123456789"};
    struct probe p;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(probe_parse(&p, good[i].text, "99"));
        assert_string_equal(p.host, good[i].host);
        assert_string_equal(p.port, good[i].port);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(probe_parse(&p, bad[i], "99"));
}

/* A server of one connection: takes a line when it is asked to, says text, and closes when it is told to. */
struct server {
    int fd;
    uint16_t port;
    const char *text;
    bool listens_first, stays_open;
    char heard[64];
    pthread_t thread;
    int held;
};

static void *serve(void *arg)
{
    struct server *s = arg;
    int fd = accept(s->fd, NULL, NULL);
    ssize_t n;

    if (s->listens_first) {
        n = recv(fd, s->heard, sizeof s->heard - 1, 0);
        s->heard[n > 0 ? n : 0] = '\0';
    }
    n = send(fd, s->text, strlen(s->text), MSG_NOSIGNAL);
    (void)n; /* the test sees what arrives */
    if (s->stays_open)
        s->held = fd;
    else
        (void)close(fd);
    return NULL;
}

static void start(struct server *s)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;

    s->held = -1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(s->fd, 1), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&at, &len), 0);
    s->port = ntohs(at.sin_port);
    if (s->text)
        assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void stop(struct server *s)
{
    if (s->text)
        assert_int_equal(pthread_join(s->thread, NULL), 0);
    if (s->held >= 0)
        (void)close(s->held);
    (void)close(s->fd);
}

static bool ask(const struct server *s, struct probe *p, struct buf *answer,
                char why[PROBE_WHY_SIZE])
{
    char address[32];

    (void)snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned int)s->port);
    assert_true(probe_parse(p, address, "1"));
    return probe_ask(p, answer, why);
}

static void test_a_greeting_ends_with_its_line(void **state)
{
    struct server s = {.text = "INFO {}\r\nPING", .stays_open = true};
    struct probe p = {.one_line = true, .timeout_ms = 5000, .max = 4096};
    char why[PROBE_WHY_SIZE];
    struct buf answer = {0};

    (void)state;
    start(&s);
    assert_true(ask(&s, &p, &answer, why));
    assert_int_equal(strncmp(answer.data, "INFO {}\r\n", 9), 0);
    stop(&s);
    buf_done(&answer);
}

static void test_a_page_ends_with_the_connection_or_the_bound(void **state)
{
    struct server s = {.text = "one\ntwo\n", .listens_first = true};
    struct probe p = {.request = "GET /\r\n\r\n", .timeout_ms = 5000, .max = 4096};
    char why[PROBE_WHY_SIZE];
    struct buf answer = {0};

    (void)state;
    start(&s);
    assert_true(ask(&s, &p, &answer, why));
    assert_string_equal(answer.data, "one\ntwo\n");
    stop(&s);
    assert_string_equal(s.heard, "GET /\r\n\r\n");
    buf_done(&answer);
}

static void test_silence_and_refusal_are_told_apart(void **state)
{
    struct server silent = {.text = "", .stays_open = true}, gone = {0};
    struct probe p = {.one_line = true, .timeout_ms = 50, .max = 4096};
    char why[PROBE_WHY_SIZE];
    struct buf answer = {0};

    (void)state;
    start(&silent);
    assert_false(ask(&silent, &p, &answer, why));
    assert_string_equal(why, "Connection timed out");
    stop(&silent);
    start(&gone);
    (void)close(gone.fd);
    assert_false(ask(&gone, &p, &answer, why));
    assert_string_equal(why, "Connection refused");
    buf_done(&answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_a_greeting_ends_with_its_line),
        cmocka_unit_test(test_a_page_ends_with_the_connection_or_the_bound),
        cmocka_unit_test(test_silence_and_refusal_are_told_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
