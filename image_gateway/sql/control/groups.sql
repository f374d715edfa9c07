-- All groups, each with its number of keys.
SELECT g.group_id, g.group_name, g.image_enabled, g.created_at, count(k.key_id) AS keys
FROM groups g
LEFT JOIN keys k USING (group_id)
GROUP BY g.group_id
ORDER BY g.group_id
