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

/* One table's settings, as the option table of `tables` fills it. */
struct route_setting {
    const char *tenant, *tenant_column, *owner_column;
    int32_t subject_key;
};

struct routes {
    struct map settings; /* "schema.table" to struct route_setting from muster.tables, owned */
    uint32_t version;    /* raised by routes_load(): relations look anew */
    struct map unknown;  /* names of tenants that were not there, to struct unknown_tenant, owned */
};

/* How a relation is routed; hangs on relation.user. */
struct route {
    uint32_t version;     /* of routes when it was made */
    uint32_t rel_version; /* of the relation, when types and key were asked for */
    bool refused;         /* the identity lacks the tenant column and no tenant is mapped */
    bool subject_key;
    bool ready;                         /* types and key are looked up */
    int column;                         /* of the tenant; -1: mapped */
    const char *mapped;                 /* name of the tenant; NULL: by column */
    char channel[256];                  /* "cdc.main.public.orders" */
    char name[160];                     /* "public.orders", for people */
    uint64_t n_unroutable;
    int64_t told_ns;                    /* of the last line on unroutable rows */
};

void routes_done(struct routes *routes);
/* Read muster.tables from the registry. */
int routes_load(struct cdc *c);
/* The route of rel, made when it is missing or old. NULL: no memory. */
struct route *route_of(struct cdc *c, struct relation *rel);
void route_free(void *route);

enum { ROUTE_TENANT, ROUTE_NOBODY, ROUTE_WAIT };
/* The tenant named by text: ROUTE_WAIT when the database is asked first, because it may have been added a moment ago. */
int route_tenant(struct cdc *c, const char *name, size_t len, const struct muster_tenant **ret_tenant);
/* Count a row that goes to nobody, and say so once a minute a table. */
void route_unroutable(struct cdc *c, struct route *r, const char *why);

#endif
