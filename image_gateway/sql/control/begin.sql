-- Begins a transaction: time-outs for a locked row and for a statement in all, and the schema in
-- which the gateway's own tables are found.  Local to the transaction, because a transaction pooler
-- would keep a SET for its other clients.  Parameters: ms, and own_schema.
SELECT set_config('lock_timeout', %(lock_ms)s::text, true),
       set_config('statement_timeout', %(statement_ms)s::text, true),
       set_config('search_path', quote_ident(%(own_schema)s) || ', pg_temp', true)
