-- Optional, after sub2api.sql: triggers on sub2api's own tables (api_keys, users, groups,
-- user_allowed_groups, user_subscriptions, accounts, account_groups, proxies) that notify running
-- gateways of a change at once.  Without them a change acts within GRANT_TTL_SECONDS.  It may be run
-- again.
--
-- Run it as the owner of sub2api's tables.  All of it is in one schema, so this removes the triggers
-- again:
--     DROP SCHEMA image_adapter_notify CASCADE;

BEGIN;

SET LOCAL image_gateway.plane = 'sub2api';
\ir ../parts/notify.sql

CREATE OR REPLACE FUNCTION image_adapter_notify.tell_key() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('image_gateway_changed', 'key:' || image_adapter.hash_of(OLD.key));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('image_gateway_changed', 'key:' || image_adapter.hash_of(NEW.key));
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- What a key has used changes with every call, and each notification costs every gateway a look-up:
-- only a change of whether anything is left is notified.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_spent_key() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF ((OLD.quota <= 0 OR OLD.quota_used < OLD.quota) AND image_adapter.windows_allow(OLD))
       <> ((NEW.quota <= 0 OR NEW.quota_used < NEW.quota) AND image_adapter.windows_allow(NEW))
    THEN
        PERFORM pg_notify('image_gateway_changed', 'key:' || image_adapter.hash_of(NEW.key));
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION image_adapter_notify.tell_keys_of_user() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('image_gateway_changed', 'key:' || image_adapter.hash_of(k.key))
    FROM public.api_keys k
    WHERE k.user_id = NEW.id AND k.deleted_at IS NULL;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- The keys of a user in a group; a user who is deleted deletes the keys, too, and their own trigger
-- has notified.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_keys_of_member() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('image_gateway_changed', 'key:' || image_adapter.hash_of(k.key))
    FROM public.api_keys k
    WHERE (k.user_id = OLD.user_id AND k.group_id = OLD.group_id
           OR k.user_id = NEW.user_id AND k.group_id = NEW.group_id)
      AND k.deleted_at IS NULL;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- As tell_spent_key, of a subscription.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_spent_plan() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('image_gateway_changed', 'key:' || image_adapter.hash_of(k.key))
    FROM public.groups g
    JOIN public.api_keys k ON k.group_id = g.id
    WHERE g.id = NEW.group_id AND k.user_id = NEW.user_id AND k.deleted_at IS NULL
      AND image_adapter.plan_allows(OLD, g) <> image_adapter.plan_allows(NEW, g);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- An account that is named is not served until it is read again.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_account() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('image_gateway_changed',
                      'account:' || image_adapter.account_label(OLD.id, OLD.name));
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- As tell_spent_key, of an account.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_spent_account() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF image_adapter.quota_allows(OLD.extra) <> image_adapter.quota_allows(NEW.extra) THEN
        PERFORM pg_notify('image_gateway_changed',
                          'account:' || image_adapter.account_label(OLD.id, OLD.name));
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- sub2api saves whole rows, changed or not: only a change of a value that is read is notified.

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE ON public.api_keys
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_key();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.api_keys
    FOR EACH ROW
    WHEN ((OLD.id, OLD.user_id, OLD.key, OLD.name, OLD.group_id, OLD.status, OLD.ip_whitelist,
           OLD.ip_blacklist, OLD.quota, OLD.expires_at, OLD.rate_limit_5h, OLD.rate_limit_1d,
           OLD.rate_limit_7d, OLD.deleted_at)
          IS DISTINCT FROM
          (NEW.id, NEW.user_id, NEW.key, NEW.name, NEW.group_id, NEW.status, NEW.ip_whitelist,
           NEW.ip_blacklist, NEW.quota, NEW.expires_at, NEW.rate_limit_5h, NEW.rate_limit_1d,
           NEW.rate_limit_7d, NEW.deleted_at))
    EXECUTE FUNCTION image_adapter_notify.tell_key();
CREATE OR REPLACE TRIGGER image_gateway_spent
    AFTER UPDATE ON public.api_keys
    FOR EACH ROW
    WHEN ((OLD.quota_used, OLD.usage_5h, OLD.usage_1d, OLD.usage_7d, OLD.window_5h_start,
           OLD.window_1d_start, OLD.window_7d_start)
          IS DISTINCT FROM
          (NEW.quota_used, NEW.usage_5h, NEW.usage_1d, NEW.usage_7d, NEW.window_5h_start,
           NEW.window_1d_start, NEW.window_7d_start))
    EXECUTE FUNCTION image_adapter_notify.tell_spent_key();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.users
    FOR EACH ROW
    WHEN ((OLD.status, OLD.concurrency, OLD.deleted_at, OLD.balance > 0)
          IS DISTINCT FROM (NEW.status, NEW.concurrency, NEW.deleted_at, NEW.balance > 0))
    EXECUTE FUNCTION image_adapter_notify.tell_keys_of_user();

