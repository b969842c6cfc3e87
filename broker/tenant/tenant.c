/* The registry of tenants; see tenant.h and parts.h. One writer, the loop's thread; readers anywhere. */
#include "tenant/tenant.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "tenant/parts.h"

enum { FIRST_CAP = 64 };

static struct table *table_new(size_t cap)
{
    struct table *table = calloc(1, sizeof *table + cap * sizeof table->slots[0]);

    if (table)
        table->cap = cap;
    return table;
}

/* The handle of name, dead or alive. [any] */
static struct muster_tenant *find_handle(const struct table *table, const char *name, size_t len, uint64_t hash)
{
    for (size_t i = hash & (table->cap - 1);; i = (i + 1) & (table->cap - 1)) {
        struct muster_tenant *tenant = atomic_load_explicit(&table->slots[i], memory_order_acquire);

        if (!tenant)
            return NULL;
        if (tenant->hash == hash && tenant->name_len == len && memcmp(tenant->name, name, len) == 0)
            return tenant;
    }
}

struct muster_tenant *tenants_find(const struct tenants *t, const char *name, size_t len)
{
    const struct table *table = atomic_load_explicit(&t->table, memory_order_acquire);
    struct muster_tenant *tenant = find_handle(table, name, len, hash_bytes(name, len));

    return tenant && tenants_is_live(tenant) ? tenant : NULL;
}

/* A slot goes from empty to a handle once and stays. Release, so that who finds the handle sees it whole. */
static void table_put(struct table *table, struct muster_tenant *tenant)
{
    size_t i = tenant->hash & (table->cap - 1);

    while (atomic_load_explicit(&table->slots[i], memory_order_relaxed))
        i = (i + 1) & (table->cap - 1);
    atomic_store_explicit(&table->slots[i], tenant, memory_order_release);
}

/* Half full at most, so that an empty slot ends every search. Readers may be in the old table at any time: it stays
 * until tenants_free(). */
static bool make_room(struct tenants *t)
{
    struct table *old = atomic_load_explicit(&t->table, memory_order_relaxed), *table;

    if ((t->n_handles + 1) * 2 <= old->cap)
        return true;
    table = table_new(old->cap * 2);
    if (!table)
        return false;
    for (size_t i = 0; i < old->cap; i++) {
        struct muster_tenant *tenant = atomic_load_explicit(&old->slots[i], memory_order_relaxed);

        if (tenant)
            table_put(table, tenant);
    }
    table->older = old;
    atomic_store_explicit(&t->table, table, memory_order_release);
    return true;
}

static struct muster_tenant *handle_new(struct tenants *t, const char *name, size_t len, uint64_t hash)
{
    struct muster_tenant *tenant = make_room(t) ? calloc(1, sizeof *tenant) : NULL;

    if (!tenant)
        return NULL;
    memcpy(tenant->name, name, len);
    tenant->name_len = (uint8_t)len;
    tenant->hash = hash;
    tenant->index = t->n_handles++;
    for (int i = TENANT_N_LIMITS; i < TENANT_N_LIMITS + LIMITS_MAX_OBJECTS; i++)
        atomic_store(&tenant->limits[i], -1);
    table_put(atomic_load_explicit(&t->table, memory_order_relaxed), tenant);
    return tenant;
}

/* Its own, or what stands in for it. A burst belongs to its rate, and none of its own to a rate of its own. */
static int64_t in_force(const struct tenants *t, const int64_t *own, int which)
{
    if (which >= TENANT_N_LIMITS || own[which] >= 0 || (which == TENANT_BURST && own[TENANT_REQUESTS_PER_S] >= 0))
        return own[which];
    return t->defaults[which];
}

/* A changed bucket starts full: debt counted under a slow rate would otherwise outlive it by far. */
static void refill(struct muster_tenant *tenant, int which)
{
    if (which == TENANT_REQUESTS_PER_S || which == TENANT_BURST)
        atomic_store(&tenant->full_at_ns[TENANT_REQUESTS], 0);
    if (which == TENANT_BYTES_PER_S)
        atomic_store(&tenant->full_at_ns[TENANT_BYTES], 0);
}

/* True when any differs. */
static bool apply_limits(const struct tenants *t, struct muster_tenant *tenant, const int64_t *own)
{
    int n = TENANT_N_LIMITS + (int)atomic_load_explicit(&t->n_objects, memory_order_acquire);
    bool any = false;

    for (int i = 0; i < n; i++) {
        int64_t limit = in_force(t, own, i);

        if (atomic_exchange(&tenant->limits[i], limit) == limit)
            continue;
        any = true;
        refill(tenant, i);
    }
    return any;
}

/* Bring one tenant up to date. *changed is set when anything differs, *listed when it was not live before. */
static int apply(struct tenants *t, const struct tenant_row *row, bool *changed, bool *listed)
{
    uint64_t hash = hash_bytes(row->name, row->name_len);
    struct muster_tenant *tenant;

    if (!name_is_public(row->name, row->name_len)) {
        log_warn("tenant", "a tenant's name came that is not legal; a name [A-Za-z0-9_-]{1,64} without _ in front was expected");
        return 0;
    }
    tenant = find_handle(atomic_load_explicit(&t->table, memory_order_relaxed), row->name, row->name_len, hash);
    if (!tenant && t->n_handles == TENANTS_MAX) {
        log_error("tenant", "%s: left out, a broker knows at most %d tenants", row->name, TENANTS_MAX);
        return 0;
    }
    if (!tenant)
        tenant = handle_new(t, row->name, row->name_len, hash);
    if (!tenant)
        return MUSTER_ENOMEM;

    tenant->seen = t->reading;
    if (atomic_exchange(&tenant->history, row->history) != row->history)
        *changed = true;
    if (atomic_exchange(&tenant->encoding, row->encoding) != row->encoding)
        *changed = true;
    if (apply_limits(t, tenant, row->limits))
        *changed = true;
    if (!atomic_exchange(&tenant->live, true)) /* last: who finds it sees its limits */
        *changed = *listed = true;
    return 0;
}

