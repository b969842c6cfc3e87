/* One message of a stream, to the watches that it is for; see watch.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/watch.h"

enum { SUBJECT_SIZE = 512 };

struct passing {
    struct feed *feed;
    const struct muster_msg *msg;
    const char *subject;
    struct row *row;  /* NULL until somebody wants it */
    bool unreadable;
    int64_t now_ns;   /* 0: nobody has asked */
    bool asked, held; /* whether the shard's lease is still held: asked when something is for somebody */
};

/* What presence stores as pres.<n>.… agents hear as evt.presence.…. */
static const char *heard_as(const struct muster_msg *msg, char room[SUBJECT_SIZE])
{
    const char *rest = strncmp(msg->subject, "pres.", 5) == 0 ? strchr(msg->subject + 5, '.') : NULL;

    if (!rest)
        return msg->subject;
    (void)snprintf(room, SUBJECT_SIZE, "evt.presence%s", rest);
    return room;
}

static struct row *row_of(struct passing *p)
{
    struct watches *ws = p->feed->ws;
    struct span body = {p->msg->payload.data, p->msg->payload.len};

    if (p->row || p->unreadable)
        return p->row;
    if (row_read(&ws->row, body))
        p->row = &ws->row;
    else
        p->unreadable = true;
    return p->row;
}

static bool is_held(struct passing *p, const struct tap *tap)
{
    if (!p->asked)
        p->held = shard_is_held(tap->w->ws, tap->w->shard);
    p->asked = true;
    return p->held;
}

static void withhold(struct tap *tap, const struct passing *p)
{
    outlet_gap(tap->w, "withheld", "", message_number(p->msg, "Muster-Epoch"), message_number(p->msg, "Muster-Seq"));
}

/* BATCH_*. */
static int put(struct tap *tap, struct passing *p, int outcome)
{
    struct note *note = outlet_note(tap, p->subject, p->msg, p->row, outcome);
    const struct fanout *f = tap->w->ws->f;
    int taken;

    if (!note) {
        outlet_gap(tap->w, "no_memory", "", 0, 0);
        return BATCH_TAKEN;
    }
    tap_stray(tap);
    p->now_ns = p->now_ns ? p->now_ns : f->timer->now(f->host);
    taken = batch_push(&tap->w->batch, note, p->now_ns);
    if (taken == BATCH_FULL)
        note_free(note);
    else if (taken == BATCH_CUT)
        watch_end(tap->w, "cut");
    else
        outlet_mark(tap->w);
    return taken;
}

static void offer(struct tap *tap, struct passing *p, int outcome)
{
    if (tap->w->ended || p->msg->seq <= tap->pos || !is_held(p, tap))
        return;
    if (tap->reader) {
        reader_missed(tap->reader);
        return;
    }
    tap->w->ws->matched++;
    if (outcome == INDEX_WITHHELD) {
        withhold(tap, p);
        return;
    }
    if (put(tap, p, outcome) == BATCH_FULL)
        tap->waits = tap_apart(tap, p->msg->seq - 1);
}

static void on_match(void *arg, struct index_entry *entry, int outcome)
{
    offer((struct tap *)(void *)entry, arg, outcome);
}

static bool wants(const struct tap *tap, const char *subject)
{
    for (size_t i = 0; i < tap->n_patterns; i++)
        if (pattern_matches(tap->patterns[i].text, subject))
            return true;
    return false;
}

/* A column is gone or of another type: the filter was read for one that is no more, and whoever asked for it must say what it wants now. */
static void check_fit(void *arg, struct index_entry *entry, int outcome)
{
    struct passing *p = arg;
    struct tap *tap = (struct tap *)(void *)entry;

    (void)outcome;
    if (p->msg->seq > tap->pos && !filter_fits(entry->filter, p->row) && is_held(p, tap))
        watch_end(tap->w, "table_changed");
}

static void look_at(struct passing *p, struct node *node)
{
    struct watches *ws = p->feed->ws;

    if (node->table && row_of(p)) {
        if (p->row->members[ROW_M_COLUMNS].len)
            table_index_each(node->table, check_fit, p);
        table_index_match(node->table, p->row, on_match, p);
        ws->looked_at += table_index_looked_at(node->table);
    }
    for (size_t i = 0; i < node->n_taps; i++) {
        struct tap *tap = node->taps[i];

        if (tap->feed != p->feed || tap->serial == ws->serial)
            continue;
        tap->serial = ws->serial;
        if (wants(tap, p->subject))
            offer(tap, p, INDEX_MATCH);
    }
}

