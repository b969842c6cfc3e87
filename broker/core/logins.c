/* Requests of the servers on their way to an instance; see logins.h. */
#include "core/logins.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/jwt.h"
#include "base/assert.h"
#include "base/clock.h"
#include "core/health.h"
#include "core/instance.h"
#include "metrics/metrics.h"

static const struct bus_version oldest_that_asks = {2, 10, 0};
enum { FILE_BYTES_MAX = 64 << 10, SERVERS_MAX_IN = 256 };

struct logins {
    struct broker *broker;
    struct nkey key;
    char account[NKEY_TEXT_SIZE], asked[NKEY_TEXT_SIZE]; /* operator mode */
    struct callout_issuer issuer;
    struct health_component *health;
    struct login_metrics metrics;
    atomic_size_t n_open;

    pthread_mutex_t lock; /* guards the rest */
    struct instance *serving[SERVERS_MAX_IN];
    size_t n_serving, next;
    uint64_t sub; /* 0: servers are not heard */
    bool stopped;
};

/* ---- arrivals --------------------------------------------------------------------------------------------------------------- */

struct arrival {
    struct lane_item item;
    struct logins *l;
    struct instance *in;
    struct bus_msg *msg;
    int64_t recv_ns;
};

static void drop_arrival(struct lane_item *item)
{
    struct arrival *a = (struct arrival *)item;

    logins_ended(a->l, a->in, bus_msg_size(a->msg));
    bus_msg_free(a->msg);
    free(a);
}

static void run_arrival(struct lane_item *item)
{
    struct arrival *a = (struct arrival *)item;

    if (!host_login_take(a->in, a->msg, a->recv_ns)) {
        drop_arrival(item);
        return;
    }
    bus_msg_free(a->msg);
    free(a);
}

/* The next that serves; the lock is held. */
static struct instance *next_locked(struct logins *l)
{
    return l->n_serving ? l->serving[l->next++ % l->n_serving] : NULL;
}

static bool has_room(struct instance *in, size_t n_bytes)
{
    return atomic_load(&in->n_logins) < LOGINS_MAX && atomic_load(&in->n_login_bytes) + n_bytes <= LOGINS_MAX_BYTES;
}

/* The lock is held, so that no instance ends meanwhile. */
static bool push_locked(struct logins *l, struct bus_msg *msg)
{
    struct instance *in = next_locked(l);
    size_t n_bytes = bus_msg_size(msg);
    struct arrival *a = in && has_room(in, n_bytes) ? malloc(sizeof *a) : NULL;

    if (!a)
        return false;
    *a = (struct arrival){{.run = run_arrival, .drop = drop_arrival}, l, in, msg, clock_now_ns()};
    atomic_fetch_add(&l->n_open, 1);
    atomic_fetch_add(&in->n_logins, 1);
    atomic_fetch_add(&in->n_login_bytes, n_bytes);
    lane_push(in->lane, &a->item);
    return true;
}

/* On a thread of the library. */
static void on_request(void *arg, struct bus_msg *msg)
{
    struct logins *l = arg;
    bool pushed;

    pthread_mutex_lock(&l->lock);
    pushed = push_locked(l, msg);
    pthread_mutex_unlock(&l->lock);
    if (pushed)
        return;
    metric_add(l->metrics.unanswered, "full", 1);
    bus_msg_free(msg);
}

void logins_ended(struct logins *l, struct instance *in, size_t n_bytes)
{
    atomic_fetch_sub(&in->n_login_bytes, n_bytes);
    atomic_fetch_sub(&in->n_logins, 1);
    atomic_fetch_sub(&l->n_open, 1);
}

size_t logins_open(const struct logins *l)
{
    return l ? atomic_load(&l->n_open) : 0;
}

/* ---- who serves ------------------------------------------------------------------------------------------------------------- */

static int hear_locked(struct logins *l)
{
    const struct bus_sub how = {.subject = CALLOUT_SUBJECT, .queue = "muster", .callout = true, .fn = on_request, .arg = l};

    return l->sub || l->stopped ? 0 : bus_subscribe(broker_bus(l->broker), &how, &l->sub);
}

static void hush_locked(struct logins *l)
{
    if (l->sub)
        bus_unsubscribe(broker_bus(l->broker), l->sub);
    l->sub = 0;
}

int logins_join(struct logins *l, struct instance *in)
{
    int err;

    pthread_mutex_lock(&l->lock);
    err = l->n_serving < SERVERS_MAX_IN ? hear_locked(l) : MUSTER_EAGAIN;
    if (!err)
        l->serving[l->n_serving++] = in;
    pthread_mutex_unlock(&l->lock);
    return err;
}

void logins_leave(struct logins *l, struct instance *in)
{
    pthread_mutex_lock(&l->lock);
    for (size_t i = l->n_serving; i-- > 0;)
        if (l->serving[i] == in)
            l->serving[i] = l->serving[--l->n_serving];
    if (!l->n_serving)
        hush_locked(l);
    pthread_mutex_unlock(&l->lock);
}

void logins_stop(struct logins *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stopped = true;
    hush_locked(l);
    pthread_mutex_unlock(&l->lock);
}

void logins_on_link(struct logins *l, bool up, const char *reason)
{
    struct bus_version is;

    if (!l)
        return;
    if (up && bus_server_version(broker_bus(l->broker), BUS_CALLOUT, &is) == 0 && bus_version_compare(&is, &oldest_that_asks) < 0)
        health_set(l->health, MUSTER_HEALTH_DEGRADED, "server_too_old",
                   "nats-server %d.%d.%d asks nobody who may log in: tokens let nobody in before 2.10; creds work", is.major, is.minor, is.patch);
    else if (up)
        health_set(l->health, MUSTER_HEALTH_OK, "ok", "answers who may log in");
    else
        health_set(l->health, MUSTER_HEALTH_DEGRADED, "nats_away", "the callout's account is away, nobody can log in with a token here: %s",
                   reason);
}

