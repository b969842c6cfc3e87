/*
 * The lease and the fenced stream of each shard. Every broker contends for every shard; who has the lease opens the stream, reads what it
 * has not followed of it, and then decides for the tenants of the shard. Where no broker knew the roster, because all were gone, it
 * is read from agent_sessions first.
 *
 * An append that is not acknowledged leads to the same: the stream says what is stored.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "common/peers.h"
#include "presence/presence.h"

static const int64_t retry_ns = 250 * CLOCK_MS, refused_ns = CLOCK_S, keep_ns = 3600 * CLOCK_S, lease_ns = 15 * CLOCK_S;
static const int64_t spread_ns = 20 * CLOCK_MS; /* between the places in which brokers contend for a shard */
static const int64_t rest_ns = 1500 * CLOCK_MS; /* until who let a shard go contends for it again */
static const int64_t hole_ns = 15 * CLOCK_S;    /* thrice the interval of head notices: an event that is missing has been told of */
enum { TAIL_BATCH = 1000 };

/* Who asked, and in which life of the shard. */
struct question {
    struct shard *s;
    uint32_t generation;
};

static struct question *question_new(struct shard *s)
{
    struct question *q = malloc(sizeof *q);

    if (q)
        *q = (struct question){s, s->generation};
    return q;
}

static struct shard *question_take(struct question *q)
{
    struct shard *s = q->generation == q->s->generation ? q->s : NULL;

    free(q);
    return s;
}

static bool tenancy_of_shard(struct shard *s, size_t *at, struct tenancy **ret_tenancy)
{
    while (tenancy_next(s->p, at, ret_tenancy))
        if ((*ret_tenancy)->shard == s)
            return true;
    return false;
}

static void count_shards(struct presence *p)
{
    int64_t n = 0;

    for (uint32_t i = 0; i < SHARDS; i++)
        n += p->shards[i].state == SHARD_LEADS;
    p->metrics->set(p->host, p->m.shards, NULL, n);
}

/* ---- leading -------------------------------------------------------------------------------------------------------------------- */

/* What is told from now on is told under this epoch. */
static void begin_epoch(struct shard *s, struct tenancy *t)
{
    if (t->epoch != s->epoch) {
        t->epoch = s->epoch;
        t->seq = t->count_seq = 0;
    }
    t->sent_seq = t->seq;
    t->follow = FOLLOW_LIVE;
}

/* Nobody knew them but what was stored: they are to be heard of, first. */
static void doubt_restored(struct shard *s, struct tenancy *t)
{
    struct agent *a;

    for (size_t i = 0; agent_next(t, &i, &a);)
        a->restored = s->unknown && !a->heard;
}

static void lead(struct shard *s)
{
    struct tenancy *t;
    bool first = !s->led;

    s->state = SHARD_LEADS;
    s->led = true;
    s->sent = s->acked = s->last;
    s->hole_ns = 0;
    for (size_t i = 0; tenancy_of_shard(s, &i, &t);) {
        begin_epoch(s, t);
        if (first)
            doubt_restored(s, t);
    }
    count_shards(s->p);
    if (first)
        death_leads(s, true);
    for (size_t i = 0; tenancy_of_shard(s, &i, &t);)
        changes_run(t);
    asks_answer(s);
}

/* Something was not possible: again from the beginning, after a moment. */
static void again(struct shard *s)
{
    s->generation++;
    s->retry_ns = s->p->timer->now(s->p->host) + (s->p->stream_code ? refused_ns : retry_ns);
}

/* ---- the tail ------------------------------------------------------------------------------------------------------------------- */

static void read_tail(struct shard *s);

