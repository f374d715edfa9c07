-- Counts the advisory locks in the lock table: all of the server's (locks), and by name those of
-- this database of which one lies beyond the first place (base, in_use, highest).  At least one row.
WITH advisory AS MATERIALIZED (
    SELECT l.database, l.objsubid, (l.classid::bigint << 32) | l.objid::bigint AS lock
    FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted
), named AS (
    SELECT a.lock & -1024 AS base, count(*) AS in_use, max(a.lock & 1023) AS highest
    FROM advisory a
    WHERE a.objsubid = 1
      AND a.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
    GROUP BY 1
    HAVING max(a.lock & 1023) > 0
)
SELECT counted.locks, named.base, named.in_use, named.highest
FROM (SELECT count(*) AS locks FROM advisory) AS counted
LEFT JOIN named ON true
