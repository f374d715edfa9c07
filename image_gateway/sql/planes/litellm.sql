-- LiteLLM's proxy as the control plane of the image gateway: the contract (schema image_gateway) as
-- views over its tables ("LiteLLM_*", schema public), and tables of its own (schema image_adapter)
-- for what they do not say: the accounts, whose kind LiteLLM keeps encrypted or in its
-- config.yaml, and the names of image models.  It does not change LiteLLM.  It may be run again.
--
-- Run it on LiteLLM's database, as a role that may read and charge in those tables and create
-- schemas; then reader.sql.  litellm_notify.sql is optional.  Postgres refuses a migration of LiteLLM
-- that drops a column read here or alters its type: drop the views, migrate, run this file again,
-- and reader.sql for its grants.
--
-- A value of the wrong type never fails a view: it counts as absent.  Columns that LiteLLM had not
-- always are read from the row as JSON, where one that is missing is null.

BEGIN;

SET LOCAL image_gateway.title = 'LiteLLM';
SET LOCAL image_gateway.needed = '{
    "LiteLLM_VerificationToken": ["token", "key_alias", "spend", "expires", "models",
        "aliases", "user_id", "team_id", "organization_id", "max_parallel_requests",
        "metadata", "blocked", "max_budget", "budget_id", "allowed_routes"],
    "LiteLLM_DeprecatedVerificationToken": ["token", "active_token_id", "revoke_at"],
    "LiteLLM_TeamTable": ["team_id", "organization_id", "members_with_roles",
        "metadata", "max_budget", "spend", "models", "blocked", "model_id"],
    "LiteLLM_ModelTable": ["id", "aliases"],
    "LiteLLM_UserTable": ["user_id", "max_budget", "spend", "models", "metadata",
        "max_parallel_requests"],
    "LiteLLM_TeamMembership": ["user_id", "team_id", "spend", "budget_id"],
    "LiteLLM_OrganizationTable": ["organization_id", "budget_id", "spend"],
    "LiteLLM_OrganizationMembership": ["user_id", "organization_id", "spend"],
    "LiteLLM_ProjectTable": ["project_id", "budget_id", "models", "spend", "blocked"],
    "LiteLLM_BudgetTable": ["budget_id", "max_budget"],
    "LiteLLM_AccessGroupTable": ["access_group_id"],
    "LiteLLM_ProxyModelTable": ["model_id", "litellm_params"],
    "LiteLLM_CredentialsTable": ["credential_name", "credential_values"],
    "LiteLLM_SpendLogs": ["request_id", "call_type", "api_key", "spend", "total_tokens",
        "prompt_tokens", "completion_tokens", "startTime", "endTime", "model",
        "model_group", "user", "metadata", "team_id", "organization_id", "status"]
}';
SET LOCAL image_gateway.cure =
    'In the database of a LiteLLM proxy, upgrade LiteLLM to a version of March 2026 or'
    ' later, which migrates its tables when it starts';
\ir ../parts/requirements.sql

CREATE SCHEMA IF NOT EXISTS image_adapter;
CREATE SCHEMA IF NOT EXISTS image_gateway;
SET LOCAL search_path = image_adapter, pg_temp;
SET LOCAL image_gateway.plane = 'litellm';

\ir ../parts/version.sql
\ir ../parts/accounts.sql
\ir ../parts/charges.sql
\ir ../parts/reading.sql
\ir ../parts/key_options.sql

-- -- The adapter's own tables ---------------------------------------------------------------------

