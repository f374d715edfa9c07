-- All owners, each with the number of its keys.
SELECT o.owner_id, o.owner_name, o.max_concurrency, o.created_at, count(k.key_id) AS keys
FROM owners o
LEFT JOIN keys k USING (owner_id)
GROUP BY o.owner_id
ORDER BY o.owner_id
