-- llm-access as the control plane of the image gateway: the contract (schema image_gateway) as
-- views over its tables (llm_*, schema public), and tables of its own (schema image_adapter) for
-- settings that llm-access does not have.  It does not change llm-access.  It may be run again.
--
-- Run it on llm-access's database, as a role that may read the llm_* tables and create schemas;
-- then reader.sql.  llm_access_notify.sql is optional.  image_gateway.charge alone writes to a table
-- of llm-access (llm_key_usage_rollups), for the role of charger.sql.  Postgres refuses an
-- llm-access migration that drops a column read here or alters its type: drop the views, migrate,
-- run this file again, and reader.sql for its grants.
--
-- A JSON value of the wrong type never fails a view: it counts as absent, or takes its own account
-- or key out of service, so that one odd row never affects the others.

BEGIN;

-- Reports everything that an older llm-access lacks, before anything is created.
DO $$
DECLARE
    missing text;
    lacks_switches boolean;
    lacks_others boolean;
    unreadable text;
    complaint text;
BEGIN
    WITH needed (table_name, column_names) AS (
        VALUES ('llm_keys', ARRAY['key_id', 'name', 'key_hash', 'status', 'provider_type',
                                  'protocol_family', 'quota_billable_limit']),
               ('llm_key_route_config', ARRAY['key_id', 'route_strategy', 'fixed_account_name',
                                              'auto_account_names_json', 'account_group_id',
                                              'model_name_map_json', 'request_max_concurrency',
                                              'request_min_start_interval_ms',
                                              'codex_image_generation_enabled']),
               ('llm_key_usage_rollups', ARRAY['key_id', 'billable_tokens',
                                               'input_uncached_tokens', 'input_cached_tokens',
                                               'output_tokens', 'last_used_at_ms',
                                               'updated_at_ms']),
               ('llm_account_groups', ARRAY['group_id', 'provider_type', 'account_names_json']),
               ('llm_codex_accounts', ARRAY['account_name', 'account_id', 'status', 'auth_json',
                                            'settings_json', 'last_error']),
               ('llm_proxy_configs', ARRAY['proxy_config_id', 'proxy_url', 'proxy_username',
                                           'proxy_password', 'status']),
               ('llm_proxy_bindings', ARRAY['provider_type', 'proxy_config_id']),
               ('llm_codex_status_cache', ARRAY['id', 'snapshot_json']),
               ('llm_runtime_config', ARRAY['id', 'codex_client_version', 'codex_weight_free',
                                            'codex_weight_plus', 'codex_weight_pro5x',
                                            'codex_weight_pro20x'])
    ), found AS (
        SELECT table_name, column_names, to_regclass('public.' || table_name) AS relation
        FROM needed
    ), gaps AS (
        SELECT 'table ' || table_name AS gap, false AS is_switch
        FROM found
        WHERE relation IS NULL
        UNION ALL
        SELECT 'column ' || table_name || '.' || column_name,
               column_name = 'codex_image_generation_enabled'
        FROM found CROSS JOIN unnest(column_names) AS column_name
        WHERE relation IS NOT NULL
          AND NOT EXISTS (SELECT FROM pg_attribute
                          WHERE attrelid = relation AND attname = column_name
                            AND attnum > 0 AND NOT attisdropped)
    )
    SELECT string_agg(gap, ', ' ORDER BY gap), bool_or(is_switch), bool_or(NOT is_switch),
           -- The views read with their owner's rights, so a missing right would show only later.
           (SELECT string_agg(table_name, ', ' ORDER BY table_name)
            FROM found WHERE NOT has_table_privilege(relation, 'SELECT'))
    INTO missing, lacks_switches, lacks_others, unreadable
    FROM gaps;

    complaint := 'schema public lacks what this adapter reads of llm-access: ' || missing || '.';
    IF lacks_others THEN
        complaint := complaint || ' In the database of an llm-access, run all of llm-access''s'
            || ' Postgres migrations (it runs them itself when it starts), then this file again.';
    ELSIF lacks_switches THEN
        complaint := complaint || ' Run llm-access''s Postgres migrations 0030 to 0032, then this'
            || ' file again.';
    END IF;
    IF complaint IS NULL AND unreadable IS NOT NULL THEN
        complaint := format('the role %I may not read %s; as their owner, grant it SELECT on them,'
            || ' then run this file again.', current_user, unreadable);
    END IF;
    IF complaint IS NOT NULL THEN
        RAISE EXCEPTION USING MESSAGE = complaint, ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS image_adapter;
