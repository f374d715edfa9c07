-- The least-privilege role of the image gateway's daemon.  Run it as the owner of the views, after
-- an adapter; it may be run again.  Then give the role a password:
--     ALTER ROLE image_gateway_reader PASSWORD '...';
-- and put it into IMAGE_GATEWAY_CONTROL_DATABASE_URL.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'image_gateway_reader') THEN
        CREATE ROLE image_gateway_reader LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT;
    END IF;
END
$$;

ALTER ROLE image_gateway_reader SET default_transaction_read_only = on;
-- A look-up takes milliseconds; compiling it, which a big estimate brings about, takes longer.
ALTER ROLE image_gateway_reader SET jit = off;

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
