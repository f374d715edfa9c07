-- Takes the lowest free slot of an account as a session advisory lock; no row if all are taken.
-- Parameters: base (the account's first lock key), limit (the number of slots), held (slots of this
-- session: it could take the same lock twice, so OFFSET keeps the planner from trying a lock before
-- the check against held).
--
-- in_use counts the account's locks of all sessions, with the new one.  It shows slots beyond a
-- limit that was lowered meanwhile.  It is counted after the lock is taken, so of several sessions
-- that take one at the same time at least one sees all.
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
            FROM generate_series(0, %(limit)s::int - 1) AS slot
            WHERE slot <> ALL (%(held)s::int[])
            OFFSET 0) AS free
      WHERE pg_try_advisory_lock(%(base)s::bigint + slot)
      LIMIT 1) AS taken
