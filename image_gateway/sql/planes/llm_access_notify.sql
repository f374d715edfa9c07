-- Optional, after llm_access.sql: triggers on llm-access's own tables that notify running gateways
-- of a change at once.  Without them a change acts within GRANT_TTL_SECONDS.  It may be run again.
--
-- Run it as a role that has SELECT and TRIGGER on the llm_* tables, as their owner has, and may
-- create schemas.  All of it is in one schema, so this removes the triggers again:
--     DROP SCHEMA image_adapter_notify CASCADE;

BEGIN;

SET LOCAL image_gateway.plane = 'llm_access';
\ir ../parts/notify.sql

CREATE OR REPLACE FUNCTION image_adapter_notify.tell_key() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('image_gateway_changed', 'key:' || OLD.key_hash);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('image_gateway_changed', 'key:' || NEW.key_hash);
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- An account that is named is not served until it is read again.  A payload must be shorter than
-- 8000 bytes; a name that is cut short matches no account, and all accounts are read again.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_account() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('image_gateway_changed', left('account:' || OLD.account_name, 1900));
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- A key that is deleted deletes its rows here, too, and its own trigger has notified.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_route() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('image_gateway_changed', 'key:' || key_hash)
        FROM public.llm_keys WHERE key_id = OLD.key_id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('image_gateway_changed', 'key:' || key_hash)
        FROM public.llm_keys WHERE key_id = NEW.key_id;
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- Rollups change with every text call, and each notification costs every gateway a look-up: only a
-- change of whether any quota is left is notified.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_rollup() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    used_before bigint := 0;
    used_after bigint := 0;
    changed text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD.key_id;
    ELSE
        changed := NEW.key_id;
        used_after := NEW.billable_tokens;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        used_before := OLD.billable_tokens;
    END IF;
    PERFORM pg_notify('image_gateway_changed', 'key:' || key_hash)
    FROM public.llm_keys
    WHERE key_id = changed
      AND (quota_billable_limit > used_before) <> (quota_billable_limit > used_after);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- The parts of a snapshot that the accounts view uses.
CREATE OR REPLACE FUNCTION image_adapter_notify.budgets(snapshot jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN (
        SELECT jsonb_agg(jsonb_build_array(
            entry -> 'name', entry -> 'plan_type',
            entry -> 'primary_remaining_percent', entry -> 'secondary_remaining_percent'
        ))
        FROM jsonb_array_elements(
            CASE WHEN jsonb_typeof(snapshot -> 'accounts') = 'array'
                 THEN snapshot -> 'accounts' ELSE '[]' END
        ) AS entry
    );

-- A snapshot's times change with each refresh, its percentages seldom.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_budgets() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF image_adapter_notify.budgets(CASE WHEN TG_OP <> 'INSERT' THEN OLD.snapshot_json END)
       IS DISTINCT FROM
       image_adapter_notify.budgets(CASE WHEN TG_OP <> 'DELETE' THEN NEW.snapshot_json END)
    THEN
        PERFORM pg_notify('image_gateway_changed', 'accounts');
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- llm-access saves whole rows, changed or not: only a change of a value that is read is notified.

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE ON public.llm_keys
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_key();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.llm_keys
    FOR EACH ROW
    WHEN ((OLD.key_id, OLD.name, OLD.key_hash, OLD.status, OLD.provider_type, OLD.protocol_family,
           OLD.quota_billable_limit)
          IS DISTINCT FROM
          (NEW.key_id, NEW.name, NEW.key_hash, NEW.status, NEW.provider_type, NEW.protocol_family,
           NEW.quota_billable_limit))
    EXECUTE FUNCTION image_adapter_notify.tell_key();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.llm_keys
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE ON public.llm_key_route_config
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_route();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.llm_key_route_config
    FOR EACH ROW
    WHEN ((OLD.key_id, OLD.route_strategy, OLD.fixed_account_name, OLD.auto_account_names_json,
           OLD.account_group_id, OLD.model_name_map_json, OLD.request_max_concurrency,
           OLD.request_min_start_interval_ms, OLD.codex_image_generation_enabled)
          IS DISTINCT FROM
          (NEW.key_id, NEW.route_strategy, NEW.fixed_account_name, NEW.auto_account_names_json,
           NEW.account_group_id, NEW.model_name_map_json, NEW.request_max_concurrency,
           NEW.request_min_start_interval_ms, NEW.codex_image_generation_enabled))
    EXECUTE FUNCTION image_adapter_notify.tell_route();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.llm_key_route_config
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE ON public.llm_key_usage_rollups
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_rollup();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.llm_key_usage_rollups
    FOR EACH ROW
    WHEN (OLD.billable_tokens IS DISTINCT FROM NEW.billable_tokens)
    EXECUTE FUNCTION image_adapter_notify.tell_rollup();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.llm_key_usage_rollups
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE ON public.llm_account_groups
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell('keys');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.llm_account_groups
    FOR EACH ROW
    WHEN ((OLD.group_id, OLD.provider_type, OLD.account_names_json)
          IS DISTINCT FROM (NEW.group_id, NEW.provider_type, NEW.account_names_json))
    EXECUTE FUNCTION image_adapter_notify.tell('keys');
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.llm_account_groups
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT ON public.llm_codex_accounts
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell('accounts');
CREATE OR REPLACE TRIGGER image_gateway_removed
    AFTER DELETE ON public.llm_codex_accounts
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_account();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.llm_codex_accounts
    FOR EACH ROW
    WHEN ((OLD.account_name, OLD.account_id, OLD.status, OLD.auth_json, OLD.settings_json)
          IS DISTINCT FROM
          (NEW.account_name, NEW.account_id, NEW.status, NEW.auth_json, NEW.settings_json))
    EXECUTE FUNCTION image_adapter_notify.tell_account();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.llm_codex_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts');

CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.llm_proxy_configs
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.llm_proxy_bindings
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts');

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE ON public.llm_runtime_config
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell('accounts');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.llm_runtime_config
    FOR EACH ROW
    WHEN ((OLD.codex_client_version, OLD.codex_weight_free, OLD.codex_weight_plus,
           OLD.codex_weight_pro5x, OLD.codex_weight_pro20x)
          IS DISTINCT FROM
          (NEW.codex_client_version, NEW.codex_weight_free, NEW.codex_weight_plus,
           NEW.codex_weight_pro5x, NEW.codex_weight_pro20x))
    EXECUTE FUNCTION image_adapter_notify.tell('accounts');

CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public.llm_codex_status_cache
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_budgets();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.llm_codex_status_cache
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts');

COMMIT;
