/* Inserts, updates, deletes and truncates: whose they are, and their bodies. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cdc/cdc.h"

enum { MAX_BODY = 1000000, HOPELESS = 1 };

/* One row on its way; build() gets it through the delivery's change. */
struct row {
    struct relation *rel;
    struct route *route;
    struct change change;
};

static const char *op_name(char op)
{
    return op == 'I' ? "insert" : op == 'U' ? "update" : op == 'D' ? "delete" : "truncate";
}

/* Nobody can be told of a change whose key alone is too large. */
static int skip_hopeless(struct cdc *c, const struct delivery *d)
{
    c->host->log(c->host, MUSTER_LOG_ERROR, "%s: a change whose key alone is over %d bytes goes to nobody", d->channel, MAX_BODY);
    c->metrics->add(c->host, c->m.refused, NULL, 1);
    c->part++;
    return HOPELESS;
}

static int build_change(struct cdc *c, const struct delivery *d, bool list_columns)
{
    struct change change = *d->change;
    struct buf *body = &cdc_draft(c)->body;
    int err;

    change.list_columns = list_columns;
    c->out.encoding = deliver_encoding(c, d->tenant);
    buf_clear(body);
    err = change_body(&change, &c->out, MAX_BODY, body);
    if (err == MUSTER_EAGAIN)
        return skip_hopeless(c, d);
    return err;
}

/* Publish the row to one tenant as op. */
static int deliver_to(struct cdc *c, struct row *row, const struct muster_tenant *tenant, char op)
{
    char token[NAME_TOKEN_SIZE] = "_";
    struct delivery d = {.tenant = tenant,
                         .channel = row->route->channel,
                         .columns_version = row->rel->version,
                         .change = &row->change,
                         .op = op_name(op),
                         .token = token};
    int err;

    row->change.op = op;
    buf_clear(&cdc_draft(c)->key);
    c->out.encoding = MUSTER_JSON;
    err = change_key(&row->change, &c->out, &cdc_draft(c)->key, row->route->subject_key ? token : NULL);
    if (err) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "no_memory", "no memory for the key of a change");
        return err;
    }
    err = deliver(c, &d, build_change);
    return err == HOPELESS ? 0 : err; /* it was counted and is behind us */
}

/* ---- whose ------------------------------------------------------------------------------------------------------------------ */

static int tenant_of_text(struct cdc *c, struct route *r, int state, struct muster_bytes text, const struct muster_tenant **ret_tenant)
{
    const char *taker = c->config->unroutable_tenant;
    int found = ROUTE_NOBODY;

    if (state == CHANGE_VALUE)
        found = route_tenant(c, text.data, text.len, ret_tenant);
    if (found == ROUTE_NOBODY && taker)
        found = route_tenant(c, taker, strlen(taker), ret_tenant);
    if (found == ROUTE_NOBODY)
        route_unroutable(c, r, state == CHANGE_VALUE ? text.data : NULL, text.len);
    return found;
}

static int mapped_tenant(struct cdc *c, struct route *r, const struct muster_tenant **ret_tenant)
{
    return tenant_of_text(c, r, CHANGE_VALUE, (struct muster_bytes){r->mapped, strlen(r->mapped)}, ret_tenant);
}

/* An update whose tenant changed: the text before differs from the text after. */
static bool is_move(const struct row *row, struct muster_bytes *ret_old, int *ret_old_state)
{
    struct muster_bytes now = {0};
    uint32_t column = (uint32_t)row->route->column;
    int state;

    if (row->change.op != 'U' || row->route->column < 0 || !row->change.old_kind)
        return false;
    state = change_new_text(&row->change, column, &now);
    *ret_old_state = change_old_text(&row->change, column, ret_old);
    if (*ret_old_state == CHANGE_ABSENT || state == CHANGE_ABSENT)
        return false;
    return *ret_old_state != state || ret_old->len != now.len || (now.len && memcmp(ret_old->data, now.data, now.len) != 0);
}

static int deliver_one(struct cdc *c, struct row *row, int state, struct muster_bytes text, char op)
{
    const struct muster_tenant *tenant = NULL;
    int found = row->route->column < 0 ? mapped_tenant(c, row->route, &tenant) : tenant_of_text(c, row->route, state, text, &tenant);

    if (found == ROUTE_WAIT)
        return MUSTER_EAGAIN;
    if (found == ROUTE_TENANT)
        return deliver_to(c, row, tenant, op);
    c->part++;
    return 0;
}

/* Delete in the old tenant, then insert in the new. */
static int deliver_move(struct cdc *c, struct row *row, struct muster_bytes old, int old_state)
{
    struct muster_bytes now = {0};
    int err = 0, state;

    if (c->part == 0)
        err = deliver_one(c, row, old_state, old, 'D');
    if (err)
        return err;
    row->change.op = 'I';
    state = change_new_text(&row->change, (uint32_t)row->route->column, &now);
    return deliver_one(c, row, state, now, 'I');
}

static int deliver_plain(struct cdc *c, struct row *row)
{
    struct muster_bytes text = {0};
    int state = CHANGE_VALUE;

    if (c->part > 0)
        return 0;
    if (row->route->column >= 0)
        state = row->change.op == 'D' ? change_old_text(&row->change, (uint32_t)row->route->column, &text)
                                      : change_new_text(&row->change, (uint32_t)row->route->column, &text);
    return deliver_one(c, row, state, text, row->change.op);
}

