/* core/health: when the broker is ready, the JSON and the line, one log line a change, the metric,
 * many threads at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cjson/cJSON.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "capture.h"
#include "core/health.h"

static int setup(void **state)
{
    log_setup(false, LOG_INFO);
    *state = health_new("b\"1");
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    health_free(*state);
    return 0;
}

static struct health_component *add(struct health *h, const char *kind, const char *name,
                                    bool required)
{
    struct health_component *c = NULL;

    assert_int_equal(health_add(h, kind, name, required, &c), 0);
    assert_non_null(c);
    return c;
}

/* Set without the log line on the screen. */
static void quiet_set(struct health_component *c, int state, const char *code, const char *text)
{
    struct capture quiet = capture_begin();

    health_set(c, state, code, "%s", text);
    free(capture_end(&quiet));
}

static void assert_line(struct health *h, const char *expected)
{
    struct buf b = {0};

    health_put_line(h, &b);
    assert_string_equal(b.data, expected);
    buf_done(&b);
}

static cJSON *json_of(struct health *h)
{
    struct buf b = {0};
    bool ready = health_put_json(h, &b);
    cJSON *json = cJSON_Parse(b.data);

    assert_non_null(json);
    assert_int_equal(ready, cJSON_IsTrue(cJSON_GetObjectItem(json, "ready")));
    assert_int_equal(ready, health_is_ready(h));
    assert_int_equal(b.data[b.len - 1], '\n');
    buf_done(&b);
    return json;
}

static const char *member(const cJSON *object, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);

    assert_true(cJSON_IsString(v));
    return v->valuestring;
}

static void test_ready(void **state)
{
    struct health_component *nats, *cdc, *stats;

    assert_false(health_is_ready(*state)); /* nothing was added: nothing is known */
    health_set(NULL, MUSTER_HEALTH_DOWN, "x", "%s", "heard by nobody");
    nats = add(*state, HEALTH_LINK, "nats", true);
    cdc = add(*state, HEALTH_PLUGIN, "cdc.main", true);
    stats = add(*state, HEALTH_PLUGIN, "stats", false);
    assert_false(health_is_ready(*state));
    quiet_set(nats, MUSTER_HEALTH_OK, NULL, "");
    assert_false(health_is_ready(*state));
    quiet_set(cdc, MUSTER_HEALTH_STANDBY, "slot_active", "another broker reads the slot");
    assert_true(health_is_ready(*state)); /* stats has not reported, and is not required */
    quiet_set(stats, MUSTER_HEALTH_DOWN, "broken", "x");
    assert_true(health_is_ready(*state));
    quiet_set(nats, MUSTER_HEALTH_DEGRADED, "one_of_two", "x");
    assert_true(health_is_ready(*state));
    quiet_set(cdc, MUSTER_HEALTH_DOWN, "slot_missing", "x");
    assert_false(health_is_ready(*state));
    health_remove(cdc);
    assert_true(health_is_ready(*state));
}

static void test_json(void **state)
{
    struct health_component *nats = add(*state, HEALTH_LINK, "nats", true);
    const cJSON *list, *c;
    cJSON *json;

    (void)add(*state, HEALTH_LANE, "cdc.main/0", false);
    quiet_set(nats, MUSTER_HEALTH_DOWN, "refused", "no \"nats\" at\nn1, z\xfcrich");
    json = json_of(*state);
    assert_string_equal(member(json, "broker"), "b\"1");
    list = cJSON_GetObjectItem(json, "components");
    assert_int_equal(cJSON_GetArraySize(list), 2);
    c = cJSON_GetArrayItem(list, 0);
    assert_string_equal(member(c, "kind"), "link");
    assert_string_equal(member(c, "name"), "nats");
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(c, "required")));
    assert_string_equal(member(c, "state"), "down");
    assert_string_equal(member(c, "code"), "refused");
    assert_string_equal(member(c, "text"), "no \"nats\" at\nn1, z\xef\xbf\xbdrich");
    assert_int_equal(strlen(member(c, "since")), 27);
    c = cJSON_GetArrayItem(list, 1);
    assert_string_equal(member(c, "state"), "starting");
    assert_string_equal(member(c, "code"), "starting");
    assert_true(cJSON_IsFalse(cJSON_GetObjectItem(c, "required")));
    cJSON_Delete(json);
}

