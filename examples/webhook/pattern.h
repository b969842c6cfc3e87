/*
 * webhook/pattern.h - subjects with * and >, as NATS has them.
 */
#ifndef WEBHOOK_PATTERN_H
#define WEBHOOK_PATTERN_H

#include <stdbool.h>

/* Whether every subject of b is one of a; b may be a subject. */
bool pattern_covers(const char *a, const char *b);
/* Whether there is a subject that is one of both. */
bool pattern_overlaps(const char *a, const char *b);

#endif