-- The names that a key with a limited list of models may ask for here: those of the gateway's
-- catalogue, and others that an operator adds.  A wildcard in a list of LiteLLM means those of these
-- names that it matches; openai/* means those whose provider is openai, as LiteLLM knows it of its
-- own models.
CREATE TABLE IF NOT EXISTS image_models (
    model     text PRIMARY KEY CHECK (model <> ''),
    provider  text
);
INSERT INTO image_models (model, provider)
SELECT model, 'openai'
FROM unnest(ARRAY['gpt-image-2.6-sunburst', 'gpt-image-2.6-flare', 'gpt-image-2.5-sunburst',
                  'gpt-image-2.5-flare', 'gpt-image-2', 'chatgpt-image-latest', 'gpt-image-1.5',
                  'gpt-image-1-mini', 'gpt-image-1']) AS model
ON CONFLICT DO NOTHING;

CREATE OR REPLACE TRIGGER tell_image_models
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON image_models
    FOR EACH STATEMENT EXECUTE FUNCTION tell('keys');

-- -- Reading LiteLLM's rules ----------------------------------------------------------------------

-- They are PL/pgSQL, because a session keeps its plans: a key is looked up with each of its calls, and
-- SQL would be planned each time.  The reader may not look into this schema, so none calls another.

-- The texts in a JSON array.
CREATE OR REPLACE FUNCTION texts(document jsonb) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN ARRAY(
        SELECT item #>> '{}'
        FROM jsonb_array_elements(
            CASE WHEN jsonb_typeof(document) = 'array' THEN document ELSE '[]' END) AS item
        WHERE jsonb_typeof(item) = 'string');
END
$$;

-- The names in a JSON object.
CREATE OR REPLACE FUNCTION names_in(document jsonb) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN ARRAY(
        SELECT jsonb_object_keys(
            CASE WHEN jsonb_typeof(document) = 'object' THEN document ELSE '{}' END));
END
$$;

-- What a list of models limits to, as patterns for LIKE; null: it does not limit.
CREATE OR REPLACE FUNCTION limited_to(models text[]) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF cardinality(models) > 0
        AND NOT models && ARRAY['*', 'all-proxy-models', 'all-team-models']
    THEN
        RETURN ARRAY(
            SELECT replace(replace(replace(replace(
                       name, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%')
            FROM unnest(models) AS name
            WHERE name IS NOT NULL);
    END IF;
    RETURN NULL;
END
$$;

-- The names that a key may ask for, null for any, and what its own and its team's aliases lead to.
--
-- A team's aliases come first, then the key's, twice.  A team's alias for a deployment of its own leads
-- nowhere: an account here knows the public name.  LiteLLM holds the target of a key's alias against
-- the lists, else the name itself; a team's alias passes the key's list and the team's.  `providers`
-- has the names of image models and whose they are.  A key that may use none of these may ask for
-- nothing: its other names are for the main model of a call of the Responses API, which can make
-- pictures, too.
CREATE OR REPLACE FUNCTION models_of(
    asked text[], providers jsonb, team_id text, team_aliases jsonb, key_aliases jsonb,
    of_key text[], of_team text[], of_member text[], of_user text[], of_project text[],
    OUT models text[], OUT model_map jsonb
) LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    limited boolean := coalesce(of_key, of_team, of_member, of_user, of_project) IS NOT NULL;
    have_image boolean := false;
    name text;
    by_team text;
    by_key text;
    target text;
    checked text;
    full_name text;
BEGIN
    IF limited THEN
        models := '{}';
    ELSIF coalesce(key_aliases, '{}') = '{}' AND coalesce(team_aliases, '{}') = '{}' THEN
        RETURN;
    END IF;
    FOREACH name IN ARRAY asked LOOP
        CONTINUE WHEN coalesce(name, '') IN (
            '', 'all-team-models', 'all-proxy-models', 'no-default-models') OR strpos(name, '*') > 0;
        by_team := CASE WHEN jsonb_typeof(team_aliases -> name) = 'string'
                        THEN nullif(team_aliases ->> name, '') END;
        IF by_team IS NULL OR starts_with(by_team, 'model_name_' || coalesce(team_id, '') || '_') THEN
            by_team := name;
        END IF;
        by_key := coalesce(CASE WHEN jsonb_typeof(key_aliases -> by_team) = 'string'
                                THEN nullif(key_aliases ->> by_team, '') END, by_team);
        target := coalesce(CASE WHEN jsonb_typeof(key_aliases -> by_key) = 'string'
                                THEN nullif(key_aliases ->> by_key, '') END, by_key);
        IF target <> name THEN
            model_map := coalesce(model_map, '{}') || jsonb_build_object(name, target);
        END IF;
        CONTINUE WHEN NOT limited;
        checked := CASE WHEN by_key <> by_team OR target <> by_key THEN target ELSE name END;
        full_name := coalesce((providers ->> checked) || '/' || checked, checked);
        IF (team_aliases ? checked
            OR (of_key IS NULL OR checked LIKE ANY (of_key) OR full_name LIKE ANY (of_key))
               AND (of_team IS NULL OR checked LIKE ANY (of_team) OR full_name LIKE ANY (of_team)))
            AND (of_member IS NULL OR checked LIKE ANY (of_member)
                 OR full_name LIKE ANY (of_member))
            AND (of_user IS NULL OR checked LIKE ANY (of_user) OR full_name LIKE ANY (of_user))
            AND (of_project IS NULL OR checked LIKE ANY (of_project)
                 OR full_name LIKE ANY (of_project))
        THEN
            models := models || ARRAY[name, target];
            have_image := have_image OR providers ? target
                OR providers ? lower(regexp_replace(target, '^.*/', ''));
        END IF;
    END LOOP;
    IF limited THEN
        models := ARRAY(SELECT DISTINCT each FROM unnest(models) AS each
                        WHERE have_image ORDER BY each);
    END IF;
