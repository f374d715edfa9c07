-- sub2api as the control plane of the image gateway: the contract (schema image_gateway) as views
-- over its tables (schema public), and tables of its own (schema image_adapter) for settings that
-- sub2api does not have.  It changes no column and no row of sub2api; it adds one index, on
-- api_keys, because sub2api keeps the keys themselves and not their hashes.  It may be run again.
--
-- Run it on sub2api's database, as the owner of sub2api's tables; then reader.sql.
-- sub2api_notify.sql is optional.  image_gateway.charge alone writes to sub2api's tables, for the
-- role of charger.sql.  Postgres refuses a migration of sub2api that drops a column read here or
-- alters its type: drop the views, migrate, run this file again, and reader.sql for its grants.
--
-- What only newer versions of sub2api have is read as to_jsonb(row) -> 'column', so that it may be
-- missing.  A JSON value of the wrong type never fails a view: it counts as absent, or takes its own
-- account or key out of service, so that one odd row never affects the others.

BEGIN;

-- The index waits for sub2api's running writes and blocks later ones.
SET LOCAL lock_timeout = '5s';

SET LOCAL image_gateway.title = 'sub2api';
SET LOCAL image_gateway.needed = '{
    "api_keys": ["id", "user_id", "key", "name", "group_id", "status", "ip_whitelist",
        "ip_blacklist", "quota", "quota_used", "expires_at", "rate_limit_5h",
        "rate_limit_1d", "rate_limit_7d", "usage_5h", "usage_1d", "usage_7d",
        "window_5h_start", "window_1d_start", "window_7d_start", "updated_at",
        "deleted_at"],
    "users": ["id", "balance", "concurrency", "status", "updated_at", "deleted_at"],
    "groups": ["id", "rate_multiplier", "is_exclusive", "status", "platform",
        "subscription_type", "daily_limit_usd", "weekly_limit_usd", "monthly_limit_usd",
        "image_price_2k", "deleted_at"],
    "user_allowed_groups": ["user_id", "group_id"],
    "user_group_rate_multipliers": ["user_id", "group_id", "rate_multiplier"],
    "user_subscriptions": ["id", "user_id", "group_id", "expires_at", "status",
        "daily_window_start", "weekly_window_start", "monthly_window_start",
        "daily_usage_usd", "weekly_usage_usd", "monthly_usage_usd", "updated_at",
        "deleted_at"],
    "accounts": ["id", "name", "platform", "type", "credentials", "extra", "proxy_id",
        "concurrency", "priority", "rate_multiplier", "status", "error_message",
        "expires_at", "auto_pause_on_expired", "schedulable", "rate_limit_reset_at",
        "overload_until", "temp_unschedulable_until", "updated_at", "deleted_at"],
    "account_groups": ["account_id", "group_id", "priority"],
    "proxies": ["id", "protocol", "host", "port", "username", "password", "status",
        "deleted_at"],
    "usage_billing_dedup": ["request_id", "api_key_id", "request_fingerprint"],
    "usage_billing_dedup_archive": ["request_id", "api_key_id"],
    "usage_logs": ["user_id", "api_key_id", "account_id", "request_id", "model",
        "requested_model", "group_id", "subscription_id", "input_tokens",
        "output_tokens", "cache_read_tokens", "total_cost", "actual_cost",
        "rate_multiplier", "account_rate_multiplier", "billing_type", "image_count",
        "image_size", "created_at"],
    "scheduler_outbox": ["event_type", "account_id"]
}';
SET LOCAL image_gateway.cure =
    'In the database of a sub2api, run a sub2api of March 2026 or later, which migrates'
    ' its database when it starts';
\ir ../parts/requirements.sql

