/*
 * The events of shards that others hold. A list that the holder answers is the beginning; events go on from its position. An event that is
 * not the next one, an epoch that is not known, or a head notice that is ahead leads to another list. What comes while a list is under way
 * is held, and applied after it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "presence/agent.h"
#include "presence/presence.h"

enum { EVENTS_MAX = 65536, EVENTS_BYTES = 64 << 20, HEADS_MAX = 4096, HELD_MAX = 1024, ASKING_MAX = 32, FAILED_MAX = 2 };
static const int64_t answer_ns = 2 * CLOCK_S, patience_ns = CLOCK_S;

struct held {
    struct held *next;
    const struct muster_msg *msg;
    struct event_place place;
};

/* A question for a page of a list. */
struct page {
    struct tenancy *t;
    uint32_t round;
};

static void drop_held(struct tenancy *t)
{
    while (t->held) {
        struct held *h = t->held;

        t->held = h->next;
        t->p->bus->drop(t->p->host, h->msg);
        free(h);
    }
    t->held_end = &t->held;
    t->n_held = 0;
}

void follow_end(struct tenancy *t)
{
    if (t->follow == FOLLOW_ASKING)
        t->p->n_asking--;
    t->round++;
    if (t->follow == FOLLOW_ASKING)
        t->follow = FOLLOW_UNKNOWN;
    drop_held(t);
}

/* ---- lists ---------------------------------------------------------------------------------------------------------------------- */

static void ask_page(struct tenancy *t, const char *after);

/* Not now; the tick asks again, or the next event. */
static void give_up(struct tenancy *t)
{
    follow_end(t);
    t->asked_ns = t->p->timer->now(t->p->host);
    t->n_failed += t->n_failed < FAILED_MAX;
}

static void take_agents(struct tenancy *t, const struct muster_value *agents)
{
    const struct muster_codec *codec = t->p->codec;

    for (size_t i = 0; agents && i < codec->count(agents); i++) {
        struct said said;
        struct agent *a;

        if (said_read(t->p, codec->at(agents, i), &said) != 0)
            continue;
        a = apply_present(t, KIND_STATUS, &said);
        if (a)
            a->round = t->round;
        said_done(&said);
    }
}

/* Who was not in the list is not here any more. */
static void sweep(struct tenancy *t)
{
    struct agent *a;

    for (size_t i = 0; agent_next(t, &i, &a);)
        if (a->round != t->round)
            apply_leave(t, a->name, INT64_MAX, NULL);
}

static void go_on(struct tenancy *t, const struct event_place *place, bool contiguous, const struct muster_msg *msg);

static void take_held(struct tenancy *t)
{
    struct held *list = t->held;

    t->held = NULL;
    t->held_end = &t->held;
    t->n_held = 0;
    while (list) {
        struct held *h = list;

        list = h->next;
        go_on(t, &h->place, false, h->msg);
        t->p->bus->drop(t->p->host, h->msg);
        free(h);
    }
}

static void listed(struct tenancy *t)
{
    sweep(t);
    t->epoch = t->list_epoch;
    t->seq = t->list_seq;
    t->covered = t->list_stream;
    t->follow = FOLLOW_LIVE;
    t->n_failed = 0;
    t->p->n_asking--;
    take_held(t);
}

static uint64_t number(const struct muster_codec *codec, const struct muster_value *body, const char *key)
{
    const struct muster_value *v = codec->get(body, key);

    return v ? (uint64_t)codec->as_int(v) : 0;
}

/* Pages under two epochs are no one list. */
static void take_page(struct tenancy *t, const struct muster_value *body)
{
    const struct muster_codec *codec = t->p->codec;
    const struct muster_value *next = codec->get(body, "next");
    uint64_t epoch = number(codec, body, "epoch");
    size_t len;

    if (codec->get(body, "error") || !epoch || (t->list_epoch && epoch != t->list_epoch)) {
        give_up(t);
        return;
    }
    if (!t->list_epoch) {
        t->list_epoch = epoch;
        t->list_seq = number(codec, body, "seq");
        t->list_stream = codec->get(body, "stream") ? number(codec, body, "stream") : UINT64_MAX; /* 0.5.0 does not tell */
    }
    take_agents(t, codec->get(body, "agents"));
    if (next)
        ask_page(t, codec->as_str(next, &len));
    else
        listed(t);
}

