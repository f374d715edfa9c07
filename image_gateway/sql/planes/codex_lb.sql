-- codex-lb as the control plane of the image gateway: the contract (schema image_gateway) as views
-- over its tables (schema public), and tables of its own (schema image_adapter) for settings that
-- codex-lb does not have.  It does not change codex-lb.  It may be run again.
--
-- Run it on codex-lb's Postgres, as a role that may read its tables and create schemas; charging
-- also needs its right to change api_key_limits and to add to request_logs.  Then reader.sql;
-- codex_lb_notify.sql and charger.sql are optional.  Postgres refuses a migration of codex-lb that
-- drops a column read here or alters its type: drop the views, migrate, run this file again, and
-- reader.sql for its grants.
--
-- No value in their tables makes a view fail: what cannot be read counts as absent, or takes its own
-- account or key out of service.

BEGIN;

SET LOCAL image_gateway.title = 'codex-lb';
SET LOCAL image_gateway.needed = '{
    "api_keys": ["id", "name", "key_hash", "allowed_models", "enforced_model",
        "account_assignment_scope_enabled", "expires_at", "is_active"],
    "api_key_accounts": ["api_key_id", "account_id"],
    "api_key_limits": ["id", "api_key_id", "limit_type", "limit_window", "max_value",
        "current_value", "model_filter", "reset_at"],
    "accounts": ["id", "chatgpt_account_id", "routing_policy", "access_token_encrypted",
        "status", "deactivation_reason", "reset_at", "blocked_at",
        "delete_requested_at"],
    "usage_history": ["id", "account_id", "recorded_at", "window", "used_percent",
        "reset_at"],
    "account_proxy_bindings": ["account_id", "pool_id", "is_active"],
    "proxy_pools": ["id", "is_active"],
    "proxy_pool_members": ["id", "pool_id", "endpoint_id", "sort_order", "is_active"],
    "proxy_endpoints": ["id", "scheme", "host", "port", "username",
        "password_encrypted", "is_active"],
    "dashboard_settings": ["id", "api_key_auth_enabled", "routing_strategy",
        "single_account_id", "upstream_proxy_routing_enabled",
        "upstream_proxy_default_pool_id"],
    "api_firewall_allowlist": ["ip_address"],
    "request_logs": ["account_id", "api_key_id", "request_id", "requested_at", "model",
        "useragent", "input_tokens", "output_tokens", "cached_input_tokens", "cost_usd",
        "status"]
}';
SET LOCAL image_gateway.cure =
    'In the Postgres of a codex-lb (its CODEX_LB_DATABASE_URL), update codex-lb and start'
    ' it once, which runs its migrations';
\ir ../parts/requirements.sql

CREATE SCHEMA IF NOT EXISTS image_adapter;
CREATE SCHEMA IF NOT EXISTS image_gateway;
SET LOCAL search_path = image_adapter, pg_temp;
SET LOCAL image_gateway.plane = 'codex_lb';

\ir ../parts/version.sql
\ir ../parts/accounts.sql
\ir ../parts/charges.sql
\ir ../parts/reading.sql
\ir ../parts/key_options.sql
\ir ../parts/account_options.sql

-- Which of the adapter's accounts a key may use that is limited to assigned accounts in codex-lb.
-- A key that may use all accounts needs no row here.
CREATE TABLE IF NOT EXISTS key_accounts (
    key_id        text NOT NULL,
    account_name  text NOT NULL REFERENCES accounts ON UPDATE CASCADE ON DELETE CASCADE,
    PRIMARY KEY (key_id, account_name)
);

-- -- Reading codex-lb -----------------------------------------------------------------------------

-- The text of a Fernet token, which codex-lb keeps as bytes; null for what cannot be one.
CREATE OR REPLACE FUNCTION fernet_text(sealed bytea) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN encode(sealed, 'escape') ~ '^[A-Za-z0-9_=-]+$'
                THEN encode(sealed, 'escape') END;

