-- Removes a group; fails while keys belong to it.  Parameter: group_id.
DELETE FROM groups
WHERE group_id = %(group_id)s
RETURNING group_id
