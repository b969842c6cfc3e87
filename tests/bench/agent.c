/* What agents and watchers say and hear; see crowd.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "crowd.h"

const char note[] = "{\"text\":\""
                    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
                    "01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678\"}";
enum { AT_ONCE = 1000 }; /* logins under way */
static const int64_t silent_ns = 12 * CLOCK_S; /* about what is borne by default; who beats later was silent for too long */
static const int64_t again_ns = 2 * CLOCK_S, again_max_ns = 30 * CLOCK_S;
static const int64_t look_ns = 50 * CLOCK_MS, mourned_ns = 60 * CLOCK_S;
static int64_t beating_ns, next_beat_ns;
static int next_beater;

void *make(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);

    if (!p)
        die("memory");
    return p;
}

/* ---- said ---- */

int number_of(const struct agent *a)
{
    return (int)(a - crowd.agents);
}

void agent_ask_tagged(struct agent *a, const char *service, const char *verb, const char *tag, const char *body)
{
    char subject[SUBJECT_SIZE], reply[SUBJECT_SIZE];

    (void)snprintf(subject, sizeof subject, "mst.%s.rpc.c%d.%s.%s", crowd.tenant, number_of(a), service, verb);
    (void)snprintf(reply, sizeof reply, "mst.%s.box.c%d.k%d.%s", crowd.tenant, number_of(a), (int)(a->wire - crowd.links), tag ? tag : "");
    wire_publish(a->wire, subject, tag ? reply : NULL, body);
}

void agent_ask(struct agent *a, const char *service, const char *verb, bool asks, const char *body)
{
    agent_ask_tagged(a, service, verb, asks ? verb : NULL, body);
}

/* As a client would: a crowd that asks at the same moment again is a flood for ever. */
static int64_t pause_of(const struct agent *a)
{
    int64_t ns = again_ns << (a->tries < 5 ? a->tries : 5);

    if (ns > again_max_ns)
        ns = again_max_ns;
    return ns + (int64_t)((double)ns / 2 * rand() / RAND_MAX);
}

void agent_hello(struct agent *a)
{
    char body[BODY_SIZE], slots[64] = "";

    if (crowd.capacity)
        (void)snprintf(slots, sizeof slots, ",\"capacity\":%d,\"auto_accept\":%s", crowd.capacity, crowd.asks ? "false" : "true");
    (void)snprintf(body, sizeof body,
                   "{\"session\":\"s%d-%d\",\"capabilities\":[\"plan\",\"review\"],\"labels\":{\"team\":\"t%d\",\"site\":\"one\"}%s}",
                   (int)getpid(), number_of(a), number_of(a) % 10, slots);
    if (!a->hello_ns)
        a->hello_ns = clock_now_ns();
    a->asked = true;
    a->beat_ns = clock_now_ns(); /* a hello is one */
    a->again_ns = a->beat_ns + pause_of(a);
    a->tries++;
    agent_ask(a, "presence", "hello", true, body);
}

void agent_beat(struct agent *a)
{
    int64_t now = clock_now_ns();

    if (now - a->beat_ns > silent_ns)
        a->late_ns = now;
    a->beat_ns = now;
    agent_ask(a, "presence", "beat", false, "{}");
}

/* ---- heard ---- */

static bool is_watcher(const struct wire *w)
{
    return w >= crowd.watchers && w < crowd.watchers + crowd.n_watchers;
}

static void on_in(struct wire *w)
{
    char subject[SUBJECT_SIZE];

    if (is_watcher(w)) {
        (void)snprintf(subject, sizeof subject, "mst.%s.evt.presence.>", crowd.tenant);
        wire_subscribe(w, subject);
        return;
    }
    crowd.n_in++;
    (void)snprintf(subject, sizeof subject, "mst.%s.box.*.k%d.*", crowd.tenant, (int)(w - crowd.links));
    if (!crowd.n_links)
        (void)snprintf(subject, sizeof subject, "mst.%s.box.c%d.>", crowd.tenant, (int)(w - crowd.links));
    wire_subscribe(w, subject);
    if (crowd.hello_when_in || (!crowd.n_links && crowd.agents[w - crowd.links].lost_ns))
        agent_hello(&crowd.agents[w - crowd.links]);
}

