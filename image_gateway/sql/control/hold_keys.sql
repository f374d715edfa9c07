-- Those of the named keys that exist, locked until the transaction ends.  Always in the same order,
-- so that two transactions that charge the same keys do not deadlock.  Parameter: key_ids.
SELECT key_id
FROM image_control.keys
WHERE key_id = ANY(%(key_ids)s::text[])
ORDER BY key_id
FOR NO KEY UPDATE