/* What the first component's member says now; for free(). */
static char *first(struct health *h, const char *key)
{
    cJSON *json = json_of(h);
    char *value =
        strdup(member(cJSON_GetArrayItem(cJSON_GetObjectItem(json, "components"), 0), key));

    cJSON_Delete(json);
    return value;
}

static void test_since_moves_with_the_state_only(void **state)
{
    struct health_component *c = add(*state, HEALTH_POSTGRES, "postgres", true);
    char *since, *again, *later, *text;

    quiet_set(c, MUSTER_HEALTH_DOWN, "refused", "one");
    since = first(*state, "since");
    quiet_set(c, MUSTER_HEALTH_DOWN, "refused", "two");
    again = first(*state, "since");
    text = first(*state, "text");
    assert_string_equal(since, again);
    assert_string_equal(text, "two"); /* the newest words count all the same */
    quiet_set(c, MUSTER_HEALTH_OK, NULL, "");
    later = first(*state, "since");
    assert_true(strcmp(since, later) < 0);
    free(since);
    free(again);
    free(later);
    free(text);
}

static void test_line(void **state)
{
    struct health_component *nats = add(*state, HEALTH_LINK, "nats", true);
    struct health_component *cdc = add(*state, HEALTH_PLUGIN, "cdc.main", true);

    assert_line(*state, "not ready: link nats is starting; plugin cdc.main is starting");
    quiet_set(nats, MUSTER_HEALTH_OK, NULL, "connected");
    quiet_set(cdc, MUSTER_HEALTH_DOWN, "slot_missing", "slot muster_main is not there");
    assert_line(*state,
                "not ready: plugin cdc.main is down (slot_missing): slot muster_main is not there");
    quiet_set(cdc, MUSTER_HEALTH_DEGRADED, "table_refused", "");
    assert_line(*state, "ready: plugin cdc.main is degraded (table_refused)");
    quiet_set(cdc, MUSTER_HEALTH_OK, NULL, "");
    assert_line(*state, "ready");
}

static void test_each_change_is_logged_once(void **state)
{
    struct health_component *c = add(*state, HEALTH_PLUGIN, "cdc.main", true);
    struct capture log = capture_begin();
    static const char *const expected[] = {
        "info  plugin.cdc.main: standby (slot_active): another broker reads\n",
        "info  plugin.cdc.main: ok\n",
        "warn  plugin.cdc.main: degraded (table_refused): public.orders\n",
        "error plugin.cdc.main: down (slot_missing): lag 1\n",
        "error plugin.cdc.main: down (no_wal): lag 3\n",
        "info  plugin.cdc.main: ok: streaming\n",
    };
    const char *at;
    char *text;

    for (int i = 0; i < 3; i++)
        health_set(c, MUSTER_HEALTH_STANDBY, "slot_active", "another broker reads");
    health_set(c, MUSTER_HEALTH_OK, NULL, "%s", "");
    health_set(c, MUSTER_HEALTH_DEGRADED, "table_refused", "%s.%s", "public", "orders");
    health_set(c, MUSTER_HEALTH_DOWN, "slot_missing", "lag %d", 1);
    health_set(c, MUSTER_HEALTH_DOWN, "slot_missing", "lag %d", 2);
    health_set(c, MUSTER_HEALTH_DOWN, "no_wal", "lag %d", 3);
    health_set(c, MUSTER_HEALTH_OK, "ok", "streaming");
    health_set(c, MUSTER_HEALTH_OK, NULL, "streaming");
    at = text = capture_end(&log);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        at = strchr(at, ' ') + 1; /* behind the time */
        assert_memory_equal(at, expected[i], strlen(expected[i]));
        at += strlen(expected[i]);
    }
    assert_string_equal(at, "");
    free(text);
}

