/*
 * lease/lease.h against a model of the world: a store that loses, delays and refuses, clocks that differ in speed, processes that are
 * held up, die and come again, connections that are cut, and a bucket that is lost. Whatever happens, no two hold at one time, but for
 * one whose connections were cut and who therefore writes nothing; and epochs grow.
 *
 * A seed is a whole run; MUSTER_LEASE_SEEDS sets how many there are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <muster/plugin.h>

#include "base/clock.h"
#include "lease/lease.h"
#include "lease/record.h"

enum { CONTENDERS = 3, MESSAGES = 64, SEEDS = 3000, CONNECTIONS = 512 };
static const int64_t spare_ns = 750 * CLOCK_MS;
static const int64_t wall_base_ns = INT64_C(1700000000) * CLOCK_S;

struct contender {
    struct lease lease;
    int64_t offset_ns;
    double rate;         /* of its clock; within half of a hundredth */
    int64_t held_up_ns;  /* true time until which it does nothing */
    int64_t awaited;     /* the message that it waits for; -1: none */
    bool gone, told;     /* told: between GOT and LOST */
    uint64_t connection; /* 0: it was cut */
    int64_t back_ns;     /* when it has another */
    bool heard[CONNECTIONS]; /* which ones it was told have ended */
};

struct message {
    bool live, write, applied, answered;
    int who;
    int64_t id;
    struct lease_record record, result;
    int64_t apply_ns, answer_ns; /* INT64_MAX: lost */
    int code;
};

struct world {
    uint64_t random;
    int64_t now_ns, ttl_ns, calm_ns, next_id;
    bool calm;
    struct contender c[CONTENDERS];
    struct message m[MESSAGES];
    bool exists;
    struct lease_record stored;
    uint64_t revision, last_epoch;
    int64_t lost_ns; /* when the bucket was lost last */
    unsigned int born, tenures, losses, early;
    uint64_t connections;
    int64_t ended_ns[CONNECTIONS];
    uint64_t seed;
};

static uint64_t draw(struct world *w, uint64_t n)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random % n;
}

static int64_t local_ns(const struct world *w, const struct contender *c)
{
    return c->offset_ns + (int64_t)((double)w->now_ns * c->rate);
}

static uint64_t connect(struct world *w)
{
    assert_true(w->connections + 1 < CONNECTIONS);
    return ++w->connections;
}

static void at_of(const struct contender *c, struct lease_at at[LEASE_N_AT])
{
    memset(at, 0, LEASE_N_AT * sizeof *at);
    at[0].client = c->connection;
    (void)snprintf(at[0].server, sizeof at[0].server, "N1");
}

/* The server tells of it, and most hear that. */
static void end_connection(struct world *w, struct contender *c)
{
    uint64_t id = c->connection;

    c->connection = 0;
    if (!id)
        return;
    w->ended_ns[id] = w->now_ns;
    for (int i = 0; i < CONTENDERS; i++)
        w->c[i].heard[id] = draw(w, 8) > 0;
}

static void bear(struct world *w, struct contender *c)
{
    char name[LEASE_HOLDER_SIZE];

    end_connection(w, c);
    *c = (struct contender){.offset_ns = (int64_t)draw(w, 1000) * CLOCK_S, .rate = 0.9955 + (double)draw(w, 90) / 10000, .awaited = -1};
    c->connection = connect(w);
    (void)snprintf(name, sizeof name, "c%u", ++w->born);
    lease_init(&c->lease, name, w->ttl_ns, local_ns(w, c));
}

/* ---- the store ----------------------------------------------------------------------------------------------------------- */

static int64_t delay(struct world *w)
{
    if (w->calm || draw(w, 20))
        return 1 + (int64_t)draw(w, (uint64_t)(5 * CLOCK_MS));
    return (int64_t)draw(w, (uint64_t)(2 * w->ttl_ns)); /* somewhere, something stands still */
}

