/* The fenced stream, its window and its frontier; see sink.h. */
#include "cdc/sink.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cdc/cdc.h"

/* What is held: the append as the pump made it, and how large it is. One an instance; the pointers are the pump's. */
struct held {
    struct muster_append append;
    size_t n_bytes;
};

static struct held *held_of(struct cdc *c)
{
    return (struct held *)(void *)(c->sink.marks + SINK_RING); /* behind the ring: one allocation */
}

int sink_new(struct cdc *c)
{
    c->sink.commits = calloc(SINK_RING, sizeof *c->sink.commits);
    c->sink.marks = calloc(1, SINK_RING * sizeof *c->sink.marks + sizeof(struct held));
    return c->sink.commits && c->sink.marks ? 0 : MUSTER_ENOMEM;
}

void sink_done(struct cdc *c)
{
    sink_reset(c);
    free(c->sink.commits);
    free(c->sink.marks);
    c->sink.commits = NULL;
    c->sink.marks = NULL;
}

void sink_reset(struct cdc *c)
{
    struct sink *s = &c->sink;

    if (s->stream)
        c->stream->close(c->host, s->stream);
    *s = (struct sink){.commits = s->commits, .marks = s->marks};
}

void sink_start(struct cdc *c, uint64_t seq, struct position tail)
{
    c->sink.sent = c->sink.acked = seq;
    c->sink.tail = tail;
}

/* Nothing may follow this one before an acknowledgement: it has to ask. */
static bool fills_window(const struct cdc *c, size_t n_bytes)
{
    const struct sink *s = &c->sink;

    return s->sent + 1 - s->acked >= (uint64_t)c->config->window_msgs ||
           s->sent_bytes + n_bytes - s->acked_bytes >= (uint64_t)c->config->window_bytes;
}

bool sink_is_full(const struct cdc *c)
{
    const struct sink *s = &c->sink;

    return s->sent - s->acked >= (uint64_t)c->config->window_msgs ||
           s->sent_bytes - s->acked_bytes >= (uint64_t)c->config->window_bytes || s->n_marks == SINK_RING ||
           s->n_commits == SINK_RING;
}

bool sink_is_busy(const struct cdc *c)
{
    return c->sink.n_marks >= SINK_BURSTS;
}

bool sink_is_idle(const struct cdc *c)
{
    return !c->sink.held && c->sink.n_commits == 0 && c->sink.sent == c->sink.acked;
}

int position_compare(struct position a, struct position b)
{
    if (a.lsn != b.lsn)
        return a.lsn < b.lsn ? -1 : 1;
    if (a.ordinal != b.ordinal)
        return a.ordinal < b.ordinal ? -1 : 1;
    return a.part < b.part ? -1 : a.part > b.part;
}

bool position_parse(const char *text, struct position *ret)
{
    unsigned int high, low, ordinal, part;
    int end = 0;

    if (sscanf(text, "%8x/%8x/%10u/%10u%n", &high, &low, &ordinal, &part, &end) != 4 || text[end] != '\0')
        return false;
    *ret = (struct position){(uint64_t)high << 32 | low, ordinal, part};
    return true;
}

bool sink_has(const struct cdc *c, struct position p)
{
    return position_compare(p, c->sink.tail) <= 0;
}

void sink_hold(struct cdc *c, const struct muster_append *append, struct position p)
{
    struct held *h = held_of(c);

    h->append = *append;
    h->n_bytes = append->payload.len + strlen(append->subject) + 256; /* headers: about that much */
    c->sink.held = true;
    c->sink.tail = p;
}

static void confirmable(struct cdc *c)
{
    struct sink *s = &c->sink;
    int64_t now = c->timer->now(c->host);

    while (s->n_commits && s->commits[s->commit_head].seq <= s->acked) {
        struct sink_commit *done = &s->commits[s->commit_head];

        s->frontier = done->end_lsn;
        if (done->received_ns)
            c->metrics->observe(c->host, c->m.commit_to_ack, now - done->received_ns);
        s->commit_head = (s->commit_head + 1) % SINK_RING;
        s->n_commits--;
    }
}

