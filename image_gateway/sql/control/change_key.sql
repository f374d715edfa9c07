-- Changes a key, but not what it has used.  Parameters: the columns.
UPDATE keys
SET key_hash = %(key_hash)s,
    status = %(status)s,
    image_enabled = %(image_enabled)s,
    group_id = %(group_id)s,
    owner_id = %(owner_id)s,
    expires_at = %(expires_at)s,
    quota_limit = %(quota_limit)s,
    image_limit = %(image_limit)s,
    image_limit_day = %(image_limit_day)s,
    image_limit_month = %(image_limit_month)s,
    cost_limit = %(cost_limit)s,
    cost_limit_day = %(cost_limit_day)s,
    cost_limit_month = %(cost_limit_month)s,
    max_concurrency = %(max_concurrency)s,
    min_start_interval_ms = %(min_start_interval_ms)s,
    json_keepalive_seconds = %(json_keepalive_seconds)s,
    allowed_models = %(allowed_models)s,
    model_map = %(model_map)s,
    account_names = %(account_names)s,
    route_strategy = %(route_strategy)s
WHERE key_id = %(key_id)s
RETURNING key_id
