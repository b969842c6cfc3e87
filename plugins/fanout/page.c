/* What one answer of message.history tells, and its bytes; see history.h. The lane. */
#include <stdlib.h>
#include <string.h>

#include "fanout/history.h"

bool history_shows(const struct wish *w, const struct stored *m, int64_t wall_ns)
{
    bool expired = m->expires_ns && m->expires_ns <= wall_ns;

    if (!w->c->spec.mail)
        return true;
    return w->dead ? expired && m->seq > w->acked : !expired;
}

struct page {
    struct stored *items[READ_MAX];
    size_t n;
    uint64_t epoch, last_seq;
    bool all; /* that the run has */
    bool complete;
};

/* Those that fit; the first in any case. */
static bool pick(struct wish *w, const struct found *found, struct page *p)
{
    const struct fanout *f = w->c->h->f;
    int64_t now = f->timer->wall_now(f->host);
    size_t n_bytes = 0, i;

    for (i = found->at; i < found->run->n && p->n < w->limit; i++) {
        struct stored *m = found->run->items[i];
        const struct buf *text = history_shows(w, m, now) ? stored_text(m, w->a->msg->encoding) : NULL;

        if (w->c->spec.counted && w->tail && m->epoch != w->tail->epoch)
            break; /* an epoch that began while this was read */
        if (!text && history_shows(w, m, now))
            return false;
        if (!text)
            continue;
        n_bytes += text->len + 1;
        if (p->n && n_bytes > STORED_TEXT_MAX)
            break;
        p->items[p->n++] = m;
    }
    p->all = i == found->run->n && p->n < w->limit;
    return true;
}

/* Nothing is missing between two that follow each other. */
static bool is_contiguous(const struct page *p)
{
    for (size_t i = 1; i < p->n; i++)
        if (p->items[i]->epoch != p->items[i - 1]->epoch || p->items[i]->count != p->items[i - 1]->count + 1)
            return false;
    return true;
}

/* The roster of a holder that has told nothing yet. */
static bool is_before_first(const struct wish *w)
{
    return w->c->spec.presence && w->has_after && !w->cut && (!w->tail || w->after_epoch > w->tail->epoch);
}

/* What was asked for is nothing because there is nothing, not because it went while it was looked for. */
static bool is_nothing_new(const struct wish *w)
{
    if (!w->tail || is_before_first(w))
        return true;
    if (w->has_after)
        return w->after_seq >= w->tail->count;
    return !w->has_since || w->tail->wall_ns < w->since_ns;
}

static bool is_whole_counted(const struct wish *w, const struct page *p)
{
    if (w->cut || !is_contiguous(p))
        return false;
    if (!p->n)
        return is_nothing_new(w);
    if (p->all && w->tail && p->items[p->n - 1]->count < w->tail->count) /* the newest went while it was read */
        return false;
    if (w->has_after)
        return p->items[0]->count == w->after_seq + 1;
    return !w->has_since || p->items[0]->count == 1 || !w->oldest;
}

static bool is_whole_stream(const struct wish *w, const struct found *found)
{
    return !w->cut && !(w->has_since && w->oldest && w->at.first_seq > 1) && found->run->whole_from <= w->start;
}

static uint64_t last_counted(const struct wish *w, const struct page *p, uint64_t *ret_epoch)
{
    if (w->tail && !is_before_first(w)) {
        uint64_t read = p->n ? p->items[p->n - 1]->count : 0; /* maybe newer than what was the newest */

        *ret_epoch = w->tail->epoch;
        return read > w->tail->count ? read : w->tail->count;
    }
    *ret_epoch = w->has_after && !w->cut ? w->after_epoch : 0;
    return w->has_after && !w->cut ? w->after_seq : 0;
}

static uint64_t last_of_stream(const struct wish *w, const struct found *found, uint64_t epoch)
{
    uint64_t before = w->has_after ? (w->after_epoch == epoch ? w->after_seq : 0) : w->acked;

    if (found->ended && found->at < found->run->n)
        return found->run->items[found->run->n - 1]->seq;
    if (w->has_since || w->after_seq > w->at.last_seq)
        return w->tail ? w->tail->seq : 0;
    return !found->ended && w->tail ? w->tail->seq : before;
}

