/* What a child is told of its configuration; see told.h. */
#include "core/told.h"

#include <stdio.h>
#include <string.h>

#include "child/describe.h"

enum { MAX_POSITIONS = 4096 }; /* of a map of settings; those behind them are told without a place */

struct counting {
    struct frame *f; /* NULL: count */
    uint32_t n;
};

static void put_position(void *arg, const char *key, const char *position)
{
    struct counting *c = arg;

    if (c->n++ >= MAX_POSITIONS || !c->f)
        return;
    frame_put_str(c->f, key);
    frame_put_str(c->f, position);
}

static void put_positions(struct frame *f, const struct told *t)
{
    struct counting count = {0}, put = {.f = f};

    config_positions(t->config, t->how, put_position, &count);
    frame_put_u32(f, count.n < MAX_POSITIONS ? count.n : MAX_POSITIONS);
    config_positions(t->config, t->how, put_position, &put);
}

static void put_list(struct frame *f, const struct muster_list *list)
{
    frame_put_u32(f, (uint32_t)list->n);
    for (size_t i = 0; i < list->n; i++)
        frame_put_str(f, list->items[i]);
}

/* The words of a list with blanks. */
static void put_words(struct frame *f, const char *words)
{
    char copy[512];
    uint32_t n = 0;
    char *rest = copy, *word;

    (void)snprintf(copy, sizeof copy, "%s", words ? words : "");
    for (const char *at = copy; *(at += strspn(at, " ")); at += strcspn(at, " "))
        n++;
    frame_put_u32(f, n);
    while ((word = strsep(&rest, " ")))
        if (*word)
            frame_put_str(f, word);
}

void told_put_values(struct frame *f, const struct told *t)
{
    put_positions(f, t);
    settings_put(f, t->plugin, t->values);
}

void told_put(struct frame *f, const struct told *t)
{
    frame_put_str(f, t->how->instance);
    frame_put_u32(f, t->lane);
    frame_put_u32(f, (uint32_t)t->how->lanes);
    frame_put_str(f, t->broker_id);
    frame_put_str(f, t->config->broker.root);
    frame_put_str(f, t->postgres_dsn);
    put_words(f, t->plugin->capabilities);
    put_list(f, &t->how->allow.subscribe);
    put_list(f, &t->how->allow.publish);
    told_put_values(f, t);
}
