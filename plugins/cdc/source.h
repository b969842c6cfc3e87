/*
 * cdc/source.h - the replication link: from a connection string to a stream of CopyData messages.
 *
 * Steps    connect, look (identity of the cluster, wal_level, privileges, publication, slot), make the slot where it never was, wait
 *          as standby while it is another's, START_REPLICATION. Nothing blocks; the socket is watched by muster.io/1.
 * Settings of its session: wal_sender_timeout 5 s, so that a stopped reader loses the slot soon; DateStyle ISO, TimeZone UTC,
 *          IntervalStyle iso_8601, extra_float_digits 3, bytea_output hex; client_encoding UTF8, or SQL_ASCII where the
 *          database is that, because the server cannot convert there. They come after the options of the connection string or of PGOPTIONS.
 */
#ifndef MUSTER_CDC_SOURCE_H
#define MUSTER_CDC_SOURCE_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

struct cdc;

enum source_step {
    SOURCE_CLOSED,
    SOURCE_CONNECTING,
    SOURCE_LOOKING,  /* the one query that tells everything is under way */
    SOURCE_ENCODING, /* SET client_encoding */
    SOURCE_DROPPING, /* a slot that the server has given up */
    SOURCE_CREATING, /* CREATE_REPLICATION_SLOT */
    SOURCE_STANDBY,  /* the slot is another's: look again in a second */
    SOURCE_STARTING, /* START_REPLICATION */
    SOURCE_COPYING,
};

struct source {
    PGconn *conn;
    enum source_step step;
    PGresult *result; /* of the present step, until the NULL that ends it; owned */
    uint64_t watch;   /* of the socket; 0: none */
    int fd;
    uint32_t events;     /* that are watched */
    int64_t deadline_ns; /* of the present step */
    bool paused;         /* the pump does not want to read */
    bool encoding_set;
    unsigned int first_host; /* at which an attempt begins; outlives the link; see base/hosts.h */

    /* What the look told. */
    char system[32];
    int version;
    uint64_t flushed;  /* end of the server's log */
    uint32_t timeline; /* of it */
    uint64_t slot_confirmed;
};

void source_open(struct cdc *c);
void source_close(struct cdc *c);
/* Every second: deadlines, standby's next look. */
void source_tick(struct cdc *c);
/* Take the next CopyData message: > 0 its length (*ret_frame is freed with PQfreemem), 0 nothing there, -1 the link is
 * lost and the fault was told. */
int source_next(struct cdc *c, char **ret_frame);
/* Whether to read what the server sends; paused while the pump waits. */
void source_pause(struct cdc *c, bool paused);
/* Confirm flushed, and say that everything up to received has come. */
void source_status(struct cdc *c, uint64_t received, uint64_t flushed);

/* A logical reader counts as a standby. As a synchronous one it would hold up every commit of the cluster until it has confirmed it,
 * and wait for ever where it must see a commit first. True, and the fault told, when synchronous_standby_names names us. */
bool source_check_standbys(struct cdc *c, const char *names);
/* Whether the value of synchronous_standby_names matches an application's name, by "*" too. */
bool source_is_named(const char *names, const char *application);

uint64_t source_parse_lsn(const char *text); /* 0 when it is not one */

#endif
