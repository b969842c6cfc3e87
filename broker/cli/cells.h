/*
 * cli/cells.h - members of what a service answers, as people see them: in the columns of a table, or a line each.
 *
 * What others have written is made safe for a terminal, and cut where it is long.
 */
#ifndef MUSTER_CLI_CELLS_H
#define MUSTER_CLI_CELLS_H

#include <stddef.h>

#include "base/buf.h"
#include "wire/value.h"

/* Padded to width, and two blanks. */
void cells_put_padded(struct buf *out, const char *s, size_t len, size_t width);
/* The text under key; "-" where there is none. */
void cells_put_text(struct buf *out, const struct muster_value *record, const char *key, size_t width);
/* The same, of a time: to the second. */
void cells_put_time(struct buf *out, const struct muster_value *record, const char *key);
/* A list or a map of words: "review,plan" and "lang=c,team=core"; padded to width. */
void cells_put_words(struct buf *out, const struct muster_value *words, size_t width);
/* Any value; as JSON, unless it is a text. */
void cells_put_value(struct buf *out, const struct muster_value *v);
/* All members, a line each. */
void cells_put_all(struct buf *out, const struct muster_value *record);

#endif
