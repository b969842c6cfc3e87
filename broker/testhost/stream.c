/* muster.stream/1 of the test host: streams in memory, with sequences and fences. Lane only. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "testhost/delivery.h"
#include "testhost/stored.h"

enum { MAX_READ = 1000 };
/* A call under way; which function fn is, its run() knows. */
struct op {
    struct due due;
    uint64_t handle;
    union {
        muster_stream_info_fn info;
        muster_stream_msg_fn msg;
        muster_stream_ack_fn ack;
    } fn;
    void *arg;
    char *pattern; /* "acme.cdc.>"; NULL: all */
    uint64_t from_seq, expected_seq;
    uint32_t max_msgs;
    struct sent *sent; /* an append that is on its way */
    struct sent *seen; /* the same as the test sees it */
};

static struct op *op_new(struct muster_test *t, int callback, uint64_t handle, void *arg,
                         void (*run)(struct muster_test *t, struct due *d, int code))
{
    struct op *op = must_alloc(sizeof *op);

    (void)t;
    op->due = (struct due){.kind = DUE_LINK, .callback = callback, .owner = handle, .run = run};
    op->handle = handle;
    op->arg = arg;
    return op;
}

static void op_free(struct op *op)
{
    free(op->pattern);
    free(op);
}

/* ---- opening and state --------------------------------------------------------------------------------------------------------- */

static void give_info(struct muster_test *t, struct op *op, const char *what, int code, const struct stream *s)
{
    struct arena *a = code ? NULL : arena_new(sizeof(struct muster_stream_info));
    struct muster_stream_info *info = a ? arena_take(a, sizeof *info) : NULL;

    if (info)
        stream_show(s, info);
    DURING(t, what, NULL, op->fn.info(op->arg, code, info));
    arena_end(a, "the state of a stream");
    op_free(op);
}

static void take_options(struct muster_test *t, struct stream *s, const struct handle *h)
{
    free(s->subjects);
    free(s->republish);
    s->subjects = must_copy(h->subjects);
    s->republish = must_copy(h->republish);
    s->max_msgs = h->max_msgs;
    s->max_msgs_per_subject = h->max_msgs_per_subject;
    stream_keep(t, s);
}

/* The one a test made says nothing of itself. */
static int open_as(struct muster_test *t, struct stream *s, const struct handle *h)
{
    if (*s->subjects && strcmp(s->subjects, h->subjects) != 0)
        return test_fail(t, MUSTER_EEXIST, "stream %s has the subjects %s, expected %s", h->name, s->subjects, h->subjects);
    if (*s->subjects && strcmp(s->republish, h->republish) != 0)
        return test_fail(t, MUSTER_EEXIST, "stream %s is republished to %s, expected %s", h->name, s->republish, h->republish);
    take_options(t, s, h);
    return 0;
}

static void run_open(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;
    struct handle *h = handle_find(t, op->handle);
    struct stream *s = h ? stream_named(t, h->name) : NULL;

    if (!h)
        code = MUSTER_ELINK;
    if (!code && !s)
        s = stream_make(t, h->name, "");
    if (!code)
        code = open_as(t, s, h);
    give_info(t, op, "stream open", code, s);
}

static size_t count_of(const char *s, char c)
{
    size_t n = 0;

    for (; *s; s++)
        n += *s == c;
    return n;
}

static int check_republish(struct muster_test *t, const struct muster_stream_options *o)
{
    const int call = CALL_STREAM_OPEN;

    if (MUSTER_HAS(o, republish) && o->republish &&
        (!subject_is_pattern(o->republish, strlen(o->republish)) || count_of(o->republish, '*') != count_of(o->subjects, '*') ||
         count_of(o->republish, '>') != count_of(o->subjects, '>')))
        return breach(t, call, "%s: republish \"%s\": expected a pattern with the wildcards of %s", o->name, o->republish, o->subjects);
    if (MUSTER_HAS(o, max_msgs_per_subject) && (o->max_msgs < 0 || o->max_msgs_per_subject < 0))
        return breach(t, call, "%s: max_msgs or max_msgs_per_subject are out of range", o->name);
    return 0;
}

