-- Optional, after codex_lb.sql: triggers on codex-lb's own tables that notify running gateways of a
-- change at once.  Without them a change acts within GRANT_TTL_SECONDS.  It may be run again.
--
-- It adds triggers (image_gateway_...) to api_keys, api_key_accounts, api_key_limits, accounts,
-- account_proxy_bindings, proxy_pools, proxy_pool_members, proxy_endpoints and dashboard_settings.
-- The budgets that accounts have used (usage_history) change every minute and are not notified.
--
-- Run it as a role that has SELECT and TRIGGER on these tables, as their owner has, and may create
-- schemas.  All of it is in one schema, so this removes the triggers again:
--     DROP SCHEMA image_adapter_notify CASCADE;

BEGIN;

SET LOCAL image_gateway.plane = 'codex_lb';
\ir ../parts/notify.sql

-- A payload must be shorter than 8000 bytes.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_key() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('image_gateway_changed', left('key:' || OLD.key_hash, 1900));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('image_gateway_changed', left('key:' || NEW.key_hash, 1900));
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- For a row that belongs to a key.  A key that is deleted deletes its rows, too, and its own trigger
-- has notified.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_key_of() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('image_gateway_changed', left('key:' || key_hash, 1900))
        FROM public.api_keys WHERE id = OLD.api_key_id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('image_gateway_changed', left('key:' || key_hash, 1900))
        FROM public.api_keys WHERE id = NEW.api_key_id;
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- An account that is named is not served until it is read again.  A name that is cut short matches
-- no account, and all accounts are read again.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_account() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('image_gateway_changed', left('account:' || OLD.id, 1900));
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- Only a change of a value that is read is notified: a key's last use, an account's refresh and the
-- like change all the time.

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE ON public.api_keys
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_key();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.api_keys
    FOR EACH ROW
    WHEN ((OLD.id, OLD.name, OLD.key_hash, OLD.allowed_models, OLD.enforced_model,
           OLD.account_assignment_scope_enabled, OLD.expires_at, OLD.is_active)
          IS DISTINCT FROM
          (NEW.id, NEW.name, NEW.key_hash, NEW.allowed_models, NEW.enforced_model,
           NEW.account_assignment_scope_enabled, NEW.expires_at, NEW.is_active))
    EXECUTE FUNCTION image_adapter_notify.tell_key();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public.api_key_accounts
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_key_of();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.api_key_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

-- The value of a limit changes with every text call, and each notification costs every gateway a
-- look-up: only a change of whether anything is left is notified.
CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE ON public.api_key_limits
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_key_of();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.api_key_limits
    FOR EACH ROW
    WHEN ((OLD.api_key_id, OLD.limit_type, OLD.max_value, OLD.model_filter, OLD.reset_at,
           OLD.max_value > OLD.current_value)
          IS DISTINCT FROM
          (NEW.api_key_id, NEW.limit_type, NEW.max_value, NEW.model_filter, NEW.reset_at,
           NEW.max_value > NEW.current_value))
    EXECUTE FUNCTION image_adapter_notify.tell_key_of();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.api_key_limits
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT ON public.accounts
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell('accounts');
CREATE OR REPLACE TRIGGER image_gateway_removed
    AFTER DELETE ON public.accounts
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_account();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.accounts
    FOR EACH ROW
    WHEN ((OLD.id, OLD.chatgpt_account_id, OLD.routing_policy, OLD.access_token_encrypted,
           OLD.status, OLD.reset_at, OLD.blocked_at, OLD.delete_requested_at)
          IS DISTINCT FROM
          (NEW.id, NEW.chatgpt_account_id, NEW.routing_policy, NEW.access_token_encrypted,
           NEW.status, NEW.reset_at, NEW.blocked_at, NEW.delete_requested_at))
    EXECUTE FUNCTION image_adapter_notify.tell_account();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.accounts
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts');

CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF account_id, pool_id, is_active
    ON public.account_proxy_bindings
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF id, is_active ON public.proxy_pools
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR DELETE OR TRUNCATE
    OR UPDATE OF id, pool_id, endpoint_id, sort_order, is_active ON public.proxy_pool_members
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR DELETE OR TRUNCATE
    OR UPDATE OF id, scheme, host, port, username, password_encrypted, is_active
    ON public.proxy_endpoints
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR DELETE OR TRUNCATE
    OR UPDATE OF id, routing_strategy, single_account_id, upstream_proxy_routing_enabled,
                 upstream_proxy_default_pool_id
    ON public.dashboard_settings
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts');

COMMIT;
