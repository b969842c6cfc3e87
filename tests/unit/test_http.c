/* http and core/admin: real sockets on 127.0.0.1, raw requests, so that what goes over the wire is
 * what is checked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "capture.h"
#include "core/admin.h"

static int connect_to(uint16_t port)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct timeval patience = {.tv_sec = 20};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    return fd;
}

static void send_all(int fd, const char *data, size_t len)
{
    while (len) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

        if (n <= 0)
            return; /* the server may close early: what it answered is what is checked */
        data += n;
        len -= (size_t)n;
    }
}

/* What the server sends until it closes, for free(). */
static char *receive_all(int fd)
{
    struct buf b = {0};
    char chunk[4096];
    ssize_t n;

    buf_put_lit(&b, "");
    while ((n = recv(fd, chunk, sizeof chunk, 0)) > 0)
        buf_put(&b, chunk, (size_t)n);
    (void)close(fd);
    return buf_take(&b);
}

/* One request on a connection of its own; target is "GET /path". */
static char *ask(uint16_t port, const char *target, const char *headers)
{
    struct buf b = {0};
    int fd = connect_to(port);

    buf_printf(&b, "%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n", target,
               headers);
    send_all(fd, b.data, b.len);
    buf_done(&b);
    return receive_all(fd);
}

static int status_of(const char *answer)
{
    int status = 0;

    assert_int_equal(sscanf(answer, "HTTP/1.1 %d ", &status), 1);
    return status;
}

static const char *body_of(const char *answer)
{
    const char *end = strstr(answer, "\r\n\r\n");

    assert_non_null(end);
    return end + 4;
}

static void assert_answer(uint16_t port, const char *target, int status, const char *body)
{
    char *answer = ask(port, target, "");

    assert_int_equal(status_of(answer), status);
    assert_string_equal(body_of(answer), body);
    free(answer);
}

static void on_echo(void *arg, const struct http_request *request, struct http_response *response)
{
    response->status = 201;
    buf_printf(&response->body, "%s %s %s %zu ", (const char *)arg, request->method, request->path,
               request->body.len);
    buf_put(&response->body, request->body.data, request->body.len);
}

static void on_failed(void *arg, const struct http_request *request, struct http_response *response)
{
    (void)arg;
    (void)request;
    buf_puts(&response->body, "half of");
    (void)buf_reserve(&response->body, SIZE_MAX); /* as if memory had run out in between */
}

static void on_nothing(void *arg, const struct http_request *request,
                       struct http_response *response)
{
    (void)arg;
    (void)request;
    (void)response;
}

static const struct http_route routes[] = {
    {"GET", "/echo", on_echo, (char[]){"got"}},
    {"POST", "/echo", on_echo, (char[]){"posted"}},
    {"POST", "/only-post", on_echo, (char[]){"posted"}},
    {"GET", "/failed", on_failed, NULL},
    {"GET", "/nothing", on_nothing, NULL},
};

static int open_on(const char *listen, struct http **ret_http, char why[HTTP_WHY_SIZE])
{
    const struct http_options options = {.key = "broker.admin",
                                         .listen = listen,
                                         .routes = routes,
                                         .n_routes = sizeof routes / sizeof *routes};

    return http_open(&options, ret_http, why);
}

static int setup(void **state)
{
    char why[HTTP_WHY_SIZE] = "";

    return open_on("127.0.0.1:0", (struct http **)state, why);
}

static int teardown(void **state)
{
    http_close(*state);
    return 0;
}

static void test_routes(void **state)
{
    uint16_t port = http_port(*state);

    assert_true(port > 0);
    assert_answer(port, "GET /echo", 201, "got GET /echo 0 ");
    assert_answer(port, "GET /echo?x=1&y=2", 201, "got GET /echo 0 ");
    assert_answer(port, "GET /%65cho", 201, "got GET /echo 0 ");
    assert_answer(port, "POST /echo", 201, "posted POST /echo 0 ");
    assert_answer(port, "GET /nothing", 200, "");
    assert_answer(port, "GET /", 404, "not found\n");
    assert_answer(port, "GET /echo/", 404, "not found\n");
    assert_answer(port, "GET /Echo", 404, "not found\n");
    assert_answer(port, "POST /unknown", 404, "not found\n");
    assert_answer(port, "GET /failed", 500, "no memory\n");
}

static void test_other_methods(void **state)
{
    char *answer = ask(http_port(*state), "DELETE /echo", "");

    assert_int_equal(status_of(answer), 405);
    assert_non_null(strstr(answer, "\r\nAllow: GET, HEAD, POST\r\n"));
    free(answer);
    answer = ask(http_port(*state), "GET /only-post", "");
    assert_int_equal(status_of(answer), 405);
    assert_non_null(strstr(answer, "\r\nAllow: POST\r\n"));
    free(answer);
    answer = ask(http_port(*state), "HEAD /only-post", "");
    assert_int_equal(status_of(answer), 405);
    free(answer);
}

