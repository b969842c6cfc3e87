/*
 * Notices of the holder: evt.presence.count._ for tenants with many agents, an event like the others; and the head notices, which tell
 * who lost the last event that there was one.
 */
#include "presence/presence.h"

enum { HEADS = 3 }; /* of one position: a notice can be lost like the event that it is about */

void notices_tick(struct presence *p)
{
    struct tenancy *t;
    int64_t n = 0;

    for (size_t i = 0; tenancy_next(p, &i, &t);) {
        n += (int64_t)t->agents.n;
        if (!tenancy_leads(t) || t->count_seq == t->seq || t->agents.n <= (size_t)p->config->count_above)
            continue;
        change_count(t);
        t->count_seq = t->seq + 1; /* its own, when nothing else happens */
    }
    p->metrics->set(p->host, p->m.agents, NULL, n);
    p->metrics->set(p->host, p->m.waiting, NULL, p->n_waiting);
}

/* A new epoch is told before it has an event: who missed the change would go by the roster of the one before. */
static bool is_told(const struct tenancy *t)
{
    return t->head_epoch == t->epoch && t->head_seq == t->seq;
}

static void tell_head(struct tenancy *t)
{
    struct presence *p = t->p;
    char stream[BUF_U64_SIZE];
    const struct muster_header header = {PRESENCE_STREAM, buf_u64(t->shard->acked, stream)};
    struct muster_publication pub = {.size = sizeof pub, .tenant = t->tenant, .subject = "evt._.head", .headers = &header, .n_headers = 1};
    struct buf *b = &p->scratch;

    buf_clear(b);
    buf_printf(b, "{\"evt.presence\":{\"epoch\":%llu,\"seq\":%llu}}", (unsigned long long)t->epoch, (unsigned long long)t->seq);
    pub.payload = (struct muster_bytes){b->data, b->len};
    if (buf_failed(b) || p->bus->publish(p->host, &pub) != 0)
        return;
    t->n_heads = is_told(t) ? t->n_heads + 1 : 1;
    t->head_epoch = t->epoch;
    t->head_seq = t->seq;
}

void notices_heads(struct presence *p)
{
    struct tenancy *t;

    for (size_t i = 0; tenancy_next(p, &i, &t);)
        if (tenancy_leads(t) && tenancy_is(t) && (!is_told(t) || t->n_heads < HEADS))
            tell_head(t);
}
