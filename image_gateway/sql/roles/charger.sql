-- The role of `image-gateway control usage apply`: it may charge calls and nothing else.  Run it as
-- the owner of the views, after an adapter; it may be run again.  Then give the role a password:
--     ALTER ROLE image_gateway_charger PASSWORD '...';
-- and put it into IMAGE_GATEWAY_ADMIN_DATABASE_URL where usage is applied.

BEGIN;

SET LOCAL search_path = {own_tables}, pg_temp;

DO $$
BEGIN
    IF to_regproc('image_gateway.charge') IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE =
            'image_gateway.charge is not here: run `image-gateway schema {plane}` first.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'image_gateway_charger') THEN
        CREATE ROLE image_gateway_charger LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT;
    END IF;
END
$$;

GRANT USAGE ON SCHEMA image_gateway, {own_tables} TO image_gateway_charger;
GRANT EXECUTE ON FUNCTION image_gateway.charge, image_gateway.own_schema,
    schema_version, forget_charges
    TO image_gateway_charger;
GRANT SELECT, INSERT ON charged_files TO image_gateway_charger;

COMMIT;
