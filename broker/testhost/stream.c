/* muster.stream/1 of the test host: streams in memory, with sequences and fences. Lane only. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "testhost/delivery.h"
#include "testhost/inside.h"

enum { MAX_READ = 1000 };

struct stream {
    char *name, *subjects;
    struct list msgs; /* of struct sent; the one of sequence n is at n - first_seq */
    uint64_t first_seq, last_seq, n_bytes;
    int64_t created_wall_ns;
};

struct handle {
    uint64_t id;
    struct stream *stream; /* NULL until it is opened */
    char *name, *subjects;
};

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

static struct stream *find_stream(struct muster_test *t, const char *name)
{
    for (size_t i = 0; i < t->streams.n; i++) {
        struct stream *s = t->streams.items[i];

        if (strcmp(s->name, name) == 0)
            return s;
    }
    return NULL;
}

static struct handle *find_handle(struct muster_test *t, uint64_t id)
{
    for (size_t i = 0; i < t->handles.n; i++) {
        struct handle *h = t->handles.items[i];

        if (h->id == id)
            return h;
    }
    return NULL;
}

static struct stream *make_stream(struct muster_test *t, const char *name, const char *subjects)
{
    struct stream *s = must_alloc(sizeof *s);

    s->name = must_copy(name);
    s->subjects = must_copy(subjects);
    s->first_seq = 1;
    s->created_wall_ns = muster_test_wall_now(t);
    list_add(&t->streams, s);
    return s;
}

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

static void fill_info(const struct stream *s, struct muster_stream_info *info)
{
    *info = (struct muster_stream_info){.size = sizeof *info,
                                        .first_seq = s->first_seq,
                                        .last_seq = s->last_seq,
                                        .n_msgs = s->msgs.n,
                                        .n_bytes = s->n_bytes,
                                        .created_wall_ns = s->created_wall_ns};
}

static void give_info(struct muster_test *t, struct op *op, const char *what, int code, const struct stream *s)
{
    struct arena *a = code ? NULL : arena_new(sizeof(struct muster_stream_info));
    struct muster_stream_info *info = a ? arena_take(a, sizeof *info) : NULL;

    if (info)
        fill_info(s, info);
    DURING(t, what, NULL, op->fn.info(op->arg, code, info));
    arena_end(a, "the state of a stream");
    op_free(op);
}

static void run_open(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;
    struct handle *h = find_handle(t, op->handle);
    struct stream *s = h ? find_stream(t, h->name) : NULL;

    if (!h)
        code = MUSTER_ELINK;
    if (!code && !s)
        s = make_stream(t, h->name, h->subjects);
    if (!code && !*s->subjects) {
        free(s->subjects);
        s->subjects = must_copy(h->subjects);
    }
    if (!code && strcmp(s->subjects, h->subjects) != 0)
        code = test_fail(t, MUSTER_EEXIST, "stream %s has the subjects %s, expected %s", h->name, s->subjects, h->subjects);
    if (!code)
        h->stream = s;
    give_info(t, op, "stream open", code, s);
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
    return 0;
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
    h = must_alloc(sizeof *h);
    *h = (struct handle){.id = ++t->next_id, .name = must_copy(options->name), .subjects = must_copy(options->subjects)};
    list_add(&t->handles, h);
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
    for (size_t i = 0; i < t->handles.n; i++) {
        struct handle *h = t->handles.items[i];

        if (h->id != stream)
            continue;
        list_remove(&t->handles, i); /* what is under way finds it gone, and completes with MUSTER_ELINK */
        free(h->name);
        free(h->subjects);
        free(h);
        return;
    }
}

/* The handle of a call; NULL: told. */
static struct handle *handle_of(struct muster_test *t, int call, uint64_t stream, bool fn)
{
    struct handle *h = find_handle(t, stream);

    if (!h)
        (void)breach(t, call, "%llu is no stream that is open", (unsigned long long)stream);
    else if (!fn)
        (void)breach(t, call, "fn is NULL");
    return fn ? h : NULL;
}

static void run_info(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;
    struct handle *h = find_handle(t, op->handle);
    struct stream *s = h ? find_stream(t, h->name) : NULL;

    if (!code)
        code = !h ? MUSTER_ELINK : !s ? MUSTER_ENOTFOUND : 0;
    give_info(t, op, "stream info", code, s);
}