const struct callout_issuer *logins_issuer(const struct logins *l)
{
    return &l->issuer;
}

const struct login_metrics *logins_metrics(const struct logins *l)
{
    return &l->metrics;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

static int fault(char *why, const char *key, const char *path, const char *what)
{
    (void)snprintf(why, BUS_WHY_SIZE, "%s: %.120s: %s", key, path, what);
    return MUSTER_EINVAL;
}

/* A whole small file that may hold a seed: wipe out. */
static int read_file(const char *path, struct buf *out)
{
    FILE *f = fopen(path, "re");
    size_t n = 0;

    if (!f)
        return MUSTER_EINVAL;
    if (buf_reserve(out, FILE_BYTES_MAX)) {
        (void)setvbuf(f, NULL, _IONBF, 0); /* what stdio buffers nobody wipes */
        n = fread(out->data, 1, FILE_BYTES_MAX - 1, f);
        out->len = n;
        out->data[n] = '\0';
    }
    (void)fclose(f);
    return n ? 0 : MUSTER_EINVAL;
}

static int read_key(struct logins *l, const char *path, char *why)
{
    struct buf text = {0};
    int err = read_file(path, &text);

    if (!err && (nkey_from_seed(text.data, strcspn(text.data, "\r\n"), &l->key) != 0 || l->key.kind != NKEY_ACCOUNT))
        err = MUSTER_EINVAL;
    jwt_wipe(&text);
    return err ? fault(why, "nats.callout_key_file", path, "expected the seed of an account key, as `muster nats-config --callout` writes it")
               : 0;
}

/* Of creds the account that made them; in it their user lives. */
static int read_account(const char *key, const char *path, char out[NKEY_TEXT_SIZE], char *why)
{
    struct jwt_claims claims = {.type = ""};
    struct nkey user = {0};
    struct buf text = {0};
    const char *jwt;
    size_t len;
    int err = read_file(path, &text);

    if (!err && (jwt_read_creds(text.data, &jwt, &len, &user) != 0 || jwt_decode(jwt, len, &claims) != 0))
        err = MUSTER_EINVAL;
    nkey_wipe(&user);
    jwt_wipe(&text);
    memcpy(out, *claims.account ? claims.account : claims.issuer, NKEY_TEXT_SIZE);
    return err ? fault(why, key, path, "expected credentials of operator mode, as `muster nats-config --callout` writes them") : 0;
}

static int read_operator_form(struct logins *l, const struct config *c, char *why)
{
    int err = c->nats.creds ? read_account("nats.creds", c->nats.creds, l->account, why)
                            : fault(why, "nats.callout_creds", c->nats.callout_creds, "needs nats.creds beside it");

    l->issuer.account = l->account;
    l->issuer.asked = l->asked;
    return err ? err : read_account("nats.callout_creds", c->nats.callout_creds, l->asked, why);
}

static int read_config(struct logins *l, char *why)
{
    const struct config *c = broker_config(l->broker);

    if (!c->nats.callout_creds && !c->nats.callout_user) {
        (void)snprintf(why, BUS_WHY_SIZE,
                       "service " MUSTER_LOGIN " needs nats.callout_creds (or nats.callout_user and nats.callout_password_file) and "
                       "nats.callout_key_file, as `muster nats-config --callout` writes them");
        return MUSTER_EACCES;
    }
    l->issuer = (struct callout_issuer){.key = &l->key, .account = c->nats.callout_account};
    if (c->nats.callout_creds && read_operator_form(l, c, why))
        return MUSTER_EINVAL;
    return read_key(l, c->nats.callout_key_file, why); /* the configuration is refused without it */
}

static int make_metrics(struct logins *l)
{
    struct metrics *m = broker_metrics(l->broker);
    const struct {
        struct metric **metric;
        struct metric_spec spec;
    } all[] = {
        {&l->metrics.admitted, {MUSTER_COUNTER, "muster_logins_admitted_total", "Logins with a token that were let in.", NULL, {{0}}}},
        {&l->metrics.refused, {MUSTER_COUNTER, "muster_logins_refused_total", "Logins with a token that were refused.", "reason", {{0}}}},
        {&l->metrics.unanswered,
         {MUSTER_COUNTER, "muster_logins_unanswered_total", "Logins that got no answer, so that the client tries again.", "reason", {{0}}}},
        {&l->metrics.seconds, {MUSTER_HISTOGRAM, "muster_login_seconds", "From a login's arrival to its answer.", NULL, {{0}}}},
    };
    int err = 0;

    for (size_t i = 0; i < sizeof all / sizeof *all && !err; i++)
        err = metrics_make(m, &all[i].spec, all[i].metric);
    return err;
}

int logins_new(struct broker *broker, struct logins **ret_logins, char *why)
{
    struct logins *l = calloc(1, sizeof *l);
    int err;

    if (!l) {
        (void)snprintf(why, BUS_WHY_SIZE, "no memory for logins");
        return MUSTER_ENOMEM;
    }
    l->broker = broker;
    ASSERT(pthread_mutex_init(&l->lock, NULL) == 0);
    err = read_config(l, why);
    if (!err) {
        (void)snprintf(why, BUS_WHY_SIZE, "no memory for logins");
        err = health_add(broker_health(broker), HEALTH_LINK, "callout", false, &l->health);
    }
    if (!err)
        err = make_metrics(l);
    if (err) {
        logins_free(l);
        return err;
    }
    *ret_logins = l;
    return 0;
}

void logins_free(struct logins *l)
{
    if (!l)
        return;
    nkey_wipe(&l->key);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}
