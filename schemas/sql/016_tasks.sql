-- The machine of tasks. 015 says how machines are made; a plugin calls these functions and keeps no truth of its own.
--
-- args of the verbs are the bodies of the service task as they came, with what the plugin adds: role (of the caller:
-- admin and operator stand for the owner, human too where input is given). Whose task it is says assigned_by.
-- COLLATE "default": of what is compared with agent_tasks.task_id. Names have "C", which a function's arguments all take
-- from the first that has it, and the key of the tasks would serve none of them.
-- plan_cache_mode: a plan costs hundreds of times what it does, and would be made anew where arguments are NULL or not.
-- attempt counts tries: an offer that is not taken, a decline and a crash give theirs back; crashes are counted apart.

GRANT CREATE ON SCHEMA public TO muster_owner; -- for the indexes
SET LOCAL ROLE muster_owner;

ALTER TABLE public.agent_tasks
    ADD COLUMN payload jsonb,
    ADD COLUMN capabilities text[] NOT NULL DEFAULT '{}', -- sorted
    ADD COLUMN labels jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN wanted text,      -- whom the submitter named; assigned_to is also who holds it
    ADD COLUMN group_key text,   -- tasks of one group go to one agent, where that can be
    ADD COLUMN start_by timestamptz,
    ADD COLUMN run_after timestamptz,
    ADD COLUMN on_parent_failure text NOT NULL DEFAULT 'cancel', -- or run
    ADD COLUMN parent_id text,
    ADD COLUMN max_attempts integer NOT NULL DEFAULT 3,
    ADD COLUMN timeout_ms bigint,
    ADD COLUMN progress_timeout_ms bigint,
    ADD COLUMN retry_of text,
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0,
    ADD COLUMN seq integer NOT NULL DEFAULT 0,   -- of the last row in muster.task_history
    ADD COLUMN attempt integer NOT NULL DEFAULT 0,
    ADD COLUMN crashes integer NOT NULL DEFAULT 0,
    ADD COLUMN crashed text[] NOT NULL DEFAULT '{}',  -- on whom
    ADD COLUMN excluded text[] NOT NULL DEFAULT '{}', -- who is not asked again
    ADD COLUMN session_id text,  -- of the holder
    ADD COLUMN route bigint NOT NULL DEFAULT 0, -- of what decides who can do it; 0: anybody
    ADD COLUMN pos bigint NOT NULL DEFAULT 0,   -- in the queue of its route; 0: where it is queued next is the end
    -- The clock of the state: end of the pause of scheduled, of an offer, of a run, of the grace of cancelling.
    ADD COLUMN until timestamptz,
    ADD COLUMN progress_until timestamptz,
    ADD COLUMN run_left interval, -- of the run while it waits for input
    ADD COLUMN wake_at timestamptz, -- when the sweeper has to look; NULL: never
    ADD COLUMN blocked_on integer NOT NULL DEFAULT 0,
    ADD COLUMN followed boolean NOT NULL DEFAULT false, -- it has dependents or children
    ADD COLUMN settled boolean NOT NULL DEFAULT true,   -- false: they are not told yet
    ADD COLUMN unroutable boolean NOT NULL DEFAULT false,
    ADD COLUMN progressed boolean NOT NULL DEFAULT false,
    ADD COLUMN percent double precision,
    ADD COLUMN step text,
    ADD COLUMN error jsonb,
    ADD COLUMN question jsonb,
    ADD COLUMN input jsonb,
    ADD COLUMN reason text, -- of its end, or of its cancelling
    ADD COLUMN updated_at timestamptz NOT NULL DEFAULT clock_timestamp();

-- What a CHECK says is parsed again by every statement. The states are the machine's to keep, and the functions and the
-- trigger look at the other words.
ALTER TABLE public.agent_tasks DROP CONSTRAINT agent_tasks_status_check, DROP CONSTRAINT agent_tasks_priority_check;

-- Each index costs an entry at every change of state. Those of 007 on status and assigned_to make way for ones that
-- only live or only ended tasks are in; none begins like the unique key with more than the tenant, so that a planner
-- without statistics takes the key for one task.
DROP INDEX public.agent_tasks_assigned_to, public.agent_tasks_status;
CREATE INDEX agent_tasks_queue ON public.agent_tasks (tenant_id, route, pos, task_id) WHERE status = 'queued';
CREATE INDEX agent_tasks_live ON public.agent_tasks (tenant_id, status, assigned_to)
    WHERE status IN ('blocked', 'scheduled', 'offered', 'running', 'input_required', 'cancelling');
CREATE INDEX agent_tasks_ended ON public.agent_tasks (tenant_id, status, completed_at)
    WHERE status IN ('succeeded', 'failed', 'dead', 'cancelled', 'expired');