static bool fill(struct wish *w, const struct found *found, struct page *p)
{
    p->n = 0;
    if (!pick(w, found, p))
        return false;
    if (w->c->spec.counted) {
        p->last_seq = last_counted(w, p, &p->epoch);
        p->complete = is_whole_counted(w, p);
    } else {
        p->epoch = (uint64_t)(w->at.created_wall_ns / 1000);
        p->last_seq = last_of_stream(w, found, p->epoch);
        p->complete = is_whole_stream(w, found);
    }
    return true;
}

/* ---- the answer's bytes ------------------------------------------------------------------------------------------------- */

static void write_json(const struct page *p, struct buf *out)
{
    buf_put_lit(out, "{\"messages\":[");
    for (size_t i = 0; i < p->n; i++) {
        const struct buf *text = stored_text(p->items[i], MUSTER_JSON);

        if (i)
            buf_putc(out, ',');
        buf_put(out, text->data, text->len);
    }
    buf_printf(out, "],\"epoch\":%llu,\"last_seq\":%llu,\"complete\":%s}", (unsigned long long)p->epoch, (unsigned long long)p->last_seq,
               p->complete ? "true" : "false");
}

static void put_key(struct buf *out, const char *key)
{
    buf_putc(out, (char)(0xa0 | strlen(key))); /* fixstr: at most 31 bytes */
    buf_puts(out, key);
}

static void put_u64(struct buf *out, uint64_t v)
{
    buf_putc(out, (char)0xcf);
    for (int shift = 56; shift >= 0; shift -= 8)
        buf_putc(out, (char)(v >> shift));
}

static void write_msgpack(const struct page *p, struct buf *out)
{
    buf_putc(out, (char)0x84);
    put_key(out, "messages");
    buf_putc(out, (char)0xdc);
    buf_putc(out, (char)(p->n >> 8));
    buf_putc(out, (char)p->n);
    for (size_t i = 0; i < p->n; i++) {
        const struct buf *text = stored_text(p->items[i], MUSTER_MSGPACK);

        buf_put(out, text->data, text->len);
    }
    put_key(out, "epoch");
    put_u64(out, p->epoch);
    put_key(out, "last_seq");
    put_u64(out, p->last_seq);
    put_key(out, "complete");
    buf_putc(out, (char)(p->complete ? 0xc3 : 0xc2));
}

/* The same page again: those that came back together mostly ask alike. */
static bool is_given(const struct wish *w, const struct page *p)
{
    const struct channel *c = w->c;

    return c->given.answer && c->given.first == (p->n ? p->items[0] : NULL) && c->given.n == p->n && c->given.epoch == p->epoch &&
           c->given.last_seq == p->last_seq && c->given.encoding == w->a->msg->encoding && c->given.complete == p->complete &&
           (p->n < 2 || c->given.last == p->items[p->n - 1]);
}

static void keep_given(const struct wish *w, const struct page *p, struct answer *answer)
{
    struct channel *c = w->c;

    channel_forget_given(c);
    c->given.answer = answer;
    c->given.n_bytes = answer->bytes.cap;
    c->h->n_bytes += c->given.n_bytes;
    c->given.first = p->n ? stored_ref(p->items[0]) : NULL;
    c->given.last = p->n ? stored_ref(p->items[p->n - 1]) : NULL;
    c->given.n = p->n;
    c->given.epoch = p->epoch;
    c->given.last_seq = p->last_seq;
    c->given.encoding = w->a->msg->encoding;
    c->given.complete = p->complete;
}

static struct answer *answer_for(struct wish *w, const struct page *p)
{
    struct history *h = w->c->h;
    struct answer *answer;

    if (is_given(w, p)) {
        h->f->metrics->add(h->f->host, h->m_shared, NULL, 1);
        return w->c->given.answer;
    }
    answer = answer_new();
    if (!answer)
        return NULL;
    if (w->a->msg->encoding == MUSTER_MSGPACK)
        write_msgpack(p, &answer->bytes);
    else
        write_json(p, &answer->bytes);
    keep_given(w, p, answer);
    return answer;
}

struct answer *page_answer(struct wish *w, const struct found *found)
{
    struct page page;

    return fill(w, found, &page) ? answer_for(w, &page) : NULL;
}
