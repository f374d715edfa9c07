-- Adds an owner; no row if the id is taken.  Parameters: the columns.
INSERT INTO owners (owner_id, owner_name, max_concurrency)
VALUES (%(owner_id)s, %(owner_name)s, %(max_concurrency)s)
ON CONFLICT (owner_id) DO NOTHING
RETURNING owner_id