CREATE SCHEMA IF NOT EXISTS image_gateway;
SET LOCAL search_path = image_adapter, pg_temp;
SET LOCAL image_gateway.plane = 'llm_access';

\ir ../parts/version.sql
\ir ../parts/accounts.sql
\ir ../parts/charges.sql
\ir ../parts/reading.sql

-- -- The adapter's own tables ---------------------------------------------------------------------

-- Which groups may make images.  A group without a row may not.  Groups that exist at the first run
-- keep what llm-access allowed them; every later group starts without the right.
DO $$
BEGIN
    IF to_regclass('image_adapter.groups') IS NULL THEN
        CREATE TABLE image_adapter.groups (
            group_id                text PRIMARY KEY,
            allow_image_generation  boolean NOT NULL DEFAULT false
        );
        INSERT INTO image_adapter.groups (group_id, allow_image_generation)
        SELECT group_id, provider_type = 'codex' FROM public.llm_account_groups;
    END IF;
END
$$;
INSERT INTO image_adapter.groups (group_id)
SELECT group_id FROM public.llm_account_groups
ON CONFLICT DO NOTHING;

-- Which of the adapter's accounts the keys of a group may use besides the group's Codex accounts.
-- A key that may use all accounts needs no row here.
CREATE TABLE IF NOT EXISTS image_adapter.group_accounts (
    group_id      text NOT NULL,
    account_name  text NOT NULL
                  REFERENCES image_adapter.accounts ON UPDATE CASCADE ON DELETE CASCADE,
    PRIMARY KEY (group_id, account_name)
);

-- Options of Codex accounts that llm-access does not have; one row, for all of them.
CREATE TABLE IF NOT EXISTS image_adapter.codex_options (
    is_only               boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    responses_model       text,
    codex_route           text CHECK (codex_route IN ('direct', 'responses')),
    same_account_retries  integer CHECK (same_account_retries >= 0)
);
INSERT INTO image_adapter.codex_options DEFAULT VALUES ON CONFLICT DO NOTHING;

-- -- Reading JSON ---------------------------------------------------------------------------------

