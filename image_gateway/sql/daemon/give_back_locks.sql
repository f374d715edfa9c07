-- Releases session advisory locks, and counts those that were held.  Parameter: locks.
SELECT count(*) FILTER (WHERE pg_advisory_unlock(lock)) FROM unnest(%(locks)s::bigint[]) AS lock
