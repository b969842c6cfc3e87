/*
 * doctor: the certificates that the configuration names, and when they end.
 *
 * A running broker warns of the same, by the same rule, for the files of its own machine. The server's own are known where the keys
 * of `muster nats-config` are.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/certificate.h"
#include "base/clock.h"
#include "cli/doctor.h"
#include "cli/settings.h"
#include "sql/dsn.h"

struct named {
    const char *key, *path; /* path NULL or "": none */
    int kind;
};

static void judge(struct doctor *d, const struct named *file, int64_t ends_ns)
{
    int64_t now = clock_wall_ns();
    char what[DOCTOR_WHAT_SIZE], when[CERTIFICATE_WHY_SIZE];

    (void)snprintf(what, sizeof what, "certificate %s", file->key);
    certificate_say(ends_ns, now, when);
    if (ends_ns <= now)
        doctor_say(d, DOCTOR_BROKEN, what, "certificate_expired", "%s %s: renew it, brokers take it up by themselves", file->path, when);
    else if (ends_ns - now < CERTIFICATE_WARN_NS)
        doctor_say(d, DOCTOR_HINT, what, "certificate_expires", "%s %s: renew it, brokers take it up by themselves", file->path, when);
    else
        doctor_say(d, DOCTOR_OK, what, NULL, "%s %s", file->path, when);
}

/* What is not ours to read is the broker's to tell. */
static void check_file(struct doctor *d, const struct named *file)
{
    char what[DOCTOR_WHAT_SIZE], why[CERTIFICATE_WHY_SIZE];
    int64_t ends_ns;

    if (!file->path || !*file->path)
        return;
    if (certificate_ends(file->path, file->kind, &ends_ns, why) == 0) {
        judge(d, file, ends_ns);
        return;
    }
    (void)snprintf(what, sizeof what, "certificate %s", file->key);
    doctor_say(d, access(file->path, R_OK) == 0 ? DOCTOR_BROKEN : DOCTOR_HINT, what, "certificate_unusable", "%s", why);
}

void doctor_certificates(struct doctor *d)
{
    const struct config *c = d->cli->config;
    struct dsn_certificates dsn = {0};
    struct settings server = {0}; /* stays so where `muster nats-config` has not run */
    struct file_error err;

    if (c->nats.keys)
        (void)settings_read(c->nats.keys, &server, &err);
    if (c->postgres.dsn)
        dsn_certificates(c->postgres.dsn, &dsn);
    const struct named files[] = {
        {"of nats-server", server.tls_cert, CERTIFICATE_CHAIN},          {"of nats-server's clients", server.tls_ca, CERTIFICATE_TRUST},
        {"broker.tls.cert", c->broker.tls_cert, CERTIFICATE_CHAIN},      {"broker.tls.client_ca", c->broker.tls_client_ca, CERTIFICATE_TRUST},
        {"nats.tls.cert", c->nats.tls_cert, CERTIFICATE_CHAIN},          {"nats.tls.ca", c->nats.tls_ca, CERTIFICATE_TRUST},
        {"postgres.dsn sslcert", dsn.cert, CERTIFICATE_CHAIN},           {"postgres.dsn sslrootcert", dsn.ca, CERTIFICATE_TRUST},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        check_file(d, &files[i]);
}