/* ---- channels ------------------------------------------------------------------------------------------------------------------ */

struct hole {
    struct passing *p;
    const char *reason, *channel;
    uint64_t epoch, seq;
};

static void tell_hole(void *arg, struct tap *tap)
{
    const struct hole *h = arg;

    if (tap->feed == h->p->feed && !tap->reader && !tap->w->ended && is_held(h->p, tap))
        outlet_gap(tap->w, h->reason, h->channel, h->epoch, h->seq);
}

/* NULL: it is of no channel. */
static struct channel_place *place_of(struct passing *p, struct route *r)
{
    if (!r->channel && r->channel_len)
        r->channel = channel_at(p->feed->ws, p->msg->tenant, p->subject, r->channel_len, true);
    return r->channel;
}

/* A new epoch of presence begins with each holder of its shard; its own events say so. */
static void track(struct passing *p, struct route *r)
{
    uint64_t seq = r->channel_len ? message_number(p->msg, "Muster-Seq") : 0, epoch = seq ? message_number(p->msg, "Muster-Epoch") : 0;
    struct channel_place *channel = seq ? place_of(p, r) : NULL;
    char name[SOURCE_CHANNEL_SIZE];
    struct hole hole = {p, NULL, name, epoch, seq};

    if (!channel || (epoch == channel->epoch && seq <= channel->seq))
        return;
    if (channel->epoch && epoch != channel->epoch)
        hole.reason = "epoch";
    else if (channel->epoch && seq != channel->seq + 1)
        hole.reason = "hole";
    *channel = (struct channel_place){epoch, seq};
    if (!hole.reason)
        return;
    (void)snprintf(name, sizeof name, "%.*s", (int)r->channel_len, p->subject);
    channel_taps(p->feed->ws, p->msg->tenant, name, tell_hole, &hole);
}

/* ---- one message --------------------------------------------------------------------------------------------------------------- */

/* Where there are more of them than a route has. */
static void look_at_all(struct passing *p)
{
    for (const char *dot = p->subject; *dot; dot += *dot == '.') {
        struct node *node;

        dot += strcspn(dot, ".");
        node = node_get(p->feed->ws, p->msg->tenant, p->subject, (size_t)(dot - p->subject), false);
        if (node)
            look_at(p, node);
    }
}

void dispatch_message(struct feed *feed, const struct muster_msg *msg, const struct reader *only)
{
    struct watches *ws = feed->ws;
    char room[SUBJECT_SIZE];
    struct passing p = {.feed = feed, .msg = msg, .subject = heard_as(msg, room)};
    struct route *r = route_of(ws, msg->tenant, p.subject);
    struct reader *catching = r->watched ? feed->catching[r->shard] : NULL;

    if (!r->watched)
        return;
    if (only && catching != only) /* it reads for one shard, whose streams have messages of others, too */
        return;
    if (catching && !only) {
        reader_missed(catching);
        return;
    }
    ws->serial++;
    ws->passed++;
    outlet_next(ws);
    track(&p, r);
    if (r->n_nodes > ROUTE_NODES)
        look_at_all(&p);
    for (size_t i = 0; r->n_nodes <= ROUTE_NODES && i < r->n_nodes; i++)
        look_at(&p, r->nodes[i]);
}

bool dispatch_to(struct tap *tap, const struct muster_msg *msg)
{
    char room[SUBJECT_SIZE];
    struct passing p = {.feed = tap->feed, .msg = msg, .subject = heard_as(msg, room)};
    int outcome = -1;

    if (tap->w->ended || !shard_is_held(tap->w->ws, tap->w->shard))
        return true;
    outlet_next(tap->w->ws);
    if (!tap->w->filter)
        outcome = wants(tap, p.subject) ? INDEX_MATCH : -1;
    else if (row_of(&p))
        outcome = index_outcome(&tap->entry, p.row);
    if (outcome == INDEX_WITHHELD)
        withhold(tap, &p);
    else if (outcome >= 0 && put(tap, &p, outcome) == BATCH_FULL) {
        tap->waits = true;
        return false;
    }
    return true;
}
