-- The keys that there are of those named, held until the transaction ends.  Always in one order, so
-- that two who charge the same keys wait for each other and never in a circle.  Parameter: key_ids.
SELECT key_id
FROM image_control.keys
WHERE key_id = ANY(%(key_ids)s::text[])
ORDER BY key_id
FOR NO KEY UPDATE
