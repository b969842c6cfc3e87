/*
 * The look at schema muster; see schema.h.
 *
 * Members of muster_owner can do as they like in here, and what they make is run by superusers:
 * that role is given to nobody who is not trusted like one.
 */
#include "cli/schema.h"

#include <stdio.h>
#include <string.h>

/* Only tables of the system, and search_path is pg_catalog. */
static const char look_sql[] =
    "WITH s AS (SELECT oid, nspowner FROM pg_namespace WHERE nspname = 'muster'),"
    " ours AS ("
    "  SELECT oid FROM pg_roles WHERE rolsuper OR rolname IN ('muster_owner', 'muster_engine')),"
    " relation AS ("
    "  SELECT c.relname, c.relkind, c.relowner FROM pg_class c JOIN s ON s.oid = c.relnamespace)"
    " SELECT EXISTS (SELECT FROM s),"
    "  EXISTS (SELECT FROM relation WHERE relname = 'migrations'),"
    "  coalesce("
    "   (SELECT format('schema muster belongs to %I', pg_get_userbyid(nspowner)) FROM s"
    "    WHERE nspowner NOT IN (SELECT oid FROM ours)),"
    "   (SELECT format('muster.%I belongs to %I', relname, pg_get_userbyid(relowner))"
    "    FROM relation WHERE relowner NOT IN (SELECT oid FROM ours) ORDER BY relname LIMIT 1),"
    "   (SELECT format('function %s belongs to %I', p.oid::regprocedure, pg_get_userbyid(proowner))"
    "    FROM pg_proc p JOIN s ON s.oid = p.pronamespace"
    "    WHERE proowner NOT IN (SELECT oid FROM ours) ORDER BY p.oid LIMIT 1),"
    "   (SELECT format('muster.%I is no ordinary table', relname) FROM relation"
    "    WHERE relname IN ('migrations', 'tenants', 'credentials', 'tables', 'requests')"
    "     AND relkind <> 'r' ORDER BY relname LIMIT 1))";

static bool is_true(const struct sql_rows *rows, int column)
{
    return strcmp(sql_rows_get(rows, 0, column), "t") == 0;
}

int schema_look(struct sql_admin *admin, struct schema *ret_schema)
{
    struct sql_rows *rows = NULL;
    const char *foreign;
    int err = sql_admin_exec(admin, look_sql, 0, NULL, &rows);

    if (err)
        return err;
    foreign = sql_rows_get(rows, 0, 2);
    *ret_schema = (struct schema){.there = is_true(rows, 0), .migrated = is_true(rows, 1)};
    (void)snprintf(ret_schema->foreign, sizeof ret_schema->foreign, "%s", foreign ? foreign : "");
    sql_rows_free(rows);
    return 0;
}
