-- What the plugin fanout keeps: how far each inbox was read, who is in which group, and the watches.

SET LOCAL ROLE muster_owner;

-- A message that came with a request id has its claim there, then its answer: room for it on the same page.
ALTER TABLE muster.requests SET (fillfactor = 50);

-- The messages are in the stream MAIL; this is the cursor alone. A sequence means something within one stream:
-- epoch is when that was made, in microseconds.
CREATE TABLE muster.inboxes (
    tenant muster.name,
    agent muster.name,
    epoch bigint NOT NULL,
    acked bigint NOT NULL CHECK (acked >= 0),
    acked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, agent),
    FOREIGN KEY (tenant, agent) REFERENCES muster.credentials ON DELETE CASCADE
) WITH (fillfactor = 50); -- acked moves all the time: room for it on the same page
COMMENT ON TABLE muster.inboxes IS 'The last message of its inbox that each agent has acknowledged.';

CREATE TABLE muster.groups (
    tenant muster.name,
    name muster.name,
    agent muster.name,
    joined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, name, agent),
    FOREIGN KEY (tenant, agent) REFERENCES muster.credentials ON DELETE CASCADE
);
CREATE INDEX groups_agent ON muster.groups (tenant, agent);
COMMENT ON TABLE muster.groups IS 'Who is a member of which group.';

CREATE TABLE muster.watches (
    tenant muster.name REFERENCES muster.tenants ON DELETE CASCADE,
    id text COLLATE "C" CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
    agent text COLLATE "C" NOT NULL, -- an operator of another tenant has no row in credentials
    role text NOT NULL,
    spec jsonb NOT NULL CHECK (jsonb_typeof(spec) = 'object'), -- the body of watch.open
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    position jsonb, -- where it was asked to begin; NULL: at its making
    PRIMARY KEY (tenant, id)
);
CREATE INDEX watches_agent ON muster.watches (tenant, agent);
COMMENT ON TABLE muster.watches IS 'What agents have asked to be told; the holder of the tenant''s shard serves it.';

