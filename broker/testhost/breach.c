/* What a plugin may not do, told with the call that did it; and the faults that a test asks for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "testhost/inside.h"

#define CALL_ROW(id, name, where, ...) {name, where, {__VA_ARGS__}},
const struct call calls[N_CALLS] = {CALLS(CALL_ROW)};
#undef CALL_ROW

static const int64_t stalled_ns = 2 * MUSTER_TEST_S; /* as the broker has it */

struct fault {
    int call, code; /* call -1: all that may give code */
    uint32_t skip, left;
    bool for_ever;
};

/* ---- failures ------------------------------------------------------------------------------------------------------------------ */

static void keep(struct muster_test *t, const char *text)
{
    char *copy = must_copy(text);

    pthread_mutex_lock(&t->lock);
    list_add(&t->failures, copy);
    pthread_mutex_unlock(&t->lock);
    if (t->on_failure)
        t->on_failure(t->on_failure_arg, copy);
    if (t->flags & MUSTER_TEST_ABORT) {
        fprintf(stderr, "muster-testhost: %s\n", text);
        abort();
    }
}

void fail_test(struct muster_test *t, const char *fmt, ...)
{
    char text[FAILURE_SIZE];
    int n = snprintf(text, sizeof text, "%s: ", t->area);
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    va_end(ap);
    keep(t, text);
}

int breach(struct muster_test *t, int call, const char *fmt, ...)
{
    char why[FAILURE_SIZE / 2];
    bool here = pthread_equal(pthread_self(), t->lane);
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    fail_test(t, "%s() in %s: %s", calls[call].name, !here ? "a thread of its own" : t->doing[0] ? t->doing : "no callback", why);
    return MUSTER_EINVAL;
}

int test_fail(struct muster_test *t, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    pthread_mutex_lock(&t->lock);
    (void)vsnprintf(t->reason, sizeof t->reason, fmt, ap);
    pthread_mutex_unlock(&t->lock);
    va_end(ap);
    return code;
}

bool is_stale(struct muster_test *t, int call, const char *what, const void *p)
{
    const char *was = p ? arena_stale(p) : NULL;

    if (was)
        (void)breach(t, call, "%s points into borrowed memory that is gone: %s", what, was);
    return was;
}

size_t muster_test_failures(struct muster_test *t)
{
    size_t n;

    pthread_mutex_lock(&t->lock);
    n = t->failures.n;
    pthread_mutex_unlock(&t->lock);
    t->reported = true;
    return n;
}

const char *muster_test_failure(struct muster_test *t, size_t i)
{
    const char *text;

    pthread_mutex_lock(&t->lock);
    text = i < t->failures.n ? t->failures.items[i] : NULL;
    pthread_mutex_unlock(&t->lock);
    return text;
}

void muster_test_forgive(struct muster_test *t)
{
    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < t->failures.n; i++)
        free(t->failures.items[i]);
    t->failures.n = 0;
    pthread_mutex_unlock(&t->lock);
}

void muster_test_report(struct muster_test *t, FILE *out)
{
    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < t->failures.n; i++)
        fprintf(out, "%s\n", (const char *)t->failures.items[i]);
    pthread_mutex_unlock(&t->lock);
    t->reported = true;
}

void muster_test_on_failure(struct muster_test *t, void (*fn)(void *arg, const char *text), void *arg)
{
    t->on_failure = fn;
    t->on_failure_arg = arg;
}

/* ---- callbacks ----------------------------------------------------------------------------------------------------------------- */

static int64_t real_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * MUSTER_TEST_S + now.tv_nsec;
}

void doing_begin(struct muster_test *t, const char *callback, const char *about, int64_t *ret_began)
{
    (void)snprintf(t->doing, sizeof t->doing, "%s%s%s", callback, about ? " " : "", about ? about : "");
    *ret_began = real_ns();
}

void doing_end(struct muster_test *t, int64_t began)
{
    int64_t took = real_ns() - began;

    if (took >= stalled_ns)
        fail_test(t, "%s took %lld ms: no callback may block", t->doing, (long long)(took / MUSTER_TEST_MS));
    t->doing[0] = '\0';
}

const char *muster_test_doing(const struct muster_test *t)
{
    return t->doing;
}

/* ---- calls --------------------------------------------------------------------------------------------------------------------- */

struct muster_test *test_of(const struct muster_host *host, int call)
{
    struct muster_test *t = host ? host->impl : NULL;

    if (t && (host == &t->host || host == &t->check_host) && t->magic == TEST_MAGIC)
        return t;
    /* There is no host to keep it, and nothing to go on with. */
    fprintf(stderr, "muster-testhost: %s() was called with a host that is none\n", calls[call].name);
    abort();
}