-- A group has no counters, and columns that only newer versions of sub2api have are read.
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.groups
    FOR EACH ROW
    WHEN (to_jsonb(OLD) - 'updated_at' IS DISTINCT FROM to_jsonb(NEW) - 'updated_at')
    EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE ON public.user_allowed_groups
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_keys_of_member();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.user_allowed_groups
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE ON public.user_subscriptions
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_keys_of_member();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.user_subscriptions
    FOR EACH ROW
    WHEN ((OLD.user_id, OLD.group_id, OLD.status, OLD.expires_at, OLD.deleted_at)
          IS DISTINCT FROM
          (NEW.user_id, NEW.group_id, NEW.status, NEW.expires_at, NEW.deleted_at))
    EXECUTE FUNCTION image_adapter_notify.tell_keys_of_member();
CREATE OR REPLACE TRIGGER image_gateway_spent
    AFTER UPDATE ON public.user_subscriptions
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_spent_plan();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.user_subscriptions
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

-- Keys name their accounts, so a new one, another name and another place are theirs, too.
CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT ON public.accounts
    FOR EACH ROW WHEN (NEW.platform = 'openai')
    EXECUTE FUNCTION image_adapter_notify.tell('accounts', 'keys');
CREATE OR REPLACE TRIGGER image_gateway_removed
    AFTER DELETE ON public.accounts
    FOR EACH ROW WHEN (OLD.platform = 'openai')
    EXECUTE FUNCTION image_adapter_notify.tell_account();
CREATE OR REPLACE TRIGGER image_gateway_placed
    AFTER UPDATE ON public.accounts
    FOR EACH ROW
    WHEN ((OLD.platform = 'openai' OR NEW.platform = 'openai')
          AND (OLD.id, OLD.name, OLD.platform, OLD.type, OLD.priority, OLD.deleted_at,
               OLD.extra -> 'privacy_mode')
              IS DISTINCT FROM
              (NEW.id, NEW.name, NEW.platform, NEW.type, NEW.priority, NEW.deleted_at,
               NEW.extra -> 'privacy_mode'))
    EXECUTE FUNCTION image_adapter_notify.tell('accounts', 'keys');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.accounts
    FOR EACH ROW
    WHEN (OLD.platform = 'openai'
          AND (OLD.name, OLD.platform, OLD.type, OLD.deleted_at, OLD.status, OLD.credentials,
               OLD.proxy_id, OLD.concurrency, OLD.schedulable, OLD.expires_at,
               OLD.auto_pause_on_expired, OLD.rate_limit_reset_at, OLD.overload_until,
               OLD.temp_unschedulable_until,
               OLD.extra #> '{model_rate_limits,openai:image_generation}')
              IS DISTINCT FROM
              (NEW.name, NEW.platform, NEW.type, NEW.deleted_at, NEW.status, NEW.credentials,
               NEW.proxy_id, NEW.concurrency, NEW.schedulable, NEW.expires_at,
               NEW.auto_pause_on_expired, NEW.rate_limit_reset_at, NEW.overload_until,
               NEW.temp_unschedulable_until,
               NEW.extra #> '{model_rate_limits,openai:image_generation}'))
    EXECUTE FUNCTION image_adapter_notify.tell_account();
CREATE OR REPLACE TRIGGER image_gateway_spent
    AFTER UPDATE ON public.accounts
    FOR EACH ROW
    WHEN (OLD.platform = 'openai' AND OLD.type = 'apikey'
          AND OLD.extra IS DISTINCT FROM NEW.extra)
    EXECUTE FUNCTION image_adapter_notify.tell_spent_account();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.accounts
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts');

CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.account_groups
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.proxies
    FOR EACH ROW
    WHEN ((OLD.protocol, OLD.host, OLD.port, OLD.username, OLD.password, OLD.status,
           OLD.deleted_at, to_jsonb(OLD) -> 'expires_at')
          IS DISTINCT FROM
          (NEW.protocol, NEW.host, NEW.port, NEW.username, NEW.password, NEW.status,
           NEW.deleted_at, to_jsonb(NEW) -> 'expires_at'))
    EXECUTE FUNCTION image_adapter_notify.tell('accounts');

COMMIT;
