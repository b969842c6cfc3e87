/* Certificates that change while the broker runs; see certificates.h. */
#include "core/certificates.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/certificate.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/stamp.h"
#include "bus/bus.h"
#include "sql/dsn.h"

enum { NATS, BROKER, POSTGRES, N_GROUPS };
enum { CERT, KEY, CA, N_FILES };
static const int64_t look_ns = CLOCK_S;

struct file {
    const char *key, *path; /* of the configuration; path NULL: it names none */
    struct stamp stamp;
    _Atomic int64_t ends_ns; /* 0: not known; of a key never */
};

struct group {
    const char *name;
    const char *meanwhile;           /* what holds when they cannot be used */
    struct file files[N_FILES];
    struct health_component *health; /* NULL: the configuration names no certificate */
    bool settling;                   /* changed at the last look: a second file may follow */
    char fault[HTTP_WHY_SIZE];       /* what keeps the files from being used; "" nothing */
};

struct certificates {
    const struct config *config;
    struct admin *admin; /* NULL: not open */
    struct dsn_certificates dsn;
    struct group groups[N_GROUPS];
    int64_t next_ns;
};

/* ---- whether the files can be used -------------------------------------------------------------------------------------------------- */

static int take_nats(struct certificates *c, char why[HTTP_WHY_SIZE])
{
    const struct bus_options options = {
        .tls_ca = c->config->nats.tls_ca, .tls_cert = c->config->nats.tls_cert, .tls_key = c->config->nats.tls_key};
    const char *key;

    _Static_assert(BUS_WHY_SIZE <= HTTP_WHY_SIZE, "why must take what the bus says");
    (void)snprintf(why, HTTP_WHY_SIZE, "no memory");
    return bus_check_tls(&options, &key, why);
}

static int take_broker(struct certificates *c, char why[HTTP_WHY_SIZE])
{
    return c->admin ? admin_renew(c->admin, why) : 0;
}

/* libpq reads the files itself; what it thinks of them is told with the link. */
static int take_postgres(struct certificates *c, char why[HTTP_WHY_SIZE])
{
    (void)c;
    (void)why;
    return 0;
}

static int (*const take[N_GROUPS])(struct certificates *c, char why[HTTP_WHY_SIZE]) = {
    [NATS] = take_nats, [BROKER] = take_broker, [POSTGRES] = take_postgres};

/* When the certificates of a group end. False: one of them cannot be read. */
static bool read_ends(struct group *g)
{
    int64_t ends_ns[N_FILES] = {0};

    for (int i = 0; i < N_FILES; i++)
        if (i != KEY && g->files[i].path &&
            certificate_ends(g->files[i].path, i == CA ? CERTIFICATE_TRUST : CERTIFICATE_CHAIN, &ends_ns[i], g->fault) != 0)
            return false;
    for (int i = 0; i < N_FILES; i++)
        atomic_store(&g->files[i].ends_ns, ends_ns[i]);
    return true;
}

static void take_group(struct certificates *c, struct group *g)
{
    char why[HTTP_WHY_SIZE] = "";

    g->fault[0] = '\0';
    if (take[g - c->groups](c, why) != 0)
        (void)snprintf(g->fault, sizeof g->fault, "%s", why);
    else if (read_ends(g))
        log_info("certificates", "%s has changed and is taken up", g->name);
}

/* ---- telling ------------------------------------------------------------------------------------------------------------------------ */

/* The one that ends first; NULL: none is known. */
static const struct file *first_to_end(const struct group *g)
{
    const struct file *first = NULL;

    for (int i = 0; i < N_FILES; i++) {
        int64_t ends_ns = atomic_load(&g->files[i].ends_ns);

        if (ends_ns && (!first || ends_ns < atomic_load(&first->ends_ns)))
            first = &g->files[i];
    }
    return first;
}

static void tell_end(struct group *g, const struct file *file)
{
    int64_t ends_ns = atomic_load(&file->ends_ns), now = clock_wall_ns();
    char when[CERTIFICATE_WHY_SIZE];

    certificate_say(ends_ns, now, when);
    if (ends_ns <= now)
        health_set(g->health, MUSTER_HEALTH_DEGRADED, "certificate_expired", "%s (%s) %s: renew it, it is taken up by itself", file->key,
                   file->path, when);
    else if (ends_ns - now < CERTIFICATE_WARN_NS)
        health_set(g->health, MUSTER_HEALTH_DEGRADED, "certificate_expires", "%s (%s) %s: renew it, it is taken up by itself", file->key,
                   file->path, when);
    else
        health_set(g->health, MUSTER_HEALTH_OK, "ok", "%s %s", file->key, when);
}

static void tell(struct group *g)
{
    const struct file *file = first_to_end(g);

    if (g->fault[0])
        health_set(g->health, MUSTER_HEALTH_DEGRADED, "certificate_unusable", "%s cannot be used: %s; %s", g->name, g->fault, g->meanwhile);
    else if (file)
        tell_end(g, file);
}

