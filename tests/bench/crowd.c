/*
 * crowd - agents by the thousand in one process, and watchers who hear of all of them.
 *
 *   crowd PORT TENANT N LINKS CREDS WATCHERS CREDS
 *
 * LINKS 0: each agent has a connection of its own, and its credentials as <CREDS>/c<number>.creds. LINKS k: they share k connections
 * with the credentials in the file CREDS, a broker's, which may speak for anybody: the brokers see no connection of theirs.
 *
 * Commands come on standard input, a line each; each is answered by a line of JSON with "seconds". What runs beside them: agents that beat.
 *   login            every connection is made
 *   join             every agent that is not present says hello, again after 2 s; over when all are answered and each watcher has heard of all
 *   arrive           both at once: each agent says hello as soon as it is let in
 *   beat RATE N      N beats, RATE a second, of one agent after the other; the last is followed by a question, and its answer awaited
 *   beating MS       from now on each agent beats every MS ms; 0 ends it
 *   cut K            the last K that are present lose their connections; over when each watcher has heard that they left
 *   hush K           the last K that are present beat no more; likewise, from each one's last beat
 *   wait MS          nothing, for so long
 *   listen           from now on each agent hears what is said to it, to all, and by its watches
 *   tell R, shout R  c0 says something R times to each agent by its own subject, or to all at once; over when all of it is heard
 *   cast R W         c0 has it cast R times to all who can plan, W casts under way; likewise
 *   send R W         c0 sends R messages to inboxes, of one agent after the other, W under way; over when all are answered
 *   history CHANNEL  each agent asks for the history of a channel, at once; over when all are answered
 *   open             each agent opens a watch of the rows of public.watched with its own number as owner; likewise
 *   heard N          over when N more messages were heard
 *   end
 * "stray": leaves of those who neither were cut nor hushed. "p50_ms" to "max_ms": join, the answer to hello; cut and hush, from the cut or
 * the last beat to each watcher's hearing of it.
 *
 * Threads  One.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "wire.h"

enum { SUBJECT_SIZE = 192, AT_ONCE = 1000, PATH_SIZE = 512, BODY_SIZE = 512 };
static const char note[] = "{\"text\":\"" /* 200 bytes, as much as an agent says in a line or two */
                           "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
                           "01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678\"}";
static const int64_t again_ns = 2 * CLOCK_S, patience_ns = 240 * CLOCK_S;

struct agent {
    struct wire *wire;
    int64_t hello_ns, beat_ns, gone_ns; /* when it was said last; gone_ns: when it was cut */
    bool present, gone, asked;
};

static const char *tenant;
static int n_agents, n_links, n_watchers;
static struct agent *agents;
static struct wire *links, *watchers;
static struct wire_key *keys, watcher_key;
static int n_in, n_begun, n_present, n_gone;
static uint64_t n_answers, n_heard; /* of anything but hello; and of what others said */
static bool hello_when_in;
static int *joined, *left; /* of each watcher, since the command began */
static int stray;
static uint64_t n_again, n_errors;
static int64_t *samples;
static size_t n_samples, samples_cap;
static int64_t beating_ns, next_beat_ns;
static int next_beater;

/* ---- samples ---- */

static void sample(int64_t ns)
{
    if (n_samples == samples_cap) {
        samples_cap = samples_cap ? 2 * samples_cap : 4096;
        samples = realloc(samples, samples_cap * sizeof *samples);
        if (!samples)
            die("memory");
    }
    samples[n_samples++] = ns;
}

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static void print(int64_t began_ns)
{
    qsort(samples, n_samples, sizeof *samples, by_time);
    printf("{\"seconds\": %.4f, \"n\": %zu, \"present\": %d, \"stray\": %d, \"again\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"heard\": %" PRIu64,
           (double)(clock_now_ns() - began_ns) / 1e9, n_samples, n_present, stray, n_again, n_errors, n_heard);
    if (n_samples)
        printf(", \"p50_ms\": %.2f, \"p99_ms\": %.2f, \"max_ms\": %.2f", (double)samples[n_samples / 2] / 1e6,
               (double)samples[n_samples * 99 / 100] / 1e6, (double)samples[n_samples - 1] / 1e6);
    puts("}");
    (void)fflush(stdout);
    n_samples = 0;
}

/* ---- what agents say ---- */

static int number_of(const struct agent *a)
{
    return (int)(a - agents);
}