END
$$;

-- Whether a key's allowed_routes let it both make and edit pictures: the gateway has one switch for
-- the two.
CREATE OR REPLACE FUNCTION routes_allow_images(routes text[]) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN coalesce(cardinality(routes), 0) = 0 OR (
        SELECT bool_and(EXISTS (
            SELECT
            FROM unnest(routes) AS allowed (route)
            CROSS JOIN unnest(ARRAY['/images/', '/v1/images/']) AS folder
            WHERE route IN ('openai_routes', 'llm_api_routes', 'llm_api_routes_without_mcp')
               OR starts_with(folder || work || '/', route || '/')
               OR right(route, 1) = '*' AND starts_with(folder || work, left(route, -1))))
        FROM unnest(ARRAY['generations', 'edits']) AS work);
END
$$;

-- What of a budget is left, in USD; null if it is none.  LiteLLM takes one that is no finite number
-- for none.
CREATE OR REPLACE FUNCTION money_left(
    budget double precision, spend double precision, increase numeric
) RETURNS numeric LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF budget > '-Infinity' AND budget < 'Infinity' THEN
        RETURN CASE WHEN coalesce(spend, 0) < 'Infinity'
                    THEN least(greatest(budget::numeric
                                            + least(greatest(coalesce(increase, 0), -1e12), 1e12)
                                            - greatest(coalesce(spend, 0), -1e12)::numeric,
                                        -1e12), 1e12)
                    ELSE 0 END;
    END IF;
    RETURN NULL;
END
$$;

-- By how much a budget is raised for the time being; LiteLLM means UTC where it names no zone.
CREATE OR REPLACE FUNCTION active_increase(document jsonb) RETURNS numeric
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN moment_of(
        text_at(document, 'temp_budget_expiry')
            || CASE WHEN text_at(document, 'temp_budget_expiry') ~ '(Z|[+-]\d\d(:?\d\d)?)$'
                    THEN '' ELSE 'Z' END
    ) > now() THEN number_at(document, 'temp_budget_increase') END;

-- A view calls functions with the rights of the role that reads it.
GRANT EXECUTE ON FUNCTION texts, names_in, limited_to, models_of, routes_allow_images, money_left,
    active_increase TO PUBLIC;

-- -- Views ----------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION image_gateway.contract_version() RETURNS integer
    LANGUAGE sql IMMUTABLE AS 'SELECT 2';

CREATE OR REPLACE VIEW image_gateway.keys AS
SELECT found.key_hash,
       -- The hash is what LiteLLM itself shows as the id of a key, and its only unique one.
       v.token AS key_id,
       v.key_alias AS key_name,
       CASE
           WHEN v.blocked THEN 'blocked'
           WHEN v.team_id IS NOT NULL AND t.team_id IS NULL THEN 'team_missing'
           WHEN t.blocked THEN 'team_blocked'
           WHEN own.project_id IS NOT NULL AND p.project_id IS NULL THEN 'project_missing'
           WHEN p.blocked THEN 'project_blocked'
           WHEN u.metadata -> 'scim_active' = 'false' THEN 'user_inactive'
           -- In the contract 0 is no limit.
           WHEN v.max_parallel_requests <= 0 OR u.max_parallel_requests <= 0
           THEN 'no_parallel_requests'
           ELSE 'active'
       END AS status,
       routes_allow_images(v.allowed_routes) AND coalesce(k.image_enabled, true) AS image_enabled,
       v.team_id AS group_id,
       -- LiteLLM's teams have no switch for images.
       true AS group_image_enabled,
       NULL::bigint AS quota_remaining,
       least(CASE WHEN v.max_parallel_requests > 0 THEN v.max_parallel_requests END,
             nullif(k.max_concurrency, 0)) AS max_concurrency,
       k.min_start_interval_ms,
       named.models AS allowed_models,
       named.model_map,
       -- As each deployment of a model serves each key there, each account does here.
       NULL::text[] AS account_names,
       'auto' AS route_strategy,
       least(v.expires AT TIME ZONE 'UTC', found.revoke_at AT TIME ZONE 'UTC') AS expires_at,
       NULL::boolean AS quota_allows,
       k.images_remaining,
       least(
           money_left(coalesce(v.max_budget, budgets.of_key), v.spend,
                      active_increase(v.metadata)),
           money_left(t.max_budget, t.spend, 0),
           CASE WHEN v.team_id IS NULL THEN money_left(u.max_budget, u.spend, 0) END,
           money_left(coalesce(budgets.of_member, budgets.of_members), m.spend,
                      active_increase(budgets.member_row)),
           money_left(budgets.of_organization, o.spend, 0),
           money_left(budgets.of_project, p.spend, 0)
       ) AS cost_remaining,
       v.user_id AS owner_id,
       CASE WHEN u.max_parallel_requests > 0 THEN u.max_parallel_requests END
           AS owner_max_concurrency,
       k.json_keepalive_seconds
