-- The machine of runs, over public.agent_runs. 015 says how machines are made; a plugin calls these functions and keeps no truth of its own.
--
-- args of the verbs are the bodies of the service run as they came, with what the plugin adds: role (of the caller; a user sees and cancels
-- what is his and works on nothing; human, admin and operator decide what was escalated), and verify_by_ms and lease_ms (its settings).
--
-- Three clocks: until, of the state (the time of a try, of a verifier, to find one), at which the sweeper makes an edge; run_after, before which
-- nobody begins another try; tier_at, when an escalation is told again.
--
-- Who works on a run is its agent (agent_id) or who started it. epoch is handed out with the run and again with every new try: one epoch has
-- one worker. Who verifies holds it under an epoch of its own (verify_epoch) and for a time (until), and is neither the worker nor anybody who
-- had a part in it. session_id is that of whoever holds the run now, the worker or the verifier.
-- COLLATE "default": see 016.

GRANT CREATE ON SCHEMA public TO muster_owner; -- for the indexes
SET LOCAL ROLE muster_owner;

ALTER TABLE public.agent_runs
    ADD COLUMN started_by text,
    ADD COLUMN verify text NOT NULL DEFAULT 'none',     -- or required
    ADD COLUMN verified boolean NOT NULL DEFAULT false, -- completed after a verdict, and not on its worker's word
    ADD COLUMN exclusive boolean NOT NULL DEFAULT false, -- no other run of its task lives beside it
    ADD COLUMN epoch bigint NOT NULL DEFAULT 1,
    ADD COLUMN seq integer NOT NULL DEFAULT 0,          -- of the last row in muster.run_history
    ADD COLUMN attempt integer NOT NULL DEFAULT 1,
    ADD COLUMN crashes integer NOT NULL DEFAULT 0,
    ADD COLUMN max_attempts integer NOT NULL DEFAULT 3, -- the try of that number is the last whose time may be over
    ADD COLUMN timeout_ms bigint,                       -- of a try
    ADD COLUMN run_left interval,                       -- of it, while it is blocked
    ADD COLUMN repeats integer NOT NULL DEFAULT 0,      -- tries given up or lost since it last came to a verifier, or a human sent it back
    ADD COLUMN run_after timestamptz,                   -- when it may be begun again; NULL: at once
    ADD COLUMN open_at timestamptz,                     -- from when on any agent may take it; NULL: never
    ADD COLUMN held_by text,                            -- the worker in progress, the verifier while it verifies
    ADD COLUMN session_id text,                         -- of held_by
    ADD COLUMN worker_session text,
    ADD COLUMN manifest jsonb,                          -- what the worker says that there is to verify; frozen
    ADD COLUMN digest text,                             -- SHA-256 of it
    ADD COLUMN verifier text,                           -- the last
    ADD COLUMN verifiers integer NOT NULL DEFAULT 1,    -- that have to pass it
    ADD COLUMN passed_by text[] NOT NULL DEFAULT '{}',  -- those that have passed this manifest
    ADD COLUMN verify_epoch bigint NOT NULL DEFAULT 0,
    ADD COLUMN verifiers_lost integer NOT NULL DEFAULT 0, -- of this manifest
    ADD COLUMN verification_limit integer NOT NULL DEFAULT 3,
    ADD COLUMN verify_within interval NOT NULL DEFAULT '1 hour',
    ADD COLUMN until timestamptz,                       -- the clock of the state: end of a try, verify by, end of a verifier's time
    ADD COLUMN tier integer NOT NULL DEFAULT 0,         -- which tier of humans it was told; 0: it is not escalated
    ADD COLUMN tier_at timestamptz,                     -- when the next is told; -infinity: when its time begins; NULL: never
    ADD COLUMN watched_at timestamptz NOT NULL DEFAULT clock_timestamp(), -- from when on its silence is looked at
    ADD COLUMN stuck integer NOT NULL DEFAULT 0,        -- how often it was called stuck since it was last heard
    ADD COLUMN reason text;

-- What a CHECK says is parsed again by every statement; the functions and the trigger look at both.
ALTER TABLE public.agent_runs DROP CONSTRAINT agent_runs_status_check, DROP CONSTRAINT agent_runs_progress_percent_check;
DROP TRIGGER touch ON public.agent_runs; -- the machine says when it was updated

-- Those of 007 stay: they are the event bridge's. None of these changes with progress, which is written in place.
CREATE INDEX agent_runs_wake ON public.agent_runs (until) WHERE until IS NOT NULL;
CREATE INDEX agent_runs_tier ON public.agent_runs (tier_at) WHERE tier_at IS NOT NULL;
CREATE INDEX agent_runs_watched ON public.agent_runs (watched_at) WHERE status NOT IN ('completed', 'failed', 'cancelled');
CREATE INDEX agent_runs_held ON public.agent_runs (tenant_id, session_id) WHERE session_id IS NOT NULL;
CREATE INDEX agent_runs_unbound ON public.agent_runs (watched_at) WHERE session_id IS NULL AND held_by IS NOT NULL;
CREATE INDEX agent_runs_ended ON public.agent_runs (tenant_id, completed_at) WHERE completed_at IS NOT NULL;
-- Of indexes that cost the same, as all do in an empty table, the planner takes the youngest: that has to be the key.
ALTER TABLE public.agent_runs DROP CONSTRAINT agent_runs_pkey;
ALTER TABLE public.agent_runs ADD CONSTRAINT agent_runs_pkey PRIMARY KEY (tenant_id, id);
ALTER TABLE public.agent_runs SET (fillfactor = 85);
-- Who helped the worker does not verify the run: by what somebody has answered since it began.
CREATE INDEX help_experts_answers ON muster.help_experts (tenant, agent, answered_at) WHERE answered_at IS NOT NULL;
-- Lists go by it.
ALTER TABLE public.agent_events NO FORCE ROW LEVEL SECURITY;
UPDATE public.agent_events SET created_at = greatest(timestamptz '1970-01-01 00:00:00Z', least(created_at, now()))
WHERE NOT (created_at >= '1970-01-01 00:00:00Z' AND created_at < '10000-01-01 00:00:00Z');
ALTER TABLE public.agent_events FORCE ROW LEVEL SECURITY;
ALTER TABLE public.agent_events ADD CONSTRAINT agent_events_created_at_check
    CHECK (created_at >= '1970-01-01 00:00:00Z' AND created_at < '10000-01-01 00:00:00Z') NOT VALID; -- it was looked at

CREATE TABLE muster.run_history (
    tenant text COLLATE "C" NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    seq integer NOT NULL,
    at timestamptz NOT NULL,
    from_state text NOT NULL, -- '': it was made
    to_state text NOT NULL,
    epoch bigint NOT NULL,
    verify_epoch bigint NOT NULL,
    holder text, -- who works on it or verifies it from then on; NULL: nobody
    actor text,
    role text NOT NULL, -- as what the actor did it: worker, owner, admin, human, verifier, engine, sql
    verb text NOT NULL,
    reason text,
    detail jsonb, -- of a verdict: its evidence, and the digest of what was looked at
    PRIMARY KEY (tenant, run_id, seq)
);
COMMENT ON TABLE muster.run_history IS 'Every change of status of every run; goes with its run.';

CREATE TABLE muster.run_ends (
    tenant text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    status text NOT NULL, -- cancelled or expired
    PRIMARY KEY (tenant, task_id)
);
COMMENT ON TABLE muster.run_ends IS 'Tasks that are over, with runs that could not be ended in that moment.';

INSERT INTO muster.edges (machine, verb, from_state, to_state, who, epoch_up, attempt, crash, plain)
SELECT 'run', verb, from_state, to_state, who, epoch_up, attempt, crash, plain FROM (VALUES
    ('start',         '',                         'pending',                  '{any}'::text[],               false, 0, false, true),
    ('claim',         'pending',                  'in_progress',              '{worker}',                    false, 0, false, true),
    ('claim',         'blocked',                  'in_progress',              '{worker}',                    false, 0, false, true),
    ('take',          'pending',                  'in_progress',              '{worker}',                    true,  0, false, false),
    ('block',         'pending',                  'blocked',                  '{worker}',                    false, 0, false, true),
    ('block',         'in_progress',              'blocked',                  '{worker}',                    false, 0, false, true),
    ('submit',        'in_progress',              'awaiting_verification',    '{worker}',                    false, 0, false, true),
    ('complete',      'pending',                  'completed',                '{worker}',                    false, 0, false, true),
    ('complete',      'in_progress',              'completed',                '{worker}',                    false, 0, false, true),
    ('complete',      'awaiting_verification',    'completed',                '{worker}',                    false, 0, false, true),
    ('complete',      'escalated_to_human',       'completed',                '{human}',                     true,  0, false, true),
    ('fail',          'pending',                  'failed',                   '{worker}',                    false, 0, false, true),
    ('fail',          'in_progress',              'failed',                   '{worker}',                    false, 0, false, true),
    ('fail',          'blocked',                  'failed',                   '{worker}',                    false, 0, false, true),
    ('fail',          'awaiting_verification',    'failed',                   '{worker}',                    false, 0, false, true),
    ('fail',          'escalated_to_human',       'failed',                   '{human}',                     true,  0, false, true),
    ('escalate',      'pending',                  'escalated_to_human',       '{worker}',                    false, 0, false, true),
    ('escalate',      'in_progress',              'escalated_to_human',       '{worker}',                    false, 0, false, true),
    ('escalate',      'blocked',                  'escalated_to_human',       '{worker}',                    false, 0, false, true),
    ('retry',         'in_progress',              'pending',                  '{worker}',                    true,  1, false, true),
    ('retry',         'escalated_to_human',       'pending',                  '{human}',                     true,  1, false, true),
    ('retry',         'verification_failed',      'pending',                  '{engine}',                    true,  1, false, true),
    ('retry',         'verification_failed',      'in_progress',              '{engine}',                    true,  1, false, true),
    ('run_timeout',   'in_progress',              'pending',                  '{engine}',                    true,  1, false, false),
    ('run_timeout',   'in_progress',              'failed',                   '{engine}',                    true,  0, false, false),
    ('session_lost',  'in_progress',              'pending',                  '{engine}',                    true,  0, true,  false),
    ('session_lost',  'in_progress',              'failed',                   '{engine}',                    true,  0, true,  false),
    ('cancel',        'pending',                  'cancelled',                '{worker,owner,admin,engine}', false, 0, false, true),
    ('cancel',        'in_progress',              'cancelled',                '{worker,owner,admin,engine}', true,  0, false, true),
    ('cancel',        'blocked',                  'cancelled',                '{worker,owner,admin,engine}', false, 0, false, true),
    ('verify',        'awaiting_verification',    'verification_in_progress', '{verifier}',                  false, 0, false, true),
    ('verifier_lost', 'verification_in_progress', 'awaiting_verification',    '{verifier,engine}',           false, 0, false, true),
    ('give_up',       'awaiting_verification',    'escalated_to_human',       '{engine}',                    false, 0, false, true),
    ('pass',          'verification_in_progress', 'awaiting_verification',    '{verifier}',                  false, 0, false, false), -- not the last
    ('pass',          'verification_in_progress', 'verification_passed',      '{verifier}',                  false, 0, false, true),
    ('reject',        'verification_in_progress', 'verification_failed',      '{verifier}',                  false, 0, false, true),
    ('finish',        'verification_passed',      'completed',                '{engine}',                    false, 0, false, true),
    ('give_up',       'verification_failed',      'escalated_to_human',       '{engine}',                    false, 0, false, true),
    ('expire',        'pending',                  'failed',                   '{engine}',                    true,  0, false, false),
    ('expire',        'in_progress',              'failed',                   '{engine}',                    true,  0, false, false),
    ('expire',        'blocked',                  'failed',                   '{engine}',                    true,  0, false, false),
    ('expire',        'awaiting_verification',    'failed',                   '{engine}',                    true,  0, false, false),
    ('expire',        'verification_in_progress', 'failed',                   '{engine}',                    true,  0, false, true),
    ('expire',        'verification_passed',      'failed',                   '{engine}',                    true,  0, false, true),
    ('expire',        'verification_failed',      'failed',                   '{engine}',                    true,  0, false, true),
    ('expire',        'escalated_to_human',       'failed',                   '{engine}',                    true,  0, false, false)
) AS e (verb, from_state, to_state, who, epoch_up, attempt, crash, plain);
-- What stood in the table before it had a machine.
INSERT INTO muster.edges (machine, verb, from_state, to_state, who)
SELECT 'run', 'import', '', state, '{engine}'
FROM unnest('{pending,in_progress,awaiting_verification,verification_in_progress,verification_passed,verification_failed,completed,failed,blocked,escalated_to_human,cancelled}'::text[]) AS s (state);


-- Small things.

