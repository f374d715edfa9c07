-- Refuses a control plane that lacks what an adapter reads of it, with all that it lacks: tables and
-- columns of schema public, and the right to read them, because the views read with their owner's
-- rights, so that a missing one would show only later.  The settings image_gateway.title (its name
-- for people), image_gateway.needed (JSON: the columns by their tables) and image_gateway.cure (how it
-- gets them) come before.
DO $$
DECLARE
    missing text;
    unreadable text;
    complaint text;
BEGIN
    WITH found AS (
        SELECT table_name, column_names,
               to_regclass('public.' || quote_ident(table_name)) AS relation
        FROM jsonb_each(current_setting('image_gateway.needed')::jsonb) AS listed (table_name, column_names)
    ), gaps AS (
        SELECT 'table ' || table_name AS gap
        FROM found
        WHERE relation IS NULL
        UNION ALL
        SELECT 'column ' || table_name || '.' || column_name
        FROM found CROSS JOIN jsonb_array_elements_text(column_names) AS column_name
        WHERE relation IS NOT NULL
          AND NOT EXISTS (SELECT FROM pg_attribute
                          WHERE attrelid = relation AND attname = column_name
                            AND attnum > 0 AND NOT attisdropped)
    )
    SELECT string_agg(gap, ', ' ORDER BY gap),
           (SELECT string_agg(table_name, ', ' ORDER BY table_name)
            FROM found WHERE NOT has_table_privilege(relation, 'SELECT'))
    INTO missing, unreadable
    FROM gaps;

    IF missing IS NOT NULL THEN
        complaint := format('schema public lacks what this adapter reads of %s: %s. %s, then this'
            ' file again.', current_setting('image_gateway.title'), missing,
            current_setting('image_gateway.cure'));
    ELSIF unreadable IS NOT NULL THEN
        complaint := format('the role %I may not read %s; as their owner, grant it SELECT on them,'
            ' then run this file again.', current_user, unreadable);
    END IF;
    IF complaint IS NOT NULL THEN
        RAISE EXCEPTION USING MESSAGE = complaint, ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;
