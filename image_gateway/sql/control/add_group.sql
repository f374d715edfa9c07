-- Adds a group; no row if the id is taken.  Parameters: the columns.
INSERT INTO groups (group_id, group_name, image_enabled)
VALUES (%(group_id)s, %(group_name)s, %(image_enabled)s)
ON CONFLICT (group_id) DO NOTHING
RETURNING group_id
