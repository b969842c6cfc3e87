/*
 * What dispatch tells the audit: each request that writes, with what it was answered, and each refusal of identity or permission; see
 * audit.h. On the thread that answers or refuses.
 */
#include <muster/plugin.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "core/audit.h"
#include "core/broker.h"
#include "core/inbox.h"
#include "core/intake.h"
#include "core/requests.h"
#include "core/services.h"
#include "tenant/credentials.h"
#include "tenant/tenant.h"
#include "wire/error.h"
#include "wire/schema.h"

enum { MAX_ANSWER = 16 << 10 }; /* of a larger one the id is not looked for */

/* Names are bounded: of what is none the beginning is enough. */
static void copy(char *out, size_t size, struct text t)
{
    size_t len = t.len < size ? t.len : size - 1;

    memcpy(out, t.s ? t.s : "", t.s ? len : 0);
    out[t.s ? len : 0] = '\0';
}

static void put(char *out, size_t size, const char *s)
{
    (void)snprintf(out, size, "%s", s ? s : "");
}

static bool writes(const struct endpoint *e)
{
    return endpoint_access(e) != SCHEMA_READ;
}

static const char *word_of(int error)
{
    return error < 0 ? "ok" : error_name(error);
}

/* Where the request did not name the object, the answer does: of what was made. */
static void find_object(const struct request_note *note, struct muster_bytes answer, char out[AUDIT_OBJECT_SIZE])
{
    struct muster_value *doc;
    struct wire_error err;

    put(out, AUDIT_OBJECT_SIZE, note->object);
    if (*out || !answer.len || answer.len > MAX_ANSWER || value_decode(note->encoding, answer, &doc, &err) != 0)
        return;
    endpoint_object(note->endpoint, doc, out, AUDIT_OBJECT_SIZE);
    value_free(doc);
}

void audit_answer(struct audit *a, const struct request *r, int error, struct muster_bytes answer)
{
    const struct request_note *note = &r->note;
    struct audit_record record;

    if (!note->endpoint || !note->tenant || !writes(note->endpoint))
        return;
    record = (struct audit_record){.at_wall_ns = clock_wall_ns(), .role = credential_role(note->credential)};
    put(record.tenant, sizeof record.tenant, tenants_name(note->tenant));
    put(record.agent, sizeof record.agent, note->credential ? note->credential->agent : "_muster");
    put(record.service, sizeof record.service, endpoint_service(note->endpoint));
    put(record.verb, sizeof record.verb, endpoint_verb(note->endpoint));
    put(record.result, sizeof record.result, word_of(error));
    find_object(note, error < 0 ? answer : (struct muster_bytes){0}, record.object);
    (void)audit_add(a, &record); /* it has been counted */
}

void audit_delivery(struct audit *a, const struct delivery *d, int err)
{
    struct audit_record record;

    if (!d->sub->queue || !d->msg.service || d->is_answer || (d->msg.request && d->endpoint) || !writes(d->endpoint))
        return;
    record = (struct audit_record){.at_wall_ns = clock_wall_ns(), .role = d->msg.role};
    put(record.tenant, sizeof record.tenant, tenants_name(d->tenant));
    put(record.agent, sizeof record.agent, d->msg.agent ? d->msg.agent : "_muster");
    put(record.service, sizeof record.service, d->msg.service);
    put(record.verb, sizeof record.verb, d->msg.verb);
    put(record.object, sizeof record.object, d->object);
    put(record.result, sizeof record.result, word_of(err ? error_of_result(err) : -1));
    (void)audit_add(a, &record); /* likewise */
}

void audit_refusal(struct audit *a, const struct intake *in, int error)
{
    struct audit_record record = {.at_wall_ns = clock_wall_ns(), .role = credential_role(in->credential)};

    if (in->subject.kind != SUBJECT_RPC || (error != ERROR_UNAUTHENTICATED && error != ERROR_PERMISSION_DENIED))
        return;
    copy(record.tenant, sizeof record.tenant, in->subject.tenant);
    copy(record.agent, sizeof record.agent, in->subject.agent);
    copy(record.service, sizeof record.service, in->subject.service);
    copy(record.verb, sizeof record.verb, in->subject.verb);
    put(record.result, sizeof record.result, error_name(error));
    if (*record.service && *record.verb)
        (void)audit_add_refusal(a, &record); /* likewise */
}

void audit_login(struct audit *a, const char *tenant, const char *agent, const char *why)
{
    struct audit_record record = {.at_wall_ns = clock_wall_ns(), .service = "login", .verb = "refuse"};

    if (!name_is_public(tenant, strlen(tenant)) || !name_is_public(agent, strlen(agent)))
        return;
    put(record.tenant, sizeof record.tenant, tenant);
    put(record.agent, sizeof record.agent, agent);
    put(record.result, sizeof record.result, why);
    (void)audit_add_refusal(a, &record); /* it has been counted */
}