static void test_names_are_unique_and_bounded(void **state)
{
    struct health_component *c = NULL;
    char name[16];

    (void)add(*state, HEALTH_LINK, "nats", true);
    assert_int_equal(health_add(*state, HEALTH_LINK, "nats", false, &c), MUSTER_EEXIST);
    (void)add(*state, HEALTH_STREAM, "nats", true);
    for (int i = 2; i < HEALTH_MAX; i++) {
        (void)snprintf(name, sizeof name, "MSG_%d", i);
        c = add(*state, HEALTH_STREAM, name, true);
    }
    assert_int_equal(
        health_add(*state, HEALTH_STREAM, "one_more", true, &(struct health_component *){NULL}),
        MUSTER_EAGAIN);
    health_remove(c);
    health_remove(NULL);
    (void)add(*state, HEALTH_STREAM, "one_more", true);
}

static void test_long_texts_are_cut_at_a_character(void **state)
{
    struct health_component *c = add(*state, HEALTH_LINK, "nats", true);
    char longer[2 * HEALTH_TEXT_SIZE], *text, *code;

    for (size_t i = 0; i < sizeof longer - 1; i++)
        longer[i] = "x\xc3\xbc"[i % 3];
    longer[sizeof longer - 1] = '\0';
    quiet_set(c, MUSTER_HEALTH_DOWN, longer, longer);
    text = first(*state, "text");
    code = first(*state, "code");
    assert_int_equal(strlen(text), 511); /* 512 would split a character */
    assert_memory_equal(text, longer, 511);
    assert_int_equal(strlen(code), HEALTH_CODE_SIZE - 1);
    free(text);
    free(code);
}

static void test_metrics(void **state)
{
    struct metrics *m = metrics_new();
    struct buf page = {0};

    assert_non_null(m);
    assert_int_equal(health_watch(*state, m), 0);
    quiet_set(add(*state, HEALTH_LINK, "nats", true), MUSTER_HEALTH_DEGRADED, "x", "");
    (void)add(*state, HEALTH_PLUGIN, "cdc.main", false);
    metrics_render(m, &page);
    assert_non_null(strstr(page.data, "\nmuster_health{kind=\"link\",name=\"nats\"} 2\n"
                                      "muster_health{kind=\"plugin\",name=\"cdc.main\"} 3\n"));
    assert_non_null(strstr(page.data, "\nmuster_ready 1\n"));
    buf_done(&page);
    metrics_free(m);
}

struct worker {
    struct health *h;
    int number;
};

static void *work(void *arg)
{
    const struct worker *w = arg;
    struct health_component *c, *extra;
    char name[16];

    (void)snprintf(name, sizeof name, "w%d", w->number);
    if (health_add(w->h, HEALTH_LANE, name, true, &c))
        return NULL;
    (void)snprintf(name, sizeof name, "x%d", w->number);
    for (int i = 0; i < 500; i++) {
        struct buf b = {0};

        health_set(c, i % 4, "code", "round %d", i);
        if (health_add(w->h, HEALTH_STREAM, name, false, &extra) == 0)
            health_remove(extra);
        (void)health_put_json(w->h, &b);
        health_put_line(w->h, &b);
        buf_done(&b);
    }
    health_set(c, MUSTER_HEALTH_OK, NULL, "done");
    return NULL;
}

static void test_threads(void **state)
{
    struct capture quiet = capture_begin();
    struct worker w[4];
    pthread_t threads[4];

    for (int i = 0; i < 4; i++) {
        w[i] = (struct worker){.h = *state, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    free(capture_end(&quiet));
    assert_line(*state, "ready");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ready, setup, teardown),
        cmocka_unit_test_setup_teardown(test_json, setup, teardown),
        cmocka_unit_test_setup_teardown(test_since_moves_with_the_state_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_change_is_logged_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_are_unique_and_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_texts_are_cut_at_a_character, setup, teardown),
        cmocka_unit_test_setup_teardown(test_metrics, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
