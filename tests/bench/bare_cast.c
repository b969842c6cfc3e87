/*
 * bare_cast - a cast on nothing but the NATS library, that message.cast is compared with: each request on --subject has --body published to
 * --count agents, to <box>.c<number>.c0.note from number 1 on, with the header of a cast, and is answered. Who gets it is known before.
 * Prints "ready"; ends with its standard input.
 *
 * Threads  The NATS library's.
 */
#include <inttypes.h>
#include <nats/nats.h>
#include <stdio.h>
#include <string.h>

#include "common.h"
#include "connect.h"

enum { SUBJECT_SIZE = 128 };

static struct args args;

static void must(natsStatus s)
{
    if (s != NATS_OK)
        fail("%s", nats_GetLastError(NULL) ? nats_GetLastError(NULL) : natsStatus_GetText(s));
}

static void tell(natsConnection *nc, uint64_t agent)
{
    char subject[SUBJECT_SIZE];
    natsMsg *msg;

    (void)snprintf(subject, sizeof subject, "%s.c%" PRIu64 ".c0.note", args.box, agent);
    must(natsMsg_Create(&msg, subject, NULL, args.body, (int)strlen(args.body)));
    must(natsMsgHeader_Set(msg, "Muster-Cast", "01979f7e-2f00-7c4b-9c5a-3d1f6a7b8c9d"));
    must(natsConnection_PublishMsg(nc, msg));
    natsMsg_Destroy(msg);
}

static void on_request(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *arg)
{
    (void)sub;
    (void)arg;
    for (uint64_t i = 1; i <= args.count; i++)
        tell(nc, i);
    must(natsConnection_PublishString(nc, natsMsg_GetReply(msg), "{}"));
    must(natsConnection_Flush(nc));
    natsMsg_Destroy(msg);
}

int main(int argc, char **argv)
{
    natsConnection *nc;
    natsSubscription *sub;
    natsOptions *opts;

    args_parse(&args, argc, argv);
    must(natsOptions_Create(&opts));
    must(natsOptions_SetURL(opts, args.url));
    must(natsOptions_SetUserCredentialsFromFiles(opts, args.creds, NULL));
    must(natsOptions_SetIOBufSize(opts, 256 * 1024)); /* the broker's */
    must(bench_connect(&nc, opts));
    must(natsConnection_Subscribe(&sub, nc, args.subject, on_request, NULL));
    must(natsConnection_Flush(nc));
    (void)puts("ready");
    (void)fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
