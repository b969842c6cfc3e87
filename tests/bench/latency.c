/*
 * latency - commits rows and hears them: from the commit's return to the message in a subscriber's hand, on one clock in one process.
 *
 * Threads  Two writers, each with a connection of its own and half of the rate; the NATS library's threads for the subscription. Each
 *          row has a slot in two arrays, written once by its writer and once by the subscriber.
 * Output   "sent=N heard=N rate=R p50_us=… p99_us=… max_us=… full_p50_us=…"; full: from before the INSERT. A message can come before the
 *          commit's return has, so that a small figure may be negative.
 */
#include <inttypes.h>
#include <nats/nats.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "common.h"
#include "connect.h"

enum { N_WRITERS = 2 };

struct sample {
    int64_t begin_ns, commit_ns;
    _Atomic int64_t heard_ns;
};

static struct args args;
static struct sample *samples;
static uint64_t first_id;
static _Atomic uint64_t n_heard, n_sent;

static void on_message(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg)
{
    int64_t now = clock_now_ns();
    const char *at = strstr(natsMsg_GetData(msg), "\"id\":"); /* the library ends the data with a NUL */
    uint64_t id = at ? strtoull(at + 5, NULL, 10) : 0;
    int64_t none = 0;

    (void)nc;
    (void)sub;
    (void)arg;
    if (id >= first_id && id - first_id < args.count && atomic_compare_exchange_strong(&samples[id - first_id].heard_ns, &none, now))
        atomic_fetch_add(&n_heard, 1);
    natsMsg_Destroy(msg);
}

static void sleep_until(int64_t ns)
{
    struct timespec ts = {.tv_sec = ns / CLOCK_S, .tv_nsec = ns % CLOCK_S};

    (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL); /* a signal: the row comes a little early */
}

static PGconn *connect_writer(void)
{
    PGconn *conn = PQconnectdb(args.dsn);
    char text[256];
    PGresult *r;

    (void)snprintf(text, sizeof text,
                   "INSERT INTO public.%s SELECT 't' || $1::bigint %% 8, $1, $1, 'name of ' || $1, 1234.56, repeat('x', 80), now()",
                   args.table);
    r = PQprepare(conn, "row", text, 0, NULL);
    if (PQresultStatus(r) != PGRES_COMMAND_OK)
        fail("%s", PQerrorMessage(conn));
    PQclear(r);
    return conn;
}

static void write_row(PGconn *conn, uint64_t i)
{
    char id[24];
    const char *values[] = {id};
    PGresult *r;

    (void)snprintf(id, sizeof id, "%" PRIu64, first_id + i);
    samples[i].begin_ns = clock_now_ns();
    r = PQexecPrepared(conn, "row", 1, values, NULL, NULL, 0);
    samples[i].commit_ns = clock_now_ns();
    if (PQresultStatus(r) != PGRES_COMMAND_OK)
        fail("%s", PQerrorMessage(conn));
    PQclear(r);
    atomic_fetch_add(&n_sent, 1);
}

static void *run_writer(void *arg)
{
    uint64_t which = (uint64_t)(uintptr_t)arg;
    PGconn *conn = connect_writer();
    int64_t begin = clock_now_ns();

    for (uint64_t i = which; i < args.count; i += N_WRITERS) {
        if (args.rate)
            sleep_until(begin + (int64_t)(i * (uint64_t)CLOCK_S / args.rate));
        write_row(conn, i);
    }
    PQfinish(conn);
    return NULL;
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
    int64_t *after = calloc(args.count, sizeof *after), *full = calloc(args.count, sizeof *full);

    if (!after || !full)
        fail("no memory");
    for (uint64_t i = skip; i < args.count; i++) {
        int64_t heard = atomic_load(&samples[i].heard_ns);

        if (!heard)
            continue;
        after[n] = heard - samples[i].commit_ns;
        full[n++] = heard - samples[i].begin_ns;
    }
    if (n == 0)
        fail("nothing was heard");
    qsort(after, n, sizeof *after, compare);
    qsort(full, n, sizeof *full, compare);
    (void)printf("sent=%" PRIu64 " heard=%" PRIu64 " rate=%.0f p50_us=%.0f p99_us=%.0f max_us=%.0f full_p50_us=%.0f\n", atomic_load(&n_sent),
                 atomic_load(&n_heard), (double)args.count / seconds, (double)after[n / 2] / 1e3, (double)after[n * 99 / 100] / 1e3,
                 (double)after[n - 1] / 1e3, (double)full[n / 2] / 1e3);
    free(after);
    free(full);
}

static natsConnection *subscribe(void)
{
    natsConnection *nc;
    natsSubscription *sub;
    natsOptions *opts;
    char subject[128];
    natsStatus s = natsOptions_Create(&opts);

    (void)snprintf(subject, sizeof subject, "mst.*.cdc.%s.>", args.source);
    if (s == NATS_OK)
        s = natsOptions_SetURL(opts, args.url);
    if (s == NATS_OK && args.creds)
        s = natsOptions_SetUserCredentialsFromFiles(opts, args.creds, NULL);
    if (s == NATS_OK)
        s = bench_connect(&nc, opts);
    if (s == NATS_OK)
        s = natsConnection_Subscribe(&sub, nc, subject, on_message, NULL);
    if (s == NATS_OK)
        s = natsSubscription_SetPendingLimits(sub, -1, -1);
    if (s == NATS_OK)
        s = natsConnection_Flush(nc);
    if (s != NATS_OK)
        fail("%s", nats_GetLastError(NULL));
    natsOptions_Destroy(opts);
    return nc;
}

int main(int argc, char **argv)
{
    pthread_t writers[N_WRITERS];
    int64_t begin, end;

    args_parse(&args, argc, argv);
    samples = calloc(args.count, sizeof *samples);
    if (!samples)
        fail("no memory");
    first_id = (uint64_t)(clock_wall_ns() / 1000);
    (void)subscribe(); /* until the process ends */
    begin = clock_now_ns();
    for (int i = 0; i < N_WRITERS; i++)
        if (pthread_create(&writers[i], NULL, run_writer, (void *)(uintptr_t)i) != 0)
            fail("no thread");
    for (int i = 0; i < N_WRITERS; i++)
        (void)pthread_join(writers[i], NULL); /* cannot fail: each is joined once */
    end = clock_now_ns() + 15 * CLOCK_S;
    while (atomic_load(&n_heard) < args.count && clock_now_ns() < end)
        sleep_until(clock_now_ns() + CLOCK_MS);
    print_latencies((double)(clock_now_ns() - begin) / 1e9);
    return atomic_load(&n_heard) == args.count ? 0 : 1;
}
