/*
 * cli/term.h - text that others wrote, on somebody's terminal: a row's value must not move the
 * cursor or set a title.
 */
#ifndef MUSTER_CLI_TERM_H
#define MUSTER_CLI_TERM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

enum { TERM_PLAIN, TERM_DIM, TERM_GREEN, TERM_YELLOW, TERM_RED, TERM_MAGENTA };

/* True when colours are wanted on the descriptor: a terminal that has them, and no NO_COLOR. */
bool term_has_colours(int fd);
/* Append s as valid UTF-8 with control characters (C0, DEL, C1) as '?'; what is beyond max bytes
 * becomes an ellipsis. */
void term_put(struct buf *out, const char *s, size_t len, size_t max);
/* Append a literal, in a colour when colours is true. */
void term_colour(struct buf *out, bool colours, int colour, const char *text);

#endif