FROM (
    SELECT token AS key_hash, token, NULL::timestamp AS revoke_at
    FROM public."LiteLLM_VerificationToken"
    UNION ALL
    -- A secret that was replaced works on for a while, with the rights of its successor.
    SELECT d.token, d.active_token_id, d.revoke_at
    FROM public."LiteLLM_DeprecatedVerificationToken" d
    WHERE NOT EXISTS (SELECT FROM public."LiteLLM_VerificationToken" v WHERE v.token = d.token)
) found
JOIN public."LiteLLM_VerificationToken" v ON v.token = found.token
LEFT JOIN public."LiteLLM_TeamTable" t ON t.team_id = v.team_id
LEFT JOIN public."LiteLLM_ModelTable" n ON n.id = t.model_id
CROSS JOIN LATERAL (
    SELECT to_jsonb(v) ->> 'project_id' AS project_id,
           texts(to_jsonb(v) -> 'access_group_ids') AS groups,
           texts(to_jsonb(t) -> 'access_group_ids') AS team_groups,
           text_at(t.metadata, 'team_member_budget_id') AS members_budget_id,
           CASE WHEN jsonb_typeof(n.aliases) = 'object' THEN n.aliases END AS team_aliases
) own
LEFT JOIN public."LiteLLM_UserTable" u ON u.user_id = v.user_id
LEFT JOIN public."LiteLLM_TeamMembership" m ON m.user_id = v.user_id AND m.team_id = t.team_id
LEFT JOIN public."LiteLLM_OrganizationTable" o
    ON o.organization_id = coalesce(v.organization_id, t.organization_id)