/* NULL: it may be called here and now. */
static const char *misplaced(const struct muster_test *t, int where)
{
    bool here = pthread_equal(pthread_self(), t->lane);

    if (t->phase == PHASE_ENDED)
        return "destroy() has returned: nothing may be called any more";
    if (where == AT_ANY)
        return NULL;
    if (!here)
        return where == AT_INIT ? "[init]: may be called in create() only" : "[lane]: may be called on the lane only";
    if (where == AT_INIT && t->phase != PHASE_CREATE)
        return "[init]: may be called in create() only";
    if (where == AT_BEGIN && t->phase == PHASE_CREATE)
        return "[lane]: from start() on, not in create()";
    if (!t->doing[0])
        return "[lane]: called while no callback runs";
    return NULL;
}

/* A fault of all functions hits those that may give its code. */
static bool may_give(int call, int code)
{
    for (size_t i = 0; i < sizeof calls[call].codes / sizeof *calls[call].codes; i++)
        if (calls[call].codes[i] == code)
            return true;
    return false;
}

static int take(struct muster_test *t, int call)
{
    for (size_t i = 0; i < t->faults.n; i++) {
        struct fault *f = t->faults.items[i];

        if (f->call >= 0 ? f->call != call : !may_give(call, f->code))
            continue;
        if (f->skip) {
            f->skip--;
            continue;
        }
        if (!f->for_ever && !f->left)
            continue;
        f->left -= !f->for_ever;
        t->n_given[call]++;
        return f->code;
    }
    return 0;
}

int fault_take(struct muster_test *t, int call)
{
    int code;

    pthread_mutex_lock(&t->lock);
    t->n_calls[call]++;
    code = take(t, call);
    pthread_mutex_unlock(&t->lock);
    return code;
}

_Thread_local bool testing_roster;

/* There another call may need the lock that is held. */
static bool may_call_in_roster(int call)
{
    return call == CALL_HOST_LOG || call == CALL_HOST_FAIL || (call >= CALL_CODEC_DECODE && call <= CALL_CODEC_BYTES);
}

int call_begin(struct muster_test *t, int call)
{
    const char *why = misplaced(t, calls[call].where);
    int code;

    if (!why && testing_roster && !may_call_in_roster(call))
        why = "inside a function that get() or find() of the roster calls: of the host only codec and log";
    if (why)
        return breach(t, call, "%s", why);
    if (t->phase == PHASE_ENDING && calls[call].where == AT_BEGIN)
        return MUSTER_ELINK;
    code = fault_take(t, call);
    if (code)
        (void)test_fail(t, code, "%s: a fault of the test (%d)", calls[call].name, code);
    if (code == MUSTER_EAGAIN && call != CALL_HOST_POST && call != CALL_BUS_HOLD)
        starve(t);
    return code;
}

/* ---- faults -------------------------------------------------------------------------------------------------------------------- */

static int call_named(const char *name)
{
    for (int i = 0; i < N_CALLS; i++)
        if (strcmp(calls[i].name, name) == 0)
            return i;
    return -1;
}

const struct muster_test_function *muster_test_functions(size_t *ret_n)
{
    static struct muster_test_function functions[N_CALLS];
    size_t n = 0;

    for (size_t i = 0; i < N_CALLS; i++)
        if (calls[i].codes[0]) {
            functions[n].name = calls[i].name;
            memcpy(functions[n].codes, calls[i].codes, sizeof functions[n].codes);
            n++;
        }
    *ret_n = n;
    return functions;
}

void muster_test_fault(struct muster_test *t, const char *name, int code, uint32_t first, uint32_t count)
{
    int call = name ? call_named(name) : -1;
    struct fault *f;

    if (name && (call < 0 || !calls[call].codes[0])) {
        fail_test(t, "muster_test_fault(): there is no function \"%s\" that can fail", name);
        return;
    }
    if (code >= 0 || !first) {
        fail_test(t, "muster_test_fault(): code %d from call %u on: expected MUSTER_E* and 1 or more", code, first);
        return;
    }
    f = must_alloc(sizeof *f);
    *f = (struct fault){.call = call, .code = code, .skip = first - 1, .left = count, .for_ever = !count};
    pthread_mutex_lock(&t->lock);
    list_add(&t->faults, f);
    pthread_mutex_unlock(&t->lock);
}

void muster_test_no_faults(struct muster_test *t)
{
    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < t->faults.n; i++)
        free(t->faults.items[i]);
    list_done(&t->faults);
    pthread_mutex_unlock(&t->lock);
}

static uint64_t count(struct muster_test *t, const uint64_t *counts, const char *name)
{
    int call = name ? call_named(name) : -1;
    uint64_t n = 0;

    if (name && call < 0) {
        fail_test(t, "there is no function \"%s\" of the host", name);
        return 0;
    }
    pthread_mutex_lock(&t->lock);
    for (int i = 0; i < N_CALLS; i++)
        if (call < 0 || call == i)
            n += counts[i];
    pthread_mutex_unlock(&t->lock);
    return n;
}

uint64_t muster_test_calls(struct muster_test *t, const char *name)
{
    return count(t, t->n_calls, name);
}

uint64_t muster_test_faults_given(struct muster_test *t, const char *name)
{
    return count(t, t->n_given, name);
}