-- A list of account names in its order.  Null for an absent or empty list, which llm-access treats
-- alike.  An empty array for a value in which no name can be read.
CREATE OR REPLACE FUNCTION image_adapter.names(document jsonb) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN document NOT IN ('null', '[]') THEN ARRAY(
        SELECT item #>> '{}'
        FROM jsonb_array_elements(
            CASE WHEN jsonb_typeof(document) = 'array' THEN document ELSE '[]' END
        ) WITH ORDINALITY AS listed (item, place)
        WHERE jsonb_typeof(item) = 'string' AND btrim(item #>> '{}', E' \t\r\n') <> ''
        GROUP BY 1
        ORDER BY min(place)
    ) END;

-- An object of names to names; null if nothing in it can be read.
CREATE OR REPLACE FUNCTION image_adapter.name_map(document jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (
        SELECT jsonb_object_agg(key, value)
        FROM jsonb_each(CASE WHEN jsonb_typeof(document) = 'object' THEN document ELSE '{}' END)
        WHERE jsonb_typeof(value) = 'string' AND value <> '""'
    );

-- A view calls functions with the rights of the role that reads it.
GRANT EXECUTE ON FUNCTION image_adapter.names(jsonb), image_adapter.name_map(jsonb) TO PUBLIC;

-- -- Views ----------------------------------------------------------------------------------------

-- The newest budget of each Codex account in llm-access.
CREATE OR REPLACE VIEW image_adapter.budgets AS
SELECT DISTINCT ON (named.account_name)
       named.account_name,
       lower(image_adapter.text_at(entry, 'plan_type')) AS plan_type,
       100 - image_adapter.percent(
           image_adapter.number_at(entry, 'primary_remaining_percent')) AS used_percent_primary,
       100 - image_adapter.percent(
           image_adapter.number_at(entry, 'secondary_remaining_percent')) AS used_percent_secondary
FROM public.llm_codex_status_cache c
CROSS JOIN LATERAL jsonb_array_elements(
    CASE WHEN jsonb_typeof(c.snapshot_json -> 'accounts') = 'array'
         THEN c.snapshot_json -> 'accounts' ELSE '[]' END
) WITH ORDINALITY AS listed (entry, place)
CROSS JOIN LATERAL (SELECT image_adapter.text_at(entry, 'name') AS account_name) named
WHERE c.id = 'default' AND named.account_name IS NOT NULL
ORDER BY named.account_name, place DESC;

CREATE OR REPLACE FUNCTION image_gateway.contract_version() RETURNS integer
    LANGUAGE sql IMMUTABLE AS 'SELECT 2';

CREATE OR REPLACE VIEW image_gateway.keys AS
SELECT k.key_hash,
       k.key_id,
       k.name AS key_name,
       CASE WHEN k.provider_type = 'codex' AND k.protocol_family = 'openai'
            THEN k.status ELSE 'other_provider' END AS status,
       -- Off for a key without a row there.
       coalesce(r.codex_image_generation_enabled, false) AS image_enabled,
       r.account_group_id AS group_id,
       r.account_group_id IS NULL OR coalesce(i.allow_image_generation, false)
           AS group_image_enabled,
       -- A limit of 0 allows nothing; no key is unlimited.
       k.quota_billable_limit - greatest(coalesce(u.billable_tokens, 0), 0) AS quota_remaining,
       CASE WHEN r.request_max_concurrency > 0
            THEN least(r.request_max_concurrency, 2147483647)::integer END AS max_concurrency,
       CASE WHEN r.request_min_start_interval_ms > 0
            THEN least(r.request_min_start_interval_ms, 2147483647)::integer END
           AS min_start_interval_ms,
       NULL::text[] AS allowed_models,
       image_adapter.name_map(r.model_name_map_json) AS model_map,
       -- A fixed order has the adapter's own accounts last.  Null stays null: it means all
       -- accounts.
       CASE WHEN chosen.names IS NOT NULL THEN chosen.names || ARRAY(
           SELECT e.account_name
           FROM image_adapter.group_accounts e
           WHERE e.group_id = g.group_id
             AND e.account_name <> ALL (chosen.names)
             -- The row means the adapter's account; llm-access has taken its name since.
             AND NOT EXISTS (SELECT FROM public.llm_codex_accounts a
                             WHERE a.account_name = e.account_name)
           ORDER BY e.account_name
       ) END AS account_names,
       CASE r.route_strategy WHEN 'fixed' THEN 'fixed' ELSE 'auto' END AS route_strategy,
       NULL::timestamptz AS expires_at,
       NULL::boolean AS quota_allows,
       NULL::bigint AS images_remaining,
       NULL::numeric AS cost_remaining,
       NULL::text AS owner_id,
       NULL::integer AS owner_max_concurrency,
       NULL::integer AS json_keepalive_seconds
FROM public.llm_keys k
LEFT JOIN public.llm_key_route_config r ON r.key_id = k.key_id
LEFT JOIN public.llm_key_usage_rollups u ON u.key_id = k.key_id
LEFT JOIN public.llm_account_groups g
    ON g.group_id = r.account_group_id AND g.provider_type = 'codex'
LEFT JOIN image_adapter.groups i ON i.group_id = g.group_id
-- As llm-access resolves it: the group comes before the key's own list, and an empty list of
-- either counts as absent.  Where it refuses to route (unknown group, unknown strategy, no fixed
-- account), the key has no accounts.
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN r.account_group_id IS NOT NULL AND g.group_id IS NULL THEN '{}'
        WHEN r.route_strategy = 'fixed' THEN coalesce(
            CASE WHEN g.group_id IS NOT NULL THEN image_adapter.names(g.account_names_json)
                 WHEN btrim(r.fixed_account_name, E' \t\r\n') <> ''
                 THEN ARRAY[r.fixed_account_name] END,
            '{}')
        WHEN coalesce(r.route_strategy, '') IN ('', 'auto') THEN coalesce(
            image_adapter.names(g.account_names_json),
            image_adapter.names(r.auto_account_names_json))
        ELSE '{}'
    END AS names
) chosen;

CREATE OR REPLACE VIEW image_gateway.accounts AS
SELECT a.account_name,
       'codex' AS dialect,
       -- An account whose proxy is missing must not connect without it.
       CASE WHEN a.status = 'active' AND way.needs_proxy AND p.proxy_config_id IS NULL
            THEN 'proxy_unavailable' ELSE a.status END AS status,
       coalesce(a.settings_json -> 'codex_image_generation_enabled' = 'true', false)
           AS image_enabled,
       least(greatest(trunc(coalesce(
           image_adapter.number_at(a.settings_json, 'codex_image_generation_max_concurrency'), 3
       )), 1), 1024)::integer AS image_max_concurrency,
       NULL::text AS base_url,
       NULL::text AS api_version,
       NULL::jsonb AS deployments,
       -- Only what a call needs: the refresh token stays in llm-access.
       CASE WHEN auth.access_token IS NOT NULL THEN jsonb_strip_nulls(jsonb_build_object(
           'access_token', auth.access_token,
           'account_id', auth.account_id,
           'is_fedramp', auth.is_fedramp
       )) END AS credential,
       -- A version that is not fit for a header is ignored, as in llm-access: the default is used.
       CASE WHEN btrim(c.codex_client_version, E' \t\r\n') ~ '^[A-Za-z0-9._-]{1,64}$'
            THEN btrim(c.codex_client_version, E' \t\r\n') END AS client_version,
       o.responses_model,
       o.codex_route,
       btrim(p.proxy_url, E' \t\r\n') AS proxy_url,
       p.proxy_username,
       p.proxy_password,
       -- A weight of 0 comes last in llm-access but is used; the contract needs more than 0.
       greatest(CASE tier.name
           WHEN 'plus' THEN coalesce(c.codex_weight_plus, 10)
           WHEN 'pro5x' THEN coalesce(c.codex_weight_pro5x, 50)
           WHEN 'pro20x' THEN coalesce(c.codex_weight_pro20x, 200)
           ELSE coalesce(c.codex_weight_free, 1)
       END::double precision, 0.001::double precision) AS routing_weight,
       b.used_percent_primary,
       b.used_percent_secondary,
       o.same_account_retries,
       NULL::timestamptz AS blocked_until,
       a.last_error,
       NULL::boolean AS fails_free
FROM public.llm_codex_accounts a
LEFT JOIN image_adapter.budgets b ON b.account_name = a.account_name
LEFT JOIN public.llm_runtime_config c ON c.id = 'default'
-- The planner assumes hundreds of rows in a new table; LIMIT tells it that there is one.
LEFT JOIN (SELECT * FROM image_adapter.codex_options LIMIT 1) o ON true
-- Both of llm-access's spellings, and the column for an account whose JSON names no id.
CROSS JOIN LATERAL (
    SELECT coalesce(image_adapter.text_at(a.auth_json, 'access_token'),
                    image_adapter.text_at(a.auth_json, 'accessToken'),
                    image_adapter.text_at(a.auth_json, 'tokens', 'access_token'),
                    image_adapter.text_at(a.auth_json, 'tokens', 'accessToken')) AS access_token,
           coalesce(image_adapter.text_at(a.auth_json, 'account_id'),
                    image_adapter.text_at(a.auth_json, 'accountId'),
                    image_adapter.text_at(a.auth_json, 'tokens', 'account_id'),
                    image_adapter.text_at(a.auth_json, 'tokens', 'accountId'),
                    image_adapter.text_at(a.auth_json, 'account', 'id'),
                    image_adapter.text_at(a.auth_json, 'account', 'account_id'),
                    image_adapter.text_at(a.auth_json, 'account', 'accountId'),
                    nullif(btrim(a.account_id, E' \t\r\n'), '')) AS account_id,
           CASE WHEN a.auth_json @> '{"is_fedramp_account": true}'
                  OR a.auth_json @> '{"isFedrampAccount": true}'
                  OR a.auth_json @> '{"is_fedramp": true}'
                  OR a.auth_json @> '{"isFedramp": true}'
                THEN true END AS is_fedramp
) auth
-- The tier set by hand; else the plan that llm-access saw; else free.
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN lower(image_adapter.text_at(a.settings_json, 'route_weight_tier'))
             IN ('free', 'plus', 'pro5x', 'pro20x')
        THEN lower(image_adapter.text_at(a.settings_json, 'route_weight_tier'))
        WHEN b.plan_type = 'pro' THEN 'pro5x'
        ELSE b.plan_type
    END AS name
) tier
-- Any other text means inherit in llm-access.  A value that is not a text is unreadable, and must
-- not mean direct.
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN jsonb_typeof(a.settings_json -> 'proxy_mode') NOT IN ('string', 'null')
        THEN 'unreadable'
        WHEN lower(image_adapter.text_at(a.settings_json, 'proxy_mode')) IN ('none', 'direct')
        THEN 'direct'
        WHEN lower(image_adapter.text_at(a.settings_json, 'proxy_mode')) = 'fixed' THEN 'fixed'
        ELSE 'inherit'
    END AS proxy_mode
) settings
LEFT JOIN public.llm_proxy_bindings binding
    ON binding.provider_type = 'codex' AND settings.proxy_mode = 'inherit'
