-- What presence keeps of sessions: each incarnation of an agent, when it was heard last and why it went, and as
-- what it stood in the roster, so that the roster can be made again after all brokers were away.

GRANT CREATE ON SCHEMA public TO muster_owner; -- for the index
SET LOCAL ROLE muster_owner;

ALTER TABLE public.agent_sessions
    ADD COLUMN last_seen_at timestamptz,
    ADD COLUMN gone_reason text
        CHECK (gone_reason IN ('bye', 'replaced', 'disconnected', 'timeout', 'kicked')),
    -- As presence.get shows it; NULL: not in the roster, because it has ended, or was only registered.
    ADD COLUMN state jsonb CHECK (jsonb_typeof(state) = 'object'),
    -- Epoch of the broker that wrote it: what one with an older epoch writes comes too late.
    ADD COLUMN fence bigint NOT NULL DEFAULT 0;
-- Not by state: a row whose index says something of what changes cannot be updated in its place.
CREATE INDEX agent_sessions_present ON public.agent_sessions (tenant_id, session_id) WHERE gone_reason IS NULL;
CREATE INDEX agent_sessions_active ON public.agent_sessions (tenant_id, session_id COLLATE "C") WHERE status = 'active';
ALTER TABLE public.agent_sessions SET (fillfactor = 70);

