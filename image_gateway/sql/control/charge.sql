-- Charges one call; gives the word of what became of it.  Parameters: those of the function, and ms
-- to wait for a locked row.  The settings hold for this transaction alone; OFFSET keeps the planner
-- from charging before they are set.
SELECT image_gateway.charge(
           request_id => %(request_id)s::text,
           key_id => %(key_id)s::text,
           at => %(called_at)s::timestamptz,
           model => %(model)s::text,
           account_name => %(account_name)s::text,
           tokens => %(tokens)s::jsonb,
           images => %(images)s::integer,
           cost => %(cost)s::numeric
       ) AS word
FROM (SELECT set_config('synchronous_commit', 'off', true),
             set_config('lock_timeout', %(lock_ms)s::text, true)
      OFFSET 0) AS settings
