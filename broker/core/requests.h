/*
 * core/requests.h - requests that were taken and are not yet answered: handle to reply subject. Private to core/.
 *
 * Threads  Any. Handles are never 0 and are not used again for a long time, so a late second answer finds nothing.
 * Bounds   REQUESTS_MAX at a time, and of one owner no more than is left for all others: a plugin that answers nothing leaves half of the
 *          table free. What comes then is answered resource_exhausted.
 */
#ifndef MUSTER_CORE_REQUESTS_H
#define MUSTER_CORE_REQUESTS_H

#include <stdint.h>
#include <stddef.h>

#include "core/audit.h"
#include "tenant/usage.h"
#include "wire/subject.h"

enum { REQUESTS_MAX = 65536, REQUESTS_OWNERS = 256, REQUESTS_REPLY_SIZE = SUBJECT_MAX + 1 }; /* whatever is a box fits */

struct credential;
struct endpoint;
struct requests;

struct request_note { /* what the answer will need to know */
    struct endpoint *endpoint;     /* NULL: of no declared service */
    const struct muster_tenant *tenant; /* for the audit, as object */
    char object[AUDIT_OBJECT_SIZE];     /* what it is about; "": not said */
    struct credential *credential; /* who asked; NULL: a plugin. Counted: the table has one of its own */
    int64_t recv_ns;
    uint32_t encoding;
    struct tenant_place place; /* of its tenant's requests that wait; whoever takes the request out gives it back */
    uint32_t owner; /* who has to answer, by a number of its own; those that are equal modulo REQUESTS_OWNERS share a bound */
};

struct request {
    char reply[REQUESTS_REPLY_SIZE];
    struct request_note note;
};

/* Give back what the note of a request that was begun or taken holds. */
void request_done(struct request *request);

struct requests *requests_new(void);
void requests_free(struct requests *r);
/* 0 when a bound is reached, memory is full, or the reply subject is too long. */
uint64_t requests_open(struct requests *r, const char *reply, const struct request_note *note);
/* Close it and give what it was: request_done() it. MUSTER_ENOTFOUND: there is none. */
int requests_take(struct requests *r, uint64_t handle, struct request *ret_request);
/* Copy what it is for who answers it, who calls request_done(), and leave it open until requests_take(), or requests_give_back() where no answer went out.
 * MUSTER_ENOTFOUND: there is none, or another answers it. */
int requests_begin(struct requests *r, uint64_t handle, struct request *ret_request);
/* Note what an open request is about. */
void requests_note(struct requests *r, uint64_t handle, const char object[AUDIT_OBJECT_SIZE]);
void requests_give_back(struct requests *r, uint64_t handle);
size_t requests_count(struct requests *r);

#endif
