/* The plugin of ABI.md on the test host; plugin-hello-cpp is held to the same. */
#include <muster/testhost.h>

#include <stdio.h>
#include <string.h>

static int failed;

#define CHECK(condition)                                                                                                              \
    do {                                                                                                                              \
        if (!(condition)) {                                                                                                           \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                           \
            failed = 1;                                                                                                               \
        }                                                                                                                             \
    } while (0)

static struct muster_test *begin(const char *settings)
{
    const struct muster_test_options options = {.size = sizeof options, .file = MUSTER_TEST_PLUGIN, .config = settings};

    return muster_test_begin(&options);
}

static void end(struct muster_test *t)
{
    muster_test_drain(t, MUSTER_TEST_S);
    muster_test_destroy(t);
    failed |= muster_test_free(t) > 0;
}

static int answers(struct muster_test *t, const char *body, const char *expected)
{
    const char *text = muster_test_answer_text(t, muster_test_request(t, "rpc.ann.hello.say", body));

    if (strcmp(text, expected) == 0)
        return 1;
    fprintf(stderr, "answered %s, expected %s\n", text, expected);
    return 0;
}

static void test_greets(void)
{
    struct muster_test *t = begin("greeting: Good morning");

    CHECK(answers(t, "{\"name\": \"Bob\"}", "{\"greeting\":\"Good morning\",\"name\":\"Bob\",\"count\":1}"));
    CHECK(answers(t, "{}", "{\"greeting\":\"Good morning\",\"name\":\"ann\",\"count\":2}"));
    CHECK(muster_test_metric(t, "said_total", NULL) == 2);
    CHECK(muster_test_health(t, NULL, NULL) == MUSTER_HEALTH_OK);
    end(t);
}

static void test_refuses(void)
{
    struct muster_test *t = begin(NULL);
    const struct muster_test_answer *answer = muster_test_answer(t, muster_test_request(t, "rpc.ann.hello.say", "{\"name\": 7}"));

    CHECK(answer && answer->error && strcmp(answer->error, "invalid_argument") == 0 && strcmp(answer->field, "name") == 0);
    muster_test_tell(t, "rpc.ann.hello.say", "{}");
    CHECK(muster_test_metric(t, "said_total", NULL) == 0);
    end(t);
}

static void test_each_failure_of_create_leaves_nothing(void)
{
    static const char *const calls[] = {"host.service", "metrics.make", "bus.subscribe"};
    const struct muster_test_options options = {.size = sizeof options, .file = MUSTER_TEST_PLUGIN};

    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        struct muster_test *t = muster_test_new(&options);

        muster_test_fault(t, calls[i], MUSTER_EINVAL, 1, 1);
        CHECK(muster_test_create(t) != 0 || muster_test_start(t) != 0);
        failed |= muster_test_free(t) > 0;
    }
}

int main(void)
{
    test_greets();
    test_refuses();
    test_each_failure_of_create_leaves_nothing();
    return failed;
}
