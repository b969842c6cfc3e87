/* The streams of the test host and what is in them; see stored.h. */
#include "testhost/stored.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- found ---------------------------------------------------------------------------------------------------------------------- */

struct stream *stream_named(struct muster_test *t, const char *name)
{
    for (size_t i = 0; i < t->streams.n; i++) {
        struct stream *s = t->streams.items[i];

        if (strcmp(s->name, name) == 0)
            return s;
    }
    return NULL;
}

struct handle *handle_find(struct muster_test *t, uint64_t id)
{
    for (size_t i = 0; i < t->handles.n; i++) {
        struct handle *h = t->handles.items[i];

        if (h->id == id)
            return h;
    }
    return NULL;
}

struct handle *handle_need(struct muster_test *t, int call, uint64_t stream, bool fn)
{
    struct handle *h = handle_find(t, stream);

    if (!h)
        (void)breach(t, call, "%llu is no stream that is open", (unsigned long long)stream);
    else if (!fn)
        (void)breach(t, call, "fn is NULL");
    return fn ? h : NULL;
}

struct stream *stream_make(struct muster_test *t, const char *name, const char *subjects)
{
    struct stream *s = must_alloc(sizeof *s);

    s->name = must_copy(name);
    s->subjects = must_copy(subjects);
    s->republish = must_copy(subjects);
    s->first_seq = 1;
    s->created_wall_ns = muster_test_wall_now(t);
    s->number = ++t->next_id;
    list_add(&t->streams, s);
    return s;
}

bool stream_has(const char *pattern, const struct sent *m)
{
    char full[TEST_MAX_SUBJECT];

    if (!m)
        return false;
    if (!pattern)
        return true;
    (void)snprintf(full, sizeof full, "%s.%s", m->seen.tenant, m->seen.subject);
    return subject_match(pattern, full);
}

int handle_wanted(struct muster_test *t, int call, uint64_t stream, bool fn, const struct wanted *wanted, char **ret_pattern)
{
    const struct handle *h = handle_need(t, call, stream, fn);
    const struct muster_tenant *tenant = wanted->tenant;
    const char *subject = wanted->subject;
    char pattern[TEST_MAX_SUBJECT];

    if (!h || (tenant && !tenant_is(t, call, tenant)))
        return MUSTER_EINVAL;
    if (h->tenant && tenant && h->tenant != tenant)
        return breach(t, call, "stream %s is not of tenant %s", h->name, tenant->name);
    if (tenant && (!subject || !subject_is_pattern(subject, strlen(subject))))
        return breach(t, call, "subject \"%s\": expected a pattern", subject ? subject : "NULL");
    if (!t->up)
        return MUSTER_ELINK;
    if (tenant) {
        (void)snprintf(pattern, sizeof pattern, "%s.%s", tenant->name, subject);
        *ret_pattern = must_copy(pattern);
    }
    return 0;
}

struct muster_msg *stored_msg(struct muster_test *t, struct arena *a, const struct sent *m)
{
    struct muster_msg *msg = msg_make(a, &m->seen, tenant_named(t, m->seen.tenant, strlen(m->seen.tenant)));

    msg->stored_wall_ns = m->seen.at_ns + muster_test_wall_now(t) - muster_test_now(t);
    return msg;
}

struct sent *stream_at(const struct stream *s, uint64_t seq)
{
    return seq >= s->first_seq && seq <= s->last_seq ? s->msgs.items[seq - s->first_seq] : NULL;
}

/* ---- what is kept -------------------------------------------------------------------------------------------------------------- */

static void drop_msg(struct muster_test *t, struct stream *s, uint64_t seq)
{
    struct sent *m = s->msgs.items[seq - s->first_seq];

    follow_missed(t, s, m);
    s->n_msgs--;
    s->n_bytes -= m->seen.payload.len;
    sent_free(m);
    s->msgs.items[seq - s->first_seq] = NULL;
    while (s->msgs.n && !s->msgs.items[0]) {
        list_remove(&s->msgs, 0);
        s->first_seq++;
    }
}

/* How many of the same subject there are up to this one, and the oldest of them. */
static int64_t count_alike(const struct stream *s, const struct sent *m, uint64_t *ret_oldest)
{
    int64_t n = 0;

    for (uint64_t seq = m->seen.seq; seq >= s->first_seq; seq--) {
        const struct sent *other = stream_at(s, seq);

        if (!other || strcmp(other->seen.subject, m->seen.subject) != 0 || strcmp(other->seen.tenant, m->seen.tenant) != 0)
            continue;
        n++;
        *ret_oldest = seq;
    }
    return n;
}

void stream_keep(struct muster_test *t, struct stream *s)
{
    for (uint64_t seq = s->first_seq; s->max_msgs_per_subject && seq <= s->last_seq; seq++) {
        uint64_t oldest = 0;

        while (stream_at(s, seq) && count_alike(s, stream_at(s, seq), &oldest) > s->max_msgs_per_subject)
            drop_msg(t, s, oldest);
    }
    while (s->max_msgs && s->n_msgs > (uint64_t)s->max_msgs)
        drop_msg(t, s, s->first_seq);
}

static bool is_heard(const struct muster_test *t, const char *subject)
{
    for (size_t i = 0; i < t->subs.n; i++) {
        const struct sub *sub = t->subs.items[i];

        if (!sub->dead && subject_match(sub->subject, subject))
            return true;
    }
    return false;
}

