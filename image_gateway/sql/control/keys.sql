-- All keys, or those of one group.  Parameter: group_id, null for all.
SELECT key_id, key_name, key_hash, status, image_enabled, group_id, quota_limit, quota_used,
       max_concurrency, min_start_interval_ms, allowed_models, model_map, account_names,
       route_strategy, created_at
FROM image_control.keys
WHERE %(group_id)s::text IS NULL OR group_id = %(group_id)s
ORDER BY key_id
