-- Presence and fan-out, what came after 013. Each part begins under the role it needs and leaves it as it was.

-- ---- sessions: presence ------------------------------------------------------------------------------------------------------------

GRANT CREATE ON SCHEMA public TO muster_owner; -- for the index
SET LOCAL ROLE muster_owner;
CREATE INDEX agent_sessions_ended ON public.agent_sessions (tenant_id, ended_at) WHERE ended_at IS NOT NULL;

-- hello, status and bye take effect outside of the database: for a request_id they are begun here, carried out, and then answered. Who
-- asks again before that goes on with what was begun: a hello with the same session, so that it is one session.
CREATE FUNCTION muster.presence_begin(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE sql STABLE
RETURN jsonb_build_object('ok', jsonb_build_object('begun', args -> 'session'));

CREATE FUNCTION muster.presence_done(p_tenant text, p_agent text, p_verb text, p_request_id text, p_answer jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE muster.requests SET answer = p_answer
    WHERE tenant = p_tenant AND agent = p_agent AND verb = p_verb AND request_id = p_request_id AND answer #> '{ok,begun}' IS NOT NULL;
    RETURN p_answer;
END
$$;

-- Forget sessions of the tenant that ended p_keep ago, at most p_limit at a time; what another broker is about to delete is passed over.
-- Whoever is in the roster stays, whatever was said of its session.
CREATE FUNCTION muster.purge_sessions(p_keep interval, p_limit integer) RETURNS jsonb
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH old AS (
        SELECT s.id FROM public.agent_sessions AS s
        WHERE s.tenant_id = current_setting('app.current_tenant') AND s.ended_at <= statement_timestamp() - p_keep
          AND s.status <> 'active' AND s.state IS NULL
        ORDER BY s.ended_at LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM public.agent_sessions AS s
        WHERE s.tenant_id = current_setting('app.current_tenant') AND s.id = ANY (ARRAY(SELECT id FROM old))
        RETURNING 1
    )
    SELECT jsonb_build_object('ok', jsonb_build_object('purged', (SELECT count(*) FROM gone)))
$$;

GRANT EXECUTE ON FUNCTION muster.purge_sessions(interval, integer) TO muster_broker;
GRANT EXECUTE ON FUNCTION muster.presence_begin(text, text, jsonb), muster.presence_done(text, text, text, text, jsonb) TO muster_broker;

RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM muster_owner;

-- ---- watches and inboxes: fanout ---------------------------------------------------------------------------------------------------

-- ---- groups and casts: fanout ------------------------------------------------------------------------------------------------------

-- ---- limits: fanout ----------------------------------------------------------------------------------------------------------------

-- How many of each a tenant has, so that a limit is held against one row and not against all there are. Who opens, closes, joins or leaves
-- locks it first: what it says is true until the end of the transaction.
SET LOCAL ROLE muster_owner;
CREATE TABLE muster.fanout_counts (
    tenant muster.name PRIMARY KEY REFERENCES muster.tenants ON DELETE CASCADE,
    watches bigint NOT NULL DEFAULT 0,
    members bigint NOT NULL DEFAULT 0 -- of groups
) WITH (fillfactor = 50);
COMMENT ON TABLE muster.fanout_counts IS 'How many watches and members of groups each tenant has.';

CREATE FUNCTION muster.fanout_lock(p_tenant text) RETURNS muster.fanout_counts
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_counts muster.fanout_counts;
BEGIN
    INSERT INTO muster.fanout_counts (tenant) VALUES (p_tenant) ON CONFLICT DO NOTHING;
    SELECT * INTO v_counts FROM muster.fanout_counts WHERE tenant = p_tenant FOR UPDATE;
    RETURN v_counts;
END
$$;

-- With a tenant that is deleted its row here goes first.
CREATE FUNCTION muster.fanout_count() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_change constant integer := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
    v_tenant constant text := CASE TG_OP WHEN 'INSERT' THEN NEW.tenant ELSE OLD.tenant END;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO muster.fanout_counts (tenant) VALUES (v_tenant) ON CONFLICT DO NOTHING;
    END IF;
    UPDATE muster.fanout_counts
    SET watches = watches + CASE TG_TABLE_NAME WHEN 'watches' THEN v_change ELSE 0 END,
        members = members + CASE TG_TABLE_NAME WHEN 'groups' THEN v_change ELSE 0 END
    WHERE tenant = v_tenant;
    RETURN NULL;
END
$$;

DO $$
DECLARE
    v_tenant text;
BEGIN
    FOR v_tenant IN SELECT name FROM muster.tenants LOOP
        PERFORM set_config('app.current_tenant', v_tenant, true);
        INSERT INTO muster.fanout_counts (tenant, watches, members)
        SELECT v_tenant, (SELECT count(*) FROM muster.watches WHERE tenant = v_tenant), (SELECT count(*) FROM muster.groups WHERE tenant = v_tenant);
    END LOOP;
    PERFORM set_config('app.current_tenant', '', true);
END
$$;

CREATE TRIGGER counted AFTER INSERT OR DELETE ON muster.watches FOR EACH ROW EXECUTE FUNCTION muster.fanout_count();
CREATE TRIGGER counted AFTER INSERT OR DELETE ON muster.groups FOR EACH ROW EXECUTE FUNCTION muster.fanout_count();

CREATE OR REPLACE FUNCTION muster.watch_open(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_limit constant bigint := (args ->> 'limit')::bigint;
    v_counts constant muster.fanout_counts := muster.fanout_lock(tenant);
    v_id constant text := left(replace(gen_random_uuid()::text, '-', ''), 20);
BEGIN
    IF v_limit <= v_counts.watches THEN
        RETURN muster.error('resource_exhausted', format('watches: %s is the limit of the tenant', v_limit), 'watches');
    END IF;
    INSERT INTO muster.watches (tenant, id, agent, role, spec, shard, position)
    VALUES (tenant, v_id, agent, args ->> 'role', args -> 'spec', (args ->> 'shard')::smallint, args -> 'position');
    RETURN jsonb_build_object('ok', jsonb_build_object('watch', v_id, 'subject', (args ->> 'subject') || v_id,
                                                       'epoch', args -> 'epoch', 'seq', args -> 'seq'));
END
$$;

CREATE OR REPLACE FUNCTION muster.watch_close(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    PERFORM muster.fanout_lock(tenant);
    DELETE FROM muster.watches AS w
    WHERE w.tenant = tenant AND w.id = args ->> 'watch' AND (w.agent = agent OR (args ->> 'any')::boolean);
    IF NOT FOUND THEN
        RETURN muster.error('not_found', format('watch: %s came, the name of a watch of the caller was expected', args ->> 'watch'), 'watch');
    END IF;
    RETURN '{"ok": {}}';
END
$$;

CREATE OR REPLACE FUNCTION muster.group_join(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_limit constant bigint := muster.limit(tenant, 'group.members');
    v_counts constant muster.fanout_counts := muster.fanout_lock(tenant);
BEGIN
    IF EXISTS (SELECT FROM muster.groups AS g WHERE g.tenant = tenant AND g.name = args ->> 'group' AND g.agent = agent) THEN
        RETURN '{"ok": {}}';
    ELSIF v_limit <= v_counts.members THEN
        RETURN muster.error('resource_exhausted', format('group.members: %s is the limit of the tenant', v_limit), 'group.members');
    END IF;
    INSERT INTO muster.groups (tenant, name, agent)
    SELECT c.tenant, args ->> 'group', c.agent FROM muster.credentials AS c WHERE c.tenant = tenant AND c.agent = agent
    ON CONFLICT DO NOTHING;
    IF NOT FOUND AND NOT EXISTS (SELECT FROM muster.groups AS g
                                 WHERE g.tenant = tenant AND g.name = args ->> 'group' AND g.agent = agent) THEN
        RETURN muster.error('failed_precondition', 'group: only names of this tenant can be members');
    END IF;
    RETURN '{"ok": {}}';
END
$$;

CREATE OR REPLACE FUNCTION muster.group_leave(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    PERFORM muster.fanout_lock(tenant);
    DELETE FROM muster.groups AS g WHERE g.tenant = tenant AND g.name = args ->> 'group' AND g.agent = agent;
    RETURN '{"ok": {}}';
END
$$;

GRANT EXECUTE ON FUNCTION muster.fanout_lock(text), muster.fanout_count() TO muster_broker;

RESET ROLE;

-- ---- what sessions say of themselves: presence --------------------------------------------------------------------------------------

SET LOCAL ROLE muster_owner;

-- The caller's own session; again, it begins anew. What one says all others read: so it has bounds.
CREATE OR REPLACE FUNCTION muster.session_register(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_row public.agent_sessions;
    v_bytes constant integer := coalesce(octet_length(args ->> 'metadata'), 0);
BEGIN
    IF v_bytes > 65536 THEN
        RETURN muster.error('invalid_argument', format('metadata: %s bytes came, at most 65536 were expected', v_bytes), 'metadata');
    ELSIF args -> 'metadata' @? 'strict $.**{16} ? (@.type() == "object" || @.type() == "array")' THEN
        RETURN muster.error('invalid_argument', 'metadata: level 17 came, at most 16 levels of lists and maps were expected', 'metadata');
    END IF;
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

-- after is a variable: behind row level security only what is plain becomes a condition of the index. A page is no larger than an answer may be.
CREATE OR REPLACE FUNCTION muster.session_active(tenant text, agent text, args jsonb) RETURNS jsonb
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
        ), measured AS (
            SELECT session_id, shown, n, sum(octet_length(shown::text)) OVER (ORDER BY n) AS bytes FROM found
        ), told AS (
            SELECT session_id, shown, n FROM measured WHERE n <= v_limit AND (n = 1 OR bytes <= 900000)
        )
        SELECT jsonb_build_object('ok', jsonb_strip_nulls(jsonb_build_object('next', (
                   SELECT session_id FROM told WHERE n = (SELECT max(n) FROM told) AND n < (SELECT max(n) FROM found))))
               || jsonb_build_object('sessions', coalesce((SELECT jsonb_agg(shown ORDER BY n) FROM told), '[]'))));
END
$$;

RESET ROLE;
