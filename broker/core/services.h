/*
 * core/services.h - what this broker answers: the verbs that the plugins' descriptors declare, with their definitions and counters.
 *
 * Shape    Each verb is an endpoint. Requests to it are checked against the plugin's definition before the plugin sees them, and
 *          counted. `$SRV.PING|INFO|STATS[.muster[.<broker id>]]` (NATS ADR-32) tell of all of them as one service "muster".
 * Threads  Any. Finding takes a lock for reading; counting none, but for last_error.
 * Errors   services_add(): why names the plugin's service and what is wrong with it.
 */
#ifndef MUSTER_CORE_SERVICES_H
#define MUSTER_CORE_SERVICES_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/audit.h"
#include "wire/text.h"

struct broker;
struct endpoint;
struct services;
struct wire_error;

enum { SERVICES_WHY_SIZE = 512 };

/* broker may be NULL for who only checks with services_add(). */
int services_new(struct broker *broker, struct services **ret_services);
void services_free(struct services *s);
/* Take the services of a plugin's descriptor; again for each further instance of it. MUSTER_EINVAL: a name, a verb or the definition
 * is wrong. MUSTER_EEXIST: another plugin answers that service already. */
int services_add(struct services *s, const struct muster_plugin *plugin,
                 char why[SERVICES_WHY_SIZE]);
/* Those of plugin take the place of those of before, at any time. Errors as services_add(): those that came before the fault are there then,
 * and those of before are not. */
int services_replace(struct services *s, const struct muster_plugin *before, const struct muster_plugin *plugin,
                     char why[SERVICES_WHY_SIZE]);
/* Answer $SRV from now on; stop answering. */
int services_start(struct services *s);
void services_stop(struct services *s);

/* What a request needs: SCHEMA_… of its definition, SCHEMA_WRITE where there is none; and whether role user may ask. e may be NULL. */
int endpoint_access(const struct endpoint *e);
bool endpoint_user(const struct endpoint *e);
/* NULL: no plugin declares it. */
struct endpoint *services_find(struct services *s, struct text service, struct text verb);
/* A plugin declares verbs of this service. */
bool services_has(struct services *s, struct text service);
const char *endpoint_service(const struct endpoint *e);
const char *endpoint_verb(const struct endpoint *e);
/* What a request to it, or the answer, is about: the member that its definition names as object, else <service>_id or id, where it is a text;
 * cut to size. "": there is none. */
void endpoint_object(const struct endpoint *e, const struct muster_value *body, char *out, size_t size);
/* Decode a request's body within the limits of INTERFACE 3 and check it against the verb's definition. e may be NULL: limits only.
 * object: what it is about, of one that writes. MUSTER_EINVAL with *err naming the field, or MUSTER_ENOMEM. */
int endpoint_check(const struct endpoint *e, const struct muster_msg *msg, char object[AUDIT_OBJECT_SIZE], struct wire_error *err);
/* Count one answer, ns after the request came. number and text: of the error that was answered; 0 and NULL for none. */
void endpoint_count(struct endpoint *e, int64_t ns, int number, const char *text);

#endif
