/* core/requests.h: a request is answered once, handles are not mistaken, and the table has a bound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <muster/plugin.h>
#include <pthread.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/requests.h"

static const struct request_note note = {.encoding = MUSTER_MSGPACK, .recv_ns = 42};

static void test_taken_once(void **state)
{
    struct requests *r = requests_new();
    uint64_t handle = requests_open(r, "mst.acme.box.a1.7", &note);
    struct request request;

    (void)state;
    assert_int_not_equal(handle, 0);
    assert_int_equal(requests_count(r), 1);
    assert_int_equal(requests_take(r, handle, &request), 0);
    assert_string_equal(request.reply, "mst.acme.box.a1.7");
    assert_int_equal(request.note.encoding, MUSTER_MSGPACK);
    assert_int_equal(request.note.recv_ns, 42);
    assert_int_equal(requests_take(r, handle, &request), MUSTER_ENOTFOUND);
    assert_int_equal(requests_count(r), 0);
    requests_free(r);
}

/* One answers at a time; what could not be sent is answered again. */
static void test_an_answer_that_is_tried_again(void **state)
{
    struct requests *r = requests_new();
    uint64_t handle = requests_open(r, "box", &note);
    struct request request;

    (void)state;
    assert_int_equal(requests_begin(r, handle, &request), 0);
    assert_string_equal(request.reply, "box");
    assert_int_equal(requests_begin(r, handle, &request), MUSTER_ENOTFOUND);
    requests_give_back(r, handle);
    assert_int_equal(requests_begin(r, handle, &request), 0);
    assert_int_equal(requests_take(r, handle, &request), 0);
    assert_int_equal(requests_begin(r, handle, &request), MUSTER_ENOTFOUND);
    handle = requests_open(r, "next", &note); /* in the same slot */
    assert_int_equal(requests_begin(r, handle, &request), 0);
    requests_free(r);
}

static void test_a_late_answer_never_meets_a_new_request(void **state)
{
    struct requests *r = requests_new();
    uint64_t old = requests_open(r, "old", &note), new;
    struct request request;

    (void)state;
    assert_int_equal(requests_take(r, old, &request), 0);
    new = requests_open(r, "new", &note); /* in the same slot */
    assert_int_not_equal(new, old);
    assert_int_equal(requests_take(r, old, &request), MUSTER_ENOTFOUND);
    assert_int_equal(requests_take(r, new, &request), 0);
    assert_string_equal(request.reply, "new");
    requests_free(r);
}

static void test_handles_that_never_were(void **state)
{
    static const uint64_t handles[] = {
        0, 1, UINT32_MAX, UINT64_MAX, (uint64_t)1 << 32, (uint64_t)9 << 32 | 1};
    struct requests *r = requests_new();
    struct request request;

    (void)state;
    for (size_t i = 0; i < sizeof handles / sizeof *handles; i++)
        assert_int_equal(requests_take(r, handles[i], &request), MUSTER_ENOTFOUND);
    assert_int_not_equal(requests_open(r, "x", &note), 0);
    for (size_t i = 0; i < sizeof handles / sizeof *handles; i++)
        assert_int_equal(requests_take(r, handles[i], &request), MUSTER_ENOTFOUND);
    requests_free(r);
}

static void test_the_reply_subject_has_a_bound(void **state)
{
    char reply[REQUESTS_REPLY_SIZE + 1];
    struct requests *r = requests_new();
    struct request request;
    uint64_t handle;

    (void)state;
    memset(reply, 'x', sizeof reply);
    reply[REQUESTS_REPLY_SIZE] = '\0';
    assert_int_equal(requests_open(r, reply, &note), 0);
    reply[REQUESTS_REPLY_SIZE - 1] = '\0';
    handle = requests_open(r, reply, &note);
    assert_int_equal(requests_take(r, handle, &request), 0);
    assert_string_equal(request.reply, reply);
    requests_free(r);
}

static uint64_t open_of(struct requests *r, uint32_t owner, uint32_t i)
{
    struct request_note of = {.encoding = MUSTER_JSON, .owner = owner};
    char reply[16];

    (void)snprintf(reply, sizeof reply, "r%u", i);
    return requests_open(r, reply, &of);
}

/* Nearly all of it where many share it. */
static void test_the_table_has_a_bound(void **state)
{
    struct requests *r = requests_new();
    uint64_t *handles = calloc(REQUESTS_MAX + 1, sizeof *handles);
    struct request request;
    uint32_t n = 0;

    (void)state;
    assert_non_null(handles);
    while (n <= REQUESTS_MAX && (handles[n] = open_of(r, n % REQUESTS_OWNERS, n)))
        n++;
    assert_in_range(n, REQUESTS_MAX - REQUESTS_OWNERS, REQUESTS_MAX);
    for (uint32_t i = 0; i < n; i += 2)
        assert_int_equal(requests_take(r, handles[i], &request), 0);
    assert_int_equal(requests_count(r), n / 2);
    assert_int_not_equal(requests_open(r, "room again", &note), 0);
    assert_int_equal(requests_take(r, handles[1], &request), 0);
    assert_string_equal(request.reply, "r1");
    free(handles);
    requests_free(r); /* with half of them open */
    requests_free(NULL);
}

/* Who answers nothing has half of it, the next one half of the rest; and has room again once it answers. */
static void test_one_owner_leaves_room_for_the_others(void **state)
{
    struct requests *r = requests_new();
    uint64_t last = 0, handle;
    struct request request;
    uint32_t n[2] = {0};

    (void)state;
    for (uint32_t owner = 0; owner < 2; owner++)
        for (; (handle = open_of(r, owner, n[owner])); n[owner]++)
            last = handle;
    assert_int_equal(n[0], REQUESTS_MAX / 2);
    assert_int_equal(n[1], REQUESTS_MAX / 4);
    assert_int_equal(requests_take(r, last, &request), 0);
    assert_int_not_equal(open_of(r, 1, 0), 0);
    assert_int_equal(open_of(r, 0, 0), 0);
    requests_free(r);
}

enum { THREADS = 4, EACH = 20000 };

static void *open_and_take(void *arg)
{
    struct requests *r = arg;
    struct request request;

    for (int i = 0; i < EACH; i++) {
        uint64_t handle = requests_open(r, "reply", &note);

        if (!handle || requests_take(r, handle, &request) != 0)
            return r;
    }
    return NULL;
}

static void test_from_several_threads(void **state)
{
    struct requests *r = requests_new();
    pthread_t threads[THREADS];
    void *failed;

    (void)state;
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, open_and_take, r), 0);
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    assert_int_equal(requests_count(r), 0);
    requests_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken_once),
        cmocka_unit_test(test_an_answer_that_is_tried_again),
        cmocka_unit_test(test_a_late_answer_never_meets_a_new_request),
        cmocka_unit_test(test_handles_that_never_were),
        cmocka_unit_test(test_the_reply_subject_has_a_bound),
        cmocka_unit_test(test_the_table_has_a_bound),
        cmocka_unit_test(test_one_owner_leaves_room_for_the_others),
        cmocka_unit_test(test_from_several_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
