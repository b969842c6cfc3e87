-- What must hold in every database and is not part of a dump of schemas: roles, privileges, publications.
--
-- Runs at the end of every `muster migrate`, also where no migration is pending: after a restore into a new
-- database or a new cluster PUBLIC may emit events again, roles lack attributes, publications are gone.
-- 001 to 005 did the same once; what is to hold from now on stands here. Nothing is changed that is right.
-- Policies stand here too: a dump that names a role which its new cluster lacks restores without them.

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
                     ('muster_broker', true, true), ('muster_app', true, false),
                     ('muster_tenants', false, false) -- of which every tenant's role is a member
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
-- muster.emit(), which is SECURITY DEFINER, would run as him, and row level security would bind nobody.
DO $$
DECLARE
    c_relations constant text[] := ARRAY['agent_runs', 'agent_sessions', 'agent_memories', 'agent_tasks', 'agent_events',
        'active_sessions', 'hub_statistics', 'task_status_summary', 'agent_run_summaries'];
    c_functions constant text[] := ARRAY['search_memories', 'get_active_agent_runs', 'delete_expired_memories'];
    c_engine constant text[] := ARRAY['purge_requests', 'tenants_of', 'task_due', 'task_orphans', 'task_settle', 'task_purge', 'task_tenants',
        'run_due', 'run_stuck', 'run_tiers', 'run_orphans', 'run_purge', 'event_purge',
        'help_due', 'help_looking', 'help_orphans', 'help_purge', 'help_involved'];
    v_statement text;
BEGIN
    FOR v_statement IN
        WITH s AS (SELECT oid, nspowner FROM pg_namespace WHERE nspname = 'muster'),
             super AS (SELECT oid FROM pg_roles WHERE rolsuper)
        SELECT 'ALTER SCHEMA muster OWNER TO muster_owner' FROM s WHERE nspowner IN (SELECT oid FROM super)
        UNION ALL
        SELECT format('ALTER TABLE %s OWNER TO muster_owner', c.oid::regclass)
        FROM pg_class c
        WHERE c.relkind IN ('r', 'p', 'v') AND c.relowner IN (SELECT oid FROM super)
          AND (c.relnamespace = (SELECT oid FROM s)
               OR c.relnamespace = 'public'::regnamespace AND c.relname = ANY (c_relations))
        UNION ALL
        SELECT format('ALTER DOMAIN %s OWNER TO muster_owner', t.oid::regtype)
        FROM pg_type t JOIN s ON s.oid = t.typnamespace
        WHERE t.typtype = 'd' AND t.typowner IN (SELECT oid FROM super)
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO muster_owner', p.oid::regprocedure)
        FROM pg_proc p
        WHERE p.proowner IN (SELECT oid FROM super)
          AND (p.pronamespace = (SELECT oid FROM s) AND p.proname <> ALL (c_engine)
               OR p.pronamespace = 'public'::regnamespace AND p.proname = ANY (c_functions))
        UNION ALL -- what sees every tenant's rows
        SELECT format('ALTER ROUTINE %s OWNER TO muster_engine', p.oid::regprocedure)
        FROM pg_proc p JOIN s ON s.oid = p.pronamespace
        WHERE p.proname = ANY (c_engine) AND p.proowner <> 'muster_engine'::regrole
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

