/* Copies that need not be read; see copies.h. */
#include "core/copies.h"

#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "core/inbox.h"
#include "wire/subject.h"

static const int64_t doubt_ns = 10 * CLOCK_S;

void copies_init(struct copies *c)
{
    *c = (struct copies){0};
    ASSERT(pthread_rwlock_init(&c->lock, NULL) == 0);
}

void copies_done(struct copies *c)
{
    (void)pthread_rwlock_destroy(&c->lock);
}

/* The service of a plain "rpc.*.<service>.*". False: it is another pattern, or a queue group's. */
static bool hears_service(const struct sub *s, char ret_service[NAME_TOKEN_SIZE])
{
    static const char front[] = "rpc.*.";
    const char *service = s->pattern + sizeof front - 1;
    size_t len;

    if (s->queue || strncmp(s->pattern, front, sizeof front - 1) != 0)
        return false;
    len = strcspn(service, ".");
    if (strcmp(service + len, ".*") != 0 || !name_is_public(service, len))
        return false;
    memcpy(ret_service, service, len);
    ret_service[len] = '\0';
    return true;
}

static bool is_heard_by_group(const struct sub *subs, const char *pattern)
{
    for (const struct sub *s = subs; s; s = s->next)
        if (s->queue && subject_overlap(s->pattern, pattern))
            return true;
    return false;
}

void copies_list(struct copies *c, const struct sub *subs)
{
    pthread_rwlock_wrlock(&c->lock);
    c->n = 0;
    for (const struct sub *s = subs; s && c->n < COPIES_SERVICES; s = s->next)
        if (hears_service(s, c->services[c->n]) && !is_heard_by_group(subs, s->pattern))
            c->n++;
    pthread_rwlock_unlock(&c->lock);
}

void copies_doubt(struct copies *c)
{
    atomic_store_explicit(&c->doubt_until_ns, clock_now_ns() + doubt_ns, memory_order_relaxed);
}

static bool in_doubt(const struct copies *c)
{
    int64_t until = atomic_load_explicit(&c->doubt_until_ns, memory_order_relaxed);

    return until && clock_now_ns() < until;
}

/* The service of "….rpc.<agent>.<service>.<verb>", read from its end. False: it has another form. */
static bool service_of(const char *subject, struct text *ret_service)
{
    size_t dots[4], n = 0;

    for (size_t i = strlen(subject); n < 4 && i > 0; i--)
        if (subject[i - 1] == '.')
            dots[n++] = i - 1;
    if (n < 4 || dots[2] - dots[3] != 4 || strncmp(subject + dots[3] + 1, "rpc", 3) != 0)
        return false;
    *ret_service = (struct text){subject + dots[1] + 1, dots[0] - dots[1] - 1};
    return true;
}

static bool is_plain(struct copies *c, struct text service)
{
    size_t i;

    pthread_rwlock_rdlock(&c->lock);
    for (i = 0; i < c->n && !text_is(service, c->services[i]); i++)
        ;
    pthread_rwlock_unlock(&c->lock);
    return i < c->n;
}

bool copies_is_superfluous(struct copies *c, const struct bus_msg *msg)
{
    struct text service;

    return !bus_msg_reply(msg) && !in_doubt(c) && service_of(bus_msg_subject(msg), &service) && is_plain(c, service);
}
