/* The verb message.history: who may read what, and the answer; see history.h. The lane. */
#include "fanout/history.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/inbox.h"

/* ---- the end of a reader ------------------------------------------------------------------------------------------------ */

static void wish_free(struct history *h, struct wish *w)
{
    h->n_readers--;
    stored_drop(w->tail);
    if (w->c)
        channel_leave(w->c);
    free(w);
}

void history_answer(struct wish *w, const struct found *found)
{
    struct history *h = w->c->h;
    struct answer *answer = page_answer(w, found);

    h->f->metrics->add(h->f->host, h->m_answers, NULL, 1);
    room_taken(h);
    if (answer)
        ask_reply_shared(w->a, answer);
    else
        ask_failed(w->a, MUSTER_ENOMEM, "the answer could not be written");
    wish_free(h, w);
}

void history_fail(struct wish *w, int code)
{
    struct history *h = w->a->f->history;

    ask_failed(w->a, code == MUSTER_ENOTFOUND ? MUSTER_ELINK : code, "the channel could not be read");
    wish_free(h, w);
}

/* ---- the verb ----------------------------------------------------------------------------------------------------------- */

static void on_looked(struct waiter *waiter, int code)
{
    struct wish *w = (struct wish *)(void *)waiter;
    struct history *h = w->c->h;

    if (code == MUSTER_ENOTFOUND) {
        ask_error(w->a, "not_found", "channel", "channel: %s came; nothing stores it here", ask_str(w->a, "channel"));
        wish_free(h, w);
    } else if (code) {
        history_fail(w, code);
    } else {
        w->at = w->c->tape->info;
        channel_wait(w->c, w);
    }
}

static void look(struct wish *w)
{
    w->waiter.fn = on_looked;
    tape_look(w->c->tape, &w->waiter);
}

static void on_cursor(void *arg, int code, const struct cursor *cursor)
{
    struct wish *w = arg;
    struct history *h = w->c->h;

    if (code) {
        history_fail(w, code);
    } else if (!cursor->known) {
        ask_error(w->a, "not_found", "agent", "there is no such inbox");
        wish_free(h, w);
    } else {
        w->acked = cursor->acked;
        w->known_since_ns = cursor->since_wall_ns;
        look(w);
    }
}

/* Whose channels "to", "inbox" and "dead" are; NULL, with the error told: they are nobody's, or not the caller's to read. */
static const char *owner_of(struct ask *a, const char *channel)
{
    const char *agent = ask_str(a, "agent");
    bool dead = strcmp(channel, "dead") == 0, own = dead || strcmp(channel, "inbox") == 0 || strcmp(channel, "to") == 0;

    if (agent && !dead)
        ask_error(a, "invalid_argument", "agent", "agent: %s came with channel %s; it goes with channel dead alone", agent, channel);
    else if (agent && a->msg->role != MUSTER_ROLE_ADMIN && a->msg->role != MUSTER_ROLE_OPERATOR && strcmp(agent, a->msg->agent) != 0)
        ask_error(a, "permission_denied", "agent", "agent: %s came, the caller's own name was expected", agent);
    else if (!agent && own && ask_is_foreign(a))
        ask_error(a, "failed_precondition", "channel", "channel: only names of this tenant have an inbox");
    else
        return agent ? agent : a->msg->agent;
    return NULL;
}

/* False, with the error told, where there is no such channel or the caller does not hear it. */
static bool find_spec(struct ask *a, struct spec *spec)
{
    const struct fanout *f = a->f;
    const char *channel = ask_str(a, "channel"), *owner = owner_of(a, channel);

    if (!owner)
        return false;
    if (!spec_parse(channel, owner, f->tenants->name(a->msg->tenant), spec)) {
        ask_error(a, "invalid_argument", "channel",
                  "channel: %s came, expected all, to, inbox, dead, grp.<group>, evt.<service> or cdc.<source>.<schema>.<table>", channel);
        return false;
    }
    if (f->tenants->may_hear(f->host, a->msg->tenant, a->msg->agent, spec->hears) == 0)
        return true;
    ask_error(a, "permission_denied", "channel", "channel: %s came, which this name may not hear", channel);
    return false;
}

