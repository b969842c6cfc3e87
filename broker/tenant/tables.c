/* The rows of muster.tables as last seen; see tenant.h. Written by the loop's thread, read by any. */
#include <stdlib.h>
#include <string.h>

#include "tenant/parts.h"

/* The strings of a row, as one list, so that none is forgotten where rows are copied, compared and freed. */
enum { N_TEXTS = 5 };

static const char **text_of(struct muster_table *row, int i)
{
    const char **const texts[N_TEXTS] = {&row->schema, &row->table, &row->tenant_column, &row->tenant, &row->owner_column};

    return texts[i];
}

void table_list_unref(struct table_list *list)
{
    if (!list || atomic_fetch_sub(&list->refs, 1) != 1)
        return;
    for (size_t i = 0; i < list->n; i++)
        for (int k = 0; k < N_TEXTS; k++)
            free((char *)*text_of(&list->rows[i], k));
    free(list->rows);
    free(list);
}

/* False: no memory; what was copied is freed with the list. */
static bool row_copy(struct muster_table *to, const struct muster_table *from)
{
    struct muster_table source = *from;

    *to = (struct muster_table){.size = sizeof *to, .subject_key = from->subject_key};
    for (int k = 0; k < N_TEXTS; k++) {
        const char *text = *text_of(&source, k);

        if (!text)
            continue;
        *text_of(to, k) = strdup(text);
        if (!*text_of(to, k))
            return false;
    }
    return true;
}

static struct table_list *list_new(const struct muster_table *rows, size_t n)
{
    struct table_list *list = calloc(1, sizeof *list);
    bool whole;

    if (!list)
        return NULL;
    atomic_init(&list->refs, 1);
    list->rows = calloc(n > 0 ? n : 1, sizeof *list->rows);
    whole = list->rows != NULL;
    for (size_t i = 0; whole && i < n; i++) {
        list->n++; /* before: a row that is half copied is freed as well */
        whole = row_copy(&list->rows[i], &rows[i]);
    }
    if (!whole) {
        table_list_unref(list);
        return NULL;
    }
    return list;
}

static bool row_equal(struct muster_table *a, struct muster_table *b)
{
    if (a->subject_key != b->subject_key)
        return false;
    for (int k = 0; k < N_TEXTS; k++) {
        const char *x = *text_of(a, k), *y = *text_of(b, k);

        if (!x != !y || (x && strcmp(x, y) != 0))
            return false;
    }
    return true;
}

/* Both come in the order of the query. A notice that changed nothing here is told to nobody. */
static bool list_equal(const struct table_list *a, const struct table_list *b)
{
    if (!a || a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (!row_equal(&a->rows[i], &b->rows[i]))
            return false;
    return true;
}

int tenants_set_tables(struct tenants *t, const struct muster_table *rows, size_t n)
{
    struct table_list *list = list_new(rows, n), *old = t->tables; /* only this thread swaps it */

    if (!list)
        return MUSTER_ENOMEM;
    if (list_equal(old, list)) {
        table_list_unref(list);
        return 0;
    }
    list->serial = old ? old->serial + 1 : 1;

    pthread_rwlock_wrlock(&t->lock);
    t->tables = list;
    pthread_rwlock_unlock(&t->lock);
    table_list_unref(old);
    tenants_tell(t, TENANTS_TABLES_CHANGED);
    return 0;
}

void tenants_tables(struct tenants *t, muster_table_fn fn, void *arg, uint64_t *ret_serial)
{
    struct table_list *list;

    pthread_rwlock_rdlock(&t->lock);
    list = t->tables;
    if (list)
        atomic_fetch_add(&list->refs, 1);
    pthread_rwlock_unlock(&t->lock);

    /* Outside the lock, on a list that cannot go: fn may take its time. */
    for (size_t i = 0; list && i < list->n; i++)
        fn(arg, &list->rows[i]);
    if (ret_serial)
        *ret_serial = list ? list->serial : 0;
    table_list_unref(list);
}
