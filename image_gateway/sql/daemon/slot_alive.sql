-- Checks that the session that holds the slots still exists.
SELECT 1
