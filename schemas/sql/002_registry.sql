-- Tenants, who may speak in them, and the published tables; brokers follow their changes through NOTIFY.
--
-- Names are byte strings: COLLATE "C" keeps their order the same on every server.

SET LOCAL ROLE muster_owner;

CREATE DOMAIN muster.name AS text COLLATE "C"
    CONSTRAINT legal CHECK (VALUE ~ '^[A-Za-z0-9-][A-Za-z0-9_-]{0,63}$');
COMMENT ON DOMAIN muster.name IS
    'A name of the public interface that is not reserved: [A-Za-z0-9_-]{1,64}, no _ in front.';

CREATE TABLE muster.tenants (
    name muster.name PRIMARY KEY,
    -- Replicas of the stream that keeps what its agents said. r1: three replicas for each of many
    -- tenants load every server of a cluster also when nothing happens.
    history text NOT NULL DEFAULT 'r1' CHECK (history IN ('off', 'r1', 'r3')),
    -- Only what differs from the broker's configuration: {"requests_per_second": 200, ...}.
    limits jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(limits) = 'object'),
    encoding text NOT NULL DEFAULT 'json' CHECK (encoding IN ('json', 'msgpack')), -- of events and changes
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE muster.tenants IS 'Every tenant; a tenant that is not here is unknown to the brokers.';

CREATE TABLE muster.credentials (
    tenant muster.name REFERENCES muster.tenants ON DELETE CASCADE,
    agent muster.name,
    role text NOT NULL
        CHECK (role IN ('agent', 'observer', 'user', 'human', 'admin', 'operator', 'plugin')),
    public_key text CHECK (public_key ~ '^U[A-Z2-7]{55}$'), -- of the user nkey; NULL: a password or a token
    secret_hash text,                                       -- salted; only where there is a password
    expires_at timestamptz,                                 -- NULL: never
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, agent) -- one role a name: a second one is refused, not added
);
COMMENT ON TABLE muster.credentials IS
    'Who may speak in a tenant, under which role; a name that is not here is unauthenticated.';

CREATE TABLE muster.tables (
    schema_name text COLLATE "C",
    table_name text COLLATE "C",
    tenant_column text,                        -- whose value names the tenant of a row
    tenant muster.name REFERENCES muster.tenants, -- or the one tenant that has all rows
    owner_column text,                         -- whose value names the end user of a row
    subject_key boolean NOT NULL DEFAULT false, -- true: the row's key is the last token of the subject
    PRIMARY KEY (schema_name, table_name),
    CONSTRAINT one_way_to_a_tenant CHECK ((tenant_column IS NULL) <> (tenant IS NULL))
);
COMMENT ON TABLE muster.tables IS 'How `muster publish` was told to route the rows of a table.';

-- A notice is a hint to read the row again and carries nothing to trust: any role may NOTIFY. A TRUNCATE
-- names no row: read the table again.
CREATE FUNCTION muster.tell_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_row jsonb;
    v_rows jsonb[];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        v_rows := ARRAY['{}'::jsonb];
    ELSIF TG_OP = 'INSERT' THEN
        v_rows := ARRAY[to_jsonb(NEW)];
    ELSIF TG_OP = 'DELETE' THEN
        v_rows := ARRAY[to_jsonb(OLD)];
    ELSE -- a new key is two changes; where the key is the same, equal notices of one transaction become one
        v_rows := ARRAY[to_jsonb(OLD), to_jsonb(NEW)];
    END IF;
    FOREACH v_row IN ARRAY v_rows LOOP
        PERFORM pg_notify('muster', jsonb_strip_nulls(
            CASE TG_ARGV[0]
            WHEN 'tenant' THEN jsonb_build_object('tenant', v_row -> 'name')
            WHEN 'credential' THEN jsonb_build_object('tenant', v_row -> 'tenant',
                                                      'agent', v_row -> 'agent')
            WHEN 'table' THEN jsonb_build_object('schema', v_row -> 'schema_name',
                                                 'table', v_row -> 'table_name')
            END || jsonb_build_object('kind', TG_ARGV[0], 'op', lower(TG_OP)))::text);
    END LOOP;
    RETURN NULL;
END
$$;

CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON muster.tenants
    FOR EACH ROW EXECUTE FUNCTION muster.tell_change('tenant');
CREATE TRIGGER tell_truncate AFTER TRUNCATE ON muster.tenants
    FOR EACH STATEMENT EXECUTE FUNCTION muster.tell_change('tenant');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON muster.credentials
    FOR EACH ROW EXECUTE FUNCTION muster.tell_change('credential');
CREATE TRIGGER tell_truncate AFTER TRUNCATE ON muster.credentials
    FOR EACH STATEMENT EXECUTE FUNCTION muster.tell_change('credential');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON muster.tables
    FOR EACH ROW EXECUTE FUNCTION muster.tell_change('table');
CREATE TRIGGER tell_truncate AFTER TRUNCATE ON muster.tables
    FOR EACH STATEMENT EXECUTE FUNCTION muster.tell_change('table');

-- Brokers admit tokens, and the command line with the broker's DSN administers tenants and agents. How
-- tables are routed stays with those who own the tables.
GRANT SELECT, INSERT, UPDATE, DELETE ON muster.tenants, muster.credentials TO muster_broker;
GRANT SELECT ON muster.tables TO muster_broker;
