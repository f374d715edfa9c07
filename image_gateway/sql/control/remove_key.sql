-- Removes a key; its charges stay.  Parameter: key_id.
DELETE FROM keys
WHERE key_id = %(key_id)s
RETURNING key_id