static void ask(struct agent *a, const char *service, const char *verb, bool asks, const char *body)
{
    char subject[SUBJECT_SIZE], reply[SUBJECT_SIZE];

    (void)snprintf(subject, sizeof subject, "mst.%s.rpc.c%d.%s.%s", tenant, number_of(a), service, verb);
    (void)snprintf(reply, sizeof reply, "mst.%s.box.c%d.k%d.%s", tenant, number_of(a), (int)(a->wire - links), verb);
    wire_publish(a->wire, subject, asks ? reply : NULL, body);
}

static void say(struct agent *a, const char *verb, bool asks, const char *body)
{
    ask(a, "presence", verb, asks, body);
}

static void hello(struct agent *a)
{
    char body[BODY_SIZE];

    (void)snprintf(body, sizeof body, "{\"session\":\"s%d-%d\",\"capabilities\":[\"plan\",\"review\"],\"labels\":{\"team\":\"t%d\"}}", (int)getpid(),
                   number_of(a), number_of(a) % 10);
    if (!a->hello_ns)
        a->hello_ns = clock_now_ns();
    a->asked = true;
    a->beat_ns = clock_now_ns(); /* a hello is one */
    say(a, "hello", true, body);
}

static void beat(struct agent *a)
{
    a->beat_ns = clock_now_ns();
    say(a, "beat", false, "{}");
}

/* ---- what is heard ---- */

static void on_in(struct wire *w)
{
    char subject[SUBJECT_SIZE];

    if (w >= watchers && w < watchers + n_watchers) {
        (void)snprintf(subject, sizeof subject, "mst.%s.evt.presence.>", tenant);
        wire_subscribe(w, subject);
        return;
    }
    n_in++;
    (void)snprintf(subject, sizeof subject, "mst.%s.box.*.k%d.*", tenant, (int)(w - links));
    if (!n_links)
        (void)snprintf(subject, sizeof subject, "mst.%s.box.c%d.>", tenant, (int)(w - links));
    wire_subscribe(w, subject);
    if (hello_when_in)
        hello(&agents[w - links]);
}

static void take_answer(int number, const char *verb, const struct wire_message *msg)
{
    struct agent *a = &agents[number];

    if (memmem(msg->body, msg->len, "\"error\"", 7)) {
        if (n_errors++ == 0)
            (void)fprintf(stderr, "crowd: %.*s\n", (int)msg->len, msg->body);
        return;
    }
    n_answers += strcmp(verb, "hello") != 0;
    if (strcmp(verb, "hello") != 0 || a->present)
        return;
    a->present = true;
    a->asked = false;
    n_present++;
    sample(clock_now_ns() - a->hello_ns);
}

static void take_leave(int watcher, int number)
{
    struct agent *a = &agents[number];

    if (!a->gone) {
        stray++;
        return;
    }
    left[watcher]++;
    sample(clock_now_ns() - a->gone_ns);
}

/* "evt.presence.join.c17", or a digest of many: the kind's first letter and every "agent_id":"c17" in it. */
static void take_event(int watcher, const char *kind, const struct wire_message *msg)
{
    static const char mark[] = "\"agent_id\":\"c";
    const char *at = msg->body, *end = msg->body + msg->len;

    while ((at = memmem(at, (size_t)(end - at), mark, sizeof mark - 1))) {
        int number = atoi(at += sizeof mark - 1); /* a quote follows */

        if (number >= n_agents)
            continue; /* of a larger crowd that was here before */
        if (*kind == 'j')
            joined[watcher]++;
        else if (*kind == 'l')
            take_leave(watcher, number);
    }
}

static void on_message(struct wire *w, const struct wire_message *msg)
{
    const char *box = strstr(msg->subject, ".box.c"), *event = strstr(msg->subject, ".evt.presence.");

    if (box)
        take_answer(atoi(box + 6), strrchr(msg->subject, '.') + 1, msg);
    else if (event && w >= watchers && w < watchers + n_watchers)
        take_event((int)(w - watchers), event + 14, msg);
    else
        n_heard++;
}

/* ---- what runs beside the commands ---- */

