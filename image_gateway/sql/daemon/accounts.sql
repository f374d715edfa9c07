-- All accounts, as one snapshot.  JSON comes as text, as in key.sql.  A view may lack the column
-- fails_free; before contract 2 it could not hold null, so that its false says nothing.
SELECT account_name, dialect, status, image_enabled, image_max_concurrency, base_url, api_version,
       deployments::text, credential::text, client_version, responses_model, codex_route,
       proxy_url, proxy_username, proxy_password, routing_weight,
       used_percent_primary, used_percent_secondary, same_account_retries,
       CASE WHEN to_jsonb(accounts) -> 'fails_free' = 'true' THEN true
            WHEN to_jsonb(accounts) -> 'fails_free' = 'false' AND version.number > 1 THEN false
       END AS fails_free,
       -- Python's datetime has neither infinity nor the year 10000.
       CASE WHEN blocked_until IS NOT NULL
            THEN least(greatest(blocked_until, '1970-01-01'), '9000-01-01') END AS blocked_until
FROM image_gateway.accounts
CROSS JOIN image_gateway.contract_version() AS version (number)
