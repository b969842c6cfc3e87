/*
 * cdc/route.h - whose is a row: the settings of tables (the configuration's over those of muster.tables) and the tenants.
 */
#ifndef MUSTER_CDC_ROUTE_H
#define MUSTER_CDC_ROUTE_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/map.h"
#include "cdc/change.h"

struct cdc;

/* One table's settings, as the option table of `tables` fills it; muster.tables has the same. */
struct route_setting {
    const char *tenant, *tenant_column, *owner_column;
    int32_t subject_key;
};

struct routes {
    uint32_t version;   /* raised when muster.tables has changed: routes are asked for anew */
    uint32_t n_refused; /* tables that are not delivered */
    struct map unknown; /* names that the database did not know; true until the log says that tenants have changed */
};

/* How a relation is routed; hangs on relation.user. It is made from what muster.tables says when the first row comes that was
 * written under the present description: a notice of `muster publish` may come later than the row. */
struct route {
    uint32_t version, described; /* of routes and relation when it was made */
    bool known;                  /* the settings are read: what follows counts */
    bool typed, ready;           /* types are looked up; key is too */
    bool refused;                /* the identity lacks the tenant column and no tenant is mapped */
    bool subject_key;
    int column;                    /* of the tenant; -1: mapped */
    char mapped[NAME_MAX_LEN + 1]; /* name of the tenant; "": by column */
    char channel[256];             /* "cdc.main.public.orders" */
    char name[160];                /* "public.orders", for people */
    char leaf[160];                /* a partition because of which it is refused; "": none */
    uint64_t n_unroutable;
    int64_t told_ns; /* of the last line on unroutable rows */
};

void routes_done(struct routes *routes);
/* The log says that muster.tenants, or muster.tables, has changed between the row before and the next. */
void routes_tenants_changed(struct cdc *c);
void routes_tables_changed(struct cdc *c);
/* The registry has changed: look at everything anew. */
int routes_load(struct cdc *c);
/* The route of rel, not `ready` when it is new or old. NULL: no memory. */
struct route *route_of(struct cdc *c, struct relation *rel);
/* Take what muster.tables says of the relation's table; the configuration's settings go before. leaf: a partition whose identity
 * lacks the tenant column, or NULL. */
void route_settle(struct cdc *c, struct relation *rel, const struct route_setting *kept, const char *leaf);
/* The tenant column that the configuration gives rel's table, or NULL. */
const char *route_given_column(const struct cdc *c, const struct relation *rel);
/* The table is published no more: it is nobody's fault now. */
void route_gone(struct cdc *c, struct relation *rel);
void route_free(void *route);

enum { ROUTE_TENANT, ROUTE_NOBODY, ROUTE_WAIT };
/* The tenant named by text: ROUTE_WAIT when the database is asked first, because it may have been added a moment ago. */
int route_tenant(struct cdc *c, const char *name, size_t len, const struct muster_tenant **ret_tenant);
enum { ROUTE_SHOWN = 400 };
void route_show_name(const char *name, size_t len, char out[ROUTE_SHOWN]);
/* Count a row that goes to nobody, and say so once a minute a table. tenant: what its column says; NULL: it is NULL. */
void route_unroutable(struct cdc *c, struct route *r, const char *tenant, size_t len);

#endif
