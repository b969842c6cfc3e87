/*
 * asker - an agent that asks a service, so many requests at a time, or tells it something that nobody answers.
 *
 * Shape    --subject is what is published, --box the prefix of the answers: without one nothing is answered. --window requests are under way
 *          at a time (1); of what is not answered --rate are sent a second.
 * Threads  The main thread publishes, the NATS library's hears. An answer has a slot, written once by each of them.
 * Output   "sent=N heard=N rate=R p50_us=… p99_us=… max_us=…": from before the publish to the answer in hand.
 */
#include <inttypes.h>
#include <nats/nats.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "common.h"
#include "connect.h"

static struct args args;
static int64_t *begun;
static _Atomic int64_t *heard;
static _Atomic uint64_t n_heard;
static sem_t room;

static void on_answer(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg)
{
    int64_t now = clock_now_ns(), none = 0;
    const char *dot = strrchr(natsMsg_GetSubject(msg), '.');
    uint64_t i = dot ? strtoull(dot + 1, NULL, 10) : UINT64_MAX;

    (void)nc;
    (void)sub;
    (void)arg;
    if (natsMsg_GetDataLength(msg) < 2 || (!args.lenient && strstr(natsMsg_GetData(msg), "\"error\"")))
        fail("answered: %.200s", natsMsg_GetData(msg));
    if (i < args.count && atomic_compare_exchange_strong(&heard[i], &none, now)) {
        atomic_fetch_add(&n_heard, 1);
        (void)sem_post(&room); /* cannot overflow: one for each that was taken */
    }
    natsMsg_Destroy(msg);
}

static natsConnection *connect_agent(void)
{
    natsConnection *nc;
    natsSubscription *sub;
    natsOptions *opts;
    char pattern[160];
    natsStatus s = natsOptions_Create(&opts);

    (void)snprintf(pattern, sizeof pattern, "%s.*", args.box ? args.box : "");
    if (s == NATS_OK)
        s = natsOptions_SetURL(opts, args.url);
    if (s == NATS_OK)
        s = natsOptions_SetUserCredentialsFromFiles(opts, args.creds, NULL);
    if (s == NATS_OK && args.window == 1)
        s = natsOptions_SetSendAsap(opts, true); /* else the library waits for more */
    if (s == NATS_OK)
        s = bench_connect(&nc, opts);
    if (s == NATS_OK && args.box)
        s = natsConnection_Subscribe(&sub, nc, pattern, on_answer, NULL);
    if (s == NATS_OK && args.box)
        s = natsSubscription_SetPendingLimits(sub, -1, -1);
    if (s == NATS_OK)
        s = natsConnection_Flush(nc);
    if (s != NATS_OK)
        fail("%s", nats_GetLastError(NULL));
    natsOptions_Destroy(opts);
    return nc;
}

static void sleep_until(int64_t ns)
{
    struct timespec ts = {.tv_sec = ns / CLOCK_S, .tv_nsec = ns % CLOCK_S};

    (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL); /* a signal: the message comes a little early */
}

static void wait_for_room(void)
{
    struct timespec limit;

    (void)clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 20;
    while (sem_timedwait(&room, &limit) != 0)
        if (time(NULL) > limit.tv_sec)
            fail("no answer for 20 s: %" PRIu64 " came", atomic_load(&n_heard));
}

static void publish_all(natsConnection *nc, const char *body)
{
    int64_t start = clock_now_ns();
    natsStatus s = NATS_OK;
    char reply[192];

    for (uint64_t i = 0; i < args.count && s == NATS_OK; i++) {
        if (args.rate)
            sleep_until(start + (int64_t)(i * (uint64_t)CLOCK_S / args.rate));
        if (args.box && !args.lenient)
            wait_for_room();
        (void)snprintf(reply, sizeof reply, "%s.%" PRIu64, args.box ? args.box : "", i);
        begun[i] = clock_now_ns();
        s = args.box ? natsConnection_PublishRequest(nc, args.subject, reply, body, (int)strlen(body))
                     : natsConnection_Publish(nc, args.subject, body, (int)strlen(body));
    }
    if (s == NATS_OK)
        s = natsConnection_Flush(nc);
    if (s != NATS_OK)
        fail("%s", nats_GetLastError(NULL));
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

/* The first tenth warms up connections, caches and clocks, and is not counted. */
static void print_latencies(double seconds)
{
    uint64_t skip = args.count / 10, n = 0;
    int64_t *took = calloc(args.count + 1, sizeof *took);

    if (!took)
        fail("no memory");
    for (uint64_t i = skip; i < args.count; i++)
        if (atomic_load(&heard[i]))
            took[n++] = atomic_load(&heard[i]) - begun[i];
    qsort(took, n, sizeof *took, compare);
    (void)printf("sent=%" PRIu64 " heard=%" PRIu64 " rate=%.0f p50_us=%.0f p99_us=%.0f max_us=%.0f\n", args.count, atomic_load(&n_heard),
                 (double)args.count / seconds, n ? (double)took[n / 2] / 1e3 : 0, n ? (double)took[n * 99 / 100] / 1e3 : 0,
                 n ? (double)took[n - 1] / 1e3 : 0);
    free(took);
}

int main(int argc, char **argv)
{
    char body[256];
    natsConnection *nc;
    int64_t begin;

    args.window = 1;
    args_parse(&args, argc, argv);
    begun = calloc(args.count + 1, sizeof *begun);
    heard = calloc(args.count + 1, sizeof *heard);
    if (!begun || !heard || !args.subject || !args.creds || sem_init(&room, 0, (unsigned int)args.window) != 0)
        fail("expected --subject, --creds and memory for --count");
    (void)snprintf(body, sizeof body, "{\"text\":\"%0200d\"}", 7);
    nc = connect_agent();
    begin = clock_now_ns();
    publish_all(nc, args.body ? args.body : body);
    for (uint64_t i = 0; args.box && i < args.window; i++)
        wait_for_room();
    print_latencies((double)(clock_now_ns() - begin) / 1e9);
    return 0;
}
