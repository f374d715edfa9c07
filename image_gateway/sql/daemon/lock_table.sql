-- The size of the lock table that all databases of the server have in common, as Postgres' manual
-- reckons it (max_locks_per_transaction).
SELECT current_setting('max_locks_per_transaction')::int
       * (current_setting('max_connections')::int
          + current_setting('max_prepared_transactions')::int) AS size
