-- Calls that were charged to their keys, each once.  A row stays when its key is removed.
CREATE TABLE IF NOT EXISTS charges (
    request_id    text PRIMARY KEY,
    key_id        text NOT NULL,
    tokens        bigint NOT NULL CHECK (tokens >= 0),
    images        integer NOT NULL CHECK (images >= 0),
    called_at     timestamptz NOT NULL,
    charged_at    timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE charges
    ADD COLUMN IF NOT EXISTS cost numeric CHECK (cost >= 0),
    ADD COLUMN IF NOT EXISTS model text,
    ADD COLUMN IF NOT EXISTS account_name text;
CREATE INDEX IF NOT EXISTS charges_called_at ON charges (called_at);

-- Sealed log files that were charged to their end, identified by their contents: two instances, or
-- two machines, may have files of the same name.
CREATE TABLE IF NOT EXISTS charged_files (
    digest      text PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
    file_name   text NOT NULL,
    charged_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS charged_files_charged_at ON charged_files (charged_at);

-- A number in the tokens of a charge: total, input, cached_input or output; 0 if there is none.
CREATE OR REPLACE FUNCTION token_count(tokens jsonb, name text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN jsonb_typeof(tokens -> name) = 'number'
                THEN least(greatest(trunc((tokens ->> name)::numeric), 0), 1000000000000)::bigint
                ELSE 0 END;

-- Notes a charge: 'charged', 'charged_before', or 'too_old' for a call whose row may be deleted
-- already.  Whoever changes a key for a charge does it in the transaction of its 'charged'.
CREATE OR REPLACE FUNCTION note_charge(
    request_id text, key_id text, at timestamptz, model text, account_name text, tokens jsonb,
    images integer, cost numeric
) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF at < now() - interval '400 days' THEN
        RETURN 'too_old';
    END IF;
    INSERT INTO charges (request_id, key_id, called_at, model, account_name, tokens, images, cost)
    VALUES (note_charge.request_id, note_charge.key_id, at, note_charge.model,
            note_charge.account_name, token_count(note_charge.tokens, 'total'),
            note_charge.images, note_charge.cost)
    ON CONFLICT ON CONSTRAINT charges_pkey DO NOTHING;
    RETURN CASE WHEN FOUND THEN 'charged' ELSE 'charged_before' END;
END
$$;

-- Deletes what prevents no second charge any more: a call older than 400 days is refused, even if
-- the transaction that charges it began a day ago.
CREATE OR REPLACE FUNCTION forget_charges() RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DELETE FROM charges WHERE called_at < now() - interval '401 days';
    DELETE FROM charged_files WHERE charged_at < now() - interval '401 days';
$$;

REVOKE ALL ON FUNCTION note_charge, forget_charges FROM PUBLIC;
