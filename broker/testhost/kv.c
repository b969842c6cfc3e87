/* muster.kv/1 of the test host: keys in memory, with revisions and expiry. Lane only. */
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "testhost/inside.h"

enum { MAX_VALUE = 65536 };

struct key {
    char *tenant, *name; /* tenant NULL: the plugin's own */
    struct muster_bytes value;
    uint64_t revision;
    int64_t expires_wall_ns; /* 0: never */
};

enum { OP_GET, OP_PUT, OP_DEL, OP_SCAN };
struct op {
    struct due due;
    int what;
    char *tenant, *name; /* of SCAN: the prefix */
    struct muster_bytes value;
    uint64_t revision;
    int64_t expires_wall_ns;
    muster_kv_fn fn;
    muster_kv_scan_fn scan;
    void *arg;
};

static bool same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static void key_free(struct key *k)
{
    free(k->tenant);
    free(k->name);
    free((void *)(uintptr_t)k->value.data);
    free(k);
}

/* Its index; t->keys.n: there is no such one. What has expired goes first. */
static size_t find(struct muster_test *t, const char *tenant, const char *name)
{
    int64_t now = muster_test_wall_now(t);
    size_t i = 0;

    while (i < t->keys.n) {
        struct key *k = t->keys.items[i];

        if (k->expires_wall_ns && k->expires_wall_ns <= now) {
            list_remove(&t->keys, i);
            key_free(k);
        } else if (same(k->tenant, tenant) && strcmp(k->name, name) == 0) {
            break;
        } else {
            i++;
        }
    }
    return i;
}

static struct key *key_at(struct muster_test *t, size_t i)
{
    return i < t->keys.n ? t->keys.items[i] : NULL;
}

static uint64_t store(struct muster_test *t, const char *tenant, const char *name, struct muster_bytes value, int64_t expires_wall_ns)
{
    struct key *k = key_at(t, find(t, tenant, name));

    if (!k) {
        k = must_alloc(sizeof *k);
        k->tenant = must_copy(tenant);
        k->name = must_copy(name);
        list_add(&t->keys, k);
    }
    free((void *)(uintptr_t)k->value.data);
    k->value = must_copy_bytes(value);
    k->revision = ++t->revision;
    k->expires_wall_ns = expires_wall_ns;
    return k->revision;
}

static void discard(struct muster_test *t, const char *tenant, const char *name)
{
    size_t i = find(t, tenant, name);
    struct key *k = key_at(t, i);

    if (!k)
        return;
    list_remove(&t->keys, i);
    key_free(k);
    t->revision++;
}

static void op_free(struct op *op)
{
    free(op->tenant);
    free(op->name);
    free((void *)(uintptr_t)op->value.data);
    free(op);
}

static void give(struct muster_test *t, struct op *op, int code, struct muster_bytes value, uint64_t revision)
{
    struct arena *a = NULL;

    if (value.data) {
        a = arena_new(value.len);
        value.data = arena_copy(a, value.data, value.len);
    }
    if (op->fn)
        DURING(t, "kv", op->name, op->fn(op->arg, code, value, revision));
    arena_end(a, "the value of a key");
    op_free(op);
}

static const struct muster_bytes none = {NULL, 0};

static void run_get(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;
    const struct key *k = code ? NULL : key_at(t, find(t, op->tenant, op->name));

    if (!code && !k)
        code = MUSTER_ENOTFOUND;
    give(t, op, code, code ? none : k->value, code ? 0 : k->revision);
}

static bool is_at(const struct key *k, uint64_t revision)
{
    return revision == MUSTER_UNFENCED || revision == (k ? k->revision : 0);
}

static void run_put(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;
    uint64_t revision = 0;

    if (!code && !is_at(key_at(t, find(t, op->tenant, op->name)), op->revision))
        code = MUSTER_ESTALE;
    if (!code)
        revision = store(t, op->tenant, op->name, op->value, op->expires_wall_ns);
    give(t, op, code, none, revision);
}

static void run_del(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;
    const struct key *k = key_at(t, find(t, op->tenant, op->name));

    if (!code && k && !is_at(k, op->revision))
        code = MUSTER_ESTALE;
    if (!code)
        discard(t, op->tenant, op->name);
    give(t, op, code, none, code ? 0 : t->revision);
}

static void give_entry(struct muster_test *t, struct op *op, const struct key *k)
{
    struct arena *a = arena_new(sizeof(struct muster_kv_entry) + strlen(k->name) + k->value.len);
    struct muster_kv_entry *entry = arena_take(a, sizeof *entry);

    *entry = (struct muster_kv_entry){.size = sizeof *entry,
                                      .key = arena_text(a, k->name),
                                      .value = {arena_copy(a, k->value.data, k->value.len), k->value.len},
                                      .revision = k->revision,
                                      .expires_wall_ns = k->expires_wall_ns};
    DURING(t, "kv scan", op->name, op->scan(op->arg, 0, entry));
    arena_end(a, "an entry of a scan");
}

static void run_scan(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;

    (void)find(t, NULL, ""); /* what has expired goes */
    for (size_t i = 0; i < t->keys.n && !code; i++) {
        const struct key *k = t->keys.items[i];

        if (same(k->tenant, op->tenant) && strncmp(k->name, op->name, strlen(op->name)) == 0)
            give_entry(t, op, k);
    }
    DURING(t, "kv scan", op->name, op->scan(op->arg, code, NULL));
    op_free(op);
}

static int check_key(struct muster_test *t, int call, const struct muster_tenant *tenant, const char *key, bool fn)
{
    if (is_stale(t, call, "key", key) || (tenant && !tenant_is(t, call, tenant)))
        return MUSTER_EINVAL;
    if (!name_is_key(key))
        return breach(t, call, "key \"%s\": expected 1 to %d of A-Z a-z 0-9 _ . / = ~ -, dots inside and single", key ? key : "NULL",
                      NAME_KEY_MAX);
    return fn ? 0 : breach(t, call, "fn is NULL");
}

