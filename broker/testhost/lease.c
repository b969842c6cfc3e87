/* muster.lease/1 of the test host: leases that the test gives and takes. Lane only. */
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "testhost/inside.h"

static const int64_t default_ttl_ns = 15 * MUSTER_TEST_S, min_ttl_ns = 3 * MUSTER_TEST_S, max_ttl_ns = 3600 * MUSTER_TEST_S;

struct lease {
    uint64_t id, epoch; /* epoch 0: not held */
    char *name;
    struct muster_lease_options how;
    struct due *ends; /* while the link is away: when it could not be renewed any more */
};
struct epoch { /* the last one of a name, whoever had it */
    char *name;
    uint64_t epoch;
};
struct end {
    struct due due;
};

static struct lease *find(struct muster_test *t, uint64_t id)
{
    for (size_t i = 0; i < t->leases.n; i++) {
        struct lease *l = t->leases.items[i];

        if (l->id == id)
            return l;
    }
    return NULL;
}

static struct lease *named(struct muster_test *t, const char *name)
{
    for (size_t i = 0; i < t->leases.n; i++) {
        struct lease *l = t->leases.items[i];

        if (strcmp(l->name, name) == 0)
            return l;
    }
    return NULL;
}

static uint64_t next_epoch(struct muster_test *t, const char *name)
{
    struct epoch *e;

    for (size_t i = 0; i < t->epochs.n; i++) {
        e = t->epochs.items[i];
        if (strcmp(e->name, name) == 0)
            return ++e->epoch;
    }
    e = must_alloc(sizeof *e);
    *e = (struct epoch){must_copy(name), 1};
    list_add(&t->epochs, e);
    return 1;
}

static void forget_end(struct muster_test *t, struct lease *l)
{
    if (!l->ends)
        return;
    due_remove(t, l->ends);
    free(l->ends);
    l->ends = NULL;
}

static void lease_free_one(struct lease *l)
{
    free(l->name);
    free(l);
}

static int check_options(struct muster_test *t, const struct muster_lease_options *o)
{
    const int call = CALL_LEASE_ACQUIRE;

    if (!o || !MUSTER_HAS(o, arg))
        return breach(t, call, "size is %u: expected sizeof(struct muster_lease_options)", o ? o->size : 0);
    if (is_stale(t, call, "name", o->name))
        return MUSTER_EINVAL;
    if (!name_is_key(o->name))
        return breach(t, call, "name \"%s\": expected one as of a key", o->name ? o->name : "NULL");
    if (o->ttl_ns && (o->ttl_ns < min_ttl_ns || o->ttl_ns > max_ttl_ns))
        return breach(t, call, "%s: ttl_ns %lld: expected 0, or 3 s to 1 h", o->name, (long long)o->ttl_ns);
    if (!o->on_got || !o->on_lost)
        return breach(t, call, "%s: on_got or on_lost is NULL", o->name);
    return 0;
}

static int lease_acquire(const struct muster_host *host, const struct muster_lease_options *options, uint64_t *ret_lease)
{
    struct muster_test *t = test_of(host, CALL_LEASE_ACQUIRE);
    int err = call_begin(t, CALL_LEASE_ACQUIRE);
    struct lease *l;

    if (!err)
        err = check_options(t, options);
    if (!err && !ret_lease)
        err = breach(t, CALL_LEASE_ACQUIRE, "ret_lease is NULL");
    if (!err && named(t, options->name))
        err = MUSTER_EEXIST;
    if (err)
        return err;
    l = must_alloc(sizeof *l);
    *l = (struct lease){.id = ++t->next_id, .name = must_copy(options->name), .how = *options};
    list_add(&t->leases, l);
    *ret_lease = l->id;
    return 0;
}

static void lease_release(const struct muster_host *host, uint64_t lease)
{
    struct muster_test *t = test_of(host, CALL_LEASE_RELEASE);

    if (call_begin(t, CALL_LEASE_RELEASE) != 0)
        return;
    for (size_t i = 0; i < t->leases.n; i++) {
        struct lease *l = t->leases.items[i];

        if (l->id != lease)
            continue;
        forget_end(t, l);
        list_remove(&t->leases, i);
        lease_free_one(l);
        return;
    }
    (void)breach(t, CALL_LEASE_RELEASE, "%llu is no lease", (unsigned long long)lease);
}

