/*
 * common/work/outcome.h - what a function of schema muster gives, {"ok": …, …} or {"error": …}, cut into its parts without reading them: an
 * answer that is asked for in JSON is sent as PostgreSQL wrote it.
 */
#ifndef MUSTER_COMMON_WORK_OUTCOME_H
#define MUSTER_COMMON_WORK_OUTCOME_H

#include <stdbool.h>

#include "base/buf.h"

/* The value of ok, borrowed from text. False: it has none, being an error or no outcome. ret_more: what stands beside it, as an object, is
 * appended. jsonb writes the shortest key first, so ok comes before everything but a key of one letter, which no function gives. */
bool outcome_ok(const char *text, const char **ret_ok, size_t *ret_len, struct buf *ret_more);

#endif