static int check_options(struct muster_test *t, const struct muster_stream_options *o)
{
    const int call = CALL_STREAM_OPEN;

    if (!o || !MUSTER_HAS(o, max_bytes))
        return breach(t, call, "size is %u: expected sizeof(struct muster_stream_options)", o ? o->size : 0);
    if (!o->name || !name_is_legal(o->name, strlen(o->name)))
        return breach(t, call, "name \"%s\": expected 1 to 64 letters, digits, _ or -", o->name ? o->name : "NULL");
    if (!o->subjects || !subject_is_pattern(o->subjects, strlen(o->subjects)))
        return breach(t, call, "%s: subjects \"%s\": expected a pattern", o->name, o->subjects ? o->subjects : "NULL");
    if (o->max_age_ns < 0 || o->max_bytes < 0 || o->replicas > 5)
        return breach(t, call, "%s: max_age_ns, max_bytes or replicas are out of range", o->name);
    return check_republish(t, o);
}

static struct handle *handle_new(struct muster_test *t, const char *name)
{
    struct handle *h = must_alloc(sizeof *h);

    *h = (struct handle){.id = ++t->next_id, .name = must_copy(name)};
    list_add(&t->handles, h);
    return h;
}

void handle_drop(struct muster_test *t, size_t i)
{
    struct handle *h = t->handles.items[i];

    list_remove(&t->handles, i);
    follow_close(t, h->id);
    free(h->name);
    free(h->subjects);
    free(h->republish);
    free(h);
}

static int stream_open(const struct muster_host *host, const struct muster_stream_options *options, muster_stream_info_fn fn,
                       void *arg, uint64_t *ret_stream)
{
    struct muster_test *t = test_of(host, CALL_STREAM_OPEN);
    int err = call_begin(t, CALL_STREAM_OPEN);
    struct handle *h;
    struct op *op;

    if (!err)
        err = check_options(t, options);
    if (!err && (!fn || !ret_stream))
        err = breach(t, CALL_STREAM_OPEN, "%s is NULL", fn ? "ret_stream" : "fn");
    if (!err && !t->up)
        err = MUSTER_ELINK;
    if (err)
        return err;
    h = handle_new(t, options->name);
    h->subjects = must_copy(options->subjects);
    h->republish = must_copy(MUSTER_HAS(options, republish) && options->republish ? options->republish : options->subjects);
    h->max_msgs = MUSTER_HAS(options, max_msgs) ? options->max_msgs : 0;
    h->max_msgs_per_subject = MUSTER_HAS(options, max_msgs_per_subject) ? options->max_msgs_per_subject : 0;
    op = op_new(t, CALL_STREAM_OPEN_CB, h->id, arg, run_open);
    op->fn.info = fn;
    due_add(t, &op->due, t->now_ns);
    *ret_stream = h->id;
    return 0;
}

static void stream_close(const struct muster_host *host, uint64_t stream)
{
    struct muster_test *t = test_of(host, CALL_STREAM_CLOSE);

    if (call_begin(t, CALL_STREAM_CLOSE) != 0)
        return;
    for (size_t i = 0; i < t->handles.n; i++)
        if (((struct handle *)t->handles.items[i])->id == stream) {
            handle_drop(t, i); /* what is under way finds it gone, and completes with MUSTER_ELINK */
            return;
        }
}

static void run_info(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;
    struct handle *h = handle_find(t, op->handle);
    struct stream *s = h ? stream_named(t, h->name) : NULL;

    if (!code)
        code = !h ? MUSTER_ELINK : !s ? MUSTER_ENOTFOUND : 0;
    give_info(t, op, "stream info", code, s);
}

static int stream_info(const struct muster_host *host, uint64_t stream, muster_stream_info_fn fn, void *arg)
{
    struct muster_test *t = test_of(host, CALL_STREAM_INFO);
    int err = call_begin(t, CALL_STREAM_INFO);
    struct op *op;

    if (!err && !handle_need(t, CALL_STREAM_INFO, stream, fn != NULL))
        err = MUSTER_EINVAL;
    if (!err && !t->up)
        err = MUSTER_ELINK;
    if (err)
        return err;
    op = op_new(t, CALL_STREAM_INFO_CB, stream, arg, run_info);
    op->fn.info = fn;
    due_add(t, &op->due, t->now_ns);
    return 0;
}