-- The five tables of agents are published, agent_memories without its embedding. Nobody may write meanwhile: a
-- transaction that wrote before would be decoded as if the table were not published. A publication of all
-- tables, or of all those in public, has them already, with every column.
DO $$
DECLARE
    c_memories constant text := '(tenant_id, id, agent_id, session_id, content, metadata, created_at, expires_at)';
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['agent_runs', 'agent_sessions', 'agent_memories', 'agent_tasks', 'agent_events'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_publication_tables
                              WHERE pubname = 'muster' AND schemaname = 'public' AND tablename = v_table);
        EXECUTE format('LOCK TABLE public.%I IN SHARE ROW EXCLUSIVE MODE', v_table);
        EXECUTE format('ALTER PUBLICATION muster ADD TABLE ONLY public.%I %s', v_table,
                       CASE v_table WHEN 'agent_memories' THEN c_memories ELSE '' END);
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA public TO muster_owner, muster_engine, muster_broker, muster_app, muster_tenants;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA muster FROM PUBLIC;
-- What muster_engine owns, muster_owner cannot grant.
REVOKE EXECUTE ON FUNCTION muster.purge_requests(integer), muster.tenants_of(name), muster.task_due(text, integer, integer),
    muster.task_orphans(text, integer), muster.task_settle(text, integer), muster.task_purge(interval, integer), muster.task_tenants(),
    muster.run_due(text, integer, integer), muster.run_stuck(interval, integer), muster.run_tiers(interval[], integer), muster.run_orphans(text, integer),
    muster.run_purge(interval, integer),
    muster.event_purge(interval, integer),
    muster.help_due(text, integer, integer), muster.help_looking(integer, integer), muster.help_orphans(text, integer),
    muster.help_purge(interval, interval, integer), muster.help_involved(integer)
    FROM muster_owner;
GRANT EXECUTE ON FUNCTION muster.purge_requests(integer), muster.task_due(text, integer, integer), muster.task_orphans(text, integer),
    muster.task_settle(text, integer), muster.task_purge(interval, integer), muster.task_tenants(),
    muster.run_due(text, integer, integer), muster.run_stuck(interval, integer), muster.run_tiers(interval[], integer), muster.run_orphans(text, integer),
    muster.run_purge(interval, integer),
    muster.event_purge(interval, integer),
    muster.help_due(text, integer, integer), muster.help_looking(integer, integer), muster.help_orphans(text, integer),
    muster.help_purge(interval, interval, integer), muster.help_involved(integer) TO muster_broker;
GRANT EXECUTE ON FUNCTION muster.tenants_of(name) TO muster_tenants;

SET LOCAL ROLE muster_owner;

-- Who may do what in schema muster. PostgreSQL lets everybody execute a new function; ours are granted one
-- by one.
ALTER DEFAULT PRIVILEGES FOR ROLE muster_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT USAGE ON SCHEMA muster TO muster_engine, muster_broker;
GRANT SELECT ON muster.migrations, muster.tables, muster.channel TO muster_broker;
GRANT SELECT, INSERT, UPDATE, DELETE ON muster.tenants, muster.credentials, muster.requests TO muster_broker;
GRANT SELECT, INSERT, UPDATE, DELETE ON muster.inboxes, muster.groups, muster.watches TO muster_broker;
GRANT SELECT, INSERT, UPDATE ON muster.fanout_counts TO muster_broker;
GRANT SELECT, DELETE ON muster.tenant_roles TO muster_broker;
GRANT SELECT ON muster.tenants, muster.tenant_roles TO muster_engine;
GRANT SELECT, UPDATE, DELETE ON muster.requests TO muster_engine;
GRANT SELECT, DELETE ON muster.audit TO muster_broker;
GRANT UPDATE (claimed_until) ON muster.audit TO muster_broker;
GRANT EXECUTE ON FUNCTION
    muster.emit(text, text, text, text, jsonb),
    muster.error(text, text, text, integer),
    muster.call(text, text, text, jsonb),
    muster.lock_request(bigint),
    muster.once(text, text, text, text, bytea, text, jsonb),
    muster.admit(text, text, text),
    muster.narrowing_is_legal(text[], text),
    muster.limit(text, text),
    muster.listen(),
    muster.forget(text),
    muster.message_ack(text, text, jsonb),
    muster.message_receivers(text, text, text),
    muster.message_claim(text, text, jsonb),
    muster.message_begin(text, text, text, text, bytea, jsonb),
    muster.message_done(text, text, text, text, jsonb),
    muster.group_join(text, text, jsonb),
    muster.group_leave(text, text, jsonb),
    muster.watch_table(text, text, text),
    muster.watch_may_read(text, text, text, text),
    muster.watch_open(text, text, jsonb),
    muster.watch_close(text, text, jsonb),
    muster.fanout_lock(text), muster.fanout_count(),
    muster.record_sessions(jsonb), muster.session_shown(public.agent_sessions),
    muster.session_register(text, text, jsonb), muster.session_status(text, text, jsonb),
    muster.session_active(text, text, jsonb), muster.sessions_present(text, integer),
    muster.presence_begin(text, text, jsonb), muster.presence_done(text, text, text, text, jsonb),
    muster.purge_sessions(interval, integer)
    TO muster_broker;
