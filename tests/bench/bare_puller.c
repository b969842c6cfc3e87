/*
 * bare_puller - a pull consumer on nothing but the NATS library, that does nothing with what it gets: the least that watching a stream can
 * cost. Reads the first --count messages of the stream --subject, 500 at a time, and prints "cpu_us=N", its own CPU time for them.
 *
 * Threads  The NATS library's.
 */
#include <nats/nats.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "common.h"
#include "connect.h"

enum { BATCH = 500 };

static struct args args;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrived = PTHREAD_COND_INITIALIZER;
static size_t n_arrived;

static void on_message(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg)
{
    const char *reply = natsMsg_GetReply(msg);
    bool is_stored = reply && strncmp(reply, "$JS.ACK.", 8) == 0;

    (void)nc;
    (void)sub;
    (void)arg;
    natsMsg_Destroy(msg);
    if (!is_stored)
        return;
    pthread_mutex_lock(&lock);
    if (++n_arrived % BATCH == 0)
        pthread_cond_signal(&arrived);
    pthread_mutex_unlock(&lock);
}

static void must(natsStatus s)
{
    if (s != NATS_OK)
        fail("%s", nats_GetLastError(NULL));
}

static natsConnection *connect_to(void)
{
    natsConnection *nc;
    natsOptions *opts;

    must(natsOptions_Create(&opts));
    must(natsOptions_SetURL(opts, args.url));
    must(natsOptions_SetUserCredentialsFromFiles(opts, args.creds, NULL));
    must(bench_connect(&nc, opts));
    return nc;
}

static void make_consumer(natsConnection *nc, char *next, size_t size)
{
    char subject[200], body[400];
    const char *name;
    natsMsg *answer;

    (void)snprintf(subject, sizeof subject, "$JS.API.CONSUMER.CREATE.%s", args.subject);
    (void)snprintf(body, sizeof body,
                   "{\"stream_name\":\"%s\",\"config\":{\"deliver_policy\":\"all\",\"ack_policy\":\"none\",\"replay_policy\":\"instant\",\"mem_storage\":true}}",
                   args.subject);
    must(natsConnection_RequestString(&answer, nc, subject, body, 5000));
    name = strstr(natsMsg_GetData(answer), "\"name\":\"");
    if (!name)
        fail("no consumer: %s", natsMsg_GetData(answer));
    (void)snprintf(next, size, "$JS.API.CONSUMER.MSG.NEXT.%s.%.*s", args.subject, (int)strcspn(name + 8, "\""), name + 8);
    natsMsg_Destroy(answer);
}

static void pull(natsConnection *nc, const char *next, const char *inbox, size_t upto)
{
    char body[40];

    (void)snprintf(body, sizeof body, "{\"batch\":%d}", BATCH);
    must(natsConnection_PublishRequestString(nc, next, inbox, body));
    pthread_mutex_lock(&lock);
    while (n_arrived < upto)
        pthread_cond_wait(&arrived, &lock);
    pthread_mutex_unlock(&lock);
}

static long long used_us(void)
{
    struct rusage usage;

    (void)getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000LL + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

int main(int argc, char **argv)
{
    natsConnection *nc;
    natsSubscription *sub;
    natsInbox *inbox;
    char next[300];
    long long before;

    args_parse(&args, argc, argv);
    nc = connect_to();
    must(natsInbox_Create(&inbox));
    must(natsConnection_Subscribe(&sub, nc, inbox, on_message, NULL));
    make_consumer(nc, next, sizeof next);
    before = used_us();
    for (size_t n = BATCH; n <= (size_t)args.count; n += BATCH)
        pull(nc, next, inbox, n);
    (void)printf("cpu_us=%lld\n", used_us() - before);
    return 0;
}