static void test_head_has_no_body(void **state)
{
    char *answer = ask(http_port(*state), "HEAD /echo", "");

    assert_int_equal(status_of(answer), 201);
    assert_non_null(strstr(answer, "\r\nContent-Length: 17\r\n")); /* "got HEAD /echo 0 " */
    assert_non_null(strstr(answer, "\r\nContent-Type: text/plain; charset=utf-8\r\n"));
    assert_string_equal(body_of(answer), "");
    free(answer);
}

static void test_body(void **state)
{
    char *answer = ask(http_port(*state), "POST /echo", "Content-Length: 5\r\n\r\nhello");

    assert_int_equal(status_of(answer), 201);
    assert_string_equal(body_of(answer), "posted POST /echo 5 hello");
    free(answer);
    answer = ask(http_port(*state), "POST /echo",
                 "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n");
    assert_string_equal(body_of(answer), "posted POST /echo 5 hello");
    free(answer);
}

/* Send a body of len bytes with its length told in advance. */
static char *post(uint16_t port, size_t len)
{
    char *body = calloc(1, len + 1);
    struct buf b = {0};
    int fd = connect_to(port);

    assert_non_null(body);
    memset(body, 'x', len);
    buf_printf(&b,
               "POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n",
               len);
    send_all(fd, b.data, b.len);
    send_all(fd, body, len);
    free(body);
    buf_done(&b);
    return receive_all(fd);
}

static void test_body_bound(void **state)
{
    char *answer = post(http_port(*state), HTTP_MAX_BODY);

    assert_int_equal(status_of(answer), 201);
    assert_int_equal(strlen(body_of(answer)), strlen("posted POST /echo 1048576 ") + HTTP_MAX_BODY);
    free(answer);
    answer = ask(http_port(*state), "POST /echo", "Content-Length: 1048577\r\n");
    assert_int_equal(status_of(answer), 413);
    free(answer);
    answer = ask(http_port(*state), "POST /echo", "Content-Length: 18446744073709551615\r\n");
    assert_int_not_equal(status_of(answer), 201);
    free(answer);
}

static void test_endless_chunks_are_cut(void **state)
{
    int fd = connect_to(http_port(*state));
    static const char head[] =
        "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    static char chunk[8 + 65536 + 2] = "10000\r\n";
    char *answer;

    memset(chunk + 7, 'x', 65536);
    memcpy(chunk + 7 + 65536, "\r\n", 2);
    send_all(fd, head, sizeof head - 1);
    for (int i = 0; i < 64; i++) /* four times the bound */
        send_all(fd, chunk, 7 + 65536 + 2);
    answer = receive_all(fd); /* returns: the server has closed */
    assert_null(strstr(answer, "posted"));
    free(answer);
    assert_answer(http_port(*state), "GET /echo", 201, "got GET /echo 0 ");
}

static void test_keep_alive(void **state)
{
    static const char two[] = "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n"
                              "GET /nowhere HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    int fd = connect_to(http_port(*state));
    char *answer;

    send_all(fd, two, sizeof two - 1);
    answer = receive_all(fd);
    assert_int_equal(status_of(answer), 201);
    assert_int_equal(status_of(body_of(answer) + strlen("got GET /echo 0 ")), 404);
    free(answer);
}

static void test_garbage(void **state)
{
    static const char *const junk[] = {
        "\r\n\r\n\r\n", "\x16\x03\x01\x02\x00\x01", "GET\r\n\r\n", "GET /echo\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n"};

    int fds[sizeof junk / sizeof *junk];

    for (size_t i = 0; i < sizeof junk / sizeof *junk; i++) {
        fds[i] = connect_to(http_port(*state));
        send_all(fds[i], junk[i], strlen(junk[i]));
    }
    assert_answer(http_port(*state), "GET /echo", 201, "got GET /echo 0 ");
    for (size_t i = 0; i < sizeof junk / sizeof *junk; i++)
        (void)close(fds[i]);
    assert_answer(http_port(*state), "GET /echo", 201, "got GET /echo 0 ");
}

static void test_connections_are_bounded(void **state)
{
    int fds[HTTP_MAX_CONNECTIONS];
    char *answer;

    for (int i = 0; i < HTTP_MAX_CONNECTIONS; i++) {
        fds[i] = connect_to(http_port(*state));
        send_all(fds[i], "GET /echo HTTP/1.1\r\n", 20); /* and no end: held open */
    }
    for (int i = 0; i < HTTP_MAX_CONNECTIONS; i++)
        (void)close(fds[i]);
    answer = ask(http_port(*state), "GET /echo", ""); /* served once there is room again */
    assert_int_equal(status_of(answer), 201);
    free(answer);
}