static int stream_info(const struct muster_host *host, uint64_t stream, muster_stream_info_fn fn, void *arg)
{
    struct muster_test *t = test_of(host, CALL_STREAM_INFO);
    int err = call_begin(t, CALL_STREAM_INFO);
    struct op *op;

    if (!err && !handle_of(t, CALL_STREAM_INFO, stream, fn != NULL))
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

/* ---- reading ------------------------------------------------------------------------------------------------------------------- */

static struct sent *msg_at(const struct stream *s, uint64_t seq)
{
    return seq >= s->first_seq && seq <= s->last_seq ? s->msgs.items[seq - s->first_seq] : NULL;
}

static bool is_of(const struct op *op, const struct sent *m)
{
    char full[TEST_MAX_SUBJECT];

    if (!op->pattern)
        return true;
    (void)snprintf(full, sizeof full, "%s.%s", m->seen.tenant, m->seen.subject);
    return subject_match(op->pattern, full);
}

static void give_msg(struct muster_test *t, struct op *op, const struct sent *m)
{
    struct arena *a = arena_new(msg_room(&m->seen));
    struct muster_msg *msg = msg_make(a, &m->seen, tenant_named(t, m->seen.tenant, strlen(m->seen.tenant)));

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
    struct handle *h = find_handle(t, op->handle);
    struct stream *s = h ? find_stream(t, h->name) : NULL;
    struct sent *m = NULL;

    for (uint64_t seq = s ? s->last_seq : 0; !code && seq && seq >= s->first_seq && !m; seq--)
        if (is_of(op, msg_at(s, seq)))
            m = msg_at(s, seq);
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
        struct handle *h = find_handle(t, op->handle);
        struct stream *s = h ? find_stream(t, h->name) : NULL;

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
        if (is_of(op, msg_at(s, seq))) {
            n++;
            give_msg(t, op, msg_at(s, seq));
        }
    }
    give_end(t, op, code);
}

static int start_reading(struct muster_test *t, int call, struct op *op, const struct muster_tenant *tenant, const char *subject)
{
    char pattern[TEST_MAX_SUBJECT];
    int err = 0;

    if (!handle_of(t, call, op->handle, op->fn.msg != NULL) || (tenant && !tenant_is(t, call, tenant)))
        err = MUSTER_EINVAL;
    else if (tenant && (!subject || !subject_is_pattern(subject, strlen(subject))))
        err = breach(t, call, "subject \"%s\": expected a pattern", subject ? subject : "NULL");
    else if (!t->up)
        err = MUSTER_ELINK;
    if (err) {
        op_free(op);
        return err;
    }
    if (tenant) {
        (void)snprintf(pattern, sizeof pattern, "%s.%s", tenant->name, subject);
        op->pattern = must_copy(pattern);
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

static void store(struct stream *s, struct sent *m)
{
    m->seen.seq = ++s->last_seq;
    s->n_bytes += m->seen.payload.len;
    list_add(&s->msgs, m);
}

static void run_append(struct muster_test *t, struct due *d, int code)
{
    struct op *op = (struct op *)d;
    struct handle *h = find_handle(t, op->handle);
    struct stream *s = h ? find_stream(t, h->name) : NULL;
    uint64_t seq = 0;

    if (!code)
        code = !h ? MUSTER_ELINK : !s ? MUSTER_ENOTFOUND : 0;
    if (!code && op->expected_seq != MUSTER_UNFENCED && op->expected_seq != s->last_seq)
        code = MUSTER_ESTALE;
    if (!code) {
        store(s, op->sent);
        seq = op->seen->seen.seq = op->sent->seen.seq;
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
    const struct handle *h = handle_of(t, call, stream, true);
    int err;

    if (!h)
        return MUSTER_EINVAL;
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
    op->sent->seen.stream = must_copy(find_handle(t, stream)->name);
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
                                          .read = stream_read};

/* ---- what a test asks ---------------------------------------------------------------------------------------------------------- */

int muster_test_stream(struct muster_test *t, const char *name, struct muster_stream_info *ret_info)
{
    const struct stream *s = find_stream(t, name);

    if (!s)
        return MUSTER_ENOTFOUND;
    if (ret_info)
        fill_info(s, ret_info);
    return 0;
}

const struct muster_test_sent *muster_test_stored(struct muster_test *t, const char *name, uint64_t seq)
{
    const struct stream *s = find_stream(t, name);
    struct sent *m = s ? msg_at(s, seq) : NULL;

    return m ? &m->seen : NULL;
}

uint64_t muster_test_store(struct muster_test *t, const char *name, const char *tenant, const char *subject, struct muster_bytes payload)
{
    const struct muster_tenant *whose = tenant_need(t, tenant);
    struct stream *s = find_stream(t, name);
    struct sent *m;

    if (!whose)
        return 0;
    if (!s)
        s = make_stream(t, name, ""); /* who opens it says which */
    m = sent_make(t, MUSTER_TEST_APPENDED, whose, subject, NULL, 0, payload);
    m->seen.stream = must_copy(name);
    store(s, m);
    return m->seen.seq;
}

void stream_free(struct muster_test *t)
{
    for (size_t i = 0; i < t->streams.n; i++) {
        struct stream *s = t->streams.items[i];

        for (size_t j = 0; j < s->msgs.n; j++)
            sent_free(s->msgs.items[j]);
        list_done(&s->msgs);
        free(s->name);
        free(s->subjects);
        free(s);
    }
    for (size_t i = 0; i < t->handles.n; i++) {
        struct handle *h = t->handles.items[i];

        free(h->name);
        free(h->subjects);
        free(h);
    }
    list_done(&t->streams);
    list_done(&t->handles);
}
