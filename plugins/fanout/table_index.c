/* The watches of one table; see table_index.h. */
#include "fanout/table_index.h"

#include <stdlib.h>

enum { OPS = 4 };

struct entries {
    struct index_entry **items;
    size_t n, cap;
};

/* Those who want one column to be equal to something. */
struct equals {
    struct equals *next;
    char *name;
    struct span column;
    uint32_t class;
    struct map by_value; /* datum_bytes() to struct entries, owned */
};

struct bound {
    struct datum value;
    struct index_entry *entry;
};
struct bounds { /* by value */
    struct bound *items;
    size_t n, cap;
};

/* Those who want one column to be above, or below, something. */
struct range {
    struct range *next;
    char *name;
    struct span column;
    uint32_t class;
    struct bounds above, below;
};

struct op_index {
    struct equals *equals;
    struct range *ranges;
    struct entries rest;
};

struct table_index {
    struct op_index ops[OPS];
    struct entries all;
    uint64_t serial;
    size_t looked_at;
};

struct table_index *table_index_new(void)
{
    return calloc(1, sizeof(struct table_index));
}

size_t table_index_n(const struct table_index *t)
{
    return t->all.n;
}

size_t table_index_looked_at(const struct table_index *t)
{
    return t->looked_at;
}

/* ---- lists --------------------------------------------------------------------------------------------------------------------- */

static bool push(struct entries *list, struct index_entry *entry)
{
    if (list->n == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 4;
        struct index_entry **grown = realloc(list->items, cap * sizeof(*grown));

        if (!grown)
            return false;
        list->items = grown;
        list->cap = cap;
    }
    list->items[list->n++] = entry;
    return true;
}

static void pull(struct entries *list, const struct index_entry *entry)
{
    for (size_t i = list->n; i-- > 0;) {
        if (list->items[i] != entry)
            continue;
        list->items[i] = list->items[--list->n];
        return;
    }
}

