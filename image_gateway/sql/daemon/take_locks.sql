-- Takes session advisory locks, one under each name, in the order of the names: the lowest that is
-- free.  Parameters: bases (the first lock of each name), limits (how many each name has), held (the
-- locks under these names that this session has).
--
-- One row for each name, with its lock; null where none is free, and there it ends.
--
-- A session could take the same lock twice, so what it has is left out, also what it has just taken
-- under a name that stands there twice.  OFFSET keeps the planner from trying a lock before that.
WITH RECURSIVE taken (at, lock, held) AS (
    SELECT 0, 0::bigint, %(held)s::bigint[]
    UNION ALL
    SELECT taken.at + 1, found.lock, taken.held || found.lock
    FROM taken
    LEFT JOIN LATERAL (
        SELECT free.lock
        FROM (SELECT place.lock
              FROM (SELECT (%(bases)s::bigint[])[taken.at + 1]
                           + generate_series(0, (%(limits)s::int[])[taken.at + 1] - 1) AS lock
                   ) AS place
              WHERE place.lock <> ALL (taken.held)
              OFFSET 0) AS free
        WHERE pg_try_advisory_lock(free.lock)
        LIMIT 1) AS found ON true
    WHERE taken.lock IS NOT NULL AND taken.at < cardinality(%(bases)s::bigint[])
)
SELECT lock FROM taken WHERE at > 0 ORDER BY at
