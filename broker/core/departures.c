/* Connections of brokers that have ended; see departures.h. */
#include "core/departures.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "bus/sys.h"

struct gone {
    char server[SYS_SERVER_SIZE];
    uint64_t client;
    int64_t at_ns;
};

struct departures_ear {
    struct lane_item item;
    struct departures_ear *next;
    struct departures *d;
    struct lane *lane;
    void (*fn)(void *arg);
    void *arg;
    bool queued; /* under the lock */
    bool dead;   /* its lane only; an item that is queued frees it then */
};

struct departures {
    pthread_mutex_t lock; /* guards these */
    struct gone ring[DEPARTURES_MAX];
    size_t n; /* ever noted */
    struct departures_ear *ears;
};

struct departures *departures_new(void)
{
    struct departures *d = calloc(1, sizeof *d);

    if (d)
        ASSERT(pthread_mutex_init(&d->lock, NULL) == 0);
    return d;
}

void departures_free(struct departures *d)
{
    if (!d)
        return;
    (void)pthread_mutex_destroy(&d->lock);
    free(d);
}

/* ---- ears ------------------------------------------------------------------------------------------------------------------- */

static bool take_turn(struct departures_ear *ear)
{
    struct departures *d = ear->d;

    pthread_mutex_lock(&d->lock);
    ear->queued = false;
    pthread_mutex_unlock(&d->lock);
    return !ear->dead;
}

static void run_ear(struct lane_item *item)
{
    struct departures_ear *ear = (struct departures_ear *)item;

    if (ear->dead)
        free(ear);
    else if (take_turn(ear))
        ear->fn(ear->arg);
}

/* The lane has ended, and its owner has let the ear go or does so without it. */
static void drop_ear(struct lane_item *item)
{
    struct departures_ear *ear = (struct departures_ear *)item;

    if (ear->dead)
        free(ear);
}

/* The lock is held. */
static void call_ears(struct departures *d)
{
    for (struct departures_ear *ear = d->ears; ear; ear = ear->next) {
        if (ear->queued)
            continue;
        ear->queued = true;
        lane_push(ear->lane, &ear->item);
    }
}

struct departures_ear *departures_hear(struct departures *d, struct lane *lane, void (*fn)(void *arg), void *arg)
{
    struct departures_ear *ear = calloc(1, sizeof *ear);

    if (!ear)
        return NULL;
    *ear = (struct departures_ear){.item = {.run = run_ear, .drop = drop_ear}, .d = d, .lane = lane, .fn = fn, .arg = arg};
    pthread_mutex_lock(&d->lock);
    ear->next = d->ears;
    d->ears = ear;
    pthread_mutex_unlock(&d->lock);
    return ear;
}

void departures_ear_free(struct departures_ear *ear)
{
    struct departures_ear **at;
    bool queued;

    if (!ear)
        return;
    pthread_mutex_lock(&ear->d->lock);
    for (at = &ear->d->ears; *at != ear; at = &(*at)->next)
        ;
    *at = ear->next;
    queued = ear->queued;
    pthread_mutex_unlock(&ear->d->lock);
    ear->dead = true;
    if (!queued)
        free(ear);
}

/* ---- what has gone ---------------------------------------------------------------------------------------------------------- */

void departures_note(struct departures *d, const char *server, uint64_t client)
{
    struct gone *gone;

    pthread_mutex_lock(&d->lock);
    gone = &d->ring[d->n++ % DEPARTURES_MAX];
    *gone = (struct gone){.client = client, .at_ns = clock_boot_ns()};
    (void)snprintf(gone->server, sizeof gone->server, "%s", server);
    call_ears(d);
    pthread_mutex_unlock(&d->lock);
}

/* The lock is held. */
static struct gone *find(struct departures *d, const char *server, uint64_t client)
{
    size_t n = d->n < DEPARTURES_MAX ? d->n : DEPARTURES_MAX;

    for (size_t i = 0; i < n; i++)
        if (d->ring[i].client == client && strcmp(d->ring[i].server, server) == 0)
            return &d->ring[i];
    return NULL;
}

void departures_back(struct departures *d, const char *server)
{
    struct gone *gone;

    pthread_mutex_lock(&d->lock);
    while ((gone = find(d, server, 0)) != NULL)
        gone->server[0] = '\0';
    pthread_mutex_unlock(&d->lock);
}

int64_t departures_when(struct departures *d, const char *server, uint64_t client)
{
    const struct gone *gone;
    int64_t at_ns;

    pthread_mutex_lock(&d->lock);
    gone = find(d, server, client);
    at_ns = gone ? gone->at_ns : 0;
    pthread_mutex_unlock(&d->lock);
    return at_ns;
}
