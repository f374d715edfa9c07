-- Begins an adapter's notify file: the schema of its triggers, and what all of them need.

-- Creating a trigger takes a lock that waits for the control plane's running writes and blocks later
-- ones.
SET LOCAL lock_timeout = '5s';

DO $$
DECLARE
    wanted text := current_setting('image_gateway.plane');
    installed text;
BEGIN
    IF to_regprocedure('image_gateway.plane_name()') IS NOT NULL THEN
        EXECUTE 'SELECT image_gateway.plane_name()' INTO installed;
    END IF;
    IF installed IS DISTINCT FROM wanted THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format(
            'the %1$s adapter is not installed here: run what `image-gateway schema %1$s` prints,'
            ' then this file again.', wanted);
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS image_adapter_notify;

-- The control plane writes its tables, maybe as a role without rights on the adapter, and a trigger
-- that fails makes the write fail.  So each function of a trigger runs with its owner's rights and a
-- fixed search_path, and gives up in silence: the change then acts within GRANT_TTL_SECONDS.
CREATE OR REPLACE FUNCTION image_adapter_notify.tell() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('image_gateway_changed', payload) FROM unnest(TG_ARGV) AS payload;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;