GRANT EXECUTE ON FUNCTION muster.limit(text, text), muster.error(text, text, text, integer) TO muster_engine;

-- The machine of tasks. What it keeps only its functions write.
GRANT SELECT ON muster.edges TO muster_broker;
GRANT SELECT, INSERT, UPDATE ON muster.fences TO muster_broker;
GRANT SELECT, DELETE ON muster.task_history, muster.task_deps, muster.task_late, muster.task_pauses TO muster_broker;
GRANT SELECT, UPDATE, DELETE ON muster.task_late TO muster_engine;
GRANT EXECUTE ON FUNCTION
    muster.fence_raise(text, text, jsonb), muster.stamp(timestamptz), muster.instant(text), muster.wrong(text, text, text),
    muster.task_submit(text, text, jsonb), muster.task_submit_many(text, text, jsonb), muster.task_retry(text, text, jsonb),
    muster.task_give(text, text, text, text, integer, boolean, integer, text, bigint, text), muster.task_assign(text, text, jsonb),
    muster.task_accept(text, text, jsonb), muster.task_decline(text, text, jsonb),
    muster.task_progress(text, text, jsonb), muster.task_complete(text, text, jsonb), muster.task_fail(text, text, jsonb),
    muster.task_need_input(text, text, jsonb), muster.task_provide_input(text, text, jsonb), muster.task_input_failed(text, text, jsonb),
    muster.task_cancel(text, text, jsonb), muster.task_cancelled(text, text, jsonb),
    muster.task_pause(text, text, jsonb), muster.task_resume(text, text, jsonb), muster.task_unroutable(text, text, jsonb),
    muster.task_session_lost(text, text, jsonb),
    muster.task_get(text, text, jsonb), muster.task_list(text, text, jsonb), muster.task_history(text, text, jsonb),
    muster.task_stats(text, text, jsonb),
    muster.task_peek(text, bigint, bigint, text, integer), muster.task_routes(text, bigint, integer),
    muster.task_held(text, text, integer), muster.task_look(text, text[]), muster.task_labels(jsonb),
    muster.task_unheard(text, text, bigint, bigint, text, integer),
    muster.task_over(text), muster.task_not_found(text), muster.task_shown(public.agent_tasks), muster.task_rest(public.agent_tasks),
    muster.task_shown_within(public.agent_tasks, integer),
    muster.task_told(text, jsonb, text, bigint, integer, integer, integer, text, text, text, text[], jsonb, text[], jsonb, text, text, text, text,
                     timestamptz, timestamptz, timestamptz, bigint, bigint, double precision, text, jsonb, jsonb, jsonb, jsonb, text, boolean),
    muster.task_head(text, text, text, text, text, text)
    TO muster_broker;
GRANT EXECUTE ON FUNCTION muster.task_fire(text, text, text), muster.task_session_lost(text, text, jsonb),
    muster.task_settle_one(text, text, text, integer), muster.session_over(public.agent_sessions, text, timestamptz) TO muster_engine;