static bool fill_wish(struct wish *w)
{
    struct ask *a = w->a;
    const struct muster_value *after = value_get(a->args, "after");
    const char *since = ask_str(a, "since");

    w->limit = (uint32_t)ask_int(a, "limit", 100);
    w->dead = strcmp(ask_str(a, "channel"), "dead") == 0;
    w->has_after = after != NULL;
    w->has_since = since != NULL;
    w->after_epoch = after ? (uint64_t)value_int(value_get(after, "epoch")) : 0;
    w->after_seq = after ? (uint64_t)value_int(value_get(after, "seq")) : 0;
    w->since_ns = since ? clock_parse_rfc3339(since) : 0;
    if (!after || !since)
        return true;
    ask_error(a, "invalid_argument", "since", "since: it came with after; one of them was expected");
    return false;
}

void history_read(struct ask *a)
{
    struct fanout *f = a->f;
    struct spec spec;
    struct wish *w;
    int err = 0;

    if (!find_spec(a, &spec))
        return;
    w = calloc(1, sizeof *w);
    if (!w) {
        ask_failed(a, MUSTER_ENOMEM, "the channel could not be read");
        return;
    }
    w->a = a;
    if (!fill_wish(w)) {
        free(w);
        return;
    }
    f->history->n_readers++;
    w->c = channel_enter(f->history, a->msg->tenant, &spec);
    if (!w->c)
        err = f->link_up ? MUSTER_EAGAIN : MUSTER_ELINK;
    else if (spec.mail && !f->inbox->open)
        err = MUSTER_ELINK;
    else if (spec.mail)
        err = cursor_find(f, a->msg->tenant, spec.filter + strlen("msg."), on_cursor, w);
    else
        look(w);
    if (err)
        history_fail(w, err);
}

/* ---- the part ----------------------------------------------------------------------------------------------------------- */

static int history_create(struct fanout *f)
{
    struct history *h = calloc(1, sizeof *h);
    const struct {
        int type;
        const char *name, *help;
        uint64_t *metric;
    } metrics[] = {{MUSTER_COUNTER, "history_total", "Answers of message.history.", &h->m_answers},
                   {MUSTER_COUNTER, "history_shared_total", "Of them those that had the bytes of the one before.", &h->m_shared},
                   {MUSTER_COUNTER, "history_reads_total", "Reads of streams for a channel.", &h->m_reads},
                   {MUSTER_COUNTER, "history_wide_reads_total", "Reads for many inboxes together.", &h->m_wide},
                   {MUSTER_GAUGE, "history_readers", "Requests of message.history that wait for their answer.", &h->m_readers},
                   {MUSTER_GAUGE, "history_bytes", "Bytes of messages and answers kept for history.", &h->m_bytes}};
    int err = 0;

    if (!h)
        return f->host->fail(f->host, MUSTER_ENOMEM, "no memory for an instance");
    h->f = f;
    h->stalled_end = &h->stalled;
    f->history = h;
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics && !err; i++)
        err = f->metrics->make(f->host, metrics[i].type, metrics[i].name, metrics[i].help, NULL, metrics[i].metric);
    return err;
}

static void history_on_writable(struct fanout *f)
{
    cursors_resume(f);
    tapes_resume(f, &f->history->tapes);
    room_resume(f->history);
    wides_resume(f->history);
}

static void history_tick(struct fanout *f, int64_t now_ns)
{
    struct history *h = f->history;

    h->n_turn = 0;
    history_on_writable(f);
    wides_tick(h, now_ns);
    f->metrics->set(f->host, h->m_readers, NULL, (int64_t)h->n_readers);
    f->metrics->set(f->host, h->m_bytes, NULL, (int64_t)h->n_bytes);
}

static void history_destroy(struct fanout *f)
{
    if (!f->history)
        return;
    cursors_end(f);
    tapes_end(&f->history->tapes);
    wides_end(f->history);
    room_end(f->history);
    channels_done(f->history);
    wides_done(f->history);
    tapes_done(f, &f->history->tapes);
    free(f->history);
    f->history = NULL;
}

const struct fanout_part history_part = {.create = history_create, .destroy = history_destroy, .on_writable = history_on_writable, .tick = history_tick};