/* What the tenancy knows already, by a list or because it followed, is passed over. Since it leads all is new: of an older epoch, too. */
static void take_tail(struct shard *s, const struct muster_msg *msg)
{
    struct tenancy *t = msg->tenant ? tenancy_of(s->p, msg->tenant) : NULL;
    struct event_place place;

    s->acked = msg->seq;
    if (!t || t->shard != s || !place_read(msg, &place))
        return;
    if (s->led ? place.epoch < s->epoch : place_is_late(t, &place))
        apply_late(t, &place, msg);
    else if (place.epoch > t->epoch || (place.epoch == t->epoch && place.seq > t->seq))
        apply_message(t, &place, msg);
}

static void on_tail(void *arg, int code, const struct muster_msg *msg)
{
    struct question *q = arg;
    struct shard *s = q->generation == q->s->generation ? q->s : NULL;

    if (!code && msg) {
        if (s)
            take_tail(s, msg);
        return;
    }
    s = question_take(q);
    if (!s)
        return;
    if (code && code != MUSTER_ENOTFOUND) {
        again(s);
        return;
    }
    if (s->acked > s->last)
        s->last = s->acked; /* somebody wrote meanwhile */
    if (!code)
        read_tail(s);
    else if (s->newest > s->last)
        again(s); /* it was heard and is not there: the stream was made anew */
    else
        lead(s);
}

static void read_tail(struct shard *s)
{
    struct question *q;

    s->state = SHARD_TAIL;
    if (s->acked >= s->last && s->acked >= s->newest) {
        lead(s);
        return;
    }
    q = question_new(s);
    if (q && s->p->stream->read(s->p->host, s->stream, NULL, NULL, s->acked + 1, TAIL_BATCH, on_tail, q) == 0)
        return;
    free(q);
    again(s);
}

/* ---- opening -------------------------------------------------------------------------------------------------------------------- */

/* True when all that the tenants of the shard had was known here. */
static bool is_known(struct shard *s)
{
    struct tenancy *t;

    for (size_t i = 0; tenancy_of_shard(s, &i, &t);)
        if (tenancy_is(t) && t->follow != FOLLOW_LIVE)
            return false;
    return true;
}

void shard_loaded(struct shard *s, int code)
{
    if (s->state != SHARD_LOADING)
        return;
    s->not_loaded = code != 0;
    if (code) {
        again(s);
        return;
    }
    s->loaded = true;
    read_tail(s);
}

/* The stream's state is known: what is missing here is read. */
static void catch_up(struct shard *s, const struct muster_stream_info *info)
{
    s->last = info->last_seq;
    if (s->acked > info->last_seq)
        s->acked = 0; /* it was made anew */
    if (s->acked + 1 < info->first_seq)
        s->acked = info->first_seq - 1;
    if (s->loaded) {
        read_tail(s);
        return;
    }
    s->state = SHARD_LOADING;
    sessions_load(s);
}

/* Kept for wellbeing.c. */
static void refused(struct shard *s, int code)
{
    struct presence *p = s->p;
    char name[] = "PRES_15";

    (void)snprintf(name, sizeof name, "PRES_%u", s->n % SHARDS);
    p->stream_code = code == MUSTER_EAGAIN ? PEERS_FEW : code == MUSTER_EEXIST ? "stream_foreign" : "stream_missing";
    if (code == MUSTER_EAGAIN)
        (void)snprintf(p->stream_fault, sizeof p->stream_fault, PEERS_FEW_TEXT, name, (long long)p->config->replicas);
    else if (code == MUSTER_EEXIST)
        (void)snprintf(p->stream_fault, sizeof p->stream_fault, "stream %s is there with other settings", name);
    else
        (void)snprintf(p->stream_fault, sizeof p->stream_fault, "stream %s could not be opened (error %d)", name, code);
}

static void on_info(void *arg, int code, const struct muster_stream_info *info)
{
    struct shard *s = question_take(arg);

    if (!s)
        return;
    if (!code) {
        s->p->stream_code = NULL;
        catch_up(s, info);
        return;
    }
    if (s->stream && code != MUSTER_ELINK && code != MUSTER_ETIME) {
        s->p->stream->close(s->p->host, s->stream); /* opened anew, and made */
        s->stream = 0;
        if (code != MUSTER_ENOTFOUND)
            refused(s, code);
    }
    again(s);
}

