/*
 * bare_echo - a service on nothing but the NATS library, that the plugins of bench_plugin.c are compared with: what comes to --subject goes
 * back as it came, with --live at once, or is counted where nobody waits. Prints "ready", and at the end of its standard input "heard=N".
 *
 * Threads  The NATS library's, one a subscription.
 */
#include <inttypes.h>
#include <nats/nats.h>
#include <stdatomic.h>
#include <stdio.h>

#include "common.h"
#include "connect.h"

static struct args args;
static _Atomic uint64_t n_heard;

static void on_message(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg)
{
    const char *reply = natsMsg_GetReply(msg);

    (void)sub;
    (void)arg;
    atomic_fetch_add(&n_heard, 1);
    if (reply && natsConnection_Publish(nc, reply, natsMsg_GetData(msg), natsMsg_GetDataLength(msg)) != NATS_OK)
        fail("%s", nats_GetLastError(NULL));
    natsMsg_Destroy(msg);
}

int main(int argc, char **argv)
{
    natsConnection *nc;
    natsSubscription *sub;
    natsOptions *opts;
    natsStatus s = natsOptions_Create(&opts);

    args_parse(&args, argc, argv);
    if (s == NATS_OK)
        s = natsOptions_SetURL(opts, args.url);
    if (s == NATS_OK)
        s = natsOptions_SetUserCredentialsFromFiles(opts, args.creds, NULL);
    if (s == NATS_OK && args.live)
        s = natsOptions_SetSendAsap(opts, true); /* else the library waits for more, which is better for many at a time */
    if (s == NATS_OK)
        s = bench_connect(&nc, opts);
    if (s == NATS_OK)
        s = natsConnection_QueueSubscribe(&sub, nc, args.subject, "bare", on_message, NULL);
    if (s == NATS_OK)
        s = natsSubscription_SetPendingLimits(sub, -1, -1);
    if (s == NATS_OK)
        s = natsConnection_Flush(nc);
    if (s != NATS_OK)
        fail("%s", nats_GetLastError(NULL));
    (void)puts("ready");
    (void)fflush(stdout);
    while (getchar() != EOF)
        ;
    (void)printf("heard=%" PRIu64 "\n", atomic_load(&n_heard));
    return 0;
}
