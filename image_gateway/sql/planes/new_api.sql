-- new-api as the control plane of the image gateway: the contract (schema image_gateway) as views
-- over its tables (schema public), and tables of its own (schema image_adapter) for what new-api
-- does not have.  It may be run again.
--
-- Run it on new-api's database, as a role that may read its tables, has CREATE on the database, and
-- owns the table tokens: new-api keeps its keys in plain, and a look-up by hash needs an index on
-- that table, image_adapter_token_hash.  The index changes no row and no column.  Then run
-- reader.sql; new_api_notify.sql is optional.  charger.sql is for usage: the function `charge`
-- writes to new-api's tables with the rights of the role that ran this file.
--
-- new-api keeps JSON in columns of text.  What cannot be read there takes its own account or key
-- out of service, and never fails a view.

BEGIN;

SET LOCAL image_gateway.title = 'new-api';
SET LOCAL image_gateway.needed = '{
    "tokens": ["id", "user_id", "key", "status", "name", "accessed_time",
        "expired_time", "remain_quota", "unlimited_quota", "model_limits_enabled",
        "model_limits", "allow_ips", "used_quota", "group", "deleted_at"],
    "users": ["id", "username", "status", "quota", "used_quota", "request_count",
        "group", "deleted_at"],
    "channels": ["id", "type", "key", "status", "weight", "created_time", "base_url",
        "other", "models", "used_quota", "model_mapping", "setting", "channel_info"],
    "abilities": ["group", "model", "channel_id", "enabled", "priority", "weight"],
    "options": ["key", "value"]
}';
SET LOCAL image_gateway.cure =
    'In the database of a new-api (its SQL_DSN), update new-api and start it once, so'
    ' that it adds them itself';
\ir ../parts/requirements.sql

CREATE SCHEMA IF NOT EXISTS image_adapter;
CREATE SCHEMA IF NOT EXISTS image_gateway;
SET LOCAL search_path = image_adapter, pg_temp;
SET LOCAL image_gateway.plane = 'new_api';

\ir ../parts/version.sql
\ir ../parts/accounts.sql
\ir ../parts/account_options.sql
\ir ../parts/key_options.sql
\ir ../parts/charges.sql
\ir ../parts/reading.sql

-- -- The adapter's own tables ---------------------------------------------------------------------

-- Which of the adapter's accounts the keys of a group may use besides the group's channels.
CREATE TABLE IF NOT EXISTS group_accounts (
    group_id      text NOT NULL,
    account_name  text NOT NULL REFERENCES accounts ON UPDATE CASCADE ON DELETE CASCADE,
    PRIMARY KEY (group_id, account_name)
);

-- Models that make images and whose names do not tell it.
CREATE TABLE IF NOT EXISTS image_models (
    model  text PRIMARY KEY CHECK (model <> '')
);

-- -- The look-up of a key -------------------------------------------------------------------------

-- Clients send a key with `sk-` before it.  A char(48) of an old installation loses its padding
-- when it becomes text.  An index waits for running writes and blocks later ones, also one that is
-- there already.
SET LOCAL lock_timeout = '5s';
CREATE INDEX IF NOT EXISTS image_adapter_token_hash
    ON public.tokens (hash_of('sk-' || "key"::text));

-- -- Reading --------------------------------------------------------------------------------------