static int check_attach(struct muster_test *t, const char *name, const struct muster_tenant *tenant)
{
    const int call = CALL_STREAM_ATTACH;

    if (!name || !name_is_legal(name, strlen(name)))
        return breach(t, call, "name \"%s\": expected 1 to 64 letters, digits, _ or -", name ? name : "NULL");
    if (tenant && !tenant_is(t, call, tenant))
        return MUSTER_EINVAL;
    if ((strcmp(name, HISTORY) == 0) != (tenant != NULL))
        return breach(t, call, "stream %s: expected %s", name, tenant ? "no tenant" : "the tenant whose history is meant");
    return 0;
}

static int stream_attach(const struct muster_host *host, const char *name, const struct muster_tenant *tenant, muster_stream_info_fn fn,
                         void *arg, uint64_t *ret_stream)
{
    struct muster_test *t = test_of(host, CALL_STREAM_ATTACH);
    int err = call_begin(t, CALL_STREAM_ATTACH);
    char full[NAME_MAX_LEN + sizeof HISTORY + 1];
    struct handle *h;
    struct op *op;

    if (!err)
        err = check_attach(t, name, tenant);
    if (!err && (!fn || !ret_stream))
        err = breach(t, CALL_STREAM_ATTACH, "%s is NULL", fn ? "ret_stream" : "fn");
    if (!err && !t->up)
        err = MUSTER_ELINK;
    if (err)
        return err;
    (void)snprintf(full, sizeof full, "%s%s%s", name, tenant ? "_" : "", tenant ? tenant->name : "");
    h = handle_new(t, full);
    h->attached = true;
    h->tenant = tenant;
    op = op_new(t, CALL_STREAM_ATTACH_CB, h->id, arg, run_info);
    op->fn.info = fn;
    due_add(t, &op->due, t->now_ns);
    *ret_stream = h->id;
    return 0;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------------- */

static void give_msg(struct muster_test *t, struct op *op, const struct sent *m)
{
    struct arena *a = arena_new(msg_room(&m->seen));
    struct muster_msg *msg = stored_msg(t, a, m);

    DURING(t, "stream message", m->seen.subject, op->fn.msg(op->arg, 0, msg));
    arena_end(a, "a message of a stream");
}

static void give_end(struct muster_test *t, struct op *op, int code)
{
    DURING(t, "stream message", NULL, op->fn.msg(op->arg, code, NULL));
    op_free(op);
}

static void run_last(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;
    struct handle *h = handle_find(t, op->handle);
    struct stream *s = h ? stream_named(t, h->name) : NULL;
    struct sent *m = NULL;

    for (uint64_t seq = s ? s->last_seq : 0; !code && seq && seq >= s->first_seq && !m; seq--)
        if (stream_has(op->pattern, stream_at(s, seq)))
            m = stream_at(s, seq);
    if (!code)
        code = !h ? MUSTER_ELINK : !m ? MUSTER_ENOTFOUND : 0;
    if (code) {
        give_end(t, op, code);
        return;
    }
    give_msg(t, op, m);
    op_free(op);
}

static void run_read(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;
    uint64_t seq = op->from_seq;
    uint32_t n = 0;

    for (;; seq++) { /* the stream is looked up anew: the plugin's function may close it */
        struct handle *h = handle_find(t, op->handle);
        struct stream *s = h ? stream_named(t, h->name) : NULL;

        if (!code && !h)
            code = MUSTER_ELINK;
        if (s && seq < s->first_seq)
            seq = s->first_seq;
        if (code || n == op->max_msgs)
            break;
        if (!s || seq > s->last_seq) {
            code = MUSTER_ENOTFOUND;
            break;
        }
        if (stream_has(op->pattern, stream_at(s, seq))) {
            n++;
            give_msg(t, op, stream_at(s, seq));
        }
    }
    give_end(t, op, code);
}

static int start_reading(struct muster_test *t, int call, struct op *op, const struct muster_tenant *tenant, const char *subject)
{
    int err = handle_wanted(t, call, op->handle, op->fn.msg != NULL, &(struct wanted){tenant, subject}, &op->pattern);

    if (err) {
        op_free(op);
        return err;
    }
    due_add(t, &op->due, t->now_ns);
    return 0;
}

static int stream_last(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                       muster_stream_msg_fn fn, void *arg)
{
    struct muster_test *t = test_of(host, CALL_STREAM_LAST);
    int err = call_begin(t, CALL_STREAM_LAST);
    struct op *op;

    if (err)
        return err;
    op = op_new(t, CALL_STREAM_LAST_CB, stream, arg, run_last);
    op->fn.msg = fn;
    return start_reading(t, CALL_STREAM_LAST, op, tenant, subject);
}

static int stream_read(const struct muster_host *host, uint64_t stream, const struct muster_tenant *tenant, const char *subject,
                       uint64_t from_seq, uint32_t max_msgs, muster_stream_msg_fn fn, void *arg)
{
    struct muster_test *t = test_of(host, CALL_STREAM_READ);
    int err = call_begin(t, CALL_STREAM_READ);
    struct op *op;

    if (err)
        return err;
    if (!max_msgs || max_msgs > MAX_READ)
        return breach(t, CALL_STREAM_READ, "max_msgs %u: expected 1 to %d", max_msgs, MAX_READ);
    op = op_new(t, CALL_STREAM_READ_CB, stream, arg, run_read);
    op->fn.msg = fn;
    op->from_seq = from_seq;
    op->max_msgs = max_msgs;
    return start_reading(t, CALL_STREAM_READ, op, tenant, subject);
}

/* ---- appending ----------------------------------------------------------------------------------------------------------------- */

static void run_append(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;
    struct handle *h = handle_find(t, op->handle);
    struct stream *s = h ? stream_named(t, h->name) : NULL;
    uint64_t seq = 0;

    if (!code)
        code = !h ? MUSTER_ELINK : !s ? MUSTER_ENOTFOUND : 0;
    if (!code && op->expected_seq != MUSTER_UNFENCED && op->expected_seq != s->last_seq)
        code = MUSTER_ESTALE;
    if (!code) {
        seq = op->seen->seen.seq = s->last_seq + 1;
        stream_store(t, s, op->sent);
    } else {
        sent_free(op->sent);
        seq = code == MUSTER_ESTALE && s ? s->last_seq : 0;
    }
    if (op->fn.ack)
        DURING(t, "stream ack", NULL, op->fn.ack(op->arg, code, seq));
    op_free(op);
}

static int check_append(struct muster_test *t, uint64_t stream, const struct muster_append *a)
{
    const int call = CALL_STREAM_APPEND;
    const struct handle *h = handle_need(t, call, stream, true);
    int err;

    if (!h)
        return MUSTER_EINVAL;
    if (h->attached)
        return test_fail(t, MUSTER_EACCES, "append(): stream %s is kept by others", h->name);
    if (!a || !MUSTER_HAS(a, arg))
        return breach(t, call, "size is %u: expected sizeof(struct muster_append)", a ? a->size : 0);
    err = check_outgoing(t, call, &(struct outgoing){a->tenant, a->subject, a->headers, a->n_headers, a->payload});
    if (!err && !subject_match(h->subjects, a->subject))
        err = breach(t, call, "subject %s is not within those of the stream, %s", a->subject, h->subjects);
    return err;
}

static int stream_append(const struct muster_host *host, uint64_t stream, const struct muster_append *a)
{
    struct muster_test *t = test_of(host, CALL_STREAM_APPEND);
    int err = call_begin(t, CALL_STREAM_APPEND);
    struct op *op;

    if (!err)
        err = check_append(t, stream, a);
    if (!err && MUSTER_HAS(a, lease) && a->lease && !lease_holds(t, a->lease))
        err = MUSTER_ESTALE;
    if (!err && !t->up)
        err = MUSTER_ELINK;
    if (err)
        return err;
    op = op_new(t, CALL_STREAM_APPEND_CB, stream, a->arg, run_append);
    op->fn.ack = a->acked;
    op->expected_seq = a->expected_seq;
    op->sent = sent_make(t, MUSTER_TEST_APPENDED, a->tenant, a->subject, a->headers, a->n_headers, a->payload);
    op->sent->seen.stream = must_copy(handle_find(t, stream)->name);
    op->seen = sent_add(t, MUSTER_TEST_APPENDED, a->tenant, a->subject, a->headers, a->n_headers, a->payload);
    op->seen->seen.stream = must_copy(op->sent->seen.stream);
    due_add(t, &op->due, t->now_ns);
    return 0;
}

const struct muster_stream test_stream = {.size = sizeof test_stream,
                                          .open = stream_open,
                                          .close = stream_close,
                                          .info = stream_info,
                                          .last = stream_last,
                                          .append = stream_append,
                                          .read = stream_read,
                                          .attach = stream_attach,
                                          .follow = follow_begin,
                                          .unfollow = follow_end,
                                          .hold_back = follow_hold};
