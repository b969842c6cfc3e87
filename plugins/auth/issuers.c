/* The issuers and their keys: fetched on the thread of fetch, taken over on the lane. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/auth.h"
#include "base/clock.h"

static const int64_t file_every_ns = 10 * CLOCK_S;

/* A file costs nothing to read again; an answer holds for as long as it says, within a minute and a day. */
static struct keyring_times times_of(const struct auth_config *config, const struct issuer_setting *set)
{
    struct keyring_times t = {
        .fresh_min_ns = 60 * CLOCK_S,
        .fresh_default_ns = 3600 * CLOCK_S,
        .fresh_max_ns = 86400 * CLOCK_S,
        .retry_min_ns = CLOCK_S,
        .retry_max_ns = 60 * CLOCK_S,
        .unknown_every_ns = config->refetch_ns,
    };

    if (!set->jwks_url) {
        t.fresh_default_ns = t.retry_max_ns = file_every_ns;
        t.unknown_every_ns = CLOCK_S;
    }
    return t;
}

/* ---- from the configuration ---- */

static bool same_text(const char *a, const char *b)
{
    return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

static bool same_source(const struct issuer *i, const char *name, const struct issuer_setting *set)
{
    return strcmp(i->name, name) == 0 && same_text(i->set->jwks_url, set->jwks_url) && same_text(i->set->jwks_file, set->jwks_file) &&
           same_text(i->set->secret_file, set->secret_file) && same_text(i->set->ca_file, set->ca_file);
}

/* Keys, and the fetch that is under way for them, go over to the same issuer of the new configuration. */
static void take_over(struct auth *a, struct issuer *i)
{
    for (size_t n = 0; n < a->n_issuers; n++) {
        struct issuer *old = &a->issuers[n];
        struct keyring_times times = i->ring.times;

        if (!same_source(old, i->name, i->set))
            continue;
        i->ring = old->ring;
        i->ring.times = times;
        i->serial = old->serial;
        memcpy(i->why, old->why, sizeof i->why);
        old->ring.keys = NULL;
    }
}

int issuers_build(struct auth *a, const struct auth_config *config)
{
    const struct issuer_setting *sets = config->issuers.entries;
    size_t n = config->issuers.n;
    struct issuer *issuers = calloc(n ? n : 1, sizeof *issuers);

    if (!issuers)
        return MUSTER_ENOMEM;
    for (size_t k = 0; k < n; k++) {
        struct keyring_times times = times_of(config, &sets[k]);

        issuers[k] = (struct issuer){.name = config->issuers.keys[k], .set = &sets[k], .rules = auth_rules(&sets[k]), .serial = ++a->last_serial};
        keyring_init(&issuers[k].ring, &times, a->timer->now(a->host));
        take_over(a, &issuers[k]);
    }
    issuers_done(a);
    a->issuers = issuers;
    a->n_issuers = n;
    a->config = config;
    return 0;
}

void issuers_done(struct auth *a)
{
    for (size_t i = 0; i < a->n_issuers; i++)
        keyring_done(&a->issuers[i].ring);
    free(a->issuers);
    a->issuers = NULL;
    a->n_issuers = 0;
}

struct issuer *issuers_find(struct auth *a, const char *iss)
{
    for (size_t i = 0; iss && i < a->n_issuers; i++)
        if (strcmp(a->issuers[i].set->issuer, iss) == 0)
            return &a->issuers[i];
    return NULL;
}

/* ---- fetching ---- */

static void arrival_free(struct arrival *at)
{
    jwks_free(at->keys);
    free(at);
}

static void tick_from_post(void *arg)
{
    struct auth *a = arg;

    issuers_tick(a);
    login_again(a);
}

/* On the thread of fetch. Where the post finds no room, the next tick finds what arrived. */
static void on_fetched(void *arg, const struct fetch_answer *answer)
{
    struct arrival *at = arg;
    struct auth *a = at->a;

    at->max_age_s = answer->max_age_s;
    (void)snprintf(at->why, sizeof at->why, "%s", answer->why);
    if (!answer->code && (at->is_secret ? jwks_secret : jwks_parse)(answer->data, answer->len, &at->keys, at->why) == 0)
        at->why[0] = '\0';
    pthread_mutex_lock(&a->lock);
    at->next = a->arrived;
    a->arrived = at;
    pthread_mutex_unlock(&a->lock);
    (void)a->host->post(a->host, tick_from_post, a);
}

bool issuers_fetch(struct auth *a, struct issuer *i)
{
    struct arrival *at = calloc(1, sizeof *at);
    int err = at ? 0 : MUSTER_ENOMEM;

    keyring_begin(&i->ring, a->timer->now(a->host));
    if (at) {
        *at = (struct arrival){.a = a, .serial = i->serial, .is_secret = i->set->secret_file != NULL};
        err = fetch_get(a->fetch, &(struct fetch_request){.url = i->set->jwks_url,
                                                          .path = i->set->jwks_file ? i->set->jwks_file : i->set->secret_file,
                                                          .ca_file = i->set->ca_file,
                                                          .max_bytes = JWKS_TEXT_MAX,
                                                          .timeout_ns = a->config->fetch_timeout_ns,
                                                          .done = on_fetched,
                                                          .arg = at});
    }
    if (!err)
        return true;
    free(at);
    keyring_failed(&i->ring, a->timer->now(a->host));
    return false;
}

/* ---- taking over ---- */

static void take_keys(struct auth *a, struct issuer *i, struct arrival *at)
{
    int64_t now = a->timer->now(a->host);

    a->metrics->add(a->host, a->fetches, at->keys ? "ok" : "failed", 1);
    memcpy(i->why, at->why, sizeof i->why);
    if (!at->keys) {
        keyring_failed(&i->ring, now);
        return;
    }
    if (!i->ring.keys)
        a->host->log(a->host, MUSTER_LOG_INFO, "issuer %s: %zu keys, %zu left out", i->name, at->keys->n, at->keys->n_left_out);
    a->metrics->set(a->host, a->keys, i->name, (int64_t)at->keys->n);
    keyring_got(&i->ring, at->keys, at->max_age_s, now);
    at->keys = NULL;
}

static struct arrival *take_arrived(struct auth *a)
{
    pthread_mutex_lock(&a->lock);
    struct arrival *list = a->arrived;
    a->arrived = NULL;
    pthread_mutex_unlock(&a->lock);
    return list;
}

static struct issuer *by_serial(struct auth *a, uint64_t serial)
{
    for (size_t i = 0; i < a->n_issuers; i++)
        if (a->issuers[i].serial == serial)
            return &a->issuers[i];
    return NULL;
}

bool issuers_await(struct auth *a, uint64_t serial)
{
    const struct issuer *i = by_serial(a, serial);

    return i && i->ring.busy;
}

/* The issuer that is worst off speaks for the instance; nobody does before each has been asked once. */
static void say(struct auth *a)
{
    const struct issuer *worst = NULL;

    for (size_t i = 0; i < a->n_issuers; i++) {
        const struct issuer *it = &a->issuers[i];

        if (!it->why[0] && !it->ring.keys)
            return;
        if (it->why[0] && (!worst || (worst->ring.keys && !it->ring.keys)))
            worst = it;
    }
    if (!worst)
        a->host->health(a->host, MUSTER_HEALTH_OK, "ok", "%zu issuers, Muster's own tokens %s", a->n_issuers,
                        a->config->muster_tokens ? "too" : "are off");
    else if (worst->ring.keys)
        a->host->health(a->host, MUSTER_HEALTH_DEGRADED, "keys_stale", "issuer %s: the keys of before hold on; newer ones: %s", worst->name,
                        worst->why);
    else
        a->host->health(a->host, MUSTER_HEALTH_DEGRADED, "keys_missing", "issuer %s: nobody can log in with its tokens: %s", worst->name,
                        worst->why);
}

void issuers_tick(struct auth *a)
{
    int64_t now = a->timer->now(a->host);
    struct arrival *next, *list = take_arrived(a);

    for (; list; list = next) {
        struct issuer *i = by_serial(a, list->serial);

        next = list->next;
        if (i)
            take_keys(a, i, list);
        arrival_free(list);
    }
    for (size_t i = 0; i < a->n_issuers; i++)
        if (keyring_is_due(&a->issuers[i].ring, now))
            (void)issuers_fetch(a, &a->issuers[i]); /* tried again when it is due again */
    say(a);
}

void issuers_drop_arrived(struct auth *a)
{
    struct arrival *next;

    for (struct arrival *at = take_arrived(a); at; at = next) {
        next = at->next;
        arrival_free(at);
    }
}