void sink_full(struct cdc *c)
{
    cdc_fault(c, MUSTER_HEALTH_DOWN, "stream_full",
              "NATS has no room for the stream; give JetStream more disk or lower `retention` or `max_bytes`");
}

static void append_failed(struct cdc *c, int code, uint64_t seq)
{
    if (code == MUSTER_ESTALE)
        cdc_fault(c, MUSTER_HEALTH_DEGRADED, "fenced", "another has written to the stream (its last sequence is %llu)",
                  (unsigned long long)seq);
    else if (code == MUSTER_ENOMEM)
        sink_full(c);
    else if (code == MUSTER_ENOTFOUND)
        cdc_fault(c, MUSTER_HEALTH_DOWN, "stream_missing", "nobody takes messages for the stream: it was deleted, or has no leader; it is made anew where it is missing");
    else
        cdc_fault(c, MUSTER_HEALTH_DOWN, "nats_away", "a change was not acknowledged (error %d); trying again", code);
}

/* Answers carry the generation they were asked in, so that those to an earlier life are not believed. */
static void on_ack(void *arg, int code, uint64_t seq)
{
    struct cdc_ask *ask = arg;
    struct cdc *c = cdc_ask_take(ask);
    struct sink *s;

    if (!c)
        return;
    s = &c->sink;
    if (code) {
        append_failed(c, code, seq);
        return;
    }
    while (s->n_marks && s->marks[s->mark_head].seq <= seq) {
        s->acked = s->marks[s->mark_head].seq;
        s->acked_bytes = s->marks[s->mark_head].bytes;
        s->mark_head = (s->mark_head + 1) % SINK_RING;
        s->n_marks--;
    }
    confirmable(c);
    cdc_proven(c);
    if (c->waits & PUMP_WAIT_ACK && !sink_is_busy(c))
        pump_resume(c, PUMP_WAIT_ACK);
    if (c->waits & PUMP_WAIT_WINDOW && !sink_is_full(c))
        pump_resume(c, PUMP_WAIT_WINDOW);
}

static int send(struct cdc *c, struct muster_append *append, bool ask_ack)
{
    struct cdc_ask *ask = NULL;
    int err;

    append->expected_seq = c->sink.sent;
    append->acked = NULL;
    if (ask_ack) {
        ask = cdc_ask_new(c);
        if (!ask)
            return MUSTER_ENOMEM;
        append->acked = on_ack;
        append->arg = ask;
    }
    err = c->stream->append(c->host, c->sink.stream, append);
    if (err && ask)
        (void)cdc_ask_take(ask); /* nobody will answer it */
    return err;
}

int sink_flush(struct cdc *c, bool last)
{
    struct sink *s = &c->sink;
    struct held *h = held_of(c);
    bool ask_ack;
    int err;

    if (!s->held)
        return 0;
    ask_ack = last || s->unmarked + 1 >= SINK_ACK_EVERY || fills_window(c, h->n_bytes);
    err = send(c, &h->append, ask_ack);
    if (err)
        return err;
    s->held = false;
    s->sent++;
    s->sent_bytes += h->n_bytes;
    s->unmarked = ask_ack ? 0 : s->unmarked + 1;
    if (ask_ack) {
        s->marks[(s->mark_head + s->n_marks) % SINK_RING] = (struct sink_mark){s->sent, s->sent_bytes};
        s->n_marks++;
    }
    c->metrics->add(c->host, c->m.published, NULL, 1);
    return 0;
}

void sink_commit(struct cdc *c, uint64_t end_lsn, int64_t received_ns)
{
    struct sink *s = &c->sink;
    uint64_t seq = s->sent + (s->held ? 1 : 0);
    struct sink_commit *last = s->n_commits ? &s->commits[(s->commit_head + s->n_commits - 1) % SINK_RING] : NULL;

    if (last && last->seq == seq) {
        last->end_lsn = end_lsn; /* it published nothing: both are safe at the same moment */
        return;
    }
    /* sink_is_full() keeps one place: a commit needs at most one a published message. */
    s->commits[(s->commit_head + s->n_commits) % SINK_RING] = (struct sink_commit){end_lsn, seq, received_ns};
    s->n_commits++;
    confirmable(c);
}
