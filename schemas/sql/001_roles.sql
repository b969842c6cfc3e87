-- The roles and the schema that hold what is Muster's own, and the record of migrations.
--
-- Roles belong to the cluster, not to the database: they may be there already, made for another database
-- or by an operator who gave them a password. Then only wrong attributes are put right.

DO $$
DECLARE
    v_role record;
    v_attributes text;
BEGIN
    FOR v_role IN
        SELECT wanted.*, have.oid IS NULL AS missing,
               have.rolsuper OR have.rolbypassrls OR have.rolcanlogin <> wanted.login
                   OR have.rolreplication <> wanted.replication AS differs
        FROM (VALUES ('muster_owner', false, false),  -- owns every object of the migrations
                     ('muster_engine', false, false), -- will own what has to see every tenant's rows
                     ('muster_broker', true, true),   -- the brokers' login; reads the replication slots
                     ('muster_app', true, false)      -- trusted backends, under row level security
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

CREATE SCHEMA muster AUTHORIZATION muster_owner;
SET LOCAL ROLE muster_owner;
GRANT USAGE ON SCHEMA muster TO muster_engine, muster_broker;

-- PostgreSQL lets everybody execute a new function; ours are granted one by one.
ALTER DEFAULT PRIVILEGES FOR ROLE muster_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

CREATE TABLE muster.migrations (
    number integer PRIMARY KEY CHECK (number > 0),
    name text NOT NULL UNIQUE,
    sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE muster.migrations IS
    'What `muster migrate` has applied; a file that changed afterwards is refused.';
GRANT SELECT ON muster.migrations TO muster_broker;