static void send(struct world *w, int who, const struct lease_step *step)
{
    struct message *m = NULL;
    int64_t limit = w->ttl_ns / 5;

    for (int i = 0; i < MESSAGES && !m; i++)
        if (!w->m[i].live)
            m = &w->m[i];
    assert_non_null(m);
    *m = (struct message){.live = true, .write = step->what == LEASE_WRITE, .who = who, .id = ++w->next_id, .record = step->record};
    m->apply_ns = w->calm || draw(w, 12) ? w->now_ns + delay(w) : INT64_MAX;
    m->answer_ns = m->apply_ns == INT64_MAX || (!w->calm && !draw(w, 12)) ? INT64_MAX : m->apply_ns + delay(w);
    if (!w->c[who].connection || (!w->calm && !draw(w, 30))) { /* the link is away: nothing goes out, and that is told at once */
        m->apply_ns = INT64_MAX;
        m->answer_ns = w->now_ns;
        m->code = MUSTER_ELINK;
    } else if (m->answer_ns > w->now_ns + limit) {
        m->code = MUSTER_ETIME;
        m->answer_ns = w->now_ns + limit;
    }
    w->c[who].awaited = m->id;
}

static void tell_others(struct world *w, int who)
{
    for (int i = 0; i < CONTENDERS; i++) {
        if (i == who || w->c[i].gone || w->c[i].held_up_ns > w->now_ns || !draw(w, 4))
            continue;
        if (w->stored.held)
            lease_hint_renewed(&w->c[i].lease, local_ns(w, &w->c[i]));
        else
            lease_hint(&w->c[i].lease, local_ns(w, &w->c[i]));
    }
}

static void apply_write(struct world *w, struct message *m)
{
    uint64_t at = w->exists ? w->stored.revision : 0;

    if (m->record.revision != at) {
        m->result.revision = at;
        m->code = m->code ? m->code : MUSTER_ESTALE;
        return;
    }
    w->stored = m->record;
    w->stored.revision = ++w->revision;
    w->exists = true;
    m->result = w->stored;
    tell_others(w, m->who);
}

static void apply(struct world *w, struct message *m)
{
    m->applied = true;
    if (m->write)
        apply_write(w, m);
    else if (w->exists)
        m->result = w->stored;
    else
        m->code = m->code ? m->code : MUSTER_ENOTFOUND;
}

/* What is on its way to it is lost with it. Revisions begin anew, but not with those that were in use a moment ago: lease.h does not
 * promise that case. */
static void lose_bucket(struct world *w)
{
    for (int i = 0; i < MESSAGES; i++)
        if (w->m[i].live && !w->m[i].applied) {
            w->m[i].apply_ns = INT64_MAX;
            w->m[i].code = w->m[i].code ? w->m[i].code : MUSTER_ETIME;
        }
    w->exists = false;
    w->revision += 1000;
    w->lost_ns = w->now_ns;
    w->losses++;
}

/* ---- what must hold --------------------------------------------------------------------------------------------------------- */

/* A bucket was lost a moment ago: whoever held may hold still, and may not even have heard yet that it does. */
static bool in_doubt(const struct world *w)
{
    return w->losses && w->now_ns < w->lost_ns + w->ttl_ns + w->ttl_ns / 50;
}

static void check_one_holder(struct world *w)
{
    struct lease_at at[LEASE_N_AT];
    int holders = 0;

    for (int i = 0; i < CONTENDERS; i++) {
        at_of(&w->c[i], at);
        holders += !w->c[i].gone && lease_epoch(&w->c[i].lease, local_ns(w, &w->c[i])) > 0 && !lease_is_doubtful(&w->c[i].lease, at);
    }
    if (holders > 1 && !in_doubt(w))
        fail_msg("seed %llu: %d hold at %lld ms", (unsigned long long)w->seed, holders, (long long)(w->now_ns / CLOCK_MS));
}

static void hear_events(struct world *w, struct contender *c)
{
    struct lease_event e;

    while ((e = lease_event(&c->lease, local_ns(w, c))).what != LEASE_NOTHING) {
        if (c->told != (e.what == LEASE_LOST))
            fail_msg("seed %llu: got and lost do not alternate", (unsigned long long)w->seed);
        c->told = e.what == LEASE_GOT;
        if (!c->told)
            continue;
        if (e.epoch <= w->last_epoch && !in_doubt(w))
            fail_msg("seed %llu: epoch %llu after %llu", (unsigned long long)w->seed, (unsigned long long)e.epoch,
                     (unsigned long long)w->last_epoch);
        w->last_epoch = e.epoch > w->last_epoch ? e.epoch : w->last_epoch;
        w->tenures++;
    }
}

