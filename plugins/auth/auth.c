/*
 * auth - who may log in with a token: Muster's own, and those of others (JWT).
 *
 * in   logins that NATS asks the brokers about (muster.login/1)
 * out  admissions: tenant, agent, role, end; or a refusal with its reason
 *
 * The parts are told in auth.h.
 */
#include "auth/auth.h"

#include <stdlib.h>

#include "base/clock.h"

static const int64_t tick_ns = CLOCK_S / 4;

static const char find_token_sql[] =
    "SELECT tenant, agent, role, secret_hash, CASE WHEN expires_at < '2100-01-01Z' THEN ceil(extract(epoch FROM expires_at))::bigint END,"
    " CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= clock_timestamp() THEN 'expired' ELSE 'live' END"
    " FROM muster.credentials WHERE token_id = $1";

static void auth_destroy(void *self)
{
    struct auth *a = self;

    if (!a)
        return;
    fetch_free(a->fetch); /* first: its thread fills the list of arrivals */
    issuers_drop_arrived(a);
    login_done(a);
    issuers_done(a);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

static int find_services(struct auth *a)
{
    const struct {
        const char *id;
        const void **table;
    } wanted[] = {{MUSTER_LOGIN, (const void **)&a->logins},
                  {MUSTER_SQL, (const void **)&a->sql},
                  {MUSTER_TIMER, (const void **)&a->timer},
                  {MUSTER_METRICS, (const void **)&a->metrics}};
    int err = 0;

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && !err; i++)
        err = a->host->service(a->host, wanted[i].id, wanted[i].table);
    return err;
}

static int make_metrics(struct auth *a)
{
    int err = a->metrics->make(a->host, MUSTER_COUNTER, "key_fetches_total", "Attempts to read the keys of an issuer.", "result", &a->fetches);

    return err ? err : a->metrics->make(a->host, MUSTER_GAUGE, "keys", "Keys that tokens of the issuer are checked with.", "issuer", &a->keys);
}

static int auth_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct auth *a = calloc(1, sizeof *a);
    int err;

    if (!a || pthread_mutex_init(&a->lock, NULL) != 0) {
        free(a);
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    }
    a->host = host;
    a->config = config;
    a->waiting_end = &a->waiting;
    err = find_services(a);
    if (!err)
        err = make_metrics(a);
    if (!err)
        err = a->sql->prepare(host, "find_token", MUSTER_SQL_READ, find_token_sql, &a->find_token);
    if (err) {
        auth_destroy(a);
        return err;
    }
    *ret_self = a;
    return 0;
}

static void on_tick(void *self, int64_t now_ns)
{
    struct auth *a = self;

    (void)now_ns;
    issuers_tick(a);
    login_again(a);
}

static int auth_start(void *self)
{
    struct auth *a = self;
    uint64_t id;
    int err = fetch_new(&a->fetch);

    if (!err)
        err = issuers_build(a, a->config);
    if (err)
        return a->host->fail(a->host, err, "no memory for the issuers, or no thread");
    err = a->timer->every(a->host, tick_ns, on_tick, &id);
    if (!err)
        err = a->logins->serve(a->host, login_on, a);
    if (!err)
        issuers_tick(a);
    return err;
}

static int auth_reload(void *self, const void *config)
{
    struct auth *a = self;

    if (issuers_build(a, config))
        return a->host->fail(a->host, MUSTER_ENOMEM, "no memory for the issuers");
    issuers_tick(a);
    return 0;
}

MUSTER_PLUGIN(.name = "auth", .version = MUSTER_VERSION, .capabilities = "login sql cross_tenant", .options = auth_options,
              .n_options = AUTH_OPTIONS_N, .config_size = sizeof(struct auth_config), .create = auth_create,
              .start = auth_start, .destroy = auth_destroy, .check = auth_check, .reload = auth_reload);
