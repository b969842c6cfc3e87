/* What the instance says of itself to /readyz and doctor. */
#include "presence/presence.h"

enum { WELL_KNOWN, WELL_LED, WELL_LOADING, WELL_MISSING }; /* of one shard */
enum { PATIENCE = 10 };                                      /* looks in a row; before the first word an instance counts as down */

static int look(const struct presence *p, const struct shard *s, uint32_t n_missing)
{
    if (s->state == SHARD_LEADS)
        return WELL_LED;
    if (s->state != SHARD_FOLLOWS)
        return s->state == SHARD_LOADING || s->not_loaded ? WELL_LOADING : WELL_MISSING;
    return !n_missing && (s->lease || p->ready) ? WELL_KNOWN : WELL_MISSING; /* at the start it contends first */
}

/* A shard that moves, or a start, is no news: only what lasts is told. */
static void say_missing(struct presence *p, const uint32_t *n)
{
    if (p->stream_code)
        p->host->health(p->host, MUSTER_HEALTH_DOWN, p->stream_code, "%s", p->stream_fault);
    else if (n[WELL_LOADING])
        p->host->health(p->host, p->ready ? MUSTER_HEALTH_DEGRADED : MUSTER_HEALTH_DOWN, "sessions_loading",
                        "the sessions of %u shards are being read from PostgreSQL%s%s", n[WELL_LOADING], *p->load_fault ? ": " : "", p->load_fault);
    else if (!p->ready)
        p->host->health(p->host, MUSTER_HEALTH_DOWN, "catching_up", "the roster of %u of %d shards is not known yet", n[WELL_MISSING], SHARDS);
    else
        p->host->health(p->host, MUSTER_HEALTH_DEGRADED, "catching_up", "the roster of %u of %d shards is being read anew", n[WELL_MISSING], SHARDS);
}

void wellbeing_tick(struct presence *p, const uint32_t missing[SHARDS])
{
    uint32_t n[WELL_MISSING + 1] = {0};

    if (!p->link_up) {
        if (p->ready || ++p->n_missing > PATIENCE)
            p->host->health(p->host, MUSTER_HEALTH_DOWN, "nats_away", "NATS is away");
        return;
    }
    for (uint32_t i = 0; i < SHARDS; i++)
        n[look(p, &p->shards[i], missing[i])]++;
    if (p->was_loading && !n[WELL_LOADING])
        p->n_missing = 0; /* the next step has its own time, and the reason stays until then */
    p->was_loading = n[WELL_LOADING] > 0;
    if (n[WELL_LOADING] + n[WELL_MISSING]) {
        if (++p->n_missing > PATIENCE)
            say_missing(p, n);
        return;
    }
    p->n_missing = 0;
    p->ready = true;
    if (n[WELL_LED])
        p->host->health(p->host, MUSTER_HEALTH_OK, "ok", "holds %u of %d shards", n[WELL_LED], SHARDS);
    else
        p->host->health(p->host, MUSTER_HEALTH_STANDBY, "standby", "other brokers hold the shards");
}
