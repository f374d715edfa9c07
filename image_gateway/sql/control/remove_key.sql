-- Removes a key; its charges stay.  Parameter: key_id.
DELETE FROM image_control.keys
WHERE key_id = %(key_id)s
RETURNING key_id
