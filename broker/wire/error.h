/*
 * wire/error.h - the error answer of INTERFACE 3 and its codes.
 *
 * The body is {"error": {"code", "message", "field"?, "retry_after_ms"?}} in the encoding of the
 * request; the headers Nats-Service-Error-Code and Nats-Service-Error (ADR-32) carry a number, as
 * HTTP has them, and the message. Any thread.
 */
#ifndef MUSTER_WIRE_ERROR_H
#define MUSTER_WIRE_ERROR_H

#include "base/buf.h"
#include "wire/value.h"

enum {
    ERROR_INVALID_ARGUMENT,    /* 400 */
    ERROR_NOT_FOUND,           /* 404: also another tenant's object, an unknown service or verb */
    ERROR_ALREADY_EXISTS,      /* 409 */
    ERROR_PERMISSION_DENIED,   /* 403 */
    ERROR_FAILED_PRECONDITION, /* 412 */
    ERROR_ABORTED,             /* 409: a stale epoch, a lost race; read again */
    ERROR_RESOURCE_EXHAUSTED,  /* 429 */
    ERROR_UNAVAILABLE,         /* 503 */
    ERROR_DEADLINE_EXCEEDED,   /* 504 */
    ERROR_UNAUTHENTICATED,     /* 401 */
    ERROR_INTERNAL,            /* 500 */
    N_ERRORS
};

const char *error_name(int code); /* "invalid_argument" */
int error_number(int code);       /* 400 */
int error_find(const char *name); /* ERROR_*, or MUSTER_ENOTFOUND */
int error_of_result(
    int muster_e); /* the code that tells a negative MUSTER_E* best; INTERNAL for an unknown one */

struct error_answer {
    int code;               /* ERROR_* */
    const char *field;      /* NULL or "": none */
    const char *message;    /* names the field, what came and what was expected */
    int64_t retry_after_ms; /* 0: not told */
};

enum { ERROR_TEXT_SIZE = 512 };

/* Append the body. Field and message are cut to ERROR_TEXT_SIZE - 1 bytes and cleaned
 * (text_clean()). buf_failed() tells when there was no memory. */
void error_write(const struct error_answer *answer, uint32_t encoding, struct buf *out);
/* The message as the header Nats-Service-Error may carry it: one line, cleaned and cut. Returns
 * out. */
const char *error_header(const char *message, char out[ERROR_TEXT_SIZE]);

#endif
