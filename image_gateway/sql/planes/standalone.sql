-- A control plane for the image gateway, if you have none.  It creates the tables (schema
-- image_control), the contract (schema image_gateway) and the triggers that notify running gateways
-- of every change at once.  It may be run again, also over an older installation, whose rows stay
-- unchanged.

BEGIN;

CREATE SCHEMA IF NOT EXISTS image_control;
CREATE SCHEMA IF NOT EXISTS image_gateway;
SET LOCAL search_path = image_control, pg_temp;
SET LOCAL image_gateway.plane = 'standalone';

\ir ../parts/version.sql
\ir ../parts/accounts.sql
\ir ../parts/charges.sql
\ir ../parts/keys.sql

CREATE OR REPLACE FUNCTION image_gateway.contract_version() RETURNS integer
    LANGUAGE sql IMMUTABLE AS 'SELECT 2';

CREATE OR REPLACE VIEW image_gateway.accounts AS
SELECT account_name, dialect, status, image_enabled, image_max_concurrency, base_url, api_version,
       deployments, credential, client_version, responses_model, codex_route,
       proxy_url, proxy_username, proxy_password, routing_weight,
       used_percent_primary, used_percent_secondary, same_account_retries,
       blocked_until, last_error, fails_free
FROM accounts;

COMMIT;
