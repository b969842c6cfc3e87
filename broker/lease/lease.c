/* A contender for a lease; see lease.h. */
#include "lease/lease.h"

#include <muster/plugin.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

enum { RENEWALS = 5, LOOKS = 4, DRIFT = 100, RETRIES = 20 }; /* parts of a ttl */
static const int64_t soon_ns = 100 * CLOCK_MS, stored_ns = 50 * CLOCK_MS, retry_max_ns = CLOCK_S;

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static bool is_mine(const struct lease *l)
{
    return strcmp(l->record.holder, l->me) == 0;
}

static bool is_at(const struct lease_at *a, const struct lease_at *b)
{
    return a->client && a->client == b->client && strcmp(a->server, b->server) == 0;
}

static bool is_elsewhere(const struct lease_record *record, const struct lease_at at[LEASE_N_AT])
{
    for (int i = 0; i < LEASE_N_AT; i++)
        if (at[i].client && !is_at(&record->at[i], &at[i]))
            return true;
    return false;
}

static int64_t retry_ns(const struct lease *l)
{
    return min64(l->ttl_ns / RETRIES, retry_max_ns);
}

void lease_init(struct lease *l, const char *me, int64_t ttl_ns, int64_t now_ns)
{
    *l = (struct lease){.ttl_ns = ttl_ns, .due_ns = now_ns};
    (void)snprintf(l->me, sizeof l->me, "%s", me);
}

uint64_t lease_epoch(const struct lease *l, int64_t now_ns)
{
    return now_ns < l->until_ns ? l->epoch : 0;
}

static void lose(struct lease *l, int code)
{
    l->ended = l->epoch;
    l->epoch = 0;
    l->lost_code = code;
}

/* Ask the bucket before anything else is done. */
static void doubt(struct lease *l, int64_t due_ns)
{
    l->known = false;
    l->due_ns = due_ns;
}

struct lease_event lease_event(struct lease *l, int64_t now_ns)
{
    if (l->epoch && now_ns >= l->until_ns) {
        lose(l, MUSTER_ETIME);
        doubt(l, now_ns);
    }
    if (l->told_epoch && l->told_epoch != l->epoch) {
        l->told_epoch = 0;
        return (struct lease_event){.what = LEASE_LOST, .code = l->lost_code};
    }
    if (l->epoch && !l->told_epoch) {
        l->told_epoch = l->epoch;
        return (struct lease_event){.what = LEASE_GOT, .epoch = l->epoch};
    }
    return (struct lease_event){.what = LEASE_NOTHING};
}

/* ---- what is to be done ---------------------------------------------------------------------------------------------- */

static struct lease_step wait_until(int64_t due_ns)
{
    return (struct lease_step){.what = LEASE_WAIT, .due_ns = due_ns};
}

static struct lease_step read_now(struct lease *l)
{
    l->busy = true;
    return (struct lease_step){.what = LEASE_READ};
}

static struct lease_step write_now(struct lease *l, int64_t now_ns, uint64_t epoch, bool held)
{
    l->sent = (struct lease_record){.revision = l->record.revision, .epoch = epoch, .ttl_ns = l->ttl_ns, .held = held};
    (void)snprintf(l->sent.holder, sizeof l->sent.holder, "%s", l->me);
    memcpy(l->sent.at, l->at, sizeof l->at);
    l->sent_ns = now_ns;
    l->busy = true;
    l->heard = false;
    l->wrote = l->wrote || held;
    return (struct lease_step){.what = LEASE_WRITE, .record = l->sent};
}

static struct lease_step free_it(struct lease *l, int64_t now_ns)
{
    bool settled = l->known && (l->gone || !l->record.held || !is_mine(l));

    if (!l->wrote || settled || now_ns >= l->give_up_ns)
        return (struct lease_step){.what = LEASE_DONE};
    if (now_ns < l->due_ns)
        return wait_until(min64(l->due_ns, l->give_up_ns));
    return l->known ? write_now(l, now_ns, l->record.epoch, false) : read_now(l);
}

static uint64_t next_epoch(const struct lease *l, int64_t wall_ns)
{
    uint64_t next = l->highest + 1, ms = wall_ns > 0 ? (uint64_t)(wall_ns / CLOCK_MS) : 0;
    bool none = l->gone || l->record.epoch == 0;

    return none && ms > next ? ms : next;
}

/* When the record may be taken: at once where nobody holds it, or we ourselves do from a tenure that has ended. */
static int64_t free_at(const struct lease *l)
{
    int64_t over_ns = l->seen_ns + l->record.ttl_ns + l->record.ttl_ns / DRIFT;

    if (!l->record.held || is_mine(l))
        return INT64_MIN;
    return l->gone_ns ? min64(l->gone_ns, over_ns) : over_ns;
}

static struct lease_step contend(struct lease *l, int64_t now_ns, int64_t wall_ns)
{
    if (!l->known || now_ns < free_at(l)) {
        if (now_ns >= l->due_ns)
            return read_now(l);
        return wait_until(l->known ? min64(l->due_ns, free_at(l)) : l->due_ns);
    }
    return write_now(l, now_ns, next_epoch(l, wall_ns), true);
}

