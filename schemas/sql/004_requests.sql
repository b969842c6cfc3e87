-- The frame around every service function: called through muster.call(), and through muster.once() it is
-- carried out once for a request_id, however often and on however many brokers it is asked for.
--
-- A service function is a function of schema muster of the shape, names included,
--     name(tenant text, agent text, args jsonb) RETURNS jsonb
-- It gives {"ok": ...} or {"error": {"code", "message", "field"?}}, changes nothing when it gives an error,
-- and raises only for faults of its own: many items share one transaction, and one bad item must not undo
-- the rest.

SET LOCAL ROLE muster_owner;

CREATE TABLE muster.requests (
    tenant text COLLATE "C",
    agent text COLLATE "C",
    verb text COLLATE "C", -- service.verb
    request_id text COLLATE "C",
    digest bytea NOT NULL CHECK (octet_length(digest) = 32), -- SHA-256 of the canonical decoded body
    answer jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, agent, verb, request_id)
);
CREATE INDEX requests_created_at ON muster.requests (created_at);
COMMENT ON TABLE muster.requests IS 'The first answer to each request_id, kept for 24 hours.';

CREATE FUNCTION muster.error(p_code text, p_message text, p_field text DEFAULT NULL,
                             p_retry_after_ms integer DEFAULT NULL) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_build_object('error', jsonb_strip_nulls(jsonb_build_object(
    'code', p_code, 'message', p_message, 'field', p_field, 'retry_after_ms', p_retry_after_ms)));

-- Which function is called comes from a plugin's code, never from an agent; it is looked up all the same, so
-- that nothing but a service function can be reached.
CREATE FUNCTION muster.call(p_function text, p_tenant text, p_agent text, p_args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outcome jsonb;
BEGIN
    PERFORM FROM pg_proc
    WHERE proname = p_function AND pronamespace = 'muster'::regnamespace AND prokind = 'f' AND NOT proretset
      AND proargtypes = '25 25 3802'::oidvector AND prorettype = 'jsonb'::regtype -- text, text, jsonb
      AND proargnames = ARRAY['tenant', 'agent', 'args'];
    IF NOT FOUND THEN
        RAISE undefined_function USING MESSAGE = format(
            'muster.call: function: %s came, the name of a function of schema muster with the parameters '
            'tenant text, agent text, args jsonb that returns jsonb was expected',
            coalesce(quote_literal(left(p_function, 100)), 'NULL'));
    END IF;
    EXECUTE format('SELECT muster.%I($1, $2, $3)', p_function) INTO v_outcome USING p_tenant, p_agent, p_args;
    IF v_outcome -> 'ok' IS NULL AND v_outcome -> 'error' ->> 'code' IS NULL THEN
        RAISE EXCEPTION 'muster.%: % came, {"ok": ...} or {"error": {"code", "message"}} was expected',
            p_function, coalesce(left(v_outcome::text, 100), 'NULL');
    END IF;
    RETURN v_outcome;
END
$$;

-- Take the lock of one request until the transaction ends. False: lock_timeout passed, somebody works on it.
-- Each takes a place in the server's lock table: a transaction may hold hundreds, not tens of thousands.
CREATE FUNCTION muster.lock_request(p_lock bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    -- First without waiting: only the wait needs a handler, and a handler costs a subtransaction.
    IF pg_try_advisory_xact_lock(p_lock) THEN
        RETURN true;
    END IF;
    BEGIN
        PERFORM pg_advisory_xact_lock(p_lock);
        RETURN true;
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
        RETURN false;
    END;
END
$$;

-- The lock comes before the look: who waited for another broker's transaction then sees what it wrote,
-- since under READ COMMITTED each statement here has a new snapshot. Under a stricter level the insert fails.
-- Two requests whose locks collide (64 bits of hash) wait for each other and are otherwise not disturbed.
CREATE FUNCTION muster.once(p_tenant text, p_agent text, p_verb text, p_request_id text, p_digest bytea,
                            p_function text, p_args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c_kept_for constant interval := '24 hours';
    v_first muster.requests;
    v_outcome jsonb;
BEGIN
    IF p_request_id IS NULL THEN
        RETURN muster.call(p_function, p_tenant, p_agent, p_args);
    ELSIF length(p_request_id) NOT BETWEEN 1 AND 128 THEN
        RETURN muster.error('invalid_argument', format(
            'request_id: %s characters came, 1 to 128 were expected', length(p_request_id)), 'request_id');
    ELSIF NOT muster.lock_request(hash_record_extended(ROW(p_tenant, p_agent, p_verb, p_request_id), 0)) THEN
        RETURN muster.error('unavailable', 'request_id: the same request is being worked on',
                            'request_id', 100);
    END IF;

    SELECT * INTO v_first FROM muster.requests AS r
    WHERE r.tenant = p_tenant AND r.agent = p_agent AND r.verb = p_verb AND r.request_id = p_request_id
      AND r.created_at > clock_timestamp() - c_kept_for;
    IF FOUND AND v_first.digest = p_digest THEN
        RETURN v_first.answer;
    ELSIF FOUND THEN
        RETURN muster.error('already_exists', format('request_id: %s came again with another body, '
                            'the body of the first request was expected', p_request_id), 'request_id');
    END IF;

    v_outcome := muster.call(p_function, p_tenant, p_agent, p_args);
    -- These say nothing about the request: the caller is meant to ask again, under the same id.
    IF v_outcome -> 'error' ->> 'code'
       IN ('unavailable', 'resource_exhausted', 'deadline_exceeded', 'internal') THEN
        RETURN v_outcome;
    END IF;
    INSERT INTO muster.requests (tenant, agent, verb, request_id, digest, answer)
    VALUES (p_tenant, p_agent, p_verb, p_request_id, p_digest, v_outcome)
    ON CONFLICT (tenant, agent, verb, request_id) DO UPDATE -- older than 24 hours and not purged yet
        SET digest = excluded.digest, answer = excluded.answer, created_at = excluded.created_at;
    RETURN v_outcome;
END
$$;
COMMENT ON FUNCTION muster.once(text, text, text, text, bytea, text, jsonb) IS
    'Call a service function once for a request_id; the same request again gets the first answer.';

-- Forget requests older than 24 hours, at most p_limit at a time; every broker may call it at any time.
CREATE FUNCTION muster.purge_requests(p_limit integer DEFAULT 10000) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
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

GRANT SELECT, INSERT, UPDATE, DELETE ON muster.requests TO muster_broker;
GRANT EXECUTE ON FUNCTION
    muster.error(text, text, text, integer),
    muster.call(text, text, text, jsonb),
    muster.lock_request(bigint),
    muster.once(text, text, text, text, bytea, text, jsonb),
    muster.purge_requests(integer)
    TO muster_broker;
