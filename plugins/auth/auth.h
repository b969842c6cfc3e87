/*
 * auth/auth.h - what the parts of the plugin share.
 *
 * auth.c      options and life
 * settings.c  what the options mean, and which make no sense
 * issuers.c   the issuers and their keys
 * login.c     one login after another
 *
 * The checks themselves are broker/auth (jose, jwks, bearer, token, keyring, fetch), which the plugin carries along. All state is
 * per instance and touched on the lane only, but for the list of arrived keys, which the thread of fetch fills under its lock.
 */
#ifndef MUSTER_PLUGINS_AUTH_AUTH_H
#define MUSTER_PLUGINS_AUTH_AUTH_H

#include <muster/plugin.h>
#include <pthread.h>
#include <stdbool.h>

#include "auth/bearer.h"
#include "auth/fetch.h"
#include "auth/keyring.h"

enum { AUTH_ISSUERS_MAX = 64 };

struct issuer_setting {
    const char *issuer;
    struct muster_list audience;
    const char *jwks_url, *jwks_file, *secret_file; /* one of them */
    const char *ca_file;
    const char *tenant_claim, *tenant, *agent_claim, *role_claim, *role;
    struct muster_list roles, tenants;
    int64_t leeway_ns;
    int32_t require_exp;
};

struct auth_config {
    struct muster_map issuers;
    int32_t muster_tokens;
    int64_t refetch_ns, fetch_timeout_ns;
};

struct issuer {
    const char *name; /* borrowed from the configuration, as what rules point to */
    const struct issuer_setting *set;
    struct bearer_rules rules;
    struct keyring ring;
    uint64_t serial; /* what is under way for an issuer of before a reload finds none */
    char why[FETCH_WHY_SIZE]; /* the last attempt failed: because of; "" otherwise */
};

/* What a fetch has brought; on its way from the thread of fetch to the lane. */
struct arrival {
    struct arrival *next;
    struct auth *a;
    uint64_t serial;
    bool is_secret;
    struct jwks *keys; /* NULL: it failed */
    int64_t max_age_s;
    char why[FETCH_WHY_SIZE];
};

/* A login that waits for keys which are on their way. */
struct waiting {
    struct waiting *next;
    uint64_t id, serial; /* serial: of the issuer whose keys are awaited */
    int64_t until_ns;
    size_t len;
    char token[]; /* wiped when done */
};

struct auth {
    const struct muster_host *host;
    const struct muster_logins *logins;
    const struct muster_sql *sql;
    const struct muster_timer *timer;
    const struct muster_metrics *metrics;
    const struct auth_config *config;
    struct fetch *fetch;
    struct issuer *issuers;
    size_t n_issuers;
    uint64_t last_serial;
    struct waiting *waiting, **waiting_end; /* oldest first */
    size_t n_waiting, waiting_bytes;
    pthread_mutex_t lock;
    struct arrival *arrived; /* [lock] */
    uint64_t find_token;
    uint64_t fetches, keys; /* metrics */
};

/* ---- settings.c ---- */

enum { AUTH_OPTIONS_N = 4 };
extern const struct muster_option auth_options[AUTH_OPTIONS_N];

int auth_check(const struct muster_host *host, const void *config);
/* The rules of a setting that was checked. */
struct bearer_rules auth_rules(const struct issuer_setting *set);

/* ---- issuers.c ---- */

/* Make the issuers of config; keys of those whose name and source are as before stay. MUSTER_ENOMEM leaves all as it was. */
int issuers_build(struct auth *a, const struct auth_config *config);
void issuers_done(struct auth *a);
struct issuer *issuers_find(struct auth *a, const char *iss);
/* Begin to fetch the keys of an issuer. False when it could not be begun; the keyring knows. */
bool issuers_fetch(struct auth *a, struct issuer *i);
/* Take over what has arrived, and fetch what is due. */
void issuers_tick(struct auth *a);
/* True while keys of that issuer are on their way. */
bool issuers_await(struct auth *a, uint64_t serial);
/* Free what arrives too late. */
void issuers_drop_arrived(struct auth *a);

/* ---- login.c ---- */

void login_on(void *arg, const struct muster_login *login);
/* Judge once more what waits and has no longer anything to wait for. */
void login_again(struct auth *a);
void login_done(struct auth *a);

#endif