/* What a wildcard of the one pattern stands for takes the place of the wildcard of the other. */
static void transform(const char *from, const char *to, const char *subject, char out[TEST_MAX_SUBJECT])
{
    size_t n = 0;

    for (; *to && n < TEST_MAX_SUBJECT - 1; to++) {
        if (*to != '*' && *to != '>') {
            out[n++] = *to;
            continue;
        }
        for (; *from && *from != '*' && *from != '>'; from++)
            subject++;
        for (; *subject && (*to == '>' || *subject != '.') && n < TEST_MAX_SUBJECT - 1; subject++)
            out[n++] = *subject;
        from += *from != '\0';
    }
    out[n] = '\0';
}

/* As the server does: with where it is stored. */
static void republish(struct muster_test *t, const struct stream *s, const struct sent *m)
{
    const struct muster_test_sent *seen = &m->seen;
    struct muster_header *headers = must_alloc((seen->n_headers + 3) * sizeof *headers);
    char subject[TEST_MAX_SUBJECT], at[32];
    struct muster_test_message msg = {.size = sizeof msg, .tenant = seen->tenant, .subject = subject, .headers = headers, .payload = seen->payload};

    (void)snprintf(at, sizeof at, "%llu", (unsigned long long)seen->seq);
    if (seen->n_headers)
        memcpy(headers, seen->headers, seen->n_headers * sizeof *headers);
    headers[seen->n_headers] = (struct muster_header){"Nats-Stream", s->name};
    headers[seen->n_headers + 1] = (struct muster_header){"Nats-Subject", seen->subject};
    headers[seen->n_headers + 2] = (struct muster_header){"Nats-Sequence", at};
    msg.n_headers = seen->n_headers + 3;
    transform(s->subjects, s->republish, seen->subject, subject);
    if (*subject && t->phase == PHASE_STARTED && is_heard(t, subject))
        (void)muster_test_queue(t, &msg);
    free(headers);
}

void stream_store(struct muster_test *t, struct stream *s, struct sent *m)
{
    m->seen.seq = ++s->last_seq;
    s->n_bytes += m->seen.payload.len;
    s->n_msgs++;
    list_add(&s->msgs, m);
    republish(t, s, m);
    stream_keep(t, s);
    follow_wake(t, s->name);
}

static void free_stream(struct stream *s)
{
    for (size_t j = 0; j < s->msgs.n; j++)
        if (s->msgs.items[j])
            sent_free(s->msgs.items[j]);
    list_done(&s->msgs);
    free(s->name);
    free(s->subjects);
    free(s->republish);
    free(s);
}

/* ---- what a test asks ---------------------------------------------------------------------------------------------------------- */

void stream_show(const struct stream *s, struct muster_stream_info *info)
{
    *info = (struct muster_stream_info){.size = sizeof *info,
                                        .first_seq = s->first_seq,
                                        .last_seq = s->last_seq,
                                        .n_msgs = s->n_msgs,
                                        .n_bytes = s->n_bytes,
                                        .created_wall_ns = s->created_wall_ns};
}

int muster_test_stream(struct muster_test *t, const char *name, struct muster_stream_info *ret_info)
{
    const struct stream *s = stream_named(t, name);

    if (!s)
        return MUSTER_ENOTFOUND;
    if (ret_info)
        stream_show(s, ret_info);
    return 0;
}

const struct muster_test_sent *muster_test_stored(struct muster_test *t, const char *name, uint64_t seq)
{
    const struct stream *s = stream_named(t, name);
    struct sent *m = s ? stream_at(s, seq) : NULL;

    return m ? &m->seen : NULL;
}

uint64_t muster_test_store(struct muster_test *t, const char *name, const char *tenant, const char *subject, struct muster_bytes payload)
{
    const struct muster_tenant *whose = tenant_need(t, tenant);
    struct stream *s = stream_named(t, name);
    struct sent *m;

    if (!whose)
        return 0;
    if (!s)
        s = stream_make(t, name, ""); /* who opens it says which */
    m = sent_make(t, MUSTER_TEST_APPENDED, whose, subject, NULL, 0, payload);
    m->seen.stream = must_copy(name);
    stream_store(t, s, m);
    return s->last_seq;
}

int muster_test_drop(struct muster_test *t, const char *name, uint64_t up_to)
{
    struct stream *s = stream_named(t, name);

    if (!s)
        return MUSTER_ENOTFOUND;
    while (s->msgs.n && s->first_seq <= up_to)
        drop_msg(t, s, s->first_seq);
    muster_test_run(t);
    return 0;
}

int muster_test_remove_stream(struct muster_test *t, const char *name)
{
    for (size_t i = 0; i < t->streams.n; i++) {
        struct stream *s = t->streams.items[i];

        if (strcmp(s->name, name) != 0)
            continue;
        list_remove(&t->streams, i);
        free_stream(s);
        follow_wake(t, name);
        muster_test_run(t);
        return 0;
    }
    return MUSTER_ENOTFOUND;
}

void stream_free(struct muster_test *t)
{
    for (size_t i = 0; i < t->streams.n; i++)
        free_stream(t->streams.items[i]);
    while (t->handles.n)
        handle_drop(t, t->handles.n - 1);
    follow_free(t);
    list_done(&t->streams);
    list_done(&t->handles);
}
