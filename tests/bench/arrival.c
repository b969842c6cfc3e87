/* Agents that come; see crowd.h. */
#include "crowd.h"

enum { HELLOS = 10000 }; /* under way */
static const int64_t look_ns = 50 * CLOCK_MS;

void order_login(const struct order *o)
{
    int n = crowd.n_links ? crowd.n_links : crowd.n_agents;

    crowd.n_wanted = n;
    while (crowd.n_in < n) {
        turn(10);
        check(o);
    }
}

/* Each that was not answered for a while is asked again: all of them are looked at, not more than 20 times a second. */
static void ask_again(int64_t now)
{
    static int64_t looked_ns;

    if (now - looked_ns < look_ns)
        return;
    looked_ns = now;
    for (int i = 0; i < crowd.n_agents; i++) {
        struct agent *a = &crowd.agents[i];

        if (a->asked && !a->gone && a->wire->state == WIRE_IN && now >= a->again_ns) {
            crowd.n_again++;
            agent_hello(a);
        }
    }
}

static void await_present(int n, const struct order *o)
{
    while (crowd.n_present < n) {
        ask_again(clock_now_ns());
        turn(10);
        check(o);
    }
}

static void await_joins(int n, const struct order *o)
{
    await_present(crowd.n_agents, o);
    while (!all_have(crowd.joined, n)) {
        turn(10);
        check(o);
    }
}

void order_join(const struct order *o)
{
    int before = crowd.n_present, n = 0;

    for (int i = 0; i < crowd.n_agents; i++)
        if (!crowd.agents[i].present) {
            crowd.agents[i].hello_ns = 0;
            crowd.agents[i].tries = 0;
            agent_hello(&crowd.agents[i]);
            n++;
            if (i % 64 == 63)
                turn(0);
            await_present(before + n - HELLOS, o);
        }
    await_joins(n, o);
}

void order_arrive(const struct order *o)
{
    crowd.hello_when_in = true;
    order_login(o);
    await_joins(crowd.n_agents, o);
    crowd.hello_when_in = false;
}
