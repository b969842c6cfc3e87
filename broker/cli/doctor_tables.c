/*
 * doctor: the published tables: whether each row finds its tenant, also when it is deleted.
 *
 * `muster publish` has checked the same when it published; tables change afterwards, and others add
 * tables to the publication by hand.
 */
#include <stdio.h>
#include <string.h>

#include "cli/doctor.h"
#include "cli/replica.h"
#include "cli/options.h"

/* The tables of publication $1 with what muster.tables says of them. */
static const char tables_sql[] =
    "SELECT c.oid, p.schemaname || '.' || p.tablename, t.tenant, t.tenant_column,"
    " has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'), "
    "c.oid::regclass, current_user"
    " FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname"
    " JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename"
    " LEFT JOIN muster.tables t ON t.schema_name = p.schemaname AND t.table_name = p.tablename"
    " WHERE p.pubname = $1 ORDER BY 2";
enum { TABLE_OID, TABLE_NAME, TABLE_TENANT, TABLE_COLUMN, TABLE_MAY, TABLE_QUOTED, TABLE_USER };

/* The tenant column of a table, NULL where all of its rows belong to one tenant; the configuration
 * goes before muster.tables. */
static const char *column_of(const struct doctor_cdc *c, const struct sql_rows *tables, int row)
{
    const char *name = sql_rows_get(tables, row, TABLE_NAME);
    const char *const tenant_path[] = {"tables", name, "tenant"}, *const column_path[] = {
                                                                      "tables", name,
                                                                      "tenant_column"};
    const char *column = options_entry(c->plugin, c->values, column_path);

    if (options_entry(c->plugin, c->values, tenant_path) || sql_rows_get(tables, row, TABLE_TENANT))
        return NULL;
    if (!column)
        column = sql_rows_get(tables, row, TABLE_COLUMN);
    return column ? column : c->tenant_column;
}

/* True when the column is there and its text can name a tenant. table: oid, what, quoted name. */
static bool check_column(struct doctor *d, struct sql_admin *admin, const char *const table[3],
                         const char *column)
{
    const char *const params[] = {table[0], column};
    struct sql_rows *rows = doctor_query(d, admin, column_sql, 2, params);
    bool fits = rows && sql_rows_count(rows) > 0 && doctor_is_true(rows, 0, COLUMN_NAMES);

    if (rows && sql_rows_count(rows) == 0)
        doctor_say(d, DOCTOR_BROKEN, table[1], "table_refused",
                   "it is not delivered: it has no tenant column %s: `muster publish %s --tenant "
                   "T` gives it to a tenant, --tenant-column names another column",
                   column, table[2]);
    else if (rows && !fits)
        doctor_say(d, DOCTOR_BROKEN, table[1], "table_refused",
                   "the rows are not delivered: tenant column %s is %s, whose text is no name of a "
                   "tenant: %s",
                   column, sql_rows_get(rows, 0, COLUMN_TYPE), sql_rows_get(rows, 0, COLUMN_MEND));
    sql_rows_free(rows);
    return fits;
}

/* One relation of a table (itself, or a partition). True when it is well. */
static bool judge_identity(struct doctor *d, const struct sql_rows *rows, int row,
                           const char *column)
{
    const char *name = sql_rows_get(rows, row, IDENTITY_NAME),
               *mend = sql_rows_get(rows, row, IDENTITY_MEND);
    char what[DOCTOR_WHAT_SIZE];

    (void)snprintf(what, sizeof what, "table %.200s", name);
    if (!doctor_is_true(rows, row, IDENTITY_ANY))
        doctor_say(d, DOCTOR_BROKEN, what, "table_refused",
                   "it has no replica identity, so every UPDATE and DELETE on it fails in the "
                   "application: %s",
                   mend);
    else if (!doctor_is_true(rows, row, IDENTITY_TENANT))
        doctor_say(d, DOCTOR_BROKEN, what, "table_refused",
                   "it is not delivered: its replica identity lacks the tenant column %s: %s",
                   column, mend);
    else
        return true;
    return false;
}

