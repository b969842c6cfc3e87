-- The machine of help requests. 015 says how machines are made, 016 is the pattern.
--
-- args of the verbs are the bodies of the service help as they came, with what the plugin adds: role and session of
-- the caller, ask (a word of its own, which comes back beside ok), candidates (who is present and fits: [{agent, load?}], the fitter first) and set (the plugin's settings:
-- timeout_ms, offer_ms, claim_ms, verdict_ms, rounds, rejections, depth, quota, prior, auto_accept).
-- Beside ok an outcome may have tell, messages for when it is committed ([{to[], type, body, answer?}]; answer: what
-- respond() gives is a claim or an answer), and offer: the request is open and looks for experts, by help_offer.
--
-- k experts are asked. When all decline, or nobody acts in time, it is another round's turn, with twice as many; the
-- last round lasts to the deadline. Who was asked may answer as long as nobody has it, be his round over or not. With escalate the second half of the time is a human's, and the rounds end before.
-- In mode first the first claim or answer is the only one. In a panel up to k experts claim, each under his own epoch.
-- Lock order: a help request, then its task. COLLATE "default": see 016.
-- Each verb plans by indexes and nested loops, since its plans may be made before there are statistics, for itself and for the functions that it
-- calls. OFFSET 0 keeps a look by the key one, where a planner
-- that guesses may read all of a tenant's instead.

SET LOCAL ROLE muster_owner;

CREATE TABLE muster.help (
    tenant text COLLATE "C" NOT NULL,
    help_id text COLLATE "C" NOT NULL,
    asker text COLLATE "C" NOT NULL,
    session text, -- of the asker; NULL: not known, and never lost
    problem text NOT NULL,
    words text[] NOT NULL, -- that it is made of
    marks bigint[] NOT NULL, -- of muster.help_marks
    context jsonb,
    capabilities text[] NOT NULL DEFAULT '{}',
    labels jsonb NOT NULL DEFAULT '{}',
    task_id text COLLATE "C", -- which waits for it
    on_expired text NOT NULL DEFAULT 'retry', -- what the task does then: retry or fail
    parent text,
    retry_of text, -- which one it is once more
    ancestors text[] NOT NULL DEFAULT '{}', -- who asks for what the asker answers, up to the first: not asked
    depth integer NOT NULL DEFAULT 0,
    mode text NOT NULL,
    k integer NOT NULL,
    state text NOT NULL,
    seq integer NOT NULL, -- of the last row in muster.help_history
    epoch bigint NOT NULL DEFAULT 0,
    round integer NOT NULL DEFAULT 0, -- how many are over
    rounds integer NOT NULL,
    rejected integer NOT NULL DEFAULT 0,
    rejections integer NOT NULL,
    escalate boolean NOT NULL,
    default_answer jsonb,
    auto_accept boolean NOT NULL,
    offer_ms integer NOT NULL,
    claim_ms integer NOT NULL,
    verdict_ms integer NOT NULL,
    deadline timestamptz NOT NULL, -- of an answer
    half_at timestamptz,           -- from when it is a human's; NULL: never
    until timestamptz,             -- the clock of the state: end of a round, of the first claim, of the verdict
    wake_at timestamptz,           -- when the sweeper has to look; NULL: never
    offer_at timestamptz,          -- when to look for experts; NULL: not now
    answered_by text,              -- whose answer was accepted
    prior_of text,                 -- the request whose answer was taken
    reason text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    completed_at timestamptz
) WITH (fillfactor = 70);
CREATE INDEX help_open ON muster.help (tenant, asker)
    WHERE state IN ('open', 'offered', 'claimed', 'answered', 'escalated');