/* The server finds that it was silent for too long, or is too busy itself: the agent comes back, as any client would. */
static void on_out(struct wire *w)
{
    struct agent *a = &crowd.agents[w - crowd.links];

    if (is_watcher(w) || crowd.n_links)
        die("the server cut a connection that many need");
    crowd.n_in--;
    crowd.n_lost++;
    crowd.n_present -= a->present;
    a->present = a->asked = false;
    a->lost_ns = clock_now_ns();
}

/* Of history: refused for now, with the time after which it may be asked for again. */
static bool is_put_off(struct agent *a, const char *verb, const struct wire_message *msg)
{
    static const char mark[] = "\"retry_after_ms\":";
    const char *at = strcmp(verb, "history") == 0 ? memmem(msg->body, msg->len, mark, sizeof mark - 1) : NULL;

    if (!at)
        return false;
    a->retry_ns = clock_now_ns() + atoi(at + sizeof mark - 1) * CLOCK_MS; /* a bracket follows */
    crowd.n_again++;
    return true;
}

static void take_answer(int number, const char *verb, const struct wire_message *msg)
{
    struct agent *a = &crowd.agents[number];

    if (strchr(verb, '-')) {
        strncmp(verb, "help_", 5) == 0 ? take_help(number, verb, msg) : take_word(verb, msg);
        return;
    }
    if (is_put_off(a, verb, msg))
        return;
    if (memmem(msg->body, msg->len, "\"error\"", 7)) {
        if (crowd.n_errors++ == 0)
            (void)fprintf(stderr, "crowd: %s: %.*s\n", verb, (int)msg->len, msg->body);
        crowd.n_answers += strcmp(verb, "hello") != 0 && strcmp(verb, "beat") != 0; /* those two are said again */
        return;
    }
    crowd.n_answers += strcmp(verb, "hello") != 0;
    if (strcmp(verb, "hello") != 0 || a->present)
        return;
    a->present = true;
    a->asked = false;
    crowd.n_present++;
    sample(clock_now_ns() - a->hello_ns);
}

/* This program did not get the processor, or the server cut the connection. */
static bool is_starved(const struct agent *a, int64_t now)
{
    return now - a->beat_ns > silent_ns || (a->late_ns && now - a->late_ns < silent_ns) || (a->lost_ns && now - a->lost_ns < mourned_ns);
}

static void take_leave(int watcher, int number)
{
    struct agent *a = &crowd.agents[number];

    if (!a->gone) {
        *(is_starved(a, clock_now_ns()) ? &crowd.n_starved : &crowd.n_stray) += 1;
        return;
    }
    crowd.left[watcher]++;
    sample(clock_now_ns() - a->gone_ns);
}

/* "evt.presence.join.c17", or a digest of many: the kind's first letter and every "agent_id":"c17" in it. */
static void take_event(int watcher, const char *kind, const struct wire_message *msg)
{
    static const char mark[] = "\"agent_id\":\"c";
    const char *at = msg->body, *end = msg->body + msg->len;

    while ((at = memmem(at, (size_t)(end - at), mark, sizeof mark - 1))) {
        int number = atoi(at += sizeof mark - 1); /* a quote follows */

        if (number >= crowd.n_agents)
            continue; /* of a larger crowd that was here before */
        if (*kind == 'j')
            crowd.joined[watcher]++;
        else if (*kind == 'l')
            take_leave(watcher, number);
    }
}

/* A batch of a watch has many, each with the subject on which it was published. */
static uint64_t messages_in(const struct wire_message *msg)
{
    static const char head[] = "{\"messages\":[", mark[] = "{\"subject\":\"";
    const char *at = msg->body, *end = msg->body + msg->len;
    uint64_t n = 0;

    if (!strstr(msg->subject, ".sub.") || msg->len < sizeof head || memcmp(at, head, sizeof head - 1) != 0)
        return 1;
    for (; (at = memmem(at, (size_t)(end - at), mark, sizeof mark - 1)); at += sizeof mark)
        n++;
    return n;
}

