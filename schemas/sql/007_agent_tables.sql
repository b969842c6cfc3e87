-- The five tables of agents in schema public, their views and functions, and row level security over
-- everything that belongs to a tenant. The policies, grants and publications stand in always.sql.
--
-- An application's own tables of these names are not adopted: their keys, owners and triggers are not
-- known here, and rows whose tenant nobody checked would be sent to agents. They are refused by name.
--
-- embedding is real[] in every database, with pgvector or without it. A column of another type where the
-- extension happens to be would make two schemas: a dump of one would not restore on a server without it,
-- and an extension that comes later would need the table rewritten. pgvector casts a vector to real[] by
-- itself, so its users write and search with vectors all the same, and an index on the cast back,
-- ((embedding::vector(1536)) vector_cosine_ops), needs no change here.
--
-- What row level security cannot hide: how many rows there are in all (pg_class, pg_stat_user_tables,
-- EXPLAIN ANALYZE's removed rows), and that advisory locks are one name space for every SQL user.

DO $$
DECLARE
    v_found text;
BEGIN
    SELECT string_agg(name, ', ' ORDER BY name) INTO v_found FROM (
        SELECT format('public.%I', relname) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace
          AND relname IN ('agent_runs', 'agent_sessions', 'agent_memories', 'agent_tasks', 'agent_events',
                          'active_sessions', 'hub_statistics', 'task_status_summary', 'agent_run_summaries')
        UNION ALL
        SELECT format('function %s', oid::regprocedure) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
          AND proname IN ('search_memories', 'get_active_agent_runs', 'delete_expired_memories')
    ) AS found (name);
    IF v_found IS NOT NULL THEN
        RAISE duplicate_table USING
            MESSAGE = format('not Muster''s, and in the way of its own: %s', v_found),
            HINT = 'Move them away, for example CREATE SCHEMA before_muster; ALTER TABLE public.agent_runs SET '
                   'SCHEMA before_muster; then run muster migrate again and copy the rows that are to stay with '
                   'INSERT INTO public.agent_runs (tenant_id, ...) SELECT ...';
    END IF;
END
$$;

-- muster_owner gets nothing in schema public but what is made here.
GRANT USAGE, CREATE ON SCHEMA public TO muster_owner;
SET LOCAL ROLE muster_owner;

-- Ids are texts that default to UUIDs; every key begins with the tenant, so that no two tenants can meet in
-- one: neither a conflict nor its absence tells of another's rows. No key refers to muster.tenants: each
-- insert would lock its row there, of which there is one a tenant for all brokers.

CREATE TABLE public.agent_sessions (
    tenant_id muster.name NOT NULL,
    id text NOT NULL DEFAULT gen_random_uuid(),
    session_id text NOT NULL,
    agent_id text NOT NULL,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'completed', 'failed')),
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, session_id)
);
CREATE INDEX agent_sessions_agent ON public.agent_sessions (tenant_id, agent_id);
CREATE INDEX agent_sessions_status ON public.agent_sessions (tenant_id, status, started_at DESC);
COMMENT ON TABLE public.agent_sessions IS 'Sessions of agents, those that have ended too.';

