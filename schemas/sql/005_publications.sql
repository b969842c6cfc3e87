-- The publications that the replication slots read. They exist before any slot: a slot that meets WAL
-- written before its publication was made can never get past it.
--
-- They belong to muster_owner, so that its members can add tables which they own.

DO $$
DECLARE
    v_name text;
BEGIN
    -- muster_evt stays empty: its slot carries messages alone, never held up by an application's rows.
    -- muster_registry is read beside either, so that a reader learns of new tenants and of changed
    -- settings of tables between the rows, in the order of commits.
    FOREACH v_name IN ARRAY ARRAY['muster', 'muster_evt', 'muster_registry'] LOOP
        IF EXISTS (SELECT FROM pg_publication WHERE pubname = v_name) THEN
            EXECUTE format('ALTER PUBLICATION %I SET (publish = ''insert, update, delete, truncate'', '
                           'publish_via_partition_root = true)', v_name);
        ELSE
            EXECUTE format('CREATE PUBLICATION %I WITH (publish = ''insert, update, delete, truncate'', '
                           'publish_via_partition_root = true)', v_name);
        END IF;
        EXECUTE format('ALTER PUBLICATION %I OWNER TO muster_owner', v_name);
    END LOOP;
    ALTER PUBLICATION muster_registry SET TABLE muster.tenants, muster.tables;
END
$$;
