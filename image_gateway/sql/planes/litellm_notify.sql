-- Optional, after litellm.sql: triggers on LiteLLM's own tables that notify running gateways of a
-- change at once.  Without them a change acts within GRANT_TTL_SECONDS.  When LiteLLM regenerates a
-- key, which gives it another id, they also keep its row in image_adapter.key_options with it.  It
-- may be run again.
--
-- Run it as a role that has SELECT and TRIGGER on the "LiteLLM_*" tables, as their owner has, and may
-- create schemas.  All of it is in one schema, so this removes the triggers again:
--     DROP SCHEMA image_adapter_notify CASCADE;

BEGIN;

SET LOCAL image_gateway.plane = 'litellm';
\ir ../parts/notify.sql

-- Whether two rows differ in a column, or in a field of one, such as metadata.scim_active.  A column
-- that this LiteLLM lacks is null in both.
CREATE OR REPLACE FUNCTION image_adapter_notify.differ(one jsonb, other jsonb, columns text[])
    RETURNS boolean LANGUAGE sql IMMUTABLE
    RETURN EXISTS (
        SELECT
        FROM unnest(columns) AS name
        WHERE one #> string_to_array(name, '.') IS DISTINCT FROM other #> string_to_array(name, '.')
    );

-- Whether anything is left of a row's own budget, its budget row's, or what its team gives each
-- member; null without one.
CREATE OR REPLACE FUNCTION image_adapter_notify.has_left(spender jsonb, member_of text DEFAULT NULL)
    RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    budget jsonb;
    members_budget double precision;
BEGIN
    SELECT to_jsonb(b) INTO budget
    FROM public."LiteLLM_BudgetTable" b WHERE b.budget_id = spender ->> 'budget_id';
    SELECT b.max_budget INTO members_budget
    FROM public."LiteLLM_TeamTable" t
    JOIN public."LiteLLM_BudgetTable" b ON b.budget_id = t.metadata ->> 'team_member_budget_id'
    WHERE t.team_id = member_of AND b.max_budget > 0;
    RETURN image_adapter.money_left(
        coalesce((spender ->> 'max_budget')::double precision,
                 (budget ->> 'max_budget')::double precision, members_budget),
        (spender ->> 'spend')::double precision,
        -- What raises a key's budget stands in its metadata, a member's in the budget row.
        image_adapter.active_increase(coalesce(spender -> 'metadata', budget))) > 0;
END
$$;

-- A change of a key is told of the secrets that it replaced, too.  What is spent changes with every
-- call, and each notification costs every gateway a look-up: only that a budget is used up, or is
-- no more, is told.  A payload must be shorter than 8000 bytes.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_key() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE'
        AND NOT image_adapter_notify.differ(to_jsonb(OLD), to_jsonb(NEW), TG_ARGV)
        AND (OLD.spend = NEW.spend
             OR image_adapter_notify.has_left(to_jsonb(OLD))
                IS NOT DISTINCT FROM image_adapter_notify.has_left(to_jsonb(NEW)))
    THEN
        RETURN NULL;
    END IF;
    PERFORM pg_notify('image_gateway_changed', left('key:' || token, 1900))
    FROM (
        SELECT OLD.token
        UNION
        SELECT NEW.token
        UNION
        SELECT d.token FROM public."LiteLLM_DeprecatedVerificationToken" d
        WHERE d.active_token_id IN (OLD.token, NEW.token)
    ) told
    WHERE token IS NOT NULL;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION image_adapter_notify.tell_replaced_key() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('image_gateway_changed', left('key:' || token, 1900))
    FROM (SELECT OLD.token UNION SELECT NEW.token) told
    WHERE token IS NOT NULL;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION image_adapter_notify.keep_options() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.token <> NEW.token THEN
        UPDATE image_adapter.key_options SET key_id = NEW.token WHERE key_id = OLD.token;
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- What may affect any number of keys: its payload means all of them.  LiteLLM makes users in passing,
-- so one without a key is not told.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_keys() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    former jsonb;
    latter jsonb;
    team text;