CREATE INDEX agent_tasks_wake ON public.agent_tasks (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX agent_tasks_parent ON public.agent_tasks (tenant_id, parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX agent_tasks_unsettled ON public.agent_tasks (tenant_id, task_id) WHERE NOT settled;
-- Of indexes that cost the same, as all do in an empty table, the planner takes the youngest: that has to be the key.
ALTER TABLE public.agent_tasks DROP CONSTRAINT agent_tasks_tenant_id_task_id_key;
ALTER TABLE public.agent_tasks ADD CONSTRAINT agent_tasks_tenant_id_task_id_key UNIQUE (tenant_id, task_id);
ALTER TABLE public.agent_tasks SET (fillfactor = 85); -- progress is written in place

CREATE TABLE muster.task_history (
    tenant text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    seq integer NOT NULL,
    at timestamptz NOT NULL,
    from_state text NOT NULL, -- '': it was made
    to_state text NOT NULL,
    epoch bigint NOT NULL,
    holder text, -- who holds it from then on; NULL: nobody
    actor text,
    role text NOT NULL, -- as what the actor did it: holder, owner, admin, human, engine, sql
    verb text NOT NULL,
    reason text,
    detail jsonb,
    PRIMARY KEY (tenant, task_id, seq)
);
COMMENT ON TABLE muster.task_history IS 'Every change of state of every task; goes with its task.';

CREATE TABLE muster.task_deps (
    tenant text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    parent text COLLATE "C" NOT NULL,
    met boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant, task_id, parent)
);
CREATE INDEX task_deps_parent ON muster.task_deps (tenant, parent) WHERE NOT met;
COMMENT ON TABLE muster.task_deps IS 'Which task waits for which.';

CREATE TABLE muster.task_late (
    tenant text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    agent text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    verb text NOT NULL, -- complete or fail
    epoch bigint,       -- as it came
    body jsonb,
    PRIMARY KEY (tenant, task_id, agent) -- the last of each
);
CREATE INDEX task_late_at ON muster.task_late (at);
COMMENT ON TABLE muster.task_late IS 'Results that came when their task was another''s already, kept for 24 hours.';

CREATE TABLE muster.task_pauses (
    tenant muster.name PRIMARY KEY,
    agent text,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE muster.task_pauses IS 'Tenants whose queue is paused: nothing is assigned.';

INSERT INTO muster.edges (machine, verb, from_state, to_state, who, epoch_up, attempt, crash, plain)
SELECT 'task', verb, from_state, to_state, who, epoch_up, attempt, crash, plain FROM (VALUES
    ('submit',           '',               'blocked',        '{any}'::text[],        false, 0,  false, true),
    ('submit',           '',               'scheduled',      '{any}',                false, 0,  false, true),
    ('submit',           '',               'queued',         '{any}',                false, 0,  false, true),
    ('unblock',          'blocked',        'queued',         '{engine}',             false, 0,  false, true),
    ('unblock',          'blocked',        'scheduled',      '{engine}',             false, 0,  false, true),
    ('parent_failed',    'blocked',        'cancelled',      '{engine}',             false, 0,  false, false),
    ('wake',             'scheduled',      'queued',         '{engine}',             false, 0,  false, true),
    ('offer',            'queued',         'offered',        '{engine}',             true,  1,  false, true),
    ('accept',           'offered',        'running',        '{holder}',             false, 0,  false, true),
    ('decline',          'offered',        'queued',         '{holder}',             false, -1, false, false),
    ('decline',          'running',        'queued',         '{holder}',             false, -1, false, true),
    ('offer_timeout',    'offered',        'queued',         '{engine}',             false, -1, false, true),
    ('session_lost',     'offered',        'queued',         '{engine}',             false, -1, false, false),
    ('session_lost',     'running',        'scheduled',      '{engine}',             false, -1, true,  false),
    ('session_lost',     'running',        'dead',           '{engine}',             false, -1, true,  false),
    ('session_lost',     'cancelling',     'cancelled',      '{engine}',             true,  0,  false, false),
    ('complete',         'running',        'succeeded',      '{holder}',             false, 0,  false, true),
    ('fail',             'running',        'scheduled',      '{holder}',             false, 0,  false, true),
    ('fail',             'running',        'failed',         '{holder}',             false, 0,  false, true),
    ('fail',             'running',        'dead',           '{holder}',             false, 0,  false, true),
    ('run_timeout',      'running',        'scheduled',      '{engine}',             false, 0,  false, false),
    ('run_timeout',      'running',        'dead',           '{engine}',             false, 0,  false, false),
    ('progress_timeout', 'running',        'scheduled',      '{engine}',             false, 0,  false, false),
    ('progress_timeout', 'running',        'dead',           '{engine}',             false, 0,  false, false),
    ('need_input',       'running',        'input_required', '{holder}',             false, 0,  false, true),
    ('provide_input',    'input_required', 'running',        '{owner,admin,human}',  true,  0,  false, true),
    ('provide_input',    'input_required', 'queued',         '{owner,admin,human}',  false, -1, false, true),
    ('input_failed',     'input_required', 'scheduled',      '{engine}',             false, 0,  false, true),
    ('input_failed',     'input_required', 'failed',         '{engine}',             false, 0,  false, true),
    ('cancel',           'blocked',        'cancelled',      '{owner,admin,engine}', false, 0,  false, true),
    ('cancel',           'scheduled',      'cancelled',      '{owner,admin,engine}', false, 0,  false, true),
    ('cancel',           'queued',         'cancelled',      '{owner,admin,engine}', false, 0,  false, true),
    ('cancel',           'offered',        'cancelled',      '{owner,admin,engine}', false, 0,  false, true),
    ('cancel',           'input_required', 'cancelled',      '{owner,admin,engine}', false, 0,  false, true),
    ('cancel',           'running',        'cancelling',     '{owner,admin,engine}', false, 0,  false, true),
    ('cancelled',        'cancelling',     'cancelled',      '{holder}',             true,  0,  false, true),
    ('grace_over',       'cancelling',     'cancelled',      '{engine}',             true,  0,  false, false),
    ('expire',           'blocked',        'expired',        '{engine}',             true,  0,  false, true),
    ('expire',           'scheduled',      'expired',        '{engine}',             true,  0,  false, true),
    ('expire',           'queued',         'expired',        '{engine}',             true,  0,  false, true),
    ('expire',           'offered',        'expired',        '{engine}',             true,  0,  false, true),
    ('expire',           'running',        'expired',        '{engine}',             true,  0,  false, true),
    ('expire',           'input_required', 'expired',        '{engine}',             true,  0,  false, true),
    ('expire',           'cancelling',     'expired',        '{engine}',             true,  0,  false, true)
) AS e (verb, from_state, to_state, who, epoch_up, attempt, crash, plain);
-- What stood in the table before it had a machine.
INSERT INTO muster.edges (machine, verb, from_state, to_state, who)
SELECT 'task', 'import', '', state, '{engine}'
FROM unnest('{blocked,scheduled,queued,offered,running,input_required,cancelling,succeeded,failed,dead,cancelled,expired}'::text[]) AS s (state);


-- Small things. Those with RETURN become part of the statement that calls them.

CREATE FUNCTION muster.task_over(p_state text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_state IN ('succeeded', 'failed', 'dead', 'cancelled', 'expired');

CREATE FUNCTION muster.task_rank(p_priority text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE p_priority WHEN 'low' THEN 0 WHEN 'medium' THEN 1 WHEN 'high' THEN 2 ELSE 3 END;

-- Where it stands in the queue: one FIFO in which a priority is a start of 60 s over the next lower one. So the
-- higher goes first, and nothing that comes later than three such starts overtakes anything.
CREATE FUNCTION muster.task_pos(p_at timestamptz, p_priority text) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (extract(epoch FROM p_at) * 1000000)::bigint - muster.task_rank(p_priority) * 60000000;

CREATE FUNCTION muster.task_route(p_wanted text, p_capabilities text[], p_labels jsonb, p_group text) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN p_wanted IS NULL AND p_group IS NULL AND p_capabilities = '{}' AND p_labels = '{}' THEN 0
            ELSE hashtextextended(jsonb_build_array(p_wanted, p_capabilities, p_labels, p_group)::text, 0) END;

CREATE FUNCTION muster.task_wake(p_state text, p_until timestamptz, p_progress_until timestamptz, p_deadline timestamptz,
                                 p_start_by timestamptz, p_started_at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN NOT muster.task_over(p_state) THEN
    least(p_until, p_progress_until, p_deadline, CASE WHEN p_started_at IS NULL THEN p_start_by END) END;

-- The pause before the next try: twice as long each time, at most five minutes, not the same for all.
CREATE FUNCTION muster.task_delay(p_n integer) RETURNS interval
LANGUAGE sql VOLATILE
RETURN interval '1 second' * (least(300, 2 ^ least(greatest(p_n, 0), 20)) * (0.5 + random() / 2));

-- A task as `get` shows it is head + rest + '}', an event's body has from and at in addition. What is not set is not
-- there. The head is what differs between two events of one statement; its id and times are JSON and stamps already, since each is said several
-- times. Text, since it goes into the WAL as text.
CREATE FUNCTION muster.task_head(p_id text, p_state text, p_created_at text, p_started_at text, p_completed_at text, p_updated_at text) RETURNS text
LANGUAGE sql STABLE
RETURN concat('{"task_id":', p_id, ',"state":"', p_state, '","created_at":"', p_created_at, '","updated_at":"', p_updated_at, '"',
              ',"started_at":"' || p_started_at || '"', ',"completed_at":"' || p_completed_at || '"');

CREATE FUNCTION muster.task_told(description text, payload jsonb, priority text, epoch bigint, attempt integer, max_attempts integer, crashes integer,
                                 assigned_to text, assigned_by text, wanted text, capabilities text[], labels jsonb, dependencies text[],
                                 metadata jsonb, on_parent_failure text, group_key text, parent_id text, retry_of text, deadline timestamptz,
                                 start_by timestamptz, run_after timestamptz, timeout_ms bigint, progress_timeout_ms bigint,
                                 percent double precision, step text, question jsonb, input jsonb, result jsonb, error jsonb, reason text,
                                 unroutable boolean) RETURNS text
LANGUAGE sql STABLE
RETURN concat(',"description":', to_json(description), ',"payload":' || payload::text,
              ',"priority":"', priority, '","epoch":', epoch, ',"attempt":', attempt,
              ',"max_attempts":', max_attempts, ',"crashes":', crashes,
              ',"assigned_to":' || to_json(assigned_to)::text, ',"assigned_by":' || to_json(assigned_by)::text,
              ',"wanted":' || to_json(wanted)::text,
              CASE WHEN capabilities <> '{}' THEN ',"capabilities":' || to_json(capabilities)::text END,
              CASE WHEN labels <> '{}' THEN ',"labels":' || labels::text END,
              ',"dependencies":', to_json(dependencies), ',"metadata":', metadata,
              CASE WHEN dependencies <> '{}' THEN ',"on_parent_failure":"' || on_parent_failure || '"' END,
              ',"group":' || to_json(group_key)::text, ',"parent":' || to_json(parent_id)::text,
              ',"retry_of":' || to_json(retry_of)::text,
              ',"deadline":"' || muster.stamp(deadline) || '"', ',"start_by":"' || muster.stamp(start_by) || '"',
              ',"run_after":"' || muster.stamp(run_after) || '"', ',"timeout_ms":' || timeout_ms,
              ',"progress_timeout_ms":' || progress_timeout_ms,
              ',"percent":' || percent, ',"step":' || to_json(step)::text,
              ',"question":' || question::text, ',"input":' || input::text,
              ',"result":' || result::text, ',"error":' || error::text, ',"reason":' || to_json(reason)::text,
              CASE WHEN unroutable THEN ',"unroutable":true' END);

CREATE FUNCTION muster.task_rest(t public.agent_tasks) RETURNS text
LANGUAGE sql STABLE
RETURN muster.task_told((t).description, (t).payload, (t).priority, (t).epoch, (t).attempt, (t).max_attempts, (t).crashes, (t).assigned_to,
                        (t).assigned_by, (t).wanted, (t).capabilities, (t).labels, (t).dependencies, (t).metadata, (t).on_parent_failure,
                        (t).group_key, (t).parent_id, (t).retry_of, (t).deadline, (t).start_by, (t).run_after, (t).timeout_ms,
                        (t).progress_timeout_ms, (t).percent, (t).step, (t).question, (t).input, (t).result, (t).error, (t).reason,
                        (t).unroutable);

CREATE FUNCTION muster.task_shown(t public.agent_tasks) RETURNS text
LANGUAGE sql STABLE
RETURN concat(muster.task_head(to_json((t).task_id)::text, (t).status, muster.stamp((t).created_at), muster.stamp((t).started_at),
                               muster.stamp((t).completed_at), muster.stamp((t).updated_at)), muster.task_rest(t), '}');

-- The same content that muster.emit() makes of it, built once.
CREATE FUNCTION muster.task_tell(p_tenant text, p_id text, p_event text, p_head text, p_rest text, p_from text, p_at text) RETURNS pg_lsn
LANGUAGE sql VOLATILE
RETURN pg_logical_emit_message(true, 'muster.evt', convert_to(concat(
    '{"tenant":"', p_tenant, '","service":"task","event":"', p_event, '","key":', p_id, ',"body":', p_head,
    p_rest, ',"from":"', p_from, '","at":"', p_at, '"}}'), 'UTF8'));

-- Brokers decode no more than 1,000,000 bytes: the long ones of what an event tells are left to `get`. The holder is told his input by it.
CREATE FUNCTION muster.task_rest_short(t public.agent_tasks) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_omitted text := '"payload","result","question","error","metadata","labels","capabilities","dependencies"';
BEGIN
    IF octet_length(t.input::text) > 800000 OR t.status <> 'running' THEN
        t.input := NULL;
        v_omitted := v_omitted || ',"input"';
    END IF;
    t.payload := NULL;
    t.result := NULL;
    t.question := NULL;
    t.error := NULL;
    t.metadata := '{}';
    t.labels := '{}';
    t.capabilities := '{}';
    t.dependencies := '{}';
    t.description := left(t.description, 10000);
    t.step := left(t.step, 1000);
    t.reason := left(t.reason, 1000);
    RETURN muster.task_rest(t) || ',"omitted":[' || v_omitted || ']';
END
$$;

CREATE FUNCTION muster.task_not_found(p_task_id text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN muster.error('not_found', format('task_id: there is no task %s', coalesce(left(p_task_id, 100), 'without an id')), 'task_id');

CREATE FUNCTION muster.task_refusal(p_task_id text, p_state text, p_verb text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN muster.error('failed_precondition', format('task_id: task %s is %s, which has no %s', left(p_task_id, 100), p_state, p_verb), 'task_id');


-- The machine.

-- A row after an edge. What the verb says of it (who is asked, how long, results) is in it already.
CREATE FUNCTION muster.task_apply(t public.agent_tasks, e muster.edges, p_now timestamptz) RETURNS public.agent_tasks
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    t.status := e.to_state;
    t.seq := t.seq + 1;
    t.updated_at := p_now;
    t.attempt := greatest(t.attempt + e.attempt, 0);
    IF e.epoch_up THEN
        t.epoch := t.epoch + 1;
    END IF;
    IF e.crash THEN
        t.crashes := t.crashes + 1;
        IF t.assigned_to <> ALL (t.crashed) THEN
            t.crashed := t.crashed || t.assigned_to;
        END IF;
    END IF;
    IF e.to_state IN ('queued', 'scheduled') THEN
        t.assigned_to := t.wanted;
        t.session_id := NULL;
        t.unroutable := false;
        t.run_left := NULL;
        IF e.from_state IN ('offered', 'running') AND t.attempt = 0 AND t.crashes = 0 THEN
            t.started_at := NULL; -- it never began: start_by holds again
        END IF;
    END IF;
    t.progress_until := NULL;
    CASE e.to_state
    WHEN 'queued' THEN
        t.until := NULL;
        IF t.pos = 0 THEN
            t.pos := muster.task_pos(p_now, t.priority);
        END IF;
    WHEN 'scheduled' THEN
        IF NOT e.crash THEN
            t.pos := 0;
        END IF;
    WHEN 'offered' THEN
        t.percent := NULL;
        t.step := NULL;
        t.progressed := false;
        t.unroutable := false;
    WHEN 'running' THEN
        t.started_at := coalesce(t.started_at, p_now);
        t.until := p_now + coalesce(t.run_left, t.timeout_ms * interval '1 millisecond');
        t.progress_until := p_now + t.progress_timeout_ms * interval '1 millisecond';
        t.run_left := NULL;
    WHEN 'input_required' THEN
        t.run_left := CASE WHEN t.until IS NOT NULL THEN greatest(t.until - p_now, interval '0') END;
        t.until := NULL;
    WHEN 'cancelling' THEN
        t.until := p_now + interval '30 seconds';
        t.settled := NOT t.followed; -- children are cancelled with it
    WHEN 'blocked' THEN
        t.until := NULL;
    ELSE
        t.until := NULL;
        t.completed_at := p_now;
        t.settled := NOT t.followed;
    END CASE;
    t.wake_at := muster.task_wake(t.status, t.until, t.progress_until, t.deadline, t.start_by, t.started_at);
    RETURN t;
END
$$;

-- History and event of a change that is in the row.
CREATE FUNCTION muster.task_record(t public.agent_tasks, p_from text, p_actor text, p_role text, p_verb text,
                                   p_reason text, p_detail jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_rest text := muster.task_rest(t);
    v_id constant text := to_json(t.task_id);
    v_at constant text := muster.stamp(t.updated_at);
    v_lsn pg_lsn;
BEGIN
    INSERT INTO muster.task_history (tenant, task_id, seq, at, from_state, to_state, epoch, holder, actor, role, verb, reason, detail)
    VALUES (t.tenant_id, t.task_id, t.seq, t.updated_at, p_from, t.status, t.epoch,
            CASE WHEN t.status IN ('offered', 'running', 'input_required', 'cancelling') THEN t.assigned_to END,
            p_actor, p_role, p_verb, p_reason, p_detail);
    IF octet_length(v_rest) > 900000 THEN
        v_rest := muster.task_rest_short(t);
    END IF;
    v_lsn := muster.task_tell(t.tenant_id, v_id, t.status,
                              muster.task_head(v_id, t.status, muster.stamp(t.created_at), muster.stamp(t.started_at), muster.stamp(t.completed_at), v_at),
                              v_rest, p_from, v_at);
    IF t.status IN ('cancelled', 'expired') THEN
        PERFORM muster.run_task_over(t.tenant_id, t.task_id, t.status); -- of 018: its runs go with it
    END IF;
END
$$;

-- Make a change of a row that the caller has locked. Every change goes through here but the three that most tasks
-- are made of (task_make, task_assign, task_complete), which do the same in one statement each.
CREATE FUNCTION muster.task_move(t public.agent_tasks, p_verb text, p_to text, p_actor text, p_role text,
                                 p_reason text DEFAULT NULL, p_detail jsonb DEFAULT NULL) RETURNS public.agent_tasks
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_from constant text := t.status;
    v_edge muster.edges;
BEGIN
    SELECT * INTO v_edge FROM muster.edges AS e
    WHERE e.machine = 'task' AND e.verb = p_verb AND e.from_state = v_from AND e.to_state = p_to;
    IF NOT FOUND OR NOT (p_role = ANY (v_edge.who)) THEN -- the functions below ask before
        RAISE EXCEPTION 'muster.task_move: a % came, from % to % by %, an edge of muster.edges was expected', p_verb, v_from, p_to, p_role;
    END IF;
    t := muster.task_apply(t, v_edge, clock_timestamp());
    UPDATE public.agent_tasks AS x SET
        status = t.status, seq = t.seq, updated_at = t.updated_at, attempt = t.attempt, epoch = t.epoch, crashes = t.crashes,
        crashed = t.crashed, excluded = t.excluded, assigned_to = t.assigned_to, session_id = t.session_id,
        unroutable = t.unroutable, started_at = t.started_at, completed_at = t.completed_at, run_left = t.run_left, until = t.until,
        progress_until = t.progress_until, wake_at = t.wake_at, pos = t.pos, percent = t.percent, step = t.step,
        progressed = t.progressed, settled = t.settled, blocked_on = t.blocked_on, result = t.result, error = t.error,
        question = t.question, input = t.input, reason = t.reason
    WHERE x.tenant_id = t.tenant_id AND x.task_id = t.task_id;
    PERFORM muster.task_record(t, v_from, p_actor, p_role, p_verb, p_reason, p_detail);
    RETURN t;
END
$$;

-- Whether a verb of the holder has to be refused; NULL: no. A stale epoch is one that the caller held, and the task
-- has another now; who never held it is told its state, or that it is not his.
CREATE FUNCTION muster.task_hold(t public.agent_tasks, p_agent text, p_args jsonb, p_verb text, p_states text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_epoch constant bigint := p_args ->> 'epoch';
    v_held bigint;
BEGIN
    IF t.status = ANY (p_states) AND t.assigned_to = p_agent AND (v_epoch IS NULL OR v_epoch = t.epoch) THEN
        IF t.deadline <= clock_timestamp() AND p_verb NOT IN ('decline', 'cancelled') THEN
            RETURN muster.error('deadline_exceeded', format('task_id: the deadline of task %s was %s', left(t.task_id, 100), muster.stamp(t.deadline)), 'task_id');
        END IF;
        RETURN NULL;
    END IF;
    v_held := (SELECT max(h.epoch) FROM muster.task_history AS h
               WHERE h.tenant = t.tenant_id AND h.task_id = t.task_id AND h.holder = p_agent);
    IF v_held IS NOT NULL AND (v_held < t.epoch OR v_epoch <> t.epoch) THEN
        RETURN muster.error('aborted', format('epoch: %s came for task %s, which is %s with epoch %s (stale_epoch)',
                            coalesce(v_epoch, v_held), left(t.task_id, 100), t.status, t.epoch), 'epoch');
    ELSIF v_held IS NULL AND t.status = ANY (p_states) THEN
        RETURN muster.error('permission_denied', format('task_id: task %s is held by another agent, %s', left(t.task_id, 100), t.status), 'task_id');
    END IF;
    RETURN muster.task_refusal(t.task_id, t.status, p_verb);
END
$$;

-- As what the caller may do what the owner may; NULL: he may not.
CREATE FUNCTION muster.task_role(t public.agent_tasks, p_agent text, p_args jsonb) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN (t).assigned_by = p_agent THEN 'owner' WHEN p_args ->> 'role' IN ('admin', 'operator') THEN 'admin' END;

CREATE FUNCTION muster.task_not_yours(p_task_id text, p_state text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN muster.error('permission_denied', format('task_id: task %s (%s) was submitted by another; only its submitter and admins may do that',
                                                left(p_task_id, 100), p_state), 'task_id');

-- settle: somebody follows it and has to be told, by muster.task_settle() as soon as this is committed.
CREATE FUNCTION muster.task_done(t public.agent_tasks) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_build_object('ok', jsonb_build_object('state', (t).status)) || CASE WHEN (t).settled THEN '{}' ELSE '{"settle": true}'::jsonb END;


-- What one request says of a task may be so long as text: with what is around it, an assignment and an answer can be
-- sent. Measuring it is spared where it cannot be longer: a byte of jsonb is seven of text at most.
CREATE FUNCTION muster.task_too_long(p_field text, p_args jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF octet_length(p_args::text) <= 900000 THEN
        RETURN NULL;
    END IF;
    RETURN muster.error('invalid_argument', format('%s: %s bytes of JSON came with the rest, at most 900000 were expected', p_field, octet_length(p_args::text)), p_field);
END
$$;


-- Submitting.

-- Whether nothing is said of a task but its id, what there is to do and with what, as of most: then nothing else has to be looked for, which costs
-- as much as all the rest of the function.
CREATE FUNCTION muster.task_is_plain(args jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN NOT args ?| '{assigned_to,capabilities,deadline,dependencies,group,labels,max_attempts,metadata,on_parent_failure,parent,priority,progress_timeout_ms,run_after,start_by,timeout_ms}';

CREATE FUNCTION muster.task_check(args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_field text;
    v_value text;
BEGIN
    IF muster.task_is_plain(args) AND jsonb_typeof(args -> 'description') = 'string' AND args ->> 'description' <> '' AND pg_column_size(args) <= 100000
       AND (NOT args ? 'task_id' OR jsonb_typeof(args -> 'task_id') = 'string' AND octet_length(args ->> 'task_id') BETWEEN 1 AND 256) THEN
        RETURN NULL;
    ELSIF jsonb_typeof(args -> 'description') IS DISTINCT FROM 'string' OR args ->> 'description' = '' THEN
        RETURN muster.wrong('description', args ->> 'description', 'a text');
    ELSIF args ->> 'priority' NOT IN ('low', 'medium', 'high', 'critical') THEN
        RETURN muster.wrong('priority', args ->> 'priority', 'low, medium, high or critical');
    ELSIF args ->> 'on_parent_failure' NOT IN ('cancel', 'run') THEN
        RETURN muster.wrong('on_parent_failure', args ->> 'on_parent_failure', 'cancel or run');
    ELSIF args ->> 'assigned_to' !~ '^[A-Za-z0-9-][A-Za-z0-9_-]{0,63}$' THEN
        RETURN muster.wrong('assigned_to', args ->> 'assigned_to', 'the name of an agent');
    ELSIF jsonb_typeof(args -> 'labels') NOT IN ('object', 'null') THEN
        RETURN muster.wrong('labels', args ->> 'labels', 'a map of texts');
    ELSIF jsonb_typeof(args -> 'metadata') NOT IN ('object', 'null') THEN
        RETURN muster.wrong('metadata', args ->> 'metadata', 'a map');
    ELSIF pg_column_size(args) > 100000 AND muster.task_too_long('payload', args) IS NOT NULL THEN
        RETURN muster.task_too_long((SELECT e.key FROM jsonb_each(args) AS e ORDER BY octet_length(e.value::text) DESC LIMIT 1), args);
    END IF;
    -- Most requests have none of a loop's fields.
    IF args ?| '{task_id,parent,group}' THEN
        FOREACH v_field IN ARRAY '{task_id,parent,group}'::text[] LOOP
            v_value := args ->> v_field;
            IF v_value IS NOT NULL AND (jsonb_typeof(args -> v_field) <> 'string' OR octet_length(v_value) NOT BETWEEN 1 AND 256) THEN
                RETURN muster.wrong(v_field, v_value, 'a text of 1 to 256 bytes');
            END IF;
        END LOOP;
    END IF;
    IF args ?| '{deadline,start_by,run_after}' THEN
        FOREACH v_field IN ARRAY '{deadline,start_by,run_after}'::text[] LOOP
            v_value := args ->> v_field;
            IF v_value IS NOT NULL AND muster.instant(v_value) IS NULL THEN
                RETURN muster.wrong(v_field, v_value, 'a time such as 2026-01-31T12:00:00Z');
            END IF;
        END LOOP;
    END IF;
    IF args ?| '{max_attempts,timeout_ms,progress_timeout_ms}' THEN
        FOREACH v_field IN ARRAY '{max_attempts,timeout_ms,progress_timeout_ms}'::text[] LOOP
            v_value := args ->> v_field;
            IF v_value IS NOT NULL AND v_value !~ '^[1-9]\d{0,9}$' THEN
                RETURN muster.wrong(v_field, v_value, 'a whole number from 1');
            END IF;
        END LOOP;
    END IF;
    IF (args ->> 'max_attempts')::bigint > 1000 THEN
        RETURN muster.wrong('max_attempts', args ->> 'max_attempts', 'at most 1000');
    END IF;
    IF args ?| '{capabilities,dependencies}' THEN
        FOREACH v_field IN ARRAY '{capabilities,dependencies}'::text[] LOOP
            v_value := jsonb_typeof(args -> v_field);
            IF v_value = 'null' THEN
                CONTINUE;
            ELSIF v_value <> 'array' OR jsonb_path_exists(args, '$.keyvalue() ? (@.key == $f).value[*] ? (@.type() != "string")',
                                                          jsonb_build_object('f', v_field)) THEN
                RETURN muster.wrong(v_field, args ->> v_field, 'a list of texts');
            ELSIF jsonb_array_length(args -> v_field) > 1000 THEN
                RETURN muster.wrong(v_field, jsonb_array_length(args -> v_field)::text, 'at most 1000');
            END IF;
        END LOOP;
    END IF;
    RETURN NULL;
END
$$;

-- Lock the tasks that a new one follows, so that none of them ends unnoticed meanwhile, and mark them as followed.
-- Gives which of them it has to wait for, or an error. p_batch: what is made in the same call, and is not there yet.
-- p_again: a task that is tried again; parents that have ended count as met, however.
CREATE FUNCTION muster.task_follow(p_tenant text, p_deps text[], p_parent text, p_policy text, p_batch text[], p_again boolean,
                                   OUT unmet text[], OUT error jsonb)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_deps text[] := p_deps; -- that are not made in the same call
    v_parent constant text := CASE WHEN p_parent = ANY (p_batch) THEN NULL ELSE p_parent END;
    v_found text[] := '{}';
    v_parent_state text;
    v record;
BEGIN
    unmet := '{}';
    IF p_batch IS NOT NULL THEN
        unmet := ARRAY(SELECT d FROM unnest(p_deps) AS d INTERSECT SELECT b FROM unnest(p_batch) AS b);
        v_deps := ARRAY(SELECT d FROM unnest(p_deps) AS d EXCEPT SELECT b FROM unnest(p_batch) AS b);
    END IF;
    IF v_deps = '{}' AND v_parent IS NULL THEN
        RETURN;
    END IF;
    FOR v IN
        SELECT t.task_id, t.status, t.followed FROM public.agent_tasks AS t
        WHERE t.tenant_id = p_tenant AND t.task_id = ANY (v_deps || v_parent)
        ORDER BY t.task_id FOR NO KEY UPDATE
    LOOP
        v_found := v_found || v.task_id;
        IF v.task_id = v_parent THEN
            v_parent_state := v.status;
        END IF;
        IF v.task_id = ANY (v_deps)
           AND NOT (v.status = 'succeeded' OR muster.task_over(v.status) AND (p_policy = 'run' OR p_again)) THEN
            unmet := unmet || v.task_id;
        END IF;
        -- One that has failed already is asked to tell so once more.
        IF NOT v.followed OR v.task_id = ANY (unmet) AND muster.task_over(v.status) THEN
            UPDATE public.agent_tasks AS t SET followed = true, settled = t.settled AND NOT (v.task_id = ANY (unmet) AND muster.task_over(t.status))
            WHERE t.tenant_id = p_tenant AND t.task_id = v.task_id;
        END IF;
    END LOOP;
    IF NOT v_deps <@ v_found THEN
        error := muster.error('not_found', format('dependencies: there is no task %s',
            left((SELECT d FROM unnest(v_deps) AS d WHERE d <> ALL (v_found) LIMIT 1), 100)), 'dependencies');
    ELSIF v_parent <> ALL (v_found) THEN
        error := muster.error('not_found', format('parent: there is no task %s', left(p_parent, 100)), 'parent');
    ELSIF v_parent_state IN ('cancelling', 'cancelled') THEN
        error := muster.error('failed_precondition', format('parent: task %s is %s', left(p_parent, 100), v_parent_state), 'parent');
    END IF;
END
$$;

-- Make one task of checked args. p_more: what the caller knows beside them: retry_of, assigned_by, followed. p_batch: ids
-- of the same call that others there follow.
CREATE FUNCTION muster.task_make(p_tenant text, p_agent text, p_args jsonb, p_more jsonb, p_batch text[] DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_now constant timestamptz := clock_timestamp();
    v_at constant text := muster.stamp(v_now);
    v_task_id text := p_args ->> 'task_id';
    v_description constant text := p_args ->> 'description';
    v_payload constant jsonb := p_args -> 'payload';
    v_owner text := p_agent;
    v_priority text := 'medium';
    v_wanted text;
    v_capabilities text[] := '{}';
    v_labels jsonb := '{}';
    v_metadata jsonb := '{}';
    v_group text;
    v_deps text[] := '{}';
    v_policy text := 'cancel';
    v_parent text;
    v_unmet text[] := '{}';
    v_run_after timestamptz;
    v_deadline timestamptz;
    v_start_by timestamptz;
    v_max integer := 3;
    v_timeout bigint;
    v_progress_timeout bigint;
    v_retry_of text;
    v_followed boolean := false;
    v_state text := 'queued';
    v_route bigint := 0;
    v_pos bigint := 0;
    v_until timestamptz;
    v_wake timestamptz;
    v_error jsonb;
    v_id text;
    v_rest text;
    v_lsn pg_lsn;
BEGIN
    IF v_task_id IS NULL THEN -- UUIDv7: what is made together stands together in the indexes
        v_task_id := lpad(to_hex((extract(epoch FROM v_now) * 1000)::bigint), 12, '0');
        v_task_id := left(v_task_id, 8) || '-' || right(v_task_id, 4) || '-7' || substr(gen_random_uuid()::text, 16);
    END IF;
    v_id := to_json(v_task_id);
    IF p_more IS NOT NULL THEN
        v_retry_of := p_more ->> 'retry_of';
        v_owner := coalesce(p_more ->> 'assigned_by', p_agent);
        v_followed := p_more ->> 'followed' IS NOT NULL;
    END IF;
    IF NOT muster.task_is_plain(p_args) THEN
        v_priority := coalesce(p_args ->> 'priority', 'medium');
        v_wanted := p_args ->> 'assigned_to';
        v_labels := CASE jsonb_typeof(p_args -> 'labels') WHEN 'object' THEN p_args -> 'labels' ELSE '{}' END;
        v_metadata := CASE jsonb_typeof(p_args -> 'metadata') WHEN 'object' THEN p_args -> 'metadata' ELSE '{}' END;
        v_group := p_args ->> 'group';
        v_policy := coalesce(p_args ->> 'on_parent_failure', 'cancel');
        v_parent := p_args ->> 'parent';
        v_run_after := p_args ->> 'run_after';
        v_deadline := p_args ->> 'deadline';
        v_start_by := p_args ->> 'start_by';
        v_max := coalesce(p_args ->> 'max_attempts', '3');
        v_timeout := p_args ->> 'timeout_ms';
        v_progress_timeout := p_args ->> 'progress_timeout_ms';
        IF jsonb_typeof(p_args -> 'capabilities') = 'array' THEN
            v_capabilities := ARRAY(SELECT DISTINCT c COLLATE "C" FROM jsonb_array_elements_text(p_args -> 'capabilities') AS c ORDER BY 1);
        END IF;
        IF jsonb_typeof(p_args -> 'dependencies') = 'array' THEN
            v_deps := ARRAY(SELECT d FROM jsonb_array_elements_text(p_args -> 'dependencies') WITH ORDINALITY AS x (d, n) GROUP BY d ORDER BY min(n));
        END IF;
        IF v_deps <> '{}' OR v_parent IS NOT NULL THEN
            IF v_task_id = ANY (v_deps || v_parent) THEN
                RETURN muster.error('invalid_argument', format('dependencies: a cycle came, %s -> %1$s', v_task_id), 'dependencies');
            END IF;
            SELECT f.unmet, f.error INTO v_unmet, v_error
            FROM muster.task_follow(p_tenant, v_deps, v_parent, v_policy, p_batch, v_retry_of IS NOT NULL) AS f;
            IF v_error IS NOT NULL THEN
                RETURN v_error;
            END IF;
        END IF;
        IF v_unmet <> '{}' THEN
            v_state := 'blocked';
        ELSIF v_run_after > v_now THEN
            v_state := 'scheduled';
            v_until := v_run_after;
        END IF;
        v_route := muster.task_route(v_wanted, v_capabilities, v_labels, v_group);
        v_wake := least(v_until, v_deadline, v_start_by);
    END IF;
    IF v_state = 'queued' THEN
        v_pos := muster.task_pos(v_now, v_priority);
    END IF;
    INSERT INTO public.agent_tasks AS t (
        tenant_id, id, task_id, assigned_to, wanted, assigned_by, description, priority, status, dependencies, deadline, created_at,
        updated_at, metadata, payload, capabilities, labels, group_key, start_by, run_after, on_parent_failure, parent_id, max_attempts,
        timeout_ms, progress_timeout_ms, retry_of, seq, route, pos, until, wake_at, blocked_on, followed)
    VALUES (
        p_tenant, v_task_id, v_task_id, v_wanted, v_wanted, v_owner, v_description, v_priority, v_state, v_deps, v_deadline, v_now, v_now,
        v_metadata, v_payload, v_capabilities, v_labels, v_group, v_start_by, v_run_after, v_policy, v_parent, v_max,
        v_timeout, v_progress_timeout, v_retry_of, 1, v_route, v_pos, v_until, v_wake, cardinality(v_unmet), v_followed)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN muster.error('already_exists', format('task_id: there is a task %s already', left(v_task_id, 100)), 'task_id');
    END IF;
    INSERT INTO muster.task_history (tenant, task_id, seq, at, from_state, to_state, epoch, actor, role, verb)
    VALUES (p_tenant, v_task_id, 1, v_now, '', v_state, 0, p_agent, 'any', 'submit');
    IF v_unmet <> '{}' THEN
        INSERT INTO muster.task_deps (tenant, task_id, parent) SELECT p_tenant, v_task_id, d FROM unnest(v_unmet) AS d;
    END IF;
    v_rest := muster.task_told(v_description, v_payload, v_priority, 0, 0, v_max, 0, v_wanted, v_owner, v_wanted, v_capabilities, v_labels,
                               v_deps, v_metadata, v_policy, v_group, v_parent, v_retry_of, v_deadline, v_start_by, v_run_after, v_timeout,
                               v_progress_timeout, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false);
    IF octet_length(v_rest) > 900000 THEN
        v_rest := (SELECT muster.task_rest_short(t) FROM public.agent_tasks AS t WHERE t.tenant_id = p_tenant AND t.task_id = v_task_id);
    END IF;
    v_lsn := muster.task_tell(p_tenant, v_id, v_state, muster.task_head(v_id, v_state, v_at, NULL, NULL, v_at), v_rest, '', v_at);
    IF v_state = 'queued' THEN -- for the broker, which may be the one that assigns it
        RETURN jsonb_build_object('ok', jsonb_build_object('task_id', v_task_id, 'state', v_state),
                                  'queued', jsonb_build_object('route', v_route, 'pos', v_pos));
    END IF;
    RETURN jsonb_build_object('ok', jsonb_build_object('task_id', v_task_id, 'state', v_state));
END
$$;

CREATE FUNCTION muster.task_submit(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_error constant jsonb := muster.task_check(args);
BEGIN
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    RETURN muster.task_make(tenant, agent, args, NULL);
END
$$;

-- The cycle among tasks of one call, as a -> b -> a; NULL: none. Kahn's: whoever waits for nobody is taken away, until
-- nobody is left, or those who wait for each other. p_from waits for p_to, numbers from 1 to p_n.
CREATE FUNCTION muster.task_cycle(p_names text[], p_from integer[], p_to integer[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_waits integer[] := array_fill(0, ARRAY[cardinality(p_names)]);
    v_first integer[] := array_fill(0, ARRAY[cardinality(p_names)]); -- edge of a parent, and v_next the others
    v_next integer[] := array_fill(0, ARRAY[cardinality(p_from)]);
    v_free integer[];
    v_at integer := 1;
    v_edge integer;
    v_seen integer[] := '{}';
    v_node integer;
BEGIN
    FOR i IN 1 .. cardinality(p_from) LOOP
        v_waits[p_from[i]] := v_waits[p_from[i]] + 1;
        v_next[i] := v_first[p_to[i]];
        v_first[p_to[i]] := i;
    END LOOP;
    v_free := ARRAY(SELECT i::integer FROM unnest(v_waits) WITH ORDINALITY AS w (n, i) WHERE n = 0);
    WHILE v_at <= cardinality(v_free) LOOP
        v_edge := v_first[v_free[v_at]];
        WHILE v_edge > 0 LOOP
            v_waits[p_from[v_edge]] := v_waits[p_from[v_edge]] - 1;
            IF v_waits[p_from[v_edge]] = 0 THEN
                v_free := v_free || p_from[v_edge];
            END IF;
            v_edge := v_next[v_edge];
        END LOOP;
        v_at := v_at + 1;
    END LOOP;
    IF cardinality(v_free) = cardinality(p_names) THEN
        RETURN NULL;
    END IF;
    -- Each that is left waits for one that is left: going on, one comes twice.
    v_node := (SELECT i FROM unnest(v_waits) WITH ORDINALITY AS w (n, i) WHERE n > 0 LIMIT 1);
    WHILE v_node <> ALL (v_seen) LOOP
        v_seen := v_seen || v_node;
        v_node := (SELECT t.b FROM unnest(p_from, p_to) AS t (a, b) WHERE t.a = v_node AND v_waits[t.b] > 0 LIMIT 1);
    END LOOP;
    v_seen := v_seen[array_position(v_seen, v_node):] || v_node;
    RETURN (SELECT string_agg(left(p_names[s.n], 64), ' -> ' ORDER BY s.i) FROM unnest(v_seen) WITH ORDINALITY AS s (n, i));
END
$$;

-- args: tasks[], each as in submit. All or nothing: what was made before one that is refused is undone.
CREATE FUNCTION muster.task_submit_many(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_tasks constant jsonb := args -> 'tasks';
    v_ids text[];
    v_error jsonb;
    v_cycle text;
    v_made jsonb;
    v_all text[] := '{}';
    v_follow text[];
    v_item jsonb;
    v_n bigint;
BEGIN
    IF jsonb_typeof(v_tasks) IS DISTINCT FROM 'array' OR jsonb_array_length(v_tasks) NOT BETWEEN 1 AND 1000 THEN
        RETURN muster.wrong('tasks', CASE jsonb_typeof(v_tasks) WHEN 'array' THEN jsonb_array_length(v_tasks) || ' tasks' END, 'a list of 1 to 1000 tasks');
    END IF;
    FOR v_item, v_n IN SELECT value, ordinality - 1 FROM jsonb_array_elements(v_tasks) WITH ORDINALITY LOOP
        v_error := CASE WHEN jsonb_typeof(v_item) <> 'object' THEN muster.wrong('', v_item::text, 'a map') ELSE muster.task_check(v_item) END;
        IF v_error IS NOT NULL THEN
            RETURN jsonb_set(v_error, '{error,field}', to_jsonb(format('tasks[%s].%s', v_n, v_error #>> '{error,field}')));
        END IF;
    END LOOP;
    v_ids := ARRAY(SELECT value ->> 'task_id' FROM jsonb_array_elements(v_tasks) WITH ORDINALITY ORDER BY ordinality);
    IF (SELECT count(*) <> count(DISTINCT i) FROM unnest(v_ids) AS i WHERE i IS NOT NULL) THEN
        RETURN muster.error('already_exists', format('tasks: task_id %s came twice',
            (SELECT left(i, 100) FROM unnest(v_ids) AS i WHERE i IS NOT NULL GROUP BY i HAVING count(*) > 1 LIMIT 1)), 'tasks');
    END IF;
    -- Who waits for whom inside of this call; a parent is no dependency, but it may not be its own child's child.
    WITH said AS (
        SELECT ordinality::integer AS n, p.id
        FROM jsonb_array_elements(v_tasks) WITH ORDINALITY AS t,
             LATERAL (SELECT jsonb_array_elements_text(CASE jsonb_typeof(value -> 'dependencies') WHEN 'array' THEN value -> 'dependencies' ELSE '[]' END)
                      UNION SELECT value ->> 'parent') AS p (id)
        WHERE p.id IS NOT NULL
    ), known AS (SELECT id, ordinality::integer AS n FROM unnest(v_ids) WITH ORDINALITY AS i (id) WHERE id IS NOT NULL)
    SELECT muster.task_cycle(v_ids, array_agg(s.n), array_agg(k.n)), array_agg(DISTINCT k.id) INTO v_cycle, v_follow
    FROM said AS s JOIN known AS k ON k.id = s.id;
    IF v_cycle IS NOT NULL THEN
        RETURN muster.error('invalid_argument', format('dependencies: a cycle came, %s', v_cycle), 'dependencies');
    END IF;
    BEGIN
        FOR v_item, v_n IN SELECT value, ordinality - 1 FROM jsonb_array_elements(v_tasks) WITH ORDINALITY LOOP
            v_made := muster.task_make(tenant, agent, v_item,
                                       CASE WHEN v_item ->> 'task_id' = ANY (v_follow) THEN '{"followed": true}'::jsonb END, v_follow);
            IF v_made ? 'error' THEN
                RAISE EXCEPTION USING ERRCODE = 'MU001', MESSAGE = 'one is refused';
            END IF;
            v_all := v_all || (v_made -> 'ok')::text;
        END LOOP;
    EXCEPTION WHEN SQLSTATE 'MU001' THEN
        RETURN jsonb_set(v_made, '{error,field}', to_jsonb(format('tasks[%s].%s', v_n, v_made #>> '{error,field}')));
    END;
    RETURN ('{"ok": {"tasks": [' || array_to_string(v_all, ',') || ']}}')::jsonb;
END
$$;

-- A new task that is what the old one was; times that have passed are left out.
CREATE FUNCTION muster.task_retry(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    v_now constant timestamptz := clock_timestamp();
    t public.agent_tasks;
    v_made jsonb;
BEGIN
    SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = tenant AND x.task_id = v_task_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(v_task_id);
    ELSIF t.status NOT IN ('failed', 'dead', 'cancelled', 'expired') THEN
        RETURN muster.task_refusal(t.task_id, t.status, 'retry');
    ELSIF muster.task_role(t, agent, args) IS NULL THEN
        RETURN muster.task_not_yours(t.task_id, t.status);
    END IF;
    v_made := muster.task_make(tenant, agent, jsonb_strip_nulls(jsonb_build_object(
        'description', t.description, 'assigned_to', t.wanted, 'capabilities', t.capabilities, 'labels', t.labels,
        'priority', t.priority, 'dependencies', t.dependencies, 'on_parent_failure', t.on_parent_failure, 'max_attempts', t.max_attempts,
        'parent', (SELECT p.task_id FROM public.agent_tasks AS p WHERE p.tenant_id = tenant AND p.task_id = t.parent_id
                                                                   AND p.status NOT IN ('cancelling', 'cancelled')),
        'timeout_ms', t.timeout_ms, 'progress_timeout_ms', t.progress_timeout_ms, 'group', t.group_key,
        'deadline', CASE WHEN t.deadline > v_now THEN t.deadline END, 'start_by', CASE WHEN t.start_by > v_now THEN t.start_by END,
        'run_after', CASE WHEN t.run_after > v_now THEN t.run_after END))
        || CASE WHEN t.payload IS NULL THEN '{}' ELSE jsonb_build_object('payload', t.payload) END
        || jsonb_build_object('metadata', t.metadata, 'dependencies',
               ARRAY(SELECT d FROM unnest(t.dependencies) AS d -- those that are there still
                     WHERE EXISTS (SELECT FROM public.agent_tasks AS p WHERE p.tenant_id = tenant AND p.task_id = d))),
        jsonb_strip_nulls(jsonb_build_object('retry_of', t.task_id, 'assigned_by', t.assigned_by)));
    RETURN v_made;
END
$$;


-- Assigning.

-- Whether there is something against assigning: a lease that is another's by now, or a queue that is paused; NULL: nothing. Who assigns under a lease
-- keeps it to the end of the transaction: a newer holder raises the fence when this is over, and counts what was done. So both are asked once a
-- transaction, which is what brokers put into one commit; the settings end with it.
CREATE FUNCTION muster.task_objection(p_tenant text, p_task_id text, p_agent text, p_seq integer, p_fence text, p_epoch bigint) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_lease constant text := p_fence || ' ' || p_epoch;
BEGIN
    IF current_setting('muster.fenced', true) IS DISTINCT FROM v_lease AND p_fence IS NOT NULL THEN
        PERFORM FROM muster.fences AS f WHERE f.name = p_fence AND f.epoch = p_epoch FOR SHARE;
        IF NOT FOUND THEN
            RETURN muster.error('aborted', format('fence: epoch %s of %s is not the current one', p_epoch, p_fence), 'fence');
        END IF;
        PERFORM set_config('muster.fenced', v_lease, true);
    END IF;
    IF EXISTS (SELECT FROM muster.task_pauses AS p WHERE p.tenant = p_tenant) THEN
        RETURN muster.task_assign_refusal(p_tenant, p_task_id, p_agent, p_seq);
    END IF;
    PERFORM set_config('muster.giving', concat_ws(' ', p_tenant, v_lease), true);
    RETURN NULL;
END
$$;

-- p_seq: of the row as it was seen; 0: it is made in this transaction. What has changed meanwhile is refused; with p_auto it is offered and running
-- at once. ok is the body of task_assignment, in the order of jsonb. Text, and no jsonb of what is told: making and taking it apart costs a tenth of
-- all this.
CREATE FUNCTION muster.task_give(p_tenant text, p_task_id text, p_agent text, p_session text, p_seq integer, p_auto boolean, p_offer_ms integer,
                                 p_fence text, p_fence_epoch bigint, p_actor text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_now constant timestamptz := clock_timestamp();
    v_until constant timestamptz := CASE WHEN NOT p_auto THEN v_now + p_offer_ms * interval '1 millisecond' END;
    v_at constant text := muster.stamp(v_now);
    v_id constant text := to_json(p_task_id);
    v public.agent_tasks;
    v_created text;
    v_started text;
    v_error jsonb;
    v_rest text;
    v_lsn pg_lsn;
BEGIN
    IF p_fence IS NULL OR current_setting('muster.giving', true) IS DISTINCT FROM concat_ws(' ', p_tenant, p_fence, p_fence_epoch) THEN
        v_error := muster.task_objection(p_tenant, p_task_id, p_agent, p_seq, p_fence, p_fence_epoch);
        IF v_error IS NOT NULL THEN
            RETURN v_error;
        END IF;
    END IF;
    UPDATE public.agent_tasks AS t SET
        status = CASE WHEN p_auto THEN 'running' ELSE 'offered' END, assigned_to = p_agent, session_id = p_session,
        epoch = t.epoch + 1, seq = t.seq + CASE WHEN p_auto THEN 2 ELSE 1 END, attempt = t.attempt + 1, updated_at = v_now,
        percent = NULL, step = NULL, progressed = false, unroutable = false,
        started_at = CASE WHEN p_auto THEN coalesce(t.started_at, v_now) ELSE t.started_at END,
        until = CASE WHEN p_auto THEN v_now + t.timeout_ms * interval '1 millisecond' ELSE v_until END,
        progress_until = CASE WHEN p_auto THEN v_now + t.progress_timeout_ms * interval '1 millisecond' END,
        wake_at = least(t.deadline, v_until,
                        CASE WHEN p_auto THEN v_now + t.timeout_ms * interval '1 millisecond' END,
                        CASE WHEN p_auto THEN v_now + t.progress_timeout_ms * interval '1 millisecond' END,
                        CASE WHEN NOT p_auto AND t.started_at IS NULL THEN t.start_by END)
    WHERE t.tenant_id = p_tenant AND t.task_id = p_task_id AND t.status || '' = 'queued' -- no index is to serve that
      AND (p_seq IS NULL OR t.seq = p_seq OR p_seq = 0 AND t.seq = 1 AND t.xmin = pg_current_xact_id()::xid)
      AND p_agent <> ALL (t.excluded) AND (t.wanted IS NULL OR t.wanted = p_agent)
      AND (t.deadline IS NULL OR t.deadline > v_now) AND (t.started_at IS NOT NULL OR t.start_by IS NULL OR t.start_by > v_now)
    RETURNING t.* INTO v;
    IF NOT FOUND THEN
        RETURN muster.task_assign_refusal(p_tenant, p_task_id, p_agent, p_seq);
    END IF;
    v_rest := muster.task_rest(v);
    IF octet_length(v_rest) > 900000 THEN
        v_rest := muster.task_rest_short(v);
    END IF;
    v_created := muster.stamp(v.created_at);
    v_started := CASE WHEN v.started_at = v_now THEN v_at ELSE muster.stamp(v.started_at) END;
    IF p_auto THEN
        INSERT INTO muster.task_history (tenant, task_id, seq, at, from_state, to_state, epoch, holder, actor, role, verb)
        VALUES (p_tenant, p_task_id, v.seq - 1, v_now, 'queued', 'offered', v.epoch, p_agent, p_actor, 'engine', 'offer'),
               (p_tenant, p_task_id, v.seq, v_now, 'offered', 'running', v.epoch, p_agent, p_agent, 'holder', 'accept');
        v_lsn := muster.task_tell(p_tenant, v_id, 'offered',
                                  muster.task_head(v_id, 'offered', v_created, CASE WHEN v.started_at < v_now THEN v_started END, NULL, v_at),
                                  v_rest, 'queued', v_at);
        v_lsn := muster.task_tell(p_tenant, v_id, 'running', muster.task_head(v_id, 'running', v_created, v_started, NULL, v_at), v_rest, 'offered', v_at);
    ELSE
        INSERT INTO muster.task_history (tenant, task_id, seq, at, from_state, to_state, epoch, holder, actor, role, verb)
        VALUES (p_tenant, p_task_id, v.seq, v_now, 'queued', 'offered', v.epoch, p_agent, p_actor, 'engine', 'offer');
        v_lsn := muster.task_tell(p_tenant, v_id, 'offered', muster.task_head(v_id, 'offered', v_created, v_started, NULL, v_at), v_rest, 'queued', v_at);
    END IF;
    RETURN concat('{"ok": {"epoch": ', v.epoch, ', "attempt": ', v.attempt, ', "payload": ', coalesce(v.payload::text, 'null'),
                  ', "task_id": ', v_id, ', "deadline": ', coalesce('"' || muster.stamp(v.deadline) || '"', 'null'),
                  ', "metadata": ', v.metadata, ', "priority": "', v.priority, '", "assigned_by": ', coalesce(to_json(v.assigned_by)::text, 'null'),
                  ', "assigned_to": ', to_json(p_agent), ', "description": ', to_json(v.description),
                  ', "dependencies": ', CASE WHEN v.dependencies = '{}' THEN '[]' ELSE to_json(v.dependencies)::text END, '}}');
END
$$;

-- The same in the shape of the others. args: task_id, agent, session, seq?, auto_accept?, offer_ms? (5,000), fence?, fence_epoch?
CREATE FUNCTION muster.task_assign(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN muster.task_give(tenant, args ->> 'task_id', args ->> 'agent', args ->> 'session', (args ->> 'seq')::integer,
                            coalesce((args ->> 'auto_accept')::boolean, false), coalesce((args ->> 'offer_ms')::integer, 5000),
                            args ->> 'fence', (args ->> 'fence_epoch')::bigint, agent);
END
$$;

-- Why nothing was assigned.
CREATE FUNCTION muster.task_assign_refusal(p_tenant text, p_task_id text, p_agent text, p_seq integer) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t public.agent_tasks;
BEGIN
    SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = p_tenant AND x.task_id = p_task_id;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(p_task_id);
    ELSIF t.status <> 'queued' THEN
        RETURN muster.task_refusal(t.task_id, t.status, 'offer');
    ELSIF p_seq <> t.seq THEN
        RETURN muster.error('aborted', format('seq: %s came, task %s is queued with %s', p_seq, left(t.task_id, 100), t.seq), 'seq');
    ELSIF t.deadline <= clock_timestamp() OR t.started_at IS NULL AND t.start_by <= clock_timestamp() THEN
        RETURN muster.error('deadline_exceeded', format('task_id: the time of task %s is over', left(t.task_id, 100)), 'task_id');
    ELSIF EXISTS (SELECT FROM muster.task_pauses AS p WHERE p.tenant = p_tenant) THEN
        RETURN muster.error('failed_precondition', format('task_id: task %s is queued, and the queue is paused', left(t.task_id, 100)), 'paused');
    ELSIF p_agent = ANY (t.excluded) OR p_agent <> t.wanted THEN
        RETURN muster.error('failed_precondition', format('agent: task %s is queued, and not for %s', left(t.task_id, 100), p_agent), 'agent');
    END IF;
    RETURN muster.error('unavailable', format('task_id: task %s changes right now', left(t.task_id, 100)), 'task_id', 100);
END
$$;

CREATE FUNCTION muster.task_accept(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    t public.agent_tasks;
    v_error jsonb;
BEGIN
    SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = tenant AND x.task_id = v_task_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(v_task_id);
    END IF;
    v_error := muster.task_hold(t, agent, args, 'accept', '{offered,running}');
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    ELSIF t.status = 'running' THEN -- said twice, or of one that was accepted for him
        RETURN muster.task_done(t);
    ELSIF t.until <= clock_timestamp() THEN
        RETURN muster.error('deadline_exceeded', format('task_id: the offer of task %s ended %s', left(t.task_id, 100), muster.stamp(t.until)), 'task_id');
    END IF;
    t := muster.task_move(t, 'accept', 'running', agent, 'holder');
    RETURN muster.task_done(t);
END
$$;

CREATE FUNCTION muster.task_decline(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    t public.agent_tasks;
    v_error jsonb;
BEGIN
    SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = tenant AND x.task_id = v_task_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(v_task_id);
    END IF;
    v_error := muster.task_hold(t, agent, args, 'decline', '{offered,running}');
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    ELSIF t.status = 'running' AND t.progressed THEN
        RETURN muster.error('failed_precondition', format('task_id: task %s is running and has made progress; fail it instead', left(t.task_id, 100)), 'task_id');
    END IF;
    t.excluded := CASE WHEN agent = ANY (t.excluded) THEN t.excluded ELSE t.excluded || agent END;
    t := muster.task_move(t, 'decline', 'queued', agent, 'holder', args ->> 'reason');
    RETURN muster.task_done(t);
END
$$;


-- Working.

-- Changes no state: no history, no event; who watches the table sees it. Never back.
CREATE FUNCTION muster.task_progress(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    v_epoch constant bigint := args ->> 'epoch';
    v_percent constant double precision := CASE WHEN args ->> 'percent' IS NOT NULL THEN greatest(0, least(100, (args ->> 'percent')::double precision)) END;
    v_now constant timestamptz := clock_timestamp();
    v_task public.agent_tasks;
    v_size integer;
    v_keys bigint;
BEGIN
    IF jsonb_typeof(args -> 'metadata') NOT IN ('object', 'null') THEN
        RETURN muster.wrong('metadata', args ->> 'metadata', 'a map');
    ELSIF jsonb_typeof(args -> 'metadata') = 'object' THEN -- it grows, but not for ever
        SELECT octet_length(m.all_of::text), (SELECT count(*) FROM jsonb_object_keys(m.all_of)) INTO v_size, v_keys
        FROM (SELECT t.metadata || (args -> 'metadata') AS all_of FROM public.agent_tasks AS t
              WHERE t.tenant_id = tenant AND t.task_id = v_task_id AND t.assigned_to || '' = agent) AS m;
        IF v_size > 65536 THEN
            RETURN muster.error('invalid_argument', format('metadata: task %s would have %s bytes of it, at most 65536 were expected',
                                                           left(v_task_id, 100), v_size), 'metadata');
        ELSIF v_keys > 1000 THEN -- brokers decode no map of more than 1,024
            RETURN muster.error('invalid_argument', format('metadata: task %s would have %s keys of it, at most 1000 were expected',
                                                           left(v_task_id, 100), v_keys), 'metadata');
        END IF;
    END IF;
    UPDATE public.agent_tasks AS t SET
        percent = greatest(t.percent, v_percent), step = coalesce(args ->> 'step', t.step), progressed = true, updated_at = v_now,
        metadata = CASE jsonb_typeof(args -> 'metadata') WHEN 'object' THEN t.metadata || (args -> 'metadata') ELSE t.metadata END,
        progress_until = CASE t.status WHEN 'running' THEN v_now + t.progress_timeout_ms * interval '1 millisecond' END,
        wake_at = CASE WHEN t.progress_timeout_ms IS NULL THEN t.wake_at ELSE muster.task_wake(t.status, t.until,
            CASE t.status WHEN 'running' THEN v_now + t.progress_timeout_ms * interval '1 millisecond' END, t.deadline, t.start_by, t.started_at) END
    WHERE t.tenant_id = tenant AND t.task_id = v_task_id AND t.status || '' IN ('running', 'cancelling') AND t.assigned_to || '' = agent
      AND (v_epoch IS NULL OR t.epoch = v_epoch) AND (t.deadline IS NULL OR t.deadline > v_now);
    IF FOUND THEN
        RETURN '{"ok": {}}';
    END IF;
    SELECT * INTO v_task FROM public.agent_tasks AS x WHERE x.tenant_id = tenant AND x.task_id = v_task_id;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(v_task_id);
    END IF;
    RETURN coalesce(muster.task_hold(v_task, agent, args, 'progress', '{running,cancelling}'),
                    muster.error('unavailable', format('task_id: task %s changes right now', left(v_task_id, 100)), 'task_id', 100));
END
$$;

-- Keep what came too late from who held it once; who says something else of what he has ended himself is only refused.
CREATE FUNCTION muster.task_keep_late(t public.agent_tasks, p_agent text, p_verb text, p_args jsonb, p_error jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_error #>> '{error,code}' = 'failed_precondition' AND EXISTS (
        SELECT FROM muster.task_history AS h
        WHERE h.tenant = t.tenant_id AND h.task_id = t.task_id AND h.seq = t.seq AND h.actor = p_agent AND h.role = 'holder' AND muster.task_over(h.to_state)) THEN
        RETURN;
    END IF;
    INSERT INTO muster.task_late AS l (tenant, task_id, agent, verb, epoch, body)
    SELECT t.tenant_id, t.task_id, p_agent, p_verb, (p_args ->> 'epoch')::bigint, p_args -> CASE p_verb WHEN 'complete' THEN 'result' ELSE 'error' END
    WHERE EXISTS (SELECT FROM muster.task_history AS h WHERE h.tenant = t.tenant_id AND h.task_id = t.task_id AND h.holder = p_agent)
    ON CONFLICT ON CONSTRAINT task_late_pkey DO UPDATE SET at = clock_timestamp(), verb = excluded.verb, epoch = excluded.epoch, body = excluded.body;
END
$$;

CREATE FUNCTION muster.task_complete(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    v_epoch constant bigint := args ->> 'epoch';
    v_now constant timestamptz := clock_timestamp();
    v_result constant jsonb := args -> 'result';
    v_at constant text := muster.stamp(v_now);
    v_id constant text := to_json(v_task_id);
    v public.agent_tasks;
    v_rest text;
    v_lsn pg_lsn;
BEGIN
    IF pg_column_size(args) > 100000 AND muster.task_too_long('result', args) IS NOT NULL THEN
        RETURN muster.task_too_long('result', args);
    END IF;
    UPDATE public.agent_tasks AS t SET
        status = 'succeeded', result = v_result, seq = t.seq + 1, updated_at = v_now, completed_at = v_now, until = NULL,
        progress_until = NULL, wake_at = NULL, settled = NOT t.followed
    WHERE t.tenant_id = tenant AND t.task_id = v_task_id AND t.status || '' = 'running' AND t.assigned_to || '' = agent
      AND (v_epoch IS NULL OR t.epoch = v_epoch) AND (t.deadline IS NULL OR t.deadline > v_now)
    RETURNING t.* INTO v;
    IF NOT FOUND THEN
        RETURN muster.task_complete_refusal(tenant, agent, args);
    END IF;
    INSERT INTO muster.task_history (tenant, task_id, seq, at, from_state, to_state, epoch, actor, role, verb)
    VALUES (tenant, v_task_id, v.seq, v_now, 'running', 'succeeded', v.epoch, agent, 'holder', 'complete');
    v_rest := muster.task_rest(v);
    IF octet_length(v_rest) > 900000 THEN
        v_rest := muster.task_rest_short(v);
    END IF;
    v_lsn := muster.task_tell(tenant, v_id, 'succeeded',
                              muster.task_head(v_id, 'succeeded', muster.stamp(v.created_at), muster.stamp(v.started_at), v_at, v_at), v_rest, 'running', v_at);
    RETURN CASE WHEN v.settled THEN '{"ok": {"state": "succeeded"}}' ELSE '{"ok": {"state": "succeeded"}, "settle": true}' END;
END
$$;

-- Said again with the same result it is done; the row is locked, so that it is not another's meanwhile.
CREATE FUNCTION muster.task_complete_refusal(p_tenant text, p_agent text, p_args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_task_id constant text := p_args ->> 'task_id';
    v_epoch constant bigint := p_args ->> 'epoch';
    t public.agent_tasks;
    v_error jsonb;
BEGIN
    SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = p_tenant AND x.task_id = v_task_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(v_task_id);
    ELSIF t.status = 'succeeded' AND t.assigned_to = p_agent AND coalesce(v_epoch, t.epoch) = t.epoch
          AND t.result IS NOT DISTINCT FROM p_args -> 'result' THEN
        RETURN muster.task_done(t);
    END IF;
    v_error := muster.task_hold(t, p_agent, p_args, 'complete', '{running}');
    IF v_error IS NULL THEN -- it became his in this moment
        RETURN muster.error('unavailable', format('task_id: task %s changes right now', left(t.task_id, 100)), 'task_id', 100);
    END IF;
    PERFORM muster.task_keep_late(t, p_agent, 'complete', p_args, v_error);
    RETURN v_error;
END
$$;

-- Another try, or the end: of who fails it, or of run_timeout or progress_timeout.
CREATE FUNCTION muster.task_try_again(t public.agent_tasks, p_verb text, p_actor text, p_role text, p_reason text, p_detail jsonb) RETURNS public.agent_tasks
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF t.attempt >= t.max_attempts THEN
        t.reason := coalesce(p_reason, format('attempt %s of %s failed', t.attempt, t.max_attempts));
        RETURN muster.task_move(t, p_verb, 'dead', p_actor, p_role, p_reason, p_detail);
    END IF;
    t.until := clock_timestamp() + muster.task_delay(t.attempt - 1);
    RETURN muster.task_move(t, p_verb, 'scheduled', p_actor, p_role, p_reason, p_detail);
END
$$;

CREATE FUNCTION muster.task_fail(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    t public.agent_tasks;
    v_error jsonb;
BEGIN
    IF pg_column_size(args) > 100000 AND muster.task_too_long('error', args) IS NOT NULL THEN
        RETURN muster.task_too_long('error', args);
    END IF;
    SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = tenant AND x.task_id = v_task_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(v_task_id);
    END IF;
    v_error := muster.task_hold(t, agent, args, 'fail', '{running}');
    IF v_error IS NOT NULL THEN
        PERFORM muster.task_keep_late(t, agent, 'fail', args, v_error);
        RETURN v_error;
    END IF;
    t.error := args -> 'error';
    IF args ->> 'retryable' = 'false' THEN
        t := muster.task_move(t, 'fail', 'failed', agent, 'holder', NULL, jsonb_build_object('error', t.error));
    ELSE
        t := muster.task_try_again(t, 'fail', agent, 'holder', NULL, jsonb_build_object('error', t.error));
    END IF;
    RETURN muster.task_done(t);
END
$$;

CREATE FUNCTION muster.task_need_input(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    t public.agent_tasks;
    v_error jsonb;
BEGIN
    IF pg_column_size(args) > 100000 AND muster.task_too_long('question', args) IS NOT NULL THEN
        RETURN muster.task_too_long('question', args);
    END IF;
    SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = tenant AND x.task_id = v_task_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(v_task_id);
    END IF;
    v_error := muster.task_hold(t, agent, args, 'need_input', '{running}');
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    t.question := args -> 'question';
    t.input := NULL;
    t := muster.task_move(t, 'need_input', 'input_required', agent, 'holder');
    RETURN muster.task_done(t);
END
$$;

-- Whether that is the row of a session that has ended: of one of which nothing is known presence has not said so. Agents choose the names of their
-- sessions: who came second with one has it behind its own name, and who comes again with one that had ended is written a moment later, so that an
-- end before p_since, when its holder was heard of last, is believed after five seconds only.
CREATE FUNCTION muster.session_over(s public.agent_sessions, p_agent text, p_since timestamptz) RETURNS boolean
LANGUAGE sql STABLE
RETURN (s).agent_id = p_agent AND (s).gone_reason IS NOT NULL
       AND (coalesce((s).ended_at >= p_since, true) OR p_since < statement_timestamp() - interval '5 seconds');

CREATE FUNCTION muster.task_holder_gone(t public.agent_tasks) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM public.agent_sessions AS s
                   WHERE s.tenant_id = t.tenant_id AND s.session_id = ANY (ARRAY[t.session_id, t.assigned_to || '/' || t.session_id])
                     AND muster.session_over(s, t.assigned_to, t.updated_at));
END
$$;

-- ok has notify where somebody goes on with it: the holder, with his new epoch.
CREATE FUNCTION muster.task_provide_input(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    t public.agent_tasks;
    v_role text;
    v_gone boolean;
BEGIN
    IF pg_column_size(args) > 100000 AND muster.task_too_long('input', args) IS NOT NULL THEN
        RETURN muster.task_too_long('input', args);
    END IF;
    SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = tenant AND x.task_id = v_task_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(v_task_id);
    END IF;
    v_role := coalesce(muster.task_role(t, agent, args), CASE args ->> 'role' WHEN 'human' THEN 'human' END);
    IF t.status <> 'input_required' THEN
        RETURN muster.task_refusal(t.task_id, t.status, 'provide_input');
    ELSIF v_role IS NULL THEN
        RETURN muster.task_not_yours(t.task_id, t.status);
    END IF;
    t.input := args -> 'input';
    v_gone := muster.task_holder_gone(t);
    t := muster.task_move(t, 'provide_input', CASE WHEN v_gone THEN 'queued' ELSE 'running' END, agent, v_role);
    IF v_gone THEN
        RETURN muster.task_done(t);
    END IF;
    RETURN muster.task_done(t) || jsonb_build_object('notify', jsonb_build_object(
        'agent', t.assigned_to, 'session', t.session_id, 'task_id', t.task_id, 'epoch', t.epoch, 'input', t.input));
END
$$;

-- Nobody answered: args: task_id, retryable? (false), reason? Called by who asked for the help.
CREATE FUNCTION muster.task_input_failed(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    t public.agent_tasks;
BEGIN
    SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = tenant AND x.task_id = v_task_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(v_task_id);
    ELSIF t.status <> 'input_required' THEN
        RETURN muster.task_refusal(t.task_id, t.status, 'input_failed');
    END IF;
    t.reason := coalesce(args ->> 'reason', 'no input came');
    IF args ->> 'retryable' = 'true' AND t.attempt < t.max_attempts THEN
        t.until := clock_timestamp() + muster.task_delay(t.attempt - 1);
        t := muster.task_move(t, 'input_failed', 'scheduled', agent, 'engine', t.reason);
    ELSE
        t := muster.task_move(t, 'input_failed', 'failed', agent, 'engine', t.reason);
    END IF;
    RETURN muster.task_done(t);
END
$$;

-- What cancelling a locked row gives; who may is asked before. ok has notify where a holder has to stop.
CREATE FUNCTION muster.task_stop(t public.agent_tasks, p_actor text, p_role text, p_reason text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_held constant boolean := t.status IN ('offered', 'running', 'input_required');
    v_to text;
BEGIN
    IF t.status = 'cancelling' THEN
        RETURN muster.task_done(t); -- it is under way
    END IF;
    SELECT e.to_state INTO v_to FROM muster.edges AS e WHERE e.machine = 'task' AND e.verb = 'cancel' AND e.from_state = t.status;
    IF NOT FOUND THEN
        RETURN muster.task_refusal(t.task_id, t.status, 'cancel');
    END IF;
    t.reason := p_reason;
    t := muster.task_move(t, 'cancel', v_to, p_actor, p_role, p_reason);
    IF NOT v_held THEN
        RETURN muster.task_done(t);
    END IF;
    RETURN muster.task_done(t) || jsonb_build_object('notify', jsonb_strip_nulls(jsonb_build_object(
        'agent', t.assigned_to, 'session', t.session_id, 'task_id', t.task_id, 'epoch', t.epoch, 'reason', p_reason)));
END
$$;

CREATE FUNCTION muster.task_cancel(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    t public.agent_tasks;
    v_role text;
BEGIN
    SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = tenant AND x.task_id = v_task_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(v_task_id);
    END IF;
    v_role := muster.task_role(t, agent, args);
    IF v_role IS NULL AND NOT muster.task_over(t.status) THEN
        RETURN muster.task_not_yours(t.task_id, t.status);
    END IF;
    RETURN muster.task_stop(t, agent, v_role, args ->> 'reason');
END
$$;

-- The holder has stopped.
CREATE FUNCTION muster.task_cancelled(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    v_epoch constant bigint := args ->> 'epoch';
    t public.agent_tasks;
    v_error jsonb;
BEGIN
    SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = tenant AND x.task_id = v_task_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(v_task_id);
    ELSIF t.status = 'cancelled' AND t.assigned_to = agent AND coalesce(v_epoch, t.epoch) IN (t.epoch, t.epoch - 1) THEN
        RETURN muster.task_done(t); -- said twice, or told of what was cancelled at once
    END IF;
    v_error := muster.task_hold(t, agent, args, 'cancelled', '{cancelling}');
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    t := muster.task_move(t, 'cancelled', 'cancelled', agent, 'holder', t.reason);
    RETURN muster.task_done(t);
END
$$;

-- The tenant's queue; whether the caller may is the plugin's to ask. The event is for who assigns.
CREATE FUNCTION muster.task_pause(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
BEGIN
    INSERT INTO muster.task_pauses (tenant, agent) VALUES (tenant, agent) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM set_config('muster.giving', '', true); -- what is assigned behind it in this transaction asks again
        PERFORM muster.emit(tenant, 'task', 'paused', tenant, jsonb_build_object('by', agent, 'at', muster.stamp(clock_timestamp())));
    END IF;
    RETURN '{"ok": {"paused": true}}';
END
$$;

CREATE FUNCTION muster.task_resume(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
BEGIN
    DELETE FROM muster.task_pauses AS p WHERE p.tenant = tenant;
    IF FOUND THEN
        PERFORM muster.emit(tenant, 'task', 'resumed', tenant, jsonb_build_object('by', agent, 'at', muster.stamp(clock_timestamp())));
    END IF;
    RETURN '{"ok": {"paused": false}}';
END
$$;

-- args: task_id, seq?, unroutable. The event comes once, when nobody who is there could do it; no state changes.
CREATE FUNCTION muster.task_unroutable(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    v_flag constant boolean := coalesce((args ->> 'unroutable')::boolean, true);
    v_changed boolean;
    v_rest text;
    v_lsn pg_lsn;
    v public.agent_tasks;
BEGIN
    UPDATE public.agent_tasks AS t SET unroutable = v_flag
    WHERE t.tenant_id = tenant AND t.task_id = v_task_id AND t.status || '' = 'queued' AND t.unroutable <> v_flag
      AND (args ->> 'seq' IS NULL OR t.seq = (args ->> 'seq')::integer)
    RETURNING t.* INTO v;
    v_changed := FOUND;
    IF v_changed AND v_flag THEN
        v_rest := muster.task_rest(v);
        IF octet_length(v_rest) > 900000 THEN
            v_rest := muster.task_rest_short(v);
        END IF;
        v_lsn := muster.task_tell(tenant, to_json(v_task_id)::text, 'unroutable',
                                  muster.task_head(to_json(v_task_id)::text, 'queued', muster.stamp(v.created_at), muster.stamp(v.started_at), NULL,
                                                   muster.stamp(v.updated_at)), v_rest, 'queued', muster.stamp(clock_timestamp()));
    END IF;
    RETURN jsonb_build_object('ok', jsonb_build_object('changed', v_changed));
END
$$;


-- What brokers do by themselves. Functions over tenants belong to muster_engine; each row is changed as its tenant's.

-- Whether anybody is present who could do a task and is not one of p_without.
CREATE FUNCTION muster.task_somebody(t public.agent_tasks, p_without text[]) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM public.agent_sessions AS s
        WHERE s.tenant_id = t.tenant_id AND s.gone_reason IS NULL AND s.state IS NOT NULL
          AND s.agent_id <> ALL (p_without) AND s.agent_id <> ALL (t.excluded) AND (t.wanted IS NULL OR s.agent_id = t.wanted)
          AND coalesce(s.state -> 'capabilities', '[]') @> to_jsonb(t.capabilities) AND coalesce(s.state -> 'labels', '{}') @> t.labels);
END
$$;

-- One task of a lost session. After the first crash at once, later with a pause; the third ends it, on two agents if
-- there are two: who had all three is not asked again where somebody else is present.
CREATE FUNCTION muster.task_release(t public.agent_tasks, p_actor text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF t.status = 'offered' THEN
        PERFORM muster.task_move(t, 'session_lost', 'queued', p_actor, 'engine', 'session lost');
    ELSIF t.status = 'cancelling' THEN
        PERFORM muster.task_move(t, 'session_lost', 'cancelled', p_actor, 'engine', t.reason);
    ELSIF t.status = 'running' THEN
        IF t.crashes >= 2 THEN
            IF t.crashed <@ ARRAY[t.assigned_to] AND muster.task_somebody(t, ARRAY[t.assigned_to]) THEN
                t.excluded := t.excluded || t.assigned_to;
            ELSE
                t.reason := format('poison: its agent was lost %s times', t.crashes + 1);
                PERFORM muster.task_move(t, 'session_lost', 'dead', p_actor, 'engine', t.reason);
                RETURN;
            END IF;
        END IF;
        t.until := clock_timestamp() + CASE WHEN t.crashes = 0 THEN interval '0' ELSE muster.task_delay(t.crashes - 1) END;
        t := muster.task_move(t, 'session_lost', 'scheduled', p_actor, 'engine', 'session lost');
        IF t.crashes = 1 THEN
            PERFORM muster.task_move(t, 'wake', 'queued', p_actor, 'engine');
        END IF;
    END IF;
END
$$;

-- args: agent, session?, not_session?, limit? (1,000). Release what the session holds; without one, what any session of
-- the agent but not_session holds. What waits for input stays: its answer asks for the session then. Who is changed
-- by another in this moment is left out, so that no two wait for each other: ask again while more is true.
CREATE FUNCTION muster.task_session_lost(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    v_agent constant text := args ->> 'agent';
    v_session constant text := args ->> 'session';
    v_kept constant text := args ->> 'not_session';
    v_limit constant integer := coalesce((args ->> 'limit')::integer, 1000);
    v_n integer := 0;
    t public.agent_tasks;
BEGIN
    FOR t IN
        SELECT * FROM public.agent_tasks AS x
        WHERE x.tenant_id = tenant AND x.status IN ('offered', 'running', 'cancelling') AND x.assigned_to = v_agent
          AND (v_session IS NULL OR x.session_id = v_session) AND x.session_id IS DISTINCT FROM v_kept
        ORDER BY x.task_id LIMIT v_limit FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        PERFORM muster.task_release(t, agent);
        v_n := v_n + 1;
    END LOOP;
    RETURN jsonb_build_object('ok', jsonb_build_object('released', v_n, 'more', EXISTS (
        SELECT FROM public.agent_tasks AS x
        WHERE x.tenant_id = tenant AND x.status IN ('offered', 'running', 'cancelling') AND x.assigned_to = v_agent
          AND (v_session IS NULL OR x.session_id = v_session) AND x.session_id IS DISTINCT FROM v_kept)));
END
$$;

-- The edge of one task whose clock has run out. False: there is none any more.
CREATE FUNCTION muster.task_fire(p_tenant text, p_task_id text, p_actor text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_now constant timestamptz := clock_timestamp();
    t public.agent_tasks;
BEGIN
    SELECT * INTO t FROM public.agent_tasks AS x
    WHERE x.tenant_id = p_tenant AND x.task_id = p_task_id AND x.wake_at + interval '0' <= v_now -- the key is to serve it, not the clocks
    FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF t.deadline <= v_now THEN
        t.reason := 'deadline';
        PERFORM muster.task_move(t, 'expire', 'expired', p_actor, 'engine', t.reason);
    ELSIF t.started_at IS NULL AND t.start_by <= v_now THEN
        t.reason := 'start_by';
        PERFORM muster.task_move(t, 'expire', 'expired', p_actor, 'engine', t.reason);
    ELSIF t.until <= v_now THEN
        CASE t.status
        WHEN 'scheduled' THEN
            PERFORM muster.task_move(t, 'wake', 'queued', p_actor, 'engine');
        WHEN 'offered' THEN
            PERFORM muster.task_move(t, 'offer_timeout', 'queued', p_actor, 'engine');
        WHEN 'running' THEN
            PERFORM muster.task_try_again(t, 'run_timeout', p_actor, 'engine', 'run_timeout', NULL);
        WHEN 'cancelling' THEN
            PERFORM muster.task_move(t, 'grace_over', 'cancelled', p_actor, 'engine', t.reason);
        ELSE -- no other state has such a clock; whoever set one, it stops no sweeper
            UPDATE public.agent_tasks AS x SET until = NULL, wake_at = muster.task_wake(x.status, NULL, x.progress_until, x.deadline, x.start_by, x.started_at)
            WHERE x.tenant_id = p_tenant AND x.task_id = p_task_id;
        END CASE;
    ELSE
        PERFORM muster.task_try_again(t, 'progress_timeout', p_actor, 'engine', 'progress_timeout', NULL);
    END IF;
    RETURN true;
END
$$;

-- Do what is due, at most p_limit edges, of shard p_shard of 16 of (tenant, task); NULL: of all. Gives how many.
CREATE FUNCTION muster.task_due(p_actor text, p_shard integer, p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_n integer := 0;
    v record;
BEGIN
    FOR v IN
        SELECT t.tenant_id, t.task_id FROM public.agent_tasks AS t
        WHERE t.wake_at <= statement_timestamp() AND (p_shard IS NULL OR hashtextextended(t.tenant_id || '/' || t.task_id, 0) & 15 = p_shard)
        ORDER BY t.wake_at LIMIT p_limit
        FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        PERFORM set_config('app.current_tenant', v.tenant_id, true);
        IF muster.task_fire(v.tenant_id COLLATE "default", v.task_id, p_actor) THEN
            v_n := v_n + 1;
        END IF;
    END LOOP;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN v_n;
END
$$;

-- Release what sessions hold that presence has called gone, when nobody heard of it; at most p_limit.
CREATE FUNCTION muster.task_orphans(p_actor text, p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_n integer := 0;
    v record;
BEGIN
    FOR v IN
        SELECT t.tenant_id, t.assigned_to, t.session_id FROM public.agent_tasks AS t
        JOIN public.agent_sessions AS s
          ON s.tenant_id = t.tenant_id AND s.session_id = ANY (ARRAY[t.session_id, t.assigned_to || '/' || t.session_id])
        WHERE t.status IN ('offered', 'running', 'cancelling') AND muster.session_over(s, t.assigned_to, t.updated_at)
        GROUP BY 1, 2, 3 -- each may be locked by somebody
    LOOP
        EXIT WHEN v_n >= p_limit;
        PERFORM set_config('app.current_tenant', v.tenant_id, true);
        v_n := v_n + (muster.task_session_lost(v.tenant_id, p_actor, jsonb_build_object(
            'agent', v.assigned_to, 'session', v.session_id, 'limit', p_limit)) #>> '{ok,released}')::integer;
    END LOOP;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN v_n;
END
$$;

-- Tell those who follow one task how it ended, or its children that it is cancelled, at most p_limit. Gives how many were told, and one for the
-- task itself when all are. Who is locked by another is told the next time: nobody waits here, so no two can wait for each other.
CREATE FUNCTION muster.task_settle_one(p_tenant text, p_task_id text, p_actor text, p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_parent public.agent_tasks;
    t public.agent_tasks;
    v_n integer := 0;
BEGIN
    SELECT * INTO v_parent FROM public.agent_tasks AS x WHERE x.tenant_id = p_tenant AND x.task_id = p_task_id;
    IF v_parent.status IN ('cancelling', 'cancelled') THEN
        FOR t IN
            SELECT * FROM public.agent_tasks AS x
            WHERE x.tenant_id = p_tenant AND x.parent_id = p_task_id
              AND x.status IN ('blocked', 'scheduled', 'queued', 'offered', 'running', 'input_required')
            LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
        LOOP
            PERFORM muster.task_stop(t, p_actor, 'engine', format('its parent %s is cancelled', p_task_id));
            v_n := v_n + 1;
        END LOOP;
    END IF;
    IF muster.task_over(v_parent.status) THEN
        FOR t IN
            SELECT x.* FROM public.agent_tasks AS x
            WHERE x.tenant_id = p_tenant
              AND x.task_id IN (SELECT d.task_id COLLATE "default" FROM muster.task_deps AS d WHERE d.tenant = p_tenant AND d.parent = p_task_id AND NOT d.met LIMIT p_limit)
            FOR NO KEY UPDATE SKIP LOCKED
        LOOP
            PERFORM muster.task_parent_over(t, p_task_id, v_parent.status = 'succeeded', p_actor);
            v_n := v_n + 1;
        END LOOP;
    END IF;
    IF EXISTS (SELECT FROM muster.task_deps AS d WHERE d.tenant = p_tenant AND d.parent = p_task_id AND NOT d.met) AND muster.task_over(v_parent.status)
       OR v_parent.status IN ('cancelling', 'cancelled')
          AND EXISTS (SELECT FROM public.agent_tasks AS x WHERE x.tenant_id = p_tenant AND x.parent_id = p_task_id
                      AND x.status IN ('blocked', 'scheduled', 'queued', 'offered', 'running', 'input_required')) THEN
        RETURN v_n;
    END IF;
    UPDATE public.agent_tasks AS x SET settled = true WHERE x.tenant_id = p_tenant AND x.task_id = p_task_id;
    RETURN v_n + 1;
END
$$;

-- A locked task waits for nobody any more.
CREATE FUNCTION muster.task_unblock(t public.agent_tasks, p_actor text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF t.run_after > clock_timestamp() THEN
        t.until := t.run_after;
        PERFORM muster.task_move(t, 'unblock', 'scheduled', p_actor, 'engine');
    ELSE
        PERFORM muster.task_move(t, 'unblock', 'queued', p_actor, 'engine');
    END IF;
END
$$;

-- One of the parents of a locked task has ended.
CREATE FUNCTION muster.task_parent_over(t public.agent_tasks, p_parent text, p_succeeded boolean, p_actor text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE muster.task_deps AS d SET met = true WHERE d.tenant = t.tenant_id AND d.task_id = t.task_id AND d.parent = p_parent AND NOT d.met;
    IF NOT FOUND OR t.status <> 'blocked' THEN
        RETURN;
    ELSIF NOT p_succeeded AND t.on_parent_failure = 'cancel' THEN
        t.reason := format('its parent %s did not succeed', p_parent);
        PERFORM muster.task_move(t, 'parent_failed', 'cancelled', p_actor, 'engine', t.reason);
        RETURN;
    END IF;
    t.blocked_on := greatest(t.blocked_on - 1, 0);
    IF t.blocked_on > 0 THEN
        UPDATE public.agent_tasks AS x SET blocked_on = t.blocked_on WHERE x.tenant_id = t.tenant_id AND x.task_id = t.task_id;
    ELSE
        PERFORM muster.task_unblock(t, p_actor);
    END IF;
END
$$;

-- Settle what has ended, and what ends by that. Gives how many were told or settled, p_limit or a little more: there may be more.
CREATE FUNCTION muster.task_settle(p_actor text, p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_n integer := 0;
    v_before integer := -1;
    v record;
BEGIN
    WHILE v_n > v_before AND v_n < p_limit LOOP
        v_before := v_n;
        FOR v IN
            SELECT t.tenant_id, t.task_id FROM public.agent_tasks AS t WHERE NOT t.settled
            ORDER BY t.tenant_id, t.task_id -- as its index has them: that serves, whatever statistics say of how many there are
            LIMIT p_limit * 10 FOR NO KEY UPDATE SKIP LOCKED -- of some somebody has all followers locked
        LOOP
            PERFORM set_config('app.current_tenant', v.tenant_id, true);
            v_n := v_n + muster.task_settle_one(v.tenant_id COLLATE "default", v.task_id, p_actor, p_limit - v_n);
            EXIT WHEN v_n >= p_limit;
        END LOOP;
    END LOOP;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN v_n;
END
$$;

-- Forget tasks that have ended p_keep ago and are settled, with what belongs to them, and late results after 24 hours;
-- at most p_limit of each.
CREATE FUNCTION muster.task_purge(p_keep interval, p_limit integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_n bigint;
BEGIN
    DELETE FROM muster.task_late AS l
    WHERE l.ctid = ANY (ARRAY(SELECT o.ctid FROM muster.task_late AS o WHERE o.at <= statement_timestamp() - interval '24 hours'
                              ORDER BY o.at LIMIT p_limit FOR UPDATE SKIP LOCKED));
    DELETE FROM public.agent_tasks AS t
    WHERE t.ctid = ANY (ARRAY(
        SELECT o.id FROM muster.tenants AS n
        CROSS JOIN unnest('{succeeded,failed,dead,cancelled,expired}'::text[]) AS s (state)
        CROSS JOIN LATERAL (
            SELECT x.ctid AS id FROM public.agent_tasks AS x
            WHERE x.tenant_id = n.name AND x.status = s.state AND x.status IN ('succeeded', 'failed', 'dead', 'cancelled', 'expired')
              AND x.completed_at <= statement_timestamp() - p_keep AND x.settled
            ORDER BY x.completed_at LIMIT p_limit FOR UPDATE SKIP LOCKED) AS o
        LIMIT p_limit));
    GET DIAGNOSTICS v_n = ROW_COUNT;
    RETURN v_n;
END
$$;


-- What the router reads. Each runs as its caller.

-- The tenants that have anything queued or held, for a holder that takes over. OFFSET 0 and its order:
-- a look at the index each, and not at all that is queued.
CREATE FUNCTION muster.task_tenants() RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.name::text FROM muster.tenants AS n
    WHERE EXISTS (SELECT FROM public.agent_tasks AS t WHERE t.tenant_id = n.name AND t.status = 'queued' ORDER BY t.route, t.pos OFFSET 0)
       OR EXISTS (SELECT FROM public.agent_tasks AS t WHERE t.tenant_id = n.name AND t.status IN ('offered', 'running', 'input_required', 'cancelling') OFFSET 0)
$$;

-- Lists of words as one text, for who would have to take arrays apart: chr(30) between them, and of a label chr(31) before its value.
CREATE FUNCTION muster.task_labels(p_labels jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_labels <> '{}' THEN (SELECT string_agg(e.key || chr(31) || CASE jsonb_typeof(e.value) WHEN 'string' THEN e.value #>> '{}' ELSE chr(31) END, chr(30))
                                        FROM jsonb_each(p_labels) AS e) END;

-- Here and below no plan may read the table from end to end: one that was made while there were few tasks is kept, and would read all that have come since.

-- The next tasks of a route behind a position; the first of all: (-9223372036854775808, '').
CREATE FUNCTION muster.task_peek(p_tenant text, p_route bigint, p_pos bigint, p_task_id text, p_limit integer)
RETURNS TABLE (task_id text, pos bigint, epoch bigint, seq integer, unroutable boolean, excluded text, crashed text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT t.task_id, t.pos, t.epoch, t.seq, t.unroutable, array_to_string(t.excluded, chr(30)), array_to_string(t.crashed, chr(30))
    FROM public.agent_tasks AS t
    WHERE t.tenant_id = p_tenant AND t.route = p_route AND t.status = 'queued' AND (t.pos, t.task_id) > (p_pos, p_task_id)
    ORDER BY t.pos, t.task_id LIMIT p_limit;
END
$$;

-- Those of these tasks that are queued, on which route, and as the how manieth they were asked for. An event may be heard before its transaction is
-- seen by others.
CREATE FUNCTION muster.task_look(p_tenant text, p_task_ids text[])
RETURNS TABLE (task_id text, pos bigint, epoch bigint, seq integer, unroutable boolean, excluded text, crashed text,
               route bigint, wanted text, capabilities text, labels text, group_key text, n bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT t.task_id, t.pos, t.epoch, t.seq, t.unroutable, array_to_string(t.excluded, chr(30)), array_to_string(t.crashed, chr(30)),
           t.route, t.wanted, array_to_string(t.capabilities, chr(30)), muster.task_labels(t.labels), t.group_key, i.n
    FROM unnest(p_task_ids) WITH ORDINALITY AS i (id, n) JOIN public.agent_tasks AS t ON t.tenant_id = p_tenant AND t.task_id = i.id
    WHERE t.status || '' = 'queued';
END
$$;

-- The routes of a tenant on which something is queued, behind one (-9223372036854775808: all), and what they ask for.
-- One step of an index each, however much is queued.
CREATE FUNCTION muster.task_routes(p_tenant text, p_after bigint, p_limit integer)
RETURNS TABLE (route bigint, wanted text, capabilities text, labels text, group_key text, pos bigint, task_id text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_after bigint := p_after;
BEGIN
    FOR v_n IN 1 .. p_limit LOOP
        RETURN QUERY SELECT t.route, t.wanted, array_to_string(t.capabilities, chr(30)), muster.task_labels(t.labels), t.group_key, t.pos, t.task_id
            FROM public.agent_tasks AS t
            WHERE t.tenant_id = p_tenant AND t.status = 'queued' AND t.route > v_after
            ORDER BY t.route, t.pos, t.task_id LIMIT 1;
        EXIT WHEN NOT FOUND;
        v_after := (SELECT t.route FROM public.agent_tasks AS t
                    WHERE t.tenant_id = p_tenant AND t.status = 'queued' AND t.route > v_after ORDER BY t.route LIMIT 1);
    END LOOP;
END
$$;

-- Who holds what, behind one in the order of states and ids.
CREATE FUNCTION muster.task_held(p_tenant text, p_after text, p_limit integer)
RETURNS TABLE (task_id text, state text, agent text, session text, epoch bigint, seq integer, group_key text, route bigint, until timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT t.task_id, t.status, t.assigned_to, t.session_id, t.epoch, t.seq, t.group_key, t.route, t.until
    FROM public.agent_tasks AS t
    WHERE t.tenant_id = p_tenant AND t.status IN ('offered', 'running', 'input_required', 'cancelling') AND t.task_id > p_after
    ORDER BY t.task_id LIMIT p_limit;
END
$$;

-- The assignments of the last p_ms milliseconds, but not of the last p_quiet_ms, that nobody has said anything of, to one agent or (NULL) to all,
-- as task_assign gave them: a broker that took over does not know whether they were sent, nor one whose agent had no connection whether they were
-- heard, nor one whom PostgreSQL gave no answer whether there is anything to be sent. In pages, by task_id, that end behind 4,000,000 bytes.
CREATE FUNCTION muster.task_unheard(p_tenant text, p_agent text, p_ms bigint, p_quiet_ms bigint, p_after text, p_limit integer)
RETURNS TABLE (task_id text, agent text, session text, epoch bigint, assignment jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT t.task_id, t.assigned_to, t.session_id, t.epoch, jsonb_build_object(
        'task_id', t.task_id, 'epoch', t.epoch, 'attempt', t.attempt, 'assigned_to', t.assigned_to, 'assigned_by', t.assigned_by,
        'description', t.description, 'payload', t.payload, 'priority', t.priority, 'deadline', muster.stamp(t.deadline),
        'dependencies', t.dependencies, 'metadata', t.metadata)
    FROM (SELECT p.*, sum(octet_length(concat(p.payload, p.metadata))) OVER (ORDER BY p.task_id) - octet_length(concat(p.payload, p.metadata)) AS before
          FROM (SELECT t.* FROM public.agent_tasks AS t
                WHERE t.tenant_id = p_tenant AND t.status IN ('offered', 'running') AND NOT t.progressed AND (p_agent IS NULL OR t.assigned_to = p_agent)
                  AND t.updated_at > clock_timestamp() - p_ms * interval '1 millisecond'
                  AND t.updated_at <= clock_timestamp() - p_quiet_ms * interval '1 millisecond' AND t.task_id > p_after
                ORDER BY t.task_id LIMIT p_limit) AS p) AS t
    WHERE t.before < 4000000 ORDER BY t.task_id;
END
$$;


-- Reading.

-- A task as `get` shows it, in at most so many bytes: the longest of what has no bound of its own is left out.
CREATE FUNCTION muster.task_shown_within(t public.agent_tasks, p_bytes integer) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_shown text := muster.task_shown(t);
    v_omitted text[] := '{}';
    v_field text;
BEGIN
    IF octet_length(v_shown) <= p_bytes THEN
        RETURN v_shown;
    END IF;
    FOR v_field IN
        SELECT f.name FROM (VALUES ('payload', t.payload), ('input', t.input), ('question', t.question), ('error', t.error), ('result', t.result),
                                   ('metadata', t.metadata)) AS f (name, value)
        WHERE f.value IS NOT NULL ORDER BY octet_length(f.value::text) DESC
    LOOP
        CASE v_field
        WHEN 'payload' THEN t.payload := NULL;
        WHEN 'input' THEN t.input := NULL;
        WHEN 'question' THEN t.question := NULL;
        WHEN 'error' THEN t.error := NULL;
        WHEN 'result' THEN t.result := NULL;
        ELSE t.metadata := '{}';
        END CASE;
        v_omitted := v_omitted || v_field;
        v_shown := concat(left(muster.task_shown(t), -1), ',"omitted":', to_json(v_omitted), '}');
        EXIT WHEN octet_length(v_shown) <= p_bytes;
    END LOOP;
    RETURN v_shown;
END
$$;

CREATE FUNCTION muster.task_get(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    v_shown text;
    v_late jsonb;
BEGIN
    SELECT muster.task_shown_within(t, 950000) INTO v_shown FROM public.agent_tasks AS t WHERE t.tenant_id = tenant AND t.task_id = v_task_id;
    IF NOT FOUND THEN
        RETURN muster.task_not_found(v_task_id);
    END IF;
    SELECT jsonb_build_object('agent', l.agent, 'epoch', l.epoch, 'at', muster.stamp(l.at), 'verb', l.verb)
           || CASE WHEN octet_length(l.body::text) + octet_length(v_shown) > 990000 THEN '{"omitted": ["body"]}' ELSE jsonb_build_object('body', l.body) END
    INTO v_late FROM muster.task_late AS l
    WHERE l.tenant = tenant AND l.task_id = v_task_id AND l.at > clock_timestamp() - interval '24 hours' ORDER BY l.at DESC LIMIT 1;
    RETURN jsonb_build_object('ok', v_shown::jsonb || CASE WHEN v_late IS NULL THEN '{}' ELSE jsonb_build_object('late_result', v_late) END);
END
$$;

-- Newest first; after is the last answer's next. Of a state that is an end, in the order of the ends. As many as fit
-- into an answer, one at least.
CREATE FUNCTION muster.task_list(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_limit constant integer := coalesce((args ->> 'limit')::integer, 100);
    v_state constant text := args ->> 'state';
    v_agent constant text := args ->> 'assigned_to';
    v_column constant text := CASE WHEN muster.task_over(v_state) THEN 'completed_at' ELSE 'created_at' END;
    v_after constant text := args ->> 'after';
    v_where text := '';
    v_rows jsonb;
    v_last text;
    v_n integer;
BEGIN
    IF v_after !~ '^\d{1,18}[.].' THEN
        RETURN muster.wrong('after', v_after, 'what an answer gave as next');
    ELSIF v_state IS NOT NULL AND NOT EXISTS (SELECT FROM muster.edges AS e WHERE e.machine = 'task' AND e.to_state = v_state) THEN
        RETURN muster.wrong('state', v_state, 'a state of tasks');
    END IF;
    IF v_state IS NOT NULL THEN
        v_where := format(' AND t.status = %L', v_state);
        IF muster.task_over(v_state) THEN
            v_where := v_where || ' AND t.status IN (''succeeded'', ''failed'', ''dead'', ''cancelled'', ''expired'')';
        ELSIF v_state <> 'queued' THEN
            v_where := v_where || ' AND t.status IN (''blocked'', ''scheduled'', ''offered'', ''running'', ''input_required'', ''cancelling'')';
        END IF;
    END IF;
    IF v_agent IS NOT NULL THEN
        v_where := v_where || format(' AND t.assigned_to = %L', v_agent);
    END IF;
    IF v_after IS NOT NULL THEN
        v_where := v_where || format(' AND t.%1$I <= %2$L AND (t.%1$I, t.task_id) < (%2$L, %3$L)', v_column,
            timestamptz '1970-01-01 00:00:00Z' + split_part(v_after, '.', 1)::bigint * interval '1 microsecond', substr(v_after, strpos(v_after, '.') + 1));
    END IF;
    -- Planned for what is asked: which index serves it depends on the state.
    EXECUTE format('SELECT coalesce(jsonb_agg(shown::jsonb ORDER BY n) FILTER (WHERE n <= $2 AND (n = 1 OR bytes <= 900000)), ''[]''), count(*)'
                   ' FROM (SELECT shown, n, sum(octet_length(shown) + 2) OVER (ORDER BY n) AS bytes'
                   ' FROM (SELECT muster.task_shown_within(t, 900000) AS shown, row_number() OVER (ORDER BY t.%1$I DESC, t.task_id DESC) AS n'
                   ' FROM public.agent_tasks AS t WHERE t.tenant_id = $1%2$s ORDER BY t.%1$I DESC, t.task_id DESC LIMIT $2 + 1) AS page) AS sums', v_column, v_where)
    INTO v_rows, v_n USING tenant, v_limit;
    IF v_n > jsonb_array_length(v_rows) THEN
        v_last := v_rows -> -1 ->> v_column;
        v_last := (extract(epoch FROM v_last::timestamptz) * 1000000)::bigint || '.' || (v_rows -> -1 ->> 'task_id');
    END IF;
    RETURN jsonb_build_object('ok', jsonb_build_object('tasks', v_rows)
                                    || CASE WHEN v_last IS NULL THEN '{}' ELSE jsonb_build_object('next', v_last) END);
END
$$;

CREATE FUNCTION muster.task_history(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_task_id constant text := args ->> 'task_id';
    v_limit constant integer := coalesce((args ->> 'limit')::integer, 100);
    v_after constant text := coalesce(args ->> 'after', '0');
    v_rows jsonb;
    v_n integer;
BEGIN
    IF v_after !~ '^\d{1,9}$' THEN
        RETURN muster.wrong('after', v_after, 'what an answer gave as next');
    END IF;
    SELECT coalesce(jsonb_agg(change ORDER BY n) FILTER (WHERE n <= v_limit AND (n = 1 OR bytes <= 900000)), '[]'), count(*) INTO v_rows, v_n
    FROM (SELECT change, n, sum(octet_length(change::text) + 2) OVER (ORDER BY n) AS bytes
          FROM (SELECT jsonb_strip_nulls(jsonb_build_object(
                           'seq', h.seq, 'at', muster.stamp(h.at), 'from', h.from_state, 'to', h.to_state, 'epoch', h.epoch, 'holder', h.holder,
                           'actor', h.actor, 'role', h.role, 'verb', h.verb, 'reason', h.reason))
                       || CASE WHEN h.detail IS NULL THEN '{}' ELSE jsonb_build_object('detail', h.detail) END AS change,
                       row_number() OVER (ORDER BY h.seq) AS n
                FROM muster.task_history AS h
                WHERE h.tenant = tenant AND h.task_id = v_task_id AND h.seq > v_after::integer
                ORDER BY h.seq LIMIT v_limit + 1) AS page) AS sums;
    IF v_n = 0 AND NOT EXISTS (SELECT FROM public.agent_tasks AS t WHERE t.tenant_id = tenant AND t.task_id = v_task_id) THEN
        RETURN muster.task_not_found(v_task_id);
    END IF;
    RETURN jsonb_build_object('ok', jsonb_build_object('history', v_rows)
                                    || CASE WHEN v_n > jsonb_array_length(v_rows) THEN jsonb_build_object('next', v_rows -> -1 ->> 'seq') ELSE '{}' END);
END
$$;

CREATE FUNCTION muster.task_stats(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    RETURN jsonb_build_object('ok', (
        SELECT jsonb_build_object(
            'total', coalesce(sum(n), 0), 'by_state', coalesce(jsonb_object_agg(state, n), '{}'),
            'paused', EXISTS (SELECT FROM muster.task_pauses AS p WHERE p.tenant = tenant),
            'oldest_queued_ms', coalesce(max(CASE state WHEN 'queued' THEN greatest(0, extract(epoch FROM clock_timestamp() - oldest) * 1000)::bigint END), 0))
        FROM (SELECT t.status AS state, count(*) AS n, min(t.updated_at) AS oldest FROM public.agent_tasks AS t WHERE t.tenant_id = tenant GROUP BY 1) AS s));
END
$$;


-- Plain SQL. Who writes the table is held to the edges; the columns that are the machine's keep what they have.

-- What submit would have refused, and brokers cannot do anything with; NULL: nothing.
CREATE FUNCTION muster.task_plain_wrong(t public.agent_tasks) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_bytes constant bigint := octet_length(t.description) + coalesce(octet_length(t.payload::text), 0) + octet_length(t.metadata::text) + octet_length(t.labels::text);
BEGIN
    RETURN CASE
        WHEN t.priority NOT IN ('low', 'medium', 'high', 'critical') THEN format('priority: %s came, low, medium, high or critical was expected', t.priority)
        WHEN t.on_parent_failure NOT IN ('cancel', 'run') THEN format('on_parent_failure: %s came, cancel or run was expected', t.on_parent_failure)
        WHEN t.assigned_to !~ '^[A-Za-z0-9-][A-Za-z0-9_-]{0,63}$' THEN format('assigned_to: %L came, the name of an agent was expected', left(t.assigned_to, 100))
        WHEN jsonb_typeof(t.labels) <> 'object' OR jsonb_path_exists(t.labels, '$.* ? (@.type() != "string")') THEN format('labels: %s came, a map of texts was expected', left(t.labels::text, 100))
        WHEN jsonb_typeof(t.metadata) <> 'object' THEN format('metadata: %s came, a map was expected', left(t.metadata::text, 100))
        WHEN t.max_attempts NOT BETWEEN 1 AND 1000 THEN format('max_attempts: %s came, 1 to 1000 was expected', t.max_attempts)
        WHEN t.timeout_ms NOT BETWEEN 1 AND 9999999999 THEN format('timeout_ms: %s came, 1 to 9999999999 was expected', t.timeout_ms)
        WHEN t.progress_timeout_ms NOT BETWEEN 1 AND 9999999999 THEN format('progress_timeout_ms: %s came, 1 to 9999999999 was expected', t.progress_timeout_ms)
        WHEN octet_length(t.assigned_by) > 256 THEN format('assigned_by: %s bytes came, at most 256 were expected', octet_length(t.assigned_by))
        WHEN octet_length(t.group_key) NOT BETWEEN 1 AND 256 THEN format('group_key: %s bytes came, 1 to 256 were expected', octet_length(t.group_key))
        WHEN NOT t.percent BETWEEN 0 AND 100 THEN format('percent: %s came, 0 to 100 was expected', t.percent)
        WHEN NOT isfinite(t.deadline) THEN 'deadline: infinity came, a time was expected'
        WHEN NOT isfinite(t.start_by) THEN 'start_by: infinity came, a time was expected'
        WHEN NOT isfinite(t.run_after) THEN 'run_after: infinity came, a time was expected'
        WHEN cardinality(t.capabilities) > 1000 OR array_position(t.capabilities, NULL) IS NOT NULL THEN
            format('capabilities: %s came, at most 1000 texts were expected', cardinality(t.capabilities))
        WHEN cardinality(t.dependencies) > 1000 THEN format('dependencies: %s came, at most 1000 were expected', cardinality(t.dependencies))
        WHEN v_bytes > 900000 THEN format('payload: %s bytes of JSON came with the rest, at most 900000 were expected', v_bytes)
        ELSE coalesce(muster.undecodable('payload', t.payload), muster.undecodable('metadata', t.metadata), muster.undecodable('labels', t.labels),
                      muster.undecodable('result', t.result), muster.undecodable('error', t.error), muster.undecodable('question', t.question),
                      muster.undecodable('input', t.input))
    END;
END
$$;

CREATE FUNCTION muster.task_plain() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_now constant timestamptz := clock_timestamp();
    v_status text;
    v_wrong text;
    v_edge muster.edges;
BEGIN
    PERFORM set_config('app.current_tenant', NEW.tenant_id, true);
    NEW.updated_at := v_now;
    IF TG_OP = 'INSERT' OR (NEW.priority, NEW.on_parent_failure, NEW.assigned_to, NEW.labels, NEW.metadata, NEW.max_attempts, NEW.timeout_ms,
                            NEW.progress_timeout_ms, NEW.description, NEW.payload, NEW.assigned_by, NEW.group_key, NEW.percent, NEW.deadline, NEW.start_by,
                            NEW.capabilities, NEW.result, NEW.error, NEW.question, NEW.input)
                           IS DISTINCT FROM (OLD.priority, OLD.on_parent_failure, OLD.assigned_to, OLD.labels, OLD.metadata, OLD.max_attempts, OLD.timeout_ms,
                                             OLD.progress_timeout_ms, OLD.description, OLD.payload, OLD.assigned_by, OLD.group_key, OLD.percent, OLD.deadline, OLD.start_by,
                                             OLD.capabilities, OLD.result, OLD.error, OLD.question, OLD.input) THEN
        v_wrong := muster.task_plain_wrong(NEW);
        IF v_wrong IS NOT NULL THEN
            RAISE check_violation USING MESSAGE = format('task %s: %s', NEW.task_id, v_wrong);
        END IF;
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NOT EXISTS (SELECT FROM muster.edges AS e WHERE e.machine = 'task' AND e.plain AND e.from_state = '' AND e.to_state = NEW.status) THEN
            RAISE check_violation USING MESSAGE = format('task %s: a new one cannot be %s: blocked, scheduled or queued was expected', NEW.task_id, NEW.status);
        ELSIF octet_length(NEW.task_id) NOT BETWEEN 1 AND 256 THEN
            RAISE check_violation USING MESSAGE = 'task_id: a text of 1 to 256 bytes was expected';
        END IF;
        NEW.seq := 1; NEW.epoch := 0; NEW.attempt := 0; NEW.crashes := 0; NEW.crashed := '{}'; NEW.excluded := '{}';
        NEW.session_id := NULL; NEW.wanted := NEW.assigned_to; NEW.progress_until := NULL; NEW.run_left := NULL; NEW.started_at := NULL;
        NEW.completed_at := NULL; NEW.followed := false; NEW.settled := true; NEW.unroutable := false; NEW.progressed := false;
        NEW.retry_of := NULL; NEW.until := NULL; NEW.pos := 0; NEW.result := NULL; NEW.error := NULL; NEW.reason := NULL;
        NEW.question := NULL; NEW.input := NULL;
        NEW.dependencies := ARRAY(SELECT d FROM unnest(NEW.dependencies) WITH ORDINALITY AS x (d, n) GROUP BY d ORDER BY min(n));
        NEW.capabilities := ARRAY(SELECT DISTINCT c COLLATE "C" FROM unnest(NEW.capabilities) AS c ORDER BY 1);
        NEW.created_at := greatest(timestamptz '1970-01-01 00:00:00Z', least(NEW.created_at, v_now)); -- lists go by it
        NEW.blocked_on := 0;
        NEW.status := 'queued';
        IF NEW.task_id = ANY (NEW.dependencies || NEW.parent_id) THEN
            RAISE check_violation USING MESSAGE = format('task %s: it cannot wait for itself', NEW.task_id);
        END IF;
        -- Whose tasks these are is looked at afterwards: whether the writer may write for this tenant at all is asked
        -- behind this trigger.
        IF NEW.dependencies <> '{}' THEN
            NEW.blocked_on := cardinality(NEW.dependencies);
            NEW.status := 'blocked';
        ELSIF NEW.run_after > v_now THEN
            NEW.status := 'scheduled';
            NEW.until := NEW.run_after;
        ELSE
            NEW.pos := muster.task_pos(v_now, NEW.priority);
        END IF;
    ELSE
        IF NEW.tenant_id IS DISTINCT FROM OLD.tenant_id THEN
            RAISE insufficient_privilege USING MESSAGE = format('task %s: it cannot be given to another tenant', OLD.task_id);
        ELSIF (NEW.id, NEW.task_id) IS DISTINCT FROM (OLD.id, OLD.task_id) OR NEW.dependencies <> OLD.dependencies THEN
            RAISE check_violation USING MESSAGE = format('task %s: its names and dependencies stay as they are', OLD.task_id);
        ELSIF NEW.assigned_to IS DISTINCT FROM OLD.assigned_to AND OLD.status IN ('offered', 'running', 'input_required', 'cancelling') THEN
            RAISE check_violation USING MESSAGE = format('task %s is %s, held by %s: it cannot be given to another', OLD.task_id, OLD.status, OLD.assigned_to);
        ELSIF muster.task_over(OLD.status) AND (NEW.result IS DISTINCT FROM OLD.result OR NEW.error IS DISTINCT FROM OLD.error) THEN
            RAISE check_violation USING MESSAGE = format('task %s is %s: what came of it stays as it is', OLD.task_id, OLD.status);
        END IF;
        v_status := NEW.status;
        NEW.status := OLD.status; NEW.seq := OLD.seq; NEW.epoch := OLD.epoch; NEW.attempt := OLD.attempt; NEW.crashes := OLD.crashes;
        NEW.crashed := OLD.crashed; NEW.excluded := OLD.excluded; NEW.session_id := OLD.session_id; NEW.wanted := OLD.wanted; NEW.pos := OLD.pos;
        NEW.until := OLD.until; NEW.progress_until := OLD.progress_until; NEW.run_left := OLD.run_left; NEW.blocked_on := OLD.blocked_on;
        NEW.followed := OLD.followed; NEW.settled := OLD.settled; NEW.unroutable := OLD.unroutable; NEW.progressed := OLD.progressed;
        NEW.retry_of := OLD.retry_of; NEW.parent_id := OLD.parent_id; NEW.created_at := OLD.created_at; NEW.started_at := OLD.started_at;
        NEW.completed_at := OLD.completed_at; NEW.run_after := OLD.run_after;
        IF NEW.assigned_to IS DISTINCT FROM OLD.assigned_to AND v_status = OLD.status AND NOT muster.task_over(OLD.status) THEN
            NEW.wanted := NEW.assigned_to;
        END IF;
        IF NEW.priority <> OLD.priority AND OLD.status = 'queued' THEN
            NEW.pos := OLD.pos + (muster.task_rank(OLD.priority) - muster.task_rank(NEW.priority)) * 60000000;
        END IF;
        IF v_status <> OLD.status THEN
            SELECT * INTO v_edge FROM muster.edges AS e
            WHERE e.machine = 'task' AND e.plain AND e.from_state = OLD.status AND e.to_state = v_status;
            IF NOT FOUND THEN
                RAISE check_violation USING MESSAGE = format('task %s is %s: it cannot become %s', OLD.task_id, OLD.status, v_status);
            ELSIF v_status = 'offered' THEN
                IF NEW.assigned_to IS NULL THEN
                    RAISE check_violation USING MESSAGE = format('task %s is %s: to be offered it takes assigned_to', OLD.task_id, OLD.status);
                END IF;
                NEW.until := v_now + interval '5 seconds';
            ELSIF v_status = 'scheduled' THEN
                NEW.until := v_now + muster.task_delay(NEW.attempt - 1);
            ELSIF OLD.status = 'blocked' THEN
                NEW.blocked_on := 0;
            END IF;
            NEW := muster.task_apply(NEW, v_edge, v_now);
            PERFORM muster.task_record(NEW, OLD.status, session_user::text, 'sql', 'sql', NULL, NULL);
        END IF;
    END IF;
    NEW.route := muster.task_route(NEW.wanted, NEW.capabilities, NEW.labels, NEW.group_key);
    NEW.wake_at := muster.task_wake(NEW.status, NEW.until, NEW.progress_until, NEW.deadline, NEW.start_by, NEW.started_at);
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN NEW;
END
$$;

-- Of those that one statement inserts the last of a cycle finds that somebody waits for it already.
CREATE FUNCTION muster.task_waits_for_itself(p_tenant text, p_task_id text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM muster.task_deps AS d WHERE d.tenant = p_tenant AND d.parent = p_task_id AND NOT d.met) THEN
        RETURN false;
    END IF;
    RETURN EXISTS (
        WITH RECURSIVE up (id) AS (
            SELECT d.parent FROM muster.task_deps AS d WHERE d.tenant = p_tenant AND d.task_id = p_task_id AND NOT d.met
            UNION
            SELECT d.parent FROM up JOIN muster.task_deps AS d ON d.tenant = p_tenant AND d.task_id = up.id AND NOT d.met)
        SELECT FROM up WHERE up.id = p_task_id);
END
$$;

CREATE FUNCTION muster.task_plain_done() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_unmet text[];
    v_error jsonb;
    t public.agent_tasks;
BEGIN
    PERFORM set_config('app.current_tenant', NEW.tenant_id, true);
    PERFORM muster.task_record(NEW, '', session_user::text, 'sql', 'submit', NULL, NULL);
    IF NEW.dependencies <> '{}' OR NEW.parent_id IS NOT NULL THEN
        SELECT f.unmet, f.error INTO v_unmet, v_error
        FROM muster.task_follow(NEW.tenant_id COLLATE "default", NEW.dependencies, NEW.parent_id, NEW.on_parent_failure, NULL, false) AS f;
        IF v_error IS NOT NULL THEN
            RAISE check_violation USING MESSAGE = format('task %s: %s', NEW.task_id, v_error #>> '{error,message}');
        END IF;
        INSERT INTO muster.task_deps (tenant, task_id, parent) SELECT NEW.tenant_id, NEW.task_id, d FROM unnest(v_unmet) AS d;
        IF muster.task_waits_for_itself(NEW.tenant_id, NEW.task_id) THEN
            RAISE check_violation USING MESSAGE = format('task %s: dependencies: a cycle came', NEW.task_id);
        END IF;
        UPDATE public.agent_tasks AS x SET blocked_on = cardinality(v_unmet)
        WHERE x.tenant_id = NEW.tenant_id AND x.task_id = NEW.task_id AND x.blocked_on <> cardinality(v_unmet)
        RETURNING * INTO t;
        IF t.status = 'blocked' AND t.blocked_on = 0 THEN
            PERFORM muster.task_unblock(t, session_user::text);
        END IF;
    END IF;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN NULL;
END
$$;

-- What belongs to a task goes with it; who waits for it goes on as if it had failed.
CREATE FUNCTION muster.task_forgotten() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    t public.agent_tasks;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        TRUNCATE muster.task_history, muster.task_deps, muster.task_late;
        RETURN NULL;
    END IF;
    PERFORM set_config('app.current_tenant', OLD.tenant_id, true);
    DELETE FROM muster.task_history AS h WHERE h.tenant = OLD.tenant_id AND h.task_id = OLD.task_id;
    DELETE FROM muster.task_late AS l WHERE l.tenant = OLD.tenant_id AND l.task_id = OLD.task_id;
    DELETE FROM muster.task_deps AS d WHERE d.tenant = OLD.tenant_id AND d.task_id = OLD.task_id;
    IF OLD.followed THEN
        FOR t IN
            SELECT x.* FROM muster.task_deps AS d
            JOIN public.agent_tasks AS x ON x.tenant_id = d.tenant AND x.task_id = d.task_id COLLATE "default"
            WHERE d.tenant = OLD.tenant_id AND d.parent = OLD.task_id AND NOT d.met
            FOR NO KEY UPDATE OF x
        LOOP
            PERFORM muster.task_parent_over(t, OLD.task_id, OLD.status = 'succeeded', session_user::text);
        END LOOP;
        DELETE FROM muster.task_deps AS d WHERE d.tenant = OLD.tenant_id AND d.parent = OLD.task_id;
    END IF;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN NULL;
END
$$;

-- What WHEN says is parsed again by every statement, and of a constant each byte: a name has 64.
-- The names decide the order: ours is the last of those that may change the row. An update is recorded where it is
-- checked, so that the machine's own updates have one condition to pass; an insert may still meet a conflict.
CREATE TRIGGER zz_machine BEFORE INSERT OR UPDATE ON public.agent_tasks FOR EACH ROW
    WHEN (current_user <> text 'muster_owner') EXECUTE FUNCTION muster.task_plain();
CREATE TRIGGER machine_inserted AFTER INSERT ON public.agent_tasks FOR EACH ROW
    WHEN (current_user <> text 'muster_owner') EXECUTE FUNCTION muster.task_plain_done();
CREATE TRIGGER machine_deleted AFTER DELETE ON public.agent_tasks FOR EACH ROW EXECUTE FUNCTION muster.task_forgotten();
CREATE TRIGGER machine_truncated AFTER TRUNCATE ON public.agent_tasks FOR EACH STATEMENT EXECUTE FUNCTION muster.task_forgotten();


CREATE OR REPLACE FUNCTION muster.forget(p_tenant text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('app.current_tenant', p_tenant, true);
    DELETE FROM public.agent_runs WHERE tenant_id = p_tenant;
    DELETE FROM muster.task_deps WHERE tenant = p_tenant; -- before the tasks: nobody goes on
    DELETE FROM public.agent_tasks WHERE tenant_id = p_tenant;
    DELETE FROM muster.task_history WHERE tenant = p_tenant;
    DELETE FROM muster.task_late WHERE tenant = p_tenant;
    DELETE FROM muster.task_pauses WHERE tenant = p_tenant;
    DELETE FROM public.agent_memories WHERE tenant_id = p_tenant;
    DELETE FROM public.agent_sessions WHERE tenant_id = p_tenant;
    DELETE FROM public.agent_events WHERE tenant_id = p_tenant;
    DELETE FROM muster.requests WHERE tenant = p_tenant;
    DELETE FROM muster.inboxes WHERE tenant = p_tenant;
    DELETE FROM muster.groups WHERE tenant = p_tenant;
    DELETE FROM muster.watches WHERE tenant = p_tenant;
END
$$;

-- What stands in the table already, from when it had no machine, gets what a row of the machine has. The owner is
-- under row level security everywhere else.
ALTER TABLE public.agent_tasks NO FORCE ROW LEVEL SECURITY;
-- Times that nobody looked at: lists go by them, and places in the queue are made of them. And metadata is a map, which grows.
UPDATE public.agent_tasks AS t SET
    created_at = greatest(timestamptz '1970-01-01 00:00:00Z', least(created_at, now())),
    started_at = CASE WHEN started_at IS NOT NULL THEN greatest(timestamptz '1970-01-01 00:00:00Z', least(started_at, now())) END,
    completed_at = CASE WHEN completed_at IS NOT NULL THEN greatest(timestamptz '1970-01-01 00:00:00Z', least(completed_at, now())) END,
    metadata = CASE jsonb_typeof(metadata) WHEN 'object' THEN metadata ELSE jsonb_build_object('value', metadata) END
WHERE NOT created_at BETWEEN '1970-01-01 00:00:00Z' AND now() OR NOT started_at BETWEEN '1970-01-01 00:00:00Z' AND now()
   OR NOT completed_at BETWEEN '1970-01-01 00:00:00Z' AND now() OR jsonb_typeof(metadata) <> 'object';
UPDATE public.agent_tasks AS t SET
    wanted = assigned_to, seq = 1, updated_at = coalesce(completed_at, started_at, created_at),
    status = CASE status WHEN 'blocked' THEN 'scheduled' ELSE status END, -- nobody would tell it that its parents are done
    completed_at = CASE WHEN muster.task_over(status) THEN coalesce(completed_at, created_at) END,
    until = CASE status WHEN 'blocked' THEN clock_timestamp() WHEN 'scheduled' THEN clock_timestamp()
                        WHEN 'offered' THEN clock_timestamp() WHEN 'cancelling' THEN clock_timestamp() END,
    epoch = CASE WHEN status IN ('offered', 'running', 'input_required', 'cancelling') THEN 1 ELSE 0 END,
    attempt = CASE WHEN status IN ('offered', 'running', 'input_required', 'cancelling') THEN 1 ELSE 0 END,
    route = muster.task_route(assigned_to, '{}', '{}', NULL),
    pos = CASE status WHEN 'queued' THEN muster.task_pos(created_at, priority) ELSE 0 END;
UPDATE public.agent_tasks AS t SET wake_at = muster.task_wake(status, until, NULL, deadline, NULL, started_at)
WHERE until IS NOT NULL OR deadline IS NOT NULL;
INSERT INTO muster.task_history (tenant, task_id, seq, at, from_state, to_state, epoch, holder, role, verb)
SELECT tenant_id, task_id, 1, updated_at, '', status, epoch,
       CASE WHEN status IN ('offered', 'running', 'input_required', 'cancelling') THEN assigned_to END, 'engine', 'import'
FROM public.agent_tasks;
ALTER TABLE public.agent_tasks FORCE ROW LEVEL SECURITY;

-- Grants and policies stand in always.sql.

RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM muster_owner;

-- What sees every tenant's rows.
ALTER FUNCTION muster.task_due(text, integer, integer) OWNER TO muster_engine;
ALTER FUNCTION muster.task_orphans(text, integer) OWNER TO muster_engine;
ALTER FUNCTION muster.task_settle(text, integer) OWNER TO muster_engine;
ALTER FUNCTION muster.task_purge(interval, integer) OWNER TO muster_engine;
ALTER FUNCTION muster.task_tenants() OWNER TO muster_engine;