-- The models of a list, trimmed; null, which means all, for an empty list and for what is no list.
CREATE OR REPLACE FUNCTION model_names(document jsonb) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN jsonb_typeof(document) = 'array' AND document <> '[]' THEN ARRAY(
        SELECT btrim(item #>> '{}', E' \t\r\n')
        FROM jsonb_array_elements(
            CASE WHEN jsonb_typeof(document) = 'array' THEN document ELSE '[]' END
        ) WITH ORDINALITY AS listed (item, place)
        WHERE jsonb_typeof(item) = 'string' AND btrim(item #>> '{}', E' \t\r\n') <> ''
        ORDER BY place
    ) END;

CREATE OR REPLACE FUNCTION is_image_model(model text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN model LIKE 'gpt-image-%' OR model LIKE 'chatgpt-image-%';

-- A number that may be out of bigint's range; null for null, which greatest and least would skip.
CREATE OR REPLACE FUNCTION whole(quantity numeric) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN least(greatest(quantity, -9223372036854775808), 9223372036854775807)::bigint;

-- A view calls functions with the rights of the role that reads it.
GRANT EXECUTE ON FUNCTION fernet_text, model_names, is_image_model, whole TO PUBLIC;

-- -- Views ----------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION image_gateway.contract_version() RETURNS integer
    LANGUAGE sql IMMUTABLE AS 'SELECT 2';

CREATE OR REPLACE VIEW image_gateway.keys AS
SELECT k.key_hash::text AS key_hash,
       k.id::text AS key_id,
       k.name::text AS key_name,
       CASE WHEN k.is_active THEN 'active' ELSE 'disabled' END AS status,
       coalesce(o.image_enabled, true) AS image_enabled,
       NULL::text AS group_id,
       true AS group_image_enabled,
       whole(remaining.tokens) AS quota_remaining,
       o.max_concurrency,
       o.min_start_interval_ms,
       -- codex-lb replaces the model of a call by the enforced one, and checks that one alone.
       CASE WHEN k.enforced_model IS NULL THEN allowed.models
            WHEN pinned.to_model IS NOT NULL THEN pinned.names || pinned.to_model
            ELSE '{}' END AS allowed_models,
       CASE WHEN pinned.to_model IS NOT NULL THEN (
           SELECT jsonb_object_agg(name, pinned.to_model)
           FROM unnest(pinned.names) AS name
           WHERE name <> pinned.to_model
       ) END AS model_map,
       -- Null stays null: it means all accounts.
       CASE WHEN k.account_assignment_scope_enabled THEN ARRAY(
           SELECT s.account_id::text
           FROM public.api_key_accounts s
           WHERE s.api_key_id = k.id
           ORDER BY 1
       ) || ARRAY(
           SELECT e.account_name
           FROM key_accounts e
           WHERE e.key_id = k.id
             -- The row means the adapter's account; codex-lb has taken its name since.
             AND NOT EXISTS (SELECT FROM public.accounts a WHERE a.id = e.account_name)
           ORDER BY 1
       ) END AS account_names,
       'auto' AS route_strategy,
       k.expires_at AT TIME ZONE 'UTC' AS expires_at,
       remaining.allows AS quota_allows,
       o.images_remaining,
       remaining.cost AS cost_remaining,
       NULL::text AS owner_id,
       NULL::integer AS owner_max_concurrency,
       o.json_keepalive_seconds
FROM public.api_keys k
LEFT JOIN key_options o ON o.key_id = k.id
-- A list that is no JSON makes the key fail in codex-lb.
CROSS JOIN LATERAL (
    SELECT CASE WHEN k.allowed_models IS NULL THEN NULL
                WHEN json_of(k.allowed_models) IS NULL THEN '{}'
                ELSE model_names(json_of(k.allowed_models)) END AS models
) allowed
-- The names are those that codex-lb takes for pictures.
CROSS JOIN LATERAL (
    SELECT ARRAY['gpt-image-1', 'gpt-image-1-mini', 'gpt-image-1.5', 'gpt-image-2'] AS names,
           CASE WHEN is_image_model(k.enforced_model)
                 AND (allowed.models IS NULL OR k.enforced_model = ANY (allowed.models))
                THEN k.enforced_model::text END AS to_model
) pinned
-- The contract has no quota of a single model, so a limit of an image model counts for all of them.
-- Limits in credits, and kinds of limits that this adapter does not know, can only be used up.
CROSS JOIN LATERAL (
    SELECT min(amount) FILTER (WHERE kind IN ('total_tokens', 'input_tokens', 'output_tokens'))
               AS tokens,
           min(amount) FILTER (WHERE kind = 'cost_usd') / 1000000 AS cost,
           bool_and(amount > 0) FILTER (
               WHERE kind NOT IN ('total_tokens', 'input_tokens', 'output_tokens', 'cost_usd')
           ) AS allows
    FROM (
        SELECT l.limit_type::text AS kind,
               -- codex-lb resets a limit when it next looks at it.
               l.max_value::numeric - CASE WHEN l.reset_at < now() AT TIME ZONE 'UTC' THEN 0
                                           ELSE l.current_value END AS amount
        FROM public.api_key_limits l
        WHERE l.api_key_id = k.id AND (l.model_filter IS NULL OR is_image_model(l.model_filter))
    ) applying
) remaining;

CREATE OR REPLACE VIEW image_gateway.accounts AS
SELECT a.id::text AS account_name,
       'codex' AS dialect,
       CASE WHEN a.delete_requested_at IS NOT NULL THEN 'deleting'
            WHEN a.status::text <> 'active' AND blocked.until IS NULL THEN a.status::text
            WHEN settings.routing_strategy = 'single_account'
             AND a.id IS DISTINCT FROM settings.single_account_id THEN 'not_chosen'
            -- An account whose proxy is missing must not connect without it.
            WHEN way.needs_proxy AND proxy.url IS NULL THEN 'proxy_unavailable'
            WHEN fernet_text(a.access_token_encrypted) IS NULL THEN 'no_credential'
            ELSE 'active' END AS status,
       coalesce(o.image_enabled, true) AS image_enabled,
       o.image_max_concurrency,
       NULL::text AS base_url,
       NULL::text AS api_version,
       NULL::jsonb AS deployments,
       -- Only what a call needs, and still encrypted: the other tokens stay in codex-lb.  An id that
       -- codex-lb made up is unknown to the upstream.
       CASE WHEN fernet_text(a.access_token_encrypted) IS NOT NULL THEN jsonb_strip_nulls(
           jsonb_build_object(
               'encrypted', jsonb_build_object(
                   'scheme', 'fernet', 'value', fernet_text(a.access_token_encrypted)),
               'account_id', CASE WHEN a.chatgpt_account_id !~ '^(email|local)_'
                                  THEN nullif(btrim(a.chatgpt_account_id, E' \t\r\n'), '') END))
       END AS credential,
       NULL::text AS client_version,
       o.responses_model,
       o.codex_route,
       proxy.url AS proxy_url,
       proxy.username AS proxy_username,
       proxy.password AS proxy_password,
       -- codex-lb takes an account of the next policy only if none of the one before it is usable.
       coalesce(o.routing_weight, CASE a.routing_policy WHEN 'burn_first' THEN 100
                                                        WHEN 'preserve' THEN 0.01
                                                        ELSE 1 END) AS routing_weight,
       CASE WHEN moment_of(short.reset_at::numeric) <= now() THEN 0
            ELSE percent(short.used_percent::numeric) END AS used_percent_primary,
       CASE WHEN moment_of(long.reset_at::numeric) <= now() THEN 0
            ELSE percent(long.used_percent::numeric) END AS used_percent_secondary,
       o.same_account_retries,
       blocked.until AS blocked_until,
       a.deactivation_reason::text AS last_error,
       o.fails_free
FROM public.accounts a
LEFT JOIN account_options o ON o.account_name = a.id
LEFT JOIN public.dashboard_settings settings ON settings.id = 1
-- codex-lb uses an account again after this time, although its status stays what it was.
CROSS JOIN LATERAL (
    SELECT CASE WHEN a.status::text IN ('rate_limited', 'quota_exceeded') THEN moment_of(
        CASE WHEN a.reset_at > 0 THEN a.reset_at::numeric
             WHEN a.status::text = 'rate_limited' THEN a.blocked_at::numeric + 30 END
    ) END AS until
) blocked
LEFT JOIN public.account_proxy_bindings binding
    ON binding.account_id = a.id AND binding.is_active
CROSS JOIN LATERAL (
    SELECT binding.pool_id IS NOT NULL OR coalesce(settings.upstream_proxy_routing_enabled, false)
               AS needs_proxy,
           CASE WHEN binding.pool_id IS NOT NULL THEN binding.pool_id
                WHEN settings.upstream_proxy_routing_enabled
                THEN settings.upstream_proxy_default_pool_id END AS pool_id
) way
LEFT JOIN LATERAL (
    SELECT CASE WHEN m.scheme IN ('http', 'https', 'socks5', 'socks5h')
                 AND m.host ~ '^([A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?)$'
                 AND m.port BETWEEN 1 AND 65535
                 -- A password that cannot be read is not left out.
                 AND (m.password_encrypted IS NULL OR fernet_text(m.password_encrypted) IS NOT NULL)
                THEN m.scheme || '://'
                    || CASE WHEN m.host LIKE '%:%' THEN '[' || btrim(m.host, '[]') || ']'
                            ELSE m.host END
                    || ':' || m.port END AS url,
           m.username::text AS username,
           CASE WHEN m.password_encrypted IS NOT NULL THEN jsonb_build_object(
               'encrypted', jsonb_build_object(
                   'scheme', 'fernet', 'value', fernet_text(m.password_encrypted)))::text
           END AS password
    FROM (
        SELECT lower(btrim(e.scheme, E' \t\r\n')) AS scheme, btrim(e.host, E' \t\r\n') AS host,
               e.port, e.username, e.password_encrypted
        FROM public.proxy_pools p
        JOIN public.proxy_pool_members m ON m.pool_id = p.id AND m.is_active
        JOIN public.proxy_endpoints e ON e.id = m.endpoint_id AND e.is_active
        WHERE p.id = way.pool_id AND p.is_active
        ORDER BY m.sort_order, m.id
        LIMIT 1
    ) m
) proxy ON true
-- The newest row of a window, by the index that codex-lb has for it.
LEFT JOIN LATERAL (
    SELECT u.used_percent, u.reset_at
    FROM public.usage_history u
    WHERE coalesce(u."window", 'primary') = 'primary' AND u.account_id = a.id
    ORDER BY u.recorded_at DESC, u.id DESC
    LIMIT 1
) short ON true
-- A free account has a monthly window instead of the weekly one; after a change of plan the other
-- one's rows are old.
LEFT JOIN LATERAL (
    SELECT u.used_percent, u.reset_at
    FROM (VALUES ('secondary'), ('monthly')) AS kinds (kind)
    CROSS JOIN LATERAL (
        SELECT u.used_percent, u.reset_at, u.recorded_at, u.id
        FROM public.usage_history u
        WHERE coalesce(u."window", 'primary') = kind AND u.account_id = a.id
        ORDER BY u.recorded_at DESC, u.id DESC
        LIMIT 1
    ) u
    ORDER BY u.recorded_at DESC, u.id DESC
    LIMIT 1
) long ON true
UNION ALL
SELECT account_name, dialect, status, image_enabled, image_max_concurrency, base_url, api_version,
       deployments, credential, client_version, responses_model, codex_route,
       proxy_url, proxy_username, proxy_password, routing_weight,
       used_percent_primary, used_percent_secondary, same_account_retries,
       blocked_until, last_error, fails_free
FROM accounts own
-- A name means one account.  What codex-lb assigns to a key are its accounts, so those keep the name.
WHERE NOT EXISTS (SELECT FROM public.accounts a WHERE a.id = own.account_name);

CREATE OR REPLACE VIEW image_gateway.warnings AS
SELECT format('codex-lb''s firewall admits listed addresses only (%s of them), the gateway admits all:'
              ' restrict them in front of it', count(*)) AS warning
FROM public.api_firewall_allowlist
HAVING count(*) > 0
UNION ALL
SELECT 'codex-lb serves calls without a key (its API key authentication is off); the gateway refuses'
       ' them'
FROM public.dashboard_settings
WHERE id = 1 AND NOT api_key_auth_enabled
UNION ALL
SELECT format('a limit for one image model that is used up ends pictures of all models in the gateway;'
              ' API keys with such limits: %s', count(DISTINCT api_key_id))
FROM public.api_key_limits
WHERE is_image_model(model_filter)
HAVING count(*) > 0;

-- -- Charging -------------------------------------------------------------------------------------

-- What codex-lb charges for the tokens of every image model (app/core/usage/pricing.py), in USD.
CREATE OR REPLACE FUNCTION picture_price(tokens jsonb) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (5 * greatest(token_count(tokens, 'input') - token_count(tokens, 'cached_input'), 0)
            + 2 * token_count(tokens, 'cached_input')
            + 30 * token_count(tokens, 'output')) / 1000000.0;

-- How long a limit's window is; for one that is not known: longer than any call is charged late.
CREATE OR REPLACE FUNCTION window_length(name text) RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE name WHEN '5h' THEN interval '5 hours'
                     WHEN 'daily' THEN interval '1 day'
                     WHEN 'weekly' THEN interval '7 days'
                     WHEN '7d' THEN interval '7 days'
                     WHEN 'monthly' THEN interval '30 days'
                     ELSE interval '401 days' END;

-- Charges a call: 'charged', 'charged_before', 'too_old' or 'unknown_key'.
CREATE OR REPLACE FUNCTION image_gateway.charge(
    request_id text, key_id text, at timestamptz, model text, account_name text, tokens jsonb,
    images integer, cost numeric
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    called_at timestamp := charge.at AT TIME ZONE 'UTC';
    present timestamp := now() AT TIME ZONE 'UTC';
    pictures integer := greatest(coalesce(charge.images, 0), 0);
    -- No call costs more than a million dollars.  Calls over a Codex subscription have no price, and
    -- codex-lb charges them what it has for pictures; so does this, if their tokens are known.
    dollars numeric := CASE
        -- Rounded, because a number too close to zero is out of double precision's range.
        WHEN charge.cost <> 'NaN' THEN round(least(greatest(charge.cost, 0), 1000000), 12)
        WHEN is_image_model(charge.model) THEN nullif(picture_price(charge.tokens), 0) END;
    result text;
BEGIN
    IF NOT EXISTS (SELECT FROM public.api_keys k WHERE k.id = charge.key_id) THEN
        RETURN 'unknown_key';
    END IF;
    result := note_charge(charge.request_id, charge.key_id, charge.at, charge.model,
                          charge.account_name, charge.tokens, pictures, dollars);
    IF result <> 'charged' THEN
        RETURN result;
    END IF;
    -- Two charges of a key that lock its limits in different orders would wait for each other.
    PERFORM FROM public.api_key_limits l
    WHERE l.api_key_id = charge.key_id ORDER BY l.id FOR NO KEY UPDATE;
    -- A limit whose reset_at is past is set to 0 when codex-lb next looks at it.  A call from before
    -- the limit's window, which codex-lb has reset since, does not count for it.
    UPDATE public.api_key_limits l
    SET current_value = l.current_value + CASE l.limit_type::text
            WHEN 'total_tokens' THEN token_count(charge.tokens, 'total')
            WHEN 'input_tokens' THEN token_count(charge.tokens, 'input')
            WHEN 'output_tokens' THEN token_count(charge.tokens, 'output')
            ELSE trunc(coalesce(dollars, 0) * 1000000)::bigint END
    WHERE l.api_key_id = charge.key_id
      AND l.limit_type::text IN ('total_tokens', 'input_tokens', 'output_tokens', 'cost_usd')
      AND (l.model_filter IS NULL OR l.model_filter = charge.model)
      AND l.reset_at >= present
      AND (l.reset_at <= called_at + window_length(l.limit_window::text)
           OR l.reset_at > present + window_length(l.limit_window::text));
    INSERT INTO public.request_logs (account_id, api_key_id, request_id, requested_at, model,
                                     useragent, input_tokens, output_tokens, cached_input_tokens,
                                     cost_usd, status)
    SELECT (SELECT a.id FROM public.accounts a WHERE a.id = charge.account_name), charge.key_id,
           charge.request_id, called_at, coalesce(charge.model, ''), 'image-gateway',
           least(token_count(charge.tokens, 'input'), 2147483647)::integer,
           least(token_count(charge.tokens, 'output'), 2147483647)::integer,
           least(token_count(charge.tokens, 'cached_input'), 2147483647)::integer,
           dollars::double precision, 'success';
    IF pictures > 0 THEN
        UPDATE key_options o SET images_remaining = o.images_remaining - pictures
        WHERE o.key_id = charge.key_id AND o.images_remaining IS NOT NULL;
    END IF;
    RETURN result;
END
$$;
REVOKE ALL ON FUNCTION image_gateway.charge FROM PUBLIC;

-- -- Triggers on the adapter's own tables ---------------------------------------------------------

CREATE OR REPLACE FUNCTION refuse_taken_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.accounts a WHERE a.id = NEW.account_name) THEN
        RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
            'the account name "%s" is the id of an account of codex-lb; use another',
            NEW.account_name);
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER refuse_taken_name
    BEFORE INSERT OR UPDATE OF account_name ON accounts
    FOR EACH ROW EXECUTE FUNCTION refuse_taken_name();
CREATE OR REPLACE TRIGGER tell_key_accounts
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON key_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');

COMMIT;
