/*
 * How far the watches of a shard are in a stream, kept in the bucket: at/<shard>/<stream>, "<when it was made, µs> <seq>[ <watch> <seq>]…",
 * where those are named that are not yet where the others are. It is written once a second where it has changed, under the shard's lease.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "fanout/watch.h"

enum { NAMED_MAX = 1500, KEY_SIZE = 128 };

struct kept {
    char *text;
};

static void key_of(const struct feed *feed, uint32_t shard, char key[KEY_SIZE])
{
    (void)snprintf(key, KEY_SIZE, "at/%u/%s", shard, feed->name);
}

/* ---- writing -------------------------------------------------------------------------------------------------------------------- */

struct keeping {
    struct feed *feed;
    uint32_t shard;
    uint64_t hash;
};

static void on_kept(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct keeping *k = arg;

    (void)value;
    (void)revision;
    k->feed->at[k->shard].busy--;
    k->feed->at[k->shard].hash = code ? 0 : k->hash; /* a failed one is written again with the next change or second */
    free(k);
}

struct measure {
    uint64_t pos, least;
    size_t n_behind;
    bool any;
};

static struct measure measure(const struct feed *feed, uint32_t shard)
{
    struct measure m = {.pos = feed_pos(feed, shard)};

    m.least = m.pos;
    for (const struct tap *tap = feed->taps; tap; tap = tap->next_in_feed) {
        uint64_t pos;

        if (tap->w->shard != shard || !tap->w->open)
            continue;
        m.any = true;
        pos = tap_pos(tap);
        m.n_behind += pos != m.pos;
        m.least = pos < m.least ? pos : m.least;
    }
    return m;
}

static void put_text(const struct feed *feed, uint32_t shard, const struct measure *m, struct buf *b)
{
    bool named = m->n_behind <= NAMED_MAX;

    buf_printf(b, "%llu %llu", (unsigned long long)feed->created_us, (unsigned long long)(named ? m->pos : m->least));
    for (const struct tap *tap = feed->taps; named && tap; tap = tap->next_in_feed)
        if (tap->w->shard == shard && tap->w->open && tap_pos(tap) != m->pos)
            buf_printf(b, " %s %llu", tap->w->id, (unsigned long long)tap_pos(tap));
}

static void write_text(struct feed *feed, uint32_t shard, const struct buf *b)
{
    struct fanout *f = feed->ws->f;
    uint64_t hash = hash_bytes(b->data, b->len) | 1;
    struct keeping *k = hash == feed->at[shard].hash ? NULL : malloc(sizeof *k);
    char key[KEY_SIZE];
    struct muster_kv_put put = {.size = sizeof put, .tenant = feed->tenant, .key = key, .value = {b->data, b->len},
                                .revision = MUSTER_UNFENCED, .lease = feed->ws->shards[shard].lease, .fn = on_kept, .arg = k};

    if (!k)
        return;
    *k = (struct keeping){feed, shard, hash};
    key_of(feed, shard, key);
    feed->at[shard].busy++;
    if (f->kv->put(f->host, &put) == 0)
        return;
    feed->at[shard].busy--;
    free(k);
}

static void keep(struct feed *feed, uint32_t shard)
{
    struct measure m = measure(feed, shard);
    struct buf b = {0};

    if (!m.any)
        return;
    put_text(feed, shard, &m, &b);
    if (!buf_failed(&b))
        write_text(feed, shard, &b);
    buf_done(&b);
}

void keep_shard(struct watches *ws, uint32_t shard)
{
    for (struct feed *feed = ws->feeds; feed; feed = feed->next)
        if (feed->ready)
            keep(feed, shard);
}

void keep_all(struct watches *ws)
{
    for (struct feed *feed = ws->feeds; feed; feed = feed->next)
        for (uint32_t i = 0; feed->ready && i < WATCH_SHARDS; i++)
            if (ws->shards[i].state == SHARD_SERVED && !feed->at[i].busy)
                keep(feed, i);
}

bool keep_is_busy(const struct watches *ws, uint32_t shard)
{
    for (const struct feed *feed = ws->feeds; feed; feed = feed->next)
        if (feed->at[shard].busy)
            return true;
    return false;
}

/* ---- reading -------------------------------------------------------------------------------------------------------------------- */

struct reading {
    kept_fn fn;
    void *arg;
};

static void on_read(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct reading r = *(struct reading *)arg;
    struct kept *kept = code ? NULL : malloc(sizeof *kept);

    (void)revision;
    free(arg);
    if (kept)
        kept->text = strndup(value.len ? value.data : "", value.len);
    if (kept && !kept->text) {
        free(kept);
        kept = NULL;
    }
    r.fn(r.arg, code ? code : kept ? 0 : MUSTER_ENOMEM, kept);
}

int kept_read(struct feed *feed, uint32_t shard, kept_fn fn, void *arg)
{
    struct fanout *f = feed->ws->f;
    struct reading *r = malloc(sizeof *r);
    char key[KEY_SIZE];
    int err;

    if (!r)
        return MUSTER_ENOMEM;
    *r = (struct reading){fn, arg};
    key_of(feed, shard, key);
    err = f->kv->get(f->host, feed->tenant, key, on_read, r);
    if (err)
        free(r);
    return err;
}

uint64_t kept_created_us(const struct kept *kept)
{
    return strtoull(kept->text, NULL, 10);
}

static uint64_t number_behind(const char *p)
{
    return *p == ' ' ? strtoull(p + 1, NULL, 10) : 0;
}

uint64_t kept_pos(const struct kept *kept, const char *id)
{
    size_t len = id ? strlen(id) : 0;
    const char *p = strchr(kept->text, ' ');
    uint64_t others = p ? number_behind(p) : 0;

    for (p = p ? strchr(p + 1, ' ') : NULL; id && p; p = strchr(p + 1, ' '))
        if (strncmp(p + 1, id, len) == 0 && p[1 + len] == ' ')
            return number_behind(p + 1 + len);
    return others;
}

void kept_free(struct kept *kept)
{
    if (kept)
        free(kept->text);
    free(kept);
}