-- The machine of runs, and what agents put on record.
GRANT SELECT, DELETE ON muster.run_history, muster.run_ends TO muster_broker;
GRANT SELECT, UPDATE, DELETE ON muster.run_ends TO muster_engine;
GRANT EXECUTE ON FUNCTION
    muster.run_start(text, text, jsonb), muster.run_progress(text, text, jsonb), muster.run_status(text, text, jsonb), muster.run_complete(text, text, jsonb),
    muster.run_fail(text, text, jsonb), muster.run_escalate(text, text, jsonb), muster.run_retry(text, text, jsonb), muster.run_cancel(text, text, jsonb),
    muster.run_verification(text, text, jsonb), muster.run_session_lost(text, text, jsonb),
    muster.run_get(text, text, jsonb), muster.run_list(text, text, jsonb), muster.run_history(text, text, jsonb), muster.run_summary(text, text, jsonb),
    muster.run_export(text, text, jsonb), muster.event_append(text, text, jsonb), muster.event_list(text, text, jsonb),
    muster.run_where(text, jsonb), muster.run_behind(text, text, text, text), muster.run_inner(public.agent_runs), muster.run_within(public.agent_runs, integer),
    muster.run_csv(public.agent_runs, text[]),
    muster.csv(text), muster.run_not_found(text)
    TO muster_broker;
GRANT EXECUTE ON FUNCTION muster.run_fire(text, text, text), muster.run_end_with(text, text, text), muster.run_session_lost(text, text, jsonb),
    muster.run_watch(text, text, timestamptz, boolean), muster.run_tier(text, text, interval[]), muster.run_late(text, text), muster.run_unbound(),
    muster.run_gone(integer) TO muster_engine;

-- The machine of help requests.
GRANT SELECT, DELETE ON muster.help, muster.help_experts, muster.help_history, muster.help_marks, muster.help_trust TO muster_broker;
GRANT SELECT, UPDATE, DELETE ON muster.help, muster.help_experts, muster.help_history, muster.help_marks, muster.help_trust TO muster_engine;
GRANT EXECUTE ON FUNCTION
    muster.help_request(text, text, jsonb), muster.help_offer(text, text, jsonb), muster.help_claim(text, text, jsonb),
    muster.help_decline(text, text, jsonb), muster.help_answer(text, text, jsonb), muster.help_knowledge(text, text, jsonb),
    muster.help_accept(text, text, jsonb), muster.help_reject(text, text, jsonb), muster.help_escalate(text, text, jsonb),
    muster.help_resolve(text, text, jsonb), muster.help_withdraw(text, text, jsonb), muster.help_retry(text, text, jsonb), muster.help_session_lost(text, text, jsonb),
    muster.help_get(text, text, jsonb), muster.help_list(text, text, jsonb), muster.help_history(text, text, jsonb),
    muster.help_stats(text, text, jsonb), muster.help_not_found(text), muster.help_inner(muster.help), muster.help_within(muster.help), muster.help_said(muster.help_experts)
    TO muster_broker;
GRANT EXECUTE ON FUNCTION muster.help_fire(text, text, text), muster.help_session_lost(text, text, jsonb),
    muster.help_task_over(text, text, text), muster.help_wants(muster.help) TO muster_engine;

-- Who may do what with the five tables. A tenant's own role can be in the hands of untrusted code: it gets
-- UPDATE by columns and no DELETE, because either right on a whole table is a right to LOCK it for everybody.
GRANT SELECT, INSERT, UPDATE, DELETE
    ON public.agent_runs, public.agent_sessions, public.agent_memories, public.agent_tasks, public.agent_events
    TO muster_broker, muster_app, muster_engine;
DO $$
BEGIN
    IF has_table_privilege('muster_tenants', 'public.agent_sessions', 'INSERT') THEN -- as 0.4 granted it
        REVOKE INSERT ON public.agent_sessions FROM muster_tenants;
    END IF;
    IF has_column_privilege('muster_tenants', 'public.agent_sessions', 'agent_id', 'UPDATE') THEN -- as 0.5.0 granted it
        REVOKE UPDATE (agent_id, started_at) ON public.agent_sessions FROM muster_tenants;
    END IF;
