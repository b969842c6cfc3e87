/*
 * bare_pipe - reads a slot and publishes every insert into a stream, acknowledgements awaited: one process, one table, no bounds, no
 * routing, no take-over. What a bridge costs that does nothing but carry.
 *
 * Same     Subjects, headers and bodies are the plugin's byte for byte (body.h), each with the expected last sequence.
 * How      js_PublishMsgAsync() with 8,192 in flight, the library's own way. With --live the library sends every message at once, and
 *          the program runs until it is ended.
 */
#include <inttypes.h>
#include <nats/nats.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "body.h"
#include "common.h"
#include "connect.h"

struct pipe {
    natsConnection *nc;
    jsCtx *js;
    uint64_t last_seq; /* of the stream */
};

static void must(natsStatus s, const char *what)
{
    if (s != NATS_OK)
        fail("%s: %s", what, nats_GetLastError(NULL) ? nats_GetLastError(NULL) : natsStatus_GetText(s));
}

static void on_refused(jsCtx *js, jsPubAckErr *error, void *arg)
{
    (void)js;
    (void)arg;
    fail("a publish was refused: %s", error->ErrText ? error->ErrText : natsStatus_GetText(error->Err));
}

static void pipe_open(struct pipe *p, const struct args *a)
{
    natsOptions *opts;
    jsOptions how;

    must(natsOptions_Create(&opts), "options");
    must(natsOptions_SetURL(opts, a->url), "url");
    must(natsOptions_SetSendAsap(opts, a->live), "options");
    if (a->creds)
        must(natsOptions_SetUserCredentialsFromFiles(opts, a->creds, NULL), "creds");
    must(bench_connect(&p->nc, opts), "connect");
    natsOptions_Destroy(opts);
    must(jsOptions_Init(&how), "options");
    how.PublishAsync.MaxPending = 8192;
    how.PublishAsync.StallWait = 60000; /* a busy machine may stall a publisher for longer than the library's 200 ms */
    how.PublishAsync.ErrHandler = on_refused;
    must(natsConnection_JetStream(&p->js, p->nc, &how), "JetStream");
}

static void publish(struct pipe *p, const struct body *b)
{
    jsPubOptions how;
    natsMsg *msg;
    natsStatus s = natsMsg_Create(&msg, b->subject, NULL, b->text, (int)b->len);

    if (s == NATS_OK)
        s = natsMsgHeader_Set(msg, "Muster-Epoch", "1790000000");
    if (s == NATS_OK)
        s = natsMsgHeader_Set(msg, "Muster-Seq", b->seq);
    if (s == NATS_OK)
        s = natsMsgHeader_Set(msg, "Muster-Lsn", b->position);
    if (s == NATS_OK)
        s = natsMsgHeader_Set(msg, "Muster-Key", b->key);
    must(s, "message");
    must(jsPubOptions_Init(&how), "options");
    how.ExpectLastSeq = p->last_seq++; /* none on the first message of all: 0 means that to the library */
    must(js_PublishMsgAsync(p->js, &msg, &how), "publish");
}

static uint64_t carry(struct slot *slot, struct pipe *p, struct body *b, bool live)
{
    uint64_t rows = 0;

    do {
        slot_next(slot);
        if (slot->data[0] == 'B')
            body_begin(b, slot->data);
        if (slot->data[0] != 'I')
            continue;
        body_insert(b, slot->data);
        publish(p, b);
        rows++;
    } while (live || !is_marker(slot));
    return rows;
}

int main(int argc, char **argv)
{
    static struct body body;
    struct args args = {0};
    struct slot slot;
    struct pipe pipe = {0};
    uint64_t rows;

    args_parse(&args, argc, argv);
    body.source = args.source;
    body.table = args.table;
    pipe_open(&pipe, &args);
    slot_open(&slot, &args);
    rows = carry(&slot, &pipe, &body, args.live);
    must(js_PublishAsyncComplete(pipe.js, NULL), "acknowledgements");
    report(rows, clock_wall_ns(), PQbackendPID(slot.conn));
    slot_close(&slot);
    jsCtx_Destroy(pipe.js);
    natsConnection_Destroy(pipe.nc);
    nats_Close();
    return 0;
}
