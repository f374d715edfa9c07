-- One key by the hash of its secret.  Parameter: key_hash.  JSON comes as text and is parsed row
-- by row: one broken row must not make the others unreadable.  A view of contract 1 lacks the
-- columns of contract 2, which are null then.
SELECT key_hash, key_id, key_name, status, image_enabled, group_id, group_image_enabled,
       quota_remaining, max_concurrency, min_start_interval_ms, allowed_models, model_map::text,
       account_names, route_strategy,
       jsonb_build_object(
           'expires_at', later -> 'expires_at',
           'quota_allows', later -> 'quota_allows',
           'images_remaining', later -> 'images_remaining',
           'cost_remaining', later -> 'cost_remaining',
           'owner_id', later -> 'owner_id',
           'owner_max_concurrency', later -> 'owner_max_concurrency',
           'json_keepalive_seconds', later -> 'json_keepalive_seconds'
       )::text AS contract_2
FROM image_gateway.keys
CROSS JOIN LATERAL to_jsonb(keys) AS later
WHERE key_hash = %(key_hash)s
