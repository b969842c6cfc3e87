/*
 * core/audit.h - who did what: one record for each request that writes and each refusal of identity or permission, in stream AUDIT and in
 * the log. What was done to tenants and names from outside is added by core/audit_admin.h.
 *
 * Shape    A record is copied into a ring; a lane of its own writes it to the log and appends it to the stream, WINDOW at a time. What
 *          the stream has not confirmed is sent again under the same Nats-Msg-Id, so that it is there once.
 * Holds    Names, verbs, ids and results. Never a body, so never a secret.
 * Bounds   AUDIT_MAX records wait, of one name no more than is left for all others; the newest is dropped where there is no room. Of
 *          refusals AUDIT_REFUSALS_PER_S a name. So nobody drives out the records of others. What is dropped is counted.
 * Threads  audit_add() on any, and takes no longer than to copy; the rest as broker.c calls it.
 */
#ifndef MUSTER_CORE_AUDIT_H
#define MUSTER_CORE_AUDIT_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/name.h"

enum { AUDIT_MAX = 8192, AUDIT_REFUSALS_PER_S = 10, AUDIT_OBJECT_SIZE = 65, AUDIT_RESULT_SIZE = 24 };

struct audit;
struct broker;
struct delivery;
struct intake;
struct request;

struct audit_record {
    int64_t at_wall_ns;
    char tenant[NAME_TOKEN_SIZE], agent[NAME_TOKEN_SIZE];
    char service[NAME_TOKEN_SIZE], verb[NAME_TOKEN_SIZE];
    char object[AUDIT_OBJECT_SIZE];
    char result[AUDIT_RESULT_SIZE]; /* "ok", or the code of the error */
    char by[AUDIT_OBJECT_SIZE], login[AUDIT_OBJECT_SIZE]; /* of administration: who ran the command, and the role in the database */
    uint32_t role; /* MUSTER_ROLE_* */
    int64_t row;   /* of muster.audit; 0: none */
};

int audit_new(struct broker *broker, struct audit **ret_audit);
/* CONFIG_AUDIT_*: which records the log has, too. [any] */
void audit_set_log(struct audit *a, int which);
/* Before the first record; after it nothing is told any more, once what waits has been stored or a second has passed. */
int audit_start(struct audit *a);
void audit_stop(struct audit *a);
void audit_free(struct audit *a); /* accepts NULL */

/* False: there is no room, and it was counted. [any] */
bool audit_add(struct audit *a, const struct audit_record *record);
/* The same for a refusal. */
bool audit_add_refusal(struct audit *a, const struct audit_record *record);
/* What dispatch tells; nothing where it is no matter of the audit. error: ERROR_*, or -1 for none. [any] */
void audit_answer(struct audit *a, const struct request *request, int error, struct muster_bytes answer);
/* Nobody waits for an answer, or it is of no declared verb: what the plugin's function said. */
void audit_delivery(struct audit *a, const struct delivery *delivery, int err);
void audit_refusal(struct audit *a, const struct intake *in, int error);
/* A login that was refused, with the reason; nothing where the token named nobody. */
void audit_login(struct audit *a, const char *tenant, const char *agent, const char *why);
/* Have fn told of each record with a row that is stored; on the audit lane. Before audit_start(). */
void audit_on_stored(struct audit *a, void (*fn)(void *arg, int64_t row), void *arg);

#endif
