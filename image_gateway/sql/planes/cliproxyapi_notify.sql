-- Optional, after cliproxyapi.sql: triggers on the store of CLIProxyAPI that notify running gateways
-- of a change at once.  Without them a change acts within GRANT_TTL_SECONDS.  It may be run again.
--
-- It adds triggers (image_gateway_...) to auth_store and config_store, in the schema in which
-- cliproxyapi.sql found them.
--
-- Run it as a role that has SELECT and TRIGGER on these tables, as their owner has, and may create
-- schemas.  All of it is in one schema, so this removes the triggers again:
--     DROP SCHEMA image_adapter_notify CASCADE;

BEGIN;

SET LOCAL image_gateway.plane = 'cliproxyapi';
\ir ../parts/notify.sql

-- An account that is named is not served until it is read again.  A payload must be shorter than
-- 8000 bytes; a name that is cut short matches no account, and all accounts are read again.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell_account() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('image_gateway_changed', left('account:' || OLD.id, 1900));
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- Whole rows are saved, changed or not, and other credentials than Codex's, too: only a change of a
-- value that is read is notified.
DO $$
DECLARE
    store text;
    settings text;
BEGIN
    SELECT max(found.name) FILTER (WHERE r.ev_class = 'image_adapter.auth_store'::regclass),
           max(found.name) FILTER (WHERE r.ev_class = 'image_adapter.config_store'::regclass)
    INTO store, settings
    FROM pg_rewrite r
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
    CROSS JOIN LATERAL (SELECT d.refobjid::regclass::text AS name) found;

    EXECUTE format($sql$
        CREATE OR REPLACE TRIGGER image_gateway_made
            AFTER INSERT ON %s
            FOR EACH ROW
            WHEN (NEW.content ->> 'type' ILIKE '%%codex%%')
            EXECUTE FUNCTION image_adapter_notify.tell('accounts')
    $sql$, store);
    EXECUTE format($sql$
        CREATE OR REPLACE TRIGGER image_gateway_removed
            AFTER DELETE ON %s
            FOR EACH ROW
            WHEN (OLD.content ->> 'type' ILIKE '%%codex%%')
            EXECUTE FUNCTION image_adapter_notify.tell_account()
    $sql$, store);
    EXECUTE format($sql$
        CREATE OR REPLACE TRIGGER image_gateway_changed
            AFTER UPDATE ON %s
            FOR EACH ROW
            WHEN ((OLD.content ->> 'type' ILIKE '%%codex%%' OR NEW.content ->> 'type' ILIKE '%%codex%%')
                  AND (OLD.id, OLD.content -> 'type', OLD.content -> 'access_token',
                       OLD.content -> 'account_id', OLD.content -> 'disabled',
                       OLD.content -> 'proxy_url', OLD.content -> 'weight')
                      IS DISTINCT FROM
                      (NEW.id, NEW.content -> 'type', NEW.content -> 'access_token',
                       NEW.content -> 'account_id', NEW.content -> 'disabled',
                       NEW.content -> 'proxy_url', NEW.content -> 'weight'))
            EXECUTE FUNCTION image_adapter_notify.tell_account()
    $sql$, store);
    EXECUTE format($sql$
        CREATE OR REPLACE TRIGGER image_gateway_emptied
            AFTER TRUNCATE ON %s
            FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts')
    $sql$, store);
    EXECUTE format($sql$
        CREATE OR REPLACE TRIGGER image_gateway_made
            AFTER INSERT OR DELETE OR TRUNCATE ON %s
            FOR EACH STATEMENT EXECUTE FUNCTION image_adapter_notify.tell('accounts')
    $sql$, settings);
    EXECUTE format($sql$
        CREATE OR REPLACE TRIGGER image_gateway_changed
            AFTER UPDATE ON %s
            FOR EACH ROW
            WHEN (OLD.content IS DISTINCT FROM NEW.content)
            EXECUTE FUNCTION image_adapter_notify.tell('accounts')
    $sql$, settings);
END
$$;

COMMIT;