/* One finding for each relation that is wrong: partitions have identities of their own. */
static bool check_identity(struct doctor *d, struct sql_admin *admin, const char *oid,
                           const char *column)
{
    const char *const params[] = {oid, column, NULL};
    struct sql_rows *rows = doctor_query(d, admin, identity_sql, 3, params);
    bool well = rows != NULL;

    for (int i = 0; rows && i < sql_rows_count(rows); i++)
        well &= judge_identity(d, rows, i, column);
    sql_rows_free(rows);
    return well;
}

/* True when its changes are delivered. */
static bool check_table(struct doctor *d, struct sql_admin *admin, const struct doctor_cdc *c,
                        const struct sql_rows *tables, int row)
{
    const char *column = column_of(c, tables, row), *oid = sql_rows_get(tables, row, TABLE_OID);
    const char *quoted = sql_rows_get(tables, row, TABLE_QUOTED);
    char what[DOCTOR_WHAT_SIZE];

    (void)snprintf(what, sizeof what, "table %.200s", sql_rows_get(tables, row, TABLE_NAME));
    if (!doctor_is_true(tables, row, TABLE_MAY))
        doctor_say(d, DOCTOR_HINT, what, "no_select_privilege",
                   "%s may not read it, which a snapshot needs: GRANT SELECT ON %s TO %s",
                   sql_rows_get(tables, row, TABLE_USER), quoted,
                   sql_rows_get(tables, row, TABLE_USER));
    if (column && !check_column(d, admin, (const char *const[]){oid, what, quoted}, column))
        return false;
    return check_identity(d, admin, oid, column);
}

/* A dump of schemas carries the settings and not the publication. */
static void check_unpublished(struct doctor *d, struct sql_admin *admin,
                              const struct doctor_cdc *c)
{
    static const char sql[] =
        "SELECT c.oid::regclass FROM muster.tables t JOIN pg_namespace n ON n.nspname = t.schema_name"
        " JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name"
        " WHERE EXISTS (SELECT FROM pg_publication WHERE pubname = $1)"
        "  AND NOT EXISTS (SELECT FROM pg_publication_tables p WHERE p.pubname = $1"
        "   AND p.schemaname = t.schema_name AND p.tablename = t.table_name) ORDER BY 1";
    struct sql_rows *rows = doctor_query(d, admin, sql, 1, &c->publication);

    for (int i = 0; rows && i < sql_rows_count(rows); i++) {
        const char *name = sql_rows_get(rows, i, 0);
        char what[DOCTOR_WHAT_SIZE];

        (void)snprintf(what, sizeof what, "table %.200s", name);
        doctor_say(d, DOCTOR_HINT, what, "table_unpublished",
                   "muster.tables says how to route it, and it is not in publication %s: `muster "
                   "publish %s` with its options, or delete its row there",
                   c->publication, name);
    }
    sql_rows_free(rows);
}

/* Tables that are well are told as a number: a hundred lines of ok would hide the one that is not.
 * */
static void check_publication(struct doctor *d, struct sql_admin *admin, const struct doctor_cdc *c)
{
    struct sql_rows *tables = doctor_query(d, admin, tables_sql, 1, &c->publication);
    char what[DOCTOR_WHAT_SIZE];
    int n_well = 0, n;

    if (!tables)
        return;
    n = sql_rows_count(tables);
    (void)snprintf(what, sizeof what, "tables of %.63s", c->publication);
    for (int i = 0; i < n; i++)
        n_well += check_table(d, admin, c, tables, i);
    if (!n)
        doctor_say(d, DOCTOR_HINT, what, NULL, "none is published: `muster publish TABLE`");
    else if (n_well == n)
        doctor_say(d, DOCTOR_OK, what, NULL, "all %d are delivered", n);
    sql_rows_free(tables);
}

/* The publication of an instance for events is empty on purpose. */
void doctor_tables(struct doctor *d, struct sql_admin *admin)
{
    for (size_t i = 0; i < d->n_cdc; i++)
        if (!d->cdc[i].events) {
            check_publication(d, admin, &d->cdc[i]);
            if (strcmp(d->cdc[i].publication, "muster") == 0) /* to which `muster publish` adds */
                check_unpublished(d, admin, &d->cdc[i]);
        }
}
