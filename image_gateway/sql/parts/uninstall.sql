-- Removes the contract, and the adapter with its own tables: accounts, options and the record of
-- what was charged.  Nothing of the control plane's own is touched.  Stop the gateways before.  The
-- roles stay; DROP OWNED BY image_gateway_reader, then DROP ROLE removes one.
DO $$
DECLARE
    installed text;
BEGIN
    IF to_regprocedure('image_gateway.plane_name()') IS NOT NULL THEN
        EXECUTE 'SELECT image_gateway.plane_name()' INTO installed;
        IF installed <> current_setting('image_gateway.plane') THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format(
                'the control plane of this database is %s, not %s; nothing was removed.',
                installed, current_setting('image_gateway.plane'));
        END IF;
    END IF;
END
$$;

-- Removing triggers waits for the control plane's running transactions and blocks later ones.
SET LOCAL lock_timeout = '5s';
DROP SCHEMA IF EXISTS image_gateway CASCADE;
DROP SCHEMA IF EXISTS image_adapter_notify CASCADE;
DROP SCHEMA IF EXISTS image_adapter CASCADE;