/* ---- the run ------------------------------------------------------------------------------------------------------------------ */

/* What a broker does with what it was told. */
static void judge_holder(struct world *w, struct contender *c)
{
    const struct lease_record *r = &c->lease.record;
    uint64_t id = r->at[0].client;

    if (c->lease.epoch || c->lease.gone || !r->held || !id || !c->heard[id])
        return;
    w->early += !c->lease.gone_ns;
    lease_holder_gone(&c->lease, c->offset_ns + (int64_t)((double)(w->ended_ns[id] + spare_ns) * c->rate));
}

static void reconnect(struct world *w, struct contender *c)
{
    struct lease_at at[LEASE_N_AT];

    if (!c->connection && w->now_ns >= c->back_ns)
        c->connection = connect(w);
    at_of(c, at);
    lease_connected(&c->lease, local_ns(w, c), at);
}

/* Returns true time at which it wants to be called again. */
static int64_t drive(struct world *w, int who)
{
    struct contender *c = &w->c[who];
    struct lease_step step;
    int64_t wait_ns;

    if (c->gone)
        return INT64_MAX;
    if (c->held_up_ns > w->now_ns)
        return c->held_up_ns;
    reconnect(w, c);
    hear_events(w, c);
    judge_holder(w, c);
    step = lease_step(&c->lease, local_ns(w, c), wall_base_ns + w->now_ns);
    if (step.what == LEASE_READ || step.what == LEASE_WRITE) {
        send(w, who, &step);
        step = lease_step(&c->lease, local_ns(w, c), wall_base_ns + w->now_ns);
        assert_int_equal(step.what, LEASE_WAIT);
    }
    if (step.what == LEASE_DONE) {
        c->gone = true;
        return INT64_MAX;
    }
    if (step.due_ns == INT64_MAX)
        return INT64_MAX;
    wait_ns = (int64_t)((double)(step.due_ns - local_ns(w, c)) / c->rate);
    if (!c->connection && c->back_ns - w->now_ns < wait_ns)
        wait_ns = c->back_ns - w->now_ns;
    return w->now_ns + (wait_ns > 0 ? wait_ns : 0) + 1000;
}

static void answer(struct world *w, struct message *m)
{
    struct contender *c = &w->c[m->who];
    bool waits = c->awaited == m->id && !c->gone;

    m->answered = true;
    if (!waits)
        return;
    c->awaited = -1;
    if (m->write)
        lease_on_written(&c->lease, local_ns(w, c), m->code, m->result.revision);
    else
        lease_on_read(&c->lease, local_ns(w, c), m->code, &m->result);
}

/* A message that is answered may still be applied later. */
static int64_t advance(struct world *w, struct message *m)
{
    if (!m->live)
        return INT64_MAX;
    if (!m->applied && m->apply_ns <= w->now_ns)
        apply(w, m);
    if (!m->answered && m->answer_ns <= w->now_ns) {
        if (w->c[m->who].held_up_ns > w->now_ns && w->c[m->who].awaited == m->id)
            return w->c[m->who].held_up_ns;
        answer(w, m);
    }
    if (m->answered && (m->applied || m->apply_ns == INT64_MAX)) {
        m->live = false;
        return INT64_MAX;
    }
    if (m->applied || m->apply_ns == INT64_MAX)
        return m->answer_ns;
    return m->answered || m->apply_ns < m->answer_ns ? m->apply_ns : m->answer_ns;
}

/* The server closes its connection: what was sent may still arrive, no answer does. */
static void cut(struct world *w, int who)
{
    struct contender *c = &w->c[who];

    end_connection(w, c);
    c->back_ns = w->now_ns + (int64_t)draw(w, draw(w, 4) ? (uint64_t)(500 * CLOCK_MS) : (uint64_t)w->ttl_ns);
    for (int i = 0; i < MESSAGES; i++) {
        struct message *m = &w->m[i];

        if (!m->live || m->answered || m->who != who)
            continue;
        m->answer_ns = w->now_ns;
        m->code = MUSTER_ELINK;
    }
}

