/* What a plugin has sent, and messages made of it; see testhost.h. */
#include <stdlib.h>
#include <string.h>

#include "testhost/inside.h"

struct sent *sent_make(struct muster_test *t, uint32_t kind, const struct muster_tenant *tenant, const char *subject,
                       const struct muster_header *headers, uint32_t n_headers, struct muster_bytes payload)
{
    struct sent *s = must_alloc(sizeof *s);
    struct muster_header *copies = must_alloc(n_headers * sizeof *copies);

    for (uint32_t i = 0; i < n_headers; i++)
        copies[i] = (struct muster_header){must_copy(headers[i].name), must_copy(headers[i].value)};
    s->seen = (struct muster_test_sent){.kind = kind,
                                        .n_headers = n_headers,
                                        .tenant = tenant->name,
                                        .subject = must_copy(subject),
                                        .headers = copies,
                                        .payload = must_copy_bytes(payload),
                                        .at_ns = t->now_ns};
    return s;
}

struct sent *sent_add(struct muster_test *t, uint32_t kind, const struct muster_tenant *tenant, const char *subject,
                      const struct muster_header *headers, uint32_t n_headers, struct muster_bytes payload)
{
    struct sent *s = sent_make(t, kind, tenant, subject, headers, n_headers, payload);

    pthread_mutex_lock(&t->lock);
    list_add(&t->sent, s);
    pthread_mutex_unlock(&t->lock);
    return s;
}

void sent_free(struct sent *s)
{
    for (uint32_t i = 0; i < s->seen.n_headers; i++) {
        free((char *)(uintptr_t)s->seen.headers[i].name);
        free((char *)(uintptr_t)s->seen.headers[i].value);
    }
    free((void *)(uintptr_t)s->seen.headers);
    free((char *)(uintptr_t)s->seen.subject);
    free((char *)(uintptr_t)s->seen.stream);
    free((char *)(uintptr_t)s->seen.reply);
    free((void *)(uintptr_t)s->seen.payload.data);
    free(s);
}

size_t muster_test_n_sent(struct muster_test *t)
{
    size_t n;

    pthread_mutex_lock(&t->lock);
    n = t->sent.n;
    pthread_mutex_unlock(&t->lock);
    return n;
}

static struct sent *sent_at(struct muster_test *t, size_t i)
{
    struct sent *s;

    pthread_mutex_lock(&t->lock);
    s = i < t->sent.n ? t->sent.items[i] : NULL;
    pthread_mutex_unlock(&t->lock);
    return s;
}

const struct muster_test_sent *muster_test_sent(struct muster_test *t, size_t i)
{
    struct sent *s = sent_at(t, i);

    return s ? &s->seen : NULL;
}

const struct muster_test_sent *muster_test_sent_on(struct muster_test *t, const char *pattern)
{
    for (size_t i = muster_test_n_sent(t); i-- > 0;)
        if (subject_match(pattern, sent_at(t, i)->seen.subject))
            return &sent_at(t, i)->seen;
    return NULL;
}

/* ---- messages ------------------------------------------------------------------------------------------------------------------ */

size_t msg_room(const struct muster_test_sent *from)
{
    size_t n = sizeof(struct muster_msg) + strlen(from->subject) + from->payload.len + 1024 +
               from->n_headers * (sizeof(struct muster_header) + 32);

    for (uint32_t i = 0; i < from->n_headers; i++)
        n += strlen(from->headers[i].name) + strlen(from->headers[i].value);
    return n;
}

struct muster_msg *msg_make(struct arena *a, const struct muster_test_sent *from, const struct muster_tenant *tenant)
{
    struct muster_msg *msg = arena_take(a, sizeof *msg);
    struct muster_header *headers = arena_take(a, from->n_headers * sizeof *headers);
    const unsigned char *data = from->payload.data;

    for (uint32_t i = 0; i < from->n_headers; i++)
        headers[i] = (struct muster_header){arena_text(a, from->headers[i].name), arena_text(a, from->headers[i].value)};
    *msg = (struct muster_msg){.size = sizeof *msg,
                               .encoding = from->payload.len && data[0] >= 0x80 ? MUSTER_MSGPACK : MUSTER_JSON,
                               .tenant = tenant,
                               .subject = arena_text(a, from->subject),
                               .headers = headers,
                               .n_headers = from->n_headers,
                               .payload = {arena_copy(a, from->payload.data, from->payload.len), from->payload.len},
                               .seq = from->seq};
    return msg;
}