/* "to.c17._muster.task_assignment": what the broker itself tells an agent. */
static void take_notice(int number, const char *type, const struct wire_message *msg)
{
    if (strcmp(type, "task_assignment") == 0)
        take_assignment(number, msg);
    else if (strcmp(type, "request_help") == 0)
        take_plea(number, msg);
}

static void on_message(struct wire *w, const struct wire_message *msg)
{
    const char *box = strstr(msg->subject, ".box.c"), *event = strstr(msg->subject, ".evt.presence."), *notice = strstr(msg->subject, "._muster.");

    if (notice)
        take_notice(atoi(strstr(msg->subject, ".to.c") + 5), notice + 9, msg);
    else if (box)
        take_answer(atoi(box + 6), strrchr(msg->subject, '.') + 1, msg);
    else if (event && is_watcher(w))
        take_event((int)(w - crowd.watchers), event + 14, msg);
    else
        crowd.n_heard += messages_in(msg);
}

const struct wire_calls agent_calls = {.on_in = on_in, .on_out = on_out, .on_message = on_message};

/* ---- beside the orders ---- */

void agents_beat_every(int64_t ms)
{
    beating_ns = ms * CLOCK_MS;
    next_beat_ns = clock_now_ns();
}

static void beat_on(int64_t now)
{
    int64_t gap;

    if (!beating_ns)
        return;
    gap = beating_ns / crowd.n_agents;
    if (next_beat_ns < now - CLOCK_S)
        next_beat_ns = now - CLOCK_S; /* who was held up does not make up for more than that */
    for (; next_beat_ns <= now; next_beat_ns += gap > 0 ? gap : 1) {
        struct agent *a = &crowd.agents[next_beater++ % crowd.n_agents];

        if (a->present && !a->gone && a->wire->state == WIRE_IN)
            agent_beat(a);
    }
}

/* All of them are looked at, not more than 20 times a second. */
static void knock_again(int64_t now)
{
    static int64_t looked_ns;

    if (crowd.n_in == crowd.n_begun || now - looked_ns < look_ns)
        return;
    looked_ns = now;
    for (int i = 0; i < crowd.n_begun; i++) {
        struct wire *w = &crowd.links[i];

        if (w->state == WIRE_AWAY && !w->cut && w->again_ns <= now)
            wire_knock(w);
    }
}

static void log_in(int64_t now)
{
    for (; crowd.n_begun < crowd.n_wanted && crowd.n_begun - crowd.n_in < AT_ONCE; crowd.n_begun++)
        wire_knock(&crowd.links[crowd.n_begun]);
    knock_again(now);
}

void turn(int wait_ms)
{
    int64_t now = clock_now_ns();

    log_in(now);
    beat_on(now);
    wire_turn(beating_ns ? 1 : wait_ms);
}

bool all_have(const int *heard, int n)
{
    for (int i = 0; i < crowd.n_watchers; i++)
        if (heard[i] < n)
            return false;
    return true;
}

void check(const struct order *o)
{
    if (clock_now_ns() < o->until_ns)
        return;
    (void)fprintf(stderr,
                  "crowd: %s %s: not over in time: %d in, %d present, first watcher heard %d joins and %d leaves, %" PRIu64 " answers, %" PRIu64
                  " messages heard, %" PRIu64 " errors\n",
                  o->word, o->text, crowd.n_in, crowd.n_present, crowd.n_watchers ? crowd.joined[0] : 0, crowd.n_watchers ? crowd.left[0] : 0,
                  crowd.n_answers, crowd.n_heard, crowd.n_errors);
    exit(1);
}

void await(const uint64_t *count, uint64_t n, const struct order *o)
{
    while (*count < n) {
        turn(10);
        check(o);
    }
}
