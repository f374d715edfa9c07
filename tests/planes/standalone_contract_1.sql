-- The standalone tables and views as the release before contract 2 printed them.

BEGIN;

CREATE SCHEMA IF NOT EXISTS image_control;
CREATE SCHEMA IF NOT EXISTS image_gateway;

CREATE TABLE IF NOT EXISTS image_control.groups (
    group_id       text PRIMARY KEY,
    group_name     text NOT NULL DEFAULT '',
    image_enabled  boolean NOT NULL DEFAULT false,
    created_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS image_control.keys (
    -- A log record holds no more of it, and charges go by the id in the record.
    key_id                 text PRIMARY KEY CHECK (length(key_id) <= 256),
    key_name               text NOT NULL DEFAULT '',
    key_hash               text NOT NULL UNIQUE CHECK (key_hash ~ '^[0-9a-f]{64}$'),
    status                 text NOT NULL DEFAULT 'active',
    image_enabled          boolean NOT NULL DEFAULT true,
    group_id               text REFERENCES image_control.groups,
    quota_limit            bigint,
    quota_used             bigint NOT NULL DEFAULT 0,
    max_concurrency        integer CHECK (max_concurrency >= 0),
    min_start_interval_ms  integer CHECK (min_start_interval_ms >= 0),
    allowed_models         text[],
    model_map              jsonb CHECK (jsonb_typeof(model_map) = 'object'),
    account_names          text[],
    route_strategy         text NOT NULL DEFAULT 'auto' CHECK (route_strategy IN ('fixed', 'auto')),
    created_at             timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS image_control.accounts (
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
    fails_free              boolean NOT NULL DEFAULT false,
    created_at              timestamptz NOT NULL DEFAULT now(),
    CHECK (dialect <> 'azure' OR base_url IS NOT NULL)
);

ALTER TABLE image_control.accounts
    ADD COLUMN IF NOT EXISTS fails_free boolean NOT NULL DEFAULT false;

-- Calls that were charged to their key's quota, each once.  A row stays when its key is removed.
CREATE TABLE IF NOT EXISTS image_control.charges (
    request_id  text PRIMARY KEY,
    key_id      text NOT NULL,
    tokens      bigint NOT NULL CHECK (tokens >= 0),
    images      integer NOT NULL CHECK (images >= 0),
    called_at   timestamptz NOT NULL,
    charged_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS charges_called_at ON image_control.charges (called_at);

-- Sealed log files that were charged to their end, identified by their contents: two instances, or
-- two machines, may have files of the same name.
CREATE TABLE IF NOT EXISTS image_control.charged_files (
    digest      text PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
    file_name   text NOT NULL,
    charged_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS charged_files_charged_at ON image_control.charged_files (charged_at);

-- `image-gateway control` checks this first.  Version 2 added the charges, version 3
-- the accounts' fails_free.
CREATE OR REPLACE FUNCTION image_control.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE AS 'SELECT 3';

CREATE OR REPLACE FUNCTION image_gateway.contract_version() RETURNS integer
    LANGUAGE sql IMMUTABLE AS 'SELECT 1';

CREATE OR REPLACE VIEW image_gateway.keys AS
SELECT k.key_hash,
       k.key_id,
       k.key_name,
       k.status,
       k.image_enabled,
       k.group_id,
       k.group_id IS NULL OR coalesce(g.image_enabled, false) AS group_image_enabled,
       k.quota_limit - k.quota_used AS quota_remaining,
       k.max_concurrency,
       k.min_start_interval_ms,
       k.allowed_models,
       k.model_map,
       k.account_names,
       k.route_strategy
FROM image_control.keys k
LEFT JOIN image_control.groups g USING (group_id);

CREATE OR REPLACE VIEW image_gateway.accounts AS
SELECT account_name, dialect, status, image_enabled, image_max_concurrency, base_url, api_version,
       deployments, credential, client_version, responses_model, codex_route,
       proxy_url, proxy_username, proxy_password, routing_weight,
       used_percent_primary, used_percent_secondary, same_account_retries,
       blocked_until, last_error, fails_free
FROM image_control.accounts;

-- A notification is sent when its transaction commits.  A key (by its hash) or an account (by its
-- name) that it names is not served until it is read again, not even while this database is away.
-- A group affects any number of keys, so its payload means all of them.  Of a key's used quota a
-- gateway only needs to know whether anything is left: if each charge were notified, it would hold
-- no key in memory when this database goes away.
CREATE OR REPLACE FUNCTION image_control.tell_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    had_left boolean;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        had_left := OLD.quota_limit > OLD.quota_used;
        OLD.quota_used := NEW.quota_used;
        IF OLD IS NOT DISTINCT FROM NEW
            AND had_left IS NOT DISTINCT FROM (NEW.quota_limit > NEW.quota_used)
        THEN
            RETURN NULL;
        END IF;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('image_gateway_changed', 'key:' || OLD.key_hash);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('image_gateway_changed', 'key:' || NEW.key_hash);
    END IF;
    RETURN NULL;
END
$$;

-- The budget that an account has used only ranks it, and changes often: the account is not named.
-- Nor is a new account: no gateway has it in memory.  A payload must be shorter than 8000 bytes; a
-- name that is cut short matches no account, and all accounts are read again.
CREATE OR REPLACE FUNCTION image_control.tell_account() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE OR REPLACE FUNCTION image_control.tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('image_gateway_changed', TG_ARGV[0]);
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER tell_key
    AFTER INSERT OR UPDATE OR DELETE ON image_control.keys
    FOR EACH ROW EXECUTE FUNCTION image_control.tell_key();
CREATE OR REPLACE TRIGGER tell_keys
    AFTER TRUNCATE ON image_control.keys
    FOR EACH STATEMENT EXECUTE FUNCTION image_control.tell('keys');
CREATE OR REPLACE TRIGGER tell_groups
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON image_control.groups
    FOR EACH STATEMENT EXECUTE FUNCTION image_control.tell('keys');
CREATE OR REPLACE TRIGGER tell_account
    AFTER UPDATE OR DELETE ON image_control.accounts
    FOR EACH ROW EXECUTE FUNCTION image_control.tell_account();
CREATE OR REPLACE TRIGGER tell_accounts
    AFTER INSERT OR TRUNCATE ON image_control.accounts
    FOR EACH STATEMENT EXECUTE FUNCTION image_control.tell('accounts');

COMMIT;