static void mischief(struct world *w)
{
    struct contender *c = &w->c[draw(w, CONTENDERS)];

    switch (draw(w, 10)) {
    case 0: /* kill -9, and a new process */
        bear(w, c);
        break;
    case 1:
    case 2:
    case 3: /* held up: SIGSTOP, a hung lane */
        c->held_up_ns = w->now_ns + (int64_t)draw(w, (uint64_t)(3 * w->ttl_ns));
        break;
    case 4: /* an orderly end; a new one comes at the next turn of mischief */
        if (c->gone)
            bear(w, c);
        else
            lease_release(&c->lease, local_ns(w, c));
        c->told = false;
        break;
    case 5:
        if (w->now_ns > 10 * CLOCK_S && !draw(w, 6))
            lose_bucket(w);
        break;
    case 6:
    case 7:
        if (!c->gone)
            cut(w, (int)(c - w->c));
        break;
    case 8: /* held up until its connection is cut for that */
        if (!c->gone && c->connection) {
            c->held_up_ns = w->now_ns + (int64_t)draw(w, (uint64_t)(2 * w->ttl_ns));
            cut(w, (int)(c - w->c));
        }
        break;
    default:
        break;
    }
}

static int64_t turn(struct world *w)
{
    int64_t next = INT64_MAX;

    for (int i = 0; i < MESSAGES; i++) {
        int64_t at = advance(w, &w->m[i]);

        next = at < next ? at : next;
    }
    for (int i = 0; i < CONTENDERS; i++) {
        int64_t at = drive(w, i);

        next = at < next ? at : next;
    }
    for (int i = 0; i < MESSAGES; i++) /* sent in this turn */
        if (w->m[i].live && !w->m[i].applied && w->m[i].apply_ns < next)
            next = w->m[i].apply_ns;
    check_one_holder(w);
    return next;
}

static void run_until(struct world *w, int64_t end_ns, int64_t mischief_every_ns)
{
    int64_t next_mischief = mischief_every_ns ? w->now_ns + mischief_every_ns : INT64_MAX;

    while (w->now_ns < end_ns) {
        int64_t next = turn(w);

        if (w->now_ns >= next_mischief) {
            mischief(w);
            check_one_holder(w);
            next_mischief = w->now_ns + 1 + (int64_t)draw(w, (uint64_t)(2 * mischief_every_ns));
            next = w->now_ns;
        }
        next = next_mischief < next ? next_mischief : next;
        next = end_ns < next ? end_ns : next;
        w->now_ns = next > w->now_ns ? next : w->now_ns + 1000;
    }
}

static struct contender *holder(struct world *w)
{
    for (int i = 0; i < CONTENDERS; i++)
        if (!w->c[i].gone && lease_epoch(&w->c[i].lease, local_ns(w, &w->c[i])))
            return &w->c[i];
    return NULL;
}

static void begin(struct world *w, uint64_t seed)
{
    *w = (struct world){.seed = seed, .random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1, .now_ns = 1, .revision = 10};
    w->ttl_ns = (int64_t)(3 + draw(w, 13)) * CLOCK_S;
    for (int i = 0; i < CONTENDERS; i++)
        bear(w, &w->c[i]);
}

/* Trouble, then calm: one must have it soon, nobody may lose it, and when all let go it is free. */
static unsigned int run_seed(uint64_t seed, unsigned long *early)
{
    struct world *w = calloc(1, sizeof *w);
    unsigned int tenures;

    assert_non_null(w);
    begin(w, seed);
    run_until(w, 20 * w->ttl_ns, w->ttl_ns / 3);
    w->calm = true;
    for (int i = 0; i < CONTENDERS; i++) {
        w->c[i].held_up_ns = 0;
        if (w->c[i].gone || w->c[i].lease.releasing)
            bear(w, &w->c[i]);
    }
    run_until(w, w->now_ns + 4 * w->ttl_ns, 0);
    if (!holder(w))
        fail_msg("seed %llu: nobody holds after a calm time", (unsigned long long)seed);
    tenures = w->tenures;
    run_until(w, w->now_ns + 4 * w->ttl_ns, 0);
    if (w->tenures != tenures)
        fail_msg("seed %llu: the holder lost it in calm", (unsigned long long)seed);
    for (int i = 0; i < CONTENDERS; i++)
        lease_release(&w->c[i].lease, local_ns(w, &w->c[i]));
    run_until(w, w->now_ns + w->ttl_ns, 0);
    for (int i = 0; i < CONTENDERS; i++)
        if (!w->c[i].gone || w->stored.held)
            fail_msg("seed %llu: a released lease is still held", (unsigned long long)seed);
    *early += w->early;
    free(w);
    return tenures;
}