static struct op *begin(struct muster_test *t, int callback, const struct muster_tenant *tenant, const char *name, void *arg,
                        void (*run)(struct muster_test *t, struct due *d, int code))
{
    struct op *op = must_alloc(sizeof *op);

    op->due = (struct due){.kind = DUE_LINK, .callback = callback, .run = run};
    op->tenant = must_copy(tenant ? tenant->name : NULL);
    op->name = must_copy(name);
    op->arg = arg;
    due_add(t, &op->due, t->now_ns);
    return op;
}

static int kv_get(const struct muster_host *host, const struct muster_tenant *tenant, const char *key, muster_kv_fn fn, void *arg)
{
    struct muster_test *t = test_of(host, CALL_KV_GET);
    int err = call_begin(t, CALL_KV_GET);

    if (!err)
        err = check_key(t, CALL_KV_GET, tenant, key, fn != NULL);
    if (!err && !t->up)
        err = MUSTER_ELINK;
    if (!err)
        begin(t, CALL_KV_GET_CB, tenant, key, arg, run_get)->fn = fn;
    return err;
}

static int check_put(struct muster_test *t, const struct muster_kv_put *put)
{
    int err;

    if (!put || !MUSTER_HAS(put, arg))
        return breach(t, CALL_KV_PUT, "size is %u: expected sizeof(struct muster_kv_put)", put ? put->size : 0);
    err = check_key(t, CALL_KV_PUT, put->tenant, put->key, true);
    if (err || is_stale(t, CALL_KV_PUT, "value", put->value.data))
        return MUSTER_EINVAL;
    if (put->value.len > MAX_VALUE || (!put->value.data && put->value.len))
        return breach(t, CALL_KV_PUT, "%s: a value of %zu bytes: expected at most %d", put->key, put->value.len, MAX_VALUE);
    if (put->ttl_ns < 0 || (put->ttl_ns && put->ttl_ns < MUSTER_TEST_S))
        return breach(t, CALL_KV_PUT, "%s: ttl_ns %lld: expected 0 or at least 1 s", put->key, (long long)put->ttl_ns);
    return 0;
}

static int kv_put(const struct muster_host *host, const struct muster_kv_put *put)
{
    struct muster_test *t = test_of(host, CALL_KV_PUT);
    int err = call_begin(t, CALL_KV_PUT);
    struct op *op;

    if (!err)
        err = check_put(t, put);
    if (!err && put->lease && !lease_holds(t, put->lease))
        err = MUSTER_ESTALE;
    if (!err && !t->up)
        err = MUSTER_ELINK;
    if (err)
        return err;
    op = begin(t, CALL_KV_PUT_CB, put->tenant, put->key, put->arg, run_put);
    op->value = must_copy_bytes(put->value);
    op->revision = put->revision;
    op->expires_wall_ns = put->ttl_ns ? muster_test_wall_now(t) + put->ttl_ns : 0;
    op->fn = put->fn;
    return 0;
}

static int kv_del(const struct muster_host *host, const struct muster_tenant *tenant, const char *key, uint64_t revision,
                  muster_kv_fn fn, void *arg)
{
    struct muster_test *t = test_of(host, CALL_KV_DEL);
    int err = call_begin(t, CALL_KV_DEL);
    struct op *op;

    if (!err)
        err = check_key(t, CALL_KV_DEL, tenant, key, true);
    if (!err && !t->up)
        err = MUSTER_ELINK;
    if (err)
        return err;
    op = begin(t, CALL_KV_DEL_CB, tenant, key, arg, run_del);
    op->revision = revision;
    op->fn = fn;
    return 0;
}

static int kv_scan(const struct muster_host *host, const struct muster_tenant *tenant, const char *prefix, muster_kv_scan_fn fn,
                   void *arg)
{
    struct muster_test *t = test_of(host, CALL_KV_SCAN);
    int err = call_begin(t, CALL_KV_SCAN);

    if (!err && (!prefix || !fn))
        err = breach(t, CALL_KV_SCAN, "%s is NULL", fn ? "prefix" : "fn");
    if (!err && (is_stale(t, CALL_KV_SCAN, "prefix", prefix) || (tenant && !tenant_is(t, CALL_KV_SCAN, tenant))))
        err = MUSTER_EINVAL;
    if (!err && !t->up)
        err = MUSTER_ELINK;
    if (!err)
        begin(t, CALL_KV_SCAN_CB, tenant, prefix, arg, run_scan)->scan = fn;
    return err;
}

const struct muster_kv test_kv = {.size = sizeof test_kv, .get = kv_get, .put = kv_put, .del = kv_del, .scan = kv_scan};

struct muster_test_value muster_test_kv_get(struct muster_test *t, const char *tenant, const char *key)
{
    const struct key *k = key_at(t, find(t, tenant, key));

    return k ? (struct muster_test_value){k->value, k->revision} : (struct muster_test_value){none, 0};
}

uint64_t muster_test_kv_put(struct muster_test *t, const char *tenant, const char *key, struct muster_bytes value)
{
    if (!name_is_key(key)) {
        fail_test(t, "muster_test_kv_put(): \"%s\" is no key", key ? key : "NULL");
        return 0;
    }
    if (value.data)
        return store(t, tenant, key, value, 0);
    discard(t, tenant, key);
    return t->revision;
}

void kv_free(struct muster_test *t)
{
    for (size_t i = 0; i < t->keys.n; i++)
        key_free(t->keys.items[i]);
    list_done(&t->keys);
}