/* ---- looking ------------------------------------------------------------------------------------------------------------------------ */

static bool has_changed(struct group *g)
{
    bool changed = false;

    for (int i = 0; i < N_FILES; i++) {
        struct stamp now = stamp_of(g->files[i].path);

        changed |= memcmp(&now, &g->files[i].stamp, sizeof now) != 0;
        g->files[i].stamp = now;
    }
    return changed;
}

/* A certificate and its key are two files: what has changed is taken when nothing has since the last look. */
static void look_at(struct certificates *c, struct group *g, bool at_once)
{
    bool changed = has_changed(g), due = g->settling || (at_once && (changed || g->fault[0]));

    if (due && (at_once || !changed))
        take_group(c, g);
    g->settling = changed && !at_once;
    tell(g);
}

void certificates_look(struct certificates *c, bool at_once)
{
    int64_t now = clock_now_ns();

    if (now < c->next_ns && !at_once)
        return;
    c->next_ns = now + look_ns;
    for (int i = 0; i < N_GROUPS; i++)
        if (c->groups[i].health)
            look_at(c, &c->groups[i], at_once);
}

/* ---- life --------------------------------------------------------------------------------------------------------------------------- */

static void read_metric(void *arg, struct metrics_out *out)
{
    struct certificates *c = arg;
    int64_t now = clock_wall_ns();

    for (int i = 0; i < N_GROUPS * N_FILES; i++) {
        struct file *file = &c->groups[i / N_FILES].files[i % N_FILES];
        struct metric_label label = {"setting", file->key};
        int64_t ends_ns = atomic_load(&file->ends_ns);

        if (ends_ns && ends_ns != INT64_MAX)
            metrics_emit(out, &label, 1, (double)(ends_ns - now) / (double)CLOCK_S);
    }
}

static const char *path_or_null(const char *path)
{
    return *path ? path : NULL;
}

static void name_files(struct certificates *c)
{
    const struct config *k = c->config;
    const struct dsn_certificates *d = &c->dsn;
    const struct group groups[N_GROUPS] = {
        [NATS] = {.name = "nats.tls",
                  .meanwhile = "what was there before stays",
                  .files = {[CERT] = {.key = "nats.tls.cert", .path = k->nats.tls_cert},
                            [KEY] = {.key = "nats.tls.key", .path = k->nats.tls_key},
                            [CA] = {.key = "nats.tls.ca", .path = k->nats.tls_ca}}},
        [BROKER] = {.name = "broker.tls",
                    .meanwhile = "what was there before stays",
                    .files = {[CERT] = {.key = "broker.tls.cert", .path = k->broker.tls_cert},
                              [KEY] = {.key = "broker.tls.key", .path = k->broker.tls_key},
                              [CA] = {.key = "broker.tls.client_ca", .path = k->broker.tls_client_ca}}},
        [POSTGRES] = {.name = "postgres.dsn",
                      .meanwhile = "new connections will fail",
                      .files = {[CERT] = {.key = "postgres.dsn sslcert", .path = path_or_null(d->cert)},
                                [KEY] = {.key = "postgres.dsn sslkey", .path = path_or_null(d->key)},
                                [CA] = {.key = "postgres.dsn sslrootcert", .path = path_or_null(d->ca)}}},
    };

    memcpy(c->groups, groups, sizeof groups);
}

static int add_group(struct group *g, struct health *health)
{
    if (!g->files[CERT].path && !g->files[CA].path)
        return 0;
    (void)has_changed(g);
    (void)read_ends(g); /* what cannot be read is told at the first look */
    return health_add(health, HEALTH_CERTIFICATE, g->name, false, &g->health);
}

int certificates_new(const struct certificates_options *options, struct certificates **ret)
{
    struct certificates *c = calloc(1, sizeof *c);
    const struct metric_spec spec = {.type = MUSTER_GAUGE,
                                     .name = "muster_certificate_expires_seconds",
                                     .help = "Until the certificate that a setting names ends; below zero once it has."};
    int err = c ? 0 : MUSTER_ENOMEM;

    if (err)
        return err;
    c->config = options->config;
    if (c->config->postgres.dsn)
        dsn_certificates(c->config->postgres.dsn, &c->dsn);
    name_files(c);
    for (int i = 0; i < N_GROUPS && !err; i++)
        err = add_group(&c->groups[i], options->health);
    if (!err)
        err = metrics_watch(options->metrics, &spec, read_metric, c);
    if (err) {
        free(c);
        return err;
    }
    *ret = c;
    return 0;
}

void certificates_free(struct certificates *c)
{
    free(c);
}

void certificates_serve(struct certificates *c, struct admin *admin)
{
    c->admin = admin;
}
