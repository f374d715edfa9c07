-- One key by the hash of its secret.  Parameter: key_hash.  JSON comes as text and is parsed row
-- by row: one broken row must not make the others unreadable.
SELECT key_hash, key_id, key_name, status, image_enabled, group_id, group_image_enabled,
       quota_remaining, max_concurrency, min_start_interval_ms, allowed_models, model_map::text,
       account_names, route_strategy
FROM image_gateway.keys
WHERE key_hash = %(key_hash)s
