-- Adds a key; no row if the id is taken.  Parameters: the columns.
INSERT INTO keys
    (key_id, key_name, key_hash, status, image_enabled, group_id, owner_id, expires_at,
     quota_limit, image_limit, image_limit_day, image_limit_month, cost_limit, cost_limit_day,
     cost_limit_month, max_concurrency, min_start_interval_ms, json_keepalive_seconds,
     allowed_models, model_map, account_names, route_strategy)
VALUES
    (%(key_id)s, %(key_name)s, %(key_hash)s, %(status)s, %(image_enabled)s, %(group_id)s,
     %(owner_id)s, %(expires_at)s, %(quota_limit)s, %(image_limit)s, %(image_limit_day)s,
     %(image_limit_month)s, %(cost_limit)s, %(cost_limit_day)s, %(cost_limit_month)s,
     %(max_concurrency)s, %(min_start_interval_ms)s, %(json_keepalive_seconds)s,
     %(allowed_models)s, %(model_map)s, %(account_names)s, %(route_strategy)s)
ON CONFLICT (key_id) DO NOTHING
RETURNING key_id
