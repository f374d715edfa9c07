-- Changes a key, but not the quota that it has used.  Parameters: the columns.
UPDATE image_control.keys
SET key_hash = %(key_hash)s,
    status = %(status)s,
    image_enabled = %(image_enabled)s,
    group_id = %(group_id)s,
    quota_limit = %(quota_limit)s,
    max_concurrency = %(max_concurrency)s,
    min_start_interval_ms = %(min_start_interval_ms)s,
    allowed_models = %(allowed_models)s,
    model_map = %(model_map)s,
    account_names = %(account_names)s,
    route_strategy = %(route_strategy)s
WHERE key_id = %(key_id)s
RETURNING key_id