CROSS JOIN LATERAL (
    SELECT settings.proxy_mode IN ('fixed', 'unreadable') OR binding.proxy_config_id IS NOT NULL
               AS needs_proxy,
           CASE settings.proxy_mode
               WHEN 'fixed' THEN image_adapter.text_at(a.settings_json, 'proxy_config_id')
               WHEN 'inherit' THEN binding.proxy_config_id
           END AS proxy_config_id
) way
LEFT JOIN public.llm_proxy_configs p
    ON p.proxy_config_id = way.proxy_config_id AND p.status = 'active'
   -- The contract reads an empty URL as no proxy.
   AND btrim(p.proxy_url, E' \t\r\n') <> ''
UNION ALL
SELECT account_name, dialect, status, image_enabled, image_max_concurrency, base_url, api_version,
       deployments, credential, client_version, responses_model, codex_route,
       proxy_url, proxy_username, proxy_password, routing_weight,
       used_percent_primary, used_percent_secondary, same_account_retries,
       blocked_until, last_error, fails_free
FROM image_adapter.accounts own
-- A name means one account.  llm-access's own lists mean its accounts, so those keep the name.
WHERE NOT EXISTS (SELECT FROM public.llm_codex_accounts a WHERE a.account_name = own.account_name);

-- What the views cannot see; `image-gateway check` says it.
CREATE OR REPLACE VIEW image_gateway.warnings AS
SELECT 'llm-access counts the tokens of the pictures that it makes itself in'
    || ' llm_key_usage_rollups.codex_image_usage_tokens; the quota of a key here is what its'
    || ' billable_tokens leave.' AS warning
