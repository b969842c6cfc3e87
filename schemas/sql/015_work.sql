-- What the machines of tasks, help requests and runs share: their edges as data, the fences of the brokers that
-- assign, and the forms of times and refusals.
--
-- A machine changes a row in one way: by its functions, which lock the row, look for the edge, write row and
-- history, and emit the event, all in the caller's transaction. They give {"ok": ...} or {"error": ...} and never
-- raise for reasons of data, since many requests share a transaction; each has the shape that muster.call() and
-- muster.once() ask for, so that a request_id is kept by the frame that was there before.
-- Who writes the table itself is held to the same edges by a trigger, which raises.
-- The functions belong to muster_owner and are SECURITY DEFINER: current_user is then a name that no writer of
-- plain SQL has, and by it the trigger knows the machine's own changes. Row level security binds them all the same.
--
-- History of a machine: (tenant, id, seq, at, from_state, to_state, epoch, holder, actor, role, verb, reason,
-- detail); seq is contiguous from 1, one a change of state, the same number as in the row.

SET LOCAL ROLE muster_owner;

CREATE TABLE muster.edges (
    machine text COLLATE "C",
    verb text COLLATE "C",
    from_state text COLLATE "C", -- '' is where a new one comes from
    to_state text COLLATE "C",
    who text[] NOT NULL, -- holder, owner, admin, human, engine; {any}: whoever the verb is granted to
    epoch_up boolean NOT NULL DEFAULT false,
    attempt smallint NOT NULL DEFAULT 0, -- what is added to the count
    crash boolean NOT NULL DEFAULT false,
    -- As which of its verbs a plain change between these states is taken. One of them is, always.
    plain boolean NOT NULL DEFAULT false,
    PRIMARY KEY (machine, verb, from_state, to_state)
);
CREATE UNIQUE INDEX edges_plain ON muster.edges (machine, from_state, to_state) WHERE plain;
COMMENT ON TABLE muster.edges IS 'Every transition that there is; what is not here is refused.';

CREATE TABLE muster.fences (
    name text COLLATE "C" PRIMARY KEY, -- of a lease, such as task.7
    epoch bigint NOT NULL
);
COMMENT ON TABLE muster.fences IS 'The newest epoch of each lease under which something is written here.';

-- A new holder calls it before it reads anything. It waits for statements of older holders that are under way; after
-- it none of theirs does anything. args: name, epoch.
CREATE FUNCTION muster.fence_raise(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_name constant text := args ->> 'name';
    v_epoch constant bigint := args ->> 'epoch';
BEGIN
    INSERT INTO muster.fences AS f (name, epoch) VALUES (v_name, v_epoch)
    ON CONFLICT ON CONSTRAINT fences_pkey DO UPDATE SET epoch = v_epoch WHERE f.epoch <= v_epoch;
    IF NOT FOUND THEN
        RETURN muster.error('aborted', format('epoch: %s came, the fence %s is higher', v_epoch, v_name), 'epoch');
    END IF;
    PERFORM set_config('muster.fenced', '', true), set_config('muster.giving', '', true); -- what this transaction found before is not true any more
    RETURN '{"ok": {}}';
END
$$;

-- Times as everything shows them.
CREATE FUNCTION muster.stamp(p_at timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

-- An RFC 3339 time; NULL: it is none. No cast raises, so nothing has to be undone.
CREATE FUNCTION muster.instant(p_text text) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_text !~ ('^(?!0000)\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt ]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d{1,12})?'
                  || '([Zz]|[+-](0\d|1[0-4]):[0-5]\d)$') THEN
        RETURN NULL;
    ELSIF substr(p_text, 9, 2)::int > extract(day FROM make_date(substr(p_text, 1, 4)::int, substr(p_text, 6, 2)::int, 1)
                                                        + interval '1 month' - interval '1 day') THEN
        RETURN NULL;
    END IF;
    RETURN p_text::timestamptz;
END
$$;

-- What brokers cannot decode, or not send in MessagePack, of a column that plain SQL has written, as they refuse it in a request; NULL: nothing.
-- A field stands in the second of the levels that they store.
CREATE FUNCTION muster.undecodable(p_field text, p_value jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN jsonb_path_exists(p_value, 'strict $.**{26} ? (@.type() == "array" || @.type() == "object")')
    THEN p_field || ': more levels of lists and maps came, at most 26 were expected'
    WHEN jsonb_path_exists(p_value, 'strict $.** ? (@.type() == "array" && @.size() > 4096)')
    THEN p_field || ': a longer list came, at most 4096 were expected'
    WHEN jsonb_typeof(p_value) = 'object' AND (SELECT count(*) FROM jsonb_object_keys(CASE jsonb_typeof(p_value) WHEN 'object' THEN p_value END)) > 1000
    THEN p_field || ': a larger map came, at most 1000 keys were expected'
    WHEN EXISTS (SELECT FROM jsonb_path_query(p_value, 'strict $.** ? (@.type() == "object")') AS o
                 WHERE (SELECT count(*) FROM jsonb_object_keys(o)) > 1024)
    THEN p_field || ': a larger map came within, at most 1024 keys were expected'
    WHEN jsonb_path_exists(p_value, 'strict $.** ? (@.type() == "number" && (@ >= 1e64 || @ <= -1e64))')
    THEN p_field || ': a longer number came, at most 64 places were expected'
END;

-- The refusal of an argument: the field, what came, what was expected.
CREATE FUNCTION muster.wrong(p_field text, p_value text, p_expected text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN muster.error('invalid_argument', format('%s: %s came, %s was expected', p_field,
                                               coalesce(quote_literal(left(p_value, 100)), 'nothing'), p_expected), p_field);

-- Grants stand in always.sql.
