/* Which of the shards a broker keeps; see shares.h. */
#include "common/shares.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/name.h"

static const int64_t say_ns = 1500 * CLOCK_MS, here_ns = 6 * CLOCK_S, stand_back_ns = 4 * CLOCK_S;

enum { OFFER_ROUNDS = 2 };

static uint32_t part_of(const struct shares *s)
{
    return s->n_brokers ? (s->how.n_shards + s->n_brokers - 1) / s->n_brokers : s->how.n_shards;
}

static void offer(struct shares *s, uint32_t n)
{
    s->n_rounds = 0;
    for (uint32_t i = s->how.n_shards; i-- > 0 && n;)
        if (s->how.holds(s->how.arg, i)) {
            s->offered |= UINT32_C(1) << i;
            n--;
        }
}

static void let_go(struct shares *s, int64_t now_ns)
{
    for (uint32_t i = 0; i < s->how.n_shards; i++) {
        if (!(s->offered >> i & 1) || !s->how.let_go(s->how.arg, i))
            continue;
        s->offered &= ~(UINT32_C(1) << i);
        s->let_go_ns = now_ns + here_ns + say_ns;
    }
}

/* The number has to be seen twice: a broker that starts again soon is not worth two moves. What nobody has taken is not let go again before who
 * has died is no longer counted. */
static void share(struct shares *s, uint32_t n_brokers)
{
    uint32_t held = s->how.held(s->how.arg), spare;
    int64_t now_ns = s->how.timer->now(s->how.host);
    bool steady = n_brokers == s->n_brokers;

    s->n_brokers = n_brokers;
    spare = held > part_of(s) ? held - part_of(s) : 0;
    if (!steady || !spare || !s->n_lacking)
        s->offered = 0;
    else if (!s->offered && now_ns >= s->let_go_ns)
        offer(s, spare < s->n_lacking ? spare : s->n_lacking);
    else if (s->offered && ++s->n_rounds >= OFFER_ROUNDS)
        let_go(s, now_ns);
}

enum { KEY_SIZE = sizeof "broker." + NAME_TOKEN_SIZE };

static const char *own_key(const struct shares *s, char out[KEY_SIZE])
{
    char token[NAME_TOKEN_SIZE];

    (void)name_token(s->how.host->broker_id, strlen(s->how.host->broker_id), token);
    (void)snprintf(out, KEY_SIZE, "broker.%s", token);
    return out;
}

/* True when it has said so once more since the last look: what one that has died left behind is there for a while. */
static bool is_alive(struct shares *s, const struct muster_kv_entry *entry)
{
    uint64_t digest = hash_bytes(entry->key, strlen(entry->key)), before = 0;
    struct peer_seen *seen = s->seen, *oldest = s->seen;

    for (; seen < s->seen + SHARES_PEERS_SEEN && seen->digest != digest; seen++)
        if (seen->revision < oldest->revision)
            oldest = seen;
    if (seen == s->seen + SHARES_PEERS_SEEN)
        seen = oldest;
    else
        before = seen->revision;
    *seen = (struct peer_seen){digest, entry->revision};
    return before && entry->revision > before;
}

/* "here <held> <offered>": how many, and a bit each. A broker that says no more is an older one, which may lack any number. */
static void hear(struct shares *s, const struct muster_kv_entry *entry)
{
    char text[64], *rest;
    uint32_t part = part_of(s), held, offered;

    (void)snprintf(text, sizeof text, "%.*s", (int)entry->value.len, entry->value.data ? (const char *)entry->value.data : "");
    held = (uint32_t)strtoul(strlen(text) > 5 ? text + 5 : "", &rest, 10);
    offered = (uint32_t)strtoul(rest, NULL, 16);
    s->n_lacking += held < part ? part - held : 0;
    for (uint32_t i = 0; i < s->how.n_shards && s->how.held(s->how.arg) >= part; i++)
        if (offered >> i & 1)
            s->how.stand_back(s->how.arg, i, s->how.timer->now(s->how.host) + stand_back_ns);
}

/* Its own is counted apart: it is written meanwhile, and may be told or not. */
static void on_entry(void *arg, int code, const struct muster_kv_entry *entry)
{
    struct shares *s = arg;
    char own[KEY_SIZE];

    if (entry) {
        if (strcmp(entry->key, own_key(s, own)) == 0 || !is_alive(s, entry))
            return;
        s->n_counted++;
        hear(s, entry);
        return;
    }
    s->counting = false;
    if (!code && !s->over)
        share(s, s->n_counted + 1);
}

static void count_brokers(struct shares *s)
{
    if (s->counting)
        return;
    s->n_counted = s->n_lacking = 0;
    s->counting = s->how.kv->scan(s->how.host, NULL, "broker.", on_entry, s) == 0;
}

/* A failure needs no more than the next time, which comes soon. */
static void on_said(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    (void)arg;
    (void)code;
    (void)value;
    (void)revision;
}

static void say(struct shares *s)
{
    char key[KEY_SIZE], text[48];
    int n = snprintf(text, sizeof text, "here %u %x", s->how.held(s->how.arg), s->offered);
    struct muster_kv_put put = {
        .size = sizeof put, .key = own_key(s, key), .value = {text, (size_t)n}, .revision = MUSTER_UNFENCED, .ttl_ns = here_ns, .fn = on_said};

    if (s->how.kv->put(s->how.host, &put) == MUSTER_EINVAL)
        s->how.host->log(s->how.host, MUSTER_LOG_ERROR, "key %s cannot be written", key);
}

void shares_tick(struct shares *s, int64_t now_ns)
{
    if (s->over || now_ns < s->due_ns)
        return;
    s->due_ns = now_ns + say_ns;
    say(s);
    count_brokers(s);
}

void shares_end(struct shares *s)
{
    s->over = true;
}