static void beat_on(int64_t now)
{
    int64_t gap;

    if (!beating_ns)
        return;
    gap = beating_ns / n_agents;
    if (next_beat_ns < now - CLOCK_S)
        next_beat_ns = now - CLOCK_S; /* who was held up does not make up for more than that */
    for (; next_beat_ns <= now; next_beat_ns += gap > 0 ? gap : 1) {
        struct agent *a = &agents[next_beater++ % n_agents];

        if (a->present && !a->gone && a->wire->state == WIRE_IN)
            beat(a);
    }
}

static void turn(int wait_ms)
{
    beat_on(clock_now_ns());
    wire_turn(beating_ns ? 1 : wait_ms);
}

static void begin_command(void)
{
    memset(joined, 0, (size_t)n_watchers * sizeof *joined);
    memset(left, 0, (size_t)n_watchers * sizeof *left);
    n_samples = 0;
    stray = 0;
    n_again = n_errors = 0;
}

static bool all_have(const int *heard, int n)
{
    for (int i = 0; i < n_watchers; i++)
        if (heard[i] < n)
            return false;
    return true;
}

static void check(int64_t until, const char *what)
{
    if (clock_now_ns() < until)
        return;
    (void)fprintf(stderr, "crowd: %s: %d in, %d present, first watcher has heard %d joins and %d leaves\n", what, n_in, n_present,
                  n_watchers ? joined[0] : 0, n_watchers ? left[0] : 0);
    exit(1);
}

/* ---- commands ---- */

static void begin_logins(int n)
{
    for (; n_begun < n && n_begun - n_in < AT_ONCE; n_begun++)
        wire_knock(&links[n_begun]);
    for (int i = 0; i < n_begun; i++)
        if (links[i].state == WIRE_AWAY && !links[i].cut && links[i].again_ns <= clock_now_ns())
            wire_knock(&links[i]);
}

static void login(int64_t until)
{
    int n = n_links ? n_links : n_agents;

    while (n_in < n) {
        begin_logins(n);
        turn(10);
        check(until, "login");
    }
}

/* Once a turn each that was not answered for a while is asked again: all of them are looked at, not more than 20 times a second. */
static void ask_again(int64_t now)
{
    static int64_t looked_ns;

    if (now - looked_ns < 50 * CLOCK_MS)
        return;
    looked_ns = now;
    for (int i = 0; i < n_agents; i++) {
        struct agent *a = &agents[i];

        if (a->asked && !a->gone && a->wire->state == WIRE_IN && now - a->beat_ns > again_ns) {
            n_again++;
            hello(a);
        }
    }
}

static void await_joins(int n, int64_t until)
{
    while (n_present < n_agents || !all_have(joined, n)) {
        ask_again(clock_now_ns());
        turn(10);
        check(until, "join");
    }
}

static void command_join(int64_t until)
{
    int n = 0;

    for (int i = 0; i < n_agents; i++)
        if (!agents[i].present) {
            agents[i].hello_ns = 0;
            hello(&agents[i]);
            n++;
            if (i % 64 == 63)
                turn(0);
        }
    await_joins(n, until);
}

static void command_arrive(int64_t until)
{
    hello_when_in = true;
    login(until);
    await_joins(n_agents, until);
    hello_when_in = false;
}

/* A beat that is answered has all before it behind it; one that finds too many waiting is said again. */
static void await_beat(int64_t until)
{
    uint64_t before = n_answers;
    int64_t asked_ns = 0;

    while (n_answers == before) {
        if (clock_now_ns() - asked_ns > CLOCK_S) {
            say(&agents[0], "beat", true, "{}");
            asked_ns = clock_now_ns();
        }
        turn(10);
        check(until, "beat");
    }
}

static void command_beat(int64_t rate, int64_t n, int64_t until)
{
    int64_t begin = clock_now_ns();

    for (int64_t i = 0; i < n;) {
        int64_t due = rate ? (clock_now_ns() - begin) * rate / CLOCK_S + 1 : i + 512;

        for (; i < n && i < due; i++)
            beat(&agents[i % n_agents]);
        if (rate)
            turn(i < n ? 1 : 0);
        else
            await_beat(until); /* as fast as they are taken, and not faster */
    }
    await_beat(until);
}

static void lose(int k, bool cut)
{
    int done = 0;

    for (int i = n_agents - 1; i >= 0 && done < k; i--) {
        struct agent *a = &agents[i];

        if (!a->present || a->gone)
            continue;
        a->gone = true;
        a->present = false;
        n_present--;
        n_gone++;
        done++;
        if (cut)
            wire_cut(a->wire);
        a->gone_ns = cut ? clock_now_ns() : a->beat_ns;
    }
}

