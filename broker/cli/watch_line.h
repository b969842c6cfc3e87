/*
 * cli/watch_line.h - a row change or an event as one line of `muster watch`, and the gaps between
 * them.
 *
 * Safety   Values, names and subjects come from rows and from whoever may publish: whatever they
 *          are, a line is one line, valid UTF-8, and holds no control character.
 * Threads  None: one owner.
 */
#ifndef MUSTER_CLI_WATCH_LINE_H
#define MUSTER_CLI_WATCH_LINE_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/map.h"

/* One message as it came; all borrowed. Not a struct bus_msg, so that lines can be made and tested
 * without a server. */
struct heard {
    const char *subject;
    const struct muster_header *headers;
    uint32_t n_headers;
    struct muster_bytes data;
};

struct watch_style {
    const char *root;
    bool json, colours;
};

/* False for what is no change and no event: heads, and what streams keep for themselves. */
bool heard_is_shown(const struct watch_style *style, const struct heard *h);
/* Append the line, with its newline. */
void heard_print(struct buf *out, const struct watch_style *style, const struct heard *h);

/* The last position of each channel (INTERFACE 3, Positions). Zero-initialised; channels_done(). */
struct channels {
    struct map seen;
};

void channels_done(struct channels *c);
/* Take a message's position; append a notice when something is missing before it, when it was there
 * already, or when the channel began anew. */
void channels_check(struct channels *c, const struct watch_style *style, const struct heard *h,
                    struct buf *out);
/* Append the notice that n messages came faster than they could be printed. */
void notice_dropped(struct buf *out, const struct watch_style *style, uint64_t n);

#endif
