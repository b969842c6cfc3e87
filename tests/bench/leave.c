/* Beats, and agents that go; see crowd.h. */
#include "crowd.h"

enum { HANDFUL = 512 };

/* A beat that is answered has all before it behind it; one that finds too many waiting is said again. */
static void await_beat(const struct order *o)
{
    uint64_t before = crowd.n_answers;
    int64_t asked_ns = 0;

    while (crowd.n_answers == before) {
        if (clock_now_ns() - asked_ns > CLOCK_S) {
            agent_ask(&crowd.agents[0], "presence", "beat", true, "{}");
            asked_ns = clock_now_ns();
        }
        turn(10);
        check(o);
    }
}

void order_beat(const struct order *o)
{
    int64_t begin = clock_now_ns(), rate = o->a, n = o->b;

    for (int64_t i = 0; i < n;) {
        int64_t due = rate ? (clock_now_ns() - begin) * rate / CLOCK_S + 1 : i + HANDFUL;

        for (; i < n && i < due; i++)
            agent_beat(&crowd.agents[i % crowd.n_agents]);
        if (rate)
            turn(i < n ? 1 : 0);
        else
            await_beat(o); /* as fast as they are taken, and not faster */
    }
    await_beat(o);
}

void order_beating(const struct order *o)
{
    agents_beat_every(o->a);
}

void agents_lose(int k, bool cut)
{
    int done = 0;

    for (int i = crowd.n_agents - 1; i >= 0 && done < k; i--) {
        struct agent *a = &crowd.agents[i];

        if (!a->present || a->gone)
            continue;
        a->gone = true;
        a->present = false;
        crowd.n_present--;
        done++;
        if (cut)
            wire_cut(a->wire);
        a->gone_ns = cut ? clock_now_ns() : a->beat_ns;
    }
}

static void lose_and_hear(bool cut, const struct order *o)
{
    agents_lose((int)o->a, cut);
    while (!all_have(crowd.left, (int)o->a)) {
        turn(10);
        check(o);
    }
}

void order_cut(const struct order *o)
{
    if (crowd.n_links)
        die("cut: agents that share connections came");
    lose_and_hear(true, o);
}

void order_hush(const struct order *o)
{
    lose_and_hear(false, o);
}

void order_wait(const struct order *o)
{
    int64_t end = clock_now_ns() + o->a * CLOCK_MS;

    while (clock_now_ns() < end)
        turn(10);
}
