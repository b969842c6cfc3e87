/* Which streams a watch needs, and what it wants of each; see watch.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/doc.h"
#include "fanout/watch.h"
#include "wire/subject.h"
#include "wire/value.h"

static bool complain(struct complaint *c, const char *code, const char *field, const char *came, const char *expected)
{
    c->code = code;
    c->field = field;
    (void)snprintf(c->text, sizeof c->text, "%s: %.128s came, %s was expected", field, came, expected);
    return false;
}

static struct tap *tap_of(struct watch *w, const char *stream, bool of_tenant)
{
    struct feed *feed = feed_get(w->ws, stream, of_tenant ? w->tenant : NULL);
    struct tap *tap;

    for (size_t i = 0; feed && i < w->n_taps; i++)
        if (w->taps[i].feed == feed)
            return &w->taps[i];
    if (!feed)
        return NULL;
    tap = &w->taps[w->n_taps++];
    *tap = (struct tap){.w = w, .feed = feed};
    feed->refs++;
    return tap;
}

/* What a reader asks the stream for: the one pattern, in the words of the stream, or all of the tenant's. */
static char *subject_in(const char *stream, const char *pattern)
{
    char *subject = NULL;
    const char *rest = strncmp(pattern, "evt.", 4) == 0 ? strchr(pattern + 4, '.') : NULL;

    if (strncmp(stream, "PRES_", 5) == 0)
        return asprintf(&subject, "pres.%s%s", stream + 5, rest ? rest : ".>") < 0 ? NULL : subject;
    return strdup(pattern);
}

static char *all_of(const char *stream)
{
    char *subject = NULL;

    if (strncmp(stream, "PRES_", 5) == 0)
        return asprintf(&subject, "pres.%s.>", stream + 5) < 0 ? NULL : subject;
    if (strncmp(stream, "CDC_", 4) == 0)
        return asprintf(&subject, "cdc.%s.>", stream + 4) < 0 ? NULL : subject;
    return strdup(strcmp(stream, "EVT") == 0 ? "evt.>" : strcmp(stream, "MAIL") == 0 ? "msg.>" : ">");
}

static bool add_pattern(struct tap *tap, const char *pattern)
{
    struct pattern *grown = realloc(tap->patterns, (tap->n_patterns + 1) * sizeof *grown);
    char *subject;

    if (!grown)
        return false;
    tap->patterns = grown;
    grown[tap->n_patterns] = (struct pattern){.text = strdup(pattern)};
    if (!grown[tap->n_patterns].text)
        return false;
    subject = tap->n_patterns++ ? all_of(tap->feed->name) : subject_in(tap->feed->name, pattern);
    free(tap->subject);
    tap->subject = subject;
    return subject != NULL;
}

/* The channel of all sources together. */
static void join_place(struct watch *w, const struct source *s, bool first)
{
    if (first) {
        (void)snprintf(w->channel, sizeof w->channel, "%s", s->channel);
        w->by_stream = s->by_stream;
        return;
    }
    if (strcmp(w->channel, s->channel) != 0)
        w->channel[0] = '\0';
    w->by_stream = w->by_stream && s->by_stream;
}

static bool add_source(struct watch *w, const char *full, bool first, struct complaint *c)
{
    struct fanout *f = w->ws->f;
    char prefix[160];
    int n = snprintf(prefix, sizeof prefix, "%s.%s.", f->host->root, f->tenants->name(w->tenant));
    struct source s;
    const char *why = "", *pattern = full + n;

    if (strncmp(full, prefix, (size_t)n) != 0)
        return complain(c, "permission_denied", "sources", full, "a subject of the caller's own tenant");
    if (!subject_is_pattern(full, strlen(full)))
        return complain(c, "invalid_argument", "sources", full, "a pattern of subjects");
    if (f->tenants->may_hear(f->host, w->tenant, w->agent, pattern) == MUSTER_EACCES)
        return complain(c, "permission_denied", "sources", full, "a pattern inside the caller's own subscriptions");
    if (!source_of(pattern, shard_of_name(f->tenants->name(w->tenant)), &s, &why))
        return complain(c, "invalid_argument", "sources", full, why);
    for (int i = 0; i < 2 && s.streams[i][0]; i++) {
        struct tap *tap = tap_of(w, s.streams[i], s.of_tenant);

        if (!tap || !add_pattern(tap, pattern))
            return false;
    }
    join_place(w, &s, first);
    return true;
}

static bool add_sources(struct watch *w, struct complaint *c)
{
    for (size_t i = 0; i < doc_count(w->spec.sources); i++)
        if (!add_source(w, doc_text(value_at(w->spec.sources, i), NULL), i == 0, c))
            return false;
    w->by_stream = w->by_stream && w->n_taps == 1;
    return true;
}

static bool add_table(struct watch *w)
{
    char schema[NAME_TOKEN_SIZE], table[NAME_TOKEN_SIZE], stream[SOURCE_STREAM_SIZE];
    struct tap *tap;

    (void)name_token(w->spec.schema, strlen(w->spec.schema), schema);
    (void)name_token(w->spec.table, strlen(w->spec.table), table);
    (void)snprintf(stream, sizeof stream, "CDC_%s", w->spec.source);
    (void)snprintf(w->channel, sizeof w->channel, "cdc.%s.%s.%s", w->spec.source, schema, table);
    tap = tap_of(w, stream, false);
    if (!tap)
        return false;
    tap->entry.ops = w->spec.ops;
    return asprintf(&tap->subject, "%s.>", w->channel) > 0;
}

bool watch_taps(struct watch *w, struct complaint *c)
{
    size_t n = w->spec.sources ? 2 * doc_count(w->spec.sources) : 1;

    *c = (struct complaint){.code = NULL};
    w->taps = calloc(n, sizeof *w->taps);
    if (!w->taps)
        return false;
    return w->spec.sources ? add_sources(w, c) : add_table(w);
}

int watch_may(const struct watch *w)
{
    struct fanout *f = w->ws->f;

    if (!w->spec.sources)
        return w->role == MUSTER_ROLE_USER ? 0 : f->tenants->may_hear(f->host, w->tenant, w->agent, w->taps[0].subject);
    for (size_t i = 0; i < w->n_taps; i++)
        for (size_t p = 0; p < w->taps[i].n_patterns; p++)
            if (f->tenants->may_hear(f->host, w->tenant, w->agent, w->taps[i].patterns[p].text) == MUSTER_EACCES)
                return MUSTER_EACCES;
    return 0;
}
