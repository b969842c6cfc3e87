/* Watches of agents; see crowd.h. */
#include <inttypes.h>
#include <stdio.h>

#include "crowd.h"

enum { OPENING = 64 };

/* A watch an agent, as body says of the agent's number. */
static void open_all(void (*put)(char *body, size_t size, int agent, const struct order *o), const struct order *o)
{
    uint64_t answered = crowd.n_answers;
    char body[BODY_SIZE];

    for (int i = 0; i < crowd.n_agents; i++) {
        put(body, sizeof body, i, o);
        agent_ask(&crowd.agents[i], "watch", "open", true, body);
        if (i >= OPENING)
            await(&crowd.n_answers, answered + (uint64_t)(i - OPENING + 1), o);
    }
    await(&crowd.n_answers, answered + (uint64_t)crowd.n_agents, o);
}

static void put_rows(char *body, size_t size, int agent, const struct order *o)
{
    (void)snprintf(body, size, "{\"schema\":\"public\",\"table\":\"%s\",\"events\":[\"*\"],\"filter\":\"owner=eq.%d\"}", o->text, agent);
}

static void put_shouts(char *body, size_t size, int agent, const struct order *o)
{
    (void)agent;
    (void)snprintf(body, size, "{\"sources\":[\"mst.%s.all.>\"],\"interval_ms\":%" PRId64 "}", crowd.tenant, o->a);
}

void order_open(const struct order *o)
{
    open_all(put_rows, o);
}

void order_follow(const struct order *o)
{
    open_all(put_shouts, o);
}

void order_heard(const struct order *o)
{
    await(&crowd.n_heard, crowd.n_heard + (uint64_t)o->a, o);
}
