-- Adds an account; no row if the name is taken.  Parameters: the columns.
INSERT INTO accounts
    (account_name, dialect, status, image_enabled, image_max_concurrency, base_url, api_version,
     deployments, credential, responses_model, codex_route, proxy_url, routing_weight,
     fails_free)
VALUES
    (%(account_name)s, %(dialect)s, %(status)s, %(image_enabled)s, %(image_max_concurrency)s,
     %(base_url)s, %(api_version)s, %(deployments)s, %(credential)s, %(responses_model)s,
     %(codex_route)s, %(proxy_url)s, %(routing_weight)s, %(fails_free)s)
ON CONFLICT (account_name) DO NOTHING
RETURNING account_name
