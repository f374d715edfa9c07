-- Optional, after new_api.sql: triggers on new-api's own tables that notify running gateways of a
-- change at once.  Without them a change acts within GRANT_TTL_SECONDS.  It may be run again.
--
-- Run it as a role that has SELECT and TRIGGER on tokens, users, channels, abilities and options,
-- as their owner has, and may create schemas.  All of it is in one schema, so this removes the
-- triggers again:
--     DROP SCHEMA image_adapter_notify CASCADE;

BEGIN;

SET LOCAL image_gateway.plane = 'new_api';
\ir ../parts/notify.sql

CREATE OR REPLACE FUNCTION image_adapter_notify.tell_key() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('image_gateway_changed',
                          'key:' || image_adapter.hash_of('sk-' || OLD."key"::text));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('image_gateway_changed',
                          'key:' || image_adapter.hash_of('sk-' || NEW."key"::text));
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- A user's keys.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_user() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('image_gateway_changed',
                      'key:' || image_adapter.hash_of('sk-' || t."key"::text))
    FROM public.tokens t
    WHERE t.user_id = OLD.id AND t.deleted_at IS NULL;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- Whether a list of models has one that makes images.
CREATE OR REPLACE FUNCTION image_adapter_notify.has_images(models text) RETURNS boolean
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN image_adapter.is_image_model(models)
        OR EXISTS (SELECT FROM image_adapter.image_models i
                   WHERE i.model = ANY (string_to_array(models, ',')));
END
$$;

-- What of channel_info decides which keys of a channel are accounts; it also counts calls.
CREATE OR REPLACE FUNCTION image_adapter_notify.keys_of(channel_info text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    info jsonb := image_adapter.json_of(channel_info);
BEGIN
    RETURN jsonb_build_array(info -> 'is_multi_key', info -> 'multi_key_status_list');
END
$$;

-- The accounts of a channel, each by its name: one that is named is not served until it is read
-- again.  Which of them there are is in the keys' rows, too.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_channel() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    info jsonb;
    are_others boolean := true;
BEGIN
    IF NOT image_adapter_notify.has_images(concat_ws(',', OLD.models, NEW.models)) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        are_others := (OLD.type, OLD."key", image_adapter_notify.keys_of(OLD.channel_info::text))
            IS DISTINCT FROM
            (NEW.type, NEW."key", image_adapter_notify.keys_of(NEW.channel_info::text));
        IF NOT are_others
            AND (OLD.status, OLD.weight, OLD.created_time, OLD.base_url, OLD.other, OLD.models,
                 OLD.model_mapping, OLD.setting)
                IS NOT DISTINCT FROM
                (NEW.status, NEW.weight, NEW.created_time, NEW.base_url, NEW.other, NEW.models,
                 NEW.model_mapping, NEW.setting)
        THEN
            RETURN NULL;
        END IF;
    END IF;
    IF TG_OP = 'INSERT' THEN
        PERFORM pg_notify('image_gateway_changed', 'accounts');
    ELSE
        info := image_adapter.json_of(OLD.channel_info::text);
        IF info -> 'is_multi_key' = 'true' THEN
            PERFORM pg_notify('image_gateway_changed',
                              format('account:%s#%s', OLD.id, listed.place - 1))
            FROM image_adapter.channel_keys(OLD."key"::text,
                                            image_adapter.json_of(OLD."key"::text)) AS listed;
        ELSE
            PERFORM pg_notify('image_gateway_changed', 'account:' || OLD.id);
        END IF;
    END IF;
    IF are_others THEN
        PERFORM pg_notify('image_gateway_changed', 'keys');
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION image_adapter_notify.tell_ability() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF image_adapter_notify.has_images(concat_ws(',', OLD.model, NEW.model)) THEN
        PERFORM pg_notify('image_gateway_changed', 'keys');
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- Quotas change with every call of any kind, and each notification costs every gateway a look-up:
-- only a change of whether any is left is notified.

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE ON public.tokens
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_key();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.tokens
    FOR EACH ROW
    WHEN ((OLD.id, OLD.user_id, OLD."key", OLD.status, OLD.name, OLD.expired_time,
           OLD.remain_quota > 0, OLD.unlimited_quota, OLD.model_limits_enabled, OLD.model_limits,
           OLD.allow_ips, OLD."group", OLD.deleted_at IS NULL)
          IS DISTINCT FROM
          (NEW.id, NEW.user_id, NEW."key", NEW.status, NEW.name, NEW.expired_time,
           NEW.remain_quota > 0, NEW.unlimited_quota, NEW.model_limits_enabled, NEW.model_limits,
           NEW.allow_ips, NEW."group", NEW.deleted_at IS NULL)
          -- Only newer versions of new-api have the column.
          OR NEW."group" = 'auto'
             AND to_jsonb(OLD) -> 'auto_groups' IS DISTINCT FROM to_jsonb(NEW) -> 'auto_groups')
    EXECUTE FUNCTION image_adapter_notify.tell_key();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.tokens
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_removed
    AFTER DELETE ON public.users
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_user();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.users
    FOR EACH ROW
    WHEN ((OLD.id, OLD.status, OLD.quota > 0, OLD."group", OLD.deleted_at IS NULL)
          IS DISTINCT FROM
          (NEW.id, NEW.status, NEW.quota > 0, NEW."group", NEW.deleted_at IS NULL))
    EXECUTE FUNCTION image_adapter_notify.tell_user();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.users
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE ON public.channels
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_channel();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.channels
    FOR EACH ROW
    WHEN ((OLD.type, OLD."key", OLD.status, OLD.weight, OLD.created_time, OLD.base_url, OLD.other,
           OLD.models, OLD.model_mapping, OLD.setting, OLD.channel_info::text)
          IS DISTINCT FROM
          (NEW.type, NEW."key", NEW.status, NEW.weight, NEW.created_time, NEW.base_url, NEW.other,
           NEW.models, NEW.model_mapping, NEW.setting, NEW.channel_info::text))
    EXECUTE FUNCTION image_adapter_notify.tell_channel();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.channels
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts');

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE ON public.abilities
    FOR EACH ROW EXECUTE FUNCTION image_adapter_notify.tell_ability();
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.abilities
    FOR EACH ROW
    WHEN ((OLD."group", OLD.model, OLD.channel_id, OLD.enabled, OLD.priority, OLD.weight)
          IS DISTINCT FROM
          (NEW."group", NEW.model, NEW.channel_id, NEW.enabled, NEW.priority, NEW.weight))
    EXECUTE FUNCTION image_adapter_notify.tell_ability();
CREATE OR REPLACE TRIGGER image_gateway_emptied
    AFTER TRUNCATE ON public.abilities
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');

CREATE OR REPLACE TRIGGER image_gateway_made
    AFTER INSERT OR DELETE OR TRUNCATE ON public.options
    FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('keys');
CREATE OR REPLACE TRIGGER image_gateway_changed
    AFTER UPDATE ON public.options
    FOR EACH ROW
    WHEN (OLD.value IS DISTINCT FROM NEW.value
          AND NEW."key" IN ('UserUsableGroups', 'group_ratio_setting.group_special_usable_group',
                            'GroupRatio', 'AutoGroups', 'QuotaPerUnit'))
    EXECUTE FUNCTION image_adapter_notify.tell('keys');

COMMIT;
