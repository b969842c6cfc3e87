/* Items that wait, by tenant; see turns.h. */
#include "sql/turns.h"

#include <stdlib.h>
#include <string.h>

#include "sql/parts.h"

/* What an item costs is its statement more than its bytes: a turn is two or three small ones. */
enum { QUANTUM = 4096, ITEM_COST = 1024, IDLE_MAX = 64 };

static void queue_push(struct queue *q, struct item *item)
{
    item->next = NULL;
    if (q->last)
        q->last->next = item;
    else
        q->first = item;
    q->last = item;
}

static void queue_push_front(struct queue *q, struct item *item)
{
    item->next = q->first;
    q->first = item;
    if (!q->last)
        q->last = item;
}

struct item *queue_pop(struct queue *q)
{
    struct item *item = q->first;

    if (!item)
        return NULL;
    q->first = item->next;
    if (!q->first)
        q->last = NULL;
    return item;
}

/* ---- lines --------------------------------------------------------------------------------------------------------------------- */

void turns_init(struct turns *t, unsigned int max_out, int64_t light)
{
    *t = (struct turns){.max_out = max_out, .light = light};
    for (int i = 0; i < TURNS_LOADS; i++)
        link_init(&t->rings[i]);
    link_init(&t->idle);
}

static void line_free(struct line *line)
{
    struct turns *t = line->turns;

    link_remove(&line->link);
    t->n_idle--;
    (void)map_take(&t->lines, line->tenant, strlen(line->tenant));
    free(line);
}

void turns_done(struct turns *t)
{
    while (link_is_in(&t->idle))
        line_free(LINK_OF(t->idle.next, struct line, link));
    map_done(&t->lines);
}

static void rest(struct line *line)
{
    struct turns *t = line->turns;

    link_put(&t->idle, &line->link);
    if (++t->n_idle > IDLE_MAX)
        line_free(LINK_OF(t->idle.next, struct line, link));
}

static bool is_idle(const struct line *line)
{
    return !line->n_items && !line->n_out;
}

struct line *turns_line(struct turns *t, const char *tenant)
{
    size_t len = strlen(tenant);
    struct line *line = map_get(&t->lines, tenant, len);

    if (line)
        return line;
    line = calloc(1, sizeof *line + len + 1);
    if (!line || !map_put(&t->lines, tenant, len, line)) {
        free(line);
        return NULL;
    }
    line->turns = t;
    memcpy(line->tenant, tenant, len);
    link_init(&line->link);
    rest(line);
    return line;
}

static uint8_t load_of(const struct line *line)
{
    int64_t costs = (int64_t)(line->n_items * ITEM_COST + line->n_bytes);

    return line->turns->light && costs > line->turns->light ? TURNS_HEAVY : TURNS_LIGHT;
}

/* Among those whose turn comes, or not, as it should be after a change. What it has not spent does not save up. */
static void settle(struct line *line)
{
    struct turns *t = line->turns;
    bool ready = line->n_items && line->n_out < t->max_out;

    if (is_idle(line)) {
        rest(line);
    } else if (!ready) {
        link_remove(&line->link);
    } else if (!link_is_in(&line->link) || line->load != load_of(line)) {
        line->deficit = 0;
        line->paid = false;
        line->load = load_of(line);
        link_put(&t->rings[line->load], &line->link);
    }
}

/* It is about to have something: no more one of the idle. */
static void wake(struct line *line)
{
    if (!is_idle(line))
        return;
    line->turns->n_idle--;
    link_remove(&line->link);
}

static void count(struct line *line, const struct item *item)
{
    line->n_items++;
    line->n_bytes += item->bytes;
}

static void uncount(struct line *line, const struct item *item)
{
    line->n_items--;
    line->n_bytes -= item->bytes;
    if (line->n_refused && line->n_items <= line->n_refused / 2) {
        line->n_refused = 0;
        line->turns->has_room = true;
    }
}

void line_put(struct line *line, struct item *item)
{
    wake(line);
    item->line = line;
    queue_push(&line->waiting, item);
    count(line, item);
    settle(line);
}

void line_put_back(struct item *item)
{
    struct line *line = item->line;

    line->n_out--;
    queue_push_front(&line->waiting, item);
    count(line, item);
    settle(line);
}

void line_end(struct item *item)
{
    struct line *line = item->line;

    item->line = NULL;
    line->n_out--;
    settle(line);
}

/* ---- turns --------------------------------------------------------------------------------------------------------------------- */

static int64_t cost(const struct item *item)
{
    return ITEM_COST + (int64_t)item->bytes;
}

/* The line that may send its first item; the ring is not empty. */
static struct line *next_line(struct link *ring)
{
    for (;;) {
        struct line *line = LINK_OF(ring->next, struct line, link);

        if (!line->paid)
            line->deficit += QUANTUM;
        line->paid = true;
        if (line->deficit >= cost(line->waiting.first))
            return line;
        line->paid = false;
        link_put(ring, &line->link);
    }
}

static struct item *take(struct line *line)
{
    struct item *item = queue_pop(&line->waiting);

    line->deficit -= cost(item);
    uncount(line, item);
    line->n_out++;
    if (!line->n_items)
        link_remove(&line->link);
    return item;
}

struct item *turns_take(struct turns *t)
{
    struct line *line = turns_any(t, TURNS_LIGHT) ? next_line(&t->rings[TURNS_LIGHT]) : NULL;
    struct item *item = line ? take(line) : NULL;

    if (line)
        settle(line);
    return item;
}

unsigned int turns_take_batch(struct turns *t, int load, struct item **batch, unsigned int max, size_t max_bytes)
{
    size_t n_bytes = 0;
    unsigned int n = 0;

    while (n < max && turns_any(t, load)) {
        struct line *line = next_line(&t->rings[load]);

        n_bytes += line->waiting.first->bytes;
        if (n > 0 && n_bytes > max_bytes)
            break;
        batch[n++] = take(line);
    }
    for (unsigned int i = 0; i < n; i++)
        settle(batch[i]->line);
    return n;
}

/* Each has the same time to wait: the first are the latest. */
static void expire(struct line *line, int64_t now_ns, struct queue *late)
{
    while (line->waiting.first && line->waiting.first->deadline_ns <= now_ns) {
        struct item *item = queue_pop(&line->waiting);

        uncount(line, item);
        item->line = NULL;
        queue_push(late, item);
    }
}

struct queue turns_expire(struct turns *t, int64_t now_ns)
{
    struct queue late = {0};
    struct line *line;
    const char *key;

    for (size_t i = 0; map_next(&t->lines, &i, &key, (void **)&line);) {
        if (!line->n_items)
            continue;
        expire(line, now_ns, &late);
        settle(line);
    }
    return late;
}
