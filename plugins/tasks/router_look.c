/*
 * Looks at single tasks: an event says that one is queued, the database on which route and where. An event may be heard before its transaction is
 * seen by others: what is not found is looked for again.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tasks/router_parts.h"

static const int64_t look_again_ns[] = {20 * CLOCK_MS, 200 * CLOCK_MS, 1000 * CLOCK_MS};
enum { LOOK_TRIES = sizeof look_again_ns / sizeof *look_again_ns, LOOKS_MAX = 2 };

struct sought {
    struct link link; /* d->sought, or of a look */
    int64_t due_ns;
    int64_t epoch; /* with which it is queued; INT64_MAX: not known */
    uint32_t tries;
    char task_id[];
};

struct look {
    struct question q;
    struct link sought; /* in the order of the ids */
    bool found[LOOK_MAX];
};

static struct sought *sought_in(struct link *l)
{
    return LINK_OF(l, struct sought, link);
}

static void seek(struct routed *d, struct sought *s)
{
    link_put(&d->sought, &s->link);
    d->n_sought++;
    if (!link_is_in(&d->looking))
        link_put(&d->r->looking, &d->looking);
}

void look_at(struct routed *d, const char *task_id, int64_t epoch)
{
    size_t size = strlen(task_id) + 1;
    struct sought *s = d->n_sought < SOUGHT_MAX ? malloc(sizeof *s + size) : NULL;

    if (!s) {
        routed_again(d);
        return;
    }
    link_init(&s->link);
    s->due_ns = 0;
    s->epoch = epoch;
    s->tries = 0;
    memcpy(s->task_id, task_id, size);
    seek(d, s);
    router_soon(d->r);
}

void looks_drop(struct link *sought)
{
    while (link_is_in(sought)) {
        struct sought *s = sought_in(sought->next);

        link_remove(&s->link);
        free(s);
    }
}

static void put_id(struct buf *b, const char *task_id)
{
    buf_putc(b, b->len ? ',' : '{');
    buf_putc(b, '"');
    for (const char *c = task_id; *c; c++) {
        if (*c == '"' || *c == '\\')
            buf_putc(b, '\\');
        buf_putc(b, *c);
    }
    buf_putc(b, '"');
}

static void seek_again(struct routed *d, struct look *look)
{
    int64_t now_ns = d->r->w->timer->now(d->r->w->host);

    for (uint32_t i = 0; link_is_in(&look->sought); i++) {
        struct sought *s = sought_in(look->sought.next);

        link_remove(&s->link);
        if (look->found[i] || s->tries >= LOOK_TRIES || !match_is_news(d->m, s->task_id, s->epoch)) {
            free(s);
            continue;
        }
        s->due_ns = now_ns + look_again_ns[s->tries++];
        link_put(&d->later, &s->link);
        d->n_sought++;
    }
}

void looks_tick(struct routed *d, int64_t now_ns)
{
    struct link *next;

    for (struct link *l = d->later.next; l != &d->later; l = next) {
        next = l->next;
        if (sought_in(l)->due_ns > now_ns)
            continue;
        d->n_sought--;
        seek(d, sought_in(l));
    }
}

static bool take_rows(struct routed *d, struct look *look, const struct muster_sql_result *result)
{
    struct row_words *of = calloc(1, sizeof *of);
    bool ok = of != NULL;

    for (uint32_t i = 0; of && i < result->n_rows; i++) {
        struct task_spec task = row_task(result, i, of);
        struct route_spec route = row_route(result, i, 7, of);
        int64_t n = number_of(result, i, 12);

        if (n > 0 && n <= LOOK_MAX)
            look->found[n - 1] = true;
        ok = match_queued(d->m, &route, &task) && ok;
    }
    row_words_free(of);
    return ok;
}

static void on_look(void *arg, const struct muster_sql_result *result)
{
    struct look *look = arg;
    struct routed *d = routed_of(&look->q);

    if (d) {
        d->n_looks--;
        if (result->code || !take_rows(d, look, result))
            routed_again(d);
        seek_again(d, look);
        router_soon(d->r);
    }
    looks_drop(&look->sought);
    free(look);
}

static void gather(struct routed *d, struct link *into, struct buf *ids)
{
    for (uint32_t n = 0; link_is_in(&d->sought) && n < LOOK_MAX; n++) {
        struct sought *s = sought_in(d->sought.next);

        link_put(into, &s->link);
        put_id(ids, s->task_id);
        d->n_sought--;
    }
    buf_putc(ids, '}');
}

static void look(struct routed *d)
{
    struct work *w = d->r->w;
    struct look *look = calloc(1, sizeof *look);
    struct buf ids = {0};

    if (!look)
        return;
    look->q = (struct question){.r = d->r, .tenant = d->tenant, .life = d->life};
    link_init(&look->sought);
    gather(d, &look->sought, &ids);
    if (!buf_failed(&ids) && w->sql->exec(w->host, d->r->stmt.look, d->tenant, NULL, 2,
                                          (struct muster_bytes[]){ask_param(d->name), {ids.data, ids.len}}, on_look, look) == 0) {
        d->n_looks++;
    } else {
        routed_again(d);
        looks_drop(&look->sought);
        free(look);
    }
    buf_done(&ids);
}

void read_looks(struct router *r)
{
    struct link *next;

    for (struct link *l = r->looking.next; l != &r->looking; l = next) {
        struct routed *d = LINK_OF(l, struct routed, looking);

        next = l->next;
        if (d->n_looks < LOOKS_MAX) /* else the more at once then */
            look(d);
        if (!link_is_in(&d->sought))
            link_remove(&d->looking);
    }
}