BEGIN
    former := to_jsonb(OLD);
    latter := to_jsonb(NEW);
    IF TG_TABLE_NAME = 'LiteLLM_TeamMembership' THEN
        team := coalesce(latter, former) ->> 'team_id';
    END IF;
    IF TG_OP = 'UPDATE'
        AND NOT image_adapter_notify.differ(former, latter, TG_ARGV)
        AND (former -> 'spend' IS NOT DISTINCT FROM latter -> 'spend'
             OR image_adapter_notify.has_left(former, team)
                IS NOT DISTINCT FROM image_adapter_notify.has_left(latter, team))
        OR TG_TABLE_NAME = 'LiteLLM_UserTable' AND TG_OP = 'INSERT'
        AND NOT EXISTS (SELECT FROM public."LiteLLM_VerificationToken" v
                        WHERE v.user_id = latter ->> 'user_id')
    THEN
        RETURN NULL;
    END IF;
    PERFORM pg_notify('image_gateway_changed', 'keys');
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- The accounts whose credential is LiteLLM's.  One that is named is not served until it is read again;
-- a name that is cut short matches no account, and all accounts are read again.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_accounts() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    former jsonb;
    latter jsonb;
BEGIN
    former := to_jsonb(OLD);
    latter := to_jsonb(NEW);
    IF TG_OP = 'UPDATE' AND NOT image_adapter_notify.differ(former, latter, TG_ARGV) THEN
        RETURN NULL;
    END IF;
    PERFORM pg_notify('image_gateway_changed', left('account:' || a.account_name, 1900))
    FROM image_adapter.accounts a
    LEFT JOIN public."LiteLLM_ProxyModelTable" m ON m.model_id = a.credential ->> 'litellm_model'
    WHERE a.credential ->> 'litellm_model' IN (former ->> 'model_id', latter ->> 'model_id')
       OR coalesce(a.credential ->> 'litellm_credential',
                   m.litellm_params ->> 'litellm_credential_name')
          IN (former ->> 'credential_name', latter ->> 'credential_name');
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- No trigger names a column outside a text: Postgres would refuse a migration that alters it.

CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public."LiteLLM_VerificationToken"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_key(
        'token', 'key_alias', 'expires', 'models', 'aliases', 'user_id', 'team_id',
        'organization_id', 'project_id', 'access_group_ids', 'max_parallel_requests', 'blocked',
        'max_budget', 'budget_id', 'allowed_routes', 'metadata.temp_budget_increase',
        'metadata.temp_budget_expiry');
CREATE OR REPLACE TRIGGER image_gateway_regenerated
    AFTER UPDATE ON public."LiteLLM_VerificationToken"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.keep_options();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public."LiteLLM_DeprecatedVerificationToken"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_replaced_key();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public."LiteLLM_TeamTable"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_keys(
        'team_id', 'organization_id', 'models', 'blocked', 'max_budget', 'model_id',
        'access_group_ids', 'metadata.team_member_budget_id');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public."LiteLLM_ModelTable"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_keys('id', 'aliases');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public."LiteLLM_UserTable"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_keys(
        'user_id', 'models', 'max_budget', 'max_parallel_requests', 'metadata.scim_active');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public."LiteLLM_TeamMembership"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_keys('user_id', 'team_id', 'budget_id');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public."LiteLLM_OrganizationTable"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_keys('organization_id', 'budget_id');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public."LiteLLM_ProjectTable"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_keys(
        'project_id', 'models', 'blocked', 'budget_id');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public."LiteLLM_BudgetTable"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_keys(
        'budget_id', 'max_budget', 'allowed_models', 'temp_budget_increase', 'temp_budget_expiry');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public."LiteLLM_AccessGroupTable"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_keys(
        'access_group_id', 'access_model_names', 'assigned_team_ids', 'assigned_key_ids');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public."LiteLLM_ProxyModelTable"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_accounts(
        'model_id', 'blocked', 'litellm_params.api_key', 'litellm_params.litellm_credential_name');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public."LiteLLM_CredentialsTable"
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_accounts(
        'credential_name', 'credential_values.api_key');

DO $$
DECLARE
    emptied text;
BEGIN
    FOREACH emptied IN ARRAY ARRAY[
        'VerificationToken', 'DeprecatedVerificationToken', 'TeamTable', 'ModelTable', 'UserTable',
        'TeamMembership', 'OrganizationTable', 'ProjectTable', 'BudgetTable', 'AccessGroupTable',
        'ProxyModelTable', 'CredentialsTable']
    LOOP
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER image_gateway_emptied AFTER TRUNCATE ON public.%I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell(%L)',
            'LiteLLM_' || emptied,
            CASE WHEN emptied IN ('ProxyModelTable', 'CredentialsTable')
                 THEN 'accounts' ELSE 'keys' END);
    END LOOP;
END
$$;

COMMIT;
