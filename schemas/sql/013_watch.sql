-- Watches: which broker's they are, what is known of the tables that they are of, and their making and end.

SET LOCAL ROLE muster_owner;

ALTER TABLE muster.watches
    ADD COLUMN shard smallint NOT NULL DEFAULT 0, -- of the tenant: who holds the lease watch.<shard> serves it
    ADD CONSTRAINT legal_position CHECK (position IS NULL OR jsonb_typeof(position) = 'object'); -- a stream to the last sequence not wanted
CREATE INDEX watches_shard ON muster.watches (shard, tenant, id);

-- What a filter is held against: the published columns with their types, of a domain its base type's, and whether the
-- log has a column's old value. NULL: no published table of this tenant's.
CREATE FUNCTION muster.watch_table(p_tenant text, p_schema text, p_table text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'identity', c.relreplident,
        'columns', (
            SELECT jsonb_agg(jsonb_build_object(
                       'name', a.attname, 'type', CASE WHEN tn.nspname = 'pg_catalog' THEN t.typname ELSE format('%s.%s', tn.nspname, t.typname) END,
                       'typtype', t.typtype, 'category', t.typcategory,
                       'identity', CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false ELSE EXISTS (
                           SELECT FROM pg_index AS i
                           WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END
                             AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) END) ORDER BY a.attnum)
            FROM pg_attribute AS a
            JOIN LATERAL (
                WITH RECURSIVE base (oid, depth) AS (
                    SELECT a.atttypid, 0
                    UNION ALL
                    SELECT d.typbasetype, b.depth + 1 FROM base AS b JOIN pg_type AS d ON d.oid = b.oid WHERE d.typtype = 'd' AND b.depth < 32)
                SELECT b.oid FROM base AS b ORDER BY b.depth DESC LIMIT 1) AS own ON true
            JOIN pg_type AS t ON t.oid = own.oid
            JOIN pg_namespace AS tn ON tn.oid = t.typnamespace
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              AND EXISTS (SELECT FROM pg_publication AS p LEFT JOIN pg_publication_rel AS r ON r.prpubid = p.oid AND r.prrelid = c.oid
                          WHERE p.pubname <> 'muster_registry'
                            AND (a.attnum = ANY (r.prattrs) -- by its name; else all, but those that are computed
                                 OR a.attgenerated = '' AND r.prattrs IS NULL
                                    AND (p.puballtables OR r.oid IS NOT NULL
                                         OR EXISTS (SELECT FROM pg_publication_namespace AS s WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace))))))
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN muster.tables AS m ON m.schema_name = p_schema AND m.table_name = p_table
    WHERE n.nspname = p_schema AND c.relname = p_table AND c.relkind IN ('r', 'p')
      AND (m.tenant IS NULL OR m.tenant = p_tenant)
      AND EXISTS (SELECT FROM pg_publication AS p -- the view pg_publication_tables lists all tables for the answer about one
                  WHERE p.pubname <> 'muster_registry'
                    AND (p.puballtables
                         OR EXISTS (SELECT FROM pg_publication_rel AS r WHERE r.prpubid = p.oid AND r.prrelid = c.oid)
                         OR EXISTS (SELECT FROM pg_publication_namespace AS s WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace)))
$$;

-- Whether a name is not narrowed to other tables. The tokens are those of subjects.
CREATE FUNCTION muster.watch_may_read(p_tenant text, p_agent text, p_schema text, p_table text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT c.tables IS NULL OR (p_schema || '.' || p_table) = ANY (c.tables) OR (p_schema || '.*') = ANY (c.tables)
                     FROM muster.credentials AS c WHERE c.tenant = p_tenant AND c.agent = p_agent), true)
$$;

-- args: spec, role, shard, position, limit of the tenant, subject (in front of the id), epoch and seq of the answer.
CREATE FUNCTION muster.watch_open(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_limit constant bigint := (args ->> 'limit')::bigint;
    v_id constant text := left(replace(gen_random_uuid()::text, '-', ''), 20);
BEGIN
    IF v_limit IS NOT NULL AND v_limit <= (SELECT count(*) FROM muster.watches AS w WHERE w.tenant = tenant) THEN
        RETURN muster.error('resource_exhausted', format('watches: %s is the limit of the tenant', v_limit), 'watches');
    END IF;
    INSERT INTO muster.watches (tenant, id, agent, role, spec, shard, position)
    VALUES (tenant, v_id, agent, args ->> 'role', args -> 'spec', (args ->> 'shard')::smallint, args -> 'position');
    RETURN jsonb_build_object('ok', jsonb_build_object('watch', v_id, 'subject', (args ->> 'subject') || v_id,
                                                       'epoch', args -> 'epoch', 'seq', args -> 'seq'));
END
$$;

CREATE FUNCTION muster.watch_close(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    DELETE FROM muster.watches AS w
    WHERE w.tenant = tenant AND w.id = args ->> 'watch' AND (w.agent = agent OR (args ->> 'any')::boolean);
    IF NOT FOUND THEN
        RETURN muster.error('not_found', format('watch: %s came, the name of a watch of the caller was expected', args ->> 'watch'), 'watch');
    END IF;
    RETURN '{"ok": {}}';
END
$$;

GRANT EXECUTE ON FUNCTION muster.watch_table(text, text, text), muster.watch_may_read(text, text, text, text),
    muster.watch_open(text, text, jsonb), muster.watch_close(text, text, jsonb) TO muster_broker;