CREATE FUNCTION muster.run_over(p_status text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_status IN ('completed', 'failed', 'cancelled');

CREATE FUNCTION muster.run_percent(p_text text) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_text <> 'NaN' THEN greatest(0, least(100, p_text::numeric))::double precision END; -- least() passes NULL over

-- A run as `get` shows it is this in braces, an event's body has from and at in addition. The columns of the event bridge are always there,
-- the others where they are set. Text, since it goes into the WAL as text.
CREATE FUNCTION muster.run_inner(r public.agent_runs) RETURNS text
LANGUAGE sql STABLE
RETURN concat('"run_id":', to_json((r).id), ',"task_id":', coalesce(to_json((r).task_id)::text, 'null'), ',"user_id":', coalesce(to_json((r).user_id)::text, 'null'),
              ',"agent_name":', to_json((r).agent_name), ',"agent_id":', to_json((r).agent_id), ',"status":"', (r).status,
              '","current_step":', coalesce(to_json((r).current_step)::text, 'null'), ',"progress_percent":', (r).progress_percent,
              ',"result":', coalesce((r).result::text, 'null'), ',"error":', coalesce(to_json((r).error)::text, 'null'), ',"metadata":', (r).metadata,
              ',"verification_attempts":', (r).verification_attempts, ',"verification_evidence":', (r).verification_evidence,
              ',"started_at":"', muster.stamp((r).started_at), '","completed_at":', coalesce('"' || muster.stamp((r).completed_at) || '"', 'null'),
              ',"updated_at":"', muster.stamp((r).updated_at), '","epoch":', (r).epoch, ',"attempt":', (r).attempt,
              ',"verify":"', (r).verify, '","verified":', (r).verified::text, ',"started_by":' || to_json((r).started_by)::text,
              CASE WHEN (r).exclusive THEN ',"exclusive":true' END, CASE WHEN (r).crashes > 0 THEN ',"crashes":' || (r).crashes END,
              ',"timeout_ms":' || (r).timeout_ms, CASE WHEN (r).timeout_ms IS NOT NULL THEN ',"max_attempts":' || (r).max_attempts END,
              ',"run_after":"' || muster.stamp((r).run_after) || '"',
              ',"manifest":' || (r).manifest::text, ',"digest":"' || (r).digest || '"',
              CASE WHEN (r).verifier IS NOT NULL THEN concat(',"verifier":', to_json((r).verifier), ',"verify_epoch":', (r).verify_epoch) END,
              CASE WHEN (r).verifiers > 1 THEN concat(',"verifiers":', (r).verifiers, ',"passed_by":', to_json((r).passed_by)) END,
              ',"until":"' || muster.stamp(coalesce((r).until, nullif((r).tier_at, '-infinity'))) || '"', ',"reason":' || to_json((r).reason)::text,
              CASE WHEN (r).tier > 0 THEN ',"tier":' || (r).tier END,
              CASE WHEN (r).stuck > 0 THEN ',"stuck":' || (r).stuck END);

-- The same in at most so many bytes: the longest of what has no bound of its own is left out, and named in omitted.
CREATE FUNCTION muster.run_within(r public.agent_runs, p_bytes integer, OUT shown text, OUT trimmed public.agent_runs, OUT omitted text[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_field text;
BEGIN
    shown := muster.run_inner(r);
    trimmed := r;
    omitted := '{}';
    IF octet_length(shown) <= p_bytes THEN
        RETURN;
    END IF;
    FOR v_field IN
        SELECT f.name FROM (VALUES ('result', r.result::text), ('metadata', r.metadata::text), ('manifest', r.manifest::text), ('error', r.error),
                                   ('verification_evidence', r.verification_evidence::text), ('current_step', r.current_step), ('reason', r.reason)) AS f (name, value)
        WHERE f.value IS NOT NULL ORDER BY octet_length(f.value) DESC
    LOOP
        CASE v_field
        WHEN 'result' THEN trimmed.result := NULL;
        WHEN 'metadata' THEN trimmed.metadata := '{}';
        WHEN 'manifest' THEN trimmed.manifest := NULL;
        WHEN 'error' THEN trimmed.error := left(trimmed.error, 1000);
        WHEN 'verification_evidence' THEN trimmed.verification_evidence := '[]';
        WHEN 'current_step' THEN trimmed.current_step := left(trimmed.current_step, 1000);
        ELSE trimmed.reason := left(trimmed.reason, 1000);
        END CASE;
        omitted := omitted || v_field;
        shown := concat(muster.run_inner(trimmed), ',"omitted":', to_json(omitted));
        EXIT WHEN octet_length(shown) <= p_bytes;
    END LOOP;
END
$$;

CREATE FUNCTION muster.run_tell(r public.agent_runs, p_event text, p_from text, p_at timestamptz) RETURNS pg_lsn
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_inner text := muster.run_inner(r);
BEGIN
    IF octet_length(v_inner) > 900000 THEN -- brokers decode no more than 1,000,000
        v_inner := (muster.run_within(r, 900000)).shown;
    END IF;
    RETURN pg_logical_emit_message(true, 'muster.evt', convert_to(concat(
        '{"tenant":"', r.tenant_id, '","service":"run","event":"', p_event, '","key":', to_json(r.id), ',"body":{', v_inner,
        ',"from":"', p_from, '","at":"', muster.stamp(p_at), '"}}'), 'UTF8'));
END
$$;

CREATE FUNCTION muster.run_not_found(p_run_id text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN muster.error('not_found', format('run_id: there is no run %s', coalesce(left(p_run_id, 100), 'without an id')), 'run_id');

CREATE FUNCTION muster.run_refusal(r public.agent_runs, p_verb text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN muster.error('failed_precondition', format('run_id: run %s is %s, which has no %s', left((r).id, 100), (r).status, p_verb), 'run_id');

CREATE FUNCTION muster.run_not_yours(r public.agent_runs, p_why text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN muster.error('permission_denied', format('run_id: run %s (%s) %s', left((r).id, 100), (r).status, p_why), 'run_id');

CREATE FUNCTION muster.run_done(r public.agent_runs) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_build_object('ok', jsonb_build_object('status', (r).status, 'epoch', (r).epoch));

CREATE FUNCTION muster.is_map(p jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(jsonb_typeof(p) IN ('object', 'null'), true);

CREATE FUNCTION muster.is_list(p jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(jsonb_typeof(p) IN ('array', 'null'), true);

CREATE FUNCTION muster.merged(p_old jsonb, p_new jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE jsonb_typeof(p_new) WHEN 'object' THEN p_old || p_new ELSE p_old END;

-- What grows with what is said of a run, and not for ever; NULL: nothing that is too long.
CREATE FUNCTION muster.run_grown(r public.agent_runs, p_args jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_size integer;
    v_n bigint;
BEGIN
    IF pg_column_size(p_args) > 100000 AND muster.task_too_long('body', p_args) IS NOT NULL THEN
        RETURN muster.task_too_long(coalesce((SELECT f FROM unnest('{result,evidence,error,metadata}'::text[]) AS f
                                              WHERE p_args ? f ORDER BY octet_length((p_args -> f)::text) DESC LIMIT 1), 'body'), p_args);
    ELSIF jsonb_typeof(p_args -> 'metadata') = 'object' THEN
        v_size := octet_length(muster.merged(r.metadata, p_args -> 'metadata')::text);
        IF v_size > 65536 AND v_size > octet_length(r.metadata::text) THEN
            RETURN muster.error('invalid_argument', format('metadata: run %s would have %s bytes of it, at most 65536 were expected', left(r.id, 100), v_size), 'metadata');
        END IF;
        v_n := (SELECT count(*) FROM jsonb_object_keys(muster.merged(r.metadata, p_args -> 'metadata')));
        IF v_n > 1000 THEN -- brokers decode no map of more than 1,024
            RETURN muster.error('invalid_argument', format('metadata: run %s would have %s keys of it, at most 1000 were expected', left(r.id, 100), v_n), 'metadata');
        END IF;
    END IF;
    IF jsonb_typeof(p_args -> 'evidence') = 'array' THEN
        v_size := octet_length(r.verification_evidence::text) + octet_length((p_args -> 'evidence')::text);
        IF v_size > 2000000 THEN
            RETURN muster.error('invalid_argument', format('evidence: run %s would have %s bytes of it, at most 2000000 were expected', left(r.id, 100), v_size), 'evidence');
        END IF;
        v_n := jsonb_array_length(r.verification_evidence) + jsonb_array_length(p_args -> 'evidence');
        IF v_n > 4000 THEN -- nor a list of more than 4,096
            RETURN muster.error('invalid_argument', format('evidence: run %s would have %s pieces of it, at most 4000 were expected', left(r.id, 100), v_n), 'evidence');
        END IF;
    END IF;
    RETURN NULL;
END
$$;


-- The machine.

-- When a try may begin, who may begin it, and how long it may take. What was given up or lost is not begun again at once but for the first time;
-- then there is a pause as between the tries of a task. A failed verification and a human have lasted long enough. Its worker comes first, for
-- half a minute, unless it was lost.
CREATE FUNCTION muster.run_pause(r public.agent_runs, e muster.edges, p_now timestamptz) RETURNS public.agent_runs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    r.run_after := NULL;
    r.open_at := NULL;
    IF e.from_state = 'escalated_to_human' THEN
        r.repeats := 0;
        r.max_attempts := greatest(r.max_attempts, r.attempt + 2);
    ELSIF e.from_state = 'verification_failed' THEN -- counted apart
        r.max_attempts := r.max_attempts + 1;
    ELSIF e.from_state = 'in_progress' THEN
        r.repeats := r.repeats + 1;
        IF r.repeats > 1 THEN
            r.run_after := p_now + muster.task_delay(r.repeats - 2);
        END IF;
    END IF;
    IF e.to_state = 'in_progress' THEN
        r.until := p_now + coalesce(r.run_left, r.timeout_ms * interval '1 millisecond');
    ELSE
        r.open_at := coalesce(r.run_after, p_now) + CASE WHEN e.crash THEN interval '0' ELSE interval '30 seconds' END;
    END IF;
    r.run_left := NULL;
    RETURN r;
END
$$;

-- A row after an edge. What the verb says of it (who holds it, how long, results) is in it already.
CREATE FUNCTION muster.run_apply(r public.agent_runs, e muster.edges, p_now timestamptz) RETURNS public.agent_runs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    r.status := e.to_state;
    r.seq := r.seq + 1;
    r.updated_at := p_now;
    r.watched_at := p_now;
    r.stuck := 0;
    r.attempt := r.attempt + e.attempt;
    IF e.epoch_up THEN
        r.epoch := r.epoch + 1;
    END IF;
    IF e.crash THEN
        r.crashes := r.crashes + 1;
    END IF;
    IF e.to_state NOT IN ('in_progress', 'verification_in_progress') THEN
        r.held_by := NULL;
        r.session_id := NULL;
    END IF;
    IF e.to_state = 'blocked' THEN -- its time stands still
        r.run_left := CASE WHEN r.until IS NOT NULL THEN greatest(r.until - p_now, interval '0') END;
    END IF;
    IF e.to_state NOT IN ('awaiting_verification', 'verification_in_progress', 'verification_passed', 'verification_failed') THEN
        r.until := NULL;
    END IF;
    IF e.from_state = 'escalated_to_human' THEN
        r.tier := 0;
        r.tier_at := NULL;
    END IF;
    IF e.to_state NOT IN ('pending', 'blocked') THEN
        r.run_after := NULL;
        r.open_at := NULL;
    END IF;
    CASE e.to_state
    WHEN 'pending', 'in_progress' THEN
        r.manifest := NULL;
        r.digest := NULL;
        r.verifier := NULL;
        r.passed_by := '{}';
        r.worker_session := r.session_id;
        IF e.verb = 'retry' THEN
            r.error := NULL;
        END IF;
        IF e.to_state = 'pending' OR e.from_state = 'verification_failed' OR r.timeout_ms IS NOT NULL THEN
            r := muster.run_pause(r, e, p_now);
        END IF;
    WHEN 'awaiting_verification' THEN
        IF e.from_state = 'in_progress' THEN
            r.verifiers_lost := 0;
            r.repeats := 0;
        ELSIF e.verb <> 'pass' THEN
            r.verifiers_lost := r.verifiers_lost + 1;
        END IF;
        r.verifier := NULL;
    WHEN 'escalated_to_human' THEN
        r.tier := 1;
        r.tier_at := '-infinity';
    WHEN 'verification_in_progress' THEN
        r.verify_epoch := r.verify_epoch + 1;
    WHEN 'verification_passed', 'verification_failed' THEN -- whoever did not go on with it at once: the sweeper does
        r.verification_attempts := r.verification_attempts + 1;
        r.verified := e.to_state = 'verification_passed';
        r.until := p_now;
    WHEN 'completed' THEN
        r.progress_percent := 100;
        r.completed_at := p_now;
        r.error := NULL;
    WHEN 'failed', 'cancelled' THEN
        r.completed_at := p_now;
    ELSE
        NULL;
    END CASE;
    RETURN r;
END
$$;

-- History and event of a change that is in the row.
CREATE FUNCTION muster.run_record(r public.agent_runs, p_from text, p_actor text, p_role text, p_verb text, p_reason text, p_detail jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_lsn pg_lsn;
BEGIN
    INSERT INTO muster.run_history (tenant, run_id, seq, at, from_state, to_state, epoch, verify_epoch, holder, actor, role, verb, reason, detail)
    VALUES (r.tenant_id, r.id, r.seq, r.updated_at, p_from, r.status, r.epoch, r.verify_epoch, r.held_by, p_actor, p_role, p_verb, p_reason, p_detail);
    v_lsn := muster.run_tell(r, r.status, p_from, r.updated_at);
END
$$;

-- Make a change of a row that the caller has locked. Every change of status goes through here, but those of plain SQL.
CREATE FUNCTION muster.run_move(r public.agent_runs, p_verb text, p_to text, p_actor text, p_role text,
                                p_reason text DEFAULT NULL, p_detail jsonb DEFAULT NULL) RETURNS public.agent_runs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_from constant text := r.status;
    v_edge muster.edges;
BEGIN
    SELECT * INTO v_edge FROM muster.edges AS e
    WHERE e.machine = 'run' AND e.verb = p_verb AND e.from_state = v_from AND e.to_state = p_to;
    IF NOT FOUND OR NOT (p_role = ANY (v_edge.who)) THEN -- the functions below ask before
        RAISE EXCEPTION 'muster.run_move: a % came, from % to % by %, an edge of muster.edges was expected', p_verb, v_from, p_to, p_role;
    END IF;
    IF p_reason IS NOT NULL THEN
        r.reason := p_reason;
    END IF;
    r := muster.run_apply(r, v_edge, clock_timestamp());
    UPDATE public.agent_runs AS x SET
        status = r.status, seq = r.seq, updated_at = r.updated_at, watched_at = r.watched_at, stuck = r.stuck, attempt = r.attempt, epoch = r.epoch,
        crashes = r.crashes, max_attempts = r.max_attempts, run_left = r.run_left, repeats = r.repeats, run_after = r.run_after, open_at = r.open_at,
        tier = r.tier, tier_at = r.tier_at, passed_by = r.passed_by,
        agent_id = r.agent_id, held_by = r.held_by, session_id = r.session_id, worker_session = r.worker_session,
        until = r.until, verify_within = r.verify_within, manifest = r.manifest, digest = r.digest, verifier = r.verifier, verify_epoch = r.verify_epoch, verifiers_lost = r.verifiers_lost,
        verification_limit = r.verification_limit, verification_attempts = r.verification_attempts, verification_evidence = r.verification_evidence,
        verified = r.verified, current_step = r.current_step, progress_percent = r.progress_percent, result = r.result, error = r.error,
        metadata = r.metadata, completed_at = r.completed_at, reason = r.reason
    WHERE x.tenant_id = r.tenant_id AND x.id = r.id;
    PERFORM muster.run_record(r, v_from, p_actor, p_role, p_verb, p_reason, p_detail);
    RETURN r;
END
$$;

-- Lock a run; a user has only his own. Where it may end with its task, the task is locked first, as a task that ends locks its runs.
CREATE FUNCTION muster.run_lock(p_tenant text, p_agent text, p_args jsonb, p_with_task boolean DEFAULT false) RETURNS public.agent_runs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_run_id constant text := p_args ->> 'run_id';
    v_task_id text;
    r public.agent_runs;
BEGIN
    IF p_with_task THEN
        SELECT x.task_id INTO v_task_id FROM public.agent_runs AS x WHERE x.tenant_id = p_tenant AND x.id = v_run_id;
        IF v_task_id IS NOT NULL THEN
            PERFORM FROM public.agent_tasks AS t WHERE t.tenant_id = p_tenant AND t.task_id = v_task_id FOR NO KEY UPDATE;
        END IF;
    END IF;
    SELECT * INTO r FROM public.agent_runs AS x WHERE x.tenant_id = p_tenant AND x.id = v_run_id FOR NO KEY UPDATE;
    IF p_args ->> 'role' = 'user' AND r.user_id IS DISTINCT FROM p_agent THEN
        RETURN NULL;
    END IF;
    RETURN r;
END
$$;

-- As what the caller works on it; NULL: he does not.
CREATE FUNCTION muster.run_works(r public.agent_runs, p_agent text, p_args jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(p_args ->> 'role', '') <> 'user' AND ((r).agent_id = p_agent OR (r).started_by IS NOT DISTINCT FROM p_agent);

CREATE FUNCTION muster.run_decides(p_args jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(p_args ->> 'role', '') IN ('human', 'admin', 'operator');

-- Whether a verb of the worker has to be refused; NULL: no. A stale epoch is one that was handed out, and the run has another now.
CREATE FUNCTION muster.run_hold(r public.agent_runs, p_agent text, p_args jsonb, p_verb text, p_states text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_epoch constant bigint := p_args ->> 'epoch';
    v_works constant boolean := muster.run_works(r, p_agent, p_args);
    v_held bigint;
BEGIN
    IF v_works AND v_epoch IS DISTINCT FROM r.epoch AND v_epoch IS NOT NULL THEN
        v_held := v_epoch;
    ELSIF v_works AND r.status = ANY (p_states) THEN
        RETURN NULL;
    ELSIF NOT v_works THEN
        v_held := (SELECT max(h.epoch) FROM muster.run_history AS h
                   WHERE h.tenant = r.tenant_id AND h.run_id = r.id AND h.holder = p_agent AND h.to_state = 'in_progress' AND h.epoch < r.epoch);
    END IF;
    IF v_held IS NOT NULL THEN
        RETURN muster.error('aborted', format('epoch: %s came for run %s, which is %s with epoch %s (stale_epoch)',
                            coalesce(v_epoch, v_held), left(r.id, 100), r.status, r.epoch), 'epoch');
    ELSIF NOT v_works AND r.status = ANY (p_states) THEN
        RETURN muster.run_not_yours(r, 'is worked on by another: only its agent and who started it may do that');
    END IF;
    RETURN muster.run_refusal(r, p_verb);
END
$$;

-- The session in which an agent is present; NULL: none that presence knows of, and none that it could lose.
CREATE FUNCTION muster.run_session(p_tenant text, p_agent text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (SELECT s.session_id FROM public.agent_sessions AS s
            WHERE s.tenant_id = p_tenant AND s.agent_id = p_agent COLLATE "default" AND s.gone_reason IS NULL AND s.state IS NOT NULL
            ORDER BY s.started_at DESC LIMIT 1);
END
$$;

-- The session in which an agent was present at a time, by what is written now: presence writes a moment later what it told, and by another clock.
CREATE FUNCTION muster.run_session_at(p_tenant text, p_agent text, p_at timestamptz) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (SELECT s.session_id FROM public.agent_sessions AS s
            WHERE s.tenant_id = p_tenant AND s.agent_id = p_agent COLLATE "default" AND (s.gone_reason IS NOT NULL OR s.state IS NOT NULL)
              AND s.started_at <= p_at + interval '5 seconds' AND (s.gone_reason IS NULL OR coalesce(s.ended_at >= p_at, true))
            ORDER BY greatest(s.started_at, p_at), s.started_at DESC LIMIT 1);
END
$$;

-- When the holder of a run began, itself; NULL: it was written in SQL, by somebody who is in no session.
CREATE FUNCTION muster.run_begun(r public.agent_runs) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (SELECT h.at FROM muster.run_history AS h
            WHERE h.tenant = r.tenant_id AND h.run_id = r.id AND h.seq = r.seq AND h.role IN ('worker', 'verifier'));
END
$$;

-- The holder is found to have begun in that session. As with progress nothing is told of it.
CREATE FUNCTION muster.run_bind(r public.agent_runs, p_session text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    UPDATE public.agent_runs AS x SET session_id = p_session, worker_session = CASE WHEN x.status = 'in_progress' THEN p_session ELSE x.worker_session END
    WHERE x.tenant_id = r.tenant_id AND x.id = r.id;
END
$$;


-- Starting.

CREATE FUNCTION muster.run_number(p_field text, p_args jsonb, p_most bigint) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_args ->> p_field !~ '^[1-9]\d{0,9}$' OR (p_args ->> p_field)::numeric > p_most
            THEN muster.wrong(p_field, p_args ->> p_field, 'a whole number from 1 to ' || p_most) END;

-- Whether a task takes no new runs; NULL: no. Who ends it waits until the new run can be seen.
CREATE FUNCTION muster.run_task_gone(p_tenant text, p_task_id text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_status text;
BEGIN
    SELECT t.status INTO v_status FROM public.agent_tasks AS t WHERE t.tenant_id = p_tenant AND t.task_id = p_task_id COLLATE "default" FOR SHARE;
    RETURN CASE WHEN v_status IN ('cancelled', 'expired') THEN v_status END;
END
$$;

CREATE FUNCTION muster.run_check(p_args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_field text;
    v_value text;
BEGIN
    FOREACH v_field IN ARRAY '{agent_name,agent_id,run_id,task_id,user_id}'::text[] LOOP
        v_value := p_args ->> v_field;
        IF (v_value IS NULL AND v_field = 'agent_name')
           OR (v_value IS NOT NULL AND (jsonb_typeof(p_args -> v_field) <> 'string' OR octet_length(v_value) NOT BETWEEN 1 AND 256)) THEN
            RETURN muster.wrong(v_field, v_value, 'a text of 1 to 256 bytes');
        END IF;
    END LOOP;
    IF p_args ->> 'verify' NOT IN ('none', 'required') THEN
        RETURN muster.wrong('verify', p_args ->> 'verify', 'none or required');
    ELSIF jsonb_typeof(p_args -> 'exclusive') NOT IN ('boolean', 'null') THEN
        RETURN muster.wrong('exclusive', p_args ->> 'exclusive', 'true or false');
    ELSIF p_args ->> 'exclusive' = 'true' AND p_args ->> 'task_id' IS NULL THEN
        RETURN muster.wrong('task_id', NULL, 'the task of which it is the only run');
    ELSIF NOT muster.is_map(p_args -> 'metadata') THEN
        RETURN muster.wrong('metadata', p_args ->> 'metadata', 'a map');
    ELSIF octet_length(p_args ->> 'metadata') > 65536 THEN
        RETURN muster.wrong('metadata', octet_length(p_args ->> 'metadata') || ' bytes', 'at most 65536 bytes');
    END IF;
    RETURN coalesce(muster.run_number('verifiers', p_args, 16), muster.run_number('max_attempts', p_args, 1000), muster.run_number('timeout_ms', p_args, 9999999999));
END
$$;

-- Whether a new run of a task has to be refused, because the task is over or because of those that live; NULL: no. Nobody waits for other
-- starts: with several requests in one transaction two could wait for each other.
CREATE FUNCTION muster.run_alone(p_tenant text, p_task_id text, p_exclusive boolean) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_lock constant bigint := hash_record_extended(ROW('run'::text, p_tenant, p_task_id), 0);
    v_gone constant text := muster.run_task_gone(p_tenant, p_task_id);
    v_other text;
BEGIN
    IF v_gone IS NOT NULL THEN
        RETURN muster.error('failed_precondition', format('task_id: task %s is %s, and no run of it begins', left(p_task_id, 100), v_gone), 'task_id');
    ELSIF NOT (CASE WHEN p_exclusive THEN pg_try_advisory_xact_lock(v_lock) ELSE pg_try_advisory_xact_lock_shared(v_lock) END) THEN
        RETURN muster.error('unavailable', format('task_id: runs of task %s are being started', left(p_task_id, 100)), 'task_id', 100);
    END IF;
    v_other := (SELECT x.id FROM public.agent_runs AS x
                WHERE x.tenant_id = p_tenant AND x.task_id = p_task_id AND (p_exclusive OR x.exclusive) AND NOT muster.run_over(x.status) LIMIT 1);
    IF v_other IS NOT NULL THEN
        RETURN muster.error('failed_precondition', format('exclusive: run %s of task %s goes on', left(v_other, 100), left(p_task_id, 100)), 'exclusive');
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION muster.run_start(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_now constant timestamptz := clock_timestamp();
    v_user constant boolean := coalesce(args ->> 'role', '') = 'user';
    v_run_id text := args ->> 'run_id';
    v_task_id constant text := args ->> 'task_id';
    v_user_id constant text := CASE WHEN v_user THEN coalesce(args ->> 'user_id', agent) ELSE args ->> 'user_id' END;
    -- A user works on nothing: what he starts is for the agent of that name.
    v_agent_id constant text := coalesce(args ->> 'agent_id', CASE WHEN v_user THEN args ->> 'agent_name' ELSE agent END);
    v_exclusive constant boolean := coalesce(args ->> 'exclusive', '') = 'true';
    v_error jsonb := muster.run_check(args);
    r public.agent_runs;
BEGIN
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    ELSIF v_user AND v_user_id <> agent THEN
        RETURN muster.error('permission_denied', format('user_id: %s came, a user starts runs for himself', left(v_user_id, 100)), 'user_id');
    END IF;
    IF v_run_id IS NULL THEN -- UUIDv7
        v_run_id := lpad(to_hex((extract(epoch FROM v_now) * 1000)::bigint), 12, '0');
        v_run_id := left(v_run_id, 8) || '-' || right(v_run_id, 4) || '-7' || substr(gen_random_uuid()::text, 16);
    END IF;
    IF v_task_id IS NOT NULL THEN
        v_error := muster.run_alone(tenant, v_task_id, v_exclusive);
        IF v_error IS NOT NULL THEN
            RETURN v_error;
        END IF;
    END IF;
    INSERT INTO public.agent_runs AS x (tenant_id, id, task_id, user_id, agent_name, agent_id, metadata, started_at, updated_at, watched_at,
                                        started_by, verify, exclusive, seq, verifiers, max_attempts, timeout_ms)
    VALUES (tenant, v_run_id, v_task_id, v_user_id, args ->> 'agent_name', v_agent_id, muster.merged('{}', args -> 'metadata'), v_now, v_now, v_now,
            agent, coalesce(args ->> 'verify', 'none'), v_exclusive, 1, coalesce((args ->> 'verifiers')::integer, 1),
            coalesce((args ->> 'max_attempts')::integer, 3), (args ->> 'timeout_ms')::bigint)
    ON CONFLICT DO NOTHING
    RETURNING x.* INTO r;
    IF NOT FOUND THEN
        RETURN muster.error('already_exists', format('run_id: there is a run %s already', left(v_run_id, 100)), 'run_id');
    END IF;
    PERFORM muster.run_record(r, '', agent, 'any', 'start', NULL, NULL);
    RETURN jsonb_build_object('ok', jsonb_build_object('run_id', r.id, 'epoch', r.epoch, 'status', r.status));
END
$$;


-- Working.

-- What a verb of the worker says beside its state: a step, metadata; an error: it cannot be.
CREATE FUNCTION muster.run_said(p_args jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT muster.is_map(p_args -> 'metadata') THEN
        RETURN muster.wrong('metadata', p_args ->> 'metadata', 'a map');
    ELSIF jsonb_typeof(p_args -> 'step') NOT IN ('string', 'null') THEN
        RETURN muster.wrong('step', p_args ->> 'step', 'a text');
    ELSIF jsonb_typeof(p_args -> 'percent') NOT IN ('number', 'null') THEN
        RETURN muster.wrong('percent', p_args ->> 'percent', 'a number');
    ELSIF p_args ->> 'epoch' !~ '^\d{1,18}$' THEN
        RETURN muster.wrong('epoch', p_args ->> 'epoch', 'the epoch of the run');
    END IF;
    RETURN NULL;
END
$$;

-- Why a run is not begun yet; NULL: it may be. Only its worker may before others.
CREATE FUNCTION muster.run_early(r public.agent_runs, p_works boolean) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_from constant timestamptz := greatest(r.run_after, CASE WHEN NOT p_works THEN r.open_at END);
BEGIN
    IF v_from > clock_timestamp() THEN
        RETURN muster.error('failed_precondition', format('run_id: run %s is %s, and may be taken %s %s', left(r.id, 100), r.status,
            CASE WHEN p_works THEN 'from' ELSE format('by others than %s from', left(r.agent_id, 100)) END, muster.stamp(v_from)), 'run_id');
    END IF;
    RETURN NULL;
END
$$;

-- The worker begins: its own, or one that is tried again and open to any agent.
CREATE FUNCTION muster.run_claim(r public.agent_runs, p_agent text, p_args jsonb) RETURNS public.agent_runs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    r.held_by := p_agent;
    r.session_id := muster.run_session(r.tenant_id, p_agent);
    IF muster.run_works(r, p_agent, p_args) THEN
        RETURN muster.run_move(r, 'claim', 'in_progress', p_agent, 'worker');
    END IF;
    r.agent_id := p_agent;
    RETURN muster.run_move(r, 'take', 'in_progress', p_agent, 'worker');
END
$$;

-- Changes no status, but that the run's own worker begins with it: no history, no event; who watches the table sees it. Never back.
CREATE FUNCTION muster.run_progress(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_error jsonb := muster.run_said(args);
    v_percent double precision;
    v_session text;
    r public.agent_runs;
BEGIN
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    r := muster.run_lock(tenant, agent, args);
    IF r.id IS NULL THEN
        RETURN muster.run_not_found(args ->> 'run_id');
    END IF;
    v_error := coalesce(muster.run_hold(r, agent, args, 'progress', '{pending,in_progress,blocked}'),
                        CASE WHEN r.status = 'pending' AND r.run_after IS NOT NULL THEN muster.run_early(r, true) END, muster.run_grown(r, args));
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    v_percent := greatest(r.progress_percent, muster.run_percent(args ->> 'percent'));
    IF r.status = 'pending' THEN
        r.progress_percent := v_percent;
        r.current_step := coalesce(args ->> 'step', r.current_step);
        r.metadata := muster.merged(r.metadata, args -> 'metadata');
        r := muster.run_claim(r, agent, args);
    ELSE
        IF r.held_by = agent AND r.session_id IS NULL THEN -- he said hello a moment before he began, or later
            v_session := muster.run_session(tenant, agent);
        END IF;
        UPDATE public.agent_runs AS x SET
            session_id = coalesce(x.session_id, v_session), worker_session = coalesce(x.worker_session, v_session), progress_percent = v_percent, current_step = coalesce(args ->> 'step', x.current_step), stuck = 0,
            metadata = muster.merged(x.metadata, args -> 'metadata'), updated_at = clock_timestamp()
        WHERE x.tenant_id = tenant AND x.id = r.id;
    END IF;
    RETURN muster.run_done(r);
END
$$;

-- Hand it to verifiers: what the worker claims, and by what it is to be measured, is frozen.
CREATE FUNCTION muster.run_submit(r public.agent_runs, p_agent text, p_args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_field text;
BEGIN
    FOREACH v_field IN ARRAY '{evidence,criteria}'::text[] LOOP
        IF NOT muster.is_list(p_args -> v_field) THEN
            RETURN muster.wrong(v_field, p_args ->> v_field, 'a list');
        END IF;
    END LOOP;
    IF p_args -> 'criteria' @? 'strict $[*] ? (@.type() != "string")' THEN
        RETURN muster.wrong('criteria', p_args ->> 'criteria', 'a list of texts');
    END IF;
    r.manifest := jsonb_build_object('attempt', r.attempt, 'epoch', r.epoch, 'agent_id', r.agent_id, 'step', r.current_step, 'result', p_args -> 'result',
        'evidence', coalesce(nullif(p_args -> 'evidence', 'null'), '[]'), 'criteria', coalesce(nullif(p_args -> 'criteria', 'null'), '[]'), 'metadata', r.metadata);
    r.digest := encode(sha256(convert_to(r.manifest::text, 'UTF8')), 'hex');
    r.verify_within := coalesce((p_args ->> 'verify_by_ms')::bigint, 3600000) * interval '1 millisecond';
    r.until := clock_timestamp() + r.verify_within;
    r := muster.run_move(r, 'submit', 'awaiting_verification', p_agent, 'worker', NULL, jsonb_build_object('digest', r.digest));
    RETURN muster.run_done(r);
END
$$;

-- The worker sets a status; those that have verbs of their own are those. Of those that verifiers set, see run_verification.
CREATE FUNCTION muster.run_status(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_to constant text := args ->> 'status';
    v_error jsonb := muster.run_said(args);
    r public.agent_runs;
BEGIN
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    CASE v_to
    WHEN 'completed' THEN RETURN muster.run_complete(tenant, agent, args);
    WHEN 'failed' THEN RETURN muster.run_fail(tenant, agent, args);
    WHEN 'escalated_to_human' THEN RETURN muster.run_escalate(tenant, agent, args);
    WHEN 'cancelled' THEN RETURN muster.run_cancel(tenant, agent, args);
    WHEN 'pending' THEN RETURN muster.run_retry(tenant, agent, args);
    WHEN 'verification_in_progress', 'verification_passed', 'verification_failed' THEN RETURN muster.run_verification(tenant, agent, args);
    WHEN 'in_progress', 'blocked', 'awaiting_verification' THEN NULL;
    ELSE RETURN muster.wrong('status', v_to, 'a status of runs');
    END CASE;
    r := muster.run_lock(tenant, agent, args);
    IF r.id IS NULL THEN
        RETURN muster.run_not_found(args ->> 'run_id');
    ELSIF v_to = 'awaiting_verification' AND r.status = 'verification_in_progress' AND r.held_by = agent THEN
        RETURN muster.run_done(muster.run_verifier_lost(r, agent, 'verifier', coalesce(args ->> 'step', 'the verifier gave it back')));
    ELSIF v_to = 'in_progress' AND r.status = 'pending' AND r.open_at IS NOT NULL AND coalesce(args ->> 'role', 'agent') = 'agent'
          AND args ->> 'epoch' IS NULL AND NOT muster.run_works(r, agent, args) THEN
        v_error := muster.run_early(r, false);
    ELSE
        v_error := muster.run_hold(r, agent, args, v_to, CASE v_to WHEN 'in_progress' THEN '{pending,blocked,in_progress}'::text[]
            WHEN 'blocked' THEN '{pending,in_progress,blocked}' ELSE '{in_progress,awaiting_verification}' END);
        IF v_error IS NULL AND v_to = 'in_progress' AND r.status <> v_to AND r.run_after IS NOT NULL THEN
            v_error := muster.run_early(r, true);
        END IF;
    END IF;
    v_error := coalesce(v_error, muster.run_grown(r, args));
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    r.current_step := coalesce(args ->> 'step', r.current_step);
    r.metadata := muster.merged(r.metadata, args -> 'metadata');
    IF r.status = v_to THEN
        IF v_to = 'awaiting_verification' THEN -- said twice: what is frozen stays
            RETURN muster.run_done(r);
        END IF;
        UPDATE public.agent_runs AS x SET current_step = r.current_step, metadata = r.metadata, updated_at = clock_timestamp(), stuck = 0
        WHERE x.tenant_id = tenant AND x.id = r.id;
    ELSIF v_to = 'in_progress' THEN
        r := muster.run_claim(r, agent, args);
    ELSIF v_to = 'blocked' THEN
        r := muster.run_move(r, 'block', 'blocked', agent, 'worker');
    ELSE
        RETURN muster.run_submit(r, agent, args);
    END IF;
    RETURN muster.run_done(r);
END
$$;

-- A human decides what was escalated. NULL: it is not, or he is none.
CREATE FUNCTION muster.run_human(r public.agent_runs, p_args jsonb) RETURNS jsonb
LANGUAGE sql STABLE
RETURN CASE WHEN (r).status = 'escalated_to_human' AND NOT muster.run_decides(p_args)
            THEN muster.run_not_yours(r, 'waits for a human: only names of role human or admin may do that') END;

CREATE FUNCTION muster.run_complete(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_result constant jsonb := nullif(args -> 'result', 'null');
    v_error jsonb := muster.run_said(args);
    r public.agent_runs;
BEGIN
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    r := muster.run_lock(tenant, agent, args, true);
    IF r.id IS NULL THEN
        RETURN muster.run_not_found(args ->> 'run_id');
    ELSIF r.status = 'escalated_to_human' THEN
        v_error := muster.run_human(r, args);
    ELSE
        v_error := muster.run_hold(r, agent, args, 'complete', '{pending,in_progress,awaiting_verification,completed}');
    END IF;
    v_error := coalesce(v_error, muster.run_grown(r, args));
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    ELSIF r.status = 'completed' THEN
        IF r.verified AND r.result IS NULL AND v_result IS NOT NULL THEN -- of what was verified the result comes once
            UPDATE public.agent_runs AS x SET result = v_result, updated_at = clock_timestamp() WHERE x.tenant_id = tenant AND x.id = r.id;
        ELSIF v_result IS DISTINCT FROM r.result AND v_result IS NOT NULL OR NOT r.verified AND v_result IS DISTINCT FROM r.result THEN
            RETURN muster.run_refusal(r, 'complete');
        END IF;
        RETURN muster.run_done(r);
    ELSIF r.verify = 'required' AND r.status <> 'escalated_to_human' THEN
        RETURN muster.error('failed_precondition', format('run_id: run %s is %s, and has to be verified before it is completed', left(r.id, 100), r.status), 'run_id');
    END IF;
    r.current_step := coalesce(args ->> 'step', r.current_step);
    r.metadata := muster.merged(r.metadata, args -> 'metadata');
    r.result := coalesce(v_result, r.result, nullif(r.manifest -> 'result', 'null'));
    r.verified := false;
    IF r.status = 'escalated_to_human' THEN
        r := muster.run_move(r, 'complete', 'completed', agent, 'human', coalesce(args ->> 'reason', 'completed by ' || agent));
        RETURN muster.run_done(r) || muster.run_end_task(r);
    END IF;
    r := muster.run_move(r, 'complete', 'completed', agent, 'worker');
    RETURN muster.run_done(r);
END
$$;

CREATE FUNCTION muster.run_fail(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_error jsonb := muster.run_said(args);
    r public.agent_runs;
BEGIN
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    r := muster.run_lock(tenant, agent, args);
    IF r.id IS NULL THEN
        RETURN muster.run_not_found(args ->> 'run_id');
    ELSIF r.status = 'escalated_to_human' THEN
        v_error := muster.run_human(r, args);
    ELSE
        v_error := muster.run_hold(r, agent, args, 'fail', '{pending,in_progress,blocked,awaiting_verification}');
    END IF;
    v_error := coalesce(v_error, muster.run_grown(r, args));
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    r.current_step := coalesce(args ->> 'step', r.current_step);
    r.metadata := muster.merged(r.metadata, args -> 'metadata');
    r.error := coalesce(args ->> 'error', args ->> 'reason', r.error);
    IF r.status = 'escalated_to_human' THEN
        r := muster.run_move(r, 'fail', 'failed', agent, 'human', coalesce(args ->> 'reason', 'failed by ' || agent));
    ELSE
        r := muster.run_move(r, 'fail', 'failed', agent, 'worker');
    END IF;
    RETURN muster.run_done(r);
END
$$;

-- The reason goes into error, where the event bridge has it.
CREATE FUNCTION muster.run_escalate(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_reason constant text := coalesce(args ->> 'reason', args ->> 'step', 'its worker asks for a human');
    v_error jsonb := muster.run_said(args);
    r public.agent_runs;
BEGIN
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    r := muster.run_lock(tenant, agent, args);
    IF r.id IS NULL THEN
        RETURN muster.run_not_found(args ->> 'run_id');
    END IF;
    v_error := coalesce(muster.run_hold(r, agent, args, 'escalate', '{pending,in_progress,blocked}'), muster.run_grown(r, args));
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    r.current_step := coalesce(args ->> 'step', r.current_step);
    r.metadata := muster.merged(r.metadata, args -> 'metadata');
    r.error := v_reason;
    RETURN muster.run_done(muster.run_move(r, 'escalate', 'escalated_to_human', agent, 'worker', v_reason));
END
$$;

-- Another try: the worker gives this one up, or a human sends back what was escalated, with three verifications more.
CREATE FUNCTION muster.run_retry(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_error jsonb := muster.run_said(args);
    r public.agent_runs;
BEGIN
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    r := muster.run_lock(tenant, agent, args);
    IF r.id IS NULL THEN
        RETURN muster.run_not_found(args ->> 'run_id');
    ELSIF r.status = 'escalated_to_human' THEN
        v_error := muster.run_human(r, args);
    ELSE
        v_error := muster.run_hold(r, agent, args, 'retry', '{in_progress}');
    END IF;
    v_error := coalesce(v_error, muster.run_grown(r, args));
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    r.current_step := coalesce(args ->> 'step', r.current_step);
    r.metadata := muster.merged(r.metadata, args -> 'metadata');
    IF r.status = 'escalated_to_human' THEN
        r.verification_limit := r.verification_attempts + 3;
        r.crashes := 0;
        r := muster.run_move(r, 'retry', 'pending', agent, 'human', coalesce(args ->> 'reason', 'sent back by ' || agent));
    ELSE
        r := muster.run_move(r, 'retry', 'pending', agent, 'worker', args ->> 'reason');
    END IF;
    RETURN muster.run_done(r);
END
$$;

CREATE FUNCTION muster.run_cancel(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_error jsonb := muster.run_said(args);
    v_role text;
    r public.agent_runs;
BEGIN
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    r := muster.run_lock(tenant, agent, args);
    IF r.id IS NULL THEN
        RETURN muster.run_not_found(args ->> 'run_id');
    END IF;
    v_role := CASE WHEN args ->> 'role' IN ('admin', 'operator') THEN 'admin' WHEN r.user_id = agent OR r.started_by = agent THEN 'owner' END;
    IF v_role IS NULL THEN
        v_role := 'worker';
        v_error := muster.run_hold(r, agent, args, 'cancel', '{pending,in_progress,blocked}');
    ELSIF r.status NOT IN ('pending', 'in_progress', 'blocked') THEN
        v_error := muster.run_refusal(r, 'cancel');
    ELSIF (args ->> 'epoch')::bigint <> r.epoch THEN
        v_error := muster.error('aborted', format('epoch: %s came for run %s, which is %s with epoch %s (stale_epoch)',
                                                  args ->> 'epoch', left(r.id, 100), r.status, r.epoch), 'epoch');
    END IF;
    v_error := coalesce(v_error, muster.run_grown(r, args));
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    r.metadata := muster.merged(r.metadata, args -> 'metadata');
    RETURN muster.run_done(muster.run_move(r, 'cancel', 'cancelled', agent, v_role, args ->> 'reason'));
END
$$;


-- Verification.

-- The part that somebody has, or had, in a run; NULL: none. He works on it or ever did, it is his, he had the task or a piece of it in hand, he
-- helped with one of these or helped one of its workers meanwhile, or has passed it already. Of sessions only the worker's are compared: each is
-- one agent's.
CREATE FUNCTION muster.run_part(r public.agent_runs, p_agent text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_tasks text[];
    v_workers text[];
    v_since timestamptz;
BEGIN
    IF p_agent = r.agent_id THEN
        RETURN 'its worker';
    ELSIF p_agent IN (r.started_by, r.user_id) THEN
        RETURN 'its owner';
    ELSIF p_agent = ANY (r.passed_by) THEN
        RETURN 'those who have passed it';
    ELSIF EXISTS (SELECT FROM muster.run_history AS h
                  WHERE h.tenant = r.tenant_id AND h.run_id = r.id AND p_agent IN (h.holder, h.actor)
                    AND (h.to_state = 'in_progress' OR h.role IN ('worker', 'owner'))) THEN
        RETURN 'those who have worked on it';
    END IF;
    IF r.task_id IS NOT NULL THEN
        v_tasks := ARRAY(WITH RECURSIVE below (task_id) AS (
                             SELECT r.task_id
                             UNION
                             SELECT t.task_id FROM below AS b JOIN public.agent_tasks AS t ON t.tenant_id = r.tenant_id AND t.parent_id = b.task_id)
                         SELECT task_id FROM below);
        IF EXISTS (SELECT FROM muster.task_history AS h
                   WHERE h.tenant = r.tenant_id AND h.task_id = ANY (v_tasks) AND h.holder = p_agent AND h.to_state <> 'offered') THEN
            RETURN 'its worker''s delegates';
        END IF;
    END IF;
    v_workers := ARRAY(SELECT h.holder FROM muster.run_history AS h WHERE h.tenant = r.tenant_id AND h.run_id = r.id AND h.to_state = 'in_progress') || r.agent_id;
    v_since := least(r.started_at, (SELECT min(t.created_at) FROM public.agent_tasks AS t WHERE t.tenant_id = r.tenant_id AND t.task_id = ANY (v_tasks)));
    RETURN (SELECT 'those who have helped with it'
            FROM (SELECT x.help_id, clock_timestamp() AS at FROM muster.help_experts AS x
                  WHERE x.tenant = r.tenant_id AND x.agent = p_agent AND x.state = 'claimed'
                  UNION ALL
                  SELECT x.help_id, x.answered_at FROM muster.help_experts AS x
                  WHERE x.tenant = r.tenant_id AND x.agent = p_agent AND x.answered_at >= v_since) AS x
            JOIN muster.help AS h ON h.tenant = r.tenant_id AND h.help_id = x.help_id
            WHERE h.task_id = ANY (v_tasks) OR x.at >= r.started_at AND h.asker = ANY (v_workers)
            LIMIT 1);
END
$$;

-- Why somebody may not verify a run; NULL: he may. Neither he has a part in it, nor another name with his key.
CREATE FUNCTION muster.run_partial(r public.agent_runs, p_agent text, p_args jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_part constant text := muster.run_part(r, p_agent);
    v_name text;
BEGIN
    IF p_args ->> 'role' = 'user' THEN
        RETURN 'is verified by agents and humans, not by users';
    ELSIF v_part IS NOT NULL THEN
        RETURN 'is verified by others than ' || v_part;
    ELSIF muster.run_session(r.tenant_id, p_agent) = r.worker_session THEN
        RETURN 'is verified in another session than its worker''s';
    END IF;
    FOR v_name IN
        SELECT c.agent FROM muster.credentials AS mine JOIN muster.credentials AS c ON c.tenant = mine.tenant AND c.public_key = mine.public_key
        WHERE mine.tenant = r.tenant_id AND mine.agent = p_agent AND c.agent <> p_agent ORDER BY c.agent
    LOOP
        IF muster.run_part(r, v_name) IS NOT NULL THEN
            RETURN format('is verified with another key than that of %s, who is one of %s', v_name, muster.run_part(r, v_name));
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- A verifier is lost, or gives it back: no verdict. The third of one manifest is the last.
CREATE FUNCTION muster.run_verifier_lost(r public.agent_runs, p_actor text, p_role text, p_reason text) RETURNS public.agent_runs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    r.until := clock_timestamp() + r.verify_within;
    r := muster.run_move(r, 'verifier_lost', 'awaiting_verification', p_actor, p_role, p_reason, jsonb_build_object('verifier', r.verifier));
    IF r.verifiers_lost >= 3 THEN
        r.error := format('verifier: lost %s times', r.verifiers_lost);
        r := muster.run_move(r, 'give_up', 'escalated_to_human', p_actor, 'engine', 'verifier');
    END IF;
    RETURN r;
END
$$;

-- With a run that is verified, or that a human has completed, its worker's task has succeeded. What the task is otherwise it stays.
CREATE FUNCTION muster.run_end_task(r public.agent_runs) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF r.task_id IS NULL OR NOT EXISTS (SELECT FROM public.agent_tasks AS t
                                        WHERE t.tenant_id = r.tenant_id AND t.task_id = r.task_id AND t.status || '' = 'running' AND t.assigned_to = r.agent_id) THEN
        RETURN '{}';
    END IF;
    RETURN muster.task_complete(r.tenant_id COLLATE "default", r.agent_id, jsonb_build_object('task_id', r.task_id, 'result', r.result)) - 'ok' - 'error';
END
$$;

-- What follows a verdict, in the same transaction; of a row that plain SQL has left there, by the sweeper.
CREATE FUNCTION muster.run_after_verdict(r public.agent_runs, p_actor text) RETURNS public.agent_runs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF r.status = 'verification_passed' THEN
        r.result := coalesce(r.result, nullif(r.manifest -> 'result', 'null'));
        RETURN muster.run_move(r, 'finish', 'completed', p_actor, 'engine');
    ELSIF r.verification_attempts < r.verification_limit THEN
        RETURN muster.run_move(r, 'retry', 'pending', p_actor, 'engine', 'verification failed');
    END IF;
    r.error := format('verification failed %s times', r.verification_attempts);
    RETURN muster.run_move(r, 'give_up', 'escalated_to_human', p_actor, 'engine', 'verification');
END
$$;

-- What the evidence of a verdict lacks; NULL: nothing. Only criteria that the worker named can be asked for.
CREATE FUNCTION muster.run_lacks(r public.agent_runs, p_verdict text, p_evidence jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_criteria constant jsonb := coalesce(r.manifest -> 'criteria', '[]');
BEGIN
    IF v_criteria = '[]' THEN
        RETURN NULL;
    ELSIF p_verdict = 'verification_passed' THEN
        RETURN (SELECT format('evidence that passed for criterion %L', left(c, 100)) FROM jsonb_array_elements_text(v_criteria) AS c
                WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(p_evidence) AS e
                                  WHERE e ->> 'criterion' = c AND coalesce(e ->> 'passed', 'true') = 'true') LIMIT 1);
    ELSIF NOT EXISTS (SELECT FROM jsonb_array_elements(p_evidence) AS e
                      WHERE v_criteria ? (e ->> 'criterion') AND e ? 'expected' AND e ? 'actual') THEN
        RETURN 'a criterion with what was expected and what is actual';
    END IF;
    RETURN NULL;
END
$$;

-- args: run_id, status, epoch? (verify_epoch), attempts? (as the verifier counts: kept with the verdict), evidence?, metadata?, lease_ms?
CREATE FUNCTION muster.run_verification(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_to constant text := args ->> 'status';
    v_epoch constant text := args ->> 'epoch';
    v_evidence constant jsonb := coalesce(nullif(args -> 'evidence', 'null'), '[]');
    v_error constant jsonb := muster.run_said(args);
    v_why text;
    v_said jsonb;
    r public.agent_runs;
BEGIN
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    ELSIF v_to IS NULL OR v_to NOT IN ('verification_in_progress', 'verification_passed', 'verification_failed') THEN
        RETURN muster.wrong('status', v_to, 'verification_in_progress, verification_passed or verification_failed');
    ELSIF jsonb_typeof(v_evidence) <> 'array' THEN
        RETURN muster.wrong('evidence', args ->> 'evidence', 'a list');
    END IF;
    r := muster.run_lock(tenant, agent, args, v_to = 'verification_passed');
    IF r.id IS NULL THEN
        RETURN muster.run_not_found(args ->> 'run_id');
    ELSIF r.status NOT IN ('awaiting_verification', 'verification_in_progress') THEN
        RETURN muster.run_refusal(r, v_to);
    END IF;
    v_why := muster.run_partial(r, agent, args);
    IF v_why IS NOT NULL THEN
        RETURN muster.run_not_yours(r, v_why);
    ELSIF r.status = 'verification_in_progress' AND (r.held_by <> agent OR v_epoch::bigint <> r.verify_epoch) THEN
        IF r.held_by = agent OR EXISTS (SELECT FROM muster.run_history AS h WHERE h.tenant = tenant AND h.run_id = r.id AND h.holder = agent) THEN
            RETURN muster.error('aborted', format('epoch: run %s is %s with epoch %s of its verification (stale_epoch)', left(r.id, 100), r.status, r.verify_epoch), 'epoch');
        END IF;
        RETURN muster.run_not_yours(r, 'is verified by another');
    ELSIF r.status = 'awaiting_verification' AND v_to <> 'verification_in_progress' THEN
        RETURN muster.run_refusal(r, v_to);
    ELSIF r.until <= clock_timestamp() THEN
        RETURN muster.error('deadline_exceeded', format('run_id: the time of run %s, which is %s, was over %s', left(r.id, 100), r.status, muster.stamp(r.until)), 'run_id');
    END IF;
    v_why := CASE WHEN v_to <> 'verification_in_progress' THEN muster.run_lacks(r, v_to, v_evidence) END;
    IF v_why IS NOT NULL THEN
        RETURN muster.wrong('evidence', args ->> 'evidence', v_why);
    ELSIF muster.run_grown(r, args) IS NOT NULL THEN
        RETURN muster.run_grown(r, args);
    END IF;
    r.verification_evidence := r.verification_evidence || v_evidence;
    r.metadata := muster.merged(r.metadata, args -> 'metadata');
    IF v_to = 'verification_in_progress' THEN
        r.until := clock_timestamp() + coalesce((args ->> 'lease_ms')::bigint, 300000) * interval '1 millisecond';
        IF r.status = v_to THEN -- it takes longer
            UPDATE public.agent_runs AS x SET until = r.until, verification_evidence = r.verification_evidence, metadata = r.metadata, updated_at = clock_timestamp(), stuck = 0
            WHERE x.tenant_id = tenant AND x.id = r.id;
        ELSE
            r.verifier := agent;
            r.held_by := agent;
            r.session_id := muster.run_session(tenant, agent);
            r := muster.run_move(r, 'verify', v_to, agent, 'verifier');
        END IF;
        RETURN jsonb_build_object('ok', jsonb_build_object('status', r.status, 'epoch', r.verify_epoch));
    END IF;
    v_said := jsonb_strip_nulls(jsonb_build_object('digest', r.digest, 'attempts', args -> 'attempts')) || jsonb_build_object('evidence', v_evidence);
    IF v_to = 'verification_failed' THEN
        r := muster.run_move(r, 'reject', v_to, agent, 'verifier', NULL, v_said);
    ELSE
        r.passed_by := r.passed_by || agent;
        IF r.verifiers > 1 THEN
            v_said := v_said || jsonb_build_object('passed', cardinality(r.passed_by), 'verifiers', r.verifiers);
        END IF;
        IF cardinality(r.passed_by) < r.verifiers THEN
            r.until := clock_timestamp() + r.verify_within;
            RETURN muster.run_done(muster.run_move(r, 'pass', 'awaiting_verification', agent, 'verifier', NULL, v_said));
        END IF;
        r := muster.run_move(r, 'pass', v_to, agent, 'verifier', NULL, v_said);
    END IF;
    r := muster.run_after_verdict(r, '_muster');
    IF r.status = 'completed' THEN
        RETURN muster.run_done(r) || muster.run_end_task(r);
    END IF;
    RETURN muster.run_done(r);
END
$$;


-- What brokers do by themselves. Functions over tenants belong to muster_engine; each row is changed as its tenant's.

-- One run of a lost session: the worker's is tried again, by anybody; the third time is the last. The verifier's is no verdict.
CREATE FUNCTION muster.run_release(r public.agent_runs, p_actor text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF r.status = 'verification_in_progress' THEN
        PERFORM muster.run_verifier_lost(r, p_actor, 'engine', 'session lost');
    ELSIF r.status = 'in_progress' AND r.crashes >= 2 THEN
        r.error := format('poison: its worker was lost %s times', r.crashes + 1);
        PERFORM muster.run_move(r, 'session_lost', 'failed', p_actor, 'engine', r.error);
    ELSIF r.status = 'in_progress' THEN
        PERFORM muster.run_move(r, 'session_lost', 'pending', p_actor, 'engine', 'session lost');
    END IF;
END
$$;

-- Whether a run that is bound to a session was begun after its end: the next one of the same agent was not written yet. It is bound to that one
-- then; where there is none, it is believed after five seconds that it was begun in this one.
CREATE FUNCTION muster.run_in_the_next(r public.agent_runs, p_ended timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_begun timestamptz;
    v_next text;
BEGIN
    IF NOT coalesce(r.watched_at > p_ended, false) THEN -- it is never before it was begun
        RETURN false;
    END IF;
    v_begun := muster.run_begun(r);
    IF NOT coalesce(v_begun > p_ended, false) THEN
        RETURN false;
    END IF;
    v_next := muster.run_session_at(r.tenant_id, r.held_by, v_begun);
    IF v_next IS NULL OR v_next = r.session_id THEN
        RETURN v_begun > statement_timestamp() - interval '5 seconds';
    END IF;
    PERFORM muster.run_bind(r, v_next);
    RETURN true;
END
$$;

-- A run that may have been begun while the session of who holds it was not written yet. False: it is in none.
CREATE FUNCTION muster.run_late(p_tenant text, p_run_id text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_session text;
    r public.agent_runs;
BEGIN
    SELECT * INTO r FROM public.agent_runs AS x
    WHERE x.tenant_id = p_tenant AND x.id = p_run_id COLLATE "default" AND x.session_id IS NULL AND x.held_by IS NOT NULL FOR NO KEY UPDATE SKIP LOCKED;
    v_session := muster.run_session_at(p_tenant, r.held_by, muster.run_begun(r));
    IF v_session IS NULL THEN
        RETURN false;
    END IF;
    PERFORM muster.run_bind(r, v_session);
    RETURN true;
END
$$;

-- args: agent, session?, not_session?, limit? (1,000): as muster.task_session_lost().
CREATE FUNCTION muster.run_session_lost(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_agent constant text := args ->> 'agent';
    v_session constant text := args ->> 'session';
    v_kept constant text := args ->> 'not_session';
    v_limit constant integer := coalesce((args ->> 'limit')::integer, 1000);
    v_n integer := 0;
    v_found text;
    v_ended timestamptz;
    r public.agent_runs;
BEGIN
    -- By the sessions of the agent: of those there are few, of runs many.
    FOR v_found IN
        SELECT s.session_id FROM public.agent_sessions AS s
        WHERE v_session IS NULL AND s.tenant_id = tenant AND s.agent_id = v_agent COLLATE "default" AND s.session_id IS DISTINCT FROM v_kept
        UNION ALL SELECT v_session WHERE v_session IS NOT NULL
    LOOP
        v_ended := (SELECT s.ended_at FROM public.agent_sessions AS s
                    WHERE s.tenant_id = tenant AND s.session_id = v_found COLLATE "default" AND s.agent_id = v_agent AND s.gone_reason IS NOT NULL);
        FOR r IN
            SELECT * FROM public.agent_runs AS x WHERE x.tenant_id = tenant AND x.session_id = v_found COLLATE "default" AND x.held_by = v_agent
            ORDER BY x.id LIMIT v_limit - v_n FOR NO KEY UPDATE SKIP LOCKED
        LOOP
            CONTINUE WHEN muster.run_in_the_next(r, v_ended);
            PERFORM muster.run_release(r, agent);
            v_n := v_n + 1;
        END LOOP;
    END LOOP;
    RETURN jsonb_build_object('ok', jsonb_build_object('released', v_n, 'more', EXISTS (
        SELECT FROM public.agent_runs AS x
        WHERE x.tenant_id = tenant AND x.session_id IS NOT NULL AND x.held_by = v_agent
          AND (v_session IS NULL OR x.session_id = v_session) AND x.session_id IS DISTINCT FROM v_kept)));
END
$$;

-- The time of a try is over: it is tried again, or that was the last.
CREATE FUNCTION muster.run_timeout(r public.agent_runs, p_actor text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF r.attempt < r.max_attempts THEN
        PERFORM muster.run_move(r, 'run_timeout', 'pending', p_actor, 'engine', 'run_timeout');
        RETURN;
    END IF;
    r.error := format('run_timeout: try %s of %s was not done in %s ms', r.attempt, r.max_attempts, r.timeout_ms);
    PERFORM muster.run_move(r, 'run_timeout', 'failed', p_actor, 'engine', 'run_timeout');
END
$$;

-- The edge of one run whose clock has run out. False: there is none any more.
CREATE FUNCTION muster.run_fire(p_tenant text, p_run_id text, p_actor text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_task_id text;
    v_done jsonb;
    r public.agent_runs;
BEGIN
    SELECT x.task_id INTO v_task_id FROM public.agent_runs AS x WHERE x.tenant_id = p_tenant AND x.id = p_run_id COLLATE "default";
    IF v_task_id IS NOT NULL AND EXISTS (SELECT FROM public.agent_tasks AS t WHERE t.tenant_id = p_tenant AND t.task_id = v_task_id COLLATE "default") THEN
        PERFORM FROM public.agent_tasks AS t WHERE t.tenant_id = p_tenant AND t.task_id = v_task_id COLLATE "default" FOR NO KEY UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN false; -- the next time
        END IF;
    END IF;
    SELECT * INTO r FROM public.agent_runs AS x
    WHERE x.tenant_id = p_tenant AND x.id = p_run_id COLLATE "default" AND x.until + interval '0' <= clock_timestamp() -- the key is to serve it
    FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    CASE r.status
    WHEN 'in_progress' THEN
        PERFORM muster.run_timeout(r, p_actor);
    WHEN 'awaiting_verification' THEN
        r.error := 'verifier: nobody verified it in time';
        PERFORM muster.run_move(r, 'give_up', 'escalated_to_human', p_actor, 'engine', 'verifier');
    WHEN 'verification_in_progress' THEN
        PERFORM muster.run_verifier_lost(r, p_actor, 'engine', 'verifier timeout');
    WHEN 'verification_passed', 'verification_failed' THEN
        r := muster.run_after_verdict(r, p_actor);
        IF r.status = 'completed' THEN
            v_done := muster.run_end_task(r);
        END IF;
    ELSE -- no other state has a clock; whoever set one, it stops no sweeper
        UPDATE public.agent_runs AS x SET until = NULL WHERE x.tenant_id = p_tenant AND x.id = r.id;
    END CASE;
    RETURN true;
END
$$;

-- Do what is due, at most p_limit edges of either kind, of shard p_shard of 16 of (tenant, run); NULL: of all. Gives how many. What somebody has
-- locked, or its task, stays at the head of what is due: so many are passed over.
CREATE FUNCTION muster.run_due(p_actor text, p_shard integer, p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_ends integer := 0;
    v_n integer := 0;
    v record;
BEGIN
    FOR v IN
        SELECT e.tenant, e.task_id, e.status FROM muster.run_ends AS e
        WHERE p_shard IS NULL OR hashtextextended(e.tenant || '/' || e.task_id, 0) & 15 = p_shard LIMIT p_limit * 20 FOR UPDATE SKIP LOCKED
    LOOP
        EXIT WHEN v_ends >= p_limit;
        PERFORM set_config('app.current_tenant', v.tenant, true);
        IF NOT muster.run_end_with(v.tenant, v.task_id, v.status) THEN
            DELETE FROM muster.run_ends AS e WHERE e.tenant = v.tenant AND e.task_id = v.task_id;
            v_ends := v_ends + 1;
        END IF;
    END LOOP;
    FOR v IN
        SELECT x.tenant_id, x.id FROM public.agent_runs AS x
        WHERE x.until <= statement_timestamp() AND (p_shard IS NULL OR hashtextextended(x.tenant_id || '/' || x.id, 0) & 15 = p_shard)
        ORDER BY x.until LIMIT p_limit * 20 FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        EXIT WHEN v_n >= p_limit;
        PERFORM set_config('app.current_tenant', v.tenant_id, true);
        IF muster.run_fire(v.tenant_id, v.id, p_actor) THEN
            v_n := v_n + 1;
        END IF;
    END LOOP;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN v_n + v_ends;
END
$$;

-- Call those stuck that were silent for so long, at most p_limit; those that go on being silent again, each time after twice as long. No state
-- changes. Who was heard meanwhile is looked at again when it could be silent for so long. Gives how many were told.
CREATE FUNCTION muster.run_stuck(p_after interval, p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_now constant timestamptz := clock_timestamp();
    v_n integer := 0;
    v record;
BEGIN
    FOR v IN
        SELECT x.tenant_id, x.id, x.updated_at, x.stuck FROM public.agent_runs AS x
        WHERE x.watched_at <= v_now - p_after AND x.status NOT IN ('completed', 'failed', 'cancelled')
        ORDER BY x.watched_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        PERFORM set_config('app.current_tenant', v.tenant_id, true);
        IF v.stuck = 0 AND v.updated_at > v_now - p_after THEN
            PERFORM muster.run_watch(v.tenant_id, v.id, v.updated_at, false);
        ELSE
            PERFORM muster.run_watch(v.tenant_id, v.id, v_now + p_after * (2 ^ least(v.stuck, 10) * 2 - 1), true);
            v_n := v_n + 1;
        END IF;
    END LOOP;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN v_n;
END
$$;

-- Look at its silence from then on; p_stuck: and say now that it is stuck.
CREATE FUNCTION muster.run_watch(p_tenant text, p_run_id text, p_from timestamptz, p_stuck boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_lsn pg_lsn;
    r public.agent_runs;
BEGIN
    UPDATE public.agent_runs AS x SET watched_at = p_from, stuck = x.stuck + p_stuck::integer
    WHERE x.tenant_id = p_tenant AND x.id = p_run_id COLLATE "default" RETURNING x.* INTO r;
    IF p_stuck THEN
        v_lsn := muster.run_tell(r, 'stuck', r.status, clock_timestamp());
    END IF;
END
$$;

-- Tell the next tier of an escalation that nobody has decided in the time of the one before; p_tiers: the times, and the last has no end. No state
-- changes. At most p_limit; gives how many it looked at.
CREATE FUNCTION muster.run_tiers(p_tiers interval[], p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_n integer := 0;
    v record;
BEGIN
    FOR v IN
        SELECT x.tenant_id, x.id FROM public.agent_runs AS x WHERE x.tier_at <= statement_timestamp() ORDER BY x.tier_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        PERFORM set_config('app.current_tenant', v.tenant_id, true);
        PERFORM muster.run_tier(v.tenant_id, v.id, p_tiers);
        v_n := v_n + 1;
    END LOOP;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN v_n;
END
$$;

CREATE FUNCTION muster.run_tier(p_tenant text, p_run_id text, p_tiers interval[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_now constant timestamptz := clock_timestamp();
    v_lsn pg_lsn;
    v_tier integer;
    r public.agent_runs;
BEGIN
    SELECT * INTO r FROM public.agent_runs AS x WHERE x.tenant_id = p_tenant AND x.id = p_run_id COLLATE "default" FOR NO KEY UPDATE;
    v_tier := r.tier + isfinite(r.tier_at)::integer; -- the first was told with the change
    UPDATE public.agent_runs AS x SET tier = v_tier, tier_at = v_now + p_tiers[v_tier]
    WHERE x.tenant_id = p_tenant AND x.id = p_run_id COLLATE "default" RETURNING x.* INTO r;
    IF v_tier > 1 THEN
        v_lsn := muster.run_tell(r, 'escalated_to_human', r.status, v_now);
    END IF;
END
$$;

-- Release what sessions hold that presence has called gone, when nobody heard of it; at most p_limit. Those that went a moment ago are found by
-- their end. For what was written late, or by hand, all that hold something are looked at, each once and not each of their runs, so many at a
-- time, from where the connection stopped the last time.
CREATE FUNCTION muster.run_orphans(p_actor text, p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_n integer := 0;
    v record;
BEGIN
    PERFORM muster.run_unbound();
    FOR v IN SELECT * FROM muster.run_gone(p_limit * 20) LOOP -- of each somebody may have all runs locked
        EXIT WHEN v_n >= p_limit;
        PERFORM set_config('app.current_tenant', v.tenant, true);
        v_n := v_n + (muster.run_session_lost(v.tenant, p_actor, jsonb_build_object(
            'agent', v.agent, 'session', v.session, 'limit', p_limit)) #>> '{ok,released}')::integer;
    END LOOP;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN v_n;
END
$$;

-- Find the sessions of those that began lately and are in none: who begins right after his hello is, a moment later. So many at a time, from where
-- the connection stopped the last time, and few that are changed; what is older has none.
CREATE FUNCTION muster.run_unbound() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    c_looked_at constant integer := 500;
    c_bound constant integer := 100;
    v_since constant timestamptz := greatest(nullif(current_setting('muster.run_unbound_from', true), '')::timestamptz, statement_timestamp() - interval '10 minutes');
    v_last timestamptz;
    v_n integer := 0;
    v_bound integer := 0;
    v record;
BEGIN
    FOR v IN
        SELECT x.tenant_id, x.id, x.held_by, x.watched_at FROM public.agent_runs AS x
        WHERE x.session_id IS NULL AND x.held_by IS NOT NULL AND x.watched_at > v_since AND x.watched_at <= statement_timestamp() -- what is stuck is later
        ORDER BY x.watched_at LIMIT c_looked_at
    LOOP
        v_n := v_n + 1;
        v_last := v.watched_at;
        CONTINUE WHEN NOT EXISTS (SELECT FROM public.agent_sessions AS s WHERE s.tenant_id = v.tenant_id AND s.agent_id = v.held_by);
        PERFORM set_config('app.current_tenant', v.tenant_id, true);
        v_bound := v_bound + muster.run_late(v.tenant_id, v.id)::integer;
        EXIT WHEN v_bound = c_bound;
    END LOOP;
    PERFORM set_config('muster.run_unbound_from', CASE WHEN v_n = c_looked_at OR v_bound = c_bound THEN v_last::text ELSE '' END, false);
END
$$;

-- Sessions that are gone and hold runs, at most p_limit.
CREATE FUNCTION muster.run_gone(p_limit integer) RETURNS TABLE (tenant text, agent text, session text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    c_looked_at constant integer := 2000;
    v_from text[] := string_to_array(nullif(current_setting('muster.run_gone_from', true), ''), ' ');
    v_held text[];
    v_sessions text[];
BEGIN
    RETURN QUERY
    SELECT n.name::text, s.agent_id, s.session_id FROM muster.tenants AS n
    CROSS JOIN LATERAL (
        SELECT g.agent_id, g.session_id FROM public.agent_sessions AS g
        WHERE g.tenant_id = n.name AND g.ended_at > statement_timestamp() - interval '2 minutes' AND g.gone_reason IS NOT NULL) AS s
    WHERE EXISTS (SELECT FROM public.agent_runs AS x WHERE x.tenant_id = n.name AND x.session_id = s.session_id)
    LIMIT p_limit;
    IF FOUND THEN
        RETURN; -- these first
    END IF;
    WITH RECURSIVE held (tenant, session, n) AS (
        SELECT coalesce(v_from[1], '') COLLATE "C", coalesce(v_from[2], ''), 0
        UNION ALL
        SELECT f.tenant_id, f.session_id, h.n + 1 FROM held AS h
        CROSS JOIN LATERAL (
            SELECT x.tenant_id::text, x.session_id FROM public.agent_runs AS x
            WHERE x.session_id IS NOT NULL AND (x.tenant_id, x.session_id) > (h.tenant, h.session)
            ORDER BY x.tenant_id, x.session_id LIMIT 1) AS f
        WHERE h.n < c_looked_at)
    SELECT array_agg(h.tenant ORDER BY h.n), array_agg(h.session ORDER BY h.n) INTO v_held, v_sessions FROM held AS h WHERE h.n > 0;
    PERFORM set_config('muster.run_gone_from', CASE WHEN cardinality(v_held) = c_looked_at
                                                    THEN v_held[c_looked_at] || ' ' || v_sessions[c_looked_at] ELSE '' END, false);
    RETURN QUERY
    SELECT h.tenant, s.agent_id, h.session FROM unnest(v_held, v_sessions) AS h (tenant, session)
    JOIN public.agent_sessions AS s ON s.tenant_id = h.tenant AND s.session_id = h.session
    WHERE s.gone_reason IS NOT NULL
    LIMIT p_limit;
END
$$;

-- Forget runs that have ended p_keep ago, with their history; at most p_limit.
CREATE FUNCTION muster.run_purge(p_keep interval, p_limit integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_n bigint;
BEGIN
    DELETE FROM public.agent_runs AS r
    WHERE r.ctid = ANY (ARRAY(
        SELECT o.at FROM muster.tenants AS n
        CROSS JOIN LATERAL (
            SELECT x.ctid AS at FROM public.agent_runs AS x
            WHERE x.tenant_id = n.name AND x.completed_at IS NOT NULL AND x.completed_at <= statement_timestamp() - p_keep
            ORDER BY x.completed_at LIMIT p_limit FOR UPDATE SKIP LOCKED) AS o
        LIMIT p_limit));
    GET DIAGNOSTICS v_n = ROW_COUNT;
    RETURN v_n;
END
$$;

CREATE FUNCTION muster.event_purge(p_keep interval, p_limit integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_n bigint;
BEGIN
    DELETE FROM public.agent_events AS e
    WHERE e.ctid = ANY (ARRAY(
        SELECT o.at FROM muster.tenants AS n
        CROSS JOIN LATERAL (
            SELECT x.ctid AS at FROM public.agent_events AS x
            WHERE x.tenant_id = n.name AND x.created_at <= statement_timestamp() - p_keep
            ORDER BY x.created_at LIMIT p_limit FOR UPDATE SKIP LOCKED) AS o
        LIMIT p_limit));
    GET DIAGNOSTICS v_n = ROW_COUNT;
    RETURN v_n;
END
$$;

-- Runs of a task that is over go with it: of a cancelled one those that nobody has to verify any more, of an expired one all. Nobody waits: who
-- ends a task may end others in the same statement. Gives whether any is left that another has locked.
CREATE FUNCTION muster.run_end_with(p_tenant text, p_task_id text, p_status text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_states constant text[] := CASE p_status WHEN 'cancelled' THEN '{pending,in_progress,blocked}'::text[]
        ELSE '{pending,in_progress,blocked,awaiting_verification,verification_in_progress,verification_passed,verification_failed,escalated_to_human}' END;
    r public.agent_runs;
BEGIN
    FOR r IN
        SELECT * FROM public.agent_runs AS x
        WHERE x.tenant_id = p_tenant AND x.task_id = p_task_id COLLATE "default" AND x.status || '' = ANY (v_states)
        ORDER BY x.id FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        IF p_status = 'cancelled' THEN
            PERFORM muster.run_move(r, 'cancel', 'cancelled', '_muster', 'engine', 'its task is cancelled');
        ELSE
            r.error := coalesce(r.error, 'expired: its task''s time was over');
            PERFORM muster.run_move(r, 'expire', 'failed', '_muster', 'engine', 'expired');
        END IF;
    END LOOP;
    RETURN EXISTS (SELECT FROM public.agent_runs AS x
                   WHERE x.tenant_id = p_tenant AND x.task_id = p_task_id COLLATE "default" AND x.status || '' = ANY (v_states));
END
$$;

-- Called by muster.task_record(), not by a trigger: one AFTER UPDATE would cost every change of every task as much as a tenth of it.
CREATE FUNCTION muster.run_task_over(p_tenant text, p_task_id text, p_status text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF muster.run_end_with(p_tenant, p_task_id, p_status) THEN
        INSERT INTO muster.run_ends (tenant, task_id, status) VALUES (p_tenant, p_task_id, p_status) ON CONFLICT DO NOTHING;
    END IF;
END
$$;


-- Reading.

CREATE FUNCTION muster.run_get(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    v_run_id constant text := args ->> 'run_id';
    v_inner text;
BEGIN
    SELECT (muster.run_within(r, 950000)).shown INTO v_inner FROM public.agent_runs AS r
    WHERE r.tenant_id = tenant AND r.id = v_run_id AND (coalesce(args ->> 'role', '') <> 'user' OR r.user_id = agent);
    IF NOT FOUND THEN
        RETURN muster.run_not_found(v_run_id);
    END IF;
    RETURN jsonb_build_object('ok', ('{' || v_inner || '}')::jsonb);
END
$$;

-- What a list, an export and a summary have in common: which runs. NULL: an argument is wrong, and error says which.
CREATE FUNCTION muster.run_where(p_agent text, p_args jsonb, OUT clause text, OUT error jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_field text;
    v_user constant text := CASE WHEN p_args ->> 'role' = 'user' THEN p_agent ELSE p_args ->> 'user_id' END;
BEGIN
    clause := '';
    IF p_args ->> 'status' IS NOT NULL AND NOT EXISTS (SELECT FROM muster.edges AS e WHERE e.machine = 'run' AND e.to_state = p_args ->> 'status') THEN
        error := muster.wrong('status', p_args ->> 'status', 'a status of runs');
    END IF;
    FOREACH v_field IN ARRAY '{task_id,agent_name,status}'::text[] LOOP
        IF p_args ->> v_field IS NOT NULL THEN
            clause := clause || format(' AND r.%I = %L', v_field, p_args ->> v_field);
        END IF;
    END LOOP;
    IF v_user IS NOT NULL THEN
        clause := clause || format(' AND r.user_id = %L', v_user);
    END IF;
    IF p_args ->> 'active' = 'true' THEN
        clause := clause || ' AND r.status IN (''pending'', ''in_progress'', ''awaiting_verification'', ''verification_in_progress'')';
    ELSIF p_args ->> 'active' = 'false' THEN
        clause := clause || ' AND r.status NOT IN (''pending'', ''in_progress'', ''awaiting_verification'', ''verification_in_progress'')';
    END IF;
    FOREACH v_field IN ARRAY '{since,until}'::text[] LOOP
        IF p_args ->> v_field IS NULL THEN
            CONTINUE;
        ELSIF muster.instant(p_args ->> v_field) IS NULL THEN
            error := muster.wrong(v_field, p_args ->> v_field, 'a time such as 2026-01-31T12:00:00Z');
        ELSE
            clause := clause || format(' AND r.started_at %s %L', CASE v_field WHEN 'since' THEN '>=' ELSE '<' END, muster.instant(p_args ->> v_field));
        END IF;
    END LOOP;
END
$$;

-- The place behind a run in a list, and what stands behind such a place.
CREATE FUNCTION muster.run_behind(p_after text, p_than text, p_time text DEFAULT 'r.started_at', p_id text DEFAULT 'r.id') RETURNS text
LANGUAGE sql STABLE
RETURN format(' AND %4$s %1$s= %2$L AND (%4$s, %5$s) %1$s (%2$L, %3$L)', p_than,
              timestamptz '1970-01-01 00:00:00Z' + split_part(p_after, '.', 1)::bigint * interval '1 microsecond', substr(p_after, strpos(p_after, '.') + 1),
              p_time, p_id);

-- Newest first; after is the last answer's next. No page is larger than an answer may be.
CREATE FUNCTION muster.run_list(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_limit constant integer := coalesce((args ->> 'limit')::integer, 100);
    v_after constant text := args ->> 'after';
    v_where text;
    v_error jsonb;
    v_rows jsonb;
    v_next text;
BEGIN
    SELECT w.clause, w.error INTO v_where, v_error FROM muster.run_where(agent, args) AS w;
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    ELSIF v_after !~ '^\d{1,18}[.].' THEN
        RETURN muster.wrong('after', v_after, 'what an answer gave as next');
    ELSIF v_after IS NOT NULL THEN
        v_where := v_where || muster.run_behind(v_after, '<');
    END IF;
    -- Planned for what is asked: which index serves it depends on that.
    EXECUTE format('WITH found AS (SELECT (muster.run_within(r, 900000)).shown AS shown, row_number() OVER (ORDER BY r.started_at DESC, r.id DESC) AS n,'
                   ' (extract(epoch FROM r.started_at) * 1000000)::bigint || ''.'' || r.id AS place'
                   ' FROM public.agent_runs AS r WHERE r.tenant_id = $1%s ORDER BY r.started_at DESC, r.id DESC LIMIT $2 + 1),'
                   ' told AS (SELECT * FROM (SELECT *, sum(octet_length(shown)) OVER (ORDER BY n) AS bytes FROM found) AS m'
                   '          WHERE n <= $2 AND (n = 1 OR bytes <= 900000))'
                   ' SELECT coalesce(jsonb_agg((''{'' || shown || ''}'')::jsonb ORDER BY n), ''[]''),'
                   ' (SELECT place FROM told WHERE n = (SELECT max(n) FROM told) AND n < (SELECT max(n) FROM found)) FROM told', v_where)
    INTO v_rows, v_next USING tenant, v_limit;
    RETURN jsonb_build_object('ok', jsonb_build_object('runs', v_rows) || jsonb_strip_nulls(jsonb_build_object('next', v_next)));
END
$$;

CREATE FUNCTION muster.run_history(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_run_id constant text := args ->> 'run_id';
    v_limit constant integer := coalesce((args ->> 'limit')::integer, 100);
    v_after constant text := coalesce(args ->> 'after', '0');
    v_rows jsonb;
    v_n integer;
BEGIN
    IF v_after !~ '^\d{1,9}$' THEN
        RETURN muster.wrong('after', v_after, 'what an answer gave as next');
    ELSIF NOT EXISTS (SELECT FROM public.agent_runs AS r
                      WHERE r.tenant_id = tenant AND r.id = v_run_id AND (coalesce(args ->> 'role', '') <> 'user' OR r.user_id = agent)) THEN
        RETURN muster.run_not_found(v_run_id);
    END IF;
    SELECT coalesce(jsonb_agg(change ORDER BY n) FILTER (WHERE n <= v_limit AND (n = 1 OR bytes <= 900000)), '[]'), count(*) INTO v_rows, v_n
    FROM (SELECT change, n, sum(octet_length(change::text) + 2) OVER (ORDER BY n) AS bytes
          FROM (SELECT jsonb_strip_nulls(jsonb_build_object(
                           'seq', h.seq, 'at', muster.stamp(h.at), 'from', h.from_state, 'to', h.to_state, 'epoch', h.epoch, 'verify_epoch', h.verify_epoch,
                           'holder', h.holder, 'actor', h.actor, 'role', h.role, 'verb', h.verb, 'reason', h.reason))
                       || CASE WHEN h.detail IS NULL THEN '{}' ELSE jsonb_build_object('detail', h.detail) END AS change,
                       row_number() OVER (ORDER BY h.seq) AS n
                FROM muster.run_history AS h
                WHERE h.tenant = tenant AND h.run_id = v_run_id AND h.seq > v_after::integer
                ORDER BY h.seq LIMIT v_limit + 1) AS page) AS sums;
    RETURN jsonb_build_object('ok', jsonb_build_object('history', v_rows)
                                    || CASE WHEN v_n > jsonb_array_length(v_rows) THEN jsonb_build_object('next', v_rows -> -1 ->> 'seq') ELSE '{}' END);
END
$$;

-- Success over time. args: those of a list, since? (30 days ago), until?, bucket? (day): hour, day, week or month. A rate is of those that have ended
-- well or badly, in percent; without such there is none.
CREATE FUNCTION muster.run_summary(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_bucket constant text := coalesce(args ->> 'bucket', 'day');
    v_since constant text := coalesce(args ->> 'since', muster.stamp(clock_timestamp() - interval '30 days'));
    v_until constant timestamptz := coalesce(muster.instant(args ->> 'until'), clock_timestamp());
    v_where text;
    v_error jsonb;
    v_answer jsonb;
BEGIN
    SELECT w.clause, w.error INTO v_where, v_error FROM muster.run_where(agent, args || jsonb_build_object('since', v_since)) AS w;
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    ELSIF v_bucket NOT IN ('hour', 'day', 'week', 'month') THEN
        RETURN muster.wrong('bucket', v_bucket, 'hour, day, week or month');
    ELSIF v_until - muster.instant(v_since) > (CASE v_bucket WHEN 'hour' THEN interval '1000 hours' ELSE interval '1000 days' END) THEN
        RETURN muster.wrong('since', v_since, format('at most 1000 %ss', CASE v_bucket WHEN 'hour' THEN 'hour' ELSE 'day' END));
    END IF;
    EXECUTE format($sql$
        WITH f AS MATERIALIZED (
            SELECT r.agent_name, r.status, date_trunc($2, r.started_at AT TIME ZONE 'UTC') AS at, count(*) AS n, count(*) FILTER (WHERE r.verified) AS verified,
                   sum(extract(epoch FROM r.completed_at - r.started_at)) FILTER (WHERE r.status = 'completed') AS seconds
            FROM public.agent_runs AS r WHERE r.tenant_id = $1%s GROUP BY 1, 2, 3
        ), g AS (
            SELECT grouping(at) AS no_at, grouping(agent_name) AS no_name, at, agent_name, coalesce(sum(n), 0) AS total,
                   coalesce(sum(n) FILTER (WHERE status = 'completed'), 0) AS completed, coalesce(sum(n) FILTER (WHERE status = 'failed'), 0) AS failed,
                   coalesce(sum(n) FILTER (WHERE status = 'cancelled'), 0) AS cancelled,
                   coalesce(sum(n) FILTER (WHERE status = 'escalated_to_human'), 0) AS escalated, coalesce(sum(verified), 0) AS verified, sum(seconds) AS seconds
            FROM f GROUP BY GROUPING SETS ((at), (agent_name), ())
        ), s AS (
            SELECT no_at, no_name, at, agent_name, total, jsonb_build_object('total', total, 'completed', completed, 'failed', failed, 'cancelled', cancelled,
                'escalated', escalated, 'verified', verified, 'success_rate', round(100.0 * completed / nullif(completed + failed, 0), 2),
                'average_seconds', round(seconds / nullif(completed, 0), 3)) AS counts
            FROM g
        )
        SELECT (SELECT counts FROM s WHERE no_at = 1 AND no_name = 1)
            || jsonb_build_object(
                'by_status', (SELECT coalesce(jsonb_object_agg(status, n), '{}') FROM (SELECT status, sum(n) AS n FROM f GROUP BY 1) AS b),
                'agents', (SELECT coalesce(jsonb_agg(jsonb_build_object('agent_name', agent_name) || counts ORDER BY total DESC, agent_name), '[]')
                           FROM (SELECT * FROM s WHERE no_at = 1 AND no_name = 0 ORDER BY total DESC, agent_name LIMIT 1000) AS a),
                'series', (SELECT coalesce(jsonb_agg(jsonb_build_object('at', muster.stamp(at AT TIME ZONE 'UTC')) || counts ORDER BY at), '[]')
                           FROM s WHERE no_at = 0))
    $sql$, v_where) INTO v_answer USING tenant, v_bucket;
    RETURN jsonb_build_object('ok', v_answer || jsonb_build_object('since', muster.stamp(muster.instant(v_since)), 'until', muster.stamp(v_until), 'bucket', v_bucket));
END
$$;

-- A field of a line of CSV (RFC 4180); what is NULL is empty, an empty text is in quotes, as COPY has it.
CREATE FUNCTION muster.csv(p_value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_value = '' OR p_value ~ E'[",\r\n]' THEN '"' || replace(p_value, '"', '""') || '"' ELSE coalesce(p_value, '') END;

CREATE FUNCTION muster.run_csv(r public.agent_runs, p_omitted text[]) RETURNS text
LANGUAGE sql STABLE
RETURN concat_ws(',', muster.csv((r).id), muster.csv((r).task_id), muster.csv((r).user_id), muster.csv((r).agent_name), muster.csv((r).agent_id), (r).status,
                 muster.csv((r).current_step), (r).progress_percent::text, muster.csv((r).result::text), muster.csv((r).error), muster.csv((r).metadata::text),
                 (r).verification_attempts::text, muster.csv((r).verification_evidence::text), (r).verified::text, muster.stamp((r).started_at),
                 coalesce(muster.stamp((r).completed_at), ''), muster.stamp((r).updated_at),
                 coalesce(round(extract(epoch FROM (r).completed_at - (r).started_at), 6)::text, ''), array_to_string(p_omitted, ' '));

-- The runs as text, oldest first, in pages. args: those of a list, format? (jsonl or csv; the first page of csv has the heads of its columns).
CREATE FUNCTION muster.run_export(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    c_head constant text := E'run_id,task_id,user_id,agent_name,agent_id,status,current_step,progress_percent,result,error,metadata,verification_attempts,'
                            'verification_evidence,verified,started_at,completed_at,updated_at,duration_seconds,omitted\r\n';
    v_format constant text := coalesce(args ->> 'format', 'jsonl');
    v_limit constant integer := coalesce((args ->> 'limit')::integer, 1000);
    v_after constant text := args ->> 'after';
    v_where text;
    v_error jsonb;
    v_data text;
    v_n bigint;
    v_next text;
BEGIN
    SELECT w.clause, w.error INTO v_where, v_error FROM muster.run_where(agent, args) AS w;
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    ELSIF v_format NOT IN ('jsonl', 'csv') THEN
        RETURN muster.wrong('format', v_format, 'jsonl or csv');
    ELSIF v_after !~ '^\d{1,18}[.].' THEN
        RETURN muster.wrong('after', v_after, 'what an answer gave as next');
    ELSIF v_after IS NOT NULL THEN
        v_where := v_where || muster.run_behind(v_after, '>');
    END IF;
    -- A text within JSON takes a byte more for each of its quotes: half of what an answer may be.
    EXECUTE format('WITH found AS (SELECT %s AS line, row_number() OVER (ORDER BY r.started_at, r.id) AS n,'
                   ' (extract(epoch FROM r.started_at) * 1000000)::bigint || ''.'' || r.id AS place'
                   ' FROM public.agent_runs AS r WHERE r.tenant_id = $1%s ORDER BY r.started_at, r.id LIMIT $2 + 1),'
                   ' told AS (SELECT * FROM (SELECT *, sum(octet_length(to_json(line)::text)) OVER (ORDER BY n) AS bytes FROM found) AS m'
                   '          WHERE n <= $2 AND (n = 1 OR bytes <= 900000))'
                   ' SELECT coalesce(string_agg(line, '''' ORDER BY n), ''''), count(*),'
                   ' (SELECT place FROM told WHERE n = (SELECT max(n) FROM told) AND n < (SELECT max(n) FROM found)) FROM told',
                   CASE v_format WHEN 'csv' THEN $e$(SELECT muster.run_csv(w.trimmed, w.omitted) FROM muster.run_within(r, 400000) AS w) || E'\r\n'$e$ ELSE $e$'{' || (muster.run_within(r, 400000)).shown || E'}\n'$e$ END, v_where)
    INTO v_data, v_n, v_next USING tenant, v_limit;
    IF v_format = 'csv' AND v_after IS NULL THEN
        v_data := c_head || v_data;
    END IF;
    RETURN jsonb_build_object('ok', jsonb_build_object('format', v_format, 'data', v_data, 'runs', v_n) || jsonb_strip_nulls(jsonb_build_object('next', v_next)));
END
$$;


-- What agents put on record.

CREATE FUNCTION muster.event_append(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_row public.agent_events;
BEGIN
    IF octet_length(args ->> 'type') NOT BETWEEN 1 AND 256 OR args ->> 'type' IS NULL THEN
        RETURN muster.wrong('type', args ->> 'type', 'a text of 1 to 256 bytes');
    END IF;
    INSERT INTO public.agent_events AS e (tenant_id, agent_id, event_type, payload)
    VALUES (tenant, agent, args ->> 'type', coalesce(args -> 'payload', '{}'))
    RETURNING e.* INTO v_row;
    RETURN jsonb_build_object('ok', jsonb_build_object('id', v_row.id, 'created_at', muster.stamp(v_row.created_at)));
END
$$;

-- Newest first. args: type?, agent?, since?, until?, limit?, after?
CREATE FUNCTION muster.event_list(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_limit constant integer := coalesce((args ->> 'limit')::integer, 100);
    v_after constant text := args ->> 'after';
    v_field text;
    v_where text := '';
    v_rows jsonb;
    v_next text;
BEGIN
    IF args ->> 'type' IS NOT NULL THEN
        v_where := v_where || format(' AND e.event_type = %L', args ->> 'type');
    END IF;
    IF args ->> 'agent' IS NOT NULL THEN
        v_where := v_where || format(' AND e.agent_id = %L', args ->> 'agent');
    END IF;
    FOREACH v_field IN ARRAY '{since,until}'::text[] LOOP
        IF args ->> v_field IS NULL THEN
            CONTINUE;
        ELSIF muster.instant(args ->> v_field) IS NULL THEN
            RETURN muster.wrong(v_field, args ->> v_field, 'a time such as 2026-01-31T12:00:00Z');
        END IF;
        v_where := v_where || format(' AND e.created_at %s %L', CASE v_field WHEN 'since' THEN '>=' ELSE '<' END, muster.instant(args ->> v_field));
    END LOOP;
    IF v_after !~ '^\d{1,18}[.].' THEN
        RETURN muster.wrong('after', v_after, 'what an answer gave as next');
    ELSIF v_after IS NOT NULL THEN
        v_where := v_where || muster.run_behind(v_after, '<', 'e.created_at', 'e.id');
    END IF;
    EXECUTE format('WITH found AS (SELECT jsonb_build_object(''id'', e.id, ''agent_id'', e.agent_id, ''type'', e.event_type, ''payload'', e.payload,'
                   ' ''created_at'', muster.stamp(e.created_at)) AS shown, row_number() OVER (ORDER BY e.created_at DESC, e.id DESC) AS n,'
                   ' (extract(epoch FROM e.created_at) * 1000000)::bigint || ''.'' || e.id AS place'
                   ' FROM public.agent_events AS e WHERE e.tenant_id = $1%s ORDER BY e.created_at DESC, e.id DESC LIMIT $2 + 1),'
                   ' told AS (SELECT * FROM (SELECT *, sum(octet_length(shown::text)) OVER (ORDER BY n) AS bytes FROM found) AS m'
                   '          WHERE n <= $2 AND (n = 1 OR bytes <= 900000))'
                   ' SELECT coalesce(jsonb_agg(shown ORDER BY n), ''[]''),'
                   ' (SELECT place FROM told WHERE n = (SELECT max(n) FROM told) AND n < (SELECT max(n) FROM found)) FROM told', v_where)
    INTO v_rows, v_next USING tenant, v_limit;
    RETURN jsonb_build_object('ok', jsonb_build_object('events', v_rows) || jsonb_strip_nulls(jsonb_build_object('next', v_next)));
END
$$;


-- Plain SQL. Who writes the table is held to the edges; the columns that are the machine's keep what they have.

-- What makes an edge impossible for a plain writer beside that there is none; NULL: nothing. Who worked on a run under a login verifies it under
-- none of the same, where it has to be verified.
CREATE FUNCTION muster.run_plain_refusal(p_old public.agent_runs, p_to text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_login constant text := 'sql:' || session_user;
BEGIN
    IF p_old.status = 'verification_failed' AND p_to IN ('pending', 'in_progress') AND p_old.verification_attempts >= p_old.verification_limit THEN
        RETURN format('after %s failed verifications', p_old.verification_attempts);
    ELSIF p_to = 'in_progress' AND p_old.run_after > clock_timestamp() THEN
        RETURN format('before %s', muster.stamp(p_old.run_after));
    ELSIF p_to = 'verification_passed' AND cardinality(p_old.passed_by) + 1 < p_old.verifiers THEN
        RETURN format('before %s of %s verifiers have passed it', p_old.verifiers - 1, p_old.verifiers);
    ELSIF p_to = 'verification_in_progress' AND v_login = ANY (p_old.passed_by) THEN
        RETURN 'by who has passed it';
    ELSIF p_old.verify <> 'required' THEN
        RETURN NULL;
    ELSIF p_to = 'completed' AND p_old.status IN ('pending', 'in_progress', 'awaiting_verification') THEN
        RETURN 'before it is verified';
    ELSIF p_to IN ('verification_passed', 'verification_failed') AND p_old.held_by IS DISTINCT FROM v_login THEN
        RETURN format('by another than its verifier, %s', p_old.held_by);
    ELSIF p_to = 'verification_in_progress' AND EXISTS (
            SELECT FROM muster.run_history AS h
            WHERE h.tenant = p_old.tenant_id AND h.run_id = p_old.id AND h.role = 'sql' AND h.actor = session_user AND h.verb <> 'verifier_lost'
              AND h.to_state NOT IN ('verification_in_progress', 'verification_passed', 'verification_failed')) THEN
        RETURN 'by its worker';
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION muster.run_plain() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_now constant timestamptz := clock_timestamp();
    v_status text;
    v_why text;
    v_edge muster.edges;
BEGIN
    PERFORM set_config('app.current_tenant', NEW.tenant_id, true);
    -- NULL says nothing, as in the columns of the event bridge.
    NEW.metadata := coalesce(NEW.metadata, OLD.metadata, '{}');
    NEW.progress_percent := coalesce(NEW.progress_percent, OLD.progress_percent, 0);
    NEW.verification_evidence := coalesce(NEW.verification_evidence, OLD.verification_evidence, '[]');
    IF jsonb_typeof(NEW.metadata) <> 'object' THEN
        RAISE check_violation USING MESSAGE = format('run %s: metadata: a map was expected', NEW.id);
    ELSIF NOT NEW.progress_percent BETWEEN 0 AND 100 THEN
        RAISE check_violation USING MESSAGE = format('run %s: progress_percent: %s came, 0 to 100 was expected', NEW.id, NEW.progress_percent);
    END IF;
    IF TG_OP = 'INSERT' OR (NEW.metadata, NEW.result, NEW.verification_evidence) IS DISTINCT FROM (OLD.metadata, OLD.result, OLD.verification_evidence) THEN
        v_why := coalesce(muster.undecodable('metadata', NEW.metadata), muster.undecodable('result', NEW.result),
                          muster.undecodable('verification_evidence', NEW.verification_evidence));
        IF v_why IS NOT NULL THEN
            RAISE check_violation USING MESSAGE = format('run %s: %s', NEW.id, v_why);
        END IF;
    END IF;
    IF greatest(octet_length(NEW.agent_name), octet_length(NEW.agent_id), octet_length(NEW.task_id), octet_length(NEW.user_id)) > 256
       AND (TG_OP = 'INSERT' OR (NEW.agent_name, NEW.agent_id, NEW.user_id) IS DISTINCT FROM (OLD.agent_name, OLD.agent_id, OLD.user_id)) THEN
        RAISE check_violation USING MESSAGE = format('run %s: at most 256 bytes were expected of each of agent_name, agent_id, task_id and user_id', NEW.id);
    END IF;
    NEW.updated_at := v_now;
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'pending' THEN
            RAISE check_violation USING MESSAGE = format('run %s: a new one cannot be %s: pending was expected', NEW.id, NEW.status);
        ELSIF NEW.verify NOT IN ('none', 'required') THEN
            RAISE check_violation USING MESSAGE = format('run %s: verify: %s came, none or required was expected', NEW.id, NEW.verify);
        ELSIF octet_length(NEW.id) NOT BETWEEN 1 AND 256 THEN
            RAISE check_violation USING MESSAGE = 'id: a text of 1 to 256 bytes was expected';
        ELSIF coalesce(NEW.verifiers NOT BETWEEN 1 AND 16 OR NEW.max_attempts NOT BETWEEN 1 AND 1000 OR NEW.timeout_ms NOT BETWEEN 1 AND 9999999999, false) THEN
            RAISE check_violation USING MESSAGE = format('run %s: verifiers from 1 to 16, max_attempts from 1 to 1000 and timeout_ms from 1 to 9999999999 were expected', NEW.id);
        END IF;
        NEW.seq := 1; NEW.epoch := 1; NEW.attempt := 1; NEW.crashes := 0; NEW.open_at := NULL; NEW.held_by := NULL; NEW.session_id := NULL;
        NEW.run_left := NULL; NEW.repeats := 0; NEW.run_after := NULL; NEW.passed_by := '{}'; NEW.tier := 0; NEW.tier_at := NULL;
        NEW.worker_session := NULL; NEW.manifest := NULL; NEW.digest := NULL; NEW.verifier := NULL; NEW.verify_epoch := 0; NEW.verifiers_lost := 0;
        NEW.verification_limit := 3; NEW.verify_within := '1 hour'; NEW.until := NULL; NEW.watched_at := v_now; NEW.stuck := 0; NEW.reason := NULL; NEW.verified := false;
        NEW.completed_at := NULL; NEW.verification_attempts := 0; NEW.verification_evidence := '[]'; NEW.started_by := NULL;
        NEW.result := NULL; NEW.error := NULL;
        NEW.started_at := greatest(timestamptz '1970-01-01 00:00:00Z', least(NEW.started_at, v_now)); -- lists go by it
    ELSE
        IF NEW.tenant_id IS DISTINCT FROM OLD.tenant_id THEN
            RAISE insufficient_privilege USING MESSAGE = format('run %s: it cannot be given to another tenant', OLD.id);
        ELSIF (NEW.id, NEW.task_id) IS DISTINCT FROM (OLD.id, OLD.task_id) THEN
            RAISE check_violation USING MESSAGE = format('run %s: its name and its task stay as they are', OLD.id);
        ELSIF NEW.agent_id <> OLD.agent_id AND OLD.status <> 'pending' THEN
            RAISE check_violation USING MESSAGE = format('run %s is %s: it cannot be given to another agent', OLD.id, OLD.status);
        ELSIF muster.run_over(OLD.status) AND (NEW.error, NEW.current_step) IS DISTINCT FROM (OLD.error, OLD.current_step)
              OR muster.run_over(OLD.status) AND NEW.result IS DISTINCT FROM OLD.result AND NOT (OLD.verified AND OLD.result IS NULL) THEN
            RAISE check_violation USING MESSAGE = format('run %s is %s: what came of it stays as it is', OLD.id, OLD.status);
        ELSIF NEW.verification_evidence <> OLD.verification_evidence
              AND (OLD.status <> 'verification_in_progress' OR jsonb_typeof(NEW.verification_evidence) <> 'array') THEN
            RAISE check_violation USING MESSAGE = format('run %s is %s: its evidence stays as it is', OLD.id, OLD.status);
        END IF;
        v_status := NEW.status;
        IF NEW.verification_evidence <> OLD.verification_evidence -- what is there stays in front
           AND jsonb_path_query_array(NEW.verification_evidence, '$[0 to $n]', jsonb_build_object('n', jsonb_array_length(OLD.verification_evidence) - 1))
               <> OLD.verification_evidence THEN
            NEW.verification_evidence := OLD.verification_evidence || NEW.verification_evidence;
        END IF;
        NEW.status := OLD.status; NEW.seq := OLD.seq; NEW.epoch := OLD.epoch; NEW.attempt := OLD.attempt; NEW.crashes := OLD.crashes; NEW.open_at := OLD.open_at;
        NEW.max_attempts := OLD.max_attempts; NEW.timeout_ms := OLD.timeout_ms; NEW.run_left := OLD.run_left; NEW.repeats := OLD.repeats;
        NEW.run_after := OLD.run_after; NEW.verifiers := OLD.verifiers; NEW.passed_by := OLD.passed_by; NEW.tier := OLD.tier; NEW.tier_at := OLD.tier_at;
        NEW.held_by := OLD.held_by; NEW.session_id := OLD.session_id; NEW.worker_session := OLD.worker_session; NEW.manifest := OLD.manifest;
        NEW.digest := OLD.digest; NEW.verifier := OLD.verifier; NEW.verify_epoch := OLD.verify_epoch; NEW.verifiers_lost := OLD.verifiers_lost;
        NEW.verification_limit := OLD.verification_limit; NEW.verification_attempts := OLD.verification_attempts; NEW.until := OLD.until; NEW.verify_within := OLD.verify_within;
        NEW.watched_at := OLD.watched_at; NEW.stuck := 0; NEW.verified := OLD.verified; NEW.verify := OLD.verify; NEW.exclusive := OLD.exclusive;
        NEW.started_by := OLD.started_by; NEW.started_at := OLD.started_at; NEW.completed_at := OLD.completed_at; NEW.reason := OLD.reason;
        NEW.progress_percent := CASE WHEN muster.run_over(OLD.status) THEN OLD.progress_percent ELSE greatest(OLD.progress_percent, NEW.progress_percent) END;
        IF v_status <> OLD.status THEN
            SELECT * INTO v_edge FROM muster.edges AS e
            WHERE e.machine = 'run' AND e.plain AND e.from_state = OLD.status AND e.to_state = v_status;
            IF NOT FOUND THEN
                RAISE check_violation USING MESSAGE = format('run %s is %s: it cannot become %s', OLD.id, OLD.status, v_status);
            END IF;
            v_why := muster.run_plain_refusal(OLD, v_status);
            IF v_why IS NOT NULL THEN
                RAISE check_violation USING MESSAGE = format('run %s is %s: it cannot become %s %s', OLD.id, OLD.status, v_status, v_why);
            END IF;
            IF v_status = 'in_progress' THEN
                NEW.held_by := NEW.agent_id;
            ELSIF v_status = 'verification_in_progress' THEN
                NEW.verifier := 'sql:' || session_user;
                NEW.held_by := NEW.verifier;
                NEW.until := v_now + interval '5 minutes';
            ELSIF v_status = 'verification_passed' THEN
                NEW.passed_by := NEW.passed_by || NEW.held_by;
            ELSIF v_status = 'awaiting_verification' THEN
                NEW.until := v_now + CASE WHEN NEW.verifiers_lost < 2 THEN NEW.verify_within ELSE interval '0' END; -- the third is the last
                IF OLD.status = 'in_progress' THEN
                    NEW.until := v_now + NEW.verify_within;
                    NEW.manifest := jsonb_build_object('attempt', NEW.attempt, 'epoch', NEW.epoch, 'agent_id', NEW.agent_id, 'step', NEW.current_step,
                        'result', NEW.result, 'evidence', '[]'::jsonb, 'criteria', '[]'::jsonb, 'metadata', NEW.metadata);
                    NEW.digest := encode(sha256(convert_to(NEW.manifest::text, 'UTF8')), 'hex');
                END IF;
            ELSIF v_status = 'pending' AND OLD.status = 'escalated_to_human' THEN
                NEW.verification_limit := NEW.verification_attempts + 3;
                NEW.crashes := 0;
            END IF;
            NEW := muster.run_apply(NEW, v_edge, v_now);
            PERFORM muster.run_record(NEW, OLD.status, session_user::text, 'sql', CASE WHEN v_edge.verb = 'verifier_lost' THEN 'verifier_lost' ELSE 'sql' END, NULL, NULL);
        END IF;
    END IF;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN NEW;
END
$$;

CREATE FUNCTION muster.run_plain_done() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_gone text;
BEGIN
    PERFORM set_config('app.current_tenant', NEW.tenant_id, true);
    IF NEW.task_id IS NOT NULL THEN
        v_gone := muster.run_task_gone(NEW.tenant_id, NEW.task_id);
        IF v_gone IS NOT NULL THEN
            RAISE check_violation USING MESSAGE = format('run %s: task %s is %s, and no run of it begins', NEW.id, NEW.task_id, v_gone);
        END IF;
        IF NEW.exclusive THEN
            PERFORM pg_advisory_xact_lock(hash_record_extended(ROW('run'::text, NEW.tenant_id::text, NEW.task_id), 0));
        ELSE
            PERFORM pg_advisory_xact_lock_shared(hash_record_extended(ROW('run'::text, NEW.tenant_id::text, NEW.task_id), 0));
        END IF;
        IF EXISTS (SELECT FROM public.agent_runs AS x WHERE x.tenant_id = NEW.tenant_id AND x.task_id = NEW.task_id AND x.id <> NEW.id
                     AND (NEW.exclusive OR x.exclusive) AND NOT muster.run_over(x.status)) THEN
            RAISE check_violation USING MESSAGE = format('run %s: another run of task %s goes on', NEW.id, NEW.task_id);
        END IF;
    END IF;
    PERFORM muster.run_record(NEW, '', session_user::text, 'sql', 'start', NULL, NULL);
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN NULL;
END
$$;

-- What belongs to a run goes with it.
CREATE FUNCTION muster.run_forgotten() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        TRUNCATE muster.run_history;
        RETURN NULL;
    END IF;
    PERFORM set_config('app.current_tenant', OLD.tenant_id, true);
    DELETE FROM muster.run_history AS h WHERE h.tenant = OLD.tenant_id AND h.run_id = OLD.id;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN NULL;
END
$$;

-- As those of agent_tasks.
CREATE TRIGGER zz_machine BEFORE INSERT OR UPDATE ON public.agent_runs FOR EACH ROW
    WHEN (current_user <> text 'muster_owner') EXECUTE FUNCTION muster.run_plain();
CREATE TRIGGER machine_inserted AFTER INSERT ON public.agent_runs FOR EACH ROW
    WHEN (current_user <> text 'muster_owner') EXECUTE FUNCTION muster.run_plain_done();
CREATE TRIGGER machine_deleted AFTER DELETE ON public.agent_runs FOR EACH ROW EXECUTE FUNCTION muster.run_forgotten();
CREATE TRIGGER machine_truncated AFTER TRUNCATE ON public.agent_runs FOR EACH STATEMENT EXECUTE FUNCTION muster.run_forgotten();

-- What stands in the table already, from when it had no machine, gets what a row of the machine has.
ALTER TABLE public.agent_runs NO FORCE ROW LEVEL SECURITY;
-- As of tasks; evidence is a list.
UPDATE public.agent_runs AS r SET
    started_at = greatest(timestamptz '1970-01-01 00:00:00Z', least(started_at, now())),
    updated_at = greatest(timestamptz '1970-01-01 00:00:00Z', least(updated_at, now())),
    completed_at = CASE WHEN completed_at IS NOT NULL THEN greatest(timestamptz '1970-01-01 00:00:00Z', least(completed_at, now())) END,
    metadata = CASE jsonb_typeof(metadata) WHEN 'object' THEN metadata ELSE jsonb_build_object('value', metadata) END,
    verification_evidence = CASE jsonb_typeof(verification_evidence) WHEN 'array' THEN verification_evidence ELSE jsonb_build_array(verification_evidence) END
WHERE NOT started_at BETWEEN '1970-01-01 00:00:00Z' AND now() OR NOT updated_at BETWEEN '1970-01-01 00:00:00Z' AND now()
   OR NOT completed_at BETWEEN '1970-01-01 00:00:00Z' AND now() OR jsonb_typeof(metadata) <> 'object' OR jsonb_typeof(verification_evidence) <> 'array';
UPDATE public.agent_runs AS r SET
    seq = 1, watched_at = updated_at,
    completed_at = CASE WHEN muster.run_over(status) THEN coalesce(completed_at, updated_at) END,
    held_by = CASE status WHEN 'in_progress' THEN agent_id WHEN 'verification_in_progress' THEN 'unknown' END,
    verifier = CASE status WHEN 'verification_in_progress' THEN 'unknown' END,
    verified = status = 'verification_passed',
    tier = (status = 'escalated_to_human')::integer,
    tier_at = CASE status WHEN 'escalated_to_human' THEN timestamptz '-infinity' END,
    verify_epoch = CASE status WHEN 'verification_in_progress' THEN 1 ELSE 0 END,
    until = CASE WHEN status = 'awaiting_verification' THEN clock_timestamp() + interval '1 hour'
                 WHEN status IN ('verification_in_progress', 'verification_passed', 'verification_failed') THEN clock_timestamp() END;
INSERT INTO muster.run_history (tenant, run_id, seq, at, from_state, to_state, epoch, verify_epoch, holder, role, verb)
SELECT tenant_id, id, 1, updated_at, '', status, epoch, verify_epoch, held_by, 'engine', 'import' FROM public.agent_runs;
ALTER TABLE public.agent_runs FORCE ROW LEVEL SECURITY;

-- Grants and policies stand in always.sql.

RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM muster_owner;

-- What sees every tenant's rows.
ALTER FUNCTION muster.run_due(text, integer, integer) OWNER TO muster_engine;
ALTER FUNCTION muster.run_stuck(interval, integer) OWNER TO muster_engine;
ALTER FUNCTION muster.run_tiers(interval[], integer) OWNER TO muster_engine;
ALTER FUNCTION muster.run_orphans(text, integer) OWNER TO muster_engine;
ALTER FUNCTION muster.run_purge(interval, integer) OWNER TO muster_engine;
ALTER FUNCTION muster.event_purge(interval, integer) OWNER TO muster_engine;