/* The first whose value is not below (or, above: is above) the one given. */
static size_t lower(const struct bounds *b, const struct datum *value, bool above)
{
    size_t lo = 0, hi = b->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = datum_compare(&b->items[mid].value, value);

        if (order < 0 || (above && order == 0))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool insert_bound(struct bounds *b, const struct datum *value, struct index_entry *entry)
{
    size_t at = lower(b, value, true);

    if (b->n == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 4;
        struct bound *grown = realloc(b->items, cap * sizeof *grown);

        if (!grown)
            return false;
        b->items = grown;
        b->cap = cap;
    }
    memmove(b->items + at + 1, b->items + at, (b->n - at) * sizeof *b->items);
    b->items[at] = (struct bound){*value, entry};
    b->n++;
    return true;
}

static void remove_bound(struct bounds *b, const struct index_entry *entry)
{
    for (size_t i = 0; i < b->n; i++) {
        if (b->items[i].entry != entry)
            continue;
        memmove(b->items + i, b->items + i + 1, (b->n - i - 1) * sizeof *b->items);
        b->n--;
        return;
    }
}

/* ---- columns ------------------------------------------------------------------------------------------------------------------- */

static char *copy(struct span s)
{
    char *p = malloc(s.len + 1);

    if (p && s.len)
        memcpy(p, s.s, s.len);
    return p;
}

static struct equals *equals_of(struct op_index *op, const struct filter_cond *c)
{
    struct equals *e = op->equals;

    while (e && !(e->class == c->class && span_is(e->column, c->column.s, c->column.len)))
        e = e->next;
    if (e)
        return e;
    e = calloc(1, sizeof *e);
    if (!e || !(e->name = copy(c->column))) {
        free(e);
        return NULL;
    }
    e->column = (struct span){e->name, c->column.len};
    e->class = c->class;
    e->next = op->equals;
    op->equals = e;
    return e;
}

static struct range *range_of(struct op_index *op, const struct filter_cond *c)
{
    struct range *r = op->ranges;

    while (r && !(r->class == c->class && span_is(r->column, c->column.s, c->column.len)))
        r = r->next;
    if (r)
        return r;
    r = calloc(1, sizeof *r);
    if (!r || !(r->name = copy(c->column))) {
        free(r);
        return NULL;
    }
    r->column = (struct span){r->name, c->column.len};
    r->class = c->class;
    r->next = op->ranges;
    op->ranges = r;
    return r;
}

static void free_equals(struct equals *e)
{
    void *value;

    for (size_t at = 0; map_next(&e->by_value, &at, NULL, &value);) {
        free(((struct entries *)value)->items);
        free(value);
    }
    map_done(&e->by_value);
    free(e->name);
    free(e);
}

void table_index_free(struct table_index *t)
{
    for (size_t i = 0; t && i < OPS; i++) {
        struct op_index *op = &t->ops[i];

        for (struct equals *e = op->equals, *next; e; e = next) {
            next = e->next;
            free_equals(e);
        }
        for (struct range *r = op->ranges, *next; r; r = next) {
            next = r->next;
            free(r->above.items);
            free(r->below.items);
            free(r->name);
            free(r);
        }
        free(op->rest.items);
    }
    if (t)
        free(t->all.items);
    free(t);
}

/* ---- in and out ---------------------------------------------------------------------------------------------------------------- */

static bool is_equality(const struct filter_cond *c)
{
    return !c->negated && (c->op == FILTER_EQ || c->op == FILTER_IN || c->op == FILTER_IS);
}

static bool is_range(const struct filter_cond *c)
{
    return !c->negated && c->op >= FILTER_LT && c->op <= FILTER_GTE;
}

/* The condition that it stands under; NULL: there is none that helps. */
static const struct filter_cond *best(const struct filter *f)
{
    const struct filter_cond *found = NULL;

    for (size_t i = 0; i < f->n_conds; i++) {
        const struct filter_cond *c = &f->conds[i];

        if (is_equality(c) && (!found || is_range(found) || c->n_values < found->n_values))
            found = c;
        else if (is_range(c) && !found)
            found = c;
    }
    return found;
}

static bool add_equal(struct equals *e, const struct datum *value, struct index_entry *entry)
{
    char room[9];
    struct span key = datum_bytes(value, room);
    struct entries *list = map_get(&e->by_value, key.s, key.len);

    if (!list) {
        list = calloc(1, sizeof *list);
        if (!list || !map_put(&e->by_value, key.s, key.len, list)) {
            free(list);
            return false;
        }
    }
    return push(list, entry);
}

static void remove_equal(struct equals *e, const struct datum *value, struct index_entry *entry)
{
    char room[9];
    struct span key = datum_bytes(value, room);
    struct entries *list = map_get(&e->by_value, key.s, key.len);

    if (!list)
        return;
    pull(list, entry);
    if (list->n)
        return;
    (void)map_take(&e->by_value, key.s, key.len);
    free(list->items);
    free(list);
}

static bool add_to(struct op_index *op, struct index_entry *entry)
{
    const struct filter_cond *c = best(entry->filter);
    struct equals *equals;
    struct range *range;

    if (!c)
        return push(&op->rest, entry);
    if (is_range(c)) {
        range = range_of(op, c);
        return range && insert_bound(c->op == FILTER_GT || c->op == FILTER_GTE ? &range->above : &range->below, &c->values[0], entry);
    }
    equals = equals_of(op, c);
    for (size_t i = 0; equals && i < c->n_values; i++)
        if (!add_equal(equals, &c->values[i], entry))
            return false;
    return equals != NULL;
}

static void remove_from(struct op_index *op, struct index_entry *entry)
{
    const struct filter_cond *c = best(entry->filter);
    struct equals *equals;
    struct range *range;

    if (!c) {
        pull(&op->rest, entry);
    } else if (is_range(c)) {
        range = range_of(op, c);
        if (range)
            remove_bound(c->op == FILTER_GT || c->op == FILTER_GTE ? &range->above : &range->below, entry);
    } else {
        equals = equals_of(op, c);
        for (size_t i = 0; equals && i < c->n_values; i++)
            remove_equal(equals, &c->values[i], entry);
    }
}

/* A truncate is for all who want to hear of one, whatever their filter. */
static bool add_truncate(struct table_index *t, struct index_entry *entry)
{
    return !(entry->ops & ROW_TRUNCATE) || push(&t->ops[3].rest, entry);
}

bool table_index_add(struct table_index *t, struct index_entry *entry)
{
    bool added = push(&t->all, entry) && add_truncate(t, entry);

    for (uint32_t i = 0; i < 3 && added; i++)
        if (entry->ops & 1u << i)
            added = add_to(&t->ops[i], entry);
    if (!added)
        table_index_remove(t, entry);
    return added;
}

void table_index_remove(struct table_index *t, struct index_entry *entry)
{
    pull(&t->all, entry);
    pull(&t->ops[3].rest, entry);
    for (uint32_t i = 0; i < 3; i++)
        if (entry->ops & 1u << i)
            remove_from(&t->ops[i], entry);
}

void table_index_each(struct table_index *t, index_fn fn, void *arg)
{
    for (size_t i = 0; i < t->all.n; i++)
        fn(arg, t->all.items[i], INDEX_MATCH);
}

/* ---- a change ------------------------------------------------------------------------------------------------------------------ */

struct match {
    struct table_index *t;
    struct row *row;
    index_fn fn;
    void *arg;
};

/* What the change is to a filter; negative: nothing. */
static int outcome_of(const struct filter *filter, struct row *row)
{
    int is = row_has(row, ROW_NEW) ? filter_test(filter, row, ROW_NEW) : FILTER_NO;
    bool now = is != FILTER_NO;

    if (!now && row_has(row, ROW_OLD))
        is = filter_test(filter, row, ROW_OLD);
    if (is == FILTER_NO)
        return -1;
    if (is == FILTER_WITHHELD)
        return INDEX_WITHHELD;
    return now || row->op == ROW_DELETE ? INDEX_MATCH : INDEX_LEFT;
}

int index_outcome(const struct index_entry *entry, struct row *row)
{
    if (!(entry->ops & row->op))
        return -1;
    return row->op == ROW_TRUNCATE ? INDEX_MATCH : outcome_of(entry->filter, row);
}

static void look(struct match *m, struct index_entry *entry)
{
    int outcome;

    if (entry->seen == m->t->serial)
        return;
    entry->seen = m->t->serial;
    m->t->looked_at++;
    outcome = index_outcome(entry, m->row);
    if (outcome >= 0)
        m->fn(m->arg, entry, outcome);
}

static void look_at(struct match *m, const struct entries *list)
{
    for (size_t i = 0; list && i < list->n; i++)
        look(m, list->items[i]);
}

static void look_equal(struct match *m, const struct equals *e, int side)
{
    struct datum d;
    char room[9];
    struct span key;
    void *list;

    if (row_datum(m->row, side, e->column, e->class, &d)) {
        key = datum_bytes(&d, room);
        look_at(m, map_get(&e->by_value, key.s, key.len));
        return;
    }
    for (size_t at = 0; map_next(&e->by_value, &at, NULL, &list);) /* it may be any of them */
        look_at(m, list);
}

static void look_bounds(struct match *m, const struct bounds *b, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        look(m, b->items[i].entry);
}

static void look_range(struct match *m, const struct range *r, int side)
{
    struct datum d;

    if (!row_datum(m->row, side, r->column, r->class, &d)) {
        look_bounds(m, &r->above, 0, r->above.n);
        look_bounds(m, &r->below, 0, r->below.n);
    } else if (d.kind != DATUM_NULL) {
        look_bounds(m, &r->above, 0, lower(&r->above, &d, true));
        look_bounds(m, &r->below, lower(&r->below, &d, false), r->below.n);
    }
}

static void look_side(struct match *m, const struct op_index *op, int side)
{
    for (const struct equals *e = op->equals; e; e = e->next)
        if (e->by_value.n)
            look_equal(m, e, side);
    for (const struct range *r = op->ranges; r; r = r->next)
        look_range(m, r, side);
}

static int op_at(uint32_t op)
{
    return op == ROW_INSERT ? 0 : op == ROW_UPDATE ? 1 : op == ROW_DELETE ? 2 : 3;
}

void table_index_match(struct table_index *t, struct row *row, index_fn fn, void *arg)
{
    struct match m = {t, row, fn, arg};
    const struct op_index *op = &t->ops[op_at(row->op)];

    t->serial++;
    t->looked_at = 0;
    for (int side = ROW_NEW; side <= ROW_OLD; side++)
        if (row_has(row, side))
            look_side(&m, op, side);
    look_at(&m, &op->rest);
}
