/*
 * core/admission.h - whether who sent a message may: a known name that is in force, and for a request a role that is allowed the verb.
 * Private to core/.
 *
 * The server's permissions prove the name; that it still has a credential, and what it may ask of services, is decided here. Brokers and
 * their plugins need none. Any thread; nothing is kept.
 */
#ifndef MUSTER_CORE_ADMISSION_H
#define MUSTER_CORE_ADMISSION_H

#include <stdbool.h>

#include "core/intake.h"
#include "wire/error.h"

struct credentials;

/* Why a message is refused: what is counted, and what who asks is told. */
struct admission_refusal {
    const char *reason;
    int code; /* ERROR_* */
    char text[ERROR_TEXT_SIZE];
};

/* True when the message is of a name that needs a credential. */
bool admission_needs_name(const struct intake *in);
/* Under which tenant that name is looked up: "" for an operator outside its own. */
struct text admission_tenant(const struct intake *in);
/* Look the name up: in->credential. False: it is not cached. The tenant is known. */
bool admission_find(struct credentials *c, struct intake *in);
/* False: the name is no longer in force. For who needs none, or has been found. */
bool admission_in_force(const struct intake *in, struct admission_refusal *why);
/* False: the role, or what the credential is narrowed to, leaves the verb out. in->endpoint has been looked for. */
bool admission_allows(struct credentials *c, const struct intake *in, struct admission_refusal *why);
/* A name that the database does not have. */
void admission_unknown(const struct intake *in, struct admission_refusal *why);

#endif
