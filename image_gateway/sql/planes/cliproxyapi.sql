-- CLIProxyAPI as a source of accounts for the image gateway: the contract (schema image_gateway) as
-- views over the Codex credentials of its Postgres store, and tables of its own (schema
-- image_adapter) for keys and for what CLIProxyAPI does not have.  It does not change CLIProxyAPI.
-- It may be run again.
--
-- Run it on the database of the store, as a role that may read its tables and create schemas, with
-- the store's schema on the search_path; then reader.sql.  cliproxyapi_notify.sql and charger.sql
-- are optional.
--
-- No value in the store makes a view fail: what cannot be read counts as absent, or takes its own
-- account out of service.

BEGIN;

-- Reports everything that is missing, before anything is created.  A later run may be without the
-- search_path of the first: then the tables that were found by it are still read.
DO $$
DECLARE
    complaint text;
BEGIN
    WITH needed (table_name, column_names) AS (
        VALUES ('auth_store', ARRAY['id', 'content']),
               ('config_store', ARRAY['id', 'content'])
    ), found AS (
        SELECT table_name, column_names,
               coalesce(to_regclass(table_name), to_regclass('image_adapter.' || table_name))
                   AS relation
        FROM needed
    )
    SELECT coalesce(
        'no schema of the search_path (' || current_setting('search_path') || ') has '
            || (SELECT string_agg('the table ' || table_name, ' and ' ORDER BY table_name)
                FROM found WHERE relation IS NULL)
            || '. CLIProxyAPI makes them in the database of its PGSTORE_DSN, in the schema'
            || ' PGSTORE_SCHEMA, which is public if it is not set. For another schema run this file'
            || ' with it on the search_path, such as PGOPTIONS=''-c search_path=NAME'' psql.',
        'the store of CLIProxyAPI lacks '
            || (SELECT string_agg(format('the column %s of %s', column_name, relation), ', '
                                  ORDER BY relation::text, column_name)
                FROM found CROSS JOIN unnest(column_names) AS column_name
                WHERE NOT EXISTS (SELECT FROM pg_attribute
                                  WHERE attrelid = relation AND attname = column_name
                                    AND attnum > 0 AND NOT attisdropped))
            || '. Update CLIProxyAPI and start it once, then run this file again.',
        -- The views read with their owner's rights, so a missing right would show only later.
        format('the role %I may not read ', current_user)
            || (SELECT string_agg(relation::text, ', ' ORDER BY relation::text)
                FROM found WHERE NOT has_table_privilege(relation, 'SELECT'))
            || '; as their owner, grant it SELECT on them, then run this file again.'
    ) INTO complaint;
    IF complaint IS NOT NULL THEN
        RAISE EXCEPTION USING MESSAGE = complaint, ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS image_adapter;
CREATE SCHEMA IF NOT EXISTS image_gateway;

-- The store's tables by names that do not depend on a search_path.
DO $$
BEGIN
    IF to_regclass('auth_store') IS NOT NULL AND to_regclass('config_store') IS NOT NULL THEN
        EXECUTE format('CREATE OR REPLACE VIEW image_adapter.auth_store AS'
                       ' SELECT id::text AS id, content FROM %s', to_regclass('auth_store'));
        EXECUTE format('CREATE OR REPLACE VIEW image_adapter.config_store AS'
                       ' SELECT id, content FROM %s', to_regclass('config_store'));
    END IF;
END
$$;

SET LOCAL search_path = image_adapter, pg_temp;
SET LOCAL image_gateway.plane = 'cliproxyapi';

\ir ../parts/version.sql
\ir ../parts/accounts.sql
\ir ../parts/charges.sql
\ir ../parts/reading.sql
\ir ../parts/keys.sql
\ir ../parts/account_options.sql

-- -- Reading the store ----------------------------------------------------------------------------

CREATE OR REPLACE VIEW codex_files AS
SELECT id, content FROM auth_store WHERE lower(text_at(content, 'type')) = 'codex';

