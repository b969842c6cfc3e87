/* The forms in which a watch delivers: batches, messages by themselves, notices; see watch.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/emit.h"
#include "fanout/watch.h"
#include "wire/value.h"

enum { HEADERS = OUTLET_HEADERS };

static struct muster_publication publication(const struct watch *w, const struct muster_header *headers, uint32_t n, struct span body)
{
    return (struct muster_publication){.size = sizeof(struct muster_publication), .tenant = w->tenant, .subject = w->subject, .headers = headers,
                                       .n_headers = n, .payload = {body.s, body.len}};
}

/* ---- messages by themselves ----------------------------------------------------------------------------------------------------- */

static void put_gap(struct buf *b, uint32_t encoding, const struct gap *gap)
{
    emit_map(b, encoding, (gap->channel[0] ? 2u : 1u) + (gap->epoch ? 2u : 0u));
    emit_key(b, encoding, "reason", true);
    emit_text(b, encoding, gap->reason);
    if (gap->channel[0]) {
        emit_key(b, encoding, "channel", false);
        emit_text(b, encoding, gap->channel);
    }
    if (gap->epoch) {
        emit_key(b, encoding, "epoch", false);
        emit_number(b, encoding, gap->epoch);
        emit_key(b, encoding, "seq", false);
        emit_number(b, encoding, gap->seq);
    }
    emit_map_end(b, encoding);
}

static int send_notice(struct watch *w, const char *kind, const struct gap *gap, const char *why)
{
    const struct muster_header header = {"Muster-Watch", kind};
    uint32_t encoding = w->encoding ? w->encoding : MUSTER_JSON;
    struct muster_publication pub;
    struct buf b = {0};
    int err;

    emit_map(&b, encoding, 2);
    emit_key(&b, encoding, "watch", true);
    emit_text(&b, encoding, w->id);
    emit_key(&b, encoding, gap ? "gap" : "ended", false);
    if (gap)
        put_gap(&b, encoding, gap);
    else
        emit_text(&b, encoding, why);
    emit_map_end(&b, encoding);
    pub = publication(w, &header, 1, (struct span){b.data, b.len});
    err = buf_failed(&b) ? MUSTER_ENOMEM : gap ? outlet_send(w, &pub) : w->ws->f->bus->publish(w->ws->f->host, &pub);
    buf_done(&b);
    return err;
}

void outlet_ended(struct watch *w, const char *why)
{
    if (w->open)
        (void)send_notice(w, "ended", NULL, why); /* who misses it misses a word about a watch that is over */
}

int outlet_send_gaps(struct watch *w)
{
    while (w->n_gaps && w->heard != HEARD_ASKED && w->heard != HEARD_NO) {
        struct gap gap = w->gaps[0];
        int err = send_notice(w, "gap", &gap, NULL);

        if (err)
            return err;
        w->n_gaps--;
        memmove(w->gaps, w->gaps + 1, w->n_gaps * sizeof *w->gaps);
    }
    return w->n_gaps ? MUSTER_EAGAIN : 0;
}

static size_t dropped_text(const struct batch *b, char room[128])
{
    size_t n = 0;

    for (int i = 0; i < DROPPED_REASONS; i++)
        if (b->untold[i] && n < 100)
            n += (size_t)snprintf(room + n, 128 - n, "%s%s=%llu", n ? "," : "", dropped_words[i], (unsigned long long)b->untold[i]);
    return n;
}

static uint32_t read_headers(const struct note *note, struct muster_header headers[HEADERS])
{
    uint32_t n = 0;

    for (const char *p = note->text->data + note->text->key_len; p < note->text->data + note->text->head && n < HEADERS - 1; n++) {
        headers[n].name = p;
        p += strlen(p) + 1;
        headers[n].value = p;
        p += strlen(p) + 1;
    }
    return n;
}

int outlet_send_one(struct watch *w)
{
    const struct note *note = w->batch.first;
    const struct note_text *text = note->text;
    struct muster_header headers[HEADERS];
    char dropped[128];
    struct muster_publication pub;
    uint32_t n = read_headers(note, headers);

    if (dropped_text(&w->batch, dropped))
        headers[n++] = (struct muster_header){"Muster-Dropped", dropped};
    pub = publication(w, headers, n, (struct span){text->data + text->head, text->len - text->head});
    return outlet_send(w, &pub);
}

/* ---- batches -------------------------------------------------------------------------------------------------------------------- */

static void put_dropped(struct buf *b, uint32_t encoding, const struct batch *batch)
{
    size_t n = 0;

    for (int i = 0; i < DROPPED_REASONS; i++)
        n += batch->untold[i] != 0;
    emit_map(b, encoding, n);
    n = 0;
    for (int i = 0; i < DROPPED_REASONS; i++) {
        if (!batch->untold[i])
            continue;
        emit_key(b, encoding, dropped_words[i], n++ == 0);
        emit_number(b, encoding, batch->untold[i]);
    }
    emit_map_end(b, encoding);
}

static void put_gaps(struct watch *w, struct buf *b)
{
    emit_list(b, w->encoding, w->n_gaps);
    for (size_t i = 0; i < w->n_gaps; i++) {
        if (i && w->encoding == MUSTER_JSON)
            buf_putc(b, ',');
        put_gap(b, w->encoding, &w->gaps[i]);
    }
    emit_list_end(b, w->encoding);
}

/* That are in front of end, and about how many bytes. */
static size_t count(const struct batch *batch, const struct note *end, size_t *ret_bytes)
{
    size_t n = 0;

    *ret_bytes = end ? batch->rules.max_bytes : batch->bytes;
    for (const struct note *note = batch->first; end && note != end; note = note->next)
        n++;
    return end ? n : batch->n;
}

static void put_messages(struct watch *w, const struct note *end, struct buf *b)
{
    size_t n_bytes, n = count(&w->batch, end, &n_bytes);

    (void)buf_reserve(b, n_bytes + n); /* if not, the first put fails */
    emit_list(b, w->encoding, n);
    for (const struct note *note = w->batch.first; note != end; note = note->next) {
        const struct note_text *text = note->text;

        if (note != w->batch.first && w->encoding == MUSTER_JSON)
            buf_putc(b, ',');
        buf_put(b, text->data + text->head, text->len - text->head);
    }
    emit_list_end(b, w->encoding);
}

int outlet_send_batch(struct watch *w, const struct note *end)
{
    struct buf b = {0};
    struct muster_publication pub;
    int err;

    emit_map(&b, w->encoding, w->n_gaps ? 3 : 2);
    emit_key(&b, w->encoding, "messages", true);
    put_messages(w, end, &b);
    emit_key(&b, w->encoding, "dropped", false);
    put_dropped(&b, w->encoding, &w->batch);
    if (w->n_gaps) {
        emit_key(&b, w->encoding, "gaps", false);
        put_gaps(w, &b);
    }
    emit_map_end(&b, w->encoding);
    pub = publication(w, NULL, 0, (struct span){b.data, b.len});
    err = buf_failed(&b) ? MUSTER_ENOMEM : b.len > WIRE_MAX_BODY ? MUSTER_EINVAL : outlet_send(w, &pub);
    buf_done(&b);
    if (!err)
        w->n_gaps = 0;
    return err;
}
