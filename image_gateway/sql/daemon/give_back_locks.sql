-- Releases session advisory locks.  Parameter: locks.
SELECT pg_advisory_unlock(lock) FROM unnest(%(locks)s::bigint[]) AS lock
