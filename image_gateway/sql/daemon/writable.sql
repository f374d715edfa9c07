-- What the current role could change, for `image-gateway check`; no row if it can only read.
SELECT 'it is a superuser' AS finding
FROM pg_roles WHERE rolname = current_user AND rolsuper
UNION ALL
SELECT DISTINCT 'it may write to tables in schema ' || quote_ident(n.nspname)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'f')
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
  AND has_schema_privilege(n.oid, 'USAGE')
  AND (has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
       OR has_any_column_privilege(c.oid, 'INSERT, UPDATE'))
UNION ALL
SELECT 'it may create tables in schema ' || quote_ident(n.nspname)
FROM pg_namespace n
WHERE n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
  AND has_schema_privilege(n.oid, 'CREATE')
UNION ALL
SELECT 'it may create schemas in this database'
WHERE has_database_privilege(current_database(), 'CREATE')
ORDER BY finding