static void command_lose(int k, bool cut, int64_t until)
{
    if (cut && n_links)
        die("cut: agents that share connections came");
    lose(k, cut);
    while (!all_have(left, k)) {
        turn(10);
        check(until, cut ? "cut" : "hush");
    }
}

static void command_wait(int64_t ms)
{
    int64_t end = clock_now_ns() + ms * CLOCK_MS;

    while (clock_now_ns() < end)
        turn(10);
}

/* ---- what is said, and heard ---- */

static void command_listen(void)
{
    static const char *const patterns[] = {"mst.%s.to.c%d.>", "mst.%s.all.>", "mst.%s.sub.c%d.>"};
    char subject[SUBJECT_SIZE];

    for (int i = 0; i < n_agents; i++)
        for (size_t k = 0; k < 3; k++) {
            (void)snprintf(subject, sizeof subject, patterns[k], tenant, i);
            wire_subscribe(agents[i].wire, subject);
        }
    command_wait(500);
}

static void await(const uint64_t *count, uint64_t n, int64_t until, const char *what)
{
    while (*count < n) {
        turn(10);
        check(until, what);
    }
}

static void command_tell(int64_t times, bool shouts, int64_t until)
{
    uint64_t due = n_heard + (uint64_t)times * (uint64_t)n_agents;
    char subject[SUBJECT_SIZE];

    for (int64_t r = 0; r < times; r++) {
        for (int i = 0; i < (shouts ? 1 : n_agents); i++) {
            (void)snprintf(subject, sizeof subject, shouts ? "mst.%s.all.c0.note" : "mst.%s.to.c%d.c0.note", tenant, i);
            wire_publish(agents[0].wire, subject, NULL, note);
        }
        turn(0);
        if (r >= 8) /* what is under way is bounded, as an agent's would be */
            await(&n_heard, due - (uint64_t)(times - r + 7) * (uint64_t)n_agents, until, "tell");
    }
    await(&n_heard, due, until, "tell");
}

static void command_cast(int64_t times, int64_t window, int64_t until)
{
    uint64_t answered = n_answers, due = n_heard + (uint64_t)times * (uint64_t)(n_agents - 1);
    char body[BODY_SIZE];

    (void)snprintf(body, sizeof body, "{\"capabilities\":[\"plan\"],\"type\":\"note\",\"payload\":%s}", note);
    for (int64_t r = 0; r < times; r++) {
        ask(&agents[0], "message", "cast", true, body);
        if (r + 1 >= window)
            await(&n_answers, answered + (uint64_t)(r + 2 - window), until, "cast");
    }
    await(&n_answers, answered + (uint64_t)times, until, "cast");
    await(&n_heard, due, until, "cast");
}

static void command_send(int64_t times, int64_t window, int64_t until)
{
    uint64_t answered = n_answers;
    char body[BODY_SIZE];

    for (int64_t r = 0; r < times; r++) {
        (void)snprintf(body, sizeof body, "{\"to\":\"c%d\",\"type\":\"note\",\"payload\":%s}", (int)(r % n_agents), note);
        ask(&agents[0], "message", "send", true, body);
        if (r + 1 >= window)
            await(&n_answers, answered + (uint64_t)(r + 2 - window), until, "send");
    }
    await(&n_answers, answered + (uint64_t)times, until, "send");
}

static void command_history(const char *channel, int64_t until)
{
    uint64_t answered = n_answers;
    char body[BODY_SIZE];

    (void)snprintf(body, sizeof body, "{\"channel\":\"%s\",\"limit\":100}", channel);
    for (int i = 0; i < n_agents; i++)
        ask(&agents[i], "message", "history", true, body);
    await(&n_answers, answered + (uint64_t)n_agents, until, "history");
}

static void command_open(int64_t until)
{
    uint64_t answered = n_answers;
    char body[BODY_SIZE];

    for (int i = 0; i < n_agents; i++) {
        (void)snprintf(body, sizeof body, "{\"schema\":\"public\",\"table\":\"watched\",\"events\":[\"*\"],\"filter\":\"owner=eq.%d\"}", i);
        ask(&agents[i], "watch", "open", true, body);
        if (i >= 64)
            await(&n_answers, answered + (uint64_t)(i - 63), until, "open");
    }
    await(&n_answers, answered + (uint64_t)n_agents, until, "open");
}