WHERE EXISTS (SELECT FROM pg_attribute
              WHERE attrelid = to_regclass('public.llm_key_usage_rollups')
                AND attname = 'codex_image_usage_tokens' AND NOT attisdropped);

-- -- Usage ----------------------------------------------------------------------------------------

-- Charges a call to the usage of its key in llm-access: 'charged', 'charged_before', 'too_old' or
-- 'unknown_key'.  The columns for pictures came with later migrations, and may be missing.
CREATE OR REPLACE FUNCTION image_gateway.charge(
    request_id text, key_id text, at timestamptz, model text, account_name text, tokens jsonb,
    images integer, cost numeric
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    total bigint := token_count(charge.tokens, 'total');
    cached bigint := least(token_count(charge.tokens, 'cached_input'),
                           token_count(charge.tokens, 'input'));
    called_at_ms bigint := floor(extract(epoch FROM charge.at) * 1000);
    now_ms bigint := floor(extract(epoch FROM now()) * 1000);
    additions text;
    result text;
BEGIN
    PERFORM FROM public.llm_keys k WHERE k.key_id = charge.key_id;
    IF NOT FOUND THEN
        RETURN 'unknown_key';
    END IF;
    result := note_charge(
        charge.request_id, charge.key_id, charge.at, charge.model, charge.account_name,
        charge.tokens, greatest(charge.images, 0),
        CASE WHEN charge.cost < 'NaN' THEN greatest(charge.cost, 0) END);
    IF result <> 'charged' THEN
        RETURN result;
    END IF;
    INSERT INTO public.llm_key_usage_rollups AS u (
        key_id, input_uncached_tokens, input_cached_tokens, output_tokens, billable_tokens,
        last_used_at_ms, updated_at_ms)
    VALUES (charge.key_id, token_count(charge.tokens, 'input') - cached, cached,
            token_count(charge.tokens, 'output'), total, called_at_ms, now_ms)
    ON CONFLICT (key_id) DO UPDATE
    SET input_uncached_tokens = u.input_uncached_tokens + excluded.input_uncached_tokens,
        input_cached_tokens = u.input_cached_tokens + excluded.input_cached_tokens,
        output_tokens = u.output_tokens + excluded.output_tokens,
        billable_tokens = u.billable_tokens + excluded.billable_tokens,
        last_used_at_ms = greatest(u.last_used_at_ms, excluded.last_used_at_ms),
        updated_at_ms = greatest(u.updated_at_ms, excluded.updated_at_ms);
    SELECT string_agg(addition.assignment, ', ') INTO additions
    FROM (VALUES ('codex_image_usage_tokens',
                  'codex_image_usage_tokens = codex_image_usage_tokens + $2'),
                 ('codex_image_usage_missing_events',
                  'codex_image_usage_missing_events = codex_image_usage_missing_events'
                  ' + ($2 = 0)::integer'),
                 ('codex_image_last_used_at_ms',
                  'codex_image_last_used_at_ms = greatest(codex_image_last_used_at_ms, $3)')
         ) AS addition (column_name, assignment)
    JOIN pg_attribute a
        ON a.attrelid = 'public.llm_key_usage_rollups'::regclass
       AND a.attname = addition.column_name AND NOT a.attisdropped;
    IF additions IS NOT NULL THEN
        EXECUTE 'UPDATE public.llm_key_usage_rollups SET ' || additions || ' WHERE key_id = $1'
        USING charge.key_id, total, called_at_ms;
    END IF;
    RETURN result;
END
$$;
REVOKE ALL ON FUNCTION image_gateway.charge FROM PUBLIC;

-- An older version of this adapter had it.
DROP FUNCTION IF EXISTS image_adapter.used_percent(numeric);

-- -- Triggers on the adapter's own tables ---------------------------------------------------------

CREATE OR REPLACE FUNCTION image_adapter.refuse_taken_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.llm_codex_accounts a WHERE a.account_name = NEW.account_name) THEN
        RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
            'the account name "%s" belongs to a Codex account of llm-access; use another',
            NEW.account_name);
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER refuse_taken_name
    BEFORE INSERT OR UPDATE OF account_name ON image_adapter.accounts
    FOR EACH ROW EXECUTE FUNCTION image_adapter.refuse_taken_name();
CREATE OR REPLACE TRIGGER tell_groups
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON image_adapter.groups
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter.tell('keys');
CREATE OR REPLACE TRIGGER tell_group_accounts
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON image_adapter.group_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter.tell('keys');
CREATE OR REPLACE TRIGGER tell_codex_options
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON image_adapter.codex_options
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter.tell('accounts');

COMMIT;
