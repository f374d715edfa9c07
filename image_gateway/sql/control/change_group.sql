-- Changes a group.  Parameters: the columns.
UPDATE groups
SET group_name = %(group_name)s, image_enabled = %(image_enabled)s
WHERE group_id = %(group_id)s
RETURNING group_id
