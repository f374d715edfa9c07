-- One database serves one control plane: a second one would replace the views of the first, and all
-- of its keys would be unknown.  Only the standalone tables, with which many begin, give way.
DO $$
DECLARE
    wanted text := current_setting('image_gateway.plane');
    installed text;
BEGIN
    IF to_regprocedure('image_gateway.plane_name()') IS NOT NULL THEN
        EXECUTE 'SELECT image_gateway.plane_name()' INTO installed;
    ELSIF to_regclass('image_gateway.keys') IS NOT NULL THEN
        -- Installed before it was remembered.
        installed := CASE WHEN to_regclass('image_adapter.codex_options') IS NOT NULL
                          THEN 'llm_access' ELSE 'standalone' END;
    END IF;
    IF installed NOT IN ('standalone', wanted) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format(
            'the control plane of this database is %1$s, and %2$s would replace its views. To '
            'update it, run `image-gateway schema %1$s`; to give it up, run `image-gateway schema '
            '%1$s_uninstall`, then this file again.', installed, wanted);
    END IF;
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION image_gateway.plane_name() RETURNS text LANGUAGE sql IMMUTABLE'
        ' AS %L', format('SELECT %L', wanted));
    -- `image-gateway control` asks which schema holds the gateway's own tables.
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION image_gateway.own_schema() RETURNS text LANGUAGE sql IMMUTABLE'
        ' AS %L', format('SELECT %L', current_schema()));
END
$$;

-- Their version.  Version 4 added what contract 2 has, and charges in pictures and money.
CREATE OR REPLACE FUNCTION schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE AS 'SELECT 4';
