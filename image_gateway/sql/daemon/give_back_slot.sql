-- Releases one slot.  Parameters: base, slot.
SELECT pg_advisory_unlock(%(base)s::bigint + %(slot)s::int)