LEFT JOIN public."LiteLLM_ProjectTable" p ON p.project_id = own.project_id
-- One look for all budgets, which costs the planner less than a join for each.
CROSS JOIN LATERAL (
    SELECT max(b.max_budget) FILTER (WHERE b.budget_id = v.budget_id) AS of_key,
           max(b.max_budget) FILTER (WHERE b.budget_id = m.budget_id) AS of_member,
           -- What a team gives each member who has no budget of their own.
           max(b.max_budget) FILTER (WHERE b.budget_id = own.members_budget_id
                                       AND b.max_budget > 0 AND v.user_id IS NOT NULL)
               AS of_members,
           max(b.max_budget) FILTER (WHERE b.budget_id = o.budget_id) AS of_organization,
           max(b.max_budget) FILTER (WHERE b.budget_id = p.budget_id) AS of_project,
           (array_agg(to_jsonb(b)) FILTER (WHERE b.budget_id = m.budget_id))[1] AS member_row
    FROM public."LiteLLM_BudgetTable" b
    WHERE b.budget_id = ANY (ARRAY[v.budget_id, m.budget_id, own.members_budget_id, o.budget_id,
                                   p.budget_id])
) budgets
LEFT JOIN key_options k ON k.key_id = v.token
-- The models of access groups.  Those that the key has count against its team's list, too, where
-- the group was given to the team or to the key itself.
CROSS JOIN LATERAL (
    SELECT array_agg(model) FILTER (WHERE g.access_group_id = ANY (own.groups)) AS of_key,
           array_agg(model) FILTER (
               WHERE g.access_group_id = ANY (own.team_groups)
                  OR texts(to_jsonb(g) -> 'assigned_team_ids') && ARRAY[v.team_id]
                  OR texts(to_jsonb(g) -> 'assigned_key_ids') && ARRAY[v.token]) AS of_team
    FROM public."LiteLLM_AccessGroupTable" g
    CROSS JOIN unnest(texts(to_jsonb(g) -> 'access_model_names')) AS model
    WHERE g.access_group_id = ANY (own.groups || own.team_groups)
) granted
-- The lists of models; an array of arrays, which Postgres would take, too, is made flat.
CROSS JOIN LATERAL (
    SELECT ARRAY(SELECT unnest(v.models)) || granted.of_key AS of_key,
           ARRAY(SELECT unnest(t.models)) || granted.of_team AS of_team,
           texts(budgets.member_row -> 'allowed_models') AS of_member,
           -- Only personal keys are held to what their user may.
           CASE WHEN v.team_id IS NULL THEN ARRAY(SELECT unnest(u.models)) END AS of_user,
           ARRAY(SELECT unnest(p.models)) AS of_project
) listed
CROSS JOIN LATERAL models_of(
    (SELECT array_agg(model) FROM image_models) || names_in(own.team_aliases) || names_in(v.aliases)
        || listed.of_key || listed.of_team || listed.of_member || listed.of_user
        || listed.of_project,
    (SELECT jsonb_object_agg(model, provider) FROM image_models), v.team_id, own.team_aliases,
    v.aliases,
    CASE WHEN cardinality(v.models) > 0 THEN limited_to(listed.of_key) END,
    CASE WHEN cardinality(t.models) > 0 THEN limited_to(listed.of_team) END,
    limited_to(listed.of_member),
    -- Words about teams mean nothing to LiteLLM there.
    CASE WHEN listed.of_user && ARRAY['no-default-models'] THEN '{}'
         ELSE limited_to(array_replace(listed.of_user, 'all-team-models', '')) END,
    limited_to(listed.of_project)) named;

-- An account whose credential is LiteLLM's: {"litellm_credential": NAME} or {"litellm_model": ID}
-- stands for the api_key there, as LiteLLM encrypted it.
CREATE OR REPLACE VIEW image_gateway.accounts AS
SELECT a.account_name,
       a.dialect,
       CASE WHEN a.status <> 'active' THEN a.status
            WHEN to_jsonb(m) -> 'blocked' = 'true' THEN 'blocked'
            WHEN source.is_litellm AND source.secret IS NULL THEN 'no_credential'
            ELSE a.status END AS status,
       a.image_enabled,
       a.image_max_concurrency,
       a.base_url,
       a.api_version,
       a.deployments,
       CASE WHEN NOT source.is_litellm THEN a.credential
            WHEN source.secret IS NOT NULL THEN jsonb_build_object(
                'encrypted', jsonb_build_object('scheme', 'litellm', 'value', source.secret))
       END AS credential,
       a.client_version,
       a.responses_model,
       a.codex_route,
       a.proxy_url,
       a.proxy_username,
       a.proxy_password,
       a.routing_weight,
       a.used_percent_primary,
       a.used_percent_secondary,
       a.same_account_retries,
       a.blocked_until,
       a.last_error,
       a.fails_free
FROM accounts a
LEFT JOIN public."LiteLLM_ProxyModelTable" m ON m.model_id = a.credential ->> 'litellm_model'
-- LiteLLM prefers a model's own key to its credential's.  The name of that is encrypted, too, but
-- in rows from before it was.
LEFT JOIN public."LiteLLM_CredentialsTable" c ON c.credential_name = coalesce(
    a.credential ->> 'litellm_credential', text_at(m.litellm_params, 'litellm_credential_name'))
CROSS JOIN LATERAL (
    SELECT coalesce(a.credential ?| ARRAY['litellm_credential', 'litellm_model'], false)
               AS is_litellm,
           coalesce(text_at(m.litellm_params, 'api_key'),
                    text_at(c.credential_values, 'api_key')) AS secret
) source;

-- What the views cannot see, for `image-gateway check`.
CREATE OR REPLACE VIEW image_gateway.warnings AS
SELECT format('%s %s of LiteLLM with budgets for single models (model_max_budget) or for several'
              ' spans of time (budget_limits), which do not hold for pictures here',
              count(*), what) AS warning
