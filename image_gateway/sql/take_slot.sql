-- One of an account's slots as a session advisory lock, the lowest that is free; no row where all are
-- taken.  Parameters: base (the account's first lock key), most (how many slots there are), held
-- (numbers this session has already: it could take the same lock twice, so OFFSET keeps the planner
-- from trying a lock before it has looked there).
--
-- in_use counts the account's locks of all sessions, this one's newest among them.  It tells of slots
-- beyond a limit that was lowered meanwhile; it is counted after the lock was taken, so of several
-- sessions that take one at once at least one sees all.
SELECT taken.slot,
       (SELECT count(*)
        FROM pg_locks l
        WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
          AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
          AND l.classid::bigint = (%(base)s::bigint >> 32) & 4294967295
          AND l.objid::bigint - (%(base)s::bigint & 4294967295) BETWEEN 0 AND 1023
          AND taken.slot >= 0) AS in_use
FROM (SELECT slot
      FROM (SELECT slot
            FROM generate_series(0, %(most)s::int - 1) AS slot
            WHERE slot <> ALL (%(held)s::int[])
            OFFSET 0) AS free
      WHERE pg_try_advisory_lock(%(base)s::bigint + slot)
      LIMIT 1) AS taken
