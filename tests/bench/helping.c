/* Agents that ask for help, and those who answer; see crowd.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crowd.h"

enum { ID_SIZE = 64, TAG_SIZE = 32, PLACES = 4096 };

/* Requests by turns of so many places, so that a word that comes late is of another turn. */
struct plea {
    int64_t number, asked_ns;
    char id[ID_SIZE];
    int helper; /* who has claimed it; -1: nobody */
};

static struct plea pleas[PLACES];
static int64_t n_asked;
static bool alike;
static uint64_t n_over;

static struct plea *plea_of(int64_t number)
{
    struct plea *p = &pleas[number % PLACES];

    return p->number == number ? p : NULL;
}

static void ask_for(int agent, const char *verb, int64_t number, const char *body)
{
    char tagged[TAG_SIZE];

    (void)snprintf(tagged, sizeof tagged, "help_%s-%lld", verb, (long long)number);
    agent_ask_tagged(&crowd.agents[agent], "help", verb, tagged, body);
}

/* Ten words of many thousands, or but one that is its own. */
static void put_problem(char *text, size_t size)
{
    size_t len = 0;

    if (alike)
        (void)snprintf(text, size, " the module does not build: its type is unknown at line %d of the file", rand() % 20000);
    for (int i = 0; !alike && i < 10 && len < size; i++)
        len += (size_t)snprintf(text + len, size - len, " w%dx", rand() % 20000);
}

static void ask_next(void)
{
    struct plea *p = &pleas[++n_asked % PLACES];
    char body[BODY_SIZE], problem[160];

    put_problem(problem, sizeof problem);
    *p = (struct plea){.number = n_asked, .asked_ns = clock_now_ns(), .helper = -1};
    (void)snprintf(body, sizeof body, "{\"problem\":\"plea=%lld%s\",\"context\":{\"file\":\"api.ts\",\"line\":42},\"capabilities\":[\"review\"]}",
                   (long long)n_asked, problem);
    ask_for(0, "request", n_asked, body);
}

void take_plea(int agent, const struct wire_message *msg)
{
    static const char mark[] = "plea=", id[] = "\"help_id\":";
    const char *at = memmem(msg->body, msg->len, mark, sizeof mark - 1), *name = memmem(msg->body, msg->len, id, sizeof id - 1);
    struct plea *p = at ? plea_of(atoll(at + sizeof mark - 1)) : NULL;
    char body[BODY_SIZE];

    if (!p || !name)
        return;
    (void)snprintf(p->id, sizeof p->id, "%.36s", strchr(name + sizeof id - 1, '"') + 1);
    (void)snprintf(body, sizeof body, "{\"help_id\":\"%s\"}", p->id);
    ask_for(agent, "claim", p->number, body);
}

static void take_claim(int agent, struct plea *p)
{
    char body[BODY_SIZE];

    if (p->helper >= 0)
        return;
    p->helper = agent;
    sample(clock_now_ns() - p->asked_ns);
    (void)snprintf(body, sizeof body, "{\"help_id\":\"%s\",\"solution\":{\"do\":\"cast it\"},\"confidence\":0.9}", p->id);
    ask_for(agent, "answer", p->number, body);
}

static void accept_it(struct plea *p)
{
    char body[BODY_SIZE];

    (void)snprintf(body, sizeof body, "{\"help_id\":\"%s\"}", p->id);
    ask_for(0, "accept", p->number, body);
}

/* All but one of those who claim are too late. */
void take_help(int agent, const char *tagged, const struct wire_message *msg)
{
    struct plea *p = plea_of(atoll(strchr(tagged, '-') + 1));
    const char *verb = tagged + strlen("help_");
    bool refused = memmem(msg->body, msg->len, "\"error\"", 7) != NULL;

    if (refused && *verb != 'c' && crowd.n_errors++ == 0)
        (void)fprintf(stderr, "crowd: %s: %.*s\n", tagged, (int)msg->len, msg->body);
    if (!p || refused)
        return;
    if (*verb == 'c')
        take_claim(agent, p);
    else if (strncmp(verb, "an", 2) == 0)
        accept_it(p);
    else if (strncmp(verb, "ac", 2) == 0)
        n_over++;
}

static void ask_all(const struct order *o)
{
    uint64_t over = n_over;

    if (o->b > PLACES)
        die("help: too many under way");
    for (int64_t i = 0; i < o->a; i++) {
        ask_next();
        if (i + 1 >= o->b)
            await(&n_over, over + (uint64_t)(i + 2 - o->b), o);
    }
    await(&n_over, over + (uint64_t)o->a, o);
}

void order_help(const struct order *o)
{
    alike = false;
    ask_all(o);
}

void order_alike(const struct order *o)
{
    alike = true;
    ask_all(o);
}