static int open_stream(struct shard *s, struct question *q)
{
    char name[] = "PRES_15", subjects[] = "pres.15.>";
    const struct muster_stream_options options = {.size = sizeof options,
                                                  .replicas = (uint32_t)s->p->config->replicas,
                                                  .name = name,
                                                  .subjects = subjects,
                                                  .max_age_ns = keep_ns,
                                                  .republish = "evt.presence.>"};

    (void)snprintf(name, sizeof name, "PRES_%u", s->n % SHARDS);
    (void)snprintf(subjects, sizeof subjects, "pres.%u.>", s->n % SHARDS);
    return s->p->stream->open(s->p->host, &options, on_info, q, &s->stream);
}

/* The lease is held: look at the stream. */
static void begin(struct shard *s)
{
    struct question *q;
    int err;

    s->retry_ns = 0;
    s->newest = 0;
    s->state = SHARD_OPENING;
    q = question_new(s);
    err = !q ? MUSTER_ENOMEM : s->stream ? s->p->stream->info(s->p->host, s->stream, on_info, q) : open_stream(s, q);
    if (!err)
        return;
    free(q);
    again(s);
}

static void read_again(struct shard *s)
{
    struct tenancy *t;

    s->state = SHARD_OPENING;
    again(s);
    for (size_t i = 0; tenancy_of_shard(s, &i, &t);)
        changes_take_back(t);
}

static void overtaken(struct shard *s)
{
    s->p->host->log(s->p->host, MUSTER_LOG_INFO, "who held shard %u before has stored an event late; reading the stream again", s->n);
    read_again(s);
}

void shard_hears(struct shard *s, const struct event_place *place)
{
    s->heard = place->stream_seq;
    if (s->state != SHARD_LEADS)
        s->newest = place->stream_seq > s->newest ? place->stream_seq : s->newest;
    else if (place->epoch < s->epoch && place->stream_seq > s->acked)
        overtaken(s);
}

void shard_failed(struct shard *s, int code)
{
    if (s->state != SHARD_LEADS)
        return;
    s->p->metrics->add(s->p->host, s->p->m.failed, NULL, 1);
    s->p->host->log(s->p->host, MUSTER_LOG_WARN, "an event of shard %u was not stored (error %d); reading the stream again", s->n, code);
    read_again(s);
}

/* ---- the lease ------------------------------------------------------------------------------------------------------------------ */

static void on_got(void *arg, uint64_t epoch)
{
    struct shard *s = arg;
    struct tenancy *t;

    s->epoch = epoch;
    s->led = false;
    s->unknown = !is_known(s);
    s->loaded = !s->unknown;
    s->not_loaded = false;
    s->generation++;
    for (size_t i = 0; tenancy_of_shard(s, &i, &t);)
        follow_end(t);
    begin(s);
}

/* What is under way may be stored or not: who has such tenants asks the next holder. */
static void follow_on(struct shard *s)
{
    struct tenancy *t;
    bool whole = s->state == SHARD_LEADS;

    s->generation++;
    s->state = SHARD_FOLLOWS;
    s->retry_ns = 0;
    s->p->stream_code = NULL;
    for (size_t i = 0; tenancy_of_shard(s, &i, &t);) {
        if (!whole || t->flights)
            t->follow = FOLLOW_UNKNOWN;
        t->covered = s->acked;
        changes_drop(t);
    }
    asks_refuse(s, INT64_MAX);
    if (s->heard != s->acked)
        s->hole_ns = s->p->timer->now(s->p->host);
    count_shards(s->p);
}

static void end_lead(struct shard *s)
{
    follow_on(s);
    if (s->led)
        death_leads(s, false);
    s->led = false;
}