static void test_no_two_hold_and_epochs_grow(void **state)
{
    const char *given = getenv("MUSTER_LEASE_SEEDS");
    uint64_t n = given ? strtoull(given, NULL, 10) : SEEDS;
    unsigned long tenures = 0, early = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= n; seed++)
        tenures += run_seed(seed, &early);
    assert_true(tenures > 3 * n); /* something did happen */
    assert_true(early > n);
}

/* ---- single steps ---------------------------------------------------------------------------------------------------------------- */

static const int64_t ttl_ns = 15 * CLOCK_S;

static struct lease_record record_of(const char *holder, uint64_t revision, uint64_t epoch, bool held)
{
    struct lease_record r = {.revision = revision, .epoch = epoch, .ttl_ns = ttl_ns, .held = held};

    (void)snprintf(r.holder, sizeof r.holder, "%s", holder);
    return r;
}

/* Have l take what is free, as revision 7. */
static void take(struct lease *l, int64_t now_ns)
{
    struct lease_record none = {0};
    struct lease_step step;

    lease_init(l, "me", ttl_ns, now_ns);
    assert_int_equal(lease_step(l, now_ns, 0).what, LEASE_READ);
    lease_on_read(l, now_ns, MUSTER_ENOTFOUND, &none);
    step = lease_step(l, now_ns, wall_base_ns);
    assert_int_equal(step.what, LEASE_WRITE);
    assert_int_equal(step.record.revision, 0);
    assert_int_equal(step.record.epoch, wall_base_ns / CLOCK_MS);
    lease_on_written(l, now_ns, 0, 7);
    assert_int_equal(lease_event(l, now_ns).what, LEASE_GOT);
}

static void test_validity_counts_from_the_sending(void **state)
{
    struct lease l;
    int64_t sent = CLOCK_S + ttl_ns / 5;

    (void)state;
    take(&l, CLOCK_S);
    assert_int_equal(lease_step(&l, sent - 1, 0).due_ns, sent);
    assert_int_equal(lease_step(&l, sent, 0).what, LEASE_WRITE);
    lease_on_written(&l, sent + 4 * CLOCK_S, 0, 8);
    assert_true(lease_epoch(&l, sent + ttl_ns - 1) > 0);
    assert_int_equal(lease_epoch(&l, sent + ttl_ns), 0);
}

static void test_a_lost_ack_is_found_out(void **state)
{
    struct lease_record mine;
    struct lease l;
    int64_t now = CLOCK_S + ttl_ns / 5;

    (void)state;
    take(&l, CLOCK_S);
    assert_int_equal(lease_step(&l, now, 0).what, LEASE_WRITE);
    lease_on_written(&l, now, MUSTER_ETIME, 0);
    now += CLOCK_S;
    assert_int_equal(lease_step(&l, now, 0).what, LEASE_READ);
    mine = record_of("me", 8, l.epoch, true); /* it had arrived */
    lease_on_read(&l, now, 0, &mine);
    assert_int_equal(lease_event(&l, now).what, LEASE_NOTHING);
    assert_int_equal(lease_step(&l, now, 0).record.revision, 8);
}

static void test_another_ones_record_ends_it_at_once(void **state)
{
    struct lease_record other = record_of("other", 9, UINT64_C(1) << 50, true);
    struct lease_event e;
    struct lease l;
    int64_t now = CLOCK_S + ttl_ns / 5;

    (void)state;
    take(&l, CLOCK_S);
    assert_int_equal(lease_step(&l, now, 0).what, LEASE_WRITE);
    lease_on_written(&l, now, MUSTER_ESTALE, 9);
    assert_int_equal(lease_step(&l, now, 0).what, LEASE_READ);
    lease_on_read(&l, now, 0, &other);
    assert_int_equal(lease_epoch(&l, now), 0);
    e = lease_event(&l, now);
    assert_int_equal(e.what, LEASE_LOST);
    assert_int_equal(e.code, MUSTER_ESTALE);
}

