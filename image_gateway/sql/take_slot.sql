-- One of an account's slots as a session advisory lock, tried in the given order; no row where all
-- are taken.  Parameters: base (the account's first lock key), slots (numbers this session does not
-- hold yet: a session may take the same lock twice).
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
      FROM unnest(%(slots)s::int[]) AS slot
      WHERE pg_try_advisory_lock(%(base)s::bigint + slot)
      LIMIT 1) AS taken
