-- Changes an owner.  Parameters: the columns.
UPDATE owners
SET owner_name = %(owner_name)s, max_concurrency = %(max_concurrency)s
WHERE owner_id = %(owner_id)s
RETURNING owner_id