static void test_close_with_open_connections(void **state)
{
    struct http *h = NULL;
    char why[HTTP_WHY_SIZE], *rest;
    int fd;

    (void)state;
    assert_int_equal(open_on("localhost:0", &h, why), 0);
    http_close(h);
    assert_int_equal(open_on("127.0.0.1:0", &h, why), 0);
    fd = connect_to(http_port(h));
    send_all(fd, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf", 54);
    http_close(h);
    rest = receive_all(fd);
    assert_null(strstr(rest, "posted"));
    free(rest);
}

static void test_port_taken(void **state)
{
    struct http *other = NULL;
    char listen[32], expected[128], why[HTTP_WHY_SIZE];

    (void)snprintf(listen, sizeof listen, "127.0.0.1:%u", http_port(*state));
    (void)snprintf(expected, sizeof expected,
                   "broker.admin: cannot listen on %s: Address already in use; ", listen);
    assert_int_equal(open_on(listen, &other, why), MUSTER_EEXIST);
    assert_memory_equal(why, expected, strlen(expected));
    assert_null(other);
}

static void test_bad_addresses(void **state)
{
    static const char *const bad[] = {
        "",
        "7423",
        ":7423",
        "localhost",
        "localhost:",
        "127.0.0.1:x",
        "127.0.0.1:65536",
        "::1:7423",
        "[::1]7423",
        "[:7423",
        "[]:7423",
        "127.0.0.1:-1",
        "127.0.0.1: 7423",
        "127.0.0.1:000001",
    };
    char why[HTTP_WHY_SIZE], longest[400];
    struct http *h = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char expected[128];

        (void)snprintf(expected, sizeof expected, "broker.admin: \"%s\" is not host:port, as in ",
                       bad[i]);
        assert_int_equal(open_on(bad[i], &h, why), MUSTER_EINVAL);
        assert_memory_equal(why, expected, strlen(expected));
    }
    memset(longest, 'x', sizeof longest);
    memcpy(longest + sizeof longest - 6, ":7423", 6);
    assert_int_equal(open_on(longest, &h, why), MUSTER_EINVAL);
    assert_int_equal(open_on("192.0.2.1:7423", &h, why),
                     MUSTER_EINVAL); /* for documents: not ours */
    assert_non_null(strstr(why, "no interface of this machine has that address"));
    assert_int_equal(open_on("no.such.host.invalid:7423", &h, why), MUSTER_EINVAL);
    assert_non_null(strstr(why, "broker.admin: no address for host \"no.such.host.invalid\": "));
    assert_null(h);
    http_close(NULL);
}

static void test_admin_pages(void **state)
{
    char why[HTTP_WHY_SIZE], *answer;
    struct capture quiet = capture_begin();
    struct health *health = health_new("b1");
    struct metrics *metrics = metrics_new();
    struct health_component *nats = NULL;
    struct admin *admin = NULL;
    uint16_t port;

    (void)state;
    assert_int_equal(health_watch(health, metrics), 0);
    assert_int_equal(health_add(health, HEALTH_LINK, "nats", true, &nats), 0);
    assert_int_equal(
        admin_open(&(struct admin_options){"127.0.0.1:0", health, metrics, NULL}, &admin, why), 0);
    port = admin_port(admin);

    assert_answer(port, "GET /healthz", 200, "ok\n");
    answer = ask(port, "GET /readyz", "");
    assert_int_equal(status_of(answer), 503);
    assert_non_null(strstr(answer, "\r\nContent-Type: application/json\r\n"));
    assert_non_null(strstr(
        body_of(answer), "{\"ready\":false,\"broker\":\"b1\",\"components\":[{\"kind\":\"link\","));
    free(answer);

    health_set(nats, MUSTER_HEALTH_OK, NULL, "connected");
    answer = ask(port, "GET /readyz", "");
    assert_int_equal(status_of(answer), 200);
    assert_non_null(strstr(body_of(answer), "{\"ready\":true,"));
    free(answer);

    answer = ask(port, "GET /metrics", "");
    assert_int_equal(status_of(answer), 200);
    assert_non_null(
        strstr(answer, "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert_non_null(strstr(body_of(answer), "\nmuster_health{kind=\"link\",name=\"nats\"} 0\n"));
    free(answer);

    admin_close(admin);
    admin_close(NULL);
    metrics_free(metrics);
    health_free(health);
    free(capture_end(&quiet));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_routes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_methods, setup, teardown),
        cmocka_unit_test_setup_teardown(test_head_has_no_body, setup, teardown),
        cmocka_unit_test_setup_teardown(test_body, setup, teardown),
        cmocka_unit_test_setup_teardown(test_body_bound, setup, teardown),
        cmocka_unit_test_setup_teardown(test_endless_chunks_are_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keep_alive, setup, teardown),
        cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_connections_are_bounded, setup, teardown),
        cmocka_unit_test(test_close_with_open_connections),
        cmocka_unit_test_setup_teardown(test_port_taken, setup, teardown),
        cmocka_unit_test(test_bad_addresses),
        cmocka_unit_test(test_admin_pages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
