-- What must hold in every database and is not part of a dump of schemas: roles, privileges, publications.
--
-- Runs at the end of every `muster migrate`, also where no migration is pending: after a restore into a new
-- database or a new cluster PUBLIC may emit events again, roles lack attributes, publications are gone.
-- 001 to 005 did the same once; what is to hold from now on stands here. Nothing is changed that is right.

DO $$
DECLARE
    v_role record;
    v_attributes text;
BEGIN
    FOR v_role IN
        SELECT wanted.*, have.oid IS NULL AS missing,
               have.rolsuper OR have.rolbypassrls OR have.rolcreaterole OR have.rolcreatedb
                   OR have.rolcanlogin <> wanted.login OR have.rolreplication <> wanted.replication AS differs
        FROM (VALUES ('muster_owner', false, false), ('muster_engine', false, false),
                     ('muster_broker', true, true), ('muster_app', true, false)
             ) AS wanted (name, login, replication)
        LEFT JOIN pg_roles AS have ON have.rolname = wanted.name
    LOOP
        v_attributes := concat_ws(' ', CASE WHEN v_role.login THEN 'LOGIN' ELSE 'NOLOGIN' END,
                                  CASE WHEN v_role.replication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
                                  'NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB');
        IF v_role.missing THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I %s', v_role.name, v_attributes);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- a migration of another database of this cluster was faster
            END;
        ELSIF v_role.differs THEN
            EXECUTE format('ALTER ROLE %I %s', v_role.name, v_attributes);
        END IF;
    END LOOP;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO muster_broker', current_database());
END
$$;

-- A dump that was restored without its owners leaves everything to the superuser who did it; then
-- muster.emit(), which is SECURITY DEFINER, would run as him.
DO $$
DECLARE
    v_statement text;
BEGIN
    FOR v_statement IN
        WITH s AS (SELECT oid, nspowner FROM pg_namespace WHERE nspname = 'muster'),
             super AS (SELECT oid FROM pg_roles WHERE rolsuper)
        SELECT 'ALTER SCHEMA muster OWNER TO muster_owner' FROM s WHERE nspowner IN (SELECT oid FROM super)
        UNION ALL
        SELECT format('ALTER TABLE %s OWNER TO muster_owner', c.oid::regclass)
        FROM pg_class c JOIN s ON s.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v') AND c.relowner IN (SELECT oid FROM super)
        UNION ALL
        SELECT format('ALTER DOMAIN %s OWNER TO muster_owner', t.oid::regtype)
        FROM pg_type t JOIN s ON s.oid = t.typnamespace
        WHERE t.typtype = 'd' AND t.typowner IN (SELECT oid FROM super)
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO muster_owner', p.oid::regprocedure)
        FROM pg_proc p JOIN s ON s.oid = p.pronamespace
        WHERE p.proowner IN (SELECT oid FROM super)
    LOOP
        EXECUTE v_statement;
    END LOOP;
END
$$;

-- Every role may call pg_logical_emit_message() as PostgreSQL comes, and so forge any tenant's events.
DO $$
DECLARE
    v_function regprocedure;
BEGIN
    FOR v_function IN
        SELECT oid FROM pg_proc
        WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace
          AND (has_function_privilege('public', oid, 'EXECUTE')
               OR NOT has_function_privilege('muster_owner', oid, 'EXECUTE'))
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', v_function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO muster_owner', v_function);
        -- To a role that is not the owner REVOKE is a warning only; an open door must not be one.
        IF has_function_privilege('public', v_function, 'EXECUTE')
           OR NOT has_function_privilege('muster_owner', v_function, 'EXECUTE') THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('%s can only be taken from PUBLIC by a superuser', v_function),
                HINT = format('As a superuser: REVOKE EXECUTE ON FUNCTION %1$s FROM PUBLIC; '
                              'GRANT EXECUTE ON FUNCTION %1$s TO muster_owner;', v_function);
        END IF;
    END LOOP;
END
$$;

-- The publications that the slots read. muster_evt stays empty; muster_registry is read beside either, so
-- that a reader learns of tenants and of the settings of tables in the order of commits. They belong to
-- muster_owner, so that its members can add tables which they own.
DO $$
DECLARE
    c_options constant text := '(publish = ''insert, update, delete, truncate'', publish_via_partition_root = true)';
    v_name text;
    v_have pg_publication;
BEGIN
    FOREACH v_name IN ARRAY ARRAY['muster', 'muster_evt', 'muster_registry'] LOOP
        SELECT * INTO v_have FROM pg_publication WHERE pubname = v_name;
        IF NOT FOUND THEN
            EXECUTE format('CREATE PUBLICATION %I WITH %s', v_name, c_options);
        ELSIF NOT (v_have.pubinsert AND v_have.pubupdate AND v_have.pubdelete AND v_have.pubtruncate
                   AND v_have.pubviaroot) THEN
            EXECUTE format('ALTER PUBLICATION %I SET %s', v_name, c_options);
        END IF;
        -- One for all tables, or for those of a schema, can only be a superuser's.
        IF EXISTS (SELECT FROM pg_publication p WHERE p.pubname = v_name AND NOT p.puballtables
                     AND p.pubowner <> 'muster_owner'::regrole
                     AND NOT EXISTS (SELECT FROM pg_publication_namespace n WHERE n.pnpubid = p.oid)) THEN
            EXECUTE format('ALTER PUBLICATION %I OWNER TO muster_owner', v_name);
        END IF;
    END LOOP;
    IF (SELECT array_agg(format('%I.%I', schemaname, tablename) ORDER BY tablename COLLATE "C")
        FROM pg_publication_tables WHERE pubname = 'muster_registry')
       IS DISTINCT FROM ARRAY['muster.tables', 'muster.tenants'] THEN
        ALTER PUBLICATION muster_registry SET TABLE muster.tenants, muster.tables;
    END IF;
END
$$;

SET LOCAL ROLE muster_owner;

-- Who may do what in schema muster. PostgreSQL lets everybody execute a new function; ours are granted one
-- by one.
ALTER DEFAULT PRIVILEGES FOR ROLE muster_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA muster FROM PUBLIC;
GRANT USAGE ON SCHEMA muster TO muster_engine, muster_broker;
GRANT SELECT ON muster.migrations, muster.tables TO muster_broker;
GRANT SELECT, INSERT, UPDATE, DELETE ON muster.tenants, muster.credentials, muster.requests TO muster_broker;
GRANT EXECUTE ON FUNCTION
    muster.emit(text, text, text, text, jsonb),
    muster.error(text, text, text, integer),
    muster.call(text, text, text, jsonb),
    muster.lock_request(bigint),
    muster.once(text, text, text, text, bytea, text, jsonb),
    muster.purge_requests(integer)
    TO muster_broker;