static void test_time_ends_it_and_it_is_taken_anew_with_another_epoch(void **state)
{
    struct lease_record mine;
    struct lease_event e;
    struct lease l;
    int64_t now = CLOCK_S + ttl_ns / 5;
    uint64_t first;

    (void)state;
    take(&l, CLOCK_S);
    first = l.epoch;
    assert_int_equal(lease_step(&l, now, 0).what, LEASE_WRITE);
    now = CLOCK_S + ttl_ns;
    e = lease_event(&l, now);
    assert_int_equal(e.what, LEASE_LOST);
    assert_int_equal(e.code, MUSTER_ETIME);
    lease_on_written(&l, now, 0, 8); /* too late to be the old tenure's */
    assert_int_equal(lease_event(&l, now).what, LEASE_NOTHING);
    mine = lease_step(&l, now, 0).record;
    assert_int_equal(mine.epoch, first + 1);
    assert_int_equal(mine.revision, 8);
    lease_on_written(&l, now, 0, 9);
    assert_int_equal(lease_event(&l, now).epoch, first + 1);
}

/* A process that slept: whoever asked when it woke was told that nothing is held, and has let pass by what came. */
static void test_an_answer_after_its_time_brings_nothing_back(void **state)
{
    struct lease_event e;
    struct lease l;
    int64_t now = CLOCK_S + ttl_ns / 5;
    uint64_t first;

    (void)state;
    take(&l, CLOCK_S);
    first = l.epoch;
    assert_int_equal(lease_step(&l, now, 0).what, LEASE_WRITE);
    now = CLOCK_S + ttl_ns;
    assert_int_equal(lease_epoch(&l, now), 0);
    lease_on_written(&l, now, 0, 8);
    assert_int_equal(lease_epoch(&l, now), 0);
    e = lease_event(&l, now);
    assert_int_equal(e.what, LEASE_LOST);
    assert_int_equal(e.code, MUSTER_ETIME);
    assert_int_equal(lease_step(&l, now, 0).record.epoch, first + 1);
}

static void test_a_contender_waits_for_the_holders_ttl(void **state)
{
    struct lease_record other = record_of("other", 9, 40, true);
    struct lease_step step;
    struct lease l;
    int64_t now = CLOCK_S;

    (void)state;
    lease_init(&l, "me", 3 * CLOCK_S, now); /* its own is shorter */
    for (int i = 0; i < 6; i++, now += 3 * CLOCK_S) {
        step = lease_step(&l, now, 0);
        assert_int_equal(step.what, i < 6 ? LEASE_READ : LEASE_WRITE);
        lease_on_read(&l, now, 0, &other);
        if (now - CLOCK_S < ttl_ns)
            assert_int_equal(lease_step(&l, now, 0).what, LEASE_WAIT);
    }
    step = lease_step(&l, now, 0);
    assert_int_equal(step.what, LEASE_WRITE);
    assert_int_equal(step.record.epoch, 41);
    assert_int_equal(step.record.revision, 9);
}

static void test_a_free_record_is_taken_at_once(void **state)
{
    struct lease_record other = record_of("other", 9, 40, true);
    struct lease l;

    (void)state;
    lease_init(&l, "me", ttl_ns, CLOCK_S);
    (void)lease_step(&l, CLOCK_S, 0);
    lease_on_read(&l, CLOCK_S, 0, &other);
    assert_int_equal(lease_step(&l, CLOCK_S, 0).what, LEASE_WAIT);
    lease_hint(&l, CLOCK_S);
    assert_int_equal(lease_step(&l, CLOCK_S, 0).what, LEASE_READ);
    lease_on_read(&l, CLOCK_S, 0, &other); /* heard, not stored yet */
    assert_int_equal(lease_step(&l, CLOCK_S, 0).due_ns, CLOCK_S + 100 * CLOCK_MS);
    assert_int_equal(lease_step(&l, CLOCK_S + 100 * CLOCK_MS, 0).what, LEASE_READ);
    other = record_of("other", 10, 40, false);
    lease_on_read(&l, CLOCK_S + 100 * CLOCK_MS, 0, &other);
    assert_int_equal(lease_step(&l, CLOCK_S + 100 * CLOCK_MS, 0).record.epoch, 41);
}

static void name_connection(struct lease_at at[LEASE_N_AT], uint64_t live, uint64_t bulk)
{
    memset(at, 0, LEASE_N_AT * sizeof *at);
    at[0].client = live;
    at[1].client = bulk;
    (void)snprintf(at[0].server, sizeof at[0].server, "N1");
    (void)snprintf(at[1].server, sizeof at[1].server, "N2");
}

