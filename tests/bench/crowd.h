/*
 * bench/crowd.h - agents by the thousand in one process, and watchers who hear of all of them; see crowd.c for what it is told.
 *
 * Parts    agent.c    what agents say and hear, and that they beat      sample.c   how long things took
 *          arrival.c  login, join and arrive                            leave.c    beats, and agents that go
 *          talk.c     messages between agents                           watching.c watches
 *          working.c  tasks                                             helping.c  requests for help
 * Threads  One.
 */
#ifndef MUSTER_BENCH_CROWD_H
#define MUSTER_BENCH_CROWD_H

#include "base/clock.h"
#include "wire.h"

enum { SUBJECT_SIZE = 192, BODY_SIZE = 512 };

struct agent {
    struct wire *wire;
    int64_t hello_ns, beat_ns, gone_ns; /* when it was said last; gone_ns: when it was cut, or beat last */
    int64_t lost_ns;                    /* when the server cut it, last */
    int64_t again_ns;                   /* when an unanswered hello is said again */
    int64_t retry_ns;                   /* when history is asked for again that was refused for now; 0: it is not */
    int tries;
    int64_t late_ns; /* when it was silent for too long last, by this program's fault */
    bool present, gone, asked;
};

struct crowd {
    const char *tenant;
    int n_agents, n_links, n_watchers;
    struct agent *agents;
    struct wire *links, *watchers;
    int n_in, n_begun, n_wanted, n_present; /* connections that are in, were begun, are to be; agents that are present */
    uint64_t n_answers, n_heard; /* of anything but hello; and of what others said */
    bool hello_when_in, asks; /* asks: an assignment is accepted by the agent itself */
    int capacity;             /* slots for tasks, as hello says; 0: nothing of it */
    int *joined, *left; /* of each watcher, since the order came */
    /* Ever: leaves of those who neither were cut nor hushed, and of them those of whom this program or the server is the cause; connections that the server cut. */
    int n_stray, n_starved, n_lost;
    uint64_t n_again, n_errors; /* since the order came */
};
extern struct crowd crowd;

/* A line of standard input. */
struct order {
    char word[16], text[64]; /* text: the first argument as it stands */
    int64_t a, b;            /* the arguments as numbers; of one that is none, and one behind it, 0 */
    int64_t until_ns;        /* when patience is over */
};

/* ---- agent.c ---- */

extern const char note[]; /* 200 bytes, as much as an agent says in a line or two */
int number_of(const struct agent *a);
void agent_ask(struct agent *a, const char *service, const char *verb, bool asks, const char *body);
/* The answer's subject ends in the tag, verb-number: see take_word() and take_help(). */
void agent_ask_tagged(struct agent *a, const char *service, const char *verb, const char *tag, const char *body);
void agent_hello(struct agent *a);
void agent_beat(struct agent *a);
void agents_beat_every(int64_t ms); /* from now on; 0: no more */
extern const struct wire_calls agent_calls;
/* Send, hear and let agents beat, for at most wait_ms. */
void turn(int wait_ms);
/* Ends the program where patience is over. */
void check(const struct order *o);
void await(const uint64_t *count, uint64_t n, const struct order *o);
/* True when each watcher has heard of n. */
bool all_have(const int *heard, int n);
void *make(size_t n, size_t size); /* zeroes */

/* ---- sample.c ---- */

void sample(int64_t ns);
void samples_print(void); /* as members of an object of JSON, and forget them */

/* ---- leave.c, working.c, helping.c ---- */

void agents_lose(int k, bool cut); /* the last k that are present */
void take_assignment(int agent, const struct wire_message *msg);
void take_word(const char *tagged, const struct wire_message *msg);
void take_plea(int agent, const struct wire_message *msg);
void take_help(int agent, const char *tagged, const struct wire_message *msg);

/* ---- orders ---- */

void order_login(const struct order *o);
void order_join(const struct order *o);
void order_arrive(const struct order *o);

void order_beat(const struct order *o);
void order_beating(const struct order *o);
void order_cut(const struct order *o);
void order_hush(const struct order *o);
void order_wait(const struct order *o);

void order_listen(const struct order *o);
void order_raw(const struct order *o);
void order_shout(const struct order *o);
void order_tell(const struct order *o);
void order_cast(const struct order *o);
void order_bare(const struct order *o);
void order_send(const struct order *o);
void order_history(const struct order *o);

void order_open(const struct order *o);
void order_follow(const struct order *o);
void order_heard(const struct order *o);

void order_slots(const struct order *o);
void order_work(const struct order *o);
void order_tasks(const struct order *o);
void order_flow(const struct order *o);
void order_flood(const struct order *o);
void order_drain(const struct order *o);
void order_heirs(const struct order *o);
void order_orphans(const struct order *o);
void order_help(const struct order *o);
void order_alike(const struct order *o);

#endif
