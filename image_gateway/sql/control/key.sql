-- One key, locked until the transaction ends: no other change comes between read and write.
-- Parameter: key_id.
SELECT key_id, key_name, key_hash, status, image_enabled, group_id, quota_limit, quota_used,
       max_concurrency, min_start_interval_ms, allowed_models, model_map, account_names,
       route_strategy, created_at
FROM image_control.keys
WHERE key_id = %(key_id)s
FOR NO KEY UPDATE