static void test_a_holder_that_has_gone_is_not_waited_for(void **state)
{
    struct lease_record other = record_of("other", 9, 40, true);
    struct lease_step step;
    struct lease l;

    (void)state;
    lease_init(&l, "me", ttl_ns, CLOCK_S);
    (void)lease_step(&l, CLOCK_S, 0);
    lease_on_read(&l, CLOCK_S, 0, &other);
    lease_holder_gone(&l, CLOCK_S + spare_ns);
    assert_int_equal(lease_step(&l, CLOCK_S, 0).due_ns, CLOCK_S + spare_ns);
    step = lease_step(&l, CLOCK_S + spare_ns, 0);
    assert_int_equal(step.what, LEASE_WRITE);
    assert_int_equal(step.record.epoch, 41);
    lease_on_written(&l, CLOCK_S + spare_ns, MUSTER_ESTALE, 10); /* it lives, and has renewed */
    assert_int_equal(lease_step(&l, CLOCK_S + spare_ns, 0).what, LEASE_READ);
    other = record_of("other", 10, 40, true);
    lease_on_read(&l, CLOCK_S + spare_ns, 0, &other);
    assert_int_equal(lease_step(&l, CLOCK_S + spare_ns, 0).what, LEASE_WAIT);
    assert_int_equal(lease_step(&l, 2 * CLOCK_S + spare_ns, 0).what, LEASE_WAIT);
}

static void test_a_holder_with_other_connections_renews_at_once(void **state)
{
    struct lease_at at[LEASE_N_AT], later[LEASE_N_AT];
    struct lease_step step;
    struct lease l;

    (void)state;
    take(&l, CLOCK_S);
    name_connection(at, 5, 6);
    assert_false(lease_is_doubtful(&l, at)); /* the record names none, and nobody can think that it has gone */
    lease_connected(&l, CLOCK_S, at);
    step = lease_step(&l, CLOCK_S, 0);
    assert_int_equal(step.what, LEASE_WRITE);
    assert_int_equal(step.record.at[1].client, 6);
    lease_on_written(&l, CLOCK_S, 0, 8);
    lease_connected(&l, CLOCK_S, at);
    assert_int_equal(lease_step(&l, CLOCK_S, 0).what, LEASE_WAIT);

    name_connection(later, 7, 6);
    assert_false(lease_is_doubtful(&l, later)); /* one is still there */
    name_connection(later, 7, 0);
    assert_true(lease_is_doubtful(&l, later));
    lease_connected(&l, CLOCK_S + 1, later);
    assert_int_equal(lease_step(&l, CLOCK_S + 1, 0).what, LEASE_WRITE);
    assert_true(lease_is_doubtful(&l, later));
    lease_on_written(&l, CLOCK_S + 2, 0, 9);
    assert_false(lease_is_doubtful(&l, later));
}

static void test_a_renewal_that_is_heard_starts_the_waiting(void **state)
{
    struct lease_record other = record_of("other", 9, 40, true);
    struct lease l;
    int64_t now = CLOCK_S;

    (void)state;
    lease_init(&l, "me", ttl_ns, now);
    (void)lease_step(&l, now, 0);
    lease_on_read(&l, now, 0, &other);
    now += CLOCK_S;
    lease_hint_renewed(&l, now);
    assert_int_equal(lease_step(&l, now, 0).due_ns, now + 50 * CLOCK_MS);
    now += 50 * CLOCK_MS;
    assert_int_equal(lease_step(&l, now, 0).what, LEASE_READ);
    lease_hint_renewed(&l, now); /* while it is being read */
    other = record_of("other", 10, 40, true);
    lease_on_read(&l, now, 0, &other);
    assert_int_equal(lease_step(&l, now, 0).due_ns, now + 100 * CLOCK_MS);
}

