/*
 * fanout/stored.h - a message as its stream has it, counted, and its text for answers.
 *
 * Shape    The text is {"subject", "seq", "time", "headers", "body"}, written once for each encoding when it is first wanted; answers are
 *          put together from such texts.
 * Memory   One allocation, and one for each text. stored_size() says about how much that is, and always the same.
 * Threads  The lane.
 */
#ifndef MUSTER_FANOUT_STORED_H
#define MUSTER_FANOUT_STORED_H

#include <muster/plugin.h>
#include <stdbool.h>

#include "base/buf.h"
#include "wire/writer.h"

enum { STORED_TEXT_MAX = 900000 }; /* of one; what is larger is told without its body */

struct stored {
    unsigned int refs;
    uint64_t seq;          /* in its stream */
    uint64_t epoch, count; /* Muster-Epoch and Muster-Seq; 0 where it has none */
    uint64_t shown;        /* the seq that is told: count, or seq */
    int64_t wall_ns, expires_ns; /* expires_ns 0: never */
    size_t size;
    const char *subject; /* whole, as agents hear it */
    const struct muster_header *headers;
    uint32_t n_headers;
    struct muster_bytes payload;
    struct buf text[2]; /* JSON, MessagePack */
};

/* `subject`: whole. counted: its positions are Muster-Epoch and Muster-Seq. NULL: no memory. */
struct stored *stored_new(const struct muster_msg *msg, const char *subject, bool counted);
struct stored *stored_ref(struct stored *m);
void stored_drop(struct stored *m);
/* NULL: no memory. */
const struct buf *stored_text(struct stored *m, uint32_t encoding);
size_t stored_size(const struct stored *m);

uint64_t stored_number(const struct muster_msg *msg, const char *header);
/* Write the payload of an agent as `body`: a value where it is JSON, else its bytes. */
void stored_body(struct muster_writer *w, uint32_t encoding, struct muster_bytes payload);

#endif