CREATE TABLE public.agent_memories (
    tenant_id muster.name NOT NULL,
    id text NOT NULL DEFAULT gen_random_uuid(),
    agent_id text NOT NULL,
    session_id text, -- no foreign key: what was learnt outlives the session, or comes before its row
    content text NOT NULL,
    embedding real[] CONSTRAINT embedding_has_a_direction CHECK (
        array_ndims(embedding) = 1 AND array_position(embedding, NULL) IS NULL
        AND 0 <> ANY (embedding) AND NOT embedding && '{NaN,Infinity,-Infinity}'::real[]),
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz, -- NULL: never
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX agent_memories_agent ON public.agent_memories (tenant_id, agent_id);
CREATE INDEX agent_memories_session ON public.agent_memories (tenant_id, session_id);
CREATE INDEX agent_memories_created ON public.agent_memories (tenant_id, created_at DESC);
CREATE INDEX agent_memories_expires ON public.agent_memories (expires_at) WHERE expires_at IS NOT NULL;
COMMENT ON TABLE public.agent_memories IS 'What the agents of a tenant remember and share.';
COMMENT ON COLUMN public.agent_memories.embedding IS 'Not published; searched by public.search_memories().';

CREATE TABLE public.agent_tasks (
    tenant_id muster.name NOT NULL,
    id text NOT NULL DEFAULT gen_random_uuid(),
    task_id text NOT NULL DEFAULT gen_random_uuid(),
    assigned_to text, -- NULL: not yet, or whoever has the capabilities
    assigned_by text,
    description text NOT NULL,
    priority text NOT NULL DEFAULT 'medium' CHECK (priority IN ('low', 'medium', 'high', 'critical')),
    status text NOT NULL DEFAULT 'queued'
        CHECK (status IN ('blocked', 'scheduled', 'queued', 'offered', 'running', 'input_required', 'cancelling',
                          'succeeded', 'failed', 'dead', 'cancelled', 'expired')),
    result jsonb,
    dependencies text[] NOT NULL DEFAULT '{}',
    deadline timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    completed_at timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, task_id)
);
CREATE INDEX agent_tasks_assigned_to ON public.agent_tasks (tenant_id, assigned_to);
CREATE INDEX agent_tasks_status ON public.agent_tasks (tenant_id, status, priority);
CREATE INDEX agent_tasks_created ON public.agent_tasks (tenant_id, created_at DESC);
COMMENT ON TABLE public.agent_tasks IS 'Tasks of a tenant.';

CREATE TABLE public.agent_events (
    tenant_id muster.name NOT NULL,
    id text NOT NULL DEFAULT gen_random_uuid(),
    agent_id text NOT NULL,
    event_type text NOT NULL,
    payload jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX agent_events_agent ON public.agent_events (tenant_id, agent_id);
CREATE INDEX agent_events_type ON public.agent_events (tenant_id, event_type);
CREATE INDEX agent_events_created ON public.agent_events (tenant_id, created_at DESC);
COMMENT ON TABLE public.agent_events IS 'What agents have put on record.';

CREATE TABLE public.agent_runs (
    tenant_id muster.name NOT NULL,
    id text NOT NULL DEFAULT gen_random_uuid(),
    task_id text,
    user_id text, -- the end user who sees the run
    agent_name text NOT NULL,
    agent_id text NOT NULL,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'in_progress', 'awaiting_verification', 'verification_in_progress',
                          'verification_passed', 'verification_failed', 'completed', 'failed', 'blocked',
                          'escalated_to_human', 'cancelled')),
    current_step text,
    progress_percent double precision NOT NULL DEFAULT 0 CHECK (progress_percent BETWEEN 0 AND 100),
    result jsonb,
    error text,
    metadata jsonb NOT NULL DEFAULT '{}',
    verification_attempts integer NOT NULL DEFAULT 0,
    verification_evidence jsonb NOT NULL DEFAULT '[]',
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    completed_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX agent_runs_task ON public.agent_runs (tenant_id, task_id);
CREATE INDEX agent_runs_user ON public.agent_runs (tenant_id, user_id);
CREATE INDEX agent_runs_status ON public.agent_runs (tenant_id, status);
CREATE INDEX agent_runs_started ON public.agent_runs (tenant_id, started_at DESC);
CREATE INDEX agent_runs_name ON public.agent_runs (tenant_id, agent_name);
COMMENT ON TABLE public.agent_runs IS 'Runs of agents, followed by people and programs.';

CREATE FUNCTION muster.touch() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;
CREATE TRIGGER touch BEFORE UPDATE ON public.agent_sessions FOR EACH ROW EXECUTE FUNCTION muster.touch();
CREATE TRIGGER touch BEFORE UPDATE ON public.agent_runs FOR EACH ROW EXECUTE FUNCTION muster.touch();

-- security_invoker: what a view shows is what its reader may see in the tables.

CREATE VIEW public.active_sessions WITH (security_invoker = true) AS
SELECT s.tenant_id, s.agent_id, s.session_id, s.started_at, s.metadata,
       count(m.id) AS memory_count, max(m.created_at) AS last_memory_at
FROM public.agent_sessions AS s
LEFT JOIN public.agent_memories AS m ON m.tenant_id = s.tenant_id AND m.session_id = s.session_id
WHERE s.status = 'active'
GROUP BY s.tenant_id, s.id;