FROM (
    SELECT to_jsonb(v) AS spender, 'keys' AS what FROM public."LiteLLM_VerificationToken" v
    UNION ALL
    SELECT to_jsonb(t), 'teams' FROM public."LiteLLM_TeamTable" t
    UNION ALL
    SELECT to_jsonb(u), 'users' FROM public."LiteLLM_UserTable" u
) spenders
WHERE spender -> 'model_max_budget' NOT IN ('{}', 'null')
   OR spender -> 'budget_limits' NOT IN ('[]', 'null')
GROUP BY what
UNION ALL
SELECT format('the account "%s" serves "%s", which image_adapter.image_models lacks: keys with a list'
              ' of models cannot ask for it', a.account_name, served.name)
FROM accounts a
CROSS JOIN unnest(names_in(a.deployments)) AS served (name)
WHERE NOT EXISTS (SELECT FROM image_models i WHERE i.model = served.name)
UNION ALL
SELECT format('image_adapter.key_options has a row for "%s", which is no key of LiteLLM: a key that'
              ' was regenerated has a new id, and has no options until its row has that', k.key_id)
FROM key_options k
WHERE NOT EXISTS (SELECT FROM public."LiteLLM_VerificationToken" v WHERE v.token = k.key_id);

-- -- Charging -------------------------------------------------------------------------------------

-- Whether LiteLLM's table has a column that it had not always.
CREATE OR REPLACE FUNCTION has_column(relation regclass, name text) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = relation AND attname = name AND attnum > 0
                     AND NOT attisdropped);

