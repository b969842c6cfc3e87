/*
 * The reader of URLs and files, against a server of this file that answers each connection as the test says. Its thread is the
 * library's own: results are awaited under a lock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <muster/plugin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "auth/fetch.h"
#include "base/clock.h"

enum { MAX = 1000, WAIT_S = 20 };

/* ---- a server of one answer ---- */

struct server {
    pthread_t thread;
    int listener;
    char url[64];
    const char *answer; /* NULL: it says nothing until the client goes */
};

static void *serve(void *arg)
{
    struct server *s = arg;
    char request[4096];
    int fd = accept(s->listener, NULL, NULL);
    ssize_t n = fd >= 0 ? recv(fd, request, sizeof request, 0) : 0;

    if (n > 0 && s->answer)
        (void)send(fd, s->answer, strlen(s->answer), MSG_NOSIGNAL); /* the client may have gone */
    else if (n > 0)
        (void)recv(fd, request, sizeof request, 0);
    if (fd >= 0)
        close(fd);
    return NULL;
}

static void server_start(struct server *s, const char *answer)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;

    s->answer = answer;
    s->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(s->listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(s->listener, 4), 0);
    assert_int_equal(getsockname(s->listener, (struct sockaddr *)&at, &len), 0);
    snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d/keys", ntohs(at.sin_port));
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void server_stop(struct server *s)
{
    shutdown(s->listener, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->listener);
}

/* ---- what came ---- */

struct result {
    pthread_mutex_t lock;
    pthread_cond_t came;
    int n, code;
    int64_t max_age_s;
    char body[MAX + 1], why[FETCH_WHY_SIZE];
};

static void on_done(void *arg, const struct fetch_answer *a)
{
    struct result *r = arg;

    pthread_mutex_lock(&r->lock);
    r->n++;
    r->code = a->code;
    r->max_age_s = a->max_age_s;
    if (a->len)
        memcpy(r->body, a->data, a->len);
    r->body[a->len] = '\0';
    snprintf(r->why, sizeof r->why, "%s", a->why);
    pthread_cond_signal(&r->came);
    pthread_mutex_unlock(&r->lock);
}

static void await(struct result *r)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    pthread_mutex_lock(&r->lock);
    while (!r->n && pthread_cond_timedwait(&r->came, &r->lock, &until) == 0)
        ;
    assert_int_equal(r->n, 1);
    pthread_mutex_unlock(&r->lock);
}

#define RESULT                                                                                                                      \
    {                                                                                                                               \
        .lock = PTHREAD_MUTEX_INITIALIZER, .came = PTHREAD_COND_INITIALIZER                                                         \
    }

static struct fetch_request request(const char *url, const char *path, struct result *r)
{
    return (struct fetch_request){
        .url = url, .path = path, .max_bytes = MAX, .timeout_ns = WAIT_S * CLOCK_S, .done = on_done, .arg = r};
}

/* Fetch once and wait for the answer. */
static void fetch_once(const char *url, const char *path, struct result *r)
{
    struct fetch_request want = request(url, path, r);
    struct fetch *f;

    assert_int_equal(fetch_new(&f), 0);
    assert_int_equal(fetch_get(f, &want), 0);
    await(r);
    fetch_free(f);
}

static void fetch_answer(const char *answer, struct result *r)
{
    struct server s;

    server_start(&s, answer);
    fetch_once(s.url, NULL, r);
    server_stop(&s);
}

/* ---- HTTP ---- */

static void test_answer(void **state)
{
    struct result r = RESULT;

    (void)state;
    fetch_answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: public, max-age=600\r\n\r\nhello", &r);
    assert_int_equal(r.code, 0);
    assert_string_equal(r.body, "hello");
    assert_int_equal(r.max_age_s, 600);
    assert_string_equal(r.why, "");
}

static void test_without_cache_control(void **state)
{
    struct result r = RESULT;

    (void)state;
    fetch_answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", &r);
    assert_int_equal(r.code, 0);
    assert_int_equal(r.max_age_s, -1);
}

