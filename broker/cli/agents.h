/*
 * cli/agents.h - the parts of `muster agents`: what was asked for, and what is printed. For agents*.c and watch_line.c.
 */
#ifndef MUSTER_CLI_AGENTS_H
#define MUSTER_CLI_AGENTS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "wire/value.h"

enum { AGENTS_LABELS_MAX = 16 };
enum agents_verb { AGENTS_LIST, AGENTS_SHOW, AGENTS_COUNT };

struct agents_label {
    const char *key;
    size_t key_len;
    const char *value;
};

struct agents_args {
    enum agents_verb verb;
    const char *tenant; /* NULL: all */
    const char *name;   /* of AGENTS_SHOW */
    const char *status, *capability;
    struct agents_label labels[AGENTS_LABELS_MAX];
    size_t n_labels;
    bool json;
};

/* Told on stderr unless it returns CLI_DONE. argv[0] is the verb, or the command itself. */
int agents_parse(int argc, char **argv, struct agents_args *ret_args);
/* Append the request's body. after: the previous answer's `next`; NULL: none. Told on stderr unless it returns CLI_DONE. */
int agents_question(const struct agents_args *args, const char *after, struct buf *out);

/* What is read from answers is what others have said of themselves: it is made safe for a terminal. */
void agents_put_head(struct buf *out);
void agents_put_row(struct buf *out, const struct muster_value *agent);
/* What an event of presence says, behind its name and its key: of one agent, or of many in a digest. */
void agents_put_event(struct buf *out, const struct muster_value *body);
void agents_put_count(struct buf *out, const char *tenant, const struct muster_value *answer);

#endif
