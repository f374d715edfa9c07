-- The least-privilege role of the image gateway's daemon.  Run it as the owner of the views, after
-- an adapter; it may be run again.  Then give the role a password:
--     ALTER ROLE image_gateway_reader PASSWORD '...';
-- and put it into IMAGE_GATEWAY_CONTROL_DATABASE_URL.

DO $$
DECLARE
    setting text;
BEGIN
    IF to_regclass('image_gateway.keys') IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE =
            'the image gateway''s views are not here yet: run `image-gateway schema NAME` with the'
            ' name of this control plane first.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'image_gateway_reader') THEN
        CREATE ROLE image_gateway_reader LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT;
    END IF;
    -- Only what it lacks is set: whoever may not change the role can run this file again.  A look-up
    -- takes milliseconds; compiling it (jit), which a big estimate brings about, takes longer.
    FOREACH setting IN ARRAY ARRAY['default_transaction_read_only=on', 'jit=off'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'image_gateway_reader'
                       AND setting = ANY (rolconfig)) THEN
            EXECUTE format('ALTER ROLE image_gateway_reader SET %s', replace(setting, '=', ' = '));
        END IF;
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format(
        'the role %I may not make or change the role image_gateway_reader: run this file as a role'
        ' with CREATEROLE or as a superuser; later the owner of the views can run it again.',
        current_user);
END
$$;

GRANT USAGE ON SCHEMA image_gateway TO image_gateway_reader;
GRANT SELECT ON image_gateway.keys, image_gateway.accounts TO image_gateway_reader;
GRANT EXECUTE ON FUNCTION image_gateway.contract_version() TO image_gateway_reader;

-- What an adapter tells `image-gateway check`.
DO $$
BEGIN
    IF to_regclass('image_gateway.warnings') IS NOT NULL THEN
        GRANT SELECT ON image_gateway.warnings TO image_gateway_reader;
    END IF;
END
$$;