static void on_lost(void *arg, int code)
{
    struct shard *s = arg;

    s->p->host->log(s->p->host, MUSTER_LOG_INFO, "shard %u is another's now (error %d)", s->n, code);
    end_lead(s);
}

static void contend(struct shard *s)
{
    char name[] = "shard.15";
    const struct muster_lease_options options = {
        .size = sizeof options, .name = name, .ttl_ns = lease_ns, .on_got = on_got, .on_lost = on_lost, .arg = s};

    (void)snprintf(name, sizeof name, "shard.%u", s->n % SHARDS);
    if (s->p->lease->acquire(s->p->host, &options, &s->lease) == 0)
        s->contend_ns = 0;
}

static bool is_idle(struct shard *s)
{
    struct tenancy *t;

    for (size_t i = 0; tenancy_of_shard(s, &i, &t);)
        if (t->waiting || t->flights)
            return false;
    return true;
}

static bool let_go(struct shard *s)
{
    if (s->state != SHARD_LEADS || !is_idle(s))
        return false;
    s->p->lease->release(s->p->host, s->lease);
    s->lease = 0;
    s->contend_ns = s->p->timer->now(s->p->host) + rest_ns;
    end_lead(s);
    return true;
}

/* ---- how many are held ----------------------------------------------------------------------------------------------------------- */

static uint32_t count_held(void *arg)
{
    const struct presence *p = arg;
    uint32_t n = 0;

    for (uint32_t i = 0; i < SHARDS; i++)
        n += p->shards[i].state != SHARD_FOLLOWS;
    return n;
}

static bool let_go_of(void *arg, uint32_t n)
{
    struct presence *p = arg;

    return let_go(&p->shards[n]);
}

static bool holds(void *arg, uint32_t n)
{
    const struct presence *p = arg;

    return p->shards[n].state == SHARD_LEADS;
}

static void stand_back(void *arg, uint32_t n, int64_t until_ns)
{
    struct presence *p = arg;
    struct shard *s = &p->shards[n];

    if (s->state != SHARD_FOLLOWS)
        return;
    if (s->lease)
        p->lease->release(p->host, s->lease);
    s->lease = 0;
    s->contend_ns = until_ns;
}

struct shares_how shards_how(struct presence *p)
{
    return (struct shares_how){
        .host = p->host, .kv = p->kv, .timer = p->timer, .n_shards = SHARDS, .held = count_held, .holds = holds,
        .let_go = let_go_of, .stand_back = stand_back, .arg = p};
}

/* ---- what the host calls --------------------------------------------------------------------------------------------------------- */

/* Brokers that start together each begin with other shards. */
void shards_start(struct presence *p)
{
    int64_t now = p->timer->now(p->host);
    uint32_t first = shard_of(p->host->broker_id);

    for (uint32_t i = 0; i < SHARDS; i++) {
        p->shards[i].contend_ns = now + spread_ns * ((i + SHARDS - first) % SHARDS);
        p->shards[i].hole_ns = now;
    }
}

/* Since that long nothing was missing: the stream is followed from here on. */
static void close_hole(struct shard *s, int64_t now_ns)
{
    if (!s->hole_ns || now_ns - s->hole_ns < hole_ns || s->state != SHARD_FOLLOWS)
        return;
    s->acked = s->heard;
    s->hole_ns = 0;
}

void shards_tick(struct presence *p, int64_t now_ns, const uint32_t missing[SHARDS])
{
    for (uint32_t i = 0; i < SHARDS; i++) {
        struct shard *s = &p->shards[i];

        if (s->contend_ns && now_ns >= s->contend_ns && p->link_up && p->tenants_known && !p->draining)
            contend(s);
        if (s->retry_ns && now_ns >= s->retry_ns)
            begin(s);
        if (!missing[i])
            close_hole(s, now_ns);
        asks_refuse(s, now_ns);
        if (p->draining)
            (void)let_go(s);
    }
}
