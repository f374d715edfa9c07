-- Whether the session that holds the slots is still there.
SELECT 1
