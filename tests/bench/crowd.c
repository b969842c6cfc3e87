/*
 * crowd - agents by the thousand in one process, and watchers who hear of all of them.
 *
 *   crowd PORT TENANT N LINKS CREDS WATCHERS CREDS
 *
 * LINKS 0: each agent has a connection of its own, and its credentials as <CREDS>/c<number>.creds. LINKS k: they share k connections
 * with the credentials in the file CREDS, a broker's, which may speak for anybody: the brokers see no connection of theirs.
 *
 * Orders come on standard input, a line each; each is answered by a line of JSON with "seconds". What runs beside them: agents that beat.
 *   login            every connection is made
 *   join             every agent that is not present says hello, 10,000 under way, again after 2 s, then 4, up to 30; over when all are
 *                    answered and each watcher has heard of all
 *   arrive           both at once: each agent says hello as soon as it is let in
 *   beat RATE N      N beats, RATE a second, of one agent after the other; the last is followed by a question, and its answer awaited
 *   beating MS       from now on each agent beats every MS ms; 0 ends it
 *   cut K            the last K that are present lose their connections; over when each watcher has heard that they left
 *   hush K           the last K that are present beat no more; likewise, from each one's last beat
 *   wait MS          nothing, for so long
 *   listen [KIND]    from now on each agent hears what is said to it (to), to all (all), by its watches (sub), to all on a subject that is
 *                    none of the broker's (raw), or all of it
 *   tell R W         c0 says something R times to each other agent by its own subject, with the header of a cast, W times under way; over
 *                    when all of it is heard
 *   shout R W        c0 says something R times to all at once; likewise
 *   raw R W          likewise, on the subject that is none of the broker's
 *   cast R W         c0 has it cast R times to all of site one, who are all; W under way, a cast is over when it is answered and heard
 *   bare R W         likewise, by whoever listens to bench.<tenant>.cast
 *   send R W         c0 sends R messages to inboxes, of one agent after the other, W under way; over when all are answered
 *   history CHANNEL  each agent asks for the history of a channel, at once, again when it was told to; over when all are answered
 *   open TABLE       each agent opens a watch of the rows of a table with its own number as owner; likewise
 *   follow MS        each agent opens a watch of what is said to all, in batches of MS ms; likewise
 *   heard N          over when N more messages were heard, those in batches counted each
 *   slots N ASKS     from now on hello says that an agent has N slots for tasks, and with ASKS 1 that it accepts what it is given by itself
 *   work             from now on each agent does what it is given at once: it completes it, and accepts it before where ASKS is 1. Else it holds it
 *   tasks N W        work; c0 submits N tasks, W under way; over when each is acknowledged at each step, though other tasks may be among those done
 *   flow RATE N      likewise, RATE a second, whatever becomes of them
 *   flood N W        c0 submits N tasks, W not yet acknowledged; over when all are
 *   drain N          work until N more are done, whoever submitted them; then hold
 *   heirs K          the last K that are present lose their connections; over when all that they hold is with others
 *   orphans K        the last K that are present beat no more; likewise
 *   help N W         c0 asks for help N times, W under way; who is asked claims, and the first to have it answers; over when all answers are accepted
 *   alike N W        likewise, with problems of which all but one word are the same
 * "stray": leaves of those who neither were cut nor hushed; "starved": of those among them whom this program itself left silent for too long,
 * because it did not get the processor, or whom the server cut; "lost": connections that it cut; all since it began. "p50_ms" to "max_ms": join, the answer to hello; cut and hush, from
 * the cut or the last beat to each watcher's hearing of it; tasks, flow, flood and drain, from submit to the assignment in an agent's hand; heirs
 * and orphans, from the cut or the last beat to the assignment in another's; help, from the request to the claim's answer.
 *
 * Threads  One.
 */
#include "crowd.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_SIZE = 512, LINE_SIZE = 128 };
static const int64_t patience_ns = 240 * CLOCK_S;

struct crowd crowd;

static const struct {
    const char *word;
    void (*run)(const struct order *o);
} orders[] = {
    {"login", order_login},   {"join", order_join},       {"arrive", order_arrive}, {"beat", order_beat}, {"beating", order_beating}, {"cut", order_cut},
    {"hush", order_hush},     {"wait", order_wait},       {"listen", order_listen}, {"raw", order_raw},   {"shout", order_shout},     {"tell", order_tell},
    {"cast", order_cast},     {"bare", order_bare},       {"send", order_send},     {"open", order_open}, {"follow", order_follow},   {"heard", order_heard},
    {"history", order_history}, {"slots", order_slots},  {"work", order_work},     {"tasks", order_tasks}, {"flow", order_flow},    {"flood", order_flood},
    {"drain", order_drain},   {"heirs", order_heirs},     {"orphans", order_orphans}, {"help", order_help},
    {"alike", order_alike},
};

