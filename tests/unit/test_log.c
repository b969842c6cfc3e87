/* base/log: the two forms, levels, the rate limit for each site, whole lines from many threads,
 * URLs without secrets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cjson/cJSON.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "capture.h"

static size_t count_of(const char *text, const char *what)
{
    size_t n = 0;

    while ((text = strstr(text, what))) {
        text += strlen(what);
        n++;
    }
    return n;
}

/* Each test starts as a broker does. */
static int setup(void **state)
{
    (void)state;
    log_setup(false, LOG_INFO);
    return 0;
}

static void test_text(void **state)
{
    struct capture c = capture_begin();
    unsigned int y, mo, d, h, mi, s, us;
    int at = 0;
    char *text;

    (void)state;
    log_warn("bus", "link %s is down after %d s", "n1", 3);
    text = capture_end(&c);
    assert_int_equal(
        sscanf(text, "%4u-%2u-%2uT%2u:%2u:%2u.%6uZ %n", &y, &mo, &d, &h, &mi, &s, &us, &at), 7);
    assert_string_equal(text + at, "warn  bus: link n1 is down after 3 s\n");
    free(text);
}

static void test_text_is_one_line(void **state)
{
    struct capture c = capture_begin();
    char *text;

    (void)state;
    log_error("sql", "ERROR: no\nDETAIL:\tx\r\x1b[31m\x7f");
    text = capture_end(&c);
    assert_int_equal(count_of(text, "\n"), 1);
    assert_non_null(strstr(text, "sql: ERROR: no DETAIL: x  [31m \n"));
    free(text);
}

static void assert_member(const cJSON *line, const char *key, const char *expected)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(line, key);

    assert_true(cJSON_IsString(v));
    assert_string_equal(v->valuestring, expected);
}

static void test_json(void **state)
{
    struct capture c = capture_begin();
    cJSON *line;
    char *text;

    (void)state;
    log_setup(true, LOG_DEBUG);
    log_debug("cdc.\"main\"", "a \"b\"\nz\xfcrich %s", "\xc3\xbc");
    text = capture_end(&c);
    assert_int_equal(count_of(text, "\n"), 1);
    assert_int_equal(text[strlen(text) - 1], '\n');
    line = cJSON_Parse(text);
    assert_non_null(line);
    assert_member(line, "level", "debug");
    assert_member(line, "area", "cdc.\"main\"");
    assert_member(line, "message", "a \"b\"\nz\xef\xbf\xbdrich \xc3\xbc");
    assert_int_equal(strlen(cJSON_GetObjectItemCaseSensitive(line, "time")->valuestring), 27);
    assert_null(cJSON_GetObjectItemCaseSensitive(line, "suppressed"));
    cJSON_Delete(line);
    free(text);
}

static void test_levels(void **state)
{
    struct capture c = capture_begin();
    uint64_t info = log_count(LOG_INFO), debug = log_count(LOG_DEBUG), warn = log_count(LOG_WARN);
    char *text;

    (void)state;
    assert_true(log_wants(LOG_INFO));
    assert_false(log_wants(LOG_DEBUG));
    log_debug("test", "hidden");
    log_info("test", "shown");
    log_setup(false, LOG_ERROR);
    log_warn("test", "hidden too");
    text = capture_end(&c);
    assert_null(strstr(text, "hidden"));
    assert_non_null(strstr(text, "info  test: shown\n"));
    assert_int_equal(log_count(LOG_INFO) - info, 1);
    assert_int_equal(log_count(LOG_DEBUG) - debug, 0); /* not wanted is not held back */
    assert_int_equal(log_count(LOG_WARN) - warn, 0);
    free(text);
}

static void test_rate_limit(void **state)
{
    struct capture c = capture_begin();
    uint64_t before = log_count(LOG_ERROR);
    char *text;

    (void)state;
    for (int i = 0; i < 100; i++)
        log_error("flood", "the same fault, number %d", i);
    log_error("flood", "another fault");
    log_error("quiet", "the same fault, number %d", 0); /* another area is another site */
    text = capture_end(&c);
    assert_int_equal(count_of(text, "flood: the same fault"), 20);
    assert_non_null(strstr(text, "number 19\n"));
    assert_null(strstr(text, "number 20\n"));
    assert_non_null(strstr(text, "flood: another fault\n"));
    assert_non_null(strstr(text, "quiet: the same fault"));
    assert_int_equal(log_count(LOG_ERROR) - before, 102); /* held back is counted all the same */
    free(text);
}

/* Records are not held back, and do not use up what others of their area may say. */
static void test_records_are_all_written(void **state)
{
    struct capture c = capture_begin();
    uint64_t before = log_count(LOG_INFO);
    char *text;

    (void)state;
    for (int i = 0; i < 100; i++)
        log_record("audit", "record %d\n", i);
    log_setup(false, LOG_WARN);
    log_record("audit", "not at this level");
    text = capture_end(&c);
    assert_int_equal(count_of(text, "info  audit: record "), 100);
    assert_int_equal(count_of(text, "\n"), 100);
    assert_null(strstr(text, "held back"));
    assert_null(strstr(text, "not at this level"));
    assert_int_equal(log_count(LOG_INFO), before + 100);
    free(text);
}

static void *write_lines(void *arg)
{
    for (int i = 0; i < 20; i++)
        log_info(arg, "%0300d", i);
    return NULL;
}

static void test_threads_do_not_mix_lines(void **state)
{
    static char areas[4][8] = {"one", "two", "three", "four"};
    struct capture c = capture_begin();
    pthread_t threads[4];
    char *text, *save = NULL;
    size_t n = 0;

    (void)state;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, areas[i]), 0);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    text = capture_end(&c);
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save), n++) {
        char *body = strstr(line, ": ");

        assert_non_null(body);
        assert_int_equal(strspn(body + 2, "0123456789"), 300);
        assert_int_equal(strlen(body + 2), 300);
    }
    assert_int_equal(n, 80);
    free(text);
}

static void test_url(void **state)
{
    static const struct {
        const char *url, *shown;
    } vectors[] = {
        {"nats://n1:4222", "nats://n1:4222"},
        {"nats://u:p@n1:4222", "nats://n1:4222"},
        {"tls://token@n1", "tls://n1"},
        {"u:p@n1:4222", "n1:4222"},
        {"n1:4222", "n1:4222"},
        {"postgresql://u:p%40x@db:5432/muster?sslmode=require&password=p",
         "postgresql://db:5432/muster"},
        {"postgresql://u:p@x@db/muster", "postgresql://db/muster"},
        {"postgresql://db/muster?options=a@b", "postgresql://b"}, /* wrong, but no secret */
        {"nats://u:se?cret@n1", "nats://n1"},
        {"host=db user=u password=secret", "(connection settings)"},
        {"password=secret sslcert=file://x", "(connection settings)"},
        {"", ""},
    };
    char out[64];

    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        assert_string_equal(log_url(vectors[i].url, out, sizeof out), vectors[i].shown);
    assert_string_equal(log_url("nats://u:p@n1:4222", out, 8), "nats://");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_text, setup),
        cmocka_unit_test_setup(test_text_is_one_line, setup),
        cmocka_unit_test_setup(test_json, setup),
        cmocka_unit_test_setup(test_levels, setup),
        cmocka_unit_test_setup(test_rate_limit, setup),
        cmocka_unit_test_setup(test_records_are_all_written, setup),
        cmocka_unit_test_setup(test_threads_do_not_mix_lines, setup),
        cmocka_unit_test_setup(test_url, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