static void on_page(void *arg, int code, const struct muster_msg *msg)
{
    struct page *page = arg;
    struct tenancy *t = page->round == page->t->round ? page->t : NULL;
    struct muster_value *body;

    free(page);
    if (!t || t->follow != FOLLOW_ASKING)
        return;
    if (code || t->p->codec->decode(t->p->host, msg->encoding, msg->payload, &body) != 0) {
        give_up(t);
        return;
    }
    take_page(t, body);
    t->p->codec->free_doc(body);
}

static void ask_page(struct tenancy *t, const char *after)
{
    struct presence *p = t->p;
    struct page *page = malloc(sizeof *page);
    char body[96];
    struct muster_publication pub = {.size = sizeof pub, .tenant = t->tenant, .subject = "rpc." PRESENCE_ITSELF ".presence.list"};
    int n = after ? snprintf(body, sizeof body, "{\"limit\":%d,\"after\":\"%.40s\"}", PAGE, after)
                  : snprintf(body, sizeof body, "{\"limit\":%d}", PAGE);

    pub.payload = (struct muster_bytes){body, (size_t)n};
    if (page)
        *page = (struct page){t, t->round};
    if (page && p->bus->request(p->host, &pub, answer_ns, on_page, page) == 0)
        return;
    free(page);
    give_up(t);
}

static void ask(struct tenancy *t, const char *why)
{
    struct presence *p = t->p;

    if (t->follow == FOLLOW_ASKING)
        return;
    if (t->follow == FOLLOW_LIVE)
        p->metrics->add(p->host, p->m.gaps, NULL, 1);
    t->follow = FOLLOW_UNKNOWN;
    if (p->n_asking >= ASKING_MAX || !p->link_up || p->draining)
        return;
    p->metrics->add(p->host, p->m.lists, why, 1);
    p->n_asking++;
    t->round++;
    t->list_epoch = 0;
    t->asked_ns = p->timer->now(p->host);
    t->follow = FOLLOW_ASKING;
    ask_page(t, NULL);
}

/* ---- events --------------------------------------------------------------------------------------------------------------------- */

static void hold(struct tenancy *t, const struct event_place *place, const struct muster_msg *msg)
{
    struct held *h = t->n_held < HELD_MAX ? malloc(sizeof *h) : NULL;

    if (!h || t->p->bus->hold(t->p->host, msg, &h->msg) != 0) {
        free(h);
        give_up(t);
        return;
    }
    h->next = NULL;
    h->place = *place;
    *t->held_end = h;
    t->held_end = &h->next;
    t->n_held++;
}

/* contiguous: nothing of the stream is missing since the event before, of whatever tenant; so a new epoch that begins here is no gap. */
static void go_on(struct tenancy *t, const struct event_place *place, bool contiguous, const struct muster_msg *msg)
{
    bool next = place->epoch == t->epoch && place->seq == t->seq + 1;
    bool begins = place->epoch > t->epoch && place->seq == 1 && contiguous;

    if (t->follow != FOLLOW_LIVE)
        return; /* one before it was a gap */
    if (place_is_late(t, place)) {
        apply_late(t, place, msg);
        t->covered = place->stream_seq;
        return;
    }
    if (place->epoch < t->epoch || (place->epoch == t->epoch && place->seq <= t->seq))
        return;
    if (next || begins) {
        apply_message(t, place, msg);
        return;
    }
    ask(t, place->epoch == t->epoch ? "gap" : "epoch");
    if (t->follow == FOLLOW_ASKING)
        hold(t, place, msg);
}

/* What did not take effect here, because a list was needed first, is read from the stream if its holder dies meanwhile. */
static void note_sequence(struct tenancy *t, uint64_t seq, bool contiguous)
{
    struct shard *s = t->shard;

    s->heard = seq;
    if (contiguous && t->follow == FOLLOW_LIVE)
        s->acked = seq;
    else if (!s->hole_ns)
        s->hole_ns = s->p->timer->now(s->p->host);
}