-- Spelled out as hash_of has it, and not a call of it: so it needs nothing of the adapter, and a dump
-- of sub2api's tables alone can be restored.
DO $$
BEGIN
    IF to_regclass('public.image_adapter_key_hash') IS NULL THEN
        CREATE INDEX image_adapter_key_hash ON public.api_keys
            (encode(sha256(decode(replace(key, '\', '\\'), 'escape')), 'hex'));
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format(
        'the role %I may not index api_keys; run this file as the owner of sub2api''s tables.',
        current_user);
END
$$;

CREATE SCHEMA IF NOT EXISTS image_adapter;
CREATE SCHEMA IF NOT EXISTS image_gateway;
SET LOCAL search_path = image_adapter, pg_temp;
SET LOCAL image_gateway.plane = 'sub2api';

\ir ../parts/version.sql
\ir ../parts/accounts.sql
\ir ../parts/charges.sql
\ir ../parts/reading.sql
\ir ../parts/key_options.sql
\ir ../parts/account_options.sql

-- -- The adapter's own tables ---------------------------------------------------------------------

-- Which groups may make images, for a sub2api whose groups have no allow_image_generation; where
-- they have it, that is the rule.  A group without a row may not.  OpenAI groups that exist at the
-- first run may; every later group starts without the right.
DO $$
BEGIN
    IF to_regclass('image_adapter.groups') IS NULL THEN
        CREATE TABLE image_adapter.groups (
            group_id                text PRIMARY KEY,
            allow_image_generation  boolean NOT NULL DEFAULT false
        );
        INSERT INTO image_adapter.groups (group_id, allow_image_generation)
        SELECT g.id::text, g.platform = 'openai'
        FROM public.groups g
        WHERE NOT to_jsonb(g) ? 'allow_image_generation';
    END IF;
END
$$;

-- Which of the adapter's accounts the keys of a group may use besides the group's own.  As in
-- sub2api, a key without a group uses the accounts that are in no group.
CREATE TABLE IF NOT EXISTS group_accounts (
    group_id      text NOT NULL,
    account_name  text NOT NULL REFERENCES accounts ON UPDATE CASCADE ON DELETE CASCADE,
    PRIMARY KEY (group_id, account_name)
);

-- The models for which the patterns of a model_mapping stand.
CREATE TABLE IF NOT EXISTS image_models (
    model  text PRIMARY KEY CHECK (model <> '')
);
INSERT INTO image_models (model)
VALUES ('gpt-image-2.6-sunburst'), ('gpt-image-2.6-flare'), ('gpt-image-2.5-sunburst'),
       ('gpt-image-2.5-flare'), ('gpt-image-2'), ('chatgpt-image-latest'), ('gpt-image-1.5'),
       ('gpt-image-1-mini'), ('gpt-image-1')
ON CONFLICT DO NOTHING;

-- What sub2api keeps in its own configuration; one row.  A simple sub2api has no money, no
-- subscriptions, and the accounts of all groups for each key.
CREATE TABLE IF NOT EXISTS options (
    is_only   boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    run_mode  text NOT NULL DEFAULT 'standard' CHECK (run_mode IN ('standard', 'simple'))
);
INSERT INTO options DEFAULT VALUES ON CONFLICT DO NOTHING;

-- -- sub2api's rules ------------------------------------------------------------------------------

-- The name of one of sub2api's accounts; its own name may be that of others, too.
CREATE OR REPLACE FUNCTION account_label(id bigint, name text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN id::text || ':' || name;

-- A number in JSON, also one that is written as a text, as sub2api reads it; null if there is none.
-- Here and below not \d, which in a database with ICU's collation means the digits of any script.
CREATE OR REPLACE FUNCTION amount_at(document jsonb, name text) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN jsonb_typeof(document -> name) = 'number'
                  OR document ->> name ~ '^[+-]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?$'
                THEN (document ->> name)::numeric END;

-- Whether a key's windows allow a call; one that is over, or has never begun, does.  The body is a
-- text, so that it depends on no column, and uses nothing of this schema, which the reader may not
-- look into.
CREATE OR REPLACE FUNCTION windows_allow(k public.api_keys) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (k.rate_limit_5h <= 0 OR k.usage_5h < k.rate_limit_5h
            OR coalesce(k.window_5h_start <= now() - interval '5 hours', true))
       AND (k.rate_limit_1d <= 0 OR k.usage_1d < k.rate_limit_1d
            OR coalesce(k.window_1d_start <= now() - interval '24 hours', true))
       AND (k.rate_limit_7d <= 0 OR k.usage_7d < k.rate_limit_7d
            OR coalesce(k.window_7d_start <= now() - interval '7 days', true))
$$;

-- Whether a subscription's windows allow a call; sub2api still allows one at the limit itself.
CREATE OR REPLACE FUNCTION plan_allows(s public.user_subscriptions, g public.groups)
    RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (coalesce(g.daily_limit_usd, 0) <= 0 OR s.daily_usage_usd <= g.daily_limit_usd
            OR coalesce(s.daily_window_start <= now() - interval '24 hours', true))
       AND (coalesce(g.weekly_limit_usd, 0) <= 0 OR s.weekly_usage_usd <= g.weekly_limit_usd
            OR coalesce(s.weekly_window_start <= now() - interval '7 days', true))
       AND (coalesce(g.monthly_limit_usd, 0) <= 0 OR s.monthly_usage_usd <= g.monthly_limit_usd
            OR coalesce(s.monthly_window_start <= now() - interval '30 days', true))
$$;

-- Whether a window ('daily', 'weekly') of an account's quota is over.  One of fixed hours ends at
-- its reset_at, unless it has begun anew since.
CREATE OR REPLACE FUNCTION quota_window_is_over(extra jsonb, window_name text, span interval)
    RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (
        SELECT CASE WHEN text_at(extra, 'quota_' || window_name || '_reset_mode') = 'fixed'
                     AND ends IS NOT NULL
                    THEN ends <= now() AND coalesce(began < ends, true)
                    ELSE coalesce(began <= now() - span, true) END
        FROM (SELECT moment_of(text_at(extra, 'quota_' || window_name || '_start')) AS began,
                     moment_of(text_at(extra, 'quota_' || window_name || '_reset_at')) AS ends
             ) AS times
    );

-- Whether the quota of an account with an API key allows a call.
CREATE OR REPLACE FUNCTION quota_allows(extra jsonb) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (
        SELECT bool_and(coalesce(amount_at(extra, prefix || 'limit'), 0) <= 0
                        OR coalesce(amount_at(extra, prefix || 'used'), 0)
                           < amount_at(extra, prefix || 'limit')
                        OR span IS NOT NULL AND quota_window_is_over(extra, window_name, span))
        FROM (VALUES ('quota_', NULL, NULL),
                     ('quota_daily_', 'daily', interval '24 hours'),
                     ('quota_weekly_', 'weekly', interval '7 days')
             ) AS quotas (prefix, window_name, span)
    );

-- How much of a Codex window ('5h', '7d') is used, in per cent; 0 if the window is over.
CREATE OR REPLACE FUNCTION codex_used(extra jsonb, window_name text) RETURNS double precision
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (
        SELECT CASE WHEN used > 0 AND ends <= now() THEN 0 ELSE used END
        FROM (SELECT percent(amount_at(extra, 'codex_' || window_name || '_used_percent')) AS used,
                     coalesce(
                         moment_of(text_at(extra, 'codex_' || window_name || '_reset_at')),
                         moment_of(
                             extract(epoch FROM moment_of(text_at(extra, 'codex_usage_updated_at')))
                             + amount_at(extra, 'codex_' || window_name || '_reset_after_seconds'))
                     ) AS ends
             ) AS seen
    );

-- The URL of a proxy; null if its row does not make one.
CREATE OR REPLACE FUNCTION proxy_url(protocol text, host text, port integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN lower(protocol) NOT IN ('http', 'https', 'socks5', 'socks5h')
                  OR port NOT BETWEEN 1 AND 65535 THEN NULL
                WHEN host ~ '^[A-Za-z0-9._-]+$'
                THEN lower(protocol) || '://' || host || ':' || port::text
                WHEN host ~ '^\[?[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\]?$'
                THEN lower(protocol) || '://[' || btrim(host, '[]') || ']:' || port::text END;

-- Whether a name is that of an image model of OpenAI, also with a vendor before it.
CREATE OR REPLACE FUNCTION is_image_model(name text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN lower(name) ~ '^\s*(.*/)?\s*(chat)?gpt-image-';

-- A view calls functions with the rights of the role that reads it.
GRANT EXECUTE ON FUNCTION account_label, amount_at, windows_allow, plan_allows,
    quota_window_is_over, quota_allows, codex_used, proxy_url,
    is_image_model TO PUBLIC;

-- -- Views ----------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION image_gateway.contract_version() RETURNS integer
    LANGUAGE sql IMMUTABLE AS 'SELECT 2';

CREATE OR REPLACE VIEW image_gateway.keys AS
SELECT hash_of(k.key) AS key_hash,
       k.id::text AS key_id,
       k.name::text AS key_name,
       -- Neither time nor money: expires_at and the quotas act to the second.
       CASE WHEN g.platform <> 'openai' THEN 'other_provider'
            WHEN k.status NOT IN ('active', 'quota_exhausted') THEN k.status::text
            -- The gateway does not know sub2api's lists of addresses, so the key must not be served.
            WHEN k.ip_whitelist NOT IN ('null', '[]') OR k.ip_blacklist NOT IN ('null', '[]')
            THEN 'ip_restricted'
            WHEN u.deleted_at IS NOT NULL OR u.status IS DISTINCT FROM 'active'
            THEN 'user_inactive'
            WHEN k.group_id IS NOT NULL
             AND (g.deleted_at IS NOT NULL OR g.status IS DISTINCT FROM 'active')
            THEN 'group_disabled'
            -- Who may use a group of subscriptions is said by the subscriptions.
            WHEN g.is_exclusive AND g.subscription_type <> 'subscription'
             AND NOT EXISTS (SELECT FROM public.user_allowed_groups allowed
                             WHERE allowed.user_id = k.user_id AND allowed.group_id = k.group_id)
            THEN 'group_not_allowed'
            WHEN way.by_plan AND s.id IS NULL THEN 'no_subscription'
            ELSE 'active' END AS status,
       coalesce(o.image_enabled, true) AS image_enabled,
       k.group_id::text AS group_id,
       k.group_id IS NULL
           OR CASE WHEN way.newer_group ? 'allow_image_generation'
                   THEN way.newer_group -> 'allow_image_generation' = 'true'
                   ELSE coalesce(i.allow_image_generation, false) END AS group_image_enabled,
       NULL::bigint AS quota_remaining,
       o.max_concurrency,
       o.min_start_interval_ms,
       NULL::text[] AS allowed_models,
       NULL::jsonb AS model_map,
       chosen.names AS account_names,
       'auto' AS route_strategy,
       least(k.expires_at, s.expires_at) AS expires_at,
       way.is_simple
           OR k.status <> 'quota_exhausted' AND windows_allow(k)
              AND coalesce(s.allows, true) AS quota_allows,
       o.images_remaining,
       -- NaN, which these columns could hold, is no money.
       CASE WHEN NOT way.is_simple THEN least(
           CASE WHEN k.quota > 0 THEN coalesce(nullif(k.quota - k.quota_used, 'NaN'), 0) END,
           CASE WHEN NOT way.by_plan THEN coalesce(nullif(u.balance, 'NaN'), 0) END
       ) END AS cost_remaining,
       k.user_id::text AS owner_id,
       CASE WHEN u.concurrency > 0 THEN u.concurrency END AS owner_max_concurrency,
       o.json_keepalive_seconds
FROM public.api_keys k
LEFT JOIN public.users u ON u.id = k.user_id
LEFT JOIN public.groups g ON g.id = k.group_id
LEFT JOIN groups i ON i.group_id = k.group_id::text
LEFT JOIN key_options o ON o.key_id = k.id::text
-- The planner assumes hundreds of rows in a new table; LIMIT tells it that there is one.
LEFT JOIN (SELECT run_mode FROM options LIMIT 1) mode ON true
-- OFFSET keeps the planner from doing this once for each use, and each account.
CROSS JOIN LATERAL (
    SELECT coalesce(mode.run_mode = 'simple', false) AS is_simple,
           coalesce(g.subscription_type = 'subscription', false)
               AND mode.run_mode IS DISTINCT FROM 'simple' AS by_plan,
           to_jsonb(g) AS newer_group,
           coalesce(to_jsonb(g) -> 'require_oauth_only' = 'true', false) AS only_oauth,
           coalesce(to_jsonb(g) -> 'require_privacy_set' = 'true', false) AS only_private
    OFFSET 0
) way
CROSS JOIN LATERAL (
    SELECT CASE WHEN NOT way.is_simple THEN ARRAY(
        SELECT account_label(a.id, a.name)
        FROM (SELECT ag.account_id, ag.priority
              FROM public.account_groups ag
              WHERE ag.group_id = k.group_id
              UNION ALL
              SELECT lone.id, NULL
              FROM public.accounts lone
              WHERE k.group_id IS NULL
                AND NOT EXISTS (SELECT FROM public.account_groups ag
                                WHERE ag.account_id = lone.id)
             ) linked
        JOIN public.accounts a ON a.id = linked.account_id
        WHERE a.platform = 'openai' AND a.deleted_at IS NULL
          AND NOT (way.only_oauth AND a.type = 'apikey')
          AND NOT (way.only_private
                   AND text_at(a.extra, 'privacy_mode') IS DISTINCT FROM 'training_off')
        ORDER BY linked.priority, a.priority, a.id
    ) || ARRAY(
        SELECT e.account_name
        FROM group_accounts e
        WHERE e.group_id = k.group_id::text
        UNION ALL
        SELECT own.account_name
        FROM accounts own
        WHERE k.group_id IS NULL
          AND NOT EXISTS (SELECT FROM group_accounts e WHERE e.account_name = own.account_name)
        ORDER BY 1
    ) END AS names
    OFFSET 0
) chosen
LEFT JOIN LATERAL (
    SELECT s.id, s.expires_at, plan_allows(s, g) AS allows
    FROM public.user_subscriptions s
    WHERE s.user_id = k.user_id AND s.group_id = k.group_id
      AND s.status = 'active' AND s.deleted_at IS NULL
    ORDER BY s.expires_at DESC, s.id
    LIMIT 1
) s ON way.by_plan
WHERE k.deleted_at IS NULL;

CREATE OR REPLACE VIEW image_gateway.accounts AS
SELECT account_label(a.id, a.name) AS account_name,
       CASE a.type WHEN 'oauth' THEN 'codex' ELSE 'openai' END AS dialect,
       CASE WHEN a.status <> 'active' THEN a.status::text
            WHEN NOT a.schedulable THEN 'not_schedulable'
            WHEN a.type NOT IN ('oauth', 'apikey') THEN 'unsupported_type'
            WHEN a.auto_pause_on_expired AND a.expires_at <= now() THEN 'expired'
            WHEN a.type = 'apikey' AND NOT quota_allows(a.extra) THEN 'quota_exhausted'
            WHEN signed.credential IS NULL THEN 'no_credential'
            -- It would be OpenAI's own, which may not see another vendor's key.
            WHEN jsonb_typeof(a.credentials -> 'base_url') NOT IN ('string', 'null')
            THEN 'base_url_unreadable'
            -- An account whose proxy is missing must not connect without it.
            WHEN a.proxy_id IS NOT NULL AND way.url IS NULL THEN 'proxy_unavailable'
            ELSE 'active' END AS status,
       coalesce(o.image_enabled, true) AS image_enabled,
       coalesce(o.image_max_concurrency, least(greatest(a.concurrency, 1), 1024))
           AS image_max_concurrency,
       CASE WHEN a.type <> 'oauth' THEN openai_base(text_at(a.credentials, 'base_url')) END
           AS base_url,
       NULL::text AS api_version,
       served.deployments,
       signed.credential,
       NULL::text AS client_version,
       o.responses_model,
       o.codex_route,
       way.url AS proxy_url,
       -- sub2api uses them only if both are there.
       CASE WHEN way.url <> '' AND p.username <> '' AND p.password <> ''
            THEN p.username::text END AS proxy_username,
       CASE WHEN way.url <> '' AND p.username <> '' AND p.password <> ''
            THEN p.password::text END AS proxy_password,
       -- sub2api asks accounts of a lower priority only when those of a higher one are full: a
       -- factor that no load makes up for.
       coalesce(o.routing_weight, power(1e-6::double precision, least(a.tier - 1, 40))) AS routing_weight,
       CASE WHEN a.type = 'oauth' THEN codex_used(a.extra, '5h') END AS used_percent_primary,
       CASE WHEN a.type = 'oauth' THEN codex_used(a.extra, '7d') END AS used_percent_secondary,
       coalesce(o.same_account_retries, CASE
           WHEN a.type = 'apikey' AND a.credentials -> 'pool_mode' = 'true'
           THEN least(greatest(trunc(coalesce(
               amount_at(a.credentials, 'pool_mode_retry_count'), 3)), 0), 10)::integer
       END) AS same_account_retries,
       greatest(a.rate_limit_reset_at, a.overload_until, a.temp_unschedulable_until,
                moment_of(text_at(a.extra, 'model_rate_limits', 'openai:image_generation',
                                  'rate_limit_reset_at'))) AS blocked_until,
       a.error_message AS last_error,
       o.fails_free
FROM (
    SELECT id, name, type, credentials, extra, proxy_id, concurrency, status, error_message,
           expires_at, auto_pause_on_expired, schedulable, rate_limit_reset_at, overload_until,
           temp_unschedulable_until, dense_rank() OVER (ORDER BY priority) AS tier
    FROM public.accounts
    WHERE platform = 'openai' AND deleted_at IS NULL
) a
-- By sub2api's id alone, so that an account that is renamed there keeps its options.  Of two rows
-- the one that is off counts.
LEFT JOIN (
    SELECT DISTINCT ON (split_part(account_name, ':', 1))
           split_part(account_name, ':', 1) AS account_id, account_options.*
    FROM account_options
    ORDER BY split_part(account_name, ':', 1), image_enabled, account_name
) o ON o.account_id = a.id::text
LEFT JOIN public.proxies p
    ON p.id = a.proxy_id AND p.status = 'active' AND p.deleted_at IS NULL
   AND coalesce(moment_of(to_jsonb(p) ->> 'expires_at') > now(), true)
CROSS JOIN LATERAL (
    SELECT CASE WHEN strpos(p.username, ':') > 0 THEN NULL
                ELSE proxy_url(btrim(p.protocol), btrim(p.host), p.port) END AS url
) way
-- Only what a call needs: the refresh token stays in sub2api.
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN a.type = 'oauth' AND text_at(a.credentials, 'access_token') IS NOT NULL
        THEN jsonb_strip_nulls(jsonb_build_object(
            'access_token', text_at(a.credentials, 'access_token'),
            'account_id', text_at(a.credentials, 'chatgpt_account_id')))
        WHEN a.type = 'apikey' AND text_at(a.credentials, 'api_key') IS NOT NULL
        THEN jsonb_build_object('api_key', text_at(a.credentials, 'api_key'))
    END AS credential
) signed
-- What can be read of a model_mapping; null if nothing can, which sub2api takes for none.
CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(name, target) AS names
    FROM jsonb_each(CASE WHEN jsonb_typeof(a.credentials -> 'model_mapping') = 'object'
                         THEN a.credentials -> 'model_mapping' ELSE '{}' END) AS e (name, target)
    WHERE jsonb_typeof(target) = 'string'
) mapping
-- A mapping serves its own names alone: those of image models, also by another name, and the image
-- models that a pattern (a star at its end) fits, the longest first.
CROSS JOIN LATERAL (
    SELECT CASE WHEN mapping.names IS NOT NULL
                THEN coalesce(jsonb_object_agg(model, target) FILTER (WHERE target <> ''), '{}')
           END AS deployments
    FROM (SELECT name AS model, target
          FROM jsonb_each_text(mapping.names) AS e (name, target)
          WHERE name !~ '\*$' AND (is_image_model(name) OR is_image_model(target)
                                   OR EXISTS (SELECT FROM image_models m
                                              WHERE m.model IN (name, target)))
          UNION ALL
          SELECT m.model, (
              SELECT target
              FROM jsonb_each_text(mapping.names) AS e (name, target)
              WHERE name ~ '\*$' AND starts_with(m.model, left(name, -1))
              ORDER BY length(name) DESC, name COLLATE "C"
              LIMIT 1)
          FROM image_models m
          WHERE NOT mapping.names ? m.model
         ) AS named
) served
UNION ALL
SELECT account_name, dialect, status, image_enabled, image_max_concurrency, base_url, api_version,
       deployments, credential, client_version, responses_model, codex_route,
       proxy_url, proxy_username, proxy_password, routing_weight,
       used_percent_primary, used_percent_secondary, same_account_retries,
       blocked_until, last_error, fails_free
FROM accounts
-- A name means one account.
WHERE account_name !~ '^[0-9]+:';

-- What the views cannot see; `image-gateway check` says it.
CREATE OR REPLACE VIEW image_gateway.warnings AS
SELECT 'sub2api counts the calls of users and accounts in Redis: the gateway counts pictures beside'
    || ' them, so that a user or an account may have as many of both in flight.' AS warning
UNION ALL
SELECT 'The requests per minute (rpm_limit) of users and groups are not limited here, because'
    || ' sub2api counts them in Redis.'
WHERE EXISTS (SELECT FROM public.groups g WHERE (to_jsonb(g) ->> 'rpm_limit') <> '0')
   OR EXISTS (SELECT FROM public.users u WHERE (to_jsonb(u) ->> 'rpm_limit') <> '0')
UNION ALL
SELECT format('Keys with lists of IP addresses: %s; the gateway refuses them (ip_restricted), because'
              ' it does not look at addresses.', count(*))
FROM image_gateway.keys
WHERE status = 'ip_restricted'
HAVING count(*) > 0
UNION ALL
-- A call over a Codex account has no cost of its own.
SELECT format('The pictures of these groups are charged nothing where a Codex account makes them,'
              ' because they have no image_price_2k: %s.', left(string_agg(g.name, ', ' ORDER BY g.name), 500))
FROM public.groups g
WHERE g.deleted_at IS NULL AND g.platform = 'openai' AND g.image_price_2k IS NULL
  AND (to_jsonb(g) ->> 'allow_image_generation') IS DISTINCT FROM 'false'
  AND EXISTS (SELECT FROM public.account_groups link
              JOIN public.accounts a ON a.id = link.account_id
              WHERE link.group_id = g.id AND a.deleted_at IS NULL
                AND a.platform = 'openai' AND a.type = 'oauth')
HAVING count(*) > 0;

-- -- Usage ----------------------------------------------------------------------------------------

-- A window after a charge: one that is over, or has never begun, begins again.  A call that is older
-- than the window is long leaves it as it is.
CREATE OR REPLACE FUNCTION charged_window(
    used numeric, began timestamptz, span interval, begins timestamptz, at timestamptz,
    cost numeric, OUT used_now numeric, OUT begins_now timestamptz
) LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN at <= now() - span THEN used
                WHEN began > now() - span THEN used + cost
                ELSE cost END,
           CASE WHEN at <= now() - span OR began > now() - span THEN began ELSE begins END
$$;

-- The quota in an account's extra after a charge, as sub2api writes it.
CREATE OR REPLACE FUNCTION charged_quota(extra jsonb, at timestamptz, cost numeric) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT extra
        || jsonb_build_object('quota_used', coalesce(amount_at(extra, 'quota_used'), 0) + cost)
        || coalesce(jsonb_object_agg(prefix || 'used',
               CASE WHEN quota_window_is_over(extra, window_name, span) THEN 0
                    ELSE coalesce(amount_at(extra, prefix || 'used'), 0) END + cost)
           FILTER (WHERE counts), '{}')
        || coalesce(jsonb_object_agg(prefix || 'start',
               to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
           FILTER (WHERE counts AND quota_window_is_over(extra, window_name, span)), '{}')
    FROM (SELECT *, amount_at(extra, prefix || 'limit') > 0 AND at > now() - span AS counts
          FROM (VALUES ('quota_daily_', 'daily', interval '24 hours'),
                       ('quota_weekly_', 'weekly', interval '7 days')
               ) AS windows (prefix, window_name, span)) AS quotas
$$;

-- Charges a call in sub2api's books: 'charged', 'charged_before', 'too_old' or 'unknown_key'.  What
-- a picture costs is the group's price of one in 2K, the size that sub2api takes for one that it
-- does not know; without such a price it is the cost that the gateway knows.  Rows are locked in
-- sub2api's own order.
CREATE OR REPLACE FUNCTION image_gateway.charge(
    request_id text, key_id text, at timestamptz, model text, account_name text, tokens jsonb,
    images integer, cost numeric
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    pictures integer := greatest(coalesce(charge.images, 0), 0);
    -- Null if it is not known, or no number.
    known_cost numeric := CASE WHEN charge.cost < 'NaN'
                               THEN greatest(charge.cost, 0) END;
    -- A request id of sub2api's own begins otherwise.  usage_logs holds 64 characters.
    mark text := 'image:' || charge.request_id;
    called public.api_keys;
    called_group public.groups;
    is_simple boolean := coalesce((SELECT o.run_mode = 'simple' FROM options o), false);
    plan_id bigint;
    used_account public.accounts;
    new_extra jsonb;
    total numeric;
    multiplier numeric;
    actual numeric;
    result text;
BEGIN
    IF charge.key_id ~ '^[0-9]{1,18}$' THEN
        SELECT k.* INTO called FROM public.api_keys k WHERE k.id = charge.key_id::bigint;
    END IF;
    IF called.id IS NULL THEN
        RETURN 'unknown_key';
    END IF;
    result := note_charge(charge.request_id, charge.key_id, charge.at, charge.model,
                          charge.account_name, charge.tokens, pictures, known_cost);
    IF result <> 'charged' THEN
        RETURN result;
    END IF;
    IF length(mark) > 64 THEN
        mark := 'image:' || left(hash_of(charge.request_id), 58);
    END IF;
    -- The adapter's own record may have been removed since sub2api's was written.
    PERFORM FROM public.usage_billing_dedup_archive d
    WHERE d.request_id = mark AND d.api_key_id = called.id;
    IF FOUND THEN
        RETURN 'charged_before';
    END IF;
    INSERT INTO public.usage_billing_dedup (request_id, api_key_id, request_fingerprint)
    VALUES (mark, called.id, hash_of(concat_ws(' ', mark, called.id)))
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'charged_before';
    END IF;

    SELECT g.* INTO called_group FROM public.groups g WHERE g.id = called.group_id;
    total := CASE WHEN called_group.image_price_2k < 'NaN'
                  THEN greatest(called_group.image_price_2k, 0) * pictures
                  ELSE coalesce(known_cost, 0) END;
    multiplier := coalesce(
        CASE WHEN to_jsonb(called_group) -> 'image_rate_independent' = 'true'
             THEN amount_at(to_jsonb(called_group), 'image_rate_multiplier') END,
        (SELECT m.rate_multiplier FROM public.user_group_rate_multipliers m
         WHERE m.user_id = called.user_id AND m.group_id = called.group_id),
        called_group.rate_multiplier, 1);
    multiplier := greatest(coalesce(nullif(multiplier, 'NaN'), 1), 0);
    actual := total * multiplier;
    IF NOT is_simple AND called_group.subscription_type = 'subscription' THEN
        SELECT s.id INTO plan_id
        FROM public.user_subscriptions s
        WHERE s.user_id = called.user_id AND s.group_id = called.group_id
        -- One that was deleted since the call pays, too: the balance was never to pay for it.
        ORDER BY s.deleted_at IS NULL DESC, s.status = 'active' DESC, s.expires_at DESC, s.id
        LIMIT 1;
    END IF;
    -- The name of another account begins otherwise (refuse_taken_name).
    IF charge.account_name ~ '^[0-9]{1,18}:' THEN
        SELECT a.* INTO used_account
        FROM public.accounts a
        WHERE a.id = split_part(charge.account_name, ':', 1)::bigint;
    END IF;

    -- Each number is changed where it lies: sub2api may change the same row at the same time.
    IF NOT is_simple AND total > 0 THEN
        IF plan_id IS NOT NULL THEN
            UPDATE public.user_subscriptions s
            SET (daily_usage_usd, daily_window_start) = (
                    SELECT w.* FROM charged_window(s.daily_usage_usd, s.daily_window_start,
                        '24 hours', date_trunc('day', now()), charge.at, total) w),
                (weekly_usage_usd, weekly_window_start) = (
                    SELECT w.* FROM charged_window(s.weekly_usage_usd, s.weekly_window_start,
                        '7 days', date_trunc('day', now()), charge.at, total) w),
                (monthly_usage_usd, monthly_window_start) = (
                    SELECT w.* FROM charged_window(s.monthly_usage_usd, s.monthly_window_start,
                        '30 days', date_trunc('day', now()), charge.at, total) w),
                updated_at = now()
            WHERE s.id = plan_id;
        ELSE
            UPDATE public.users u SET balance = u.balance - actual, updated_at = now()
            WHERE u.id = called.user_id;
        END IF;
        UPDATE public.api_keys k
        SET quota_used = k.quota_used + CASE WHEN k.quota > 0 THEN actual ELSE 0 END,
            status = CASE WHEN k.quota > 0 AND k.status = 'active'
                           AND k.quota_used + actual >= k.quota
                          THEN 'quota_exhausted' ELSE k.status END,
            updated_at = now()
        WHERE k.id = called.id;
        UPDATE public.api_keys k
        SET (usage_5h, window_5h_start) = (
                SELECT w.* FROM charged_window(k.usage_5h, k.window_5h_start,
                    '5 hours', now(), charge.at, actual) w),
            (usage_1d, window_1d_start) = (
                SELECT w.* FROM charged_window(k.usage_1d, k.window_1d_start,
                    '24 hours', date_trunc('day', now()), charge.at, actual) w),
            (usage_7d, window_7d_start) = (
                SELECT w.* FROM charged_window(k.usage_7d, k.window_7d_start,
                    '7 days', date_trunc('day', now()), charge.at, actual) w),
            updated_at = now()
        WHERE k.id = called.id
          AND (k.rate_limit_5h > 0 OR k.rate_limit_1d > 0 OR k.rate_limit_7d > 0);
        UPDATE public.accounts a
        SET extra = charged_quota(a.extra, charge.at, total * a.rate_multiplier),
            updated_at = now()
        WHERE a.id = used_account.id AND a.type = 'apikey'
          AND (amount_at(a.extra, 'quota_limit') > 0 OR amount_at(a.extra, 'quota_daily_limit') > 0
               OR amount_at(a.extra, 'quota_weekly_limit') > 0)
        RETURNING a.extra INTO new_extra;
        -- So sub2api learns that it must not use the account any more.
        INSERT INTO public.scheduler_outbox (event_type, account_id)
        SELECT 'account_changed', used_account.id
        WHERE NOT quota_allows(new_extra) AND quota_allows(used_account.extra);
    END IF;

    -- The row names one of sub2api's accounts; a call that another account served has none.
    INSERT INTO public.usage_logs (
        user_id, api_key_id, account_id, request_id, model, requested_model, group_id,
        subscription_id, input_tokens, cache_read_tokens, output_tokens, total_cost, actual_cost,
        rate_multiplier, account_rate_multiplier, billing_type, image_count, image_size, created_at)
    SELECT called.user_id, called.id, used_account.id, mark,
           coalesce(left(charge.model, 100), ''), left(charge.model, 100), called.group_id, plan_id,
           least(greatest(token_count(charge.tokens, 'input')
                          - token_count(charge.tokens, 'cached_input'), 0), 2147483647),
           least(token_count(charge.tokens, 'cached_input'), 2147483647),
           least(token_count(charge.tokens, 'output'), 2147483647),
           total, actual, multiplier, used_account.rate_multiplier,
           CASE WHEN plan_id IS NULL THEN 0 ELSE 1 END, pictures, '2K', charge.at
    WHERE used_account.id IS NOT NULL
    ON CONFLICT DO NOTHING;
    UPDATE key_options o SET images_remaining = o.images_remaining - pictures
    WHERE o.key_id = charge.key_id;
    RETURN result;
END
$$;
REVOKE ALL ON FUNCTION charged_window, charged_quota, image_gateway.charge FROM PUBLIC;

-- -- Triggers on the adapter's own tables ---------------------------------------------------------

CREATE OR REPLACE FUNCTION refuse_taken_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.account_name ~ '^[0-9]+:' THEN
        RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
            'the account name "%s" begins like those of sub2api''s accounts (NUMBER:NAME); use'
            ' another', NEW.account_name);
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER refuse_taken_name
    BEFORE INSERT OR UPDATE OF account_name ON accounts
    FOR EACH ROW EXECUTE FUNCTION refuse_taken_name();
-- A key without a group uses the accounts that are in none.
CREATE OR REPLACE TRIGGER tell_keys_of_accounts
    AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF account_name ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');
CREATE OR REPLACE TRIGGER tell_groups
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON groups
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');
CREATE OR REPLACE TRIGGER tell_group_accounts
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON group_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');
CREATE OR REPLACE TRIGGER tell_image_models
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON image_models
    FOR EACH STATEMENT EXECUTE FUNCTION tell('accounts');
CREATE OR REPLACE TRIGGER tell_options
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON options
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');

COMMIT;