-- Charges a call: 'charged', 'charged_before', 'too_old' or 'unknown_key'.  The rows are locked in
-- the order in which LiteLLM itself writes them (its _commit_spend_updates_to_db).
CREATE OR REPLACE FUNCTION image_gateway.charge(
    request_id text, key_id text, at timestamptz, model text, account_name text, tokens jsonb,
    images integer, cost numeric
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    pictures integer := greatest(coalesce(charge.images, 0), 0);
    -- Rounded, because a number too close to zero is out of double precision's range.
    price numeric := CASE WHEN charge.cost < 'Infinity'
                          THEN round(greatest(charge.cost, 0), 12) END;
    spender record;
    before image_gateway.keys;
    result text;
BEGIN
    -- A key that was regenerated after the call has another id now.
    SELECT v.token, v.key_alias, v.user_id, v.team_id, t.team_alias,
           coalesce(v.organization_id, t.organization_id) AS organization_id,
           to_jsonb(v) ->> 'project_id' AS project_id
    INTO spender
    FROM public."LiteLLM_VerificationToken" v
    LEFT JOIN public."LiteLLM_TeamTable" t ON t.team_id = v.team_id
    WHERE v.token = coalesce(
        (SELECT known.token
         FROM public."LiteLLM_VerificationToken" known
         WHERE known.token = charge.key_id),
        (SELECT d.active_token_id
         FROM public."LiteLLM_DeprecatedVerificationToken" d
         WHERE d.token = charge.key_id));
    IF NOT FOUND THEN
        RETURN 'unknown_key';
    END IF;
    -- It keeps its id until the charge is committed.
    PERFORM FROM public."LiteLLM_VerificationToken" v WHERE v.token = spender.token FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the key was regenerated or removed in this moment; charge the call again'
            USING ERRCODE = 'serialization_failure';
    END IF;
    result := note_charge(charge.request_id, charge.key_id, charge.at, charge.model,
                          charge.account_name, charge.tokens, pictures, price);
    IF result <> 'charged' THEN
        RETURN result;
    END IF;
    SELECT v.* INTO before FROM image_gateway.keys v WHERE v.key_hash = spender.token;
    -- LiteLLM's own lock on who belongs to a team, which its writers of memberships take first.
    PERFORM pg_advisory_xact_lock(hashtext(spender.team_id));
    BEGIN
        INSERT INTO public."LiteLLM_SpendLogs" (
            request_id, call_type, api_key, spend, total_tokens, prompt_tokens, completion_tokens,
            "startTime", "endTime", model, model_group, "user", team_id, organization_id, status,
            metadata)
        VALUES (
            'image:' || charge.request_id, 'aimage_generation', spender.token, coalesce(price, 0),
            least(token_count(charge.tokens, 'total'), 2147483647),
            least(token_count(charge.tokens, 'input'), 2147483647),
            least(token_count(charge.tokens, 'output'), 2147483647),
            charge.at AT TIME ZONE 'UTC', charge.at AT TIME ZONE 'UTC', coalesce(charge.model, ''),
            coalesce(charge.model, ''), coalesce(spender.user_id, ''), spender.team_id,
            spender.organization_id, 'success',
            jsonb_build_object(
                'status', 'success', 'user_api_key', spender.token,
                'user_api_key_alias', spender.key_alias,
                'user_api_key_user_id', spender.user_id,
                'user_api_key_team_id', spender.team_id,
                'user_api_key_team_alias', spender.team_alias,
                'user_api_key_org_id', spender.organization_id,
                'image_gateway', jsonb_build_object(
                    'account_name', charge.account_name, 'images', pictures)))
        -- Where the table is partitioned, its key has the time, too.
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN 'charged_before';
        END IF;
    EXCEPTION WHEN check_violation THEN
        NULL; -- it is partitioned, and of that time none is left: the call is charged without a row
    END;
    IF price > 0 THEN
        PERFORM add_spend(spender.token, spender.user_id, spender.team_id, spender.organization_id,
                          spender.project_id, price::double precision);
    END IF;
    UPDATE key_options k
    SET images_remaining = k.images_remaining - pictures
    WHERE k.key_id = spender.token AND k.images_remaining IS NOT NULL AND pictures > 0;
    -- As for the standalone tables: a gateway only needs to know at once that nothing is left.  It
    -- may be a budget of others, too, that this call used up.
    PERFORM pg_notify('image_gateway_changed', payload)
    FROM image_gateway.keys v
    CROSS JOIN unnest(ARRAY['key:' || v.key_hash, 'keys']) AS payload
    WHERE v.key_hash = spender.token
      AND (v.images_remaining <= 0 AND before.images_remaining > 0
           OR v.cost_remaining <= 0 AND before.cost_remaining > 0);
    RETURN result;
END
$$;

CREATE OR REPLACE FUNCTION add_spend(
    token text, user_id text, team_id text, organization_id text, project_id text,
    cost double precision
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    UPDATE public."LiteLLM_OrganizationTable" o SET spend = o.spend + cost
    WHERE o.organization_id = add_spend.organization_id;
    UPDATE public."LiteLLM_OrganizationMembership" m SET spend = coalesce(m.spend, 0) + cost
    WHERE m.organization_id = add_spend.organization_id AND m.user_id = add_spend.user_id;
    UPDATE public."LiteLLM_TeamTable" t SET spend = t.spend + cost
    WHERE t.team_id = add_spend.team_id;
    UPDATE public."LiteLLM_UserTable" u SET spend = u.spend + cost
    WHERE u.user_id = add_spend.user_id;
    -- As LiteLLM does it: a member who has no row gets one, and total_spend, which came later than
    -- spend, is never less.
    INSERT INTO public."LiteLLM_TeamMembership" (user_id, team_id)
    SELECT add_spend.user_id, t.team_id
    FROM public."LiteLLM_TeamTable" t
    WHERE t.team_id = add_spend.team_id AND add_spend.user_id IS NOT NULL
      AND t.members_with_roles @> jsonb_build_array(
          jsonb_build_object('user_id', add_spend.user_id))
    ON CONFLICT DO NOTHING;
    EXECUTE 'UPDATE public."LiteLLM_TeamMembership" SET spend = spend + $1'
        || CASE WHEN has_column('public."LiteLLM_TeamMembership"', 'total_spend')
                THEN ', total_spend = greatest(total_spend, spend) + $1' ELSE '' END
        || ' WHERE team_id = $2 AND user_id = $3'
        USING cost, team_id, user_id;
    EXECUTE 'UPDATE public."LiteLLM_VerificationToken" SET spend = spend + $1'
        || CASE WHEN has_column('public."LiteLLM_VerificationToken"', 'total_spend')
                THEN ', total_spend = total_spend + $1' ELSE '' END
        || CASE WHEN has_column('public."LiteLLM_VerificationToken"', 'last_active')
                THEN ', last_active = now() AT TIME ZONE ''UTC''' ELSE '' END
        || ' WHERE token = $2'
        USING cost, token;
    UPDATE public."LiteLLM_ProjectTable" p SET spend = p.spend + cost
    WHERE p.project_id = add_spend.project_id;
END
$$;

REVOKE ALL ON FUNCTION image_gateway.charge, add_spend, has_column FROM PUBLIC;

COMMIT;