static bool obey_more(const char *word, const char *text, int64_t a, int64_t b, int64_t until)
{
    if (strcmp(word, "listen") == 0)
        command_listen();
    else if (strcmp(word, "tell") == 0 || strcmp(word, "shout") == 0)
        command_tell(a, *word == 's', until);
    else if (strcmp(word, "cast") == 0)
        command_cast(a, b, until);
    else if (strcmp(word, "send") == 0)
        command_send(a, b, until);
    else if (strcmp(word, "history") == 0)
        command_history(text, until);
    else if (strcmp(word, "open") == 0)
        command_open(until);
    else if (strcmp(word, "heard") == 0)
        await(&n_heard, n_heard + (uint64_t)a, until, "heard");
    else
        return false;
    return true;
}

static bool obey(const char *line)
{
    int64_t a = 0, b = 0, began = clock_now_ns(), until = began + patience_ns;
    char word[16] = "", text[64] = "";

    (void)sscanf(line, "%15s %" SCNd64 " %" SCNd64, word, &a, &b);
    (void)sscanf(line, "%*s %63s", text);
    begin_command();
    if (strcmp(word, "login") == 0)
        login(until);
    else if (strcmp(word, "join") == 0)
        command_join(until);
    else if (strcmp(word, "arrive") == 0)
        command_arrive(until);
    else if (strcmp(word, "beat") == 0)
        command_beat(a, b, until);
    else if (strcmp(word, "beating") == 0)
        beating_ns = a * CLOCK_MS, next_beat_ns = began;
    else if (strcmp(word, "cut") == 0)
        command_lose((int)a, true, until);
    else if (strcmp(word, "hush") == 0)
        command_lose((int)a, false, until);
    else if (strcmp(word, "wait") == 0)
        command_wait(a);
    else if (!obey_more(word, text, a, b, until))
        return false;
    print(began);
    return true;
}

/* ---- life ---- */

static void *make(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);

    if (!p)
        die("memory");
    return p;
}

static void make_agents(const char *creds)
{
    int n = n_links ? n_links : n_agents;
    char path[PATH_SIZE];

    agents = make((size_t)n_agents, sizeof *agents);
    links = make((size_t)n, sizeof *links);
    keys = make((size_t)n, sizeof *keys);
    if (n_links)
        wire_key_load(creds, &keys[0]);
    for (int i = 0; i < n; i++) {
        (void)snprintf(path, sizeof path, "%s/c%d.creds", creds, i);
        if (!n_links)
            wire_key_load(path, &keys[i]);
        links[i].key = n_links ? &keys[0] : &keys[i];
    }
    for (int i = 0; i < n_agents; i++)
        agents[i].wire = &links[i % n];
}

static void make_watchers(const char *creds)
{
    watchers = make((size_t)n_watchers, sizeof *watchers);
    joined = make((size_t)n_watchers, sizeof *joined);
    left = make((size_t)n_watchers, sizeof *left);
    wire_key_load(creds, &watcher_key);
    for (int i = 0; i < n_watchers; i++) {
        watchers[i].key = &watcher_key;
        wire_knock(&watchers[i]);
        while (watchers[i].state != WIRE_IN)
            wire_turn(10);
    }
    for (int i = 0; i < 20; i++) /* their subscriptions are on the way */
        wire_turn(5);
}

int main(int argc, char **argv)
{
    static const struct wire_calls calls = {.on_in = on_in, .on_message = on_message};
    char line[128];
    size_t len = 0;

    if (argc != 8)
        die("expected PORT TENANT N LINKS CREDS WATCHERS CREDS");
    tenant = argv[2];
    n_agents = atoi(argv[3]);
    n_links = atoi(argv[4]);
    n_watchers = atoi(argv[6]);
    wire_open((uint16_t)atoi(argv[1]), &calls);
    make_agents(argv[5]);
    make_watchers(argv[7]);
    (void)fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    puts("ready");
    (void)fflush(stdout);
    for (;;) { /* agents beat between commands too */
        ssize_t n = read(STDIN_FILENO, line + len, 1);

        if (n == 0)
            return 0;
        if (n < 0) {
            turn(10);
        } else if (line[len] == '\n' || len == sizeof line - 2) {
            line[len] = '\0';
            len = 0;
            if (!obey(line))
                return 0;
        } else {
            len++;
        }
    }
}
