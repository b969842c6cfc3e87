/* Who may; see admission.h. */
#include "core/admission.h"

#include <stdio.h>

#include "auth/access.h"
#include "base/clock.h"
#include "core/services.h"
#include "tenant/credentials.h"
#include "wire/schema.h"

bool admission_needs_name(const struct intake *in)
{
    int kind = in->subject.kind;

    return (kind == SUBJECT_RPC || kind == SUBJECT_ALL || kind == SUBJECT_TO || kind == SUBJECT_GRP) &&
           !text_is(in->subject.agent, "_muster") && !subject_is_plugin(in->subject.agent);
}

struct text admission_tenant(const struct intake *in)
{
    return subject_is_operator(in->subject.agent) ? text_of("") : in->subject.tenant;
}

bool admission_find(struct credentials *c, struct intake *in)
{
    const struct muster_tenant *tenant = subject_is_operator(in->subject.agent) ? NULL : in->tenant;

    in->credential = credentials_find(c, tenant, in->subject.agent.s, in->subject.agent.len);
    return in->credential != NULL;
}

static void say(const struct intake *in, const char *what, struct admission_refusal *why)
{
    (void)snprintf(why->text, sizeof why->text, "the name \"%.*s\" %s in tenant \"%.*s\"", (int)in->subject.agent.len, in->subject.agent.s,
                   what, (int)in->subject.tenant.len, in->subject.tenant.s);
}

void admission_unknown(const struct intake *in, struct admission_refusal *why)
{
    why->reason = "name";
    why->code = ERROR_UNAUTHENTICATED;
    say(in, "is not known", why);
}

bool admission_in_force(const struct intake *in, struct admission_refusal *why)
{
    int state = in->credential ? credential_state(in->credential, credential_expires(in->credential) ? clock_wall_ns() : 0) : CREDENTIAL_LIVE;

    if (state == CREDENTIAL_LIVE)
        return true;
    admission_unknown(in, why);
    if (state == CREDENTIAL_GONE)
        return false;
    why->reason = state == CREDENTIAL_REVOKED ? "revoked" : "expired";
    say(in, state == CREDENTIAL_REVOKED ? "has been revoked" : "has expired", why);
    return false;
}

/* Names of a subject that was parsed. */
static bool refuse_verb(const struct intake *in, const char *reason, const char *because, struct admission_refusal *why)
{
    why->reason = reason;
    why->code = ERROR_PERMISSION_DENIED;
    (void)snprintf(why->text, sizeof why->text, "role %s may not ask for %.*s.%.*s: %s", access_role_name(credential_role(in->credential)),
                   (int)in->subject.service.len, in->subject.service.s, (int)in->subject.verb.len, in->subject.verb.s, because);
    return false;
}

bool admission_allows(struct credentials *c, const struct intake *in, struct admission_refusal *why)
{
    int access = endpoint_access(in->endpoint);
    char because[80];

    if (!in->credential)
        return true;
    if (!access_allows(credential_role(in->credential), access, endpoint_user(in->endpoint))) {
        (void)snprintf(because, sizeof because, "access is %s%s", schema_access_name(access),
                       endpoint_user(in->endpoint) ? ", and open to users" : "");
        return refuse_verb(in, "role", because, why);
    }
    /* With a ref it answers what was pushed to the name, and its service knows what it has pushed: a narrowing is of what a name asks for. */
    if (in->subject.ref.len ||
        credential_may(c, in->credential, in->subject.service.s, in->subject.service.len, in->subject.verb.s, in->subject.verb.len))
        return true;
    return refuse_verb(in, "verbs", "the credential is narrowed to other verbs", why);
}
