-- How long the statements of this transaction wait: for a row that somebody holds, and in all.  Within
-- the transaction, for a transaction pooler would keep a SET for its other clients.  Parameters: in ms.
SELECT set_config('lock_timeout', %(lock_ms)s::text, true),
       set_config('statement_timeout', %(statement_ms)s::text, true)
