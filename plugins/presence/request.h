/*
 * presence/request.h - a request whose answer PostgreSQL has the last word on: its digest, and the outcome that a function of schema muster
 * gives, as an answer.
 */
#ifndef MUSTER_PRESENCE_REQUEST_H
#define MUSTER_PRESENCE_REQUEST_H

#include <muster/plugin.h>

#include "wire/digest.h"

struct presence;

enum { REQUEST_DIGEST_SIZE = 2 * DIGEST_SIZE + 3 };

/* Of the decoded body, as bytea: \x... */
int request_digest(const struct muster_msg *msg, char out[REQUEST_DIGEST_SIZE]);
/* Answer with {"ok": ...} or {"error": {"code", "message", "field"?}}; NULL: there was none. */
void request_tell(const struct presence *p, const struct muster_msg *msg, const char *outcome);
/* What a statement that came to nothing is for who asked. */
const char *request_code(int code);
/* NULL: it is not there, or no text. */
const char *request_text(const struct presence *p, const struct muster_value *map, const char *key);
/* A parameter of a statement. */
struct muster_bytes request_param(const char *s);

#endif