static void test_a_write_on_its_way_is_released_behind_itself(void **state)
{
    struct lease_step step;
    struct lease l;
    int64_t now = CLOCK_S + ttl_ns / 5;

    (void)state;
    take(&l, CLOCK_S);
    assert_int_equal(lease_step(&l, now, 0).what, LEASE_WRITE);
    lease_release(&l, now);
    assert_int_equal(lease_epoch(&l, now), 0);
    assert_int_equal(lease_step(&l, now, 0).what, LEASE_WAIT);
    lease_on_written(&l, now, 0, 8);
    assert_int_equal(lease_event(&l, now).what, LEASE_NOTHING);
    step = lease_step(&l, now, 0);
    assert_int_equal(step.what, LEASE_WRITE);
    assert_false(step.record.held);
    assert_int_equal(step.record.revision, 8);
    lease_on_written(&l, now, 0, 9);
    assert_int_equal(lease_step(&l, now, 0).what, LEASE_DONE);
}

static void test_who_never_wrote_leaves_at_once(void **state)
{
    struct lease l;

    (void)state;
    lease_init(&l, "me", ttl_ns, CLOCK_S);
    lease_release(&l, CLOCK_S);
    assert_int_equal(lease_step(&l, CLOCK_S, 0).what, LEASE_DONE);
}

static void test_records(void **state)
{
    static const char *const bad[] = {"", "{}", "[]", "{\"epoch\":0,\"held\":true,\"ttl_ms\":1000,\"holder\":\"a\"}",
                                      "{\"epoch\":1,\"held\":1,\"ttl_ms\":1000,\"holder\":\"a\"}",
                                      "{\"epoch\":1,\"held\":true,\"ttl_ms\":0,\"holder\":\"a\"}",
                                      "{\"epoch\":1,\"held\":true,\"ttl_ms\":9223372036854775807,\"holder\":\"a\"}",
                                      "{\"epoch\":1,\"held\":true,\"ttl_ms\":1000,\"holder\":\"0123456789012345678901234567890123456789\"}"};
    static const char *const strange[] = {"{\"epoch\":1,\"held\":true,\"ttl_ms\":1000,\"holder\":\"a\"}",
                                          "{\"epoch\":1,\"held\":true,\"ttl_ms\":1000,\"holder\":\"a\",\"at\":7}",
                                          "{\"epoch\":1,\"held\":true,\"ttl_ms\":1000,\"holder\":\"a\",\"at\":[1]}",
                                          "{\"epoch\":1,\"held\":true,\"ttl_ms\":1000,\"holder\":\"a\",\"at\":[{\"server\":\"N\",\"client\":0}]}",
                                          "{\"epoch\":1,\"held\":true,\"ttl_ms\":1000,\"holder\":\"a\",\"at\":[{\"server\":\"\",\"client\":3}]}"};
    struct lease_record in = record_of("a\"b", 5, UINT64_C(1700000000001), true), out = {.revision = 5};
    struct buf b = {0};

    (void)state;
    name_connection(in.at, 12, 13);
    lease_record_write(&in, "broker \"one\"", &b);
    assert_int_equal(lease_record_read((struct muster_bytes){b.data, b.len}, &out), 0);
    assert_memory_equal(&in, &out, sizeof in);
    buf_done(&b);
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) { /* of connections it takes what it understands */
        assert_int_equal(lease_record_read((struct muster_bytes){strange[i], strlen(strange[i])}, &out), 0);
        assert_int_equal(out.at[0].client, 0);
        assert_string_equal(out.at[0].server, "");
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(lease_record_read((struct muster_bytes){bad[i], strlen(bad[i])}, &out), MUSTER_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_validity_counts_from_the_sending),
        cmocka_unit_test(test_a_lost_ack_is_found_out),
        cmocka_unit_test(test_another_ones_record_ends_it_at_once),
        cmocka_unit_test(test_time_ends_it_and_it_is_taken_anew_with_another_epoch),
        cmocka_unit_test(test_an_answer_after_its_time_brings_nothing_back),
        cmocka_unit_test(test_a_contender_waits_for_the_holders_ttl),
        cmocka_unit_test(test_a_free_record_is_taken_at_once),
        cmocka_unit_test(test_a_holder_that_has_gone_is_not_waited_for),
        cmocka_unit_test(test_a_holder_with_other_connections_renews_at_once),
        cmocka_unit_test(test_a_renewal_that_is_heard_starts_the_waiting),
        cmocka_unit_test(test_a_write_on_its_way_is_released_behind_itself),
        cmocka_unit_test(test_who_never_wrote_leaves_at_once),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_no_two_hold_and_epochs_grow),
    };

    return cmocka_run_group_tests_name("lease", tests, NULL, NULL);
}
