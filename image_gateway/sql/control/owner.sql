-- One owner, locked until the transaction ends.  Parameter: owner_id.
SELECT owner_id, owner_name, max_concurrency, created_at
FROM owners
WHERE owner_id = %(owner_id)s
FOR NO KEY UPDATE
