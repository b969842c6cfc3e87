/*
 * cli/records.h - the parts of `muster tasks`, `muster runs` and `muster help`, which are one command over three services: what was asked
 * for, and what is printed. For records*.c and main.c.
 */
#ifndef MUSTER_CLI_RECORDS_H
#define MUSTER_CLI_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "wire/value.h"

enum { RECORDS_COLUMNS_MAX = 8 };

struct records_column {
    const char *title, *key;
    uint32_t width;
    bool is_time;
};

/* A service, and its names for what the command calls state, agent and cancel; the command is called as the plugin. */
struct records_kind {
    const char *command, *what, *service, *id, *list, *state, *agent;
    const char *cancel, *retry; /* verbs */
    struct records_column columns[RECORDS_COLUMNS_MAX];
};

extern const struct records_kind records_tasks, records_runs, records_help;

enum records_verb { RECORDS_LIST, RECORDS_SHOW, RECORDS_HISTORY, RECORDS_RETRY, RECORDS_CANCEL, RECORDS_N_VERBS };
extern const char *const records_verbs[RECORDS_N_VERBS]; /* as they are typed */

struct records_args {
    const struct records_kind *kind;
    enum records_verb verb;
    const char *tenant; /* NULL: all */
    const char *id;     /* of all verbs but RECORDS_LIST */
    const char *state, *agent, *reason;
    int64_t limit; /* of a tenant; 0: all */
    bool json;
};

/* Whether the word is one of the command's; `watch` is one, too. */
bool records_is_verb(const char *word);
/* Told on stderr unless it returns CLI_DONE. argv[0] is the command itself; kind is set. */
int records_parse(int argc, char **argv, struct records_args *args);
/* Append the request's body. after: the previous answer's `next`; NULL: none. n: how many are wanted yet, of lists. Told on stderr unless
 * it returns CLI_DONE. */
int records_question(const struct records_args *args, const char *after, int64_t n, struct buf *out);

void records_put_head(struct buf *out, const struct records_args *args);
void records_put_row(struct buf *out, const struct records_args *args, const char *tenant, const struct muster_value *record);
/* As a JSON object whose first member is the tenant. */
void records_put_json(struct buf *out, const char *tenant, const struct muster_value *record);

#endif