static uint64_t lease_epoch(const struct muster_host *host, uint64_t lease)
{
    struct muster_test *t = test_of(host, CALL_LEASE_EPOCH);
    const struct lease *l;

    if (call_begin(t, CALL_LEASE_EPOCH) != 0)
        return 0;
    l = find(t, lease);
    return l ? l->epoch : 0;
}

const struct muster_lease test_lease = {
    .size = sizeof test_lease, .acquire = lease_acquire, .release = lease_release, .epoch = lease_epoch};

bool lease_holds(struct muster_test *t, uint64_t lease)
{
    const struct lease *l = find(t, lease);

    return l && l->epoch;
}

static void give(struct muster_test *t, struct lease *l)
{
    l->epoch = next_epoch(t, l->name);
    DURING(t, "lease got", l->name, l->how.on_got(l->how.arg, l->epoch));
}

static void take(struct muster_test *t, struct lease *l, int code)
{
    forget_end(t, l);
    l->epoch = 0;
    DURING(t, "lease lost", l->name, l->how.on_lost(l->how.arg, code));
}

static void run_end(struct muster_test *t, struct due *d, int code)
{
    for (size_t i = 0; i < t->leases.n; i++) {
        struct lease *l = t->leases.items[i];

        if (l->ends != d)
            continue;
        l->ends = NULL;
        take(t, l, code ? code : MUSTER_ETIME);
        break;
    }
    free(d);
}

/* While NATS is away nothing is renewed. */
void lease_link(struct muster_test *t, bool up)
{
    for (size_t i = 0; i < t->leases.n; i++) {
        struct lease *l = t->leases.items[i];
        struct end *end;

        if (up)
            forget_end(t, l);
        if (up || !l->epoch || l->ends)
            continue;
        end = must_alloc(sizeof *end);
        end->due = (struct due){.kind = DUE_TIMER, .callback = -1, .run = run_end};
        l->ends = &end->due;
        due_add(t, l->ends, t->now_ns + (l->how.ttl_ns ? l->how.ttl_ns : default_ttl_ns));
    }
}

int muster_test_lease_give(struct muster_test *t, const char *name)
{
    int err = MUSTER_ENOTFOUND;
    struct list now = {0};

    for (size_t i = 0; i < t->leases.n; i++) {
        struct lease *l = t->leases.items[i];

        if (!l->epoch && (!name || strcmp(l->name, name) == 0))
            list_add(&now, (void *)(uintptr_t)l->id);
    }
    for (size_t i = 0; i < now.n; i++) { /* on_got may release it, or another */
        struct lease *l = find(t, (uint64_t)(uintptr_t)now.items[i]);

        if (l)
            give(t, l);
        err = 0;
    }
    list_done(&now);
    muster_test_run(t);
    return err;
}

int muster_test_lease_take(struct muster_test *t, const char *name, int code)
{
    int err = MUSTER_ENOTFOUND;
    struct list now = {0};

    for (size_t i = 0; i < t->leases.n; i++) {
        struct lease *l = t->leases.items[i];

        if (l->epoch && (!name || strcmp(l->name, name) == 0))
            list_add(&now, (void *)(uintptr_t)l->id);
    }
    for (size_t i = 0; i < now.n; i++) {
        struct lease *l = find(t, (uint64_t)(uintptr_t)now.items[i]);

        if (l)
            take(t, l, code);
        err = 0;
    }
    list_done(&now);
    muster_test_run(t);
    return err;
}

/* The instance ends: they are let go without a word. */
void lease_end(struct muster_test *t)
{
    for (size_t i = 0; i < t->leases.n; i++) {
        struct lease *l = t->leases.items[i];

        forget_end(t, l);
        l->epoch = 0;
    }
}

void lease_free(struct muster_test *t)
{
    for (size_t i = 0; i < t->leases.n; i++)
        lease_free_one(t->leases.items[i]);
    for (size_t i = 0; i < t->epochs.n; i++) {
        struct epoch *e = t->epochs.items[i];

        free(e->name);
        free(e);
    }
    list_done(&t->leases);
    list_done(&t->epochs);
}