static bool nothing_to_do(const struct cdc *c)
{
    return c->events || (c->foreign && c->config->origin == ORIGIN_NONE) ||
           sink_has(c, (struct position){c->begin.final_lsn, c->ordinal, UINT32_MAX});
}

/* Find table and route, and settle what must be known of it. *ret_row is filled when 0 is returned; route refused means skip. */
static int prepare(struct cdc *c, uint32_t relation, struct row *ret_row)
{
    int err;

    ret_row->rel = relations_get(&c->relations, relation);
    ret_row->route = ret_row->rel ? route_of(c, ret_row->rel) : NULL;
    if (!ret_row->route) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "protocol", "a row of table %u, which was not described", relation);
        return MUSTER_EINVAL;
    }
    err = ret_row->route->ready ? 0 : catalog_settle(c, ret_row->rel, ret_row->route);
    if (!err && ret_row->route->refused)
        c->metrics->add(c->host, c->m.refused, NULL, 1);
    return err;
}

/* True when the change is of the registry, and nobody's row. */
static bool registry_changed(struct cdc *c, uint32_t relation)
{
    if (relation == c->tenants_relation)
        routes_tenants_changed(c);
    else if (relation == c->tables_relation)
        routes_tables_changed(c);
    else
        return false;
    return true;
}

int deliver_row(struct cdc *c)
{
    struct muster_bytes old = {0};
    struct row row;
    int err, old_state;

    if (registry_changed(c, c->msg.row.relation))
        return 0;
    if (nothing_to_do(c)) {
        if (!c->events)
            c->metrics->add(c->host, c->m.skipped, NULL, 1);
        return 0;
    }
    err = prepare(c, c->msg.row.relation, &row);
    if (err || row.route->refused)
        return err;
    row.change = change_of(&c->msg, row.rel, &c->txn);
    if (change_check(&row.change)) {
        cdc_fault(c, MUSTER_HEALTH_DOWN, "protocol", "a row of %s does not fit its table", row.route->name);
        return MUSTER_EINVAL;
    }
    return is_move(&row, &old, &old_state) ? deliver_move(c, &row, old, old_state) : deliver_plain(c, &row);
}

/* ---- truncate ---------------------------------------------------------------------------------------------------------------- */

/* The parts of a truncate are its tables in order, each for its tenants by name. */
struct truncate {
    struct cdc *c;
    struct row row;
    int err;
};

static void truncate_for(void *arg, const struct muster_tenant *tenant)
{
    struct truncate *t = arg;
    struct truncate_at *at = &t->c->truncate;
    const char *name = t->c->tenants->name(tenant);

    if (t->err || strcmp(name, at->tenant) <= 0)
        return;
    t->err = deliver_to(t->c, &t->row, tenant, 'T');
    if (!t->err)
        (void)snprintf(at->tenant, sizeof at->tenant, "%s", name);
}

static int truncate_table(struct truncate *t, uint32_t relation)
{
    const struct muster_tenant *tenant = NULL;
    struct cdc *c = t->c;
    int err;

    if (relation == c->tenants_relation || relation == c->tables_relation)
        return 0;
    err = prepare(c, relation, &t->row);
    if (err || t->row.route->refused)
        return err;
    t->row.change = (struct change){.rel = t->row.rel, .txn = &c->txn, .op = 'T'};
    if (t->row.route->column >= 0) {
        (void)c->tenants->each(c->host, truncate_for, t); /* fails only without the capability, which we have */
        return t->err;
    }
    switch (mapped_tenant(c, t->row.route, &tenant)) {
    case ROUTE_WAIT:
        return MUSTER_EAGAIN;
    case ROUTE_TENANT:
        truncate_for(t, tenant);
        return t->err;
    default:
        return 0;
    }
}

/* The stream's last message is a part of this truncate: go on behind it. Its tenant may be gone: then its table is told again, because
 * a truncate heard twice does less harm than one that was not heard. */
static int resume_truncate(struct cdc *c)
{
    c->part = c->sink.tail.part + 1;
    for (uint32_t i = 0; i < c->msg.truncate.n; i++) {
        struct relation *rel = relations_get(&c->relations, pgoutput_truncated(&c->msg, i));
        const struct route *r = rel ? route_of(c, rel) : NULL;
        size_t len = r ? strlen(r->channel) : 0;

        if (!r)
            return MUSTER_ENOMEM;
        if (strncmp(c->tail_subject, r->channel, len) != 0 || c->tail_subject[len] != '.')
            continue;
        c->truncate.table = i;
        memcpy(c->truncate.tenant, c->tail_tenant, sizeof c->tail_tenant);
        return 0;
    }
    return 0;
}

static int truncate_tables(struct cdc *c)
{
    struct truncate t = {.c = c};
    int err = 0;

    if (c->part == 0)
        c->truncate = (struct truncate_at){0};
    if (c->part == 0 && sink_has(c, (struct position){c->begin.final_lsn, c->ordinal, 0}))
        err = resume_truncate(c);
    for (uint32_t i = c->truncate.table; !err && i < c->msg.truncate.n; i++) {
        if (i != c->truncate.table)
            c->truncate = (struct truncate_at){.table = i};
        err = truncate_table(&t, pgoutput_truncated(&c->msg, i));
    }
    return err;
}

int deliver_truncate(struct cdc *c)
{
    int err = nothing_to_do(c) ? 0 : truncate_tables(c);

    for (uint32_t i = 0; !err && i < c->msg.truncate.n; i++) /* last: what it does must not be done with each try */
        (void)registry_changed(c, pgoutput_truncated(&c->msg, i));
    return err;
}