static void begin(void)
{
    memset(crowd.joined, 0, (size_t)crowd.n_watchers * sizeof *crowd.joined);
    memset(crowd.left, 0, (size_t)crowd.n_watchers * sizeof *crowd.left);
    crowd.n_again = crowd.n_errors = 0;
}

static void print(int64_t began_ns)
{
    printf("{\"seconds\": %.4f, \"present\": %d, \"stray\": %d, \"starved\": %d, \"lost\": %d, \"again\": %" PRIu64 ", \"errors\": %" PRIu64, (double)(clock_now_ns() - began_ns) / 1e9,
           crowd.n_present, crowd.n_stray, crowd.n_starved, crowd.n_lost, crowd.n_again, crowd.n_errors);
    samples_print();
    puts("}");
    (void)fflush(stdout);
}

static void obey(const char *line)
{
    int64_t began = clock_now_ns();
    struct order o = {.until_ns = began + patience_ns};

    (void)sscanf(line, "%15s %63s", o.word, o.text);
    (void)sscanf(line, "%*s %" SCNd64 " %" SCNd64, &o.a, &o.b);
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++)
        if (strcmp(o.word, orders[i].word) == 0) {
            begin();
            orders[i].run(&o);
            print(began);
            return;
        }
    (void)fprintf(stderr, "crowd: %s: no such order\n", line);
    exit(1);
}

/* ---- life ---- */

static void make_agents(const char *creds)
{
    int n = crowd.n_links ? crowd.n_links : crowd.n_agents;
    struct wire_key *keys = make((size_t)n, sizeof *keys);
    char path[PATH_SIZE];

    crowd.agents = make((size_t)crowd.n_agents, sizeof *crowd.agents);
    crowd.links = make((size_t)n, sizeof *crowd.links);
    if (crowd.n_links)
        wire_key_load(creds, &keys[0]);
    for (int i = 0; i < n; i++) {
        (void)snprintf(path, sizeof path, "%s/c%d.creds", creds, i);
        if (!crowd.n_links)
            wire_key_load(path, &keys[i]);
        crowd.links[i].key = crowd.n_links ? &keys[0] : &keys[i];
    }
    for (int i = 0; i < crowd.n_agents; i++)
        crowd.agents[i].wire = &crowd.links[i % n];
}

static void make_watchers(const char *creds)
{
    static struct wire_key key;

    crowd.watchers = make((size_t)crowd.n_watchers, sizeof *crowd.watchers);
    crowd.joined = make((size_t)crowd.n_watchers, sizeof *crowd.joined);
    crowd.left = make((size_t)crowd.n_watchers, sizeof *crowd.left);
    wire_key_load(creds, &key);
    for (int i = 0; i < crowd.n_watchers; i++) {
        crowd.watchers[i].key = &key;
        wire_knock(&crowd.watchers[i]);
        while (crowd.watchers[i].state != WIRE_IN)
            wire_turn(10);
        wire_flush(&crowd.watchers[i]);
        while (crowd.watchers[i].n_flushing)
            wire_turn(10);
    }
}

/* Agents beat between orders too. */
static void obey_all(void)
{
    char line[LINE_SIZE];
    size_t len = 0;
    ssize_t n;

    while ((n = read(STDIN_FILENO, line + len, 1)) != 0) {
        if (n < 0) {
            turn(10);
        } else if (line[len] == '\n' || len == sizeof line - 2) {
            line[len] = '\0';
            len = 0;
            obey(line);
        } else {
            len++;
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 8)
        die("expected PORT TENANT N LINKS CREDS WATCHERS CREDS");
    crowd.tenant = argv[2];
    crowd.n_agents = atoi(argv[3]);
    crowd.n_links = atoi(argv[4]);
    crowd.n_watchers = atoi(argv[6]);
    wire_open((uint16_t)atoi(argv[1]), &agent_calls);
    make_agents(argv[5]);
    make_watchers(argv[7]);
    (void)fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    puts("ready");
    (void)fflush(stdout);
    obey_all();
    return 0;
}