END
$$;
GRANT SELECT, INSERT ON public.agent_runs, public.agent_memories, public.agent_tasks, public.agent_events TO muster_tenants;
GRANT SELECT, INSERT (tenant_id, id, session_id, agent_id, status, started_at, ended_at, metadata, created_at, updated_at)
    ON public.agent_sessions TO muster_tenants; -- the rest is for brokers: who is in the roster
GRANT UPDATE (task_id, user_id, agent_name, agent_id, status, current_step, progress_percent, result, error, metadata,
              verification_attempts, verification_evidence, started_at, completed_at, updated_at)
    ON public.agent_runs TO muster_tenants;
-- Whose session it is stays as it was inserted; of one in the roster brokers alone say how it is (policy below).
GRANT UPDATE (status, ended_at, metadata) ON public.agent_sessions TO muster_tenants;
GRANT UPDATE (agent_id, session_id, content, embedding, metadata, expires_at) ON public.agent_memories TO muster_tenants;
GRANT UPDATE (assigned_to, assigned_by, description, priority, status, result, dependencies, deadline, started_at,
              completed_at, metadata)
    ON public.agent_tasks TO muster_tenants;
GRANT SELECT ON public.active_sessions, public.hub_statistics, public.task_status_summary, public.agent_run_summaries
    TO muster_broker, muster_app, muster_tenants, muster_engine;
REVOKE EXECUTE ON FUNCTION
    public.search_memories(text, text, integer, double precision),
    public.search_memories(anyelement, text, integer, double precision),
    public.get_active_agent_runs(text),
    public.delete_expired_memories()
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    public.search_memories(text, text, integer, double precision),
    public.search_memories(anyelement, text, integer, double precision),
    public.get_active_agent_runs(text)
    TO muster_broker, muster_app, muster_tenants, muster_engine;
GRANT EXECUTE ON FUNCTION public.delete_expired_memories() TO muster_broker, muster_app, muster_engine;

-- A dump without what is secret has none.
INSERT INTO muster.channel (name) VALUES ('muster_' || replace(gen_random_uuid()::text, '-', ''))
ON CONFLICT (one) DO NOTHING;

-- How cdc routes them: as `muster publish` would have been told, and may be told otherwise.
INSERT INTO muster.tables (schema_name, table_name, tenant_column, owner_column)
VALUES ('public', 'agent_runs', 'tenant_id', 'user_id'), ('public', 'agent_sessions', 'tenant_id', NULL),
       ('public', 'agent_memories', 'tenant_id', NULL), ('public', 'agent_tasks', 'tenant_id', NULL),
       ('public', 'agent_events', 'tenant_id', NULL)
ON CONFLICT (schema_name, table_name) DO NOTHING;

-- Row level security, for the owner too. In the five tables muster_engine alone sees every tenant's rows; all
-- others see one tenant's: that of the setting, which brokers set from the subject for each statement and
-- which muster_app is trusted to set, or those of the role they are or are members of, whatever the setting.
-- In the registry a broker sees everything while it serves nobody, and one tenant's rows while it serves one. So does
-- muster_owner, whose members administer tenants and publish tables for them.
-- What was done to tenants and names is written by triggers of muster_owner, who cannot read it.
DO $$
DECLARE
    c_one constant text := '%1$I = current_setting(''app.current_tenant'', true)';
    c_all_or_one constant text := 'coalesce(current_setting(''app.current_tenant'', true), '''') IN ('''', %1$I)';
    c_role constant text := '%1$I = ANY (ARRAY(SELECT muster.tenants_of(current_user)))';
    v record;