-- Whether the name tells an image model.
CREATE OR REPLACE FUNCTION is_image_model(model text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN model LIKE '%gpt-image-%';

-- A jsonb that is an object; null for any other.
CREATE OR REPLACE FUNCTION object_of(document jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN jsonb_typeof(document) = 'object' THEN document END;

-- A list in a text: null without one, and a value that is no list if it cannot be read.
CREATE OR REPLACE FUNCTION list_of(content text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN content <> '' THEN coalesce(json_of(content), 'false') END;

-- Whether a user of a group may use another group: what all may use, what is added to it and taken
-- from it for the user's own group, and always that group itself.
CREATE OR REPLACE FUNCTION may_use(usable jsonb, special jsonb, own text, asked text)
    RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN asked = own OR (
        usable ? asked
        OR coalesce(object_of(special -> own) ?| ARRAY[asked, '+:' || asked], false)
    ) AND NOT coalesce(object_of(special -> own) ? ('-:' || asked), false);

-- The groups whose channels a key may use, in their order; empty if new-api refuses the key for its
-- group.  A key's own group `auto` stands for its own list, if it has one, or for all of new-api's.
CREATE OR REPLACE FUNCTION groups_of(
    asked text, own text, own_list jsonb, auto_groups jsonb, usable jsonb, special jsonb,
    ratios jsonb
) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN asked = '' THEN ARRAY[own]
        WHEN asked <> 'auto' THEN
            CASE WHEN may_use(usable, special, own, asked) AND ratios ? asked
                 THEN ARRAY[asked] ELSE '{}' END
        ELSE ARRAY(
            SELECT item #>> '{}'
            FROM jsonb_array_elements(
                CASE WHEN jsonb_typeof(own_list) = 'array' AND own_list <> '[]' THEN own_list
                     -- A list that cannot be read names no group.
                     WHEN own_list IS NOT NULL AND own_list NOT IN ('[]', 'null') THEN '[]'
                     ELSE auto_groups END
            ) WITH ORDINALITY AS listed (item, place)
            WHERE jsonb_typeof(item) = 'string' AND may_use(usable, special, own, item #>> '{}')
            GROUP BY 1
            ORDER BY min(place)
        )
    END;

-- A channel's models, each with the name that its upstream has for it: the end of a chain of names.
-- new-api refuses every call of a channel whose mapping is no object of texts, and the calls of a
-- model whose chain is a circle; problem says so where no model is left.
CREATE OR REPLACE FUNCTION deployments_of(
    models text[], mapping jsonb, drops_dots boolean, OUT deployments jsonb, OUT problem text
) LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    model text;
    name text;
    next_name text;
    seen text[];
BEGIN
    deployments := '{}';
    IF jsonb_typeof(mapping) NOT IN ('object', 'null')
        OR jsonb_path_exists(mapping, 'strict $.* ? (@.type() != "string" && @.type() != "null")',
                             silent => true)
    THEN
        problem := 'model_mapping_unreadable';
        RETURN;
    END IF;
    FOREACH model IN ARRAY models LOOP
        name := model;
        seen := ARRAY[model];
        LOOP
            next_name := mapping ->> name;
            EXIT WHEN coalesce(next_name, '') IN ('', name);
            IF next_name = ANY (seen) THEN
                problem := 'model_mapping_cycle';
                name := NULL;
                EXIT;
            END IF;
            seen := seen || next_name;
            name := next_name;
        END LOOP;
        IF drops_dots THEN
            name := replace(name, '.', '');
        END IF;
        IF name <> '' THEN
            deployments := deployments || jsonb_build_object(model, name);
        END IF;
    END LOOP;
    IF deployments <> '{}' THEN
        problem := NULL;
    END IF;
END
$$;

-- The keys in a channel's text, counted from 1: its lines, or the items of a JSON array.
CREATE OR REPLACE FUNCTION channel_keys(content text, parsed jsonb)
    RETURNS TABLE (secret text, place bigint)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 5
BEGIN ATOMIC
    SELECT line, number
    FROM unnest(CASE WHEN jsonb_typeof(parsed) = 'array' THEN '{}'
                     ELSE string_to_array(btrim(content, E'\n'), E'\n') END)
         WITH ORDINALITY AS listed (line, number)
    UNION ALL
    SELECT CASE WHEN jsonb_typeof(item) = 'string' THEN item #>> '{}' ELSE item::text END, number
    FROM jsonb_array_elements(CASE WHEN jsonb_typeof(parsed) = 'array' THEN parsed ELSE '[]' END)
         WITH ORDINALITY AS listed (item, number);
END;

-- A view calls functions with the rights of the role that reads it.
GRANT EXECUTE ON FUNCTION is_image_model, object_of, list_of, may_use, groups_of, deployments_of,
    channel_keys TO PUBLIC;

-- -- Views ----------------------------------------------------------------------------------------

-- new-api's settings, and its built-in ones where a row is missing or cannot be read.
CREATE OR REPLACE VIEW settings AS
SELECT coalesce(object_of(usable), '{"default": "", "vip": ""}') AS usable_groups,
       coalesce(object_of(special), '{}') AS special_groups,
       coalesce(object_of(ratios), '{"default": 1, "vip": 1, "svip": 1}') AS group_ratios,
       coalesce(object_of(user_ratios), '{}') AS user_group_ratios,
       coalesce(object_of(prices), '{}') AS model_prices,
       CASE WHEN jsonb_typeof(auto) = 'array' THEN auto ELSE '["default"]' END AS auto_groups,
       CASE WHEN number_at(per_unit, VARIADIC '{}'::text[]) BETWEEN 1 AND 1000000000000
            THEN number_at(per_unit, VARIADIC '{}'::text[]) ELSE 500000 END AS quota_per_unit,
       logs_calls
FROM (
    SELECT json_of(max(value) FILTER (WHERE "key" = 'UserUsableGroups')) AS usable,
           json_of(max(value) FILTER (
               WHERE "key" = 'group_ratio_setting.group_special_usable_group')) AS special,
           json_of(max(value) FILTER (WHERE "key" = 'GroupRatio')) AS ratios,
           json_of(max(value) FILTER (WHERE "key" = 'GroupGroupRatio')) AS user_ratios,
           json_of(max(value) FILTER (WHERE "key" = 'ModelPrice')) AS prices,
           json_of(max(value) FILTER (WHERE "key" = 'AutoGroups')) AS auto,
           json_of(max(value) FILTER (WHERE "key" = 'QuotaPerUnit')) AS per_unit,
           coalesce(max(value) FILTER (WHERE "key" = 'LogConsumeEnabled') <> 'false', true)
               AS logs_calls
    FROM public.options
    WHERE "key" IN ('UserUsableGroups', 'group_ratio_setting.group_special_usable_group',
                    'GroupRatio', 'GroupGroupRatio', 'ModelPrice', 'AutoGroups', 'QuotaPerUnit',
                    'LogConsumeEnabled')
) AS option;

-- The accounts of a channel that may be one: `3`, or for a channel with several keys `2#0`, one for
-- each key that is on.  OFFSET 0 keeps Postgres from evaluating json_of once for each use.
CREATE OR REPLACE VIEW channel_accounts AS
SELECT c.id AS channel_id, k.account_name, k.place, k.secret, k.accounts
FROM public.channels c
CROSS JOIN LATERAL (
    SELECT info, info -> 'is_multi_key' IS NOT DISTINCT FROM 'true' AS has_keys
    FROM (
        SELECT CASE WHEN c.channel_info::text ~ '"is_multi_key"\s*:\s*true'
                    THEN json_of(c.channel_info::text) END AS info
        OFFSET 0
    ) AS parsed
) AS i
CROSS JOIN LATERAL (
    SELECT c.id::text AS account_name, 0::bigint AS place, c."key"::text AS secret,
           1::bigint AS accounts
    WHERE NOT i.has_keys
    UNION ALL
    SELECT c.id || '#' || listed.place - 1, listed.place, listed.secret, count(*) OVER ()
    FROM channel_keys(c."key"::text,
                      CASE WHEN c."key" ~ '^\s*\[' THEN json_of(c."key"::text) END) AS listed
    WHERE i.has_keys
      AND coalesce(i.info #>> ARRAY['multi_key_status_list', (listed.place - 1)::text], '1') = '1'
) AS k
WHERE c.type IN (1, 3, 8, 57);

CREATE OR REPLACE FUNCTION image_gateway.contract_version() RETURNS integer
    LANGUAGE sql IMMUTABLE AS 'SELECT 2';

CREATE OR REPLACE VIEW image_gateway.keys AS
SELECT hash_of('sk-' || t."key"::text) AS key_hash,
       t.id::text AS key_id,
       t.name::text AS key_name,
       -- Status 4 is a quota that is used up.
       CASE WHEN t.status IS NULL OR t.status NOT IN (1, 4)
            THEN CASE t.status WHEN 3 THEN 'expired' ELSE 'disabled' END
            WHEN u.status IS DISTINCT FROM 1 THEN 'user_inactive'
            -- The contract has no list of addresses: to ignore this one would lift it.
            WHEN t.allow_ips ~ '[^\s,]' THEN 'ip_restricted'
            WHEN groups.names = '{}' THEN 'group_not_allowed'
            ELSE 'active' END AS status,
       coalesce(o.image_enabled, true) AS image_enabled,
       groups.id AS group_id,
       -- new-api has no switch for it: a group makes pictures through its channels' models.
       true AS group_image_enabled,
       NULL::bigint AS quota_remaining,
       o.max_concurrency,
       o.min_start_interval_ms,
       CASE WHEN t.model_limits_enabled
            THEN array_remove(string_to_array(coalesce(t.model_limits, '')::text, ','), '')
       END AS allowed_models,
       NULL::jsonb AS model_map,
       coalesce(channels.names, '{}') || own.names AS account_names,
       -- new-api always begins with the highest priority.  Ranking would not; among equals it does
       -- what new-api's weights do.
       CASE WHEN channels.levels > 1 THEN 'fixed' ELSE 'auto' END AS route_strategy,
       CASE WHEN t.expired_time = -1 THEN NULL
            ELSE to_timestamp(least(greatest(coalesce(t.expired_time, 0), 0), 250000000000))
       END AS expires_at,
       t.status <> 4 AS quota_allows,
       o.images_remaining,
       -- Units of new-api, in USD.  The user's quota bounds an unlimited key, too.
       least(CASE WHEN t.unlimited_quota IS NOT TRUE THEN coalesce(t.remain_quota, 0) END,
             coalesce(u.quota, 0)) / s.quota_per_unit AS cost_remaining,
       t.user_id::text AS owner_id,
       NULL::integer AS owner_max_concurrency,
       o.json_keepalive_seconds
FROM public.tokens t
CROSS JOIN settings s
LEFT JOIN public.users u ON u.id = t.user_id AND u.deleted_at IS NULL
LEFT JOIN key_options o ON o.key_id = t.id::text
CROSS JOIN LATERAL (
    SELECT coalesce(nullif(t."group", ''), u."group") AS id,
           groups_of(coalesce(t."group", ''), coalesce(u."group", ''),
                     -- Only newer versions of new-api have the column.
                     CASE WHEN t."group" = 'auto' THEN list_of(to_jsonb(t) ->> 'auto_groups') END,
                     s.auto_groups, s.usable_groups, s.special_groups, s.group_ratios) AS names
    OFFSET 0
) AS groups
-- A channel serves a group with all its image models or not at all, as new-api writes abilities:
-- one that is switched off there counts for the channel.  The names of a group's models come from
-- its index, one step for each name, because most rows are of models for text; OFFSET 0 keeps
-- Postgres, which cannot guess how few they are, from reading whole tables.
CROSS JOIN LATERAL (
    SELECT array_agg(a.account_name ORDER BY served.place, served.priority DESC,
                     served.weight DESC, served.channel_id, a.place) AS names,
           count(DISTINCT (served.place, served.priority)) AS levels
    FROM (
        SELECT DISTINCT ON (ability.channel_id)
               ability.channel_id, g.place,
               max(coalesce(ability.priority, 0)) AS priority,
               max(coalesce(ability.weight, 0)) AS weight
        FROM unnest(groups.names) WITH ORDINALITY AS g (name, place)
        CROSS JOIN LATERAL (
            WITH RECURSIVE named (model) AS (
                (SELECT a.model FROM public.abilities a WHERE a."group" = g.name
                 ORDER BY a.model LIMIT 1)
                UNION ALL
                SELECT (SELECT a.model FROM public.abilities a
                        WHERE a."group" = g.name AND a.model > named.model
                        ORDER BY a.model LIMIT 1)
                FROM named WHERE named.model IS NOT NULL
            )
            SELECT model FROM named
            WHERE is_image_model(model) OR model = ANY (ARRAY(SELECT i.model FROM image_models i))
        ) AS image
        CROSS JOIN LATERAL (
            SELECT a.channel_id, a.enabled, a.priority, a.weight
            FROM public.abilities a
            WHERE a."group" = g.name AND a.model = image.model
            OFFSET 0
        ) AS ability
        GROUP BY ability.channel_id, g.place
        HAVING bool_and(ability.enabled IS TRUE)
        ORDER BY ability.channel_id, g.place
    ) AS served
    CROSS JOIN LATERAL (
        SELECT account_name, place FROM channel_accounts WHERE channel_id = served.channel_id
        OFFSET 0
    ) AS a
) AS channels
CROSS JOIN LATERAL (
    SELECT ARRAY(
        SELECT e.account_name
        FROM unnest(groups.names) WITH ORDINALITY AS g (name, place)
        JOIN group_accounts e ON e.group_id = g.name
        GROUP BY e.account_name
        ORDER BY min(g.place), e.account_name
    ) AS names
) AS own
-- new-api takes no call without a key.
WHERE t.deleted_at IS NULL AND t."key"::text <> '';

CREATE OR REPLACE VIEW image_gateway.accounts AS
SELECT a.account_name,
       CASE c.type WHEN 3 THEN 'azure' WHEN 57 THEN 'codex' ELSE 'openai' END AS dialect,
       CASE WHEN c.status = 3 THEN 'auto_disabled'
            WHEN c.status IS DISTINCT FROM 1 THEN 'disabled'
            WHEN base.is_unusable THEN 'base_url_unusable'
            WHEN d.problem IS NOT NULL THEN d.problem
            -- An account whose proxy cannot be read must not connect without it.
            WHEN proxy.is_unusable THEN 'proxy_unavailable'
            WHEN credential.fields IS NULL THEN 'no_credential'
            ELSE 'active' END AS status,
       coalesce(o.image_enabled, true) AS image_enabled,
       o.image_max_concurrency,
       base.url AS base_url,
       -- What new-api takes if nobody has set AZURE_DEFAULT_API_VERSION.
       CASE c.type WHEN 3 THEN coalesce(nullif(btrim(c.other), ''), '2025-04-01-preview')
       END AS api_version,
       d.deployments,
       credential.fields AS credential,
       NULL::text AS client_version,
       o.responses_model,
       o.codex_route,
       proxy.url AS proxy_url,
       proxy.username AS proxy_username,
       proxy.password AS proxy_password,
       -- new-api adds 10 to each weight, and takes a channel's keys in equal shares.
       coalesce(o.routing_weight,
                (greatest(coalesce(c.weight, 0), 0)::double precision + 10) / a.accounts)
           AS routing_weight,
       NULL::double precision AS used_percent_primary,
       NULL::double precision AS used_percent_secondary,
       o.same_account_retries,
       NULL::timestamptz AS blocked_until,
       NULL::text AS last_error,
       o.fails_free
FROM public.channels c
CROSS JOIN LATERAL (
    SELECT ARRAY(
        SELECT model FROM unnest(string_to_array(c.models::text, ',')) AS model
        WHERE is_image_model(model) OR model = ANY (ARRAY(SELECT i.model FROM image_models i))
    ) AS images
    OFFSET 0
) AS m
JOIN channel_accounts a ON a.channel_id = c.id
LEFT JOIN account_options o ON o.account_name = a.account_name
CROSS JOIN LATERAL deployments_of(
    m.images,
    CASE WHEN btrim(coalesce(c.model_mapping, ''), E' \t\r\n') IN ('', '{}') THEN '{}'
         ELSE coalesce(json_of(c.model_mapping), 'false') END,
    -- new-api's own rule for Azure: it removed dots until 2025-05-10.
    c.type = 3 AND coalesce(c.created_time, 0) < 1746835200
) AS d
-- new-api adds /v1 and a path to a URL, or the path alone behind Cloudflare's AI Gateway, whose
-- URLs for Azure have another form; the URL of a custom channel is a whole one.
CROSS JOIN LATERAL (
    SELECT CASE WHEN c.type = 57 THEN given || '/backend-api/codex'
                WHEN c.type = 8
                THEN substring(given FROM '^([^{}?]*)/images/(?:generations|edits)$')
                WHEN c.type = 3 OR is_cloudflare THEN given
                ELSE openai_base(given) END AS url,
           c.type = 8 AND coalesce(given !~ '^[^{}?]*/images/(generations|edits)$', true)
           OR c.type = 3 AND is_cloudflare AS is_unusable
    FROM (
        SELECT given, given LIKE 'https://gateway.ai.cloudflare.com%' AS is_cloudflare
        FROM (
            SELECT nullif(rtrim(btrim(c.base_url, E' \t\r\n'), '/'), '') AS given
        ) AS trimmed
    ) AS b
    OFFSET 0
) AS base
CROSS JOIN LATERAL (
    SELECT p.url, p.username, p.password,
           jsonb_typeof(read.setting) NOT IN ('object', 'null')
           OR jsonb_typeof(read.setting -> 'proxy') NOT IN ('string', 'null')
           OR read.setting ->> 'proxy' <> '' AND p.url IS NULL
           -- new-api finds a field in whatever case its name is written.
           OR EXISTS (SELECT FROM jsonb_object_keys(object_of(read.setting)) AS field
                      WHERE lower(field) = 'proxy' AND field <> 'proxy') AS is_unusable
    FROM (
        SELECT setting, text_at(setting, 'proxy') AS proxy
        FROM (
            SELECT CASE WHEN btrim(coalesce(c.setting, ''), E' \t\r\n') = '' THEN '{}'
                        ELSE coalesce(json_of(c.setting), 'false') END AS setting
            OFFSET 0
        ) AS parsed
    ) AS read
    CROSS JOIN LATERAL proxy_of(read.proxy) AS p
    OFFSET 0
) AS proxy
-- Only what a call needs: the refresh token stays in new-api, which takes no login without both.
CROSS JOIN LATERAL (
    SELECT CASE WHEN c.type <> 57
                THEN (SELECT jsonb_build_object('api_key', secret)
                      FROM (SELECT btrim(a.secret, E' \t\r\n') AS secret) AS trimmed
                      WHERE secret <> '')
                WHEN text_at(login, 'access_token') IS NOT NULL
                     AND text_at(login, 'account_id') IS NOT NULL
                THEN jsonb_build_object('access_token', text_at(login, 'access_token'),
                                        'account_id', text_at(login, 'account_id')) END AS fields
    FROM (
        SELECT CASE WHEN c.type = 57 THEN json_of(a.secret) END AS login
        OFFSET 0
    ) AS parsed
    OFFSET 0
) AS credential
WHERE m.images <> '{}'
UNION ALL
SELECT account_name, dialect, status, image_enabled, image_max_concurrency, base_url, api_version,
       deployments, credential, client_version, responses_model, codex_route,
       proxy_url, proxy_username, proxy_password, routing_weight,
       used_percent_primary, used_percent_secondary, same_account_retries,
       blocked_until, last_error, fails_free
FROM accounts own
-- These names are those of channels, also of channels that do not exist yet.
WHERE own.account_name !~ '^[0-9]+(#[0-9]+)?$';

-- What the views cannot see or have to leave out.
CREATE OR REPLACE VIEW image_gateway.warnings AS
SELECT 'keys with a list of addresses (allow_ips) get 403, because the gateway cannot check it: '
       || count(*) AS warning
FROM public.tokens
WHERE deleted_at IS NULL AND status = 1 AND allow_ips ~ '[^\s,]'
HAVING count(*) > 0
UNION ALL
SELECT 'channels of a type that the gateway cannot call have image models, and are left out: '
       || string_agg(id::text, ', ' ORDER BY id)
FROM public.channels c
WHERE type NOT IN (1, 3, 8, 57) AND status = 1
  AND EXISTS (SELECT FROM unnest(string_to_array(c.models::text, ',')) AS model
              WHERE is_image_model(model)
                 OR model = ANY (ARRAY(SELECT i.model FROM image_models i)))
HAVING count(*) > 0
UNION ALL
SELECT 'abilities of channels are on for some of their image models and off for others, so that the'
       || ' channels are not used for the group: ' || string_agg(named, ', ' ORDER BY named)
FROM (
    SELECT format('%s (%s)', channel_id, "group") AS named
    FROM public.abilities
    WHERE is_image_model(model) OR model = ANY (ARRAY(SELECT i.model FROM image_models i))
    GROUP BY channel_id, "group"
    HAVING bool_or(enabled) AND NOT bool_and(enabled IS TRUE)
) AS partly
HAVING count(*) > 0
UNION ALL
SELECT 'what these channels change in a call (organization, parameters, headers) is not changed by'
       || ' the gateway: ' || string_agg(id::text, ', ' ORDER BY id)
FROM public.channels c
-- JSON may have characters that jsonb has not.
CROSS JOIN LATERAL json_of(to_json(c)::text) AS document
WHERE EXISTS (SELECT FROM image_gateway.accounts a
              WHERE a.status = 'active' AND split_part(a.account_name, '#', 1) = c.id::text)
  AND EXISTS (SELECT FROM unnest(ARRAY['open_ai_organization', 'param_override',
                                       'header_override']) AS name
              WHERE btrim(coalesce(document ->> name, ''), E' \t\r\n') NOT IN ('', '{}'))
HAVING count(*) > 0
UNION ALL
SELECT 'new-api limits the rate of requests (ModelRequestRateLimitEnabled); the gateway does not'
FROM public.options
WHERE "key" = 'ModelRequestRateLimitEnabled' AND value = 'true'
UNION ALL
SELECT 'users have subscriptions in new-api; here only their quota counts'
WHERE pg_relation_size(to_regclass('public.user_subscriptions')) > 0;

-- -- Usage ----------------------------------------------------------------------------------------

-- Whether calls can be noted in new-api's log here: it may be in another database.
CREATE OR REPLACE FUNCTION has_logs() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT count(*) = 16
    FROM pg_attribute
    WHERE attrelid = to_regclass('public.logs') AND NOT attisdropped
      AND attname IN ('user_id', 'created_at', 'type', 'content', 'username', 'token_name',
                      'model_name', 'quota', 'prompt_tokens', 'completion_tokens', 'use_time',
                      'is_stream', 'channel_id', 'token_id', 'group', 'other')
$$;
REVOKE ALL ON FUNCTION has_logs FROM PUBLIC;

-- Charges a call: 'charged', 'charged_before', 'too_old', 'unknown_key', or 'no_price' for a call
-- that can be charged once its price is known.  new-api counts in units: here the cost in USD, or
-- for a call whose cost is not known new-api's own price of a picture, times QuotaPerUnit times the
-- ratio of the group.  Rows are locked in the order key, user, channel.
CREATE OR REPLACE FUNCTION image_gateway.charge(
    request_id text, key_id text, at timestamptz, model text, account_name text, tokens jsonb,
    images integer, cost numeric
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    channel bigint := CASE WHEN charge.account_name ~ '^[1-9][0-9]{0,17}(#[0-9]+)?$'
                           THEN split_part(charge.account_name, '#', 1)::bigint END;
    pictures integer := greatest(charge.images, 0);
    price numeric;
    result text;
    token record;
    payer record;
    bill record;
BEGIN
    SELECT t.id, t.user_id, t.name, coalesce(t."group", '') AS asked,
           to_jsonb(t) ->> 'auto_groups' AS own_list
    INTO token
    FROM public.tokens t
    WHERE t.id = CASE WHEN charge.key_id ~ '^[1-9][0-9]{0,17}$' THEN charge.key_id::bigint END
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 'unknown_key';
    END IF;
    -- NaN is greater than infinity.
    price := CASE WHEN charge.cost < 'Infinity' THEN charge.cost
                  ELSE (SELECT number_at(s.model_prices, charge.model) * pictures
                        FROM settings s) END;
    IF price IS NULL THEN
        RETURN 'no_price';
    END IF;
    price := greatest(price, 0);
    result := note_charge(charge.request_id, charge.key_id, charge.at, charge.model,
                          charge.account_name, charge.tokens, pictures, price);
    IF result <> 'charged' THEN
        RETURN result;
    END IF;

    SELECT u.username, coalesce(u."group", '') AS own
    INTO payer
    FROM public.users u
    WHERE u.id = token.user_id
    FOR NO KEY UPDATE;

    SELECT g.name AS group_name, r.ratio, s.logs_calls,
           round(price * s.quota_per_unit * r.ratio)::bigint AS units
    INTO bill
    FROM settings s
    -- Of `auto` the first group that has the account.
    CROSS JOIN LATERAL (
        SELECT coalesce(
            nullif(nullif(token.asked, 'auto'), ''),
            (SELECT listed.name
             FROM unnest(groups_of(token.asked, payer.own, list_of(token.own_list), s.auto_groups,
                                   s.usable_groups, s.special_groups, s.group_ratios))
                  WITH ORDINALITY AS listed (name, place)
             WHERE token.asked = 'auto'
               AND (EXISTS (SELECT FROM public.abilities a
                            WHERE a."group" = listed.name AND a.channel_id = channel AND a.enabled)
                    OR EXISTS (SELECT FROM group_accounts e
                               WHERE e.group_id = listed.name
                                 AND e.account_name = charge.account_name))
             ORDER BY listed.place
             LIMIT 1),
            payer.own, '') AS name
    ) AS g
    CROSS JOIN LATERAL (
        SELECT greatest(coalesce(number_at(s.user_group_ratios, payer.own, g.name),
                                 number_at(s.group_ratios, g.name), 1), 0) AS ratio
    ) AS r;

    UPDATE public.tokens t
    SET remain_quota = coalesce(t.remain_quota, 0) - bill.units,
        used_quota = coalesce(t.used_quota, 0) + bill.units,
        accessed_time = greatest(t.accessed_time, extract(epoch FROM charge.at)::bigint)
    WHERE t.id = token.id;
    UPDATE public.users u
    SET quota = coalesce(u.quota, 0) - bill.units,
        used_quota = coalesce(u.used_quota, 0) + bill.units,
        request_count = coalesce(u.request_count, 0) + 1
    WHERE u.id = token.user_id;
    UPDATE public.channels c
    SET used_quota = coalesce(c.used_quota, 0) + bill.units
    WHERE c.id = channel;
    IF bill.logs_calls AND has_logs() THEN
        INSERT INTO public.logs (user_id, created_at, type, content, username, token_name,
                                 model_name, quota, prompt_tokens, completion_tokens, use_time,
                                 is_stream, channel_id, token_id, "group", other)
        VALUES (token.user_id, extract(epoch FROM charge.at)::bigint, 2,
                'image gateway: ' || charge.request_id, coalesce(payer.username, ''), token.name,
                coalesce(charge.model, ''), bill.units, token_count(charge.tokens, 'input'),
                token_count(charge.tokens, 'output'), 0, false, coalesce(channel, 0), token.id,
                bill.group_name,
                jsonb_build_object('model_price', price, 'group_ratio', bill.ratio)::text);
    END IF;
    UPDATE key_options o
    SET images_remaining = o.images_remaining - pictures
    WHERE o.key_id = charge.key_id AND o.images_remaining IS NOT NULL;
    RETURN result;
END
$$;
REVOKE ALL ON FUNCTION image_gateway.charge FROM PUBLIC;

-- -- Triggers on the adapter's own tables ---------------------------------------------------------

CREATE OR REPLACE FUNCTION refuse_taken_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.account_name ~ '^[0-9]+(#[0-9]+)?$' THEN
        RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
            'the account name "%s" is kept for a channel of new-api; use one that is no number',
            NEW.account_name);
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER refuse_taken_name
    BEFORE INSERT OR UPDATE OF account_name ON accounts
    FOR EACH ROW EXECUTE FUNCTION refuse_taken_name();
CREATE OR REPLACE TRIGGER tell_group_accounts
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON group_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');
CREATE OR REPLACE TRIGGER tell_image_models
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON image_models
    FOR EACH STATEMENT EXECUTE FUNCTION tell('all');

COMMIT;
