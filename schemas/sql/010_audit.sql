-- What is done to tenants and names, whoever does it: brokers take it from here into the stream AUDIT, in which
-- the requests of agents are told too.
--
-- The triggers see every way: the command line, a broker that admits a login, and plain SQL. Who did it is the
-- login role, and the user of the operating system where the command line said so (muster.by).

SET LOCAL ROLE muster_owner;

CREATE TABLE muster.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tenant text COLLATE "C" NOT NULL, -- the row outlives it
    service text NOT NULL,
    verb text NOT NULL,
    object text NOT NULL,
    by text,
    login text NOT NULL,
    claimed_until timestamptz -- a broker is about to store it; NULL: none
);
COMMENT ON TABLE muster.audit IS 'What was done to tenants and names and is not in stream AUDIT yet.';

CREATE FUNCTION muster.audit_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_by text := nullif(left(current_setting('muster.by', true), 64), '');
    v_verb text;
    v_tenant text;
    v_object text;
BEGIN
    IF TG_TABLE_NAME = 'tenants' THEN
        v_tenant := CASE WHEN TG_OP = 'DELETE' THEN OLD.name ELSE NEW.name END;
        v_object := v_tenant;
        v_verb := CASE TG_OP WHEN 'INSERT' THEN 'add' WHEN 'DELETE' THEN 'rm'
                  ELSE CASE WHEN OLD.limits <> NEW.limits THEN 'limits' ELSE 'change' END END;
    ELSE
        v_tenant := CASE WHEN TG_OP = 'DELETE' THEN OLD.tenant ELSE NEW.tenant END;
        v_object := CASE WHEN TG_OP = 'DELETE' THEN OLD.agent ELSE NEW.agent END;
        v_verb := CASE
            WHEN TG_OP = 'DELETE' THEN 'remove'
            -- The command line says who it is; a broker that writes by itself has been shown a token.
            WHEN TG_OP = 'INSERT' THEN CASE WHEN v_by IS NULL AND session_user = 'muster_broker' THEN 'admit' ELSE 'add' END
            WHEN OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL THEN 'revoke'
            WHEN OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS NULL THEN 'add'
            WHEN OLD.public_key IS DISTINCT FROM NEW.public_key OR OLD.secret_hash IS DISTINCT FROM NEW.secret_hash THEN 'rotate'
            ELSE 'change' END;
    END IF;
    INSERT INTO muster.audit (tenant, service, verb, object, by, login)
    VALUES (v_tenant, CASE TG_TABLE_NAME WHEN 'tenants' THEN 'tenant' ELSE 'agent' END, v_verb, v_object, v_by,
            left(session_user::text, 63));
    RETURN NULL;
END
$$;

CREATE TRIGGER audit AFTER INSERT OR DELETE ON muster.tenants
    FOR EACH ROW EXECUTE FUNCTION muster.audit_change();
CREATE TRIGGER audit_update AFTER UPDATE ON muster.tenants
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION muster.audit_change();
CREATE TRIGGER audit AFTER INSERT OR DELETE ON muster.credentials
    FOR EACH ROW EXECUTE FUNCTION muster.audit_change();
CREATE TRIGGER audit_update AFTER UPDATE ON muster.credentials
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION muster.audit_change();

-- Brokers take rows away once the stream has them; only the triggers write any.
GRANT SELECT, DELETE ON muster.audit TO muster_broker;
GRANT UPDATE (claimed_until) ON muster.audit TO muster_broker;
