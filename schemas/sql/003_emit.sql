-- muster.emit(): the one way from a transaction to the event streams.
--
-- Every role may call pg_logical_emit_message() as PostgreSQL comes, and so forge any tenant's events.
-- It is taken from PUBLIC in this database, whatever signatures this version of PostgreSQL has.

DO $$
DECLARE
    v_function regprocedure;
BEGIN
    FOR v_function IN
        SELECT oid FROM pg_proc
        WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace
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

SET LOCAL ROLE muster_owner;

-- Raise what every refusal of an argument says: the field, what came, and what was expected.
CREATE FUNCTION muster.refuse(p_function text, p_field text, p_value text, p_expected text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE invalid_parameter_value USING
        MESSAGE = format('muster.%s: %s: %s came, %s was expected', p_function, p_field,
                         coalesce(quote_literal(left(p_value, 100)), 'NULL'), p_expected);
END
$$;

-- Emit an event when this transaction commits, and return the position of the message in the WAL. The
-- content is UTF-8 in every database: PostgreSQL does not convert it on its way. Whether the tenant exists
-- is not asked here: what is emitted for an unknown one goes to nobody.
CREATE FUNCTION muster.emit(tenant text, service text, event text, key text, body jsonb) RETURNS pg_lsn
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c_name constant text := '^[A-Za-z0-9-][A-Za-z0-9_-]{0,63}$';
    c_expected constant text := 'a name [A-Za-z0-9_-]{1,64} that does not begin with _';
    v_content bytea;
BEGIN
    IF (emit.tenant ~ c_name) IS NOT TRUE THEN
        PERFORM muster.refuse('emit', 'tenant', emit.tenant, c_expected);
    ELSIF (emit.service ~ c_name) IS NOT TRUE THEN
        PERFORM muster.refuse('emit', 'service', emit.service, c_expected);
    ELSIF (emit.event ~ c_name) IS NOT TRUE THEN
        PERFORM muster.refuse('emit', 'event', emit.event, c_expected);
    ELSIF (octet_length(emit.key) BETWEEN 1 AND 1024) IS NOT TRUE THEN
        PERFORM muster.refuse('emit', 'key', emit.key, 'an id of 1 to 1024 bytes');
    ELSIF (jsonb_typeof(emit.body) = 'object') IS NOT TRUE THEN
        PERFORM muster.refuse('emit', 'body', emit.body::text, 'a JSON object');
    END IF;
    v_content := convert_to(
        json_build_object('tenant', emit.tenant, 'service', emit.service, 'event', emit.event,
                          'key', emit.key, 'body', emit.body)::text, 'UTF8');
    -- The brokers decode no more than that: here it can still be refused.
    IF octet_length(v_content) > 1000000 THEN
        PERFORM muster.refuse('emit', 'body', octet_length(v_content) || ' bytes with the names around it',
                              'at most 1000000 bytes');
    END IF;
    RETURN pg_logical_emit_message(true, 'muster.evt', v_content);
END
$$;
COMMENT ON FUNCTION muster.emit(text, text, text, text, jsonb) IS
    'Tell a tenant that something happened, when this transaction commits.';
REVOKE EXECUTE ON FUNCTION muster.emit(text, text, text, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION muster.emit(text, text, text, text, jsonb) TO muster_broker;
