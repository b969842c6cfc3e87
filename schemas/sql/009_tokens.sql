-- Tokens of Muster: the id in a token finds its row, by one look into an index; the hash proves the secret.

SET LOCAL ROLE muster_owner;

ALTER TABLE muster.credentials
    ADD COLUMN token_id text COLLATE "C" CHECK (token_id ~ '^[a-z2-7]{16}$'),
    ADD CONSTRAINT token_has_hash CHECK (token_id IS NULL OR secret_hash ~ '^sha256:[0-9a-f]{32}:[0-9a-f]{64}$'),
    ADD CONSTRAINT token_or_key CHECK (token_id IS NULL OR public_key IS NULL);
CREATE UNIQUE INDEX one_token_an_id ON muster.credentials (token_id) WHERE token_id IS NOT NULL;
COMMENT ON COLUMN muster.credentials.token_id IS 'Of a token that `muster agent add --token` made: mst_<token_id>_<secret>.';
