-- Charges calls, one array a column, after control_hold_keys.  The primary key leaves out calls
-- that were charged before; a call older than keep_days is refused, because its row may be deleted
-- already.  The rest is added to the keys' quotas in the same statement.  Gives the sums of each
-- key.
WITH batch AS (
    SELECT *, called_at < now() - make_interval(days => %(keep_days)s) AS is_old
    FROM unnest(
        %(request_ids)s::text[], %(key_ids)s::text[], %(tokens)s::bigint[], %(images)s::integer[],
        %(called_at)s::timestamptz[]
    ) AS call (request_id, key_id, tokens, images, called_at)
),
fresh AS (
    INSERT INTO image_control.charges (request_id, key_id, tokens, images, called_at)
    SELECT request_id, key_id, tokens, images, called_at FROM batch WHERE NOT is_old
    ON CONFLICT (request_id) DO NOTHING
    RETURNING key_id, tokens, images
),
charged AS (
    SELECT key_id, count(*) AS calls, sum(tokens)::bigint AS tokens, sum(images)::bigint AS images
    FROM fresh
    GROUP BY key_id
),
spent AS (
    UPDATE image_control.keys k
    SET quota_used = k.quota_used + charged.tokens
    FROM charged
    WHERE k.key_id = charged.key_id AND charged.tokens > 0
),
old AS (
    SELECT key_id, count(*) FILTER (WHERE is_old) AS old_calls FROM batch GROUP BY key_id
)
SELECT key_id, coalesce(calls, 0) AS calls, coalesce(tokens, 0) AS tokens,
       coalesce(images, 0) AS images, old_calls
FROM old
LEFT JOIN charged USING (key_id)