CREATE VIEW public.hub_statistics WITH (security_invoker = true) AS
SELECT tenant_id, count(DISTINCT agent_id) AS total_agents, count(DISTINCT session_id) AS total_sessions,
       count(*) AS total_memories, min(created_at) AS first_memory_at, max(created_at) AS last_memory_at
FROM public.agent_memories
GROUP BY tenant_id;

CREATE VIEW public.task_status_summary WITH (security_invoker = true) AS
SELECT tenant_id, status, priority, count(*) AS task_count,
       avg(extract(epoch FROM completed_at - started_at)) AS avg_duration_seconds
FROM public.agent_tasks
GROUP BY tenant_id, status, priority;

CREATE VIEW public.agent_run_summaries WITH (security_invoker = true) AS
SELECT r.*, t.description AS task_description,
       extract(epoch FROM coalesce(r.completed_at, clock_timestamp()) - r.started_at) AS duration_seconds
FROM public.agent_runs AS r
LEFT JOIN public.agent_tasks AS t ON t.tenant_id = r.tenant_id AND t.task_id = r.task_id;

-- The functions run as their caller, under his row level security.

-- The memories of a tenant that are nearest by cosine, above the threshold. The embedding is any list of
-- numbers: real[], double precision[], numeric[], pgvector's vector, or one of their texts. One without a
-- direction is near to nothing.
CREATE FUNCTION public.search_memories(query_embedding text, query_tenant_id text, match_count integer DEFAULT 10,
                                       similarity_threshold double precision DEFAULT 0.7)
RETURNS TABLE (id text, tenant_id text, agent_id text, session_id text, content text, metadata jsonb,
               created_at timestamptz, similarity double precision)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH query AS MATERIALIZED (
        SELECT v, cardinality(v) AS n, (SELECT sqrt(sum(x * x)) FROM unnest(v) AS x) AS length
        FROM (SELECT translate(query_embedding, '[]', '{}')::double precision[]) AS one (v)
    ), found AS (
        SELECT m.id, m.tenant_id, m.agent_id, m.session_id, m.content, m.metadata, m.created_at,
               (SELECT sum(a * b) / nullif(sqrt(sum(a::double precision * a)) * query.length, 0)
                FROM unnest(m.embedding, query.v) AS pair (a, b)) AS similarity
        FROM public.agent_memories AS m CROSS JOIN query
        WHERE m.tenant_id = query_tenant_id AND cardinality(m.embedding) = query.n
          AND (m.expires_at IS NULL OR m.expires_at > clock_timestamp())
    )
    SELECT id, tenant_id, agent_id, session_id, content, metadata, created_at, similarity
    FROM found
    WHERE similarity > similarity_threshold AND similarity <> 'NaN'
    ORDER BY similarity DESC, created_at DESC, id
    LIMIT greatest(match_count, 0)
$$;
CREATE FUNCTION public.search_memories(query_embedding anyelement, query_tenant_id text, match_count integer DEFAULT 10,
                                       similarity_threshold double precision DEFAULT 0.7)
RETURNS TABLE (id text, tenant_id text, agent_id text, session_id text, content text, metadata jsonb,
               created_at timestamptz, similarity double precision)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM public.search_memories(query_embedding::text, query_tenant_id, match_count, similarity_threshold)
$$;