/* Mark dead what the last reading did not have. True when there was any. */
static bool bury(struct tenants *t)
{
    struct table *table = atomic_load_explicit(&t->table, memory_order_relaxed);
    bool any = false;

    for (size_t i = 0; i < table->cap; i++) {
        struct muster_tenant *tenant = atomic_load_explicit(&table->slots[i], memory_order_relaxed);

        if (tenant && tenant->seen != t->reading && atomic_exchange(&tenant->live, false))
            any = true;
    }
    return any;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct muster_tenant *const *)a)->name, (*(struct muster_tenant *const *)b)->name);
}

static void roster_unref(struct roster *roster)
{
    if (roster && atomic_fetch_sub(&roster->refs, 1) == 1)
        free(roster);
}

/* The live tenants by name, as a list that each() walks without the lock. */
static int renew_roster(struct tenants *t)
{
    struct table *table = atomic_load_explicit(&t->table, memory_order_relaxed);
    struct roster *roster = calloc(1, sizeof *roster + t->n_handles * sizeof roster->tenants[0]), *old;

    if (!roster)
        return MUSTER_ENOMEM;
    atomic_init(&roster->refs, 1);
    for (size_t i = 0; i < table->cap; i++) {
        struct muster_tenant *tenant = atomic_load_explicit(&table->slots[i], memory_order_relaxed);

        if (tenant && tenants_is_live(tenant))
            roster->tenants[roster->n++] = tenant;
    }
    qsort(roster->tenants, roster->n, sizeof roster->tenants[0], by_name);

    pthread_rwlock_wrlock(&t->lock);
    old = t->roster;
    t->roster = roster;
    pthread_rwlock_unlock(&t->lock);
    roster_unref(old);
    return 0;
}

void tenants_tell(struct tenants *t, unsigned int what)
{
    for (size_t i = 0; i < t->n_watchers; i++)
        t->watchers[i].fn(t->watchers[i].arg, what);
}

/* The roster before the news: who is told looks at it. */
static int finish_change(struct tenants *t, bool changed, bool listed)
{
    int err = listed ? renew_roster(t) : 0;

    if (changed)
        tenants_tell(t, TENANTS_CHANGED);
    return err;
}

int tenants_set(struct tenants *t, const struct tenant_row *rows, size_t n)
{
    bool changed = false, listed = false;
    int err = 0;

    t->reading++;
    for (size_t i = 0; !err && i < n; i++)
        err = apply(t, &rows[i], &changed, &listed);
    if (!err && bury(t)) /* after an error: who was not reached is not gone */
        changed = listed = true;

    int renewed = finish_change(t, changed, listed);

    return err ? err : renewed;
}

/* One that was asked for by name; of the others this says nothing. */
int tenants_put(struct tenants *t, const struct tenant_row *row)
{
    bool changed = false, listed = false;
    int err = apply(t, row, &changed, &listed);

    return err ? err : finish_change(t, changed, listed);
}

/* Counted under the lock, because between reading the pointer and counting it could be freed. */
static struct roster *roster_ref(struct tenants *t)
{
    struct roster *roster;

    pthread_rwlock_rdlock(&t->lock);
    roster = t->roster;
    if (roster)
        atomic_fetch_add(&roster->refs, 1);
    pthread_rwlock_unlock(&t->lock);
    return roster;
}

void tenants_each(struct tenants *t, muster_tenant_fn fn, void *arg)
{
    struct roster *roster = roster_ref(t);

    for (size_t i = 0; roster && i < roster->n; i++)
        fn(arg, roster->tenants[i]);
    roster_unref(roster);
}

size_t tenants_count(struct tenants *t)
{
    struct roster *roster = roster_ref(t);
    size_t n = roster ? roster->n : 0;

    roster_unref(roster);
    return n;
}

int tenants_on_change(struct tenants *t, tenants_change_fn fn, void *arg)
{
    if (t->n_watchers == WATCHERS_MAX)
        return MUSTER_EAGAIN;
    t->watchers[t->n_watchers++] = (struct watcher){fn, arg};
    return 0;
}

void tenants_set_defaults(struct tenants *t, const int64_t limits[TENANT_N_LIMITS])
{
    memcpy(t->defaults, limits, sizeof t->defaults);
}

int tenants_new(struct tenants **ret_tenants)
{
    struct tenants *t = calloc(1, sizeof *t);
    struct table *table = table_new(FIRST_CAP);

    struct usage *usage = usage_new();

    if (!t || !table || !usage || pthread_rwlock_init(&t->lock, NULL) != 0) {
        usage_free(usage);
        free(t);
        free(table);
        return MUSTER_ENOMEM;
    }
    for (int i = 0; i < TENANT_N_LIMITS; i++)
        t->defaults[i] = -1;
    t->usage = usage;
    atomic_init(&t->table, table);
    *ret_tenants = t;
    return 0;
}

static void free_table(struct table *table)
{
    struct table *older = table->older;

    for (size_t i = 0; i < table->cap; i++)
        free(atomic_load(&table->slots[i]));
    free(table);
    while (older) { /* its handles are in the newest, too */
        table = older;
        older = table->older;
        free(table);
    }
}

void tenants_free(struct tenants *t)
{
    if (!t)
        return;
    free_table(atomic_load(&t->table));
    roster_unref(t->roster);
    table_list_unref(t->tables);
    usage_free(t->usage);
    pthread_rwlock_destroy(&t->lock);
    free(t);
}
