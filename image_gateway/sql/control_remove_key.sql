-- Take a key away; what it was charged stays.  Parameter: key_id.
DELETE FROM image_control.keys
WHERE key_id = %(key_id)s
RETURNING key_id
