/* Open requests; see requests.h. */
#include "core/requests.h"

#include <muster/plugin.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "tenant/credentials.h"

struct slot {
    char *reply; /* NULL: free */
    struct request_note note;
    uint32_t generation;
    uint32_t next_free;
    bool answering; /* between requests_begin() and what ends it */
};

struct requests {
    pthread_mutex_t lock;
    struct slot *slots;
    uint32_t n_slots, first_free, n_open; /* first_free: index + 1, 0 for none */
    uint32_t n_of[REQUESTS_OWNERS];       /* of those that are open */
};

static uint32_t *count_of(struct requests *r, const struct request_note *note)
{
    return &r->n_of[note->owner % REQUESTS_OWNERS];
}

void request_done(struct request *request)
{
    credential_unref(request->note.credential);
    request->note.credential = NULL;
}

struct requests *requests_new(void)
{
    struct requests *r = calloc(1, sizeof *r);

    if (r)
        ASSERT(pthread_mutex_init(&r->lock, NULL) == 0);
    return r;
}

void requests_free(struct requests *r)
{
    if (!r)
        return;
    for (uint32_t i = 0; i < r->n_slots; i++) {
        if (r->slots[i].reply)
            credential_unref(r->slots[i].note.credential);
        free(r->slots[i].reply);
    }
    free(r->slots);
    (void)pthread_mutex_destroy(&r->lock);
    free(r);
}

static int grow(struct requests *r)
{
    uint32_t n = r->n_slots ? r->n_slots * 2 : 256;
    struct slot *more = n <= REQUESTS_MAX ? realloc(r->slots, n * sizeof *more) : NULL;

    if (!more)
        return MUSTER_EAGAIN;
    memset(more + r->n_slots, 0, (n - r->n_slots) * sizeof *more);
    for (uint32_t i = n; i > r->n_slots; i--) {
        more[i - 1].next_free = r->first_free;
        r->first_free = i;
    }
    r->slots = more;
    r->n_slots = n;
    return 0;
}

uint64_t requests_open(struct requests *r, const char *reply, const struct request_note *note)
{
    char *copy = strlen(reply) < REQUESTS_REPLY_SIZE ? strdup(reply) : NULL;
    uint64_t handle = 0;

    if (!copy)
        return 0;
    pthread_mutex_lock(&r->lock);
    if (*count_of(r, note) < REQUESTS_MAX - r->n_open && (r->first_free || grow(r) == 0)) {
        uint32_t i = r->first_free - 1;
        struct slot *s = &r->slots[i];

        r->first_free = s->next_free;
        s->reply = copy;
        s->answering = false;
        s->note = *note;
        (void)credential_ref(note->credential);
        handle = (uint64_t)++s->generation << 32 | (i + 1);
        r->n_open++;
        ++*count_of(r, note);
    }
    pthread_mutex_unlock(&r->lock);
    if (!handle)
        free(copy);
    return handle;
}

/* The lock is held. */
static struct slot *find(struct requests *r, uint64_t handle)
{
    uint32_t i = (uint32_t)handle - 1, generation = (uint32_t)(handle >> 32);

    return handle && i < r->n_slots && r->slots[i].reply && r->slots[i].generation == generation ? &r->slots[i] : NULL;
}

int requests_begin(struct requests *r, uint64_t handle, struct request *ret_request)
{
    struct slot *s;

    pthread_mutex_lock(&r->lock);
    s = find(r, handle);
    if (s && s->answering)
        s = NULL;
    if (s) {
        s->answering = true;
        memcpy(ret_request->reply, s->reply, strlen(s->reply) + 1);
        ret_request->note = s->note;
        (void)credential_ref(s->note.credential);
    }
    pthread_mutex_unlock(&r->lock);
    return s ? 0 : MUSTER_ENOTFOUND;
}

void requests_note(struct requests *r, uint64_t handle, const char object[AUDIT_OBJECT_SIZE])
{
    struct slot *s;

    pthread_mutex_lock(&r->lock);
    s = find(r, handle);
    if (s)
        memcpy(s->note.object, object, AUDIT_OBJECT_SIZE);
    pthread_mutex_unlock(&r->lock);
}

void requests_give_back(struct requests *r, uint64_t handle)
{
    struct slot *s;

    pthread_mutex_lock(&r->lock);
    s = find(r, handle);
    if (s)
        s->answering = false;
    pthread_mutex_unlock(&r->lock);
}

int requests_take(struct requests *r, uint64_t handle, struct request *ret_request)
{
    uint32_t i = (uint32_t)handle - 1;
    char *reply = NULL;
    struct slot *s;

    pthread_mutex_lock(&r->lock);
    s = find(r, handle);
    if (s) {
        reply = s->reply;
        ret_request->note = s->note;
        s->reply = NULL;
        s->next_free = r->first_free;
        r->first_free = i + 1;
        r->n_open--;
        --*count_of(r, &s->note);
    }
    pthread_mutex_unlock(&r->lock);
    if (!reply)
        return MUSTER_ENOTFOUND;
    memcpy(ret_request->reply, reply, strlen(reply) + 1);
    free(reply);
    return 0;
}

size_t requests_count(struct requests *r)
{
    size_t n;

    pthread_mutex_lock(&r->lock);
    n = r->n_open;
    pthread_mutex_unlock(&r->lock);
    return n;
}
