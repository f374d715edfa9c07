-- Removes an owner; fails while keys belong to it.  Parameter: owner_id.
DELETE FROM owners
WHERE owner_id = %(owner_id)s
RETURNING owner_id
