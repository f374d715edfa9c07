-- `image-gateway control` asks first which schema holds the gateway's own tables, the newest plane's,
-- and which version they have.  Version 4 added what contract 2 has, and charges in pictures and
-- money.
DO $$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION image_gateway.own_schema() RETURNS text LANGUAGE sql IMMUTABLE'
        ' AS %L', format('SELECT %L', current_schema()));
END
$$;

CREATE OR REPLACE FUNCTION schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE AS 'SELECT 4';
