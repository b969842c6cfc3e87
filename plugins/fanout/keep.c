/*
 * How far the watches of a shard are in a stream, kept in the bucket: at/<shard>/<stream>, "<when it was made, µs> <seq>@<epoch>:<number>
 * [ <watch> <seq><gaps>]…". Rows of later epochs of the lease, or of higher numbers in this one, are of watches that came after. Those are named that are not yet where the others are, or have not heard of a gap: each "!<reason>:<epoch>:<seq>:<channel>". Where
 * they are too many all are where the last is, and one "!" behind it says that there are gaps. It is written once a second where it has
 * changed, under the shard's lease.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "fanout/watch.h"

enum { NAMED_MAX = 1500, TEXT_MAX = 60 << 10, KEY_SIZE = 128 }; /* a value of muster.kv has 64 KiB */

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
    size_t n_named;
    bool gaps;
};

static bool is_named(const struct tap *tap, uint64_t pos)
{
    return tap->w->open && (tap_pos(tap) != pos || outlet_gap_at(tap->w, 0));
}

static bool has_returned(const struct tap *tap, uint64_t pos)
{
    return !tap->reader && !tap->unheard && !tap->w->batch.first && tap->w->open && !is_named(tap, pos);
}

static struct measure measure(struct feed *feed, uint32_t shard)
{
    struct measure m = {.pos = feed_pos(feed, shard)};

    m.least = m.pos;
    for (struct tap *tap = feed->astray, *next; tap; tap = next) {
        uint64_t pos = tap->w->shard == shard ? tap_pos(tap) : 0;

        next = tap->next_astray;
        if (tap->w->shard != shard)
            continue;
        if (has_returned(tap, m.pos)) {
            tap_return(tap);
        } else if (is_named(tap, m.pos)) {
            m.n_named++;
            m.gaps = m.gaps || outlet_gap_at(tap->w, 0);
            m.least = pos < m.least ? pos : m.least;
        }
    }
    return m;
}

/* Each stream of a watch tells them: one may be missing when they are read. */
static void put_gaps(const struct tap *tap, struct buf *b)
{
    const struct gap *gap;

    for (size_t i = 0; (gap = outlet_gap_at(tap->w, i)); i++)
        buf_printf(b, "!%s:%llu:%llu:%s", gap->reason, (unsigned long long)gap->epoch, (unsigned long long)gap->seq, gap->channel);
}

static void put_head(const struct feed *feed, uint32_t shard, uint64_t pos, struct buf *b)
{
    const struct watch_shard *s = &feed->ws->shards[shard];

    buf_printf(b, "%llu %llu@%llu:%llu", (unsigned long long)feed->created_us, (unsigned long long)pos, (unsigned long long)s->epoch,
               (unsigned long long)opens_known(s));
}

static void put_text(const struct feed *feed, uint32_t shard, const struct measure *m, struct buf *b)
{
    put_head(feed, shard, m->pos, b);
    for (const struct tap *tap = m->n_named <= NAMED_MAX ? feed->astray : NULL; tap && b->len <= TEXT_MAX; tap = tap->next_astray) {
        if (tap->w->shard != shard || !is_named(tap, m->pos))
            continue;
        buf_printf(b, " %s %llu", tap->w->id, (unsigned long long)tap_pos(tap));
        put_gaps(tap, b);
    }
    if (m->n_named <= NAMED_MAX && b->len <= TEXT_MAX)
        return;
    buf_clear(b);
    put_head(feed, shard, m->least, b);
    buf_puts(b, m->gaps ? "!" : "");
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
    struct buf b = {0};
    struct measure m;

    if (!feed->n_taps[shard])
        return;
    m = measure(feed, shard);
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

/* Where the number of a watch begins, with the blank in front of it; NULL: it is not named. */
static const char *find_named(const struct kept *kept, const char *id)
{
    size_t len = strlen(id);
    const char *p = strchr(kept->text, ' ');

    for (p = p ? strchr(p + 1, ' ') : NULL; p; p = strchr(p + 1, ' '))
        if (strncmp(p + 1, id, len) == 0 && p[1 + len] == ' ')
            return p + 1 + len;
    return NULL;
}

uint64_t kept_pos(const struct kept *kept, const char *id)
{
    const char *others = strchr(kept->text, ' '), *named = id ? find_named(kept, id) : NULL;

    return number_behind(named ? named : others ? others : "");
}

/* What was written before this was said knows all of them. */
bool kept_knows(const struct kept *kept, uint64_t epoch, uint64_t number)
{
    unsigned long long kept_epoch, kept_number;

    if (sscanf(kept->text, "%*u %*u@%llu:%llu", &kept_epoch, &kept_number) != 2)
        return true;
    return epoch < kept_epoch || (epoch == kept_epoch && number <= kept_number);
}

static const char *reason_of(const char *word, size_t len)
{
    static const char *const reasons[] = {"stream", "hole", "epoch", "withheld", "no_memory"};

    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (strlen(reasons[i]) == len && memcmp(reasons[i], word, len) == 0)
            return reasons[i];
    return "retention";
}

/* p stands behind the "!". */
static void tell_gap(struct watch *w, const char *p)
{
    size_t reason_len = strcspn(p, ":! ");
    unsigned long long epoch = 0, seq = 0;
    char channel[SOURCE_CHANNEL_SIZE] = "";

    (void)sscanf(p + reason_len, ":%llu:%llu:%239[^! ]", &epoch, &seq, channel);
    outlet_gap(w, reason_of(p, reason_len), channel, epoch, seq);
}

void kept_gaps(const struct kept *kept, struct watch *w)
{
    const char *p = find_named(kept, w->id), *others = strchr(kept->text, ' ');

    if (!p)
        p = others;
    for (p = p ? p + 1 + strcspn(p + 1, "! ") : ""; *p == '!'; p += strcspn(p, "! "))
        tell_gap(w, ++p);
}

void kept_free(struct kept *kept)
{
    if (kept)
        free(kept->text);
    free(kept);
}