-- Write what the roster's events said of sessions: [{session, agent, status, begins, epoch, at, reason, state}].
-- Gives {"ok": {"stored", "refused"}}; refused is what came too late. Who has ended his session himself stays so
-- until it begins anew.
CREATE FUNCTION muster.record_sessions(p_rows jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_stored bigint;
BEGIN
    WITH said AS (
        SELECT DISTINCT ON (x.session, x.agent) x.*, CASE WHEN x.status = 'active' THEN x.state END AS present,
               coalesce((x.state ->> 'last_heartbeat')::timestamptz, x.at) AS seen_at
        FROM jsonb_to_recordset(p_rows) AS x (session text, agent text, status text, begins boolean, epoch bigint,
                                              at timestamptz, reason text, state jsonb)
        ORDER BY x.session, x.agent, x.at DESC
    ), r AS ( -- agents choose the names of their sessions: who comes second with one has it behind its own name
        SELECT said.agent, said.status, said.begins, said.epoch, said.at, said.reason, said.state, said.present, said.seen_at,
               CASE WHEN own.found OR (others.found IS NOT TRUE
                                       AND row_number() OVER (PARTITION BY said.session ORDER BY said.agent) = 1)
                    THEN said.session ELSE said.agent || '/' || said.session END AS session
        FROM said
        LEFT JOIN LATERAL (
            SELECT true AS found FROM public.agent_sessions AS s
            WHERE s.tenant_id = current_setting('app.current_tenant') AND s.session_id = said.session
              AND s.agent_id = said.agent) AS own ON true
        LEFT JOIN LATERAL (
            SELECT true AS found FROM public.agent_sessions AS s
            WHERE s.tenant_id = current_setting('app.current_tenant') AND s.session_id = said.session
              AND s.agent_id <> said.agent) AS others ON true
    ), known AS (
        UPDATE public.agent_sessions AS s SET
            status = CASE WHEN r.begins OR s.status = 'active' THEN r.status ELSE s.status END,
            ended_at = CASE WHEN NOT r.begins AND s.ended_at IS NOT NULL THEN s.ended_at
                            WHEN r.status <> 'active' THEN r.at END,
            last_seen_at = greatest(s.last_seen_at, r.seen_at),
            gone_reason = r.reason,
            metadata = coalesce(r.state -> 'metadata', s.metadata),
            state = r.present,
            fence = r.epoch
        FROM r
        WHERE s.tenant_id = current_setting('app.current_tenant') AND s.session_id = r.session
          AND s.agent_id = r.agent AND s.fence <= r.epoch
        RETURNING s.session_id
    ), new AS (
        INSERT INTO public.agent_sessions AS s (tenant_id, session_id, agent_id, status, started_at, ended_at,
                                                last_seen_at, gone_reason, metadata, state, fence)
        SELECT DISTINCT ON (r.session) current_setting('app.current_tenant'), r.session, r.agent, r.status,
               coalesce((r.state ->> 'started_at')::timestamptz, r.at), CASE WHEN r.status <> 'active' THEN r.at END,
               r.seen_at, r.reason, coalesce(r.state -> 'metadata', '{}'), r.present, r.epoch
        FROM r
        WHERE NOT EXISTS (SELECT FROM public.agent_sessions AS s
                          WHERE s.tenant_id = current_setting('app.current_tenant') AND s.session_id = r.session)
        ORDER BY r.session, r.agent -- a name that another's has become is one of them's
        ON CONFLICT (tenant_id, session_id) DO UPDATE -- registered in this moment
            SET status = excluded.status, ended_at = excluded.ended_at, last_seen_at = excluded.last_seen_at,
                gone_reason = excluded.gone_reason, state = excluded.state, fence = excluded.fence
            WHERE s.agent_id = excluded.agent_id AND s.fence <= excluded.fence
        RETURNING s.session_id
    )
    SELECT (SELECT count(*) FROM known) + (SELECT count(*) FROM new) INTO v_stored;
    RETURN jsonb_build_object('ok', jsonb_build_object('stored', v_stored,
                                                       'refused', jsonb_array_length(p_rows) - v_stored));
END
$$;

-- A row as the service session shows it.
CREATE FUNCTION muster.session_shown(s public.agent_sessions) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'session_id', s.session_id, 'agent_id', s.agent_id, 'tenant_id', s.tenant_id, 'status', s.status,
        'started_at', to_char(s.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'ended_at', to_char(s.ended_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'last_seen_at', to_char(s.last_seen_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'gone_reason', s.gone_reason)) || jsonb_build_object('metadata', s.metadata)
$$;

-- The caller's own session; again, it begins anew.
CREATE FUNCTION muster.session_register(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_row public.agent_sessions;
BEGIN
    INSERT INTO public.agent_sessions AS s (tenant_id, session_id, agent_id, metadata)
    VALUES (tenant, args ->> 'session_id', agent, coalesce(args -> 'metadata', '{}'))
    ON CONFLICT (tenant_id, session_id) DO UPDATE
        SET status = 'active', ended_at = NULL, gone_reason = NULL, metadata = coalesce(args -> 'metadata', s.metadata)
        WHERE s.agent_id = excluded.agent_id
    RETURNING * INTO v_row;
    IF NOT FOUND THEN
        RETURN muster.error('already_exists', format('session_id: %s is a session of another agent, one of your own or '
                            'a new one was expected', args ->> 'session_id'), 'session_id');
    END IF;
    RETURN jsonb_build_object('ok', muster.session_shown(v_row));
END
$$;

-- any: whoever asks may change the sessions of others.
CREATE FUNCTION muster.session_status(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_row public.agent_sessions;
BEGIN
    SELECT * INTO v_row FROM public.agent_sessions AS s
    WHERE s.tenant_id = tenant AND s.session_id = args ->> 'session_id'
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN muster.error('not_found', format('session_id: there is no session %s', args ->> 'session_id'), 'session_id');
    ELSIF v_row.agent_id <> agent AND NOT (args ->> 'any')::boolean THEN
        RETURN muster.error('permission_denied', format('session_id: %s is a session of another agent',
                            args ->> 'session_id'), 'session_id');
    END IF;
    UPDATE public.agent_sessions AS s
    SET status = args ->> 'status',
        ended_at = CASE WHEN args ->> 'status' = 'active' THEN NULL ELSE coalesce(s.ended_at, clock_timestamp()) END
    WHERE s.tenant_id = tenant AND s.id = v_row.id
    RETURNING * INTO v_row;
    RETURN jsonb_build_object('ok', muster.session_shown(v_row));
END
$$;

-- after is a variable: behind row level security only what is plain becomes a condition of the index.
CREATE FUNCTION muster.session_active(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_after constant text := coalesce(args ->> 'after', '');
    v_limit constant integer := args ->> 'limit';
BEGIN
    RETURN (
        WITH found AS (
            SELECT s.session_id, muster.session_shown(s) AS shown,
                   row_number() OVER (ORDER BY s.session_id COLLATE "C") AS n
            FROM public.agent_sessions AS s
            WHERE s.tenant_id = tenant AND s.status = 'active' AND s.session_id COLLATE "C" > v_after
            ORDER BY s.session_id COLLATE "C"
            LIMIT v_limit + 1
        )
        SELECT jsonb_build_object('ok', jsonb_strip_nulls(jsonb_build_object(
                   'next', (SELECT session_id FROM found WHERE n = v_limit AND EXISTS (SELECT FROM found WHERE n > v_limit))))
               || jsonb_build_object('sessions', coalesce((SELECT jsonb_agg(shown ORDER BY n) FROM found WHERE n <= v_limit), '[]'))));
END
$$;

-- Those in the roster of a tenant, for a broker that finds no other one which knows them: at most p_limit behind
-- p_after. Who may not speak any more is not among them.
CREATE FUNCTION muster.sessions_present(p_after text, p_limit integer)
RETURNS TABLE (session_id text, state jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.session_id, s.state || jsonb_build_object('last_heartbeat', coalesce(
        to_char(s.last_seen_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), s.state ->> 'last_heartbeat'))
    FROM public.agent_sessions AS s
    JOIN muster.credentials AS c ON c.tenant = s.tenant_id AND c.agent = s.agent_id
    WHERE s.tenant_id = current_setting('app.current_tenant') AND s.gone_reason IS NULL AND s.state IS NOT NULL
      AND s.session_id > p_after
      AND c.revoked_at IS NULL AND (c.expires_at IS NULL OR c.expires_at > statement_timestamp())
    ORDER BY s.session_id
    LIMIT p_limit
$$;

GRANT EXECUTE ON FUNCTION
    muster.record_sessions(jsonb), muster.session_shown(public.agent_sessions),
    muster.session_register(text, text, jsonb), muster.session_status(text, text, jsonb),
    muster.session_active(text, text, jsonb), muster.sessions_present(text, integer)
    TO muster_broker;

RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM muster_owner;