-- Forward only; in a stream that was made anew, from wherever.
CREATE FUNCTION muster.message_ack(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_epoch constant bigint := (args ->> 'epoch')::bigint;
    v_seq constant bigint := (args ->> 'seq')::bigint;
    v_acked bigint;
BEGIN
    UPDATE muster.inboxes AS i
    SET epoch = v_epoch, acked = CASE WHEN i.epoch = v_epoch THEN greatest(i.acked, v_seq) ELSE v_seq END, acked_at = clock_timestamp()
    WHERE i.tenant = tenant AND i.agent = agent
    RETURNING i.acked INTO v_acked;
    IF v_acked IS NULL THEN
        INSERT INTO muster.inboxes AS i (tenant, agent, epoch, acked)
        SELECT c.tenant, c.agent, v_epoch, v_seq FROM muster.credentials AS c WHERE c.tenant = tenant AND c.agent = agent
        ON CONFLICT ON CONSTRAINT inboxes_pkey DO UPDATE -- another acknowledgement was faster
            SET epoch = v_epoch, acked = CASE WHEN i.epoch = v_epoch THEN greatest(i.acked, v_seq) ELSE v_seq END
        RETURNING i.acked INTO v_acked;
    END IF;
    IF v_acked IS NULL THEN
        RETURN muster.error('failed_precondition', 'only names of this tenant have an inbox');
    END IF;
    RETURN jsonb_build_object('ok', jsonb_build_object('acked', v_acked));
END
$$;

-- The names that a message goes to. p_to or p_group, or neither: everybody. Plugins have no inbox.
-- A statement for each, since one for all three would read every name of the tenant to find the one.
CREATE FUNCTION muster.message_receivers(p_tenant text, p_to text, p_group text) RETURNS SETOF text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_to IS NOT NULL THEN
        RETURN QUERY SELECT c.agent::text FROM muster.credentials AS c
            WHERE c.tenant = p_tenant AND c.agent = p_to AND c.role <> 'plugin' AND c.revoked_at IS NULL
              AND (c.expires_at IS NULL OR c.expires_at > statement_timestamp());
    ELSIF p_group IS NOT NULL THEN
        RETURN QUERY SELECT c.agent::text FROM muster.groups AS g
            JOIN muster.credentials AS c ON c.tenant = g.tenant AND c.agent = g.agent
            WHERE g.tenant = p_tenant AND g.name = p_group AND c.role <> 'plugin' AND c.revoked_at IS NULL
              AND (c.expires_at IS NULL OR c.expires_at > statement_timestamp())
            ORDER BY c.agent;
    ELSE
        RETURN QUERY SELECT c.agent::text FROM muster.credentials AS c
            WHERE c.tenant = p_tenant AND c.role <> 'plugin' AND c.revoked_at IS NULL
              AND (c.expires_at IS NULL OR c.expires_at > statement_timestamp())
            ORDER BY c.agent;
    END IF;
END
$$;

-- What a message does is done in a stream and by the bus, not here: its request id is claimed before and gets its answer
-- after it. Who asks again meanwhile gets the claim, under which the stream knows a message for two minutes.
CREATE FUNCTION muster.message_claim(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF args ? 'to' AND NOT EXISTS (SELECT FROM muster.message_receivers(tenant, args ->> 'to', NULL)) THEN
        RETURN muster.error('not_found', format('to: %s came, the name of an agent was expected', args ->> 'to'), 'to');
    END IF;
    RETURN jsonb_build_object('ok', jsonb_build_object('claim', args ->> 'id', 'at', clock_timestamp()));
END
$$;

CREATE FUNCTION muster.message_begin(p_tenant text, p_agent text, p_verb text, p_request_id text, p_digest bytea, p_args jsonb)
RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c_known_for constant interval := '100 seconds';
    v_outcome constant jsonb := muster.once(p_tenant, p_agent, p_verb, p_request_id, p_digest, 'message_claim', p_args);
BEGIN
    IF (v_outcome #>> '{ok,at}')::timestamptz < clock_timestamp() - c_known_for THEN
        RETURN muster.error('aborted', format('request_id: %s was begun at %s and not finished: what it did is unknown; '
                            'a new request_id does it again', p_request_id, v_outcome #>> '{ok,at}'), 'request_id');
    END IF;
    RETURN v_outcome;
END
$$;

CREATE FUNCTION muster.message_done(p_tenant text, p_agent text, p_verb text, p_request_id text, p_answer jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE muster.requests SET answer = jsonb_build_object('ok', p_answer)
    WHERE tenant = p_tenant AND agent = p_agent AND verb = p_verb AND request_id = p_request_id AND answer #> '{ok,claim}' IS NOT NULL;
    RETURN jsonb_build_object('ok', p_answer);
END
$$;

CREATE FUNCTION muster.group_join(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    v_limit constant bigint := muster.limit(tenant, 'group.members');
BEGIN
    IF EXISTS (SELECT FROM muster.groups AS g WHERE g.tenant = tenant AND g.name = args ->> 'group' AND g.agent = agent) THEN
        RETURN '{"ok": {}}';
    ELSIF v_limit IS NOT NULL AND v_limit <= (SELECT count(*) FROM muster.groups AS g WHERE g.tenant = tenant) THEN
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

CREATE FUNCTION muster.group_leave(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    DELETE FROM muster.groups AS g WHERE g.tenant = tenant AND g.name = args ->> 'group' AND g.agent = agent;
    RETURN '{"ok": {}}';
END
$$;

CREATE OR REPLACE FUNCTION muster.forget(p_tenant text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('app.current_tenant', p_tenant, true);
    DELETE FROM public.agent_runs WHERE tenant_id = p_tenant;
    DELETE FROM public.agent_tasks WHERE tenant_id = p_tenant;
    DELETE FROM public.agent_memories WHERE tenant_id = p_tenant;
    DELETE FROM public.agent_sessions WHERE tenant_id = p_tenant;
    DELETE FROM public.agent_events WHERE tenant_id = p_tenant;
    DELETE FROM muster.requests WHERE tenant = p_tenant;
    DELETE FROM muster.inboxes WHERE tenant = p_tenant;
    DELETE FROM muster.groups WHERE tenant = p_tenant;
    DELETE FROM muster.watches WHERE tenant = p_tenant;
END
$$;
