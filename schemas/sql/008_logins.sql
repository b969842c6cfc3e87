-- Who logs in with a token: the name's row is found or made, and what stands there decides.
--
-- Called in a group commit: it never raises for reasons of data. A name keeps the role that it got first; one
-- that was revoked, or that has ended, is not let in by whatever token.

SET LOCAL ROLE muster_owner;

CREATE FUNCTION muster.admit(p_tenant text, p_agent text, p_role text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_limits jsonb;
    v_row record;
BEGIN
    SELECT limits INTO v_limits FROM muster.tenants WHERE name = p_tenant;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('refused', 'unknown_tenant');
    END IF;
    SELECT * INTO v_row FROM muster.credentials WHERE tenant = p_tenant AND agent = p_agent;
    IF NOT FOUND THEN
        INSERT INTO muster.credentials (tenant, agent, role) VALUES (p_tenant, p_agent, p_role)
        ON CONFLICT DO NOTHING;
        -- Another broker may have been faster; then its row decides. Or an operator has the name in another tenant.
        SELECT * INTO v_row FROM muster.credentials WHERE tenant = p_tenant AND agent = p_agent;
        IF NOT FOUND THEN
            RETURN jsonb_build_object('refused', 'removed');
        END IF;
    END IF;
    RETURN CASE
        WHEN v_row.role <> p_role THEN jsonb_build_object('refused', 'other_role', 'role', v_row.role)
        WHEN v_row.revoked_at IS NOT NULL THEN jsonb_build_object('refused', 'revoked')
        WHEN v_row.expires_at <= clock_timestamp() THEN jsonb_build_object('refused', 'expired')
        ELSE jsonb_build_object('subscriptions', v_limits -> 'subscriptions',
                                'groups', array_to_string(v_row.groups, ','), 'tables', array_to_string(v_row.tables, ','),
                                'expires_at', CASE WHEN isfinite(v_row.expires_at)
                                                   THEN extract(epoch FROM v_row.expires_at)::bigint END)
    END;
END
$$;
COMMENT ON FUNCTION muster.admit(text, text, text) IS
    'Let a name in that has shown a token: {refused: why}, or how long and with how many subscriptions.';

GRANT EXECUTE ON FUNCTION muster.admit(text, text, text) TO muster_broker;
