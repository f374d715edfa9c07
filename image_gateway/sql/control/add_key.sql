-- Adds a key; no row if the id is taken.  Parameters: the columns.
INSERT INTO image_control.keys
    (key_id, key_name, key_hash, status, image_enabled, group_id, quota_limit, max_concurrency,
     min_start_interval_ms, allowed_models, model_map, account_names, route_strategy)
VALUES
    (%(key_id)s, %(key_name)s, %(key_hash)s, %(status)s, %(image_enabled)s, %(group_id)s,
     %(quota_limit)s, %(max_concurrency)s, %(min_start_interval_ms)s, %(allowed_models)s,
     %(model_map)s, %(account_names)s, %(route_strategy)s)
ON CONFLICT (key_id) DO NOTHING
RETURNING key_id
