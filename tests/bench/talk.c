/* Messages between agents; see crowd.h. */
#include <stdio.h>
#include <string.h>

#include "crowd.h"

static const char cast_header[] = "NATS/1.0\r\nMuster-Cast: 01979f7e-2f00-7c4b-9c5a-3d1f6a7b8c9d\r\n\r\n";

void order_listen(const struct order *o)
{
    static const char *const kinds[][2] = {{"to", "mst.%s.to.c%d.>"}, {"all", "mst.%s.all.>"}, {"sub", "mst.%s.sub.c%d.>"}, {"raw", "bench.%s.all.>"}};
    char subject[SUBJECT_SIZE];

    for (int i = 0; i < crowd.n_agents; i++)
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            if (*o->text && strcmp(o->text, kinds[k][0]) != 0)
                continue;
            (void)snprintf(subject, sizeof subject, kinds[k][1], crowd.tenant, i);
            wire_subscribe(crowd.agents[i].wire, subject);
        }
    for (int i = 0; i < crowd.n_begun; i++)
        wire_flush(&crowd.links[i]);
    for (int i = 0; i < crowd.n_begun; i++)
        while (crowd.links[i].n_flushing) {
            turn(10);
            check(o);
        }
}

/* So many times under way at most, each of which each of so many hears. */
static void rounds(void (*say)(void), int each, const struct order *o)
{
    uint64_t heard = crowd.n_heard;

    for (int64_t r = 0; r < o->a + o->b - 1; r++) {
        if (r < o->a)
            say();
        turn(0);
        if (r + 2 > o->b)
            await(&crowd.n_heard, heard + (uint64_t)(r + 2 - o->b) * (uint64_t)each, o);
    }
}

static void say_raw(void)
{
    char subject[SUBJECT_SIZE];

    (void)snprintf(subject, sizeof subject, "bench.%s.all.c0.note", crowd.tenant);
    wire_publish(crowd.agents[0].wire, subject, NULL, note);
}

static void say_to_all(void)
{
    char subject[SUBJECT_SIZE];

    (void)snprintf(subject, sizeof subject, "mst.%s.all.c0.note", crowd.tenant);
    wire_publish(crowd.agents[0].wire, subject, NULL, note);
}

static void say_to_each(void)
{
    char subject[SUBJECT_SIZE];

    for (int i = 1; i < crowd.n_agents; i++) {
        (void)snprintf(subject, sizeof subject, "mst.%s.to.c%d.c0.note", crowd.tenant, i);
        wire_publish_with(crowd.agents[0].wire, subject, cast_header, note);
    }
}

void order_raw(const struct order *o)
{
    rounds(say_raw, crowd.n_agents, o);
}

void order_shout(const struct order *o)
{
    rounds(say_to_all, crowd.n_agents, o);
}

void order_tell(const struct order *o)
{
    rounds(say_to_each, crowd.n_agents - 1, o);
}

/* Each is over when it is answered and heard; c0 itself does not hear it. */
static void cast(const char *subject, const struct order *o)
{
    uint64_t answered = crowd.n_answers, heard = crowd.n_heard, each = (uint64_t)crowd.n_agents - 1;
    char body[BODY_SIZE], reply[SUBJECT_SIZE];

    (void)snprintf(body, sizeof body, "{\"labels\":{\"site\":\"one\"},\"type\":\"note\",\"payload\":%s}", note);
    (void)snprintf(reply, sizeof reply, "mst.%s.box.c0.k0.cast", crowd.tenant);
    for (int64_t r = 0; r < o->a + o->b - 1; r++) {
        int64_t over = r + 2 - o->b;

        if (r < o->a)
            wire_publish(crowd.agents[0].wire, subject, reply, body);
        if (over < 1)
            continue;
        await(&crowd.n_answers, answered + (uint64_t)over, o);
        await(&crowd.n_heard, heard + (uint64_t)over * each, o);
    }
}

void order_cast(const struct order *o)
{
    char subject[SUBJECT_SIZE];

    (void)snprintf(subject, sizeof subject, "mst.%s.rpc.c0.message.cast", crowd.tenant);
    cast(subject, o);
}

void order_bare(const struct order *o)
{
    char subject[SUBJECT_SIZE];

    (void)snprintf(subject, sizeof subject, "bench.%s.cast", crowd.tenant);
    cast(subject, o);
}

void order_send(const struct order *o)
{
    uint64_t answered = crowd.n_answers;
    char body[BODY_SIZE];

    for (int64_t r = 0; r < o->a; r++) {
        (void)snprintf(body, sizeof body, "{\"to\":\"c%d\",\"type\":\"note\",\"payload\":%s}", (int)(r % crowd.n_agents), note);
        agent_ask(&crowd.agents[0], "message", "send", true, body);
        if (r + 1 >= o->b)
            await(&crowd.n_answers, answered + (uint64_t)(r + 2 - o->b), o);
    }
    await(&crowd.n_answers, answered + (uint64_t)o->a, o);
}

/* Those that were refused for now, when they were told to ask again. */
static void ask_again(const char *body)
{
    int64_t now = clock_now_ns();

    for (int i = 0; i < crowd.n_agents; i++) {
        struct agent *a = &crowd.agents[i];

        if (!a->retry_ns || a->retry_ns > now)
            continue;
        a->retry_ns = 0;
        agent_ask(a, "message", "history", true, body);
    }
}

void order_history(const struct order *o)
{
    uint64_t due = crowd.n_answers + (uint64_t)crowd.n_agents;
    char body[BODY_SIZE];

    (void)snprintf(body, sizeof body, "{\"channel\":\"%s\",\"limit\":100}", o->text);
    for (int i = 0; i < crowd.n_agents; i++)
        agent_ask(&crowd.agents[i], "message", "history", true, body);
    while (crowd.n_answers < due) {
        turn(10);
        if (crowd.n_again)
            ask_again(body);
        check(o);
    }
}
