/* The service group: join, leave, list. Membership is in PostgreSQL alone; any broker answers. The lane. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/ask.h"

static const char list_sql[] =
    "SELECT name, agent FROM muster.groups"
    " WHERE tenant = $1 AND ($2::text IS NULL OR name = $2) AND ($3::text IS NULL OR (name, agent) > ($3, $4))"
    " ORDER BY tenant, name, agent LIMIT $5::int + 1";

struct groups {
    uint64_t list;
};

/* ---- join and leave ----------------------------------------------------------------------------------------------------- */

static void on_changed(void *arg, const struct muster_sql_result *result)
{
    ask_reply_outcome(arg, result);
}

static void change(struct ask *a, const char *function)
{
    struct buf args = {0};
    int err;

    buf_printf(&args, "{\"group\":\"%s\"}", ask_str(a, "group")); /* a name: nothing to escape */
    err = buf_failed(&args) ? MUSTER_ENOMEM : ask_once(a, function, args.data, on_changed, a);
    buf_done(&args);
    if (err)
        ask_failed(a, err, "the membership could not be changed");
}

/* A name that is narrowed to some groups neither hears nor joins others. */
static void join(struct ask *a)
{
    char subject[80];

    (void)snprintf(subject, sizeof subject, "grp.%s.>", ask_str(a, "group"));
    if (a->f->tenants->may_hear(a->f->host, a->msg->tenant, a->msg->agent, subject) == MUSTER_EACCES)
        ask_error(a, "permission_denied", "group", "group: %s came, which this name may not hear", ask_str(a, "group"));
    else
        change(a, "group_join");
}

/* ---- list --------------------------------------------------------------------------------------------------------------- */

/* How many of the rows from `first` on, up to `n`, are of the same group. */
static uint32_t run_of(const struct muster_sql_result *r, uint32_t first, uint32_t n)
{
    uint32_t i = first + 1;

    while (i < n && strcmp(r->get(r, i, 0), r->get(r, first, 0)) == 0)
        i++;
    return i - first;
}

static void write_group(struct muster_writer *w, const struct muster_sql_result *r, uint32_t first, uint32_t n)
{
    writer_map(w, 2);
    writer_text(w, "group");
    writer_text(w, r->get(r, first, 0));
    writer_text(w, "members");
    writer_array(w, n);
    for (uint32_t i = first; i < first + n; i++)
        writer_text(w, r->get(r, i, 1));
}

static void write_next(struct muster_writer *w, const struct muster_sql_result *r, uint32_t last)
{
    char next[160];

    (void)snprintf(next, sizeof next, "%s/%s", r->get(r, last, 0), r->get(r, last, 1));
    writer_text(w, "next");
    writer_text(w, next);
}

/* As in every list; membership has no events that go on from here. */
static void write_no_position(struct muster_writer *w)
{
    writer_text(w, "epoch");
    writer_int(w, 0);
    writer_text(w, "seq");
    writer_int(w, 0);
}

static void reply_list(struct ask *a, const struct muster_sql_result *r)
{
    uint32_t limit = (uint32_t)ask_int(a, "limit", 100), n = r->n_rows > limit ? limit : r->n_rows, n_groups = 0;
    struct muster_writer w;
    struct buf out = {0};

    for (uint32_t i = 0; i < n; i += run_of(r, i, n))
        n_groups++;
    writer_init(&w, a->msg->encoding, &out);
    writer_map(&w, 3 + (r->n_rows > limit));
    writer_text(&w, "groups");
    writer_array(&w, n_groups);
    for (uint32_t i = 0, run; i < n; i += run) {
        run = run_of(r, i, n);
        write_group(&w, r, i, run);
    }
    if (r->n_rows > limit)
        write_next(&w, r, n - 1);
    write_no_position(&w);
    ask_reply_written(a, &w, &out);
}

static void on_listed(void *arg, const struct muster_sql_result *result)
{
    if (result->code)
        ask_reply_outcome(arg, result);
    else
        reply_list(arg, result);
}

static void list(struct ask *a)
{
    struct fanout *f = a->f;
    const char *tenant = f->tenants->name(a->msg->tenant), *group = ask_str(a, "group"), *after = ask_str(a, "after");
    const char *slash = after ? strchr(after, '/') : NULL;
    char limit[24];
    struct muster_bytes params[5];
    int err;

    if (after && !slash) {
        ask_error(a, "invalid_argument", "after", "after: %s came, the next of an answer was expected", after);
        return;
    }
    (void)snprintf(limit, sizeof limit, "%lld", (long long)ask_int(a, "limit", 100));
    params[0] = (struct muster_bytes){tenant, strlen(tenant)};
    params[1] = (struct muster_bytes){group, group ? strlen(group) : 0};
    params[2] = (struct muster_bytes){after, after ? (size_t)(slash - after) : 0};
    params[3] = (struct muster_bytes){after ? slash + 1 : NULL, after ? strlen(slash + 1) : 0};
    params[4] = (struct muster_bytes){limit, strlen(limit)};
    err = f->sql->exec(f->host, f->groups->list, a->msg->tenant, NULL, 5, params, on_listed, a);
    if (err)
        ask_failed(a, err, "the groups could not be read");
}

/* ---- the part ----------------------------------------------------------------------------------------------------------- */

static int on_request(void *self, const struct muster_msg *msg)
{
    struct ask *a;
    int err = ask_new(self, msg, &a);

    if (err)
        return err;
    if (strcmp(msg->verb, "list") == 0)
        list(a);
    else if (ask_is_foreign(a))
        ask_error(a, "failed_precondition", NULL, "group: only names of this tenant can be members");
    else if (strcmp(msg->verb, "join") == 0)
        join(a);
    else
        change(a, "group_leave");
    return 0;
}

static int groups_create(struct fanout *f)
{
    f->groups = calloc(1, sizeof *f->groups);
    if (!f->groups)
        return f->host->fail(f->host, MUSTER_ENOMEM, "no memory for an instance");
    return f->sql->prepare(f->host, "group_list", MUSTER_SQL_READ, list_sql, &f->groups->list);
}

static int groups_start(struct fanout *f)
{
    const struct muster_subscription sub = {
        .size = sizeof sub, .subject = "rpc.*.group.*", .queue = 1, .max_msgs = 8192, .max_bytes = 8 << 20, .fn = on_request};
    uint64_t id;

    return f->bus->subscribe(f->host, &sub, &id);
}

static void groups_destroy(struct fanout *f)
{
    free(f->groups);
}

const struct fanout_part group_part = {.create = groups_create, .start = groups_start, .destroy = groups_destroy};
