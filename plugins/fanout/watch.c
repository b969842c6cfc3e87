/* One watch, from its making to its end; see watch.h. */
#include "fanout/watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/value.h"

struct watch *watch_new(struct watches *ws, const struct muster_tenant *tenant, const char *agent, uint32_t role, char *spec_json,
                        struct complaint *c)
{
    struct muster_tenant_limits limits = {.size = sizeof limits};
    struct watch *w = calloc(1, sizeof *w);
    struct wire_error error;

    *c = (struct complaint){.code = NULL};
    if (!w) {
        free(spec_json);
        return NULL;
    }
    w->ws = ws;
    w->tenant = tenant;
    w->role = role;
    w->spec_json = spec_json;
    w->shard = shard_number(ws, tenant);
    (void)snprintf(w->agent, sizeof w->agent, "%s", agent);
    if (value_decode(MUSTER_JSON, (struct muster_bytes){spec_json, strlen(spec_json)}, &w->doc, &error) != 0 ||
        !watch_spec_read(w->doc, &w->spec, c)) {
        watch_free(w);
        return NULL;
    }
    w->encoding = w->spec.encoding;
    if (!w->encoding && w->spec.rules.interval_ns)
        w->encoding = ws->f->tenants->limits(ws->f->host, tenant, &limits) == 0 && limits.encoding ? limits.encoding : MUSTER_JSON;
    batch_init(&w->batch, &w->spec.rules);
    return w;
}

static bool count_in(struct watch *w)
{
    struct watches *ws = w->ws;
    struct tenant_watches *tw = map_get(&ws->tenants, &w->tenant, sizeof w->tenant);

    if (!tw) {
        tw = calloc(1, sizeof *tw);
        if (!tw || !map_put(&ws->tenants, &w->tenant, sizeof w->tenant, tw)) {
            free(tw);
            return false;
        }
        tw->shard = w->shard;
        routes_forget(ws);
    }
    tw->n++;
    return true;
}

/* Nobody looks at the tenant's messages any more: where its channels are is not known then. */
static void count_out(struct watch *w)
{
    struct watches *ws = w->ws;
    struct tenant_watches *tw = map_get(&ws->tenants, &w->tenant, sizeof w->tenant);

    if (!tw || --tw->n)
        return;
    (void)map_take(&ws->tenants, &w->tenant, sizeof w->tenant);
    free(tw);
    places_forget(ws, w->tenant);
}

bool watch_link(struct watch *w)
{
    w->linked = count_in(w);
    for (size_t i = 0; w->linked && i < w->n_taps; i++)
        if (!tap_link(&w->taps[i]))
            return false;
    return w->linked;
}

static void map_key(const struct muster_tenant *tenant, const char *id, char key[sizeof tenant + WATCH_ID_SIZE], size_t *ret_len)
{
    size_t len = strnlen(id, WATCH_ID_SIZE - 1);

    memcpy(key, &tenant, sizeof tenant);
    memcpy(key + sizeof tenant, id, len);
    *ret_len = sizeof tenant + len;
}

struct watch *watch_find(struct watches *ws, const struct muster_tenant *tenant, const char *id)
{
    char key[sizeof tenant + WATCH_ID_SIZE];
    size_t len;

    map_key(tenant, id, key, &len);
    return map_get(&ws->by_id, key, len);
}

bool watch_register(struct watch *w, const char *id)
{
    char key[sizeof w->tenant + WATCH_ID_SIZE];
    size_t len;

    map_key(w->tenant, id, key, &len);
    if (map_get(&w->ws->by_id, key, len) || !map_put(&w->ws->by_id, key, len, w))
        return false;
    (void)snprintf(w->id, sizeof w->id, "%s", id);
    (void)snprintf(w->subject, sizeof w->subject, "sub.%s.%s", w->agent, id);
    w->open = true;
    w->was_present = watch_is_present(w);
    w->ws->f->metrics->set(w->ws->f->host, w->ws->m.watches, NULL, (int64_t)w->ws->by_id.n);
    return true;
}

static void forget_id(struct watch *w)
{
    char key[sizeof w->tenant + WATCH_ID_SIZE];
    size_t len;

    map_key(w->tenant, w->id, key, &len);
    if (w->id[0] && map_get(&w->ws->by_id, key, len) == w)
        (void)map_take(&w->ws->by_id, key, len);
    w->ws->f->metrics->set(w->ws->f->host, w->ws->m.watches, NULL, (int64_t)w->ws->by_id.n);
}

static void leave_ended(struct watch *w)
{
    struct watch **at = &w->ws->ended;

    while (*at && *at != w)
        at = &(*at)->next_ended;
    if (*at)
        *at = w->next_ended;
}

static void free_taps(struct watch *w)
{
    for (size_t i = 0; i < w->n_taps; i++) {
        struct tap *tap = &w->taps[i];

        tap_unlink(tap);
        tap->feed->refs--;
        for (size_t p = 0; p < tap->n_patterns; p++)
            free(tap->patterns[p].text);
        free(tap->patterns);
        free(tap->subject);
    }
    free(w->taps);
}

static void count_dropped(struct watch *w)
{
    struct fanout *f = w->ws->f;

    for (int i = 0; i < DROPPED_REASONS; i++)
        if (w->batch.dropped[i])
            f->metrics->add(f->host, w->ws->m.dropped, dropped_words[i], (int64_t)w->batch.dropped[i]);
}

void watch_free(struct watch *w)
{
    if (!w)
        return;
    forget_id(w);
    leave_ended(w);
    free_taps(w);
    if (w->linked)
        count_out(w);
    outlet_done(w);
    count_dropped(w);
    batch_done(&w->batch);
    filter_free(w->filter);
    buf_done(&w->binary);
    value_free(w->doc);
    free(w->spec_json);
    free(w);
}

static void on_ended(void *arg, const struct muster_sql_result *result)
{
    struct watch_shard *s = arg;

    s->writes--;
    if (result->code) /* the row is there still: whoever takes the shard over serves it, and ends it again */
        s->ws->f->host->log(s->ws->f->host, MUSTER_LOG_WARN, "a watch has ended and its row could not be removed: %s", result->error);
}

static void remove_row(struct watch *w)
{
    struct fanout *f = w->ws->f;
    const char *tenant = f->tenants->name(w->tenant);
    char args[WATCH_ID_SIZE + 32];
    int n = snprintf(args, sizeof args, "{\"watch\":\"%s\"}", w->id);
    const struct muster_bytes params[3] = {{tenant, strlen(tenant)}, {w->agent, strlen(w->agent)}, {args, (size_t)n}};

    if (f->sql->exec(f->host, w->ws->stmt_end, w->tenant, w->id, 3, params, on_ended, &w->ws->shards[w->shard]) == 0)
        w->ws->shards[w->shard].writes++;
}

void watch_end(struct watch *w, const char *why)
{
    if (w->ended)
        return;
    if (why && shard_is_held(w->ws, w->shard)) {
        outlet_ended(w, why);
        remove_row(w);
        w->ws->f->host->log(w->ws->f->host, MUSTER_LOG_INFO, "watch %s of %s in tenant %s has ended: %s", w->id, w->agent,
                            w->ws->f->tenants->name(w->tenant), why);
    }
    w->ended = true;
    w->next_ended = w->ws->ended;
    w->ws->ended = w;
}

void watches_sweep(struct watches *ws)
{
    while (ws->ended)
        watch_free(ws->ended);
}