-- The proxy-url of the configuration, which is YAML: a line of its own at the top level.  Null if
-- there is none.  A value in another form than a plain or a quoted one is given as it is written,
-- and is no proxy's URL then.  Nor is what is given for a value on further lines, and for a
-- configuration whose top level is written otherwise, such as JSON, and has a proxy-url somewhere.
CREATE OR REPLACE FUNCTION configured_proxy(configuration text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (
        SELECT CASE WHEN is_beyond THEN 'unreadable'
                    WHEN line ~ '^"[^"\\]*"\s*(#.*)?$' THEN nullif(btrim(split_part(line, '"', 2)), '')
                    WHEN line ~ '^''[^'']*''\s*(#.*)?$'
                    THEN nullif(btrim(split_part(line, '''', 2)), '')
                    WHEN line ~ '^(~|null)?\s*(#.*)?$' THEN NULL
                    WHEN line ~ '^\S+\s+#' THEN split_part(regexp_replace(line, '\s', ' '), ' ', 1)
                    ELSE line END
        FROM (
            SELECT btrim(parts[1], E' \t\r') AS line,
                   parts[2] IS NOT NULL
                   -- The first line that says something is no key of the top level.
                   OR strpos(configuration, 'proxy-url') > 0
                      AND (regexp_match(configuration,
                                        '^(?![ \t\r]*(?:#|%|---[ \t\r]*$|$))[^\n]*$', 'n'))[1]
                          !~ '^["'']?[A-Za-z]' AS is_beyond
            FROM regexp_match(
                configuration,
                '^["'']?proxy-url["'']?[ \t]*:([^\n]*)(\n(?:[ \t\r]*(?:#[^\n]*)?\n)*[ \t]+[^\s#])?',
                'n') AS parts
        ) AS found
    );

-- A view calls functions with the rights of the role that reads it.
GRANT EXECUTE ON FUNCTION configured_proxy TO PUBLIC;

-- -- Views ----------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION image_gateway.contract_version() RETURNS integer
    LANGUAGE sql IMMUTABLE AS 'SELECT 2';

CREATE OR REPLACE VIEW image_gateway.accounts AS
WITH configuration AS MATERIALIZED (
    SELECT configured_proxy(content) AS proxy FROM config_store WHERE id = 'config'
)
SELECT f.id AS account_name,
       'codex' AS dialect,
       CASE WHEN f.content -> 'disabled' = 'true' THEN 'disabled'
            -- An account whose proxy cannot be read must not connect without it.
            WHEN way.needs_proxy AND proxy.url IS NULL THEN 'proxy_unavailable'
            WHEN text_at(f.content, 'access_token') IS NULL THEN 'no_credential'
            ELSE 'active' END AS status,
       coalesce(o.image_enabled, true) AS image_enabled,
       o.image_max_concurrency,
       NULL::text AS base_url,
       NULL::text AS api_version,
       NULL::jsonb AS deployments,
       -- Only what a call needs: the refresh token stays in CLIProxyAPI.  When a token ends, it says
       -- itself; the field "expired" beside it may be older.
       CASE WHEN text_at(f.content, 'access_token') IS NOT NULL THEN jsonb_strip_nulls(
           jsonb_build_object('access_token', text_at(f.content, 'access_token'),
                              'account_id', text_at(f.content, 'account_id')))
       END AS credential,
       NULL::text AS client_version,
       o.responses_model,
       o.codex_route,
       proxy.url AS proxy_url,
       proxy.username AS proxy_username,
       proxy.password AS proxy_password,
       -- In double precision's range.
       coalesce(o.routing_weight, CASE WHEN number_at(f.content, 'weight') > 0 THEN least(greatest(
           number_at(f.content, 'weight'), 0.000001), 1000000)::double precision END)
           AS routing_weight,
       NULL::double precision AS used_percent_primary,
       NULL::double precision AS used_percent_secondary,
       o.same_account_retries,
       NULL::timestamptz AS blocked_until,
       NULL::text AS last_error,
       o.fails_free
FROM codex_files f
LEFT JOIN account_options o ON o.account_name = f.id
LEFT JOIN configuration c ON true
-- The credential's own proxy, else the configuration's.  A value that is not a text is unreadable,
-- and must not mean direct.
CROSS JOIN LATERAL (
    SELECT CASE WHEN jsonb_typeof(f.content -> 'proxy_url') NOT IN ('string', 'null')
                THEN 'unreadable'
                ELSE coalesce(text_at(f.content, 'proxy_url'), c.proxy) END AS proxy
) chosen
CROSS JOIN LATERAL (
    SELECT coalesce(lower(chosen.proxy) NOT IN ('direct', 'none'), false) AS needs_proxy
) way
LEFT JOIN LATERAL proxy_of(chosen.proxy) proxy ON way.needs_proxy
UNION ALL
SELECT account_name, dialect, status, image_enabled, image_max_concurrency, base_url, api_version,
       deployments, credential, client_version, responses_model, codex_route,
       proxy_url, proxy_username, proxy_password, routing_weight,
       used_percent_primary, used_percent_secondary, same_account_retries,
       blocked_until, last_error, fails_free
FROM accounts own
-- A name means one account, and a credential of the store keeps its own.
WHERE NOT EXISTS (SELECT FROM codex_files f WHERE f.id = own.account_name);

CREATE OR REPLACE VIEW image_gateway.warnings AS
SELECT format('the credential "%s" of CLIProxyAPI is no JSON object; it is left out', left(id, 200))
           AS warning
FROM auth_store
WHERE jsonb_typeof(content) <> 'object';

-- -- Triggers on the adapter's own tables ---------------------------------------------------------

CREATE OR REPLACE FUNCTION refuse_taken_name() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM codex_files f WHERE f.id = NEW.account_name) THEN
        RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
            'the account name "%s" belongs to a credential of CLIProxyAPI; use another',
            NEW.account_name);
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER refuse_taken_name
    BEFORE INSERT OR UPDATE OF account_name ON accounts
    FOR EACH ROW EXECUTE FUNCTION refuse_taken_name();

COMMIT;