-- The runs of an end user that still go on, newest first.
CREATE FUNCTION public.get_active_agent_runs(p_user_id text)
RETURNS TABLE (id text, agent_name text, status text, current_step text, progress_percent double precision,
               started_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.id, r.agent_name, r.status, r.current_step, r.progress_percent, r.started_at
    FROM public.agent_runs AS r
    WHERE r.user_id = p_user_id
      AND r.status IN ('pending', 'in_progress', 'awaiting_verification', 'verification_in_progress')
    ORDER BY r.started_at DESC, r.id
$$;

-- Delete what the caller may delete and what has expired; gives the number.
CREATE FUNCTION public.delete_expired_memories() RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (
        DELETE FROM public.agent_memories WHERE expires_at <= statement_timestamp() RETURNING 1
    )
    SELECT count(*) FROM gone
$$;

-- Which role of PostgreSQL stands for which tenant. Kept here and not read from the role's name: roles belong
-- to the cluster, and one that another database has made opens nothing in this one.
CREATE TABLE muster.tenant_roles (
    tenant muster.name PRIMARY KEY REFERENCES muster.tenants ON DELETE CASCADE,
    role text COLLATE "C" NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE muster.tenant_roles IS 'The roles that `muster tenant role` has made; each sees its tenant alone.';

-- The tenants of a role: those of the tenants' roles whose rights it has. The policies ask with current_user.
CREATE FUNCTION muster.tenants_of(p_role name) RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE mine AS (
        SELECT oid FROM pg_roles WHERE rolname = p_role
        UNION
        SELECT m.roleid FROM pg_auth_members AS m JOIN mine ON m.member = mine.oid
    )
    SELECT t.tenant::text
    FROM mine
    JOIN pg_roles AS r ON r.oid = mine.oid
    JOIN muster.tenant_roles AS t ON t.role = r.rolname
    WHERE pg_has_role(p_role, r.oid, 'USAGE')
$$;

-- Everything that Muster keeps of a tenant but its entry, which takes the credentials along. Run by whoever
-- removes tenants: a superuser, or the broker, who sees one tenant's rows at a time.
CREATE FUNCTION muster.forget(p_tenant text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('app.current_tenant', p_tenant, true);
    DELETE FROM public.agent_runs WHERE tenant_id = p_tenant;
    DELETE FROM public.agent_tasks WHERE tenant_id = p_tenant;
    DELETE FROM public.agent_memories WHERE tenant_id = p_tenant;
    DELETE FROM public.agent_sessions WHERE tenant_id = p_tenant;
    DELETE FROM public.agent_events WHERE tenant_id = p_tenant;
    DELETE FROM muster.requests WHERE tenant = p_tenant;
END
$$;

-- A limit of a tenant as `muster tenant limits` has set it; NULL: none is set, what the brokers are configured
-- for holds.
CREATE FUNCTION muster.limit(p_tenant text, p_name text) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN jsonb_typeof(limits -> p_name) = 'number' THEN (limits ->> p_name)::numeric::bigint END
    FROM muster.tenants WHERE name = p_tenant
$$;

-- Every SQL user may LISTEN to a channel whose name he knows, and notices name tenants and agents: brokers
-- get them on a channel whose name only they can read. Brokers of 0.3 listen to "muster" and read everything
-- anew whatever the notice says: they are told no names.
CREATE TABLE muster.channel (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    name text NOT NULL
);
COMMENT ON TABLE muster.channel IS 'The channel of NOTIFY on which brokers hear of changes. Secret.';
INSERT INTO muster.channel (name) VALUES ('muster_' || replace(gen_random_uuid()::text, '-', ''));

CREATE FUNCTION muster.listen() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('LISTEN %I', (SELECT name FROM muster.channel));
END
$$;

CREATE OR REPLACE FUNCTION muster.tell_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_channel constant text := (SELECT name FROM muster.channel);
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
        PERFORM pg_notify(v_channel, jsonb_strip_nulls(
            CASE TG_ARGV[0]
            WHEN 'tenant' THEN jsonb_build_object('tenant', v_row -> 'name')
            WHEN 'credential' THEN jsonb_build_object('tenant', v_row -> 'tenant',
                                                      'agent', v_row -> 'agent')
            WHEN 'table' THEN jsonb_build_object('schema', v_row -> 'schema_name',
                                                 'table', v_row -> 'table_name')
            END || jsonb_build_object('kind', TG_ARGV[0], 'op', lower(TG_OP)))::text);
    END LOOP;
    IF TG_ARGV[0] <> 'credential' THEN
        PERFORM pg_notify('muster', jsonb_build_object('kind', TG_ARGV[0], 'op', 'truncate')::text);
    END IF;
    RETURN NULL;
END
$$;

-- The sweep over all tenants, which sees their rows as muster_engine does; 004 made it for its caller.
CREATE OR REPLACE FUNCTION muster.purge_requests(p_limit integer DEFAULT 10000) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH old AS (
        SELECT ctid FROM muster.requests
        WHERE created_at <= statement_timestamp() - interval '24 hours' -- stable: an index can serve it
        ORDER BY created_at LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM muster.requests WHERE ctid = ANY (ARRAY(SELECT ctid FROM old)) RETURNING 1
    )
    SELECT count(*) FROM gone
$$;

ALTER FUNCTION muster.lock_request(bigint) SET search_path = pg_catalog, pg_temp;

RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM muster_owner;