static void test_other_answers(void **state)
{
    static const struct {
        const char *answer, *word;
    } cases[] = {
        {"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "404"},
        {"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "302"},
        {"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "500"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct result r = RESULT;

        fetch_answer(cases[i].answer, &r);
        assert_int_equal(r.code, MUSTER_EINVAL);
        assert_non_null(strstr(r.why, cases[i].word));
        assert_string_equal(r.body, "");
    }
}

static void test_broken_answers(void **state)
{
    static const char *const answers[] = {"", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"};

    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        struct result r = RESULT;

        fetch_answer(answers[i], &r);
        assert_int_equal(r.code, MUSTER_ELINK);
        assert_true(r.why[0] != '\0');
    }
}

static void test_too_large(void **state)
{
    char *answer = calloc(1, MAX + 200);
    struct result r = RESULT;

    (void)state;
    strcpy(answer, "HTTP/1.1 200 OK\r\n\r\n");
    memset(answer + strlen(answer), 'x', MAX + 1);
    fetch_answer(answer, &r);
    assert_int_equal(r.code, MUSTER_EINVAL);
    assert_non_null(strstr(r.why, "larger than 1000"));
    free(answer);
}

static void test_nobody_listens(void **state)
{
    struct result r = RESULT;

    (void)state;
    fetch_once("http://127.0.0.1:1/", NULL, &r);
    assert_int_equal(r.code, MUSTER_ELINK);
}

static void test_a_server_that_hangs(void **state)
{
    struct result r = RESULT;
    struct server s;
    struct fetch *f;

    (void)state;
    server_start(&s, NULL);
    struct fetch_request want = request(s.url, NULL, &r);
    want.timeout_ns = CLOCK_S / 5;
    assert_int_equal(fetch_new(&f), 0);
    assert_int_equal(fetch_get(f, &want), 0);
    await(&r);
    assert_int_equal(r.code, MUSTER_ETIME);
    fetch_free(f);
    server_stop(&s);
}

/* The end does not wait for servers: each request is answered, and at once. */
static void test_end_while_a_server_hangs(void **state)
{
    struct result r = RESULT;
    struct server s;
    struct fetch *f;

    (void)state;
    server_start(&s, NULL);
    struct fetch_request want = request(s.url, NULL, &r);
    assert_int_equal(fetch_new(&f), 0);
    assert_int_equal(fetch_get(f, &want), 0);
    int64_t began = clock_now_ns();
    fetch_free(f);
    assert_true(clock_now_ns() - began < 5 * CLOCK_S);
    assert_int_equal(r.n, 1);
    assert_int_equal(r.code, MUSTER_ELINK);
    server_stop(&s);
}

/* One that hangs holds up none of the others, and of too many none is taken. */
static void test_beside_each_other(void **state)
{
    struct result slow = RESULT, quick = RESULT, none = RESULT;
    struct server s, q;
    struct fetch *f;

    (void)state;
    server_start(&s, NULL);
    server_start(&q, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    struct fetch_request hang = request(s.url, NULL, &slow), answer = request(q.url, NULL, &quick), more = request(s.url, NULL, &none);
    assert_int_equal(fetch_new(&f), 0);
    assert_int_equal(fetch_get(f, &hang), 0);
    assert_int_equal(fetch_get(f, &answer), 0);
    await(&quick);
    assert_int_equal(quick.code, 0);
    assert_int_equal(slow.n, 0);
    for (int i = 0; i < FETCH_MAX - 1; i++)
        assert_int_equal(fetch_get(f, &more), 0);
    assert_int_equal(fetch_get(f, &more), MUSTER_EAGAIN);
    fetch_free(f);
    assert_int_equal(none.n, FETCH_MAX - 1);
    server_stop(&s);
    server_stop(&q);
}

/* ---- files ---- */

static void test_files(void **state)
{
    char folder[] = "/tmp/muster-fetch-XXXXXX", path[64];
    struct result r = RESULT, missing = RESULT, pipe = RESULT, large = RESULT, at = RESULT;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/keys", folder);
    fetch_once(NULL, path, &missing);
    assert_int_equal(missing.code, MUSTER_ELINK);
    assert_non_null(strstr(missing.why, "No such file"));

    FILE *file = fopen(path, "w");
    fputs("hello", file);
    fclose(file);
    fetch_once(NULL, path, &r);
    assert_int_equal(r.code, 0);
    assert_string_equal(r.body, "hello");
    assert_int_equal(r.max_age_s, -1);

    file = fopen(path, "w");
    for (int i = 0; i <= MAX; i++)
        fputc('x', file);
    fclose(file);
    fetch_once(NULL, path, &large);
    assert_int_equal(large.code, MUSTER_EINVAL);
    unlink(path);

    assert_int_equal(mkfifo(path, 0600), 0);
    fetch_once(NULL, path, &pipe);
    assert_int_equal(pipe.code, MUSTER_ELINK);
    fetch_once(NULL, folder, &at);
    assert_int_equal(at.code, MUSTER_ELINK);
    unlink(path);
    rmdir(folder);
}

/* ---- words ---- */

static void test_urls(void **state)
{
    static const char *const good[] = {"https://id.example.org/keys", "https://id.example.org:8443/a?b=c", "http://127.0.0.1:80/",
                                       "http://localhost/keys", "http://[::1]:9/keys"};
    static const char *const bad[] = {"", "keys.json", "/etc/keys", "http://id.example.org/keys", "ftp://id.example.org/keys",
                                      "file:///etc/passwd", "https://", "https://u:p@id.example.org/", "http://127.0.0.1.example.org/",
                                      "http://localhost.example.org/", "gopher://localhost/"};

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (fetch_url_fault(good[i]))
            fail_msg("%s: %s", good[i], fetch_url_fault(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (!fetch_url_fault(bad[i]))
            fail_msg("taken: %s", bad[i]);
}

static void test_max_age(void **state)
{
    static const struct {
        const char *text;
        int64_t wanted;
    } cases[] = {
        {"", -1}, {"public", -1}, {"max-age=0", 0}, {"max-age=600", 600}, {"public, MAX-AGE=7", 7}, {"max-age=\"9\"", 9},
        {"no-store", 0}, {"max-age=9, no-cache", 0}, {"s-maxage=5", -1}, {"max-age", -1}, {"max-age=", -1}, {"max-age=x", -1},
        {"max-age=-5", -1}, {"x-max-age=5", -1}, {"a=\"max-age=5", -1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (fetch_max_age(cases[i].text) != cases[i].wanted)
            fail_msg("%s: %lld came", cases[i].text, (long long)fetch_max_age(cases[i].text));
    assert_true(fetch_max_age("max-age=99999999999999999999999") > 86400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answer),         cmocka_unit_test(test_without_cache_control),
        cmocka_unit_test(test_other_answers),  cmocka_unit_test(test_broken_answers),
        cmocka_unit_test(test_too_large),      cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_a_server_that_hangs), cmocka_unit_test(test_end_while_a_server_hangs),
        cmocka_unit_test(test_beside_each_other),   cmocka_unit_test(test_files),
        cmocka_unit_test(test_urls),           cmocka_unit_test(test_max_age),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
