/*
 * The looks at replica identities and at columns; see identity.h.
 *
 * With publish_via_partition_root the root's own identity counts too. A deferrable key cannot be an
 * identity, and only the key columns of an index (not INCLUDE) are part of one.
 */
#include "cli/replica.h"

const char identity_sql[] =
    "WITH tree AS ("
    "  SELECT $1::oid AS oid"
    "  UNION SELECT relid FROM pg_partition_tree($1::oid::regclass) WHERE isleaf),"
    " usable AS ("
    "  SELECT i.indrelid, i.indexrelid, i.indisprimary, i.indisreplident,"
    "   array_agg(a.attname::text) AS columns, bool_and(a.attnotnull) AS not_null"
    "  FROM tree JOIN pg_index i ON i.indrelid = tree.oid"
    "  CROSS JOIN LATERAL unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k (attnum)"
    "  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
    "  WHERE i.indisunique AND i.indimmediate AND i.indisvalid"
    "   AND i.indpred IS NULL AND i.indexprs IS NULL"
    "  GROUP BY 1, 2, 3, 4),"
    " relation AS ("
    "  SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name,"
    "   c.relreplident = 'f' AS full_row,"
    "   (SELECT columns FROM usable u WHERE u.indrelid = c.oid"
    "     AND CASE c.relreplident WHEN 'd' THEN u.indisprimary"
    "         WHEN 'i' THEN u.indisreplident ELSE false END) AS columns"
    "  FROM tree JOIN pg_class c ON c.oid = tree.oid"
    "  JOIN pg_namespace n ON n.oid = c.relnamespace)"
    " SELECT name, full_row OR columns IS NOT NULL,"
    "  full_row OR $2::text IS NULL OR $2 = ANY(columns),"
    "  full_row OR $3::text IS NULL OR $3 = ANY(columns),"
    "  format('ALTER TABLE %s REPLICA IDENTITY %s;', name, coalesce("
    "   (SELECT CASE WHEN u.indisprimary THEN 'DEFAULT'"
    "           ELSE format('USING INDEX %I', x.relname) END"
    "    FROM usable u JOIN pg_class x ON x.oid = u.indexrelid"
    "    WHERE u.indrelid = relation.oid AND u.not_null AND ($2 IS NULL OR $2 = ANY(u.columns))"
    "    ORDER BY u.indisprimary DESC, cardinality(u.columns), x.oid LIMIT 1), 'FULL'))"
    " FROM relation ORDER BY name";

/* Strings but char(n), enums, uuid and whole numbers: every other type writes blanks, dots, colons or
 * braces into its text. A domain is what it is made of. */
const char column_sql[] =
    "WITH RECURSIVE types AS ("
    "  SELECT a.atttypid AS oid, a.atttypmod AS typmod FROM pg_attribute a"
    "  WHERE a.attrelid = $1 AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped"
    "  UNION ALL SELECT t.typbasetype, t.typtypmod FROM types JOIN pg_type t ON t.oid = types.oid"
    "  WHERE t.typtype = 'd'),"
    " base AS ("
    "  SELECT t.oid, t.typcategory, types.typmod FROM types JOIN pg_type t ON t.oid = types.oid"
    "  WHERE t.typtype <> 'd')"
    " SELECT format_type(a.atttypid, a.atttypmod), a.attgenerated <> '',"
    "  base.oid = 'bpchar'::regtype,"
    "  base.oid <> 'bpchar'::regtype AND base.typcategory IN ('S', 'E')"
    "  OR base.oid IN ('uuid'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype)"
    "  OR base.oid = 'numeric'::regtype AND base.typmod >= 4 AND (base.typmod - 4) & 2047 = 0,"
    "  format('ALTER TABLE %s ALTER COLUMN %I TYPE text;',"
    "   (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c"
    "    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = a.attrelid), a.attname)"
    " FROM pg_attribute a, base"
    " WHERE a.attrelid = $1 AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped";
