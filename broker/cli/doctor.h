/*
 * cli/doctor.h - the parts of `muster doctor`; private to it.
 *
 * Shape    Each check looks at one thing and says one or more findings. What later checks need of
 *          earlier ones is kept in struct doctor. A code is the same short word that /readyz, the
 *          metrics and the log have for the same fault.
 * Threads  The main thread, but for completions that a check waits for.
 */
#ifndef MUSTER_CLI_DOCTOR_H
#define MUSTER_CLI_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/map.h"
#include "cli/cli.h"
#include "config/config.h"
#include "sql/admin.h"

struct session;

enum { DOCTOR_OK, DOCTOR_HINT, DOCTOR_BROKEN };
enum { DOCTOR_WHAT_SIZE = 256 };

/* A configured instance of the plugin cdc. */
struct doctor_cdc {
    const struct config_plugin *how;
    const struct muster_plugin *plugin;
    void *values; /* what config_bind() wrote; owned */
    const char *slot, *publication, *tenant_column;
    bool events; /* it reads messages, not tables */
    char stream[96];
};

struct doctor {
    const struct cli *cli;
    bool json;
    size_t n, n_of[3]; /* findings, by level */
    struct buf out;    /* of --json */

    struct doctor_cdc *cdc;
    size_t n_cdc;
    int64_t replicas;         /* the most that a plugin wants of a stream */
    const char *replicated_by; /* its instance; borrowed from the configuration */
    long n_connections; /* of PostgreSQL, that the plugins of one broker open */
    bool nats_up;       /* the brokers' credentials were let in */
    bool streams_known; /* JetStream has listed its streams */
    struct map streams; /* their names; the values mean nothing */
    bool schema_known;  /* every migration is applied: schema muster can be asked */
};

/* Say a finding. what: "slot muster_main"; code NULL: none. */
void doctor_say(struct doctor *d, int level, const char *what, const char *code, const char *fmt,
                ...) __attribute__((format(printf, 5, 6)));

/* The configuration and every plugin; fills in cdc. False when nothing else can be checked. */
bool doctor_config(struct doctor *d);
/* The certificates that the configuration names, and their end. */
void doctor_certificates(struct doctor *d);
/* NATS: servers, credentials, JetStream; fills in streams. */
void doctor_nats(struct doctor *d);
/* The servers of NATS that JetStream's cluster is made of, asked as the system account. */
void doctor_peers(struct doctor *d, const struct session *system);
/* What users of each role must not be able to do, tried. After doctor_nats(). */
void doctor_walls(struct doctor *d);
/* PostgreSQL: server, role, migrations, clock, and the three below. */
void doctor_postgres(struct doctor *d);
void doctor_connections(struct doctor *d, struct sql_admin *admin);
void doctor_slots(struct doctor *d, struct sql_admin *admin);
void doctor_tables(struct doctor *d, struct sql_admin *admin);
/* /readyz of the broker on broker.admin. */
void doctor_broker(struct doctor *d);

/* Run a query; one that fails is said as broken. NULL then. */
struct sql_rows *doctor_query(struct doctor *d, struct sql_admin *admin, const char *sql, int n,
                              const char *const *params);
/* True for PostgreSQL's "t". */
bool doctor_is_true(const struct sql_rows *rows, int row, int column);

#endif
