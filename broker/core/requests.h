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

#include "wire/subject.h"

enum { REQUESTS_MAX = 65536, REQUESTS_OWNERS = 256, REQUESTS_REPLY_SIZE = SUBJECT_MAX + 1 }; /* whatever is a box fits */

struct endpoint;
struct requests;

struct request_note { /* what the answer will need to know */
    struct endpoint *endpoint; /* NULL: of no declared service */
    int64_t recv_ns;
    uint32_t encoding;
    uint32_t owner; /* who has to answer, by a number of its own; those that are equal modulo REQUESTS_OWNERS share a bound */
};

struct request {
    char reply[REQUESTS_REPLY_SIZE];
    struct request_note note;
};

struct requests *requests_new(void);
void requests_free(struct requests *r);
/* 0 when a bound is reached, memory is full, or the reply subject is too long. */
uint64_t requests_open(struct requests *r, const char *reply, const struct request_note *note);
/* Close it and copy what it was. MUSTER_ENOTFOUND: there is none. */
int requests_take(struct requests *r, uint64_t handle, struct request *ret_request);
/* Copy what it is for who answers it, and leave it open until requests_take(), or requests_give_back() where no answer went out.
 * MUSTER_ENOTFOUND: there is none, or another answers it. */
int requests_begin(struct requests *r, uint64_t handle, struct request *ret_request);
void requests_give_back(struct requests *r, uint64_t handle);
size_t requests_count(struct requests *r);

#endif
