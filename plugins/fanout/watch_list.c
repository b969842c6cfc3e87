/* watch.close and watch.list; see watch.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/ask.h"
#include "fanout/watch.h"

static bool sees_all(const struct ask *a)
{
    return MUSTER_HAS(a->msg, role) && (a->msg->role == MUSTER_ROLE_ADMIN || a->msg->role == MUSTER_ROLE_OPERATOR);
}

/* ---- close ----------------------------------------------------------------------------------------------------------------------- */

/* Of several for one watch the first finds it. */
static void on_closed(void *arg, const struct muster_sql_result *result)
{
    struct ask *a = arg;
    const char *text = result->code || !result->n_rows ? NULL : result->get(result, 0, 0);
    struct watches *ws = a->f->watches;
    struct watch *w = watch_find(ws, a->msg->tenant, ask_str(a, "watch"));

    ws->shards[shard_number(ws, a->msg->tenant)].writes--;
    if (w && text && strstr(text, "\"ok\""))
        watch_end(w, NULL);
    ask_reply_outcome(a, result);
}

void watch_close(struct watches *ws, struct ask *a)
{
    char args[WATCH_ID_SIZE + 48];
    int err;

    (void)snprintf(args, sizeof args, "{\"watch\":\"%s\",\"any\":%s}", ask_str(a, "watch"), sees_all(a) ? "true" : "false");
    err = ask_once(a, "watch_close", args, on_closed, a);
    if (err)
        ask_failed(a, err, "the watch could not be closed");
    else
        ws->shards[shard_number(ws, a->msg->tenant)].writes++;
}

/* ---- list ------------------------------------------------------------------------------------------------------------------------ */

struct shown {
    struct watch **items;
    size_t n, cap;
};

static bool add(struct shown *list, struct watch *w)
{
    if (list->n == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 32;
        struct watch **grown = realloc(list->items, cap * sizeof(*grown));

        if (!grown)
            return false;
        list->items = grown;
        list->cap = cap;
    }
    list->items[list->n++] = w;
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct watch *const *)a)->id, (*(struct watch *const *)b)->id);
}

static bool gather(struct watches *ws, const struct ask *a, struct shown *list)
{
    const char *after = ask_str(a, "after");
    void *value;

    for (size_t at = 0; map_next(&ws->by_id, &at, NULL, &value);) {
        struct watch *w = value;

        if (w->tenant == a->msg->tenant && !w->ended && (sees_all(a) || strcmp(w->agent, a->msg->agent) == 0) &&
            (!after || strcmp(w->id, after) > 0) && !add(list, w))
            return false;
    }
    if (list->n)
        qsort(list->items, list->n, sizeof(*list->items), by_name);
    return true;
}

static void put_optional(struct muster_writer *to, const char *key, const char *text)
{
    if (!text)
        return;
    writer_text(to, key);
    writer_text(to, text);
}

static void put_number(struct muster_writer *to, const char *key, uint64_t v)
{
    writer_text(to, key);
    writer_int(to, (int64_t)v);
}

static void put_dropped(struct muster_writer *to, const struct batch *b)
{
    size_t n = 0;

    for (int i = 0; i < DROPPED_REASONS; i++)
        n += b->dropped[i] != 0;
    writer_text(to, "dropped");
    writer_map(to, n);
    for (int i = 0; i < DROPPED_REASONS; i++)
        if (b->dropped[i])
            put_number(to, dropped_words[i], b->dropped[i]);
}

static void put_watch(struct muster_writer *to, const struct watch *w)
{
    const char *filter = w->spec.filter[0] ? w->spec.filter : NULL;
    char subject[320];

    (void)snprintf(subject, sizeof subject, "%s.%s.%s", w->ws->f->host->root, w->ws->f->tenants->name(w->tenant), w->subject);
    writer_map(to, 7u + (w->spec.schema != NULL) + (w->spec.table != NULL) + (filter != NULL) + (w->spec.sources != NULL));
    put_optional(to, "watch", w->id);
    put_optional(to, "subject", subject);
    put_optional(to, "agent", w->agent);
    put_optional(to, "schema", w->spec.schema);
    put_optional(to, "table", w->spec.table);
    put_optional(to, "filter", filter);
    if (w->spec.sources) {
        writer_text(to, "sources");
        writer_value(to, w->spec.sources);
    }
    put_number(to, "sent", w->batch.sent);
    put_number(to, "delivered", w->batch.delivered);
    put_number(to, "waiting", w->batch.n);
    put_dropped(to, &w->batch);
}

void watch_list(struct watches *ws, struct ask *a)
{
    struct shown list = {.items = NULL};
    size_t limit = (size_t)ask_int(a, "limit", 100), n;
    struct muster_writer to;
    struct buf out = {0};

    if (!gather(ws, a, &list)) {
        free(list.items);
        ask_failed(a, MUSTER_ENOMEM, "the watches could not be listed");
        return;
    }
    n = list.n > limit ? limit : list.n;
    writer_init(&to, a->msg->encoding, &out);
    writer_map(&to, list.n > n ? 4 : 3);
    writer_text(&to, "watches");
    writer_array(&to, n);
    for (size_t i = 0; i < n; i++)
        put_watch(&to, list.items[i]);
    if (list.n > n)
        put_optional(&to, "next", list.items[n - 1]->id);
    put_number(&to, "epoch", 0); /* as in every list; watches have no events that go on from here */
    put_number(&to, "seq", 0);
    free(list.items);
    ask_reply_written(a, &to, &out);
}
