/* Verbs about streams that are followed; see echo.h. One at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "echo.h"

static void note(struct echo_follow *f, const char *text)
{
    size_t at = strlen(f->list);

    (void)snprintf(f->list + at, sizeof f->list - at, "%s\n", text);
}

/* One of a burst says which it is. */
static bool is_numbered(const struct muster_msg *msg)
{
    const char *text = msg->payload.data;

    return msg->payload.len > 1 && text[0] >= '0' && text[0] <= '9' && text[msg->payload.len - 1] == ' ';
}

static void note_msg(struct echo_follow *f, const struct muster_msg *msg)
{
    char text[200];

    f->n_msgs++;
    f->in_order = f->in_order && msg->seq > f->last_seq;
    f->last_seq = msg->seq;
    f->sum += (int64_t)msg->seq;
    f->n_wrong += is_numbered(msg) && strtoull(msg->payload.data, NULL, 10) != msg->seq /* up to the blank */;
    (void)snprintf(text, sizeof text, "%.100s:%.*s@%llu", msg->subject, msg->payload.len < 20 ? (int)msg->payload.len : 20,
                   (const char *)msg->payload.data, (unsigned long long)msg->seq);
    note(f, text);
}

static void on_told(void *arg, int code, const struct muster_msg *msg)
{
    struct echo *e = arg;
    struct echo_follow *f = &e->follow;
    char text[32];

    if (msg) {
        note_msg(f, msg);
    } else {
        (void)snprintf(text, sizeof text, "%d", code);
        note(f, text);
        f->n_ends += code == MUSTER_EAGAIN;
        f->n_lost += code == MUSTER_ELINK;
        f->n_gaps += code == MUSTER_ESTALE;
        f->n_gone += code == MUSTER_ENOTFOUND;
    }
    if (msg && f->n_msgs == f->stop_at)
        e->streams->unfollow(e->host, f->id);
    if (msg && f->n_msgs == f->hold_at)
        e->streams->hold_back(e->host, f->id, 1);
    if (msg && f->n_msgs == f->close_at) {
        e->streams->close(e->host, e->stream);
        e->stream = 0;
    }
}

/* {from, subject?, max, stop_at, hold_at, close_at}; the one before ends. */
static int do_follow(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const char *subject = arg_str(e, args, "subject", NULL);
    struct echo_follow *f = &e->follow;
    int code;

    e->streams->unfollow(e->host, f->id);
    memset(f, 0, sizeof *f);
    f->in_order = 1;
    f->stop_at = arg_int(e, args, "stop_at", -1);
    f->hold_at = arg_int(e, args, "hold_at", -1);
    f->close_at = arg_int(e, args, "close_at", -1);
    code = e->streams->follow(e->host, e->stream, subject ? msg->tenant : NULL, subject, (uint64_t)arg_int(e, args, "from", 1),
                              (uint32_t)arg_int(e, args, "max", 0), on_told, e, &f->id);
    return ANSWER(e, msg, {"code", NULL, code}, {"told", NULL, f->n_msgs});
}

static int do_unfollow(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    (void)args;
    e->streams->unfollow(e->host, e->follow.id);
    return ANSWER(e, msg, {"code", NULL, 0});
}

static int do_hold_back(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    int64_t n = e->follow.n_msgs;

    e->streams->hold_back(e->host, e->follow.id, (uint32_t)arg_int(e, args, "on", 1));
    return ANSWER(e, msg, {"code", NULL, 0}, {"told_inside", NULL, e->follow.n_msgs - n});
}

static int do_followed(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const struct echo_follow *f = &e->follow;

    (void)args;
    return ANSWER(e, msg, {"n", NULL, f->n_msgs}, {"ends", NULL, f->n_ends}, {"lost", NULL, f->n_lost}, {"gaps", NULL, f->n_gaps},
                  {"gone", NULL, f->n_gone}, {"last", NULL, (int64_t)f->last_seq}, {"sum", NULL, f->sum}, {"wrong", NULL, f->n_wrong}, {"ordered", NULL, f->in_order},
                  {"list", f->list, 0});
}

const struct verb echo_verbs_follow[] = {
    {"follow", do_follow}, {"unfollow", do_unfollow}, {"hold_back", do_hold_back}, {"followed", do_followed}, {NULL, NULL},
};