BEGIN
    FOR v IN
        WITH agent (name) AS (VALUES ('public.agent_runs'), ('public.agent_sessions'), ('public.agent_memories'),
                                     ('public.agent_tasks'), ('public.agent_events')),
             policy (name, tbl, command, roles, expression) AS (
            SELECT p.name, a.name, 'ALL', p.roles, format(p.expression, 'tenant_id')
            FROM agent AS a, (VALUES ('engine', 'muster_engine', 'true'), ('setting', 'muster_broker, muster_app, muster_owner', c_one),
                                     ('role', 'muster_tenants', c_role)) AS p (name, roles, expression)
            UNION ALL VALUES
                ('engine', 'muster.requests', 'ALL', 'muster_engine', 'true'),
                ('setting', 'muster.requests', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('setting', 'muster.inboxes', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('setting', 'muster.groups', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('setting', 'muster.task_history', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('setting', 'muster.task_deps', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('engine', 'muster.task_late', 'ALL', 'muster_engine', 'true'),
                ('setting', 'muster.task_late', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('engine', 'muster.help', 'ALL', 'muster_engine', 'true'),
                ('setting', 'muster.help', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('engine', 'muster.help_experts', 'ALL', 'muster_engine', 'true'),
                ('setting', 'muster.help_experts', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('engine', 'muster.help_history', 'ALL', 'muster_engine', 'true'),
                ('setting', 'muster.help_history', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('engine', 'muster.help_marks', 'ALL', 'muster_engine', 'true'),
                ('setting', 'muster.help_marks', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('engine', 'muster.help_trust', 'ALL', 'muster_engine', 'true'),
                ('setting', 'muster.help_trust', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('setting', 'muster.task_pauses', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('setting', 'muster.run_history', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('engine', 'muster.run_ends', 'ALL', 'muster_engine', 'true'),
                ('setting', 'muster.run_ends', 'ALL', 'muster_broker, muster_owner', format(c_one, 'tenant')),
                ('broker', 'muster.watches', 'ALL', 'muster_broker, muster_owner', format(c_all_or_one, 'tenant')),
                ('broker', 'muster.fanout_counts', 'ALL', 'muster_broker, muster_owner', format(c_all_or_one, 'tenant')),
                ('engine', 'muster.tenants', 'ALL', 'muster_engine', 'true'),
                ('broker', 'muster.tenants', 'ALL', 'muster_broker, muster_owner', format(c_all_or_one, 'name')),
                ('broker', 'muster.credentials', 'ALL', 'muster_broker, muster_owner', format(c_all_or_one, 'tenant')),
                ('engine', 'muster.tenant_roles', 'ALL', 'muster_engine', 'true'),
                ('broker', 'muster.tenant_roles', 'ALL', 'muster_broker, muster_owner', format(c_all_or_one, 'tenant')),
                ('broker', 'muster.audit', 'ALL', 'muster_broker', format(c_all_or_one, 'tenant')),
                ('triggers', 'muster.audit', 'INSERT', 'muster_owner', 'true'))
        SELECT policy.*, c.oid::regclass AS relation, c.relrowsecurity AND c.relforcerowsecurity AS forced,
               EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = policy.name) AS there
        FROM policy JOIN pg_class AS c ON c.oid = policy.tbl::regclass
    LOOP
        IF NOT v.forced THEN
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', v.relation);
        END IF;
        IF NOT v.there THEN
            EXECUTE format('CREATE POLICY %I ON %s FOR %s TO %s %s (%s)', v.name, v.relation, v.command, v.roles,
                           CASE v.command WHEN 'INSERT' THEN 'WITH CHECK' ELSE 'USING' END, v.expression);
        END IF;
    END LOOP;
END
$$;

-- A session in the roster is its broker's until it has ended: a tenant's role cannot have it end, or say another thing of it.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = 'public.agent_sessions'::regclass AND polname = 'roster') THEN
        CREATE POLICY roster ON public.agent_sessions AS RESTRICTIVE FOR UPDATE TO muster_tenants USING (state IS NULL);
    END IF;
END
$$;

-- Who serves one end user says so by app.current_user_id: of runs, and what is made of them, the user's own are seen and written then. It can only
-- take away; without it a tenant's runs are all of the tenant's.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = 'public.agent_runs'::regclass AND polname = 'user') THEN
        CREATE POLICY "user" ON public.agent_runs AS RESTRICTIVE FOR ALL TO muster_app, muster_tenants
        USING (coalesce(current_setting('app.current_user_id', true), '') IN ('', user_id));
    END IF;
END
$$;
