-- One group, locked until the transaction ends.  Parameter: group_id.
SELECT group_id, group_name, image_enabled, created_at
FROM groups
WHERE group_id = %(group_id)s
FOR NO KEY UPDATE
