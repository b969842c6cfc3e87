-- Credentials that may less than their role: groups, tables and verbs. NULL: all that the role may.

SET LOCAL ROLE muster_owner;

-- The words go into permissions of NATS.
CREATE FUNCTION muster.narrowing_is_legal(p_words text[], p_pattern text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN cardinality(p_words) BETWEEN 1 AND 64
    AND NOT EXISTS (SELECT FROM unnest(p_words) AS w(word) WHERE (w.word ~ p_pattern) IS NOT TRUE);

ALTER TABLE muster.credentials
    ADD COLUMN groups text[],
    ADD COLUMN tables text[], -- schema.table or schema.*, as the tokens of subjects are
    ADD COLUMN verbs text[],  -- service.verb or service.*
    ADD CONSTRAINT legal_groups CHECK (groups IS NULL
        OR muster.narrowing_is_legal(groups, '^[A-Za-z0-9-][A-Za-z0-9_-]{0,63}$')),
    ADD CONSTRAINT legal_tables CHECK (tables IS NULL
        OR muster.narrowing_is_legal(tables, '^(~[a-z2-7]{16}|[A-Za-z0-9_-]{1,64})\.(~[a-z2-7]{16}|[A-Za-z0-9_-]{1,64}|[*])$')),
    ADD CONSTRAINT legal_verbs CHECK (verbs IS NULL
        OR muster.narrowing_is_legal(verbs, '^[A-Za-z0-9-][A-Za-z0-9_-]{0,63}\.([A-Za-z0-9-][A-Za-z0-9_-]{0,63}|[*])$'));

-- Outside its tenant an operator goes by its name alone: two of one name could not be told apart there.
DO $$
DECLARE
    v_twice text;
BEGIN
    SELECT string_agg(DISTINCT agent, ', ') INTO v_twice
    FROM (SELECT agent FROM muster.credentials WHERE role = 'operator' AND revoked_at IS NULL
          GROUP BY agent HAVING count(*) > 1) AS t;
    IF v_twice IS NOT NULL THEN
        RAISE unique_violation USING
            MESSAGE = format('operators of one name in more than one tenant: %s', v_twice),
            HINT = 'Revoke all but one with `muster agent revoke TENANT NAME`, then migrate again.';
    END IF;
END
$$;
CREATE UNIQUE INDEX one_operator_a_name ON muster.credentials (agent)
    WHERE role = 'operator' AND revoked_at IS NULL;

GRANT EXECUTE ON FUNCTION muster.narrowing_is_legal(text[], text) TO muster_broker;
