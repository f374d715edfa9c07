-- One key, locked until the transaction ends: no other change comes between read and write.
-- Parameter: key_id.
SELECT k.key_id, k.key_name, k.key_hash, k.status, k.image_enabled, k.group_id, k.owner_id,
       -- Python's datetime has neither infinity nor the year 10000.
       CASE WHEN k.expires_at IS NOT NULL
            THEN least(greatest(k.expires_at, '1970-01-01'), '9000-01-01') END AS expires_at,
       k.quota_limit, k.quota_used,
       k.image_limit, coalesce(u.images_used, 0) AS images_used,
       k.image_limit_day, coalesce(u.images_used_day, 0) AS images_used_day,
       k.image_limit_month, coalesce(u.images_used_month, 0) AS images_used_month,
       k.cost_limit, coalesce(u.cost_used, 0) AS cost_used,
       k.cost_limit_day, coalesce(u.cost_used_day, 0) AS cost_used_day,
       k.cost_limit_month, coalesce(u.cost_used_month, 0) AS cost_used_month,
       k.max_concurrency, k.min_start_interval_ms, k.json_keepalive_seconds, k.allowed_models,
       k.model_map, k.account_names, k.route_strategy, k.created_at
FROM keys k
LEFT JOIN LATERAL (SELECT * FROM key_used used WHERE used.key_id = k.key_id) u ON true
WHERE k.key_id = %(key_id)s
FOR NO KEY UPDATE OF k