static int on_event(void *self, const struct muster_msg *msg)
{
    struct presence *p = self;
    struct tenancy *t = tenancy_of(p, msg->tenant);
    struct event_place place;
    bool contiguous;

    if (!t)
        return MUSTER_ENOMEM;
    if (!place_read(msg, &place))
        return 0;
    if (t->shard->state != SHARD_FOLLOWS) {
        shard_hears(t->shard, &place);
        return 0;
    }
    contiguous = !t->shard->hole_ns && place.stream_seq == t->shard->acked + 1;
    if (t->follow == FOLLOW_UNKNOWN)
        ask(t, "start");
    if (t->follow == FOLLOW_ASKING)
        hold(t, &place, msg);
    else
        go_on(t, &place, contiguous, msg);
    note_sequence(t, place.stream_seq, contiguous);
    return 0;
}

/* ---- head notices --------------------------------------------------------------------------------------------------------------- */

/* A new epoch in which nothing was told begins where all of the stream has been heard: the roster here is the holder's. */
static bool begins_here(const struct tenancy *t, uint64_t seq, uint64_t stream)
{
    const struct shard *s = t->shard;

    return !seq && stream && !s->hole_ns && s->acked >= stream;
}

static void take_epoch(struct tenancy *t, uint64_t epoch, uint64_t stream)
{
    t->epoch = epoch;
    t->seq = 0;
    t->covered = stream;
}

static int on_head(void *self, const struct muster_msg *msg)
{
    struct presence *p = self;
    struct tenancy *t = tenancy_of(p, msg->tenant);
    const struct muster_value *head;
    struct muster_value *body;
    uint64_t epoch, seq;

    if (!t || t->shard->state != SHARD_FOLLOWS || t->follow != FOLLOW_LIVE || !memmem(msg->payload.data, msg->payload.len, "evt.presence", 12))
        return 0;
    if (p->codec->decode(p->host, msg->encoding, msg->payload, &body) != 0)
        return 0;
    head = p->codec->get(body, "evt.presence");
    epoch = head ? number(p->codec, head, "epoch") : 0;
    seq = head ? number(p->codec, head, "seq") : 0;
    if (epoch > t->epoch && begins_here(t, seq, header_number(msg, PRESENCE_STREAM)))
        take_epoch(t, epoch, header_number(msg, PRESENCE_STREAM));
    else if (epoch > t->epoch || (epoch == t->epoch && seq > t->seq))
        ask(t, "head");
    p->codec->free_doc(body);
    return 0;
}

/* ---- life ----------------------------------------------------------------------------------------------------------------------- */

void follow_again(struct presence *p)
{
    struct tenancy *t;

    for (size_t i = 0; tenancy_next(p, &i, &t);)
        if (t->shard->state == SHARD_FOLLOWS) {
            follow_end(t);
            t->follow = FOLLOW_UNKNOWN;
            t->asked_ns = 0;
        }
}

bool follow_tick(struct tenancy *t, int64_t now_ns)
{
    if (t->shard->state != SHARD_FOLLOWS || t->follow == FOLLOW_LIVE)
        return false;
    if (t->follow == FOLLOW_UNKNOWN && now_ns - t->asked_ns >= patience_ns << t->n_failed)
        ask(t, "start");
    return true;
}

int follow_start(struct presence *p)
{
    struct muster_subscription sub = {.size = sizeof sub,
                                      .overflow = MUSTER_OVERFLOW_DROP_NEW,
                                      .subject = "evt.presence.>",
                                      .max_msgs = EVENTS_MAX,
                                      .max_bytes = EVENTS_BYTES,
                                      .fn = on_event};
    uint64_t id;
    int err = p->bus->subscribe(p->host, &sub, &id);

    sub.subject = "evt._.head";
    sub.max_msgs = HEADS_MAX;
    sub.fn = on_head;
    return err ? err : p->bus->subscribe(p->host, &sub, &id);
}
