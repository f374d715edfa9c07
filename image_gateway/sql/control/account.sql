-- One account, locked until the transaction ends.  Parameter: account_name.
SELECT account_name, dialect, status, image_enabled, image_max_concurrency, base_url, api_version,
       deployments, credential, client_version, responses_model, codex_route,
       proxy_url, proxy_username, proxy_password, routing_weight,
       used_percent_primary, used_percent_secondary, same_account_retries, fails_free,
       -- Python's datetime has neither infinity nor the year 10000.
       CASE WHEN blocked_until IS NOT NULL
            THEN least(greatest(blocked_until, '1970-01-01'), '9000-01-01') END AS blocked_until,
       created_at
FROM accounts
WHERE account_name = %(account_name)s
FOR NO KEY UPDATE
