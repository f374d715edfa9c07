-- Time-outs for the statements of this transaction: for a locked row, and in all.  Local to the
-- transaction, because a transaction pooler would keep a SET for its other clients.  Parameters:
-- ms.
SELECT set_config('lock_timeout', %(lock_ms)s::text, true),
       set_config('statement_timeout', %(statement_ms)s::text, true)