CREATE INDEX help_ended ON muster.help (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX help_wake ON muster.help (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX help_look ON muster.help (offer_at) WHERE offer_at IS NOT NULL;
CREATE INDEX help_task ON muster.help (tenant, task_id)
    WHERE task_id IS NOT NULL AND state IN ('open', 'offered', 'claimed', 'answered', 'escalated');
CREATE INDEX help_list ON muster.help (tenant, created_at);
-- Of indexes that cost the same, as all do in an empty table, the planner takes the youngest: that has to be the key.
ALTER TABLE muster.help ADD PRIMARY KEY (tenant, help_id);
COMMENT ON TABLE muster.help IS 'Requests for help and how they are.';

CREATE TABLE muster.help_experts (
    tenant text COLLATE "C" NOT NULL,
    help_id text COLLATE "C" NOT NULL,
    agent text COLLATE "C" NOT NULL,
    -- offered, ignored (his round is over), claimed, lapsed, declined, answered, extra (his answer came too late),
    -- stopped (the claim is of no use any more)
    state text NOT NULL,
    excluded boolean NOT NULL DEFAULT false,
    offer_epoch bigint NOT NULL DEFAULT 0, -- of the request when he was asked
    epoch bigint NOT NULL DEFAULT 0,       -- of his claim; until then of the offer
    crashes integer NOT NULL DEFAULT 0,
    session text,             -- of the claim
    claim_until timestamptz,
    offered_at timestamptz,
    solution jsonb,
    confidence double precision,
    answered_at timestamptz,
    verdict text,             -- accepted or rejected
    verdict_at timestamptz
);
CREATE INDEX help_experts_claims ON muster.help_experts (tenant, agent) WHERE state = 'claimed';
ALTER TABLE muster.help_experts ADD PRIMARY KEY (tenant, help_id, agent);
COMMENT ON TABLE muster.help_experts IS 'Who was asked, and what each did and said.';

CREATE TABLE muster.help_history (
    tenant text COLLATE "C" NOT NULL,
    help_id text COLLATE "C" NOT NULL,
    seq integer NOT NULL,
    at timestamptz NOT NULL,
    from_state text NOT NULL, -- '': it was made
    to_state text NOT NULL,
    epoch bigint NOT NULL,
    holder text, -- who holds this epoch from then on; NULL: nobody
    actor text,
    role text NOT NULL, -- as what the actor did it: owner (who asks), holder (who answers), admin, human, engine
    verb text NOT NULL,
    reason text,
    detail jsonb,
    PRIMARY KEY (tenant, help_id, seq)
);
COMMENT ON TABLE muster.help_history IS 'Every change of state of every request for help; goes with it.';

-- Of each problem whose answer was accepted, the words with the smallest hashes of eight parts of all words (MinHash in one pass): of two
-- problems that have half of their words in common each part gives the same in one case of two, so that they share one of them almost
-- always, the more of them the more they are alike, and what has little in common is not even looked at. A table and not an index of
-- texts: with row level security no operator of text search can be served by an index.
CREATE TABLE muster.help_marks (
    tenant text COLLATE "C" NOT NULL,
    mark bigint NOT NULL,
    at timestamptz NOT NULL, -- created_at of the request
    help_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, mark, at, help_id)
);
COMMENT ON TABLE muster.help_marks IS 'By what an earlier problem is found that is like a new one.';

CREATE TABLE muster.help_trust (
    tenant text COLLATE "C" NOT NULL,
    agent text COLLATE "C" NOT NULL,
    verdicts text NOT NULL, -- on the last 20 of its answers, the newest last: + accepted, - rejected
    at timestamptz NOT NULL, -- of the newest
    PRIMARY KEY (tenant, agent)
) WITH (fillfactor = 70);
COMMENT ON TABLE muster.help_trust IS 'What became of the answers of each agent.';

INSERT INTO muster.edges (machine, verb, from_state, to_state, who, epoch_up)
SELECT 'help', verb, from_state, to_state, who, epoch_up FROM (VALUES
    ('request',        '',          'open',       '{any}'::text[],        false),
    -- Offered too: experts are asked without waiting whether the asker takes an earlier answer.
    ('take_prior',     'open',      'accepted',   '{owner}',              false),
    ('take_prior',     'offered',   'accepted',   '{owner}',              false),
    ('offer',          'open',      'offered',    '{engine}',             false),
    ('claim',          'offered',   'claimed',    '{holder}',             true),
    ('claim',          'claimed',   'claimed',    '{holder}',             true), -- a panel's next
    ('decline',        'offered',   'open',       '{holder}',             false),
    ('offer_timeout',  'offered',   'open',       '{engine}',             false),
    ('session_lost',   'offered',   'open',       '{engine}',             false),
    ('escalate',       'open',      'escalated',  '{owner,admin,engine}', false),
    ('escalate',       'offered',   'escalated',  '{owner,admin,engine}', false),
    ('answer',         'claimed',   'answered',   '{holder}',             false),
    ('panel_over',     'claimed',   'answered',   '{engine}',             false),
    ('decline',        'claimed',   'open',       '{holder}',             false),
    ('claim_timeout',  'claimed',   'open',       '{engine}',             false),
    ('session_lost',   'claimed',   'open',       '{engine}',             false),
    ('accept',         'answered',  'accepted',   '{owner}',              false),
    ('auto_accept',    'answered',  'accepted',   '{engine}',             false),
    ('reject',         'answered',  'open',       '{owner}',              false),
    ('reject',         'answered',  'escalated',  '{owner}',              false),
    ('resolve',        'escalated', 'answered',   '{human}',              false),
    ('default_answer', 'escalated', 'answered',   '{engine}',             false),
    ('withdraw',       'open',      'withdrawn',  '{owner,admin,engine}', false),
    ('withdraw',       'offered',   'withdrawn',  '{owner,admin,engine}', false),
    ('withdraw',       'claimed',   'withdrawn',  '{owner,admin,engine}', false),
    ('withdraw',       'answered',  'withdrawn',  '{owner,admin,engine}', false),
    ('withdraw',       'escalated', 'withdrawn',  '{owner,admin,engine}', false),
    ('expire',         'open',      'expired',    '{engine}',             false),
    ('expire',         'offered',   'expired',    '{engine}',             false),
    ('expire',         'claimed',   'expired',    '{engine}',             false),
    ('expire',         'escalated', 'expired',    '{engine}',             false),
    ('no_verdict',     'answered',  'unanswered', '{engine}',             false)
) AS e (verb, from_state, to_state, who, epoch_up);

-- A task that waits for help goes on by its answer.
UPDATE muster.edges SET who = who || '{engine}' WHERE machine = 'task' AND verb = 'provide_input';


-- Small things. Those that make JSON are STABLE, as what they call is: only so are they part of the statement that calls them, and not
-- planned anew each time.

CREATE FUNCTION muster.help_live(p_state text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_state IN ('open', 'offered', 'claimed', 'answered', 'escalated');

CREATE FUNCTION muster.help_wake(p_state text, p_until timestamptz, p_half_at timestamptz, p_deadline timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_state IN ('open', 'offered') THEN least(p_until, p_half_at, p_deadline)
            WHEN p_state IN ('claimed', 'escalated') THEN least(p_until, p_deadline)
            WHEN p_state = 'answered' THEN p_until END;

CREATE FUNCTION muster.help_not_found(p_help_id text) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN muster.error('not_found', format('help_id: there is no help request %s', coalesce(left(p_help_id, 100), 'without an id')), 'help_id');

CREATE FUNCTION muster.help_refusal(h muster.help, p_verb text) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN muster.error('failed_precondition', format('help_id: help request %s is %s, which has no %s', left((h).help_id, 100), (h).state, p_verb), 'help_id');

CREATE FUNCTION muster.help_stale(h muster.help, p_epoch text) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN muster.error('aborted', format('epoch: %s came for help request %s, which is %s with epoch %s (stale_epoch)',
                                      coalesce(p_epoch, 'none'), left((h).help_id, 100), (h).state, (h).epoch), 'epoch');

-- What was said. Who answered too late, or was turned down, is there as well.
CREATE FUNCTION muster.help_said(e muster.help_experts) RETURNS text
LANGUAGE sql STABLE
RETURN concat('{"agent":', to_json((e).agent), ',"confidence":' || (e).confidence, ',"epoch":', (e).epoch, ',"at":"', muster.stamp((e).answered_at),
              '","verdict":"' || (e).verdict, '"', CASE (e).state WHEN 'extra' THEN ',"extra":true' END, ',"solution":', coalesce((e).solution::text, 'null'), '}');

-- A request as `get` shows it is this in braces, what is not set is not there; an event's body has from and at in addition. Text, since it
-- goes into the WAL as text.
CREATE FUNCTION muster.help_inner(h muster.help) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_offered_to json;
    v_claimed_by json;
    v_answers text;
BEGIN
    IF h.seq > 1 THEN
        SELECT json_agg(e.agent) FILTER (WHERE e.offered_at IS NOT NULL), json_agg(e.agent) FILTER (WHERE e.state = 'claimed'),
               string_agg(muster.help_said(e), ',' ORDER BY e.answered_at, e.agent) FILTER (WHERE e.answered_at IS NOT NULL)
        INTO v_offered_to, v_claimed_by, v_answers
        FROM (SELECT * FROM muster.help_experts AS x WHERE x.tenant = h.tenant AND x.help_id = h.help_id ORDER BY x.agent) AS e;
    END IF;
    RETURN concat(
        '"help_id":', to_json(h.help_id), ',"state":"', h.state, '","asker":', to_json(h.asker), ',"problem":', to_json(h.problem),
        ',"context":' || h.context::text, ',"capabilities":', to_json(h.capabilities), CASE WHEN h.labels <> '{}' THEN ',"labels":' || h.labels::text END,
        ',"task_id":' || to_json(h.task_id)::text, ',"parent":' || to_json(h.parent)::text, ',"retry_of":' || to_json(h.retry_of)::text,
        ',"depth":', h.depth, ',"mode":"', h.mode, '","k":', h.k, ',"epoch":', h.epoch, ',"round":', h.round, ',"rejections":', h.rejected,
        ',"escalate":', h.escalate::text, ',"default_answer":' || h.default_answer::text, ',"deadline":"', muster.stamp(h.deadline),
        '","created_at":"', muster.stamp(h.created_at), '","updated_at":"', muster.stamp(h.updated_at), '"',
        ',"completed_at":"' || muster.stamp(h.completed_at) || '"', ',"answered_by":' || to_json(h.answered_by)::text,
        ',"prior":' || to_json(h.prior_of)::text, ',"reason":' || to_json(h.reason)::text,
        ',"offered_to":', coalesce(v_offered_to, '[]'), ',"claimed_by":', coalesce(v_claimed_by, '[]'), ',"answers":[', v_answers, ']');
END
$$;

-- The same, within what an answer and an event can hold: brokers decode no more than 1,000,000 bytes. What is left out is named.
CREATE FUNCTION muster.help_within(h muster.help) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_inner text := muster.help_inner(h);
BEGIN
    IF octet_length(v_inner) <= 900000 THEN
        RETURN v_inner;
    END IF;
    h.context := NULL;
    h.default_answer := NULL;
    v_inner := muster.help_inner(h);
    IF octet_length(v_inner) <= 900000 THEN
        RETURN v_inner || ',"omitted":["context","default_answer"]';
    END IF;
    RETURN (SELECT substr(left(x.shown::text, -1), 2) FROM (
        SELECT i.shown || jsonb_build_object('omitted', '["context","default_answer","solution"]'::jsonb, 'answers',
                   (SELECT jsonb_agg(a - 'solution' ORDER BY n) FROM jsonb_array_elements(i.shown -> 'answers') WITH ORDINALITY AS y (a, n)))
        FROM (SELECT ('{' || v_inner || '}')::jsonb) AS i (shown)) AS x (shown));
END
$$;


-- The machine.

-- History and event of a change that is in the row.
CREATE FUNCTION muster.help_record(h muster.help, p_from text, p_actor text, p_role text, p_verb text, p_reason text, p_detail jsonb) RETURNS pg_lsn
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO muster.help_history (tenant, help_id, seq, at, from_state, to_state, epoch, holder, actor, role, verb, reason, detail)
    VALUES (h.tenant, h.help_id, h.seq, h.updated_at, p_from, h.state, h.epoch, CASE h.state WHEN 'claimed' THEN p_actor END,
            p_actor, p_role, p_verb, p_reason, p_detail);
    -- The same content that muster.emit() makes of it, built once.
    RETURN pg_logical_emit_message(true, 'muster.evt', convert_to(concat(
        '{"tenant":"', h.tenant, '","service":"help","event":"', h.state, '","key":', to_json(h.help_id), ',"body":{', muster.help_within(h),
        ',"from":"', p_from, '","at":"', muster.stamp(h.updated_at), '"}}'), 'UTF8'));
END
$$;

-- Make a change of a row that the caller has locked. What the verb says of it is in it already; of claimed also the clock.
CREATE FUNCTION muster.help_move(h muster.help, p_verb text, p_to text, p_actor text, p_role text,
                                 p_reason text DEFAULT NULL, p_detail jsonb DEFAULT NULL) RETURNS muster.help
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_now constant timestamptz := clock_timestamp();
    v_from constant text := h.state;
    v_edge muster.edges;
    v_lsn pg_lsn;
BEGIN
    SELECT * INTO v_edge FROM muster.edges AS e
    WHERE e.machine = 'help' AND e.verb = p_verb AND e.from_state = v_from AND e.to_state = p_to;
    IF NOT FOUND OR NOT (p_role = ANY (v_edge.who)) THEN -- the functions below ask before
        RAISE EXCEPTION 'muster.help_move: a % came, from % to % by %, an edge of muster.edges was expected', p_verb, v_from, p_to, p_role;
    END IF;
    h.state := p_to;
    h.seq := h.seq + 1;
    h.updated_at := v_now;
    h.epoch := h.epoch + v_edge.epoch_up::integer;
    h.offer_at := CASE WHEN p_to = 'open' AND h.round < h.rounds THEN v_now END;
    h.until := CASE p_to WHEN 'offered' THEN CASE WHEN h.escalate OR h.round + 1 < h.rounds THEN v_now + h.offer_ms * interval '1 millisecond' END
                         WHEN 'claimed' THEN h.until
                         WHEN 'answered' THEN v_now + h.verdict_ms * interval '1 millisecond' END;
    h.completed_at := CASE WHEN NOT muster.help_live(p_to) THEN v_now END;
    h.wake_at := muster.help_wake(h.state, h.until, h.half_at, h.deadline);
    UPDATE muster.help AS x SET
        state = h.state, seq = h.seq, updated_at = h.updated_at, epoch = h.epoch, round = h.round, rejected = h.rejected, until = h.until,
        wake_at = h.wake_at, offer_at = h.offer_at, answered_by = h.answered_by, prior_of = h.prior_of, reason = h.reason,
        completed_at = h.completed_at
    WHERE x.tenant = h.tenant AND x.help_id = h.help_id;
    IF v_from = 'claimed' AND p_to <> 'claimed' THEN
        UPDATE muster.help_experts AS e SET state = 'stopped', claim_until = NULL
        WHERE e.tenant = h.tenant AND e.help_id = h.help_id AND e.state = 'claimed';
    END IF;
    v_lsn := muster.help_record(h, v_from, p_actor, p_role, p_verb, p_reason, p_detail);
    RETURN h;
END
$$;

-- As what the caller may do what the asker may; NULL: he may not. Who holds the task now has inherited its requests.
CREATE FUNCTION muster.help_role(h muster.help, p_agent text, p_args jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE WHEN h.asker = p_agent THEN 'owner'
                WHEN h.task_id IS NOT NULL AND EXISTS (
                    SELECT FROM public.agent_tasks AS t
                    WHERE t.tenant_id = h.tenant AND t.task_id = h.task_id COLLATE "default" AND t.assigned_to = p_agent
                      AND t.status IN ('offered', 'running', 'input_required', 'cancelling')) THEN 'owner'
                WHEN p_args ->> 'role' IN ('admin', 'operator') THEN 'admin' END;
END
$$;

CREATE FUNCTION muster.help_not_yours(h muster.help) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN muster.error('permission_denied', format('help_id: help request %s (%s) is another agent''s', left((h).help_id, 100), (h).state), 'help_id');

-- A verdict by respond() is on one answer: that of another time is not in question any more. NULL: it is this one, or no respond().
CREATE FUNCTION muster.help_other_answer(h muster.help, p_seq text) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN p_seq <> (h).seq::text THEN muster.error('aborted', format('help_id: help request %s is %s, and that answer is not in question any more (stale_epoch)',
                                                                          left((h).help_id, 100), (h).state), 'help_id') END;

-- What a broker needs to look for experts.
CREATE FUNCTION muster.help_wants(h muster.help) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN jsonb_build_object('help_id', (h).help_id, 'seq', (h).seq, 'capabilities', (h).capabilities, 'labels', (h).labels, 'asker', (h).asker,
                          'n', least((h).k * (2 ^ least((h).round, 10))::integer, 64));

-- Of messages that nobody gets there are none.
CREATE FUNCTION muster.help_done(h muster.help, VARIADIC p_tell jsonb[] DEFAULT '{}') RETURNS jsonb
LANGUAGE sql STABLE
RETURN jsonb_build_object('ok', jsonb_build_object('help_id', (h).help_id, 'state', (h).state), 'tell', to_jsonb(array_remove(p_tell, NULL)))
    || CASE WHEN (h).offer_at IS NULL THEN '{}' ELSE jsonb_build_object('offer', muster.help_wants(h)) END;

-- A broker tells what the answer to its own request says, not what the kept answer to an earlier one does: it finds ask as it gave it.
CREATE FUNCTION muster.help_echo(p_args jsonb) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN p_args ? 'ask' THEN jsonb_build_object('ask', p_args -> 'ask') ELSE '{}' END;

-- NULL: to nobody.
CREATE FUNCTION muster.help_message(p_to text[], p_type text, p_body jsonb) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN cardinality(p_to) > 0 THEN jsonb_build_object('to', to_jsonb(p_to), 'type', p_type, 'body', p_body) END;

-- Those who hold it have to stop.
CREATE FUNCTION muster.help_stop_message(h muster.help, p_holders text[]) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN muster.help_message(p_holders, 'help_cancel', jsonb_strip_nulls(jsonb_build_object(
    'help_id', (h).help_id, 'epoch', (h).epoch, 'state', (h).state, 'reason', (h).reason)));

-- Whom it concerns when it is over before there is an answer: who has claimed it, or, where nobody has, was asked and has not declined.
CREATE FUNCTION muster.help_busy(h muster.help) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(SELECT e.agent FROM muster.help_experts AS e
                 WHERE e.tenant = h.tenant AND e.help_id = h.help_id
                   AND (e.state = 'claimed' OR e.state IN ('offered', 'ignored') AND h.state IN ('open', 'offered')) ORDER BY 1);
END
$$;

CREATE FUNCTION muster.help_offer_message(h muster.help, p_to text[]) RETURNS jsonb
LANGUAGE sql STABLE
RETURN muster.help_message(p_to, 'request_help',
        jsonb_build_object('help_id', (h).help_id, 'epoch', (h).epoch, 'problem', (h).problem, 'context', (h).context, 'from', (h).asker,
                           'depth', (h).depth, 'mode', (h).mode, 'deadline', muster.stamp((h).deadline), 'escalated', (h).state = 'escalated'))
    || '{"answer": true}';

-- The humans of a tenant hear of what is escalated; whoever is not there finds it in the list.
CREATE FUNCTION muster.help_human_message(h muster.help) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN muster.help_offer_message(h, ARRAY(
        SELECT c.agent::text FROM muster.credentials AS c
        WHERE c.tenant = h.tenant AND c.role = 'human' AND c.revoked_at IS NULL AND (c.expires_at IS NULL OR c.expires_at > statement_timestamp())
        ORDER BY 1 LIMIT 64));
END
$$;

-- The answer that a verdict is about: of whom it names, otherwise of who was surest, and then the first.
CREATE FUNCTION muster.help_best(h muster.help, p_agent text) RETURNS muster.help_experts
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_best muster.help_experts;
BEGIN
    SELECT * INTO v_best FROM muster.help_experts AS e
    WHERE e.tenant = h.tenant AND e.help_id = h.help_id AND e.state = 'answered' AND e.verdict IS NULL AND (p_agent IS NULL OR e.agent = p_agent)
    ORDER BY e.confidence DESC NULLS LAST, e.answered_at, e.agent LIMIT 1;
    RETURN v_best;
END
$$;

-- What the asker gets: the best answer, and all of a panel's. verdict: what respond() gives may be one, on what is answered with this seq.
CREATE FUNCTION muster.help_answer_message(h muster.help) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_best constant muster.help_experts := muster.help_best(h, NULL);
    v_answers text := '';
BEGIN
    IF h.mode = 'panel' THEN
        v_answers := (SELECT string_agg(muster.help_said(e), ',' ORDER BY e.answered_at, e.agent) FROM muster.help_experts AS e
                      WHERE e.tenant = h.tenant AND e.help_id = h.help_id AND e.answered_at IS NOT NULL);
    END IF;
    RETURN muster.help_message(ARRAY[h.asker], 'share_knowledge',
        jsonb_strip_nulls(jsonb_build_object('help_id', h.help_id, 'from', v_best.agent, 'confidence', v_best.confidence, 'task_id', h.task_id))
        || jsonb_build_object('solution', v_best.solution)
        || CASE WHEN v_answers = '' THEN '{}' WHEN octet_length(v_answers) > 450000 THEN '{"omitted": ["answers"]}' -- get has them
                ELSE ('{"answers":[' || v_answers || ']}')::jsonb END)
        || jsonb_build_object('verdict', h.seq);
END
$$;


-- Let the task go on that waits for it. Who holds it is told by the events of tasks.
CREATE FUNCTION muster.help_resume(h muster.help, p_actor text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t public.agent_tasks;
    v_best muster.help_experts;
BEGIN
    SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = h.tenant AND x.task_id = h.task_id COLLATE "default" FOR NO KEY UPDATE;
    IF NOT FOUND OR t.status <> 'input_required' OR t.question ->> 'help_id' IS DISTINCT FROM h.help_id THEN
        RETURN;
    ELSIF h.state IN ('expired', 'unanswered') THEN
        PERFORM muster.task_input_failed(h.tenant COLLATE "default", p_actor, jsonb_build_object(
            'task_id', h.task_id, 'retryable', h.on_expired = 'retry', 'reason', format('help request %s is %s', h.help_id, h.state)));
        RETURN;
    END IF;
    t.input := jsonb_build_object('help_id', h.help_id, 'state', h.state);
    IF h.state = 'accepted' THEN
        SELECT * INTO v_best FROM muster.help_experts AS e
        WHERE e.tenant = h.tenant AND e.help_id = coalesce(h.prior_of, h.help_id) AND e.agent = h.answered_by;
        t.input := t.input || jsonb_build_object('solution', v_best.solution, 'from', h.answered_by);
    END IF;
    PERFORM muster.task_move(t, 'provide_input', CASE WHEN muster.task_holder_gone(t) THEN 'queued' ELSE 'running' END, p_actor, 'engine');
END
$$;


-- Asking.

CREATE FUNCTION muster.help_check(args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_field text;
BEGIN
    IF jsonb_typeof(args -> 'problem') IS DISTINCT FROM 'string' OR args ->> 'problem' = '' THEN
        RETURN muster.wrong('problem', args ->> 'problem', 'a text');
    ELSIF octet_length(args ->> 'problem') > 100000 THEN
        RETURN muster.wrong('problem', octet_length(args ->> 'problem') || ' bytes', 'at most 100000 bytes');
    ELSIF octet_length((args -> 'problem')::text) > 300000 THEN -- who is asked gets it beside the context
        RETURN muster.wrong('problem', octet_length((args -> 'problem')::text) || ' bytes', 'at most 300000 bytes as JSON');
    ELSIF args ->> 'mode' NOT IN ('first', 'panel') THEN
        RETURN muster.wrong('mode', args ->> 'mode', 'first or panel');
    ELSIF args ->> 'k' !~ '^([1-9]|1[0-6])$' THEN
        RETURN muster.wrong('k', args ->> 'k', 'a number from 1 to 16');
    ELSIF args ->> 'on_expired' NOT IN ('retry', 'fail') THEN
        RETURN muster.wrong('on_expired', args ->> 'on_expired', 'retry or fail');
    ELSIF jsonb_typeof(args -> 'labels') NOT IN ('object', 'null') OR octet_length(args ->> 'labels') > 16384 THEN
        RETURN muster.wrong('labels', args ->> 'labels', 'a map of texts of at most 16384 bytes');
    END IF;
    FOREACH v_field IN ARRAY '{context,default_answer}'::text[] LOOP
        IF octet_length((args -> v_field)::text) > 500000 THEN
            RETURN muster.wrong(v_field, octet_length((args -> v_field)::text) || ' bytes', 'at most 500000 bytes as JSON');
        END IF;
    END LOOP;
    FOREACH v_field IN ARRAY '{timeout_ms,verdict_ms}'::text[] LOOP
        IF args ->> v_field !~ '^[1-9]\d{0,9}$' OR (args ->> v_field)::bigint > 2147483647 THEN
            RETURN muster.wrong(v_field, args ->> v_field, 'a whole number from 1');
        END IF;
    END LOOP;
    FOREACH v_field IN ARRAY '{escalate,auto_accept}'::text[] LOOP
        IF jsonb_typeof(args -> v_field) NOT IN ('boolean', 'null') THEN
            RETURN muster.wrong(v_field, args ->> v_field, 'true or false');
        END IF;
    END LOOP;
    FOREACH v_field IN ARRAY '{task_id,parent}'::text[] LOOP
        IF jsonb_typeof(args -> v_field) NOT IN ('string', 'null') OR octet_length(args ->> v_field) NOT BETWEEN 1 AND 256 THEN
            RETURN muster.wrong(v_field, args ->> v_field, 'a text of 1 to 256 bytes');
        END IF;
    END LOOP;
    IF jsonb_typeof(args -> 'capabilities') = 'array' THEN
        IF jsonb_path_exists(args, '$.capabilities[*] ? (@.type() != "string")') OR jsonb_array_length(args -> 'capabilities') > 64 OR octet_length(args ->> 'capabilities') > 16384 THEN
            RETURN muster.wrong('capabilities', args ->> 'capabilities', 'a list of at most 64 texts, of at most 16384 bytes');
        END IF;
    ELSIF jsonb_typeof(args -> 'capabilities') <> 'null' THEN
        RETURN muster.wrong('capabilities', args ->> 'capabilities', 'a list of texts');
    END IF;
    RETURN NULL;
END
$$;

-- At most 64, so that a long problem is found by a shorter one like it, and in time.
CREATE FUNCTION muster.help_lexemes(p_problem text) RETURNS text[]
LANGUAGE sql STABLE
RETURN coalesce((tsvector_to_array(to_tsvector('pg_catalog.english', left(p_problem, 10000))))[1:64], '{}');

CREATE FUNCTION muster.help_marks_of(p_words text[]) RETURNS SETOF bigint
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT min(x.h) FROM (SELECT hashtextextended(w, 0) AS h FROM unnest(p_words) AS w) AS x GROUP BY x.h & 7;
END;

-- Accepted answers to problems that have half of their words in common with this one, the likest first. Of each mark the 16 newest are
-- looked at, and of these the words of a few that share the most; or of p_only and no other.
CREATE FUNCTION muster.help_prior(h muster.help, p_limit integer, p_only text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_found text[];
BEGIN
    IF p_limit < 1 THEN
        RETURN '[]';
    END IF;
    v_found := CASE WHEN p_only IS NOT NULL THEN ARRAY[p_only] ELSE ARRAY(SELECT w.help_id FROM unnest(h.marks) AS m (mark)
                     CROSS JOIN LATERAL (SELECT x.help_id, x.at FROM muster.help_marks AS x
                                         WHERE x.tenant = h.tenant AND x.mark = m.mark ORDER BY x.at DESC LIMIT 16) AS w
                     GROUP BY w.help_id ORDER BY count(*) DESC, max(w.at) DESC LIMIT 5 + p_limit) END;
    IF v_found = '{}' THEN
        RETURN '[]';
    END IF;
    RETURN (
        SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                   'help_id', f.help_id, 'problem', left(f.problem, 1000), 'from', f.answered_by, 'confidence', e.confidence,
                   'similarity', round(f.alike, 3), 'at', muster.stamp(f.completed_at)))
                   || CASE WHEN octet_length(e.solution::text) > 40000 THEN '{"omitted": ["solution"]}' -- get has it
                           ELSE jsonb_build_object('solution', e.solution) END ORDER BY f.alike DESC, f.completed_at DESC), '[]')
        FROM (SELECT x.help_id, x.problem, x.answered_by, x.completed_at, c.common / (cardinality(h.words) + cardinality(x.words) - c.common)::numeric AS alike
              FROM unnest(v_found) AS found (id)
              CROSS JOIN LATERAL (SELECT * FROM muster.help AS r WHERE r.tenant = h.tenant AND r.help_id = found.id OFFSET 0) AS x
              CROSS JOIN LATERAL (SELECT count(*) AS common FROM unnest(x.words) AS w WHERE w = ANY (h.words)) AS c
              WHERE c.common * 2 >= cardinality(h.words) + cardinality(x.words) - c.common
              ORDER BY 5 DESC, x.completed_at DESC LIMIT p_limit) AS f
        CROSS JOIN LATERAL (SELECT * FROM muster.help_experts AS r WHERE r.tenant = h.tenant AND r.help_id = f.help_id AND r.agent = f.answered_by OFFSET 0) AS e
        WHERE e.agent <> '_muster' AND e.verdict = 'accepted');
END
$$;

-- Who of the candidates is asked: nobody of the chain of asks, nobody who is excluded. The experts are ranked by how many of their last 20
-- answers were accepted, less what they have on their hands; who was asked before and let it pass comes after all others.
CREATE FUNCTION muster.help_pick(h muster.help, p_candidates jsonb, p_n integer) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(
        SELECT c.agent
        FROM ROWS FROM (jsonb_to_recordset(p_candidates) AS (agent text, load double precision)) WITH ORDINALITY AS c (agent, load, n)
        LEFT JOIN muster.help_experts AS e ON e.tenant = h.tenant AND e.help_id = h.help_id AND e.agent = c.agent
        LEFT JOIN LATERAL (SELECT r.verdicts FROM muster.help_trust AS r WHERE r.tenant = h.tenant AND r.agent = c.agent OFFSET 0) AS t ON true
        CROSS JOIN LATERAL (
            SELECT count(*) AS claims FROM muster.help_experts AS x WHERE x.tenant = h.tenant AND x.agent = c.agent AND x.state = 'claimed') AS q
        WHERE c.agent <> h.asker AND c.agent <> ALL (h.ancestors) AND e.excluded IS NOT TRUE
        ORDER BY coalesce(e.state IN ('ignored', 'lapsed'), false),
                 (coalesce(length(replace(t.verdicts, '-', '')), 0) + 1.0) / (coalesce(length(t.verdicts), 0) + 2)
                 - 0.25 * least(coalesce(c.load, 0), 4) - 0.25 * q.claims DESC, c.n
        LIMIT p_n);
END
$$;

-- Ask them. A locked request that is open becomes offered.
CREATE FUNCTION muster.help_ask(h muster.help, p_agents text[], p_actor text) RETURNS muster.help
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF h.seq > 1 THEN
        UPDATE muster.help_experts AS e SET state = 'ignored'
        WHERE e.tenant = h.tenant AND e.help_id = h.help_id AND e.state = 'offered' AND e.agent <> ALL (p_agents);
    END IF;
    INSERT INTO muster.help_experts AS e (tenant, help_id, agent, state, offer_epoch, epoch, offered_at)
    SELECT h.tenant, h.help_id, a, 'offered', h.epoch, h.epoch, clock_timestamp() FROM unnest(p_agents) AS a
    ON CONFLICT ON CONSTRAINT help_experts_pkey
    DO UPDATE SET state = 'offered', offer_epoch = excluded.offer_epoch, epoch = excluded.epoch, offered_at = excluded.offered_at;
    RETURN muster.help_move(h, 'offer', 'offered', p_actor, 'engine', NULL, jsonb_build_object('to', p_agents));
END
$$;

-- The quota is counted among what is committed, and may be passed by as many as are under way on other brokers.
-- args may have what help_retry knows beside them: retry_of, and by, who asks in the asker's place.
CREATE FUNCTION muster.help_request(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_error jsonb := muster.help_check(args);
    v_set constant jsonb := coalesce(args -> 'set', '{}');
    v_now constant timestamptz := clock_timestamp();
    v_timeout constant bigint := coalesce(args ->> 'timeout_ms', v_set ->> 'timeout_ms', '600000');
    v_task_id constant text := args ->> 'task_id';
    v_parent text := args ->> 'parent';
    v_claims record;
    v_prior jsonb;
    t public.agent_tasks;
    h muster.help;
    v_done jsonb;
    v_lsn pg_lsn;
BEGIN
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    END IF;
    h.words := muster.help_lexemes(args ->> 'problem');
    -- What he answers right now is what he asks for.
    SELECT coalesce(array_agg(DISTINCT a.a), '{}') AS ancestors, max(x.depth) AS depth, (array_agg(x.help_id ORDER BY e.epoch DESC, x.help_id DESC))[1] AS newest,
           coalesce(bool_or(x.help_id = v_parent), false) AS named,
           (SELECT count(*) FROM muster.help AS o WHERE o.tenant = tenant AND o.asker = agent
              AND o.state IN ('open', 'offered', 'claimed', 'answered', 'escalated')) AS open,
           ARRAY(SELECT m FROM muster.help_marks_of(h.words) AS m) AS marks
    INTO v_claims
    FROM muster.help_experts AS e
    JOIN muster.help AS x ON x.tenant = e.tenant AND x.help_id = e.help_id
    LEFT JOIN LATERAL unnest(x.asker || x.ancestors) AS a (a) ON true
    WHERE e.tenant = tenant AND e.agent = agent AND e.state = 'claimed';
    IF v_parent IS NULL THEN
        v_parent := v_claims.newest;
    ELSIF NOT v_claims.named THEN
        IF NOT EXISTS (SELECT FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_parent) THEN
            RETURN muster.error('not_found', format('parent: there is no help request %s', left(v_parent, 100)), 'parent');
        END IF;
        RETURN muster.error('failed_precondition', format('parent: %s has not claimed help request %s (%s)', agent, left(v_parent, 100),
            (SELECT x.state FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_parent)), 'parent');
    END IF;
    IF v_claims.depth + 1 > coalesce((v_set ->> 'depth')::integer, 4) THEN
        RETURN muster.error('failed_precondition', format('parent: help request %s has depth %s, and at most %s may be asked for', left(v_parent, 100),
                                                          v_claims.depth, coalesce(v_set ->> 'depth', '4')), 'parent');
    ELSIF v_claims.open >= coalesce((v_set ->> 'quota')::integer, 100) THEN
        RETURN muster.error('resource_exhausted', format('help.open: %s is how many help requests an agent may have open', coalesce(v_set ->> 'quota', '100')), 'help.open', 1000);
    END IF;
    h.help_id := lpad(to_hex((extract(epoch FROM v_now) * 1000)::bigint), 12, '0'); -- UUIDv7
    h.help_id := left(h.help_id, 8) || '-' || right(h.help_id, 4) || '-7' || substr(gen_random_uuid()::text, 16);
    h.tenant := tenant;
    IF v_task_id IS NOT NULL THEN
        SELECT * INTO t FROM public.agent_tasks AS x WHERE x.tenant_id = tenant AND x.task_id = v_task_id FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            RETURN muster.task_not_found(v_task_id);
        END IF;
        v_error := muster.task_hold(t, agent, args, 'help', '{running,input_required}');
        IF v_error IS NOT NULL THEN
            RETURN v_error;
        ELSIF t.status = 'running' THEN
            t.question := jsonb_build_object('help_id', h.help_id, 'problem', left(args ->> 'problem', 10000));
            t.input := NULL;
            PERFORM muster.task_move(t, 'need_input', 'input_required', agent, 'holder');
        END IF;
    END IF;
    h.asker := agent;
    h.session := args ->> 'session';
    h.problem := args ->> 'problem';
    h.marks := v_claims.marks;
    h.context := args -> 'context';
    h.capabilities := CASE jsonb_typeof(args -> 'capabilities') WHEN 'array' THEN ARRAY(
        SELECT DISTINCT c COLLATE "C" FROM jsonb_array_elements_text(args -> 'capabilities') AS c ORDER BY 1) ELSE '{}' END;
    h.labels := CASE jsonb_typeof(args -> 'labels') WHEN 'object' THEN args -> 'labels' ELSE '{}' END;
    h.task_id := v_task_id;
    h.on_expired := coalesce(args ->> 'on_expired', 'retry');
    h.parent := v_parent;
    h.retry_of := args ->> 'retry_of';
    h.ancestors := v_claims.ancestors;
    h.depth := coalesce(v_claims.depth + 1, 0);
    h.mode := coalesce(args ->> 'mode', 'first');
    h.k := coalesce(args ->> 'k', '3');
    h.state := 'open';
    h.seq := 1;
    h.epoch := 0;
    h.round := 0;
    h.rejected := 0;
    h.rounds := greatest(1, coalesce((v_set ->> 'rounds')::integer, 3));
    h.rejections := coalesce(v_set ->> 'rejections', '3');
    h.default_answer := CASE WHEN jsonb_typeof(args -> 'default_answer') <> 'null' THEN args -> 'default_answer' END;
    h.escalate := coalesce((args ->> 'escalate')::boolean, h.default_answer IS NOT NULL);
    h.auto_accept := coalesce(args ->> 'auto_accept', v_set ->> 'auto_accept', 'true');
    h.offer_ms := coalesce(v_set ->> 'offer_ms', '10000');
    h.claim_ms := coalesce(v_set ->> 'claim_ms', '300000');
    h.verdict_ms := coalesce(args ->> 'verdict_ms', v_set ->> 'verdict_ms', '300000');
    h.deadline := v_now + v_timeout * interval '1 millisecond';
    h.half_at := CASE WHEN h.escalate THEN v_now + v_timeout / 2.0 * interval '1 millisecond' END;
    h.offer_at := v_now;
    h.wake_at := muster.help_wake('open', NULL, h.half_at, h.deadline);
    h.created_at := v_now;
    h.updated_at := v_now;
    INSERT INTO muster.help SELECT h.*;
    v_lsn := muster.help_record(h, '', coalesce(args ->> 'by', agent), 'any', 'request', NULL, NULL);
    v_prior := muster.help_prior(h, coalesce((v_set ->> 'prior')::integer, 3));
    v_done := CASE WHEN args ? 'candidates' THEN muster.help_look(h, args -> 'candidates', '_muster') ELSE muster.help_done(h) END;
    RETURN v_done - 'asked' || muster.help_echo(args)
        || jsonb_build_object('ok', (v_done -> 'ok') || jsonb_build_object('offered_to', coalesce(v_done -> 'asked', '[]'), 'prior', v_prior));
END
$$;

-- A new request of the same asker that is what an ended one was. What he answers right now is its parent. Its task waits for it where he asks
-- himself, and holds it still; nobody else stops a task.
CREATE FUNCTION muster.help_retry(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_help_id constant text := args ->> 'help_id';
    v_session text := args ->> 'session';
    v_done jsonb;
    h muster.help;
BEGIN
    SELECT * INTO h FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_help_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.help_not_found(v_help_id);
    ELSIF h.state NOT IN ('withdrawn', 'expired', 'unanswered') THEN
        RETURN muster.help_refusal(h, 'retry');
    ELSIF h.asker <> agent AND coalesce(args ->> 'role', '') NOT IN ('admin', 'operator') THEN
        RETURN muster.help_not_yours(h);
    ELSIF h.asker <> agent THEN
        v_session := (SELECT s.session_id FROM public.agent_sessions AS s WHERE s.tenant_id = tenant AND s.agent_id = h.asker COLLATE "default"
                      AND s.state IS NOT NULL AND s.gone_reason IS NULL ORDER BY s.started_at DESC LIMIT 1);
    END IF;
    v_done := muster.help_request(tenant, h.asker, jsonb_strip_nulls(jsonb_build_object(
            'retry_of', h.help_id, 'by', agent, 'session', v_session, 'ask', args -> 'ask', 'set', args -> 'set',
            'problem', h.problem, 'capabilities', h.capabilities, 'labels', h.labels, 'mode', h.mode, 'k', h.k, 'escalate', h.escalate,
            'auto_accept', h.auto_accept, 'verdict_ms', h.verdict_ms, 'on_expired', h.on_expired,
            'timeout_ms', greatest(1, round(extract(epoch FROM h.deadline - h.created_at) * 1000)::bigint),
            'task_id', (SELECT t.task_id FROM public.agent_tasks AS t WHERE h.asker = agent AND t.tenant_id = tenant AND t.task_id = h.task_id COLLATE "default"
                        AND t.assigned_to = agent AND t.status IN ('running', 'input_required'))))
        || CASE WHEN h.context IS NULL THEN '{}' ELSE jsonb_build_object('context', h.context) END
        || CASE WHEN h.default_answer IS NULL THEN '{}' ELSE jsonb_build_object('default_answer', h.default_answer) END);
    RETURN v_done #- '{ok,offered_to}'; -- who is there and fits is looked for behind this
END
$$;

-- Look among the candidates for whom a locked open request is offered to; with nobody to ask it is a human's, or another attempt comes
-- the later the longer it waits. Gives an outcome with asked[].
CREATE FUNCTION muster.help_look(h muster.help, p_candidates jsonb, p_actor text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_now constant timestamptz := clock_timestamp();
    v_agents constant text[] := muster.help_pick(h, p_candidates, (muster.help_wants(h) ->> 'n')::integer);
BEGIN
    IF v_agents <> '{}' THEN
        h := muster.help_ask(h, v_agents, p_actor);
        RETURN muster.help_done(h, muster.help_offer_message(h, v_agents)) || jsonb_build_object('asked', v_agents);
    ELSIF h.escalate THEN
        h := muster.help_move(h, 'escalate', 'escalated', p_actor, 'engine', 'nobody to ask');
        RETURN muster.help_done(h, muster.help_human_message(h));
    END IF;
    UPDATE muster.help AS x SET offer_at = v_now + least(interval '30 seconds', greatest(interval '1 second', (v_now - h.updated_at) / 4))
    WHERE x.tenant = h.tenant AND x.help_id = h.help_id;
    h.offer_at := NULL; -- not again at once
    RETURN muster.help_done(h);
END
$$;

-- args: help_id, seq? (of the row as it was seen), candidates. ok has offered_to.
CREATE FUNCTION muster.help_offer(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_help_id constant text := args ->> 'help_id';
    h muster.help;
    v_done jsonb;
BEGIN
    SELECT * INTO h FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_help_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.help_not_found(v_help_id);
    ELSIF h.state <> 'open' THEN
        RETURN muster.help_refusal(h, 'offer');
    ELSIF (args ->> 'seq')::integer <> h.seq THEN
        RETURN muster.error('aborted', format('seq: %s came, help request %s is open with %s', args ->> 'seq', left(v_help_id, 100), h.seq), 'seq');
    ELSIF h.deadline <= clock_timestamp() THEN
        RETURN muster.help_late(h);
    ELSIF h.round >= h.rounds THEN
        RETURN muster.error('failed_precondition', format('help_id: help request %s is open, and its %s rounds are over', left(v_help_id, 100), h.rounds), 'help_id');
    END IF;
    v_done := muster.help_look(h, coalesce(args -> 'candidates', '[]'), agent);
    RETURN jsonb_set(v_done - 'asked', '{ok,offered_to}', coalesce(v_done -> 'asked', '[]'));
END
$$;

CREATE FUNCTION muster.help_late(h muster.help) RETURNS jsonb
LANGUAGE sql STABLE
RETURN muster.error('deadline_exceeded', format('help_id: the deadline of help request %s (%s) was %s', left((h).help_id, 100), (h).state,
                                                muster.stamp((h).deadline)), 'help_id');

-- A round is over with nobody: the next one, or a human's turn.
CREATE FUNCTION muster.help_widen(h muster.help, p_verb text, p_actor text, p_role text, p_reason text) RETURNS muster.help
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    h.round := h.round + 1;
    UPDATE muster.help_experts AS e SET state = 'ignored' WHERE e.tenant = h.tenant AND e.help_id = h.help_id AND e.state = 'offered';
    IF h.escalate AND (h.round >= h.rounds OR h.half_at <= clock_timestamp()) THEN
        RETURN muster.help_move(h, 'escalate', 'escalated', p_actor, 'engine', 'rounds used');
    END IF;
    RETURN muster.help_move(h, p_verb, 'open', p_actor, p_role, p_reason);
END
$$;

-- Nobody who was asked in this round is left.
CREATE FUNCTION muster.help_asked_in_vain(h muster.help) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM muster.help_experts AS e WHERE e.tenant = h.tenant AND e.help_id = h.help_id AND e.state = 'offered');
END
$$;

CREATE FUNCTION muster.help_ended(h muster.help) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE h.state WHEN 'escalated' THEN muster.help_human_message(h) WHEN 'answered' THEN muster.help_answer_message(h) END;
END
$$;


-- Answering.

CREATE FUNCTION muster.help_no_solution(p_solution jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN muster.wrong('solution', octet_length(p_solution::text) || ' bytes', 'a solution of at most 500000 bytes as JSON');

-- Whether a verb of an expert has to be refused; NULL: no. Who may claim: was asked, is not excluded, and nobody (of a panel: fewer than
-- k) has it. A stale epoch is one that is not the expert's, or a claim that is another's now.
CREATE FUNCTION muster.help_hold(h muster.help, e muster.help_experts, p_args jsonb, p_verb text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_epoch constant bigint := p_args ->> 'epoch';
    v_offer constant bigint := p_args ->> 'offer'; -- what respond() answers
BEGIN
    IF h.state NOT IN ('offered', 'claimed', 'answered') AND (h.state <> 'open' OR e.offered_at IS NULL OR e.excluded) THEN
        RETURN muster.help_refusal(h, p_verb);
    ELSIF e.agent IS NULL OR e.offered_at IS NULL THEN
        RETURN CASE h.state WHEN 'answered' THEN muster.help_refusal(h, p_verb) ELSE muster.error('permission_denied',
            format('help_id: help request %s (%s) was not offered to you', left(h.help_id, 100), h.state), 'help_id') END;
    ELSIF e.excluded THEN
        RETURN muster.error('failed_precondition', format('help_id: help request %s is %s, and you are not asked any more', left(h.help_id, 100), h.state), 'help_id');
    ELSIF v_epoch <> e.epoch OR v_offer <> e.offer_epoch THEN
        RETURN muster.help_stale(h, coalesce(v_epoch, v_offer)::text);
    ELSIF e.state = 'answered' THEN
        RETURN muster.help_refusal(h, p_verb);
    ELSIF h.state = 'answered' THEN -- by another
        RETURN muster.help_stale(h, coalesce(v_epoch, e.epoch)::text);
    ELSIF e.state = 'claimed' THEN
        NULL;
    ELSIF h.state = 'claimed' AND h.mode = 'first' THEN
        RETURN muster.help_stale(h, coalesce(v_epoch, e.epoch)::text);
    ELSIF h.state = 'claimed' AND (SELECT count(*) FROM muster.help_experts AS x WHERE x.tenant = h.tenant AND x.help_id = h.help_id
                                     AND x.state IN ('claimed', 'answered') AND x.verdict IS NULL) >= h.k THEN
        RETURN muster.error('failed_precondition', format('help_id: help request %s is claimed by all %s it asks for', left(h.help_id, 100), h.k), 'help_id');
    END IF;
    IF h.deadline <= clock_timestamp() THEN
        RETURN muster.help_late(h);
    END IF;
    RETURN NULL;
END
$$;

-- The claim of an expert who may; the clock of the request is that of its first claim. Between two rounds it is offered to him once more.
CREATE FUNCTION muster.help_take(h muster.help, p_agent text, p_session text) RETURNS muster.help
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_until constant timestamptz := clock_timestamp() + h.claim_ms * interval '1 millisecond';
BEGIN
    IF h.state = 'open' THEN
        h := muster.help_move(h, 'offer', 'offered', '_muster', 'engine', NULL, jsonb_build_object('to', ARRAY[p_agent]));
    END IF;
    UPDATE muster.help_experts AS e SET state = 'claimed', epoch = h.epoch + 1, session = p_session, claim_until = v_until
    WHERE e.tenant = h.tenant AND e.help_id = h.help_id AND e.agent = p_agent;
    h.until := CASE h.state WHEN 'claimed' THEN least(h.until, v_until) ELSE v_until END;
    RETURN muster.help_move(h, 'claim', 'claimed', p_agent, 'holder');
END
$$;

CREATE FUNCTION muster.help_claim(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_help_id constant text := args ->> 'help_id';
    h muster.help;
    e muster.help_experts;
    v_error jsonb;
BEGIN
    SELECT * INTO h FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_help_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.help_not_found(v_help_id);
    END IF;
    SELECT * INTO e FROM muster.help_experts AS x WHERE x.tenant = tenant AND x.help_id = v_help_id AND x.agent = agent;
    -- Said twice: under the epoch of the offer as before.
    IF e.state = 'claimed' AND (args ->> 'epoch')::bigint = e.offer_epoch THEN
        args := args - 'epoch';
    END IF;
    v_error := muster.help_hold(h, e, args, 'claim');
    IF v_error IS NOT NULL THEN
        RETURN v_error;
    ELSIF e.state <> 'claimed' THEN
        h := muster.help_take(h, agent, args ->> 'session');
        e.epoch := h.epoch;
    END IF;
    RETURN jsonb_build_object('ok', jsonb_build_object('help_id', h.help_id, 'epoch', e.epoch, 'state', h.state));
END
$$;

-- An expert who declines is not asked again.
CREATE FUNCTION muster.help_decline(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_help_id constant text := args ->> 'help_id';
    h muster.help;
    e muster.help_experts;
BEGIN
    SELECT * INTO h FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_help_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.help_not_found(v_help_id);
    END IF;
    SELECT * INTO e FROM muster.help_experts AS x WHERE x.tenant = tenant AND x.help_id = v_help_id AND x.agent = agent;
    IF e.state = 'declined' AND muster.help_live(h.state) THEN
        h.offer_at := NULL;
        RETURN muster.help_done(h) || muster.help_echo(args); -- said twice
    END IF;
    -- Also of what another has claimed meanwhile.
    IF h.state NOT IN ('open', 'offered', 'claimed') OR e.offered_at IS NULL OR e.excluded OR e.state = 'answered'
       OR (args ->> 'epoch')::bigint <> e.epoch OR (args ->> 'offer')::bigint <> e.offer_epoch THEN
        RETURN muster.help_hold(h, e, args, 'decline');
    END IF;
    UPDATE muster.help_experts AS x SET state = 'declined', excluded = true, claim_until = NULL
    WHERE x.tenant = tenant AND x.help_id = v_help_id AND x.agent = agent;
    IF h.state = 'offered' AND muster.help_asked_in_vain(h) THEN
        h := muster.help_widen(h, 'decline', agent, 'holder', args ->> 'reason');
    ELSIF h.state = 'claimed' AND e.state = 'claimed' THEN
        h := muster.help_dropped(h, 'decline', agent, 'holder', args ->> 'reason');
    ELSE
        h.offer_at := NULL;
    END IF;
    RETURN muster.help_done(h, muster.help_ended(h)) || muster.help_echo(args);
END
$$;

-- One claim of a locked claimed request is no more: a panel goes on with the others and with what it has.
CREATE FUNCTION muster.help_dropped(h muster.help, p_verb text, p_actor text, p_role text, p_reason text) RETURNS muster.help
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_until timestamptz;
    v_left bigint;
BEGIN
    SELECT min(e.claim_until) FILTER (WHERE e.state = 'claimed'), count(*) INTO v_until, v_left FROM muster.help_experts AS e
    WHERE e.tenant = h.tenant AND e.help_id = h.help_id AND (e.state = 'claimed' OR e.state = 'answered' AND e.verdict IS NULL);
    IF v_left = 0 THEN
        RETURN muster.help_move(h, p_verb, 'open', p_actor, p_role, p_reason);
    END IF;
    UPDATE muster.help AS x SET until = v_until, wake_at = muster.help_wake(x.state, v_until, x.half_at, x.deadline)
    WHERE x.tenant = h.tenant AND x.help_id = h.help_id RETURNING * INTO h;
    RETURN h;
END
$$;

-- args: help_id, solution, confidence?, epoch?. By who was asked it is his claim as well. What comes too late is kept.
CREATE FUNCTION muster.help_answer(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_help_id constant text := args ->> 'help_id';
    v_confidence constant double precision := CASE jsonb_typeof(args -> 'confidence') WHEN 'number' THEN greatest(0, least(1, (args ->> 'confidence')::double precision)) END;
    h muster.help;
    e muster.help_experts;
    v_error jsonb;
BEGIN
    IF NOT args ? 'solution' OR octet_length((args -> 'solution')::text) > 500000 THEN
        RETURN muster.help_no_solution(args -> 'solution');
    END IF;
    SELECT * INTO h FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_help_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.help_not_found(v_help_id);
    END IF;
    SELECT * INTO e FROM muster.help_experts AS x WHERE x.tenant = tenant AND x.help_id = v_help_id AND x.agent = agent;
    IF e.state = 'answered' AND e.offered_at IS NOT NULL AND e.verdict IS DISTINCT FROM 'rejected' AND e.solution IS NOT DISTINCT FROM args -> 'solution'
       AND coalesce((args ->> 'epoch')::bigint, e.epoch) IN (e.epoch, e.offer_epoch) THEN
        h.offer_at := NULL;
        RETURN muster.help_done(h) || muster.help_echo(args); -- said twice
    ELSIF e.state = 'answered' AND e.offered_at IS NOT NULL AND NOT e.excluded THEN
        RETURN muster.error('failed_precondition', format('help_id: help request %s is %s, and you have answered it', left(h.help_id, 100), h.state), 'help_id');
    END IF;
    v_error := muster.help_hold(h, e, args, 'answer');
    IF v_error IS NOT NULL THEN
        UPDATE muster.help_experts AS x SET state = 'extra', solution = args -> 'solution', confidence = v_confidence, answered_at = clock_timestamp()
        WHERE x.tenant = tenant AND x.help_id = v_help_id AND x.agent = agent AND x.offered_at IS NOT NULL AND NOT x.excluded
          AND x.state NOT IN ('claimed', 'answered') AND (x.state <> 'offered' OR h.state <> 'offered');
        RETURN v_error;
    ELSIF e.state <> 'claimed' THEN
        h := muster.help_take(h, agent, args ->> 'session');
    END IF;
    UPDATE muster.help_experts AS x SET state = 'answered', claim_until = NULL, solution = args -> 'solution', confidence = v_confidence,
        answered_at = clock_timestamp()
    WHERE x.tenant = tenant AND x.help_id = v_help_id AND x.agent = agent;
    IF h.mode = 'first' OR (SELECT count(*) FROM muster.help_experts AS x WHERE x.tenant = tenant AND x.help_id = v_help_id
                              AND x.state = 'answered' AND x.verdict IS NULL) >= h.k THEN
        h := muster.help_move(h, 'answer', 'answered', agent, 'holder');
    ELSE
        h := muster.help_dropped(h, 'answer', agent, 'holder', NULL); -- only its clock
    END IF;
    RETURN muster.help_done(h, muster.help_ended(h)) || muster.help_echo(args);
END
$$;

-- args: asker, solution, session?, help_id?: what an expert sent straight to an agent that waits for him. The newest request there is
-- that the agent has open and that he was asked. None: ok says none, and it was a message like others.
CREATE FUNCTION muster.help_knowledge(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_help_id text;
    v_done jsonb;
BEGIN
    SELECT x.help_id INTO v_help_id FROM muster.help AS x
    JOIN muster.help_experts AS e ON e.tenant = x.tenant AND e.help_id = x.help_id AND e.agent = agent
    WHERE x.tenant = tenant AND x.asker = args ->> 'asker' AND x.state IN ('open', 'offered', 'claimed', 'answered', 'escalated')
      AND e.offered_at IS NOT NULL AND NOT e.excluded AND (args ->> 'help_id' IS NULL OR x.help_id = args ->> 'help_id')
    ORDER BY x.state IN ('open', 'offered', 'claimed') DESC, e.state = 'claimed' DESC, x.created_at DESC, x.help_id DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN '{"ok": {"none": true}}';
    END IF;
    v_done := muster.help_answer(tenant, agent, jsonb_strip_nulls(jsonb_build_object('help_id', v_help_id, 'session', args -> 'session',
                                                                                     'confidence', args -> 'confidence'))
                                                || jsonb_build_object('solution', args -> 'solution'));
    -- The asker has heard it.
    RETURN CASE WHEN v_done ? 'tell' AND v_done #>> '{tell,0,type}' = 'share_knowledge' AND NOT v_done #> '{tell,0,body}' ? 'answers'
                THEN v_done - 'tell' ELSE v_done END;
END
$$;


-- The verdict.

-- The best answer of an answered request is accepted, or that of p_agent. NULL: he has none. What it taught is kept: of who said it, for the
-- next who asks, and as a memory of the tenant; the default says nothing that anybody knew.
CREATE FUNCTION muster.help_accepted(h muster.help, p_agent text, p_verb text, p_actor text, p_role text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_best constant muster.help_experts := muster.help_best(h, p_agent);
BEGIN
    IF v_best.agent IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE muster.help_experts AS x SET verdict = 'accepted', verdict_at = clock_timestamp()
    WHERE x.tenant = h.tenant AND x.help_id = h.help_id AND x.agent = v_best.agent;
    IF v_best.agent <> '_muster' THEN
        WITH trust AS (
            INSERT INTO muster.help_trust AS t (tenant, agent, verdicts, at) VALUES (h.tenant, v_best.agent, '+', clock_timestamp())
            ON CONFLICT ON CONSTRAINT help_trust_pkey DO UPDATE SET verdicts = right(t.verdicts || '+', 20), at = excluded.at
        ), marks AS (
            INSERT INTO muster.help_marks (tenant, mark, at, help_id) SELECT h.tenant, m, h.created_at, h.help_id FROM unnest(h.marks) AS m
        )
        INSERT INTO public.agent_memories (tenant_id, id, agent_id, session_id, content, metadata)
        VALUES (h.tenant, 'help-' || h.help_id, v_best.agent, v_best.session,
                left(h.problem, 100000) || E'\n\n' || CASE jsonb_typeof(v_best.solution) WHEN 'string' THEN v_best.solution #>> '{}' ELSE v_best.solution::text END,
                jsonb_strip_nulls(jsonb_build_object('source', 'help', 'help_id', h.help_id, 'asked_by', h.asker, 'answered_by', v_best.agent,
                                                     'confidence', v_best.confidence, 'capabilities', h.capabilities, 'task_id', h.task_id)))
        ON CONFLICT DO NOTHING;
    END IF;
    h.answered_by := v_best.agent;
    h := muster.help_move(h, p_verb, 'accepted', p_actor, p_role, NULL, jsonb_build_object('answered_by', v_best.agent));
    IF h.task_id IS NOT NULL THEN
        PERFORM muster.help_resume(h, p_actor);
    END IF;
    RETURN muster.help_done(h);
END
$$;

-- args: help_id, agent? (whose answer, of a panel), prior? (the request whose answer is taken; else the likest).
CREATE FUNCTION muster.help_accept(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_help_id constant text := args ->> 'help_id';
    h muster.help;
    v_role text;
    v_prior jsonb;
    v_busy text[];
    v_done jsonb;
BEGIN
    SELECT * INTO h FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_help_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.help_not_found(v_help_id);
    END IF;
    v_role := muster.help_role(h, agent, '{}');
    IF h.state = 'accepted' AND v_role = 'owner' AND coalesce(args ->> 'agent', h.answered_by) = h.answered_by
       AND coalesce(args ->> 'prior', h.prior_of, '') = coalesce(h.prior_of, '') THEN
        RETURN muster.help_done(h) || muster.help_echo(args); -- said twice
    ELSIF h.state NOT IN ('open', 'offered', 'answered') THEN
        RETURN muster.help_refusal(h, 'accept');
    ELSIF v_role IS NULL THEN
        RETURN muster.help_not_yours(h);
    ELSIF muster.help_other_answer(h, args ->> 'seq') IS NOT NULL THEN
        RETURN muster.help_other_answer(h, args ->> 'seq');
    ELSIF h.state = 'answered' THEN
        v_done := muster.help_accepted(h, args ->> 'agent', 'accept', agent, 'owner');
        RETURN coalesce(v_done || muster.help_echo(args), muster.error('not_found', format('agent: help request %s has no answer of %s', left(v_help_id, 100), left(args ->> 'agent', 100)), 'agent'));
    END IF;
    v_prior := muster.help_prior(h, 1, args ->> 'prior') -> 0;
    IF v_prior IS NULL THEN
        RETURN muster.help_refusal(h, 'accept: there is no earlier answer that could be taken');
    END IF;
    h.prior_of := v_prior ->> 'help_id';
    h.answered_by := v_prior ->> 'from';
    v_busy := muster.help_busy(h);
    h := muster.help_move(h, 'take_prior', 'accepted', agent, 'owner', NULL, jsonb_build_object('prior', h.prior_of));
    IF h.task_id IS NOT NULL THEN
        PERFORM muster.help_resume(h, agent);
    END IF;
    RETURN muster.help_done(h, muster.help_stop_message(h, v_busy)) || muster.help_echo(args);
END
$$;

-- All that was said is turned down, and who said it is not asked again.
CREATE FUNCTION muster.help_reject(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_help_id constant text := args ->> 'help_id';
    h muster.help;
BEGIN
    SELECT * INTO h FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_help_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.help_not_found(v_help_id);
    ELSIF h.state <> 'answered' THEN
        RETURN muster.help_refusal(h, 'reject');
    ELSIF muster.help_role(h, agent, '{}') IS NULL THEN
        RETURN muster.help_not_yours(h);
    ELSIF muster.help_other_answer(h, args ->> 'seq') IS NOT NULL THEN
        RETURN muster.help_other_answer(h, args ->> 'seq');
    END IF;
    WITH judged AS (
        UPDATE muster.help_experts AS x SET verdict = 'rejected', verdict_at = clock_timestamp(), excluded = true
        WHERE x.tenant = tenant AND x.help_id = v_help_id AND x.state = 'answered' AND x.verdict IS NULL RETURNING x.agent AS name
    )
    INSERT INTO muster.help_trust AS t (tenant, agent, verdicts, at)
    SELECT tenant, j.name, '-', clock_timestamp() FROM judged AS j WHERE j.name <> '_muster' ORDER BY j.name
    ON CONFLICT ON CONSTRAINT help_trust_pkey DO UPDATE SET verdicts = right(t.verdicts || '-', 20), at = excluded.at;
    UPDATE muster.help_experts AS x SET state = 'ignored'
    WHERE x.tenant = tenant AND x.help_id = v_help_id AND x.state = 'stopped';
    h.rejected := h.rejected + 1;
    h.round := 0; -- the others are asked anew
    h := muster.help_move(h, 'reject', CASE WHEN h.rejected > h.rejections THEN 'escalated' ELSE 'open' END, agent, 'owner', args ->> 'reason');
    RETURN muster.help_done(h, muster.help_ended(h)) || muster.help_echo(args);
END
$$;

CREATE FUNCTION muster.help_escalate(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_help_id constant text := args ->> 'help_id';
    h muster.help;
    v_role text;
    v_busy text[];
BEGIN
    SELECT * INTO h FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_help_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.help_not_found(v_help_id);
    END IF;
    v_role := muster.help_role(h, agent, args);
    IF h.state = 'escalated' AND v_role IS NOT NULL THEN
        RETURN muster.help_done(h) || muster.help_echo(args); -- said twice
    ELSIF h.state NOT IN ('open', 'offered') THEN
        RETURN muster.help_refusal(h, 'escalate');
    ELSIF v_role IS NULL THEN
        RETURN muster.help_not_yours(h);
    END IF;
    h.reason := args ->> 'reason';
    v_busy := muster.help_busy(h);
    h := muster.help_move(h, 'escalate', 'escalated', agent, v_role, h.reason);
    RETURN muster.help_done(h, muster.help_human_message(h), muster.help_stop_message(h, v_busy)) || muster.help_echo(args);
END
$$;

-- Somebody who was not asked says the answer of an escalated request: a human, or the default.
CREATE FUNCTION muster.help_say(h muster.help, p_agent text, p_solution jsonb, p_confidence double precision, p_verb text, p_role text) RETURNS muster.help
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO muster.help_experts AS e (tenant, help_id, agent, state, epoch, solution, confidence, answered_at)
    VALUES (h.tenant, h.help_id, p_agent, 'answered', h.epoch, p_solution, p_confidence, clock_timestamp())
    ON CONFLICT ON CONSTRAINT help_experts_pkey
    DO UPDATE SET state = 'answered', solution = excluded.solution, confidence = excluded.confidence, answered_at = excluded.answered_at,
                  verdict = NULL, verdict_at = NULL;
    RETURN muster.help_move(h, p_verb, 'answered', p_agent, p_role);
END
$$;

-- args: help_id, solution, role.
CREATE FUNCTION muster.help_resolve(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_help_id constant text := args ->> 'help_id';
    h muster.help;
BEGIN
    IF NOT args ? 'solution' OR octet_length((args -> 'solution')::text) > 500000 THEN
        RETURN muster.help_no_solution(args -> 'solution');
    END IF;
    SELECT * INTO h FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_help_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.help_not_found(v_help_id);
    ELSIF coalesce(args ->> 'role', '') NOT IN ('human', 'admin', 'operator') THEN
        RETURN muster.error('permission_denied', format('help_id: help request %s (%s) is resolved by a human or an admin', left(v_help_id, 100), h.state), 'help_id');
    ELSIF h.state = 'answered' AND EXISTS (SELECT FROM muster.help_experts AS x WHERE x.tenant = tenant AND x.help_id = v_help_id AND x.agent = agent
                                             AND x.state = 'answered' AND x.verdict IS NULL AND x.offered_at IS NULL
                                             AND x.solution IS NOT DISTINCT FROM args -> 'solution') THEN
        RETURN muster.help_done(h) || muster.help_echo(args); -- said twice
    ELSIF h.state <> 'escalated' THEN
        RETURN muster.help_refusal(h, 'resolve');
    ELSIF h.deadline <= clock_timestamp() THEN
        RETURN muster.help_late(h);
    END IF;
    h := muster.help_say(h, agent, args -> 'solution', NULL, 'resolve', 'human');
    RETURN muster.help_done(h, muster.help_answer_message(h)) || muster.help_echo(args);
END
$$;

-- What withdrawing a locked request gives; who may is asked before.
CREATE FUNCTION muster.help_stop(h muster.help, p_actor text, p_role text, p_reason text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_busy constant text[] := muster.help_busy(h);
BEGIN
    h.reason := p_reason;
    h := muster.help_move(h, 'withdraw', 'withdrawn', p_actor, p_role, p_reason);
    IF h.task_id IS NOT NULL THEN
        PERFORM muster.help_resume(h, p_actor);
    END IF;
    RETURN muster.help_done(h, muster.help_stop_message(h, v_busy));
END
$$;

CREATE FUNCTION muster.help_withdraw(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_help_id constant text := args ->> 'help_id';
    h muster.help;
    v_role text;
BEGIN
    SELECT * INTO h FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_help_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN muster.help_not_found(v_help_id);
    END IF;
    v_role := coalesce(muster.help_role(h, agent, args), CASE WHEN EXISTS (
        SELECT FROM public.agent_tasks AS t WHERE t.tenant_id = tenant AND t.task_id = h.task_id COLLATE "default" AND t.assigned_by = agent) THEN 'owner' END);
    IF h.state = 'withdrawn' AND v_role IS NOT NULL THEN
        RETURN muster.help_done(h) || muster.help_echo(args); -- said twice
    ELSIF NOT muster.help_live(h.state) THEN
        RETURN muster.help_refusal(h, 'withdraw');
    ELSIF v_role IS NULL THEN
        RETURN muster.help_not_yours(h);
    END IF;
    RETURN muster.help_stop(h, agent, v_role, args ->> 'reason') || muster.help_echo(args);
END
$$;


-- What brokers do by themselves. Functions over tenants belong to muster_engine; each row is changed as its tenant's. They give what
-- outcomes have beside ok, each with its tenant: {n, done[{tenant, ok, tell?, offer?}]}.

-- Claims whose time has run out, or that p_session had; a second loss excludes, a first one does not.
CREATE FUNCTION muster.help_lapse(h muster.help, p_verb text, p_actor text, p_agent text, p_session text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE muster.help_experts AS e SET state = 'lapsed', claim_until = NULL, crashes = e.crashes + 1, excluded = e.crashes >= 1
    WHERE e.tenant = h.tenant AND e.help_id = h.help_id AND e.state = 'claimed'
      AND CASE WHEN p_agent IS NULL THEN e.claim_until <= clock_timestamp() ELSE e.agent = p_agent AND (p_session IS NULL OR e.session = p_session) END;
    IF NOT FOUND THEN
        h.offer_at := NULL;
        RETURN muster.help_done(h);
    END IF;
    h := muster.help_dropped(h, p_verb, p_actor, 'engine', p_verb);
    RETURN muster.help_done(h);
END
$$;

-- args: agent, session?, limit? (1,000): what the session has claimed is open again, what it was asked is asked of others, and what it
-- asked for itself is withdrawn, but where a task asks: its next holder inherits it. Ask again while more is true.
CREATE FUNCTION muster.help_session_lost(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_variable
DECLARE
    v_agent constant text := args ->> 'agent';
    v_session constant text := args ->> 'session';
    v_limit constant integer := coalesce((args ->> 'limit')::integer, 1000);
    v_n integer := 0;
    v_done jsonb[] := '{}';
    v_bytes integer := 0; -- what brokers decode is bounded
    h muster.help;
BEGIN
    FOR h IN
        SELECT x.* FROM muster.help AS x
        WHERE x.tenant = tenant AND x.asker = v_agent AND x.state IN ('open', 'offered', 'claimed', 'answered', 'escalated')
          AND x.task_id IS NULL AND (x.session = v_session OR v_session IS NULL AND x.session IS NOT NULL)
        ORDER BY x.help_id LIMIT v_limit FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        v_done := v_done || muster.help_stop(h, agent, 'engine', 'its asker is gone');
        v_n := v_n + 1;
        v_bytes := v_bytes + octet_length(v_done[cardinality(v_done)]::text);
        EXIT WHEN v_bytes > 200000;
    END LOOP;
    FOR h IN
        SELECT x.* FROM muster.help AS x
        WHERE x.tenant = tenant AND x.state IN ('offered', 'claimed')
          AND x.help_id IN (SELECT e.help_id FROM muster.help_experts AS e
                            WHERE e.tenant = tenant AND e.agent = v_agent AND (e.state = 'claimed' AND (v_session IS NULL OR e.session = v_session)
                                                                            OR e.state = 'offered'))
        ORDER BY x.help_id LIMIT v_limit FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        EXIT WHEN v_bytes > 200000;
        v_n := v_n + 1;
        IF h.state = 'claimed' THEN
            v_done := v_done || muster.help_lapse(h, 'session_lost', agent, v_agent, v_session);
        END IF;
        UPDATE muster.help_experts AS e SET state = 'ignored'
        WHERE e.tenant = tenant AND e.help_id = h.help_id AND e.agent = v_agent AND e.state = 'offered';
        IF FOUND AND h.state = 'offered' AND muster.help_asked_in_vain(h) THEN
            h := muster.help_widen(h, 'session_lost', agent, 'engine', 'session lost');
            v_done := v_done || muster.help_done(h, muster.help_ended(h));
            v_bytes := v_bytes + octet_length(v_done[cardinality(v_done)]::text);
        END IF;
    END LOOP;
    RETURN jsonb_build_object('ok', jsonb_build_object('released', v_n, 'more', v_n >= v_limit OR v_bytes > 200000), 'done', to_jsonb(v_done));
END
$$;

-- Whether the task that waits for it, if there is one, can go on with it in this transaction, which keeps it locked then. Who sweeps waits for
-- nobody's lock: what a tenant has open in a transaction of its own holds up no other tenant.
CREATE FUNCTION muster.help_task_free(h muster.help) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF h.task_id IS NULL OR NOT EXISTS (SELECT FROM public.agent_tasks AS t WHERE t.tenant_id = h.tenant AND t.task_id = h.task_id COLLATE "default") THEN
        RETURN true;
    END IF;
    PERFORM FROM public.agent_tasks AS t WHERE t.tenant_id = h.tenant AND t.task_id = h.task_id COLLATE "default" FOR NO KEY UPDATE SKIP LOCKED;
    RETURN FOUND;
END
$$;

-- The edge of one request whose clock has run out; NULL: there is none any more, or none now.
CREATE FUNCTION muster.help_fire(p_tenant text, p_help_id text, p_actor text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_now constant timestamptz := clock_timestamp();
    h muster.help;
    v_busy text[];
BEGIN
    SELECT * INTO h FROM muster.help AS x
    WHERE x.tenant = p_tenant AND x.help_id = p_help_id AND x.wake_at <= v_now FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND OR NOT muster.help_task_free(h) THEN
        RETURN NULL;
    END IF;
    v_busy := muster.help_busy(h);
    IF h.state = 'answered' THEN
        IF h.auto_accept THEN
            RETURN muster.help_accepted(h, NULL, 'auto_accept', p_actor, 'engine');
        END IF;
        h.reason := 'no verdict';
        h := muster.help_move(h, 'no_verdict', 'unanswered', p_actor, 'engine', h.reason);
        IF h.task_id IS NOT NULL THEN
            PERFORM muster.help_resume(h, p_actor);
        END IF;
        RETURN muster.help_done(h);
    ELSIF h.state IN ('open', 'offered') AND h.half_at <= v_now AND (h.deadline > v_now OR h.default_answer IS NOT NULL) THEN
        h := muster.help_move(h, 'escalate', 'escalated', p_actor, 'engine', 'nobody answered in time');
        RETURN muster.help_done(h, muster.help_human_message(h), muster.help_stop_message(h, v_busy));
    ELSIF h.deadline <= v_now THEN
        IF h.state = 'claimed' AND (muster.help_best(h, NULL)).agent IS NOT NULL THEN
            h := muster.help_move(h, 'panel_over', 'answered', p_actor, 'engine');
            RETURN muster.help_done(h, muster.help_answer_message(h), muster.help_stop_message(h, v_busy));
        ELSIF h.default_answer IS NOT NULL AND (h.escalate OR h.state = 'escalated') THEN -- whoever has it, or nobody
            IF h.state = 'claimed' THEN
                h := muster.help_move(h, 'claim_timeout', 'open', p_actor, 'engine', 'deadline');
            END IF;
            IF h.state <> 'escalated' THEN
                h := muster.help_move(h, 'escalate', 'escalated', p_actor, 'engine', 'nobody answered in time');
            END IF;
            h := muster.help_say(h, '_muster', h.default_answer, NULL, 'default_answer', 'engine');
            RETURN muster.help_done(h, muster.help_answer_message(h), muster.help_stop_message(h, v_busy));
        END IF;
        h.reason := 'deadline';
        h := muster.help_move(h, 'expire', 'expired', p_actor, 'engine', h.reason);
        IF h.task_id IS NOT NULL THEN
            PERFORM muster.help_resume(h, p_actor);
        END IF;
        RETURN muster.help_done(h, muster.help_stop_message(h, v_busy));
    ELSIF h.state = 'offered' THEN
        h := muster.help_widen(h, 'offer_timeout', p_actor, 'engine', NULL);
        RETURN muster.help_done(h, muster.help_ended(h));
    ELSIF h.state = 'claimed' THEN
        RETURN muster.help_lapse(h, 'claim_timeout', p_actor, NULL, NULL);
    END IF;
    UPDATE muster.help AS x SET until = NULL, wake_at = muster.help_wake(x.state, NULL, x.half_at, x.deadline)
    WHERE x.tenant = p_tenant AND x.help_id = p_help_id;
    RETURN NULL;
END
$$;

-- Do what is due, at most p_limit edges, of shard p_shard of 16 of (tenant, request); NULL: of all. n is above 0: there may be more. Those whose
-- task somebody has locked stay at the head of what is due: so many are passed over.
CREATE FUNCTION muster.help_due(p_actor text, p_shard integer, p_limit integer) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_done jsonb[] := '{}';
    v_one jsonb;
    v_bytes integer := 0;
    v record;
BEGIN
    FOR v IN
        SELECT h.tenant, h.help_id FROM muster.help AS h
        WHERE h.wake_at <= statement_timestamp() AND (p_shard IS NULL OR hashtextextended(h.tenant || '/' || h.help_id, 0) & 15 = p_shard)
        ORDER BY h.wake_at LIMIT p_limit * 20
        FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        EXIT WHEN cardinality(v_done) >= p_limit;
        PERFORM set_config('app.current_tenant', v.tenant, true);
        v_one := muster.help_fire(v.tenant, v.help_id, p_actor);
        IF v_one IS NOT NULL THEN
            v_done := v_done || (v_one || jsonb_build_object('tenant', v.tenant));
            v_bytes := v_bytes + octet_length(v_one::text);
        END IF;
        EXIT WHEN v_bytes > 300000; -- what brokers decode is bounded
    END LOOP;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN jsonb_build_object('n', cardinality(v_done), 'done', to_jsonb(v_done));
END
$$;

-- What is open and looks for experts; who gets it does, and others leave it alone for a second.
CREATE FUNCTION muster.help_looking(p_shard integer, p_limit integer) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_rows jsonb;
BEGIN
    WITH due AS (
        SELECT h.tenant, h.help_id FROM muster.help AS h
        WHERE h.offer_at <= statement_timestamp() AND (p_shard IS NULL OR hashtextextended(h.tenant || '/' || h.help_id, 0) & 15 = p_shard)
        ORDER BY h.offer_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE muster.help AS h SET offer_at = clock_timestamp() + interval '1 second' FROM due
        WHERE h.tenant = due.tenant AND h.help_id = due.help_id RETURNING h.tenant, muster.help_wants(h) AS wants
    )
    SELECT coalesce(jsonb_agg(jsonb_build_object('tenant', t.tenant, 'offer', t.wants)), '[]') INTO v_rows FROM taken AS t;
    RETURN jsonb_build_object('n', jsonb_array_length(v_rows), 'done', v_rows);
END
$$;

-- What nobody heard of: sessions that presence has called gone and that hold or ask for something, and tasks that have ended and have
-- requests open.
CREATE FUNCTION muster.help_orphans(p_actor text, p_limit integer) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_was constant text := coalesce(current_setting('app.current_tenant', true), '');
    v_done jsonb[] := '{}';
    v_one jsonb;
    v_bytes integer := 0;
    v record;
BEGIN
    FOR v IN
        SELECT h.tenant, h.asker AS agent, h.session FROM muster.help AS h
        JOIN public.agent_sessions AS s ON s.tenant_id = h.tenant AND s.session_id = ANY (ARRAY[h.session, h.asker COLLATE "default" || '/' || h.session])
        WHERE h.state IN ('open', 'offered', 'claimed', 'answered', 'escalated') AND h.task_id IS NULL AND muster.session_over(s, h.asker COLLATE "default", h.created_at)
        UNION
        SELECT e.tenant, e.agent, e.session FROM muster.help_experts AS e
        JOIN public.agent_sessions AS s ON s.tenant_id = e.tenant AND s.session_id = ANY (ARRAY[e.session, e.agent COLLATE "default" || '/' || e.session])
        WHERE e.state = 'claimed' AND muster.session_over(s, e.agent COLLATE "default", e.offered_at)
        LIMIT p_limit
    LOOP
        PERFORM set_config('app.current_tenant', v.tenant, true);
        v_one := muster.help_session_lost(v.tenant, p_actor, jsonb_build_object('agent', v.agent, 'session', v.session, 'limit', p_limit));
        v_done := v_done || ARRAY(SELECT d || jsonb_build_object('tenant', v.tenant) FROM jsonb_array_elements(v_one -> 'done') AS d);
        v_bytes := v_bytes + octet_length(v_one::text);
        EXIT WHEN v_bytes > 200000; -- what brokers decode is bounded
    END LOOP;
    FOR v IN
        SELECT h.tenant, h.help_id FROM muster.help AS h
        LEFT JOIN public.agent_tasks AS t ON t.tenant_id = h.tenant AND t.task_id = h.task_id COLLATE "default"
        WHERE h.task_id IS NOT NULL AND h.state IN ('open', 'offered', 'claimed', 'answered', 'escalated')
          AND (t.status IS NULL OR t.status IN ('succeeded', 'failed', 'dead', 'cancelled', 'expired'))
        LIMIT p_limit * 20
    LOOP
        EXIT WHEN v_bytes > 200000 OR cardinality(v_done) >= p_limit;
        PERFORM set_config('app.current_tenant', v.tenant, true);
        v_one := muster.help_task_over(v.tenant, v.help_id, p_actor);
        v_bytes := v_bytes + coalesce(octet_length(v_one::text), 0);
        IF v_one IS NOT NULL THEN
            v_done := v_done || (v_one || jsonb_build_object('tenant', v.tenant));
        END IF;
    END LOOP;
    PERFORM set_config('app.current_tenant', v_was, true);
    RETURN jsonb_build_object('n', cardinality(v_done), 'done', to_jsonb(v_done));
END
$$;

CREATE FUNCTION muster.help_task_over(p_tenant text, p_help_id text, p_actor text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    h muster.help;
BEGIN
    SELECT * INTO h FROM muster.help AS x WHERE x.tenant = p_tenant AND x.help_id = p_help_id AND x.state IN ('open', 'offered', 'claimed', 'answered', 'escalated')
    FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND OR NOT muster.help_task_free(h) THEN
        RETURN NULL;
    END IF;
    RETURN muster.help_stop(h, p_actor, 'engine', 'its task has ended');
END
$$;

-- Forget requests that ended p_keep ago, accepted ones p_keep_accepted ago, with what belongs to them, and experts of whom nothing was heard
-- since; at most p_limit.
CREATE FUNCTION muster.help_purge(p_keep interval, p_keep_accepted interval, p_limit integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_n bigint;
BEGIN
    WITH old AS (
        SELECT h.ctid AS row FROM muster.help AS h
        WHERE h.completed_at <= statement_timestamp() - least(p_keep, p_keep_accepted)
          AND h.completed_at <= statement_timestamp() - CASE h.state WHEN 'accepted' THEN p_keep_accepted ELSE p_keep END
        ORDER BY h.completed_at LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM muster.help AS h WHERE h.ctid = ANY (ARRAY(SELECT row FROM old)) RETURNING h.tenant, h.help_id, h.marks, h.created_at
    ), history AS (
        DELETE FROM muster.help_history AS x USING gone AS g WHERE x.tenant = g.tenant AND x.help_id = g.help_id
    ), experts AS (
        DELETE FROM muster.help_experts AS x USING gone AS g WHERE x.tenant = g.tenant AND x.help_id = g.help_id
    ), marks AS (
        DELETE FROM muster.help_marks AS x USING (SELECT g.*, m FROM gone AS g, unnest(g.marks) AS m) AS g
        WHERE x.tenant = g.tenant AND x.mark = g.m AND x.at = g.created_at AND x.help_id = g.help_id
    ), forgotten AS (
        DELETE FROM muster.help_trust AS t WHERE t.ctid = ANY (ARRAY(
            SELECT x.ctid FROM muster.help_trust AS x WHERE x.at <= statement_timestamp() - greatest(p_keep, p_keep_accepted) LIMIT p_limit))
    )
    SELECT count(*) INTO v_n FROM gone;
    RETURN v_n;
END
$$;

-- Whom each open request is about, joined by commas, the asker first: for a broker that starts.
CREATE FUNCTION muster.help_involved(p_limit integer) RETURNS TABLE (tenant text, help_id text, names text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT h.tenant, h.help_id, concat_ws(',', h.asker, (
        SELECT string_agg(e.agent, ',') FROM muster.help_experts AS e WHERE e.tenant = h.tenant AND e.help_id = h.help_id AND e.offered_at IS NOT NULL))
    FROM muster.help AS h WHERE h.state IN ('open', 'offered', 'claimed', 'answered', 'escalated') LIMIT p_limit
$$;


-- Reading.

CREATE FUNCTION muster.help_get(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_help_id constant text := args ->> 'help_id';
    h muster.help;
BEGIN
    SELECT * INTO h FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_help_id;
    IF NOT FOUND THEN
        RETURN muster.help_not_found(v_help_id);
    END IF;
    RETURN jsonb_build_object('ok', ('{' || muster.help_within(h) || '}')::jsonb);
END
$$;

-- Newest first; after is the last answer's next. args: state?, asker?, expert?, limit?, after?.
CREATE FUNCTION muster.help_list(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_limit constant integer := coalesce((args ->> 'limit')::integer, 100);
    v_state constant text := args ->> 'state';
    v_asker constant text := args ->> 'asker';
    v_expert constant text := args ->> 'expert';
    v_after constant text := args ->> 'after';
    v_before timestamptz := 'infinity';
    v_id text := '';
    v_rows jsonb;
    v_n integer;
    v_last text;
BEGIN
    IF v_after !~ '^\d{1,18}[.].' THEN
        RETURN muster.wrong('after', v_after, 'what an answer gave as next');
    ELSIF v_state IS NOT NULL AND NOT EXISTS (SELECT FROM muster.edges AS e WHERE e.machine = 'help' AND e.to_state = v_state) THEN
        RETURN muster.wrong('state', v_state, 'a state of help requests');
    END IF;
    IF v_after IS NOT NULL THEN
        v_before := timestamptz '1970-01-01 00:00:00Z' + split_part(v_after, '.', 1)::bigint * interval '1 microsecond';
        v_id := substr(v_after, strpos(v_after, '.') + 1);
    END IF;
    SELECT coalesce(jsonb_agg(p.shown ORDER BY p.n) FILTER (WHERE p.n <= v_limit AND (p.n = 1 OR p.bytes <= 900000)), '[]'), count(*)
    INTO v_rows, v_n
    FROM (SELECT r.*, sum(octet_length(r.shown::text) + 2) OVER (ORDER BY r.n) AS bytes
          FROM (SELECT ('{' || muster.help_within(h) || '}')::jsonb AS shown, row_number() OVER (ORDER BY h.created_at DESC, h.help_id DESC) AS n
          FROM (SELECT * FROM muster.help AS x
                WHERE x.tenant = tenant AND (v_state IS NULL OR x.state = v_state) AND (v_asker IS NULL OR x.asker = v_asker)
                  AND (v_expert IS NULL OR EXISTS (SELECT FROM muster.help_experts AS e WHERE e.tenant = tenant AND e.help_id = x.help_id AND e.agent = v_expert))
                  AND x.created_at <= v_before AND (x.created_at < v_before OR x.help_id < v_id)
                ORDER BY x.created_at DESC, x.help_id DESC LIMIT v_limit + 1) AS h) AS r) AS p;
    IF v_n > jsonb_array_length(v_rows) THEN
        v_last := (extract(epoch FROM (v_rows -> -1 ->> 'created_at')::timestamptz) * 1000000)::bigint || '.' || (v_rows -> -1 ->> 'help_id');
    END IF;
    RETURN jsonb_build_object('ok', jsonb_build_object('requests', v_rows) || CASE WHEN v_last IS NULL THEN '{}' ELSE jsonb_build_object('next', v_last) END);
END
$$;

CREATE FUNCTION muster.help_history(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_help_id constant text := args ->> 'help_id';
    v_limit constant integer := coalesce((args ->> 'limit')::integer, 100);
    v_after constant integer := CASE WHEN args ->> 'after' ~ '^\d{1,9}$' THEN args ->> 'after' ELSE '0' END;
    v_rows jsonb;
    v_more boolean;
BEGIN
    IF args ->> 'after' !~ '^\d{1,9}$' THEN
        RETURN muster.wrong('after', args ->> 'after', 'what an answer gave as next');
    END IF;
    SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
               'seq', x.seq, 'at', muster.stamp(x.at), 'from', x.from_state, 'to', x.to_state, 'epoch', x.epoch, 'holder', x.holder,
               'actor', x.actor, 'role', x.role, 'verb', x.verb, 'reason', x.reason)) || CASE WHEN x.detail IS NULL THEN '{}' ELSE jsonb_build_object('detail', x.detail) END
               ORDER BY x.seq) FILTER (WHERE x.seq <= v_after + v_limit), bool_or(x.seq > v_after + v_limit)
    INTO v_rows, v_more
    FROM muster.help_history AS x
    WHERE x.tenant = tenant AND x.help_id = v_help_id AND x.seq > v_after AND x.seq <= v_after + v_limit + 1;
    IF v_rows IS NULL AND NOT EXISTS (SELECT FROM muster.help AS x WHERE x.tenant = tenant AND x.help_id = v_help_id) THEN
        RETURN muster.help_not_found(v_help_id);
    END IF;
    RETURN jsonb_build_object('ok', jsonb_build_object('history', coalesce(v_rows, '[]'))
                                    || CASE WHEN v_more THEN jsonb_build_object('next', (v_after + v_limit)::text) ELSE '{}' END);
END
$$;

CREATE FUNCTION muster.help_stats(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    RETURN jsonb_build_object('ok', (
        SELECT jsonb_build_object('total', coalesce(sum(n), 0), 'by_state', coalesce(jsonb_object_agg(state, n), '{}'))
        FROM (SELECT h.state, count(*) AS n FROM muster.help AS h WHERE h.tenant = tenant GROUP BY 1) AS s));
END
$$;

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
    DELETE FROM muster.help WHERE tenant = p_tenant;
    DELETE FROM muster.help_experts WHERE tenant = p_tenant;
    DELETE FROM muster.help_history WHERE tenant = p_tenant;
    DELETE FROM muster.help_marks WHERE tenant = p_tenant;
    DELETE FROM muster.help_trust WHERE tenant = p_tenant;
    DELETE FROM public.agent_memories WHERE tenant_id = p_tenant;
    DELETE FROM public.agent_sessions WHERE tenant_id = p_tenant;
    DELETE FROM public.agent_events WHERE tenant_id = p_tenant;
    DELETE FROM muster.requests WHERE tenant = p_tenant;
    DELETE FROM muster.inboxes WHERE tenant = p_tenant;
    DELETE FROM muster.groups WHERE tenant = p_tenant;
    DELETE FROM muster.watches WHERE tenant = p_tenant;
END
$$;

-- Grants and policies stand in always.sql.

RESET ROLE;

-- What sees every tenant's rows.
ALTER FUNCTION muster.help_due(text, integer, integer) OWNER TO muster_engine;
ALTER FUNCTION muster.help_looking(integer, integer) OWNER TO muster_engine;
ALTER FUNCTION muster.help_orphans(text, integer) OWNER TO muster_engine;
ALTER FUNCTION muster.help_purge(interval, interval, integer) OWNER TO muster_engine;
ALTER FUNCTION muster.help_involved(integer) OWNER TO muster_engine;