struct lease_step lease_step(struct lease *l, int64_t now_ns, int64_t wall_ns)
{
    if (l->busy)
        return wait_until(l->epoch ? l->until_ns : INT64_MAX);
    if (l->releasing)
        return free_it(l, now_ns);
    if (!l->epoch)
        return contend(l, now_ns, wall_ns);
    if (now_ns < l->due_ns)
        return wait_until(min64(l->due_ns, l->until_ns));
    return l->known ? write_now(l, now_ns, l->epoch, true) : read_now(l);
}

/* ---- what came of it --------------------------------------------------------------------------------------------------- */

static bool same(const struct lease_record *a, const struct lease_record *b)
{
    return a->revision == b->revision && a->epoch == b->epoch && a->held == b->held && strcmp(a->holder, b->holder) == 0;
}

static void saw(struct lease *l, int64_t now_ns, const struct lease_record *record)
{
    if (l->gone || !same(&l->record, record) || !l->seen_ns) {
        l->seen_ns = now_ns;
        l->gone_ns = 0;
    }
    l->record = *record;
    l->gone = false;
    if (record->epoch > l->highest)
        l->highest = record->epoch;
}

/* Whoever held it when it vanished may hold it still. */
static void saw_none(struct lease *l, int64_t now_ns, uint64_t revision)
{
    if (!l->gone || l->record.revision != revision)
        l->seen_ns = now_ns;
    l->gone_ns = 0;
    l->record.revision = revision;
    l->gone = true;
}

static void look_again(struct lease *l, int64_t now_ns)
{
    if (l->eager > 0)
        l->eager--;
    l->due_ns = now_ns + (l->eager ? min64(soon_ns, l->ttl_ns / LOOKS) : l->ttl_ns / LOOKS);
}

void lease_on_read(struct lease *l, int64_t now_ns, int code, const struct lease_record *record)
{
    l->busy = false;
    if (code && code != MUSTER_ENOTFOUND) {
        doubt(l, now_ns + retry_ns(l));
        return;
    }
    if (code)
        saw_none(l, now_ns, record->revision);
    else
        saw(l, now_ns, record);
    l->known = true;
    if (l->epoch && (l->gone || !l->record.held || !is_mine(l) || l->record.epoch != l->epoch))
        lose(l, MUSTER_ESTALE);
    if (l->epoch || l->releasing)
        l->due_ns = now_ns; /* the write whose outcome was not known is made good at once */
    else
        look_again(l, now_ns);
}

void lease_on_written(struct lease *l, int64_t now_ns, int code, uint64_t revision)
{
    l->busy = false;
    if (l->epoch && now_ns >= l->until_ns)
        lose(l, MUSTER_ETIME); /* who asked for the epoch meanwhile was told that there is none */
    if (code) {
        doubt(l, code == MUSTER_ESTALE ? now_ns : now_ns + retry_ns(l));
        return;
    }
    l->sent.revision = revision;
    saw(l, now_ns, &l->sent);
    l->known = !l->heard;
    l->eager = 0;
    l->due_ns = now_ns;
    if (!l->sent.held || l->releasing || l->sent.epoch <= l->ended) /* what was told as lost is not given back, but taken anew */
        return;
    l->epoch = l->sent.epoch;
    l->until_ns = l->sent_ns + l->ttl_ns;
    if (l->known)
        l->due_ns = l->sent_ns + l->ttl_ns / RENEWALS;
}

void lease_hint(struct lease *l, int64_t now_ns)
{
    if (l->epoch)
        l->known = false;
    l->heard = true;
    l->eager = 2; /* the put may be heard before it can be read */
    l->due_ns = now_ns;
}

void lease_hint_renewed(struct lease *l, int64_t now_ns)
{
    if (!l->epoch && l->busy)
        l->eager = 2; /* what is being read may be older */
    else
        lease_look(l, now_ns + stored_ns);
}

void lease_look(struct lease *l, int64_t due_ns)
{
    if (!l->epoch && !l->releasing)
        l->due_ns = min64(l->due_ns, due_ns);
}

void lease_connected(struct lease *l, int64_t now_ns, const struct lease_at at[LEASE_N_AT])
{
    memcpy(l->at, at, sizeof l->at);
    if (l->epoch && !l->busy && !l->releasing && is_elsewhere(&l->record, at))
        l->due_ns = now_ns;
}

void lease_holder_gone(struct lease *l, int64_t free_ns)
{
    l->gone_ns = free_ns;
}

bool lease_is_doubtful(const struct lease *l, const struct lease_at at[LEASE_N_AT])
{
    bool named = false;

    for (int i = 0; i < LEASE_N_AT; i++) {
        if (is_at(&l->record.at[i], &at[i]))
            return false;
        named = named || l->record.at[i].client;
    }
    return l->epoch && named;
}

void lease_release(struct lease *l, int64_t now_ns)
{
    if (l->releasing)
        return;
    l->releasing = true;
    l->epoch = l->told_epoch = 0;
    l->give_up_ns = now_ns + l->ttl_ns;
    l->due_ns = now_ns;
}
