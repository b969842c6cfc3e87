/* Who of a cast has taken it: receipts, and the answer that tells of them; see cast.h. The lane. */
#include "fanout/cast.h"

#include <stdlib.h>
#include <string.h>

#include "fanout/roll.h"
#include "fanout/stored.h"

enum { RECEIPTS_BYTES_MAX = 800000 };

/* ---- the answer --------------------------------------------------------------------------------------------------------- */

static void write_receipt(struct muster_writer *w, uint32_t encoding, const struct receipt *r)
{
    char at[CLOCK_RFC3339_SIZE];

    clock_rfc3339(r->wall_ns, at);
    writer_map(w, r->omitted ? 4 : 3);
    writer_text(w, "agent");
    writer_text(w, r->agent);
    writer_text(w, "at");
    writer_text(w, at);
    writer_text(w, "body");
    if (!r->omitted) {
        stored_body(w, encoding, (struct muster_bytes){r->body.data, r->body.len});
        return;
    }
    writer_null(w);
    writer_text(w, "omitted");
    writer_int(w, (int64_t)r->omitted);
}

static void write_answer(const struct cast *c, struct muster_writer *w, uint32_t encoding, struct buf *out)
{
    writer_init(w, encoding, out);
    writer_map(w, 2);
    writer_text(w, "delivered_to");
    writer_int(w, (int64_t)c->n);
    writer_text(w, "receipts");
    writer_array(w, c->n_receipts);
    for (size_t i = 0; i < c->n_receipts; i++)
        write_receipt(w, encoding, &c->receipts[i]);
}

static void on_kept(void *arg, const struct muster_sql_result *result)
{
    struct cast *c = arg;

    ask_reply_outcome(c->a, result);
    cast_free(c);
}

static void keep_answer(struct cast *c)
{
    struct muster_writer w;
    struct buf out = {0};
    int err;

    write_answer(c, &w, MUSTER_JSON, &out);
    err = writer_finish(&w, NULL);
    if (!err)
        err = ask_done(c->a, (struct muster_bytes){out.data, out.len}, on_kept, c);
    buf_done(&out);
    if (err)
        cast_fail(c, err, "the answer could not be kept");
}

void cast_finish(struct cast *c)
{
    struct muster_writer w;
    struct buf out = {0};

    cast_forget(c);
    if (c->once) {
        keep_answer(c);
        return;
    }
    write_answer(c, &w, c->a->msg->encoding, &out);
    ask_reply_written(c->a, &w, &out);
    cast_free(c);
}

/* ---- receipts ----------------------------------------------------------------------------------------------------------- */

static void keep_body(struct cast *c, struct receipt *r, struct muster_bytes body)
{
    size_t n_bytes = body.len * 4 / 3;

    if (body.len && c->n_bytes + n_bytes > RECEIPTS_BYTES_MAX) {
        r->omitted = body.len;
        return;
    }
    buf_put(&r->body, body.data, body.len);
    c->n_bytes += n_bytes;
}

static void take_receipt(struct cast *c, size_t i, const struct muster_msg *msg)
{
    const struct fanout *f = c->all->f;
    struct receipt *r;

    if (!roll_mark(&c->roll, i))
        return; /* it says it twice */
    if (c->n_receipts == c->wanted) {
        f->metrics->add(f->host, c->all->m_late, NULL, 1);
        return;
    }
    r = &c->receipts[c->n_receipts++];
    *r = (struct receipt){.agent = c->names[i], .wall_ns = f->timer->wall_now(f->host)};
    keep_body(c, r, msg->payload);
    f->metrics->add(f->host, c->all->m_receipts, NULL, 1);
    if (c->n_receipts == c->wanted && c->sent == c->n)
        cast_finish(c);
}

/* The answer to a receipt that came as a request; MUSTER_EAGAIN: it comes again. */
static int answer_receipt(const struct fanout *f, const struct muster_msg *msg, bool taken)
{
    static const char json[] = "{}", msgpack[] = "\x80";
    struct muster_bytes empty = {json, 2};
    int err;

    if (!msg->request)
        return 0;
    if (msg->encoding == MUSTER_MSGPACK)
        empty = (struct muster_bytes){msgpack, 1};
    err = taken ? f->bus->reply(f->host, msg->request, empty)
                : f->bus->reply_error(f->host, msg->request, "not_found", NULL, "no cast waits for this: it was answered, or has not asked this name");
    return err == MUSTER_EAGAIN ? err : 0;
}

/* Every broker hears it; the ref says whose it is, and the others are silent. */
int cast_on_receipt(void *self, const struct muster_msg *msg)
{
    struct fanout *f = self;
    struct casts *all = f->casts;
    const char *ref = strrchr(msg->subject, '.');
    struct cast *c = NULL;
    size_t i = 0;
    bool asked;
    int err;

    if (!ref || !msg->agent || strncmp(ref + 1, all->tag, strlen(all->tag)) != 0)
        return 0;
    c = map_get(&all->by_ref, ref + 1, strlen(ref + 1));
    asked = c && msg->tenant == c->a->msg->tenant && roll_find(&c->roll, msg->agent, &i);
    err = answer_receipt(f, msg, asked); /* before it is taken: what comes again is taken once */
    if (err)
        return err;
    if (asked)
        take_receipt(c, i, msg);
    else if (!c)
        f->metrics->add(f->host, all->m_late, NULL, 1);
    return 0;
}

void cast_on_due(void *self, int64_t now_ns)
{
    struct fanout *f = self;
    struct cast *c = f->casts->waiting, *next;

    for (; c; c = next) {
        next = c->next;
        if (c->until_ns <= now_ns && c->sent == c->n)
            cast_finish(c);
    }
}
