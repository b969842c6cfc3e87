/*
 * config/near.h - "did you mean": which of the known names somebody may have meant.
 *
 * A name is near when at most two letters must be changed, added or left out, or when one is the
 * beginning of the other.
 */
#ifndef MUSTER_CONFIG_NEAR_H
#define MUSTER_CONFIG_NEAR_H

#include <stddef.h>

#include "base/buf.h"

enum { NEAR_FAR = 99 };

struct near {
    const char *word; /* what came */
    unsigned best;    /* distance of the names in `names`; NEAR_FAR while there is none */
    size_t n;
    struct buf names; /* "urls", "creds or keys" */
};

static inline struct near near_to(const char *word)
{
    return (struct near){.word = word, .best = NEAR_FAR};
}
/* Offer one known name; the nearest are kept. */
void near_offer(struct near *near, const char *name, size_t len);
void near_done(struct near *near);

#endif
