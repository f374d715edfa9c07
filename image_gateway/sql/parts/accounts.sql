-- Upstream accounts in a table of the gateway's own; the columns are the contract's.

CREATE TABLE IF NOT EXISTS accounts (
    account_name            text PRIMARY KEY CHECK (account_name <> ''),
    dialect                 text NOT NULL CHECK (dialect IN ('codex', 'azure', 'openai')),
    status                  text NOT NULL DEFAULT 'active',
    image_enabled           boolean NOT NULL DEFAULT true,
    image_max_concurrency   integer CHECK (image_max_concurrency BETWEEN 1 AND 1024),
    base_url                text CHECK (base_url ~ '^https?://'),
    api_version             text,
    deployments             jsonb CHECK (jsonb_typeof(deployments) = 'object'),
    credential              jsonb CHECK (jsonb_typeof(credential) = 'object'),
    client_version          text,
    responses_model         text,
    codex_route             text CHECK (codex_route IN ('direct', 'responses')),
    proxy_url               text CHECK (proxy_url ~ '^(http|https|socks5|socks5h)://'),
    proxy_username          text,
    proxy_password          text,
    routing_weight          double precision CHECK (routing_weight > 0),
    used_percent_primary    double precision,
    used_percent_secondary  double precision,
    same_account_retries    integer CHECK (same_account_retries >= 0),
    blocked_until           timestamptz,
    last_error              text,
    fails_free              boolean,
    created_at              timestamptz NOT NULL DEFAULT now(),
    CHECK (dialect <> 'azure' OR base_url IS NOT NULL)
);

-- An older installation lacks fails_free, or cannot hold null there: null means what the dialect
-- usually does, and was false for every account for which nobody had chosen.  That of llm-access had
-- no Codex accounts here.
ALTER TABLE accounts ADD COLUMN IF NOT EXISTS fails_free boolean;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_attribute
               WHERE attrelid = 'accounts'::regclass AND attname = 'fails_free' AND attnotnull)
    THEN
        ALTER TABLE accounts ALTER COLUMN fails_free DROP NOT NULL,
                             ALTER COLUMN fails_free DROP DEFAULT;
        UPDATE accounts SET fails_free = NULL WHERE NOT fails_free;
    END IF;
    IF EXISTS (SELECT FROM pg_constraint
               WHERE conrelid = 'accounts'::regclass AND conname = 'accounts_dialect_check'
                 AND strpos(pg_get_constraintdef(oid), 'codex') = 0)
    THEN
        ALTER TABLE accounts DROP CONSTRAINT accounts_dialect_check,
                             ADD CONSTRAINT accounts_dialect_check
                                 CHECK (dialect IN ('codex', 'azure', 'openai'));
    END IF;
END
$$;

-- A notification is sent when its transaction commits.  An account that it names is not served until
-- it is read again, not even while this database is away.  The budget that an account has used only
-- ranks it, and changes often: then it is not named.  Nor is a new account: no gateway has it in
-- memory.  A payload must be shorter than 8000 bytes; a name that is cut short matches no account,
-- and all accounts are read again.
CREATE OR REPLACE FUNCTION tell_account() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    payload text := left('account:' || OLD.account_name, 1900);
BEGIN
    IF TG_OP = 'UPDATE' THEN
        OLD.last_error := NEW.last_error; -- the gateway does not read it
        IF OLD IS NOT DISTINCT FROM NEW THEN
            RETURN NULL;
        END IF;
        OLD.used_percent_primary := NEW.used_percent_primary;
        OLD.used_percent_secondary := NEW.used_percent_secondary;
        IF OLD IS NOT DISTINCT FROM NEW THEN
            payload := 'accounts';
        END IF;
    END IF;
    PERFORM pg_notify('image_gateway_changed', payload);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('image_gateway_changed', TG_ARGV[0]);
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER tell_account
    AFTER UPDATE OR DELETE ON accounts
    FOR EACH ROW EXECUTE FUNCTION tell_account();
CREATE OR REPLACE TRIGGER tell_accounts
    AFTER INSERT OR TRUNCATE ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION tell('accounts');
